//! Small pieces that all encoders share.

use burn::module::Param;
use burn::nn::{
    Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::tensor::module::embedding;
use burn::tensor::{Bool, Device, Int, Tensor};
use meltr_core::{Dual, Weights};

/// Epsilon of every layer normalization of UniVL, inside of the square root.
pub(crate) const LAYER_NORM_EPSILON: f64 = 1e-12;

/// Added to the score of a key that must not be attended to.
pub(crate) const MASKED_SCORE: f64 = -10_000.0;

pub(crate) fn linear_layer(d_input: usize, d_output: usize, device: &Device) -> Linear {
    // Zeros, since `initialize` fills every parameter from the seed.
    LinearConfig::new(d_input, d_output)
        .with_initializer(Initializer::Zeros)
        .init(device)
}

pub(crate) fn unbiased_linear_layer(d_input: usize, d_output: usize, device: &Device) -> Linear {
    LinearConfig::new(d_input, d_output)
        .with_bias(false)
        .with_initializer(Initializer::Zeros)
        .init(device)
}

pub(crate) fn embedding_layer(n_entries: usize, d_model: usize, device: &Device) -> Embedding {
    EmbeddingConfig::new(n_entries, d_model)
        .with_initializer(Initializer::Zeros)
        .init(device)
}

pub(crate) fn norm_layer(d_model: usize, device: &Device) -> LayerNorm {
    LayerNormConfig::new(d_model)
        .with_epsilon(LAYER_NORM_EPSILON)
        .init(device)
}

pub(crate) fn zeros_param(size: usize, device: &Device) -> Param<Tensor<1>> {
    Param::from_tensor(Tensor::zeros([size], device))
}

/// `x W + b` on the flattened `[B*L, D]`: on a 3-D input the weight's gradient costs several
/// times as much.
pub(crate) fn linear3(layer: Weights<'_, Linear>, x: Dual<3>) -> Dual<3> {
    let [batch_size, length, d_input] = x.dims();
    let y = layer.apply(x.map_linear(|x| x.reshape([batch_size * length, d_input])));
    let d_output = y.dims()[1];
    y.map_linear(|y| y.reshape([batch_size, length, d_output]))
}

/// Columns `start..start + count` of `x W + b`.
///
/// Slicing the weight instead of the product spares the backward pass a zero tensor of the size of
/// the whole product for every slice.
pub(crate) fn linear_columns(
    layer: Weights<'_, Linear>,
    x: Dual<2>,
    start: usize,
    count: usize,
) -> Dual<2> {
    let weight = layer
        .of(|own| &own.weight)
        .dual()
        .map_linear(|weight| weight.narrow(1, start, count));
    let bias = bias(layer).map(|bias| bias.map_linear(|bias| bias.narrow(0, start, count)));
    x.affine(weight, bias)
}

/// The constant term of a linear map, `[d_output]`.
pub(crate) fn bias(layer: Weights<'_, Linear>) -> Option<Dual<1>> {
    layer.value.bias.as_ref().map(|bias| Dual {
        value: bias.val(),
        tangent: layer
            .tangent
            .and_then(|tangent| tangent.bias.as_ref())
            .map(|tangent| tangent.val()),
    })
}

/// A part that not every module has.
pub(crate) fn optional<M>(weights: Weights<'_, Option<M>>) -> Option<Weights<'_, M>> {
    weights.value.as_ref().map(|value| Weights {
        value,
        tangent: weights.tangent.and_then(Option::as_ref),
    })
}

/// Layer normalization with UniVL's epsilon.
pub(crate) fn norm<const D: usize>(layer: Weights<'_, LayerNorm>, x: Dual<D>) -> Dual<D> {
    layer.apply(x, LAYER_NORM_EPSILON)
}

/// `[B, L]` token ids to `[B, L, D]`.
pub(crate) fn look_up(table: Dual<2>, ids: Tensor<2, Int>) -> Dual<3> {
    table.map_linear(|table| embedding(table, ids.clone()))
}

/// The first rows of a position table from `offset` on, as `[1, L, D]`.
pub(crate) fn positions(table: Dual<2>, offset: usize, length: usize) -> Dual<3> {
    table.map_linear(|table| table.narrow(0, offset, length).unsqueeze())
}

/// `[B, L]` padding flags (true = padding) to additive scores `[B, 1, 1, L]`.
pub(crate) fn padding_scores(pad: Tensor<2, Bool>) -> Tensor<4> {
    let [batch_size, length] = pad.dims();
    (pad.float() * MASKED_SCORE).reshape([batch_size, 1, 1, length])
}
