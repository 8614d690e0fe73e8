//! What a set of raw frames with texts offers, whatever files it came from.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use ndarray::Array3;
use serde::{Deserialize, Serialize};

use crate::emoji_clips::Split;
use crate::error::{DataError, DataErrorKind};
use crate::seed::{RandomStream, seed_for};
use crate::video::{FrameRule, RgbFrame};
use crate::video_text_set::Draw;
use crate::word_piece::WordPiece;

/// Purposes for which an item draws random numbers, each from a stream of its own.
pub(super) const TEXT_STREAM: u64 = 0;
pub(super) const FRAME_STREAM: u64 = 1;
pub(super) const OPTION_STREAM: u64 = 2;
pub(super) const WORD_STREAM: u64 = 3;
pub(super) const PATCH_STREAM: u64 = 4;
pub(super) const CROP_STREAM: u64 = 5;
pub(super) const PAIR_STREAM: u64 = 6;

/// What is asked about a clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelTask {
    /// Which text belongs to which video.
    Retrieval,
    /// Which answer of a fixed list is right.
    OpenEnded,
    /// Which of a few options is right.
    MultipleChoice,
}

impl PixelTask {
    /// The name in files and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Retrieval => "retrieval",
            Self::OpenEnded => "open_ended",
            Self::MultipleChoice => "multiple_choice",
        }
    }
}

impl fmt::Display for PixelTask {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// The text of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PixelText {
    /// A sentence about the video.
    Caption(String),
    /// A question that a class answers.
    OpenQuestion {
        /// The question.
        question: String,
        /// The class of the answer, a position in [`PixelSet::answers`]; `None` if the answer is
        /// none of them or is not known.
        answer: Option<usize>,
    },
    /// A question with options.
    MultipleChoice {
        /// The question.
        question: String,
        /// The options, two or more.
        options: Vec<String>,
        /// Number of the right option, counted from 0.
        answer: usize,
    },
}

impl PixelText {
    /// The task that a text of this kind serves.
    #[must_use]
    pub fn task(&self) -> PixelTask {
        match self {
            Self::Caption(_) => PixelTask::Retrieval,
            Self::OpenQuestion { .. } => PixelTask::OpenEnded,
            Self::MultipleChoice { .. } => PixelTask::MultipleChoice,
        }
    }
}

/// The frames of one video with one text, before any transformation.
#[derive(Clone, Debug, PartialEq)]
pub struct PixelSample {
    /// Number of the item in its set.
    pub id: usize,
    /// The chosen frames in temporal order.
    pub frames: Vec<RgbFrame>,
    /// The text, as people write it.
    pub text: PixelText,
    /// Visual tokens of the same frames `[T, h, w]`, if the set has them.
    pub visual_tokens: Option<Array3<i64>>,
}

/// Pairs of a text and a video's raw frames, by position.
///
/// Implemented once per kind of files. A training item is one position; what is trained on and
/// evaluated is named by [`split`](Self::split).
pub trait PixelSet: fmt::Debug + Send + Sync {
    /// The file or folder that errors name.
    fn label(&self) -> &Path;

    /// The tokenizer of the texts.
    fn word_piece(&self) -> &WordPiece;

    /// The task; all items serve the same.
    fn task(&self) -> PixelTask;

    /// The classes that answer open-ended questions, by number; none for other tasks.
    fn answers(&self) -> &[String];

    /// The name of an item in messages, such as `video7010`.
    fn item_name(&self, index: usize) -> String;

    /// Positions of the items of a split, `train`, `valid` or `test`, in the order of the files.
    ///
    /// # Errors
    ///
    /// Returns an error that lists the known splits if there is none of that name, or if it is
    /// empty.
    fn split(&self, name: &str) -> Result<Vec<usize>, DataError>;

    /// The item at a position, its frames decoded now.
    ///
    /// For training, the seed is mixed with the position and with the purpose of each choice, so
    /// that one seed serves a whole batch.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such position, or if its video is missing, damaged or too
    /// short.
    fn sample(&self, index: usize, draw: Draw) -> Result<PixelSample, DataError>;
}

/// Which frames of a video a sample gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameChoice {
    /// The middles of equal intervals, always.
    Uniform,
    /// The inner points of VIOLET's extraction script, always.
    Violet,
    /// All-in-one's: for training one random frame of each of equal segments, never the last of
    /// its segment; for evaluation the middle of each.
    AllInOne,
}

impl FrameChoice {
    /// The rule that chooses `frames` frames; a seed of `draw` is used as it is.
    #[must_use]
    pub fn rule(self, frames: usize, draw: Draw) -> FrameRule {
        match (self, draw) {
            (Self::Uniform, _) => FrameRule::Uniform { frames },
            (Self::Violet, _) => FrameRule::Violet { frames },
            (Self::AllInOne, Draw::Training { seed }) => {
                FrameRule::RandomInSegment { frames, seed }
            }
            (Self::AllInOne, Draw::Evaluation) => FrameRule::MiddleOfSegment { frames },
        }
    }
}

