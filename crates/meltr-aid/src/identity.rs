//! The identity estimator: the inverse Hessian replaced by the identity.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::certificate::Certificate;
use crate::difference::{CentralDifference, Derivative, reverse_passes};
use crate::error::HypergradientError;
use crate::params::ParamVector;
use crate::problem::ScalarMediated;

/// How the directional derivatives of the scalars are obtained.
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

/// A hypergradient and everything met on the way to it.
#[derive(Debug, Clone)]
pub struct Hypergradient {
    /// `dF/dphi`, as estimated.
    pub gradient: ParamVector,
    /// Value of the outer objective.
    pub outer_objective: f64,
    /// The scalars `l(w)`, `[T]`.
    pub scalars: Vec<f64>,
    /// `c_t = <∂l_t/∂w, v>`, `[T]`.
    pub directional: Vec<f64>,
    /// How it was obtained and how good it is.
    pub certificate: Certificate,
    /// `v = ∂F/∂w`.
    pub outer_gradient: ParamVector,
}

/// `dF/dphi ≈ [∂F/∂phi] - (∂²f/∂phi∂w)ᵀ v`, `v = ∂F/∂w`.
///
/// Right in direction where the inner Hessian is close to a multiple of the identity; its length
/// carries no meaning beyond that.
///
/// # References
///
/// - Ko et al., [MELTR: Meta Loss Transformer for Learning to Fine-Tune Video Foundation
///   Models](https://arxiv.org/abs/2303.13009), CVPR 2023.
/// - Reference code: `mlvlab/MELTR@669ad60`, class `MELTRgrad`, which takes the same product by a
///   second backward pass through the backbone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IdentityEstimator {
    /// How the directional derivatives are obtained.
    pub products: Products,
    /// Whether the direct part `∂F/∂phi` is added; the released code leaves it out.
    pub direct: bool,
    /// A difference whose estimated error is above this is replaced by `T` reverse passes; `None`
    /// takes every difference as it is.
    pub reverse_above: Option<f64>,
}

impl IdentityEstimator {
    /// The hypergradient at `(inner, outer)`; both modules are on an autodiff device.
    ///
    /// # Errors
    ///
    /// [`HypergradientError`] if something is not finite, if the outer objective reaches no inner
    /// parameter or if there are no scalars.
    pub fn estimate<P: ScalarMediated>(
        &mut self,
        problem: &P,
        inner: &P::Inner,
        outer: &P::Outer,
    ) -> Result<Hypergradient, HypergradientError> {
        let objective = problem.outer_objective(inner, outer);
        let outer_objective = objective.clone().into_scalar::<f64>();
        if !outer_objective.is_finite() {
            return Err(HypergradientError::NonFinite {
                what: "the outer objective".to_owned(),
                value: outer_objective,
            });
        }
        if !objective.is_tracked() {
            return Err(HypergradientError::Unreached);
        }
        let mut gradients = objective.backward();
        let outer_gradient = ParamVector::from_gradients(&mut gradients, inner);
        let direct = self
            .direct
            .then(|| ParamVector::from_gradients(&mut gradients, outer));
        if outer_gradient.is_empty() {
            return Err(HypergradientError::Unreached);
        }
        let norm = outer_gradient.norm();
        if !norm.is_finite() {
            return Err(HypergradientError::NonFinite {
                what: "the norm of the outer gradient".to_owned(),
                value: norm,
            });
        }

        let (derivative, product) = self.derivative(problem, inner, &outer_gradient)?;
        let implicit = self.mixed(problem, outer, &derivative.scalars, &derivative.values);
        let gradient = match &direct {
            Some(direct) => implicit.scale(-1.0).add_scaled(1.0, direct),
            None => implicit.scale(-1.0),
        };
        Ok(Hypergradient {
            gradient,
            outer_objective,
            scalars: derivative.scalars,
            directional: derivative.values,
            certificate: Certificate {
                estimator: "identity".to_owned(),
                product: product.to_owned(),
                difference_step: derivative.step,
                estimated_error: derivative.estimated_error,
                forward_passes: derivative.forward_passes,
                backward_passes: derivative.backward_passes + 1,
            },
            outer_gradient,
        })
    }

    /// Relative error of `hypergradient` against the one from `T` reverse passes at the same
    /// point: `|h - h_exact| / |h_exact|`.
    ///
    /// Costs `T` forward-and-backward passes. Modules have to be those that `hypergradient` was
    /// estimated at.
    ///
    /// # Errors
    ///
    /// As [`estimate`](Self::estimate).
    pub fn audit<P: ScalarMediated>(
        &self,
        problem: &P,
        inner: &P::Inner,
        outer: &P::Outer,
        hypergradient: &Hypergradient,
    ) -> Result<f64, HypergradientError> {
        let exact = reverse_passes(inner, &hypergradient.outer_gradient, |w| problem.scalars(w))?;
        let exact = self.mixed(problem, outer, &exact.scalars, &exact.values);
        let difference = self
            .mixed(
                problem,
                outer,
                &hypergradient.scalars,
                &hypergradient.directional,
            )
            .add_scaled(-1.0, &exact);
        // The direct part is the same on both sides and cancels.
        Ok(difference.norm() / exact.norm().max(f64::MIN_POSITIVE))
    }

