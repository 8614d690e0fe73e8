//! Arrays as files hold them: an element type, a shape and bytes.

use std::borrow::Cow;
use std::fmt;

use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};
use sha2::{Digest, Sha256};

/// What one element of a [`HostArray`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// One byte, zero or not.
    Bool,
    /// Signed integer of 8 bits.
    I8,
    /// Signed integer of 16 bits.
    I16,
    /// Signed integer of 32 bits.
    I32,
    /// Signed integer of 64 bits.
    I64,
    /// Unsigned integer of 8 bits.
    U8,
    /// Unsigned integer of 16 bits.
    U16,
    /// Unsigned integer of 32 bits.
    U32,
    /// Unsigned integer of 64 bits.
    U64,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// Two numbers in single precision.
    Complex64,
    /// Two numbers in double precision.
    Complex128,
    /// A byte string of fixed length, padded with zeros.
    Bytes(usize),
    /// A text of a fixed number of code points of 32 bits each, padded with zeros.
    Text(usize),
}

impl ElementType {
    /// Bytes of one element; saturates for strings beyond any file.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 | Self::Complex64 => 8,
            Self::Complex128 => 16,
            Self::Bytes(len) => len,
            Self::Text(len) => len.saturating_mul(4),
        }
    }

    /// Bytes that change places between little- and big-endian files.
    fn word(self) -> usize {
        match self {
            Self::Bytes(_) => 1,
            Self::Text(_) | Self::Complex64 => 4,
            Self::Complex128 => 8,
            other => other.size(),
        }
    }

    /// The type of a numpy type string, e.g. `<f4`, `|b1` or `>U12`, and whether it is big-endian.
    ///
    /// `None` for types without a fixed meaning here: objects, records, dates, `float128`.
    #[must_use]
    pub fn from_numpy(text: &str) -> Option<(Self, bool)> {
        let mut letters = text.chars();
        let first = letters.next()?;
        let (big, rest) = match first {
            '<' | '|' | '=' => (false, letters.as_str()),
            '>' => (true, letters.as_str()),
            _ => (false, text),
        };
        let mut letters = rest.chars();
        let kind = letters.next()?;
        let size = letters.as_str();
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_digit()) {
            return (rest == "?").then_some((Self::Bool, big));
        }
        let size: usize = size.parse().ok()?;
        let element = match (kind, size) {
            ('b', 1) => Self::Bool,
            ('i', 1) => Self::I8,
            ('i', 2) => Self::I16,
            ('i', 4) => Self::I32,
            ('i', 8) => Self::I64,
            ('u', 1) => Self::U8,
            ('u', 2) => Self::U16,
            ('u', 4) => Self::U32,
            ('u', 8) => Self::U64,
            ('f', 2) => Self::F16,
            ('f', 4) => Self::F32,
            ('f', 8) => Self::F64,
            ('c', 8) => Self::Complex64,
            ('c', 16) => Self::Complex128,
            ('S' | 'a', len) => Self::Bytes(len),
            ('U', len) => Self::Text(len),
            _ => return None,
        };
        Some((element, big))
    }

    /// The numpy type string of the little-endian type; `bfloat16`, which numpy lacks, by name.
    #[must_use]
    pub fn numpy(self) -> String {
        match self {
            Self::Bool => "|b1".into(),
            Self::I8 => "|i1".into(),
            Self::I16 => "<i2".into(),
            Self::I32 => "<i4".into(),
            Self::I64 => "<i8".into(),
            Self::U8 => "|u1".into(),
            Self::U16 => "<u2".into(),
            Self::U32 => "<u4".into(),
            Self::U64 => "<u8".into(),
            Self::F16 => "<f2".into(),
            Self::Bf16 => "bfloat16".into(),
            Self::F32 => "<f4".into(),
            Self::F64 => "<f8".into(),
            Self::Complex64 => "<c8".into(),
            Self::Complex128 => "<c16".into(),
            Self::Bytes(len) => format!("|S{len}"),
            Self::Text(len) => format!("<U{len}"),
        }
    }
}

