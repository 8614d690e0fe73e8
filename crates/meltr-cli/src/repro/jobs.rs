//! Starts runs as processes, several at a time, and tells how they ended.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use meltr_train::Run;
use meltr_train::report::{leading_metric, metric_text};

use super::plan::{Job, Progress, Start};
use crate::error::CliError;
use crate::output;
use crate::progress::{SweepProgress, SweepRun};

/// Lines of a failed run's log that are shown.
const LOG_TAIL: usize = 8;

/// Whether the user wants to stop.
#[derive(Debug, Default)]
pub(super) struct Interrupt {
    asked: AtomicBool,
    /// Whether runs are under way, which have to save themselves.
    is_waiting: AtomicBool,
    /// The inputs of the runs under way, by process; a run whose input is closed saves itself and
    /// ends.
    inputs: Mutex<BTreeMap<u32, ChildStdin>>,
}

impl Interrupt {
    /// Follows Ctrl-C and requests to terminate. The runs are told by their inputs, and save
    /// themselves; without any, the process ends at once.
    ///
    /// No signal is sent to them: a terminal interrupts them as well, and some supervisors send a
    /// request to every process, and a run that gets a second one ends without saving.
    pub(super) fn follow() -> Result<Arc<Self>, CliError> {
        let interrupt = Arc::new(Self::default());
        let seen = Arc::clone(&interrupt);
        ctrlc::set_handler(move || {
            if !seen.is_waiting.load(Ordering::SeqCst) {
                std::process::exit(130);
            }
            if !seen.ask() {
                output::note("interrupted: waiting for the runs to save; press again to stop them");
            }
        })
        .map_err(CliError::failed)?;
        Ok(interrupt)
    }

    /// Tells the runs to save themselves and end; whether that was asked before.
    fn ask(&self) -> bool {
        let before = self.asked.swap(true, Ordering::SeqCst);
        self.inputs().clear();
        before
    }

    /// Waits for the end of a run, which is told when the user wants to stop.
    fn wait_for(&self, mut run: Child) -> io::Result<ExitStatus> {
        let id = run.id();
        if let Some(input) = run.stdin.take() {
            let mut inputs = self.inputs();
            // If the user has asked since the run was started, its input is closed here.
            if !self.asked.load(Ordering::SeqCst) {
                inputs.insert(id, input);
            }
        }
        let ended = run.wait();
        self.inputs().remove(&id);
        ended
    }

    fn inputs(&self) -> MutexGuard<'_, BTreeMap<u32, ChildStdin>> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run that has not ended yet.
#[derive(Debug)]
pub(super) struct Pending<'a> {
    pub(super) job: &'a Job,
    pub(super) progress: Progress,
}

/// The runs of one process.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    /// The folder of the sweep.
    pub(super) folder: &'a Path,
    /// The split whose metric is shown.
    pub(super) split: &'a str,
    /// Inner steps of a run that has no number of its own.
    pub(super) iterations: usize,
    pub(super) start: Start<'a>,
    /// Runs at a time.
    pub(super) n_workers: usize,
    /// Names of the runs that had ended before.
    pub(super) finished: Vec<String>,
    pub(super) pending: Vec<Pending<'a>>,
}

impl Batch<'_> {
    /// Takes all runs to their end, with a line of progress for each.
    pub(super) fn run(&self, interrupt: &Interrupt) -> Result<(), CliError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let n_runs = self.pending.len();
        let n_workers = self.n_workers.min(n_runs);
        output::note(&format!(
            "{}, {n_workers} at a time, in `{}`; each writes a log beside its directory",
            self.counted(),
            self.folder.display()
        ));
        let shown = SweepProgress::new(
            self.pending
                .iter()
                .map(|pending| self.shown(pending))
                .collect(),
            n_workers,
        );
        let start = |index: usize| {
            let Pending { job, progress } = &self.pending[index];
            shown.started(index);
            // What was printed before an interrupt stays.
            let log = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&job.log)?;
            let run = self
                .start
                .command(job, *progress)
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()?;
            interrupt.wait_for(run)
        };
        let mut n_ended = 0;
        interrupt.is_waiting.store(true, Ordering::SeqCst);
        let ended = run_all(n_runs, n_workers, &interrupt.asked, start, |ended| {
            n_ended += 1;
            let job = self.pending[ended.index].job;
            shown.ended(ended.index);
            shown.line(&format!(
                "[{n_ended}/{n_runs}] {}",
                progress_line(job, ended, self.split)
            ));
        });
        interrupt.is_waiting.store(false, Ordering::SeqCst);
        self.conclude(&ended)
    }

    /// What the progress of a run is told from.
    fn shown(&self, pending: &Pending<'_>) -> SweepRun {
        let Job {
            variant, directory, ..
        } = pending.job;
        SweepRun {
            directory: directory.clone(),
            kind: variant.label(),
            iterations: variant.iterations.unwrap_or(self.iterations),
        }
    }

    /// How many runs there are, and what is left to do of them.
    fn counted(&self) -> String {
        let n_pending = self.pending.len();
        let n_begun = self
            .pending
            .iter()
            .filter(|pending| pending.progress == Progress::Begun)
            .count();
        if self.finished.is_empty() && n_begun == 0 {
            return format!("{n_pending} runs");
        }
        format!(
            "{n_pending} of {} runs, {} had finished and {n_begun} are gone on with",
            n_pending + self.finished.len(),
            self.finished.len()
        )
    }

    /// An error unless every run has succeeded.
    fn conclude(&self, ended: &[Ended]) -> Result<(), CliError> {
        let done = ended.iter().filter(|ended| ended.succeeded());
        let names: Vec<String> = self
            .finished
            .iter()
            .cloned()
            .chain(done.map(|ended| self.pending[ended.index].job.name()))
            .collect();
        let n_runs = self.finished.len() + self.pending.len();
        if names.len() == n_runs {
            return Ok(());
        }
        let broken = ended.iter().find(|ended| match &ended.end {
            Ok(status) => !status.success() && !was_interrupted(*status),
            Err(_) => true,
        });
        if let Some(broken) = broken {
            return Err(failure(self.pending[broken.index].job, &broken.end));
        }
        let finished = if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        };
        Err(CliError::Interrupted(format!(
            "{} of {n_runs} runs have finished ({finished}); the others are saved in `{}`. To go \
             on, give the same command again",
            names.len(),
            self.folder.display()
        )))
    }
}

