//! Agreement with the project's shared fixtures `bilevel_quadratic` and `bilevel_logreg_hpo`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device};
use meltr_aid::conformance::{ConformanceProblem, Vector};
use meltr_aid::{
    BilevelProblem, ConjugateGradient, Hypergradient, HypergradientEstimator, Identity, Implicit,
    LinearSolver, Neumann, ParamVector, Settings, Unrolled,
};
use nalgebra::{DMatrix, DVector};

/// The folder of a fixture: under `MELTR_SHARED`, or beside the workspace; `None` if there is
/// none.
pub(crate) fn fixture(name: &str) -> Option<PathBuf> {
    let shared = match std::env::var_os("MELTR_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let folder = shared.join("fixtures").join(name);
    if folder.is_dir() {
        Some(folder)
    } else {
        println!(
            "skipped: {} does not exist; set MELTR_SHARED",
            folder.display()
        );
        None
    }
}

/// The arrays of a file, row after row.
pub(crate) struct Arrays(BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Arrays {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let arrays = file
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let data = view.data();
                let values = match view.dtype() {
                    safetensors::Dtype::F64 => data
                        .chunks_exact(8)
                        .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                        .collect(),
                    safetensors::Dtype::F32 => data
                        .chunks_exact(4)
                        .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                        .collect(),
                    safetensors::Dtype::I64 => data
                        .chunks_exact(8)
                        .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64)
                        .collect(),
                    other => panic!("{name} is {other:?}"),
                };
                (name, (view.shape().to_vec(), values))
            })
            .collect();
        Self(arrays)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn values(&self, name: &str) -> &[f64] {
        &self.0[name].1
    }

    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        &self.0[name].0
    }

    fn vector(&self, name: &str) -> DVector<f64> {
        DVector::from_column_slice(self.values(name))
    }

    fn matrix(&self, name: &str) -> DMatrix<f64> {
        let shape = self.shape(name);
        DMatrix::from_row_slice(shape[0], shape[1], self.values(name))
    }
}

fn relative(ours: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(ours.len(), expected.len());
    let distance: f64 = ours
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    let size: f64 = expected.iter().map(|b| b * b).sum();
    (distance / size).sqrt()
}

fn quadratic(arrays: &Arrays, w: &str) -> ConformanceProblem {
    ConformanceProblem::quadratic(
        "fixture",
        [arrays.matrix("A"), arrays.matrix("C")],
        [arrays.vector("b"), arrays.vector("f")],
        [arrays.vector(w), arrays.vector("x0")],
        &Device::default(),
        DType::F64,
    )
}

fn hypergradient<S: LinearSolver>(problem: &ConformanceProblem, solver: S) -> Hypergradient {
    Implicit::new(solver)
        .estimate(problem, &problem.inner(), &problem.outer())
        .unwrap()
}

/// `cg.K5` gives 5, `neumann.K20.a0.1` gives 20 and 0.1.
fn settings(method: &str) -> (usize, f64) {
    let number = |mark: &str| {
        let at = method.find(mark).map(|at| at + mark.len())?;
        let rest = &method[at..];
        let end = rest.find(".a").unwrap_or(rest.len());
        rest[..end].parse::<f64>().ok()
    };
    (number(".K").unwrap() as usize, number(".a").unwrap_or(1.0))
}

#[test]
fn estimators_give_the_numbers_of_the_quadratic_fixture() {
    let Some(folder) = fixture("bilevel_quadratic") else {
        return;
    };
    for condition in [10, 100] {
        let arrays = Arrays::read(&folder.join(format!("kappa{condition}.safetensors")));
        let problem = quadratic(&arrays, "z_star");
        let mut checked = 0;
        for name in arrays.names() {
            let Some(method) = name.strip_prefix("hypergrad.") else {
                continue;
            };
            let expected = arrays.values(name);
            let ours = if method == "identity" {
                hypergradient(&problem, Identity {})
            } else if method.starts_with("neumann.") {
                let (products, step_size) = settings(method);
                hypergradient(&problem, Neumann::new(step_size, products))
            } else if method.starts_with("cg.") {
                // The longest runs are held against the exact answer below.
                match settings(method) {
                    (steps, _) if steps <= 20 => {
                        hypergradient(&problem, ConjugateGradient::new(steps))
                    }
                    _ => continue,
                }
            } else if let Some(method) = method.strip_prefix("implicit_cg5_at_z") {
                let at = quadratic(&arrays, &format!("z.itd{method}"));
                hypergradient(&at, ConjugateGradient::new(5))
            } else if method.starts_with("itd.") {
                unrolled(&problem, settings(method))
            } else {
                continue;
            };
            let error = relative(&ours.gradient.to_vec(), expected);
            println!("kappa {condition} {method}: {error:.1e}");
            assert!(error < 1e-10, "kappa {condition} {method}: {error}");
            checked += 1;
        }
        assert!(checked >= 15, "{checked}");
    }
}

