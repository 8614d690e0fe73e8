//! The folder of a sweep: which one a command goes on with, and when it makes another.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use meltr_train::differing_settings;
use toml::{Table, Value};

use crate::error::CliError;

/// Settings of a sweep, and the program that began it.
const SETTINGS: &str = "sweep.toml";

/// The comparison as JSON; a sweep that has it is finished.
const RESULTS: &str = "results.json";

/// The section of [`SETTINGS`] that tells who began the sweep.
const BEGUN_BY: &str = "begun_by";

/// Attempts to find or make a folder while other processes do the same.
const ATTEMPTS: usize = 20;

/// What a command does with the sweeps that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// Go on with the newest sweep if it has not finished, otherwise start another.
    GoOn,
    /// The same as one process of several, which cannot tell whether a finished sweep was meant:
    /// with the same settings, it was.
    GoOnWithShare,
    /// Start another sweep.
    StartAnother,
    /// Look at the newest sweep.
    Look,
}

/// A sweep on disk.
#[derive(Debug)]
pub(super) struct SweepFolder {
    pub(super) path: PathBuf,
    /// Whether it was there before.
    pub(super) is_old: bool,
    /// Whether its comparison was made already.
    pub(super) is_finished: bool,
    /// Who began it.
    pub(super) begun_by: Table,
}

impl SweepFolder {
    /// The sweep below `base` that a command is about.
    ///
    /// Sweeps are numbered folders `001`, `002`, ...; `settings` is the whole configuration, and
    /// `begun_by` tells of the program where a sweep begins. Folders without `sweep.toml` are left
    /// alone.
    pub(super) fn find(
        base: &Path,
        settings: &Table,
        begun_by: &Table,
        intent: Intent,
    ) -> Result<Self, CliError> {
        for _ in 0..ATTEMPTS {
            // The number of a new folder comes from the same listing: if another process makes one
            // in between, the number is taken, and that folder is looked at.
            let numbers = numbers(base)?;
            let next = numbers.last().map_or(1, |last| last + 1);
            let newest = if intent == Intent::StartAnother {
                None
            } else {
                newest(base, &numbers)?
            };
            if let Some(found) = newest {
                let other = found.differences(settings)?;
                let same = other.is_empty();
                let goes_on = match intent {
                    Intent::GoOn | Intent::StartAnother => !found.is_finished,
                    Intent::GoOnWithShare => same || !found.is_finished,
                    Intent::Look => true,
                };
                if goes_on && same {
                    return Ok(found);
                }
                if goes_on {
                    return Err(found.refused(&other));
                }
            } else if intent == Intent::Look {
                return Err(CliError::Input(format!(
                    "there is no sweep in `{}` to collect; the same command without --collect \
                     makes its runs",
                    base.display()
                )));
            }
            if let Some(made) = make(named(base, next), settings, begun_by)? {
                return Ok(made);
            }
        }
        Err(CliError::Failed(format!(
            "other processes make sweeps in `{}` all the time; name another --out",
            base.display()
        )))
    }

    /// The settings in which the sweep differs from those asked for.
    fn differences(&self, settings: &Table) -> Result<Vec<String>, CliError> {
        let mut found = read_settings(&self.path)?;
        found.remove(BEGUN_BY);
        Ok(differing_settings(&text(&found)?, &text(settings)?))
    }

    fn refused(&self, differences: &[String]) -> CliError {
        let state = if self.is_finished {
            "is a sweep"
        } else {
            "is a sweep that has not finished,"
        };
        CliError::Input(format!(
            "`{}` {state} with other settings: {}; give its own settings to go on with it, --new \
             to start another beside it, or another --out",
            self.path.display(),
            differences.join(", ")
        ))
    }

    /// Writes the comparison, which makes the sweep a finished one.
    pub(super) fn finish(&self, results: &serde_json::Value) -> Result<(), CliError> {
        let path = self.path.join(RESULTS);
        let text = serde_json::to_string_pretty(results).map_err(CliError::failed)?;
        let partial = path.with_extension("partial");
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(cannot("write", &path))
    }
}

/// The sweep with the highest of the numbers.
fn newest(base: &Path, numbers: &[u32]) -> Result<Option<SweepFolder>, CliError> {
    let mut folders = numbers.iter().rev().map(|number| named(base, *number));
    let Some(path) = folders.find(|folder| folder.join(SETTINGS).is_file()) else {
        return Ok(None);
    };
    let begun_by = match read_settings(&path)?.remove(BEGUN_BY) {
        Some(Value::Table(table)) => table,
        _ => Table::new(),
    };
    Ok(Some(SweepFolder {
        is_old: true,
        is_finished: path.join(RESULTS).is_file(),
        begun_by,
        path,
    }))
}

/// The numbers of the folders in `base`, rising.
fn numbers(base: &Path) -> Result<Vec<u32>, CliError> {
    let entries = match fs::read_dir(base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot("read", base)(error)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(cannot("read", base))?.file_name();
        let number: Option<u32> = name.to_str().and_then(|name| name.parse().ok());
        // `7` or `0007` would be another folder than `007`.
        numbers.extend(number.filter(|number| named(base, *number).ends_with(&name)));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn named(base: &Path, number: u32) -> PathBuf {
    base.join(format!("{number:03}"))
}

/// Makes a sweep at `path`, with its settings in it at once; `None` if another process has made one.
fn make(
    path: PathBuf,
    settings: &Table,
    begun_by: &Table,
) -> Result<Option<SweepFolder>, CliError> {
    let base = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(base).map_err(cannot("create", base))?;
    let mut all = settings.clone();
    all.insert(BEGUN_BY.to_owned(), Value::Table(begun_by.clone()));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sweep-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The default of a temporary folder, 0700, would hide the sweep from others.
        builder.permissions(fs::Permissions::from_mode(0o777));
    }
    let partial = builder.tempdir_in(base).map_err(cannot("create", &path))?;
    fs::write(partial.path().join(SETTINGS), text(&all)?).map_err(cannot("write", &path))?;
    if let Err(error) = fs::rename(partial.path(), &path) {
        return match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => Ok(None),
            _ => Err(cannot("create", &path)(error)),
        };
    }
    // It is no longer where it would be removed from.
    let _ = partial.keep();
    Ok(Some(SweepFolder {
        path,
        is_old: false,
        is_finished: false,
        begun_by: begun_by.clone(),
    }))
}

