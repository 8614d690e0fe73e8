//! The tasks on UniVL: set, batches, model and task put together.

use std::sync::Arc;

use burn::tensor::Device;
use meltr_core::FineTuneTask;
use meltr_data::{SentimentCollator, VideoTextCollator, VideoTextSet, seed_for};
use meltr_models::{UniVl, UniVlConfig, UniVlSentimentConfig};
use meltr_tasks::{
    AllInOneTaskConfig, CaptionConfig, MatchingItems, RetrievalConfig, SentimentConfig, TiePolicy,
    UniVlCaptioning, UniVlRetrieval, UniVlSentimentTask, VioletTaskConfig, linear_start,
    matching_start,
};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::data::{OpenedSet, TextUse, Utterances};
use super::model::{Backbone, ModelStart, Preset, UniVlNeeds, bert};
use super::pixels::is_ranking;
use super::prepared::{OnPairs, Prepared};
use super::{Experiment, section};
use crate::error::CliError;
use crate::output;

const MODEL_STREAM: u64 = 101;
const ORDER_STREAM: u64 = 102;
const MATCHING_STREAM: u64 = 103;

/// The task, by its kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum TaskConfig {
    /// Text-to-video retrieval.
    Retrieval(RetrievalConfig),
    /// Captions of videos.
    Captioning(CaptionConfig),
    /// A sentiment score from text, video and audio.
    Sentiment(SentimentConfig),
    /// The task of a set of raw frames, on VIOLET.
    Violet(VioletTaskConfig),
    /// The task of a set of raw frames, on All-in-one.
    Allinone(AllInOneTaskConfig),
}

impl TaskConfig {
    /// Names of the losses that are combined, in their order.
    pub(crate) fn loss_names(&self) -> Vec<String> {
        fn names<L: ToString>(losses: &[L]) -> Vec<String> {
            losses.iter().map(ToString::to_string).collect()
        }
        match self {
            Self::Retrieval(config) => names(&config.losses),
            Self::Captioning(config) => names(&config.losses),
            Self::Sentiment(config) => names(&config.losses),
            Self::Violet(config) => names(&config.losses),
            Self::Allinone(config) => names(&config.losses),
        }
    }

    /// The name in configurations.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Retrieval(_) => "retrieval",
            Self::Captioning(_) => "captioning",
            Self::Sentiment(_) => "sentiment",
            Self::Violet(_) => "violet",
            Self::Allinone(_) => "allinone",
        }
    }

    /// How ties are counted, where something is ranked.
    pub(crate) fn ties(&self) -> Option<TiePolicy> {
        match self {
            Self::Retrieval(config) => Some(config.ties),
            Self::Violet(config) => is_ranking(config).then_some(config.ties),
            Self::Allinone(_) | Self::Captioning(_) | Self::Sentiment(_) => None,
        }
    }

    /// Names of the splits that are trained on.
    pub(crate) fn train_splits(&self) -> &[String] {
        match self {
            Self::Retrieval(config) => &config.train_splits,
            Self::Captioning(config) => &config.train_splits,
            Self::Sentiment(config) => &config.train_splits,
            Self::Violet(config) => &config.train_splits,
            Self::Allinone(config) => &config.train_splits,
        }
    }

    /// Names of the splits that outer steps take their batches from.
    pub(crate) fn outer_splits(&self) -> &[String] {
        match self {
            Self::Retrieval(config) => &config.outer_splits,
            Self::Captioning(config) => &config.outer_splits,
            Self::Sentiment(config) => &config.outer_splits,
            Self::Violet(config) => &config.outer_splits,
            Self::Allinone(config) => &config.outer_splits,
        }
    }

    /// The backbone that it runs on.
    pub(crate) fn backbone(&self) -> Backbone {
        match self {
            Self::Retrieval(_) | Self::Captioning(_) | Self::Sentiment(_) => Backbone::Univl,
            Self::Violet(_) => Backbone::Violet,
            Self::Allinone(_) => Backbone::Allinone,
        }
    }
}