/// Descent from zero, every step of it recorded.
fn unrolled(problem: &ConformanceProblem, (steps, rate): (usize, f64)) -> Hypergradient {
    let mut estimator = Unrolled::new(steps, Settings::default());
    let outer = problem.outer();
    let n = problem.inner().values.dims()[0];
    let mut w = problem.module(&vec![0.0; n]);
    for _ in 0..steps {
        estimator.record(&w, rate);
        w = descend(problem, &w, &outer, rate);
    }
    estimator.estimate(problem, &w, &outer).unwrap()
}

fn descend(problem: &ConformanceProblem, w: &Vector, outer: &Vector, rate: f64) -> Vector {
    let objective = problem.inner_objective(w, outer);
    let gradient = ParamVector::from_gradients(&mut objective.backward(), w);
    meltr_aid::shifted(w, -rate, &gradient).train()
}

#[test]
fn conjugate_gradients_reach_ten_times_the_machine_epsilon() {
    let Some(folder) = fixture("bilevel_quadratic") else {
        return;
    };
    for condition in [10, 100] {
        let arrays = Arrays::read(&folder.join(format!("kappa{condition}.safetensors")));
        let problem = quadratic(&arrays, "z_star");
        let ours = hypergradient(&problem, ConjugateGradient::new(200).with_tolerance(1e-16));
        let exact = arrays.values("hypergrad.exact");
        let error = relative(&ours.gradient.to_vec(), exact);
        println!("kappa {condition}: {error:.2e} {:?}", ours.certificate);
        assert!(error < 10.0 * f64::EPSILON, "kappa {condition}: {error}");
        let at = |name: &str| relative(&ours.gradient.to_vec(), arrays.values(name));
        let long = if condition == 10 {
            "hypergrad.cg.K60"
        } else {
            "hypergrad.cg.K200"
        };
        assert!(at(long) < 1e-9);
    }
}

/// Descent from zero, then one outer step with momentum, a thousand times.
fn trajectory(
    arrays: &Arrays,
    mut estimate: impl FnMut(&ConformanceProblem, &[Vector], &Vector) -> Vec<f64>,
) -> Vec<f64> {
    const RATE: f64 = 0.1;
    let n = arrays.shape("x_train")[1];
    let zeros = DVector::zeros(n);
    let mut h = vec![1.0; n];
    let mut velocity = vec![0.0; n];
    let problem = ConformanceProblem::logistic(
        "fixture",
        [arrays.matrix("x_train"), arrays.matrix("x_val")],
        [arrays.vector("y_train"), arrays.vector("y_val")],
        Some(zeros),
        DVector::from_element(n, 1.0),
        &Device::default(),
        DType::F64,
    );
    let mut losses = Vec::new();
    for _ in 0..1000 {
        let outer = problem.module(&h);
        let mut iterates = vec![problem.inner()];
        for step in 0..100 {
            iterates.push(descend(&problem, &iterates[step], &outer, RATE));
        }
        let loss = problem.outer_objective(&iterates[100], &outer);
        losses.push(loss.into_data().iter::<f64>().sum());
        let gradient = estimate(&problem, &iterates, &outer);
        for ((h, velocity), gradient) in h.iter_mut().zip(&mut velocity).zip(gradient) {
            *velocity = 0.9 * *velocity + gradient;
            *h = (*h - *velocity).max(1e-8);
        }
    }
    losses
}

fn follows_the_published_path(
    method: &str,
    estimate: impl FnMut(&ConformanceProblem, &[Vector], &Vector) -> Vec<f64>,
) {
    let Some(folder) = fixture("bilevel_logreg_hpo") else {
        return;
    };
    let arrays = Arrays::read(&folder.join("data.safetensors"));
    let expected = arrays.values(&format!("traj.{method}.val_loss"));
    let ours = trajectory(&arrays, estimate);
    for step in [0, 10, 100, 520, 990] {
        let error = (ours[step] - expected[step]).abs();
        println!("{method} {step}: {} off by {error:.1e}", ours[step]);
        assert!(error < 1e-6, "{method} at {step}: {error}");
    }
}

#[test]
fn unrolling_follows_the_published_path() {
    let mut estimator = Unrolled::new(10, Settings::default());
    follows_the_published_path("reverse", |problem, iterates, outer| {
        estimator.clear();
        for w in &iterates[90..100] {
            estimator.record(w, 0.1);
        }
        let found = estimator.estimate(problem, &iterates[100], outer).unwrap();
        found.gradient.to_vec()
    });
}

#[test]
fn the_fixed_point_follows_the_published_path() {
    // Ten terms: nine products.
    let mut estimator = Implicit::new(Neumann::new(0.1, 9));
    follows_the_published_path("fixed_point", |problem, iterates, outer| {
        let found = estimator.estimate(problem, &iterates[100], outer).unwrap();
        found.gradient.to_vec()
    });
}

#[test]
fn conjugate_gradients_follow_the_published_path() {
    let mut estimator = Implicit::new(ConjugateGradient::new(10));
    follows_the_published_path("cg", |problem, iterates, outer| {
        let found = estimator.estimate(problem, &iterates[100], outer).unwrap();
        found.gradient.to_vec()
    });
}
