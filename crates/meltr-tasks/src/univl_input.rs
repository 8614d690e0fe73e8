//! Host batches as tensors: the one place where arrays become UniVL's input.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_data::{VideoTextBatch, VideoTextSample, WordPiece};
use meltr_models::UniVlBatch;
use ndarray::{Array, Array2, Array3, Dimension, aview1};

/// A video that belongs to no set: what a trained model is asked about.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnVideo {
    /// Its name in messages.
    pub name: String,
    /// Features of its frames in temporal order, `[F_i, K]`.
    pub frames: Array2<f32>,
}

/// Moves a host batch to `device`, without a tape.
#[must_use]
pub fn univl_batch(batch: &VideoTextBatch, device: &Device) -> UniVlBatch {
    let device = device.clone().without_autodiff();
    let predict_words = positions(&batch.predict_words);
    let word_targets = batch
        .text_ids
        .iter()
        .zip(&batch.predict_words)
        .filter_map(|(id, predict)| predict.then_some(*id))
        .collect();
    UniVlBatch {
        text_ids: ints(&batch.text_ids, &device),
        text_pad: bools(&batch.text_pad, &device),
        masked_text_ids: ints(&batch.masked_text_ids, &device),
        video: floats(&batch.video, &device),
        masked_video: floats(&batch.masked_video(), &device),
        video_pad: bools(&batch.video_pad, &device),
        predict_words,
        word_targets,
        predict_frames: positions(&batch.predict_frames),
        decoder_input_ids: ints(&batch.decoder_input_ids, &device),
        decoder_target_ids: ints(&batch.decoder_target_ids, &device),
        decoder_pad: bools(&batch.decoder_pad, &device),
        caption_positions: positions(&batch.decoder_pad.mapv(|pad| !pad)),
    }
}

/// Videos as samples, numbered in their order, all with the same text.
pub(crate) fn samples_of(videos: &[OwnVideo], text: &str) -> Vec<VideoTextSample> {
    videos
        .iter()
        .enumerate()
        .map(|(id, video)| VideoTextSample {
            id,
            text: text.to_owned(),
            caption: None,
            frames: video.frames.clone(),
        })
        .collect()
}

/// Texts as rows of token ids, `[CLS]` tokens `[SEP]`, and their padding, both `[n, length]`. What
/// has no room is cut off, as in a batch.
pub(crate) fn token_rows(
    texts: &[String],
    words: &WordPiece,
    length: usize,
    device: &Device,
) -> (Tensor<2, Int>, Tensor<2, Bool>) {
    let mut ids = Array2::<i64>::zeros((texts.len(), length));
    let mut pad = Array2::from_elem((texts.len(), length), true);
    for (row, text) in texts.iter().enumerate() {
        let padded = words.encode_padded(text, length);
        ids.row_mut(row).assign(&aview1(&padded.ids));
        pad.row_mut(row).assign(&aview1(&padded.padding()));
    }
    (ints(&ids, device), bools(&pad, device))
}

pub(crate) fn ints(array: &Array2<i64>, device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(data(array), device)
}

pub(crate) fn bools(array: &Array2<bool>, device: &Device) -> Tensor<2, Bool> {
    Tensor::from_data(data(array), device)
}

pub(crate) fn floats(array: &Array3<f32>, device: &Device) -> Tensor<3> {
    Tensor::from_data(data(array), device)
}

fn data<E: burn::tensor::Element, D: Dimension>(array: &Array<E, D>) -> TensorData {
    TensorData::new(
        array.iter().copied().collect::<Vec<E>>(),
        array.shape().to_vec(),
    )
}

/// Flat positions of the true entries.
fn positions(flags: &Array2<bool>) -> Vec<i64> {
    flags
        .iter()
        .enumerate()
        .filter_map(|(position, flag)| flag.then_some(position as i64))
        .collect()
}
