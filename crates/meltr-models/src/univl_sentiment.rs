//! Multimodal sentiment on UniVL: an audio stream, a regression head, and the losses around it.

use std::cell::LazyCell;
use std::fmt;
use std::ops::Add;
use std::str::FromStr;

use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use meltr_core::{
    ConfigError, Dual, Fill, LoadReport, Pass, StateDict, Weights, initialize, load_state_dict,
    parameter_names, state_dict,
};
use serde::{Deserialize, Serialize};

use crate::attention::Masked;
use crate::bert::VideoEncoder;
use crate::cross::CrossEncoder;
use crate::layers::{linear_layer, linear3, padding_scores};
use crate::sentiment_batch::{FeatureSequence, UniVlSentimentBatch};
use crate::univl::{Encoded, Network, UniVl, mean_pool, published_name};
use crate::univl_batch::index_tensor;
use crate::univl_config::UniVlConfig;
use crate::univl_losses::{UniVlLoss, cross_entropy};

/// What the names of all parameters begin with that UniVL does not have.
const PREFIX: &str = "sentiment.";

/// Largest sentiment; the smallest is its negative.
const MAX_LABEL: f32 = 3.0;

/// Classes of `intensity`: the integers from -3 to 3.
const N_INTENSITIES: usize = 7;

/// A loss of [`UniVlSentiment`].
///
/// | loss | what is predicted | from |
/// |---|---|---|
/// | `regression`, `regression_mse` | the sentiment | the cross encoder over all streams |
/// | `polarity` | whether the sentiment is negative | the same |
/// | `intensity` | the nearest integer | the same |
/// | `text_only`, `audio_only`, `video_only` | the sentiment | the mean token of one stream |
/// | the names of [`UniVlLoss`] | as in UniVL | words and video |
///
/// The unimodal losses take the label of the utterance, since CMU-MOSI has none of a single
/// stream; `audio_only` is 0 without audio. UniVL's own losses take a pass of their own; all others
/// share one.
///
/// # References
///
/// - Unimodal losses as auxiliary tasks: Yu et al., [CH-SIMS: A Chinese Multimodal Sentiment
///   Analysis Dataset with Fine-grained Annotation of Modality](https://aclanthology.org/2020.acl-main.343),
///   ACL 2020.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SentimentLoss {
    /// Mean absolute error of the prediction.
    Regression,
    /// Mean squared error of the prediction.
    RegressionMse,
    /// Cross entropy of two classes: negative, or not; 0 is not.
    Polarity,
    /// Cross entropy of seven classes: the sentiment rounded to an integer, halves to even.
    Intensity,
    /// Mean absolute error of a prediction from the text alone.
    TextOnly,
    /// Mean absolute error of a prediction from the audio alone.
    AudioOnly,
    /// Mean absolute error of a prediction from the video alone.
    VideoOnly,
    /// A loss of UniVL on the words and the video of the same batch.
    Pretext(UniVlLoss),
}

impl SentimentLoss {
    /// All losses, those of UniVL last and in published order.
    pub const ALL: [Self; 15] = [
        Self::Regression,
        Self::RegressionMse,
        Self::Polarity,
        Self::Intensity,
        Self::TextOnly,
        Self::AudioOnly,
        Self::VideoOnly,
        Self::Pretext(UniVlLoss::Joint),
        Self::Pretext(UniVlLoss::Align),
        Self::Pretext(UniVlLoss::Mlm),
        Self::Pretext(UniVlLoss::Mfm),
        Self::Pretext(UniVlLoss::MJoint),
        Self::Pretext(UniVlLoss::MAlign),
        Self::Pretext(UniVlLoss::Decoder),
        Self::Pretext(UniVlLoss::MDecoder),
    ];

    /// The name in settings and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Regression => "regression",
            Self::RegressionMse => "regression_mse",
            Self::Polarity => "polarity",
            Self::Intensity => "intensity",
            Self::TextOnly => "text_only",
            Self::AudioOnly => "audio_only",
            Self::VideoOnly => "video_only",
            Self::Pretext(loss) => loss.name(),
        }
    }
}

