//! A weighted sum whose weights are learned and kept from falling below zero.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use crate::combiner::LossCombiner;
use crate::dual::Dual;
use crate::error::ConfigError;
use crate::pass::Pass;

/// Settings of an [`AutoLambda`].
#[derive(Config, Debug, PartialEq)]
pub struct AutoLambdaConfig {
    /// Number of task losses `T`, at least 1.
    pub n_tasks: usize,
    /// Weight of every loss at the start, positive.
    #[config(default = 0.1)]
    pub initial_weight: f64,
}

impl AutoLambdaConfig {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::require_nonzero("n_tasks", self.n_tasks)?;
        if !(self.initial_weight.is_finite() && self.initial_weight > 0.0) {
            return Err(ConfigError::OutOfRange {
                key: "initial_weight",
                value: self.initial_weight,
                range: "(0, inf)",
            });
        }
        Ok(())
    }

    /// Builds the combiner.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn init(&self, device: &Device) -> Result<AutoLambda, ConfigError> {
        self.validate()?;
        let weights = vec![self.initial_weight as f32; self.n_tasks];
        let weights = TensorData::new(weights, [self.n_tasks]);
        Ok(AutoLambda {
            weights: Param::from_tensor(Tensor::from_data(weights, device)),
            n_tasks: self.n_tasks,
        })
    }
}

/// The combination of Auto-Lambda: `g(l) = sum_t lambda_t l_t`, the primary loss weighted like the
/// others. `lambda` is the field `weights`.
///
/// The method is this combiner together with a hypergradient that looks one step ahead: with
/// `w' = w - alpha ∇g(l(w))` and `F` the primary loss on a batch of its own,
///
/// ```text
/// dF(w')/dlambda_t = -alpha <∇F(w'), ∇l_t(w)>
/// ```
///
/// and with [`clamped`](Self::clamped) after each outer step. `alpha` is the inner learning rate.
/// Neither of these is the combiner's to do: a training loop has to.
///
/// The released code leaves the weights unbounded, and takes the inner products by a central
/// difference of the losses.
///
/// # References
///
/// - Liu et al., [Auto-Lambda: Disentangling Dynamic Task
///   Relationships](https://arxiv.org/abs/2202.03091), TMLR 2022.
/// - Reference code: `lorenmt/auto-lambda@0fc8431`, `auto_lambda.py`.
#[derive(Module, Debug)]
pub struct AutoLambda {
    weights: Param<Tensor<1>>,
    n_tasks: usize,
}

impl AutoLambda {
    /// The same with every negative weight set to 0.
    ///
    /// The weights stay parameters under their ids, so that an optimizer keeps its state.
    #[must_use]
    pub fn clamped(self) -> Self {
        let (id, weights, mapper) = self.weights.consume();
        let requires_grad = weights.is_require_grad();
        let weights = weights.set_require_grad(false).clamp_min(0.0);
        Self {
            weights: Param::from_mapped_value(id, weights.set_require_grad(requires_grad), mapper),
            n_tasks: self.n_tasks,
        }
    }
}

impl LossCombiner for AutoLambda {
    fn n_tasks(&self) -> usize {
        self.n_tasks
    }

    fn forward(&self, losses: Dual<2>, _pass: Pass) -> Dual<1> {
        let [n_rows, n_tasks] = losses.dims();
        assert_eq!(
            n_tasks, self.n_tasks,
            "weighted sum of {} tasks",
            self.n_tasks
        );
        let column = self.weights.val().reshape([n_tasks, 1]);
        losses.map_linear(|x| x.matmul(column.clone()).reshape([n_rows]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::combiner::{directional_derivative, sensitivities};

    #[test]
    fn all_losses_start_with_the_initial_weight() {
        let device = Device::default();
        let combiner = AutoLambdaConfig::new(3).init(&device).unwrap();
        let slopes = sensitivities(&combiner, Tensor::from_floats([0.4, 2.0, 1.5], &device));
        assert!(
            slopes.iter().all(|slope| (slope - 0.1).abs() < 1e-7),
            "{slopes:?}"
        );
    }

    #[test]
    fn clamping_changes_negative_weights_alone_and_leaves_them_learnable() {
        let device = Device::default().autodiff();
        let mut combiner = AutoLambdaConfig::new(3).init(&device).unwrap();
        let id = combiner.weights.id;
        let weights = Tensor::<1>::from_floats([0.4, -0.2, 0.0], &device);
        combiner.weights = Param::initialized(id, weights.require_grad());
        let combiner = combiner.clamped();
        let values: Vec<f32> = combiner
            .weights
            .val()
            .inner()
            .into_data()
            .try_to_vec()
            .unwrap();
        assert_eq!(values, vec![0.4, 0.0, 0.0]);
        assert_eq!(combiner.weights.id, id);
        let direction = Tensor::<1>::from_floats([0.5, -1.0, 2.0], &device);
        let losses = direction.ones_like();
        let gradients = directional_derivative(&combiner, losses, direction).backward();
        let found: Vec<f32> = combiner
            .weights
            .val()
            .grad(&gradients)
            .unwrap()
            .into_data()
            .try_to_vec()
            .unwrap();
        assert_eq!(found, vec![0.5, -1.0, 2.0]);
    }

    #[test]
    fn an_initial_weight_of_zero_is_refused() {
        let zero = AutoLambdaConfig::new(3).with_initial_weight(0.0);
        assert!(zero.init(&Device::default()).is_err());
        assert!(AutoLambdaConfig::new(0).validate().is_err());
    }
}
