//! VIOLET: published keys, forward mode against reverse mode, laws of the losses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Distribution, Gradients, Int, Tensor, TensorData};
use meltr_core::Pass;
use meltr_models::{
    PrimaryFrames, SwinConfig, Violet, VioletBatch, VioletConfig, VioletLoss, VioletTask,
};

use crate::support::host;

const WORDS: usize = 6;
const FRAMES: usize = 3;
const SIZE: usize = 64;
const VOCABULARY: usize = 40;
const VISUAL_TOKENS: usize = 12;
const ANSWERS: usize = 5;
const TASKS: [VioletTask; 3] = [
    VioletTask::Retrieval,
    VioletTask::MultipleChoice,
    VioletTask::OpenEnded { n_answers: ANSWERS },
];

fn model(task: VioletTask, primary_frames: PrimaryFrames) -> Violet {
    let mini = VioletConfig::mini(task, VOCABULARY, VISUAL_TOKENS);
    let config = VioletConfig {
        swin: SwinConfig {
            embed_dim: 4,
            depths: [2, 1, 1, 1],
            n_heads: [1, 1, 2, 2],
            window: [2, 3, 3],
            ..mini.swin
        },
        n_heads: 2,
        d_ff: 24,
        primary_frames,
        ..mini
    };
    config.init(11, &Device::default()).unwrap()
}

/// Texts of an item.
fn n_options(task: VioletTask) -> usize {
    match task {
        VioletTask::MultipleChoice => 2,
        _ => 1,
    }
}

fn ids(values: &[i64]) -> Tensor<2, Int> {
    let shape = [values.len() / WORDS, WORDS];
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::default())
}

/// A batch of `n` items; the last two words of every second text are padding, one word of each
/// text is masked, and one patch of each video is hidden.
fn batch(task: VioletTask, n: usize) -> VioletBatch {
    let device = Device::default();
    device.seed(5);
    let n_options = n_options(task);
    let n_texts = n * n_options;
    let words: Vec<i64> = (0..n_texts * WORDS)
        .map(|at| 5 + (at * 7 % 30) as i64)
        .collect();
    let pad: Vec<bool> = (0..n_texts * WORDS)
        .map(|at| (at / WORDS) % 2 == 1 && at % WORDS >= WORDS - 2)
        .collect();
    let predict_words: Vec<i64> = (0..n_texts).map(|row| (row * WORDS + 2) as i64).collect();
    let mut masked = words.clone();
    for at in &predict_words {
        masked[*at as usize] = 4;
    }
    let predict_patches: Vec<i64> = (0..n).map(|item| (item * FRAMES * 4 + 5) as i64).collect();
    let mut hidden = vec![false; n * FRAMES * 4];
    for at in &predict_patches {
        hidden[*at as usize] = true;
    }
    let shape = [n, FRAMES, 3, SIZE, SIZE];
    VioletBatch {
        frames: Tensor::random(shape, Distribution::Default, &device),
        hidden_patches: Tensor::<4, Bool>::from_data(
            TensorData::new(hidden, [n, FRAMES, 2, 2]),
            &device,
        ),
        n_options,
        text_ids: ids(&words),
        text_pad: Tensor::<2, Bool>::from_data(TensorData::new(pad, [n_texts, WORDS]), &device),
        masked_text_ids: ids(&masked),
        word_targets: predict_words.iter().map(|at| words[*at as usize]).collect(),
        predict_words,
        patch_targets: (0..n as i64).map(|item| item % 7).collect(),
        predict_patches,
        answers: match task {
            VioletTask::Retrieval => Vec::new(),
            VioletTask::MultipleChoice => (0..n as i64).map(|item| (item + 1) % 2).collect(),
            VioletTask::OpenEnded { .. } => (0..n as i64).map(|item| item % 4).collect(),
        },
    }
}

/// The same tensor with another first row.
fn with_first_row(tensor: Tensor<2, Int>, row: &[i64]) -> Tensor<2, Int> {
    tensor.slice_assign([0..1, 0..WORDS], ids(row))
}

