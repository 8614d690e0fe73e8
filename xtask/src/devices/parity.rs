//! Parity with reference directories, a process for each, so that one that ends early leaves the
//! others their result.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::files::sorted_entries;
use crate::process::{shown, was_interrupted};

/// The files by which a directory of tensors is known.
const FILES: [&str; 4] = [
    "config.json",
    "weights.safetensors",
    "inputs.safetensors",
    "expected.safetensors",
];

/// Characters of a program's last words that are kept.
const KEPT_CHARACTERS: usize = 200;

const HEAD: &str = "\
| directory | tensors | largest relative error | result | seconds |
|---|---:|---:|---|---:|
";

/// What came of one directory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Parity {
    /// Its name.
    pub(super) directory: String,
    /// Tensors that are expected; 0 if none was compared.
    pub(super) tensors: usize,
    /// The largest error of a tensor, relative to its largest entry.
    pub(super) max_rel: Option<f64>,
    /// Time that the program took.
    pub(super) seconds: f64,
    /// What does not hold; `None` if all tensors are within tolerance.
    pub(super) problem: Option<String>,
}

/// What `meltr reference DIR --json` prints, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Outcome {
    tensors: Vec<Tensor>,
    ok: bool,
}

#[derive(Debug, Deserialize)]
struct Tensor {
    name: String,
    max_rel: Option<f64>,
    ok: bool,
    problem: Option<String>,
}

impl Outcome {
    fn problem(&self) -> Option<String> {
        let failed: Vec<&Tensor> = self.tensors.iter().filter(|tensor| !tensor.ok).collect();
        let Some(first) = failed.first() else {
            return (!self.ok).then(|| "nothing was compared".to_owned());
        };
        let cause = first.problem.as_deref().unwrap_or("beyond its tolerance");
        Some(format!(
            "{} of {} tensors, the first is {}: {cause}",
            failed.len(),
            self.tensors.len(),
            first.name
        ))
    }
}

/// The reference directories in a folder that hold tensors, by name.
pub(super) fn directories(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut directories = sorted_entries(folder)?;
    directories.retain(|directory| FILES.iter().all(|file| directory.join(file).is_file()));
    Ok(directories)
}

/// Runs the program that checks one directory; `None` when it was interrupted.
pub(super) fn check(mut command: Command, directory: &Path) -> Result<Option<Parity>> {
    let name = shown(&command);
    eprintln!("> {name}");
    let start = Instant::now();
    let output = command
        .output()
        .with_context(|| format!("failed to start `{name}`"))?;
    if was_interrupted(output.status) {
        return Ok(None);
    }
    let failure = (!output.status.success()).then(|| output.status.to_string());
    let parity = Parity::read(
        directory,
        start.elapsed().as_secs_f64(),
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)),
        failure,
    );
    eprintln!("{}: {}", parity.directory, parity.result());
    Ok(Some(parity))
}

impl Parity {
    /// From what the program printed on standard output and standard error; `failure` is its exit
    /// status unless that is 0.
    fn read<T: AsRef<str>>(
        directory: &Path,
        seconds: f64,
        [stdout, stderr]: [T; 2],
        failure: Option<String>,
    ) -> Self {
        let path = directory.to_string_lossy();
        let name = directory
            .file_name()
            .map_or_else(|| path.clone(), |name| name.to_string_lossy());
        let mut parity = Self {
            directory: name.to_string(),
            tensors: 0,
            max_rel: None,
            seconds,
            problem: None,
        };
        match serde_json::from_str::<Outcome>(stdout.as_ref()) {
            Ok(outcome) => {
                let errors = outcome.tensors.iter().filter_map(|tensor| tensor.max_rel);
                parity.max_rel = errors.reduce(f64::max);
                parity.tensors = outcome.tensors.len();
                parity.problem = outcome.problem().or(failure);
            }
            Err(_) => {
                // No path of this machine in a table that is recorded.
                let said = last_words(stderr.as_ref()).map(|said| said.replace(&*path, &name));
                let problem = said.or(failure);
                parity.problem = Some(problem.unwrap_or_else(|| "no result".to_owned()));
            }
        }
        parity
    }

    fn result(&self) -> &str {
        self.problem.as_deref().unwrap_or("ok")
    }
}

/// The last line that says what went wrong.
fn last_words(stderr: &str) -> Option<String> {
    let mut lines = stderr.lines().map(str::trim);
    let line = lines.rfind(|line| !line.is_empty() && !line.starts_with("note: "))?;
    Some(line.chars().take(KEPT_CHARACTERS).collect())
}

