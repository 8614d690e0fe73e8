//! Sizes of UniVL.

use burn::tensor::Device;
use meltr_core::{ConfigError, Fill, initialize};
use serde::{Deserialize, Serialize};

use crate::univl::UniVl;

/// Whether the decoder's losses count the padded end of a caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaddedTargets {
    /// Every position counts, and a padded one has to say `[PAD]`. As in the released code, whose
    /// loss ignores label -1 while captions are padded with 0. Short captions in long rows teach
    /// mostly padding.
    #[default]
    Counted,
    /// The mean is over the caption and its end token alone.
    Ignored,
}

/// Sizes and constants of [`UniVl`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UniVlConfig {
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of every token; a multiple of `n_heads`.
    pub d_model: usize,
    /// Attention heads of every stack.
    pub n_heads: usize,
    /// Hidden width of the feed-forward blocks.
    pub d_ff: usize,
    /// Layers of the text encoder.
    pub text_layers: usize,
    /// Layers of the video encoder.
    pub visual_layers: usize,
    /// Layers of the cross encoder.
    pub cross_layers: usize,
    /// Layers of the decoder.
    pub decoder_layers: usize,
    /// Width of a frame's features.
    pub video_dim: usize,
    /// Longest text, in tokens.
    pub max_text_positions: usize,
    /// Longest video, in frames.
    pub max_video_positions: usize,
    /// Longest concatenation of text and video.
    pub max_cross_positions: usize,
    /// Probability of dropout in a stochastic pass, in `[0, 1)`.
    pub dropout: f64,
    /// Margin of the joint loss, in units of cosine similarity, at least 0.
    pub margin: f64,
    /// Whether the decoder's losses count padding.
    #[serde(default)]
    pub padded_targets: PaddedTargets,
}

impl UniVlConfig {
    /// The published size: 199,535,989 parameters.
    #[must_use]
    pub fn base() -> Self {
        Self {
            vocab_size: 30_522,
            d_model: 768,
            n_heads: 12,
            d_ff: 3072,
            text_layers: 12,
            visual_layers: 6,
            cross_layers: 2,
            decoder_layers: 3,
            video_dim: 1024,
            max_text_positions: 512,
            max_video_positions: 512,
            max_cross_positions: 1024,
            dropout: 0.1,
            margin: 0.1,
            padded_targets: PaddedTargets::Counted,
        }
    }

    /// A size for a few CPU cores and small sets: the same network, one layer a stack.
    #[must_use]
    pub fn mini(vocab_size: usize, video_dim: usize) -> Self {
        Self {
            vocab_size,
            d_model: 128,
            n_heads: 4,
            d_ff: 256,
            text_layers: 1,
            visual_layers: 1,
            cross_layers: 1,
            decoder_layers: 1,
            video_dim,
            max_text_positions: 64,
            max_video_positions: 64,
            max_cross_positions: 128,
            dropout: 0.1,
            margin: 0.1,
            padded_targets: PaddedTargets::Counted,
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
            ("text_layers", self.text_layers),
            ("visual_layers", self.visual_layers),
            ("cross_layers", self.cross_layers),
            ("decoder_layers", self.decoder_layers),
            ("video_dim", self.video_dim),
            ("max_text_positions", self.max_text_positions),
            ("max_video_positions", self.max_video_positions),
            ("max_cross_positions", self.max_cross_positions),
        ] {
            ConfigError::require_nonzero(key, value)?;
        }
        ConfigError::require_probability("dropout", self.dropout)?;
        if !(self.margin.is_finite() && self.margin >= 0.0) {
            return Err(ConfigError::OutOfRange {
                key: "margin",
                value: self.margin,
                range: "[0, inf)",
            });
        }
        Ok(())
    }

    /// Builds the network with BERT's initial values: weights `N(0, 0.02)`, biases 0.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn init(&self, seed: u64, device: &Device) -> Result<UniVl, ConfigError> {
        self.validate()?;
        let model = UniVl::zeroed(self, device);
        Ok(initialize(model, seed, |site| {
            match (site.module, site.shape.len()) {
                ("LayerNorm", _) => Fill::Keep,
                (_, 1) => Fill::Constant(0.0),
                _ => Fill::Normal(0.02),
            }
        }))
    }
}
