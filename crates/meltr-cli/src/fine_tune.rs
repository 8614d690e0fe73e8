//! `meltr fine-tune`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use meltr_core::FineTuneTask;
use meltr_train::record::Summary;
use meltr_train::report::metric_text;
use meltr_train::{
    Progress, Run, Settings, TrainError, differing_settings, fine_tune, require_equal_shares,
};

use crate::cli::FineTuneArguments;
use crate::device;
use crate::error::CliError;
use crate::experiment::{Experiment, Prepared, Visit};
use crate::job::Job;
use crate::output;
use crate::progress::RunProgress;

pub(crate) fn run(arguments: &FineTuneArguments) -> Result<(), CliError> {
    let job = Job::start()?;
    let Some((experiment, run)) = job.agree(opened(arguments, &job))? else {
        return Ok(());
    };
    let config = job.agree(experiment.to_toml())?;
    let first = job.first_text(config.clone());
    job.agree(require_same_settings(&first, &config))?;
    job.agree(prepared(arguments, &experiment, &job))?
        .visit(FineTune {
            arguments,
            experiment: &experiment,
            run,
            job: &job,
        })
}

/// The experiment, and the run to go on with; without one, another is started. `None` if that run
/// has ended.
fn opened(
    arguments: &FineTuneArguments,
    job: &Job,
) -> Result<Option<(Experiment, Option<Run>)>, CliError> {
    let mut overrides = arguments.set.clone();
    if let Some(combiner) = arguments.combiner {
        overrides.push(format!("combiner.name={}", combiner.name()));
    }
    if let Some(seed) = arguments.seed {
        overrides.push(format!("seed={seed}"));
    }
    match &arguments.resume {
        Some(directory) => {
            let mut experiment = experiment_of_run(arguments, directory, &overrides)?;
            if let Some(summary) = Run::read_summary(directory)? {
                if job.is_first() {
                    output::note(&format!(
                        "`{}` has ended; there is nothing left to do",
                        directory.display()
                    ));
                    tell(arguments, directory, &summary)?;
                }
                return Ok(None);
            }
            let run = if job.is_first() {
                Run::resume(directory)?
            } else {
                Run::resume_elsewhere(directory)?
            };
            if run.goes_on_after().is_some() {
                experiment.model.forget_start();
            }
            Ok(Some((experiment, Some(run))))
        }
        None => {
            let Some(path) = &arguments.experiment else {
                return Err(CliError::Input(
                    "name an experiment, or a run to go on with: --resume RUN".to_owned(),
                ));
            };
            Ok(Some((Experiment::read(path, &overrides)?, None)))
        }
    }
}

/// An error unless the settings of this process, `own`, are those of the first.
fn require_same_settings(first: &str, own: &str) -> Result<(), CliError> {
    if first == own {
        return Ok(());
    }
    let mut differences = differing_settings(first, own).join(", ");
    if differences.is_empty() {
        differences = "which checkpoints are kept, or the title".to_owned();
    }
    Err(CliError::Input(format!(
        "processes that share a run need the same settings; those of the first and those of \
         another differ in {differences}"
    )))
}

/// Task and model.
fn prepared(
    arguments: &FineTuneArguments,
    experiment: &Experiment,
    job: &Job,
) -> Result<Prepared, CliError> {
    let device = device::parse(&arguments.device)?;
    let n_workers = job.workers().n_workers();
    require_equal_shares(&experiment.train, &experiment.outer, n_workers)?;
    experiment.prepare(&device)
}

/// The settings that a run was started with, after they were held against those asked for.
///
/// Where a setting differs that no number depends on, the one asked for counts.
fn experiment_of_run(
    arguments: &FineTuneArguments,
    directory: &Path,
    overrides: &[String],
) -> Result<Experiment, CliError> {
    let config = Run::read_config(directory)?;
    let label = directory.join("config.toml").display().to_string();
    let own = Experiment::parse(&config, &label, &[])?;
    let asked = match &arguments.experiment {
        Some(path) => Experiment::read(path, overrides)?,
        None => Experiment::parse(&config, &label, overrides)?,
    };
    let differences = differing_settings(&own.to_toml()?, &asked.to_toml()?);
    if differences.is_empty() {
        return Ok(asked);
    }
    Err(TrainError::SettingsChanged {
        path: directory.to_owned(),
        differences: differences.join(", "),
    }
    .into())
}

/// One run of whatever task.
struct FineTune<'a> {
    arguments: &'a FineTuneArguments,
    experiment: &'a Experiment,
    /// The run to go on with; without one, another is started.
    run: Option<Run>,
    job: &'a Job,
}

