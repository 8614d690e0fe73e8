//! The trait of all weighting rules.

use super::error::WeightingError;
use super::gramian::Gramian;

/// What a rule needs for its next weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The losses of the step: no cost.
    Losses,
    /// The losses of the step, and after the update those of the same batch again, handed to
    /// [`LossWeighting::observe`]: one more forward pass.
    LossesBeforeAndAfter,
    /// The losses and the [`Gramian`] of the task gradients: `T` backward passes of the shared
    /// part.
    Gramian,
}

/// A rule that gives each task loss a weight, step by step.
///
/// One step of training calls [`weights`](Self::weights) once, moves the model against
/// `sum_t w_t g_t`, and hands the new losses to [`observe`](Self::observe) if
/// [`needs`](Self::needs) asked for it. The end of an epoch calls
/// [`end_epoch`](Self::end_epoch).
pub trait LossWeighting {
    /// Name of the rule in messages, logs and configurations.
    fn name(&self) -> &'static str;

    /// What the next call of [`weights`](Self::weights) needs. Asked before each step, since a
    /// rule may reuse its weights for some steps.
    fn needs(&self) -> Needs;

    /// The weights of this step, and the step of whatever the rule learns from the losses.
    ///
    /// A Gramian that the rule does not need is ignored.
    ///
    /// # Shapes
    ///
    /// - losses: `[T]`; gramian: `[T, T]`
    /// - output: `[T]`
    ///
    /// # Errors
    ///
    /// [`WeightingError`] if a loss is not finite or outside of the rule's domain, if the number
    /// of tasks is not that of the rule or of the Gramian, or if a Gramian is needed and missing.
    /// The state is then as before.
    fn weights(
        &mut self,
        losses: &[f64],
        gramian: Option<&Gramian>,
    ) -> Result<Vec<f64>, WeightingError>;

    /// Learns from the losses of the same batch after the model was updated.
    ///
    /// Does nothing unless the rule says otherwise.
    ///
    /// # Errors
    ///
    /// [`WeightingError`] as for [`weights`](Self::weights), or if no weights were asked for
    /// before.
    fn observe(&mut self, losses: &[f64]) -> Result<(), WeightingError> {
        let _ = losses;
        Ok(())
    }

    /// Closes an epoch.
    ///
    /// Does nothing unless the rule says otherwise.
    ///
    /// # Errors
    ///
    /// [`WeightingError`] if the average losses of the epoch are outside of the rule's domain.
    fn end_epoch(&mut self) -> Result<(), WeightingError> {
        Ok(())
    }
}