/// Name and shape of every entry of the published retrieval model, after the released code.
fn published() -> BTreeMap<String, Vec<usize>> {
    let mut keys = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        keys.insert(name, shape.to_vec());
    };
    let swin = "enc_img.swin";
    add("enc_img.emb_cls".into(), &[1, 1, 1, 768]);
    add("enc_img.emb_pos".into(), &[1, 1, 197, 768]);
    add("enc_img.emb_len".into(), &[1, 6, 1, 768]);
    add(format!("{swin}.patch_embed.proj.weight"), &[96, 3, 2, 4, 4]);
    add(format!("{swin}.patch_embed.proj.bias"), &[96]);
    let norms = [
        (format!("{swin}.patch_embed.norm"), 96),
        (format!("{swin}.norm"), 768),
        ("enc_img.norm".to_owned(), 768),
        ("enc_txt.emb_txt.LayerNorm".to_owned(), 768),
        ("fc_mtm.predictions.transform.LayerNorm".to_owned(), 768),
    ];
    let mut linears: Vec<(String, usize, usize)> = vec![
        ("fc.1".to_owned(), 1536, 768),
        ("fc.3".to_owned(), 1, 1536),
        ("fc_mvm.1".to_owned(), 1536, 768),
        ("fc_mvm.3".to_owned(), 8192, 1536),
        ("fc_mtm.predictions.transform.dense".to_owned(), 768, 768),
        ("fc_mtm.predictions.decoder".to_owned(), 30_522, 768),
    ];
    let mut norms = norms.to_vec();
    for (stage, (depth, heads)) in [(2, 3), (2, 6), (18, 12), (2, 24)].into_iter().enumerate() {
        let width = 96 << stage;
        for block in 0..depth {
            let block = format!("{swin}.layers.{stage}.blocks.{block}");
            norms.push((format!("{block}.norm1"), width));
            norms.push((format!("{block}.norm2"), width));
            linears.push((format!("{block}.attn.qkv"), 3 * width, width));
            linears.push((format!("{block}.attn.proj"), width, width));
            linears.push((format!("{block}.mlp.fc1"), 4 * width, width));
            linears.push((format!("{block}.mlp.fc2"), width, 4 * width));
            let bias = format!("{block}.attn.relative_position");
            add(format!("{bias}_bias_table"), &[2535, heads]);
            add(format!("{bias}_index"), &[392, 392]);
        }
        if stage < 3 {
            let merging = format!("{swin}.layers.{stage}.downsample");
            norms.push((format!("{merging}.norm"), 4 * width));
            add(
                format!("{merging}.reduction.weight"),
                &[2 * width, 4 * width],
            );
        }
    }
    for layer in 0..12 {
        let layer = format!("trsfr.layer.{layer}");
        for part in ["query", "key", "value"] {
            linears.push((format!("{layer}.attention.self.{part}"), 768, 768));
        }
        linears.push((format!("{layer}.attention.output.dense"), 768, 768));
        linears.push((format!("{layer}.intermediate.dense"), 3072, 768));
        linears.push((format!("{layer}.output.dense"), 768, 3072));
        norms.push((format!("{layer}.attention.output.LayerNorm"), 768));
        norms.push((format!("{layer}.output.LayerNorm"), 768));
    }
    for (name, width) in norms {
        add(format!("{name}.weight"), &[width]);
        add(format!("{name}.bias"), &[width]);
    }
    for (name, n_out, n_in) in linears {
        add(format!("{name}.weight"), &[n_out, n_in]);
        add(format!("{name}.bias"), &[n_out]);
    }
    let text = "enc_txt.emb_txt";
    add(format!("{text}.position_ids"), &[1, 512]);
    add(format!("{text}.word_embeddings.weight"), &[30_522, 768]);
    add(format!("{text}.position_embeddings.weight"), &[512, 768]);
    add(format!("{text}.token_type_embeddings.weight"), &[2, 768]);
    add("fc_mtm.predictions.bias".into(), &[30_522]);
    keys
}

