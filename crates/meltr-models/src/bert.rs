//! Post-norm BERT layers and the encoders of text and video.

use std::ops::Add;

use burn::module::Module;
use burn::nn::{Embedding, LayerNorm, Linear};
use burn::tensor::{Device, Int, Tensor};
use meltr_core::{Dual, Pass, Weights};

use crate::attention::{Attention, Masked, ResidualOutput, all_pairs};
use crate::layers::{embedding_layer, linear_layer, linear3, look_up, norm, norm_layer, positions};
use crate::univl_config::UniVlConfig;

/// Sizes of a post-norm layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerSizes {
    pub(crate) d_model: usize,
    pub(crate) n_heads: usize,
    pub(crate) d_ff: usize,
    pub(crate) dropout: f64,
}

impl From<&UniVlConfig> for LayerSizes {
    fn from(config: &UniVlConfig) -> Self {
        Self {
            d_model: config.d_model,
            n_heads: config.n_heads,
            d_ff: config.d_ff,
            dropout: config.dropout,
        }
    }
}

/// Self-attention with its residual.
#[derive(Module, Debug)]
pub(crate) struct SelfAttention {
    /// Published as `self`.
    pub(crate) self_attention: Attention,
    pub(crate) output: ResidualOutput,
}

/// First half of the feed-forward block.
#[derive(Module, Debug)]
pub(crate) struct Intermediate {
    pub(crate) dense: Linear,
}

/// One layer: self-attention, then feed-forward, each with residual and normalization.
#[derive(Module, Debug)]
pub(crate) struct BertLayer {
    attention: SelfAttention,
    intermediate: Intermediate,
    output: ResidualOutput,
}

impl BertLayer {
    fn new(sizes: LayerSizes, device: &Device) -> Self {
        let LayerSizes {
            d_model,
            n_heads,
            d_ff,
            dropout,
        } = sizes;
        Self {
            attention: SelfAttention {
                self_attention: Attention::new(d_model, n_heads, dropout, device),
                output: ResidualOutput::new(d_model, d_model, dropout, device),
            },
            intermediate: Intermediate {
                dense: linear_layer(d_model, d_ff, device),
            },
            output: ResidualOutput::new(d_ff, d_model, dropout, device),
        }
    }

    /// `[B, L, D]` to `[B, L, D]`.
    fn forward(weights: Weights<'_, Self>, x: Dual<3>, scores: Tensor<4>, pass: Pass) -> Dual<3> {
        let own = weights.of(|own| &own.attention.self_attention);
        let attended = Attention::forward(own, x.clone(), x.clone(), scores, pass);
        Self::behind_attention(weights, attended, x, pass)
    }

    /// The layer's output at position 0 only, `[B, 1, D]`: the other positions are keys and
    /// values, but nobody asks for their outputs.
    fn forward_first(
        weights: Weights<'_, Self>,
        x: Dual<3>,
        scores: Tensor<4>,
        pass: Pass,
    ) -> Dual<3> {
        let first = x.clone().map_linear(|x| x.narrow(1, 0, 1));
        let own = weights.of(|own| &own.attention.self_attention);
        let attended = Attention::forward_one(own, first.clone(), x, scores, pass);
        Self::behind_attention(weights, attended, first, pass)
    }

    /// All pairs of texts `[Bt, L, D]` and videos `[Bv, F, D]` to `[Bt * Bv, L + F, D]`.
    fn forward_pairs(
        weights: Weights<'_, Self>,
        texts: Dual<3>,
        videos: Dual<3>,
        scores: Tensor<4>,
        pass: Pass,
    ) -> Dual<3> {
        let own = weights.of(|own| &own.attention.self_attention);
        let (text, video) = (texts.clone(), videos.clone());
        let attended = Attention::forward_pairs(own, text, video, scores, pass);
        Self::behind_attention(weights, attended, all_pairs(texts, videos), pass)
    }

    /// What follows attention: its output map, then feed-forward.
    fn behind_attention(
        weights: Weights<'_, Self>,
        attended: Dual<3>,
        residual: Dual<3>,
        pass: Pass,
    ) -> Dual<3> {
        let output = weights.of(|own| &own.attention.output);
        let x = ResidualOutput::forward(output, attended, residual, pass);
        Self::feed_forward(weights, x, pass)
    }

    /// As [`forward_first`](Self::forward_first) for all pairs of texts and videos: `[Bt * Bv, D]`.
    fn forward_first_pairwise(
        weights: Weights<'_, Self>,
        text: Masked,
        video: Masked,
        pass: Pass,
    ) -> Dual<2> {
        let [n_texts, _, d_model] = text.hidden.dims();
        let n_videos = video.hidden.dims()[0];
        let n_pairs = n_texts * n_videos;
        let first = text.hidden.clone().map_linear(|x| x.narrow(1, 0, 1));
        let residual = first.clone().map_linear(|x| {
            x.expand([n_texts, n_videos, d_model])
                .reshape([n_pairs, 1, d_model])
        });
        let own = weights.of(|own| &own.attention.self_attention);
        let attended = Attention::pairwise(own, first, text, video, pass)
            .map_linear(|x| x.reshape([n_pairs, 1, d_model]));
        Self::behind_attention(weights, attended, residual, pass)
            .map_linear(|x| x.reshape([n_pairs, d_model]))
    }

