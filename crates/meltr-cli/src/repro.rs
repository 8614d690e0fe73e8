//! `meltr repro`: every combiner with several seeds, beside a linear reference.
//!
//! Each run is a process of its own, since dropout masks come from a generator that belongs to the
//! whole process on some backends.

use std::fs::{self, File};
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use meltr_core::FineTuneTask;
use meltr_train::record::Summary;
use meltr_train::report::{
    Comparison, ComparisonRow, ReferenceRow, Report, RunData, leading_metric, metric_text,
};
use meltr_train::{CombinerName, Run};
use serde_json::{Map, Value, json};

use crate::cli::ReproArguments;
use crate::device;
use crate::error::CliError;
use crate::experiment::{Experiment, Visit};
use crate::fine_tune::next_free;
use crate::output;

/// Lines of a failed run's log that are shown.
const LOG_TAIL: usize = 8;

pub(crate) fn run(arguments: &ReproArguments) -> Result<(), CliError> {
    let mut overrides = arguments.set.clone();
    if let Some(iterations) = arguments.iterations {
        overrides.push(format!("train.iterations={iterations}"));
    }
    let experiment = Experiment::read(&arguments.experiment, &overrides)?;
    check(arguments, &experiment)?;
    let device = device::parse(&arguments.device)?;
    let prepared = experiment.prepare(&device)?;
    let references = experiment.references(&prepared)?;
    let counts = prepared.visit(Count(&experiment))?;

    let folder = next_free(&arguments.out.join(experiment.name.replace('/', "-")));
    fs::create_dir_all(&folder).map_err(|error| {
        CliError::Failed(format!("cannot create `{}`: {error}", folder.display()))
    })?;
    let mut jobs = plan(&folder, arguments.seeds);
    run_jobs(&jobs, arguments, &overrides, &experiment, &folder)?;

    // From here on in the order of the table.
    jobs.sort_by_key(|job| (job.combiner as usize, job.seed));
    let runs: Vec<RunData> = jobs
        .iter()
        .map(|job| Run::read(&job.directory))
        .collect::<Result<_, _>>()?;
    let results = Results {
        experiment: &experiment,
        counts,
        folder: &folder,
        runs: &runs,
        references: &references,
    };
    results.publish(arguments.json)
}

/// Refuses what no comparison could use; what no run could use is found by preparing one.
fn check(arguments: &ReproArguments, experiment: &Experiment) -> Result<(), CliError> {
    if arguments.seeds == 0 {
        return Err(CliError::Input("--seeds is 0; give at least 1".to_owned()));
    }
    if arguments.jobs == Some(0) {
        return Err(CliError::Input("--jobs is 0; give at least 1".to_owned()));
    }
    // The experiment itself may name another combiner.
    experiment
        .combiner
        .loss_transformer(experiment.task.n_losses())
        .validate()?;
    let splits = &experiment.train.eval_splits;
    let compared = &experiment.compared_split;
    if splits.contains(compared) {
        return Ok(());
    }
    Err(CliError::Input(format!(
        "`train.eval_splits` does not hold `{compared}`, which the comparison is made on; add it"
    )))
}

/// How many items a comparison is made from.
struct Counts {
    train: usize,
    compared: usize,
}

/// Counts the items of the splits.
struct Count<'a>(&'a Experiment);

impl Visit for Count<'_> {
    type Output = Counts;

    fn visit<T: FineTuneTask>(self, task: &T, _model: T::Model) -> Result<Counts, CliError>
    where
        CliError: From<T::Error>,
    {
        let mut train = 0;
        for split in self.0.task.train_splits() {
            train += task.n_items(split)?;
        }
        Ok(Counts {
            train,
            compared: task.n_items(&self.0.compared_split)?,
        })
    }
}

/// One run to start.
struct Job {
    combiner: CombinerName,
    seed: u64,
    /// The run's own directory.
    directory: PathBuf,
    /// What it prints.
    log: PathBuf,
}

impl Job {
    fn new(folder: &Path, combiner: CombinerName, seed: u64) -> Self {
        let name = format!("{}-{seed}", combiner.name());
        let log = folder.join(format!("{name}.log"));
        Self {
            combiner,
            seed,
            directory: folder.join(name),
            log,
        }
    }

    fn name(&self) -> String {
        format!("{}-{}", self.combiner.name(), self.seed)
    }