#[test]
fn the_base_size_has_exactly_the_published_keys_and_shapes() {
    let model = VioletConfig::base(VioletTask::Retrieval)
        .init(0, &Device::default())
        .unwrap();
    assert_eq!(model.num_params(), 197_577_489);
    let ours: BTreeMap<String, Vec<usize>> = model
        .state_dict()
        .into_iter()
        .map(|(name, data)| (name, data.shape().to_vec()))
        .collect();
    let published = published();
    assert_eq!(published.len(), 569);
    for (name, shape) in &published {
        assert_eq!(ours.get(name), Some(shape), "{name}");
    }
    let extra: Vec<_> = ours
        .keys()
        .filter(|name| !published.contains_key(*name))
        .collect();
    assert!(extra.is_empty(), "{extra:?}");
}

#[test]
fn the_list_of_published_keys_is_the_one_that_was_read_off_the_released_code() {
    let shared = std::env::var_os("MELTR_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let Ok(table) = std::fs::read_to_string(shared.join("spec/state-dict-violet.tsv")) else {
        eprintln!("skipped: no table of keys; point MELTR_SHARED at a folder that has `spec`");
        return;
    };
    let read: BTreeMap<String, Vec<usize>> = table
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let mut columns = line.split('\t');
            let name = columns.next().unwrap().to_owned();
            let sizes = columns
                .next()
                .unwrap()
                .trim_matches(|c| "()".contains(c))
                .split(',')
                .filter_map(|size| size.trim().parse().ok())
                .collect();
            (name, sizes)
        })
        .collect();
    assert_eq!(published(), read);
}

/// A direction: smooth, nowhere zero, of the size of the parameters.
struct Wave(usize);

impl ModuleMapper for Wave {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let phase = self.0 as f64;
        param.map(|value| (value * 9.0 + phase).sin() * 0.03)
    }
}

struct Collect(Vec<Vec<f64>>);

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().into_data().iter::<f64>().collect());
    }
}

/// Sum over parameters of `<gradient, direction>`.
struct Inner<'a> {
    gradients: &'a Gradients,
    directions: std::vec::IntoIter<Vec<f64>>,
    sum: f64,
}

impl ModuleVisitor for Inner<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let direction = self.directions.next().unwrap();
        if let Some(gradient) = param.val().grad(self.gradients) {
            let gradient = gradient.into_data();
            self.sum += gradient
                .iter::<f64>()
                .zip(direction)
                .map(|(g, d)| g * d)
                .sum::<f64>();
        }
    }
}

fn reverse(
    model: &Violet,
    direction: &Violet,
    batch: &VioletBatch,
    loss: VioletLoss,
    pass: Pass,
) -> f64 {
    let training = model.clone().train();
    let gradients = training.losses(batch, &[loss], pass).backward();
    let mut collect = Collect(Vec::new());
    direction.visit(&mut collect);
    let mut inner = Inner {
        gradients: &gradients,
        directions: collect.0.into_iter(),
        sum: 0.0,
    };
    training.visit(&mut inner);
    inner.sum
}

#[test]
fn every_loss_agrees_with_its_reverse_pass_with_and_without_dropout() {
    for task in TASKS {
        let model = model(task, PrimaryFrames::Clean);
        let direction = model.clone().map(&mut Wave(0));
        let batch = batch(task, 3);
        for pass in [Pass::Evaluation, Pass::Stochastic { seed: 3 }] {
            for loss in task.losses() {
                let dual = model.losses_along(&direction, &batch, &[*loss], pass);
                let forward = host(dual.tangent.unwrap())[0];
                let reverse = reverse(&model, &direction, &batch, *loss, pass);
                assert!(
                    (forward - reverse).abs() < 5e-4 * reverse.abs().max(0.05),
                    "{task:?} {loss} {pass:?}: {forward} forward, {reverse} reverse"
                );
            }
        }
    }
}

#[test]
fn losses_taken_one_by_one_are_those_taken_together() {
    for frames in [PrimaryFrames::Clean, PrimaryFrames::Masked] {
        for task in TASKS {
            let (model, batch) = (model(task, frames), batch(task, 3));
            let together = host(model.losses(&batch, task.losses(), Pass::Evaluation));
            for (loss, expected) in task.losses().iter().zip(together) {
                let alone = host(model.losses(&batch, &[*loss], Pass::Evaluation))[0];
                assert!(
                    (alone - expected).abs() < 2e-5,
                    "{task:?} {loss}: {alone} alone, {expected} together"
                );
            }
        }
    }
}

