//! `meltr bench meta-step`: plain multi-task steps against the inner and outer steps of MELTR.
//!
//! All variants run in one process on the same batches, one after the other in every repetition,
//! so that a drift of the machine reaches all of them alike. The peak of the resident memory
//! never falls within a process, so each variant has it measured in a process of its own: this
//! program again, told by an environment variable which one to run.

use std::process::{Command, Stdio};

use burn::tensor::Device;
use meltr_aid::CentralDifference;
use meltr_data::EmojiClips;
use meltr_models::UniVlConfig;
use meltr_train::{StartOfPhi, peak_memory_bytes};
use serde::{Deserialize, Serialize};

use super::meta_subject::{OUTER_EVERY, Passes, Subject, Variant, losses, model_config};
use super::statistics::{median, median_ratio};
use super::text_table::TextTable;
use super::{BURN_VERSION, mebibytes, require_nonzero, threads};
use crate::cli::BenchOptions;
use crate::device;
use crate::error::CliError;
use crate::output;

/// Names a variant and a number of losses, as `outer_difference:8`, for a process that runs these
/// alone.
const ONLY: &str = "MELTR_BENCH_ONLY";

/// Numbers of losses.
const N_LOSSES: [usize; 3] = [2, 4, 8];

/// Rounds that do not count.
const WARM_UPS: usize = 2;

/// Rounds of a process that measures memory.
const MEMORY_ROUNDS: usize = 3;

/// Hypergradients that are compared with the exact ones.
const AUDITS: usize = 5;

/// MELTR training is to cost at most so many times what plain multi-task training costs.
const COST_TARGET: f64 = 1.6;

/// Largest relative error of a hypergradient by central difference.
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
    /// Outer steps for each verified difference step.
    verify_every: usize,
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
    /// The same with every difference step verified.
    relative_cost_verifying: f64,
    /// The same with reverse passes instead of a central difference.
    relative_cost_reverse: f64,
    /// Relative errors of hypergradients by central difference.
    hypergradient_errors: Vec<f64>,
    largest_hypergradient_error: f64,
}

