//! Nash-MTL: the direction that the tasks would agree on in a bargaining game.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

use super::checks::{finite, require_count, require_gramian, require_losses, require_not_negative};
use super::error::WeightingError;
use super::gramian::{Gramian, dot};
use super::linear_system::solve;
use super::loss_weighting::{LossWeighting, Needs};
use super::quadratic_program::{Feasible, minimize};

/// Newton steps; ten are usual.
const NEWTON_STEPS: usize = 200;
/// Largest error of an equation, of terms of size 1.
const ACCEPTED: f64 = 1e-8;

/// Settings of [`NashMtl`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NashMtlConfig {
    /// The direction is cut to this length, positive; 0 leaves it at its length, which is the
    /// root of the number of tasks with a gradient.
    pub max_norm: f64,
    /// New weights every so many steps, at least 1; in between the last ones are reused, and a
    /// step costs one backward pass.
    pub update_every: u64,
    /// Where the shortest convex combination of the gradients, each scaled to length 1, is shorter
    /// than this, the point counts as Pareto stationary, and the weights are 0. At least 0; a
    /// Gramian computed in single precision cannot tell lengths below about 5e-4 from 0.
    pub stationary_below: f64,
}

impl Default for NashMtlConfig {
    fn default() -> Self {
        Self {
            max_norm: 1.0,
            update_every: 1,
            stationary_below: 1e-3,
        }
    }
}

/// The weights `a > 0` with `K a = 1 / a`, entry by entry: the direction `d = sum_t a_t g_t` has
/// the largest product of the gains `<g_t, d>` in a ball.
///
/// Scaling a loss leaves the direction as it is. For the cut to `max_norm` the weights are all
/// divided alike.
///
/// A task with a zero gradient has nothing to gain: it has the weight 0, and the others bargain
/// among themselves. Where no direction helps all of them (Pareto stationary) there is no
/// solution, and all weights are 0.
///
/// # Solution
///
/// With `b_t = a_t |g_t|` and the cosines `C` of the gradients, the equations say that the
/// gradient of the convex `b' C b / 2 - sum_t log b_t` is 0. It is self-concordant, so that
/// Newton's method with the step `1 / (1 + decrement)` converges from anywhere.
///
/// Costs `T` backward passes instead of one, at the steps that update the weights.
///
/// Differences from TorchJD 0.18's `NashMTL` and the authors' code, with the same defaults
/// otherwise: those solve a sequence of convex approximations from the last weights for at most 20
/// rounds, and often stop before they have converged; they keep the last weights where there is
/// no solution; between updates they cut the direction by its present length, where here the
/// weights are reused as they were cut.
///
/// # References
///
/// - Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik and Fetaya, "Multi-Task Learning as a
///   Bargaining Game", ICML 2022, arXiv 2202.01017, Algorithm 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NashMtl {
    config: NashMtlConfig,
    /// The weights of the last update.
    last: Option<Vec<f64>>,
    /// Steps since then.
    age: u64,
}

impl NashMtl {
    /// The rule with its settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if a setting is out of range.
    pub fn new(config: NashMtlConfig) -> Result<Self, ConfigError> {
        require_not_negative("max_norm", config.max_norm)?;
        require_not_negative("stationary_below", config.stationary_below)?;
        if config.update_every == 0 {
            return Err(ConfigError::Zero {
                key: "update_every",
            });
        }
        Ok(Self {
            config,
            last: None,
            age: 0,
        })
    }

    /// The solution, cut to `max_norm`.
    fn bargain(&self, gramian: &Gramian) -> Result<Vec<f64>, WeightingError> {
        let n_tasks = gramian.n_tasks();
        let mut weights = vec![0.0; n_tasks];
        let lengths: Vec<f64> = (0..n_tasks).map(|t| gramian.product(t, t).sqrt()).collect();
        let present: Vec<usize> = (0..n_tasks).filter(|&t| lengths[t] > 0.0).collect();
        if present.is_empty() {
            return Ok(weights);
        }
        let mut cosines: Vec<f64> = Vec::with_capacity(present.len() * present.len());
        for &row in &present {
            for &column in &present {
                // One length at a time, since the product of two may underflow.
                cosines.push(gramian.product(row, column) / lengths[row] / lengths[column]);
            }
        }
        let cosines = Gramian::from_products(present.len(), &cosines)?;
        let zero = vec![0.0; present.len()];
        let shortest = minimize(&cosines, &zero, Feasible::Simplex, self.name())?;
        if cosines.combined_norm(&shortest) <= self.config.stationary_below {
            return Ok(weights);
        }
        let scaled = self.solve_equations(&cosines)?;
        for (&task, b) in present.iter().zip(&scaled) {
            weights[task] = b / lengths[task];
        }
        if self.config.max_norm > 0.0 {
            // The length of the direction, from the scaled problem, where nothing underflows.
            let norm = cosines.combined_norm(&scaled);
            let factor = (self.config.max_norm / norm).min(1.0);
            for weight in &mut weights {
                *weight *= factor;
            }
        }
        Ok(weights)
    }

