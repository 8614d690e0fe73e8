//! The values of a pickle: nodes in one flat list, and views of them.

use std::fmt;
use std::slice;

use crate::host_array::{ElementType, HostArray};

use super::Pickle;
use super::arena::Node;

/// Which value of a [`Pickle`]; the same for every place that shares the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemId(pub(super) u32);

/// One value of a pickle.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    pub(super) pickle: &'a Pickle,
    pub(super) id: ItemId,
}

/// What a value is, by Python's types.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `None`; also what an array leaves behind after [`Pickle::take_array`].
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// An integer beyond 64 bits: two's complement, little-endian, as few bytes as possible.
    BigInt(&'a [u8]),
    /// A floating-point number.
    Float(f64),
    /// `bytes` or `bytearray`; of Python 2 a byte string that is not UTF-8.
    Bytes(&'a [u8]),
    /// `str`; of Python 2 also a byte string that is UTF-8.
    Text(&'a str),
    /// `list`.
    List(Items<'a>),
    /// `tuple`.
    Tuple(Items<'a>),
    /// `set` or `frozenset`.
    Set(Items<'a>),
    /// `dict` or `OrderedDict`, in the order of the file; a key that the file sets twice is there
    /// twice.
    Dict(Entries<'a>),
    /// A numpy array of numbers, truth values or strings.
    Array(&'a HostArray),
    /// A numpy scalar, as an array without axes. Also Python's `complex`.
    Scalar(&'a HostArray),
    /// A numpy array of dtype object.
    Objects {
        /// The lengths of the axes.
        shape: &'a [usize],
        /// The elements in C order.
        items: Items<'a>,
    },
    /// The name of a class or a function, `module.name`. Only in checkpoints.
    Symbol(&'a str),
    /// What a call would have made; it was not called. Only in checkpoints.
    Call {
        /// The name of the class or the function.
        function: &'a str,
        /// Its positional arguments.
        arguments: Items<'a>,
        /// The attributes that the result would have got, or the items put into it; a pair of both
        /// if there are both.
        state: Option<Item<'a>>,
    },
    /// The id of something outside the pickle. Only in checkpoints.
    Persistent(Item<'a>),
}

impl<'a> Item<'a> {
    /// Which value this is.
    #[must_use]
    pub fn id(self) -> ItemId {
        self.id
    }

    /// The value by its type.
    #[must_use]
    pub fn value(self) -> Value<'a> {
        let pickle = self.pickle;
        match pickle.node(self.id) {
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(value) => Value::Int(*value),
            Node::BigInt(bytes) => Value::BigInt(bytes),
            Node::Float(value) => Value::Float(*value),
            Node::Bytes(bytes) | Node::ByteString(bytes) => Value::Bytes(bytes),
            Node::Text(text) => Value::Text(text),
            Node::List(ids) => Value::List(Items::new(pickle, ids)),
            Node::Tuple(ids) => Value::Tuple(Items::new(pickle, ids)),
            Node::Set(ids) => Value::Set(Items::new(pickle, ids)),
            Node::Dict(pairs) => Value::Dict(Entries {
                pickle,
                pairs: pairs.iter(),
            }),
            Node::Array(array) => Value::Array(array),
            Node::Scalar(array) => Value::Scalar(array),
            Node::Objects(objects) => Value::Objects {
                shape: &objects.shape,
                items: Items::new(pickle, pickle.members(objects.list)),
            },
            Node::Symbol(name) => Value::Symbol(name),
            Node::Callable(callable) => Value::Symbol(callable.name()),
            Node::Dtype(_) => Value::Symbol("numpy.dtype"),
            Node::Call(call) => Value::Call {
                function: match pickle.node(call.function) {
                    Node::Symbol(name) => name.as_str(),
                    _ => "",
                },
                arguments: Items::new(pickle, pickle.members(call.arguments)),
                state: call.state.map(|id| Item { pickle, id }),
            },
            Node::Persistent(id) => Value::Persistent(Item { pickle, id: *id }),
            // The rest does not outlive the reader.
            Node::None
            | Node::LongText(_)
            | Node::Encoded(_)
            | Node::Unbuilt
            | Node::Pending(_) => Value::None,
        }
    }

    /// Python's name of the type: `dict`, `str`, `ndarray`, and `float64` for a numpy scalar.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self.pickle.node(self.id) {
            Node::Scalar(array) => scalar_kind(array.element()),
            node => node.kind(),
        }
    }

    /// A text; of Python 2 also a byte string that is UTF-8.
    #[must_use]
    pub fn text(self) -> Option<&'a str> {
        match self.pickle.node(self.id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An integer within 64 bits, a truth value, or a numpy scalar of either.
    #[must_use]
    pub fn int(self) -> Option<i64> {
        match self.pickle.node(self.id) {
            Node::Int(value) => Some(*value),
            Node::Bool(value) => Some(i64::from(*value)),
            Node::Scalar(array) => array.to_i64_vec()?.first().copied(),
            _ => None,
        }
    }

    /// A number: float, integer, or a real numpy scalar. Integers beyond 2^53 are rounded.
    #[must_use]
    pub fn float(self) -> Option<f64> {
        match self.pickle.node(self.id) {
            Node::Float(value) => Some(*value),
            Node::Int(value) => Some(*value as f64),
            Node::Scalar(array) => array.to_f64_vec()?.first().copied(),
            _ => None,
        }
    }

    /// The value of a text key of a dict; `None` if this is no dict or has no such key.
    ///
    /// Searches all keys, so loop over the entries of a large dict instead. Of a key that the file
    /// sets twice, the last value counts, as in Python.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Item<'a>> {
        let pickle = self.pickle;
        let Node::Dict(pairs) = pickle.node(self.id) else {
            return None;
        };
        let found = pairs.iter().rev().find(|pair| {
            let name = Item { pickle, id: pair.0 };
            name.text() == Some(key)
        });
        found.map(|pair| Item { pickle, id: pair.1 })
    }
}

impl fmt::Debug for Item<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Item({} {})", self.id.0, self.kind())
    }
}

/// The members of a list, a tuple, a set or an array of objects.
#[derive(Clone)]
pub struct Items<'a> {
    pickle: &'a Pickle,
    ids: slice::Iter<'a, ItemId>,
}

impl<'a> Items<'a> {
    fn new(pickle: &'a Pickle, ids: &'a [ItemId]) -> Self {
        Self {
            pickle,
            ids: ids.iter(),
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        let pickle = self.pickle;
        self.ids.next().map(|&id| Item { pickle, id })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ids.size_hint()
    }
}

impl ExactSizeIterator for Items<'_> {}

impl fmt::Debug for Items<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Items({})", self.len())
    }
}

/// The keys and values of a dict.
#[derive(Clone)]
pub struct Entries<'a> {
    pickle: &'a Pickle,
    pairs: slice::Iter<'a, (ItemId, ItemId)>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (Item<'a>, Item<'a>);

    fn next(&mut self) -> Option<(Item<'a>, Item<'a>)> {
        let pickle = self.pickle;
        let &(key, value) = self.pairs.next()?;
        Some((Item { pickle, id: key }, Item { pickle, id: value }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.pairs.size_hint()
    }
}

impl ExactSizeIterator for Entries<'_> {}

impl fmt::Debug for Entries<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Entries({})", self.len())
    }
}

/// Python's name of the type of a numpy scalar.
fn scalar_kind(element: ElementType) -> &'static str {
    match element {
        ElementType::Bool => "bool",
        ElementType::I8 => "int8",
        ElementType::I16 => "int16",
        ElementType::I32 => "int32",
        ElementType::I64 => "int64",
        ElementType::U8 => "uint8",
        ElementType::U16 => "uint16",
        ElementType::U32 => "uint32",
        ElementType::U64 => "uint64",
        ElementType::F16 => "float16",
        ElementType::Bf16 => "bfloat16",
        ElementType::F32 => "float32",
        ElementType::F64 => "float64",
        ElementType::Complex64 => "complex64",
        ElementType::Complex128 => "complex128",
        ElementType::Bytes(_) => "bytes_",
        ElementType::Text(_) => "str_",
    }
}
