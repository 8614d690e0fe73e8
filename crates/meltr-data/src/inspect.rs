//! What a data file holds: every array with its checksum, found by content and not by name.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use crate::checkpoint::Checkpoint;
use crate::csd::{self, SIGNATURE};
use crate::error::{DataError, DataErrorKind};
use crate::host_array::{ElementType, HostArray, StorageOrder};
use crate::npy::{NpyContent, read_npy, read_npz};
use crate::pickle::{Item, Items, Pickle, Value};
use crate::tensor_file::TensorFile;

/// Bytes of the head of a file that tell its format.
const HEAD_LEN: u64 = 64 * 1024;

/// Entries that are listed at most; a note says when there are more.
const MAX_ENTRIES: usize = 1 << 17;

/// Elements that are converted at once.
const CHUNK_LEN: usize = 1 << 16;

/// Characters of a text that are shown at most.
const MAX_SHOWN: usize = 60;

/// Members of a list that are shown at most.
const MAX_MEMBERS: usize = 3;

/// Records that have to have as many fields as the header of a `.csv` file.
const CSV_PROBE: usize = 20;

/// The first object of a legacy torch file: `torch.serialization.MAGIC_NUMBER` as a `LONG1`.
const TORCH_MAGIC: [u8; 12] = [
    0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19,
];

/// The kind of a file, as its first bytes tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileFormat {
    /// Python pickle of any protocol.
    Pickle,
    /// One numpy array.
    Npy,
    /// A zip archive of numpy arrays.
    Npz,
    /// A torch checkpoint in a zip archive, torch 1.6 and later.
    TorchZip,
    /// A torch checkpoint as consecutive pickles, before torch 1.6.
    TorchLegacy,
    /// Named arrays after a JSON header.
    Safetensors,
    /// HDF5, e.g. a `.csd` of CMU-MultimodalSDK.
    Hdf5,
    /// Values separated by commas.
    Csv,
    /// Values separated by tabulators.
    Tsv,
    /// One JSON document.
    Json,
    /// Several JSON documents, usually one a line.
    JsonLines,
    /// Any other UTF-8 text.
    Text,
}

impl FileFormat {
    /// Finds the format from the content of a file.
    ///
    /// Only the head and the last byte are read, so that a damaged file has a format too.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is absent, unreadable, empty or of an unknown format.
    pub fn detect(path: &Path) -> Result<Self, DataError> {
        let reading = |source: io::Error| DataError::reading(path, source);
        let mut file = File::open(path).map_err(reading)?;
        let mut head = Vec::new();
        let mut start = Read::by_ref(&mut file).take(HEAD_LEN);
        start.read_to_end(&mut head).map_err(reading)?;
        let Some(&head_end) = head.last() else {
            return Err(DataError::format(path, "data", 0u64, "empty file"));
        };
        let is_whole = (head.len() as u64) < HEAD_LEN;
        let last = if is_whole {
            head_end
        } else {
            let mut last = [0];
            file.seek(SeekFrom::End(-1)).map_err(reading)?;
            file.read_exact(&mut last).map_err(reading)?;
            last[0]
        };
        let found = binary_format(&head)
            .or_else(|| is_text_pickle(&head, last).then_some(Self::Pickle))
            .or_else(|| text_format(&head, is_whole));
        found.ok_or_else(|| {
            let start: Vec<String> = head
                .iter()
                .take(8)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let reason = format!(
                "the first bytes {} belong to no known format and to no UTF-8 text",
                start.join(" ")
            );
            DataError::format(path, "data", 0u64, reason)
        })
    }

    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pickle => "pickle",
            Self::Npy => "npy",
            Self::Npz => "npz",
            Self::TorchZip => "torch zip",
            Self::TorchLegacy => "torch legacy",
            Self::Safetensors => "safetensors",
            Self::Hdf5 => "HDF5",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Json => "JSON",
            Self::JsonLines => "JSON lines",
            Self::Text => "text",
        }
    }
}

