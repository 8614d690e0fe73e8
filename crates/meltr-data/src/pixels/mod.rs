//! Raw frames with texts, for backbones that read pixels: VIOLET and All-in-one.
//!
//! In reading order:
//!
//! 1. [`PixelSet`], [`PixelSample`], [`PixelText`]: what a set offers, for retrieval, open-ended
//!    questions and multiple choice;
//! 2. [`EmojiFrames`]: the embedded clips;
//! 3. [`VioletFiles`], [`AllInOneFiles`]: the files of the released code;
//! 4. [`ManifestFrames`]: videos of one's own; [`OwnClips`]: such as belong to no split;
//! 5. [`PixelCollator`], [`PixelBatch`]: samples to one batch.
//!
//! Frames are decoded when a sample asks for them, so that a set needs the memory of its texts and,
//! where its files are compressed frames, of those.

mod allinone_files;
mod clip_decoder;
mod collator;
mod emoji_strips;
mod manifest_frames;
mod own_clips;
mod set;
mod violet_files;

pub use allinone_files::{AllInOneFiles, AllInOnePaths, AllInOneTexts};
pub use clip_decoder::FrameDecoding;
pub use collator::{
    FrameResize, FrameScale, NO_ANSWER, OptionPrompt, PatchMasking, PixelBatch, PixelCollator,
    VisualTargets, WordMasking,
};
pub use emoji_strips::{EmojiFrames, EmojiFramesConfig};
pub use manifest_frames::{ManifestFrames, ManifestFramesConfig};
pub use own_clips::{OwnClip, OwnClips};
pub use set::{FrameChoice, PixelSample, PixelSet, PixelTask, PixelText};
pub use violet_files::{VioletFiles, VioletPaths, VioletTexts};
