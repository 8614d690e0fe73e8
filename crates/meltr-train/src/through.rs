//! What hypergradients are taken through.

use burn::module::ParamId;
use meltr_aid::{EstimatorConfig, OptimizerState, ParamVector, UpdateRule};
use meltr_core::ConfigError;
use serde::{Deserialize, Serialize};

/// What the hypergradient of an outer step is taken through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// The condition that the backbone is at a minimum of the combined loss, with the estimator of
    /// choice for the inverse Hessian, on batches from the history: as published.
    #[default]
    Minimum,
    /// The inner step that was just taken, on its own batch, as if it were plain descent.
    Descent,
    /// The inner step that was just taken, on its own batch, through BertAdam.
    Step,
}

impl Through {
    /// The rule of the step, if it is through one; `optimizer` is that of the inner steps.
    pub(crate) fn rule(self, optimizer: UpdateRule) -> Option<UpdateRule> {
        match self {
            Self::Minimum => None,
            Self::Descent => Some(UpdateRule::Sgd { learning_rate: 1.0 }),
            Self::Step => Some(optimizer),
        }
    }

    /// Checks what else is set for outer steps.
    pub(crate) fn validate(
        self,
        per_unit_step: bool,
        estimator: &EstimatorConfig,
    ) -> Result<(), ConfigError> {
        match self {
            Self::Minimum if per_unit_step => Err(ConfigError::Unsupported {
                key: "per_unit_step",
                value: "true",
                reason: "there is no step in a hypergradient through a minimum; set `through` to \
                         `step` or `descent`",
            }),
            Self::Descent | Self::Step if *estimator != EstimatorConfig::Identity => {
                Err(ConfigError::Unsupported {
                    key: "estimator",
                    value: "another than identity",
                    reason: "a hypergradient through a step solves for no inverse Hessian; set \
                             `through` to `minimum`, or leave the estimator out",
                })
            }
            _ => Ok(()),
        }
    }
}

/// An inner step that was taken.
pub(crate) struct StepTaken<M> {
    /// The backbone before it.
    pub(crate) before: M,
    /// What it was taken along, clipped as a whole.
    pub(crate) gradient: ParamVector,
    /// The moments before it.
    pub(crate) state: OptimizerState,
    /// Factors on the learning rates.
    pub(crate) rate_factors: Vec<(ParamId, f64)>,
}
