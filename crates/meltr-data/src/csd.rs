//! Computational sequences of CMU-MultimodalSDK: HDF5 files of features with time intervals.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{DataError, DataErrorKind};

#[cfg(feature = "hdf5")]
pub use with_library::{Csd, CsdVideo};
#[cfg(feature = "hdf5")]
pub(crate) use with_library::{Leaf, visit_datasets};

/// The first bytes of an HDF5 file.
pub(crate) const SIGNATURE: [u8; 8] = *b"\x89HDF\r\n\x1a\n";

/// Name of the format in messages.
const FORMAT: &str = "HDF5";

/// Bytes of the longest superblock that is read here.
const SUPERBLOCK_LEN: u64 = 64;

/// Checks that a file is HDF5 and as long as its superblock says.
///
/// The C library is given only files that pass. See the HDF5 File Format Specification 3.0,
/// section II.A, for the places of the addresses.
pub(crate) fn check_superblock(path: &Path) -> Result<(), DataError> {
    let reading = |source| DataError::reading(path, source);
    let file = File::open(path).map_err(reading)?;
    let actual = file.metadata().map_err(reading)?.len();
    let mut head = Vec::new();
    file.take(SUPERBLOCK_LEN)
        .read_to_end(&mut head)
        .map_err(reading)?;
    if head.is_empty() {
        return Err(DataError::format(path, FORMAT, 0u64, "empty file"));
    }
    if !head.starts_with(&SIGNATURE) {
        let start = &head[..head.len().min(SIGNATURE.len())];
        let reason = format!(
            "no HDF5 signature, the file starts with `{}`",
            start.escape_ascii()
        );
        return Err(DataError::format(path, FORMAT, 0u64, reason));
    }
    let truncated = |expected| {
        Err(DataError::new(
            path,
            DataErrorKind::Truncated { expected, actual },
        ))
    };
    let (address_size_at, base_at) = match head.get(8) {
        Some(0) => (13, 24),
        Some(1) => (13, 28),
        Some(2 | 3) => (9, 12),
        Some(version) => {
            let reason = format!("superblock version {version} is unknown, expected 0 to 3");
            return Err(DataError::format(path, FORMAT, 8u64, reason));
        }
        None => return truncated(SUPERBLOCK_LEN),
    };
    match head.get(address_size_at) {
        Some(8) => {}
        // Files with short addresses are rare; the library finds their end.
        Some(_) => return Ok(()),
        None => return truncated(SUPERBLOCK_LEN),
    }
    // The end of the file follows the base address and one more address.
    let (Some(base), Some(end)) = (address(&head, base_at), address(&head, base_at + 16)) else {
        return truncated(SUPERBLOCK_LEN);
    };
    if base == 0 && end > actual {
        return truncated(end);
    }
    Ok(())
}

fn address(head: &[u8], at: usize) -> Option<u64> {
    let bytes = head.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*bytes))
}

#[cfg(feature = "hdf5")]
mod with_library {
    use std::collections::{BTreeMap, HashMap};
    use std::fs;
    use std::path::{Path, PathBuf};

    use hdf5_metno::dataset::Layout;
    use hdf5_metno::types::{
        FixedAscii, FixedUnicode, FloatSize, IntSize, TypeDescriptor, VarLenAscii, VarLenUnicode,
    };
    use hdf5_metno::{
        Dataset, Error, Group, H5Type, IndexType, IterationOrder, LinkType, LocationType,
    };

    use super::{FORMAT, check_superblock};
    use crate::error::DataError;
    use crate::host_array::{ElementType, HostArray, StorageOrder};
    use crate::inspect::{number_text, shape_text};
    use crate::mosi::NonFinite;

    /// Bytes that the arrays of a small file may take in memory.
    const BASE_BUDGET: u64 = 64 << 20;

    /// How many times its own length the arrays of a file may take in memory. Published sequences
    /// are compressed to a half or a third.
    const BUDGET_FACTOR: u64 = 16;

    /// Groups and datasets that are visited at most.
    const MAX_VISITS: usize = 1 << 17;

    /// Groups within groups that are entered at most.
    const MAX_DEPTH: usize = 32;

