//! What the allowed callables make: numpy's arrays, scalars and types, and some of Python's types.

use crate::host_array::{ElementType, HostArray, StorageOrder};

use super::arena::{Arena, Dtype, DtypeKind, Node, Objects, Pending};
use super::globals::Callable;
use super::value::ItemId;

/// Axes that numpy allows.
const MAX_AXES: usize = 64;

/// Arguments that any of the callables takes.
const MAX_ARGUMENTS: usize = 8;

/// Entries that the state of an array or a type has at most.
const MAX_STATE: usize = 16;

/// Characters of the name of a type that a message shows.
const MAX_SHOWN: usize = 40;

impl Arena {
    /// The value that a callable makes of a tuple of arguments.
    pub(super) fn call(&mut self, callable: Callable, arguments: ItemId) -> Result<ItemId, String> {
        let given = self.members(arguments);
        let wrong = || format!("calls {} with other arguments than known", callable.name());
        if given.len() > MAX_ARGUMENTS {
            return Err(wrong());
        }
        // A copy, so that nodes can be added.
        let given: Vec<ItemId> = given.to_vec();
        match (callable, &given[..]) {
            (Callable::Reconstruct, &[class, _shape, _type]) => match self.node(class) {
                Node::Callable(Callable::NdArray) => self.push(Node::Unbuilt),
                other => Err(format!(
                    "makes an array of class {}, only numpy.ndarray is read",
                    other.kind()
                )),
            },
            (Callable::Dtype, &[name, ..]) => {
                let Some(name) = self.text(name) else {
                    return Err(wrong());
                };
                let dtype = new_dtype(name);
                self.push(Node::Dtype(Box::new(dtype)))
            }
            (Callable::Scalar, &[dtype, data]) => self.scalar(dtype, data),
            (Callable::FromBuffer, &[data, dtype, shape, order]) => {
                self.array_of_buffer(data, dtype, shape, order, None)
            }
            (Callable::FromBuffer, &[data, dtype, shape, order, axes]) => {
                self.array_of_buffer(data, dtype, shape, order, Some(axes))
            }
            (Callable::Encode | Callable::Bytes | Callable::ByteArray, &[text, encoding]) => {
                let encoding = self.text(encoding).unwrap_or_default();
                if !matches!(encoding, "latin1" | "latin-1" | "iso-8859-1" | "latin_1") {
                    return Err(wrong());
                }
                self.encode_latin1(text)
            }
            (Callable::Bytes | Callable::ByteArray, &[]) => self.push(Node::Bytes(Vec::new())),
            (Callable::Bytes | Callable::ByteArray, &[data]) if self.bytes(data).is_some() => {
                Ok(data)
            }
            (Callable::OrderedDict, &[]) => self.push(Node::Dict(Vec::new())),
            (Callable::OrderedDict, &[pairs]) => self.dict_of(pairs),
            (Callable::Set | Callable::FrozenSet, &[]) => self.push(Node::Set(Vec::new())),
            (Callable::Set | Callable::FrozenSet, &[source]) => {
                if !matches!(
                    self.node(source),
                    Node::List(_) | Node::Tuple(_) | Node::Set(_)
                ) {
                    return Err(wrong());
                }
                let members = self.members(source).to_vec();
                self.charge(members.len().saturating_mul(size_of::<ItemId>()))?;
                self.push(Node::Set(members))
            }
            (Callable::Complex, &[real, imaginary]) => {
                let parts = (self.float(real), self.float(imaginary));
                let (Some(real), Some(imaginary)) = parts else {
                    return Err(wrong());
                };
                let mut bytes = real.to_le_bytes().to_vec();
                bytes.extend_from_slice(&imaginary.to_le_bytes());
                let element = ElementType::Complex128;
                let number = HostArray::new(element, Vec::new(), StorageOrder::C, bytes)
                    .map_err(|error| error.to_string())?;
                self.push(Node::Scalar(Box::new(number)))
            }
            _ => Err(wrong()),
        }
    }

