//! VIOLET's tasks on the embedded clips: training lowers the losses, evaluation sees every item.

use std::sync::Arc;

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::Device;
use meltr_core::{FineTuneTask, Pass, vec_f64};
use meltr_data::{
    ClipText, EmojiFrames, EmojiFramesConfig, FrameChoice, KeywordUse, OptionPrompt, PixelCollator,
    PixelSet, PixelTask, VisualTargets,
};
use meltr_models::{SwinConfig, Violet, VioletConfig};
use meltr_tasks::{VioletFineTune, VioletTaskConfig, violet_task};

const FRAMES: usize = 2;
const WORDS: usize = 12;
const TASKS: [PixelTask; 3] = [
    PixelTask::Retrieval,
    PixelTask::OpenEnded,
    PixelTask::MultipleChoice,
];

/// A task on the embedded clips, and a narrow model without dropout for it.
fn prepared(task: PixelTask) -> (VioletFineTune, Violet) {
    let set = EmojiFrames::embedded(EmojiFramesConfig {
        task,
        n_frames: FRAMES,
        choice: FrameChoice::Uniform,
        text: ClipText {
            keywords: KeywordUse::None,
        },
        option_seed: 0,
    })
    .unwrap();
    let collator = PixelCollator {
        max_words: WORDS,
        n_frames: FRAMES,
        image_size: 32,
        visual_targets: VisualTargets::MeanColor,
        option_prompt: OptionPrompt::QuestionAndOption,
        ..PixelCollator::violet()
    };
    let kind = violet_task(&set);
    let mini = VioletConfig::mini(
        kind,
        set.word_piece().vocab_size(),
        collator.visual_targets.n_tokens(),
    );
    let sizes = VioletConfig {
        swin: SwinConfig {
            embed_dim: 4,
            depths: [1; 4],
            n_heads: [1, 1, 2, 2],
            drop_path: 0.0,
            ..mini.swin
        },
        n_heads: 2,
        d_ff: 32,
        dropout: 0.0,
        answer_dropout: 0.0,
        ..mini
    };
    let device = Device::default();
    let settings = VioletTaskConfig::new(kind, 4, vec!["train".to_owned()]);
    let model = sizes.init(5, &device).unwrap();
    let task = VioletFineTune::new(Arc::new(set), collator, &sizes, settings, 1, &device).unwrap();
    (task, model)
}

#[test]
fn a_few_steps_on_a_batch_lower_the_sum_of_its_losses() {
    for kind in TASKS {
        let (task, model) = prepared(kind);
        let batch = task.batch(0, 9).unwrap();
        let sum = |model: &Violet| -> f64 {
            let losses = task.losses(model, &batch, Pass::Evaluation);
            vec_f64(losses.into_data()).iter().sum()
        };
        let before = sum(&model);
        let mut training = model.train();
        let mut optimizer = AdamConfig::new().init();
        for seed in 0..8 {
            let losses = task.losses(&training, &batch, Pass::Stochastic { seed });
            let gradients = GradientsParams::from_grads(losses.sum().backward(), &training);
            training = optimizer.step(3e-3, training, gradients);
        }
        let after = sum(&training.valid());
        assert!(after < before, "{kind}: {before} became {after}");
    }
}

#[test]
fn every_question_about_the_test_clips_is_answered() {
    // 127 test clips, with two open-ended questions each.
    for (kind, n_items) in [
        (PixelTask::OpenEnded, 254),
        (PixelTask::MultipleChoice, 127),
    ] {
        let (task, model) = prepared(kind);
        let answers = task.given_answers(&model, "test").unwrap();
        assert_eq!(answers.len(), n_items);
        assert_eq!(task.n_items("test").unwrap(), n_items);
        let metrics = task.evaluate(&model, "test").unwrap();
        let n_right = answers
            .iter()
            .filter(|answer| answer.right == Some(answer.given))
            .count();
        assert!((metrics["accuracy"] - n_right as f64 / n_items as f64).abs() < 1e-12);
        let unknown = answers.iter().filter(|answer| answer.right.is_none());
        assert_eq!(metrics["n_unknown_answers"], unknown.count() as f64);
    }
}

#[test]
fn what_has_to_be_beaten_on_the_embedded_clips_is_known() {
    let (task, _) = prepared(PixelTask::OpenEnded);
    let references = task.blind_references("test").unwrap();
    // Of 127 test clips 55 are `people & body` and 8 `mammals`, each the most frequent answer to
    // its question among the training clips.
    let accuracy = |at: usize| references[at].metrics["accuracy"];
    assert!((accuracy(0) - 55.0 / 254.0).abs() < 1e-12);
    assert!((accuracy(1) - 63.0 / 254.0).abs() < 1e-12);

    let (task, _) = prepared(PixelTask::MultipleChoice);
    let references = task.blind_references("test").unwrap();
    assert!((references[0].metrics["accuracy"] - 0.2).abs() < 1e-12);

    let (task, _) = prepared(PixelTask::Retrieval);
    let references = task.blind_references("test").unwrap();
    let r1 = references[0].metrics["text_to_video.r1"];
    assert!((r1 - 1.0 / 127.0).abs() < 1e-12);
}
