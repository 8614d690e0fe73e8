//! The caption decoder.

use std::ops::Add;

use burn::module::Module;
use burn::nn::LayerNorm;
use burn::tensor::{Bool, Device, Int, Tensor};
use meltr_core::{Dual, Pass, Weights};

use crate::attention::{Attention, ResidualOutput};
use crate::bert::Intermediate;
use crate::cross::CrossOutput;
use crate::heads::TiedHead;
use crate::layers::{MASKED_SCORE, linear_layer, linear3, look_up, norm, norm_layer, positions};
use crate::univl_config::UniVlConfig;

#[derive(Module, Debug)]
struct DecoderAttention {
    att: Attention,
    output: ResidualOutput,
}

impl DecoderAttention {
    fn new(config: &UniVlConfig, device: &Device) -> Self {
        let d_model = config.d_model;
        Self {
            att: Attention::new(d_model, config.n_heads, config.dropout, device),
            output: ResidualOutput::new(d_model, d_model, config.dropout, device),
        }
    }

    fn forward(
        weights: Weights<'_, Self>,
        x: Dual<3>,
        keys: Dual<3>,
        scores: Tensor<4>,
        pass: Pass,
    ) -> Dual<3> {
        let attended =
            Attention::forward(weights.of(|own| &own.att), x.clone(), keys, scores, pass);
        ResidualOutput::forward(weights.of(|own| &own.output), attended, x, pass)
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    slf_attn: DecoderAttention,
    enc_attn: DecoderAttention,
    intermediate: Intermediate,
    output: ResidualOutput,
}

#[derive(Module, Debug)]
struct DecoderEmbeddings {
    layer_norm: LayerNorm,
    dropout: f64,
}

#[derive(Module, Debug)]
struct DecoderStack {
    layer: Vec<DecoderLayer>,
}

#[derive(Module, Debug)]
struct Classifier {
    cls: TiedHead,
}

/// A transformer decoder whose word and position tables are those of the text encoder.
#[derive(Module, Debug)]
pub(crate) struct Decoder {
    embeddings: DecoderEmbeddings,
    decoder: DecoderStack,
    classifier: Classifier,
}

/// The tables that the decoder borrows from the text encoder.
pub(crate) struct TiedTables {
    /// `[V, D]`
    pub(crate) words: Dual<2>,
    /// `[positions, D]`
    pub(crate) positions: Dual<2>,
}

impl Decoder {
    pub(crate) fn new(config: &UniVlConfig, device: &Device) -> Self {
        let d_model = config.d_model;
        let layer = || DecoderLayer {
            slf_attn: DecoderAttention::new(config, device),
            enc_attn: DecoderAttention::new(config, device),
            intermediate: Intermediate {
                dense: linear_layer(d_model, config.d_ff, device),
            },
            output: ResidualOutput::new(config.d_ff, d_model, config.dropout, device),
        };
        Self {
            embeddings: DecoderEmbeddings {
                layer_norm: norm_layer(d_model, device),
                dropout: config.dropout,
            },
            decoder: DecoderStack {
                layer: (0..config.decoder_layers).map(|_| layer()).collect(),
            },
            classifier: Classifier {
                cls: TiedHead::new(d_model, config.vocab_size, device),
            },
        }
    }

    /// Logits over the vocabulary at every position, `[B * L, V]`.
    ///
    /// - ids: `[B, L]`, starting with `[CLS]`; pad: `[B, L]`, true = padding
    /// - encoded: what is attended to, of `B` items
    pub(crate) fn forward(
        weights: Weights<'_, Self>,
        ids: Tensor<2, Int>,
        pad: Tensor<2, Bool>,
        encoded: &CrossOutput,
        tables: TiedTables,
        pass: Pass,
    ) -> Dual<2> {
        let [batch_size, length] = ids.dims();
        let d_model = tables.words.dims()[1];
        let embeddings = weights.of(|own| &own.embeddings);
        let x = look_up(tables.words.clone(), ids).add(positions(tables.positions, 0, length));
        let mut x =
            norm(embeddings.of(|own| &own.layer_norm), x).dropout(embeddings.value.dropout, pass);
        let own_scores = causal_scores(pad);
        for layer in weights.of(|own| &own.decoder).of(|own| &own.layer).iter() {
            let (own, cross) = (layer.of(|own| &own.slf_attn), layer.of(|own| &own.enc_attn));
            x = DecoderAttention::forward(own, x.clone(), x, own_scores.clone(), pass);
            let (keys, scores) = (encoded.hidden.clone(), encoded.scores.clone());
            x = DecoderAttention::forward(cross, x, keys, scores, pass);
            let dense = layer.of(|own| &own.intermediate).of(|own| &own.dense);
            let hidden = linear3(dense, x.clone()).gelu();
            x = ResidualOutput::forward(layer.of(|own| &own.output), hidden, x, pass);
        }
        let head = weights.of(|own| &own.classifier).of(|own| &own.cls);
        let x = x.map_linear(|x| x.reshape([batch_size * length, d_model]));
        TiedHead::forward(head, x, tables.words)
    }
}

/// Additive scores `[B, 1, L, L]`: later positions and padded keys are out.
fn causal_scores(pad: Tensor<2, Bool>) -> Tensor<4> {
    let [batch_size, length] = pad.dims();
    let device = pad.device();
    let later = Tensor::<2, Bool>::tril_mask([length, length], 0, &device);
    let masked = later
        .reshape([1, 1, length, length])
        .expand([batch_size, 1, length, length])
        .bool_or(
            pad.reshape([batch_size, 1, 1, length])
                .expand([batch_size, 1, length, length]),
        );
    masked.float() * MASKED_SCORE
}
