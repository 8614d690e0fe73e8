//! A backbone with its optimizer, taking inner steps as the fine-tuning loop does.

use burn::module::Module;
use burn::tensor::Tensor;
use meltr_aid::ParamVector;
use meltr_core::{Combiner, combine, vec_f64};
use meltr_models::UniVl;
use meltr_train::{BertAdam, BertAdamConfig};

use crate::error::CliError;

/// What an inner step changes, and what it needs for that.
#[derive(Debug)]
pub(super) struct Trainee {
    /// The backbone, on the tape.
    pub(super) model: UniVl,
    combiner: Combiner,
    optimizer: BertAdam,
}

impl Trainee {
    /// Puts `model` and `combiner`, which have no tape, on one of their own.
    pub(super) fn new(
        model: UniVl,
        combiner: Combiner,
        inner: BertAdamConfig,
    ) -> Result<Self, CliError> {
        let optimizer = BertAdam::new(inner, model.parameter_names())?;
        Ok(Self {
            model: model.train(),
            combiner: combiner.train(),
            optimizer,
        })
    }

    /// One step: losses, combined, one backward pass, BertAdam. Returns the losses.
    pub(super) fn step(
        &mut self,
        losses: impl FnOnce(&UniVl) -> Tensor<1>,
    ) -> Result<Vec<f64>, CliError> {
        let losses = losses(&self.model);
        let frozen = self.combiner.clone().no_grad();
        let values = vec_f64(losses.clone().inner().into_data());
        let combined = combine(&frozen, losses);
        let value = combined.clone().into_scalar::<f64>();
        let mut gradients = combined.backward();
        let gradient = ParamVector::from_gradients(&mut gradients, &self.model);
        let norm = gradient.norm();
        if !(value.is_finite() && norm.is_finite()) {
            return Err(CliError::Failed(format!(
                "the combined loss is {value}, the norm of its gradient {norm}; these have to be \
                 finite"
            )));
        }
        self.model = self.optimizer.step(self.model.clone(), gradient, norm);
        Ok(values)
    }
}
