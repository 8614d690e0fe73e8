//! The trials of a plan: which batches are tried, in which order, and what came out.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::arguments::{PlanArguments, TrialKind};
use super::fit::{Point, estimate};
use super::trial::{EvaluationFacts, SaveFacts, StepFacts, TaskFacts, Told};
use super::{is_safe, memory};
use crate::error::CliError;
use crate::output;

/// How often a trial is looked at.
const POLL: Duration = Duration::from_millis(20);

/// The signal of a process that the system, or this one, has ended.
const SIGKILL: i32 = 9;

/// What all trials found.
pub(super) struct Found {
    pub(super) task: TaskFacts,
    /// By rising size of the batch.
    pub(super) steps: Vec<StepFacts>,
    pub(super) saved: Option<SaveFacts>,
    pub(super) evaluation: Option<FoundEvaluation>,
    /// What a reader should know about how it was found.
    pub(super) notes: Vec<String>,
    /// Whether the system ended a trial, most likely because memory ran out.
    pub(super) ran_out: bool,
    /// Before the first trial.
    pub(super) available_bytes: Option<u64>,
    /// Seconds of all trials.
    pub(super) seconds: f64,
}

/// What an evaluation took, or had taken when its time was over.
pub(super) struct FoundEvaluation {
    pub(super) peak_bytes: Option<u64>,
    /// `None` if it was not waited for.
    pub(super) seconds: Option<f64>,
}

/// Starts trials and keeps what they tell.
pub(super) struct Trials<'a> {
    arguments: &'a PlanArguments,
    /// Items of a batch of the experiment.
    batch_size: usize,
    program: PathBuf,
    folder: TempDir,
    clock: Instant,
    limit: Duration,
    available_bytes: Option<u64>,
    n_started: usize,
    task: Option<TaskFacts>,
    steps: Vec<StepFacts>,
    saved: Option<SaveFacts>,
    notes: Vec<String>,
    ran_out: bool,
}

/// A trial that is over.
struct Ended {
    told: Vec<Told>,
    end: End,
}

/// How a trial ended.
enum End {
    Done,
    /// It failed, for a reason of its own.
    Failed(CliError),
    /// The system ended it.
    Killed,
    /// It was ended here; with its peak until then.
    OutOfTime(Option<u64>),
}

impl<'a> Trials<'a> {
    pub(super) fn new(arguments: &'a PlanArguments, batch_size: usize) -> Result<Self, CliError> {
        let folder = tempfile::tempdir().map_err(|error| {
            CliError::Failed(format!("cannot make a folder for the trials: {error}"))
        })?;
        Ok(Self {
            arguments,
            batch_size,
            program: std::env::current_exe().map_err(CliError::failed)?,
            folder,
            clock: Instant::now(),
            limit: Duration::from_secs(arguments.limit),
            available_bytes: memory::available_bytes(),
            n_started: 0,
            task: None,
            steps: Vec::new(),
            saved: None,
            notes: Vec::new(),
            ran_out: false,
        })
    }

    /// Two small batches first; then the largest one that they show to be safe, half of it
    /// otherwise, from which more is known about the largest; then an evaluation.
    pub(super) fn run(mut self) -> Result<Found, CliError> {
        let largest = self.arguments.up_to.unwrap_or(self.batch_size);
        let largest = largest.min(self.batch_size);
        let mut goes_on = true;
        for batch in small_batches(self.batch_size, largest) {
            goes_on = goes_on && self.try_steps(batch)?;
        }
        for batch in [largest, self.batch_size.div_ceil(2).min(largest), largest] {
            if goes_on && self.is_safe_to_try(batch) {
                goes_on = self.try_steps(batch)?;
            }
        }
        let evaluation = match self.steps.first().map(|step| step.batch_size) {
            Some(batch) if !self.arguments.skip_evaluation => self.try_evaluation(batch)?,
            _ => None,
        };
        let Some(task) = self.task else {
            return Err(CliError::Failed(format!(
                "nothing came of the trials: {}",
                self.notes.join("; ")
            )));
        };
        Ok(Found {
            task,
            steps: self.steps,
            saved: self.saved,
            evaluation,
            notes: self.notes,
            ran_out: self.ran_out,
            available_bytes: self.available_bytes,
            seconds: self.clock.elapsed().as_secs_f64(),
        })
    }