    /// A computational sequence: for each video, features and the time interval of each row.
    ///
    /// The file has one root group with a group `data` and usually a group `metadata` of one-element
    /// texts. For each video, `data` has a group of two datasets: `features` of shape
    /// `[rows, width]`, numbers or byte strings, and `intervals` of shape `[rows, 2]` in seconds.
    #[derive(Clone, Debug)]
    pub struct Csd {
        path: PathBuf,
        root: String,
        metadata: BTreeMap<String, String>,
        videos: Vec<CsdVideo>,
        places: HashMap<String, usize>,
        replaced: usize,
    }

    /// The rows of one video.
    #[derive(Clone, Debug)]
    pub struct CsdVideo {
        /// Id of the video.
        pub id: String,
        /// `[rows, width]`, as the file stores them.
        pub features: HostArray,
        /// `[rows, 2]`, start and end in seconds, finite.
        pub intervals: HostArray,
    }

    impl CsdVideo {
        /// The features as texts, if they are words.
        #[must_use]
        pub fn words(&self) -> Option<Vec<String>> {
            self.features.to_texts()
        }
    }

    impl Csd {
        /// Reads a whole `.csd` file.
        ///
        /// Signature, length and structure are checked; links to other files are not followed.
        ///
        /// # Errors
        ///
        /// Returns an error if the file is absent or damaged, if it has no root or several, if a
        /// dataset is absent or has another shape, if features and intervals differ in their
        /// number of rows, or if a value is not finite; features that are not finite may be set to
        /// 0 instead. It names the video and the row.
        pub fn open(path: &Path, non_finite: NonFinite) -> Result<Self, DataError> {
            let mut reader = Reader::open(path)?;
            let file = open_file(path)?;
            let roots = reader.links(&file, "root")?;
            let [root] = roots.as_slice() else {
                let reason = format!(
                    "there are {} root groups ({}), expected exactly one",
                    roots.len(),
                    roots.join(", ")
                );
                return Err(DataError::item(path, "root", reason));
            };
            let root = root.clone();
            let group = reader.group(&file, &root, &root)?;
            let mut csd = Self {
                path: path.to_path_buf(),
                root: root.clone(),
                metadata: BTreeMap::new(),
                videos: Vec::new(),
                places: HashMap::new(),
                replaced: 0,
            };
            if group.link_exists("metadata") {
                let metadata = reader.group(&group, "metadata", "metadata")?;
                for name in reader.links(&metadata, "metadata")? {
                    let key = format!("metadata/{name}");
                    let dataset = reader.dataset(&metadata, &name, &key)?;
                    csd.metadata.insert(name, reader.text(&dataset, &key)?);
                }
            }
            let data = reader.group(&group, "data", &root)?;
            for id in reader.links(&data, "data")? {
                let video = reader.group(&data, &id, &id)?;
                let features = reader.dataset(&video, "features", &id)?;
                let features = reader.array(&features, &format!("{id}/features"))?;
                let intervals = reader.dataset(&video, "intervals", &id)?;
                let intervals = reader.array(&intervals, &format!("{id}/intervals"))?;
                let features = csd.checked(&id, features, &intervals, non_finite)?;
                csd.places.insert(id.clone(), csd.videos.len());
                csd.videos.push(CsdVideo {
                    id,
                    features,
                    intervals,
                });
            }
            if csd.videos.is_empty() {
                return Err(DataError::item(path, "data", "has no videos"));
            }
            Ok(csd)
        }

        /// The file.
        #[must_use]
        pub fn path(&self) -> &Path {
            &self.path
        }

        /// Name of the root group, e.g. `Opinion Segment Labels`.
        #[must_use]
        pub fn root(&self) -> &str {
            &self.root
        }

        /// The metadata as JSON texts; empty if the file has none.
        #[must_use]
        pub fn metadata(&self) -> &BTreeMap<String, String> {
            &self.metadata
        }

        /// The videos in the order of their ids.
        #[must_use]
        pub fn videos(&self) -> &[CsdVideo] {
            &self.videos
        }

        /// One video.
        ///
        /// # Errors
        ///
        /// Returns an error if the id is unknown.
        pub fn video(&self, id: &str) -> Result<&CsdVideo, DataError> {
            let place = self.places.get(id).copied();
            place
                .and_then(|place| self.videos.get(place))
                .ok_or_else(|| {
                    let reason = format!("is not among the {} videos", self.videos.len());
                    DataError::item(&self.path, id, reason)
                })
        }

