//! Named arrays in `.safetensors` files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use ndarray::{Array, ArrayD, Dimension, IxDyn};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};

use crate::error::{DataError, DataErrorKind};
use crate::host_array::{ElementType, HostArray, StorageOrder};

/// Bytes before the header: its length as a little-endian integer.
const PREFIX_LEN: usize = 8;

/// Key of the header that holds the metadata instead of a tensor.
const METADATA_KEY: &str = "__metadata__";

/// Element types that both sides have.
const ELEMENTS: [(Dtype, ElementType); 14] = [
    (Dtype::BOOL, ElementType::Bool),
    (Dtype::U8, ElementType::U8),
    (Dtype::I8, ElementType::I8),
    (Dtype::I16, ElementType::I16),
    (Dtype::U16, ElementType::U16),
    (Dtype::F16, ElementType::F16),
    (Dtype::BF16, ElementType::Bf16),
    (Dtype::I32, ElementType::I32),
    (Dtype::U32, ElementType::U32),
    (Dtype::F32, ElementType::F32),
    (Dtype::C64, ElementType::Complex64),
    (Dtype::F64, ElementType::F64),
    (Dtype::I64, ElementType::I64),
    (Dtype::U64, ElementType::U64),
];

/// Names that an error message lists at most.
const MAX_LISTED_NAMES: usize = 8;

/// A `.safetensors` file in memory, validated when it is opened.
///
/// Element types are converted on reading: a file may store half precision and be read as `f32`.
/// NaN and infinite values are allowed.
///
/// ```
/// use std::path::Path;
/// use meltr_data::{TensorFile, TensorFileWriter};
///
/// # fn main() -> Result<(), meltr_data::DataError> {
/// let mut writer = TensorFileWriter::new();
/// writer.insert_f32("weight", &[2, 1], vec![0.5, -1.0]);
/// let file = TensorFile::from_bytes(Path::new("example"), writer.to_bytes()?)?;
/// assert_eq!(file.f32("weight")?[[1, 0]], -1.0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    place: Range<usize>,
}

