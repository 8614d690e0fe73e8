//! Retrieval, open-ended questions and multiple choice on VIOLET, over raw frames.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use burn::module::ParamId;
use burn::tensor::{Device, Tensor};
use meltr_core::{Alone, ConfigError, Dual, FineTuneTask, LoadReport, Pass, StateDict, Workers};
use meltr_data::{
    CollateMode, DataError, Draw, FrameScale, PatchMasking, PixelBatch, PixelCollator, PixelSet,
    PixelTask, PixelText, VisualTargets,
};
use meltr_models::{Encoded, Violet, VioletBatch, VioletConfig, VioletLoss, VioletTask};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::error::TaskError;
use crate::metric::{RetrievalMetrics, TiePolicy};
use crate::pair_scores::{PairScores, similarity_by_shares};
use crate::pixel_input::{
    first_best, frames, items_at_a_time, items_of, score_rows, violet_batch, without_targets,
};
use crate::shares::{gather_columns, gather_encoded, own_items};
use crate::shuffled_items::ShuffledItems;
use crate::univl_input::{bools, ints, token_rows};

/// Side in pixels of the patches that the frame encoder makes tokens of.
const PATCH_SIZE: usize = 32;

/// Settings of the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VioletTaskConfig {
    /// Losses in token order, each once, all of them losses of the model's task.
    pub losses: Vec<VioletLoss>,
    /// The loss of the outer objective, one of `losses`; by default
    /// [`VioletTask::primary`](meltr_models::VioletTask::primary).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<VioletLoss>,
    /// How ties are counted, for retrieval.
    #[serde(default)]
    pub ties: TiePolicy,
    /// Items that are encoded or answered at a time; for retrieval `chunk²` pairs run through the
    /// cross encoder at once. Bounds the memory of an evaluation.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
    /// Items in a training batch; at least 2 with the matching loss, which pairs every video with
    /// every text of a batch.
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

