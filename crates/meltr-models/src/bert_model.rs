//! BERT alone: an encoder of text with the keys of its published weights.

use burn::module::{Module, ParamId};
use burn::tensor::{Bool, Device, Int, Tensor};
use meltr_core::{
    ConfigError, Fill, LoadReport, Pass, StateDict, Weights, initialize, load_state_dict,
    parameter_names, state_dict,
};
use serde::{Deserialize, Serialize};

use crate::bert::TextEncoder;
use crate::layers::padding_scores;
use crate::univl_config::UniVlConfig;

/// Buffers of published checkpoints that hold no parameter.
const BUFFERS: [&str; 1] = ["embeddings.position_ids"];

/// Sizes of [`BertModel`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BertConfig {
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of every token; a multiple of `n_heads`.
    pub d_model: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Hidden width of the feed-forward blocks.
    pub d_ff: usize,
    /// Layers.
    pub n_layers: usize,
    /// Longest text, in tokens.
    pub max_positions: usize,
    /// Probability of dropout in a stochastic pass, in `[0, 1)`.
    pub dropout: f64,
}

impl BertConfig {
    /// `bert-base-uncased`: 109,482,240 parameters.
    #[must_use]
    pub fn base_uncased() -> Self {
        Self {
            vocab_size: 30_522,
            d_model: 768,
            n_heads: 12,
            d_ff: 3072,
            n_layers: 12,
            max_positions: 512,
            dropout: 0.1,
        }
    }

    /// `all-MiniLM-L6-v2`: 22,713,216 parameters.
    #[must_use]
    pub fn mini_lm_l6() -> Self {
        Self {
            d_model: 384,
            d_ff: 1536,
            n_layers: 6,
            ..Self::base_uncased()
        }
    }

    /// Checks every size.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::require_heads("d_model", self.d_model, "n_heads", self.n_heads)?;
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("d_ff", self.d_ff),
            ("n_layers", self.n_layers),
            ("max_positions", self.max_positions),
        ] {
            ConfigError::require_nonzero(key, value)?;
        }
        ConfigError::require_probability("dropout", self.dropout)
    }

    /// Builds the network with BERT's initial values: weights `N(0, 0.02)`, biases 0.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn init(&self, seed: u64, device: &Device) -> Result<BertModel, ConfigError> {
        self.validate()?;
        let model = BertModel {
            bert: TextEncoder::new(&self.as_univl(), device),
        };
        Ok(initialize(model, seed, |site| {
            match (site.module, site.shape.len()) {
                ("LayerNorm", _) => Fill::Keep,
                (_, 1) => Fill::Constant(0.0),
                _ => Fill::Normal(0.02),
            }
        }))
    }

    /// The text encoder's part of UniVL's sizes.
    fn as_univl(&self) -> UniVlConfig {
        UniVlConfig {
            d_model: self.d_model,
            n_heads: self.n_heads,
            d_ff: self.d_ff,
            text_layers: self.n_layers,
            max_text_positions: self.max_positions,
            dropout: self.dropout,
            ..UniVlConfig::mini(self.vocab_size, 1)
        }
    }
}

/// BERT with its pooler, without heads.
///
/// # References
///
/// - Devlin et al., [BERT](https://arxiv.org/abs/1810.04805), NAACL 2019.
/// - Reimers and Gurevych, [Sentence-BERT](https://arxiv.org/abs/1908.10084), EMNLP 2019: the mean
///   over tokens.
#[derive(Module, Debug)]
pub struct BertModel {
    bert: TextEncoder,
}

impl BertModel {
    /// Entries of the vocabulary.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.bert.embeddings.word_embeddings.weight.val().dims()[0]
    }

    /// Longest text, in tokens.
    #[must_use]
    pub fn max_positions(&self) -> usize {
        self.bert.embeddings.position_embeddings.weight.val().dims()[0]
    }

    /// Width of the hidden states, `D`.
    #[must_use]
    pub fn d_model(&self) -> usize {
        self.bert.embeddings.word_embeddings.weight.val().dims()[1]
    }

    /// Hidden states of every token, `[N, L, D]`.
    ///
    /// # Shapes
    ///
    /// - ids, pad: `[N, L]`; `pad` is true where there is nothing
    #[must_use]
    pub fn encode(&self, ids: Tensor<2, Int>, pad: Tensor<2, Bool>, pass: Pass) -> Tensor<3> {
        let weights = Weights::constant(self).of(|own| &own.bert);
        TextEncoder::forward(weights, ids, padding_scores(pad), pass).value
    }

    /// Mean hidden state of the tokens that are not padding, of length 1: `[N, D]`, in an
    /// evaluation pass.
    ///
    /// # Shapes
    ///
    /// - ids, pad: `[N, L]`; every row has a token
    #[must_use]
    pub fn sentence_vectors(&self, ids: Tensor<2, Int>, pad: Tensor<2, Bool>) -> Tensor<2> {
        let hidden = self.encode(ids, pad.clone(), Pass::Evaluation);
        let kept = pad.bool_not().float().unsqueeze_dim::<3>(2); // [N, L, 1]
        let sum = (hidden * kept).sum_dim(1).squeeze_dim::<2>(1);
        let norm = sum.clone().powi_scalar(2).sum_dim(1).sqrt();
        sum / norm
    }

    /// The parameters under published names.
    #[must_use]
    pub fn state_dict(&self) -> StateDict {
        state_dict(self, published_name)
    }

    /// Id and published name of every parameter.
    #[must_use]
    pub fn parameter_names(&self) -> Vec<(ParamId, String)> {
        parameter_names(self, published_name)
    }

    /// Loads parameters under published names, with or without a leading `bert.`; buffers without
    /// parameters are not reported as unexpected.
    #[must_use]
    pub fn load_state_dict(self, dict: &StateDict) -> (Self, LoadReport) {
        let own: StateDict = dict
            .iter()
            .map(|(name, data)| (own_name(name), data.clone()))
            .collect();
        let (model, mut report) = load_state_dict(self, &own, published_name);
        report
            .unexpected
            .retain(|name| !BUFFERS.contains(&name.as_str()));
        (model, report)
    }
}

/// A checkpoint's key without the prefix, and with PyTorch's names of a normalization.
fn own_name(name: &str) -> String {
    name.strip_prefix("bert.")
        .unwrap_or(name)
        .replace("LayerNorm.gamma", "LayerNorm.weight")
        .replace("LayerNorm.beta", "LayerNorm.bias")
}

fn published_name(path: &str) -> String {
    path.strip_prefix("bert.")
        .unwrap_or(path)
        .replace("self_attention.", "self.")
        .replace("layer_norm.", "LayerNorm.")
}