fn read_settings(sweep: &Path) -> Result<Table, CliError> {
    let path = sweep.join(SETTINGS);
    let text = fs::read_to_string(&path).map_err(cannot("read", &path))?;
    text.parse().map_err(|error: toml::de::Error| {
        CliError::Input(format!(
            "`{}`: {}; --new starts another sweep",
            path.display(),
            error.to_string().trim_end()
        ))
    })
}

fn text(settings: &Table) -> Result<String, CliError> {
    toml::to_string_pretty(settings).map_err(CliError::failed)
}

/// An error of the system with the file that it is about.
pub(super) fn cannot(action: &'static str, path: &Path) -> impl Fn(io::Error) -> CliError {
    let path = path.to_owned();
    move |error| CliError::Failed(format!("cannot {action} `{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(iterations: i64) -> Table {
        format!("title = \"t\"\n[train]\niterations = {iterations}\n[sweep]\nseeds = 2\n")
            .parse()
            .unwrap()
    }

    fn begun_by() -> Table {
        "version = \"1\"".parse().unwrap()
    }

    fn find(base: &Path, iterations: i64, intent: Intent) -> Result<SweepFolder, CliError> {
        SweepFolder::find(base, &settings(iterations), &begun_by(), intent)
    }

    #[test]
    fn an_unfinished_sweep_is_gone_on_with_and_a_finished_one_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("row");
        let first = find(&base, 5, Intent::GoOn).unwrap();
        assert!(first.path.ends_with("001") && !first.is_old);
        let again = find(&base, 5, Intent::GoOn).unwrap();
        assert!(again.path == first.path && again.is_old);
        assert_eq!(again.begun_by, begun_by());
        again.finish(&json!({ "rows": [] })).unwrap();
        let next = find(&base, 5, Intent::GoOn).unwrap();
        assert!(next.path.ends_with("002") && !next.is_old);
        // Nothing is left of how the folders were made.
        assert_eq!(fs::read_dir(&base).unwrap().count(), 2);
    }

    #[test]
    fn another_sweep_starts_beside_an_unfinished_one_if_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        find(folder.path(), 5, Intent::GoOn).unwrap();
        let second = find(folder.path(), 7, Intent::StartAnother).unwrap();
        assert!(second.path.ends_with("002"));
        let found = find(folder.path(), 7, Intent::GoOn).unwrap();
        assert_eq!(found.path, second.path);
    }

    #[test]
    fn other_settings_are_refused_with_the_difference() {
        let folder = tempfile::tempdir().unwrap();
        find(folder.path(), 5, Intent::GoOn).unwrap();
        for intent in [Intent::GoOn, Intent::GoOnWithShare, Intent::Look] {
            let error = find(folder.path(), 7, intent).unwrap_err();
            assert!(matches!(error, CliError::Input(_)));
            let message = error.to_string();
            for part in ["001", "`train.iterations` (5 before, 7 now)", "--new"] {
                assert!(message.contains(part), "{message}");
            }
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_share_of_a_finished_sweep_starts_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let first = find(folder.path(), 5, Intent::GoOnWithShare).unwrap();
        first.finish(&json!({})).unwrap();
        let again = find(folder.path(), 5, Intent::GoOnWithShare).unwrap();
        assert!(again.path == first.path && again.is_finished);
        let other = find(folder.path(), 7, Intent::GoOnWithShare).unwrap();
        assert!(other.path.ends_with("002"));
    }

    #[test]
    fn nothing_to_look_at_is_said_and_nothing_made() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("row");
        let message = find(&base, 5, Intent::Look).unwrap_err().to_string();
        assert!(message.contains("no sweep in"), "{message}");
        assert!(!base.exists());
        let made = find(&base, 5, Intent::GoOn).unwrap();
        made.finish(&json!({})).unwrap();
        assert!(find(&base, 5, Intent::Look).unwrap().is_finished);
    }

    #[test]
    fn folders_that_are_no_sweeps_keep_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["001", "0002", "notes"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let made = find(folder.path(), 5, Intent::GoOn).unwrap();
        assert!(made.path.ends_with("002"));
    }

    #[test]
    fn processes_that_begin_together_share_one_sweep() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("row");
        let found: Vec<PathBuf> = std::thread::scope(|scope| {
            let begin = || find(&base, 5, Intent::GoOnWithShare).unwrap().path;
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(begin)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(found.iter().all(|path| path.ends_with("001")), "{found:?}");
    }

    #[test]
    fn settings_that_are_broken_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let made = find(folder.path(), 5, Intent::GoOn).unwrap();
        fs::write(made.path.join(SETTINGS), "a =").unwrap();
        let message = find(folder.path(), 5, Intent::GoOn)
            .unwrap_err()
            .to_string();
        assert!(message.contains("sweep.toml"), "{message}");
    }
}
