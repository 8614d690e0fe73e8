//! UniVL: text, video and cross encoders, a decoder, and the losses that train them.

use std::cell::LazyCell;
use std::ops::Div;

use burn::module::{Module, ParamId};
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_core::{
    Dual, LoadReport, Pass, StateDict, Weights, load_state_dict, parameter_names, state_dict,
};
use serde::{Deserialize, Serialize};

use crate::attention::Masked;
use crate::bert::{TextEncoder, VideoEncoder};
use crate::cross::{CrossEncoder, CrossOutput};
use crate::decoder::{Decoder, DecoderCache, TiedTables};
use crate::heads::TiedHead;
use crate::layers::{linear_layer, norm, norm_layer, padding_scores};
use crate::univl_batch::{UniVlBatch, index_tensor};
use crate::univl_config::{PaddedTargets, UniVlConfig};
use crate::univl_losses::{
    UniVlLoss, UniVlTrace, cross_entropy, diagonal_cross_entropy, masked_frame_loss, max_margin,
};

/// Name and alias of tied tensors: each alias is published beside the name and equal to it.
const TIED: [(&str, &str); 5] = [
    (
        "bert.embeddings.word_embeddings.weight",
        "decoder.embeddings.word_embeddings.weight",
    ),
    (
        "bert.embeddings.word_embeddings.weight",
        "decoder.classifier.cls.predictions.decoder.weight",
    ),
    (
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.weight",
    ),
    (
        "bert.embeddings.position_embeddings.weight",
        "decoder.embeddings.position_embeddings.weight",
    ),
    (
        "visual.embeddings.word_embeddings.weight",
        "cls_visual.predictions.weight",
    ),
];

/// Layer normalization of the raw frame features.
#[derive(Module, Debug)]
struct NormalizeVideo {
    visual_norm2d: LayerNorm,
}

/// UniVL with all of its heads.
///
/// Tied tensors exist once; [`state_dict`](Self::state_dict) repeats them under every published
/// name.
///
/// # References
///
/// - Luo et al., [UniVL: A Unified Video and Language Pre-Training Model for Multimodal
///   Understanding and Generation](https://arxiv.org/abs/2002.06353), 2020.
/// - Reference code: `mlvlab/MELTR@669ad60`, `univl/modules/modeling.py`. Departs from it in what
///   is not computed: prediction heads see masked positions only, and of the last cross-encoder
///   layer only the first token is computed where nothing else is read. The values are the same.
#[derive(Module, Debug)]
pub struct UniVl {
    normalize_video: NormalizeVideo,
    bert: TextEncoder,
    visual: VideoEncoder,
    pub(crate) cross: CrossEncoder,
    decoder: Decoder,
    cls: TiedHead,
    cls_visual: TiedHead,
    similarity_dense: Linear,
    margin: f64,
    #[module(skip)]
    padded_targets: PaddedTargets,
}

/// Token encodings of texts or videos with their padding.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Hidden states, `[N, L or F, D]`.
    pub hidden: Dual<3>,
    /// Padding, `[N, L or F]`, true = padding.
    pub pad: Tensor<2, Bool>,
}

impl Encoded {
    /// Items `start..start + count`.
    #[must_use]
    pub fn narrow(&self, start: usize, count: usize) -> Self {
        Self {
            hidden: self
                .hidden
                .clone()
                .map_linear(|x| x.narrow(0, start, count)),
            pad: self.pad.clone().narrow(0, start, count),
        }
    }

    fn masked(&self) -> Masked {
        Masked {
            hidden: self.hidden.clone(),
            scores: padding_scores(self.pad.clone()),
        }
    }
}

/// Which of UniVL's two similarities ranks videos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SimilarityKind {
    /// Cross encoder over every pair ("FT-Align").
    #[default]
    Align,
    /// Cosine of mean-pooled encodings ("FT-Joint").
    Joint,
}

