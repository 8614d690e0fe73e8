//! A run that was stopped and goes on, against one that was not.

use std::fs;
use std::path::Path;

use meltr_aid::{
    CentralDifference, ConjugateGradient, EstimatorConfig, Neumann, Nystrom, Products,
};
use meltr_core::{FineTuneTask, Pass, vec_f64};
use meltr_train::record::Record;
use meltr_train::{
    BestMetric, Better, CombinerConfig, CombinerName, Eviction, MeltrSettings, OuterConfig,
    OuterOptimizer, Run, StartOfPhi, Through, TrainConfig, TrainError,
};

use crate::toy::{CONFIG, Plan, ToyModel, ToyTask};

/// Steps after which a run is stopped, some of them with an evaluation or a checkpoint due.
const STOPS: [usize; 7] = [1, 2, 4, 5, 9, 12, 13];

fn with_dropout() -> ToyTask {
    ToyTask {
        dropout: true,
        ..ToyTask::default()
    }
}

/// The records of a run, without what differs from one hour to the next.
fn timeless(run: &Path) -> Vec<Record> {
    let mut records = Run::read(run).unwrap().records;
    for record in &mut records {
        if let Record::Train(train) = record {
            train.seconds = 0.0;
        }
    }
    records
}

/// Weights, records and summary are the same, to the bit.
pub(crate) fn assert_same(ours: &Path, theirs: &Path) {
    for name in ["inner", "outer"] {
        let bytes =
            |run: &Path| fs::read(run.join(format!("checkpoints/last/{name}.safetensors"))).ok();
        assert!(bytes(ours) == bytes(theirs), "{name} weights differ");
    }
    assert_eq!(timeless(ours), timeless(theirs));
    let summary = |run: &Path| {
        let summary = Run::read_summary(run).unwrap().unwrap();
        (
            summary.iterations,
            summary.metrics,
            summary.worst_hypergradient_error,
        )
    };
    assert_eq!(summary(ours), summary(theirs));
}

/// Stops a run again and again, and holds it against one that is left alone.
fn assert_resumes(plan: &Plan) {
    assert_resumes_on(&with_dropout(), plan);
}

fn assert_resumes_on(task: &ToyTask, plan: &Plan) {
    let folder = tempfile::tempdir().unwrap();
    let undisturbed = plan.undisturbed(task, folder.path());
    let stopped = folder.path().join("stopped");
    for stop in STOPS {
        let ended = plan.go(task, &stopped, stop);
        let outcome = ended.outcome.unwrap();
        assert!(outcome.interrupted);
        assert_eq!(outcome.summary.iterations, stop);
        assert!(Run::read_summary(&stopped).unwrap().is_none());
    }
    let ended = plan.go(task, &stopped, usize::MAX);
    assert!(!ended.outcome.unwrap().interrupted);
    assert!(
        ended.messages[0].contains("going on after 13 of 14 steps"),
        "{:?}",
        ended.messages
    );
    assert_same(&stopped, &undisturbed);
}

fn solver(estimator: EstimatorConfig, products: Products) -> Plan {
    let plan = Plan::default();
    Plan {
        outer: OuterConfig {
            estimator,
            products,
            // Differences stand as they are, so that what they remember matters.
            reverse_above: 0.0,
            clear_history_each_epoch: false,
            ..plan.outer
        },
        ..plan
    }
}

#[test]
fn the_published_estimator_goes_on_to_the_bit() {
    assert_resumes(&Plan::default());
}

#[test]
fn hypergradients_through_a_step_on_held_out_batches_go_on_to_the_bit() {
    let task = ToyTask {
        held_out: true,
        ..with_dropout()
    };
    for through in [Through::Descent, Through::Step] {
        let plan = Plan::default();
        assert_resumes_on(
            &task,
            &Plan {
                combiner: CombinerConfig {
                    name: CombinerName::Meltr,
                    meltr: MeltrSettings {
                        through,
                        ..plan.combiner.meltr
                    },
                    ..plan.combiner
                },
                ..plan
            },
        );
    }
}

#[test]
fn a_warm_started_solver_and_difference_steps_go_on_to_the_bit() {
    let solve = ConjugateGradient::new(3).with_warm_start();
    let difference = Products::CentralDifference(CentralDifference::default());
    assert_resumes(&solver(
        EstimatorConfig::ConjugateGradient(solve),
        difference,
    ));
}

#[test]
fn a_warm_started_series_goes_on_to_the_bit() {
    let solve = Neumann::new(0.1, 2).with_warm_start();
    assert_resumes(&solver(EstimatorConfig::Neumann(solve), Products::Reverse));
}

#[test]
fn a_sketch_goes_on_to_the_bit() {
    let solve = Nystrom {
        rank: 3,
        ..Nystrom::default()
    };
    assert_resumes(&solver(EstimatorConfig::Nystrom(solve), Products::Reverse));
}

