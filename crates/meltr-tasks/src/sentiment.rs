//! Multimodal sentiment on UniVL.

use std::collections::BTreeMap;

use burn::module::ParamId;
use burn::tensor::{Device, Tensor, TensorData};
use meltr_core::{ConfigError, Dual, FineTuneTask, LoadReport, Pass, StateDict, Workers, vec_f64};
use meltr_data::{
    DataError, DataErrorKind, Modality, SentimentBatch, SentimentCollator, SentimentSet,
    VideoTextBatch, WordPiece,
};
use meltr_models::{
    BertModel, FeatureSequence, FeatureWidths, SentimentLoss, UniVlLoss, UniVlSentiment,
    UniVlSentimentBatch, UniVlSentimentConfig,
};
use ndarray::{Array1, Array2, Array3, ArrayView1, ArrayView2, Axis, aview1, s};
use serde::{Deserialize, Serialize};

use crate::error::TaskError;
use crate::linear_sentiment::{
    LinearSentiment, LinearSentimentConfig, UtterancePlace, context_means, linear_sentiment,
};
use crate::metric::SentimentMetrics;
use crate::shares::own_items;
use crate::shuffled_items::ShuffledItems;
use crate::univl_input::{bools, floats, ints, univl_batch};

/// Places of the streams in the arrays below.
const TEXT: usize = 0;
const AUDIO: usize = 1;
const VIDEO: usize = 2;

/// Losses that compare an utterance with the others of its batch.
const CONTRASTIVE: [UniVlLoss; 4] = [
    UniVlLoss::Joint,
    UniVlLoss::Align,
    UniVlLoss::MJoint,
    UniVlLoss::MAlign,
];

/// Settings of the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentimentConfig {
    /// Losses in token order, each once.
    pub losses: Vec<SentimentLoss>,
    /// The loss of the outer objective; one of `losses`.
    #[serde(default = "default_primary")]
    pub primary: SentimentLoss,
    /// Utterances in a training batch; at least 2 with a contrastive loss.
    pub batch_size: usize,
    /// Names of the splits that are trained on, each once.
    pub train_splits: Vec<String>,
    /// Names of the splits that the batches of outer steps come from, held out from training; if
    /// there are none, those come from past training batches, as published.
    #[serde(default)]
    pub outer_splits: Vec<String>,
    /// Utterances that are evaluated at a time; bounds the memory of an evaluation.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
    /// How many utterances before and after each one give their mean features as well, which
    /// doubles the number of features; 0 for none. See [`context_means`].
    #[serde(default)]
    pub context: usize,
    /// Standardized features are kept in `[-clip, clip]`; above 0.
    #[serde(default = "default_clip")]
    pub clip: f32,
}

fn default_primary() -> SentimentLoss {
    SentimentLoss::Regression
}

fn default_chunk() -> usize {
    64
}

fn default_clip() -> f32 {
    5.0
}

impl SentimentConfig {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !self.losses.contains(&self.primary) {
            let known: Vec<&str> = self.losses.iter().map(|loss| loss.name()).collect();
            return Err(ConfigError::UnknownName {
                key: "task.primary",
                value: self.primary.name().to_owned(),
                known: known.join(", "),
            });
        }
        let twice = |key, value: &str, known: &str| ConfigError::UnknownName {
            key,
            value: format!("{value} (twice)"),
            known: known.to_owned(),
        };
        for (index, loss) in self.losses.iter().enumerate() {
            if self.losses[..index].contains(loss) {
                return Err(twice("task.losses", loss.name(), "each loss once"));
            }
        }
        for (index, split) in self.train_splits.iter().enumerate() {
            if self.train_splits[..index].contains(split) {
                return Err(twice("task.train_splits", split, "each split once"));
            }
        }
        ConfigError::require_nonzero("task.train_splits", self.train_splits.len())?;
        ConfigError::require_nonzero("task.chunk", self.chunk)?;
        ConfigError::require_nonzero("task.batch_size", self.batch_size)?;
        let is_contrastive = |loss: &SentimentLoss| match loss {
            SentimentLoss::Pretext(loss) => CONTRASTIVE.contains(loss),
            _ => false,
        };
        if self.batch_size < 2 && self.losses.iter().any(is_contrastive) {
            return Err(ConfigError::OutOfRange {
                key: "task.batch_size",
                value: self.batch_size as f64,
                range: "[2, inf): a contrastive loss needs another utterance",
            });
        }
        if !(self.clip.is_finite() && self.clip > 0.0) {
            return Err(ConfigError::OutOfRange {
                key: "task.clip",
                value: f64::from(self.clip),
                range: "(0, inf)",
            });
        }
        Ok(())
    }
}

/// Sentiment of spoken utterances from words, features of the text, audio and video.
///
/// Features are standardized by mean and standard deviation of the steps of the training
/// utterances; one that is constant there becomes 0. Then, if wanted, the mean features of the
/// neighbouring utterances of the same video are put behind them. A set without features of the
/// video gives the model one padded frame with a single feature.
#[derive(Debug)]
pub struct UniVlSentimentTask {
    set: SentimentSet,
    collator: SentimentCollator,
    config: SentimentConfig,
    train: ShuffledItems,
    outer: Option<ShuffledItems>,
    device: Device,
    /// A vector of every utterance of the set, put behind the features of its text.
    text_vectors: Option<Array2<f32>>,
    standards: [Standard; 3],
    /// Mean standardized features of every utterance of the set and its neighbours.
    contexts: Option<[Array2<f32>; 3]>,
}

impl UniVlSentimentTask {
    /// Sets the task up; `order_seed` fixes the order of the training items.
    ///
    /// Reads all training utterances, and with a context all of the set, once.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if a setting is out of range, a loss needs a stream that the set does not
    /// have, a split is empty or smaller than a batch, or a context is wanted and a name does not
    /// tell the video.
    pub fn new(
        set: SentimentSet,
        collator: SentimentCollator,
        config: SentimentConfig,
        order_seed: u64,
        device: &Device,
    ) -> Result<Self, TaskError> {
        config.validate()?;
        collator.validate()?;
        require_streams(&config.losses, &set)?;
        let items_of = |splits: &[String]| -> Result<Vec<usize>, DataError> {
            let mut items = Vec::new();
            for split in splits {
                items.extend(set.split(split)?);
            }
            Ok(items)
        };
        let train = items_of(&config.train_splits)?;
        let train = ShuffledItems::new(train, config.batch_size, order_seed)?;
        let outer = train.held_out(&config.outer_splits, items_of)?;
        let task = Self {
            set,
            collator,
            config,
            train,
            outer,
            device: device.clone().without_autodiff(),
            text_vectors: None,
            standards: Default::default(),
            contexts: None,
        };
        task.with_fitted_features()
    }

