//! Retrieval and questions on All-in-one, over raw frames.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::ParamId;
use burn::tensor::{Device, Tensor};
use meltr_core::{
    Alone, ConfigError, Dual, FineTuneTask, LoadReport, Pass, StateDict, Workers, vec_f64,
};
use meltr_data::{
    CollateMode, FrameScale, PixelBatch, PixelCollator, PixelSet, PixelTask, RandomStream, seed_for,
};
use meltr_models::{
    AllInOne, AllInOneBatch, AllInOneConfig, AllInOneLoss, AllInOneTask, OptionTexts,
};
use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};

use crate::error::TaskError;
use crate::metric::{RetrievalMetrics, TiePolicy};
use crate::pixel_input::{
    first_best, frames, items_at_a_time, items_of, score_rows, without_targets,
};
use crate::shares::{gather_tensors, own_items};
use crate::shuffled_items::ShuffledItems;
use crate::univl_input::{bools, ints, token_rows};
use crate::violet::{BlindReference, blind_references};

/// The random stream of an item's patch orders; smaller numbers are the collator's.
const ORDER_STREAM: u64 = 16;

/// In which order the patches of a training frame stand; in evaluation it is row-major.
///
/// It matters where patches move in time, that is for all losses but `ind_itc`: which ones move is
/// decided by their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchOrder {
    /// Another random order for every frame, as published: random patches move.
    #[default]
    Random,
    /// Row by row: patches at the upper and the lower edge move.
    RowMajor,
}

/// Settings of the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllInOneTaskConfig {
    /// Losses in token order, each once, all of them losses of the model's task.
    pub losses: Vec<AllInOneLoss>,
    /// The loss of the outer objective, one of `losses`; by default
    /// [`AllInOneTask::primary`](meltr_models::AllInOneTask::primary). The released code takes
    /// `mlm` for retrieval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<AllInOneLoss>,
    /// In which order the patches of training frames stand.
    #[serde(default)]
    pub patch_order: PatchOrder,
    /// How ties are counted, for retrieval.
    #[serde(default)]
    pub ties: TiePolicy,
    /// Items that are encoded at a time; bounds the memory of an evaluation.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
    /// Items in a training batch; at least 2 with the contrastive loss.
    pub batch_size: usize,
    /// Names of the splits that are trained on.
    pub train_splits: Vec<String>,
    /// Names of the splits that the batches of outer steps come from, held out from training; if
    /// there are none, those come from past training batches, as published.
    #[serde(default)]
    pub outer_splits: Vec<String>,
}

fn default_chunk() -> usize {
    16
}