impl VioletTaskConfig {
    /// All losses of a task, the task's own first and as the primary one.
    #[must_use]
    pub fn new(task: VioletTask, batch_size: usize, train_splits: Vec<String>) -> Self {
        Self {
            losses: task.losses().to_vec(),
            primary: None,
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
    pub fn validate(&self, task: VioletTask) -> Result<(), ConfigError> {
        let unknown =
            |key, value: String, known: String| ConfigError::UnknownName { key, value, known };
        for (index, loss) in self.losses.iter().enumerate() {
            if !task.losses().contains(loss) {
                let known = names_of(task.losses());
                return Err(unknown("task.losses", loss.to_string(), known));
            }
            if self.losses[..index].contains(loss) {
                let value = format!("{loss} (twice)");
                let known = "each loss once".to_owned();
                return Err(unknown("task.losses", value, known));
            }
        }
        let primary = self.primary_of(task);
        if !self.losses.contains(&primary) {
            let known = names_of(&self.losses);
            return Err(unknown("task.primary", primary.to_string(), known));
        }
        ConfigError::require_nonzero("task.chunk", self.chunk)?;
        ConfigError::require_nonzero("task.batch_size", self.batch_size)?;
        if self.batch_size < 2 && self.losses.contains(&VioletLoss::Vtm) {
            return Err(ConfigError::OutOfRange {
                key: "task.batch_size",
                value: self.batch_size as f64,
                range: "[2, inf): the matching loss needs another pair",
            });
        }
        Ok(())
    }

    /// The loss of the outer objective.
    fn primary_of(&self, task: VioletTask) -> VioletLoss {
        self.primary.unwrap_or_else(|| task.primary())
    }
}

fn names_of(losses: &[VioletLoss]) -> String {
    let names: Vec<&str> = losses.iter().map(|loss| loss.name()).collect();
    names.join(", ")
}

/// What a VIOLET has to be built for to serve a set.
#[must_use]
pub fn violet_task(set: &dyn PixelSet) -> VioletTask {
    match set.task() {
        PixelTask::Retrieval => VioletTask::Retrieval,
        PixelTask::OpenEnded => VioletTask::OpenEnded {
            n_answers: set.answers().len(),
        },
        PixelTask::MultipleChoice => VioletTask::MultipleChoice,
    }
}

/// Retrieval, open-ended questions or multiple choice on VIOLET: the task of the set.
///
/// # References
///
/// - Reference code: `mlvlab/MELTR@669ad60`, `violet/`. Departs from it in evaluation: no item is
///   left out, where the released code drops the incomplete last batch of the test; accuracy is a
///   fraction of all items, not a mean over batches; similarities are ranked before the sigmoid,
///   which saturates to ties.
#[derive(Debug)]
pub struct VioletFineTune {
    set: Arc<dyn PixelSet>,
    collator: PixelCollator,
    task: VioletTask,
    config: VioletTaskConfig,
    train: ShuffledItems,
    outer: Option<ShuffledItems>,
    device: Device,
}

/// A batch of the task.
#[derive(Debug, Clone)]
pub struct VioletItems {
    /// What the model reads.
    pub input: VioletBatch,
    /// Rows of the set.
    pub indices: Vec<usize>,
}

/// What a model answered to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenAnswer {
    /// Row of the set.
    pub index: usize,
    /// Number of the class or option with the largest score, of the first of equal ones.
    pub given: usize,
    /// Number of the right one; `None` if it is not known or none of the classes.
    pub right: Option<usize>,
}

impl VioletFineTune {
    /// Sets the task up for models of one size; `order_seed` fixes the order of the training
    /// items.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if a setting is out of range, if set, batches, losses and model do not fit
    /// together, or if a split is not known, empty or smaller than a batch.
    pub fn new(
        set: Arc<dyn PixelSet>,
        collator: PixelCollator,
        model: &VioletConfig,
        config: VioletTaskConfig,
        order_seed: u64,
        device: &Device,
    ) -> Result<Self, TaskError> {
        model.validate()?;
        config.validate(model.task)?;
        collator.validate()?;
        require_fit(&*set, &collator, model)?;
        require_targets(&collator, model, &config.losses)?;
        let train = items_of(&*set, &config.train_splits)?;
        let train = ShuffledItems::new(train, config.batch_size, order_seed)?;
        let outer = train.held_out(&config.outer_splits, |splits| items_of(&*set, splits))?;
        let device = device.clone().without_autodiff();
        Ok(Self {
            set,
            collator,
            task: model.task,
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

    /// Matching logits of all texts with all videos of `indices`, `[N, N]`, rows are texts.
    ///
    /// Every text and every video is encoded once and kept; `chunk²` pairs at a time run through
    /// the cross encoder.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if an item cannot be read.
    pub fn similarity_matrix(
        &self,
        model: &Violet,
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
        model: &Violet,
        indices: &[usize],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Array2<f64>, TaskError> {
        self.shared_matrix(model, indices, &Alone, progress)
    }

    /// The similarity matrix, of which every process takes the columns of its share of the videos;
    /// `progress` is told of the pairs of that share.
    fn shared_matrix(
        &self,
        model: &Violet,
        indices: &[usize],
        workers: &dyn Workers,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Array2<f64>, TaskError> {
        let chunk = self.config.chunk;
        let own = &indices[own_items(workers, indices.len(), chunk)];
        let (mut texts, mut videos) = (Vec::new(), Vec::new());
        for part in own.chunks(chunk) {
            let host = self
                .collator
                .collate(&*self.set, part, CollateMode::Clean)?;
            texts.push(model.encode_text(
                ints(&host.text_ids, &self.device),
                bools(&host.text_pad, &self.device),
                Pass::Evaluation,
            ));
            videos.push(model.encode_video(frames(&host, &self.device), Pass::Evaluation));
        }
        let texts = gather_encoded(workers, texts, &self.device);
        let mut scores = PairScores::new(indices.len(), own.len(), chunk, progress);
        for (column, video) in videos.iter().enumerate() {
            for (row, text) in texts.iter().enumerate() {
                let similarity = similarity_by_shares(text, |text| {
                    model.similarity(text, video, Pass::Evaluation)
                });
                scores.insert(row, column, similarity);
            }
        }
        Ok(gather_columns(workers, scores.into_matrix()))
    }

    /// The model's answer to every question of a split, in the order of the split.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if the split is not known or empty, if an item cannot be read, if the model
    /// has no head for answers, or if its scores are not finite.
    pub fn given_answers(
        &self,
        model: &Violet,
        split: &str,
    ) -> Result<Vec<GivenAnswer>, TaskError> {
        self.answers(model, &self.set.split(split)?)
    }

    fn answers(&self, model: &Violet, indices: &[usize]) -> Result<Vec<GivenAnswer>, TaskError> {
        let mut answers = Vec::with_capacity(indices.len());
        for part in indices.chunks(self.config.chunk) {
            let host = self
                .collator
                .collate(&*self.set, part, CollateMode::Clean)?;
            let rows = self.scores(model, &*self.set, &host)?;
            for ((scores, right), &index) in rows.iter().zip(&host.answers).zip(part) {
                let Some(given) = first_best(scores) else {
                    let item = self.set.item_name(index);
                    return Err(TaskError::AnswerNotFinite { item });
                };
                answers.push(GivenAnswer {
                    index,
                    given,
                    right: usize::try_from(*right).ok(),
                });
            }
        }
        Ok(answers)
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
        model: &Violet,
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
        model: &Violet,
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

    /// Matching logits of texts with the clips of a set of others, `[Nt, Nv]`, rows are texts.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if a clip cannot be read.
    pub fn similarities(
        &self,
        model: &Violet,
        texts: &[String],
        clips: &dyn PixelSet,
        indices: &[usize],
    ) -> Result<Array2<f64>, TaskError> {
        let chunk = self.config.chunk;
        let words = self.set.word_piece();
        let encoded: Vec<Encoded> = texts
            .chunks(chunk)
            .map(|part| {
                let (ids, pad) = token_rows(part, words, self.collator.max_words, &self.device);
                model.encode_text(ids, pad, Pass::Evaluation)
            })
            .collect();
        let collator = without_targets(&self.collator);
        let mut untold = |_: usize, _: usize| {};
        let mut scores = PairScores::new(texts.len(), indices.len(), chunk, &mut untold);
        for (column, part) in indices.chunks(chunk).enumerate() {
            let host = collator.collate(clips, part, CollateMode::Clean)?;
            let video = model.encode_video(frames(&host, &self.device), Pass::Evaluation);
            for (row, text) in encoded.iter().enumerate() {
                let similarity = similarity_by_shares(text, |text| {
                    model.similarity(text, &video, Pass::Evaluation)
                });
                scores.insert(row, column, similarity);
            }
        }
        Ok(scores.into_matrix())
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

    /// What a model has to beat on a split: [`blind_references`] of the items that are trained on.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if the split is not known or empty, or if an item cannot be read.
    pub fn blind_references(&self, split: &str) -> Result<Vec<BlindReference>, TaskError> {
        Ok(blind_references(&*self.set, self.train.indices(), split)?)
    }

    fn retrieval(
        &self,
        model: &Violet,
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
}

impl VioletFineTune {
    /// These items as a batch, and the seed of its random choices.
    fn items(&self, (indices, seed): (Vec<usize>, u64)) -> Result<VioletItems, TaskError> {
        let mode = CollateMode::Training { seed };
        let host = self.collator.collate(&*self.set, &indices, mode)?;
        Ok(VioletItems {
            input: violet_batch(&host, &self.device),
            indices,
        })
    }
}

impl FineTuneTask for VioletFineTune {
    type Model = Violet;
    type Batch = VioletItems;
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

    /// A question of multiple choice without a right option never gets here: the collator refuses
    /// it.
    fn batch(&self, iteration: usize, seed: u64) -> Result<VioletItems, TaskError> {
        self.items(self.train.batch(iteration, seed))
    }

    fn outer_batch(&self, number: usize, seed: u64) -> Result<Option<VioletItems>, TaskError> {
        let outer = self.outer.as_ref();
        outer
            .map(|outer| self.items(outer.batch(number, seed)))
            .transpose()
    }

    fn batch_items(&self, batch: &VioletItems) -> Vec<String> {
        batch
            .indices
            .iter()
            .map(|index| self.set.item_name(*index))
            .collect()
    }

    fn losses(&self, model: &Violet, batch: &VioletItems, pass: Pass) -> Tensor<1> {
        model.losses(&batch.input, &self.config.losses, pass)
    }

    fn losses_along(
        &self,
        model: &Violet,
        direction: &Violet,
        batch: &VioletItems,
        pass: Pass,
    ) -> Option<Dual<1>> {
        Some(model.losses_along(direction, &batch.input, &self.config.losses, pass))
    }

    fn primary_loss(&self, model: &Violet, batch: &VioletItems, pass: Pass) -> Tensor<1> {
        model.losses(&batch.input, &[self.config.primary_of(self.task)], pass)
    }

    fn parameter_names(&self, model: &Violet) -> Vec<(ParamId, String)> {
        model.parameter_names()
    }

    fn state_dict(&self, model: &Violet) -> StateDict {
        model.state_dict()
    }

    fn load_state_dict(&self, model: Violet, dict: &StateDict) -> (Violet, LoadReport) {
        model.load_state_dict(dict)
    }

    /// For retrieval the recalls and ranks of both directions, over all pairs of the split. For
    /// questions, over the whole split:
    ///
    /// - `accuracy`: fraction of right answers among all questions; one whose answer is not known
    ///   counts as a mistake, as published for VIOLET
    /// - `accuracy_known`: the same among the questions whose answer is known; absent if there are
    ///   none
    /// - `n_unknown_answers`: how many answers are not known
    fn evaluate_shared(
        &self,
        model: &Violet,
        split: &str,
        workers: &dyn Workers,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BTreeMap<String, f64>, TaskError> {
        match self.task {
            VioletTask::Retrieval => self.retrieval(model, split, workers, progress),
            VioletTask::OpenEnded { .. } | VioletTask::MultipleChoice => {
                let indices = self.set.split(split)?;
                let own = own_items(workers, indices.len(), self.config.chunk);
                let answers = self.answers(model, &indices[own])?;
                Ok(accuracies(gather_answers(workers, &answers)))
            }
        }
    }

    fn n_items(&self, split: &str) -> Result<usize, TaskError> {
        Ok(self.set.split(split)?.len())
    }
}

/// The given answers of all processes, each with the right one.
fn gather_answers(
    workers: &dyn Workers,
    own: &[GivenAnswer],
) -> impl Iterator<Item = (usize, Option<usize>)> {
    const UNKNOWN: f64 = -1.0;
    let own: Vec<f64> = own
        .iter()
        .flat_map(|answer| {
            let right = answer.right.map_or(UNKNOWN, |right| right as f64);
            [answer.given as f64, right]
        })
        .collect();
    let mut all = workers.gather(&own).into_iter();
    std::iter::from_fn(move || {
        let (given, right) = (all.next()?, all.next()?);
        Some((given as usize, (right >= 0.0).then_some(right as usize)))
    })
}

/// Accuracies of given answers, each with the right one, by name.
fn accuracies(answers: impl Iterator<Item = (usize, Option<usize>)>) -> BTreeMap<String, f64> {
    let (mut n_right, mut n_known, mut n_unknown) = (0_usize, 0_usize, 0_usize);
    for (given, right) in answers {
        match right {
            Some(right) => {
                n_known += 1;
                n_right += usize::from(given == right);
            }
            None => n_unknown += 1,
        }
    }
    let mut metrics = BTreeMap::from([("n_unknown_answers".to_owned(), n_unknown as f64)]);
    for (name, n_answers) in [
        ("accuracy", n_known + n_unknown),
        ("accuracy_known", n_known),
    ] {
        if n_answers > 0 {
            metrics.insert(name.to_owned(), n_right as f64 / n_answers as f64);
        }
    }
    metrics
}

/// Why a model cannot answer.
pub(crate) fn no_head(task: VioletTask) -> TaskError {
    TaskError::Config(ConfigError::Unsupported {
        key: "model.task",
        value: task_name(task),
        reason: "such a model has no head for answers; take one of the set's task",
    })
}

fn task_name(task: VioletTask) -> &'static str {
    match task {
        VioletTask::Retrieval => PixelTask::Retrieval.name(),
        VioletTask::OpenEnded { .. } => PixelTask::OpenEnded.name(),
        VioletTask::MultipleChoice => PixelTask::MultipleChoice.name(),
    }
}

/// Whether set, batches and model belong together.
fn require_fit(
    set: &dyn PixelSet,
    collator: &PixelCollator,
    model: &VioletConfig,
) -> Result<(), ConfigError> {
    let out_of_range = |key, value: usize, range| ConfigError::OutOfRange {
        key,
        value: value as f64,
        range,
    };
    match (violet_task(set), model.task) {
        (of_set, of_model) if of_set == of_model => {}
        (VioletTask::OpenEnded { .. }, VioletTask::OpenEnded { n_answers }) => {
            let range = "{number of the set's answers}";
            return Err(out_of_range("n_answers", n_answers, range));
        }
        (_, of_model) => {
            return Err(ConfigError::Unsupported {
                key: "model.task",
                value: task_name(of_model),
                reason: "the set serves another task; take that of the set",
            });
        }
    }
    if collator.patch_size != PATCH_SIZE {
        let range = "{32}: VIOLET makes one token of 32 x 32 pixels";
        return Err(out_of_range("patch_size", collator.patch_size, range));
    }
    if collator.scale != FrameScale::Unit {
        return Err(ConfigError::Unsupported {
            key: "scale",
            value: "image_net",
            reason: "VIOLET hides patches first and normalizes by itself then; take `unit`",
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

/// Whether the batches have what the losses predict.
fn require_targets(
    collator: &PixelCollator,
    model: &VioletConfig,
    losses: &[VioletLoss],
) -> Result<(), ConfigError> {
    if losses.contains(&VioletLoss::Mtm) && collator.mask_probability <= 0.0 {
        return Err(ConfigError::OutOfRange {
            key: "mask_probability",
            value: collator.mask_probability,
            range: "(0, 1]: `mtm` predicts hidden words",
        });
    }
    if !losses.contains(&VioletLoss::Mvm) {
        return Ok(());
    }
    if collator.visual_targets == VisualTargets::None {
        return Err(ConfigError::Unsupported {
            key: "visual_targets",
            value: "none",
            reason: "`mvm` predicts visual tokens; take `mean_color` or `from_set`, or leave `mvm` \
                     out of the losses",
        });
    }
    if collator.patch_masking == PatchMasking::None {
        return Err(ConfigError::Unsupported {
            key: "patch_masking",
            value: "none",
            reason: "`mvm` predicts hidden patches; take `cuboids`, or leave `mvm` out of the \
                     losses",
        });
    }
    if model.n_visual_tokens < collator.visual_targets.n_tokens() {
        return Err(ConfigError::OutOfRange {
            key: "n_visual_tokens",
            value: model.n_visual_tokens as f64,
            range: "[number of tokens of `visual_targets`, inf)",
        });
    }
    Ok(())
}

/// A mark that a model has to beat: answers or orders without a look at any video.
#[derive(Debug, Clone, PartialEq)]
pub struct BlindReference {
    /// Name, such as `majority answer`.
    pub name: &'static str,
    /// Metrics under the names that an evaluation gives them.
    pub metrics: BTreeMap<String, f64>,
    /// How it comes about.
    pub note: &'static str,
}

/// What can be reached on a split without a look at any video, the plainest first.
///
/// | task | references |
/// |---|---|
/// | retrieval | random order |
/// | open-ended | the most frequent answer in training; the same for each question |
/// | multiple choice | a random option |
///
/// Of equally frequent answers the first class counts, and a question that training does not have
/// gets the most frequent answer of all. Random choices are given by their expectation. Without a
/// known answer among the training items there is no reference for open-ended questions.
///
/// Questions are read as samples, so that the frames of all items concerned are decoded once.
///
/// # Errors
///
/// [`DataError`] if the split is not known or empty, or if an item cannot be read.
pub fn blind_references(
    set: &dyn PixelSet,
    train: &[usize],
    split: &str,
) -> Result<Vec<BlindReference>, DataError> {
    let items = set.split(split)?;
    match set.task() {
        PixelTask::Retrieval => Ok(vec![random_order(items.len())]),
        PixelTask::OpenEnded => frequent_answers(set, train, &items),
        PixelTask::MultipleChoice => Ok(vec![random_option(set, &items)?]),
    }
}

fn random_order(n_items: usize) -> BlindReference {
    // On average a random order gives every rank to equally many queries.
    let ranks = (0..n_items).map(|rank| rank as f64).collect();
    let expected = RetrievalMetrics { ranks };
    let mut metrics = expected.named("text_to_video");
    metrics.extend(expected.named("video_to_text"));
    BlindReference {
        name: "chance",
        metrics,
        note: "what a random order gives on average",
    }
}

fn random_option(set: &dyn PixelSet, items: &[usize]) -> Result<BlindReference, DataError> {
    let mut sum = 0.0;
    for &index in items {
        if let PixelText::MultipleChoice { options, .. } = text_of(set, index)? {
            sum += 1.0 / options.len() as f64;
        }
    }
    let accuracy = sum / items.len() as f64;
    Ok(BlindReference {
        name: "chance",
        metrics: BTreeMap::from([("accuracy".to_owned(), accuracy)]),
        note: "what a random option gives on average",
    })
}

/// Numbers of answers by class.
type Counts = BTreeMap<usize, usize>;

fn frequent_answers(
    set: &dyn PixelSet,
    train: &[usize],
    items: &[usize],
) -> Result<Vec<BlindReference>, DataError> {
    let mut all = Counts::new();
    let mut by_question: HashMap<String, Counts> = HashMap::new();
    for &index in train {
        if let PixelText::OpenQuestion {
            question,
            answer: Some(class),
        } = text_of(set, index)?
        {
            *all.entry(class).or_insert(0) += 1;
            *by_question
                .entry(question)
                .or_default()
                .entry(class)
                .or_insert(0) += 1;
        }
    }
    let Some(majority) = most_frequent(&all) else {
        return Ok(Vec::new());
    };
    let (mut always, mut to_question) = (Vec::new(), Vec::new());
    for &index in items {
        if let PixelText::OpenQuestion { question, answer } = text_of(set, index)? {
            let known = by_question.get(&question).and_then(most_frequent);
            always.push((majority, answer));
            to_question.push((known.unwrap_or(majority), answer));
        }
    }
    Ok(vec![
        BlindReference {
            name: "majority answer",
            metrics: accuracies(always.into_iter()),
            note: "the most frequent answer of the training items, whatever the question",
        },
        BlindReference {
            name: "majority answer to the question",
            metrics: accuracies(to_question.into_iter()),
            note: "the most frequent answer of the training items with the same question",
        },
    ])
}

/// Of equally frequent answers the first class.
fn most_frequent(counts: &Counts) -> Option<usize> {
    counts
        .iter()
        .max_by_key(|&(class, count)| (*count, Reverse(*class)))
        .map(|(class, _)| *class)
}

fn text_of(set: &dyn PixelSet, index: usize) -> Result<PixelText, DataError> {
    Ok(set.sample(index, Draw::Evaluation)?.text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use meltr_core::vec_f64;
    use meltr_data::{OptionPrompt, PixelSample, RgbFrame, WordPiece};
    use meltr_models::SwinConfig;

    use super::*;
    use crate::shares::tests::on_threads;

    const WORDS: [&str; 4] = ["red", "green", "blue", "gray"];
    const COLORS: [[u8; 3]; 4] = [[250, 0, 0], [0, 250, 0], [0, 0, 250], [120, 120, 120]];

    /// Clips of one color each, by turns, with texts about it; gray is no class of answers. Every
    /// third question is another one.
    #[derive(Debug)]
    struct Colors {
        task: PixelTask,
        word_piece: WordPiece,
        answers: Vec<String>,
        n_items: usize,
    }

    impl Colors {
        fn new(task: PixelTask, n_items: usize) -> Self {
            let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nred\ngreen\nblue\ngray\ncolor\nhue\n";
            let answers = match task {
                PixelTask::OpenEnded => WORDS[..3].iter().map(ToString::to_string).collect(),
                PixelTask::Retrieval | PixelTask::MultipleChoice => Vec::new(),
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
            let question = if index % 3 == 2 { "hue" } else { "color" };
            let question = question.to_owned();
            Ok(PixelSample {
                id: index,
                frames: vec![frame(0), frame(5)],
                text: match self.task {
                    PixelTask::Retrieval => PixelText::Caption(WORDS[color].to_owned()),
                    PixelTask::OpenEnded => PixelText::OpenQuestion {
                        question,
                        answer: (color < 3).then_some(color),
                    },
                    PixelTask::MultipleChoice => PixelText::MultipleChoice {
                        question,
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
            image_size: 32,
            visual_targets: VisualTargets::MeanColor,
            option_prompt: OptionPrompt::QuestionAndOption,
            ..PixelCollator::violet()
        }
    }

    fn model_config(task: VioletTask) -> VioletConfig {
        let mini = VioletConfig::mini(task, 11, 512);
        VioletConfig {
            swin: SwinConfig {
                embed_dim: 4,
                depths: [1; 4],
                n_heads: [1, 1, 2, 2],
                window: [2, 2, 2],
                ..mini.swin
            },
            n_heads: 2,
            d_ff: 24,
            max_text_positions: 5,
            ..mini
        }
    }

    fn settings(task: VioletTask) -> VioletTaskConfig {
        VioletTaskConfig {
            chunk: 3,
            ..VioletTaskConfig::new(task, 3, vec!["train".to_owned()])
        }
    }

    fn tuned(set: Colors, task: VioletTask) -> Result<VioletFineTune, TaskError> {
        with_collator(set, task, collator())
    }

    fn with_collator(
        set: Colors,
        task: VioletTask,
        collator: PixelCollator,
    ) -> Result<VioletFineTune, TaskError> {
        let (model, config) = (model_config(task), settings(task));
        VioletFineTune::new(
            Arc::new(set),
            collator,
            &model,
            config,
            1,
            &Device::default(),
        )
    }

    fn model(task: VioletTask) -> Violet {
        model_config(task).init(3, &Device::default()).unwrap()
    }

    const RETRIEVAL: (PixelTask, VioletTask) = (PixelTask::Retrieval, VioletTask::Retrieval);
    const OPEN: (PixelTask, VioletTask) =
        (PixelTask::OpenEnded, VioletTask::OpenEnded { n_answers: 3 });
    const CHOICE: (PixelTask, VioletTask) = (PixelTask::MultipleChoice, VioletTask::MultipleChoice);

    #[test]
    fn every_task_has_finite_losses_and_its_own_is_the_primary_one() {
        for (pixel, kind) in [RETRIEVAL, OPEN, CHOICE] {
            let set = Colors::new(pixel, 7);
            assert_eq!(violet_task(&set), kind);
            let task = tuned(set, kind).unwrap();
            let model = model(kind);
            let batch = task.batch(0, 5).unwrap();
            assert_eq!(task.batch_items(&batch).len(), 3);
            let losses = task.losses(&model, &batch, Pass::Evaluation);
            let losses = vec_f64(losses.into_data());
            assert_eq!(losses.len(), task.names().len());
            assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
            let primary = task.primary_loss(&model, &batch, Pass::Evaluation);
            let primary = vec_f64(primary.into_data())[0];
            assert!((primary - losses[task.primary()]).abs() < 1e-4);
            assert_eq!(task.names()[task.primary()], kind.primary().name());
            // Batches hide something: no pretext loss is 0 for want of targets.
            assert!(losses.iter().all(|loss| *loss > 0.0), "{losses:?}");
        }
    }

    #[test]
    fn clips_of_no_split_are_compared_and_answered_like_those_of_the_set() {
        let (pixel, kind) = RETRIEVAL;
        let task = tuned(Colors::new(pixel, 7), kind).unwrap();
        let model = model(kind);
        let indices: Vec<usize> = (0..5).collect();
        let expected = task.similarity_matrix(&model, &indices).unwrap();
        let others = Colors::new(pixel, 7);
        let texts = WORDS.map(str::to_owned);
        let found = task
            .similarities(&model, &texts, &others, &indices)
            .unwrap();
        assert_eq!(found.dim(), (4, 5));
        for ((text, clip), value) in found.indexed_iter() {
            assert!((value - expected[[text, clip]]).abs() < 1e-4);
        }
        for (pixel, kind) in [OPEN, CHOICE] {
            let task = tuned(Colors::new(pixel, 7), kind).unwrap();
            let model = model_config(kind).init(3, &Device::default()).unwrap();
            let expected = task.given_answers(&model, "test").unwrap();
            let others = Colors::new(pixel, 7);
            let indices: Vec<usize> = (0..7).collect();
            let scores = task.answer_scores(&model, &others, &indices).unwrap();
            assert_eq!(scores.len(), 7);
            for (scores, expected) in scores.iter().zip(&expected) {
                assert_eq!(first_best(scores), Some(expected.given));
            }
        }
    }

    #[test]
    fn a_batch_is_a_pure_function_of_iteration_and_seed() {
        let (pixel, kind) = RETRIEVAL;
        let task = tuned(Colors::new(pixel, 7), kind).unwrap();
        let words = |iteration, seed| {
            let batch = task.batch(iteration, seed).unwrap();
            (batch.indices, batch.input.predict_words)
        };
        assert_eq!(words(1, 5), words(1, 5));
        assert_eq!(task.batches_per_epoch(), 2);
        let drawn: Vec<_> = (0..8).map(|seed| words(0, seed)).collect();
        // The items do not depend on the seed of the batch.
        assert!(drawn.iter().all(|(indices, _)| *indices == drawn[0].0));
    }

    #[test]
    fn every_question_of_a_split_is_answered_once_whatever_the_chunks() {
        for (pixel, kind) in [OPEN, CHOICE] {
            let task = tuned(Colors::new(pixel, 7), kind).unwrap();
            let model = model(kind);
            let answers = task.given_answers(&model, "test").unwrap();
            let indices: Vec<usize> = answers.iter().map(|answer| answer.index).collect();
            assert_eq!(indices, (0..7).collect::<Vec<usize>>());
            assert_eq!(task.n_items("test").unwrap(), 7);
            for answer in &answers {
                let color = answer.index % 4;
                let is_class = pixel == PixelTask::MultipleChoice || color < 3;
                assert_eq!(answer.right, is_class.then_some(color));
            }
            let n_unknown = usize::from(pixel == PixelTask::OpenEnded);
            let n_right = answers
                .iter()
                .filter(|answer| answer.right == Some(answer.given))
                .count() as f64;
            let metrics = task.evaluate(&model, "test").unwrap();
            assert!((metrics["accuracy"] - n_right / 7.0).abs() < 1e-12);
            let known = (7 - n_unknown) as f64;
            assert!((metrics["accuracy_known"] - n_right / known).abs() < 1e-12);
            assert_eq!(metrics["n_unknown_answers"], n_unknown as f64);
        }
    }

    #[test]
    fn similarities_of_all_pairs_do_not_depend_on_the_chunks() {
        let (pixel, kind) = RETRIEVAL;
        let task = tuned(Colors::new(pixel, 7), kind).unwrap();
        let model = model(kind);
        let indices: Vec<usize> = (0..7).collect();
        let matrix = task.similarity_matrix(&model, &indices).unwrap();
        assert_eq!(matrix.dim(), (7, 7));
        let part = task.similarity_matrix(&model, &indices[2..]).unwrap();
        for ((text, video), value) in part.indexed_iter() {
            assert!((value - matrix[[text + 2, video + 2]]).abs() < 1e-5);
        }
        // Clips 0 and 4 have the same frames and the same text.
        assert!((matrix[[0, 3]] - matrix[[4, 3]]).abs() < 1e-5);
        assert!((matrix[[3, 0]] - matrix[[3, 4]]).abs() < 1e-5);
        let mut last = (0, 0);
        let metrics = task
            .evaluate_with_progress(&model, "test", &mut |done, all| last = (done, all))
            .unwrap();
        assert_eq!(last, (49, 49));
        assert!(metrics.contains_key("text_to_video.r1"));
        assert!(metrics.contains_key("video_to_text.median_rank"));
    }

    #[test]
    fn processes_that_share_an_evaluation_find_what_one_finds() {
        for (pixel, kind) in [RETRIEVAL, OPEN, CHOICE] {
            let with = |workers: &dyn Workers| {
                let task = tuned(Colors::new(pixel, 7), kind).unwrap();
                let mut scored = 0;
                let metrics = task
                    .evaluate_shared(&model(kind), "test", workers, &mut |done, _| scored = done)
                    .unwrap();
                (metrics, scored)
            };
            let (expected, n_pairs) = with(&Alone);
            for n in [2, 5] {
                let all = on_threads(n, with);
                let scored = all.iter().map(|(_, scored)| scored);
                assert_eq!(scored.sum::<usize>(), n_pairs, "{kind:?}");
                for (found, _) in all {
                    assert_eq!(found, expected, "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn a_model_without_answers_is_refused() {
        let (pixel, kind) = OPEN;
        let task = tuned(Colors::new(pixel, 7), kind).unwrap();
        let error = task
            .given_answers(&model(VioletTask::Retrieval), "test")
            .unwrap_err();
        assert!(error.to_string().contains("no head for answers"), "{error}");
    }

    #[test]
    fn blind_references_are_counted_by_hand() {
        let of = |(pixel, kind): (PixelTask, VioletTask)| {
            let task = tuned(Colors::new(pixel, 7), kind).unwrap();
            task.blind_references("test").unwrap()
        };
        let found = of(RETRIEVAL);
        assert_eq!(found.len(), 1);
        let order = &found[0];
        for (metric, expected) in [("r1", 1.0 / 7.0), ("r10", 1.0), ("median_rank", 4.0)] {
            for direction in ["text_to_video", "video_to_text"] {
                let found = order.metrics[&format!("{direction}.{metric}")];
                assert!((found - expected).abs() < 1e-12, "{direction} {metric}");
            }
        }
        let found = of(CHOICE);
        assert_eq!(found.len(), 1);
        assert!((found[0].metrics["accuracy"] - 0.25).abs() < 1e-12);
        // Colors of clips 0 to 6: 0 1 2 - 0 1 2, of which 2 and 5 are asked for as `hue`: 2 and 1.
        let found = of(OPEN);
        assert_eq!(found.len(), 2);
        let (always, by_question) = (&found[0], &found[1]);
        assert!((always.metrics["accuracy"] - 2.0 / 7.0).abs() < 1e-12);
        assert!((always.metrics["accuracy_known"] - 2.0 / 6.0).abs() < 1e-12);
        // `color`: 0 twice, so 0; `hue`: 1 and 2 once each, so 1.
        assert!((by_question.metrics["accuracy"] - 3.0 / 7.0).abs() < 1e-12);
        assert_eq!(by_question.metrics["n_unknown_answers"], 1.0);
    }

    #[test]
    fn without_known_answers_there_is_no_majority() {
        let (pixel, kind) = OPEN;
        let task = tuned(Colors::new(pixel, 7), kind).unwrap();
        assert!(
            blind_references(task.set(), &[3], "test")
                .unwrap()
                .is_empty()
        );
        assert_eq!(task.train_indices().len(), 7);
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_its_reason() {
        let (pixel, kind) = RETRIEVAL;
        let error = |set: Colors, kind| tuned(set, kind).unwrap_err().to_string();
        assert_eq!(
            error(Colors::new(pixel, 7), VioletTask::MultipleChoice),
            "`model.task` = `multiple_choice` does not work here: the set serves another task; \
             take that of the set"
        );
        let eight = VioletTask::OpenEnded { n_answers: 8 };
        assert_eq!(
            error(Colors::new(PixelTask::OpenEnded, 7), eight),
            "`n_answers` is 8; it has to be in {number of the set's answers}"
        );
        assert_eq!(
            error(Colors::new(pixel, 2), kind),
            "`batch_size` is 3; choose a value in [1, 2], the number of items"
        );
        let with = |collator| {
            with_collator(Colors::new(pixel, 7), kind, collator)
                .unwrap_err()
                .to_string()
        };
        let message = with(PixelCollator {
            patch_size: 16,
            ..collator()
        });
        assert!(
            message.contains("`patch_size` is 16") && message.contains("{32}"),
            "{message}"
        );
        let message = with(PixelCollator {
            scale: FrameScale::ImageNet,
            ..collator()
        });
        assert!(message.contains("take `unit`"), "{message}");
        let message = with(PixelCollator {
            max_words: 6,
            ..collator()
        });
        assert!(message.contains("`max_words` is 6"), "{message}");
        let message = with(PixelCollator {
            n_frames: 9,
            ..collator()
        });
        assert!(message.contains("`n_frames` is 9"), "{message}");
    }

    #[test]
    fn losses_without_targets_are_refused() {
        let (pixel, kind) = RETRIEVAL;
        let with = |collator| {
            with_collator(Colors::new(pixel, 7), kind, collator)
                .unwrap_err()
                .to_string()
        };
        let message = with(PixelCollator {
            visual_targets: VisualTargets::None,
            ..collator()
        });
        assert!(
            message.contains("`mvm` predicts visual tokens"),
            "{message}"
        );
        let message = with(PixelCollator {
            patch_masking: PatchMasking::None,
            ..collator()
        });
        assert!(
            message.contains("`mvm` predicts hidden patches"),
            "{message}"
        );
        let message = with(PixelCollator {
            mask_probability: 0.0,
            ..collator()
        });
        assert!(message.contains("`mtm` predicts hidden words"), "{message}");
        // The set has 512 colors at most, VIOLET's tokens are 8192.
        let message = with(PixelCollator {
            visual_targets: VisualTargets::FromSet,
            ..collator()
        });
        assert!(message.contains("`n_visual_tokens` is 512"), "{message}");
    }

    #[test]
    fn losses_are_those_of_the_task_each_once_and_the_primary_among_them() {
        let kind = VioletTask::Retrieval;
        let refused = |config: VioletTaskConfig| config.validate(kind).unwrap_err().to_string();
        let with = |losses: &[VioletLoss]| VioletTaskConfig {
            losses: losses.to_vec(),
            ..settings(kind)
        };
        assert_eq!(
            refused(with(&[VioletLoss::Mtm])),
            "`task.primary` is `vtm`, which is not known; use one of: mtm"
        );
        assert_eq!(
            refused(with(&[VioletLoss::Mc])),
            "`task.losses` is `mc`, which is not known; use one of: vtm, mtm, mvm"
        );
        assert_eq!(
            refused(with(&[VioletLoss::Vtm, VioletLoss::Vtm])),
            "`task.losses` is `vtm (twice)`, which is not known; use one of: each loss once"
        );
        let single = VioletTaskConfig {
            batch_size: 1,
            ..settings(kind)
        };
        assert!(refused(single.clone()).contains("another pair"));
        let without_pairs = VioletTaskConfig {
            losses: vec![VioletLoss::Mtm],
            primary: Some(VioletLoss::Mtm),
            ..single
        };
        without_pairs.validate(kind).unwrap();
    }
}
