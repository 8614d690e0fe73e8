//! The term that ties the combined loss to the plain sum.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Which derivative of the regularizer the outer step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegularizedGradient {
    /// Only the part through the inner parameters; the direct derivative by the outer ones is
    /// dropped, as in the released code.
    #[default]
    AsReleased,
    /// The total derivative, direct part included.
    Total,
}

/// `gamma |sum_t l_t - g_phi(l)|`, added to the outer objective.
///
/// It compares the combined loss with the sum of all losses. With
/// [`RegularizedGradient::AsReleased`] the combined loss is not pulled towards the sum directly;
/// the term only changes the vector that the mixed product is taken with.
///
/// # References
///
/// - Reference code: `mlvlab/MELTR@669ad60`, all three ports; off by default for UniVL,
///   `gamma = 0.1` otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regularizer {
    /// Weight of the term, at least 0; 0 switches it off.
    pub gamma: f64,
    /// Which derivative is taken.
    #[serde(default)]
    pub gradient: RegularizedGradient,
}

impl Regularizer {
    /// No regularization.
    #[must_use]
    pub fn off() -> Self {
        Self {
            gamma: 0.0,
            gradient: RegularizedGradient::AsReleased,
        }
    }

    /// Whether the term is present.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.gamma > 0.0
    }

    /// The term itself.
    ///
    /// # Shapes
    ///
    /// - losses: `[T]`; combined: `[1]`
    /// - output: `[1]`
    #[must_use]
    pub fn penalty(&self, losses: Tensor<1>, combined: Tensor<1>) -> Tensor<1> {
        (losses.sum() - combined).abs() * self.gamma
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn the_penalty_is_the_weighted_distance_to_the_sum() {
        let device = Device::default();
        let regularizer = Regularizer {
            gamma: 0.5,
            ..Regularizer::off()
        };
        let losses = Tensor::<1>::from_floats([1.0, 2.0], &device);
        let penalty = regularizer.penalty(losses, Tensor::from_floats([7.0], &device));
        let penalty: f32 = penalty.into_scalar();
        assert_eq!(penalty, 2.0);
    }
}
