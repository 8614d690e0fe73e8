//! One block: attention in windows, then feed-forward, each on normalized input with a residual.

use std::ops::Add;

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::Device;
use meltr_core::{Dual, Pass, Weights, dropout};

use super::SWIN_EPSILON;
use super::window::Extent;
use super::window_attention::{WindowAttention, WindowPlan};
use crate::layers::{linear_layer, linear3, norm_layer};

/// Hidden width of the feed-forward part for each of its inputs.
const MLP_RATIO: usize = 4;

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

/// Pre-norm block with stochastic depth.
#[derive(Module, Debug)]
pub(crate) struct SwinBlock {
    norm1: LayerNorm,
    attn: WindowAttention,
    norm2: LayerNorm,
    mlp: Mlp,
    drop_path: f64,
}

impl SwinBlock {
    /// `drop_path` is the probability that an item skips a branch in a stochastic pass.
    pub(crate) fn new(
        width: usize,
        n_heads: usize,
        window: Extent,
        drop_path: f64,
        device: &Device,
    ) -> Self {
        Self {
            norm1: norm_layer(width, device),
            attn: WindowAttention::new(width, n_heads, window, device),
            norm2: norm_layer(width, device),
            mlp: Mlp {
                fc1: linear_layer(width, MLP_RATIO * width, device),
                fc2: linear_layer(MLP_RATIO * width, width, device),
            },
            drop_path,
        }
    }

    /// Tokens `[B, T * H * W, C]` to the same shape.
    pub(crate) fn forward(
        weights: Weights<'_, Self>,
        x: Dual<3>,
        plan: &WindowPlan,
        pass: Pass,
    ) -> Dual<3> {
        let prob = weights.value.drop_path;
        let windows = weights
            .of(|own| &own.norm1)
            .apply(x.clone(), SWIN_EPSILON)
            .map_linear(|x| plan.windows.partition(x));
        let attended = WindowAttention::forward(weights.of(|own| &own.attn), windows, plan)
            .map_linear(|x| plan.windows.merge(x));
        let x = x.add(drop_path(attended, prob, pass));
        let mlp = weights.of(|own| &own.mlp);
        let hidden = weights.of(|own| &own.norm2).apply(x.clone(), SWIN_EPSILON);
        let hidden = linear3(mlp.of(|own| &own.fc1), hidden).gelu();
        let hidden = linear3(mlp.of(|own| &own.fc2), hidden);
        x.add(drop_path(hidden, prob, pass))
    }
}

/// Zeroes whole items with probability `prob` and scales the others by `1/(1 - prob)`.
fn drop_path(x: Dual<3>, prob: f64, pass: Pass) -> Dual<3> {
    if prob == 0.0 || !pass.is_stochastic() {
        return x;
    }
    let one_per_item = x.value.clone().narrow(1, 0, 1).narrow(2, 0, 1).ones_like(); // [B, 1, 1]
    let keep = dropout(one_per_item, prob, pass);
    x.map_linear(|x| x * keep.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::{Tensor, TensorData};
    use meltr_core::{Fill, initialize};

    use super::*;
    use crate::violet::swin::window::{Shift, WindowBias, Windows};

    const GRID: Extent = [3, 4, 5];
    const WINDOW: Extent = [2, 3, 3];
    const WIDTH: usize = 4;

    fn block(drop_path: f64) -> SwinBlock {
        let block = SwinBlock::new(WIDTH, 2, WINDOW, drop_path, &Device::default());
        initialize(block, 3, |site| match site.module {
            "LayerNorm" => Fill::Keep,
            _ => Fill::Normal(0.5),
        })
    }

    fn tokens() -> Tensor<3> {
        let count = 60 * WIDTH;
        let values: Vec<f32> = (0..count).map(|at| (at as f32 * 0.7).sin()).collect();
        Tensor::from_data(TensorData::new(values, [1, 60, WIDTH]), &Device::default())
    }

    /// Places of the grid that may exchange anything, grouped: same window, same region.
    fn groups(windows: &Windows) -> BTreeMap<(usize, Vec<bool>), Vec<usize>> {
        let device = Device::default();
        let (n, size) = (windows.n_windows(), windows.n_tokens());
        let ids: Vec<f32> = (1..=60).map(|at| at as f32).collect();
        let ids = Tensor::from_data(TensorData::new(ids, [1, 60, 1]), &device);
        let ids: Vec<f32> = windows.partition(ids).into_data().iter::<f32>().collect();
        let scores: Vec<f32> = match windows.scores(&device) {
            Some(scores) => scores.into_data().iter::<f32>().collect(),
            None => vec![0.0; n * size * size],
        };
        let mut groups = BTreeMap::<_, Vec<usize>>::new();
        for (at, id) in ids.iter().enumerate() {
            if *id != 0.0 {
                let friends = scores[at * size..(at + 1) * size]
                    .iter()
                    .map(|score| *score == 0.0)
                    .collect();
                groups
                    .entry((at / size, friends))
                    .or_default()
                    .push(*id as usize - 1);
            }
        }
        groups
    }

    #[test]
    fn nothing_crosses_the_border_of_a_window_or_of_what_the_shift_joined() {
        let device = Device::default();
        let block = block(0.0);
        for shift in [Shift::None, Shift::Half] {
            let plan = WindowPlan::new(GRID, WINDOW, shift, WindowBias::Published, &device);
            let forward = |x: Tensor<3>| {
                let weights = Weights::constant(&block);
                SwinBlock::forward(weights, Dual::constant(x), &plan, Pass::Evaluation).value
            };
            let before = forward(tokens());
            for group in groups(&plan.windows).into_values() {
                let changed = tokens().slice_assign(
                    [0..1, group[0]..group[0] + 1, 0..WIDTH],
                    Tensor::from_data(
                        TensorData::new(vec![2.0f32, -1.0, 0.5, 1.5], [1, 1, WIDTH]),
                        &device,
                    ),
                );
                let apart: Vec<f32> = (forward(changed) - before.clone())
                    .abs()
                    .max_dim(2)
                    .into_data()
                    .iter::<f32>()
                    .collect();
                for (place, apart) in apart.into_iter().enumerate() {
                    assert_eq!(
                        group.contains(&place),
                        apart > 0.0,
                        "{shift:?}: {} reaches {place}: {apart}",
                        group[0]
                    );
                }
            }
        }
    }

    #[test]
    fn stochastic_depth_keeps_or_drops_whole_items() {
        let device = Device::default();
        let pass = Pass::Stochastic { seed: 5 };
        let ones = Dual::constant(Tensor::<3>::ones([64, 2, 3], &device));
        pass.begin(&device);
        let kept = drop_path(ones.clone(), 0.5, pass);
        let kept: Vec<f32> = kept.value.into_data().iter::<f32>().collect();
        let mut n_dropped = 0;
        for item in kept.chunks(6) {
            assert!(item.iter().all(|value| *value == item[0]));
            assert!(item[0] == 0.0 || item[0] == 2.0, "{}", item[0]);
            n_dropped += usize::from(item[0] == 0.0);
        }
        assert!((16..48).contains(&n_dropped), "{n_dropped}");
        let whole = drop_path(ones, 0.5, Pass::Evaluation).value;
        assert_eq!(whole.sum().into_scalar::<f32>(), 64.0 * 6.0);
    }
}
