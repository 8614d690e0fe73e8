//! Progress of many runs, each of them a process of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use meltr_train::Run;

use crate::output::note;

use super::text::{duration_text, percent, sweep_text};

/// Time between two looks at the logs of the runs.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Fewest steps that the rate of a run under way is taken from.
const MIN_STEPS: usize = 3;

/// A run that is to be started.
#[derive(Debug)]
pub(crate) struct SweepRun {
    /// Where it logs its steps.
    pub(crate) directory: PathBuf,
    /// A step of one kind takes about as long in every run of it.
    pub(crate) kind: String,
    /// Inner steps that it has when it ends.
    pub(crate) iterations: usize,
}

/// Progress of several runs: a bar on a terminal; the lines about runs tell the time that is left.
///
/// The runs are not asked: their logs tell how many steps they have taken.
pub(crate) struct SweepProgress {
    shared: Arc<Shared>,
    /// Keeps the thread that draws the bar.
    _drawing: Option<Sender<()>>,
}

struct Shared {
    sweep: Mutex<Sweep>,
    /// Absent where there is no terminal.
    bar: Option<ProgressBar>,
    started: Instant,
}

impl SweepProgress {
    /// Progress of `runs`, of which `n_workers` are under way at a time.
    pub(crate) fn new(runs: Vec<SweepRun>, n_workers: usize) -> Self {
        let n_steps = runs.iter().map(|run| run.iterations).sum();
        let shared = Arc::new(Shared {
            sweep: Mutex::new(Sweep::new(runs, n_workers)),
            bar: super::bar(n_steps),
            started: Instant::now(),
        });
        let drawing = shared.bar.is_some().then(|| {
            let (sender, receiver) = mpsc::channel();
            let shared = Arc::clone(&shared);
            // It ends when the sender is dropped.
            thread::spawn(move || {
                while receiver.recv_timeout(BETWEEN_LOOKS) == Err(RecvTimeoutError::Timeout) {
                    shared.draw();
                }
            });
            sender
        });
        Self {
            shared,
            _drawing: drawing,
        }
    }

    /// The run at this place is being started.
    pub(crate) fn started(&self, index: usize) {
        let moment = self.shared.moment();
        self.shared.lock().start(index, moment);
    }

    /// The run at this place has ended.
    pub(crate) fn ended(&self, index: usize) {
        let moment = self.shared.moment();
        let mut sweep = self.shared.lock();
        sweep.end(index, moment);
        sweep.look(moment);
    }

    /// A line about a run, with the time that is left for the others.
    pub(crate) fn line(&self, text: &str) {
        let left = self.shared.lock().seconds_left();
        let text = match left {
            Some(seconds) if seconds > 0.0 => format!("{text}; {} left", duration_text(seconds)),
            _ => text.to_owned(),
        };
        match &self.shared.bar {
            Some(bar) => bar.suspend(|| note(&text)),
            None => note(&text),
        }
    }
}

impl Drop for SweepProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.shared.bar {
            bar.finish_and_clear();
        }
    }
}

impl Shared {
    fn moment(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn lock(&self) -> MutexGuard<'_, Sweep> {
        self.sweep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self) {
        let moment = self.moment();
        let (taken, text) = {
            let mut sweep = self.lock();
            sweep.look(moment);
            (sweep.steps_taken(), sweep.text())
        };
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.set_position(taken as u64);
        }
    }
}

/// How far each run is, and what follows for the time.
#[derive(Debug)]
struct Sweep {
    runs: Vec<(SweepRun, Stage)>,
    n_workers: usize,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Waiting,
    Running {
        /// The look before the run was started; it may have taken steps before.
        start: Look,
        /// The first look that found another number of steps: preparations are over.
        first: Option<Look>,
        /// The newest one that did.
        latest: Look,
    },
    Ended {
        seconds: f64,
        /// Steps taken in that time.
        steps: usize,
    },
}