        /// Number of features that were set to 0; 0 with [`NonFinite::Refuse`].
        #[must_use]
        pub fn replaced(&self) -> usize {
            self.replaced
        }

        fn checked(
            &mut self,
            id: &str,
            features: HostArray,
            intervals: &HostArray,
            non_finite: NonFinite,
        ) -> Result<HostArray, DataError> {
            let refuse = |reason: String| Err(DataError::item(&self.path, id, reason));
            let (&[rows, width], &[interval_rows, 2]) = (features.shape(), intervals.shape())
            else {
                return refuse(format!(
                    "features and intervals have shapes {} and {}, expected [rows, width] and \
                     [rows, 2]",
                    shape_text(features.shape()),
                    shape_text(intervals.shape())
                ));
            };
            if rows != interval_rows {
                return refuse(format!("has {rows} features but {interval_rows} intervals"));
            }
            let Some(times) = intervals.to_f64_vec() else {
                return refuse(format!(
                    "intervals have dtype {}, expected numbers",
                    intervals.element()
                ));
            };
            if let Some(place) = times.iter().position(|time| !time.is_finite()) {
                return refuse(format!(
                    "row {} of intervals holds {}, expected finite times",
                    place / 2,
                    number_text(times[place])
                ));
            }
            let values = features.to_f64_vec().unwrap_or_default();
            let Some(place) = values.iter().position(|value| !value.is_finite()) else {
                return Ok(features);
            };
            if non_finite == NonFinite::Refuse {
                // The width is not 0 where there is a value.
                return refuse(format!(
                    "row {}, column {} of features is {}, expected a finite number",
                    place / width,
                    place % width,
                    number_text(values[place])
                ));
            }
            let count = values.iter().filter(|value| !value.is_finite()).count();
            let size = features.element().size();
            let (element, shape) = (features.element(), features.shape().to_vec());
            let mut bytes = features.into_c_bytes();
            for (value, word) in values.iter().zip(bytes.chunks_exact_mut(size)) {
                if !value.is_finite() {
                    word.fill(0);
                }
            }
            let features = HostArray::new(element, shape, StorageOrder::C, bytes)
                .map_err(|error| DataError::item(&self.path, id, error.to_string()))?;
            self.replaced += count;
            Ok(features)
        }
    }

    /// What a dataset holds.
    pub(crate) enum Leaf {
        /// Numbers, or byte strings of fixed length.
        Array(HostArray),
        /// A text of one element.
        Text(String),
        /// Something that is not read here, in words.
        Other(String),
    }

    /// Visits every dataset of any HDF5 file with the names that lead to it.
    pub(crate) fn visit_datasets(
        path: &Path,
        visit: &mut dyn FnMut(&[String], Leaf),
    ) -> Result<(), DataError> {
        let mut reader = Reader::open(path)?;
        let file = open_file(path)?;
        reader.visit(&file, &mut Vec::new(), visit)
    }

    fn open_file(path: &Path) -> Result<hdf5_metno::File, DataError> {
        hdf5_metno::File::open(path).map_err(|error| library_error(path, "the file", &error))
    }

    fn library_error(path: &Path, what: &str, error: &Error) -> DataError {
        DataError::format(path, FORMAT, None::<u64>, format!("{what}: {error}"))
    }

