//! The checkpoints of a run: which there are, which are kept, which is the last, which the best.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::TrainError;
use crate::run::io_error;
use crate::settings_difference::differing_settings;
use crate::snapshot::{Restored, WEIGHT_FILES};

/// How the folder of a checkpoint begins; the number of inner steps taken follows.
const STEP: &str = "step-";

/// Ends of the names of folders that are being written or removed.
const LEFTOVERS: [&str; 3] = [".partial", ".old", ".new"];

/// Name of the newest checkpoint.
pub(crate) const LAST: &str = "last";

/// Name of the best checkpoint.
pub(crate) const BEST: &str = "best";

/// The folder `checkpoints` of a run.
///
/// ```text
/// step-00000200/    one checkpoint, complete from the moment that it has this name
/// last, best        links to two of them; copies of the weights where there are no links
/// damaged-step-*    one that was found damaged, set aside
/// .*.partial        being written
/// .*.old            being removed
/// ```
///
/// A checkpoint gets its name by a rename, after its files are on the disk, and loses it by a
/// rename before they are removed. `last` and `best` are replaced by a rename too. So the process
/// may be killed at any moment: what has a name is whole, and what has none is swept away when
/// the run goes on.
#[derive(Debug)]
pub(crate) struct CheckpointFolder {
    root: PathBuf,
}

impl CheckpointFolder {
    /// The checkpoints of the run in `directory`; there need not be any.
    pub(crate) fn of_run(directory: &Path) -> Self {
        Self {
            root: directory.join("checkpoints"),
        }
    }

    /// Writes the checkpoint after `step` inner steps: `fill` puts its files into a new folder.
    pub(crate) fn write(
        &self,
        step: usize,
        fill: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let target = self.step_path(step);
        let partial = self.hidden(&target, ".partial");
        fs::create_dir_all(&self.root).map_err(io_error("create", &self.root))?;
        remove_folder(&partial)?;
        fs::create_dir(&partial).map_err(io_error("create", &partial))?;
        if let Err(error) = fill(&partial) {
            // What is there may be what fills the disk.
            fs::remove_dir_all(&partial).ok();
            return Err(error);
        }
        sync_folder(&partial);
        // A folder of this name is there only if it was found damaged.
        self.remove(step)?;
        fs::rename(&partial, &target).map_err(io_error("create", &target))?;
        sync_folder(&self.root);
        Ok(())
    }

    /// Lets `name` be the checkpoint after `step` inner steps.
    pub(crate) fn point(&self, name: &str, step: usize) -> Result<(), TrainError> {
        let link = self.root.join(name);
        let target = self.step_path(step);
        let fresh = self.hidden(&link, ".new");
        remove_folder(&fresh)?;
        if make_link(Path::new(&step_name(step)), &fresh).is_err() {
            copy_weights(&target, &fresh)?;
        }
        // Only a link can be replaced by a rename, not a folder.
        if fs::symlink_metadata(&link).is_ok_and(|found| found.is_dir()) {
            remove_folder(&link)?;
        }
        fs::rename(&fresh, &link).map_err(io_error("create", &link))?;
        sync_folder(&self.root);
        Ok(())
    }

    /// Removes all checkpoints but the newest `keep_last` and that after `best` inner steps.
    pub(crate) fn prune(&self, keep_last: usize, best: Option<usize>) -> Result<(), TrainError> {
        let steps = self.steps()?;
        let n_old = steps.len().saturating_sub(keep_last);
        for step in &steps[..n_old] {
            if Some(*step) != best {
                self.remove(*step)?;
            }
        }
        Ok(())
    }

    /// Sets the checkpoints of later steps aside, which were found damaged: they must not count
    /// among those that are kept.
    pub(crate) fn set_aside_after(&self, step: usize) -> Result<(), TrainError> {
        for later in self.steps()?.into_iter().filter(|found| *found > step) {
            let folder = self.step_path(later);
            let aside = self.root.join(format!("damaged-{}", step_name(later)));
            remove_folder(&aside)?;
            fs::rename(&folder, &aside).map_err(io_error("rename", &folder))?;
        }
        Ok(())
    }

    /// Removes what an earlier process was writing or removing when it was stopped.
    pub(crate) fn sweep(&self) -> Result<(), TrainError> {
        for name in self.names()? {
            if name.starts_with('.') && LEFTOVERS.iter().any(|end| name.ends_with(end)) {
                remove_folder(&self.root.join(name))?;
            }
        }
        Ok(())
    }

