//! `meltr bench data`: frames of videos and features of pickles, beside Python, each side in a
//! process of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use meltr_data::{
    DecodeJob, DecodeOptions, DecodeParallelism, Decoder, FrameRule, VideoFeatures, decode_many,
};
use meltr_train::peak_memory_bytes;
use serde::{Deserialize, Serialize};

use super::statistics::median;
use super::text_table::TextTable;
use super::{mebibytes, require_nonzero, threads};
use crate::cli::DataBenchOptions;
use crate::error::CliError;
use crate::output;

/// What a process that carries out one side alone is to do: `frames` or `pickle`, the repeats and
/// the files, separated by newlines.
const ORDER: &str = "MELTR_BENCH_DATA_ORDER";

/// Frames that are kept of each clip.
const FRAMES: usize = 8;

/// Width of the features.
const WIDTH: usize = 1024;

/// Size of the pickle.
const MEGABYTES: usize = 200;

/// What a side writes.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    seconds: Vec<f64>,
    /// Decoded frames, or arrays.
    items: usize,
    peak_rss_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Row {
    what: String,
    side: &'static str,
    /// Median.
    warm_seconds: f64,
    #[serde(flatten)]
    document: Document,
}

pub(super) fn run(options: &DataBenchOptions) -> Result<(), CliError> {
    if let Ok(order) = std::env::var(ORDER) {
        return carry_out(&order);
    }
    require_nonzero("--repeats", options.repeats)?;
    let mut rows = Vec::new();
    if !options.clips.is_empty() {
        let clips: Vec<String> = options
            .clips
            .iter()
            .map(|clip| clip.display().to_string())
            .collect();
        let what = format!("{FRAMES} frames of each of {} clips", clips.len());
        rows.push(ours(&what, "frames", options.repeats, &clips)?);
        let mut peer = peer(options, "frames");
        peer.args(["--threads", &threads().to_string()])
            .args(&clips);
        rows.push(measure(&what, "Python", peer)?);
    }
    let folder = tempfile::tempdir().map_err(CliError::failed)?;
    for protocol in ["2", "4"] {
        let file = folder.path().join(format!("features.p{protocol}.pickle"));
        let mut write = Command::new(&options.python);
        write.arg(&options.script).arg("write").arg(&file);
        write.args([
            "--megabytes",
            &MEGABYTES.to_string(),
            "--protocol",
            protocol,
        ]);
        finished(write)?;
        let len = std::fs::metadata(&file).map_err(CliError::failed)?.len();
        let what = format!("pickle, protocol {protocol}, {} MiB", mebibytes(Some(len)));
        rows.push(ours(
            &what,
            "pickle",
            options.repeats,
            &[file.display().to_string()],
        )?);
        let mut peer = peer(options, "pickle");
        peer.arg(&file);
        rows.push(measure(&what, "Python", peer)?);
    }
    if options.json {
        return output::json(&rows);
    }
    output::line(&format!("{} threads", threads()));
    let mut table = TextTable::new(["what", "side", "seconds", "items/s", "peak MiB", "speed"]);
    for pair in rows.chunks(2) {
        for row in pair {
            let speed = pair.last().map_or(f64::NAN, |peer| peer.warm_seconds) / row.warm_seconds;
            table.push([
                row.what.clone(),
                row.side.to_owned(),
                format!("{:.3}", row.warm_seconds),
                format!("{:.0}", row.document.items as f64 / row.warm_seconds),
                mebibytes(row.document.peak_rss_bytes),
                format!("{speed:.2}"),
            ]);
        }
    }
    for line in table.lines() {
        output::line(&line);
    }
    Ok(())
}

fn peer(options: &DataBenchOptions, command: &str) -> Command {
    let mut peer = Command::new(&options.python);
    peer.arg(&options.script).arg(command);
    peer.args(["--repeats", &options.repeats.to_string()]);
    peer
}

fn ours(what: &str, task: &str, repeats: usize, files: &[String]) -> Result<Row, CliError> {
    let mut command = Command::new(std::env::current_exe().map_err(CliError::failed)?);
    let order = format!("{task}\n{repeats}\n{}", files.join("\n"));
    command.args(["bench", "data"]).env(ORDER, order);
    measure(what, "meltr", command)
}

fn measure(what: &str, side: &'static str, command: Command) -> Result<Row, CliError> {
    let text = finished(command)?;
    let document: Document = serde_json::from_str(&text).map_err(CliError::failed)?;
    Ok(Row {
        what: what.to_owned(),
        side,
        warm_seconds: median(&document.seconds),
        document,
    })
}

/// The standard output of a process that ended well.
fn finished(mut command: Command) -> Result<String, CliError> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let ended = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| CliError::Input(format!("`{shown}` cannot be run: {error}")))?;
    if !ended.status.success() {
        let message = String::from_utf8_lossy(&ended.stderr);
        let last = message.lines().last().unwrap_or("");
        return Err(CliError::Failed(format!(
            "`{shown}` ended with {}: {last}",
            ended.status
        )));
    }
    String::from_utf8(ended.stdout).map_err(CliError::failed)
}

fn carry_out(order: &str) -> Result<(), CliError> {
    let mut lines = order.lines();
    let (Some(task), Some(repeats)) = (lines.next(), lines.next()) else {
        return Err(CliError::Input("an order names a task and repeats".into()));
    };
    let repeats: usize = repeats.parse().map_err(CliError::failed)?;
    let files: Vec<PathBuf> = lines.map(PathBuf::from).collect();
    let (mut seconds, mut items) = (Vec::new(), 0);
    for _ in 0..repeats {
        let clock = Instant::now();
        items = match task {
            "frames" => decode(&files)?,
            _ => read(&files)?,
        };
        seconds.push(clock.elapsed().as_secs_f64());
    }
    output::json(&Document {
        seconds,
        items,
        peak_rss_bytes: peak_memory_bytes(),
    })
}

/// Number of frames that were decoded.
fn decode(clips: &[PathBuf]) -> Result<usize, CliError> {
    let jobs: Vec<DecodeJob> = clips
        .iter()
        .map(|path| DecodeJob {
            id: path.display().to_string(),
            path: path.clone(),
            rule: FrameRule::Uniform { frames: FRAMES },
        })
        .collect();
    let parallelism = DecodeParallelism {
        workers: threads(),
        ..DecodeParallelism::default()
    };
    let decoded = decode_many(
        jobs,
        Decoder::Ffmpeg,
        DecodeOptions::default(),
        parallelism,
        |_, frames| Ok(frames.decodable_frames),
    )?;
    let mut n_frames = 0;
    for result in decoded {
        n_frames += result.result?;
    }
    Ok(n_frames)
}

/// Number of arrays that were read and are finite.
fn read(files: &[PathBuf]) -> Result<usize, CliError> {
    let file = files.first().map_or(Path::new(""), PathBuf::as_path);
    Ok(VideoFeatures::open(file, WIDTH)?.len())
}
