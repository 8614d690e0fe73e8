//! A weighted sum whose auxiliary weights are learned and positive.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::tensor::activation::softplus;
use burn::tensor::{Device, Tensor, TensorData};

use crate::combiner::LossCombiner;
use crate::dual::Dual;
use crate::error::ConfigError;
use crate::pass::Pass;

/// Settings of an [`AuxiliaryLinear`].
#[derive(Config, Debug, PartialEq)]
pub struct AuxiliaryLinearConfig {
    /// Number of task losses `T`, at least 1.
    pub n_tasks: usize,
    /// Position of the primary loss, below `n_tasks`.
    pub primary: usize,
    /// Weight of every auxiliary loss at the start, positive.
    #[config(default = 1.0)]
    pub initial_weight: f64,
}

impl AuxiliaryLinearConfig {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::require_nonzero("n_tasks", self.n_tasks)?;
        require_primary(self.primary, self.n_tasks)?;
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
    pub fn init(&self, device: &Device) -> Result<AuxiliaryLinear, ConfigError> {
        self.validate()?;
        let raw = vec![inverse_softplus(self.initial_weight) as f32; self.n_tasks];
        let raw = TensorData::new(raw, [self.n_tasks]);
        Ok(AuxiliaryLinear {
            raw_weights: Param::from_tensor(Tensor::from_data(raw, device)),
            primary: self.primary,
            n_tasks: self.n_tasks,
        })
    }
}

/// The linear combination of AuxiLearn: `g(l) = l_p + sum_{t != p} softplus(a_t) l_t`.
///
/// `p` is the primary loss, whose weight is fixed at 1, and `a_t` is entry `t` of `raw_weights`
/// (the entry of `p` itself is never used and receives a hypergradient of zero). All weights are
/// positive: a loss that hurts can be switched off, but its sign cannot be turned.
///
/// The released code learns an unconstrained weight for every loss, the primary one included,
/// under weight normalization; its monotone variant clips the weights at 0 after each outer step.
/// The softplus keeps them positive without a clip, and the fixed primary weight fixes the scale
/// that weight normalization would.
///
/// # References
///
/// - Navon et al., [Auxiliary Learning by Implicit
///   Differentiation](https://arxiv.org/abs/2007.02693), ICLR 2021.
/// - Reference code: `AvivNavon/AuxiLearn@79091f2`, `auxilearn/hypernet.py`.
#[derive(Module, Debug)]
pub struct AuxiliaryLinear {
    raw_weights: Param<Tensor<1>>,
    primary: usize,
    n_tasks: usize,
}

impl LossCombiner for AuxiliaryLinear {
    fn n_tasks(&self) -> usize {
        self.n_tasks
    }

    fn forward(&self, losses: Dual<2>, _pass: Pass) -> Dual<1> {
        let [n_rows, n_tasks] = losses.dims();
        assert_eq!(
            n_tasks, self.n_tasks,
            "linear combination of {} tasks",
            self.n_tasks
        );
        let raw = self.raw_weights.val();
        let chosen = indicator(self.primary, n_tasks, &raw);
        let others = chosen.clone().neg() + 1.0;
        let column = (softplus(raw, 1.0) * others + chosen).reshape([n_tasks, 1]);
        losses.map_linear(|x| x.matmul(column.clone()).reshape([n_rows]))
    }
}

/// `Err` unless `primary` is one of `n_tasks` tasks.
pub(crate) fn require_primary(primary: usize, n_tasks: usize) -> Result<(), ConfigError> {
    if primary < n_tasks {
        Ok(())
    } else {
        Err(ConfigError::NoSuchTask {
            key: "primary",
            index: primary,
            n_tasks,
        })
    }
}

/// The `x` with `softplus(x) = y`, for a positive `y`.
pub(crate) fn inverse_softplus(y: f64) -> f64 {
    // log(exp(y) - 1), without the overflow of a large y.
    y + (-(-y).exp()).ln_1p()
}

/// 1 at `index` and 0 elsewhere, `[n]`, on the device and in the dtype of `like`.
fn indicator(index: usize, n: usize, like: &Tensor<1>) -> Tensor<1> {
    let mut values = vec![0.0_f32; n];
    values[index] = 1.0;
    let data = TensorData::new(values, [n]).convert_dtype(like.dtype());
    Tensor::from_data(data, (&like.device(), like.dtype()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::combiner::{combine, directional_derivative, sensitivities};

    fn combiner(initial_weight: f64, device: &Device) -> AuxiliaryLinear {
        AuxiliaryLinearConfig::new(3, 1)
            .with_initial_weight(initial_weight)
            .init(device)
            .unwrap()
    }

    #[test]
    fn the_primary_loss_has_weight_one_and_the_others_the_initial_weight() {
        let device = Device::default();
        let losses = Tensor::<1>::from_floats([0.4, 2.0, 1.5], &device);
        let slopes = sensitivities(&combiner(0.3, &device), losses.clone());
        for (slope, expected) in slopes.iter().zip([0.3, 1.0, 0.3]) {
            assert!((slope - expected).abs() < 1e-6, "{slopes:?}");
        }
        let combined: f32 = combine(&combiner(0.3, &device), losses).into_scalar();
        assert!((combined - (2.0 + 0.3 * 1.9)).abs() < 1e-5);
    }

    #[test]
    fn the_mixed_derivative_is_the_direction_times_the_slope_of_the_softplus() {
        let device = Device::default().autodiff();
        let combiner = combiner(1.0, &device);
        let losses = Tensor::<1>::from_floats([0.4, 2.0, 1.5], &device);
        let direction = Tensor::<1>::from_floats([0.5, -1.0, 2.0], &device);
        let gradients = directional_derivative(&combiner, losses, direction).backward();
        let found: Vec<f32> = combiner
            .raw_weights
            .val()
            .grad(&gradients)
            .unwrap()
            .into_data()
            .try_to_vec()
            .unwrap();
        // d softplus / dx = 1 - exp(-softplus).
        let slope = 1.0 - (-1.0_f32).exp();
        for (found, expected) in found.iter().zip([0.5 * slope, 0.0, 2.0 * slope]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn the_inverse_of_the_softplus_is_one_for_small_and_large_values() {
        for y in [1e-6, 0.1, 1.0, 30.0, 1e4] {
            let x = inverse_softplus(y);
            let back = x.max(0.0) + (-x.abs()).exp().ln_1p();
            assert!((back - y).abs() < 1e-9 * y.max(1.0), "{y}: {back}");
        }
    }

    #[test]
    fn an_initial_weight_of_zero_is_refused() {
        let device = Device::default();
        let zero = AuxiliaryLinearConfig::new(3, 1).with_initial_weight(0.0);
        assert!(matches!(
            zero.init(&device),
            Err(ConfigError::OutOfRange {
                key: "initial_weight",
                ..
            })
        ));
        assert!(AuxiliaryLinearConfig::new(3, 3).init(&device).is_err());
    }
}
