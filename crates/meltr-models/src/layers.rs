//! Small pieces that all encoders share.

use burn::module::Param;
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::gelu;
use burn::tensor::module::linear;
use burn::tensor::{Bool, Device, Int, Tensor};

/// Epsilon of every layer normalisation of UniVL, inside of the square root.
pub(crate) const LAYER_NORM_EPSILON: f64 = 1e-12;

/// Added to the score of a key that must not be attended to.
pub(crate) const MASKED_SCORE: f64 = -10_000.0;

pub(crate) fn linear_layer(d_input: usize, d_output: usize, device: &Device) -> Linear {
    LinearConfig::new(d_input, d_output).init(device)
}

pub(crate) fn embedding_layer(n_entries: usize, d_model: usize, device: &Device) -> Embedding {
    EmbeddingConfig::new(n_entries, d_model).init(device)
}

pub(crate) fn norm_layer(d_model: usize, device: &Device) -> LayerNorm {
    LayerNormConfig::new(d_model).with_epsilon(LAYER_NORM_EPSILON).init(device)
}

pub(crate) fn zeros_param(size: usize, device: &Device) -> Param<Tensor<1>> {
    Param::from_tensor(Tensor::zeros([size], device))
}

/// `x W + b` on the flattened `[B*L, D]`: on a 3-D input the weight's gradient costs several
/// times as much.
pub(crate) fn linear3(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let [batch_size, length, d_input] = x.dims();
    let y = linear2(layer, x.reshape([batch_size * length, d_input]));
    let d_output = y.dims()[1];
    y.reshape([batch_size, length, d_output])
}

/// `x W + b` on `[rows, D]`.
pub(crate) fn linear2(layer: &Linear, x: Tensor<2>) -> Tensor<2> {
    linear(x, layer.weight.val(), layer.bias.as_ref().map(|bias| bias.val()))
}

/// `[B, L]` token ids to `[B, L, D]`.
pub(crate) fn look_up(table: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    burn::tensor::module::embedding(table, ids)
}

/// Dense, GELU (exact), layer normalisation: what precedes each prediction head.
pub(crate) fn gelu_exact<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    gelu(x)
}

/// `[B, L]` padding flags (true = padding) to additive scores `[B, 1, 1, L]`.
pub(crate) fn padding_scores(pad: Tensor<2, Bool>) -> Tensor<4> {
    let [batch_size, length] = pad.dims();
    (pad.float() * MASKED_SCORE).reshape([batch_size, 1, 1, length])
}
