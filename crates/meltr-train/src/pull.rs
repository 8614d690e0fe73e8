//! What an inner step descends along.

use burn::tensor::{Tensor, TensorData};
use meltr_aid::ParamVector;
use meltr_core::weighting::{Gramian, WeightingError};
use meltr_core::{FineTuneTask, Pass, Workers, vec_f64};

use crate::named_parameters::NamedParameters;
use crate::precision::Precision;
use crate::shared::{sum_numbers, sum_vectors};

/// Values and gradient of the combined loss on one batch or, summed, on several.
pub(crate) struct Pull {
    /// Task losses, if all of them were taken.
    pub(crate) losses: Option<Vec<f64>>,
    pub(crate) combined_loss: f64,
    pub(crate) gradient: ParamVector,
}

impl Pull {
    /// Adds what all processes have found on their next batch to `total`.
    pub(crate) fn joined(
        total: Option<Self>,
        own: Self,
        workers: &dyn Workers,
        parameters: &NamedParameters,
    ) -> Self {
        let (numbers, gradient) = match total {
            None => (None, None),
            Some(total) => (Some(total.numbers()), Some(total.gradient)),
        };
        let numbers = sum_numbers(workers, numbers, &own.numbers());
        Self {
            losses: own.losses.map(|_| numbers[1..].to_vec()),
            combined_loss: numbers[0],
            gradient: sum_vectors(workers, parameters, gradient, own.gradient),
        }
    }

    /// The combined loss and the task losses.
    fn numbers(&self) -> Vec<f64> {
        let mut numbers = vec![self.combined_loss];
        numbers.extend(self.losses.iter().flatten());
        numbers
    }

    pub(crate) fn divided_by(self, n: usize) -> Self {
        if n == 1 {
            return self;
        }
        let share = 1.0 / n as f64;
        Self {
            losses: self.losses.map(|losses| scaled(&losses, share)),
            combined_loss: self.combined_loss * share,
            gradient: self.gradient.scale(share),
        }
    }
}

/// Every task loss with a gradient of its own, on one batch or, summed, on several.
pub(crate) struct TaskGradients {
    /// `[T]`.
    pub(crate) losses: Vec<f64>,
    /// `T` gradients over all parameters of the backbone.
    gradients: Vec<ParamVector>,
}

impl TaskGradients {
    /// Costs `T` forward and backward passes: a backward pass consumes its tape. All of them see
    /// the same dropout masks.
    pub(crate) fn of<T: FineTuneTask>(
        task: &T,
        model: &T::Model,
        batch: &T::Batch,
        pass: Pass,
    ) -> Self {
        let first = task.losses(model, batch, pass);
        let losses = vec_f64(first.clone().inner().into_data());
        let mut taped = Some(first);
        let gradients = (0..losses.len())
            .map(|number| {
                let all = taped
                    .take()
                    .unwrap_or_else(|| task.losses(model, batch, pass));
                let loss = all.narrow(0, number, 1);
                if loss.is_tracked() {
                    ParamVector::from_gradients(&mut loss.backward(), model)
                } else {
                    ParamVector::zero()
                }
            })
            .collect();
        Self { losses, gradients }
    }

    /// The gradients of a computing module as those of the module itself.
    pub(crate) fn of_precision(self, precision: Precision) -> Self {
        let gradients = self.gradients.into_iter();
        Self {
            gradients: gradients.map(|own| precision.gradient(own)).collect(),
            ..self
        }
    }

    /// Adds what all processes have found on their next batch to `total`.
    pub(crate) fn joined(
        total: Option<Self>,
        own: Self,
        workers: &dyn Workers,
        parameters: &NamedParameters,
    ) -> Self {
        let (losses, totals) = match total {
            None => (None, vec![None; own.gradients.len()]),
            Some(total) => {
                let totals = total.gradients.into_iter().map(Some);
                (Some(total.losses), totals.collect())
            }
        };
        Self {
            losses: sum_numbers(workers, losses, &own.losses),
            gradients: totals
                .into_iter()
                .zip(own.gradients)
                .map(|(total, own)| sum_vectors(workers, parameters, total, own))
                .collect(),
        }
    }

