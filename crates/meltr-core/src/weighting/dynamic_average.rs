//! Dynamic weight average: more weight to the losses that fall slowly.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

use super::checks::{finite, require_count, require_losses, require_positive};
use super::error::WeightingError;
use super::gramian::Gramian;
use super::loss_weighting::{LossWeighting, Needs};
use super::softmax::softmax;

/// Weights `lambda_t = T softmax_t(r_t / temperature)` by the rates `r_t = L_t(e-1) / L_t(e-2)`,
/// where `L_t(e)` is the average of loss `t` over epoch `e`.
///
/// The weights add up to `T`. They are 1 in the first two epochs. The training loop has to call
/// [`end_epoch`](LossWeighting::end_epoch); where an epoch is too long or is never completed, any
/// fixed number of steps serves as one.
///
/// Costs nothing beside the one backward pass of a step.
///
/// # References
///
/// - Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, arXiv
///   1803.10704, equation 7; the temperature there is 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicWeightAverage {
    temperature: f64,
    tasks: Vec<History>,
    /// Steps of this epoch.
    steps: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    /// Sum of the losses of this epoch.
    sum: f64,
    /// Average of the last epoch.
    last: Option<f64>,
    /// Average of the epoch before it.
    before: Option<f64>,
}

impl DynamicWeightAverage {
    /// The rule for `n_tasks`; a larger temperature makes the weights more equal.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if there are no tasks or the temperature is not positive.
    pub fn new(n_tasks: usize, temperature: f64) -> Result<Self, ConfigError> {
        ConfigError::require_nonzero("n_tasks", n_tasks)?;
        require_positive("temperature", temperature)?;
        Ok(Self {
            temperature,
            tasks: vec![History::default(); n_tasks],
            steps: 0,
        })
    }

    /// The weights of this epoch.
    fn current(&self) -> Vec<f64> {
        let mut scaled_rates: Vec<f64> = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            if let (Some(last), Some(before)) = (task.last, task.before) {
                scaled_rates.push(last / before / self.temperature);
            }
        }
        let n_tasks = self.tasks.len() as f64;
        if scaled_rates.len() < self.tasks.len() {
            vec![1.0; self.tasks.len()]
        } else {
            let shares = softmax(&scaled_rates);
            shares.iter().map(|share| n_tasks * share).collect()
        }
    }
}

impl LossWeighting for DynamicWeightAverage {
    fn name(&self) -> &'static str {
        "dynamic_weight_average"
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
        let weights = finite(self.name(), self.current())?;
        for (task, loss) in self.tasks.iter_mut().zip(losses) {
            task.sum += loss;
        }
        self.steps += 1;
        Ok(weights)
    }

    /// Averages the losses of the epoch. Without a step since the last call, nothing happens.
    fn end_epoch(&mut self) -> Result<(), WeightingError> {
        if self.steps == 0 {
            return Ok(());
        }
        let steps = self.steps as f64;
        // A rate is a ratio of averages, and falls with a loss only if both are positive.
        for (number, task) in self.tasks.iter().enumerate() {
            let average = task.sum / steps;
            if !(average > 0.0 && average.is_finite()) {
                return Err(WeightingError::LossOutOfRange {
                    method: self.name(),
                    task: number,
                    loss: average,
                    range: "(0, inf), on average over an epoch",
                });
            }
        }
        for task in &mut self.tasks {
            task.before = task.last;
            task.last = Some(task.sum / steps);
            task.sum = 0.0;
        }
        self.steps = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_that_stands_still_gets_more_weight() {
        let mut rule = DynamicWeightAverage::new(2, 2.0).unwrap();
        // Epoch 0 has the averages (1, 1), epoch 1 (1, 0.5).
        for losses in [[0.5, 1.5], [1.5, 0.5]] {
            assert_eq!(rule.weights(&losses, None).unwrap(), vec![1.0, 1.0]);
        }
        rule.end_epoch().unwrap();
        assert_eq!(rule.weights(&[1.0, 0.5], None).unwrap(), vec![1.0, 1.0]);
        rule.end_epoch().unwrap();
        // Rates 1 and 0.5, over the temperature 0.5 and 0.25:
        // 2 / (1 + exp(-0.25)) = 1.124353, 2 / (1 + exp(0.25)) = 0.875647.
        let weights = rule.weights(&[1.0, 0.5], None).unwrap();
        assert!((weights[0] - 1.124_353).abs() < 1e-6, "{weights:?}");
        assert!((weights[1] - 0.875_647).abs() < 1e-6, "{weights:?}");
    }

    #[test]
    fn an_epoch_without_steps_changes_nothing() {
        let mut rule = DynamicWeightAverage::new(1, 2.0).unwrap();
        let before = rule.clone();
        rule.end_epoch().unwrap();
        assert_eq!(rule, before);
    }

    #[test]
    fn an_average_of_zero_is_refused() {
        let mut rule = DynamicWeightAverage::new(2, 2.0).unwrap();
        rule.weights(&[1.0, 0.0], None).unwrap();
        let error = rule.end_epoch().unwrap_err();
        assert!(matches!(
            error,
            WeightingError::LossOutOfRange { task: 1, .. }
        ));
    }

    #[test]
    fn a_temperature_of_zero_is_refused() {
        assert!(DynamicWeightAverage::new(2, 0.0).is_err());
    }
}
