//! The identity, seen through the optimizer's own scaling of the gradient.

use std::collections::BTreeMap;

use burn::module::ParamId;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::settings::OuterGradients;
use super::{Hypergradient, HypergradientEstimator, Settings};
use crate::certificate::Certificate;
use crate::error::HypergradientError;
use crate::params::ParamVector;
use crate::problem::BilevelProblem;
use crate::products::Point;

/// How an optimizer turns a gradient `g` into a step `w - rate d(g)`.
///
/// Decoupled weight decay, as in AdamW, does not depend on `g` and so does not appear.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum UpdateRule {
    /// `m ← mu m + g`, `d = m`.
    Sgd {
        /// Learning rate, above 0.
        learning_rate: f64,
    },
    /// Adam and AdamW: `d = m̂ / (√v̂ + epsilon)`, both moments corrected for their start.
    Adam {
        /// Learning rate, above 0.
        learning_rate: f64,
        /// Decay of the first moment, in `[0, 1)`.
        beta_1: f64,
        /// Decay of the second moment, in `[0, 1)`.
        beta_2: f64,
        /// Numerical guard, above 0.
        epsilon: f64,
    },
    /// BertAdam: every parameter's gradient is clipped to a norm, the moments are not corrected.
    BertAdam {
        /// Learning rate, above 0.
        learning_rate: f64,
        /// Decay of the first moment, in `[0, 1)`.
        beta_1: f64,
        /// Decay of the second moment, in `[0, 1)`.
        beta_2: f64,
        /// Numerical guard, above 0.
        epsilon: f64,
        /// Largest norm of a parameter's gradient, above 0.
        max_grad_norm: f64,
    },
}

impl UpdateRule {
    fn learning_rate(self) -> f64 {
        match self {
            Self::Sgd { learning_rate }
            | Self::Adam { learning_rate, .. }
            | Self::BertAdam { learning_rate, .. } => learning_rate,
        }
    }

    fn validate(self) -> Result<(), HypergradientError> {
        let rate = self.learning_rate();
        HypergradientError::require_setting(
            rate.is_finite() && rate > 0.0,
            "learning_rate",
            rate,
            "finite and above 0",
        )?;
        let (beta_1, beta_2, epsilon) = match self {
            Self::Sgd { .. } => return Ok(()),
            Self::Adam {
                beta_1,
                beta_2,
                epsilon,
                ..
            }
            | Self::BertAdam {
                beta_1,
                beta_2,
                epsilon,
                ..
            } => (beta_1, beta_2, epsilon),
        };
        for (key, beta) in [("beta_1", beta_1), ("beta_2", beta_2)] {
            HypergradientError::require_setting(
                (0.0..1.0).contains(&beta),
                key,
                beta,
                "in [0, 1)",
            )?;
        }
        HypergradientError::require_setting(
            epsilon.is_finite() && epsilon > 0.0,
            "epsilon",
            epsilon,
            "finite and above 0",
        )
    }
}

/// The moments of an optimizer.
#[derive(Debug, Clone, Default)]
pub struct OptimizerState {
    /// First moment.
    pub first: ParamVector,
    /// Second moment.
    pub second: ParamVector,
    /// Steps taken.
    pub steps: usize,
}

/// Guard in the norm of a clipped gradient, as in the released optimizer.
const CLIP_GUARD: f64 = 1e-6;

impl OptimizerState {
    /// The state after a step with `gradient`.
    #[must_use]
    pub fn after(&self, rule: UpdateRule, gradient: &ParamVector) -> Self {
        let (beta_1, beta_2, gradient) = match rule {
            UpdateRule::Sgd { .. } => return self.clone(),
            UpdateRule::Adam { beta_1, beta_2, .. } => (beta_1, beta_2, gradient.clone()),
            UpdateRule::BertAdam {
                beta_1,
                beta_2,
                max_grad_norm,
                ..
            } => (beta_1, beta_2, clipped(gradient, max_grad_norm)),
        };
        let squared = gradient.map(|g| g.clone() * g.clone());
        Self {
            first: self
                .first
                .clone()
                .scale(beta_1)
                .add_scaled(1.0 - beta_1, &gradient),
            second: self
                .second
                .clone()
                .scale(beta_2)
                .add_scaled(1.0 - beta_2, &squared),
            steps: self.steps + 1,
        }
    }

