//! The directory that a run leaves.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Deserialize;

use crate::checkpoint_folder::{BEST, CheckpointFolder, LAST, remove_folder, sync_folder};
use crate::error::TrainError;
use crate::record::{Record, Summary};
use crate::report::RunData;
use crate::snapshot::{Header, LoopState, Restored, SnapshotTensors};
use crate::tensor_board::{EVENT_FILE, EventFile};

/// Bytes at the end of a log in which the newest record is looked for; one with curves has
/// several thousand.
const END_OF_LOG: u64 = 1 << 17;

/// A run directory that is being written.
///
/// ```text
/// config.toml                     the whole configuration
/// metrics.jsonl                   one record a line, flushed as it comes
/// events.out.tfevents.0.meltr     the numbers in it, for TensorBoard
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
///
/// Where several processes share a run, the first one writes it. What the others have writes
/// nothing: [`elsewhere`](Self::elsewhere), [`resume_elsewhere`](Self::resume_elsewhere).
#[derive(Debug)]
pub struct Run {
    directory: PathBuf,
    /// Absent where another process writes the run.
    files: Option<Files>,
    /// Absent until the names of the tasks are known.
    events: Option<EventFile>,
    config: String,
    checkpoints: CheckpointFolder,
    restored: Option<Restored>,
    /// What the user should know about what was found.
    notes: Vec<String>,
}

/// What is open while a run is written.
#[derive(Debug)]
struct Files {
    metrics: File,
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
        let (config, restored, notes) = found(directory)?;
        let mut run = Self::open(directory, config)?;
        run.restored = restored;
        run.notes = notes;
        Ok(run)
    }

    /// A run in `directory` that another process creates and writes; nothing is read of it.
    #[must_use]
    pub fn elsewhere(directory: &Path) -> Self {
        Self::with_files(directory, String::new(), None)
    }

    /// A run that another process goes on with by [`resume`](Self::resume): the same checkpoint is
    /// read, and nothing is written. To be called before the other one takes a step.
    ///
    /// # Errors
    ///
    /// Those of [`resume`](Self::resume) about what is read.
    pub fn resume_elsewhere(directory: &Path) -> Result<Self, TrainError> {
        let (config, restored, _) = found(directory)?;
        let mut run = Self::with_files(directory, config, None);
        run.restored = restored;
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
        let files = Files {
            metrics,
            _lock: lock,
        };
        Ok(Self::with_files(directory, config, Some(files)))
    }

    fn with_files(directory: &Path, config: String, files: Option<Files>) -> Self {
        Self {
            directory: directory.to_owned(),
            files,
            events: None,
            config,
            checkpoints: CheckpointFolder::of_run(directory),
            restored: None,
            notes: Vec::new(),
        }
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
    /// Records after that point go: the steps that they are about are taken again. The event file
    /// stays behind until [`start_events`](Self::start_events) makes it anew.
    pub(crate) fn rewind(&mut self, header: Option<&Header>) -> Result<(), TrainError> {
        self.events = None;
        let Some(files) = &self.files else {
            return Ok(());
        };
        let path = self.directory.join("metrics.jsonl");
        files
            .metrics
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

    /// Writes the scalars of all records, those that are there and those that come, to an event
    /// file for TensorBoard as well: `tensorboard --logdir` takes the folder of the run, or one
    /// above several.
    ///
    /// The file is made from the log each time. So what an earlier process left of it, half a
    /// record or some after the checkpoint that the run goes on from, does not matter. It is
    /// written in its place, and steps that are taken again give events of the same length: a
    /// reader that follows it can stay where it is. `tasks` are the names of the tasks, in token
    /// order.
    ///
    /// # Errors
    ///
    /// [`TrainError::Io`] naming the file that cannot be read or written,
    /// [`TrainError::BadRecord`] with the line of the log that is damaged.
    pub fn start_events(&mut self, tasks: &[String]) -> Result<(), TrainError> {
        if self.files.is_none() {
            return Ok(());
        }
        let config = self.directory.join("config.toml");
        let created = fs::metadata(&config)
            .and_then(|found| found.modified())
            .map_err(io_error("read", &config))?;
        // A clock before 1970 is off anyway.
        let created = created
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |time| time.as_secs_f64());
        let log = self.directory.join("metrics.jsonl");
        let file = File::open(&log).map_err(io_error("read", &log))?;
        let mut events = EventFile::create(&self.directory.join(EVENT_FILE), tasks, created)?;
        for record in read_records(file, &log)? {
            events.append(&record)?;
        }
        self.events = Some(events);
        Ok(())
    }

    /// Writes the checkpoint of `state` and makes it the last one.
    pub(crate) fn save(
        &mut self,
        state: LoopState,
        device: &str,
        tensors: &SnapshotTensors,
    ) -> Result<(), TrainError> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        let path = self.directory.join("metrics.jsonl");
        // The checkpoint says how long the log is, so the log has to be on the disk first.
        files.metrics.sync_all().map_err(io_error("write", &path))?;
        let metrics_bytes = files
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
        match self.files {
            Some(_) => self.checkpoints.point(BEST, step),
            None => Ok(()),
        }
    }

    /// Removes all checkpoints but the newest `keep_last` and that after `best` inner steps.
    pub(crate) fn prune(&self, keep_last: usize, best: Option<usize>) -> Result<(), TrainError> {
        match self.files {
            Some(_) => self.checkpoints.prune(keep_last, best),
            None => Ok(()),
        }
    }

    /// Appends a record.
    ///
    /// # Errors
    ///
    /// [`TrainError::Io`] naming the file, as on a full disk.
    pub fn append(&mut self, record: &Record) -> Result<(), TrainError> {
        let Some(files) = &mut self.files else {
            return Ok(());
        };
        let path = self.directory.join("metrics.jsonl");
        let mut line = serde_json::to_string(record).map_err(|source| TrainError::BadRecord {
            path: path.clone(),
            line: 0,
            reason: source.to_string(),
        })?;
        line.push('\n');
        files
            .metrics
            .write_all(line.as_bytes())
            .map_err(io_error("write", &path))?;
        match &mut self.events {
            Some(events) => events.append(record),
            None => Ok(()),
        }
    }

    /// Writes `summary.json`, at once or not at all.
    ///
    /// # Errors
    ///
    /// [`TrainError::Io`] naming the file.
    pub fn finish(&self, summary: &Summary) -> Result<(), TrainError> {
        if self.files.is_none() {
            return Ok(());
        }
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
        let records = read_records(file, &path)?;
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

    /// Inner steps taken before the newest record of a run, which another process may be writing.
    ///
    /// `None` if there is no record, and if it cannot be told: this is for showing progress.
    #[must_use]
    pub fn last_iteration(directory: &Path) -> Option<usize> {
        #[derive(Deserialize)]
        struct Place {
            iteration: usize,
        }
        let mut log = File::open(directory.join("metrics.jsonl")).ok()?;
        let length = log.metadata().ok()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(END_OF_LOG)))
            .ok()?;
        let mut end = Vec::new();
        log.take(END_OF_LOG).read_to_end(&mut end).ok()?;
        // The first line may lack its beginning, the last one its end.
        end.split(|byte| *byte == b'\n')
            .rev()
            .find_map(|line| serde_json::from_slice::<Place>(line).ok())
            .map(|place| place.iteration)
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

