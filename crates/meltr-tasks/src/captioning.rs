//! Captions of videos on UniVL.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::ParamId;
use burn::tensor::{Device, Tensor};
use meltr_core::{
    Alone, ConfigError, Dual, FineTuneTask, LoadReport, Pass, StateDict, Workers, gather_texts,
};
use meltr_data::{
    CaptionTargets, CollateMode, DataError, DataErrorKind, Draw, TextStyle, VideoTextBatch,
    VideoTextCollator, VideoTextSet,
};
use meltr_models::{UniVl, UniVlLoss};
use serde::{Deserialize, Serialize};

use crate::beam_search::{BeamOutput, BeamSearch, Hypothesis, beam_search_cached};
use crate::error::TaskError;
use crate::metric::{CaptionItem, Tokenization, score_captions};
use crate::retrieval::{UniVlItems, items_of};
use crate::shares::own_items;
use crate::shuffled_items::ShuffledItems;
use crate::univl_input::{OwnVideo, bools, floats, ints, samples_of, univl_batch};

/// Losses that compare a pair with the other pairs of its batch.
const CONTRASTIVE: [UniVlLoss; 4] = [
    UniVlLoss::Joint,
    UniVlLoss::Align,
    UniVlLoss::MJoint,
    UniVlLoss::MAlign,
];

/// Settings of the task.
///
/// Whether the decoder's losses count padding is a setting of the model,
/// [`UniVlConfig::padded_targets`](meltr_models::UniVlConfig::padded_targets).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptionConfig {
    /// Losses in token order, each once.
    pub losses: Vec<UniVlLoss>,
    /// The loss of the outer objective; one of `losses`.
    #[serde(default = "default_primary")]
    pub primary: UniVlLoss,
    /// Pairs in a training batch; at least 2 with a contrastive loss.
    pub batch_size: usize,
    /// Names of the splits that are trained on.
    pub train_splits: Vec<String>,
    /// Names of the splits that the batches of outer steps come from, held out from training; if
    /// there are none, those come from past training batches, as published.
    #[serde(default)]
    pub outer_splits: Vec<String>,
    /// Items that are captioned at a time; bounds the memory of an evaluation.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
    /// What the references go through before captions are compared with them.
    #[serde(default)]
    pub references: ReferenceText,
    /// How captions are searched.
    #[serde(default)]
    pub beam: CaptionBeam,
}

fn default_primary() -> UniVlLoss {
    UniVlLoss::Decoder
}

fn default_chunk() -> usize {
    32
}

/// What the references of a caption go through before it is compared with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceText {
    /// Nothing; as published for MSR-VTT.
    #[default]
    AsWritten,
    /// Through the tokenizer and back, as published for YouCook2: in lower case, split at
    /// punctuation, cut to the `max_words − 1` tokens that the decoder is trained on.
    Detokenized,
}

/// How captions are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionBeam {
    /// Hypotheses kept per item, at least 1; 1 is greedy search. 5 by default, as published.
    pub size: usize,
    /// Tokens of a caption at most, at least 1 and within the model's positions; `max_words` of
    /// the batches by default, as published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
}

impl Default for CaptionBeam {
    fn default() -> Self {
        Self {
            size: 5,
            max_steps: None,
        }
    }
}

impl CaptionConfig {
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
        for (index, loss) in self.losses.iter().enumerate() {
            if self.losses[..index].contains(loss) {
                return Err(ConfigError::UnknownName {
                    key: "task.losses",
                    value: format!("{loss} (twice)"),
                    known: "each loss once".to_owned(),
                });
            }
        }
        ConfigError::require_nonzero("task.batch_size", self.batch_size)?;
        if self.batch_size < 2 && self.losses.iter().any(|loss| CONTRASTIVE.contains(loss)) {
            return Err(ConfigError::OutOfRange {
                key: "task.batch_size",
                value: self.batch_size as f64,
                range: "[2, inf): a contrastive loss needs another pair",
            });
        }
        ConfigError::require_nonzero("task.chunk", self.chunk)?;
        ConfigError::require_nonzero("task.beam.size", self.beam.size)?;
        match self.beam.max_steps {
            Some(max_steps) => ConfigError::require_nonzero("task.beam.max_steps", max_steps),
            None => Ok(()),
        }
    }
}