impl AllInOneTaskConfig {
    /// All losses of a task, with the task's own as the primary one.
    #[must_use]
    pub fn new(task: AllInOneTask, batch_size: usize, train_splits: Vec<String>) -> Self {
        Self {
            losses: task.losses().to_vec(),
            primary: None,
            patch_order: PatchOrder::default(),
            ties: TiePolicy::default(),
            chunk: default_chunk(),
            batch_size,
            train_splits,
            outer_splits: Vec::new(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be used.
    pub fn validate(&self, task: AllInOneTask) -> Result<(), ConfigError> {
        let names = |losses: &[AllInOneLoss]| {
            let names: Vec<&str> = losses.iter().map(|loss| loss.name()).collect();
            names.join(", ")
        };
        let unknown =
            |key, value: String, known: String| ConfigError::UnknownName { key, value, known };
        for (index, loss) in self.losses.iter().enumerate() {
            if !task.losses().contains(loss) {
                let (value, known) = (loss.to_string(), names(task.losses()));
                return Err(unknown("task.losses", value, known));
            }
            if self.losses[..index].contains(loss) {
                let (value, known) = (format!("{loss} (twice)"), "each loss once".to_owned());
                return Err(unknown("task.losses", value, known));
            }
        }
        let primary = self.primary_of(task);
        if !self.losses.contains(&primary) {
            let (value, known) = (primary.to_string(), names(&self.losses));
            return Err(unknown("task.primary", value, known));
        }
        ConfigError::require_nonzero("task.chunk", self.chunk)?;
        ConfigError::require_nonzero("task.batch_size", self.batch_size)?;
        if self.batch_size < 2 && self.losses.contains(&AllInOneLoss::IndItc) {
            return Err(ConfigError::OutOfRange {
                key: "task.batch_size",
                value: self.batch_size as f64,
                range: "[2, inf): a contrastive loss needs another pair",
            });
        }
        Ok(())
    }

    /// The loss of the outer objective.
    fn primary_of(&self, task: AllInOneTask) -> AllInOneLoss {
        self.primary.unwrap_or(task.primary())
    }
}

/// The task of a set, as All-in-one's configuration has it.
#[must_use]
pub fn all_in_one_task(set: &dyn PixelSet) -> AllInOneTask {
    match set.task() {
        PixelTask::Retrieval => AllInOneTask::Retrieval,
        PixelTask::OpenEnded => AllInOneTask::OpenEnded {
            n_answers: set.answers().len(),
        },
        PixelTask::MultipleChoice => AllInOneTask::MultipleChoice,
    }
}

/// Retrieval, open-ended questions or multiple choice on All-in-one: the task of the set.
///
/// # References
///
/// - Reference code: `mlvlab/MELTR@669ad60`, `allinone/`. Departs from it in evaluation: frames
///   are chosen and cut the same way every time, patches stand in row-major order, and no item is
///   left out.
#[derive(Debug)]
pub struct AllInOneFineTune {
    set: Arc<dyn PixelSet>,
    collator: PixelCollator,
    task: AllInOneTask,
    n_patches: usize,
    config: AllInOneTaskConfig,
    train: ShuffledItems,
    outer: Option<ShuffledItems>,
    device: Device,
}

/// A batch of the task.
#[derive(Debug, Clone)]
pub struct AllInOneItems {
    /// What the model reads.
    pub input: AllInOneBatch,
    /// Rows of the set.
    pub indices: Vec<usize>,
}

impl AllInOneFineTune {
    /// Sets the task up for models of one size; `order_seed` fixes the order of the training
    /// items.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if a setting is out of range, if set, batches and model do not fit together,
    /// or if a split is empty or smaller than a batch.
    pub fn new(
        set: Arc<dyn PixelSet>,
        collator: PixelCollator,
        model: &AllInOneConfig,
        config: AllInOneTaskConfig,
        order_seed: u64,
        device: &Device,
    ) -> Result<Self, TaskError> {
        model.validate()?;
        config.validate(model.task)?;
        collator.validate()?;
        require_fit(&*set, &collator, model)?;
        if config.losses.contains(&AllInOneLoss::Mlm) && collator.mask_probability <= 0.0 {
            return Err(TaskError::Config(ConfigError::OutOfRange {
                key: "mask_probability",
                value: collator.mask_probability,
                range: "(0, 1]: `mlm` predicts hidden words",
            }));
        }
        let train = items_of(&*set, &config.train_splits)?;
        let train = ShuffledItems::new(train, config.batch_size, order_seed)?;
        let outer = train.held_out(&config.outer_splits, |splits| items_of(&*set, splits))?;
        let device = device.clone().without_autodiff();
        Ok(Self {
            set,
            collator,
            task: model.task,
            n_patches: model.n_patches(),
            config,
            train,
            outer,
            device,
        })
    }

    /// The items.
    #[must_use]
    pub fn set(&self) -> &dyn PixelSet {
        &*self.set
    }

    /// Rows of the set that are trained on.
    #[must_use]
    pub fn train_indices(&self) -> &[usize] {
        self.train.indices()
    }

    /// What a model has to beat on a split: [`blind_references`] of the items that are trained on.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if the split is not known or empty, or if an item cannot be read.
    pub fn blind_references(&self, split: &str) -> Result<Vec<BlindReference>, TaskError> {
        Ok(blind_references(&*self.set, self.train.indices(), split)?)
    }

    /// Cosines of all texts with all videos of `indices`, `[N, N]`, rows are texts. Every text and
    /// every video is read once.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if an item cannot be read.
    pub fn similarity_matrix(
        &self,
        model: &AllInOne,
        indices: &[usize],
    ) -> Result<Array2<f64>, TaskError> {
        self.shared_matrix(model, indices, &Alone)
    }

    /// The similarity matrix, for which every process reads its share of the items.
    fn shared_matrix(
        &self,
        model: &AllInOne,
        indices: &[usize],
        workers: &dyn Workers,
    ) -> Result<Array2<f64>, TaskError> {
        if indices.is_empty() {
            return Ok(Array2::zeros((0, 0)));
        }
        let chunk = self.config.chunk;
        let own = own_items(workers, indices.len(), chunk);
        let (mut texts, mut videos) = (Vec::new(), Vec::new());
        for part in indices[own].chunks(chunk) {
            let host = self.collate(part, CollateMode::Clean)?;
            let (ids, pad) = (
                ints(&host.text_ids, &self.device),
                bools(&host.text_pad, &self.device),
            );
            texts.push(model.encode_text(ids, pad, Pass::Evaluation));
            videos.push(model.encode_video(frames(&host, &self.device), Pass::Evaluation));
        }
        let texts = gather_tensors(workers, texts, &self.device);
        let videos = gather_tensors(workers, videos, &self.device);
        Ok(cosines(Tensor::cat(texts, 0), Tensor::cat(videos, 0)))
    }

    fn collate(&self, indices: &[usize], mode: CollateMode) -> Result<PixelBatch, TaskError> {
        Ok(self.collator.collate(&*self.set, indices, mode)?)
    }

    /// For every training frame its order of patches; `None` is row-major.
    fn patch_order(&self, indices: &[usize], seed: u64) -> Option<Vec<i64>> {
        if self.config.patch_order == PatchOrder::RowMajor {
            return None;
        }
        let mut orders = Vec::new();
        for index in indices {
            for frame in 0..self.collator.n_frames {
                let place = [*index as u64, ORDER_STREAM, frame as u64];
                let mut order: Vec<i64> = (0..self.n_patches as i64).collect();
                RandomStream::new(seed_for(seed, &place)).shuffle(&mut order);
                orders.extend(order);
            }
        }
        Some(orders)
    }

    fn retrieval(
        &self,
        model: &AllInOne,
        split: &str,
        indices: &[usize],
        workers: &dyn Workers,
    ) -> Result<BTreeMap<String, f64>, TaskError> {
        let matrix = self.shared_matrix(model, indices, workers)?;
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

    fn answers(&self, model: &AllInOne, indices: &[usize]) -> Result<AnswerCounts, TaskError> {
        let mut counts = AnswerCounts::default();
        for part in indices.chunks(self.config.chunk) {
            let host = self.collate(part, CollateMode::Clean)?;
            let rows = self.scores(model, &*self.set, &host)?;
            for (scores, answer) in rows.iter().zip(&host.answers) {
                counts.add(scores, *answer);
            }
        }
        Ok(counts)
    }

    /// The model's scores of the answers, or of the options, to every question of a set of others,
    /// in the order of `indices`; the larger, the better.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if an item cannot be read, if the model has no head for answers, or if its
    /// scores are not finite.
    pub fn answer_scores(
        &self,
        model: &AllInOne,
        set: &dyn PixelSet,
        indices: &[usize],
    ) -> Result<Vec<Vec<f64>>, TaskError> {
        let collator = without_targets(&self.collator);
        let mut scores = Vec::with_capacity(indices.len());
        for part in indices.chunks(items_at_a_time(set, self.config.chunk)) {
            let host = collator.collate(set, part, CollateMode::Clean)?;
            scores.extend(self.scores(model, set, &host)?);
        }
        Ok(scores)
    }

    /// The scores of a host batch, item by item.
    fn scores(
        &self,
        model: &AllInOne,
        set: &dyn PixelSet,
        host: &PixelBatch,
    ) -> Result<Vec<Vec<f64>>, TaskError> {
        let logits = model.answer_logits(
            frames(host, &self.device),
            ints(&host.text_ids, &self.device),
            bools(&host.text_pad, &self.device),
            Pass::Evaluation,
        );
        score_rows(set, host, logits.ok_or_else(|| no_head(model.task()))?)
    }

    /// Cosines of texts with the clips of a set of others, `[Nt, Nv]`, rows are texts.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if a clip cannot be read.
    pub fn similarities(
        &self,
        model: &AllInOne,
        texts: &[String],
        clips: &dyn PixelSet,
        indices: &[usize],
    ) -> Result<Array2<f64>, TaskError> {
        if texts.is_empty() || indices.is_empty() {
            return Ok(Array2::zeros((texts.len(), indices.len())));
        }
        let chunk = self.config.chunk;
        let words = self.set.word_piece();
        let texts: Vec<Tensor<2>> = texts
            .chunks(chunk)
            .map(|part| {
                let (ids, pad) = token_rows(part, words, self.collator.max_words, &self.device);
                model.encode_text(ids, pad, Pass::Evaluation)
            })
            .collect();
        let collator = without_targets(&self.collator);
        let mut videos = Vec::new();
        for part in indices.chunks(chunk) {
            let host = collator.collate(clips, part, CollateMode::Clean)?;
            videos.push(model.encode_video(frames(&host, &self.device), Pass::Evaluation));
        }
        Ok(cosines(Tensor::cat(texts, 0), Tensor::cat(videos, 0)))
    }

    /// How samples become batches.
    #[must_use]
    pub fn collator(&self) -> &PixelCollator {
        &self.collator
    }

    /// Items that are encoded at a time.
    pub(crate) fn chunk(&self) -> usize {
        self.config.chunk
    }

    /// Where batches go.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }
}

/// Why a model cannot answer.
pub(crate) fn no_head(task: AllInOneTask) -> TaskError {
    TaskError::Config(ConfigError::Unsupported {
        key: "model.task",
        value: task.name(),
        reason: "such a model has no head for answers; take one of the set's task",
    })
}

/// Cosines of texts `[Nt, D]` with videos `[Nv, D]`, on the host.
fn cosines(texts: Tensor<2>, videos: Tensor<2>) -> Array2<f64> {
    let similarity = AllInOne::similarity(texts, videos);
    let [n_texts, n_videos] = similarity.dims();
    let values = vec_f64(similarity.into_data());
    Array2::from_shape_fn((n_texts, n_videos), |(text, video)| {
        values[text * n_videos + video]
    })
}

impl AllInOneFineTune {
    /// These items as a batch, and the seed of its random choices.
    fn items(&self, (indices, seed): (Vec<usize>, u64)) -> Result<AllInOneItems, TaskError> {
        let host = self.collate(&indices, CollateMode::Training { seed })?;
        let order = self.patch_order(&indices, seed);
        Ok(AllInOneItems {
            input: all_in_one_batch(&host, order, &self.device),
            indices,
        })
    }
}

impl FineTuneTask for AllInOneFineTune {
    type Model = AllInOne;
    type Batch = AllInOneItems;
    type Error = TaskError;

    fn names(&self) -> Vec<String> {
        self.config.losses.iter().map(ToString::to_string).collect()
    }

    fn primary(&self) -> usize {
        let primary = self.config.primary_of(self.task);
        // `validate` has made sure that it is there.
        self.config
            .losses
            .iter()
            .position(|loss| *loss == primary)
            .unwrap_or(0)
    }

    fn batches_per_epoch(&self) -> usize {
        self.train.batches_per_epoch()
    }

    fn batch(&self, iteration: usize, seed: u64) -> Result<AllInOneItems, TaskError> {
        self.items(self.train.batch(iteration, seed))
    }

    fn outer_batch(&self, number: usize, seed: u64) -> Result<Option<AllInOneItems>, TaskError> {
        let outer = self.outer.as_ref();
        outer
            .map(|outer| self.items(outer.batch(number, seed)))
            .transpose()
    }

    fn batch_items(&self, batch: &AllInOneItems) -> Vec<String> {
        batch
            .indices
            .iter()
            .map(|index| self.set.item_name(*index))
            .collect()
    }

    fn losses(&self, model: &AllInOne, batch: &AllInOneItems, pass: Pass) -> Tensor<1> {
        model.losses(&batch.input, &self.config.losses, pass)
    }

    fn losses_along(
        &self,
        model: &AllInOne,
        direction: &AllInOne,
        batch: &AllInOneItems,
        pass: Pass,
    ) -> Option<Dual<1>> {
        Some(model.losses_along(direction, &batch.input, &self.config.losses, pass))
    }

    fn primary_loss(&self, model: &AllInOne, batch: &AllInOneItems, pass: Pass) -> Tensor<1> {
        let primary = self.config.primary_of(self.task);
        model.losses(&batch.input, &[primary], pass)
    }

    fn parameter_names(&self, model: &AllInOne) -> Vec<(ParamId, String)> {
        model.parameter_names()
    }

    fn state_dict(&self, model: &AllInOne) -> StateDict {
        model.state_dict()
    }

    fn load_state_dict(&self, model: AllInOne, dict: &StateDict) -> (AllInOne, LoadReport) {
        model.load_state_dict(dict)
    }

    /// For retrieval the recalls and ranks of both directions, over all pairs of the split. For
    /// questions, over the whole split:
    ///
    /// - `accuracy`: fraction of right answers among all questions; one whose answer is not known
    ///   counts as a mistake
    /// - `accuracy_known`: the same among the questions whose answer is known, as published for
    ///   All-in-one; absent if there are none
    /// - `n_unknown_answers`: how many answers are not known
    ///
    /// Of equal scores the first counts.
    fn evaluate_shared(
        &self,
        model: &AllInOne,
        split: &str,
        workers: &dyn Workers,
        _progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BTreeMap<String, f64>, TaskError> {
        let indices = self.set.split(split)?;
        match self.task {
            AllInOneTask::Retrieval => self.retrieval(model, split, &indices, workers),
            AllInOneTask::OpenEnded { .. } | AllInOneTask::MultipleChoice => {
                let own = own_items(workers, indices.len(), self.config.chunk);
                let counts = self.answers(model, &indices[own])?;
                Ok(counts.of_all(workers).named())
            }
        }
    }

    fn n_items(&self, split: &str) -> Result<usize, TaskError> {
        Ok(self.set.split(split)?.len())
    }
}

/// How many questions were answered how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct AnswerCounts {
    right: usize,
    known: usize,
    unknown: usize,
}

impl AnswerCounts {
    /// One more question: the scores of its answers, and the number of the right one, negative if
    /// that is not known.
    fn add(&mut self, scores: &[f64], answer: i64) {
        match usize::try_from(answer) {
            Ok(answer) => {
                self.known += 1;
                self.right += usize::from(first_best(scores) == Some(answer));
            }
            Err(_) => self.unknown += 1,
        }
    }

    /// The counts of all processes together.
    fn of_all(self, workers: &dyn Workers) -> Self {
        let own = [self.right, self.known, self.unknown].map(|count| count as f64);
        let all = workers.gather(&own);
        let sum = |place: usize| {
            let counts = all.iter().skip(place).step_by(own.len());
            counts.map(|count| *count as usize).sum::<usize>()
        };
        Self {
            right: sum(0),
            known: sum(1),
            unknown: sum(2),
        }
    }

    fn named(self) -> BTreeMap<String, f64> {
        let mut metrics = BTreeMap::from([("n_unknown_answers".to_owned(), self.unknown as f64)]);
        for (name, count) in [
            ("accuracy", self.known + self.unknown),
            ("accuracy_known", self.known),
        ] {
            if count > 0 {
                metrics.insert(name.to_owned(), self.right as f64 / count as f64);
            }
        }
        metrics
    }
}

/// Whether set, batches and model belong together.
fn require_fit(
    set: &dyn PixelSet,
    collator: &PixelCollator,
    model: &AllInOneConfig,
) -> Result<(), ConfigError> {
    let out_of_range = |key, value: usize, range| ConfigError::OutOfRange {
        key,
        value: value as f64,
        range,
    };
    match (all_in_one_task(set), model.task) {
        (of_set, of_model) if of_set == of_model => {}
        (AllInOneTask::OpenEnded { .. }, AllInOneTask::OpenEnded { n_answers }) => {
            let range = "{number of the set's answers}";
            return Err(out_of_range("n_answers", n_answers, range));
        }
        (_, of_model) => {
            return Err(ConfigError::Unsupported {
                key: "model.task",
                value: of_model.name(),
                reason: "the set serves another task; take that of the set",
            });
        }
    }
    if collator.scale != FrameScale::ImageNet {
        return Err(ConfigError::Unsupported {
            key: "scale",
            value: "unit",
            reason: "All-in-one reads normalized frames; take `image_net`",
        });
    }
    if model.vocab_size < set.word_piece().vocab_size() {
        let range = "[entries of the set's vocabulary, inf)";
        return Err(out_of_range("vocab_size", model.vocab_size, range));
    }
    if collator.max_words > model.max_text_positions {
        let range = "[3, max_text_positions] of the model";
        return Err(out_of_range("max_words", collator.max_words, range));
    }
    model.require_clip(collator.n_frames, collator.image_size, collator.image_size)
}

/// Moves a host batch to `device`, without a tape; `patch_order` as in
/// [`AllInOneBatch::patch_order`].
///
/// Where an item has several texts, those of the pretext losses are the right options.
#[must_use]
pub fn all_in_one_batch(
    batch: &PixelBatch,
    patch_order: Option<Vec<i64>>,
    device: &Device,
) -> AllInOneBatch {
    let device = device.clone().without_autodiff();
    let rows = batch.own_texts();
    let own_ids = batch.text_ids.select(Axis(0), &rows);
    let own_pad = batch.text_pad.select(Axis(0), &rows);
    let masked_ids = batch.masked_text_ids.select(Axis(0), &rows);
    let predict = batch.predict_words.select(Axis(0), &rows);
    let (predict_words, word_targets): (Vec<i64>, Vec<i64>) = (0_i64..)
        .zip(predict.iter().zip(&own_ids))
        .filter(|(_, (predict, _))| **predict)
        .map(|(position, (_, id))| (position, *id))
        .unzip();
    AllInOneBatch {
        frames: frames(batch, &device),
        patch_order,
        text_ids: ints(&own_ids, &device),
        text_pad: bools(&own_pad, &device),
        masked_text_ids: ints(&masked_ids, &device),
        predict_words,
        word_targets,
        options: (batch.task == PixelTask::MultipleChoice).then(|| OptionTexts {
            ids: ints(&batch.text_ids, &device),
            pad: bools(&batch.text_pad, &device),
        }),
        answers: batch.answers.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use meltr_data::{DataError, Draw, NO_ANSWER, PixelSample, PixelText, RgbFrame, WordPiece};

    use super::*;
    use crate::shares::tests::on_threads;

    const WORDS: [&str; 4] = ["red", "green", "blue", "gray"];
    const COLORS: [[u8; 3]; 4] = [[250, 0, 0], [0, 250, 0], [0, 0, 250], [120, 120, 120]];

    /// Clips of one color with texts about it.
    #[derive(Debug)]
    struct Colors {
        task: PixelTask,
        word_piece: WordPiece,
        answers: Vec<String>,
        n_items: usize,
    }

    impl Colors {
        fn new(task: PixelTask, n_items: usize) -> Self {
            let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nred\ngreen\nblue\ngray\ncolor\n";
            let answers = match task {
                PixelTask::OpenEnded => WORDS[..3].iter().map(ToString::to_string).collect(),
                _ => Vec::new(),
            };
            Self {
                task,
                word_piece: WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap(),
                answers,
                n_items,
            }
        }
    }

    impl PixelSet for Colors {
        fn label(&self) -> &Path {
            Path::new("colors")
        }

        fn word_piece(&self) -> &WordPiece {
            &self.word_piece
        }

        fn task(&self) -> PixelTask {
            self.task
        }

        fn answers(&self) -> &[String] {
            &self.answers
        }

        fn item_name(&self, index: usize) -> String {
            format!("clip {index}")
        }

        fn split(&self, _name: &str) -> Result<Vec<usize>, DataError> {
            Ok((0..self.n_items).collect())
        }

        fn sample(&self, index: usize, _draw: Draw) -> Result<PixelSample, DataError> {
            let color = index % 4;
            let frame = |level: u8| {
                let pixel = COLORS[color].map(|value| value + level);
                RgbFrame::new(8, 8, pixel.repeat(64)).unwrap()
            };
            Ok(PixelSample {
                id: index,
                frames: vec![frame(0), frame(5)],
                text: match self.task {
                    PixelTask::Retrieval => PixelText::Caption(WORDS[color].to_owned()),
                    PixelTask::OpenEnded => PixelText::OpenQuestion {
                        question: "color".to_owned(),
                        // Gray is no class.
                        answer: (color < 3).then_some(color),
                    },
                    PixelTask::MultipleChoice => PixelText::MultipleChoice {
                        question: "color".to_owned(),
                        options: WORDS.map(str::to_owned).to_vec(),
                        answer: color,
                    },
                },
                visual_tokens: None,
            })
        }
    }

    fn collator() -> PixelCollator {
        PixelCollator {
            max_words: 5,
            n_frames: 2,
            image_size: 8,
            patch_size: 2,
            ..PixelCollator::all_in_one()
        }
    }

    fn model_config(task: AllInOneTask) -> AllInOneConfig {
        AllInOneConfig {
            d_model: 8,
            n_heads: 2,
            d_ff: 12,
            n_layers: 1,
            d_shared: 4,
            image_size: 8,
            patch_size: 2,
            n_frames: 2,
            max_text_positions: 5,
            ..AllInOneConfig::mini(task, 10)
        }
    }

    fn settings(task: AllInOneTask) -> AllInOneTaskConfig {
        AllInOneTaskConfig {
            chunk: 2,
            ..AllInOneTaskConfig::new(task, 3, vec!["train".to_owned()])
        }
    }

    fn fine_tune(set: Colors, task: AllInOneTask) -> Result<AllInOneFineTune, TaskError> {
        let device = Device::default();
        let (model, config) = (model_config(task), settings(task));
        AllInOneFineTune::new(Arc::new(set), collator(), &model, config, 1, &device)
    }

    fn kinds() -> [(PixelTask, AllInOneTask); 3] {
        [
            (PixelTask::Retrieval, AllInOneTask::Retrieval),
            (
                PixelTask::OpenEnded,
                AllInOneTask::OpenEnded { n_answers: 3 },
            ),
            (PixelTask::MultipleChoice, AllInOneTask::MultipleChoice),
        ]
    }

    #[test]
    fn every_task_has_finite_losses_and_its_own_is_the_primary_one() {
        for (pixel, task) in kinds() {
            let task_of_set = fine_tune(Colors::new(pixel, 7), task).unwrap();
            let model = model_config(task).init(3, &Device::default()).unwrap();
            let batch = task_of_set.batch(0, 5).unwrap();
            let losses = vec_f64(
                task_of_set
                    .losses(&model, &batch, Pass::Evaluation)
                    .into_data(),
            );
            assert_eq!(losses.len(), task_of_set.names().len());
            assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
            let primary = task_of_set.primary_loss(&model, &batch, Pass::Evaluation);
            let primary = vec_f64(primary.into_data())[0];
            assert!((primary - losses[task_of_set.primary()]).abs() < 1e-5);
            assert_eq!(
                task_of_set.names()[task_of_set.primary()],
                task.primary().name()
            );
        }
    }

    #[test]
    fn clips_of_no_split_are_compared_and_answered_like_those_of_the_set() {
        for (pixel, task) in kinds() {
            let tuned = fine_tune(Colors::new(pixel, 7), task).unwrap();
            let model = model_config(task).init(3, &Device::default()).unwrap();
            let others = Colors::new(pixel, 7);
            let indices: Vec<usize> = (0..7).collect();
            if pixel == PixelTask::Retrieval {
                let expected = tuned.similarity_matrix(&model, &indices).unwrap();
                let texts = WORDS.map(str::to_owned);
                let found = tuned
                    .similarities(&model, &texts, &others, &indices)
                    .unwrap();
                assert_eq!(found.dim(), (4, 7));
                for ((text, clip), value) in found.indexed_iter() {
                    assert!((value - expected[[text, clip]]).abs() < 1e-5);
                }
                continue;
            }
            let scores = tuned.answer_scores(&model, &others, &indices).unwrap();
            let mut counts = AnswerCounts::default();
            for (scores, index) in scores.iter().zip(&indices) {
                let color = (index % 4) as i64;
                let is_known = pixel == PixelTask::MultipleChoice || color < 3;
                counts.add(scores, if is_known { color } else { NO_ANSWER });
            }
            assert_eq!(counts, tuned.answers(&model, &indices).unwrap());
        }
    }

    #[test]
    fn every_item_of_a_split_is_evaluated_whatever_the_chunks() {
        let (pixel, task) = kinds()[1];
        let questions = fine_tune(Colors::new(pixel, 7), task).unwrap();
        let model = model_config(task).init(3, &Device::default()).unwrap();
        let metrics = questions.evaluate(&model, "test").unwrap();
        // Of clips 0 to 6 one is gray.
        assert_eq!(metrics["n_unknown_answers"], 1.0);
        let right = metrics["accuracy_known"] * 6.0;
        assert!((metrics["accuracy"] * 7.0 - right).abs() < 1e-9);

        let (pixel, task) = kinds()[0];
        let retrieval = fine_tune(Colors::new(pixel, 7), task).unwrap();
        let model = model_config(task).init(3, &Device::default()).unwrap();
        let indices: Vec<usize> = (0..7).collect();
        let matrix = retrieval.similarity_matrix(&model, &indices).unwrap();
        assert_eq!(matrix.dim(), (7, 7));
        let part = retrieval.similarity_matrix(&model, &indices[3..]).unwrap();
        for ((text, video), value) in part.indexed_iter() {
            assert!((value - matrix[[text + 3, video + 3]]).abs() < 1e-5);
        }
        let metrics = retrieval.evaluate(&model, "test").unwrap();
        assert!(metrics.contains_key("text_to_video.r1"));
        assert!(metrics.contains_key("video_to_text.median_rank"));
    }

    #[test]
    fn processes_that_share_an_evaluation_find_what_one_finds() {
        for (pixel, task) in kinds() {
            let with = |workers: &dyn Workers| {
                let tuned = fine_tune(Colors::new(pixel, 7), task).unwrap();
                let model = model_config(task).init(3, &Device::default()).unwrap();
                tuned
                    .evaluate_shared(&model, "test", workers, &mut |_, _| {})
                    .unwrap()
            };
            let expected = with(&Alone);
            for n in [2, 5] {
                for found in on_threads(n, with) {
                    assert_eq!(found, expected, "{task:?}");
                }
            }
        }
    }

    #[test]
    fn a_batch_is_a_pure_function_and_its_patch_orders_are_permutations() {
        let (pixel, task) = kinds()[0];
        let task_of_set = fine_tune(Colors::new(pixel, 7), task).unwrap();
        let order = |iteration, seed| {
            let batch = task_of_set.batch(iteration, seed).unwrap();
            batch.input.patch_order.unwrap()
        };
        assert_eq!(order(1, 5), order(1, 5));
        assert_ne!(order(1, 5), order(1, 6));
        let orders = order(0, 5);
        assert_eq!(orders.len(), 3 * 2 * 16);
        for order in orders.chunks(16) {
            let mut sorted = order.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..16).collect::<Vec<i64>>());
        }
        assert_ne!(orders[..16], orders[16..32]);
    }

    #[test]
    fn pretext_losses_of_multiple_choice_read_the_right_option() {
        let set = Colors::new(PixelTask::MultipleChoice, 4);
        let mode = CollateMode::Training { seed: 2 };
        let host = collator().collate(&set, &[2, 0], mode).unwrap();
        let batch = all_in_one_batch(&host, None, &Device::default());
        assert_eq!(batch.text_ids.dims(), [2, 5]);
        let options = batch.options.unwrap();
        assert_eq!(options.ids.dims(), [8, 5]);
        assert_eq!(batch.answers, [2, 0]);
        // [CLS] color blue [SEP] [PAD], and red for the other item.
        let ids: Vec<i64> = batch.text_ids.into_data().iter::<i64>().collect();
        assert_eq!(ids, [2, 9, 7, 3, 0, 2, 9, 5, 3, 0]);
        let targets: Vec<i64> = batch
            .predict_words
            .iter()
            .map(|at| ids[*at as usize])
            .collect();
        assert!(!targets.is_empty());
        assert_eq!(targets, batch.word_targets);
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_its_reason() {
        let error = |set: Colors, task| fine_tune(set, task).unwrap_err().to_string();
        let (pixel, _) = kinds()[0];
        assert_eq!(
            error(Colors::new(pixel, 7), AllInOneTask::MultipleChoice),
            "`model.task` = `multiple_choice` does not work here: the set serves another task; \
             take that of the set"
        );
        let task = AllInOneTask::OpenEnded { n_answers: 8 };
        assert_eq!(
            error(Colors::new(PixelTask::OpenEnded, 7), task),
            "`n_answers` is 8; it has to be in {number of the set's answers}"
        );
        assert_eq!(
            error(Colors::new(pixel, 2), AllInOneTask::Retrieval),
            "`batch_size` is 3; choose a value in [1, 2], the number of items"
        );
    }

    #[test]
    fn a_primary_loss_that_is_not_computed_is_refused() {
        let task = AllInOneTask::Retrieval;
        let config = AllInOneTaskConfig {
            losses: vec![AllInOneLoss::Mlm],
            ..settings(task)
        };
        assert_eq!(
            config.validate(task).unwrap_err().to_string(),
            "`task.primary` is `ind_itc`, which is not known; use one of: mlm"
        );
        let published = AllInOneTaskConfig {
            primary: Some(AllInOneLoss::Mlm),
            ..config
        };
        published.validate(task).unwrap();
        let foreign = AllInOneTaskConfig {
            losses: vec![AllInOneLoss::McVqa],
            ..published
        };
        assert_eq!(
            foreign.validate(task).unwrap_err().to_string(),
            "`task.losses` is `mc_vqa`, which is not known; use one of: mlm, ind_itc"
        );
    }

    #[test]
    fn unknown_answers_are_left_out_of_one_accuracy_and_counted_in_the_other() {
        let mut counts = AnswerCounts::default();
        assert!(!counts.named().contains_key("accuracy"));
        counts.add(&[0.1, 0.9], 1);
        counts.add(&[0.1, 0.9], 0);
        // The first of equal scores counts.
        counts.add(&[0.5, 0.5], 0);
        counts.add(&[0.5, 0.5], NO_ANSWER);
        let metrics = counts.named();
        assert!((metrics["accuracy_known"] - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(metrics["accuracy"], 0.5);
        assert_eq!(metrics["n_unknown_answers"], 1.0);
    }
}
