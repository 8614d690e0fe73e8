//! GradNorm: weights that balance the gradient norms of the tasks.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

use super::adam::Adam;
use super::checks::{
    finite, require_count, require_gramian, require_not_negative, require_positive,
};
use super::error::WeightingError;
use super::gramian::Gramian;
use super::loss_weighting::{LossWeighting, Needs};

/// A weight is not let below this. The paper's weights stay positive by small learning rates only.
const SMALLEST_WEIGHT: f64 = 1e-4;

/// Settings of [`GradNorm`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GradNormConfig {
    /// `alpha`, at least 0: how strongly tasks that lag behind are pulled along. The paper takes
    /// 1.5 for its scenes and 0.12 for its toy.
    pub alpha: f64,
    /// Learning rate of the weights, positive.
    pub learning_rate: f64,
}

impl Default for GradNormConfig {
    fn default() -> Self {
        Self {
            alpha: 1.5,
            learning_rate: 0.025,
        }
    }
}

/// Learned weights `w_t` that bring each `G_t = w_t |g_t|` to a target of its own.
///
/// ```text
/// r_t     = (l_t / l_t(0)) / mean_s (l_s / l_s(0))        relative inverse training rate
/// target  = mean_s(G_s) r_t^alpha                         held fixed
/// L_grad  = sum_t |G_t - target_t|
/// ```
///
/// Each call gives the present weights, all 1 at first, and then takes one step of Adam on
/// `L_grad`, whose derivative is `sign(G_t - target_t) |g_t|`, and rescales the weights to add up
/// to `T`. The losses of the first call are the `l_t(0)`. If all losses are 0 the rates are 1; if
/// all gradients are 0 no weight has a reason to change.
///
/// Costs `T` backward passes instead of one. Of the Gramian only the diagonal is used. The paper
/// takes the gradients by the last shared layer alone, which makes the passes cheap: then hand in
/// the Gramian of that layer.
///
/// The paper leaves the optimizer of the weights open; here it is Adam.
///
/// # References
///
/// - Chen, Badrinarayanan, Lee and Rabinovich, "GradNorm: Gradient Normalization for Adaptive Loss
///   Balancing in Deep Multitask Networks", ICML 2018, arXiv 1711.02257, Algorithm 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradNorm {
    config: GradNormConfig,
    tasks: Vec<Task>,
    /// Steps taken.
    step: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Task {
    weight: f64,
    initial_loss: Option<f64>,
    adam: Adam,
}

impl GradNorm {
    /// The rule for `n_tasks`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if there are no tasks or a setting is out of range.
    pub fn new(n_tasks: usize, config: GradNormConfig) -> Result<Self, ConfigError> {
        ConfigError::require_nonzero("n_tasks", n_tasks)?;
        require_not_negative("alpha", config.alpha)?;
        require_positive("learning_rate", config.learning_rate)?;
        let task = Task {
            weight: 1.0,
            initial_loss: None,
            adam: Adam::default(),
        };
        Ok(Self {
            config,
            tasks: vec![task; n_tasks],
            step: 0,
        })
    }

    /// `l_t / l_t(0)`, `[T]`.
    fn loss_ratios(&self, losses: &[f64]) -> Result<Vec<f64>, WeightingError> {
        let mut ratios: Vec<f64> = Vec::with_capacity(losses.len());
        for (number, (task, &loss)) in self.tasks.iter().zip(losses).enumerate() {
            let first = task.initial_loss.is_none();
            if loss < 0.0 || (first && loss == 0.0) {
                return Err(WeightingError::LossOutOfRange {
                    method: self.name(),
                    task: number,
                    loss,
                    range: "[0, inf), positive at the first step",
                });
            }
            ratios.push(loss / task.initial_loss.unwrap_or(loss));
        }
        Ok(ratios)
    }
}

impl LossWeighting for GradNorm {
    fn name(&self) -> &'static str {
        "grad_norm"
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
        require_count("losses", self.tasks.len(), losses.len())?;
        let ratios = self.loss_ratios(losses)?;
        let weights: Vec<f64> = self.tasks.iter().map(|task| task.weight).collect();
        let weights = finite(self.name(), weights)?;

