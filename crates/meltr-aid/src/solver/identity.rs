//! The identity in the place of the inverse Hessian.

use serde::{Deserialize, Serialize};

use super::{LinearSolver, Solution, SymmetricOperator};
use crate::error::HypergradientError;
use crate::params::ParamVector;

/// `u = v`: no product with the Hessian.
///
/// Right in direction where the inner Hessian is close to a multiple of the identity; the length
/// of the hypergradient carries no meaning beyond that.
///
/// # References
///
/// - Luketina et al., [Scalable Gradient-Based Tuning of Continuous Regularization
///   Hyperparameters](https://arxiv.org/abs/1511.06727), ICML 2016.
/// - Ko et al., [MELTR: Meta Loss Transformer for Learning to Fine-Tune Video Foundation
///   Models](https://arxiv.org/abs/2303.13009), CVPR 2023.
/// - Reference code: `mlvlab/MELTR@669ad60`, class `MELTRgrad`, which takes the same product by a
///   second backward pass through the backbone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {}

impl LinearSolver for Identity {
    fn name(&self) -> &'static str {
        "identity"
    }

    fn solve(
        &mut self,
        _operator: &mut dyn SymmetricOperator,
        v: &ParamVector,
    ) -> Result<Solution, HypergradientError> {
        Ok(Solution {
            vector: v.clone(),
            ..Solution::default()
        })
    }
}