/// Captions by UniVL's decoder: trained by teacher forcing, written by beam search.
///
/// The encoder reads what a set gives as an item's text, such as a transcript, and the decoder has
/// to say its caption.
///
/// # References
///
/// - Reference code: `mlvlab/MELTR@669ad60`, `univl/main.py`. Departs from it in that all
///   references of an item count, where the released code takes the first of MSR-VTT's twenty, and
///   in that a step of the search decodes one token, not the whole prefix.
#[derive(Debug)]
pub struct UniVlCaptioning {
    set: Arc<dyn VideoTextSet>,
    collator: VideoTextCollator,
    config: CaptionConfig,
    train: ShuffledItems,
    outer: Option<ShuffledItems>,
    device: Device,
}

impl UniVlCaptioning {
    /// Sets the task up; `order_seed` fixes the order of the training items.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if a setting is out of range, if a split is not known, empty or smaller than
    /// a batch, or if the items have no captions apart from the texts that the encoder reads: it
    /// would be shown what it has to say.
    pub fn new(
        set: Arc<dyn VideoTextSet>,
        collator: VideoTextCollator,
        config: CaptionConfig,
        order_seed: u64,
        device: &Device,
    ) -> Result<Self, TaskError> {
        config.validate()?;
        collator.validate()?;
        let train = items_of(&*set, &config.train_splits)?;
        let train = ShuffledItems::new(train, config.batch_size, order_seed)?;
        let outer = train.held_out(&config.outer_splits, |splits| items_of(&*set, splits))?;
        if let Some(&first) = train.indices().first() {
            require_caption(&*set, first)?;
        }
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

    /// A caption for every item of a split, in the order of the split, with the item's name and
    /// the references as they are compared with it.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if the split is not known or empty, if an item cannot be read, if captions
    /// would outgrow the model's positions, or if the model's output is not finite.
    pub fn captions(&self, model: &UniVl, split: &str) -> Result<Vec<CaptionItem>, TaskError> {
        self.shared_captions(model, split, &Alone)
    }

    /// The captions, of which every process writes those of its share of the items.
    fn shared_captions(
        &self,
        model: &UniVl,
        split: &str,
        workers: &dyn Workers,
    ) -> Result<Vec<CaptionItem>, TaskError> {
        let indices = self.set.split(split)?;
        let settings = self.search_settings(model)?;
        let chunk = self.config.chunk;
        let own = own_items(workers, indices.len(), chunk);
        let mut written = Vec::with_capacity(own.len());
        for part in indices[own].chunks(chunk) {
            let batch = self.collator.collate_clean(&*self.set, part)?;
            let outputs = self.searched(model, &batch, &settings);
            for (&index, output) in part.iter().zip(&outputs) {
                let name = self.set.item_name(index);
                written.push(self.written(&name, output, &settings)?);
            }
        }
        let written = gather_texts(workers, written);
        let captions = indices.into_iter().zip(written);
        Ok(captions
            .map(|(index, hypothesis)| self.caption(index, hypothesis))
            .collect())
    }

    /// A caption for every video; these belong to no set, and the encoder reads no transcript.
    ///
    /// # Errors
    ///
    /// [`TaskError`] if a video has no frame or fewer features than the batches, if captions would
    /// outgrow the model's positions, or if the model's output is not finite.
    pub fn captions_of(
        &self,
        model: &UniVl,
        videos: &[OwnVideo],
    ) -> Result<Vec<String>, TaskError> {
        let settings = self.search_settings(model)?;
        let mut captions = Vec::with_capacity(videos.len());
        for part in videos.chunks(self.config.chunk) {
            let samples = samples_of(part, CaptionTargets::NO_TRANSCRIPT);
            let words = self.set.word_piece();
            let mode = CollateMode::Clean;
            let batch = self
                .collator
                .collate_samples(self.set.label(), words, &samples, mode)?;
            let outputs = self.searched(model, &batch, &settings);
            for (video, output) in part.iter().zip(&outputs) {
                captions.push(self.written(&video.name, output, &settings)?);
            }
        }
        Ok(captions)
    }

    /// The hypotheses of every item of a batch.
    fn searched(
        &self,
        model: &UniVl,
        batch: &VideoTextBatch,
        settings: &BeamSearch,
    ) -> Vec<BeamOutput> {
        let text = model.encode_text(
            ints(&batch.text_ids, &self.device),
            bools(&batch.text_pad, &self.device),
            Pass::Evaluation,
        );
        let video = model.encode_video(
            floats(&batch.video, &self.device),
            bools(&batch.video_pad, &self.device),
            Pass::Evaluation,
        );
        let encoded = model.encode_for_captions(&text, &video);
        beam_search_cached(model, &encoded, settings)
    }

    fn search_settings(&self, model: &UniVl) -> Result<BeamSearch, ConfigError> {
        let beam = self.config.beam;
        let max_steps = beam.max_steps.unwrap_or(self.collator.max_words);
        if max_steps > model.max_text_positions() {
            return Err(ConfigError::OutOfRange {
                key: "task.beam.max_steps",
                value: max_steps as f64,
                range: "[1, `max_text_positions` of the model]",
            });
        }
        let special = self.set.word_piece().special();
        Ok(BeamSearch {
            beam_size: beam.size,
            max_steps,
            start: special.cls,
            end: special.sep,
            pad: special.pad,
        })
    }

    /// The caption of an item beside its references.
    fn caption(&self, index: usize, hypothesis: String) -> CaptionItem {
        let references = self.set.references(index);
        CaptionItem {
            id: self.set.item_name(index),
            hypothesis,
            references: match self.config.references {
                ReferenceText::AsWritten => references,
                ReferenceText::Detokenized => references
                    .iter()
                    .map(|reference| self.detokenized(reference))
                    .collect(),
            },
        }
    }

    /// The best hypothesis of the item called `name` as text.
    fn written(
        &self,
        name: &str,
        output: &BeamOutput,
        settings: &BeamSearch,
    ) -> Result<String, TaskError> {
        let is_finite = |hypothesis: &Hypothesis| hypothesis.score.is_finite();
        if !output.hypotheses.iter().all(is_finite) {
            return Err(TaskError::CaptionNotFinite {
                item: name.to_owned(),
            });
        }
        let ids = output.caption_ids(settings);
        Ok(self.set.word_piece().decode_as(&ids, TextStyle::Caption))
    }

    /// A text as the decoder would say it.
    fn detokenized(&self, text: &str) -> String {
        let word_piece = self.set.word_piece();
        let mut ids = word_piece.encode(text);
        ids.truncate(self.collator.max_words - 1);
        word_piece.decode_as(&ids, TextStyle::Caption)
    }
}

/// An error if the decoder of an item has to say what its encoder reads.
fn require_caption(set: &dyn VideoTextSet, index: usize) -> Result<(), DataError> {
    if set.sample(index, Draw::Evaluation)?.caption.is_some() {
        return Ok(());
    }
    let kind = DataErrorKind::Item {
        item: set.item_name(index),
        reason: "has one text for both the encoder and the decoder, which would be shown what it \
                 has to say; captioning needs a set with captions of their own"
            .to_owned(),
    };
    Err(DataError::new(set.label(), kind))
}

/// Corpus scores by name, such as `bleu_4`; captions are split at blanks, as published.
fn scores(captions: &[CaptionItem], split: &str) -> Result<BTreeMap<String, f64>, TaskError> {
    let scores =
        score_captions(captions, Tokenization::Whitespace).map_err(|source| TaskError::Metric {
            split: split.to_owned(),
            source,
        })?;
    Ok(scores.corpus.named())
}

impl UniVlCaptioning {
    /// These items as a batch, and the seed of its random choices.
    fn items(&self, (indices, seed): (Vec<usize>, u64)) -> Result<UniVlItems, TaskError> {
        let host = self.collator.collate(&*self.set, &indices, seed)?;
        Ok(UniVlItems {
            input: univl_batch(&host, &self.device),
            indices,
        })
    }
}

impl FineTuneTask for UniVlCaptioning {
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
        _progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BTreeMap<String, f64>, TaskError> {
        scores(&self.shared_captions(model, split, workers)?, split)
    }

