//! The transformer: patches to tokens, and pre-norm blocks over tokens of words, patches or both.

use std::ops::Add;

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Device, Tensor};
use meltr_core::{Dual, Pass, Weights, dropout};

use super::config::AllInOneConfig;
use super::rolling::Rolling;
use crate::layers::{linear_columns, linear_layer, linear3, norm_layer, zeros_param};
use crate::univl_batch::index_tensor;
use crate::weighted_sum::weighted_sum;

/// Epsilon of the layer normalizations of the blocks and after them, inside of the square root.
const EPSILON: f64 = 1e-6;

/// Color channels.
const CHANNELS: usize = 3;

/// A convolution whose stride is its height and width, with PyTorch's weight.
#[derive(Module, Debug)]
struct Projection {
    /// `[D, 3, side, side]`
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
}

/// A linear map of square patches of pixels.
#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Projection,
}

impl PatchEmbed {
    /// Frames `[B, T, 3, H, W]` to `[B * T, P, D]`, patches row-major.
    ///
    /// The frames are constants, so that only the weight's product is on the tape.
    fn forward(weights: Weights<'_, Self>, frames: Tensor<5>) -> Dual<3> {
        let [batch_size, n_frames, ..] = frames.dims();
        let n_images = batch_size * n_frames;
        let proj = weights.of(|own| &own.proj);
        let weight = proj.of(|own| &own.weight).dual();
        let [d_model, _, side, _] = weight.dims();
        let patches = patches(frames, side);
        let [rows, size] = patches.dims();
        let matrix = weight.map_linear(|weight| weight.reshape([d_model, size]).transpose());
        let bias = proj.of(|own| &own.bias).dual();
        Dual::constant(patches)
            .affine(matrix, Some(bias))
            .map_linear(|x| x.reshape([n_images, rows / n_images, d_model]))
    }
}

/// Every patch as a row, `[B * T * P, 3 * side * side]`; within a row channel, height, width.
fn patches(frames: Tensor<5>, side: usize) -> Tensor<2> {
    let [batch_size, n_frames, channels, height, width] = frames.dims();
    let n_images = batch_size * n_frames;
    let (rows, columns) = (height / side, width / side);
    frames
        .reshape([n_images, channels, rows, side, columns, side])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([n_images * rows * columns, channels * side * side])
}

/// Multi-head attention with one matrix for query, key and value.
#[derive(Module, Debug)]
struct PackedAttention {
    qkv: Linear,
    proj: Linear,
    n_heads: usize,
    dropout: f64,
}

impl PackedAttention {
    /// `queries` `[N, Lq, D]` attend to `keys` `[N, L, D]`; output `[N, Lq, D]`.
    fn forward(
        weights: Weights<'_, Self>,
        queries: Dual<3>,
        keys: Dual<3>,
        scores: Option<Tensor<4>>,
        pass: Pass,
    ) -> Dual<3> {
        let [n_sequences, n_queries, d_model] = queries.dims();
        let n_heads = weights.value.n_heads;
        let d_head = d_model / n_heads;
        let heads = |x: Dual<3>, part: usize| {
            let [rows, length, _] = x.dims();
            let x = x.map_linear(|x| x.reshape([rows * length, d_model]));
            linear_columns(weights.of(|own| &own.qkv), x, part * d_model, d_model).map_linear(
                |x| x.reshape([rows, length, n_heads, d_head]).swap_dims(1, 2), // [N, H, L, d]
            )
        };
        let query = heads(queries, 0).scale(1.0 / (d_head as f64).sqrt());
        let key = heads(keys.clone(), 1).map_linear(|key| key.swap_dims(2, 3));
        let products = query.matmul(key);
        let products = match scores {
            Some(scores) => products.add_constant(scores),
            None => products,
        };
        // The attention weights see no dropout.
        let attended = weighted_sum(products, heads(keys, 2), 0.0, pass)
            .map_linear(|x| x.swap_dims(1, 2).reshape([n_sequences, n_queries, d_model]));
        linear3(weights.of(|own| &own.proj), attended).dropout(weights.value.dropout, pass)
    }
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    dropout: f64,
}

/// Pre-norm block with stochastic depth.
#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: PackedAttention,
    norm2: LayerNorm,
    mlp: Mlp,
    drop_path: f64,
}

