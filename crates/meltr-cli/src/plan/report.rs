//! The plan as it is told.

use std::collections::BTreeMap;

use serde::Serialize;

use super::passes::{OuterPasses, Passes};
use super::trial::StepFacts;
use crate::output;

/// What is known of a run before it starts.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    pub(super) format_version: u32,
    pub(super) name: String,
    pub(super) title: String,
    pub(super) device: String,
    pub(super) combiner: String,
    /// In token order.
    pub(super) losses: Vec<String>,
    pub(super) primary: String,
    pub(super) parameters: Parameters,
    pub(super) steps: Steps,
    /// Items of each split that is evaluated.
    pub(super) evaluated_items: BTreeMap<String, usize>,
    pub(super) passes: PassTable,
    pub(super) memory: Memory,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) seconds: Seconds,
    pub(super) tried: Vec<Tried>,
    pub(super) notes: Vec<String>,
}

/// Learned values.
#[derive(Debug, Serialize)]
pub(super) struct Parameters {
    pub(super) backbone: usize,
    pub(super) parts: BTreeMap<String, usize>,
    pub(super) combiner: Option<usize>,
}

/// How many steps a run takes.
#[derive(Debug, Serialize)]
pub(super) struct Steps {
    pub(super) iterations: usize,
    /// Batches of an inner step.
    pub(super) accumulate: usize,
    pub(super) batch_size: usize,
    pub(super) train_items: usize,
    pub(super) batches_per_epoch: usize,
    pub(super) epochs: f64,
    pub(super) outer: Option<OuterSteps>,
}

/// How many outer steps a run takes.
#[derive(Debug, Serialize)]
pub(super) struct OuterSteps {
    /// Inner steps from one to the next.
    pub(super) every: usize,
    pub(super) steps: usize,
}

/// Passes over one batch each.
#[derive(Debug, Serialize)]
pub(super) struct PassTable {
    pub(super) inner: Passes,
    pub(super) outer: Option<OuterPasses>,
    pub(super) audit: Option<Audit>,
}

/// What an audit of a hypergradient adds.
#[derive(Debug, Serialize)]
pub(super) struct Audit {
    /// Outer steps from one to the next.
    pub(super) every: usize,
    pub(super) passes: Passes,
}

/// Resident memory of the process.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    /// Whether the steps were tried with `train.gradient_checkpointing`.
    pub(super) gradient_checkpointing: bool,
    /// Before the trials.
    pub(super) available_bytes: Option<u64>,
    /// While data and model are loaded.
    pub(super) loading_bytes: Option<u64>,
    pub(super) steps: Option<Measure>,
    pub(super) evaluation_bytes: Option<u64>,
    /// While a checkpoint with the states of the optimizers is written.
    pub(super) checkpoint_bytes: Option<u64>,
    /// The largest of what the run goes through.
    pub(super) peak_bytes: Option<u64>,
    pub(super) fits: Option<bool>,
    /// The largest batch that fits, if the configured one does not.
    pub(super) fitting_batch: Option<usize>,
}

/// What the steps take.
#[derive(Debug, Serialize)]
pub(super) struct Measure {
    pub(super) bytes: u64,
    pub(super) low_bytes: u64,
    pub(super) high_bytes: u64,
    /// With the batch of the experiment, not extrapolated.
    pub(super) measured: bool,
}

/// Files of a checkpoint.
#[derive(Debug, Serialize)]
pub(super) struct Checkpoint {
    /// After the last step: weights alone.
    pub(super) weight_bytes: u64,
    /// Between two steps: the states of the optimizers as well.
    pub(super) whole_bytes: u64,
}

/// Times; those of single steps, and what follows from them.
#[derive(Debug, Serialize)]
pub(super) struct Seconds {
    pub(super) loading: f64,
    pub(super) inner_step: Option<f64>,
    /// Without an audit.
    pub(super) outer_step: Option<f64>,
    /// All steps of the run.
    pub(super) training: Option<f64>,
    /// One evaluation of all its splits.
    pub(super) evaluation: Option<f64>,
    /// What this plan took.
    pub(super) trials: f64,
}

