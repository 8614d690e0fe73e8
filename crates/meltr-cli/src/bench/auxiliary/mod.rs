//! `meltr bench auxiliary`: losses of which it is known whether they help, and who finds out.
//!
//! A small network regresses from few noisy items. Two auxiliary losses help, two conflict with
//! the primary one, one is noise. Each method trains the same network on the same items for the
//! same number of steps with the same optimizer; what differs is where the weights of the losses
//! come from. A method ranks them rightly if over the second half of the training the helpful
//! losses have more weight on average than the random one, and that one more than the conflicting
//! ones.

mod method;
mod problem;
mod rule;

use std::time::Instant;

use burn::module::Module;
use burn::optim::AdamConfig;
use burn::tensor::Device;
use meltr_aid::UpdateRule;
use meltr_train::CombinerName;
use serde::Serialize;

use self::method::{finds_weights, start};
use self::problem::{CONFLICTING, HELPFUL, Mlp, N_TASKS, PRIMARY, Problem, RANDOM};
use self::rule::Passes;
use super::text_table::TextTable;
use super::{BURN_VERSION, require_nonzero, threads};
use crate::cli::AuxiliaryOptions;
use crate::device;
use crate::error::CliError;
use crate::nearest::nearest;
use crate::output;

/// Inner steps, each with all items of the training set. With many more of them the network fits
/// the noise, and then anything that shrinks its outputs helps, a conflicting loss included: the
/// right order is no longer known.
const STEPS: usize = 150;

/// Inner steps for each outer step.
const OUTER_EVERY: usize = 3;

/// Learning rate of Adam in the inner steps.
const INNER_LEARNING_RATE: f64 = 1e-3;

/// Adam in the inner steps, as burn has it by default.
const INNER_OPTIMIZER: UpdateRule = UpdateRule::Adam {
    learning_rate: INNER_LEARNING_RATE,
    beta_1: 0.9,
    beta_2: 0.999,
    epsilon: EPSILON as f64,
};

/// Guard of Adam in the inner steps.
const EPSILON: f32 = 1e-8;

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    meltr: &'static str,
    burn: &'static str,
    device: String,
    threads: usize,
    seeds: u64,
    steps: usize,
    outer_every: usize,
    inner_learning_rate: f64,
    methods: Vec<Measured>,
}

/// One method over all seeds.
#[derive(Debug, Serialize)]
struct Measured {
    method: CombinerName,
    test_loss_mean: f64,
    /// Standard deviation over seeds; `None` for a single one.
    test_loss_deviation: Option<f64>,
    /// In how many seeds the ranking is right; `None` where the weights are given.
    ranks_rightly: Option<usize>,
    /// Means over seeds, divided by that of the primary loss; `None` where that is 0.
    relative_weights: Option<Groups>,
    /// Forward passes without a tape in a step, on average.
    forward_passes: f64,
    /// Forward and backward passes in a step, on average.
    backward_passes: f64,
    /// Of one run, on average.
    seconds: f64,
    runs: Vec<Trained>,
}

/// Weights of the three kinds of auxiliary losses.
#[derive(Debug, Clone, Copy, Serialize)]
struct Groups {
    helpful: f64,
    random: f64,
    conflicting: f64,
}

impl Groups {
    /// Means over the losses of a kind.
    fn of(weights: &[f64]) -> Self {
        let mean = |tasks: &[usize]| {
            tasks.iter().map(|&task| weights[task]).sum::<f64>() / tasks.len() as f64
        };
        Self {
            helpful: mean(&HELPFUL),
            random: mean(&RANDOM),
            conflicting: mean(&CONFLICTING),
        }
    }

    fn rank_rightly(self) -> bool {
        self.helpful > self.random && self.random > self.conflicting
    }
}

/// One method with one seed.
#[derive(Debug, Serialize)]
struct Trained {
    seed: u64,
    test_loss: f64,
    /// Weights or sensitivities over the second half of the steps, on average, `[T]`.
    weights: Vec<f64>,
    /// Those of the last step, `[T]`.
    last_weights: Vec<f64>,
    ranks_rightly: Option<bool>,
    passes: Passes,
    seconds: f64,
}