    /// `d(g)`: the step that would be taken with `gradient`, in units of the learning rate and
    /// without weight decay.
    #[must_use]
    pub fn direction(&self, rule: UpdateRule, gradient: &ParamVector) -> ParamVector {
        let Some((c1, c2, epsilon)) = self.corrections(rule) else {
            return gradient.clone();
        };
        let after = self.after(rule, gradient);
        after.first.map_with([&after.second], |m, [v]| {
            m.clone() * c1 / ((v * c2).sqrt() + epsilon)
        })
    }

    /// `rate (∂d/∂g)ᵀ v` at `gradient`.
    #[must_use]
    pub fn scaled(&self, rule: UpdateRule, gradient: &ParamVector, v: &ParamVector) -> ParamVector {
        let rate = rule.learning_rate();
        let Some((c1, c2, epsilon)) = self.corrections(rule) else {
            return v.clone().scale(rate);
        };
        let (beta_1, beta_2, seen) = match rule {
            UpdateRule::Sgd { .. } => return v.clone().scale(rate),
            UpdateRule::Adam { beta_1, beta_2, .. } => (beta_1, beta_2, gradient.clone()),
            UpdateRule::BertAdam {
                beta_1,
                beta_2,
                max_grad_norm,
                ..
            } => (beta_1, beta_2, clipped(gradient, max_grad_norm)),
        };
        let after = self.after(rule, gradient);
        // d = m̂ / (√v̂ + ε):  ∂d/∂g = (1-β₁) c₁ / (√v̂ + ε) - m̂ (1-β₂) c₂ g / (√v̂ (√v̂ + ε)²)
        let product = v.map_with([&after.first, &after.second, &seen], |v, [m, second, g]| {
            let root = (second * c2).sqrt();
            let guarded = root.clone() + epsilon;
            let linear = guarded.clone().recip() * ((1.0 - beta_1) * c1);
            // Where the root is zero so are g and the numerator.
            let is_zero = root.clone().equal_elem(0.0);
            let bent = m * c1 * g * ((1.0 - beta_2) * c2) / (root * guarded.clone() * guarded);
            let bent = bent.mask_fill(is_zero, 0.0);
            v.clone() * (linear - bent)
        });
        let product = match rule {
            UpdateRule::BertAdam { max_grad_norm, .. } => {
                through_clipping(gradient, max_grad_norm, &product)
            }
            _ => product,
        };
        product.scale(rate)
    }

    /// The factors that the optimizer puts on the entries of `gradient` in a step with it, without
    /// the learning rate: `1 / (√v̂ + epsilon)`, and that of the clipping where there is one.
    #[must_use]
    pub fn weights(&self, rule: UpdateRule, gradient: &ParamVector) -> ParamVector {
        let Some((_, c2, epsilon)) = self.corrections(rule) else {
            return gradient.map(|g| g.ones_like());
        };
        let after = self.after(rule, gradient);
        gradient.map_with([&after.second], |g, [second]| {
            let weights = ((second * c2).sqrt() + epsilon).recip();
            match rule {
                UpdateRule::BertAdam { max_grad_norm, .. } => {
                    weights * clip_factor(g, max_grad_norm).expand([g.dims()[0]])
                }
                _ => weights,
            }
        })
    }

    /// Factors on the moments after the next step, and the guard; `None` for plain descent.
    fn corrections(&self, rule: UpdateRule) -> Option<(f64, f64, f64)> {
        match rule {
            UpdateRule::Sgd { .. } => None,
            UpdateRule::Adam {
                beta_1,
                beta_2,
                epsilon,
                ..
            } => {
                let steps = (self.steps + 1) as f64;
                Some((
                    1.0 / (1.0 - beta_1.powf(steps)),
                    1.0 / (1.0 - beta_2.powf(steps)),
                    epsilon,
                ))
            }
            UpdateRule::BertAdam { epsilon, .. } => Some((1.0, 1.0, epsilon)),
        }
    }
}

