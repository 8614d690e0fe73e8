//! All-in-one: published keys, forward mode against reverse mode, laws of passes and losses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Distribution, Gradients, Int, Tensor, TensorData};
use meltr_core::{LossTransformerConfig, Pass};
use meltr_models::{
    AllInOne, AllInOneBatch, AllInOneConfig, AllInOneLoss, AllInOneTask, OptionTexts,
};

use crate::support::host;

const WORDS: usize = 6;
const FRAMES: usize = 3;
const SIZE: usize = 8;
const PATCHES: usize = 16;
const VOCABULARY: usize = 40;
const ANSWERS: usize = 5;
const OPTIONS: usize = 2;
const TASKS: [AllInOneTask; 3] = [
    AllInOneTask::Retrieval,
    AllInOneTask::OpenEnded { n_answers: ANSWERS },
    AllInOneTask::MultipleChoice,
];

/// Larger matrices than those that training starts from, which hardly mix tokens.
struct Louder;

impl ModuleMapper for Louder {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D < 2 {
            return param;
        }
        param.map(|value| value * 8.0)
    }
}

fn model(task: AllInOneTask) -> AllInOne {
    let config = AllInOneConfig {
        d_model: 16,
        n_heads: 2,
        d_ff: 24,
        n_layers: 2,
        d_shared: 6,
        image_size: SIZE,
        patch_size: 2,
        n_frames: FRAMES,
        max_text_positions: WORDS,
        ..AllInOneConfig::mini(task, VOCABULARY)
    };
    config
        .init(11, &Device::default())
        .unwrap()
        .map(&mut Louder)
}

fn ids(values: &[i64]) -> Tensor<2, Int> {
    let shape = [values.len() / WORDS, WORDS];
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::default())
}

/// The last two words of every second row are padding.
fn pad(n_rows: usize) -> Tensor<2, Bool> {
    let flags: Vec<bool> = (0..n_rows * WORDS)
        .map(|at| (at / WORDS) % 2 == 1 && at % WORDS >= WORDS - 2)
        .collect();
    Tensor::from_data(TensorData::new(flags, [n_rows, WORDS]), &Device::default())
}

/// A batch of `n` items; one word of each text is masked.
fn batch(task: AllInOneTask, n: usize) -> AllInOneBatch {
    let device = Device::default();
    device.seed(5);
    let words: Vec<i64> = (0..n * WORDS).map(|at| 5 + (at * 7 % 30) as i64).collect();
    let options: Vec<i64> = (0..n * OPTIONS * WORDS)
        .map(|at| 5 + (at * 11 % 31) as i64)
        .collect();
    let predict_words: Vec<i64> = (0..n).map(|row| (row * WORDS + 2) as i64).collect();
    let mut masked = words.clone();
    for at in &predict_words {
        masked[*at as usize] = 4;
    }
    let shape = [n, FRAMES, 3, SIZE, SIZE];
    AllInOneBatch {
        frames: Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device),
        patch_order: None,
        text_ids: ids(&words),
        text_pad: pad(n),
        masked_text_ids: ids(&masked),
        word_targets: predict_words.iter().map(|at| words[*at as usize]).collect(),
        predict_words,
        options: (task == AllInOneTask::MultipleChoice).then(|| OptionTexts {
            ids: ids(&options),
            pad: pad(n * OPTIONS),
        }),
        answers: match task {
            AllInOneTask::Retrieval => Vec::new(),
            AllInOneTask::OpenEnded { .. } => (0..n as i64).map(|item| item % 4).collect(),
            AllInOneTask::MultipleChoice => (0..n as i64).map(|item| (item + 1) % 2).collect(),
        },
    }
}

