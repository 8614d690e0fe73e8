//! Derivatives of `T` scalars along a direction in parameter space.

use burn::module::Module;
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::HypergradientError;
use crate::params::{ParamVector, shifted};

/// `c_t = <∂l_t/∂w, u>` with what is known about its error.
#[derive(Debug, Clone, PartialEq)]
pub struct Derivative {
    /// The derivatives, `[T]`.
    pub values: Vec<f64>,
    /// The step `h` of `w ± h u`, where one was used.
    pub step: Option<f64>,
    /// Estimated error relative to the norm of `values`.
    pub estimated_error: Option<f64>,
    /// Forward passes without a tape.
    pub forward_passes: usize,
    /// Forward-and-backward passes.
    pub backward_passes: usize,
}

/// Central difference with an automatically chosen, verified step.
///
/// ```text
/// D(h) = (l(w + h u) - l(w - h u)) / 2h  =  c + O(h²) + rounding/h
/// ```
///
/// The step is chosen so that the scalars change by a fraction `sqrt`-like in the precision of
/// the dtype, and verified by halving: `D(h)` and `D(h/2)` differ by three quarters of the
/// truncation error of `D(h)` plus rounding, so a large difference calls for a smaller step until
/// rounding takes over. Where both were computed the extrapolation `(4 D(h/2) - D(h)) / 3` is
/// returned, whose truncation error is `O(h⁴)`. A verified step, relative to `|w|/|u|`, is kept
/// for [`verify_every`](Self::verify_every) further derivatives.
///
/// Costs two forward passes without a tape whatever `T` is, and at least two more when the step
/// is verified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CentralDifference {
    /// Target of the estimated relative error; a step that meets it is taken.
    pub tolerance: f64,
    /// The step is verified at the first and then at every so many derivatives; at least 1.
    pub verify_every: usize,
    /// Bound on halvings (and doublings) of the step while it is searched.
    pub max_trials: usize,
    /// The step found last, relative to `|w|/|u|`.
    #[serde(skip)]
    relative_step: Option<f64>,
    /// The error estimated last.
    #[serde(skip)]
    last_error: Option<f64>,
    /// Derivatives since the step was verified.
    #[serde(skip)]
    since_verified: usize,
}

impl Default for CentralDifference {
    fn default() -> Self {
        Self {
            tolerance: 2e-4,
            verify_every: 8,
            max_trials: 6,
            relative_step: None,
            last_error: None,
            since_verified: 0,
        }
    }
}

/// One difference quotient.
struct Quotient {
    values: Vec<f64>,
    /// Size of the rounding error of `values`, from the dtype and the size of the scalars.
    rounding: f64,
}

impl CentralDifference {
    /// The step found last, relative to `|w|/|u|`; `None` before the first derivative.
    #[must_use]
    pub fn relative_step(&self) -> Option<f64> {
        self.relative_step
    }

    /// Starts from a step found earlier, as after a resume.
    #[must_use]
    pub fn with_relative_step(mut self, step: Option<f64>, since_verified: usize) -> Self {
        self.relative_step = step;
        self.since_verified = since_verified;
        self
    }

    /// Derivatives since the step was verified.
    #[must_use]
    pub fn since_verified(&self) -> usize {
        self.since_verified
    }

