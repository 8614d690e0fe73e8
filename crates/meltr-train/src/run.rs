//! The directory that a run leaves.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use crate::checkpoint_folder::{BEST, CheckpointFolder, LAST, remove_folder, sync_folder};
use crate::error::TrainError;
use crate::record::{Record, Summary};
use crate::report::RunData;
use crate::snapshot::{Header, LoopState, Restored, SnapshotTensors};

/// A run directory that is being written.
///
/// ```text
/// config.toml                     the whole configuration
/// metrics.jsonl                   one record a line, flushed as it comes
/// summary.json                    written when the run ends
/// checkpoints/step-00000200/      the state after 200 inner steps
///     inner.safetensors           the backbone
///     outer.safetensors           the combiner, if it is learned
///     optimizer.safetensors       both optimizers and the solver; not after the last step
///     state.json                  everything else
///     SHA256SUMS                  checksums of these files, as `sha256sum -c` reads them
/// checkpoints/last, best          links to two of them
/// .lock                           locked while a process writes the run
/// ```
///
/// Whenever the process is stopped, the directory is either not there yet or one that
/// [`resume`](Self::resume) takes.
#[derive(Debug)]
pub struct Run {
    directory: PathBuf,
    metrics: File,
    config: String,
    checkpoints: CheckpointFolder,
    restored: Option<Restored>,
    /// What the user should know about what was found.
    notes: Vec<String>,
    /// The lock lasts as long as the file is open.
    _lock: File,
}

impl Run {
    /// Creates the directory, with the configuration in it, at once or not at all.
    ///
    /// # Errors
    ///
    /// [`TrainError::RunExists`] if there is something of that name, [`TrainError::Io`] if it
    /// cannot be written.
    pub fn create(directory: &Path, config_toml: &str) -> Result<Self, TrainError> {
        let exists = || TrainError::RunExists {
            path: directory.to_owned(),
        };
        if directory.exists() {
            return Err(exists());
        }
        let parent = match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let partial = parent.join(format!(".{name}.{}.partial", std::process::id()));
        remove_folder(&partial)?;
        fs::create_dir(&partial).map_err(io_error("create", directory))?;
        let placed = fill(&partial, config_toml).and_then(|()| {
            fs::rename(&partial, directory).map_err(|error| match error.kind() {
                // Another process was quicker.
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => exists(),
                _ => io_error("create", directory)(error),
            })
        });
        if let Err(error) = placed {
            fs::remove_dir_all(&partial).ok();
            return Err(error);
        }
        sync_folder(parent);
        Self::open(directory, config_toml.to_owned())
    }

