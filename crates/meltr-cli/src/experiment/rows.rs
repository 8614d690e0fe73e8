//! Tests over all experiments of the checkout: that they can be read, hold together, and name data
//! that the registry knows.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use meltr_data::{
    EntryKind, PixelCollator, Registry, SentimentCollator, SplitCounts, VideoTextCollator,
};
use meltr_models::{
    AllInOneConfig, AllInOneLoss, AllInOneTask, FeatureWidths, UniVlSentimentConfig, VioletConfig,
    VioletLoss, VioletTask,
};
use meltr_tasks::{AllInOneTaskConfig, VioletTaskConfig};

use super::model::{Backbone, Preset, UniVlNeeds};
use super::{Experiment, TaskConfig, section};

/// Entries of the published vocabulary.
const VOCAB_SIZE: usize = 30_522;

/// What stands before an id of the registry in `published.needs`.
const GET: &str = "meltr data get ";

/// Every experiment with its path below the folder of experiments, without the extension.
fn rows() -> Vec<(String, Experiment)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xtask/experiments");
    let mut files = Vec::new();
    walk(&folder, &mut files);
    files.sort();
    assert!(files.len() > 10, "{files:?}");
    files
        .into_iter()
        .map(|file| {
            let below = file.strip_prefix(&folder).unwrap().with_extension("");
            let parts: Vec<&str> = below.iter().map(|part| part.to_str().unwrap()).collect();
            let name = parts.join("/");
            let text = fs::read_to_string(&file).unwrap();
            let experiment = parsed(&text, &name);
            (name, experiment)
        })
        .collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
}

fn parsed(text: &str, name: &str) -> Experiment {
    match Experiment::parse(text, name, &[]) {
        Ok(experiment) => experiment,
        Err(error) => panic!("{error}"),
    }
}

/// The value, or a failure that names the row.
fn expected<T, E: Display>(name: &str, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{name}: {error}"),
    }
}

fn violet_task_of(config: &VioletTaskConfig) -> VioletTask {
    if config.losses.contains(&VioletLoss::Mc) {
        VioletTask::MultipleChoice
    } else if config.losses.contains(&VioletLoss::Oe) {
        VioletTask::OpenEnded { n_answers: 1 }
    } else {
        VioletTask::Retrieval
    }
}

fn all_in_one_task_of(config: &AllInOneTaskConfig) -> AllInOneTask {
    if config.losses.contains(&AllInOneLoss::McVqa) {
        AllInOneTask::MultipleChoice
    } else if config.losses.contains(&AllInOneLoss::OpenendVqa) {
        AllInOneTask::OpenEnded { n_answers: 1 }
    } else {
        AllInOneTask::Retrieval
    }
}

fn batch_size(task: &TaskConfig) -> usize {
    match task {
        TaskConfig::Retrieval(config) => config.batch_size,
        TaskConfig::Captioning(config) => config.batch_size,
        TaskConfig::Sentiment(config) => config.batch_size,
        TaskConfig::Violet(config) => config.batch_size,
        TaskConfig::Allinone(config) => config.batch_size,
    }
}