    /// Reads groups and datasets within the memory that the length of the file allows.
    struct Reader<'a> {
        path: &'a Path,
        /// Bytes that arrays may still take.
        budget: u64,
        /// Links that were listed so far.
        visits: usize,
    }

    impl<'a> Reader<'a> {
        fn open(path: &'a Path) -> Result<Self, DataError> {
            check_superblock(path)?;
            let len = fs::metadata(path)
                .map_err(|source| DataError::reading(path, source))?
                .len();
            Ok(Self {
                path,
                budget: len
                    .saturating_mul(BUDGET_FACTOR)
                    .saturating_add(BASE_BUDGET),
                visits: 0,
            })
        }

        fn library_error(&self, what: &str, error: &Error) -> DataError {
            library_error(self.path, what, error)
        }

        /// The names of the members of a group, sorted.
        fn links(&mut self, group: &Group, key: &str) -> Result<Vec<String>, DataError> {
            let links = group
                .links(IndexType::Name, IterationOrder::Increasing)
                .map_err(|error| self.library_error(key, &error))?;
            let mut names = Vec::with_capacity(links.len());
            for (name, info) in links {
                self.visits += 1;
                if self.visits > MAX_VISITS {
                    let reason = format!("the file has more than {MAX_VISITS} groups and datasets");
                    return Err(DataError::item(self.path, key, reason));
                }
                if info.link_type != LinkType::Hard {
                    let reason = format!("`{name}` is a link, which is not followed");
                    return Err(DataError::item(self.path, key, reason));
                }
                names.push(name);
            }
            Ok(names)
        }

        fn location(
            &self,
            group: &Group,
            name: &str,
            key: &str,
        ) -> Result<LocationType, DataError> {
            group
                .loc_type_by_name(name)
                .map_err(|error| self.library_error(key, &error))
        }

        fn group(&self, parent: &Group, name: &str, key: &str) -> Result<Group, DataError> {
            if !parent.link_exists(name) {
                let reason = format!("has no group `{name}`");
                return Err(DataError::item(self.path, key, reason));
            }
            if self.location(parent, name, key)? != LocationType::Group {
                let reason = format!("`{name}` is no group");
                return Err(DataError::item(self.path, key, reason));
            }
            parent
                .group(name)
                .map_err(|error| self.library_error(key, &error))
        }

        fn dataset(&self, parent: &Group, name: &str, key: &str) -> Result<Dataset, DataError> {
            if !parent.link_exists(name) {
                let reason = format!("has no dataset `{name}`");
                return Err(DataError::item(self.path, key, reason));
            }
            if self.location(parent, name, key)? != LocationType::Dataset {
                let reason = format!("`{name}` is no dataset");
                return Err(DataError::item(self.path, key, reason));
            }
            parent
                .dataset(name)
                .map_err(|error| self.library_error(key, &error))
        }

        /// The type of a dataset that is stored in this file.
        fn descriptor(&self, dataset: &Dataset, key: &str) -> Result<TypeDescriptor, DataError> {
            let failed = |error: Error| self.library_error(key, &error);
            let properties = dataset.create_plist().map_err(failed)?;
            let is_inside = matches!(
                properties.layout(),
                Layout::Compact | Layout::Contiguous | Layout::Chunked
            );
            if !is_inside || !properties.external().is_empty() {
                let reason = "is stored in another file, which is not read";
                return Err(DataError::item(self.path, key, reason));
            }
            dataset
                .dtype()
                .and_then(|dtype| dtype.to_descriptor())
                .map_err(failed)
        }

        fn array(&mut self, dataset: &Dataset, key: &str) -> Result<HostArray, DataError> {
            let descriptor = self.descriptor(dataset, key)?;
            let Some(element) = element_type(&descriptor) else {
                let reason = format!("has type {descriptor}, expected numbers or fixed strings");
                return Err(DataError::item(self.path, key, reason));
            };
            self.typed_array(dataset, &descriptor, element, key)
        }

        fn typed_array(
            &mut self,
            dataset: &Dataset,
            descriptor: &TypeDescriptor,
            element: ElementType,
            key: &str,
        ) -> Result<HostArray, DataError> {
            let shape = dataset.shape();
            let len = HostArray::byte_len(element, &shape).and_then(|len| u64::try_from(len).ok());
            let stored = dataset.storage_size();
            let fits = len.is_some_and(|len| len <= self.budget && (len == 0 || stored > 0));
            let (true, Some(len)) = (fits, len) else {
                let reason = format!(
                    "declares {element} of shape {}, of which {stored} bytes are stored",
                    shape_text(&shape)
                );
                return Err(DataError::item(self.path, key, reason));
            };
            self.budget -= len;
            let bytes = if len == 0 {
                Vec::new()
            } else {
                read_bytes(dataset, descriptor).map_err(|error| self.library_error(key, &error))?
            };
            HostArray::new(element, shape, StorageOrder::C, bytes)
                .map_err(|error| DataError::item(self.path, key, error.to_string()))
        }

        /// The text in a dataset of one string.
        fn text(&mut self, dataset: &Dataset, key: &str) -> Result<String, DataError> {
            let descriptor = self.descriptor(dataset, key)?;
            let failed = |error: Error| library_error(self.path, key, &error);
            if dataset.shape().iter().any(|&len| len != 1) {
                let reason = format!(
                    "has shape {}, expected one text",
                    shape_text(&dataset.shape())
                );
                return Err(DataError::item(self.path, key, reason));
            }
            let bytes: Option<Vec<u8>> = match descriptor {
                TypeDescriptor::VarLenUnicode => {
                    let texts = dataset.read_raw::<VarLenUnicode>().map_err(failed)?;
                    texts.first().map(|text| text.as_bytes().to_vec())
                }
                TypeDescriptor::VarLenAscii => {
                    let texts = dataset.read_raw::<VarLenAscii>().map_err(failed)?;
                    texts.first().map(|text| text.as_bytes().to_vec())
                }
                _ => {
                    let texts = self.array(dataset, key)?.to_texts();
                    texts
                        .and_then(|mut texts| texts.pop())
                        .map(String::into_bytes)
                }
            };
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            text.ok_or_else(|| DataError::item(self.path, key, "is no UTF-8 text"))
        }

        fn visit(
            &mut self,
            group: &Group,
            names: &mut Vec<String>,
            visit: &mut dyn FnMut(&[String], Leaf),
        ) -> Result<(), DataError> {
            let key = if names.is_empty() {
                "root".to_owned()
            } else {
                names.join("/")
            };
            if names.len() > MAX_DEPTH {
                let reason = format!("lies in more than {MAX_DEPTH} groups");
                return Err(DataError::item(self.path, key, reason));
            }
            for name in self.links(group, &key)? {
                names.push(name);
                // The last one is the one just pushed.
                let name = names.last().map_or("", String::as_str);
                match self.location(group, name, &key)? {
                    LocationType::Group => {
                        let member = self.group(group, name, &key)?;
                        self.visit(&member, names, visit)?;
                    }
                    LocationType::Dataset => {
                        let dataset = self.dataset(group, name, &key)?;
                        let leaf = self.leaf(&dataset, &names.join("/"))?;
                        visit(names, leaf);
                    }
                    _ => {}
                }
                names.pop();
            }
            Ok(())
        }

        fn leaf(&mut self, dataset: &Dataset, key: &str) -> Result<Leaf, DataError> {
            let descriptor = self.descriptor(dataset, key)?;
            if let Some(element) = element_type(&descriptor) {
                return self
                    .typed_array(dataset, &descriptor, element, key)
                    .map(Leaf::Array);
            }
            let is_text = matches!(
                descriptor,
                TypeDescriptor::VarLenUnicode | TypeDescriptor::VarLenAscii
            );
            if is_text && dataset.shape().iter().all(|&len| len == 1) {
                return self.text(dataset, key).map(Leaf::Text);
            }
            let shape = shape_text(&dataset.shape());
            Ok(Leaf::Other(format!("{descriptor} {shape}")))
        }
    }

    /// The element type of an array of this type; `None` if there is none.
    fn element_type(descriptor: &TypeDescriptor) -> Option<ElementType> {
        Some(match descriptor {
            TypeDescriptor::Integer(IntSize::U1) => ElementType::I8,
            TypeDescriptor::Integer(IntSize::U2) => ElementType::I16,
            TypeDescriptor::Integer(IntSize::U4) => ElementType::I32,
            TypeDescriptor::Integer(IntSize::U8) => ElementType::I64,
            TypeDescriptor::Unsigned(IntSize::U1) => ElementType::U8,
            TypeDescriptor::Unsigned(IntSize::U2) => ElementType::U16,
            TypeDescriptor::Unsigned(IntSize::U4) => ElementType::U32,
            TypeDescriptor::Unsigned(IntSize::U8) => ElementType::U64,
            TypeDescriptor::Float(FloatSize::U4) => ElementType::F32,
            TypeDescriptor::Float(FloatSize::U8) => ElementType::F64,
            TypeDescriptor::FixedAscii(len) | TypeDescriptor::FixedUnicode(len)
                if (1..=256).contains(len) =>
            {
                ElementType::Bytes(*len)
            }
            _ => return None,
        })
    }

    /// The elements of a dataset as little-endian bytes; the library converts big-endian files.
    fn read_bytes(dataset: &Dataset, descriptor: &TypeDescriptor) -> Result<Vec<u8>, Error> {
        match *descriptor {
            TypeDescriptor::Integer(IntSize::U1) => raw(dataset, i8::to_le_bytes),
            TypeDescriptor::Integer(IntSize::U2) => raw(dataset, i16::to_le_bytes),
            TypeDescriptor::Integer(IntSize::U4) => raw(dataset, i32::to_le_bytes),
            TypeDescriptor::Integer(IntSize::U8) => raw(dataset, i64::to_le_bytes),
            TypeDescriptor::Unsigned(IntSize::U1) => raw(dataset, u8::to_le_bytes),
            TypeDescriptor::Unsigned(IntSize::U2) => raw(dataset, u16::to_le_bytes),
            TypeDescriptor::Unsigned(IntSize::U4) => raw(dataset, u32::to_le_bytes),
            TypeDescriptor::Unsigned(IntSize::U8) => raw(dataset, u64::to_le_bytes),
            TypeDescriptor::Float(FloatSize::U4) => raw(dataset, f32::to_le_bytes),
            TypeDescriptor::Float(FloatSize::U8) => raw(dataset, f64::to_le_bytes),
            // The library pads short strings.
            TypeDescriptor::FixedAscii(len @ 0..=32) => ascii::<32>(dataset, len),
            TypeDescriptor::FixedAscii(len) => ascii::<256>(dataset, len),
            TypeDescriptor::FixedUnicode(len @ 0..=32) => unicode::<32>(dataset, len),
            TypeDescriptor::FixedUnicode(len) => unicode::<256>(dataset, len),
            _ => Err(Error::Internal(
                "the type of the dataset is not supported".to_owned(),
            )),
        }
    }

    fn raw<T: H5Type + Copy, const N: usize>(
        dataset: &Dataset,
        bytes: fn(T) -> [u8; N],
    ) -> Result<Vec<u8>, Error> {
        Ok(dataset
            .read_raw::<T>()?
            .into_iter()
            .flat_map(bytes)
            .collect())
    }

    fn ascii<const N: usize>(dataset: &Dataset, len: usize) -> Result<Vec<u8>, Error> {
        let texts = dataset.read_raw::<FixedAscii<N>>()?;
        Ok(padded(texts.iter().map(FixedAscii::as_bytes), len))
    }

    fn unicode<const N: usize>(dataset: &Dataset, len: usize) -> Result<Vec<u8>, Error> {
        let texts = dataset.read_raw::<FixedUnicode<N>>()?;
        Ok(padded(texts.iter().map(FixedUnicode::as_bytes), len))
    }

    /// Strings one after the other, `len` bytes each.
    fn padded<'a>(texts: impl Iterator<Item = &'a [u8]>, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for text in texts {
            let end = bytes.len() + len;
            bytes.extend_from_slice(&text[..text.len().min(len)]);
            bytes.resize(end, 0);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &[u8]) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csd");
        std::fs::write(&path, content).unwrap();
        check_superblock(&path).map_err(|error| error.to_string())
    }

    fn superblock(version: u8, address_size_at: usize, end_at: usize, end: u64) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.resize(64, 0);
        bytes[8] = version;
        bytes[address_size_at] = 8;
        bytes[end_at..end_at + 8].copy_from_slice(&end.to_le_bytes());
        bytes
    }

    #[test]
    fn a_file_shorter_than_its_superblock_says_is_truncated() {
        for (version, address_size_at, end_at) in [(0, 13, 40), (1, 13, 44), (2, 9, 28), (3, 9, 28)]
        {
            let file = |end| superblock(version, address_size_at, end_at, end);
            assert_eq!(check(&file(64)), Ok(()));
            let error = check(&file(65)).unwrap_err();
            assert!(
                error.contains("ends at byte 64 where 65 bytes were promised"),
                "{error}"
            );
            assert!(check(&file(64)[..30]).is_err());
        }
    }

    #[test]
    fn other_files_are_told_by_their_first_bytes() {
        let error = check(b"version https").unwrap_err();
        assert!(
            error.contains("no HDF5 signature") && error.contains("`version `"),
            "{error}"
        );
        assert!(check(b"").unwrap_err().contains("empty file"));
        let error = check(&superblock(9, 13, 40, 64)).unwrap_err();
        assert!(error.contains("superblock version 9"), "{error}");
    }
}
