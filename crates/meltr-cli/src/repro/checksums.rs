//! Checksums of the files that a run reads.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use meltr_data::{sha256_of_bytes, sha256_of_file};
use serde::Serialize;
use toml::{Table, Value};

use super::folder::cannot;
use crate::error::CliError;

/// The checksums of the embedded set, as `sha256sum` writes them; it is verified when it is read.
const EMBEDDED_SUMS: &[u8] = include_bytes!("../../../meltr-data/assets/emoji-clips/SHA256SUMS");

/// How the names of the sets that are embedded begin.
const EMBEDDED: &str = "emoji-clips";

/// Keys of `[data.set]` that name one file or folder.
const SET_FILES: [&str; 4] = ["folder", "vocab", "file", "features"];

/// Tables of `[data.set]` in which every text names a file or folder.
const SET_TABLES: [&str; 2] = ["files", "paths"];

/// Keys of `[model]` that name a file.
const MODEL_FILES: [&str; 2] = ["weights", "text_weights"];

/// A file, a folder or an embedded set with its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FileChecksum {
    /// As in the experiment.
    pub(super) path: String,
    /// Of a file; of a folder, that of the lines `sha256  path` of its files, sorted by path; of an
    /// embedded set, that of its `SHA256SUMS`.
    pub(super) sha256: String,
    /// Files of a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) n_files: Option<usize>,
}

/// The checksums of everything that the experiment names in `[data.set]` and `[model]`.
pub(super) fn of_experiment(experiment: &Table) -> Result<Vec<FileChecksum>, CliError> {
    let set = experiment.get("data").and_then(|data| data.get("set"));
    let mut all = Vec::new();
    if let Some(name) = set.and_then(embedded_name) {
        all.push(FileChecksum {
            path: format!("{name} (embedded)"),
            sha256: sha256_of_bytes(EMBEDDED_SUMS),
            n_files: None,
        });
    }
    let mut paths = BTreeSet::new();
    if let Some(set) = set {
        let keys = SET_FILES.iter().chain(&SET_TABLES);
        keys.filter_map(|key| set.get(key))
            .for_each(|value| collect_texts(value, &mut paths));
    }
    if let Some(model) = experiment.get("model") {
        MODEL_FILES
            .iter()
            .filter_map(|key| model.get(key))
            .for_each(|value| collect_texts(value, &mut paths));
    }
    for text in paths {
        let path = Path::new(text);
        all.push(if path.is_dir() {
            of_folder(text, path)?
        } else {
            FileChecksum {
                path: text.to_owned(),
                sha256: sha256_of_file(path)?,
                n_files: None,
            }
        });
    }
    Ok(all)
}

/// The name of a set that is embedded.
fn embedded_name(set: &Value) -> Option<&str> {
    let name = set.get("name")?.as_str()?;
    let is_embedded = name.starts_with(EMBEDDED) && set.get("folder").is_none();
    is_embedded.then_some(name)
}

/// All texts below a value.
fn collect_texts<'a>(value: &'a Value, texts: &mut BTreeSet<&'a str>) {
    match value {
        Value::String(text) => {
            texts.insert(text);
        }
        Value::Array(values) => values.iter().for_each(|value| collect_texts(value, texts)),
        Value::Table(table) => table
            .iter()
            .for_each(|(_, value)| collect_texts(value, texts)),
        _ => {}
    }
}

fn of_folder(text: &str, folder: &Path) -> Result<FileChecksum, CliError> {
    let mut files = Vec::new();
    walk(folder, &mut files)?;
    let mut lines = Vec::with_capacity(files.len());
    for file in &files {
        let below = file.strip_prefix(folder).unwrap_or(file);
        let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
        lines.push((parts.join("/"), sha256_of_file(file)?));
    }
    lines.sort();
    let sums: String = lines
        .iter()
        .map(|(name, sum)| format!("{sum}  {name}\n"))
        .collect();
    Ok(FileChecksum {
        path: text.to_owned(),
        sha256: sha256_of_bytes(sums.as_bytes()),
        n_files: Some(files.len()),
    })
}

/// The files below a folder, those it links to included.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), CliError> {
    for entry in fs::read_dir(folder).map_err(cannot("read", folder))? {
        let path = entry.map_err(cannot("read", folder))?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksums(text: &str) -> Vec<FileChecksum> {
        of_experiment(&text.parse().unwrap()).unwrap()
    }

    #[test]
    fn an_embedded_set_has_the_checksum_of_its_checksums() {
        let found = checksums(
            "[data.set]\nname = \"emoji-clips\"\ntext = { keywords = \"all\" }\n[model]\npreset = \
             \"mini\"\n",
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "emoji-clips (embedded)");
        assert_eq!(found[0].sha256.len(), 64);
    }

    #[test]
    fn files_and_folders_are_found_wherever_they_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::create_dir_all(place("set/inner")).unwrap();
        for (file, content) in [
            ("set/b.txt", "b"),
            ("set/inner/a.txt", "a"),
            ("weights.bin", "w"),
        ] {
            fs::write(place(file), content).unwrap();
        }
        let text = format!(
            "[data.set]\nname = \"cmu-mosi\"\nfolder = '{}'\nsettings = {{ splits = \"poria\" }}\n\
             [model]\npreset = \"mini\"\nweights = '{}'\n",
            place("set"),
            place("weights.bin")
        );
        let found = checksums(&text);
        assert_eq!(found.len(), 2);
        let sums = format!(
            "{}  b.txt\n{}  inner/a.txt\n",
            sha256_of_bytes(b"b"),
            sha256_of_bytes(b"a")
        );
        assert_eq!(
            found[0],
            FileChecksum {
                path: place("set"),
                sha256: sha256_of_bytes(sums.as_bytes()),
                n_files: Some(2),
            }
        );
        assert_eq!(found[1].sha256, sha256_of_bytes(b"w"));
        assert_eq!(found[1].n_files, None);
    }

    #[test]
    fn a_file_that_has_gone_is_named() {
        let text = "[data.set]\nname = \"msrvtt\"\nfiles = { data = \"no/such/data.json\" }\n";
        let error = of_experiment(&text.parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("no/such/data.json"), "{error}");
    }

    #[test]
    fn a_set_that_was_copied_to_a_folder_is_not_taken_for_the_embedded_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("clips.tsv"), "x").unwrap();
        let text = format!(
            "[data.set]\nname = \"emoji-clips\"\nfolder = '{}'\n",
            folder.path().display()
        );
        let found = checksums(&text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].n_files, Some(1));
    }
}
