//! How the page writes metrics: as the report of `meltr` does.

/// Metrics that have a column, with its heading; a table has those that its runs have.
const SHOWN: [(&str, &str); 13] = [
    ("text_to_video.r1", "R@1 (%)"),
    ("text_to_video.r5", "R@5 (%)"),
    ("text_to_video.r10", "R@10 (%)"),
    ("text_to_video.median_rank", "MedR"),
    ("cider", "CIDEr"),
    ("bleu_4", "BLEU-4"),
    ("meteor", "METEOR"),
    ("rouge_l", "ROUGE-L"),
    ("accuracy", "accuracy (%)"),
    ("acc2_non0", "Acc-2 (%)"),
    ("f1_non0", "F1 (%)"),
    ("mae", "MAE"),
    ("corr", "Corr"),
];

/// Names and headings of the columns, of the metrics for which `is_there` holds.
pub(super) fn columns(is_there: impl Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
    let known = SHOWN.into_iter();
    known.filter(|(name, _)| is_there(name)).collect()
}

/// The heading of a metric, which is its name where it has no column.
pub(super) fn heading(name: &str) -> &str {
    let mut known = SHOWN.into_iter().filter(|(shown, _)| *shown == name);
    known.next().map_or(name, |(_, heading)| heading)
}

/// A value as its column shows it: shares in per cent.
pub(super) fn number(name: &str, value: f64) -> String {
    let (scale, decimals) = scale(name);
    format!("{:.decimals$}", value * scale)
}

/// A value with its unit.
pub(super) fn text(name: &str, value: f64) -> String {
    let unit = if is_share(name) { " %" } else { "" };
    format!("{}{unit}", number(name, value))
}

/// A difference with its sign and unit.
pub(super) fn signed(name: &str, value: f64) -> String {
    let sign = if value < 0.0 { "" } else { "+" };
    format!("{sign}{}", text(name, value))
}

fn scale(name: &str) -> (f64, usize) {
    if is_share(name) {
        (100.0, 1)
    } else if name.ends_with("_rank") {
        (1.0, 1)
    } else {
        (1.0, 4)
    }
}

fn is_share(name: &str) -> bool {
    let is_recall = [".r1", ".r5", ".r10"]
        .iter()
        .any(|end| name.ends_with(*end));
    is_recall || name.starts_with("acc") || name.starts_with("f1_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_written_in_per_cent() {
        assert_eq!(text("text_to_video.r1", 0.256), "25.6 %");
        assert_eq!(number("acc2_non0", 0.8), "80.0");
        assert_eq!(text("cider", 0.123_45), "0.1235");
        assert_eq!(number("text_to_video.median_rank", 4.0), "4.0");
        assert_eq!(signed("mae", -0.5), "-0.5000");
        assert_eq!(signed("text_to_video.r1", 0.01), "+1.0 %");
    }

    #[test]
    fn columns_keep_their_order() {
        let there = ["mae", "text_to_video.r1", "video_to_text.r1"];
        assert_eq!(
            columns(|name| there.contains(&name)),
            [("text_to_video.r1", "R@1 (%)"), ("mae", "MAE")]
        );
    }

    #[test]
    fn a_metric_without_a_column_is_its_own_heading() {
        assert_eq!(heading("cider"), "CIDEr");
        assert_eq!(
            heading("text_to_video.mean_rank"),
            "text_to_video.mean_rank"
        );
    }
}
