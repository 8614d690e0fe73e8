//! Items of some splits in shuffled batches.

use std::collections::HashSet;

use meltr_core::ConfigError;
use meltr_data::{BatchOrder, DataError, seed_for};

use crate::error::TaskError;

/// Items of a set with the order in which batches take them.
#[derive(Debug, Clone)]
pub(crate) struct ShuffledItems {
    indices: Vec<usize>,
    batch_size: usize,
    /// Of the order.
    seed: u64,
    order: BatchOrder,
}

impl ShuffledItems {
    /// The items `indices` in batches of `batch_size`; `seed` fixes the order.
    pub(crate) fn new(
        indices: Vec<usize>,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self, TaskError> {
        let order = BatchOrder::new(indices.len(), batch_size, seed)?;
        Ok(Self {
            indices,
            batch_size,
            seed,
            order,
        })
    }

    /// The items of `splits`, which `items_of` finds, in batches of the same size: those that outer
    /// steps take. `None` without a split; refused if one of them is among these items.
    pub(crate) fn held_out(
        &self,
        splits: &[String],
        items_of: impl Fn(&[String]) -> Result<Vec<usize>, DataError>,
    ) -> Result<Option<Self>, TaskError> {
        if splits.is_empty() {
            return Ok(None);
        }
        let items = items_of(splits)?;
        let trained: HashSet<usize> = self.indices.iter().copied().collect();
        if items.iter().any(|item| trained.contains(item)) {
            return Err(TaskError::Config(ConfigError::Unsupported {
                key: "task.outer_splits",
                value: "a split with items that are trained on",
                reason: "outer steps take held-out batches from there; name splits that share no \
                         item with `task.train_splits`",
            }));
        }
        Self::new(items, self.batch_size, self.seed).map(Some)
    }

    /// The same order of no items, of which no batch can be had.
    pub(crate) fn without_items(&self) -> Self {
        Self {
            indices: Vec::new(),
            ..*self
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

    /// The items of a batch, counted from 0, and the seed of its random choices.
    pub(crate) fn batch(&self, number: usize, seed: u64) -> (Vec<usize>, u64) {
        let (_, positions) = self.order.batch(number);
        let items = positions
            .into_iter()
            .map(|position| self.indices[position])
            .collect();
        (items, seed_for(seed, &[number as u64]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train() -> ShuffledItems {
        ShuffledItems::new((0..10).collect(), 4, 3).unwrap()
    }

    fn named(name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }

    #[test]
    fn batches_are_a_function_of_their_number_and_hold_each_item_once_an_epoch() {
        let train = train();
        assert_eq!(train.batches_per_epoch(), 2);
        let (mut items, seed) = train.batch(0, 7);
        assert_eq!((items.clone(), seed), train.batch(0, 7));
        let (more, other) = train.batch(1, 7);
        assert_ne!(seed, other);
        items.extend(more);
        assert_eq!(items.iter().collect::<HashSet<_>>().len(), 8);
    }

    #[test]
    fn held_out_items_are_those_of_the_splits_and_none_is_trained_on() {
        let train = train();
        let found = train.held_out(&[], |_| unreachable!());
        assert!(found.unwrap().is_none());
        let held_out = train
            .held_out(&named("valid"), |_| Ok((10..16).collect()))
            .unwrap()
            .unwrap();
        assert_eq!(held_out.indices(), (10..16).collect::<Vec<_>>());
        assert_eq!(held_out.batches_per_epoch(), 1);
        let error = train
            .held_out(&named("train"), |_| Ok(vec![9, 10, 11, 12]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("`task.outer_splits`"), "{error}");
        assert!(error.contains("`task.train_splits`"), "{error}");
    }
}
