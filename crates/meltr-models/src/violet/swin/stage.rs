//! A stage: blocks on one grid, every second one with shifted windows, then merging.

use burn::module::Module;
use burn::tensor::Device;
use meltr_core::{Dual, Pass, Weights};

use super::patch_merging::PatchMerging;
use super::swin_block::SwinBlock;
use super::window::{Extent, Shift, WindowBias};
use super::window_attention::WindowPlan;
use crate::layers::optional;
use crate::violet::config::SwinConfig;

/// Blocks of one width.
#[derive(Module, Debug)]
pub(crate) struct Stage {
    blocks: Vec<SwinBlock>,
    /// Absent after the last stage.
    downsample: Option<PatchMerging>,
    window: [usize; 3],
    #[module(skip)]
    window_bias: WindowBias,
}

impl Stage {
    pub(crate) fn new(config: &SwinConfig, index: usize, device: &Device) -> Self {
        let width = config.width(index);
        let n_before: usize = config.depths[..index].iter().sum();
        let n_blocks: usize = config.depths.iter().sum();
        // Stochastic depth grows linearly from 0 at the first block of all to its full value.
        let step = config.drop_path / (n_blocks.max(2) - 1) as f64;
        let is_last = index + 1 == config.depths.len();
        Self {
            blocks: (0..config.depths[index])
                .map(|block| {
                    SwinBlock::new(
                        width,
                        config.n_heads[index],
                        config.window,
                        step * (n_before + block) as f64,
                        device,
                    )
                })
                .collect(),
            downsample: (!is_last).then(|| PatchMerging::new(width, device)),
            window: config.window,
            window_bias: config.window_bias,
        }
    }

    /// The full window.
    pub(crate) fn window(&self) -> Extent {
        self.window
    }

    pub(crate) fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Tokens `[B, T * H * W, C]` of a grid to those of the next stage's, and that grid.
    pub(crate) fn forward(
        weights: Weights<'_, Self>,
        x: Dual<3>,
        grid: Extent,
        pass: Pass,
    ) -> (Dual<3>, Extent) {
        let x = Self::blocks(weights, x, grid, pass);
        match optional(weights.of(|own| &own.downsample)) {
            Some(downsample) => {
                let [t, h, w] = grid;
                let x = PatchMerging::forward(downsample, x, grid);
                (x, [t, h / 2, w / 2])
            }
            None => (x, grid),
        }
    }

    /// What the linear map of the merging reads of the tokens of a grid,
    /// `[B, T * H/2 * W/2, 4 C]`; the tokens of the last stage, which merges none.
    pub(crate) fn merging_input(
        weights: Weights<'_, Self>,
        x: Dual<3>,
        grid: Extent,
        pass: Pass,
    ) -> Dual<3> {
        let x = Self::blocks(weights, x, grid, pass);
        match optional(weights.of(|own| &own.downsample)) {
            Some(downsample) => PatchMerging::gathered(downsample, x, grid),
            None => x,
        }
    }

    /// The blocks, `[B, T * H * W, C]` to the same shape.
    fn blocks(weights: Weights<'_, Self>, x: Dual<3>, grid: Extent, pass: Pass) -> Dual<3> {
        let own = weights.value;
        let device = x.value.device();
        let plans = [Shift::None, Shift::Half]
            .map(|shift| WindowPlan::new(grid, own.window, shift, own.window_bias, &device));
        let blocks = weights.of(|own| &own.blocks).iter().enumerate();
        blocks.fold(x, |x, (index, block)| {
            SwinBlock::forward(block, x, &plans[index % 2], pass)
        })
    }
}