    /// Derivatives of `scalars` at `module` along `direction`.
    ///
    /// `scalars` is called with tape-free copies of `module` and returns `[T]`.
    ///
    /// # Errors
    ///
    /// [`HypergradientError::NonFinite`] if a perturbed scalar is not finite,
    /// [`HypergradientError::NoScalars`] if there is none.
    pub fn derivative<M: Module>(
        &mut self,
        module: &M,
        direction: &ParamVector,
        scalars: impl Fn(&M) -> Tensor<1>,
    ) -> Result<Derivative, HypergradientError> {
        let direction_norm = direction.norm();
        let unit = ParamVector::from_parameters(module).norm().max(1e-3) / direction_norm;
        if !unit.is_finite() {
            // A zero direction: every derivative is zero, exactly.
            let probe = scalars(&module.valid()).dims()[0];
            return Ok(Derivative {
                values: vec![0.0; probe],
                step: None,
                estimated_error: Some(0.0),
                forward_passes: 1,
                backward_passes: 0,
            });
        }
        let quotient = |step: f64| -> Result<Quotient, HypergradientError> {
            let plus = read(scalars(&shifted(module, step, direction)))?;
            let minus = read(scalars(&shifted(module, -step, direction)))?;
            if plus.values.is_empty() {
                return Err(HypergradientError::NoScalars);
            }
            let values: Vec<f64> = plus
                .values
                .iter()
                .zip(&minus.values)
                .map(|(a, b)| (a - b) / (2.0 * step))
                .collect();
            let rounding = plus.epsilon * norm(&plus.values) / step.abs();
            Ok(Quotient { values, rounding })
        };

        if let Some(relative) = self.relative_step
            && self.since_verified < self.verify_every.max(1)
        {
            self.since_verified += 1;
            let step = relative * unit;
            let taken = quotient(step)?;
            return Ok(Derivative {
                values: taken.values,
                step: Some(step),
                estimated_error: self.last_error,
                forward_passes: 2,
                backward_passes: 0,
            });
        }

        let mut relative = self.relative_step.unwrap_or(INITIAL_RELATIVE_STEP);
        let mut forward_passes = 2;
        let mut coarse = quotient(relative * unit)?;
        let mut best: Option<(f64, f64, Vec<f64>, f64)> = None;
        for _ in 0..self.max_trials.max(1) {
            let fine = quotient(0.5 * relative * unit)?;
            forward_passes += 2;
            let scale = norm(&fine.values).max(f64::MIN_POSITIVE);
            let apart = distance(&coarse.values, &fine.values) / scale;
            let rounding = fine.rounding / scale;
            // Without extrapolation D(h/2) is off by a third of the distance; what is kept for
            // the following derivatives is h/2, without extrapolation.
            let error = apart / 3.0 + rounding;
            let extrapolated = fine
                .values
                .iter()
                .zip(&coarse.values)
                .map(|(f, c)| (4.0 * f - c) / 3.0)
                .collect();
            let is_better = best.as_ref().is_none_or(|(known, ..)| error < *known);
            let rounding_dominates = apart / 3.0 < 2.0 * rounding;
            if is_better {
                best = Some((error, 0.5 * relative, extrapolated, 0.5 * relative * unit));
            }
            if error <= self.tolerance || (!is_better && rounding_dominates) {
                break;
            }
            if rounding_dominates {
                // Too small a step: go the other way.
                relative *= 4.0;
                coarse = quotient(relative * unit)?;
                forward_passes += 2;
            } else {
                relative *= 0.5;
                coarse = fine;
            }
        }
        let Some((error, relative, values, step)) = best else {
            return Err(HypergradientError::NoScalars);
        };
        self.relative_step = Some(relative);
        self.last_error = Some(error);
        self.since_verified = 1;
        Ok(Derivative {
            values,
            step: Some(step),
            estimated_error: Some(error),
            forward_passes,
            backward_passes: 0,
        })
    }
}

/// First step tried, relative to `|w|/|u|`.
const INITIAL_RELATIVE_STEP: f64 = 1e-3;