impl fmt::Display for SentimentLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SentimentLoss {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|loss| loss.name() == name)
            .ok_or_else(|| ConfigError::UnknownName {
                key: "losses",
                value: name.to_owned(),
                known: Self::ALL.map(Self::name).join(", "),
            })
    }
}

impl TryFrom<String> for SentimentLoss {
    type Error = ConfigError;

    fn try_from(name: String) -> Result<Self, ConfigError> {
        name.parse()
    }
}

impl From<SentimentLoss> for String {
    fn from(loss: SentimentLoss) -> Self {
        loss.name().to_owned()
    }
}

/// Numbers of features of each stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureWidths {
    /// Features of the text beside its words; 0 for none.
    pub text: usize,
    /// Acoustic features; 0 for none.
    pub audio: usize,
    /// Features of a frame, at least 1.
    pub video: usize,
}

impl FeatureWidths {
    /// Their sum.
    #[must_use]
    pub fn total(&self) -> usize {
        self.text + self.audio + self.video
    }
}

/// Whether features reach the prediction past the encoders, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// They do not: the prediction is read off the cross encoder alone, as in the paper.
    #[default]
    Off,
    /// A linear map of the mean features of all streams is added; its weights start at 0.
    Linear,
}

/// Sizes and constants of [`UniVlSentiment`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UniVlSentimentConfig {
    /// Sizes of UniVL; `video_dim` is the number of features of a frame.
    pub univl: UniVlConfig,
    /// Features of the text beside its words; 0 for none.
    pub text_feature_dim: usize,
    /// Acoustic features of a step; 0 for no audio.
    pub audio_dim: usize,
    /// Layers of the audio encoder; 0 leaves the linear embedding alone.
    pub audio_layers: usize,
    /// Longest audio, in steps.
    pub max_audio_positions: usize,
    /// Probability of dropout on the features of text and audio, and on the input of the
    /// shortcut, in `[0, 1)`.
    pub feature_dropout: f64,
    /// Probability of dropout on the input of every head, in `[0, 1)`.
    pub head_dropout: f64,
    /// Whether features reach the prediction past the encoders, too.
    #[serde(default)]
    pub shortcut: Shortcut,
}

impl UniVlSentimentConfig {
    /// A size for a few CPU cores and small sets.
    #[must_use]
    pub fn mini(vocab_size: usize, widths: FeatureWidths) -> Self {
        Self {
            univl: UniVlConfig {
                // Three streams have to fit.
                max_cross_positions: 256,
                ..UniVlConfig::mini(vocab_size, widths.video)
            },
            text_feature_dim: widths.text,
            audio_dim: widths.audio,
            audio_layers: 1,
            max_audio_positions: 64,
            feature_dropout: 0.2,
            head_dropout: 0.1,
            shortcut: Shortcut::Off,
        }
    }

    /// Numbers of features of each stream.
    #[must_use]
    pub fn widths(&self) -> FeatureWidths {
        FeatureWidths {
            text: self.text_feature_dim,
            audio: self.audio_dim,
            video: self.univl.video_dim,
        }
    }

    /// Checks every size.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.univl.validate()?;
        ConfigError::require_nonzero("max_audio_positions", self.max_audio_positions)?;
        ConfigError::require_probability("feature_dropout", self.feature_dropout)?;
        ConfigError::require_probability("head_dropout", self.head_dropout)
    }

    /// Builds the network with BERT's initial values: weights `N(0, 0.02)`, biases 0.
    ///
    /// The part that is UniVL has the values of [`UniVlConfig::init`] with the same seed.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn init(&self, seed: u64, device: &Device) -> Result<UniVlSentiment, ConfigError> {
        self.validate()?;
        let univl = self.univl.init(seed, device)?;
        let parts = initialize(SentimentParts::zeroed(self, device), seed, |site| {
            match (site.module, site.shape.len()) {
                _ if site.path.starts_with("shortcut.") => Fill::Constant(0.0),
                ("LayerNorm", _) => Fill::Keep,
                (_, 1) => Fill::Constant(0.0),
                _ => Fill::Normal(0.02),
            }
        });
        Ok(UniVlSentiment { univl, parts })
    }
}