    /// Opens a run that has not ended, to go on from its newest checkpoint that is whole, or from
    /// the first step if it was stopped before there was any.
    ///
    /// The directory stays as it is until the loop has taken everything up.
    ///
    /// # Errors
    ///
    /// [`TrainError::NotARun`] if there is no configuration, [`TrainError::BadCheckpoint`] if
    /// there are checkpoints but none can be used, or if the log ends before the checkpoint,
    /// [`TrainError::RunBusy`] if another process writes the run, [`TrainError::Io`] if the
    /// directory may not be written.
    pub fn resume(directory: &Path) -> Result<Self, TrainError> {
        let config = Self::read_config(directory)?;
        let log = directory.join("metrics.jsonl");
        let log_bytes = match fs::metadata(&log) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(io_error("read", &log)(error)),
        };
        let checkpoints = CheckpointFolder::of_run(directory);
        let (restored, notes) = checkpoints.newest_whole(&config)?;
        if let Some(restored) = &restored
            && log_bytes < restored.header.metrics_bytes
        {
            return Err(TrainError::BadCheckpoint {
                path: restored.folder.clone(),
                reason: format!(
                    "it goes on at byte {} of `{}`, which ends at byte {log_bytes}; put the log \
                     back",
                    restored.header.metrics_bytes,
                    log.display()
                ),
            });
        }
        let mut run = Self::open(directory, config)?;
        run.restored = restored;
        run.notes = notes;
        Ok(run)
    }

    fn open(directory: &Path, config: String) -> Result<Self, TrainError> {
        let lock = lock(directory)?;
        let path = directory.join("metrics.jsonl");
        let metrics = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(io_error("write", &path))?;
        Ok(Self {
            directory: directory.to_owned(),
            metrics,
            config,
            checkpoints: CheckpointFolder::of_run(directory),
            restored: None,
            notes: Vec::new(),
            _lock: lock,
        })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Inner steps after which the run goes on; `None` if it starts at the first.
    #[must_use]
    pub fn goes_on_after(&self) -> Option<usize> {
        self.restored
            .as_ref()
            .map(|restored| restored.header.state.taken)
    }

    /// The checkpoint that the run goes on from, if there is one.
    pub(crate) fn take_restored(&mut self) -> Option<Restored> {
        self.restored.take()
    }

    /// What the user should know about what was found.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Puts the directory into the state that it had when `header` was written; without one, into
    /// that of a run that has taken no step.
    ///
    /// Records after that point go: the steps that they are about are taken again.
    pub(crate) fn rewind(&mut self, header: Option<&Header>) -> Result<(), TrainError> {
        let path = self.directory.join("metrics.jsonl");
        self.metrics
            .set_len(header.map_or(0, |header| header.metrics_bytes))
            .map_err(io_error("write", &path))?;
        self.checkpoints.sweep()?;
        let Some(header) = header else {
            return Ok(());
        };
        self.checkpoints.set_aside_after(header.state.taken)?;
        self.checkpoints.point(LAST, header.state.taken)?;
        match header.state.best {
            // It may be one that was damaged; then the run comes there again.
            Some(best) if self.checkpoints.has(best.step) => {
                self.checkpoints.point(BEST, best.step)
            }
            _ => Ok(()),
        }
    }

    /// Writes the checkpoint of `state` and makes it the last one.
    pub(crate) fn save(
        &mut self,
        state: LoopState,
        device: &str,
        tensors: &SnapshotTensors,
    ) -> Result<(), TrainError> {
        let path = self.directory.join("metrics.jsonl");
        // The checkpoint says how long the log is, so the log has to be on the disk first.
        self.metrics.sync_all().map_err(io_error("write", &path))?;
        let metrics_bytes = self
            .metrics
            .metadata()
            .map_err(io_error("read", &path))?
            .len();
        let step = state.taken;
        let header = Header::new(&self.config, device, metrics_bytes, state);
        self.checkpoints
            .write(step, |folder| tensors.write(folder, &header))?;
        self.checkpoints.point(LAST, step)
    }

    /// Makes the checkpoint after `step` inner steps the best one.
    pub(crate) fn mark_best(&self, step: usize) -> Result<(), TrainError> {
        self.checkpoints.point(BEST, step)
    }

    /// Removes all checkpoints but the newest `keep_last` and that after `best` inner steps.
    pub(crate) fn prune(&self, keep_last: usize, best: Option<usize>) -> Result<(), TrainError> {
        self.checkpoints.prune(keep_last, best)
    }

    /// Appends a record.
    ///
    /// # Errors
    ///
    /// [`TrainError::Io`] naming the file, as on a full disk.
    pub fn append(&mut self, record: &Record) -> Result<(), TrainError> {
        let path = self.directory.join("metrics.jsonl");
        let mut line = serde_json::to_string(record).map_err(|source| TrainError::BadRecord {
            path: path.clone(),
            line: 0,
            reason: source.to_string(),
        })?;
        line.push('\n');
        self.metrics
            .write_all(line.as_bytes())
            .map_err(io_error("write", &path))
    }

    /// Writes `summary.json`, at once or not at all.
    ///
    /// # Errors
    ///
    /// [`TrainError::Io`] naming the file.
    pub fn finish(&self, summary: &Summary) -> Result<(), TrainError> {
        let path = self.directory.join("summary.json");
        let text =
            serde_json::to_string_pretty(summary).map_err(|source| TrainError::BadRecord {
                path: path.clone(),
                line: 0,
                reason: source.to_string(),
            })?;
        write_atomically(&path, text.as_bytes())
    }

    /// Reads a run, finished or not.
    ///
    /// A last line that was cut off by a crash is left out.
    ///
    /// # Errors
    ///
    /// [`TrainError::NotARun`] if files are missing, [`TrainError::BadRecord`] with file and line
    /// if one is damaged.
    pub fn read(directory: &Path) -> Result<RunData, TrainError> {
        let not_a_run = |reason: &str| TrainError::NotARun {
            path: directory.to_owned(),
            reason: reason.to_owned(),
        };
        if !directory.is_dir() {
            return Err(not_a_run("there is no such directory"));
        }
        let config_toml = Self::read_config(directory)?;
        let path = directory.join("metrics.jsonl");
        let file = File::open(&path).map_err(|_| not_a_run("it has no metrics.jsonl"))?;
        let lines: Vec<String> = BufReader::new(file)
            .lines()
            .collect::<Result<_, _>>()
            .map_err(io_error("read", &path))?;
        let mut records = Vec::with_capacity(lines.len());
        for (index, line) in lines.iter().enumerate() {
            match serde_json::from_str(line) {
                Ok(record) => records.push(record),
                Err(_) if index + 1 == lines.len() => break,
                Err(source) => {
                    return Err(TrainError::BadRecord {
                        path,
                        line: index + 1,
                        reason: source.to_string(),
                    });
                }
            }
        }
        let name = directory.file_name().map_or_else(
            || "run".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        );
        Ok(RunData {
            name,
            summary: Self::read_summary(directory)?,
            records,
            config_toml,
        })
    }

    /// The configuration of a run.
    ///
    /// # Errors
    ///
    /// [`TrainError::NotARun`] if there is none.
    pub fn read_config(directory: &Path) -> Result<String, TrainError> {
        fs::read_to_string(directory.join("config.toml")).map_err(|_| TrainError::NotARun {
            path: directory.to_owned(),
            reason: "it has no config.toml".to_owned(),
        })
    }

    /// The summary of a run; `None` if it has not ended.
    ///
    /// # Errors
    ///
    /// [`TrainError::BadRecord`] if the file is damaged.
    pub fn read_summary(directory: &Path) -> Result<Option<Summary>, TrainError> {
        let path = directory.join("summary.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(_) => return Ok(None),
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|source| TrainError::BadRecord {
                line: source.line(),
                reason: source.to_string(),
                path,
            })
    }
}

