//! Errors of tasks.

use meltr_core::ConfigError;
use meltr_data::DataError;
use thiserror::Error;

use crate::linear_sentiment::LinearSentimentError;
use crate::metric::MetricError;

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
    /// The model's output is not finite.
    #[error(
        "the caption of `{item}` has a score that is not finite; the model diverged, or its \
         weights or the item's features are not finite"
    )]
    CaptionNotFinite {
        /// Name of the item.
        item: String,
    },
    /// The closed-form reference of a sentiment set cannot be fitted.
    #[error(transparent)]
    LinearSentiment(#[from] LinearSentimentError),
    /// The model's scores of the answers to a question are not finite.
    #[error(
        "the answers to `{item}` have a score that is not finite; the model diverged, or its \
         weights or the item's frames are not finite"
    )]
    AnswerNotFinite {
        /// Name of the item.
        item: String,
    },
    /// A metric is not defined on what the model returned.
    #[error("metrics on split `{split}`: {source}")]
    Metric {
        /// Split that was evaluated.
        split: String,
        /// What was wrong.
        source: MetricError,
    },
}