/// What the sentiment model has beside UniVL.
#[derive(Module, Debug)]
struct SentimentParts {
    audio: Option<VideoEncoder>,
    /// Tells audio from video, which share a token type in the cross encoder, `[1, D]`.
    audio_type: Option<Param<Tensor<2>>>,
    text_features: Option<Linear>,
    head: Linear,
    shortcut: Option<Linear>,
    polarity_head: Linear,
    intensity_head: Linear,
    text_head: Linear,
    audio_head: Linear,
    video_head: Linear,
    feature_dropout: f64,
    head_dropout: f64,
}

impl SentimentParts {
    fn zeroed(config: &UniVlSentimentConfig, device: &Device) -> Self {
        let d_model = config.univl.d_model;
        // The audio encoder is a video encoder of other sizes.
        let audio = UniVlConfig {
            video_dim: config.audio_dim,
            visual_layers: config.audio_layers,
            max_video_positions: config.max_audio_positions,
            ..config.univl.clone()
        };
        let has_audio = config.audio_dim > 0;
        Self {
            audio: has_audio.then(|| VideoEncoder::new(&audio, device)),
            audio_type: has_audio.then(|| Param::from_tensor(Tensor::zeros([1, d_model], device))),
            text_features: (config.text_feature_dim > 0)
                .then(|| linear_layer(config.text_feature_dim, d_model, device)),
            head: linear_layer(d_model, 1, device),
            shortcut: match config.shortcut {
                Shortcut::Off => None,
                Shortcut::Linear => Some(linear_layer(config.widths().total(), 1, device)),
            },
            polarity_head: linear_layer(d_model, 2, device),
            intensity_head: linear_layer(d_model, N_INTENSITIES, device),
            text_head: linear_layer(d_model, 1, device),
            audio_head: linear_layer(d_model, 1, device),
            video_head: linear_layer(d_model, 1, device),
            feature_dropout: config.feature_dropout,
            head_dropout: config.head_dropout,
        }
    }
}

/// UniVL with an audio stream and heads for the sentiment of an utterance.
///
/// ```text
/// words    → text encoder  ┐
/// features → linear        ├→ cross encoder → first token → pooler → dropout → linear → score
/// video    → video encoder │
/// audio    → audio encoder ┘
/// ```
///
/// The text encoder, video encoder and cross encoder are those of UniVL. The cross encoder has two
/// token types; features of the text are of the words' type, and audio is of the video's type with
/// a learned vector of its own added, so that published weights fit and nothing is resized.
/// Positions run on through all streams: they agree between batches if every batch is padded to
/// the same lengths.
///
/// The released code of MELTR has no sentiment task; the head follows the paper of UniVL.
///
/// # References
///
/// - Luo et al., [UniVL](https://arxiv.org/abs/2002.06353), 2020: multimodal sentiment analysis as a
///   downstream task.
/// - The shortcut: Cheng et al., [Wide & Deep Learning for Recommender
///   Systems](https://arxiv.org/abs/1606.07792), 2016.
#[derive(Module, Debug)]
pub struct UniVlSentiment {
    univl: UniVl,
    parts: SentimentParts,
}

impl UniVlSentiment {
    /// Device of the parameters.
    #[must_use]
    pub fn device(&self) -> Device {
        self.univl.device()
    }

    /// The part that is UniVL.
    #[must_use]
    pub fn univl(&self) -> &UniVl {
        &self.univl
    }

    /// Predicted sentiments, `[B]`, not limited to `[-3, 3]`.
    ///
    /// # Panics
    ///
    /// Panics if the batch has features of the text or audio and the model no place for them, or
    /// the other way round.
    #[must_use]
    pub fn predictions(&self, batch: &UniVlSentimentBatch, pass: Pass) -> Tensor<1> {
        let device = self.device();
        pass.begin(&device);
        let batch = batch.clone().with_autodiff_of(&device);
        let network = SentimentNetwork(Weights::constant(self));
        let pooled = network.pooled(&network.streams(&batch, pass), pass);
        network.prediction(&batch, &pooled, pass).value
    }

