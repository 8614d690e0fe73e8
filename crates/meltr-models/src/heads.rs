//! Prediction heads whose output matrix is tied to an input embedding.

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Device, Tensor};

use crate::layers::{gelu_exact, linear_layer, linear2, norm_layer, zeros_param};

#[derive(Module, Debug)]
struct Transform {
    dense: Linear,
    layer_norm: LayerNorm,
}

/// Dense, GELU, layer normalisation, then a product with a tied matrix plus an own bias.
#[derive(Module, Debug)]
pub(crate) struct Predictions {
    bias: Param<Tensor<1>>,
    transform: Transform,
}

impl Predictions {
    fn new(d_model: usize, n_outputs: usize, device: &Device) -> Self {
        Self {
            bias: zeros_param(n_outputs, device),
            transform: Transform {
                dense: linear_layer(d_model, d_model, device),
                layer_norm: norm_layer(d_model, device),
            },
        }
    }

    /// `[rows, D]` and the tied matrix `[D, n_outputs]` to `[rows, n_outputs]`.
    fn forward(&self, hidden: Tensor<2>, tied: Tensor<2>) -> Tensor<2> {
        let hidden = gelu_exact(linear2(&self.transform.dense, hidden));
        let hidden = self.transform.layer_norm.forward(hidden);
        hidden.matmul(tied) + self.bias.val().unsqueeze()
    }
}

/// A head, under its published name.
#[derive(Module, Debug)]
pub(crate) struct TiedHead {
    predictions: Predictions,
}

impl TiedHead {
    pub(crate) fn new(d_model: usize, n_outputs: usize, device: &Device) -> Self {
        Self { predictions: Predictions::new(d_model, n_outputs, device) }
    }

    /// Logits over the vocabulary, `[rows, V]`; `words` is the word table `[V, D]`.
    pub(crate) fn words(&self, hidden: Tensor<2>, words: Tensor<2>) -> Tensor<2> {
        self.predictions.forward(hidden, words.transpose())
    }

    /// Predicted frame features, `[rows, Dv]`; `frames` is the frame embedding `[Dv, D]`.
    pub(crate) fn frames(&self, hidden: Tensor<2>, frames: Tensor<2>) -> Tensor<2> {
        self.predictions.forward(hidden, frames.transpose())
    }
}
