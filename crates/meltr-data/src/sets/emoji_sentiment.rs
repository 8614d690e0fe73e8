//! The animated clips as items with a sentiment: what people mean by an emoji.

use ndarray::{Axis, s};
use serde::{Deserialize, Serialize};

use crate::emoji_clips::{Clip, ClipText, EmojiClips, KeywordUse, SentimentCounts};
use crate::error::DataError;
use crate::sets::mosi_set::{Entry, MAX_LABEL, SentimentSet, Source};
use crate::sets::selection::{HeldOutVideos, bad_setting};

/// How the animated clips are used for sentiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmojiSentimentSettings {
    /// How a clip is put into words; keywords may not be sampled, since an item keeps its words.
    pub text: ClipText,
    /// Features of a frame, the first of its principal components; at least 1.
    pub video_dim: usize,
}

impl SentimentSet {
    /// The clips of which it is counted how people use their emoji, with their words and frames.
    ///
    /// Clips without counts are left out. There are no features of the text and no sound. With `n`
    /// messages the label is `3 (positive − negative) / (n + 3)`: three times the sentiment score
    /// of the source, that is the share of positive messages less that of negative ones, where one
    /// message of each sentiment is added to all that were counted. It is in [-3, 3], as the
    /// sentiment of CMU-MOSI, but not on the same scale: of an emoji that half of the messages use
    /// neutrally it is 1.5 at most.
    ///
    /// The splits are `train`, `valid` and `test` of the clips: 218, 36 and 52 of them in the
    /// embedded set.
    ///
    /// ```
    /// use meltr_data::{ClipText, EmojiClips, EmojiSentimentSettings, KeywordUse, SentimentSet};
    ///
    /// # fn main() -> Result<(), meltr_data::DataError> {
    /// let text = ClipText { keywords: KeywordUse::None };
    /// let settings = EmojiSentimentSettings { text, video_dim: 32 };
    /// let set = SentimentSet::of_clips(&EmojiClips::embedded()?, settings)?;
    /// let sample = set.sample(0)?;
    /// assert_eq!(sample.words, "cyclone");
    /// assert_eq!(sample.video.dim(), (8, 32));
    /// // 10 negative, 39 neutral and 17 positive messages.
    /// assert!((sample.label - 3.0 * 7.0 / 69.0).abs() < 1e-6);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if keywords are to be sampled or the frames have fewer features than
    /// `video_dim`, or if that is 0.
    ///
    /// # References
    ///
    /// - Kralj Novak et al., [Sentiment of Emojis](https://doi.org/10.1371/journal.pone.0144296),
    ///   PLOS ONE 2015: the counts and the score.
    pub fn of_clips(
        clips: &EmojiClips,
        settings: EmojiSentimentSettings,
    ) -> Result<Self, DataError> {
        if settings.text.keywords == KeywordUse::Sampled {
            let expected = "among `none` and `all`, since an item keeps its words";
            return Err(bad_setting(clips.path(), "keywords", "sampled", expected));
        }
        let (_, n_frames, width) = clips.frames().dim();
        let video_dim = settings.video_dim;
        if !(1..=width).contains(&video_dim) {
            let expected = format!("in [1, {width}]");
            return Err(bad_setting(clips.path(), "video_dim", video_dim, &expected));
        }
        let rated: Vec<(usize, &Clip, SentimentCounts)> = clips
            .clips()
            .iter()
            .enumerate()
            .filter_map(|(index, clip)| Some((index, clip, clip.sentiment_counts?)))
            .collect();
        let indices: Vec<usize> = rated.iter().map(|(index, _, _)| *index).collect();
        let frames = clips.frames().slice(s![.., .., ..video_dim]);
        let entries = rated
            .iter()
            .enumerate()
            .map(|(row, (_, clip, counts))| Entry {
                name: format!("{} {}", clip.code, clip.name),
                video_id: clip.code.clone(),
                words: settings.text.text(clip, 0),
                label: label(*counts),
                split: clip.split,
                row,
                steps: [0, 0, n_frames],
            });
        Ok(Self {
            label: clips.path().to_path_buf(),
            source: Source::Clips(frames.select(Axis(0), &indices)),
            division: None,
            entries: entries.collect(),
            widths: [0, 0, video_dim],
            // Holding out by code would tear the variants of a name apart.
            held_out: HeldOutVideos::of(std::iter::empty()),
            warnings: Vec::new(),
            word_piece: clips.word_piece().clone(),
        })
    }
}

