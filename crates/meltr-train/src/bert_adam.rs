//! BertAdam, the optimizer of the backbone.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Tensor, TensorData};
use meltr_aid::{OptimizerState, ParamVector, UpdateRule};
use meltr_core::{ConfigError, StateDict, is_on_host};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::named_parameters::NamedParameters;
use crate::saved_tensors::SavedTensors;
use crate::schedule::Schedule;

/// Settings of [`BertAdam`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BertAdamConfig {
    /// Learning rate before the schedule, above 0.
    pub learning_rate: f64,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// Period of the schedule in steps, less one; 0 takes the length of the run.
    pub t_warmup: usize,
    /// Share of the period that is warm-up, where the schedule has one; in `(0, 1)`.
    pub warmup_share: f64,
    /// Decay of the first moment, in `[0, 1)`.
    pub beta_1: f64,
    /// Decay of the second moment, in `[0, 1)`.
    pub beta_2: f64,
    /// Numerical guard, above 0.
    pub epsilon: f64,
    /// Decoupled weight decay of all parameters but biases and `LayerNorm`s, at least 0.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient and of each parameter's own, above 0.
    pub max_grad_norm: f64,
    /// Factors on the learning rate of parameters whose published name contains the key; the
    /// first match in alphabetical order counts. The released code has `"bert." = 0.1` for a text
    /// encoder that starts from BERT.
    pub rate_factors: BTreeMap<String, f64>,
}

impl Default for BertAdamConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            schedule: Schedule::WarmupLinearDown,
            t_warmup: 0,
            warmup_share: 0.1,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-6,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            rate_factors: BTreeMap::new(),
        }
    }
}

impl BertAdamConfig {
    /// Checks every number.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = |key, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(ConfigError::OutOfRange {
                    key,
                    value,
                    range: "(0, inf)",
                })
            }
        };
        positive("learning_rate", self.learning_rate)?;
        positive("epsilon", self.epsilon)?;
        positive("max_grad_norm", self.max_grad_norm)?;
        positive("warmup_share", self.warmup_share)?;
        ConfigError::require_probability("warmup_share", self.warmup_share)?;
        ConfigError::require_probability("beta_1", self.beta_1)?;
        ConfigError::require_probability("beta_2", self.beta_2)?;
        for factor in self.rate_factors.values() {
            if !(factor.is_finite() && *factor >= 0.0) {
                return Err(ConfigError::OutOfRange {
                    key: "rate_factors",
                    value: *factor,
                    range: "[0, inf)",
                });
            }
        }
        if self.weight_decay.is_finite() && self.weight_decay >= 0.0 {
            Ok(())
        } else {
            Err(ConfigError::OutOfRange {
                key: "weight_decay",
                value: self.weight_decay,
                range: "[0, inf)",
            })
        }
    }
}

/// State of one parameter.
#[derive(Debug, Clone)]
pub struct BertAdamState {
    /// First moment, flattened.
    pub m: Tensor<1>,
    /// Second moment, flattened.
    pub v: Tensor<1>,
    /// Steps in which this parameter had a gradient.
    pub count: usize,
}

impl BertAdamState {
    /// The state before the first step of a parameter like `parameter`.
    #[must_use]
    pub fn new(parameter: &Tensor<1>) -> Self {
        Self {
            m: parameter.zeros_like(),
            v: parameter.zeros_like(),
            count: 0,
        }
    }
}

/// One step of one parameter, flattened and off the tape.
///
/// ```text
/// g ← g min(1, max_grad_norm / (|g| + 1e-6))
/// m ← β₁ m + (1 - β₁) g,   v ← β₂ v + (1 - β₂) g²       (no bias correction)
/// p ← p - rate · multiplier(count) · (m / (√v + ε) + decay · p)
/// ```
///
/// The count is advanced before it is used.
///
/// # References
///
/// - Reference code: `mlvlab/MELTR@669ad60`, `univl/modules/optimization.py`.
#[must_use]
pub fn bert_adam_update(
    config: &BertAdamConfig,
    rate_factor: f64,
    weight_decay: f64,
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    state: BertAdamState,
) -> (Tensor<1>, BertAdamState) {
    let count = state.count + 1;
    let norm = gradient.clone().square().sum().sqrt();
    let clip = (norm + 1e-6).recip() * config.max_grad_norm;
    let gradient = gradient * clip.clamp_max(1.0);
    let m = state.m * config.beta_1 + gradient.clone() * (1.0 - config.beta_1);
    let v = state.v * config.beta_2 + gradient.square() * (1.0 - config.beta_2);
    let mut update = m.clone() / (v.clone().sqrt() + config.epsilon);
    if weight_decay > 0.0 {
        update = update + parameter.clone() * weight_decay;
    }
    let multiplier = config
        .schedule
        .multiplier(count, config.t_warmup, config.warmup_share);
    let rate = config.learning_rate * rate_factor * multiplier;
    (parameter - update * rate, BertAdamState { m, v, count })
}

