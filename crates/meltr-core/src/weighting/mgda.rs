//! MGDA: the shortest convex combination of the gradients.

use serde::{Deserialize, Serialize};

use super::checks::{finite, require_gramian};
use super::error::WeightingError;
use super::gramian::Gramian;
use super::loss_weighting::{LossWeighting, Needs};
use super::quadratic_program::{Feasible, minimize};

/// The multiple-gradient descent algorithm: the weights on the simplex (`w >= 0`, `sum w = 1`)
/// with the least `|sum_t w_t g_t|² = w' K w`.
///
/// The direction decreases every loss alike, `<g_t, d> >= |d|²`, or is 0 where the point is Pareto
/// stationary. It favors short gradients: a task whose gradient vanishes takes all the weight. If
/// all gradients are 0, every weight is `1 / T`.
///
/// Costs `T` backward passes instead of one.
///
/// Differences from TorchJD 0.18's `MGDA`: that one runs the Frank-Wolfe iteration of Sener and
/// Koltun until a step is shorter than 1e-3 or for 100 steps, and may stop well before the
/// solution; here the problem is solved to rounding by an active-set method. The gradients are
/// not normalized.
///
/// # References
///
/// - Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization",
///   Comptes Rendus Mathématique 350, 2012.
/// - Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018, arXiv
///   1810.04650.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mgda {}

impl Mgda {
    /// The rule; it has no settings.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}

impl LossWeighting for Mgda {
    fn name(&self) -> &'static str {
        "mgda"
    }

    fn needs(&self) -> Needs {
        Needs::Gramian
    }

    fn weights(
        &mut self,
        losses: &[f64],
        gramian: Option<&Gramian>,
    ) -> Result<Vec<f64>, WeightingError> {
        let gramian = require_gramian(self.name(), losses, gramian)?;
        let n_tasks = losses.len();
        let trace = gramian.trace();
        if trace == 0.0 {
            return Ok(vec![1.0 / n_tasks as f64; n_tasks]);
        }
        let normalized = gramian.scaled(1.0 / trace);
        let zero = vec![0.0; n_tasks];
        let weights = minimize(&normalized, &zero, Feasible::Simplex, self.name())?;
        finite(self.name(), weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orthogonal_gradients_are_weighted_by_their_inverse_squares() {
        // 1 / 1 and 1 / 4, of the sum 5 / 4.
        let gramian = Gramian::from_gradients(&[[1.0, 0.0], [0.0, 2.0]]).unwrap();
        let weights = Mgda::new().weights(&[1.0; 2], Some(&gramian)).unwrap();
        assert!((weights[0] - 0.8).abs() < 1e-12, "{weights:?}");
        assert!((weights[1] - 0.2).abs() < 1e-12, "{weights:?}");
    }

    #[test]
    fn a_zero_gradient_takes_all_the_weight() {
        let gramian = Gramian::from_gradients(&[[1.0, 0.0], [0.0, 0.0], [0.5, 2.0]]).unwrap();
        let weights = Mgda::new().weights(&[1.0; 3], Some(&gramian)).unwrap();
        assert_eq!(weights, vec![0.0, 1.0, 0.0]);
    }

    #[test]
    fn zero_gradients_have_equal_weights() {
        let gramian = Gramian::from_products(2, &[0.0; 4]).unwrap();
        let weights = Mgda::new().weights(&[1.0; 2], Some(&gramian)).unwrap();
        assert_eq!(weights, vec![0.5; 2]);
    }

    #[test]
    fn tiny_gradients_have_the_weights_of_large_ones() {
        let rows = [[1.0, 0.2], [-0.7, 1.0]];
        let large = Gramian::from_gradients(&rows).unwrap();
        let tiny = large.scaled(1e-30);
        let expected = Mgda::new().weights(&[1.0; 2], Some(&large)).unwrap();
        let weights = Mgda::new().weights(&[1.0; 2], Some(&tiny)).unwrap();
        for (found, expected) in weights.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-12, "{weights:?}");
        }
    }
}
