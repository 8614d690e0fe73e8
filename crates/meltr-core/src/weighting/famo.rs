//! Fast adaptive multitask optimization: weights that make all losses fall at one rate.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

use super::adam::Adam;
use super::checks::{
    finite, require_count, require_finite, require_losses, require_not_negative,
    require_one_a_task, require_positive,
};
use super::error::WeightingError;
use super::gramian::Gramian;
use super::loss_weighting::{LossWeighting, Needs};
use super::softmax::softmax;

/// Added to the distance of a loss to its lower bound, as in the authors' code.
const EPSILON: f64 = 1e-8;

/// Settings of [`Famo`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FamoConfig {
    /// Learning rate of the logits, positive.
    pub learning_rate: f64,
    /// Weight decay of the logits, `gamma` in the paper, at least 0; added to the gradient, as in
    /// `torch.optim.Adam`. The authors' code takes values from 1e-5 to 1e-2.
    pub weight_decay: f64,
    /// A number below every value of each loss, one a task; empty stands for 0 for all of them.
    pub lower_bounds: Vec<f64>,
}

impl Default for FamoConfig {
    fn default() -> Self {
        Self {
            learning_rate: 0.025,
            weight_decay: 1e-3,
            lower_bounds: Vec::new(),
        }
    }
}

/// Learned logits `xi_t`; with `z = softmax(xi)` and `D_t = l_t - b_t`,
///
/// ```text
/// w_t = c z_t / D_t,      c = 1 / sum_t (z_t / D_t).
/// ```
///
/// This is the gradient of `c sum_t z_t log D_t`: a step along the convex combination of the
/// gradients of the logarithms, rescaled so that the weights add up to 1. After the model has
/// moved, the fall `delta_t = log D_t(before) - log D_t(after)` of each logarithm is known, and
/// the logits take one step of Adam on `<z, delta>`, whose gradient is
/// `z_t (delta_t - <z, delta>)`: a loss that fell faster than the others loses weight.
///
/// Costs one more forward pass a step, on the same batch after the update, for
/// [`observe`](LossWeighting::observe). If that call is left out the weights stay as they are.
/// The defaults are those of TorchJD 0.18.
///
/// # References
///
/// - Liu, Feng, Stone and Liu, "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, arXiv
///   2306.03792, and the authors' code, `Cranial-XIX/FAMO`, for the order of the calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Famo {
    learning_rate: f64,
    weight_decay: f64,
    tasks: Vec<Task>,
    /// Steps taken by the logits.
    step: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Task {
    lower_bound: f64,
    logit: f64,
    adam: Adam,
    /// `log D_t` of the step that has not been observed yet.
    log_distance: Option<f64>,
}

impl Famo {
    /// The rule for `n_tasks`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if there are no tasks or a setting is out of range.
    pub fn new(n_tasks: usize, config: FamoConfig) -> Result<Self, ConfigError> {
        ConfigError::require_nonzero("n_tasks", n_tasks)?;
        require_positive("learning_rate", config.learning_rate)?;
        require_not_negative("weight_decay", config.weight_decay)?;
        require_one_a_task("lower_bounds", n_tasks, config.lower_bounds.len())?;
        for &bound in &config.lower_bounds {
            require_finite("lower_bounds", bound)?;
        }
        let tasks: Vec<Task> = (0..n_tasks)
            .map(|t| Task {
                lower_bound: config.lower_bounds.get(t).copied().unwrap_or(0.0),
                logit: 0.0,
                adam: Adam::default(),
                log_distance: None,
            })
            .collect();
        Ok(Self {
            learning_rate: config.learning_rate,
            weight_decay: config.weight_decay,
            tasks,
            step: 0,
        })
    }

    /// The logits `xi_t`, `[T]`.
    #[must_use]
    pub fn logits(&self) -> Vec<f64> {
        self.tasks.iter().map(|task| task.logit).collect()
    }

    /// `D_t`, `[T]`.
    fn distances(&self, losses: &[f64]) -> Result<Vec<f64>, WeightingError> {
        require_losses(losses)?;
        require_count("losses", self.tasks.len(), losses.len())?;
        let mut distances: Vec<f64> = Vec::with_capacity(losses.len());
        for (number, (task, &loss)) in self.tasks.iter().zip(losses).enumerate() {
            let distance = loss - task.lower_bound + EPSILON;
            if !(distance > 0.0 && distance.is_finite()) {
                return Err(WeightingError::LossOutOfRange {
                    method: self.name(),
                    task: number,
                    loss,
                    range: "[lower bound, inf)",
                });
            }
            distances.push(distance);
        }
        Ok(distances)
    }
}