    /// The same task with a vector of every utterance put behind the features of its text, such
    /// as [`sentence_vectors`](Self::sentence_vectors) of a pretrained encoder.
    ///
    /// # Shapes
    ///
    /// - vectors: `[N, K]`, a row for each utterance of the set
    ///
    /// # Errors
    ///
    /// [`TaskError`] if the number of rows is another or a value is not finite.
    pub fn with_text_vectors(mut self, vectors: Array2<f32>) -> Result<Self, TaskError> {
        if vectors.nrows() != self.set.n_items() {
            return Err(TaskError::Config(ConfigError::Mismatch {
                key: "number of text vectors",
                value: vectors.nrows(),
                because: "the set",
                needed: self.set.n_items(),
            }));
        }
        if !vectors.iter().all(|value| value.is_finite()) {
            let name = "text vectors".to_owned();
            let kind = DataErrorKind::NonFinite { name };
            return Err(TaskError::Data(DataError::new(self.set.label(), kind)));
        }
        self.text_vectors = Some(vectors);
        self.with_fitted_features()
    }

    /// The same task on utterances that it was not trained on: their features are standardized as
    /// those of the training utterances, and neighbours are looked for among themselves. `encoder`
    /// is what [`sentence_vectors`](Self::sentence_vectors) takes, for a task with text vectors.
    ///
    /// It has no batches to train on.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if there are text vectors but no encoder or one of another width, if an item
    /// cannot be read, or if a context is wanted and a name does not tell the video.
    pub fn on(
        &self,
        set: SentimentSet,
        encoder: Option<(&BertModel, &WordPiece)>,
    ) -> Result<Self, TaskError> {
        let mut own = Self {
            set,
            collator: self.collator.clone(),
            config: self.config.clone(),
            train: self.train.without_items(),
            outer: None,
            device: self.device.clone(),
            text_vectors: None,
            standards: self.standards.clone(),
            contexts: None,
        };
        own.text_vectors = match (&self.text_vectors, encoder) {
            (None, _) => None,
            (Some(_), Some((encoder, tokenizer))) => {
                Some(own.sentence_vectors(encoder, tokenizer)?)
            }
            (Some(_), None) => {
                return Err(TaskError::Config(ConfigError::Unsupported {
                    key: "text vectors",
                    value: "none",
                    reason: "the model reads a vector of every text; name the encoder that made \
                             them",
                }));
            }
        };
        if own.widths() != self.widths() {
            return Err(TaskError::Config(ConfigError::Mismatch {
                key: "number of features",
                value: own.widths().total(),
                because: "the model",
                needed: self.widths().total(),
            }));
        }
        if own.config.context > 0 {
            own.contexts = Some(own.fitted_contexts()?);
        }
        Ok(own)
    }

    /// The mean token of each utterance of the set under a BERT, `[N, D]`, scaled to length 1.
    ///
    /// With the weights of a sentence encoder such as MiniLM these are its sentence vectors.
    /// `tokenizer` has the vocabulary of the encoder; that of the set may be another, such as one
    /// of fewer tokens.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if an item cannot be read, or the encoder has fewer tokens than the tokenizer
    /// or a shorter longest text than the batches.
    pub fn sentence_vectors(
        &self,
        encoder: &BertModel,
        tokenizer: &WordPiece,
    ) -> Result<Array2<f32>, TaskError> {
        let max_words = self.collator.max_words;
        for (key, value, because, needed) in [
            (
                "vocabulary of the text encoder",
                encoder.vocab_size(),
                "the tokenizer",
                tokenizer.vocab_size(),
            ),
            (
                "longest text of the text encoder",
                encoder.max_positions(),
                "`max_words` of the batches",
                max_words,
            ),
        ] {
            if value < needed {
                return Err(TaskError::Config(ConfigError::Mismatch {
                    key,
                    value,
                    because,
                    needed,
                }));
            }
        }
        let texts = (0..self.set.n_items())
            .map(|index| {
                let words = self.set.sample(index)?.words;
                Ok(tokenizer.encode_padded(&words, max_words))
            })
            .collect::<Result<Vec<_>, TaskError>>()?;
        // Texts of one length go together, so that little is computed on padding.
        let mut by_length: Vec<usize> = (0..texts.len()).collect();
        by_length.sort_by_key(|index| texts[*index].n_tokens);
        let mut vectors = Array2::zeros((texts.len(), encoder.d_model()));
        for part in by_length.chunks(self.config.chunk) {
            let longest = part.iter().map(|index| texts[*index].n_tokens).max();
            let length = longest.unwrap_or(max_words);
            let mut ids = Array2::<i64>::zeros((part.len(), length));
            let mut pad = Array2::from_elem((part.len(), length), true);
            for (row, index) in part.iter().enumerate() {
                let text = &texts[*index];
                ids.row_mut(row).assign(&aview1(&text.ids[..length]));
                pad.row_mut(row).assign(&aview1(&text.padding()[..length]));
            }
            let (ids, pad) = (ints(&ids, &self.device), bools(&pad, &self.device));
            let found = encoder.sentence_vectors(ids, pad).into_data();
            let found: Vec<f32> = found.iter().collect();
            for (vector, index) in found.chunks(encoder.d_model()).zip(part) {
                vectors.row_mut(*index).assign(&aview1(vector));
            }
        }
        Ok(vectors)
    }

    /// The utterances.
    #[must_use]
    pub fn set(&self) -> &SentimentSet {
        &self.set
    }

    /// Rows of the set that are trained on.
    #[must_use]
    pub fn train_indices(&self) -> &[usize] {
        self.train.indices()
    }

    /// Numbers of features that a model of this task reads.
    #[must_use]
    pub fn widths(&self) -> FeatureWidths {
        let vectors = self.text_vectors.as_ref();
        let vectors = vectors.map_or(0, |vectors| vectors.ncols());
        let factor = if self.config.context > 0 { 2 } else { 1 };
        FeatureWidths {
            text: factor * (self.set.text_width() + vectors),
            audio: factor * self.set.audio_width(),
            video: factor * self.set.video_width().max(1),
        }
    }

