//! The directory that a run leaves.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use crate::error::TrainError;
use crate::record::{Record, Summary};
use crate::report::RunData;

/// A run directory that is being written.
///
/// ```text
/// config.toml                     the whole configuration
/// metrics.jsonl                   one record a line, flushed as it comes
/// summary.json                    written when the run ends
/// checkpoints/last/inner.safetensors, outer.safetensors
/// ```
#[derive(Debug)]
pub struct Run {
    directory: PathBuf,
    metrics: File,
}

impl Run {
    /// Creates the directory and writes the configuration.
    ///
    /// # Errors
    ///
    /// [`TrainError::RunExists`] if there is something of that name, [`TrainError::Io`] if it
    /// cannot be written.
    pub fn create(directory: &Path, config_toml: &str) -> Result<Self, TrainError> {
        if directory.exists() {
            return Err(TrainError::RunExists {
                path: directory.to_owned(),
            });
        }
        fs::create_dir_all(directory).map_err(io("create", directory))?;
        let config = directory.join("config.toml");
        fs::write(&config, config_toml).map_err(io("write", &config))?;
        let path = directory.join("metrics.jsonl");
        let metrics = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(io("create", &path))?;
        Ok(Self {
            directory: directory.to_owned(),
            metrics,
        })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
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
            .map_err(io("write", &path))
    }

    /// Path of the weights of one level, `inner` or `outer`, in the last checkpoint.
    ///
    /// # Errors
    ///
    /// [`TrainError::Io`] if the checkpoint directory cannot be created.
    pub fn checkpoint_path(&self, level: &str) -> Result<PathBuf, TrainError> {
        let directory = self.directory.join("checkpoints").join("last");
        fs::create_dir_all(&directory).map_err(io("create", &directory))?;
        Ok(directory.join(format!("{level}.safetensors")))
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
            .map_err(io("read", &path))?;
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

/// Writes to a neighbor, syncs, renames.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let parent = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(io("create", path))?;
    file.write_all(bytes).map_err(io("write", path))?;
    file.as_file().sync_all().map_err(io("write", path))?;
    file.persist(path)
        .map_err(|error| io("write", path)(error.error))?;
    Ok(())
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TrainError {
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
