//! CAGrad: the direction near the mean gradient that helps the worst task most.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

use super::checks::{finite, require_gramian, require_not_negative};
use super::error::WeightingError;
use super::gramian::Gramian;
use super::loss_weighting::{LossWeighting, Needs};
use super::quadratic_program::{Feasible, minimize};

/// Halvings of an interval after which its ends are neighboring numbers.
const HALVINGS: usize = 200;

/// Settings of [`CaGrad`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaGradConfig {
    /// Radius `c` of the ball around the mean gradient, in units of its length, at least 0. 0
    /// gives the mean; the paper shows convergence below 1.
    pub radius: f64,
    /// Where the combined gradient is shorter than this, relative to the root of the trace of
    /// `K`, the point counts as Pareto stationary, and the weights are 0. At least 0. TorchJD's
    /// `norm_eps`.
    pub stationary_below: f64,
    /// A trace of `K` up to this counts as zero gradients, at least 0. TorchJD takes its
    /// `norm_eps`, 1e-4, here as well, which makes the weights depend on the unit of the losses;
    /// 0 does not.
    pub zero_trace: f64,
}

impl Default for CaGradConfig {
    fn default() -> Self {
        Self {
            radius: 0.5,
            stationary_below: 1e-4,
            zero_trace: 0.0,
        }
    }
}

/// The direction `d` with the largest `min_t <g_t, d>` among those with
/// `|d - g_0| <= c |g_0|`, where `g_0` is the mean gradient.
///
/// By duality, with `g_w = sum_t w_t g_t` and `w` on the simplex,
///
/// ```text
/// minimize  <g_w, g_0> + c |g_0| |g_w|,      d = g_0 + c |g_0| / |g_w| g_w,
/// ```
///
/// so that the weights are `1 / T + c |g_0| / |g_w| w_t`. For zero gradients, and where `g_w`
/// vanishes, they are 0: no direction in the ball helps every task. (A single zero gradient is
/// such a case, since nothing helps its task.)
///
/// # Solution
///
/// Since `|g_w| = min_tau (|g_w|² / tau + tau) / 2`, the objective is the minimum over `tau > 0`
/// of a function that is convex in `w` and `tau` together. For fixed `tau` it is a quadratic
/// program in `w`, solved to rounding; its derivative by `tau` has the sign of `tau - |g_w|`, so
/// that the right `tau` is found by bisection, about 60 small programs.
///
/// Costs `T` backward passes instead of one.
///
/// Differences from TorchJD 0.18's `CAGrad`: that one calls Clarabel, whose default tolerances
/// leave errors of up to 1e-4 in the weights, and has one setting for
/// [`stationary_below`](CaGradConfig::stationary_below) and
/// [`zero_trace`](CaGradConfig::zero_trace). Neither divides the direction by a function of `c`,
/// as the authors' code may do.
///
/// # References
///
/// - Liu, Liu, Jin, Stone and Liu, "Conflict-Averse Gradient Descent for Multi-task Learning",
///   NeurIPS 2021, arXiv 2110.14048, Algorithm 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaGrad {
    config: CaGradConfig,
}

impl CaGrad {
    /// The rule with its settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if a setting is out of range.
    pub fn new(config: CaGradConfig) -> Result<Self, ConfigError> {
        require_not_negative("radius", config.radius)?;
        require_not_negative("stationary_below", config.stationary_below)?;
        require_not_negative("zero_trace", config.zero_trace)?;
        Ok(Self { config })
    }

    /// The `w` on the simplex, and `|g_w|`, for a trace of 1. `None` if `|g_w|` vanishes.
    fn worst_combination(
        &self,
        gramian: &Gramian,
        with_mean: &[f64],
        slack: f64,
    ) -> Result<Option<(Vec<f64>, f64)>, WeightingError> {
        // For a given tau, up to the factor slack / tau: w' K w / 2 + (tau / slack) <g_w, g_0>.
        let at = |tau: f64| -> Result<(Vec<f64>, f64), WeightingError> {
            let linear: Vec<f64> = with_mean.iter().map(|b| tau / slack * b).collect();
            let w = minimize(gramian, &linear, Feasible::Simplex, self.name())?;
            let length = gramian.combined_norm(&w);
            Ok((w, length))
        };
        let longest = (0..gramian.n_tasks())
            .map(|t| gramian.product(t, t).sqrt())
            .fold(0.0, f64::max);
        let (mut low, mut high) = (0.0, longest);
        for _ in 0..HALVINGS {
            let middle = 0.5 * (low + high);
            if middle <= low || middle >= high || high < 0.5 * self.config.stationary_below {
                break;
            }
            let (_, length) = at(middle)?;
            if length > middle {
                low = middle;
            } else {
                high = middle;
            }
        }
        let (w, length) = at(high)?;
        if length > 0.0 && length >= self.config.stationary_below {
            Ok(Some((w, length)))
        } else {
            Ok(None)
        }
    }
}

