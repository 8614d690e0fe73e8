//! Errors of an estimation.

use thiserror::Error;

/// Why no hypergradient could be given.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum HypergradientError {
    /// An objective, a gradient or a product is not a number or infinite.
    #[error("{what} is {value}; look at the batch and at the inner learning rate")]
    NonFinite {
        /// What is not finite: `the outer objective`, `scalar 3`, ...
        what: String,
        /// The value met.
        value: f64,
    },
    /// No inner parameter receives a gradient from the outer objective.
    #[error(
        "the outer objective reaches no inner parameter; check that the inner module is on an \
         autodiff device and not frozen"
    )]
    Unreached,
    /// Forward mode was asked for and the problem has none.
    #[error("the inner model has no forward mode; use `central_difference` or `reverse` products")]
    NoForwardMode,
    /// The number of scalars is zero.
    #[error("the inner objective is mediated by no scalar; at least one is needed")]
    NoScalars,
    /// The estimator works in the space of the scalars and the problem has none.
    #[error("`{estimator}` needs a problem in which phi acts through scalars (`mediation`)")]
    NotMediated {
        /// The estimator.
        estimator: &'static str,
    },
    /// A setting is out of its range.
    #[error("`{key}` is {value}; it has to be {range}")]
    Setting {
        /// Name of the setting.
        key: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// The dense estimator was given too large a problem.
    #[error(
        "the inner problem has {n} parameters, more than `max_parameters` = {limit}: a dense \
         Hessian would take {n} products and {bytes} bytes; use `conjugate_gradient`, or raise \
         the limit",
        bytes = 8 * n * n
    )]
    TooLarge {
        /// Number of inner parameters.
        n: usize,
        /// The limit.
        limit: usize,
    },
    /// The matrix to be inverted is singular to working precision.
    #[error("{what} is singular; add damping")]
    Singular {
        /// The matrix.
        what: &'static str,
    },
    /// The unrolled estimator knows of no inner step.
    #[error("no inner step was recorded; call `record` with the inner module before each of them")]
    NoSteps,
    /// The recorded steps are those of another module.
    #[error(
        "the recorded inner steps lack parameters of the inner module: they were taken by another \
         module; call `clear` when the inner problem starts anew with new parameters"
    )]
    ForeignSteps,
    /// The recorded form of the inner objective is another function.
    #[error(
        "the recorded inner objective is {recorded}, the inner objective {objective}; record the \
         same operations on the same batch, with the same dropout masks"
    )]
    AnotherObjective {
        /// The value of the recorded form.
        recorded: f64,
        /// The value of the inner objective.
        objective: f64,
    },
    /// A record cannot tell the parameters of the two modules apart.
    #[error(
        "the inner and the outer module have parameters of the same id, so that a recorded inner \
         objective cannot tell them apart; make one of them of parameters of its own \
         (`Param::from_tensor`), or leave `recorded_inner_objective` out"
    )]
    SharedParameters,
    /// The policy refuses the hypergradient.
    #[error("the hypergradient is refused: {reason}")]
    Refused {
        /// What the policy found.
        reason: String,
    },
}

impl HypergradientError {
    /// `value`, or an error that says what is not finite.
    pub(crate) fn require_finite(
        what: impl Into<String>,
        value: f64,
    ) -> Result<f64, HypergradientError> {
        if value.is_finite() {
            Ok(value)
        } else {
            Err(Self::NonFinite {
                what: what.into(),
                value,
            })
        }
    }

    /// An error unless `holds`.
    pub(crate) fn require_setting(
        holds: bool,
        key: &'static str,
        value: f64,
        range: &'static str,
    ) -> Result<(), HypergradientError> {
        if holds {
            Ok(())
        } else {
            Err(Self::Setting { key, value, range })
        }
    }
}