impl UniVl {
    pub(crate) fn zeroed(config: &UniVlConfig, device: &Device) -> Self {
        let d_model = config.d_model;
        Self {
            normalize_video: NormalizeVideo {
                visual_norm2d: norm_layer(config.video_dim, device),
            },
            bert: TextEncoder::new(config, device),
            visual: VideoEncoder::new(config, device),
            cross: CrossEncoder::new(config, device),
            decoder: Decoder::new(config, device),
            cls: TiedHead::new(d_model, config.vocab_size, device),
            cls_visual: TiedHead::new(d_model, config.video_dim, device),
            similarity_dense: linear_layer(d_model, 1, device),
            margin: config.margin,
            padded_targets: config.padded_targets,
        }
    }

    /// Device of the parameters.
    #[must_use]
    pub fn device(&self) -> Device {
        self.similarity_dense.weight.val().device()
    }

    /// Encodes texts.
    ///
    /// # Shapes
    ///
    /// - ids, pad: `[N, L]`
    #[must_use]
    pub fn encode_text(&self, ids: Tensor<2, Int>, pad: Tensor<2, Bool>, pass: Pass) -> Encoded {
        Network::constant(self).encode_text(ids, pad, pass)
    }

    /// Encodes videos from their raw features.
    ///
    /// # Shapes
    ///
    /// - video: `[N, F, Dv]`; pad: `[N, F]`
    #[must_use]
    pub fn encode_video(&self, video: Tensor<3>, pad: Tensor<2, Bool>, pass: Pass) -> Encoded {
        let network = Network::constant(self);
        network.encode_normalized(network.normalize(video), pad, pass)
    }

    /// Similarities of every text with every video, `[Nt, Nv]`.
    ///
    /// `Align` builds `Nt x Nv` pairs at once: call it in chunks.
    #[must_use]
    pub fn similarity(
        &self,
        kind: SimilarityKind,
        text: &Encoded,
        video: &Encoded,
        pass: Pass,
    ) -> Tensor<2> {
        let view = View {
            text: text.clone(),
            video: video.clone(),
        };
        match kind {
            SimilarityKind::Joint => view.joint_similarity(),
            SimilarityKind::Align => Network::constant(self).align_similarity(&view, pass),
        }
        .value
    }

    /// The chosen losses, `[which.len()]`, each the mean over the batch, in the given order.
    ///
    /// Only what these losses need is computed, and shared where several need it. The batch may
    /// be with or without a tape; the result follows the parameters.
    ///
    /// A batch without masked words (or frames) has an `mlm` (or `mfm`) loss of 0.
    #[must_use]
    pub fn losses(&self, batch: &UniVlBatch, which: &[UniVlLoss], pass: Pass) -> Tensor<1> {
        Network::constant(self).losses(batch, which, pass).value
    }

    /// The chosen losses and their derivatives along `direction`, a module of the same sizes that
    /// holds a direction in parameter space.
    ///
    /// One forward pass on duals: exact up to rounding, at about three times the cost of a plain
    /// forward pass, whatever the number of losses. Both modules are off the tape.
    #[must_use]
    pub fn losses_along(
        &self,
        direction: &Self,
        batch: &UniVlBatch,
        which: &[UniVlLoss],
        pass: Pass,
    ) -> Dual<1> {
        Network(Weights::new(self, direction)).losses(batch, which, pass)
    }

    /// All eight losses and what lies on the way to them, in an evaluation pass.
    #[must_use]
    pub fn trace(&self, batch: &UniVlBatch) -> UniVlTrace {
        let mut trace = Network::constant(self).trace(batch);
        trace.push(
            "losses",
            self.losses(batch, &UniVlLoss::ALL, Pass::Evaluation),
        );
        trace
    }

    /// Encodes matched texts and videos for captioning: cross-encoder states and their scores.
    #[must_use]
    pub fn encode_for_captions(&self, text: &Encoded, video: &Encoded) -> CrossOutput {
        let view = View {
            text: text.clone(),
            video: video.clone(),
        };
        Network::constant(self).cross(&view, Pass::Evaluation)
    }

