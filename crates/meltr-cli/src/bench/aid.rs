//! `meltr bench aid`: hypergradients of a quadratic beside Python libraries, each in a process of
//! its own.
//!
//! Every side reads the problem from the same safetensors file, says on standard error when its
//! first hypergradient exists, and writes one JSON document. The time to that line is measured
//! here, from the start of the process; this side is this program again, told by an environment
//! variable what to run.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use burn::tensor::{DType, Device};
use meltr_aid::conformance::{ConformanceProblem, Reference};
use meltr_aid::{
    ConjugateGradient, EstimatorConfig, HypergradientEstimator, Neumann, ParamVector,
    Settings as EstimatorSettings,
};
use meltr_train::peak_memory_bytes;
use serde::{Deserialize, Serialize};

use super::statistics::median;
use super::text_table::TextTable;
use super::{mebibytes, require_nonzero, threads};
use crate::cli::AidOptions;
use crate::device;
use crate::error::CliError;
use crate::output;

/// Method, file, products and repeats for a process that runs these alone, separated by newlines.
const ONLY: &str = "MELTR_BENCH_AID_ONLY";

/// The line that says that the first hypergradient exists, as the script writes it.
const FIRST: &str = "FIRST";

/// Hypergradients that do not count.
const WARM_UPS: usize = 3;

/// Inner and outer parameters.
const SIZE: [usize; 2] = [300, 60];

const SEED: u64 = 7;

/// Step size of the Neumann series; the largest eigenvalue is 1.
const ALPHA: f64 = 1.0;

/// Condition and the numbers of products.
const CONDITIONS: [(f64, [usize; 3]); 2] = [(10.0, [5, 20, 60]), (100.0, [5, 20, 200])];

/// Ours: name, and whether products come in closed form.
const OURS: [(&str, bool); 4] = [
    ("identity", false),
    ("neumann", false),
    ("cg", false),
    ("cg_exact_products", true),
];

/// The peers' methods that need PyTorch, and those that need JAX.
const TORCH: [&str; 9] = [
    "torch_identity",
    "betty_darts",
    "betty_neumann",
    "betty_cg",
    "betty_cg_fixed",
    "torchopt_cg",
    "torchopt_ns",
    "hypergrad_cg",
    "hypergrad_neumann",
];
const JAX: [&str; 2] = ["jaxopt_cg", "optimistix_cg"];

/// What a side writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Document {
    method: String,
    package: String,
    version: String,
    /// Of each counted hypergradient.
    seconds: Vec<f64>,
    peak_rss_bytes: Option<u64>,
    relative_error: Option<f64>,
    cosine: Option<f64>,
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    condition: f64,
    products: usize,
    /// Start of the process to the first hypergradient.
    first_seconds: f64,
    /// Median.
    warm_seconds: f64,
    #[serde(flatten)]
    document: Document,
}

#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    inner_parameters: usize,
    outer_parameters: usize,
    threads: usize,
    rows: Vec<Row>,
}

pub(super) fn run(options: &AidOptions) -> Result<(), CliError> {
    if let Ok(only) = std::env::var(ONLY) {
        return one_side(&only, &options.device);
    }
    require_nonzero("--repeats", options.repeats)?;
    device::parse(&options.device)?;
    if (options.python.is_some() || options.jax_python.is_some()) && !options.script.is_file() {
        return Err(CliError::Input(format!(
            "--script `{}` is not a file; run from the root of the checkout or name the script, \
             which is xtask/peers/aid_peer.py there",
            options.script.display()
        )));
    }
    let folder = tempfile::tempdir().map_err(CliError::failed)?;
    let mut rows = Vec::new();
    for (condition, products) in CONDITIONS {
        let path = folder
            .path()
            .join(format!("quadratic_{condition}.safetensors"));
        ConformanceProblem::random_quadratic(SIZE, condition, SEED, &Device::default(), DType::F64)
            .write_quadratic(&path)
            .map_err(CliError::failed)?;
        for products in products {
            for mut side in sides(options, &path, products)? {
                let row = side.run(condition, products)?;
                if !options.json {
                    output::note(&format!(
                        "condition {condition}, {products} products: {}",
                        row.document.method
                    ));
                }
                rows.push(row);
            }
        }
    }
    let report = Report {
        benchmark: "aid",
        inner_parameters: SIZE[0],
        outer_parameters: SIZE[1],
        threads: threads(),
        rows,
    };
    if options.json {
        return output::json(&report);
    }
    print(&report);
    Ok(())
}

