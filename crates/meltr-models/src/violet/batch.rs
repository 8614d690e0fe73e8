//! What VIOLET reads.

use burn::tensor::{Bool, Device, Int, Tensor};
use meltr_core::on_tape_of;

/// Videos and texts of a batch with what is masked in them.
///
/// With `B` items, `O` texts an item (the options of multiple choice, otherwise 1), `L` tokens a
/// text, `T` frames a video and `h x w` patches of 32 x 32 pixels a frame. The texts of item `b`
/// are the rows from `b O` to `b O + O - 1`. Padding flags are true where there is padding.
///
/// There are no negatives to be drawn: the matching loss pairs every video with every text of the
/// batch.
#[derive(Debug, Clone)]
pub struct VioletBatch {
    /// Clean frames, RGB in `[0, 1]`, `[B, T, 3, 32 h, 32 w]`.
    pub frames: Tensor<5>,
    /// Patches that are hidden in the masked frames, `[B, T, h, w]`, true = hidden.
    pub hidden_patches: Tensor<4, Bool>,
    /// Texts of an item, `O`.
    pub n_options: usize,
    /// Token ids, `[B * O, L]`, starting with `[CLS]`.
    pub text_ids: Tensor<2, Int>,
    /// Padding of the texts, `[B * O, L]`.
    pub text_pad: Tensor<2, Bool>,
    /// Token ids with some words masked in every row, `[B * O, L]`.
    pub masked_text_ids: Tensor<2, Int>,
    /// Positions of masked words in the flattened `[B * O * L]`; may be empty.
    pub predict_words: Vec<i64>,
    /// Original ids at `predict_words`.
    pub word_targets: Vec<i64>,
    /// Positions of hidden patches in the flattened `[B * T * h * w]`; may be empty.
    pub predict_patches: Vec<i64>,
    /// dVAE ids of the patches at `predict_patches`.
    pub patch_targets: Vec<i64>,
    /// For each item the right option (multiple choice) or the class of its answer (open-ended,
    /// negative if it is none of the classes); empty for retrieval.
    pub answers: Vec<i64>,
}

impl VioletBatch {
    /// Number of items `B`.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.frames.dims()[0]
    }

    /// For each item the row of the text that belongs to its video: its only one, or that of the
    /// right option.
    ///
    /// # Panics
    ///
    /// Panics if an item has several texts and its answer is none of them.
    pub(crate) fn right_texts(&self) -> Vec<usize> {
        if self.n_options == 1 {
            return (0..self.batch_size()).collect();
        }
        self.answers
            .iter()
            .enumerate()
            .map(|(item, answer)| {
                assert!(
                    (0..self.n_options as i64).contains(answer),
                    "the answer of item {item} is {answer}, but it has {} options",
                    self.n_options
                );
                item * self.n_options + *answer as usize
            })
            .collect()
    }

    /// The same batch on the tape of `device` if it has one, off it otherwise. Copies no data.
    #[must_use]
    pub fn with_autodiff_of(self, device: &Device) -> Self {
        if device.gradient_checkpointing_strategy() == self.frames.gradient_checkpointing_strategy()
        {
            return self;
        }
        macro_rules! moved {
            ($($field:ident),*) => {
                Self {
                    $($field: on_tape_of(self.$field, device),)*
                    ..self
                }
            };
        }
        moved!(frames, hidden_patches, text_ids, text_pad, masked_text_ids)
    }
}