/// How one run ended.
struct Ended {
    index: usize,
    /// An error if the run could not be started.
    end: io::Result<ExitStatus>,
    seconds: f64,
}

impl Ended {
    fn succeeded(&self) -> bool {
        matches!(&self.end, Ok(status) if status.success())
    }
}

/// Calls `start` for `0..n_runs`, `n_workers` calls at a time, and reports each end as it comes.
///
/// Once a run has failed or `interrupt` is set no other is started; those under way are waited for.
fn run_all(
    n_runs: usize,
    n_workers: usize,
    interrupt: &AtomicBool,
    start: impl Fn(usize) -> io::Result<ExitStatus> + Sync,
    mut report: impl FnMut(&Ended),
) -> Vec<Ended> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let mut all = Vec::with_capacity(n_runs);
    thread::scope(|scope| {
        for _ in 0..n_workers {
            let sender = sender.clone();
            let (next, failed, start) = (&next, &failed, &start);
            scope.spawn(move || {
                while !failed.load(Ordering::SeqCst) && !interrupt.load(Ordering::SeqCst) {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    if index >= n_runs {
                        break;
                    }
                    let clock = Instant::now();
                    let end = start(index);
                    let ended = Ended {
                        index,
                        end,
                        seconds: clock.elapsed().as_secs_f64(),
                    };
                    if !ended.succeeded() {
                        failed.store(true, Ordering::SeqCst);
                    }
                    if sender.send(ended).is_err() {
                        break;
                    }
                }
            });
        }
        // The channel closes with the last worker.
        drop(sender);
        for ended in receiver {
            report(&ended);
            all.push(ended);
        }
    });
    all
}

fn progress_line(job: &Job, ended: &Ended, split: &str) -> String {
    let what = match &ended.end {
        Ok(status) if status.success() => {
            shown_metric(&job.directory, split).unwrap_or_else(|| "done".to_owned())
        }
        Ok(status) if was_interrupted(*status) => "interrupted".to_owned(),
        Ok(status) => format!("failed, {status}"),
        Err(error) => format!("not started, {error}"),
    };
    format!(
        "{}, seed {}: {what}, {:.0} s",
        job.variant.label(),
        job.seed,
        ended.seconds
    )
}

fn shown_metric(directory: &Path, split: &str) -> Option<String> {
    let summary = Run::read_summary(directory).ok().flatten()?;
    let metrics = summary.metrics.get(split)?;
    let name = leading_metric(metrics.keys().map(String::as_str))?;
    Some(format!("{name} {}", metric_text(name, *metrics.get(name)?)))
}

