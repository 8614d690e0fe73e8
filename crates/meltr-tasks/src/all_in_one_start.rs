//! A closed-form start of All-in-one for small sets: its last layers are fitted.

use burn::tensor::{Tensor, TensorData};
use meltr_core::{ConfigError, Pass, StateDict};
use meltr_models::{AllInOne, AllInOneTask};
use ndarray::ArrayView2;

use crate::allinone::{AllInOneFineTune, no_head};
use crate::error::TaskError;
use crate::linear_fit::{LinearFit, array, mean, mean_norm, tensor};
use crate::pixel_input::frames;
use crate::principal_axes::directions;
use crate::start_examples::{StartExamples, StartItems};
use crate::univl_input::{bools, ints};

/// The name in configurations.
const START: &str = "linear";

/// The map of a first token after the blocks.
const POOLER: &str = "pooler.dense.weight";

/// The projections of texts and videos that are compared.
const TEXT_LAYER: &str = "txt_proj";
const VIDEO_LAYER: &str = "vid_proj";

/// The layers of the head of open-ended answers.
const HIDDEN_LAYER: &str = "vqa_classifier.1";
const ANSWER_LAYER: &str = "vqa_classifier.4";

/// Fits the last layers of a freshly initialized All-in-one to the training items.
///
/// It stands in for the pretraining that a small model does not have, on a model whose word table
/// holds word vectors. Nothing is trained:
///
/// - Attention: values go through unchanged, and so does what is attended to. With random queries
///   and keys all tokens are attended to about alike, so that each gets the mean of all, at its own
///   size; through random values that would be a twentieth of it. The pooler passes on what it
///   reads.
/// - Retrieval: the projections of videos and of texts are ridge regressions to the mean word
///   vector of the caption, in the directions that the regression from videos speaks about most.
/// - Open-ended questions: the first layer of the head is a ridge regression to the mean word
///   vector of the answer, the last one from the hidden units to the answers.
///
/// All else keeps its values. Multiple choice is refused: what is scored there is one text at a
/// time, and whether it fits its video is no linear function of both.
///
/// Reads all training items once.
///
/// # Shapes
///
/// - `word_vectors`: `[V, K]`, a row for each entry of the set's vocabulary
///
/// # Errors
///
/// [`TaskError`] for multiple choice, if there are less vectors than entries of the vocabulary, if
/// an item cannot be read, or if no item has words to fit to.
///
/// # References
///
/// - The last layer of a pretrained network by itself, then all of it: Kumar et al.,
///   [Fine-Tuning can Distort Pretrained Features and Underperform
///   Out-of-Distribution](https://arxiv.org/abs/2202.10054), ICLR 2022.
pub fn all_in_one_start(
    task: &AllInOneFineTune,
    model: AllInOne,
    word_vectors: ArrayView2<'_, f32>,
) -> Result<AllInOne, TaskError> {
    let vocab_size = task.set().word_piece().vocab_size();
    if word_vectors.nrows() < vocab_size {
        return Err(TaskError::Config(ConfigError::Mismatch {
            key: "number of word vectors",
            value: word_vectors.nrows(),
            because: "the set's vocabulary",
            needed: vocab_size,
        }));
    }
    let vectors = word_vectors.mapv(f64::from);
    let items = StartItems {
        start: START,
        set: task.set(),
        collator: task.collator(),
        train: task.train_indices(),
        chunk: task.chunk(),
        vectors: &vectors,
    };
    match model.task() {
        AllInOneTask::Retrieval => fit_projections(task, &items, averaging(model)),
        AllInOneTask::OpenEnded { n_answers } => {
            fit_answers(task, &items, averaging(model), n_answers)
        }
        AllInOneTask::MultipleChoice => Err(TaskError::Config(ConfigError::Unsupported {
            key: "model.start",
            value: START,
            reason: "options are scored one by one, which no linear fit can start; take \
                     `word_vectors`",
        })),
    }
}

