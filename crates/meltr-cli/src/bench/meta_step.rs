//! `meltr bench meta-step`: plain multi-task steps against the inner and outer steps of MELTR.
//!
//! With `--python` the outer step is compared with PyTorch instead, see `meta_step_peer`.
//!
//! All variants run in one process on the same batches, one after the other in every repetition,
//! so that a drift of the machine reaches all of them alike; the slow reverse passes take part in
//! one repetition out of three. The peak of the resident memory never falls within a process, so
//! each variant has it measured in a process of its own: this program again, told by an environment
//! variable which one to run.

use std::process::{Command, Stdio};

use burn::tensor::Device;
use meltr_data::EmojiClips;
use meltr_models::UniVlConfig;
use meltr_train::{StartOfPhi, peak_memory_bytes};
use serde::{Deserialize, Serialize};

use super::meta_step_peer;
use super::meta_subject::{OUTER_EVERY, Subject, Taken, Variant, losses, model_config};
use super::statistics::median;
use super::text_table::TextTable;
use super::{BURN_VERSION, mebibytes, require_nonzero, threads};
use crate::cli::MetaStepOptions;
use crate::device;
use crate::error::CliError;
use crate::output;

/// Names a variant and a number of losses, as `outer_difference:8`, for a process that runs these
/// alone.
const ONLY: &str = "MELTR_BENCH_ONLY";

/// Numbers of losses.
const N_LOSSES: [usize; 3] = [2, 4, 8];

/// Counted rounds and pairs in a batch, unless options say otherwise.
const REPEATS: usize = 15;
const BATCH: usize = 32;

/// Rounds that do not count.
const WARM_UPS: usize = 1;

/// Rounds for each one in which the slow reverse passes are timed.
const REVERSE_EVERY: usize = 3;

/// Rounds of a process that measures memory.
const MEMORY_ROUNDS: usize = 2;

/// Rounds at most whose hypergradients are compared with exact ones.
const AUDITS: usize = 3;

/// MELTR training is to cost at most so many times what plain multi-task training costs.
const COST_TARGET: f64 = 1.6;

/// Largest relative error of a hypergradient.
const ERROR_TARGET: f64 = 1e-3;

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    meltr: &'static str,
    burn: &'static str,
    device: String,
    threads: usize,
    model: UniVlConfig,
    batch_size: usize,
    repeats: usize,
    warm_ups: usize,
    /// Inner steps for each outer step.
    outer_every: usize,
    /// Rounds for each one in which reverse passes are timed.
    reverse_every: usize,
    targets: Targets,
    by_losses: Vec<Measured>,
    growth: Growth,
}

#[derive(Debug, Serialize)]
struct Targets {
    relative_cost_at_most: f64,
    hypergradient_error_at_most: f64,
}

/// What was measured for one number of losses.
#[derive(Debug, Serialize)]
struct Measured {
    n_losses: usize,
    losses: Vec<&'static str>,
    steps: Vec<StepCost>,
    /// Memory of a process that has loaded data and model and taken no step.
    loaded_memory_bytes: Option<u64>,
    /// Peak memory of MELTR training, inner and outer steps.
    training_memory_bytes: Option<u64>,
    /// The same, relative to the plain inner step.
    relative_memory: Option<f64>,
    /// Seconds of MELTR training by those of plain multi-task training; median over rounds.
    relative_cost: f64,
    /// The same from the medians of the steps.
    relative_cost_of_medians: f64,
    /// The same with a central difference instead of forward mode; median over rounds.
    relative_cost_difference: f64,
    /// The same with reverse passes; median over the rounds that have them.
    relative_cost_reverse: f64,
    /// Relative errors of hypergradients by forward mode against those by reverse passes.
    hypergradient_errors: Vec<f64>,
    largest_hypergradient_error: f64,
    /// The same by central difference.
    difference_errors: Vec<f64>,
    largest_difference_error: f64,
}

/// Cost of one kind of step.
#[derive(Debug, Serialize)]
struct StepCost {
    step: Variant,
    /// Median.
    seconds: f64,
    /// In forward passes of all losses without a tape; median over rounds.
    forwards: f64,
    /// Of outer steps.
    passes: Option<MeanPasses>,
    peak_memory_bytes: Option<u64>,
    /// Seconds in every counted round that has this step.
    samples: Vec<f64>,
}

/// Passes of the backbone in an outer step, on average over the counted rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct MeanPasses {
    /// Forward passes without a tape; the one of forward mode carries tangents.
    forward: f64,
    /// Forward-and-backward passes.
    backward: f64,
}

