//! Patches of two frames in a row become tokens.

use burn::module::{Module, Param};
use burn::nn::LayerNorm;
use burn::tensor::{Device, Tensor};
use meltr_core::{Dual, Weights};

use super::{PATCH_SIZE, SWIN_EPSILON};
use crate::layers::{norm_layer, zeros_param};

/// Frames that a patch spans; consecutive patches overlap by one.
const PATCH_FRAMES: usize = 2;

/// Color channels.
const CHANNELS: usize = 3;

/// A convolution whose stride is its height and width, with PyTorch's weight.
#[derive(Module, Debug)]
struct Projection {
    /// `[C, 3, 2, 4, 4]`
    weight: Param<Tensor<5>>,
    bias: Param<Tensor<1>>,
}

/// A linear map of patches of 2 frames x 4 x 4 pixels, normalized.
#[derive(Module, Debug)]
pub(crate) struct PatchEmbed {
    proj: Projection,
    norm: LayerNorm,
}

impl PatchEmbed {
    pub(crate) fn new(width: usize, device: &Device) -> Self {
        let shape = [width, CHANNELS, PATCH_FRAMES, PATCH_SIZE, PATCH_SIZE];
        Self {
            proj: Projection {
                weight: Param::from_tensor(Tensor::zeros(shape, device)),
                bias: zeros_param(width, device),
            },
            norm: norm_layer(width, device),
        }
    }

    /// Frames `[B, T, 3, H, W]` to tokens `[B, T * H/4 * W/4, C]`.
    ///
    /// The frames are constants, so that only the weight's product is on the tape.
    pub(crate) fn forward(weights: Weights<'_, Self>, frames: Tensor<5>) -> Dual<3> {
        let batch_size = frames.dims()[0];
        let patches = patches(frames);
        let [rows, size] = patches.dims();
        let proj = weights.of(|own| &own.proj);
        let weight = proj.of(|own| &own.weight).dual();
        let width = weight.dims()[0];
        let matrix = weight.map_linear(|weight| weight.reshape([width, size]).transpose());
        let bias = proj.of(|own| &own.bias).dual();
        let x = Dual::constant(patches)
            .affine(matrix, Some(bias))
            .map_linear(|x| x.reshape([batch_size, rows / batch_size, width]));
        weights.of(|own| &own.norm).apply(x, SWIN_EPSILON)
    }
}

/// Every patch as a row, `[B * T * H/4 * W/4, 3 * 2 * 4 * 4]`; within a row channel, frame, height,
/// width, in that order. A frame of zeros follows the last one.
fn patches(frames: Tensor<5>) -> Tensor<2> {
    let [batch_size, n_frames, channels, height, width] = frames.dims();
    let (rows, columns) = (height / PATCH_SIZE, width / PATCH_SIZE);
    let zeros = frames.clone().narrow(1, 0, 1).zeros_like();
    let next = Tensor::cat(vec![frames.clone(), zeros], 1).narrow(1, 1, n_frames);
    let planes = channels * PATCH_FRAMES;
    Tensor::stack::<6>(vec![frames, next], 3) // [B, T, 3, 2, H, W]
        .reshape([
            batch_size * n_frames,
            planes,
            rows,
            PATCH_SIZE,
            columns,
            PATCH_SIZE,
        ])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([
            batch_size * n_frames * rows * columns,
            planes * PATCH_SIZE * PATCH_SIZE,
        ])
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    #[test]
    fn a_patch_holds_its_pixels_of_two_frames_and_the_last_frame_is_followed_by_zeros() {
        let (n_frames, height, width) = (2, 4, 8);
        let count = n_frames * 3 * height * width;
        let values: Vec<f32> = (1..=count).map(|at| at as f32).collect();
        let shape = [1, n_frames, 3, height, width];
        let frames = Tensor::from_data(TensorData::new(values, shape), &Device::default());
        let patches = patches(frames);
        assert_eq!(patches.dims(), [4, 96]);
        let patches: Vec<f32> = patches.into_data().iter::<f32>().collect();
        let pixel = |frame: usize, channel: usize, row: usize, column: usize| {
            (((frame * 3 + channel) * height + row) * width + column + 1) as f32
        };
        for frame in 0..n_frames {
            for patch in 0..2 {
                for at in 0..96 {
                    let (channel, later, row, column) = (at / 32, at / 16 % 2, at / 4 % 4, at % 4);
                    let expected = if frame + later < n_frames {
                        pixel(frame + later, channel, row, 4 * patch + column)
                    } else {
                        0.0
                    };
                    let found = patches[(frame * 2 + patch) * 96 + at];
                    assert_eq!(found, expected, "frame {frame}, patch {patch}, entry {at}");
                }
            }
        }
    }
}