    /// Checks that a model of these sizes can read the batches of this task.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that does not fit.
    pub fn check_model(&self, model: &UniVlSentimentConfig) -> Result<(), ConfigError> {
        let (widths, found) = (self.widths(), model.widths());
        for (key, value, because, needed) in [
            (
                "model.text_feature_dim",
                found.text,
                "the text of the set",
                widths.text,
            ),
            (
                "model.audio_dim",
                found.audio,
                "the audio of the set",
                widths.audio,
            ),
            (
                "model.univl.video_dim",
                found.video,
                "the video of the set",
                widths.video,
            ),
        ] {
            if value != needed {
                return Err(ConfigError::Mismatch {
                    key,
                    value,
                    because,
                    needed,
                });
            }
        }
        let steps = |modality, width: usize| {
            let steps = self.set.max_steps(modality);
            steps.clamp(1, self.collator.max_frames) * usize::from(width > 0)
        };
        let words = self.collator.max_words;
        let text = steps(Modality::Text, widths.text);
        let audio = steps(Modality::Audio, widths.audio);
        let video = steps(Modality::Video, widths.video);
        let univl = &model.univl;
        for (key, value, because, needed) in [
            (
                "model.univl.vocab_size",
                univl.vocab_size,
                "the vocabulary of the set",
                self.set.word_piece().vocab_size(),
            ),
            (
                "model.univl.max_text_positions",
                univl.max_text_positions,
                "`max_words` of the batches",
                words,
            ),
            (
                "model.univl.max_video_positions",
                univl.max_video_positions,
                "the video of the batches",
                video,
            ),
            (
                "model.max_audio_positions",
                model.max_audio_positions,
                "the audio of the batches",
                audio,
            ),
            (
                "model.univl.max_cross_positions",
                univl.max_cross_positions,
                "the longest row of tokens",
                words + text + video + audio,
            ),
        ] {
            if value < needed {
                return Err(ConfigError::Mismatch {
                    key,
                    value,
                    because,
                    needed,
                });
            }
        }
        Ok(())
    }

    /// Predicted sentiments of utterances, in an evaluation pass.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if an item cannot be read.
    pub fn predictions(
        &self,
        model: &UniVlSentiment,
        indices: &[usize],
    ) -> Result<Vec<f64>, TaskError> {
        let mut predictions = Vec::with_capacity(indices.len());
        for part in indices.chunks(self.config.chunk) {
            let input = self.input(self.collated(part, None)?);
            let part = model.predictions(&input, Pass::Evaluation);
            predictions.extend(vec_f64(part.into_data()));
        }
        Ok(predictions)
    }

    /// Sentiments of utterances, in `[-3, 3]`.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if an item cannot be read.
    pub fn labels(&self, indices: &[usize]) -> Result<Vec<f64>, TaskError> {
        indices
            .iter()
            .map(|index| Ok(f64::from(self.set.sample(*index)?.label)))
            .collect()
    }

    /// The mean features of utterances, standardized and with their context: what the model's
    /// shortcut reads.
    ///
    /// # Shapes
    ///
    /// - output: `[n, Dt + Da + Dv]`, as many as [`widths`](Self::widths) tells
    ///
    /// # Errors
    ///
    /// [`TaskError`] if an item cannot be read.
    pub fn linear_features(&self, indices: &[usize]) -> Result<Array2<f64>, TaskError> {
        let means = self.step_means(indices)?;
        let mut features = Array2::zeros((indices.len(), self.widths().total()));
        let mut start = 0;
        for means in &means {
            let end = start + means.ncols();
            features.slice_mut(s![.., start..end]).assign(means);
            start = end;
        }
        Ok(features)
    }

    /// The closed-form reference, fitted on the training utterances.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if an item cannot be read or the regression cannot be fitted.
    pub fn fit_linear(&self, config: &LinearSentimentConfig) -> Result<LinearSentiment, TaskError> {
        let features = self.linear_features(self.train.indices())?;
        let labels = self.labels(self.train.indices())?;
        let mut numbers = BTreeMap::new();
        let groups: Vec<usize> = self
            .train
            .indices()
            .iter()
            .map(|index| {
                let name = self.set.item_name(*index);
                // An utterance of no known video is a video of its own.
                let video = UtterancePlace::parse(&name).map_or(name, |place| place.video);
                let next = numbers.len();
                *numbers.entry(video).or_insert(next)
            })
            .collect();
        Ok(linear_sentiment(features.view(), &labels, &groups, config)?)
    }

    /// Metrics of a fitted reference on a split, under the names of
    /// [`evaluate`](FineTuneTask::evaluate).
    ///
    /// # Errors
    ///
    /// [`TaskError`] if the split is not known or empty, or an item cannot be read.
    pub fn evaluate_linear(
        &self,
        fit: &LinearSentiment,
        split: &str,
    ) -> Result<BTreeMap<String, f64>, TaskError> {
        let indices = self.set.split(split)?;
        let predictions = fit.predict(self.linear_features(&indices)?.view());
        measured(split, &predictions, &self.labels(&indices)?)
    }

    /// Takes mean and deviation of the training features, then the contexts.
    fn with_fitted_features(mut self) -> Result<Self, TaskError> {
        self.contexts = None;
        let mut moments: [Moments; 3] = Default::default();
        for part in self.train.indices().chunks(self.config.chunk) {
            let batch = self.collated(part, None)?;
            for (moments, (values, pad)) in moments.iter_mut().zip(streams(&batch)) {
                for ((item, step), is_pad) in pad.indexed_iter() {
                    if !is_pad {
                        moments.add(values.slice(s![item, step, ..]));
                    }
                }
            }
        }
        self.standards = moments.map(|moments| moments.standard(self.config.clip));
        if self.config.context > 0 {
            self.contexts = Some(self.fitted_contexts()?);
        }
        Ok(self)
    }

    fn fitted_contexts(&self) -> Result<[Array2<f32>; 3], TaskError> {
        let items: Vec<usize> = (0..self.set.n_items()).collect();
        let places = items
            .iter()
            .map(|index| {
                let item = self.set.item_name(*index);
                UtterancePlace::parse(&item).ok_or_else(|| {
                    let reason = "its name does not end in `/` or `$_$` and a number, which \
                                  `task.context` needs";
                    let kind = DataErrorKind::Item {
                        item,
                        reason: reason.to_owned(),
                    };
                    DataError::new(self.set.label(), kind)
                })
            })
            .collect::<Result<Vec<UtterancePlace>, DataError>>()?;
        let half_width = self.config.context;
        let means = self.step_means(&items)?;
        Ok(means.map(|means| {
            context_means(means.view(), &places, half_width).mapv(|value| value as f32)
        }))
    }

    /// The mean prepared features of each utterance, by stream.
    fn step_means(&self, indices: &[usize]) -> Result<[Array2<f64>; 3], TaskError> {
        let mut means: [Array2<f64>; 3] = Default::default();
        let chunk = self.config.chunk;
        for (number, part) in indices.chunks(chunk).enumerate() {
            let batch = self.prepared(self.collated(part, None)?);
            for (means, (values, pad)) in means.iter_mut().zip(streams(&batch)) {
                let part_means = valid_means(values, pad);
                if number == 0 {
                    *means = Array2::zeros((indices.len(), part_means.ncols()));
                }
                let start = number * chunk;
                let rows = s![start..start + part.len(), ..];
                means.slice_mut(rows).assign(&part_means);
            }
        }
        Ok(means)
    }

