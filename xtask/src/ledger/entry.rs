//! A line of the ledger, as far as the page shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The newest layout of lines that is known here; `meltr repro` writes it. Lines of the first one
/// differ in a name: their `meltr` is today's `meltr_published`.
const FORMAT_VERSION: u32 = 2;

/// What the names of the sweeps of the study start with: `study/TASK/VARIANT`.
pub(crate) const STUDY: &str = "study";

/// A comparison that was made.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Entry {
    pub(crate) format_version: u32,
    pub(crate) date: String,
    /// Name of the experiment.
    pub(crate) row: String,
    pub(crate) title: String,
    pub(crate) budget: Budget,
    pub(crate) command: String,
    pub(crate) commit: Option<String>,
    pub(crate) uncommitted_changes: Option<bool>,
    /// Commit of the program that began the runs, if it is another one.
    #[serde(default)]
    pub(crate) begun_at: Option<String>,
    /// Name to version.
    pub(crate) crates: BTreeMap<String, String>,
    pub(crate) device: String,
    pub(crate) cores: usize,
    /// Runs at a time.
    pub(crate) jobs: usize,
    pub(crate) files: Vec<FileChecksum>,
    pub(crate) train_splits: Vec<String>,
    pub(crate) n_train: usize,
    /// The split that combiners are compared on.
    pub(crate) split: String,
    /// Split to number of items.
    pub(crate) n_items: BTreeMap<String, usize>,
    pub(crate) ties: Option<String>,
    pub(crate) seeds: Vec<u64>,
    pub(crate) combiners: Vec<Combiner>,
    pub(crate) differences: Vec<Difference>,
    #[serde(default)]
    pub(crate) choice: Option<Choice>,
    pub(crate) references: Vec<Reference>,
    pub(crate) published: Option<Published>,
}

/// What the combiners of a comparison had the same amount of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Budget {
    /// Inner steps.
    EqualSteps,
    /// Seconds of training.
    EqualTime,
}

/// A file that runs read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct FileChecksum {
    pub(crate) path: String,
    pub(crate) sha256: String,
}

/// The runs of one combiner.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Combiner {
    pub(crate) combiner: String,
    pub(crate) iterations: usize,
    /// Split to metric to values.
    pub(crate) metrics: BTreeMap<String, BTreeMap<String, Spread>>,
    pub(crate) train_seconds: Spread,
    pub(crate) peak_memory_bytes: Vec<Option<f64>>,
    pub(crate) worst_hypergradient_error: Option<f64>,
    /// Metric to the mean minus what is published.
    #[serde(default)]
    pub(crate) difference_to_published: BTreeMap<String, f64>,
}

/// A mean over seeds; there is none if a run lacks the value.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Spread {
    pub(crate) mean: Option<f64>,
    /// Half of its 95 % interval.
    pub(crate) half_width: Option<f64>,
}

/// A combiner against another, seed by seed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Difference {
    pub(crate) combiner: String,
    pub(crate) against: String,
    pub(crate) metric: String,
    pub(crate) difference: Spread,
}

/// How a setting was chosen.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Choice {
    pub(crate) key: String,
    pub(crate) metric: String,
    pub(crate) split: String,
    pub(crate) tried: Vec<Tried>,
    pub(crate) chosen: f64,
}

/// A value that was tried.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Tried {
    pub(crate) value: f64,
    pub(crate) mean: Option<f64>,
}

/// A line of a comparison that is no run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) metrics: BTreeMap<String, f64>,
}

/// What a paper reports.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Published {
    pub(crate) source: String,
}

impl Entry {
    /// The commit, shortened, with what is to be known about it.
    pub(crate) fn shown_commit(&self) -> String {
        let Some(commit) = &self.commit else {
            return "no commit known".to_owned();
        };
        let mut text = format!("commit `{}`", shortened(commit));
        if self.uncommitted_changes == Some(true) {
            text += " with uncommitted changes";
        }
        if let Some(begun_at) = &self.begun_at {
            text += &format!(", begun at `{}`", shortened(begun_at));
        }
        text
    }

