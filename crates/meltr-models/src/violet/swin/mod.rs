//! The video Swin transformer: attention in windows over time, height and width.

mod patch_embed;
mod patch_merging;
mod stage;
mod swin_block;
mod window;
mod window_attention;

use burn::module::Module;
use burn::nn::LayerNorm;
use burn::tensor::{Device, Tensor, TensorData};
use meltr_core::{Dual, Pass, Weights};

use crate::layers::norm_layer;
use crate::violet::config::SwinConfig;
use patch_embed::PatchEmbed;
use stage::Stage;
use window::{Extent, bias_rows};

pub use window::WindowBias;

/// Side of the square of pixels that becomes one token, before any merging.
pub(crate) const PATCH_SIZE: usize = 4;

/// Epsilon of every layer normalization of the frame encoder, inside of the square root.
pub(crate) const SWIN_EPSILON: f64 = 1e-5;

/// Windowed attention over a grid of tokens whose height and width are halved three times.
///
/// # References
///
/// - Liu et al., [Video Swin Transformer](https://arxiv.org/abs/2106.13230), CVPR 2022.
/// - Reference code: `mlvlab/MELTR@669ad60`, `violet/video_swin.py`. Departs from it in that
///   height and width have to be multiples of 32, so that neither the patches nor the merging
///   need padding.
#[derive(Module, Debug)]
pub(crate) struct VideoSwin {
    patch_embed: PatchEmbed,
    layers: Vec<Stage>,
    norm: LayerNorm,
}

impl VideoSwin {
    pub(crate) fn new(config: &SwinConfig, device: &Device) -> Self {
        Self {
            patch_embed: PatchEmbed::new(config.embed_dim, device),
            layers: (0..config.depths.len())
                .map(|index| Stage::new(config, index, device))
                .collect(),
            norm: norm_layer(config.d_model(), device),
        }
    }

    /// Normalized frames `[B, T, 3, H, W]` to tokens `[B, T * H/32 * W/32, D]`, time-major.
    pub(crate) fn forward(weights: Weights<'_, Self>, frames: Tensor<5>, pass: Pass) -> Dual<3> {
        let (mut x, mut grid) = Self::embed(weights, frames);
        for layer in weights.of(|own| &own.layers).iter() {
            (x, grid) = Stage::forward(layer, x, grid, pass);
        }
        weights.of(|own| &own.norm).apply(x, SWIN_EPSILON)
    }

    /// What the linear map of the last merging reads of normalized frames `[B, T, 3, H, W]`,
    /// `[B, T * H/32 * W/32, 2 D]`.
    pub(crate) fn last_merging_input(
        weights: Weights<'_, Self>,
        frames: Tensor<5>,
        pass: Pass,
    ) -> Dual<3> {
        let (mut x, mut grid) = Self::embed(weights, frames);
        let mut layers = weights.of(|own| &own.layers).iter();
        // The last stage merges nothing.
        layers.next_back();
        let merging = layers.next_back();
        for layer in layers {
            (x, grid) = Stage::forward(layer, x, grid, pass);
        }
        match merging {
            Some(layer) => Stage::merging_input(layer, x, grid, pass),
            None => x,
        }
    }

    /// The first tokens of frames, and their grid.
    fn embed(weights: Weights<'_, Self>, frames: Tensor<5>) -> (Dual<3>, Extent) {
        let [_, n_frames, _, height, width] = frames.dims();
        let grid = [n_frames, height / PATCH_SIZE, width / PATCH_SIZE];
        let x = PatchEmbed::forward(weights.of(|own| &own.patch_embed), frames);
        (x, grid)
    }

    /// The index tables that the published state dict holds beside the parameters, by field path.
    pub(crate) fn index_tables(&self) -> Vec<(String, TensorData)> {
        let mut tables = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let window = layer.window();
            let size: usize = window.iter().product();
            let rows = bias_rows(window, window, WindowBias::Published);
            let table = TensorData::new(rows, [size, size]);
            for block in 0..layer.n_blocks() {
                let name = format!("layers.{index}.blocks.{block}.attn.relative_position_index");
                tables.push((name, table.clone()));
            }
        }
        tables
    }
}