    /// Whether more may be tried after steps with batches of `batch` items.
    fn try_steps(&mut self, batch: usize) -> Result<bool, CliError> {
        let ended = self.start(TrialKind::Steps, batch)?;
        let before = self.steps.len();
        for told in ended.told {
            match told {
                Told::Task(task) => self.task = Some(task),
                Told::Steps(steps) => self.steps.push(steps),
                // All trials save the same; the first has the least beside it.
                Told::Saved(saved) if self.saved.is_none() => self.saved = Some(saved),
                Told::Saved(_) | Told::Evaluated(_) => {}
            }
        }
        let has_steps = self.steps.len() > before;
        match ended.end {
            End::Done => {}
            End::Failed(error) if has_steps => {
                self.notes.push(format!("no checkpoint was tried: {error}"));
            }
            End::Failed(error) => return Err(error),
            End::Killed => {
                self.ran_out = true;
                self.notes.push(format!(
                    "the system ended the trial with batches of {batch}, most likely because \
                     memory ran out"
                ));
            }
            End::OutOfTime(_) => self.notes.push(format!(
                "the trial with batches of {batch} took longer than --limit leaves"
            )),
        }
        Ok(has_steps)
    }

    fn try_evaluation(&mut self, batch: usize) -> Result<Option<FoundEvaluation>, CliError> {
        if self.time_left().is_zero() {
            return Ok(None);
        }
        let ended = self.start(TrialKind::Evaluation, batch)?;
        let found = ended.told.into_iter().find_map(|told| match told {
            Told::Evaluated(EvaluationFacts {
                peak_bytes,
                seconds,
            }) => Some(FoundEvaluation {
                peak_bytes,
                seconds: Some(seconds),
            }),
            _ => None,
        });
        match ended.end {
            End::Done => {}
            // With weights that are not trained, a metric may be undefined.
            End::Failed(error) => self.notes.push(format!("the evaluation failed: {error}")),
            End::Killed => {
                self.ran_out = true;
                self.notes.push(
                    "the system ended the evaluation, most likely because memory ran out"
                        .to_owned(),
                );
            }
            End::OutOfTime(peak_bytes) => {
                self.notes.push(
                    "the evaluation took longer than --limit leaves; its memory is what it had \
                     reached by then"
                        .to_owned(),
                );
                return Ok(Some(FoundEvaluation {
                    peak_bytes,
                    seconds: None,
                }));
            }
        }
        Ok(found)
    }

    /// Whether memory and time are left for batches of `batch` items, which are more than those
    /// that were tried.
    fn is_safe_to_try(&self, batch: usize) -> bool {
        let (Some(last), Some(task)) = (self.steps.last(), &self.task) else {
            return false;
        };
        if batch <= last.batch_size {
            return false;
        }
        let growth = (batch as f64 / last.batch_size as f64).powi(2);
        let seconds = task.seconds + growth * last.seconds;
        if seconds > self.time_left().as_secs_f64() {
            return false;
        }
        let (Some(available), Some(peak)) = (self.available_bytes, last.peak_bytes) else {
            return false;
        };
        let bound = match estimate(&peaks(&self.steps), batch) {
            Some(estimate) => estimate.high,
            None => {
                let start = last.start_bytes.unwrap_or(0).min(peak);
                start as f64 + growth * (peak - start) as f64
            }
        };
        is_safe(bound, available)
    }

    fn time_left(&self) -> Duration {
        self.limit.saturating_sub(self.clock.elapsed())
    }

    /// Starts a trial and waits for its end, or for the end of its time.
    fn start(&mut self, kind: TrialKind, batch: usize) -> Result<Ended, CliError> {
        let what = match kind {
            TrialKind::Steps => "steps",
            TrialKind::Evaluation => "evaluation",
        };
        output::note(&match kind {
            TrialKind::Steps => format!("trying steps with batches of {batch}"),
            TrialKind::Evaluation => "trying an evaluation".to_owned(),
        });
        self.n_started += 1;
        let folder = self.folder.path().join(self.n_started.to_string());
        fs::create_dir(&folder).map_err(|error| cannot("make", &folder, &error))?;
        let (told, log) = (folder.join("told.jsonl"), folder.join("log"));
        let file = |path: &Path| File::create(path).map_err(|error| cannot("write", path, &error));
        let mut child = Command::new(&self.program)
            .arg("plan")
            .arg(&self.arguments.experiment)
            .args(
                self.arguments
                    .set
                    .iter()
                    .map(|entry| format!("--set={entry}")),
            )
            .arg(format!("--device={}", self.arguments.device))
            .arg(format!("--trial={what}"))
            .arg(format!("--trial-batch={batch}"))
            .arg("--trial-folder")
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(file(&told)?)
            .stderr(file(&log)?)
            .spawn()
            .map_err(|error| cannot("run", &self.program, &error))?;
        let status = self.wait(&mut child)?;
        // A checkpoint may be large, and another is written by the next trial.
        fs::remove_dir_all(folder.join("run")).ok();
        let told = fs::read_to_string(&told).map_err(|error| cannot("read", &told, &error))?;
        let told = told
            .lines()
            // A line that was cut off is of a trial that was ended.
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let end = match status {
            Waited::OutOfTime(peak) => End::OutOfTime(peak),
            Waited::Ended(status) if status.success() => End::Done,
            Waited::Ended(status) if signal(status) == Some(SIGKILL) => End::Killed,
            Waited::Ended(status) => {
                let log = fs::read(&log).unwrap_or_default();
                let log = String::from_utf8_lossy(&log);
                End::Failed(match (status.code(), message_of(&log)) {
                    // Statuses of the trial mean what ours mean.
                    (Some(2), Some(message)) => CliError::Input(message.to_owned()),
                    (_, Some(message)) => CliError::Failed(message.to_owned()),
                    (_, None) => {
                        CliError::Failed(format!("a trial ended with {status}: {}", log.trim()))
                    }
                })
            }
        };
        Ok(Ended { told, end })
    }

