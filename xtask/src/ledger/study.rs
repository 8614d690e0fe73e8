//! The page of the study: of each sweep the newest comparison, a table for each task.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::{Budget, Combiner, Entry};
use super::metric::{columns, heading};
use super::table::{difference_text, heading_rows, row, seconds_cell, shown_cell, spread_cell};

/// Settings that every sweep of the study has: what it is called and compared on.
const OF_EVERY_SWEEP: [&str; 4] = ["name", "title", "compared_split", "train.eval_splits"];

/// Columns before those with numbers: variant, combiner, settings.
const N_TEXTS: usize = 3;

const HEAD: &str = "\
# Study

What each choice of the recommended form brings: one of them changed at a time, beside plain \
combinations of the losses and the published form. The page is made from [the \
ledger](ledger.jsonl) by `cargo xtask ledger` and not edited by hand; `cargo xtask repro study \
--record` appends to the ledger. What is studied is written in `xtask/study.toml`, and what \
follows from it in [when it helps](when-it-helps.md).

A number is the mean over the seeds ± half of its 95 % interval (Student's t), which takes the \
values as independent and normal. A difference is taken seed by seed, and only between combiners \
of one sweep. Nothing is corrected for the number of comparisons. The items are those of \
validation; outer steps with held-out batches take them from the same items, so such a combiner \
has seen what it is compared on, and the plain ones have not.
";

const NOTHING: &str = "\nNo sweep of the study is recorded yet.\n";

/// The newest line of a sweep.
struct Sweep<'a> {
    variant: &'a str,
    entry: &'a Entry,
}

/// The text of the page.
pub(super) fn page(entries: &[Entry]) -> String {
    let mut tasks: BTreeMap<&str, Vec<Sweep<'_>>> = BTreeMap::new();
    for entry in newest(entries) {
        if let Some((task, variant)) = entry.of_study() {
            let sweeps = tasks.entry(task).or_default();
            sweeps.push(Sweep { variant, entry });
        }
    }
    let mut page = HEAD.to_owned();
    if tasks.is_empty() {
        page += NOTHING;
    }
    for (task, sweeps) in &tasks {
        page += &format!(
            "\n## `{task}`\n\n{}\n\n{}",
            compared_on(sweeps),
            table(sweeps)
        );
    }
    page
}

/// The newest line of each row and budget, in the order in which these were first recorded.
fn newest(entries: &[Entry]) -> Vec<&Entry> {
    let mut newest: Vec<&Entry> = Vec::new();
    for entry in entries {
        let known = newest
            .iter()
            .position(|known| known.row == entry.row && known.budget == entry.budget);
        match known {
            Some(index) => newest[index] = entry,
            None => newest.push(entry),
        }
    }
    newest
}

/// What the sweeps of a task were trained and compared on.
fn compared_on(sweeps: &[Sweep<'_>]) -> String {
    let sentences: BTreeSet<String> = sweeps
        .iter()
        .map(|Sweep { entry, .. }| {
            format!(
                "Compared on the {} items of split `{}`, trained on {} items ({}), on `{}`.",
                entry.n_compared(),
                entry.split,
                entry.n_train,
                entry.train_splits.join(" + "),
                entry.device,
            )
        })
        .collect();
    sentences.into_iter().collect::<Vec<_>>().join(" ")
}

fn table(sweeps: &[Sweep<'_>]) -> String {
    let metric = compared_metric(sweeps).unwrap_or("metric");
    let mut lines = heading_rows(
        &[
            "variant",
            "combiner",
            "settings",
            heading(metric),
            "difference",
            "seeds",
            "train (s)",
            "recorded",
        ],
        N_TEXTS,
    );
    for sweep in sweeps {
        for combiner in &sweep.entry.combiners {
            lines += &row(&cells(sweep, combiner, metric));
        }
    }
    lines
}

/// The metric that the sweeps of a task are compared by: that of their differences; where no sweep
/// has any, the first one with a column.
fn compared_metric<'a>(sweeps: &[Sweep<'a>]) -> Option<&'a str> {
    let mut differences = sweeps.iter().flat_map(|sweep| &sweep.entry.differences);
    let of_differences = differences.next().map(|found| found.metric.as_str());
    of_differences.or_else(|| {
        let measured: BTreeSet<&str> = sweeps
            .iter()
            .flat_map(|sweep| sweep.entry.measured())
            .collect();
        let known = columns(|name| measured.contains(name));
        known.first().map(|(name, _)| *name)
    })
}

fn cells(sweep: &Sweep<'_>, combiner: &Combiner, metric: &str) -> [String; 8] {
    let Sweep { variant, entry } = sweep;
    let budget = match entry.budget {
        Budget::EqualSteps => "",
        Budget::EqualTime => ", equal time",
    };
    let metrics = combiner.metrics.get(&entry.split);
    [
        format!("`{variant}`{budget}"),
        combiner.combiner.clone(),
        settings_cell(&entry.command),
        spread_cell(metric, metrics.and_then(|metrics| metrics.get(metric))),
        shown_cell(differences(entry, &combiner.combiner)),
        entry.seeds.len().to_string(),
        seconds_cell(&combiner.train_seconds),
        format!("{}, {}", entry.date, entry.shown_commit()),
    ]
}