impl TensorFile {
    /// Reads a whole file into memory and validates it.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is absent, unreadable, truncated or malformed.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let bytes = fs::read(path).map_err(|source| DataError::reading(path, source))?;
        Self::from_bytes(path, bytes)
    }

    /// Validates the bytes of a file; `label` stands for its path in errors.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::Truncated`] if the bytes end early and
    /// [`DataErrorKind::Malformed`] if they are no `.safetensors` file.
    pub fn from_bytes(label: &Path, bytes: Vec<u8>) -> Result<Self, DataError> {
        check_length(&bytes).map_err(|kind| DataError::new(label, kind))?;
        let (header_len, header) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| DataError::new(label, malformed(&error)))?;
        let start = PREFIX_LEN + header_len;
        let entries = header
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (from, to) = info.data_offsets;
                let place = start + from..start + to;
                (
                    name,
                    Entry {
                        dtype: info.dtype,
                        shape: info.shape.clone(),
                        place,
                    },
                )
            })
            .collect();
        let metadata = header
            .metadata()
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        Ok(Self {
            path: label.to_path_buf(),
            bytes,
            entries,
            metadata,
        })
    }

    /// The path, or the label given instead of one.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether a tensor of this name is present.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The free-text key-value pairs of the header.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::MissingTensor`] if there is no tensor of this name.
    pub fn shape(&self, name: &str) -> Result<&[usize], DataError> {
        Ok(&self.entry(name)?.shape)
    }

    /// The element type of a tensor as it is stored, e.g. `F16`.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::MissingTensor`] if there is no tensor of this name.
    pub fn dtype_name(&self, name: &str) -> Result<String, DataError> {
        Ok(self.entry(name)?.dtype.to_string())
    }

    /// A floating-point tensor, converted to `f32` from `F16`, `BF16`, `F32` or `F64`.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::MissingTensor`] or [`DataErrorKind::WrongDtype`].
    pub fn f32(&self, name: &str) -> Result<ArrayD<f32>, DataError> {
        let entry = self.entry(name)?;
        let bytes = &self.bytes[entry.place.clone()];
        let values = match entry.dtype {
            Dtype::F16 => convert(bytes, |element| f16::from_le_bytes(element).to_f32()),
            Dtype::BF16 => convert(bytes, |element| bf16::from_le_bytes(element).to_f32()),
            Dtype::F32 => convert(bytes, f32::from_le_bytes),
            Dtype::F64 => convert(bytes, |element| f64::from_le_bytes(element) as f32),
            _ => return Err(self.wrong_dtype(name, entry, "F16, BF16, F32 or F64")),
        };
        self.shaped(entry, values)
    }

    /// A floating-point tensor, converted to `f64` from `F16`, `BF16`, `F32` or `F64`.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::MissingTensor`] or [`DataErrorKind::WrongDtype`].
    pub fn f64(&self, name: &str) -> Result<ArrayD<f64>, DataError> {
        let entry = self.entry(name)?;
        let bytes = &self.bytes[entry.place.clone()];
        let values = match entry.dtype {
            Dtype::F16 => convert(bytes, |element| f16::from_le_bytes(element).to_f64()),
            Dtype::BF16 => convert(bytes, |element| bf16::from_le_bytes(element).to_f64()),
            Dtype::F32 => convert(bytes, |element| f64::from(f32::from_le_bytes(element))),
            Dtype::F64 => convert(bytes, f64::from_le_bytes),
            _ => return Err(self.wrong_dtype(name, entry, "F16, BF16, F32 or F64")),
        };
        self.shaped(entry, values)
    }

    /// An integer or Boolean tensor, converted to `i64` (true = 1) from any type but `U64`.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::MissingTensor`] or [`DataErrorKind::WrongDtype`].
    pub fn i64(&self, name: &str) -> Result<ArrayD<i64>, DataError> {
        let entry = self.entry(name)?;
        let bytes = &self.bytes[entry.place.clone()];
        let values = match entry.dtype {
            Dtype::BOOL => convert(bytes, |[element]: [u8; 1]| i64::from(element != 0)),
            Dtype::U8 => convert(bytes, |element| i64::from(u8::from_le_bytes(element))),
            Dtype::I8 => convert(bytes, |element| i64::from(i8::from_le_bytes(element))),
            Dtype::U16 => convert(bytes, |element| i64::from(u16::from_le_bytes(element))),
            Dtype::I16 => convert(bytes, |element| i64::from(i16::from_le_bytes(element))),
            Dtype::U32 => convert(bytes, |element| i64::from(u32::from_le_bytes(element))),
            Dtype::I32 => convert(bytes, |element| i64::from(i32::from_le_bytes(element))),
            Dtype::I64 => convert(bytes, i64::from_le_bytes),
            _ => {
                return Err(self.wrong_dtype(
                    name,
                    entry,
                    "I64, I32, I16, I8, U32, U16, U8 or BOOL",
                ));
            }
        };
        self.shaped(entry, values)
    }

    /// A tensor as it is stored.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::MissingTensor`], or [`DataErrorKind::WrongDtype`] for types of
    /// eight bits and less that no array here has.
    pub fn host_array(&self, name: &str) -> Result<HostArray, DataError> {
        let entry = self.entry(name)?;
        let Some(element) = ELEMENTS
            .iter()
            .find(|(dtype, _)| *dtype == entry.dtype)
            .map(|(_, element)| *element)
        else {
            return Err(self.wrong_dtype(name, entry, "a type of 8 to 64 bits"));
        };
        let bytes = self.bytes[entry.place.clone()].to_vec();
        HostArray::new(element, entry.shape.clone(), StorageOrder::C, bytes).map_err(|error| {
            self.error(DataErrorKind::Malformed {
                offset: Some(entry.place.start as u64),
                reason: error.to_string(),
            })
        })
    }

    fn entry(&self, name: &str) -> Result<&Entry, DataError> {
        self.entries.get(name).ok_or_else(|| {
            let mut known: Vec<&str> = self.names().take(MAX_LISTED_NAMES).collect();
            if self.entries.len() > known.len() {
                known.push("...");
            }
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            self.error(DataErrorKind::MissingTensor {
                name: name.to_owned(),
                known,
            })
        })
    }

    fn wrong_dtype(&self, name: &str, entry: &Entry, expected: &'static str) -> DataError {
        let actual = entry.dtype.to_string();
        self.error(DataErrorKind::WrongDtype {
            name: name.to_owned(),
            expected,
            actual,
        })
    }

    fn shaped<T>(&self, entry: &Entry, values: Vec<T>) -> Result<ArrayD<T>, DataError> {
        ArrayD::from_shape_vec(IxDyn(&entry.shape), values).map_err(|error| {
            let offset = Some(entry.place.start as u64);
            self.error(DataErrorKind::Malformed {
                offset,
                reason: error.to_string(),
            })
        })
    }

    fn error(&self, kind: DataErrorKind) -> DataError {
        DataError::new(&self.path, kind)
    }
}