    /// Sets the byte order of a type from its state:
    /// `(version, order, subtype, names, fields, size, alignment, flags[, metadata])`.
    pub(super) fn build_dtype(&mut self, target: ItemId, state: ItemId) -> Result<(), String> {
        let Some((order, subtype, names, size)) = self.dtype_state(state) else {
            return Err("gives a numpy.dtype a state that is not known".to_owned());
        };
        if !matches!(self.node(names), Node::None) {
            return Err(format!(
                "makes a structured dtype with fields {}; save one array per field instead",
                self.field_names(names)
            ));
        }
        if !matches!(self.node(subtype), Node::None) {
            return Err("makes a dtype whose elements are arrays, which is not read".to_owned());
        }
        let is_big_endian = match self.text(order) {
            Some("<" | "|" | "=") => false,
            Some(">") => true,
            _ => return Err("gives a numpy.dtype a byte order that is not known".to_owned()),
        };
        let size = self.int(size).unwrap_or(-1);
        let Node::Dtype(dtype) = self.node_mut(target) else {
            return Err("gives the state of a dtype to something else".to_owned());
        };
        if let DtypeKind::Element(element) = dtype.kind
            && size >= 0
            && u64::try_from(size).ok() != Some(element.size() as u64)
        {
            return Err(format!(
                "makes a dtype `{}` of {size} bytes, which should have {}",
                dtype.name,
                element.size()
            ));
        }
        dtype.is_big_endian = is_big_endian;
        Ok(())
    }

    /// Fills an array from its state: `(version, shape, dtype, is_fortran, data)`.
    pub(super) fn build_array(&mut self, target: ItemId, state: ItemId) -> Result<(), String> {
        let (shape, dtype, is_fortran, data) = match *self.members(state) {
            [_version, shape, dtype, is_fortran, data] => (shape, dtype, is_fortran, data),
            // Before numpy 1.0 there was no version.
            [shape, dtype, is_fortran, data] => (shape, dtype, is_fortran, data),
            _ => return Err("gives an array a state that is not known".to_owned()),
        };
        let order = match self.int(is_fortran) {
            Some(0) => StorageOrder::C,
            Some(1) => StorageOrder::Fortran,
            _ => return Err("gives an array a storage order that is not known".to_owned()),
        };
        let shape = self.shape(shape)?;
        let node = match self.dtype_kind(dtype)? {
            (DtypeKind::Element(element), is_big_endian) => {
                self.check_data(element, &shape, data)?;
                Node::Pending(Box::new(Pending {
                    element,
                    is_big_endian,
                    shape,
                    order,
                    axes: None,
                    data,
                }))
            }
            (DtypeKind::Object, _) => {
                let Node::List(members) = self.node(data) else {
                    let kind = self.node(data).kind();
                    return Err(format!(
                        "needs a list of objects for an array, not a {kind}"
                    ));
                };
                let present = members.len();
                if count(&shape) != Some(present as u64) {
                    return Err(format!(
                        "shape {shape:?} of objects does not fit to {present} objects"
                    ));
                }
                Node::Objects(Box::new(Objects { shape, list: data }))
            }
            (DtypeKind::Other, _) => return Err(self.unread_dtype(dtype)),
        };
        match self.node(target) {
            Node::Unbuilt => {
                *self.node_mut(target) = node;
                Ok(())
            }
            _ => Err("fills an array twice".to_owned()),
        }
    }

    fn scalar(&mut self, dtype: ItemId, data: ItemId) -> Result<ItemId, String> {
        let (element, is_big_endian) = match self.dtype_kind(dtype)? {
            (DtypeKind::Element(element), is_big_endian) => (element, is_big_endian),
            _ => return Err(self.unread_dtype(dtype)),
        };
        self.check_data(element, &[], data)?;
        let bytes = self.bytes(data).unwrap_or_default().to_vec();
        self.charge(bytes.len())?;
        let array = host_array(element, is_big_endian, Vec::new(), StorageOrder::C, bytes)?;
        self.push(Node::Scalar(Box::new(array)))
    }

    fn array_of_buffer(
        &mut self,
        data: ItemId,
        dtype: ItemId,
        shape: ItemId,
        order: ItemId,
        axes: Option<ItemId>,
    ) -> Result<ItemId, String> {
        let (element, is_big_endian) = match self.dtype_kind(dtype)? {
            (DtypeKind::Element(element), is_big_endian) => (element, is_big_endian),
            _ => return Err(self.unread_dtype(dtype)),
        };
        let axes = axes.filter(|&axes| !matches!(self.node(axes), Node::None));
        let mut shape = self.shape(shape)?;
        self.check_data(element, &shape, data)?;
        let (mut order, axes) = match (self.text(order), axes) {
            (Some("C"), _) | (Some("A" | "K"), None) => (StorageOrder::C, None),
            (Some("F"), _) => (StorageOrder::Fortran, None),
            (Some("K"), Some(axes)) => (StorageOrder::C, Some(self.axes(axes, shape.len())?)),
            _ => return Err("gives an array a storage order that is not known".to_owned()),
        };
        // Most transposed arrays are those that Fortran's order describes.
        let axes = axes.filter(|axes| !axes.iter().copied().eq(0..shape.len()));
        let is_reversed = match &axes {
            Some(axes) => axes.iter().copied().eq((0..shape.len()).rev()),
            None => false,
        };
        let axes = if is_reversed {
            shape.reverse();
            order = StorageOrder::Fortran;
            None
        } else {
            axes
        };
        self.push(Node::Pending(Box::new(Pending {
            element,
            is_big_endian,
            shape,
            order,
            axes,
            data,
        })))
    }

