//! Errors of a run.

use std::path::PathBuf;

use meltr_aid::HypergradientError;
use meltr_core::ConfigError;
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
    /// Saved weights do not fit the model of the run's configuration.
    #[error("`{}` does not fit the model: {report}", path.display())]
    WeightsDoNotFit {
        /// The weights.
        path: PathBuf,
        /// What does not fit.
        report: String,
    },
}