/// The differences from one combiner to others of its sweep.
fn differences(entry: &Entry, combiner: &str) -> Option<String> {
    let shown: Vec<String> = entry
        .differences
        .iter()
        .filter(|difference| difference.combiner == combiner)
        .map(|difference| {
            format!(
                "{} against {}",
                difference_text(difference),
                difference.against
            )
        })
        .collect();
    (!shown.is_empty()).then(|| shown.join(", "))
}

/// The settings in which a sweep differs from its experiment, as its command has them.
fn settings_cell(command: &str) -> String {
    let words = words(command);
    let own: Vec<String> = words
        .windows(2)
        .filter(|pair| pair[0] == "--set")
        .map(|pair| pair[1].as_str())
        .filter(|entry| {
            let key = entry.split('=').next().unwrap_or_default();
            !OF_EVERY_SWEEP.contains(&key.trim())
        })
        .map(|entry| format!("`{entry}`"))
        .collect();
    shown_cell((!own.is_empty()).then(|| own.join(", ")))
}

/// The words of a command line as a shell reads them: single quotes keep blanks, and a backslash
/// outside of them keeps the sign after it.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut is_quoted = false;
    let mut signs = command.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '\'' => is_quoted = !is_quoted,
            '\\' if !is_quoted => word.extend(signs.next()),
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            other => word.push(other),
        }
    }
    words.push(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::entry::tests::entry;

    /// A line of the study with the differences of the one that it is made from.
    fn line(row: &str, date: &str, set: &str) -> Entry {
        Entry {
            row: row.to_owned(),
            date: date.to_owned(),
            command: format!("meltr repro a.toml --seeds 2 --set name={row}{set} --device flex"),
            ..entry()
        }
    }

    /// The first cells of the lines of all tables.
    fn variants(page: &str) -> Vec<&str> {
        page.lines()
            .filter(|line| line.starts_with("| `"))
            .filter_map(|line| line.split('|').nth(1))
            .map(str::trim)
            .collect()
    }

    #[test]
    fn a_ledger_without_the_study_says_so() {
        let page = page(&[entry()]);
        assert!(page.starts_with("# Study\n"));
        assert!(page.ends_with("\nNo sweep of the study is recorded yet.\n"));
    }

    #[test]
    fn a_sweep_has_a_line_for_each_combiner() {
        let set = " --set title='A, B' --set compared_split=test \
                   --set 'train.eval_splits=[\"test\"]' --set combiner.meltr.floor=0.3 \
                   --set 'outer.estimator={ neumann = {} }'";
        let page = page(&[line("study/a-retrieval/floor", "2026-02-01", set)]);
        let expected = "\n## `a-retrieval`\n\n\
             Compared on the 4 items of split `test`, trained on 20 items (train + valid), on \
             `flex`.\n\n\
             | variant | combiner | settings | R@1 (%) | difference | seeds | train (s) | recorded \
             |\n\
             | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |\n\
             | `floor` | sum | `combiner.meltr.floor=0.3`, `outer.estimator={ neumann = {} }` | \
             37.5 ± 158.8 | - | 2 | 11.0 | 2026-02-01, commit `0123456789` with uncommitted \
             changes |\n\
             | `floor` | meltr | `combiner.meltr.floor=0.3`, `outer.estimator={ neumann = {} }` | \
             50.0 ± 0.0 | +12.5 % ± 158.8 % against sum | 2 | - | 2026-02-01, commit `0123456789` \
             with uncommitted changes |\n";
        assert!(page.ends_with(expected), "{page}");
    }

    #[test]
    fn the_newest_line_of_a_sweep_stands_where_the_first_one_stood() {
        let page = page(&[
            line("study/b-qa/references", "2026-02-01", ""),
            line("study/b-qa/history", "2026-02-01", ""),
            line("study/a-qa/history", "2026-02-01", ""),
            line("study/b-qa/references", "2026-02-02", ""),
        ]);
        let (of_a, of_b) = page.split_once("## `b-qa`").unwrap();
        assert_eq!(variants(of_a), ["`history`"; 2]);
        assert_eq!(
            variants(of_b),
            ["`references`", "`references`", "`history`", "`history`"]
        );
        assert_eq!(of_b.matches("2026-02-02").count(), 2);
        assert!(of_b.contains("| - | 37.5"), "{of_b}");
    }

    #[test]
    fn a_comparison_with_equal_time_stands_beside_that_with_equal_steps() {
        let steps = line("study/a-qa/references", "2026-02-01", "");
        let timed = Entry {
            budget: Budget::EqualTime,
            ..steps.clone()
        };
        let page = page(&[steps, timed]);
        let expected = ["`references`", "`references`, equal time"];
        assert_eq!(variants(&page), expected.map(|name| [name; 2]).concat());
    }

    #[test]
    fn sweeps_of_one_combiner_are_shown_by_the_first_metric_with_a_column() {
        let mut line = line("study/a-qa/history", "2026-02-01", "");
        line.differences.clear();
        let page = page(&[line]);
        assert!(page.contains("| R@1 (%) |"), "{page}");
    }

    #[test]
    fn words_are_read_as_a_shell_reads_them() {
        assert_eq!(
            words(r"--set 'a=[1, 2]' b 'it'\''s' c"),
            ["--set", "a=[1, 2]", "b", "it's", "c"]
        );
    }
}
