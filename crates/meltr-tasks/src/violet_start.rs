//! A closed-form start of VIOLET for small sets: it begins where linear regression ends.

use burn::tensor::TensorData;
use meltr_core::{ConfigError, Pass, StateDict};
use meltr_data::RandomStream;
use meltr_models::{Violet, VioletConfig, VioletTask};
use ndarray::{Array1, Array2, ArrayView2, s};

use crate::error::TaskError;
use crate::linear_fit::{LinearFit, mean, mean_norm, tensor};
use crate::pixel_input::frames;
use crate::principal_axes::directions;
use crate::start_examples::{StartExamples, StartItems};
use crate::univl_input::{bools, ints};
use crate::violet::{VioletFineTune, no_head};

/// The name in configurations.
const START: &str = "matching";

/// Where the layers of the Swin transformer stand in a state dict.
const SWIN_LAYERS: &str = "enc_img.swin.layers.";

/// The last merging of the Swin transformer, and the blocks behind it.
const LAST_MERGING: &str = "enc_img.swin.layers.2.downsample";
const LAST_STAGE: &str = "enc_img.swin.layers.3.";

/// The head of options, and all heads that compare a text with a video.
const OPTION_HEAD: &str = "fc_mc";
const COMPARING_HEADS: [&str; 3] = ["fc", "fc_vtm", OPTION_HEAD];

/// The last layer of the head of open-ended answers.
const ANSWER_LAYER: &str = "fc_oe.3";

// The constants below were chosen by cross-validation on the training and validation clips of the
// embedded set, variants of one emoji never on both sides. None of them matters much.

/// Mean norm of a word vector; the tables of places, which are added to it, have about 0.2.
const WORD_NORM: f64 = 3.0;

/// Difference of the scores of a token's own kind and of the other.
const SEPARATION: f64 = 8.0;

/// Weight of the mean of a token's own kind, relative to the token itself.
const MIXING: f64 = 12.0;

/// Weight of the video in the first token of the text, relative to the text.
const VIDEO_SHARE: f64 = 0.5;

/// Gain of a comparison, in logits.
const COMPARISON_GAIN: f64 = 6.0;

