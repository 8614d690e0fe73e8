//! `cargo xtask ci`: lint and test in one.

use anyhow::Result;

use crate::flags::{JSON, Parsed, Positional, Spec};
use crate::process::Status;
use crate::steps::{Output, Steps};
use crate::{lint, test};

/// What the command accepts.
pub(crate) const SPEC: Spec = Spec {
    command: "ci",
    summary: "lint and test in one",
    about: "Runs the steps of `cargo xtask lint`, then those of `cargo xtask test`, and stops at \
            the first that does not hold.",
    positional: Positional::None,
    flags: &[JSON],
    rest: None,
    example: "cargo xtask ci",
};

/// Runs the command.
pub(crate) fn run(parsed: &Parsed) -> Result<Status> {
    let mut steps = Steps::new(Output::from_flag(parsed.has(JSON.name)));
    lint::add_steps(&mut steps)?;
    test::add_steps(&mut steps, &[])?;
    steps.report()
}
