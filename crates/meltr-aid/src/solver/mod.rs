//! Approximate solutions of `(H + damping I) u = v` from products with `H` alone.

mod conjugate_gradient;
mod dense;
mod identity;
mod neumann;
mod nystrom;

pub use conjugate_gradient::ConjugateGradient;
pub use dense::Dense;
pub use identity::Identity;
pub use neumann::Neumann;
pub use nystrom::Nystrom;

use serde::{Deserialize, Serialize};

use crate::certificate::Finding;
use crate::error::HypergradientError;
use crate::params::ParamVector;

/// A symmetric matrix known by its products.
pub trait SymmetricOperator {
    /// The product with `u`; one in closed form may be not finite, which the solver or the
    /// estimator finds when it takes a norm or an inner product.
    ///
    /// # Errors
    ///
    /// [`HypergradientError::NonFinite`] if an objective or a difference is not finite.
    fn apply(&mut self, u: &ParamVector) -> Result<ParamVector, HypergradientError>;

    /// The zero vector of the space that the matrix acts on, every parameter present.
    fn zeros(&self) -> ParamVector;
}

/// What a solver found.
#[derive(Debug, Clone, Default)]
pub struct Solution {
    /// The approximate solution `u`.
    pub vector: ParamVector,
    /// `|(H + damping I) u - v| / |v|` where the solver knows it.
    pub relative_residual: Option<f64>,
    /// Smallest `<p, H p> / <p, p>` met, without damping.
    pub smallest_curvature: Option<f64>,
    /// Largest of the same.
    pub largest_curvature: Option<f64>,
    /// What the solver found wanting.
    pub findings: Vec<Finding>,
}

/// A way to solve `(H + damping I) u = v`.
///
/// A solver may keep what it wants from one call to the next: the warm start of the next solve,
/// for one. It must not depend on it being there.
pub trait LinearSolver {
    /// Name in certificates and configurations.
    fn name(&self) -> &'static str;

    /// What is added to the diagonal of `H`.
    fn damping(&self) -> f64 {
        0.0
    }

    /// An approximate solution for the right-hand side `v`, which is neither zero nor non-finite.
    ///
    /// # Errors
    ///
    /// [`HypergradientError`] if a setting is out of range or a product is not finite.
    fn solve(
        &mut self,
        operator: &mut dyn SymmetricOperator,
        v: &ParamVector,
    ) -> Result<Solution, HypergradientError>;
}

/// One of the solvers of this crate, as read from a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Solver {
    /// See [`Identity`].
    Identity(Identity),
    /// See [`Neumann`].
    Neumann(Neumann),
    /// See [`ConjugateGradient`].
    ConjugateGradient(ConjugateGradient),
    /// See [`Nystrom`].
    Nystrom(Nystrom),
    /// See [`Dense`].
    Dense(Dense),
}

impl Solver {
    /// Where the next solve starts, if it starts where the last one ended.
    pub(crate) fn last_solution(&self) -> Option<&ParamVector> {
        match self {
            Self::Neumann(solver) => solver.last.0.as_ref(),
            Self::ConjugateGradient(solver) => solver.last.0.as_ref(),
            Self::Identity(_) | Self::Nystrom(_) | Self::Dense(_) => None,
        }
    }

    /// Lets the next solve start at `solution`, in solvers that start where the last one ended.
    pub(crate) fn set_last_solution(&mut self, solution: Option<ParamVector>) {
        match self {
            Self::Neumann(solver) => solver.last = LastSolution(solution),
            Self::ConjugateGradient(solver) => solver.last = LastSolution(solution),
            Self::Identity(_) | Self::Nystrom(_) | Self::Dense(_) => {}
        }
    }

    fn as_solver(&self) -> &dyn LinearSolver {
        match self {
            Self::Identity(solver) => solver,
            Self::Neumann(solver) => solver,
            Self::ConjugateGradient(solver) => solver,
            Self::Nystrom(solver) => solver,
            Self::Dense(solver) => solver,
        }
    }
}

