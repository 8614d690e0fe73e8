//! The nodes of a pickle while it is read: a flat list, so that sharing costs nothing and dropping
//! never recurses.

use crate::host_array::{ElementType, HostArray, StorageOrder};

use super::globals::Callable;
use super::text::{from_latin1, into_latin1};
use super::value::ItemId;

/// Bytes that may be copied on behalf of a file, beyond its length.
///
/// Python shares what is stored once; an array cannot share its bytes with another. A few bytes of
/// a file could ask for many copies of a large array.
const COPY_ALLOWANCE: u64 = 64 << 20;

/// Nodes that exist before the first opcode, so that common values take no memory of their own.
const NONE: u32 = 0;
const FALSE: u32 = 1;
const TRUE: u32 = 2;
const EMPTY_TUPLE: u32 = 3;
const FIRST_INT: u32 = 4;

/// One value. Small, because a file may need millions.
#[derive(Debug)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    BigInt(Box<[u8]>),
    Float(f64),
    Bytes(Vec<u8>),
    /// A byte string of Python 2, which may be a text.
    ByteString(Vec<u8>),
    Text(String),
    List(Vec<ItemId>),
    Tuple(Vec<ItemId>),
    Set(Vec<ItemId>),
    Dict(Vec<(ItemId, ItemId)>),
    Array(Box<HostArray>),
    Scalar(Box<HostArray>),
    Objects(Box<Objects>),
    Symbol(String),
    Callable(Callable),
    Dtype(Box<Dtype>),
    Call(Box<Call>),
    Persistent(ItemId),
    /// A long text that is not yet known to be UTF-8.
    LongText(Box<LongText>),
    /// A text that gave its memory to the node of its latin-1 bytes.
    Encoded(ItemId),
    /// An array before BUILD.
    Unbuilt,
    /// An array whose bytes are still in another node.
    Pending(Box<Pending>),
}

impl Node {
    /// The name of the type in messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::BigInt(_) => "int",
            Self::Float(_) => "float",
            Self::Bytes(_) => "bytes",
            Self::ByteString(_) | Self::Text(_) | Self::LongText(_) | Self::Encoded(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Set(_) => "set",
            Self::Dict(_) => "dict",
            Self::Array(_) | Self::Objects(_) | Self::Unbuilt | Self::Pending(_) => "ndarray",
            Self::Scalar(_) => "numpy scalar",
            Self::Symbol(_) | Self::Callable(_) => "class or function",
            Self::Dtype(_) => "numpy.dtype",
            Self::Call(_) => "object",
            Self::Persistent(_) => "persistent id",
        }
    }
}

/// An array of dtype object; the elements are those of a list in C order.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) shape: Vec<usize>,
    pub(super) list: ItemId,
}

/// A call that is not made.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) function: ItemId,
    pub(super) arguments: ItemId,
    pub(super) state: Option<ItemId>,
    /// Whether the state is the items put into the result.
    pub(super) has_contents: bool,
}

/// A text before its check.
#[derive(Debug)]
pub(super) struct LongText {
    pub(super) bytes: Vec<u8>,
    /// The offset of its opcode.
    pub(super) at: u64,
}

/// A numpy element type.
#[derive(Debug)]
pub(super) struct Dtype {
    pub(super) name: String,
    pub(super) kind: DtypeKind,
    pub(super) is_big_endian: bool,
}

/// What can be made of a numpy element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DtypeKind {
    Element(ElementType),
    Object,
    /// Dates, records and others that are not read.
    Other,
}

/// What an array is made of when the pickle has ended.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) element: ElementType,
    pub(super) is_big_endian: bool,
    pub(super) shape: Vec<usize>,
    pub(super) order: StorageOrder,
    /// The axes of the final array as axes of `shape`, if they change places.
    pub(super) axes: Option<Vec<usize>>,
    pub(super) data: ItemId,
}

/// All nodes of a pickle.
pub(super) struct Arena {
    nodes: Vec<Node>,
    /// Length of the pickle in bytes.
    len: u64,
    copied: u64,
}

impl Arena {
    pub(super) fn new(len: u64) -> Self {
        let mut nodes = vec![
            Node::None,
            Node::Bool(false),
            Node::Bool(true),
            Node::Tuple(Vec::new()),
        ];
        nodes.extend((0..=i64::from(u8::MAX)).map(Node::Int));
        Self {
            nodes,
            len,
            copied: 0,
        }
    }

    pub(super) fn none() -> ItemId {
        ItemId(NONE)
    }

    pub(super) fn truth(value: bool) -> ItemId {
        ItemId(if value { TRUE } else { FALSE })
    }

    pub(super) fn empty_tuple() -> ItemId {
        ItemId(EMPTY_TUPLE)
    }

    pub(super) fn byte_int(value: u8) -> ItemId {
        ItemId(FIRST_INT + u32::from(value))
    }

    /// Length of the pickle in bytes.
    pub(super) fn pickle_len(&self) -> u64 {
        self.len
    }

    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn push(&mut self, node: Node) -> Result<ItemId, String> {
        match u32::try_from(self.nodes.len()) {
            Ok(number) => {
                self.nodes.push(node);
                Ok(ItemId(number))
            }
            Err(_) => Err("the file holds more than 4 billion values".to_owned()),
        }
    }

