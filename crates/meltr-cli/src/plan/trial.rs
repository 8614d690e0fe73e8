//! A trial: a process that takes a few steps, or evaluates once, and tells what that took.
//!
//! The peak of the resident memory belongs to a process, so each trial is one of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use meltr_core::{Alone, FineTuneTask};
use meltr_train::record::Record;
use meltr_train::{Progress, Run, Settings, TrainError, fine_tune, peak_memory_bytes};
use serde::{Deserialize, Serialize};

use super::arguments::{PlanArguments, TrialKind};
use super::passes::{Combination, OuterPasses, Passes};
use super::{memory, parameters};
use crate::device;
use crate::error::CliError;
use crate::experiment::{Experiment, TaskConfig, Visit};
use crate::output;

/// Inner steps of a trial. Outer steps follow the first and the third: the optimizers have their
/// states from the first on, and the times between the second, the third and the fourth are those
/// of an inner step alone and of one with an outer step.
const STEPS: usize = 4;

/// Inner steps from one outer step of a trial to the next.
const OUTER_EVERY: usize = 2;

/// Batches that an inner step of a trial averages at most: the second has the sum of the
/// gradients beside it, as any later one.
const ACCUMULATED: usize = 2;

/// Names of the files of a checkpoint that hold nothing but weights.
const WEIGHT_FILES: [&str; 2] = ["inner.safetensors", "outer.safetensors"];

/// What a trial tells, a line each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Told {
    /// After everything was loaded.
    Task(TaskFacts),
    /// After the steps.
    Steps(StepFacts),
    /// After the checkpoint.
    Saved(SaveFacts),
    /// After the evaluation.
    Evaluated(EvaluationFacts),
}

/// What is known before the first step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct TaskFacts {
    /// Names of the losses, in token order.
    pub(super) losses: Vec<String>,
    /// Name of the primary one.
    pub(super) primary: String,
    /// The passes of an inner step.
    pub(super) inner_passes: Passes,
    /// Learned values by part of the backbone.
    pub(super) parameters: BTreeMap<String, usize>,
    /// Items that are trained on.
    pub(super) n_train: usize,
    /// Items of each split that is evaluated.
    pub(super) n_evaluated: BTreeMap<String, usize>,
    /// Largest resident set while data and model were loaded.
    pub(super) peak_bytes: Option<u64>,
    /// Seconds that took.
    pub(super) seconds: f64,
}

/// What the steps took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StepFacts {
    /// Items of a batch.
    pub(super) batch_size: usize,
    /// Resident set before the first step.
    pub(super) start_bytes: Option<u64>,
    /// Largest resident set during the steps.
    pub(super) peak_bytes: Option<u64>,
    /// Seconds of an inner step.
    pub(super) inner_seconds: f64,
    /// What an outer step takes, if there are any.
    pub(super) outer: Option<OuterFacts>,
    /// Seconds of all steps of the trial.
    pub(super) seconds: f64,
}

/// What an outer step took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct OuterFacts {
    /// Its passes.
    pub(super) passes: OuterPasses,
    /// Seconds, an audit not included.
    pub(super) seconds: f64,
}

/// What a checkpoint between two steps took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SaveFacts {
    /// Learned values of the combiner.
    pub(super) n_combiner: usize,
    /// Largest resident set while it was written.
    pub(super) peak_bytes: Option<u64>,
    /// Bytes of the files with weights.
    pub(super) weight_bytes: u64,
    /// Bytes of all files.
    pub(super) whole_bytes: u64,
}

/// What an evaluation of all its splits took, without the states of the optimizers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct EvaluationFacts {
    /// Largest resident set.
    pub(super) peak_bytes: Option<u64>,
    /// Seconds.
    pub(super) seconds: f64,
}

/// Runs a trial in this process; what it tells goes to standard output as it becomes known.
pub(super) fn run(
    arguments: &PlanArguments,
    kind: TrialKind,
    batch: usize,
    folder: &Path,
) -> Result<(), CliError> {
    memory::be_the_first_to_end();
    let clock = Instant::now();
    let mut experiment = Experiment::read(&arguments.experiment, &arguments.set)?;
    let asked = experiment.clone();
    let asked_batch = std::mem::replace(batch_size_of(&mut experiment.task), batch);
    shorten(&mut experiment);
    let device = device::parse(&arguments.device)?;
    experiment.prepare(&device)?.visit(Trial {
        kind,
        device_name: &arguments.device,
        asked: &asked,
        asked_batch,
        experiment: &experiment,
        batch,
        folder,
        clock,
    })
}

/// Items of a batch of an experiment.
pub(super) fn batch_size_of(task: &mut TaskConfig) -> &mut usize {
    match task {
        TaskConfig::Retrieval(config) => &mut config.batch_size,
        TaskConfig::Captioning(config) => &mut config.batch_size,
        TaskConfig::Sentiment(config) => &mut config.batch_size,
        TaskConfig::Violet(config) => &mut config.batch_size,
        TaskConfig::Allinone(config) => &mut config.batch_size,
    }
}