    /// The chosen losses, `[which.len()]`, each the mean over the batch, in the given order.
    ///
    /// Only what these losses need is computed. The batch may be with or without a tape; the
    /// result follows the parameters.
    ///
    /// # Panics
    ///
    /// As [`predictions`](Self::predictions).
    #[must_use]
    pub fn losses(
        &self,
        batch: &UniVlSentimentBatch,
        which: &[SentimentLoss],
        pass: Pass,
    ) -> Tensor<1> {
        SentimentNetwork(Weights::constant(self))
            .losses(batch, which, pass)
            .value
    }

    /// The chosen losses and their derivatives along `direction`, a module of the same sizes that
    /// holds a direction in parameter space.
    ///
    /// One forward pass on duals: exact up to rounding, at about three times the cost of a plain
    /// forward pass, whatever the number of losses. Both modules are off the tape. The derivative
    /// of an absolute error of exactly 0 is 0.
    ///
    /// # Panics
    ///
    /// As [`predictions`](Self::predictions).
    #[must_use]
    pub fn losses_along(
        &self,
        direction: &Self,
        batch: &UniVlSentimentBatch,
        which: &[SentimentLoss],
        pass: Pass,
    ) -> Dual<1> {
        SentimentNetwork(Weights::new(self, direction)).losses(batch, which, pass)
    }

    /// The parameters under their names: UniVL's published ones, tied tensors repeated, and
    /// `sentiment.` before all others.
    #[must_use]
    pub fn state_dict(&self) -> StateDict {
        let mut dict = self.univl.state_dict();
        dict.extend(state_dict(&self.parts, part_name));
        dict
    }

    /// Id and name of every parameter; a tied tensor is listed once.
    #[must_use]
    pub fn parameter_names(&self) -> Vec<(ParamId, String)> {
        let mut names = self.univl.parameter_names();
        names.extend(parameter_names(&self.parts, part_name));
        names
    }

    /// Loads parameters under the names of [`state_dict`](Self::state_dict).
    ///
    /// The weights of a UniVL fit: what they lack, all of it named `sentiment.`, keeps its values
    /// and is listed as missing.
    #[must_use]
    pub fn load_state_dict(self, dict: &StateDict) -> (Self, LoadReport) {
        let (univl, mut report) = self.univl.load_state_dict(dict);
        let (parts, own) = load_state_dict(self.parts, dict, part_name);
        report.unexpected.retain(|name| !name.starts_with(PREFIX));
        report.unexpected.extend(
            own.unexpected
                .into_iter()
                .filter(|name| name.starts_with(PREFIX)),
        );
        report.applied.extend(own.applied);
        report.missing.extend(own.missing);
        report.mismatched.extend(own.mismatched);
        (Self { univl, parts }, report)
    }
}

/// The encoded streams of a batch.
#[derive(Debug)]
struct Streams {
    /// Words, then features of the text.
    text: Encoded,
    video: Encoded,
    audio: Option<Encoded>,
}

/// The network with, possibly, a direction in its parameter space.
#[derive(Clone, Copy)]
struct SentimentNetwork<'a>(Weights<'a, UniVlSentiment>);

