//! Text-to-video retrieval on UniVL.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::ParamId;
use burn::tensor::{Device, Tensor};
use meltr_core::{Alone, ConfigError, Dual, FineTuneTask, LoadReport, Pass, StateDict, Workers};
use meltr_data::{CollateMode, DataError, DataErrorKind, VideoTextCollator, VideoTextSet};
use meltr_models::{Encoded, SimilarityKind, UniVl, UniVlBatch, UniVlLoss};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::error::TaskError;
use crate::metric::{RetrievalMetrics, TiePolicy};
use crate::pair_scores::{PairScores, similarity_by_shares};
use crate::shares::{gather_columns, gather_encoded, own_items};
use crate::shuffled_items::ShuffledItems;
use crate::univl_input::{OwnVideo, bools, floats, ints, samples_of, token_rows, univl_batch};

/// Settings of the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrievalConfig {
    /// Losses in token order, each once.
    pub losses: Vec<UniVlLoss>,
    /// The loss of the outer objective; one of `losses`.
    pub primary: UniVlLoss,
    /// Which similarity ranks the videos.
    #[serde(default)]
    pub similarity: SimilarityKind,
    /// How ties are counted.
    #[serde(default)]
    pub ties: TiePolicy,
    /// Texts (and videos) that are scored against each other at a time; bounds the memory of an
    /// evaluation to `chunk²` pairs.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
    /// Pairs in a training batch, at least 2.
    pub batch_size: usize,
    /// Names of the splits that are trained on.
    pub train_splits: Vec<String>,
    /// Names of the splits that the batches of outer steps come from, held out from training; if
    /// there are none, those come from past training batches, as published.
    #[serde(default)]
    pub outer_splits: Vec<String>,
}

fn default_chunk() -> usize {
    64
}

impl RetrievalConfig {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let known = || {
            self.losses
                .iter()
                .map(|loss| loss.name())
                .collect::<Vec<_>>()
                .join(", ")
        };
        if !self.losses.contains(&self.primary) {
            return Err(ConfigError::UnknownName {
                key: "task.primary",
                value: self.primary.name().to_owned(),
                known: known(),
            });
        }
        for (index, loss) in self.losses.iter().enumerate() {
            if self.losses[..index].contains(loss) {
                return Err(ConfigError::UnknownName {
                    key: "task.losses",
                    value: format!("{loss} (twice)"),
                    known: "each loss once".to_owned(),
                });
            }
        }
        ConfigError::require_nonzero("task.chunk", self.chunk)?;
        if self.batch_size < 2 {
            return Err(ConfigError::OutOfRange {
                key: "task.batch_size",
                value: self.batch_size as f64,
                range: "[2, inf): a contrastive loss needs another pair",
            });
        }
        Ok(())
    }
}

/// Retrieval of videos by their texts.
#[derive(Debug)]
pub struct UniVlRetrieval {
    set: Arc<dyn VideoTextSet>,
    collator: VideoTextCollator,
    config: RetrievalConfig,
    train: ShuffledItems,
    outer: Option<ShuffledItems>,
    device: Device,
}

impl UniVlRetrieval {
    /// Sets the task up; `order_seed` fixes the order of the training items.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if a setting is out of range, a split is empty or smaller than a batch.
    pub fn new(
        set: Arc<dyn VideoTextSet>,
        collator: VideoTextCollator,
        config: RetrievalConfig,
        order_seed: u64,
        device: &Device,
    ) -> Result<Self, TaskError> {
        config.validate()?;
        collator.validate()?;
        let train = items_of(&*set, &config.train_splits)?;
        let train = ShuffledItems::new(train, config.batch_size, order_seed)?;
        let outer = train.held_out(&config.outer_splits, |splits| items_of(&*set, splits))?;
        let device = device.clone().without_autodiff();
        Ok(Self {
            set,
            collator,
            config,
            train,
            outer,
            device,
        })
    }

    /// The items.
    #[must_use]
    pub fn set(&self) -> &dyn VideoTextSet {
        &*self.set
    }

    /// Rows of the set that are trained on.
    #[must_use]
    pub fn train_indices(&self) -> &[usize] {
        self.train.indices()
    }

    /// Similarities of all texts with all videos of `indices`, `[N, N]`, rows are texts.
    ///
    /// Every text and every video is encoded once and kept; `chunk²` pairs at a time are scored.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if an item cannot be read.
    pub fn similarity_matrix(
        &self,
        model: &UniVl,
        indices: &[usize],
    ) -> Result<Array2<f64>, TaskError> {
        self.similarity_matrix_with_progress(model, indices, &mut |_, _| {})
    }

