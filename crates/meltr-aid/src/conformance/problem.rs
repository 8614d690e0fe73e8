//! The three families of problems.

use burn::module::{Module, Param};
use burn::tensor::activation::{log_sigmoid, sigmoid};
use burn::tensor::{DType, Device, Tensor, TensorData};
use nalgebra::{DMatrix, DVector};

use super::host::{HostDerivatives, Reference, solve};
use crate::params::ParamVector;
use crate::problem::BilevelProblem;
use crate::recording::{Recorded, Recording};

/// A module of one vector, `[n]`.
#[derive(Module, Debug)]
pub struct Vector {
    /// The vector.
    pub values: Param<Tensor<1>>,
}

/// A problem whose hypergradient is known, at a point of its own.
#[derive(Debug, Clone)]
pub struct ConformanceProblem {
    name: String,
    kind: Kind,
    device: Device,
    dtype: DType,
    /// Matrices and vectors of the objectives, on the host.
    host: Data<DMatrix<f64>, DVector<f64>>,
    /// The same on the device, on its tape.
    tape: Data<Tensor<2>, Tensor<1>>,
    w: DVector<f64>,
    phi: DVector<f64>,
    products: ProductsOffered,
}

/// What the problem knows of its own second derivatives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ProductsOffered {
    /// Nothing: products are differences.
    #[default]
    None,
    /// Products in closed form.
    Exact,
    /// Derivatives along a direction.
    ForwardMode,
    /// A record of the inner objective.
    Recorded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Quadratic,
    Ridge,
    Logistic,
}

/// Quadratic: `A, C, b, f`. The others: `x_train, x_val, y_train, y_val`.
#[derive(Debug, Clone)]
struct Data<M, V> {
    first: M,
    second: M,
    third: V,
    fourth: V,
}

/// Weight of `|phi|²` in the outer objective of the quadratic.
const OUTER_RIDGE: f64 = 0.05;

impl ConformanceProblem {
    /// `f = wᵀ A w / 2 + (C phi + b)ᵀ w`, `F = wᵀ w / 2 + fᵀ w + 0.05 |phi|²`, at `(w, phi)`.
    ///
    /// # Panics
    ///
    /// Panics if the sizes do not fit.
    #[must_use]
    pub fn quadratic(
        name: &str,
        [a, c]: [DMatrix<f64>; 2],
        [b, f]: [DVector<f64>; 2],
        [w, phi]: [DVector<f64>; 2],
        device: &Device,
        dtype: DType,
    ) -> Self {
        assert_eq!(a.shape(), (w.len(), w.len()), "A is [n, n]");
        assert_eq!(c.shape(), (w.len(), phi.len()), "C is [n, m]");
        let host = Data {
            first: a,
            second: c,
            third: b,
            fourth: f,
        };
        Self::new(name, Kind::Quadratic, host, [w, phi], device, dtype)
    }

    /// `f = |X w - y|² / 2N + sum_i exp(phi_i) w_i² / 2`, `F` the same on validation data without
    /// the penalty, at the minimum of `f`.
    #[must_use]
    pub fn ridge(
        name: &str,
        [x, x_val]: [DMatrix<f64>; 2],
        [y, y_val]: [DVector<f64>; 2],
        phi: DVector<f64>,
        device: &Device,
        dtype: DType,
    ) -> Self {
        let n = x.nrows() as f64;
        let hessian = x.tr_mul(&x) / n + DMatrix::from_diagonal(&phi.map(f64::exp));
        let w = solve(&hessian, &(x.tr_mul(&y) / n));
        let host = Data {
            first: x,
            second: x_val,
            third: y,
            fourth: y_val,
        };
        Self::new(name, Kind::Ridge, host, [w, phi], device, dtype)
    }