    /// The newest checkpoint that is whole, with a line about each newer one; `None` if there is
    /// none at all.
    ///
    /// # Errors
    ///
    /// [`TrainError::BadCheckpoint`] if there are checkpoints, but none of them is whole or they
    /// were written with other settings than those in `config`.
    pub(crate) fn newest_whole(
        &self,
        config: &str,
    ) -> Result<(Option<Restored>, Vec<String>), TrainError> {
        let mut damaged: Vec<TrainError> = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            let restored = match Restored::read(&self.step_path(step)) {
                Ok(restored) => restored,
                Err(error) => {
                    damaged.push(error);
                    continue;
                }
            };
            let differences = differing_settings(&restored.header.config, config);
            if !differences.is_empty() {
                return Err(TrainError::BadCheckpoint {
                    path: restored.folder,
                    reason: format!(
                        "it was written with other settings than those in config.toml: {}; put \
                         the run's own checkpoint or config.toml back",
                        differences.join(", ")
                    ),
                });
            }
            let notes = damaged
                .iter()
                .map(|error| format!("{error}; an older one takes its place"))
                .collect();
            return Ok((Some(restored), notes));
        }
        if let Some(error) = damaged.into_iter().next() {
            return Err(TrainError::BadCheckpoint {
                path: self.root.clone(),
                reason: format!("none in it is whole; the newest: {error}"),
            });
        }
        let last = self.root.join(LAST);
        if fs::symlink_metadata(&last).is_ok() {
            return Err(TrainError::BadCheckpoint {
                path: last,
                reason: "the state that a run goes on from is not beside it; start another run \
                         with `model.weights` set to its inner.safetensors"
                    .to_owned(),
            });
        }
        Ok((None, Vec::new()))
    }

    /// Whether the checkpoint after `step` inner steps is there.
    pub(crate) fn has(&self, step: usize) -> bool {
        self.step_path(step).is_dir()
    }

    /// Numbers of inner steps after which there is a checkpoint, rising.
    fn steps(&self) -> Result<Vec<usize>, TrainError> {
        let mut steps: Vec<usize> = self
            .names()?
            .iter()
            .filter_map(|name| name.strip_prefix(STEP)?.parse().ok())
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Names of everything in the folder, as far as they are text.
    fn names(&self) -> Result<Vec<String>, TrainError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("read", &self.root)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io_error("read", &self.root))?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn remove(&self, step: usize) -> Result<(), TrainError> {
        let folder = self.step_path(step);
        if !folder.exists() {
            return Ok(());
        }
        let old = self.hidden(&folder, ".old");
        remove_folder(&old)?;
        fs::rename(&folder, &old).map_err(io_error("remove", &folder))?;
        remove_folder(&old)
    }

    fn step_path(&self, step: usize) -> PathBuf {
        self.root.join(step_name(step))
    }

    /// A hidden neighbor of `path`.
    fn hidden(&self, path: &Path, end: &str) -> PathBuf {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.root.join(format!(".{name}{end}"))
    }
}

fn step_name(step: usize) -> String {
    format!("{STEP}{step:08}")
}

/// Removes a folder, a file or a link, if there is one.
pub(crate) fn remove_folder(path: &Path) -> Result<(), TrainError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(io_error("remove", path))
}

/// Makes names durable; not every system allows this, and then they are when it pleases.
pub(crate) fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(path) {
        folder.sync_all().ok();
    }
}

