//! How long the steps and evaluations of a run take, and what is left of it.

use std::collections::VecDeque;

/// Steps that the rate is taken from, the newest: several rounds of outer steps and audits.
const WINDOW: usize = 120;

/// Fewest steps that a rate is taken from.
const MIN_STEPS: usize = 3;

/// A step counts for so many medians at most, in case the machine was asleep in it. Outer steps
/// and audits, which recur, stay below that.
const OUTLIER: f64 = 50.0;

/// The time that the rest of a run will take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TimeLeft {
    pub(super) seconds: f64,
    /// Whether evaluations are in it; not before one was seen.
    pub(super) with_evaluations: bool,
}

/// The time of steps and evaluations, from the moments at which steps end.
///
/// The time up to the first step does not count: it holds what is done once.
#[derive(Debug)]
pub(super) struct Pace {
    /// Evaluations come after so many steps; 0 only at the end.
    eval_every: usize,
    /// Seconds of the newest steps.
    steps: VecDeque<f64>,
    /// Seconds of the newest evaluation.
    evaluation: Option<f64>,
    /// Steps taken, and the moment in seconds.
    last: Option<(usize, f64)>,
}

impl Pace {
    pub(super) fn new(eval_every: usize) -> Self {
        Self {
            eval_every,
            steps: VecDeque::with_capacity(WINDOW),
            // Evaluations after every step are told from none of them.
            evaluation: (eval_every == 1).then_some(0.0),
            last: None,
        }
    }

    /// A step ended at `moment`, in seconds from any origin; `taken` counts it.
    pub(super) fn step_ended(&mut self, taken: usize, moment: f64) {
        let Some((before, then)) = self.last.replace((taken, moment)) else {
            return;
        };
        let seconds = moment - then;
        if self.eval_every > 1 && before.is_multiple_of(self.eval_every) {
            if let Some(step) = self.seconds_per_step() {
                self.evaluation = Some((seconds - step).max(0.0));
            }
            return;
        }
        if self.steps.len() == WINDOW {
            self.steps.pop_front();
        }
        self.steps.push_back(seconds);
    }

    /// Mean time of a step, not before some were seen.
    pub(super) fn seconds_per_step(&self) -> Option<f64> {
        if self.steps.len() < MIN_STEPS {
            return None;
        }
        let mut sorted: Vec<f64> = self.steps.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let most = OUTLIER * sorted[sorted.len() / 2];
        let sum: f64 = sorted.iter().map(|seconds| seconds.min(most)).sum();
        Some(sum / sorted.len() as f64)
    }

    /// Time that is left of `n_iterations` steps and their evaluations, the last one included.
    pub(super) fn left(&self, n_iterations: usize) -> Option<TimeLeft> {
        let (taken, _) = self.last?;
        let step = self.seconds_per_step()?;
        let steps = n_iterations.saturating_sub(taken) as f64 * step;
        let n_evaluations = evaluations_left(taken, n_iterations, self.eval_every);
        Some(match self.evaluation {
            Some(evaluation) => TimeLeft {
                seconds: steps + n_evaluations as f64 * evaluation,
                with_evaluations: true,
            },
            None => TimeLeft {
                seconds: steps,
                with_evaluations: false,
            },
        })
    }
}

/// Evaluations that follow once `taken` steps are taken, that after the last step included.
fn evaluations_left(taken: usize, n_iterations: usize, eval_every: usize) -> usize {
    let passed = |steps: usize| match eval_every {
        0 => 0,
        every => steps.saturating_sub(1) / every,
    };
    1 + passed(n_iterations).saturating_sub(passed(taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pace after the steps `from..=to`, each of which takes as long as `seconds` says.
    fn after(eval_every: usize, from: usize, to: usize, seconds: impl Fn(usize) -> f64) -> Pace {
        let mut pace = Pace::new(eval_every);
        let mut moment = 1000.0;
        for taken in from..=to {
            moment += seconds(taken);
            pace.step_ended(taken, moment);
        }
        pace
    }

    #[test]
    fn the_first_steps_give_no_estimate() {
        for taken in 1..=MIN_STEPS {
            let pace = after(0, 1, taken, |_| 1.0);
            assert_eq!(pace.seconds_per_step(), None);
            assert_eq!(pace.left(100), None);
        }
        // The first one is slow, and does not count.
        let pace = after(0, 1, 4, |step| if step == 1 { 90.0 } else { 1.0 });
        assert_eq!(pace.seconds_per_step(), Some(1.0));
        assert_eq!(
            pace.left(100),
            Some(TimeLeft {
                seconds: 96.0,
                with_evaluations: false
            })
        );
    }

    #[test]
    fn evaluations_count_for_themselves() {
        // One second a step, five an evaluation, which comes before the next step.
        let seconds = |step: usize| if step % 10 == 1 { 6.0 } else { 1.0 };
        let pace = after(10, 1, 35, seconds);
        assert_eq!(pace.seconds_per_step(), Some(1.0));
        // 65 steps, evaluations after 40, 50, ..., 90 and at the end.
        assert_eq!(
            pace.left(100),
            Some(TimeLeft {
                seconds: 65.0 + 7.0 * 5.0,
                with_evaluations: true
            })
        );
    }

    #[test]
    fn an_evaluation_that_is_due_is_still_to_come() {
        assert_eq!(evaluations_left(40, 100, 10), 7);
        assert_eq!(evaluations_left(41, 100, 10), 6);
        assert_eq!(evaluations_left(100, 100, 10), 1);
        assert_eq!(evaluations_left(3, 100, 0), 1);
        assert_eq!(evaluations_left(98, 99, 10), 1);
    }

    #[test]
    fn evaluations_after_every_step_are_part_of_it() {
        let pace = after(1, 1, 10, |_| 2.0);
        assert_eq!(
            pace.left(20),
            Some(TimeLeft {
                seconds: 20.0,
                with_evaluations: true
            })
        );
    }

    #[test]
    fn steps_that_recur_count_in_full_and_a_pause_does_not() {
        let outer = after(0, 1, 200, |step| if step % 3 == 0 { 3.5 } else { 1.0 });
        assert_eq!(outer.seconds_per_step(), Some(5.5 / 3.0));
        let asleep = after(0, 1, 11, |step| if step == 5 { 3600.0 } else { 1.0 });
        assert_eq!(asleep.seconds_per_step(), Some((9.0 + OUTLIER) / 10.0));
    }

    #[test]
    fn a_run_that_goes_on_has_a_pace_of_its_own() {
        let pace = after(0, 71, 80, |step| if step == 71 { 500.0 } else { 0.5 });
        assert_eq!(pace.left(100).map(|left| left.seconds), Some(10.0));
    }
}