    /// `f` = mean binary cross-entropy of the logits `X w` + `sum_i phi_i w_i² / 2`, `F` the
    /// cross-entropy on validation data, at `w`, or at the minimum of `f` without one.
    #[must_use]
    pub fn logistic(
        name: &str,
        [x, x_val]: [DMatrix<f64>; 2],
        [y, y_val]: [DVector<f64>; 2],
        w: Option<DVector<f64>>,
        phi: DVector<f64>,
        device: &Device,
        dtype: DType,
    ) -> Self {
        let w = w.unwrap_or_else(|| {
            // Newton's method; the penalty keeps it well conditioned.
            let mut w = DVector::zeros(phi.len());
            for _ in 0..50 {
                let (gradient, hessian) = logistic_derivatives(&x, &y, &w);
                let gradient = gradient + phi.component_mul(&w);
                let hessian = hessian + DMatrix::from_diagonal(&phi);
                w -= solve(&hessian, &gradient);
            }
            w
        });
        let host = Data {
            first: x,
            second: x_val,
            third: y,
            fourth: y_val,
        };
        Self::new(name, Kind::Logistic, host, [w, phi], device, dtype)
    }

    fn new(
        name: &str,
        kind: Kind,
        host: Data<DMatrix<f64>, DVector<f64>>,
        [w, phi]: [DVector<f64>; 2],
        device: &Device,
        dtype: DType,
    ) -> Self {
        let device = device.clone().autodiff();
        let tape = Data {
            first: matrix(&host.first, &device, dtype),
            second: matrix(&host.second, &device, dtype),
            third: vector(&host.third, &device, dtype),
            fourth: vector(&host.fourth, &device, dtype),
        };
        Self {
            name: name.to_owned(),
            kind,
            device,
            dtype,
            host,
            tape,
            w,
            phi,
            products: ProductsOffered::None,
        }
    }

    /// The same, and a quadratic gives its products in closed form.
    #[must_use]
    pub fn with_exact_products(mut self) -> Self {
        if self.kind == Kind::Quadratic {
            self.products = ProductsOffered::Exact;
        }
        self
    }

    /// The same, and the problem gives derivatives of its inner objective along a direction.
    #[must_use]
    pub fn with_forward_mode(mut self) -> Self {
        self.products = ProductsOffered::ForwardMode;
        self
    }

    /// The same, and the problem records its inner objective.
    #[must_use]
    pub fn with_recording(mut self) -> Self {
        self.products = ProductsOffered::Recorded;
        self
    }

    /// Whether products come out exact up to rounding.
    #[must_use]
    pub(super) fn has_products_without_truncation(&self) -> bool {
        self.is_quadratic() || self.products != ProductsOffered::None
    }

    /// What it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the inner objective is quadratic in `w`, so that differences have no truncation
    /// error.
    #[must_use]
    pub fn is_quadratic(&self) -> bool {
        self.kind != Kind::Logistic
    }

    /// The point `w`, on the tape.
    #[must_use]
    pub fn inner(&self) -> Vector {
        self.module(self.w.as_slice())
    }

    /// The point `phi`, on the tape.
    #[must_use]
    pub fn outer(&self) -> Vector {
        self.module(self.phi.as_slice())
    }

    /// A module with these values, on the tape.
    #[must_use]
    pub fn module(&self, values: &[f64]) -> Vector {
        let values = DVector::from_column_slice(values);
        Vector {
            values: Param::from_tensor(vector(&values, &self.device, self.dtype)),
        }
    }

    /// The largest eigenvalue of the inner Hessian.
    #[must_use]
    pub fn largest_curvature(&self) -> f64 {
        self.derivatives().hessian.symmetric_eigenvalues().max()
    }

    /// What an estimator has to return at the problem's point, `[m]`.
    #[must_use]
    pub fn expected(&self, reference: Reference) -> Vec<f64> {
        self.derivatives().hypergradient(reference)
    }

