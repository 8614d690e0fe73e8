//! `meltr fine-tune`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meltr_core::FineTuneTask;
use meltr_train::report::metric_text;
use meltr_train::{Run, Settings, fine_tune};

use crate::cli::FineTuneArguments;
use crate::device;
use crate::error::CliError;
use crate::experiment::{Experiment, Visit};
use crate::output::{self, RunProgress};

pub(crate) fn run(arguments: &FineTuneArguments) -> Result<(), CliError> {
    let mut overrides = arguments.set.clone();
    if let Some(seed) = arguments.seed {
        overrides.push(format!("seed={seed}"));
    }
    let experiment = Experiment::read(&arguments.experiment, &overrides)?;
    let device = device::parse(&arguments.device)?;
    experiment.prepare(&device)?.visit(FineTune {
        arguments,
        experiment: &experiment,
    })
}

/// One run of whatever task.
struct FineTune<'a> {
    arguments: &'a FineTuneArguments,
    experiment: &'a Experiment,
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
        } = self;
        let directory = match &arguments.out {
            Some(directory) => directory.clone(),
            None => next_free(&Path::new("runs").join(experiment.name.replace('/', "-"))),
        };
        let mut run = Run::create(&directory, &experiment.to_toml()?)?;
        let interrupt = interrupt_flag()?;
        let mut progress = RunProgress::new(experiment.train.iterations);
        let name = directory.file_name().map_or_else(
            || experiment.name.clone(),
            |name| name.to_string_lossy().into_owned(),
        );
        let outcome = fine_tune(
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
        )?;
        progress.finish();
        if outcome.interrupted {
            return Err(CliError::Interrupted(format!(
                "weights after {} steps are in `{}`",
                outcome.summary.iterations,
                directory.display()
            )));
        }
        let summary = &outcome.summary;
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
}

/// The first of `base/001`, `base/002`, ... that does not exist.
pub(crate) fn next_free(base: &Path) -> PathBuf {
    (1..)
        .map(|number| base.join(format!("{number:03}")))
        .find(|path| !path.exists())
        .unwrap_or_else(|| base.to_owned())
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the process at once.
fn interrupt_flag() -> Result<Arc<AtomicBool>, CliError> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        output::note("interrupted: saving after this step; press again to stop at once");
    })
    .map_err(CliError::failed)?;
    Ok(flag)
}
