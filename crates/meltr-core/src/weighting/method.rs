//! Any of the weighting rules, chosen at run time.

use serde::{Deserialize, Serialize};

use super::ca_grad::CaGrad;
use super::dynamic_average::DynamicWeightAverage;
use super::equal::EqualWeights;
use super::error::WeightingError;
use super::famo::Famo;
use super::fixed::FixedWeights;
use super::grad_norm::GradNorm;
use super::gramian::Gramian;
use super::loss_weighting::{LossWeighting, Needs};
use super::mgda::Mgda;
use super::nash::NashMtl;
use super::pc_grad::PcGrad;
use super::random::RandomWeighting;
use super::tchebycheff::SmoothTchebycheff;
use super::uncertainty::UncertaintyWeighting;
use super::up_grad::UpGrad;

/// One of the rules with its settings and its state: what a checkpoint keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightingMethod {
    /// See [`EqualWeights`].
    Equal(EqualWeights),
    /// See [`FixedWeights`].
    Fixed(FixedWeights),
    /// See [`UncertaintyWeighting`].
    Uncertainty(UncertaintyWeighting),
    /// See [`DynamicWeightAverage`].
    DynamicWeightAverage(DynamicWeightAverage),
    /// See [`RandomWeighting`].
    Random(RandomWeighting),
    /// See [`Famo`].
    Famo(Famo),
    /// See [`SmoothTchebycheff`].
    SmoothTchebycheff(SmoothTchebycheff),
    /// See [`GradNorm`].
    GradNorm(GradNorm),
    /// See [`PcGrad`].
    PcGrad(PcGrad),
    /// See [`CaGrad`].
    CaGrad(CaGrad),
    /// See [`Mgda`].
    Mgda(Mgda),
    /// See [`UpGrad`].
    UpGrad(UpGrad),
    /// See [`NashMtl`].
    NashMtl(NashMtl),
}

impl WeightingMethod {
    fn rule(&self) -> &dyn LossWeighting {
        match self {
            Self::Equal(rule) => rule,
            Self::Fixed(rule) => rule,
            Self::Uncertainty(rule) => rule,
            Self::DynamicWeightAverage(rule) => rule,
            Self::Random(rule) => rule,
            Self::Famo(rule) => rule,
            Self::SmoothTchebycheff(rule) => rule,
            Self::GradNorm(rule) => rule,
            Self::PcGrad(rule) => rule,
            Self::CaGrad(rule) => rule,
            Self::Mgda(rule) => rule,
            Self::UpGrad(rule) => rule,
            Self::NashMtl(rule) => rule,
        }
    }

    fn rule_mut(&mut self) -> &mut dyn LossWeighting {
        match self {
            Self::Equal(rule) => rule,
            Self::Fixed(rule) => rule,
            Self::Uncertainty(rule) => rule,
            Self::DynamicWeightAverage(rule) => rule,
            Self::Random(rule) => rule,
            Self::Famo(rule) => rule,
            Self::SmoothTchebycheff(rule) => rule,
            Self::GradNorm(rule) => rule,
            Self::PcGrad(rule) => rule,
            Self::CaGrad(rule) => rule,
            Self::Mgda(rule) => rule,
            Self::UpGrad(rule) => rule,
            Self::NashMtl(rule) => rule,
        }
    }
}

impl LossWeighting for WeightingMethod {
    fn name(&self) -> &'static str {
        self.rule().name()
    }

    fn needs(&self) -> Needs {
        self.rule().needs()
    }

    fn weights(
        &mut self,
        losses: &[f64],
        gramian: Option<&Gramian>,
    ) -> Result<Vec<f64>, WeightingError> {
        self.rule_mut().weights(losses, gramian)
    }

    fn observe(&mut self, losses: &[f64]) -> Result<(), WeightingError> {
        self.rule_mut().observe(losses)
    }

    fn end_epoch(&mut self) -> Result<(), WeightingError> {
        self.rule_mut().end_epoch()
    }
}
