//! The one place that prints.

use std::io::Write;

use serde::Serialize;

use crate::error::CliError;

/// A line of results on standard output; a closed pipe is no error.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// One JSON document on standard output.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(CliError::failed)?;
    line(&text);
    Ok(())
}

/// A line of progress or advice on standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The message of an error on standard error.
pub(crate) fn error(error: &CliError) {
    note(&format!("error: {error}"));
}
