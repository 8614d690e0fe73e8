//! Arrays in numpy's `.npy` files and `.npz` archives.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::checkpoint::foreign::foreign_kind;
use crate::error::{DataError, DataErrorKind};
use crate::host_array::{ElementType, HostArray, StorageOrder};
use crate::pickle::{Dialect, Pickle, Value};
use crate::zip_members::ZipMembers;

/// The first bytes of a `.npy` file, before the version.
const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Axes that numpy allows.
const MAX_AXES: usize = 64;

/// Bytes that the deflated members of an archive may inflate to beyond the length of the file.
///
/// Keeps a small archive that inflates to gigabytes from filling the memory.
const INFLATION_ALLOWANCE: u64 = 80_000_000;

/// Bytes that are shown to [`foreign_kind`].
const HEAD_LEN: usize = 300;

/// Characters of a header that a message quotes.
const QUOTE_LEN: usize = 24;

/// What a `.npy` file or one member of a `.npz` archive holds.
pub enum NpyContent {
    /// An array of numbers, truth values or strings.
    Array(HostArray),
    /// An array of Python objects, which numpy pickles; the root is that array.
    Pickled(Pickle),
}

impl fmt::Debug for NpyContent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Array(array) => {
                write!(formatter, "Array({} {:?})", array.element(), array.shape())
            }
            Self::Pickled(pickle) => write!(formatter, "Pickled({})", pickle.root().kind()),
        }
    }
}

/// Reads a `.npy` file of version 1.0, 2.0 or 3.0 into memory.
///
/// Big-endian numbers are swapped, and the storage order is kept. The header is parsed by a strict
/// reader of the three literals it consists of; nothing is evaluated. Objects go through the
/// restricted pickle reader.
///
/// # Errors
///
/// Returns an error if the file is absent, unreadable, cut off, longer than its array, no `.npy`
/// file, or of an element type that is not read: records, dates, `float128`.
pub fn read_npy(path: &Path) -> Result<NpyContent, DataError> {
    let file = File::open(path).map_err(|source| DataError::reading(path, source))?;
    let metadata = file
        .metadata()
        .map_err(|source| DataError::reading(path, source))?;
    let place = Place {
        path,
        member: None,
        max_pickle: u64::MAX,
    };
    read_array(place, &mut BufReader::new(file), metadata.len())
}

/// Reads all arrays of a `.npz` archive, stored or deflated, in the order of the archive.
///
/// The names are those that numpy shows: without `.npy`.
///
/// # Errors
///
/// Returns an error that names the member if one is damaged or no `.npy` array, or if the archive
/// inflates to more than 80 MB beyond its own length: such archives are stored uncompressed, by
/// `numpy.savez`.
pub fn read_npz(path: &Path) -> Result<Vec<(String, NpyContent)>, DataError> {
    let mut members = ZipMembers::open(path, "npz", INFLATION_ALLOWANCE)?;
    members.check_total_inflation()?;
    let mut contents = Vec::with_capacity(members.len());
    for index in 0..members.len() {
        let member = members.name(index).to_owned();
        let Some(name) = member.strip_suffix(".npy") else {
            return Err(members.fault(index, "is no .npy array; remove it from the archive"));
        };
        let size = members.size(index);
        let place = Place {
            path,
            member: Some(&member),
            max_pickle: members.max_pickle(index),
        };
        let content = members.read_with(index, |reader| {
            read_array(place, &mut BufReader::new(reader), size)
        })?;
        contents.push((name.to_owned(), content));
    }
    Ok(contents)
}

/// The file or the member that errors are about.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a Path,
    member: Option<&'a str>,
    /// Bytes that a pickle may have here.
    max_pickle: u64,
}

impl Place<'_> {
    fn fault(self, offset: Option<u64>, reason: &str) -> DataError {
        let Some(member) = self.member else {
            return DataError::format(self.path, "npy", offset, reason);
        };
        let at = match offset {
            Some(offset) => format!(" at byte {offset}"),
            None => String::new(),
        };
        DataError::format(
            self.path,
            "npz",
            None,
            format!("member {member}{at}: {reason}"),
        )
    }

    /// An error of the pickle reader, with the place of the pickle.
    fn pickle_fault(self, error: DataError) -> DataError {
        match error.kind {
            DataErrorKind::Format { offset, reason, .. } => {
                let at = match offset {
                    Some(offset) => format!(" at byte {offset} of the pickle"),
                    None => String::new(),
                };
                self.fault(None, &format!("object dtype{at}: {reason}"))
            }
            DataErrorKind::Item { item, reason } => {
                self.fault(None, &format!("object dtype, item `{item}`: {reason}"))
            }
            kind => DataError {
                path: error.path,
                line: error.line,
                kind,
            },
        }
    }
}

