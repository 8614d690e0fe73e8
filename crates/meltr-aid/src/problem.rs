//! Bilevel problems whose outer parameters act through a few scalars.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::params::ParamVector;

/// A bilevel problem whose inner objective is `g(l(w), phi)` with `l(w)` in `R^T`.
///
/// The implementor fixes the batches. All methods have to see the same network: the same dropout
/// masks and the same masked tokens in every call.
pub trait ScalarMediated {
    /// Holds the inner parameters `w`.
    type Inner: Module;
    /// Holds the outer parameters `phi`.
    type Outer: Module;

    /// The scalars `l(w)`, `[T]`, on the tape if `inner` is.
    fn scalars(&self, inner: &Self::Inner) -> Tensor<1>;

    /// The scalars and their derivatives along `direction`, both `[T]`, by forward-mode
    /// differentiation; `None` if the inner model has none.
    ///
    /// `direction` is a module like `inner` whose parameters hold the direction; both are without
    /// a tape.
    fn scalars_along(
        &self,
        inner: &Self::Inner,
        direction: &Self::Inner,
    ) -> Option<(Tensor<1>, Tensor<1>)>;

    /// The outer objective `F(w, phi)`, `[1]`.
    ///
    /// Its gradient by `w` is taken in any case; its gradient by `phi` is the direct part of the
    /// hypergradient, taken if the estimator is asked to.
    fn outer_objective(&self, inner: &Self::Inner, outer: &Self::Outer) -> Tensor<1>;

    /// `d/dphi sum_t c_t dg/dl_t` at scalars `l` and direction `c`, both `[T]` without a tape.
    fn mixed_product(
        &self,
        outer: &Self::Outer,
        scalars: Tensor<1>,
        direction: Tensor<1>,
    ) -> ParamVector;
}
