//! `meltr fine-tune`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use meltr_core::FineTuneTask;
use meltr_train::record::Summary;
use meltr_train::report::metric_text;
use meltr_train::{Run, Settings, TrainError, differing_settings, fine_tune};

use crate::cli::FineTuneArguments;
use crate::device;
use crate::error::CliError;
use crate::experiment::{Experiment, Visit};
use crate::output;
use crate::progress::RunProgress;

pub(crate) fn run(arguments: &FineTuneArguments) -> Result<(), CliError> {
    let mut overrides = arguments.set.clone();
    if let Some(combiner) = arguments.combiner {
        overrides.push(format!("combiner.name={}", combiner.name()));
    }
    if let Some(seed) = arguments.seed {
        overrides.push(format!("seed={seed}"));
    }
    let (experiment, run) = match &arguments.resume {
        Some(directory) => {
            let mut experiment = experiment_of_run(arguments, directory, &overrides)?;
            if let Some(summary) = Run::read_summary(directory)? {
                output::note(&format!(
                    "`{}` has ended; there is nothing left to do",
                    directory.display()
                ));
                return tell(arguments, directory, &summary);
            }
            let run = Run::resume(directory)?;
            if run.goes_on_after().is_some() {
                // The run's own weights come in the place of those that it started from.
                experiment.model.weights = None;
            }
            (experiment, Some(run))
        }
        None => {
            let Some(path) = &arguments.experiment else {
                return Err(CliError::Input(
                    "name an experiment, or a run to go on with: --resume RUN".to_owned(),
                ));
            };
            (Experiment::read(path, &overrides)?, None)
        }
    };
    let device = device::parse(&arguments.device)?;
    experiment.prepare(&device)?.visit(FineTune {
        arguments,
        experiment: &experiment,
        run,
    })
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
        } = self;
        let mut run = match (run, &arguments.out) {
            (Some(run), _) => run,
            (None, Some(directory)) => Run::create(directory, &experiment.to_toml()?)?,
            (None, None) => {
                let base = Path::new("runs").join(experiment.name.replace('/', "-"));
                Run::create(&next_free(&base), &experiment.to_toml()?)?
            }
        };
        let directory = run.directory().to_owned();
        let interrupt = interrupt_flag()?;
        if arguments.end_with_input {
            follow_input(Arc::clone(&interrupt));
        }
        let mut progress = RunProgress::new(&experiment.train);
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
            },
            &mut run,
            &mut progress,
            &interrupt,
        );
        progress.finish();
        let outcome = match ended {
            Ok(outcome) => outcome,
            Err(error) => {
                let saved = directory.join("checkpoints/last").exists();
                if saved && matches!(error, TrainError::Io { .. }) {
                    output::note(&format!(
                        "the last checkpoint is whole; {}",
                        how_to_go_on(&directory)
                    ));
                }
                return Err(error.into());
            }
        };
        if outcome.interrupted {
            return Err(CliError::Interrupted(format!(
                "weights after {} steps are in `{}`; {}",
                outcome.summary.iterations,
                directory.display(),
                how_to_go_on(&directory)
            )));
        }
        tell(arguments, &directory, &outcome.summary)
    }
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
fn interrupt_flag() -> Result<Arc<AtomicBool>, CliError> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let mut is_second = false;
    ctrlc::set_handler(move || {
        if is_second {
            std::process::exit(130);
        }
        is_second = true;
        seen.store(true, Ordering::SeqCst);
        output::note("interrupted: saving after this step; press again to stop at once");
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
