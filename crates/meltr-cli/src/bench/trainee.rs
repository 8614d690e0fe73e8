//! Backbones with all of their losses, and one with its optimizer, taking inner steps as the
//! fine-tuning loop does.

use burn::module::{Module, ParamId};
use burn::tensor::Tensor;
use meltr_aid::ParamVector;
use meltr_core::{Combiner, Pass, combine, vec_f64};
use meltr_models::{AllInOne, AllInOneBatch, UniVl, UniVlBatch, UniVlLoss, Violet, VioletBatch};
use meltr_train::{BertAdam, BertAdamConfig, Precision};

use crate::error::CliError;

/// A model with the losses that it is fine-tuned with.
pub(super) trait Backbone: Module {
    /// What it reads.
    type Batch;

    /// Id and published name of every parameter.
    fn named_parameters(&self) -> Vec<(ParamId, String)>;

    /// Names of its losses.
    fn loss_names(&self) -> Vec<&'static str>;

    /// All of them, `[T]`, in the order of their names.
    fn all_losses(&self, batch: &Self::Batch, pass: Pass) -> Tensor<1>;
}

impl Backbone for UniVl {
    type Batch = UniVlBatch;

    fn named_parameters(&self) -> Vec<(ParamId, String)> {
        self.parameter_names()
    }

    fn loss_names(&self) -> Vec<&'static str> {
        UniVlLoss::ALL.map(UniVlLoss::name).to_vec()
    }

    fn all_losses(&self, batch: &UniVlBatch, pass: Pass) -> Tensor<1> {
        self.losses(batch, &UniVlLoss::ALL, pass)
    }
}

impl Backbone for Violet {
    type Batch = VioletBatch;

    fn named_parameters(&self) -> Vec<(ParamId, String)> {
        self.parameter_names()
    }

    fn loss_names(&self) -> Vec<&'static str> {
        let losses = self.task().losses().iter();
        losses.map(|loss| loss.name()).collect()
    }

    fn all_losses(&self, batch: &VioletBatch, pass: Pass) -> Tensor<1> {
        self.losses(batch, self.task().losses(), pass)
    }
}

impl Backbone for AllInOne {
    type Batch = AllInOneBatch;

    fn named_parameters(&self) -> Vec<(ParamId, String)> {
        self.parameter_names()
    }

    fn loss_names(&self) -> Vec<&'static str> {
        let losses = self.task().losses().iter();
        losses.map(|loss| loss.name()).collect()
    }

    fn all_losses(&self, batch: &AllInOneBatch, pass: Pass) -> Tensor<1> {
        self.losses(batch, self.task().losses(), pass)
    }
}

/// What an inner step changes, and what it needs for that.
#[derive(Debug)]
pub(super) struct Trainee<M = UniVl> {
    /// The backbone, on the tape.
    pub(super) model: M,
    combiner: Combiner,
    optimizer: BertAdam,
    precision: Precision,
}

impl<M: Backbone> Trainee<M> {
    /// Puts `model` and `combiner` on a tape, unless they are on one.
    pub(super) fn new(
        model: M,
        combiner: Combiner,
        inner: BertAdamConfig,
    ) -> Result<Self, CliError> {
        let optimizer = BertAdam::new(inner, model.named_parameters())?;
        Ok(Self {
            model: model.train(),
            combiner: combiner.train(),
            optimizer,
            precision: Precision::F32,
        })
    }

    /// The same with its products in another precision.
    pub(super) fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The backbone as it computes.
    pub(super) fn computing(&self) -> M {
        self.precision
            .computing(&self.model)
            .unwrap_or_else(|| self.model.clone())
    }

    /// One step: losses, combined, one backward pass, BertAdam. Returns the losses.
    pub(super) fn step(
        &mut self,
        losses: impl FnOnce(&M) -> Tensor<1>,
    ) -> Result<Vec<f64>, CliError> {
        let computing = self.computing();
        let losses = losses(&computing);
        let frozen = self.combiner.clone().no_grad();
        let values = vec_f64(losses.clone().inner().into_data());
        let combined = combine(&frozen, losses);
        let value = combined.clone().into_scalar::<f64>();
        let mut gradients = combined.backward();
        let gradient = ParamVector::from_gradients(&mut gradients, &computing);
        let gradient = self.precision.gradient(gradient);
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
