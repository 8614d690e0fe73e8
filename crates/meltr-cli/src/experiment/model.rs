//! The `[model]` section: sizes, initial values, weights to start from.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use meltr_core::{FineTuneTask, StateDict};
use meltr_models::{BertConfig, BertModel, UniVlConfig, UniVlSentimentConfig};
use meltr_tasks::{LinearSentimentConfig, MatchingStart};
use meltr_train::{TrainError, read_state_dict};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::section;
use crate::error::CliError;
use crate::nearest::with_suggestion;
use crate::output;

/// The backbone: a preset, and keys of its configuration that differ from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModelConfig {
    /// The network.
    #[serde(default)]
    pub(crate) backbone: Backbone,
    /// The size to start from.
    pub(crate) preset: Preset,
    /// Initial values.
    #[serde(default)]
    pub(crate) start: ModelStart,
    /// Constants of the matching start.
    #[serde(default)]
    pub(crate) matching: MatchingStart,
    /// Constants of the linear start and of the linear reference of sentiment.
    #[serde(default)]
    pub(crate) linear: LinearSentimentConfig,
    /// Weights of a BERT: its sentence vectors for sentiment, its word vectors for the matching start of sets that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text_weights: Option<PathBuf>,
    /// Weights of the whole backbone, a PyTorch checkpoint or safetensors, loaded after all else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weights: Option<PathBuf>,
    /// Least share of the backbone's values that `weights` has to hold, in `[0, 1]`.
    #[serde(default = "default_share")]
    pub(crate) weights_share: f64,
    /// Keys that differ from the preset.
    #[serde(flatten)]
    pub(crate) overrides: toml::Table,
}

fn default_share() -> f64 {
    0.95
}

/// Networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Backbone {
    /// UniVL, on frame features.
    #[default]
    Univl,
    /// VIOLET, on raw frames.
    Violet,
    /// All-in-one, on raw frames.
    Allinone,
}

impl Backbone {
    /// The name in configurations.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Univl => "univl",
            Self::Violet => "violet",
            Self::Allinone => "allinone",
        }
    }
}

/// Sizes with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Preset {
    /// As published.
    Base,
    /// For a few CPU cores; vocabulary and feature width are those of the set.
    Mini,
}

/// Initial values of the backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ModelStart {
    /// Random, as BERT.
    #[default]
    Random,
    /// UniVL and VIOLET: known word vectors, a closed-form map from frames to them, and a
    /// comparison of both.
    Matching,
    /// Raw frames: the set's own word vectors as word table, everything else random.
    WordVectors,
    /// Sentiment: the shortcut from features to the score is the linear reference. All-in-one:
    /// the set's own word vectors, and last layers that are fitted in closed form.
    Linear,
}

impl ModelStart {
    /// The name in configurations.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Matching => "matching",
            Self::WordVectors => "word_vectors",
            Self::Linear => "linear",
        }
    }
}

/// What the batches need of a UniVL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UniVlNeeds {
    pub(crate) vocab_size: usize,
    pub(crate) max_words: usize,
    pub(crate) max_frames: usize,
    pub(crate) video_dim: usize,
}

impl ModelConfig {
    /// Leaves out what a run started from, files and computation alike: the run's own weights come
    /// in its place.
    pub(crate) fn forget_start(&mut self) {
        self.start = ModelStart::Random;
        self.weights = None;
    }

    /// Sizes of a UniVL for what the batches need.
    pub(crate) fn univl(&self, needs: UniVlNeeds) -> Result<UniVlConfig, CliError> {
        let preset = match self.preset {
            Preset::Base => UniVlConfig::base(),
            Preset::Mini => UniVlConfig::mini(needs.vocab_size, needs.video_dim),
        };
        let config: UniVlConfig = self.overridden(preset)?;
        config.validate()?;
        for (key, limit, needed, because) in [
            ("vocab_size", config.vocab_size, needs.vocab_size, "the set"),
            (
                "max_text_positions",
                config.max_text_positions,
                needs.max_words,
                "`max_words` of [data.batches]",
            ),
            (
                "max_video_positions",
                config.max_video_positions,
                needs.max_frames,
                "`max_frames` of [data.batches]",
            ),
            (
                "max_cross_positions",
                config.max_cross_positions,
                needs.max_words + needs.max_frames,
                "`max_words + max_frames` of [data.batches]",
            ),
        ] {
            if limit < needed {
                return Err(CliError::Input(format!(
                    "[model] `{key}` is {limit}, but {because} needs {needed}"
                )));
            }
        }
        if config.video_dim != needs.video_dim {
            return Err(CliError::Input(format!(
                "[model] `video_dim` is {}, but the batches have {} features a frame; set \
                 data.batches.video_dim",
                config.video_dim, needs.video_dim
            )));
        }
        Ok(config)
    }

