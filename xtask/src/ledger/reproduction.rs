//! The page of the rows: of each the newest comparisons, as Markdown.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::{Budget, Combiner, Difference, Entry, Spread};
use super::metric::{columns, number, signed, text};
use super::table::{
    ABSENT, difference_text, heading_rows, row, seconds_cell, shown_cell, spread_cell,
};

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// Digits of a checksum that are shown.
const SHOWN_DIGITS: usize = 16;

const HEAD: &str = "\
# Reproduction

Which rows were run, at which commit, and what came out, beside what is published. The page is \
made from [the ledger](ledger.jsonl) by `cargo xtask ledger` and not edited by hand; \
`cargo xtask repro ROW --record` appends to the ledger. Of each row the newest comparison is \
shown, and those before it with a combiner that no newer one has. The ledger holds the older ones \
too, with the values of every seed. The sweeps of `cargo xtask repro study` have \
[a page of their own](study.md).

A number is the mean over the seeds ± half of its 95 % interval (Student's t), which takes the \
values as independent and normal. A difference is taken seed by seed. Nothing is corrected for the \
number of comparisons.
";

const NOTHING: &str = "\nNo comparison is recorded yet.\n";

/// The text of the page.
pub(super) fn page(entries: &[Entry]) -> String {
    let mut rows: BTreeMap<&str, BTreeMap<Budget, Vec<&Entry>>> = BTreeMap::new();
    let of_rows = entries.iter().filter(|entry| entry.of_study().is_none());
    for entry in of_rows {
        let of_row = rows.entry(entry.row.as_str()).or_default();
        of_row.entry(entry.budget).or_default().push(entry);
    }
    let mut page = HEAD.to_owned();
    if rows.is_empty() {
        page += NOTHING;
    }
    for (row, budgets) in rows {
        page += &format!("\n## `{row}`\n");
        let newest = budgets.values().filter_map(|entries| entries.last());
        if let Some(title) = newest.map(|entry| entry.title.as_str()).next() {
            page += &format!("\n{title}.\n");
        }
        let n_budgets = budgets.len();
        for (budget, entries) in budgets {
            if n_budgets > 1 || budget == Budget::EqualTime {
                page += &format!("\n### {}\n", heading(budget));
            }
            for (place, entry) in entries.iter().enumerate() {
                let (before, after) = entries.split_at(place);
                if after.iter().skip(1).any(|newer| has_all_of(newer, entry)) {
                    continue;
                }
                let n_covered = before
                    .iter()
                    .filter(|older| has_all_of(entry, older))
                    .count();
                page += &format!("\n{}\n", origin(entry, n_covered + 1));
                page += &format!("\n```text\n{}\n```\n", entry.command);
                page += &format!("\n{}", table(entry));
                for line in remarks(entry) {
                    page += &format!("\n{line}\n");
                }
            }
        }
    }
    page
}

/// Whether a comparison is of all the combiners of another one.
fn has_all_of(entry: &Entry, other: &Entry) -> bool {
    let combiners: BTreeSet<&str> = names(entry).collect();
    names(other).all(|name| combiners.contains(name))
}

fn names(entry: &Entry) -> impl Iterator<Item = &str> {
    entry
        .combiners
        .iter()
        .map(|combiner| combiner.combiner.as_str())
}

fn heading(budget: Budget) -> &'static str {
    match budget {
        Budget::EqualSteps => "Equal steps",
        Budget::EqualTime => "Equal wall time, that of the plain sum",
    }
}