pub(super) fn run(options: &AuxiliaryOptions) -> Result<(), CliError> {
    require_nonzero("--seeds", options.seeds as usize)?;
    let methods = methods(&options.methods)?;
    let device = device::parse(&options.device)?;
    let mut report = Report {
        benchmark: "auxiliary",
        meltr: env!("CARGO_PKG_VERSION"),
        burn: BURN_VERSION,
        device: options.device.clone(),
        threads: threads(),
        seeds: options.seeds,
        steps: STEPS,
        outer_every: OUTER_EVERY,
        inner_learning_rate: INNER_LEARNING_RATE,
        methods: Vec::new(),
    };
    for method in methods {
        let runs = (0..options.seeds)
            .map(|seed| train(method, seed, &device))
            .collect::<Result<Vec<Trained>, CliError>>()?;
        report.methods.push(Measured::of(method, runs));
        if !options.json {
            output::note(method.name());
        }
    }
    if options.json {
        return output::json(&report);
    }
    print(&report);
    Ok(())
}

/// The methods that were asked for, all by default.
fn methods(names: &[String]) -> Result<Vec<CombinerName>, CliError> {
    if names.is_empty() {
        return Ok(CombinerName::ALL.to_vec());
    }
    let known = CombinerName::ALL.map(CombinerName::name);
    names
        .iter()
        .map(|name| {
            name.parse::<CombinerName>().map_err(|_| {
                let suggestion = nearest(name, known)
                    .map(|name| format!("; did you mean `{name}`?"))
                    .unwrap_or_default();
                CliError::Input(format!(
                    "--method `{name}` is not known{suggestion} (one of {})",
                    known.join(", ")
                ))
            })
        })
        .collect()
}

/// Trains one network; the start of the combiner is part of the time.
fn train(method: CombinerName, seed: u64, device: &Device) -> Result<Trained, CliError> {
    let problem = Problem::draw(seed, device);
    let clock = Instant::now();
    let mut model = Mlp::new(seed, device);
    let mut rule = start(method, &problem, &model, seed, device)?;
    let mut optimizer = AdamConfig::new().with_epsilon(EPSILON).init();
    let mut passes = Passes::default();
    let mut sums = vec![0.0; N_TASKS];
    let mut last_weights = Vec::new();
    model = model.train();
    for step in 0..STEPS {
        let update = rule.update(&problem, &model)?;
        passes.add(update.passes);
        if step >= STEPS / 2 {
            for (sum, weight) in sums.iter_mut().zip(&update.weights) {
                *sum += weight;
            }
        }
        last_weights = update.weights;
        let gradients = update.gradient.to_gradients_params(&model);
        model = optimizer.step(INNER_LEARNING_RATE, model, gradients);
        passes.add(rule.after(&problem, &model, step)?);
    }
    let counted = (STEPS - STEPS / 2) as f64;
    let weights: Vec<f64> = sums.into_iter().map(|sum| sum / counted).collect();
    let test_loss = problem.test_loss(&model.valid());
    if !test_loss.is_finite() {
        return Err(CliError::Failed(format!(
            "{}, seed {seed}: the test loss is {test_loss}",
            method.name()
        )));
    }
    Ok(Trained {
        seed,
        test_loss,
        ranks_rightly: finds_weights(method).then(|| Groups::of(&weights).rank_rightly()),
        weights,
        last_weights,
        passes,
        seconds: clock.elapsed().as_secs_f64(),
    })
}

