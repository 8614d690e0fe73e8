//! Multi-head attention with separate projections of query, key and value.

use std::ops::Add;

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Device, Int, Tensor};
use meltr_core::{Dual, Pass, Weights};

use crate::layers::{bias, linear_layer, linear3, norm, norm_layer};
use crate::weighted_sum::weighted_sum;

/// Scaled dot-product attention over `n_heads` heads.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    n_heads: usize,
    dropout: f64,
}

impl Attention {
    pub(crate) fn new(d_model: usize, n_heads: usize, dropout: f64, device: &Device) -> Self {
        Self {
            query: linear_layer(d_model, d_model, device),
            key: linear_layer(d_model, d_model, device),
            value: linear_layer(d_model, d_model, device),
            n_heads,
            dropout,
        }
    }

    /// `queries` `[B, Lq, D]` attend to `keys` `[B, Lk, D]`; `scores` `[B, 1, 1 or Lq, Lk]` is
    /// added before the softmax. Output `[B, Lq, D]`.
    pub(crate) fn forward(
        weights: Weights<'_, Self>,
        queries: Dual<3>,
        keys: Dual<3>,
        scores: Tensor<4>,
        pass: Pass,
    ) -> Dual<3> {
        let query = weights.query_heads(queries);
        let memory = Self::remember(weights, keys);
        weights.attend(query, memory, Some(scores), pass)
    }

    /// As [`forward`](Self::forward) with one query an item, `[B, 1, D]`, to `keys` `[B, L, D]`;
    /// `scores` is `[B, 1, 1, L]`. Output `[B, 1, D]`.
    ///
    /// No token is projected to a key or a value. With the query `q` of a head and the head's part
    /// of the maps of keys and values, the score of token `x` is `q·(Wk x + bk) = (Wkᵀ q)·x + q·bk`,
    /// and the sum of values with the weights `a` is `Wv (Σ a x) + bv Σ a`: two maps an item in the
    /// place of two a token, and products of `H` rows with the tokens themselves.
    pub(crate) fn forward_one(
        weights: Weights<'_, Self>,
        queries: Dual<3>,
        keys: Dual<3>,
        scores: Tensor<4>,
        pass: Pass,
    ) -> Dual<3> {
        let [batch_size, length, d_model] = keys.dims();
        let n_heads = weights.value.n_heads;
        let d_head = d_model / n_heads;
        let (key, value) = (weights.of(|own| &own.key), weights.of(|own| &own.value));
        // The head's part of a map or of its constant term: `[H, D, D/H]` and `[H, 1, D/H]`.
        let by_head = |layer: Weights<'_, Linear>| {
            layer.of(|own| &own.weight).dual().map_linear(|weight| {
                weight
                    .reshape([d_model, n_heads, d_head])
                    .permute([1, 0, 2])
            })
        };
        let bias_by_head = |layer| {
            bias(layer).map(|bias| bias.map_linear(|bias| bias.reshape([n_heads, 1, d_head])))
        };
        let swap = |x: Dual<3>| x.map_linear(|x| x.swap_dims(0, 1));
        let transposed = |x: Dual<3>| x.map_linear(|x| x.swap_dims(1, 2));

