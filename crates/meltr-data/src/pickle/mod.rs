//! Python pickles, read without running anything of them.
//!
//! A pickle is a program that may call any function of any package. Here the program runs on a
//! machine that knows a short list of callables by their exact names: what builds numpy arrays,
//! and some of Python's own containers. Any other name is an error. Protocols 0 to 5 are read,
//! as Python 2 and Python 3 write them.

mod arena;
mod finish;
mod globals;
mod input;
mod machine;
mod numpy;
mod opcode;
mod text;
mod value;

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::checkpoint::foreign::foreign_kind;
use crate::error::DataError;
use crate::host_array::HostArray;

use arena::Node;
use finish::finish;
use input::Fault;
use machine::Machine;

pub use value::{Entries, Item, ItemId, Items, Value};

/// The name of the format in messages.
const FORMAT: &str = "pickle";

/// Bytes that are read from a file at once.
const BUFFER_LEN: usize = 1 << 18;

/// Bytes that are shown to [`foreign_kind`].
const HEAD_LEN: usize = 300;

/// The first byte of protocols 2 to 5.
const PROTO: u8 = 0x80;

/// What a pickle may name besides what builds arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Nothing.
    Numpy,
    /// Persistent ids, and classes and functions that stay opaque; still, nothing is run.
    Torch,
}

/// The values of one pickle, checked and in memory.
///
/// The tree of values is at most 100 deep and has no cycle, so users may recurse. A value that the
/// file stores once and names twice is there once, and both places have the same [`ItemId`].
pub struct Pickle {
    path: PathBuf,
    nodes: Vec<Node>,
    root: ItemId,
    trailing: u64,
}

impl Pickle {
    /// Reads a pickle of data: numbers, texts, containers and numpy arrays.
    ///
    /// Bytes of arrays go from the file into the arrays without a copy. What follows the end of
    /// the pickle is not read, see [`trailing_bytes`](Self::trailing_bytes).
    ///
    /// # Errors
    ///
    /// Returns an error with the byte offset if the file is absent, unreadable, cut off or no
    /// pickle, if it names a callable that is not allowed, or if it is made to exhaust the reader.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|source| DataError::reading(path, source))?;
        let metadata = file
            .metadata()
            .map_err(|source| DataError::reading(path, source))?;
        let len = metadata.len();
        let mut reader = BufReader::with_capacity(BUFFER_LEN, file);
        let head = reader
            .fill_buf()
            .map_err(|source| DataError::reading(path, source))?;
        let head = &head[..head.len().min(HEAD_LEN)];
        if head.first() != Some(&PROTO)
            && let Some(kind) = foreign_kind(head, len)
        {
            let reason = format!("this is {kind}");
            return Err(DataError::format(path, FORMAT, 0_u64, reason));
        }
        let (mut pickle, consumed) = Self::read(path, reader, len, Dialect::Numpy)?;
        pickle.trailing = len.saturating_sub(consumed);
        Ok(pickle)
    }

    /// Reads one pickle from a reader that has `len` bytes left, and returns how many it took, up
    /// to and including the STOP opcode.
    ///
    /// Not one byte more is taken, so several pickles may follow each other. The reader should be
    /// buffered. `path` is for messages. In [`Dialect::Torch`] the attributes of an `OrderedDict`
    /// are left out; PyTorch keeps the versions of modules there.
    pub(crate) fn read<R: Read>(
        path: &Path,
        reader: R,
        len: u64,
        dialect: Dialect,
    ) -> Result<(Self, u64), DataError> {
        let machine = Machine::new(reader, len, dialect);
        let (mut arena, root, consumed) = machine.run().map_err(|fault| placed(path, fault))?;
        finish(&mut arena, root, dialect).map_err(|fault| placed(path, fault))?;
        let pickle = Self {
            path: path.to_path_buf(),
            nodes: arena.into_nodes(),
            root,
            trailing: 0,
        };
        Ok((pickle, consumed))
    }

    /// The value of the pickle.
    #[must_use]
    pub fn root(&self) -> Item<'_> {
        Item {
            pickle: self,
            id: self.root,
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file after the end of the pickle, which Python ignores too; 0 where a pickle
    /// is part of another file.
    #[must_use]
    pub fn trailing_bytes(&self) -> u64 {
        self.trailing
    }

    /// Moves an array out without copying it; `None` if the value is no array of numbers, truth
    /// values or strings, or was taken before.
    ///
    /// The value is [`Value::None`] afterwards, at every place that shares it.
    pub fn take_array(&mut self, id: ItemId) -> Option<HostArray> {
        let node = self.nodes.get_mut(id.0 as usize)?;
        if !matches!(node, Node::Array(_)) {
            return None;
        }
        match std::mem::replace(node, Node::None) {
            Node::Array(array) => Some(*array),
            _ => None,
        }
    }

    fn node(&self, id: ItemId) -> &Node {
        // An id of another pickle may be beyond this one.
        self.nodes.get(id.0 as usize).unwrap_or(&Node::None)
    }

    /// The members of a list, a tuple or a set; none of anything else.
    fn members(&self, id: ItemId) -> &[ItemId] {
        match self.node(id) {
            Node::List(ids) | Node::Tuple(ids) | Node::Set(ids) => ids,
            _ => &[],
        }
    }
}

