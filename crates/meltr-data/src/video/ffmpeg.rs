//! Frames by the programs `ffmpeg` and `ffprobe`.
//!
//! # How a video is decoded
//!
//! Which frames are wanted depends on how many there are, and only decoding tells that. The index
//! of an MP4 or AVI file lists the frames, and its number is nearly always right. One run of
//! `ffmpeg` decodes everything once, converts the frames wanted under that assumption to RGB, and
//! counts all of them in a second output that costs nothing. If `ffmpeg` is content and the count
//! is that of the index, that is all.
//!
//! Otherwise, and for containers whose index is not read here, `ffprobe` lists the packets. Their
//! number without those that yield no frame (discarded by an edit list, or the placeholders that
//! follow packed B-frames) is what a sound file decodes to. If the count of the run is another than
//! the one that its frames were chosen for, a second run takes the right ones.
//!
//! Every frame is decoded from the start, in the order of presentation, without seeking, rotation
//! or a change of the frame rate. Frames come as PPM pictures, each with its size, so that no size
//! in a header has to be trusted.
//!
//! # Several videos in one run
//!
//! The start of `ffmpeg` takes as long as some hundred frames of a small video. Short videos with
//! an index are therefore decoded several at a time in one process, one output file each for the
//! pictures and for the count. Such a run counts only if nothing at all is wrong with it; otherwise
//! each of its videos is decoded alone, as above, so that a fault is told of the right one.

use std::ffi::OsString;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::container::{self, PLACEHOLDER};
use super::ffmpeg_batch::{MAX_VIDEOS, Member};
use super::frame_rule::FrameRule;
use super::program::{Deadline, Ended, Programs, each_line, run};
use super::source::{
    DEMUXERS, DecodeOptions, DecodedFrames, FrameSource, MAX_PIXELS, RgbFrame, VIDEO, VideoInfo,
    distinct, file_url, judge, no_frame, rule_error,
};
use crate::error::DataError;

/// Most ranges of indices that FFmpeg's filter gets; beyond it all frames come and some are
/// dropped here.
const MAX_RANGES: usize = 200;

/// Bytes that are read at once, the usual size of a pipe.
pub(super) const PIPE: usize = 1 << 16;

/// Runs of several videos that may come to nothing before a source decodes each video alone.
const MAX_SPOILED: usize = 3;

/// The programs of FFmpeg as a [`FrameSource`].
#[derive(Clone, Debug)]
pub struct FfmpegFrames {
    programs: Programs,
    options: DecodeOptions,
    passthrough: Passthrough,
    /// Runs of several videos that came to nothing.
    spoiled: usize,
}

/// How the version at hand is told to pass on each frame once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passthrough {
    /// FFmpeg 5.1 and later.
    FpsMode,
    /// Earlier versions.
    Vsync,
}

/// Which frames a run delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keep {
    Nothing,
    All,
    /// Strictly increasing indices.
    These(Vec<usize>),
}

impl Keep {
    /// What has to be kept of a video with so many frames.
    fn of(rule: FrameRule, frames: usize) -> Self {
        match rule {
            FrameRule::All => Self::All,
            // Too few for the rule: whether that is so the first run tells.
            _ => rule
                .indices(frames)
                .map_or(Self::Nothing, |indices| Self::These(distinct(&indices))),
        }
    }
}

impl Passthrough {
    fn arguments(self) -> [&'static str; 2] {
        match self {
            Self::FpsMode => ["-fps_mode", "passthrough"],
            Self::Vsync => ["-vsync", "0"],
        }
    }
}

impl FfmpegFrames {
    /// Looks for the programs.
    ///
    /// # Errors
    ///
    /// Returns an error if one of them is not installed; it says how to install it.
    pub fn open(options: DecodeOptions) -> Result<Self, DataError> {
        Ok(Self {
            programs: Programs::find()?,
            options,
            passthrough: Passthrough::FpsMode,
            spoiled: 0,
        })
    }

