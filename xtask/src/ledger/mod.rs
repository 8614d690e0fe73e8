//! `cargo xtask ledger`: the pages of the comparisons that were recorded.

pub(crate) mod entry;
mod metric;
mod reproduction;
mod study;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use self::entry::{Entry, read};
use crate::flags::{Flag, Parsed, Positional, Spec};
use crate::process::{Status, workspace_root};

/// The ledger, a line of JSON for each comparison.
pub(crate) const LEDGER: &str = "docs/ledger.jsonl";

/// A page that is made from the ledger.
struct Page {
    path: &'static str,
    text: fn(&[Entry]) -> String,
}

/// Every line of the ledger is of a row or of the study, and has its place on the page of these.
const PAGES: [Page; 2] = [
    Page {
        path: "docs/reproduction.md",
        text: reproduction::page,
    },
    Page {
        path: "docs/study.md",
        text: study::page,
    },
];

const CHECK: &str = "--check";

/// What the command accepts.
pub(crate) const SPEC: Spec = Spec {
    command: "ledger",
    summary: "makes docs/reproduction.md and docs/study.md from docs/ledger.jsonl",
    about: "Writes the pages of all comparisons that `cargo xtask repro ROW --record` has appended \
            to docs/ledger.jsonl. docs/reproduction.md has of each row the newest one, with \
            intervals and published numbers; docs/study.md has the sweeps of `cargo xtask repro \
            study`, a table for each task. A test fails while a page is another one.",
    positional: Positional::None,
    flags: &[Flag::switch(
        CHECK,
        "write nothing, and fail if a page is another one",
    )],
    rest: None,
    example: "cargo xtask ledger",
};

/// Runs the command.
pub(crate) fn run(parsed: &Parsed) -> Result<Status> {
    let root = workspace_root();
    let entries = entries(&root)?;
    if parsed.has(CHECK) {
        let outdated = outdated(&root, &entries)?;
        for path in &outdated {
            eprintln!("{}", remedy(path));
        }
        return Ok(if outdated.is_empty() {
            Status::Done
        } else {
            Status::CheckFailed
        });
    }
    for Page { path, text } in &PAGES {
        fs::write(root.join(path), text(&entries))
            .with_context(|| format!("failed to write `{path}`"))?;
        println!("{path}");
    }
    println!("{} lines of the ledger", entries.len());
    Ok(Status::Done)
}

/// The lines of the ledger of a checkout, oldest first.
pub(crate) fn entries(root: &Path) -> Result<Vec<Entry>> {
    read(&root.join(LEDGER))
}

/// The pages that are not what the ledger gives.
fn outdated(root: &Path, entries: &[Entry]) -> Result<Vec<&'static str>> {
    let mut outdated = Vec::new();
    for Page { path, text } in &PAGES {
        let file = root.join(path);
        let is_current = file.exists()
            && fs::read_to_string(file).with_context(|| format!("failed to read `{path}`"))?
                == text(entries);
        if !is_current {
            outdated.push(*path);
        }
    }
    Ok(outdated)
}

/// What to do about a page that is not what the ledger gives.
fn remedy(path: &str) -> String {
    format!("`{path}` is not what `{LEDGER}` gives; `cargo xtask ledger` writes it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::entry::tests::LINE;
    use crate::tidy::tree::TempTree;

    /// Writes all pages of some lines.
    fn write_pages(tree: &TempTree, entries: &[Entry]) {
        for page in &PAGES {
            tree.write(page.path, (page.text)(entries));
        }
    }

    #[test]
    fn the_pages_of_this_checkout_are_what_its_ledger_gives() {
        let root = workspace_root();
        let outdated = outdated(&root, &entries(&root).unwrap()).unwrap();
        let remedies: Vec<String> = outdated.iter().map(|path| remedy(path)).collect();
        assert!(remedies.is_empty(), "{}", remedies.join("\n"));
    }

    #[test]
    fn a_line_more_makes_its_page_an_old_one() {
        let tree = TempTree::new();
        let paths = PAGES.map(|page| page.path);
        let outdated = |entries: &[Entry]| outdated(tree.root(), entries).unwrap();
        assert_eq!(outdated(&[]), paths);
        write_pages(&tree, &[]);
        assert!(outdated(&entries(tree.root()).unwrap()).is_empty());

        let of_study = LINE.replace("univl/a-retrieval", "study/a-retrieval/history");
        for (line, path) in [(LINE, paths[0]), (of_study.as_str(), paths[1])] {
            write_pages(&tree, &[]);
            tree.write(LEDGER, format!("{line}\n"));
            let entries = entries(tree.root()).unwrap();
            assert_eq!(outdated(&entries), [path]);
            write_pages(&tree, &entries);
            assert!(outdated(&entries).is_empty());
        }
    }
}
