//! `cargo xtask`: what a person types in a checkout. It starts cargo and the `meltr` binary, and
//! depends on no crate of ours.

mod assets;
mod bench;
mod ci;
mod devices;
mod files;
mod flags;
mod ledger;
mod lint;
mod process;
mod reference;
mod repro;
mod setup;
mod steps;
mod test;
mod tidy;

use std::process::ExitCode;

use crate::flags::{Parsed, Spec, UsageError};
use crate::process::Status;

/// A command: what it accepts and what it does.
struct Command {
    spec: &'static Spec,
    run: fn(&Parsed) -> anyhow::Result<Status>,
}

/// All commands, in the order of the overview.
const COMMANDS: &[Command] = &[
    Command {
        spec: &repro::SPEC,
        run: repro::run,
    },
    Command {
        spec: &ledger::SPEC,
        run: ledger::run,
    },
    Command {
        spec: &test::SPEC,
        run: test::run,
    },
    Command {
        spec: &lint::SPEC,
        run: lint::run,
    },
    Command {
        spec: &ci::SPEC,
        run: ci::run,
    },
    Command {
        spec: &tidy::SPEC,
        run: tidy::run,
    },
    Command {
        spec: &reference::SPEC,
        run: reference::run,
    },
    Command {
        spec: &bench::SPEC,
        run: bench::run,
    },
    Command {
        spec: &setup::SPEC,
        run: setup::run,
    },
    Command {
        spec: &assets::SPEC,
        run: assets::run,
    },
];

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let outcome = flags::utf8(args).and_then(|args| dispatch(&args));
    match outcome {
        Ok(status) => ExitCode::from(status.code()),
        Err(error) => {
            eprintln!("error: {error:#}");
            let code = if error.is::<UsageError>() {
                Status::WrongInput
            } else {
                Status::Failed
            };
            ExitCode::from(code.code())
        }
    }
}

fn dispatch(args: &[String]) -> anyhow::Result<Status> {
    let Some((name, rest)) = args.split_first() else {
        eprint!("{}", overview());
        return Ok(Status::WrongInput);
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        print!("{}", overview());
        return Ok(Status::Done);
    }
    let Some(command) = COMMANDS.iter().find(|command| command.spec.command == name) else {
        let known = COMMANDS.iter().map(|command| command.spec.command);
        return Err(UsageError::unknown("command", name, known).into());
    };
    let parsed = flags::parse(command.spec, rest)?;
    if parsed.help {
        print!("{}", command.spec.help());
        return Ok(Status::Done);
    }
    (command.run)(&parsed)
}

fn overview() -> String {
    let mut text = String::from("usage: cargo xtask COMMAND [FLAGS]\n\n");
    for command in COMMANDS {
        text += &format!("  {:<10} {}\n", command.spec.command, command.spec.summary);
    }
    text += "\n`cargo xtask COMMAND --help` shows the flags of a command and an example.\n";
    text += "exit status: 0 done, 1 a check did not hold, 2 wrong input, 3 something failed, ";
    text += "130 interrupted\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_own_name_and_an_example() {
        for (index, command) in COMMANDS.iter().enumerate() {
            let spec = command.spec;
            assert!(spec.example.starts_with("cargo xtask "), "{}", spec.command);
            assert!(spec.help().contains(spec.example));
            let later = &COMMANDS[index + 1..];
            assert!(later.iter().all(|other| other.spec.command != spec.command));
        }
    }

    #[test]
    fn an_unknown_command_suggests_the_nearest() {
        let error = dispatch(&["tset".to_owned()]).unwrap_err();
        assert!(error.is::<UsageError>());
        assert_eq!(
            error.to_string(),
            "unknown command `tset`; did you mean `test`?"
        );
    }

    #[test]
    fn no_command_is_wrong_input() {
        assert_eq!(dispatch(&[]).unwrap(), Status::WrongInput);
    }
}