#[test]
fn another_optimizer_and_another_eviction_go_on_to_the_bit() {
    let plan = Plan::default();
    assert_resumes(&Plan {
        outer: OuterConfig {
            optimizer: OuterOptimizer::AdamW,
            eviction: Eviction::WeightedRandom,
            clear_history_each_epoch: false,
            ..plan.outer
        },
        combiner: CombinerConfig {
            start: StartOfPhi::Random,
            ..plan.combiner
        },
        ..plan
    });
}

#[test]
fn several_batches_a_step_go_on_to_the_bit() {
    let plan = Plan::default();
    assert_resumes(&Plan {
        train: TrainConfig {
            accumulate: 3,
            ..plan.train
        },
        ..plan
    });
}

#[test]
fn plain_combiners_go_on_to_the_bit() {
    for name in [CombinerName::Primary, CombinerName::Sum] {
        let plan = Plan::default();
        assert_resumes(&Plan {
            combiner: CombinerConfig {
                name,
                ..plan.combiner
            },
            ..plan
        });
    }
}

#[test]
fn every_other_combiner_goes_on_to_the_bit() {
    for name in CombinerName::ALL {
        if CombinerName::COMPARED.contains(&name) {
            continue;
        }
        let plan = Plan::default();
        assert_resumes(&Plan {
            combiner: CombinerConfig {
                name,
                auxiliary_weight: 0.3,
                ..plan.combiner
            },
            ..plan
        });
    }
}

#[test]
fn rules_on_several_batches_a_step_go_on_to_the_bit() {
    for name in [CombinerName::Famo, CombinerName::PcGrad] {
        let plan = Plan::default();
        assert_resumes(&Plan {
            train: TrainConfig {
                accumulate: 3,
                ..plan.train
            },
            combiner: CombinerConfig {
                name,
                ..plan.combiner
            },
            ..plan
        });
    }
}

#[test]
fn a_checkpoint_of_another_rule_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let with = |name: CombinerName| {
        let plan = Plan::default();
        Plan {
            combiner: CombinerConfig {
                name,
                ..plan.combiner
            },
            ..plan
        }
    };
    with(CombinerName::Famo)
        .go(&with_dropout(), &run, 5)
        .outcome
        .unwrap();
    for (name, part) in [
        (CombinerName::Random, "random"),
        (CombinerName::Sum, "no rule"),
    ] {
        let error = with(name).go(&with_dropout(), &run, usize::MAX).error();
        assert!(error.contains("famo") && error.contains(part), "{error}");
    }
}

#[test]
fn a_run_that_broke_off_without_saving_goes_on_from_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::default();
    let undisturbed = plan.undisturbed(&with_dropout(), folder.path());
    let broken = folder.path().join("broken");
    // Before the first checkpoint, right after one, and long after one.
    for fails_at in [2, 3, 8, 11] {
        let task = ToyTask {
            fails_at: Some(fails_at),
            ..with_dropout()
        };
        let error = plan.go(&task, &broken, usize::MAX).error();
        assert!(error.contains("cannot be read"), "{error}");
    }
    let ended = plan.go(&with_dropout(), &broken, usize::MAX);
    assert!(
        ended.messages[0].contains("going on after 9 of 14 steps"),
        "{:?}",
        ended.messages
    );
    assert_same(&broken, &undisturbed);
}

#[test]
fn the_end_is_reached_from_the_last_checkpoint_too() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::default();
    let undisturbed = plan.undisturbed(&with_dropout(), folder.path());
    // Stopped between the last step and the last evaluation.
    let stopped = folder.path().join("stopped");
    let ended = plan.go(&with_dropout(), &stopped, 14);
    assert!(ended.outcome.unwrap().interrupted);
    plan.go(&with_dropout(), &stopped, usize::MAX)
        .outcome
        .unwrap();
    assert_same(&stopped, &undisturbed);
    let last = stopped.join("checkpoints/last");
    assert!(last.join("state.json").is_file());
    assert!(!last.join("optimizer.safetensors").exists());
}

fn following(metric: &str, patience: usize) -> Plan {
    let plan = Plan::default();
    Plan {
        train: TrainConfig {
            best_metric: Some(BestMetric {
                name: metric.to_owned(),
                split: "test".to_owned(),
                better: Better::Lower,
            }),
            patience,
            checkpoint_every: 0,
            ..plan.train
        },
        ..plan
    }
}

#[test]
fn a_run_ends_once_patience_does_and_keeps_the_best() {
    let folder = tempfile::tempdir().unwrap();
    let plan = following("constant", 2);
    let undisturbed = plan.undisturbed(&with_dropout(), folder.path());
    // Evaluations after 4, 8 and 12 steps, of which the first is the best.
    let summary = Run::read_summary(&undisturbed).unwrap().unwrap();
    assert_eq!(summary.iterations, 12);
    let checkpoints = undisturbed.join("checkpoints");
    let inner = |name: &str| fs::read(checkpoints.join(name).join("inner.safetensors")).unwrap();
    assert_eq!(inner("best"), inner("step-00000004"));
    assert_eq!(inner("last"), inner("step-00000012"));

    let stopped = folder.path().join("stopped");
    for stop in [4, 5, 8, 11] {
        plan.go(&with_dropout(), &stopped, stop).outcome.unwrap();
    }
    let ended = plan.go(&with_dropout(), &stopped, usize::MAX);
    ended.outcome.unwrap();
    assert!(
        ended
            .messages
            .iter()
            .any(|message| message.contains("ending after 12 of 14 steps")),
        "{:?}",
        ended.messages
    );
    assert_same(&stopped, &undisturbed);
    // Going on after the end takes no further step.
    plan.go(&with_dropout(), &stopped, usize::MAX)
        .outcome
        .unwrap();
    assert_same(&stopped, &undisturbed);
}

