//! Utterances of one's own, for a model that was trained on others.

use std::path::Path;

use ndarray::Array2;

use crate::emoji_clips::Split;
use crate::error::{DataError, DataErrorKind};
use crate::mosi::Modality;
use crate::sets::mosi_set::{Entry, SentimentSet, Source};
use crate::sets::selection::HeldOutVideos;
use crate::text_file::excerpt;

/// An utterance of which nobody knows the sentiment.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnUtterance {
    /// Its name, such as `interview/3`: where neighbours matter, video and number.
    pub name: String,
    /// What is said.
    pub words: String,
    /// Features of the words, `[steps, Dt]`; not looked at if they are not used.
    pub text: Array2<f32>,
    /// Acoustic features, `[steps, Da]`; likewise.
    pub audio: Array2<f32>,
    /// Features of the face or of the frames, `[steps, Dv]`; likewise.
    pub video: Array2<f32>,
}

impl SentimentSet {
    /// Utterances that a model which was trained on the items of `other` is asked about: with its
    /// vocabulary and those sources of features that it uses. Their only split is `test`, and
    /// their labels are 0.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no utterance, or one whose features have another width than
    /// those of `other`, no step, more steps than its longest item, or a value that is not finite.
    pub fn of_own(
        label: &Path,
        utterances: Vec<OwnUtterance>,
        other: &Self,
    ) -> Result<Self, DataError> {
        if utterances.is_empty() {
            return Err(DataError::new(label, DataErrorKind::EmptyBatch));
        }
        let mut entries = Vec::with_capacity(utterances.len());
        let mut features = Vec::with_capacity(utterances.len());
        for (row, utterance) in utterances.into_iter().enumerate() {
            let OwnUtterance {
                name,
                words,
                text,
                audio,
                video,
            } = utterance;
            let sources = [
                (Modality::Text, "text", &text),
                (Modality::Audio, "audio", &audio),
                (Modality::Video, "video", &video),
            ];
            let mut steps = [0; 3];
            for (n_steps, (modality, called, found)) in steps.iter_mut().zip(sources) {
                if other.width(modality) > 0 {
                    check(found, other, modality).map_err(|reason| {
                        DataError::item(label, excerpt(&name), format!("its {called} {reason}"))
                    })?;
                    *n_steps = found.nrows();
                }
            }
            entries.push(Entry {
                video_id: name.clone(),
                name,
                words,
                label: 0.0,
                split: Split::Test,
                row,
                steps,
            });
            features.push([text, audio, video]);
        }
        Ok(Self {
            label: label.to_path_buf(),
            source: Source::Own(features),
            division: None,
            entries,
            widths: other.widths,
            held_out: HeldOutVideos::of(std::iter::empty()),
            warnings: Vec::new(),
            word_piece: other.word_piece.clone(),
        })
    }
}

/// Whether features can stand for those of `other`.
fn check(found: &Array2<f32>, other: &SentimentSet, modality: Modality) -> Result<(), String> {
    let (width, longest) = (other.width(modality), other.max_steps(modality));
    if found.ncols() != width {
        return Err(format!(
            "has {} features a step, the model reads {width}",
            found.ncols()
        ));
    }
    if !(1..=longest).contains(&found.nrows()) {
        return Err(format!(
            "has {} steps, the model was trained on 1 to {longest}; take fewer frames",
            found.nrows()
        ));
    }
    if !found.iter().all(|value| value.is_finite()) {
        return Err("holds NaN or an infinite value".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emoji_clips::{ClipText, EmojiClips, KeywordUse};
    use crate::sets::EmojiSentimentSettings;

    fn trained_on() -> SentimentSet {
        let settings = EmojiSentimentSettings {
            text: ClipText {
                keywords: KeywordUse::None,
            },
            video_dim: 4,
        };
        SentimentSet::of_clips(&EmojiClips::embedded().unwrap(), settings).unwrap()
    }

    fn utterance(video: Array2<f32>) -> OwnUtterance {
        OwnUtterance {
            name: "interview/3".to_owned(),
            words: "closed umbrella".to_owned(),
            text: Array2::zeros((0, 0)),
            audio: Array2::zeros((0, 0)),
            video,
        }
    }

    fn open(video: Array2<f32>) -> Result<SentimentSet, DataError> {
        SentimentSet::of_own(Path::new("mine"), vec![utterance(video)], &trained_on())
    }

    #[test]
    fn an_utterance_keeps_its_words_and_features() {
        let video = Array2::from_elem((2, 4), 0.5);
        let set = open(video.clone()).unwrap();
        assert_eq!((set.n_items(), set.video_width()), (1, 4));
        assert_eq!(set.split("test").unwrap(), [0]);
        assert!(set.split("train").is_err());
        let sample = set.sample(0).unwrap();
        assert_eq!(sample.words, "closed umbrella");
        assert_eq!(sample.video, video);
        assert_eq!(sample.audio.dim(), (0, 0));
        assert_eq!(set.item_name(0), "interview/3");
    }

    #[test]
    fn features_that_the_model_does_not_read_are_refused_with_their_item() {
        for (video, part) in [
            (Array2::zeros((2, 3)), "3 features a step"),
            (Array2::zeros((0, 4)), "0 steps"),
            (Array2::zeros((100, 4)), "100 steps"),
            (Array2::from_elem((1, 4), f32::NAN), "NaN"),
        ] {
            let error = open(video).unwrap_err().to_string();
            assert!(
                error.contains("interview/3") && error.contains(part),
                "{error}"
            );
        }
        assert!(SentimentSet::of_own(Path::new("mine"), Vec::new(), &trained_on()).is_err());
    }
}
