//! Progress of runs and of evaluations on standard error, with the time that is left.

mod pace;
mod sweep;
mod text;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use meltr_train::{Progress, TrainConfig};

use crate::output::note;

use self::pace::Pace;
use self::text::{pairs_text, step_text};

pub(crate) use self::sweep::{SweepProgress, SweepRun};

/// Shortest and longest time between two lines.
const BETWEEN_LINES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// Progress of one run: a bar on a terminal, a line now and then otherwise.
pub(crate) struct RunProgress {
    /// Absent where there is no terminal.
    bar: Option<ProgressBar>,
    pace: Pace,
    started: Instant,
    /// Time of the last line, since `started`.
    last_line: Duration,
}

impl RunProgress {
    pub(crate) fn new(train: &TrainConfig) -> Self {
        Self {
            bar: bar(train.iterations),
            pace: Pace::new(train.eval_every),
            started: Instant::now(),
            last_line: Duration::ZERO,
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for RunProgress {
    fn step(&mut self, iteration: usize, n_iterations: usize, combined_loss: f64) {
        let elapsed = self.started.elapsed();
        self.pace.step_ended(iteration, elapsed.as_secs_f64());
        if self.bar.is_none() && !is_due(self.last_line, elapsed) {
            return;
        }
        let text = step_text(
            iteration,
            n_iterations,
            combined_loss,
            self.pace.seconds_per_step(),
            self.pace.left(n_iterations),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_message(text);
                bar.set_position(iteration as u64);
            }
            None => {
                note(&text);
                self.last_line = elapsed;
            }
        }
    }

    fn message(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }
}

/// Progress of an evaluation that scores pairs: a bar on a terminal, a line now and then otherwise.
///
/// Nothing is shown as long as nothing is told.
pub(crate) struct PairProgress {
    /// Absent where there is no terminal.
    bar: Option<ProgressBar>,
    /// When the first pair was about to be scored.
    started: Option<Instant>,
    /// Time of the last line, since `started`.
    last_line: Duration,
}

impl PairProgress {
    pub(crate) fn new() -> Self {
        Self {
            bar: bar(0),
            started: None,
            last_line: Duration::ZERO,
        }
    }

    /// So many pairs of `all` have a score.
    pub(crate) fn tell(&mut self, scored: usize, all: usize) {
        let elapsed = self.started.get_or_insert_with(Instant::now).elapsed();
        if self.bar.is_none() && !is_due(self.last_line, elapsed) {
            return;
        }
        let text = pairs_text(scored, all, elapsed.as_secs_f64());
        match &self.bar {
            Some(bar) => {
                bar.set_length(all as u64);
                bar.set_message(text);
                bar.set_position(scored as u64);
            }
            None => {
                note(&text);
                self.last_line = elapsed;
            }
        }
    }
}

impl Drop for PairProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar with a text behind it, if there is a terminal to show it.
fn bar(length: usize) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let target = ProgressDrawTarget::stderr();
    let bar = ProgressBar::with_draw_target(Some(length as u64), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:20} {wide_msg}") {
        bar.set_style(style);
    }
    Some(bar)
}

/// Whether it is time for a line, the last one having come at `last`.
///
/// A long run needs them less often: after a twentieth of the time that it has taken.
fn is_due(last: Duration, elapsed: Duration) -> bool {
    let (shortest, longest) = BETWEEN_LINES;
    elapsed.saturating_sub(last) >= (elapsed / 20).clamp(shortest, longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_every_ten_seconds_and_later_every_five_minutes() {
        let is_due =
            |last, elapsed| is_due(Duration::from_secs(last), Duration::from_secs(elapsed));
        assert!(!is_due(0, 9));
        assert!(is_due(0, 10));
        assert!(!is_due(1000, 1050));
        assert!(is_due(1000, 1053));
        assert!(!is_due(90_000, 90_299));
        assert!(is_due(90_000, 90_300));
    }
}
