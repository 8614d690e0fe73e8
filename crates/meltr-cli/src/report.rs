//! `meltr report`.

use std::fs;
use std::path::{Path, PathBuf};

use meltr_train::report::{Comparison, RunData, RunSet, report_of_sets};
use meltr_train::{CombinerName, Run};

use crate::cli::ReportArguments;
use crate::error::CliError;
use crate::output;

/// Title of the page.
const TITLE: &str = "Comparison of runs";

/// Runs that lie in one folder, and are compared with each other.
struct Folder {
    path: PathBuf,
    runs: Vec<RunData>,
}

pub(crate) fn run(arguments: &ReportArguments) -> Result<(), CliError> {
    let folders = folders(&arguments.runs)?;
    let labels: Vec<String> = folders
        .iter()
        .map(|folder| folder.path.display().to_string())
        .collect();
    let sets: Vec<RunSet<'_>> = folders
        .iter()
        .zip(&labels)
        .map(|(folder, label)| RunSet {
            label,
            runs: &folder.runs,
            references: &[],
        })
        .collect();
    let html = report_of_sets(TITLE, &sets).map_err(CliError::failed)?;
    fs::write(&arguments.out, html).map_err(|error| {
        CliError::Failed(format!(
            "cannot write `{}`: {error}",
            arguments.out.display()
        ))
    })?;
    if arguments.json {
        let runs = folders.iter().flat_map(|folder| &folder.runs);
        let summaries: Vec<_> = runs.filter_map(|run| run.summary.as_ref()).collect();
        return output::json(&serde_json::json!({
            "report": arguments.out.display().to_string(),
            "runs": summaries,
        }));
    }
    for set in &sets {
        if sets.len() > 1 {
            output::line(&format!("{}:", set.label));
        }
        output::line(&Comparison::from_runs(set.runs).to_text(set.references));
    }
    output::line(&format!("report: {}", arguments.out.display()));
    Ok(())
}

/// The runs of the command line by the folders that they lie in, in order of first appearance.
fn folders(paths: &[PathBuf]) -> Result<Vec<Folder>, CliError> {
    let mut folders: Vec<Folder> = Vec::new();
    for path in paths {
        for directory in run_directories(path)? {
            let run = Run::read(&directory)?;
            let parent = match directory.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            match folders.iter_mut().find(|folder| folder.path == parent) {
                Some(folder) => folder.runs.push(run),
                None => folders.push(Folder {
                    path: parent.to_owned(),
                    runs: vec![run],
                }),
            }
        }
    }
    Ok(folders)
}

/// The path itself if it is a run, else the runs in it, in the order of tables.
fn run_directories(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    if is_run(path) || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let cannot_read =
        |error| CliError::Failed(format!("cannot read `{}`: {error}", path.display()));
    let mut directories = Vec::new();
    for entry in fs::read_dir(path).map_err(cannot_read)? {
        let entry = entry.map_err(cannot_read)?;
        // A run that is just being created has a hidden name.
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        let directory = entry.path();
        if !is_hidden && is_run(&directory) {
            let summary = Run::read_summary(&directory)?;
            let place = summary.map(|summary| (place(&summary.combiner), summary.seed));
            directories.push((place.unwrap_or((usize::MAX, 0)), directory));
        }
    }
    if directories.is_empty() {
        // Reading it as a run says what is missing.
        return Ok(vec![path.to_owned()]);
    }
    directories.sort();
    Ok(directories
        .into_iter()
        .map(|(_, directory)| directory)
        .collect())
}

fn is_run(path: &Path) -> bool {
    path.join("config.toml").is_file()
}

/// The place of a combiner in tables; the last for one that is not known.
fn place(combiner: &str) -> usize {
    CombinerName::ALL
        .iter()
        .position(|known| known.name() == combiner)
        .unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that counts as a run, with what is read of it here.
    fn put_run(path: &Path, combiner: &str, seed: u64) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("config.toml"), format!("seed = {seed}\n")).unwrap();
        fs::write(path.join("metrics.jsonl"), "").unwrap();
        let summary = serde_json::json!({
            "format_version": 1,
            "name": "a run",
            "combiner": combiner,
            "seed": seed,
            "device": "flex",
            "tasks": ["align"],
            "primary": "align",
            "iterations": 1,
            "metrics": {},
            "train_seconds": 1.0,
            "total_seconds": 2.0,
            "peak_memory_bytes": null,
            "worst_hypergradient_error": null,
        });
        fs::write(path.join("summary.json"), summary.to_string()).unwrap();
    }

    fn names(folder: &Folder) -> Vec<&str> {
        folder.runs.iter().map(|run| run.name.as_str()).collect()
    }

    #[test]
    fn a_folder_stands_for_its_runs_in_the_order_of_tables() {
        let base = tempfile::tempdir().unwrap();
        let runs = base.path().join("runs");
        for (combiner, seed) in [("meltr", 1), ("primary", 2), ("sum", 1), ("primary", 1)] {
            put_run(&runs.join(format!("{combiner}-{seed}")), combiner, seed);
        }
        put_run(&runs.join(".sum-2.123.partial"), "sum", 2);
        fs::write(runs.join("sum-1.log"), "done").unwrap();
        let found = folders(std::slice::from_ref(&runs)).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            names(&found[0]),
            ["primary-1", "primary-2", "sum-1", "meltr-1"]
        );
    }

    #[test]
    fn runs_of_different_folders_are_compared_apart() {
        let base = tempfile::tempdir().unwrap();
        let paths = ["steps/sum-1", "time/sum-1", "steps/meltr-1"].map(|run| base.path().join(run));
        for path in &paths {
            put_run(path, "sum", 1);
        }
        let found = folders(&paths).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(names(&found[0]), ["sum-1", "meltr-1"]);
        assert_eq!(names(&found[1]), ["sum-1"]);
        assert_eq!(found[1].path, base.path().join("time"));
    }

    #[test]
    fn a_folder_without_runs_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let error = folders(&[base.path().to_owned()]).err().unwrap();
        assert!(matches!(error, CliError::Input(_)));
        assert!(error.to_string().contains("config.toml"), "{error}");
    }
}
