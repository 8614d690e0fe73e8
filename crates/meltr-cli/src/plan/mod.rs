//! `meltr plan`: what a run will need, before it starts.
//!
//! Memory depends on what the backend keeps for the backward pass, and no formula of ours would
//! follow it for long. So a few steps are tried, in processes of their own: with small batches
//! first, and with the batch of the experiment if these show that there is room for it.

pub(crate) mod arguments;
mod fit;
mod memory;
mod parameters;
mod passes;
mod report;
mod trial;
mod trials;

use self::arguments::PlanArguments;
use self::fit::{Estimate, estimate};
use self::report::{
    Audit, Checkpoint, Measure, Memory, OuterSteps, Parameters, Plan, Seconds, Steps, Tried,
};
use self::trial::{StepFacts, TaskFacts, batch_size_of};
use self::trials::{Found, Trials};
use crate::device;
use crate::error::CliError;
use crate::experiment::Experiment;
use crate::output;

/// Share of the memory that is available which a run may take.
const SAFE_SHARE: f64 = 0.9;

/// Bytes of the two moments of a learned value.
const MOMENT_BYTES: u64 = 8;

pub(crate) fn run(arguments: &PlanArguments) -> Result<(), CliError> {
    if let (Some(kind), Some(batch), Some(folder)) = (
        arguments.trial,
        arguments.trial_batch,
        &arguments.trial_folder,
    ) {
        return trial::run(arguments, kind, batch, folder);
    }
    if arguments.up_to == Some(0) {
        return Err(CliError::Input("--up-to is 0; give at least 1".to_owned()));
    }
    let mut experiment = Experiment::read(&arguments.experiment, &arguments.set)?;
    device::parse(&arguments.device)?;
    let batch_size = *batch_size_of(&mut experiment.task);
    let found = Trials::new(arguments, batch_size)?.run()?;
    let plan = planned(arguments, &experiment, batch_size, found)?;
    if arguments.json {
        output::json(&plan)?;
    } else {
        plan.print();
    }
    match plan.refusal() {
        None => Ok(()),
        Some(refusal) => Err(CliError::Check(refusal)),
    }
}

