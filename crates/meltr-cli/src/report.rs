//! `meltr report`.

use meltr_train::Run;
use meltr_train::report::{Comparison, Report, RunData};

use crate::cli::ReportArguments;
use crate::error::CliError;
use crate::output;

pub(crate) fn run(arguments: &ReportArguments) -> Result<(), CliError> {
    let runs: Vec<RunData> = arguments
        .runs
        .iter()
        .map(|path| Run::read(path))
        .collect::<Result<_, _>>()?;
    let report = Report {
        title: "Comparison of runs",
        runs: &runs,
        references: &[],
    };
    let html = report.to_html().map_err(CliError::failed)?;
    std::fs::write(&arguments.out, html).map_err(|error| {
        CliError::Failed(format!(
            "cannot write `{}`: {error}",
            arguments.out.display()
        ))
    })?;
    let summaries: Vec<_> = runs.iter().filter_map(|run| run.summary.clone()).collect();
    if arguments.json {
        return output::json(&serde_json::json!({
            "report": arguments.out.display().to_string(),
            "runs": summaries,
        }));
    }
    output::line(&Comparison::from_summaries(&summaries, "test").to_text(&[]));
    output::line(&format!("report: {}", arguments.out.display()));
    Ok(())
}
