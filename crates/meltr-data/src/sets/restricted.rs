//! A set with only the tokens that its texts need.

use std::path::Path;
use std::sync::Arc;

use crate::batch::VideoTextSample;
use crate::error::DataError;
use crate::video_text_set::{Draw, VideoTextSet};
use crate::word_piece::WordPiece;

/// A set whose vocabulary is restricted to its own texts, so that a small model has a small table.
///
/// Every text of the set, of whatever split, is cut into the same tokens as before: nothing else
/// changes than which number a token has.
#[derive(Debug, Clone)]
pub struct RestrictedVocabulary {
    set: Arc<dyn VideoTextSet>,
    word_piece: WordPiece,
    ids: Vec<i64>,
}

impl RestrictedVocabulary {
    /// Reads every text of the set once.
    ///
    /// # Errors
    ///
    /// Returns an error if an item cannot be read.
    pub fn new(set: Arc<dyn VideoTextSet>) -> Result<Self, DataError> {
        let mut texts = Vec::new();
        for index in 0..set.n_items() {
            let sample = set.sample(index, Draw::Evaluation)?;
            texts.push(sample.text);
            texts.extend(sample.caption);
            texts.extend(set.references(index));
        }
        let (word_piece, ids) = set
            .word_piece()
            .restricted_to(texts.iter().map(String::as_str))?;
        Ok(Self {
            set,
            word_piece,
            ids,
        })
    }

    /// For each id of the restricted vocabulary, the id in the full one.
    #[must_use]
    pub fn full_ids(&self) -> &[i64] {
        &self.ids
    }
}

impl VideoTextSet for RestrictedVocabulary {
    fn label(&self) -> &Path {
        self.set.label()
    }

    fn word_piece(&self) -> &WordPiece {
        &self.word_piece
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
        self.set.sample(index, draw)
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
    fn texts_keep_their_tokens() {
        let text = ClipText {
            keywords: KeywordUse::All,
        };
        let set = Arc::new(EmojiPairs::new(EmojiClips::embedded().unwrap(), text));
        let restricted = RestrictedVocabulary::new(set.clone()).unwrap();
        assert!(restricted.word_piece().vocab_size() <= set.word_piece().vocab_size());
        for index in [0, 5, 698] {
            let text = set.sample(index, Draw::Evaluation).unwrap().text;
            let ids: Vec<i64> = restricted
                .word_piece()
                .encode(&text)
                .iter()
                .map(|id| restricted.full_ids()[*id as usize])
                .collect();
            assert_eq!(ids, set.word_piece().encode(&text));
        }
    }
}
