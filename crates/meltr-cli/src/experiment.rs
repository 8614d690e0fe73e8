//! An experiment: everything that fixes a run, as TOML.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use meltr_core::FineTuneTask;
use meltr_data::{EmojiClips, VideoTextCollator, seed_for};
use meltr_models::{UniVl, UniVlConfig};
use meltr_tasks::{MatchingStart, RetrievalConfig, UniVlRetrieval, matching_start};
use meltr_train::{BertAdamConfig, CombinerConfig, CombinerName, OuterConfig, TrainConfig};
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::nearest::with_suggestion;

/// The whole experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Experiment {
    /// One line for people.
    pub(crate) title: String,
    /// Name of the row, such as `univl/emoji-clips-retrieval`.
    pub(crate) name: String,
    /// Seed of every random choice.
    #[serde(default)]
    pub(crate) seed: u64,
    /// The data.
    pub(crate) data: DataConfig,
    /// The backbone.
    pub(crate) model: ModelConfig,
    /// Losses, batches and metrics.
    pub(crate) task: RetrievalConfig,
    /// How the losses are combined.
    #[serde(default)]
    pub(crate) combiner: CombinerConfig,
    /// The backbone's optimizer.
    pub(crate) inner: BertAdamConfig,
    /// The outer level.
    #[serde(default)]
    pub(crate) outer: OuterConfig,
    /// The loop.
    pub(crate) train: TrainConfig,
}

/// Which set, and how it becomes batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataConfig {
    /// The set.
    pub(crate) set: SetName,
    /// A folder with the set's files; without it, the embedded copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) folder: Option<PathBuf>,
    /// How items become batches.
    pub(crate) batches: VideoTextCollator,
}

/// Sets that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SetName {
    /// 699 animated clips with names and keywords.
    EmojiClips,
}

/// The backbone: a preset, and keys of [`UniVlConfig`] that differ from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModelConfig {
    /// The size to start from.
    pub(crate) preset: Preset,
    /// Initial values.
    #[serde(default)]
    pub(crate) start: ModelStart,
    /// Constants of the matching start.
    #[serde(default)]
    pub(crate) matching: MatchingStart,
    /// Keys that differ from the preset.
    #[serde(flatten)]
    pub(crate) overrides: toml::Table,
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
    /// Known word vectors and a closed-form map from frames to them.
    Matching,
}

/// A task with its model, ready to train or evaluate.
pub(crate) struct Prepared {
    pub(crate) task: UniVlRetrieval,
    pub(crate) model: UniVl,
}