/// When and from what the numbers come.
fn origin(entry: &Entry, n_entries: usize) -> String {
    let crates: Vec<String> = entry
        .crates
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let ties = entry
        .ties
        .as_ref()
        .map_or_else(String::new, |ties| format!(", {ties} ties"));
    let files: Vec<String> = entry
        .files
        .iter()
        .map(|file| {
            let digits = file.sha256.get(..SHOWN_DIGITS).unwrap_or(&file.sha256);
            format!("`{}` (SHA-256 `{digits}...`)", file.path)
        })
        .collect();
    let files = if files.is_empty() {
        "none named".to_owned()
    } else {
        files.join(", ")
    };
    let count = if n_entries == 1 {
        "the only entry".to_owned()
    } else {
        format!("the newest of {n_entries} entries")
    };
    format!(
        "{}, {}, {}; {count}. On `{}`, {} cores, {} runs at a time. {} seeds; trained on {} items \
         ({}), compared on the {} items of split `{}`{ties}. Files: {files}.",
        entry.date,
        entry.shown_commit(),
        crates.join(", "),
        entry.device,
        entry.cores,
        entry.jobs,
        entry.seeds.len(),
        entry.n_train,
        entry.train_splits.join(" + "),
        entry.n_compared(),
        entry.split,
    )
}

fn table(entry: &Entry) -> String {
    let measured = entry.measured();
    let columns = columns(|name| measured.contains(name));
    let mut headings = vec!["combiner"];
    headings.extend(columns.iter().map(|(_, heading)| *heading));
    headings.extend(["steps", "train (s)", "peak (MiB)", "worst hypergrad. error"]);
    let mut lines = vec![heading_rows(&headings, 1)];
    for combiner in &entry.combiners {
        let metrics = combiner.metrics.get(&entry.split);
        let mut cells = vec![combiner.combiner.clone()];
        cells.extend(
            columns
                .iter()
                .map(|(name, _)| spread_cell(name, metrics.and_then(|metrics| metrics.get(*name)))),
        );
        cells.extend(costs(combiner));
        lines.push(row(&cells));
    }
    for reference in &entry.references {
        let mut cells = vec![reference.name.clone()];
        cells.extend(columns.iter().map(|(name, _)| {
            let value = reference.metrics.get(*name);
            shown_cell(value.map(|value| number(name, *value)))
        }));
        cells.resize(headings.len(), ABSENT.to_owned());
        lines.push(row(&cells));
    }
    lines.concat()
}

/// The cells behind the metrics.
fn costs(combiner: &Combiner) -> [String; 4] {
    let memory: Option<Vec<f64>> = combiner.peak_memory_bytes.iter().copied().collect();
    let memory = memory.filter(|memory| !memory.is_empty()).map(|memory| {
        let mean = memory.iter().sum::<f64>() / memory.len() as f64;
        format!("{:.0}", mean / MEBIBYTE)
    });
    let error = combiner.worst_hypergradient_error;
    [
        combiner.iterations.to_string(),
        seconds_cell(&combiner.train_seconds),
        shown_cell(memory),
        shown_cell(error.map(|error| format!("{error:.1e}"))),
    ]
}

/// What is said below a table, a paragraph each.
fn remarks(entry: &Entry) -> Vec<String> {
    let mut paragraphs = Vec::new();
    if let Some(choice) = &entry.choice {
        let tried: Vec<String> = choice
            .tried
            .iter()
            .map(|tried| {
                let mean = tried.mean.map_or_else(
                    || "not measured".to_owned(),
                    |mean| text(&choice.metric, mean),
                );
                format!("{} gave {mean}", tried.value)
            })
            .collect();
        paragraphs.push(format!(
            "`{}` of `fixed` is {}, chosen by the mean `{}` on split `{}`: {}.",
            choice.key,
            choice.chosen,
            choice.metric,
            choice.split,
            tried.join(", ")
        ));
    }
    // In the order of the ledger.
    let mut seen = BTreeSet::new();
    for difference in &entry.differences {
        let name = difference.against.as_str();
        if seen.insert(name) {
            paragraphs.push(against_one(entry, name));
        }
    }
    paragraphs.extend(beside_published(entry));
    paragraphs
}

