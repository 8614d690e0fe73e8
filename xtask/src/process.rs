//! Child processes: where they run, how their end becomes our exit status.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Everything asked for was done.
    Done,
    /// A check did not hold.
    CheckFailed,
    /// The command line cannot be followed.
    WrongInput,
    /// Something failed on the way.
    Failed,
    /// A child was interrupted.
    Interrupted,
    /// The exit status of the `meltr` binary, which follows the same table.
    Forwarded(u8),
}

impl Status {
    /// The exit status of this program.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::CheckFailed => 1,
            Self::WrongInput => 2,
            Self::Failed => 3,
            Self::Interrupted => 130,
            Self::Forwarded(code) => code,
        }
    }

    /// Forwards how a child ended.
    pub(crate) fn forward(status: ExitStatus) -> Self {
        if was_interrupted(status) {
            return Self::Interrupted;
        }
        match status.code().map(u8::try_from) {
            Some(Ok(0)) => Self::Done,
            Some(Ok(code)) => Self::Forwarded(code),
            _ => Self::Failed,
        }
    }
}

/// Whether a child ended on an interrupt, by the signal or by its exit status.
pub(crate) fn was_interrupted(status: ExitStatus) -> bool {
    const SIGINT: i32 = 2;
    status.code() == Some(130) || signal(status) == Some(SIGINT)
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_status: ExitStatus) -> Option<i32> {
    None
}

/// The root of the workspace: cargo tells where this package lies when it runs it.
pub(crate) fn workspace_root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Cargo, started in the root of the workspace as a shell would start it.
///
/// It is not told what cargo tells this program of its own package: build scripts that read these
/// variables, such as that of `ring`, would run again for every change between `cargo build` and
/// `cargo xtask`, and all that depends on them would be compiled again.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.args(args).current_dir(workspace_root());
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_a_package(name)) {
        command.env_remove(name);
    }
    command
}

/// Whether cargo sets a variable to tell a program of its package.
fn is_of_a_package(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

/// The folder that release builds go to.
pub(crate) fn release_dir() -> PathBuf {
    let root = workspace_root();
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    // A relative CARGO_TARGET_DIR is relative to where cargo runs, which is the root.
    root.join(target).join("release")
}

/// Builds the `meltr` binary in release mode and returns a command that starts it in the root.
pub(crate) fn meltr(features: Option<&str>) -> Result<Command> {
    let binary = build_meltr(features)?;
    Ok(in_root(&binary))
}

/// Builds the `meltr` binary in release mode and returns where it lies.
pub(crate) fn build_meltr(features: Option<&str>) -> Result<PathBuf> {
    let mut build = cargo(&["build", "--release", "--package", "meltr-cli"]);
    if let Some(features) = features {
        build.args(["--features", features]);
    }
    let status = build
        .status()
        .with_context(|| format!("failed to start `{}`", shown(&build)))?;
    if !status.success() {
        bail!("`{}` did not succeed", shown(&build));
    }
    Ok(release_dir().join(format!("meltr{}", env::consts::EXE_SUFFIX)))
}

/// A command that starts a program in the root of the workspace.
pub(crate) fn in_root(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace_root());
    command
}

/// Starts a child, waits for it and forwards its exit status.
pub(crate) fn wait(mut command: Command) -> Result<Status> {
    let name = shown(&command);
    eprintln!("> {name}");
    let status = command
        .status()
        .with_context(|| format!("failed to start `{name}`"))?;
    Ok(Status::forward(status))
}

/// Replaces this process by `command` where the system can, so that signals and the exit status
/// are the child's own; elsewhere waits for it and forwards its exit status.
pub(crate) fn hand_over(mut command: Command) -> Result<Status> {
    eprintln!("> {}", shown(&command));
    replace(&mut command).with_context(|| format!("failed to start `{}`", shown(&command)))
}

#[cfg(unix)]
fn replace(command: &mut Command) -> std::io::Result<Status> {
    Err(std::os::unix::process::CommandExt::exec(command))
}

#[cfg(not(unix))]
fn replace(command: &mut Command) -> std::io::Result<Status> {
    command.status().map(Status::forward)
}

/// A path that the user typed, as children see it, which run in the root of the workspace.
pub(crate) fn user_path(path: &str) -> PathBuf {
    match env::current_dir() {
        Ok(here) if here != workspace_root() => here.join(path),
        _ => PathBuf::from(path),
    }
}

/// Whether a program is on the search path.
pub(crate) fn is_installed(program: &str) -> bool {
    let file = format!("{program}{}", env::consts::EXE_SUFFIX);
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(&file).is_file()))
}

/// A command line as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_stem().unwrap_or(program.as_os_str());
    let mut text = name.to_string_lossy().into_owned();
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        if arg.contains(char::is_whitespace) {
            text += &format!(" '{arg}'");
        } else {
            text += &format!(" {arg}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_lock_file() {
        assert!(workspace_root().join("Cargo.lock").is_file());
    }

    #[test]
    fn cargo_is_not_told_of_the_package_that_starts_it() {
        // A test is such a package too.
        assert!(env::var_os("CARGO_PKG_NAME").is_some());
        let command = cargo(&["build"]);
        let changes: Vec<_> = command.get_envs().collect();
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"] {
            assert!(changes.contains(&(OsStr::new(name), None)), "{name}");
        }
        assert!(!is_of_a_package(OsStr::new("CARGO_TARGET_DIR")));
    }

    #[test]
    fn exit_statuses_follow_the_table() {
        let statuses = [
            (Status::Done, 0),
            (Status::CheckFailed, 1),
            (Status::WrongInput, 2),
            (Status::Failed, 3),
            (Status::Interrupted, 130),
            (Status::Forwarded(1), 1),
        ];
        for (status, code) in statuses {
            assert_eq!(status.code(), code);
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_end_of_a_child_is_forwarded() {
        use std::os::unix::process::ExitStatusExt;
        let ended = |code: i32| ExitStatus::from_raw(code << 8);
        assert_eq!(Status::forward(ended(0)), Status::Done);
        assert_eq!(Status::forward(ended(2)), Status::Forwarded(2));
        assert_eq!(Status::forward(ended(130)), Status::Interrupted);
        assert_eq!(
            Status::forward(ExitStatus::from_raw(2)),
            Status::Interrupted
        );
        assert_eq!(Status::forward(ExitStatus::from_raw(9)), Status::Failed);
    }

    #[test]
    fn a_child_that_cannot_be_started_is_named() {
        let error = wait(in_root(Path::new("no-program-has-this-name"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to start `no-program-has-this-name`"
        );
    }

    #[test]
    fn a_command_line_is_shown_without_its_folder() {
        let mut command = Command::new(Path::new("target").join("release").join("meltr"));
        command.args(["repro", "a b"]);
        assert_eq!(shown(&command), "meltr repro 'a b'");
    }

    #[test]
    fn a_program_that_does_not_exist_is_not_installed() {
        assert!(!is_installed("no-program-has-this-name"));
    }
}
