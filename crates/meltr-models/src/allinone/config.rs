//! Sizes of All-in-one.

use burn::tensor::Device;
use meltr_core::{ConfigError, Fill, initialize};
use serde::{Deserialize, Serialize};

use super::losses::AllInOneLoss;
use super::model::AllInOne;

/// Dropout before the head of open-ended answers and before that of options, as published.
const OPEN_ENDED_DROPOUT: f64 = 0.5;
const CHOICE_DROPOUT: f64 = 0.1;

/// What the model is fine-tuned for; it decides on the head and the losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllInOneTask {
    /// Text-to-video retrieval.
    Retrieval,
    /// Questions whose answers are classes.
    OpenEnded {
        /// Number of classes.
        n_answers: usize,
    },
    /// Questions with a text for each option.
    MultipleChoice,
}

impl AllInOneTask {
    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Retrieval => "retrieval",
            Self::OpenEnded { .. } => "open_ended",
            Self::MultipleChoice => "multiple_choice",
        }
    }

    /// The losses that the task can have, in token order.
    ///
    /// For retrieval that is the published order. Questions were not published with several
    /// losses; theirs begin with the answer, as VIOLET's do.
    #[must_use]
    pub fn losses(self) -> &'static [AllInOneLoss] {
        use AllInOneLoss::{IndItc, McVqa, Mlm, OpenendVqa};
        match self {
            Self::Retrieval => &[Mlm, IndItc],
            Self::OpenEnded { .. } => &[OpenendVqa, Mlm, IndItc],
            Self::MultipleChoice => &[McVqa, Mlm, IndItc],
        }
    }

    /// The loss of the task itself.
    ///
    /// For retrieval the released code takes the first loss, `mlm`, where the paper means the
    /// contrastive one.
    #[must_use]
    pub fn primary(self) -> AllInOneLoss {
        match self {
            Self::Retrieval => AllInOneLoss::IndItc,
            Self::OpenEnded { .. } => AllInOneLoss::OpenendVqa,
            Self::MultipleChoice => AllInOneLoss::McVqa,
        }
    }
}

/// Sizes and constants of [`AllInOne`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllInOneConfig {
    /// What the model is fine-tuned for.
    pub task: AllInOneTask,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of every token; a multiple of `n_heads`.
    pub d_model: usize,
    /// Attention heads of every block.
    pub n_heads: usize,
    /// Hidden width of the feed-forward parts.
    pub d_ff: usize,
    /// Blocks.
    pub n_layers: usize,
    /// Width of the space in which texts and videos are compared.
    pub d_shared: usize,
    /// Height and width of a frame in pixels; a multiple of `patch_size`.
    pub image_size: usize,
    /// Height and width in pixels of the patch that becomes one token.
    pub patch_size: usize,
    /// Longest video, in frames.
    pub n_frames: usize,
    /// Longest text, in tokens.
    pub max_text_positions: usize,
    /// Probability of dropout in a stochastic pass, in `[0, 1)`; never of attention weights.
    pub dropout: f64,
    /// Probability of dropout before the head of answers, in `[0, 1)`.
    pub answer_dropout: f64,
    /// Probability that a sequence skips the last block's branches in a stochastic pass, in
    /// `[0, 1)`; it grows linearly from 0 at the first block.
    pub drop_path: f64,
    /// What the cosines of the contrastive loss are divided by, above 0.
    pub temperature: f64,
}

impl AllInOneConfig {
    /// The published size, ViT-B/16: 134,718,778 parameters for retrieval.
    #[must_use]
    pub fn base(task: AllInOneTask) -> Self {
        Self {
            task,
            vocab_size: 30_522,
            d_model: 768,
            n_heads: 12,
            d_ff: 3072,
            n_layers: 12,
            d_shared: 512,
            image_size: 224,
            patch_size: 16,
            n_frames: 3,
            max_text_positions: 40,
            dropout: 0.1,
            answer_dropout: match task {
                AllInOneTask::OpenEnded { .. } => OPEN_ENDED_DROPOUT,
                AllInOneTask::Retrieval | AllInOneTask::MultipleChoice => CHOICE_DROPOUT,
            },
            drop_path: 0.1,
            temperature: 0.05,
        }
    }

    /// A size for a few CPU cores and frames of 64 pixels: the same network, 128 wide.
    #[must_use]
    pub fn mini(task: AllInOneTask, vocab_size: usize) -> Self {
        Self {
            vocab_size,
            d_model: 128,
            n_heads: 4,
            d_ff: 256,
            n_layers: 2,
            d_shared: 64,
            image_size: 64,
            n_frames: 4,
            ..Self::base(task)
        }
    }

