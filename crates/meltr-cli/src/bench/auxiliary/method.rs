//! The methods of the comparison, with their settings.

use burn::tensor::Device;
use meltr_aid::{EstimatorConfig, Neumann, Settings};
use meltr_core::weighting::{
    CaGrad, CaGradConfig, DynamicWeightAverage, EqualWeights, Famo, FamoConfig, FixedWeights,
    GradNorm, GradNormConfig, Mgda, NashMtl, NashMtlConfig, PcGrad, ProjectionOrder,
    RandomWeighting, SmoothTchebycheff, TchebycheffConfig, UncertaintyConfig, UncertaintyWeighting,
    UpGrad, UpGradConfig, WeightingMethod,
};
use meltr_core::{
    AutoLambdaConfig, AuxiliaryLinearConfig, AuxiliaryNetworkConfig, LossTransformerConfig,
    WarmStartConfig, fit_to_sum, vec_f64,
};
use meltr_data::seed_for;
use serde::Serialize;

use super::problem::{HELPFUL, Mlp, N_TASKS, PRIMARY, Problem};
use super::rule::{Hypergradients, Learned, Rule};
use crate::error::CliError;

/// Learning rates of Adam in the outer steps, of the loss transformer and of the combiners of
/// Auto-Lambda and AuxiLearn, which have far fewer parameters. Both were chosen on seeds from 1000
/// on, the second as the best of 0.01, 0.03 and 0.1.
const MELTR_LEARNING_RATE: f64 = 3e-4;
const WEIGHTS_LEARNING_RATE: f64 = 0.1;

/// Sizes of the loss transformer: hidden width of the scale embedding, width of a token, width of
/// the feed-forward block. The heads are the published 8.
const SIZES: [usize; 3] = [16, 64, 64];

/// The Neumann series of AuxiLearn.
const NEUMANN_STEP_SIZE: f64 = 0.1;
const NEUMANN_PRODUCTS: usize = 3;

/// Temperature of the dynamic weight average, the paper's.
const TEMPERATURE: f64 = 2.0;

/// What the seeds of the random streams are derived from, beside the seed of the run.
mod stream {
    pub(super) const COMBINER: u64 = 3;
    pub(super) const WARM_START: u64 = 4;
    pub(super) const WEIGHTS: u64 = 5;
}

/// One way to weigh the losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Method {
    Primary,
    Sum,
    /// The weights that a person who knows the answer would choose: 1 for the primary and the
    /// helpful losses, 0 for the others.
    HandTuned,
    Uncertainty,
    DynamicWeightAverage,
    Random,
    Famo,
    SmoothTchebycheff,
    GradNorm,
    PcGrad,
    CaGrad,
    Mgda,
    UpGrad,
    NashMtl,
    AutoLambda,
    AuxilearnLinear,
    AuxilearnNetwork,
    Meltr,
}

impl Method {
    pub(super) const ALL: [Self; 18] = [
        Self::Primary,
        Self::Sum,
        Self::HandTuned,
        Self::Uncertainty,
        Self::DynamicWeightAverage,
        Self::Random,
        Self::Famo,
        Self::SmoothTchebycheff,
        Self::GradNorm,
        Self::PcGrad,
        Self::CaGrad,
        Self::Mgda,
        Self::UpGrad,
        Self::NashMtl,
        Self::AutoLambda,
        Self::AuxilearnLinear,
        Self::AuxilearnNetwork,
        Self::Meltr,
    ];