    /// Each axis once, in another order.
    fn axes(&self, id: ItemId, count: usize) -> Result<Vec<usize>, String> {
        let members = self.members(id);
        let mut axes: Vec<usize> = Vec::with_capacity(count);
        if members.len() == count {
            for &member in members {
                let axis = self.int(member).and_then(|axis| usize::try_from(axis).ok());
                if let Some(axis) = axis
                    && axis < count
                    && !axes.contains(&axis)
                {
                    axes.push(axis);
                }
            }
        }
        if axes.len() == count {
            Ok(axes)
        } else {
            Err("transposes an array by axes that it does not have".to_owned())
        }
    }

    /// A tuple of lengths.
    fn shape(&self, id: ItemId) -> Result<Vec<usize>, String> {
        let members = self.members(id);
        if !matches!(self.node(id), Node::Tuple(_)) || members.len() > MAX_AXES {
            return Err(format!(
                "needs a tuple of at most {MAX_AXES} numbers as the shape of an array"
            ));
        }
        let mut lens: Vec<i64> = Vec::with_capacity(members.len());
        for &member in members {
            match self.int(member) {
                Some(len) => lens.push(len),
                None => {
                    return Err(format!(
                        "needs integers in the shape of an array, not a {} or beyond 64 bits",
                        self.node(member).kind()
                    ));
                }
            }
        }
        let shape: Option<Vec<usize>> = lens.iter().map(|&len| usize::try_from(len).ok()).collect();
        shape.ok_or_else(|| format!("shape {lens:?} of an array is not possible"))
    }

    /// Whether the bytes fit to a shape, before anything is allocated.
    fn check_data(
        &self,
        element: ElementType,
        shape: &[usize],
        data: ItemId,
    ) -> Result<(), String> {
        let Some(bytes) = self.bytes(data) else {
            return Err(format!(
                "needs bytes for an array of {element}, not a {}",
                self.node(data).kind()
            ));
        };
        let present = bytes.len();
        let needed = match (count(shape), HostArray::byte_len(element, shape)) {
            // Strings of no length take no bytes however many there are.
            (Some(count), Some(needed)) if element.size() > 0 || count <= self.pickle_len() => {
                needed
            }
            _ => {
                return Err(format!(
                    "shape {shape:?} of {element} is larger than any memory"
                ));
            }
        };
        if needed != present {
            return Err(format!(
                "shape {shape:?} of {element} needs {needed} bytes, {present} are present"
            ));
        }
        Ok(())
    }

    fn dtype_kind(&self, id: ItemId) -> Result<(DtypeKind, bool), String> {
        match self.node(id) {
            Node::Dtype(dtype) => Ok((dtype.kind, dtype.is_big_endian)),
            other => Err(format!("needs a numpy.dtype, not a {}", other.kind())),
        }
    }

    fn unread_dtype(&self, id: ItemId) -> String {
        let name = match self.node(id) {
            Node::Dtype(dtype) => dtype.name.as_str(),
            _ => "",
        };
        format!("dtype `{name}` is not read here; numbers, truth values and texts are")
    }

    /// Order, subtype, names and size of a type.
    fn dtype_state(&self, id: ItemId) -> Option<(ItemId, ItemId, ItemId, ItemId)> {
        match *self.members(id) {
            [
                _version,
                order,
                subtype,
                names,
                _fields,
                size,
                _alignment,
                ..,
            ] if self.members(id).len() <= MAX_STATE => Some((order, subtype, names, size)),
            _ => None,
        }
    }

    fn field_names(&self, id: ItemId) -> String {
        let mut names: Vec<String> = Vec::new();
        for &member in self.members(id).iter().take(MAX_ARGUMENTS) {
            names.push(shown(self.text(member).unwrap_or("?")));
        }
        names.join(", ")
    }