/// Attention and pooler that pass on what they read.
fn averaging(model: AllInOne) -> AllInOne {
    let mut dict = StateDict::new();
    for (name, data) in model.state_dict() {
        let [n_rows, n_columns] = data.shape().to_vec()[..] else {
            continue;
        };
        // Queries and keys, which come first, keep their values.
        let first_row = if name.ends_with(".attn.qkv.weight") {
            2 * n_columns
        } else if name.ends_with(".attn.proj.weight") || name == POOLER {
            0
        } else {
            continue;
        };
        let values: Vec<f32> = data
            .iter::<f32>()
            .enumerate()
            .map(|(at, value)| {
                let (row, column) = (at / n_columns, at % n_columns);
                match row.checked_sub(first_row) {
                    Some(row) => f32::from(u8::from(row == column)),
                    None => value,
                }
            })
            .collect();
        dict.insert(name, TensorData::new(values, [n_rows, n_columns]));
    }
    model.load_state_dict(&dict).0
}

fn fit_projections(
    task: &AllInOneFineTune,
    items: &StartItems<'_>,
    model: AllInOne,
) -> Result<AllInOne, TaskError> {
    let device = task.device();
    let examples = StartExamples::new(items, |batch| {
        let (ids, pad) = (
            ints(&batch.text_ids, device),
            bools(&batch.text_pad, device),
        );
        Ok([
            model.text_features(ids, pad, Pass::Evaluation),
            model.video_features(frames(batch, device), Pass::Evaluation),
        ])
    })?;
    let [texts, videos] = &examples.features;
    let words = &examples.words - &mean(&examples.words);
    let from_videos = LinearFit::new(videos, &words);
    let axes = directions(&from_videos.apply(videos), n_outputs(&model, TEXT_LAYER));
    let from_videos = from_videos.onto(&axes);
    let from_texts = LinearFit::new(texts, &words.dot(&axes));
    let mut dict = StateDict::new();
    for (fit, features, layer) in [
        (from_texts, texts, TEXT_LAYER),
        (from_videos, videos, VIDEO_LAYER),
    ] {
        // Cosines do not see the length; that of both vectors is 1 in the mean.
        let length = mean_norm(&fit.apply(features));
        fit.scaled(length.recip()).put(&mut dict, layer);
    }
    Ok(model.load_state_dict(&dict).0)
}

fn fit_answers(
    task: &AllInOneFineTune,
    items: &StartItems<'_>,
    model: AllInOne,
    n_answers: usize,
) -> Result<AllInOne, TaskError> {
    let device = task.device();
    let examples = StartExamples::new(items, |batch| {
        Ok([model.pair_features(
            frames(batch, device),
            ints(&batch.text_ids, device),
            bools(&batch.text_pad, device),
            Pass::Evaluation,
        )])
    })?;
    let [features] = &examples.features;
    let words = &examples.words - &mean(&examples.words);
    let fit = LinearFit::new(features, &words);
    let width = n_outputs(&model, HIDDEN_LAYER);
    let fit = fit.onto(&directions(&fit.apply(features), width));
    // The layer normalization behind it does not see the length, but for its epsilon.
    let scale = (width as f64).sqrt() / mean_norm(&fit.apply(features));
    let mut dict = StateDict::new();
    fit.scaled(scale).put(&mut dict, HIDDEN_LAYER);
    let model = model.load_state_dict(&dict).0;

    let features = Tensor::from_data(tensor(features), device);
    let activations = model
        .answer_activations(features, Pass::Evaluation)
        .ok_or_else(|| no_head(model.task()))?;
    let activations = array(activations);
    let mut dict = StateDict::new();
    LinearFit::of_classes(&activations, &examples.classes, n_answers).put(&mut dict, ANSWER_LAYER);
    Ok(model.load_state_dict(&dict).0)
}

