//! A set whose texts are to be said, not read.

use std::path::Path;
use std::sync::Arc;

use crate::batch::VideoTextSample;
use crate::error::DataError;
use crate::video_text_set::{Draw, VideoTextSet};
use crate::word_piece::WordPiece;

/// A set without transcripts, for captioning: the encoder reads the word "none", and the text is
/// the caption.
///
/// Without it the encoder would read the very caption that the decoder has to say.
#[derive(Debug, Clone)]
pub struct CaptionTargets {
    set: Arc<dyn VideoTextSet>,
}

impl CaptionTargets {
    /// What the encoder reads of a video in which nothing is said, as in UniVL's files.
    pub const NO_TRANSCRIPT: &'static str = "none";

    /// The texts of `set` as captions.
    #[must_use]
    pub fn new(set: Arc<dyn VideoTextSet>) -> Self {
        Self { set }
    }
}

impl VideoTextSet for CaptionTargets {
    fn label(&self) -> &Path {
        self.set.label()
    }

    fn word_piece(&self) -> &WordPiece {
        self.set.word_piece()
    }

    fn feature_width(&self) -> usize {
        self.set.feature_width()
    }

    fn n_items(&self) -> usize {
        self.set.n_items()
    }

    fn item_name(&self, index: usize) -> String {
        self.set.item_name(index)
    }

    fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        self.set.split(name)
    }

    fn sample(&self, index: usize, draw: Draw) -> Result<VideoTextSample, DataError> {
        let sample = self.set.sample(index, draw)?;
        Ok(VideoTextSample {
            caption: Some(sample.caption.unwrap_or(sample.text)),
            text: Self::NO_TRANSCRIPT.to_owned(),
            ..sample
        })
    }

    fn references(&self, index: usize) -> Vec<String> {
        self.set.references(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emoji_clips::{ClipText, EmojiClips, KeywordUse};
    use crate::sets::EmojiPairs;

    #[test]
    fn the_encoder_does_not_read_the_caption() {
        let text = ClipText {
            keywords: KeywordUse::None,
        };
        let set = Arc::new(EmojiPairs::new(EmojiClips::embedded().unwrap(), text));
        let sample = CaptionTargets::new(set)
            .sample(1, Draw::Evaluation)
            .unwrap();
        assert_eq!(sample.text, "none");
        assert_eq!(sample.caption.as_deref(), Some("closed umbrella"));
    }
}
