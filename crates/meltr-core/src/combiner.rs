//! The trait of all loss combinations, and the two that learn nothing.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::auto_lambda::AutoLambda;
use crate::auxiliary_linear::AuxiliaryLinear;
use crate::auxiliary_network::AuxiliaryNetwork;
use crate::dual::Dual;
use crate::error::ConfigError;
use crate::loss_transformer::LossTransformer;
use crate::pass::Pass;
use crate::state_dict::vec_f64;
use crate::weight_transformer::WeightTransformer;

/// A map `g: R^T -> R` from task losses to the loss that is minimized.
///
/// Written on [`Dual`]s, so that one implementation serves the inner step (value only) and the
/// hypergradient (value and tangent), and on rows, so that response curves cost one call.
pub trait LossCombiner {
    /// Number of task losses `T`.
    fn n_tasks(&self) -> usize;

    /// Combines each row of losses.
    ///
    /// # Shapes
    ///
    /// - losses: `[N, T]`
    /// - output: `[N]`
    ///
    /// # Panics
    ///
    /// Panics if the rows are not of length `T`.
    fn forward(&self, losses: Dual<2>, pass: Pass) -> Dual<1>;
}

/// The combined loss of one vector of task losses, without dropout.
///
/// # Shapes
///
/// - losses: `[T]`
/// - output: `[1]`
#[must_use]
pub fn combine(combiner: &impl LossCombiner, losses: Tensor<1>) -> Tensor<1> {
    combiner
        .forward(Dual::constant(losses.unsqueeze()), Pass::Evaluation)
        .value
}

/// `sum_t c_t dg/dl_t`, exactly, as a tensor that can be differentiated by the parameters of `g`.
///
/// # Shapes
///
/// - losses, direction: `[T]`
/// - output: `[1]`
#[must_use]
pub fn directional_derivative(
    combiner: &impl LossCombiner,
    losses: Tensor<1>,
    direction: Tensor<1>,
) -> Tensor<1> {
    let (device, dtype) = (losses.device(), losses.dtype());
    let dual = Dual::new(losses.unsqueeze(), direction.unsqueeze());
    match combiner.forward(dual, Pass::Evaluation).tangent {
        Some(tangent) => tangent,
        None => Tensor::zeros([1], (&device, dtype)),
    }
}

/// The sensitivities `dg/dl_t` at `losses`, `T` numbers from one batched pass of the combiner.
///
/// # Shapes
///
/// - losses: `[T]`
#[must_use]
pub fn sensitivities(combiner: &impl LossCombiner, losses: Tensor<1>) -> Vec<f64> {
    let n_tasks = combiner.n_tasks();
    let device = losses.device();
    let units = Tensor::<2>::eye(n_tasks, &device).cast(losses.dtype());
    let rows = losses.unsqueeze::<2>().repeat_dim(0, n_tasks);
    let output = combiner.forward(Dual::new(rows, units), Pass::Evaluation);
    output.tangent.map_or_else(
        || vec![0.0; n_tasks],
        |tangent| vec_f64(tangent.into_data()),
    )
}

/// Only the primary loss: single-task fine-tuning.
#[derive(Module, Debug)]
pub struct PrimaryOnly {
    primary: usize,
    n_tasks: usize,
}

impl PrimaryOnly {
    /// Takes loss number `primary`, counted from 0, out of `n_tasks`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoSuchTask`] if there are not that many tasks.
    pub fn new(primary: usize, n_tasks: usize) -> Result<Self, ConfigError> {
        if primary < n_tasks {
            Ok(Self { primary, n_tasks })
        } else {
            Err(ConfigError::NoSuchTask {
                key: "primary",
                index: primary,
                n_tasks,
            })
        }
    }
}

impl LossCombiner for PrimaryOnly {
    fn n_tasks(&self) -> usize {
        self.n_tasks
    }

    fn forward(&self, losses: Dual<2>, _pass: Pass) -> Dual<1> {
        let [n_rows, _] = losses.value.dims();
        losses.map_linear(|x| x.narrow(1, self.primary, 1).reshape([n_rows]))
    }
}

/// The sum of all losses, each with weight 1: multi-task fine-tuning.
#[derive(Module, Debug)]
pub struct PlainSum {
    n_tasks: usize,
}