/// Configuration and newest whole checkpoint of a run that has not ended, with what the user should
/// know about them.
fn found(directory: &Path) -> Result<(String, Option<Restored>, Vec<String>), TrainError> {
    let config = Run::read_config(directory)?;
    let log = directory.join("metrics.jsonl");
    let log_bytes = match fs::metadata(&log) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io_error("read", &log)(error)),
    };
    let (restored, notes) = CheckpointFolder::of_run(directory).newest_whole(&config)?;
    if let Some(restored) = &restored
        && log_bytes < restored.header.metrics_bytes
    {
        return Err(TrainError::BadCheckpoint {
            path: restored.folder.clone(),
            reason: format!(
                "it goes on at byte {} of `{}`, which ends at byte {log_bytes}; put the log back",
                restored.header.metrics_bytes,
                log.display()
            ),
        });
    }
    Ok((config, restored, notes))
}

/// The records of the log in `file`; a last line that was cut off is left out.
fn read_records(file: File, path: &Path) -> Result<Vec<Record>, TrainError> {
    let lines: Vec<String> = BufReader::new(file)
        .lines()
        .collect::<Result<_, _>>()
        .map_err(io_error("read", path))?;
    let mut records = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(record) => records.push(record),
            Err(_) if index + 1 == lines.len() => break,
            Err(source) => {
                return Err(TrainError::BadRecord {
                    path: path.to_owned(),
                    line: index + 1,
                    reason: source.to_string(),
                });
            }
        }
    }
    Ok(records)
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
    use crate::tensor_board::tests::messages;

    /// The log of a run that is being written.
    fn metrics_of(run: &mut Run) -> &mut File {
        &mut run.files.as_mut().unwrap().metrics
    }

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
        metrics_of(&mut run)
            .write_all(b"{\"kind\":\"train\",\"iter")
            .unwrap();
        let read = Run::read(&path).unwrap();
        assert_eq!(read.records, vec![record(0), record(1)]);
        assert!(read.summary.is_none());
        assert_eq!(read.config_toml, "seed = 1\n");
    }

    #[test]
    fn the_newest_step_is_found_at_the_end_of_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        assert_eq!(Run::last_iteration(&path), None);
        let mut run = Run::create(&path, "").unwrap();
        assert_eq!(Run::last_iteration(&path), None);
        for iteration in 0..2000 {
            run.append(&record(iteration)).unwrap();
        }
        assert!(fs::metadata(path.join("metrics.jsonl")).unwrap().len() > END_OF_LOG);
        assert_eq!(Run::last_iteration(&path), Some(1999));
        metrics_of(&mut run)
            .write_all(b"{\"kind\":\"train\",\"iter")
            .unwrap();
        assert_eq!(Run::last_iteration(&path), Some(1999));
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
        metrics_of(&mut run).write_all(b"{\"kind\":").unwrap();
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
    fn what_another_process_writes_is_read_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut run = Run::create(&path, "seed = 1\n").unwrap();
        run.append(&record(0)).unwrap();
        save(&mut run, 1);
        let mut other = Run::resume_elsewhere(&path).unwrap();
        assert_eq!(other.goes_on_after(), Some(1));
        let restored = other.take_restored().unwrap();
        other.rewind(Some(&restored.header)).unwrap();
        other.start_events(&["retrieval".to_owned()]).unwrap();
        other.append(&record(1)).unwrap();
        save(&mut other, 2);
        other.prune(1, None).unwrap();
        assert_eq!(Run::read(&path).unwrap().records, vec![record(0)]);
        assert!(!path.join(EVENT_FILE).exists());
        assert_eq!(
            Run::resume_elsewhere(&path).unwrap().goes_on_after(),
            Some(1)
        );

        let absent = folder.path().join("absent");
        let mut other = Run::elsewhere(&absent);
        assert_eq!(other.goes_on_after(), None);
        other.append(&record(0)).unwrap();
        save(&mut other, 1);
        assert!(!absent.exists());
        assert!(Run::resume_elsewhere(&absent).is_err());
    }

    /// The event file of a run, without the times in it.
    fn events(run: &Path) -> Vec<Vec<u8>> {
        let mut messages = messages(&run.join(EVENT_FILE));
        for message in &mut messages {
            message.drain(1..9);
        }
        messages
    }

    #[test]
    fn events_go_on_like_the_log_after_a_kill_in_the_middle_of_one() {
        let folder = tempfile::tempdir().unwrap();
        let tasks = ["retrieval".to_owned(), "mlm".to_owned()];
        let alone = folder.path().join("alone");
        let mut run = Run::create(&alone, "seed = 1\n").unwrap();
        run.rewind(None).unwrap();
        run.start_events(&tasks).unwrap();
        for iteration in 0..3 {
            run.append(&record(iteration)).unwrap();
        }

        let killed = folder.path().join("killed");
        let mut run = Run::create(&killed, "seed = 1\n").unwrap();
        run.rewind(None).unwrap();
        run.start_events(&tasks).unwrap();
        run.append(&record(0)).unwrap();
        save(&mut run, 1);
        // One step after the checkpoint, and a part of the next.
        run.append(&record(1)).unwrap();
        drop(run);
        let file = killed.join(EVENT_FILE);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, [&whole[..], &whole[..20]].concat()).unwrap();

        let mut run = Run::resume(&killed).unwrap();
        let restored = run.take_restored().unwrap();
        run.rewind(Some(&restored.header)).unwrap();
        run.start_events(&tasks).unwrap();
        assert_eq!(events(&killed), events(&alone)[..2]);
        for iteration in 1..3 {
            run.append(&record(iteration)).unwrap();
        }
        // The first one tells the version.
        assert_eq!(events(&alone).len(), 4);
        assert_eq!(events(&killed), events(&alone));
    }

    #[test]
    fn events_can_be_made_from_a_log_that_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut run = Run::create(&path, "").unwrap();
        run.append(&record(0)).unwrap();
        assert!(!path.join(EVENT_FILE).exists());
        run.start_events(&["retrieval".to_owned()]).unwrap();
        run.append(&record(1)).unwrap();
        assert_eq!(events(&path).len(), 3);
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
        *metrics_of(&mut run) = OpenOptions::new().append(true).open("/dev/full").unwrap();
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
        metrics_of(&mut run).write_all(b"nonsense\n").unwrap();
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