    /// A host batch, masked if there is a seed for it, with the text vectors.
    fn collated(
        &self,
        indices: &[usize],
        masking_seed: Option<u64>,
    ) -> Result<SentimentBatch, TaskError> {
        let mut batch = match masking_seed {
            Some(seed) => self.collator.collate(&self.set, indices, seed)?,
            None => self.collator.collate_clean(&self.set, indices)?,
        };
        if let Some(vectors) = &self.text_vectors {
            if batch.text_features.dim().2 == 0 {
                // There is one step, and now there is something in it.
                batch.text_features_pad.fill(false);
            }
            batch.text_features = with_vectors(
                &batch.text_features,
                &batch.text_features_pad,
                vectors.select(Axis(0), indices).view(),
            );
        }
        let (n_items, n_frames, video_width) = batch.video.dim();
        if video_width == 0 {
            batch.video = Array3::zeros((n_items, n_frames, 1));
        }
        Ok(batch)
    }

    /// The batch with standardized features and their contexts.
    fn prepared(&self, mut batch: SentimentBatch) -> SentimentBatch {
        let items = batch.item_ids.clone();
        let prepare = |stream: usize, values: &Array3<f32>, pad: &Array2<bool>| {
            let values = self.standards[stream].apply(values, pad);
            match &self.contexts {
                Some(contexts) => {
                    let vectors = contexts[stream].select(Axis(0), &items);
                    with_vectors(&values, pad, vectors.view())
                }
                None => values,
            }
        };
        batch.text_features = prepare(TEXT, &batch.text_features, &batch.text_features_pad);
        batch.audio = prepare(AUDIO, &batch.audio, &batch.audio_pad);
        batch.video = prepare(VIDEO, &batch.video, &batch.video_pad);
        batch
    }

    /// What the model reads of a batch.
    fn input(&self, batch: SentimentBatch) -> UniVlSentimentBatch {
        let pad = self.set.word_piece().special().pad;
        univl_sentiment_batch(self.prepared(batch), pad, &self.device)
    }
}

/// Refuses losses of streams that the set does not have.
fn require_streams(losses: &[SentimentLoss], set: &SentimentSet) -> Result<(), ConfigError> {
    for loss in losses {
        let needs_video = match loss {
            SentimentLoss::VideoOnly => true,
            SentimentLoss::Pretext(loss) => *loss == UniVlLoss::Mfm || CONTRASTIVE.contains(loss),
            _ => false,
        };
        let reason = if needs_video && set.video_width() == 0 {
            "no features of the video are used; leave the loss out or use them"
        } else if *loss == SentimentLoss::AudioOnly && set.audio_width() == 0 {
            "no features of the audio are used; leave the loss out or use them"
        } else {
            continue;
        };
        return Err(ConfigError::Unsupported {
            key: "task.losses",
            value: loss.name(),
            reason,
        });
    }
    Ok(())
}

/// Metrics of predicted sentiments, by name.
fn measured(
    split: &str,
    predictions: &[f64],
    labels: &[f64],
) -> Result<BTreeMap<String, f64>, TaskError> {
    SentimentMetrics::new(predictions, labels)
        .map(|metrics| metrics.named())
        .map_err(|source| TaskError::Metric {
            split: split.to_owned(),
            source,
        })
}

impl UniVlSentimentTask {
    /// These items as a batch, and the seed of its random choices.
    fn items(&self, (indices, seed): (Vec<usize>, u64)) -> Result<UniVlUtterances, TaskError> {
        let input = self.input(self.collated(&indices, Some(seed))?);
        Ok(UniVlUtterances { input, indices })
    }
}

impl FineTuneTask for UniVlSentimentTask {
    type Model = UniVlSentiment;
    type Batch = UniVlUtterances;
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

    fn batch(&self, iteration: usize, seed: u64) -> Result<UniVlUtterances, TaskError> {
        self.items(self.train.batch(iteration, seed))
    }

    fn outer_batch(&self, number: usize, seed: u64) -> Result<Option<UniVlUtterances>, TaskError> {
        let outer = self.outer.as_ref();
        outer
            .map(|outer| self.items(outer.batch(number, seed)))
            .transpose()
    }

    fn batch_items(&self, batch: &UniVlUtterances) -> Vec<String> {
        batch
            .indices
            .iter()
            .map(|index| self.set.item_name(*index))
            .collect()
    }

    fn losses(&self, model: &UniVlSentiment, batch: &UniVlUtterances, pass: Pass) -> Tensor<1> {
        model.losses(&batch.input, &self.config.losses, pass)
    }

    fn losses_along(
        &self,
        model: &UniVlSentiment,
        direction: &UniVlSentiment,
        batch: &UniVlUtterances,
        pass: Pass,
    ) -> Option<Dual<1>> {
        Some(model.losses_along(direction, &batch.input, &self.config.losses, pass))
    }

    fn primary_loss(
        &self,
        model: &UniVlSentiment,
        batch: &UniVlUtterances,
        pass: Pass,
    ) -> Tensor<1> {
        model.losses(&batch.input, &[self.config.primary], pass)
    }

    fn parameter_names(&self, model: &UniVlSentiment) -> Vec<(ParamId, String)> {
        model.parameter_names()
    }

    fn state_dict(&self, model: &UniVlSentiment) -> StateDict {
        model.state_dict()
    }

    fn load_state_dict(
        &self,
        model: UniVlSentiment,
        dict: &StateDict,
    ) -> (UniVlSentiment, LoadReport) {
        model.load_state_dict(dict)
    }

