//! Samples of video and text, and the padded batches made of them.

use std::path::Path;

use ndarray::{Array2, Array3, s};
use serde::{Deserialize, Serialize};

use crate::error::{ConfigError, DataError, DataErrorKind};
use crate::masking::{mask_frames, mask_words};
use crate::seed::{RandomStream, seed_for};
use crate::video_text_set::{Draw, VideoTextSet};
use crate::word_piece::WordPiece;

/// Purposes for which an item draws random numbers, each from a stream of its own.
const TEXT_STREAM: u64 = 0;
const WORD_STREAM: u64 = 1;
const SUBSET_STREAM: u64 = 2;
const FRAME_STREAM: u64 = 3;
const NOISE_STREAM: u64 = 4;

/// Tokens that a row needs at least: `[CLS]`, one word, `[SEP]`.
const MIN_WORDS: usize = 3;

/// One video with one text, before padding.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoTextSample {
    /// Number of the item in its set.
    pub id: usize,
    /// The text that the encoder reads, as people write it.
    pub text: String,
    /// What the decoder has to say; the text itself if `None`.
    pub caption: Option<String>,
    /// Features of the frames in temporal order, `[F_i, K]`.
    pub frames: Array2<f32>,
}

/// A padded batch of videos and texts on the host.
///
/// Letters: `B` items, `L` text tokens ([`max_words`](VideoTextCollator::max_words)), `F` frames
/// ([`max_frames`](VideoTextCollator::max_frames)), `Dv` features of a frame
/// ([`video_dim`](VideoTextCollator::video_dim)). Padding masks are true where there is nothing;
/// prediction masks are true where something is to be predicted.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoTextBatch {
    /// `[CLS]` tokens `[SEP]`, then padding, `[B, L]`.
    pub text_ids: Array2<i64>,
    /// True at padding of the text, `[B, L]`.
    pub text_pad: Array2<bool>,
    /// [`text_ids`](Self::text_ids) with some tokens hidden, `[B, L]`.
    pub masked_text_ids: Array2<i64>,
    /// True where the original token is to be predicted, `[B, L]`.
    pub predict_words: Array2<bool>,
    /// Frame features, nothing hidden, zero at padding, `[B, F, Dv]`.
    pub video: Array3<f32>,
    /// True at padding of the video, `[B, F]`.
    pub video_pad: Array2<bool>,
    /// True where a frame is to be replaced by zeros and predicted, `[B, F]`.
    pub predict_frames: Array2<bool>,
    /// What the decoder is given: `[CLS]` tokens, then padding, `[B, L]`.
    pub decoder_input_ids: Array2<i64>,
    /// What the decoder has to say: tokens `[SEP]`, then padding, `[B, L]`.
    pub decoder_target_ids: Array2<i64>,
    /// True at padding of the decoder's input and target, `[B, L]`.
    pub decoder_pad: Array2<bool>,
    /// Number of each item in its set, `[B]`.
    pub item_ids: Vec<usize>,
}

impl VideoTextBatch {
    /// Number of items.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.item_ids.len()
    }

    /// The video with zeros in place of the frames that are to be predicted.
    ///
    /// # Shapes
    ///
    /// - output: `[B, F, Dv]`
    #[must_use]
    pub fn masked_video(&self) -> Array3<f32> {
        let mut video = self.video.clone();
        for ((item, frame), &predict) in self.predict_frames.indexed_iter() {
            if predict {
                video.slice_mut(s![item, frame, ..]).fill(0.0);
            }
        }
        video
    }
}

/// Which frames of a clip go into a training batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameSampling {
    /// Every frame; evenly spaced ones of a clip that has too many.
    All,
    /// A random subset in temporal order, its size uniform from `min` to what fits.
    RandomSubset {
        /// Smallest number of frames, in `[1, max_frames]`; a shorter clip is taken whole.
        min: usize,
    },
}

/// Whether a batch is for training or for evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollateMode {
    /// Hidden words and frames and augmentation, drawn from the seed and the number of the item.
    Training {
        /// Seed of the batch; another one gives other draws for the same items.
        seed: u64,
    },
    /// Nothing hidden, every frame, no noise.
    Clean,
}

