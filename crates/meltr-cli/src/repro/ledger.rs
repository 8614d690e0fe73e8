//! The ledger: one line of JSON for each comparison that was made.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use meltr_train::Better;
use meltr_train::report::ReferenceRow;
use serde::Serialize;

use super::checksums::FileChecksum;
use super::folder::cannot;
use super::provenance::Provenance;
use super::statistics::Spread;
use crate::error::CliError;
use crate::experiment::Published;

/// Version of the layout of a line.
pub(super) const FORMAT_VERSION: u32 = 2;

/// A line of the ledger.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    pub(super) format_version: u32,
    /// The day, in UTC.
    pub(super) date: String,
    /// Name of the experiment.
    pub(super) row: String,
    pub(super) title: String,
    /// What the combiners had the same amount of.
    pub(super) budget: Budget,
    /// A command that makes the same runs.
    pub(super) command: String,
    #[serde(flatten)]
    pub(super) provenance: Provenance,
    /// Commit of the program that began the sweep, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) begun_at: Option<String>,
    pub(super) device: String,
    /// Cores of the machine.
    pub(super) cores: usize,
    /// Runs at a time.
    pub(super) jobs: usize,
    /// Files of the data and of weights that runs start from.
    pub(super) files: Vec<FileChecksum>,
    pub(super) train_splits: Vec<String>,
    pub(super) n_train: usize,
    /// The split that combiners are compared on.
    pub(super) split: String,
    /// Number of items of each split that is evaluated.
    pub(super) n_items: BTreeMap<String, usize>,
    /// How ties are counted, where something is ranked.
    pub(super) ties: Option<String>,
    pub(super) seeds: Vec<u64>,
    pub(super) combiners: Vec<CombinerEntry>,
    pub(super) differences: Vec<Difference>,
    /// How settings were chosen that are not the experiment's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) choice: Option<Choice>,
    pub(super) references: Vec<ReferenceRow>,
    pub(super) published: Option<Published>,
}

/// What the combiners of a comparison had the same amount of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Budget {
    /// Inner steps.
    EqualSteps,
    /// Seconds of training.
    EqualTime,
}

/// The runs of one combiner.
#[derive(Debug, Serialize)]
pub(super) struct CombinerEntry {
    pub(super) combiner: String,
    /// The weight of the auxiliary losses that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auxiliary_weight: Option<f64>,
    /// Inner steps of each run.
    pub(super) iterations: usize,
    /// Split to metric to values, in the order of the seeds.
    pub(super) metrics: BTreeMap<String, BTreeMap<String, Spread>>,
    pub(super) train_seconds: Spread,
    /// Median over the seeds.
    pub(super) seconds_per_step: Option<f64>,
    pub(super) peak_memory_bytes: Vec<Option<u64>>,
    pub(super) worst_hypergradient_error: Option<f64>,
    /// Metric to the mean minus what is published, on the compared split.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) difference_to_published: BTreeMap<String, f64>,
}

/// A combiner compared with another, seed by seed.
#[derive(Debug, Serialize)]
pub(super) struct Difference {
    pub(super) combiner: String,
    /// What it is compared with.
    pub(super) against: String,
    /// The metric, on the compared split.
    pub(super) metric: String,
    pub(super) difference: Spread,
}

/// How a setting was chosen.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Choice {
    /// The key.
    pub(super) key: String,
    pub(super) metric: String,
    pub(super) split: String,
    pub(super) better: Better,
    pub(super) tried: Vec<Tried>,
    pub(super) chosen: f64,
}

/// A value that was tried.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Tried {
    pub(super) value: f64,
    /// Mean of the metric over the seeds.
    pub(super) mean: Option<f64>,
}

/// Appends a line for each comparison, all of them in one write.
///
/// A last line that was cut off is reported, and nothing is glued to it.
pub(super) fn append(path: &Path, entries: &[Entry]) -> Result<(), CliError> {
    let mut lines = String::new();
    for entry in entries {
        lines += &serde_json::to_string(entry).map_err(CliError::failed)?;
        lines.push('\n');
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(cannot("create", parent))?;
    }
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(path)
        .map_err(cannot("write", path))?;
    // Other processes may append as well. Some file systems have no locks; there, one write of few
    // bytes is as much as can be had.
    let _ = file.lock();
    if file.metadata().map_err(cannot("read", path))?.len() > 0 {
        let mut last = [0_u8];
        file.seek(SeekFrom::End(-1))
            .and_then(|_| file.read_exact(&mut last))
            .map_err(cannot("read", path))?;
        if last != *b"\n" {
            return Err(CliError::Input(format!(
                "the last line of the ledger `{}` is cut off: it does not end with a newline; \
                 remove that line, then give the same command again (no run is made twice)",
                path.display()
            )));
        }
    }
    file.write_all(lines.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(cannot("write", path))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::repro::testing;

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.ends_with('\n'));
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_comparison_is_one_line_with_everything_that_fixes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("ledger.jsonl");
        append(&path, &[testing::entry("a/b", Budget::EqualSteps)]).unwrap();
        append(
            &path,
            &[
                testing::entry("a/b", Budget::EqualTime),
                testing::entry("c/d", Budget::EqualSteps),
            ],
        )
        .unwrap();
        let lines = lines(&path);
        let rows: Vec<_> = lines
            .iter()
            .map(|line| (line["row"].as_str().unwrap(), line["budget"].clone()))
            .collect();
        assert_eq!(
            rows,
            [
                ("a/b", "equal_steps".into()),
                ("a/b", "equal_time".into()),
                ("c/d", "equal_steps".into()),
            ]
        );
        let line = &lines[0];
        for key in [
            "format_version",
            "date",
            "command",
            "commit",
            "uncommitted_changes",
            "crates",
            "device",
            "files",
            "split",
            "n_items",
            "seeds",
            "ties",
            "references",
            "published",
        ] {
            assert!(line.get(key).is_some(), "no `{key}` in {line}");
        }
        let metric = &line["combiners"][0]["metrics"]["test"]["text_to_video.r1"];
        assert_eq!(metric["values"], serde_json::json!([0.25, 0.5]));
        assert_eq!(metric["mean"], 0.375);
        assert!(metric["half_width"].is_number());
    }

    #[test]
    fn a_last_line_that_was_cut_off_is_reported_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        let broken = "{\"row\":\"a/b\"}\n{\"row\":\"c";
        fs::write(&path, broken).unwrap();
        let error = append(&path, &[testing::entry("a/b", Budget::EqualSteps)]).unwrap_err();
        assert!(matches!(error, CliError::Input(_)));
        let message = error.to_string();
        for part in ["ledger.jsonl", "cut off", "remove that line"] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), broken);
    }

    #[test]
    fn an_empty_ledger_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        fs::write(&path, "").unwrap();
        append(&path, &[testing::entry("a/b", Budget::EqualSteps)]).unwrap();
        assert_eq!(lines(&path).len(), 1);
    }
}