    fn n_items(&self, split: &str) -> Result<usize, TaskError> {
        Ok(self.set.split(split)?.len())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use meltr_core::vec_f64;
    use meltr_data::{FrameSampling, VideoTextSample, WordPiece};
    use meltr_models::UniVlConfig;
    use ndarray::Array2;

    use super::*;
    use crate::shares::tests::on_threads;

    const VOCAB: &str =
        "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwhisk\nthe\negg\n##s\npour\nmilk\n.\nnone\n";
    const CAPTIONS: [&str; 3] = ["Whisk the eggs.", "pour the milk", "milk"];
    const WIDTH: usize = 4;

    /// What is not as it should be with a [`Kitchen`].
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fault {
        None,
        NoCaptions,
        FrameNotANumber,
    }

    #[derive(Debug)]
    struct Kitchen {
        word_piece: WordPiece,
        fault: Fault,
    }

    impl VideoTextSet for Kitchen {
        fn label(&self) -> &Path {
            Path::new("kitchen")
        }

        fn word_piece(&self) -> &WordPiece {
            &self.word_piece
        }

        fn feature_width(&self) -> usize {
            WIDTH
        }

        fn n_items(&self) -> usize {
            3
        }

        fn item_name(&self, index: usize) -> String {
            format!("dish{index}")
        }

        fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
            match name {
                "train" => Ok(vec![0, 1]),
                "test" => Ok(vec![2, 0, 1]),
                _ => {
                    let kind = DataErrorKind::Item {
                        item: name.to_owned(),
                        reason: "is not `train` or `test`".to_owned(),
                    };
                    Err(DataError::new("kitchen", kind))
                }
            }
        }

        fn sample(&self, index: usize, _draw: Draw) -> Result<VideoTextSample, DataError> {
            let mut frames = Array2::from_shape_fn((2, WIDTH), |(frame, feature)| {
                ((index + 1) * (frame + 2) * (feature + 1) % 7) as f32
            });
            if self.fault == Fault::FrameNotANumber {
                frames[[1, 1]] = f32::NAN;
            }
            Ok(VideoTextSample {
                id: index,
                text: "none".to_owned(),
                caption: (self.fault != Fault::NoCaptions).then(|| CAPTIONS[index].to_owned()),
                frames,
            })
        }

        fn references(&self, index: usize) -> Vec<String> {
            vec![CAPTIONS[index].to_owned()]
        }
    }