impl Block {
    fn new(config: &AllInOneConfig, drop_path: f64, device: &Device) -> Self {
        let (d_model, dropout) = (config.d_model, config.dropout);
        Self {
            norm1: norm_layer(d_model, device),
            attn: PackedAttention {
                qkv: linear_layer(d_model, 3 * d_model, device),
                proj: linear_layer(d_model, d_model, device),
                n_heads: config.n_heads,
                dropout,
            },
            norm2: norm_layer(d_model, device),
            mlp: Mlp {
                fc1: linear_layer(d_model, config.d_ff, device),
                fc2: linear_layer(config.d_ff, d_model, device),
                dropout,
            },
            drop_path,
        }
    }

    /// `[N, L, D]` to the first `n_outputs` tokens of every sequence, `[N, n_outputs, D]`; the
    /// others are keys and values, but nobody asks for their outputs.
    fn forward(
        weights: Weights<'_, Self>,
        x: Dual<3>,
        scores: Option<Tensor<4>>,
        n_outputs: usize,
        pass: Pass,
    ) -> Dual<3> {
        let prob = weights.value.drop_path;
        let keys = weights.of(|own| &own.norm1).apply(x.clone(), EPSILON);
        let queries = first_tokens(keys.clone(), n_outputs);
        let attn = weights.of(|own| &own.attn);
        let attended = PackedAttention::forward(attn, queries, keys, scores, pass);
        let x = first_tokens(x, n_outputs).add(drop_path(attended, prob, pass));

        let mlp = weights.of(|own| &own.mlp);
        let hidden = weights.of(|own| &own.norm2).apply(x.clone(), EPSILON);
        let hidden = linear3(mlp.of(|own| &own.fc1), hidden)
            .gelu()
            .dropout(mlp.value.dropout, pass);
        let hidden = linear3(mlp.of(|own| &own.fc2), hidden).dropout(mlp.value.dropout, pass);
        x.add(drop_path(hidden, prob, pass))
    }
}

/// The first `count` tokens of every sequence.
fn first_tokens(x: Dual<3>, count: usize) -> Dual<3> {
    if x.dims()[1] == count {
        return x;
    }
    x.map_linear(|x| x.narrow(1, 0, count))
}

/// Zeroes whole sequences with probability `prob` and scales the others by `1/(1 - prob)`.
fn drop_path(x: Dual<3>, prob: f64, pass: Pass) -> Dual<3> {
    if prob == 0.0 || !pass.is_stochastic() {
        return x;
    }
    let one_per_sequence = x.value.clone().narrow(1, 0, 1).narrow(2, 0, 1).ones_like();
    let keep = dropout(one_per_sequence, prob, pass); // [N, 1, 1]
    x.map_linear(|x| x * keep.clone())
}

/// What the blocks are told beside the tokens.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    /// Added to the scores of the keys, `[N, 1, 1, L]`; `None` if nothing is padding.
    pub(crate) scores: Option<Tensor<4>>,
    /// What moves in time before every block; `None` for nothing.
    pub(crate) rolling: Option<Rolling>,
    /// How many tokens of a sequence, from the first on, are read afterwards.
    pub(crate) n_outputs: usize,
}

/// The vision transformer that words go through as well.
///
/// # References
///
/// - Dosovitskiy et al., [An Image is Worth 16x16 Words](https://arxiv.org/abs/2010.11929),
///   ICLR 2021.
/// - Reference code: `mlvlab/MELTR@669ad60`,
///   `allinone/AllInOne/modules/base_vision_transformer.py`. Departs from it in that every patch
///   of a frame counts, also a black one.
#[derive(Module, Debug)]
pub(crate) struct VisionTransformer {
    /// `[1, 1, D]`
    cls_token: Param<Tensor<3>>,
    /// `[1, 1 + P, D]`
    pos_embed: Param<Tensor<3>>,
    /// `[1, frames, D]`
    temporal_embed: Param<Tensor<3>>,
    patch_embed: PatchEmbed,
    blocks: Vec<Block>,
    norm: LayerNorm,
    dropout: f64,
}

