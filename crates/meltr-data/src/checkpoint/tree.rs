//! The values of a checkpoint: which of them are tensors, and which storages these need.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::error::DataError;
use crate::host_array::ElementType;
use crate::pickle::{Item, ItemId, Items, Value};

use super::tensor::{CheckpointTensor, MAX_AXES};
use super::{FORMAT, fault};

/// Bytes that the list of tensors may take beyond the length of the file.
///
/// A value may occur at several places, so a short file can name a tensor very often.
const LIST_ALLOWANCE: u64 = 32_000_000;

/// Bytes that one entry of the list takes, roughly, beside its name and axes.
const ENTRY_COST: u64 = 256;

/// Arguments that the functions of PyTorch take at most.
const MAX_ARGUMENTS: usize = 16;

/// Characters of the name of a function or class.
const MAX_FUNCTION_LEN: usize = 512;

/// Characters of the key of a storage, which PyTorch numbers.
const MAX_KEY_LEN: usize = 64;

const REBUILD_TENSOR: &str = "torch._utils._rebuild_tensor";
const REBUILD_TENSOR_V2: &str = "torch._utils._rebuild_tensor_v2";
const REBUILD_TENSOR_V3: &str = "torch._utils._rebuild_tensor_v3";
const REBUILD_PARAMETER: &str = "torch._utils._rebuild_parameter";
const REBUILD_PARAMETER_WITH_STATE: &str = "torch._utils._rebuild_parameter_with_state";
const REBUILD_FROM_TYPE: &str = "torch._tensor._rebuild_from_type_v2";

/// Modules that no file of weights needs anything of, except [`PLAIN_FUNCTIONS`].
const REFUSED_MODULES: &[&str] = &[
    "__builtin__",
    "asyncio",
    "bdb",
    "builtins",
    "code",
    "codeop",
    "commands",
    "ctypes",
    "importlib",
    "marshal",
    "multiprocessing",
    "nt",
    "os",
    "pdb",
    "posix",
    "pty",
    "runpy",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "sys",
    "timeit",
    "webbrowser",
];

/// Functions and lower-case classes that are harmless and common beside weights.
const PLAIN_FUNCTIONS: &[&str] = &[
    "__builtin__.bool",
    "__builtin__.bytearray",
    "__builtin__.complex",
    "__builtin__.dict",
    "__builtin__.float",
    "__builtin__.frozenset",
    "__builtin__.int",
    "__builtin__.list",
    "__builtin__.object",
    "__builtin__.set",
    "__builtin__.slice",
    "__builtin__.str",
    "__builtin__.tuple",
    "_codecs.encode",
    "builtins.bool",
    "builtins.bytearray",
    "builtins.bytes",
    "builtins.complex",
    "builtins.dict",
    "builtins.float",
    "builtins.frozenset",
    "builtins.int",
    "builtins.list",
    "builtins.object",
    "builtins.range",
    "builtins.set",
    "builtins.slice",
    "builtins.str",
    "builtins.tuple",
    "collections.defaultdict",
    "collections.deque",
    "copy_reg._reconstructor",
    "copyreg._reconstructor",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "functools.partial",
    "numpy.dtype",
    "numpy.ndarray",
    "torch.device",
];

/// One storage that tensors view.
#[derive(Debug)]
pub(super) struct Storage {
    /// The name of the storage in the file.
    pub(super) key: String,
    /// Its length in bytes.
    pub(super) bytes: u64,
    /// Bytes of one of its values.
    pub(super) element_size: u64,
    /// The first tensor that needs it.
    pub(super) tensor: String,
}

/// The tensors of a checkpoint in the order of the file.
#[derive(Default)]
pub(super) struct Tree {
    /// Dotted path and tensor.
    pub(super) tensors: Vec<(String, CheckpointTensor)>,
    /// The items that are these tensors.
    pub(super) items: Vec<ItemId>,
    /// The storages, by their position in the tensors.
    pub(super) storages: Vec<Storage>,
}

