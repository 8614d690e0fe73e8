//! Implicit differentiation with a linear solver of choice.

use super::{Hypergradient, HypergradientEstimator, Settings};
use crate::certificate::Certificate;
use crate::error::HypergradientError;
use crate::problem::BilevelProblem;
use crate::products::{Hessian, Point};
use crate::solver::{Identity, LinearSolver, SymmetricOperator};

use super::settings::OuterGradients;

/// `dF/dphi ≈ ∂F/∂phi - (∂²f/∂phi∂w)ᵀ u`, with `u` from a [`LinearSolver`] for `H u = v`.
///
/// Exact where the solve is and the inner point is a minimum. Away from it the formula itself is
/// off, whatever the solver.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Implicit<S> {
    /// The solver.
    pub solver: S,
    /// Everything else.
    pub settings: Settings,
}

impl<S: LinearSolver> Implicit<S> {
    /// The estimator with this solver and default settings.
    #[must_use]
    pub fn new(solver: S) -> Self {
        Self {
            solver,
            settings: Settings::default(),
        }
    }
}

impl Implicit<Identity> {
    /// The identity estimator: no product with the Hessian.
    #[must_use]
    pub fn identity(settings: Settings) -> Self {
        Self {
            solver: Identity {},
            settings,
        }
    }
}

impl<P: BilevelProblem, S: LinearSolver> HypergradientEstimator<P> for Implicit<S> {
    fn name(&self) -> &'static str {
        self.solver.name()
    }

    fn estimate(
        &mut self,
        problem: &P,
        inner: &P::Inner,
        outer: &P::Outer,
    ) -> Result<Hypergradient, HypergradientError> {
        let gradients = OuterGradients::of(problem, inner, outer, &self.settings)?;
        let name = self.solver.name();
        if gradients.norm == 0.0 {
            return Ok(gradients.without_solve(name));
        }
        let point = Point::new(problem, inner, outer);
        let damping = self.solver.damping();
        let mut certificate = Certificate {
            estimator: name.to_owned(),
            damping,
            backward_passes: 1,
            ..Certificate::default()
        };
        let mut difference = self.settings.hessian_difference.clone();
        let mut hessian = Hessian::new(&point, &mut difference);
        let solution = self.solver.solve(&mut hessian, &gradients.v)?;
        let mixed = self.settings.mixed(&point, &solution.vector)?;
        let product = match &mixed.hessian_product {
            Some(product) => Some(product.clone()),
            None if self.settings.measure_residual => Some(hessian.apply(&solution.vector)?),
            None => None,
        };
        hessian.certify(&mut certificate);
        self.settings.hessian_difference = difference;
        certificate.relative_residual = match product {
            Some(product) => {
                let residual = product
                    .add_scaled(damping, &solution.vector)
                    .add_scaled(-1.0, &gradients.v);
                Some(residual.norm() / gradients.norm)
            }
            None => solution.relative_residual,
        };
        certificate.smallest_curvature = solution.smallest_curvature;
        certificate.largest_curvature = solution.largest_curvature;
        certificate.findings = solution.findings;
        self.settings
            .finish(&point, gradients, solution.vector, mixed, certificate)
    }
}
