//! What every decoder of videos shares: the trait, the frames, and the policy about damage.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use super::container::{self, Container};
use super::ffmpeg::FfmpegFrames;
use super::frame_rule::FrameRule;
use super::gif::GifFrames;
use super::image_folder::ImageFolder;
#[cfg(feature = "libav")]
use super::libav::LibavFrames;
use crate::error::{DataError, DataErrorKind};

/// The name of the format in messages.
pub(super) const VIDEO: &str = "video";

/// Most pixels of one frame, 8192 x 8192: what a decoder may be made to allocate.
pub(super) const MAX_PIXELS: u64 = 1 << 26;

/// Messages about damage that are kept for each file.
pub(super) const MAX_MESSAGES: usize = 6;

/// The containers that FFmpeg may open. Playlists and lists of files are not among them: a file
/// that claims to be a video must not make FFmpeg read other files.
pub(super) const DEMUXERS: &str = "mov,avi,matroska,webm,mpeg,mpegts,mpegvideo,m4v,h264,hevc,flv,\
                                   asf,ogg,ivf,rm,mxf,dv,nut";

/// A source of frames: one way to decode.
pub trait FrameSource {
    /// What the headers say about a file, without decoding it.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or is no video.
    fn probe(&mut self, path: &Path) -> Result<VideoInfo, DataError>;

    /// Decodes a file and returns the frames that `rule` chooses.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, is no video, has too few frames for the rule,
    /// or is damaged and the [`DamagePolicy`] refuses that.
    fn frames(&mut self, path: &Path, rule: FrameRule) -> Result<DecodedFrames, DataError>;
}

/// A source that decodes some files at less cost together than one after the other.
pub(super) trait BatchSource: FrameSource {
    /// Most files for [`try_batch`](Self::try_batch) at present; 1 where it saves nothing.
    fn batch_size(&self) -> usize;

    /// The frames of those files that are without any fault; `None`, or no entry, for those that
    /// [`frames`](FrameSource::frames) has to judge.
    fn try_batch(&mut self, wanted: &[(&Path, FrameRule)]) -> Vec<Option<DecodedFrames>>;
}

/// Who decodes videos. GIF files and folders of images are always decoded in Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decoder {
    /// The programs `ffmpeg` and `ffprobe`, version 4.4 or later, of the `PATH`; the variable
    /// `MELTR_FFMPEG` names another `ffmpeg`, or the folder of both programs.
    Ffmpeg,
    /// FFmpeg's libraries in this process; needs the cargo feature `libav`.
    Libav,
}

/// What happens to a video with damaged or missing frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DamagePolicy {
    /// It is an error.
    Refuse,
    /// The frames that can be decoded are used; [`DecodedFrames::warnings`] says what is wrong.
    Report,
}

/// Settings of a [`FrameSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// What happens to a damaged video.
    pub damage: DamagePolicy,
    /// Threads that decode one video; 0 lets FFmpeg choose. One is best for many videos at a time.
    pub threads: usize,
    /// Longest time for one video.
    pub timeout: Duration,
    /// Most bytes of the chosen frames of one video.
    pub max_bytes: u64,
}

impl Default for DecodeOptions {
    /// Damage is refused; one thread, ten minutes and 2 GiB for each video.
    fn default() -> Self {
        Self {
            damage: DamagePolicy::Refuse,
            threads: 1,
            timeout: Duration::from_secs(600),
            max_bytes: 2 << 30,
        }
    }
}

/// What the headers of a video say. None of it is certain before the video has been decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoInfo {
    /// Name of the container as FFmpeg has it, e.g. `mov,mp4,m4a,3gp,3g2,mj2`.
    pub container: String,
    /// Name of the codec, e.g. `h264`.
    pub codec: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Number of frames that the container announces.
    pub frames_announced: Option<usize>,
    /// Number of frames to be expected from the packets that are really there.
    pub frames_expected: usize,
    /// Average frames a second.
    pub frame_rate: Option<f64>,
    /// Duration in seconds.
    pub duration: Option<f64>,
}

/// One decoded picture, 8 bits for each of red, green and blue.
///
/// # Shapes
///
/// - [`data`](Self::data): `[H, W, 3]` in C order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbFrame {
    width: u32,
    height: u32,
    data: Vec<u8>,
}

