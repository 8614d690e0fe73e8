//! `meltr score`: metrics of files made elsewhere.

mod answers;
pub(crate) mod arguments;
pub(crate) mod captions;
mod records;
mod retrieval;
mod sentiment;

use serde_json::{Map, Value, json};

use self::arguments::{ScoreArguments, ScoreCommand};
use crate::error::CliError;
use crate::output;

pub(crate) fn run(arguments: &ScoreArguments) -> Result<(), CliError> {
    match &arguments.command {
        ScoreCommand::Captions(arguments) => captions::run(arguments),
        ScoreCommand::Retrieval(arguments) => retrieval::run(arguments),
        ScoreCommand::Answers(arguments) => answers::run(arguments),
        ScoreCommand::Sentiment(arguments) => sentiment::run(arguments),
    }
}

/// A metric by name; `None` if it is not defined.
type Metric = (&'static str, Option<f64>);

/// Metrics as a JSON object; what is not defined is `null`.
fn object(metrics: &[Metric]) -> Value {
    let members: Map<String, Value> = metrics
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    Value::Object(members)
}

/// Metrics one a line.
fn print(metrics: &[Metric]) {
    for (name, value) in metrics {
        match value {
            Some(value) => output::line(&format!("{name}: {value:.4}")),
            None => output::line(&format!("{name}: not defined")),
        }
    }
}
