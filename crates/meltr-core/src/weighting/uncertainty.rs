//! Uncertainty weighting: each loss divided by a variance that is learned.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

use super::adam::Adam;
use super::checks::{
    finite, require_count, require_finite, require_losses, require_one_a_task, require_positive,
};
use super::error::WeightingError;
use super::gramian::Gramian;
use super::loss_weighting::{LossWeighting, Needs};

/// Which likelihood a loss is the negative logarithm of, up to constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Likelihood {
    /// A squared error: the loss is weighted by `1 / (2 sigma²)`.
    #[default]
    Gaussian,
    /// A cross-entropy: the loss is weighted by `1 / sigma²`, an approximation of the scaled
    /// softmax.
    Categorical,
}

impl Likelihood {
    fn factor(self) -> f64 {
        match self {
            Self::Gaussian => 0.5,
            Self::Categorical => 1.0,
        }
    }
}

/// Settings of [`UncertaintyWeighting`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UncertaintyConfig {
    /// Learning rate of the log variances, positive. They need one of their own: that of a
    /// fine-tuned backbone is so small that they would not move.
    pub learning_rate: f64,
    /// Log variance at the start. The paper finds that it matters little; 0 gives the weights
    /// 1 / 2 and 1.
    pub initial_log_variance: f64,
    /// One a task; empty stands for [`Likelihood::Gaussian`] for all of them.
    pub likelihoods: Vec<Likelihood>,
}

impl Default for UncertaintyConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-2,
            initial_log_variance: 0.0,
            likelihoods: Vec::new(),
        }
    }
}

/// Weights `w_t = f_t exp(-s_t)` with learned log variances `s_t = log sigma_t²`.
///
/// The model and the `s_t` together minimize
///
/// ```text
/// sum_t  f_t exp(-s_t) l_t + s_t / 2,      f_t = 1/2 (Gaussian) or 1 (categorical).
/// ```
///
/// The derivative by `s_t` is `1/2 - f_t exp(-s_t) l_t`. Each call gives the weights at the present
/// `s_t` and then takes one step of Adam on them with this derivative, as if they sat in the
/// model's optimizer. At rest `exp(s_t) = 2 f_t l_t`, so that every weighted loss is 1/2.
///
/// Costs nothing beside the one backward pass of a step.
///
/// Differences from TorchJD 0.18's `UW`: that one leaves the log variances to an optimizer of the
/// caller, and has the Gaussian factor only.
///
/// # References
///
/// - Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
///   Geometry and Semantics", CVPR 2018, arXiv 1705.07115, equations 7 and 10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UncertaintyWeighting {
    learning_rate: f64,
    tasks: Vec<Task>,
    /// Steps taken.
    step: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Task {
    likelihood: Likelihood,
    log_variance: f64,
    adam: Adam,
}

impl UncertaintyWeighting {
    /// The rule for `n_tasks`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if there are no tasks or a setting is out of range.
    pub fn new(n_tasks: usize, config: UncertaintyConfig) -> Result<Self, ConfigError> {
        ConfigError::require_nonzero("n_tasks", n_tasks)?;
        require_positive("learning_rate", config.learning_rate)?;
        require_finite("initial_log_variance", config.initial_log_variance)?;
        require_one_a_task("likelihoods", n_tasks, config.likelihoods.len())?;
        let tasks: Vec<Task> = (0..n_tasks)
            .map(|t| Task {
                likelihood: config.likelihoods.get(t).copied().unwrap_or_default(),
                log_variance: config.initial_log_variance,
                adam: Adam::default(),
            })
            .collect();
        Ok(Self {
            learning_rate: config.learning_rate,
            tasks,
            step: 0,
        })
    }

    /// The log variances `s_t`, `[T]`.
    #[must_use]
    pub fn log_variances(&self) -> Vec<f64> {
        self.tasks.iter().map(|task| task.log_variance).collect()
    }
}

impl LossWeighting for UncertaintyWeighting {
    fn name(&self) -> &'static str {
        "uncertainty"
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
        require_count("losses", self.tasks.len(), losses.len())?;
        // A negative loss has no variance that suits it: its weight would grow without bound.
        for (task, &loss) in losses.iter().enumerate() {
            if loss < 0.0 {
                return Err(WeightingError::LossOutOfRange {
                    method: self.name(),
                    task,
                    loss,
                    range: "[0, inf)",
                });
            }
        }
        let weights: Vec<f64> = self
            .tasks
            .iter()
            .map(|task| task.likelihood.factor() * (-task.log_variance).exp())
            .collect();
        let weights = finite(self.name(), weights)?;
        self.step += 1;
        for ((task, &weight), &loss) in self.tasks.iter_mut().zip(&weights).zip(losses) {
            let gradient = 0.5 - weight * loss;
            task.log_variance -= task.adam.step(gradient, self.learning_rate, self.step);
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variance_of_a_large_loss_grows() {
        let config = UncertaintyConfig {
            learning_rate: 0.1,
            ..UncertaintyConfig::default()
        };
        let mut rule = UncertaintyWeighting::new(2, config).unwrap();
        // exp(-0) / 2 for both; the derivatives are 1/2 - 4/2 = -1.5 and 1/2 - 0.5/2 = 0.25, and
        // the first step of Adam has the length 0.1 each.
        assert_eq!(rule.weights(&[4.0, 0.5], None).unwrap(), vec![0.5, 0.5]);
        let log_variances = rule.log_variances();
        assert!((log_variances[0] - 0.1).abs() < 1e-7);
        assert!((log_variances[1] + 0.1).abs() < 1e-7);
        let weights = rule.weights(&[4.0, 0.5], None).unwrap();
        assert!((weights[0] - 0.5 * (-0.1_f64).exp()).abs() < 1e-7);
        assert!((weights[1] - 0.5 * 0.1_f64.exp()).abs() < 1e-7);
    }

    #[test]
    fn at_rest_every_weighted_loss_is_one_half() {
        let config = UncertaintyConfig {
            learning_rate: 0.05,
            likelihoods: vec![Likelihood::Gaussian, Likelihood::Categorical],
            ..UncertaintyConfig::default()
        };
        let mut rule = UncertaintyWeighting::new(2, config).unwrap();
        let losses = [3.0, 0.2];
        for _ in 0..3000 {
            rule.weights(&losses, None).unwrap();
        }
        let weights = rule.weights(&losses, None).unwrap();
        // exp(s) = l = 3 gives 1 / (2 · 3); exp(s) = 2 l = 0.4 gives 1 / 0.4.
        assert!((weights[0] - 1.0 / 6.0).abs() < 1e-4, "{weights:?}");
        assert!((weights[1] - 2.5).abs() < 1e-3, "{weights:?}");
    }

    #[test]
    fn a_negative_loss_is_refused_and_changes_nothing() {
        let mut rule = UncertaintyWeighting::new(1, UncertaintyConfig::default()).unwrap();
        let before = rule.clone();
        let error = rule.weights(&[-0.5], None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`uncertainty` is defined for losses in [0, inf), and loss 0 is -0.5"
        );
        assert_eq!(rule, before);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let config = UncertaintyConfig {
            likelihoods: vec![Likelihood::Gaussian; 3],
            ..UncertaintyConfig::default()
        };
        assert!(UncertaintyWeighting::new(2, config).is_err());
        assert!(UncertaintyWeighting::new(0, UncertaintyConfig::default()).is_err());
    }
}
