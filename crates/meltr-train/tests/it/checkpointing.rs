//! Runs whose backward passes compute elementwise operations again, beside runs that keep all.

use std::fs;
use std::path::Path;

use burn::tensor::GradientCheckpointingStrategy;
use meltr_aid::{ConjugateGradient, EstimatorConfig, Neumann};
use meltr_core::vec_f64;
use meltr_train::record::Record;
use meltr_train::{CombinerConfig, CombinerName, OuterConfig, Run, TrainConfig, read_state_dict};

use crate::toy::{Plan, ToyTask};

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

fn recomputing(plan: &Plan) -> Plan {
    Plan {
        train: TrainConfig {
            gradient_checkpointing: true,
            ..plan.train.clone()
        },
        ..plan.clone()
    }
}

fn with_dropout() -> ToyTask {
    ToyTask {
        dropout: true,
        ..ToyTask::default()
    }
}

/// The bytes of the last weights of both levels, and the records but for their times.
fn left_by(run: &Path) -> ([Option<Vec<u8>>; 2], Vec<Record>) {
    let weights = ["inner", "outer"]
        .map(|level| fs::read(run.join(format!("checkpoints/last/{level}.safetensors"))).ok());
    let mut records = Run::read(run).unwrap().records;
    for record in &mut records {
        if let Record::Train(train) = record {
            train.seconds = 0.0;
        }
    }
    (weights, records)
}

#[test]
fn what_is_computed_again_has_the_same_bits() {
    // The others take the Gaussian error linear unit or transposed weights.
    for name in [
        CombinerName::Primary,
        CombinerName::Sum,
        CombinerName::Famo,
        CombinerName::PcGrad,
        CombinerName::AutoLambda,
        CombinerName::AuxiliaryLinear,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let plan = with(name);
        let kept = plan.undisturbed(&with_dropout(), &folder.path().join("kept"));
        let again = recomputing(&plan).undisturbed(&with_dropout(), &folder.path().join("again"));
        let (ours, theirs) = (left_by(&again), left_by(&kept));
        assert!(ours.0[0].is_some() && ours.0 == theirs.0, "{}", name.name());
        assert_eq!(ours.1, theirs.1, "{}", name.name());
    }
}

#[test]
fn with_the_loss_transformer_the_weights_agree_up_to_rounding() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::default();
    let kept = plan.undisturbed(&with_dropout(), &folder.path().join("kept"));
    let again = recomputing(&plan).undisturbed(&with_dropout(), &folder.path().join("again"));
    let weights =
        |run: &Path| read_state_dict(&run.join("checkpoints/last/inner.safetensors")).unwrap();
    let (ours, theirs) = (weights(&again), weights(&kept));
    assert!(!ours.is_empty() && ours.keys().eq(theirs.keys()));
    for (name, ours) in ours {
        let theirs = vec_f64(theirs[&name].clone());
        for (ours, theirs) in vec_f64(ours).into_iter().zip(theirs) {
            // Adam makes a step of what is only rounding in parameters that nothing depends on,
            // so those of the transformer are not compared. A step here is 0.02.
            assert!((ours - theirs).abs() < 1e-3, "{name}: {ours} {theirs}");
        }
    }
}

#[test]
fn every_pass_of_both_levels_is_on_the_tape_that_was_asked_for() {
    let estimators = [
        EstimatorConfig::Identity,
        EstimatorConfig::ConjugateGradient(ConjugateGradient::new(2)),
        EstimatorConfig::Neumann(Neumann::new(0.1, 2)),
        EstimatorConfig::GaussNewton { damping: 1.0 },
    ];
    for estimator in estimators {
        let plan = Plan::default();
        let plan = Plan {
            train: TrainConfig {
                iterations: 5,
                ..plan.train
            },
            outer: OuterConfig {
                estimator,
                ..plan.outer
            },
            ..plan
        };
        for (plan, expected) in [
            (recomputing(&plan), GradientCheckpointingStrategy::Balanced),
            (plan, GradientCheckpointingStrategy::Disabled),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let task = ToyTask::default();
            plan.undisturbed(&task, folder.path());
            let tapes = task.tapes.take();
            // One of each inner step, and of the outer steps after the first, third and fifth.
            assert!(tapes.len() > 8, "{:?}", plan.outer.estimator);
            assert!(
                tapes.iter().all(|tape| *tape == expected),
                "{:?}: {tapes:?}",
                plan.outer.estimator
            );
        }
    }
}

#[test]
fn such_a_run_goes_on_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let plan = recomputing(&Plan::default());
    let undisturbed = plan.undisturbed(&with_dropout(), folder.path());
    let stopped = folder.path().join("stopped");
    for stop in [4, usize::MAX] {
        let outcome = plan.go(&with_dropout(), &stopped, stop).outcome.unwrap();
        assert_eq!(outcome.interrupted, stop == 4);
    }
    assert!(left_by(&stopped) == left_by(&undisturbed));
}