#[cfg(unix)]
fn make_link(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn make_link(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What stands for a link where there are none.
fn copy_weights(from: &Path, to: &Path) -> Result<(), TrainError> {
    fs::create_dir(to).map_err(io_error("create", to))?;
    for name in WEIGHT_FILES {
        let (source, copy) = (from.join(name), to.join(name));
        if source.exists() {
            fs::copy(&source, &copy).map_err(io_error("write", &copy))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::small;

    const CONFIG: &str = "seed = 1\n";

    fn save(folder: &CheckpointFolder, step: usize) {
        let (header, tensors) = small(CONFIG, step);
        folder
            .write(step, |path| tensors.write(path, &header))
            .unwrap();
        folder.point(LAST, step).unwrap();
    }

    fn taken(folder: &CheckpointFolder) -> Option<usize> {
        let (restored, _) = folder.newest_whole(CONFIG).unwrap();
        restored.map(|restored| restored.header.state.taken)
    }

    fn spoil(folder: &CheckpointFolder, step: usize) {
        let file = folder.step_path(step).join(WEIGHT_FILES[0]);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    }

    #[test]
    fn the_newest_and_the_best_are_kept() {
        let run = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::of_run(run.path());
        assert_eq!(taken(&folder), None);
        for step in [5, 10, 15, 100] {
            save(&folder, step);
        }
        folder.point(BEST, 5).unwrap();
        folder.prune(2, Some(5)).unwrap();
        assert_eq!(folder.steps().unwrap(), [5, 15, 100]);
        assert_eq!(taken(&folder), Some(100));
        folder.point(BEST, 100).unwrap();
        folder.prune(2, Some(100)).unwrap();
        assert_eq!(folder.steps().unwrap(), [15, 100]);
        for name in [LAST, BEST] {
            let weights = run.path().join("checkpoints").join(name);
            assert!(weights.join("inner.safetensors").is_file(), "{name}");
        }
        // Nothing but checkpoints and the two names.
        assert_eq!(folder.names().unwrap().len(), 4);
    }

    #[test]
    fn a_damaged_checkpoint_is_passed_over_and_named() {
        let run = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::of_run(run.path());
        save(&folder, 1);
        save(&folder, 2);
        spoil(&folder, 2);
        let (restored, notes) = folder.newest_whole(CONFIG).unwrap();
        assert_eq!(restored.unwrap().header.state.taken, 1);
        assert_eq!(notes.len(), 1);
        for part in ["step-00000002", "inner.safetensors", "an older one"] {
            assert!(notes[0].contains(part), "{}", notes[0]);
        }
        // It is replaced when the run comes there again.
        save(&folder, 2);
        assert_eq!(taken(&folder), Some(2));
    }

    #[test]
    fn a_damaged_checkpoint_takes_no_place_among_those_that_are_kept() {
        let run = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::of_run(run.path());
        for step in [2, 4] {
            save(&folder, step);
        }
        spoil(&folder, 4);
        folder.set_aside_after(2).unwrap();
        save(&folder, 3);
        folder.prune(1, None).unwrap();
        assert_eq!(folder.steps().unwrap(), [3]);
        assert_eq!(taken(&folder), Some(3));
        assert!(folder.root.join("damaged-step-00000004").is_dir());
    }

    #[test]
    fn no_whole_checkpoint_is_an_error_and_not_a_fresh_start() {
        let run = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::of_run(run.path());
        save(&folder, 1);
        spoil(&folder, 1);
        let error = folder.newest_whole(CONFIG).unwrap_err().to_string();
        for part in ["none in it is whole", "step-00000001", "SHA-256"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(folder.has(1));
    }

    #[test]
    fn a_checkpoint_of_other_settings_is_refused_with_their_names() {
        let run = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::of_run(run.path());
        save(&folder, 1);
        let error = folder.newest_whole("seed = 2\n").unwrap_err().to_string();
        for part in ["step-00000001", "`seed`", "config.toml"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn weights_without_a_state_are_no_start() {
        let run = tempfile::tempdir().unwrap();
        fs::create_dir_all(run.path().join("checkpoints/last")).unwrap();
        let folder = CheckpointFolder::of_run(run.path());
        let error = folder.newest_whole(CONFIG).unwrap_err().to_string();
        assert!(error.contains("model.weights"), "{error}");
    }

    #[test]
    fn what_cannot_be_written_leaves_the_older_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::of_run(run.path());
        save(&folder, 1);
        let failed = folder.write(2, |path| {
            fs::write(path.join("half"), "x").unwrap();
            Err(io_error("write", path)(io::ErrorKind::StorageFull.into()))
        });
        let error = failed.unwrap_err().to_string();
        assert!(error.contains("cannot write"), "{error}");
        assert_eq!(taken(&folder), Some(1));
        assert_eq!(folder.names().unwrap().len(), 2);
    }

    #[test]
    fn leftovers_of_a_killed_process_are_swept_and_nothing_else() {
        let run = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::of_run(run.path());
        folder.sweep().unwrap();
        save(&folder, 1);
        for name in [".step-00000002.partial", ".step-00000000.old", ".last.new"] {
            fs::create_dir(folder.root.join(name)).unwrap();
        }
        fs::write(folder.root.join(".mine"), "x").unwrap();
        folder.sweep().unwrap();
        let mut names = folder.names().unwrap();
        names.sort_unstable();
        assert_eq!(names, [".mine", "last", "step-00000001"]);
    }

    #[test]
    fn copies_stand_for_links_where_there_are_none() {
        let run = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::of_run(run.path());
        save(&folder, 1);
        let last = folder.root.join(LAST);
        remove_folder(&last).unwrap();
        copy_weights(&folder.step_path(1), &last).unwrap();
        assert!(last.join("inner.safetensors").is_file());
        // And give way to links.
        save(&folder, 2);
        assert!(last.join("inner.safetensors").is_file());
        assert_eq!(taken(&folder), Some(2));
    }
}
