//! The `meltr` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    meltr_cli::run(std::env::args_os()).into()
}
