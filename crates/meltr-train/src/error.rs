//! Errors of a run.

use std::path::PathBuf;

use meltr_aid::HypergradientError;
use meltr_core::ConfigError;
use meltr_core::weighting::WeightingError;
use meltr_data::DataError;
use thiserror::Error;

use crate::report::ReportError;

/// Why a run could not start, go on or be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The task failed.
    #[error(transparent)]
    Task(Box<dyn std::error::Error + Send + Sync>),
    /// A tensor file could not be read or written.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The report could not be drawn.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A run of that name exists.
    #[error("`{}` exists; name another directory with --out, runs are never overwritten", path.display())]
    RunExists {
        /// The directory.
        path: PathBuf,
    },
    /// A directory is not a run.
    #[error("`{}` is not a run: {reason}; give the directory that `meltr fine-tune` wrote", path.display())]
    NotARun {
        /// The directory.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A file of a run could not be written or read.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried: `write`, `read`, `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A record could not be read.
    #[error("`{}` line {line}: {reason}", path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A loss or gradient is not finite.
    #[error(
        "step {iteration}: {what} is {value} on items {items}; \
         a smaller `inner.learning_rate` is the usual remedy"
    )]
    NonFinite {
        /// Inner steps taken.
        iteration: usize,
        /// What is not finite, such as ``loss `mlm` ``.
        what: String,
        /// The value.
        value: f64,
        /// Items of the batch.
        items: String,
    },
    /// A rule gives no weights for the losses of a step.
    #[error(
        "step {iteration}, weights of the losses: {source} (losses from 0: {tasks}; items {items})"
    )]
    Weighting {
        /// Inner steps taken.
        iteration: usize,
        /// What went wrong.
        source: WeightingError,
        /// Names of the losses in their order.
        tasks: String,
        /// Items of the batch, the last one of several.
        items: String,
    },
    /// No hypergradient.
    #[error("step {iteration}, outer step: {source} (items {items})")]
    Hypergradient {
        /// Inner steps taken.
        iteration: usize,
        /// What went wrong.
        source: HypergradientError,
        /// Items of both batches.
        items: String,
    },
    /// A run was asked to go on with settings that are not its own.
    #[error(
        "`{}` was started with other settings: {differences}; a run goes on with its own \
         (give --resume alone), and other settings make another run (--out)",
        path.display()
    )]
    SettingsChanged {
        /// The run.
        path: PathBuf,
        /// The settings that differ, with both values.
        differences: String,
    },
    /// A checkpoint cannot be gone on from.
    #[error("checkpoint `{}` cannot be used: {reason}", path.display())]
    BadCheckpoint {
        /// The folder of the checkpoint, or the file of it that is at fault.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another process is at the same run.
    #[error(
        "`{}` is being written by another process; wait for it to end, or stop it first",
        path.display()
    )]
    RunBusy {
        /// The run.
        path: PathBuf,
    },
    /// The parts of a step cannot be shared equally among the processes.
    #[error(
        "`{key}` is {value}, which {n_workers} processes cannot share equally; set it to a \
         multiple of {n_workers}, or start a number of processes that divides it"
    )]
    NotShared {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: usize,
        /// Number of processes.
        n_workers: usize,
    },
    /// What has to be the same in all processes is not.
    #[error(
        "{what} of process {rank} and of process 0 differ after {iteration} steps; all processes \
         need the same program, files and kind of device, and after a restart the same run folder"
    )]
    WorkersDiffer {
        /// What differs.
        what: &'static str,
        /// The first process that differs from that numbered 0.
        rank: usize,
        /// Inner steps taken.
        iteration: usize,
    },
    /// The metric that decides about the best checkpoint is not measured.
    #[error(
        "`train.best_metric` asks for `{name}` on split `{split}`, which the evaluation does not \
         give; it gives {known}"
    )]
    NoSuchMetric {
        /// Name of the metric.
        name: String,
        /// The split.
        split: String,
        /// The metrics of that split, separated by commas.
        known: String,
    },
    /// Saved weights do not fit the model of the run's configuration.
    #[error("`{}` does not fit the model: {report}", path.display())]
    WeightsDoNotFit {
        /// The weights.
        path: PathBuf,
        /// What does not fit.
        report: String,
    },
}
