//! Activations, normalizations and their tangents in one pass over the memory of this process.
//!
//! burn's CPU backend takes a formula operation by operation, each a pass over memory on one
//! thread. What is here takes the whole formula a row or a chunk at a time, on all threads and with
//! vector instructions. It is for tensors off the tape; the caller asks [`is_plain`] first.

use std::ops::{Add, Mul, Neg, Sub};

use burn::tensor::{DType, Element, Tensor, TensorData};
use rayon::prelude::*;

use crate::host::is_on_host;
use crate::vector_math::{exp_of_negative, normal_distribution, tanh, tanh_f64, vectorized};

/// About as many numbers as a thread takes at a time.
pub(crate) const CHUNK: usize = 1 << 14;

/// Density of the normal distribution at 0.
const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;

/// Whether `x` is of the type `E`, off the tape, and in the memory of this process.
pub(crate) fn is_plain<E: Element, const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == E::dtype() && !x.is_tracked() && is_on_host(&x.device())
}

/// `x Φ(x)` and its slope.
#[inline(always)]
pub(crate) fn gaussian_unit_with_slope(x: f32) -> (f32, f32) {
    let (cumulative, bell) = normal_distribution(x);
    let value = x * cumulative;
    // `x` times a density of 0 is 0, also where `x` is infinite.
    let bend = if bell == 0.0 { 0.0 } else { x * bell };
    (value, cumulative + FRAC_1_SQRT_2PI * bend)
}

/// `x Φ(x)`, its slope and its bend, the second derivative.
#[inline(always)]
pub(crate) fn gaussian_unit_with_bend(x: f32) -> (f32, f32, f32) {
    let (cumulative, bell) = normal_distribution(x);
    // Powers of `x` times a density of 0 are 0, also where `x` is infinite.
    let (once, twice) = if bell == 0.0 {
        (0.0, 0.0)
    } else {
        (x * bell, x * x * bell)
    };
    (
        x * cumulative,
        cumulative + FRAC_1_SQRT_2PI * once,
        FRAC_1_SQRT_2PI * (2.0 * bell - twice),
    )
}

/// `x Φ(x)` and its derivative along `tangent`, elementwise.
pub(crate) fn gaussian_unit_along<const D: usize>(
    x: Tensor<D>,
    tangent: Tensor<D>,
) -> (Tensor<D>, Tensor<D>) {
    map_along(x, tangent, gaussian_unit_with_slope)
}

/// `tanh x` and its slope.
#[inline(always)]
pub(crate) fn hyperbolic_tangent_with_slope<E: Hyperbolic>(x: E) -> (E, E) {
    let value = x.tanh();
    (value, E::ONE - value * value)
}

/// `tanh x`, its slope and its bend, the second derivative.
#[inline(always)]
pub(crate) fn hyperbolic_tangent_with_bend<E: Hyperbolic>(x: E) -> (E, E, E) {
    let (value, slope) = hyperbolic_tangent_with_slope(x);
    let half = value * slope;
    (value, slope, -(half + half))
}

/// Numbers with a hyperbolic tangent for vector instructions.
pub(crate) trait Hyperbolic:
    Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Neg<Output = Self> + Copy
{
    /// 1.
    const ONE: Self;

    /// `tanh x`.
    fn tanh(self) -> Self;
}

impl Hyperbolic for f32 {
    const ONE: Self = 1.0;

    #[inline(always)]
    fn tanh(self) -> Self {
        tanh(self)
    }
}

impl Hyperbolic for f64 {
    const ONE: Self = 1.0;

    #[inline(always)]
    fn tanh(self) -> Self {
        tanh_f64(self)
    }
}

/// `tanh x` and its derivative along `tangent`, elementwise.
pub(crate) fn hyperbolic_tangent_along<const D: usize>(
    x: Tensor<D>,
    tangent: Tensor<D>,
) -> (Tensor<D>, Tensor<D>) {
    map_along(x, tangent, hyperbolic_tangent_with_slope)
}

/// Softmax over the last axis.
pub(crate) fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    rows(x, softmax_row)
}

