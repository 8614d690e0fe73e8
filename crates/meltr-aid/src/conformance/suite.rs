//! Every estimator over every problem.

use burn::tensor::{DType, Device};
use nalgebra::{DMatrix, DVector};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::host::Reference;
use super::problem::ConformanceProblem;
use crate::error::HypergradientError;
use crate::estimator::{Hypergradient, HypergradientEstimator, Implicit, Settings, Unrolled};
use crate::params::normal;
use crate::solver::{ConjugateGradient, Dense, Identity, Neumann, Nystrom, Solver};

/// What came of one estimator on one problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Name of the problem.
    pub problem: String,
    /// Name of the estimator with its settings.
    pub estimator: String,
    /// `|h - h_expected| / |h_expected|`.
    pub error: f64,
    /// What is allowed.
    pub tolerance: f64,
}

impl Outcome {
    /// Whether the error is within the tolerance; a NaN is not.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Size of the inner problems.
const N: usize = 24;

/// The problems of the suite: quadratics of condition 10 and 100, ridge and logistic regression.
#[must_use]
pub fn problems(device: &Device, dtype: DType) -> Vec<ConformanceProblem> {
    let mut problems = Vec::new();
    for condition in [10.0, 100.0] {
        problems.push(ConformanceProblem::random_quadratic(
            [N, 6],
            condition,
            1,
            device,
            dtype,
        ));
    }
    let mut stream = ChaCha8Rng::seed_from_u64(2);
    let truth = normal_vector(&mut stream, N);
    let [x, x_val] = [0, 1].map(|_| normal_matrix(&mut stream, 60, N));
    let noise = [0, 1].map(|_| normal_vector(&mut stream, 60) * 0.5);
    let y = [&x * &truth + &noise[0], &x_val * &truth + &noise[1]];
    let phi = normal_vector(&mut stream, N) * 0.5 - DVector::from_element(N, 1.5);
    problems.push(ConformanceProblem::ridge(
        "ridge",
        [x.clone(), x_val.clone()],
        y.clone(),
        phi.clone(),
        device,
        dtype,
    ));
    let labels = y.map(|y| y.map(|y| f64::from(u8::from(y > 0.0))));
    problems.push(ConformanceProblem::logistic(
        "logistic",
        [x, x_val],
        labels,
        None,
        phi.map(|p| 0.1 * f64::exp(p)),
        device,
        dtype,
    ));
    problems
}

/// `|h - h_expected| / |h_expected|` of `estimator` at the point of `problem`.
///
/// # Errors
///
/// As [`HypergradientEstimator::estimate`].
pub fn relative_error<E: HypergradientEstimator<ConformanceProblem>>(
    estimator: &mut E,
    problem: &ConformanceProblem,
    reference: Reference,
) -> Result<f64, HypergradientError> {
    let (inner, outer) = (problem.inner(), problem.outer());
    let hypergradient = estimator.estimate(problem, &inner, &outer)?;
    Ok(distance(&hypergradient, &problem.expected(reference)))
}

fn distance(hypergradient: &Hypergradient, expected: &[f64]) -> f64 {
    let ours = DVector::from_vec(hypergradient.gradient.to_vec());
    let expected = DVector::from_column_slice(expected);
    if ours.len() != expected.len() {
        return f64::NAN;
    }
    (ours - &expected).norm() / expected.norm()
}

/// Every estimator of this crate over every problem, with products by differences and, where the
/// estimator takes them, in forward mode and from a record.
///
/// # Errors
///
/// The first error of an estimator.
pub fn run(device: &Device, dtype: DType) -> Result<Vec<Outcome>, HypergradientError> {
    let mut outcomes = Vec::new();
    let all = problems(device, dtype).into_iter().flat_map(|problem| {
        let forward = problem.clone().with_forward_mode();
        let recorded = problem.clone().with_recording();
        [
            (problem, ""),
            (forward, ", forward mode"),
            (recorded, ", recorded"),
        ]
    });
    for (problem, products) in all {
        let alpha = 1.0 / problem.largest_curvature();
        for (solver, reference) in rows(alpha) {
            let estimator = format!("{solver:?}").replace(", last: LastSolution(None)", "");
            let mut implicit = Implicit::new(solver);
            outcomes.push(Outcome {
                problem: format!("{}{products}", problem.name()),
                estimator,
                error: relative_error(&mut implicit, &problem, reference)?,
                tolerance: tolerance(&problem, dtype),
            });
        }
        if products.is_empty() {
            // Its products are those of past objectives, by differences in any case.
            outcomes.push(unrolled(&problem, alpha, dtype)?);
        }
    }
    Ok(outcomes)
}

fn rows(alpha: f64) -> Vec<(Solver, Reference)> {
    let damping = 0.05;
    let conjugate = Solver::ConjugateGradient;
    vec![
        (Solver::Identity(Identity {}), Reference::Identity),
        (Solver::Dense(Dense::default()), Reference::Exact),
        (
            conjugate(ConjugateGradient::new(3)),
            Reference::ConjugateGradient { steps: 3 },
        ),
        (conjugate(ConjugateGradient::new(4 * N)), Reference::Exact),
        (
            conjugate(ConjugateGradient::new(4 * N).with_damping(damping)),
            Reference::Damped { damping },
        ),
        (
            Solver::Neumann(Neumann::new(alpha, 5)),
            Reference::Neumann {
                step_size: alpha,
                products: 5,
            },
        ),
        (
            Solver::Nystrom(Nystrom {
                rank: N,
                damping,
                seed: 3,
            }),
            Reference::Damped { damping },
        ),
    ]
}

/// Descent steps that stay at the minimum: unrolling them is the Neumann series.
fn unrolled(
    problem: &ConformanceProblem,
    alpha: f64,
    dtype: DType,
) -> Result<Outcome, HypergradientError> {
    let steps = 5;
    let mut estimator = Unrolled::new(steps, Settings::default());
    let inner = problem.inner();
    for _ in 0..steps {
        estimator.record(&inner, alpha);
    }
    let reference = Reference::Neumann {
        step_size: alpha,
        products: steps - 1,
    };
    let found = estimator.estimate(problem, &inner, &problem.outer())?;
    Ok(Outcome {
        problem: problem.name().to_owned(),
        estimator: format!("Unrolled {{ steps: {steps} }}"),
        error: distance(&found, &problem.expected(reference)),
        tolerance: tolerance(problem, dtype),
    })
}

/// What the suite allows: products in forward mode are exact up to rounding, and so are differences
/// for a quadratic; others are worth two thirds of the digits. Conditions go up to 100.
#[must_use]
pub fn tolerance(problem: &ConformanceProblem, dtype: DType) -> f64 {
    match (dtype, problem.has_products_without_truncation()) {
        (DType::F64, true) => 1e-12,
        (DType::F64, false) => 1e-8,
        (_, true) => 1e-3,
        (_, false) => 1e-2,
    }
}

impl ConformanceProblem {
    /// A quadratic of `[n, m]` inner and outer parameters at its inner minimum; the eigenvalues of
    /// its Hessian are spread evenly in their logarithm from `1 / condition` to 1.
    #[must_use]
    pub fn random_quadratic(
        [n, m]: [usize; 2],
        condition: f64,
        seed: u64,
        device: &Device,
        dtype: DType,
    ) -> Self {
        let mut stream = ChaCha8Rng::seed_from_u64(seed);
        let q = normal_matrix(&mut stream, n, n).qr().q();
        let last = n.saturating_sub(1).max(1) as f64;
        let eigenvalues = DVector::from_fn(n, |i, _| condition.powf(i as f64 / last - 1.0));
        let a = &q * DMatrix::from_diagonal(&eigenvalues) * q.transpose();
        let a = (&a + a.transpose()) * 0.5;
        let c = normal_matrix(&mut stream, n, m) / (n as f64).sqrt();
        let [b, f] = [0, 1].map(|_| normal_vector(&mut stream, n));
        let phi = normal_vector(&mut stream, m) * 0.1;
        let w = -super::host::solve(&a, &(&c * &phi + &b));
        Self::quadratic(
            &format!("quadratic_{condition}"),
            [a, c],
            [b, f],
            [w, phi],
            device,
            dtype,
        )
    }
}

fn normal_matrix(stream: &mut ChaCha8Rng, rows: usize, columns: usize) -> DMatrix<f64> {
    DMatrix::from_fn(rows, columns, |_, _| normal(stream))
}

fn normal_vector(stream: &mut ChaCha8Rng, n: usize) -> DVector<f64> {
    DVector::from_fn(n, |_, _| normal(stream))
}
