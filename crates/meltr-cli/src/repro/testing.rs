//! Arguments, runs and lines of the ledger for the tests of this module.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use meltr_train::record::Summary;
use meltr_train::{CombinerName, Run};

use super::ledger::{Budget, CombinerEntry, Entry, FORMAT_VERSION};
use super::plan::{Job, Start, Threads};
use super::provenance::Provenance;
use super::statistics::Spread;
use crate::cli::ReproArguments;
use crate::experiment::Experiment;

/// The experiment of the main job.
const EXPERIMENT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../xtask/experiments/univl/emoji-clips-retrieval.toml"
);

pub(super) fn experiment() -> PathBuf {
    PathBuf::from(EXPERIMENT)
}

pub(super) fn arguments() -> ReproArguments {
    ReproArguments {
        experiments: vec![experiment()],
        combiners: None,
        seeds: 2,
        jobs: None,
        out: PathBuf::from("runs"),
        new: false,
        shard: None,
        collect: false,
        iterations: None,
        set: Vec::new(),
        auxiliary_weights: Vec::new(),
        equal_time: false,
        equal_time_only: false,
        ledger: None,
        device: "flex".to_owned(),
        json: false,
    }
}

/// What runs of the experiment of the main job are started with.
pub(super) fn start(overrides: &[String], threads: Threads) -> Start<'_> {
    Start {
        program: Path::new("meltr"),
        experiment: Path::new(EXPERIMENT),
        overrides,
        device: "flex",
        threads,
    }
}

/// Makes the directory of a run as one that was begun.
pub(super) fn begin(job: &Job, start: &Start<'_>) {
    let mut overrides = start.all_overrides(&job.variant);
    overrides.push(format!("seed={}", job.seed));
    let experiment = Experiment::read(start.experiment, &overrides).unwrap();
    Run::create(&job.directory, &experiment.to_toml().unwrap()).unwrap();
}

/// Makes a run that was begun one that has ended.
pub(super) fn finish(job: &Job, r1: f64) {
    let summary = summary(job.variant.combiner, job.seed, r1);
    let text = serde_json::to_string(&summary).unwrap();
    fs::write(job.directory.join("summary.json"), text).unwrap();
}

/// A run of ten steps in ten seconds.
pub(super) fn summary(combiner: CombinerName, seed: u64, r1: f64) -> Summary {
    let metrics = BTreeMap::from([("text_to_video.r1".to_owned(), r1)]);
    Summary {
        format_version: 1,
        name: format!("{}-{seed}", combiner.name()),
        combiner: combiner.name().to_owned(),
        seed,
        device: "flex".to_owned(),
        tasks: vec!["align".to_owned(), "mlm".to_owned()],
        primary: "align".to_owned(),
        iterations: 10,
        metrics: ["valid", "test"]
            .map(|split| (split.to_owned(), metrics.clone()))
            .into(),
        train_seconds: 10.0,
        total_seconds: 12.0,
        peak_memory_bytes: Some(1 << 28),
        worst_hypergradient_error: None,
    }
}

pub(super) fn provenance(commit: &str) -> Provenance {
    Provenance {
        commit: Some(commit.to_owned()),
        uncommitted_changes: Some(false),
        crates: BTreeMap::from([("burn".to_owned(), "0.1.2".to_owned())]),
    }
}

/// A line of the ledger about one combiner with two seeds.
pub(super) fn entry(row: &str, budget: Budget) -> Entry {
    let r1 = Spread::of([Some(0.25), Some(0.5)]);
    let metrics = BTreeMap::from([("text_to_video.r1".to_owned(), r1)]);
    Entry {
        format_version: FORMAT_VERSION,
        date: "2026-01-31".to_owned(),
        row: row.to_owned(),
        title: "A row".to_owned(),
        budget,
        command: "meltr repro a/b.toml".to_owned(),
        provenance: provenance("c0ffee"),
        begun_at: None,
        device: "flex".to_owned(),
        cores: 2,
        jobs: 2,
        files: Vec::new(),
        train_splits: vec!["train".to_owned()],
        n_train: 20,
        split: "test".to_owned(),
        n_items: BTreeMap::from([("test".to_owned(), 4)]),
        ties: None,
        seeds: vec![1, 2],
        combiners: vec![CombinerEntry {
            combiner: "sum".to_owned(),
            auxiliary_weight: None,
            iterations: 10,
            metrics: BTreeMap::from([("test".to_owned(), metrics)]),
            train_seconds: Spread::of([Some(10.0), Some(10.0)]),
            seconds_per_step: Some(1.0),
            peak_memory_bytes: vec![Some(1 << 28), None],
            worst_hypergradient_error: None,
            difference_to_published: BTreeMap::new(),
        }],
        differences: Vec::new(),
        choice: None,
        references: Vec::new(),
        published: None,
    }
}
