//! Activations whose slope is taken along with them.
//!
//! burn's CPU backend takes them number by number on one thread, and what is dear about them again
//! in the backward pass. Where a tensor lies in the memory of this process it is taken on all
//! threads here, and on a tape together with its slope `s`; the tape then sees `x s + (f(x) - x s)`,
//! of which `s` and the bracket are constants.

use std::f64::consts::FRAC_1_SQRT_2;
use std::ops::{Mul, Sub};

use burn::tensor::activation;
use burn::tensor::{DType, Element, GradientCheckpointingStrategy, Tensor, TensorData};
use rayon::prelude::*;

use crate::fused::{
    CHUNK, gaussian_unit_with_slope, hyperbolic_tangent_with_slope, is_plain, map, numbers,
};
use crate::host::has_exact_gelu;
use crate::vector_math::vectorized;

/// `x Φ(x)`, exact, elementwise.
pub(crate) fn gaussian_unit<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F32 => elementwise(x, gaussian_unit_of_burn, gaussian_unit_with_slope),
        _ => gaussian_unit_of_burn(x),
    }
}

/// burn's, or its formula where burn's has an approximate backward pass.
fn gaussian_unit_of_burn<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.is_tracked() && !has_exact_gelu(&x.device()) {
        gaussian_unit_by_formula(x)
    } else {
        activation::gelu(x)
    }
}

fn gaussian_unit_by_formula<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let cumulative = ((x.clone() * FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
    x * cumulative
}

/// `tanh x`, elementwise.
pub(crate) fn hyperbolic_tangent<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F32 => elementwise(x, activation::tanh, hyperbolic_tangent_with_slope::<f32>),
        DType::F64 => elementwise(x, activation::tanh, hyperbolic_tangent_with_slope::<f64>),
        _ => activation::tanh(x),
    }
}

/// A function of numbers of type `E`, the one of `x`: `by_burn` is the same on tensors, and `curve`
/// gives value and slope.
fn elementwise<E, const D: usize>(
    x: Tensor<D>,
    by_burn: impl Fn(Tensor<D>) -> Tensor<D>,
    curve: impl Fn(E) -> (E, E) + Sync,
) -> Tensor<D>
where
    E: Element + Sub<Output = E> + Mul<Output = E>,
{
    let is_tracked = x.is_tracked();
    let is_recomputed =
        x.gradient_checkpointing_strategy() == Some(GradientCheckpointingStrategy::Balanced);
    // Where results are computed again, the slope would be kept.
    if is_tracked && is_recomputed || !is_plain::<E, D>(&x.clone().inner()) {
        by_burn(x)
    } else if is_tracked {
        on_tape(x, curve)
    } else {
        map(
            x,
            #[inline(always)]
            |x| curve(x).0,
        )
    }
}

fn on_tape<E, const D: usize>(x: Tensor<D>, curve: impl Fn(E) -> (E, E) + Sync) -> Tensor<D>
where
    E: Element + Sub<Output = E> + Mul<Output = E>,
{
    let shape = x.dims();
    let constant = x.clone().inner();
    let device = constant.device();
    let mut rests = constant.into_data();
    let mut slopes = vec![E::default(); shape.iter().product()];
    slopes
        .par_chunks_mut(CHUNK)
        .zip(numbers::<E>(&mut rests).par_chunks_mut(CHUNK))
        .for_each(|(slopes, numbers)| {
            vectorized(
                #[inline(always)]
                || {
                    for (slope, number) in slopes.iter_mut().zip(numbers) {
                        let x = *number;
                        let value;
                        (value, *slope) = curve(x);
                        *number = value - x * *slope;
                    }
                },
            );
        });
    let slopes = Tensor::from_data(TensorData::new(slopes, shape), (&device, E::dtype()));
    let rests = Tensor::from_data(rests, (&device, E::dtype()));
    x * slopes + rests
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    type Activation = fn(Tensor<2>) -> Tensor<2>;

    /// Ours, burn's, and the type of the numbers with a bound for values and gradients.
    const CASES: [(Activation, Activation, DType, f64); 5] = [
        (gaussian_unit, activation::gelu, DType::F32, 2e-6),
        (gaussian_unit_by_formula, activation::gelu, DType::F32, 2e-6),
        (
            gaussian_unit_by_formula,
            activation::gelu,
            DType::F64,
            1e-14,
        ),
        (hyperbolic_tangent, activation::tanh, DType::F32, 1e-6),
        (hyperbolic_tangent, activation::tanh, DType::F64, 4e-15),
    ];

    /// Over a chunk of numbers between -12 and 12.
    fn arbitrary(dtype: DType, device: &Device) -> Tensor<2> {
        let count = CHUNK + 6;
        let values: Vec<f64> = (0..count)
            .map(|at| 12.0 * (at as f64 * 0.3).sin())
            .collect();
        Tensor::from_data(TensorData::new(values, [2, count / 2]), (device, dtype))
    }

    fn largest_difference(a: Tensor<2>, b: Tensor<2>) -> f64 {
        (a - b).abs().max().into_scalar()
    }

    #[test]
    fn value_and_gradient_are_those_of_burn() {
        let device = Device::flex().autodiff();
        for (ours, burns, dtype, bound) in CASES {
            let run = |function: Activation| {
                let x = arbitrary(dtype, &device).require_grad();
                let y = function(x.clone());
                let weights = arbitrary(dtype, &device).cos();
                let gradients = (y.clone() * weights).sum().backward();
                (y.inner(), x.grad(&gradients).unwrap())
            };
            let (found, gradient) = run(ours);
            let (expected, expected_gradient) = run(burns);
            assert_eq!(found.dtype(), dtype);
            let value = largest_difference(found, expected);
            let slope = largest_difference(gradient, expected_gradient);
            assert!(value < bound && slope < bound, "{value}, {slope}");
        }
    }

    #[test]
    fn without_a_tape_the_value_is_burns() {
        let device = Device::flex();
        for (ours, burns, dtype, bound) in CASES {
            let x = arbitrary(dtype, &device);
            let kept = x.clone();
            let found = ours(x.clone());
            assert_eq!(found.dtype(), dtype);
            assert!(largest_difference(found, burns(x.clone())) < bound);
            // The argument, which somebody else holds as well, is as it was.
            assert_eq!(largest_difference(x, kept), 0.0);
        }
    }
}
