//! How metrics are named and written in tables and plots.

use std::collections::BTreeSet;

use super::table::{ComparisonRow, ReferenceRow};

/// A metric of the comparison: its name in the summaries and its heading.
pub(super) struct ShownMetric {
    pub(super) name: &'static str,
    pub(super) heading: &'static str,
}

/// The metrics of the comparison tables, of every task; a table has those that its runs have.
const SHOWN: [ShownMetric; 13] = [
    shown("text_to_video.r1", "R@1 (%)"),
    shown("text_to_video.r5", "R@5 (%)"),
    shown("text_to_video.r10", "R@10 (%)"),
    shown("text_to_video.median_rank", "MedR"),
    shown("cider", "CIDEr"),
    shown("bleu_4", "BLEU-4"),
    shown("meteor", "METEOR"),
    shown("rouge_l", "ROUGE-L"),
    shown("accuracy", "accuracy (%)"),
    shown("acc2_non0", "Acc-2 (%)"),
    shown("f1_non0", "F1 (%)"),
    shown("mae", "MAE"),
    shown("corr", "Corr"),
];

const fn shown(name: &'static str, heading: &'static str) -> ShownMetric {
    ShownMetric { name, heading }
}

/// The shown metrics that any row has, in the order of the table; those of retrieval if none has
/// any.
pub(super) fn shown_metrics(
    rows: &[ComparisonRow],
    references: &[ReferenceRow],
) -> Vec<&'static ShownMetric> {
    let of_rows = rows.iter().flat_map(|row| row.metrics.keys());
    let of_references = references
        .iter()
        .flat_map(|reference| reference.metrics.keys());
    let present: BTreeSet<&str> = of_rows.chain(of_references).map(String::as_str).collect();
    let known: Vec<_> = SHOWN
        .iter()
        .filter(|metric| present.contains(metric.name))
        .collect();
    if known.is_empty() {
        SHOWN.iter().take(4).collect()
    } else {
        known
    }
}

/// The one metric that stands for a run: the first shown one that it has.
#[must_use]
pub fn leading_metric<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let present: BTreeSet<&str> = names.collect();
    SHOWN
        .iter()
        .map(|metric| metric.name)
        .find(|name| present.contains(name))
}

/// A value of a metric as the tables show it: shares in per cent, with the decimals of its kind.
#[must_use]
pub fn metric_text(name: &str, value: f64) -> String {
    let unit = if is_share(name) { " %" } else { "" };
    format!(
        "{:.*}{unit}",
        metric_decimals(name),
        value * metric_scale(name)
    )
}

/// A metric name as a heading, with its unit.
pub(super) fn metric_heading(name: &str) -> String {
    if is_share(name) {
        format!("{name} (%)")
    } else {
        name.to_owned()
    }
}

/// Whether a smaller value of a metric is the better one.
pub(super) fn is_better_smaller(name: &str) -> bool {
    name.ends_with("_rank") || name == "mae"
}

fn is_share(name: &str) -> bool {
    let recall = [".r1", ".r5", ".r10"]
        .iter()
        .any(|suffix| name.ends_with(*suffix));
    recall || name.starts_with("acc") || name.starts_with("f1_")
}

pub(super) fn metric_scale(name: &str) -> f64 {
    if is_share(name) { 100.0 } else { 1.0 }
}

pub(super) fn metric_decimals(name: &str) -> usize {
    if is_share(name) || name.ends_with("_rank") {
        1
    } else {
        4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leading_metric_is_the_first_that_is_there() {
        assert_eq!(leading_metric(["mae", "acc_7"].into_iter()), Some("mae"));
        assert_eq!(
            leading_metric(["bleu_4", "cider"].into_iter()),
            Some("cider")
        );
        assert_eq!(leading_metric(["unknown"].into_iter()), None);
    }

    #[test]
    fn ranks_and_errors_are_better_when_smaller() {
        assert!(is_better_smaller("text_to_video.median_rank") && is_better_smaller("mae"));
        assert!(!is_better_smaller("text_to_video.r1") && !is_better_smaller("corr"));
    }

    #[test]
    fn shares_are_written_in_per_cent() {
        assert_eq!(metric_text("text_to_video.r1", 0.256), "25.6 %");
        assert_eq!(metric_text("acc2_non0", 0.8), "80.0 %");
        assert_eq!(metric_text("cider", 0.12345), "0.1235");
    }
}