    pub(crate) fn divided_by(self, n: usize) -> Self {
        if n == 1 {
            return self;
        }
        let share = 1.0 / n as f64;
        Self {
            losses: scaled(&self.losses, share),
            gradients: self
                .gradients
                .into_iter()
                .map(|gradient| gradient.scale(share))
                .collect(),
        }
    }

    /// The inner products of all pairs.
    ///
    /// Taken in `f64` on the host: squares of small gradients underflow in `f32`, and what is left
    /// would be no Gramian.
    pub(crate) fn gramian(&self, parameters: &NamedParameters) -> Result<Gramian, WeightingError> {
        let n_tasks = self.gradients.len();
        let mut products = vec![0.0; n_tasks * n_tasks];
        for parameter in parameters.iter() {
            let parts: Vec<Option<Vec<f64>>> = self
                .gradients
                .iter()
                .map(|gradient| gradient.get(parameter.id, [parameter.count]))
                .map(|part| part.map(|part: Tensor<1>| vec_f64(part.into_data())))
                .collect();
            for (row, ours) in parts.iter().enumerate() {
                for (column, theirs) in parts.iter().enumerate().take(row + 1) {
                    if let (Some(ours), Some(theirs)) = (ours, theirs) {
                        let product: f64 = ours.iter().zip(theirs).map(|(a, b)| a * b).sum();
                        products[row * n_tasks + column] += product;
                    }
                }
            }
        }
        for row in 0..n_tasks {
            for column in 0..row {
                products[column * n_tasks + row] = products[row * n_tasks + column];
            }
        }
        Gramian::from_products(n_tasks, &products)
    }

    /// `sum_t w_t g_t`.
    pub(crate) fn weighted(&self, weights: &[f64]) -> ParamVector {
        self.gradients
            .iter()
            .zip(weights)
            .fold(ParamVector::zero(), |sum, (gradient, weight)| {
                sum.add_scaled(*weight, gradient)
            })
    }
}

/// `sum_t w_t l_t` on the tape of the losses, `[1]`, with the weights held fixed.
pub(crate) fn weighted_sum(losses: Tensor<1>, weights: &[f64]) -> Tensor<1> {
    let options = (&losses.device(), losses.dtype());
    let data = TensorData::new(weights.to_vec(), [weights.len()]).convert_dtype(losses.dtype());
    let weights = Tensor::<1>::from_data(data, options);
    (losses * weights).sum()
}

/// `sum_t w_t l_t` of numbers.
pub(crate) fn weighted_loss(losses: &[f64], weights: &[f64]) -> f64 {
    losses.iter().zip(weights).map(|(loss, w)| loss * w).sum()
}

/// The sum of two vectors of losses.
pub(crate) fn added(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter()
        .zip(theirs)
        .map(|(ours, theirs)| ours + theirs)
        .collect()
}

/// A vector of losses times a factor.
pub(crate) fn scaled(losses: &[f64], factor: f64) -> Vec<f64> {
    losses.iter().map(|loss| loss * factor).collect()
}

#[cfg(test)]
mod tests {
    use burn::nn::LinearConfig;
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn inner_products_of_tiny_gradients_do_not_underflow() {
        let layer = LinearConfig::new(2, 2).init(&Device::default().autodiff());
        let parameters = NamedParameters::of(&layer, Vec::new());
        let mut tiny = ParamVector::zero();
        tiny.insert(layer.weight.id, layer.weight.val().ones_like() * 1e-30);
        let mut plain = ParamVector::zero();
        plain.insert(layer.weight.id, layer.weight.val().ones_like());
        if let Some(bias) = &layer.bias {
            plain.insert(bias.id, bias.val().ones_like() * 2.0);
        }
        let gradients = TaskGradients {
            losses: vec![0.0, 1.0],
            gradients: vec![tiny, plain],
        };
        let gramian = gradients.gramian(&parameters).unwrap();
        for (row, column, expected) in [(0, 0, 4e-60), (0, 1, 4e-30), (1, 0, 4e-30), (1, 1, 12.0)] {
            let product = gramian.product(row, column);
            assert!((product / expected - 1.0).abs() < 1e-6, "{product}");
        }
        let sum = gradients.weighted(&[0.0, 0.5]);
        assert!((sum.norm() - 3.0_f64.sqrt()).abs() < 1e-6);
    }
}
