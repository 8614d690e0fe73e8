//! The caption decoder.

use std::ops::Add;

use burn::module::Module;
use burn::nn::LayerNorm;
use burn::tensor::{Bool, Device, Int, Tensor};
use meltr_core::{Dual, Pass, Weights};

use crate::attention::{Attention, Memory, ResidualOutput};
use crate::bert::Intermediate;
use crate::cross::CrossOutput;
use crate::heads::TiedHead;
use crate::layers::{MASKED_SCORE, linear_layer, linear3, look_up, norm, norm_layer, positions};
use crate::univl_batch::index_tensor;
use crate::univl_config::UniVlConfig;

#[derive(Module, Debug)]
struct DecoderAttention {
    att: Attention,
    output: ResidualOutput,
}

impl DecoderAttention {
    fn new(config: &UniVlConfig, device: &Device) -> Self {
        let d_model = config.d_model;
        Self {
            att: Attention::new(d_model, config.n_heads, config.dropout, device),
            output: ResidualOutput::new(d_model, d_model, config.dropout, device),
        }
    }

    fn forward(
        weights: Weights<'_, Self>,
        x: Dual<3>,
        keys: Dual<3>,
        scores: Tensor<4>,
        pass: Pass,
    ) -> Dual<3> {
        let attended =
            Attention::forward(weights.of(|own| &own.att), x.clone(), keys, scores, pass);
        ResidualOutput::forward(weights.of(|own| &own.output), attended, x, pass)
    }

    /// One more token of every row, `[N, 1, D]`, attends to those before it and to itself.
    fn extend(weights: Weights<'_, Self>, x: Dual<3>, memory: &mut Option<Memory>) -> Dual<3> {
        let attended = Attention::extend(weights.of(|own| &own.att), x.clone(), memory);
        let output = weights.of(|own| &own.output);
        ResidualOutput::forward(output, attended, x, Pass::Evaluation)
    }

    /// Tokens `[B, K, D]` attend to what is remembered of `B` items.
    fn recall(
        weights: Weights<'_, Self>,
        x: Dual<3>,
        memory: &Memory,
        scores: Tensor<4>,
    ) -> Dual<3> {
        let attended = Attention::recall(weights.of(|own| &own.att), x.clone(), memory, scores);
        let output = weights.of(|own| &own.output);
        ResidualOutput::forward(output, attended, x, Pass::Evaluation)
    }
}

#[derive(Module, Debug)]
struct DecoderLayer {
    slf_attn: DecoderAttention,
    enc_attn: DecoderAttention,
    intermediate: Intermediate,
    output: ResidualOutput,
}

impl DecoderLayer {
    fn feed_forward(weights: Weights<'_, Self>, x: Dual<3>, pass: Pass) -> Dual<3> {
        let dense = weights.of(|own| &own.intermediate).of(|own| &own.dense);
        let hidden = linear3(dense, x.clone()).gelu();
        ResidualOutput::forward(weights.of(|own| &own.output), hidden, x, pass)
    }
}

#[derive(Module, Debug)]
struct DecoderEmbeddings {
    layer_norm: LayerNorm,
    dropout: f64,
}

#[derive(Module, Debug)]
struct DecoderStack {
    layer: Vec<DecoderLayer>,
}

#[derive(Module, Debug)]
struct Classifier {
    cls: TiedHead,
}

/// A transformer decoder whose word and position tables are those of the text encoder.
#[derive(Module, Debug)]
pub(crate) struct Decoder {
    embeddings: DecoderEmbeddings,
    decoder: DecoderStack,
    classifier: Classifier,
}

/// What the decoder keeps of captions that grow by one token at a time, so that no token is
/// computed twice.
///
/// Letters: `I` items, `K` captions of each, `N = I * K` rows, item by item; `S` tokens that are
/// attended to; `L` tokens decoded so far. Each layer keeps the keys and values of the captions,
/// `[N, H, L, D/H]`, and of what is attended to, `[I, H, S, D/H]`, which the captions of an item
/// share. That is `2 D (N L + I S)` numbers a layer.
///
/// Made by [`UniVl::start_decoding`](crate::UniVl::start_decoding) and filled by
/// [`UniVl::decode_next`](crate::UniVl::decode_next).
#[derive(Debug, Clone)]
pub struct DecoderCache {
    layers: Vec<LayerCache>,
    /// Additive scores of what is attended to, `[I, 1, 1, S]`.
    scores: Tensor<4>,
    /// Captions of each item `K`.
    per_item: usize,
    /// Tokens decoded so far `L`.
    length: usize,
}

