//! Checkpoints of PyTorch, read without executing anything.

pub(crate) mod foreign;
mod source;
mod tensor;
mod tree;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{DataError, DataErrorKind};
use crate::host_array::{HostArray, StorageOrder};
use crate::pickle::{Item, ItemId, Items, Pickle, Value};

use self::foreign::foreign_kind;
use self::source::{ByteOrder, LEGACY_MAGIC, Source, open_legacy, open_zip};
use self::tree::{is_tensor_function, tree_of};

pub use self::tensor::CheckpointTensor;

/// What errors call the format.
const FORMAT: &str = "PyTorch checkpoint";

/// Bytes from which the kind of a file is told.
const HEAD_LEN: u64 = 300;

/// Bytes within which the number of [`LEGACY_MAGIC`] begins.
const LEGACY_MAGIC_END: usize = 32;

/// Names that an error message lists at most.
const MAX_LISTED_NAMES: usize = 8;

/// A file of `torch.save`: `.pt`, `.pth`, `.bin`, `.ckpt`, of any version since PyTorch 0.4.
///
/// Opening reads the values and checks where each tensor lies; the numbers of a tensor are read
/// when they are asked for, one storage at a time. Classes that are unknown here are kept by their
/// name. A file that calls functions of the operating system is refused; nothing is ever executed.
///
/// Tensors are named by the dotted path to them in what `torch.load` returns, with the position in
/// lists: `state_dict.encoder.weight`, `optimizer_states.0.state.3.exp_avg`. A file that is one
/// single tensor has the empty name.
///
/// ```no_run
/// use std::path::Path;
/// use meltr_data::Checkpoint;
///
/// # fn main() -> Result<(), meltr_data::DataError> {
/// let checkpoint = Checkpoint::open(Path::new("last.ckpt"))?.with_top_level_key("state_dict")?;
/// for (name, tensor) in checkpoint.tensors() {
///     println!("{name} {:?} {}", tensor.shape(), tensor.element());
///     let values = checkpoint.read(name)?.to_f32();
/// }
/// # Ok(())
/// # }
/// ```
pub struct Checkpoint {
    path: PathBuf,
    pickle: Pickle,
    /// How errors name the pickle.
    place: String,
    len: u64,
    /// Keys that lead to the root, from the root of the pickle.
    keys: Vec<String>,
    tensors: Vec<(String, CheckpointTensor)>,
    by_name: HashMap<String, usize>,
    by_item: HashMap<ItemId, usize>,
    /// Names of the storages in the file.
    storages: HashMap<String, usize>,
    byte_order: ByteOrder,
    source: Mutex<Source>,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Checkpoint")
            .field("path", &self.path)
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

impl Checkpoint {
    /// Opens a zip archive of PyTorch 1.6 or later, or a file of an earlier PyTorch.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is absent, unreadable, cut off, damaged or something else, in
    /// which case the message says what; if a tensor reaches beyond its storage, is no dense tensor
    /// or is complex; and if the file asks for a call that no file of weights needs.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let mut file = File::open(path).map_err(|source| DataError::reading(path, source))?;
        let metadata = file
            .metadata()
            .map_err(|source| DataError::reading(path, source))?;
        let len = metadata.len();
        let mut head = Vec::new();
        file.by_ref()
            .take(HEAD_LEN)
            .read_to_end(&mut head)
            .map_err(|source| DataError::reading(path, source))?;
        let opened = if head.starts_with(b"PK") {
            open_zip(path, len)?
        } else if has_legacy_magic(&head) {
            open_legacy(path, len)?
        } else {
            let reason = match foreign_kind(&head, len) {
                Some(kind) => format!("this is {kind}"),
                None => format!(
                    "it is neither a zip archive nor starts with the number of torch.save, but \
                     with `{}`",
                    head.get(..16).unwrap_or(&head).escape_ascii()
                ),
            };
            return Err(fault(path, &reason));
        };
        let mut storages = HashMap::with_capacity(opened.tree.storages.len());
        for (position, storage) in opened.tree.storages.iter().enumerate() {
            storages.insert(storage.key.clone(), position);
        }
        let mut checkpoint = Self {
            path: path.to_path_buf(),
            pickle: opened.pickle,
            place: opened.place,
            len,
            keys: Vec::new(),
            tensors: Vec::new(),
            by_name: HashMap::new(),
            by_item: HashMap::new(),
            storages,
            byte_order: opened.byte_order,
            source: Mutex::new(opened.source),
        };
        checkpoint.set_tensors(opened.tree.tensors, &opened.tree.items)?;
        Ok(checkpoint)
    }