    /// Directional derivatives and how they were obtained in the end.
    fn derivative<P: ScalarMediated>(
        &mut self,
        problem: &P,
        inner: &P::Inner,
        direction: &ParamVector,
    ) -> Result<(Derivative, &'static str), HypergradientError> {
        let reverse = || reverse_passes(inner, direction, |w| problem.scalars(w));
        let difference = match &mut self.products {
            Products::Reverse => return Ok((reverse()?, "reverse_passes")),
            Products::ForwardMode => {
                let (model, along) = (inner.valid(), direction.as_module(inner));
                let (scalars, values) = problem
                    .scalars_along(&model, &along)
                    .ok_or(HypergradientError::NoForwardMode)?;
                return Ok((Derivative::exact(scalars, values)?, "forward_mode"));
            }
            Products::CentralDifference(difference) => difference,
        };
        let found = difference.derivative(inner, direction, |w| problem.scalars(w))?;
        match (self.reverse_above, found.estimated_error) {
            (Some(limit), Some(error)) if error > limit => {
                let mut exact = reverse()?;
                exact.forward_passes += found.forward_passes;
                Ok((exact, "reverse_passes"))
            }
            _ => Ok((found, "central_difference")),
        }
    }

    fn mixed<P: ScalarMediated>(
        &self,
        problem: &P,
        outer: &P::Outer,
        scalars: &[f64],
        direction: &[f64],
    ) -> ParamVector {
        let device = outer.devices().into_iter().next().unwrap_or_default();
        let tensor = |values: &[f64]| {
            Tensor::<1>::from_data(TensorData::new(values.to_vec(), [values.len()]), &device)
        };
        problem.mixed_product(outer, tensor(scalars), tensor(direction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Param;
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct Vector {
        values: Param<Tensor<1>>,
    }

    fn vector(values: &[f32]) -> Vector {
        let device = Device::default().autodiff();
        Vector {
            values: Param::from_tensor(Tensor::from_floats(values, &device)),
        }
    }

    /// `l = (|w|², sum sin w)`, `g = phi_0 l_0 + phi_1² l_1`, `F = sum w + phi_0`.
    struct Problem;

    impl ScalarMediated for Problem {
        type Inner = Vector;
        type Outer = Vector;

        fn scalars(&self, inner: &Vector) -> Tensor<1> {
            let w = inner.values.val();
            Tensor::cat(vec![w.clone().square().sum(), w.sin().sum()], 0)
        }

        fn scalars_along(
            &self,
            inner: &Vector,
            direction: &Vector,
        ) -> Option<(Tensor<1>, Tensor<1>)> {
            let (w, u) = (inner.values.val(), direction.values.val());
            let along = vec![(w.clone() * u.clone()).sum() * 2.0, (w.cos() * u).sum()];
            Some((self.scalars(inner), Tensor::cat(along, 0)))
        }

        fn outer_objective(&self, inner: &Vector, outer: &Vector) -> Tensor<1> {
            inner.values.val().sum() + outer.values.val().narrow(0, 0, 1)
        }

        fn mixed_product(&self, outer: &Vector, _: Tensor<1>, c: Tensor<1>) -> ParamVector {
            let phi = outer.values.val();
            let value = phi.clone().narrow(0, 0, 1) * c.clone().narrow(0, 0, 1)
                + phi.narrow(0, 1, 1).square() * c.narrow(0, 1, 1);
            ParamVector::from_gradients(&mut value.backward(), outer)
        }
    }

    #[test]
    fn the_hypergradient_is_the_one_worked_by_hand() {
        let (inner, outer) = (vector(&[0.2, -0.7, 1.1]), vector(&[0.5, 3.0]));
        let c0 = 2.0 * (0.2 - 0.7 + 1.1);
        let c1: f64 = [0.2f64, -0.7, 1.1].iter().map(|w| w.cos()).sum();
        let expected = [-c0, -2.0 * 3.0 * c1];
        let difference = Products::CentralDifference(CentralDifference::default());
        for products in [Products::ForwardMode, difference, Products::Reverse] {
            let mut estimator = IdentityEstimator {
                products,
                ..IdentityEstimator::default()
            };
            let ours = estimator.estimate(&Problem, &inner, &outer).unwrap();
            for (ours, expected) in ours.gradient.to_vec().iter().zip(expected) {
                assert!(
                    (ours - expected).abs() < 2e-3 * expected.abs(),
                    "{ours} {expected}"
                );
            }
            let audited = estimator.audit(&Problem, &inner, &outer, &ours).unwrap();
            assert!(audited < 1e-3);
        }
    }

    #[test]
    fn the_direct_part_is_added_on_request() {
        let (inner, outer) = (vector(&[0.2]), vector(&[0.5, 3.0]));
        let at = |direct| {
            IdentityEstimator {
                products: Products::Reverse,
                direct,
                reverse_above: None,
            }
            .estimate(&Problem, &inner, &outer)
            .unwrap()
            .gradient
            .to_vec()[0]
        };
        assert!((at(true) - at(false) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn an_outer_objective_that_reaches_nothing_is_an_error() {
        struct Unreached;
        impl ScalarMediated for Unreached {
            type Inner = Vector;
            type Outer = Vector;
            fn scalars(&self, inner: &Vector) -> Tensor<1> {
                inner.values.val()
            }
            fn scalars_along(&self, _: &Vector, _: &Vector) -> Option<(Tensor<1>, Tensor<1>)> {
                None
            }
            fn outer_objective(&self, _: &Vector, outer: &Vector) -> Tensor<1> {
                outer.values.val().sum()
            }
            fn mixed_product(&self, _: &Vector, _: Tensor<1>, _: Tensor<1>) -> ParamVector {
                ParamVector::zero()
            }
        }
        let error = IdentityEstimator::default()
            .estimate(&Unreached, &vector(&[1.0]), &vector(&[1.0]))
            .unwrap_err();
        assert_eq!(error, HypergradientError::Unreached);
    }
}
