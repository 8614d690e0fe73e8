//! Means over seeds, and the comparison of combiners as a table.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::metric::{metric_decimals, metric_scale, shown_metrics};
use crate::record::Summary;

/// What a cell without a value shows.
pub(super) const ABSENT: &str = "-";

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
    /// Seconds of training, evaluation not included.
    pub train_seconds: (f64, f64),
    /// Largest resident set size in MiB, where the system told it.
    pub peak_memory_mib: Option<(f64, f64)>,
    /// Largest audited relative error of a hypergradient in any of the runs.
    pub worst_hypergradient_error: Option<f64>,
}

impl Comparison {
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
    /// A row of a single run shows no deviation.
    #[must_use]
    pub fn to_text(&self, references: &[ReferenceRow]) -> String {
        let mut lines = vec![format!(
            "metrics on split `{}`, mean ± sample standard deviation over runs",
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
        ["combiner", "seeds"]
            .into_iter()
            .chain(metrics)
            .chain(["train (s)", "peak (MiB)", "worst hypergrad. error"])
            .map(str::to_owned)
            .collect()
    }

    /// Cells of the comparison table, one row per combiner and one per reference.
    pub(super) fn cells(&self, references: &[ReferenceRow]) -> Vec<Vec<String>> {
        let names: Vec<&str> = shown_metrics(&self.rows, references)
            .into_iter()
            .map(|metric| metric.name)
            .collect();
        let combiners = self.rows.iter().map(|row| row.cells(&names));
        combiners
            .chain(
                references
                    .iter()
                    .map(|reference| reference_cells(reference, &names)),
            )
            .collect()
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
        let memory: Vec<f64> = members
            .iter()
            .filter_map(|summary| summary.peak_memory_bytes)
            .map(mebibytes)
            .collect();
        let seeds: BTreeSet<u64> = members.iter().map(|summary| summary.seed).collect();
        Self {
            combiner: combiner.to_owned(),
            n_runs: members.len(),
            n_seeds: seeds.len(),
            metrics: values
                .into_iter()
                .map(|(name, values)| (name, mean_and_deviation(&values)))
                .collect(),
            train_seconds: mean_and_deviation(&seconds),
            peak_memory_mib: (!memory.is_empty()).then(|| mean_and_deviation(&memory)),
            // `total_cmp` puts NaN above every number: a broken audit must not be hidden.
            worst_hypergradient_error: members
                .iter()
                .filter_map(|summary| summary.worst_hypergradient_error)
                .max_by(f64::total_cmp),
        }
    }

    fn cells(&self, names: &[&str]) -> Vec<String> {
        let mut cells = vec![self.combiner.clone(), self.n_seeds.to_string()];
        cells.extend(names.iter().map(|name| self.metric_cell(name)));
        cells.push(self.spread_cell(self.train_seconds, 1));
        cells.push(
            self.peak_memory_mib
                .map_or_else(|| ABSENT.to_owned(), |spread| self.spread_cell(spread, 0)),
        );
        cells.push(error_cell(self.worst_hypergradient_error));
        cells
    }

    /// A metric as the tables show it, shares in per cent.
    pub(super) fn metric_cell(&self, name: &str) -> String {
        match self.metrics.get(name) {
            Some((mean, deviation)) => {
                let scale = metric_scale(name);
                self.spread_cell((mean * scale, deviation * scale), metric_decimals(name))
            }
            None => ABSENT.to_owned(),
        }
    }

    fn spread_cell(&self, (mean, deviation): (f64, f64), decimals: usize) -> String {
        if self.n_runs == 1 {
            number_cell(mean, decimals)
        } else if mean.is_finite() && deviation.is_finite() {
            format!("{mean:.decimals$} ± {deviation:.decimals$}")
        } else {
            number_cell(f64::NAN, decimals)
        }
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

/// Columns of a comparison after the metrics: seconds, memory, error.
const COLUMNS_AFTER: usize = 3;

fn reference_cells(reference: &ReferenceRow, names: &[&str]) -> Vec<String> {
    let mut cells = vec![reference.name.clone(), ABSENT.to_owned()];
    cells.extend(names.iter().map(|name| {
        reference.metrics.get(*name).map_or_else(
            || ABSENT.to_owned(),
            |value| number_cell(value * metric_scale(name), metric_decimals(name)),
        )
    }));
    cells.resize(cells.len() + COLUMNS_AFTER, ABSENT.to_owned());
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
        assert!(text.contains("50.0 ± 35.4"), "{text}");
        assert!(text.contains("4.0 ± 0.0"), "{text}");
        assert!(text.contains("12.5 ± 0.0"), "{text}");
        assert!(text.contains("256 ± 0"), "{text}");
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
