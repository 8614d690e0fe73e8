//! The bilevel problem of one outer step.

use burn::module::Module;
use burn::tensor::Tensor;
use meltr_aid::{BilevelProblem, ParamVector, ScalarMediated};
use meltr_core::{
    Combiner, FineTuneTask, LossCombiner, Pass, Regularizer, combine, directional_derivative,
};

/// Inner objective `g_phi(l(w))` on one batch, outer objective the primary loss on another.
///
/// All losses of a batch are taken with the same dropout masks in every call.
#[derive(Debug)]
pub struct MeltrProblem<'a, T: FineTuneTask> {
    /// The task.
    pub task: &'a T,
    /// Batch of the outer objective.
    pub outer_batch: &'a T::Batch,
    /// Batch of the inner objective.
    pub inner_batch: &'a T::Batch,
    /// Dropout of the outer objective.
    pub outer_pass: Pass,
    /// Dropout of the inner objective.
    pub inner_pass: Pass,
    /// Ties the combined loss to the sum.
    pub regularizer: Regularizer,
}

impl<T: FineTuneTask> ScalarMediated for MeltrProblem<'_, T> {
    type Inner = T::Model;
    type Outer = Combiner;

    fn scalars(&self, inner: &T::Model) -> Tensor<1> {
        self.task.losses(inner, self.inner_batch, self.inner_pass)
    }

    fn scalars_along(
        &self,
        inner: &T::Model,
        direction: &T::Model,
    ) -> Option<(Tensor<1>, Tensor<1>)> {
        self.task
            .losses_along(inner, direction, self.inner_batch, self.inner_pass)
            .map(|losses| (losses.value.clone(), losses.tangent_or_zeros()))
    }

    fn combined(&self, outer: &Combiner, scalars: Tensor<1>) -> Tensor<1> {
        combine(outer, scalars)
    }

    fn mixed_scalar_product(
        &self,
        outer: &Combiner,
        scalars: Tensor<1>,
        direction: Tensor<1>,
    ) -> ParamVector {
        let along = directional_derivative(outer, scalars, direction);
        if along.is_tracked() {
            ParamVector::from_gradients(&mut along.backward(), outer)
        } else {
            ParamVector::zero()
        }
    }
}

impl<T: FineTuneTask> BilevelProblem for MeltrProblem<'_, T> {
    type Inner = T::Model;
    type Outer = Combiner;

    fn inner_objective(&self, inner: &T::Model, outer: &Combiner) -> Tensor<1> {
        combine(&outer.clone().no_grad(), self.scalars(inner))
    }

    fn inner_objective_along(
        &self,
        inner: &T::Model,
        direction: &T::Model,
        outer: &Combiner,
    ) -> Option<Tensor<1>> {
        let losses = self
            .task
            .losses_along(inner, direction, self.inner_batch, self.inner_pass)?;
        outer
            .clone()
            .no_grad()
            .forward(losses.map_linear(Tensor::unsqueeze), Pass::Evaluation)
            .tangent
    }

    fn outer_objective(&self, inner: &T::Model, outer: &Combiner) -> Tensor<1> {
        let primary = self
            .task
            .primary_loss(inner, self.outer_batch, self.outer_pass);
        if !self.regularizer.is_on() {
            return primary;
        }
        let losses = self.scalars(inner);
        primary
            + self
                .regularizer
                .penalty(losses.clone(), combine(outer, losses))
    }

    fn mediation(&self) -> Option<&dyn ScalarMediated<Inner = T::Model, Outer = Combiner>> {
        Some(self)
    }
}