impl Measured {
    fn of(method: CombinerName, runs: Vec<Trained>) -> Self {
        let n_runs = runs.len() as f64;
        let mean = |value: fn(&Trained) -> f64| runs.iter().map(value).sum::<f64>() / n_runs;
        let test_loss_mean = mean(|run| run.test_loss);
        let squares: f64 = runs
            .iter()
            .map(|run| (run.test_loss - test_loss_mean).powi(2))
            .sum();
        let primary = mean(|run| run.weights[PRIMARY]);
        let groups = Groups {
            helpful: mean(|run| Groups::of(&run.weights).helpful),
            random: mean(|run| Groups::of(&run.weights).random),
            conflicting: mean(|run| Groups::of(&run.weights).conflicting),
        };
        let right = runs
            .iter()
            .filter(|run| run.ranks_rightly == Some(true))
            .count();
        Self {
            method,
            test_loss_mean,
            test_loss_deviation: (runs.len() > 1).then(|| (squares / (n_runs - 1.0)).sqrt()),
            ranks_rightly: finds_weights(method).then_some(right),
            relative_weights: (primary != 0.0).then(|| Groups {
                helpful: groups.helpful / primary,
                random: groups.random / primary,
                conflicting: groups.conflicting / primary,
            }),
            forward_passes: mean(|run| run.passes.forward as f64) / STEPS as f64,
            backward_passes: mean(|run| run.passes.backward as f64) / STEPS as f64,
            seconds: mean(|run| run.seconds),
            runs,
        }
    }
}

fn print(report: &Report) {
    output::line(&format!(
        "two helpful, two conflicting and one random loss; {} seeds, {} steps, {} threads; \
         weights relative to that of the primary loss",
        report.seeds, report.steps, report.threads
    ));
    let mut table = TextTable::new([
        "method",
        "test loss",
        "ranked rightly",
        "helpful",
        "random",
        "conflicting",
        "forwards",
        "backwards",
        "seconds",
    ]);
    let missing = || "-".to_owned();
    for measured in &report.methods {
        let deviation = measured
            .test_loss_deviation
            .map(|deviation| format!(" ± {deviation:.3}"))
            .unwrap_or_default();
        let ranked = measured
            .ranks_rightly
            .map_or_else(missing, |right| format!("{right} of {}", report.seeds));
        let weight = |value: fn(Groups) -> f64| {
            measured
                .relative_weights
                .map_or_else(missing, |groups| format!("{:.2}", value(groups)))
        };
        table.push([
            measured.method.name().to_owned(),
            format!("{:.3}{deviation}", measured.test_loss_mean),
            ranked,
            weight(|groups| groups.helpful),
            weight(|groups| groups.random),
            weight(|groups| groups.conflicting),
            format!("{:.2}", measured.forward_passes),
            format!("{:.2}", measured.backward_passes),
            format!("{:.2}", measured.seconds),
        ]);
    }
    for line in table.lines() {
        output::line(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_order_is_helpful_random_conflicting() {
        let rank = |weights: [f64; N_TASKS]| Groups::of(&weights).rank_rightly();
        assert!(rank([1.0, 0.9, 0.7, -0.2, 0.3, 0.1]));
        assert!(!rank([1.0, 1.0, 1.0, 1.0, 1.0, 1.0]));
        assert!(!rank([1.0, 0.9, 0.7, 0.2, 0.3, 0.1]));
    }

    #[test]
    fn methods_have_the_names_of_configurations() {
        assert_eq!(methods(&[]).unwrap(), CombinerName::ALL);
        let named = ["fixed", "auxiliary_linear"].map(str::to_owned);
        let found = methods(&named).unwrap();
        assert_eq!(found, [CombinerName::Fixed, CombinerName::AuxiliaryLinear]);
        let error = methods(&["melter".to_owned()]).unwrap_err().to_string();
        for part in ["--method `melter`", "did you mean `meltr`?", "fixed"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn weights_that_the_method_does_not_find_have_no_rank() {
        let runs = vec![Trained {
            seed: 0,
            test_loss: 0.5,
            weights: vec![2.0, 1.0, 1.0, 0.0, 0.0, 0.5],
            last_weights: vec![2.0, 1.0, 1.0, 0.0, 0.0, 0.5],
            ranks_rightly: None,
            passes: Passes::default(),
            seconds: 1.0,
        }];
        let measured = Measured::of(CombinerName::Sum, runs);
        assert_eq!(measured.ranks_rightly, None);
        assert_eq!(measured.test_loss_deviation, None);
        let weights = measured.relative_weights.unwrap();
        assert_eq!((weights.helpful, weights.random), (0.5, 0.25));
    }
}