impl VisionTransformer {
    pub(crate) fn new(config: &AllInOneConfig, device: &Device) -> Self {
        let (d_model, side) = (config.d_model, config.patch_size);
        let table = |count| Param::from_tensor(Tensor::<3>::zeros([1, count, d_model], device));
        // Stochastic depth grows linearly from 0 at the first block.
        let steps = config.n_layers.saturating_sub(1).max(1) as f64;
        Self {
            cls_token: table(1),
            pos_embed: table(1 + config.n_patches()),
            temporal_embed: table(config.n_frames),
            patch_embed: PatchEmbed {
                proj: Projection {
                    weight: Param::from_tensor(Tensor::zeros(
                        [d_model, CHANNELS, side, side],
                        device,
                    )),
                    bias: zeros_param(d_model, device),
                },
            },
            blocks: (0..config.n_layers)
                .map(|block| Block::new(config, config.drop_path * block as f64 / steps, device))
                .collect(),
            norm: norm_layer(d_model, device),
            dropout: config.dropout,
        }
    }

    /// Frames `[B, T, 3, S, S]` to tokens `[B * T, 1 + P, D]`, each frame's `[CLS]` before its
    /// patches; `order` has the patch at each place, `[B * T * P]`, and is row-major if absent.
    pub(crate) fn embed(
        weights: Weights<'_, Self>,
        frames: Tensor<5>,
        order: Option<&[i64]>,
        pass: Pass,
    ) -> Dual<3> {
        let [batch_size, n_frames, ..] = frames.dims();
        let n_images = batch_size * n_frames;
        let device = frames.device();
        let patches = PatchEmbed::forward(weights.of(|own| &own.patch_embed), frames);
        let [_, n_patches, d_model] = patches.dims();
        let places = weights.of(|own| &own.pos_embed).dual();
        assert_eq!(
            places.dims()[1],
            1 + n_patches,
            "frames have another size than the model's table of places"
        );
        let of_patches = places.clone().map_linear(|x| {
            x.narrow(1, 1, n_patches)
                .reshape([1, 1, n_patches, d_model])
        });
        let of_frames = weights
            .of(|own| &own.temporal_embed)
            .dual()
            .map_linear(|x| x.narrow(1, 0, n_frames).reshape([1, n_frames, 1, d_model]));
        let patches = patches
            .map_linear(|x| x.reshape([batch_size, n_frames, n_patches, d_model]))
            .add(of_patches.add(of_frames));
        let patches = match order {
            None => patches.map_linear(|x| x.reshape([n_images, n_patches, d_model])),
            Some(order) => {
                let rows = index_tensor(&rows_in_order(order, n_patches), &device);
                patches.map_linear(|x| {
                    x.reshape([n_images * n_patches, d_model])
                        .select(0, rows.clone())
                        .reshape([n_images, n_patches, d_model])
                })
            }
        };
        let cls = weights
            .of(|own| &own.cls_token)
            .dual()
            .add(places.map_linear(|x| x.narrow(1, 0, 1)))
            .map_linear(|x| x.expand([n_images, 1, d_model]));
        Dual::cat(vec![cls, patches], 1).dropout(weights.value.dropout, pass)
    }

    /// The blocks and the final normalization, `[N, L, D]` to `[N, n_outputs, D]`.
    pub(crate) fn forward(
        weights: Weights<'_, Self>,
        x: Dual<3>,
        sequence: &Sequence,
        pass: Pass,
    ) -> Dual<3> {
        let length = x.dims()[1];
        let blocks = weights.of(|own| &own.blocks).iter();
        let last = blocks.len().saturating_sub(1);
        let x = blocks.enumerate().fold(x, |x, (index, block)| {
            let x = match sequence.rolling {
                Some(rolling) => x.map_linear(|x| rolling.apply(x)),
                None => x,
            };
            let n_outputs = if index == last {
                sequence.n_outputs
            } else {
                length
            };
            Block::forward(block, x, sequence.scores.clone(), n_outputs, pass)
        });
        weights.of(|own| &own.norm).apply(x, EPSILON)
    }
}

