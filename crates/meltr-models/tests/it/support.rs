//! A small model and batches for it.

use burn::tensor::{Bool, Device, Distribution, Int, Tensor, TensorData};
use meltr_models::{UniVl, UniVlBatch, UniVlConfig};

pub(crate) const WORDS: usize = 7;
pub(crate) const FRAMES: usize = 5;
pub(crate) const VOCABULARY: usize = 40;
pub(crate) const VIDEO_DIM: usize = 12;

/// A small network with `cross_layers` layers in its cross encoder.
pub(crate) fn model(cross_layers: usize) -> UniVl {
    let config = UniVlConfig {
        d_model: 16,
        n_heads: 2,
        d_ff: 24,
        cross_layers,
        ..UniVlConfig::mini(VOCABULARY, VIDEO_DIM)
    };
    config.init(11, &Device::default()).unwrap()
}

/// A batch of `n` pairs; the last two words and the last frame of every second item are padding.
pub(crate) fn batch(n: usize) -> UniVlBatch {
    let device = Device::default();
    device.seed(5);
    let ids: Vec<i64> = (0..n * WORDS).map(|at| 5 + (at * 7 % 30) as i64).collect();
    let tensor =
        |ids: Vec<i64>| Tensor::<2, Int>::from_data(TensorData::new(ids, [n, WORDS]), &device);
    let pad = |length: usize, padded: usize| -> Tensor<2, Bool> {
        let flags: Vec<bool> = (0..n * length)
            .map(|at| (at / length) % 2 == 1 && at % length >= length - padded)
            .collect();
        Tensor::from_data(TensorData::new(flags, [n, length]), &device)
    };
    let video = Tensor::<3>::random([n, FRAMES, VIDEO_DIM], Distribution::Default, &device);
    let mut masked = ids.clone();
    masked[2] = 4;
    let hidden = Tensor::cat(
        vec![
            video.clone().narrow(1, 0, 1).zeros_like(),
            video.clone().narrow(1, 1, FRAMES - 1),
        ],
        1,
    );
    UniVlBatch {
        text_ids: tensor(ids.clone()),
        text_pad: pad(WORDS, 2),
        masked_text_ids: tensor(masked),
        video,
        masked_video: hidden,
        video_pad: pad(FRAMES, 1),
        predict_words: vec![2],
        word_targets: vec![ids[2]],
        predict_frames: (0..n).map(|item| (item * FRAMES) as i64).collect(),
        decoder_input_ids: tensor(ids.clone()),
        decoder_target_ids: tensor(ids),
        decoder_pad: pad(WORDS, 2),
        caption_positions: (0..n * WORDS)
            .filter(|at| (at / WORDS).is_multiple_of(2) || at % WORDS < WORDS - 2)
            .map(|at| at as i64)
            .collect(),
    }
}

/// Host values of a vector.
pub(crate) fn host(values: Tensor<1>) -> Vec<f64> {
    values.into_data().iter::<f64>().collect()
}
