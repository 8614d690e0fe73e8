//! What is known about the quality and cost of a hypergradient, and what to do about it.

use serde::{Deserialize, Serialize};

use crate::error::HypergradientError;

/// How a hypergradient was obtained and how good it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Name of the estimator.
    pub estimator: String,
    /// How the mixed product was obtained: `forward_mode`, `central_difference`,
    /// `reverse_passes`, `recorded`, `gradient_difference` or `exact`.
    pub product: String,
    /// Products with the inner Hessian.
    pub hessian_products: usize,
    /// How these were obtained: `recorded`, `forward_mode`, `gradient_difference` or `exact`; `None`
    /// without any.
    pub hessian_product: Option<String>,
    /// `|(H + damping I) u - v| / |v|` for the adjoint `u` that was used; `None` where it was not
    /// measured.
    pub relative_residual: Option<f64>,
    /// Smallest `<p, H p> / <p, p>` met over the directions `p` of the solver, without damping;
    /// an eigenvalue for the dense estimator. Negative: the inner point is no minimum.
    pub smallest_curvature: Option<f64>,
    /// Largest of the same.
    pub largest_curvature: Option<f64>,
    /// What the solver added to the diagonal of the Hessian.
    pub damping: f64,
    /// Difference step `h` in `w ± h u` of the mixed product, where one was used.
    pub difference_step: Option<f64>,
    /// Estimated error of the mixed product relative to its norm, or of the directional
    /// derivatives to theirs: from halving the step where that was done at this step, otherwise
    /// carried over from the last time it was.
    pub estimated_error: Option<f64>,
    /// The same for the products with the Hessian, relative to the largest of them.
    pub hessian_error: Option<f64>,
    /// Forward passes of the inner model without a tape; one that carries tangents costs about
    /// three.
    pub forward_passes: usize,
    /// Forward-and-backward passes of the inner model.
    pub backward_passes: usize,
    /// What was found wanting, and by which policy it was let pass.
    pub findings: Vec<Finding>,
    /// What was done about it.
    pub verdict: Verdict,
}

/// Something about a hypergradient that its user should know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The solver met a direction of zero or negative curvature: the inner point is no strict
    /// minimum and the linear system has no solution that means anything along it.
    Indefinite {
        /// `<p, (H + damping I) p> / <p, p>`.
        curvature: f64,
    },
    /// The series grows instead of shrinking: the step size is beyond `2 / lambda_max`.
    Diverging {
        /// Norm of the last term over that of the first.
        growth: f64,
    },
    /// The residual is above the limit of the policy.
    Residual {
        /// `|(H + damping I) u - v| / |v|`.
        value: f64,
    },
    /// The estimated error of a product is above the limit of the policy.
    ProductError {
        /// Relative error.
        value: f64,
    },
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Indefinite { curvature } => write!(
                f,
                "the inner Hessian is not positive definite (curvature {curvature:.3e}); add \
                 damping or train the inner problem further"
            ),
            Self::Diverging { growth } => write!(
                f,
                "the Neumann series diverges (last term {growth:.3e} times the first); take a \
                 smaller step size"
            ),
            Self::Residual { value } => write!(
                f,
                "the linear solve leaves a relative residual of {value:.3e}; allow more steps or \
                 add damping"
            ),
            Self::ProductError { value } => write!(
                f,
                "a difference has an estimated relative error of {value:.3e}; use forward mode or \
                 exact products, or a higher precision"
            ),
        }
    }
}

/// What became of a hypergradient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing was found.
    #[default]
    Accepted,
    /// Something was found and is reported; the hypergradient is the estimator's.
    Warned,
    /// Something was found and the identity took the place of the solve.
    FellBack,
}

/// What to do with a finding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Take the hypergradient and do not report the finding.
    Accept,
    /// Take it and report the finding.
    #[default]
    Warn,
    /// Take the identity estimate in its place and report the finding. A product that is too
    /// inexact is replaced by reverse passes where the problem has scalars.
    FallBack,
    /// Give an error.
    Stop,
}

/// Limits on a certificate, and what happens beyond them.
///
/// By default a residual is no finding, since a few steps of a solver leave a large one and still
/// improve the direction; curvature, divergence and products are reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Largest relative residual; `None` sets no limit.
    pub max_residual: Option<f64>,
    /// Beyond that limit.
    pub on_residual: Action,
    /// Largest estimated relative error of a product; `None` sets no limit.
    pub max_error: Option<f64>,
    /// Beyond that limit.
    pub on_error: Action,
    /// Zero or negative curvature met by the solver.
    pub on_indefinite: Action,
    /// A series that grows.
    pub on_divergence: Action,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_residual: None,
            on_residual: Action::Warn,
            max_error: Some(0.1),
            on_error: Action::Warn,
            on_indefinite: Action::Warn,
            on_divergence: Action::Warn,
        }
    }
}

impl Policy {
    /// Adds to `certificate` what its numbers exceed and returns what is to be done about the
    /// worst of its findings.
    ///
    /// # Errors
    ///
    /// [`HypergradientError::Refused`] if an action is [`Action::Stop`].
    pub(crate) fn judge(
        &self,
        certificate: &mut Certificate,
    ) -> Result<Action, HypergradientError> {
        let above = |value: Option<f64>, limit: Option<f64>| match (value, limit) {
            (Some(value), Some(limit)) if value > limit || value.is_nan() => Some(value),
            _ => None,
        };
        if let Some(value) = above(certificate.relative_residual, self.max_residual) {
            certificate.findings.push(Finding::Residual { value });
        }
        let product = certificate.estimated_error;
        let worst = match (product, certificate.hessian_error) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        if let Some(value) = above(worst, self.max_error) {
            certificate.findings.push(Finding::ProductError { value });
        }
        let mut worst = Action::Accept;
        let mut reported = Vec::new();
        for finding in certificate.findings.drain(..) {
            let action = self.action(&finding);
            if action == Action::Stop {
                return Err(HypergradientError::Refused {
                    reason: finding.to_string(),
                });
            }
            worst = worst.max(action);
            if action > Action::Accept {
                reported.push(finding);
            }
        }
        certificate.findings = reported;
        certificate.verdict = match worst {
            Action::Accept => Verdict::Accepted,
            _ => Verdict::Warned,
        };
        Ok(worst)
    }

    /// Whether a finding about the solve asks for the identity in its place.
    pub(crate) fn replaces_solve(&self, certificate: &Certificate) -> bool {
        certificate.findings.iter().any(|finding| {
            !matches!(finding, Finding::ProductError { .. })
                && self.action(finding) == Action::FallBack
        })
    }

    fn action(&self, finding: &Finding) -> Action {
        match finding {
            Finding::Indefinite { .. } => self.on_indefinite,
            Finding::Diverging { .. } => self.on_divergence,
            Finding::Residual { .. } => self.on_residual,
            Finding::ProductError { .. } => self.on_error,
        }
    }
}