/// Softmax over the last axis and its derivative along `tangent`: `y' = y (x' - <y, x'>)`.
pub(crate) fn softmax_along<const D: usize>(
    x: Tensor<D>,
    tangent: Tensor<D>,
) -> (Tensor<D>, Tensor<D>) {
    rows_along(
        x,
        tangent,
        #[inline(always)]
        |row, tangent| {
            softmax_row(row);
            let mean = sum_of_products(row, tangent);
            for (y, tangent) in row.iter().zip(tangent) {
                *tangent = *y * (*tangent - mean);
            }
        },
    )
}

#[inline(always)]
fn softmax_row(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for x in row.iter_mut() {
        *x = exp_of_negative(*x - largest);
    }
    let scale = 1.0 / sum(row, |x| x);
    for x in row.iter_mut() {
        *x *= scale;
    }
}

/// Scale and shift of a layer normalization, `[d]` each, with their tangents.
pub(crate) struct Affine {
    pub(crate) gamma: Tensor<1>,
    pub(crate) beta: Tensor<1>,
    pub(crate) gamma_tangent: Option<Tensor<1>>,
    pub(crate) beta_tangent: Option<Tensor<1>>,
}

/// Layer normalization over the last axis, `γ (x - mean) / std + β`.
pub(crate) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let (gamma, beta) = (read(gamma), read(beta));
    rows(
        x,
        #[inline(always)]
        |row| {
            normalize_row(row, epsilon);
            for (x, (gamma, beta)) in row.iter_mut().zip(gamma.iter().zip(&beta)) {
                *x = *x * gamma + beta;
            }
        },
    )
}

/// Layer normalization over the last axis and its derivative, where `tangent` is that of `x`.
///
/// With `x̂ = (x - mean) / std`: `x̂' = (x' - mean(x') - x̂ mean(x̂ x')) / std`, and the result is
/// `γ x̂ + β` along `γ x̂' + γ' x̂ + β'`.
pub(crate) fn layer_norm_along<const D: usize>(
    x: Tensor<D>,
    tangent: Tensor<D>,
    affine: Affine,
    epsilon: f64,
) -> (Tensor<D>, Tensor<D>) {
    let width = x.dims()[D - 1];
    let zeros = || vec![0.0_f32; width];
    let (gamma, beta) = (read(affine.gamma), read(affine.beta));
    let gamma_tangent = affine.gamma_tangent.map_or_else(zeros, read);
    let beta_tangent = affine.beta_tangent.map_or_else(zeros, read);
    let share = 1.0 / width as f32;
    rows_along(
        x,
        tangent,
        #[inline(always)]
        |row, tangent| {
            let scale = normalize_row(row, epsilon);
            let drift = sum(tangent, |x| x) * share;
            let along = sum_of_products(row, tangent) * share;
            let parameters = gamma.iter().zip(&beta);
            let parameter_tangents = gamma_tangent.iter().zip(&beta_tangent);
            for (((x, tangent), (gamma, beta)), (gamma_tangent, beta_tangent)) in row
                .iter_mut()
                .zip(tangent)
                .zip(parameters)
                .zip(parameter_tangents)
            {
                let normalized = *x;
                let change = (*tangent - drift - normalized * along) * scale;
                *x = normalized * gamma + beta;
                *tangent = change * gamma + (normalized * gamma_tangent + beta_tangent);
            }
        },
    )
}

/// Makes a row one of mean 0 and variance 1, and returns what it was scaled by.
#[inline(always)]
fn normalize_row(row: &mut [f32], epsilon: f64) -> f32 {
    let share = 1.0 / row.len() as f32;
    let mean = sum(row, |x| x) * share;
    for x in row.iter_mut() {
        *x -= mean;
    }
    let variance = sum(row, |x| x * x) * share;
    let scale = (f64::from(variance) + epsilon).sqrt().recip() as f32;
    for x in row.iter_mut() {
        *x *= scale;
    }
    scale
}