/// What a run starts with.
fn fill(directory: &Path, config_toml: &str) -> Result<(), TrainError> {
    write_atomically(&directory.join("config.toml"), config_toml.as_bytes())?;
    let log = directory.join("metrics.jsonl");
    File::create(&log).map_err(io_error("create", &log))?;
    Ok(())
}

/// Keeps other processes from writing the same run; the system lets go when this one ends.
fn lock(directory: &Path) -> Result<File, TrainError> {
    let path = directory.join(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io_error("write", &path))?;
    match file.try_lock() {
        // Some file systems have no locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TrainError::RunBusy {
            path: directory.to_owned(),
        }),
    }
}

/// Writes to a neighbor, syncs, renames.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let parent = path.parent().unwrap_or_else(|| Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The default of a temporary file, 0600, would hide the result from others.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut file = builder
        .tempfile_in(parent)
        .map_err(io_error("create", path))?;
    file.write_all(bytes).map_err(io_error("write", path))?;
    file.as_file().sync_all().map_err(io_error("write", path))?;
    file.persist(path)
        .map_err(|error| io_error("write", path)(error.error))?;
    Ok(())
}

/// An error of the system with the file that it is about.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TrainError {
    let path = path.to_owned();
    move |source| TrainError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TrainRecord;
    use crate::snapshot::tests::small;

    fn record(iteration: usize) -> Record {
        Record::Train(TrainRecord {
            iteration,
            epoch: 0,
            task_losses: vec![1.0, 2.0],
            combined_loss: 3.0,
            learning_rate: 1.0,
            gradient_norm: 0.5,
            seconds: 0.1,
        })
    }

    #[test]
    fn what_is_written_is_read_back_and_a_cut_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut run = Run::create(&path, "seed = 1\n").unwrap();
        run.append(&record(0)).unwrap();
        run.append(&record(1)).unwrap();
        run.metrics
            .write_all(b"{\"kind\":\"train\",\"iter")
            .unwrap();
        let read = Run::read(&path).unwrap();
        assert_eq!(read.records, vec![record(0), record(1)]);
        assert!(read.summary.is_none());
        assert_eq!(read.config_toml, "seed = 1\n");
    }

    #[test]
    fn an_existing_run_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let error = Run::create(folder.path(), "").unwrap_err();
        assert!(error.to_string().contains("never overwritten"), "{error}");
    }

    /// Saves a checkpoint after `taken` steps.
    fn save(run: &mut Run, taken: usize) {
        let (header, tensors) = small(&run.config, taken);
        run.save(header.state, "flex", &tensors).unwrap();
    }

    #[test]
    fn a_created_run_is_all_that_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/run");
        drop(Run::create(&path, "seed = 1\n").unwrap());
        let entries = fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(entries.count(), 1);
        assert!(path.join("config.toml").is_file() && path.join("metrics.jsonl").is_file());
    }

    #[test]
    fn a_run_without_a_checkpoint_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut run = Run::create(&path, "seed = 1\n").unwrap();
        run.append(&record(0)).unwrap();
        drop(run);
        let mut run = Run::resume(&path).unwrap();
        assert_eq!(run.goes_on_after(), None);
        // Nothing is lost before the loop has started.
        assert_eq!(Run::read(&path).unwrap().records.len(), 1);
        run.rewind(None).unwrap();
        run.append(&record(0)).unwrap();
        assert_eq!(Run::read(&path).unwrap().records, vec![record(0)]);
    }

    #[test]
    fn a_run_goes_on_where_its_newest_checkpoint_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut run = Run::create(&path, "seed = 1\n").unwrap();
        run.append(&record(0)).unwrap();
        save(&mut run, 1);
        run.append(&record(1)).unwrap();
        run.metrics.write_all(b"{\"kind\":").unwrap();
        drop(run);
        let mut run = Run::resume(&path).unwrap();
        assert_eq!(run.goes_on_after(), Some(1));
        let restored = run.take_restored().unwrap();
        run.rewind(Some(&restored.header)).unwrap();
        run.append(&record(7)).unwrap();
        let records = Run::read(&path).unwrap().records;
        assert_eq!(records, vec![record(0), record(7)]);
    }

    #[test]
    fn a_log_that_ends_before_the_checkpoint_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut run = Run::create(&path, "seed = 1\n").unwrap();
        run.append(&record(0)).unwrap();
        save(&mut run, 1);
        drop(run);
        fs::remove_file(path.join("metrics.jsonl")).unwrap();
        let error = Run::resume(&path).unwrap_err().to_string();
        for part in ["step-00000001", "metrics.jsonl", "ends at byte 0"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!path.join("metrics.jsonl").exists());
    }

    #[test]
    fn a_run_is_written_by_one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let run = Run::create(&path, "").unwrap();
        let error = Run::resume(&path).unwrap_err();
        assert!(matches!(error, TrainError::RunBusy { .. }), "{error}");
        drop(run);
        Run::resume(&path).unwrap();
    }

    #[test]
    #[cfg(unix)]
    fn a_full_disk_names_the_log() {
        if !Path::new("/dev/full").exists() {
            eprintln!("skipped: this system has no device that is always full");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut run = Run::create(&path, "").unwrap();
        run.metrics = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let error = run.append(&record(0)).unwrap_err().to_string();
        assert!(
            error.contains("cannot write") && error.contains("metrics.jsonl"),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_an_error_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut run = Run::create(&path, "").unwrap();
        run.metrics.write_all(b"nonsense\n").unwrap();
        run.append(&record(1)).unwrap();
        let error = Run::read(&path).unwrap_err();
        assert!(
            matches!(error, TrainError::BadRecord { line: 1, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_folder_that_is_no_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            Run::read(folder.path()),
            Err(TrainError::NotARun { .. })
        ));
        let missing = folder.path().join("nowhere");
        let error = Run::read(&missing).unwrap_err().to_string();
        assert!(
            error.contains("nowhere") && error.contains("no such directory"),
            "{error}"
        );
    }
}