    /// The same checkpoint, seen from one key of its top-level dict: `state_dict` in files of
    /// PyTorch Lightning, `model` in many others.
    ///
    /// # Errors
    ///
    /// Returns an error that lists the keys if there is no such key.
    pub fn with_top_level_key(mut self, key: &str) -> Result<Self, DataError> {
        let root = self.root();
        let Some(below) = root.get(key) else {
            let mut known: Vec<String> = Vec::new();
            if let CheckpointValue::Dict(entries) = root.value() {
                let texts = entries.iter().filter_map(|(key, _)| key.text());
                known.extend(
                    texts
                        .take(MAX_LISTED_NAMES)
                        .map(|key| format!("`{key:.80}`")),
                );
            }
            let reason = if known.is_empty() {
                format!(
                    "is no key; the file holds a {} at its top level",
                    root.kind()
                )
            } else {
                format!(
                    "is no key of the top-level dict, which has {}",
                    known.join(", ")
                )
            };
            return Err(DataError::item(&self.path, key, reason));
        };
        let tree = tree_of(below.item, &self.path, &self.place, self.len)?;
        let mut tensors = Vec::with_capacity(tree.tensors.len());
        for (name, tensor) in tree.tensors {
            let storage = &tree.storages[tensor.storage()].key;
            let Some(&position) = self.storages.get(storage) else {
                return Err(fault(&self.path, &format!("storage {storage} is missing")));
            };
            tensors.push((name, tensor.with_storage(position)));
        }
        self.keys.push(key.to_owned());
        self.set_tensors(tensors, &tree.items)?;
        Ok(self)
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value that the file holds.
    #[must_use]
    pub fn root(&self) -> CheckpointItem<'_> {
        let item = self.keys.iter().fold(self.pickle.root(), |item, key| {
            item.get(key).unwrap_or(item)
        });
        CheckpointItem {
            checkpoint: self,
            item,
        }
    }

    /// The tensors with their names, in the order of the file.
    #[must_use]
    pub fn tensors(&self) -> &[(String, CheckpointTensor)] {
        &self.tensors
    }

    /// A tensor by its name, without its values.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::MissingTensor`] if there is no tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<&CheckpointTensor, DataError> {
        let Some(&position) = self.by_name.get(name) else {
            let names = self.tensors.iter().map(|(name, _)| name.as_str());
            let mut known: Vec<&str> = names.take(MAX_LISTED_NAMES).collect();
            if self.tensors.len() > known.len() {
                known.push("...");
            }
            if known.is_empty() {
                known.push("none");
            }
            return Err(DataError::new(
                &self.path,
                DataErrorKind::MissingTensor {
                    name: name.to_owned(),
                    known: known.join(", "),
                },
            ));
        };
        Ok(&self.tensors[position].1)
    }

    /// Reads the values of a tensor, in C order whatever its strides are.
    ///
    /// # Shapes
    ///
    /// - output: the shape of the tensor.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::MissingTensor`], or an error that names the storage if the file
    /// cannot be read or its content does not fit its checksum.
    pub fn read(&self, name: &str) -> Result<HostArray, DataError> {
        let tensor = self.tensor(name)?;
        let span = if tensor.is_empty() {
            Vec::new()
        } else {
            // A panic in another thread leaves nothing half done that the next read relies on.
            let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
            source.read(
                &self.path,
                tensor.storage(),
                tensor.start(),
                tensor.span_bytes(),
            )?
        };
        let bytes = tensor.gather(span);
        let shape = tensor.shape().to_vec();
        let array = match self.byte_order {
            ByteOrder::Little => HostArray::new(tensor.element(), shape, StorageOrder::C, bytes),
            ByteOrder::Big => {
                HostArray::from_big_endian(tensor.element(), shape, StorageOrder::C, bytes)
            }
        };
        array.map_err(|error| fault(&self.path, &format!("tensor `{name}`: {error}")))
    }

    /// The names of tensors that share a storage, as tied weights do: groups of two and more, each
    /// in the order of the file.
    #[must_use]
    pub fn aliases(&self) -> Vec<Vec<&str>> {
        let mut groups: Vec<Vec<&str>> = Vec::new();
        let mut group_of: HashMap<usize, usize> = HashMap::new();
        for (name, tensor) in &self.tensors {
            let group = *group_of.entry(tensor.storage()).or_insert(groups.len());
            if group == groups.len() {
                groups.push(Vec::new());
            }
            groups[group].push(name);
        }
        groups.retain(|group| group.len() > 1);
        groups
    }

    /// Takes over a list of tensors, whose names have to differ.
    fn set_tensors(
        &mut self,
        tensors: Vec<(String, CheckpointTensor)>,
        items: &[ItemId],
    ) -> Result<(), DataError> {
        self.by_name = HashMap::with_capacity(tensors.len());
        self.by_item = HashMap::with_capacity(tensors.len());
        for (position, (name, _)) in tensors.iter().enumerate() {
            if self.by_name.insert(name.clone(), position).is_some() {
                let reason = format!("two tensors have the same dotted path `{name:.200}`");
                return Err(fault(&self.path, &reason));
            }
        }
        for (position, item) in items.iter().enumerate() {
            self.by_item.entry(*item).or_insert(position);
        }
        self.tensors = tensors;
        Ok(())
    }
}