/// Name and shape of every entry of the published retrieval model, after the released code.
fn published() -> BTreeMap<String, Vec<usize>> {
    let mut keys = BTreeMap::new();
    let mut add = |name: &str, shape: &[usize]| {
        keys.insert(name.to_owned(), shape.to_vec());
    };
    add("text_embeddings.position_ids", &[1, 40]);
    add("text_embeddings.word_embeddings.weight", &[30_522, 768]);
    add("text_embeddings.position_embeddings.weight", &[40, 768]);
    add("text_embeddings.token_type_embeddings.weight", &[2, 768]);
    add("token_type_embeddings.weight", &[2, 768]);
    add("transformer.cls_token", &[1, 1, 768]);
    add("transformer.pos_embed", &[1, 197, 768]);
    add("transformer.temporal_embed", &[1, 3, 768]);
    add("transformer.patch_embed.proj.weight", &[768, 3, 16, 16]);
    add("transformer.patch_embed.proj.bias", &[768]);
    add("mlm_score.bias", &[30_522]);
    add("mlm_score.decoder.weight", &[30_522, 768]);
    let mut norms: Vec<String> = [
        "text_embeddings.LayerNorm",
        "transformer.norm",
        "mlm_score.transform.LayerNorm",
    ]
    .map(str::to_owned)
    .into();
    let mut linears: Vec<(String, usize, usize)> = vec![
        ("pooler.dense".to_owned(), 768, 768),
        ("mlm_score.transform.dense".to_owned(), 768, 768),
        ("txt_proj".to_owned(), 512, 768),
        ("vid_proj".to_owned(), 512, 768),
    ];
    for block in 0..12 {
        let block = format!("transformer.blocks.{block}");
        norms.push(format!("{block}.norm1"));
        norms.push(format!("{block}.norm2"));
        linears.push((format!("{block}.attn.qkv"), 2304, 768));
        linears.push((format!("{block}.attn.proj"), 768, 768));
        linears.push((format!("{block}.mlp.fc1"), 3072, 768));
        linears.push((format!("{block}.mlp.fc2"), 768, 3072));
    }
    for name in norms {
        add(&format!("{name}.weight"), &[768]);
        add(&format!("{name}.bias"), &[768]);
    }
    for (name, n_out, n_in) in linears {
        add(&format!("{name}.weight"), &[n_out, n_in]);
        add(&format!("{name}.bias"), &[n_out]);
    }
    keys
}

#[test]
fn the_base_size_has_exactly_the_published_keys_and_shapes() {
    let model = AllInOneConfig::base(AllInOneTask::Retrieval)
        .init(0, &Device::default())
        .unwrap();
    assert_eq!(model.num_params(), 134_718_778);
    let ours: BTreeMap<String, Vec<usize>> = model
        .state_dict()
        .into_iter()
        .map(|(name, data)| (name, data.shape().to_vec()))
        .collect();
    let published = published();
    assert_eq!(published.len(), 170);
    assert_eq!(ours, published);
}

