//! `meltr data inspect`.

use super::arguments::InspectArguments;
use crate::error::CliError;
use crate::output;

pub(super) fn run(arguments: &InspectArguments) -> Result<(), CliError> {
    let inspection = meltr_data::inspect(&arguments.file)?;
    if arguments.json {
        return output::json(&inspection);
    }
    output::line(inspection.to_string().trim_end());
    Ok(())
}
