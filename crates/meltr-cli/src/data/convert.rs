//! `meltr data convert`.

use meltr_data::VideoFeatures;
use serde_json::json;

use super::arguments::ConvertArguments;
use super::must_not_exist;
use crate::error::CliError;
use crate::output;

pub(super) fn run(arguments: &ConvertArguments) -> Result<(), CliError> {
    must_not_exist(&arguments.out)?;
    if arguments.width == 0 {
        return Err(CliError::Input(
            "--width is 0; choose the number of features of a row, such as 1024".to_owned(),
        ));
    }
    let features = VideoFeatures::open(&arguments.file, arguments.width)?;
    let mut n_rows = 0_usize;
    for id in features.ids() {
        n_rows += features.n_rows(id)?;
    }
    features.write_safetensors(&arguments.out)?;
    let n_ids = features.len();
    let out = arguments.out.display().to_string();
    if arguments.json {
        return output::json(&json!({
            "file": arguments.file.display().to_string(),
            "out": out,
            "ids": n_ids,
            "rows": n_rows,
            "width": arguments.width,
        }));
    }
    output::line(&format!(
        "{out}: {n_ids} ids, {n_rows} rows of {} features",
        arguments.width
    ));
    Ok(())
}
