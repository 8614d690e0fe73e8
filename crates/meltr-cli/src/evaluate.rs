//! `meltr evaluate`.

use std::collections::BTreeMap;
use std::path::Path;

use meltr_core::FineTuneTask;
use meltr_train::report::metric_text;
use meltr_train::{Run, TrainError, read_state_dict};
use serde_json::json;

use crate::cli::EvaluateArguments;
use crate::device;
use crate::error::CliError;
use crate::experiment::{Experiment, Visit, load_published};
use crate::output;
use crate::progress::PairProgress;

pub(crate) fn run(arguments: &EvaluateArguments) -> Result<(), CliError> {
    let device = device::parse(&arguments.device)?;
    let config = Run::read_config(&arguments.run)?;
    let label = arguments.run.join("config.toml").display().to_string();
    let mut experiment = Experiment::parse(&config, &label, &[])?;
    let share = experiment.model.weights_share;
    experiment.model.forget_start();
    let split = arguments
        .split
        .clone()
        .unwrap_or_else(|| experiment.compared_split.clone());
    let evaluated = experiment.prepare(&device)?.visit(Evaluate {
        arguments,
        share,
        split: &split,
    })?;
    let ties = experiment.task.ties().map(|ties| ties.name());
    if arguments.json {
        return output::json(&json!({
            "run": arguments.run.display().to_string(),
            "split": split,
            "n_items": evaluated.n_items,
            "ties": ties,
            "weights": evaluated.weights,
            "metrics": evaluated.metrics,
        }));
    }
    let ties = ties.map_or_else(String::new, |ties| format!(", {ties} ties"));
    output::line(&format!(
        "{} items of split `{split}`{ties}",
        evaluated.n_items
    ));
    for (metric, value) in evaluated.metrics {
        output::line(&format!("{metric}: {}", metric_text(&metric, value)));
    }
    Ok(())
}

/// The weights of a run on one split.
struct Evaluate<'a> {
    arguments: &'a EvaluateArguments,
    share: f64,
    split: &'a str,
}

/// What came out.
struct Evaluated {
    n_items: usize,
    weights: String,
    metrics: BTreeMap<String, f64>,
}

impl Visit for Evaluate<'_> {
    type Output = Evaluated;

    fn visit<T: FineTuneTask>(self, task: &T, model: T::Model) -> Result<Evaluated, CliError>
    where
        CliError: From<T::Error>,
    {
        let (model, weights) = match &self.arguments.weights {
            Some(path) => {
                let model = load_published(task, model, path, self.share)?;
                (model, path.display().to_string())
            }
            None => own_weights(task, model, &self.arguments.run)?,
        };
        let mut progress = PairProgress::new();
        let metrics = task.evaluate_with_progress(&model, self.split, &mut |scored, all| {
            progress.tell(scored, all);
        })?;
        Ok(Evaluated {
            n_items: task.n_items(self.split)?,
            metrics,
            weights,
        })
    }
}

/// The last weights of a run, which have to fit completely.
pub(crate) fn own_weights<T: FineTuneTask>(
    task: &T,
    model: T::Model,
    run: &Path,
) -> Result<(T::Model, String), CliError> {
    let path = run.join("checkpoints/last/inner.safetensors");
    let dict = read_state_dict(&path)?;
    let (model, report) = task.load_state_dict(model, &dict);
    if !report.is_complete() {
        return Err(TrainError::WeightsDoNotFit {
            path,
            report: report.to_string(),
        }
        .into());
    }
    output::note(&format!("weights of `{}`: {report}", path.display()));
    Ok((model, report.to_string()))
}