/// Everything that follows from the experiment and what was found.
fn planned(
    arguments: &PlanArguments,
    experiment: &Experiment,
    batch_size: usize,
    found: Found,
) -> Result<Plan, CliError> {
    let Found {
        task,
        steps: tried,
        saved,
        evaluation,
        mut notes,
        ran_out,
        available_bytes,
        seconds: trial_seconds,
    } = found;
    if batch_size > task.n_train {
        return Err(CliError::Input(format!(
            "`task.batch_size` is {batch_size}, but there are {} items to train on",
            task.n_train
        )));
    }
    let steps = steps_of(experiment, batch_size, &task, &tried);
    let n_backbone = task.parameters.values().sum::<usize>();
    let n_losses = task.losses.len();

    let of_steps = estimate(&trials::peaks(&tried), batch_size);
    // The trial of the evaluation has no states of optimizers, a run has.
    let moments = MOMENT_BYTES * n_backbone as u64;
    let of_evaluation = evaluation.as_ref().and_then(|found| found.peak_bytes);
    let of_evaluation = of_evaluation.map(|bytes| bytes + moments);
    let of_checkpoint = saved.as_ref().and_then(|found| found.peak_bytes);
    let peak_bytes = of_steps.map(|estimate| {
        let others = [
            task.peak_bytes,
            of_evaluation,
            of_checkpoint.filter(|_| saves_between_steps(experiment)),
        ];
        let others = others.into_iter().flatten().max().unwrap_or(0);
        others.max(estimate.value as u64)
    });
    if of_steps.is_none() {
        let is_silent = !tried.is_empty() && tried.iter().all(|step| step.peak_bytes.is_none());
        notes.push(if is_silent {
            "this system does not tell the memory of a process, so nothing is said about it"
                .to_owned()
        } else {
            "too few batch sizes could be tried to say what the configured one takes".to_owned()
        });
    }
    if !matches!(arguments.device.as_str(), "flex" | "tch") {
        notes.push(format!(
            "the memory is that of the process, not that of device `{}`",
            arguments.device
        ));
    }
    if evaluation.is_none() {
        notes.push("the evaluation is not included".to_owned());
    }

    let inner_step = estimate(&trials::inner_seconds(&tried), batch_size);
    let outer_step = estimate(&trials::outer_seconds(&tried), batch_size);
    let training = inner_step.map(|inner| {
        let outer = outer_step.map_or(0.0, |outer| outer.value);
        let n_outer = steps.outer.as_ref().map_or(0, |outer| outer.steps);
        inner.value * steps.iterations as f64 + outer * n_outer as f64
    });
    let fits = if ran_out {
        Some(false)
    } else {
        peak_bytes
            .zip(available_bytes)
            .map(|(peak, available)| is_safe(peak as f64, available))
    };
    let audit_every = experiment.outer.audit_every;
    let outer_passes = tried.iter().rev().find_map(|step| step.outer.clone());
    let has_outer = outer_passes.is_some();
    Ok(Plan {
        format_version: 1,
        name: experiment.name.clone(),
        title: experiment.title.clone(),
        device: arguments.device.clone(),
        combiner: experiment.combiner.name.name().to_owned(),
        primary: task.primary,
        losses: task.losses,
        parameters: Parameters {
            backbone: n_backbone,
            parts: task.parameters,
            combiner: saved.as_ref().map(|found| found.n_combiner),
        },
        evaluated_items: task.n_evaluated,
        passes: report::PassTable {
            inner: task.inner_passes,
            outer: outer_passes.map(|outer| outer.passes),
            audit: (has_outer && audit_every > 0).then(|| Audit {
                every: audit_every,
                passes: passes::of_audit(n_losses),
            }),
        },
        memory: Memory {
            gradient_checkpointing: experiment.train.gradient_checkpointing,
            available_bytes,
            loading_bytes: task.peak_bytes,
            steps: of_steps.map(|estimate| {
                measured(
                    estimate,
                    tried.iter().any(|step| step.batch_size == batch_size),
                )
            }),
            evaluation_bytes: of_evaluation,
            checkpoint_bytes: of_checkpoint,
            peak_bytes,
            fits,
            fitting_batch: available_bytes
                .filter(|_| fits == Some(false))
                .and_then(|bytes| fitting_batch(&tried, batch_size, bytes)),
        },
        checkpoint: saved.as_ref().map(|found| Checkpoint {
            weight_bytes: found.weight_bytes,
            whole_bytes: found.whole_bytes,
        }),
        seconds: Seconds {
            loading: task.seconds,
            inner_step: inner_step.map(|estimate| estimate.value),
            outer_step: outer_step.map(|estimate| estimate.value),
            training,
            evaluation: evaluation.and_then(|found| found.seconds),
            trials: trial_seconds,
        },
        steps,
        tried: tried.iter().map(Tried::of).collect(),
        notes,
    })
}

/// How many steps there are, and what they pass over.
fn steps_of(
    experiment: &Experiment,
    batch_size: usize,
    task: &TaskFacts,
    tried: &[StepFacts],
) -> Steps {
    let train = &experiment.train;
    let batches_per_epoch = (task.n_train / batch_size.max(1)).max(1);
    let every = experiment.outer.every;
    let is_learned = tried.iter().any(|step| step.outer.is_some());
    Steps {
        iterations: train.iterations,
        accumulate: train.accumulate,
        batch_size,
        train_items: task.n_train,
        batches_per_epoch,
        epochs: (train.iterations * train.accumulate) as f64 / batches_per_epoch as f64,
        outer: is_learned.then(|| OuterSteps {
            every,
            steps: train.iterations.div_ceil(every.max(1)),
        }),
    }
}

