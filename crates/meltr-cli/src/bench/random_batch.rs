//! Random texts and videos of fixed sizes.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_data::RandomStream;
use meltr_models::{
    AllInOneBatch, AllInOneConfig, UniVlBatch, UniVlConfig, VioletBatch, VioletConfig,
};

/// Ids of the random texts.
const PAD: i64 = 0;
const CLS: i64 = 1;
const SEP: i64 = 2;
const MASK: i64 = 3;

/// Share of the words and of the frames or patches of a pair that are masked.
const MASK_PROBABILITY: f64 = 0.15;

/// Pixels a side of a patch that VIOLET hides.
const VIOLET_PATCH: usize = 32;

/// Color channels of raw frames.
const CHANNELS: usize = 3;

/// Sizes of a random batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchSize {
    /// Pairs `B`.
    pub(super) pairs: usize,
    /// Tokens of a text `L`, at least 4.
    pub(super) words: usize,
    /// Frames of a video `F`, at least 1.
    pub(super) frames: usize,
}

/// Pairs with the caption equal to the text, on `device`.
///
/// In every second text the last quarter is padding. 15 % of the words and of the frames of each
/// pair are masked. The same as `random_batch` of `xtask/peers/univl_train_step.py`, other draws
/// aside.
pub(super) fn random_batch(
    config: &UniVlConfig,
    size: BatchSize,
    seed: u64,
    device: &Device,
) -> UniVlBatch {
    let BatchSize {
        pairs,
        words,
        frames,
    } = size;
    let mut stream = RandomStream::new(seed);
    let texts = Texts::random(config.vocab_size, size, &mut stream);

    let width = config.video_dim;
    let video: Vec<f32> = (0..pairs * frames * width)
        .map(|_| stream.normal() as f32)
        .collect();
    let mut masked_video = video.clone();
    let mut predict_frames = Vec::new();
    for item in 0..pairs {
        for frame in some_of(frames, &mut stream) {
            let position = item * frames + frame;
            predict_frames.push(position as i64);
            masked_video[position * width..(position + 1) * width].fill(0.0);
        }
    }

    // What the decoder says is one token ahead of what it is given.
    let decoder_pad = ahead(&texts.pad, words, true);
    let decoder_target = ahead(&texts.ids, words, PAD);
    let decoder_input: Vec<i64> = texts
        .ids
        .iter()
        .zip(&decoder_pad)
        .map(|(id, pad)| if *pad { PAD } else { *id })
        .collect();

    let floats = |values: Vec<f32>| -> Tensor<3> {
        Tensor::from_data(TensorData::new(values, [pairs, frames, width]), device)
    };
    UniVlBatch {
        text_ids: ids(texts.ids, size, device),
        text_pad: flags(texts.pad, size, device),
        masked_text_ids: ids(texts.masked_ids, size, device),
        video: floats(video),
        masked_video: floats(masked_video),
        video_pad: Tensor::from_data(
            TensorData::new(vec![false; pairs * frames], [pairs, frames]),
            device,
        ),
        predict_words: texts.predict_words,
        word_targets: texts.word_targets,
        predict_frames,
        decoder_input_ids: ids(decoder_input, size, device),
        decoder_target_ids: ids(decoder_target, size, device),
        caption_positions: decoder_pad
            .iter()
            .enumerate()
            .filter_map(|(position, pad)| (!pad).then_some(position as i64))
            .collect(),
        decoder_pad: flags(decoder_pad, size, device),
    }
}

