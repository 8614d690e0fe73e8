//! What all estimators have in common.

use serde::{Deserialize, Serialize};

use crate::certificate::{Action, Certificate, Policy, Verdict};
use crate::error::HypergradientError;
use crate::estimator::Hypergradient;
use crate::gradient_difference::GradientDifference;
use crate::params::ParamVector;
use crate::problem::BilevelProblem;
use crate::products::{MixedProduct, Point, Products, backward};

/// Settings of every estimator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How directional derivatives of scalars are obtained, in problems that have them.
    pub products: Products,
    /// Whether the direct part `∂F/∂phi` is left out, as in the released code of MELTR.
    pub without_direct: bool,
    /// A central difference of scalars whose estimated error is above this is replaced by `T`
    /// reverse passes; `None` takes every difference as it is.
    pub reverse_above: Option<f64>,
    /// Whether the residual of the linear solve is measured where it does not come for free, at
    /// the price of one product with the Hessian.
    pub measure_residual: bool,
    /// Limits on the certificate.
    pub policy: Policy,
    /// Differences for products with the Hessian.
    pub hessian_difference: GradientDifference,
    /// Differences for the mixed product, in problems that give it in no other way.
    pub mixed_difference: GradientDifference,
}

/// The outer objective and its gradients.
pub(crate) struct OuterGradients {
    pub(crate) objective: f64,
    pub(crate) v: ParamVector,
    pub(crate) direct: ParamVector,
    /// Norm of `v`.
    pub(crate) norm: f64,
}

impl OuterGradients {
    pub(crate) fn of<P: BilevelProblem>(
        problem: &P,
        inner: &P::Inner,
        outer: &P::Outer,
        settings: &Settings,
    ) -> Result<Self, HypergradientError> {
        let objective = problem.outer_objective(inner, outer);
        let value = objective.clone().inner().into_data().iter::<f64>().sum();
        HypergradientError::require_finite("the outer objective", value)?;
        if !objective.is_tracked() {
            return Err(HypergradientError::Unreached);
        }
        let mut gradients = backward(objective);
        let v = ParamVector::from_gradients(&mut gradients, inner);
        let direct = if settings.without_direct {
            ParamVector::zero()
        } else {
            ParamVector::from_gradients(&mut gradients, outer)
        };
        if v.is_empty() {
            return Err(HypergradientError::Unreached);
        }
        let norm = HypergradientError::require_finite("the norm of the outer gradient", v.norm())?;
        Ok(Self {
            objective: value,
            v,
            direct,
            norm,
        })
    }

    /// The answer where `v` is zero: the direct part alone.
    pub(crate) fn without_solve(self, estimator: &str) -> Hypergradient {
        Hypergradient {
            gradient: self.direct,
            outer_objective: self.objective,
            adjoint: self.v.clone(),
            outer_gradient: self.v,
            scalars: Vec::new(),
            directional: Vec::new(),
            certificate: Certificate {
                estimator: estimator.to_owned(),
                product: "none".to_owned(),
                relative_residual: Some(0.0),
                backward_passes: 1,
                ..Certificate::default()
            },
        }
    }
}

impl Settings {
    /// The mixed product with `u`.
    pub(crate) fn mixed<P: BilevelProblem>(
        &mut self,
        point: &Point<'_, P>,
        u: &ParamVector,
    ) -> Result<MixedProduct, HypergradientError> {
        point.mixed_product(
            &mut self.products,
            &mut self.mixed_difference,
            self.reverse_above,
            u,
        )
    }

    /// Judges the certificate, falls back if the policy says so, and puts the hypergradient
    /// `direct - mixed` together.
    pub(crate) fn finish<P: BilevelProblem>(
        &mut self,
        point: &Point<'_, P>,
        outer: OuterGradients,
        adjoint: ParamVector,
        mut mixed: MixedProduct,
        mut certificate: Certificate,
    ) -> Result<Hypergradient, HypergradientError> {
        mixed.certify(&mut certificate);
        let action = self.policy.judge(&mut certificate)?;
        let mut adjoint = adjoint;
        if action == Action::FallBack {
            let limit = self
                .policy
                .max_error
                .filter(|_| self.policy.on_error == Action::FallBack);
            let above =
                |error: Option<f64>| error.zip(limit).is_some_and(|(error, limit)| error > limit);
            if above(certificate.hessian_error) || self.policy.replaces_solve(&certificate) {
                adjoint = outer.v.clone();
                mixed = self.mixed(point, &adjoint)?;
                mixed.certify(&mut certificate);
            }
            // Of the product that stands now.
            if above(certificate.estimated_error) && point.problem.mediation().is_some() {
                let mut reverse = Products::Reverse;
                let difference = &mut self.mixed_difference;
                mixed = point.mixed_product(&mut reverse, difference, None, &adjoint)?;
                mixed.certify(&mut certificate);
            }
            certificate.verdict = Verdict::FellBack;
        }
        let gradient = mixed.gradient.scale(-1.0).add_scaled(1.0, &outer.direct);
        HypergradientError::require_finite("the norm of the hypergradient", gradient.norm())?;
        Ok(Hypergradient {
            gradient,
            outer_objective: outer.objective,
            outer_gradient: outer.v,
            adjoint,
            scalars: mixed.scalars,
            directional: mixed.directional,
            certificate,
        })
    }
}