    /// What `ffprobe` says about a file.
    fn probe_file(&self, path: &Path, deadline: Deadline) -> Result<VideoInfo, DataError> {
        let mut arguments: Vec<OsString> = strings(&["-hide_banner", "-loglevel", "level+error"]);
        arguments.extend(self.input_limits());
        arguments.extend(strings(&[
            "-select_streams",
            "v:0",
            "-show_entries",
            "packet=size,flags:stream=codec_name,width,height,avg_frame_rate,duration,nb_frames:\
             format=format_name,duration",
            "-of",
            "compact=p=1:nk=0",
            "-i",
        ]));
        arguments.push(file_url(path));
        let ended = run(
            path,
            &self.programs.ffprobe,
            &arguments,
            deadline,
            |mut stdout| {
                let mut report = Report::default();
                each_line(&mut stdout, |line| report.line(line));
                Ok(report)
            },
        )?;
        if let Some(failure) = &ended.failure {
            let mut reason = format!(
                "not a video that FFmpeg can open: it begins with `{}`",
                container::first_bytes(path)
            );
            let messages = ended.log.messages();
            for message in messages.iter().chain([failure]) {
                reason.push_str("; ");
                reason.push_str(message);
            }
            return Err(DataError::format(path, VIDEO, None::<u64>, reason));
        }
        ended
            .output
            .info()
            .ok_or_else(|| DataError::format(path, VIDEO, None::<u64>, "no video stream in it"))
    }

    /// Decodes the whole file once.
    fn pass(
        &mut self,
        path: &Path,
        keep: &Keep,
        deadline: Deadline,
    ) -> Result<Ended<Vec<RgbFrame>>, DataError> {
        let ended = self.pass_once(path, keep, deadline)?;
        if ended.log.lacks_fps_mode && self.passthrough == Passthrough::FpsMode {
            self.passthrough = Passthrough::Vsync;
            return self.pass_once(path, keep, deadline);
        }
        Ok(ended)
    }

    fn pass_once(
        &self,
        path: &Path,
        keep: &Keep,
        deadline: Deadline,
    ) -> Result<Ended<Vec<RgbFrame>>, DataError> {
        let passthrough = self.passthrough.arguments();
        let mut arguments = quiet();
        arguments.extend(strings(&["-progress", "pipe:2"]));
        arguments.extend(self.input(path, self.options.threads));
        // The first output gets every frame: its progress is the number of decodable frames.
        arguments.extend(strings(&["-map", "0:v:0"]));
        arguments.extend(strings(&passthrough));
        arguments.extend(strings(&["-f", "null", "-"]));
        let mut wanted: Option<Vec<usize>> = None;
        if *keep != Keep::Nothing {
            arguments.extend(strings(&["-map", "0:v:0"]));
            if let Keep::These(indices) = keep {
                match select(indices) {
                    Some(filter) => {
                        arguments.push("-vf".into());
                        arguments.push(filter.into());
                    }
                    None => wanted = Some(indices.clone()),
                }
            }
            arguments.extend(strings(&passthrough));
            arguments.extend(strings(&PICTURES));
            arguments.push("pipe:1".into());
        }
        let max_bytes = self.options.max_bytes;
        run(
            path,
            &self.programs.ffmpeg,
            &arguments,
            deadline,
            move |stdout| {
                let mut reader = BufReader::with_capacity(PIPE, stdout);
                read_pictures(&mut reader, wanted.as_deref(), max_bytes)
            },
        )
    }

    /// One input with the options before it.
    fn input(&self, path: &Path, threads: usize) -> Vec<OsString> {
        let mut arguments = strings(&["-noautorotate", "-threads"]);
        arguments.push(threads.to_string().into());
        arguments.extend(self.input_limits());
        arguments.push("-max_pixels".into());
        arguments.push(MAX_PIXELS.to_string().into());
        arguments.push("-i".into());
        arguments.push(file_url(path));
        arguments
    }