    fn config() -> CaptionConfig {
        CaptionConfig {
            losses: vec![UniVlLoss::Mlm, UniVlLoss::Decoder],
            primary: UniVlLoss::Decoder,
            batch_size: 2,
            train_splits: vec!["train".to_owned()],
            outer_splits: Vec::new(),
            chunk: 2,
            references: ReferenceText::AsWritten,
            beam: CaptionBeam {
                size: 3,
                max_steps: None,
            },
        }
    }

    fn task(fault: Fault, config: CaptionConfig) -> Result<UniVlCaptioning, TaskError> {
        let word_piece = WordPiece::from_vocab_text(Path::new("vocab.txt"), VOCAB).unwrap();
        let collator = VideoTextCollator {
            max_words: 5,
            max_frames: 2,
            video_dim: WIDTH,
            mask_probability: 0.15,
            frame_sampling: FrameSampling::All,
            feature_noise: 0.0,
        };
        let set = Arc::new(Kitchen { word_piece, fault });
        UniVlCaptioning::new(set, collator, config, 1, &Device::default())
    }

    fn model(max_text_positions: usize) -> UniVl {
        let config = UniVlConfig {
            d_model: 16,
            n_heads: 2,
            d_ff: 24,
            max_text_positions,
            ..UniVlConfig::mini(13, WIDTH)
        };
        config.init(3, &Device::default()).unwrap()
    }

    #[test]
    fn every_item_of_a_split_gets_a_caption_in_order() {
        let task = task(Fault::None, config()).unwrap();
        let captions = task.captions(&model(8), "test").unwrap();
        let ids: Vec<&str> = captions.iter().map(|caption| caption.id.as_str()).collect();
        assert_eq!(ids, ["dish2", "dish0", "dish1"]);
        assert_eq!(captions[1].references, ["Whisk the eggs."]);
        for caption in &captions {
            assert!(!caption.hypothesis.contains("[SEP]"));
            assert!(caption.hypothesis.split(' ').count() <= 5);
        }
    }

    #[test]
    fn a_video_of_no_set_gets_the_caption_that_it_would_get_in_one() {
        let task = task(Fault::None, config()).unwrap();
        let expected = task.captions(&model(8), "test").unwrap();
        let videos: Vec<OwnVideo> = [2, 0, 1]
            .iter()
            .map(|&index| OwnVideo {
                name: format!("video{index}"),
                frames: task.set().sample(index, Draw::Evaluation).unwrap().frames,
            })
            .collect();
        let captions = task.captions_of(&model(8), &videos).unwrap();
        let expected: Vec<String> = expected.into_iter().map(|item| item.hypothesis).collect();
        assert_eq!(captions, expected);
    }