impl Visit for FineTune<'_> {
    type Output = ();

    fn visit<T: FineTuneTask>(self, task: &T, model: T::Model) -> Result<(), CliError>
    where
        CliError: From<T::Error>,
    {
        let Self {
            arguments,
            experiment,
            run,
            job,
        } = self;
        let own = match (run, &arguments.out) {
            (Some(run), _) => Ok(Some(run)),
            (None, _) if !job.is_first() => Ok(None),
            (None, Some(directory)) => created(directory, experiment).map(Some),
            (None, None) => {
                let base = Path::new("runs").join(experiment.name.replace('/', "-"));
                created(&next_free(&base), experiment).map(Some)
            }
        };
        let own = job.agree(own)?;
        let known = own
            .as_ref()
            .map(|run| run.directory().display().to_string());
        let told = job.first_text(known.unwrap_or_default());
        let mut run = own.unwrap_or_else(|| Run::elsewhere(Path::new(&told)));
        let directory = run.directory().to_owned();
        let interrupt = job.agree(interrupt_flag(job, &directory))?;
        // Launchers give their input to the first process alone; the others agree with it.
        if arguments.end_with_input && job.is_first() {
            follow_input(Arc::clone(&interrupt));
        }
        let mut shown = job.is_first().then(|| RunProgress::new(&experiment.train));
        let mut silent = Silent;
        let progress: &mut dyn Progress = match &mut shown {
            Some(shown) => shown,
            None => &mut silent,
        };
        let name = directory.file_name().map_or_else(
            || experiment.name.clone(),
            |name| name.to_string_lossy().into_owned(),
        );
        let ended = fine_tune(
            task,
            model,
            Settings {
                name: &name,
                seed: experiment.seed,
                device_name: &arguments.device,
                train: &experiment.train,
                inner: &experiment.inner,
                outer: &experiment.outer,
                combiner: &experiment.combiner,
                workers: job.workers(),
            },
            &mut run,
            progress,
            &interrupt,
        );
        if let Some(shown) = &shown {
            shown.finish();
        }
        let outcome = match ended {
            Ok(outcome) => outcome,
            Err(error) => {
                let saved = directory.join("checkpoints/last").exists();
                if saved && (matches!(error, TrainError::Io { .. }) || !job.is_alone()) {
                    output::note(&format!(
                        "the last checkpoint is whole; {}",
                        how_to_go_on(&directory)
                    ));
                }
                return Err(job.ended_by(error.into()));
            }
        };
        let told = if !job.is_first() {
            Ok(())
        } else if outcome.interrupted {
            Err(CliError::Interrupted(format!(
                "weights after {} steps are in `{}`; {}",
                outcome.summary.iterations,
                directory.display(),
                how_to_go_on(&directory)
            )))
        } else {
            tell(arguments, &directory, &outcome.summary)
        };
        job.agree(told)
    }
}

/// Progress that another process shows.
struct Silent;

impl Progress for Silent {
    fn step(&mut self, _iteration: usize, _n_iterations: usize, _combined_loss: f64) {}

    fn message(&mut self, _text: &str) {}
}

fn created(directory: &Path, experiment: &Experiment) -> Result<Run, CliError> {
    Ok(Run::create(directory, &experiment.to_toml()?)?)
}

fn how_to_go_on(directory: &Path) -> String {
    format!(
        "to go on: meltr fine-tune --resume '{}'",
        directory.display()
    )
}

/// The results of a run that has ended.
fn tell(
    arguments: &FineTuneArguments,
    directory: &Path,
    summary: &Summary,
) -> Result<(), CliError> {
    if arguments.json {
        return output::json(summary);
    }
    output::line(&format!("run: {}", directory.display()));
    for (split, metrics) in &summary.metrics {
        for (metric, value) in metrics {
            output::line(&format!(
                "{split} {metric}: {}",
                metric_text(metric, *value)
            ));
        }
    }
    output::line(&format!("training: {:.1} s", summary.train_seconds));
    if let Some(error) = summary.worst_hypergradient_error {
        output::line(&format!(
            "largest relative error of a hypergradient: {error:.1e}"
        ));
    }
    Ok(())
}

/// The first of `base/001`, `base/002`, ... that does not exist.
pub(crate) fn next_free(base: &Path) -> PathBuf {
    (1..)
        .map(|number| base.join(format!("{number:03}")))
        .find(|path| !path.exists())
        .unwrap_or_else(|| base.to_owned())
}

/// A flag that Ctrl-C sets, and a request to terminate; the second of them ends the process at
/// once.
fn interrupt_flag(job: &Job, directory: &Path) -> Result<Arc<AtomicBool>, CliError> {
    let (rank, n_workers) = (job.workers().rank(), job.workers().n_workers());
    let said = if job.is_alone() {
        "interrupted: saving after this step; press again to stop at once".to_owned()
    } else {
        // Launchers ask the others to end where one was killed, and give them little time.
        format!(
            "process {rank} of {n_workers} (from 0) was asked to end: the job was interrupted, or \
             another process of it has ended; if all of them live, the run is saved after this \
             step, and otherwise its last checkpoint stays; {}",
            how_to_go_on(directory)
        )
    };
    // The first may be the one that has ended.
    let is_said = rank < 2;
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let mut is_second = false;
    ctrlc::set_handler(move || {
        if is_second {
            std::process::exit(130);
        }
        is_second = true;
        seen.store(true, Ordering::SeqCst);
        if is_said {
            output::note(&said);
        }
    })
    .map_err(CliError::failed)?;
    Ok(flag)
}

/// Sets the flag once standard input is at its end: the process that started this one closes it to
/// end the run, or has ended itself.
fn follow_input(flag: Arc<AtomicBool>) {
    thread::spawn(move || {
        // Nothing is ever written to it, and an error is an end, too.
        io::copy(&mut io::stdin().lock(), &mut io::sink()).ok();
        if !flag.swap(true, Ordering::SeqCst) {
            output::note("interrupted: saving after this step");
        }
    });
}