    pub(super) fn derivatives(&self) -> HostDerivatives {
        let Data {
            first,
            second,
            third,
            fourth,
        } = &self.host;
        let (w, phi) = (&self.w, &self.phi);
        let (n, m) = (w.len(), phi.len());
        match self.kind {
            Kind::Quadratic => HostDerivatives {
                hessian: first.clone(),
                mixed: second.clone(),
                v: w + fourth,
                direct: phi * (2.0 * OUTER_RIDGE),
            },
            Kind::Ridge => {
                let penalty = phi.map(f64::exp);
                let rows = first.nrows() as f64;
                HostDerivatives {
                    hessian: first.tr_mul(first) / rows + DMatrix::from_diagonal(&penalty),
                    mixed: DMatrix::from_diagonal(&penalty.component_mul(w)),
                    v: second.tr_mul(&(second * w - fourth)) / second.nrows() as f64,
                    direct: DVector::zeros(m),
                }
            }
            Kind::Logistic => {
                let (_, hessian) = logistic_derivatives(first, third, w);
                let (v, _) = logistic_derivatives(second, fourth, w);
                HostDerivatives {
                    hessian: hessian + DMatrix::from_diagonal(phi),
                    mixed: DMatrix::from_diagonal(w),
                    v,
                    direct: DVector::zeros(n),
                }
            }
        }
    }

    /// Named arrays of the problem, for the golden vectors.
    pub(super) fn arrays(&self) -> Vec<(&'static str, Vec<usize>, Vec<f64>)> {
        let names = match self.kind {
            Kind::Quadratic => ["A", "C", "b", "f"],
            Kind::Ridge | Kind::Logistic => ["x_train", "x_val", "y_train", "y_val"],
        };
        let matrix = |m: &DMatrix<f64>| {
            let values = m.transpose().as_slice().to_vec();
            (vec![m.nrows(), m.ncols()], values)
        };
        let vector = |v: &DVector<f64>| (vec![v.len()], v.as_slice().to_vec());
        let parts = [
            matrix(&self.host.first),
            matrix(&self.host.second),
            vector(&self.host.third),
            vector(&self.host.fourth),
        ];
        names
            .into_iter()
            .zip(parts)
            .chain([("w", vector(&self.w)), ("phi", vector(&self.phi))])
            .map(|(name, (shape, values))| (name, shape, values))
            .collect()
    }
}

/// Gradient and Hessian of the mean binary cross-entropy of the logits `X w`.
fn logistic_derivatives(
    x: &DMatrix<f64>,
    y: &DVector<f64>,
    w: &DVector<f64>,
) -> (DVector<f64>, DMatrix<f64>) {
    let n = x.nrows() as f64;
    let p = (x * w).map(|z| 1.0 / (1.0 + (-z).exp()));
    let gradient = x.tr_mul(&(&p - y)) / n;
    let mut weighted = x.clone();
    for (mut row, p) in weighted.row_iter_mut().zip(p.iter()) {
        row *= p * (1.0 - p);
    }
    (gradient, x.tr_mul(&weighted) / n)
}

fn matrix(matrix: &DMatrix<f64>, device: &Device, dtype: DType) -> Tensor<2> {
    // Row after row.
    let values = matrix.transpose().as_slice().to_vec();
    let data = TensorData::new(values, [matrix.nrows(), matrix.ncols()]).convert_dtype(dtype);
    Tensor::from_data(data, (device, dtype))
}

fn vector(vector: &DVector<f64>, device: &Device, dtype: DType) -> Tensor<1> {
    let data = TensorData::new(vector.as_slice().to_vec(), [vector.len()]).convert_dtype(dtype);
    Tensor::from_data(data, (device, dtype))
}

/// `matrix · vector` as a vector.
fn product(matrix: &Tensor<2>, vector: Tensor<1>) -> Tensor<1> {
    let [rows, columns] = matrix.dims();
    matrix
        .clone()
        .matmul(vector.reshape([columns, 1]))
        .reshape([rows])
}

/// Mean binary cross-entropy of logits against targets in `[0, 1]`.
fn cross_entropy(logits: Tensor<1>, targets: &Tensor<1>) -> Tensor<1> {
    // log(1 + exp(z)) - z y
    (log_sigmoid(logits.clone().neg()).neg() - logits * targets.clone()).mean()
}

impl BilevelProblem for ConformanceProblem {
    type Inner = Vector;
    type Outer = Vector;