/// Every parameter's gradient, clipped to its own norm.
fn clipped(gradient: &ParamVector, max_norm: f64) -> ParamVector {
    gradient.map(|g| g.clone() * clip_factor(g, max_norm))
}

/// What a gradient is multiplied by to be clipped to this norm, `[1]`.
fn clip_factor(g: &Tensor<1>, max_norm: f64) -> Tensor<1> {
    let norm = g.clone().square().sum().sqrt();
    ((norm + CLIP_GUARD).recip() * max_norm).clamp_max(1.0)
}

/// The transposed derivative of [`clipped`] at `gradient`, applied to `v`.
fn through_clipping(gradient: &ParamVector, max_norm: f64, v: &ParamVector) -> ParamVector {
    v.map_with([gradient], |v, [g]| {
        let norm = g.clone().square().sum().sqrt();
        let guarded = norm.clone() + CLIP_GUARD;
        let is_free = guarded.clone().lower_equal_elem(max_norm);
        let along = (g.clone() * v.clone()).sum() / (norm * guarded.clone());
        let bent = (v.clone() - g * along) * (guarded.recip() * max_norm);
        let n = v.dims()[0];
        bent.mask_where(is_free.expand([n]), v.clone())
    })
}

/// `dF/dphi ≈ ∂F/∂phi - (∂²f/∂phi∂w)ᵀ rate (∂d/∂g)ᵀ v`: the derivative through one step of the
/// inner optimizer, `w - rate d(∇f)`, taken at `w`.
///
/// Plain descent gives the identity times the learning rate; Adam weighs every entry by what the
/// optimizer makes of it. Costs one forward-and-backward pass more than the identity, for the
/// gradient at which `d` is differentiated.
///
/// # References
///
/// - Choe et al., [Making Scalable Meta Learning Practical](https://arxiv.org/abs/2310.05674),
///   NeurIPS 2023, equation 5; here with the derivative of the second moment and of the clipping
///   in full.
#[derive(Debug, Clone)]
pub struct OptimizerAware {
    /// The inner optimizer.
    pub rule: UpdateRule,
    /// Its moments before the step that is differentiated.
    pub state: OptimizerState,
    /// Factors on the learning rate of single parameters; 1 for those that are not in here.
    pub rate_factors: BTreeMap<ParamId, f64>,
    /// Whether the outer objective counts per unit of length of the step, so that a longer step
    /// alone gains nothing: what is differentiated is then minus the cosine between `v` and the
    /// gradient `g` of the inner objective.
    ///
    /// Lengths are those that the optimizer measures in: `<a, b>_P = <a, P b>` with `P` for the
    /// factors that it puts on the entries of a gradient (`1 / (√v̂ + epsilon)` for Adam, 1 for
    /// plain descent), held fixed. They are taken over the parameters that the outer objective
    /// reaches: how far others move, such as the heads of other losses, is no cost. The vector of
    /// the mixed product is
    ///
    /// ```text
    /// P (v - rho g) / (|v|_P |g|_P),    rho = <v, g>_P / <g, g>_P
    /// ```
    ///
    /// The hypergradient has no unit: it depends neither on the learning rate nor on the size of
    /// the losses.
    pub per_unit_step: bool,
    /// Everything else.
    pub settings: Settings,
}

/// The derivative by `g` of the cosine between `v` and `g`; see [`OptimizerAware::per_unit_step`].
/// Zero where one of them is.
fn angle_gradient(
    v: &ParamVector,
    g: &ParamVector,
    weighted: impl Fn(&ParamVector) -> ParamVector,
) -> ParamVector {
    let (along_v, along_g) = (weighted(v), weighted(g));
    let (length_v, length_g) = (v.dot(&along_v).sqrt(), g.dot(&along_g).sqrt());
    let lengths = length_v * length_g;
    if lengths > 0.0 {
        let rho = v.dot(&along_g) / (length_g * length_g);
        along_v.add_scaled(-rho, &along_g).scale(1.0 / lengths)
    } else {
        along_v.scale(0.0)
    }
}

