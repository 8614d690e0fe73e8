//! The cross encoder over concatenated text and video tokens.

use burn::module::Module;
use burn::nn::{Embedding, LayerNorm};
use burn::tensor::{Device, Int, Tensor};
use meltr_core::{Pass, dropout};

use crate::bert::{BertEncoder, Pooler};
use crate::layers::{embedding_layer, norm_layer};
use crate::univl_config::UniVlConfig;

#[derive(Module, Debug)]
struct CrossEmbeddings {
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    layer_norm: LayerNorm,
    dropout: f64,
}

/// What the cross encoder yields for matched texts and videos.
#[derive(Debug, Clone)]
pub struct CrossOutput {
    /// Hidden states, text first, `[B, L + F, D]`.
    pub hidden: Tensor<3>,
    /// Additive scores of the concatenated padding, `[B, 1, 1, L + F]`.
    pub scores: Tensor<4>,
}

impl CrossOutput {
    /// The rows of `items`, `[rows]`, in that order; rows may repeat.
    #[must_use]
    pub fn select(&self, items: Tensor<1, Int>) -> Self {
        Self {
            hidden: self.hidden.clone().select(0, items.clone()),
            scores: self.scores.clone().select(0, items),
        }
    }
}

/// A BERT stack over text tokens (type 0) followed by video tokens (type 1).
#[derive(Module, Debug)]
pub struct CrossEncoder {
    embeddings: CrossEmbeddings,
    encoder: BertEncoder,
    pooler: Pooler,
}

impl CrossEncoder {
    pub(crate) fn new(config: &UniVlConfig, device: &Device) -> Self {
        let d_model = config.d_model;
        Self {
            embeddings: CrossEmbeddings {
                position_embeddings: embedding_layer(config.max_cross_positions, d_model, device),
                token_type_embeddings: embedding_layer(2, d_model, device),
                layer_norm: norm_layer(d_model, device),
                dropout: config.dropout,
            },
            encoder: BertEncoder::new(config.cross_layers, config, device),
            pooler: Pooler::new(d_model, device),
        }
    }

    /// Text `[B, L, D]` with scores `[B, 1, 1, L]`, video `[B, F, D]` with `[B, 1, 1, F]`.
    pub(crate) fn forward(
        &self,
        text: (Tensor<3>, Tensor<4>),
        video: (Tensor<3>, Tensor<4>),
        pass: Pass,
    ) -> CrossOutput {
        let length = text.0.dims()[1];
        let x = Tensor::cat(
            vec![self.embed(text.0, 0, 0, pass), self.embed(video.0, length, 1, pass)],
            1,
        );
        let scores = Tensor::cat(vec![text.1, video.1], 3);
        CrossOutput { hidden: self.encoder.forward(x, scores.clone(), pass), scores }
    }

    /// The pooled first token of every pair of texts `[Bt, ..]` and videos `[Bv, ..]`:
    /// `[Bt * Bv, D]`, text-major.
    ///
    /// An input token does not depend on its partner, so tokens are embedded once per text and
    /// once per video; dropout masks of the embeddings are shared by an item's pairs, where the
    /// released code draws one per pair.
    pub(crate) fn pooled_pairs(
        &self,
        text: (Tensor<3>, Tensor<4>),
        video: (Tensor<3>, Tensor<4>),
        pass: Pass,
    ) -> Tensor<2> {
        let length = text.0.dims()[1];
        let text = (self.embed(text.0, 0, 0, pass), text.1);
        let video = (self.embed(video.0, length, 1, pass), video.1);
        self.pooler.forward(self.encoder.forward_first_pairwise(text, video, pass))
    }

    /// The pooled first token of matched pairs, `[B, D]`.
    pub(crate) fn pooled(&self, hidden: Tensor<3>) -> Tensor<2> {
        let [batch_size, _, d_model] = hidden.dims();
        self.pooler.forward(hidden.narrow(1, 0, 1).reshape([batch_size, d_model]))
    }

    fn embed(&self, x: Tensor<3>, offset: usize, kind: usize, pass: Pass) -> Tensor<3> {
        let length = x.dims()[1];
        let embeddings = &self.embeddings;
        let positions = embeddings.position_embeddings.weight.val().narrow(0, offset, length);
        let kind = embeddings.token_type_embeddings.weight.val().narrow(0, kind, 1);
        let x = embeddings.layer_norm.forward(x + (positions + kind).unsqueeze());
        dropout(x, embeddings.dropout, pass)
    }
}