    #[test]
    fn references_can_go_the_way_of_the_captions() {
        let config = CaptionConfig {
            references: ReferenceText::Detokenized,
            ..config()
        };
        let task = task(Fault::None, config).unwrap();
        let captions = task.captions(&model(8), "test").unwrap();
        // Four tokens: the full stop is the fifth.
        assert_eq!(captions[1].references, ["whisk the eggs"]);
    }

    #[test]
    fn a_split_is_scored() {
        let task = task(Fault::None, config()).unwrap();
        let metrics = task.evaluate(&model(8), "test").unwrap();
        for name in ["bleu_4", "rouge_l", "cider"] {
            assert!(metrics.contains_key(name), "{name} in {metrics:?}");
        }
        assert_eq!(task.n_items("test").unwrap(), 3);
        assert!(task.evaluate(&model(8), "valid").is_err());
    }

    #[test]
    fn processes_that_share_an_evaluation_write_what_one_writes() {
        let with = |workers: &dyn Workers| {
            let task = task(Fault::None, config()).unwrap();
            let captions = task.shared_captions(&model(8), "test", workers).unwrap();
            let texts = captions.into_iter().map(|item| [item.id, item.hypothesis]);
            texts.collect::<Vec<_>>()
        };
        let expected = with(&Alone);
        assert_eq!(expected.len(), 3);
        for n in [2, 3] {
            for found in on_threads(n, with) {
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn the_primary_loss_is_the_decoder_loss_of_the_batch() {
        let task = task(Fault::None, config()).unwrap();
        let (model, batch) = (model(8), task.batch(0, 5).unwrap());
        let losses = vec_f64(task.losses(&model, &batch, Pass::Evaluation).into_data());
        let primary = vec_f64(
            task.primary_loss(&model, &batch, Pass::Evaluation)
                .into_data(),
        );
        assert_eq!(task.names(), ["mlm", "decoder"]);
        assert!((losses[task.primary()] - primary[0]).abs() < 1e-6);
        let mut items = task.batch_items(&batch);
        items.sort();
        assert_eq!(items, ["dish0", "dish1"]);
    }

    #[test]
    fn a_set_whose_encoder_would_read_the_caption_is_refused() {
        let error = task(Fault::NoCaptions, config()).unwrap_err().to_string();
        assert!(
            error.contains("dish0") && error.contains("captions of their own"),
            "{error}"
        );
    }

    #[test]
    fn captions_that_outgrow_the_model_are_refused() {
        let config = CaptionConfig {
            beam: CaptionBeam {
                size: 1,
                max_steps: Some(9),
            },
            ..config()
        };
        let task = task(Fault::None, config).unwrap();
        let error = task.captions(&model(8), "test").unwrap_err().to_string();
        assert!(error.contains("`task.beam.max_steps` is 9"), "{error}");
    }

    #[test]
    fn output_that_is_not_finite_names_the_item() {
        let task = task(Fault::FrameNotANumber, config()).unwrap();
        let error = task.captions(&model(8), "test").unwrap_err().to_string();
        assert!(error.contains("dish2"), "{error}");
    }

    #[test]
    fn settings_that_cannot_be_used_are_named() {
        let cases = [
            (
                "task.primary",
                CaptionConfig {
                    primary: UniVlLoss::Align,
                    ..config()
                },
            ),
            (
                "task.losses",
                CaptionConfig {
                    losses: vec![UniVlLoss::Decoder, UniVlLoss::Decoder],
                    ..config()
                },
            ),
            (
                "task.batch_size",
                CaptionConfig {
                    losses: vec![UniVlLoss::Decoder, UniVlLoss::Joint],
                    batch_size: 1,
                    ..config()
                },
            ),
            (
                "task.chunk",
                CaptionConfig {
                    chunk: 0,
                    ..config()
                },
            ),
            (
                "task.beam.size",
                CaptionConfig {
                    beam: CaptionBeam {
                        size: 0,
                        max_steps: None,
                    },
                    ..config()
                },
            ),
            (
                "task.beam.max_steps",
                CaptionConfig {
                    beam: CaptionBeam {
                        size: 1,
                        max_steps: Some(0),
                    },
                    ..config()
                },
            ),
        ];
        for (key, config) in cases {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{key}`")), "{error}");
        }
        let alone = CaptionConfig {
            batch_size: 1,
            ..config()
        };
        assert_eq!(alone.validate(), Ok(()));
    }
}
