//! The optimizers of the outer parameters, with a state that can be stored.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::{
    Adam, AdamConfig, AdamState, AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer,
    decay::WeightDecayConfig,
};
use burn::tensor::{Tensor, TensorData};
use meltr_aid::ParamVector;
use meltr_core::StateDict;

use crate::config::{OuterConfig, OuterOptimizer};
use crate::error::TrainError;
use crate::named_parameters::NamedParameters;
use crate::saved_tensors::SavedTensors;

/// Numerical guard.
const EPSILON: f32 = 1e-8;

/// The optimizer of the outer parameters.
///
/// The steps of Adam and AdamW are those of burn, taken on flattened parameters. Burn's own
/// optimizer of whole modules keeps its state by ids that are other ones in every process.
pub struct OuterSteps {
    rule: Rule,
    learning_rate: f64,
    states: BTreeMap<ParamId, State>,
}

enum Rule {
    Adam(Adam),
    AdamW(AdamW),
    Sgd { decay: f64, weight_decay: f64 },
}

/// What is kept of a parameter's gradients.
enum State {
    /// Both moments, of Adam and AdamW.
    Moments(Box<AdaptiveMomentumState<1>>),
    /// Their running mean.
    Mean(Box<Tensor<1>>),
}

impl OuterSteps {
    /// The optimizer that `config` names, before its first step.
    #[must_use]
    pub fn new(config: &OuterConfig) -> Self {
        let (beta_1, beta_2) = (config.beta_1 as f32, config.beta_2 as f32);
        let rule = match config.optimizer {
            OuterOptimizer::Adam => Rule::Adam(
                AdamConfig::new()
                    .with_beta_1(beta_1)
                    .with_beta_2(beta_2)
                    .with_epsilon(EPSILON)
                    .with_weight_decay(
                        (config.weight_decay > 0.0)
                            .then(|| WeightDecayConfig::new(config.weight_decay as f32)),
                    )
                    .build(),
            ),
            OuterOptimizer::AdamW => Rule::AdamW(
                AdamWConfig::new()
                    .with_beta_1(beta_1)
                    .with_beta_2(beta_2)
                    .with_epsilon(EPSILON)
                    .with_weight_decay(config.weight_decay as f32)
                    .build(),
            ),
            OuterOptimizer::Sgd => Rule::Sgd {
                decay: config.beta_1,
                weight_decay: config.weight_decay,
            },
        };
        Self {
            rule,
            learning_rate: config.learning_rate,
            states: BTreeMap::new(),
        }
    }

    /// Takes one step along `gradient`; a parameter that it lacks is left alone.
    #[must_use]
    pub fn step<M: Module>(&mut self, module: M, gradient: &ParamVector) -> M {
        module.map(&mut Stepper {
            optimizer: self,
            gradient,
        })
    }

    /// Moments and step counts of every parameter that has had a gradient.
    pub(crate) fn state_dict(&self, parameters: &NamedParameters) -> StateDict {
        let mut dict = StateDict::new();
        for parameter in parameters.iter() {
            let name = &parameter.name;
            match self.states.get(&parameter.id) {
                None => {}
                Some(State::Moments(state)) => {
                    let time = TensorData::new(vec![state.time as i64], [1]);
                    dict.insert(format!("outer.time.{name}"), time);
                    dict.insert(format!("outer.moment_1.{name}"), state.moment_1.to_data());
                    dict.insert(format!("outer.moment_2.{name}"), state.moment_2.to_data());
                }
                Some(State::Mean(mean)) => {
                    dict.insert(mean_key(name), mean.to_data());
                }
            }
        }
        dict
    }

