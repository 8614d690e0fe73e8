//! PyTorch, whose libraries the device `tch` needs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::start;

/// The version that is installed.
const VERSION: &str = "2.11.0";

/// Where it is installed, below the folder of builds.
const FOLDER: &str = "target/torch";

/// Prints a line for each field of [`Torch`]. The build of the bindings imports the same modules.
const SCRIPT: &str = "\
import os, sys, torch
from torch.utils import cpp_extension
print(torch.__version__)
print(os.path.join(os.path.dirname(torch.__file__), 'lib'))
print(os.path.dirname(sys.executable))
print(torch.cuda.get_device_name(int(sys.argv[1])) if len(sys.argv) > 1 else 'the CPU')
";

/// An installed PyTorch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Torch {
    pub(super) version: String,
    /// The folder of its shared libraries.
    pub(super) libraries: PathBuf,
    /// The folder of the interpreter.
    pub(super) programs: PathBuf,
    /// What it computes on.
    pub(super) device: String,
}

impl Torch {
    /// What [`SCRIPT`] printed.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut next = || lines.next().filter(|line| !line.is_empty());
        Some(Self {
            version: next()?.to_owned(),
            libraries: next()?.into(),
            programs: next()?.into(),
            device: next()?.to_owned(),
        })
    }
}

/// The PyTorch of an interpreter, or one that is installed below the folder of builds. `gpu` is
/// the number of the GPU that is to be used.
pub(super) fn find(python: Option<&Path>, gpu: Option<usize>, root: &Path) -> Result<Torch> {
    let Some(python) = python else {
        return installed(gpu, root);
    };
    let torch = describe(python, gpu)?;
    // The build of the bindings asks the `python3` that is first on the search path.
    let beside = torch.programs.join("python3");
    let asked = describe(&beside, gpu)?;
    if asked.libraries != torch.libraries {
        bail!(
            "`{}` has another PyTorch than `{}`, and the build would take that one; name the \
             `python3` of a virtual environment",
            beside.display(),
            python.display()
        );
    }
    Ok(torch)
}

/// Ours, installed first where it is not there.
fn installed(gpu: Option<usize>, root: &Path) -> Result<Torch> {
    let folder = root.join(FOLDER);
    let python = folder.join("bin").join("python3");
    if let Ok(torch) = describe(&python, gpu)
        && is_wanted(&torch.version)
    {
        return Ok(torch);
    }
    eprintln!("PyTorch {VERSION} goes to {FOLDER}; it takes 5 GB of disk with what it needs");
    let pip = folder.join("bin").join("pip");
    if !pip.is_file() {
        start(Command::new("python3").args(["-m", "venv"]).arg(&folder)).context(
            "failed to make a virtual environment; on Debian `apt-get install python3-venv` brings \
             what is missing",
        )?;
    }
    start(
        Command::new(&pip)
            .args(["install", "--quiet"])
            .arg(format!("torch=={VERSION}")),
    )?;
    describe(&python, gpu)
}

/// Whether a version such as `2.11.0+cu130` is the one that is installed here.
fn is_wanted(version: &str) -> bool {
    version.split('+').next() == Some(VERSION)
}

/// Asks an interpreter.
fn describe(python: &Path, gpu: Option<usize>) -> Result<Torch> {
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]);
    command.args(gpu.map(|gpu| gpu.to_string()));
    let output = command
        .output()
        .with_context(|| format!("failed to start `{}`", python.display()))?;
    let torch = String::from_utf8(output.stdout)
        .ok()
        .and_then(|text| Torch::parse(&text))
        .filter(|_| output.status.success());
    torch.with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!(
            "`{}` cannot be used for LibTorch{}; it needs the packages torch {VERSION} and \
             setuptools",
            python.display(),
            Cause(&said)
        )
    })
}

/// The last line of what a program said, in brackets.
struct Cause<'a>(&'a str);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.lines().rfind(|line| !line.trim().is_empty()) {
            Some(line) => write!(formatter, " ({})", line.trim()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_prints_is_read_line_by_line() {
        let text = "2.11.0+cu130\n/venv/torch/lib\n/venv/bin\nthe CPU\n";
        assert_eq!(
            Torch::parse(text),
            Some(Torch {
                version: "2.11.0+cu130".to_owned(),
                libraries: "/venv/torch/lib".into(),
                programs: "/venv/bin".into(),
                device: "the CPU".to_owned(),
            })
        );
        assert_eq!(Torch::parse("2.11.0\n/venv/torch/lib\n"), None);
        assert_eq!(Torch::parse(""), None);
    }

    #[test]
    fn a_version_is_compared_without_its_build() {
        assert!(is_wanted("2.11.0+cu130"));
        assert!(is_wanted("2.11.0"));
        assert!(!is_wanted("2.11.01"));
        assert!(!is_wanted("2.9.0+cpu"));
    }

    #[test]
    fn an_interpreter_that_is_not_there_is_named() {
        let error = describe(Path::new("no-program-has-this-name"), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to start `no-program-has-this-name`"
        );
    }

    #[test]
    fn the_cause_is_the_last_line_that_says_something() {
        let said = "Traceback:\n  line 1\nModuleNotFoundError: No module named 'torch'\n\n";
        let expected = " (ModuleNotFoundError: No module named 'torch')";
        assert_eq!(Cause(said).to_string(), expected);
        assert_eq!(Cause("\n").to_string(), "");
    }
}
