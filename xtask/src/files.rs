//! Listings of the checkout that several commands need.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The paths in a folder, by name.
pub(crate) fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("failed to list the folder `{}`", folder.display());
    let mut paths = fs::read_dir(folder)
        .with_context(context)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(context)?;
    paths.sort();
    Ok(paths)
}

/// The names of the targets `crates/*/<kind>/NAME.rs`, crate by crate; `kind` is `examples` or
/// `benches`.
pub(crate) fn targets(root: &Path, kind: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for package in sorted_entries(&root.join("crates"))? {
        let folder = package.join(kind);
        if !folder.is_dir() {
            continue;
        }
        for file in sorted_entries(&folder)? {
            if file.extension().is_some_and(|extension| extension == "rs") {
                names.extend(
                    file.file_stem()
                        .map(|stem| stem.to_string_lossy().into_owned()),
                );
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::TempTree;

    #[test]
    fn targets_are_found_crate_by_crate() {
        let tree = TempTree::new();
        tree.write("crates/b/examples/01_first.rs", "");
        tree.write("crates/a/examples/02_second.rs", "");
        tree.write("crates/a/examples/notes.md", "");
        tree.write("crates/c/benches/forward.rs", "");
        assert_eq!(
            targets(tree.root(), "examples").unwrap(),
            ["02_second", "01_first"]
        );
        assert_eq!(targets(tree.root(), "benches").unwrap(), ["forward"]);
    }

    #[test]
    fn a_folder_that_does_not_exist_is_named() {
        let tree = TempTree::new();
        let error = targets(tree.root(), "examples").unwrap_err();
        assert!(error.to_string().starts_with("failed to list the folder `"));
    }
}
