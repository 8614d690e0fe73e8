//! Weights of task losses by published rules: the baselines that a learned loss is compared with.
//!
//! A [`LossWeighting`] turns the losses of one step, and for some rules the inner products of
//! their gradients, into one weight a task. The model then moves against
//! `d = sum_t w_t g_t`, where `g_t` is the gradient of loss `t`; that is the gradient of
//! `sum_t w_t l_t` with the weights held fixed.
//!
//! All of it is host code in `f64` on at most a few dozen numbers. It knows no tensor: a training
//! loop hands in the losses and, where [`LossWeighting::needs`] asks for it, a [`Gramian`]
//! `K = J J'` of the task gradients, the rows of `J`. Everything that the gradient methods do with
//! gradients is linear in the rows, so that `K` is enough and no gradient is ever copied here.
//!
//! | rule | weights from | cost of a step beside one backward pass |
//! |---|---|---|
//! | [`EqualWeights`], [`FixedWeights`] | nothing | none |
//! | [`UncertaintyWeighting`] | losses | none |
//! | [`DynamicWeightAverage`] | losses of the last two epochs | none |
//! | [`RandomWeighting`] | a seed | none |
//! | [`Famo`] | losses before and after the step | one forward pass |
//! | [`SmoothTchebycheff`] | losses | none |
//! | [`GradNorm`] | losses, gradient norms | `T` backward passes instead of one |
//! | [`PcGrad`], [`CaGrad`], [`Mgda`], [`UpGrad`], [`NashMtl`] | `K` | the same |
//!
//! The `T` backward passes reach only the shared parameters, those that more than one loss
//! depends on. Their weighted sum is then the update itself, so that no further pass is needed.
//! Parameters of one task alone are outside of `K`, and what they get (their own gradient, or
//! their own gradient times the weight) is up to the training loop.
//!
//! Every rule is deterministic: the random ones take a seed and count their steps. Every rule is
//! serializable as a whole, settings and state, so that a run can be resumed from it.
//!
//! ```
//! use meltr_core::weighting::{Gramian, LossWeighting, UpGrad, UpGradConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two gradients that point against each other.
//! let gramian = Gramian::from_gradients(&[[1.0, 0.0], [-1.0, 1.0]])?;
//! let mut rule = UpGrad::new(UpGradConfig::default())?;
//! let weights = rule.weights(&[0.7, 2.1], Some(&gramian))?;
//! // The direction g = w_0 g_0 + w_1 g_1 conflicts with neither of them.
//! let inner = gramian.times(&weights);
//! assert!(inner.iter().all(|&product| product > -1e-3));
//! # Ok(())
//! # }
//! ```

mod adam;
mod ca_grad;
mod checks;
mod dynamic_average;
mod equal;
mod error;
mod famo;
mod fixed;
mod grad_norm;
mod gramian;
mod linear_system;
mod loss_weighting;
mod method;
mod mgda;
mod nash;
mod pc_grad;
mod quadratic_program;
mod random;
mod softmax;
mod tchebycheff;
mod uncertainty;
mod up_grad;

pub use ca_grad::{CaGrad, CaGradConfig};
pub use dynamic_average::DynamicWeightAverage;
pub use equal::EqualWeights;
pub use error::WeightingError;
pub use famo::{Famo, FamoConfig};
pub use fixed::FixedWeights;
pub use grad_norm::{GradNorm, GradNormConfig};
pub use gramian::Gramian;
pub use loss_weighting::{LossWeighting, Needs};
pub use method::WeightingMethod;
pub use mgda::Mgda;
pub use nash::{NashMtl, NashMtlConfig};
pub use pc_grad::{PcGrad, ProjectionOrder};
pub use random::RandomWeighting;
pub use tchebycheff::{SmoothTchebycheff, TchebycheffConfig};
pub use uncertainty::{Likelihood, UncertaintyConfig, UncertaintyWeighting};
pub use up_grad::{UpGrad, UpGradConfig};
