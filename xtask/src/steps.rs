//! A sequence of checks: runs them in order, stops at the first that does not hold, says how long
//! each took.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::process::{Status, shown, was_interrupted};

/// One finished step.
#[derive(Debug, Serialize)]
struct Step {
    name: String,
    seconds: f64,
    ok: bool,
}

/// Where the children's standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// To our standard output.
    Plain,
    /// To standard error, so that standard output holds one JSON document.
    Json,
}

impl Output {
    /// The choice that `--json` stands for.
    pub(crate) fn from_flag(json: bool) -> Self {
        if json { Self::Json } else { Self::Plain }
    }
}

/// A sequence of checks.
#[derive(Debug)]
pub(crate) struct Steps {
    output: Output,
    finished: Vec<Step>,
    status: Status,
}

impl Steps {
    /// An empty sequence.
    pub(crate) fn new(output: Output) -> Self {
        Self {
            output,
            finished: Vec::new(),
            status: Status::Done,
        }
    }

    /// Runs a child, unless an earlier step did not hold. Returns whether to go on.
    pub(crate) fn run(&mut self, mut command: Command) -> Result<bool> {
        if self.status != Status::Done {
            return Ok(false);
        }
        let name = shown(&command);
        eprintln!("> {name}");
        if self.output == Output::Json {
            command.stdout(Stdio::from(std::io::stderr()));
        }
        let start = Instant::now();
        let status = command
            .status()
            .with_context(|| format!("failed to start `{name}`"))?;
        self.finish(name, start, status.success());
        if was_interrupted(status) {
            self.status = Status::Interrupted;
        }
        Ok(self.status == Status::Done)
    }

    /// Runs a check of our own, unless an earlier step did not hold.
    pub(crate) fn check(
        &mut self,
        name: &str,
        check: impl FnOnce() -> Result<bool>,
    ) -> Result<bool> {
        if self.status != Status::Done {
            return Ok(false);
        }
        eprintln!("> {name}");
        let start = Instant::now();
        let ok = check()?;
        self.finish(name.to_owned(), start, ok);
        Ok(ok)
    }

    fn finish(&mut self, name: String, start: Instant, ok: bool) {
        self.finished.push(Step {
            name,
            seconds: start.elapsed().as_secs_f64(),
            ok,
        });
        if !ok {
            self.status = Status::CheckFailed;
        }
    }

    /// Prints the table of steps and returns how the sequence ended.
    pub(crate) fn report(self) -> Result<Status> {
        let ok = self.status == Status::Done;
        if self.output == Output::Json {
            let document = serde_json::json!({ "steps": self.finished, "ok": ok });
            println!("{}", serde_json::to_string_pretty(&document)?);
        }
        for step in &self.finished {
            let mark = if step.ok { "ok" } else { "FAILED" };
            eprintln!("{:>8.1} s  {mark:<6}  {}", step.seconds, step.name);
        }
        Ok(self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_runs_after_a_check_that_does_not_hold() {
        let mut steps = Steps::new(Output::Plain);
        assert!(steps.check("first", || Ok(true)).unwrap());
        assert!(!steps.check("second", || Ok(false)).unwrap());
        let mut ran = false;
        let third = steps.check("third", || {
            ran = true;
            Ok(true)
        });
        assert!(!third.unwrap());
        assert!(!ran);
        assert_eq!(steps.finished.len(), 2);
        assert_eq!(steps.report().unwrap(), Status::CheckFailed);
    }

    #[test]
    fn a_program_that_cannot_start_is_an_error() {
        let mut steps = Steps::new(Output::Plain);
        let error = steps
            .run(Command::new("no-program-has-this-name"))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to start `no-program-has-this-name`"
        );
    }
}
