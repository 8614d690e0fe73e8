//! Padded batches of utterances for sentiment.

use ndarray::{Array2, Array3, aview1, s};
use serde::{Deserialize, Serialize};

use crate::batch::CollateMode;
use crate::error::{ConfigError, DataError, DataErrorKind};
use crate::masking::{mask_frames, mask_words};
use crate::mosi::Modality;
use crate::seed::seed_for;
use crate::sets::mosi_set::{SentimentSample, SentimentSet};
use crate::word_piece::WordPiece;

/// Purposes for which an item draws random numbers, each from a stream of its own.
const WORD_STREAM: u64 = 1;
const FRAME_STREAM: u64 = 3;

/// Tokens that a row needs at least: `[CLS]`, one word, `[SEP]`.
const MIN_WORDS: usize = 3;

/// A padded batch of utterances on the host.
///
/// Letters: `B` items, `L` tokens ([`max_words`](SentimentCollator::max_words)), and for each
/// source of features its number of steps `N` (that of the longest utterance of the set, at most
/// [`max_frames`](SentimentCollator::max_frames), and 1 if its features are not used) and its width
/// `D` (0 if they are not used). Padding masks are true where there is nothing; prediction masks
/// are true where something is to be predicted.
#[derive(Clone, Debug, PartialEq)]
pub struct SentimentBatch {
    /// `[CLS]` tokens `[SEP]`, then padding, `[B, L]`.
    pub text_ids: Array2<i64>,
    /// True at padding of the words, `[B, L]`.
    pub text_pad: Array2<bool>,
    /// [`text_ids`](Self::text_ids) with some tokens hidden, `[B, L]`.
    pub masked_text_ids: Array2<i64>,
    /// True where the original token is to be predicted, `[B, L]`.
    pub predict_words: Array2<bool>,
    /// Features of the words, zero at padding, `[B, Nt, Dt]`.
    pub text_features: Array3<f32>,
    /// True at padding of the features of the words, `[B, Nt]`.
    pub text_features_pad: Array2<bool>,
    /// Acoustic features, zero at padding, `[B, Na, Da]`.
    pub audio: Array3<f32>,
    /// True at padding of the acoustic features, `[B, Na]`.
    pub audio_pad: Array2<bool>,
    /// Features of the face, nothing hidden, zero at padding, `[B, Nv, Dv]`.
    pub video: Array3<f32>,
    /// True at padding of the features of the face, `[B, Nv]`.
    pub video_pad: Array2<bool>,
    /// True where a step of the video is to be replaced by zeros and predicted, `[B, Nv]`.
    pub predict_frames: Array2<bool>,
    /// Sentiment in [-3, 3], `[B]`.
    pub labels: Vec<f32>,
    /// Number of each item in its set, `[B]`.
    pub item_ids: Vec<usize>,
}

impl SentimentBatch {
    /// Number of items.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.item_ids.len()
    }

    /// The video with zeros in place of the steps that are to be predicted.
    ///
    /// # Shapes
    ///
    /// - output: `[B, Nv, Dv]`
    #[must_use]
    pub fn masked_video(&self) -> Array3<f32> {
        let mut video = self.video.clone();
        for ((item, step), &predict) in self.predict_frames.indexed_iter() {
            if predict {
                video.slice_mut(s![item, step, ..]).fill(0.0);
            }
        }
        video
    }
}

/// Turns utterances into padded batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentimentCollator {
    /// Tokens of a row `L`, `[CLS]` and `[SEP]` included; at least 3.
    pub max_words: usize,
    /// Steps of a sequence of features at most, at least 1; longer ones are thinned evenly.
    pub max_frames: usize,
    /// Probability that a word, and that a step of the video, is to be predicted; in `[0, 1]`, 0
    /// for none.
    pub mask_probability: f64,
}

