//! The files of a checkout, as the rules see them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Folders that hold nothing of the checkout, for trees that git does not know.
const SKIPPED: [&str; 5] = ["target", "runs", ".git", ".venv", "__pycache__"];

/// The files of a checkout.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    files: Vec<String>,
}

impl Tree {
    /// Lists the files that git tracks or would track; all files where there is no git.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let mut files = match tracked(root) {
            Some(files) => files,
            None => {
                let mut files = Vec::new();
                walk(root, "", &mut files)?;
                files
            }
        };
        files.retain(|file| root.join(file).is_file());
        files.sort();
        files.dedup();
        Ok(Self {
            root: root.to_path_buf(),
            files,
        })
    }

    /// All files, by path from the root, with forward slashes.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// The names of the folders in `crates` that hold a manifest.
    pub(crate) fn crates(&self) -> Vec<&str> {
        self.files()
            .filter_map(|file| file.strip_prefix("crates/")?.strip_suffix("/Cargo.toml"))
            .filter(|name| !name.contains('/'))
            .collect()
    }

    /// The text of a file; `None` when it is not text.
    pub(crate) fn text(&self, file: &str) -> Result<Option<String>> {
        let bytes =
            fs::read(self.root.join(file)).with_context(|| format!("failed to read `{file}`"))?;
        Ok(String::from_utf8(bytes).ok())
    }

    /// The text of a file; empty when it does not exist or is not text.
    pub(crate) fn text_or_empty(&self, file: &str) -> Result<String> {
        if !self.exists(file) {
            return Ok(String::new());
        }
        Ok(self.text(file)?.unwrap_or_default())
    }

    /// The size of a file in bytes.
    pub(crate) fn size(&self, file: &str) -> Result<u64> {
        let metadata = fs::metadata(self.root.join(file))
            .with_context(|| format!("failed to read the size of `{file}`"))?;
        Ok(metadata.len())
    }

    /// Whether a file or folder exists.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}

/// The files that git tracks or would track, or `None` where git does not know the folder.
fn tracked(root: &Path) -> Option<Vec<String>> {
    if !root.join(".git").exists() {
        return None;
    }
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let names = String::from_utf8_lossy(&output.stdout);
    Some(
        names
            .split('\0')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<String>) -> Result<()> {
    let context = || format!("failed to list the folder `{}`", folder.display());
    for entry in fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().with_context(context)?;
        if kind.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                walk(&entry.path(), &format!("{prefix}{name}/"), files)?;
            }
        } else {
            files.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}

/// A folder under the system's temporary folder that goes away with the value.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct TempTree {
    root: PathBuf,
}

#[cfg(test)]
impl TempTree {
    /// An empty folder that no other test uses.
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root =
            std::env::temp_dir().join(format!("meltr-xtask-{}-{number}", std::process::id()));
        // A folder left behind by a process that had the same id.
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a file, its folders included.
    pub(crate) fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        let path = self.root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The files as the rules see them.
    pub(crate) fn open(&self) -> Tree {
        Tree::open(&self.root).unwrap()
    }
}

#[cfg(test)]
impl Drop for TempTree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_folders_are_not_part_of_the_tree() {
        let tree = TempTree::new();
        tree.write("crates/a/Cargo.toml", "");
        tree.write("crates/a/src/lib.rs", "");
        tree.write("crates/a/fuzz/Cargo.toml", "");
        tree.write("target/release/build.rs", "");
        let tree = tree.open();
        let files: Vec<&str> = tree.files().collect();
        assert_eq!(
            files,
            [
                "crates/a/Cargo.toml",
                "crates/a/fuzz/Cargo.toml",
                "crates/a/src/lib.rs"
            ]
        );
        assert_eq!(tree.crates(), ["a"]);
    }

    #[test]
    fn a_file_that_is_not_text_has_no_text() {
        let tree = TempTree::new();
        tree.write("bytes", [0xff_u8, 0xfe]);
        tree.write("text", "text");
        let tree = tree.open();
        assert_eq!(tree.text("bytes").unwrap(), None);
        assert_eq!(tree.text("text").unwrap().as_deref(), Some("text"));
        assert_eq!(tree.size("bytes").unwrap(), 2);
    }
}
