//! `cargo xtask lint`: layout rules, format, clippy, documentation and examples, cheapest first.

use std::env;
use std::process::Command;

use anyhow::Result;

use crate::files::targets;
use crate::flags::{JSON, Parsed, Positional, Spec};
use crate::process::{Status, cargo, release_dir, workspace_root};
use crate::steps::{Output, Steps};
use crate::tidy;

/// What the command accepts.
pub(crate) const SPEC: Spec = Spec {
    command: "lint",
    summary: "layout rules, format, clippy, documentation, examples",
    about: "Runs `cargo xtask tidy`, cargo fmt --check, clippy and rustdoc with warnings as \
            errors, then every example, and stops at the first that does not hold.",
    positional: Positional::None,
    flags: &[JSON],
    rest: None,
    example: "cargo xtask lint",
};

/// Runs the command.
pub(crate) fn run(parsed: &Parsed) -> Result<Status> {
    let mut steps = Steps::new(Output::from_flag(parsed.has(JSON.name)));
    add_steps(&mut steps)?;
    steps.report()
}

/// Appends the lint steps.
pub(crate) fn add_steps(steps: &mut Steps) -> Result<()> {
    let root = workspace_root();
    steps.check("tidy", || tidy::holds(&root))?;
    steps.run(cargo(&["fmt", "--all", "--check"]))?;
    steps.run(cargo(&[
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    steps.run(documentation())?;

    let examples = targets(&root, "examples")?;
    if examples.is_empty() {
        return Ok(());
    }
    // One build for the whole workspace: `cargo run --package` would resolve the features of each
    // package on its own and could compile burn once more.
    steps.run(cargo(&["build", "--release", "--workspace", "--examples"]))?;
    for example in examples {
        let program = release_dir()
            .join("examples")
            .join(format!("{example}{}", env::consts::EXE_SUFFIX));
        let mut command = Command::new(program);
        command.current_dir(&root);
        steps.run(command)?;
    }
    Ok(())
}

fn documentation() -> Command {
    let mut flags = env::var("RUSTDOCFLAGS").unwrap_or_default();
    if !flags.is_empty() {
        flags.push(' ');
    }
    flags += "-D warnings";
    let mut command = cargo(&["doc", "--release", "--workspace", "--no-deps"]);
    command.env("RUSTDOCFLAGS", flags);
    command
}
