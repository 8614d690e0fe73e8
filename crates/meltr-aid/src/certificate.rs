//! What is known about the quality and cost of a hypergradient.

use serde::{Deserialize, Serialize};

/// How a hypergradient was obtained and how good it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Name of the estimator.
    pub estimator: String,
    /// How the directional derivatives were obtained: `forward_mode`,
    /// `central_difference` or `reverse_passes`.
    pub product: String,
    /// Difference step `h` in `w ± h u`, where one was used.
    pub difference_step: Option<f64>,
    /// Estimated error of the directional derivatives relative to their norm: from halving the
    /// step where that was done at this step, otherwise carried over from the last time it was.
    pub estimated_error: Option<f64>,
    /// Forward passes of the inner model without a tape; one that carries tangents costs about
    /// three.
    pub forward_passes: usize,
    /// Forward-and-backward passes of the inner model.
    pub backward_passes: usize,
}
