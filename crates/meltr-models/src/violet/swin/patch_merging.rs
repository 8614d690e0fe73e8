//! Four neighboring tokens of a frame become one of twice the width.

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Device, Tensor};
use meltr_core::{Dual, Weights};

use super::SWIN_EPSILON;
use super::window::Extent;
use crate::layers::{linear3, norm_layer, unbiased_linear_layer};

/// Halves height and width, doubles the channels; time stays.
#[derive(Module, Debug)]
pub(crate) struct PatchMerging {
    reduction: Linear,
    norm: LayerNorm,
}

impl PatchMerging {
    /// From `width` channels to twice as many.
    pub(crate) fn new(width: usize, device: &Device) -> Self {
        Self {
            reduction: unbiased_linear_layer(4 * width, 2 * width, device),
            norm: norm_layer(4 * width, device),
        }
    }

    /// Tokens `[B, T * H * W, C]` of a grid with even `H` and `W` to `[B, T * H/2 * W/2, 2 C]`.
    pub(crate) fn forward(weights: Weights<'_, Self>, x: Dual<3>, grid: Extent) -> Dual<3> {
        let gathered = Self::gathered(weights, x, grid);
        linear3(weights.of(|own| &own.reduction), gathered)
    }

    /// What the linear map reads: squares of four tokens, normalized, `[B, T * H/2 * W/2, 4 C]`.
    pub(crate) fn gathered(weights: Weights<'_, Self>, x: Dual<3>, grid: Extent) -> Dual<3> {
        let x = x.map_linear(|x| gather(x, grid));
        weights.of(|own| &own.norm).apply(x, SWIN_EPSILON)
    }
}

/// The four tokens of every square behind each other: upper left, lower left, upper right, lower
/// right.
fn gather(x: Tensor<3>, [t, h, w]: Extent) -> Tensor<3> {
    let [batch_size, _, channels] = x.dims();
    x.reshape([batch_size * t, h / 2, 2, w / 2, 2, channels])
        .permute([0, 1, 3, 4, 2, 5])
        .reshape([batch_size, t * (h / 2) * (w / 2), 4 * channels])
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    #[test]
    fn the_four_tokens_of_a_square_stand_column_by_column() {
        let values: Vec<f32> = (0..16).map(|at| at as f32).collect();
        let x = Tensor::from_data(TensorData::new(values, [1, 16, 1]), &Device::default());
        let x = gather(x, [2, 2, 4]);
        assert_eq!(x.dims(), [1, 4, 4]);
        let x: Vec<f32> = x.into_data().iter::<f32>().collect();
        assert_eq!(x[..8], [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
        assert_eq!(x[8..], [8.0, 12.0, 9.0, 13.0, 10.0, 14.0, 11.0, 15.0]);
    }
}
