//! The processes of a comparison, ours and those of Python libraries.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::subject::Order;
use super::{Row, Scenario};
use crate::bench::agreement::{Agreement, Answer, read_answer};
use crate::bench::statistics::median;
use crate::bench::threads;
use crate::cli::AidOptions;
use crate::error::CliError;

/// Holds an [`Order`] for a process that is to carry out that alone.
pub(super) const ORDER: &str = "MELTR_BENCH_AID_ORDER";

/// The line that says that the first hypergradient exists, as the scripts write it.
pub(super) const FIRST: &str = "FIRST";

/// Hypergradients that do not count.
pub(super) const WARM_UPS: usize = 3;

/// Step size of the Neumann series; the largest eigenvalue of the quadratic is 1.
pub(super) const ALPHA: f64 = 1.0;

/// What a side writes; whatever else a script adds is left aside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Document {
    pub(super) method: String,
    pub(super) package: String,
    pub(super) version: String,
    /// Of each counted hypergradient.
    pub(super) seconds: Vec<f64>,
    pub(super) peak_rss_bytes: Option<u64>,
}

/// A process to be started, and the file that its hypergradient will be in.
pub(super) struct Side {
    command: Command,
    output: PathBuf,
}

impl Side {
    /// All sides of a scenario with one number of products.
    pub(super) fn all(
        options: &AidOptions,
        scenario: &Scenario,
        products: usize,
    ) -> Result<Vec<Self>, CliError> {
        let output = scenario.data.with_extension("hypergradient.safetensors");
        let this = std::env::current_exe().map_err(CliError::failed)?;
        let mut sides = Vec::new();
        for method in scenario.ours {
            let order = Order {
                task: scenario.task,
                method,
                data: &scenario.data,
                products,
                repeats: options.repeats,
                output: &output,
            };
            let mut command = Command::new(&this);
            command
                .args(["bench", "aid", "--device", &options.device])
                .env(ORDER, order.to_text());
            sides.push(Self {
                command,
                output: output.clone(),
            });
        }
        let interpreters = [
            (&options.python, scenario.torch),
            (&options.jax_python, scenario.jax),
        ];
        for (python, methods) in interpreters {
            let Some(python) = python else { continue };
            for method in methods {
                let command =
                    scenario.peer(python, options, method, products, options.repeats, &output);
                sides.push(Self {
                    command,
                    output: output.clone(),
                });
            }
        }
        Ok(sides)
    }

    /// The same process as [`all`](Self::all) has for a method of a script, with other arguments
    /// at the end; its hypergradient is all that is wanted.
    pub(super) fn answer(mut command: Command, output: &Path) -> Result<Answer, CliError> {
        let ended = command
            .stdin(Stdio::null())
            .output()
            .map_err(CliError::failed)?;
        if !ended.status.success() {
            let message = String::from_utf8_lossy(&ended.stderr);
            let last = message.lines().last().unwrap_or("").to_owned();
            return Err(CliError::Failed(last));
        }
        read_answer(output, |_| true)
    }

    /// Runs the process to its end.
    pub(super) fn run(
        mut self,
        scenario: &Scenario,
        products: usize,
        answer: Option<&Answer>,
    ) -> Result<Row, CliError> {
        let shown = self.command.get_program().to_string_lossy().into_owned();
        let failed =
            |error: std::io::Error| CliError::Failed(format!("cannot run `{shown}`: {error}"));
        let started = Instant::now();
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                CliError::Input(format!(
                    "`{shown}` cannot be run: {error}; give --python and --jax-python \
                     interpreters that have the libraries"
                ))
            })?;
        let mut first = None;
        let mut messages = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).lines() {
                let line = line.map_err(failed)?;
                if line.trim() == FIRST && first.is_none() {
                    first = Some(started.elapsed().as_secs_f64());
                } else {
                    messages.push(line);
                }
            }
        }
        let mut text = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut text).map_err(failed)?;
        }
        let status = child.wait().map_err(failed)?;
        let (true, Some(first_seconds)) = (status.success(), first) else {
            return Err(CliError::Failed(format!(
                "`{shown}` ended with {status}: {}",
                messages.last().map_or("", String::as_str)
            )));
        };
        let document: Document = serde_json::from_str(&text).map_err(|error| {
            CliError::Failed(format!(
                "`{shown}` did not write the expected JSON: {error}"
            ))
        })?;
        let agreement = match answer {
            None => None,
            Some(answer) => {
                let found = read_answer(&self.output, |name| answer.contains_key(name))?;
                Some(Agreement::of(&found, answer)?)
            }
        };
        Ok(Row {
            scenario: scenario.label.clone(),
            products,
            first_seconds,
            warm_seconds: median(&document.seconds),
            relative_error: agreement.as_ref().and_then(|found| found.relative_error),
            cosine: agreement.as_ref().and_then(|found| found.cosine),
            document,
        })
    }
}

impl Scenario {
    /// One method of a Python library.
    pub(super) fn peer(
        &self,
        python: &Path,
        options: &AidOptions,
        method: &str,
        products: usize,
        repeats: usize,
        output: &Path,
    ) -> Command {
        let mut command = Command::new(python);
        command.arg(options.scripts.join(self.task.script()));
        command.args(["--method", method, "--data"]).arg(&self.data);
        command.args(self.peer_arguments);
        if self.task.takes_products() {
            command.args(["--products", &products.to_string()]);
            command.args(["--alpha", &ALPHA.to_string()]);
        }
        for (flag, value) in [
            ("--repeats", repeats.to_string()),
            ("--warmup", WARM_UPS.to_string()),
            ("--threads", threads().to_string()),
        ] {
            command.args([flag, &value]);
        }
        command.arg("--output").arg(output);
        command
    }
}