    fn command(
        &self,
        program: &Path,
        arguments: &ReproArguments,
        overrides: &[String],
        n_workers: usize,
    ) -> Command {
        let mut command = Command::new(program);
        command.arg("fine-tune").arg(&arguments.experiment);
        for entry in overrides {
            command.arg(format!("--set={entry}"));
        }
        command
            .arg(format!("--set=combiner.name={}", self.combiner.name()))
            .arg(format!("--seed={}", self.seed))
            .arg("--out")
            .arg(&self.directory)
            .arg(format!("--device={}", arguments.device))
            .arg("--json")
            .stdin(Stdio::null());
        if n_workers > 1 {
            // The second one is what LibTorch reads.
            command
                .env("RAYON_NUM_THREADS", "1")
                .env("OMP_NUM_THREADS", "1");
        }
        command
    }
}

/// All runs, those that take longest first, so that no core waits long at the end.
fn plan(folder: &Path, n_seeds: u64) -> Vec<Job> {
    CombinerName::ALL
        .into_iter()
        .rev()
        .flat_map(|combiner| (1..=n_seeds).map(move |seed| Job::new(folder, combiner, seed)))
        .collect()
}

/// Starts all runs and waits for them, with a line of progress for each.
fn run_jobs(
    jobs: &[Job],
    arguments: &ReproArguments,
    overrides: &[String],
    experiment: &Experiment,
    folder: &Path,
) -> Result<(), CliError> {
    let split = experiment.compared_split.as_str();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let n_workers = arguments.jobs.unwrap_or(cores).min(jobs.len());
    let program = std::env::current_exe()
        .map_err(|error| CliError::Failed(format!("cannot find this program's file: {error}")))?;
    let interrupt = interrupt_flag()?;
    output::note(&format!(
        "{} runs, {n_workers} at a time, in `{}`; each writes a log beside its directory",
        jobs.len(),
        folder.display()
    ));
    let start = |index: usize| {
        let job = &jobs[index];
        let log = File::create(&job.log)?;
        job.command(&program, arguments, overrides, n_workers)
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
    };
    let mut n_ended = 0;
    let ended = run_all(jobs.len(), n_workers, &interrupt, start, |ended| {
        n_ended += 1;
        output::note(&format!(
            "[{n_ended}/{}] {}",
            jobs.len(),
            progress_line(&jobs[ended.index], ended, split)
        ));
    });
    conclude(jobs, &ended, folder)
}

/// A flag that Ctrl-C sets. The terminal interrupts the runs as well, and they save themselves.
fn interrupt_flag() -> Result<Arc<AtomicBool>, CliError> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if !seen.swap(true, Ordering::SeqCst) {
            output::note("interrupted: waiting for the runs to save; press again to stop them");
        }
    })
    .map_err(CliError::failed)?;
    Ok(flag)
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
        job.combiner.name(),
        job.seed,
        ended.seconds
    )
}

fn shown_metric(directory: &Path, split: &str) -> Option<String> {
    let summary = Run::read_summary(directory).ok().flatten()?;
    let metrics = summary.metrics.get(split)?;
    let name = leading_metric(metrics.keys().map(String::as_str))?;
    Some(format!("{name} {}", metric_text(name, metrics[name])))
}

/// An error unless every run has succeeded.
fn conclude(jobs: &[Job], ended: &[Ended], folder: &Path) -> Result<(), CliError> {
    let done: Vec<String> = ended
        .iter()
        .filter(|ended| ended.succeeded())
        .map(|ended| jobs[ended.index].name())
        .collect();
    if done.len() == jobs.len() {
        return Ok(());
    }
    let broken = ended.iter().find(|ended| match &ended.end {
        Ok(status) => !status.success() && !was_interrupted(*status),
        Err(_) => true,
    });
    if let Some(broken) = broken {
        return Err(failure(&jobs[broken.index], &broken.end));
    }
    let finished = if done.is_empty() {
        "none".to_owned()
    } else {
        done.join(", ")
    };
    Err(CliError::Interrupted(format!(
        "{} of {} runs have finished ({finished}); what all of them wrote is in `{}`, and \
         `meltr report` takes any of its directories",
        done.len(),
        jobs.len(),
        folder.display()
    )))
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

/// Everything that the command tells in the end.
struct Results<'a> {
    experiment: &'a Experiment,
    counts: Counts,
    folder: &'a Path,
    runs: &'a [RunData],
    references: &'a [ReferenceRow],
}