impl Experiment {
    /// Reads an experiment and applies `key=value` overrides.
    pub(crate) fn read(path: &Path, overrides: &[String]) -> Result<Self, CliError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            CliError::Input(format!(
                "cannot read experiment `{}`: {error}; see xtask/experiments for examples",
                path.display()
            ))
        })?;
        Self::parse(&text, &path.display().to_string(), overrides)
    }

    /// As [`read`](Self::read), from text; `label` names the source in messages.
    pub(crate) fn parse(text: &str, label: &str, overrides: &[String]) -> Result<Self, CliError> {
        let in_file = |error: toml::de::Error| {
            CliError::Input(format!(
                "experiment `{label}`: {}",
                with_suggestion(&error.to_string())
            ))
        };
        if overrides.is_empty() {
            return toml::from_str(text).map_err(in_file);
        }
        let mut table: toml::Table = toml::from_str(text).map_err(in_file)?;
        for entry in overrides {
            set(&mut table, entry)?;
        }
        toml::Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| {
                CliError::Input(format!(
                    "experiment `{label}` with {}: {}",
                    overrides.join(", "),
                    with_suggestion(&error.to_string())
                ))
            })
    }

    /// The experiment as TOML, complete.
    pub(crate) fn to_toml(&self) -> Result<String, CliError> {
        toml::to_string_pretty(self).map_err(CliError::failed)
    }

    /// Loads the data and builds the model, on `device` without a tape.
    pub(crate) fn prepare(&self, device: &Device) -> Result<Prepared, CliError> {
        self.inner.validate()?;
        self.outer.validate()?;
        self.train.validate()?;
        let set = match &self.data.folder {
            Some(folder) => EmojiClips::open(folder)?,
            None => EmojiClips::embedded()?,
        };
        let (_, _, width) = set.frames().dim();
        if self.data.batches.video_dim > width {
            return Err(CliError::Input(format!(
                "`data.batches.video_dim` is {}, but the clips have {width} features a frame",
                self.data.batches.video_dim
            )));
        }
        let config = self.model_config(&set)?;
        let seed = seed_for(self.seed, &[MODEL_STREAM]);
        let model = config.init(seed, device)?;
        let order_seed = seed_for(self.seed, &[ORDER_STREAM]);
        let task = UniVlRetrieval::new(
            set,
            self.data.batches.clone(),
            self.task.clone(),
            order_seed,
            device,
        )?;
        // What would only be found out after the last step otherwise.
        for split in &self.train.eval_splits {
            task.n_items(split)?;
        }
        if self.combiner.name == CombinerName::Meltr {
            self.combiner
                .loss_transformer(task.names().len())
                .validate()?;
        }
        let model = match self.model.start {
            ModelStart::Random => model,
            ModelStart::Matching => matching_start(
                &task,
                model,
                &self.model.matching,
                seed_for(self.seed, &[MATCHING_STREAM]),
            )?,
        };
        Ok(Prepared { task, model })
    }

    /// Sizes of the backbone for a set.
    pub(crate) fn model_config(&self, set: &EmojiClips) -> Result<UniVlConfig, CliError> {
        let preset = match self.model.preset {
            Preset::Base => UniVlConfig::base(),
            Preset::Mini => {
                UniVlConfig::mini(set.word_piece().vocab_size(), self.data.batches.video_dim)
            }
        };
        let mut table = toml::Table::try_from(preset).map_err(CliError::failed)?;
        table.extend(self.model.overrides.clone());
        let config: UniVlConfig =
            toml::Value::Table(table)
                .try_into()
                .map_err(|error: toml::de::Error| {
                    CliError::Input(format!("[model]: {}", with_suggestion(&error.to_string())))
                })?;
        config.validate()?;
        let batches = &self.data.batches;
        for (key, limit, needed, because) in [
            (
                "max_text_positions",
                config.max_text_positions,
                batches.max_words,
                "max_words",
            ),
            (
                "max_video_positions",
                config.max_video_positions,
                batches.max_frames,
                "max_frames",
            ),
            (
                "max_cross_positions",
                config.max_cross_positions,
                batches.max_words + batches.max_frames,
                "max_words + max_frames",
            ),
        ] {
            if limit < needed {
                return Err(CliError::Input(format!(
                    "[model] `{key}` is {limit}, but `{because}` of [data.batches] needs {needed}"
                )));
            }
        }
        if config.video_dim != batches.video_dim {
            return Err(CliError::Input(format!(
                "[model] `video_dim` is {}, but the batches have {} features a frame; set \
                 data.batches.video_dim",
                config.video_dim, batches.video_dim
            )));
        }
        Ok(config)
    }
}

const MODEL_STREAM: u64 = 101;
const ORDER_STREAM: u64 = 102;
const MATCHING_STREAM: u64 = 103;

/// Sets a dotted key of a table.
fn set(table: &mut toml::Table, entry: &str) -> Result<(), CliError> {
    let Some((key, value)) = entry.split_once('=') else {
        return Err(CliError::Input(format!(
            "--set `{entry}` has no `=`; write key=value, such as inner.learning_rate=1e-4"
        )));
    };
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let Some(last) = parts.pop() else {
        return Ok(());
    };
    let mut current = table;
    for part in parts {
        let next = current
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        current = next.as_table_mut().ok_or_else(|| {
            CliError::Input(format!(
                "--set `{entry}`: `{part}` is a value, not a section"
            ))
        })?;
    }
    current.insert(last.to_owned(), value);
    Ok(())
}
