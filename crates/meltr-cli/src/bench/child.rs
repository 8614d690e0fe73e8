//! This program again, in a process of its own.

use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;

use super::THREADS_VARIABLE;
use crate::error::CliError;

/// Variables that fix the number of threads: rayon's and, for LibTorch, OpenMP's.
pub(super) const THREADS_VARIABLES: [&str; 2] = [THREADS_VARIABLE, "OMP_NUM_THREADS"];

/// This program again, for `meltr bench NAME`.
pub(super) fn this_program(name: &str) -> Result<Command, CliError> {
    let program = std::env::current_exe().map_err(CliError::failed)?;
    let mut command = Command::new(program);
    command.args(["bench", name]);
    Ok(command)
}

/// Runs `command`, which is [`this_program`], with `--json` and reads the document that it writes,
/// also when a check did not hold.
pub(super) fn json_of<T: DeserializeOwned>(
    command: &mut Command,
    what: &str,
) -> Result<T, CliError> {
    let output = command
        .arg("--json")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| {
            let program = command.get_program().to_string_lossy();
            CliError::Failed(format!("cannot run `{program}` again: {error}"))
        })?;
    let code = output.status.code();
    if !output.status.success() && code != Some(i32::from(CHECK_FAILED)) {
        // That process has written its own message, unless the system ended it.
        let message = format!("the process of {what} ended with {}", output.status);
        return Err(if code == Some(i32::from(BAD_INPUT)) {
            CliError::Input(message)
        } else {
            CliError::Failed(message)
        });
    }
    serde_json::from_slice(&output.stdout).map_err(|error| {
        CliError::Failed(format!(
            "the process of {what} wrote no JSON document: {error}"
        ))
    })
}

/// Fixes the number of threads of a process that is to be started.
pub(super) fn set_threads(command: &mut Command, count: usize) {
    for variable in THREADS_VARIABLES {
        command.env(variable, count.to_string());
    }
}

/// How a process ends in which a check did not hold, and how one whose input is wrong.
const CHECK_FAILED: u8 = 1;
const BAD_INPUT: u8 = 2;

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use super::*;
    use crate::error::ExitStatus;

    #[test]
    fn the_exit_statuses_are_the_known_ones() {
        for (status, code) in [
            (ExitStatus::CheckFailed, CHECK_FAILED),
            (ExitStatus::BadInput, BAD_INPUT),
        ] {
            let (ours, known) = (ExitCode::from(status), ExitCode::from(code));
            assert_eq!(format!("{ours:?}"), format!("{known:?}"));
        }
    }
}
