//! Adam for the few scalars that a rule learns.

use serde::{Deserialize, Serialize};

/// Running moments of one scalar's gradient.
///
/// `betas = (0.9, 0.999)` and `epsilon = 1e-8`, as in PyTorch's `torch.optim.Adam`.
///
/// # References
///
/// - Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv 1412.6980.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Adam {
    first: f64,
    second: f64,
}

impl Adam {
    /// What to subtract from the scalar. `step` counts from 1.
    pub(super) fn step(&mut self, gradient: f64, learning_rate: f64, step: u64) -> f64 {
        const BETA_1: f64 = 0.9;
        const BETA_2: f64 = 0.999;
        const EPSILON: f64 = 1e-8;
        self.first = BETA_1 * self.first + (1.0 - BETA_1) * gradient;
        self.second = BETA_2 * self.second + (1.0 - BETA_2) * gradient * gradient;
        let count = step as f64;
        let first = self.first / (1.0 - BETA_1.powf(count));
        let second = self.second / (1.0 - BETA_2.powf(count));
        learning_rate * first / (second.sqrt() + EPSILON)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_has_the_length_of_the_learning_rate() {
        let mut adam = Adam::default();
        assert!((adam.step(-3.0, 0.1, 1) + 0.1).abs() < 1e-9);
    }

    #[test]
    fn a_zero_gradient_moves_nothing() {
        assert_eq!(Adam::default().step(0.0, 0.1, 1), 0.0);
    }
}