/// Pairs of texts and square frames of `side` pixels for VIOLET's retrieval losses, on `device`.
///
/// In every second text the last quarter is padding. 15 % of the words of each text are masked and
/// 15 % of the patches of each video are hidden. The same as `random_batch` of
/// `xtask/peers/violet_train_step.py`, other draws aside.
pub(super) fn random_violet_batch(
    config: &VioletConfig,
    size: BatchSize,
    side: usize,
    seed: u64,
    device: &Device,
) -> VioletBatch {
    let BatchSize { pairs, frames, .. } = size;
    let mut stream = RandomStream::new(seed);
    let texts = Texts::random(config.vocab_size, size, &mut stream);
    let pixels: Vec<f32> = (0..pairs * frames * CHANNELS * side * side)
        .map(|_| stream.unit() as f32)
        .collect();

    let grid = side / VIOLET_PATCH;
    let per_video = frames * grid * grid;
    let mut hidden = vec![false; pairs * per_video];
    let mut predict_patches = Vec::new();
    for item in 0..pairs {
        for patch in some_of(per_video, &mut stream) {
            let position = item * per_video + patch;
            hidden[position] = true;
            predict_patches.push(position as i64);
        }
    }
    let patch_targets = (0..predict_patches.len())
        .map(|_| stream.below(config.n_visual_tokens) as i64)
        .collect();
    VioletBatch {
        frames: clips(pixels, size, side, device),
        hidden_patches: Tensor::from_data(
            TensorData::new(hidden, [pairs, frames, grid, grid]),
            device,
        ),
        n_options: 1,
        text_ids: ids(texts.ids, size, device),
        text_pad: flags(texts.pad, size, device),
        masked_text_ids: ids(texts.masked_ids, size, device),
        predict_words: texts.predict_words,
        word_targets: texts.word_targets,
        predict_patches,
        patch_targets,
        answers: Vec::new(),
    }
}

/// Pairs of texts and frames of the model's size for All-in-one's retrieval losses, on `device`.
///
/// In every second text the last quarter is padding. 15 % of the words of each text are masked, and
/// the patches of every frame stand in a random order. The same as `random_batch` of
/// `xtask/peers/allinone_train_step.py`, other draws aside.
pub(super) fn random_allinone_batch(
    config: &AllInOneConfig,
    size: BatchSize,
    seed: u64,
    device: &Device,
) -> AllInOneBatch {
    let BatchSize { pairs, frames, .. } = size;
    let side = config.image_size;
    let mut stream = RandomStream::new(seed);
    let texts = Texts::random(config.vocab_size, size, &mut stream);
    let pixels: Vec<f32> = (0..pairs * frames * CHANNELS * side * side)
        .map(|_| stream.normal() as f32)
        .collect();
    let mut patch_order = Vec::with_capacity(pairs * frames * config.n_patches());
    for _ in 0..pairs * frames {
        let mut order: Vec<i64> = (0..config.n_patches() as i64).collect();
        stream.shuffle(&mut order);
        patch_order.extend(order);
    }
    AllInOneBatch {
        frames: clips(pixels, size, side, device),
        patch_order: Some(patch_order),
        text_ids: ids(texts.ids, size, device),
        text_pad: flags(texts.pad, size, device),
        masked_text_ids: ids(texts.masked_ids, size, device),
        predict_words: texts.predict_words,
        word_targets: texts.word_targets,
        options: None,
        answers: Vec::new(),
    }
}

/// Texts with masked words, `[B * L]` each but for the last two.
struct Texts {
    ids: Vec<i64>,
    pad: Vec<bool>,
    masked_ids: Vec<i64>,
    predict_words: Vec<i64>,
    word_targets: Vec<i64>,
}

impl Texts {
    fn random(vocab_size: usize, size: BatchSize, stream: &mut RandomStream) -> Self {
        let BatchSize { pairs, words, .. } = size;
        let n_ordinary = vocab_size.saturating_sub(MASK as usize + 1);
        let mut ids = vec![PAD; pairs * words];
        let mut pad = vec![true; pairs * words];
        let mut masked_ids = Vec::new();
        let mut predict_words = Vec::new();
        let mut word_targets = Vec::new();
        for item in 0..pairs {
            let start = item * words;
            let end = if item % 2 == 1 {
                words - words / 4
            } else {
                words
            };
            for position in 0..end {
                ids[start + position] = MASK + 1 + stream.below(n_ordinary) as i64;
                pad[start + position] = false;
            }
            ids[start] = CLS;
            ids[start + end - 1] = SEP;
            masked_ids.extend_from_slice(&ids[start..start + words]);
            for word in some_of(end - 2, stream) {
                let position = start + 1 + word;
                predict_words.push(position as i64);
                word_targets.push(ids[position]);
                masked_ids[position] = MASK;
            }
        }
        Self {
            ids,
            pad,
            masked_ids,
            predict_words,
            word_targets,
        }
    }
}

/// `[B, L]`
fn ids(values: Vec<i64>, size: BatchSize, device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values, [size.pairs, size.words]), device)
}

/// `[B, L]`
fn flags(values: Vec<bool>, size: BatchSize, device: &Device) -> Tensor<2, Bool> {
    Tensor::from_data(TensorData::new(values, [size.pairs, size.words]), device)
}

