//! Errors of the program and its exit status.

use std::process::ExitCode;

use meltr_train::TrainError;
use thiserror::Error;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// Done.
    Done,
    /// A check did not hold.
    CheckFailed,
    /// The user's input is wrong.
    BadInput,
    /// Something failed on the way.
    Failed,
    /// Interrupted; the state is saved.
    Interrupted,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(match status {
            ExitStatus::Done => 0,
            ExitStatus::CheckFailed => 1,
            ExitStatus::BadInput => 2,
            ExitStatus::Failed => 3,
            ExitStatus::Interrupted => 130,
        })
    }
}

/// Why a command ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CliError {
    /// A check did not hold.
    #[error("{0}")]
    Check(String),
    /// The user's input is wrong.
    #[error("{0}")]
    Input(String),
    /// Something failed on the way.
    #[error("{0}")]
    Failed(String),
    /// Interrupted by the user.
    #[error("interrupted; {0}")]
    Interrupted(String),
}

impl CliError {
    /// The exit status that goes with it.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::Check(_) => ExitStatus::CheckFailed,
            Self::Input(_) => ExitStatus::BadInput,
            Self::Failed(_) => ExitStatus::Failed,
            Self::Interrupted(_) => ExitStatus::Interrupted,
        }
    }

    /// An error in what the user gave.
    pub(crate) fn input(error: impl std::fmt::Display) -> Self {
        Self::Input(error.to_string())
    }

    /// A failure that is not the user's.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<TrainError> for CliError {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::NonFinite { .. }
            | TrainError::Weighting { .. }
            | TrainError::Hypergradient { .. }
            | TrainError::Report(_)
            | TrainError::Io { .. } => Self::failed(error),
            _ => Self::input(error),
        }
    }
}

impl From<meltr_core::ConfigError> for CliError {
    fn from(error: meltr_core::ConfigError) -> Self {
        Self::input(error)
    }
}

impl From<meltr_tasks::TaskError> for CliError {
    fn from(error: meltr_tasks::TaskError) -> Self {
        Self::input(error)
    }
}

impl From<meltr_data::DataError> for CliError {
    fn from(error: meltr_data::DataError) -> Self {
        Self::input(error)
    }
}