impl LossWeighting for Famo {
    fn name(&self) -> &'static str {
        "famo"
    }

    fn needs(&self) -> Needs {
        Needs::LossesBeforeAndAfter
    }

    fn weights(
        &mut self,
        losses: &[f64],
        _gramian: Option<&Gramian>,
    ) -> Result<Vec<f64>, WeightingError> {
        let distances = self.distances(losses)?;
        let shares = softmax(&self.logits());
        let ratios: Vec<f64> = shares.iter().zip(&distances).map(|(z, d)| z / d).collect();
        let total: f64 = ratios.iter().sum();
        let weights: Vec<f64> = ratios.iter().map(|ratio| ratio / total).collect();
        let weights = finite(self.name(), weights)?;
        for (task, distance) in self.tasks.iter_mut().zip(&distances) {
            task.log_distance = Some(distance.ln());
        }
        Ok(weights)
    }

    /// One step of the logits, by how far each loss fell.
    fn observe(&mut self, losses: &[f64]) -> Result<(), WeightingError> {
        let distances = self.distances(losses)?;
        let shares = softmax(&self.logits());
        let mut falls: Vec<f64> = Vec::with_capacity(losses.len());
        for (task, after) in self.tasks.iter().zip(&distances) {
            let before = task.log_distance.ok_or(WeightingError::ObservedTooEarly {
                method: self.name(),
            })?;
            falls.push(before - after.ln());
        }
        let mean_fall: f64 = shares.iter().zip(&falls).map(|(z, fall)| z * fall).sum();
        self.step += 1;
        for ((task, z), fall) in self.tasks.iter_mut().zip(&shares).zip(&falls) {
            let gradient = z * (fall - mean_fall) + self.weight_decay * task.logit;
            task.logit -= task.adam.step(gradient, self.learning_rate, self.step);
            task.log_distance = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(weight_decay: f64) -> Famo {
        let config = FamoConfig {
            weight_decay,
            ..FamoConfig::default()
        };
        Famo::new(2, config).unwrap()
    }

    #[test]
    fn a_small_loss_counts_as_much_as_a_large_one() {
        // z = 1/2 each: 0.5 / 1 and 0.5 / 3 add up to 2/3; their shares are 3/4 and 1/4.
        let weights = rule(0.0).weights(&[1.0, 3.0], None).unwrap();
        assert!((weights[0] - 0.75).abs() < 1e-7, "{weights:?}");
        assert!((weights[1] - 0.25).abs() < 1e-7, "{weights:?}");
    }

    #[test]
    fn the_loss_that_fell_faster_loses_weight() {
        let mut rule = rule(0.0);
        rule.weights(&[1.0, 3.0], None).unwrap();
        // The falls of the logarithms are 1 and 0, their mean 1/2; the gradients are
        // (1 - 1/2) / 2 = 1/4 and -1/4, and the first step of Adam has the length 0.025.
        rule.observe(&[(-1.0_f64).exp(), 3.0]).unwrap();
        let logits = rule.logits();
        assert!((logits[0] + 0.025).abs() < 1e-6, "{logits:?}");
        assert!((logits[1] - 0.025).abs() < 1e-6, "{logits:?}");
    }

    #[test]
    fn losses_that_fall_alike_leave_the_weights_alone() {
        let mut rule = rule(1e-3);
        // Large losses, so that the small number added to them does not tell them apart.
        rule.weights(&[1000.0, 4000.0], None).unwrap();
        rule.observe(&[500.0, 2000.0]).unwrap();
        for logit in rule.logits() {
            assert!(logit.abs() < 1e-3, "{logit}");
        }
    }

    #[test]
    fn a_step_is_observed_once_and_after_its_weights() {
        let mut rule = rule(1e-3);
        assert_eq!(
            rule.observe(&[1.0, 1.0]).unwrap_err(),
            WeightingError::ObservedTooEarly { method: "famo" }
        );
        rule.weights(&[1.0, 1.0], None).unwrap();
        rule.observe(&[0.9, 0.8]).unwrap();
        assert!(rule.observe(&[0.9, 0.8]).is_err());
    }

    #[test]
    fn a_loss_below_its_bound_is_refused() {
        let config = FamoConfig {
            lower_bounds: vec![0.0, 2.0],
            ..FamoConfig::default()
        };
        let mut rule = Famo::new(2, config).unwrap();
        assert!(rule.weights(&[0.0, 2.0], None).is_ok());
        let error = rule.weights(&[1.0, 1.5], None).unwrap_err();
        assert!(matches!(
            error,
            WeightingError::LossOutOfRange { task: 1, .. }
        ));
    }
}