/// Numbers that a thread takes at a time. Fixed, so that sums do not depend on how many there are.
const CHUNK: usize = 1 << 16;

/// As [`bert_adam_update`] with the gradient `clip` times as long.
///
/// Where the tensors lie in the memory of this process that is two passes over them on all threads,
/// instead of some twenty on one: with the same formula, but that the squares of the gradient are
/// added in `f64`.
fn clipped_update(
    config: &BertAdamConfig,
    (rate_factor, weight_decay): (f64, f64),
    clip: f64,
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    state: BertAdamState,
) -> (Tensor<1>, BertAdamState) {
    let (device, dtype) = (parameter.device(), parameter.dtype());
    let BertAdamState { m, v, count } = state;
    let tensors = [parameter, gradient, m, v];
    let (is_done, [parameter, gradient, m, v]) = if is_on_host(&device) {
        let mut data = tensors.map(Tensor::into_data);
        let factors = HostFactors::new(config, rate_factor, weight_decay, clip, count + 1);
        let is_done = factors.step(&mut data);
        (
            is_done,
            data.map(|data| Tensor::<1>::from_data(data, (&device, dtype))),
        )
    } else {
        (false, tensors)
    };
    if is_done {
        let count = count + 1;
        return (parameter, BertAdamState { m, v, count });
    }
    let gradient = if clip < 1.0 {
        gradient * clip
    } else {
        gradient
    };
    let state = BertAdamState { m, v, count };
    bert_adam_update(
        config,
        rate_factor,
        weight_decay,
        parameter,
        gradient,
        state,
    )
}

/// The numbers of a step of one parameter.
struct HostFactors {
    clip: f32,
    max_grad_norm: f64,
    beta_1: f32,
    rest_1: f32,
    beta_2: f32,
    rest_2: f32,
    epsilon: f32,
    weight_decay: f32,
    rate: f32,
}

impl HostFactors {
    fn new(
        config: &BertAdamConfig,
        rate_factor: f64,
        weight_decay: f64,
        clip: f64,
        count: usize,
    ) -> Self {
        let multiplier = config
            .schedule
            .multiplier(count, config.t_warmup, config.warmup_share);
        Self {
            clip: clip.min(1.0) as f32,
            max_grad_norm: config.max_grad_norm,
            beta_1: config.beta_1 as f32,
            rest_1: (1.0 - config.beta_1) as f32,
            beta_2: config.beta_2 as f32,
            rest_2: (1.0 - config.beta_2) as f32,
            epsilon: config.epsilon as f32,
            weight_decay: weight_decay as f32,
            rate: (config.learning_rate * rate_factor * multiplier) as f32,
        }
    }

    /// Changes the parameter and its moments, given as parameter, gradient, first and second
    /// moment. `false`, with nothing changed, if they are not of `f32`.
    fn step(&self, data: &mut [TensorData; 4]) -> bool {
        let [parameter, gradient, m, v] = data;
        let (Ok(parameter), Ok(gradient), Ok(m), Ok(v)) = (
            parameter.as_mut_slice::<f32>(),
            gradient.as_slice::<f32>(),
            m.as_mut_slice::<f32>(),
            v.as_mut_slice::<f32>(),
        ) else {
            return false;
        };
        let squares: Vec<f64> = gradient
            .par_chunks(CHUNK)
            .map(|gradient| self.sum_of_squares(gradient))
            .collect();
        let norm = squares.into_iter().sum::<f64>().sqrt();
        let own_clip = (self.max_grad_norm / (norm + 1e-6)).min(1.0) as f32;
        parameter
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(m.par_chunks_mut(CHUNK))
            .zip(v.par_chunks_mut(CHUNK))
            .for_each(|(((parameter, gradient), m), v)| {
                self.step_chunk(own_clip, parameter, gradient, m, v);
            });
        true
    }

