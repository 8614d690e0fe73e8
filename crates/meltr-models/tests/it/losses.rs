//! Laws of UniVL's losses.

use burn::tensor::{Device, Tensor};
use meltr_core::Pass;
use meltr_models::{PaddedTargets, SimilarityKind, UniVlConfig, UniVlLoss};

use crate::support::{FRAMES, VIDEO_DIM, VOCABULARY, batch, host, model};

#[test]
fn losses_taken_one_by_one_are_those_taken_together() {
    let (model, batch) = (model(1), batch(3));
    let together = host(model.losses(&batch, &UniVlLoss::ALL, Pass::Evaluation));
    for (loss, expected) in UniVlLoss::ALL.into_iter().zip(together) {
        let alone = host(model.losses(&batch, &[loss], Pass::Evaluation))[0];
        assert!(
            (alone - expected).abs() < 1e-6,
            "{loss}: {alone} alone, {expected} together"
        );
    }
}

#[test]
fn what_stands_in_padding_changes_nothing() {
    let (model, batch) = (model(2), batch(4));
    let before = host(model.losses(&batch, &UniVlLoss::ALL, Pass::Evaluation));
    let mut changed = batch.clone();
    // Other features in the padded last frame of item 1.
    let noise = Tensor::<3>::ones([1, 1, VIDEO_DIM], &model.device()) * 3.0;
    let place = [1..2, FRAMES - 1..FRAMES, 0..VIDEO_DIM];
    changed.video = changed.video.slice_assign(place.clone(), noise.clone());
    changed.masked_video = changed.masked_video.slice_assign(place, noise);
    let after = host(model.losses(&changed, &UniVlLoss::ALL, Pass::Evaluation));
    for ((loss, before), after) in UniVlLoss::ALL.into_iter().zip(before).zip(after) {
        assert!(
            (before - after).abs() < 1e-5,
            "{loss}: {before} became {after}"
        );
    }
}

#[test]
fn a_batch_without_masked_words_has_no_word_loss() {
    let mut batch = batch(2);
    batch.predict_words.clear();
    batch.word_targets.clear();
    let losses = model(1).losses(
        &batch,
        &[UniVlLoss::Mlm, UniVlLoss::Joint],
        Pass::Evaluation,
    );
    let losses = host(losses);
    assert_eq!(losses[0], 0.0);
    assert!(losses[1] > 0.0);
}

#[test]
fn ranking_in_chunks_is_ranking_at_once() {
    let (model, batch) = (model(2), batch(4));
    let text = model.encode_text(
        batch.text_ids.clone(),
        batch.text_pad.clone(),
        Pass::Evaluation,
    );
    let video = model.encode_video(
        batch.video.clone(),
        batch.video_pad.clone(),
        Pass::Evaluation,
    );
    for kind in [SimilarityKind::Align, SimilarityKind::Joint] {
        let whole = model.similarity(kind, &text, &video, Pass::Evaluation);
        let part = model.similarity(
            kind,
            &text.narrow(1, 2),
            &video.narrow(2, 2),
            Pass::Evaluation,
        );
        let same = whole.narrow(0, 1, 2).narrow(1, 2, 2);
        let apart: f32 = (same - part).abs().max().into_scalar();
        assert!(apart < 1e-5, "{kind:?}: {apart}");
    }
}

#[test]
fn the_same_seed_draws_the_same_dropout_on_and_off_the_tape() {
    use burn::module::Module;
    let (model, batch) = (model(1), batch(3));
    let pass = Pass::Stochastic { seed: 9 };
    let plain = host(model.losses(&batch, &UniVlLoss::ALL, pass));
    let taped = host(
        model
            .clone()
            .train()
            .losses(&batch, &UniVlLoss::ALL, pass)
            .inner(),
    );
    // The same masks; operations on the tape may round in another order.
    for (plain, taped) in plain.iter().zip(taped) {
        assert!(
            (plain - taped).abs() < 1e-6 * plain.abs().max(1.0),
            "{plain} {taped}"
        );
    }
    let other = host(model.losses(&batch, &UniVlLoss::ALL, Pass::Stochastic { seed: 10 }));
    assert_ne!(plain, other);
}

#[test]
fn ignored_padding_changes_the_loss_of_captions_with_padding_alone() {
    let config = UniVlConfig {
        d_model: 16,
        n_heads: 2,
        d_ff: 24,
        ..UniVlConfig::mini(VOCABULARY, VIDEO_DIM)
    };
    let ignored = UniVlConfig {
        padded_targets: PaddedTargets::Ignored,
        ..config.clone()
    };
    let device = Device::default();
    let loss = |config: &UniVlConfig, n: usize| -> f32 {
        let model = config.init(11, &device).unwrap();
        let losses = model.losses(&batch(n), &[UniVlLoss::Decoder], Pass::Evaluation);
        losses.into_scalar()
    };
    // The first item has no padding, the second has two tokens of it.
    assert!((loss(&config, 1) - loss(&ignored, 1)).abs() < 1e-6);
    assert!((loss(&config, 2) - loss(&ignored, 2)).abs() > 1e-5);
}