/// Bytes of a file or a member, counted.
struct Input<'a, R> {
    place: Place<'a>,
    reader: &'a mut R,
    left: u64,
}

impl<R: Read> Input<'_, R> {
    /// The next bytes, at most `count` and at most those that are there.
    fn up_to(&mut self, count: usize) -> Result<Vec<u8>, DataError> {
        let count = usize::try_from(self.left).map_or(count, |left| left.min(count));
        let mut bytes = Vec::with_capacity(count);
        self.reader
            .by_ref()
            .take(count as u64)
            .read_to_end(&mut bytes)
            .map_err(|source| DataError::reading(self.place.path, source))?;
        if bytes.len() < count {
            let reason = format!("the content ends {} bytes early", count - bytes.len());
            return Err(self.place.fault(None, &reason));
        }
        self.left = self.left.saturating_sub(count as u64);
        Ok(bytes)
    }
}

/// Reads one array that takes all `len` bytes of `reader`.
fn read_array<R: Read>(
    place: Place<'_>,
    reader: &mut R,
    len: u64,
) -> Result<NpyContent, DataError> {
    let mut input = Input {
        place,
        reader,
        left: len,
    };
    let header = read_header(&mut input, len)?;
    let data_start = len.saturating_sub(input.left);
    let shape = header.shape;
    if is_object(&header.descr) {
        return read_objects(input, &shape);
    }
    let Some((element, big_endian)) = ElementType::from_numpy(&header.descr) else {
        let reason = format!(
            "header: element type {:?} is not read; save numbers, truth values or texts",
            header.descr
        );
        return Err(place.fault(None, &reason));
    };
    let present = input.left;
    let expected = match (count(&shape), HostArray::byte_len(element, &shape)) {
        (Some(count), Some(bytes)) if element.size() > 0 || count as u64 <= len => bytes,
        _ => {
            let reason = format!("shape {shape:?} of {element} is larger than any memory");
            return Err(place.fault(None, &reason));
        }
    };
    if expected as u64 > present {
        let reason =
            format!("shape {shape:?} of {element}: {expected} bytes expected, {present} present");
        return Err(place.fault(Some(data_start), &reason));
    }
    if (expected as u64) < present {
        let reason = format!(
            "{} bytes follow the array of shape {shape:?}; write one array per file",
            present - expected as u64
        );
        return Err(place.fault(Some(data_start.saturating_add(expected as u64)), &reason));
    }
    let bytes = input.up_to(expected)?;
    let array = if big_endian {
        HostArray::from_big_endian(element, shape, header.order, bytes)
    } else {
        HostArray::new(element, shape, header.order, bytes)
    };
    array
        .map(NpyContent::Array)
        .map_err(|error| place.fault(Some(data_start), &error.to_string()))
}

/// Reads the pickled array of objects that follows the header.
fn read_objects<R: Read>(input: Input<'_, R>, shape: &[usize]) -> Result<NpyContent, DataError> {
    let place = input.place;
    let len = input.left;
    if len > place.max_pickle {
        let reason = format!(
            "object dtype: the pickle inflates to {len} bytes, above the limit of {}; store it \
             uncompressed",
            place.max_pickle
        );
        return Err(place.fault(None, &reason));
    }
    let (pickle, consumed) = Pickle::read(place.path, input.reader, len, Dialect::Numpy)
        .map_err(|error| place.pickle_fault(error))?;
    if consumed != len {
        let reason = format!(
            "{} bytes follow the pickle; write one array per file",
            len.saturating_sub(consumed)
        );
        return Err(place.fault(None, &reason));
    }
    let fault = match pickle.root().value() {
        Value::Objects { shape: found, .. } if found == shape => None,
        Value::Objects { shape: found, .. } => Some(format!(
            "object dtype: the pickle has shape {found:?}, the header {shape:?}"
        )),
        _ => Some(format!(
            "object dtype: the pickle holds a {} instead of an array of objects",
            pickle.root().kind()
        )),
    };
    match fault {
        Some(reason) => Err(place.fault(None, &reason)),
        None => Ok(NpyContent::Pickled(pickle)),
    }
}

