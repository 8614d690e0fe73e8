//! Every combination of losses in the loop, against steps that are computed by hand.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use meltr_aid::ParamVector;
use meltr_core::weighting::{Gramian, LossWeighting, WeightingMethod};
use meltr_core::{FineTuneTask, Pass, StateDict, WarmStartConfig, vec_f64};
use meltr_train::record::{MetaRecord, Record, TrainRecord, WeightsRecord};
use meltr_train::{
    BertAdam, BertAdamConfig, CombinerConfig, CombinerName, OuterConfig, Run, StartOfPhi,
    TrainConfig, read_state_dict,
};

use crate::toy::{Plan, ToyModel, ToyTask};

/// The rules, which have weights in every inner step.
fn rules() -> Vec<CombinerName> {
    let is_rule = |name: &CombinerName| {
        let config = with(*name).combiner;
        config.rule(&tasks(), 0, 0).unwrap().is_some()
    };
    CombinerName::ALL.into_iter().filter(is_rule).collect()
}

fn tasks() -> Vec<String> {
    ToyTask::default().names()
}

/// A run with this combiner.
fn with(name: CombinerName) -> Plan {
    let plan = Plan::default();
    Plan {
        combiner: CombinerConfig {
            name,
            ..plan.combiner
        },
        ..plan
    }
}

/// The same with every step saved, so that the first can be looked at.
fn saving_every_step(plan: Plan) -> Plan {
    Plan {
        train: TrainConfig {
            iterations: 5,
            checkpoint_every: 1,
            keep_last: 9,
            ..plan.train
        },
        ..plan
    }
}

fn parameters_after(run: &Path, steps: usize) -> StateDict {
    let file = format!("checkpoints/step-{steps:08}/inner.safetensors");
    read_state_dict(&run.join(file)).unwrap()
}

fn assert_close(ours: &StateDict, theirs: &StateDict, names: &[&str], what: &str) {
    for name in names {
        let values = |dict: &StateDict| vec_f64(dict[*name].clone());
        for (ours, theirs) in values(ours).iter().zip(values(theirs)) {
            assert!(
                (ours - theirs).abs() < 1e-6,
                "{what}, {name}: {ours} {theirs}"
            );
        }
    }
}

fn trains(records: &[Record]) -> Vec<&TrainRecord> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Train(train) => Some(train),
            _ => None,
        })
        .collect()
}

fn weights(records: &[Record]) -> Vec<&WeightsRecord> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Weights(weights) => Some(weights),
            _ => None,
        })
        .collect()
}

fn metas(records: &[Record]) -> Vec<&MetaRecord> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Meta(meta) => Some(meta),
            _ => None,
        })
        .collect()
}

#[test]
fn every_combiner_lowers_the_primary_loss() {
    let task = ToyTask::default();
    let before = task.evaluate(&ToyModel::new(), "test").unwrap()["error"];
    for name in CombinerName::ALL {
        let folder = tempfile::tempdir().unwrap();
        let plan = with(name);
        let plan = Plan {
            train: TrainConfig {
                iterations: 60,
                eval_every: 0,
                checkpoint_every: 0,
                ..plan.train
            },
            combiner: CombinerConfig {
                // Of the default number of steps; a transformer that was fitted in a few might
                // start with sensitivities of either sign.
                warm_start: WarmStartConfig::default(),
                ..plan.combiner
            },
            ..plan
        };
        let run = plan.undisturbed(&task, folder.path());
        let summary = Run::read_summary(&run).unwrap().unwrap();
        assert_eq!(summary.combiner, name.name());
        let after = summary.metrics["test"]["error"];
        assert!(after < before, "{}: {before} to {after}", name.name());
    }
}

#[test]
fn a_rule_logs_its_weights_at_every_step_and_the_weighted_sum_as_combined_loss() {
    for name in rules() {
        let folder = tempfile::tempdir().unwrap();
        let task = ToyTask {
            conflict: true,
            ..ToyTask::default()
        };
        let run = with(name).undisturbed(&task, folder.path());
        let records = Run::read(&run).unwrap().records;
        let (trains, weights) = (trains(&records), weights(&records));
        assert_eq!(trains.len(), 14);
        assert_eq!(weights.len(), 14);
        for (train, weights) in trains.iter().zip(weights) {
            assert_eq!(train.iteration, weights.iteration);
            let sum: f64 = train
                .task_losses
                .iter()
                .zip(&weights.weights)
                .map(|(loss, weight)| loss * weight)
                .sum();
            assert!((train.combined_loss - sum).abs() < 1e-9, "{}", name.name());
        }
    }
}

#[test]
fn combiners_that_are_no_rules_log_no_weights() {
    for name in [CombinerName::Sum, CombinerName::AutoLambda] {
        let folder = tempfile::tempdir().unwrap();
        let run = with(name).undisturbed(&ToyTask::default(), folder.path());
        assert!(weights(&Run::read(&run).unwrap().records).is_empty());
    }
}