    /// The `b > 0` with `C b = 1 / b`.
    fn solve_equations(&self, cosines: &Gramian) -> Result<Vec<f64>, WeightingError> {
        let n = cosines.n_tasks();
        let mut b = vec![1.0; n];
        let mut last_decrement = f64::INFINITY;
        for _ in 0..NEWTON_STEPS {
            let (residuals, matrix) = newton_system(cosines, &b);
            let Some(relative_step) = solve(matrix, residuals.clone()) else {
                break;
            };
            let decrement = dot(&residuals, &relative_step).max(0.0).sqrt();
            // Convergence is quadratic until rounding stops it.
            if decrement < 1e-6 && decrement > 0.5 * last_decrement {
                break;
            }
            last_decrement = decrement;
            let length = if decrement < 0.25 {
                1.0
            } else {
                1.0 / (1.0 + decrement)
            };
            for (b_t, step) in b.iter_mut().zip(&relative_step) {
                *b_t *= 1.0 + length * step;
            }
            if decrement < 1e-15 {
                break;
            }
        }
        let (residuals, _) = newton_system(cosines, &b);
        let violation = residuals
            .iter()
            .fold(0.0, |largest, r| f64::max(largest, r.abs()));
        if violation <= ACCEPTED && b.iter().all(|b_t| *b_t > 0.0) {
            Ok(b)
        } else {
            Err(WeightingError::NotSolved {
                method: self.name(),
                violation,
            })
        }
    }
}

/// Newton's equations for the relative step `db_t / b_t`: the matrix `diag(b) C diag(b) + I` and
/// the right-hand side `1 - b_t (C b)_t`.
fn newton_system(cosines: &Gramian, b: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let residuals: Vec<f64> = cosines
        .times(b)
        .iter()
        .zip(b)
        .map(|(inner, b_t)| 1.0 - b_t * inner)
        .collect();
    let mut matrix: Vec<Vec<f64>> = Vec::with_capacity(b.len());
    for (row, b_row) in b.iter().enumerate() {
        let mut entries: Vec<f64> = b
            .iter()
            .enumerate()
            .map(|(column, b_column)| b_row * cosines.product(row, column) * b_column)
            .collect();
        entries[row] += 1.0;
        matrix.push(entries);
    }
    (residuals, matrix)
}

