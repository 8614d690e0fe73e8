//! `cargo xtask repro`: the main job, and the rows of the reproduction table.

use std::fs;
use std::num::NonZero;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::files::sorted_entries;
use crate::flags::{DEVICE, FEATURES, Flag, JSON, Parsed, Positional, Spec, UsageError};
use crate::process::{Status, hand_over, meltr, user_path, workspace_root};

const EXPERIMENTS: &str = "xtask/experiments";
const DEFAULT_ROW: &str = "univl/emoji-clips-retrieval";
const DEFAULT_SEEDS: usize = 3;

const LIST: &str = "--list";
const SEEDS: &str = "--seeds";
const JOBS: &str = "--jobs";
const OUT: &str = "--out";
const ITERATIONS: &str = "--iterations";

/// What the command accepts.
pub(crate) const SPEC: Spec = Spec {
    command: "repro",
    summary: "the main job: fine-tunes with each loss combination and compares them",
    about: "Builds the `meltr` binary and runs `meltr repro` on one experiment of \
            xtask/experiments, several seeds each. Without ROW: univl/emoji-clips-retrieval, on the \
            embedded set.",
    positional: Positional::Optional("ROW"),
    flags: &[
        Flag::switch(LIST, "list the rows"),
        Flag::value(SEEDS, "N", "seeds of each run (default: 3)"),
        Flag::value(JOBS, "N", "runs at a time (default: the number of cores)"),
        Flag::value(OUT, "DIR", "where runs and report go (default: runs)"),
        Flag::value(
            ITERATIONS,
            "N",
            "inner steps of each run (default: the experiment's)",
        ),
        JSON,
        DEVICE,
        FEATURES,
    ],
    rest: Some("the `meltr` binary"),
    example: "cargo xtask repro univl/emoji-clips-retrieval --seeds 2",
};

/// Runs the command.
pub(crate) fn run(parsed: &Parsed) -> Result<Status> {
    let root = workspace_root();
    let rows = rows(&root)?;
    if parsed.has(LIST) {
        return list(&rows, parsed.has(JSON.name));
    }
    let name = parsed
        .positional
        .first()
        .map_or(DEFAULT_ROW, String::as_str);
    let Some(row) = rows.iter().find(|row| row.name == name) else {
        let known = rows.iter().map(|row| row.name.as_str());
        return Err(UsageError::unknown("row", name, known).into());
    };
    let seeds = parsed.count(SEEDS)?.unwrap_or(DEFAULT_SEEDS);
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let jobs = parsed.count(JOBS)?.unwrap_or(cores);
    let iterations = parsed.count(ITERATIONS)?;

    let mut command = meltr(parsed.value(FEATURES.name))?;
    command
        .arg("repro")
        .arg(format!("{EXPERIMENTS}/{}.toml", row.name));
    command.arg(SEEDS).arg(seeds.to_string());
    command.arg(JOBS).arg(jobs.to_string());
    command
        .arg(OUT)
        .arg(parsed.value(OUT).map_or_else(|| "runs".into(), user_path));
    if let Some(iterations) = iterations {
        command.arg(ITERATIONS).arg(iterations.to_string());
    }
    if let Some(device) = parsed.value(DEVICE.name) {
        command.args([DEVICE.name, device]);
    }
    if parsed.has(JSON.name) {
        command.arg(JSON.name);
    }
    command.args(&parsed.rest);
    hand_over(command)
}

/// A row of the reproduction table.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    /// `<backbone>/<dataset>-<task>`.
    name: String,
    /// The key `title` of the experiment file.
    title: Option<String>,
}

fn list(rows: &[Row], json: bool) -> Result<Status> {
    if json {
        println!("{}", serde_json::to_string_pretty(rows)?);
        return Ok(Status::Done);
    }
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in rows {
        println!(
            "{:<width$}  {}",
            row.name,
            row.title.as_deref().unwrap_or("(no title)")
        );
    }
    Ok(Status::Done)
}

/// All experiments, `xtask/experiments/<backbone>/<name>.toml`, by name.
fn rows(root: &Path) -> Result<Vec<Row>> {
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
            let title = title(&file)
                .with_context(|| format!("failed to read `{EXPERIMENTS}/{name}.toml`"))?;
            rows.push(Row { name, title });
        }
    }
    Ok(rows)
}

fn title(file: &Path) -> Result<Option<String>> {
    let table: toml::Table = toml::from_str(&fs::read_to_string(file)?)?;
    Ok(table
        .get("title")
        .and_then(toml::Value::as_str)
        .map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;
    use crate::tidy::tree::TempTree;

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
    fn a_broken_experiment_is_named() {
        let tree = TempTree::new();
        tree.write("xtask/experiments/univl/broken.toml", "title =\n");
        let error = rows(tree.root()).unwrap_err();
        assert!(error.to_string().contains("univl/broken.toml"));
    }

    #[test]
    fn an_unknown_row_is_wrong_input() {
        let parsed = flags::parse(&SPEC, &["no/such-row-anywhere".to_owned()]).unwrap();
        let error = run(&parsed).unwrap_err();
        assert!(error.is::<flags::UsageError>(), "{error}");
    }
}