impl Experiment {
    pub(super) fn prepare_univl(&self, device: &Device) -> Result<Prepared, CliError> {
        let texts = match &self.task {
            TaskConfig::Captioning(_) => TextUse::Said,
            _ => TextUse::Read,
        };
        let order_seed = seed_for(self.seed, &[ORDER_STREAM]);
        match (&self.task, self.data.set.open(texts)?) {
            (TaskConfig::Retrieval(config), OpenedSet::Pairs(pairs)) => {
                let collator = self.pair_collator(&*pairs.set)?;
                let model = self.univl(&*pairs.set, &collator, device)?;
                let set = Arc::clone(&pairs.set);
                let task = UniVlRetrieval::new(set, collator, config.clone(), order_seed, device)?;
                let vectors = pairs.word_vectors(self.model.text_weights.as_deref())?;
                let items = (&*pairs.set, task.train_indices());
                let model = self.started(items, vectors.as_ref(), model)?;
                let model = self.checked(&task, model)?;
                Ok(Prepared::UniVlRetrieval(Box::new(OnPairs {
                    task,
                    model,
                    vectors,
                })))
            }
            (TaskConfig::Captioning(config), OpenedSet::Pairs(pairs)) => {
                let collator = self.pair_collator(&*pairs.set)?;
                let model = self.univl(&*pairs.set, &collator, device)?;
                let set = Arc::clone(&pairs.set);
                let task = UniVlCaptioning::new(set, collator, config.clone(), order_seed, device)?;
                let vectors = pairs.word_vectors(self.model.text_weights.as_deref())?;
                let items = (&*pairs.set, task.train_indices());
                let model = self.started(items, vectors.as_ref(), model)?;
                let model = self.checked(&task, model)?;
                Ok(Prepared::UniVlCaptioning(Box::new(OnPairs {
                    task,
                    model,
                    vectors,
                })))
            }
            (TaskConfig::Sentiment(config), OpenedSet::Sentiment(utterances)) => {
                self.prepare_sentiment(config, *utterances, order_seed, device)
            }
            (task, _) => Err(CliError::Input(format!(
                "`data.set.name = \"{}\"` does not serve `task.kind = \"{}\"`; sentiment needs \
                 cmu-mosi or emoji-clips-sentiment, the other tasks a set of videos with texts",
                self.data.set.name(),
                task.kind()
            ))),
        }
    }

    fn prepare_sentiment(
        &self,
        config: &SentimentConfig,
        Utterances { set, vocab }: Utterances,
        order_seed: u64,
        device: &Device,
    ) -> Result<Prepared, CliError> {
        for warning in set.warnings() {
            output::note(&format!("warning: {warning}"));
        }
        let collator: SentimentCollator = section("data.batches", &self.data.batches)?;
        let vocab_size = set.word_piece().vocab_size();
        let mut task = UniVlSentimentTask::new(set, collator, config.clone(), order_seed, device)?;
        if let Some(path) = &self.model.text_weights {
            let Some(vocab) = vocab else {
                return Err(CliError::Input(format!(
                    "`model.text_weights` reads tokens of its own vocabulary, and `data.set.name = \
                     \"{}\"` has another; leave `model.text_weights` out",
                    self.data.set.name()
                )));
            };
            let vectors = task.sentence_vectors(&bert(path, device)?, &vocab)?;
            task = task.with_text_vectors(vectors)?;
        }
        let widths = task.widths();
        let mini = UniVlSentimentConfig::mini(vocab_size, widths);
        let preset = match self.model.preset {
            Preset::Mini => mini,
            Preset::Base => UniVlSentimentConfig {
                univl: UniVlConfig {
                    vocab_size,
                    video_dim: widths.video,
                    ..UniVlConfig::base()
                },
                max_audio_positions: 512,
                ..mini
            },
        };
        let sizes = self.model.sentiment(preset)?;
        task.check_model(&sizes)?;
        let model = sizes.init(seed_for(self.seed, &[MODEL_STREAM]), device)?;
        let model = match self.model.start {
            ModelStart::Random => model,
            ModelStart::Linear => linear_start(&task, model, &self.model.linear)?,
            ModelStart::Matching => return Err(start_of_another_task("matching", "sentiment")),
            ModelStart::WordVectors => {
                return Err(start_of_another_task("word_vectors", "sentiment"));
            }
        };
        let model = self.checked(&task, model)?;
        Ok(Prepared::UniVlSentiment(Box::new(task), Box::new(model)))
    }

