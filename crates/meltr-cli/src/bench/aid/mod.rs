//! `meltr bench aid`: hypergradients beside Python libraries, each in a process of its own.
//!
//! Every side reads the problem from the same safetensors file, says on standard error when its
//! first hypergradient exists, writes that hypergradient to a file and one JSON document to
//! standard output. The time to that line is measured here, from the start of the process; this
//! side is this program again, told by an environment variable what to run.

mod quadratic;
mod reweighting;
mod side;
mod subject;
mod transformer;

use std::path::PathBuf;

use serde::Serialize;

use super::agreement::Answer;
use super::text_table::TextTable;
use super::{mebibytes, require_nonzero, threads};
use crate::cli::AidOptions;
use crate::device;
use crate::error::CliError;
use crate::nearest::nearest;
use crate::output;
use side::{Document, ORDER, Side};
use subject::Order;

/// The problems of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Task {
    /// A quadratic with a known answer, to see error against work.
    Quadratic,
    /// Samples reweighted by a network of their loss, on a perceptron.
    Reweighting,
    /// The outer step of MELTR on a small transformer.
    Transformer,
}

impl Task {
    const ALL: [Self; 3] = [Self::Quadratic, Self::Reweighting, Self::Transformer];

    /// On the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Quadratic => "quadratic",
            Self::Reweighting => "reweighting",
            Self::Transformer => "transformer",
        }
    }

    /// The Python side.
    fn script(self) -> &'static str {
        match self {
            Self::Quadratic | Self::Reweighting => "aid_peer.py",
            Self::Transformer => "aid_transformer.py",
        }
    }

    /// Whether methods take a number of products with the Hessian.
    fn takes_products(self) -> bool {
        self != Self::Transformer
    }
}

/// What counts as an equally good answer when the best of both sides are compared.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// Those that solve the problem to this error, with the most products.
    Solved {
        /// Relative error.
        error: f64,
    },
    /// For each number of products, those at most this many times as far off as the nearest.
    Equal {
        /// Ratio of errors.
        ratio: f64,
    },
}

/// One problem in one file, and who is to solve it.
struct Scenario {
    task: Task,
    label: String,
    about: String,
    data: PathBuf,
    products: Vec<usize>,
    ours: &'static [&'static str],
    torch: &'static [&'static str],
    jax: &'static [&'static str],
    /// For the script, besides those of every method.
    peer_arguments: &'static [&'static str],
    /// `None` where no dense answer is affordable.
    answer: Option<Answer>,
    target: Target,
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    scenario: String,
    products: usize,
    /// Start of the process to the first hypergradient.
    first_seconds: f64,
    /// Median.
    warm_seconds: f64,
    relative_error: Option<f64>,
    cosine: Option<f64>,
    #[serde(flatten)]
    document: Document,
}

impl Row {
    fn is_ours(&self) -> bool {
        self.document.package == "meltr-aid"
    }
}

#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    threads: usize,
    rows: Vec<Row>,
}

pub(super) fn run(options: &AidOptions) -> Result<(), CliError> {
    if let Ok(order) = std::env::var(ORDER) {
        return Order::carry_out(&order, &options.device);
    }
    require_nonzero("--repeats", options.repeats)?;
    device::parse(&options.device)?;
    let tasks = tasks(options)?;
    if options.python.is_some() || options.jax_python.is_some() {
        for task in &tasks {
            let script = options.scripts.join(task.script());
            if !script.is_file() {
                return Err(CliError::Input(format!(
                    "`{}` is not a file; run from the root of the checkout or name its folder \
                     xtask/peers by --scripts",
                    script.display()
                )));
            }
        }
    }
    let folder = tempfile::tempdir().map_err(CliError::failed)?;
    let mut report = Report {
        benchmark: "aid",
        threads: threads(),
        rows: Vec::new(),
    };
    for task in tasks {
        let scenarios = match task {
            Task::Quadratic => quadratic::scenarios(folder.path())?,
            Task::Reweighting => reweighting::scenarios(folder.path())?,
            Task::Transformer => transformer::scenarios(options, folder.path())?,
        };
        for scenario in scenarios {
            let mut rows = Vec::new();
            for &products in &scenario.products {
                for side in Side::all(options, &scenario, products)? {
                    let row = side.run(&scenario, products, scenario.answer.as_ref())?;
                    if !options.json {
                        let method = &row.document.method;
                        output::note(&format!(
                            "{}, {products} products: {method}",
                            scenario.label
                        ));
                    }
                    rows.push(row);
                }
            }
            if !options.json {
                print(&scenario, &rows, report.threads);
            }
            report.rows.append(&mut rows);
        }
    }
    if options.json {
        return output::json(&report);
    }
    Ok(())
}

