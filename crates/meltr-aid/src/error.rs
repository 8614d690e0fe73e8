//! Errors of an estimation.

use thiserror::Error;

/// Why no hypergradient could be given.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum HypergradientError {
    /// The outer objective, or its gradient, is not a number or infinite.
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
}