/// Batches that the history of outer steps comes to hold in the run that is asked for.
fn held_batches(
    asked: &Experiment,
    combination: Combination,
    batch_size: usize,
    n_train: usize,
) -> usize {
    if combination != Combination::Learned {
        return 0;
    }
    let mut steps = asked.train.iterations;
    if asked.outer.clear_history_each_epoch {
        let batches = n_train / batch_size.max(1);
        steps = steps.min(batches.div_ceil(asked.train.accumulate.max(1)));
    }
    asked.outer.history.min(steps)
}

/// A run of a few steps with nothing in between.
fn shorten(experiment: &mut Experiment) {
    let train = &mut experiment.train;
    train.iterations = train.iterations.max(STEPS + 1);
    train.accumulate = train.accumulate.min(ACCUMULATED);
    train.eval_every = 0;
    train.checkpoint_every = 0;
    train.best_metric = None;
    train.patience = 0;
    experiment.outer.every = OUTER_EVERY;
    // What the history will hold is there from the start, see `take_steps`.
    experiment.outer.history = experiment.outer.history.min(1);
}

fn tell(told: &Told) -> Result<(), CliError> {
    output::line(&serde_json::to_string(told).map_err(CliError::failed)?);
    Ok(())
}

/// A trial on whatever task.
struct Trial<'a> {
    kind: TrialKind,
    device_name: &'a str,
    /// The experiment as it is to be run.
    asked: &'a Experiment,
    /// Items of its batches.
    asked_batch: usize,
    /// The same, shortened.
    experiment: &'a Experiment,
    /// Items of the batches here.
    batch: usize,
    folder: &'a Path,
    clock: Instant,
}

impl Visit for Trial<'_> {
    type Output = ();

    fn visit<T: FineTuneTask>(self, task: &T, model: T::Model) -> Result<(), CliError>
    where
        CliError: From<T::Error>,
    {
        let mut n_train = 0;
        for split in self.experiment.task.train_splits() {
            n_train += task.n_items(split)?;
        }
        let mut n_evaluated = BTreeMap::new();
        for split in &self.experiment.train.eval_splits {
            n_evaluated.insert(split.clone(), task.n_items(split)?);
        }
        let losses = task.names();
        let combination = Combination::of(&self.asked.combiner, &losses, task.primary())?;
        let accumulate = self.asked.train.accumulate;
        tell(&Told::Task(TaskFacts {
            primary: losses.get(task.primary()).cloned().unwrap_or_default(),
            inner_passes: combination.of_inner_step(losses.len(), accumulate),
            losses,
            parameters: parameters::by_part(&model, task.parameter_names(&model)),
            n_train,
            n_evaluated,
            peak_bytes: peak_memory_bytes(),
            seconds: self.clock.elapsed().as_secs_f64(),
        }))?;
        match self.kind {
            TrialKind::Steps => {
                let held = held_batches(self.asked, combination, self.asked_batch, n_train);
                self.take_steps(task, model, held)
            }
            TrialKind::Evaluation => self.evaluate(task, &model),
        }
    }
}

impl Trial<'_> {
    /// Takes steps while as many batches are held as the history of the run will hold.
    fn take_steps<T: FineTuneTask>(
        self,
        task: &T,
        model: T::Model,
        held: usize,
    ) -> Result<(), CliError>
    where
        CliError: From<T::Error>,
    {
        // One more is in the history of the trial itself.
        let history = (1..held)
            .map(|number| task.batch(number, self.experiment.seed))
            .collect::<Result<Vec<T::Batch>, T::Error>>()?;

        let start_bytes = memory::resident_bytes();
        memory::restart_peak();
        let folder = self.folder.join("run");
        let mut run = Run::create(&folder, &self.experiment.to_toml()?)?;
        let enough = AtomicBool::new(false);
        let mut watch = Watch {
            enough: &enough,
            clock: Instant::now(),
            seconds: Vec::new(),
            peak_bytes: None,
        };
        let ended = fine_tune(
            task,
            model,
            Settings {
                name: "trial",
                seed: self.experiment.seed,
                device_name: self.device_name,
                train: &self.experiment.train,
                inner: &self.experiment.inner,
                outer: &self.experiment.outer,
                combiner: &self.experiment.combiner,
                workers: &Alone,
            },
            &mut run,
            &mut watch,
            &enough,
        );
        let after = peak_memory_bytes();
        // The steps may have worked where the disk is too small for a checkpoint.
        if let &[_, second, third, fourth] = watch.seconds.as_slice() {
            tell(&Told::Steps(StepFacts {
                batch_size: self.batch,
                start_bytes,
                peak_bytes: watch.peak_bytes,
                inner_seconds: (third - second) * self.parts(),
                outer: last_outer_step(&folder)?.map(|passes| OuterFacts {
                    passes,
                    seconds: ((fourth - third) - (third - second)).max(0.0),
                }),
                seconds: fourth,
            }))?;
        }
        let outcome = ended?;
        let (weight_bytes, whole_bytes) = checkpoint_bytes(&folder.join("checkpoints/last"))?;
        tell(&Told::Saved(SaveFacts {
            n_combiner: outcome.combiner.num_params(),
            peak_bytes: after,
            weight_bytes,
            whole_bytes,
        }))?;
        drop(history);
        Ok(())
    }

    /// Inner steps of the trial that one of the run takes as long as.
    fn parts(&self) -> f64 {
        self.asked.train.accumulate as f64 / self.experiment.train.accumulate as f64
    }

    fn evaluate<T: FineTuneTask>(self, task: &T, model: &T::Model) -> Result<(), CliError>
    where
        CliError: From<T::Error>,
    {
        memory::restart_peak();
        let clock = Instant::now();
        for split in &self.experiment.train.eval_splits {
            task.evaluate(model, split)?;
        }
        tell(&Told::Evaluated(EvaluationFacts {
            peak_bytes: peak_memory_bytes(),
            seconds: clock.elapsed().as_secs_f64(),
        }))
    }
}