    fn pair_collator(&self, set: &dyn VideoTextSet) -> Result<VideoTextCollator, CliError> {
        let collator: VideoTextCollator = section("data.batches", &self.data.batches)?;
        collator.validate().map_err(CliError::input)?;
        let width = set.feature_width();
        if collator.video_dim > width {
            return Err(CliError::Input(format!(
                "`data.batches.video_dim` is {}, but the videos have {width} features a frame",
                collator.video_dim
            )));
        }
        Ok(collator)
    }

    fn univl(
        &self,
        set: &dyn VideoTextSet,
        collator: &VideoTextCollator,
        device: &Device,
    ) -> Result<UniVl, CliError> {
        let sizes = self.model.univl(UniVlNeeds {
            vocab_size: set.word_piece().vocab_size(),
            max_words: collator.max_words,
            max_frames: collator.max_frames,
            video_dim: collator.video_dim,
        })?;
        Ok(sizes.init(seed_for(self.seed, &[MODEL_STREAM]), device)?)
    }

    /// Gives the model its closed-form start, if the experiment asks for it.
    fn started(
        &self,
        (set, train): (&dyn VideoTextSet, &[usize]),
        vectors: Option<&Array2<f32>>,
        model: UniVl,
    ) -> Result<UniVl, CliError> {
        match self.model.start {
            ModelStart::Random => return Ok(model),
            ModelStart::Linear => return Err(start_of_another_task("linear", self.task.kind())),
            ModelStart::WordVectors => {
                return Err(start_of_another_task("word_vectors", self.task.kind()));
            }
            ModelStart::Matching => {}
        }
        let Some(vectors) = vectors else {
            return Err(CliError::Input(
                "`model.start = \"matching\"` needs word vectors, and the set has none of its \
                 own; set `model.text_weights` to the weights of a BERT, such as those that \
                 `cargo xtask setup minilm` fetches"
                    .to_owned(),
            ));
        };
        let items = MatchingItems {
            set,
            train,
            word_vectors: vectors.view(),
        };
        let seed = seed_for(self.seed, &[MATCHING_STREAM]);
        Ok(matching_start(&items, model, &self.model.matching, seed)?)
    }

    /// Loads published weights, and finds out now what would fail after the last step otherwise.
    pub(super) fn checked<T: FineTuneTask>(
        &self,
        task: &T,
        model: T::Model,
    ) -> Result<T::Model, CliError>
    where
        CliError: From<T::Error>,
    {
        for split in &self.train.eval_splits {
            task.n_items(split)?;
        }
        self.model.load_weights(task, model)
    }
}

fn start_of_another_task(start: &str, kind: &str) -> CliError {
    CliError::Input(format!(
        "`model.start = \"{start}\"` does not serve `task.kind = \"{kind}\"`; \"linear\" is for \
         sentiment, \"matching\" for retrieval and captioning, \"word_vectors\" for raw frames"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device;

    const CLIPS: &str =
        include_str!("../../../../xtask/experiments/univl/emoji-clips-sentiment.toml");

    fn prepared(overrides: &[String]) -> Result<Prepared, CliError> {
        let experiment = Experiment::parse(CLIPS, "clips", overrides)?;
        experiment.prepare(&device::parse("flex")?)
    }

    #[test]
    fn the_embedded_clips_are_a_sentiment_set() {
        let Ok(Prepared::UniVlSentiment(task, _)) = prepared(&[]) else {
            panic!("not prepared");
        };
        assert_eq!(task.train_indices().len(), 254);
        assert_eq!(task.n_items("test").unwrap(), 52);
    }

    #[test]
    fn text_weights_need_their_vocabulary() {
        let error = prepared(&["model.text_weights=x".to_owned()])
            .err()
            .unwrap();
        assert!(error.to_string().contains("leave `model.text_weights` out"));
    }
}
