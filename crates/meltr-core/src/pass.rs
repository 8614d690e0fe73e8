//! Whether a forward pass draws dropout masks, and from which seed.

use burn::tensor::{Device, Distribution, Tensor};

/// How a forward pass treats dropout.
///
/// Two stochastic passes with the same seed draw the same masks as long as they run the same
/// operations in the same order on the same device, so all passes that make up one hypergradient
/// see the same network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// No dropout.
    Evaluation,
    /// Dropout, with masks drawn from the device's generator after it was seeded with `seed`.
    Stochastic {
        /// Seed of the masks.
        seed: u64,
    },
}

impl Pass {
    /// Seeds the generator of `device` if this pass is stochastic.
    ///
    /// A model calls this once, at the start of a forward pass. The generator belongs to the
    /// whole process on some backends: two threads must not run stochastic passes at a time.
    pub fn begin(&self, device: &Device) {
        if let Self::Stochastic { seed } = self {
            device.seed(*seed);
        }
    }

    /// Whether dropout is on.
    #[must_use]
    pub fn is_stochastic(&self) -> bool {
        matches!(self, Self::Stochastic { .. })
    }
}

/// Inverted dropout: zeroes elements with probability `prob`, scales the others by `1/(1 - prob)`.
///
/// Unlike burn's layer this also acts on tensors without a tape, since the passes of a difference
/// quotient have to see the masks of the pass that they perturb.
///
/// # Shapes
///
/// - x: any; output: the same
#[must_use]
pub fn dropout<const D: usize>(x: Tensor<D>, prob: f64, pass: Pass) -> Tensor<D> {
    match dropout_mask(&x, prob, pass) {
        Some(mask) => x * mask,
        None => x,
    }
}

/// The scaled mask that [`dropout`] multiplies with; `None` where dropout is off.
pub(crate) fn dropout_mask<const D: usize>(
    x: &Tensor<D>,
    prob: f64,
    pass: Pass,
) -> Option<Tensor<D>> {
    if prob == 0.0 || !pass.is_stochastic() {
        return None;
    }
    let keep = 1.0 - prob;
    Some(x.random_like(Distribution::Bernoulli(keep)) / keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_mask_with_and_without_a_tape() {
        let device = Device::default();
        let pass = Pass::Stochastic { seed: 3 };
        let plain = Tensor::<2>::ones([8, 16], &device);
        let taped = Tensor::<2>::ones([8, 16], &device.clone().autodiff());
        pass.begin(&device);
        let first = dropout(plain, 0.5, pass);
        pass.begin(&device);
        let second = dropout(taped, 0.5, pass);
        first
            .clone()
            .into_data()
            .assert_eq(&second.inner().into_data(), true);
        let mean: f32 = first.mean().into_scalar();
        assert!(
            (0.7..1.3).contains(&mean),
            "mean of an inverted mask is near 1: {mean}"
        );
    }
}
