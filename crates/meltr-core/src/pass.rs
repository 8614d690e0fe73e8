//! Whether a forward pass draws dropout masks, and from which seed.

use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use crate::host::is_on_host;

/// Numbers of a mask that are drawn from one stream. Fixed, so that a mask does not depend on how
/// many threads draw it.
const CHUNK: usize = 1 << 16;

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
    Some(if x.dtype() == DType::F32 && is_on_host(&x.device()) {
        mask_on_host(x, keep)
    } else {
        x.random_like(Distribution::Bernoulli(keep)) / keep
    })
}

/// The scaled mask of a tensor in the memory of this process.
///
/// burn's CPU backend draws masks number by number on one thread, which takes more time in a
/// training step than all layer normalizations. Here the device's generator gives the seed, and
/// the mask is drawn from it on all threads.
fn mask_on_host<const D: usize>(x: &Tensor<D>, keep: f64) -> Tensor<D> {
    let device = x.device();
    // 24 random bits a number.
    let parts = Tensor::<1>::random([3], Distribution::Default, &device).into_data();
    let seed = parts.iter::<f64>().fold(0_u64, |seed, part| {
        (seed << 24) | (part * 16_777_216.0) as u64
    });
    let threshold = (keep * 4_294_967_296.0).round() as u64;
    let scale = (1.0 / keep) as f32;
    let shape = x.dims();
    let mut values = vec![0.0_f32; shape.iter().product()];
    values
        .par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(index, values)| {
            let mut stream = ChaCha8Rng::seed_from_u64(seed);
            stream.set_stream(index as u64);
            for value in values {
                let is_kept = u64::from(stream.next_u32()) < threshold;
                *value = if is_kept { scale } else { 0.0 };
            }
        });
    Tensor::from_data(TensorData::new(values, shape), (&device, DType::F32))
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

    #[test]
    fn a_mask_keeps_its_share_and_repeats_no_chunk() {
        let device = Device::default();
        let pass = Pass::Stochastic { seed: 4 };
        let ones = Tensor::<2>::ones([3, CHUNK], &device);
        pass.begin(&device);
        let mask: Vec<f32> = dropout(ones, 0.1, pass).into_data().iter::<f32>().collect();
        let n_kept = mask.iter().filter(|value| **value != 0.0).count();
        assert!(
            mask.iter()
                .all(|value| *value == 0.0 || (*value - 1.0 / 0.9).abs() < 1e-6)
        );
        let share = n_kept as f64 / mask.len() as f64;
        // Four standard deviations.
        assert!(
            (share - 0.9).abs() < 4.0 * (0.09 / mask.len() as f64).sqrt(),
            "{share}"
        );
        assert_ne!(mask[..CHUNK], mask[CHUNK..2 * CHUNK]);
        assert_ne!(mask[..CHUNK], mask[2 * CHUNK..]);
    }
}