    fn evaluate_shared(
        &self,
        model: &UniVlSentiment,
        split: &str,
        workers: &dyn Workers,
        _progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BTreeMap<String, f64>, TaskError> {
        let indices = self.set.split(split)?;
        let own = own_items(workers, indices.len(), self.config.chunk);
        let predictions = workers.gather(&self.predictions(model, &indices[own])?);
        measured(split, &predictions, &self.labels(&indices)?)
    }

    fn n_items(&self, split: &str) -> Result<usize, TaskError> {
        Ok(self.set.split(split)?.len())
    }
}

/// A batch of the task.
#[derive(Debug, Clone)]
pub struct UniVlUtterances {
    /// What the model reads.
    pub input: UniVlSentimentBatch,
    /// Rows of the set.
    pub indices: Vec<usize>,
}

/// Moves a host batch to `device`, without a tape; `pad_id` is the token of padding.
///
/// Features of no column are left out.
///
/// # Panics
///
/// Panics if the video has no column.
#[must_use]
pub fn univl_sentiment_batch(
    batch: SentimentBatch,
    pad_id: i64,
    device: &Device,
) -> UniVlSentimentBatch {
    assert!(
        batch.video.dim().2 > 0,
        "a video needs a feature, if padded"
    );
    let device = device.clone().without_autodiff();
    let sequence = |values: &Array3<f32>, pad: &Array2<bool>| {
        (values.dim().2 > 0).then(|| FeatureSequence {
            values: floats(values, &device),
            pad: bools(pad, &device),
        })
    };
    let text_features = sequence(&batch.text_features, &batch.text_features_pad);
    let audio = sequence(&batch.audio, &batch.audio_pad);
    let captions = Captions::of(&batch.text_ids, &batch.text_pad, pad_id);
    let words_and_video = VideoTextBatch {
        text_ids: batch.text_ids,
        text_pad: batch.text_pad,
        masked_text_ids: batch.masked_text_ids,
        predict_words: batch.predict_words,
        video: batch.video,
        video_pad: batch.video_pad,
        predict_frames: batch.predict_frames,
        decoder_input_ids: captions.input_ids,
        decoder_target_ids: captions.target_ids,
        decoder_pad: captions.pad,
        item_ids: batch.item_ids,
    };
    UniVlSentimentBatch {
        univl: univl_batch(&words_and_video, &device),
        text_features,
        audio,
        labels: batch.labels,
    }
}

/// The texts as captions, each `[B, L]`.
struct Captions {
    input_ids: Array2<i64>,
    target_ids: Array2<i64>,
    pad: Array2<bool>,
}

impl Captions {
    /// From rows of `[CLS]`, words, `[SEP]`: the input lacks the last token and the target the
    /// first.
    fn of(text_ids: &Array2<i64>, text_pad: &Array2<bool>, pad_id: i64) -> Self {
        let mut captions = Self {
            input_ids: Array2::from_elem(text_ids.dim(), pad_id),
            target_ids: Array2::from_elem(text_ids.dim(), pad_id),
            pad: Array2::from_elem(text_ids.dim(), true),
        };
        for (row, flags) in text_pad.rows().into_iter().enumerate() {
            let n_tokens = flags.iter().filter(|is_pad| !**is_pad).count();
            for place in 1..n_tokens {
                captions.input_ids[[row, place - 1]] = text_ids[[row, place - 1]];
                captions.target_ids[[row, place - 1]] = text_ids[[row, place]];
                captions.pad[[row, place - 1]] = false;
            }
        }
        captions
    }
}

/// Gives a model with a shortcut the weights of the closed-form reference.
///
/// The regression head is set to 0, so that the untrained model predicts what the regression does;
/// all else keeps its values.
///
/// # Errors
///
/// [`TaskError`] if the model has no shortcut or one of another width, or the regression cannot be
/// fitted.
pub fn linear_start(
    task: &UniVlSentimentTask,
    model: UniVlSentiment,
    config: &LinearSentimentConfig,
) -> Result<UniVlSentiment, TaskError> {
    const WEIGHT: &str = "sentiment.shortcut.weight";
    let fit = task.fit_linear(config)?;
    let known = model.state_dict();
    let Some(shape) = known.get(WEIGHT).map(|data| data.shape().to_vec()) else {
        return Err(TaskError::Config(ConfigError::Unsupported {
            key: "model.start",
            value: "linear",
            reason: "the model has no shortcut; set `model.shortcut` to `linear`",
        }));
    };
    let needed = fit.weights.len();
    if shape != [1, needed] {
        return Err(TaskError::Config(ConfigError::Mismatch {
            key: "number of features of the shortcut",
            value: shape.iter().product(),
            because: "the set",
            needed,
        }));
    }
    let mut dict = StateDict::new();
    let weights: Vec<f32> = fit.weights.iter().map(|weight| *weight as f32).collect();
    dict.insert(WEIGHT.to_owned(), TensorData::new(weights, [1, needed]));
    let bias = TensorData::new(vec![fit.bias as f32], [1]);
    dict.insert("sentiment.shortcut.bias".to_owned(), bias);
    for name in ["sentiment.head.weight", "sentiment.head.bias"] {
        if let Some(data) = known.get(name) {
            let shape = data.shape().to_vec();
            let zeros = vec![0.0f32; shape.iter().product()];
            dict.insert(name.to_owned(), TensorData::new(zeros, shape));
        }
    }
    Ok(model.load_state_dict(&dict).0)
}

/// Features and padding of text, audio and video.
fn streams(batch: &SentimentBatch) -> [(&Array3<f32>, &Array2<bool>); 3] {
    [
        (&batch.text_features, &batch.text_features_pad),
        (&batch.audio, &batch.audio_pad),
        (&batch.video, &batch.video_pad),
    ]
}

/// Mean over the steps that are no padding, `[B, K]`; 0 without any.
fn valid_means(values: &Array3<f32>, pad: &Array2<bool>) -> Array2<f64> {
    let (n_items, _, width) = values.dim();
    let mut means = Array2::zeros((n_items, width));
    let mut counts = vec![0.0; n_items];
    for ((item, step), is_pad) in pad.indexed_iter() {
        if !is_pad {
            let mut mean = means.row_mut(item);
            mean += &values.slice(s![item, step, ..]).mapv(f64::from);
            counts[item] += 1.0;
        }
    }
    for (mut mean, count) in means.rows_mut().into_iter().zip(counts) {
        mean /= f64::max(count, 1.0);
    }
    means
}

/// Puts a vector of each item, `[B, K]`, behind the features of its steps; padding stays 0.
fn with_vectors(
    values: &Array3<f32>,
    pad: &Array2<bool>,
    vectors: ArrayView2<'_, f32>,
) -> Array3<f32> {
    let (n_items, n_steps, width) = values.dim();
    let mut longer = Array3::zeros((n_items, n_steps, width + vectors.ncols()));
    for ((item, step), is_pad) in pad.indexed_iter() {
        if !is_pad {
            let mut first = longer.slice_mut(s![item, step, ..width]);
            first.assign(&values.slice(s![item, step, ..]));
            let mut last = longer.slice_mut(s![item, step, width..]);
            last.assign(&vectors.row(item));
        }
    }
    longer
}

/// Running mean and sum of squared deviations, by Welford's recurrence.
#[derive(Debug, Default)]
struct Moments {
    count: f64,
    mean: Array1<f64>,
    squares: Array1<f64>,
}

impl Moments {
    fn add(&mut self, row: ArrayView1<'_, f32>) {
        if self.count == 0.0 {
            self.mean = Array1::zeros(row.len());
            self.squares = Array1::zeros(row.len());
        }
        self.count += 1.0;
        let moments = self.mean.iter_mut().zip(self.squares.iter_mut());
        for ((mean, squares), &value) in moments.zip(row) {
            let value = f64::from(value);
            let deviation = value - *mean;
            *mean += deviation / self.count;
            *squares += deviation * (value - *mean);
        }
    }

