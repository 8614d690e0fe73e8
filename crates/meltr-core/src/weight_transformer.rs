//! The loss transformer as a giver of weights: positive ones, whose sum is fixed.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::combiner::LossCombiner;
use crate::dual::Dual;
use crate::error::ConfigError;
use crate::loss_transformer::{LossTransformer, LossTransformerConfig};
use crate::pass::Pass;
use crate::state_dict::{LoadReport, StateDict, load_state_dict, state_dict};

/// Losses below this count as this where a logarithm is taken.
const SMALLEST_LOSS: f32 = 1e-6;

/// What a [`WeightTransformer`] reads of a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossInput {
    /// The logarithm of the loss over its value at the start of the run.
    #[default]
    Relative,
    /// The logarithm of the loss.
    Log,
    /// The loss.
    Raw,
    /// Nothing: the weights are `T` numbers that do not depend on the losses.
    Nothing,
}

/// Sizes of a [`WeightTransformer`].
#[derive(Config, Debug, PartialEq)]
pub struct WeightTransformerConfig {
    /// Sizes of the transformer.
    pub transformer: LossTransformerConfig,
    /// Number of the primary loss, from 0.
    pub primary: usize,
    /// Weight of an auxiliary loss at the start relative to that of the primary one, above 0; 1 is
    /// the plain sum.
    #[config(default = 0.1)]
    pub auxiliary_weight: f64,
    /// What it reads of a loss.
    #[config(default = "LossInput::Relative")]
    pub input: LossInput,
    /// Least weight of a loss, in `[0, 1)`; 1 would be the plain sum.
    #[config(default = 0.0)]
    pub floor: f64,
}

impl WeightTransformerConfig {
    /// Checks every size.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.transformer.validate()?;
        let n_tasks = self.transformer.n_tasks;
        if self.primary >= n_tasks {
            return Err(ConfigError::NoSuchTask {
                key: "primary",
                index: self.primary,
                n_tasks,
            });
        }
        if !(self.auxiliary_weight.is_finite() && self.auxiliary_weight > 0.0) {
            return Err(ConfigError::OutOfRange {
                key: "auxiliary_weight",
                value: self.auxiliary_weight,
                range: "(0, inf)",
            });
        }
        ConfigError::require_probability("floor", self.floor)
    }

    /// Builds the combiner; its weights start in proportion to
    /// `auxiliary_weight`. `reference` are the losses at the start of
    /// the run, `[T]`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    ///
    /// # Panics
    ///
    /// Panics if there are not `T` reference losses.
    pub fn init(
        &self,
        reference: &[f64],
        seed: u64,
        device: &Device,
    ) -> Result<WeightTransformer, ConfigError> {
        self.validate()?;
        let n_tasks = self.transformer.n_tasks;
        assert_eq!(reference.len(), n_tasks, "one reference loss per task");
        let constant = |values: Vec<f32>| {
            let values = Tensor::<1>::from_floats(values.as_slice(), device);
            Param::from_tensor(values).set_require_grad(false)
        };
        let log_reference = reference
            .iter()
            .map(|loss| (*loss as f32).max(SMALLEST_LOSS).ln())
            .collect();
        let log_auxiliary = self.auxiliary_weight.ln() as f32;
        let log_prior = (0..n_tasks)
            .map(|task| {
                if task == self.primary {
                    0.0
                } else {
                    log_auxiliary
                }
            })
            .collect();
        Ok(WeightTransformer {
            transformer: self.transformer.init(seed, device)?.with_a_head_of_zeros(),
            log_reference: constant(log_reference),
            log_prior: constant(log_prior),
            input: self.input,
            floor: self.floor,
        })
    }
}

