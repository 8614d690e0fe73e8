//! `cargo xtask reference`: parity with reference directories, by the `meltr` binary.

use anyhow::Result;

use crate::flags::{DEVICE, FEATURES, JSON, Parsed, Positional, Spec};
use crate::process::{Status, hand_over, meltr, user_path};

/// What the command accepts.
pub(crate) const SPEC: Spec = Spec {
    command: "reference",
    summary: "parity with reference directories",
    about: "Builds the `meltr` binary and runs `meltr reference` on each directory: computes what \
            its `config.json` names, prints the largest absolute and relative error of each \
            tensor, and fails beyond the tolerance.",
    positional: Positional::Required("DIR"),
    flags: &[JSON, DEVICE, FEATURES],
    rest: Some("the `meltr` binary"),
    example: "cargo xtask reference ../shared/fixtures/univl",
};

/// Runs the command.
pub(crate) fn run(parsed: &Parsed) -> Result<Status> {
    let mut command = meltr(parsed.value(FEATURES.name))?;
    command.arg("reference");
    command.args(parsed.positional.iter().map(|folder| user_path(folder)));
    if parsed.has(JSON.name) {
        command.arg(JSON.name);
    }
    if let Some(device) = parsed.value(DEVICE.name) {
        command.args([DEVICE.name, device]);
    }
    command.args(&parsed.rest);
    hand_over(command)
}