/// Tensors to be written as one `.safetensors` file.
///
/// The bytes depend on the content only, not on the order of insertion. A second tensor of the
/// same name replaces the first.
#[derive(Clone, Debug, Default)]
pub struct TensorFileWriter {
    tensors: BTreeMap<String, StoredTensor>,
    metadata: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct StoredTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl TensorFileWriter {
    /// A file without tensors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor given by its shape and its values in row-major order, stored as `F32`.
    ///
    /// # Panics
    ///
    /// Panics if the number of values is not the product of the shape.
    pub fn insert_f32(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f32>) {
        self.insert(
            name.into(),
            Dtype::F32,
            shape,
            values.iter().map(|value| value.to_le_bytes()),
        );
    }

    /// Adds a tensor given by its shape and its values in row-major order, stored as `F64`.
    ///
    /// # Panics
    ///
    /// Panics if the number of values is not the product of the shape.
    pub fn insert_f64(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f64>) {
        self.insert(
            name.into(),
            Dtype::F64,
            shape,
            values.iter().map(|value| value.to_le_bytes()),
        );
    }

    /// Adds a tensor given by its shape and its values in row-major order, stored as `I64`.
    ///
    /// # Panics
    ///
    /// Panics if the number of values is not the product of the shape.
    pub fn insert_i64(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<i64>) {
        self.insert(
            name.into(),
            Dtype::I64,
            shape,
            values.iter().map(|value| value.to_le_bytes()),
        );
    }

    /// Adds an array in its own element type, in C order.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::WrongDtype`] for strings and `complex128`, which the format lacks.
    pub fn insert_host_array(
        &mut self,
        name: impl Into<String>,
        array: &HostArray,
    ) -> Result<(), DataError> {
        let name = name.into();
        let Some((dtype, _)) = ELEMENTS
            .iter()
            .find(|(_, element)| *element == array.element())
        else {
            return Err(DataError::new(
                "tensor file in memory",
                DataErrorKind::WrongDtype {
                    name,
                    expected: "numbers of 8 to 64 bits",
                    actual: array.element().to_string(),
                },
            ));
        };
        let stored = StoredTensor {
            dtype: *dtype,
            shape: array.shape().to_vec(),
            bytes: array.c_bytes().into_owned(),
        };
        self.tensors.insert(name, stored);
        Ok(())
    }

    /// Adds an array of any rank and memory layout, stored as `F32`.
    pub fn insert_f32_array<D: Dimension>(
        &mut self,
        name: impl Into<String>,
        array: &Array<f32, D>,
    ) {
        self.insert_f32(name, array.shape(), array.iter().copied().collect());
    }

    /// Adds an array of any rank and memory layout, stored as `I64`.
    pub fn insert_i64_array<D: Dimension>(
        &mut self,
        name: impl Into<String>,
        array: &Array<i64, D>,
    ) {
        self.insert_i64(name, array.shape(), array.iter().copied().collect());
    }

    /// Adds a free-text key-value pair to the header.
    pub fn insert_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.insert(key.into(), value.into());
    }