#[test]
fn the_best_checkpoint_survives_the_newer_ones() {
    let folder = tempfile::tempdir().unwrap();
    let plan = following("error", 0);
    let run = plan.undisturbed(&with_dropout(), folder.path());
    let errors: Vec<(usize, f64)> = Run::read(&run)
        .unwrap()
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Eval(eval) => Some((eval.iteration, eval.metrics["error"])),
            _ => None,
        })
        .collect();
    assert_eq!(errors.len(), 4);
    let (step, _) = errors
        .iter()
        .fold((0, f64::INFINITY), |best, (step, error)| {
            if *error < best.1 {
                (*step, *error)
            } else {
                best
            }
        });
    let inner = |name: &str| {
        fs::read(run.join("checkpoints").join(name).join("inner.safetensors")).unwrap()
    };
    assert_eq!(inner("best"), inner(&format!("step-{step:08}")));
}

#[test]
fn a_metric_that_is_not_measured_is_named_with_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    let plan = following("accuracy", 0);
    let error = plan
        .go(&with_dropout(), &folder.path().join("run"), usize::MAX)
        .error();
    for part in ["`accuracy`", "`test`", "constant, error"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn no_more_checkpoints_are_kept_than_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let run = Plan::default().undisturbed(&with_dropout(), folder.path());
    let mut names: Vec<String> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["last", "step-00000012", "step-00000014"]);
}

#[test]
fn another_device_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let plan = Plan::default();
    plan.go(&with_dropout(), &run, 5).outcome.unwrap();
    let elsewhere = Plan {
        device_name: "cuda",
        ..plan
    };
    let error = elsewhere.go(&with_dropout(), &run, usize::MAX).error();
    for part in ["`flex`", "`cuda`", "--device flex"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_the_combiner_is_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let plan = Plan::default();
    plan.go(&with_dropout(), &run, 5).outcome.unwrap();
    let log = fs::read(run.join("metrics.jsonl")).unwrap();
    let wider = Plan {
        combiner: CombinerConfig {
            d_model: 32,
            ..plan.combiner.clone()
        },
        ..plan.clone()
    };
    let ended = wider.go(&with_dropout(), &run, usize::MAX);
    let error = ended.outcome.unwrap_err();
    assert!(
        matches!(error, TrainError::WeightsDoNotFit { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("outer.safetensors"), "{error}");
    assert_eq!(fs::read(run.join("metrics.jsonl")).unwrap(), log);
    plan.go(&with_dropout(), &run, usize::MAX).outcome.unwrap();
}

#[test]
fn a_checkpoint_of_other_settings_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    Plan::default()
        .go(&with_dropout(), &run, 5)
        .outcome
        .unwrap();
    fs::write(run.join("config.toml"), "seed = 4\n").unwrap();
    let error = Run::resume(&run).unwrap_err().to_string();
    for part in ["step-00000005", "`seed` (3 before, 4 now)"] {
        assert!(error.contains(part), "{error}");
    }
    fs::write(run.join("config.toml"), CONFIG).unwrap();
    Run::resume(&run).unwrap();
}

#[test]
fn several_batches_a_step_are_averaged() {
    let folder = tempfile::tempdir().unwrap();
    let task = ToyTask::default();
    let plan = Plan::default();
    let plan = Plan {
        train: TrainConfig {
            iterations: 2,
            accumulate: 2,
            ..plan.train
        },
        combiner: CombinerConfig {
            name: CombinerName::Sum,
            ..plan.combiner
        },
        ..plan
    };
    let run = plan.undisturbed(&task, folder.path());
    let records = Run::read(&run).unwrap().records;
    let Some(Record::Train(first)) = records.first() else {
        panic!("{records:?}");
    };
    let model = ToyModel::new();
    let losses = [0, 1].map(|number| {
        let batch = task.batch(number, 0).unwrap();
        vec_f64(task.losses(&model, &batch, Pass::Evaluation).into_data())
    });
    for (task, loss) in first.task_losses.iter().enumerate() {
        let expected = 0.5 * (losses[0][task] + losses[1][task]);
        assert!((loss - expected).abs() < 1e-6, "{loss} {expected}");
    }
    let total: f64 = first.task_losses.iter().sum();
    assert!((first.combined_loss - total).abs() < 1e-5);
}