    /// Of the gradient times `clip`.
    fn sum_of_squares(&self, gradient: &[f32]) -> f64 {
        // Eight sums side by side: one alone would wait for each of its additions.
        let mut sums = [0.0_f64; 8];
        for numbers in gradient.chunks(sums.len()) {
            for (sum, number) in sums.iter_mut().zip(numbers) {
                let number = f64::from(*number * self.clip);
                *sum += number * number;
            }
        }
        sums.iter().sum()
    }

    fn step_chunk(
        &self,
        own_clip: f32,
        parameter: &mut [f32],
        gradient: &[f32],
        m: &mut [f32],
        v: &mut [f32],
    ) {
        let numbers = parameter.iter_mut().zip(gradient).zip(m).zip(v);
        for (((parameter, gradient), m), v) in numbers {
            let gradient = *gradient * self.clip * own_clip;
            *m = *m * self.beta_1 + gradient * self.rest_1;
            *v = *v * self.beta_2 + gradient * gradient * self.rest_2;
            let update = *m / (v.sqrt() + self.epsilon) + *parameter * self.weight_decay;
            *parameter -= update * self.rate;
        }
    }
}

/// BertAdam over the parameters of a module.
///
/// A parameter without a gradient is left alone: neither its moments nor its count move.
#[derive(Debug, Clone)]
pub struct BertAdam {
    config: BertAdamConfig,
    /// Rate factor and weight decay of each parameter.
    groups: BTreeMap<ParamId, (f64, f64)>,
    states: BTreeMap<ParamId, BertAdamState>,
}

impl BertAdam {
    /// Sorts parameters into groups by published name.
    ///
    /// `parameters` lists the id and published name of every parameter. Names that contain
    /// `bias`, or `LayerNorm.weight`, are not decayed.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if a setting is out of range.
    pub fn new(
        config: BertAdamConfig,
        parameters: impl IntoIterator<Item = (ParamId, String)>,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let groups = parameters
            .into_iter()
            .map(|(id, name)| {
                let factor = config
                    .rate_factors
                    .iter()
                    .find(|(part, _)| name.contains(part.as_str()))
                    .map_or(1.0, |(_, factor)| *factor);
                let decayed = !name.contains("bias") && !name.contains("LayerNorm.weight");
                (
                    id,
                    (factor, if decayed { config.weight_decay } else { 0.0 }),
                )
            })
            .collect();
        Ok(Self {
            config,
            groups,
            states: BTreeMap::new(),
        })
    }

    /// The multiplier that the next step applies to the learning rate of a parameter with
    /// gradients in every step so far.
    #[must_use]
    pub fn next_multiplier(&self) -> f64 {
        let count = self
            .states
            .values()
            .map(|state| state.count)
            .max()
            .unwrap_or(0)
            + 1;
        self.config
            .schedule
            .multiplier(count, self.config.t_warmup, self.config.warmup_share)
    }

    /// Takes one step along `gradient`, clipped to the largest norm as a whole first.
    ///
    /// `norm` is the norm of `gradient`, which the caller has already.
    #[must_use]
    pub fn step<M: Module>(&mut self, module: M, gradient: ParamVector, norm: f64) -> M {
        let clip = self.config.max_grad_norm / (norm + 1e-6);
        module.map(&mut Stepper {
            optimizer: self,
            gradients: gradient.into_entries().collect(),
            clip,
        })
    }

    /// How it turns a gradient that was clipped as a whole into a step, without schedule and decay.
    pub(crate) fn rule(&self) -> UpdateRule {
        UpdateRule::BertAdam {
            learning_rate: self.config.learning_rate,
            beta_1: self.config.beta_1,
            beta_2: self.config.beta_2,
            epsilon: self.config.epsilon,
            max_grad_norm: self.config.max_grad_norm,
        }
    }

    /// What a gradient of this norm is multiplied by before a step.
    pub(crate) fn clip(&self, norm: f64) -> f64 {
        (self.config.max_grad_norm / (norm + 1e-6)).min(1.0)
    }

