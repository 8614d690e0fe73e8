//! Clip features of many videos in one file: video id to a float array of rows.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use ndarray::{Array2, Ix2};
use sha2::{Digest, Sha256};

use crate::error::DataError;
use crate::host_array::{ElementType, HostArray, StorageOrder};
use crate::inspect::{FileFormat, number_text, short_repr};
use crate::npy::{NpyContent, read_npy, read_npz};
use crate::pickle::{Item, ItemId, Pickle, Value};
use crate::tensor_file::{TensorFile, TensorFileWriter};

/// What messages call the whole content of a file.
const TOP_LEVEL: &str = "top level";

/// Bytes that are read at once for a checksum.
const READ_LEN: usize = 1 << 20;

/// The features of every video of one file, as UniVL's `*_videos_features.pickle` holds them.
///
/// A row stands for a fixed duration, one second in the published files. Every array is checked
/// when the file is opened: two axes, the width asked for, one row at least, finite values within
/// the range of `f32`. Each is kept in the element type of the file and converted when it is read.
#[derive(Clone, Debug)]
pub struct VideoFeatures {
    path: PathBuf,
    dim: usize,
    ids: Vec<String>,
    /// Id to position in `arrays`; several ids may share an array, as they may in the file.
    places: HashMap<String, usize>,
    /// In C order.
    arrays: Vec<HostArray>,
}

impl VideoFeatures {
    /// Reads a file whose arrays have the shape `[rows, dim]`.
    ///
    /// The content decides on the format, not the name: a pickle of a dict, a `.npy` file of one
    /// object that is such a dict, a `.npz` file or a `.safetensors` file with one array an id.
    /// Element types are `float16`, `bfloat16`, `float32` and `float64`.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is absent or damaged, or if an id or an array is not
    /// admissible; it names the id, and the row and the column of a value.
    pub fn open(path: &Path, dim: usize) -> Result<Self, DataError> {
        let mut features = Self {
            path: path.to_path_buf(),
            dim,
            ids: Vec::new(),
            places: HashMap::new(),
            arrays: Vec::new(),
        };
        match FileFormat::detect(path)? {
            FileFormat::Safetensors => features.read_tensors(&TensorFile::open(path)?)?,
            FileFormat::Npz => features.read_archive(read_npz(path)?)?,
            FileFormat::Npy => match read_npy(path)? {
                NpyContent::Pickled(pickle) => features.read_pickle(pickle)?,
                NpyContent::Array(array) => {
                    let reason = format!(
                        "is one {} array, expected a dict of id to array",
                        array.element()
                    );
                    return Err(DataError::item(path, TOP_LEVEL, reason));
                }
            },
            // The pickle reader tells best what another file is instead.
            _ => features.read_pickle(Pickle::open(path)?)?,
        }
        if features.ids.is_empty() {
            return Err(DataError::item(path, TOP_LEVEL, "has no entries"));
        }
        Ok(features)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The width of every row.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of ids.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no id; never true for an opened file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The ids in the order of the file.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Whether there are features of this id.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.places.contains_key(id)
    }

    /// Number of rows of one id.
    ///
    /// # Errors
    ///
    /// Returns an error if the id is unknown.
    pub fn n_rows(&self, id: &str) -> Result<usize, DataError> {
        Ok(rows_of(self.array(id)?))
    }

    /// The array of one id as the file stores it, in C order.
    ///
    /// # Errors
    ///
    /// Returns an error if the id is unknown.
    pub fn array(&self, id: &str) -> Result<&HostArray, DataError> {
        let place = self.places.get(id).copied();
        place
            .and_then(|place| self.arrays.get(place))
            .ok_or_else(|| {
                let first = self.ids.first().map_or("", String::as_str);
                let reason = format!(
                    "is not among the {} ids of the features, which start with `{first}`",
                    self.ids.len()
                );
                DataError::item(&self.path, id, reason)
            })
    }

    /// Consecutive rows of one id.
    ///
    /// # Shapes
    ///
    /// - output: `[rows.len(), dim]`.
    ///
    /// # Errors
    ///
    /// Returns an error if the id is unknown or if the rows are not all there.
    pub fn slice(&self, id: &str, rows: Range<usize>) -> Result<Array2<f32>, DataError> {
        let array = self.array(id)?;
        let present = rows_of(array);
        if rows.start > rows.end || rows.end > present {
            let reason = format!(
                "rows {}..{} were asked for, but the features have {present} rows",
                rows.start, rows.end
            );
            return Err(DataError::item(&self.path, id, reason));
        }
        let row_len = self.dim * array.element().size();
        let bytes = array.c_bytes();
        let bytes = bytes[rows.start * row_len..rows.end * row_len].to_vec();
        let shape = vec![rows.len(), self.dim];
        let part = HostArray::new(array.element(), shape, StorageOrder::C, bytes)
            .map_err(|error| DataError::item(&self.path, id, error.to_string()))?;
        let values = part
            .to_f32()
            .and_then(|values| values.into_dimensionality::<Ix2>().ok());
        values.ok_or_else(|| DataError::item(&self.path, id, "is no array of floats"))
    }

