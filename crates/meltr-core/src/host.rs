//! What has to be known of a device.

use burn::tensor::Device;

/// Whether the tensors of `device` lie in the memory of this process, so that reading one that
/// nobody shares, or making one of host data, copies nothing.
///
/// True for burn's CPU backend flex. Its elementwise operations are a pass over memory each, on one
/// thread; where a formula has many of them, host code can take them together on all threads.
#[must_use]
pub fn is_on_host(device: &Device) -> bool {
    is_of_backend(device, "Flex")
}

/// Whether burn's Gaussian error linear unit has an exact backward pass on `device`.
///
/// burn-flex and burn-tch have one of their own. That of all others (burn-backend 0.22.1) is the
/// one of the approximation by the hyperbolic tangent, by which gradients of BERT's layers were off
/// by 3e-4 of their norm.
pub(crate) fn has_exact_gelu(device: &Device) -> bool {
    is_of_backend(device, "Flex") || is_of_backend(device, "LibTorch")
}

/// burn tells a device's backend by its name alone, unless the backend is compiled in, and a library
/// here names none.
fn is_of_backend(device: &Device, name: &str) -> bool {
    format!("{device:?}").contains(&format!("{name}("))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flex_is_on_the_host_with_and_without_a_tape() {
        let device = Device::flex();
        assert!(is_on_host(&device));
        assert!(is_on_host(&device.clone().autodiff()));
        assert!(is_on_host(&device.autodiff().gradient_checkpointing()));
    }
}