/// Gives a freshly initialized VIOLET word vectors, a map from frames to them, and a comparison of
/// the two.
///
/// It stands in for the pretraining that a small model does not have. Nothing is trained. With `D`
/// the width of a token and an orthonormal basis of its space, of which one vector is constant, `m`
/// marks videos, `n` stands for words that say nothing, and the others span the words:
///
/// - Words: the directions of the word vectors that a regression from frames speaks about most,
///   centred. Special tokens and words that most texts have become `n`.
/// - Frames: random maps as small as the initial ones leave the Swin transformer almost linear, so
///   that the feed-forward parts before the last merging are scaled to variance 1 / fan in. The
///   merging itself is the ridge regression from what it reads, in the mean over places and frames,
///   to the mean word vector of the clip's caption, right option or answer.
/// - Cross encoder: in the first layer every token attends to those of its own kind, so that each
///   knows the mean word `t` of the text or that of the video, `v`. In the last layer the first
///   token of the text attends to the video. The layer normalization behind it compares them:
///
///   ```text
///   x = t + v / 2 + √D m,   m-component of the normalized x = √D √D / |x|,
///   |x|² = |t|² + |v|² / 4 + <t, v> + D
///   ```
///
///   As the normalization before has made `|t|` and `|v|` the same for all, that component falls
///   with the cosine of `t` and `v`.
/// - Heads: matching and options read that component with one hidden unit. The last layer of the
///   head of open-ended answers is a ridge regression from its hidden units to the answers.
///
/// All else keeps its random values.
///
/// Reads all training items once, for open-ended answers twice.
///
/// # Shapes
///
/// - `word_vectors`: `[V, K]`, a row for each entry of the set's vocabulary
///
/// # Errors
///
/// [`TaskError`] if the cross encoder has less than two layers, if the model has another vocabulary
/// than the vectors, if an item cannot be read, or if no item has words to fit to.
///
/// # References
///
/// - The last layer of a pretrained network by itself, then all of it: Kumar et al.,
///   [Fine-Tuning can Distort Pretrained Features and Underperform
///   Out-of-Distribution](https://arxiv.org/abs/2202.10054), ICLR 2022.
pub fn violet_start(
    task: &VioletFineTune,
    sizes: &VioletConfig,
    model: Violet,
    word_vectors: ArrayView2<'_, f32>,
    seed: u64,
) -> Result<Violet, TaskError> {
    if sizes.n_layers < 2 {
        return Err(TaskError::Config(ConfigError::OutOfRange {
            key: "model.n_layers",
            value: sizes.n_layers as f64,
            range: "[2, inf) for `start = \"matching\"`: one layer reads, another compares",
        }));
    }
    if sizes.vocab_size != word_vectors.nrows() {
        return Err(TaskError::Config(ConfigError::Mismatch {
            key: "model.vocab_size",
            value: sizes.vocab_size,
            because: "the table of word vectors",
            needed: word_vectors.nrows(),
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
    let device = task.device();

    let mut dict = StateDict::new();
    put_feed_forward(&model.state_dict(), &mut dict);
    let model = model.load_state_dict(&dict).0;

    let examples = StartExamples::new(&items, |batch| {
        let frames = frames(batch, device);
        Ok([model.mean_merging_input(frames, Pass::Evaluation)])
    })?;
    let basis = Basis::new(sizes.d_model(), seed);
    let known = model.state_dict();
    let mut dict = StateDict::new();
    put_words_and_frames(&items, &examples, &basis, &known, &mut dict);
    put_cross_encoder(sizes, &basis, &mut dict);
    put_comparisons(sizes, &basis, &known, &mut dict);
    let model = model.load_state_dict(&dict).0;

    let VioletTask::OpenEnded { n_answers } = sizes.task else {
        return Ok(model);
    };
    let examples = StartExamples::new(&items, |batch| {
        let activations = model.answer_activations(
            frames(batch, device),
            ints(&batch.text_ids, device),
            bools(&batch.text_pad, device),
            Pass::Evaluation,
        );
        Ok([activations.ok_or_else(|| no_head(model.task()))?])
    })?;
    let [activations] = &examples.features;
    let mut dict = StateDict::new();
    LinearFit::of_classes(activations, &examples.classes, n_answers).put(&mut dict, ANSWER_LAYER);
    Ok(model.load_state_dict(&dict).0)
}

/// An orthonormal basis of the space of tokens.
struct Basis {
    /// Of videos, `[D]`.
    videos: Array1<f64>,
    /// Of words that say nothing, `[D]`.
    nothing: Array1<f64>,
    /// Of words, `[D - 3, D]`. Layer normalization takes the constant direction, which is left.
    words: Array2<f64>,
}

impl Basis {
    /// A random one of at least three dimensions.
    fn new(d_model: usize, seed: u64) -> Self {
        let mut stream = RandomStream::new(seed);
        let mut rows = Array2::from_shape_fn((d_model, d_model), |(row, _)| {
            if row == 0 { 1.0 } else { stream.normal() }
        });
        for row in 0..d_model {
            // Twice, since the first difference may be as small as its rounding error.
            for _ in 0..2 {
                for before in 0..row {
                    let share = rows.row(row).dot(&rows.row(before));
                    let part = &rows.row(before) * share;
                    let mut rest = rows.row_mut(row);
                    rest -= &part;
                }
            }
            let norm = rows.row(row).dot(&rows.row(row)).sqrt();
            rows.row_mut(row).mapv_inplace(|value| value / norm);
        }
        Self {
            videos: rows.row(1).to_owned(),
            nothing: rows.row(2).to_owned(),
            words: rows.slice(s![3.., ..]).to_owned(),
        }
    }
}

/// Scales the feed-forward parts before the last merging to variance 1 / fan in.
fn put_feed_forward(known: &StateDict, dict: &mut StateDict) {
    for (name, data) in known {
        let is_meant = name.starts_with(SWIN_LAYERS)
            && !name.starts_with(LAST_STAGE)
            && name.contains(".mlp.")
            && name.ends_with(".weight");
        let [_, fan_in] = data.shape().to_vec()[..] else {
            continue;
        };
        if !is_meant {
            continue;
        }
        let values: Vec<f64> = data.iter::<f64>().collect();
        let squares: f64 = values.iter().map(|value| value * value).sum();
        let variance = (squares / values.len() as f64).max(f64::MIN_POSITIVE);
        let factor = (variance * fan_in as f64).sqrt().recip();
        let values: Vec<f32> = values.iter().map(|value| (value * factor) as f32).collect();
        dict.insert(name.clone(), TensorData::new(values, data.shape().to_vec()));
    }
}

/// The table of words, the map from frames to them, and the marks of both.
fn put_words_and_frames(
    items: &StartItems<'_>,
    examples: &StartExamples<1>,
    basis: &Basis,
    known: &StateDict,
    dict: &mut StateDict,
) {
    let [inputs] = &examples.features;
    let (input_mean, word_mean) = (mean(inputs), mean(&examples.words));
    let centered = inputs - &input_mean;
    let fit = LinearFit::new(&centered, &(&examples.words - &word_mean));
    let axes = directions(&fit.apply(&centered), basis.words.nrows()).dot(&basis.words);

    let tokens = fit.weights.dot(&axes);
    let scale = (axes.ncols() as f64).sqrt() / mean_norm(&centered.dot(&tokens));
    let reduction = (tokens * scale).t().to_owned();
    dict.insert(
        format!("{LAST_MERGING}.reduction.weight"),
        tensor(&reduction),
    );
    dict.insert(format!("{LAST_MERGING}.norm.bias"), tensor(&-input_mean));

    let words = (items.vectors - &word_mean).dot(&axes);
    let mut words = &words * (WORD_NORM / mean_norm(&words));
    let special = items.set.word_piece().special();
    let special = [
        special.pad,
        special.unknown,
        special.cls,
        special.sep,
        special.mask,
    ];
    for id in special.iter().chain(&examples.common_tokens) {
        words
            .row_mut(*id as usize)
            .assign(&(&basis.nothing * WORD_NORM));
    }
    dict.insert(
        "enc_txt.emb_txt.word_embeddings.weight".to_owned(),
        tensor(&words),
    );

    // Every token of a video carries the mark, that of a frame as a whole nothing else.
    let length = (axes.ncols() as f64).sqrt();
    let marks = [
        ("enc_img.emb_cls", &basis.nothing),
        ("enc_img.emb_len", &basis.videos),
    ];
    for (name, mark) in marks {
        if let Some(data) = known.get(name) {
            let marks = mark.iter().cycle();
            let values = data.iter::<f64>().zip(marks);
            let values: Vec<f32> = values
                .map(|(value, mark)| (value + mark * length) as f32)
                .collect();
            let data = TensorData::new(values, data.shape().to_vec());
            dict.insert(name.to_owned(), data);
        }
    }
}

/// The first layer, in which each kind of tokens attends to itself, and the last one, in which the
/// text attends to the video.
fn put_cross_encoder(sizes: &VioletConfig, basis: &Basis, dict: &mut StateDict) {
    let d_model = sizes.d_model();
    let length = (d_model as f64).sqrt();
    let identity = Array2::<f64>::eye(d_model);
    let words = basis.words.t().dot(&basis.words);
    // The component of a video's token along its mark; that of a text's is 0. Every head gets the
    // same scores: `scale² √d (x - mark / 2) y` for components `x` of the query and `y` of the key.
    let mark = (d_model as f64 / 2.0).sqrt();
    let d_head = (d_model / sizes.n_heads) as f64;
    let scale = (2.0 * SEPARATION / d_head.sqrt()).sqrt() / mark;
    let kinds = Array2::from_shape_fn((d_model, d_model), |(_, column)| {
        scale * basis.videos[column]
    });
    let threshold = Array1::from_elem(d_model, scale * mark / 2.0);

    let mut put = |layer: usize, part: &str, data: TensorData| {
        dict.insert(format!("trsfr.layer.{layer}.attention.{part}"), data);
    };
    let (first, last) = (0, sizes.n_layers - 1);
    put(first, "self.query.weight", tensor(&kinds));
    put(
        first,
        "self.query.bias",
        tensor(&threshold.mapv(|value| -value)),
    );
    put(first, "output.dense.weight", tensor(&(&identity * MIXING)));
    put(
        last,
        "self.query.weight",
        tensor(&Array2::<f64>::zeros(kinds.dim())),
    );
    put(last, "self.query.bias", tensor(&threshold));
    put(
        last,
        "output.dense.weight",
        tensor(&(&identity * VIDEO_SHARE)),
    );
    put(last, "output.dense.bias", tensor(&(&basis.videos * length)));
    for layer in [first, last] {
        put(layer, "self.key.weight", tensor(&kinds));
        put(layer, "self.value.weight", tensor(&words));
    }
}

/// Heads whose output falls with the component along the mark of videos: their first hidden unit
/// reads it, and the others do not count.
fn put_comparisons(sizes: &VioletConfig, basis: &Basis, known: &StateDict, dict: &mut StateDict) {
    let length = (sizes.d_model() as f64).sqrt();
    for head in COMPARING_HEADS {
        let mut put = |part: &str, change: &dyn Fn(usize) -> Option<f64>| {
            let name = format!("{head}.{part}");
            if let Some(data) = known.get(&name) {
                let values = data.iter::<f64>().enumerate();
                let values: Vec<f32> = values
                    .map(|(at, value)| change(at).unwrap_or(value) as f32)
                    .collect();
                let data = TensorData::new(values, data.shape().to_vec());
                dict.insert(name, data);
            }
        };
        // The temperature divides the logits of matching, and not those of options.
        let gain = if head == OPTION_HEAD {
            COMPARISON_GAIN
        } else {
            COMPARISON_GAIN * sizes.temperature
        };
        put("1.weight", &|at| basis.videos.get(at).map(|mark| -mark));
        put("1.bias", &|at| (at == 0).then_some(length));
        put("3.weight", &|at| Some(if at == 0 { gain } else { 0.0 }));
        put("3.bias", &|_| Some(0.0));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::Device;
    use meltr_core::FineTuneTask;
    use meltr_data::{
        ClipText, EmojiFrames, EmojiFramesConfig, FrameChoice, KeywordUse, OptionPrompt,
        PixelCollator, PixelTask, VisualTargets,
    };
    use meltr_models::SwinConfig;

    use super::*;
    use crate::violet::{VioletTaskConfig, violet_task};

    /// The task on the embedded clips, a small model of it and the word vectors.
    fn prepared(task: PixelTask, n_layers: usize) -> (VioletFineTune, VioletConfig, Array2<f32>) {
        let set = EmojiFrames::embedded(EmojiFramesConfig {
            task,
            n_frames: 2,
            choice: FrameChoice::AllInOne,
            text: ClipText {
                keywords: KeywordUse::None,
            },
            option_seed: 0,
        })
        .unwrap();
        let vectors = set.clips().token_embeddings().clone();
        let mini = VioletConfig::mini(violet_task(&set), vectors.nrows(), 512);
        let sizes = VioletConfig {
            swin: SwinConfig {
                embed_dim: 12,
                depths: [1, 2, 1, 1],
                window: [2, 4, 4],
                ..mini.swin
            },
            n_layers,
            ..mini
        };
        let collator = PixelCollator {
            max_words: 14,
            n_frames: 2,
            image_size: 64,
            visual_targets: VisualTargets::MeanColor,
            option_prompt: OptionPrompt::QuestionAndOption,
            ..PixelCollator::violet()
        };
        let config = VioletTaskConfig {
            chunk: 32,
            ..VioletTaskConfig::new(sizes.task, 8, vec!["train".to_owned()])
        };
        let device = Device::default();
        let tuned =
            VioletFineTune::new(Arc::new(set), collator, &sizes, config, 1, &device).unwrap();
        (tuned, sizes, vectors)
    }

    fn started(task: PixelTask, n_layers: usize) -> (VioletFineTune, Violet) {
        let (tuned, sizes, vectors) = prepared(task, n_layers);
        let model = sizes.init(2, &Device::default()).unwrap();
        let model = violet_start(&tuned, &sizes, model, vectors.view(), 3).unwrap();
        (tuned, model)
    }

    #[test]
    fn texts_and_clips_are_compared_before_the_first_step() {
        let (tuned, model) = started(PixelTask::Retrieval, 2);
        let metrics = tuned.evaluate(&model, "valid").unwrap();
        // 10 of 75 by chance.
        for direction in ["text_to_video", "video_to_text"] {
            let recall = metrics[&format!("{direction}.r10")];
            assert!(recall > 0.3, "{direction}: {recall}");
        }
    }

    #[test]
    fn options_are_chosen_before_the_first_step_whatever_the_number_of_layers() {
        for n_layers in [2, 3] {
            let (tuned, model) = started(PixelTask::MultipleChoice, n_layers);
            let metrics = tuned.evaluate(&model, "valid").unwrap();
            // One of five by chance.
            assert!(metrics["accuracy"] > 0.3, "{n_layers} layers: {metrics:?}");
        }
    }

    #[test]
    fn questions_are_answered_better_than_without_a_look_at_the_clip() {
        let (tuned, model) = started(PixelTask::OpenEnded, 2);
        let metrics = tuned.evaluate(&model, "valid").unwrap();
        let references = tuned.blind_references("valid").unwrap();
        let blind = references
            .iter()
            .map(|reference| reference.metrics["accuracy"])
            .fold(0.0, f64::max);
        let accuracy = metrics["accuracy"];
        assert!(
            accuracy > blind + 0.08,
            "{accuracy}, without a look {blind}"
        );
    }

    #[test]
    fn every_tensor_that_is_set_has_a_place_in_the_model() {
        let (tuned, sizes, vectors) = prepared(PixelTask::Retrieval, 2);
        let model = sizes.init(2, &Device::default()).unwrap();
        let known = model.state_dict();
        let vectors = vectors.mapv(f64::from);
        let items = StartItems {
            start: START,
            set: tuned.set(),
            collator: tuned.collator(),
            train: &tuned.train_indices()[..40],
            chunk: 40,
            vectors: &vectors,
        };
        let device = Device::default();
        let examples = StartExamples::new(&items, |batch| {
            Ok([model.mean_merging_input(frames(batch, &device), Pass::Evaluation)])
        })
        .unwrap();
        assert_eq!(examples.features[0].dim(), (40, 2 * sizes.d_model()));
        let basis = Basis::new(sizes.d_model(), 5);
        let mut dict = StateDict::new();
        put_feed_forward(&known, &mut dict);
        assert_eq!(dict.len(), 2 * (1 + 2 + 1));
        put_words_and_frames(&items, &examples, &basis, &known, &mut dict);
        put_cross_encoder(&sizes, &basis, &mut dict);
        put_comparisons(&sizes, &basis, &known, &mut dict);
        let (_, report) = model.load_state_dict(&dict);
        assert_eq!(report.applied.len(), dict.len(), "{report}");
    }

    #[test]
    fn a_basis_is_orthonormal_and_its_rest_is_constant() {
        let basis = Basis::new(9, 4);
        let mut rows = basis.words.clone();
        rows.push_row(basis.videos.view()).unwrap();
        rows.push_row(basis.nothing.view()).unwrap();
        assert_eq!(rows.dim(), (8, 9));
        for ((row, column), product) in rows.dot(&rows.t()).indexed_iter() {
            let expected = f64::from(u8::from(row == column));
            assert!((product - expected).abs() < 1e-12);
        }
        assert!(rows.rows().into_iter().all(|row| row.sum().abs() < 1e-12));
    }

    #[test]
    fn a_model_that_cannot_compare_or_has_other_words_is_refused() {
        let (tuned, sizes, vectors) = prepared(PixelTask::Retrieval, 1);
        let refused = |sizes: &VioletConfig| {
            let model = sizes.init(2, &Device::default()).unwrap();
            let started = violet_start(&tuned, sizes, model, vectors.view(), 3);
            started.unwrap_err().to_string()
        };
        let message = refused(&sizes);
        assert!(message.starts_with("`model.n_layers` is 1;"), "{message}");
        let larger = VioletConfig {
            n_layers: 2,
            vocab_size: vectors.nrows() + 1,
            ..sizes
        };
        let message = refused(&larger);
        assert!(message.contains("`model.vocab_size` is 2152"), "{message}");
    }
}