/// Builds the sizes of the model for the row's batches.
fn check_model(name: &str, experiment: &Experiment) {
    let model = &experiment.model;
    match &experiment.task {
        TaskConfig::Retrieval(_) | TaskConfig::Captioning(_) => {
            let batches = section("data.batches", &experiment.data.batches);
            let collator: VideoTextCollator = expected(name, batches);
            expected(name, collator.validate());
            let needs = UniVlNeeds {
                vocab_size: VOCAB_SIZE,
                max_words: collator.max_words,
                max_frames: collator.max_frames,
                video_dim: collator.video_dim,
            };
            expected(name, model.univl(needs));
        }
        TaskConfig::Sentiment(_) => {
            let batches = section("data.batches", &experiment.data.batches);
            let collator: SentimentCollator = expected(name, batches);
            expected(name, collator.validate());
            let widths = FeatureWidths {
                text: 0,
                audio: 0,
                video: 1,
            };
            let preset = UniVlSentimentConfig::mini(VOCAB_SIZE, widths);
            let sizes = expected(name, model.sentiment(preset));
            assert!(
                sizes.univl.max_text_positions >= collator.max_words,
                "{name}"
            );
        }
        TaskConfig::Violet(config) => {
            let preset = PixelCollator::violet();
            let collator = expected(name, experiment.pixel_collator(preset));
            let task = violet_task_of(config);
            let n_tokens = collator.visual_targets.n_tokens().max(1);
            let preset = match model.preset {
                Preset::Base => VioletConfig::base(task),
                Preset::Mini => VioletConfig::mini(task, VOCAB_SIZE, n_tokens),
            };
            let sizes: VioletConfig = expected(name, model.overridden(preset));
            expected(name, sizes.validate());
            let (n_frames, size) = (collator.n_frames, collator.image_size);
            expected(name, sizes.require_clip(n_frames, size, size));
        }
        TaskConfig::Allinone(config) => {
            let preset = PixelCollator::all_in_one();
            let collator = expected(name, experiment.pixel_collator(preset));
            let task = all_in_one_task_of(config);
            let preset = match model.preset {
                Preset::Base => AllInOneConfig::base(task),
                Preset::Mini => AllInOneConfig::mini(task, VOCAB_SIZE),
            };
            let sizes: AllInOneConfig = expected(name, model.overridden(preset));
            expected(name, sizes.validate());
            let (n_frames, size) = (collator.n_frames, collator.image_size);
            expected(name, sizes.require_clip(n_frames, size, size));
        }
    }
}

/// The ids of the registry that a text tells to get.
fn ids_to_get(needs: &str) -> BTreeSet<&str> {
    let is_id = |symbol: char| symbol.is_ascii_alphanumeric() || symbol == '-';
    needs
        .split(GET)
        .skip(1)
        .map(|rest| match rest.find(|symbol: char| !is_id(symbol)) {
            Some(end) => &rest[..end],
            None => rest,
        })
        .collect()
}

/// The folders below `data` that an experiment reads from.
fn data_folders(experiment: &Experiment) -> BTreeSet<String> {
    let table: toml::Table = toml::from_str(&experiment.to_toml().unwrap()).unwrap();
    let mut texts = Vec::new();
    collect_texts(&toml::Value::Table(table), &mut texts);
    texts
        .iter()
        .filter_map(|text| text.strip_prefix("data/")?.split('/').next())
        .map(str::to_owned)
        .collect()
}

fn collect_texts(value: &toml::Value, texts: &mut Vec<String>) {
    match value {
        toml::Value::String(text) => texts.push(text.clone()),
        toml::Value::Array(values) => {
            for value in values {
                collect_texts(value, texts);
            }
        }
        toml::Value::Table(table) => {
            for value in table.values() {
                collect_texts(value, texts);
            }
        }
        _ => {}
    }
}

/// Items of the training part, as the registry counts them.
fn n_items(counts: &SplitCounts, backbone: Backbone) -> Option<u64> {
    match backbone {
        // A video is an item, whichever of its captions is drawn.
        Backbone::Allinone => counts.videos,
        Backbone::Univl | Backbone::Violet => counts.texts.or(counts.questions).or(counts.clips),
    }
}

#[test]
fn every_row_has_the_name_of_its_file_and_survives_being_written() {
    for (name, experiment) in rows() {
        assert_eq!(experiment.name, name);
        assert!(!experiment.title.trim().is_empty(), "{name}");
        let written = experiment.to_toml().unwrap();
        assert_eq!(parsed(&written, &name), experiment, "{name}");
    }
}

