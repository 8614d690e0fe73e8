//! Products with second derivatives, however they can be had.

use std::cell::OnceCell;

use burn::module::Module;
use burn::tensor::{DType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::certificate::Certificate;
use crate::difference::{CentralDifference, Derivative, reverse_passes};
use crate::error::HypergradientError;
use crate::gradient_difference::{Focus, GradientDerivative, GradientDifference, Gradients};
use crate::params::ParamVector;
use crate::problem::{BilevelProblem, ScalarMediated};
use crate::recording::{Recording, SecondOrder};
use crate::solver::SymmetricOperator;

/// How the directional derivatives of the scalars are obtained, in problems that have them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Products {
    /// One tape-free forward pass that carries tangents, exact up to rounding, about three plain
    /// forward passes whatever `T` is; for models that have a forward mode.
    #[default]
    ForwardMode,
    /// Two tape-free forward passes, whatever `T` is.
    CentralDifference(CentralDifference),
    /// `T` reverse passes, exact up to rounding.
    Reverse,
}

/// Name of products by forward-mode differentiation in certificates.
const FORWARD_MODE: &str = "forward_mode";

/// Forward-and-backward passes that a product in forward mode costs: each operation is taken
/// twice, on values and on tangents.
const PASSES_OF_FORWARD_MODE: usize = 2;

/// Name of products from a record of the inner objective in certificates.
const RECORDED: &str = "recorded";

/// Forward-and-backward passes that a product from a record costs, and those of making it.
const PASSES_OF_A_RECORDED_PRODUCT: usize = 2;
const PASSES_OF_RECORDING: usize = 1;

/// `(∂²f/∂phi∂w)ᵀ u` and what was met on the way.
#[derive(Debug, Clone)]
pub(crate) struct MixedProduct {
    pub(crate) gradient: ParamVector,
    pub(crate) scalars: Vec<f64>,
    pub(crate) directional: Vec<f64>,
    /// `(∂²f/∂w²) u`, where it came along for free.
    pub(crate) hessian_product: Option<ParamVector>,
    pub(crate) name: &'static str,
    pub(crate) step: Option<f64>,
    pub(crate) estimated_error: Option<f64>,
    pub(crate) forward_passes: usize,
    pub(crate) backward_passes: usize,
}

impl MixedProduct {
    /// Enters name, error and cost.
    pub(crate) fn certify(&self, certificate: &mut Certificate) {
        self.name.clone_into(&mut certificate.product);
        certificate.difference_step = self.step;
        certificate.estimated_error = self.estimated_error;
        certificate.forward_passes += self.forward_passes;
        certificate.backward_passes += self.backward_passes;
    }
}

/// The problem at one point, for products with its second derivatives.
pub(crate) struct Point<'a, P: BilevelProblem> {
    pub(crate) problem: &'a P,
    pub(crate) inner: &'a P::Inner,
    pub(crate) outer: &'a P::Outer,
    /// How many steps ago the inner objective was descended; `None` asks for the present one.
    age: Option<usize>,
    /// The inner objective with its gradient, made when first asked for.
    record: OnceCell<Option<SecondOrder>>,
}

impl<'a, P: BilevelProblem> Point<'a, P> {
    pub(crate) fn new(problem: &'a P, inner: &'a P::Inner, outer: &'a P::Outer) -> Self {
        Self {
            problem,
            inner,
            outer,
            age: None,
            record: OnceCell::new(),
        }
    }

    /// The inner objective that was descended `age` steps ago.
    pub(crate) fn past(
        problem: &'a P,
        inner: &'a P::Inner,
        outer: &'a P::Outer,
        age: usize,
    ) -> Self {
        Self {
            age: Some(age),
            ..Self::new(problem, inner, outer)
        }
    }

    /// Gradients of the inner objective at `inner`.
    pub(crate) fn gradients(&self, inner: &P::Inner) -> Result<Gradients, HypergradientError> {
        self.gradients_at(inner, self.outer)
    }