/// Number of elements, with axes of length 0 counted as 1; `None` beyond this machine's numbers.
///
/// numpy refuses such shapes too, even if another axis is 0.
fn count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |product, &len| product.checked_mul(len.max(1)))
}

/// Whether a type string is the one of Python objects, `|O` and in old files `|O8`.
fn is_object(descr: &str) -> bool {
    let letters = descr.strip_prefix(['|', '<', '>', '=']).unwrap_or(descr);
    match letters.strip_prefix('O') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => false,
    }
}

/// What the text before the data says.
#[derive(Clone, Debug, PartialEq)]
struct Header {
    descr: String,
    order: StorageOrder,
    shape: Vec<usize>,
}

fn read_header<R: Read>(input: &mut Input<'_, R>, len: u64) -> Result<Header, DataError> {
    let place = input.place;
    let mut head = input.up_to(MAGIC.len())?;
    if head != MAGIC {
        let found = hexadecimal(&head);
        head.extend(input.up_to(HEAD_LEN)?);
        let reason = match foreign_kind(&head, len) {
            Some(kind) => format!("the magic number is missing; this is {kind}"),
            None => format!(
                "the magic number is {found} instead of {}",
                hexadecimal(MAGIC)
            ),
        };
        return Err(place.fault(Some(0), &reason));
    }
    let version = input.up_to(2)?;
    let (major, minor) = match version[..] {
        [major, minor] => (major, minor),
        _ => return Err(place.fault(Some(6), "the content ends in the version")),
    };
    let width = match (major, minor) {
        (1, 0) => 2,
        (2 | 3, 0) => 4,
        _ => {
            let reason = format!("version {major}.{minor} is unknown; 1.0, 2.0 and 3.0 are read");
            return Err(place.fault(Some(6), &reason));
        }
    };
    let digits = input.up_to(width)?;
    if digits.len() < width {
        return Err(place.fault(Some(8), "the content ends in the header length"));
    }
    let header_len = digits
        .iter()
        .rev()
        .fold(0_usize, |number, &digit| (number << 8) | usize::from(digit));
    if header_len as u64 > input.left {
        let reason = format!(
            "header length {header_len}, but only {} bytes follow",
            input.left
        );
        return Err(place.fault(Some(8), &reason));
    }
    let start = len.saturating_sub(input.left);
    let text = input.up_to(header_len)?;
    parse_header(&text).map_err(|(at, reason)| {
        place.fault(
            Some(start.saturating_add(at as u64)),
            &format!("header: {reason}"),
        )
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

/// Where the header is wrong, in bytes, and why.
type HeaderFault = (usize, String);

/// Parses `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }` and nothing more general.
fn parse_header(bytes: &[u8]) -> Result<Header, HeaderFault> {
    let mut literal = Literal { bytes, at: 0 };
    let mut descr: Option<String> = None;
    let mut order: Option<StorageOrder> = None;
    let mut shape: Option<Vec<usize>> = None;
    literal.expect(b'{')?;
    while !literal.eat(b'}') {
        let at = literal.at;
        let key = literal.text()?;
        literal.expect(b':')?;
        match key.as_str() {
            "descr" if descr.is_none() => descr = Some(literal.descr()?),
            "fortran_order" if order.is_none() => order = Some(literal.order()?),
            "shape" if shape.is_none() => shape = Some(literal.shape()?),
            _ => return Err((at, format!("key {key:?} is unknown or repeated"))),
        }
        if !literal.eat(b',') {
            literal.expect(b'}')?;
            break;
        }
    }
    literal.skip_space();
    if literal.at < bytes.len() {
        return Err(literal.unexpected("the end"));
    }
    match (descr, order, shape) {
        (Some(descr), Some(order), Some(shape)) => Ok(Header {
            descr,
            order,
            shape,
        }),
        _ => Err((
            0,
            "needs the keys `descr`, `fortran_order` and `shape`".to_owned(),
        )),
    }
}

/// A position in a header.
struct Literal<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Literal<'_> {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        let spaces = self
            .rest()
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
            .count();
        self.at += spaces;
    }

    /// Skips space, and the byte if it follows.
    fn eat(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.rest().first() == Some(&byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), HeaderFault> {
        if self.eat(byte) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("`{}`", char::from(byte))))
        }
    }

    fn unexpected(&self, expected: &str) -> HeaderFault {
        let quote: String = self
            .rest()
            .iter()
            .take(QUOTE_LEN)
            .flat_map(|&byte| byte.escape_ascii())
            .map(char::from)
            .collect();
        (self.at, format!("{expected} expected, `{quote}` found"))
    }

    /// A quoted ASCII text without escapes.
    fn text(&mut self) -> Result<String, HeaderFault> {
        let quote = if self.eat(b'\'') {
            b'\''
        } else if self.eat(b'"') {
            b'"'
        } else {
            return Err(self.unexpected("a quoted text"));
        };
        let rest = self.rest();
        let plain = rest
            .iter()
            .take_while(|&&byte| byte != quote && byte != b'\\' && (b' '..=b'~').contains(&byte))
            .count();
        if rest.get(plain) == Some(&quote) {
            let text: String = rest
                .iter()
                .take(plain)
                .map(|&byte| char::from(byte))
                .collect();
            self.at += plain + 1;
            return Ok(text);
        }
        Err(self.unexpected("a text of plain characters and its closing quote"))
    }

    fn descr(&mut self) -> Result<String, HeaderFault> {
        self.skip_space();
        if matches!(self.rest().first(), Some(b'[' | b'(' | b'{')) {
            let reason = "`descr` is a record type, which is not read; save one array per field";
            return Err((self.at, reason.to_owned()));
        }
        self.text()
    }

    fn order(&mut self) -> Result<StorageOrder, HeaderFault> {
        self.skip_space();
        let (order, len) = if self.rest().starts_with(b"True") {
            (StorageOrder::Fortran, 4)
        } else if self.rest().starts_with(b"False") {
            (StorageOrder::C, 5)
        } else {
            return Err(self.unexpected("True or False for `fortran_order`"));
        };
        self.at += len;
        Ok(order)
    }

    /// A tuple of lengths. Python 2 writes long integers with an `L` behind.
    fn shape(&mut self) -> Result<Vec<usize>, HeaderFault> {
        if !self.eat(b'(') {
            return Err(self.unexpected("a tuple for `shape`"));
        }
        let mut shape = Vec::new();
        while !self.eat(b')') {
            let negative = self.eat(b'-');
            let at = self.at;
            let digits: String = self
                .rest()
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .map(|&byte| char::from(byte))
                .collect();
            if digits.is_empty() {
                return Err(self.unexpected("a length of `shape`"));
            }
            self.at += digits.len();
            if self.rest().first() == Some(&b'L') {
                self.at += 1;
            }
            if negative {
                return Err((at, format!("`shape` has the negative length -{digits}")));
            }
            let Ok(len) = digits.parse::<usize>() else {
                return Err((at, format!("`shape` has the impossible length {digits}")));
            };
            shape.push(len);
            if shape.len() > MAX_AXES {
                return Err((at, format!("`shape` has more than {MAX_AXES} axes")));
            }
            if !self.eat(b',') {
                self.expect(b')')?;
                if shape.len() == 1 {
                    return Err((at, "`shape` is a number in brackets, no tuple".to_owned()));
                }
                break;
            }
        }
        Ok(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<NpyContent, DataError> {
        let place = Place {
            path: Path::new("a.npy"),
            member: None,
            max_pickle: u64::MAX,
        };
        let mut reader = bytes;
        read_array(place, &mut reader, bytes.len() as u64)
    }

    fn version_1(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn refusal(header: &str, data: &[u8]) -> String {
        read(&version_1(header, data)).unwrap_err().to_string()
    }

    #[test]
    fn a_header_is_read_in_any_order_and_spacing() {
        let expected = Header {
            descr: "<f4".to_owned(),
            order: StorageOrder::Fortran,
            shape: vec![3, 5],
        };
        let texts = [
            "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 5), }     \n",
            "{\"shape\":(3L,5L,),\"fortran_order\":True,\"descr\":\"<f4\"}",
        ];
        for text in texts {
            assert_eq!(parse_header(text.as_bytes()), Ok(expected.clone()));
        }
        let scalar = "{'descr': '<f4', 'fortran_order': False, 'shape': ()}";
        assert_eq!(parse_header(scalar.as_bytes()).unwrap().shape, [0_usize; 0]);
    }

    #[test]
    fn headers_with_anything_else_are_refused_at_their_byte() {
        let cases = [
            ("", "`{` expected"),
            ("{}", "needs the keys"),
            (
                "{'descr': f(), 'fortran_order': False, 'shape': ()}",
                "a quoted text expected, `f()",
            ),
            ("{'descr': '\\x3cf4'}", "closing quote"),
            (
                "{'descr': '<f4', 'descr': '<f4'}",
                "\"descr\" is unknown or repeated",
            ),
            ("{'fortran_order': 0}", "True or False"),
            ("{'shape': (3)}", "no tuple"),
            ("{'shape': [3]}", "a tuple for `shape` expected"),
            ("{'shape': (-3,)}", "`shape` has the negative length -3"),
            (
                "{'shape': (99999999999999999999,)}",
                "`shape` has the impossible length",
            ),
            ("{'descr': [('a', '<f4')]}", "record type"),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} + 1",
                "the end expected",
            ),
        ];
        for (header, reason) in cases {
            let message = refusal(header, &[]);
            assert!(message.contains("header: "), "{message}");
            assert!(message.contains(reason), "{message}");
            assert!(
                message.starts_with("a.npy: not a valid npy file at byte "),
                "{message}"
            );
        }
    }

    #[test]
    fn the_bytes_have_to_be_those_of_the_shape() {
        let header = "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 2), }\n";
        match read(&version_1(header, &[1, 0, 2, 0, 3, 0, 4, 0])).unwrap() {
            NpyContent::Array(array) => assert_eq!(array.to_i64_vec().unwrap(), [1, 2, 3, 4]),
            other => panic!("{other:?}"),
        }
        let short = refusal(header, &[0; 7]);
        assert!(
            short.contains("shape [2, 2] of int16: 8 bytes expected, 7 present"),
            "{short}"
        );
        let long = refusal(header, &[0; 9]);
        assert!(long.contains("1 bytes follow the array"), "{long}");
    }

    #[test]
    fn shapes_beyond_any_memory_are_refused() {
        let shapes = [
            "'<f8', 'fortran_order': False, 'shape': (9223372036854775807, 3)",
            "'<f8', 'fortran_order': False, 'shape': (9223372036854775807, 3, 0)",
            "'|S0', 'fortran_order': False, 'shape': (9223372036854775807,)",
        ];
        for shape in shapes {
            let message = refusal(&format!("{{'descr': {shape}}}"), &[]);
            assert!(message.contains("larger than any memory"), "{message}");
        }
    }

    #[test]
    fn element_types_without_a_fixed_meaning_are_refused() {
        for descr in ["<M8[ns]", "<f16", "|V4", "nonsense"] {
            let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ()}}");
            let message = refusal(&header, &[0; 8]);
            assert!(
                message.contains(&format!("element type {descr:?} is not read")),
                "{message}"
            );
        }
        assert!(is_object("|O") && is_object("O8") && !is_object("<f4") && !is_object("|Ox"));
    }

    #[test]
    fn other_files_are_named() {
        let message = read(b"<html>login</html>").unwrap_err().to_string();
        assert!(
            message.contains("magic number is missing; this is an HTML page"),
            "{message}"
        );
        let message = read(b"").unwrap_err().to_string();
        assert!(message.contains("an empty file"), "{message}");
        let message = read(b"\x92NUMPY\x01\x00").unwrap_err().to_string();
        assert!(
            message.contains("magic number is 92 4e 55 4d 50 59 instead of 93"),
            "{message}"
        );
        let message = read(b"\x93NUMPY\x09\x00\x02\x00{}")
            .unwrap_err()
            .to_string();
        assert!(message.contains("version 9.0 is unknown"), "{message}");
        let message = read(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("header length 2147483647, but only 1 bytes"),
            "{message}"
        );
    }
}
