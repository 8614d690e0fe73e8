//! The rule that the files embedded in the library stay small.

use anyhow::Result;

use super::Violation;
use super::tree::Tree;

const FOLDER: &str = "crates/meltr-data/assets";
const LIMIT_BYTES: u64 = 16_000_000;

/// Checks the sum of the sizes.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Violation>> {
    let prefix = format!("{FOLDER}/");
    let mut total = 0;
    for file in tree.files().filter(|file| file.starts_with(&prefix)) {
        total += tree.size(file)?;
    }
    if total <= LIMIT_BYTES {
        return Ok(Vec::new());
    }
    Ok(vec![Violation {
        file: FOLDER.to_owned(),
        line: 1,
        rule: "embedded-size",
        message: format!(
            "holds {total} bytes, and every clone and every binary carries them; the limit is \
             {LIMIT_BYTES}"
        ),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::TempTree;

    #[test]
    fn the_sizes_of_all_embedded_files_count() {
        let tree = TempTree::new();
        let half = vec![0_u8; usize::try_from(LIMIT_BYTES / 2).unwrap()];
        tree.write("crates/meltr-data/assets/set/a.bin", &half);
        tree.write("crates/meltr-data/assets/set/b.bin", &half);
        assert_eq!(check(&tree.open()).unwrap(), []);
        tree.write("crates/meltr-data/assets/c.txt", "x");
        let violations = check(&tree.open()).unwrap();
        assert_eq!(violations.len(), 1);
        assert!(violations[0].message.starts_with("holds 16000001 bytes"));
    }
}