impl fmt::Display for FileFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// The content of a file, for people and as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The file.
    pub path: String,
    /// Its format.
    pub format: FileFormat,
    /// Its length in bytes.
    pub bytes: u64,
    /// Free-text key-value pairs of the file.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Every array and every other value, in the order of the file.
    pub entries: Vec<Inspected>,
    /// Whether `entries` lists everything.
    pub complete: bool,
    /// What is not listed, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One value of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspected {
    /// Keys and positions that lead to the value; empty for the file as a whole.
    pub key: Vec<String>,
    /// The value.
    #[serde(flatten)]
    pub content: Content,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Content {
    /// An array of numbers or of strings of fixed length.
    Array(ArraySummary),
    /// Anything else.
    Value(ValueSummary),
}

/// One array in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArraySummary {
    /// The numpy type string, or the torch name in a checkpoint.
    pub dtype: String,
    /// The lengths of the axes.
    pub shape: Vec<usize>,
    /// Whether the file stores the first axis as the fastest; checkpoints do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fortran_order: Option<bool>,
    /// Hexadecimal SHA-256 of the little-endian bytes in C order.
    pub sha256: String,
    /// The sum in `f64`; absent for strings and complex numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum: Option<Element>,
    /// The first four elements in C order; empty for complex numbers.
    pub first: Vec<Element>,
    /// The last two elements in C order; empty for complex numbers.
    pub last: Vec<Element>,
    /// Number of elements that are NaN or infinite.
    pub non_finite: u64,
}

/// One element of an array.
///
/// Serialized as a number or a text; NaN and the infinities, which JSON lacks, as the texts
/// `nan`, `inf` and `-inf`.
#[derive(Clone, Debug, PartialEq)]
pub enum Element {
    /// A number or a truth value.
    Number(f64),
    /// A string.
    Text(String),
}

impl fmt::Display for Element {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(value) => formatter.pad(&number_text(*value)),
            Self::Text(text) => formatter.pad(&quoted(text)),
        }
    }
}

impl Serialize for Element {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(value) if value.is_finite() => serializer.serialize_f64(*value),
            Self::Number(value) => serializer.serialize_str(&number_text(*value)),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

/// A value that is no array.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValueSummary {
    /// Python's name of the type, or `column`, `lines`, `documents` for texts.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Number of members, lines or rows, if the value has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub len: Option<usize>,
    /// The value, or its start.
    pub repr: String,
}

impl fmt::Display for Inspection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{}: {}, {} bytes",
            self.path, self.format, self.bytes
        )?;
        for (key, value) in &self.metadata {
            writeln!(formatter, "  {key} = {value}")?;
        }
        for entry in &self.entries {
            writeln!(formatter, "  {entry}")?;
        }
        for note in &self.notes {
            writeln!(formatter, "  note: {note}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Inspected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_empty() {
            ".".to_owned()
        } else {
            self.key.join("/")
        };
        match &self.content {
            Content::Array(array) => {
                let shape = shape_text(&array.shape);
                write!(formatter, "{key}: {} {shape}", array.dtype)?;
                if array.fortran_order == Some(true) {
                    write!(formatter, ", Fortran order")?;
                }
                if let Some(sum) = &array.sum {
                    write!(formatter, ", sum {sum}")?;
                }
                if array.non_finite > 0 {
                    write!(formatter, ", {} not finite", array.non_finite)?;
                }
                if let Some(first) = array.first.first() {
                    write!(formatter, ", starts with {first}")?;
                }
                write!(formatter, ", sha256 {}", array.sha256)
            }
            Content::Value(value) => {
                write!(formatter, "{key}: {}", value.type_name)?;
                if let Some(len) = value.len {
                    write!(formatter, " of {len}")?;
                }
                write!(formatter, " {}", value.repr)
            }
        }
    }
}

