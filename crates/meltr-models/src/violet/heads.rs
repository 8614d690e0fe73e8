//! Heads of VIOLET: two-layer classifiers and the masked-word head.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Device;
use meltr_core::{Dual, Pass, Weights};

use crate::heads::UntiedPredictions;
use crate::layers::linear_layer;

/// Hidden width of a two-layer head for each of its inputs.
pub(crate) const HIDDEN_FACTOR: usize = 2;

/// Dropout, a linear map to twice the width, `max(x, 0)`, a linear map to the outputs.
#[derive(Module, Debug)]
pub(crate) struct MlpHead {
    /// Published as `1`.
    hidden: Linear,
    /// Published as `3`.
    pub(crate) output: Linear,
    dropout: f64,
}

impl MlpHead {
    pub(crate) fn new(d_model: usize, n_outputs: usize, dropout: f64, device: &Device) -> Self {
        let d_hidden = HIDDEN_FACTOR * d_model;
        Self {
            hidden: linear_layer(d_model, d_hidden, device),
            output: linear_layer(d_hidden, n_outputs, device),
            dropout,
        }
    }

    /// `[rows, D]` to `[rows, n_outputs]`.
    pub(crate) fn forward(weights: Weights<'_, Self>, x: Dual<2>, pass: Pass) -> Dual<2> {
        let hidden = Self::activations(weights, x, pass);
        weights.of(|own| &own.output).apply(hidden)
    }

    /// What the last linear map reads, `[rows, D]` to `[rows, 2 D]`.
    pub(crate) fn activations(weights: Weights<'_, Self>, x: Dual<2>, pass: Pass) -> Dual<2> {
        let x = x.dropout(weights.value.dropout, pass);
        weights.of(|own| &own.hidden).apply(x).relu()
    }
}

/// The masked-word head under its published name; unlike BERT's, its matrix is not tied to the
/// word embeddings.
#[derive(Module, Debug)]
pub(crate) struct WordHead {
    predictions: UntiedPredictions,
}

impl WordHead {
    pub(crate) fn new(d_model: usize, vocab_size: usize, device: &Device) -> Self {
        Self {
            predictions: UntiedPredictions::new(d_model, vocab_size, device),
        }
    }

    /// `[rows, D]` to `[rows, V]`.
    pub(crate) fn forward(weights: Weights<'_, Self>, x: Dual<2>) -> Dual<2> {
        UntiedPredictions::forward(weights.of(|own| &own.predictions), x)
    }
}