#[test]
fn the_list_of_published_keys_is_the_one_that_was_read_off_the_released_code() {
    let shared = std::env::var_os("MELTR_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let Ok(table) = std::fs::read_to_string(shared.join("spec/state-dict-allinone.tsv")) else {
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
    // The released checkpoint holds the loss transformer beside the backbone.
    let combiner = LossTransformerConfig::all_in_one()
        .init(0, &Device::default())
        .unwrap();
    let mut ours = published();
    ours.extend(
        combiner
            .state_dict()
            .into_iter()
            .map(|(name, data)| (format!("aux_model.{name}"), data.shape().to_vec())),
    );
    assert_eq!(ours, read);
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
    model: &AllInOne,
    direction: &AllInOne,
    batch: &AllInOneBatch,
    loss: AllInOneLoss,
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
        let model = model(task);
        let direction = model.clone().map(&mut Wave(0));
        let mut batch = batch(task, 3);
        // Every frame its patches backwards.
        let backwards = (0..PATCHES as i64).rev();
        batch.patch_order = Some(backwards.cycle().take(3 * FRAMES * PATCHES).collect());
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
    for task in TASKS {
        let (model, batch) = (model(task), batch(task, 3));
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

#[test]
fn what_stands_in_padding_changes_nothing() {
    for task in TASKS {
        let (model, batch) = (model(task), batch(task, 2));
        let before = host(model.losses(&batch, task.losses(), Pass::Evaluation));
        let mut changed = batch.clone();
        // The last two words of row 1 are padding.
        let place = [1..2, WORDS - 2..WORDS];
        let words = Tensor::<2, Int>::from_data([[9, 13]], &Device::default());
        let change = |ids: Tensor<2, Int>| ids.slice_assign(place.clone(), words.clone());
        changed.text_ids = change(changed.text_ids);
        changed.masked_text_ids = change(changed.masked_text_ids);
        changed.options = changed.options.map(|options| OptionTexts {
            ids: change(options.ids),
            pad: options.pad,
        });
        let after = host(model.losses(&changed, task.losses(), Pass::Evaluation));
        for ((loss, before), after) in task.losses().iter().zip(before).zip(after) {
            assert!(
                (before - after).abs() < 1e-5,
                "{task:?} {loss}: {before} became {after}"
            );
        }
    }
}

/// The losses of a batch in row-major order and in another one.
fn in_two_orders(task: AllInOneTask, n_frames: usize) -> [Vec<f64>; 2] {
    let model = model(task);
    let mut batch = batch(task, 2);
    batch.frames = batch.frames.narrow(1, 0, n_frames);
    let losses = |batch: &AllInOneBatch| host(model.losses(batch, task.losses(), Pass::Evaluation));
    let plain = losses(&batch);
    let backwards = (0..PATCHES as i64).rev();
    batch.patch_order = Some(backwards.cycle().take(2 * n_frames * PATCHES).collect());
    [plain, losses(&batch)]
}

#[test]
fn the_order_of_patches_matters_only_where_they_move_in_time() {
    let [plain, moved] = in_two_orders(AllInOneTask::Retrieval, FRAMES);
    let apart = |at: usize| (plain[at] - moved[at]).abs();
    assert!(apart(0) > 1e-4, "mlm reads words beside frames");
    assert!(apart(1) < 1e-4, "ind_itc reads frames alone: {}", apart(1));
    // One frame has no neighbors.
    let [plain, moved] = in_two_orders(AllInOneTask::Retrieval, 1);
    for (plain, moved) in plain.into_iter().zip(moved) {
        assert!((plain - moved).abs() < 1e-4, "{plain} {moved}");
    }
}

#[test]
fn frames_meet_in_joint_reading_and_in_the_mean() {
    let (model, batch) = (
        model(AllInOneTask::Retrieval),
        batch(AllInOneTask::Retrieval, 2),
    );
    let frame = |at: usize| batch.frames.clone().narrow(1, at, 1);
    let swapped = Tensor::cat(vec![frame(1), frame(0), frame(2)], 1);
    // The table of frame numbers is zero at the start, so that their order is not seen there.
    let alone = |frames| host(model.encode_video(frames, Pass::Evaluation).reshape([12]));
    let plain = alone(batch.frames.clone());
    for (plain, other) in plain.into_iter().zip(alone(swapped.clone())) {
        assert!((plain - other).abs() < 1e-5, "{plain} {other}");
    }
    let joint = |frames| {
        let (ids, pad) = (batch.text_ids.clone(), batch.text_pad.clone());
        let features = model.encode_pairs(ids, pad, frames, Pass::Evaluation);
        assert_eq!(features.text.dims(), [2, WORDS, 16]);
        assert_eq!(features.video.dims(), [2, 1 + PATCHES, 16]);
        host(features.text.reshape([2 * WORDS * 16]))
    };
    let (plain, other) = (joint(batch.frames.clone()), joint(swapped));
    let apart = plain
        .iter()
        .zip(&other)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    assert!(apart > 1e-4, "the order of frames is seen by rolling");
}

#[test]
fn the_contrastive_loss_trains_the_similarity_that_ranks() {
    let task = AllInOneTask::Retrieval;
    let (model, batch) = (model(task), batch(task, 3));
    let text = model.encode_text(
        batch.text_ids.clone(),
        batch.text_pad.clone(),
        Pass::Evaluation,
    );
    let video = model.encode_video(batch.frames.clone(), Pass::Evaluation);
    let logits: Vec<f64> = host(AllInOne::similarity(text, video).reshape([9]))
        .into_iter()
        .map(|cosine| cosine / 0.05)
        .collect();
    let log_sum = |of: [usize; 3]| of.map(|at| logits[at].exp()).iter().sum::<f64>().ln();
    let expected = (0..3)
        .map(|at| {
            let row = log_sum([3 * at, 3 * at + 1, 3 * at + 2]);
            let column = log_sum([at, at + 3, at + 6]);
            (row + column - 2.0 * logits[4 * at]) / 3.0
        })
        .sum::<f64>();
    let loss = host(model.losses(&batch, &[AllInOneLoss::IndItc], Pass::Evaluation))[0];
    assert!((loss - expected).abs() < 1e-4, "{loss} {expected}");
}

#[test]
fn texts_and_videos_are_read_one_by_one_as_in_a_batch() {
    let task = AllInOneTask::MultipleChoice;
    let (model, batch) = (model(task), batch(task, 2));
    let options = batch.options.clone().unwrap();
    let together = model
        .answer_logits(
            batch.frames.clone(),
            options.ids.clone(),
            options.pad.clone(),
            Pass::Evaluation,
        )
        .unwrap();
    assert_eq!(together.dims(), [2, OPTIONS]);
    let together = host(together.reshape([2 * OPTIONS]));
    for (row, expected) in together.into_iter().enumerate() {
        let alone = model
            .answer_logits(
                batch.frames.clone().narrow(0, row / OPTIONS, 1),
                options.ids.clone().narrow(0, row, 1),
                options.pad.clone().narrow(0, row, 1),
                Pass::Evaluation,
            )
            .unwrap();
        let alone = host(alone.reshape([1]))[0];
        assert!((alone - expected).abs() < 2e-5, "{alone} {expected}");
    }
}

#[test]
fn answers_are_scored_as_their_loss_sees_them() {
    for task in [TASKS[1], TASKS[2]] {
        let (model, batch) = (model(task), batch(task, 3));
        let (ids, pad) = match &batch.options {
            Some(options) => (options.ids.clone(), options.pad.clone()),
            None => (batch.text_ids.clone(), batch.text_pad.clone()),
        };
        let frames = batch.frames.clone();
        let logits = model
            .answer_logits(frames, ids, pad, Pass::Evaluation)
            .unwrap();
        let [n_items, width] = logits.dims();
        let logits = host(logits.reshape([n_items * width]));
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
            (loss - expected).abs() < 2e-5,
            "{task:?}: {loss} {expected}"
        );
    }
    let task = AllInOneTask::Retrieval;
    let batch = batch(task, 2);
    let logits = model(task).answer_logits(
        batch.frames,
        batch.text_ids,
        batch.text_pad,
        Pass::Evaluation,
    );
    assert!(logits.is_none());
}

#[test]
fn an_answer_that_is_no_class_is_left_out_of_the_mean() {
    let task = TASKS[1];
    let (model, mut batch) = (model(task), batch(task, 3));
    let mut loss = |answers: [i64; 3]| {
        batch.answers = answers.to_vec();
        host(model.losses(&batch, &[AllInOneLoss::OpenendVqa], Pass::Evaluation))[0]
    };
    let (first, last) = (loss([2, -100, -100]), loss([-100, -100, 4]));
    assert!((loss([2, -100, 4]) - (first + last) / 2.0).abs() < 1e-5);
    assert_eq!(loss([-100, -100, -100]), 0.0);
}

#[test]
fn a_batch_without_masked_words_has_no_word_loss() {
    let task = AllInOneTask::Retrieval;
    let mut batch = batch(task, 2);
    batch.predict_words.clear();
    batch.word_targets.clear();
    let losses = host(model(task).losses(&batch, task.losses(), Pass::Evaluation));
    assert_eq!(losses[0], 0.0);
    assert!(losses[1] > 0.0);
}

#[test]
fn the_same_seed_draws_the_same_masks_on_and_off_the_tape() {
    let task = AllInOneTask::MultipleChoice;
    let (model, batch) = (model(task), batch(task, 2));
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
#[should_panic(expected = "`mc_vqa` is no loss of Retrieval")]
fn a_loss_of_another_task_is_refused() {
    let task = AllInOneTask::Retrieval;
    let _ = model(task).losses(&batch(task, 2), &[AllInOneLoss::McVqa], Pass::Evaluation);
}