impl LossWeighting for NashMtl {
    fn name(&self) -> &'static str {
        "nash_mtl"
    }

    fn needs(&self) -> Needs {
        if self.last.is_none() || self.age >= self.config.update_every {
            Needs::Gramian
        } else {
            Needs::Losses
        }
    }

    fn weights(
        &mut self,
        losses: &[f64],
        gramian: Option<&Gramian>,
    ) -> Result<Vec<f64>, WeightingError> {
        if self.needs() == Needs::Losses
            && let Some(last) = &self.last
        {
            require_losses(losses)?;
            require_count("losses", last.len(), losses.len())?;
            let weights = finite(self.name(), last.clone())?;
            self.age += 1;
            return Ok(weights);
        }
        let gramian = require_gramian(self.name(), losses, gramian)?;
        let weights = finite(self.name(), self.bargain(gramian)?)?;
        self.last = Some(weights.clone());
        self.age = 1;
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(config: NashMtlConfig) -> NashMtl {
        NashMtl::new(config).unwrap()
    }

    fn uncut() -> NashMtlConfig {
        NashMtlConfig {
            max_norm: 0.0,
            ..NashMtlConfig::default()
        }
    }

    #[test]
    fn orthogonal_gradients_are_scaled_to_length_one() {
        // K = diag(1, 4): a_0² = 1, 4 a_1² = 1; the direction has the length sqrt(2).
        let gramian = Gramian::from_gradients(&[[1.0, 0.0], [0.0, 2.0]]).unwrap();
        let weights = rule(uncut()).weights(&[1.0; 2], Some(&gramian)).unwrap();
        assert!((weights[0] - 1.0).abs() < 1e-12, "{weights:?}");
        assert!((weights[1] - 0.5).abs() < 1e-12, "{weights:?}");
        let cut = rule(NashMtlConfig::default())
            .weights(&[1.0; 2], Some(&gramian))
            .unwrap();
        assert!((cut[0] - 0.5_f64.sqrt()).abs() < 1e-12, "{cut:?}");
        assert!((gramian.combined_norm(&cut) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn gradients_that_agree_share_the_gain() {
        // K = [[2, 1], [1, 2]]: by symmetry 3 a = 1 / a.
        let gramian = Gramian::from_products(2, &[2.0, 1.0, 1.0, 2.0]).unwrap();
        let weights = rule(uncut()).weights(&[1.0; 2], Some(&gramian)).unwrap();
        for weight in &weights {
            assert!((weight - 3.0_f64.sqrt().recip()).abs() < 1e-12);
        }
    }

    #[test]
    fn nearly_opposed_gradients_have_a_solution() {
        // K = [[1, -k], [-k, 1]]: (1 - k) a² = 1, with k = 0.9999 the weight 100.
        let gramian = Gramian::from_products(2, &[1.0, -0.9999, -0.9999, 1.0]).unwrap();
        let weights = rule(uncut()).weights(&[1.0; 2], Some(&gramian)).unwrap();
        for weight in &weights {
            assert!((weight - 100.0).abs() < 1e-6, "{weights:?}");
        }
    }

    #[test]
    fn the_direction_does_not_depend_on_the_unit_of_a_loss() {
        let rows = [[1.0, 0.2, 0.0], [-0.5, 1.0, 0.3]];
        let scaled_rows = [[1e-4, 0.2e-4, 0.0], [-50.0, 100.0, 30.0]];
        let gramian = Gramian::from_gradients(&rows).unwrap();
        let scaled = Gramian::from_gradients(&scaled_rows).unwrap();
        let a = rule(uncut()).weights(&[1.0; 2], Some(&gramian)).unwrap();
        let b = rule(uncut()).weights(&[1.0; 2], Some(&scaled)).unwrap();
        assert!((a[0] - b[0] * 1e-4).abs() < 1e-9, "{a:?} {b:?}");
        assert!((a[1] - b[1] * 100.0).abs() < 1e-9, "{a:?} {b:?}");
    }

    #[test]
    fn a_task_without_gradient_is_left_out() {
        let gramian = Gramian::from_gradients(&[[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]).unwrap();
        let weights = rule(uncut()).weights(&[1.0; 3], Some(&gramian)).unwrap();
        assert!((weights[0] - 1.0).abs() < 1e-12, "{weights:?}");
        assert_eq!(weights[1], 0.0);
        assert!((weights[2] - 0.5).abs() < 1e-12, "{weights:?}");
    }

    #[test]
    fn without_a_common_gain_the_weights_are_zero() {
        let zero = Gramian::from_products(2, &[0.0; 4]).unwrap();
        let opposed = Gramian::from_gradients(&[[1.0, 2.0], [-0.5, -1.0]]).unwrap();
        for gramian in [zero, opposed] {
            let weights = rule(uncut()).weights(&[1.0; 2], Some(&gramian)).unwrap();
            assert_eq!(weights, vec![0.0; 2]);
        }
    }

    #[test]
    fn weights_are_reused_between_updates() {
        let gramian = Gramian::from_gradients(&[[1.0, 0.0], [0.0, 2.0]]).unwrap();
        let mut rule = rule(NashMtlConfig {
            update_every: 2,
            ..NashMtlConfig::default()
        });
        let mut needs: Vec<Needs> = Vec::new();
        for _ in 0..4 {
            needs.push(rule.needs());
            let gramian = (rule.needs() == Needs::Gramian).then_some(&gramian);
            rule.weights(&[1.0; 2], gramian).unwrap();
        }
        assert_eq!(
            needs,
            vec![Needs::Gramian, Needs::Losses, Needs::Gramian, Needs::Losses]
        );
    }
}
