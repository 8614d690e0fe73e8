//! The Gauss-Newton correction in the space of the scalars.

use burn::module::Module;
use burn::tensor::{DType, Tensor, TensorData};
use nalgebra::{DMatrix, DVector};

use super::settings::OuterGradients;
use super::{Hypergradient, HypergradientEstimator, Settings};
use crate::certificate::Certificate;
use crate::error::HypergradientError;
use crate::gradient_difference::rounding_unit;
use crate::params::ParamVector;
use crate::problem::{BilevelProblem, ScalarMediated};
use crate::products::{MixedProduct, Point, through_scalars};

/// `H` replaced by `lambda I + Jᵀ G J`, with `J` the `T` gradients of the scalars and
/// `G = ∂²g/∂l²`.
///
/// What the outer level needs of `u = (lambda I + Jᵀ G J)⁻¹ v` are its products with the rows of
/// `J`, and those follow from a `T x T` system:
///
/// ```text
/// c' = (lambda I + K G)⁻¹ c,     K = J Jᵀ,  c = J v
/// ```
///
/// Costs `T` forward-and-backward passes and no product with the Hessian. The curvature of the
/// scalars themselves, `sum_t ∂g/∂l_t ∂²l_t/∂w²`, is represented by `lambda` alone: exact where
/// the scalars are linear in `w` and the inner objective has a ridge, a correction to the
/// identity elsewhere. `K` stays on the host; the `T` gradients are held at once.
#[derive(Debug, Clone, PartialEq)]
pub struct GaussNewton {
    /// `lambda`, above 0.
    pub damping: f64,
    /// Everything else; `products` is not used, since the gradients of all scalars are at hand.
    pub settings: Settings,
}

impl<P: BilevelProblem> HypergradientEstimator<P> for GaussNewton {
    fn name(&self) -> &'static str {
        "gauss_newton"
    }

    fn estimate(
        &mut self,
        problem: &P,
        inner: &P::Inner,
        outer: &P::Outer,
    ) -> Result<Hypergradient, HypergradientError> {
        const NAME: &str = "gauss_newton";
        HypergradientError::require_setting(
            self.damping.is_finite() && self.damping > 0.0,
            "damping",
            self.damping,
            "finite and above 0",
        )?;
        let mediated = problem
            .mediation()
            .ok_or(HypergradientError::NotMediated { estimator: NAME })?;
        let gradients = OuterGradients::of(problem, inner, outer, &self.settings)?;
        if gradients.norm == 0.0 {
            return Ok(gradients.without_solve(NAME));
        }
        let (scalars, rows) = scalar_gradients(mediated, inner)?;
        let t = rows.len();
        let c = DVector::from_fn(t, |i, _| rows[i].dot(&gradients.v));
        let k = DMatrix::from_fn(t, t, |i, j| rows[i].dot(&rows[j]));
        let g = combiner_hessian(mediated, outer, &scalars)?;
        let system = DMatrix::identity(t, t) * self.damping + k * &g;
        let solution = system.lu().solve(&c).ok_or(HypergradientError::Singular {
            what: "`damping I + K G`",
        })?;
        // u = (v - Jᵀ G c') / lambda
        let weights = &g * &solution;
        let mut adjoint = gradients.v.clone();
        for (row, weight) in rows.iter().zip(weights.iter()) {
            adjoint = adjoint.add_scaled(-weight, row);
        }
        let directional = solution.as_slice().to_vec();
        let mixed = MixedProduct {
            gradient: through_scalars(mediated, outer, &scalars, &directional),
            scalars,
            directional,
            hessian_product: None,
            name: "reverse_passes",
            step: None,
            estimated_error: None,
            forward_passes: 0,
            backward_passes: t,
        };
        let certificate = Certificate {
            estimator: NAME.to_owned(),
            damping: self.damping,
            backward_passes: 1,
            ..Certificate::default()
        };
        let point = Point::new(problem, inner, outer);
        let adjoint = adjoint.scale(1.0 / self.damping);
        self.settings
            .finish(&point, gradients, adjoint, mixed, certificate)
    }
}

/// The scalars and the gradient of each.
fn scalar_gradients<I: Module, O: Module>(
    problem: &dyn ScalarMediated<Inner = I, Outer = O>,
    inner: &I,
) -> Result<(Vec<f64>, Vec<ParamVector>), HypergradientError> {
    let first = problem.scalars(inner);
    let values: Vec<f64> = first.clone().inner().into_data().iter::<f64>().collect();
    if values.is_empty() {
        return Err(HypergradientError::NoScalars);
    }
    for (index, value) in values.iter().enumerate() {
        HypergradientError::require_finite(format!("scalar {index}"), *value)?;
    }
    let mut pending = Some(first);
    let mut rows = Vec::with_capacity(values.len());
    for index in 0..values.len() {
        let l = pending
            .take()
            .unwrap_or_else(|| problem.scalars(inner))
            .narrow(0, index, 1);
        rows.push(if l.is_tracked() {
            ParamVector::from_gradients(&mut l.backward(), inner)
        } else {
            ParamVector::zero()
        });
    }
    Ok((values, rows))
}

/// `∂²g/∂l²` by central differences of `∂g/∂l`, symmetrized.
fn combiner_hessian<I: Module, O: Module>(
    problem: &dyn ScalarMediated<Inner = I, Outer = O>,
    outer: &O,
    scalars: &[f64],
) -> Result<DMatrix<f64>, HypergradientError> {
    let t = scalars.len();
    let dtype = ParamVector::from_parameters(outer)
        .dtype()
        .unwrap_or(DType::F32);
    let device = outer
        .devices()
        .into_iter()
        .next()
        .unwrap_or_default()
        .autodiff();
    let slopes = |at: &[f64]| -> Vec<f64> {
        let data = TensorData::new(at.to_vec(), [t]).convert_dtype(dtype);
        let l = Tensor::<1>::from_data(data, (&device, dtype)).require_grad();
        let combined = problem.combined(outer, l.clone());
        if !combined.is_tracked() {
            return vec![0.0; t];
        }
        match l.grad(&combined.backward()) {
            Some(gradient) => gradient.into_data().iter::<f64>().collect(),
            None => vec![0.0; t],
        }
    };
    // T evaluations of a tiny network: both steps are always taken, and extrapolated.
    let step = rounding_unit(Some(dtype)).powf(0.2);
    let mut hessian = DMatrix::zeros(t, t);
    for column in 0..t {
        let h = step * scalars[column].abs().max(0.1);
        let quotient = |h: f64| {
            let at = |offset: f64| {
                let mut at = scalars.to_vec();
                at[column] += offset;
                DVector::from_vec(slopes(&at))
            };
            (at(h) - at(-h)) / (2.0 * h)
        };
        let extrapolated = (quotient(0.5 * h) * 4.0 - quotient(h)) / 3.0;
        hessian.set_column(column, &extrapolated);
    }
    let hessian = (&hessian + hessian.transpose()) * 0.5;
    HypergradientError::require_finite("the curvature of the combiner", hessian.norm())?;
    Ok(hessian)
}
