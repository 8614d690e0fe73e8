//! What a training loop needs to know of a task.

use std::collections::BTreeMap;

use burn::module::{Module, ParamId};
use burn::tensor::Tensor;

use crate::dual::Dual;
use crate::pass::Pass;
use crate::state_dict::{LoadReport, StateDict};
use crate::workers::{Alone, Workers};

/// A model with its losses, batches and metrics, as the fine-tuning loop sees them.
///
/// Implemented once per backbone and task; the loop is generic over it.
pub trait FineTuneTask {
    /// The backbone; its parameters are the inner variables.
    type Model: Module;
    /// One batch of training items, already masked.
    type Batch: Clone;
    /// What can go wrong while batches are made or metrics computed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Names of the task losses; their order is the order of the combiner's tokens.
    fn names(&self) -> Vec<String>;

    /// Position of the primary loss in [`names`](Self::names).
    fn primary(&self) -> usize;

    /// Number of batches in a pass over the training items.
    fn batches_per_epoch(&self) -> usize;

    /// The batch of a step: a pure function of `iteration` and `seed`.
    ///
    /// # Errors
    ///
    /// If an item cannot be read.
    fn batch(&self, iteration: usize, seed: u64) -> Result<Self::Batch, Self::Error>;

    /// The held-out batch of this number, for outer steps: a pure function of `number` and `seed`;
    /// `None` if nothing is held out for them.
    ///
    /// # Errors
    ///
    /// If an item cannot be read.
    fn outer_batch(&self, number: usize, seed: u64) -> Result<Option<Self::Batch>, Self::Error> {
        let _ = (number, seed);
        Ok(None)
    }

    /// Which items a batch holds, for messages.
    fn batch_items(&self, batch: &Self::Batch) -> Vec<String>;

    /// All task losses, `[T]`, each the mean over the batch.
    ///
    /// On the device of the model's parameters, on their tape if they are on one; what the batch
    /// holds goes there by [`on_tape_of`](crate::on_tape_of).
    fn losses(&self, model: &Self::Model, batch: &Self::Batch, pass: Pass) -> Tensor<1>;

    /// All task losses and their derivatives along `direction`, a model that holds a direction in
    /// parameter space; `None` if the backbone has no forward mode.
    ///
    /// Both models are on a device without a tape.
    fn losses_along(
        &self,
        model: &Self::Model,
        direction: &Self::Model,
        batch: &Self::Batch,
        pass: Pass,
    ) -> Option<Dual<1>>;

    /// The primary loss alone, `[1]`, without the passes that only the others need.
    ///
    /// In an evaluation pass the same number as in [`losses`](Self::losses); in a stochastic pass
    /// the dropout masks differ, since fewer operations draw them.
    fn primary_loss(&self, model: &Self::Model, batch: &Self::Batch, pass: Pass) -> Tensor<1>;

    /// Id and published name of every parameter.
    fn parameter_names(&self, model: &Self::Model) -> Vec<(ParamId, String)>;

    /// The parameters under published names.
    fn state_dict(&self, model: &Self::Model) -> StateDict;

    /// Loads parameters under published names.
    fn load_state_dict(&self, model: Self::Model, dict: &StateDict) -> (Self::Model, LoadReport);

    /// Metrics of `model` on a split, by name, with the items shared among `workers`: every one of
    /// them calls this, and every one gets the metrics of the whole split. `model` is on a device
    /// without a tape.
    ///
    /// How many there are changes no number. Where all texts are compared with all videos,
    /// `progress` is told now and then how many pairs of how many have a score, of those that this
    /// process takes; other tasks tell nothing.
    ///
    /// # Errors
    ///
    /// If the split is not known or empty, or an item cannot be read.
    fn evaluate_shared(
        &self,
        model: &Self::Model,
        split: &str,
        workers: &dyn Workers,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BTreeMap<String, f64>, Self::Error>;

    /// The metrics of [`evaluate_shared`](Self::evaluate_shared), taken by this process alone.
    ///
    /// # Errors
    ///
    /// As [`evaluate_shared`](Self::evaluate_shared).
    fn evaluate(
        &self,
        model: &Self::Model,
        split: &str,
    ) -> Result<BTreeMap<String, f64>, Self::Error> {
        self.evaluate_with_progress(model, split, &mut |_, _| {})
    }

    /// Metrics as by [`evaluate`](Self::evaluate), with the progress of
    /// [`evaluate_shared`](Self::evaluate_shared).
    ///
    /// # Errors
    ///
    /// As [`evaluate_shared`](Self::evaluate_shared).
    fn evaluate_with_progress(
        &self,
        model: &Self::Model,
        split: &str,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BTreeMap<String, f64>, Self::Error> {
        self.evaluate_shared(model, split, &Alone, progress)
    }

    /// Number of items in a split.
    ///
    /// # Errors
    ///
    /// If the split is not known.
    fn n_items(&self, split: &str) -> Result<usize, Self::Error>;
}