impl fmt::Display for ElementType {
    /// The name that people use: `float32`, `int64`, `bool`, `U12`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Bool => "bool",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::Complex64 => "complex64",
            Self::Complex128 => "complex128",
            Self::Bytes(len) => return formatter.pad(&format!("S{len}")),
            Self::Text(len) => return formatter.pad(&format!("U{len}")),
        };
        formatter.pad(name)
    }
}

/// In which order the bytes of a file run through an array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageOrder {
    /// The last axis is the fastest.
    #[default]
    C,
    /// The first axis is the fastest.
    Fortran,
}

/// Why bytes are not an array of a shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArrayError {
    /// The number of bytes does not fit to the shape.
    #[error("shape {shape:?} of {element} needs {expected} bytes, {actual} are present")]
    Length {
        /// The shape.
        shape: Vec<usize>,
        /// The element type.
        element: ElementType,
        /// Bytes that the shape needs.
        expected: usize,
        /// Bytes that are there.
        actual: usize,
    },
    /// The size of the array is beyond any memory.
    #[error("shape {shape:?} of {element} is larger than any memory")]
    Overflow {
        /// The shape.
        shape: Vec<usize>,
        /// The element type.
        element: ElementType,
    },
}

/// An array of any element type on the host, as little-endian bytes in the order of its file.
///
/// The bytes always fit to the shape. Reading numbers converts; the bytes are kept as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostArray {
    element: ElementType,
    shape: Vec<usize>,
    order: StorageOrder,
    bytes: Vec<u8>,
}

impl HostArray {
    /// An array of little-endian bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes are not exactly those of the shape.
    pub fn new(
        element: ElementType,
        shape: Vec<usize>,
        order: StorageOrder,
        bytes: Vec<u8>,
    ) -> Result<Self, ArrayError> {
        match Self::byte_len(element, &shape) {
            None => Err(ArrayError::Overflow { shape, element }),
            Some(expected) if expected != bytes.len() => Err(ArrayError::Length {
                shape,
                element,
                expected,
                actual: bytes.len(),
            }),
            Some(_) => Ok(Self {
                element,
                shape,
                order,
                bytes,
            }),
        }
    }

    /// As [`new`](Self::new), from big-endian bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes are not exactly those of the shape.
    pub fn from_big_endian(
        element: ElementType,
        shape: Vec<usize>,
        order: StorageOrder,
        bytes: Vec<u8>,
    ) -> Result<Self, ArrayError> {
        let mut array = Self::new(element, shape, order, bytes)?;
        let word = element.word();
        if word > 1 {
            array.bytes.chunks_exact_mut(word).for_each(<[u8]>::reverse);
        }
        Ok(array)
    }

    /// Bytes of an array, or `None` if that is not a number of this machine.
    #[must_use]
    pub fn byte_len(element: ElementType, shape: &[usize]) -> Option<usize> {
        // An axis of length 0 makes the product 0 whatever the others are; numpy accepts that.
        if shape.contains(&0) {
            // The other axes stay within bounds, so that no product of lengths overflows.
            let mut others = shape.iter().filter(|&&len| len > 0);
            others.try_fold(1_usize, |product, &len| product.checked_mul(len))?;
            return Some(0);
        }
        shape
            .iter()
            .try_fold(element.size(), |product, &len| product.checked_mul(len))
    }

    /// The type of each element.
    #[must_use]
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// The lengths of the axes; empty for a single element.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The order in which the file held the elements.
    #[must_use]
    pub fn order(&self) -> StorageOrder {
        self.order
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of bytes.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The little-endian bytes in C order. Costs a copy for an array in Fortran order only.
    #[must_use]
    pub fn c_bytes(&self) -> Cow<'_, [u8]> {
        let contiguous = self.shape.iter().filter(|&&len| len != 1).count() < 2;
        if self.order == StorageOrder::C || contiguous || self.bytes.is_empty() {
            return Cow::Borrowed(&self.bytes);
        }
        let size = self.element.size();
        let mut strides = Vec::with_capacity(self.shape.len());
        let mut stride = size;
        for len in &self.shape {
            strides.push(stride);
            stride *= len;
        }
        let mut place = vec![0; self.shape.len()];
        let mut reordered = Vec::with_capacity(self.bytes.len());
        for _ in 0..self.len() {
            let start: usize = place.iter().zip(&strides).map(|(at, by)| at * by).sum();
            reordered.extend_from_slice(&self.bytes[start..start + size]);
            for axis in (0..place.len()).rev() {
                place[axis] += 1;
                if place[axis] < self.shape[axis] {
                    break;
                }
                place[axis] = 0;
            }
        }
        Cow::Owned(reordered)
    }

