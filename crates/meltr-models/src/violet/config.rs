//! Sizes of VIOLET.

use burn::tensor::Device;
use meltr_core::{ConfigError, Fill, ParameterSite, initialize};
use serde::{Deserialize, Serialize};

use super::losses::VioletLoss;
use super::model::Violet;
use super::swin::WindowBias;
use crate::bert::LayerSizes;

/// Height and width of frames are multiples of this: patches of 4 pixels, merged three times.
const FRAME_STEP: usize = 32;

/// Sizes of the video Swin transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwinConfig {
    /// Width of the first stage's tokens; it doubles from stage to stage.
    pub embed_dim: usize,
    /// Blocks of each stage.
    pub depths: [usize; 4],
    /// Attention heads of each stage; each divides the width of its stage.
    pub n_heads: [usize; 4],
    /// Full window along time (frames), height and width (tokens).
    pub window: [usize; 3],
    /// Probability that an item skips the last block's branches in a stochastic pass, in `[0, 1)`;
    /// it grows linearly from 0 at the first block.
    pub drop_path: f64,
    /// Which biases a window uses that had to shrink to the grid.
    pub window_bias: WindowBias,
}

impl SwinConfig {
    /// Width of the tokens of a stage.
    pub(crate) fn width(&self, stage: usize) -> usize {
        self.embed_dim << stage
    }

    /// Width of the last stage's tokens.
    #[must_use]
    pub fn d_model(&self) -> usize {
        self.width(self.depths.len() - 1)
    }
}

/// What the model is fine-tuned for; it decides on the heads and the losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VioletTask {
    /// Text-to-video retrieval.
    Retrieval,
    /// Questions with a text for each option.
    MultipleChoice,
    /// Questions whose answers are classes.
    OpenEnded {
        /// Number of classes.
        n_answers: usize,
    },
}

impl VioletTask {
    /// The losses in the order of the published tokens; the primary one is the first.
    #[must_use]
    pub fn losses(self) -> &'static [VioletLoss] {
        use VioletLoss::{Mc, Mtm, Mvm, Oe, Vtm};
        match self {
            Self::Retrieval => &[Vtm, Mtm, Mvm],
            Self::MultipleChoice => &[Mc, Vtm, Mtm, Mvm],
            Self::OpenEnded { .. } => &[Oe, Vtm, Mtm, Mvm],
        }
    }

    /// The loss of the task itself.
    #[must_use]
    pub fn primary(self) -> VioletLoss {
        match self {
            Self::Retrieval => VioletLoss::Vtm,
            Self::MultipleChoice => VioletLoss::Mc,
            Self::OpenEnded { .. } => VioletLoss::Oe,
        }
    }
}

/// Which frames the primary loss sees in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrimaryFrames {
    /// Whole frames, as in a test. Costs a second pass of the frame encoder where other losses
    /// need the masked frames.
    #[default]
    Clean,
    /// The frames with hidden patches that the other losses see. The released code masks frames
    /// in place, so that this is what the published numbers come from.
    Masked,
}

/// Sizes and constants of [`Violet`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VioletConfig {
    /// What the model is fine-tuned for.
    pub task: VioletTask,
    /// The frame encoder; the width of its last stage is that of every token.
    pub swin: SwinConfig,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Attention heads of the cross encoder.
    pub n_heads: usize,
    /// Hidden width of the cross encoder's feed-forward blocks.
    pub d_ff: usize,
    /// Layers of the cross encoder.
    pub n_layers: usize,
    /// Longest text, in tokens.
    pub max_text_positions: usize,
    /// Longest video, in frames.
    pub max_frames: usize,
    /// Largest frame, in patches of 32 x 32 pixels.
    pub max_patches: usize,
    /// Entries of the visual vocabulary.
    pub n_visual_tokens: usize,
    /// Probability of dropout in a stochastic pass, in `[0, 1)`.
    pub dropout: f64,
    /// Probability of dropout before the head of open-ended answers, in `[0, 1)`.
    pub answer_dropout: f64,
    /// What the matching logits are divided by, above 0.
    pub temperature: f64,
    /// Which frames the primary loss sees in training.
    pub primary_frames: PrimaryFrames,
}

