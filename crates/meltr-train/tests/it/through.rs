//! Hypergradients through the inner step, held-out batches, weights of a fixed sum.

use meltr_aid::EstimatorConfig;
use meltr_core::{FineTuneTask, Pass, load_state_dict, vec_f64};
use meltr_train::record::{MetaRecord, Record};
use meltr_train::{
    CombinerConfig, CombinerName, MeltrSettings, OuterBatches, OuterConfig, Run, Through,
    TrainConfig, read_state_dict,
};

use crate::toy::{Plan, ToyModel, ToyTask};

fn plan(through: Through, per_unit_step: bool) -> Plan {
    let plan = Plan::default();
    Plan {
        train: TrainConfig {
            iterations: 9,
            checkpoint_every: 1,
            keep_last: 9,
            ..plan.train
        },
        outer: OuterConfig {
            every: 1,
            ..plan.outer
        },
        combiner: CombinerConfig {
            name: CombinerName::Meltr,
            meltr: MeltrSettings {
                through,
                per_unit_step,
                ..plan.combiner.meltr
            },
            ..plan.combiner
        },
        ..plan
    }
}

fn metas(plan: &Plan, task: &ToyTask) -> Vec<MetaRecord> {
    let folder = tempfile::tempdir().unwrap();
    let run = plan.undisturbed(task, folder.path());
    let records = Run::read(&run).unwrap().records;
    records
        .into_iter()
        .filter_map(|record| match record {
            Record::Meta(meta) => Some(meta),
            _ => None,
        })
        .collect()
}

#[test]
fn weights_start_in_proportion_stay_positive_and_keep_their_sum() {
    for through in [Through::Minimum, Through::Descent, Through::Step] {
        let found = metas(&plan(through, false), &ToyTask::default());
        assert_eq!(found.len(), 9);
        for (weight, expected) in found[0].sensitivities.iter().zip([2.5, 0.25, 0.25]) {
            assert!((weight - expected).abs() < 1e-6, "{weight}");
        }
        for meta in &found {
            let sum: f64 = meta.sensitivities.iter().sum();
            assert!((sum - 3.0).abs() < 1e-5, "{sum}");
            assert!(meta.sensitivities.iter().all(|weight| *weight > 0.0));
        }
        assert_ne!(found[0].sensitivities, found[8].sensitivities);
    }
}

#[test]
fn per_unit_step_the_update_itself_gains_nothing() {
    let task = ToyTask {
        dropout: true,
        ..ToyTask::default()
    };
    for through in [Through::Descent, Through::Step] {
        for meta in metas(&plan(through, true), &task) {
            // <g, P (v - rho g)> = 0, and g is the sum of the weighted gradients.
            let terms = meta.sensitivities.iter().zip(&meta.directional);
            let terms: Vec<f64> = terms.map(|(weight, c)| weight * c).collect();
            let (sum, size) = terms
                .iter()
                .fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
            assert!(sum.abs() < 1e-4 * size, "{terms:?}");
        }
    }
}

#[test]
fn the_outer_objective_is_that_of_the_held_out_batch_after_the_step() {
    let task = ToyTask {
        held_out: true,
        ..ToyTask::default()
    };
    for through in [Through::Minimum, Through::Step] {
        let folder = tempfile::tempdir().unwrap();
        let run = plan(through, false).undisturbed(&task, folder.path());
        let records = Run::read(&run).unwrap().records;
        let objectives = records.iter().filter_map(|record| match record {
            Record::Meta(meta) => Some(meta.outer_objective),
            _ => None,
        });
        for (step, objective) in objectives.enumerate() {
            let file = format!("checkpoints/step-{:08}/inner.safetensors", step + 1);
            let dict = read_state_dict(&run.join(file)).unwrap();
            let (model, report) = load_state_dict(ToyModel::new(), &dict, str::to_owned);
            assert!(report.is_complete());
            let batch = task.outer_batch(step, 0).unwrap().unwrap();
            let loss = task.primary_loss(&model, &batch, Pass::Evaluation);
            let expected = vec_f64(loss.into_data())[0];
            assert!(
                (objective - expected).abs() < 1e-6,
                "{objective} {expected}"
            );
        }
    }
}

#[test]
fn held_out_batches_are_taken_where_they_are_asked_for_and_there() {
    let asking = |batches, held_out| {
        let mut plan = plan(Through::Step, true);
        plan.combiner.meltr.batches = batches;
        let task = ToyTask {
            held_out,
            ..ToyTask::default()
        };
        let folder = tempfile::tempdir().unwrap();
        plan.go(&task, &folder.path().join("run"), usize::MAX)
    };
    let error = asking(OuterBatches::HeldOut, false).error();
    assert!(error.contains("`task.outer_splits`"), "{error}");
    let objectives = |batches, held_out| {
        let mut plan = plan(Through::Step, true);
        plan.combiner.meltr.batches = batches;
        let task = ToyTask {
            held_out,
            ..ToyTask::default()
        };
        let found = metas(&plan, &task);
        found
            .iter()
            .map(|meta| meta.outer_objective)
            .collect::<Vec<_>>()
    };
    let history = objectives(OuterBatches::History, true);
    assert_eq!(history, objectives(OuterBatches::HeldOutIfAny, false));
    let held_out = objectives(OuterBatches::HeldOut, true);
    assert_eq!(held_out, objectives(OuterBatches::HeldOutIfAny, true));
    assert_ne!(history, held_out);
    let said = asking(OuterBatches::HeldOutIfAny, false).messages;
    assert!(
        said.iter().any(|text| text.contains("`task.outer_splits`")),
        "{said:?}"
    );
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let refused = |outer: OuterConfig| outer.validate().unwrap_err().to_string();
    let error = refused(OuterConfig {
        per_unit_step: true,
        ..OuterConfig::default()
    });
    assert!(error.contains("`per_unit_step`"), "{error}");
    assert!(error.contains("`through`"), "{error}");
    let error = refused(OuterConfig {
        through: Through::Step,
        estimator: EstimatorConfig::GaussNewton { damping: 0.1 },
        ..OuterConfig::default()
    });
    assert!(error.contains("`estimator`"), "{error}");
}