    /// Writes the arrays as a `.safetensors` file, which [`open`](Self::open) reads much faster.
    ///
    /// The element types are kept; there is one tensor an id. The metadata holds the name of the
    /// source file, its SHA-256 and the width.
    ///
    /// # Errors
    ///
    /// Returns an error if the source can no longer be read or the new file cannot be written.
    pub fn write_safetensors(&self, path: &Path) -> Result<(), DataError> {
        let mut writer = TensorFileWriter::new();
        for id in &self.ids {
            writer.insert_host_array(id.as_str(), self.array(id)?)?;
        }
        let name = self.path.file_name().unwrap_or_default();
        writer.insert_metadata("source", name.to_string_lossy());
        writer.insert_metadata("source_sha256", file_sha256(&self.path)?);
        writer.insert_metadata("dim", self.dim.to_string());
        writer.write(path)
    }

    fn read_tensors(&mut self, file: &TensorFile) -> Result<(), DataError> {
        for name in file.names() {
            let array = file.host_array(name)?;
            self.check(name, &array)?;
            self.add(name.to_owned(), array)?;
        }
        Ok(())
    }

    fn read_archive(&mut self, members: Vec<(String, NpyContent)>) -> Result<(), DataError> {
        for (name, content) in members {
            match content {
                NpyContent::Array(array) => {
                    self.check(&name, &array)?;
                    self.add(name, array)?;
                }
                NpyContent::Pickled(_) => return Err(self.wrong_dtype(&name, "object")),
            }
        }
        Ok(())
    }

    fn read_pickle(&mut self, mut pickle: Pickle) -> Result<(), DataError> {
        // Arrays are checked where they are and moved out afterwards, so that none is copied.
        let mut ids: Vec<(String, usize)> = Vec::new();
        let mut sources: Vec<ItemId> = Vec::new();
        {
            let mut known: HashMap<usize, usize> = HashMap::new();
            let root = one_object(pickle.root());
            let Value::Dict(entries) = root.value() else {
                let reason = format!("is a {}, expected a dict of id to array", root.kind());
                return Err(DataError::item(&self.path, TOP_LEVEL, reason));
            };
            for (key, item) in entries {
                let Some(id) = key.text() else {
                    let reason = format!("is a {}, expected a text id", key.kind());
                    let key = format!("key {}", short_repr(key));
                    return Err(DataError::item(&self.path, key, reason));
                };
                let array = self.array_of(id, item)?;
                let address = std::ptr::from_ref(array) as usize;
                let place = match known.get(&address) {
                    Some(&place) => place,
                    None => {
                        self.check(id, array)?;
                        known.insert(address, sources.len());
                        sources.push(item.id());
                        sources.len() - 1
                    }
                };
                ids.push((id.to_owned(), place));
            }
        }
        for source in sources {
            let array = pickle.take_array(source).ok_or_else(|| {
                DataError::item(&self.path, TOP_LEVEL, "holds an array that cannot be read")
            })?;
            self.arrays.push(in_c_order(&self.path, array)?);
        }
        for (id, place) in ids {
            self.name(id, place)?;
        }
        Ok(())
    }

    fn array_of<'a>(&self, id: &str, item: Item<'a>) -> Result<&'a HostArray, DataError> {
        match item.value() {
            Value::Array(array) => Ok(array),
            Value::Objects { .. } => Err(self.wrong_dtype(id, "object")),
            _ => {
                let reason = format!(
                    "is a {}, expected an array of shape [rows, {}]",
                    item.kind(),
                    self.dim
                );
                Err(DataError::item(&self.path, id, reason))
            }
        }
    }

    fn wrong_dtype(&self, id: &str, found: &str) -> DataError {
        let reason = format!("has dtype {found}, expected float16, float32 or float64");
        DataError::item(&self.path, id, reason)
    }

    fn check(&self, id: &str, array: &HostArray) -> Result<(), DataError> {
        let refuse = |reason: String| Err(DataError::item(&self.path, id, reason));
        if !is_float(array.element()) {
            return Err(self.wrong_dtype(id, &array.element().to_string()));
        }
        let &[rows, width] = array.shape() else {
            let axes = array.shape().len();
            let plural = if axes == 1 { "" } else { "s" };
            return refuse(format!(
                "has {axes} dimension{plural}, expected 2: [rows, {}]",
                self.dim
            ));
        };
        if width != self.dim {
            return refuse(format!("has width {width}, expected {}", self.dim));
        }
        if rows == 0 {
            return refuse("has 0 rows, expected one at least".to_owned());
        }
        if let Some((index, value)) = first_unusable(array.element(), &array.c_bytes()) {
            // The width is not 0 where there is a value.
            let (row, column) = (index / width, index % width);
            return refuse(format!(
                "row {row}, column {column} is {}, expected a finite float32",
                number_text(value)
            ));
        }
        Ok(())
    }

    fn add(&mut self, id: String, array: HostArray) -> Result<(), DataError> {
        self.arrays.push(in_c_order(&self.path, array)?);
        self.name(id, self.arrays.len() - 1)
    }

    fn name(&mut self, id: String, place: usize) -> Result<(), DataError> {
        if self.places.insert(id.clone(), place).is_some() {
            return Err(DataError::item(&self.path, id, "occurs twice"));
        }
        self.ids.push(id);
        Ok(())
    }
}

