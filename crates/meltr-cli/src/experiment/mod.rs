//! An experiment: everything that fixes a run, as TOML.

mod data;
mod model;
mod pixels;
mod prepared;
mod references;
#[cfg(test)]
mod rows;
mod univl;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use meltr_train::{BertAdamConfig, CombinerConfig, OuterConfig, TrainConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use self::data::DataConfig;
pub(crate) use self::model::{ModelConfig, bert, load_published};
pub(crate) use self::prepared::{Prepared, Visit};
pub(crate) use self::univl::TaskConfig;
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
    /// The split that combiners are compared on.
    #[serde(default = "default_split")]
    pub(crate) compared_split: String,
    /// The data.
    pub(crate) data: DataConfig,
    /// The backbone.
    pub(crate) model: ModelConfig,
    /// Losses, batches and metrics.
    pub(crate) task: TaskConfig,
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
    /// What a paper reports for this row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) published: Option<Published>,
}

/// What a paper reports for a row, and what has to be fetched to run it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Published {
    /// Metric to value, under the names of evaluations; shares as fractions.
    #[serde(default)]
    pub(crate) metrics: BTreeMap<String, f64>,
    /// Where the numbers come from.
    pub(crate) source: String,
    /// What to fetch.
    pub(crate) needs: String,
}

fn default_split() -> String {
    "test".to_owned()
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
        self.combiner.validate(&self.task.loss_names())?;
        let (asked, found) = (self.task.backbone(), self.model.backbone);
        if asked != found {
            return Err(CliError::Input(format!(
                "`task.kind = \"{}\"` runs on `model.backbone = \"{}\"`, not on `{}`",
                self.task.kind(),
                asked.name(),
                found.name()
            )));
        }
        match &self.task {
            TaskConfig::Violet(config) => self.prepare_violet(config, device),
            TaskConfig::Allinone(config) => self.prepare_allinone(config, device),
            TaskConfig::Retrieval(_) | TaskConfig::Captioning(_) | TaskConfig::Sentiment(_) => {
                self.prepare_univl(device)
            }
        }
    }
}

/// A section that is read only once it is known what it is for.
pub(crate) fn section<C: DeserializeOwned>(name: &str, table: &toml::Table) -> Result<C, CliError> {
    toml::Value::Table(table.clone())
        .try_into()
        .map_err(|error: toml::de::Error| {
            CliError::Input(format!("[{name}]: {}", with_suggestion(&error.to_string())))
        })
}

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

#[cfg(test)]
mod tests {
    use meltr_train::CombinerName;

    use super::*;
    use crate::device;

    const EXPERIMENT: &str =
        include_str!("../../../../xtask/experiments/univl/emoji-clips-retrieval.toml");

    fn with(overrides: &[&str]) -> Experiment {
        let overrides: Vec<String> = overrides.iter().map(|entry| (*entry).to_owned()).collect();
        Experiment::parse(EXPERIMENT, "test", &overrides).unwrap()
    }

    #[test]
    fn the_main_job_takes_every_combiner() {
        for name in CombinerName::ALL {
            let experiment = with(&[&format!("combiner.name={}", name.name())]);
            assert_eq!(experiment.combiner.name, name);
            let names = experiment.task.loss_names();
            experiment.combiner.validate(&names).unwrap();
        }
    }

    #[test]
    fn settings_of_a_combiner_that_cannot_be_used_are_refused_before_the_data_are_read() {
        let device = device::parse("flex").unwrap();
        for (overrides, parts) in [
            (
                ["combiner.name=fixed", "combiner.weights.jont=2"],
                ["[combiner] `weights` is `jont`", "joint"],
            ),
            (
                ["combiner.name=famo", "combiner.famo.learning_rate=0"],
                ["[combiner.famo] `learning_rate`", "(0, inf)"],
            ),
        ] {
            let experiment = with(&[overrides[0], overrides[1], "data.set.folder=nowhere"]);
            let Err(error) = experiment.prepare(&device) else {
                panic!("{overrides:?}");
            };
            let error = error.to_string();
            for part in parts {
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[test]
    fn a_combiner_that_does_not_exist_is_answered_with_the_nearest() {
        let overrides = ["combiner.name=nash_mlt".to_owned()];
        let error = Experiment::parse(EXPERIMENT, "test", &overrides)
            .unwrap_err()
            .to_string();
        assert!(error.contains("did you mean `nash_mtl`?"), "{error}");
    }
}
