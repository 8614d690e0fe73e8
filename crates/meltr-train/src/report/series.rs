//! Series of numbers over iterations: what can be drawn of them, merged over runs and thinned.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::Record;

/// Most points that a line is drawn with.
pub(super) const MAX_POINTS: usize = 200;

/// Magnitude beyond which a value is treated as not finite, so that axes cannot overflow.
const LARGEST: f64 = 1e30;

/// Whether a value has a place on an axis.
pub(super) fn can_be_drawn(value: f64) -> bool {
    value.is_finite() && value.abs() <= LARGEST
}

/// A value per iteration.
pub(super) type Series = BTreeMap<usize, f64>;

/// Counts of the values that a figure cannot show.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Skipped {
    not_finite: usize,
    not_positive: usize,
}

impl Skipped {
    /// The value itself if it can be drawn; otherwise it is counted.
    pub(super) fn keep(&mut self, value: f64) -> Option<f64> {
        if can_be_drawn(value) {
            Some(value)
        } else {
            self.not_finite += 1;
            None
        }
    }

    /// The decimal logarithm of a value if it can be drawn; otherwise the value is counted.
    pub(super) fn keep_log(&mut self, value: f64) -> Option<f64> {
        let value = self.keep(value)?;
        if value > 0.0 {
            Some(value.log10())
        } else {
            self.not_positive += 1;
            None
        }
    }

    /// What the reader of the figure must be told.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.not_finite > 0 {
            notes.push(format!(
                "Not drawn: {} values that are not finite.",
                self.not_finite
            ));
        }
        if self.not_positive > 0 {
            notes.push(format!(
                "Not drawn: {} values that are not positive, on a logarithmic axis.",
                self.not_positive
            ));
        }
        notes
    }
}

/// A series of a run; the last value stands where an iteration was logged twice after a resume.
pub(super) fn series_of(
    records: &[Record],
    value: impl Fn(&Record) -> Option<(usize, f64)>,
) -> Series {
    records.iter().filter_map(value).collect()
}

/// The values of several series by iteration, as `keep` returns them.
pub(super) fn merge(
    all: impl IntoIterator<Item = Series>,
    mut keep: impl FnMut(f64) -> Option<f64>,
) -> BTreeMap<usize, Vec<f64>> {
    let mut merged: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for series in all {
        for (iteration, value) in series {
            if let Some(value) = keep(value) {
                merged.entry(iteration).or_default().push(value);
            }
        }
    }
    merged
}

/// Means and ranges of several runs.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Banded {
    /// Iteration and mean.
    pub(super) means: Vec<(f64, f64)>,
    /// Iteration, smallest and largest value.
    pub(super) ranges: Vec<(f64, f64, f64)>,
}

impl Banded {
    /// The means alone.
    pub(super) fn without_ranges(self) -> Self {
        Self {
            means: self.means,
            ranges: Vec::new(),
        }
    }
}

/// At most `max_points` means over runs and neighboring iterations, with their ranges.
pub(super) fn thin_to_means(merged: &BTreeMap<usize, Vec<f64>>, max_points: usize) -> Banded {
    let entries: Vec<(usize, &Vec<f64>)> = merged
        .iter()
        .map(|(iteration, values)| (*iteration, values))
        .collect();
    let mut banded = Banded::default();
    for bucket in entries.chunks(entries.len().div_ceil(max_points.max(1)).max(1)) {
        let count = bucket.len() as f64;
        let x = bucket
            .iter()
            .map(|(iteration, _)| *iteration as f64)
            .sum::<f64>()
            / count;
        // Each iteration has the same weight, whatever the number of runs that reached it.
        let mean = bucket.iter().map(|(_, values)| mean(values)).sum::<f64>() / count;
        let values = || bucket.iter().flat_map(|(_, values)| values.iter().copied());
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(f64::NEG_INFINITY, f64::max);
        banded.means.push((x, mean));
        banded.ranges.push((x, low, high));
    }
    banded
}

