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

use std::fmt;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use meltr_data::{
    DecodeOptions, Decoder, FrameSource, MediaFrames, Registry, RegistryEntry, RgbFrame,
};

use crate::error::CliError;
use crate::nearest::nearest;
use crate::output;

use self::arguments::{DataArguments, DataCommand, Placement, RuleArguments};

/// Frames of one clip at most.
const MAX_FRAMES: usize = 10_000;

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

/// Which frames of a clip are taken.
#[derive(Debug, Clone, Copy, PartialEq)]
enum FrameRule {
    /// In the middles of equal parts.
    Middle { count: usize },
    /// As VIOLET places them.
    Violet { count: usize },
    /// So many a second, from the first on.
    PerSecond { fps: f64 },
}

impl FrameRule {
    fn new(arguments: &RuleArguments) -> Result<Self, CliError> {
        if let Some(fps) = arguments.fps {
            if !(fps > 0.0 && fps <= 1000.0) {
                return Err(CliError::Input(format!(
                    "--fps is {fps}; choose a number in (0, 1000]"
                )));
            }
            return Ok(Self::PerSecond { fps });
        }
        let count = arguments.count;
        if count == 0 || count > MAX_FRAMES {
            return Err(CliError::Input(format!(
                "--count is {count}; choose a number in [1, {MAX_FRAMES}]"
            )));
        }
        Ok(match arguments.placement {
            Placement::Middle => Self::Middle { count },
            Placement::Violet => Self::Violet { count },
        })
    }
}

impl fmt::Display for FrameRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Middle { count } => write!(formatter, "{count} frames, middle"),
            Self::Violet { count } => write!(formatter, "{count} frames, violet"),
            Self::PerSecond { fps } => write!(formatter, "{fps} frames a second"),
        }
    }
}

/// One decoded frame.
struct Frame {
    /// Number of the frame in the video, counted from 0.
    index: usize,
    /// Its pixels.
    frame: RgbFrame,
}

/// The frames of a video that a rule takes, between two times in seconds if they are given.
///
/// With times, or so many frames a second, the whole video is decoded and held, since which frames
/// those are is known only when all have been counted.
fn decode_frames(
    video: &Path,
    rule: FrameRule,
    start: Option<f64>,
    end: Option<f64>,
) -> Result<Vec<Frame>, CliError> {
    use meltr_data::FrameRule as Rule;

    let options = DecodeOptions {
        threads: 0,
        ..DecodeOptions::default()
    };
    let mut source = MediaFrames::open(Decoder::Ffmpeg, options)?;
    let placed = match rule {
        FrameRule::Middle { count } => Some(Rule::Uniform { frames: count }),
        FrameRule::Violet { count } => Some(Rule::Violet { frames: count }),
        FrameRule::PerSecond { .. } => None,
    };
    let decoded = match placed {
        Some(placed) if start.is_none() && end.is_none() => source.frames(video, placed)?,
        _ => {
            let rate = source.probe(video)?.frame_rate.unwrap_or(0.0);
            if !(rate > 0.0 && rate.is_finite()) {
                return Err(CliError::Input(format!(
                    "`{}` does not say how many frames a second it has; choose frames by --count \
                     and without times",
                    video.display()
                )));
            }
            let mut decoded = source.frames(video, Rule::All)?;
            let n_frames = decoded.decodable_frames;
            let at = |seconds: f64| ((seconds * rate).max(0.0) as usize).min(n_frames);
            let (first, last) = (start.map_or(0, at), end.map_or(n_frames, at));
            if first >= last {
                return Err(CliError::Input(format!(
                    "`{}` has {n_frames} frames, {rate} a second; none is between second {} and {}",
                    video.display(),
                    start.unwrap_or(0.0),
                    end.map_or_else(|| "the end".to_owned(), |end| end.to_string()),
                )));
            }
            let wanted: Vec<usize> = match (placed, rule) {
                (Some(placed), _) => placed
                    .indices(last - first)
                    .map_err(|kind| CliError::Input(format!("`{}`: {kind}", video.display())))?
                    .into_iter()
                    .map(|index| first + index)
                    .collect(),
                (None, FrameRule::PerSecond { fps }) => (0..)
                    .map(|step| first + (f64::from(step) * rate / fps) as usize)
                    .take_while(|&index| index < last)
                    .take(MAX_FRAMES)
                    .collect(),
                (None, _) => (first..last).collect(),
            };
            decoded.frames = wanted
                .iter()
                .filter_map(|&index| decoded.frames.get(index).cloned())
                .collect();
            decoded.indices = wanted;
            decoded
        }
    };
    Ok(decoded
        .indices
        .iter()
        .zip(decoded.frames)
        .map(|(&index, frame)| Frame { index, frame })
        .collect())
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