impl SentimentCollator {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::OutOfRange`] for the first setting that is not admissible.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |field: &'static str, value: String, expected: &str| {
            Err(ConfigError::OutOfRange {
                field,
                value,
                expected: expected.to_owned(),
            })
        };
        if self.max_words < MIN_WORDS {
            return refuse("max_words", self.max_words.to_string(), "of at least 3");
        }
        if self.max_frames < 1 {
            return refuse("max_frames", self.max_frames.to_string(), "of at least 1");
        }
        if !(0.0..=1.0).contains(&self.mask_probability) {
            let value = self.mask_probability.to_string();
            return refuse("mask_probability", value, "in [0, 1]");
        }
        Ok(())
    }

    /// A training batch: words and steps of the video are hidden.
    ///
    /// A pure function: what happens to an item depends on the settings, `seed` and its index, not
    /// on its place in the batch.
    ///
    /// # Errors
    ///
    /// Returns an error if an index is beyond the set or there is none, or if a setting is not
    /// admissible.
    pub fn collate(
        &self,
        set: &SentimentSet,
        indices: &[usize],
        seed: u64,
    ) -> Result<SentimentBatch, DataError> {
        self.batch(set, indices, CollateMode::Training { seed })
    }

    /// A batch for evaluation: nothing hidden.
    ///
    /// # Errors
    ///
    /// As [`collate`](Self::collate).
    pub fn collate_clean(
        &self,
        set: &SentimentSet,
        indices: &[usize],
    ) -> Result<SentimentBatch, DataError> {
        self.batch(set, indices, CollateMode::Clean)
    }

    fn batch(
        &self,
        set: &SentimentSet,
        indices: &[usize],
        mode: CollateMode,
    ) -> Result<SentimentBatch, DataError> {
        self.validate()
            .map_err(|source| DataError::new(set.label(), DataErrorKind::Config { source }))?;
        if indices.is_empty() {
            return Err(DataError::new(set.label(), DataErrorKind::EmptyBatch));
        }
        let mut batch = self.blank(set, indices.len());
        for (row, &index) in indices.iter().enumerate() {
            let sample = set.sample(index)?;
            batch.item_ids.push(index);
            batch.labels.push(sample.label);
            self.put_words(&mut batch, row, set.word_piece(), &sample, mode);
            let (text, pad) = (&mut batch.text_features, &mut batch.text_features_pad);
            put_steps(text, pad, row, &sample.text_features);
            put_steps(&mut batch.audio, &mut batch.audio_pad, row, &sample.audio);
            let n_frames = put_steps(&mut batch.video, &mut batch.video_pad, row, &sample.video);
            if let CollateMode::Training { seed } = mode {
                let predict = mask_frames(
                    n_frames,
                    batch.predict_frames.ncols(),
                    self.mask_probability,
                    seed_for(seed, &[index as u64, FRAME_STREAM]),
                );
                let mut target = batch.predict_frames.row_mut(row);
                target.assign(&aview1(&predict));
            }
        }
        Ok(batch)
    }

    fn blank(&self, set: &SentimentSet, n_items: usize) -> SentimentBatch {
        let words = (n_items, self.max_words);
        let pad = set.word_piece().special().pad;
        let n_steps = |modality| set.max_steps(modality).clamp(1, self.max_frames);
        let features = |modality| Array3::zeros((n_items, n_steps(modality), set.width(modality)));
        let mask = |modality, value| Array2::from_elem((n_items, n_steps(modality)), value);
        SentimentBatch {
            text_ids: Array2::from_elem(words, pad),
            text_pad: Array2::from_elem(words, true),
            masked_text_ids: Array2::from_elem(words, pad),
            predict_words: Array2::from_elem(words, false),
            text_features: features(Modality::Text),
            text_features_pad: mask(Modality::Text, true),
            audio: features(Modality::Audio),
            audio_pad: mask(Modality::Audio, true),
            video: features(Modality::Video),
            video_pad: mask(Modality::Video, true),
            predict_frames: mask(Modality::Video, false),
            labels: Vec::with_capacity(n_items),
            item_ids: Vec::with_capacity(n_items),
        }
    }

    fn put_words(
        &self,
        batch: &mut SentimentBatch,
        row: usize,
        word_piece: &WordPiece,
        sample: &SentimentSample,
        mode: CollateMode,
    ) {
        let padded = word_piece.encode_padded(&sample.words, self.max_words);
        let ids = aview1(&padded.ids);
        batch.text_ids.row_mut(row).assign(&ids);
        let padding = padded.padding();
        batch.text_pad.row_mut(row).assign(&aview1(&padding));
        match mode {
            CollateMode::Clean => batch.masked_text_ids.row_mut(row).assign(&ids),
            CollateMode::Training { seed } => {
                let masked = mask_words(
                    &padded.ids,
                    padded.n_tokens,
                    word_piece.special(),
                    word_piece.vocab_size(),
                    self.mask_probability,
                    seed_for(seed, &[sample.id as u64, WORD_STREAM]),
                );
                let mut target = batch.masked_text_ids.row_mut(row);
                target.assign(&aview1(&masked.ids));
                let mut target = batch.predict_words.row_mut(row);
                target.assign(&aview1(&masked.predict));
            }
        }
    }
}

/// Copies steps to the beginning of a row and returns their number; 0 for unused features.
fn put_steps(
    features: &mut Array3<f32>,
    pad: &mut Array2<bool>,
    row: usize,
    steps: &Array2<f32>,
) -> usize {
    let (_, capacity, width) = features.dim();
    if width == 0 {
        return 0;
    }
    let chosen = thinned(steps.nrows(), capacity);
    for (place, &step) in chosen.iter().enumerate() {
        let mut target = features.slice_mut(s![row, place, ..]);
        target.assign(&steps.row(step));
        pad[[row, place]] = false;
    }
    chosen.len()
}

/// Every step, or the middles of `capacity` equal parts of a longer sequence.
fn thinned(n_steps: usize, capacity: usize) -> Vec<usize> {
    if n_steps <= capacity {
        return (0..n_steps).collect();
    }
    let middle = |part: usize| (2 * part + 1) * n_steps / (2 * capacity);
    (0..capacity).map(middle).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;
    use proptest::prelude::*;

    use super::*;
    use crate::mosi::MosiSplits;
    use crate::sets::mosi_set::tests::open;

    const PAD: i64 = 0;
    const CLS: i64 = 2;
    const SEP: i64 = 3;

    fn collator() -> SentimentCollator {
        SentimentCollator {
            max_words: 5,
            max_frames: 4,
            mask_probability: 0.5,
        }
    }

    #[test]
    fn a_clean_batch_hides_nothing_and_pads() {
        let set = open(MosiSplits::Poria, &[Modality::Text, Modality::Audio]);
        let batch = collator().collate_clean(&set, &[2, 0]).unwrap();
        assert_eq!(
            batch.text_ids,
            arr2(&[[CLS, SEP, PAD, PAD, PAD], [CLS, 5, 6, SEP, PAD]])
        );
        assert_eq!(batch.masked_text_ids, batch.text_ids);
        assert_eq!(batch.text_pad, batch.text_ids.mapv(|id| id == PAD));
        assert!(!batch.predict_words.iter().any(|&predict| predict));
        assert_eq!(batch.text_features.dim(), (2, 1, 1));
        assert_eq!(batch.audio.dim(), (2, 1, 2));
        assert_eq!(batch.audio.slice(s![1, 0, ..]).to_vec(), [1.0, 2.0]);
        assert!(!batch.audio_pad.iter().any(|&pad| pad));
        assert_eq!(
            (batch.video.dim(), batch.video_pad[[0, 0]]),
            ((2, 1, 0), true)
        );
        assert!(!batch.predict_frames.iter().any(|&predict| predict));
        assert_eq!(
            (batch.labels.as_slice(), batch.batch_size()),
            (&[0.0, 1.5][..], 2)
        );
        assert_eq!(batch.item_ids, [2, 0]);
    }

    #[test]
    fn an_item_is_masked_alike_wherever_it_is() {
        let set = open(MosiSplits::Poria, &[Modality::Video]);
        let batch = collator().collate(&set, &[0, 1, 0], 3).unwrap();
        assert_eq!(batch.masked_text_ids.row(0), batch.masked_text_ids.row(2));
        assert_eq!(batch.predict_words.row(0), batch.predict_words.row(2));
        assert!(batch.predict_words.row(0).iter().any(|&predict| predict));
        // The only step of a video is always the one that is predicted.
        assert!(batch.predict_frames.iter().all(|&predict| predict));
        assert_eq!(batch.video[[1, 0, 0]], 8.0);
        assert!(batch.masked_video().iter().all(|&value| value == 0.0));
        assert_eq!(batch, collator().collate(&set, &[0, 1, 0], 3).unwrap());
    }

    #[test]
    fn settings_out_of_range_and_bad_indices_are_errors() {
        let set = open(MosiSplits::Poria, &[]);
        let with = |words, frames, probability| SentimentCollator {
            max_words: words,
            max_frames: frames,
            mask_probability: probability,
        };
        for (collator, message) in [
            (
                with(2, 1, 0.0),
                "`max_words` is 2; choose a value of at least 3",
            ),
            (
                with(3, 0, 0.0),
                "`max_frames` is 0; choose a value of at least 1",
            ),
            (with(3, 1, f64::NAN), "`mask_probability` is NaN"),
        ] {
            let error = collator.collate(&set, &[0], 1).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let error = collator().collate_clean(&set, &[]).unwrap_err();
        assert!(matches!(error.kind, DataErrorKind::EmptyBatch));
        let error = collator().collate(&set, &[3], 1).unwrap_err();
        assert!(matches!(error.kind, DataErrorKind::IndexOutOfRange { .. }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn long_sequences_are_thinned_in_order(n_steps in 1_usize..60, capacity in 1_usize..12) {
            let chosen = thinned(n_steps, capacity);
            prop_assert_eq!(chosen.len(), n_steps.min(capacity));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(chosen.iter().all(|&step| step < n_steps));
        }
    }
}