        let n_tasks = losses.len() as f64;
        let mean_ratio = ratios.iter().sum::<f64>() / n_tasks;
        let lengths: Vec<f64> = (0..losses.len())
            .map(|t| gramian.product(t, t).sqrt())
            .collect();
        let weighted: Vec<f64> = weights.iter().zip(&lengths).map(|(w, l)| w * l).collect();
        let mean_length = weighted.iter().sum::<f64>() / n_tasks;
        let mut gradients: Vec<f64> = Vec::with_capacity(losses.len());
        for ((ratio, length), own) in ratios.iter().zip(&lengths).zip(&weighted) {
            let rate = if mean_ratio > 0.0 {
                ratio / mean_ratio
            } else {
                1.0
            };
            let distance = own - mean_length * rate.powf(self.config.alpha);
            gradients.push(if distance > 0.0 {
                *length
            } else if distance < 0.0 {
                -*length
            } else {
                0.0
            });
        }

        self.step += 1;
        for ((task, &gradient), &loss) in self.tasks.iter_mut().zip(&gradients).zip(losses) {
            let moved = task
                .adam
                .step(gradient, self.config.learning_rate, self.step);
            task.weight = (task.weight - moved).max(SMALLEST_WEIGHT);
            task.initial_loss = Some(task.initial_loss.unwrap_or(loss));
        }
        let total: f64 = self.tasks.iter().map(|task| task.weight).sum();
        for task in &mut self.tasks {
            task.weight *= n_tasks / total;
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_gradient_loses_weight() {
        let gramian = Gramian::from_gradients(&[[1.0, 0.0], [0.0, 3.0]]).unwrap();
        let mut rule = GradNorm::new(2, GradNormConfig::default()).unwrap();
        let losses = [5.0, 1.0];
        // G = (1, 3), their mean 2 is the target of both since no loss has changed; the
        // derivatives are -1 and 3, and the first step of Adam has the length 0.025.
        assert_eq!(
            rule.weights(&losses, Some(&gramian)).unwrap(),
            vec![1.0, 1.0]
        );
        let weights = rule.weights(&losses, Some(&gramian)).unwrap();
        assert!((weights[0] - 1.025).abs() < 1e-7, "{weights:?}");
        assert!((weights[1] - 0.975).abs() < 1e-7, "{weights:?}");
    }

    #[test]
    fn weights_settle_where_the_norms_are_as_the_rates() {
        let gramian = Gramian::from_gradients(&[[1.0, 0.0], [0.0, 3.0]]).unwrap();
        let config = GradNormConfig {
            alpha: 0.0,
            learning_rate: 0.001,
        };
        let mut rule = GradNorm::new(2, config).unwrap();
        for _ in 0..4000 {
            rule.weights(&[1.0, 1.0], Some(&gramian)).unwrap();
        }
        // w_0 = 3 w_1 and w_0 + w_1 = 2.
        let weights = rule.weights(&[1.0, 1.0], Some(&gramian)).unwrap();
        assert!((weights[0] - 1.5).abs() < 0.05, "{weights:?}");
        assert!((weights.iter().sum::<f64>() - 2.0).abs() < 1e-12);
    }

    #[test]
    fn zero_gradients_and_zero_losses_leave_the_weights_alone() {
        let zero = Gramian::from_products(2, &[0.0; 4]).unwrap();
        let mut rule = GradNorm::new(2, GradNormConfig::default()).unwrap();
        for losses in [[1.0, 2.0], [0.5, 2.0], [0.0, 0.0]] {
            assert_eq!(rule.weights(&losses, Some(&zero)).unwrap(), vec![1.0, 1.0]);
        }
    }

    #[test]
    fn a_first_loss_of_zero_is_refused() {
        let zero = Gramian::from_products(2, &[0.0; 4]).unwrap();
        let mut rule = GradNorm::new(2, GradNormConfig::default()).unwrap();
        let before = rule.clone();
        assert!(rule.weights(&[1.0, 0.0], Some(&zero)).is_err());
        assert_eq!(rule, before);
        assert_eq!(
            rule.weights(&[1.0, 1.0], None).unwrap_err(),
            WeightingError::MissingGramian {
                method: "grad_norm"
            }
        );
    }
}