/// What a look at the log of a run found.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// In seconds.
    moment: f64,
    /// Steps taken.
    taken: usize,
}

impl Sweep {
    fn new(runs: Vec<SweepRun>, n_workers: usize) -> Self {
        Self {
            runs: runs.into_iter().map(|run| (run, Stage::Waiting)).collect(),
            n_workers: n_workers.max(1),
        }
    }

    fn start(&mut self, index: usize, moment: f64) {
        if let Some((run, stage)) = self.runs.get_mut(index) {
            let look = Look {
                moment,
                taken: Run::last_iteration(&run.directory).unwrap_or(0),
            };
            *stage = Stage::Running {
                start: look,
                first: None,
                latest: look,
            };
        }
    }

    fn end(&mut self, index: usize, moment: f64) {
        if let Some((run, stage)) = self.runs.get_mut(index)
            && let Stage::Running { start, .. } = *stage
        {
            *stage = Stage::Ended {
                seconds: moment - start.moment,
                steps: run.iterations.saturating_sub(start.taken).max(1),
            };
        }
    }

    /// Looks at the logs of the runs under way.
    fn look(&mut self, moment: f64) {
        for (run, stage) in &mut self.runs {
            let Stage::Running { first, latest, .. } = stage else {
                continue;
            };
            let Some(taken) = Run::last_iteration(&run.directory) else {
                continue;
            };
            if taken == latest.taken {
                continue;
            }
            *latest = Look { moment, taken };
            // A run that goes on steps back to its checkpoint first.
            if first.is_none_or(|first| taken < first.taken) {
                *first = Some(*latest);
            }
        }
    }

    fn steps_taken(&self) -> usize {
        self.runs
            .iter()
            .map(|(run, stage)| match stage {
                Stage::Waiting => 0,
                Stage::Running { latest, .. } => latest.taken.min(run.iterations),
                Stage::Ended { .. } => run.iterations,
            })
            .sum()
    }

    fn text(&self) -> String {
        let is_ended = |(_, stage): &&(SweepRun, Stage)| matches!(stage, Stage::Ended { .. });
        let n_steps = self.runs.iter().map(|(run, _)| run.iterations).sum();
        sweep_text(
            self.runs.iter().filter(is_ended).count(),
            self.runs.len(),
            percent(self.steps_taken(), n_steps),
            self.seconds_left(),
        )
    }

    /// Seconds a step of each kind: from runs that have ended, or else from those under way.
    fn seconds_per_step(&self) -> BTreeMap<&str, f64> {
        let mut under_way: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
        let mut ended = BTreeMap::new();
        for (run, stage) in &self.runs {
            let (sums, seconds, steps) = match *stage {
                Stage::Waiting => continue,
                Stage::Running { first, latest, .. } => match first {
                    Some(first) if latest.taken >= first.taken + MIN_STEPS => (
                        &mut under_way,
                        latest.moment - first.moment,
                        latest.taken - first.taken,
                    ),
                    _ => continue,
                },
                Stage::Ended { seconds, steps } => (&mut ended, seconds, steps),
            };
            let sum = sums.entry(run.kind.as_str()).or_insert((0.0, 0));
            sum.0 += seconds;
            sum.1 += steps;
        }
        under_way.extend(ended);
        under_way
            .into_iter()
            .map(|(kind, (seconds, steps))| (kind, seconds / steps as f64))
            .collect()
    }