#[test]
fn what_stands_in_padding_changes_nothing() {
    for task in TASKS {
        let (model, batch) = (model(task, PrimaryFrames::Clean), batch(task, 2));
        let before = host(model.losses(&batch, task.losses(), Pass::Evaluation));
        let mut changed = batch.clone();
        // The last two words of text 1 are padding.
        let (place, words) = ([1..2, WORDS - 2..WORDS], [[9, 13]]);
        let words = Tensor::<2, Int>::from_data(words, &Device::default());
        changed.text_ids = changed.text_ids.slice_assign(place.clone(), words.clone());
        changed.masked_text_ids = changed.masked_text_ids.slice_assign(place, words);
        let after = host(model.losses(&changed, task.losses(), Pass::Evaluation));
        for ((loss, before), after) in task.losses().iter().zip(before).zip(after) {
            assert!(
                (before - after).abs() < 1e-5,
                "{task:?} {loss}: {before} became {after}"
            );
        }
    }
}

#[test]
fn a_wrong_option_matters_to_the_choice_and_not_to_matching() {
    let task = VioletTask::MultipleChoice;
    let (model, batch) = (model(task, PrimaryFrames::Clean), batch(task, 3));
    let which = [VioletLoss::Mc, VioletLoss::Vtm, VioletLoss::Mvm];
    let before = host(model.losses(&batch, &which, Pass::Evaluation));
    // The right option of item 0 is its second text.
    assert_eq!(batch.answers[0], 1);
    let other = [30, 31, 32, 33, 34, 35];
    let mut changed = batch.clone();
    changed.text_ids = with_first_row(changed.text_ids, &other);
    changed.masked_text_ids = with_first_row(changed.masked_text_ids, &other);
    let after = host(model.losses(&changed, &which, Pass::Evaluation));
    assert!((before[0] - after[0]).abs() > 1e-6);
    for (before, after) in before[1..].iter().zip(&after[1..]) {
        assert!((before - after).abs() < 1e-6, "{before} became {after}");
    }
}

#[test]
fn hidden_patches_reach_the_primary_loss_only_if_it_is_told_to_see_them() {
    for task in TASKS {
        let shown = batch(task, 2);
        let mut hidden = shown.clone();
        hidden.hidden_patches = hidden.hidden_patches.bool_not();
        let which = [task.primary(), VioletLoss::Mtm];
        for (frames, is_same) in [(PrimaryFrames::Clean, true), (PrimaryFrames::Masked, false)] {
            let model = model(task, frames);
            let a = host(model.losses(&shown, &which, Pass::Evaluation));
            let b = host(model.losses(&hidden, &which, Pass::Evaluation));
            assert_eq!(a[0] == b[0], is_same, "{task:?} {frames:?}");
            assert_ne!(a[1], b[1], "{task:?} {frames:?}");
        }
    }
}

#[test]
fn a_batch_with_nothing_masked_has_no_loss_of_reconstruction() {
    let task = VioletTask::Retrieval;
    let mut batch = batch(task, 2);
    batch.predict_words.clear();
    batch.word_targets.clear();
    batch.predict_patches.clear();
    batch.patch_targets.clear();
    let model = model(task, PrimaryFrames::Clean);
    let losses = host(model.losses(&batch, task.losses(), Pass::Evaluation));
    assert!(losses[0] > 0.0);
    assert_eq!(losses[1..], [0.0, 0.0]);
}

#[test]
fn an_answer_that_is_no_class_is_left_out_of_the_mean() {
    let task = VioletTask::OpenEnded { n_answers: ANSWERS };
    let (model, mut batch) = (model(task, PrimaryFrames::Clean), batch(task, 3));
    let mut loss = |answers: [i64; 3]| {
        batch.answers = answers.to_vec();
        host(model.losses(&batch, &[VioletLoss::Oe], Pass::Evaluation))[0]
    };
    let (first, last) = (loss([2, -1, -1]), loss([-1, -1, 4]));
    assert!((loss([2, -1, 4]) - (first + last) / 2.0).abs() < 1e-5);
    assert_eq!(loss([-1, -1, -1]), 0.0);
}

