//! Multi-head attention inside of windows, with a learned bias for every offset.

use std::ops::Add;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Int, Tensor, TensorData};
use meltr_core::{Dual, Pass, Weights};

use super::window::{Extent, Shift, WindowBias, Windows, bias_rows};
use crate::layers::{linear_columns, linear_layer, linear3};
use crate::weighted_sum::weighted_sum;

/// What the blocks of a stage share: how the grid is cut, and who meets whom.
#[derive(Debug, Clone)]
pub(crate) struct WindowPlan {
    pub(crate) windows: Windows,
    /// Rows of the bias table, `[N * N]`.
    bias_rows: Tensor<1, Int>,
    /// Scores that keep apart what the shift brought together, `[n, N, N]`.
    scores: Option<Tensor<3>>,
}

impl WindowPlan {
    pub(crate) fn new(
        grid: Extent,
        full: Extent,
        shift: Shift,
        bias: WindowBias,
        device: &Device,
    ) -> Self {
        let windows = Windows::new(grid, full, shift);
        let rows = bias_rows(full, windows.window(), bias);
        let count = rows.len();
        Self {
            bias_rows: Tensor::from_data(TensorData::new(rows, [count]), device),
            scores: windows.scores(device),
            windows,
        }
    }
}

/// Attention of the tokens of a window to each other.
#[derive(Module, Debug)]
pub(crate) struct WindowAttention {
    relative_position_bias_table: Param<Tensor<2>>,
    qkv: Linear,
    proj: Linear,
    n_heads: usize,
}

impl WindowAttention {
    pub(crate) fn new(width: usize, n_heads: usize, full: Extent, device: &Device) -> Self {
        let n_offsets = full.iter().map(|size| 2 * size - 1).product();
        Self {
            relative_position_bias_table: Param::from_tensor(Tensor::zeros(
                [n_offsets, n_heads],
                device,
            )),
            qkv: linear_layer(width, 3 * width, device),
            proj: linear_layer(width, width, device),
            n_heads,
        }
    }

    /// Windows `[B * n, N, C]` to the same shape.
    pub(crate) fn forward(weights: Weights<'_, Self>, x: Dual<3>, plan: &WindowPlan) -> Dual<3> {
        let [rows, size, width] = x.dims();
        let n_heads = weights.value.n_heads;
        let d_head = width / n_heads;
        let n_windows = plan.windows.n_windows();
        let x = x.map_linear(|x| x.reshape([rows * size, width]));
        let heads = |part: usize| {
            let layer = weights.of(|own| &own.qkv);
            linear_columns(layer, x.clone(), part * width, width).map_linear(|x| {
                x.reshape([rows, size, n_heads, d_head]).swap_dims(1, 2) // [B * n, H, N, d]
            })
        };
        let query = heads(0).scale(1.0 / (d_head as f64).sqrt());
        let scores = query
            .matmul(heads(1).map_linear(|key| key.swap_dims(2, 3)))
            .map_linear(|x| x.reshape([rows / n_windows, n_windows, n_heads, size, size]))
            .add(Self::bias(weights, plan))
            .map_linear(|x| x.reshape([rows, n_heads, size, size]));
        // The attention weights see no dropout.
        let attended = weighted_sum(scores, heads(2), 0.0, Pass::Evaluation)
            .map_linear(|x| x.swap_dims(1, 2).reshape([rows, size, width]));
        linear3(weights.of(|own| &own.proj), attended)
    }

    /// What is added to the scores, `[1, 1 or n, H, N, N]`.
    fn bias(weights: Weights<'_, Self>, plan: &WindowPlan) -> Dual<5> {
        let n_heads = weights.value.n_heads;
        let (n_windows, size) = (plan.windows.n_windows(), plan.windows.n_tokens());
        let bias = weights
            .of(|own| &own.relative_position_bias_table)
            .dual()
            .map_linear(|table| {
                // Heads first: what is added to the scores then stands in their order.
                table
                    .transpose()
                    .select(1, plan.bias_rows.clone())
                    .reshape([1, 1, n_heads, size, size])
            });
        match &plan.scores {
            Some(scores) => {
                let scores = scores.clone().reshape([1, n_windows, 1, size, size]);
                bias.add(Dual::constant(scores))
            }
            None => bias,
        }
    }
}
