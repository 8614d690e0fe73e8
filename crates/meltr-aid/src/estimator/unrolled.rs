//! Reverse differentiation of stored inner steps.

use std::collections::VecDeque;

use burn::module::Module;

use super::settings::OuterGradients;
use super::{Hypergradient, HypergradientEstimator, Settings};
use crate::certificate::Certificate;
use crate::error::HypergradientError;
use crate::gradient_difference::Focus;
use crate::params::ParamVector;
use crate::problem::BilevelProblem;
use crate::products::{Hessian, Point};
use crate::solver::SymmetricOperator;
use crate::tape::train_like;

/// The derivative of `F` through the last `K` steps of a gradient descent, with or without
/// momentum:
///
/// ```text
/// m ← mu m + ∇f(w),   w ← w - rate m
/// ```
///
/// Going back over the steps, with `a` the derivative by `w` after the step and `b` that by `m`:
/// `b ← mu b - rate a`, `dF/dphi += (∂²f/∂phi∂w)ᵀ b`, `a ← a + H b`, all at the `w` before it.
/// No inner minimum is needed: what is differentiated is the computation itself.
///
/// Memory is `K` copies of the parameters, and one step's tape at a time. Each step costs two
/// forward-and-backward passes where both products come from one difference, and those of a
/// product with the Hessian and of a mixed product otherwise.
///
/// # References
///
/// - Franceschi et al., [Forward and Reverse Gradient-Based Hyperparameter
///   Optimization](https://arxiv.org/abs/1703.01785), ICML 2017.
/// - Shaban et al., [Truncated Back-propagation for Bilevel
///   Optimization](https://arxiv.org/abs/1810.10667), AISTATS 2019.
#[derive(Debug, Clone)]
pub struct Unrolled {
    max_steps: usize,
    momentum: f64,
    steps: VecDeque<Step>,
    /// Everything else.
    pub settings: Settings,
}

#[derive(Debug, Clone)]
struct Step {
    before: ParamVector,
    learning_rate: f64,
}

impl Unrolled {
    /// Remembers the last `max_steps` steps.
    #[must_use]
    pub fn new(max_steps: usize, settings: Settings) -> Self {
        Self {
            max_steps,
            momentum: 0.0,
            steps: VecDeque::with_capacity(max_steps.saturating_add(1).min(1024)),
            settings,
        }
    }

    /// The same for a descent with this momentum.
    #[must_use]
    pub fn with_momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// To be called before every inner step.
    pub fn record<M: Module>(&mut self, inner: &M, learning_rate: f64) {
        self.steps.push_back(Step {
            before: ParamVector::from_parameters(inner),
            learning_rate,
        });
        while self.steps.len() > self.max_steps {
            self.steps.pop_front();
        }
    }

    /// Forgets all steps: the descent starts anew.
    pub fn clear(&mut self) {
        self.steps.clear();
    }

    /// Number of steps that are remembered.
    #[must_use]
    pub fn n_steps(&self) -> usize {
        self.steps.len()
    }
}

impl<P: BilevelProblem> HypergradientEstimator<P> for Unrolled {
    fn name(&self) -> &'static str {
        "unrolled"
    }

    fn estimate(
        &mut self,
        problem: &P,
        inner: &P::Inner,
        outer: &P::Outer,
    ) -> Result<Hypergradient, HypergradientError> {
        const NAME: &str = "unrolled";
        HypergradientError::require_setting(
            (0.0..1.0).contains(&self.momentum),
            "momentum",
            self.momentum,
            "in [0, 1)",
        )?;
        if self.steps.is_empty() {
            return Err(HypergradientError::NoSteps);
        }
        let parameters = ParamVector::zeros_like(inner);
        if !self
            .steps
            .iter()
            .all(|step| step.before.covers(&parameters))
        {
            return Err(HypergradientError::ForeignSteps);
        }
        let gradients = OuterGradients::of(problem, inner, outer, &self.settings)?;
        if gradients.norm == 0.0 {
            return Ok(gradients.without_solve(NAME));
        }
        let mut certificate = Certificate {
            estimator: NAME.to_owned(),
            backward_passes: 1,
            ..Certificate::default()
        };
        let mut adjoint = gradients.v.clone();
        let mut momentum = ParamVector::zero();
        let mut gradient = gradients.direct.clone();
        let mut worst: Option<f64> = None;
        for (age, step) in self.steps.iter().rev().enumerate() {
            momentum = momentum
                .scale(self.momentum)
                .add_scaled(-step.learning_rate, &adjoint);
            let before = train_like(step.before.as_module(inner), inner);
            let point = Point::past(problem, &before, outer, age);
            let has_own_mixed = problem.mediation().is_some();
            let exact = problem.exact_hessian_product(&before, outer, &momentum);
            let product = if exact.is_none() && !has_own_mixed {
                let found = point.difference(
                    &mut self.settings.hessian_difference,
                    &momentum,
                    Focus::Inner,
                )?;
                let size = found.values.inner.norm();
                let error = if size > 0.0 { found.error / size } else { 0.0 };
                worst = Some(worst.map_or(error, |known: f64| known.max(error)));
                certificate.backward_passes += found.passes;
                "gradient_difference".clone_into(&mut certificate.product);
                certificate.hessian_product = Some("gradient_difference".to_owned());
                certificate.hessian_products += 1;
                gradient = gradient.add_scaled(1.0, &found.values.outer);
                found.values.inner
            } else {
                let mut difference = self.settings.hessian_difference.clone();
                let mut hessian = Hessian::new(&point, &mut difference);
                let product = hessian.apply(&momentum)?;
                hessian.certify(&mut certificate);
                self.settings.hessian_difference = difference;
                let mixed = self.settings.mixed(&point, &momentum)?;
                mixed.certify(&mut certificate);
                gradient = gradient.add_scaled(1.0, &mixed.gradient);
                product
            };
            adjoint = adjoint.add_scaled(1.0, &product);
        }
        if worst.is_some() {
            certificate.hessian_error = worst;
            certificate.estimated_error = worst;
        }
        self.settings.policy.judge(&mut certificate)?;
        HypergradientError::require_finite("the norm of the hypergradient", gradient.norm())?;
        Ok(Hypergradient {
            gradient,
            outer_objective: gradients.objective,
            outer_gradient: gradients.v,
            adjoint: ParamVector::zero(),
            scalars: Vec::new(),
            directional: Vec::new(),
            certificate,
        })
    }
}
