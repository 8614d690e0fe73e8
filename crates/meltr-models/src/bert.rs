//! Post-norm BERT layers and the encoders of text and video.

use burn::module::Module;
use burn::nn::{Embedding, LayerNorm, Linear};
use burn::tensor::activation::tanh;
use burn::tensor::{Device, Int, Tensor};
use meltr_core::{Pass, dropout};

use crate::attention::{Attention, ResidualOutput};
use crate::layers::{
    embedding_layer, gelu_exact, linear_layer, linear2, linear3, look_up, norm_layer,
};
use crate::univl_config::UniVlConfig;

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

/// One layer: self-attention, then feed-forward, each with residual and normalisation.
#[derive(Module, Debug)]
pub(crate) struct BertLayer {
    attention: SelfAttention,
    intermediate: Intermediate,
    output: ResidualOutput,
}

impl BertLayer {
    fn new(config: &UniVlConfig, device: &Device) -> Self {
        let d_model = config.d_model;
        Self {
            attention: SelfAttention {
                self_attention: Attention::new(d_model, config.n_heads, config.dropout, device),
                output: ResidualOutput::new(d_model, d_model, config.dropout, device),
            },
            intermediate: Intermediate { dense: linear_layer(d_model, config.d_ff, device) },
            output: ResidualOutput::new(config.d_ff, d_model, config.dropout, device),
        }
    }

    /// `[B, L, D]` to `[B, L, D]`.
    fn forward(&self, x: Tensor<3>, scores: Tensor<4>, pass: Pass) -> Tensor<3> {
        let attended = self.attention.self_attention.forward(x.clone(), x.clone(), scores, pass);
        let x = self.attention.output.forward(attended, x, pass);
        self.feed_forward(x, pass)
    }

    /// The layer's output at position 0 only, `[B, 1, D]`: the other positions are keys and
    /// values, but nobody asks for their outputs.
    fn forward_first(&self, x: Tensor<3>, scores: Tensor<4>, pass: Pass) -> Tensor<3> {
        let first = x.clone().narrow(1, 0, 1);
        let attended = self.attention.self_attention.forward(first.clone(), x, scores, pass);
        let first = self.attention.output.forward(attended, first, pass);
        self.feed_forward(first, pass)
    }

    /// As [`forward_first`](Self::forward_first) for all pairs of texts and videos: `[Bt * Bv, D]`.
    fn forward_first_pairwise(
        &self,
        text: (Tensor<3>, Tensor<4>),
        video: (Tensor<3>, Tensor<4>),
        pass: Pass,
    ) -> Tensor<2> {
        let [n_texts, _, d_model] = text.0.dims();
        let n_videos = video.0.dims()[0];
        let n_pairs = n_texts * n_videos;
        let first = text.0.clone().narrow(1, 0, 1);
        let residual =
            first.clone().expand([n_texts, n_videos, d_model]).reshape([n_pairs, 1, d_model]);
        let attended = self
            .attention
            .self_attention
            .pairwise(first, text, video, pass)
            .reshape([n_pairs, 1, d_model]);
        let x = self.attention.output.forward(attended, residual, pass);
        self.feed_forward(x, pass).reshape([n_pairs, d_model])
    }

    fn feed_forward(&self, x: Tensor<3>, pass: Pass) -> Tensor<3> {
        let hidden = gelu_exact(linear3(&self.intermediate.dense, x.clone()));
        self.output.forward(hidden, x, pass)
    }
}

/// A stack of layers.
#[derive(Module, Debug)]
pub(crate) struct BertEncoder {
    layer: Vec<BertLayer>,
}

impl BertEncoder {
    pub(crate) fn new(n_layers: usize, config: &UniVlConfig, device: &Device) -> Self {
        Self { layer: (0..n_layers).map(|_| BertLayer::new(config, device)).collect() }
    }

    pub(crate) fn forward(&self, x: Tensor<3>, scores: Tensor<4>, pass: Pass) -> Tensor<3> {
        self.layer.iter().fold(x, |x, layer| layer.forward(x, scores.clone(), pass))
    }