        let query = weights
            .query_heads(queries)
            .map_linear(|query| query.reshape([batch_size, n_heads, d_head]).swap_dims(0, 1));
        let direction = swap(query.clone().matmul(transposed(by_head(key)))); // [B, H, D]
        let mut products = direction
            .matmul(transposed(keys.clone())) // [B, H, L]
            .add_constant(scores.reshape([batch_size, 1, length]));
        if let Some(bias) = bias_by_head(key) {
            products = products.add(swap(query.matmul(transposed(bias))));
        }
        let dropout = weights.value.dropout;
        // The weights sum up to 1 unless some are dropped; then a column of ones gives their sum.
        let is_dropped = dropout > 0.0 && pass.is_stochastic();
        let mut summed = keys;
        if is_dropped {
            let ones = Tensor::ones(
                [batch_size, length, 1],
                (&summed.value.device(), summed.value.dtype()),
            );
            summed = Dual::cat(vec![summed, Dual::constant(ones)], 2);
        }
        let sum = swap(weighted_sum(products, summed, dropout, pass)); // [H, B, D or D + 1]
        let mut out = sum
            .clone()
            .map_linear(|x| x.narrow(2, 0, d_model))
            .matmul(by_head(value)); // [H, B, D/H]
        if let Some(bias) = bias_by_head(value) {
            out = out.add(if is_dropped {
                sum.map_linear(|x| x.narrow(2, d_model, 1)).matmul(bias)
            } else {
                bias
            });
        }
        swap(out).map_linear(|x| x.reshape([batch_size, 1, d_model]))
    }

    /// All pairs of texts `[Bt, L, D]` and videos `[Bv, F, D]`: every token of a pair attends to
    /// all tokens of the pair. `scores` is `[Bt * Bv, 1, 1, L + F]`; output
    /// `[Bt * Bv, L + F, D]`, text-major.
    ///
    /// Queries, keys and values are projected once per text and once per video, not once per pair.
    pub(crate) fn forward_pairs(
        weights: Weights<'_, Self>,
        texts: Dual<3>,
        videos: Dual<3>,
        scores: Tensor<4>,
        pass: Pass,
    ) -> Dual<3> {
        let d_head = texts.dims()[2] / weights.value.n_heads;
        let project = |layer: Weights<'_, Linear>, factor: f64| {
            let tokens = |x: &Dual<3>| {
                let x = linear3(layer, x.clone());
                if factor == 1.0 { x } else { x.scale(factor) }
            };
            weights.heads(all_pairs(tokens(&texts), tokens(&videos)))
        };
        let query = project(weights.of(|own| &own.query), 1.0 / (d_head as f64).sqrt());
        let memory = Memory {
            keys: project(weights.of(|own| &own.key), 1.0),
            values: project(weights.of(|own| &own.value), 1.0),
        };
        weights.attend(query, memory, Some(scores), pass)
    }

    /// Keys and values of tokens `[B, L, D]`, to be attended to later on.
    pub(crate) fn remember(weights: Weights<'_, Self>, x: Dual<3>) -> Memory {
        let key = linear3(weights.of(|own| &own.key), x.clone());
        let value = linear3(weights.of(|own| &own.value), x);
        Memory {
            keys: weights.heads(key),
            values: weights.heads(value),
        }
    }

    /// One more token of every row, `[N, 1, D]`, attends to the tokens before it and to itself,
    /// and is remembered with them. Output `[N, 1, D]`, in an evaluation pass.
    pub(crate) fn extend(
        weights: Weights<'_, Self>,
        x: Dual<3>,
        memory: &mut Option<Memory>,
    ) -> Dual<3> {
        let query = weights.query_heads(x.clone());
        let new = Self::remember(weights, x);
        let all = match memory.take() {
            Some(earlier) => earlier.append(new),
            None => new,
        };
        *memory = Some(all.clone());
        // Nothing is padding, and nothing comes later.
        weights.attend(query, all, None, Pass::Evaluation)
    }

    /// `queries` `[B, Lq, D]` attend to what is remembered of `B` items; `scores` `[B, 1, 1, Lk]`
    /// is added before the softmax. Output `[B, Lq, D]`, in an evaluation pass.
    pub(crate) fn recall(
        weights: Weights<'_, Self>,
        queries: Dual<3>,
        memory: &Memory,
        scores: Tensor<4>,
    ) -> Dual<3> {
        let query = weights.query_heads(queries);
        weights.attend(query, memory.clone(), Some(scores), Pass::Evaluation)
    }

    /// For each text, its one query attends to the keys of the text and of each video.
    ///
    /// - query: `[Bt, 1, D]`; text: `[Bt, L, D]`; video: `[Bv, F, D]`
    /// - scores of the text: `[Bt, 1, 1, L]`; of the video: `[Bv, 1, 1, F]`
    /// - output: `[Bt * Bv, D]`, text-major
    ///
    /// Keys and values are projected once per text and once per video, not once per pair.
    pub(crate) fn pairwise(
        weights: Weights<'_, Self>,
        query: Dual<3>,
        text: Masked,
        video: Masked,
        pass: Pass,
    ) -> Dual<2> {
        let [n_texts, length, d_model] = text.hidden.dims();
        let [n_videos, n_frames, _] = video.hidden.dims();
        let heads = weights.value.n_heads;
        let d_head = d_model / heads;
        let project = |layer: Weights<'_, Linear>, x: &Masked| {
            weights.heads(linear3(layer, x.hidden.clone()))
        };
        let (key, value) = (weights.of(|own| &own.key), weights.of(|own| &own.value));
        let query = weights.query_heads(query); // [Bt, H, 1, d]
        let (text_key, text_value) = (project(key, &text), project(value, &text));
        let (video_key, video_value) = (project(key, &video), project(value, &video));

        // The scores of a text's own tokens are the same for every video.
        let to_text = query
            .clone()
            .matmul(text_key.map_linear(|key| key.swap_dims(2, 3)))
            .add_constant(text.scores) // [Bt, H, 1, L]
            .map_linear(|x| x.swap_dims(1, 2).expand([n_texts, n_videos, heads, length]));
        let video_key = video_key.map_linear(|key| {
            key.permute([1, 3, 0, 2]) // [H, d, Bv, F]
                .reshape([1, heads, d_head, n_videos * n_frames])
        });
        let to_video = query
            .map_linear(|query| query.permute([2, 1, 0, 3])) // [1, H, Bt, d]
            .matmul(video_key)
            .map_linear(|x| {
                x.reshape([heads, n_texts, n_videos, n_frames])
                    .permute([1, 2, 0, 3])
            }) // [Bt, Bv, H, F]
            .add_constant(video.scores.reshape([1, n_videos, 1, n_frames]));
        let attention = Dual::cat(vec![to_text, to_video], 3)
            .softmax()
            .dropout(weights.value.dropout, pass);

        let from_text = attention
            .clone()
            .map_linear(|x| x.narrow(3, 0, length).permute([0, 2, 1, 3])) // [Bt, H, Bv, L]
            .matmul(text_value)
            .map_linear(|x| x.permute([0, 2, 1, 3])); // [Bt, Bv, H, d]
        let from_video = attention
            .map_linear(|x| x.narrow(3, length, n_frames).permute([1, 2, 0, 3])) // [Bv, H, Bt, F]
            .matmul(video_value)
            .map_linear(|x| x.permute([2, 0, 1, 3])); // [Bt, Bv, H, d]
        from_text
            .add(from_video)
            .map_linear(|x| x.reshape([n_texts * n_videos, d_model]))
    }
}