    /// Logits of the decoder at every position, `[B, L, V]`, in an evaluation pass.
    ///
    /// # Shapes
    ///
    /// - encoded: of `B` items; ids: `[B, L]` starting with `[CLS]`; pad: `[B, L]`
    #[must_use]
    pub fn decode(
        &self,
        encoded: &CrossOutput,
        ids: Tensor<2, Int>,
        pad: Tensor<2, Bool>,
    ) -> Tensor<3> {
        Network::constant(self)
            .decode(encoded, ids, pad, Pass::Evaluation)
            .value
    }

    /// The longest text that has positions, in tokens; a caption with its start token is one.
    #[must_use]
    pub fn max_text_positions(&self) -> usize {
        Network::constant(self).tied_tables().positions.dims()[0]
    }

    /// Starts one caption for each item of `encoded`, to be decoded token by token.
    ///
    /// What the decoder's layers read of `encoded` is computed here, once and for all captions of
    /// an item.
    #[must_use]
    pub fn start_decoding(&self, encoded: &CrossOutput) -> DecoderCache {
        Decoder::start(Weights::constant(self).of(|own| &own.decoder), encoded)
    }

    /// Logits over the vocabulary after one more token of every caption of `cache`, `[N, V]`, in
    /// an evaluation pass. The token is added to the cache.
    ///
    /// The same numbers as the last position of [`decode`](Self::decode) on the whole captions,
    /// up to rounding, at the cost of one token: nothing of earlier tokens is computed again, and
    /// only one position meets the vocabulary.
    ///
    /// # Shapes
    ///
    /// - last_ids: `[N, 1]` with `N` = [`cache.n_rows()`](DecoderCache::n_rows); at first `[CLS]`
    ///
    /// # Panics
    ///
    /// Panics if `last_ids` is not `[N, 1]` or if the captions already fill
    /// [`max_text_positions`](Self::max_text_positions).
    #[must_use]
    pub fn decode_next(&self, cache: &mut DecoderCache, last_ids: Tensor<2, Int>) -> Tensor<2> {
        let network = Network::constant(self);
        let tables = network.tied_tables();
        let n_positions = tables.positions.dims()[0];
        assert_eq!(
            last_ids.dims(),
            [cache.n_rows(), 1],
            "one last token for each caption of the cache"
        );
        assert!(
            cache.length() < n_positions,
            "captions of {} tokens cannot grow: there are {n_positions} positions",
            cache.length()
        );
        let decoder = network.0.of(|own| &own.decoder);
        Decoder::step(decoder, cache, last_ids, tables).value
    }

    /// The parameters under published names, tied tensors repeated.
    #[must_use]
    pub fn state_dict(&self) -> StateDict {
        let mut dict = state_dict(self, published_name);
        for (name, alias) in TIED {
            if let Some(data) = dict.get(name).cloned() {
                dict.insert(alias.to_owned(), data);
            }
        }
        dict
    }

    /// Id and published name of every parameter; a tied tensor is listed once.
    #[must_use]
    pub fn parameter_names(&self) -> Vec<(ParamId, String)> {
        parameter_names(self, published_name)
    }

    /// Loads parameters under published names.
    ///
    /// Aliases of tied tensors count as applied if they equal the tensor they are tied to, and as
    /// unexpected if they differ.
    #[must_use]
    pub fn load_state_dict(self, dict: &StateDict) -> (Self, LoadReport) {
        let (model, mut report) = load_state_dict(self, dict, published_name);
        let (tied, unexpected): (Vec<_>, Vec<_>) = report.unexpected.into_iter().partition(|key| {
            TIED.iter().any(|(name, alias)| {
                alias == key
                    && dict.get(*name).map(TensorData::as_bytes)
                        == dict.get(*alias).map(TensorData::as_bytes)
            })
        });
        report.applied.extend(tied);
        report.unexpected = unexpected;
        (model, report)
    }
}