/// How the cost of MELTR grows with the number of losses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Growth {
    from_losses: usize,
    to_losses: usize,
    /// Relative cost at the end by that at the start.
    relative_cost: f64,
    /// The same for what exceeds 1.
    overhead: f64,
    /// As `relative_cost`, with reverse passes.
    relative_cost_reverse: f64,
}

/// What a process with one variant reports.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct MemorySample {
    /// Before the first step.
    loaded: Option<u64>,
    /// After the last.
    peak: Option<u64>,
}

pub(super) fn run(options: &MetaStepOptions) -> Result<(), CliError> {
    if let Some(python) = &options.python {
        return meta_step_peer::run(options, python);
    }
    let (repeats, batch_size) = (repeats(options), batch_size(options));
    require_nonzero("--repeats", repeats)?;
    let device = device::parse(&options.device)?;
    if let Ok(only) = std::env::var(ONLY) {
        return run_alone(&only, options, &device);
    }
    let mut by_losses = Vec::with_capacity(N_LOSSES.len());
    for n_losses in N_LOSSES {
        if !options.json {
            output::note(&format!("T = {n_losses}: timing {repeats} rounds"));
        }
        by_losses.push(measure(n_losses, options, &device)?);
    }
    let vocab_size = EmojiClips::embedded()?.word_piece().vocab_size();
    let report = Report {
        benchmark: "meta-step",
        meltr: env!("CARGO_PKG_VERSION"),
        burn: BURN_VERSION,
        device: options.device.clone(),
        threads: threads(),
        model: model_config(vocab_size),
        batch_size,
        repeats,
        warm_ups: WARM_UPS,
        outer_every: OUTER_EVERY,
        reverse_every: REVERSE_EVERY,
        targets: Targets {
            relative_cost_at_most: COST_TARGET,
            hypergradient_error_at_most: ERROR_TARGET,
        },
        growth: growth(&by_losses),
        by_losses,
    };
    if options.json {
        return output::json(&report);
    }
    print(&report);
    Ok(())
}

fn repeats(options: &MetaStepOptions) -> usize {
    options.repeats.unwrap_or(REPEATS)
}

fn batch_size(options: &MetaStepOptions) -> usize {
    options.batch.unwrap_or(BATCH)
}

fn measure(
    n_losses: usize,
    options: &MetaStepOptions,
    device: &Device,
) -> Result<Measured, CliError> {
    let repeats = repeats(options);
    let mut subject = Subject::new(n_losses, batch_size(options), StartOfPhi::Warm, device)?;
    let mut rounds = Vec::with_capacity(repeats);
    let (mut errors, mut difference_errors) = (Vec::new(), Vec::new());
    let audit_every = repeats.div_ceil(AUDITS);
    for round in 0..WARM_UPS + repeats {
        let counted = round.checked_sub(WARM_UPS);
        let has_reverse = counted.is_none_or(|repeat| repeat.is_multiple_of(REVERSE_EVERY));
        let mut steps = Round::default();
        // Another variant comes first in every round.
        for turn in 0..Variant::TIMED.len() {
            let variant = Variant::TIMED[(round + turn) % Variant::TIMED.len()];
            if variant != Variant::OuterReverse || has_reverse {
                steps.0[variant as usize] = Some(subject.time(variant, round)?);
            }
        }
        if counted.is_some() {
            rounds.push(steps);
        }
        if counted.is_some_and(|repeat| repeat.is_multiple_of(audit_every)) {
            let audit = subject.audit(round)?;
            errors.push(audit.forward_mode);
            difference_errors.push(audit.difference);
        }
    }
    drop(subject);

    let mut memory = Vec::with_capacity(Variant::ALL.len());
    for variant in Variant::ALL {
        memory.push(memory_alone(variant, n_losses, options)?);
    }
    let seconds = |variant: Variant| over_rounds(&rounds, |round| round.seconds(variant));
    let cost = |outer: Variant| over_rounds(&rounds, |round| round.relative_cost(outer));
    let steps = Variant::TIMED
        .into_iter()
        .map(|variant| StepCost {
            step: variant,
            seconds: seconds(variant),
            forwards: over_rounds(&rounds, |round| {
                Some(round.seconds(variant)? / round.seconds(Variant::Forward)?)
            }),
            passes: mean_passes(&rounds, variant),
            peak_memory_bytes: memory[variant as usize].peak,
            samples: rounds
                .iter()
                .filter_map(|round| round.seconds(variant))
                .collect(),
        })
        .collect();
    let training = memory[Variant::MeltrTraining as usize].peak;
    let plain = memory[Variant::PlainInner as usize].peak;
    Ok(Measured {
        n_losses,
        losses: losses(n_losses)
            .into_iter()
            .map(|loss| loss.name())
            .collect(),
        steps,
        loaded_memory_bytes: memory[Variant::PlainInner as usize].loaded,
        training_memory_bytes: training,
        relative_memory: training
            .zip(plain)
            .map(|(ours, plain)| ours as f64 / plain as f64),
        relative_cost: cost(Variant::OuterForwardMode),
        relative_cost_of_medians: relative_cost(
            seconds(Variant::PlainInner),
            seconds(Variant::MeltrInner),
            seconds(Variant::OuterForwardMode),
        ),
        relative_cost_difference: cost(Variant::OuterDifference),
        relative_cost_reverse: cost(Variant::OuterReverse),
        largest_hypergradient_error: largest(&errors),
        hypergradient_errors: errors,
        largest_difference_error: largest(&difference_errors),
        difference_errors,
    })
}