    /// Options before the input: no network, no playlists.
    fn input_limits(&self) -> Vec<OsString> {
        strings(&["-protocol_whitelist", "file", "-format_whitelist", DEMUXERS])
    }

    /// The frames of a rule, out of those that a run kept, or else by a second run.
    fn chosen(
        &mut self,
        path: &Path,
        rule: FrameRule,
        decodable: usize,
        (keep, frames): (Keep, Vec<RgbFrame>),
        deadline: Deadline,
    ) -> Result<DecodedFrames, DataError> {
        let indices = rule
            .indices(decodable)
            .map_err(|kind| rule_error(path, kind))?;
        let kept = distinct(&indices);
        let sound = match &keep {
            Keep::All => true,
            Keep::These(chosen) => *chosen == kept,
            Keep::Nothing => false,
        };
        let frames = if sound {
            frames
        } else {
            let again = self.pass(path, &Keep::These(kept.clone()), deadline)?;
            again.output
        };
        let (count, delivered) = (kept.len(), frames.len());
        DecodedFrames::pick(decodable, indices, &kept, frames).ok_or_else(|| {
            DataError::format(
                path,
                VIDEO,
                None::<u64>,
                format!("FFmpeg delivered {delivered} of the {count} frames chosen"),
            )
        })
    }

    /// How many videos one run is worth.
    pub(super) fn batch_size(&self) -> usize {
        // Several threads for a video are asked for when there is one at a time.
        if self.options.threads == 1 && self.spoiled < MAX_SPOILED {
            MAX_VIDEOS
        } else {
            1
        }
    }