    pub(super) fn node(&self, id: ItemId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub(super) fn node_mut(&mut self, id: ItemId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    pub(super) fn replace(&mut self, id: ItemId, node: Node) -> Node {
        std::mem::replace(self.node_mut(id), node)
    }

    pub(super) fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }

    /// Accounts for bytes that are copied beside the file.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), String> {
        self.copied = self.copied.saturating_add(bytes as u64);
        if self.copied > COPY_ALLOWANCE.saturating_add(self.len) {
            return Err("uses the same data so often that it would fill the memory".to_owned());
        }
        Ok(())
    }

    /// A text, or a byte string of Python 2 that is UTF-8.
    pub(super) fn text(&self, id: ItemId) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            Node::ByteString(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// Bytes, or a byte string of Python 2.
    pub(super) fn bytes(&self, id: ItemId) -> Option<&[u8]> {
        match self.node(id) {
            Node::Bytes(bytes) | Node::ByteString(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn int(&self, id: ItemId) -> Option<i64> {
        match self.node(id) {
            Node::Int(value) => Some(*value),
            Node::Bool(value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    /// The members of a list, a tuple or a set; none of anything else.
    pub(super) fn members(&self, id: ItemId) -> &[ItemId] {
        match self.node(id) {
            Node::List(ids) | Node::Tuple(ids) | Node::Set(ids) => ids,
            _ => &[],
        }
    }

    /// The latin-1 bytes of a text, which take over its memory.
    ///
    /// The text comes back through [`restore`](Self::restore) if anything else needs it.
    pub(super) fn encode_latin1(&mut self, text: ItemId) -> Result<ItemId, String> {
        let bytes = match self.replace(text, Node::None) {
            Node::Text(found) => found.into_bytes(),
            Node::LongText(found) => found.bytes,
            other => {
                let reason = format!("encodes a {} to bytes, which must be a str", other.kind());
                *self.node_mut(text) = other;
                return Err(reason);
            }
        };
        let Some(bytes) = into_latin1(bytes) else {
            return Err("encodes a text to latin-1 that is not latin-1".to_owned());
        };
        let id = self.push(Node::Bytes(bytes))?;
        *self.node_mut(text) = Node::Encoded(id);
        Ok(id)
    }

    /// Gives a text back what [`encode_latin1`](Self::encode_latin1) took from it.
    pub(super) fn restore(&mut self, id: ItemId) -> Result<(), String> {
        let Node::Encoded(source) = *self.node(id) else {
            return Ok(());
        };
        let bytes = self.bytes(source).unwrap_or_default();
        let cost = bytes.len().saturating_mul(2);
        let text = from_latin1(bytes);
        self.charge(cost)?;
        *self.node_mut(id) = Node::Text(text);
        Ok(())
    }

    /// Puts members into a list.
    pub(super) fn extend_list(&mut self, target: ItemId, items: &[ItemId]) -> Result<(), String> {
        let target = self.contents(target, Node::List(Vec::new()))?;
        match self.node_mut(target) {
            Node::List(members) => {
                members.extend_from_slice(items);
                Ok(())
            }
            other => Err(format!("needs a list, not a {}", other.kind())),
        }
    }

    /// Puts keys and values, in turn, into a dict.
    pub(super) fn extend_dict(&mut self, target: ItemId, items: &[ItemId]) -> Result<(), String> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("needs a value for every key".to_owned());
        }
        let target = self.contents(target, Node::Dict(Vec::new()))?;
        match self.node_mut(target) {
            Node::Dict(entries) => {
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            other => Err(format!("needs a dict, not a {}", other.kind())),
        }
    }

    /// Puts members into a set.
    pub(super) fn extend_set(&mut self, target: ItemId, items: &[ItemId]) -> Result<(), String> {
        let target = self.contents(target, Node::Set(Vec::new()))?;
        match self.node_mut(target) {
            Node::Set(members) => {
                members.extend_from_slice(items);
                Ok(())
            }
            other => Err(format!("needs a set, not a {}", other.kind())),
        }
    }

    /// The state of something opaque becomes this one.
    pub(super) fn build_call(&mut self, target: ItemId, state: ItemId) -> Result<(), String> {
        let contents = match self.node(target) {
            Node::Call(call) if call.has_contents => call.state,
            Node::Call(call) if call.state.is_none() => None,
            _ => return Err("gives an object its attributes twice".to_owned()),
        };
        let state = match contents {
            Some(contents) => self.push(Node::Tuple(vec![contents, state]))?,
            None => state,
        };
        if let Node::Call(call) = self.node_mut(target) {
            call.state = Some(state);
            call.has_contents = false;
        }
        Ok(())
    }

    /// Where the items of a node go: into itself, or beside something opaque.
    fn contents(&mut self, target: ItemId, empty: Node) -> Result<ItemId, String> {
        match self.node(target) {
            Node::Call(call) => match call.state {
                Some(state) if call.has_contents => return Ok(state),
                Some(_) => return Err("puts items into an object with attributes".to_owned()),
                None => {}
            },
            _ => return Ok(target),
        }
        let state = self.push(empty)?;
        if let Node::Call(call) = self.node_mut(target) {
            call.state = Some(state);
            call.has_contents = true;
        }
        Ok(state)
    }
}