/// The network with, possibly, a direction in its parameter space.
#[derive(Clone, Copy)]
pub(crate) struct Network<'a>(pub(crate) Weights<'a, UniVl>);

impl<'a> Network<'a> {
    fn constant(model: &'a UniVl) -> Self {
        Self(Weights::constant(model))
    }

    /// The chosen losses, `[which.len()]`. What several of them need is computed once, when the
    /// first of them asks for it.
    pub(crate) fn losses(self, batch: &UniVlBatch, which: &[UniVlLoss], pass: Pass) -> Dual<1> {
        let device = self.0.value.device();
        let margin = self.0.value.margin;
        pass.begin(&device);
        let batch = batch.clone().with_autodiff_of(&device);
        let frames = LazyCell::new(|| self.normalize(batch.video.clone())); // [B, F, Dv]
        let clean = LazyCell::new(|| self.clean(&batch, (*frames).clone(), pass));
        let masked = LazyCell::new(|| self.masked(&batch, pass));
        let clean_cross = LazyCell::new(|| self.cross(&clean, pass));
        let masked_cross = LazyCell::new(|| self.cross(&masked, pass));
        let losses = which
            .iter()
            .map(|loss| match loss {
                UniVlLoss::Joint => max_margin(clean.joint_similarity(), margin),
                UniVlLoss::Align => diagonal_cross_entropy(self.align_similarity(&clean, pass)),
                UniVlLoss::Mlm => self.masked_word_loss(&batch, &masked_cross),
                UniVlLoss::Mfm => self.masked_frame_loss(&batch, &masked_cross, &frames),
                UniVlLoss::MJoint => max_margin(masked.joint_similarity(), margin),
                UniVlLoss::MAlign => diagonal_cross_entropy(self.align_similarity(&masked, pass)),
                UniVlLoss::Decoder => self.caption_loss(&batch, &clean_cross, pass),
                UniVlLoss::MDecoder => self.caption_loss(&batch, &masked_cross, pass),
            })
            .collect();
        Dual::cat(losses, 0)
    }

    /// What lies on the way to the losses, in an evaluation pass.
    fn trace(self, batch: &UniVlBatch) -> UniVlTrace {
        let pass = Pass::Evaluation;
        let batch = batch.clone().with_autodiff_of(&self.0.value.device());
        let mut trace = UniVlTrace {
            tensors: Vec::new(),
        };
        let frames = self.normalize(batch.video.clone());
        trace.push("video_normalized", frames.value.clone());
        let views = [
            ("", self.clean(&batch, frames, pass)),
            ("_masked", self.masked(&batch, pass)),
        ];
        for (suffix, view) in &views {
            let mut push = |name: &str, tensor: Tensor<3>| {
                trace.push(&format!("{name}{suffix}"), tensor);
            };
            let cross = self.cross(view, pass);
            push("text_hidden", view.text.hidden.value.clone());
            push("video_hidden", view.video.hidden.value.clone());
            push("cross_hidden", cross.hidden.value.clone());
            push(
                "decoder_logits",
                self.caption_logits(&batch, &cross, pass).value,
            );
            let pooled = CrossEncoder::pooled(self.0.of(|own| &own.cross), cross.hidden.clone());
            trace.push(&format!("cross_pooled{suffix}"), pooled.value);
            trace.push(&format!("sim_joint{suffix}"), view.joint_similarity().value);
            trace.push(
                &format!("sim_align{suffix}"),
                self.align_similarity(view, pass).value,
            );
            if *suffix == "_masked" {
                let [batch_size, length, n_frames] = sizes(&batch);
                let words = self.word_logits(tokens(&cross, 0, length)).value;
                let n_words = words.dims()[1];
                trace.push("mlm_logits", words.reshape([batch_size, length, n_words]));
                let features = self.frame_scores(tokens(&cross, length, n_frames)).value;
                let width = features.dims()[1];
                trace.push(
                    "mfm_scores",
                    features.reshape([batch_size, n_frames, width]),
                );
            }
        }
        trace
    }

