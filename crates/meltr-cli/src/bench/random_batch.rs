//! Random texts and videos of fixed sizes.

use burn::tensor::{Device, Int, Tensor, TensorData};
use meltr_data::RandomStream;
use meltr_models::{UniVlBatch, UniVlConfig};

/// Ids of the random texts.
const PAD: i64 = 0;
const CLS: i64 = 1;
const SEP: i64 = 2;
const MASK: i64 = 3;

/// Share of the words and frames of a pair that are masked.
const MASK_PROBABILITY: f64 = 0.15;

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
    let n_ordinary = config.vocab_size.saturating_sub(MASK as usize + 1);
    let mut text = vec![PAD; pairs * words];
    let mut text_pad = vec![true; pairs * words];
    let mut masked_text = Vec::new();
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
            text[start + position] = MASK + 1 + stream.below(n_ordinary) as i64;
            text_pad[start + position] = false;
        }
        text[start] = CLS;
        text[start + end - 1] = SEP;
        masked_text.extend_from_slice(&text[start..start + words]);
        for word in some_of(end - 2, &mut stream) {
            let position = start + 1 + word;
            predict_words.push(position as i64);
            word_targets.push(text[position]);
            masked_text[position] = MASK;
        }
    }

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
    let decoder_pad = ahead(&text_pad, words, true);
    let decoder_target = ahead(&text, words, PAD);
    let decoder_input: Vec<i64> = text
        .iter()
        .zip(&decoder_pad)
        .map(|(id, pad)| if *pad { PAD } else { *id })
        .collect();

    let ids = |values: Vec<i64>| -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(values, [pairs, words]), device)
    };
    let floats = |values: Vec<f32>| -> Tensor<3> {
        Tensor::from_data(TensorData::new(values, [pairs, frames, width]), device)
    };
    UniVlBatch {
        text_ids: ids(text),
        text_pad: Tensor::from_data(TensorData::new(text_pad, [pairs, words]), device),
        masked_text_ids: ids(masked_text),
        video: floats(video),
        masked_video: floats(masked_video),
        video_pad: Tensor::from_data(
            TensorData::new(vec![false; pairs * frames], [pairs, frames]),
            device,
        ),
        predict_words,
        word_targets,
        predict_frames,
        decoder_input_ids: ids(decoder_input),
        decoder_target_ids: ids(decoder_target),
        caption_positions: decoder_pad
            .iter()
            .enumerate()
            .filter_map(|(position, pad)| (!pad).then_some(position as i64))
            .collect(),
        decoder_pad: Tensor::from_data(TensorData::new(decoder_pad, [pairs, words]), device),
    }
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
    use super::*;

    fn batch() -> UniVlBatch {
        let config = UniVlConfig::mini(50, 6);
        let size = BatchSize {
            pairs: 2,
            words: 8,
            frames: 5,
        };
        random_batch(&config, size, 3, &Device::default())
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
}