    /// The moments of the parameters that `gradient` has, in its order; parameters without a step
    /// so far are left out.
    pub(crate) fn moments(&self, gradient: &ParamVector) -> OptimizerState {
        let mut moments = OptimizerState::default();
        for (id, _) in gradient.entries() {
            if let Some(state) = self.states.get(&id) {
                moments.first.insert(id, state.m.clone());
                moments.second.insert(id, state.v.clone());
                moments.steps = moments.steps.max(state.count);
            }
        }
        moments
    }

    /// Factors on the learning rates of all parameters.
    pub(crate) fn rate_factors(&self) -> Vec<(ParamId, f64)> {
        let groups = self.groups.iter();
        groups.map(|(id, (factor, _))| (*id, *factor)).collect()
    }

    /// Moments and step counts of every parameter that has had a gradient.
    pub(crate) fn state_dict(&self, parameters: &NamedParameters) -> StateDict {
        let mut dict = StateDict::new();
        for parameter in parameters.iter() {
            let Some(state) = self.states.get(&parameter.id) else {
                continue;
            };
            let name = &parameter.name;
            let count = TensorData::new(vec![state.count as i64], [1]);
            dict.insert(format!("inner.count.{name}"), count);
            dict.insert(format!("inner.m.{name}"), state.m.to_data());
            dict.insert(format!("inner.v.{name}"), state.v.to_data());
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
            let Some(count) = saved.take_count(&format!("inner.count.{name}"))? else {
                continue;
            };
            let m = saved.take_vector(&format!("inner.m.{name}"), parameter)?;
            let v = saved.take_vector(&format!("inner.v.{name}"), parameter)?;
            self.states
                .insert(parameter.id, BertAdamState { m, v, count });
        }
        Ok(())
    }
}

struct Stepper<'a> {
    optimizer: &'a mut BertAdam,
    /// Of the parameters that have not been met yet, flattened.
    gradients: BTreeMap<ParamId, Tensor<1>>,
    /// What the gradient as a whole is multiplied by, if that is below 1.
    clip: f64,
}