impl<'a> SentimentNetwork<'a> {
    fn univl(self) -> Network<'a> {
        Network(self.0.of(|own| &own.univl))
    }

    fn parts(self) -> Weights<'a, SentimentParts> {
        self.0.of(|own| &own.parts)
    }

    /// The chosen losses, `[which.len()]`. What several of them need is computed once, when the
    /// first of them asks for it.
    fn losses(self, batch: &UniVlSentimentBatch, which: &[SentimentLoss], pass: Pass) -> Dual<1> {
        let device = self.0.value.device();
        pass.begin(&device);
        let batch = batch.clone().with_autodiff_of(&device);
        let n_items = batch.labels.len();
        let labels = TensorData::new(batch.labels.clone(), [n_items]);
        let labels = Tensor::<1>::from_data(labels, &device);
        let parts = self.parts();
        let streams = LazyCell::new(|| self.streams(&batch, pass));
        let pooled = LazyCell::new(|| self.pooled(&streams, pass));
        let residual = LazyCell::new(|| {
            self.prediction(&batch, &pooled, pass)
                .add_constant(labels.clone().neg())
        });
        let unimodal = |head: Weights<'a, Linear>, stream: &Encoded| {
            let prediction = self.unimodal(head, stream, pass);
            mean_absolute(prediction.add_constant(labels.clone().neg()))
        };
        let mut pretext = Vec::new();
        let own: Vec<Option<Dual<1>>> = which
            .iter()
            .map(|loss| match loss {
                SentimentLoss::Regression => Some(mean_absolute((*residual).clone())),
                SentimentLoss::RegressionMse => Some(mean_square((*residual).clone())),
                SentimentLoss::Polarity => {
                    let logits = self.logits(parts.of(|own| &own.polarity_head), &pooled, pass);
                    let targets = index_tensor(&polarities(&batch.labels), &device);
                    Some(cross_entropy(logits, targets))
                }
                SentimentLoss::Intensity => {
                    let logits = self.logits(parts.of(|own| &own.intensity_head), &pooled, pass);
                    let targets = index_tensor(&intensities(&batch.labels), &device);
                    Some(cross_entropy(logits, targets))
                }
                SentimentLoss::TextOnly => {
                    Some(unimodal(parts.of(|own| &own.text_head), &streams.text))
                }
                SentimentLoss::AudioOnly => Some(match &streams.audio {
                    Some(audio) => unimodal(parts.of(|own| &own.audio_head), audio),
                    None => Dual::constant(Tensor::zeros([1], &device)),
                }),
                SentimentLoss::VideoOnly => {
                    Some(unimodal(parts.of(|own| &own.video_head), &streams.video))
                }
                SentimentLoss::Pretext(loss) => {
                    pretext.push(*loss);
                    None
                }
            })
            .collect();
        let pretext = (!pretext.is_empty())
            .then(|| self.univl().losses(&batch.univl, &pretext, pass))
            .into_iter()
            .flat_map(|losses| {
                (0..losses.dims()[0]).map(move |at| {
                    let losses = losses.clone();
                    losses.map_linear(|x| x.narrow(0, at, 1))
                })
            });
        Dual::cat(in_order(own, pretext), 0)
    }

    fn streams(self, batch: &UniVlSentimentBatch, pass: Pass) -> Streams {
        let (univl, parts) = (self.univl(), self.parts());
        let embedding = optional(parts.of(|own| &own.text_features));
        let audio_encoder = optional(parts.of(|own| &own.audio));
        assert_eq!(
            (embedding.is_some(), audio_encoder.is_some()),
            (batch.text_features.is_some(), batch.audio.is_some()),
            "features of text and audio that the model reads, and those of the batch"
        );
        let dropout = parts.value.feature_dropout;
        let dropped = |features: &FeatureSequence| {
            Dual::constant(features.values.clone()).dropout(dropout, pass)
        };
        let input = &batch.univl;
        let words = univl.encode_text(input.text_ids.clone(), input.text_pad.clone(), pass);
        let text = match (embedding, &batch.text_features) {
            (Some(embedding), Some(features)) => Encoded {
                hidden: Dual::cat(vec![words.hidden, linear3(embedding, dropped(features))], 1),
                pad: Tensor::cat(vec![words.pad, features.pad.clone()], 1),
            },
            _ => words,
        };
        let frames = univl.normalize(input.video.clone());
        let video = univl.encode_normalized(frames, input.video_pad.clone(), pass);
        let audio = audio_encoder.zip(batch.audio.as_ref());
        let audio = audio.map(|(encoder, features)| {
            let scores = padding_scores(features.pad.clone());
            Encoded {
                hidden: VideoEncoder::forward(encoder, dropped(features), scores, pass),
                pad: features.pad.clone(),
            }
        });
        Streams { text, video, audio }
    }

    /// The pooled first token of the cross encoder over all streams, `[B, D]`.
    fn pooled(self, streams: &Streams, pass: Pass) -> Dual<2> {
        let Streams { text, video, audio } = streams;
        let text = Masked {
            hidden: text.hidden.clone(),
            scores: padding_scores(text.pad.clone()),
        };
        let (mut hidden, mut pad) = (vec![video.hidden.clone()], vec![video.pad.clone()]);
        let kind = optional(self.parts().of(|own| &own.audio_type));
        if let (Some(audio), Some(kind)) = (audio, kind) {
            let kind = kind.dual().map_linear(|kind| kind.unsqueeze_dim::<3>(0)); // [1, 1, D]
            hidden.push(audio.hidden.clone().add(kind));
            pad.push(audio.pad.clone());
        }
        let others = Masked {
            hidden: Dual::cat(hidden, 1),
            scores: padding_scores(Tensor::cat(pad, 1)),
        };
        let cross = self.0.of(|own| &own.univl).of(|own| &own.cross);
        let output = CrossEncoder::forward(cross, text, others, pass);
        CrossEncoder::pooled(cross, output.hidden)
    }

    /// Predicted sentiments, `[B]`.
    fn prediction(self, batch: &UniVlSentimentBatch, pooled: &Dual<2>, pass: Pass) -> Dual<1> {
        let parts = self.parts();
        let score = self.logits(parts.of(|own| &own.head), pooled, pass);
        column(match optional(parts.of(|own| &own.shortcut)) {
            Some(shortcut) => {
                let features = mean_features(batch).dropout(parts.value.feature_dropout, pass);
                score.add(shortcut.apply(features))
            }
            None => score,
        })
    }

    /// A head on the pooled token, `[B, D]` to `[B, n]`.
    fn logits(self, head: Weights<'a, Linear>, pooled: &Dual<2>, pass: Pass) -> Dual<2> {
        let dropout = self.parts().value.head_dropout;
        head.apply(pooled.clone().dropout(dropout, pass))
    }

    /// Sentiments predicted from the mean token of one stream, `[B]`.
    fn unimodal(self, head: Weights<'a, Linear>, stream: &Encoded, pass: Pass) -> Dual<1> {
        let mean = mean_pool(stream.hidden.clone(), kept(&stream.pad));
        column(self.logits(head, &mean, pass))
    }
}