/// `first + second + row`, where `row` is added to every row; what is `None` is zero.
///
/// # Shapes
///
/// - first, second: `[rows, d]`; row: `[d]`
pub(crate) fn sum_of_parts(
    first: Tensor<2>,
    second: Option<Tensor<2>>,
    row: Option<Tensor<1>>,
) -> Tensor<2> {
    let width = first.dims()[1].max(1);
    let row = row.map(read);
    let add_row = |numbers: &mut [f32]| {
        if let Some(row) = &row {
            for numbers in numbers.chunks_exact_mut(width) {
                for (number, shift) in numbers.iter_mut().zip(row) {
                    *number += shift;
                }
            }
        }
    };
    match second {
        None if row.is_none() => first,
        None => in_chunks(first, whole_rows(width), add_row),
        Some(second) => {
            let (device, mut sum, second) = (first.device(), first.into_data(), second.into_data());
            let Ok(others) = second.as_slice::<f32>() else {
                unreachable!("a plain tensor is of f32");
            };
            numbers::<f32>(&mut sum)
                .par_chunks_mut(whole_rows(width))
                .zip(others.par_chunks(whole_rows(width)))
                .for_each(|(numbers, others)| {
                    for (number, other) in numbers.iter_mut().zip(others) {
                        *number += other;
                    }
                    add_row(numbers);
                });
            Tensor::from_data(sum, (&device, DType::F32))
        }
    }
}

fn read(x: Tensor<1>) -> Vec<f32> {
    x.into_data().iter().collect()
}

/// `function` of every number.
pub(crate) fn map<E: Element, const D: usize>(
    x: Tensor<D>,
    function: impl Fn(E) -> E + Sync,
) -> Tensor<D> {
    in_chunks(
        x,
        CHUNK,
        #[inline(always)]
        |numbers: &mut [E]| {
            for number in numbers {
                *number = function(*number);
            }
        },
    )
}

/// `function` puts a result in the place of a row.
fn rows<const D: usize>(x: Tensor<D>, function: impl Fn(&mut [f32]) + Sync) -> Tensor<D> {
    let width = x.dims()[D - 1].max(1);
    in_chunks(
        x,
        whole_rows(width),
        #[inline(always)]
        |numbers: &mut [f32]| numbers.chunks_exact_mut(width).for_each(&function),
    )
}

/// About [`CHUNK`] numbers, in whole rows of `width`.
fn whole_rows(width: usize) -> usize {
    width * (CHUNK / width).max(1)
}

/// `function` puts results in the place of `chunk` numbers at most.
fn in_chunks<E: Element, const D: usize>(
    x: Tensor<D>,
    chunk: usize,
    function: impl Fn(&mut [E]) + Sync,
) -> Tensor<D> {
    let device = x.device();
    let mut data = x.into_data();
    numbers::<E>(&mut data)
        .par_chunks_mut(chunk)
        .for_each(|numbers| {
            vectorized(
                #[inline(always)]
                || function(numbers),
            )
        });
    Tensor::from_data(data, (&device, E::dtype()))
}

/// `function` gives value and slope.
fn map_along<const D: usize>(
    x: Tensor<D>,
    tangent: Tensor<D>,
    function: impl Fn(f32) -> (f32, f32) + Sync,
) -> (Tensor<D>, Tensor<D>) {
    in_parts(
        x,
        tangent,
        CHUNK,
        #[inline(always)]
        |numbers, tangents| {
            for (number, tangent) in numbers.iter_mut().zip(tangents) {
                let (value, slope) = function(*number);
                *number = value;
                *tangent *= slope;
            }
        },
    )
}

/// `function` puts results in the place of a row of values and a row of tangents.
fn rows_along<const D: usize>(
    x: Tensor<D>,
    tangent: Tensor<D>,
    function: impl Fn(&mut [f32], &mut [f32]) + Sync,
) -> (Tensor<D>, Tensor<D>) {
    let width = x.dims()[D - 1].max(1);
    in_parts(
        x,
        tangent,
        whole_rows(width),
        #[inline(always)]
        |numbers, tangents| {
            let rows = numbers.chunks_exact_mut(width);
            for (row, tangent) in rows.zip(tangents.chunks_exact_mut(width)) {
                function(row, tangent);
            }
        },
    )
}

