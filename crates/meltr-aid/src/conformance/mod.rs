//! Problems with known hypergradients, for estimators to be held against.
//!
//! Three families, each small enough that its Hessian and its mixed derivative are written out on
//! the host in `f64`: a quadratic of chosen condition, ridge regression with one penalty per
//! feature, and logistic regression with one penalty per feature. From these matrices follows not
//! only the exact hypergradient but also what a truncated estimator has to return: `K` steps of
//! conjugate gradients, `K` terms of a Neumann series ([`Reference`]).
//!
//! [`run`] takes every estimator of this crate over every problem on a device and in a dtype. An
//! estimator of one's own is held against the same numbers with [`relative_error`]:
//!
//! ```
//! use burn::tensor::{DType, Device};
//! use meltr_aid::conformance::{Reference, problems, relative_error};
//! use meltr_aid::{ConjugateGradient, Implicit};
//!
//! # fn main() -> Result<(), meltr_aid::HypergradientError> {
//! for problem in problems(&Device::default(), DType::F64) {
//!     let mut estimator = Implicit::new(ConjugateGradient::new(200));
//!     let error = relative_error(&mut estimator, &problem, Reference::Exact)?;
//!     assert!(error < 1e-7, "{}: {error}", problem.name());
//! }
//! # Ok(())
//! # }
//! ```

mod golden;
mod host;
mod problem;
mod suite;

pub use golden::{golden_vectors, write_golden_vectors};
pub use host::Reference;
pub use problem::{ConformanceProblem, Vector};
pub use suite::{Outcome, problems, relative_error, run, tolerance};