impl RgbFrame {
    /// A picture of the given size; `None` if that is empty or not the length of `data`.
    #[must_use]
    pub fn new(width: u32, height: u32, data: Vec<u8>) -> Option<Self> {
        let len = u64::from(width)
            .checked_mul(u64::from(height))?
            .checked_mul(3)?;
        if len == 0 || len != data.len() as u64 {
            return None;
        }
        Some(Self {
            width,
            height,
            data,
        })
    }

    /// Width in pixels, at least 1.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels, at least 1.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The samples, row by row, red, green and blue in turn.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The samples without a copy.
    #[must_use]
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }
}

/// The chosen frames of one video.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedFrames {
    /// Number of frames that decoding the whole video yields.
    pub decodable_frames: usize,
    /// Position of each chosen frame, in the order of presentation, counted from 0.
    pub indices: Vec<usize>,
    /// The chosen frames, one for each index.
    pub frames: Vec<RgbFrame>,
    /// What is damaged or missing; empty for a sound video.
    pub warnings: Vec<String>,
}

impl DecodedFrames {
    /// The frames of `indices` out of those of the distinct indices `kept`, which is sorted.
    ///
    /// `None` if one is absent.
    pub(super) fn pick(
        decodable_frames: usize,
        indices: Vec<usize>,
        kept: &[usize],
        frames: Vec<RgbFrame>,
    ) -> Option<Self> {
        if kept.len() != frames.len() {
            return None;
        }
        let frames = if indices == kept {
            frames
        } else {
            let mut picked: Vec<RgbFrame> = Vec::with_capacity(indices.len());
            for index in &indices {
                let place = kept.binary_search(index).ok()?;
                picked.push(frames[place].clone());
            }
            picked
        };
        Some(Self {
            decodable_frames,
            indices,
            frames,
            warnings: Vec::new(),
        })
    }
}

/// Indices without their repetitions. They come in non-decreasing order.
pub(super) fn distinct(indices: &[usize]) -> Vec<usize> {
    let mut distinct = indices.to_vec();
    distinct.dedup();
    distinct
}

/// Applies the policy to a video with `damage`: an error, or warnings that begin with the number of
/// good frames.
pub(super) fn judge(
    path: &Path,
    policy: DamagePolicy,
    decodable: usize,
    expected: usize,
    damage: Vec<String>,
) -> Result<Vec<String>, DataError> {
    if damage.is_empty() && decodable >= expected {
        return Ok(damage);
    }
    let count = format!(
        "{decodable} of {} frames can be decoded",
        expected.max(decodable)
    );
    let mut warnings = vec![count];
    warnings.extend(damage);
    match policy {
        DamagePolicy::Report => Ok(warnings),
        DamagePolicy::Refuse => Err(DataError::format(
            path,
            VIDEO,
            None::<u64>,
            format!(
                "damaged: {} (`DamagePolicy::Report` uses what is left)",
                warnings.join("; ")
            ),
        )),
    }
}

/// An error for a video of which no frame can be decoded.
pub(super) fn no_frame(path: &Path, expected: usize, damage: &[String]) -> DataError {
    let mut reason = format!("0 of {expected} frames can be decoded");
    for message in damage {
        reason.push_str("; ");
        reason.push_str(message);
    }
    DataError::format(path, VIDEO, None::<u64>, reason)
}

/// An error for a rule that a video cannot satisfy.
pub(super) fn rule_error(path: &Path, kind: DataErrorKind) -> DataError {
    DataError::new(path, kind)
}

/// The frames of any file: videos by the [`Decoder`] chosen, GIF files and folders of images in
/// Rust. The content decides, not the name.
#[derive(Debug)]
pub struct MediaFrames {
    video: VideoDecoder,
    gif: GifFrames,
    folder: ImageFolder,
}

/// The decoder of videos.
#[derive(Debug)]
enum VideoDecoder {
    Ffmpeg(FfmpegFrames),
    #[cfg(feature = "libav")]
    Libav(LibavFrames),
}

impl MediaFrames {
    /// Prepares a decoder.
    ///
    /// # Errors
    ///
    /// Returns an error if the decoder's programs are not installed, or if this program was built
    /// without it; it says what to do.
    pub fn open(decoder: Decoder, options: DecodeOptions) -> Result<Self, DataError> {
        let video = match decoder {
            Decoder::Ffmpeg => VideoDecoder::Ffmpeg(FfmpegFrames::open(options)?),
            #[cfg(feature = "libav")]
            Decoder::Libav => VideoDecoder::Libav(LibavFrames::new(options)),
            #[cfg(not(feature = "libav"))]
            Decoder::Libav => {
                return Err(DataError::new(
                    "libav",
                    DataErrorKind::Program {
                        program: "FFmpeg's libraries".to_owned(),
                        reason: "this program was built without them; build it with the cargo \
                                 feature `libav`, or use the decoder `Ffmpeg`"
                            .to_owned(),
                    },
                ));
            }
        };
        Ok(Self {
            video,
            gif: GifFrames::new(options),
            folder: ImageFolder::new(options),
        })
    }

