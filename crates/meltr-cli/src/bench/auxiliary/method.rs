//! The methods of the comparison, under their names in configurations, with their settings.

use burn::tensor::Device;
use meltr_aid::{EstimatorConfig, Neumann, OptimizerAware, Settings};
use meltr_core::weighting::{
    CaGrad, CaGradConfig, DynamicWeightAverage, EqualWeights, Famo, FamoConfig, FixedWeights,
    GradNorm, GradNormConfig, Mgda, NashMtl, NashMtlConfig, PcGrad, ProjectionOrder,
    RandomWeighting, SmoothTchebycheff, TchebycheffConfig, UncertaintyConfig, UncertaintyWeighting,
    UpGrad, UpGradConfig, WeightingMethod,
};
use meltr_core::{
    AutoLambdaConfig, AuxiliaryLinearConfig, AuxiliaryNetworkConfig, LossTransformerConfig,
    WarmStartConfig, WeightTransformerConfig, fit_to_sum, vec_f64,
};
use meltr_data::seed_for;
use meltr_train::{CombinerConfig, CombinerName, OuterConfig};

use super::INNER_OPTIMIZER;
use super::problem::{HELPFUL, Mlp, N_TASKS, PRIMARY, Problem};
use super::rule::{Hypergradients, Learned, Rule};
use crate::error::CliError;

/// Learning rates of Adam in the outer steps, of the published loss transformer and of the
/// combiners of Auto-Lambda and AuxiLearn, which have far fewer parameters. Both were chosen on
/// seeds from 1000 on, the second as the best of 0.01, 0.03 and 0.1.
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

/// Whether the method finds weights, so that their order can be right or wrong.
pub(super) fn finds_weights(name: CombinerName) -> bool {
    use CombinerName::{Fixed, Primary, Sum};
    !matches!(name, Primary | Sum | Fixed)
}

/// The method at the start of a run from `model`, which has no tape; `device` has none either.
pub(super) fn start(
    name: CombinerName,
    problem: &Problem,
    model: &Mlp,
    seed: u64,
    device: &Device,
) -> Result<Box<dyn Rule>, CliError> {
    let weights_seed = seed_for(seed, &[stream::WEIGHTS]);
    let combiner_seed = seed_for(seed, &[stream::COMBINER]);
    let weighting =
        |method: WeightingMethod| -> Result<Box<dyn Rule>, CliError> { Ok(Box::new(method)) };
    match name {
        CombinerName::Primary => weighting(WeightingMethod::Fixed(indicator(&[PRIMARY])?)),
        CombinerName::Sum => weighting(WeightingMethod::Equal(EqualWeights::Sum)),
        // What a person who knows the answer would choose.
        CombinerName::Fixed => {
            let known = [PRIMARY, HELPFUL[0], HELPFUL[1]];
            weighting(WeightingMethod::Fixed(indicator(&known)?))
        }
        CombinerName::Uncertainty => {
            let rule = UncertaintyWeighting::new(N_TASKS, UncertaintyConfig::default())?;
            weighting(WeightingMethod::Uncertainty(rule))
        }
        CombinerName::DynamicWeightAverage => {
            let rule = DynamicWeightAverage::new(N_TASKS, TEMPERATURE)?;
            weighting(WeightingMethod::DynamicWeightAverage(rule))
        }
        CombinerName::Random => {
            weighting(WeightingMethod::Random(RandomWeighting::new(weights_seed)))
        }
        CombinerName::Famo => weighting(WeightingMethod::Famo(Famo::new(
            N_TASKS,
            FamoConfig::default(),
        )?)),
        CombinerName::SmoothTchebycheff => {
            let rule = SmoothTchebycheff::new(TchebycheffConfig::default())?;
            weighting(WeightingMethod::SmoothTchebycheff(rule))
        }
        CombinerName::GradNorm => weighting(WeightingMethod::GradNorm(GradNorm::new(
            N_TASKS,
            GradNormConfig::default(),
        )?)),
        CombinerName::PcGrad => {
            let order = ProjectionOrder::Random { seed: weights_seed };
            weighting(WeightingMethod::PcGrad(PcGrad::new(order)))
        }
        CombinerName::CaGrad => {
            let rule = CaGrad::new(CaGradConfig::default())?;
            weighting(WeightingMethod::CaGrad(rule))
        }
        CombinerName::Mgda => weighting(WeightingMethod::Mgda(Mgda::new())),
        CombinerName::UpGrad => {
            let rule = UpGrad::new(UpGradConfig::default())?;
            weighting(WeightingMethod::UpGrad(rule))
        }
        CombinerName::NashMtl => {
            let rule = NashMtl::new(NashMtlConfig::default())?;
            weighting(WeightingMethod::NashMtl(rule))
        }
        CombinerName::AutoLambda => {
            let combiner = AutoLambdaConfig::new(N_TASKS).init(device)?;
            Ok(Box::new(Learned::auto_lambda(
                combiner,
                &adam(WEIGHTS_LEARNING_RATE),
            )))
        }
        CombinerName::AuxiliaryLinear => {
            let combiner = AuxiliaryLinearConfig::new(N_TASKS, PRIMARY).init(device)?;
            let series = neumann();
            Ok(Box::new(Learned::new(
                combiner,
                &adam(WEIGHTS_LEARNING_RATE),
                series,
            )))
        }
        CombinerName::AuxiliaryNetwork => {
            let config = AuxiliaryNetworkConfig::new(N_TASKS, PRIMARY);
            let combiner = config.init(combiner_seed, device)?;
            let series = neumann();
            Ok(Box::new(Learned::new(
                combiner,
                &adam(WEIGHTS_LEARNING_RATE),
                series,
            )))
        }
        CombinerName::Meltr => {
            let [d_scale, d_model, d_ff] = SIZES;
            let sizes = LossTransformerConfig::new(N_TASKS, d_scale, d_model, d_ff);
            let reference = vec_f64(problem.plain_losses(model).into_data());
            let combiner = WeightTransformerConfig::new(sizes, PRIMARY).init(
                &reference,
                combiner_seed,
                device,
            )?;
            // Its defaults but for the sizes.
            let settings = CombinerConfig {
                name,
                ..CombinerConfig::default()
            };
            let outer = settings.outer(&OuterConfig::default());
            let mut through_step = OptimizerAware::new(INNER_OPTIMIZER, Settings::default());
            through_step.per_unit_step = outer.per_unit_step;
            Ok(Box::new(Learned::new(
                combiner,
                &outer,
                Hypergradients::ThroughStep(Box::new(through_step)),
            )))
        }
        CombinerName::MeltrPublished => {
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
                &adam(MELTR_LEARNING_RATE),
                Hypergradients::Estimated(Box::new(identity)),
            )))
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

/// Adam in the outer steps.
fn adam(learning_rate: f64) -> OuterConfig {
    OuterConfig {
        learning_rate,
        weight_decay: 0.0,
        max_grad_norm: 1.0,
        ..OuterConfig::default()
    }
}

fn neumann() -> Hypergradients {
    let series = Neumann::new(NEUMANN_STEP_SIZE, NEUMANN_PRODUCTS);
    let estimator = EstimatorConfig::Neumann(series).build(Settings::default());
    Hypergradients::Estimated(Box::new(estimator))
}
