//! `meltr evaluate`.

use meltr_core::FineTuneTask;
use meltr_train::{Run, TrainError, read_state_dict};
use serde_json::json;

use crate::cli::EvaluateArguments;
use crate::device;
use crate::error::CliError;
use crate::experiment::{Experiment, Prepared};
use crate::output;

pub(crate) fn run(arguments: &EvaluateArguments) -> Result<(), CliError> {
    let device = device::parse(&arguments.device)?;
    let config = Run::read_config(&arguments.run)?;
    let label = arguments.run.join("config.toml").display().to_string();
    let experiment = Experiment::parse(&config, &label, &[])?;
    let Prepared { task, model } = experiment.prepare(&device)?;
    let path = arguments.run.join("checkpoints/last/inner.safetensors");
    let dict = read_state_dict(&path)?;
    let (model, report) = task.load_state_dict(model, &dict);
    if !report.is_complete() {
        return Err(TrainError::WeightsDoNotFit {
            path,
            report: report.to_string(),
        }
        .into());
    }
    let metrics = task.evaluate(&model, &arguments.split)?;
    let n_items = task.n_items(&arguments.split)?;
    if arguments.json {
        return output::json(&json!({
            "run": arguments.run.display().to_string(),
            "split": arguments.split,
            "n_items": n_items,
            "ties": experiment.task.ties,
            "weights": report.to_string(),
            "metrics": metrics,
        }));
    }
    output::note(&format!("weights of `{}`: {report}", path.display()));
    output::line(&format!(
        "{} items of split `{}`, {} ties",
        n_items,
        arguments.split,
        experiment.task.ties.name()
    ));
    for (metric, value) in metrics {
        output::line(&format!("{metric}: {value:.4}"));
    }
    Ok(())
}
