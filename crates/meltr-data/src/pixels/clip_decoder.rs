//! Frames of video files, decoded when a sample asks for them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::set::FrameChoice;
use crate::error::{ConfigError, DataError, DataErrorKind};
use crate::video::{
    DamagePolicy, DecodeOptions, Decoder, FrameRule, FrameSource, MediaFrames, RgbFrame,
};
use crate::video_text_set::Draw;

/// How a set of video files gets its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameDecoding {
    /// Frames of a sample `T`; at least 1.
    pub n_frames: usize,
    /// Which ones.
    pub choice: FrameChoice,
    /// Who decodes.
    pub decoder: Decoder,
    /// Limits of the decoder. A damaged video is always an error, whatever they say.
    pub options: DecodeOptions,
    /// Bytes of decoded frames that are kept for later samples at most; 0 keeps none.
    ///
    /// Frames are kept in the order in which they are first asked for, and only those that no seed
    /// chooses: All-in-one's for training are decoded again each time.
    pub cache_bytes: u64,
}

impl FrameDecoding {
    /// `n_frames` frames through the programs of FFmpeg, with their usual limits, none kept.
    #[must_use]
    pub fn new(n_frames: usize, choice: FrameChoice) -> Self {
        Self {
            n_frames,
            choice,
            decoder: Decoder::Ffmpeg,
            options: DecodeOptions::default(),
            cache_bytes: 0,
        }
    }
}

/// A part of a video, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    start: f64,
    end: f64,
}

impl Span {
    /// The whole video.
    pub(super) const WHOLE: Self = Self {
        start: 0.0,
        end: f64::INFINITY,
    };

    /// From `start` to `end`; from the first or to the last frame where one is absent.
    pub(super) fn new(start: Option<f64>, end: Option<f64>) -> Self {
        Self {
            start: start.unwrap_or(Self::WHOLE.start),
            end: end.unwrap_or(Self::WHOLE.end),
        }
    }
}

/// The frames of video files, several threads at a time.
///
/// Holds one decoder for every thread that has decoded at the same time as others, and the frames
/// of the cache; nothing else outlives a call.
#[derive(Debug)]
pub(super) struct ClipDecoder {
    decoding: FrameDecoding,
    idle: Mutex<Vec<MediaFrames>>,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    bytes: u64,
    /// By file, and by start and end as bits.
    clips: HashMap<(PathBuf, u64, u64), Vec<RgbFrame>>,
}

impl ClipDecoder {
    /// Prepares the decoder; `label` is the set in errors about the settings.
    pub(super) fn open(label: &Path, decoding: FrameDecoding) -> Result<Self, DataError> {
        check_n_frames(label, decoding.n_frames)?;
        let options = DecodeOptions {
            damage: DamagePolicy::Refuse,
            ..decoding.options
        };
        let decoding = FrameDecoding {
            options,
            ..decoding
        };
        // A decoder that is not installed is told before the first sample.
        let first = MediaFrames::open(decoding.decoder, decoding.options)?;
        Ok(Self {
            decoding,
            idle: Mutex::new(vec![first]),
            cache: Mutex::default(),
        })
    }

    /// The chosen frames of a part of a video, exactly as many as the settings say.
    pub(super) fn frames(
        &self,
        path: &Path,
        span: Span,
        draw: Draw,
    ) -> Result<Vec<RgbFrame>, DataError> {
        let rule = self.decoding.choice.rule(self.decoding.n_frames, draw);
        let is_fixed = !matches!(rule, FrameRule::RandomInSegment { .. });
        let key = (path.to_path_buf(), span.start.to_bits(), span.end.to_bits());
        if is_fixed && let Some(frames) = lock(&self.cache).clips.get(&key) {
            return Ok(frames.clone());
        }
        let frames = self.decode(path, span, rule)?;
        if is_fixed {
            self.keep(key, &frames);
        }
        Ok(frames)
    }

    fn decode(&self, path: &Path, span: Span, rule: FrameRule) -> Result<Vec<RgbFrame>, DataError> {
        let idle = lock(&self.idle).pop();
        let mut source = match idle {
            Some(source) => source,
            None => MediaFrames::open(self.decoding.decoder, self.decoding.options)?,
        };
        let frames = frames_of(&mut source, path, span, rule);
        // A decoder keeps nothing of a file, so that it is good for the next one after an error.
        lock(&self.idle).push(source);
        let frames = frames?;
        if frames.len() != self.decoding.n_frames {
            let reason = format!(
                "{} frames came out where {} were asked for",
                frames.len(),
                self.decoding.n_frames
            );
            return Err(DataError::item(path, "frames", reason));
        }
        Ok(frames)
    }

    fn keep(&self, key: (PathBuf, u64, u64), frames: &[RgbFrame]) {
        let bytes: u64 = frames.iter().map(|frame| frame.data().len() as u64).sum();
        let mut cache = lock(&self.cache);
        let total = cache.bytes.saturating_add(bytes);
        // Another thread may have kept the same clip meanwhile.
        if total <= self.decoding.cache_bytes && !cache.clips.contains_key(&key) {
            cache.bytes = total;
            cache.clips.insert(key, frames.to_vec());
        }
    }
}

