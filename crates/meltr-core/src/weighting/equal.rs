//! The same weight for every task.

use serde::{Deserialize, Serialize};

use super::checks::require_losses;
use super::error::WeightingError;
use super::gramian::Gramian;
use super::loss_weighting::{LossWeighting, Needs};

/// Equal weights, the plain multi-task baseline.
///
/// Costs nothing beside the one backward pass of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EqualWeights {
    /// `w_t = 1`: the sum of the losses.
    Sum,
    /// `w_t = 1 / T`: the mean of the losses.
    Mean,
}

impl LossWeighting for EqualWeights {
    fn name(&self) -> &'static str {
        "equal"
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
        let weight = match self {
            Self::Sum => 1.0,
            Self::Mean => 1.0 / losses.len() as f64,
        };
        Ok(vec![weight; losses.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_has_weights_that_add_up_to_one() {
        let losses = [3.0, 1.0, 2.0, 0.0];
        assert_eq!(
            EqualWeights::Mean.weights(&losses, None).unwrap(),
            vec![0.25; 4]
        );
        assert_eq!(
            EqualWeights::Sum.weights(&losses, None).unwrap(),
            vec![1.0; 4]
        );
    }

    #[test]
    fn a_loss_that_is_not_finite_is_named() {
        let error = EqualWeights::Sum
            .weights(&[1.0, f64::INFINITY], None)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "loss 1 is inf; every loss has to be finite"
        );
        let error = EqualWeights::Sum.weights(&[], None).unwrap_err();
        assert_eq!(error, WeightingError::NoTasks);
    }
}
