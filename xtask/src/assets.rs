//! `cargo xtask assets`: how the embedded data set is built.

use std::fs;

use anyhow::{Context, Result};

use crate::flags::{Parsed, Positional, Spec};
use crate::process::{Status, workspace_root};

const SCRIPT: &str = "xtask/assets/build_emoji_clips.py";

/// What the command accepts.
pub(crate) const SPEC: Spec = Spec {
    command: "assets",
    summary: "how the embedded data set is built",
    about: "Prints what the files under crates/meltr-data/assets are made from and the commands \
            that make them. They are committed, so nothing has to be built to use them.",
    positional: Positional::None,
    flags: &[],
    rest: None,
    example: "cargo xtask assets",
};

/// Runs the command.
pub(crate) fn run(_parsed: &Parsed) -> Result<Status> {
    let path = workspace_root().join(SCRIPT);
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read `{SCRIPT}`"))?;
    let description = docstring(&text)
        .with_context(|| format!("failed to find the description at the top of `{SCRIPT}`"))?;
    println!("{SCRIPT}\n\n{}", description.trim());
    Ok(Status::Done)
}

/// The text between the first pair of triple quotes, which is where the script says what it does.
fn docstring(script: &str) -> Option<&str> {
    let (_, after) = script.split_once("\"\"\"")?;
    let (inside, _) = after.split_once("\"\"\"")?;
    Some(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_the_first_docstring() {
        let script = "#!/usr/bin/env python3\n\"\"\"Builds.\n\nUse it so.\n\"\"\"\nimport os\n";
        assert_eq!(docstring(script), Some("Builds.\n\nUse it so.\n"));
        assert_eq!(docstring("import os\n"), None);
    }

    #[test]
    fn the_script_in_the_tree_has_a_description() {
        let text = fs::read_to_string(workspace_root().join(SCRIPT)).unwrap();
        assert!(docstring(&text).is_some_and(|text| text.contains("--source")));
    }
}