/// One trial.
#[derive(Debug, Serialize)]
pub(super) struct Tried {
    pub(super) batch_size: usize,
    pub(super) peak_bytes: Option<u64>,
    pub(super) inner_seconds: f64,
    pub(super) outer_seconds: Option<f64>,
}

impl Tried {
    pub(super) fn of(steps: &StepFacts) -> Self {
        Self {
            batch_size: steps.batch_size,
            peak_bytes: steps.peak_bytes,
            inner_seconds: steps.inner_seconds,
            outer_seconds: steps.outer.as_ref().map(|outer| outer.seconds),
        }
    }
}

impl Plan {
    /// Why the run should not be started like this, and what to do; `None` if it may.
    pub(super) fn refusal(&self) -> Option<String> {
        if self.memory.fits != Some(false) {
            return None;
        }
        let why = match (self.memory.peak_bytes, self.memory.available_bytes) {
            (Some(peak), Some(available)) => format!(
                "it takes {}, and {} are available",
                mebibytes(peak),
                mebibytes(available)
            ),
            _ => "a trial ran out of memory".to_owned(),
        };
        let recomputing = if self.memory.gradient_checkpointing {
            ""
        } else {
            "`train.gradient_checkpointing = true` (slower; another plan tells whether it is \
             enough), "
        };
        let batch = match self.memory.fitting_batch {
            Some(batch) => format!(
                "`task.batch_size = {batch}` with `train.accumulate = {}`",
                (self.steps.accumulate * self.steps.batch_size).div_ceil(batch.max(1))
            ),
            None => "a smaller `task.batch_size` with a larger `train.accumulate`".to_owned(),
        };
        Some(format!(
            "the run will not fit: {why}; take {recomputing}{batch} (losses that compare items \
             compare them within the smaller batches then), shorter texts or fewer frames in \
             [data.batches], or a smaller model"
        ))
    }