/// Outputs of a layer.
fn n_outputs(model: &AllInOne, layer: &str) -> usize {
    let known = model.state_dict();
    let weight = known.get(&format!("{layer}.weight"));
    weight.map_or(0, |weight| weight.shape().to_vec()[0])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::Device;
    use meltr_core::FineTuneTask;
    use meltr_data::{
        ClipText, EmojiFrames, EmojiFramesConfig, FrameChoice, FrameResize, KeywordUse,
        PixelCollator, PixelTask,
    };
    use meltr_models::AllInOneConfig;
    use ndarray::{Array2, s};

    use super::*;
    use crate::allinone::{AllInOneTaskConfig, all_in_one_task};

    const WORD_TABLE: &str = "text_embeddings.word_embeddings.weight";

    /// The task on the embedded clips, a small model with word vectors, and these.
    fn prepared(task: PixelTask) -> (AllInOneFineTune, AllInOne, Array2<f32>) {
        let set = EmojiFrames::embedded(EmojiFramesConfig {
            task,
            n_frames: 3,
            choice: FrameChoice::AllInOne,
            text: ClipText {
                keywords: KeywordUse::None,
            },
            option_seed: 0,
        })
        .unwrap();
        let vectors = set.clips().token_embeddings().clone();
        let kind = all_in_one_task(&set);
        let sizes = AllInOneConfig::mini(kind, vectors.nrows());
        let collator = PixelCollator {
            max_words: 12,
            image_size: 64,
            resize: FrameResize::Letterbox,
            ..PixelCollator::all_in_one()
        };
        let config = AllInOneTaskConfig {
            chunk: 32,
            ..AllInOneTaskConfig::new(kind, 8, vec!["train".to_owned()])
        };
        let device = Device::default();
        let tuned =
            AllInOneFineTune::new(Arc::new(set), collator, &sizes, config, 1, &device).unwrap();
        let table = vectors.slice(s![.., ..sizes.d_model]).mapv(f64::from);
        let dict = StateDict::from([(WORD_TABLE.to_owned(), tensor(&table))]);
        let (model, report) = sizes.init(2, &device).unwrap().load_state_dict(&dict);
        assert_eq!(report.applied, [WORD_TABLE]);
        (tuned, model, vectors)
    }

    fn started(task: PixelTask) -> (AllInOneFineTune, AllInOne) {
        let (tuned, model, vectors) = prepared(task);
        let model = all_in_one_start(&tuned, model, vectors.view()).unwrap();
        (tuned, model)
    }

    #[test]
    fn texts_and_clips_are_compared_before_the_first_step() {
        let (tuned, model) = started(PixelTask::Retrieval);
        let metrics = tuned.evaluate(&model, "valid").unwrap();
        // 10 of 75 by chance.
        for direction in ["text_to_video", "video_to_text"] {
            let recall = metrics[&format!("{direction}.r10")];
            assert!(recall > 0.25, "{direction}: {recall}");
        }
    }

    #[test]
    fn questions_are_answered_better_than_without_a_look_at_the_clip() {
        let (tuned, model) = started(PixelTask::OpenEnded);
        let metrics = tuned.evaluate(&model, "valid").unwrap();
        let references = tuned.blind_references("valid").unwrap();
        let blind = references
            .iter()
            .map(|reference| reference.metrics["accuracy"])
            .fold(0.0, f64::max);
        let accuracy = metrics["accuracy"];
        assert!(
            accuracy > blind + 0.04,
            "{accuracy}, without a look {blind}"
        );
    }

    #[test]
    fn attention_and_pooler_pass_on_what_they_read() {
        let (_, model, _) = prepared(PixelTask::Retrieval);
        let before = model.state_dict();
        let after = averaging(model).state_dict();
        let name = "transformer.blocks.1.attn.qkv.weight";
        let rows = |dict: &StateDict| dict[name].iter::<f32>().collect::<Vec<f32>>();
        let (before, rows) = (rows(&before), rows(&after));
        // The model is 128 wide.
        let first_value = 2 * 128 * 128;
        assert_eq!(before[..first_value], rows[..first_value]);
        for name in ["transformer.blocks.0.attn.proj.weight", POOLER] {
            let values: Vec<f32> = after[name].iter::<f32>().collect();
            assert_eq!(values, rows[first_value..], "{name}");
        }
        let ones = rows[first_value..].iter().filter(|value| **value == 1.0);
        assert_eq!(ones.count(), 128);
        assert_eq!(rows[first_value..].iter().sum::<f32>(), 128.0);
    }

    #[test]
    fn multiple_choice_and_missing_vectors_are_refused() {
        let (tuned, model, vectors) = prepared(PixelTask::MultipleChoice);
        let error = all_in_one_start(&tuned, model, vectors.view()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("take `word_vectors`"), "{message}");
        let (tuned, model, vectors) = prepared(PixelTask::Retrieval);
        let fewer = vectors.slice(s![..9, ..]);
        let error = all_in_one_start(&tuned, model, fewer).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("is 9, but the set's vocabulary"),
            "{message}"
        );
    }
}
