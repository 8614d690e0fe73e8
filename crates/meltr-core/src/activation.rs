//! Activations whose slope is taken along with them.
//!
//! burn's CPU backend takes them number by number on one thread, and what is dear about them again
//! in the backward pass. Where a tensor lies in the memory of this process it is taken on all
//! threads here, and on a tape together with its slope `s`; the tape then sees `x s + (f(x) - x s)`,
//! of which `s` and the bracket are constants.
//!
//! With a tangent `x'` the bend `k = x' f''(x)` is taken along as well, and the tape sees
//! `z s + f(x)` and `z k + x' s` of `z = x - c`, where `s`, `f(x)`, `k` and `c = x` are constants:
//! `z` is zero, and passes gradients on.

use std::f64::consts::FRAC_1_SQRT_2;
use std::ops::{Mul, Sub};

use burn::tensor::activation;
use burn::tensor::{DType, Element, GradientCheckpointingStrategy, Tensor, TensorData};
use rayon::prelude::*;

use crate::fused::{
    self, CHUNK, gaussian_unit_with_bend, gaussian_unit_with_slope, hyperbolic_tangent_with_bend,
    hyperbolic_tangent_with_slope, is_plain, map, numbers,
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

/// `x Φ(x)` and its derivative along `tangent`, elementwise.
pub(crate) fn gaussian_unit_along<const D: usize>(
    x: Tensor<D>,
    tangent: Tensor<D>,
) -> (Tensor<D>, Tensor<D>) {
    if can_be_along::<f32, D>(&x, &tangent) {
        return if x.is_tracked() || tangent.is_tracked() {
            along(x, tangent, gaussian_unit_with_bend)
        } else {
            fused::gaussian_unit_along(x, tangent)
        };
    }
    gaussian_unit_along_by_formula(x, tangent)
}

fn gaussian_unit_along_by_formula<const D: usize>(
    x: Tensor<D>,
    tangent: Tensor<D>,
) -> (Tensor<D>, Tensor<D>) {
    // The error function is by far the dearest part: take it once.
    let cumulative = ((x.clone() * FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
    let density = (x.clone().square() * -0.5).exp() * FRAC_1_SQRT_2PI;
    let slope = cumulative.clone() + x.clone() * density;
    (x * cumulative, tangent * slope)
}

/// `tanh x` and its derivative along `tangent`, elementwise.
pub(crate) fn hyperbolic_tangent_along<const D: usize>(
    x: Tensor<D>,
    tangent: Tensor<D>,
) -> (Tensor<D>, Tensor<D>) {
    if can_be_along::<f32, D>(&x, &tangent) {
        return if x.is_tracked() || tangent.is_tracked() {
            along(x, tangent, hyperbolic_tangent_with_bend::<f32>)
        } else {
            fused::hyperbolic_tangent_along(x, tangent)
        };
    }
    if can_be_along::<f64, D>(&x, &tangent) {
        return along(x, tangent, hyperbolic_tangent_with_bend::<f64>);
    }
    hyperbolic_tangent_along_by_formula(x, tangent)
}

fn hyperbolic_tangent_along_by_formula<const D: usize>(
    x: Tensor<D>,
    tangent: Tensor<D>,
) -> (Tensor<D>, Tensor<D>) {
    let value = hyperbolic_tangent(x);
    let slope = value.clone().square().neg() + 1.0;
    (value, tangent * slope)
}

/// Density of the normal distribution at 0.
const FRAC_1_SQRT_2PI: f64 = 0.398_942_280_401_432_7;

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
    if !can_be_taken::<E, D>(&x) {
        by_burn(x)
    } else if x.is_tracked() {
        on_tape(x, curve)
    } else {
        map(
            x,
            #[inline(always)]
            |x| curve(x).0,
        )
    }
}

/// Whether `x` is of the type `E` and in the memory of this process, and is not computed again in
/// a backward pass: what is taken along with a value would be kept.
fn can_be_taken<E: Element, const D: usize>(x: &Tensor<D>) -> bool {
    let is_recomputed =
        x.gradient_checkpointing_strategy() == Some(GradientCheckpointingStrategy::Balanced);
    !(x.is_tracked() && is_recomputed) && is_plain::<E, D>(&x.clone().inner())
}

fn can_be_along<E: Element, const D: usize>(x: &Tensor<D>, tangent: &Tensor<D>) -> bool {
    can_be_taken::<E, D>(x) && can_be_taken::<E, D>(tangent) && x.dims() == tangent.dims()
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

/// A function and its derivative along `tangent`, on the tapes of both; `curve` gives value, slope
/// and bend (the second derivative).
fn along<E, const D: usize>(
    x: Tensor<D>,
    tangent: Tensor<D>,
    curve: impl Fn(E) -> (E, E, E) + Sync,
) -> (Tensor<D>, Tensor<D>)
where
    E: Element + Mul<Output = E>,
{
    let shape = x.dims();
    let device = x.device();
    let constant = x.clone().inner();
    let mut values = constant.clone().into_data();
    let mut bends = tangent.clone().inner().into_data();
    let mut slopes = vec![E::default(); shape.iter().product()];
    slopes
        .par_chunks_mut(CHUNK)
        .zip(numbers::<E>(&mut values).par_chunks_mut(CHUNK))
        .zip(numbers::<E>(&mut bends).par_chunks_mut(CHUNK))
        .for_each(|((slopes, values), bends)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((slope, value), bend) in slopes.iter_mut().zip(values).zip(bends) {
                        let second;
                        (*value, *slope, second) = curve(*value);
                        *bend = *bend * second;
                    }
                },
            );
        });
    let tensor = |data: TensorData| Tensor::<D>::from_data(data, (&device, E::dtype()));
    let (values, slopes) = (tensor(values), tensor(TensorData::new(slopes, shape)));
    let change = tangent * slopes.clone();
    if !x.is_tracked() {
        return (values, change);
    }
    let zero = x - constant;
    (
        zero.clone() * slopes + values,
        zero * tensor(bends) + change,
    )
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

    type Along = fn(Tensor<2>, Tensor<2>) -> (Tensor<2>, Tensor<2>);

    /// Ours, the formula, and the type of the numbers with a bound.
    const ALONG: [(Along, Along, DType, f64); 3] = [
        (
            gaussian_unit_along,
            gaussian_unit_along_by_formula,
            DType::F32,
            2e-5,
        ),
        (
            hyperbolic_tangent_along,
            hyperbolic_tangent_along_by_formula,
            DType::F32,
            2e-5,
        ),
        (
            hyperbolic_tangent_along,
            hyperbolic_tangent_along_by_formula,
            DType::F64,
            1e-13,
        ),
    ];

    #[test]
    fn derivatives_along_a_tangent_are_those_of_the_formula() {
        let device = Device::flex().autodiff();
        for (ours, formula, dtype, bound) in ALONG {
            for [tracks_x, tracks_tangent] in [[true, true], [true, false], [false, true]] {
                let run = |function: Along| {
                    let x = arbitrary(dtype, &device).set_require_grad(tracks_x);
                    let tangent = arbitrary(dtype, &device).cos().detach();
                    let tangent = tangent.set_require_grad(tracks_tangent);
                    let (value, along) = function(x.clone(), tangent.clone());
                    let weights = arbitrary(dtype, &device).sin();
                    let sum =
                        (value.clone() * weights.clone()).sum() + (along.clone() * weights).sum();
                    let gradients = sum.backward();
                    let mut found = vec![value.inner(), along.inner()];
                    found.extend(x.grad(&gradients));
                    found.extend(tangent.grad(&gradients));
                    found
                };
                let (found, expected) = (run(ours), run(formula));
                assert_eq!(
                    found.len(),
                    2 + usize::from(tracks_x) + usize::from(tracks_tangent)
                );
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.into_iter().zip(expected) {
                    assert_eq!(found.dtype(), dtype);
                    let apart = largest_difference(found, expected);
                    assert!(
                        apart < bound,
                        "{dtype:?} {tracks_x} {tracks_tangent}: {apart}"
                    );
                }
            }
        }
    }

    #[test]
    fn on_a_tape_a_value_with_a_tangent_has_the_bits_of_one_without() {
        let device = Device::flex();
        for dtype in [DType::F32, DType::F64] {
            let x = arbitrary(dtype, &device);
            let plain = hyperbolic_tangent(x.clone());
            let taped: Tensor<2> =
                Tensor::from_data(x.into_data(), (&device.clone().autodiff(), dtype));
            let taped = taped.require_grad();
            let (value, _) = hyperbolic_tangent_along(taped.clone(), taped.ones_like());
            assert_eq!(largest_difference(plain, value.inner()), 0.0);
        }
    }
}
