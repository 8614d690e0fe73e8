//! The head of answers.

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::Device;
use meltr_core::{Dual, Pass, Weights};

use super::config::{AllInOneConfig, AllInOneTask};
use crate::layers::{linear_layer, norm_layer};

/// Hidden width of the head that scores options.
const CHOICE_WIDTH: usize = 256;

/// Epsilon of the layer normalization, inside of the square root.
const EPSILON: f64 = 1e-5;

/// Dropout, a linear map, layer normalization, GELU, a linear map to the outputs.
#[derive(Module, Debug)]
pub(crate) struct AnswerHead {
    /// Published as `1`.
    hidden: Linear,
    /// Published as `2`.
    norm: LayerNorm,
    /// Published as `4`.
    output: Linear,
    dropout: f64,
}

impl AnswerHead {
    /// The head of a task: the classes of answers, or one score for each option; none for
    /// retrieval.
    pub(crate) fn of_task(config: &AllInOneConfig, device: &Device) -> Option<Self> {
        let (d_hidden, n_outputs) = match config.task {
            AllInOneTask::Retrieval => return None,
            AllInOneTask::OpenEnded { n_answers } => (config.d_model / 2, n_answers),
            AllInOneTask::MultipleChoice => (CHOICE_WIDTH, 1),
        };
        Some(Self {
            hidden: linear_layer(config.d_model, d_hidden, device),
            norm: norm_layer(d_hidden, device),
            output: linear_layer(d_hidden, n_outputs, device),
            dropout: config.answer_dropout,
        })
    }

    /// `[rows, D]` to `[rows, n_outputs]`.
    pub(crate) fn forward(weights: Weights<'_, Self>, x: Dual<2>, pass: Pass) -> Dual<2> {
        let x = Self::activations(weights, x, pass);
        weights.of(|own| &own.output).apply(x)
    }

    /// What the last linear map reads, `[rows, D]` to `[rows, d_hidden]`.
    pub(crate) fn activations(weights: Weights<'_, Self>, x: Dual<2>, pass: Pass) -> Dual<2> {
        let x = x.dropout(weights.value.dropout, pass);
        let x = weights.of(|own| &own.hidden).apply(x);
        weights.of(|own| &own.norm).apply(x, EPSILON).gelu()
    }
}
