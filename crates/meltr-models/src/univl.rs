//! UniVL: text, video and cross encoders, a decoder, and the losses that train them.

use burn::module::{Module, ParamId};
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_core::{LoadReport, Pass, StateDict, load_state_dict, parameter_names, state_dict};
use serde::{Deserialize, Serialize};

use crate::bert::{TextEncoder, VideoEncoder};
use crate::cross::{CrossEncoder, CrossOutput};
use crate::decoder::{Decoder, TiedTables};
use crate::heads::TiedHead;
use crate::layers::{linear_layer, linear2, norm_layer, padding_scores};
use crate::univl_batch::{UniVlBatch, index_tensor};
use crate::univl_config::UniVlConfig;
use crate::univl_losses::{
    UniVlLoss, UniVlTrace, cross_entropy, diagonal_cross_entropy, masked_frame_loss, max_margin,
};

/// Name and alias of tied tensors: each alias is published beside the name and equal to it.
const TIED: [(&str, &str); 5] = [
    ("bert.embeddings.word_embeddings.weight", "decoder.embeddings.word_embeddings.weight"),
    (
        "bert.embeddings.word_embeddings.weight",
        "decoder.classifier.cls.predictions.decoder.weight",
    ),
    ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    ("bert.embeddings.position_embeddings.weight", "decoder.embeddings.position_embeddings.weight"),
    ("visual.embeddings.word_embeddings.weight", "cls_visual.predictions.weight"),
];

/// Layer normalisation of the raw frame features.
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
    cross: CrossEncoder,
    decoder: Decoder,
    cls: TiedHead,
    cls_visual: TiedHead,
    similarity_dense: Linear,
    margin: f64,
}

/// Token encodings of texts or videos with their padding.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Hidden states, `[N, L or F, D]`.
    pub hidden: Tensor<3>,
    /// Padding, `[N, L or F]`, true = padding.
    pub pad: Tensor<2, Bool>,
}

impl Encoded {
    fn with_scores(&self) -> (Tensor<3>, Tensor<4>) {
        (self.hidden.clone(), padding_scores(self.pad.clone()))
    }