    /// A preset with the keys of the section in place of its own.
    pub(crate) fn overridden<C: Serialize + DeserializeOwned>(
        &self,
        preset: C,
    ) -> Result<C, CliError> {
        let mut table = toml::Table::try_from(preset).map_err(CliError::failed)?;
        table.extend(self.overrides.clone());
        toml::Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| {
                CliError::Input(format!("[model]: {}", with_suggestion(&error.to_string())))
            })
    }

    /// Sizes of the sentiment model. Keys of UniVL and of the streams stand side by side.
    pub(crate) fn sentiment(
        &self,
        preset: UniVlSentimentConfig,
    ) -> Result<UniVlSentimentConfig, CliError> {
        let mut own = toml::Table::try_from(&preset).map_err(CliError::failed)?;
        let mut univl = toml::Table::try_from(&preset.univl).map_err(CliError::failed)?;
        for (key, value) in &self.overrides {
            let table = if univl.contains_key(key) {
                &mut univl
            } else {
                &mut own
            };
            table.insert(key.clone(), value.clone());
        }
        own.insert("univl".to_owned(), toml::Value::Table(univl));
        let config: UniVlSentimentConfig = section("model", &own)?;
        config.validate()?;
        Ok(config)
    }

    /// Loads `weights`, if any, into the model, and says what became of its tensors.
    pub(crate) fn load_weights<T: FineTuneTask>(
        &self,
        task: &T,
        model: T::Model,
    ) -> Result<T::Model, CliError> {
        match &self.weights {
            None => Ok(model),
            Some(path) => load_published(task, model, path, self.weights_share),
        }
    }
}

/// Loads published weights if they hold at least `share` of the model's values.
pub(crate) fn load_published<T: FineTuneTask>(
    task: &T,
    model: T::Model,
    path: &Path,
    share: f64,
) -> Result<T::Model, CliError> {
    if !(0.0..=1.0).contains(&share) {
        return Err(CliError::Input(format!(
            "`model.weights_share` is {share}; it must be in [0, 1]"
        )));
    }
    let dict = read_weights(path)?;
    let known = task.state_dict(&model);
    let (model, report) = task.load_state_dict(model, &dict);
    let count = |names: &mut dyn Iterator<Item = &String>| -> usize {
        names
            .filter_map(|name| known.get(name))
            .map(|data| data.shape().iter().product::<usize>())
            .sum()
    };
    let applied = count(&mut report.applied.iter());
    let all = count(&mut known.keys());
    let reached = applied as f64 / all.max(1) as f64;
    let summary = format!(
        "{report}; {:.2} % of the model's values come from the file",
        100.0 * reached
    );
    if reached < share {
        return Err(TrainError::WeightsDoNotFit {
            path: path.to_owned(),
            report: format!(
                "{summary}, and `model.weights_share` asks for {:.2} %",
                100.0 * share
            ),
        }
        .into());
    }
    output::note(&format!("weights of `{}`: {summary}", path.display()));
    for (what, names) in [
        ("missing, left as they start", &report.missing),
        ("unexpected, not used", &report.unexpected),
    ] {
        if !names.is_empty() {
            output::note(&format!("  {what}: {}", shortened(names)));
        }
    }
    for mismatch in &report.mismatched {
        output::note(&format!(
            "  of another shape, not used: {} {:?}, expected {:?}",
            mismatch.name, mismatch.found, mismatch.expected
        ));
    }
    Ok(model)
}

/// A BERT with the sizes of its weights; those published in this layout have 12 heads.
pub(crate) fn bert(path: &Path, device: &Device) -> Result<BertModel, CliError> {
    const HEADS: usize = 12;
    if !path.is_file() {
        return Err(CliError::Input(format!(
            "`model.text_weights` names `{}`, which does not exist; `cargo xtask setup minilm` \
             fetches the weights that the experiments use",
            path.display()
        )));
    }
    let dict = read_weights(path)?;
    let shape = |name: &str| -> Result<[usize; 2], CliError> {
        let found = dict
            .get(name)
            .or_else(|| dict.get(&format!("bert.{name}")))
            .map(|data| data.shape().to_vec());
        match found.as_deref() {
            Some(&[rows, columns]) => Ok([rows, columns]),
            _ => Err(CliError::Input(format!(
                "`{}` holds no `{name}`, so it is no BERT",
                path.display()
            ))),
        }
    };
    let [vocab_size, d_model] = shape("embeddings.word_embeddings.weight")?;
    let [max_positions, _] = shape("embeddings.position_embeddings.weight")?;
    let [d_ff, _] = shape("encoder.layer.0.intermediate.dense.weight")?;
    let n_layers = (0..)
        .take_while(|layer| {
            shape(&format!("encoder.layer.{layer}.intermediate.dense.weight")).is_ok()
        })
        .count();
    let config = BertConfig {
        vocab_size,
        d_model,
        n_heads: HEADS,
        d_ff,
        n_layers,
        max_positions,
        dropout: 0.1,
    };
    let (model, report) = config.init(0, device)?.load_state_dict(&dict);
    if !report.missing.is_empty() || !report.mismatched.is_empty() {
        return Err(TrainError::WeightsDoNotFit {
            path: path.to_owned(),
            report: report.to_string(),
        }
        .into());
    }
    Ok(model)
}

/// The first names of a list and how many there are.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let first = names
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        format!("{first} and {} more", names.len() - SHOWN)
    } else {
        first
    }
}

/// The float tensors of a safetensors file or a PyTorch checkpoint, under the names of UniVL's
/// published state dicts.
pub(crate) fn read_weights(path: &Path) -> Result<StateDict, CliError> {
    if path
        .extension()
        .is_some_and(|extension| extension == "safetensors")
    {
        return Ok(read_state_dict(path)?);
    }
    meltr_train::read_checkpoint(path).map_err(CliError::from)
}