/// Lists what a file of any supported format holds.
///
/// Nothing is executed, and values that are not finite are listed like others.
///
/// # Errors
///
/// Returns an error if the file is absent, damaged or of an unknown format.
pub fn inspect(path: &Path) -> Result<Inspection, DataError> {
    let mut format = FileFormat::detect(path)?;
    let bytes = fs::metadata(path)
        .map_err(|source| DataError::reading(path, source))?
        .len();
    let mut listing = Listing::default();
    let mut metadata = BTreeMap::new();
    match format {
        FileFormat::Pickle => {
            let pickle = Pickle::open(path)?;
            if pickle.trailing_bytes() > 0 {
                listing.notes.push(format!(
                    "{} bytes follow the end of the pickle",
                    pickle.trailing_bytes()
                ));
            }
            listing.item(&mut Vec::new(), pickle.root());
        }
        FileFormat::Npy => listing.npy(&mut Vec::new(), read_npy(path)?),
        FileFormat::Npz => {
            for (name, content) in read_npz(path)? {
                listing.npy(&mut vec![name], content);
            }
        }
        FileFormat::TorchZip | FileFormat::TorchLegacy => listing.checkpoint(path)?,
        FileFormat::Safetensors => {
            let file = TensorFile::open(path)?;
            metadata = file.metadata().clone();
            listing.tensors(&file)?;
        }
        FileFormat::Hdf5 => listing.hdf5(path)?,
        FileFormat::Csv => listing.table(path, b',')?,
        FileFormat::Tsv => listing.table(path, b'\t')?,
        FileFormat::Json | FileFormat::JsonLines => format = listing.json(path)?,
        FileFormat::Text => listing.text(path)?,
    }
    if listing.is_cut {
        listing.notes.push(format!(
            "more than {MAX_ENTRIES} entries; the others are not listed"
        ));
    }
    Ok(Inspection {
        path: path.display().to_string(),
        format,
        bytes,
        metadata,
        complete: !listing.is_cut && !listing.is_closed,
        entries: listing.entries,
        notes: listing.notes,
    })
}

/// How element types are named.
#[derive(Clone, Copy)]
enum Naming {
    Numpy,
    Torch,
}

impl ArraySummary {
    fn new(array: &HostArray, naming: Naming) -> Self {
        let element = array.element();
        let size = element.size();
        let bytes = array.c_bytes();
        // The shape of strings without length may claim any number of them; none is shown.
        let len = bytes.len().checked_div(size).unwrap_or(0);
        let mut total = numbers(element, &[]).map(|_| 0.0);
        let mut non_finite = 0;
        if size > 0 {
            for chunk in bytes.chunks(CHUNK_LEN * size) {
                for value in numbers(element, chunk).unwrap_or_default() {
                    total = total.map(|sum: f64| sum + value);
                    non_finite += u64::from(!value.is_finite());
                }
            }
        }
        let first = &bytes[..len.min(4) * size];
        let last = &bytes[(len - len.min(2)) * size..len * size];
        let (dtype, fortran_order) = match naming {
            Naming::Numpy => (
                element.numpy(),
                Some(array.order() == StorageOrder::Fortran),
            ),
            Naming::Torch => (element.to_string(), None),
        };
        Self {
            dtype,
            shape: array.shape().to_vec(),
            fortran_order,
            sha256: array.sha256(),
            sum: total.map(Element::Number),
            first: elements(element, first),
            last: elements(element, last),
            non_finite,
        }
    }
}

fn elements(element: ElementType, bytes: &[u8]) -> Vec<Element> {
    if let Some(values) = numbers(element, bytes) {
        return values.into_iter().map(Element::Number).collect();
    }
    let texts = part(element, bytes).and_then(|part| part.to_texts());
    texts
        .unwrap_or_default()
        .into_iter()
        .map(Element::Text)
        .collect()
}

/// Elements as numbers; `None` for strings and complex numbers.
fn numbers(element: ElementType, bytes: &[u8]) -> Option<Vec<f64>> {
    part(element, bytes)?.to_f64_vec()
}

/// Some consecutive elements as an array of one axis.
fn part(element: ElementType, bytes: &[u8]) -> Option<HostArray> {
    let len = bytes.len().checked_div(element.size())?;
    HostArray::new(element, vec![len], StorageOrder::C, bytes.to_vec()).ok()
}

/// The entries of a file as they are found.
#[derive(Default)]
struct Listing {
    entries: Vec<Inspected>,
    notes: Vec<String>,
    /// Whether there were more entries than are listed.
    is_cut: bool,
    /// Whether this build cannot look into the file.
    is_closed: bool,
    /// Summaries of the arrays of a pickle by address: a file may name one array many times.
    known: HashMap<usize, ArraySummary>,
}