/// Passes of the last outer step of a run; `None` if it took none.
fn last_outer_step(folder: &Path) -> Result<Option<OuterPasses>, TrainError> {
    let records = Run::read(folder)?.records;
    Ok(records.iter().rev().find_map(|record| match record {
        Record::Meta(record) => Some(OuterPasses::of(record)),
        _ => None,
    }))
}

/// Bytes of the files with weights and of all files of a checkpoint.
fn checkpoint_bytes(folder: &Path) -> Result<(u64, u64), CliError> {
    let failed = |error: std::io::Error| {
        CliError::Failed(format!("cannot read `{}`: {error}", folder.display()))
    };
    let (mut weights, mut whole) = (0, 0);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let bytes = entry.metadata().map_err(failed)?.len();
        whole += bytes;
        if WEIGHT_FILES.iter().any(|name| entry.file_name() == *name) {
            weights += bytes;
        }
    }
    Ok((weights, whole))
}

/// Looks at time and memory after every inner step, and ends the run after the last of them.
struct Watch<'a> {
    enough: &'a AtomicBool,
    clock: Instant,
    /// Since the start, after each inner step.
    seconds: Vec<f64>,
    peak_bytes: Option<u64>,
}

impl Progress for Watch<'_> {
    fn step(&mut self, iteration: usize, _n_iterations: usize, _combined_loss: f64) {
        self.seconds.push(self.clock.elapsed().as_secs_f64());
        if iteration == STEPS {
            self.peak_bytes = peak_memory_bytes();
            // From here on it is that of the checkpoint, which an interrupted run saves.
            memory::restart_peak();
            self.enough.store(true, Ordering::Relaxed);
        }
    }

    fn message(&mut self, text: &str) {
        output::note(text);
    }
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

    #[test]
    fn a_trial_keeps_every_setting_that_memory_depends_on() {
        let asked = experiment(&[
            "train.accumulate=5",
            "train.checkpoint_every=1",
            "train.gradient_checkpointing=true",
        ]);
        let mut trial = asked.clone();
        shorten(&mut trial);
        assert_eq!(
            (trial.train.accumulate, trial.train.checkpoint_every),
            (2, 0)
        );
        assert!(trial.train.gradient_checkpointing);
        assert_eq!(trial.task, asked.task);
        assert_eq!(
            (&trial.model, &trial.data, &trial.combiner),
            (&asked.model, &asked.data, &asked.combiner)
        );
        assert_eq!(trial.outer.audit_every, asked.outer.audit_every);
    }

    #[test]
    fn the_history_holds_no_more_batches_than_there_will_be() {
        // 572 items in batches of 32 are 17 an epoch.
        let held = |overrides: &[&str]| {
            held_batches(&experiment(overrides), Combination::Learned, 32, 572)
        };
        assert_eq!(held(&[]), 10);
        assert_eq!(held(&["outer.history=50"]), 17);
        let kept = ["outer.history=50", "outer.clear_history_each_epoch=false"];
        assert_eq!(held(&kept), 50);
        assert_eq!(held(&["train.iterations=3"]), 3);
        let sum = experiment(&["combiner.name=sum"]);
        assert_eq!(held_batches(&sum, Combination::Constant, 32, 572), 0);
    }

    #[test]
    fn what_a_trial_tells_survives_json() {
        let told = Told::Saved(SaveFacts {
            n_combiner: 7,
            peak_bytes: None,
            weight_bytes: 1,
            whole_bytes: 3,
        });
        let line = serde_json::to_string(&told).unwrap();
        assert!(line.starts_with("{\"saved\""), "{line}");
        assert_eq!(serde_json::from_str::<Told>(&line).unwrap(), told);
    }
}