/// The mean features of text, audio and video, `[B, Dt + Da + Dv]`: what the shortcut reads.
fn mean_features(batch: &UniVlSentimentBatch) -> Dual<2> {
    let mean = |values: &Tensor<3>, pad: &Tensor<2, Bool>| {
        mean_pool(Dual::constant(values.clone()), kept(pad))
    };
    let mut means: Vec<Dual<2>> = [&batch.text_features, &batch.audio]
        .into_iter()
        .flatten()
        .map(|features| mean(&features.values, &features.pad))
        .collect();
    means.push(mean(&batch.univl.video, &batch.univl.video_pad));
    Dual::cat(means, 1)
}

/// 1 where there is something, 0 at padding.
fn kept(pad: &Tensor<2, Bool>) -> Tensor<2> {
    pad.clone().bool_not().float()
}

/// `[B, 1]` to `[B]`.
fn column(x: Dual<2>) -> Dual<1> {
    let [rows, _] = x.dims();
    x.map_linear(|x| x.reshape([rows]))
}

/// A part of a module that may be absent.
fn optional<M>(weights: Weights<'_, Option<M>>) -> Option<Weights<'_, M>> {
    weights.value.as_ref().map(|value| Weights {
        value,
        tangent: weights.tangent.and_then(Option::as_ref),
    })
}

/// Fills the gaps of `own`, in order, from `others`.
fn in_order(own: Vec<Option<Dual<1>>>, mut others: impl Iterator<Item = Dual<1>>) -> Vec<Dual<1>> {
    own.into_iter()
        .filter_map(|loss| loss.or_else(|| others.next()))
        .collect()
}

fn mean_absolute(residual: Dual<1>) -> Dual<1> {
    residual
        .map_elementwise(|x| x.abs(), |x, _| x.sign())
        .map_linear(Tensor::mean)
}

fn mean_square(residual: Dual<1>) -> Dual<1> {
    residual
        .map_elementwise(|x| x.square(), |x, _| x * 2.0)
        .map_linear(Tensor::mean)
}

/// 0 for a negative sentiment, else 1.
fn polarities(labels: &[f32]) -> Vec<i64> {
    labels
        .iter()
        .map(|label| i64::from(*label >= 0.0))
        .collect()
}

/// The sentiment rounded to an integer, halves to even, counted from -3.
fn intensities(labels: &[f32]) -> Vec<i64> {
    labels
        .iter()
        .map(|label| (label.clamp(-MAX_LABEL, MAX_LABEL).round_ties_even() + MAX_LABEL) as i64)
        .collect()
}

/// Name of a parameter that UniVL does not have.
fn part_name(path: &str) -> String {
    format!("{PREFIX}{}", published_name(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTHS: FeatureWidths = FeatureWidths {
        text: 3,
        audio: 4,
        video: 8,
    };

    #[test]
    fn halves_are_rounded_to_even_and_labels_kept_in_range() {
        let labels = [-3.0, -2.5, -0.5, 0.5, 0.6, 1.5, 3.0, 4.0];
        assert_eq!(intensities(&labels), vec![0, 1, 3, 3, 4, 5, 6, 6]);
        assert_eq!(polarities(&[-0.2, 0.0, 0.2]), vec![0, 1, 1]);
    }

    #[test]
    fn every_name_is_read_back() {
        for loss in SentimentLoss::ALL {
            assert_eq!(loss.to_string().parse::<SentimentLoss>(), Ok(loss));
            let text = serde_json::to_string(&loss).unwrap();
            assert_eq!(text, format!("\"{loss}\""));
            assert_eq!(serde_json::from_str::<SentimentLoss>(&text).unwrap(), loss);
        }
    }

    #[test]
    fn an_unknown_loss_lists_the_known_ones() {
        let error = serde_json::from_str::<SentimentLoss>("\"regresion\"").unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("`regresion`") && error.contains("regression_mse, polarity"),
            "{error}"
        );
        assert!(error.contains("m_align"), "{error}");
    }

    #[test]
    fn sizes_that_cannot_be_built_are_named() {
        let good = UniVlSentimentConfig::mini(30, WIDTHS);
        assert_eq!(good.validate(), Ok(()));
        assert_eq!(good.widths(), WIDTHS);
        let cases = [
            (
                "max_audio_positions",
                UniVlSentimentConfig {
                    max_audio_positions: 0,
                    ..good.clone()
                },
            ),
            (
                "feature_dropout",
                UniVlSentimentConfig {
                    feature_dropout: 1.0,
                    ..good.clone()
                },
            ),
            (
                "head_dropout",
                UniVlSentimentConfig {
                    head_dropout: -0.1,
                    ..good.clone()
                },
            ),
            (
                "vocab_size",
                UniVlSentimentConfig {
                    univl: UniVlConfig {
                        vocab_size: 0,
                        ..good.univl.clone()
                    },
                    ..good.clone()
                },
            ),
        ];
        for (key, config) in cases {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{key}` is ")), "{error}");
        }
    }

    #[test]
    fn errors_are_means_and_have_no_slope_at_zero() {
        let device = Device::default();
        let residual = Tensor::<1>::from_floats([0.0, -2.0, 4.0], &device);
        let dual = Dual::new(residual.clone(), residual.ones_like());
        let absolute = mean_absolute(dual.clone());
        assert_eq!(absolute.value.into_scalar::<f32>(), 2.0);
        assert_eq!(absolute.tangent.unwrap().into_scalar::<f32>(), 0.0);
        let square = mean_square(dual);
        assert!((square.value.into_scalar::<f32>() - 20.0 / 3.0).abs() < 1e-6);
        assert!((square.tangent.unwrap().into_scalar::<f32>() - 4.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn losses_of_univl_fill_the_places_between_the_others() {
        let device = Device::default();
        let value = |x: f32| Dual::constant(Tensor::<1>::from_floats([x], &device));
        let own = vec![None, Some(value(1.0)), None];
        let losses = in_order(own, [value(2.0), value(3.0)].into_iter());
        let values: Vec<f32> = losses
            .into_iter()
            .map(|loss| loss.value.into_scalar())
            .collect();
        assert_eq!(values, vec![2.0, 1.0, 3.0]);
    }
}