/// A weighted sum of the losses, the weights by a transformer over them:
///
/// ```text
/// x_t = log(l_t / l_t at the start)
/// a_t = fc1 · Y_t / sqrt(D)            Y: the tokens that the encoder of the loss transformer
///                                         makes of x, of width D
/// w_t = floor + (1 - floor) T p_t exp(a_t) / sum_s p_s exp(a_s)
/// g   = sum_t w_t l_t                  the w_t taken as they are: not differentiated by l
/// ```
///
/// Every sensitivity `dg/dl_t = w_t` is positive, and they sum to `T`, so a loss is never driven
/// up, and the length of the step is left to the learning rate. `p_t` is 1 for the primary loss and
/// `auxiliary_weight` for the others. The head `fc1` starts at zero, and so the weights in
/// proportion to `p`.
///
/// Has the parameters of [`LossTransformer`], under the same names below `transformer.`, and the
/// logarithms of the losses at the start as `log_reference`, those of `p` as `log_prior`.
#[derive(Module, Debug)]
pub struct WeightTransformer {
    transformer: LossTransformer,
    /// `[T]`; not learned.
    log_reference: Param<Tensor<1>>,
    /// `[T]`; not learned.
    log_prior: Param<Tensor<1>>,
    #[module(skip)]
    input: LossInput,
    floor: f64,
}

impl WeightTransformer {
    /// The weights at each row of losses, which are taken as constants.
    ///
    /// # Shapes
    ///
    /// - losses: `[N, T]`
    /// - output: `[N, T]`, positive, each row sums to `T`
    ///
    /// # Panics
    ///
    /// Panics if the rows are not of length `T`.
    #[must_use]
    pub fn weights(&self, losses: Tensor<2>, pass: Pass) -> Tensor<2> {
        let [n_rows, n_tasks] = losses.dims();
        let losses = losses.detach();
        let log = |losses: Tensor<2>| losses.clamp_min(SMALLEST_LOSS).log();
        let input = match self.input {
            LossInput::Relative => {
                let reference = self.log_reference.val().detach().unsqueeze::<2>();
                log(losses) - reference.expand([n_rows, n_tasks])
            }
            LossInput::Log => log(losses),
            LossInput::Raw => losses,
            LossInput::Nothing => losses.zeros_like(),
        };
        // The tokens leave a layer normalization: their length grows with the root of the width.
        let length = (self.transformer.d_model() as f64).sqrt();
        let logits = self.transformer.token_values(Dual::constant(input), pass);
        let prior = self.log_prior.val().detach().unsqueeze::<2>();
        let logits = logits.value / length + prior.expand([n_rows, n_tasks]);
        softmax(logits, 1) * ((1.0 - self.floor) * n_tasks as f64) + self.floor
    }

    /// The attention of the encoder at one vector of losses; see [`LossTransformer::attention`].
    #[must_use]
    pub fn attention(&self, losses: Tensor<1>) -> Tensor<3> {
        self.transformer.attention(losses)
    }

    /// The parameters by name.
    #[must_use]
    pub fn state_dict(&self) -> StateDict {
        state_dict(self, str::to_owned)
    }

    /// Loads parameters by name.
    #[must_use]
    pub fn load_state_dict(self, dict: &StateDict) -> (Self, LoadReport) {
        load_state_dict(self, dict, str::to_owned)
    }
}

impl LossCombiner for WeightTransformer {
    fn n_tasks(&self) -> usize {
        self.transformer.n_tasks()
    }

    fn forward(&self, losses: Dual<2>, pass: Pass) -> Dual<1> {
        let [n_rows, _] = losses.value.dims();
        let weights = self.weights(losses.value.clone(), pass);
        losses.map_linear(|x| (x * weights.clone()).sum_dim(1).reshape([n_rows]))
    }
}

#[cfg(test)]
mod tests {
    use burn::optim::GradientsParams;

    use super::*;
    use crate::combiner::{combine, directional_derivative, sensitivities};

    const LOSSES: [f64; 3] = [0.5, 4.0, 9.0];

    fn combiner(input: LossInput, floor: f64) -> WeightTransformer {
        WeightTransformerConfig::new(LossTransformerConfig::new(3, 16, 32, 32), 0)
            .with_auxiliary_weight(1.0)
            .with_input(input)
            .with_floor(floor)
            .init(&LOSSES, 3, &Device::default())
            .unwrap()
    }

    /// The combiner after a step of its head.
    fn moved(input: LossInput, floor: f64) -> WeightTransformer {
        let mut combiner = combiner(input, floor);
        combiner.transformer = combiner
            .transformer
            .with_a_head_of(|place| (place as f32).sin());
        combiner
    }

