//! Multi-head attention with separate projections of query, key and value.

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};
use meltr_core::{Pass, dropout};

use crate::layers::{linear_layer, linear3, norm_layer};

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
        &self,
        queries: Tensor<3>,
        keys: Tensor<3>,
        scores: Tensor<4>,
        pass: Pass,
    ) -> Tensor<3> {
        let [batch_size, n_queries, d_model] = queries.dims();
        let query = self.query_heads(queries);
        let key = self.heads(linear3(&self.key, keys.clone()));
        let value = self.heads(linear3(&self.value, keys));
        let attention = softmax(query.matmul(key.swap_dims(2, 3)) + scores, 3);
        dropout(attention, self.dropout, pass)
            .matmul(value)
            .swap_dims(1, 2)
            .reshape([batch_size, n_queries, d_model])
    }

    /// For each text, its one query attends to the keys of the text and of each video.
    ///
    /// - query: `[Bt, 1, D]`; text: `[Bt, L, D]`; video: `[Bv, F, D]`
    /// - text_scores: `[Bt, 1, 1, L]`; video_scores: `[Bv, 1, 1, F]`
    /// - output: `[Bt * Bv, D]`, text-major
    ///
    /// Keys and values are projected once per text and once per video, not once per pair.
    pub(crate) fn pairwise(
        &self,
        query: Tensor<3>,
        text: (Tensor<3>, Tensor<4>),
        video: (Tensor<3>, Tensor<4>),
        pass: Pass,
    ) -> Tensor<2> {
        let ((text, text_scores), (video, video_scores)) = (text, video);
        let [n_texts, length, d_model] = text.dims();
        let [n_videos, n_frames, _] = video.dims();
        let (heads, d_head) = (self.n_heads, d_model / self.n_heads);

        let query = self.query_heads(query); // [Bt, H, 1, d]
        let text_key = self.heads(linear3(&self.key, text.clone()));
        let text_value = self.heads(linear3(&self.value, text)); // [Bt, H, L, d]
        let video_key = self.heads(linear3(&self.key, video.clone()));
        let video_value = self.heads(linear3(&self.value, video)); // [Bv, H, F, d]

        // The scores of a text's own tokens are the same for every video.
        let to_text = query.clone().matmul(text_key.swap_dims(2, 3)) + text_scores; // [Bt, H, 1, L]
        let to_text = to_text.swap_dims(1, 2).expand([n_texts, n_videos, heads, length]);
        let to_video = query
            .permute([2, 1, 0, 3]) // [1, H, Bt, d]
            .matmul(
                video_key
                    .permute([1, 3, 0, 2]) // [H, d, Bv, F]
                    .reshape([1, heads, d_head, n_videos * n_frames]),
            )
            .reshape([heads, n_texts, n_videos, n_frames])
            .permute([1, 2, 0, 3]) // [Bt, Bv, H, F]
            + video_scores.reshape([1, n_videos, 1, n_frames]);
        let attention =
            dropout(softmax(Tensor::cat(vec![to_text, to_video], 3), 3), self.dropout, pass);

        let from_text = attention
            .clone()
            .narrow(3, 0, length)
            .permute([0, 2, 1, 3]) // [Bt, H, Bv, L]
            .matmul(text_value)
            .permute([0, 2, 1, 3]); // [Bt, Bv, H, d]
        let from_video = attention
            .narrow(3, length, n_frames)
            .permute([1, 2, 0, 3]) // [Bv, H, Bt, F]
            .matmul(video_value)
            .permute([2, 0, 1, 3]); // [Bt, Bv, H, d]
        (from_text + from_video).reshape([n_texts * n_videos, d_model])
    }

    /// Scaled queries as `[B, H, L, D/H]`.
    fn query_heads(&self, x: Tensor<3>) -> Tensor<4> {
        let d_head = x.dims()[2] / self.n_heads;
        self.heads(linear3(&self.query, x) / (d_head as f64).sqrt())
    }

    /// `[B, L, D]` to `[B, H, L, D/H]`.
    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch_size, length, d_model] = x.dims();
        x.reshape([batch_size, length, self.n_heads, d_model / self.n_heads]).swap_dims(1, 2)
    }
}

/// Dense, dropout, layer normalisation of the sum with the residual.
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

    pub(crate) fn forward(&self, x: Tensor<3>, residual: Tensor<3>, pass: Pass) -> Tensor<3> {
        let x = dropout(linear3(&self.dense, x), self.dropout, pass);
        self.layer_norm.forward(x + residual)
    }
}