impl VioletConfig {
    /// The published size: 197,577,489 parameters for retrieval.
    #[must_use]
    pub fn base(task: VioletTask) -> Self {
        Self {
            task,
            swin: SwinConfig {
                embed_dim: 96,
                depths: [2, 2, 18, 2],
                n_heads: [3, 6, 12, 24],
                window: [8, 7, 7],
                drop_path: 0.2,
                window_bias: WindowBias::Published,
            },
            vocab_size: 30_522,
            n_heads: 12,
            d_ff: 3072,
            n_layers: 12,
            max_text_positions: 512,
            max_frames: 6,
            max_patches: 196,
            n_visual_tokens: 8192,
            dropout: 0.1,
            answer_dropout: 0.5,
            temperature: 0.05,
            primary_frames: PrimaryFrames::Clean,
        }
    }

    /// A size for a few CPU cores and frames of 64 to 128 pixels: the same network, 128 wide.
    #[must_use]
    pub fn mini(task: VioletTask, vocab_size: usize, n_visual_tokens: usize) -> Self {
        Self {
            swin: SwinConfig {
                embed_dim: 16,
                depths: [2, 2, 2, 2],
                n_heads: [1, 2, 4, 8],
                window: [4, 4, 4],
                drop_path: 0.1,
                window_bias: WindowBias::Geometric,
            },
            vocab_size,
            n_heads: 4,
            d_ff: 256,
            n_layers: 2,
            max_text_positions: 64,
            max_frames: 8,
            max_patches: 16,
            n_visual_tokens,
            ..Self::base(task)
        }
    }

    /// Width of every token of the cross encoder.
    #[must_use]
    pub fn d_model(&self) -> usize {
        self.swin.d_model()
    }

    /// Checks every size.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (stage, (&depth, &heads)) in self.swin.depths.iter().zip(&self.swin.n_heads).enumerate()
        {
            ConfigError::require_nonzero("swin.depths", depth)?;
            let width = self.swin.width(stage);
            ConfigError::require_heads("swin.embed_dim", width, "swin.n_heads", heads)?;
        }
        for size in self.swin.window {
            ConfigError::require_nonzero("swin.window", size)?;
        }
        ConfigError::require_heads("d_model", self.d_model(), "n_heads", self.n_heads)?;
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("d_ff", self.d_ff),
            ("n_layers", self.n_layers),
            ("max_text_positions", self.max_text_positions),
            ("max_frames", self.max_frames),
            ("max_patches", self.max_patches),
            ("n_visual_tokens", self.n_visual_tokens),
        ] {
            ConfigError::require_nonzero(key, value)?;
        }
        if let VioletTask::OpenEnded { n_answers } = self.task {
            ConfigError::require_nonzero("n_answers", n_answers)?;
        }
        ConfigError::require_probability("swin.drop_path", self.swin.drop_path)?;
        ConfigError::require_probability("dropout", self.dropout)?;
        ConfigError::require_probability("answer_dropout", self.answer_dropout)?;
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(ConfigError::OutOfRange {
                key: "temperature",
                value: self.temperature,
                range: "(0, inf)",
            });
        }
        Ok(())
    }

    /// Checks whether the model can read clips of this size, in frames and pixels.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming what does not fit.
    pub fn require_clip(
        &self,
        n_frames: usize,
        height: usize,
        width: usize,
    ) -> Result<(), ConfigError> {
        let out_of_range = |key, value: usize, range| ConfigError::OutOfRange {
            key,
            value: value as f64,
            range,
        };
        if n_frames == 0 || n_frames > self.max_frames {
            let range = "[1, max_frames] of the model";
            return Err(out_of_range("n_frames", n_frames, range));
        }
        for (key, size) in [("frame height", height), ("frame width", width)] {
            if size == 0 || !size.is_multiple_of(FRAME_STEP) {
                return Err(out_of_range(key, size, "{32, 64, 96, ..} pixels"));
            }
        }
        let n_patches = (height / FRAME_STEP) * (width / FRAME_STEP);
        if n_patches > self.max_patches {
            let range = "[1, max_patches] of the model";
            return Err(out_of_range("patches of a frame", n_patches, range));
        }
        Ok(())
    }

    /// Sizes of a layer of the cross encoder.
    pub(crate) fn layer_sizes(&self) -> LayerSizes {
        LayerSizes {
            d_model: self.d_model(),
            n_heads: self.n_heads,
            d_ff: self.d_ff,
            dropout: self.dropout,
        }
    }

    /// Builds the network with initial values for training from scratch: weights and tables
    /// `N(0, 0.02)`, biases 0; the two-layer heads, which the released code leaves to PyTorch,
    /// uniform in `±1/sqrt(fan in)`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn init(&self, seed: u64, device: &Device) -> Result<Violet, ConfigError> {
        self.validate()?;
        let d_model = self.d_model();
        Ok(initialize(Violet::zeroed(self, device), seed, |site| {
            initial_value(site, d_model)
        }))
    }
}

