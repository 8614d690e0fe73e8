//! What All-in-one reads.

use burn::tensor::{Bool, Device, Int, Tensor};
use meltr_core::on_tape_of;

/// Videos and texts of a batch with what is masked in them.
///
/// With `B` items, `L` tokens a text, `T` frames a video, `S` pixels a side and `P` patches a
/// frame. Text and video at equal positions belong together. Padding flags are true where there is
/// padding.
#[derive(Debug, Clone)]
pub struct AllInOneBatch {
    /// Frames, normalized, `[B, T, 3, S, S]`.
    pub frames: Tensor<5>,
    /// Number of the patch, row-major, at each place of each frame, `[B * T * P]`, frame by frame
    /// a permutation of `0..P`; `None` is the row-major order itself.
    ///
    /// Which patches move in time depends on their place. The released code shuffles them, in
    /// evaluation too; here that is for whoever makes training batches.
    pub patch_order: Option<Vec<i64>>,
    /// Token ids, `[B, L]`, starting with `[CLS]`: the caption, the question, or the question with
    /// its right option.
    pub text_ids: Tensor<2, Int>,
    /// Padding of the texts, `[B, L]`.
    pub text_pad: Tensor<2, Bool>,
    /// Token ids with some words masked, `[B, L]`.
    pub masked_text_ids: Tensor<2, Int>,
    /// Positions of masked words in the flattened `[B * L]`; may be empty.
    pub predict_words: Vec<i64>,
    /// Original ids at `predict_words`.
    pub word_targets: Vec<i64>,
    /// A text for each option of multiple choice; `None` for the other tasks.
    pub options: Option<OptionTexts>,
    /// For each item the right option (multiple choice) or the class of its answer (open-ended,
    /// negative if it is none of the classes); empty for retrieval.
    pub answers: Vec<i64>,
}

/// The options of multiple choice, `O` an item: those of item `b` are the rows from `b O` to
/// `b O + O - 1`.
#[derive(Debug, Clone)]
pub struct OptionTexts {
    /// Token ids, `[B * O, L]`, starting with `[CLS]`.
    pub ids: Tensor<2, Int>,
    /// Padding, `[B * O, L]`.
    pub pad: Tensor<2, Bool>,
}

impl AllInOneBatch {
    /// Number of items `B`.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.frames.dims()[0]
    }

    /// The texts that answers are read from: the options, if there are any.
    pub(crate) fn answer_texts(&self) -> (Tensor<2, Int>, Tensor<2, Bool>) {
        match &self.options {
            Some(options) => (options.ids.clone(), options.pad.clone()),
            None => (self.text_ids.clone(), self.text_pad.clone()),
        }
    }

    /// The same batch on the tape of `device` if it has one, off it otherwise. Copies no data.
    #[must_use]
    pub fn with_autodiff_of(self, device: &Device) -> Self {
        if device.gradient_checkpointing_strategy() == self.frames.gradient_checkpointing_strategy()
        {
            return self;
        }
        Self {
            frames: on_tape_of(self.frames, device),
            text_ids: on_tape_of(self.text_ids, device),
            text_pad: on_tape_of(self.text_pad, device),
            masked_text_ids: on_tape_of(self.masked_text_ids, device),
            options: self.options.map(|options| OptionTexts {
                ids: on_tape_of(options.ids, device),
                pad: on_tape_of(options.pad, device),
            }),
            ..self
        }
    }
}
