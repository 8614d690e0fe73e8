//! Token by token, the decoder says what it says on whole captions.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_core::Pass;
use meltr_models::{CrossOutput, DecoderCache, PaddedTargets, UniVl, UniVlConfig, UniVlLoss};

use crate::support::{VIDEO_DIM, VOCABULARY, WORDS, batch, host};

/// A network whose decoder has two layers.
fn model() -> UniVl {
    let config = UniVlConfig {
        d_model: 16,
        n_heads: 2,
        d_ff: 24,
        decoder_layers: 2,
        max_text_positions: WORDS,
        ..UniVlConfig::mini(VOCABULARY, VIDEO_DIM)
    };
    config.init(11, &Device::default()).unwrap()
}

/// `n` pairs, some of their words and frames padding.
fn encoded(model: &UniVl, n: usize) -> CrossOutput {
    let batch = batch(n);
    let text = model.encode_text(batch.text_ids, batch.text_pad, Pass::Evaluation);
    let video = model.encode_video(batch.video, batch.video_pad, Pass::Evaluation);
    model.encode_for_captions(&text, &video)
}

fn ids(model: &UniVl, rows: &[Vec<i64>]) -> Tensor<2, Int> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), &model.device())
}

/// Logits at the last position of whole captions; `items` has the item of each.
fn whole(model: &UniVl, encoded: &CrossOutput, items: &[i64], captions: &[Vec<i64>]) -> Tensor<2> {
    let device = model.device();
    let items = TensorData::new(items.to_vec(), [items.len()]);
    let items = Tensor::<1, Int>::from_data(items, &device);
    let ids = ids(model, captions);
    let [rows, length] = ids.dims();
    let pad = TensorData::new(vec![false; rows * length], [rows, length]);
    let pad = Tensor::<2, Bool>::from_data(pad, &device);
    model
        .decode(&encoded.select(items), ids, pad)
        .narrow(1, length - 1, 1)
        .reshape([rows, VOCABULARY])
}

/// Logits after the last token of every caption, from the cache.
fn next(model: &UniVl, cache: &mut DecoderCache, captions: &[Vec<i64>]) -> Tensor<2> {
    let last: Vec<Vec<i64>> = captions
        .iter()
        .map(|caption| vec![*caption.last().unwrap()])
        .collect();
    model.decode_next(cache, ids(model, &last))
}

fn assert_close(found: Tensor<2>, expected: Tensor<2>) {
    assert_eq!(found.dims(), expected.dims());
    let [rows, columns] = expected.dims();
    let found = host(found.reshape([rows * columns]));
    let expected = host(expected.reshape([rows * columns]));
    let spread = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    assert!(spread > 1e-3, "logits that are all alike prove nothing");
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
}

#[test]
fn every_step_gives_the_logits_of_the_whole_caption() {
    let model = model();
    let encoded = encoded(&model, 3);
    let mut cache = model.start_decoding(&encoded);
    let mut captions = [vec![5], vec![5], vec![5]];
    for step in 0..6 {
        let found = next(&model, &mut cache, &captions);
        assert_close(found, whole(&model, &encoded, &[0, 1, 2], &captions));
        assert_eq!((cache.n_rows(), cache.length()), (3, step + 1));
        for (item, caption) in captions.iter_mut().enumerate() {
            caption.push(6 + (item as i64 * 11 + step as i64 * 5) % 30);
        }
    }
}

#[test]
fn captions_branch_change_places_and_leave() {
    let model = model();
    let encoded = encoded(&model, 3);
    let mut cache = model.start_decoding(&encoded);
    let start = [vec![5], vec![5], vec![5]];
    let _ = next(&model, &mut cache, &start);

    // Every item branches into two captions.
    cache.select(&[0, 0, 1, 1, 2, 2], 2);
    let mut captions: Vec<Vec<i64>> = (0..6).map(|row| vec![5, 10 + row]).collect();
    let found = next(&model, &mut cache, &captions);
    let expected = whole(&model, &encoded, &[0, 0, 1, 1, 2, 2], &captions);
    assert_close(found, expected);

    // Item 1 leaves, the captions of item 0 change places, one of item 2 replaces the other.
    cache.select(&[1, 0, 5, 5], 2);
    captions = [1, 0, 5, 5]
        .map(|row: usize| captions[row].clone())
        .to_vec();
    for (row, caption) in captions.iter_mut().enumerate() {
        caption.push(20 + row as i64);
    }
    let found = next(&model, &mut cache, &captions);
    let expected = whole(&model, &encoded, &[0, 0, 2, 2], &captions);
    assert_close(found, expected);

    // Another width: of two captions of each item one stays, and the items change places.
    cache.select(&[3, 0], 1);
    captions = vec![captions[3].clone(), captions[0].clone()];
    for caption in &mut captions {
        caption.push(7);
    }
    let found = next(&model, &mut cache, &captions);
    let expected = whole(&model, &encoded, &[2, 0], &captions);
    assert_close(found, expected);
    assert_eq!((cache.n_rows(), cache.length()), (2, 4));
}

#[test]
#[should_panic(expected = "are not of one item")]
fn neighbors_of_two_items_are_refused() {
    let model = model();
    let mut cache = model.start_decoding(&encoded(&model, 2));
    cache.select(&[0, 1], 2);
}

#[test]
#[should_panic(expected = "there are 7 positions")]
fn a_caption_does_not_outgrow_its_positions() {
    let model = model();
    let mut cache = model.start_decoding(&encoded(&model, 1));
    for _ in 0..8 {
        let _ = next(&model, &mut cache, &[vec![5]]);
    }
}

#[test]
fn padding_can_be_left_out_of_the_caption_loss() {
    let device = Device::default();
    let config = UniVlConfig::mini(VOCABULARY, VIDEO_DIM);
    let losses = |padded_targets, padded: bool| {
        let config = UniVlConfig {
            padded_targets,
            ..config.clone()
        };
        let mut batch = batch(2);
        if padded {
            // Other words where item 1 has padding.
            let place = [1..2, WORDS - 2..WORDS];
            let others = TensorData::new(vec![9i64, 11], [1, 2]);
            let others = Tensor::<2, Int>::from_data(others, &device);
            batch.decoder_target_ids = batch.decoder_target_ids.slice_assign(place, others);
        }
        let model = config.init(3, &device).unwrap();
        host(model.losses(&batch, &[UniVlLoss::Decoder], Pass::Evaluation))[0]
    };
    let ignored = losses(PaddedTargets::Ignored, false);
    assert_eq!(ignored, losses(PaddedTargets::Ignored, true));
    let counted = losses(PaddedTargets::Counted, false);
    assert_ne!(counted, losses(PaddedTargets::Counted, true));
    assert!((ignored - counted).abs() > 1e-6);
}
