//! The storages of a checkpoint on the disk, read one at a time.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::DataError;
use crate::pickle::{Dialect, Item, Pickle, Value};
use crate::zip_members::ZipMembers;

use super::tree::{Storage, Tree, tree_of};
use super::{FORMAT, fault};

/// Bytes that a deflated storage may have beyond the length of the file.
///
/// PyTorch never deflates. A view that is not contiguous needs the storage twice.
const INFLATION_ALLOWANCE: u64 = 40_000_000;

/// Bytes of the member that names the byte order.
const MAX_BYTE_ORDER: u64 = 16;

/// The number with which files before PyTorch 1.6 start, as little-endian bytes.
pub(super) const LEGACY_MAGIC: [u8; 10] =
    [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The version of those files.
const LEGACY_PROTOCOL: i64 = 1001;

/// How the errors name the pickle of such a file.
const LEGACY_PLACE: &str = "the pickle of the values";

/// Which byte of a number comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

/// Where the bytes of each storage are.
#[derive(Debug)]
pub(super) enum Source {
    /// In one member each.
    Zip {
        members: ZipMembers,
        places: Vec<usize>,
    },
    /// From one byte each.
    Legacy { file: File, places: Vec<u64> },
}

impl Source {
    /// Bytes `start..start + len` of a storage.
    pub(super) fn read(
        &mut self,
        path: &Path,
        storage: usize,
        start: u64,
        len: usize,
    ) -> Result<Vec<u8>, DataError> {
        match self {
            Self::Zip { members, places } => members.read_span(places[storage], start, len),
            Self::Legacy { file, places } => {
                let at = places[storage].saturating_add(start);
                let mut bytes = Vec::with_capacity(len);
                file.seek(SeekFrom::Start(at))
                    .and_then(|_| file.take(len as u64).read_to_end(&mut bytes))
                    .map_err(|source| DataError::reading(path, source))?;
                if bytes.len() < len {
                    let reason = format!("a storage needs {len} bytes, {} are there", bytes.len());
                    return Err(DataError::format(path, FORMAT, at, reason));
                }
                Ok(bytes)
            }
        }
    }
}

/// A checkpoint whose values are known and whose storages are found.
pub(super) struct Opened {
    pub(super) pickle: Pickle,
    /// How errors name the pickle.
    pub(super) place: String,
    pub(super) tree: Tree,
    pub(super) byte_order: ByteOrder,
    pub(super) source: Source,
}

/// Opens a file of PyTorch 1.6 and later: a zip archive with `data.pkl` and one member per storage.
pub(super) fn open_zip(path: &Path, len: u64) -> Result<Opened, DataError> {
    let mut members = ZipMembers::open(path, FORMAT, INFLATION_ALLOWANCE)?;
    let root = root_folder(path, &members)?;
    let byte_order = byte_order(&mut members, &root)?;
    let place = format!("{root}data.pkl");
    let Some(index) = members.position(&place) else {
        return Err(fault(path, &format!("member {place} is missing")));
    };
    let size = members.size(index);
    if size > members.max_pickle(index) {
        let reason = format!("inflates to {size} bytes, far beyond its size in the archive");
        return Err(members.fault(index, &reason));
    }
    let (pickle, consumed) = members.read_with(index, |reader| {
        Pickle::read(path, BufReader::new(reader), size, Dialect::Torch)
            .map_err(|error| super::with_place(error, &format!("member {place}")))
    })?;
    if consumed != size {
        let reason = format!("{} bytes follow the pickle", size.saturating_sub(consumed));
        return Err(members.fault(index, &reason));
    }
    let tree = tree_of(pickle.root(), path, &format!("member {place}"), len)?;
    let mut places = Vec::with_capacity(tree.storages.len());
    for storage in &tree.storages {
        let name = format!("{root}data/{}", storage.key);
        let Some(index) = members.position(&name) else {
            let reason = format!(
                "tensor `{}` needs member {name}, which is missing",
                storage.tensor
            );
            return Err(fault(path, &reason));
        };
        let present = members.size(index);
        // A storage of bytes may have some more than fill its last value.
        if present < storage.bytes || present - storage.bytes >= 16 {
            let reason = format!(
                "tensor `{}` needs a storage of {} bytes, member {name} has {present}",
                storage.tensor, storage.bytes
            );
            return Err(fault(path, &reason));
        }
        members.check_inflation(index)?;
        places.push(index);
    }
    Ok(Opened {
        pickle,
        place: format!("member {place}"),
        tree,
        byte_order,
        source: Source::Zip { members, places },
    })
}

/// The folder inside the archive, with a slash at its end; empty if there is none.
fn root_folder(path: &Path, members: &ZipMembers) -> Result<String, DataError> {
    let mut roots: Vec<&str> = Vec::new();
    for name in members.names() {
        match name.strip_suffix("data.pkl") {
            Some("") => roots.push(""),
            Some(root) if root.ends_with('/') && !root[..root.len() - 1].contains('/') => {
                roots.push(root);
            }
            _ => {}
        }
    }
    match roots[..] {
        [root] => Ok(root.to_owned()),
        [] => {
            let names: Vec<&str> = members.names().take(8).collect();
            Err(fault(
                path,
                &format!(
                    "the zip archive has no member data.pkl, only {}",
                    if names.is_empty() {
                        "none at all".to_owned()
                    } else {
                        names.join(", ")
                    }
                ),
            ))
        }
        _ => Err(fault(path, "the zip archive has more than one data.pkl")),
    }
}

/// The byte order that the archive states; files before PyTorch 2.1 state none and are little.
fn byte_order(members: &mut ZipMembers, root: &str) -> Result<ByteOrder, DataError> {
    let Some(index) = members.position(&format!("{root}byteorder")) else {
        return Ok(ByteOrder::Little);
    };
    let size = members.size(index).min(MAX_BYTE_ORDER);
    let text = members.read_span(index, 0, usize::try_from(size).unwrap_or(0))?;
    match text.trim_ascii() {
        b"little" => Ok(ByteOrder::Little),
        b"big" => Ok(ByteOrder::Big),
        other => {
            let shown = other.escape_ascii().to_string();
            Err(members.fault(
                index,
                &format!("the byteorder is `{shown}`, not little or big"),
            ))
        }
    }
}

/// Opens a file before PyTorch 1.6: five pickles and then the storages one after the other.
pub(super) fn open_legacy(path: &Path, len: u64) -> Result<Opened, DataError> {
    let file = File::open(path).map_err(|source| DataError::reading(path, source))?;
    let mut pickles = Pickles {
        path,
        reader: BufReader::new(file),
        at: 0,
        len,
    };
    let magic = pickles.read("the magic number")?;
    if !matches!(magic.root().value(), Value::BigInt(bytes) if bytes == LEGACY_MAGIC) {
        return Err(fault(path, "the magic number of torch.save is missing"));
    }
    let protocol = pickles.read("the protocol version")?;
    if protocol.root().int() != Some(LEGACY_PROTOCOL) {
        let reason = format!("the protocol version is not {LEGACY_PROTOCOL}");
        return Err(fault(path, &reason));
    }
    let system = pickles.read("the description of the system")?;
    match system.root().get("little_endian").map(Item::value) {
        Some(Value::Bool(true)) => {}
        _ => {
            let reason = "the byteorder is not little_endian; save the file again on a \
                          little-endian machine";
            return Err(fault(path, reason));
        }
    }
    let pickle = pickles.read(LEGACY_PLACE)?;
    let keys = pickles.read("the list of storages")?;
    let tree = tree_of(pickle.root(), path, LEGACY_PLACE, len)?;
    let places = legacy_places(path, &mut pickles, keys.root(), &tree.storages)?;
    Ok(Opened {
        pickle,
        place: LEGACY_PLACE.to_owned(),
        tree,
        byte_order: ByteOrder::Little,
        source: Source::Legacy {
            file: pickles.reader.into_inner(),
            places,
        },
    })
}

/// Pickles one after the other in a file.
struct Pickles<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    /// Bytes read so far.
    at: u64,
    len: u64,
}

