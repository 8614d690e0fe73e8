//! Conjugate gradients.

use serde::{Deserialize, Serialize};

use super::{LastSolution, LinearSolver, Solution, SymmetricOperator, require_damping};
use crate::certificate::Finding;
use crate::error::HypergradientError;
use crate::params::ParamVector;

/// Conjugate gradients on `A u = v`, `A = H + damping I`: one product a step.
///
/// For a positive definite `A` the error in the norm of `A` falls at least like
/// `((√κ - 1) / (√κ + 1))^k`, `κ` the condition of `A`, and is zero after `n` steps but for
/// rounding. A direction of zero or negative curvature ends the iteration with what was reached
/// before it, and is reported: the answer is then that of the subspace on which `A` is positive.
///
/// Where rounding has made the residual that the iteration carries along smaller than the true
/// one, `tolerance` bounds the carried one. [`Implicit`](crate::Implicit) reports the true one
/// where it comes for free.
///
/// # References
///
/// - Hestenes and Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, Journal of
///   Research of the National Bureau of Standards 49, 1952.
/// - Pedregosa, [Hyperparameter optimization with approximate
///   gradient](https://arxiv.org/abs/1602.02355), ICML 2016.
/// - The next direction is built from the new residual. `betty-ml` 0.2.1 and `hypergrad` 0.0.1
///   build it from the old one, which diverges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConjugateGradient {
    /// Largest number of steps, at least 1.
    pub max_steps: usize,
    /// Relative residual at which to end; 0 takes all steps.
    pub tolerance: f64,
    /// What is added to the diagonal of the Hessian, at least 0.
    pub damping: f64,
    /// Whether to start at the last solution instead of 0. The residual of the start costs one
    /// product more.
    pub warm_start: bool,
    #[serde(skip)]
    pub(super) last: LastSolution,
}

impl Default for ConjugateGradient {
    fn default() -> Self {
        Self {
            max_steps: 5,
            tolerance: 1e-12,
            damping: 0.0,
            warm_start: false,
            last: LastSolution::default(),
        }
    }
}

impl ConjugateGradient {
    /// At most `max_steps` steps without damping.
    #[must_use]
    pub fn new(max_steps: usize) -> Self {
        Self {
            max_steps,
            ..Self::default()
        }
    }

    /// The same with `damping` on the diagonal.
    #[must_use]
    pub fn with_damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// The same with this relative residual to end at; 0 takes all steps.
    #[must_use]
    pub fn with_tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// The same, starting every solve but the first at the last solution.
    #[must_use]
    pub fn with_warm_start(mut self) -> Self {
        self.warm_start = true;
        self
    }
}

/// Share of the largest curvature met below which one counts as zero.
const ZERO_CURVATURE: f64 = 1e-14;