/// Three times the sentiment score of the counts.
fn label(counts: SentimentCounts) -> f32 {
    let [negative, neutral, positive] =
        [counts.negative, counts.neutral, counts.positive].map(f64::from);
    let score = (positive - negative) / (negative + neutral + positive + 3.0);
    MAX_LABEL * score as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emoji_clips::Split;
    use crate::mosi::Modality;
    use crate::sets::SentimentCollator;

    fn settings(keywords: KeywordUse, video_dim: usize) -> EmojiSentimentSettings {
        EmojiSentimentSettings {
            text: ClipText { keywords },
            video_dim,
        }
    }

    fn set(keywords: KeywordUse) -> SentimentSet {
        SentimentSet::of_clips(&EmojiClips::embedded().unwrap(), settings(keywords, 32)).unwrap()
    }

    #[test]
    fn every_split_holds_its_clips_with_counts() {
        let (set, clips) = (set(KeywordUse::None), EmojiClips::embedded().unwrap());
        assert_eq!(set.n_items(), 306);
        let sizes = Split::ALL.map(|split| {
            let names: Vec<String> = set
                .split(split.name())
                .unwrap()
                .into_iter()
                .map(|index| set.item_name(index))
                .collect();
            let expected: Vec<String> = clips
                .clips()
                .iter()
                .filter(|clip| clip.split == split && clip.sentiment_counts.is_some())
                .map(|clip| format!("{} {}", clip.code, clip.name))
                .collect();
            assert_eq!(names, expected);
            names.len()
        });
        assert_eq!(sizes, [218, 36, 52]);
        for name in ["train_fit", "train_held_out", "dev"] {
            let error = set.split(name).unwrap_err().to_string();
            assert!(
                error.ends_with("; use one of train, valid, test"),
                "{error}"
            );
        }
        assert!(set.warnings().is_empty());
    }

    #[test]
    fn labels_are_three_times_the_score_of_the_table() {
        let (set, clips) = (set(KeywordUse::None), EmojiClips::embedded().unwrap());
        let scores: Vec<f32> = clips
            .clips()
            .iter()
            .filter_map(|clip| clip.sentiment)
            .collect();
        assert_eq!(scores.len(), set.n_items());
        for (index, score) in scores.into_iter().enumerate() {
            let label = set.sample(index).unwrap().label;
            assert!(label.abs() < MAX_LABEL);
            // The table has four decimals.
            assert!((label - MAX_LABEL * score).abs() < 3e-4, "{index}: {label}");
        }
    }

    #[test]
    fn counts_of_one_kind_and_no_counts_stay_in_range() {
        let counts = |negative, neutral, positive| SentimentCounts {
            negative,
            neutral,
            positive,
        };
        assert_eq!(label(counts(0, 0, 0)), 0.0);
        assert_eq!(label(counts(0, 0, 3)), 1.5);
        assert_eq!(label(counts(9, 0, 0)), -2.25);
        assert_eq!(label(counts(1, 2, 3)), label(counts(0, 4, 2)));
        // Beyond the precision of `f32` the limit itself is reached.
        assert_eq!(label(counts(0, 0, u32::MAX)), 3.0);
    }

    #[test]
    fn a_sample_has_the_words_and_the_first_features_of_every_frame() {
        let clips = EmojiClips::embedded().unwrap();
        let position = clips
            .clips()
            .iter()
            .position(|clip| clip.name == "water wave")
            .unwrap();
        for keywords in [KeywordUse::None, KeywordUse::All] {
            let set = set(keywords);
            let index = (0..set.n_items())
                .find(|index| set.item_name(*index).ends_with(" water wave"))
                .unwrap();
            let sample = set.sample(index).unwrap();
            let expected = clips.frames().slice(s![position, .., ..32]);
            assert_eq!(
                (sample.video.dim(), &sample.video),
                ((8, 32), &expected.to_owned())
            );
            assert_eq!(
                (sample.audio.dim(), sample.text_features.dim()),
                ((0, 0), (0, 0))
            );
            let text = ClipText { keywords }.text(&clips.clips()[position], 0);
            assert_eq!(sample.words, text);
        }
        let set = set(KeywordUse::None);
        assert_eq!(
            (set.text_width(), set.audio_width(), set.video_width()),
            (0, 0, 32)
        );
        let steps = [Modality::Text, Modality::Audio, Modality::Video]
            .map(|modality| set.max_steps(modality));
        assert_eq!(steps, [0, 0, 8]);
        assert!(set.sample(306).is_err());
    }

    #[test]
    fn clips_become_batches_with_words_and_frames_to_predict() {
        let set = set(KeywordUse::All);
        let collator = SentimentCollator {
            max_words: 32,
            max_frames: 8,
            mask_probability: 0.15,
        };
        let train = set.split("train").unwrap();
        let batch = collator.collate(&set, &train[..6], 3).unwrap();
        assert_eq!(
            (batch.text_ids.dim(), batch.video.dim()),
            ((6, 32), (6, 8, 32))
        );
        assert_eq!(
            (batch.text_features.dim(), batch.audio.dim()),
            ((6, 1, 0), (6, 1, 0))
        );
        assert!(batch.audio_pad.iter().all(|&pad| pad));
        assert!(batch.video_pad.iter().all(|&pad| !pad));
        for row in 0..6 {
            assert!(batch.predict_words.row(row).iter().any(|&predict| predict));
            assert!(batch.predict_frames.row(row).iter().any(|&predict| predict));
        }
        assert_eq!(batch.item_ids, train[..6]);
        let all: Vec<usize> = (0..set.n_items()).collect();
        let clean = collator.collate_clean(&set, &all).unwrap();
        let is_full = |row: ndarray::ArrayView1<'_, bool>| row.iter().all(|&pad| !pad);
        assert!(
            !clean.text_pad.rows().into_iter().any(is_full),
            "a text is cut"
        );
        assert!(clean.labels.iter().all(|label| label.abs() < MAX_LABEL));
        let few = SentimentCollator {
            max_frames: 3,
            ..collator
        };
        let thinned = few.collate_clean(&set, &[0]).unwrap();
        assert_eq!(thinned.video.dim(), (1, 3, 32));
    }

    #[test]
    fn an_occurring_vocabulary_is_smaller_and_spells_alike() {
        let full = set(KeywordUse::None);
        let small = full.clone().with_occurring_vocabulary().unwrap();
        assert!(small.word_piece().vocab_size() < full.word_piece().vocab_size());
        let tokens = |set: &SentimentSet, index: usize| -> Vec<String> {
            let words = set.sample(index).unwrap().words;
            let ids = set.word_piece().encode(&words).into_iter();
            ids.map(|id| set.word_piece().token(id).unwrap().to_owned())
                .collect()
        };
        for index in 0..full.n_items() {
            assert_eq!(tokens(&small, index), tokens(&full, index));
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let clips = EmojiClips::embedded().unwrap();
        for (settings, message) in [
            (
                settings(KeywordUse::None, 0),
                "`video_dim` is 0; choose a value in [1, 512]",
            ),
            (
                settings(KeywordUse::All, 513),
                "`video_dim` is 513; choose a value in [1, 512]",
            ),
            (
                settings(KeywordUse::Sampled, 8),
                "`keywords` is sampled; choose a value among `none` and `all`",
            ),
        ] {
            let error = SentimentSet::of_clips(&clips, settings)
                .unwrap_err()
                .to_string();
            assert!(error.contains(message), "{error}");
        }
        let text = r#"{"text": {"keywords": "all"}, "video_dim": 32}"#;
        let read: EmojiSentimentSettings = serde_json::from_str(text).unwrap();
        assert_eq!(read, settings(KeywordUse::All, 32));
    }
}