impl LossWeighting for CaGrad {
    fn name(&self) -> &'static str {
        "ca_grad"
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
        if trace <= self.config.zero_trace {
            return Ok(vec![0.0; n_tasks]);
        }
        let normalized = gramian.scaled(1.0 / trace);
        let mean = vec![1.0 / n_tasks as f64; n_tasks];
        let with_mean = normalized.times(&mean);
        // c |g_0|: how far the direction may be from the mean.
        let slack = self.config.radius * normalized.combined_norm(&mean);
        if slack == 0.0 {
            return Ok(mean);
        }
        let weights: Vec<f64> = match self.worst_combination(&normalized, &with_mean, slack)? {
            Some((w, length)) => mean
                .iter()
                .zip(&w)
                .map(|(m, w_t)| m + slack / length * w_t)
                .collect(),
            None => vec![0.0; n_tasks],
        };
        finite(self.name(), weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_unit_gradients_share_the_correction() {
        // g_0 = (1/2, 1/2), and by symmetry w = (1/2, 1/2), so that |g_w| = |g_0| and the weights
        // are 1/2 + 0.5 · 1/2.
        let gramian = Gramian::from_gradients(&[[1.0, 0.0], [0.0, 1.0]]).unwrap();
        let mut rule = CaGrad::new(CaGradConfig::default()).unwrap();
        let weights = rule.weights(&[1.0; 2], Some(&gramian)).unwrap();
        for weight in &weights {
            assert!((weight - 0.75).abs() < 1e-12, "{weights:?}");
        }
    }

    #[test]
    fn parallel_gradients_move_the_weight_to_the_shorter() {
        // g = 1 and 2: g_0 = 1.5, and <g_w, g_0> + 0.5 · 1.5 |g_w| = 2.25 g_w is least for
        // w = (1, 0). The weights are (1/2 + 0.75 / 1, 1/2).
        let gramian = Gramian::from_gradients(&[[1.0], [2.0]]).unwrap();
        let mut rule = CaGrad::new(CaGradConfig::default()).unwrap();
        let weights = rule.weights(&[1.0; 2], Some(&gramian)).unwrap();
        assert!((weights[0] - 1.25).abs() < 1e-12, "{weights:?}");
        assert!((weights[1] - 0.5).abs() < 1e-12, "{weights:?}");
    }

    #[test]
    fn the_direction_is_the_best_for_the_worst_task() {
        let rows = [[1.0, 0.2], [-0.9, 1.0]];
        let gramian = Gramian::from_gradients(&rows).unwrap();
        let mut rule = CaGrad::new(CaGradConfig::default()).unwrap();
        let weights = rule.weights(&[1.0; 2], Some(&gramian)).unwrap();
        let worst = gramian
            .times(&weights)
            .into_iter()
            .fold(f64::INFINITY, f64::min);
        // The same maximum over the circle |d - g_0| = |g_0| / 2, by trying.
        let mean = [0.05, 0.6];
        let radius = 0.5 * f64::hypot(mean[0], mean[1]);
        let mut best = f64::NEG_INFINITY;
        for step in 0..100_000 {
            let angle = f64::from(step) * std::f64::consts::TAU / 100_000.0;
            let d = [
                mean[0] + radius * angle.cos(),
                mean[1] + radius * angle.sin(),
            ];
            let least = rows
                .iter()
                .map(|g| g[0] * d[0] + g[1] * d[1])
                .fold(f64::INFINITY, f64::min);
            best = best.max(least);
        }
        assert!((worst - best).abs() < 1e-4, "{worst} against {best}");
    }

    #[test]
    fn a_radius_of_zero_gives_the_mean() {
        let config = CaGradConfig {
            radius: 0.0,
            ..CaGradConfig::default()
        };
        let gramian = Gramian::from_gradients(&[[1.0, 0.0], [-1.0, 1.0]]).unwrap();
        let mut rule = CaGrad::new(config).unwrap();
        assert_eq!(
            rule.weights(&[1.0; 2], Some(&gramian)).unwrap(),
            vec![0.5; 2]
        );
    }

    #[test]
    fn opposed_gradients_hold_the_direction_back() {
        // g = -1 and 2: g_0 = 1/2, and g_w / 2 + |g_w| / 4 is least at g_w = -1, w = (1, 0). The
        // weights are (1/2 + 1/4, 1/2), the direction 1/4 is the lowest of the ball.
        let gramian = Gramian::from_gradients(&[[-1.0], [2.0]]).unwrap();
        let mut rule = CaGrad::new(CaGradConfig::default()).unwrap();
        let weights = rule.weights(&[1.0; 2], Some(&gramian)).unwrap();
        assert!((weights[0] - 0.75).abs() < 1e-12, "{weights:?}");
        assert!((weights[1] - 0.5).abs() < 1e-12, "{weights:?}");
    }

    #[test]
    fn where_nothing_helps_every_task_the_weights_are_zero() {
        let mut rule = CaGrad::new(CaGradConfig::default()).unwrap();
        let zero = Gramian::from_products(2, &[0.0; 4]).unwrap();
        assert_eq!(rule.weights(&[1.0; 2], Some(&zero)).unwrap(), vec![0.0; 2]);
        let one_zero = Gramian::from_gradients(&[[1.0, 0.5], [0.0, 0.0]]).unwrap();
        assert_eq!(
            rule.weights(&[1.0; 2], Some(&one_zero)).unwrap(),
            vec![0.0; 2]
        );
    }
}