impl ModuleMapper for Stepper<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove(&param.id) else {
            return param;
        };
        let optimizer = &mut *self.optimizer;
        let group = optimizer
            .groups
            .get(&param.id)
            .copied()
            .unwrap_or((1.0, 0.0));
        let (id, value, mapper) = param.consume();
        let requires_grad = value.is_require_grad();
        let on_tape = value.is_autodiff();
        let shape = value.dims();
        let count: usize = shape.iter().product();
        let value = value.inner().reshape([count]);
        let state = optimizer
            .states
            .remove(&id)
            .unwrap_or_else(|| BertAdamState::new(&value));
        let (value, state) =
            clipped_update(&optimizer.config, group, self.clip, value, gradient, state);
        optimizer.states.insert(id, state);
        let value = value.reshape(shape);
        let value = if on_tape { value.autodiff() } else { value };
        Param::from_mapped_value(id, value.set_require_grad(requires_grad), mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    fn layer() -> (Linear, Vec<(ParamId, String)>) {
        let layer = LinearConfig::new(2, 2).init(&Device::default().autodiff());
        let bias = layer.bias.as_ref().unwrap().id;
        let names = vec![
            (layer.weight.id, "dense.weight".to_owned()),
            (bias, "dense.bias".to_owned()),
        ];
        (layer, names)
    }

    #[test]
    fn a_parameter_without_a_gradient_is_left_alone() {
        let (layer, names) = layer();
        let mut optimizer = BertAdam::new(BertAdamConfig::default(), names).unwrap();
        let mut gradient = ParamVector::zero();
        gradient.insert(layer.weight.id, layer.weight.val().ones_like());
        let norm = gradient.norm();
        let stepped = optimizer.step(layer.clone(), gradient, norm);
        let bias = |layer: &Linear| layer.bias.as_ref().unwrap().val().into_data();
        bias(&stepped).assert_eq(&bias(&layer), true);
        assert!(stepped.weight.val().is_require_grad());
        let moved: f32 = (stepped.weight.val() - layer.weight.val())
            .abs()
            .sum()
            .into_scalar();
        assert!(moved > 0.0);
    }

    #[test]
    fn a_step_in_memory_is_that_of_the_formula() {
        let count = CHUNK + 5;
        let device = Device::flex();
        let vector = |phase: f32, scale: f32| {
            let values: Vec<f32> = (0..count)
                .map(|at| scale * (at as f32 * 0.37 + phase).sin())
                .collect();
            Tensor::<1>::from_data(TensorData::new(values, [count]), &device)
        };
        let config = BertAdamConfig {
            t_warmup: 10,
            ..BertAdamConfig::default()
        };
        let state = BertAdamState {
            m: vector(0.1, 1e-3),
            v: vector(0.2, 1e-3).square(),
            count: 3,
        };
        let (parameter, gradient) = (vector(0.3, 0.1), vector(0.4, 1.0));
        let scaled = gradient.clone() * 0.25;
        let (expected, after) =
            bert_adam_update(&config, 0.5, 0.01, parameter.clone(), scaled, state.clone());
        let (found, ours) = clipped_update(&config, (0.5, 0.01), 0.25, parameter, gradient, state);
        let apart = |a: Tensor<1>, b: Tensor<1>| (a - b).abs().max().into_scalar::<f32>();
        assert_eq!(ours.count, after.count);
        assert!(apart(ours.m, after.m) < 5e-9);
        assert!(apart(ours.v, after.v) < 2e-12);
        assert!(apart(found, expected) < 1e-8);
    }

    #[test]
    fn a_rate_factor_of_zero_freezes() {
        let (layer, names) = layer();
        let config = BertAdamConfig {
            rate_factors: BTreeMap::from([("dense.".to_owned(), 0.0)]),
            ..BertAdamConfig::default()
        };
        let mut optimizer = BertAdam::new(config, names).unwrap();
        let mut gradient = ParamVector::zero();
        gradient.insert(layer.weight.id, layer.weight.val().ones_like());
        let stepped = optimizer.step(layer.clone(), gradient, 2.0);
        stepped
            .weight
            .val()
            .into_data()
            .assert_eq(&layer.weight.val().into_data(), true);
    }

    #[test]
    fn a_stored_state_goes_on_to_the_bit() {
        let (mut layer, names) = layer();
        let parameters = NamedParameters::of(&layer, names.clone());
        let config = BertAdamConfig {
            t_warmup: 7,
            ..BertAdamConfig::default()
        };
        let mut first = BertAdam::new(config.clone(), names.clone()).unwrap();
        let step = |optimizer: &mut BertAdam, layer: Linear| {
            let gradient = ParamVector::from_parameters(&layer).map(|x| x.clone().cos());
            let norm = gradient.norm();
            optimizer.step(layer, gradient, norm)
        };
        for _ in 0..3 {
            layer = step(&mut first, layer);
        }
        let mut saved = SavedTensors::in_memory(first.state_dict(&parameters));
        let mut second = BertAdam::new(config, names).unwrap();
        second.load_state_dict(&parameters, &mut saved).unwrap();
        saved.require_used_up().unwrap();
        assert_eq!(first.next_multiplier(), second.next_multiplier());
        let ours = step(&mut second, layer.clone());
        let theirs = step(&mut first, layer);
        ours.weight
            .val()
            .into_data()
            .assert_eq(&theirs.weight.val().into_data(), true);
    }

    #[test]
    fn a_state_without_a_moment_is_refused() {
        let (layer, names) = layer();
        let parameters = NamedParameters::of(&layer, names.clone());
        let mut optimizer = BertAdam::new(BertAdamConfig::default(), names).unwrap();
        let count = TensorData::new(vec![3_i64], [1]);
        let dict = StateDict::from([("inner.count.dense.bias".to_owned(), count)]);
        let error = optimizer
            .load_state_dict(&parameters, &mut SavedTensors::in_memory(dict))
            .unwrap_err()
            .to_string();
        assert!(error.contains("inner.m.dense.bias"), "{error}");
    }

    #[test]
    fn a_negative_learning_rate_is_refused() {
        let config = BertAdamConfig {
            learning_rate: -1.0,
            ..BertAdamConfig::default()
        };
        assert!(BertAdam::new(config, Vec::new()).is_err());
    }
}
