//! Hypergradients from matrices on the host.

use nalgebra::{DMatrix, DVector};

/// What an estimator is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reference {
    /// `direct - Mᵀ (H + 0)⁻¹ v`.
    Exact,
    /// The same with damping on the diagonal.
    Damped {
        /// Added to the diagonal.
        damping: f64,
    },
    /// `direct - Mᵀ v`.
    Identity,
    /// `K` steps of conjugate gradients from zero.
    ConjugateGradient {
        /// `K`.
        steps: usize,
    },
    /// `K` products and `K + 1` terms of the Neumann series.
    Neumann {
        /// `alpha`.
        step_size: f64,
        /// `K`.
        products: usize,
    },
}

/// Everything that a hypergradient is made of.
#[derive(Debug, Clone)]
pub(crate) struct HostDerivatives {
    /// `∂²f/∂w²`, `[n, n]`.
    pub(crate) hessian: DMatrix<f64>,
    /// `∂²f/∂w∂phi`, `[n, m]`.
    pub(crate) mixed: DMatrix<f64>,
    /// `∂F/∂w`, `[n]`.
    pub(crate) v: DVector<f64>,
    /// `∂F/∂phi`, `[m]`.
    pub(crate) direct: DVector<f64>,
}

impl HostDerivatives {
    pub(crate) fn hypergradient(&self, reference: Reference) -> Vec<f64> {
        let adjoint = self.adjoint(reference);
        (&self.direct - self.mixed.tr_mul(&adjoint))
            .as_slice()
            .to_vec()
    }

    fn adjoint(&self, reference: Reference) -> DVector<f64> {
        let n = self.v.len();
        match reference {
            Reference::Exact => solve(&self.hessian, &self.v),
            Reference::Damped { damping } => solve(
                &(&self.hessian + DMatrix::identity(n, n) * damping),
                &self.v,
            ),
            Reference::Identity => self.v.clone(),
            Reference::ConjugateGradient { steps } => {
                let mut u = DVector::zeros(n);
                let mut r = self.v.clone();
                let mut p = r.clone();
                for _ in 0..steps {
                    let rr = r.norm_squared();
                    if rr == 0.0 {
                        break;
                    }
                    let hp = &self.hessian * &p;
                    let alpha = rr / p.dot(&hp);
                    u += &p * alpha;
                    r -= hp * alpha;
                    p = &r + p * (r.norm_squared() / rr);
                }
                u
            }
            Reference::Neumann {
                step_size,
                products,
            } => {
                let mut term = self.v.clone();
                let mut sum = term.clone();
                for _ in 0..products {
                    term -= &self.hessian * &term * step_size;
                    sum += &term;
                }
                sum * step_size
            }
        }
    }
}

/// By Cholesky factors, with one step of refinement; the matrices here are positive definite.
pub(crate) fn solve(matrix: &DMatrix<f64>, right: &DVector<f64>) -> DVector<f64> {
    let n = right.len();
    let Some(factors) = matrix.clone().cholesky() else {
        return DVector::from_element(n, f64::NAN);
    };
    let solution = factors.solve(right);
    let residual = right - matrix * &solution;
    solution + factors.solve(&residual)
}