fn print(report: &Report) {
    output::line(&format!(
        "quadratic, {} inner and {} outer parameters, f64, {} threads",
        report.inner_parameters, report.outer_parameters, report.threads
    ));
    let mut table = TextTable::new([
        "method",
        "version",
        "condition",
        "products",
        "rel. error",
        "cosine",
        "warm ms",
        "first s",
        "peak MiB",
    ]);
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    for row in &report.rows {
        let document = &row.document;
        let error = document.relative_error;
        table.push([
            format!("{} {}", document.package, document.method),
            document.version.clone(),
            format!("{}", row.condition),
            row.products.to_string(),
            error.map_or_else(|| "-".to_owned(), |error| format!("{error:.1e}")),
            number(document.cosine, 4),
            format!("{:.2}", 1e3 * row.warm_seconds),
            format!("{:.2}", row.first_seconds),
            mebibytes(document.peak_rss_bytes),
        ]);
    }
    for line in table.lines() {
        output::line(&line);
    }
    for line in verdicts(report) {
        output::line(&line);
    }
}

/// Ratios of this side to the best peer that solves to the end, for each condition.
fn verdicts(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for (condition, products) in CONDITIONS {
        let solved: Vec<&Row> = report
            .rows
            .iter()
            .filter(|row| row.condition == condition && row.products == products[2])
            .filter(|row| {
                row.document
                    .relative_error
                    .is_some_and(|error| error < 1e-9)
            })
            .collect();
        let is_ours = |row: &&&Row| row.document.package == "meltr-aid";
        let least = |rows: &[&&Row], value: fn(&Row) -> f64| {
            rows.iter()
                .map(|row| value(row))
                .fold(f64::INFINITY, f64::min)
        };
        let (ours, peers): (Vec<&&Row>, Vec<&&Row>) = solved.iter().partition(is_ours);
        if ours.is_empty() || peers.is_empty() {
            continue;
        }
        let ratio = |value: fn(&Row) -> f64| least(&ours, value) / least(&peers, value);
        let memory = |row: &Row| {
            row.document
                .peak_rss_bytes
                .map_or(f64::INFINITY, |bytes| bytes as f64)
        };
        lines.push(format!(
            "condition {condition}, solved to 1e-9, best of ours by best of peers: warm time \
             {:.2} (target 1.0), start to first hypergradient {:.3} (0.1), peak memory {:.2} (0.5)",
            ratio(|row| row.warm_seconds),
            ratio(|row| row.first_seconds),
            ratio(memory),
        ));
    }
    lines
}

/// A process to be started.
struct Side(Command);

fn sides(options: &AidOptions, path: &Path, products: usize) -> Result<Vec<Side>, CliError> {
    let mut sides = Vec::new();
    let this = std::env::current_exe().map_err(CliError::failed)?;
    for (method, _) in OURS {
        let mut command = Command::new(&this);
        let only = [
            method,
            &path.display().to_string(),
            &products.to_string(),
            &options.repeats.to_string(),
        ]
        .join("\n");
        command
            .args(["bench", "aid", "--device", &options.device])
            .env(ONLY, only);
        sides.push(Side(command));
    }
    let mut peers = |python: &Option<PathBuf>, methods: &[&str]| {
        let Some(python) = python else { return };
        for method in methods {
            let mut command = Command::new(python);
            command
                .arg(&options.script)
                .args(["--problem", "quadratic", "--method", method, "--data"])
                .arg(path);
            for (flag, value) in [
                ("--products", products.to_string()),
                ("--repeats", options.repeats.to_string()),
                ("--warmup", WARM_UPS.to_string()),
                ("--threads", threads().to_string()),
                ("--alpha", ALPHA.to_string()),
            ] {
                command.args([flag, &value]);
            }
            sides.push(Side(command));
        }
    };
    peers(&options.python, &TORCH);
    peers(&options.jax_python, &JAX);
    Ok(sides)
}