impl Results<'_> {
    /// Prints the comparison and writes the report; the comparison is not lost if that fails.
    fn publish(&self, as_json: bool) -> Result<(), CliError> {
        let path = self.folder.join("report.html");
        let written = self.write_report(&path);
        let summaries: Vec<Summary> = self
            .runs
            .iter()
            .filter_map(|run| run.summary.clone())
            .collect();
        let split = &self.experiment.compared_split;
        let comparison = Comparison::from_summaries(&summaries, split);
        let Counts {
            train: n_train,
            compared: n_test,
        } = self.counts;
        let ties = self.experiment.task.ties().map(|ties| ties.name());
        if as_json {
            let rows: Vec<Value> = comparison.rows.iter().map(row_json).collect();
            output::json(&json!({
                "folder": self.folder.display().to_string(),
                "split": comparison.split,
                "n_train": n_train,
                "n_test": n_test,
                "ties": ties,
                "rows": rows,
                "summaries": summaries,
                "references": self.references,
                "report": path.display().to_string(),
            }))?;
            return written;
        }
        output::line(&comparison.to_text(self.references));
        let ties = ties.map_or_else(String::new, |ties| format!("; ties: {ties}"));
        output::line(&format!(
            "trained on {n_train} items ({}), compared on the {n_test} items of split \
             `{split}`{ties}",
            self.experiment.task.train_splits().join(" + ")
        ));
        written?;
        output::line(&format!("report: {}", path.display()));
        Ok(())
    }

    fn write_report(&self, path: &Path) -> Result<(), CliError> {
        let report = Report {
            title: &self.experiment.title,
            runs: self.runs,
            references: self.references,
        };
        let html = report.to_html().map_err(CliError::failed)?;
        fs::write(path, html).map_err(|error| {
            CliError::Failed(format!("cannot write `{}`: {error}", path.display()))
        })
    }
}

fn row_json(row: &ComparisonRow) -> Value {
    let metrics: Map<String, Value> = row
        .metrics
        .iter()
        .map(|(name, pair)| (name.clone(), spread_json(*pair)))
        .collect();
    json!({
        "combiner": row.combiner,
        "n_runs": row.n_runs,
        "n_seeds": row.n_seeds,
        "metrics": metrics,
        "train_seconds": spread_json(row.train_seconds),
        "peak_memory_mib": row.peak_memory_mib.map(spread_json),
        "worst_hypergradient_error": row.worst_hypergradient_error,
    })
}

