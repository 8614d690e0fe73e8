//! The cross encoder over concatenated text and video tokens.

use std::ops::Add;

use burn::module::Module;
use burn::nn::{Embedding, LayerNorm};
use burn::tensor::{Device, Int, Tensor};
use meltr_core::{Dual, Pass, Weights};

use crate::attention::Masked;
use crate::bert::{BertEncoder, Pooler};
use crate::layers::{embedding_layer, norm, norm_layer, positions};
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
    pub hidden: Dual<3>,
    /// Additive scores of the concatenated padding, `[B, 1, 1, L + F]`.
    pub scores: Tensor<4>,
}

impl CrossOutput {
    /// The rows of `items`, `[rows]`, in that order; rows may repeat.
    #[must_use]
    pub fn select(&self, items: Tensor<1, Int>) -> Self {
        Self {
            hidden: self
                .hidden
                .clone()
                .map_linear(|x| x.select(0, items.clone())),
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

    /// Matched texts and videos, `B` of each.
    pub(crate) fn forward(
        weights: Weights<'_, Self>,
        text: Masked,
        video: Masked,
        pass: Pass,
    ) -> CrossOutput {
        let length = text.hidden.dims()[1];
        let tokens = vec![
            Self::embed(weights, text.hidden, 0, 0, pass),
            Self::embed(weights, video.hidden, length, 1, pass),
        ];
        let scores = Tensor::cat(vec![text.scores, video.scores], 3);
        let x = Masked {
            hidden: Dual::cat(tokens, 1),
            scores: scores.clone(),
        };
        CrossOutput {
            hidden: BertEncoder::forward(weights.of(|own| &own.encoder), x, pass),
            scores,
        }
    }

    /// The pooled first token of every pair of texts `[Bt, ..]` and videos `[Bv, ..]`:
    /// `[Bt * Bv, D]`, text-major.
    ///
    /// An input token does not depend on its partner, so tokens are embedded once per text and
    /// once per video; dropout masks of the embeddings are shared by an item's pairs, where the
    /// released code draws one per pair.
    pub(crate) fn pooled_pairs(
        weights: Weights<'_, Self>,
        text: Masked,
        video: Masked,
        pass: Pass,
    ) -> Dual<2> {
        let length = text.hidden.dims()[1];
        let text = Masked {
            hidden: Self::embed(weights, text.hidden, 0, 0, pass),
            scores: text.scores,
        };
        let video = Masked {
            hidden: Self::embed(weights, video.hidden, length, 1, pass),
            scores: video.scores,
        };
        let encoder = weights.of(|own| &own.encoder);
        let first = BertEncoder::forward_first_pairwise(encoder, text, video, pass);
        Pooler::forward(weights.of(|own| &own.pooler), first)
    }

    /// The pooled first token of matched pairs, `[B, D]`.
    pub(crate) fn pooled(weights: Weights<'_, Self>, hidden: Dual<3>) -> Dual<2> {
        let [batch_size, _, d_model] = hidden.dims();
        let first = hidden.map_linear(|x| x.narrow(1, 0, 1).reshape([batch_size, d_model]));
        Pooler::forward(weights.of(|own| &own.pooler), first)
    }

    fn embed(
        weights: Weights<'_, Self>,
        x: Dual<3>,
        offset: usize,
        kind: usize,
        pass: Pass,
    ) -> Dual<3> {
        let length = x.dims()[1];
        let embeddings = weights.of(|own| &own.embeddings);
        let places = embeddings
            .of(|own| &own.position_embeddings)
            .of(|own| &own.weight)
            .dual();
        let kinds = embeddings
            .of(|own| &own.token_type_embeddings)
            .of(|own| &own.weight)
            .dual();
        let place = positions(places, offset, length).add(positions(kinds, kind, 1));
        let x = norm(embeddings.of(|own| &own.layer_norm), x.add(place));
        x.dropout(embeddings.value.dropout, pass)
    }
}
