//! The files that an experiment names, and whether they are there.

use std::path::Path;

use serde::Serialize;

use crate::setup;

/// Keys of `[data.set]` that name one file or folder.
const SET_FILES: [&str; 4] = ["folder", "vocab", "file", "features"];

/// Tables of `[data.set]` in which every text names a file or folder.
const SET_TABLES: [&str; 2] = ["files", "paths"];

/// Keys of `[model]` that name a file.
const MODEL_FILES: [&str; 2] = ["weights", "text_weights"];

/// A file or folder that a row reads.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct NeededFile {
    /// As in the experiment file: relative to the root of the workspace.
    pub(super) path: String,
    /// Whether it is there.
    pub(super) state: FileState,
}

/// Whether a file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FileState {
    /// It is.
    Present,
    /// It is not, and is fetched when the row runs.
    Fetched,
    /// It is not, and a person has to fetch it.
    Missing,
}

impl FileState {
    fn of(path: &str, root: &Path) -> Self {
        if root.join(path).exists() {
            Self::Present
        } else if setup::is_needed_by(path, root) {
            Self::Fetched
        } else {
            Self::Missing
        }
    }
}

/// The section `[data.set]`.
pub(super) fn set_of(experiment: &toml::Table) -> Option<&toml::Value> {
    experiment.get("data").and_then(|data| data.get("set"))
}

/// The files and folders that an experiment names, those of the weights last; they are looked for
/// below `root`.
pub(super) fn needed_files(experiment: &toml::Table, root: &Path) -> Vec<NeededFile> {
    named_files(experiment)
        .into_iter()
        .map(|path| NeededFile {
            state: FileState::of(&path, root),
            path,
        })
        .collect()
}

/// The paths that an experiment names.
fn named_files(experiment: &toml::Table) -> Vec<String> {
    let mut files = Vec::new();
    if let Some(set) = set_of(experiment) {
        for key in SET_FILES {
            files.extend(text_at(set, key));
        }
        for table in SET_TABLES {
            files.extend(set.get(table).map(texts).unwrap_or_default());
        }
    }
    if let Some(model) = experiment.get("model") {
        for key in MODEL_FILES {
            files.extend(text_at(model, key));
        }
    }
    files
}

/// The text of a key.
pub(super) fn text_at(table: &toml::Value, key: &str) -> Option<String> {
    table.get(key)?.as_str().map(str::to_owned)
}

/// All texts below a value.
pub(super) fn texts(value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Array(values) => values.iter().flat_map(texts).collect(),
        toml::Value::Table(table) => table.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// Whether arguments for the binary set a key that names files.
pub(super) fn names_other_files(rest: &[String]) -> bool {
    rest.iter().any(|argument| {
        let entry = argument.strip_prefix("--set=").unwrap_or(argument);
        let key = entry.split_once('=').map_or("", |(key, _)| key.trim());
        let of_model = key.strip_prefix("model.");
        key == "data"
            || key == "data.set"
            || key.starts_with("data.set.")
            || of_model.is_some_and(|key| MODEL_FILES.contains(&key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::workspace_root;
    use crate::repro::rows::{read, rows};

    #[test]
    fn every_path_in_a_row_of_this_checkout_is_looked_for() {
        let root = workspace_root();
        for row in rows(&root).unwrap() {
            let experiment = read(&root.join(row.file())).unwrap();
            let sections = [set_of(&experiment), experiment.get("model")];
            let mut written = sections.into_iter().flatten().flat_map(texts);
            let unknown = written.find(|text| {
                text.contains('/') && row.data.files.iter().all(|file| file.path != *text)
            });
            assert_eq!(unknown, None, "{}", row.name);
            assert!(row.data.set.is_some(), "{}", row.name);
        }
    }

    #[test]
    fn keys_that_name_files_are_told_from_others() {
        let names = |argument: &str| names_other_files(&[argument.to_owned()]);
        for argument in [
            "data.set.vocab=v.txt",
            "--set=model.weights=w.bin",
            "--set=data.set={ name = \"emoji-clips\" }",
        ] {
            assert!(names(argument), "{argument}");
        }
        for argument in [
            "inner.learning_rate=1e-4",
            "--set=model.weights_share=0.5",
            "--set=data.batches.max_words=10",
            "--set",
        ] {
            assert!(!names(argument), "{argument}");
        }
    }
}