/// An error unless a sample has at least one frame.
pub(super) fn check_n_frames(label: &Path, n_frames: usize) -> Result<(), DataError> {
    if n_frames > 0 {
        return Ok(());
    }
    let source = ConfigError::OutOfRange {
        field: "n_frames",
        value: n_frames.to_string(),
        expected: "of at least 1".to_owned(),
    };
    Err(DataError::new(label, DataErrorKind::Config { source }))
}

/// A thread that panicked held the lock only while it moved values, so that they are sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn frames_of(
    source: &mut impl FrameSource,
    path: &Path,
    span: Span,
    rule: FrameRule,
) -> Result<Vec<RgbFrame>, DataError> {
    if span == Span::WHOLE {
        return Ok(source.frames(path, rule)?.frames);
    }
    let rate = source.probe(path)?.frame_rate.unwrap_or(0.0);
    if !(rate > 0.0 && rate.is_finite()) {
        let reason = "does not say how many frames a second it has, so that `start` and `end` \
                      cannot be found; cut the video";
        return Err(DataError::item(path, "frame rate", reason));
    }
    // Where the part lies among the frames is known when all of them have been decoded; the
    // decoder's limit in bytes bounds how long the video may be.
    let decoded = source.frames(path, FrameRule::All)?;
    let n_frames = decoded.frames.len();
    let at = |seconds: f64| ((seconds * rate) as usize).min(n_frames);
    let (first, last) = (at(span.start), at(span.end));
    if first >= last {
        let reason = format!(
            "none of its {n_frames} frames, {rate} a second, is in [{}, {}) seconds",
            span.start, span.end
        );
        return Err(DataError::item(path, "`start` and `end`", reason));
    }
    let wanted = rule
        .indices(last - first)
        .map_err(|kind| DataError::new(path, kind))?;
    Ok(wanted
        .iter()
        .filter_map(|&index| decoded.frames.get(first + index).cloned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::{DecodedFrames, VideoInfo};

    /// Ten frames of one pixel, five a second; frame `i` is of gray level `i`.
    struct TenFrames;

    impl FrameSource for TenFrames {
        fn probe(&mut self, path: &Path) -> Result<VideoInfo, DataError> {
            Ok(VideoInfo {
                container: "test".to_owned(),
                codec: "test".to_owned(),
                width: 1,
                height: 1,
                frames_announced: None,
                frames_expected: 10,
                frame_rate: (path != Path::new("untimed")).then_some(5.0),
                duration: None,
            })
        }

        fn frames(&mut self, path: &Path, rule: FrameRule) -> Result<DecodedFrames, DataError> {
            let indices = rule
                .indices(10)
                .map_err(|kind| DataError::new(path, kind))?;
            let frames = indices
                .iter()
                .map(|&index| RgbFrame::new(1, 1, vec![index as u8; 3]).unwrap())
                .collect();
            Ok(DecodedFrames {
                decodable_frames: 10,
                indices,
                frames,
                warnings: Vec::new(),
            })
        }
    }

    fn levels(path: &str, span: Span) -> Result<Vec<u8>, DataError> {
        let rule = FrameRule::Uniform { frames: 2 };
        let frames = frames_of(&mut TenFrames, Path::new(path), span, rule)?;
        Ok(frames.iter().map(|frame| frame.data()[0]).collect())
    }

    #[test]
    fn frames_are_chosen_within_the_part_that_is_asked_for() {
        // Middles of 0..5 and 5..10.
        assert_eq!(levels("a", Span::WHOLE).unwrap(), [2, 7]);
        assert_eq!(levels("a", Span::new(None, None)).unwrap(), [2, 7]);
        // Frames 5..9: middles of 5..7 and 7..9.
        assert_eq!(
            levels("a", Span::new(Some(1.0), Some(1.8))).unwrap(),
            [6, 8]
        );
        // Frames 6..10.
        assert_eq!(levels("a", Span::new(Some(1.2), None)).unwrap(), [7, 9]);
    }

    #[test]
    fn a_part_that_no_frame_is_in_and_an_unknown_rate_are_errors() {
        let error = levels("a", Span::new(Some(3.0), None)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("none of its 10 frames, 5 a second"),
            "{error}"
        );
        let error = levels("untimed", Span::new(Some(1.0), None)).unwrap_err();
        assert!(error.to_string().contains("frames a second"), "{error}");
    }

    #[test]
    fn a_sample_without_frames_is_refused() {
        let decoding = FrameDecoding::new(0, FrameChoice::Uniform);
        let error = ClipDecoder::open(Path::new("set"), decoding).unwrap_err();
        assert_eq!(
            error.to_string(),
            "set: `n_frames` is 0; choose a value of at least 1"
        );
    }
}
