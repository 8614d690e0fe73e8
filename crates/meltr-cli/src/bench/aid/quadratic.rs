//! A quadratic of known hypergradient.

use std::path::Path;

use burn::tensor::{DType, Device};
use meltr_aid::conformance::{ConformanceProblem, Vector};
use meltr_aid::{ConjugateGradient, EstimatorConfig, Neumann, ParamVector, Settings};

use super::side::ALPHA;
use super::subject::{AtPoint, Named, Order, Subject};
use super::{Scenario, Target, Task};
use crate::bench::agreement::read_answer;
use crate::error::CliError;

/// Inner and outer parameters.
const SIZE: [usize; 2] = [300, 60];

const SEED: u64 = 7;

/// Condition and the numbers of products.
const CONDITIONS: [(f64, &[usize]); 2] = [(10.0, &[5, 20, 60]), (100.0, &[5, 20, 200])];

/// Name of the answer in the files of both sides.
const ANSWER: &str = "hypergradient";

pub(super) fn scenarios(folder: &Path) -> Result<Vec<Scenario>, CliError> {
    CONDITIONS
        .into_iter()
        .map(|(condition, products)| {
            let data = folder.join(format!("quadratic_{condition}.safetensors"));
            ConformanceProblem::random_quadratic(
                SIZE,
                condition,
                SEED,
                &Device::default(),
                DType::F64,
            )
            .write_quadratic(&data)
            .map_err(CliError::failed)?;
            Ok(Scenario {
                task: Task::Quadratic,
                label: format!("quadratic, condition {condition}"),
                about: format!("{} inner and {} outer parameters, f64", SIZE[0], SIZE[1]),
                answer: Some(read_answer(&data, |name| name == ANSWER)?),
                data,
                products: products.to_vec(),
                ours: &["identity", "neumann", "cg", "cg_exact_products"],
                torch: &[
                    "torch_identity",
                    "betty_darts",
                    "betty_neumann",
                    "betty_cg",
                    "betty_cg_fixed",
                    "torchopt_cg",
                    "torchopt_ns",
                    "hypergrad_cg",
                    "hypergrad_neumann",
                ],
                jax: &["jaxopt_cg", "optimistix_cg"],
                peer_arguments: &["--problem", "quadratic"],
                target: Target::Solved { error: 1e-9 },
            })
        })
        .collect()
}

pub(super) fn subject(order: &Order<'_>, device: &Device) -> Result<Box<dyn Subject>, CliError> {
    let mut problem = ConformanceProblem::read_quadratic(order.data, device)
        .map_err(|error| CliError::Input(format!("`{}`: {error}", order.data.display())))?;
    if order.method == "cg_exact_products" {
        problem = problem.with_exact_products();
    }
    let config = match order.method {
        "identity" => EstimatorConfig::Identity,
        "neumann" => EstimatorConfig::Neumann(Neumann::new(ALPHA, order.products)),
        _ => EstimatorConfig::ConjugateGradient(
            ConjugateGradient::new(order.products).with_tolerance(1e-15),
        ),
    };
    Ok(Box::new(AtPoint {
        inner: problem.inner(),
        outer: problem.outer(),
        problem,
        estimator: config.build(Settings::default()),
        name: named,
    }))
}

fn named(_: &Vector, hypergradient: &ParamVector) -> Named {
    vec![(ANSWER.to_owned(), hypergradient.to_vec())]
}