/// The first step of a run with a rule, from the formulas.
struct HandStep {
    losses: Vec<f64>,
    weights: Vec<f64>,
    parameters: StateDict,
}

impl HandStep {
    fn of(task: &ToyTask, plan: &Plan) -> Self {
        let model = ToyModel::new().train();
        let n_tasks = tasks().len();
        let mut losses = vec![0.0; n_tasks];
        let mut gradients = vec![ParamVector::zero(); n_tasks];
        let n_batches = plan.train.accumulate;
        let share = 1.0 / n_batches as f64;
        for number in 0..n_batches {
            let batch = task.batch(number, 0).unwrap();
            for (t, gradient) in gradients.iter_mut().enumerate() {
                let loss = task
                    .losses(&model, &batch, Pass::Evaluation)
                    .narrow(0, t, 1);
                losses[t] += share * loss.clone().into_scalar::<f64>();
                let own = ParamVector::from_gradients(&mut loss.backward(), &model);
                *gradient = gradient.clone().add_scaled(share, &own);
            }
        }
        let products: Vec<f64> = gradients
            .iter()
            .flat_map(|row| gradients.iter().map(move |column| row.dot(column)))
            .collect();
        let gramian = Gramian::from_products(n_tasks, &products).unwrap();
        let mut rule: WeightingMethod = plan
            .combiner
            .rule(&tasks(), task.primary(), 0)
            .unwrap()
            .unwrap();
        let weights = rule.weights(&losses, Some(&gramian)).unwrap();
        let mut sum = ParamVector::zero();
        for (gradient, weight) in gradients.iter().zip(&weights) {
            sum = sum.add_scaled(*weight, gradient);
        }
        let config = BertAdamConfig {
            t_warmup: plan.train.iterations,
            ..plan.inner.clone()
        };
        let mut optimizer = BertAdam::new(config, task.parameter_names(&model)).unwrap();
        let norm = sum.norm();
        let stepped = optimizer.step(model, sum, norm);
        Self {
            losses,
            weights,
            parameters: task.state_dict(&stepped.valid()),
        }
    }
}

fn assert_first_step(task: &ToyTask, plan: &Plan, what: &str) {
    let folder = tempfile::tempdir().unwrap();
    let run = plan.undisturbed(task, folder.path());
    let records = Run::read(&run).unwrap().records;
    let by_hand = HandStep::of(task, plan);
    for (ours, expected) in trains(&records)[0].task_losses.iter().zip(&by_hand.losses) {
        assert!((ours - expected).abs() < 1e-6, "{what}: {ours} {expected}");
    }
    for (ours, expected) in weights(&records)[0].weights.iter().zip(&by_hand.weights) {
        assert!(
            (ours - expected).abs() < 1e-5 * expected.abs().max(1.0),
            "{what}: {ours} {expected}"
        );
    }
    let ours = parameters_after(&run, 1);
    assert_close(
        &ours,
        &by_hand.parameters,
        &["offset", "weight", "bias"],
        what,
    );
}

/// The rules whose first weights do not depend on a seed. The order of projections does, but where
/// only two of the gradients conflict it makes no difference.
fn seedless() -> Vec<CombinerName> {
    rules()
        .into_iter()
        .filter(|name| *name != CombinerName::Random)
        .collect()
}

#[test]
fn the_update_of_every_rule_is_the_weighted_sum_of_the_gradients() {
    let task = ToyTask {
        conflict: true,
        ..ToyTask::default()
    };
    for name in seedless() {
        let plan = saving_every_step(with(name));
        assert_first_step(&task, &plan, name.name());
    }
}

#[test]
fn several_batches_a_step_are_weighed_by_their_means() {
    let task = ToyTask {
        conflict: true,
        ..ToyTask::default()
    };
    for name in seedless() {
        let plan = saving_every_step(with(name));
        let plan = Plan {
            train: TrainConfig {
                accumulate: 3,
                ..plan.train
            },
            ..plan
        };
        assert_first_step(&task, &plan, name.name());
    }
}

#[test]
fn conflicting_gradients_change_the_weights_of_gradient_surgery() {
    let task = ToyTask {
        conflict: true,
        ..ToyTask::default()
    };
    let plan = saving_every_step(with(CombinerName::PcGrad));
    let conflicting = HandStep::of(&task, &plan).weights;
    assert!(
        conflicting[0] > 1.0 && conflicting[2] > 1.0,
        "{conflicting:?}"
    );
    let peaceful = HandStep::of(&ToyTask::default(), &plan).weights;
    assert_eq!(peaceful, [1.0; 3]);
}