    fn losses(values: [f64; 3]) -> Tensor<1> {
        Tensor::from_floats(values.map(|value| value as f32), &Device::default())
    }

    #[test]
    fn with_equal_weights_it_starts_as_the_plain_sum() {
        let combiner = combiner(LossInput::Relative, 0.0);
        let combined: f32 = combine(&combiner, losses(LOSSES)).into_scalar();
        assert!((combined - 13.5).abs() < 1e-5, "{combined}");
        for sensitivity in sensitivities(&combiner, losses(LOSSES)) {
            assert!((sensitivity - 1.0).abs() < 1e-6, "{sensitivity}");
        }
    }

    #[test]
    fn it_starts_in_proportion_to_the_auxiliary_weight() {
        let sizes = LossTransformerConfig::new(3, 16, 32, 32);
        let combiner = WeightTransformerConfig::new(sizes, 1)
            .init(&LOSSES, 3, &Device::default())
            .unwrap();
        let weights = sensitivities(&combiner, losses(LOSSES));
        for (weight, expected) in weights.iter().zip([0.25, 2.5, 0.25]) {
            assert!((weight - expected).abs() < 1e-6, "{weights:?}");
        }
    }

    #[test]
    fn weights_are_positive_sum_to_their_number_and_keep_the_floor() {
        for floor in [0.0, 0.3] {
            let weights =
                sensitivities(&moved(LossInput::Relative, floor), losses([0.1, 7.0, 2.0]));
            assert!(
                (weights.iter().sum::<f64>() - 3.0).abs() < 1e-5,
                "{weights:?}"
            );
            assert!(weights.iter().all(|weight| *weight > floor), "{weights:?}");
            let spread = weights.iter().any(|weight| (weight - 1.0).abs() > 0.05);
            assert!(spread, "{weights:?}");
        }
    }

    #[test]
    fn the_inner_gradient_is_the_weights_and_nothing_else() {
        let device = Device::default().autodiff();
        let combiner = moved(LossInput::Relative, 0.0);
        let weights = sensitivities(&combiner, losses([0.1, 7.0, 2.0]));
        let taped = Tensor::<1>::from_floats([0.1, 7.0, 2.0], &device).require_grad();
        let gradients = combine(&combiner.train().no_grad(), taped.clone()).backward();
        let gradient = taped.grad(&gradients).unwrap().into_data();
        for (gradient, weight) in gradient.iter::<f64>().zip(weights) {
            assert!((gradient - weight).abs() < 1e-6);
        }
    }

    #[test]
    fn relative_inputs_do_not_feel_the_unit_of_a_loss_and_no_input_feels_none() {
        let relative = moved(LossInput::Relative, 0.0);
        let at_start = sensitivities(&relative, losses(LOSSES));
        let mut in_other_units = relative;
        let factor = Tensor::<1>::from_floats([2.0_f32.ln(), 0.0, 0.0], &Device::default());
        in_other_units.log_reference = in_other_units.log_reference.map(|log| log + factor);
        let again = sensitivities(&in_other_units, losses([1.0, 4.0, 9.0]));
        for (one, other) in at_start.iter().zip(&again) {
            assert!((one - other).abs() < 1e-5, "{at_start:?} {again:?}");
        }
        let nothing = moved(LossInput::Nothing, 0.0);
        assert_eq!(
            sensitivities(&nothing, losses(LOSSES)),
            sensitivities(&nothing, losses([3.0, 0.2, 1.0]))
        );
    }

    #[test]
    fn the_head_gets_a_hypergradient_at_the_start_and_the_reference_never() {
        let combiner = combiner(LossInput::Relative, 0.0).train();
        let direction = losses([1.0, -2.0, 0.5]);
        let along = directional_derivative(&combiner, losses(LOSSES), direction);
        let gradients = GradientsParams::from_grads(along.backward(), &combiner);
        assert!(gradients.get::<1>(combiner.log_reference.id).is_none());
        assert!(!gradients.is_empty());
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let config =
            |primary| WeightTransformerConfig::new(LossTransformerConfig::all_in_one(), primary);
        for (config, key) in [
            (config(0).with_floor(1.0), "`floor`"),
            (config(0).with_auxiliary_weight(0.0), "`auxiliary_weight`"),
            (config(2), "`primary`"),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