impl fmt::Debug for Pickle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Pickle({} of {})",
            self.root().kind(),
            self.path.display()
        )
    }
}

fn placed(path: &Path, fault: Fault) -> DataError {
    match fault {
        Fault::Format { at, reason } => DataError::format(path, FORMAT, at, reason),
        Fault::Io(source) => DataError::reading(path, source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_array::{ElementType, StorageOrder};

    /// A dict of one array, `{'a': numpy.float32([1, 2])}`, as Python 2 writes it.
    const SMALL: &[u8] = b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\n\
        cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R\
        (K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\0\0\x80?\0\0\0@tbs.";

    fn read(bytes: &[u8], dialect: Dialect) -> Result<Pickle, DataError> {
        let path = Path::new("x.pickle");
        let (pickle, consumed) = Pickle::read(path, bytes, bytes.len() as u64, dialect)?;
        assert_eq!(consumed, bytes.len() as u64);
        Ok(pickle)
    }

    fn data(bytes: &[u8]) -> Pickle {
        read(bytes, Dialect::Numpy).unwrap()
    }

    fn refusal(bytes: &[u8], dialect: Dialect) -> String {
        read(bytes, dialect).unwrap_err().to_string()
    }

    /// `SMALL` with one part replaced.
    fn changed(from: &[u8], to: &[u8]) -> Vec<u8> {
        let at = SMALL
            .windows(from.len())
            .position(|part| part == from)
            .unwrap();
        [&SMALL[..at], to, &SMALL[at + from.len()..]].concat()
    }

    #[test]
    fn values_of_every_protocol_are_read() {
        assert!(matches!(data(b"N.").root().value(), Value::None));
        assert_eq!(data(b"\x80\x02\x88.").root().int(), Some(1));
        assert!(matches!(data(b"I01\n.").root().value(), Value::Bool(true)));
        assert_eq!(data(b"I-12\n.").root().int(), Some(-12));
        assert_eq!(data(b"L12L\n.").root().int(), Some(12));
        assert_eq!(data(b"J\xfe\xff\xff\xff.").root().int(), Some(-2));
        assert_eq!(data(b"M\xe9\x03.").root().int(), Some(1001));
        assert_eq!(data(b"\x8a\x02\xff\x00.").root().int(), Some(255));
        assert_eq!(data(b"F-2.5\n.").root().float(), Some(-2.5));
        assert_eq!(data(b"G\x3f\xf8\0\0\0\0\0\0.").root().float(), Some(1.5));
        assert_eq!(data(b"S'a\\tb'\n.").root().text(), Some("a\tb"));
        assert_eq!(data(b"V\xe9\\u0394\n.").root().text(), Some("éΔ"));
        assert_eq!(data(b"\x8c\x02\xc3\xa9.").root().text(), Some("é"));
        assert_eq!(data(b"U\x02\xc3\xa9.").root().text(), Some("é"));
        let latin = data(b"U\x02\xe9b.");
        assert!(matches!(latin.root().value(), Value::Bytes(b"\xe9b")));
        let bytes = data(b"C\x02ab.");
        assert!(matches!(bytes.root().value(), Value::Bytes(b"ab")));
        assert_eq!(bytes.root().text(), None);
        let big = data(b"\x8a\x09\0\0\0\0\0\0\0\0\x01.");
        assert!(matches!(big.root().value(), Value::BigInt(digits) if digits.len() == 9));
    }

    #[test]
    fn containers_keep_their_order_and_their_kind() {
        let pickle = data(b"\x80\x04(\x8c\x01aK\x01)t.");
        assert_eq!(pickle.root().kind(), "tuple");
        let pickle = data(b"\x80\x04}(\x8c\x01aK\x01\x8c\x01b](K\x02K\x03eu.");
        let root = pickle.root();
        assert_eq!(root.kind(), "dict");
        let Value::Dict(entries) = root.value() else {
            panic!("{root:?}");
        };
        let keys: Vec<&str> = entries.map(|(key, _)| key.text().unwrap()).collect();
        assert_eq!(keys, ["a", "b"]);
        let Value::List(items) = root.get("b").unwrap().value() else {
            panic!("{root:?}");
        };
        assert_eq!(items.map(Item::int).collect::<Vec<_>>(), [Some(2), Some(3)]);
        assert!(root.get("c").is_none());
        for set in [
            b"\x80\x04\x8f(K\x01K\x02\x90.".as_slice(),
            b"\x80\x04(K\x01K\x02\x91.",
        ] {
            assert!(matches!(data(set).root().value(), Value::Set(items) if items.len() == 2));
        }
        let ordered = data(b"ccollections\nOrderedDict\n((lp0\n(lp1\nS'k'\naI5\naatR.");
        assert_eq!(ordered.root().get("k").unwrap().int(), Some(5));
    }

    #[test]
    fn arrays_move_out_of_the_pickle() {
        let mut pickle = data(SMALL);
        let id = pickle.root().get("a").unwrap().id();
        let array = pickle.take_array(id).unwrap();
        assert_eq!(array.element(), ElementType::F32);
        assert_eq!(array.shape(), [2]);
        assert_eq!(array.order(), StorageOrder::C);
        assert_eq!(array.to_f64_vec().unwrap(), [1.0, 2.0]);
        assert!(pickle.take_array(id).is_none());
        assert!(matches!(
            pickle.root().get("a").unwrap().value(),
            Value::None
        ));
        let root = pickle.root().id();
        assert!(pickle.take_array(root).is_none());
    }

    #[test]
    fn big_endian_and_fortran_arrays_are_told_apart() {
        let pickle = data(&changed(b"U\x01<NNN", b"U\x01>NNN"));
        let Value::Array(array) = pickle.root().get("a").unwrap().value() else {
            panic!("no array");
        };
        let expected = f32::from_be_bytes([0, 0, 0x80, 0x3f]);
        assert_eq!(array.to_f64_vec().unwrap()[0], f64::from(expected));
        let pickle = data(&changed(b"tb\x89U", b"tb\x88U"));
        let Value::Array(array) = pickle.root().get("a").unwrap().value() else {
            panic!("no array");
        };
        assert_eq!(array.order(), StorageOrder::Fortran);
    }

    #[test]
    fn arrays_that_do_not_fit_their_bytes_are_refused_by_their_key() {
        let cases: [(&[u8], &[u8], &str); 7] = [
            (
                b"K\x01K\x02\x85",
                b"K\x01K\x03\x85",
                "shape [3] of float32 needs 12 bytes, 8 are",
            ),
            (
                b"K\x01K\x02\x85",
                b"K\x01J\xff\xff\xff\xff\x85",
                "shape [-1]",
            ),
            (
                b"K\x01K\x02\x85",
                b"K\x01\x8a\x08\0\0\0\0\0\0\0\x40\x85",
                "larger than any memory",
            ),
            (
                b"U\x02f4",
                b"U\x02f8",
                "shape [2] of float64 needs 16 bytes, 8 are present",
            ),
            (b"U\x02f4", b"U\x02M8", "dtype `M8` is not read"),
            (b"U\x02f4", b"U\x01O", "list of objects"),
            (b"<NNN", b"<N(U\x01xtN", "structured dtype with fields x"),
        ];
        for (from, to, part) in cases {
            let message = refusal(&changed(from, to), Dialect::Numpy);
            assert!(message.contains(part), "{message}");
            assert!(
                message.starts_with("x.pickle: not a valid pickle file at byte "),
                "{message}"
            );
        }
        let message = refusal(
            &changed(b"K\x01K\x02\x85", b"K\x01K\x03\x85"),
            Dialect::Numpy,
        );
        assert!(message.contains("item `a`: shape"), "{message}");
    }

    #[test]
    fn latin1_texts_become_bytes_and_stay_texts_where_they_are_used() {
        // (encode(t, 'latin1'), t) with t = 'é'
        let pickle = data(
            b"\x80\x02c_codecs\nencode\nX\x02\0\0\0\xc3\xa9q\x00X\x06\0\0\0latin1\x86Rh\x00\x86.",
        );
        let Value::Tuple(mut items) = pickle.root().value() else {
            panic!("no tuple");
        };
        assert!(matches!(
            items.next().unwrap().value(),
            Value::Bytes(b"\xe9")
        ));
        assert_eq!(items.next().unwrap().text(), Some("é"));
        let message = refusal(
            b"\x80\x02c_codecs\nencode\nX\x02\0\0\0\xce\x94X\x06\0\0\0latin1\x86R.",
            Dialect::Numpy,
        );
        assert!(message.contains("not latin-1"), "{message}");
    }

    #[test]
    fn one_array_named_twice_is_one_array() {
        let mut bytes = SMALL[..SMALL.len() - 2].to_vec();
        bytes.extend_from_slice(b"q\x00sU\x01bh\x00s.");
        let pickle = data(&bytes);
        let root = pickle.root();
        assert_eq!(root.get("a").unwrap().id(), root.get("b").unwrap().id());
    }

    #[test]
    fn damaged_pickles_are_refused_at_their_byte() {
        let cases: [(&[u8], &str); 16] = [
            (b"", "at byte 0: the data ends at byte 0 without the STOP"),
            (b"N", "at byte 1: the data ends at byte 1 without the STOP"),
            (b"\x80\x04\xff.", "at byte 2: unknown opcode 0xff"),
            (b"\x80\x06N.", "at byte 0: protocol 6"),
            (b"\x80\x04s.", "at byte 2: opcode SETITEM needs more values"),
            (b"\x80\x04(K\x01tt.", "at byte 6: opcode TUPLE needs a mark"),
            (b"\x80\x04h\x07.", "at byte 2: opcode BINGET needs memo 7"),
            (b"\x80\x04K\x01]s.", "needs more values"),
            (b"]K\x01K\x02s.", "opcode SETITEM needs a dict, not a list"),
            (b"}K\x01a.", "opcode APPEND needs a list, not a dict"),
            (b"}(K\x01u.", "opcode SETITEMS needs a value for every key"),
            (
                b"B\xff\xff\xff\x7fabc.",
                "at byte 0: opcode BINBYTES declares length 2147483647",
            ),
            (b"T\xff\xff\xff\xffabc.", "negative length -1"),
            (b"X\x01\0\0\0\xff.", "not UTF-8"),
            (b"I1x\n.", "needs an integer"),
            (b"(K\x01.", "x.pickle: "),
        ];
        for (bytes, part) in &cases[..15] {
            let message = refusal(bytes, Dialect::Numpy);
            assert!(message.contains(part), "{message}");
        }
        // Python too forgets a MARK that is still open at the end.
        assert_eq!(data(cases[15].0).root().int(), Some(1));
    }

    #[test]
    fn trees_that_would_exhaust_a_walk_are_refused() {
        let cycle = b"\x80\x04]\x94h\x00a.";
        assert!(refusal(cycle, Dialect::Numpy).contains("cycle"));
        let deep = [b"]".repeat(101), b"a".repeat(100), b".".to_vec()].concat();
        assert!(refusal(&deep, Dialect::Numpy).contains("nesting depth"));
        let allowed = [b"]".repeat(100), b"a".repeat(99), b".".to_vec()].concat();
        data(&allowed);
        let mut laughs = b"\x80\x04]\x94".to_vec();
        for level in 0..9_u8 {
            laughs.extend_from_slice(b"](");
            laughs.extend_from_slice(&[b'h', level].repeat(10));
            laughs.extend_from_slice(b"e\x94");
        }
        laughs.push(b'.');
        assert!(refusal(&laughs, Dialect::Numpy).contains("names its values so often"));
    }

    #[test]
    fn nothing_that_could_run_code_is_made() {
        let cases: [(&[u8], &str); 9] = [
            (b"cos\nsystem\n(S'x'\ntR.", "`os.system`"),
            (
                b"\x80\x04\x8c\x05numpy\x8c\x06os.sys\x93.",
                "`numpy.os.sys`",
            ),
            (
                b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
                "`builtins.eval`",
            ),
            (b"(S'x'\nios\nsystem\n.", "`os.system`"),
            (b"(cposix\nsystem\nS'x'\no.", "`posix.system`"),
            (b"\x82\x05.", "extension registry"),
            (b"(cnumpy\nndarray\nK\x01o.", "numpy.ndarray"),
            (b"\x80\x02cnumpy\nndarray\n)\x81.", "numpy.ndarray"),
            (b"N)R.", "no function"),
        ];
        for (bytes, part) in cases {
            for dialect in [Dialect::Numpy, Dialect::Torch] {
                let message = refusal(bytes, dialect);
                assert!(message.contains(part), "{message}");
            }
        }
        let message = refusal(b"\x80\x02K\x01Q.", Dialect::Numpy);
        assert!(message.contains("persistent id"), "{message}");
        let message = refusal(b"cnumpy\nndarray\n.", Dialect::Numpy);
        assert!(message.contains("no data"), "{message}");
    }

    #[test]
    fn checkpoints_keep_what_they_name_without_running_it() {
        // f(1, <persistent 'k'>) with the attributes {'x': 2}
        let bytes = b"\x80\x02ctorch._utils\nf\nK\x01U\x01kQ\x86R}U\x01xK\x02sb.";
        let pickle = read(bytes, Dialect::Torch).unwrap();
        let Value::Call {
            function,
            arguments,
            state,
        } = pickle.root().value()
        else {
            panic!("{pickle:?}");
        };
        assert_eq!(function, "torch._utils.f");
        let arguments: Vec<Item<'_>> = arguments.collect();
        assert_eq!(arguments[0].int(), Some(1));
        let Value::Persistent(id) = arguments[1].value() else {
            panic!("{pickle:?}");
        };
        assert_eq!(id.text(), Some("k"));
        assert_eq!(state.unwrap().get("x").unwrap().int(), Some(2));
        let bytes = b"\x80\x02cargparse\nNamespace\n)\x81}U\x01xK\x02sb.";
        let pickle = read(bytes, Dialect::Torch).unwrap();
        assert!(matches!(
            pickle.root().value(),
            Value::Call {
                function: "argparse.Namespace",
                state: Some(_),
                ..
            }
        ));
        assert!(refusal(bytes, Dialect::Numpy).contains("`argparse.Namespace`"));
    }

    #[test]
    fn several_pickles_in_a_row_are_read_one_by_one() {
        let mut rest: &[u8] = b"\x80\x02K\x01.\x80\x02K\x02.";
        for expected in [1, 2] {
            let len = rest.len() as u64;
            let (pickle, consumed) =
                Pickle::read(Path::new("x"), &mut rest, len, Dialect::Torch).unwrap();
            assert_eq!(consumed, 5);
            assert_eq!(pickle.root().int(), Some(expected));
        }
    }

    #[test]
    fn bytes_that_many_arrays_share_do_not_fill_the_memory() {
        // One byte string of 64 KiB, and 2000 arrays of it.
        let mut bytes = b"\x80\x02]q\x00cnumpy.core.numeric\n_frombuffer\nq\x01".to_vec();
        bytes.extend_from_slice(b"cnumpy\ndtype\nU\x02u1\x85Rq\x02T\0\0\x01\0");
        bytes.extend(std::iter::repeat_n(7, 1 << 16));
        bytes.extend_from_slice(b"q\x03000(");
        for _ in 0..2000 {
            bytes.extend_from_slice(b"h\x01(h\x03h\x02J\0\0\x01\0\x85U\x01CtR");
        }
        bytes.extend_from_slice(b"e.");
        assert!(refusal(&bytes, Dialect::Numpy).contains("fill the memory"));
    }
}
