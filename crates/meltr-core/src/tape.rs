//! Tensors on the tape of a device.

use burn::tensor::kind::Autodiff;
use burn::tensor::{Device, Tensor};

/// `x` on the tape of `device`, or off it if `device` has none. Copies no data.
///
/// What [`Tensor::autodiff`] gives is on a tape that keeps all results for the backward pass, and
/// burn refuses to mix it with parameters on a tape that computes some of them again (gradient
/// checkpointing). Here `x` gets the tape that `device` has, so with the device of the parameters
/// it goes together with them.
///
/// # Shapes
///
/// - output: that of `x`
#[must_use]
pub fn on_tape_of<const D: usize, K: Autodiff>(x: Tensor<D, K>, device: &Device) -> Tensor<D, K> {
    match device.gradient_checkpointing_strategy() {
        Some(strategy) => x.autodiff().with_gradient_checkpointing_strategy(strategy),
        None => x.inner(),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Int;

    use super::*;

    #[test]
    fn a_tensor_gets_the_tape_that_the_device_has() {
        let plain = Device::default();
        let keeping = plain.clone().autodiff();
        let recomputing = keeping.clone().gradient_checkpointing();
        let mut x = Tensor::<1>::from_floats([1.0, 2.0], &plain);
        let mut ids = Tensor::<1, Int>::from_data([1, 0], &plain);
        // From each to the next, and back.
        for device in [&plain, &recomputing, &keeping, &recomputing, &plain] {
            x = on_tape_of(x, device);
            ids = on_tape_of(ids, device);
            let expected = device.gradient_checkpointing_strategy();
            assert_eq!(x.gradient_checkpointing_strategy(), expected);
            assert_eq!(ids.gradient_checkpointing_strategy(), expected);
        }
    }

    #[test]
    fn data_go_together_with_parameters_that_are_computed_again() {
        let plain = Device::default();
        let device = plain.clone().autodiff().gradient_checkpointing();
        let w = Tensor::<1>::from_floats([1.0, -1.0], &device).require_grad();
        let x = Tensor::<1>::from_floats([3.0, 4.0], &plain);
        let product = w.clone() * on_tape_of(x.clone(), &w.device());
        let gradient = w.grad(&product.sum().backward()).unwrap();
        gradient.into_data().assert_eq(&x.into_data(), true);
    }
}