#[test]
fn fixed_weights_are_those_that_were_given() {
    let plan = with(CombinerName::Fixed);
    let plan = saving_every_step(Plan {
        combiner: CombinerConfig {
            auxiliary_weight: 0.25,
            weights: BTreeMap::from([("third".to_owned(), 2.0)]),
            ..plan.combiner
        },
        ..plan
    });
    let task = ToyTask::default();
    assert_eq!(HandStep::of(&task, &plan).weights, [1.0, 0.25, 2.0]);
    assert_first_step(&task, &plan, "fixed");
}

#[test]
fn equal_weights_are_the_plain_sum() {
    let folder = tempfile::tempdir().unwrap();
    let task = ToyTask {
        dropout: true,
        ..ToyTask::default()
    };
    let parameters = [CombinerName::Sum, CombinerName::Fixed].map(|name| {
        let folder = folder.path().join(name.name());
        parameters_after(&with(name).undisturbed(&task, &folder), 14)
    });
    assert_close(
        &parameters[0],
        &parameters[1],
        &["offset", "weight", "bias"],
        "sum",
    );
}

#[test]
fn an_auxiliary_weight_of_zero_is_the_primary_loss_alone() {
    let folder = tempfile::tempdir().unwrap();
    let task = ToyTask {
        dropout: true,
        ..ToyTask::default()
    };
    let parameters = [CombinerName::Primary, CombinerName::Fixed].map(|name| {
        let plan = with(name);
        let plan = Plan {
            combiner: CombinerConfig {
                auxiliary_weight: 0.0,
                ..plan.combiner
            },
            ..plan
        };
        let folder = folder.path().join(name.name());
        parameters_after(&plan.undisturbed(&task, &folder), 14)
    });
    // The offset is out of reach of the primary loss: a gradient of zero decays it, and no
    // gradient leaves it alone.
    assert_close(
        &parameters[0],
        &parameters[1],
        &["weight", "bias"],
        "primary",
    );
}

#[test]
fn famo_learns_from_the_losses_after_the_step() {
    let folder = tempfile::tempdir().unwrap();
    let task = ToyTask::default();
    let plan = saving_every_step(with(CombinerName::Famo));
    let run = plan.undisturbed(&task, folder.path());
    let records = Run::read(&run).unwrap().records;
    let logged = weights(&records);
    let losses: Vec<&Vec<f64>> = trains(&records)
        .into_iter()
        .map(|train| &train.task_losses)
        .collect();
    let mut rule = plan.combiner.rule(&tasks(), 0, 0).unwrap().unwrap();
    rule.weights(losses[0], None).unwrap();
    let (stepped, _) = task.load_state_dict(ToyModel::new(), &parameters_after(&run, 1));
    let batch = task.batch(0, 0).unwrap();
    let after = task.losses(&stepped, &batch, Pass::Evaluation);
    rule.observe(&vec_f64(after.into_data())).unwrap();
    let expected = rule.weights(losses[1], None).unwrap();
    for (ours, expected) in logged[1].weights.iter().zip(&expected) {
        assert!((ours - expected).abs() < 1e-5, "{ours} {expected}");
    }
}

#[test]
fn the_average_of_losses_goes_over_the_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let task = ToyTask::default();
    let run = with(CombinerName::DynamicWeightAverage).undisturbed(&task, folder.path());
    let records = Run::read(&run).unwrap().records;
    let logged = weights(&records);
    // Epochs of five steps; the weights are 1 in the first two of them.
    for record in &logged[..10] {
        assert_eq!(record.weights, [1.0; 3]);
    }
    let trains = trains(&records);
    let mean = |epoch: usize, task: usize| -> f64 {
        let steps = &trains[5 * epoch..5 * epoch + 5];
        steps
            .iter()
            .map(|train| train.task_losses[task])
            .sum::<f64>()
            / 5.0
    };
    let shares = [0, 1, 2].map(|task| (mean(1, task) / mean(0, task) / 2.0).exp());
    let total: f64 = shares.iter().sum();
    for (task, share) in shares.iter().enumerate() {
        let expected = 3.0 * share / total;
        let ours = logged[10].weights[task];
        assert!((ours - expected).abs() < 1e-9, "{ours} {expected}");
    }
}