/// The same derivatives by one reverse pass per scalar: exact up to rounding.
///
/// `scalars` is called with `module` itself, once per scalar, since a backward pass consumes the
/// tape.
///
/// # Errors
///
/// [`HypergradientError::NonFinite`] if a scalar is not finite,
/// [`HypergradientError::NoScalars`] if there is none.
pub fn reverse_passes<M: Module>(
    module: &M,
    direction: &ParamVector,
    scalars: impl Fn(&M) -> Tensor<1>,
) -> Result<Derivative, HypergradientError> {
    let first = scalars(module);
    let n_scalars = first.dims()[0];
    if n_scalars == 0 {
        return Err(HypergradientError::NoScalars);
    }
    read(first.clone().inner())?;
    let mut values = Vec::with_capacity(n_scalars);
    let mut pending = Some(first);
    for index in 0..n_scalars {
        let l = pending.take().unwrap_or_else(|| scalars(module)).narrow(0, index, 1);
        let value = if l.is_tracked() {
            ParamVector::from_gradients(&mut l.backward(), module).dot(direction)
        } else {
            0.0
        };
        if !value.is_finite() {
            return Err(HypergradientError::NonFinite {
                what: format!("the derivative of scalar {index}"),
                value,
            });
        }
        values.push(value);
    }
    Ok(Derivative {
        values,
        step: None,
        estimated_error: None,
        forward_passes: 0,
        backward_passes: n_scalars,
    })
}

/// Scalars on the host, with the rounding unit of their dtype.
struct Scalars {
    values: Vec<f64>,
    epsilon: f64,
}

fn read(scalars: Tensor<1>) -> Result<Scalars, HypergradientError> {
    let data = scalars.into_data();
    let epsilon = match data.dtype() {
        DType::F64 => 1.1e-16,
        DType::F16 => 4.9e-4,
        DType::BF16 => 3.9e-3,
        _ => 6.0e-8,
    };
    let values: Vec<f64> = data.iter::<f64>().collect();
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(HypergradientError::NonFinite {
            what: format!("scalar {index}"),
            value: values[index],
        }),
        None => Ok(Scalars { values, epsilon }),
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;
    use burn::tensor::activation::tanh;

    fn setting() -> (Linear, ParamVector, impl Fn(&Linear) -> Tensor<1>) {
        let device = Device::default();
        device.seed(4);
        let layer = LinearConfig::new(6, 3).init(&device.clone().autodiff());
        let x = Tensor::<2>::random([5, 6], burn::tensor::Distribution::Default, &device);
        let scalars = move |layer: &Linear| {
            let weight = layer.weight.val();
            let x = if weight.is_autodiff() { x.clone().autodiff() } else { x.clone() };
            let y = tanh(x.matmul(weight));
            y.square().mean_dim(0).reshape([3])
        };
        let direction = ParamVector::from_parameters(&layer).scale(0.7);
        (layer, direction, scalars)
    }

    #[test]
    fn both_ways_agree_and_the_error_estimate_holds() {
        let (layer, direction, scalars) = setting();
        let exact = reverse_passes(&layer, &direction, &scalars).unwrap();
        let mut difference = CentralDifference::default();
        for trial in 0..3 {
            let ours = difference.derivative(&layer, &direction, &scalars).unwrap();
            let error = distance(&ours.values, &exact.values) / norm(&exact.values);
            assert!(error < 1e-3, "trial {trial}: {error}");
            assert!(ours.estimated_error.unwrap() < 1e-3);
        }
    }

    #[test]
    fn an_unverified_derivative_costs_two_passes() {
        let (layer, direction, scalars) = setting();
        let mut difference = CentralDifference::default();
        let first = difference.derivative(&layer, &direction, &scalars).unwrap();
        assert!(first.forward_passes >= 4);
        let second = difference.derivative(&layer, &direction, &scalars).unwrap();
        assert_eq!(second.forward_passes, 2);
    }

    #[test]
    fn a_zero_direction_gives_zeros() {
        let (layer, _, scalars) = setting();
        let ours = CentralDifference::default()
            .derivative(&layer, &ParamVector::zero(), &scalars)
            .unwrap();
        assert_eq!(ours.values, vec![0.0; 3]);
    }

    #[test]
    fn a_scalar_that_is_not_finite_is_named() {
        let (layer, direction, _) = setting();
        let error = CentralDifference::default()
            .derivative(&layer, &direction, |layer| {
                let bad = layer.weight.val().sum() * f64::NAN;
                Tensor::cat(vec![layer.weight.val().mean(), bad], 0)
            })
            .unwrap_err();
        assert!(matches!(error, HypergradientError::NonFinite { what, .. } if what == "scalar 1"));
    }
}