    /// Task and variant, if the line is one of the study.
    pub(crate) fn of_study(&self) -> Option<(&str, &str)> {
        let path = self.row.strip_prefix(STUDY)?.strip_prefix('/')?;
        path.split_once('/')
    }

    /// The metrics that any combiner has on the compared split.
    pub(crate) fn measured(&self) -> BTreeSet<&str> {
        self.combiners
            .iter()
            .filter_map(|combiner| combiner.metrics.get(&self.split))
            .flat_map(|metrics| metrics.keys().map(String::as_str))
            .collect()
    }

    /// Number of items that combiners are compared on.
    pub(crate) fn n_compared(&self) -> usize {
        self.n_items.get(&self.split).copied().unwrap_or(0)
    }
}

fn shortened(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

/// The lines of a ledger, oldest first; none if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("failed to read `{}`", path.display()));
        }
    };
    if !text.is_empty() && !text.ends_with('\n') {
        bail!(
            "the last line of `{}` is cut off: it does not end with a newline; remove it, and \
             give the command again that was interrupted",
            path.display()
        );
    }
    text.lines()
        .enumerate()
        .map(|(index, line)| {
            parse(line).with_context(|| format!("`{}` line {}", path.display(), index + 1))
        })
        .collect()
}

fn parse(line: &str) -> Result<Entry> {
    let mut entry: Entry = serde_json::from_str(line)?;
    match entry.format_version {
        FORMAT_VERSION => {}
        1 => {
            let combiners = entry.combiners.iter_mut().map(|of| &mut of.combiner);
            let differences = entry.differences.iter_mut().map(|of| &mut of.combiner);
            for name in combiners.chain(differences).filter(|name| *name == "meltr") {
                "meltr_published".clone_into(name);
            }
        }
        version => bail!(
            "has layout {version}, and this program knows {FORMAT_VERSION}; take the newest commit"
        ),
    }
    Ok(entry)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tidy::tree::TempTree;

    /// A line as `meltr repro` writes it, about two combiners.
    pub(crate) const LINE: &str = concat!(
        r#"{"format_version":2,"date":"2026-01-31","row":"univl/a-retrieval","title":"UniVL on A","#,
        r#""budget":"equal_steps","command":"meltr repro a.toml --seeds 2","#,
        r#""commit":"0123456789abcdef","uncommitted_changes":true,"#,
        r#""crates":{"burn":"0.22.1","meltr":"0.1.0"},"device":"flex","cores":2,"jobs":2,"#,
        r#""files":[{"path":"a (embedded)","sha256":"0011223344556677"}],"#,
        r#""train_splits":["train","valid"],"n_train":20,"split":"test","n_items":{"test":4},"#,
        r#""ties":"average","seeds":[1,2],"combiners":["#,
        r#"{"combiner":"sum","iterations":85,"metrics":{"test":{"text_to_video.r1":"#,
        r#"{"values":[0.25,0.5],"mean":0.375,"half_width":1.588},"extra":"#,
        r#"{"values":[1.0,null],"mean":null,"half_width":null}}},"#,
        r#""train_seconds":{"values":[10.0,12.0],"mean":11.0,"half_width":12.7},"#,
        r#""seconds_per_step":0.13,"peak_memory_bytes":[268435456,536870912],"#,
        r#""worst_hypergradient_error":null,"difference_to_published":{"text_to_video.r1":0.09}},"#,
        r#"{"combiner":"meltr","iterations":85,"metrics":{"test":{"text_to_video.r1":"#,
        r#"{"values":[0.5,0.5],"mean":0.5,"half_width":0.0}}},"#,
        r#""train_seconds":{"values":[20.0,null],"mean":null,"half_width":null},"#,
        r#""seconds_per_step":0.25,"peak_memory_bytes":[null,null],"#,
        r#""worst_hypergradient_error":4.6e-6}],"#,
        r#""differences":[{"combiner":"meltr","against":"sum","metric":"text_to_video.r1","#,
        r#""difference":{"values":[0.25,0.0],"mean":0.125,"half_width":1.588}}],"#,
        r#""references":[{"name":"linear reference","metrics":{"text_to_video.r1":0.299},"#,
        r#""note":"a regression"}],"#,
        r#""published":{"metrics":{"text_to_video.r1":0.285},"source":"a table","needs":"data"}}"#,
    );

    pub(crate) fn entry() -> Entry {
        parse(LINE).unwrap()
    }

    fn read_text(text: &str) -> Result<Vec<Entry>> {
        let tree = TempTree::new();
        tree.write("ledger.jsonl", text);
        read(&tree.root().join("ledger.jsonl"))
    }

    #[test]
    fn lines_are_read_in_order() {
        let other = LINE.replace("2026-01-31", "2026-02-01");
        let entries = read_text(&format!("{LINE}\n{other}\n")).unwrap();
        let dates: Vec<&str> = entries.iter().map(|entry| entry.date.as_str()).collect();
        assert_eq!(dates, ["2026-01-31", "2026-02-01"]);
        assert_eq!(
            entries[0].shown_commit(),
            "commit `0123456789` with uncommitted changes"
        );
    }

    #[test]
    fn no_ledger_and_an_empty_one_have_no_lines() {
        assert_eq!(read_text("").unwrap(), []);
        let tree = TempTree::new();
        assert_eq!(read(&tree.root().join("ledger.jsonl")).unwrap(), []);
    }

    #[test]
    fn a_line_that_was_cut_off_is_said() {
        let error = read_text(&format!("{LINE}\n{}", &LINE[..40])).unwrap_err();
        assert!(error.to_string().contains("cut off"), "{error}");
    }

    #[test]
    fn a_line_that_is_broken_or_of_another_layout_is_named() {
        let newer = LINE.replace("\"format_version\":2", "\"format_version\":3");
        for (line, part) in [("{}", "missing field"), (newer.as_str(), "has layout 3")] {
            let error = read_text(&format!("{LINE}\n{line}\n")).unwrap_err();
            let message = format!("{error:#}");
            assert!(message.contains("line 2"), "{message}");
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_first_layout_called_the_published_form_by_the_name_of_the_recommended_one() {
        let old = LINE.replace("\"format_version\":2", "\"format_version\":1");
        let names = |line: &str| {
            let entries = read_text(&format!("{line}\n")).unwrap();
            let named = |name: &str| {
                let combiners = entries[0].combiners.iter().map(|of| of.combiner.as_str());
                let differences = entries[0].differences.iter();
                combiners
                    .chain(differences.map(|of| of.combiner.as_str()))
                    .filter(|of| *of == name)
                    .count()
            };
            [named("meltr"), named("meltr_published")]
        };
        let [recommended, published] = names(LINE);
        assert!(recommended >= 2 && published == 0);
        assert_eq!(names(&old), [0, recommended]);
    }

    #[test]
    fn lines_of_the_study_are_told_from_others() {
        for (row, expected) in [
            ("study/clips-qa/history", Some(("clips-qa", "history"))),
            ("study/clips-qa", None),
            ("study-of/clips-qa/history", None),
            ("univl/a-retrieval", None),
        ] {
            let entry = Entry {
                row: row.to_owned(),
                ..entry()
            };
            assert_eq!(entry.of_study(), expected, "{row}");
        }
    }

    #[test]
    fn what_is_measured_is_that_of_the_compared_split() {
        let entry = entry();
        let measured: Vec<&str> = entry.measured().into_iter().collect();
        assert_eq!(measured, ["extra", "text_to_video.r1"]);
        assert_eq!(entry.n_compared(), 4);
    }

    #[test]
    fn a_commit_that_is_not_known_is_said() {
        let entry = Entry {
            commit: None,
            ..entry()
        };
        assert_eq!(entry.shown_commit(), "no commit known");
        let begun = Entry {
            begun_at: Some("fedcba9876543210".to_owned()),
            uncommitted_changes: Some(false),
            ..self::entry()
        };
        assert_eq!(
            begun.shown_commit(),
            "commit `0123456789`, begun at `fedcba9876`"
        );
    }
}