/// One value of a [`Checkpoint`].
#[derive(Clone, Copy)]
pub struct CheckpointItem<'a> {
    checkpoint: &'a Checkpoint,
    item: Item<'a>,
}

/// What a [`CheckpointItem`] is.
#[non_exhaustive]
pub enum CheckpointValue<'a> {
    /// Python's `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A larger integer, as little-endian bytes in two's complement.
    BigInt(&'a [u8]),
    /// A number.
    Float(f64),
    /// A text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A list.
    List(Vec<CheckpointItem<'a>>),
    /// A tuple.
    Tuple(Vec<CheckpointItem<'a>>),
    /// A set.
    Set(Vec<CheckpointItem<'a>>),
    /// A dict, in the order of the file.
    Dict(Vec<(CheckpointItem<'a>, CheckpointItem<'a>)>),
    /// A tensor, by one of its names; [`Checkpoint::read`] gives its values.
    Tensor(&'a str),
    /// An array or a number of numpy.
    Array(&'a HostArray),
    /// An object of a class that is unknown here, or a reference to a class or function.
    Opaque {
        /// The name of the class or function, with its module.
        class: &'a str,
        /// What the object is made of.
        arguments: Vec<CheckpointItem<'a>>,
        /// Its attributes, usually a dict.
        state: Option<CheckpointItem<'a>>,
    },
}

impl<'a> CheckpointItem<'a> {
    /// The value.
    #[must_use]
    pub fn value(self) -> CheckpointValue<'a> {
        match self.item.value() {
            Value::None => CheckpointValue::None,
            Value::Bool(value) => CheckpointValue::Bool(value),
            Value::Int(value) => CheckpointValue::Int(value),
            Value::BigInt(bytes) => CheckpointValue::BigInt(bytes),
            Value::Float(value) => CheckpointValue::Float(value),
            Value::Text(text) => CheckpointValue::Text(text),
            Value::Bytes(bytes) => CheckpointValue::Bytes(bytes),
            Value::List(items) => CheckpointValue::List(self.all(items)),
            Value::Tuple(items) => CheckpointValue::Tuple(self.all(items)),
            Value::Set(items) => CheckpointValue::Set(self.all(items)),
            Value::Objects { items, .. } => CheckpointValue::List(self.all(items)),
            Value::Dict(entries) => CheckpointValue::Dict(
                entries
                    .map(|(key, value)| (self.sibling(key), self.sibling(value)))
                    .collect(),
            ),
            Value::Array(array) | Value::Scalar(array) => CheckpointValue::Array(array),
            Value::Call {
                function,
                arguments,
                state,
            } => self.called(function, arguments, state),
            Value::Symbol(class) => opaque(class),
            _ => opaque("torch.storage"),
        }
    }

    /// Python's name of the type, `Tensor` for a tensor.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self.value() {
            CheckpointValue::Tensor(_) => "Tensor",
            CheckpointValue::Opaque { .. } => "object",
            CheckpointValue::Set(_) => "set",
            _ => self.item.kind(),
        }
    }

    /// The text of a text.
    #[must_use]
    pub fn text(self) -> Option<&'a str> {
        self.item.text()
    }

    /// An integer or truth value.
    #[must_use]
    pub fn int(self) -> Option<i64> {
        self.item.int()
    }

    /// A number.
    #[must_use]
    pub fn float(self) -> Option<f64> {
        self.item.float()
    }

    /// The value of a dict at a text key.
    #[must_use]
    pub fn get(self, key: &str) -> Option<CheckpointItem<'a>> {
        self.item.get(key).map(|item| self.sibling(item))
    }

    fn sibling(self, item: Item<'a>) -> CheckpointItem<'a> {
        CheckpointItem {
            checkpoint: self.checkpoint,
            item,
        }
    }

    fn all(self, items: Items<'a>) -> Vec<CheckpointItem<'a>> {
        items.map(|item| self.sibling(item)).collect()
    }

    /// The value of a call: a tensor, a set, or an object that stays closed.
    fn called(
        self,
        function: &'a str,
        arguments: Items<'a>,
        state: Option<Item<'a>>,
    ) -> CheckpointValue<'a> {
        if is_tensor_function(function)
            && let Some(&position) = self.checkpoint.by_item.get(&self.item.id())
        {
            return CheckpointValue::Tensor(&self.checkpoint.tensors[position].0);
        }
        let arguments = self.all(arguments);
        let first = arguments.first().map(|first| first.item.value());
        match (function, first) {
            (
                "builtins.set" | "builtins.frozenset" | "__builtin__.set" | "__builtin__.frozenset",
                Some(Value::List(items)),
            ) => CheckpointValue::Set(self.all(items)),
            // A new-style way of writing an object of the class that is the first argument.
            ("copyreg._reconstructor" | "copy_reg._reconstructor", Some(Value::Symbol(class))) => {
                CheckpointValue::Opaque {
                    class,
                    arguments,
                    state: state.map(|state| self.sibling(state)),
                }
            }
            _ => CheckpointValue::Opaque {
                class: function,
                arguments,
                state: state.map(|state| self.sibling(state)),
            },
        }
    }
}

/// The name under which UniVL's models look for a weight of a checkpoint.
///
/// The loader of UniVL, as that of pytorch-pretrained-BERT before it, renames the weights of layer
/// normalizations that were once converted from TensorFlow: a key with `beta` anywhere gets `bias`
/// in its place, every time it occurs; otherwise a key with `gamma` gets `weight`. A key with both
/// keeps its `gamma`, because the loader starts from the old key both times.
///
/// ```
/// use meltr_data::univl_key;
///
/// assert_eq!(univl_key("bert.embeddings.LayerNorm.gamma"), "bert.embeddings.LayerNorm.weight");
/// assert_eq!(univl_key("bert.embeddings.LayerNorm.beta"), "bert.embeddings.LayerNorm.bias");
/// ```
#[must_use]
pub fn univl_key(key: &str) -> String {
    if key.contains("beta") {
        key.replace("beta", "bias")
    } else {
        key.replace("gamma", "weight")
    }
}

fn opaque(class: &str) -> CheckpointValue<'_> {
    CheckpointValue::Opaque {
        class,
        arguments: Vec::new(),
        state: None,
    }
}

