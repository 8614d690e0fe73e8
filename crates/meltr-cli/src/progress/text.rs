//! Durations, rates, losses and shares in words.

use super::pace::TimeLeft;

/// A duration in at most two units.
pub(super) fn duration_text(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if minutes == 0 {
        format!("{seconds} s")
    } else if hours == 0 {
        format!("{minutes} min {:02} s", seconds % 60)
    } else if days == 0 {
        format!("{hours} h {:02} min", minutes % 60)
    } else {
        format!("{days} d {} h", hours % 24)
    }
}

/// How far a run is: step, share, loss, and rate and time left where they are known.
pub(super) fn step_text(
    taken: usize,
    n_iterations: usize,
    loss: f64,
    seconds_per_step: Option<f64>,
    left: Option<TimeLeft>,
) -> String {
    let mut text = format!(
        "step {taken}/{n_iterations} ({} %), loss {}",
        percent(taken, n_iterations),
        loss_text(loss)
    );
    if let Some(seconds) = seconds_per_step {
        text.push_str(&format!(", {}", rate_text(seconds)));
    }
    if let Some(left) = left {
        let duration = duration_text(left.seconds);
        let rest = if left.with_evaluations {
            ""
        } else {
            " + evaluation"
        };
        text.push_str(&format!(", {duration} left{rest}"));
    }
    text
}

/// How far the scoring of pairs is that has taken `seconds` so far.
pub(super) fn pairs_text(scored: usize, all: usize, seconds: f64) -> String {
    let text = format!("{scored} of {all} pairs ({} %)", percent(scored, all));
    if scored == 0 {
        return text;
    }
    let left = seconds / scored as f64 * all.saturating_sub(scored) as f64;
    format!("{text}, {} left", duration_text(left))
}

/// How far a sweep is.
pub(super) fn sweep_text(
    n_ended: usize,
    n_runs: usize,
    percent: usize,
    seconds_left: Option<f64>,
) -> String {
    let left = seconds_left.map_or_else(String::new, |seconds| {
        format!(", {} left", duration_text(seconds))
    });
    format!("{n_ended} of {n_runs} runs, {percent} %{left}")
}

/// The share in whole percent; 100 only if nothing is left.
pub(super) fn percent(done: usize, all: usize) -> usize {
    done.saturating_mul(100) / all.max(1)
}

fn rate_text(seconds: f64) -> String {
    if seconds < 0.1 {
        format!("{:.1} ms/step", 1e3 * seconds)
    } else if seconds < 10.0 {
        format!("{seconds:.2} s/step")
    } else {
        format!("{seconds:.0} s/step")
    }
}

fn loss_text(loss: f64) -> String {
    let size = loss.abs();
    if size == 0.0 || (0.01..1e5).contains(&size) {
        format!("{loss:.3}")
    } else {
        format!("{loss:.2e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_two_units_at_most() {
        for (seconds, text) in [
            (0.2, "0 s"),
            (59.4, "59 s"),
            (59.6, "1 min 00 s"),
            (270.0, "4 min 30 s"),
            (3599.0, "59 min 59 s"),
            (7500.0, "2 h 05 min"),
            (100_000.0, "1 d 3 h"),
        ] {
            assert_eq!(duration_text(seconds), text);
        }
    }

    #[test]
    fn a_step_tells_what_is_known() {
        assert_eq!(
            step_text(2, 1000, 3.2144, None, None),
            "step 2/1000 (0 %), loss 3.214"
        );
        let left = |with_evaluations| {
            Some(TimeLeft {
                seconds: 270.0,
                with_evaluations,
            })
        };
        assert_eq!(
            step_text(125, 1000, 3.2144, Some(0.31), left(true)),
            "step 125/1000 (12 %), loss 3.214, 0.31 s/step, 4 min 30 s left"
        );
        assert_eq!(
            step_text(999, 1000, 2e-5, Some(0.0123), left(false)),
            "step 999/1000 (99 %), loss 2.00e-5, 12.3 ms/step, 4 min 30 s left + evaluation"
        );
    }

    #[test]
    fn a_loss_keeps_digits_that_mean_something() {
        assert_eq!(loss_text(0.0), "0.000");
        assert_eq!(loss_text(-12.3456), "-12.346");
        assert_eq!(loss_text(0.000_123_4), "1.23e-4");
        assert_eq!(loss_text(f64::NAN), "NaN");
    }

    #[test]
    fn a_sweep_tells_runs_share_and_time() {
        assert_eq!(sweep_text(0, 9, 3, None), "0 of 9 runs, 3 %");
        assert_eq!(
            sweep_text(3, 9, 41, Some(130.0)),
            "3 of 9 runs, 41 %, 2 min 10 s left"
        );
        assert_eq!((percent(299, 300), percent(300, 300)), (99, 100));
        assert_eq!(percent(0, 0), 0);
    }

    #[test]
    fn pairs_tell_the_time_that_is_left_once_some_are_scored() {
        assert_eq!(pairs_text(0, 1000, 0.1), "0 of 1000 pairs (0 %)");
        assert_eq!(
            pairs_text(250, 1000, 30.0),
            "250 of 1000 pairs (25 %), 1 min 30 s left"
        );
    }

    #[test]
    fn slow_steps_need_no_fractions() {
        assert_eq!(rate_text(42.4), "42 s/step");
        assert_eq!(rate_text(1.234), "1.23 s/step");
    }
}
