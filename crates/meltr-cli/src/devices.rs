//! `meltr devices`.

use serde_json::json;

use crate::cli::DevicesArguments;
use crate::device::KINDS;
use crate::error::CliError;
use crate::output;

pub(crate) fn run(arguments: &DevicesArguments) -> Result<(), CliError> {
    if arguments.json {
        let devices: Vec<_> = KINDS
            .iter()
            .map(
                |kind| json!({"name": kind.name, "available": kind.available, "about": kind.about}),
            )
            .collect();
        return output::json(&json!({ "devices": devices }));
    }
    for kind in &KINDS {
        let state = if kind.available { "yes" } else { "no " };
        let hint = if kind.available {
            String::new()
        } else {
            format!(" (build with --features {})", kind.name)
        };
        output::line(&format!("{state}  {:<7} {}{hint}", kind.name, kind.about));
    }
    Ok(())
}