/// Whether a file starts with a pickle of the number of `torch.save`.
fn has_legacy_magic(head: &[u8]) -> bool {
    let start = head.get(..LEGACY_MAGIC_END).unwrap_or(head);
    start.first() == Some(&0x80)
        && start
            .windows(LEGACY_MAGIC.len())
            .any(|window| window == LEGACY_MAGIC)
}

/// An error about the whole checkpoint or a part of it that `reason` names.
fn fault(path: &Path, reason: &str) -> DataError {
    DataError::format(path, FORMAT, None, reason)
}

/// An error of the pickle reader, with the name of the pickle in the file.
fn with_place(error: DataError, place: &str) -> DataError {
    match error.kind {
        DataErrorKind::Format { offset, reason, .. } => {
            let at = match offset {
                Some(offset) => format!(", byte {offset}"),
                None => String::new(),
            };
            fault(&error.path, &format!("{place}{at}: {reason}"))
        }
        DataErrorKind::Item { item, reason } => {
            fault(&error.path, &format!("{place}, item `{item}`: {reason}"))
        }
        kind => DataError {
            path: error.path,
            line: error.line,
            kind,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_renamed_as_by_the_loader_of_univl() {
        assert_eq!(univl_key("a.gamma.b"), "a.weight.b");
        assert_eq!(univl_key("a.beta"), "a.bias");
        assert_eq!(univl_key("a.gamma.beta"), "a.gamma.bias");
        assert_eq!(univl_key("a.weight"), "a.weight");
    }

    #[test]
    fn files_of_another_kind_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.pt");
        let contents: [(&[u8], &str); 6] = [
            (b"", "an empty file"),
            (b"hello\n", "neither a zip archive nor starts"),
            (b"<!DOCTYPE html>", "an HTML page"),
            (
                b"version https://git-lfs.github.com/spec/v1\n",
                "a Git LFS pointer",
            ),
            (
                b"\x02\0\0\0\0\0\0\0{}",
                "a safetensors file; open it with `TensorFile`",
            ),
            (b"PK\x03\x04", "the zip central directory cannot be read"),
        ];
        for (content, expected) in contents {
            std::fs::write(&path, content).unwrap();
            let error = Checkpoint::open(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(
                error.contains("not a valid PyTorch checkpoint file"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_number_of_old_files_is_found_in_any_pickle_protocol() {
        let mut head = b"\x80\x04\x95\x0d\0\0\0\0\0\0\0\x8a\x0a".to_vec();
        head.extend(LEGACY_MAGIC);
        head.push(b'.');
        assert!(has_legacy_magic(&head));
        head[0] = 0;
        assert!(!has_legacy_magic(&head));
        assert!(!has_legacy_magic(b""));
    }
}