#[test]
fn every_row_holds_together() {
    for (name, experiment) in rows() {
        expected(&name, experiment.inner.validate());
        expected(&name, experiment.outer.validate());
        expected(&name, experiment.train.validate());
        let losses = experiment.task.loss_names();
        assert!(
            losses.len() > 1,
            "{name}: a single loss leaves nothing to combine"
        );
        // Also where the row names another combiner.
        let combiner = experiment.combiner.loss_transformer(losses.len());
        expected(&name, combiner.validate());
        expected(&name, experiment.combiner.validate(&losses));
        assert_eq!(
            experiment.task.backbone(),
            experiment.model.backbone,
            "{name}"
        );
        match &experiment.task {
            TaskConfig::Retrieval(config) => expected(&name, config.validate()),
            TaskConfig::Captioning(config) => expected(&name, config.validate()),
            TaskConfig::Sentiment(config) => expected(&name, config.validate()),
            TaskConfig::Violet(config) => {
                expected(&name, config.validate(violet_task_of(config)));
            }
            TaskConfig::Allinone(config) => {
                expected(&name, config.validate(all_in_one_task_of(config)));
            }
        }
        let evaluated = &experiment.train.eval_splits;
        assert!(evaluated.contains(&experiment.compared_split), "{name}");
        check_model(&name, &experiment);
    }
}

#[test]
fn every_row_of_the_paper_says_what_is_published_and_what_it_needs() {
    let mut n_rows = 0;
    for (name, experiment) in rows() {
        let Some(published) = &experiment.published else {
            continue;
        };
        n_rows += 1;
        assert!(!published.needs.trim().is_empty(), "{name}");
        assert!(!published.source.trim().is_empty(), "{name}");
        assert_eq!(experiment.model.preset, Preset::Base, "{name}");
        assert!(experiment.model.weights.is_some(), "{name}");
        for (metric, value) in &published.metrics {
            assert!(value.is_finite() && *value > 0.0, "{name}: {metric}");
            let is_share = metric.contains(".r")
                || ["accuracy", "bleu", "meteor", "rouge"]
                    .iter()
                    .any(|start| metric.starts_with(start));
            assert!(
                !is_share || *value <= 1.0,
                "{name}: {metric} is no fraction"
            );
        }
    }
    assert!(n_rows > 0);
}

#[test]
fn every_id_that_a_row_tells_to_get_is_in_the_registry() {
    let registry = Registry::built_in().unwrap();
    for (name, experiment) in rows() {
        let Some(published) = &experiment.published else {
            continue;
        };
        let ids = ids_to_get(&published.needs);
        for id in &ids {
            assert!(registry.entry(id).is_some(), "{name}: no entry `{id}`");
        }
        if ids.is_empty() {
            // VIOLET's rows describe in words what only a person can fetch.
            assert_eq!(experiment.model.backbone, Backbone::Violet, "{name}");
            continue;
        }
        for folder in data_folders(&experiment) {
            let told = ids.contains(folder.as_str());
            assert!(
                told,
                "{name}: reads data/{folder}, but does not tell to get it"
            );
        }
    }
}

#[test]
fn a_run_of_a_row_of_the_paper_is_whole_epochs_of_the_set_in_the_registry() {
    let registry = Registry::built_in().unwrap();
    for (name, experiment) in rows() {
        let Some(published) = &experiment.published else {
            continue;
        };
        // The registry counts the standard division of CMU-MOSI, the row takes the older one.
        if matches!(experiment.task, TaskConfig::Sentiment(_)) {
            continue;
        }
        for id in ids_to_get(&published.needs) {
            let entry = registry.entry(id).unwrap();
            let counts = entry.splits.get("train");
            let items = counts.and_then(|counts| n_items(counts, experiment.model.backbone));
            let (EntryKind::Set, Some(items)) = (entry.kind, items) else {
                continue;
            };
            let epoch = items / batch_size(&experiment.task) as u64;
            let steps = experiment.train.iterations as u64;
            assert!(
                steps > 0 && steps.is_multiple_of(epoch),
                "{name}: {steps} steps, {epoch} an epoch"
            );
        }
    }
}

#[test]
fn ids_are_what_follows_the_command() {
    let needs = "`meltr data get msrvtt-7k --accept-terms`, unpacked; `meltr data get univl`; more";
    let ids: Vec<&str> = ids_to_get(needs).into_iter().collect();
    assert_eq!(ids, ["msrvtt-7k", "univl"]);
    assert!(ids_to_get("the videos, by hand").is_empty());
}
