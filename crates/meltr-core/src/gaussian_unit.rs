//! The Gaussian error linear unit, `x Φ(x)`, with its slope taken along.

use burn::tensor::activation::gelu;
use burn::tensor::{DType, GradientCheckpointingStrategy, Tensor, TensorData};
use rayon::prelude::*;

use crate::fused::{self, CHUNK, gaussian_unit_with_slope, is_plain, numbers};
use crate::vector_math::vectorized;

/// `x Φ(x)`, exact, elementwise.
///
/// burn's CPU backend takes it number by number on one thread, and the error function again in the
/// backward pass. Where the tensor lies in the memory of this process it is taken on all threads
/// here, and on a tape together with its slope `s`; the tape then sees `x s + (x Φ(x) - x s)`, of
/// which `s` and the bracket are constants.
pub(crate) fn gaussian_unit<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !x.is_tracked() {
        return if is_plain(&x) {
            fused::gaussian_unit(x)
        } else {
            gelu(x)
        };
    }
    match x.gradient_checkpointing_strategy() {
        // The slope would be kept.
        Some(GradientCheckpointingStrategy::Balanced) => gelu(x),
        _ if is_plain(&x.clone().inner()) => tracked(x),
        _ => gelu(x),
    }
}

fn tracked<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let shape = x.dims();
    let constant = x.clone().inner();
    let device = constant.device();
    let mut rests = constant.into_data();
    let mut slopes = vec![0.0_f32; shape.iter().product()];
    slopes
        .par_chunks_mut(CHUNK)
        .zip(numbers(&mut rests).par_chunks_mut(CHUNK))
        .for_each(|(slopes, numbers)| {
            vectorized(
                #[inline(always)]
                || {
                    for (slope, number) in slopes.iter_mut().zip(numbers) {
                        let x = *number;
                        let value;
                        (value, *slope) = gaussian_unit_with_slope(x);
                        *number = value - x * *slope;
                    }
                },
            );
        });
    let slopes = Tensor::from_data(TensorData::new(slopes, shape), (&device, DType::F32));
    let rests = Tensor::from_data(rests, (&device, DType::F32));
    x * slopes + rests
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Over a chunk of numbers between -12 and 12.
    fn numbers(device: &Device) -> Tensor<2> {
        let count = CHUNK + 6;
        let values: Vec<f32> = (0..count)
            .map(|at| 12.0 * (at as f32 * 0.3).sin())
            .collect();
        Tensor::from_data(TensorData::new(values, [2, count / 2]), device)
    }

    fn largest_difference(a: Tensor<2>, b: Tensor<2>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    #[test]
    fn value_and_gradient_are_those_of_burn() {
        let device = Device::flex().autodiff();
        let run = |unit: fn(Tensor<2>) -> Tensor<2>| {
            let x = numbers(&device).require_grad();
            let y = unit(x.clone());
            let slope = numbers(&device).cos();
            let gradients = (y.clone() * slope).sum().backward();
            (y.inner(), x.grad(&gradients).unwrap())
        };
        let (found, gradient) = run(gaussian_unit);
        let (expected, expected_gradient) = run(gelu);
        assert!(largest_difference(found, expected) < 2e-6);
        assert!(largest_difference(gradient, expected_gradient) < 1e-6);
    }

    #[test]
    fn without_a_tape_the_value_is_burns() {
        let device = Device::flex();
        let x = numbers(&device);
        let kept = x.clone();
        let found = gaussian_unit(x.clone());
        assert!(largest_difference(found, gelu(x.clone())) < 1e-6);
        // The argument, which somebody else holds as well, is as it was.
        assert_eq!(largest_difference(x, kept), 0.0);
    }
}