    /// Takes up the state that [`state_dict`](Self::state_dict) gave.
    pub(crate) fn load_state_dict(
        &mut self,
        parameters: &NamedParameters,
        saved: &mut SavedTensors,
    ) -> Result<(), TrainError> {
        for parameter in parameters.iter() {
            let name = &parameter.name;
            let state = if matches!(self.rule, Rule::Sgd { .. }) {
                if !saved.contains(&mean_key(name)) {
                    continue;
                }
                State::Mean(Box::new(saved.take_vector(&mean_key(name), parameter)?))
            } else {
                let Some(time) = saved.take_count(&format!("outer.time.{name}"))? else {
                    continue;
                };
                let moment_1 = saved.take_vector(&format!("outer.moment_1.{name}"), parameter)?;
                let moment_2 = saved.take_vector(&format!("outer.moment_2.{name}"), parameter)?;
                moments_of(AdaptiveMomentumState::new(time, moment_1, moment_2))
            };
            self.states.insert(parameter.id, state);
        }
        Ok(())
    }

    /// A parameter after a step along `gradient`, and what is kept of its gradients.
    fn updated(
        &self,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: Option<State>,
    ) -> (Tensor<1>, Option<State>) {
        let rate = self.learning_rate;
        // Of the other kind there are none: all come from the same rule.
        let (moments, mean) = match state {
            Some(State::Moments(moments)) => (Some(*moments), None),
            Some(State::Mean(mean)) => (None, Some(*mean)),
            None => (None, None),
        };
        match &self.rule {
            Rule::Adam(adam) => {
                let state = moments.map(|momentum| AdamState { momentum });
                let (value, state) = adam.step(rate, value, gradient, state);
                (value, state.map(|state| moments_of(state.momentum)))
            }
            Rule::AdamW(adam) => {
                let state = moments.map(|momentum| AdamWState { momentum });
                let (value, state) = adam.step(rate, value, gradient, state);
                (value, state.map(|state| moments_of(state.momentum)))
            }
            Rule::Sgd {
                decay,
                weight_decay,
            } => {
                let new = gradient * (1.0 - decay);
                let mean = match mean {
                    Some(mean) => mean * *decay + new,
                    None => new,
                };
                let value = value * (1.0 - rate * weight_decay) - mean.clone() * rate;
                (value, Some(State::Mean(Box::new(mean))))
            }
        }
    }
}

/// What Adam and AdamW keep.
fn moments_of(momentum: AdaptiveMomentumState<1>) -> State {
    State::Moments(Box::new(momentum))
}

/// Where the running mean of a parameter's gradients is stored.
fn mean_key(name: &str) -> String {
    format!("outer.mean.{name}")
}

struct Stepper<'a> {
    optimizer: &'a mut OuterSteps,
    gradient: &'a ParamVector,
}

