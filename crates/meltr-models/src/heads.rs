//! Prediction heads, with an output matrix of their own or tied to an input embedding.

use std::ops::Add;

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Device, Tensor};
use meltr_core::{Dual, Weights};

use crate::layers::{linear_layer, norm, norm_layer, unbiased_linear_layer, zeros_param};

#[derive(Module, Debug)]
struct Transform {
    dense: Linear,
    layer_norm: LayerNorm,
}

impl Transform {
    fn new(d_model: usize, device: &Device) -> Self {
        Self {
            dense: linear_layer(d_model, d_model, device),
            layer_norm: norm_layer(d_model, device),
        }
    }

    /// `[rows, D]` to `[rows, D]`.
    fn forward(weights: Weights<'_, Self>, hidden: Dual<2>) -> Dual<2> {
        let hidden = weights.of(|own| &own.dense).apply(hidden).gelu();
        norm(weights.of(|own| &own.layer_norm), hidden)
    }
}

/// Dense, GELU, layer normalization, then a product with a tied table plus an own bias.
#[derive(Module, Debug)]
pub(crate) struct Predictions {
    bias: Param<Tensor<1>>,
    transform: Transform,
}

impl Predictions {
    fn new(d_model: usize, n_outputs: usize, device: &Device) -> Self {
        Self {
            bias: zeros_param(n_outputs, device),
            transform: Transform::new(d_model, device),
        }
    }

    /// `[rows, D]` and the tied table `[n_outputs, D]` to `[rows, n_outputs]`.
    ///
    /// The table is the left factor, so that its gradient comes out in its own order. As the right
    /// one it would get a transposed gradient, which is slow to add to the others that it has: on a
    /// CPU every number of it is on another page of memory.
    fn forward(weights: Weights<'_, Self>, hidden: Dual<2>, table: Dual<2>) -> Dual<2> {
        let rows = hidden.dims()[0];
        let n_outputs = table.dims()[0];
        let hidden = Transform::forward(weights.of(|own| &own.transform), hidden);
        let bias = weights.of(|own| &own.bias).dual();
        table
            .matmul(hidden.map_linear(|x| x.transpose()))
            .add(bias.map_linear(|bias| bias.reshape([n_outputs, 1])))
            .map_linear(|x| {
                // Through one axis, which makes a copy row by row.
                let x: Tensor<1> = x.transpose().reshape([rows * n_outputs]);
                x.reshape([rows, n_outputs])
            })
    }
}

/// A head, under its published name.
#[derive(Module, Debug)]
pub(crate) struct TiedHead {
    predictions: Predictions,
}

impl TiedHead {
    pub(crate) fn new(d_model: usize, n_outputs: usize, device: &Device) -> Self {
        Self {
            predictions: Predictions::new(d_model, n_outputs, device),
        }
    }

    /// Outputs `[rows, n]` of hidden states `[rows, D]`; `table` is the tied embedding `[n, D]`:
    /// the word table for logits, the frame embedding for features.
    pub(crate) fn forward(weights: Weights<'_, Self>, hidden: Dual<2>, table: Dual<2>) -> Dual<2> {
        Predictions::forward(weights.of(|own| &own.predictions), hidden, table)
    }
}

/// Dense, GELU, layer normalization, then a linear map of its own: BERT's masked-word head where
/// its matrix is not tied to the word embeddings.
#[derive(Module, Debug)]
pub(crate) struct UntiedPredictions {
    bias: Param<Tensor<1>>,
    transform: Transform,
    decoder: Linear,
}

impl UntiedPredictions {
    pub(crate) fn new(d_model: usize, n_outputs: usize, device: &Device) -> Self {
        Self {
            bias: zeros_param(n_outputs, device),
            transform: Transform::new(d_model, device),
            decoder: unbiased_linear_layer(d_model, n_outputs, device),
        }
    }

    /// `[rows, D]` to `[rows, n_outputs]`.
    pub(crate) fn forward(weights: Weights<'_, Self>, hidden: Dual<2>) -> Dual<2> {
        let hidden = Transform::forward(weights.of(|own| &own.transform), hidden);
        let matrix = weights.of(|own| &own.decoder).of(|own| &own.weight).dual();
        hidden.affine(matrix, Some(weights.of(|own| &own.bias).dual()))
    }
}
