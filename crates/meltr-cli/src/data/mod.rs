//! `meltr data`: the registry, downloads, checks and conversions.

pub(crate) mod arguments;
mod check;
mod convert;
mod features;
mod frames;
mod get;
mod inspect;
mod list;
mod tokens;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use meltr_data::{Registry, RegistryEntry};

use crate::error::CliError;
use crate::nearest::nearest;
use crate::output;

use self::arguments::{DataArguments, DataCommand};

pub(crate) fn run(arguments: &DataArguments) -> Result<(), CliError> {
    match &arguments.command {
        DataCommand::List(arguments) => list::run(arguments),
        DataCommand::Get(arguments) => get::run(arguments),
        DataCommand::Check(arguments) => check::run(arguments),
        DataCommand::Inspect(arguments) => inspect::run(arguments),
        DataCommand::Frames(arguments) => frames::run(arguments),
        DataCommand::Features(arguments) => features::run(arguments),
        DataCommand::Tokens(arguments) => tokens::run(arguments),
        DataCommand::Convert(arguments) => convert::run(arguments),
    }
}

/// The registry that the program carries, or one's own.
fn open_registry(path: Option<&Path>) -> Result<Registry, CliError> {
    Ok(match path {
        Some(path) => Registry::open(path)?,
        None => Registry::built_in()?,
    })
}

/// An entry by its id; a misspelt one is answered with the nearest.
fn find_entry<'a>(registry: &'a Registry, id: &str) -> Result<&'a RegistryEntry, CliError> {
    registry.entry(id).ok_or_else(|| {
        let known = registry.entries().iter().map(|entry| entry.id.as_str());
        let suggestion = nearest(id, known)
            .map(|id| format!("; did you mean `{id}`?"))
            .unwrap_or_default();
        CliError::Input(format!(
            "`{id}` is no entry of {}{suggestion} (`meltr data list` shows them all)",
            registry.path().display()
        ))
    })
}

/// Where the files of an entry lie.
fn folder_of(entry: &RegistryEntry, dir: Option<&Path>) -> PathBuf {
    match dir {
        Some(dir) => dir.to_path_buf(),
        None => Path::new("data").join(&entry.id),
    }
}

/// Refuses to write over something.
fn must_not_exist(path: &Path) -> Result<(), CliError> {
    if path.symlink_metadata().is_ok() {
        return Err(CliError::Input(format!(
            "`{}` exists and is never overwritten; choose another --out",
            path.display()
        )));
    }
    Ok(())
}

/// Progress of a long task: a bar on a terminal, a line now and then otherwise.
struct Tally {
    bar: ProgressBar,
    what: String,
    last_line: Instant,
}

impl Tally {
    /// Counts things, such as clips.
    fn of_things(what: &str) -> Self {
        Self::new(what, "{msg} {bar:30} {pos}/{len}, {eta} left")
    }

    /// Counts bytes.
    fn of_bytes(what: &str) -> Self {
        Self::new(
            what,
            "{msg} {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left",
        )
    }

    fn new(what: &str, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Self {
            bar,
            what: what.to_owned(),
            last_line: Instant::now(),
        }
    }

    fn set(&mut self, done: u64, total: Option<u64>) {
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
        let due = self.last_line.elapsed() > Duration::from_secs(10);
        if due && !std::io::stderr().is_terminal() {
            let of = total.map(|total| format!("/{total}")).unwrap_or_default();
            output::note(&format!("{}: {done}{of}", self.what));
            self.last_line = Instant::now();
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