fn measured(estimate: Estimate, is_measured: bool) -> Measure {
    Measure {
        bytes: estimate.value as u64,
        low_bytes: estimate.low as u64,
        high_bytes: estimate.high as u64,
        measured: is_measured,
    }
}

/// Whether a run writes checkpoints with the states of its optimizers, other than on an interrupt.
fn saves_between_steps(experiment: &Experiment) -> bool {
    let train = &experiment.train;
    let due = |every: usize| (1..train.iterations).contains(&every);
    due(train.checkpoint_every) || (train.best_metric.is_some() && due(train.eval_every))
}

/// Whether so many bytes can be taken where `available` are left.
fn is_safe(bytes: f64, available: u64) -> bool {
    bytes <= SAFE_SHARE * available as f64
}

/// The largest batch below the configured one whose steps fit, of those tried or beyond them.
fn fitting_batch(tried: &[StepFacts], batch_size: usize, available: u64) -> Option<usize> {
    let points = trials::peaks(tried);
    let first = points.first()?.batch;
    (first..batch_size).rev().find(|batch| {
        let nearest = points.iter().find(|point| point.batch >= *batch);
        let bytes = match nearest {
            // What a larger one takes is enough for this one, too.
            Some(larger) => Some(larger.value),
            None => estimate(&points, *batch).map(|estimate| estimate.value),
        };
        bytes.is_some_and(|bytes| is_safe(bytes, available))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIPS: &str =
        include_str!("../../../../xtask/experiments/univl/emoji-clips-retrieval.toml");

    fn experiment(overrides: &[&str]) -> Experiment {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        Experiment::parse(CLIPS, "clips", &overrides).unwrap()
    }

    fn tried(batch_size: usize, peak_bytes: u64) -> StepFacts {
        StepFacts {
            batch_size,
            start_bytes: Some(10),
            peak_bytes: Some(peak_bytes),
            inner_seconds: 1.0,
            outer: None,
            seconds: 4.0,
        }
    }

    #[test]
    fn only_some_runs_save_between_steps() {
        assert!(!saves_between_steps(&experiment(&[])));
        assert!(saves_between_steps(&experiment(&[
            "train.checkpoint_every=10"
        ])));
        assert!(!saves_between_steps(&experiment(&[
            "train.checkpoint_every=1000"
        ])));
        let best = "train.best_metric={ name = \"text_to_video.r1\", split = \"test\" }";
        assert!(!saves_between_steps(&experiment(&[best])));
        assert!(saves_between_steps(&experiment(&[
            best,
            "train.eval_every=10"
        ])));
    }

    #[test]
    fn the_largest_batch_that_fits_may_lie_between_those_that_were_tried() {
        // 100 + 10 b: 90 % of 400 are enough for 26.
        let linear = [tried(4, 140), tried(8, 180), tried(16, 260)];
        assert_eq!(fitting_batch(&linear, 32, 400), Some(26));
        // A batch of 12 is known to take no more than one of 16.
        assert_eq!(fitting_batch(&linear, 32, 250), Some(8));
        assert_eq!(fitting_batch(&linear, 32, 100), None);
        assert_eq!(fitting_batch(&[], 32, 100), None);
    }

    #[test]
    fn outer_steps_are_counted_only_where_there_are_some() {
        let task = TaskFacts {
            losses: Vec::new(),
            primary: String::new(),
            inner_passes: passes::Passes::default(),
            parameters: std::collections::BTreeMap::new(),
            n_train: 497,
            n_evaluated: std::collections::BTreeMap::new(),
            peak_bytes: None,
            seconds: 1.0,
        };
        let steps = steps_of(&experiment(&[]), 32, &task, &[tried(4, 1)]);
        assert_eq!((steps.batches_per_epoch, steps.outer.is_none()), (15, true));
        assert!((steps.epochs - 5.0).abs() < 1e-12);
    }
}