    fn inner_objective(&self, inner: &Vector, outer: &Vector) -> Tensor<1> {
        let (w, phi) = (inner.values.val(), outer.values.val());
        let Data {
            first,
            second,
            third,
            ..
        } = &self.tape;
        match self.kind {
            Kind::Quadratic => {
                let linear = product(second, phi) + third.clone();
                (w.clone() * (product(first, w) * 0.5 + linear)).sum()
            }
            Kind::Ridge => {
                let residual = product(first, w.clone()) - third.clone();
                residual.square().mean() * 0.5 + (phi.exp() * w.square()).sum() * 0.5
            }
            Kind::Logistic => {
                let logits = product(first, w.clone());
                cross_entropy(logits, third) + (phi * w.square()).sum() * 0.5
            }
        }
    }

    fn outer_objective(&self, inner: &Vector, outer: &Vector) -> Tensor<1> {
        let (w, phi) = (inner.values.val(), outer.values.val());
        let Data { second, fourth, .. } = &self.tape;
        match self.kind {
            Kind::Quadratic => {
                (w.clone() * (w * 0.5 + fourth.clone())).sum() + phi.square().sum() * OUTER_RIDGE
            }
            Kind::Ridge => (product(second, w) - fourth.clone()).square().mean() * 0.5,
            Kind::Logistic => cross_entropy(product(second, w), fourth),
        }
    }

    fn inner_objective_along(
        &self,
        inner: &Vector,
        direction: &Vector,
        outer: &Vector,
    ) -> Option<Tensor<1>> {
        if self.products != ProductsOffered::ForwardMode {
            return None;
        }
        let (w, along, phi) = (
            inner.values.val(),
            direction.values.val(),
            outer.values.val(),
        );
        let Data {
            first,
            second,
            third,
            ..
        } = &self.tape;
        Some(match self.kind {
            Kind::Quadratic => {
                let gradient = product(first, w) + product(second, phi) + third.clone();
                (gradient * along).sum()
            }
            Kind::Ridge => {
                let residual = product(first, w.clone()) - third.clone();
                (residual * product(first, along.clone())).mean() + (phi.exp() * w * along).sum()
            }
            Kind::Logistic => {
                let apart = sigmoid(product(first, w.clone())) - third.clone();
                (apart * product(first, along.clone())).mean() + (phi * w * along).sum()
            }
        })
    }

    fn recorded_inner_objective(
        &self,
        recording: &Recording,
        inner: &Vector,
        outer: &Vector,
    ) -> Option<Recorded> {
        if self.products != ProductsOffered::Recorded {
            return None;
        }
        let (w, phi) = (
            recording.parameter(&inner.values),
            recording.parameter(&outer.values),
        );
        let Data {
            first,
            second,
            third,
            ..
        } = &self.tape;
        // Vectors are rows.
        let times = |row: Recorded, matrix: &Tensor<2>| {
            row.matmul(recording.constant(matrix.clone().transpose()))
        };
        let third = recording.constant(third.clone().unsqueeze_dim(0));
        Some(match self.kind {
            Kind::Quadratic => {
                let linear = times(phi, second) + third;
                (w.clone() * (times(w, first).scale(0.5) + linear)).sum()
            }
            Kind::Ridge => {
                let residual = times(w.clone(), first) - third;
                (residual.square().mean() + (phi.exp() * w.square()).sum()).scale(0.5)
            }
            Kind::Logistic => {
                let logits = times(w.clone(), first);
                let loss = (-(-logits.clone()).log_sigmoid() - logits * third).mean();
                loss + (phi * w.square()).sum().scale(0.5)
            }
        })
    }

    fn exact_hessian_product(
        &self,
        _inner: &Vector,
        _outer: &Vector,
        u: &ParamVector,
    ) -> Option<ParamVector> {
        (self.products == ProductsOffered::Exact)
            .then(|| u.map(|u| product(&self.tape.first.clone().inner(), u.clone())))
    }

    fn exact_mixed_product(
        &self,
        inner: &Vector,
        outer: &Vector,
        u: &ParamVector,
    ) -> Option<ParamVector> {
        if self.products != ProductsOffered::Exact {
            return None;
        }
        let u = u.get::<1>(inner.values.id, inner.values.dims())?;
        let mut mixed = ParamVector::zero();
        let transposed = self.tape.second.clone().inner().transpose();
        mixed.insert(outer.values.id, product(&transposed, u));
        Some(mixed)
    }
}