    /// The little-endian bytes in C order, without a copy where they are so already.
    #[must_use]
    pub fn into_c_bytes(self) -> Vec<u8> {
        let reordered = match self.c_bytes() {
            Cow::Owned(bytes) => Some(bytes),
            Cow::Borrowed(_) => None,
        };
        reordered.unwrap_or(self.bytes)
    }

    /// Hexadecimal SHA-256 of [`c_bytes`](Self::c_bytes).
    #[must_use]
    pub fn sha256(&self) -> String {
        let digest = Sha256::digest(self.c_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// All elements as `f64` in C order; `None` for strings and complex numbers.
    ///
    /// Integers beyond 2^53 are rounded.
    #[must_use]
    pub fn to_f64_vec(&self) -> Option<Vec<f64>> {
        let bytes = self.c_bytes();
        Some(match self.element {
            ElementType::Bool => bytes.iter().map(|&byte| f64::from(byte != 0)).collect(),
            ElementType::I8 => words(&bytes)
                .map(|word| f64::from(i8::from_le_bytes(word)))
                .collect(),
            ElementType::I16 => words(&bytes)
                .map(|word| f64::from(i16::from_le_bytes(word)))
                .collect(),
            ElementType::I32 => words(&bytes)
                .map(|word| f64::from(i32::from_le_bytes(word)))
                .collect(),
            ElementType::I64 => words(&bytes)
                .map(|word| i64::from_le_bytes(word) as f64)
                .collect(),
            ElementType::U8 => bytes.iter().map(|&byte| f64::from(byte)).collect(),
            ElementType::U16 => words(&bytes)
                .map(|word| f64::from(u16::from_le_bytes(word)))
                .collect(),
            ElementType::U32 => words(&bytes)
                .map(|word| f64::from(u32::from_le_bytes(word)))
                .collect(),
            ElementType::U64 => words(&bytes)
                .map(|word| u64::from_le_bytes(word) as f64)
                .collect(),
            ElementType::F16 => words(&bytes)
                .map(|word| f64::from(f16::from_le_bytes(word)))
                .collect(),
            ElementType::Bf16 => words(&bytes)
                .map(|word| f64::from(bf16::from_le_bytes(word)))
                .collect(),
            ElementType::F32 => words(&bytes)
                .map(|word| f64::from(f32::from_le_bytes(word)))
                .collect(),
            ElementType::F64 => words(&bytes).map(f64::from_le_bytes).collect(),
            ElementType::Complex64
            | ElementType::Complex128
            | ElementType::Bytes(_)
            | ElementType::Text(_) => return None,
        })
    }

    /// All elements as `f32`; `None` for strings and complex numbers.
    ///
    /// Values beyond the range of `f32` become infinite, and precision is lost as usual.
    ///
    /// # Shapes
    ///
    /// - output: the shape of the array, in C order.
    #[must_use]
    pub fn to_f32(&self) -> Option<ArrayD<f32>> {
        let values = if self.element == ElementType::F32 {
            words(&self.c_bytes()).map(f32::from_le_bytes).collect()
        } else {
            self.to_f64_vec()?
                .into_iter()
                .map(|value| value as f32)
                .collect()
        };
        ArrayD::from_shape_vec(IxDyn(&self.shape), values).ok()
    }

    /// All elements as `i64` in C order; `None` for anything but integers and truth values, and for
    /// a `uint64` beyond the range.
    #[must_use]
    pub fn to_i64_vec(&self) -> Option<Vec<i64>> {
        let bytes = self.c_bytes();
        Some(match self.element {
            ElementType::Bool => bytes.iter().map(|&byte| i64::from(byte != 0)).collect(),
            ElementType::I8 => words(&bytes)
                .map(|word| i64::from(i8::from_le_bytes(word)))
                .collect(),
            ElementType::I16 => words(&bytes)
                .map(|word| i64::from(i16::from_le_bytes(word)))
                .collect(),
            ElementType::I32 => words(&bytes)
                .map(|word| i64::from(i32::from_le_bytes(word)))
                .collect(),
            ElementType::I64 => words(&bytes).map(i64::from_le_bytes).collect(),
            ElementType::U8 => bytes.iter().map(|&byte| i64::from(byte)).collect(),
            ElementType::U16 => words(&bytes)
                .map(|word| i64::from(u16::from_le_bytes(word)))
                .collect(),
            ElementType::U32 => words(&bytes)
                .map(|word| i64::from(u32::from_le_bytes(word)))
                .collect(),
            ElementType::U64 => {
                return words(&bytes)
                    .map(|word| i64::try_from(u64::from_le_bytes(word)).ok())
                    .collect();
            }
            _ => return None,
        })
    }

    /// All elements of an array of strings in C order, without their padding; `None` for other
    /// element types, for bytes or code points that are no text, and for more than a million empty
    /// strings.
    #[must_use]
    pub fn to_texts(&self) -> Option<Vec<String>> {
        let bytes = self.c_bytes();
        match self.element {
            // Strings without a byte: a shape may declare any number of them.
            ElementType::Bytes(0) | ElementType::Text(0) => {
                (self.len() <= MAX_EMPTY_TEXTS).then(|| vec![String::new(); self.len()])
            }
            ElementType::Bytes(len) => bytes
                .chunks_exact(len)
                .map(|item| {
                    let end = item
                        .iter()
                        .rposition(|&byte| byte != 0)
                        .map_or(0, |at| at + 1);
                    String::from_utf8(item[..end].to_vec()).ok()
                })
                .collect(),
            ElementType::Text(len) => bytes
                .chunks_exact(4 * len)
                .map(|item| {
                    let points: Vec<u32> = words(item).map(u32::from_le_bytes).collect();
                    let end = points
                        .iter()
                        .rposition(|&point| point != 0)
                        .map_or(0, |at| at + 1);
                    points[..end]
                        .iter()
                        .map(|&point| char::from_u32(point))
                        .collect()
                })
                .collect(),
            _ => None,
        }
    }
}

/// Empty strings that are given out at most.
const MAX_EMPTY_TEXTS: usize = 1_000_000;

/// Consecutive words of `N` bytes.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_refused() {
        let short = HostArray::new(ElementType::F32, vec![3, 4], StorageOrder::C, vec![0; 44]);
        assert_eq!(
            short.unwrap_err().to_string(),
            "shape [3, 4] of float32 needs 48 bytes, 44 are present"
        );
        let huge = HostArray::new(
            ElementType::F64,
            vec![usize::MAX / 2, 3],
            StorageOrder::C,
            vec![],
        );
        assert!(matches!(huge, Err(ArrayError::Overflow { .. })));
    }

    #[test]
    fn fortran_order_is_undone() {
        let bytes: Vec<u8> = [1i16, 4, 2, 5, 3, 6]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let array =
            HostArray::new(ElementType::I16, vec![2, 3], StorageOrder::Fortran, bytes).unwrap();
        assert_eq!(array.to_i64_vec().unwrap(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn big_endian_numbers_and_texts_are_swapped_word_by_word() {
        let bytes: Vec<u8> = "aé"
            .chars()
            .flat_map(|c| u32::from(c).to_be_bytes())
            .collect();
        let array =
            HostArray::from_big_endian(ElementType::Text(2), vec![], StorageOrder::C, bytes)
                .unwrap();
        assert_eq!(array.to_texts().unwrap(), ["aé"]);
    }

    #[test]
    fn numpy_names_go_both_ways() {
        for name in ["|b1", "<f2", "<f8", "|S3", "<U12", "<i8", "|u1", "<c16"] {
            assert_eq!(ElementType::from_numpy(name).unwrap().0.numpy(), name);
        }
        for name in ["|O", "<M8[ns]", "|V4", "<f16", "", "<", "f", "<i3"] {
            assert_eq!(ElementType::from_numpy(name), None, "{name}");
        }
    }
}
