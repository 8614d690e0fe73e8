//! Rows and cells of the tables on the pages.

use super::entry::{Difference, Spread};
use super::metric::{number, signed, text};

/// What a cell without a value shows.
pub(super) const ABSENT: &str = "-";

/// A row of a table.
pub(super) fn row(cells: &[impl AsRef<str>]) -> String {
    let cells: Vec<String> = cells
        .iter()
        .map(|cell| cell.as_ref().replace('|', "\\|"))
        .collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The row of the headings and the one below it; the first `n_texts` columns hold texts, the others
/// numbers.
pub(super) fn heading_rows(headings: &[&str], n_texts: usize) -> String {
    let rules: Vec<&str> = (0..headings.len())
        .map(|column| if column < n_texts { "---" } else { "---:" })
        .collect();
    row(headings) + &row(&rules)
}

/// A cell with what may be there.
pub(super) fn shown_cell(content: Option<String>) -> String {
    content.unwrap_or_else(|| ABSENT.to_owned())
}

/// A cell with the mean of a metric and half of its interval.
pub(super) fn spread_cell(name: &str, spread: Option<&Spread>) -> String {
    let shown = spread.and_then(|spread| {
        let mean = number(name, spread.mean?);
        Some(match spread.half_width {
            Some(half) => format!("{mean} ± {}", number(name, half)),
            None => mean,
        })
    });
    shown_cell(shown)
}

/// A cell with the mean of some times.
pub(super) fn seconds_cell(seconds: &Spread) -> String {
    shown_cell(seconds.mean.map(|mean| format!("{mean:.1}")))
}

/// A difference between combiners with its interval.
pub(super) fn difference_text(difference: &Difference) -> String {
    let Difference {
        metric, difference, ..
    } = difference;
    match (difference.mean, difference.half_width) {
        (Some(mean), Some(half)) => format!("{} ± {}", signed(metric, mean), text(metric, half)),
        (Some(mean), None) => format!("{} (one seed)", signed(metric, mean)),
        (None, _) => "(not measured in every run)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(mean: Option<f64>, half_width: Option<f64>) -> Spread {
        Spread { mean, half_width }
    }

    #[test]
    fn a_bar_in_a_cell_does_not_end_it() {
        assert_eq!(row(&["a|b", "c"]), "| a\\|b | c |\n");
        assert_eq!(heading_rows(&["a", "b"], 1), "| a | b |\n| --- | ---: |\n");
    }

    #[test]
    fn a_value_that_is_not_there_leaves_a_mark() {
        for (spread, expected) in [
            (None, "-"),
            (Some(spread(None, None)), "-"),
            (Some(spread(Some(0.5), None)), "0.5000"),
            (Some(spread(Some(0.5), Some(0.25))), "0.5000 ± 0.2500"),
        ] {
            assert_eq!(spread_cell("cider", spread.as_ref()), expected);
        }
        assert_eq!(seconds_cell(&spread(Some(1.26), None)), "1.3");
        assert_eq!(seconds_cell(&spread(None, None)), "-");
    }

    #[test]
    fn a_difference_says_what_its_interval_lacks() {
        let text = |mean, half_width| {
            difference_text(&Difference {
                combiner: "meltr".to_owned(),
                against: "sum".to_owned(),
                metric: "accuracy".to_owned(),
                difference: spread(mean, half_width),
            })
        };
        assert_eq!(text(Some(0.125), Some(0.25)), "+12.5 % ± 25.0 %");
        assert_eq!(text(Some(-0.125), None), "-12.5 % (one seed)");
        assert_eq!(text(None, None), "(not measured in every run)");
    }
}
