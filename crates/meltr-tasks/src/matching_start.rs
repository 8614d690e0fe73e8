//! A closed-form start of UniVL for small sets: it begins where linear regression ends.

use burn::tensor::TensorData;
use meltr_core::{ConfigError, StateDict};
use meltr_data::{RandomStream, VideoTextSet};
use meltr_models::UniVl;
use ndarray::{Array1, Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::clip_vectors::{mean_frames, mean_word_vectors};
use crate::error::TaskError;
use crate::linear_fit::{mean, mean_norm};
use crate::linear_reference::ridge;

/// Constants of [`matching_start`]; the defaults were chosen by cross-validation on the training
/// and validation clips of the embedded set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MatchingStart {
    /// Ridge of the regression from frames to words, above 0.
    pub ridge: f64,
    /// Mean norm of a word vector.
    pub word_norm: f64,
    /// Weight of the words' mean in a text token, relative to the token itself.
    pub text_mixing: f64,
    /// Factor on query and key of the cross encoder.
    pub sharpness: f64,
    /// Length of the marker of video tokens, in units of `sqrt(D)`.
    pub marker: f64,
    /// Gain of the marker in the cross encoder's pooler.
    pub pooler_gain: f64,
    /// Gain of the marker in the similarity.
    pub similarity_gain: f64,
}

impl Default for MatchingStart {
    fn default() -> Self {
        Self {
            ridge: 3000.0,
            word_norm: 3.0,
            text_mixing: 6.0,
            sharpness: 0.7,
            marker: 1.0,
            pooler_gain: 0.5,
            similarity_gain: 10.0,
        }
    }
}

/// What the start is made from.
#[derive(Debug, Clone, Copy)]
pub struct MatchingItems<'a> {
    /// The set.
    pub set: &'a dyn VideoTextSet,
    /// Items that are trained on.
    pub train: &'a [usize],
    /// Open vectors of the tokens of the set's vocabulary, `[V, at least D]`, by falling variance.
    pub word_vectors: ArrayView2<'a, f32>,
}