impl Listing {
    fn push(&mut self, key: &[String], content: Content) {
        if self.entries.len() >= MAX_ENTRIES {
            self.is_cut = true;
            return;
        }
        self.entries.push(Inspected {
            key: key.to_vec(),
            content,
        });
    }

    fn value(&mut self, key: &[String], type_name: &str, len: Option<usize>, repr: String) {
        let summary = ValueSummary {
            type_name: type_name.to_owned(),
            len,
            repr,
        };
        self.push(key, Content::Value(summary));
    }

    /// Recursion is safe: the pickle reader limits the depth.
    fn item(&mut self, key: &mut Vec<String>, item: Item<'_>) {
        if self.is_cut {
            return;
        }
        match item.value() {
            Value::Array(array) => {
                let address = std::ptr::from_ref(array) as usize;
                let summary = match self.known.get(&address) {
                    Some(summary) => summary.clone(),
                    None => {
                        let summary = ArraySummary::new(array, Naming::Numpy);
                        self.known.insert(address, summary.clone());
                        summary
                    }
                };
                self.push(key, Content::Array(summary));
            }
            Value::Dict(entries) if entries.len() > 0 => {
                for (name, member) in entries {
                    let name = name.text().map_or_else(|| short_repr(name), str::to_owned);
                    key.push(name);
                    self.item(key, member);
                    key.pop();
                    if self.is_cut {
                        return;
                    }
                }
            }
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
                self.members(key, item, items);
            }
            // One object, which is how `np.save` stores a dict; it is listed in place of the array.
            Value::Objects {
                shape: [],
                mut items,
            } => {
                if let Some(inner) = items.next() {
                    self.item(key, inner);
                }
            }
            Value::Objects { items, .. } => self.members(key, item, items),
            _ => self.value(key, item.kind(), None, short_repr(item)),
        }
    }

    /// A sequence as one entry, followed by those of its members that may hold arrays.
    fn members(&mut self, key: &mut Vec<String>, item: Item<'_>, items: Items<'_>) {
        let shown: Vec<String> = items.clone().take(MAX_MEMBERS).map(short_repr).collect();
        let dots = if items.len() > MAX_MEMBERS {
            ", ..."
        } else {
            ""
        };
        let repr = match item.value() {
            Value::Objects { shape, .. } => {
                format!(
                    "dtype object {} [{}{dots}]",
                    shape_text(shape),
                    shown.join(", ")
                )
            }
            _ => format!("[{}{dots}]", shown.join(", ")),
        };
        self.value(key, item.kind(), Some(items.len()), repr);
        for (index, member) in items.enumerate() {
            let is_nested = matches!(
                member.value(),
                Value::Array(_)
                    | Value::Dict(_)
                    | Value::List(_)
                    | Value::Tuple(_)
                    | Value::Set(_)
                    | Value::Objects { .. }
            );
            if is_nested {
                key.push(index.to_string());
                self.item(key, member);
                key.pop();
            }
            if self.is_cut {
                return;
            }
        }
    }

    fn npy(&mut self, key: &mut Vec<String>, content: NpyContent) {
        match content {
            NpyContent::Array(array) => {
                self.push(
                    key,
                    Content::Array(ArraySummary::new(&array, Naming::Numpy)),
                );
            }
            NpyContent::Pickled(pickle) => self.item(key, pickle.root()),
        }
        // The addresses of this file's arrays may come back in the next one of an archive.
        self.known.clear();
    }

    fn checkpoint(&mut self, path: &Path) -> Result<(), DataError> {
        let checkpoint = Checkpoint::open(path)?;
        for (name, _) in checkpoint.tensors() {
            if self.entries.len() >= MAX_ENTRIES {
                self.is_cut = true;
                break;
            }
            let array = checkpoint.read(name)?;
            let summary = ArraySummary::new(&array, Naming::Torch);
            self.push(std::slice::from_ref(name), Content::Array(summary));
        }
        Ok(())
    }

    fn tensors(&mut self, file: &TensorFile) -> Result<(), DataError> {
        for name in file.names() {
            let key = [name.to_owned()];
            match file.host_array(name) {
                Ok(array) => {
                    self.push(
                        &key,
                        Content::Array(ArraySummary::new(&array, Naming::Torch)),
                    );
                }
                // Element types of eight bits and less exist in files but in no array here.
                Err(DataError {
                    kind: DataErrorKind::WrongDtype { actual, .. },
                    ..
                }) => {
                    let repr = format!("{actual} {}", shape_text(file.shape(name)?));
                    self.value(&key, "tensor", None, repr);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    #[cfg(feature = "hdf5")]
    fn hdf5(&mut self, path: &Path) -> Result<(), DataError> {
        csd::visit_datasets(path, &mut |key, leaf| match leaf {
            csd::Leaf::Array(array) => {
                self.push(
                    key,
                    Content::Array(ArraySummary::new(&array, Naming::Numpy)),
                );
            }
            csd::Leaf::Text(text) => self.value(key, "str", None, quoted(&text)),
            csd::Leaf::Other(text) => self.value(key, "dataset", None, text),
        })
    }

    #[cfg(not(feature = "hdf5"))]
    fn hdf5(&mut self, path: &Path) -> Result<(), DataError> {
        csd::check_superblock(path)?;
        let note = "the content is not listed because this program was built without HDF5; \
                    build it with the cargo feature `hdf5`";
        self.notes.push(note.to_owned());
        self.is_closed = true;
        Ok(())
    }

    fn table(&mut self, path: &Path, delimiter: u8) -> Result<(), DataError> {
        let bytes = read(path)?;
        let mut reader = csv_reader(without_mark(&bytes), delimiter);
        let mut header = csv::ByteRecord::new();
        let mut sample = csv::ByteRecord::new();
        let mut record = csv::ByteRecord::new();
        let mut next = |record: &mut csv::ByteRecord| {
            let read = reader.read_byte_record(record);
            read.map_err(|error| DataError::format(path, "csv", None::<u64>, error.to_string()))
        };
        next(&mut header)?;
        let mut rows = 0;
        if next(&mut sample)? {
            rows = 1;
            while next(&mut record)? {
                rows += 1;
            }
        }
        for (column, name) in header.iter().enumerate() {
            let name = shortened(&String::from_utf8_lossy(name));
            let cell = sample.get(column).unwrap_or_default();
            let repr = quoted(&String::from_utf8_lossy(cell));
            self.value(&[name], "column", Some(rows), repr);
        }
        Ok(())
    }

    fn json(&mut self, path: &Path) -> Result<FileFormat, DataError> {
        let content = read(path)?;
        let bytes = without_mark(&content);
        let broken = |error: serde_json::Error| {
            let kind = DataErrorKind::Format {
                format: "JSON",
                offset: None,
                reason: error.to_string(),
            };
            DataError::at_line(path, error.line(), kind)
        };
        let mut documents = 0;
        for document in serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>() {
            document.map_err(broken)?;
            documents += 1;
        }
        let mut key = Vec::new();
        let format = if documents > 1 {
            let repr = "the first one stands for all".to_owned();
            self.value(&key, "documents", Some(documents), repr);
            key.push("0".to_owned());
            FileFormat::JsonLines
        } else {
            FileFormat::Json
        };
        let node = JsonNode {
            listing: self,
            key: &mut key,
        };
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        node.deserialize(&mut deserializer).map_err(broken)?;
        Ok(format)
    }

    fn text(&mut self, path: &Path) -> Result<(), DataError> {
        let bytes = read(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let offset = error.valid_up_to() as u64;
            DataError::new(path, DataErrorKind::InvalidUtf8 { offset })
        })?;
        let first = text.lines().next().unwrap_or_default();
        self.value(&[], "lines", Some(text.lines().count()), quoted(first));
        Ok(())
    }
}

/// One value of a JSON document; lists are stood for by their first member.
///
/// Visits the document without keeping it, because a tree takes many times the memory of the file.
struct JsonNode<'a> {
    listing: &'a mut Listing,
    key: &'a mut Vec<String>,
}

impl JsonNode<'_> {
    fn leaf(self, type_name: &str, repr: String) {
        self.listing.value(self.key, type_name, None, repr);
    }
}