    /// Clean texts and videos, encoded; `frames` are the normalized features.
    fn clean(self, batch: &UniVlBatch, frames: Dual<3>, pass: Pass) -> View {
        View {
            text: self.encode_text(batch.text_ids.clone(), batch.text_pad.clone(), pass),
            video: self.encode_normalized(frames, batch.video_pad.clone(), pass),
        }
    }

    /// Masked texts and videos, encoded.
    fn masked(self, batch: &UniVlBatch, pass: Pass) -> View {
        let frames = self.normalize(batch.masked_video.clone());
        View {
            text: self.encode_text(batch.masked_text_ids.clone(), batch.text_pad.clone(), pass),
            video: self.encode_normalized(frames, batch.video_pad.clone(), pass),
        }
    }

    /// The cross encoder on matched pairs.
    fn cross(self, view: &View, pass: Pass) -> CrossOutput {
        let encoder = self.0.of(|own| &own.cross);
        CrossEncoder::forward(encoder, view.text.masked(), view.video.masked(), pass)
    }

    /// Masked language modelling on the masked positions alone; 0 if there are none.
    fn masked_word_loss(self, batch: &UniVlBatch, cross: &CrossOutput) -> Dual<1> {
        let device = cross.scores.device();
        if batch.predict_words.is_empty() {
            return Dual::constant(Tensor::zeros([1], &device));
        }
        let [_, length, _] = sizes(batch);
        let at = index_tensor(&batch.predict_words, &device);
        let hidden = tokens(cross, 0, length).map_linear(|x| x.select(0, at.clone()));
        cross_entropy(
            self.word_logits(hidden),
            index_tensor(&batch.word_targets, &device),
        )
    }

    /// Masked frame modelling on the masked positions alone; 0 if there are none.
    fn masked_frame_loss(
        self,
        batch: &UniVlBatch,
        cross: &CrossOutput,
        frames: &Dual<3>,
    ) -> Dual<1> {
        let device = cross.scores.device();
        if batch.predict_frames.is_empty() {
            return Dual::constant(Tensor::zeros([1], &device));
        }
        let [batch_size, length, n_frames] = sizes(batch);
        let [_, _, video_dim] = frames.dims();
        let rows = batch_size * n_frames;
        let at = index_tensor(&batch.predict_frames, &device);
        let hidden = tokens(cross, length, n_frames).map_linear(|x| x.select(0, at.clone()));
        masked_frame_loss(
            self.frame_scores(hidden),
            frames.clone().map_linear(|x| x.reshape([rows, video_dim])),
            batch.video_pad.clone().reshape([rows]),
            at,
        )
    }

    /// Cross entropy over the positions of all captions; whether padded ones are among them is a
    /// setting.
    fn caption_loss(self, batch: &UniVlBatch, cross: &CrossOutput, pass: Pass) -> Dual<1> {
        let targets = batch.decoder_target_ids.clone();
        let targets = targets.reshape([batch.decoder_target_ids.dims().iter().product::<usize>()]);
        let decode = |at: Option<Tensor<1, Int>>| {
            let (ids, pad) = (batch.decoder_input_ids.clone(), batch.decoder_pad.clone());
            let decoder = self.0.of(|own| &own.decoder);
            let hidden = Decoder::hidden(decoder, (ids, pad), cross, &self.tied_tables(), pass);
            let hidden = match at {
                Some(at) => hidden.map_linear(|x| x.select(0, at.clone())),
                None => hidden,
            };
            Decoder::logits(decoder, hidden, self.tied_tables())
        };
        match self.0.value.padded_targets {
            PaddedTargets::Counted => cross_entropy(decode(None), targets),
            PaddedTargets::Ignored => {
                let device = cross.scores.device();
                if batch.caption_positions.is_empty() {
                    return Dual::constant(Tensor::zeros([1], &device));
                }
                // Padded positions never meet the vocabulary.
                let at = index_tensor(&batch.caption_positions, &device);
                cross_entropy(decode(Some(at.clone())), targets.select(0, at))
            }
        }
    }

