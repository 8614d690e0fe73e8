//! Elementary functions that the compiler can take for many numbers at once.
//!
//! The C library takes them one number at a time, which is most of what an activation costs. Those
//! here have no branches and no tables, so a loop over a slice becomes vector instructions;
//! [`vectorized`] lets it use the widest ones of the machine. Products and sums are rounded each on
//! its own, so results have the same bits on every machine.
//!
//! Coefficients were fitted by reweighted least squares to the smallest largest error, in f64.

use std::f32::consts::LOG2_E;
use std::ops::{Add, Mul};

use pulp::Arch;

/// Runs `loops` with the widest vector instructions of this machine.
///
/// They reach only what is inlined into it: closures and functions in it are `#[inline(always)]`.
#[inline(always)]
pub(crate) fn vectorized<R>(loops: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(loops)
}

/// `1.5 * 2^23`: a float that is added to this one is rounded to an integer, which then stands in
/// the lowest bits.
const ROUNDER: f32 = 12_582_912.0;

/// `ln 2`, in a part of 9 bits, whose products with exponents are exact, and the rest.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Smallest argument of [`exp`] whose result is not 0.
const EXP_LEAST: f32 = -87.0;

/// `e^x` for `x` of at most 0, to 1.5 units in the last place; 0 below -87, where it is under
/// 1.7e-38. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp_of_negative(x: f32) -> f32 {
    // Not `max`, which would lose NaN.
    let bounded = if x < EXP_LEAST { EXP_LEAST } else { x };
    let shifted = bounded * LOG2_E + ROUNDER;
    let exponent = shifted - ROUNDER;
    let rest = (bounded - exponent * LN_2_HIGH) - exponent * LN_2_LOW;
    // (e^r - 1 - r) / r² on |r| <= ln(2)/2, to 6e-8.
    let curve = polynomial(
        rest,
        [
            0.5,
            0.166_665_76,
            0.041_666_374,
            0.008_363_235,
            0.001_394_121_8,
        ],
    );
    let mantissa = rest * rest * curve + rest + 1.0;
    // The exponent, from -126 to 0, as the bits of a power of 2.
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let value = mantissa * power;
    if x < EXP_LEAST { 0.0 } else { value }
}

/// `tanh x`, to 2 units in the last place.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let size = x.abs();
    let squared = x * x;
    // (tanh x / x - 1) / x² on |x| <= 0.625, to 5e-9.
    let curve = polynomial(
        squared,
        [
            -0.333_333_34,
            0.133_333_04,
            -0.053_959_265,
            0.021_768_948,
            -0.008_344_029,
            0.002_292_830_3,
        ],
    );
    let near = x * (1.0 + squared * curve);
    let decay = exp_of_negative(-2.0 * size);
    let far = ((1.0 - decay) / (1.0 + decay)).copysign(x);
    if size < 0.625 { near } else { far }
}

/// `1.5 * 2^52`: [`ROUNDER`] of `f64`.
const ROUNDER_F64: f64 = 6_755_399_441_055_744.0;

/// `ln 2`, in a part of 32 bits, whose products with exponents are exact, and the rest.
const LN_2_HIGH_F64: f64 = 0.693_147_180_369_123_8;
const LN_2_LOW_F64: f64 = 1.908_214_929_270_587_7e-10;

/// Below it `e^x` is nothing beside 1.
const DECAY_LEAST: f64 = -44.0;

/// `tanh x` of `f64`, to 2 units in the last place: `-q / (2 + q)` with `q = e^(-2|x|) - 1`.
#[inline(always)]
pub(crate) fn tanh_f64(x: f64) -> f64 {
    let argument = -2.0 * x.abs();
    // Not `max`, which would lose NaN.
    let bounded = if argument < DECAY_LEAST {
        DECAY_LEAST
    } else {
        argument
    };
    let shifted = bounded * std::f64::consts::LOG2_E + ROUNDER_F64;
    let exponent = shifted - ROUNDER_F64;
    let rest = (bounded - exponent * LN_2_HIGH_F64) - exponent * LN_2_LOW_F64;
    // (e^r - 1 - r) / r² on |r| <= ln(2)/2, to 8e-19 of e^r - 1.
    let curve = polynomial(
        rest,
        [
            0.5,
            0.166_666_666_666_666_7,
            0.041_666_666_666_666_67,
            0.008_333_333_333_326_112,
            0.001_388_888_888_888_373,
            0.000_198_412_698_749_012_6,
            2.480_158_732_560_532_4e-5,
            2.755_725_529_796_964_3e-6,
            2.755_727_357_010_214e-7,
            2.510_525_953_844_849e-8,
            2.091_471_734_171_637_8e-9,
        ],
    );
    let growth = rest + rest * rest * curve;
    // The exponent, from -64 to 0, as the bits of a power of 2.
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    let decay = power * growth + (power - 1.0);
    (-decay / (2.0 + decay)).copysign(x)
}

/// `Φ(x)`, the distribution function of the normal distribution, to 1e-7, and `exp(-x²/2)`, which
/// it is computed from.
#[inline(always)]
pub(crate) fn normal_distribution(x: f32) -> (f32, f32) {
    let bell = exp_of_negative(-0.5 * (x * x));
    // Φ(-|x|) exp(x²/2) by a polynomial in t = 1 / (1 + 0.3 |x|), to 6e-8 of its value up to
    // |x| = 14, where the exponential is 0.
    let t = 1.0 / (1.0 + 0.3 * x.abs());
    let tail = bell
        * polynomial(
            t,
            [
                7.372_424e-6,
                0.119_484_21,
                0.121_945_27,
                0.094_585_84,
                0.142_765_33,
                -0.076_839_745,
                0.228_951_86,
                -0.169_307_5,
                0.038_407_4,
            ],
        );
    let far = if x < 0.0 { tail } else { 1.0 - tail };
    // (Φ(x) - 1/2) / x by x² on |x| <= 1, to 1e-9: there the tail would lose a digit.
    let squared = x * x;
    let curve = polynomial(
        squared,
        [
            0.398_942_3,
            -0.066_490_36,
            0.009_973_323,
            -0.001_186_33,
            0.000_113_486_37,
            -7.654_208e-6,
        ],
    );
    let near = 0.5 + x * curve;
    (if squared < 1.0 { near } else { far }, bell)
}