/// Turns samples into padded batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoTextCollator {
    /// Tokens of a row `L`, `[CLS]` and `[SEP]` included; at least 3.
    pub max_words: usize,
    /// Frames of a row `F`; at least 1.
    pub max_frames: usize,
    /// Leading features of a frame that are used `Dv`; in `[1, K]`.
    pub video_dim: usize,
    /// Probability that a word, and that a frame, is to be predicted; in `[0, 1]`, 0 for none.
    pub mask_probability: f64,
    /// Which frames a training batch uses.
    pub frame_sampling: FrameSampling,
    /// Standard deviation of the normal noise on the features of a training batch; at least 0, in
    /// units of the features.
    #[serde(default)]
    pub feature_noise: f32,
}

impl VideoTextCollator {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::OutOfRange`] for the first setting that is not admissible.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.max_words < MIN_WORDS {
            return Err(out_of_range("max_words", self.max_words, "of at least 3"));
        }
        if self.max_frames < 1 {
            return Err(out_of_range("max_frames", self.max_frames, "of at least 1"));
        }
        if self.video_dim < 1 {
            return Err(out_of_range("video_dim", self.video_dim, "of at least 1"));
        }
        if !(0.0..=1.0).contains(&self.mask_probability) {
            return Err(out_of_range(
                "mask_probability",
                self.mask_probability,
                "in [0, 1]",
            ));
        }
        if !self.feature_noise.is_finite() || self.feature_noise < 0.0 {
            return Err(out_of_range(
                "feature_noise",
                self.feature_noise,
                "in [0, inf)",
            ));
        }
        match self.frame_sampling {
            FrameSampling::RandomSubset { min } if !(1..=self.max_frames).contains(&min) => Err(
                out_of_range("frame_sampling.min", min, "in [1, `max_frames`]"),
            ),
            _ => Ok(()),
        }
    }

    /// A training batch: words and frames are hidden, texts and frames augmented.
    ///
    /// A pure function: what happens to an item depends on the settings, `seed` and its index, not
    /// on its place in the batch.
    ///
    /// # Errors
    ///
    /// Returns an error if an index is beyond the set or there is none, if a setting is not
    /// admissible, or if the clips have fewer features than `video_dim`.
    pub fn collate(
        &self,
        set: &dyn VideoTextSet,
        indices: &[usize],
        seed: u64,
    ) -> Result<VideoTextBatch, DataError> {
        let samples = indices
            .iter()
            .map(|&index| {
                let seed = seed_for(seed, &[index as u64, TEXT_STREAM]);
                set.sample(index, Draw::Training { seed })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mode = CollateMode::Training { seed };
        self.collate_samples(set.label(), set.word_piece(), &samples, mode)
    }

    /// A batch for evaluation: nothing hidden, every frame, no noise, each item's one text for
    /// evaluation.
    ///
    /// # Errors
    ///
    /// As [`collate`](Self::collate).
    pub fn collate_clean(
        &self,
        set: &dyn VideoTextSet,
        indices: &[usize],
    ) -> Result<VideoTextBatch, DataError> {
        let samples = indices
            .iter()
            .map(|&index| set.sample(index, Draw::Evaluation))
            .collect::<Result<Vec<_>, _>>()?;
        self.collate_samples(set.label(), set.word_piece(), &samples, CollateMode::Clean)
    }

    /// A batch of samples of any set; `label` is the path of the set in errors.
    ///
    /// Texts longer than the row are cut: the encoder keeps `L − 2` tokens and the decoder `L − 1`,
    /// as in the reference code. Clips of more than `F` frames are thinned.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::EmptyBatch`] without samples, [`DataErrorKind::Config`] if a
    /// setting is not admissible, and [`DataErrorKind::WrongShape`] if a sample has no frame or
    /// fewer features than `video_dim`.
    pub fn collate_samples(
        &self,
        label: &Path,
        word_piece: &WordPiece,
        samples: &[VideoTextSample],
        mode: CollateMode,
    ) -> Result<VideoTextBatch, DataError> {
        self.validate()
            .map_err(|source| DataError::new(label, DataErrorKind::Config { source }))?;
        if samples.is_empty() {
            return Err(DataError::new(label, DataErrorKind::EmptyBatch));
        }
        let mut batch = self.blank(samples.len(), word_piece.special().pad);
        for (row, sample) in samples.iter().enumerate() {
            if sample.frames.nrows() == 0 || sample.frames.ncols() < self.video_dim {
                let kind = DataErrorKind::WrongShape {
                    name: format!("frames of item {}", sample.id),
                    expected: format!(
                        "one or more rows of `video_dim` = {} or more",
                        self.video_dim
                    ),
                    actual: sample.frames.shape().to_vec(),
                };
                return Err(DataError::new(label, kind));
            }
            batch.item_ids.push(sample.id);
            self.put_text(&mut batch, row, word_piece, sample, mode);
            self.put_video(&mut batch, row, sample, mode);
        }
        Ok(batch)
    }

    fn blank(&self, n_items: usize, pad: i64) -> VideoTextBatch {
        let words = (n_items, self.max_words);
        let frames = (n_items, self.max_frames);
        VideoTextBatch {
            text_ids: Array2::from_elem(words, pad),
            text_pad: Array2::from_elem(words, true),
            masked_text_ids: Array2::from_elem(words, pad),
            predict_words: Array2::from_elem(words, false),
            video: Array3::zeros((n_items, self.max_frames, self.video_dim)),
            video_pad: Array2::from_elem(frames, true),
            predict_frames: Array2::from_elem(frames, false),
            decoder_input_ids: Array2::from_elem(words, pad),
            decoder_target_ids: Array2::from_elem(words, pad),
            decoder_pad: Array2::from_elem(words, true),
            item_ids: Vec::with_capacity(n_items),
        }
    }

    fn put_text(
        &self,
        batch: &mut VideoTextBatch,
        row: usize,
        word_piece: &WordPiece,
        sample: &VideoTextSample,
        mode: CollateMode,
    ) {
        let special = word_piece.special();
        let tokens = word_piece.encode(&sample.text);
        let caption = sample
            .caption
            .as_ref()
            .map_or_else(|| tokens.clone(), |caption| word_piece.encode(caption));
        let encoder_tokens = &tokens[..tokens.len().min(self.max_words - 2)];
        let decoder_tokens = &caption[..caption.len().min(self.max_words - 1)];

        let ids = [&[special.cls][..], encoder_tokens, &[special.sep][..]].concat();
        put_row(&mut batch.text_ids, row, &ids);
        put_row(&mut batch.text_pad, row, &vec![false; ids.len()]);
        match mode {
            CollateMode::Clean => put_row(&mut batch.masked_text_ids, row, &ids),
            CollateMode::Training { seed } => {
                let masked = mask_words(
                    &ids,
                    ids.len(),
                    special,
                    word_piece.vocab_size(),
                    self.mask_probability,
                    seed_for(seed, &[sample.id as u64, WORD_STREAM]),
                );
                put_row(&mut batch.masked_text_ids, row, &masked.ids);
                put_row(&mut batch.predict_words, row, &masked.predict);
            }
        }

        let input = [&[special.cls][..], decoder_tokens].concat();
        let target = [decoder_tokens, &[special.sep][..]].concat();
        put_row(&mut batch.decoder_input_ids, row, &input);
        put_row(&mut batch.decoder_target_ids, row, &target);
        put_row(&mut batch.decoder_pad, row, &vec![false; input.len()]);
    }

    fn put_video(
        &self,
        batch: &mut VideoTextBatch,
        row: usize,
        sample: &VideoTextSample,
        mode: CollateMode,
    ) {
        let n_frames = sample.frames.nrows();
        let chosen = match mode {
            CollateMode::Clean => self.thinned(n_frames),
            CollateMode::Training { seed } => {
                self.sampled(n_frames, seed_for(seed, &[sample.id as u64, SUBSET_STREAM]))
            }
        };
        for (place, &frame) in chosen.iter().enumerate() {
            let features = sample.frames.slice(s![frame, ..self.video_dim]);
            batch.video.slice_mut(s![row, place, ..]).assign(&features);
        }
        put_row(&mut batch.video_pad, row, &vec![false; chosen.len()]);
        let CollateMode::Training { seed } = mode else {
            return;
        };
        if self.feature_noise > 0.0 {
            let mut stream = RandomStream::new(seed_for(seed, &[sample.id as u64, NOISE_STREAM]));
            let deviation = f64::from(self.feature_noise);
            let mut valid = batch.video.slice_mut(s![row, ..chosen.len(), ..]);
            for feature in valid.iter_mut() {
                *feature += (deviation * stream.normal()) as f32;
            }
        }
        let predict = mask_frames(
            chosen.len(),
            self.max_frames,
            self.mask_probability,
            seed_for(seed, &[sample.id as u64, FRAME_STREAM]),
        );
        put_row(&mut batch.predict_frames, row, &predict);
    }

    /// Every frame, or the middles of `max_frames` equal parts of a longer clip.
    fn thinned(&self, n_frames: usize) -> Vec<usize> {
        if n_frames <= self.max_frames {
            return (0..n_frames).collect();
        }
        (0..self.max_frames)
            .map(|part| (2 * part + 1) * n_frames / (2 * self.max_frames))
            .collect()
    }

    fn sampled(&self, n_frames: usize, seed: u64) -> Vec<usize> {
        let FrameSampling::RandomSubset { min } = self.frame_sampling else {
            return self.thinned(n_frames);
        };
        let mut stream = RandomStream::new(seed);
        let largest = n_frames.min(self.max_frames);
        let smallest = min.min(largest);
        let count = smallest + stream.below(largest - smallest + 1);
        stream.subset(n_frames, count)
    }
}

