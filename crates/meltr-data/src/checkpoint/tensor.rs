//! One tensor of a checkpoint: a strided view of a storage.

use crate::host_array::{ElementType, HostArray};

/// Axes that a tensor may have at most.
pub(super) const MAX_AXES: usize = 64;

/// Values that a view may show although its storage has fewer, by strides of 0.
///
/// PyTorch saves small expanded tensors so; beyond this a few bytes could ask for any memory.
const MAX_EXPANDED: usize = 1 << 20;

/// The element type, the shape and the place of a tensor, without its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointTensor {
    element: ElementType,
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    /// Values of the storage from the first to the last one of the view, 0 for an empty tensor.
    span: usize,
    storage: usize,
}

impl CheckpointTensor {
    /// A view of `available` values, checked to lie inside them.
    pub(super) fn new(
        element: ElementType,
        shape: Vec<usize>,
        strides: Vec<usize>,
        offset: usize,
        available: usize,
        storage: usize,
    ) -> Result<Self, String> {
        let view = format!("offset {offset}, size {shape:?} and stride {strides:?}");
        if shape.len() != strides.len() {
            return Err(format!("{view} have different numbers of axes"));
        }
        // Axes of length 0 are left out, so that no later product can overflow.
        let sized = shape
            .iter()
            .try_fold(1_usize, |product, &len| product.checked_mul(len.max(1)));
        if sized.is_none() || HostArray::byte_len(element, &shape).is_none() {
            return Err(format!("{view} is larger than any memory"));
        }
        let count: usize = shape.iter().product();
        if count > available && count > MAX_EXPANDED {
            return Err(format!(
                "size {shape:?} expands {available} values of the storage to {count}; save a copy \
                 of the tensor instead of an expanded view"
            ));
        }
        let span = if count == 0 {
            0
        } else {
            shape
                .iter()
                .zip(&strides)
                .try_fold(1_usize, |span, (&len, &stride)| {
                    span.checked_add((len - 1).checked_mul(stride)?)
                })
                .ok_or_else(|| format!("{view} is larger than any memory"))?
        };
        // The stride of an axis of length 1 is never taken, and PyTorch leaves any number there.
        let taken = shape
            .iter()
            .zip(&strides)
            .map(|(&len, &stride)| if len == 1 { 0 } else { stride })
            .collect();
        match offset.checked_add(span) {
            Some(end) if end <= available => Ok(Self {
                element,
                shape,
                strides: taken,
                offset,
                span,
                storage,
            }),
            _ => Err(format!(
                "{view} reach beyond the {available} values of the storage"
            )),
        }
    }

    /// The type of each value.
    #[must_use]
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// The lengths of the axes; empty for a single value.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position of the storage in the list of storages.
    pub(super) fn storage(&self) -> usize {
        self.storage
    }

    /// The same view of the same storage at another position of the list.
    pub(super) fn with_storage(self, storage: usize) -> Self {
        Self { storage, ..self }
    }

    /// The first byte of the storage that the view shows.
    pub(super) fn start(&self) -> u64 {
        (self.offset as u64).saturating_mul(self.element.size() as u64)
    }

    /// Bytes from [`start`](Self::start) to the end of the last value that the view shows.
    pub(super) fn span_bytes(&self) -> usize {
        self.span.saturating_mul(self.element.size())
    }

    /// The bytes of the values in C order, out of the bytes of the span.
    pub(super) fn gather(&self, span: Vec<u8>) -> Vec<u8> {
        if self.is_contiguous() {
            return span;
        }
        let size = self.element.size();
        let count = self.len();
        let mut bytes = Vec::with_capacity(count.saturating_mul(size));
        let mut place = vec![0_usize; self.shape.len()];
        let mut at: usize = 0;
        for _ in 0..count {
            let start = at * size;
            bytes.extend_from_slice(&span[start..start + size]);
            for axis in (0..place.len()).rev() {
                place[axis] += 1;
                at += self.strides[axis];
                if place[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis];
                place[axis] = 0;
            }
        }
        bytes
    }

    /// Whether the values follow each other in C order.
    fn is_contiguous(&self) -> bool {
        if self.is_empty() {
            return true;
        }
        let mut expected: usize = 1;
        for (&len, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if len != 1 && stride != expected {
                return false;
            }
            expected = expected.saturating_mul(len);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(shape: &[usize], strides: &[usize], offset: usize) -> Result<CheckpointTensor, String> {
        CheckpointTensor::new(
            ElementType::U8,
            shape.to_vec(),
            strides.to_vec(),
            offset,
            6,
            0,
        )
    }

    fn values(shape: &[usize], strides: &[usize], offset: usize) -> Vec<u8> {
        let tensor = view(shape, strides, offset).unwrap();
        let storage: Vec<u8> = (0..6).collect();
        let start = usize::try_from(tensor.start()).unwrap();
        tensor.gather(storage[start..start + tensor.span_bytes()].to_vec())
    }

    #[test]
    fn views_are_gathered_in_c_order() {
        assert_eq!(values(&[2, 3], &[3, 1], 0), [0, 1, 2, 3, 4, 5]);
        assert_eq!(values(&[3, 2], &[1, 3], 0), [0, 3, 1, 4, 2, 5]);
        assert_eq!(values(&[2, 2], &[3, 1], 1), [1, 2, 4, 5]);
        assert_eq!(values(&[3], &[2], 1), [1, 3, 5]);
        assert_eq!(values(&[2, 3], &[1, 0], 4), [4, 4, 4, 5, 5, 5]);
        assert_eq!(values(&[], &[], 5), [5]);
        assert_eq!(values(&[1, 2], &[77, 1], 4), [4, 5]);
        assert_eq!(values(&[2, 1, 2], &[3, usize::MAX, 2], 0), [0, 2, 3, 5]);
        assert_eq!(values(&[0, 5], &[5, 1], 0), [0_u8; 0]);
    }

    #[test]
    fn views_that_leave_the_storage_are_refused() {
        let error = view(&[2, 3], &[5, 1], 0).unwrap_err();
        assert_eq!(
            error,
            "offset 0, size [2, 3] and stride [5, 1] reach beyond the 6 values of the storage"
        );
        assert!(view(&[2, 3], &[3, 1], 1).is_err());
        assert!(view(&[0], &[1], 7).is_err());
        assert!(view(&[2], &[1, 1], 0).is_err());
        assert!(view(&[2, 2], &[usize::MAX, 1], 0).is_err());
        assert!(view(&[usize::MAX, 2], &[0, 0], 0).is_err());
        assert!(view(&[usize::MAX, 2, 0], &[0, 0, 0], 0).is_err());
    }

    #[test]
    fn only_small_views_may_be_expanded() {
        assert!(view(&[1 << 20], &[0], 0).is_ok());
        let error = view(&[1 << 20, 1 << 20], &[0, 0], 0).unwrap_err();
        assert!(
            error.contains("size [1048576, 1048576] expands 6 values"),
            "{error}"
        );
    }
}
