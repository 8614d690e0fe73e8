//! The Nyström approximation of the inverse Hessian.

use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use super::{LinearSolver, Solution, SymmetricOperator};
use crate::error::HypergradientError;
use crate::params::ParamVector;

/// `u = (H_k + damping I)⁻¹ v` with `H_k = Y (Ωᵀ Y)⁻¹ Yᵀ`, `Y = H Ω`, for `k` random directions:
/// `k` products.
///
/// Exact if the Hessian has rank `k` or less, and good where its spectrum falls off quickly; what
/// lies outside the sketch is taken for zero, so there `u = v / damping`. The products do not
/// depend on each other, and no product is spent on a direction twice, so it does not diverge
/// where conjugate gradients do; on a Hessian of full rank it needs many more products than they.
///
/// # References
///
/// - Hataya and Yamada, [Nyström Method for Accurate and Scalable Implicit
///   Differentiation](https://arxiv.org/abs/2302.09726), AISTATS 2023, which samples columns.
/// - Frangella et al., [Randomized Nyström Preconditioning](https://arxiv.org/abs/2110.02820),
///   SIAM Journal on Matrix Analysis and Applications 44, 2023, for random directions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nystrom {
    /// `k`, at least 1; clipped to the number of parameters.
    pub rank: usize,
    /// What is added to the diagonal of the approximated Hessian, above 0.
    pub damping: f64,
    /// Seed of the random directions, the same in every solve.
    pub seed: u64,
}

impl Default for Nystrom {
    fn default() -> Self {
        Self {
            rank: 10,
            damping: 0.01,
            seed: 0,
        }
    }
}

/// Relative size of eigenvalues of the sketch's core that count as zero.
const NEGLIGIBLE: f64 = 1e-12;

impl LinearSolver for Nystrom {
    fn name(&self) -> &'static str {
        "nystrom"
    }

    fn damping(&self) -> f64 {
        self.damping
    }

    fn solve(
        &mut self,
        operator: &mut dyn SymmetricOperator,
        v: &ParamVector,
    ) -> Result<Solution, HypergradientError> {
        HypergradientError::require_setting(
            self.damping.is_finite() && self.damping > 0.0,
            "damping",
            self.damping,
            "finite and above 0",
        )?;
        HypergradientError::require_setting(self.rank > 0, "rank", self.rank as f64, "at least 1")?;
        let template = operator.zeros();
        let rank = self.rank.min(template.len());
        let directions = orthonormal(&template, rank, self.seed);
        let mut images = Vec::with_capacity(directions.len());
        let (mut smallest, mut largest) = (f64::INFINITY, f64::NEG_INFINITY);
        for direction in &directions {
            let image = operator.apply(direction)?;
            let curvature = direction.dot(&image);
            smallest = smallest.min(curvature);
            largest = largest.max(curvature);
            images.push(image);
        }
        let k = directions.len();
        let inner = |a: &[ParamVector], b: &[ParamVector]| {
            DMatrix::from_fn(a.len(), b.len(), |i, j| a[i].dot(&b[j]))
        };
        let core = inner(&directions, &images);
        let core = (&core + core.transpose()) * 0.5;
        let gram = inner(&images, &images);
        // (Y C⁻¹ Yᵀ + d I)⁻¹ v = (v - Y (d C + Yᵀ Y)⁻¹ Yᵀ v) / d
        let middle = core * self.damping + gram;
        let projected = DVector::from_fn(k, |i, _| images[i].dot(v));
        let coefficients = middle
            .svd(true, true)
            .solve(&projected, NEGLIGIBLE)
            .map_err(|_| HypergradientError::Singular {
                what: "the core of the Nyström sketch",
            })?;
        let mut vector = v.clone();
        for (image, coefficient) in images.iter().zip(coefficients.iter()) {
            vector = vector.add_scaled(-coefficient, image);
        }
        Ok(Solution {
            vector: vector.scale(1.0 / self.damping),
            relative_residual: None,
            smallest_curvature: Some(smallest),
            largest_curvature: Some(largest),
            findings: Vec::new(),
        })
    }
}

/// Random directions, orthonormalized twice by Gram and Schmidt.
fn orthonormal(template: &ParamVector, rank: usize, seed: u64) -> Vec<ParamVector> {
    let mut basis: Vec<ParamVector> = Vec::with_capacity(rank);
    for index in 0..rank {
        let mut direction = template.random_normal(seed.wrapping_add(index as u64));
        let size = direction.norm();
        for _ in 0..2 {
            for known in &basis {
                let along = known.dot(&direction);
                direction = direction.add_scaled(-along, known);
            }
        }
        let norm = direction.norm();
        if norm > 1e-6 * size {
            basis.push(direction.scale(1.0 / norm));
        }
    }
    basis
}

#[cfg(test)]
mod tests {
    use super::super::test_operator::{MatrixOperator, relative_error};
    use super::*;

    const V: [f64; 6] = [1.0, -2.0, 0.5, 3.0, 0.1, 0.7];

    #[test]
    fn a_hessian_of_that_rank_is_inverted_exactly() {
        let mut operator = MatrixOperator::with_eigenvalues(&[0.0, 0.0, 0.0, 0.3, 0.8, 1.0]);
        let v = operator.vector(&V);
        let exact = operator.exact(&v, 0.05);
        let mut solver = Nystrom {
            rank: 3,
            damping: 0.05,
            ..Nystrom::default()
        };
        let solution = solver.solve(&mut operator, &v).unwrap();
        assert_eq!(operator.products, 3);
        let error = relative_error(&solution.vector.to_vec(), &exact);
        assert!(error < 1e-9, "{error}");
    }

    #[test]
    fn the_full_rank_is_exact_too() {
        let mut operator = MatrixOperator::with_eigenvalues(&[0.1, 0.2, 0.3, 0.4, 0.8, 1.0]);
        let v = operator.vector(&V);
        let exact = operator.exact(&v, 0.05);
        let mut solver = Nystrom {
            rank: 60,
            damping: 0.05,
            ..Nystrom::default()
        };
        let solution = solver.solve(&mut operator, &v).unwrap();
        let error = relative_error(&solution.vector.to_vec(), &exact);
        assert!(error < 1e-9, "{error}");
    }
}
