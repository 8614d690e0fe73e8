//! Weights as safetensors files.

use std::path::Path;

use burn::tensor::{DType, TensorData};
use meltr_core::StateDict;
use meltr_data::{DataError, TensorFile, TensorFileWriter};

/// Writes parameters under their names; nothing half-written is left behind.
///
/// # Errors
///
/// [`DataError`] naming the file if it cannot be written.
pub fn write_state_dict(path: &Path, dict: &StateDict) -> Result<(), DataError> {
    let mut writer = TensorFileWriter::new();
    for (name, data) in dict {
        let shape = data.shape().to_vec();
        match data.dtype() {
            DType::F64 => writer.insert_f64(name.as_str(), &shape, data.iter::<f64>().collect()),
            _ => writer.insert_f32(name.as_str(), &shape, data.iter::<f32>().collect()),
        }
    }
    writer.insert_metadata("format", "pt");
    writer.write(path)
}

/// Reads every float tensor of a safetensors file.
///
/// # Errors
///
/// [`DataError`] naming file and tensor.
pub fn read_state_dict(path: &Path) -> Result<StateDict, DataError> {
    state_dict_from_file(&TensorFile::open(path)?, "")
}

/// Every tensor of `file` whose name starts with `prefix`, under the rest of its name.
///
/// # Errors
///
/// [`DataError`] naming file and tensor.
pub fn state_dict_from_file(file: &TensorFile, prefix: &str) -> Result<StateDict, DataError> {
    file.names()
        .filter_map(|name| name.strip_prefix(prefix).map(|rest| (name, rest)))
        .map(|(name, rest)| {
            let array = file.f32(name)?;
            let shape = array.shape().to_vec();
            Ok((
                rest.to_owned(),
                TensorData::new(array.into_iter().collect::<Vec<f32>>(), shape),
            ))
        })
        .collect()
}