/// The table of all directories, as Markdown.
pub(super) fn table(rows: &[Parity]) -> String {
    let mut table = HEAD.to_owned();
    for row in rows {
        let error = row
            .max_rel
            .map_or_else(|| "-".to_owned(), |error| format!("{error:.1e}"));
        let result = match &row.problem {
            None => "ok".to_owned(),
            Some(problem) => format!("FAILED: {}", problem.replace('|', "\\|")),
        };
        table += &format!(
            "| `{}` | {} | {error} | {result} | {:.1} |\n",
            row.directory, row.tensors, row.seconds
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::TempTree;

    fn read(stdout: &str, stderr: &str, failure: Option<&str>) -> Parity {
        let directory = Path::new("fixtures").join("univl");
        Parity::read(
            &directory,
            1.5,
            [stdout, stderr],
            failure.map(str::to_owned),
        )
    }

    #[test]
    fn a_directory_of_tensors_has_all_of_its_files() {
        let tree = TempTree::new();
        for file in FILES {
            tree.write(&format!("b/{file}"), "");
            tree.write(&format!("a/{file}"), "");
        }
        tree.write("metrics/config.json", "");
        tree.write("README.md", "");
        let found = directories(tree.root()).unwrap();
        assert_eq!(found, ["a", "b"].map(|name| tree.root().join(name)));
    }

    #[test]
    fn the_largest_error_stands_for_the_directory() {
        let text = r#"{"module": "univl", "ok": true, "tensors": [
            {"name": "a", "max_abs": 1e-6, "max_rel": 2e-6, "ok": true},
            {"name": "b", "max_abs": 1e-6, "max_rel": 3e-7, "ok": true}]}"#;
        let parity = read(text, "", None);
        assert_eq!(
            parity,
            Parity {
                directory: "univl".to_owned(),
                tensors: 2,
                max_rel: Some(2e-6),
                seconds: 1.5,
                problem: None,
            }
        );
    }

    #[test]
    fn tensors_that_fail_are_counted_and_the_first_is_named() {
        let text = r#"{"ok": false, "tensors": [
            {"name": "a", "max_abs": 1.0, "max_rel": 0.5, "ok": true},
            {"name": "b", "max_abs": null, "max_rel": null, "ok": false,
             "problem": "not computed"},
            {"name": "c", "max_abs": 1.0, "max_rel": 0.25, "ok": false}]}"#;
        let parity = read(text, "error: parity does not hold", Some("exit status: 1"));
        assert_eq!(
            parity.problem.as_deref(),
            Some("2 of 3 tensors, the first is b: not computed")
        );
        assert_eq!(parity.max_rel, Some(0.5));
        let text = r#"{"ok": false, "tensors": [{"name": "c", "max_rel": 0.25, "ok": false}]}"#;
        assert_eq!(
            read(text, "", Some("exit status: 1")).problem.as_deref(),
            Some("1 of 1 tensors, the first is c: beyond its tolerance")
        );
    }

    #[test]
    fn a_directory_without_a_comparison_does_not_hold() {
        let empty = r#"{"ok": false, "tensors": []}"#;
        assert_eq!(
            read(empty, "", Some("exit status: 1")).problem.as_deref(),
            Some("nothing was compared")
        );
        let fine = r#"{"ok": true, "tensors": [{"name": "a", "max_rel": 0.0, "ok": true}]}"#;
        let problem = read(fine, "", Some("exit status: 3")).problem;
        assert_eq!(problem.as_deref(), Some("exit status: 3"));
    }

    #[test]
    fn a_program_that_ends_early_is_quoted_without_its_paths() {
        let panic = "thread 'main' panicked at a.rs:1:2:\nno f64 here\nnote: run with more\n";
        let parity = read("", panic, Some("exit status: 101"));
        assert_eq!(parity.problem.as_deref(), Some("no f64 here"));
        assert_eq!((parity.tensors, parity.max_rel), (0, None));
        let directory = Path::new("fixtures").join("univl");
        let error = format!("error: `{}` is damaged", directory.display());
        assert_eq!(
            read("", &error, Some("exit status: 2")).problem.as_deref(),
            Some("error: `univl` is damaged")
        );
        let killed = read("", "", Some("signal: 11 (SIGSEGV)"));
        assert_eq!(killed.problem.as_deref(), Some("signal: 11 (SIGSEGV)"));
        assert_eq!(read("", "", None).problem.as_deref(), Some("no result"));
        let long = read("", &"x".repeat(1000), None).problem.unwrap();
        assert_eq!(long.len(), KEPT_CHARACTERS);
    }

    #[test]
    fn the_table_has_a_row_for_each_directory() {
        let rows = [
            Parity {
                directory: "univl".to_owned(),
                tensors: 227,
                max_rel: Some(1.234e-6),
                seconds: 4.21,
                problem: None,
            },
            Parity {
                directory: "violet".to_owned(),
                tensors: 0,
                max_rel: None,
                seconds: 0.5,
                problem: Some("a | b".to_owned()),
            },
        ];
        let table = table(&rows);
        let lines: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| `univl` | 227 | 1.2e-6 | ok | 4.2 |",
                "| `violet` | 0 | - | FAILED: a \\| b | 0.5 |"
            ]
        );
    }
}