/// The error of a run, with the end of its log.
fn failure(job: &Job, end: &io::Result<ExitStatus>) -> CliError {
    let name = job.name();
    let status = match end {
        Ok(status) => status,
        Err(error) => {
            return CliError::Failed(format!(
                "run `{name}` could not be started, log `{}`: {error}",
                job.log.display()
            ));
        }
    };
    let log = fs::read(&job.log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n  ");
    let message = format!(
        "run `{name}` ended with {status}; the end of `{}`:\n  {tail}",
        job.log.display()
    );
    // Statuses of the run mean what ours mean.
    match status.code() {
        Some(2) => CliError::Input(message),
        _ => CliError::Failed(message),
    }
}

/// Whether a run ended on an interrupt, by its exit status or by the signal.
fn was_interrupted(status: ExitStatus) -> bool {
    status.code() == Some(130) || signal(status) == Some(2)
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_status: ExitStatus) -> Option<i32> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::repro::plan::{Threads, jobs, with_equal_steps};
    use crate::repro::testing;
    use meltr_train::CombinerName;

    fn exited(code: i32) -> ExitStatus {
        std::os::unix::process::ExitStatusExt::from_raw(code << 8)
    }

    fn ended(index: usize, code: i32) -> Ended {
        Ended {
            index,
            end: Ok(exited(code)),
            seconds: 1.0,
        }
    }

    /// `meltr-1`, `sum-1` and `primary-1`.
    fn three(folder: &Path) -> Vec<Job> {
        jobs(folder, &with_equal_steps(&CombinerName::COMPARED, &[]), 1)
    }

    fn batch<'a>(folder: &'a Path, jobs: &'a [Job]) -> Batch<'a> {
        Batch {
            folder,
            split: "test",
            iterations: 10,
            start: testing::start(&[], Threads::Any),
            n_workers: 1,
            finished: Vec::new(),
            pending: jobs
                .iter()
                .map(|job| Pending {
                    job,
                    progress: Progress::Open,
                })
                .collect(),
        }
    }

    #[test]
    fn all_runs_are_reported_once() {
        let mut seen = Vec::new();
        let interrupt = AtomicBool::new(false);
        let ended = run_all(
            7,
            3,
            &interrupt,
            |_| Ok(exited(0)),
            |ended| seen.push(ended.index),
        );
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
        assert!(ended.iter().all(Ended::succeeded));
    }

    #[test]
    fn nothing_starts_after_a_failure() {
        let interrupt = AtomicBool::new(false);
        let start = |index: usize| Ok(exited(if index == 1 { 3 } else { 0 }));
        let ended = run_all(5, 1, &interrupt, start, |_| {});
        assert_eq!(ended.len(), 2);
    }

    #[test]
    fn nothing_starts_after_an_interrupt() {
        let interrupt = AtomicBool::new(true);
        assert!(run_all(5, 2, &interrupt, |_| Ok(exited(0)), |_| {}).is_empty());
    }

    /// A process that ends once its input is closed.
    fn reader() -> std::io::Result<Child> {
        use std::process::{Command, Stdio};

        let mut command = Command::new("cat");
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn()
    }

    #[test]
    fn runs_under_way_and_such_as_start_later_are_told_of_an_interrupt() {
        let interrupt = Interrupt::default();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| interrupt.wait_for(reader().unwrap()).unwrap());
            while interrupt.inputs().is_empty() {
                thread::yield_now();
            }
            assert!(!waiting.is_finished());
            interrupt.ask();
            assert!(waiting.join().unwrap().success());
        });
        assert!(interrupt.wait_for(reader().unwrap()).unwrap().success());
        assert!(interrupt.inputs().is_empty());
    }

    #[test]
    fn a_failed_run_is_named_with_its_status_and_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let jobs = three(folder.path());
        fs::write(&jobs[1].log, "started\nerror: the disk is full\n").unwrap();
        let batch = batch(folder.path(), &jobs);
        let error = batch.conclude(&[ended(0, 0), ended(1, 3)]).unwrap_err();
        assert!(matches!(error, CliError::Failed(_)));
        let message = error.to_string();
        for part in [
            "`sum-1`",
            "exit status: 3",
            "sum-1.log",
            "error: the disk is full",
        ] {
            assert!(message.contains(part), "{message}");
        }
        let error = batch.conclude(&[ended(1, 2)]).unwrap_err();
        assert!(matches!(error, CliError::Input(_)));
    }

    #[test]
    fn an_interrupt_tells_what_is_there_and_how_to_go_on() {
        let folder = Path::new("folder");
        let jobs = three(folder);
        let mut batch = batch(folder, &jobs);
        let error = batch.conclude(&[ended(0, 0), ended(1, 130)]).unwrap_err();
        assert!(matches!(error, CliError::Interrupted(_)));
        let message = error.to_string();
        for part in [
            "1 of 3 runs have finished (meltr-1)",
            "the same command again",
        ] {
            assert!(message.contains(part), "{message}");
        }
        batch.pending.remove(0);
        batch.finished.push("meltr-1".to_owned());
        let message = batch.conclude(&[ended(0, 0)]).unwrap_err().to_string();
        assert!(
            message.contains("2 of 3 runs have finished (meltr-1, sum-1)"),
            "{message}"
        );
    }

    #[test]
    fn what_is_left_to_do_is_counted() {
        let folder = Path::new("folder");
        let jobs = three(folder);
        let mut batch = batch(folder, &jobs);
        assert_eq!(batch.counted(), "3 runs");
        batch.pending.remove(0);
        batch.pending[0].progress = Progress::Begun;
        batch.finished.push("meltr-1".to_owned());
        assert_eq!(
            batch.counted(),
            "2 of 3 runs, 1 had finished and 1 are gone on with"
        );
    }
}