impl Pickles<'_> {
    fn read(&mut self, place: &str) -> Result<Pickle, DataError> {
        let left = self.len.saturating_sub(self.at);
        let (pickle, consumed) = Pickle::read(self.path, &mut self.reader, left, Dialect::Torch)
            .map_err(|error| {
                super::with_place(error, &format!("{place}, from byte {}", self.at))
            })?;
        self.at = self.at.saturating_add(consumed);
        Ok(pickle)
    }
}

/// The first byte of each storage, from the keys in the order of the file.
///
/// Each storage is its number of values as a little-endian integer, and the values.
fn legacy_places(
    path: &Path,
    pickles: &mut Pickles<'_>,
    keys: Item<'_>,
    storages: &[Storage],
) -> Result<Vec<u64>, DataError> {
    let Value::List(keys) = keys.value() else {
        return Err(fault(path, "the list of storages is no list"));
    };
    let mut positions: HashMap<&str, usize> = HashMap::with_capacity(storages.len());
    for (position, storage) in storages.iter().enumerate() {
        positions.insert(storage.key.as_str(), position);
    }
    let mut places = vec![0_u64; storages.len()];
    let mut found: HashSet<usize> = HashSet::with_capacity(storages.len());
    for key in keys {
        let Some(key) = key.text() else {
            return Err(fault(
                path,
                "the list of storages holds something else than texts",
            ));
        };
        let Some(&position) = positions.get(key) else {
            let reason = format!("storage {key:.40} belongs to no tensor, so its size is unknown");
            return Err(fault(path, &reason));
        };
        if !found.insert(position) {
            let reason = format!("storage {key:.40} is listed twice");
            return Err(fault(path, &reason));
        }
        places[position] = legacy_place(pickles, &storages[position])?;
    }
    for (position, storage) in storages.iter().enumerate() {
        if !found.contains(&position) {
            let reason = format!(
                "tensor `{}` needs storage {}, which is not in the list of storages",
                storage.tensor, storage.key
            );
            return Err(fault(path, &reason));
        }
    }
    if pickles.at < pickles.len {
        let reason = format!("{} bytes follow the last storage", pickles.len - pickles.at);
        return Err(DataError::format(path, FORMAT, pickles.at, reason));
    }
    Ok(places)
}

/// The first byte of the next storage, which has to be as long as its tensors say.
fn legacy_place(pickles: &mut Pickles<'_>, storage: &Storage) -> Result<u64, DataError> {
    let path = pickles.path;
    let start = pickles.at.saturating_add(8);
    let end = start.saturating_add(storage.bytes);
    if end > pickles.len {
        let reason = format!(
            "storage {} of tensor `{}` needs {} bytes from byte {start}, but the file ends at byte \
             {}",
            storage.key, storage.tensor, storage.bytes, pickles.len
        );
        return Err(fault(path, &reason));
    }
    let mut prefix = [0_u8; 8];
    pickles
        .reader
        .seek(SeekFrom::Start(pickles.at))
        .and_then(|_| pickles.reader.read_exact(&mut prefix))
        .map_err(|source| DataError::reading(path, source))?;
    let count = u64::from_le_bytes(prefix);
    if count.checked_mul(storage.element_size) != Some(storage.bytes) {
        let reason = format!(
            "storage {} of tensor `{}` has {count} values, but {} bytes of {} each are needed",
            storage.key, storage.tensor, storage.bytes, storage.element_size
        );
        return Err(DataError::format(path, FORMAT, pickles.at, reason));
    }
    pickles.at = end;
    Ok(start)
}
