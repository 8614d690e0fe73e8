//! Frames of videos, GIF files and folders of pictures: decoding, choosing, transforming.
//!
//! In reading order:
//!
//! 1. [`FrameRule`]: which frames of a video are used;
//! 2. [`MediaFrames`], [`FrameSource`]: one file to its chosen frames, with a [`DamagePolicy`];
//! 3. [`ImageTransform`]: frames to the tensor of a backbone;
//! 4. [`decode_many`]: many files in parallel.
//!
//! Nothing is skipped in silence: a damaged video is an error or comes with warnings that say how
//! many of its frames are left.

mod container;
mod decode_many;
mod ffmpeg;
mod ffmpeg_batch;
mod frame_rule;
mod gif;
mod image_folder;
#[cfg(feature = "libav")]
mod libav;
mod program;
mod source;
mod transform;

pub use decode_many::{
    DecodeJob, DecodeMany, DecodeParallelism, DecodeProgress, DecodeResult, decode_many,
};
pub use ffmpeg::FfmpegFrames;
pub use frame_rule::FrameRule;
pub use gif::GifFrames;
pub use image_folder::ImageFolder;
#[cfg(feature = "libav")]
pub use libav::LibavFrames;
pub use source::{
    DamagePolicy, DecodeOptions, DecodedFrames, Decoder, FrameSource, MediaFrames, RgbFrame,
    VideoInfo,
};
pub use transform::{IMAGENET_MEAN, IMAGENET_STD, ImageTransform, Normalization, Resize};