    /// Patches of a frame.
    #[must_use]
    pub fn n_patches(&self) -> usize {
        let side = self.image_size.checked_div(self.patch_size).unwrap_or(0);
        side * side
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
            ("d_shared", self.d_shared),
            ("patch_size", self.patch_size),
            ("image_size", self.image_size),
            ("n_frames", self.n_frames),
            ("max_text_positions", self.max_text_positions),
        ] {
            ConfigError::require_nonzero(key, value)?;
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return Err(out_of_range(
                "image_size",
                self.image_size,
                "{patch_size, 2 patch_size, ..}",
            ));
        }
        if let AllInOneTask::OpenEnded { n_answers } = self.task {
            ConfigError::require_nonzero("n_answers", n_answers)?;
            if self.d_model < 2 {
                let range = "[2, inf): the head of answers is half as wide";
                return Err(out_of_range("d_model", self.d_model, range));
            }
        }
        ConfigError::require_probability("dropout", self.dropout)?;
        ConfigError::require_probability("answer_dropout", self.answer_dropout)?;
        ConfigError::require_probability("drop_path", self.drop_path)?;
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
        if n_frames == 0 || n_frames > self.n_frames {
            let range = "[1, n_frames] of the model";
            return Err(out_of_range("n_frames", n_frames, range));
        }
        for (key, size) in [("frame height", height), ("frame width", width)] {
            if size != self.image_size {
                return Err(out_of_range(key, size, "{image_size} of the model"));
            }
        }
        Ok(())
    }

    /// Builds the network with the published initial values: weights and tables `N(0, 0.02)`,
    /// biases and the table of frames 0.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn init(&self, seed: u64, device: &Device) -> Result<AllInOne, ConfigError> {
        self.validate()?;
        Ok(initialize(
            AllInOne::zeroed(self, device),
            seed,
            |site| match (site.module, site.path, site.shape.len()) {
                ("LayerNorm", ..) => Fill::Keep,
                (_, "transformer.temporal_embed", _) | (_, _, 1) => Fill::Constant(0.0),
                _ => Fill::Normal(0.02),
            },
        ))
    }
}

fn out_of_range(key: &'static str, value: usize, range: &'static str) -> ConfigError {
    ConfigError::OutOfRange {
        key,
        value: value as f64,
        range,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_and_the_small_sizes_can_be_built() {
        for task in [
            AllInOneTask::Retrieval,
            AllInOneTask::OpenEnded { n_answers: 1001 },
            AllInOneTask::MultipleChoice,
        ] {
            AllInOneConfig::base(task).validate().unwrap();
            AllInOneConfig::mini(task, 100).validate().unwrap();
            assert!(task.losses().contains(&task.primary()));
        }
        let base = AllInOneConfig::base(AllInOneTask::Retrieval);
        assert_eq!(base.n_patches(), 196);
    }

    #[test]
    fn frames_that_patches_do_not_tile_are_refused() {
        let config = AllInOneConfig {
            image_size: 230,
            ..AllInOneConfig::base(AllInOneTask::Retrieval)
        };
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "`image_size` is 230; it has to be in {patch_size, 2 patch_size, ..}"
        );
    }

    #[test]
    fn a_question_without_answers_is_refused() {
        let config = AllInOneConfig::base(AllInOneTask::OpenEnded { n_answers: 0 });
        let error = config.validate().unwrap_err().to_string();
        assert_eq!(error, "`n_answers` is 0; give it at least 1");
    }

    #[test]
    fn a_clip_that_does_not_fit_is_refused_with_its_reason() {
        let config = AllInOneConfig::base(AllInOneTask::Retrieval);
        config.require_clip(3, 224, 224).unwrap();
        let error = |n_frames, height, width| {
            let error = config.require_clip(n_frames, height, width).unwrap_err();
            error.to_string()
        };
        assert!(error(4, 224, 224).starts_with("`n_frames` is 4;"));
        assert!(error(3, 192, 224).starts_with("`frame height` is 192;"));
        assert!(error(3, 224, 240).starts_with("`frame width` is 240;"));
    }

    #[test]
    fn a_configuration_survives_json() {
        let config = AllInOneConfig::base(AllInOneTask::OpenEnded { n_answers: 17 });
        let text = serde_json::to_string(&config).unwrap();
        let read: AllInOneConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(read, config);
    }
}