    fn feed_forward(weights: Weights<'_, Self>, x: Dual<3>, pass: Pass) -> Dual<3> {
        let dense = weights.of(|own| &own.intermediate).of(|own| &own.dense);
        let hidden = linear3(dense, x.clone()).gelu();
        ResidualOutput::forward(weights.of(|own| &own.output), hidden, x, pass)
    }
}

/// A stack of layers.
#[derive(Module, Debug)]
pub(crate) struct BertEncoder {
    layer: Vec<BertLayer>,
}

impl BertEncoder {
    pub(crate) fn new(n_layers: usize, sizes: impl Into<LayerSizes>, device: &Device) -> Self {
        let sizes = sizes.into();
        Self {
            layer: (0..n_layers)
                .map(|_| BertLayer::new(sizes, device))
                .collect(),
        }
    }

    pub(crate) fn forward(weights: Weights<'_, Self>, x: Masked, pass: Pass) -> Dual<3> {
        weights
            .of(|own| &own.layer)
            .iter()
            .fold(x.hidden, |hidden, layer| {
                BertLayer::forward(layer, hidden, x.scores.clone(), pass)
            })
    }

    /// Output at position 0, `[B, D]`: of the last layer nothing else is computed.
    pub(crate) fn forward_first(weights: Weights<'_, Self>, x: Masked, pass: Pass) -> Dual<2> {
        let [batch_size, _, d_model] = x.hidden.dims();
        let mut layers = weights.of(|own| &own.layer).iter();
        let last = layers.next_back();
        let hidden = layers.fold(x.hidden, |hidden, layer| {
            BertLayer::forward(layer, hidden, x.scores.clone(), pass)
        });
        let first = match last {
            Some(last) => BertLayer::forward_first(last, hidden, x.scores, pass),
            None => hidden.map_linear(|x| x.narrow(1, 0, 1)),
        };
        first.map_linear(|x| x.reshape([batch_size, d_model]))
    }

    /// Output at position 0 for all pairs of texts and videos, `[Bt * Bv, D]`, text-major.
    ///
    /// Equal to running every concatenated pair through the stack. With one layer nothing of the
    /// size of a pair's tokens is ever built; with more, all layers but the last run on full
    /// pairs, of which the first projects texts and videos before they meet.
    pub(crate) fn forward_first_pairwise(
        weights: Weights<'_, Self>,
        text: Masked,
        video: Masked,
        pass: Pass,
    ) -> Dual<2> {
        let [n_texts, length, d_model] = text.hidden.dims();
        let [n_videos, n_frames, _] = video.hidden.dims();
        let n_pairs = n_texts * n_videos;
        let total = length + n_frames;
        let mut layers = weights.of(|own| &own.layer).iter();
        let Some(last) = layers.next_back() else {
            return text.hidden.map_linear(|x| {
                x.narrow(1, 0, 1)
                    .expand([n_texts, n_videos, d_model])
                    .reshape([n_pairs, d_model])
            });
        };
        let Some(first) = layers.next() else {
            return BertLayer::forward_first_pairwise(last, text, video, pass);
        };
        let scores = Tensor::cat(
            vec![
                text.scores
                    .reshape([n_texts, 1, 1, length])
                    .expand([n_texts, n_videos, 1, length]),
                video
                    .scores
                    .reshape([1, n_videos, 1, n_frames])
                    .expand([n_texts, n_videos, 1, n_frames]),
            ],
            3,
        )
        .reshape([n_pairs, 1, 1, total]);
        let pairs =
            BertLayer::forward_pairs(first, text.hidden, video.hidden, scores.clone(), pass);
        let x = layers.fold(pairs, |x, layer| {
            BertLayer::forward(layer, x, scores.clone(), pass)
        });
        BertLayer::forward_first(last, x, scores, pass)
            .map_linear(|x| x.reshape([n_pairs, d_model]))
    }
}

/// `tanh` of a linear map of the first token.
#[derive(Module, Debug)]
pub(crate) struct Pooler {
    pub(crate) dense: Linear,
}

impl Pooler {
    pub(crate) fn new(d_model: usize, device: &Device) -> Self {
        Self {
            dense: linear_layer(d_model, d_model, device),
        }
    }

    /// `[rows, D]` first tokens to `[rows, D]`.
    pub(crate) fn forward(weights: Weights<'_, Self>, first: Dual<2>) -> Dual<2> {
        weights.of(|own| &own.dense).apply(first).tanh()
    }
}