    /// Items `start..start + count`.
    #[must_use]
    pub fn narrow(&self, start: usize, count: usize) -> Self {
        Self {
            hidden: self.hidden.clone().narrow(0, start, count),
            pad: self.pad.clone().narrow(0, start, count),
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
            normalize_video: NormalizeVideo { visual_norm2d: norm_layer(config.video_dim, device) },
            bert: TextEncoder::new(config, device),
            visual: VideoEncoder::new(config, device),
            cross: CrossEncoder::new(config, device),
            decoder: Decoder::new(config, device),
            cls: TiedHead::new(d_model, config.vocab_size, device),
            cls_visual: TiedHead::new(d_model, config.video_dim, device),
            similarity_dense: linear_layer(d_model, 1, device),
            margin: config.margin,
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
        let hidden = self.bert.forward(ids, padding_scores(pad.clone()), pass);
        Encoded { hidden, pad }
    }

    /// Encodes videos from their raw features.
    ///
    /// # Shapes
    ///
    /// - video: `[N, F, Dv]`; pad: `[N, F]`
    #[must_use]
    pub fn encode_video(&self, video: Tensor<3>, pad: Tensor<2, Bool>, pass: Pass) -> Encoded {
        self.encode_normalized(self.normalize(video), pad, pass)
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
        match kind {
            SimilarityKind::Joint => self.joint_similarity(text, video),
            SimilarityKind::Align => self.align_similarity(text, video, pass),
        }
    }

    /// The chosen losses, `[which.len()]`, each the mean over the batch, in the given order.
    ///
    /// Only what these losses need is computed, and shared where several need it. The batch may
    /// be with or without a tape; the result follows the parameters.
    ///
    /// A batch without masked words (or frames) has an `mlm` (or `mfm`) loss of 0.
    #[must_use]
    pub fn losses(&self, batch: &UniVlBatch, which: &[UniVlLoss], pass: Pass) -> Tensor<1> {
        self.run(batch, which, pass, None)
    }

    /// All eight losses and what lies on the way to them, in an evaluation pass.
    #[must_use]
    pub fn trace(&self, batch: &UniVlBatch) -> UniVlTrace {
        let mut trace = UniVlTrace { tensors: Vec::new() };
        let losses = self.run(batch, &UniVlLoss::ALL, Pass::Evaluation, Some(&mut trace));
        trace.push("losses", losses);
        trace
    }

    /// Encodes matched texts and videos for captioning: cross-encoder states and their scores.
    #[must_use]
    pub fn encode_for_captions(&self, text: &Encoded, video: &Encoded) -> CrossOutput {
        self.cross.forward(text.with_scores(), video.with_scores(), Pass::Evaluation)
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
        let [batch_size, length] = ids.dims();
        let logits = self.decoder.forward(
            ids,
            pad,
            (encoded.hidden.clone(), encoded.scores.clone()),
            self.tied_tables(),
            Pass::Evaluation,
        );
        let vocab_size = logits.dims()[1];
        logits.reshape([batch_size, length, vocab_size])
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
        let (tied, unexpected): (Vec<_>, Vec<_>) =
            report.unexpected.into_iter().partition(|key| {
                TIED.iter().any(|(name, alias)| {
                    alias == key && dict.get(*name).map(TensorData::as_bytes)
                        == dict.get(*alias).map(TensorData::as_bytes)
                })
            });
        report.applied.extend(tied);
        report.unexpected = unexpected;
        (model, report)
    }

    /// Replaces the word table, as for a start from known word vectors.
    ///
    /// # Panics
    ///
    /// Panics if the shape is not `[V, D]`.
    #[must_use]
    pub fn with_word_embeddings(mut self, table: Tensor<2>) -> Self {
        let weight = &mut self.bert.embeddings.word_embeddings.weight;
        assert_eq!(weight.val().dims(), table.dims(), "word table");
        *weight = weight.clone().map(|old| {
            let table = if old.is_autodiff() { table.autodiff() } else { table };
            table.set_require_grad(old.is_require_grad())
        });
        self
    }

    fn run(
        &self,
        batch: &UniVlBatch,
        which: &[UniVlLoss],
        pass: Pass,
        mut trace: Option<&mut UniVlTrace>,
    ) -> Tensor<1> {
        use UniVlLoss::{Align, Decoder, Joint, MAlign, MDecoder, MJoint, Mfm, Mlm};

        let device = self.device();
        pass.begin(&device);
        let batch = batch.clone().with_autodiff_of(&device);
        let wants = |losses: &[UniVlLoss]| which.iter().any(|loss| losses.contains(loss));
        let tracing = trace.is_some();
        let mut losses: Vec<Option<Tensor<1>>> = vec![None; UniVlLoss::ALL.len()];
        let zero = || Tensor::<1>::zeros([1], &device);
        let frames = self.normalize(batch.video.clone()); // [B, F, Dv]
        if let Some(trace) = trace.as_deref_mut() {
            trace.push("video_normalized", frames.clone());
        }

        if wants(&[Joint, Align, Decoder]) {
            let text = self.encode_text(batch.text_ids.clone(), batch.text_pad.clone(), pass);
            let video = self.encode_normalized(frames.clone(), batch.video_pad.clone(), pass);
            if let Some(trace) = trace.as_deref_mut() {
                trace.push("text_hidden", text.hidden.clone());
                trace.push("video_hidden", video.hidden.clone());
            }
            if wants(&[Joint]) {
                let similarity = self.joint_similarity(&text, &video);
                if let Some(trace) = trace.as_deref_mut() {
                    trace.push("sim_joint", similarity.clone());
                }
                losses[Joint as usize] = Some(max_margin(similarity, self.margin));
            }
            if wants(&[Align]) {
                let similarity = self.align_similarity(&text, &video, pass);
                if let Some(trace) = trace.as_deref_mut() {
                    trace.push("sim_align", similarity.clone());
                }
                losses[Align as usize] = Some(diagonal_cross_entropy(similarity));
            }
            if wants(&[Decoder]) {
                let cross = self.cross.forward(text.with_scores(), video.with_scores(), pass);
                if let Some(trace) = trace.as_deref_mut() {
                    trace.push("cross_hidden", cross.hidden.clone());
                    trace.push("cross_pooled", self.cross.pooled(cross.hidden.clone()));
                }
                let logits = self.caption_logits(&batch, cross, pass);
                if let Some(trace) = trace.as_deref_mut() {
                    self.push_caption_logits(trace, "decoder_logits", &batch, logits.clone());
                }
                losses[Decoder as usize] = Some(caption_loss(&batch, logits));
            }
        }

        if wants(&[Mlm, Mfm, MJoint, MAlign, MDecoder]) {
            let text =
                self.encode_text(batch.masked_text_ids.clone(), batch.text_pad.clone(), pass);
            let video =
                self.encode_video(batch.masked_video.clone(), batch.video_pad.clone(), pass);
            if let Some(trace) = trace.as_deref_mut() {
                trace.push("text_hidden_masked", text.hidden.clone());
                trace.push("video_hidden_masked", video.hidden.clone());
            }
            if wants(&[MJoint]) {
                let similarity = self.joint_similarity(&text, &video);
                if let Some(trace) = trace.as_deref_mut() {
                    trace.push("sim_joint_masked", similarity.clone());
                }
                losses[MJoint as usize] = Some(max_margin(similarity, self.margin));
            }
            if wants(&[MAlign]) {
                let similarity = self.align_similarity(&text, &video, pass);
                if let Some(trace) = trace.as_deref_mut() {
                    trace.push("sim_align_masked", similarity.clone());
                }
                losses[MAlign as usize] = Some(diagonal_cross_entropy(similarity));
            }
            if wants(&[Mlm, Mfm, MDecoder]) {
                let cross = self.cross.forward(text.with_scores(), video.with_scores(), pass);
                let [batch_size, length] = batch.text_ids.dims();
                let [_, n_frames, video_dim] = frames.dims();
                let d_model = cross.hidden.dims()[2];
                let text_part = || {
                    cross.hidden.clone().narrow(1, 0, length).reshape([batch_size * length, d_model])
                };
                let video_part = || {
                    cross
                        .hidden
                        .clone()
                        .narrow(1, length, n_frames)
                        .reshape([batch_size * n_frames, d_model])
                };
                if let Some(trace) = trace.as_deref_mut() {
                    trace.push("cross_hidden_masked", cross.hidden.clone());
                    trace.push("cross_pooled_masked", self.cross.pooled(cross.hidden.clone()));
                }
                if wants(&[Mlm]) {
                    let loss = if batch.predict_words.is_empty() {
                        zero()
                    } else {
                        let at = index_tensor(&batch.predict_words, &device);
                        let logits =
                            self.cls.words(text_part().select(0, at), self.tied_tables().words);
                        cross_entropy(logits, index_tensor(&batch.word_targets, &device))
                    };
                    losses[Mlm as usize] = Some(loss);
                }
                if wants(&[Mfm]) {
                    let loss = if batch.predict_frames.is_empty() {
                        zero()
                    } else {
                        let at = index_tensor(&batch.predict_frames, &device);
                        let scores = self
                            .cls_visual
                            .frames(video_part().select(0, at.clone()), self.frame_embedding());
                        masked_frame_loss(
                            scores,
                            frames.clone().reshape([batch_size * n_frames, video_dim]),
                            batch.video_pad.clone().reshape([batch_size * n_frames]),
                            at,
                        )
                    };
                    losses[Mfm as usize] = Some(loss);
                }
                if let Some(trace) = trace.as_deref_mut().filter(|_| tracing) {
                    let logits = self.cls.words(text_part(), self.tied_tables().words);
                    let vocab_size = logits.dims()[1];
                    trace.push("mlm_logits", logits.reshape([batch_size, length, vocab_size]));
                    let scores = self.cls_visual.frames(video_part(), self.frame_embedding());
                    trace.push("mfm_scores", scores.reshape([batch_size, n_frames, video_dim]));
                }
                if wants(&[MDecoder]) {
                    let logits = self.caption_logits(&batch, cross, pass);
                    if let Some(trace) = trace {
                        self.push_caption_logits(
                            trace,
                            "decoder_logits_masked",
                            &batch,
                            logits.clone(),
                        );
                    }
                    losses[MDecoder as usize] = Some(caption_loss(&batch, logits));
                }
            }
        }

        let chosen = which
            .iter()
            .map(|loss| losses[*loss as usize].clone().unwrap_or_else(zero))
            .collect();
        Tensor::cat(chosen, 0)
    }

    fn normalize(&self, video: Tensor<3>) -> Tensor<3> {
        self.normalize_video.visual_norm2d.forward(video)
    }

    fn encode_normalized(&self, video: Tensor<3>, pad: Tensor<2, Bool>, pass: Pass) -> Encoded {
        let hidden = self.visual.forward(video, padding_scores(pad.clone()), pass);
        Encoded { hidden, pad }
    }

    /// Cosine similarity of mean-pooled encodings, `[Nt, Nv]`; `[CLS]` is left out of the mean.
    fn joint_similarity(&self, text: &Encoded, video: &Encoded) -> Tensor<2> {
        let [n_texts, length] = text.pad.dims();
        let keep = text.pad.clone().bool_not().float();
        let words = Tensor::cat(
            vec![keep.clone().narrow(1, 0, 1).zeros_like(), keep.narrow(1, 1, length - 1)],
            1,
        );
        debug_assert_eq!(words.dims(), [n_texts, length]);
        let text = normalized(mean_pool(text.hidden.clone(), words));
        let frames = video.pad.clone().bool_not().float();
        let video = normalized(mean_pool(video.hidden.clone(), frames));
        text.matmul(video.transpose())
    }

    /// Cross-encoder similarity of all pairs, `[Nt, Nv]`.
    fn align_similarity(&self, text: &Encoded, video: &Encoded, pass: Pass) -> Tensor<2> {
        let [n_texts, _] = text.pad.dims();
        let [n_videos, _] = video.pad.dims();
        let pooled = self.cross.pooled_pairs(text.with_scores(), video.with_scores(), pass);
        linear2(&self.similarity_dense, pooled).reshape([n_texts, n_videos])
    }

    fn caption_logits(&self, batch: &UniVlBatch, cross: CrossOutput, pass: Pass) -> Tensor<2> {
        self.decoder.forward(
            batch.decoder_input_ids.clone(),
            batch.decoder_pad.clone(),
            (cross.hidden, cross.scores),
            self.tied_tables(),
            pass,
        )
    }

    fn push_caption_logits(
        &self,
        trace: &mut UniVlTrace,
        name: &str,
        batch: &UniVlBatch,
        logits: Tensor<2>,
    ) {
        let [batch_size, length] = batch.decoder_input_ids.dims();
        let vocab_size = logits.dims()[1];
        trace.push(name, logits.reshape([batch_size, length, vocab_size]));
    }

    fn tied_tables(&self) -> TiedTables {
        TiedTables {
            words: self.bert.embeddings.word_embeddings.weight.val(),
            positions: self.bert.embeddings.position_embeddings.weight.val(),
        }
    }

    /// `[Dv, D]`
    fn frame_embedding(&self) -> Tensor<2> {
        self.visual.embeddings.word_embeddings.weight.val()
    }
}

/// Cross entropy over all positions; padded ones count, with target `[PAD]`, as published.
fn caption_loss(batch: &UniVlBatch, logits: Tensor<2>) -> Tensor<1> {
    let [batch_size, length] = batch.decoder_target_ids.dims();
    cross_entropy(logits, batch.decoder_target_ids.clone().reshape([batch_size * length]))
}

/// Mean over the positions where `keep` `[N, L]` is 1; a row without any gives zeros.
fn mean_pool(hidden: Tensor<3>, keep: Tensor<2>) -> Tensor<2> {
    let [n_items, length, d_model] = hidden.dims();
    let count = keep.clone().sum_dim(1).clamp_min(1.0); // [N, 1]
    let sum = keep.reshape([n_items, 1, length]).matmul(hidden).reshape([n_items, d_model]);
    sum / count
}

/// Rows scaled to unit length.
fn normalized(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    x / norm
}

/// Published name of a field path.
fn published_name(path: &str) -> String {
    path.replace("self_attention.", "self.").replace("layer_norm.", "LayerNorm.")
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
        assert_eq!(report.unexpected, vec!["cls.predictions.decoder.weight", "similarity.bias"]);
    }
}