impl OptimizerAware {
    /// The estimator for an optimizer that has taken no step.
    #[must_use]
    pub fn new(rule: UpdateRule, settings: Settings) -> Self {
        Self {
            rule,
            state: OptimizerState::default(),
            rate_factors: BTreeMap::new(),
            per_unit_step: false,
            settings,
        }
    }

    /// The hypergradient through the step that led from `before` to `after` along `gradient`, the
    /// gradient of the inner objective at `before`: `v` is taken at `after`, all else at `before`,
    /// where [`state`](Self::state) is that of the optimizer. For one step that is no
    /// approximation, but for what the step leaves in the optimizer's moments.
    ///
    /// Costs a forward-and-backward pass of the outer objective and a mixed product.
    ///
    /// # Errors
    ///
    /// As [`estimate`](HypergradientEstimator::estimate).
    pub fn through_step<P: BilevelProblem>(
        &mut self,
        problem: &P,
        (before, after): (&P::Inner, &P::Inner),
        gradient: &ParamVector,
        outer: &P::Outer,
    ) -> Result<Hypergradient, HypergradientError> {
        self.rule.validate()?;
        let gradients = OuterGradients::of(problem, after, outer, &self.settings)?;
        if gradients.norm == 0.0 {
            return Ok(gradients.without_solve(NAME));
        }
        let point = Point::new(problem, before, outer);
        self.through(&point, gradients, gradient, 1)
    }

    /// `backward_passes` are those taken so far.
    fn through<P: BilevelProblem>(
        &mut self,
        point: &Point<'_, P>,
        gradients: OuterGradients,
        inner_gradient: &ParamVector,
        backward_passes: usize,
    ) -> Result<Hypergradient, HypergradientError> {
        let factor = |id| self.rate_factors.get(&id).copied().unwrap_or(1.0);
        let adjoint = if self.per_unit_step {
            let weights = self.state.weights(self.rule, inner_gradient);
            let weighted = |v: &ParamVector| {
                v.map_with([&weights], |v, [weight]| v.clone() * weight)
                    .scale_each(factor)
            };
            let shared = inner_gradient.restricted_to(&gradients.v);
            angle_gradient(&gradients.v, &shared, weighted)
        } else {
            self.state
                .scaled(self.rule, inner_gradient, &gradients.v)
                .scale_each(factor)
        };
        let certificate = Certificate {
            estimator: NAME.to_owned(),
            backward_passes,
            ..Certificate::default()
        };
        let mixed = self.settings.mixed(point, &adjoint)?;
        self.settings
            .finish(point, gradients, adjoint, mixed, certificate)
    }

    /// Follows a step of the inner optimizer. Whoever has the moments at hand can set
    /// [`state`](Self::state) instead.
    pub fn observe(&mut self, gradient: &ParamVector) {
        self.state = self.state.after(self.rule, gradient);
    }
}

/// Name in certificates and configurations.
const NAME: &str = "optimizer_aware";

impl<P: BilevelProblem> HypergradientEstimator<P> for OptimizerAware {
    fn name(&self) -> &'static str {
        NAME
    }

    fn estimate(
        &mut self,
        problem: &P,
        inner: &P::Inner,
        outer: &P::Outer,
    ) -> Result<Hypergradient, HypergradientError> {
        self.rule.validate()?;
        let gradients = OuterGradients::of(problem, inner, outer, &self.settings)?;
        if gradients.norm == 0.0 {
            return Ok(gradients.without_solve(NAME));
        }
        let point = Point::new(problem, inner, outer);
        let needs_gradient = self.per_unit_step || !matches!(self.rule, UpdateRule::Sgd { .. });
        let inner_gradient = if needs_gradient {
            point.gradients(inner)?.inner
        } else {
            ParamVector::zero()
        };
        let backward_passes = 1 + usize::from(needs_gradient);
        self.through(&point, gradients, &inner_gradient, backward_passes)
    }
}
