//! `meltr data frames`, and which frames of a clip a rule takes.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use meltr_data::{
    DataError, DecodeOptions, DecodedFrames, FrameRule as DecoderRule, FrameSource, MediaFrames,
    RgbFrame,
};
use serde_json::{Value, json};

use super::arguments::{FramesArguments, PictureFormat, Placement, RuleArguments};
use super::must_not_exist;
use crate::error::CliError;
use crate::output;

/// Frames of one clip at most.
const MAX_FRAMES: usize = 10_000;

/// Quality of JPEG files, of 100.
const JPEG_QUALITY: u8 = 95;

/// Which frames of a clip are taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum FrameRule {
    /// In the middles of equal parts.
    Middle { count: usize },
    /// As VIOLET places them.
    Violet { count: usize },
    /// So many a second, from the first on.
    PerSecond { fps: f64 },
}

impl FrameRule {
    pub(super) fn new(arguments: &RuleArguments) -> Result<Self, CliError> {
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

    /// Frames of a clip, unless that depends on the clip.
    pub(super) fn count(self) -> Option<usize> {
        match self {
            Self::Middle { count } | Self::Violet { count } => Some(count),
            Self::PerSecond { .. } => None,
        }
    }

    /// The same rule of the decoder, which knows no seconds.
    fn placed(self) -> Option<DecoderRule> {
        match self {
            Self::Middle { count } => Some(DecoderRule::Uniform { frames: count }),
            Self::Violet { count } => Some(DecoderRule::Violet { frames: count }),
            Self::PerSecond { .. } => None,
        }
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

/// The frames that are taken of one video: by a rule, between two times in seconds if they are
/// given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cut {
    pub(super) rule: FrameRule,
    pub(super) start: Option<f64>,
    pub(super) end: Option<f64>,
}

impl Cut {
    /// What the decoder has to deliver: with times, or so many frames a second, the whole video,
    /// since which frames those are is known only when all have been counted.
    pub(super) fn decoder_rule(&self) -> DecoderRule {
        match self.rule.placed() {
            Some(placed) if self.start.is_none() && self.end.is_none() => placed,
            _ => DecoderRule::All,
        }
    }

    /// The frames, out of those that [`decoder_rule`](Self::decoder_rule) gave; `rate` tells how
    /// many frames a second the video has, and is asked only if that matters.
    pub(super) fn take(
        &self,
        video: &Path,
        mut decoded: DecodedFrames,
        rate: impl FnOnce() -> Result<Option<f64>, DataError>,
    ) -> Result<DecodedFrames, String> {
        if self.decoder_rule() != DecoderRule::All {
            return Ok(decoded);
        }
        let rate = rate().map_err(|error| error.to_string())?.unwrap_or(0.0);
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(format!(
                "`{}` does not say how many frames a second it has; choose frames by --count and \
                 without times",
                video.display()
            ));
        }
        let n_frames = decoded.decodable_frames;
        let at = |seconds: f64| ((seconds * rate).max(0.0) as usize).min(n_frames);
        let (first, last) = (self.start.map_or(0, at), self.end.map_or(n_frames, at));
        if first >= last {
            return Err(format!(
                "`{}` has {n_frames} frames, {rate} a second; none is between second {} and {}",
                video.display(),
                self.start.unwrap_or(0.0),
                self.end
                    .map_or_else(|| "the end".to_owned(), |end| end.to_string()),
            ));
        }
        let wanted: Vec<usize> = match (self.rule.placed(), self.rule) {
            (Some(placed), _) => placed
                .indices(last - first)
                .map_err(|kind| format!("`{}`: {kind}", video.display()))?
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
        Ok(decoded)
    }
}

pub(super) fn run(arguments: &FramesArguments) -> Result<(), CliError> {
    let cut = Cut {
        rule: FrameRule::new(&arguments.rule)?,
        start: None,
        end: None,
    };
    let decoder = arguments.decoder.decoder()?;
    let stems = stems(&arguments.videos)?;
    // One video at a time, on all processors.
    let options = DecodeOptions {
        threads: 0,
        ..DecodeOptions::default()
    };
    let mut source = MediaFrames::open(decoder, options)?;
    fs::create_dir_all(&arguments.out).map_err(|error| {
        CliError::Failed(format!(
            "cannot make the folder `{}`: {error}; check the permissions",
            arguments.out.display()
        ))
    })?;
    let ending = match arguments.format {
        PictureFormat::Png => "png",
        PictureFormat::Jpeg => "jpg",
    };
    let mut written: Vec<Value> = Vec::new();
    for (video, stem) in arguments.videos.iter().zip(&stems) {
        let decoded = source.frames(video, cut.decoder_rule())?;
        let taken = cut
            .take(video, decoded, || Ok(source.probe(video)?.frame_rate))
            .map_err(CliError::Input)?;
        // A short clip may give the same frame twice; it is written once.
        let mut done: BTreeSet<usize> = BTreeSet::new();
        for (&index, frame) in taken.indices.iter().zip(&taken.frames) {
            if !done.insert(index) {
                continue;
            }
            let name = format!("{stem}-{index:06}.{ending}");
            let file = arguments.out.join(name);
            write_picture(&file, frame, arguments.format)?;
            let shown = file.display().to_string();
            if arguments.json {
                written.push(json!({
                    "video": video.display().to_string(),
                    "frame": index,
                    "width": frame.width(),
                    "height": frame.height(),
                    "file": shown,
                }));
            } else {
                output::line(&shown);
            }
        }
    }
    if arguments.json {
        return output::json(&json!({ "rule": cut.rule.to_string(), "frames": written }));
    }
    Ok(())
}

/// What the names of the images begin with; has to differ between the videos.
fn stems(videos: &[PathBuf]) -> Result<Vec<String>, CliError> {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut stems = Vec::new();
    for video in videos {
        let stem = video.file_stem().and_then(|stem| stem.to_str());
        let Some(stem) = stem else {
            return Err(CliError::Input(format!(
                "`{}` has no name that an image could be called by",
                video.display()
            )));
        };
        if !seen.insert(stem.to_owned()) {
            return Err(CliError::Input(format!(
                "two videos are called `{stem}`; write them into different folders"
            )));
        }
        stems.push(stem.to_owned());
    }
    Ok(stems)
}

/// Writes an image at once: its name appears when it is whole.
fn write_picture(file: &Path, frame: &RgbFrame, format: PictureFormat) -> Result<(), CliError> {
    must_not_exist(file)?;
    let failed = |error: &dyn std::fmt::Display| {
        CliError::Failed(format!(
            "cannot write `{}`: {error}; check the permissions and the free space",
            file.display()
        ))
    };
    let mut bytes: Vec<u8> = Vec::new();
    let color = ExtendedColorType::Rgb8;
    let (pixels, width, height) = (frame.data(), frame.width(), frame.height());
    let encoded = match format {
        PictureFormat::Png => PngEncoder::new(&mut bytes).write_image(pixels, width, height, color),
        PictureFormat::Jpeg => JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
            .write_image(pixels, width, height, color),
    };
    encoded.map_err(|error| failed(&error))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The default of a temporary file, 0600, would hide the result from others.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut temporary = builder
        .tempfile_in(folder)
        .map_err(|error| failed(&error))?;
    temporary
        .write_all(&bytes)
        .map_err(|error| failed(&error))?;
    temporary
        .persist_noclobber(file)
        .map_err(|error| failed(&error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten frames of one pixel, whose red is their number.
    fn decoded() -> DecodedFrames {
        let frames = (0..10).map(|red| RgbFrame::new(1, 1, vec![red, 0, 0]).unwrap());
        DecodedFrames {
            decodable_frames: 10,
            indices: (0..10).collect(),
            frames: frames.collect(),
            warnings: vec![],
        }
    }

    fn taken(cut: Cut, rate: Option<f64>) -> Result<Vec<usize>, String> {
        let taken = cut.take(Path::new("a.mp4"), decoded(), || Ok(rate))?;
        assert_eq!(taken.indices.len(), taken.frames.len());
        for (index, frame) in taken.indices.iter().zip(&taken.frames) {
            assert_eq!(*index, usize::from(frame.data()[0]));
        }
        Ok(taken.indices)
    }

    #[test]
    fn frames_of_a_second_and_between_two_times_are_chosen_by_the_rate() {
        let mut cut = Cut {
            rule: FrameRule::PerSecond { fps: 2.0 },
            start: None,
            end: None,
        };
        assert_eq!(cut.decoder_rule(), DecoderRule::All);
        assert_eq!(taken(cut, Some(5.0)).unwrap(), [0, 2, 5, 7]);
        cut.start = Some(1.0);
        assert_eq!(taken(cut, Some(5.0)).unwrap(), [5, 7]);
        cut.rule = FrameRule::Middle { count: 2 };
        cut.end = Some(1.8);
        assert_eq!(cut.decoder_rule(), DecoderRule::All);
        assert_eq!(taken(cut, Some(5.0)).unwrap(), [6, 8]);
        cut.end = Some(1.0);
        let message = taken(cut, Some(5.0)).unwrap_err();
        assert!(
            message.contains("none is between second 1 and 1"),
            "{message}"
        );
        let message = taken(cut, None).unwrap_err();
        assert!(message.contains("--count"), "{message}");
    }

    #[test]
    fn a_number_of_frames_of_a_whole_video_is_left_to_the_decoder() {
        let cut = Cut {
            rule: FrameRule::Violet { count: 3 },
            start: None,
            end: None,
        };
        assert_eq!(cut.decoder_rule(), DecoderRule::Violet { frames: 3 });
        assert_eq!(taken(cut, None).unwrap(), (0..10).collect::<Vec<usize>>());
    }

    #[cfg(unix)]
    #[test]
    fn a_picture_has_the_permissions_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let (plain, picture) = (folder.path().join("plain"), folder.path().join("a.png"));
        fs::write(&plain, "").unwrap();
        let frame = RgbFrame::new(1, 1, vec![9; 3]).unwrap();
        write_picture(&picture, &frame, PictureFormat::Png).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&picture), mode(&plain));
    }
}
