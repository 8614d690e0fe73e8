//! The combiner of a run: how it starts, and its parameters in checkpoints.

use burn::module::Module;
use burn::tensor::Device;
use meltr_core::weighting::LossWeighting;
use meltr_core::{
    Combiner, FineTuneTask, Pass, PlainSum, PrimaryOnly, StateDict, fit_to_sum, load_state_dict,
    state_dict, vec_f64,
};
use meltr_data::seed_for;

use crate::combiner_config::StartOfPhi;
use crate::combiner_name::CombinerName;
use crate::error::TrainError;
use crate::fine_tune::{Progress, Settings, stream};
use crate::snapshot::{ExactRule, Restored};

/// The combiner that the run starts with, without a tape.
pub(crate) fn start_combiner<T: FineTuneTask>(
    task: &T,
    model: &T::Model,
    settings: &Settings<'_>,
    progress: &mut dyn Progress,
) -> Result<Combiner, TrainError> {
    let config = settings.combiner;
    if config.name == CombinerName::Meltr {
        let reference = first_losses(task, model, settings)?;
        return weight_transformer(&reference, task.primary(), model, settings);
    }
    let transformer = match random_combiner(task, model, settings)? {
        Combiner::Transformer(transformer) if config.start == StartOfPhi::Warm => transformer,
        combiner => return Ok(combiner),
    };
    let reference = first_losses(task, model, settings)?;
    let seed = seed_for(settings.seed, &[stream::WARM_START]);
    let device = plain_device(model);
    let (transformer, report) =
        fit_to_sum(transformer, &reference, &config.warm_start, seed, &device)?;
    let (low, high) = report
        .sensitivities
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), s| {
            (low.min(*s), high.max(*s))
        });
    progress.message(&format!(
        "warm start of the loss transformer: sensitivities {low:.2} to {high:.2}, slope error {:.3}",
        report.slope_error
    ));
    Ok(Combiner::Transformer(transformer))
}

/// The losses of the first batch at the start of the run.
fn first_losses<T: FineTuneTask>(
    task: &T,
    model: &T::Model,
    settings: &Settings<'_>,
) -> Result<Vec<f64>, TrainError> {
    let seed = seed_for(settings.seed, &[stream::BATCH]);
    let batch = task
        .batch(0, seed)
        .map_err(|error| TrainError::Task(Box::new(error)))?;
    let losses = task.losses(&model.valid(), &batch, Pass::Evaluation);
    Ok(vec_f64(losses.into_data()))
}

fn weight_transformer<M: Module>(
    reference: &[f64],
    primary: usize,
    model: &M,
    settings: &Settings<'_>,
) -> Result<Combiner, TrainError> {
    let seed = seed_for(settings.seed, &[stream::PHI]);
    let config = settings
        .combiner
        .weight_transformer(reference.len(), primary);
    let combiner = config.init(reference, seed, &plain_device(model))?;
    Ok(Combiner::Weights(combiner))
}

/// The combiner with its initial values from the seed.
pub(crate) fn random_combiner<T: FineTuneTask>(
    task: &T,
    model: &T::Model,
    settings: &Settings<'_>,
) -> Result<Combiner, TrainError> {
    let (n_tasks, primary) = (task.names().len(), task.primary());
    let config = settings.combiner;
    let seed = seed_for(settings.seed, &[stream::PHI]);
    let device = plain_device(model);
    Ok(match config.name {
        CombinerName::Primary => Combiner::Primary(PrimaryOnly::new(primary, n_tasks)?),
        CombinerName::MeltrPublished => {
            let sizes = config.loss_transformer(n_tasks);
            Combiner::Transformer(sizes.init(seed, &device)?)
        }
        // The losses at the start of the run are not known here.
        CombinerName::Meltr => {
            return weight_transformer(&vec![1.0; n_tasks], primary, model, settings);
        }
        CombinerName::AutoLambda => {
            Combiner::AutoLambda(config.auto_lambda_config(n_tasks).init(&device)?)
        }
        CombinerName::AuxiliaryLinear => {
            let sizes = config.auxiliary_linear_config(n_tasks, primary);
            Combiner::AuxiliaryLinear(sizes.init(&device)?)
        }
        CombinerName::AuxiliaryNetwork => {
            let sizes = config.auxiliary_network_config(n_tasks, primary);
            Combiner::AuxiliaryNetwork(sizes.init(seed, &device)?)
        }
        // A rule weighs the losses, and their sum is what is minimized.
        CombinerName::Sum
        | CombinerName::Fixed
        | CombinerName::Uncertainty
        | CombinerName::DynamicWeightAverage
        | CombinerName::Random
        | CombinerName::Famo
        | CombinerName::SmoothTchebycheff
        | CombinerName::GradNorm
        | CombinerName::PcGrad
        | CombinerName::CaGrad
        | CombinerName::Mgda
        | CombinerName::UpGrad
        | CombinerName::NashMtl => Combiner::Sum(PlainSum::new(n_tasks)),
    })
}

