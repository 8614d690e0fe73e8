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

impl ExitStatus {
    /// The number that the process ends with.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::CheckFailed => 1,
            Self::BadInput => 2,
            Self::Failed => 3,
            Self::Interrupted => 130,
        }
    }

    /// The status that has this number.
    pub(crate) fn of_code(code: u8) -> Self {
        match code {
            0 => Self::Done,
            1 => Self::CheckFailed,
            2 => Self::BadInput,
            130 => Self::Interrupted,
            _ => Self::Failed,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
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
    /// A process of a job, this one or another, has ended it and told why.
    #[error("process {rank} of this job has ended it")]
    Elsewhere {
        /// Number of that process, from 0.
        rank: usize,
        /// How it ended.
        status: ExitStatus,
    },
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
            Self::Elsewhere { status, .. } => *status,
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
            | TrainError::WorkersDiffer { .. }
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