    /// The content of the file.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::Malformed`] if a tensor has the reserved name `__metadata__`.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DataError> {
        let label = Path::new("tensor file in memory");
        let header = self.header(label)?;
        let mut bytes = Vec::with_capacity(PREFIX_LEN + header.len() + self.data_len());
        self.write_to(&header, &mut bytes)
            .map_err(|source| DataError::writing(label, source))?;
        Ok(bytes)
    }

    /// Writes the file at once: readers see the old content or the whole new one.
    ///
    /// The content goes to a temporary file beside `path`, is forced to the disk, and takes the
    /// name only then; if anything fails, the temporary file is removed and `path` is untouched.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder does not exist or may not be written, if the disk is full,
    /// or if a tensor has the reserved name `__metadata__`.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        let header = self.header(path)?;
        self.write_beside(&header, path)
            .map_err(|source| DataError::writing(path, source))
    }

    fn insert<const N: usize>(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: &[usize],
        elements: impl ExactSizeIterator<Item = [u8; N]>,
    ) {
        assert_eq!(
            shape.iter().product::<usize>(),
            elements.len(),
            "tensor `{name}` of shape {shape:?} needs as many values as the product of its shape"
        );
        let bytes = elements.flatten().collect();
        self.tensors.insert(
            name,
            StoredTensor {
                dtype,
                shape: shape.to_vec(),
                bytes,
            },
        );
    }

    /// Tensors in the order of the file: wide elements first, so that each stays aligned.
    fn in_file_order(&self) -> Vec<(&String, &StoredTensor)> {
        let mut tensors: Vec<_> = self.tensors.iter().collect();
        tensors.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype.bitsize()));
        tensors
    }

    fn data_len(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.bytes.len()).sum()
    }

    fn header(&self, label: &Path) -> Result<Vec<u8>, DataError> {
        let malformed = |reason| {
            DataError::new(
                label,
                DataErrorKind::Malformed {
                    offset: None,
                    reason,
                },
            )
        };
        if self.tensors.contains_key(METADATA_KEY) {
            return Err(malformed(format!(
                "a tensor may not be named `{METADATA_KEY}`"
            )));
        }
        let mut entries = serde_json::Map::new();
        if !self.metadata.is_empty() {
            entries.insert(METADATA_KEY.to_owned(), serde_json::json!(self.metadata));
        }
        let mut start = 0;
        for (name, tensor) in self.in_file_order() {
            let end = start + tensor.bytes.len();
            let entry = serde_json::json!({
                "dtype": tensor.dtype.to_string(),
                "shape": tensor.shape,
                "data_offsets": [start, end],
            });
            entries.insert(name.clone(), entry);
            start = end;
        }
        let mut header =
            serde_json::to_vec(&entries).map_err(|error| malformed(error.to_string()))?;
        header.resize(header.len().next_multiple_of(PREFIX_LEN), b' ');
        Ok(header)
    }

    fn write_to(&self, header: &[u8], sink: &mut impl Write) -> io::Result<()> {
        sink.write_all(&(header.len() as u64).to_le_bytes())?;
        sink.write_all(header)?;
        for (_, tensor) in self.in_file_order() {
            sink.write_all(&tensor.bytes)?;
        }
        Ok(())
    }

    fn write_beside(&self, header: &[u8], path: &Path) -> io::Result<()> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // The default of a temporary file, 0600, would hide the result from others.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(folder)?;
        self.write_to(header, file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        // The name itself is durable only when the folder is; not every system allows this.
        if let Ok(folder) = File::open(folder) {
            folder.sync_all().ok();
        }
        Ok(())
    }
}

fn convert<T, const N: usize>(bytes: &[u8], element: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().copied().map(element).collect()
}

