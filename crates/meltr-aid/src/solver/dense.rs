//! The Hessian written out.

use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use super::{LinearSolver, Solution, SymmetricOperator, require_damping};
use crate::certificate::Finding;
use crate::error::HypergradientError;
use crate::params::ParamVector;

/// `u = (H + damping I)⁻¹ v` with the whole Hessian on the host: `n` products, `8 n²` bytes, and
/// the eigenvalues and a factorization in `f64`.
///
/// For small problems, and as the reference of everything else. A matrix that is singular to
/// working precision is an error; one that is indefinite is inverted and reported.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dense {
    /// What is added to the diagonal of the Hessian, at least 0.
    pub damping: f64,
    /// Largest number of inner parameters that is accepted.
    pub max_parameters: usize,
}

impl Default for Dense {
    fn default() -> Self {
        Self {
            damping: 0.0,
            max_parameters: 4096,
        }
    }
}

/// Share of the largest eigenvalue below which one counts as zero.
const NEGLIGIBLE: f64 = 1e-13;

impl LinearSolver for Dense {
    fn name(&self) -> &'static str {
        "dense"
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
        let zeros = operator.zeros();
        let n = zeros.len();
        if n > self.max_parameters {
            return Err(HypergradientError::TooLarge {
                n,
                limit: self.max_parameters,
            });
        }
        let mut matrix = DMatrix::<f64>::zeros(n, n);
        let mut unit = vec![0.0; n];
        for column in 0..n {
            unit[column] = 1.0;
            let product = operator.apply(&zeros.with_values(&unit))?;
            unit[column] = 0.0;
            // Parameters that no gradient reaches count as zeros.
            let product = zeros.clone().add_scaled(1.0, &product).to_vec();
            matrix.set_column(column, &DVector::from_vec(product));
        }
        let matrix = (&matrix + matrix.transpose()) * 0.5;
        let right = DVector::from_vec(zeros.clone().add_scaled(1.0, v).to_vec());
        let eigenvalues = matrix.symmetric_eigenvalues();
        let (smallest, most) = (eigenvalues.min(), eigenvalues.max());
        let damped = eigenvalues.add_scalar(self.damping);
        let largest = damped.amax();
        if damped
            .iter()
            .any(|value| value.abs() <= NEGLIGIBLE * largest)
        {
            return Err(HypergradientError::Singular {
                what: "the inner Hessian",
            });
        }
        // The factorization solves; the eigenvalues only judge.
        let damped_matrix = matrix + DMatrix::identity(n, n) * self.damping;
        let factors = damped_matrix.clone().lu();
        let singular = HypergradientError::Singular {
            what: "the inner Hessian",
        };
        let mut solution = factors.solve(&right).ok_or_else(|| singular.clone())?;
        let residual = &right - &damped_matrix * &solution;
        // One step of iterative refinement.
        solution += factors.solve(&residual).ok_or(singular)?;
        let residual = (&right - &damped_matrix * &solution).norm() / right.norm();
        let mut findings = Vec::new();
        if smallest + self.damping < 0.0 {
            findings.push(Finding::Indefinite {
                curvature: smallest + self.damping,
            });
        }
        Ok(Solution {
            vector: zeros.with_values(solution.as_slice()),
            relative_residual: Some(residual),
            smallest_curvature: Some(smallest),
            largest_curvature: Some(most),
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
    fn an_indefinite_matrix_is_inverted_and_reported() {
        let mut operator = MatrixOperator::with_eigenvalues(&[-0.5, 0.2, 0.5, 1.0]);
        let v = operator.vector(&V);
        let exact = operator.exact(&v, 0.0);
        let solution = Dense::default().solve(&mut operator, &v).unwrap();
        assert!(relative_error(&solution.vector.to_vec(), &exact) < 1e-13);
        assert!((solution.smallest_curvature.unwrap() + 0.5).abs() < 1e-12);
        assert!(matches!(
            solution.findings[..],
            [Finding::Indefinite { .. }]
        ));
    }

    #[test]
    fn a_singular_matrix_is_an_error_without_damping() {
        let mut operator = MatrixOperator::with_eigenvalues(&[0.0, 0.2, 0.5, 1.0]);
        let v = operator.vector(&V);
        let error = Dense::default().solve(&mut operator, &v).unwrap_err();
        assert!(matches!(error, HypergradientError::Singular { .. }));
        let mut damped = Dense {
            damping: 0.1,
            ..Dense::default()
        };
        assert!(damped.solve(&mut operator, &v).is_ok());
    }

    #[test]
    fn a_large_problem_is_refused_before_any_product() {
        let mut operator = MatrixOperator::with_eigenvalues(&[0.1, 0.2, 0.5, 1.0]);
        let v = operator.vector(&V);
        let mut solver = Dense {
            max_parameters: 3,
            ..Dense::default()
        };
        let error = solver.solve(&mut operator, &v).unwrap_err();
        assert_eq!(error, HypergradientError::TooLarge { n: 4, limit: 3 });
        assert_eq!(operator.products, 0);
    }
}