/// What both kinds of attention do with their weights.
trait Heads {
    /// Scaled queries as `[B, H, L, D/H]`.
    fn query_heads(&self, x: Dual<3>) -> Dual<4>;
    /// `[B, L, D]` to `[B, H, L, D/H]`.
    fn heads(&self, x: Dual<3>) -> Dual<4>;
    /// Scaled queries `[B, H, Lq, D/H]` attend to keys and values; output `[B, Lq, D]`.
    fn attend(
        &self,
        query: Dual<4>,
        memory: Memory,
        scores: Option<Tensor<4>>,
        pass: Pass,
    ) -> Dual<3>;
}

impl Heads for Weights<'_, Attention> {
    fn query_heads(&self, x: Dual<3>) -> Dual<4> {
        let d_head = x.dims()[2] / self.value.n_heads;
        let query = linear3(self.of(|own| &own.query), x);
        self.heads(query.scale(1.0 / (d_head as f64).sqrt()))
    }

    fn heads(&self, x: Dual<3>) -> Dual<4> {
        let [batch_size, length, d_model] = x.dims();
        let n_heads = self.value.n_heads;
        x.map_linear(|x| {
            x.reshape([batch_size, length, n_heads, d_model / n_heads])
                .swap_dims(1, 2)
        })
    }

    fn attend(
        &self,
        query: Dual<4>,
        memory: Memory,
        scores: Option<Tensor<4>>,
        pass: Pass,
    ) -> Dual<3> {
        let [batch_size, n_heads, n_queries, d_head] = query.dims();
        let products = query.matmul(memory.keys.map_linear(|key| key.swap_dims(2, 3)));
        let products = match scores {
            Some(scores) => products.add_constant(scores),
            None => products,
        };
        weighted_sum(products, memory.values, self.value.dropout, pass).map_linear(|x| {
            x.swap_dims(1, 2)
                .reshape([batch_size, n_queries, n_heads * d_head])
        })
    }
}

/// Tokens of texts `[Bt, L, D]` and of videos `[Bv, F, D]` as those of all pairs,
/// `[Bt * Bv, L + F, D]`, text-major.
pub(crate) fn all_pairs(texts: Dual<3>, videos: Dual<3>) -> Dual<3> {
    let [n_texts, length, d_model] = texts.dims();
    let [n_videos, n_frames, _] = videos.dims();
    let texts = texts.map_linear(|x| {
        x.unsqueeze_dim::<4>(1)
            .expand([n_texts, n_videos, length, d_model])
    });
    let videos = videos.map_linear(|x| {
        x.unsqueeze_dim::<4>(0)
            .expand([n_texts, n_videos, n_frames, d_model])
    });
    Dual::cat(vec![texts, videos], 2)
        .map_linear(|x| x.reshape([n_texts * n_videos, length + n_frames, d_model]))
}

/// Keys and values of tokens, `[B, H, L, D/H]` each.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    keys: Dual<4>,
    values: Dual<4>,
}

impl Memory {
    /// The rows `rows` of the first axis, in that order; rows may repeat.
    pub(crate) fn select(&self, rows: &Tensor<1, Int>) -> Self {
        let select = |x: &Dual<4>| x.clone().map_linear(|x| x.select(0, rows.clone()));
        Self {
            keys: select(&self.keys),
            values: select(&self.values),
        }
    }

    /// These tokens, then those of `later`.
    fn append(self, later: Self) -> Self {
        Self {
            keys: Dual::cat(vec![self.keys, later.keys], 2),
            values: Dual::cat(vec![self.values, later.values], 2),
        }
    }
}

