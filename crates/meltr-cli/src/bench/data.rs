//! `meltr bench data`: frames of videos and features of pickles, beside Python, each side in a
//! process of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use meltr_data::{
    DecodeJob, DecodeOptions, DecodeParallelism, FrameRule, VideoFeatures, decode_many,
};
use meltr_train::peak_memory_bytes;
use serde::{Deserialize, Serialize};

use super::statistics::median;
use super::text_table::TextTable;
use super::{mebibytes, require_nonzero, threads};
use crate::cli::DataBenchOptions;
use crate::data::arguments::DecoderName;
use crate::error::CliError;
use crate::output;

/// What a process that carries out one side alone is to do: `pickle` or the name of a decoder, the
/// repeats and the files, separated by newlines.
const ORDER: &str = "MELTR_BENCH_DATA_ORDER";

/// The task that is no decoder.
const PICKLE: &str = "pickle";

/// Frames that are kept of each clip.
const FRAMES: usize = 8;

/// Clips that may be decoded and not yet counted, for each thread.
const AHEAD: usize = 32;

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
    /// The time of Python over that of this side.
    speed: f64,
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
        let mut sides = Vec::new();
        for decoder in decoders(options)? {
            let side = match decoder {
                DecoderName::Ffmpeg => "meltr, ffmpeg",
                DecoderName::Libav => "meltr, libav",
            };
            sides.push(ours(&what, side, decoder.name(), options.repeats, &clips)?);
        }
        let mut peer = peer(options, "frames");
        peer.args(["--threads", &threads().to_string()])
            .args(&clips);
        sides.push(measure(&what, "Python", peer)?);
        rows.extend(compared(sides));
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
        let files = [file.display().to_string()];
        let mut peer = peer(options, PICKLE);
        peer.arg(&file);
        rows.extend(compared(vec![
            ours(&what, "meltr", PICKLE, options.repeats, &files)?,
            measure(&what, "Python", peer)?,
        ]));
    }
    if options.json {
        return output::json(&rows);
    }
    output::line(&format!("{} threads", threads()));
    let mut table = TextTable::new(["what", "side", "seconds", "items/s", "peak MiB", "speed"]);
    for row in &rows {
        table.push([
            row.what.clone(),
            row.side.to_owned(),
            format!("{:.3}", row.warm_seconds),
            format!("{:.0}", row.document.items as f64 / row.warm_seconds),
            mebibytes(row.document.peak_rss_bytes),
            format!("{:.2}", row.speed),
        ]);
    }
    for line in table.lines() {
        output::line(&line);
    }
    Ok(())
}

/// The decoders of our side: those that were asked for, or all that this binary has.
fn decoders(options: &DataBenchOptions) -> Result<Vec<DecoderName>, CliError> {
    for decoder in &options.decoders {
        decoder.decoder()?;
    }
    if options.decoders.is_empty() {
        return Ok(DecoderName::ALL
            .into_iter()
            .filter(|decoder| decoder.is_built_in())
            .collect());
    }
    Ok(options.decoders.clone())
}

/// The sides of one task with their speeds; the last one is Python.
fn compared(mut sides: Vec<Row>) -> Vec<Row> {
    let Some((seconds, items)) = sides
        .last()
        .map(|peer| (peer.warm_seconds, peer.document.items))
    else {
        return sides;
    };
    for row in &mut sides {
        row.speed = seconds / row.warm_seconds;
        if row.document.items != items {
            output::note(&format!(
                "{}: {} read {} items and Python {items}, so their times do not compare",
                row.what, row.side, row.document.items
            ));
        }
    }
    sides
}

fn peer(options: &DataBenchOptions, command: &str) -> Command {
    let mut peer = Command::new(&options.python);
    peer.arg(&options.script).arg(command);
    peer.args(["--repeats", &options.repeats.to_string()]);
    peer
}

fn ours(
    what: &str,
    side: &'static str,
    task: &str,
    repeats: usize,
    files: &[String],
) -> Result<Row, CliError> {
    let mut command = Command::new(std::env::current_exe().map_err(CliError::failed)?);
    let order = format!("{task}\n{repeats}\n{}", files.join("\n"));
    command.args(["bench", "data"]).env(ORDER, order);
    measure(what, side, command)
}

fn measure(what: &str, side: &'static str, command: Command) -> Result<Row, CliError> {
    let text = finished(command)?;
    let document: Document = serde_json::from_str(&text).map_err(CliError::failed)?;
    Ok(Row {
        what: what.to_owned(),
        side,
        warm_seconds: median(&document.seconds),
        speed: 1.0,
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
    let decoder = DecoderName::ALL
        .into_iter()
        .find(|decoder| decoder.name() == task);
    let files: Vec<PathBuf> = lines.map(PathBuf::from).collect();
    let (mut seconds, mut items) = (Vec::new(), 0);
    for _ in 0..repeats {
        let clock = Instant::now();
        items = match decoder {
            Some(decoder) => decode(&files, decoder)?,
            None => read(&files)?,
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
fn decode(clips: &[PathBuf], decoder: DecoderName) -> Result<usize, CliError> {
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
        prefetch: AHEAD * threads(),
    };
    let decoded = decode_many(
        jobs,
        decoder.decoder()?,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(side: &'static str, warm_seconds: f64) -> Row {
        Row {
            what: "clips".to_owned(),
            side,
            warm_seconds,
            speed: 1.0,
            document: Document {
                seconds: vec![warm_seconds],
                items: 7,
                peak_rss_bytes: None,
            },
        }
    }

    #[test]
    fn the_speed_of_each_side_is_relative_to_the_last() {
        let sides = compared(vec![row("a", 2.0), row("b", 0.5), row("Python", 1.0)]);
        let speeds: Vec<f64> = sides.iter().map(|row| row.speed).collect();
        assert_eq!(speeds, [0.5, 2.0, 1.0]);
        assert!(compared(vec![]).is_empty());
    }
}