    fn wait(&self, child: &mut Child) -> Result<Waited, CliError> {
        loop {
            if let Some(status) = child.try_wait().map_err(CliError::failed)? {
                return Ok(Waited::Ended(status));
            }
            if self.time_left().is_zero() {
                let peak = memory::peak_of(child.id());
                // It may have ended in between.
                child.kill().ok();
                child.wait().map_err(CliError::failed)?;
                return Ok(Waited::OutOfTime(peak));
            }
            thread::sleep(POLL);
        }
    }
}

/// How waiting for a trial ended.
enum Waited {
    Ended(ExitStatus),
    /// With the peak of its memory.
    OutOfTime(Option<u64>),
}

/// The batches that are tried first: an eighth and a quarter of the configured one, two items at
/// least, since contrastive losses of a single one are constant.
fn small_batches(batch_size: usize, largest: usize) -> Vec<usize> {
    let first = batch_size.div_ceil(8).max(batch_size.min(2)).min(largest);
    let second = batch_size.div_ceil(4).max(first + 1).min(largest);
    if second > first {
        vec![first, second]
    } else {
        vec![first]
    }
}

/// Peaks of the memory by size of the batch.
pub(super) fn peaks(steps: &[StepFacts]) -> Vec<Point> {
    points(steps, |step| step.peak_bytes.map(|bytes| bytes as f64))
}

/// Seconds of an inner step by size of the batch.
pub(super) fn inner_seconds(steps: &[StepFacts]) -> Vec<Point> {
    points(steps, |step| Some(step.inner_seconds))
}

/// Seconds of an outer step by size of the batch.
pub(super) fn outer_seconds(steps: &[StepFacts]) -> Vec<Point> {
    points(steps, |step| step.outer.as_ref().map(|outer| outer.seconds))
}

fn points(steps: &[StepFacts], value: impl Fn(&StepFacts) -> Option<f64>) -> Vec<Point> {
    steps
        .iter()
        .filter_map(|step| {
            Some(Point {
                batch: step.batch_size,
                value: value(step)?,
            })
        })
        .collect()
}

/// The error that a trial wrote last.
fn message_of(log: &str) -> Option<&str> {
    const MARK: &str = "error: ";
    let start = match log.rfind("\nerror: ") {
        Some(line) => line + 1,
        None if log.starts_with(MARK) => 0,
        None => return None,
    };
    Some(log[start + MARK.len()..].trim())
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> CliError {
    CliError::Failed(format!("cannot {action} `{}`: {error}", path.display()))
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_status: ExitStatus) -> Option<i32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_batches_come_first_and_none_is_a_single_item_without_need() {
        assert_eq!(small_batches(32, 32), [4, 8]);
        assert_eq!(small_batches(128, 128), [16, 32]);
        assert_eq!(small_batches(8, 8), [2, 3]);
        assert_eq!(small_batches(3, 3), [2, 3]);
        assert_eq!(small_batches(2, 2), [2]);
        assert_eq!(small_batches(1, 1), [1]);
        assert_eq!(small_batches(0, 0), [0]);
        assert_eq!(small_batches(32, 6), [4, 6]);
        assert_eq!(small_batches(32, 3), [3]);
    }

    #[test]
    fn the_last_error_is_told_without_what_came_before() {
        assert_eq!(message_of("note\nerror: no\nfile\n"), Some("no\nfile"));
        assert_eq!(message_of("error: a\nerror: b"), Some("b"));
        assert_eq!(message_of("thread panicked"), None);
    }

    #[test]
    fn what_was_not_told_is_no_point() {
        let step = |batch_size, peak_bytes| StepFacts {
            batch_size,
            start_bytes: None,
            peak_bytes,
            inner_seconds: 0.5,
            outer: None,
            seconds: 2.0,
        };
        let steps = [step(2, Some(100)), step(4, None)];
        let expected = Point {
            batch: 2,
            value: 100.0,
        };
        assert_eq!(peaks(&steps), [expected]);
        assert_eq!(inner_seconds(&steps).len(), 2);
        assert!(outer_seconds(&steps).is_empty());
    }
}
