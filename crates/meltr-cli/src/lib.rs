//! The `meltr` program as a library: one module a subcommand.
//!
//! Everything that prints, reads flags or exits is here; the work is in the crates below.

mod allocator;
mod bench;
mod cli;
mod data;
mod device;
mod devices;
mod error;
mod evaluate;
mod experiment;
mod fine_tune;
mod given_batches;
mod infer;
mod job;
#[cfg(feature = "mpi")]
mod mpi_workers;
mod nearest;
mod output;
mod plan;
mod progress;
mod reference;
mod report;
mod repro;
mod score;
mod weights;

use clap::Parser;

pub use cli::{Cli, Command};
pub use error::{CliError, ExitStatus};

/// Parses the command line, runs it and returns the process's exit status.
///
/// Messages go to standard error; results to standard output.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> ExitStatus {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; printing them can only fail on a closed pipe.
            let status = if error.use_stderr() {
                ExitStatus::BadInput
            } else {
                ExitStatus::Done
            };
            let _ = error.print();
            return status;
        }
    };
    allocator::keep_freed_memory();
    match dispatch(cli.command) {
        Ok(()) => ExitStatus::Done,
        // It has been told.
        Err(error @ CliError::Elsewhere { .. }) => error.status(),
        Err(error) => {
            output::error(&error);
            error.status()
        }
    }
}

fn dispatch(command: Command) -> Result<(), CliError> {
    match command {
        Command::FineTune(arguments) => fine_tune::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Evaluate(arguments) => evaluate::run(&arguments),
        Command::Retrieve(arguments) => infer::retrieve::run(&arguments),
        Command::Caption(arguments) => infer::caption::run(&arguments),
        Command::Answer(arguments) => infer::answer::run(&arguments),
        Command::Sentiment(arguments) => infer::sentiment::run(&arguments),
        Command::Repro(arguments) => repro::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Score(arguments) => score::run(&arguments),
        Command::Weights(arguments) => weights::run(&arguments),
        Command::Reference(arguments) => reference::run(&arguments),
        Command::Data(arguments) => data::run(&arguments),
        Command::Devices(arguments) => devices::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    }
}