    fn standard(self, clip: f32) -> Standard {
        let count = self.count.max(1.0);
        Standard {
            mean: self.mean.mapv(|mean| mean as f32),
            scale: self.squares.mapv(|squares| {
                if squares > 0.0 {
                    (squares / count).sqrt().recip() as f32
                } else {
                    0.0
                }
            }),
            clip,
        }
    }
}

/// How the features of one stream are standardized.
#[derive(Debug, Clone, Default, PartialEq)]
struct Standard {
    mean: Array1<f32>,
    /// One over the standard deviation; 0 for a constant feature.
    scale: Array1<f32>,
    clip: f32,
}

impl Standard {
    /// Standardized features; padding stays 0.
    fn apply(&self, values: &Array3<f32>, pad: &Array2<bool>) -> Array3<f32> {
        let mut standardized = Array3::zeros(values.dim());
        for ((item, step), is_pad) in pad.indexed_iter() {
            if *is_pad {
                continue;
            }
            let row = (&values.slice(s![item, step, ..]) - &self.mean) * &self.scale;
            let row = row.mapv(|value| value.clamp(-self.clip, self.clip));
            standardized.slice_mut(s![item, step, ..]).assign(&row);
        }
        standardized
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use meltr_core::Alone;
    use meltr_data::{Modalities, MosiSettings, MosiSplits, OwnUtterance, TensorFileWriter};
    use meltr_models::{BertConfig, Shortcut, UniVlConfig};
    use ndarray::array;

    use super::*;
    use crate::shares::tests::on_threads;

    const N: usize = 18;

    const ALL: [Modality; 3] = [Modality::Text, Modality::Audio, Modality::Video];

    fn word_piece() -> WordPiece {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nfilm\ngood\nbad\n";
        WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap()
    }

    fn label(item: usize) -> f32 {
        ((item * 5) % 13) as f32 / 2.0 - 3.0
    }

    /// Six videos of three utterances, the last two for the test; the second feature of the text
    /// is constant in the training part.
    fn set(features: &[Modality]) -> SentimentSet {
        let folder = tempfile::tempdir().unwrap();
        let mut table = "video_id\tsegment\tstart_s\tend_s\tlabel\tsplit_sdk\tsplit_poria\t\
                         transcript\n"
            .to_owned();
        for item in 0..N {
            let video = ["a", "b", "c", "d", "e", "f"][item / 3];
            let split = if item < 12 { "train" } else { "test" };
            let words = ["A GOOD FILM", "BAD", "A FILM A BAD FILM"][item % 3];
            let (segment, label) = (item % 3 + 1, label(item));
            table += &format!("{video}\t{segment}\t0\t1\t{label}\t{split}\t{split}\t{words}\n");
        }
        fs::write(folder.path().join("mosi.tsv"), table).unwrap();
        let mut writer = TensorFileWriter::new();
        let wave = |item: usize, factor: usize| ((item * factor) % 11) as f32 - 4.0;
        let text = (0..N).flat_map(|item| [wave(item, 7), if item < 12 { 4.0 } else { 9.0 }]);
        writer.insert_f32("text", &[N, 2], text.collect());
        let audio = (0..N).flat_map(|item| [wave(item, 3), 0.1 * wave(item, 4)]);
        writer.insert_f32("audio", &[N, 2], audio.collect());
        writer.insert_f32("video", &[N, 1], (0..N).map(|item| wave(item, 5)).collect());
        writer.insert_f32("label", &[N], (0..N).map(label).collect());
        let test = |item: usize| i64::from(item >= 12);
        writer.insert_i64(
            "split_sdk",
            &[N],
            (0..N).map(|item| 2 * test(item)).collect(),
        );
        writer.insert_i64("split_poria", &[N], (0..N).map(test).collect());
        writer
            .write(&folder.path().join("mosi.safetensors"))
            .unwrap();
        let settings = MosiSettings {
            splits: MosiSplits::Poria,
            features: Modalities::new(features),
        };
        SentimentSet::open(folder.path(), settings, word_piece()).unwrap()
    }

    fn config(losses: &[SentimentLoss], context: usize) -> SentimentConfig {
        SentimentConfig {
            losses: losses.to_vec(),
            primary: losses[0],
            batch_size: 4,
            train_splits: vec!["train".to_owned()],
            outer_splits: Vec::new(),
            chunk: 5,
            context,
            clip: 5.0,
        }
    }

    fn try_task(
        features: &[Modality],
        config: SentimentConfig,
    ) -> Result<UniVlSentimentTask, TaskError> {
        let collator = SentimentCollator {
            max_words: 8,
            max_frames: 2,
            mask_probability: 0.3,
        };
        UniVlSentimentTask::new(set(features), collator, config, 1, &Device::default())
    }

    fn task(features: &[Modality], losses: &[SentimentLoss], context: usize) -> UniVlSentimentTask {
        try_task(features, config(losses, context)).unwrap()
    }

    fn model_config(task: &UniVlSentimentTask, shortcut: Shortcut) -> UniVlSentimentConfig {
        let vocab_size = task.set().word_piece().vocab_size();
        let mini = UniVlSentimentConfig::mini(vocab_size, task.widths());
        UniVlSentimentConfig {
            univl: UniVlConfig {
                d_model: 16,
                n_heads: 2,
                d_ff: 24,
                ..mini.univl.clone()
            },
            shortcut,
            ..mini
        }
    }

    fn linear() -> LinearSentimentConfig {
        LinearSentimentConfig {
            ridges: vec![1.0],
            folds: 2,
        }
    }

    #[test]
    fn the_untrained_model_predicts_what_the_regression_does() {
        let device = Device::default();
        let regression = [SentimentLoss::Regression];
        let cases: [(&[Modality], usize); 3] =
            [(&ALL, 1), (&[Modality::Text], 0), (&[Modality::Audio], 2)];
        for (features, context) in cases {
            let task = task(features, &regression, context);
            let sizes = model_config(&task, Shortcut::Linear);
            assert_eq!(task.check_model(&sizes), Ok(()));
            let model = sizes.init(3, &device).unwrap();
            let model = linear_start(&task, model, &linear()).unwrap();
            let items = task.set().split("test").unwrap();
            let predicted = task.predictions(&model, &items).unwrap();
            let fit = task.fit_linear(&linear()).unwrap();
            let expected = fit.predict(task.linear_features(&items).unwrap().view());
            assert_eq!(predicted.len(), 6);
            for (predicted, expected) in predicted.iter().zip(&expected) {
                assert!(
                    (predicted - expected).abs() < 1e-4,
                    "{features:?}: {predicted} {expected}"
                );
            }
            let of_model = task.evaluate(&model, "test").unwrap();
            let of_fit = task.evaluate_linear(&fit, "test").unwrap();
            assert!((of_model["mae"] - of_fit["mae"]).abs() < 1e-4);
        }
    }

    #[test]
    fn processes_that_share_an_evaluation_find_what_one_finds() {
        let with = |workers: &dyn Workers| {
            let task = task(&ALL, &[SentimentLoss::Regression], 0);
            let sizes = model_config(&task, Shortcut::Linear);
            let model = sizes.init(3, &Device::default()).unwrap();
            task.evaluate_shared(&model, "test", workers, &mut |_, _| {})
                .unwrap()
        };
        let expected = with(&Alone);
        for n in [2, 3] {
            for found in on_threads(n, with) {
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn utterances_of_ones_own_are_prepared_like_those_of_the_test() {
        for context in [0, 1] {
            let task = task(&ALL, &[SentimentLoss::Regression], context);
            let sizes = model_config(&task, Shortcut::Linear);
            let model = sizes.init(3, &Device::default()).unwrap();
            let model = linear_start(&task, model, &linear()).unwrap();
            let items = task.set().split("test").unwrap();
            let expected = task.predictions(&model, &items).unwrap();
            let utterances: Vec<OwnUtterance> = items
                .iter()
                .map(|&index| {
                    let sample = task.set().sample(index).unwrap();
                    OwnUtterance {
                        name: task.set().item_name(index),
                        words: sample.words,
                        text: sample.text_features,
                        audio: sample.audio,
                        video: sample.video,
                    }
                })
                .collect();
            let set = SentimentSet::of_own(Path::new("mine"), utterances, task.set()).unwrap();
            let own = task.on(set, None).unwrap();
            let all: Vec<usize> = (0..items.len()).collect();
            let found = own.predictions(&model, &all).unwrap();
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn training_features_are_standardized_and_constants_vanish() {
        let task = task(&ALL, &[SentimentLoss::Regression], 0);
        let features = task.linear_features(task.train_indices()).unwrap();
        assert_eq!(features.dim(), (12, 5));
        for (column, values) in features.columns().into_iter().enumerate() {
            let mean = values.sum() / 12.0;
            let variance = values.mapv(|value| value * value).sum() / 12.0;
            let expected = if column == 1 { 0.0 } else { 1.0 };
            assert!(mean.abs() < 1e-4, "{column}: {mean}");
            assert!((variance - expected).abs() < 1e-4, "{column}: {variance}");
        }
        let test = task.linear_features(&[12, 17]).unwrap();
        assert_eq!(test.column(1).to_vec(), vec![0.0, 0.0]);
    }

    #[test]
    fn a_context_is_the_mean_over_neighbours_in_the_video() {
        let losses = [SentimentLoss::Regression];
        let (alone, with) = (task(&ALL, &losses, 0), task(&ALL, &losses, 1));
        assert_eq!(with.widths().total(), 2 * alone.widths().total());
        let own = alone.linear_features(&[3, 4, 5]).unwrap();
        // Features of the text come first, their context behind them.
        let both = with.linear_features(&[3, 4, 5]).unwrap();
        for column in 0..2 {
            let (a, b, c) = (own[[0, column]], own[[1, column]], own[[2, column]]);
            assert!((both[[1, column]] - b).abs() < 1e-5);
            assert!((both[[0, 2 + column]] - (a + b) / 2.0).abs() < 1e-5);
            assert!((both[[1, 2 + column]] - (a + b + c) / 3.0).abs() < 1e-5);
            assert!((both[[2, 2 + column]] - (b + c) / 2.0).abs() < 1e-5);
        }
    }

    #[test]
    fn text_vectors_follow_the_features_of_the_text() {
        for (features, width) in [(&ALL[..], 2), (&[][..], 0)] {
            let task = task(features, &[SentimentLoss::Regression], 0);
            let vectors = Array2::from_shape_fn((N, 3), |(row, column)| (row * column) as f32);
            let task = task.with_text_vectors(vectors).unwrap();
            assert_eq!(task.widths().text, width + 3);
            let model = model_config(&task, Shortcut::Off);
            assert_eq!(task.check_model(&model), Ok(()));
            let model = model.init(1, &Device::default()).unwrap();
            let batch = task.batch(0, 1).unwrap();
            let text = batch.input.text_features.clone().unwrap();
            assert_eq!(text.values.dims(), [4, 1, width + 3]);
            assert!(!text.pad.into_data().iter::<bool>().any(|is_pad| is_pad));
            let loss: f32 = task.losses(&model, &batch, Pass::Evaluation).into_scalar();
            assert!(loss.is_finite());
        }
        let few = task(&ALL, &[SentimentLoss::Regression], 0)
            .with_text_vectors(Array2::zeros((3, 2)))
            .unwrap_err()
            .to_string();
        assert_eq!(few, "`number of text vectors` is 3, but the set needs 18");
        let bad = task(&ALL, &[SentimentLoss::Regression], 0)
            .with_text_vectors(Array2::from_elem((N, 1), f32::NAN))
            .unwrap_err()
            .to_string();
        assert!(bad.contains("`text vectors` holds a value"), "{bad}");
    }

    #[test]
    fn sentence_vectors_have_length_one_and_depend_on_the_words_alone() {
        let task = task(&[], &[SentimentLoss::Regression], 0);
        let sizes = BertConfig {
            vocab_size: word_piece().vocab_size(),
            d_model: 16,
            n_heads: 2,
            d_ff: 24,
            n_layers: 1,
            max_positions: 8,
            dropout: 0.1,
        };
        let encoder = sizes.init(5, &Device::default()).unwrap();
        let vectors = task.sentence_vectors(&encoder, &word_piece()).unwrap();
        assert_eq!(vectors.dim(), (N, 16));
        for row in vectors.rows() {
            assert!((row.dot(&row) - 1.0).abs() < 1e-5);
        }
        let apart = &vectors.row(0) - &vectors.row(3);
        assert!(apart.iter().all(|value| value.abs() < 1e-5));
        assert_ne!(vectors.row(0), vectors.row(1));
        let few = BertConfig {
            vocab_size: sizes.vocab_size - 1,
            ..sizes
        };
        let few = few.init(5, &Device::default()).unwrap();
        let error = task.sentence_vectors(&few, &word_piece()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("`vocabulary of the text encoder` is"),
            "{error}"
        );
    }

    #[test]
    fn words_alone_are_enough_for_the_losses_of_words() {
        let mlm = SentimentLoss::Pretext(UniVlLoss::Mlm);
        let losses = [SentimentLoss::Regression, SentimentLoss::TextOnly, mlm];
        let task = task(&[], &losses, 0);
        let widths = task.widths();
        assert_eq!((widths.text, widths.audio, widths.video), (0, 0, 1));
        let model = model_config(&task, Shortcut::Off);
        let model = model.init(1, &Device::default()).unwrap();
        let batch = task.batch(1, 7).unwrap();
        assert!(batch.input.audio.is_none() && batch.input.text_features.is_none());
        let values = vec_f64(task.losses(&model, &batch, Pass::Evaluation).into_data());
        assert!(values.iter().all(|value| value.is_finite()), "{values:?}");
        let primary: f32 = task
            .primary_loss(&model, &batch, Pass::Evaluation)
            .into_scalar();
        assert!((f64::from(primary) - values[0]).abs() < 1e-6);
    }

    #[test]
    fn losses_of_streams_that_are_not_there_are_refused() {
        for (loss, features, message) in [
            (
                SentimentLoss::VideoOnly,
                &[Modality::Audio],
                "features of the video",
            ),
            (
                SentimentLoss::AudioOnly,
                &[Modality::Video],
                "features of the audio",
            ),
            (
                SentimentLoss::Pretext(UniVlLoss::Joint),
                &[Modality::Audio],
                "features of the video",
            ),
        ] {
            let error = try_task(features, config(&[loss], 0))
                .unwrap_err()
                .to_string();
            let start = format!("`task.losses` = `{loss}` does not work here");
            assert!(
                error.starts_with(&start) && error.contains(message),
                "{error}"
            );
        }
    }

    #[test]
    fn a_model_of_other_sizes_is_refused() {
        let task = task(&ALL, &[SentimentLoss::Regression], 0);
        let good = model_config(&task, Shortcut::Off);
        let audio = UniVlSentimentConfig {
            audio_dim: 7,
            ..good.clone()
        };
        assert_eq!(
            task.check_model(&audio).unwrap_err().to_string(),
            "`model.audio_dim` is 7, but the audio of the set needs 2"
        );
        let short = UniVlSentimentConfig {
            univl: UniVlConfig {
                max_cross_positions: 10,
                ..good.univl.clone()
            },
            ..good.clone()
        };
        assert_eq!(
            task.check_model(&short).unwrap_err().to_string(),
            "`model.univl.max_cross_positions` is 10, but the longest row of tokens needs 11"
        );
        let model = good.init(1, &Device::default()).unwrap();
        let error = linear_start(&task, model, &linear())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("set `model.shortcut` to `linear`"),
            "{error}"
        );
    }

    #[test]
    fn a_batch_is_a_function_of_iteration_and_seed() {
        let task = task(&ALL, &[SentimentLoss::Regression], 0);
        let ids = |iteration, seed| {
            let batch = task.batch(iteration, seed).unwrap();
            let ids = batch.input.univl.masked_text_ids.into_data();
            (batch.indices, ids.iter::<i64>().collect::<Vec<i64>>())
        };
        assert_eq!(ids(2, 5), ids(2, 5));
        assert_ne!(ids(2, 5).0, ids(1, 5).0);
        assert_eq!(task.batches_per_epoch(), 3);
        let batch = task.batch(0, 5).unwrap();
        let expected: Vec<f32> = batch.indices.iter().map(|item| label(*item)).collect();
        assert_eq!(batch.input.labels, expected);
        let first = task.batch_items(&batch)[0].clone();
        assert_eq!(first, task.set().item_name(batch.indices[0]));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let good = config(&[SentimentLoss::Regression], 0);
        assert_eq!(good.validate(), Ok(()));
        let joint = SentimentLoss::Pretext(UniVlLoss::Joint);
        for (config, message) in [
            (
                SentimentConfig {
                    primary: SentimentLoss::Polarity,
                    ..good.clone()
                },
                "`task.primary` is `polarity`",
            ),
            (
                config(&[SentimentLoss::Regression, SentimentLoss::Regression], 0),
                "`task.losses` is `regression (twice)`",
            ),
            (
                SentimentConfig {
                    train_splits: vec!["train".to_owned(), "train".to_owned()],
                    outer_splits: Vec::new(),
                    ..good.clone()
                },
                "`task.train_splits` is `train (twice)`",
            ),
            (
                SentimentConfig {
                    train_splits: vec![],
                    outer_splits: Vec::new(),
                    ..good.clone()
                },
                "`task.train_splits` is 0",
            ),
            (
                SentimentConfig {
                    batch_size: 1,
                    ..config(&[joint], 0)
                },
                "`task.batch_size` is 1",
            ),
            (
                SentimentConfig {
                    clip: 0.0,
                    ..good.clone()
                },
                "`task.clip` is 0",
            ),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn a_text_is_its_own_caption() {
        let ids = array![[2, 5, 6, 3, 0], [2, 5, 6, 7, 3]];
        let pad = array![
            [false, false, false, false, true],
            [false, false, false, false, false]
        ];
        let captions = Captions::of(&ids, &pad, 0);
        assert_eq!(captions.input_ids, array![[2, 5, 6, 0, 0], [2, 5, 6, 7, 0]]);
        assert_eq!(
            captions.target_ids,
            array![[5, 6, 3, 0, 0], [5, 6, 7, 3, 0]]
        );
        assert_eq!(
            captions.pad,
            array![
                [false, false, false, true, true],
                [false, false, false, false, true]
            ]
        );
    }

    #[test]
    fn moments_are_those_of_the_rows() {
        let mut moments = Moments::default();
        for row in [[1.0_f32, 2.0], [3.0, 2.0], [8.0, 2.0]] {
            moments.add(ArrayView1::from(&row));
        }
        let standard = moments.standard(1.0);
        assert_eq!(standard.mean, array![4.0, 2.0]);
        // The deviations -3, -1 and 4 have the mean square 26 / 3.
        assert!((standard.scale[0] - (3.0_f32 / 26.0).sqrt()).abs() < 1e-6);
        assert_eq!(standard.scale[1], 0.0);
        let values = array![[[4.0, 7.0], [100.0, 2.0], [1.0, 1.0]]];
        let out = standard.apply(&values, &array![[false, false, true]]);
        assert_eq!(out, array![[[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]]);
    }

    /// Accuracy of negative against positive utterances of the test part.
    fn accuracy(task: &UniVlSentimentTask) -> f64 {
        let config = LinearSentimentConfig {
            ridges: vec![1000.0],
            folds: 2,
        };
        let fit = task.fit_linear(&config).unwrap();
        let items = task.set().split("test").unwrap();
        let predicted = fit.predict(task.linear_features(&items).unwrap().view());
        let signs: Vec<bool> = predicted
            .iter()
            .zip(task.labels(&items).unwrap())
            .filter(|(_, label)| *label != 0.0)
            .map(|(predicted, label)| (*predicted > 0.0) == (label > 0.0))
            .collect();
        signs.iter().filter(|is_right| **is_right).count() as f64 / signs.len() as f64
    }

    #[test]
    fn the_closed_form_reaches_on_cmu_mosi_what_is_documented() {
        let root = match std::env::var_os("MELTR_SHARED") {
            Some(folder) => PathBuf::from(folder),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        };
        let folder = root.join("data/cmu-mosi");
        if !folder.exists() {
            println!("skipped: the shared utterances of CMU-MOSI are absent");
            return;
        }
        for (context, at_least) in [(0, 0.775), (4, 0.80)] {
            let settings = MosiSettings {
                splits: MosiSplits::Poria,
                features: Modalities::new(&ALL),
            };
            let collator = SentimentCollator {
                max_words: 8,
                max_frames: 1,
                mask_probability: 0.0,
            };
            let set = SentimentSet::open(&folder, settings, word_piece()).unwrap();
            let config = config(&[SentimentLoss::Regression], context);
            let device = Device::default();
            let task = UniVlSentimentTask::new(set, collator, config, 0, &device).unwrap();
            let accuracy = accuracy(&task);
            assert!(accuracy > at_least, "context {context}: {accuracy}");
        }
    }
}