/// Gives a freshly initialized model word vectors and a map from frames to them.
///
/// It stands in for the pretraining that a small model does not have. Nothing is trained: the
/// word table takes the set's open token vectors (their first `D` components, centred, scaled);
/// the frame embedding is a ridge regression from a clip's mean normalized frame to the mean word
/// vector of its text, on the training clips; the text encoder's attention averages words; and
/// the cross encoder is set up so that its first token tells how much of its attention goes to
/// video tokens, which grows with their likeness to the text. All else keeps its random values.
///
/// The untrained model then ranks about as well as the linear regression that it was made from.
///
/// # Errors
///
/// [`TaskError`] if the word vectors are narrower than `D`, or an item cannot be read.
pub fn matching_start(
    items: &MatchingItems<'_>,
    model: UniVl,
    constants: &MatchingStart,
    seed: u64,
) -> Result<UniVl, TaskError> {
    if !(constants.ridge.is_finite() && constants.ridge > 0.0) {
        return Err(TaskError::Config(ConfigError::OutOfRange {
            key: "model.matching.ridge",
            value: constants.ridge,
            range: "(0, inf)",
        }));
    }
    let known = model.state_dict();
    let shape = |name: &str| {
        known
            .get(name)
            .map_or_else(Vec::new, |data| data.shape().to_vec())
    };
    let [d_model, video_dim] = shape("visual.embeddings.word_embeddings.weight")[..] else {
        return Ok(model);
    };
    let MatchingItems {
        set,
        train,
        word_vectors: vectors,
    } = *items;
    let (vocab_size, width) = vectors.dim();
    let model_vocab = shape("bert.embeddings.word_embeddings.weight")[0];
    if width < d_model {
        return Err(TaskError::Config(ConfigError::OutOfRange {
            key: "model.d_model",
            value: d_model as f64,
            range: "[1, 384] for `start = \"matching\"`: at most the components of the word vectors",
        }));
    }
    if model_vocab != vocab_size {
        return Err(TaskError::Config(ConfigError::OutOfRange {
            key: "model.vocab_size",
            value: model_vocab as f64,
            range: "the set's own vocabulary for `start = \"matching\"`; leave the key out",
        }));
    }
    let vectors = vectors.slice(ndarray::s![.., ..d_model]).mapv(f64::from);
    let texts = mean_word_vectors(set, &vectors, train)?;
    let videos = mean_frames(set, video_dim, train)?;

    let text_mean = mean(&texts);
    let video_mean = mean(&videos);
    let centered = &videos - &video_mean;
    let weights = ridge(
        centered.view(),
        (&texts - &text_mean).view(),
        constants.ridge,
    );
    let weights = &weights / mean_norm(&centered.dot(&weights));

    let mut stream = RandomStream::new(seed);
    let words = &vectors - &text_mean;
    let mut words = &words * (constants.word_norm / mean_norm(&words));
    let special = set.word_piece().special();
    for id in [
        special.pad,
        special.unknown,
        special.cls,
        special.sep,
        special.mask,
    ] {
        for value in words.row_mut(id as usize) {
            *value = 0.02 * stream.normal();
        }
    }
    // The marker direction: a random corner of the cube, of length 1.
    let marker = Array1::from_shape_fn(d_model, |_| {
        let sign = if stream.bits() & 1 == 0 { 1.0 } else { -1.0 };
        sign / (d_model as f64).sqrt()
    });
    let outer = Array2::from_shape_fn((d_model, d_model), |(i, j)| marker[i] * marker[j]);
    let identity = Array2::<f64>::eye(d_model);
    let as_matrix = |name: &str| {
        let values: Vec<f64> = known
            .get(name)
            .map(|data| data.iter::<f64>().collect())
            .unwrap_or_default();
        let rows = values.len() / d_model;
        Array2::from_shape_vec((rows, d_model), values).unwrap_or_default()
    };

    let mut dict = StateDict::new();
    let mut put = |name: &str, matrix: &Array2<f64>| {
        let data: Vec<f32> = matrix.iter().map(|value| *value as f32).collect();
        dict.insert(name.to_owned(), TensorData::new(data, shape(name)));
    };
    put("bert.embeddings.word_embeddings.weight", &words);
    put(
        "visual.embeddings.word_embeddings.weight",
        &weights.t().to_owned(),
    );
    let bias = -video_mean.dot(&weights);
    put(
        "visual.embeddings.word_embeddings.bias",
        &bias.insert_axis(Axis(0)),
    );
    for name in known.keys() {
        let Some((stack, rest)) = name.split_once(".encoder.layer.") else {
            continue;
        };
        let part = rest.split_once('.').map_or("", |(_, part)| part);
        match (stack, part) {
            ("bert", "attention.self.value.weight") => put(name, &identity),
            ("bert", "attention.output.dense.weight") => {
                put(name, &(&identity * constants.text_mixing));
            }
            ("cross", "attention.self.query.weight" | "attention.self.key.weight") => {
                put(name, &(&identity * constants.sharpness));
            }
            ("cross", "attention.self.value.weight") => put(name, &outer),
            ("cross", "attention.output.dense.weight") => put(name, &identity),
            _ => {}
        }
    }
    let mut kinds = Array2::zeros((2, d_model));
    kinds
        .row_mut(1)
        .assign(&(&marker * (constants.marker * (d_model as f64).sqrt())));
    put("cross.embeddings.token_type_embeddings.weight", &kinds);
    let pooler = as_matrix("cross.pooler.dense.weight") + &outer * constants.pooler_gain;
    put("cross.pooler.dense.weight", &pooler);
    let similarity = as_matrix("similarity_dense.weight")
        + &(&marker * constants.similarity_gain).insert_axis(Axis(0));
    put("similarity_dense.weight", &similarity);
    Ok(model.load_state_dict(&dict).0)
}