    /// Name on the command line and in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Sum => "sum",
            Self::HandTuned => "hand_tuned",
            Self::Uncertainty => "uncertainty",
            Self::DynamicWeightAverage => "dynamic_weight_average",
            Self::Random => "random",
            Self::Famo => "famo",
            Self::SmoothTchebycheff => "smooth_tchebycheff",
            Self::GradNorm => "grad_norm",
            Self::PcGrad => "pc_grad",
            Self::CaGrad => "ca_grad",
            Self::Mgda => "mgda",
            Self::UpGrad => "up_grad",
            Self::NashMtl => "nash_mtl",
            Self::AutoLambda => "auto_lambda",
            Self::AuxilearnLinear => "auxilearn_linear",
            Self::AuxilearnNetwork => "auxilearn_network",
            Self::Meltr => "meltr",
        }
    }

    /// Whether the method finds weights, so that their order can be right or wrong.
    pub(super) fn finds_weights(self) -> bool {
        !matches!(self, Self::Primary | Self::Sum | Self::HandTuned)
    }

    /// The method at the start of a run from `model`, which has no tape; `device` has none either.
    pub(super) fn start(
        self,
        problem: &Problem,
        model: &Mlp,
        seed: u64,
        device: &Device,
    ) -> Result<Box<dyn Rule>, CliError> {
        let weights_seed = seed_for(seed, &[stream::WEIGHTS]);
        let combiner_seed = seed_for(seed, &[stream::COMBINER]);
        let weighting =
            |method: WeightingMethod| -> Result<Box<dyn Rule>, CliError> { Ok(Box::new(method)) };
        match self {
            Self::Primary => weighting(WeightingMethod::Fixed(indicator(&[PRIMARY])?)),
            Self::Sum => weighting(WeightingMethod::Equal(EqualWeights::Sum)),
            Self::HandTuned => {
                let known = [PRIMARY, HELPFUL[0], HELPFUL[1]];
                weighting(WeightingMethod::Fixed(indicator(&known)?))
            }
            Self::Uncertainty => {
                let rule = UncertaintyWeighting::new(N_TASKS, UncertaintyConfig::default())?;
                weighting(WeightingMethod::Uncertainty(rule))
            }
            Self::DynamicWeightAverage => {
                let rule = DynamicWeightAverage::new(N_TASKS, TEMPERATURE)?;
                weighting(WeightingMethod::DynamicWeightAverage(rule))
            }
            Self::Random => weighting(WeightingMethod::Random(RandomWeighting::new(weights_seed))),
            Self::Famo => weighting(WeightingMethod::Famo(Famo::new(
                N_TASKS,
                FamoConfig::default(),
            )?)),
            Self::SmoothTchebycheff => {
                let rule = SmoothTchebycheff::new(TchebycheffConfig::default())?;
                weighting(WeightingMethod::SmoothTchebycheff(rule))
            }
            Self::GradNorm => weighting(WeightingMethod::GradNorm(GradNorm::new(
                N_TASKS,
                GradNormConfig::default(),
            )?)),
            Self::PcGrad => {
                let order = ProjectionOrder::Random { seed: weights_seed };
                weighting(WeightingMethod::PcGrad(PcGrad::new(order)))
            }
            Self::CaGrad => {
                let rule = CaGrad::new(CaGradConfig::default())?;
                weighting(WeightingMethod::CaGrad(rule))
            }
            Self::Mgda => weighting(WeightingMethod::Mgda(Mgda::new())),
            Self::UpGrad => {
                let rule = UpGrad::new(UpGradConfig::default())?;
                weighting(WeightingMethod::UpGrad(rule))
            }
            Self::NashMtl => {
                let rule = NashMtl::new(NashMtlConfig::default())?;
                weighting(WeightingMethod::NashMtl(rule))
            }
            Self::AutoLambda => {
                let combiner = AutoLambdaConfig::new(N_TASKS).init(device)?;
                Ok(Box::new(Learned::auto_lambda(
                    combiner,
                    WEIGHTS_LEARNING_RATE,
                )))
            }
            Self::AuxilearnLinear => {
                let combiner = AuxiliaryLinearConfig::new(N_TASKS, PRIMARY).init(device)?;
                let series = neumann();
                Ok(Box::new(Learned::new(
                    combiner,
                    WEIGHTS_LEARNING_RATE,
                    series,
                )))
            }
            Self::AuxilearnNetwork => {
                let config = AuxiliaryNetworkConfig::new(N_TASKS, PRIMARY);
                let combiner = config.init(combiner_seed, device)?;
                let series = neumann();
                Ok(Box::new(Learned::new(
                    combiner,
                    WEIGHTS_LEARNING_RATE,
                    series,
                )))
            }
            Self::Meltr => {
                let [d_scale, d_model, d_ff] = SIZES;
                let transformer = LossTransformerConfig::new(N_TASKS, d_scale, d_model, d_ff)
                    .init(combiner_seed, device)?;
                let reference = vec_f64(problem.plain_losses(model).into_data());
                let (transformer, _) = fit_to_sum(
                    transformer,
                    &reference,
                    &WarmStartConfig::default(),
                    seed_for(seed, &[stream::WARM_START]),
                    device,
                )?;
                let identity = EstimatorConfig::Identity.build(Settings::default());
                Ok(Box::new(Learned::new(
                    transformer,
                    MELTR_LEARNING_RATE,
                    Hypergradients::Estimated(Box::new(identity)),
                )))
            }
        }
    }
}

/// Weight 1 for these losses, 0 for the others.
fn indicator(tasks: &[usize]) -> Result<FixedWeights, CliError> {
    let weights = (0..N_TASKS)
        .map(|task| if tasks.contains(&task) { 1.0 } else { 0.0 })
        .collect();
    Ok(FixedWeights::new(weights)?)
}

fn neumann() -> Hypergradients {
    let series = Neumann::new(NEUMANN_STEP_SIZE, NEUMANN_PRODUCTS);
    let estimator = EstimatorConfig::Neumann(series).build(Settings::default());
    Hypergradients::Estimated(Box::new(estimator))
}