/// The problems that were asked for, all by default.
fn tasks(options: &AidOptions) -> Result<Vec<Task>, CliError> {
    let names = Task::ALL.map(Task::name);
    if options.problems.is_empty() {
        return Ok(Task::ALL.to_vec());
    }
    options
        .problems
        .iter()
        .map(|name| {
            let known = Task::ALL.into_iter().find(|task| task.name() == name);
            known.ok_or_else(|| {
                let suggestion = nearest(name, names)
                    .map(|name| format!("; did you mean `{name}`?"))
                    .unwrap_or_default();
                CliError::Input(format!(
                    "--problem `{name}` is not known{suggestion} (one of {})",
                    names.join(", ")
                ))
            })
        })
        .collect()
}

fn print(scenario: &Scenario, rows: &[Row], threads: usize) {
    output::line(&format!(
        "{}: {}, {threads} threads",
        scenario.label, scenario.about
    ));
    let mut table = TextTable::new([
        "method",
        "version",
        "products",
        "rel. error",
        "cosine",
        "warm ms",
        "first s",
        "peak MiB",
    ]);
    let shown = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for row in rows {
        let document = &row.document;
        let products = scenario
            .task
            .takes_products()
            .then(|| row.products.to_string());
        table.push([
            format!("{} {}", document.package, document.method),
            document.version.clone(),
            shown(products),
            shown(row.relative_error.map(|error| format!("{error:.1e}"))),
            shown(row.cosine.map(|cosine| format!("{cosine:.4}"))),
            format!("{:.2}", 1e3 * row.warm_seconds),
            format!("{:.2}", row.first_seconds),
            mebibytes(document.peak_rss_bytes),
        ]);
    }
    for line in table.lines() {
        output::line(&line);
    }
    for line in verdicts(scenario, rows) {
        output::line(&line);
    }
    output::line("");
}

/// Ratios of the best of ours to the best of the peers among equally good answers.
fn verdicts(scenario: &Scenario, rows: &[Row]) -> Vec<String> {
    let errors = |products: usize| {
        rows.iter()
            .filter(move |row| row.products == products)
            .filter_map(|row| row.relative_error)
    };
    let groups: Vec<(usize, f64)> = match scenario.target {
        Target::Solved { error } => scenario
            .products
            .last()
            .map(|&most| (most, error))
            .into_iter()
            .collect(),
        Target::Equal { ratio } => scenario
            .products
            .iter()
            .map(|&products| {
                (
                    products,
                    ratio * errors(products).fold(f64::INFINITY, f64::min),
                )
            })
            .collect(),
    };
    groups
        .into_iter()
        .filter_map(|(products, limit)| {
            let (ours, peers): (Vec<&Row>, Vec<&Row>) = rows
                .iter()
                .filter(|row| row.products == products)
                .filter(|row| row.relative_error.is_some_and(|error| error <= limit))
                .partition(|row| row.is_ours());
            if ours.is_empty() || peers.is_empty() {
                return None;
            }
            let least = |rows: &[&Row], value: fn(&Row) -> f64| {
                rows.iter()
                    .map(|row| value(row))
                    .fold(f64::INFINITY, f64::min)
            };
            let ratio = |value: fn(&Row) -> f64| least(&ours, value) / least(&peers, value);
            let memory = |row: &Row| {
                row.document
                    .peak_rss_bytes
                    .map_or(f64::INFINITY, |bytes| bytes as f64)
            };
            let work = if scenario.task.takes_products() {
                format!("{products} products, ")
            } else {
                String::new()
            };
            Some(format!(
                "{work}errors up to {limit:.1e}, best of ours by best of peers: warm time {:.2} \
                 (target 1.0), start to first hypergradient {:.3} (0.1), peak memory {:.2} (0.5)",
                ratio(|row| row.warm_seconds),
                ratio(|row| row.first_seconds),
                ratio(memory),
            ))
        })
        .collect()
}
