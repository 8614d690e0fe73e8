//! `cargo xtask test`: the whole suite, in the release profile.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::devices::{self, Target};
use crate::flags::{DEVICE, JSON, Parsed, Positional, Spec};
use crate::process::{Status, cargo, is_installed, workspace_root};
use crate::steps::{Output, Steps};

/// What the command accepts.
pub(crate) const SPEC: Spec = Spec {
    command: "test",
    summary: "the whole test-suite, as CI runs it",
    about: "Runs unit and integration tests (by cargo-nextest where it is installed), then the \
            examples in the documentation. With ARGS, only the unit and integration tests that \
            ARGS select.\n\n\
            With --device and another device than `flex`: builds the program for it, checks its \
            parity with every reference directory, and runs the tests of combiners, estimators \
            and UniVL on it, or those that ARGS select. `tch` installs PyTorch 2.11.0 into \
            target/torch (5 GB) unless --python names an interpreter that has it. `vulkan` and \
            `wgpu` take SwiftShader where there is no GPU (on Debian `apt-get install chromium \
            libvulkan1`), and there `vulkan` is `wgpu`; their build takes 30 minutes of CPU time.",
    positional: Positional::None,
    flags: &[JSON, DEVICE, devices::PYTHON, devices::RECORD],
    rest: Some("the test runner, cargo-nextest or `cargo test`"),
    example: "cargo xtask test -- retrieval",
};

/// Runs the command.
pub(crate) fn run(parsed: &Parsed) -> Result<Status> {
    let target = parsed.value(DEVICE.name).map(Target::parse).transpose()?;
    devices::check_flags(target.as_ref(), parsed)?;
    if let Some(target) = target.filter(|target| !target.is_default()) {
        return devices::run(&target, parsed);
    }
    let mut steps = Steps::new(Output::from_flag(parsed.has(JSON.name)));
    add_steps(&mut steps, &parsed.rest)?;
    steps.report()
}

/// Appends the test steps; `filter` narrows them to some tests.
pub(crate) fn add_steps(steps: &mut Steps, filter: &[String]) -> Result<()> {
    for line in missing_prerequisites() {
        eprintln!("optional: {line}");
    }
    let nextest = is_installed("cargo-nextest");
    let mut tests = if nextest {
        cargo(&["nextest", "run", "--release", "--workspace"])
    } else {
        cargo(&[
            "test",
            "--release",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
        ])
    };
    tests.args(filter);
    if !nextest {
        // Nextest gives each test a process. In one process tests take turns, since dropout draws
        // from a generator that the whole process shares.
        if !filter.iter().any(|argument| argument == "--") {
            tests.arg("--");
        }
        tests.arg("--test-threads=1");
    }
    let whole_suite = filter.is_empty();
    if steps.run(tests)? && whole_suite {
        steps.run(cargo(&["test", "--release", "--workspace", "--doc"]))?;
    }
    Ok(())
}

/// One line for each thing that some tests use where it is present.
fn missing_prerequisites() -> Vec<&'static str> {
    let mut lines = Vec::new();
    if !is_installed("cargo-nextest") {
        lines.push(
            "cargo-nextest is not installed, so `cargo test` runs the tests; \
             `cargo install --locked cargo-nextest` brings it",
        );
    }
    if !is_installed("ffmpeg") {
        lines.push(
            "ffmpeg is not installed, so tests that decode videos say that they were skipped; on \
             Debian `apt-get install ffmpeg` brings it",
        );
    }
    if shared_folder().is_none() {
        lines.push(
            "the real data sets were not found, so tests that need them say that they were \
             skipped; set MELTR_SHARED to the folder that holds `data` (default: ../shared)",
        );
    }
    lines
}

/// The folder of the real data sets and of the reference directories.
pub(crate) fn shared_folder() -> Option<PathBuf> {
    let variable = env::var_os("MELTR_SHARED").map(PathBuf::from);
    real_sets(variable, &workspace_root())
}

/// The folder that the variable names, or the one beside the checkout.
fn real_sets(variable: Option<PathBuf>, root: &Path) -> Option<PathBuf> {
    let folder = variable.unwrap_or_else(|| root.join("../shared"));
    folder.is_dir().then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_the_folder_of_the_real_sets() {
        let root = workspace_root();
        assert_eq!(
            real_sets(Some(root.join("xtask")), &root),
            Some(root.join("xtask"))
        );
        assert_eq!(real_sets(Some(root.join("no-such-folder")), &root), None);
    }
}
