//! The tensors of one file of a checkpoint, taken out by name.

use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use meltr_core::StateDict;
use meltr_data::{DataError, TensorFile};

use crate::error::TrainError;
use crate::named_parameters::NamedParameter;

/// What a safetensors file holds, to the bit; errors name the file.
#[derive(Debug)]
pub(crate) struct SavedTensors {
    path: PathBuf,
    tensors: StateDict,
}

impl SavedTensors {
    /// Reads a whole file: `F64` as `f64`, integers as `i64`, everything else as `f32`.
    pub(crate) fn read(path: &Path) -> Result<Self, DataError> {
        let file = TensorFile::open(path)?;
        let mut tensors = StateDict::new();
        for name in file.names() {
            let dtype = file.dtype_name(name)?;
            let data = if dtype == "F64" {
                let array = file.f64(name)?;
                let shape = array.shape().to_vec();
                TensorData::new(array.into_iter().collect::<Vec<f64>>(), shape)
            } else if dtype.starts_with(['I', 'U']) {
                let array = file.i64(name)?;
                let shape = array.shape().to_vec();
                TensorData::new(array.into_iter().collect::<Vec<i64>>(), shape)
            } else {
                let array = file.f32(name)?;
                let shape = array.shape().to_vec();
                TensorData::new(array.into_iter().collect::<Vec<f32>>(), shape)
            };
            tensors.insert(name.to_owned(), data);
        }
        Ok(Self {
            path: path.to_owned(),
            tensors,
        })
    }

    /// Tensors that no file holds.
    #[cfg(test)]
    pub(crate) fn in_memory(tensors: StateDict) -> Self {
        Self {
            path: PathBuf::from("in memory"),
            tensors,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn tensors(&self) -> &StateDict {
        &self.tensors
    }

    /// The names that begin with `prefix`, sorted.
    pub(crate) fn names_below(&self, prefix: &str) -> Vec<String> {
        self.tensors
            .keys()
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// Whether a tensor is there that has not been taken.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Takes the vector of a parameter out.
    pub(crate) fn take_vector(
        &mut self,
        name: &str,
        parameter: &NamedParameter,
    ) -> Result<Tensor<1>, TrainError> {
        let Some(data) = self.tensors.remove(name) else {
            return Err(self.unfit(format!("it has no tensor `{name}`")));
        };
        let shape = data.shape().to_vec();
        parameter.vector(data).ok_or_else(|| {
            self.unfit(format!(
                "`{name}` has shape {shape:?}, and the model needs [{}]",
                parameter.count
            ))
        })
    }

    /// Takes a single whole number out, if it is there.
    pub(crate) fn take_count(&mut self, name: &str) -> Result<Option<usize>, TrainError> {
        let Some(data) = self.tensors.remove(name) else {
            return Ok(None);
        };
        let values: Vec<i64> = data.iter::<i64>().collect();
        match values[..] {
            [value] => usize::try_from(value)
                .map(Some)
                .map_err(|_| self.unfit(format!("`{name}` is {value}, below 0"))),
            _ => Err(self.unfit(format!(
                "`{name}` holds {} numbers instead of one",
                values.len()
            ))),
        }
    }

    /// Everything has been taken out.
    pub(crate) fn require_used_up(&self) -> Result<(), TrainError> {
        match self.tensors.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.unfit(format!(
                "it holds `{name}`, for which the model has no place"
            ))),
        }
    }

    fn unfit(&self, reason: String) -> TrainError {
        TrainError::BadCheckpoint {
            path: self.path.clone(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::write_state_dict;

    fn dict(entries: Vec<(&str, TensorData)>) -> StateDict {
        entries
            .into_iter()
            .map(|(name, data)| (name.to_owned(), data))
            .collect()
    }

    #[test]
    fn what_is_written_is_read_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let tensors = dict(vec![
            ("double", TensorData::new(vec![0.1_f64, -1e-300], [2])),
            ("single", TensorData::new(vec![0.1_f32, f32::NAN], [1, 2])),
            ("whole", TensorData::new(vec![7_i64], [1])),
        ]);
        write_state_dict(&path, &tensors).unwrap();
        let read = SavedTensors::read(&path).unwrap();
        for (name, data) in &tensors {
            let found = &read.tensors()[name];
            assert_eq!(found.dtype(), data.dtype(), "{name}");
            assert_eq!(found.shape(), data.shape(), "{name}");
            assert_eq!(found.as_bytes(), data.as_bytes(), "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let mut saved = SavedTensors::in_memory(dict(vec![
            ("pair", TensorData::new(vec![1_i64, 2], [2])),
            ("negative", TensorData::new(vec![-1_i64], [1])),
            ("left", TensorData::new(vec![1_i64], [1])),
        ]));
        assert_eq!(saved.take_count("absent").unwrap(), None);
        for (name, part) in [("pair", "2 numbers"), ("negative", "below 0")] {
            let error = saved.take_count(name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(part), "{error}");
        }
        let error = saved.require_used_up().unwrap_err().to_string();
        assert!(error.contains("`left`"), "{error}");
        assert_eq!(saved.take_count("left").unwrap(), Some(1));
        saved.require_used_up().unwrap();
    }
}