    /// The frames of those videos that one run decodes without any fault; `None` for the others,
    /// about which nothing is known yet.
    pub(super) fn try_batch(
        &mut self,
        wanted: &[(&Path, FrameRule)],
    ) -> Vec<Option<DecodedFrames>> {
        let mut decoded: Vec<Option<DecodedFrames>> = Vec::new();
        decoded.resize_with(wanted.len(), || None);
        let (places, members): (Vec<usize>, Vec<Member<'_>>) = wanted
            .iter()
            .enumerate()
            .filter_map(|(place, (path, rule))| Some((place, Member::of(path, *rule)?)))
            .unzip();
        if members.len() < 2 {
            return decoded;
        }
        match self.batch_pass(&members) {
            Some(found) => {
                for (place, frames) in places.into_iter().zip(found) {
                    decoded[place] = frames;
                }
            }
            None => self.spoiled += 1,
        }
        decoded
    }

    /// Decodes several videos in one run; `None` if anything is wrong.
    fn batch_pass(&self, members: &[Member<'_>]) -> Option<Vec<Option<DecodedFrames>>> {
        let first = members.first()?;
        let folder = tempfile::tempdir().ok()?;
        let mut arguments = quiet();
        for member in members {
            arguments.extend(self.input(member.path(), 1));
        }
        let passthrough = self.passthrough.arguments();
        for (number, member) in members.iter().enumerate() {
            arguments.extend(member.outputs(number, &passthrough, folder.path()));
        }
        let deadline = Deadline::after(self.options.timeout);
        let ended = run(
            first.path(),
            &self.programs.ffmpeg,
            &arguments,
            deadline,
            |mut stdout| io::copy(&mut stdout, &mut io::sink()).map_err(|error| error.to_string()),
        );
        if !ended.is_ok_and(|ended| ended.is_sound()) {
            return None;
        }
        let frames = members
            .iter()
            .enumerate()
            .map(|(number, member)| member.frames(number, folder.path(), self.options.max_bytes))
            .collect();
        Some(frames)
    }
}

impl FrameSource for FfmpegFrames {
    fn probe(&mut self, path: &Path) -> Result<VideoInfo, DataError> {
        container::faults(path)?;
        self.probe_file(path, Deadline::after(self.options.timeout))
    }

    fn frames(&mut self, path: &Path, rule: FrameRule) -> Result<DecodedFrames, DataError> {
        let deadline = Deadline::after(self.options.timeout);
        let mut damage = container::faults(path)?;
        let indexed = if damage.is_empty() {
            container::indexed_frames(path)
        } else {
            None
        };
        let mut first: Option<(Keep, Ended<Vec<RgbFrame>>)> = None;
        if let Some(expected) = indexed {
            let keep = Keep::of(rule, expected);
            let ended = self.pass(path, &keep, deadline)?;
            if ended.is_sound() && ended.log.frames == Some(expected) {
                return self.chosen(path, rule, expected, (keep, ended.output), deadline);
            }
            first = Some((keep, ended));
        }
        let info = self.probe_file(path, deadline)?;
        let (keep, ended) = match first {
            Some(first) => first,
            None => {
                let keep = Keep::of(rule, info.frames_expected);
                let ended = self.pass(path, &keep, deadline)?;
                (keep, ended)
            }
        };
        damage.extend(ended.log.messages());
        damage.extend(ended.failure);
        let decodable = ended.log.frames.unwrap_or(0);
        let announced = info.frames_announced.unwrap_or(0);
        // The header of an AVI file counts the placeholder after packed B-frames. Other containers
        // announce more than there is to see where an edit list cuts it.
        if info.container == "avi" && announced > decodable.saturating_add(1) {
            damage.push(format!("the header announces {announced} frames"));
        }
        let mut expected = info.frames_expected;
        if !damage.is_empty() {
            expected = expected.max(announced);
        }
        if decodable == 0 {
            return Err(no_frame(path, expected, &damage));
        }
        let warnings = judge(path, self.options.damage, decodable, expected, damage)?;
        let mut decoded = self.chosen(path, rule, decodable, (keep, ended.output), deadline)?;
        decoded.warnings = warnings;
        Ok(decoded)
    }
}

/// The options of one output of pictures.
pub(super) const PICTURES: [&str; 8] = [
    "-threads",
    "1",
    "-c:v",
    "ppm",
    "-pix_fmt",
    "rgb24",
    "-f",
    "image2pipe",
];

/// What every run begins with: no questions, and messages with their level.
fn quiet() -> Vec<OsString> {
    strings(&[
        "-nostdin",
        "-hide_banner",
        "-nostats",
        "-loglevel",
        "level+warning",
        "-filter_threads",
        "1",
    ])
}

pub(super) fn strings(arguments: &[&str]) -> Vec<OsString> {
    arguments.iter().map(OsString::from).collect()
}

/// FFmpeg's filter that passes on the frames of strictly increasing indices; `None` if that would
/// be too long.
pub(super) fn select(indices: &[usize]) -> Option<String> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &index in indices {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => ranges.push((index, index)),
        }
    }
    if ranges.len() > MAX_RANGES {
        return None;
    }
    let terms: Vec<String> = ranges
        .iter()
        .map(|(first, last)| {
            if first == last {
                format!("eq(n\\,{first})")
            } else {
                format!("between(n\\,{first}\\,{last})")
            }
        })
        .collect();
    Some(format!("select={}", terms.join("+")))
}

/// What `ffprobe` reports, line by line, e.g. `stream|codec_name=h264|width=320`.
#[derive(Debug, Default)]
struct Report {
    /// Packets that are not discarded.
    packets: usize,
    /// Those of them that are no larger than a placeholder.
    placeholders: usize,
    has_stream: bool,
    codec: String,
    width: u32,
    height: u32,
    frame_rate: Option<f64>,
    stream_duration: Option<f64>,
    announced: Option<usize>,
    container: String,
    container_duration: Option<f64>,
}

