//! The caption decoder.

use burn::module::Module;
use burn::nn::LayerNorm;
use burn::tensor::{Bool, Device, Int, Tensor};
use meltr_core::{Pass, dropout};

use crate::attention::{Attention, ResidualOutput};
use crate::bert::Intermediate;
use crate::heads::TiedHead;
use crate::layers::{MASKED_SCORE, gelu_exact, linear_layer, linear3, look_up, norm_layer};
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

    fn forward(&self, x: Tensor<3>, keys: Tensor<3>, scores: Tensor<4>, pass: Pass) -> Tensor<3> {
        let attended = self.att.forward(x.clone(), keys, scores, pass);
        self.output.forward(attended, x, pass)
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
    pub(crate) words: Tensor<2>,
    /// `[positions, D]`
    pub(crate) positions: Tensor<2>,
}

impl Decoder {
    pub(crate) fn new(config: &UniVlConfig, device: &Device) -> Self {
        let d_model = config.d_model;
        let layer = || DecoderLayer {
            slf_attn: DecoderAttention::new(config, device),
            enc_attn: DecoderAttention::new(config, device),
            intermediate: Intermediate { dense: linear_layer(d_model, config.d_ff, device) },
            output: ResidualOutput::new(config.d_ff, d_model, config.dropout, device),
        };
        Self {
            embeddings: DecoderEmbeddings {
                layer_norm: norm_layer(d_model, device),
                dropout: config.dropout,
            },
            decoder: DecoderStack { layer: (0..config.decoder_layers).map(|_| layer()).collect() },
            classifier: Classifier { cls: TiedHead::new(d_model, config.vocab_size, device) },
        }
    }

    /// Logits over the vocabulary at every position, `[B * L, V]`.
    ///
    /// - ids: `[B, L]`, starting with `[CLS]`; pad: `[B, L]`, true = padding
    /// - encoded: `[B, Lk, D]` with scores `[B, 1, 1, Lk]`
    pub(crate) fn forward(
        &self,
        ids: Tensor<2, Int>,
        pad: Tensor<2, Bool>,
        encoded: (Tensor<3>, Tensor<4>),
        tables: TiedTables,
        pass: Pass,
    ) -> Tensor<2> {
        let [batch_size, length] = ids.dims();
        let d_model = tables.words.dims()[1];
        let positions = tables.positions.narrow(0, 0, length);
        let x = look_up(tables.words.clone(), ids) + positions.unsqueeze();
        let mut x = dropout(self.embeddings.layer_norm.forward(x), self.embeddings.dropout, pass);
        let own_scores = causal_scores(pad);
        for layer in &self.decoder.layer {
            x = layer.slf_attn.forward(x.clone(), x, own_scores.clone(), pass);
            x = layer.enc_attn.forward(x, encoded.0.clone(), encoded.1.clone(), pass);
            let hidden = gelu_exact(linear3(&layer.intermediate.dense, x.clone()));
            x = layer.output.forward(hidden, x, pass);
        }
        self.classifier.cls.words(x.reshape([batch_size * length, d_model]), tables.words)
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
        .bool_or(pad.reshape([batch_size, 1, 1, length]).expand([batch_size, 1, length, length]));
    masked.float() * MASKED_SCORE
}

