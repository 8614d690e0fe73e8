//! The truncated Neumann series, also known as the fixed-point iteration.

use serde::{Deserialize, Serialize};

use super::{LastSolution, LinearSolver, Solution, SymmetricOperator, require_damping};
use crate::certificate::Finding;
use crate::error::HypergradientError;
use crate::params::ParamVector;

/// `u = alpha sum_{k=0}^{K} (I - alpha A)^k v`, `A = H + damping I`: `K` products.
///
/// The fixed-point iteration `u ← (I - alpha A) u + alpha v` from `u = alpha v`, taken `K` times,
/// gives the same. The error falls like `(1 - alpha lambda_min)^(K+1)`, if `alpha` is below
/// `2 / lambda_max`; beyond, the series grows, which is found and reported. With `alpha` the
/// learning rate of a plain gradient descent that has converged, this is what unrolling its last
/// `K + 1` steps gives.
///
/// # References
///
/// - Lorraine et al., [Optimizing Millions of Hyperparameters by Implicit
///   Differentiation](https://arxiv.org/abs/1911.02590), AISTATS 2020, Algorithm 3. The factor
///   `alpha` in front of the sum is missing in some released code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Neumann {
    /// `alpha`, above 0.
    pub step_size: f64,
    /// `K`, the number of products with the Hessian; 0 gives `alpha v`.
    pub products: usize,
    /// What is added to the diagonal of the Hessian, at least 0.
    pub damping: f64,
    /// Whether the iteration starts at the last solution instead of `alpha v`.
    pub warm_start: bool,
    #[serde(skip)]
    pub(super) last: LastSolution,
}

impl Default for Neumann {
    fn default() -> Self {
        Self {
            step_size: 0.1,
            products: 5,
            damping: 0.0,
            warm_start: false,
            last: LastSolution::default(),
        }
    }
}

impl Neumann {
    /// `K = products` products with step size `alpha`, without damping.
    #[must_use]
    pub fn new(step_size: f64, products: usize) -> Self {
        Self {
            step_size,
            products,
            ..Self::default()
        }
    }

    /// The same with `damping` on the diagonal.
    #[must_use]
    pub fn with_damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// The same, starting every solve but the first at the last solution.
    #[must_use]
    pub fn with_warm_start(mut self) -> Self {
        self.warm_start = true;
        self
    }
}

/// Growth of the terms at which a series counts as divergent.
const DIVERGENT_GROWTH: f64 = 1.01;

impl LinearSolver for Neumann {
    fn name(&self) -> &'static str {
        "neumann"
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
            self.step_size.is_finite() && self.step_size > 0.0,
            "step_size",
            self.step_size,
            "finite and above 0",
        )?;
        let start = self.last.take_if(self.warm_start, operator);
        let (mut smallest, mut largest): (Option<f64>, Option<f64>) = (None, None);
        let mut apply = |term: &ParamVector| -> Result<ParamVector, HypergradientError> {
            let product = operator.apply(term)?;
            let size = term.dot(term);
            if size > 0.0 {
                let curvature = term.dot(&product) / size;
                smallest = Some(smallest.map_or(curvature, |known| known.min(curvature)));
                largest = Some(largest.map_or(curvature, |known| known.max(curvature)));
            }
            Ok(product)
        };
        // The residual of the iterate obeys r ← (I - alpha A) r, and each step adds alpha r.
        let (mut vector, mut term, steps) = match start {
            Some(last) => {
                let product = apply(&last)?.add_scaled(self.damping, &last);
                let residual = v.clone().add_scaled(-1.0, &product);
                // A product was spent on the residual of the start.
                (last, residual, self.products.saturating_sub(1))
            }
            None => (ParamVector::zero(), v.clone(), self.products),
        };
        let first = term.norm();
        vector = vector.add_scaled(self.step_size, &term);
        for _ in 0..steps {
            let product = apply(&term)?;
            let kept = 1.0 - self.step_size * self.damping;
            term = if kept == 1.0 {
                term.add_scaled(-self.step_size, &product)
            } else {
                term.scale(kept).add_scaled(-self.step_size, &product)
            };
            vector = vector.add_scaled(self.step_size, &term);
        }
        let growth = if first > 0.0 {
            term.norm() / first
        } else {
            0.0
        };
        let mut findings = Vec::new();
        if growth > DIVERGENT_GROWTH || !growth.is_finite() {
            findings.push(Finding::Diverging { growth });
        }
        self.last.keep_if(self.warm_start, &vector);
        Ok(Solution {
            // The residual of the iterate before the last: an upper bound wherever the series
            // converges.
            relative_residual: (self.products > 0).then(|| term.norm() / v.norm()),
            vector,
            smallest_curvature: smallest,
            largest_curvature: largest,
            findings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_operator::{MatrixOperator, relative_error};
    use super::*;

    const V: [f64; 4] = [1.0, -2.0, 0.5, 3.0];

    #[test]
    fn no_products_give_alpha_v() {
        let mut operator = MatrixOperator::with_eigenvalues(&[0.2, 0.5, 0.7, 1.0]);
        let v = operator.vector(&V);
        let solution = Neumann::new(0.5, 0).solve(&mut operator, &v).unwrap();
        assert_eq!(operator.products, 0);
        assert_eq!(solution.vector.to_vec(), V.map(|x| 0.5 * x).to_vec());
    }

    #[test]
    fn the_error_falls_with_every_product() {
        let mut operator = MatrixOperator::with_eigenvalues(&[0.2, 0.5, 0.7, 1.0]);
        let v = operator.vector(&V);
        let exact = operator.exact(&v, 0.1);
        let mut last = f64::INFINITY;
        for products in [0, 1, 2, 5, 10, 100] {
            let solution = Neumann::new(0.8, products)
                .with_damping(0.1)
                .solve(&mut operator, &v)
                .unwrap();
            let error = relative_error(&solution.vector.to_vec(), &exact);
            assert!(error < last, "{products}: {error}");
            last = error;
        }
        assert!(last < 1e-10);
    }

    #[test]
    fn a_step_size_beyond_the_spectrum_is_reported() {
        let mut operator = MatrixOperator::with_eigenvalues(&[0.2, 0.5, 0.7, 4.0]);
        let v = operator.vector(&V);
        let solution = Neumann::new(0.8, 20).solve(&mut operator, &v).unwrap();
        assert!(matches!(solution.findings[..], [Finding::Diverging { growth }] if growth > 10.0));
    }

    #[test]
    fn a_warm_start_goes_on_where_the_last_solve_ended() {
        let mut operator = MatrixOperator::with_eigenvalues(&[0.1, 0.5, 0.7, 1.0]);
        let v = operator.vector(&V);
        let exact = operator.exact(&v, 0.0);
        let mut solver = Neumann {
            warm_start: true,
            ..Neumann::new(1.0, 10)
        };
        let mut errors = Vec::new();
        for _ in 0..4 {
            let solution = solver.solve(&mut operator, &v).unwrap();
            errors.push(relative_error(&solution.vector.to_vec(), &exact));
        }
        assert!(errors[3] < 0.1 * errors[0], "{errors:?}");
        assert_eq!(operator.products, 40);
    }
}