    fn float(&self, id: ItemId) -> Option<f64> {
        match self.node(id) {
            Node::Float(value) => Some(*value),
            Node::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// A dict of a list of pairs, as Python 2 writes an `OrderedDict`.
    fn dict_of(&mut self, id: ItemId) -> Result<ItemId, String> {
        let mut entries: Vec<(ItemId, ItemId)> = Vec::new();
        if let Node::Dict(pairs) = self.node(id) {
            entries.clone_from(pairs);
        } else if let Node::List(members) = self.node(id) {
            for &member in members {
                match *self.members(member) {
                    [key, value] => entries.push((key, value)),
                    _ => return Err("makes a dict of something else than pairs".to_owned()),
                }
            }
        } else {
            return Err("makes a dict of something else than pairs".to_owned());
        }
        self.charge(entries.len().saturating_mul(size_of::<(ItemId, ItemId)>()))?;
        self.push(Node::Dict(entries))
    }
}

/// The array of an element type and bytes in its byte order.
pub(super) fn host_array(
    element: ElementType,
    is_big_endian: bool,
    shape: Vec<usize>,
    order: StorageOrder,
    bytes: Vec<u8>,
) -> Result<HostArray, String> {
    let array = if is_big_endian {
        HostArray::from_big_endian(element, shape, order, bytes)
    } else {
        HostArray::new(element, shape, order, bytes)
    };
    array.map_err(|error| error.to_string())
}

/// The shape and the bytes of an array in C order after its axes have changed places.
pub(super) fn transposed(
    size: usize,
    shape: &[usize],
    axes: &[usize],
    bytes: &[u8],
) -> (Vec<usize>, Vec<u8>) {
    let mut strides = vec![0_usize; shape.len()];
    let mut stride = size;
    for axis in (0..shape.len()).rev() {
        strides[axis] = stride;
        stride = stride.saturating_mul(shape[axis]);
    }
    let new_shape: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
    let steps: Vec<usize> = axes.iter().map(|&axis| strides[axis]).collect();
    let mut place = vec![0_usize; new_shape.len()];
    let mut moved = Vec::with_capacity(bytes.len());
    while moved.len() < bytes.len() {
        let start: usize = place.iter().zip(&steps).map(|(at, step)| at * step).sum();
        moved.extend_from_slice(&bytes[start..start + size]);
        for axis in (0..place.len()).rev() {
            place[axis] += 1;
            if place[axis] < new_shape[axis] {
                break;
            }
            place[axis] = 0;
        }
    }
    (new_shape, moved)
}

fn new_dtype(name: &str) -> Dtype {
    let letters = name.strip_prefix(['|', '<', '>', '=']).unwrap_or(name);
    let is_object = match letters.strip_prefix('O') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => false,
    };
    let (kind, is_big_endian) = match ElementType::from_numpy(name) {
        Some((element, is_big_endian)) => (DtypeKind::Element(element), is_big_endian),
        None if is_object => (DtypeKind::Object, false),
        None => (DtypeKind::Other, false),
    };
    Dtype {
        name: shown(name),
        kind,
        is_big_endian,
    }
}

/// Number of elements, with axes of length 0 counted as 1 for the check of overflow; `None` beyond
/// the numbers of this machine.
fn count(shape: &[usize]) -> Option<u64> {
    let bound = shape
        .iter()
        .try_fold(1_usize, |product, &len| product.checked_mul(len.max(1)))?;
    let is_empty = shape.contains(&0);
    Some(if is_empty { 0 } else { bound as u64 })
}

fn shown(text: &str) -> String {
    text.chars()
        .take(MAX_SHOWN)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_change_places_like_in_numpy() {
        // numpy.arange(6).reshape(1, 2, 3).transpose(2, 0, 1)
        let bytes: Vec<u8> = (0..6).collect();
        let (shape, moved) = transposed(1, &[1, 2, 3], &[2, 0, 1], &bytes);
        assert_eq!(shape, [3, 1, 2]);
        assert_eq!(moved, [0, 3, 1, 4, 2, 5]);
        let words: Vec<u8> = (0..12).collect();
        let (_, moved) = transposed(2, &[1, 2, 3], &[2, 0, 1], &words);
        assert_eq!(moved, [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        assert_eq!(transposed(4, &[0, 2], &[1, 0], &[]), (vec![2, 0], vec![]));
        assert_eq!(transposed(1, &[], &[], &[7]), (vec![], vec![7]));
    }

    #[test]
    fn element_counts_notice_overflow_behind_a_zero() {
        assert_eq!(count(&[]), Some(1));
        assert_eq!(count(&[3, 4]), Some(12));
        assert_eq!(count(&[0, 4]), Some(0));
        assert_eq!(count(&[0, usize::MAX, 2]), None);
    }
}
