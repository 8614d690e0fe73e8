//! The rule that no file names a folder of one particular machine.

use anyhow::Result;

use super::Violation;
use super::tree::Tree;

/// Folders that exist on somebody's machine only, written so that this file passes its own rule.
const FOLDERS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// Checks every text file.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for file in tree.files() {
        let Some(text) = tree.text(file)? else {
            continue;
        };
        for (index, line) in text.lines().enumerate() {
            if let Some(folder) = FOLDERS.into_iter().find(|folder| names(line, folder)) {
                violations.push(Violation {
                    file: file.to_owned(),
                    line: index + 1,
                    rule: "machine-path",
                    message: format!(
                        "names a path under `{folder}`, a folder of one machine; use a path from \
                         the root of the checkout"
                    ),
                });
            }
        }
    }
    Ok(violations)
}

/// Whether an absolute path in the line starts with the folder.
fn names(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"_-./*~})".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::TempTree;

    #[test]
    fn a_path_of_one_machine_is_named_with_its_line() {
        for folder in FOLDERS {
            let tree = TempTree::new();
            tree.write("docs/notes.md", format!("Notes.\n\nSee `{folder}notes`.\n"));
            let violations = check(&tree.open()).unwrap();
            assert_eq!(violations.len(), 1);
            assert_eq!(
                (violations[0].line, violations[0].rule),
                (3, "machine-path")
            );
        }
    }

    #[test]
    fn a_folder_of_that_name_inside_another_is_accepted() {
        for folder in FOLDERS {
            let tree = TempTree::new();
            tree.write(
                "docs/notes.md",
                format!("See home{folder}notes and ..{folder}notes.\n"),
            );
            tree.write("bytes", [0xff_u8, 0x00]);
            assert_eq!(check(&tree.open()).unwrap(), []);
        }
    }
}
