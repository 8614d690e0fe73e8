//! `meltr weights`.

use meltr_data::TensorFile;
use serde_json::json;

use crate::cli::{WeightsArguments, WeightsCommand};
use crate::error::CliError;
use crate::output;

pub(crate) fn run(arguments: &WeightsArguments) -> Result<(), CliError> {
    let WeightsCommand::Inspect { file: path, json } = &arguments.command;
    let file = TensorFile::open(path)?;
    let mut rows = Vec::new();
    let mut total = 0usize;
    for name in file.names() {
        let shape = file.shape(name)?.to_vec();
        total += shape.iter().product::<usize>();
        rows.push((name.to_owned(), shape, file.dtype_name(name)?));
    }
    if *json {
        let tensors: Vec<_> = rows
            .iter()
            .map(|(name, shape, dtype)| json!({"name": name, "shape": shape, "dtype": dtype}))
            .collect();
        return output::json(&json!({ "tensors": tensors, "n_values": total }));
    }
    for (name, shape, dtype) in &rows {
        output::line(&format!("{name}\t{shape:?}\t{dtype}"));
    }
    output::note(&format!("{} tensors, {total} values", rows.len()));
    Ok(())
}
