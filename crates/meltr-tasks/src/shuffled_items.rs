//! Items of some splits in shuffled batches.

use meltr_data::{BatchOrder, ConfigError};

/// Items of a set with the order in which batches take them.
#[derive(Debug, Clone)]
pub(crate) struct ShuffledItems {
    indices: Vec<usize>,
    order: BatchOrder,
}

impl ShuffledItems {
    /// The items `indices` in batches of `batch_size`; `seed` fixes the order.
    pub(crate) fn new(
        indices: Vec<usize>,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self, ConfigError> {
        let order = BatchOrder::new(indices.len(), batch_size, seed)?;
        Ok(Self { indices, order })
    }

    /// The same order of no items, of which no batch can be had.
    pub(crate) fn without_items(&self) -> Self {
        Self {
            indices: Vec::new(),
            order: self.order,
        }
    }

    /// All of them, in the order of the set.
    pub(crate) fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// Number of complete batches in a pass over the items.
    pub(crate) fn batches_per_epoch(&self) -> usize {
        self.order.batches_per_epoch()
    }

    /// The items of a batch, counted from 0.
    pub(crate) fn batch(&self, iteration: usize) -> Vec<usize> {
        let (_, positions) = self.order.batch(iteration);
        positions
            .into_iter()
            .map(|position| self.indices[position])
            .collect()
    }
}