    fn gradients_at(
        &self,
        inner: &P::Inner,
        outer: &P::Outer,
    ) -> Result<Gradients, HypergradientError> {
        let objective = match self.age {
            None => self.problem.inner_objective(inner, outer),
            Some(age) => self.problem.past_inner_objective(age, inner, outer),
        };
        let value = objective.clone().inner().into_data().iter::<f64>().sum();
        HypergradientError::require_finite("the inner objective", value)?;
        if !objective.is_tracked() {
            return Ok(Gradients::default());
        }
        let mut gradients = backward(objective);
        Ok(Gradients {
            inner: ParamVector::from_gradients(&mut gradients, inner),
            outer: ParamVector::from_gradients(&mut gradients, outer),
        })
    }

    pub(crate) fn difference(
        &self,
        difference: &mut GradientDifference,
        u: &ParamVector,
        focus: Focus,
    ) -> Result<GradientDerivative, HypergradientError> {
        difference.derivative(self.inner, u, focus, |inner| self.gradients(inner))
    }

    /// The record of the inner objective, if the problem has one.
    fn record(&self) -> Result<Option<&SecondOrder>, HypergradientError> {
        if self.age.is_some() {
            return Ok(None);
        }
        if let Some(made) = self.record.get() {
            return Ok(made.as_ref());
        }
        let recording = Recording::default();
        let objective = self
            .problem
            .recorded_inner_objective(&recording, self.inner, self.outer);
        let record = objective.map(SecondOrder::new);
        if let Some(record) = &record {
            let [inner, outer] = [
                ParamVector::from_parameters(self.inner),
                ParamVector::from_parameters(self.outer),
            ];
            if !inner.restricted_to(&outer).is_empty() {
                return Err(HypergradientError::SharedParameters);
            }
            let (recorded, dtype) = record.value();
            let (inner, outer) = (self.inner.clone().no_grad(), self.outer.clone().no_grad());
            let objective = self.problem.inner_objective(&inner, &outer);
            let objective = objective.inner().into_data().iter::<f64>().sum();
            HypergradientError::require_finite("the inner objective", objective)?;
            // Two ways to sum up the same terms.
            let tolerance = match dtype {
                DType::F64 => 1e-9,
                DType::F32 => 1e-4,
                _ => 5e-2,
            };
            let apart = (recorded - objective).abs();
            if apart.is_nan() || apart > tolerance * (1.0 + objective.abs()) {
                return Err(HypergradientError::AnotherObjective {
                    recorded,
                    objective,
                });
            }
        }
        Ok(self.record.get_or_init(|| record).as_ref())
    }

    /// Both products with `u` in forward mode, if the problem has one.
    ///
    /// Costs a forward pass that carries tangents and its backward pass: two forward-and-backward
    /// passes.
    fn along(
        &self,
        outer: &P::Outer,
        u: &ParamVector,
    ) -> Result<Option<Gradients>, HypergradientError> {
        if self.age.is_some() {
            return Ok(None);
        }
        let direction = u.as_untracked_module(self.inner);
        let Some(slope) = self
            .problem
            .inner_objective_along(self.inner, &direction, outer)
        else {
            return Ok(None);
        };
        let value = slope.clone().inner().into_data().iter::<f64>().sum();
        HypergradientError::require_finite("a derivative of the inner objective", value)?;
        if !slope.is_tracked() {
            return Ok(Some(Gradients::default()));
        }
        let mut gradients = backward(slope);
        Ok(Some(Gradients {
            inner: ParamVector::from_gradients(&mut gradients, self.inner),
            outer: ParamVector::from_gradients(&mut gradients, outer),
        }))
    }

