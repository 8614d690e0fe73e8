//! `cargo xtask tidy`: the rules about the layout of the checkout, each with file, line and reason.

mod embedded;
mod machine_paths;
mod manifests;
mod map;
mod sources;
pub(crate) mod tree;

use std::fmt;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::flags::{JSON, Parsed, Positional, Spec};
use crate::process::{Status, workspace_root};
use crate::tidy::tree::Tree;

/// What the command accepts.
pub(crate) const SPEC: Spec = Spec {
    command: "tidy",
    summary: "the rules about the layout of the checkout",
    about: "Checks that every source file says what it is, that crates depend on each other as \
            docs/architecture.md says and on no backend, that this map and the sources agree, \
            that no file names a folder of one machine, and that the embedded set stays small.",
    positional: Positional::None,
    flags: &[JSON],
    rest: None,
    example: "cargo xtask tidy",
};

/// A place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Violation {
    /// Path from the root of the workspace, with forward slashes.
    pub(crate) file: String,
    /// Line, counted from 1.
    pub(crate) line: usize,
    /// Name of the rule, as in docs/architecture.md.
    pub(crate) rule: &'static str,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}:{}: {} [{}]",
            self.file, self.line, self.message, self.rule
        )
    }
}

/// Runs the command.
pub(crate) fn run(parsed: &Parsed) -> Result<Status> {
    let violations = violations(&workspace_root())?;
    if parsed.has(JSON.name) {
        let ok = violations.is_empty();
        let document = serde_json::json!({ "violations": violations, "ok": ok });
        println!("{}", serde_json::to_string_pretty(&document)?);
    }
    report(&violations);
    Ok(if violations.is_empty() {
        Status::Done
    } else {
        Status::CheckFailed
    })
}

/// Whether every rule holds; prints the places where one does not.
pub(crate) fn holds(root: &Path) -> Result<bool> {
    let violations = violations(root)?;
    report(&violations);
    Ok(violations.is_empty())
}

fn report(violations: &[Violation]) {
    for violation in violations {
        eprintln!("{violation}");
    }
    if !violations.is_empty() {
        eprintln!("the rules are explained in docs/architecture.md under \"Layout rules\"");
    }
}

fn violations(root: &Path) -> Result<Vec<Violation>> {
    let tree = Tree::open(root)?;
    let mut violations = Vec::new();
    violations.extend(sources::check(&tree)?);
    violations.extend(manifests::check(&tree)?);
    violations.extend(map::check(&tree)?);
    violations.extend(machine_paths::check(&tree)?);
    violations.extend(embedded::check(&tree)?);
    Ok(violations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_tidy() {
        let violations = violations(&workspace_root()).unwrap();
        let shown: Vec<String> = violations.iter().map(Violation::to_string).collect();
        assert!(shown.is_empty(), "\n{}\n", shown.join("\n"));
    }

    #[test]
    fn a_violation_names_file_line_and_rule() {
        let violation = Violation {
            file: "crates/a/src/lib.rs".to_owned(),
            line: 3,
            rule: "device",
            message: "names a device".to_owned(),
        };
        assert_eq!(
            violation.to_string(),
            "crates/a/src/lib.rs:3: names a device [device]"
        );
    }
}
