//! A start of the loss transformer that behaves like the plain sum.

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::combiner::{LossCombiner, sensitivities};
use crate::dual::Dual;
use crate::error::ConfigError;
use crate::loss_transformer::LossTransformer;
use crate::pass::Pass;

/// How the fit is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmStartConfig {
    /// Steps of Adam, at least 1.
    pub steps: usize,
    /// Loss vectors per step, at least 1.
    pub batch_size: usize,
    /// Largest learning rate; it falls to 0 along half a cosine.
    pub learning_rate: f64,
    /// The fit covers `[low * l_t, high * l_t]` for each loss, where `l_t` is its value at the
    /// start; `low` in `[0, high)`.
    pub low: f64,
    /// See [`low`](Self::low).
    pub high: f64,
}

impl Default for WarmStartConfig {
    fn default() -> Self {
        Self {
            steps: 300,
            batch_size: 32,
            learning_rate: 1e-3,
            low: 0.3,
            high: 1.2,
        }
    }
}

/// How well the fitted transformer reproduces the sum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WarmStartReport {
    /// Sensitivities `dg/dl_t` at the reference losses, `[T]`; 1 is the target.
    pub sensitivities: Vec<f64>,
    /// Root mean square of `dg/dl_t - 1` over tasks and loss vectors, over the last tenth of the
    /// steps.
    pub slope_error: f64,
}

/// Fits a loss transformer to equal, positive sensitivities: `dg/dl_t = 1` for all `t` over the
/// box `[low * l_t, high * l_t]`.
///
/// A randomly initialized loss transformer has sensitivities of both signs, and a negative one
/// drives its loss up. After this fit training starts out as with the plain sum, and the outer
/// steps depart from there. Only slopes are fitted, since only they reach the backbone: the mean
/// square of `sum_t c_t (dg/dl_t - 1)` over random signs `c_t = ±1` is the sum over `t` of
/// `(dg/dl_t - 1)²`, and takes one forward pass on duals.
///
/// Costs `steps` forward and backward passes of the transformer on `batch_size` rows.
///
/// # Errors
///
/// [`ConfigError`] if a setting is out of range.
///
/// # Panics
///
/// Panics if `reference` is not of length `T`.
pub fn fit_to_sum(
    transformer: LossTransformer,
    reference: &[f64],
    config: &WarmStartConfig,
    seed: u64,
    device: &Device,
) -> Result<(LossTransformer, WarmStartReport), ConfigError> {
    ConfigError::require_nonzero("steps", config.steps)?;
    ConfigError::require_nonzero("batch_size", config.batch_size)?;
    if !(config.learning_rate.is_finite() && config.learning_rate > 0.0) {
        return Err(ConfigError::OutOfRange {
            key: "learning_rate",
            value: config.learning_rate,
            range: "(0, inf)",
        });
    }
    if !(config.high.is_finite() && (0.0..config.high).contains(&config.low)) {
        return Err(ConfigError::OutOfRange {
            key: "low",
            value: config.low,
            range: "[0, `high`)",
        });
    }
    let n_tasks = transformer.n_tasks();
    assert_eq!(reference.len(), n_tasks, "one reference loss per task");
    let training = device.clone().autodiff();
    let mut transformer = transformer.train();
    let mut optimizer = AdamConfig::new().with_epsilon(1e-8).init();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let tail = config.steps - config.steps.div_ceil(10);
    let mut tail_errors = Vec::new();

    for step in 0..config.steps {
        let rows = config.batch_size;
        let mut losses = Vec::with_capacity(rows * n_tasks);
        let mut directions = Vec::with_capacity(rows * n_tasks);
        let mut targets = Vec::with_capacity(rows);
        for _ in 0..rows {
            losses.extend(
                reference
                    .iter()
                    .map(|loss| (loss * rng.random_range(config.low..config.high)) as f32),
            );
            let signs: Vec<f32> = (0..n_tasks)
                .map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 })
                .collect();
            targets.push(signs.iter().sum::<f32>());
            directions.extend(signs);
        }
        let matrix = |values: Vec<f32>| {
            Tensor::<2>::from_data(TensorData::new(values, [rows, n_tasks]), &training)
        };
        let dual = Dual::new(matrix(losses), matrix(directions));
        let Some(tangent) = transformer.forward(dual, Pass::Evaluation).tangent else {
            break;
        };
        let target = Tensor::<1>::from_data(TensorData::new(targets, [rows]), &training);
        let error = (tangent - target).square().mean();
        if step >= tail {
            tail_errors.push(error.clone().into_scalar::<f64>() / n_tasks as f64);
        }
        let gradients = GradientsParams::from_grads(error.backward(), &transformer);
        let progress = step as f64 / config.steps as f64;
        let learning_rate =
            config.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        transformer = optimizer.step(learning_rate, transformer, gradients);
    }

    let point: Vec<f32> = reference.iter().map(|loss| *loss as f32).collect();
    let report = WarmStartReport {
        sensitivities: sensitivities(
            &transformer.valid(),
            Tensor::from_data(TensorData::new(point, [n_tasks]), device),
        ),
        slope_error: (tail_errors.iter().sum::<f64>() / tail_errors.len().max(1) as f64).sqrt(),
    };
    Ok((transformer, report))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss_transformer::LossTransformerConfig;

    #[test]
    fn after_the_fit_all_sensitivities_are_positive_and_alike() {
        let device = Device::default();
        let transformer = LossTransformerConfig::new(4, 32, 64, 64)
            .init(7, &device)
            .unwrap();
        let reference = [0.3, 3.5, 7.0, 2.0];
        let (_, report) = fit_to_sum(
            transformer,
            &reference,
            &WarmStartConfig::default(),
            1,
            &device,
        )
        .unwrap();
        for sensitivity in &report.sensitivities {
            assert!((0.6..1.4).contains(sensitivity), "{report:?}");
        }
    }

    #[test]
    fn a_learning_rate_of_zero_is_refused() {
        let device = Device::default();
        let transformer = LossTransformerConfig::all_in_one()
            .init(0, &device)
            .unwrap();
        let config = WarmStartConfig {
            learning_rate: 0.0,
            ..WarmStartConfig::default()
        };
        assert!(fit_to_sum(transformer, &[1.0, 1.0], &config, 0, &device).is_err());
    }
}