/// What the steps of one counted round took, by [`Variant`]; `None` for one that was left out.
#[derive(Debug, Clone, Copy, Default)]
struct Round([Option<Taken>; Variant::TIMED.len()]);

impl Round {
    fn seconds(&self, variant: Variant) -> Option<f64> {
        self.0[variant as usize].map(|taken| taken.seconds)
    }

    /// Of MELTR training with outer steps of the kind `outer`, by plain training.
    fn relative_cost(&self, outer: Variant) -> Option<f64> {
        Some(relative_cost(
            self.seconds(Variant::PlainInner)?,
            self.seconds(Variant::MeltrInner)?,
            self.seconds(outer)?,
        ))
    }
}

/// Seconds of MELTR training by those of plain training, from the seconds of single steps.
fn relative_cost(plain: f64, inner: f64, outer: f64) -> f64 {
    let inner_steps = OUTER_EVERY as f64;
    (inner_steps * inner + outer) / (inner_steps * plain)
}

/// Median of a figure over the rounds that have it. Ratios are taken within a round, where a drift
/// of the machine cancels.
fn over_rounds(rounds: &[Round], figure: impl Fn(&Round) -> Option<f64>) -> f64 {
    median(&rounds.iter().filter_map(figure).collect::<Vec<f64>>())
}

/// `None` for steps that are no outer steps.
fn mean_passes(rounds: &[Round], variant: Variant) -> Option<MeanPasses> {
    let passes: Vec<_> = rounds
        .iter()
        .filter_map(|round| round.0[variant as usize]?.passes)
        .collect();
    let mean = |total: usize| total as f64 / passes.len() as f64;
    (!passes.is_empty()).then(|| MeanPasses {
        forward: mean(passes.iter().map(|passes| passes.forward).sum()),
        backward: mean(passes.iter().map(|passes| passes.backward).sum()),
    })
}

/// The largest error; not a number if one of them is not.
fn largest(errors: &[f64]) -> f64 {
    errors
        .iter()
        .copied()
        .max_by(|a, b| a.abs().total_cmp(&b.abs()))
        .unwrap_or(f64::NAN)
}

fn growth(by_losses: &[Measured]) -> Growth {
    let pick = |value: fn(&Measured) -> f64| {
        let first = by_losses.first().map_or(f64::NAN, value);
        let last = by_losses.last().map_or(f64::NAN, value);
        (first, last)
    };
    let (first, last) = pick(|measured| measured.relative_cost);
    let (first_reverse, last_reverse) = pick(|measured| measured.relative_cost_reverse);
    Growth {
        from_losses: by_losses.first().map_or(0, |measured| measured.n_losses),
        to_losses: by_losses.last().map_or(0, |measured| measured.n_losses),
        relative_cost: last / first,
        overhead: (last - 1.0) / (first - 1.0),
        relative_cost_reverse: last_reverse / first_reverse,
    }
}

/// Runs one variant in a process of its own and returns the memory that it took.
fn memory_alone(
    variant: Variant,
    n_losses: usize,
    options: &MetaStepOptions,
) -> Result<MemorySample, CliError> {
    let only = format!("{}:{n_losses}", variant.name());
    let batch = batch_size(options).to_string();
    let program = std::env::current_exe().map_err(CliError::failed)?;
    let output = Command::new(&program)
        .args(["bench", "meta-step", "--json"])
        .args([
            "--batch",
            batch.as_str(),
            "--device",
            options.device.as_str(),
        ])
        .env(ONLY, &only)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            CliError::Failed(format!("cannot run `{}` again: {error}", program.display()))
        })?;
    let failed = |what: String| {
        let errors = String::from_utf8_lossy(&output.stderr);
        CliError::Failed(format!(
            "the process for the memory of `{only}` {what}: {errors}"
        ))
    };
    if !output.status.success() {
        return Err(failed(format!("ended with {}", output.status)));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(format!("wrote no JSON document ({error})")))
}

