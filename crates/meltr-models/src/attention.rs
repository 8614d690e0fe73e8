//! Multi-head attention with separate projections of query, key and value.

use std::ops::Add;

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Device, Int, Tensor};
use meltr_core::{Dual, Pass, Weights};

use crate::layers::{linear_layer, linear3, norm, norm_layer};
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