/// Rows of the flattened `[images * P]` that put the patches of every image into its order.
fn rows_in_order(order: &[i64], n_patches: usize) -> Vec<i64> {
    order
        .iter()
        .enumerate()
        .map(|(place, patch)| (place / n_patches * n_patches) as i64 + patch)
        .collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use meltr_core::{Fill, initialize};

    use super::*;
    use crate::allinone::AllInOneTask;

    fn transformer(n_layers: usize) -> VisionTransformer {
        let config = AllInOneConfig {
            d_model: 8,
            n_heads: 2,
            d_ff: 12,
            n_layers,
            image_size: 4,
            patch_size: 2,
            n_frames: 2,
            drop_path: 0.5,
            ..AllInOneConfig::mini(AllInOneTask::Retrieval, 10)
        };
        let model = VisionTransformer::new(&config, &Device::default());
        initialize(model, 7, |site| match site.module {
            "LayerNorm" => Fill::Keep,
            _ => Fill::Normal(0.5),
        })
    }

    fn tokens(rows: usize, length: usize) -> Dual<3> {
        let count = rows * length * 8;
        let values: Vec<f32> = (0..count).map(|at| (at as f32 * 0.7).sin()).collect();
        let data = TensorData::new(values, [rows, length, 8]);
        Dual::constant(Tensor::from_data(data, &Device::default()))
    }

    fn largest_difference(a: Tensor<3>, b: Tensor<3>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    #[test]
    fn a_patch_holds_its_pixels_channel_by_channel() {
        // One frame of 4 x 4 pixels.
        let values: Vec<f32> = (0..48).map(|at| at as f32).collect();
        let frames = TensorData::new(values, [1, 1, 3, 4, 4]);
        let patches = patches(Tensor::from_data(frames, &Device::default()), 2);
        assert_eq!(patches.dims(), [4, 12]);
        let values: Vec<f32> = patches.into_data().iter::<f32>().collect();
        // The upper right patch.
        let expected = [2, 3, 6, 7, 18, 19, 22, 23, 34, 35, 38, 39].map(|at| at as f32);
        assert_eq!(values[12..24], expected);
    }

    #[test]
    fn an_order_of_patches_moves_tokens_with_their_places() {
        let model = transformer(1);
        let weights = Weights::constant(&model);
        let values: Vec<f32> = (0..96).map(|at| (at as f32).cos()).collect();
        let frames = TensorData::new(values, [1, 2, 3, 4, 4]);
        let frames = Tensor::<5>::from_data(frames, &Device::default());
        let plain = VisionTransformer::embed(weights, frames.clone(), None, Pass::Evaluation);
        let order = [3, 0, 2, 1, 0, 1, 2, 3];
        let moved = VisionTransformer::embed(weights, frames, Some(&order), Pass::Evaluation);
        let (plain, moved) = (plain.value, moved.value);
        for (place, patch) in order.into_iter().enumerate() {
            let (image, place) = (place / 4, place % 4);
            let token =
                |x: &Tensor<3>, at: usize| x.clone().narrow(0, image, 1).narrow(1, 1 + at, 1);
            let apart = largest_difference(token(&moved, place), token(&plain, patch as usize));
            assert_eq!(apart, 0.0, "image {image}, place {place}");
        }
        let cls = |x: Tensor<3>| x.narrow(1, 0, 1);
        assert_eq!(largest_difference(cls(plain), cls(moved)), 0.0);
    }

    #[test]
    fn fewer_outputs_are_the_first_of_all_outputs() {
        let model = transformer(2);
        let weights = Weights::constant(&model);
        let forward = |n_outputs| {
            let sequence = Sequence {
                scores: None,
                rolling: Some(Rolling {
                    first_token: 2,
                    n_frames: 2,
                }),
                n_outputs,
            };
            VisionTransformer::forward(weights, tokens(4, 11), &sequence, Pass::Evaluation).value
        };
        let (all, two) = (forward(11), forward(2));
        assert_eq!(two.dims(), [4, 2, 8]);
        assert!(largest_difference(all.narrow(1, 0, 2), two) < 1e-5);
    }

    #[test]
    fn stochastic_depth_keeps_or_drops_whole_sequences() {
        let x = tokens(40, 3);
        let pass = Pass::Stochastic { seed: 1 };
        pass.begin(&Device::default());
        let dropped = drop_path(x.clone(), 0.5, pass).value;
        let (before, after): (Vec<f32>, Vec<f32>) = (
            x.value.into_data().iter::<f32>().collect(),
            dropped.into_data().iter::<f32>().collect(),
        );
        let mut n_kept = 0;
        for (before, after) in before.chunks(24).zip(after.chunks(24)) {
            let doubled: Vec<f32> = before.iter().map(|value| 2.0 * value).collect();
            if after == doubled {
                n_kept += 1;
            } else {
                assert!(after.iter().all(|value| *value == 0.0));
            }
        }
        assert!((8..=32).contains(&n_kept), "{n_kept} of 40");
    }
}
