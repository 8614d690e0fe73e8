//! Random loss weighting: new random weights at every step.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use super::checks::{finite, require_losses};
use super::error::WeightingError;
use super::gramian::Gramian;
use super::loss_weighting::{LossWeighting, Needs};
use super::softmax::softmax;

/// Weights `softmax(x)` with `x_t` standard normal, drawn anew at every step; they add up to 1.
///
/// The litmus test of the others: a rule that adapts its weights should beat one that does not
/// look at anything.
///
/// Each step has a random stream of its own, made from the seed and the number of the step, so
/// that a resumed run draws what an uninterrupted one would have drawn.
///
/// Costs nothing beside the one backward pass of a step.
///
/// # References
///
/// - Lin, Ye, Zhang and Tsang, "Reasonable Effectiveness of Random Weighting: A Litmus Test for
///   Multi-Task Learning", TMLR 2022, arXiv 2111.10603, with the normal distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomWeighting {
    seed: u64,
    /// Steps taken.
    step: u64,
}

impl RandomWeighting {
    /// The rule with the draws of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, step: 0 }
    }
}

impl LossWeighting for RandomWeighting {
    fn name(&self) -> &'static str {
        "random"
    }

    fn needs(&self) -> Needs {
        Needs::Losses
    }

    fn weights(
        &mut self,
        losses: &[f64],
        _gramian: Option<&Gramian>,
    ) -> Result<Vec<f64>, WeightingError> {
        require_losses(losses)?;
        let mut stream = ChaCha8Rng::seed_from_u64(self.seed);
        stream.set_stream(self.step);
        let logits: Vec<f64> = losses
            .iter()
            .map(|_| StandardNormal.sample(&mut stream))
            .collect();
        self.step += 1;
        finite(self.name(), softmax(&logits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_are_positive_and_add_up_to_one() {
        let mut rule = RandomWeighting::new(1);
        for _ in 0..50 {
            let weights = rule.weights(&[1.0; 5], None).unwrap();
            assert!(weights.iter().all(|weight| *weight > 0.0));
            assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn a_seed_and_a_step_fix_the_weights() {
        let mut one = RandomWeighting::new(7);
        let mut other = RandomWeighting::new(7);
        let first = one.weights(&[1.0; 3], None).unwrap();
        assert_eq!(other.weights(&[2.0; 3], None).unwrap(), first);
        let second = one.weights(&[1.0; 3], None).unwrap();
        assert_ne!(second, first);
        let mut resumed = other.clone();
        assert_eq!(resumed.weights(&[1.0; 3], None).unwrap(), second);
        let mut third = RandomWeighting::new(8);
        assert_ne!(third.weights(&[1.0; 3], None).unwrap(), first);
    }

    #[test]
    fn every_task_has_the_same_share_on_average() {
        let mut rule = RandomWeighting::new(3);
        let mut sums = [0.0; 3];
        for _ in 0..4000 {
            let weights = rule.weights(&[1.0; 3], None).unwrap();
            for (sum, weight) in sums.iter_mut().zip(&weights) {
                *sum += weight / 4000.0;
            }
        }
        // The standard deviation of one weight is about 0.2, that of the mean 0.003.
        for sum in sums {
            assert!((sum - 1.0 / 3.0).abs() < 0.02, "{sums:?}");
        }
    }
}
