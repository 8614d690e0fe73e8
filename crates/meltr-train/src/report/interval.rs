//! Intervals of means, by Student's t.

use std::f64::consts::FRAC_2_PI;

use super::table::mean_and_deviation;

/// Probability that an interval is made to hold the mean with.
const CONFIDENCE: f64 = 0.95;

/// Mean of some values, and half of its 95 % confidence interval.
///
/// ```text
/// mean ± t · deviation / √n
/// ```
///
/// `t` is the quantile of Student's distribution with `n − 1` degrees of freedom, the deviation
/// that of [`mean_and_deviation`]. The interval is exact for independent, normally distributed
/// values; it is absent for fewer than two values, and not finite if a value is not.
///
/// # Examples
///
/// ```
/// use meltr_train::report::mean_and_half_width;
///
/// let (mean, half) = mean_and_half_width(&[1.0, 2.0, 3.0]);
/// assert_eq!(mean, 2.0);
/// assert!((half.unwrap() - 2.484_138).abs() < 1e-6);
/// assert_eq!(mean_and_half_width(&[5.0]), (5.0, None));
/// ```
#[must_use]
pub fn mean_and_half_width(values: &[f64]) -> (f64, Option<f64>) {
    let (mean, deviation) = mean_and_deviation(values);
    (mean, half_width(deviation, values.len()))
}

/// Half of the 95 % confidence interval of a mean of `n` values, if there are at least two.
pub(super) fn half_width(deviation: f64, n: usize) -> Option<f64> {
    let degrees = n.checked_sub(1).filter(|degrees| *degrees > 0)?;
    Some(quantile(degrees) * deviation / (n as f64).sqrt())
}

/// The `t` between whose negative and itself Student's distribution has 95 % of its mass.
fn quantile(degrees: usize) -> f64 {
    // One degree of freedom has the largest, 12.7.
    let (mut low, mut high) = (0.0, 13.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if mass_within(middle, degrees) < CONFIDENCE {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// Mass of Student's distribution between `-t` and `t`.
///
/// Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4: a finite sum for
/// whole degrees of freedom.
fn mass_within(t: f64, degrees: usize) -> f64 {
    let angle = (t / (degrees as f64).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let even = degrees.is_multiple_of(2);
    let (mut term, first_factor) = if even { (1.0, 1) } else { (cosine, 2) };
    let mut sum = 0.0;
    for index in 0..degrees / 2 {
        sum += term;
        let factor = (first_factor + 2 * index) as f64;
        term *= cosine * cosine * factor / (factor + 1.0);
    }
    if even {
        sine * sum
    } else {
        FRAC_2_PI * (angle + sine * sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (degrees, expected) in [
            (1, 12.706_205),
            (2, 4.302_653),
            (3, 3.182_446),
            (4, 2.776_445),
            (5, 2.570_582),
            (9, 2.262_157),
            (10, 2.228_139),
            (29, 2.045_230),
            (100, 1.983_972),
        ] {
            let found = quantile(degrees);
            assert!((found - expected).abs() < 1e-6, "{degrees}: {found}");
        }
    }

    #[test]
    fn the_interval_of_five_values_is_the_one_worked_by_hand() {
        // Deviation √2.5, t = 2.776445 for four degrees of freedom, √5 values.
        let (mean, half) = mean_and_half_width(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(mean, 3.0);
        assert!((half.unwrap() - 2.776_445 / 2.0_f64.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn fewer_than_two_values_have_no_interval() {
        assert_eq!(mean_and_half_width(&[3.5]), (3.5, None));
        let (mean, half) = mean_and_half_width(&[]);
        assert!(mean.is_nan() && half.is_none());
    }

    #[test]
    fn a_value_that_is_not_finite_is_not_hidden() {
        let (mean, half) = mean_and_half_width(&[1.0, f64::NAN, 2.0]);
        assert!(mean.is_nan() && half.unwrap().is_nan());
    }
}