impl ModuleMapper for Stepper<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.val().dims();
        let count = shape.iter().product();
        let Some(gradient) = self.gradient.get(param.id, [count]) else {
            return param;
        };
        let (id, value, mapper) = param.consume();
        let requires_grad = value.is_require_grad();
        let on_tape = value.is_autodiff();
        let value = value.inner().reshape([count]);
        let state = self.optimizer.states.remove(&id);
        let (value, state) = self.optimizer.updated(value, gradient, state);
        if let Some(state) = state {
            self.optimizer.states.insert(id, state);
        }
        let value = value.reshape(shape);
        let value = if on_tape { value.autodiff() } else { value };
        Param::from_mapped_value(id, value.set_require_grad(requires_grad), mapper)
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::ModuleOptimizer;
    use burn::tensor::Device;
    use meltr_core::parameter_names;

    use super::*;

    fn layer() -> Linear {
        LinearConfig::new(5, 3).init(&Device::default().autodiff())
    }

    /// A gradient that differs from one step to the next.
    fn gradient(layer: &Linear, step: usize) -> ParamVector {
        let wave = |x: &Tensor<1>| (x.clone() * (step + 1) as f64).sin();
        ParamVector::from_parameters(layer).map(wave)
    }

    fn config(optimizer: OuterOptimizer) -> OuterConfig {
        OuterConfig {
            optimizer,
            weight_decay: 0.01,
            ..OuterConfig::default()
        }
    }

    fn burns_own(config: &OuterConfig) -> ModuleOptimizer {
        match config.optimizer {
            OuterOptimizer::Adam => AdamConfig::new()
                .with_epsilon(1e-8)
                .with_weight_decay(Some(WeightDecayConfig::new(config.weight_decay as f32)))
                .init(),
            OuterOptimizer::AdamW => AdamWConfig::new()
                .with_epsilon(1e-8)
                .with_weight_decay(config.weight_decay as f32)
                .init(),
            OuterOptimizer::Sgd => unreachable!("burn's momentum takes the first gradient whole"),
        }
    }

    fn assert_same(ours: &Linear, theirs: &Linear) {
        ours.weight
            .val()
            .into_data()
            .assert_eq(&theirs.weight.val().into_data(), true);
        let bias = |layer: &Linear| layer.bias.as_ref().unwrap().val().into_data();
        bias(ours).assert_eq(&bias(theirs), true);
    }

    #[test]
    fn the_steps_are_those_of_burn_to_the_bit() {
        for optimizer in [OuterOptimizer::Adam, OuterOptimizer::AdamW] {
            let config = config(optimizer);
            let (mut ours, mut theirs) = (OuterSteps::new(&config), burns_own(&config));
            let (mut our_layer, mut their_layer) = {
                let layer = layer();
                (layer.clone(), layer)
            };
            for step in 0..5 {
                let gradient = gradient(&our_layer, step);
                let for_burn = gradient.to_gradients_params(&their_layer);
                our_layer = ours.step(our_layer, &gradient);
                their_layer = theirs.step(config.learning_rate, their_layer, for_burn);
                assert_same(&our_layer, &their_layer);
            }
            assert!(our_layer.weight.val().is_require_grad());
        }
    }

    #[test]
    fn descent_follows_the_running_mean_of_the_gradients() {
        let config = OuterConfig {
            optimizer: OuterOptimizer::Sgd,
            learning_rate: 0.5,
            beta_1: 0.9,
            weight_decay: 0.1,
            ..OuterConfig::default()
        };
        let mut optimizer = OuterSteps::new(&config);
        let mut layer = layer();
        let mut weights = ParamVector::from_parameters(&layer).to_vec();
        let mut mean = vec![0.0; weights.len()];
        for step in 0..4 {
            let gradient = gradient(&layer, step);
            layer = optimizer.step(layer, &gradient);
            for ((weight, mean), new) in weights.iter_mut().zip(&mut mean).zip(gradient.to_vec()) {
                *mean = 0.9 * *mean + 0.1 * new;
                *weight -= 0.5 * (0.1 * *weight + *mean);
            }
        }
        for (ours, expected) in ParamVector::from_parameters(&layer)
            .to_vec()
            .iter()
            .zip(weights)
        {
            assert!((ours - expected).abs() < 1e-6, "{ours} {expected}");
        }
    }

    #[test]
    fn a_stored_state_goes_on_to_the_bit() {
        let all = [
            OuterOptimizer::Adam,
            OuterOptimizer::AdamW,
            OuterOptimizer::Sgd,
        ];
        for optimizer in all {
            let config = config(optimizer);
            let mut first = OuterSteps::new(&config);
            let mut layer = layer();
            let parameters = NamedParameters::of(&layer, parameter_names(&layer, str::to_owned));
            for step in 0..3 {
                let gradient = gradient(&layer, step);
                layer = first.step(layer, &gradient);
            }
            let mut saved = SavedTensors::in_memory(first.state_dict(&parameters));
            let mut second = OuterSteps::new(&config);
            second.load_state_dict(&parameters, &mut saved).unwrap();
            saved.require_used_up().unwrap();
            let gradient = gradient(&layer, 3);
            let ours = second.step(layer.clone(), &gradient);
            assert_same(&ours, &first.step(layer, &gradient));
        }
    }
}