impl Side {
    fn run(&mut self, condition: f64, products: usize) -> Result<Row, CliError> {
        let shown = self.0.get_program().to_string_lossy().into_owned();
        let failed =
            |error: std::io::Error| CliError::Failed(format!("cannot run `{shown}`: {error}"));
        let started = Instant::now();
        let mut child = self
            .0
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                CliError::Input(format!(
                    "`{shown}` cannot be run: {error}; give --python and --jax-python \
                     interpreters that have the libraries"
                ))
            })?;
        let mut first = None;
        let mut messages = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).lines() {
                let line = line.map_err(failed)?;
                if line.trim() == FIRST && first.is_none() {
                    first = Some(started.elapsed().as_secs_f64());
                } else {
                    messages.push(line);
                }
            }
        }
        let mut text = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut text).map_err(failed)?;
        }
        let status = child.wait().map_err(failed)?;
        let (true, Some(first_seconds)) = (status.success(), first) else {
            return Err(CliError::Failed(format!(
                "`{shown}` ended with {status}: {}",
                messages.last().map_or("", String::as_str)
            )));
        };
        let document: Document = serde_json::from_str(&text).map_err(|error| {
            CliError::Failed(format!(
                "`{shown}` did not write the expected JSON: {error}"
            ))
        })?;
        Ok(Row {
            condition,
            products,
            first_seconds,
            warm_seconds: median(&document.seconds),
            document,
        })
    }
}

/// This side, in a process of its own.
fn one_side(only: &str, device: &str) -> Result<(), CliError> {
    let parts: Vec<&str> = only.split('\n').collect();
    let [method, path, products, repeats] = parts[..] else {
        return Err(CliError::Input(format!("{ONLY} has to hold four lines")));
    };
    let count = |text: &str| text.parse::<usize>().map_err(CliError::failed);
    let (products, repeats) = (count(products)?, count(repeats)?);
    let device = device::parse(device)?;
    let mut problem = ConformanceProblem::read_quadratic(Path::new(path), &device)
        .map_err(|error| CliError::Input(format!("`{path}`: {error}")))?;
    let known = OURS.iter().find(|(name, _)| *name == method);
    if known.is_some_and(|(_, exact)| *exact) {
        problem = problem.with_exact_products();
    }
    let config = match method {
        "identity" => EstimatorConfig::Identity,
        "neumann" => EstimatorConfig::Neumann(Neumann::new(ALPHA, products)),
        _ => EstimatorConfig::ConjugateGradient(
            ConjugateGradient::new(products).with_tolerance(1e-15),
        ),
    };
    let mut estimator = config.build(EstimatorSettings::default());
    let (inner, outer) = (problem.inner(), problem.outer());
    let mut estimate = || -> Result<ParamVector, CliError> {
        let found = estimator
            .estimate(&problem, &inner, &outer)
            .map_err(CliError::failed)?;
        Ok(found.gradient)
    };
    let gradient = estimate()?.to_vec();
    output::note(FIRST);
    for _ in 0..WARM_UPS {
        estimate()?;
    }
    let mut seconds = Vec::with_capacity(repeats);
    for _ in 0..repeats {
        let clock = Instant::now();
        let norm = estimate()?.norm();
        if !norm.is_finite() {
            return Err(CliError::Failed(format!(
                "the norm of the hypergradient is {norm}"
            )));
        }
        seconds.push(clock.elapsed().as_secs_f64());
    }
    let peak_rss_bytes = peak_memory_bytes();
    let exact = problem.expected(Reference::Exact);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let apart: Vec<f64> = gradient.iter().zip(&exact).map(|(a, b)| a - b).collect();
    let size = dot(&exact, &exact).sqrt();
    output::json(&Document {
        method: method.to_owned(),
        package: "meltr-aid".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        seconds,
        peak_rss_bytes,
        relative_error: Some(dot(&apart, &apart).sqrt() / size),
        cosine: Some(dot(&gradient, &exact) / (size * dot(&gradient, &gradient).sqrt())),
    })
}