/// The rule that weighs the losses, at the start of a run; `None` if there is none.
pub(crate) fn start_rule<T: FineTuneTask>(
    task: &T,
    settings: &Settings<'_>,
) -> Result<Option<ExactRule>, TrainError> {
    let seed = seed_for(settings.seed, &[stream::RULE]);
    let rule = settings
        .combiner
        .rule(&task.names(), task.primary(), seed)?;
    Ok(rule.map(ExactRule))
}

/// `Err` if a checkpoint holds the state of another rule than the run's.
pub(crate) fn require_rule(
    asked: Option<&ExactRule>,
    restored: &Restored,
) -> Result<(), TrainError> {
    let name = |rule: Option<&ExactRule>| rule.map_or("no rule", |rule| rule.0.name());
    let (asked, found) = (name(asked), name(restored.header.state.rule.as_ref()));
    if asked == found {
        return Ok(());
    }
    Err(TrainError::BadCheckpoint {
        path: restored.folder.clone(),
        reason: format!(
            "the weights of its losses come from {found}, and those of the run from {asked}"
        ),
    })
}

/// The device of a module, without a tape.
fn plain_device<M: Module>(module: &M) -> Device {
    module
        .devices()
        .into_iter()
        .next()
        .unwrap_or_default()
        .without_autodiff()
}

/// Parameters of the combiner by name; `None` if it has none.
pub(crate) fn combiner_dict(combiner: &Combiner) -> Option<StateDict> {
    match combiner.valid() {
        Combiner::Primary(_) | Combiner::Sum(_) => None,
        Combiner::Transformer(combiner) => Some(combiner.state_dict()),
        Combiner::Weights(combiner) => Some(combiner.state_dict()),
        Combiner::AuxiliaryLinear(combiner) => Some(state_dict(&combiner, str::to_owned)),
        Combiner::AuxiliaryNetwork(combiner) => Some(state_dict(&combiner, str::to_owned)),
        Combiner::AutoLambda(combiner) => Some(state_dict(&combiner, str::to_owned)),
    }
}

pub(crate) fn restored_combiner(
    combiner: Combiner,
    restored: &Restored,
) -> Result<Combiner, TrainError> {
    if !combiner.is_learned() {
        return Ok(combiner);
    }
    let Some(saved) = &restored.outer else {
        return Err(TrainError::BadCheckpoint {
            path: restored.folder.clone(),
            reason: "it has no parameters of the combiner, which is a learned one".to_owned(),
        });
    };
    let dict = saved.tensors();
    let (combiner, report) = match combiner {
        Combiner::Primary(_) | Combiner::Sum(_) => return Ok(combiner),
        Combiner::Transformer(combiner) => {
            let (combiner, report) = combiner.load_state_dict(dict);
            (Combiner::Transformer(combiner), report)
        }
        Combiner::Weights(combiner) => {
            let (combiner, report) = combiner.load_state_dict(dict);
            (Combiner::Weights(combiner), report)
        }
        Combiner::AuxiliaryLinear(combiner) => {
            let (combiner, report) = load_state_dict(combiner, dict, str::to_owned);
            (Combiner::AuxiliaryLinear(combiner), report)
        }
        Combiner::AuxiliaryNetwork(combiner) => {
            let (combiner, report) = load_state_dict(combiner, dict, str::to_owned);
            (Combiner::AuxiliaryNetwork(combiner), report)
        }
        Combiner::AutoLambda(combiner) => {
            let (combiner, report) = load_state_dict(combiner, dict, str::to_owned);
            (Combiner::AutoLambda(combiner), report)
        }
    };
    if report.is_complete() {
        Ok(combiner)
    } else {
        Err(TrainError::WeightsDoNotFit {
            path: saved.path().to_owned(),
            report: report.to_string(),
        })
    }
}