    /// Output at position 0 for all pairs of texts and videos, `[Bt * Bv, D]`, text-major.
    ///
    /// - text: `[Bt, L, D]` and scores `[Bt, 1, 1, L]`; video: `[Bv, F, D]` and `[Bv, 1, 1, F]`
    ///
    /// Equal to running every concatenated pair through the stack. With one layer nothing of the
    /// size of a pair's tokens is ever built; with more, all layers but the last run on full
    /// pairs.
    pub(crate) fn forward_first_pairwise(
        &self,
        text: (Tensor<3>, Tensor<4>),
        video: (Tensor<3>, Tensor<4>),
        pass: Pass,
    ) -> Tensor<2> {
        let [n_texts, length, d_model] = text.0.dims();
        let [n_videos, n_frames, _] = video.0.dims();
        match self.layer.as_slice() {
            [] => text
                .0
                .narrow(1, 0, 1)
                .expand([n_texts, n_videos, d_model])
                .reshape([n_texts * n_videos, d_model]),
            [only] => only.forward_first_pairwise(text, video, pass),
            [before @ .., last] => {
                let n_pairs = n_texts * n_videos;
                let total = length + n_frames;
                let pairs = Tensor::cat(
                    vec![
                        text.0.unsqueeze_dim::<4>(1).expand([n_texts, n_videos, length, d_model]),
                        video.0.unsqueeze_dim::<4>(0).expand([
                            n_texts, n_videos, n_frames, d_model,
                        ]),
                    ],
                    2,
                )
                .reshape([n_pairs, total, d_model]);
                let scores = Tensor::cat(
                    vec![
                        text.1
                            .reshape([n_texts, 1, 1, length])
                            .expand([n_texts, n_videos, 1, length]),
                        video
                            .1
                            .reshape([1, n_videos, 1, n_frames])
                            .expand([n_texts, n_videos, 1, n_frames]),
                    ],
                    3,
                )
                .reshape([n_pairs, 1, 1, total]);
                let x = before
                    .iter()
                    .fold(pairs, |x, layer| layer.forward(x, scores.clone(), pass));
                last.forward_first(x, scores, pass).reshape([n_pairs, d_model])
            }
        }
    }
}

/// `tanh` of a linear map of the first token.
#[derive(Module, Debug)]
pub(crate) struct Pooler {
    pub(crate) dense: Linear,
}

impl Pooler {
    pub(crate) fn new(d_model: usize, device: &Device) -> Self {
        Self { dense: linear_layer(d_model, d_model, device) }
    }

    /// `[rows, D]` first tokens to `[rows, D]`.
    pub(crate) fn forward(&self, first: Tensor<2>) -> Tensor<2> {
        tanh(linear2(&self.dense, first))
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
            embeddings: TextEmbeddings {
                word_embeddings: embedding_layer(config.vocab_size, d_model, device),
                position_embeddings: embedding_layer(config.max_text_positions, d_model, device),
                token_type_embeddings: embedding_layer(2, d_model, device),
                layer_norm: norm_layer(d_model, device),
                dropout: config.dropout,
            },
            encoder: BertEncoder::new(config.text_layers, config, device),
            pooler: Pooler::new(d_model, device),
        }
    }

    /// `[B, L]` ids and scores `[B, 1, 1, L]` to `[B, L, D]`.
    pub(crate) fn forward(&self, ids: Tensor<2, Int>, scores: Tensor<4>, pass: Pass) -> Tensor<3> {
        let [_, length] = ids.dims();
        let embeddings = &self.embeddings;
        let words = look_up(embeddings.word_embeddings.weight.val(), ids);
        let positions = embeddings.position_embeddings.weight.val().narrow(0, 0, length);
        // All text is of type 0.
        let kind = embeddings.token_type_embeddings.weight.val().narrow(0, 0, 1);
        let x = embeddings.layer_norm.forward(words + (positions + kind).unsqueeze());
        self.encoder.forward(dropout(x, embeddings.dropout, pass), scores, pass)
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

    /// `[B, F, Dv]` normalised features and scores `[B, 1, 1, F]` to `[B, F, D]`.
    pub(crate) fn forward(&self, video: Tensor<3>, scores: Tensor<4>, pass: Pass) -> Tensor<3> {
        let [_, n_frames, _] = video.dims();
        let embeddings = &self.embeddings;
        let frames = linear3(&embeddings.word_embeddings, video);
        let positions = embeddings.position_embeddings.weight.val().narrow(0, 0, n_frames);
        let x = embeddings.layer_norm.forward(frames + positions.unsqueeze());
        self.encoder.forward(dropout(x, embeddings.dropout, pass), scores, pass)
    }
}