/// Compares the lengths that the header promises with the length of the file.
///
/// The library would report these cases without a place, and sums them without overflow checks.
fn check_length(bytes: &[u8]) -> Result<(), DataErrorKind> {
    let actual = bytes.len() as u64;
    let truncated = |expected| Err(DataErrorKind::Truncated { expected, actual });
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_LEN>() else {
        return truncated(PREFIX_LEN as u64);
    };
    let header_len = u64::from_le_bytes(*prefix);
    let data_start = header_len.saturating_add(PREFIX_LEN as u64);
    if rest.first().is_some_and(|&byte| byte != b'{') {
        let reason = "the header does not start with `{`".to_owned();
        return Err(DataErrorKind::Malformed {
            offset: Some(PREFIX_LEN as u64),
            reason,
        });
    }
    if data_start > actual {
        return truncated(data_start);
    }
    let header = &rest[..header_len as usize];
    let entries: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header)
        .map_err(|error| DataErrorKind::Malformed {
            offset: json_offset(&error),
            reason: format!("the header is not JSON ({error})"),
        })?;
    let data_len = entries
        .values()
        .filter_map(|entry| entry.get("data_offsets")?.get(1)?.as_u64())
        .max()
        .unwrap_or(0);
    match data_start.saturating_add(data_len) {
        expected if expected > actual => truncated(expected),
        _ => Ok(()),
    }
}

fn json_offset(error: &serde_json::Error) -> Option<u64> {
    (error.line() == 1).then(|| (PREFIX_LEN + error.column().saturating_sub(1)) as u64)
}

