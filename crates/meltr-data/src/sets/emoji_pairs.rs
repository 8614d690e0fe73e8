//! The animated clips with a rule for their texts.

use std::path::Path;

use crate::batch::VideoTextSample;
use crate::emoji_clips::{ClipText, EmojiClips, KeywordUse, Split};
use crate::error::DataError;
use crate::video_text_set::{Draw, VideoTextSet};
use crate::word_piece::WordPiece;

/// [`EmojiClips`] as pairs of a text and frames.
///
/// A text for training follows the rule; one for evaluation has all keywords if the rule uses any.
/// The splits are `train`, `valid` and `test`.
///
/// ```
/// use meltr_data::{ClipText, EmojiClips, EmojiPairs, KeywordUse, VideoTextSet};
///
/// # fn main() -> Result<(), meltr_data::DataError> {
/// let text = ClipText { keywords: KeywordUse::Sampled };
/// let set = EmojiPairs::new(EmojiClips::embedded()?, text);
/// assert_eq!(set.split("test")?.len(), 127);
/// assert_eq!(
///     set.references(1),
///     ["closed umbrella closed clothing rain umbrella", "closed umbrella"]
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct EmojiPairs {
    clips: EmojiClips,
    text: ClipText,
}

impl EmojiPairs {
    /// The clips, put into words by a rule.
    #[must_use]
    pub fn new(clips: EmojiClips, text: ClipText) -> Self {
        Self { clips, text }
    }

    /// The clips.
    #[must_use]
    pub fn clips(&self) -> &EmojiClips {
        &self.clips
    }

    /// How a clip is put into words for training.
    #[must_use]
    pub fn text(&self) -> ClipText {
        self.text
    }

    fn evaluation_text(&self) -> ClipText {
        let keywords = match self.text.keywords {
            KeywordUse::None => KeywordUse::None,
            KeywordUse::All | KeywordUse::Sampled => KeywordUse::All,
        };
        ClipText { keywords }
    }
}

impl VideoTextSet for EmojiPairs {
    fn label(&self) -> &Path {
        self.clips.path()
    }

    fn word_piece(&self) -> &WordPiece {
        self.clips.word_piece()
    }

    fn feature_width(&self) -> usize {
        self.clips.frames().dim().2
    }

    fn n_items(&self) -> usize {
        self.clips.clips().len()
    }

    fn item_name(&self, index: usize) -> String {
        match self.clips.clips().get(index) {
            Some(clip) => format!("{} {}", clip.code, clip.name),
            None => format!("item {index}"),
        }
    }

    fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        let split: Split = name
            .parse()
            .map_err(|kind| DataError::new(self.clips.path(), kind))?;
        self.clips.indices(&[split])
    }

    fn sample(&self, index: usize, draw: Draw) -> Result<VideoTextSample, DataError> {
        match draw {
            Draw::Training { seed } => self.clips.sample(index, self.text, seed),
            Draw::Evaluation => self.clips.sample(index, self.evaluation_text(), 0),
        }
    }

    fn references(&self, index: usize) -> Vec<String> {
        let Some(clip) = self.clips.clips().get(index) else {
            return Vec::new();
        };
        let text = self.evaluation_text().text(clip, 0);
        let name = (text != clip.name).then(|| clip.name.clone());
        std::iter::once(text).chain(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(keywords: KeywordUse) -> EmojiPairs {
        EmojiPairs::new(EmojiClips::embedded().unwrap(), ClipText { keywords })
    }

    #[test]
    fn splits_widths_and_names_are_those_of_the_clips() {
        let set = set(KeywordUse::None);
        let sizes = ["train", "valid", "test"].map(|name| set.split(name).unwrap().len());
        assert_eq!(sizes, [497, 75, 127]);
        assert_eq!((set.n_items(), set.feature_width()), (699, 512));
        assert!(set.item_name(1).ends_with(" closed umbrella"));
        assert_eq!(set.item_name(699), "item 699");
        let error = set.split("val").unwrap_err().to_string();
        assert!(error.contains("unknown split `val`; use one of train, valid, test"));
    }

    #[test]
    fn training_follows_the_rule_and_evaluation_uses_all_keywords_if_any() {
        let pairs = set(KeywordUse::Sampled);
        let text = |draw| pairs.sample(1, draw).unwrap().text;
        for seed in 0..20 {
            let expected = pairs.clips().sample(1, pairs.text(), seed).unwrap();
            let sample = pairs.sample(1, Draw::Training { seed }).unwrap();
            assert_eq!(sample, expected);
            assert!(sample.caption.is_none());
        }
        assert_eq!(
            text(Draw::Evaluation),
            "closed umbrella closed clothing rain umbrella"
        );
        let plain = set(KeywordUse::None).sample(1, Draw::Evaluation).unwrap();
        assert_eq!(plain.text, "closed umbrella");
        assert!(pairs.sample(699, Draw::Evaluation).is_err());
    }

    #[test]
    fn references_are_the_text_of_evaluation_and_the_name_once() {
        for keywords in [KeywordUse::None, KeywordUse::All, KeywordUse::Sampled] {
            let set = set(keywords);
            for index in 0..set.clips().clips().len() {
                let references = set.references(index);
                let text = set.sample(index, Draw::Evaluation).unwrap().text;
                assert_eq!(references[0], text);
                let name = &set.clips().clips()[index].name;
                assert_eq!(references.iter().filter(|text| *text == name).count(), 1);
            }
            assert!(set.references(699).is_empty());
        }
    }
}
