//! Weights as safetensors files.

use std::path::Path;

use burn::tensor::{DType, TensorData};
use meltr_core::StateDict;
use meltr_data::{
    Checkpoint, CheckpointValue, DataError, ElementType, TensorFile, TensorFileWriter, univl_key,
};

/// Keys below which published checkpoints keep their parameters.
const TOP_LEVEL_KEYS: [&str; 2] = ["state_dict", "model"];

/// What a model that was wrapped for several GPUs puts before every name.
const WRAPPER: &str = "module.";

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
            // Index tables that published state dicts hold beside the parameters.
            DType::I64 => writer.insert_i64(name.as_str(), &shape, data.iter::<i64>().collect()),
            _ => writer.insert_f32(name.as_str(), &shape, data.iter::<f32>().collect()),
        }
    }
    writer.insert_metadata("format", "pt");
    writer.write(path)
}

/// Reads every tensor of a safetensors file.
///
/// # Errors
///
/// [`DataError`] naming file and tensor.
pub fn read_state_dict(path: &Path) -> Result<StateDict, DataError> {
    state_dict_from_file(&TensorFile::open(path)?, "")
}

/// Reads every float tensor of a checkpoint that PyTorch wrote, in either of its formats.
///
/// The parameters may lie at the top level or below `state_dict` or `model`; a leading `module.`
/// goes, and the old names of normalizations (`gamma`, `beta`) become `weight` and `bias`, as the
/// published loaders do. Tensors of integers are no parameters and are left out.
///
/// # Errors
///
/// [`DataError`] naming file and tensor.
pub fn read_checkpoint(path: &Path) -> Result<StateDict, DataError> {
    let mut checkpoint = Checkpoint::open(path)?;
    for key in TOP_LEVEL_KEYS {
        let below = checkpoint.root().get(key).map(|item| item.value());
        if matches!(below, Some(CheckpointValue::Dict(_))) {
            checkpoint = checkpoint.with_top_level_key(key)?;
            break;
        }
    }
    let floats = [
        ElementType::F16,
        ElementType::Bf16,
        ElementType::F32,
        ElementType::F64,
    ];
    let mut dict = StateDict::new();
    for (name, tensor) in checkpoint.tensors() {
        if !floats.contains(&tensor.element()) {
            continue;
        }
        let array = checkpoint.read(name)?;
        let Some(values) = array.to_f32() else {
            continue;
        };
        let own = univl_key(name.strip_prefix(WRAPPER).unwrap_or(name));
        let shape = values.shape().to_vec();
        dict.insert(
            own,
            TensorData::new(values.into_iter().collect::<Vec<f32>>(), shape),
        );
    }
    Ok(dict)
}

/// Every tensor of `file` whose name starts with `prefix`, under the rest of its name: floats as
/// `f32`, integers as `i64`.
///
/// # Errors
///
/// [`DataError`] naming file and tensor.
pub fn state_dict_from_file(file: &TensorFile, prefix: &str) -> Result<StateDict, DataError> {
    file.names()
        .filter_map(|name| name.strip_prefix(prefix).map(|rest| (name, rest)))
        .map(|(name, rest)| {
            let data = if file.dtype_name(name)?.starts_with(['I', 'U']) {
                let array = file.i64(name)?;
                let shape = array.shape().to_vec();
                TensorData::new(array.into_iter().collect::<Vec<i64>>(), shape)
            } else {
                let array = file.f32(name)?;
                let shape = array.shape().to_vec();
                TensorData::new(array.into_iter().collect::<Vec<f32>>(), shape)
            };
            Ok((rest.to_owned(), data))
        })
        .collect()
}
