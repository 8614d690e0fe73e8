//! The one place that prints.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use meltr_train::Progress;
use serde::Serialize;

use crate::error::CliError;

/// A line of results on standard output; a closed pipe is no error.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// One JSON document on standard output.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(CliError::failed)?;
    line(&text);
    Ok(())
}

/// A line of progress or advice on standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The message of an error on standard error.
pub(crate) fn error(error: &CliError) {
    note(&format!("error: {error}"));
}

/// Progress of a run: a bar on a terminal, a line now and then otherwise.
pub(crate) struct RunProgress {
    bar: ProgressBar,
    last_line: Instant,
}

impl RunProgress {
    pub(crate) fn new(n_iterations: usize) -> Self {
        let bar =
            ProgressBar::with_draw_target(Some(n_iterations as u64), ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {eta} left, loss {msg}")
        {
            bar.set_style(style);
        }
        Self {
            bar,
            last_line: Instant::now(),
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for RunProgress {
    fn step(&mut self, iteration: usize, n_iterations: usize, combined_loss: f64) {
        self.bar.set_message(format!("{combined_loss:.3}"));
        self.bar.set_position(iteration as u64);
        let due = self.last_line.elapsed() > Duration::from_secs(10);
        if !std::io::stderr().is_terminal() && due {
            note(&format!(
                "step {iteration}/{n_iterations}, loss {combined_loss:.3}"
            ));
            self.last_line = Instant::now();
        }
    }

    fn message(&mut self, text: &str) {
        self.bar.suspend(|| note(text));
    }
}