    /// Who decodes this file.
    fn source(&mut self, path: &Path) -> Result<&mut dyn FrameSource, DataError> {
        if path.is_dir() {
            return Ok(&mut self.folder);
        }
        if container::kind(path)? == Container::Gif {
            return Ok(&mut self.gif);
        }
        match &mut self.video {
            VideoDecoder::Ffmpeg(source) => Ok(source),
            #[cfg(feature = "libav")]
            VideoDecoder::Libav(source) => Ok(source),
        }
    }
}

impl FrameSource for MediaFrames {
    fn probe(&mut self, path: &Path) -> Result<VideoInfo, DataError> {
        self.source(path)?.probe(path)
    }

    fn frames(&mut self, path: &Path, rule: FrameRule) -> Result<DecodedFrames, DataError> {
        self.source(path)?.frames(path, rule)
    }
}

impl BatchSource for MediaFrames {
    fn batch_size(&self) -> usize {
        match &self.video {
            VideoDecoder::Ffmpeg(source) => source.batch_size(),
            #[cfg(feature = "libav")]
            VideoDecoder::Libav(_) => 1,
        }
    }

    fn try_batch(&mut self, wanted: &[(&Path, FrameRule)]) -> Vec<Option<DecodedFrames>> {
        match &mut self.video {
            VideoDecoder::Ffmpeg(source) => source.try_batch(wanted),
            #[cfg(feature = "libav")]
            VideoDecoder::Libav(_) => Vec::new(),
        }
    }
}

/// `file:` and the path: what FFmpeg takes for a file whatever its name is, be it `-i` or `a:b`.
pub(super) fn file_url(path: &Path) -> std::ffi::OsString {
    let mut url = std::ffi::OsString::from("file:");
    let name: &OsStr = path.as_os_str();
    url.push(name);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(value: u8) -> RgbFrame {
        RgbFrame::new(1, 1, vec![value; 3]).unwrap()
    }

    #[test]
    fn a_picture_whose_size_is_not_its_length_does_not_exist() {
        assert!(RgbFrame::new(2, 2, vec![0; 12]).is_some());
        assert!(RgbFrame::new(2, 2, vec![0; 11]).is_none());
        assert!(RgbFrame::new(0, 2, vec![]).is_none());
        assert!(RgbFrame::new(u32::MAX, u32::MAX, vec![0; 3]).is_none());
    }

    #[test]
    fn repeated_indices_repeat_their_frame() {
        let indices = vec![1, 1, 4];
        assert_eq!(distinct(&indices), [1, 4]);
        let picked = DecodedFrames::pick(5, indices, &[1, 4], vec![dot(1), dot(4)]).unwrap();
        assert_eq!(picked.frames, [dot(1), dot(1), dot(4)]);
        assert!(DecodedFrames::pick(5, vec![2], &[1], vec![dot(1)]).is_none());
    }

    #[test]
    fn damage_is_an_error_or_a_warning_with_the_count() {
        let path = Path::new("a.mp4");
        let damage = vec!["partial file".to_owned()];
        let refused = judge(path, DamagePolicy::Refuse, 3, 5, damage.clone()).unwrap_err();
        let message = refused.to_string();
        assert!(
            message.contains("3 of 5 frames can be decoded; partial file"),
            "{message}"
        );
        let warnings = judge(path, DamagePolicy::Report, 3, 5, damage).unwrap();
        assert_eq!(warnings, ["3 of 5 frames can be decoded", "partial file"]);
        assert!(
            judge(path, DamagePolicy::Refuse, 5, 5, vec![])
                .unwrap()
                .is_empty()
        );
        assert!(
            judge(path, DamagePolicy::Refuse, 6, 5, vec![])
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn no_name_of_a_file_is_an_option_or_a_protocol() {
        assert_eq!(file_url(Path::new("-i")), "file:-i");
        assert_eq!(file_url(Path::new("http:a%d")), "file:http:a%d");
    }
}
