//! Seeds for independent streams of random numbers, and the streams themselves.

use std::f64::consts::TAU;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Increment of SplitMix64: 2⁶⁴ divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The seed of the stream that `parts` name within the family `seed`.
///
/// Different parts (an epoch, an item, a purpose) give seeds that are unrelated for every
/// practical purpose, so that a random choice can be repeated without repeating those before it.
/// A pure function, the same on every machine; for one `seed` and one length of `parts` no two
/// values of the last part collide.
///
/// ```
/// use meltr_data::seed_for;
///
/// assert_eq!(seed_for(7, &[1, 2]), seed_for(7, &[1, 2]));
/// assert_ne!(seed_for(7, &[1, 2]), seed_for(7, &[2, 1]));
/// ```
///
/// # References
///
/// - The mixer is the output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#[must_use]
pub fn seed_for(seed: u64, parts: &[u64]) -> u64 {
    parts
        .iter()
        .fold(mix(seed.wrapping_add(GOLDEN)), |state, &part| {
            mix((state ^ part).wrapping_add(GOLDEN))
        })
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// A stream of random numbers that is fixed by its seed on every machine and for ever.
///
/// ChaCha with 8 rounds gives the bits; the distributions are written out here, so that no update
/// of a library changes what a seed means.
///
/// ```
/// use meltr_data::RandomStream;
///
/// let mut stream = RandomStream::new(1);
/// assert!(stream.below(6) < 6);
/// ```
#[derive(Clone, Debug)]
pub struct RandomStream(ChaCha8Rng);

impl RandomStream {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number uniform in `[0, 1)`, a multiple of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.bits() >> 11) as f64 * STEP
    }

    /// An integer uniform in `[0, bound)`, up to a bias of `bound` · 2⁻⁶⁴; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// A number of the standard normal distribution (Box and Muller's transform).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (TAU * self.unit()).cos()
    }

    /// Puts the values into a uniformly random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            let other = self.below(last + 1);
            values.swap(last, other);
        }
    }

    /// `count` distinct integers of `[0, bound)`, uniformly chosen, in increasing order.
    ///
    /// All of them if `count` is at least `bound`.
    pub fn subset(&mut self, bound: usize, count: usize) -> Vec<usize> {
        let mut chosen: Vec<usize> = (0..bound).collect();
        self.shuffle(&mut chosen);
        chosen.truncate(count);
        chosen.sort_unstable();
        chosen
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_mixer_is_that_of_splitmix64() {
        // First output of SplitMix64 with state 0 (reference C code by Vigna).
        assert_eq!(seed_for(0, &[]), 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn parts_and_their_number_matter() {
        let seeds: HashSet<u64> = [
            seed_for(1, &[]),
            seed_for(1, &[0]),
            seed_for(1, &[0, 0]),
            seed_for(2, &[]),
        ]
        .into_iter()
        .collect();
        assert_eq!(seeds.len(), 4);
    }

    #[test]
    fn many_items_have_distinct_seeds() {
        let seeds: HashSet<u64> = (0..10_000).map(|item| seed_for(3, &[item])).collect();
        assert_eq!(seeds.len(), 10_000);
    }

    #[test]
    fn uniform_numbers_have_the_mean_and_variance_of_their_law() {
        let mut stream = RandomStream::new(5);
        let draws: Vec<f64> = (0..20_000).map(|_| stream.unit()).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        // Five standard errors of the mean: 5 / sqrt(12 * 20000) = 0.0102.
        assert!((mean - 0.5).abs() < 0.0102, "{mean}");
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
    }

    #[test]
    fn normal_numbers_have_the_mean_and_variance_of_their_law() {
        let mut stream = RandomStream::new(5);
        let draws: Vec<f64> = (0..20_000).map(|_| stream.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let variance = draws.iter().map(|draw| draw * draw).sum::<f64>() / 20_000.0;
        // Five standard errors: 5 / sqrt(20000) = 0.036 and 5 * sqrt(2 / 20000) = 0.05.
        assert!(mean.abs() < 0.036, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
        assert!(draws.iter().all(|draw| draw.is_finite()));
    }

    #[test]
    fn an_empty_range_gives_zero() {
        assert_eq!(RandomStream::new(1).below(0), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_subset_is_sorted_distinct_and_of_the_asked_size(
            seed in any::<u64>(), bound in 0_usize..20, count in 0_usize..25,
        ) {
            let chosen = RandomStream::new(seed).subset(bound, count);
            prop_assert_eq!(chosen.len(), count.min(bound));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(chosen.iter().all(|&value| value < bound));
        }

        #[test]
        fn a_shuffle_keeps_the_values(seed in any::<u64>(), len in 0_usize..30) {
            let mut values: Vec<usize> = (0..len).collect();
            RandomStream::new(seed).shuffle(&mut values);
            values.sort_unstable();
            prop_assert_eq!(values, (0..len).collect::<Vec<_>>());
        }
    }
}