impl LinearSolver for ConjugateGradient {
    fn name(&self) -> &'static str {
        "conjugate_gradient"
    }

    fn damping(&self) -> f64 {
        self.damping
    }

    fn solve(
        &mut self,
        operator: &mut dyn SymmetricOperator,
        v: &ParamVector,
    ) -> Result<Solution, HypergradientError> {
        require_damping(self.damping)?;
        HypergradientError::require_setting(
            self.max_steps > 0,
            "max_steps",
            self.max_steps as f64,
            "at least 1",
        )?;
        let size = v.norm();
        let (mut u, mut r) = match self.last.take_if(self.warm_start, operator) {
            Some(last) => {
                let product = operator.apply(&last)?.add_scaled(self.damping, &last);
                let residual = v.clone().add_scaled(-1.0, &product);
                (last, residual)
            }
            None => (ParamVector::zero(), v.clone()),
        };
        let mut p = r.clone();
        let mut rr = r.dot(&r);
        // `<p, p>` by recurrence: the new residual is orthogonal to the old direction.
        let mut pp = rr;
        let mut findings = Vec::new();
        let (mut smallest, mut largest) = (f64::INFINITY, 0.0f64);
        for _ in 0..self.max_steps {
            if rr.sqrt() <= self.tolerance * size || rr == 0.0 {
                break;
            }
            let mut ap = operator.apply(&p)?;
            if self.damping > 0.0 {
                ap = ap.add_scaled(self.damping, &p);
            }
            let pap = HypergradientError::require_finite(
                "the curvature of the inner objective along a direction",
                p.dot(&ap),
            )?;
            let curvature = pap / pp;
            smallest = smallest.min(curvature - self.damping);
            largest = largest.max(curvature);
            if curvature <= ZERO_CURVATURE * largest {
                findings.push(Finding::Indefinite { curvature });
                break;
            }
            let alpha = rr / pap;
            u = u.add_scaled(alpha, &p);
            r = r.add_scaled(-alpha, &ap);
            let rr_next = r.dot(&r);
            let beta = rr_next / rr;
            p = p.scale(beta).add_scaled(1.0, &r);
            pp = rr_next + beta * beta * pp;
            rr = rr_next;
        }
        self.last.keep_if(self.warm_start, &u);
        Ok(Solution {
            vector: u,
            relative_residual: Some(rr.sqrt() / size),
            smallest_curvature: smallest.is_finite().then_some(smallest),
            largest_curvature: smallest.is_finite().then_some(largest - self.damping),
            findings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_operator::{MatrixOperator, relative_error};
    use super::*;

    const V: [f64; 5] = [1.0, -2.0, 0.5, 3.0, 0.1];

    #[test]
    fn a_positive_definite_system_of_size_n_ends_in_n_steps() {
        let mut operator = MatrixOperator::with_eigenvalues(&[0.01, 0.2, 0.5, 0.7, 1.0]);
        let v = operator.vector(&V);
        let exact = operator.exact(&v, 0.0);
        let solution = ConjugateGradient::new(5).solve(&mut operator, &v).unwrap();
        assert!(relative_error(&solution.vector.to_vec(), &exact) < 1e-11);
        assert!(solution.relative_residual.unwrap() < 1e-11);
        assert!(solution.smallest_curvature.unwrap() >= 0.01 - 1e-12);
        assert!(solution.findings.is_empty());
    }

    #[test]
    fn negative_curvature_is_reported_and_the_answer_stays_finite() {
        let mut operator = MatrixOperator::with_eigenvalues(&[-0.3, 0.2, 0.5, 0.7, 1.0]);
        let v = operator.vector(&V);
        let solution = ConjugateGradient::new(20).solve(&mut operator, &v).unwrap();
        assert!(matches!(
            solution.findings[..],
            [Finding::Indefinite { .. }]
        ));
        assert!(solution.smallest_curvature.unwrap() < 0.0);
        assert!(solution.vector.norm().is_finite());
        // Damping beyond the negative eigenvalue makes it definite.
        let solution = ConjugateGradient::new(20)
            .with_damping(0.5)
            .solve(&mut operator, &v)
            .unwrap();
        let exact = operator.exact(&v, 0.5);
        assert!(solution.findings.is_empty());
        assert!(relative_error(&solution.vector.to_vec(), &exact) < 1e-10);
    }

    #[test]
    fn a_singular_system_with_no_solution_is_reported() {
        // The right-hand side has a part in the null space.
        let mut operator = MatrixOperator::with_eigenvalues(&[0.0, 0.0, 0.0, 0.0, 0.0]);
        let v = operator.vector(&V);
        let solution = ConjugateGradient::new(3).solve(&mut operator, &v).unwrap();
        assert!(matches!(
            solution.findings[..],
            [Finding::Indefinite { .. }]
        ));
        assert_eq!(solution.vector.norm(), 0.0);
    }

    #[test]
    fn a_warm_start_at_the_solution_takes_one_product() {
        let mut operator = MatrixOperator::with_eigenvalues(&[0.1, 0.2, 0.5, 0.7, 1.0]);
        let v = operator.vector(&V);
        let mut solver = ConjugateGradient {
            warm_start: true,
            tolerance: 1e-9,
            ..ConjugateGradient::new(10)
        };
        solver.solve(&mut operator, &v).unwrap();
        let before = operator.products;
        solver.solve(&mut operator, &v).unwrap();
        assert_eq!(operator.products - before, 1);
    }
}