/// `function` puts results in the place of as many values as tangents, `chunk` at most.
fn in_parts<const D: usize>(
    x: Tensor<D>,
    tangent: Tensor<D>,
    chunk: usize,
    function: impl Fn(&mut [f32], &mut [f32]) + Sync,
) -> (Tensor<D>, Tensor<D>) {
    let device = x.device();
    let (mut values, mut tangents) = (x.into_data(), tangent.into_data());
    numbers::<f32>(&mut values)
        .par_chunks_mut(chunk)
        .zip(numbers::<f32>(&mut tangents).par_chunks_mut(chunk))
        .for_each(|(values, tangents)| {
            vectorized(
                #[inline(always)]
                || function(values, tangents),
            )
        });
    let tensor = |data| Tensor::from_data(data, (&device, DType::F32));
    (tensor(values), tensor(tangents))
}

/// The numbers of a tensor, which are of the type `E`.
pub(crate) fn numbers<E: Element>(data: &mut TensorData) -> &mut [E] {
    match data.as_mut_slice() {
        Ok(numbers) => numbers,
        Err(error) => unreachable!("the caller asked for the type: {error:?}"),
    }
}

/// Sums that are kept side by side, so that vector instructions can take them.
const LANES: usize = 16;

#[inline(always)]
fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|x| term(*x)).sum();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += term(*x);
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[inline(always)]
fn sum_of_products(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let chunks = a.chunks_exact(LANES).zip(b.chunks_exact(LANES));
    for (a, b) in chunks {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let done = a.len() - a.len() % LANES;
    let rest: f32 = a[done..].iter().zip(&b[done..]).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::activation::{gaussian_unit, hyperbolic_tangent};
    use crate::dual::Dual;

    /// Over a chunk of numbers between -12 and 12; rows of an odd width.
    fn arbitrary(phase: f32, device: &Device) -> Tensor<3> {
        let shape = [3, CHUNK / 64, 67];
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|at| 12.0 * (at as f32 * 0.3 + phase).sin())
            .collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn largest_difference<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    /// The same dual operation here and, because the value is on a tape there, by burn.
    fn assert_as_on_a_tape(operation: impl Fn(Dual<3>) -> Dual<3>, bound: f32) {
        let device = Device::flex();
        let (x, tangent) = (arbitrary(0.0, &device), arbitrary(1.0, &device));
        let (kept_x, kept_tangent) = (x.clone(), tangent.clone());
        assert!(is_plain::<f32, 3>(&x));
        let found = operation(Dual::new(x.clone(), tangent.clone()));
        let taped = |x: Tensor<3>| Tensor::from_data(x.into_data(), &device.clone().autodiff());
        let expected = operation(Dual::new(
            taped(x.clone()).require_grad(),
            taped(tangent.clone()),
        ));
        let value = largest_difference(found.value, expected.value.inner());
        let along = largest_difference(found.tangent.unwrap(), expected.tangent.unwrap().inner());
        assert!(value < bound, "value: {value}");
        assert!(along < bound, "tangent: {along}");
        // The arguments, which somebody else holds as well, are as they were.
        assert_eq!(largest_difference(x, kept_x), 0.0);
        assert_eq!(largest_difference(tangent, kept_tangent), 0.0);
    }

    #[test]
    fn activations_are_those_of_burn() {
        assert_as_on_a_tape(Dual::gelu, 5e-6);
        assert_as_on_a_tape(Dual::tanh, 5e-6);
        assert_as_on_a_tape(Dual::softmax, 5e-6);
    }

    #[test]
    fn layer_normalization_is_that_of_burn() {
        let device = Device::flex();
        let row = |phase: f32| -> Tensor<1> {
            arbitrary(phase, &device)
                .narrow(0, 0, 1)
                .narrow(1, 0, 1)
                .reshape([67])
        };
        let (gamma, beta) = (Dual::new(row(0.1), row(0.2)), Dual::new(row(0.3), row(0.4)));
        let taped = |x: &Tensor<1>, is_taped: bool| {
            let device = if is_taped {
                device.clone().autodiff()
            } else {
                device.clone()
            };
            Tensor::<1>::from_data(x.clone().into_data(), &device)
        };
        let moved = |x: &Dual<1>, is_taped| Dual {
            value: taped(&x.value, is_taped),
            tangent: x.tangent.as_ref().map(|tangent| taped(tangent, is_taped)),
        };
        let norm = |x: Dual<3>, gamma: &Dual<1>, beta: &Dual<1>| {
            let is_taped = x.value.is_tracked();
            x.layer_norm(moved(gamma, is_taped), moved(beta, is_taped), 1e-5)
        };
        assert_as_on_a_tape(|x| norm(x, &gamma, &beta), 2e-4);
        let constant = |x: &Dual<1>| Dual::constant(x.value.clone());
        assert_as_on_a_tape(|x| norm(x, &constant(&gamma), &constant(&beta)), 2e-4);
        // Only the parameters have a tangent.
        let x = arbitrary(0.0, &device);
        let alone = norm(Dual::constant(x.clone()), &gamma, &beta);
        let zero = norm(Dual::new(x.clone(), x.zeros_like()), &gamma, &beta);
        let difference = largest_difference(alone.tangent.unwrap(), zero.tangent.unwrap());
        assert_eq!(difference, 0.0);
    }

    #[test]
    fn linear_maps_are_those_of_burn() {
        let device = Device::flex();
        let matrix = |rows: usize, columns: usize, phase: f32| -> Tensor<2> {
            arbitrary(phase, &device)
                .reshape([3 * CHUNK / 64 * 67])
                .narrow(0, 0, rows * columns)
                .reshape([rows, columns])
        };
        let vector = |phase: f32| -> Tensor<1> { matrix(1, 9, phase).reshape([9]) };
        let map = |is_taped: bool, has_tangents: [bool; 2]| {
            let place = |x: Tensor<2>| -> Tensor<2> {
                let (data, device) = (x.into_data(), device.clone().autodiff());
                if is_taped {
                    Tensor::from_data(data, &device).require_grad()
                } else {
                    Tensor::from_data(data, &device)
                }
            };
            let dual = |rows, columns, phase, has_tangent: bool| Dual {
                value: place(matrix(rows, columns, phase)),
                tangent: has_tangent.then(|| place(matrix(rows, columns, phase + 1.0))),
            };
            let x = dual(3000, 7, 0.0, has_tangents[0]);
            let weight = dual(7, 9, 0.3, has_tangents[1]);
            let bias = Dual {
                value: vector(0.7),
                tangent: has_tangents[1].then(|| vector(0.8)),
            };
            let out = x.affine(weight, Some(bias));
            (out.value.inner(), out.tangent.map(Tensor::inner))
        };
        for has_tangents in [[false, false], [true, false], [false, true], [true, true]] {
            let (value, tangent) = map(false, has_tangents);
            let (expected, expected_tangent) = map(true, has_tangents);
            assert_eq!(largest_difference(value, expected), 0.0);
            if has_tangents == [false, false] {
                assert!(tangent.is_none());
                continue;
            }
            // Sums of up to 14 products of up to 144, in another order.
            let apart = largest_difference(tangent.unwrap(), expected_tangent.unwrap());
            assert!(apart < 1e-3, "{has_tangents:?}: {apart}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_as_in_burn() {
        let device = Device::flex();
        let x = Tensor::<1>::from_floats([f32::NAN, f32::INFINITY, -f32::INFINITY, 1e30], &device);
        let read = |x: Tensor<1>| -> Vec<f32> { x.into_data().iter().collect() };
        let found = read(gaussian_unit(x.clone()));
        assert!(found[0].is_nan() && found[1] == f32::INFINITY && found[3] == 1e30);
        let (value, slope) = gaussian_unit_along(x.clone(), x.ones_like());
        assert!(read(value)[0].is_nan());
        let slope = read(slope);
        assert!(slope[0].is_nan());
        assert_eq!(slope[1..], [1.0, 0.0, 1.0]);
        assert_eq!(read(hyperbolic_tangent(x))[1..], [1.0, -1.0, 1.0]);
    }
}