/// The draw of one item for one purpose.
pub(super) fn item_draw(draw: Draw, index: usize, stream: u64) -> Draw {
    match draw {
        Draw::Training { seed } => Draw::Training {
            seed: seed_for(seed, &[index as u64, stream]),
        },
        Draw::Evaluation => Draw::Evaluation,
    }
}

/// One of the captions of a video: a random one for training, otherwise the first.
pub(super) fn choose_caption(captions: &[String], draw: Draw) -> Option<&String> {
    match draw {
        Draw::Training { seed } => captions.get(RandomStream::new(seed).below(captions.len())),
        Draw::Evaluation => captions.first(),
    }
}

/// Positions of the items of a split, by its name.
pub(super) fn positions(
    label: &Path,
    name: &str,
    splits: impl Iterator<Item = Split>,
) -> Result<Vec<usize>, DataError> {
    let wanted: Split = name.parse().map_err(|kind| DataError::new(label, kind))?;
    let found: Vec<usize> = splits
        .enumerate()
        .filter(|&(_, split)| split == wanted)
        .map(|(index, _)| index)
        .collect();
    if found.is_empty() {
        let split = name.to_owned();
        return Err(DataError::new(label, DataErrorKind::EmptySplit { split }));
    }
    Ok(found)
}

/// An error about a position behind the last item.
pub(super) fn beyond(label: &Path, index: usize, len: usize) -> DataError {
    DataError::new(label, DataErrorKind::IndexOutOfRange { index, len })
}

/// The classes of open-ended answers.
#[derive(Clone, Debug, Default)]
pub(super) struct AnswerClasses {
    names: Vec<String>,
    classes: HashMap<String, usize>,
}

impl AnswerClasses {
    /// Classes in the given order.
    pub(super) fn listed(names: Vec<String>) -> Self {
        let classes = names.iter().cloned().zip(0..).collect();
        Self { names, classes }
    }

    /// The distinct answers by falling frequency, equally frequent ones by the alphabet.
    ///
    /// Answers that only a test has must not be among `texts`: a class that training never sees
    /// cannot be learned, and knowing it would be a leak.
    pub(super) fn counted<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for text in texts {
            *counts.entry(text).or_insert(0) += 1;
        }
        let mut ranked: Vec<(&str, usize)> = counts.into_iter().collect();
        ranked.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        Self::listed(ranked.iter().map(|&(text, _)| text.to_owned()).collect())
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn class(&self, answer: &str) -> Option<usize> {
        self.classes.get(answer).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_classes_by_falling_frequency_then_by_the_alphabet() {
        let classes = AnswerClasses::counted(["b", "a", "c", "b", "c"].into_iter());
        assert_eq!(classes.names(), ["b", "c", "a"]);
        assert_eq!(classes.class("a"), Some(2));
        assert_eq!(classes.class("d"), None);
    }

    #[test]
    fn splits_are_found_by_name_and_unknown_or_empty_ones_are_errors() {
        let splits = [Split::Test, Split::Train, Split::Test];
        let find = |name: &str| positions(Path::new("set"), name, splits.into_iter());
        assert_eq!(find("test").unwrap(), [0, 2]);
        assert_eq!(
            find("valid").unwrap_err().to_string(),
            "set: no item is in split valid; choose another split"
        );
        assert_eq!(
            find("dev").unwrap_err().to_string(),
            "set: unknown split `dev`; use one of train, valid, test"
        );
    }

    #[test]
    fn only_the_choice_of_all_in_one_is_random_and_only_for_training() {
        let training = Draw::Training { seed: 3 };
        for choice in [FrameChoice::Uniform, FrameChoice::Violet] {
            assert_eq!(choice.rule(4, training), choice.rule(4, Draw::Evaluation));
        }
        assert_eq!(
            FrameChoice::AllInOne.rule(4, training),
            FrameRule::RandomInSegment { frames: 4, seed: 3 }
        );
        assert_eq!(
            FrameChoice::AllInOne.rule(4, Draw::Evaluation),
            FrameRule::MiddleOfSegment { frames: 4 }
        );
    }

    #[test]
    fn an_item_draws_another_seed_for_every_purpose() {
        let training = Draw::Training { seed: 3 };
        let text = item_draw(training, 7, TEXT_STREAM);
        assert_eq!(text, item_draw(training, 7, TEXT_STREAM));
        assert_ne!(text, item_draw(training, 7, FRAME_STREAM));
        assert_ne!(text, item_draw(training, 8, TEXT_STREAM));
        assert_eq!(
            item_draw(Draw::Evaluation, 7, TEXT_STREAM),
            Draw::Evaluation
        );
    }

    #[test]
    fn a_caption_is_random_for_training_and_the_first_for_evaluation() {
        let captions = ["a".to_owned(), "b".to_owned()];
        assert_eq!(choose_caption(&captions, Draw::Evaluation).unwrap(), "a");
        let drawn: Vec<&String> = (0..50)
            .filter_map(|seed| choose_caption(&captions, Draw::Training { seed }))
            .collect();
        assert!(drawn.iter().any(|caption| *caption == "a"));
        assert!(drawn.iter().any(|caption| *caption == "b"));
        assert_eq!(choose_caption(&[], Draw::Training { seed: 1 }), None);
    }
}
