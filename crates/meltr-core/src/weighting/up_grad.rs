//! UPGrad: each gradient projected onto the directions that conflict with none.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

use super::checks::{finite, require_count, require_gramian, require_not_negative};
use super::error::WeightingError;
use super::gramian::Gramian;
use super::loss_weighting::{LossWeighting, Needs};
use super::quadratic_program::{Feasible, minimize};

/// Settings of [`UpGrad`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpGradConfig {
    /// Preference of each task, at least 0; empty stands for `1 / T` for all of them.
    pub preferences: Vec<f64>,
    /// Added to the diagonal of `K / trace K`, at least 0, so that it is positive definite. With 0
    /// no conflict is left at all, but nearly dependent gradients get very large weights, and a
    /// Gramian computed in single precision may have no solution. TorchJD's `reg_eps`.
    pub regularization: f64,
    /// A trace of `K` up to this counts as zero gradients, at least 0. TorchJD's `norm_eps` is
    /// 1e-4, which makes the weights depend on the unit of the losses; 0 does not.
    pub zero_trace: f64,
}

impl Default for UpGradConfig {
    fn default() -> Self {
        Self {
            preferences: Vec::new(),
            regularization: 1e-4,
            zero_trace: 0.0,
        }
    }
}

/// The sum of the gradients, weighted by preferences `p_t`, each projected onto the dual cone
/// `{ d : <g_s, d> >= 0 for all s }`.
///
/// The projection of `p_t g_t` is `sum_s v_s g_s` for the `v` that solves
///
/// ```text
/// minimize  v' K v   subject to   v >= p_t e_t,
/// ```
///
/// and the weights are the sum of the `v` over all tasks. Without conflicts they are the
/// preferences, and for zero gradients as well. `T` programs of `T` variables are solved, on
/// `K / trace K + regularization I`, each to rounding.
///
/// Costs `T` backward passes instead of one.
///
/// It agrees with TorchJD 0.18's `UPGrad` and its defaults but for
/// [`zero_trace`](UpGradConfig::zero_trace).
///
/// # References
///
/// - Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, arXiv 2406.16232,
///   Proposition 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpGrad {
    config: UpGradConfig,
}

impl UpGrad {
    /// The rule with its settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if a setting is out of range.
    pub fn new(config: UpGradConfig) -> Result<Self, ConfigError> {
        require_not_negative("regularization", config.regularization)?;
        require_not_negative("zero_trace", config.zero_trace)?;
        for &preference in &config.preferences {
            require_not_negative("preferences", preference)?;
        }
        Ok(Self { config })
    }
}

impl LossWeighting for UpGrad {
    fn name(&self) -> &'static str {
        "up_grad"
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
        let preferences: Vec<f64> = if self.config.preferences.is_empty() {
            vec![1.0 / n_tasks as f64; n_tasks]
        } else {
            require_count("preferences", n_tasks, self.config.preferences.len())?;
            self.config.preferences.clone()
        };
        let trace = gramian.trace();
        if trace <= self.config.zero_trace {
            return finite(self.name(), preferences);
        }
        let regularized = gramian
            .scaled(1.0 / trace)
            .shifted(self.config.regularization);
        let mut weights = preferences.clone();
        for (task, &preference) in preferences.iter().enumerate() {
            // With v = p_t e_t + z: minimize z' K z / 2 + p_t (K e_t)' z over z >= 0.
            let linear: Vec<f64> = (0..n_tasks)
                .map(|other| preference * regularized.product(other, task))
                .collect();
            let added = minimize(&regularized, &linear, Feasible::Orthant, self.name())?;
            for (weight, added) in weights.iter_mut().zip(&added) {
                *weight += added;
            }
        }
        finite(self.name(), weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unregularized() -> UpGrad {
        UpGrad::new(UpGradConfig {
            regularization: 0.0,
            ..UpGradConfig::default()
        })
        .unwrap()
    }

    #[test]
    fn two_conflicting_gradients_are_projected_by_each_other() {
        // K = [[1, -1], [-1, 2]]. v >= (1/2, 0): (K v)_1 = -1/2 + 2 v_1 = 0 gives (1/2, 1/4).
        // v >= (0, 1/2): (K v)_0 = v_0 - 1/2 = 0 gives (1/2, 1/2). The sum is (1, 3/4).
        let gramian = Gramian::from_gradients(&[[1.0, 0.0], [-1.0, 1.0]]).unwrap();
        let weights = unregularized().weights(&[1.0; 2], Some(&gramian)).unwrap();
        assert!((weights[0] - 1.0).abs() < 1e-12, "{weights:?}");
        assert!((weights[1] - 0.75).abs() < 1e-12, "{weights:?}");
    }

    #[test]
    fn the_direction_conflicts_with_no_gradient() {
        let rows = [[1.0, 0.2, 0.0], [-1.0, 1.0, 0.3], [-0.5, -2.0, 1.0]];
        let gramian = Gramian::from_gradients(&rows).unwrap();
        let weights = unregularized().weights(&[1.0; 3], Some(&gramian)).unwrap();
        for inner in gramian.times(&weights) {
            assert!(inner > -1e-12, "{inner}");
        }
    }

    #[test]
    fn preferences_are_the_weights_without_conflict() {
        let config = UpGradConfig {
            preferences: vec![0.5, 2.0],
            ..UpGradConfig::default()
        };
        let gramian = Gramian::from_gradients(&[[1.0, 0.5], [0.0, 3.0]]).unwrap();
        let mut rule = UpGrad::new(config).unwrap();
        assert_eq!(
            rule.weights(&[1.0; 2], Some(&gramian)).unwrap(),
            vec![0.5, 2.0]
        );
    }

    #[test]
    fn zero_gradients_have_equal_weights() {
        let gramian = Gramian::from_products(2, &[0.0; 4]).unwrap();
        let mut rule = UpGrad::new(UpGradConfig::default()).unwrap();
        assert_eq!(
            rule.weights(&[1.0; 2], Some(&gramian)).unwrap(),
            vec![0.5; 2]
        );
    }

    #[test]
    fn opposed_gradients_are_projected_to_nothing() {
        // The dual cone of g and -g is orthogonal to g, so that both weights agree.
        let gramian = Gramian::from_gradients(&[[1.0, 2.0], [-1.0, -2.0]]).unwrap();
        let weights = unregularized().weights(&[1.0; 2], Some(&gramian)).unwrap();
        assert!(gramian.combined_norm(&weights) < 1e-7, "{weights:?}");
    }
}