/// The object in an object array of one element, which is how `np.save` stores a dict.
fn one_object(item: Item<'_>) -> Item<'_> {
    if let Value::Objects { mut items, .. } = item.value()
        && items.len() == 1
        && let Some(inner) = items.next()
    {
        return inner;
    }
    item
}

fn rows_of(array: &HostArray) -> usize {
    array.shape().first().copied().unwrap_or(0)
}

fn is_float(element: ElementType) -> bool {
    matches!(
        element,
        ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64
    )
}

/// Rows are cut from the bytes, so that an array in Fortran order is turned once and for all.
fn in_c_order(path: &Path, array: HostArray) -> Result<HostArray, DataError> {
    if array.order() == StorageOrder::C {
        return Ok(array);
    }
    let (element, shape) = (array.element(), array.shape().to_vec());
    HostArray::new(
        element,
        shape,
        StorageOrder::C,
        array.c_bytes().into_owned(),
    )
    .map_err(|error| DataError::item(path, TOP_LEVEL, error.to_string()))
}

/// The first value that is not finite as `f32`, with its position in C order.
fn first_unusable(element: ElementType, bytes: &[u8]) -> Option<(usize, f64)> {
    match element {
        ElementType::F16 => find(bytes, |word: [u8; 2]| f16::from_le_bytes(word).to_f64()),
        ElementType::Bf16 => find(bytes, |word: [u8; 2]| bf16::from_le_bytes(word).to_f64()),
        ElementType::F32 => find(bytes, |word: [u8; 4]| f64::from(f32::from_le_bytes(word))),
        _ => find(bytes, f64::from_le_bytes),
    }
}

fn find<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Option<(usize, f64)> {
    let (words, _) = bytes.as_chunks::<N>();
    words
        .iter()
        .map(|word| value(*word))
        .enumerate()
        .find(|&(_, value)| !(value.is_finite() && value.abs() <= f64::from(f32::MAX)))
}

fn file_sha256(path: &Path) -> Result<String, DataError> {
    let reading = |source| DataError::reading(path, source);
    let mut file = File::open(path).map_err(reading)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_LEN];
    loop {
        let n = file.read(&mut buffer).map_err(reading)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(tensors: &[(&str, &[usize], Vec<f32>)]) -> Result<VideoFeatures, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.safetensors");
        let mut writer = TensorFileWriter::new();
        for (id, shape, values) in tensors {
            writer.insert_f32(*id, shape, values.clone());
        }
        writer.write(&path).unwrap();
        VideoFeatures::open(&path, 2)
    }

    #[test]
    fn rows_are_cut_and_rows_beyond_the_end_are_refused() {
        let features = features(&[("a", &[3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]).unwrap();
        assert_eq!(features.n_rows("a").unwrap(), 3);
        let rows = features.slice("a", 1..3).unwrap();
        assert_eq!(rows, ndarray::array![[3.0, 4.0], [5.0, 6.0]]);
        assert_eq!(features.slice("a", 3..3).unwrap().dim(), (0, 2));
        let text = features.slice("a", 2..4).unwrap_err().to_string();
        assert!(
            text.contains("rows 2..4") && text.contains("have 3 rows"),
            "{text}"
        );
        let text = features.n_rows("b").unwrap_err().to_string();
        assert!(
            text.contains("item `b`") && text.contains("start with `a`"),
            "{text}"
        );
    }

    #[test]
    fn a_value_that_is_not_finite_is_named_by_row_and_column() {
        let error = features(&[("a", &[2, 2], vec![1.0, 2.0, 3.0, f32::INFINITY])]).unwrap_err();
        assert!(
            error.to_string().contains("row 1, column 1 is inf"),
            "{error}"
        );
    }

    #[test]
    fn a_double_beyond_the_range_of_a_float_is_unusable() {
        let bytes: Vec<u8> = [1.0, -1e300]
            .iter()
            .flat_map(|x: &f64| x.to_le_bytes())
            .collect();
        assert_eq!(first_unusable(ElementType::F64, &bytes), Some((1, -1e300)));
        assert_eq!(first_unusable(ElementType::F64, &bytes[..8]), None);
    }

    #[test]
    fn a_file_without_arrays_is_refused() {
        let error = features(&[]).unwrap_err();
        assert!(error.to_string().contains("has no entries"), "{error}");
    }
}