impl<'de> DeserializeSeed<'de> for JsonNode<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonNode<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.leaf("bool", value.to_string());
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.leaf("int", value.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.leaf("int", value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.leaf("float", number_text(value));
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.leaf("str", quoted(value));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.leaf("null", "null".to_owned());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { listing, key } = self;
        let place = listing.entries.len();
        let repr = "the first one stands for all".to_owned();
        listing.value(key, "list", Some(0), repr);
        let mut len = 0;
        key.push("0".to_owned());
        let first = JsonNode {
            listing: &mut *listing,
            key: &mut *key,
        };
        if members.next_element_seed(first)?.is_some() {
            len = 1;
            while members.next_element::<IgnoredAny>()?.is_some() {
                len += 1;
            }
        }
        key.pop();
        if let Some(Inspected {
            content: Content::Value(summary),
            ..
        }) = listing.entries.get_mut(place)
        {
            summary.len = Some(len);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { listing, key } = self;
        let mut is_empty = true;
        while let Some(name) = members.next_key::<String>()? {
            is_empty = false;
            if listing.is_cut {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            key.push(name);
            let member = JsonNode {
                listing: &mut *listing,
                key: &mut *key,
            };
            members.next_value_seed(member)?;
            key.pop();
        }
        if is_empty {
            listing.value(key, "dict", Some(0), "{}".to_owned());
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    fs::read(path).map_err(|source| DataError::reading(path, source))
}

fn csv_reader(bytes: &[u8], delimiter: u8) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes)
}

/// The content after a byte-order mark.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

fn binary_format(head: &[u8]) -> Option<FileFormat> {
    if head.starts_with(b"\x93NUMPY") {
        return Some(FileFormat::Npy);
    }
    if head.starts_with(b"PK\x03\x04") {
        return Some(zip_format(head));
    }
    if head.starts_with(&SIGNATURE) {
        return Some(FileFormat::Hdf5);
    }
    if head.first() == Some(&0x80) {
        let start = &head[..head.len().min(32)];
        let is_torch = start
            .windows(TORCH_MAGIC.len())
            .any(|window| window == TORCH_MAGIC);
        return Some(if is_torch {
            FileFormat::TorchLegacy
        } else {
            FileFormat::Pickle
        });
    }
    // The length of the header comes first; texts have no such bytes.
    let (prefix, rest) = head.split_first_chunk::<8>()?;
    let is_length = prefix.iter().any(|&byte| byte == 0 || byte == 0xff);
    (is_length && rest.first() == Some(&b'{')).then_some(FileFormat::Safetensors)
}

/// Torch and numpy both write zip archives; the name of the first member tells them apart.
fn zip_format(head: &[u8]) -> FileFormat {
    let name_len = head
        .get(26..28)
        .map_or(0, |len| usize::from(len[0]) | (usize::from(len[1]) << 8));
    let name = head.get(30..30 + name_len).unwrap_or_default();
    if name.ends_with(b".npy") {
        FileFormat::Npz
    } else {
        FileFormat::TorchZip
    }
}

/// Whether a file is a pickle of protocol 0 or 1, which has no signature.
fn is_text_pickle(head: &[u8], last: u8) -> bool {
    if last != b'.' {
        return false;
    }
    match head {
        // A dict, list or tuple that is memorized, or the same in protocol 1.
        [b'(', b'd' | b'l' | b't', b'p', digit, ..] => digit.is_ascii_digit(),
        [b'}' | b']' | b')', b'q', ..] => true,
        [b'c', rest @ ..] | [b'(', b'c' | b'i', rest @ ..] => {
            // The name of a module and of a member, a line each.
            let mut lines = rest.split(|&byte| byte == b'\n');
            let mut is_name = || {
                lines.next().is_some_and(|line| {
                    let mut letters = line.iter();
                    !line.is_empty()
                        && letters
                            .all(|&byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
                })
            };
            is_name() && is_name()
        }
        _ => false,
    }
}

fn text_format(head: &[u8], is_whole: bool) -> Option<FileFormat> {
    let head = without_mark(head);
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The head may end within a character, but only there.
        Err(error) if !is_whole && error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    if text.contains('\0') {
        return None;
    }
    if text.trim_start().starts_with(['{', '[']) {
        return Some(FileFormat::Json);
    }
    let first = text.lines().next().unwrap_or_default();
    Some(if first.contains('\t') {
        FileFormat::Tsv
    } else if first.contains(',') && is_csv(text.as_bytes(), is_whole) {
        FileFormat::Csv
    } else {
        FileFormat::Text
    })
}

/// Whether the first records have as many fields as the header, and the header is no prose.
fn is_csv(head: &[u8], is_whole: bool) -> bool {
    let mut records: Vec<csv::ByteRecord> = Vec::new();
    for record in csv_reader(head, b',').into_byte_records().take(CSV_PROBE) {
        match record {
            Ok(record) => records.push(record),
            Err(_) => return false,
        }
    }
    if !is_whole && records.len() < CSV_PROBE {
        // The end of the head cuts the last one.
        records.pop();
    }
    let Some(header) = records.first() else {
        return false;
    };
    header.len() > 1
        && header
            .iter()
            .all(|name| !name.is_empty() && !name.starts_with(b" "))
        && records.iter().all(|record| record.len() == header.len())
}

/// A value of a pickle in a few words.
pub(crate) fn short_repr(item: Item<'_>) -> String {
    match item.value() {
        Value::None => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Int(value) => value.to_string(),
        Value::BigInt(bytes) => format!("integer of {} bytes", bytes.len()),
        Value::Float(value) => number_text(value),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Value::Text(text) => quoted(text),
        Value::List(items) => format!("list of {}", items.len()),
        Value::Tuple(items) => format!("tuple of {}", items.len()),
        Value::Set(items) => format!("set of {}", items.len()),
        Value::Dict(entries) => format!("dict of {}", entries.len()),
        Value::Array(array) => {
            format!("{} array {}", array.element(), shape_text(array.shape()))
        }
        Value::Scalar(array) => {
            let start = array.num_bytes().min(array.element().size());
            let bytes = array.c_bytes();
            let value = elements(array.element(), &bytes[..start]);
            value
                .first()
                .map_or_else(|| array.element().to_string(), Element::to_string)
        }
        Value::Objects { shape, .. } => format!("object array {}", shape_text(shape)),
        Value::Symbol(name) => name.to_owned(),
        Value::Call { function, .. } => format!("{function}(...)"),
        Value::Persistent(_) => "persistent id".to_owned(),
    }
}

/// A shape as Python writes it: `()`, `(5,)`, `(2, 8, 7)`.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    match shape {
        [len] => format!("({len},)"),
        _ => {
            let lens: Vec<String> = shape.iter().map(usize::to_string).collect();
            format!("({})", lens.join(", "))
        }
    }
}

/// A number as messages show it; `nan`, `inf` and `-inf` as Python writes them.
pub(crate) fn number_text(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    // The debug form has an exponent where the other would have hundreds of digits.
    let text = format!("{value:?}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

fn quoted(text: &str) -> String {
    format!("'{}'", shortened(text))
}

fn shortened(text: &str) -> String {
    let start: String = text.chars().take(MAX_SHOWN).collect();
    let dots = if start.len() < text.len() { "..." } else { "" };
    format!("{}{dots}", start.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(bytes: &[u8]) -> Option<FileFormat> {
        let last = bytes.last().copied().unwrap_or(0);
        binary_format(bytes)
            .or_else(|| is_text_pickle(bytes, last).then_some(FileFormat::Pickle))
            .or_else(|| text_format(bytes, true))
    }

    #[test]
    fn formats_are_told_by_content() {
        let cases: [(&[u8], Option<FileFormat>); 16] = [
            (b"\x80\x04}.", Some(FileFormat::Pickle)),
            (b"(dp1\nS'a'\np2\nI1\ns.", Some(FileFormat::Pickle)),
            (b"cposix\nsystem\n(S'x'\ntR.", Some(FileFormat::Pickle)),
            (b"cats are nice.", Some(FileFormat::Text)),
            (b"(let us see.", Some(FileFormat::Text)),
            (b"\x93NUMPY\x01\x00", Some(FileFormat::Npy)),
            (b"\x89HDF\r\n\x1a\n\x00", Some(FileFormat::Hdf5)),
            (b"\x02\0\0\0\0\0\0\0{}", Some(FileFormat::Safetensors)),
            (b"\xef\xbb\xbf {\"a\": 1}", Some(FileFormat::Json)),
            (b"id,text\na,\"b, c\"\n", Some(FileFormat::Csv)),
            (b"id,text\na\n", Some(FileFormat::Text)),
            (b"Well, no.\n", Some(FileFormat::Text)),
            (b"id\ttext\n", Some(FileFormat::Tsv)),
            (b"<!DOCTYPE html>\n", Some(FileFormat::Text)),
            (b"\xff\xfea\0", None),
            (b"abc\0", None),
        ];
        for (bytes, format) in cases {
            assert_eq!(detect(bytes), format, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn the_first_member_of_an_archive_tells_who_wrote_it() {
        let archive = |name: &[u8]| {
            let mut head = b"PK\x03\x04".to_vec();
            head.resize(26, 0);
            head.extend([name.len() as u8, 0, 0, 0]);
            head.extend_from_slice(name);
            head
        };
        assert_eq!(detect(&archive(b"features.npy")), Some(FileFormat::Npz));
        assert_eq!(
            detect(&archive(b"model/data.pkl")),
            Some(FileFormat::TorchZip)
        );
    }

    #[test]
    fn an_array_is_summarized_with_its_values_that_are_not_finite() {
        let values = [1.5f32, f32::NAN, f32::NEG_INFINITY, 2.0, 3.0];
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let array = HostArray::new(ElementType::F32, vec![5], StorageOrder::C, bytes).unwrap();
        let summary = ArraySummary::new(&array, Naming::Numpy);
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["dtype"], "<f4");
        assert_eq!(json["sum"], "nan");
        assert_eq!(json["first"], serde_json::json!([1.5, "nan", "-inf", 2.0]));
        assert_eq!(json["last"], serde_json::json!([2.0, 3.0]));
        assert_eq!(json["non_finite"], 2);
    }

    #[test]
    fn an_empty_array_has_a_sum_and_texts_have_none() {
        let empty = HostArray::new(ElementType::I64, vec![0, 3], StorageOrder::C, vec![]).unwrap();
        let summary = ArraySummary::new(&empty, Naming::Torch);
        assert_eq!(
            (summary.dtype.as_str(), summary.sum),
            ("int64", Some(Element::Number(0.0)))
        );
        let texts = HostArray::new(
            ElementType::Bytes(2),
            vec![2],
            StorageOrder::C,
            b"abc\0".to_vec(),
        );
        let summary = ArraySummary::new(&texts.unwrap(), Naming::Numpy);
        assert_eq!(summary.sum, None);
        let expected = [Element::Text("ab".into()), Element::Text("c".into())];
        assert_eq!(summary.first, expected);
    }

    #[test]
    fn json_is_listed_without_its_repetitions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(
            &path,
            r#"{"sentences": [{"caption": "x"}, {"caption": "y"}], "n": 2}"#,
        )
        .unwrap();
        let inspection = inspect(&path).unwrap();
        assert_eq!(inspection.format, FileFormat::Json);
        let json = serde_json::to_value(&inspection).unwrap();
        assert_eq!(json["entries"][0]["len"], 2);
        assert_eq!(
            json["entries"][1]["key"],
            serde_json::json!(["sentences", "0", "caption"])
        );
        assert_eq!(json["entries"][1]["repr"], "'x'");
        assert_eq!(json["entries"][2]["key"], serde_json::json!(["n"]));
    }

    #[test]
    fn broken_json_is_an_error_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        fs::write(&path, "{\"a\": 1,\n\"b\" 2}").unwrap();
        let error = inspect(&path).unwrap_err();
        assert_eq!(error.line, Some(2));
        fs::write(&path, "").unwrap();
        assert!(
            inspect(&path)
                .unwrap_err()
                .to_string()
                .contains("empty file")
        );
    }

    #[test]
    fn long_texts_are_shortened() {
        assert_eq!(quoted("a\nb"), "'a\\nb'");
        assert_eq!(quoted(&"x".repeat(100)).len(), MAX_SHOWN + 5);
        assert_eq!(shape_text(&[5]), "(5,)");
        assert_eq!(shape_text(&[]), "()");
    }
}
