//! Parity of BertAdam: parameters, moments and counts after every step, and all schedules.

use burn::tensor::{Device, Tensor, TensorData};
use meltr_train::{BertAdamConfig, BertAdamState, Schedule, bert_adam_update};

use super::{Computed, Reference, Tolerance};
use crate::error::CliError;
use crate::nearest::nearest;

const SCHEDULES: [(&str, Schedule); 5] = [
    ("warmup_linear_down", Schedule::WarmupLinearDown),
    ("warmup_linear", Schedule::WarmupLinear),
    ("warmup_cosine", Schedule::WarmupCosine),
    ("warmup_constant", Schedule::WarmupConstant),
    ("none", Schedule::None),
];

pub(super) fn tolerance(name: &str) -> Tolerance {
    if name.contains(".count.") {
        Tolerance::EXACT
    } else {
        Tolerance::new(1e-6, 1e-5)
    }
}

pub(super) fn compute(reference: &Reference, device: &Device) -> Result<Computed, CliError> {
    let name = reference.text("schedule")?;
    let schedule = SCHEDULES
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| {
            let hint = nearest(name, SCHEDULES.map(|(known, _)| known)).unwrap_or("none");
            CliError::Input(format!(
                "schedule `{name}` is not known; did you mean `{hint}`?"
            ))
        })?;
    let config = BertAdamConfig {
        learning_rate: reference.number("lr")?,
        schedule: schedule.1,
        t_warmup: reference.size("t_warmup")?,
        warmup_share: reference.number("warmup_proportion")?,
        beta_1: reference.number("b1")?,
        beta_2: reference.number("b2")?,
        epsilon: reference.number("eps")?,
        weight_decay: reference.number("weight_decay")?,
        max_grad_norm: reference.number("max_grad_norm")?,
        ..BertAdamConfig::default()
    };
    let factor = reference.number("decay_group_lr_factor")?;
    let mut computed = Computed::default();

    for (group, factor, decay) in [
        ("decay_group", factor, config.weight_decay),
        ("no_decay_group", 1.0, 0.0),
    ] {
        for name in reference.list(group)? {
            let array = reference.weights.f32(&name)?;
            let shape = array.shape().to_vec();
            let mut parameter = flat(array.into_iter().collect(), device);
            let mut state = BertAdamState::new(&parameter);
            for step in 1..=reference.size("steps")? {
                let gradient = format!("step{step}.grad.{name}");
                if reference.inputs.contains(&gradient) {
                    let gradient = flat(
                        reference.inputs.f32(&gradient)?.into_iter().collect(),
                        device,
                    );
                    (parameter, state) =
                        bert_adam_update(&config, factor, decay, parameter, gradient, state);
                }
                for (kind, tensor) in [("param", &parameter), ("m", &state.m), ("v", &state.v)] {
                    let values = tensor.to_data().iter::<f64>().collect();
                    computed.insert(format!("step{step}.{kind}.{name}"), &shape, values);
                }
                computed.scalar(format!("step{step}.count.{name}"), state.count as f64);
            }
        }
    }

    let n_steps = reference.size("table_steps")?;
    let t_warmup = reference.size("table_t_warmup")?;
    for (name, schedule) in SCHEDULES {
        let table = (1..=n_steps)
            .map(|count| schedule.multiplier(count, t_warmup, config.warmup_share))
            .collect();
        computed.insert(format!("multiplier.{name}"), &[n_steps], table);
    }
    Ok(computed)
}

fn flat(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