fn malformed(error: &SafeTensorError) -> DataErrorKind {
    let offset = match error {
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => Some(0),
        SafeTensorError::InvalidHeader(utf8) => Some((PREFIX_LEN + utf8.valid_up_to()) as u64),
        SafeTensorError::InvalidHeaderDeserialization(json) => json_offset(json),
        _ => None,
    };
    DataErrorKind::Malformed {
        offset,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, arr2};
    use proptest::prelude::*;

    use super::*;

    fn label() -> &'static Path {
        Path::new("some.safetensors")
    }

    /// A file with one tensor `x` written by hand.
    fn by_hand(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!(
            r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{}]}}}}"#,
            data.len()
        );
        [
            &(header.len() as u64).to_le_bytes()[..],
            header.as_bytes(),
            data,
        ]
        .concat()
    }

    #[test]
    fn values_shapes_and_metadata_survive_a_round_trip() {
        let mut writer = TensorFileWriter::new();
        writer.insert_i64("id", &[3], vec![1, -2, i64::MAX]);
        writer.insert_f32(
            "weight",
            &[2, 2],
            vec![0.5, f32::NAN, f32::NEG_INFINITY, -0.0],
        );
        writer.insert_f64("scalar", &[], vec![1.0e300]);
        writer.insert_f32("empty", &[0, 4], vec![]);
        writer.insert_metadata("note", "a \"quoted\" ✓ word");
        let file = TensorFile::from_bytes(label(), writer.to_bytes().unwrap()).unwrap();
        assert_eq!(
            file.names().collect::<Vec<_>>(),
            ["empty", "id", "scalar", "weight"]
        );
        assert_eq!(
            file.i64("id").unwrap().as_slice().unwrap(),
            [1, -2, i64::MAX]
        );
        let weight = file.f32("weight").unwrap();
        assert!(weight[[0, 1]].is_nan() && weight[[1, 0]] == f32::NEG_INFINITY);
        assert_eq!(file.f64("scalar").unwrap().sum(), 1.0e300);
        assert_eq!(file.shape("empty").unwrap(), [0, 4]);
        assert_eq!(file.metadata()["note"], "a \"quoted\" ✓ word");
        assert_eq!(file.dtype_name("id").unwrap(), "I64");
    }

    #[test]
    fn an_array_in_another_memory_layout_is_written_in_row_major_order() {
        let array: Array2<f32> = arr2(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).reversed_axes();
        let mut writer = TensorFileWriter::new();
        writer.insert_f32_array("x", &array);
        let file = TensorFile::from_bytes(label(), writer.to_bytes().unwrap()).unwrap();
        assert_eq!(file.f32("x").unwrap(), array.into_dyn());
    }

    #[test]
    fn half_precision_and_narrow_integers_are_converted() {
        let halves = [f16::from_f32(1.5), f16::from_f32(-2.0)];
        let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        let file = TensorFile::from_bytes(label(), by_hand("F16", "[2]", &bytes)).unwrap();
        assert_eq!(file.f32("x").unwrap().as_slice().unwrap(), [1.5, -2.0]);
        let brains = bf16::from_f32(-3.0).to_le_bytes();
        let file = TensorFile::from_bytes(label(), by_hand("BF16", "[1]", &brains)).unwrap();
        assert_eq!(file.f64("x").unwrap().as_slice().unwrap(), [-3.0]);
        let file = TensorFile::from_bytes(label(), by_hand("BOOL", "[2]", &[0, 1])).unwrap();
        assert_eq!(file.i64("x").unwrap().as_slice().unwrap(), [0, 1]);
        let file = TensorFile::from_bytes(label(), by_hand("I16", "[1]", &[0xFE, 0xFF])).unwrap();
        assert_eq!(file.i64("x").unwrap().as_slice().unwrap(), [-2]);
    }

    #[test]
    fn a_wrong_name_or_type_is_reported_with_the_file() {
        let file = TensorFile::from_bytes(label(), by_hand("I16", "[1]", &[0, 0])).unwrap();
        let error = file.f32("y").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("some.safetensors: has no tensor `y`, only x;")
        );
        let error = file.f32("x").unwrap_err();
        assert!(matches!(error.kind, DataErrorKind::WrongDtype { .. }));
        assert!(error.to_string().contains("`x` has element type I16"));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let mut writer = TensorFileWriter::new();
        writer.insert_f32("x", &[3], vec![1.0, 2.0, 3.0]);
        let bytes = writer.to_bytes().unwrap();
        for len in 0..bytes.len() {
            let error = TensorFile::from_bytes(label(), bytes[..len].to_vec()).unwrap_err();
            assert!(
                matches!(error.kind, DataErrorKind::Truncated { .. }),
                "{len}: {error}"
            );
            assert!(error.to_string().starts_with("some.safetensors: "));
        }
    }

    #[test]
    fn offsets_near_the_end_of_the_integers_are_an_error() {
        let header = br#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551615]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], &header[..]].concat();
        assert!(TensorFile::from_bytes(label(), bytes).is_err());
        let bytes = [&u64::MAX.to_le_bytes()[..], &b"{}"[..]].concat();
        assert!(TensorFile::from_bytes(label(), bytes).is_err());
    }

    #[test]
    fn a_reserved_name_is_an_error() {
        let mut writer = TensorFileWriter::new();
        writer.insert_f32("__metadata__", &[], vec![1.0]);
        assert!(writer.to_bytes().is_err());
    }

    #[test]
    #[should_panic(expected = "needs as many values as the product of its shape")]
    fn a_shape_that_does_not_fit_its_values_panics() {
        TensorFileWriter::new().insert_f32("x", &[2, 2], vec![1.0]);
    }

    #[test]
    fn a_write_replaces_the_old_file_and_leaves_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        for value in [1.0, 2.0] {
            let mut writer = TensorFileWriter::new();
            writer.insert_f32("x", &[1], vec![value]);
            writer.write(&path).unwrap();
            assert_eq!(
                TensorFile::open(&path).unwrap().f32("x").unwrap()[[0]],
                value
            );
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_into_an_absent_folder_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent").join("x.safetensors");
        let error = TensorFileWriter::new().write(&path).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("x.safetensors: cannot be written")
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damaged_bytes_never_panic(place in 0_usize..200, value in any::<u8>()) {
            let mut writer = TensorFileWriter::new();
            writer.insert_f32("x", &[2, 3], vec![0.0; 6]);
            writer.insert_i64("y", &[1], vec![4]);
            let mut bytes = writer.to_bytes().unwrap();
            let place = place % bytes.len();
            bytes[place] = value;
            if let Ok(file) = TensorFile::from_bytes(label(), bytes) {
                for name in file.names() {
                    let _ = (file.f32(name).is_ok(), file.i64(name).is_ok());
                }
            }
        }
    }
}