#[test]
fn matching_trains_the_similarity_that_ranks() {
    let task = VioletTask::Retrieval;
    let (model, batch) = (model(task, PrimaryFrames::Clean), batch(task, 3));
    let loss = host(model.losses(&batch, &[VioletLoss::Vtm], Pass::Evaluation))[0];
    let text = model.encode_text(
        batch.text_ids.clone(),
        batch.text_pad.clone(),
        Pass::Evaluation,
    );
    let video = model.encode_video(batch.frames.clone(), Pass::Evaluation);
    let similarity = model.similarity(&text, &video, Pass::Evaluation);
    let similarity: Vec<f64> = similarity.into_data().iter::<f64>().collect();
    // Row = text, column = video; each video looks for its text.
    let expected = (0..3)
        .map(|video| {
            let logit = |text: usize| similarity[text * 3 + video] / 0.05;
            let sum: f64 = (0..3).map(|text| (logit(text) - logit(video)).exp()).sum();
            sum.ln() / 3.0
        })
        .sum::<f64>();
    assert!((loss - expected).abs() < 1e-4, "{loss} {expected}");
    let part = model.similarity(&text.narrow(1, 2), &video.narrow(0, 1), Pass::Evaluation);
    for (row, found) in host(part.reshape([2])).into_iter().enumerate() {
        assert!((found - similarity[(row + 1) * 3]).abs() < 1e-5);
    }
}

#[test]
fn answers_are_scored_as_their_loss_sees_them() {
    for task in [TASKS[1], TASKS[2]] {
        let (model, batch) = (model(task, PrimaryFrames::Clean), batch(task, 3));
        let logits = model
            .answer_logits(
                batch.frames.clone(),
                batch.text_ids.clone(),
                batch.text_pad.clone(),
                Pass::Evaluation,
            )
            .unwrap();
        let [_, width] = logits.dims();
        let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
        let expected = batch
            .answers
            .iter()
            .zip(logits.chunks(width))
            .map(|(answer, row)| {
                let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
                (sum.ln() - row[*answer as usize]) / 3.0
            })
            .sum::<f64>();
        let loss = host(model.losses(&batch, &[task.primary()], Pass::Evaluation))[0];
        assert!(
            (loss - expected).abs() < 1e-5,
            "{task:?}: {loss} {expected}"
        );
    }
    let model = model(VioletTask::Retrieval, PrimaryFrames::Clean);
    let batch = batch(VioletTask::Retrieval, 2);
    let logits = model.answer_logits(
        batch.frames,
        batch.text_ids,
        batch.text_pad,
        Pass::Evaluation,
    );
    assert!(logits.is_none());
}

#[test]
fn the_same_seed_draws_the_same_masks_on_and_off_the_tape() {
    let task = VioletTask::MultipleChoice;
    let (model, batch) = (model(task, PrimaryFrames::Clean), batch(task, 2));
    let pass = Pass::Stochastic { seed: 9 };
    let plain = host(model.losses(&batch, task.losses(), pass));
    let training = model.clone().train();
    let taped = host(training.losses(&batch, task.losses(), pass).inner());
    // The same masks; operations on the tape may round in another order.
    for (plain, taped) in plain.iter().zip(taped) {
        assert!(
            (plain - taped).abs() < 1e-5 * plain.abs().max(1.0),
            "{plain} {taped}"
        );
    }
    let other = host(model.losses(&batch, task.losses(), Pass::Stochastic { seed: 10 }));
    assert_ne!(plain, other);
}

#[test]
#[should_panic(expected = "`mc` is no loss of Retrieval")]
fn a_loss_of_another_task_is_refused() {
    let task = VioletTask::Retrieval;
    let model = model(task, PrimaryFrames::Clean);
    let _ = model.losses(&batch(task, 2), &[VioletLoss::Mc], Pass::Evaluation);
}