    /// `[rows, D]` to logits over the vocabulary, `[rows, V]`.
    fn word_logits(self, hidden: Dual<2>) -> Dual<2> {
        TiedHead::forward(self.0.of(|own| &own.cls), hidden, self.tied_tables().words)
    }

    /// `[rows, D]` to predicted frame features, `[rows, Dv]`.
    fn frame_scores(self, hidden: Dual<2>) -> Dual<2> {
        let embeddings = self.0.of(|own| &own.visual).of(|own| &own.embeddings);
        let table = embeddings
            .of(|own| &own.word_embeddings)
            .of(|own| &own.weight)
            .dual();
        TiedHead::forward(self.0.of(|own| &own.cls_visual), hidden, table)
    }

    pub(crate) fn normalize(self, video: Tensor<3>) -> Dual<3> {
        let layer = self
            .0
            .of(|own| &own.normalize_video)
            .of(|own| &own.visual_norm2d);
        norm(layer, Dual::constant(video))
    }

    pub(crate) fn encode_text(
        self,
        ids: Tensor<2, Int>,
        pad: Tensor<2, Bool>,
        pass: Pass,
    ) -> Encoded {
        let encoder = self.0.of(|own| &own.bert);
        let hidden = TextEncoder::forward(encoder, ids, padding_scores(pad.clone()), pass);
        Encoded { hidden, pad }
    }

    pub(crate) fn encode_normalized(
        self,
        video: Dual<3>,
        pad: Tensor<2, Bool>,
        pass: Pass,
    ) -> Encoded {
        let encoder = self.0.of(|own| &own.visual);
        let hidden = VideoEncoder::forward(encoder, video, padding_scores(pad.clone()), pass);
        Encoded { hidden, pad }
    }

    /// Cross-encoder similarity of all pairs, `[Nt, Nv]`.
    fn align_similarity(self, view: &View, pass: Pass) -> Dual<2> {
        let [n_texts, _] = view.text.pad.dims();
        let [n_videos, _] = view.video.pad.dims();
        let cross = self.0.of(|own| &own.cross);
        let (text, video) = (view.text.masked(), view.video.masked());
        let pooled = CrossEncoder::pooled_pairs(cross, text, video, pass);
        self.0
            .of(|own| &own.similarity_dense)
            .apply(pooled)
            .map_linear(|x| x.reshape([n_texts, n_videos]))
    }

    /// Logits of the decoder at every position, `[B, L, V]`.
    fn caption_logits(self, batch: &UniVlBatch, cross: &CrossOutput, pass: Pass) -> Dual<3> {
        let ids = batch.decoder_input_ids.clone();
        self.decode(cross, ids, batch.decoder_pad.clone(), pass)
    }

    fn decode(
        self,
        cross: &CrossOutput,
        ids: Tensor<2, Int>,
        pad: Tensor<2, Bool>,
        pass: Pass,
    ) -> Dual<3> {
        let [batch_size, length] = ids.dims();
        let decoder = self.0.of(|own| &own.decoder);
        let hidden = Decoder::hidden(decoder, (ids, pad), cross, &self.tied_tables(), pass);
        let logits = Decoder::logits(decoder, hidden, self.tied_tables());
        let vocab_size = logits.dims()[1];
        logits.map_linear(|x| x.reshape([batch_size, length, vocab_size]))
    }

    fn tied_tables(self) -> TiedTables {
        let embeddings = self.0.of(|own| &own.bert).of(|own| &own.embeddings);
        TiedTables {
            words: embeddings
                .of(|own| &own.word_embeddings)
                .of(|own| &own.weight)
                .dual(),
            positions: embeddings
                .of(|own| &own.position_embeddings)
                .of(|own| &own.weight)
                .dual(),
        }
    }
}