/// `coefficients[0] + x (coefficients[1] + x (...))`.
#[inline(always)]
fn polynomial<F, const N: usize>(x: F, coefficients: [F; N]) -> F
where
    F: Copy + Default + Mul<Output = F> + Add<Output = F>,
{
    coefficients
        .into_iter()
        .rev()
        .reduce(
            #[inline(always)]
            |sum, coefficient| sum * x + coefficient,
        )
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from `low` to `high`, both included.
    fn grid(low: f32, high: f32) -> impl Iterator<Item = f32> {
        let count = 1_000_000;
        (0..=count).map(move |at| low + (high - low) * (at as f32 / count as f32))
    }

    /// Largest error relative to what is exact.
    fn relative_error(
        numbers: impl Iterator<Item = f32>,
        function: fn(f32) -> f32,
        exact: fn(f64) -> f64,
    ) -> f64 {
        numbers
            .filter(|x| *x != 0.0)
            .map(|x| {
                let exact = exact(f64::from(x));
                ((f64::from(function(x)) - exact) / exact).abs()
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn the_exponential_is_exact_to_rounding() {
        let error = relative_error(grid(-87.0, 0.0), exp_of_negative, f64::exp);
        assert!(error < 1e-7, "{error}");
        assert_eq!(exp_of_negative(0.0), 1.0);
        for x in [-87.5, -1e4, -3e38, f32::NEG_INFINITY] {
            assert_eq!(exp_of_negative(x), 0.0, "{x}");
        }
        assert!(exp_of_negative(f32::NAN).is_nan());
    }

    #[test]
    fn the_hyperbolic_tangent_is_exact_to_rounding() {
        let near = relative_error(grid(-0.7, 0.7), tanh, f64::tanh);
        assert!(near < 2e-7, "{near}");
        let far = relative_error(grid(-20.0, 20.0), tanh, f64::tanh);
        assert!(far < 2e-7, "{far}");
        for x in [0.0_f32, -0.0] {
            assert_eq!(tanh(x).to_bits(), x.to_bits());
        }
        assert_eq!(tanh(1e-30), 1e-30);
        for x in [30.0, 3e38, f32::INFINITY] {
            assert_eq!((tanh(x), tanh(-x)), (1.0, -1.0), "{x}");
        }
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn the_hyperbolic_tangent_of_f64_is_exact_to_rounding() {
        // A third of the numbers near 0, where nothing may cancel.
        let numbers = (-200_000..=200_000)
            .map(|at| f64::from(at) * 1.1e-4)
            .chain((-100_000..=100_000).map(|at| f64::from(at) * 7.3e-6));
        let error = numbers
            .filter(|x| *x != 0.0)
            .map(|x| ((tanh_f64(x) - x.tanh()) / x.tanh()).abs())
            .fold(0.0, f64::max);
        assert!(error < 5e-16, "{error}");
        for x in [0.0_f64, -0.0] {
            assert_eq!(tanh_f64(x).to_bits(), x.to_bits());
        }
        assert_eq!(tanh_f64(1e-200), 1e-200);
        for x in [23.0, 1e300, f64::INFINITY] {
            assert_eq!((tanh_f64(x), tanh_f64(-x)), (1.0, -1.0), "{x}");
        }
        assert!(tanh_f64(f64::NAN).is_nan());
    }

    #[test]
    fn the_normal_distribution_is_exact_to_rounding() {
        let exact = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        let mut largest = 0.0_f64;
        for x in grid(-14.0, 14.0) {
            let (cumulative, bell) = normal_distribution(x);
            largest = largest.max((f64::from(cumulative) - exact(f64::from(x))).abs());
            assert!((f64::from(bell) - (-0.5 * f64::from(x).powi(2)).exp()).abs() < 1e-7);
        }
        assert!(largest < 1e-7, "{largest}");
        // The tail relative to itself: what is lost is the rounding of the square.
        let tail = relative_error(grid(-5.0, 0.0), |x| normal_distribution(x).0, exact);
        assert!(tail < 2e-6, "{tail}");
        assert_eq!(normal_distribution(f32::INFINITY), (1.0, 0.0));
        assert_eq!(normal_distribution(f32::NEG_INFINITY), (0.0, 0.0));
        assert!(normal_distribution(f32::NAN).0.is_nan());
    }

    #[test]
    fn loops_have_the_same_bits_with_and_without_vector_instructions() {
        let numbers: Vec<f32> = grid(-20.0, 20.0).step_by(97).collect();
        let all = |numbers: &[f32]| -> Vec<u32> {
            numbers
                .iter()
                .flat_map(|x| {
                    [
                        exp_of_negative(-x.abs()),
                        tanh(*x),
                        normal_distribution(*x).0,
                    ]
                })
                .map(f32::to_bits)
                .collect()
        };
        assert_eq!(vectorized(|| all(&numbers)), all(&numbers));
        let doubles = |numbers: &[f32]| -> Vec<u64> {
            numbers
                .iter()
                .map(|x| tanh_f64(f64::from(*x)).to_bits())
                .collect()
        };
        assert_eq!(vectorized(|| doubles(&numbers)), doubles(&numbers));
    }
}