/// Word, position and token type embeddings of text.
#[derive(Module, Debug)]
pub(crate) struct TextEmbeddings {
    pub(crate) word_embeddings: Embedding,
    pub(crate) position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    layer_norm: LayerNorm,
    dropout: f64,
}

impl TextEmbeddings {
    pub(crate) fn new(
        vocab_size: usize,
        max_positions: usize,
        d_model: usize,
        dropout: f64,
        device: &Device,
    ) -> Self {
        Self {
            word_embeddings: embedding_layer(vocab_size, d_model, device),
            position_embeddings: embedding_layer(max_positions, d_model, device),
            token_type_embeddings: embedding_layer(2, d_model, device),
            layer_norm: norm_layer(d_model, device),
            dropout,
        }
    }

    /// `[B, L]` ids to `[B, L, D]`; all text is of type 0.
    pub(crate) fn forward(weights: Weights<'_, Self>, ids: Tensor<2, Int>, pass: Pass) -> Dual<3> {
        let [_, length] = ids.dims();
        let table = |part: Weights<'_, Embedding>| part.of(|own| &own.weight).dual();
        let words = look_up(table(weights.of(|own| &own.word_embeddings)), ids);
        let places = positions(table(weights.of(|own| &own.position_embeddings)), 0, length);
        let kind = positions(table(weights.of(|own| &own.token_type_embeddings)), 0, 1);
        let x = norm(
            weights.of(|own| &own.layer_norm),
            words.add(places.add(kind)),
        );
        x.dropout(weights.value.dropout, pass)
    }
}

/// The text encoder: BERT.
#[derive(Module, Debug)]
pub(crate) struct TextEncoder {
    pub(crate) embeddings: TextEmbeddings,
    pub(crate) encoder: BertEncoder,
    pooler: Pooler,
}

impl TextEncoder {
    pub(crate) fn new(config: &UniVlConfig, device: &Device) -> Self {
        let d_model = config.d_model;
        Self {
            embeddings: TextEmbeddings::new(
                config.vocab_size,
                config.max_text_positions,
                d_model,
                config.dropout,
                device,
            ),
            encoder: BertEncoder::new(config.text_layers, config, device),
            pooler: Pooler::new(d_model, device),
        }
    }

    /// `[B, L]` ids and scores `[B, 1, 1, L]` to `[B, L, D]`.
    pub(crate) fn forward(
        weights: Weights<'_, Self>,
        ids: Tensor<2, Int>,
        scores: Tensor<4>,
        pass: Pass,
    ) -> Dual<3> {
        let hidden = TextEmbeddings::forward(weights.of(|own| &own.embeddings), ids, pass);
        BertEncoder::forward(
            weights.of(|own| &own.encoder),
            Masked { hidden, scores },
            pass,
        )
    }
}

/// Linear embedding of frame features and positions.
#[derive(Module, Debug)]
pub(crate) struct VideoEmbeddings {
    /// Maps features to tokens; its name is the published one.
    pub(crate) word_embeddings: Linear,
    position_embeddings: Embedding,
    layer_norm: LayerNorm,
    dropout: f64,
}

/// The video encoder: a transformer over frame features.
#[derive(Module, Debug)]
pub(crate) struct VideoEncoder {
    pub(crate) embeddings: VideoEmbeddings,
    encoder: BertEncoder,
    pooler: Pooler,
}

impl VideoEncoder {
    pub(crate) fn new(config: &UniVlConfig, device: &Device) -> Self {
        let d_model = config.d_model;
        Self {
            embeddings: VideoEmbeddings {
                word_embeddings: linear_layer(config.video_dim, d_model, device),
                position_embeddings: embedding_layer(config.max_video_positions, d_model, device),
                layer_norm: norm_layer(d_model, device),
                dropout: config.dropout,
            },
            encoder: BertEncoder::new(config.visual_layers, config, device),
            pooler: Pooler::new(d_model, device),
        }
    }

    /// `[B, F, Dv]` normalized features and scores `[B, 1, 1, F]` to `[B, F, D]`.
    pub(crate) fn forward(
        weights: Weights<'_, Self>,
        video: Dual<3>,
        scores: Tensor<4>,
        pass: Pass,
    ) -> Dual<3> {
        let [_, n_frames, _] = video.dims();
        let embeddings = weights.of(|own| &own.embeddings);
        let frames = linear3(embeddings.of(|own| &own.word_embeddings), video);
        let table = embeddings
            .of(|own| &own.position_embeddings)
            .of(|own| &own.weight)
            .dual();
        let x = frames.add(positions(table, 0, n_frames));
        let x = norm(embeddings.of(|own| &own.layer_norm), x);
        let hidden = x.dropout(embeddings.value.dropout, pass);
        BertEncoder::forward(
            weights.of(|own| &own.encoder),
            Masked { hidden, scores },
            pass,
        )
    }
}