/// A mean with its sample standard deviation.
fn spread_json((mean, std): (f64, f64)) -> Value {
    json!({ "mean": mean, "std": std })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPERIMENT: &str =
        include_str!("../../../xtask/experiments/univl/emoji-clips-retrieval.toml");

    #[cfg(unix)]
    fn exited(code: i32) -> ExitStatus {
        std::os::unix::process::ExitStatusExt::from_raw(code << 8)
    }

    fn arguments() -> ReproArguments {
        ReproArguments {
            experiment: PathBuf::from("some.toml"),
            seeds: 2,
            jobs: None,
            out: PathBuf::from("runs"),
            iterations: None,
            set: Vec::new(),
            device: "flex".to_owned(),
            json: false,
        }
    }

    #[test]
    fn the_linear_reference_finds_about_every_fourth_clip() {
        let experiment = Experiment::parse(EXPERIMENT, "test", &[]).unwrap();
        let device = device::parse("flex").unwrap();
        let prepared = experiment.prepare(&device).unwrap();
        let rows = experiment.references(&prepared).unwrap();
        assert_eq!(rows[1].name, "untrained");
        let row = &rows[0];
        let r1 = row.metrics["text_to_video.r1"];
        // docs/decisions: 23 to 30 of 100 queries, depending on the penalty.
        assert!((0.2..0.4).contains(&r1), "{r1}");
        assert!(row.metrics.contains_key("video_to_text.median_rank"));
        assert!(
            row.note.contains("3000") && row.note.contains("train"),
            "{}",
            row.note
        );
    }

    #[test]
    fn every_combiner_runs_with_every_seed() {
        let jobs = plan(Path::new("folder"), 2);
        let names: Vec<String> = jobs.iter().map(Job::name).collect();
        assert_eq!(
            names,
            [
                "meltr-1",
                "meltr-2",
                "sum-1",
                "sum-2",
                "primary-1",
                "primary-2"
            ]
        );
        assert_eq!(jobs[2].directory, Path::new("folder").join("sum-1"));
    }

    #[test]
    fn a_run_beside_others_takes_one_thread() {
        let jobs = plan(Path::new("folder"), 1);
        let overrides = ["train.iterations=5".to_owned()];
        let command = jobs[1].command(Path::new("meltr"), &arguments(), &overrides, 2);
        let args: Vec<_> = command.get_args().filter_map(|arg| arg.to_str()).collect();
        assert!(args.contains(&"--set=train.iterations=5"), "{args:?}");
        assert!(args.contains(&"--set=combiner.name=sum"), "{args:?}");
        assert!(args.contains(&"--seed=1"), "{args:?}");
        assert!(
            command
                .get_envs()
                .any(|(key, _)| key == "RAYON_NUM_THREADS")
        );
        let alone = jobs[1].command(Path::new("meltr"), &arguments(), &overrides, 1);
        assert_eq!(alone.get_envs().count(), 0);
    }

    #[test]
    #[cfg(unix)]
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
    #[cfg(unix)]
    fn nothing_starts_after_a_failure() {
        let interrupt = AtomicBool::new(false);
        let start = |index: usize| Ok(exited(if index == 1 { 3 } else { 0 }));
        let ended = run_all(5, 1, &interrupt, start, |_| {});
        assert_eq!(ended.len(), 2);
    }

    #[test]
    #[cfg(unix)]
    fn nothing_starts_after_an_interrupt() {
        let interrupt = AtomicBool::new(true);
        assert!(run_all(5, 2, &interrupt, |_| Ok(exited(0)), |_| {}).is_empty());
    }

    #[test]
    #[cfg(unix)]
    fn a_failed_run_is_named_with_its_status_and_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let jobs = plan(folder.path(), 1);
        fs::write(&jobs[1].log, "started\nerror: the disk is full\n").unwrap();
        let ended = [
            Ended {
                index: 0,
                end: Ok(exited(0)),
                seconds: 1.0,
            },
            Ended {
                index: 1,
                end: Ok(exited(3)),
                seconds: 1.0,
            },
        ];
        let error = conclude(&jobs, &ended, folder.path()).unwrap_err();
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
        let ended = [Ended {
            index: 1,
            end: Ok(exited(2)),
            seconds: 1.0,
        }];
        let error = conclude(&jobs, &ended, folder.path()).unwrap_err();
        assert!(matches!(error, CliError::Input(_)));
    }

    #[test]
    #[cfg(unix)]
    fn an_interrupt_tells_what_is_there() {
        let jobs = plan(Path::new("folder"), 1);
        let ended = [
            Ended {
                index: 0,
                end: Ok(exited(0)),
                seconds: 1.0,
            },
            Ended {
                index: 1,
                end: Ok(exited(130)),
                seconds: 1.0,
            },
        ];
        let error = conclude(&jobs, &ended, Path::new("folder")).unwrap_err();
        assert!(matches!(error, CliError::Interrupted(_)));
        assert!(
            error
                .to_string()
                .contains("1 of 3 runs have finished (meltr-1)"),
            "{error}"
        );
    }

    #[test]
    fn what_no_run_could_use_is_refused_before_the_first_starts() {
        let refused = |arguments: &ReproArguments, overrides: &[&str]| {
            let overrides: Vec<String> = overrides.iter().map(|entry| entry.to_string()).collect();
            let experiment = Experiment::parse(EXPERIMENT, "test", &overrides).unwrap();
            let device = device::parse("flex").unwrap();
            check(arguments, &experiment)
                .and_then(|()| experiment.prepare(&device).map(|_| ()))
                .unwrap_err()
                .to_string()
        };
        let good = arguments();
        assert!(
            refused(
                &ReproArguments {
                    seeds: 0,
                    ..arguments()
                },
                &[]
            )
            .contains("--seeds")
        );
        assert!(
            refused(
                &ReproArguments {
                    jobs: Some(0),
                    ..arguments()
                },
                &[]
            )
            .contains("--jobs")
        );
        let splits = refused(&good, &["train.eval_splits=[\"valid\"]"]);
        assert!(splits.contains("`test`"), "{splits}");
        let unknown = refused(&good, &["train.eval_splits=[\"test\", \"dev\"]"]);
        assert!(unknown.contains("unknown split `dev`"), "{unknown}");
        assert!(refused(&good, &["combiner.d_model=100"]).contains("n_heads"));
        let wide = refused(&good, &["data.batches.video_dim=513"]);
        assert!(wide.contains("512 features"), "{wide}");
    }
}
