//! Means over seeds, and the comparison of combiners as a table.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::assemble::RunData;
use super::groups::{compared_split, grouped_summaries};
use super::interval::half_width;
use super::metric::{is_better_smaller, metric_decimals, metric_scale, shown_metrics};
use crate::record::Summary;

/// What a cell without a value shows.
pub(super) const ABSENT: &str = "-";

/// What stands behind a value whose interval is apart from all others and better.
const BEST: &str = " *";

/// The mark in words.
pub(super) const BEST_MEANS: &str = "the interval is better than, and apart from, those of all \
                                     others; not corrected for the number of comparisons";

/// Bytes in a mebibyte.
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// Mean and sample standard deviation (`n - 1` in the denominator) of some values.
///
/// The deviation of a single value is 0. Both are NaN if there is no value, and a value that is
/// not finite is not hidden: the mean is then not finite either.
///
/// # Examples
///
/// ```
/// use meltr_train::report::mean_and_deviation;
///
/// assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 2.0_f64.sqrt()));
/// assert_eq!(mean_and_deviation(&[5.0]), (5.0, 0.0));
/// ```
#[must_use]
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    if values.len() == 1 {
        return (mean, 0.0);
    }
    let squares = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>();
    (mean, (squares / (count - 1.0)).sqrt())
}

/// A line of the comparison that was not a run, such as a linear reference.
#[derive(Debug, Clone, Serialize)]
pub struct ReferenceRow {
    /// Name of the reference.
    pub name: String,
    /// Metric name to value, with the names that summaries use.
    pub metrics: BTreeMap<String, f64>,
    /// What the reader must know about it; may be empty.
    pub note: String,
}

/// Finished runs grouped by combiner, each group summarized over its runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Name of the split that the metrics were measured on.
    pub split: String,
    /// One row per combiner, in order of first appearance.
    pub rows: Vec<ComparisonRow>,
}

/// One combiner of a [`Comparison`].
///
/// Every pair is a mean and a sample standard deviation, as of [`mean_and_deviation`].
#[derive(Debug, Clone, PartialEq)]
pub struct ComparisonRow {
    /// Name of the combiner.
    pub combiner: String,
    /// Number of runs.
    pub n_runs: usize,
    /// Number of distinct seeds among the runs.
    pub n_seeds: usize,
    /// Metric name to mean and deviation over the runs that measured it.
    pub metrics: BTreeMap<String, (f64, f64)>,
    /// Metric name to the values of the runs that measured it.
    pub values: BTreeMap<String, Vec<f64>>,
    /// Seconds of training, evaluation not included.
    pub train_seconds: (f64, f64),
    /// Seconds of training per inner step, over the runs that took one.
    pub step_seconds: Option<(f64, f64)>,
    /// Largest resident set size in MiB, where the system told it.
    pub peak_memory_mib: Option<(f64, f64)>,
    /// Largest audited relative error of a hypergradient in any of the runs.
    pub worst_hypergradient_error: Option<f64>,
}

impl Comparison {
    /// Compares finished runs on the split that their settings name.
    ///
    /// Only runs that repeat each other are averaged: those of a combiner that differ in other
    /// settings than the seed have rows of their own, and these settings are part of the name.
    #[must_use]
    pub fn from_runs(runs: &[RunData]) -> Self {
        Self::from_summaries(&grouped_summaries(runs), &compared_split(runs))
    }

    /// Groups summaries by combiner and takes their metrics on one split.
    #[must_use]
    pub fn from_summaries(summaries: &[Summary], split: &str) -> Self {
        let mut groups: Vec<(&str, Vec<&Summary>)> = Vec::new();
        for summary in summaries {
            match groups
                .iter_mut()
                .find(|(combiner, _)| *combiner == summary.combiner)
            {
                Some((_, members)) => members.push(summary),
                None => groups.push((summary.combiner.as_str(), vec![summary])),
            }
        }
        let rows = groups
            .into_iter()
            .map(|(combiner, members)| ComparisonRow::of_group(combiner, &members, split))
            .collect();
        Self {
            split: split.to_owned(),
            rows,
        }
    }

