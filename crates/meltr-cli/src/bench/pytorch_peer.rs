//! The PyTorch side of `meltr bench train-step`: a script that runs in a process of its own.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use meltr_models::UniVlConfig;
use serde::{Deserialize, Serialize};

use super::random_batch::BatchSize;
use crate::error::CliError;

/// Lines of the script's standard error that an error message quotes.
const QUOTED_LINES: usize = 12;

/// How much PyTorch computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Economy {
    /// What is read and nothing else, as this repository.
    Same,
    /// Every pair through the whole cross encoder and the heads at every position.
    AsReleased,
}

impl Economy {
    /// Name in tables.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Same => "same economy",
            Self::AsReleased => "as released",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Same => &["--sparse-pairs", "--sparse-heads"],
            Self::AsReleased => &[],
        }
    }
}

/// The document that the script writes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct PeerOutput {
    /// Version of PyTorch.
    pub(super) torch: String,
    /// Threads that it used.
    pub(super) threads: usize,
    /// Seconds of each counted step.
    pub(super) step_seconds: Vec<f64>,
    /// Seconds of each counted forward pass without gradients.
    pub(super) forward_seconds: Vec<f64>,
    /// The losses of the first step.
    pub(super) losses_first_step: BTreeMap<String, f64>,
    /// Peak of the resident memory.
    pub(super) peak_rss_bytes: u64,
}

/// A Python interpreter, the script and its settings.
#[derive(Debug)]
pub(super) struct PyTorchPeer {
    python: PathBuf,
    script: PathBuf,
    sizes: TemporaryFile,
    batch: BatchSize,
    threads: usize,
}

impl PyTorchPeer {
    /// Writes the sizes of the network to a temporary file, which goes with the value.
    pub(super) fn new(
        python: &Path,
        script: &Path,
        config: &UniVlConfig,
        batch: BatchSize,
        threads: usize,
    ) -> Result<Self, CliError> {
        if !script.is_file() {
            return Err(CliError::Input(format!(
                "--script `{}` is not a file; run from the root of the checkout or name the \
                 script, which is xtask/peers/univl_train_step.py there",
                script.display()
            )));
        }
        let text = serde_json::to_string_pretty(config).map_err(CliError::failed)?;
        Ok(Self {
            python: python.to_owned(),
            script: script.to_owned(),
            sizes: TemporaryFile::new(&text)?,
            batch,
            threads,
        })
    }

    /// Runs the script once, with one step that does not count.
    pub(super) fn run(&self, economy: Economy, steps: usize) -> Result<PeerOutput, CliError> {
        let mut command = Command::new(&self.python);
        command
            .arg(&self.script)
            .arg("--config")
            .arg(&self.sizes.path);
        for (flag, value) in [
            ("--batch", self.batch.pairs),
            ("--words", self.batch.words),
            ("--frames", self.batch.frames),
            ("--steps", steps),
            ("--warmup", 1),
            ("--threads", self.threads),
        ] {
            command.arg(flag).arg(value.to_string());
        }
        command.args(economy.flags()).stdin(Stdio::null());
        let shown = shown(&command);
        let output = command.output().map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied => CliError::Input(format!(
                "--python `{}` cannot be run: {error}; give it a Python interpreter with PyTorch \
                 (the command was `{shown}`)",
                self.python.display()
            )),
            _ => CliError::Failed(format!("cannot run `{shown}`: {error}")),
        })?;
        if !output.status.success() {
            return Err(CliError::Failed(format!(
                "`{shown}` ended with {}; the end of its standard error:\n{}",
                output.status,
                tail(&String::from_utf8_lossy(&output.stderr), QUOTED_LINES)
            )));
        }
        let result: PeerOutput = serde_json::from_slice(&output.stdout).map_err(|error| {
            CliError::Failed(format!(
                "`{shown}` did not write the expected JSON document: {error}; the end of its \
                 standard output:\n{}",
                tail(&String::from_utf8_lossy(&output.stdout), QUOTED_LINES)
            ))
        })?;
        if result.step_seconds.is_empty() || result.forward_seconds.is_empty() {
            return Err(CliError::Failed(format!("`{shown}` timed no step")));
        }
        Ok(result)
    }
}

/// The command line, for messages.
fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy().into_owned())
        .collect::<Vec<String>>()
        .join(" ")
}

/// The last lines of a text.
fn tail(text: &str, n_lines: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(n_lines)..].join("\n")
}

/// A file of its own name that is removed with the value.
#[derive(Debug)]
struct TemporaryFile {
    path: PathBuf,
}

impl TemporaryFile {
    fn new(text: &str) -> Result<Self, CliError> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        let name = format!("meltr-train-step-{}-{now}.json", std::process::id());
        let path = std::env::temp_dir().join(name);
        let failed = |error: std::io::Error| {
            CliError::Failed(format!("cannot write `{}`: {error}", path.display()))
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed)?;
        let written = file.write_all(text.as_bytes()).map_err(failed);
        let file = Self { path };
        written.map(|()| file)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // Nothing can be done about a file that stays behind in the temporary directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: BatchSize = BatchSize {
        pairs: 2,
        words: 8,
        frames: 4,
    };

    #[test]
    fn the_end_of_a_text_is_quoted() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn the_document_of_the_script_is_read() {
        let text = r#"{"torch": "2.9.0+cpu", "threads": 2, "step_seconds": [1.5],
            "forward_seconds": [0.5], "losses_first_step": {"joint": 0.1},
            "peak_rss_bytes": 1024}"#;
        let output: PeerOutput = serde_json::from_str(text).unwrap();
        assert_eq!((output.threads, output.step_seconds), (2, vec![1.5]));
    }

    #[test]
    fn a_temporary_file_goes_with_its_value() {
        let file = TemporaryFile::new("{}").unwrap();
        let path = file.path.clone();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_missing_script_is_bad_input() {
        let config = UniVlConfig::mini(50, 6);
        let error = PyTorchPeer::new(
            Path::new("python3"),
            Path::new("missing.py"),
            &config,
            BATCH,
            1,
        )
        .unwrap_err();
        assert!(matches!(&error, CliError::Input(text) if text.contains("missing.py")));
    }

    #[test]
    fn a_missing_interpreter_is_bad_input_and_named() {
        let config = UniVlConfig::mini(50, 6);
        let script = TemporaryFile::new("").unwrap();
        let python = Path::new("no-such-interpreter");
        let peer = PyTorchPeer::new(python, &script.path, &config, BATCH, 1).unwrap();
        let error = peer.run(Economy::Same, 1).unwrap_err();
        assert!(
            matches!(&error, CliError::Input(text) if text.contains("no-such-interpreter")
                && text.contains("--sparse-heads")),
            "{error}"
        );
    }
}