    /// Time that is left; `None` until something is known of it.
    ///
    /// Of a kind that no run was of so far it is taken that its steps are as slow as the slowest
    /// known ones: sweeps start with those that take longest.
    fn seconds_left(&self) -> Option<f64> {
        let known = self.seconds_per_step();
        let slowest = known.values().copied().reduce(f64::max)?;
        let (mut all, mut longest) = (0.0, 0.0_f64);
        for (run, stage) in &self.runs {
            let steps = match stage {
                Stage::Waiting => run.iterations,
                Stage::Running { latest, .. } => run.iterations.saturating_sub(latest.taken),
                Stage::Ended { .. } => 0,
            };
            let rate = known.get(run.kind.as_str()).copied().unwrap_or(slowest);
            let seconds = steps as f64 * rate;
            all += seconds;
            longest = longest.max(seconds);
        }
        Some(longest.max(all / self.n_workers as f64))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Two runs of either kind, of 100 steps each.
    fn sweep(folder: &Path) -> Sweep {
        let runs = ["slow", "slow", "fast", "fast"]
            .into_iter()
            .enumerate()
            .map(|(index, kind)| SweepRun {
                directory: folder.join(index.to_string()),
                kind: kind.to_owned(),
                iterations: 100,
            })
            .collect();
        Sweep::new(runs, 2)
    }

    /// Puts a log with so many steps into the directory of a run.
    fn log(sweep: &Sweep, index: usize, steps: usize) {
        let directory = &sweep.runs[index].0.directory;
        fs::create_dir_all(directory).unwrap();
        let line = format!("{{\"kind\":\"train\",\"iteration\":{steps}}}\n");
        fs::write(directory.join("metrics.jsonl"), line).unwrap();
    }

    #[test]
    fn nothing_is_said_of_the_time_before_steps_were_seen() {
        let folder = tempfile::tempdir().unwrap();
        let mut sweep = sweep(folder.path());
        assert_eq!(sweep.seconds_left(), None);
        sweep.start(0, 0.0);
        sweep.look(5.0);
        assert_eq!(sweep.text(), "0 of 4 runs, 0 %");
        // Twenty seconds of preparation are no step.
        log(&sweep, 0, 1);
        sweep.look(20.0);
        assert_eq!(sweep.seconds_left(), None);
        log(&sweep, 0, 5);
        sweep.look(24.0);
        // A second a step for all, as nothing else is known: 395 on two workers.
        assert_eq!(sweep.seconds_left(), Some(197.5));
        assert_eq!(sweep.text(), "0 of 4 runs, 1 %, 3 min 18 s left");
    }

    #[test]
    fn runs_that_have_ended_tell_how_long_their_kind_takes() {
        let folder = tempfile::tempdir().unwrap();
        let mut sweep = sweep(folder.path());
        for index in 0..2 {
            sweep.start(index, 0.0);
            sweep.end(index, 200.0);
        }
        // The fast ones are not known yet.
        assert_eq!(sweep.seconds_left(), Some(200.0));
        sweep.start(2, 200.0);
        sweep.end(2, 250.0);
        sweep.start(3, 200.0);
        log(&sweep, 3, 40);
        sweep.look(250.0);
        assert_eq!(sweep.seconds_left(), Some(30.0));
        assert_eq!(sweep.steps_taken(), 340);
        sweep.end(3, 280.0);
        assert_eq!(sweep.text(), "4 of 4 runs, 100 %, 0 s left");
    }

    #[test]
    fn a_run_that_goes_on_is_measured_from_where_it_steps_back_to() {
        let folder = tempfile::tempdir().unwrap();
        let mut sweep = sweep(folder.path());
        log(&sweep, 0, 60);
        sweep.start(0, 0.0);
        log(&sweep, 0, 50);
        sweep.look(10.0);
        log(&sweep, 0, 55);
        sweep.look(20.0);
        assert_eq!(sweep.seconds_per_step()["slow"], 2.0);
        // The rest of it alone takes longer than a half of everything if nothing else is left.
        for index in 1..4 {
            sweep.start(index, 0.0);
            sweep.end(index, 100.0);
        }
        assert_eq!(sweep.seconds_left(), Some(45.0));
    }

    #[test]
    fn the_longest_run_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut sweep = sweep(folder.path());
        for index in [0, 2, 3] {
            sweep.start(index, 0.0);
            sweep.end(index, 100.0);
        }
        assert_eq!(sweep.seconds_left(), Some(100.0));
    }
}