#[test]
fn a_loss_outside_of_the_domain_of_a_rule_is_named_with_step_and_items() {
    let folder = tempfile::tempdir().unwrap();
    let plan = with(CombinerName::Famo);
    let mut combiner = plan.combiner.clone();
    combiner.famo.lower_bounds = vec![0.0, 100.0, 0.0];
    let plan = Plan { combiner, ..plan };
    let run = folder.path().join("run");
    let error = plan.go(&ToyTask::default(), &run, usize::MAX).error();
    for part in [
        "step 0",
        "`famo`",
        "loss 1",
        "first, second, third",
        "batch 0",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_setting_out_of_range_is_found_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let plan = with(CombinerName::AuxiliaryNetwork);
    let mut combiner = plan.combiner.clone();
    combiner.auxiliary_network.d_hidden = 0;
    let plan = Plan { combiner, ..plan };
    let run = folder.path().join("run");
    let error = plan.go(&ToyTask::default(), &run, usize::MAX).error();
    assert!(
        error.contains("[combiner.auxiliary_network] `d_hidden`"),
        "{error}"
    );
}

#[test]
fn learned_weights_take_outer_steps_and_stay_admissible() {
    for name in [
        CombinerName::AutoLambda,
        CombinerName::AuxiliaryLinear,
        CombinerName::AuxiliaryNetwork,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let task = ToyTask {
            conflict: true,
            ..ToyTask::default()
        };
        let run = with(name).undisturbed(&task, folder.path());
        let records = Run::read(&run).unwrap().records;
        let metas = metas(&records);
        assert_eq!(metas.len(), 7);
        let (first, last) = (&metas[0].sensitivities, &metas[6].sensitivities);
        assert!(
            first.iter().zip(last).any(|(a, b)| (a - b).abs() > 0.01),
            "{}: {first:?} {last:?}",
            name.name()
        );
        for meta in &metas {
            assert!(
                meta.sensitivities.iter().all(|slope| *slope >= 0.0),
                "{}: {:?}",
                name.name(),
                meta.sensitivities
            );
            if let Some(error) = meta.certificate.audited_error {
                assert!(error < 1e-4, "{}: {error}", name.name());
            }
        }
        // The loss that wants the opposite ends below the primary one.
        assert!(last[2] < last[0], "{}: {last:?}", name.name());
    }
}

#[test]
fn negative_sensitivities_are_logged_with_task_and_value_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let plan = with(CombinerName::MeltrPublished);
    let plan = Plan {
        combiner: CombinerConfig {
            start: StartOfPhi::Random,
            ..plan.combiner
        },
        ..plan
    };
    let run = folder.path().join("run");
    let ended = plan.go(&ToyTask::default(), &run, usize::MAX);
    ended.outcome.unwrap();
    let records = Run::read(&run).unwrap().records;
    let mut n_negative = 0;
    for meta in metas(&records) {
        let expected: Vec<String> = meta
            .sensitivities
            .iter()
            .zip(tasks())
            .filter(|(sensitivity, _)| **sensitivity < 0.0)
            .map(|(_, task)| format!("sensitivity of `{task}`"))
            .collect();
        n_negative += expected.len();
        let negative: Vec<&String> = meta
            .anomalies
            .iter()
            .filter(|anomaly| anomaly.starts_with("negative"))
            .collect();
        assert_eq!(negative.len(), expected.len(), "{meta:?}");
        for (anomaly, part) in negative.iter().zip(&expected) {
            assert!(anomaly.contains(part.as_str()), "{anomaly}");
        }
    }
    let count = |part: &str| {
        let said = ended.messages.iter().filter(|text| text.contains(part));
        said.count()
    };
    assert_eq!(
        count("negative: the sensitivity"),
        usize::from(n_negative > 0)
    );
    assert_eq!(count("was negative in") > 0, n_negative > 0);
}

#[test]
fn the_attention_of_the_loss_transformer_is_logged_with_the_response() {
    for (name, n_heads) in [
        (CombinerName::MeltrPublished, 2),
        (CombinerName::AutoLambda, 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let run = with(name).undisturbed(&ToyTask::default(), folder.path());
        let records = Run::read(&run).unwrap().records;
        let mut n_responses = 0;
        for record in &records {
            let Record::Response(response) = record else {
                continue;
            };
            n_responses += 1;
            assert_eq!(response.attention.len(), n_heads);
            for row in response.attention.iter().flatten() {
                assert_eq!(row.len(), 3);
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{row:?}");
            }
        }
        assert_eq!(n_responses, 3);
    }
}

#[test]
fn an_outer_gradient_of_zero_leaves_the_combiner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let task = ToyTask {
        flat: true,
        ..ToyTask::default()
    };
    let plan = with(CombinerName::AuxiliaryLinear);
    let plan = Plan {
        outer: OuterConfig {
            audit_every: 1,
            ..plan.outer
        },
        ..plan
    };
    let run = plan.undisturbed(&task, folder.path());
    let records = Run::read(&run).unwrap().records;
    for meta in metas(&records) {
        assert_eq!(meta.hypergradient_norm, 0.0);
        assert_eq!(meta.task_losses.len(), 3);
        assert!(meta.directional.is_empty());
        for slope in &meta.sensitivities {
            assert!((slope - 1.0).abs() < 1e-6, "{slope}");
        }
    }
}