    /// As [`similarity_matrix`](Self::similarity_matrix); `progress` is told after every chunk how
    /// many pairs of how many have a score.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if an item cannot be read.
    pub fn similarity_matrix_with_progress(
        &self,
        model: &UniVl,
        indices: &[usize],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Array2<f64>, TaskError> {
        self.shared_matrix(model, indices, &Alone, progress)
    }

    /// The similarity matrix, of which every process takes the columns of its share of the videos;
    /// `progress` is told of the pairs of that share.
    fn shared_matrix(
        &self,
        model: &UniVl,
        indices: &[usize],
        workers: &dyn Workers,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Array2<f64>, TaskError> {
        let chunk = self.config.chunk;
        let own = &indices[own_items(workers, indices.len(), chunk)];
        let (mut texts, mut videos) = (Vec::new(), Vec::new());
        for part in own.chunks(chunk) {
            let batch = self.collator.collate_clean(&*self.set, part)?;
            texts.push(model.encode_text(
                ints(&batch.text_ids, &self.device),
                bools(&batch.text_pad, &self.device),
                Pass::Evaluation,
            ));
            videos.push(model.encode_video(
                floats(&batch.video, &self.device),
                bools(&batch.video_pad, &self.device),
                Pass::Evaluation,
            ));
        }
        let texts = gather_encoded(workers, texts, &self.device);
        let mut scores = PairScores::new(indices.len(), own.len(), chunk, progress);
        for (column, video) in videos.iter().enumerate() {
            for (row, text) in texts.iter().enumerate() {
                let similarity = similarity_by_shares(text, |text| {
                    model.similarity(self.config.similarity, text, video, Pass::Evaluation)
                });
                scores.insert(row, column, similarity);
            }
        }
        Ok(gather_columns(workers, scores.into_matrix()))
    }

    /// Similarities of texts with videos that belong to no set, `[Nt, Nv]`, rows are texts. Texts
    /// and videos are prepared as those of an evaluation.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if a video has no frame, or fewer features than the batches.
    pub fn similarities(
        &self,
        model: &UniVl,
        texts: &[String],
        videos: &[OwnVideo],
    ) -> Result<Array2<f64>, TaskError> {
        let chunk = self.config.chunk;
        let words = self.set.word_piece();
        let texts_encoded: Vec<Encoded> = texts
            .chunks(chunk)
            .map(|part| {
                let length = self.collator.max_words;
                let (ids, pad) = token_rows(part, words, length, &self.device);
                model.encode_text(ids, pad, Pass::Evaluation)
            })
            .collect();
        let mut untold = |_: usize, _: usize| {};
        let mut scores = PairScores::new(texts.len(), videos.len(), chunk, &mut untold);
        for (column, part) in videos.chunks(chunk).enumerate() {
            let video = self.encoded(model, part)?;
            for (row, text) in texts_encoded.iter().enumerate() {
                let similarity = similarity_by_shares(text, |text| {
                    model.similarity(self.config.similarity, text, &video, Pass::Evaluation)
                });
                scores.insert(row, column, similarity);
            }
        }
        Ok(scores.into_matrix())
    }

    fn encoded(&self, model: &UniVl, videos: &[OwnVideo]) -> Result<Encoded, TaskError> {
        let (label, words) = (self.set.label(), self.set.word_piece());
        let samples = samples_of(videos, "");
        let batch = self
            .collator
            .collate_samples(label, words, &samples, CollateMode::Clean)?;
        Ok(model.encode_video(
            floats(&batch.video, &self.device),
            bools(&batch.video_pad, &self.device),
            Pass::Evaluation,
        ))
    }
}

/// Items of all splits named, in this order.
pub(crate) fn items_of(set: &dyn VideoTextSet, splits: &[String]) -> Result<Vec<usize>, DataError> {
    let mut items = Vec::new();
    for split in splits {
        items.extend(set.split(split)?);
    }
    if items.is_empty() {
        let split = "[]".to_owned();
        return Err(DataError::new(
            set.label(),
            DataErrorKind::EmptySplit { split },
        ));
    }
    Ok(items)
}

impl UniVlRetrieval {
    /// These items as a batch, and the seed of its random choices.
    fn items(&self, (indices, seed): (Vec<usize>, u64)) -> Result<UniVlItems, TaskError> {
        let host = self.collator.collate(&*self.set, &indices, seed)?;
        Ok(UniVlItems {
            input: univl_batch(&host, &self.device),
            indices,
        })
    }
}

impl FineTuneTask for UniVlRetrieval {
    type Model = UniVl;
    type Batch = UniVlItems;
    type Error = TaskError;

    fn names(&self) -> Vec<String> {
        self.config.losses.iter().map(ToString::to_string).collect()
    }

    fn primary(&self) -> usize {
        // `validate` has made sure that it is there.
        self.config
            .losses
            .iter()
            .position(|loss| *loss == self.config.primary)
            .unwrap_or(0)
    }

    fn batches_per_epoch(&self) -> usize {
        self.train.batches_per_epoch()
    }

    fn batch(&self, iteration: usize, seed: u64) -> Result<UniVlItems, TaskError> {
        self.items(self.train.batch(iteration, seed))
    }

    fn outer_batch(&self, number: usize, seed: u64) -> Result<Option<UniVlItems>, TaskError> {
        let outer = self.outer.as_ref();
        outer
            .map(|outer| self.items(outer.batch(number, seed)))
            .transpose()
    }

    fn batch_items(&self, batch: &UniVlItems) -> Vec<String> {
        batch
            .indices
            .iter()
            .map(|index| self.set.item_name(*index))
            .collect()
    }

    fn losses(&self, model: &UniVl, batch: &UniVlItems, pass: Pass) -> Tensor<1> {
        model.losses(&batch.input, &self.config.losses, pass)
    }

    fn losses_along(
        &self,
        model: &UniVl,
        direction: &UniVl,
        batch: &UniVlItems,
        pass: Pass,
    ) -> Option<Dual<1>> {
        Some(model.losses_along(direction, &batch.input, &self.config.losses, pass))
    }

    fn primary_loss(&self, model: &UniVl, batch: &UniVlItems, pass: Pass) -> Tensor<1> {
        model.losses(&batch.input, &[self.config.primary], pass)
    }

    fn parameter_names(&self, model: &UniVl) -> Vec<(ParamId, String)> {
        model.parameter_names()
    }

    fn state_dict(&self, model: &UniVl) -> StateDict {
        model.state_dict()
    }

    fn load_state_dict(&self, model: UniVl, dict: &StateDict) -> (UniVl, LoadReport) {
        model.load_state_dict(dict)
    }

    fn evaluate_shared(
        &self,
        model: &UniVl,
        split: &str,
        workers: &dyn Workers,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BTreeMap<String, f64>, TaskError> {
        let indices = self.set.split(split)?;
        let matrix = self.shared_matrix(model, &indices, workers, progress)?;
        let pairs: Vec<usize> = (0..indices.len()).collect();
        let failed = |source| TaskError::Metric {
            split: split.to_owned(),
            source,
        };
        let ties = self.config.ties;
        let mut metrics = RetrievalMetrics::text_to_video(matrix.view(), &pairs, ties)
            .map_err(failed)?
            .named("text_to_video");
        metrics.extend(
            RetrievalMetrics::video_to_text(matrix.view(), &pairs, ties)
                .map_err(failed)?
                .named("video_to_text"),
        );
        Ok(metrics)
    }

    fn n_items(&self, split: &str) -> Result<usize, TaskError> {
        Ok(self.set.split(split)?.len())
    }
}

/// A batch of the task.
#[derive(Debug, Clone)]
pub struct UniVlItems {
    /// What the model reads.
    pub input: UniVlBatch,
    /// Rows of the set.
    pub indices: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use meltr_data::{ClipText, Draw, EmojiClips, EmojiPairs, FrameSampling, KeywordUse};
    use meltr_models::UniVlConfig;

    use super::*;
    use crate::shares::tests::on_threads;

    const WIDTH: usize = 8;

    fn task(similarity: SimilarityKind) -> UniVlRetrieval {
        let text = ClipText {
            keywords: KeywordUse::None,
        };
        let set = EmojiPairs::new(EmojiClips::embedded().unwrap(), text);
        let collator = VideoTextCollator {
            max_words: 8,
            max_frames: 4,
            video_dim: WIDTH,
            mask_probability: 0.15,
            frame_sampling: FrameSampling::All,
            feature_noise: 0.0,
        };
        let config = RetrievalConfig {
            losses: vec![UniVlLoss::Joint, UniVlLoss::Align],
            primary: UniVlLoss::Align,
            similarity,
            ties: TiePolicy::default(),
            chunk: 2,
            batch_size: 2,
            train_splits: vec!["train".to_owned()],
            outer_splits: Vec::new(),
        };
        UniVlRetrieval::new(Arc::new(set), collator, config, 1, &Device::default()).unwrap()
    }

    fn model(task: &UniVlRetrieval) -> UniVl {
        let vocab_size = task.set().word_piece().vocab_size();
        let config = UniVlConfig {
            d_model: 16,
            n_heads: 2,
            d_ff: 16,
            ..UniVlConfig::mini(vocab_size, WIDTH)
        };
        config.init(3, &Device::default()).unwrap()
    }

    #[test]
    fn videos_of_no_set_are_compared_like_those_of_the_set() {
        for kind in [SimilarityKind::Joint, SimilarityKind::Align] {
            let task = task(kind);
            let model = model(&task);
            let indices = task.set().split("test").unwrap()[..5].to_vec();
            let expected = task.similarity_matrix(&model, &indices).unwrap();
            let (texts, videos): (Vec<String>, Vec<OwnVideo>) = indices
                .iter()
                .map(|&index| {
                    let sample = task.set().sample(index, Draw::Evaluation).unwrap();
                    let video = OwnVideo {
                        name: task.set().item_name(index),
                        frames: sample.frames,
                    };
                    (sample.text, video)
                })
                .unzip();
            let found = task.similarities(&model, &texts[..3], &videos).unwrap();
            assert_eq!(found.dim(), (3, 5));
            for ((text, video), value) in found.indexed_iter() {
                assert!((value - expected[[text, video]]).abs() < 1e-5, "{kind:?}");
            }
        }
    }

    #[test]
    fn the_pairs_of_an_evaluation_are_told_and_chunks_change_no_similarity() {
        let [task, joint] = [SimilarityKind::Align, SimilarityKind::Joint].map(task);
        let model = model(&task);
        let indices = task.set().split("test").unwrap()[..5].to_vec();
        let mut told = Vec::new();
        let matrix = task
            .similarity_matrix_with_progress(&model, &indices, &mut |done, all| {
                told.push((done, all));
            })
            .unwrap();
        assert_eq!(
            told,
            [0, 4, 8, 10, 14, 18, 20, 22, 24, 25].map(|done| (done, 25))
        );
        for (row, text) in indices.iter().enumerate() {
            for (column, video) in indices.iter().enumerate() {
                let pair = task.similarity_matrix(&model, &[*text, *video]).unwrap();
                assert!((pair[[0, 1]] - matrix[[row, column]]).abs() < 1e-5);
            }
        }
        let mut last = (0, 0);
        let metrics = joint
            .evaluate_with_progress(&model, "valid", &mut |done, all| last = (done, all))
            .unwrap();
        assert_eq!(last, (75 * 75, 75 * 75));
        assert!(metrics.contains_key("text_to_video.r1"));
    }

    #[test]
    fn processes_that_share_an_evaluation_find_what_one_finds() {
        for kind in [SimilarityKind::Joint, SimilarityKind::Align] {
            let with = |workers: &dyn Workers| {
                let task = task(kind);
                let indices = task.set().split("test").unwrap()[..7].to_vec();
                let mut last = (0, 0);
                let matrix = task
                    .shared_matrix(&model(&task), &indices, workers, &mut |done, all| {
                        last = (done, all);
                    })
                    .unwrap();
                (matrix, last)
            };
            let (expected, _) = with(&Alone);
            // Whole chunks of two videos, each compared with seven texts.
            for n_videos in [vec![4, 3], vec![0, 2, 2, 2, 1]] {
                let all = on_threads(n_videos.len(), with);
                for ((found, last), n_videos) in all.into_iter().zip(n_videos) {
                    assert_eq!(found, expected, "{kind:?}");
                    assert_eq!(last, (7 * n_videos, 7 * n_videos), "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn a_video_without_frames_is_refused() {
        let task = task(SimilarityKind::Joint);
        let vocab_size = task.set().word_piece().vocab_size();
        let model = UniVlConfig::mini(vocab_size, WIDTH)
            .init(3, &Device::default())
            .unwrap();
        let empty = OwnVideo {
            name: "empty".to_owned(),
            frames: Array2::zeros((0, WIDTH)),
        };
        let texts = ["wave".to_owned()];
        assert!(task.similarities(&model, &texts, &[empty]).is_err());
    }
}