    /// The comparison as an aligned table in plain text, references below the combiners.
    ///
    /// A metric is a mean ± half of its 95 % interval; that of a single run has no interval.
    #[must_use]
    pub fn to_text(&self, references: &[ReferenceRow]) -> String {
        let mut lines = vec![format!(
            "metrics on split `{}`: mean over n runs ± half of its 95 % interval (Student's t)",
            self.split
        )];
        if self.rows.is_empty() && references.is_empty() {
            lines.push("no finished run".to_owned());
        } else {
            let headers = self.headers(references);
            let rows = self.cells(references);
            let widths = column_widths(&headers, &rows);
            lines.push(aligned(&headers, &widths));
            lines.push("-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)));
            lines.extend(rows.iter().map(|row| aligned(row, &widths)));
            if rows.iter().flatten().any(|cell| cell.ends_with(BEST)) {
                lines.push(format!("{}: {BEST_MEANS}", BEST.trim_start()));
            }
            lines.extend(reference_notes(references));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// Column headings of the comparison table.
    pub(super) fn headers(&self, references: &[ReferenceRow]) -> Vec<String> {
        let metrics = shown_metrics(&self.rows, references)
            .into_iter()
            .map(|metric| metric.heading);
        ["combiner", "n"]
            .into_iter()
            .chain(metrics)
            .chain(COLUMNS_AFTER)
            .map(str::to_owned)
            .collect()
    }

    /// Cells of the comparison table, one row per combiner and one per reference.
    pub(super) fn cells(&self, references: &[ReferenceRow]) -> Vec<Vec<String>> {
        let names: Vec<&str> = shown_metrics(&self.rows, references)
            .into_iter()
            .map(|metric| metric.name)
            .collect();
        let metrics = self.metric_cells(&names);
        let combiners = self.rows.iter().zip(metrics).map(|(row, metrics)| {
            let mut cells = vec![row.combiner.clone(), row.count_cell()];
            cells.extend(metrics);
            cells.extend(row.cost_cells());
            cells
        });
        combiners
            .chain(
                references
                    .iter()
                    .map(|reference| reference_cells(reference, &names)),
            )
            .collect()
    }

    /// The cells of some metrics, row by row; the clearly best value of each is marked.
    pub(super) fn metric_cells(&self, names: &[&str]) -> Vec<Vec<String>> {
        let best: Vec<Option<usize>> = names.iter().map(|name| self.clearly_best(name)).collect();
        self.rows
            .iter()
            .enumerate()
            .map(|(index, row)| {
                names
                    .iter()
                    .zip(&best)
                    .map(|(name, best)| {
                        let mut cell = row.metric_cell(name);
                        if *best == Some(index) {
                            cell.push_str(BEST);
                        }
                        cell
                    })
                    .collect()
            })
            .collect()
    }

    /// The row whose interval of a metric is apart from the intervals of all others and better.
    fn clearly_best(&self, name: &str) -> Option<usize> {
        let mut intervals = Vec::new();
        for (index, row) in self.rows.iter().enumerate() {
            if row.metrics.contains_key(name) {
                // Without an interval of every row nothing is known to be apart.
                intervals.push((index, row.interval(name)?));
            }
        }
        if intervals.len() < 2 {
            return None;
        }
        let is_best = |index: usize, (low, high): (f64, f64)| {
            let mut others = intervals.iter().filter(|(other, _)| *other != index);
            others.all(|(_, (other_low, other_high))| {
                if is_better_smaller(name) {
                    high < *other_low
                } else {
                    low > *other_high
                }
            })
        };
        intervals
            .iter()
            .find(|(index, interval)| is_best(*index, *interval))
            .map(|(index, _)| *index)
    }
}

impl ComparisonRow {
    fn of_group(combiner: &str, members: &[&Summary], split: &str) -> Self {
        let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for metrics in members
            .iter()
            .filter_map(|summary| summary.metrics.get(split))
        {
            for (name, value) in metrics {
                values.entry(name.clone()).or_default().push(*value);
            }
        }
        let seconds: Vec<f64> = members
            .iter()
            .map(|summary| summary.train_seconds)
            .collect();
        let per_step: Vec<f64> = members
            .iter()
            .filter_map(|summary| seconds_per_step(summary))
            .collect();
        let memory: Vec<f64> = members
            .iter()
            .filter_map(|summary| summary.peak_memory_bytes)
            .map(mebibytes)
            .collect();
        let seeds: BTreeSet<u64> = members.iter().map(|summary| summary.seed).collect();
        let spread = |values: &[f64]| (!values.is_empty()).then(|| mean_and_deviation(values));
        Self {
            combiner: combiner.to_owned(),
            n_runs: members.len(),
            n_seeds: seeds.len(),
            metrics: values
                .iter()
                .map(|(name, values)| (name.clone(), mean_and_deviation(values)))
                .collect(),
            values,
            train_seconds: mean_and_deviation(&seconds),
            step_seconds: spread(&per_step),
            peak_memory_mib: spread(&memory),
            // `total_cmp` puts NaN above every number: a broken audit must not be hidden.
            worst_hypergradient_error: members
                .iter()
                .filter_map(|summary| summary.worst_hypergradient_error)
                .max_by(f64::total_cmp),
        }
    }

    /// The number of runs; of seeds as well where runs share one.
    pub(super) fn count_cell(&self) -> String {
        if self.n_seeds == self.n_runs {
            self.n_runs.to_string()
        } else {
            format!("{} ({} seeds)", self.n_runs, self.n_seeds)
        }
    }

    /// The cells of [`COLUMNS_AFTER`].
    fn cost_cells(&self) -> [String; 4] {
        let step = self.step_seconds.map(|(mean, _)| 1000.0 * mean);
        let memory = self.peak_memory_mib.map(|(mean, _)| mean);
        let cell = |value: Option<f64>, decimals: usize| {
            value.map_or_else(|| ABSENT.to_owned(), |value| number_cell(value, decimals))
        };
        [
            number_cell(self.train_seconds.0, 1),
            cell(step, 1),
            cell(memory, 0),
            error_cell(self.worst_hypergradient_error),
        ]
    }

    /// A metric as the tables show it, shares in per cent, with half of its interval.
    pub(super) fn metric_cell(&self, name: &str) -> String {
        let (Some((mean, deviation)), Some(values)) =
            (self.metrics.get(name), self.values.get(name))
        else {
            return ABSENT.to_owned();
        };
        let scale = metric_scale(name);
        let decimals = metric_decimals(name);
        let mut cell = interval_cell(mean * scale, deviation * scale, values.len(), decimals);
        if values.len() != self.n_runs {
            cell.push_str(&format!(" (n = {})", values.len()));
        }
        cell
    }

    /// The 95 % interval of a metric, if it has a finite one.
    fn interval(&self, name: &str) -> Option<(f64, f64)> {
        let (mean, deviation) = self.metrics.get(name)?;
        let half = half_width(*deviation, self.values.get(name)?.len())?;
        (mean.is_finite() && half.is_finite()).then_some((mean - half, mean + half))
    }
}

/// Seconds of training per inner step of a run, if it took one.
pub(super) fn seconds_per_step(summary: &Summary) -> Option<f64> {
    (summary.iterations > 0).then(|| summary.train_seconds / summary.iterations as f64)
}

/// A mean of `n` values ± half of its 95 % interval, if it has one.
fn interval_cell(mean: f64, deviation: f64, n: usize, decimals: usize) -> String {
    match half_width(deviation, n) {
        Some(half) if mean.is_finite() && half.is_finite() => {
            format!("{mean:.decimals$} ± {half:.decimals$}")
        }
        Some(_) => number_cell(f64::NAN, decimals),
        None => number_cell(mean, decimals),
    }
}

/// A relative error, or a dash.
pub(super) fn error_cell(error: Option<f64>) -> String {
    match error {
        Some(error) if error.is_finite() => format!("{error:.1e}"),
        Some(_) => "not finite".to_owned(),
        None => ABSENT.to_owned(),
    }
}

/// A number with a fixed number of decimals.
pub(super) fn number_cell(value: f64, decimals: usize) -> String {
    if value.is_finite() {
        format!("{value:.decimals$}")
    } else {
        "not finite".to_owned()
    }
}

/// Bytes in MiB.
pub(super) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MEBIBYTE
}

/// The notes of the references that have one, a line each.
pub(super) fn reference_notes(references: &[ReferenceRow]) -> Vec<String> {
    references
        .iter()
        .filter(|reference| !reference.note.is_empty())
        .map(|reference| format!("{}: {}", reference.name, reference.note))
        .collect()
}

/// Columns of a comparison after the metrics; means but for the error, which is the largest.
const COLUMNS_AFTER: [&str; 4] = [
    "train (s)",
    "step (ms)",
    "peak (MiB)",
    "worst hypergrad. error",
];

fn reference_cells(reference: &ReferenceRow, names: &[&str]) -> Vec<String> {
    let mut cells = vec![reference.name.clone(), ABSENT.to_owned()];
    cells.extend(names.iter().map(|name| {
        reference.metrics.get(*name).map_or_else(
            || ABSENT.to_owned(),
            |value| number_cell(value * metric_scale(name), metric_decimals(name)),
        )
    }));
    cells.resize(cells.len() + COLUMNS_AFTER.len(), ABSENT.to_owned());
    cells
}

fn column_widths(headers: &[String], rows: &[Vec<String>]) -> Vec<usize> {
    let mut widths: Vec<usize> = headers.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

/// A line of the text table: the first column to the left, the others to the right.
fn aligned(cells: &[String], widths: &[usize]) -> String {
    let mut columns = Vec::with_capacity(cells.len());
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let width = *width;
        columns.push(if index == 0 {
            format!("{cell:<width$}")
        } else {
            format!("{cell:>width$}")
        });
    }
    columns.join("  ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(combiner: &str, seed: u64, r1: f64) -> Summary {
        let metrics = BTreeMap::from([
            ("text_to_video.r1".to_owned(), r1),
            ("text_to_video.median_rank".to_owned(), 4.0),
        ]);
        Summary {
            format_version: 1,
            name: format!("{combiner}-{seed}"),
            combiner: combiner.to_owned(),
            seed,
            device: "flex".to_owned(),
            tasks: vec!["contrastive".to_owned()],
            primary: "contrastive".to_owned(),
            iterations: 10,
            metrics: BTreeMap::from([("test".to_owned(), metrics)]),
            train_seconds: 12.5,
            total_seconds: 15.0,
            peak_memory_bytes: Some(256 * 1024 * 1024),
            worst_hypergradient_error: (combiner == "meltr").then_some(2.5e-3),
        }
    }

    #[test]
    fn the_deviation_divides_by_one_less_than_the_count() {
        let (mean, deviation) = mean_and_deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(mean, 5.0);
        assert!((deviation - (32.0_f64 / 7.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn one_value_has_no_deviation_and_none_has_no_mean() {
        assert_eq!(mean_and_deviation(&[3.5]), (3.5, 0.0));
        let (mean, deviation) = mean_and_deviation(&[]);
        assert!(mean.is_nan() && deviation.is_nan());
    }

    #[test]
    fn combiners_keep_their_order_and_are_averaged_over_seeds() {
        let summaries = [
            summary("sum", 0, 0.25),
            summary("meltr", 0, 0.5),
            summary("sum", 1, 0.75),
        ];
        let comparison = Comparison::from_summaries(&summaries, "test");
        let names: Vec<&str> = comparison
            .rows
            .iter()
            .map(|row| row.combiner.as_str())
            .collect();
        assert_eq!(names, ["sum", "meltr"]);
        let row = &comparison.rows[0];
        assert_eq!((row.n_runs, row.n_seeds), (2, 2));
        let (mean, deviation) = row.metrics["text_to_video.r1"];
        assert_eq!(mean, 0.5);
        assert!((deviation - 0.125_f64.sqrt()).abs() < 1e-15);
        assert_eq!(row.values["text_to_video.r1"], [0.25, 0.75]);
        assert_eq!(row.step_seconds, Some((1.25, 0.0)));
        assert_eq!(row.peak_memory_mib, Some((256.0, 0.0)));
        assert_eq!(row.worst_hypergradient_error, None);
        assert_eq!(comparison.rows[1].worst_hypergradient_error, Some(2.5e-3));
    }

    #[test]
    fn the_text_table_shows_combiners_and_references() {
        let summaries = [
            summary("sum", 0, 0.25),
            summary("sum", 1, 0.75),
            summary("meltr", 0, 0.5),
        ];
        let reference = ReferenceRow {
            name: "linear".to_owned(),
            metrics: BTreeMap::from([("text_to_video.r1".to_owned(), 0.125)]),
            note: "ridge regression on mean features".to_owned(),
        };
        let text = Comparison::from_summaries(&summaries, "test").to_text(&[reference]);
        assert!(text.contains("split `test`"), "{text}");
        assert!(text.contains("R@1 (%)"), "{text}");
        // Deviation 35.36, t = 12.706 for one degree of freedom, √2 values.
        assert!(text.contains("50.0 ± 317.7"), "{text}");
        assert!(text.contains("4.0 ± 0.0"), "{text}");
        assert!(text.contains("1250.0"), "{text}");
        assert!(text.contains("2.5e-3"), "{text}");
        let line = text
            .lines()
            .find(|line| line.starts_with("linear "))
            .unwrap();
        assert!(line.contains("12.5") && !line.contains('±'), "{text}");
        assert!(
            text.contains("linear: ridge regression on mean features"),
            "{text}"
        );
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn the_columns_of_the_text_table_are_aligned() {
        let summaries = [
            summary("sum", 0, 0.25),
            summary("sum", 1, 0.75),
            summary("sum", 2, 1.0),
        ];
        let text = Comparison::from_summaries(&summaries, "test").to_text(&[]);
        let lengths: Vec<usize> = text
            .lines()
            .skip(1)
            .map(|line| line.chars().count())
            .collect();
        assert_eq!(lengths.len(), 3);
        assert!(lengths.iter().all(|length| *length == lengths[0]), "{text}");
    }

    #[test]
    fn the_best_is_marked_only_if_its_interval_is_apart() {
        let rows = |far: f64| {
            let summaries: Vec<Summary> = [("sum", 0.2), ("meltr", far)]
                .into_iter()
                .flat_map(|(combiner, r1)| {
                    (0..3).map(move |seed| summary(combiner, seed, r1 + 0.001 * seed as f64))
                })
                .collect();
            let comparison = Comparison::from_summaries(&summaries, "test");
            comparison.metric_cells(&["text_to_video.r1", "text_to_video.median_rank"])
        };
        // Three values 0.1 points apart: half widths of 0.25 points.
        assert_eq!(rows(0.21)[1], ["21.1 ± 0.2 *", "4.0 ± 0.0"]);
        assert_eq!(rows(0.21)[0], ["20.1 ± 0.2", "4.0 ± 0.0"]);
        assert_eq!(rows(0.202)[1], ["20.3 ± 0.2", "4.0 ± 0.0"]);
    }

    #[test]
    fn a_smaller_rank_is_the_better_one() {
        let mut summaries = Vec::new();
        for (combiner, rank) in [("sum", 9.0), ("meltr", 4.0)] {
            for seed in 0..2 {
                let mut summary = summary(combiner, seed, 0.5);
                let metrics = summary.metrics.get_mut("test").unwrap();
                metrics.insert("text_to_video.median_rank".to_owned(), rank);
                summaries.push(summary);
            }
        }
        let comparison = Comparison::from_summaries(&summaries, "test");
        assert_eq!(
            comparison.clearly_best("text_to_video.median_rank"),
            Some(1)
        );
        let text = comparison.to_text(&[]);
        assert!(text.contains("4.0 ± 0.0 *"), "{text}");
        assert!(text.contains("\n*: the interval is better than"), "{text}");
    }

    #[test]
    fn single_runs_have_no_interval_and_no_best() {
        let summaries = [summary("sum", 0, 0.25), summary("meltr", 0, 0.5)];
        let comparison = Comparison::from_summaries(&summaries, "test");
        assert_eq!(comparison.rows[0].metric_cell("text_to_video.r1"), "25.0");
        assert_eq!(comparison.clearly_best("text_to_video.r1"), None);
    }

    #[test]
    fn runs_that_share_a_seed_or_lack_a_split_are_told() {
        let mut summaries = vec![
            summary("sum", 0, 0.25),
            summary("sum", 0, 0.25),
            summary("sum", 1, 0.25),
        ];
        summaries[2].metrics.clear();
        let row = &Comparison::from_summaries(&summaries, "test").rows[0];
        assert_eq!(row.count_cell(), "3 (2 seeds)");
        assert_eq!(row.metric_cell("text_to_video.r1"), "25.0 ± 0.0 (n = 2)");
    }

    #[test]
    fn a_split_that_was_not_evaluated_has_dashes() {
        let comparison = Comparison::from_summaries(&[summary("sum", 0, 0.25)], "validation");
        assert!(comparison.rows[0].metrics.is_empty());
        assert_eq!(comparison.rows[0].metric_cell("text_to_video.r1"), ABSENT);
    }

    #[test]
    fn no_run_and_no_reference_is_said() {
        assert!(
            Comparison::from_summaries(&[], "test")
                .to_text(&[])
                .contains("no finished run")
        );
    }

    #[test]
    fn a_metric_that_is_not_finite_is_shown_as_such() {
        let summaries = [summary("sum", 0, f64::NAN), summary("sum", 1, 0.5)];
        let comparison = Comparison::from_summaries(&summaries, "test");
        assert_eq!(
            comparison.rows[0].metric_cell("text_to_video.r1"),
            "not finite"
        );
    }
}
