//! What UniVL reads.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_core::on_tape_of;

/// Texts and videos of a batch, pairs at equal positions, with what is masked in them.
///
/// Padding flags are true where there is padding.
#[derive(Debug, Clone)]
pub struct UniVlBatch {
    /// Token ids, `[B, L]`.
    pub text_ids: Tensor<2, Int>,
    /// Padding of the texts, `[B, L]`.
    pub text_pad: Tensor<2, Bool>,
    /// Token ids with some words masked, `[B, L]`.
    pub masked_text_ids: Tensor<2, Int>,
    /// Frame features, `[B, F, Dv]`, zero where padded.
    pub video: Tensor<3>,
    /// Frame features with some frames zeroed, `[B, F, Dv]`.
    pub masked_video: Tensor<3>,
    /// Padding of the videos, `[B, F]`.
    pub video_pad: Tensor<2, Bool>,
    /// Positions of masked words in the flattened `[B * L]`; may be empty.
    pub predict_words: Vec<i64>,
    /// Original ids at `predict_words`.
    pub word_targets: Vec<i64>,
    /// Positions of masked frames in the flattened `[B * F]`; may be empty.
    pub predict_frames: Vec<i64>,
    /// Input of the decoder, `[B, L]`: `[CLS]`, then the caption.
    pub decoder_input_ids: Tensor<2, Int>,
    /// What the decoder is to say, `[B, L]`: the caption, `[SEP]`, then 0.
    pub decoder_target_ids: Tensor<2, Int>,
    /// Padding of the decoder's input, `[B, L]`.
    pub decoder_pad: Tensor<2, Bool>,
    /// Positions of the flattened `[B * L]` that are no padding of the decoder's input; may be
    /// empty.
    pub caption_positions: Vec<i64>,
}

impl UniVlBatch {
    /// Number of pairs `B`.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.text_ids.dims()[0]
    }

    /// The same batch on the tape of `device` if it has one, off it otherwise. Copies no data.
    #[must_use]
    pub fn with_autodiff_of(self, device: &Device) -> Self {
        if device.gradient_checkpointing_strategy() == self.video.gradient_checkpointing_strategy()
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
        moved!(
            text_ids,
            text_pad,
            masked_text_ids,
            video,
            masked_video,
            video_pad,
            decoder_input_ids,
            decoder_target_ids,
            decoder_pad
        )
    }
}

/// Host positions as an index tensor.
pub(crate) fn index_tensor(positions: &[i64], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(
        TensorData::new(positions.to_vec(), [positions.len()]),
        device,
    )
}