fn out_of_range(field: &'static str, value: impl ToString, expected: &str) -> ConfigError {
    ConfigError::OutOfRange {
        field,
        value: value.to_string(),
        expected: expected.to_owned(),
    }
}

/// Copies values to the beginning of a row and leaves the rest of it as it is.
fn put_row<T: Clone>(array: &mut Array2<T>, row: usize, values: &[T]) {
    for (cell, value) in array.row_mut(row).iter_mut().zip(values) {
        cell.clone_from(value);
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, Axis, arr2};
    use proptest::prelude::*;

    use super::*;
    use crate::emoji_clips::{ClipText, EmojiClips, KeywordUse};
    use crate::sets::EmojiPairs;

    const PAD: i64 = 0;
    const CLS: i64 = 2;
    const SEP: i64 = 3;
    const MASK: i64 = 4;

    fn word_piece() -> WordPiece {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\ne\nf\ng\n";
        WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap()
    }

    fn collator() -> VideoTextCollator {
        VideoTextCollator {
            max_words: 5,
            max_frames: 3,
            video_dim: 2,
            mask_probability: 0.15,
            frame_sampling: FrameSampling::All,
            feature_noise: 0.0,
        }
    }

    /// Frame `f` holds `10 f + 1`, `10 f + 2`, `10 f + 3`.
    fn sample(id: usize, text: &str, n_frames: usize) -> VideoTextSample {
        let frames = Array2::from_shape_fn((n_frames, 3), |(frame, feature)| {
            (10 * frame + feature + 1) as f32
        });
        VideoTextSample {
            id,
            text: text.to_owned(),
            caption: None,
            frames,
        }
    }

    fn collate(
        collator: &VideoTextCollator,
        samples: &[VideoTextSample],
        mode: CollateMode,
    ) -> Result<VideoTextBatch, DataError> {
        collator.collate_samples(Path::new("set"), &word_piece(), samples, mode)
    }

    fn clean(samples: &[VideoTextSample]) -> VideoTextBatch {
        collate(&collator(), samples, CollateMode::Clean).unwrap()
    }

    #[test]
    fn a_clean_batch_is_as_worked_by_hand() {
        let batch = clean(&[sample(7, "a b", 2), sample(9, "a b c d e f", 3)]);
        assert_eq!(batch.item_ids, [7, 9]);
        assert_eq!(batch.batch_size(), 2);
        assert_eq!(
            batch.text_ids,
            arr2(&[[CLS, 5, 6, SEP, PAD], [CLS, 5, 6, 7, SEP]])
        );
        assert_eq!(
            batch.text_pad,
            arr2(&[
                [false, false, false, false, true],
                [false, false, false, false, false]
            ])
        );
        assert_eq!(batch.masked_text_ids, batch.text_ids);
        assert!(!batch.predict_words.iter().any(|&predict| predict));
        assert_eq!(
            batch.decoder_input_ids,
            arr2(&[[CLS, 5, 6, PAD, PAD], [CLS, 5, 6, 7, 8]])
        );
        assert_eq!(
            batch.decoder_target_ids,
            arr2(&[[5, 6, SEP, PAD, PAD], [5, 6, 7, 8, SEP]])
        );
        assert_eq!(
            batch.decoder_pad,
            arr2(&[
                [false, false, false, true, true],
                [false, false, false, false, false]
            ])
        );
        assert_eq!(
            batch.video.index_axis(Axis(0), 0),
            arr2(&[[1.0_f32, 2.0], [11.0, 12.0], [0.0, 0.0]])
        );
        assert_eq!(
            batch.video_pad,
            arr2(&[[false, false, true], [false, false, false]])
        );
        assert_eq!(batch.masked_video(), batch.video);
    }

    #[test]
    fn the_decoder_says_the_caption_where_there_is_one() {
        let sample = VideoTextSample {
            caption: Some("c d".to_owned()),
            ..sample(1, "a b", 1)
        };
        let batch = clean(&[sample]);
        assert_eq!(batch.text_ids, arr2(&[[CLS, 5, 6, SEP, PAD]]));
        assert_eq!(batch.decoder_input_ids, arr2(&[[CLS, 7, 8, PAD, PAD]]));
        assert_eq!(batch.decoder_target_ids, arr2(&[[7, 8, SEP, PAD, PAD]]));
    }

    #[test]
    fn an_empty_text_is_two_special_tokens() {
        let mode = CollateMode::Training { seed: 1 };
        let batch = collate(&collator(), &[sample(0, "", 1)], mode).unwrap();
        assert_eq!(batch.text_ids, arr2(&[[CLS, SEP, PAD, PAD, PAD]]));
        assert_eq!(batch.decoder_target_ids, arr2(&[[SEP, PAD, PAD, PAD, PAD]]));
        assert!(!batch.predict_words.iter().any(|&predict| predict));
    }

    #[test]
    fn a_long_clip_is_thinned_evenly() {
        let batch = clean(&[sample(0, "a", 9)]);
        assert_eq!(
            batch.video.slice(s![0, .., 0]),
            Array1::from(vec![11.0_f32, 41.0, 71.0])
        );
    }

    #[test]
    fn hidden_frames_are_zero_in_the_masked_video_only() {
        let collator = VideoTextCollator {
            mask_probability: 1.0,
            ..collator()
        };
        let samples = [sample(0, "a b c", 2)];
        let batch = collate(&collator, &samples, CollateMode::Training { seed: 1 }).unwrap();
        assert_eq!(batch.predict_frames, arr2(&[[true, true, false]]));
        assert_eq!(
            batch.predict_words,
            arr2(&[[false, true, true, true, false]])
        );
        assert_eq!(batch.video, clean(&samples).video);
        assert!(batch.masked_video().iter().all(|&feature| feature == 0.0));
    }

    #[test]
    fn what_happens_to_an_item_depends_on_the_seed_and_its_id_only() {
        let collator = VideoTextCollator {
            feature_noise: 0.5,
            frame_sampling: FrameSampling::RandomSubset { min: 1 },
            ..collator()
        };
        let (first, second) = (sample(1, "a b c", 3), sample(2, "d e f", 3));
        let mode = CollateMode::Training { seed: 8 };
        let both = collate(&collator, &[first, second.clone()], mode).unwrap();
        let alone = collate(&collator, std::slice::from_ref(&second), mode).unwrap();
        assert_eq!(
            both.video.index_axis(Axis(0), 1),
            alone.video.index_axis(Axis(0), 0)
        );
        assert_eq!(both.masked_text_ids.row(1), alone.masked_text_ids.row(0));
        let other = collate(&collator, &[second], CollateMode::Training { seed: 9 }).unwrap();
        assert_ne!(other.video, alone.video);
    }

    #[test]
    fn noise_leaves_padding_at_zero() {
        let collator = VideoTextCollator {
            feature_noise: 0.5,
            ..collator()
        };
        let samples = [sample(0, "a", 2)];
        let batch = collate(&collator, &samples, CollateMode::Training { seed: 1 }).unwrap();
        assert_eq!(
            batch.video.slice(s![0, 2, ..]),
            Array1::from(vec![0.0_f32, 0.0])
        );
        assert_ne!(batch.video[[0, 0, 0]], 1.0);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let good = collator();
        let cases = [
            (
                "max_words",
                VideoTextCollator {
                    max_words: 2,
                    ..good.clone()
                },
            ),
            (
                "max_frames",
                VideoTextCollator {
                    max_frames: 0,
                    ..good.clone()
                },
            ),
            (
                "video_dim",
                VideoTextCollator {
                    video_dim: 0,
                    ..good.clone()
                },
            ),
            (
                "mask_probability",
                VideoTextCollator {
                    mask_probability: 1.5,
                    ..good.clone()
                },
            ),
            (
                "mask_probability",
                VideoTextCollator {
                    mask_probability: f64::NAN,
                    ..good.clone()
                },
            ),
            (
                "feature_noise",
                VideoTextCollator {
                    feature_noise: -0.1,
                    ..good.clone()
                },
            ),
            (
                "feature_noise",
                VideoTextCollator {
                    feature_noise: f32::NAN,
                    ..good.clone()
                },
            ),
            (
                "frame_sampling.min",
                VideoTextCollator {
                    frame_sampling: FrameSampling::RandomSubset { min: 4 },
                    ..good.clone()
                },
            ),
        ];
        assert_eq!(good.validate(), Ok(()));
        for (name, collator) in cases {
            let ConfigError::OutOfRange { field, .. } = collator.validate().unwrap_err();
            assert_eq!(field, name);
            let error = collate(&collator, &[sample(0, "a", 1)], CollateMode::Clean).unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("set: `{name}` is ")),
                "{error}"
            );
        }
    }

    #[test]
    fn unusable_samples_are_errors() {
        let no_frame = collate(&collator(), &[sample(3, "a", 0)], CollateMode::Clean);
        assert!(
            no_frame
                .unwrap_err()
                .to_string()
                .contains("`frames of item 3` has shape [0, 3]")
        );
        let wide = VideoTextCollator {
            video_dim: 4,
            ..collator()
        };
        assert!(collate(&wide, &[sample(3, "a", 1)], CollateMode::Clean).is_err());
        let empty = collate(&collator(), &[], CollateMode::Clean).unwrap_err();
        assert!(matches!(empty.kind, DataErrorKind::EmptyBatch));
    }

    #[test]
    fn the_embedded_set_gives_batches() {
        let text = ClipText {
            keywords: KeywordUse::Sampled,
        };
        let set = EmojiPairs::new(EmojiClips::embedded().unwrap(), text);
        let collator = VideoTextCollator {
            max_words: 16,
            max_frames: 8,
            video_dim: 32,
            frame_sampling: FrameSampling::RandomSubset { min: 4 },
            ..collator()
        };
        let indices = [3, 698, 3];
        let batch = collator.collate(&set, &indices, 5).unwrap();
        assert_eq!(batch.item_ids, indices);
        assert_eq!(batch.text_ids.row(0), batch.text_ids.row(2));
        assert_eq!(batch, collator.collate(&set, &indices, 5).unwrap());
        assert_ne!(batch, collator.collate(&set, &indices, 6).unwrap());
        let clean = collator.collate_clean(&set, &indices).unwrap();
        assert!(!clean.video_pad.iter().any(|&pad| pad));
        assert_eq!(clean.video[[0, 0, 0]], set.clips().frames()[[3, 0, 0]]);
        assert!(collator.collate(&set, &[699], 5).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn masks_and_padding_agree(
            seed in any::<u64>(), n_words in 0_usize..9, n_frames in 1_usize..7,
            min in 1_usize..4, probability in 0.0_f64..=1.0,
        ) {
            let collator = VideoTextCollator {
                mask_probability: probability,
                frame_sampling: FrameSampling::RandomSubset { min },
                ..collator()
            };
            let text = ["a", "b", "c", "d", "e", "f", "g", "a", "b"][..n_words].join(" ");
            let samples = [sample(4, &text, n_frames)];
            let batch = collate(&collator, &samples, CollateMode::Training { seed }).unwrap();
            let n_valid = batch.video_pad.iter().filter(|&&pad| !pad).count();
            prop_assert!((min.min(n_frames)..=n_frames.min(3)).contains(&n_valid));
            for (&predict, &pad) in batch.predict_frames.iter().zip(&batch.video_pad) {
                prop_assert!(!(predict && pad));
            }
            let features: Vec<f32> =
                batch.video.slice(s![0, ..n_valid, 0]).iter().copied().collect();
            prop_assert!(features.windows(2).all(|pair| pair[0] < pair[1]));
            for place in 0..5 {
                let predict = batch.predict_words[[0, place]];
                let id = batch.text_ids[[0, place]];
                prop_assert!(!(predict && [PAD, CLS, SEP, MASK].contains(&id)));
                prop_assert_eq!(batch.text_pad[[0, place]], id == PAD);
                if !predict {
                    prop_assert_eq!(batch.masked_text_ids[[0, place]], id);
                }
            }
        }
    }
}
