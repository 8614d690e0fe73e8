//! Which items are in which batch, as a pure function of the iteration.

use crate::error::ConfigError;
use crate::seed::{RandomStream, seed_for};

/// A seeded order of batches: each epoch is a new shuffle, and an incomplete last batch is dropped.
///
/// A run that resumes at an iteration sees the batches it would have seen without the break.
///
/// ```
/// use meltr_data::BatchOrder;
///
/// # fn main() -> Result<(), meltr_data::ConfigError> {
/// let order = BatchOrder::new(10, 4, 1)?;
/// assert_eq!(order.batches_per_epoch(), 2);
/// let (epoch, items) = order.batch(5);
/// assert_eq!((epoch, items.len()), (2, 4));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOrder {
    n_items: usize,
    batch_size: usize,
    seed: u64,
}

impl BatchOrder {
    /// The order of `n_items` items in batches of `batch_size`.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::OutOfRange`] if `batch_size` is 0 or above `n_items`.
    pub fn new(n_items: usize, batch_size: usize, seed: u64) -> Result<Self, ConfigError> {
        if batch_size == 0 || batch_size > n_items {
            return Err(ConfigError::OutOfRange {
                field: "batch_size",
                value: batch_size.to_string(),
                expected: format!("in [1, {n_items}], the number of items"),
            });
        }
        Ok(Self {
            n_items,
            batch_size,
            seed,
        })
    }

    /// Number of complete batches in an epoch, at least 1.
    #[must_use]
    pub fn batches_per_epoch(&self) -> usize {
        self.n_items / self.batch_size
    }

    /// The epoch and the item positions in `[0, n_items)` of an iteration, counted from 0.
    ///
    /// Within an epoch no item occurs twice. Costs one shuffle of all positions a call.
    #[must_use]
    pub fn batch(&self, iteration: usize) -> (usize, Vec<usize>) {
        let epoch = iteration / self.batches_per_epoch();
        let start = iteration % self.batches_per_epoch() * self.batch_size;
        let mut items: Vec<usize> = (0..self.n_items).collect();
        RandomStream::new(seed_for(self.seed, &[epoch as u64])).shuffle(&mut items);
        (epoch, items[start..start + self.batch_size].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_batch_size_of_zero_or_above_the_set_is_an_error() {
        for batch_size in [0, 4] {
            let error = BatchOrder::new(3, batch_size, 0).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "`batch_size` is {batch_size}; choose a value in [1, 3], the number of items"
                )
            );
        }
        assert!(BatchOrder::new(0, 0, 0).is_err());
    }

    #[test]
    fn epochs_and_seeds_are_shuffled_differently() {
        let order = BatchOrder::new(50, 50, 1).unwrap();
        assert_ne!(order.batch(0).1, order.batch(1).1);
        assert_ne!(
            order.batch(0).1,
            BatchOrder::new(50, 50, 2).unwrap().batch(0).1
        );
        assert_eq!(order.batch(3), order.batch(3));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_epoch_has_no_item_twice_and_drops_less_than_a_batch(
            n_items in 1_usize..40, size in 1_usize..40, seed in any::<u64>(), epoch in 0_usize..3,
        ) {
            let size = size.min(n_items);
            let order = BatchOrder::new(n_items, size, seed).unwrap();
            let per_epoch = order.batches_per_epoch();
            let mut seen = HashSet::new();
            for iteration in epoch * per_epoch..(epoch + 1) * per_epoch {
                let (of_epoch, items) = order.batch(iteration);
                prop_assert_eq!(of_epoch, epoch);
                prop_assert_eq!(items.len(), size);
                for item in items {
                    prop_assert!(item < n_items && seen.insert(item));
                }
            }
            prop_assert!(n_items - seen.len() < size);
        }
    }
}