/// Which intervals of the differences from one combiner lie above 0, which below.
fn against_one(entry: &Entry, name: &str) -> String {
    let differences: Vec<&Difference> = entry
        .differences
        .iter()
        .filter(|difference| difference.against == name)
        .collect();
    let metric = differences
        .first()
        .map_or("", |difference| difference.metric.as_str());
    let mut parts = Vec::new();
    for (side, label) in [
        (Side::Above, "above"),
        (Side::Below, "below"),
        (Side::Around, "not told apart"),
    ] {
        let shown: Vec<String> = differences
            .iter()
            .filter(|difference| side_of(&difference.difference) == side)
            .map(|difference| shown_difference(difference))
            .collect();
        if !shown.is_empty() {
            parts.push(format!("{label}: {}", shown.join(", ")));
        }
    }
    format!("`{metric}` against {name}: {}.", parts.join("; "))
}

/// Where the interval of a difference lies with respect to 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Above,
    Below,
    /// It holds 0, or there is none.
    Around,
}

fn side_of(spread: &Spread) -> Side {
    match (spread.mean, spread.half_width) {
        (Some(mean), Some(half)) if mean - half > 0.0 => Side::Above,
        (Some(mean), Some(half)) if mean + half < 0.0 => Side::Below,
        _ => Side::Around,
    }
}

fn shown_difference(difference: &Difference) -> String {
    format!("{} {}", difference.combiner, difference_text(difference))
}

