//! Weights that are given and stay as they are.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

use super::checks::{finite, require_count, require_losses, require_not_negative};
use super::error::WeightingError;
use super::gramian::Gramian;
use super::loss_weighting::{LossWeighting, Needs};

/// Weights of a person's choice, or those that another rule ended with.
///
/// Costs nothing beside the one backward pass of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedWeights {
    weights: Vec<f64>,
}

impl FixedWeights {
    /// One weight a task, each finite and at least 0.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if there is none or one is out of range.
    pub fn new(weights: Vec<f64>) -> Result<Self, ConfigError> {
        ConfigError::require_nonzero("weights", weights.len())?;
        for &weight in &weights {
            require_not_negative("weights", weight)?;
        }
        Ok(Self { weights })
    }
}

impl LossWeighting for FixedWeights {
    fn name(&self) -> &'static str {
        "fixed"
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
        require_count("losses", self.weights.len(), losses.len())?;
        finite(self.name(), self.weights.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_come_back() {
        let mut rule = FixedWeights::new(vec![0.5, 2.0]).unwrap();
        assert_eq!(rule.weights(&[1.0, 1.0], None).unwrap(), vec![0.5, 2.0]);
        let error = rule.weights(&[1.0], None).unwrap_err();
        assert_eq!(error.to_string(), "losses: 1 given, 2 expected, one a task");
    }

    #[test]
    fn a_negative_weight_is_refused() {
        assert!(FixedWeights::new(vec![1.0, -1.0]).is_err());
        assert!(FixedWeights::new(Vec::new()).is_err());
    }
}
