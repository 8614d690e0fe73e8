//! Errors of tasks.

use meltr_core::ConfigError;
use meltr_data::DataError;
use thiserror::Error;

use crate::retrieval_metrics::MetricError;

/// What can go wrong while a task is set up or evaluated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The data cannot be read or is not what it should be.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A setting of the batches is out of range.
    #[error(transparent)]
    Batches(#[from] meltr_data::ConfigError),
    /// A setting of the model or task is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A metric is not defined on what the model returned.
    #[error("metrics on split `{split}`: {source}")]
    Metric {
        /// Split that was evaluated.
        split: String,
        /// What was wrong.
        source: MetricError,
    },
}