/// How far each combiner is from what is published.
fn beside_published(entry: &Entry) -> Option<String> {
    let published = entry.published.as_ref()?;
    let parts: Vec<String> = entry
        .combiners
        .iter()
        .filter(|combiner| !combiner.difference_to_published.is_empty())
        .map(|combiner| {
            let differences: Vec<String> = combiner
                .difference_to_published
                .iter()
                .map(|(name, difference)| format!("`{name}` {}", signed(name, *difference)))
                .collect();
            format!("{} {}", combiner.combiner, differences.join(", "))
        })
        .collect();
    if parts.is_empty() {
        return Some(format!("Published: {}.", published.source));
    }
    Some(format!(
        "Minus what is published ({}): {}.",
        published.source,
        parts.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::entry::tests::entry;

    fn one_line(page: &str, start: &str) -> String {
        let line = page.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no `{start}` in\n{page}"))
            .to_owned()
    }

    #[test]
    fn an_empty_ledger_says_so() {
        let page = page(&[]);
        assert!(page.starts_with("# Reproduction\n"));
        assert!(page.ends_with("\nNo comparison is recorded yet.\n"));
    }

    #[test]
    fn a_row_has_its_table_with_intervals_references_and_published_numbers() {
        let page = page(&[entry()]);
        for (start, expected) in [
            (
                "| combiner",
                "| combiner | R@1 (%) | steps | train (s) | peak (MiB) | worst hypergrad. error |",
            ),
            ("| ---", "| --- | ---: | ---: | ---: | ---: | ---: |"),
            ("| sum", "| sum | 37.5 ± 158.8 | 85 | 11.0 | 384 | - |"),
            ("| meltr", "| meltr | 50.0 ± 0.0 | 85 | - | - | 4.6e-6 |"),
            (
                "| linear reference",
                "| linear reference | 29.9 | - | - | - | - |",
            ),
            (
                "`text_to_video.r1` against sum",
                "`text_to_video.r1` against sum: not told apart: meltr +12.5 % ± 158.8 %.",
            ),
            (
                "Minus what is published",
                "Minus what is published (a table): sum `text_to_video.r1` +9.0 %.",
            ),
            ("## ", "## `univl/a-retrieval`"),
            ("UniVL", "UniVL on A."),
            ("meltr repro", "meltr repro a.toml --seeds 2"),
        ] {
            assert_eq!(one_line(&page, start), expected);
        }
        let origin = one_line(&page, "2026-01-31");
        for part in [
            "commit `0123456789` with uncommitted changes",
            "burn 0.22.1, meltr 0.1.0",
            "the only entry",
            "2 seeds",
            "20 items (train + valid)",
            "the 4 items of split `test`, average ties",
            "`a (embedded)` (SHA-256 `0011223344556677...`)",
        ] {
            assert!(origin.contains(part), "{origin}");
        }
    }

    #[test]
    fn the_newest_line_of_a_row_is_shown_and_the_others_counted() {
        let newer = Entry {
            date: "2026-02-01".to_owned(),
            ..entry()
        };
        let page = page(&[entry(), newer]);
        assert!(!page.contains("2026-01-31"));
        assert!(one_line(&page, "2026-02-01").contains("the newest of 2 entries"));
        assert!(!page.contains("### "));
    }

    #[test]
    fn an_older_line_stays_as_long_as_one_of_its_combiners_is_in_no_newer_one() {
        let dated = |date: &str, combiners: &[&str]| {
            let mut entry = entry();
            entry.date = date.to_owned();
            let of_names = |name: &&str| Combiner {
                combiner: (*name).to_owned(),
                ..entry.combiners[0].clone()
            };
            entry.combiners = combiners.iter().map(of_names).collect();
            entry
        };
        let page = page(&[
            dated("2026-02-01", &["sum"]),
            dated("2026-02-02", &["sum", "primary"]),
            dated("2026-02-03", &["sum", "meltr"]),
        ]);
        assert!(!page.contains("2026-02-01"));
        assert!(one_line(&page, "2026-02-02").contains("the newest of 2 entries"));
        assert!(one_line(&page, "2026-02-03").contains("the newest of 2 entries"));
    }

    #[test]
    fn lines_of_the_study_are_left_to_their_own_page() {
        let of_study = Entry {
            row: "study/clips-qa/history".to_owned(),
            ..entry()
        };
        assert_eq!(page(&[entry(), of_study.clone()]), page(&[entry()]));
        assert_eq!(page(&[of_study]), page(&[]));
    }

    #[test]
    fn both_budgets_of_a_row_stand_below_each_other() {
        let timed = Entry {
            budget: Budget::EqualTime,
            ..entry()
        };
        let page = page(&[timed, entry()]);
        let headings: Vec<&str> = page.lines().filter(|line| line.starts_with('#')).collect();
        assert_eq!(
            headings,
            [
                "# Reproduction",
                "## `univl/a-retrieval`",
                "### Equal steps",
                "### Equal wall time, that of the plain sum"
            ]
        );
    }

    #[test]
    fn intervals_above_and_below_are_told_apart() {
        let mut entry = entry();
        entry.differences = [("meltr", 0.1, 0.05), ("primary", -0.1, 0.05)]
            .map(|(combiner, mean, half)| Difference {
                combiner: combiner.to_owned(),
                against: "sum".to_owned(),
                metric: "mae".to_owned(),
                difference: Spread {
                    mean: Some(mean),
                    half_width: Some(half),
                },
            })
            .into();
        assert_eq!(
            one_line(&page(&[entry]), "`mae`"),
            "`mae` against sum: above: meltr +0.1000 ± 0.0500; below: primary -0.1000 ± 0.0500."
        );
    }

    #[test]
    fn how_a_weight_was_chosen_is_said() {
        use crate::ledger::entry::{Choice, Tried};
        let mut entry = entry();
        entry.choice = Some(Choice {
            key: "combiner.auxiliary_weight".to_owned(),
            metric: "text_to_video.r1".to_owned(),
            split: "valid".to_owned(),
            tried: vec![
                Tried {
                    value: 0.1,
                    mean: Some(0.2),
                },
                Tried {
                    value: 1.0,
                    mean: None,
                },
            ],
            chosen: 0.1,
        });
        assert_eq!(
            one_line(&page(&[entry]), "`combiner"),
            "`combiner.auxiliary_weight` of `fixed` is 0.1, chosen by the mean \
             `text_to_video.r1` on split `valid`: 0.1 gave 20.0 %, 1 gave not measured."
        );
    }
}
