//! From frames to tokens: normalization, hidden patches, the Swin transformer, positions.

use std::ops::Add;

use burn::module::{Module, Param};
use burn::nn::LayerNorm;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use meltr_core::{Dual, Pass, Weights};

use super::config::VioletConfig;
use super::swin::{SWIN_EPSILON, VideoSwin};
use crate::layers::norm_layer;

/// Mean and standard deviation of ImageNet's colors in `[0, 1]`.
const COLOR_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const COLOR_DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// The Swin transformer with a `[CLS]` for every frame and embeddings of place and time.
#[derive(Module, Debug)]
pub(crate) struct FrameEncoder {
    /// `[1, 1, 1, D]`
    emb_cls: Param<Tensor<4>>,
    /// `[1, 1, 1 + patches, D]`
    emb_pos: Param<Tensor<4>>,
    /// `[1, frames, 1, D]`
    emb_len: Param<Tensor<4>>,
    swin: VideoSwin,
    norm: LayerNorm,
}

impl FrameEncoder {
    pub(crate) fn new(config: &VioletConfig, device: &Device) -> Self {
        let d_model = config.d_model();
        let zeros = |shape: [usize; 4]| Param::from_tensor(Tensor::<4>::zeros(shape, device));
        Self {
            emb_cls: zeros([1, 1, 1, d_model]),
            emb_pos: zeros([1, 1, 1 + config.max_patches, d_model]),
            emb_len: zeros([1, config.max_frames, 1, d_model]),
            swin: VideoSwin::new(&config.swin, device),
            norm: norm_layer(d_model, device),
        }
    }

    /// Normalized frames `[B, T, 3, H, W]` to the tokens of patches, `[B, T * h * w, D]`.
    pub(crate) fn patches(weights: Weights<'_, Self>, frames: Tensor<5>, pass: Pass) -> Dual<3> {
        VideoSwin::forward(weights.of(|own| &own.swin), frames, pass)
    }

    /// What the linear map of the last merging reads of normalized frames `[B, T, 3, H, W]`,
    /// `[B, T * h * w, 2 D]`.
    pub(crate) fn last_merging_input(
        weights: Weights<'_, Self>,
        frames: Tensor<5>,
        pass: Pass,
    ) -> Dual<3> {
        VideoSwin::last_merging_input(weights.of(|own| &own.swin), frames, pass)
    }

    /// Tokens of the patches of `n_frames` frames to the encoding of the clip,
    /// `[B, T * (1 + h * w), D]`; each frame's `[CLS]` stands before its patches.
    pub(crate) fn embed(weights: Weights<'_, Self>, patches: Dual<3>, n_frames: usize) -> Dual<3> {
        let [batch_size, n_patches, d_model] = patches.dims();
        let per_frame = n_patches / n_frames;
        let patches = patches.map_linear(|x| x.reshape([batch_size, n_frames, per_frame, d_model]));
        let cls = weights
            .of(|own| &own.emb_cls)
            .dual()
            .map_linear(|x| x.expand([batch_size, n_frames, 1, d_model]));
        let places = weights
            .of(|own| &own.emb_pos)
            .dual()
            .map_linear(|x| x.narrow(2, 0, 1 + per_frame));
        let times = weights
            .of(|own| &own.emb_len)
            .dual()
            .map_linear(|x| x.narrow(1, 0, n_frames));
        let x = Dual::cat(vec![cls, patches], 2).add(places.add(times));
        weights
            .of(|own| &own.norm)
            .apply(x, SWIN_EPSILON)
            .map_linear(|x| x.reshape([batch_size, n_frames * (1 + per_frame), d_model]))
    }

    /// The index tables of the Swin transformer, by field path.
    pub(crate) fn index_tables(&self) -> impl Iterator<Item = (String, TensorData)> {
        self.swin
            .index_tables()
            .into_iter()
            .map(|(path, table)| (format!("swin.{path}"), table))
    }
}

/// Frames `[B, T, 3, H, W]` in `[0, 1]` to ImageNet's normalization; `hidden` patches,
/// `[B, T, h, w]`, become black before it.
pub(crate) fn normalize(frames: Tensor<5>, hidden: Option<Tensor<4, Bool>>) -> Tensor<5> {
    let dims = frames.dims();
    let [batch_size, n_frames, channels, height, width] = dims;
    let frames = match hidden {
        None => frames,
        Some(hidden) => {
            let [_, _, rows, columns] = hidden.dims();
            let n_images = batch_size * n_frames;
            let keep = hidden
                .bool_not()
                .float()
                .reshape([n_images, 1, rows, 1, columns, 1]);
            let (tall, wide) = (height / rows, width / columns);
            let blocks = frames.reshape([n_images, channels, rows, tall, columns, wide]);
            (blocks * keep).reshape(dims)
        }
    };
    let device = frames.device();
    let color =
        |values: [f32; 3]| Tensor::<1>::from_floats(values, &device).reshape([1, 1, 3, 1, 1]);
    (frames - color(COLOR_MEAN)) / color(COLOR_DEVIATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_patch_is_black_before_normalization_and_its_neighbors_are_not() {
        let device = Device::default();
        let frames = Tensor::<5>::ones([1, 1, 3, 64, 64], &device);
        let flags = TensorData::new(vec![false, true, false, false], [1, 1, 2, 2]);
        let hidden = Tensor::<4, Bool>::from_data(flags, &device);
        let out = normalize(frames, Some(hidden));
        let at = |channel: usize, row: usize, column: usize| -> f32 {
            out.clone()
                .slice([
                    0..1,
                    0..1,
                    channel..channel + 1,
                    row..row + 1,
                    column..column + 1,
                ])
                .into_scalar()
        };
        for (channel, (mean, deviation)) in COLOR_MEAN.into_iter().zip(COLOR_DEVIATION).enumerate()
        {
            let (black, white) = (-mean / deviation, (1.0 - mean) / deviation);
            for (row, column, expected) in [
                (0, 31, white),
                (0, 32, black),
                (31, 63, black),
                (32, 63, white),
                (63, 0, white),
            ] {
                let found = at(channel, row, column);
                assert!((found - expected).abs() < 1e-5, "{channel} {row} {column}");
            }
        }
    }
}
