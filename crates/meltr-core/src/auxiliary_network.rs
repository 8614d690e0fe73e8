//! The primary loss plus a small monotone network of all losses.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::tensor::activation::{sigmoid, softplus};
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::auxiliary_linear::{inverse_softplus, require_primary};
use crate::combiner::LossCombiner;
use crate::dual::Dual;
use crate::error::ConfigError;
use crate::pass::Pass;

/// Settings of an [`AuxiliaryNetwork`].
#[derive(Config, Debug, PartialEq)]
pub struct AuxiliaryNetworkConfig {
    /// Number of task losses `T`, at least 1.
    pub n_tasks: usize,
    /// Position of the primary loss, below `n_tasks`.
    pub primary: usize,
    /// Hidden units `H`, at least 1.
    #[config(default = 8)]
    pub d_hidden: usize,
}

impl AuxiliaryNetworkConfig {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::require_nonzero("n_tasks", self.n_tasks)?;
        ConfigError::require_nonzero("d_hidden", self.d_hidden)?;
        require_primary(self.primary, self.n_tasks)
    }

    /// Builds the network. Its hidden weights start uniform in `[0.5 / T, 1.5 / T)`, its output
    /// weights at `T / H`, its biases at 0: then every loss starts with a slope between 1/4 and
    /// 3/2 from the network, whatever `T` and `H` are.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that cannot be built.
    pub fn init(&self, seed: u64, device: &Device) -> Result<AuxiliaryNetwork, ConfigError> {
        self.validate()?;
        let (n_tasks, d_hidden) = (self.n_tasks, self.d_hidden);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let hidden: Vec<f32> = (0..n_tasks * d_hidden)
            .map(|_| {
                let weight: f64 = rng.random_range(0.5..1.5) / n_tasks as f64;
                inverse_softplus(weight) as f32
            })
            .collect();
        let output = inverse_softplus(n_tasks as f64 / d_hidden as f64) as f32;
        let matrix = |values: Vec<f32>, shape: [usize; 2]| {
            Param::from_tensor(Tensor::<2>::from_data(
                TensorData::new(values, shape),
                device,
            ))
        };
        Ok(AuxiliaryNetwork {
            raw_hidden_weight: matrix(hidden, [n_tasks, d_hidden]),
            hidden_bias: Param::from_tensor(Tensor::zeros([d_hidden], device)),
            raw_output_weight: matrix(vec![output; d_hidden], [d_hidden, 1]),
            primary: self.primary,
            n_tasks,
        })
    }
}

/// The non-linear combination of AuxiLearn, in its monotone form:
///
/// ```text
/// g(l) = l_p + v · softplus(W l + b),      W = softplus(A) >= 0,  v = softplus(a) >= 0
/// ```
///
/// `p` is the primary loss, `A` is `raw_hidden_weight`, `b` is `hidden_bias` and `a` is
/// `raw_output_weight`. All losses enter the network, the primary one too, as in the released
/// code; the term `l_p` in front bypasses it. No weight is negative, so that `g` grows with every
/// loss and `dg/dl_p >= 1`.
///
/// The released code clips the weights at 0 after each outer step, starts them uniform in
/// `[0, 1)`, has weight normalization and optionally dropout, and takes losses by item before it
/// averages. Here a softplus keeps the weights positive without a clip and without weight
/// normalization, the start makes slopes alike, there is one hidden layer, and a loss is the mean
/// over the batch.
///
/// # References
///
/// - Navon et al., [Auxiliary Learning by Implicit
///   Differentiation](https://arxiv.org/abs/2007.02693), ICLR 2021.
/// - Reference code: `AvivNavon/AuxiLearn@79091f2`, `auxilearn/hypernet.py`,
///   `MonoNonlinearHyperNet`.
#[derive(Module, Debug)]
pub struct AuxiliaryNetwork {
    /// `[T, H]`.
    raw_hidden_weight: Param<Tensor<2>>,
    /// `[H]`.
    hidden_bias: Param<Tensor<1>>,
    /// `[H, 1]`.
    raw_output_weight: Param<Tensor<2>>,
    primary: usize,
    n_tasks: usize,
}

impl LossCombiner for AuxiliaryNetwork {
    fn n_tasks(&self) -> usize {
        self.n_tasks
    }

    fn forward(&self, losses: Dual<2>, _pass: Pass) -> Dual<1> {
        let [n_rows, n_tasks] = losses.dims();
        assert_eq!(n_tasks, self.n_tasks, "network of {} tasks", self.n_tasks);
        let primary = losses
            .clone()
            .map_linear(|x| x.narrow(1, self.primary, 1).reshape([n_rows]));
        let hidden_weight = softplus(self.raw_hidden_weight.val(), 1.0);
        let output_weight = softplus(self.raw_output_weight.val(), 1.0);
        let from_network = losses
            .affine(
                Dual::constant(hidden_weight),
                Some(Dual::constant(self.hidden_bias.val())),
            )
            .map_elementwise(|x| softplus(x, 1.0), |x, _| sigmoid(x))
            .affine(Dual::constant(output_weight), None)
            .map_linear(|x| x.reshape([n_rows]));
        primary + from_network
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::combiner::{combine, directional_derivative, sensitivities};

    #[test]
    fn every_slope_is_positive_and_the_primary_one_at_least_one() {
        let device = Device::default();
        for seed in 0..5 {
            let combiner = AuxiliaryNetworkConfig::new(4, 2)
                .init(seed, &device)
                .unwrap();
            for losses in [[0.0, 0.0, 0.0, 0.0], [0.3, 2.5, 7.1, 1.2]] {
                let slopes = sensitivities(&combiner, Tensor::from_floats(losses, &device));
                let through: Vec<f64> = slopes
                    .iter()
                    .enumerate()
                    .map(|(t, slope)| if t == 2 { slope - 1.0 } else { *slope })
                    .collect();
                assert!(
                    through.iter().all(|slope| (0.25..1.5).contains(slope)),
                    "{slopes:?}"
                );
            }
        }
    }

    #[test]
    fn the_tangent_matches_a_difference_quotient() {
        let device = Device::default();
        let combiner = AuxiliaryNetworkConfig::new(3, 0)
            .with_d_hidden(5)
            .init(4, &device)
            .unwrap();
        let losses = Tensor::<1>::from_floats([0.4, 1.9, 0.8], &device);
        let direction = Tensor::<1>::from_floats([0.5, -1.0, 0.3], &device);
        let tangent: f32 =
            directional_derivative(&combiner, losses.clone(), direction.clone()).into_scalar();
        let step = 1e-2;
        let plus: f32 = combine(&combiner, losses.clone() + direction.clone() * step).into_scalar();
        let minus: f32 = combine(&combiner, losses - direction * step).into_scalar();
        let difference = (plus - minus) / (2.0 * step as f32);
        assert!((tangent - difference).abs() < 1e-3);
    }

    #[test]
    fn no_hidden_units_are_refused() {
        let error = AuxiliaryNetworkConfig::new(3, 0)
            .with_d_hidden(0)
            .init(0, &Device::default());
        assert!(matches!(error, Err(ConfigError::Zero { key: "d_hidden" })));
    }
}
