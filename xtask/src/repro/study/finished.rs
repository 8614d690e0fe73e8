//! Which sweeps have been made, as `meltr repro` leaves them.

use std::fs;
use std::path::{Path, PathBuf};

/// Settings of a sweep; a folder without them is none.
const SETTINGS: &str = "sweep.toml";

/// The comparison; a sweep that has it is finished.
const RESULTS: &str = "results.json";

/// The newest of the sweeps `001`, `002`, ... in `base`, if it has finished with so many seeds.
///
/// What cannot be read counts as not finished: `meltr repro` tells what is wrong with it.
pub(super) fn finished_sweep(base: &Path, seeds: usize) -> Option<PathBuf> {
    let newest = newest_sweep(base)?;
    let is_finished = newest.join(RESULTS).is_file() && seeds_of(&newest) == Some(seeds);
    is_finished.then_some(newest)
}

fn newest_sweep(base: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(base).ok()?;
    let sweeps = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let number: u32 = path.file_name()?.to_str()?.parse().ok()?;
        // `7` and `0007` are other folders than `007`.
        let is_sweep = path.ends_with(format!("{number:03}")) && path.join(SETTINGS).is_file();
        is_sweep.then_some((number, path))
    });
    sweeps.max().map(|(_, path)| path)
}

fn seeds_of(sweep: &Path) -> Option<usize> {
    let text = fs::read_to_string(sweep.join(SETTINGS)).ok()?;
    let settings: toml::Table = toml::from_str(&text).ok()?;
    let seeds = settings.get("sweep")?.get("seeds")?.as_integer()?;
    usize::try_from(seeds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::TempTree;

    fn begin(tree: &TempTree, name: &str) {
        tree.write(&format!("{name}/{SETTINGS}"), "[sweep]\nseeds = 4\n");
    }

    #[test]
    fn the_newest_sweep_decides() {
        let tree = TempTree::new();
        let base = tree.root();
        assert_eq!(finished_sweep(&base.join("nowhere"), 4), None);
        begin(&tree, "001");
        tree.write(&format!("001/{RESULTS}"), "{}");
        assert_eq!(finished_sweep(base, 4), Some(base.join("001")));
        begin(&tree, "002");
        assert_eq!(finished_sweep(base, 4), None);
        tree.write(&format!("002/{RESULTS}"), "{}");
        assert_eq!(finished_sweep(base, 4), Some(base.join("002")));
    }

    #[test]
    fn a_sweep_with_other_seeds_is_another_one() {
        let tree = TempTree::new();
        begin(&tree, "001");
        tree.write(&format!("001/{RESULTS}"), "{}");
        assert_eq!(finished_sweep(tree.root(), 5), None);
        tree.write(&format!("001/{SETTINGS}"), "seeds =");
        assert_eq!(finished_sweep(tree.root(), 4), None);
    }

    #[test]
    fn folders_that_are_no_sweeps_are_left_alone() {
        let tree = TempTree::new();
        begin(&tree, "001");
        tree.write(&format!("001/{RESULTS}"), "{}");
        begin(&tree, "0002");
        begin(&tree, "notes");
        tree.write("003/notes.md", "");
        assert_eq!(
            finished_sweep(tree.root(), 4),
            Some(tree.root().join("001"))
        );
    }
}