/// The other side of [`memory_alone`].
fn run_alone(only: &str, options: &MetaStepOptions, device: &Device) -> Result<(), CliError> {
    let (variant, n_losses) = parse_only(only).ok_or_else(|| {
        CliError::Input(format!(
            "{ONLY} is `{only}`; write a variant and a number of losses, such as \
             outer_difference:8, or unset it"
        ))
    })?;
    // Where the loss transformer starts has no influence on memory.
    let mut subject = Subject::new(n_losses, batch_size(options), StartOfPhi::Random, device)?;
    let loaded = peak_memory_bytes();
    for round in 0..MEMORY_ROUNDS {
        subject.time(variant, round)?;
    }
    output::json(&MemorySample {
        loaded,
        peak: peak_memory_bytes(),
    })
}

fn parse_only(only: &str) -> Option<(Variant, usize)> {
    let (name, n_losses) = only.split_once(':')?;
    let variant = Variant::ALL
        .into_iter()
        .find(|variant| variant.name() == name)?;
    let n_losses = n_losses
        .parse::<usize>()
        .ok()
        .filter(|count| N_LOSSES.contains(count))?;
    Some((variant, n_losses))
}

fn print(report: &Report) {
    output::line(&format!(
        "meltr {}, burn {}, device {}, {} threads",
        report.meltr, report.burn, report.device, report.threads
    ));
    output::line(&format!(
        "UniVL mini (width {}), embedded clips, batches of {}, medians over {} rounds, of reverse \
         passes over {}",
        report.model.d_model,
        report.batch_size,
        report.repeats,
        report.repeats.div_ceil(report.reverse_every)
    ));
    output::line(
        "forwards: in passes of all T losses without a tape; passes: mean number without a tape \
         (the one of forward mode carries tangents) and with forward and backward",
    );
    for measured in &report.by_losses {
        output::line("");
        output::line(&format!(
            "T = {}: {}",
            measured.n_losses,
            measured.losses.join(", ")
        ));
        for line in steps_table(measured).lines() {
            output::line(&line);
        }
    }
    output::line("");
    output::line(&format!(
        "MELTR training with K = {}, relative to plain multi-task training; time and error are \
         those of forward mode unless said otherwise",
        report.outer_every
    ));
    for line in training_table(&report.by_losses).lines() {
        output::line(&line);
    }
    let Growth {
        from_losses,
        to_losses,
        ..
    } = report.growth;
    output::line("");
    output::line(&format!(
        "from T = {from_losses} to T = {to_losses} the relative time grows by a factor of {:.2} \
         (what exceeds 1, by {:.2}); with reverse passes by {:.2}",
        report.growth.relative_cost, report.growth.overhead, report.growth.relative_cost_reverse
    ));
    output::line(&format!(
        "error: of the hypergradient against T reverse passes, the largest of {}",
        report
            .by_losses
            .first()
            .map_or(0, |measured| measured.hypergradient_errors.len())
    ));
}

/// Seconds, forwards and memory of each step.
fn steps_table(measured: &Measured) -> TextTable {
    let mut table = TextTable::new(["", "seconds", "forwards", "passes", "peak MiB"]);
    let dash = || "-".to_owned();
    for cost in &measured.steps {
        table.push([
            cost.step.label().to_owned(),
            format!("{:.4}", cost.seconds),
            format!("{:.2}", cost.forwards),
            cost.passes.map_or_else(dash, |passes| {
                format!("{:.1} + {:.1} taped", passes.forward, passes.backward)
            }),
            mebibytes(cost.peak_memory_bytes),
        ]);
    }
    for (label, bytes) in [
        (
            Variant::MeltrTraining.label(),
            measured.training_memory_bytes,
        ),
        (
            "data and model loaded, no step",
            measured.loaded_memory_bytes,
        ),
    ] {
        table.push([label.to_owned(), dash(), dash(), dash(), mebibytes(bytes)]);
    }
    table
}

