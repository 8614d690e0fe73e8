//! Means over seeds with their intervals, and differences of runs that share their seeds.

use meltr_train::report::mean_and_half_width;
use serde::Serialize;

/// Values of several runs, in the order of their seeds, with their mean.
///
/// A value that was not measured or is not finite is `None`, and then there is no mean either: one
/// over the other runs would not be the mean of what was asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) values: Vec<Option<f64>>,
    pub(super) mean: Option<f64>,
    /// Half of the 95 % confidence interval of the mean, by Student's t; `None` for fewer than two
    /// values.
    pub(super) half_width: Option<f64>,
}

impl Spread {
    /// The spread of some values.
    pub(super) fn of(values: impl IntoIterator<Item = Option<f64>>) -> Self {
        let values: Vec<Option<f64>> = values
            .into_iter()
            .map(|value| value.filter(|value| value.is_finite()))
            .collect();
        let known: Option<Vec<f64>> = values.iter().copied().collect();
        let Some(known) = known.filter(|known| !known.is_empty()) else {
            return Self {
                values,
                mean: None,
                half_width: None,
            };
        };
        let (mean, half_width) = mean_and_half_width(&known);
        Self {
            values,
            mean: Some(mean),
            half_width,
        }
    }

    /// The spread of the differences `ours - theirs`, run by run.
    pub(super) fn of_differences(ours: &Self, theirs: &Self) -> Self {
        let pairs = ours.values.iter().zip(&theirs.values);
        Self::of(pairs.map(|(ours, theirs)| Some((*ours)? - (*theirs)?)))
    }

    /// Where the interval lies with respect to 0; `None` without an interval.
    pub(super) fn side(&self) -> Option<Side> {
        let (mean, half_width) = (self.mean?, self.half_width?);
        Some(if mean - half_width > 0.0 {
            Side::Above
        } else if mean + half_width < 0.0 {
            Side::Below
        } else {
            Side::Around
        })
    }
}

/// Where an interval lies with respect to 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// It is above.
    Above,
    /// It is below.
    Below,
    /// It holds 0.
    Around,
}

/// The median; `None` if there are no values.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if !sorted.len().is_multiple_of(2) {
        return Some(upper);
    }
    let lower = *sorted.get(middle.checked_sub(1)?)?;
    Some(0.5 * (lower + upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: &[f64]) -> Spread {
        Spread::of(values.iter().copied().map(Some))
    }

    #[test]
    fn an_interval_is_worked_out_by_hand() {
        // Deviation 1, three values: 4.3027 / sqrt(3).
        let found = spread(&[1.0, 2.0, 3.0]);
        assert_eq!(found.mean, Some(2.0));
        assert!((found.half_width.unwrap() - 2.484_14).abs() < 1e-4);
    }

    #[test]
    fn one_value_has_no_interval_and_none_has_no_mean() {
        let one = spread(&[3.5]);
        assert_eq!((one.mean, one.half_width), (Some(3.5), None));
        assert_eq!(one.side(), None);
        assert_eq!(spread(&[]).mean, None);
    }

    #[test]
    fn a_value_that_is_missing_leaves_no_mean() {
        let holed = Spread::of([Some(1.0), None, Some(3.0)]);
        assert_eq!((holed.mean, holed.half_width), (None, None));
        let broken = spread(&[1.0, f64::NAN]);
        assert_eq!(broken.values, [Some(1.0), None]);
        assert_eq!(broken.mean, None);
        let text = serde_json::to_string(&broken).unwrap();
        assert_eq!(
            text,
            r#"{"values":[1.0,null],"mean":null,"half_width":null}"#
        );
    }

    #[test]
    fn differences_are_taken_seed_by_seed() {
        let (ours, theirs) = (spread(&[2.0, 12.0, 22.0]), spread(&[1.0, 11.1, 20.9]));
        let difference = Spread::of_differences(&ours, &theirs);
        // The values differ by ten from seed to seed, their differences hardly.
        assert!((difference.mean.unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(difference.side(), Some(Side::Above));
        let turned = Spread::of_differences(&theirs, &ours);
        assert_eq!(turned.side(), Some(Side::Below));
        let same = Spread::of_differences(&ours, &ours);
        assert_eq!(same.side(), Some(Side::Around));
        let wide = Spread::of_differences(&spread(&[0.0, 3.0]), &spread(&[1.0, 1.0]));
        assert_eq!(wide.side(), Some(Side::Around));
    }

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_both() {
        assert_eq!(median(&[3.0, 1.0, 10.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 10.0]), Some(3.5));
        assert_eq!(median(&[]), None);
    }
}
