//! Hypergradients of bilevel problems by approximate implicit differentiation, first order only.
//!
//! ```text
//! minimize F(w*(phi), phi)   over the outer parameters phi
//! where    w*(phi) minimizes f(w, phi) over the inner parameters w
//!
//! dF/dphi = ∂F/∂phi - (∂²f/∂phi∂w)ᵀ H⁻¹ v,     H = ∂²f/∂w²,  v = ∂F/∂w
//! ```
//!
//! This crate knows nothing of video, text or losses. It covers problems in which phi reaches the
//! inner objective only through `T` scalars, `f(w, phi) = g(l(w), phi)` with `l(w)` in `R^T`
//! ([`ScalarMediated`]). There the mixed product with any vector `u` is
//!
//! ```text
//! (∂²f/∂phi∂w)ᵀ u = d/dphi sum_t c_t ∂g/∂l_t,     c_t = <∂l_t/∂w, u>
//! ```
//!
//! so all that is needed of the big inner model are `T` directional derivatives. There are three
//! ways to them ([`Products`]): one forward pass that carries tangents, two forward passes of a
//! [`CentralDifference`], or `T` reverse passes. No second-order autodiff is needed anywhere.
//!
//! [`IdentityEstimator`] replaces `H⁻¹` by the identity, as MELTR does. Every
//! [`Hypergradient`] carries a [`Certificate`]: what was done, how many passes it took, how exact
//! it is.
//!
//! | products | passes of the inner model, in forwards (a backward counts 2), beside 3 for `v` | error |
//! |---|---|---|
//! | forward mode | about `3`, whatever `T` | rounding |
//! | central difference | `2`, whatever `T`; `4` when the step is verified | estimated, in the certificate |
//! | reverse | `3 T` | rounding |
//!
//! A difference in f32 is worth two to four digits: perturbed parameters are rounded before
//! anything is computed. Take forward mode where the model has it.
//!
//! # Example
//!
//! Two scalars of one parameter, `l = (w², 3w)`, combined as `g = phi_0 l_0 + phi_1 l_1`, outer
//! objective `F = w`. The mixed product is `(∂l_0/∂w, ∂l_1/∂w) v = (2w, 3)`, the hypergradient its
//! negative.
//!
//! ```
//! use burn::module::{Module, Param};
//! use burn::tensor::{Device, Tensor};
//! use meltr_aid::{IdentityEstimator, ParamVector, ScalarMediated};
//!
//! #[derive(Module, Debug)]
//! struct Vector { values: Param<Tensor<1>> }
//!
//! struct Problem;
//! impl ScalarMediated for Problem {
//!     type Inner = Vector;
//!     type Outer = Vector;
//!     fn scalars(&self, inner: &Vector) -> Tensor<1> {
//!         let w = inner.values.val();
//!         Tensor::cat(vec![w.clone() * w.clone(), w * 3.0], 0)
//!     }
//!     fn scalars_along(&self, w: &Vector, u: &Vector) -> Option<(Tensor<1>, Tensor<1>)> {
//!         let (w, u) = (w.values.val(), u.values.val());
//!         let along = Tensor::cat(vec![w.clone() * u.clone() * 2.0, u * 3.0], 0);
//!         Some((Tensor::cat(vec![w.clone() * w.clone(), w * 3.0], 0), along))
//!     }
//!     fn outer_objective(&self, inner: &Vector, _outer: &Vector) -> Tensor<1> {
//!         inner.values.val()
//!     }
//!     fn mixed_product(&self, outer: &Vector, _l: Tensor<1>, c: Tensor<1>) -> ParamVector {
//!         let value = (outer.values.val() * c).sum();
//!         ParamVector::from_gradients(&mut value.backward(), outer)
//!     }
//! }
//!
//! # fn main() -> Result<(), meltr_aid::HypergradientError> {
//! let device = Device::default().autodiff();
//! let module = |values: &[f32]| Vector {
//!     values: Param::from_tensor(Tensor::from_floats(values, &device)),
//! };
//! let mut estimator = IdentityEstimator::default();
//! let hypergradient = estimator.estimate(&Problem, &module(&[0.5]), &module(&[1.0, 2.0]))?;
//! let gradient = hypergradient.gradient.to_vec();
//! assert!((gradient[0] + 1.0).abs() < 1e-3 && (gradient[1] + 3.0).abs() < 1e-3);
//! # Ok(())
//! # }
//! ```

mod certificate;
mod difference;
mod error;
mod identity;
mod params;
mod problem;

pub use certificate::Certificate;
pub use difference::{CentralDifference, Derivative, reverse_passes};
pub use error::HypergradientError;
pub use identity::{Hypergradient, IdentityEstimator, Products};
pub use params::{ParamVector, shifted};
pub use problem::ScalarMediated;