impl Report {
    fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let (section, fields) = text.split_once('|').unwrap_or((&*text, ""));
        let fields = fields.split('|').filter_map(|field| field.split_once('='));
        match section {
            "packet" => {
                let mut discarded = false;
                let mut size = u64::MAX;
                for (name, value) in fields {
                    match name {
                        "size" => size = value.parse().unwrap_or(u64::MAX),
                        "flags" => discarded = value.contains('D'),
                        _ => {}
                    }
                }
                if !discarded {
                    self.packets += 1;
                    self.placeholders += usize::from(size <= PLACEHOLDER);
                }
            }
            // Programs of a transport stream repeat their streams.
            "stream" if !self.has_stream => {
                self.has_stream = true;
                for (name, value) in fields {
                    match name {
                        "codec_name" => self.codec = value.to_owned(),
                        "width" => self.width = value.parse().unwrap_or(0),
                        "height" => self.height = value.parse().unwrap_or(0),
                        "avg_frame_rate" => self.frame_rate = ratio(value),
                        "duration" => self.stream_duration = value.parse().ok(),
                        "nb_frames" => self.announced = value.parse().ok(),
                        _ => {}
                    }
                }
            }
            "format" => {
                for (name, value) in fields {
                    match name {
                        "format_name" => self.container = value.to_owned(),
                        "duration" => self.container_duration = value.parse().ok(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn info(self) -> Option<VideoInfo> {
        if !self.has_stream {
            return None;
        }
        let silent = if self.codec == "mpeg4" {
            self.placeholders
        } else {
            0
        };
        Some(VideoInfo {
            container: self.container,
            codec: self.codec,
            width: self.width,
            height: self.height,
            frames_announced: self.announced,
            frames_expected: self.packets - silent,
            frame_rate: self.frame_rate,
            duration: self.stream_duration.or(self.container_duration),
        })
    }
}

/// `30000/1001` as a number; `None` for `0/0`.
fn ratio(text: &str) -> Option<f64> {
    let (above, below) = text.split_once('/')?;
    let (above, below): (f64, f64) = (above.parse().ok()?, below.parse().ok()?);
    (above > 0.0 && below > 0.0).then(|| above / below)
}

/// Reads PPM pictures to the end of a stream and keeps those at the positions `wanted`, or all.
pub(super) fn read_pictures(
    reader: &mut impl Read,
    wanted: Option<&[usize]>,
    max_bytes: u64,
) -> Result<Vec<RgbFrame>, String> {
    let mut frames: Vec<RgbFrame> = Vec::new();
    let mut kept_bytes: u64 = 0;
    let mut position: usize = 0;
    while let Some((width, height)) = read_header(reader)? {
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 || pixels > MAX_PIXELS {
            return Err(format!("a frame has the size {width} x {height}"));
        }
        let len = 3 * pixels;
        let keep = wanted.is_none_or(|wanted| wanted.binary_search(&position).is_ok());
        position += 1;
        if !keep {
            let copied = io::copy(&mut reader.by_ref().take(len), &mut io::sink());
            if copied.map_err(|error| error.to_string())? != len {
                return Err("FFmpeg's output ends inside a frame".to_owned());
            }
            continue;
        }
        kept_bytes += len;
        if kept_bytes > max_bytes {
            return Err(format!(
                "the chosen frames need more than {max_bytes} bytes; choose fewer, or raise \
                 `DecodeOptions::max_bytes`"
            ));
        }
        let mut data: Vec<u8> = Vec::with_capacity(len as usize);
        reader
            .by_ref()
            .take(len)
            .read_to_end(&mut data)
            .map_err(|error| error.to_string())?;
        let frame = RgbFrame::new(width, height, data)
            .ok_or_else(|| "FFmpeg's output ends inside a frame".to_owned())?;
        frames.push(frame);
    }
    Ok(frames)
}

/// Reads `P6`, width, height and 255, each followed by one white space; `None` at the end.
fn read_header(reader: &mut impl Read) -> Result<Option<(u32, u32)>, String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut any = false;
    while words.len() < 4 {
        let mut byte = [0_u8; 1];
        let count = loop {
            match reader.read(&mut byte) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        };
        if count == 0 {
            if any {
                return Err("FFmpeg's output ends inside the header of a frame".to_owned());
            }
            return Ok(None);
        }
        any = true;
        if byte[0].is_ascii_whitespace() {
            words.push(std::mem::take(&mut word));
        } else {
            word.push(char::from(byte[0]));
        }
        if word.len() > 10 {
            break;
        }
    }
    if let [magic, width, height, depth] = words.as_slice()
        && magic == "P6"
        && depth == "255"
        && let (Ok(width), Ok(height)) = (width.parse(), height.parse())
    {
        return Ok(Some((width, height)));
    }
    Err("FFmpeg's output is not a PPM picture".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_become_a_short_filter() {
        assert_eq!(
            select(&[3, 5, 6, 7, 9]).unwrap(),
            "select=eq(n\\,3)+between(n\\,5\\,7)+eq(n\\,9)"
        );
        let every_other: Vec<usize> = (0..1000).map(|i| 2 * i).collect();
        assert_eq!(select(&every_other), None);
        let all: Vec<usize> = (0..100_000).collect();
        assert_eq!(select(&all).unwrap(), "select=between(n\\,0\\,99999)");
    }

    #[test]
    fn packets_without_a_frame_are_not_expected_to_have_one() {
        let mut report = Report::default();
        for line in [
            "packet|size=6583|flags=K_|side_data|",
            "",
            "packet|size=7000|flags=KD",
            "packet|size=900|flags=__",
            "packet|size=1|flags=__",
            "stream|codec_name=mpeg4|width=432|height=240|avg_frame_rate=30/1|duration=N/A|\
             nb_frames=49",
            "format|format_name=avi|duration=1.633333",
        ] {
            report.line(line.as_bytes());
        }
        let info = report.info().unwrap();
        assert_eq!(info.frames_expected, 2);
        assert_eq!(info.frames_announced, Some(49));
        assert_eq!((info.width, info.height), (432, 240));
        assert_eq!(info.frame_rate, Some(30.0));
        assert_eq!(info.duration, Some(1.633333));
        assert_eq!(Report::default().info(), None);
    }

    #[test]
    fn pictures_are_read_with_their_size() {
        let mut bytes = b"P6\n2 1\n255\nabcdef".to_vec();
        bytes.extend_from_slice(b"P6\n1 1\n255\nghi");
        let frames = read_pictures(&mut bytes.as_slice(), None, 9).unwrap();
        assert_eq!(frames[0].data(), b"abcdef");
        assert_eq!((frames[0].width(), frames[0].height()), (2, 1));
        assert_eq!(frames[1].data(), b"ghi");
        let frames = read_pictures(&mut bytes.as_slice(), Some(&[1]), 3).unwrap();
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].data(), b"ghi");
        let message = read_pictures(&mut bytes.as_slice(), None, 8).unwrap_err();
        assert!(message.contains("more than 8 bytes"), "{message}");
    }

    #[test]
    fn output_that_is_cut_or_is_no_picture_is_refused() {
        for (bytes, reason) in [
            (b"P6\n2 1\n255\nabc".as_slice(), "inside a frame"),
            (b"P6\n2".as_slice(), "inside the header"),
            (b"P5\n2 1\n255\nab".as_slice(), "not a PPM"),
            (b"P6\n99999999999999 1\n255\n".as_slice(), "not a PPM"),
            (b"P6\n4000000000 4000000000\n255\n".as_slice(), "4000000000"),
            (b"P6\n0 1\n255\n".as_slice(), "size 0 x 1"),
        ] {
            let mut reader = bytes;
            let message = read_pictures(&mut reader, None, 100).unwrap_err();
            assert!(message.contains(reason), "{message}");
        }
    }
}
