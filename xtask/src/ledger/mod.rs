//! `cargo xtask ledger`: the page of the comparisons that were recorded.

pub(crate) mod entry;
mod metric;
mod page;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use self::entry::{Entry, read};
use self::page::page;
use crate::flags::{Flag, Parsed, Positional, Spec};
use crate::process::{Status, workspace_root};

/// The ledger, a line of JSON for each comparison.
pub(crate) const LEDGER: &str = "docs/ledger.jsonl";

/// The page that is made from it.
const PAGE: &str = "docs/reproduction.md";

const CHECK: &str = "--check";

/// What the command accepts.
pub(crate) const SPEC: Spec = Spec {
    command: "ledger",
    summary: "makes docs/reproduction.md from docs/ledger.jsonl",
    about: "Writes the page of all comparisons that `cargo xtask repro ROW --record` has appended \
            to docs/ledger.jsonl: of each row the newest one, with intervals and published \
            numbers. A test fails while the page is another one.",
    positional: Positional::None,
    flags: &[Flag::switch(
        CHECK,
        "write nothing, and fail if the page is another one",
    )],
    rest: None,
    example: "cargo xtask ledger",
};

/// Runs the command.
pub(crate) fn run(parsed: &Parsed) -> Result<Status> {
    let root = workspace_root();
    let entries = entries(&root)?;
    if parsed.has(CHECK) {
        if is_current(&root, &entries)? {
            return Ok(Status::Done);
        }
        eprintln!("`{PAGE}` is not what `{LEDGER}` gives; `cargo xtask ledger` writes it");
        return Ok(Status::CheckFailed);
    }
    fs::write(root.join(PAGE), page(&entries))
        .with_context(|| format!("failed to write `{PAGE}`"))?;
    println!("{PAGE}: {} lines of the ledger", entries.len());
    Ok(Status::Done)
}

/// The lines of the ledger of a checkout, oldest first.
pub(crate) fn entries(root: &Path) -> Result<Vec<Entry>> {
    read(&root.join(LEDGER))
}

/// Whether the page is what the ledger gives.
fn is_current(root: &Path, entries: &[Entry]) -> Result<bool> {
    let path = root.join(PAGE);
    if !path.exists() {
        return Ok(false);
    }
    let text = fs::read_to_string(path).with_context(|| format!("failed to read `{PAGE}`"))?;
    Ok(text == page(entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::entry::tests::LINE;
    use crate::tidy::tree::TempTree;

    #[test]
    fn the_page_of_this_checkout_is_what_its_ledger_gives() {
        let root = workspace_root();
        let entries = entries(&root).unwrap();
        assert!(
            is_current(&root, &entries).unwrap(),
            "`{PAGE}` is not what `{LEDGER}` gives; `cargo xtask ledger` writes it"
        );
    }

    #[test]
    fn a_line_more_makes_the_page_an_old_one() {
        let tree = TempTree::new();
        assert!(!is_current(tree.root(), &[]).unwrap());
        tree.write(PAGE, page(&[]));
        assert!(is_current(tree.root(), &entries(tree.root()).unwrap()).unwrap());
        tree.write(LEDGER, format!("{LINE}\n"));
        let entries = entries(tree.root()).unwrap();
        assert!(!is_current(tree.root(), &entries).unwrap());
        tree.write(PAGE, page(&entries));
        assert!(is_current(tree.root(), &entries).unwrap());
    }
}
