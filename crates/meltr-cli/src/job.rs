//! The processes that a launcher such as `mpirun` started together.

use std::env;

use meltr_core::{Alone, Workers, gather_texts};

use crate::error::{CliError, ExitStatus};
#[cfg(feature = "mpi")]
use crate::mpi_workers::MpiWorkers;
use crate::output;

/// Where launchers tell a process how many there are: Open MPI, MPICH and its relatives, Slurm. The
/// first that is set counts.
pub(crate) const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// This process among those that were started together.
pub(crate) enum Job {
    /// There is no other.
    Alone(Alone),
    /// They share the run.
    #[cfg(feature = "mpi")]
    Shared(MpiWorkers),
}

impl Job {
    /// Meets the other processes, if there are any.
    pub(crate) fn start() -> Result<Self, CliError> {
        match started_together(|name| env::var(name).ok()) {
            None => Ok(Self::Alone(Alone)),
            Some((variable, n_workers)) => Self::together(variable, n_workers),
        }
    }

    #[cfg(feature = "mpi")]
    fn together(_variable: &str, n_workers: usize) -> Result<Self, CliError> {
        MpiWorkers::start(n_workers).map(Self::Shared)
    }

    #[cfg(not(feature = "mpi"))]
    fn together(variable: &str, n_workers: usize) -> Result<Self, CliError> {
        Err(CliError::Input(format!(
            "{n_workers} processes were started together (`{variable}` is {n_workers}), and this \
             program cannot let them share a run; build it with `--features mpi`, or unset \
             `{variable}` where each of them has a run of its own"
        )))
    }

    /// The processes, as the run sees them.
    pub(crate) fn workers(&self) -> &dyn Workers {
        match self {
            Self::Alone(alone) => alone,
            #[cfg(feature = "mpi")]
            Self::Shared(workers) => workers,
        }
    }

    /// Whether there is no other process.
    pub(crate) fn is_alone(&self) -> bool {
        self.workers().is_alone()
    }

    /// Whether this is the process that writes the run and prints.
    pub(crate) fn is_first(&self) -> bool {
        self.workers().rank() == 0
    }

    /// `own`, if every process has a value. Otherwise all of them get an error, and the first that
    /// has no value has told why. Each of them calls this at the same place.
    pub(crate) fn agree<R>(&self, own: Result<R, CliError>) -> Result<R, CliError> {
        let status = own
            .as_ref()
            .map_or_else(CliError::status, |_| ExitStatus::Done);
        let all = self.workers().gather(&[f64::from(status.code())]);
        let done = f64::from(ExitStatus::Done.code());
        let failed = all.iter().position(|code| *code != done);
        let Some(rank) = failed.filter(|_| !self.is_alone()) else {
            return own;
        };
        if let (true, Err(error)) = (rank == self.workers().rank(), &own) {
            output::error(error);
        }
        // Launchers end the others as soon as one has ended.
        self.workers().gather(&[]);
        Err(CliError::Elsewhere {
            rank,
            status: ExitStatus::of_code(all[rank] as u8),
        })
    }

    /// The text of the first process.
    pub(crate) fn first_text(&self, own: String) -> String {
        gather_texts(self.workers(), vec![own])
            .into_iter()
            .next()
            .unwrap_or_default()
    }

    /// The error; where other processes wait for this one, it is told, and all of them end.
    pub(crate) fn ended_by(&self, error: CliError) -> CliError {
        match self {
            Self::Alone(_) => error,
            #[cfg(feature = "mpi")]
            Self::Shared(workers) => workers.abort(&error),
        }
    }
}

/// How many processes were started together, if more than one, and the variable that says so.
fn started_together(variable: impl Fn(&str) -> Option<String>) -> Option<(&'static str, usize)> {
    SIZES
        .into_iter()
        .find_map(|name| Some((name, variable(name)?.trim().parse::<usize>().ok()?)))
        .filter(|(_, n_workers)| *n_workers > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_known_by_what_they_set() {
        let with = |set: &[(&str, &str)]| {
            started_together(|name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(with(&[]), None);
        assert_eq!(
            with(&[("OMPI_COMM_WORLD_SIZE", "4")]),
            Some(("OMPI_COMM_WORLD_SIZE", 4))
        );
        assert_eq!(with(&[("PMI_SIZE", " 2 ")]), Some(("PMI_SIZE", 2)));
        // One process on each of four nodes was started to start ours.
        let nested = [("SLURM_STEP_NUM_TASKS", "4"), ("OMPI_COMM_WORLD_SIZE", "1")];
        assert_eq!(with(&nested), None);
        assert_eq!(with(&[("PMI_SIZE", "many")]), None);
    }

    #[test]
    fn one_process_keeps_its_own_value_and_its_own_error() {
        let job = Job::Alone(Alone);
        assert_eq!(job.agree(Ok(3)).unwrap(), 3);
        let own: Result<(), CliError> = Err(CliError::Input("no file".to_owned()));
        assert!(matches!(job.agree(own), Err(CliError::Input(_))));
        assert_eq!(job.first_text("here".to_owned()), "here");
        assert!(job.is_first() && job.is_alone());
    }

    #[test]
    fn an_exit_status_survives_as_its_code() {
        for status in [
            ExitStatus::Done,
            ExitStatus::CheckFailed,
            ExitStatus::BadInput,
            ExitStatus::Failed,
            ExitStatus::Interrupted,
        ] {
            assert_eq!(ExitStatus::of_code(status.code()), status);
        }
    }
}