/// `[B, F, 3, side, side]`
fn clips(pixels: Vec<f32>, size: BatchSize, side: usize, device: &Device) -> Tensor<5> {
    let shape = [size.pairs, size.frames, CHANNELS, side, side];
    Tensor::from_data(TensorData::new(pixels, shape), device)
}

/// 15 % of `0..bound`, at least one, in increasing order.
fn some_of(bound: usize, stream: &mut RandomStream) -> Vec<usize> {
    let count = (MASK_PROBABILITY * bound as f64).round().max(1.0) as usize;
    stream.subset(bound, count)
}

/// Each row of `length` values moved one place to the left, with `last` at its end.
fn ahead<V: Copy>(values: &[V], length: usize, last: V) -> Vec<V> {
    values
        .chunks(length)
        .flat_map(|row| row[1..].iter().copied().chain([last]))
        .collect()
}

#[cfg(test)]
mod tests {
    use meltr_models::{AllInOneTask, VioletTask};

    use super::*;

    const SIZE: BatchSize = BatchSize {
        pairs: 2,
        words: 8,
        frames: 5,
    };

    fn batch() -> UniVlBatch {
        let config = UniVlConfig::mini(50, 6);
        random_batch(&config, SIZE, 3, &Device::default())
    }

    fn numbers<const D: usize>(tensor: &Tensor<D, Int>) -> Vec<i64> {
        tensor.to_data().iter::<i64>().collect()
    }

    #[test]
    fn the_second_text_ends_three_quarters_in() {
        let batch = batch();
        let ids = numbers(&batch.text_ids);
        assert_eq!((ids[0], ids[7]), (CLS, SEP));
        assert_eq!(ids[13..], [SEP, PAD, PAD]);
        assert_eq!(numbers(&batch.text_pad.int()).iter().sum::<i64>(), 2);
    }

    #[test]
    fn the_caption_is_the_text_one_token_ahead() {
        let batch = batch();
        let text = numbers(&batch.text_ids);
        let input = numbers(&batch.decoder_input_ids);
        let target = numbers(&batch.decoder_target_ids);
        assert_eq!(input[..7], text[..7]);
        assert_eq!(target[..7], text[1..8]);
        assert_eq!((input[7], target[7]), (PAD, PAD));
    }

    #[test]
    fn masked_words_are_ordinary_words_and_hidden() {
        let batch = batch();
        let masked = numbers(&batch.masked_text_ids);
        assert_eq!(batch.predict_words.len(), batch.word_targets.len());
        assert!(batch.predict_words.len() >= 2 && batch.predict_frames.len() >= 2);
        for (position, target) in batch.predict_words.iter().zip(&batch.word_targets) {
            assert_eq!(masked[*position as usize], MASK);
            assert!(*target > MASK);
        }
    }

    #[test]
    fn hidden_patches_are_those_to_be_predicted() {
        let config = VioletConfig::mini(VioletTask::Retrieval, 50, 12);
        let batch = random_violet_batch(&config, SIZE, 64, 3, &Device::default());
        assert_eq!(batch.frames.dims(), [2, 5, 3, 64, 64]);
        let hidden = numbers(&batch.hidden_patches.int());
        let positions: Vec<i64> = (0..40).filter(|at| hidden[*at as usize] == 1).collect();
        assert_eq!(batch.predict_patches, positions);
        // 15 % of the 20 patches of each video.
        assert_eq!(positions.len(), 6);
        assert_eq!(batch.patch_targets.len(), 6);
        assert!(batch.patch_targets.iter().all(|id| (0..12).contains(id)));
    }

    #[test]
    fn the_patches_of_every_frame_stand_in_an_order_of_their_own() {
        let config = AllInOneConfig::mini(AllInOneTask::Retrieval, 50);
        let size = BatchSize { frames: 3, ..SIZE };
        let batch = random_allinone_batch(&config, size, 3, &Device::default());
        assert_eq!(batch.frames.dims(), [2, 3, 3, 64, 64]);
        let order = batch.patch_order.unwrap();
        assert_eq!(order.len(), 6 * 16);
        let every_patch: Vec<i64> = (0..16).collect();
        for frame in order.chunks(16) {
            let mut sorted = frame.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, every_patch);
        }
        assert_ne!(order[..16], order[16..32]);
    }
}