    /// The mixed product with `u`: in closed form, through the scalars, from a record, in forward
    /// mode, or by differences.
    pub(crate) fn mixed_product(
        &self,
        products: &mut Products,
        difference: &mut GradientDifference,
        reverse_above: Option<f64>,
        u: &ParamVector,
    ) -> Result<MixedProduct, HypergradientError> {
        if let Some(gradient) = self.problem.exact_mixed_product(self.inner, self.outer, u) {
            return Ok(MixedProduct {
                gradient,
                scalars: Vec::new(),
                directional: Vec::new(),
                hessian_product: None,
                name: "exact",
                step: None,
                estimated_error: None,
                forward_passes: 0,
                backward_passes: 0,
            });
        }
        if let Some(mediated) = self.problem.mediation() {
            let (derivative, name) =
                scalar_derivative(mediated, self.inner, products, reverse_above, u)?;
            let gradient = through_scalars(
                mediated,
                self.outer,
                &derivative.scalars,
                &derivative.values,
            );
            return Ok(MixedProduct {
                gradient,
                scalars: derivative.scalars,
                directional: derivative.values,
                hessian_product: None,
                name,
                step: derivative.step,
                estimated_error: derivative.estimated_error,
                forward_passes: derivative.forward_passes,
                backward_passes: derivative.backward_passes,
            });
        }
        if let Some(record) = self.record()? {
            return Ok(MixedProduct {
                gradient: record.product(u, self.outer),
                scalars: Vec::new(),
                directional: Vec::new(),
                hessian_product: None,
                name: RECORDED,
                step: None,
                estimated_error: None,
                forward_passes: 1,
                backward_passes: PASSES_OF_RECORDING + PASSES_OF_A_RECORDED_PRODUCT,
            });
        }
        if let Some(found) = self.along(self.outer, u)? {
            return Ok(MixedProduct {
                gradient: found.outer,
                scalars: Vec::new(),
                directional: Vec::new(),
                hessian_product: Some(found.inner),
                name: FORWARD_MODE,
                step: None,
                estimated_error: None,
                forward_passes: 0,
                backward_passes: PASSES_OF_FORWARD_MODE,
            });
        }
        let found = self.difference(difference, u, Focus::Outer)?;
        let size = found.values.outer.norm();
        Ok(MixedProduct {
            scalars: Vec::new(),
            directional: Vec::new(),
            name: "gradient_difference",
            step: Some(found.step),
            estimated_error: Some(if size > 0.0 { found.error / size } else { 0.0 }),
            forward_passes: 0,
            backward_passes: found.passes,
            gradient: found.values.outer,
            hessian_product: Some(found.values.inner),
        })
    }
}

/// Products of the second derivatives of the inner objective with one vector.
#[derive(Debug, Clone)]
pub struct SecondDerivatives {
    /// `(∂²f/∂w²) u`.
    pub hessian_product: ParamVector,
    /// `(∂²f/∂phi∂w)ᵀ u`.
    pub mixed_product: ParamVector,
    /// The difference step `h` in `w ± h u`.
    pub step: f64,
    /// Estimated error of the product with the Hessian, relative to its norm.
    pub estimated_error: f64,
    /// Forward-and-backward passes.
    pub backward_passes: usize,
}

/// Both products with `u` by one central difference of first-order gradients; the step is chosen
/// for the product with the Hessian and kept in `difference` for the next call.
///
/// # Errors
///
/// [`HypergradientError::NonFinite`] if the inner objective or a product is not finite.
pub fn second_derivatives<P: BilevelProblem>(
    difference: &mut GradientDifference,
    problem: &P,
    inner: &P::Inner,
    outer: &P::Outer,
    u: &ParamVector,
) -> Result<SecondDerivatives, HypergradientError> {
    let point = Point::new(problem, inner, outer);
    let found = point.difference(difference, u, Focus::Inner)?;
    let size = found.values.inner.norm();
    Ok(SecondDerivatives {
        hessian_product: found.values.inner,
        mixed_product: found.values.outer,
        step: found.step,
        estimated_error: if size > 0.0 { found.error / size } else { 0.0 },
        backward_passes: found.passes,
    })
}

/// The backward pass of an objective that may be a parameter itself: a leaf of the tape would be
/// consumed with it.
pub(crate) fn backward(objective: Tensor<1>) -> burn::tensor::Gradients {
    (objective * 1.0).backward()
}

