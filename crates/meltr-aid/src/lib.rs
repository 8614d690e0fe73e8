//! Hypergradients of bilevel problems by approximate implicit differentiation.
//!
//! ```text
//! minimize F(w*(phi), phi)   over the outer parameters phi
//! where    w*(phi) minimizes f(w, phi) over the inner parameters w
//!
//! dF/dphi = ∂F/∂phi - (∂²f/∂phi∂w)ᵀ u,     H u = v,     H = ∂²f/∂w²,  v = ∂F/∂w
//! ```
//!
//! Penalties, weights of samples, learned losses, learned starting points: all are such problems.
//! This crate knows nothing of any of them, nor of video, text or MELTR. A problem is two
//! functions over burn modules ([`BilevelProblem`]); a [`HypergradientEstimator`] gives `dF/dphi`
//! at a point, and with it a [`Certificate`] that says how it was obtained, what it cost and how
//! good it is. A [`Policy`] decides what happens if it is not good enough.
//!
//! burn has first-order autodiff only, and no more is needed. Products with second derivatives are
//! verified differences of gradients ([`GradientDifference`]), and where `phi` acts through `T`
//! scalars, `f = g(l(w), phi)` ([`ScalarMediated`]), the mixed product needs of the model only the
//! `T` derivatives of `l` along `u`: one forward-mode pass, two plain ones, or `T` reverse passes
//! ([`Products`]). An inner objective of a few matrices can also be written on a [`Recording`];
//! then products are exact up to rounding, and the cheapest.
//!
//! # Which estimator when
//!
//! A pass is a forward and a backward of the inner objective; 1 for `v` and the mixed product (2,
//! or one forward-mode pass through scalars) come on top. The errors are those of the shared
//! quadratic with 300 inner parameters, condition 10 and 100, against the dense answer: the test
//! `estimators_give_the_numbers_of_the_quadratic_fixture` repeats them.
//!
//! | estimator | passes | error, condition 10 | condition 100 | take it when |
//! |---|---|---|---|---|
//! | [`Identity`] | 0 | .87 (cosine .946) | .99 (.954) | every step counts and only the direction matters: the choice of MELTR as published |
//! | [`OptimizerAware`] | 1 | as identity for plain descent | | the inner optimizer is Adam, and only the direction matters |
//! | the same, [through a step](OptimizerAware::through_step) | 0 | of another problem: the outer objective after that step | | an outer step follows an inner one, far from a minimum: the recommended form of MELTR |
//! | [`GaussNewton`] | `T`, one per scalar | depends on the scalars | | phi acts through few scalars with a curved combination |
//! | [`Neumann`], 5 products | 10 | .45 (.987) | .95 (.954) | the inner learning rate is known and safe; the cost must be fixed |
//! | [`ConjugateGradient`], 5 steps | 10 | .025 (.9997) | .18 (.989) | the inner problem is near a minimum: the default beyond the identity |
//! | the same, to convergence | 112, 338 | 1e-15 | 2e-15 | accuracy is wanted |
//! | [`Nystrom`] | 2 per direction | needs the rank of `H` | | the Hessian has few large eigenvalues |
//! | [`Unrolled`], 20 steps | 40 | .16 (.998) | | the inner problem is stopped early: differentiates the descent itself |
//! | [`Dense`] | 2 per parameter | 1e-15 | 1e-15 | small problems, tests |
//!
//! With [`per_unit_step`](OptimizerAware::per_unit_step) what a longer step alone would bring is
//! taken out of a hypergradient, and with it the learning rate and the units of both objectives.
//!
//! A product costs two passes, and a few more when its step is verified. In `f32` a difference is
//! worth three to five digits on smooth objectives; the certificate estimates it. Where a problem
//! says more of itself, a product is exact up to rounding:
//!
//! | the problem has | a product is | time, small | large |
//! |---|---|---|---|
//! | [`exact_hessian_product`](BilevelProblem::exact_hessian_product) | what it says | | |
//! | [`recorded_inner_objective`](BilevelProblem::recorded_inner_objective) | two sweeps through a record | 0.33 | 0.48 |
//! | [`inner_objective_along`](BilevelProblem::inner_objective_along) | a pass with tangents and its backward pass | 0.63 | 0.88 |
//! | none of these | a difference of gradients | 1 | 1 |
//!
//! Times are those of 20 steps of conjugate gradients relative to differences, on perceptrons of
//! 2,778 and 269,322 parameters (`meltr bench aid --problem reweighting`).
//!
//! # Example: learning a penalty
//!
//! Ridge regression with one penalty per feature. The penalties `exp(phi)` are to make the
//! validation error small; nothing here acts through scalars, and nobody derives a product by
//! hand.
//!
//! ```
//! use burn::module::{Module, Param};
//! use burn::tensor::{Device, Tensor};
//! use meltr_aid::{
//!     BilevelProblem, ConjugateGradient, HypergradientEstimator, Implicit, Recorded, Recording,
//! };
//!
//! #[derive(Module, Debug)]
//! struct Vector { values: Param<Tensor<1>> }
//!
//! struct Ridge { x: Tensor<2>, y: Tensor<1>, x_val: Tensor<2>, y_val: Tensor<1> }
//!
//! fn mean_square(x: &Tensor<2>, w: Tensor<1>, y: &Tensor<1>) -> Tensor<1> {
//!     let [n, d] = x.dims();
//!     (x.clone().matmul(w.reshape([d, 1])).reshape([n]) - y.clone()).square().mean()
//! }
//!
//! impl BilevelProblem for Ridge {
//!     type Inner = Vector;
//!     type Outer = Vector;
//!     fn inner_objective(&self, inner: &Vector, outer: &Vector) -> Tensor<1> {
//!         let w = inner.values.val();
//!         mean_square(&self.x, w.clone(), &self.y) + (outer.values.val().exp() * w.square()).sum()
//!     }
//!     fn outer_objective(&self, inner: &Vector, _: &Vector) -> Tensor<1> {
//!         mean_square(&self.x_val, inner.values.val(), &self.y_val)
//!     }
//!     // May be left out: the inner objective once more, on a record, where vectors are rows.
//!     fn recorded_inner_objective(
//!         &self,
//!         record: &Recording,
//!         inner: &Vector,
//!         outer: &Vector,
//!     ) -> Option<Recorded> {
//!         let (w, phi) = (record.parameter(&inner.values), record.parameter(&outer.values));
//!         let x = record.constant(self.x.clone().transpose());
//!         let y = record.constant(self.y.clone().unsqueeze_dim(0));
//!         let fit = (w.clone().matmul(x) - y).square().mean();
//!         Some(fit + (phi.exp() * w.square()).sum())
//!     }
//! }
//!
//! # fn main() -> Result<(), meltr_aid::HypergradientError> {
//! let device = Device::default().autodiff();
//! let vector = |values: [f32; 2]| Vector {
//!     values: Param::from_tensor(Tensor::from_floats(values, &device)),
//! };
//! // The second feature is noise; the inner minimum has been found by other means.
//! let problem = Ridge {
//!     x: Tensor::from_floats([[1.0, 0.2], [-1.0, 0.1], [0.5, -0.3]], &device),
//!     y: Tensor::from_floats([1.1, -0.9, 0.4], &device),
//!     x_val: Tensor::from_floats([[0.8, -0.5], [-0.6, 0.4]], &device),
//!     y_val: Tensor::from_floats([0.8, -0.6], &device),
//! };
//! let (w, phi) = (vector([0.8658, 0.0806]), vector([-2.3, -2.3]));
//! let mut estimator = Implicit::new(ConjugateGradient::new(10));
//! let found = estimator.estimate(&problem, &w, &phi)?;
//! let gradient = found.gradient.to_vec();
//! // Less penalty on the feature that matters, more on the noise.
//! assert!(gradient[0] > 0.0 && gradient[1] < 0.0, "{gradient:?}");
//! assert!(found.certificate.relative_residual.is_some_and(|r| r < 1e-3));
//! assert_eq!(found.certificate.product, "recorded");
//! # Ok(())
//! # }
//! ```
//!
//! # Holding one's own estimator against known answers
//!
//! [`conformance`] has closed-form problems for every dtype and device, and golden vectors as
//! safetensors for other languages.

mod certificate;
pub mod conformance;
mod difference;
mod error;
mod estimator;
mod gradient_difference;
mod params;
mod problem;
mod products;
mod recording;
mod solver;
mod tape;

pub use certificate::{Action, Certificate, Finding, Policy, Verdict};
pub use difference::{CentralDifference, Derivative, reverse_passes};
pub use error::HypergradientError;
pub use estimator::{
    Estimator, EstimatorConfig, EstimatorMemory, GaussNewton, Hypergradient,
    HypergradientEstimator, Implicit, OptimizerAware, OptimizerState, Settings, Unrolled,
    UpdateRule, audit,
};
pub use gradient_difference::GradientDifference;
pub use params::{ParamVector, shifted};
pub use problem::{BilevelProblem, ScalarMediated};
pub use products::{Products, SecondDerivatives, second_derivatives};
pub use recording::{Curve, Recorded, Recording};
pub use solver::{
    ConjugateGradient, Dense, Identity, LinearSolver, Neumann, Nystrom, Solution, Solver,
    SymmetricOperator,
};
pub use tape::with_checkpointing_strategy;
