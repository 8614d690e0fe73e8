//! Processes that share a run over MPI.

use std::fmt;
use std::thread;

use meltr_core::Workers;
use mpi::Threading;
use mpi::environment::{Universe, initialize_with_threading, library_version};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};

use crate::error::CliError;
use crate::output;

/// Numbers of one message at most.
const PIECE: usize = 1 << 22;

/// What a process that panicked ends the others with, as Rust ends it.
const PANICKED: i32 = 101;

/// This process among all of an MPI job.
///
/// MPI is told to end all of them where one fails, so a call that comes back has worked. Only the
/// thread that made this talks to MPI.
pub(crate) struct MpiWorkers {
    world: SimpleCommunicator,
    rank: usize,
    n_workers: usize,
    /// Lets MPI end when it is dropped.
    _universe: Universe,
}

impl MpiWorkers {
    /// Meets the other processes, of which the launcher says that there are `expected` with this
    /// one.
    pub(crate) fn start(expected: usize) -> Result<Self, CliError> {
        let Some((universe, _)) = initialize_with_threading(Threading::Funneled) else {
            return Err(CliError::Failed("MPI was started twice".to_owned()));
        };
        let world = universe.world();
        let (found, rank) = (world.size(), world.rank());
        match (usize::try_from(found), usize::try_from(rank)) {
            (Ok(n_workers), Ok(rank)) if n_workers == expected => Ok(Self {
                world,
                rank,
                n_workers,
                _universe: universe,
            }),
            _ => {
                let library = library_version().unwrap_or_default();
                Err(CliError::Input(format!(
                    "{expected} processes were started together, and MPI finds {found}: the \
                     launcher belongs to another MPI than this program, which was built with \
                     `{}`; start it by the `mpirun` of that one, or under Slurm by `srun \
                     --mpi=pmix`",
                    library.lines().next().unwrap_or_default()
                )))
            }
        }
    }

    /// Tells the error and ends all processes.
    pub(crate) fn abort(&self, error: &CliError) -> ! {
        let (rank, n_workers) = (self.rank, self.n_workers);
        output::note(&format!(
            "error: process {rank} of {n_workers} (from 0) ends the others: {error}"
        ));
        self.world.abort(i32::from(error.status().code()))
    }

    /// Adds up one piece: every process the share of the places that is its own, then all of them
    /// get all shares.
    fn add_piece(&self, total: &mut [f32], own: &[f32]) {
        let share = own.len().div_ceil(self.n_workers);
        let mut sent = own.to_vec();
        sent.resize(share * self.n_workers, 0.0);
        let mut received = vec![0.0_f32; sent.len()];
        self.world.all_to_all_into(&sent[..], &mut received[..]);
        // The last shares may lie behind the end, in part or as a whole.
        let start = (self.rank * share).min(total.len());
        let end = (start + share).min(total.len());
        let mut sum = total[start..end].to_vec();
        sum.resize(share, 0.0);
        for part in received.chunks(share) {
            for (sum, number) in sum.iter_mut().zip(part) {
                *sum += number;
            }
        }
        self.world.all_gather_into(&sum[..], &mut received[..]);
        let length = total.len();
        total.copy_from_slice(&received[..length]);
    }
}

impl Workers for MpiWorkers {
    fn rank(&self) -> usize {
        self.rank
    }

    fn n_workers(&self) -> usize {
        self.n_workers
    }

    fn gather(&self, own: &[f64]) -> Vec<f64> {
        let mut lengths = vec![0_u64; self.n_workers];
        self.world
            .all_gather_into(&(own.len() as u64), &mut lengths[..]);
        let mut all = Vec::new();
        for (rank, length) in (0..).zip(lengths) {
            let mut part = if rank == self.world.rank() {
                own.to_vec()
            } else {
                vec![0.0; length as usize]
            };
            let root = self.world.process_at_rank(rank);
            for piece in part.chunks_mut(PIECE) {
                root.broadcast_into(piece);
            }
            all.append(&mut part);
        }
        all
    }

    fn add_all(&self, total: &mut [f32], own: &[f32]) {
        for (total, own) in total.chunks_mut(PIECE).zip(own.chunks(PIECE)) {
            self.add_piece(total, own);
        }
    }
}

impl Drop for MpiWorkers {
    fn drop(&mut self) {
        // The others would wait for this one, and so would the end of MPI for them.
        if thread::panicking() {
            self.world.abort(PANICKED);
        }
    }
}

impl fmt::Debug for MpiWorkers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MpiWorkers")
            .field("rank", &self.rank)
            .field("n_workers", &self.n_workers)
            .finish_non_exhaustive()
    }
}