/// `c_t = <∂l_t/∂w, u>`, and how it was obtained in the end.
pub(crate) fn scalar_derivative<I: Module, O: Module>(
    problem: &dyn ScalarMediated<Inner = I, Outer = O>,
    inner: &I,
    products: &mut Products,
    reverse_above: Option<f64>,
    u: &ParamVector,
) -> Result<(Derivative, &'static str), HypergradientError> {
    let reverse = || reverse_passes(inner, u, |w| problem.scalars(w));
    let difference = match products {
        Products::Reverse => return Ok((reverse()?, "reverse_passes")),
        Products::ForwardMode => {
            let (model, along) = (inner.valid(), u.as_module(inner));
            let (scalars, values) = problem
                .scalars_along(&model, &along)
                .ok_or(HypergradientError::NoForwardMode)?;
            return Ok((Derivative::exact(scalars, values)?, FORWARD_MODE));
        }
        Products::CentralDifference(difference) => difference,
    };
    let found = difference.derivative(inner, u, |w| problem.scalars(w))?;
    match (reverse_above, found.estimated_error) {
        (Some(limit), Some(error)) if error > limit => {
            let mut exact = reverse()?;
            exact.forward_passes += found.forward_passes;
            Ok((exact, "reverse_passes"))
        }
        _ => Ok((found, "central_difference")),
    }
}

/// `d/dphi sum_t c_t ∂g/∂l_t`.
pub(crate) fn through_scalars<I: Module, O: Module>(
    problem: &dyn ScalarMediated<Inner = I, Outer = O>,
    outer: &O,
    scalars: &[f64],
    direction: &[f64],
) -> ParamVector {
    let device = outer.devices().into_iter().next().unwrap_or_default();
    let dtype = ParamVector::from_parameters(outer).dtype();
    let tensor = |values: &[f64]| {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        match dtype {
            Some(dtype) => Tensor::<1>::from_data(data.convert_dtype(dtype), (&device, dtype)),
            None => Tensor::<1>::from_data(data, &device),
        }
    };
    problem.mixed_scalar_product(outer, tensor(scalars), tensor(direction))
}

/// The inner Hessian at a point.
pub(crate) struct Hessian<'a, 'p, P: BilevelProblem> {
    point: &'a Point<'p, P>,
    /// The outer module off the tape: its gradients are not wanted.
    outer: P::Outer,
    pub(crate) difference: &'a mut GradientDifference,
    pub(crate) products: usize,
    pub(crate) passes: usize,
    /// Largest absolute error of a product, in units of its direction.
    error: f64,
    /// Largest product, in the same units.
    largest: f64,
    name: Option<&'static str>,
}

impl<'a, 'p, P: BilevelProblem> Hessian<'a, 'p, P> {
    pub(crate) fn new(point: &'a Point<'p, P>, difference: &'a mut GradientDifference) -> Self {
        Self {
            point,
            outer: point.outer.clone().no_grad(),
            difference,
            products: 0,
            passes: 0,
            error: 0.0,
            largest: 0.0,
            name: None,
        }
    }

    /// Enters name, error and cost.
    pub(crate) fn certify(&self, certificate: &mut Certificate) {
        certificate.hessian_products += self.products;
        certificate.backward_passes += self.passes;
        certificate.hessian_product = self.name.map(str::to_owned);
        if self.largest > 0.0 && self.name == Some("gradient_difference") {
            certificate.hessian_error = Some(self.error / self.largest);
        }
    }
}

impl<P: BilevelProblem> SymmetricOperator for Hessian<'_, '_, P> {
    fn apply(&mut self, u: &ParamVector) -> Result<ParamVector, HypergradientError> {
        self.products += 1;
        let Point { problem, inner, .. } = *self.point;
        if let Some(product) = problem.exact_hessian_product(inner, &self.outer, u) {
            self.name = Some("exact");
            return Ok(product);
        }
        if let Some(record) = self.point.record()? {
            self.name = Some(RECORDED);
            self.passes += PASSES_OF_A_RECORDED_PRODUCT;
            return Ok(record.product(u, inner));
        }
        if let Some(found) = self.point.along(&self.outer, u)? {
            self.name = Some(FORWARD_MODE);
            self.passes += PASSES_OF_FORWARD_MODE;
            return Ok(found.inner);
        }
        self.name = Some("gradient_difference");
        let found = self
            .difference
            .derivative(inner, u, Focus::Inner, |inner| {
                self.point.gradients_at(inner, &self.outer)
            })?;
        self.passes += found.passes;
        let size = u.norm();
        if size > 0.0 {
            self.error = self.error.max(found.error / size);
            self.largest = self.largest.max(found.values.inner.norm() / size);
        }
        Ok(found.values.inner)
    }

    fn zeros(&self) -> ParamVector {
        ParamVector::zeros_like(self.point.inner)
    }
}