impl LinearSolver for Solver {
    fn name(&self) -> &'static str {
        self.as_solver().name()
    }

    fn damping(&self) -> f64 {
        self.as_solver().damping()
    }

    fn solve(
        &mut self,
        operator: &mut dyn SymmetricOperator,
        v: &ParamVector,
    ) -> Result<Solution, HypergradientError> {
        match self {
            Self::Identity(solver) => solver.solve(operator, v),
            Self::Neumann(solver) => solver.solve(operator, v),
            Self::ConjugateGradient(solver) => solver.solve(operator, v),
            Self::Nystrom(solver) => solver.solve(operator, v),
            Self::Dense(solver) => solver.solve(operator, v),
        }
    }
}

/// Where the next solve may start. No part of a configuration, so any two are equal.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastSolution(Option<ParamVector>);

impl PartialEq for LastSolution {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl LastSolution {
    /// The solution, unless it is that of another module.
    fn take_if(&mut self, wanted: bool, operator: &dyn SymmetricOperator) -> Option<ParamVector> {
        let last = self.0.take().filter(|_| wanted)?;
        operator.zeros().covers(&last).then_some(last)
    }

    fn keep_if(&mut self, wanted: bool, solution: &ParamVector) {
        self.0 = wanted.then(|| solution.clone());
    }
}

fn require_damping(damping: f64) -> Result<(), HypergradientError> {
    HypergradientError::require_setting(
        damping.is_finite() && damping >= 0.0,
        "damping",
        damping,
        "finite and at least 0",
    )
}

/// A matrix on the host as an operator, for the tests of the solvers.
#[cfg(test)]
pub(crate) mod test_operator {
    use burn::module::ParamId;
    use burn::tensor::{DType, Device, Tensor, TensorData};
    use nalgebra::{DMatrix, DVector};

    use super::*;

    pub(crate) struct MatrixOperator {
        matrix: DMatrix<f64>,
        id: ParamId,
        pub(crate) products: usize,
    }

    impl MatrixOperator {
        pub(crate) fn new(matrix: DMatrix<f64>) -> Self {
            Self {
                matrix,
                id: ParamId::new(),
                products: 0,
            }
        }

        /// Symmetric, with these eigenvalues, in a basis that depends on their number alone.
        pub(crate) fn with_eigenvalues(eigenvalues: &[f64]) -> Self {
            let n = eigenvalues.len();
            let seed = DMatrix::from_fn(n, n, |i, j| ((i * 7 + j * 3 + i * j) as f64 * 0.37).sin());
            let q = seed.qr().q();
            let diagonal = DMatrix::from_diagonal(&DVector::from_column_slice(eigenvalues));
            Self::new(&q * diagonal * q.transpose())
        }

        pub(crate) fn vector(&self, values: &[f64]) -> ParamVector {
            let data = TensorData::new(values.to_vec(), [values.len()]);
            let tensor = Tensor::<1>::from_data(data, (&Device::default(), DType::F64));
            let mut vector = ParamVector::zero();
            vector.insert(self.id, tensor);
            vector
        }

        pub(crate) fn exact(&self, v: &ParamVector, damping: f64) -> Vec<f64> {
            let n = self.matrix.nrows();
            let damped = &self.matrix + DMatrix::identity(n, n) * damping;
            let solution = damped.lu().solve(&DVector::from_vec(v.to_vec())).unwrap();
            solution.as_slice().to_vec()
        }
    }

    impl SymmetricOperator for MatrixOperator {
        fn apply(&mut self, u: &ParamVector) -> Result<ParamVector, HypergradientError> {
            self.products += 1;
            let product = &self.matrix * DVector::from_vec(u.to_vec());
            Ok(self.vector(product.as_slice()))
        }

        fn zeros(&self) -> ParamVector {
            self.vector(&vec![0.0; self.matrix.nrows()])
        }
    }

    /// `|a - b| / |b|`.
    pub(crate) fn relative_error(a: &[f64], b: &[f64]) -> f64 {
        let distance: f64 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
        let size: f64 = b.iter().map(|b| b * b).sum();
        (distance / size).sqrt()
    }
}