/// At most `max_points` of the points, the extremes of every stretch among them.
pub(super) fn thin_to_extremes(points: &[(f64, f64)], max_points: usize) -> Vec<(f64, f64)> {
    if points.len() <= max_points {
        return points.to_vec();
    }
    let n_buckets = (max_points / 2).max(1);
    let mut thinned = Vec::with_capacity(2 * n_buckets);
    for bucket in points.chunks(points.len().div_ceil(n_buckets)) {
        let indexed = || bucket.iter().enumerate();
        let low = indexed().min_by(|(_, a), (_, b)| a.1.total_cmp(&b.1));
        let high = indexed().max_by(|(_, a), (_, b)| a.1.total_cmp(&b.1));
        if let (Some((low_index, low)), Some((high_index, high))) = (low, high) {
            match low_index.cmp(&high_index) {
                std::cmp::Ordering::Less => thinned.extend([*low, *high]),
                std::cmp::Ordering::Equal => thinned.push(*low),
                std::cmp::Ordering::Greater => thinned.extend([*high, *low]),
            }
        }
    }
    thinned
}

/// At most `n_wanted` of the items, evenly spread, the first and the last among them.
pub(super) fn spread_out<T>(items: Vec<T>, n_wanted: usize) -> Vec<T> {
    let n_items = items.len();
    if n_items <= n_wanted || n_wanted < 2 {
        return items.into_iter().take(n_wanted).collect();
    }
    let wanted: BTreeSet<usize> = (0..n_wanted)
        .map(|number| number * (n_items - 1) / (n_wanted - 1))
        .collect();
    let indexed = items.into_iter().enumerate();
    indexed
        .filter(|(index, _)| wanted.contains(index))
        .map(|(_, item)| item)
        .collect()
}

/// The value of a polyline at `x`, if `x` lies within it.
pub(super) fn interpolate(points: &[(f64, f64)], x: f64) -> Option<f64> {
    points.windows(2).find_map(|pair| match pair {
        [(x0, y0), (x1, y1)] if *x0 <= x && x <= *x1 && *x0 < *x1 => {
            Some(*y0 + (*y1 - *y0) * (x - *x0) / (*x1 - *x0))
        }
        _ => None,
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_be_drawn_are_counted() {
        let mut skipped = Skipped::default();
        let series = Series::from([(0, 1.0), (1, f64::NAN), (2, f64::INFINITY), (3, 2.0)]);
        let merged = merge([series], |value| skipped.keep(value));
        assert_eq!(merged, BTreeMap::from([(0, vec![1.0]), (3, vec![2.0])]));
        assert_eq!(
            skipped.notes(),
            ["Not drawn: 2 values that are not finite."]
        );
    }

    #[test]
    fn a_logarithmic_axis_has_no_place_for_zero() {
        let mut skipped = Skipped::default();
        let series = Series::from([(0, 0.0), (5, 100.0)]);
        let merged = merge([series], |value| skipped.keep_log(value));
        assert_eq!(merged, BTreeMap::from([(5, vec![2.0])]));
        assert_eq!(
            skipped,
            Skipped {
                not_finite: 0,
                not_positive: 1
            }
        );
    }

    #[test]
    fn means_are_over_runs_and_ranges_hold_every_value() {
        let runs = [Series::from([(0, 1.0), (2, 3.0)]), Series::from([(0, 5.0)])];
        let banded = thin_to_means(&merge(runs, Some), MAX_POINTS);
        assert_eq!(banded.means, [(0.0, 3.0), (2.0, 3.0)]);
        assert_eq!(banded.ranges, [(0.0, 1.0, 5.0), (2.0, 3.0, 3.0)]);
    }

    #[test]
    fn thinned_means_have_at_most_the_points_asked_for() {
        let series: Series = (0..1001).map(|iteration| (iteration, 1.0)).collect();
        let banded = thin_to_means(&merge([series], Some), 400);
        assert!(banded.means.len() <= 400, "{}", banded.means.len());
        assert!(banded.means.iter().all(|(_, mean)| *mean == 1.0));
    }

    #[test]
    fn thinning_keeps_a_spike() {
        let mut points: Vec<(f64, f64)> = (0..5000).map(|x| (f64::from(x), 0.0)).collect();
        points[2503].1 = -7.0;
        let thinned = thin_to_extremes(&points, 400);
        assert!(thinned.len() <= 400, "{}", thinned.len());
        assert!(thinned.contains(&(2503.0, -7.0)));
        assert!(thinned.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn items_are_spread_from_first_to_last() {
        assert_eq!(spread_out((0..11).collect(), 3), [0, 5, 10]);
        assert_eq!(spread_out(vec![1, 2], 6), [1, 2]);
    }

    #[test]
    fn a_polyline_is_interpolated_inside_and_absent_outside() {
        let points = [(0.0, 1.0), (2.0, 5.0)];
        assert_eq!(interpolate(&points, 0.5), Some(2.0));
        assert_eq!(interpolate(&points, 2.5), None);
    }
}
