//! The PyTorch side of benchmarks: scripts that run in processes of their own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// Lines of the script's standard error that an error message quotes.
const QUOTED_LINES: usize = 12;

/// How much PyTorch computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// The document that a script writes which times training steps.
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
    /// Peak of the memory of tensors on a GPU.
    #[serde(default)]
    pub(super) peak_device_bytes: Option<u64>,
}

/// A Python interpreter, a script and its settings.
#[derive(Debug)]
pub(super) struct PyTorchPeer {
    python: PathBuf,
    script: PathBuf,
    sizes: TemporaryFile,
    counts: Vec<(&'static str, usize)>,
    /// Where PyTorch computes, by its name there.
    device: String,
}

/// The device on which PyTorch computes beside ours: the same GPU where it can use it, the CPU
/// otherwise.
pub(super) fn torch_device(ours: &str) -> String {
    match ours.split_once(':') {
        Some(("tch" | "cuda", index)) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

impl PyTorchPeer {
    /// Writes the sizes of the network, `config`, to a temporary file, which goes with the value.
    ///
    /// `counts` are flags of the script with their numbers.
    pub(super) fn new(
        python: &Path,
        script: PathBuf,
        config: &impl Serialize,
        counts: Vec<(&'static str, usize)>,
        device: String,
    ) -> Result<Self, CliError> {
        if !script.is_file() {
            return Err(CliError::Input(format!(
                "`{}` is not a file; run from the root of the checkout or name the folder of the \
                 scripts with --scripts, which is xtask/peers there",
                script.display()
            )));
        }
        let text = serde_json::to_string_pretty(config).map_err(CliError::failed)?;
        Ok(Self {
            python: python.to_owned(),
            script,
            sizes: TemporaryFile::new(&text)?,
            counts,
            device,
        })
    }

    /// Runs the script once, with one step that does not count and the flags `switches`.
    pub(super) fn run(&self, switches: &[&str], steps: usize) -> Result<PeerOutput, CliError> {
        let steps = steps.to_string();
        let counts = ["--steps", steps.as_str(), "--warmup", "1"];
        let arguments = switches.iter().chain(&counts);
        let result: PeerOutput = self.document(arguments)?;
        if result.step_seconds.is_empty() || result.forward_seconds.is_empty() {
            let script = self.script.display();
            return Err(CliError::Failed(format!("`{script}` timed no step")));
        }
        Ok(result)
    }

    /// Runs the script once with `arguments`, besides those of every run, and reads the document
    /// that it writes.
    pub(super) fn document<T: DeserializeOwned>(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<T, CliError> {
        let mut command = Command::new(&self.python);
        command
            .arg(&self.script)
            .arg("--config")
            .arg(&self.sizes.path);
        for (flag, value) in &self.counts {
            command.arg(flag).arg(value.to_string());
        }
        command.args(["--device", &self.device]);
        command.args(arguments).stdin(Stdio::null());
        let shown = shown(&command);
        let output = command.output().map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied => CliError::Input(format!(
                "--python `{}` cannot be run: {error}; give it a Python interpreter with PyTorch, \
                 torchvision and timm (the command was `{shown}`)",
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
        serde_json::from_slice(&output.stdout).map_err(|error| {
            CliError::Failed(format!(
                "`{shown}` did not write the expected JSON document: {error}; the end of its \
                 standard output:\n{}",
                tail(&String::from_utf8_lossy(&output.stdout), QUOTED_LINES)
            ))
        })
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

    #[test]
    fn the_end_of_a_text_is_quoted() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn pytorch_computes_where_we_do_if_it_can() {
        let pairs = [
            ("flex", "cpu"),
            ("tch", "cpu"),
            ("tch:1", "cuda:1"),
            ("vulkan:0", "cpu"),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(torch_device(ours), theirs);
        }
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
        let script = PathBuf::from("missing.py");
        let error = PyTorchPeer::new(
            Path::new("python3"),
            script,
            &(),
            Vec::new(),
            "cpu".to_owned(),
        )
        .unwrap_err();
        assert!(matches!(&error, CliError::Input(text) if text.contains("missing.py")));
    }

    #[test]
    fn a_missing_interpreter_is_bad_input_and_named() {
        let script = TemporaryFile::new("").unwrap();
        let python = Path::new("no-such-interpreter");
        let counts = vec![("--batch", 2)];
        let peer =
            PyTorchPeer::new(python, script.path.clone(), &(), counts, "cpu".to_owned()).unwrap();
        let error = peer.run(&["--sparse-heads"], 1).unwrap_err();
        assert!(
            matches!(&error, CliError::Input(text) if text.contains("no-such-interpreter")
                && text.contains("--batch 2") && text.contains("--sparse-heads")),
            "{error}"
        );
    }
}