/// Texts and videos of a batch, clean or masked, encoded.
#[derive(Debug, Clone)]
struct View {
    text: Encoded,
    video: Encoded,
}

impl View {
    /// Cosine similarity of mean-pooled encodings, `[Nt, Nv]`; `[CLS]` is left out of the mean.
    fn joint_similarity(&self) -> Dual<2> {
        let [_, length] = self.text.pad.dims();
        let keep = self.text.pad.clone().bool_not().float();
        let cls = keep.clone().narrow(1, 0, 1).zeros_like();
        let words = Tensor::cat(vec![cls, keep.narrow(1, 1, length - 1)], 1);
        let text = normalized(mean_pool(self.text.hidden.clone(), words));
        let frames = self.video.pad.clone().bool_not().float();
        let video = normalized(mean_pool(self.video.hidden.clone(), frames));
        text.matmul(video.map_linear(|x| x.transpose()))
    }
}

/// Sizes `B`, `L`, `F` of a batch.
fn sizes(batch: &UniVlBatch) -> [usize; 3] {
    let [batch_size, length] = batch.text_ids.dims();
    [batch_size, length, batch.video.dims()[1]]
}

/// `count` tokens from `start` on of each pair, flattened to `[B * count, D]`.
fn tokens(cross: &CrossOutput, start: usize, count: usize) -> Dual<2> {
    let [batch_size, _, d_model] = cross.hidden.dims();
    cross.hidden.clone().map_linear(|x| {
        x.narrow(1, start, count)
            .reshape([batch_size * count, d_model])
    })
}

/// Mean over the positions where `keep` `[N, L]` is 1; a row without any gives zeros.
pub(crate) fn mean_pool(hidden: Dual<3>, keep: Tensor<2>) -> Dual<2> {
    let [n_items, length, d_model] = hidden.dims();
    let count = keep.clone().sum_dim(1).clamp_min(1.0); // [N, 1]
    let weights = (keep / count).reshape([n_items, 1, length]);
    hidden.map_linear(|x| weights.clone().matmul(x).reshape([n_items, d_model]))
}

/// Rows scaled to unit length.
fn normalized(x: Dual<2>) -> Dual<2> {
    let squares = x.clone().map_elementwise(|x| x.square(), |x, _| x * 2.0);
    let norm = squares
        .map_linear(|x| x.sum_dim(1))
        .map_elementwise(|x| x.sqrt().clamp_min(1e-12), |_, y| y.recip() * 0.5);
    x.div(norm)
}

/// Published name of a field path.
pub(crate) fn published_name(path: &str) -> String {
    path.replace("self_attention.", "self.")
        .replace("layer_norm.", "LayerNorm.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_paths_become_published_names() {
        assert_eq!(
            published_name("bert.encoder.layer.0.attention.self_attention.query.weight"),
            "bert.encoder.layer.0.attention.self.query.weight"
        );
        assert_eq!(
            published_name("cls.predictions.transform.layer_norm.bias"),
            "cls.predictions.transform.LayerNorm.bias"
        );
    }

    #[test]
    fn a_renamed_key_and_an_untied_alias_are_reported() {
        let device = Device::default();
        let model = UniVlConfig::mini(30, 8).init(0, &device).unwrap();
        let mut dict = model.state_dict();
        let value = dict.remove("similarity_dense.bias").unwrap();
        dict.insert("similarity.bias".to_owned(), value);
        let other = vec![0.5f32; 30 * 128];
        dict.insert(
            "cls.predictions.decoder.weight".to_owned(),
            TensorData::new(other, [30, 128]),
        );
        let (_, report) = model.load_state_dict(&dict);
        assert_eq!(report.missing, vec!["similarity_dense.bias"]);
        assert_eq!(
            report.unexpected,
            vec!["cls.predictions.decoder.weight", "similarity.bias"]
        );
    }
}
