//! The buffer of past batches that outer steps draw from.

use meltr_core::ConfigError;
use meltr_data::RandomStream;
use serde::{Deserialize, Serialize};

/// Which batch leaves a full buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eviction {
    /// The oldest, as with UniVL.
    #[default]
    Oldest,
    /// One of the first `capacity`, drawn with weights `0.1, 0.2, ..., 1.0` from old to new, as
    /// with VIOLET and All-in-one; the newest is never drawn.
    WeightedRandom,
}

/// Past training batches, as they were masked.
#[derive(Debug, Clone)]
pub struct History<B> {
    batches: Vec<B>,
    capacity: usize,
    eviction: Eviction,
}

impl<B: Clone> History<B> {
    /// An empty buffer for `capacity` batches.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Zero`] if the capacity is 0.
    pub fn new(capacity: usize, eviction: Eviction) -> Result<Self, ConfigError> {
        ConfigError::require_nonzero("history", capacity)?;
        Ok(Self {
            batches: Vec::with_capacity(capacity + 1),
            capacity,
            eviction,
        })
    }

    /// Appends a batch; if there are too many then, one leaves.
    pub fn push(&mut self, batch: B, stream: &mut RandomStream) {
        self.batches.push(batch);
        if self.batches.len() <= self.capacity {
            return;
        }
        let index = match self.eviction {
            Eviction::Oldest => 0,
            Eviction::WeightedRandom => weighted_index(self.capacity, stream),
        };
        self.batches.remove(index);
    }

    /// A batch drawn uniformly, or `current` if there is none.
    #[must_use]
    pub fn draw(&self, current: &B, stream: &mut RandomStream) -> B {
        if self.batches.is_empty() {
            current.clone()
        } else {
            self.batches[stream.below(self.batches.len())].clone()
        }
    }

    /// Forgets all batches, as at the start of an epoch in two of the released ports.
    pub fn clear(&mut self) {
        self.batches.clear();
    }

    /// The batches held, from old to new.
    #[must_use]
    pub fn batches(&self) -> &[B] {
        &self.batches
    }

    /// Holds `batches`, from old to new, and no others: what an earlier buffer held.
    pub fn refill(&mut self, batches: Vec<B>) {
        self.batches = batches;
    }

    /// Number of batches held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether no batch is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

/// An index below `n` with probability proportional to `index + 1`.
fn weighted_index(n: usize, stream: &mut RandomStream) -> usize {
    let total = n * (n + 1) / 2;
    let mut draw = stream.below(total);
    for index in 0..n {
        if draw <= index {
            return index;
        }
        draw -= index + 1;
    }
    n - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leaves_first() {
        let mut stream = RandomStream::new(1);
        let mut history = History::new(3, Eviction::Oldest).unwrap();
        (0..5).for_each(|batch| history.push(batch, &mut stream));
        assert_eq!(history.batches, vec![2, 3, 4]);
    }

    #[test]
    fn the_newest_is_never_drawn_out() {
        let mut stream = RandomStream::new(2);
        let mut history = History::new(4, Eviction::WeightedRandom).unwrap();
        for batch in 0..200 {
            history.push(batch, &mut stream);
            assert_eq!(history.batches.last(), Some(&batch));
            assert!(history.len() <= 4);
        }
    }

    #[test]
    fn weights_rise_with_recency() {
        let mut stream = RandomStream::new(3);
        let mut counts = [0usize; 4];
        (0..10_000).for_each(|_| counts[weighted_index(4, &mut stream)] += 1);
        for (index, count) in counts.into_iter().enumerate() {
            let expected = 10_000.0 * (index + 1) as f64 / 10.0;
            assert!((count as f64 - expected).abs() < 250.0, "{counts:?}");
        }
    }

    #[test]
    fn a_refilled_buffer_goes_on_like_the_one_before() {
        let mut stream = RandomStream::new(4);
        let mut first = History::new(3, Eviction::WeightedRandom).unwrap();
        (0..7).for_each(|batch| first.push(batch, &mut stream));
        let mut second = History::new(3, Eviction::WeightedRandom).unwrap();
        second.refill(first.batches().to_vec());
        let mut again = stream.clone();
        for batch in 7..20 {
            first.push(batch, &mut stream);
            second.push(batch, &mut again);
            assert_eq!(first.batches(), second.batches());
            assert_eq!(first.draw(&0, &mut stream), second.draw(&0, &mut again));
        }
    }

    #[test]
    fn an_empty_buffer_gives_the_current_batch() {
        let history = History::new(2, Eviction::Oldest).unwrap();
        assert_eq!(history.draw(&7, &mut RandomStream::new(0)), 7);
    }
}