/// Cost of one kind of step.
#[derive(Debug, Serialize)]
struct StepCost {
    step: Variant,
    /// Median.
    seconds: f64,
    /// In forward passes of all losses without a tape; median over rounds.
    forwards: f64,
    /// Passes of the backbone in the last round, of outer steps.
    passes: Option<Passes>,
    peak_memory_bytes: Option<u64>,
    /// Of every counted round.
    samples: Vec<f64>,
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

pub(super) fn run(options: &BenchOptions) -> Result<(), CliError> {
    require_nonzero("--repeats", options.repeats)?;
    let device = device::parse(&options.device)?;
    if let Ok(only) = std::env::var(ONLY) {
        return run_alone(&only, options, &device);
    }
    let mut by_losses = Vec::with_capacity(N_LOSSES.len());
    for n_losses in N_LOSSES {
        if !options.json {
            output::note(&format!(
                "T = {n_losses}: timing {} rounds",
                options.repeats
            ));
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
        batch_size: options.batch,
        repeats: options.repeats,
        warm_ups: WARM_UPS,
        outer_every: OUTER_EVERY,
        verify_every: verify_every(),
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

/// Outer steps for each verified difference step, by default.
fn verify_every() -> usize {
    CentralDifference::default().verify_every.max(1)
}

fn measure(n_losses: usize, options: &BenchOptions, device: &Device) -> Result<Measured, CliError> {
    let mut subject = Subject::new(n_losses, options.batch, StartOfPhi::Warm, device)?;
    let mut seconds: [Vec<f64>; Variant::TIMED.len()] = Default::default();
    let mut errors = Vec::new();
    let audit_every = options.repeats.div_ceil(AUDITS);
    for round in 0..WARM_UPS + options.repeats {
        let counted = round.checked_sub(WARM_UPS);
        if counted.is_some_and(|repeat| repeat.is_multiple_of(verify_every())) {
            subject.carry_step_over();
        }
        // Another variant comes first in every round.
        for turn in 0..Variant::TIMED.len() {
            let variant = Variant::TIMED[(round + turn) % Variant::TIMED.len()];
            let taken = subject.time(variant, round)?;
            if counted.is_some() {
                seconds[variant as usize].push(taken);
            }
        }
        if counted.is_some_and(|repeat| repeat.is_multiple_of(audit_every)) {
            errors.push(subject.audit(round)?);
        }
    }
    let passes = Variant::TIMED.map(|variant| subject.passes(variant));
    drop(subject);

    let mut memory = Vec::with_capacity(Variant::ALL.len());
    for variant in Variant::ALL {
        memory.push(memory_alone(variant, n_losses, options)?);
    }
    let of = |variant: Variant| seconds[variant as usize].as_slice();
    let steps = Variant::TIMED
        .into_iter()
        .map(|variant| StepCost {
            step: variant,
            seconds: median(of(variant)),
            forwards: median_ratio(of(variant), of(Variant::Forward)),
            passes: passes[variant as usize],
            peak_memory_bytes: memory[variant as usize].peak,
            samples: of(variant).to_vec(),
        })
        .collect();
    let rounds: Vec<Round> = (0..options.repeats)
        .map(|repeat| Round::new(|variant| of(variant)[repeat]))
        .collect();
    let over_rounds =
        |cost: fn(&Round) -> f64| median(&rounds.iter().map(cost).collect::<Vec<f64>>());
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
        relative_cost: over_rounds(Round::relative_cost),
        relative_cost_of_medians: Round::new(|variant| median(of(variant))).relative_cost(),
        relative_cost_verifying: over_rounds(Round::relative_cost_verifying),
        relative_cost_reverse: over_rounds(Round::relative_cost_reverse),
        largest_hypergradient_error: errors.iter().copied().fold(0.0, f64::max),
        hypergradient_errors: errors,
    })
}

/// Seconds of one step of each kind.
#[derive(Debug, Clone, Copy)]
struct Round {
    plain: f64,
    inner: f64,
    difference: f64,
    verifying: f64,
    reverse: f64,
}

impl Round {
    fn new(seconds: impl Fn(Variant) -> f64) -> Self {
        Self {
            plain: seconds(Variant::PlainInner),
            inner: seconds(Variant::MeltrInner),
            difference: seconds(Variant::OuterDifference),
            verifying: seconds(Variant::OuterVerifying),
            reverse: seconds(Variant::OuterReverse),
        }
    }

    /// Of training whose outer steps take `outer` seconds each, by plain training.
    fn relative(&self, outer: f64) -> f64 {
        let inner_steps = OUTER_EVERY as f64;
        (inner_steps * self.inner + outer) / (inner_steps * self.plain)
    }

    fn relative_cost(&self) -> f64 {
        let period = verify_every() as f64;
        self.relative(((period - 1.0) * self.difference + self.verifying) / period)
    }

    fn relative_cost_verifying(&self) -> f64 {
        self.relative(self.verifying)
    }

    fn relative_cost_reverse(&self) -> f64 {
        self.relative(self.reverse)
    }
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
    options: &BenchOptions,
) -> Result<MemorySample, CliError> {
    let only = format!("{}:{n_losses}", variant.name());
    let batch = options.batch.to_string();
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
fn run_alone(only: &str, options: &BenchOptions, device: &Device) -> Result<(), CliError> {
    let (variant, n_losses) = parse_only(only).ok_or_else(|| {
        CliError::Input(format!(
            "{ONLY} is `{only}`; write a variant and a number of losses, such as \
             outer_difference:8, or unset it"
        ))
    })?;
    // Where the loss transformer starts has no influence on memory.
    let mut subject = Subject::new(n_losses, options.batch, StartOfPhi::Random, device)?;
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
    let Report {
        outer_every,
        verify_every,
        ..
    } = report;
    output::line(&format!(
        "meltr {}, burn {}, device {}, {} threads",
        report.meltr, report.burn, report.device, report.threads
    ));
    output::line(&format!(
        "UniVL mini (width {}), embedded clips, batches of {}, medians over {} rounds; a forward \
         is one pass of all T losses without a tape",
        report.model.d_model, report.batch_size, report.repeats
    ));
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
        "MELTR training with K = {outer_every}, relative to plain multi-task training (one outer \
         step in {verify_every} verifies its difference step)"
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
        "error: of the hypergradient by central difference, against T reverse passes; the largest \
         of {}",
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
                format!("{} + {} taped", passes.forward, passes.backward)
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
        "always verified",
        "reverse passes",
        "peak memory",
        "error",
        "target",
    ]);
    for measured in by_losses {
        table.push([
            measured.n_losses.to_string(),
            format!("{:.2}", measured.relative_cost),
            format!("at most {COST_TARGET}"),
            format!("{:.0} %", 100.0 * (measured.relative_cost - 1.0)),
            format!("{:.2}", measured.relative_cost_verifying),
            format!("{:.2}", measured.relative_cost_reverse),
            measured
                .relative_memory
                .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            format!("{:.1e}", measured.largest_hypergradient_error),
            format!("at most {ERROR_TARGET:.0e}"),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round() -> Round {
        Round {
            plain: 1.0,
            inner: 1.1,
            difference: 1.6,
            verifying: 2.4,
            reverse: 9.0,
        }
    }

    #[test]
    fn the_cost_of_training_is_the_one_worked_by_hand() {
        let period = verify_every() as f64;
        let outer = 1.6 + 0.8 / period;
        assert!((round().relative_cost() - (3.3 + outer) / 3.0).abs() < 1e-12);
        assert!((round().relative_cost_reverse() - 12.3 / 3.0).abs() < 1e-12);
        assert!((round().relative_cost_verifying() - 5.7 / 3.0).abs() < 1e-12);
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
            relative_cost_verifying: relative_cost,
            relative_cost_reverse: 2.0 * relative_cost,
            hypergradient_errors: vec![2e-4],
            largest_hypergradient_error: 2e-4,
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
        assert!(lines[1].ends_with("2.0e-4  at most 1e-3"), "{}", lines[1]);
    }
}