impl PlainSum {
    /// Sums `n_tasks` losses.
    #[must_use]
    pub fn new(n_tasks: usize) -> Self {
        Self { n_tasks }
    }
}

impl LossCombiner for PlainSum {
    fn n_tasks(&self) -> usize {
        self.n_tasks
    }

    fn forward(&self, losses: Dual<2>, _pass: Pass) -> Dual<1> {
        let [n_rows, _] = losses.value.dims();
        losses.map_linear(|x| x.sum_dim(1).reshape([n_rows]))
    }
}

/// Any of the combiners, chosen at run time.
#[derive(Module, Debug)]
pub enum Combiner {
    /// See [`PrimaryOnly`].
    Primary(PrimaryOnly),
    /// See [`PlainSum`].
    Sum(PlainSum),
    /// See [`LossTransformer`].
    Transformer(LossTransformer),
    /// See [`WeightTransformer`].
    Weights(WeightTransformer),
    /// See [`AuxiliaryLinear`].
    AuxiliaryLinear(AuxiliaryLinear),
    /// See [`AuxiliaryNetwork`].
    AuxiliaryNetwork(AuxiliaryNetwork),
    /// See [`AutoLambda`].
    AutoLambda(AutoLambda),
}

impl Combiner {
    /// Whether the combiner has parameters that an outer step learns.
    #[must_use]
    pub fn is_learned(&self) -> bool {
        !matches!(self, Self::Primary(_) | Self::Sum(_))
    }

    /// The combiner with its parameters cut to what the method admits, as it has to be after each
    /// outer step: negative weights of [`AutoLambda`] become 0, the others stay as they are.
    #[must_use]
    pub fn projected(self) -> Self {
        match self {
            Self::AutoLambda(combiner) => Self::AutoLambda(combiner.clamped()),
            admissible => admissible,
        }
    }
}

impl LossCombiner for Combiner {
    fn n_tasks(&self) -> usize {
        match self {
            Self::Primary(combiner) => combiner.n_tasks(),
            Self::Sum(combiner) => combiner.n_tasks(),
            Self::Transformer(combiner) => combiner.n_tasks(),
            Self::Weights(combiner) => combiner.n_tasks(),
            Self::AuxiliaryLinear(combiner) => combiner.n_tasks(),
            Self::AuxiliaryNetwork(combiner) => combiner.n_tasks(),
            Self::AutoLambda(combiner) => combiner.n_tasks(),
        }
    }

    fn forward(&self, losses: Dual<2>, pass: Pass) -> Dual<1> {
        match self {
            Self::Primary(combiner) => combiner.forward(losses, pass),
            Self::Sum(combiner) => combiner.forward(losses, pass),
            Self::Transformer(combiner) => combiner.forward(losses, pass),
            Self::Weights(combiner) => combiner.forward(losses, pass),
            Self::AuxiliaryLinear(combiner) => combiner.forward(losses, pass),
            Self::AuxiliaryNetwork(combiner) => combiner.forward(losses, pass),
            Self::AutoLambda(combiner) => combiner.forward(losses, pass),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn primary_only_has_one_sensitivity() {
        let combiner = PrimaryOnly::new(1, 3).unwrap();
        let losses = Tensor::<1>::from_floats([5.0, 2.0, 7.0], &Device::default());
        assert_eq!(
            sensitivities(&combiner, losses.clone()),
            vec![0.0, 1.0, 0.0]
        );
        let combined: f32 = combine(&combiner, losses).into_scalar();
        assert_eq!(combined, 2.0);
    }

    #[test]
    fn the_sum_weighs_all_alike() {
        let combiner = PlainSum::new(3);
        let losses = Tensor::<1>::from_floats([5.0, 2.0, 7.0], &Device::default());
        let combined: f32 = combine(&combiner, losses.clone()).into_scalar();
        assert_eq!(combined, 14.0);
        let direction = Tensor::from_floats([1.0, -1.0, 0.5], &Device::default());
        let along: f32 = directional_derivative(&combiner, losses, direction).into_scalar();
        assert_eq!(along, 0.5);
    }

    #[test]
    fn a_primary_task_that_does_not_exist_is_refused() {
        let error = PrimaryOnly::new(3, 3).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`primary` is 3, but there are 3 tasks; count from 0"
        );
    }
}
