//! What a set of videos with texts offers, whatever files it came from.

use std::fmt::Debug;
use std::path::Path;

use crate::batch::VideoTextSample;
use crate::error::DataError;
use crate::word_piece::WordPiece;

/// What a sample is drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// For training: a set that has several texts of an item chooses one from the seed.
    Training {
        /// Seed of the choice; the same seed and item give the same sample.
        seed: u64,
    },
    /// For evaluation: always the same sample.
    Evaluation,
}

/// Pairs of a text and a video's frame features, by position.
///
/// Implemented once per set. A training item is one position; what is trained on and evaluated is
/// named by [`split`](Self::split).
pub trait VideoTextSet: Debug + Send + Sync {
    /// The file or folder that errors name.
    fn label(&self) -> &Path;

    /// The tokenizer of the texts.
    fn word_piece(&self) -> &WordPiece;

    /// Features of a frame.
    fn feature_width(&self) -> usize;

    /// Number of positions, those of all splits together.
    fn n_items(&self) -> usize;

    /// The name of an item in messages, such as `video7010` or `GLd3aX16zBg/2`.
    fn item_name(&self, index: usize) -> String;

    /// Positions of the items of a split, in the order of the files.
    ///
    /// # Errors
    ///
    /// Returns an error that lists the known splits if there is none of that name, or if it is
    /// empty.
    fn split(&self, name: &str) -> Result<Vec<usize>, DataError>;

    /// The item at a position.
    ///
    /// # Errors
    ///
    /// Returns an error with the item's name if there is no such position, if its features are
    /// missing or hold a value that is not finite.
    fn sample(&self, index: usize, draw: Draw) -> Result<VideoTextSample, DataError>;

    /// All texts that people wrote for an item: the references of a caption. At least one.
    fn references(&self, index: usize) -> Vec<String>;
}
