//! Several workers that share a run, against one that takes it alone.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use meltr_aid::ParamVector;
use meltr_core::Workers;
use meltr_train::record::Record;
use meltr_train::{
    CombinerConfig, CombinerName, OuterBatches, OuterConfig, Run, Through, TrainConfig,
};

use crate::resume::assert_same;
use crate::toy::{CONFIG, Ended, HELD_OUT, Plan, ToyTask};

/// Workers that are threads of the test.
#[derive(Debug)]
struct Threads {
    rank: usize,
    to: Vec<Sender<Vec<f64>>>,
    from: Vec<Receiver<Vec<f64>>>,
}

impl Workers for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn n_workers(&self) -> usize {
        self.to.len()
    }

    fn gather(&self, own: &[f64]) -> Vec<f64> {
        for to in &self.to {
            to.send(own.to_vec()).unwrap();
        }
        self.from
            .iter()
            .flat_map(|from| from.recv().unwrap())
            .collect()
    }

    fn add_all(&self, total: &mut [f32], own: &[f32]) {
        let own: Vec<f64> = own.iter().copied().map(f64::from).collect();
        for part in self.gather(&own).chunks(own.len()) {
            for (total, number) in total.iter_mut().zip(part) {
                *total += *number as f32;
            }
        }
    }
}

fn threads(n: usize) -> Vec<Threads> {
    let mut workers: Vec<Threads> = (0..n)
        .map(|rank| Threads {
            rank,
            to: Vec::new(),
            from: Vec::new(),
        })
        .collect();
    for receiver in 0..n {
        for sender in 0..n {
            let (to, from) = channel();
            workers[sender].to.push(to);
            workers[receiver].from.push(from);
        }
    }
    workers
}

fn task() -> ToyTask {
    ToyTask {
        dropout: true,
        conflict: true,
        ..ToyTask::default()
    }
}

/// The same with batches that are held out for outer steps.
fn holding_out() -> ToyTask {
    ToyTask {
        held_out: true,
        ..task()
    }
}

/// What is left of a worker that has ended.
struct Left {
    iterations: usize,
    interrupted: bool,
    /// Parameters of the backbone and of the combiner.
    parameters: [Vec<f64>; 2],
}

impl Left {
    fn of(ended: Ended) -> Self {
        let outcome = ended.outcome.unwrap();
        Self {
            iterations: outcome.summary.iterations,
            interrupted: outcome.interrupted,
            parameters: [
                ParamVector::from_parameters(&outcome.model).to_vec(),
                ParamVector::from_parameters(&outcome.combiner).to_vec(),
            ],
        }
    }
}