/// Tokens `[B, L, D]` and the additive scores `[B, 1, 1, L]` of their padding.
#[derive(Debug, Clone)]
pub(crate) struct Masked {
    pub(crate) hidden: Dual<3>,
    pub(crate) scores: Tensor<4>,
}

/// Dense, dropout, layer normalization of the sum with the residual.
#[derive(Module, Debug)]
pub(crate) struct ResidualOutput {
    pub(crate) dense: Linear,
    pub(crate) layer_norm: LayerNorm,
    dropout: f64,
}

impl ResidualOutput {
    pub(crate) fn new(d_input: usize, d_model: usize, dropout: f64, device: &Device) -> Self {
        Self {
            dense: linear_layer(d_input, d_model, device),
            layer_norm: norm_layer(d_model, device),
            dropout,
        }
    }

    pub(crate) fn forward(
        weights: Weights<'_, Self>,
        x: Dual<3>,
        residual: Dual<3>,
        pass: Pass,
    ) -> Dual<3> {
        let x = linear3(weights.of(|own| &own.dense), x).dropout(weights.value.dropout, pass);
        norm(weights.of(|own| &own.layer_norm), x.add(residual))
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::TensorData;

    use super::*;

    const D_MODEL: usize = 12;

    /// Values between -0.6 and 0.6.
    fn arbitrary<const D: usize>(shape: [usize; D], phase: f64, device: &Device) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|at| (0.6 * (at as f64 * 0.7 + phase).sin()) as f32)
            .collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn attention(phase: f64, device: &Device) -> Attention {
        let mut attention = Attention::new(D_MODEL, 3, 0.3, device);
        for (index, layer) in [
            &mut attention.query,
            &mut attention.key,
            &mut attention.value,
        ]
        .into_iter()
        .enumerate()
        {
            let phase = phase + index as f64;
            let weight = arbitrary([D_MODEL, D_MODEL], phase, device);
            layer.weight = Param::from_tensor(weight);
            layer.bias = Some(Param::from_tensor(arbitrary(
                [D_MODEL],
                2.0 * phase,
                device,
            )));
        }
        attention
    }

    fn tokens(n_items: usize, length: usize, phase: f64, device: &Device) -> Dual<3> {
        let shape = [n_items, length, D_MODEL];
        Dual::new(
            arbitrary(shape, phase, device),
            arbitrary(shape, phase + 0.3, device),
        )
    }

    /// Values and tangents agree in every pass, with the same masks of dropout.
    fn assert_alike(
        device: &Device,
        found: impl Fn(Pass) -> Dual<3>,
        expected: impl Fn(Pass) -> Dual<3>,
    ) {
        for pass in [Pass::Evaluation, Pass::Stochastic { seed: 5 }] {
            pass.begin(device);
            let found = found(pass);
            pass.begin(device);
            let expected = expected(pass);
            let apart = |a: Tensor<3>, b: Tensor<3>| -> f32 { (a - b).abs().max().into_scalar() };
            assert_eq!(found.dims(), expected.dims());
            let error = apart(found.value, expected.value);
            assert!(error < 2e-6, "{pass:?}: value {error}");
            let error = apart(found.tangent.unwrap(), expected.tangent.unwrap());
            assert!(error < 5e-6, "{pass:?}: tangent {error}");
        }
    }

    #[test]
    fn one_query_attends_as_the_first_of_many() {
        let device = Device::default();
        let (own, direction) = (attention(0.1, &device), attention(0.4, &device));
        let weights = Weights::new(&own, &direction);
        let x = tokens(4, 7, 0.2, &device);
        let first = x.clone().map_linear(|x| x.narrow(1, 0, 1));
        let scores = arbitrary([4, 1, 1, 7], 0.9, &device) * 5.0;
        assert_alike(
            &device,
            |pass| Attention::forward_one(weights, first.clone(), x.clone(), scores.clone(), pass),
            |pass| Attention::forward(weights, first.clone(), x.clone(), scores.clone(), pass),
        );
    }

    #[test]
    fn pairs_attend_as_their_tokens_side_by_side() {
        let device = Device::default();
        let (own, direction) = (attention(0.1, &device), attention(0.4, &device));
        let weights = Weights::new(&own, &direction);
        let (texts, videos) = (tokens(2, 5, 0.2, &device), tokens(3, 4, 0.5, &device));
        let scores = arbitrary([6, 1, 1, 9], 0.9, &device) * 5.0;
        assert_alike(
            &device,
            |pass| {
                let (texts, videos) = (texts.clone(), videos.clone());
                Attention::forward_pairs(weights, texts, videos, scores.clone(), pass)
            },
            |pass| {
                let pairs = all_pairs(texts.clone(), videos.clone());
                Attention::forward(weights, pairs.clone(), pairs, scores.clone(), pass)
            },
        );
    }
}