#[derive(Debug, Clone)]
struct LayerCache {
    /// Of the captions; `None` before their first token.
    own: Option<Memory>,
    /// Of what is attended to.
    encoded: Memory,
}

impl DecoderCache {
    /// Number of captions `N`.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.n_items() * self.per_item
    }

    /// Tokens decoded so far `L`, the one that starts a caption included.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Goes on with the captions `rows`, in that order; `per_item` neighbors belong to one item.
    ///
    /// A row may be taken several times, by which a caption branches, and an item none of whose
    /// rows is taken leaves. What does not change is not copied.
    ///
    /// # Panics
    ///
    /// Panics if `rows` is empty or not a multiple of `per_item`, if there is no such row, or if
    /// `per_item` neighbors do not belong to one item.
    pub fn select(&mut self, rows: &[usize], per_item: usize) {
        assert!(
            per_item > 0 && !rows.is_empty() && rows.len().is_multiple_of(per_item),
            "{} rows do not make items of {per_item}",
            rows.len()
        );
        let n_rows = self.n_rows();
        let items: Vec<usize> = rows
            .chunks(per_item)
            .map(|group| {
                let item = group[0] / self.per_item;
                assert!(
                    group
                        .iter()
                        .all(|row| *row < n_rows && row / self.per_item == item),
                    "rows {group:?} are not of one item, with {} rows an item and {n_rows} in all",
                    self.per_item
                );
                item
            })
            .collect();
        let device = self.scores.device();
        if !items.iter().copied().eq(0..self.n_items()) {
            let items = index_of(&items, &device);
            for layer in &mut self.layers {
                layer.encoded = layer.encoded.select(&items);
            }
            self.scores = self.scores.clone().select(0, items);
        }
        if !rows.iter().copied().eq(0..n_rows) {
            let rows = index_of(rows, &device);
            for layer in &mut self.layers {
                layer.own = layer.own.as_ref().map(|own| own.select(&rows));
            }
        }
        self.per_item = per_item;
    }

    fn n_items(&self) -> usize {
        self.scores.dims()[0]
    }
}

/// Positions as an index tensor.
fn index_of(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    index_tensor(&rows, device)
}

/// The tables that the decoder borrows from the text encoder.
pub(crate) struct TiedTables {
    /// `[V, D]`
    pub(crate) words: Dual<2>,
    /// `[positions, D]`
    pub(crate) positions: Dual<2>,
}

impl Decoder {
    pub(crate) fn new(config: &UniVlConfig, device: &Device) -> Self {
        let d_model = config.d_model;
        let layer = || DecoderLayer {
            slf_attn: DecoderAttention::new(config, device),
            enc_attn: DecoderAttention::new(config, device),
            intermediate: Intermediate {
                dense: linear_layer(d_model, config.d_ff, device),
            },
            output: ResidualOutput::new(config.d_ff, d_model, config.dropout, device),
        };
        Self {
            embeddings: DecoderEmbeddings {
                layer_norm: norm_layer(d_model, device),
                dropout: config.dropout,
            },
            decoder: DecoderStack {
                layer: (0..config.decoder_layers).map(|_| layer()).collect(),
            },
            classifier: Classifier {
                cls: TiedHead::new(d_model, config.vocab_size, device),
            },
        }
    }

    /// Hidden states at every position, `[B * L, D]`.
    ///
    /// - ids: `[B, L]`, starting with `[CLS]`; pad: `[B, L]`, true = padding
    /// - encoded: what is attended to, of `B` items
    pub(crate) fn hidden(
        weights: Weights<'_, Self>,
        (ids, pad): (Tensor<2, Int>, Tensor<2, Bool>),
        encoded: &CrossOutput,
        tables: &TiedTables,
        pass: Pass,
    ) -> Dual<2> {
        let [batch_size, length] = ids.dims();
        let d_model = tables.words.dims()[1];
        let mut x = Self::embed(weights, ids, 0, tables, pass);
        let own_scores = causal_scores(pad);
        for layer in weights.of(|own| &own.decoder).of(|own| &own.layer).iter() {
            let (own, cross) = (layer.of(|own| &own.slf_attn), layer.of(|own| &own.enc_attn));
            x = DecoderAttention::forward(own, x.clone(), x, own_scores.clone(), pass);
            let (keys, scores) = (encoded.hidden.clone(), encoded.scores.clone());
            x = DecoderAttention::forward(cross, x, keys, scores, pass);
            x = DecoderLayer::feed_forward(layer, x, pass);
        }
        x.map_linear(|x| x.reshape([batch_size * length, d_model]))
    }

