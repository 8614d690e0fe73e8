//! What a bilevel problem is.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::params::ParamVector;
use crate::recording::{Recorded, Recording};

/// A bilevel problem: `phi` is to minimize `F(w*(phi), phi)`, where `w*(phi)` minimizes
/// `f(w, phi)`.
///
/// The two objectives are enough. Everything else has an answer that is right for every problem;
/// where a problem knows more, it can say so and saves passes or rounding.
///
/// The implementor fixes the batches. All methods have to see the same network: the same dropout
/// masks and the same masked tokens in every call. Modules are on an autodiff device wherever a
/// gradient may be taken; data has to be put on the same one, as in any training loop on burn.
/// Where only derivatives by `w` are wanted, as in products with the Hessian, the parameters of the
/// outer module come untracked.
pub trait BilevelProblem {
    /// Holds the inner parameters `w`.
    type Inner: Module;
    /// Holds the outer parameters `phi`.
    type Outer: Module;

    /// The inner objective `f(w, phi)`, `[1]`.
    fn inner_objective(&self, inner: &Self::Inner, outer: &Self::Outer) -> Tensor<1>;

    /// The outer objective `F(w, phi)`, `[1]`.
    ///
    /// Its gradient by `w` is taken in any case; its gradient by `phi` is the direct part of the
    /// hypergradient, taken if the estimator is asked to.
    fn outer_objective(&self, inner: &Self::Inner, outer: &Self::Outer) -> Tensor<1>;

    /// The inner objective that was descended `age` steps ago, `[1]`; 0 is the last step.
    ///
    /// Only [`Unrolled`](crate::Unrolled) asks, for problems whose batches change from step to
    /// step.
    fn past_inner_objective(
        &self,
        _age: usize,
        inner: &Self::Inner,
        outer: &Self::Outer,
    ) -> Tensor<1> {
        self.inner_objective(inner, outer)
    }

    /// The derivative of the inner objective along a direction, `<∂f/∂w, direction>`, `[1]`, on the
    /// tape of both modules, by forward-mode differentiation; `None` if the inner model has none.
    ///
    /// One backward pass from it gives `(∂²f/∂w²) direction` and `(∂²f/∂phi∂w)ᵀ direction`, exact
    /// up to rounding, with first-order differentiation alone. `direction` is a module like `inner`
    /// on the same device whose parameters hold the direction and are not tracked.
    fn inner_objective_along(
        &self,
        _inner: &Self::Inner,
        _direction: &Self::Inner,
        _outer: &Self::Outer,
    ) -> Option<Tensor<1>> {
        None
    }

    /// The inner objective, `[1, 1]`, written on `recording`; `None` if it has no such form.
    ///
    /// Then it is recorded once in a hypergradient, and all products come from the record, exact up
    /// to rounding: the way for solvers that take many. Another shape panics.
    ///
    /// The objective is evaluated as well, and a record with another value is an error: by more
    /// than 1e-9 in `f64` and 1e-4 in `f32`, of values above 1 in their size. That the derivatives
    /// are the same is not checked; a check is a hypergradient without this method.
    fn recorded_inner_objective(
        &self,
        _recording: &Recording,
        _inner: &Self::Inner,
        _outer: &Self::Outer,
    ) -> Option<Recorded> {
        None
    }

    /// `(∂²f/∂w²) u`, if the problem can give it in closed form. Then no difference is taken.
    fn exact_hessian_product(
        &self,
        _inner: &Self::Inner,
        _outer: &Self::Outer,
        _u: &ParamVector,
    ) -> Option<ParamVector> {
        None
    }

    /// `(∂²f/∂phi∂w)ᵀ u`, if the problem can give it in closed form.
    fn exact_mixed_product(
        &self,
        _inner: &Self::Inner,
        _outer: &Self::Outer,
        _u: &ParamVector,
    ) -> Option<ParamVector> {
        None
    }

    /// The scalars through which alone `phi` acts, if the problem is of that kind.
    fn mediation(&self) -> Option<&dyn ScalarMediated<Inner = Self::Inner, Outer = Self::Outer>> {
        None
    }
}

/// A problem whose inner objective is `g(l(w), phi)` with `l(w)` in `R^T`.
///
/// Then the mixed product with any vector needs of the inner model only the `T` derivatives of
/// `l` along it.
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

    /// The combined objective `g(l, phi)`, `[1]`, on the tape of `scalars`.
    fn combined(&self, outer: &Self::Outer, scalars: Tensor<1>) -> Tensor<1>;

    /// `d/dphi sum_t c_t ∂g/∂l_t` at scalars `l` and direction `c`, both `[T]` without a tape.
    fn mixed_scalar_product(
        &self,
        outer: &Self::Outer,
        scalars: Tensor<1>,
        direction: Tensor<1>,
    ) -> ParamVector;
}