/// Whether a call makes a tensor, by the name of the function.
pub(super) fn is_tensor_function(function: &str) -> bool {
    function.starts_with("torch._utils._rebuild_") || function.starts_with("torch._tensor._rebuild")
}

/// Lists the tensors below an item; `place` is how errors name the pickle and `len` is the length
/// of the file.
///
/// The pickle reader has checked that the items are at most 100 deep and have no cycle, so that
/// functions here may call themselves.
pub(super) fn tree_of(
    root: Item<'_>,
    path: &Path,
    place: &str,
    len: u64,
) -> Result<Tree, DataError> {
    let mut walk = Walk {
        path,
        place,
        tree: Tree::default(),
        storage_of: HashMap::new(),
        parts: Vec::new(),
        barren: HashSet::new(),
        list_left: len.saturating_add(LIST_ALLOWANCE),
    };
    walk.visit(root)?;
    Ok(walk.tree)
}

/// One step from a container to a value in it.
#[derive(Clone, Copy)]
enum Part<'a> {
    Text(&'a str),
    Number(i64),
    Position(usize),
}

struct Walk<'a> {
    path: &'a Path,
    place: &'a str,
    tree: Tree,
    storage_of: HashMap<String, usize>,
    /// The steps from the root to the current item.
    parts: Vec<Part<'a>>,
    /// Containers without a tensor, which need no second visit.
    barren: HashSet<ItemId>,
    list_left: u64,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, item: Item<'a>) -> Result<(), DataError> {
        let value = item.value();
        let empty = match &value {
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => items.len() == 0,
            Value::Objects { items, .. } => items.len() == 0,
            Value::Dict(entries) => entries.len() == 0,
            Value::Call { .. } => false,
            Value::Symbol(name) => return self.check_symbol(name),
            _ => true,
        };
        if empty || self.barren.contains(&item.id()) {
            return Ok(());
        }
        let before = self.tree.tensors.len();
        match value {
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
                self.visit_items(items)?;
            }
            Value::Objects { items, .. } => self.visit_items(items)?,
            Value::Dict(entries) => {
                for (position, (key, entry)) in entries.enumerate() {
                    let part = if let Some(text) = key.text() {
                        Part::Text(text)
                    } else if let Some(number) = key.int() {
                        Part::Number(number)
                    } else {
                        self.step(Part::Position(position), key)?;
                        Part::Position(position)
                    };
                    self.step(part, entry)?;
                }
            }
            Value::Call {
                function,
                arguments,
                state,
            } => {
                if is_tensor_function(function) {
                    self.add_tensor(item, function, arguments)?;
                } else {
                    self.check_call(function)?;
                    self.visit_items(arguments)?;
                    if let Some(state) = state {
                        self.visit(state)?;
                    }
                }
            }
            _ => {}
        }
        if self.tree.tensors.len() == before {
            self.barren.insert(item.id());
        }
        Ok(())
    }

    fn visit_items(&mut self, items: Items<'a>) -> Result<(), DataError> {
        for (position, item) in items.enumerate() {
            self.step(Part::Position(position), item)?;
        }
        Ok(())
    }

    fn step(&mut self, part: Part<'a>, item: Item<'a>) -> Result<(), DataError> {
        self.parts.push(part);
        self.visit(item)?;
        self.parts.pop();
        Ok(())
    }

    /// The dotted path of the current item. Its length is taken off the limit.
    fn take_name(&mut self) -> Result<String, DataError> {
        let mut len = ENTRY_COST;
        for part in &self.parts {
            let part_len = match part {
                Part::Text(text) => text.len() as u64,
                Part::Number(_) | Part::Position(_) => 20,
            };
            len = len.saturating_add(part_len).saturating_add(1);
        }
        let Some(left) = self.list_left.checked_sub(len) else {
            let reason = format!(
                "{} has more tensors than its length allows; it repeats tensors by reference",
                self.place
            );
            return Err(fault(self.path, &reason));
        };
        self.list_left = left;
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => (*text).to_owned(),
                Part::Number(number) => number.to_string(),
                Part::Position(position) => position.to_string(),
            })
            .collect();
        Ok(parts.join("."))
    }

    fn add_tensor(
        &mut self,
        item: Item<'a>,
        function: &'a str,
        arguments: Items<'a>,
    ) -> Result<(), DataError> {
        let name = self.take_name()?;
        let arguments = self.few(arguments, &name)?;
        let tensor = self.rebuild(function, &arguments, &name)?;
        self.tree.tensors.push((name, tensor));
        self.tree.items.push(item.id());
        // What stands behind the tensor or its place: hooks, a dtype, a state.
        let described = match function {
            REBUILD_PARAMETER | REBUILD_PARAMETER_WITH_STATE => 1,
            REBUILD_FROM_TYPE => 3,
            _ => 4,
        };
        for (position, argument) in arguments.iter().enumerate().skip(described) {
            self.step(Part::Position(position), *argument)?;
        }
        Ok(())
    }

    /// The tensor that a call makes, as far as the call is one of those with a dense tensor.
    fn rebuild(
        &mut self,
        function: &'a str,
        arguments: &[Item<'a>],
        name: &str,
    ) -> Result<CheckpointTensor, DataError> {
        let mut function: &'a str = function;
        let mut arguments: Vec<Item<'a>> = arguments.to_vec();
        // Each turn goes one call deeper into the tree, whose depth is limited.
        loop {
            match function {
                REBUILD_TENSOR | REBUILD_TENSOR_V2 => return self.view(&arguments, None, name),
                REBUILD_TENSOR_V3 => {
                    let dtype = arguments.get(6).copied();
                    let element = self.dtype(dtype, name)?;
                    return self.view(&arguments, Some(element), name);
                }
                REBUILD_PARAMETER | REBUILD_PARAMETER_WITH_STATE => {
                    let inner = arguments.first().map(|inner| inner.value());
                    let Some(Value::Call {
                        function: next,
                        arguments: deeper,
                        ..
                    }) = inner
                    else {
                        return Err(self.tensor_fault(name, "is a parameter without a tensor"));
                    };
                    function = next;
                    arguments = self.few(deeper, name)?;
                }
                REBUILD_FROM_TYPE => {
                    let next = arguments.first().map(|next| next.value());
                    let deeper = arguments.get(2).map(|deeper| deeper.value());
                    let (Some(Value::Symbol(next)), Some(Value::Tuple(deeper))) = (next, deeper)
                    else {
                        return Err(self.tensor_fault(name, "is of a type without a tensor"));
                    };
                    if next == REBUILD_FROM_TYPE {
                        return Err(self.tensor_fault(name, "is of a type of a type"));
                    }
                    function = next;
                    arguments = self.few(deeper, name)?;
                }
                other => {
                    let reason = format!(
                        "is made by {other:.80}, which is not read; save it as a dense tensor"
                    );
                    return Err(self.tensor_fault(name, &reason));
                }
            }
        }
    }

    /// A view from the arguments: storage, offset, size, stride, and what does not matter here.
    fn view(
        &mut self,
        arguments: &[Item<'a>],
        element: Option<ElementType>,
        name: &str,
    ) -> Result<CheckpointTensor, DataError> {
        let [storage, offset, size, stride, ..] = arguments else {
            let reason = format!("has {} arguments, at least 4 are needed", arguments.len());
            return Err(self.tensor_fault(name, &reason));
        };
        // The seventh argument of version 2 says whether values are to be negated or conjugated.
        if element.is_none()
            && let Some(metadata) = arguments.get(6)
            && !matches!(metadata.value(), Value::None)
            && !matches!(metadata.value(), Value::Dict(entries) if entries.len() == 0)
        {
            let reason = "is a lazily negated or conjugated view, which is not read; save a copy";
            return Err(self.tensor_fault(name, reason));
        }
        let (position, stored) = self.storage(*storage, name)?;
        let Some(element) = element.or(stored) else {
            return Err(self.tensor_fault(name, "has bytes as storage but no element type"));
        };
        let Some(offset) = offset.int().and_then(|offset| usize::try_from(offset).ok()) else {
            return Err(self.tensor_fault(name, "has an offset that is no whole number"));
        };
        let shape = self.lengths(*size, "size", name)?;
        let strides = self.lengths(*stride, "stride", name)?;
        let cost = (shape.len() as u64).saturating_mul(16);
        self.list_left = self.list_left.saturating_sub(cost);
        let bytes = self.tree.storages[position].bytes;
        let available = usize::try_from(bytes / element.size() as u64).unwrap_or(usize::MAX);
        CheckpointTensor::new(element, shape, strides, offset, available, position)
            .map_err(|reason| self.tensor_fault(name, &reason))
    }

    /// The lengths or strides in a tuple.
    fn lengths(&self, item: Item<'a>, what: &str, name: &str) -> Result<Vec<usize>, DataError> {
        let numbers = match item.value() {
            Value::Tuple(items) | Value::List(items) => items,
            // `torch.Size` is written as a call with a tuple.
            Value::Call { arguments, .. } => match self.few(arguments, name)?[..] {
                [only] => match only.value() {
                    Value::Tuple(items) => items,
                    _ => return Err(self.tensor_fault(name, &format!("has no tuple as {what}"))),
                },
                _ => return Err(self.tensor_fault(name, &format!("has no tuple as {what}"))),
            },
            _ => return Err(self.tensor_fault(name, &format!("has no tuple as {what}"))),
        };
        if numbers.len() > MAX_AXES {
            let reason = format!("has {} axes, at most {MAX_AXES} are read", numbers.len());
            return Err(self.tensor_fault(name, &reason));
        }
        let mut lengths = Vec::with_capacity(numbers.len());
        for number in numbers {
            let Some(length) = number.int() else {
                let reason = format!("has a {} in its {what}", number.kind());
                return Err(self.tensor_fault(name, &reason));
            };
            let Ok(length) = usize::try_from(length) else {
                let reason = format!("has {length} in its {what}, which may not be negative");
                return Err(self.tensor_fault(name, &reason));
            };
            lengths.push(length);
        }
        Ok(lengths)
    }

    /// The storage of a persistent id, and its element type unless it is one of bytes.
    fn storage(
        &mut self,
        item: Item<'a>,
        name: &str,
    ) -> Result<(usize, Option<ElementType>), DataError> {
        let parts = match item.value() {
            Value::Persistent(id) => match id.value() {
                Value::Tuple(parts) => self.few(parts, name)?,
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        let (class, key, count) = match parts[..] {
            [tag, class, key, _, count] if tag.text() == Some("storage") => (class, key, count),
            [tag, class, key, _, count, view]
                if tag.text() == Some("storage") && matches!(view.value(), Value::None) =>
            {
                (class, key, count)
            }
            _ => {
                let reason = "has no storage of the form that PyTorch 0.4 and later write; save \
                              the file again";
                return Err(self.tensor_fault(name, reason));
            }
        };
        let Value::Symbol(class) = class.value() else {
            return Err(self.tensor_fault(name, "has a storage without a class"));
        };
        let Some(element) = storage_element(class) else {
            let reason = format!("has a {class:.80}, which is not read");
            return Err(self.tensor_fault(name, &reason));
        };
        let Some(key) = key.text().filter(|key| is_plain_key(key)) else {
            let shown = key.text().unwrap_or(key.kind());
            let reason = format!("has the storage key `{shown:.40}`, which is no plain name");
            return Err(self.tensor_fault(name, &reason));
        };
        let element_size = element.map_or(1, |element| element.size() as u64);
        let bytes = count
            .int()
            .and_then(|count| u64::try_from(count).ok())
            .and_then(|count| count.checked_mul(element_size));
        let Some(bytes) = bytes else {
            return Err(self.tensor_fault(name, "has a storage of an impossible length"));
        };
        if let Some(&position) = self.storage_of.get(key) {
            let known = &self.tree.storages[position];
            if known.bytes != bytes {
                let reason = format!(
                    "needs {bytes} bytes of storage {key}, of which tensor `{}` needs {}",
                    known.tensor, known.bytes
                );
                return Err(self.tensor_fault(name, &reason));
            }
            return Ok((position, element));
        }
        let position = self.tree.storages.len();
        self.storage_of.insert(key.to_owned(), position);
        self.tree.storages.push(Storage {
            key: key.to_owned(),
            bytes,
            element_size,
            tensor: shortened(name),
        });
        Ok((position, element))
    }

    /// The element type that version 3 names, for types without a storage of their own.
    fn dtype(&self, item: Option<Item<'a>>, name: &str) -> Result<ElementType, DataError> {
        let dtype = match item.map(Item::value) {
            Some(Value::Symbol(dtype)) => dtype,
            _ => return Err(self.tensor_fault(name, "has no element type")),
        };
        match dtype {
            "torch.uint16" => Ok(ElementType::U16),
            "torch.uint32" => Ok(ElementType::U32),
            "torch.uint64" => Ok(ElementType::U64),
            "torch.uint8" => Ok(ElementType::U8),
            "torch.int8" => Ok(ElementType::I8),
            "torch.int16" => Ok(ElementType::I16),
            "torch.int32" => Ok(ElementType::I32),
            "torch.int64" => Ok(ElementType::I64),
            "torch.float16" => Ok(ElementType::F16),
            "torch.bfloat16" => Ok(ElementType::Bf16),
            "torch.float32" => Ok(ElementType::F32),
            "torch.float64" => Ok(ElementType::F64),
            "torch.bool" => Ok(ElementType::Bool),
            other => {
                let reason = format!("has the element type {other:.80}, which is not read");
                Err(self.tensor_fault(name, &reason))
            }
        }
    }

    /// The arguments of a call, which are few.
    fn few(&self, arguments: Items<'a>, name: &str) -> Result<Vec<Item<'a>>, DataError> {
        if arguments.len() > MAX_ARGUMENTS {
            let reason = format!("is made of {} arguments", arguments.len());
            return Err(self.tensor_fault(name, &reason));
        }
        Ok(arguments.collect())
    }

    fn tensor_fault(&self, name: &str, reason: &str) -> DataError {
        let name = shortened(name);
        DataError::format(
            self.path,
            FORMAT,
            None,
            format!("{}, tensor `{name}`: {reason}", self.place),
        )
    }

    fn check_call(&self, function: &str) -> Result<(), DataError> {
        if is_harmless_call(function) {
            Ok(())
        } else {
            Err(self.refusal("calls", function))
        }
    }

    fn check_symbol(&self, name: &str) -> Result<(), DataError> {
        if is_refused_module(name) {
            Err(self.refusal("refers to", name))
        } else {
            Ok(())
        }
    }

    fn refusal(&self, verb: &str, name: &str) -> DataError {
        let place = self.place;
        fault(
            self.path,
            &format!(
                "{place} {verb} `{name:.200}`, which no file of weights needs; nothing was \
                 executed, and the file should not be trusted"
            ),
        )
    }
}

/// The element type of a storage class; the inner `None` is a storage of bytes, the outer one an
/// unknown class.
fn storage_element(class: &str) -> Option<Option<ElementType>> {
    let name = class
        .strip_prefix("torch.cuda.")
        .or_else(|| class.strip_prefix("torch.storage."))
        .or_else(|| class.strip_prefix("torch."))?;
    Some(match name {
        "FloatStorage" => Some(ElementType::F32),
        "DoubleStorage" => Some(ElementType::F64),
        "HalfStorage" => Some(ElementType::F16),
        "BFloat16Storage" => Some(ElementType::Bf16),
        "LongStorage" => Some(ElementType::I64),
        "IntStorage" => Some(ElementType::I32),
        "ShortStorage" => Some(ElementType::I16),
        "CharStorage" => Some(ElementType::I8),
        "ByteStorage" => Some(ElementType::U8),
        "BoolStorage" => Some(ElementType::Bool),
        "UntypedStorage" => None,
        _ => return None,
    })
}

/// Whether a key is a single name, as those that PyTorch numbers.
fn is_plain_key(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= MAX_KEY_LEN
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Whether a call may stand in a checkpoint. None is executed, but a call of the operating system
/// shows that the file is no honest one.
fn is_harmless_call(function: &str) -> bool {
    if function.len() > MAX_FUNCTION_LEN || is_refused_module(function) {
        return false;
    }
    let name = function.rsplit('.').next().unwrap_or_default();
    // Classes begin with a capital; functions of unknown modules do not.
    let is_class = name
        .trim_start_matches('_')
        .starts_with(|letter: char| letter.is_uppercase());
    is_class || PLAIN_FUNCTIONS.contains(&function) || is_numpy_array_function(function)
}

/// Whether a name belongs to a module of [`REFUSED_MODULES`].
fn is_refused_module(name: &str) -> bool {
    if PLAIN_FUNCTIONS.contains(&name) {
        return false;
    }
    let module = name.split('.').next().unwrap_or_default();
    REFUSED_MODULES.contains(&module)
}

fn is_numpy_array_function(function: &str) -> bool {
    let rest = function
        .strip_prefix("numpy.core.")
        .or_else(|| function.strip_prefix("numpy._core."));
    matches!(
        rest,
        Some("multiarray._reconstruct" | "multiarray.scalar" | "numeric._frombuffer")
    )
}

/// A name that is short enough for a message.
fn shortened(name: &str) -> String {
    if name.len() <= 200 {
        name.to_owned()
    } else {
        let start: String = name.chars().take(200).collect();
        format!("{start}...")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_operating_system_are_refused_and_classes_are_not() {
        for name in [
            "os.system",
            "posix.system",
            "nt.system",
            "subprocess.Popen",
            "builtins.eval",
            "__builtin__.exec",
            "numpy.testing._private.utils.runstring",
            "numpy.lib.os.system",
            "runpy.run_path",
            "torch.storage._load_from_bytes",
            "unknown.function",
        ] {
            assert!(!is_harmless_call(name), "{name}");
        }
        for name in [
            "argparse.Namespace",
            "pathlib.PosixPath",
            "collections.OrderedDict",
            "collections.defaultdict",
            "builtins.set",
            "torch.device",
            "project._Config",
            "numpy._core.multiarray.scalar",
        ] {
            assert!(is_harmless_call(name), "{name}");
        }
    }

    #[test]
    fn storage_classes_are_known_by_name() {
        assert_eq!(
            storage_element("torch.FloatStorage"),
            Some(Some(ElementType::F32))
        );
        assert_eq!(
            storage_element("torch.cuda.HalfStorage"),
            Some(Some(ElementType::F16))
        );
        assert_eq!(storage_element("torch.storage.UntypedStorage"), Some(None));
        assert_eq!(storage_element("torch.ComplexDoubleStorage"), None);
        assert_eq!(storage_element("FloatStorage"), None);
    }

    #[test]
    fn keys_of_storages_are_single_names() {
        assert!(is_plain_key("0") && is_plain_key("94065757216240"));
        for key in ["", "..", "../x", "a/b", "a\\b"] {
            assert!(!is_plain_key(key), "{key}");
        }
    }
}