fn initial_value(site: ParameterSite<'_>, d_model: usize) -> Fill {
    let is_mlp_head = ["matching.", "answer.", "fc_mvm."]
        .iter()
        .any(|head| site.path.starts_with(head));
    if is_mlp_head {
        let fan_in = if site.path.contains(".hidden.") {
            d_model
        } else {
            super::heads::HIDDEN_FACTOR * d_model
        };
        return Fill::Uniform(1.0 / (fan_in as f64).sqrt());
    }
    match (site.module, site.shape.len()) {
        ("LayerNorm", _) => Fill::Keep,
        (_, 1) => Fill::Constant(0.0),
        _ => Fill::Normal(0.02),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_and_the_small_sizes_can_be_built() {
        for task in [
            VioletTask::Retrieval,
            VioletTask::MultipleChoice,
            VioletTask::OpenEnded { n_answers: 1000 },
        ] {
            VioletConfig::base(task).validate().unwrap();
            VioletConfig::mini(task, 100, 64).validate().unwrap();
            assert_eq!(task.losses()[0], task.primary());
        }
        assert_eq!(VioletConfig::base(VioletTask::Retrieval).d_model(), 768);
    }

    #[test]
    fn heads_of_a_stage_that_do_not_divide_its_width_are_named() {
        let mut config = VioletConfig::base(VioletTask::Retrieval);
        config.swin.n_heads[2] = 7;
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "`swin.embed_dim` is 384, not a multiple of `swin.n_heads` = 7; \
             every head needs the same width"
        );
    }

    #[test]
    fn a_question_without_answers_is_refused() {
        let config = VioletConfig::base(VioletTask::OpenEnded { n_answers: 0 });
        let error = config.validate().unwrap_err().to_string();
        assert_eq!(error, "`n_answers` is 0; give it at least 1");
    }

    #[test]
    fn a_clip_that_does_not_fit_is_refused_with_its_reason() {
        let config = VioletConfig::base(VioletTask::Retrieval);
        config.require_clip(5, 224, 224).unwrap();
        let error = |n_frames, height, width| {
            let error = config.require_clip(n_frames, height, width).unwrap_err();
            error.to_string()
        };
        assert!(error(7, 224, 224).starts_with("`n_frames` is 7;"));
        assert!(error(5, 230, 224).starts_with("`frame height` is 230;"));
        assert!(error(5, 480, 480).starts_with("`patches of a frame` is 225;"));
    }

    #[test]
    fn a_configuration_survives_json() {
        let config = VioletConfig::base(VioletTask::OpenEnded { n_answers: 17 });
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<VioletConfig>(&text).unwrap(), config);
    }
}