    /// Prints the plan for people.
    pub(super) fn print(&self) {
        for line in self.lines() {
            output::line(&line);
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("{}: {}", self.name, self.title),
            format!(
                "device {}, combiner {}, {} losses ({}), primary {}",
                self.device,
                self.combiner,
                self.losses.len(),
                self.losses.join(", "),
                self.primary
            ),
            String::new(),
        ];
        self.parameter_lines(&mut lines);
        self.step_lines(&mut lines);
        self.memory_lines(&mut lines);
        self.time_lines(&mut lines);
        if !self.notes.is_empty() {
            lines.push(String::new());
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines
    }

    fn parameter_lines(&self, lines: &mut Vec<String>) {
        let Parameters {
            backbone,
            parts,
            combiner,
        } = &self.parameters;
        lines.push("parameters".to_owned());
        lines.push(row("backbone", &grouped(*backbone)));
        for (part, size) in parts {
            lines.push(row(&format!("  {part}"), &grouped(*size)));
        }
        if let Some(size) = combiner {
            lines.push(row("combiner", &grouped(*size)));
        }
        lines.push(String::new());
    }

    fn step_lines(&self, lines: &mut Vec<String>) {
        let Steps {
            iterations,
            accumulate,
            batch_size,
            train_items,
            batches_per_epoch,
            epochs,
            outer,
        } = &self.steps;
        lines.push("steps".to_owned());
        let batches = if *accumulate == 1 {
            format!("a batch of {batch_size}")
        } else {
            format!("{accumulate} batches of {batch_size}")
        };
        lines.push(format!(
            "  {iterations} inner steps, each over {batches}: {epochs:.1} epochs of \
             {batches_per_epoch} batches ({train_items} items)"
        ));
        if let Some(OuterSteps { every, steps }) = outer {
            lines.push(format!(
                "  {steps} outer steps, one every {every} inner steps"
            ));
        }
        for (split, n_items) in &self.evaluated_items {
            lines.push(format!("  evaluated on the {n_items} items of `{split}`"));
        }
        lines.push(String::new());
        lines.push(
            "passes over a batch       forward  with tangents  forward and backward".to_owned(),
        );
        let mut push = |name: &str, passes: Passes| {
            lines.push(format!(
                "  {name:<22}  {:>7}  {:>13}  {:>20}",
                passes.forward, passes.with_tangents, passes.with_backward
            ));
        };
        push("inner step", self.passes.inner);
        if let Some(outer) = &self.passes.outer {
            push(&format!("outer step ({})", outer.estimator), outer.passes);
        }
        if let Some(audit) = &self.passes.audit {
            push(
                &format!("audit, 1 in {} of them", audit.every),
                audit.passes,
            );
        }
        lines.push(String::new());
    }

    fn memory_lines(&self, lines: &mut Vec<String>) {
        let memory = &self.memory;
        let recomputing = if memory.gradient_checkpointing {
            ", with gradient checkpointing"
        } else {
            ""
        };
        lines.push(format!("memory of the process{recomputing}"));
        let mut push = |name: &str, bytes: Option<u64>, about: &str| {
            if let Some(bytes) = bytes {
                let line = row(name, &mebibytes(bytes));
                lines.push(format!("{line}{about}"));
            }
        };
        push("loading", memory.loading_bytes, "");
        if let Some(steps) = &memory.steps {
            let about = if steps.measured {
                format!("  measured with batches of {}", self.steps.batch_size)
            } else {
                let tried: Vec<String> = self
                    .tried
                    .iter()
                    .map(|tried| tried.batch_size.to_string())
                    .collect();
                format!(
                    "  extrapolated from batches of {}; between {} and {}",
                    tried.join(", "),
                    mebibytes(steps.low_bytes),
                    mebibytes(steps.high_bytes)
                )
            };
            push("steps", Some(steps.bytes), &about);
        }
        push("evaluation", memory.evaluation_bytes, "");
        push(
            "checkpoint",
            memory.checkpoint_bytes,
            "  with optimizer states: between steps and on an interrupt",
        );
        let verdict = match memory.fits {
            Some(true) => "  fits",
            Some(false) => "  does not fit",
            None => "",
        };
        push("peak", memory.peak_bytes, verdict);
        push("available", memory.available_bytes, "");
        lines.push(String::new());
        if let Some(checkpoint) = &self.checkpoint {
            lines.push(format!(
                "a checkpoint on the disk: {}, between steps {}",
                mebibytes(checkpoint.weight_bytes),
                mebibytes(checkpoint.whole_bytes)
            ));
            lines.push(String::new());
        }
    }

    fn time_lines(&self, lines: &mut Vec<String>) {
        lines.push("time, from single steps".to_owned());
        let mut push = |name: &str, seconds: Option<f64>| {
            if let Some(seconds) = seconds {
                lines.push(row(name, &duration(seconds)));
            }
        };
        push("loading", Some(self.seconds.loading));
        push("inner step", self.seconds.inner_step);
        push("outer step", self.seconds.outer_step);
        push("all steps", self.seconds.training);
        push("one evaluation", self.seconds.evaluation);
        push("this plan", Some(self.seconds.trials));
    }
}

/// A name and a number, both in columns.
fn row(name: &str, value: &str) -> String {
    format!("  {name:<22}{value:>14}")
}

/// A count with its digits in threes.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

fn duration(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.2} s")
    } else if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.1} h", seconds / 3600.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(peak: Option<u64>, fits: Option<bool>) -> Plan {
        Plan {
            format_version: 1,
            name: "univl/clips".to_owned(),
            title: "clips".to_owned(),
            device: "flex".to_owned(),
            combiner: "meltr".to_owned(),
            losses: vec!["joint".to_owned(), "align".to_owned()],
            primary: "align".to_owned(),
            parameters: Parameters {
                backbone: 1_234_567,
                parts: BTreeMap::from([("bert".to_owned(), 1_234_567)]),
                combiner: Some(890),
            },
            steps: Steps {
                iterations: 85,
                accumulate: 1,
                batch_size: 32,
                train_items: 572,
                batches_per_epoch: 17,
                epochs: 5.0,
                outer: Some(OuterSteps {
                    every: 3,
                    steps: 29,
                }),
            },
            evaluated_items: BTreeMap::from([("test".to_owned(), 127)]),
            passes: PassTable {
                inner: Passes {
                    with_backward: 1,
                    ..Passes::default()
                },
                outer: Some(OuterPasses {
                    estimator: "identity".to_owned(),
                    product: "forward_mode".to_owned(),
                    passes: Passes {
                        forward: 0,
                        with_tangents: 1,
                        with_backward: 1,
                    },
                }),
                audit: None,
            },
            memory: Memory {
                gradient_checkpointing: false,
                available_bytes: Some(4 << 30),
                loading_bytes: Some(100 << 20),
                steps: peak.map(|bytes| Measure {
                    bytes,
                    low_bytes: bytes,
                    high_bytes: bytes,
                    measured: true,
                }),
                evaluation_bytes: None,
                checkpoint_bytes: None,
                peak_bytes: peak,
                fits,
                fitting_batch: Some(8),
            },
            checkpoint: None,
            seconds: Seconds {
                loading: 1.0,
                inner_step: Some(0.5),
                outer_step: Some(0.25),
                training: Some(50.0),
                evaluation: None,
                trials: 9.0,
            },
            tried: Vec::new(),
            notes: vec!["the evaluation is not included".to_owned()],
        }
    }

    #[test]
    fn a_run_that_does_not_fit_is_refused_with_what_would() {
        assert_eq!(plan(Some(1 << 30), Some(true)).refusal(), None);
        assert_eq!(plan(None, None).refusal(), None);
        let refusal = plan(Some(8 << 30), Some(false)).refusal().unwrap();
        assert!(
            refusal.contains("8192 MiB") && refusal.contains("4096 MiB"),
            "{refusal}"
        );
        assert!(
            refusal.contains("`task.batch_size = 8` with `train.accumulate = 4`"),
            "{refusal}"
        );
    }

    #[test]
    fn gradient_checkpointing_is_a_remedy_where_it_is_off_and_told_where_it_is_on() {
        const KEY: &str = "`train.gradient_checkpointing = true`";
        const TOLD: &str = "with gradient checkpointing";
        let mut plan = plan(Some(8 << 30), Some(false));
        assert!(plan.refusal().unwrap().contains(KEY));
        assert!(!plan.lines().join("\n").contains(TOLD));
        plan.memory.gradient_checkpointing = true;
        let refusal = plan.refusal().unwrap();
        assert!(!refusal.contains(KEY), "{refusal}");
        assert!(refusal.contains("take `task.batch_size"), "{refusal}");
        assert!(plan.lines().join("\n").contains(TOLD));
    }

    #[test]
    fn people_read_every_part_of_a_plan() {
        let text = plan(Some(1 << 30), Some(true)).lines().join("\n");
        for part in [
            "1,234,567",
            "85 inner steps, each over a batch of 32: 5.0 epochs of 17 batches (572 items)",
            "29 outer steps, one every 3 inner steps",
            "outer step (identity)",
            "1024 MiB  measured with batches of 32",
            "1024 MiB  fits",
            "0.50 s",
            "note: the evaluation is not included",
        ] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(199_535_989), "199,535,989");
        assert_eq!(duration(1.234), "1.23 s");
        assert_eq!(duration(600.0), "10 min");
        assert_eq!(duration(9000.0), "2.5 h");
    }
}