/// What MELTR costs by the number of losses, with the targets beside.
fn training_table(by_losses: &[Measured]) -> TextTable {
    let mut table = TextTable::new([
        "T",
        "time",
        "target",
        "overhead",
        "central difference",
        "reverse passes",
        "peak memory",
        "error",
        "target",
        "error, central difference",
    ]);
    for measured in by_losses {
        table.push([
            measured.n_losses.to_string(),
            format!("{:.2}", measured.relative_cost),
            format!("at most {COST_TARGET}"),
            format!("{:.0} %", 100.0 * (measured.relative_cost - 1.0)),
            format!("{:.2}", measured.relative_cost_difference),
            format!("{:.2}", measured.relative_cost_reverse),
            measured
                .relative_memory
                .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            format!("{:.1e}", measured.largest_hypergradient_error),
            format!("at most {ERROR_TARGET:.0e}"),
            format!("{:.1e}", measured.largest_difference_error),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::meta_subject::Passes;
    use super::*;

    fn taken(seconds: f64, forward: usize) -> Option<Taken> {
        let passes = (forward > 0).then_some(Passes {
            forward,
            backward: 1,
        });
        Some(Taken { seconds, passes })
    }

    #[test]
    fn the_cost_of_training_is_the_one_worked_by_hand() {
        let round = Round([
            taken(0.5, 0),
            taken(1.0, 0),
            taken(1.1, 0),
            taken(1.5, 1),
            taken(2.4, 4),
            None,
        ]);
        let cost = round.relative_cost(Variant::OuterForwardMode).unwrap();
        assert!((cost - 4.8 / 3.0).abs() < 1e-12);
        let cost = round.relative_cost(Variant::OuterDifference).unwrap();
        assert!((cost - 5.7 / 3.0).abs() < 1e-12);
        assert_eq!(round.relative_cost(Variant::OuterReverse), None);
    }

    #[test]
    fn rounds_without_a_step_do_not_count_for_it() {
        let mut with = Round::default();
        with.0[Variant::OuterReverse as usize] = taken(9.0, 3);
        let rounds = [with, Round::default()];
        let seconds = over_rounds(&rounds, |round| round.seconds(Variant::OuterReverse));
        assert_eq!(seconds, 9.0);
        let expected = MeanPasses {
            forward: 3.0,
            backward: 1.0,
        };
        assert_eq!(mean_passes(&rounds, Variant::OuterReverse), Some(expected));
        assert_eq!(mean_passes(&rounds, Variant::Forward), None);
    }

    #[test]
    fn an_error_that_is_not_a_number_is_not_hidden() {
        assert_eq!(largest(&[1e-4, 3e-4, 2e-4]), 3e-4);
        assert!(largest(&[1e-4, f64::NAN]).is_nan());
    }

    #[test]
    fn every_variant_can_be_asked_for_alone() {
        for variant in Variant::ALL {
            assert_eq!(
                parse_only(&format!("{}:4", variant.name())),
                Some((variant, 4))
            );
        }
        for wrong in ["forward", "forward:3", "backward:2", "forward:two"] {
            assert_eq!(parse_only(wrong), None);
        }
    }

    fn measured(n_losses: usize, relative_cost: f64) -> Measured {
        Measured {
            n_losses,
            losses: Vec::new(),
            steps: Vec::new(),
            loaded_memory_bytes: None,
            training_memory_bytes: None,
            relative_memory: None,
            relative_cost,
            relative_cost_of_medians: relative_cost,
            relative_cost_difference: 1.2 * relative_cost,
            relative_cost_reverse: 2.0 * relative_cost,
            hypergradient_errors: vec![2e-4],
            largest_hypergradient_error: 2e-4,
            difference_errors: vec![3e-3],
            largest_difference_error: 3e-3,
        }
    }

    #[test]
    fn growth_is_from_the_fewest_to_the_most_losses() {
        let growth = growth(&[measured(2, 1.25), measured(4, 9.0), measured(8, 1.5)]);
        assert_eq!((growth.from_losses, growth.to_losses), (2, 8));
        assert!((growth.relative_cost - 1.2).abs() < 1e-12);
        assert!((growth.overhead - 2.0).abs() < 1e-12);
    }

    #[test]
    fn the_targets_stand_beside_the_figures() {
        let lines = training_table(&[measured(2, 1.5)]).lines();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].contains("1.50  at most 1.6"), "{}", lines[1]);
        assert!(lines[1].contains("2.0e-4  at most 1e-3"), "{}", lines[1]);
        assert!(lines[1].ends_with("3.0e-3"), "{}", lines[1]);
    }
}