    /// Hidden states `[rows, D]` to logits over the vocabulary, `[rows, V]`.
    pub(crate) fn logits(
        weights: Weights<'_, Self>,
        hidden: Dual<2>,
        tables: TiedTables,
    ) -> Dual<2> {
        let head = weights.of(|own| &own.classifier).of(|own| &own.cls);
        TiedHead::forward(head, hidden, tables.words)
    }

    /// A cache without tokens, with one caption for each item of `encoded`.
    pub(crate) fn start(weights: Weights<'_, Self>, encoded: &CrossOutput) -> DecoderCache {
        let layers = weights
            .of(|own| &own.decoder)
            .of(|own| &own.layer)
            .iter()
            .map(|layer| {
                let cross = layer.of(|own| &own.enc_attn).of(|own| &own.att);
                LayerCache {
                    own: None,
                    encoded: Attention::remember(cross, encoded.hidden.clone()),
                }
            })
            .collect();
        DecoderCache {
            layers,
            scores: encoded.scores.clone(),
            per_item: 1,
            length: 0,
        }
    }

    /// Logits over the vocabulary of the token after `ids`, `[N, V]`, in an evaluation pass.
    ///
    /// - ids: the last token of every row of the cache, `[N, 1]`
    pub(crate) fn step(
        weights: Weights<'_, Self>,
        cache: &mut DecoderCache,
        ids: Tensor<2, Int>,
        tables: TiedTables,
    ) -> Dual<2> {
        let n_items = cache.n_items();
        let (n_rows, per_item) = (cache.n_rows(), cache.per_item);
        let d_model = tables.words.dims()[1];
        let mut x = Self::embed(weights, ids, cache.length, &tables, Pass::Evaluation);
        let layers = weights.of(|own| &own.decoder).of(|own| &own.layer).iter();
        for (layer, kept) in layers.zip(&mut cache.layers) {
            let (own, cross) = (layer.of(|own| &own.slf_attn), layer.of(|own| &own.enc_attn));
            x = DecoderAttention::extend(own, x, &mut kept.own);
            // The captions of an item are its queries, so that they share its keys.
            let queries = x.map_linear(|x| x.reshape([n_items, per_item, d_model]));
            let scores = cache.scores.clone();
            x = DecoderAttention::recall(cross, queries, &kept.encoded, scores)
                .map_linear(|x| x.reshape([n_rows, 1, d_model]));
            x = DecoderLayer::feed_forward(layer, x, Pass::Evaluation);
        }
        cache.length += 1;
        let head = weights.of(|own| &own.classifier).of(|own| &own.cls);
        let x = x.map_linear(|x| x.reshape([n_rows, d_model]));
        TiedHead::forward(head, x, tables.words)
    }

    /// Ids `[B, L]`, the first of them at position `offset`, to `[B, L, D]`.
    fn embed(
        weights: Weights<'_, Self>,
        ids: Tensor<2, Int>,
        offset: usize,
        tables: &TiedTables,
        pass: Pass,
    ) -> Dual<3> {
        let [_, length] = ids.dims();
        let embeddings = weights.of(|own| &own.embeddings);
        let places = positions(tables.positions.clone(), offset, length);
        let x = look_up(tables.words.clone(), ids).add(places);
        norm(embeddings.of(|own| &own.layer_norm), x).dropout(embeddings.value.dropout, pass)
    }
}

/// Additive scores `[B, 1, L, L]`: later positions and padded keys are out.
fn causal_scores(pad: Tensor<2, Bool>) -> Tensor<4> {
    let [batch_size, length] = pad.dims();
    let device = pad.device();
    let later = Tensor::<2, Bool>::tril_mask([length, length], 0, &device);
    let masked = later
        .reshape([1, 1, length, length])
        .expand([batch_size, 1, length, length])
        .bool_or(
            pad.reshape([batch_size, 1, 1, length])
                .expand([batch_size, 1, length, length]),
        );
    masked.float() * MASKED_SCORE
}
