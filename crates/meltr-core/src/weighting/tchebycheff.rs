//! Smooth Tchebycheff scalarization: a smooth form of the largest loss.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

use super::checks::{
    finite, require_count, require_finite, require_losses, require_not_negative, require_positive,
};
use super::error::WeightingError;
use super::gramian::Gramian;
use super::loss_weighting::{LossWeighting, Needs};
use super::softmax::softmax;

/// Settings of [`SmoothTchebycheff`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TchebycheffConfig {
    /// `mu`, positive: the smaller, the closer to the largest loss alone. In units of the losses
    /// times their preferences. The paper tries 0.01 to 1.
    pub smoothing: f64,
    /// `lambda_t`, at least 0, one a task; empty stands for `1 / T` for all of them.
    pub preferences: Vec<f64>,
    /// The ideal point `z*`, a value that each loss could reach alone; empty stands for 0 for all
    /// of them.
    pub ideal_point: Vec<f64>,
}

impl Default for TchebycheffConfig {
    fn default() -> Self {
        Self {
            smoothing: 0.1,
            preferences: Vec::new(),
            ideal_point: Vec::new(),
        }
    }
}

/// The gradient of `mu log sum_t exp(lambda_t (l_t - z*_t) / mu)` by the losses:
///
/// ```text
/// w_t = lambda_t softmax_t(lambda (l - z*) / mu).
/// ```
///
/// Whatever trade-off between the losses is optimal, some preference reaches it, also where no
/// fixed weights do.
///
/// Costs nothing beside the one backward pass of a step. It agrees with TorchJD 0.18's `STCH`,
/// which has no default for `mu`.
///
/// # References
///
/// - Lin, Zhang, Yang, Liu, Wang and Zhang, "Smooth Tchebycheff Scalarization for Multi-Objective
///   Optimization", ICML 2024, arXiv 2402.19078.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmoothTchebycheff {
    config: TchebycheffConfig,
}

impl SmoothTchebycheff {
    /// The rule with its settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if a setting is out of range.
    pub fn new(config: TchebycheffConfig) -> Result<Self, ConfigError> {
        require_positive("smoothing", config.smoothing)?;
        for &preference in &config.preferences {
            require_not_negative("preferences", preference)?;
        }
        for &ideal in &config.ideal_point {
            require_finite("ideal_point", ideal)?;
        }
        Ok(Self { config })
    }
}

impl LossWeighting for SmoothTchebycheff {
    fn name(&self) -> &'static str {
        "smooth_tchebycheff"
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
        let n_tasks = losses.len();
        let preferences: Vec<f64> = if self.config.preferences.is_empty() {
            vec![1.0 / n_tasks as f64; n_tasks]
        } else {
            require_count("preferences", n_tasks, self.config.preferences.len())?;
            self.config.preferences.clone()
        };
        let ideal_point: Vec<f64> = if self.config.ideal_point.is_empty() {
            vec![0.0; n_tasks]
        } else {
            require_count("ideal point", n_tasks, self.config.ideal_point.len())?;
            self.config.ideal_point.clone()
        };
        let logits: Vec<f64> = losses
            .iter()
            .zip(&ideal_point)
            .zip(&preferences)
            .map(|((loss, ideal), preference)| preference * (loss - ideal) / self.config.smoothing)
            .collect();
        let weights: Vec<f64> = softmax(&logits)
            .iter()
            .zip(&preferences)
            .map(|(share, preference)| share * preference)
            .collect();
        finite(self.name(), weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_loss_has_the_larger_weight() {
        let config = TchebycheffConfig {
            smoothing: 1.0,
            ..TchebycheffConfig::default()
        };
        let mut rule = SmoothTchebycheff::new(config).unwrap();
        // softmax(0.5, 1.5) = (0.268941, 0.731059), times 1/2.
        let weights = rule.weights(&[1.0, 3.0], None).unwrap();
        assert!((weights[0] - 0.134_471).abs() < 1e-6, "{weights:?}");
        assert!((weights[1] - 0.365_529).abs() < 1e-6, "{weights:?}");
    }

    #[test]
    fn little_smoothing_leaves_the_largest_loss_alone() {
        let config = TchebycheffConfig {
            smoothing: 1e-6,
            preferences: vec![0.9, 0.1],
            ideal_point: vec![0.0, 1.0],
        };
        let mut rule = SmoothTchebycheff::new(config).unwrap();
        // 0.9 · 1 = 0.9 is less than 0.1 · (20 - 1) = 1.9.
        assert_eq!(rule.weights(&[1.0, 20.0], None).unwrap(), vec![0.0, 0.1]);
    }

    #[test]
    fn preferences_of_another_number_of_tasks_are_refused() {
        let config = TchebycheffConfig {
            preferences: vec![0.5; 3],
            ..TchebycheffConfig::default()
        };
        let mut rule = SmoothTchebycheff::new(config).unwrap();
        let error = rule.weights(&[1.0, 2.0], None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "preferences: 3 given, 2 expected, one a task"
        );
    }
}
