//! UniVL's losses on batches that are given: for comparisons with other programs.

use std::collections::BTreeMap;

use burn::module::ParamId;
use burn::tensor::Tensor;
use meltr_core::{ConfigError, Dual, FineTuneTask, LoadReport, Pass, StateDict, Workers};
use meltr_models::{UniVl, UniVlBatch, UniVlLoss};
use meltr_tasks::TaskError;

/// Losses of UniVL on batches that come from elsewhere: the task has no batches and no metrics of
/// its own.
#[derive(Debug)]
pub(crate) struct GivenBatches {
    /// In token order, each once.
    pub(crate) losses: Vec<UniVlLoss>,
    /// The loss of the outer objective; one of `losses`.
    pub(crate) primary: UniVlLoss,
}

impl FineTuneTask for GivenBatches {
    type Model = UniVl;
    type Batch = UniVlBatch;
    type Error = TaskError;

    fn names(&self) -> Vec<String> {
        self.losses.iter().map(ToString::to_string).collect()
    }

    fn primary(&self) -> usize {
        self.losses
            .iter()
            .position(|loss| *loss == self.primary)
            .unwrap_or(0)
    }

    fn batches_per_epoch(&self) -> usize {
        0
    }

    fn batch(&self, _iteration: usize, _seed: u64) -> Result<UniVlBatch, TaskError> {
        Err(TaskError::Config(ConfigError::Zero { key: "batches" }))
    }

    fn batch_items(&self, _batch: &UniVlBatch) -> Vec<String> {
        Vec::new()
    }

    fn losses(&self, model: &UniVl, batch: &UniVlBatch, pass: Pass) -> Tensor<1> {
        model.losses(batch, &self.losses, pass)
    }

    fn losses_along(
        &self,
        model: &UniVl,
        direction: &UniVl,
        batch: &UniVlBatch,
        pass: Pass,
    ) -> Option<Dual<1>> {
        Some(model.losses_along(direction, batch, &self.losses, pass))
    }

    fn primary_loss(&self, model: &UniVl, batch: &UniVlBatch, pass: Pass) -> Tensor<1> {
        model.losses(batch, &[self.primary], pass)
    }

    fn parameter_names(&self, model: &UniVl) -> Vec<(ParamId, String)> {
        model.parameter_names()
    }

    fn state_dict(&self, model: &UniVl) -> StateDict {
        model.state_dict()
    }

    fn load_state_dict(&self, model: UniVl, dict: &StateDict) -> (UniVl, LoadReport) {
        model.load_state_dict(dict)
    }

    fn evaluate_shared(
        &self,
        _model: &UniVl,
        _split: &str,
        _workers: &dyn Workers,
        _progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BTreeMap<String, f64>, TaskError> {
        Ok(BTreeMap::new())
    }

    fn n_items(&self, _split: &str) -> Result<usize, TaskError> {
        Ok(0)
    }
}