/// Starts the run in `directory` on `n` threads, or goes on with it. One of them, the last, is
/// asked to stop after so many steps.
fn shared(
    task: fn() -> ToyTask,
    plan: &Plan,
    n: usize,
    directory: &Path,
    stop_after: usize,
) -> Vec<Left> {
    let goes_on = directory.exists();
    thread::scope(|scope| {
        let started: Vec<_> = threads(n)
            .into_iter()
            .map(|worker| {
                let plan = plan.clone();
                scope.spawn(move || {
                    let mut run = match (worker.rank, goes_on) {
                        (0, true) => Run::resume(directory).unwrap(),
                        (0, false) => Run::create(directory, CONFIG).unwrap(),
                        (_, true) => Run::resume_elsewhere(directory).unwrap(),
                        (_, false) => Run::elsewhere(directory),
                    };
                    // The first one changes the folder only after all have read it.
                    worker.gather(&[]);
                    let is_last = worker.rank == n - 1;
                    let stop_after = if is_last { stop_after } else { usize::MAX };
                    Left::of(plan.go_with(&task(), &mut run, stop_after, &worker))
                })
            })
            .collect();
        started
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// Four batches a step and so many draws, combined in this way.
fn four_batches(name: CombinerName, draws: usize) -> Plan {
    let plan = Plan::default();
    Plan {
        train: TrainConfig {
            accumulate: 4,
            ..plan.train
        },
        outer: OuterConfig {
            accumulate: draws,
            clear_history_each_epoch: false,
            ..plan.outer
        },
        combiner: CombinerConfig {
            name,
            auxiliary_weight: 0.3,
            ..plan.combiner
        },
        ..plan
    }
}

fn assert_shared(plan: &Plan) {
    assert_shared_task(task, plan);
}

/// The run of two and of four workers is that of one, to the bit: weights of both levels in all of
/// them, log, metrics.
fn assert_shared_task(task: fn() -> ToyTask, plan: &Plan) {
    let folder = tempfile::tempdir().unwrap();
    let alone = plan.undisturbed(&task(), folder.path());
    for n in [2, 4] {
        let directory = folder.path().join(n.to_string());
        let left = shared(task, plan, n, &directory, usize::MAX);
        assert_same(&directory, &alone);
        for worker in &left[1..] {
            assert!(!worker.interrupted);
            assert_eq!(worker.parameters, left[0].parameters, "{n}");
        }
    }
}

#[test]
fn workers_that_share_the_batches_end_like_one_alone() {
    assert_shared(&four_batches(CombinerName::MeltrPublished, 1));
}

#[test]
fn workers_that_share_the_draws_end_like_one_alone() {
    assert_shared(&four_batches(CombinerName::MeltrPublished, 4));
    let plan = four_batches(CombinerName::AuxiliaryNetwork, 4);
    assert_shared(&Plan {
        outer: OuterConfig {
            estimator: meltr_aid::EstimatorConfig::Neumann(meltr_aid::Neumann::new(0.1, 2)),
            ..plan.outer
        },
        ..plan
    });
}

#[test]
fn draws_of_held_out_batches_and_through_the_inner_step_can_be_shared() {
    let through = |through, per_unit_step, draws| {
        let plan = four_batches(CombinerName::MeltrPublished, draws);
        Plan {
            outer: OuterConfig {
                through,
                per_unit_step,
                batches: OuterBatches::HeldOutIfAny,
                ..plan.outer
            },
            ..plan
        }
    };
    assert_shared_task(holding_out, &through(Through::Minimum, false, 4));
    assert_shared_task(holding_out, &through(Through::Step, true, 4));
    assert_shared_task(holding_out, &through(Through::Descent, false, 1));
    // What is its own of a draw is then from the history.
    assert_shared(&through(Through::Step, false, 4));
}

#[test]
fn every_draw_has_a_held_out_batch_of_its_own() {
    for draws in [1, 2] {
        let mut plan = four_batches(CombinerName::MeltrPublished, draws);
        plan.outer.batches = OuterBatches::HeldOut;
        // Outer steps follow the first of 14 inner steps and every second one after it.
        let n_taken = 7 * draws;
        let folder = tempfile::tempdir().unwrap();
        let failing = |number: usize| {
            let task = ToyTask {
                fails_at: Some(HELD_OUT + number),
                ..holding_out()
            };
            let directory = folder.path().join(number.to_string());
            plan.go(&task, &directory, usize::MAX).outcome.is_err()
        };
        for (number, is_taken) in [(0, true), (n_taken - 1, true), (n_taken, false)] {
            assert_eq!(failing(number), is_taken, "{number} of {n_taken}");
        }
    }
}

#[test]
fn every_way_to_combine_losses_can_be_shared() {
    // The primary loss reaches a part of the parameters; the rules look at losses, at losses before
    // and after the step, and at gradients.
    for name in [
        CombinerName::Primary,
        CombinerName::Sum,
        CombinerName::Uncertainty,
        CombinerName::Famo,
        CombinerName::PcGrad,
        CombinerName::NashMtl,
        CombinerName::Meltr,
    ] {
        assert_shared(&four_batches(name, 1));
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_workers_to_the_bit() {
    let plan = four_batches(CombinerName::MeltrPublished, 4);
    let folder = tempfile::tempdir().unwrap();
    let alone = plan.undisturbed(&task(), folder.path());
    let directory = folder.path().join("shared");
    for (n, stop_after) in [(2, 5), (4, 6), (1, 9)] {
        for worker in shared(task, &plan, n, &directory, stop_after) {
            // Whoever was asked to stop, all have stopped after the same step.
            assert!(worker.interrupted);
            assert_eq!(worker.iterations, stop_after);
        }
    }
    shared(task, &plan, 2, &directory, usize::MAX);
    assert_same(&directory, &alone);
}

/// The first of two workers, of which the other never comes.
#[derive(Debug)]
struct Lonely;

impl Workers for Lonely {
    fn rank(&self) -> usize {
        0
    }

    fn n_workers(&self) -> usize {
        2
    }

    fn gather(&self, _own: &[f64]) -> Vec<f64> {
        panic!("nobody else is there");
    }

    fn add_all(&self, _total: &mut [f32], _own: &[f32]) {
        panic!("nobody else is there");
    }
}

#[test]
fn batches_that_cannot_be_shared_are_refused_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("run");
    let mut run = Run::create(&directory, CONFIG).unwrap();
    let mut plan = four_batches(CombinerName::MeltrPublished, 1);
    plan.train.accumulate = 3;
    let error = plan.go_with(&task(), &mut run, 1, &Lonely).error();
    assert!(error.contains("`train.accumulate` is 3"), "{error}");
    assert!(error.contains("2 processes"), "{error}");
    plan.train.accumulate = 2;
    plan.outer.accumulate = 3;
    let error = plan.go_with(&task(), &mut run, 1, &Lonely).error();
    assert!(error.contains("`outer.accumulate` is 3"), "{error}");
}

#[test]
fn the_mean_of_draws_of_one_batch_is_any_of_them() {
    // With one batch in the history all draws are of it, and their mean is any of them but for
    // dropout, which is off: the run is that of one draw.
    let with = |draws: usize, history: usize, folder: &Path| {
        let plan = four_batches(CombinerName::MeltrPublished, draws);
        let plan = Plan {
            outer: OuterConfig {
                history,
                ..plan.outer
            },
            ..plan
        };
        let run = plan.undisturbed(&ToyTask::default(), folder);
        let records = Run::read(&run).unwrap().records;
        let norms = records.into_iter().filter_map(|record| match record {
            Record::Meta(meta) => {
                let certificate = &meta.certificate;
                let passes = certificate.forward_passes + certificate.backward_passes;
                Some((meta.hypergradient_norm, passes))
            }
            _ => None,
        });
        norms.collect::<Vec<(f64, usize)>>()
    };
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, draws, history| {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        with(draws, history, &folder)
    };
    let (one, three) = (of("one", 1, 1), of("three", 3, 1));
    for ((one, passes), (three, all_passes)) in one.iter().zip(&three) {
        assert!((one - three).abs() <= 1e-4 * one.abs(), "{one} {three}");
        assert_eq!(3 * passes, *all_passes);
    }
    // With several batches in it they differ.
    let norms = |found: Vec<(f64, usize)>| -> Vec<f64> {
        found.into_iter().map(|(norm, _)| norm).collect()
    };
    let (one, three) = (of("one-of-three", 1, 3), of("three-of-three", 3, 3));
    assert_ne!(norms(one), norms(three));
}
