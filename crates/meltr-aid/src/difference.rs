//! Derivatives of `T` scalars along a direction in parameter space.

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::HypergradientError;
use crate::gradient_difference::rounding_unit;
use crate::params::{ParamVector, shifted};

/// `c_t = <∂l_t/∂w, u>` with what is known about its error.
#[derive(Debug, Clone, PartialEq)]
pub struct Derivative {
    /// The derivatives, `[T]`.
    pub values: Vec<f64>,
    /// The scalars themselves, `[T]`: for a difference the mean of both sides, which is off by
    /// `O(h²)` like the quotient.
    pub scalars: Vec<f64>,
    /// The step `h` of `w ± h u`, where one was used.
    pub step: Option<f64>,
    /// Estimated error relative to the norm of `values`.
    pub estimated_error: Option<f64>,
    /// Forward passes without a tape.
    pub forward_passes: usize,
    /// Forward-and-backward passes.
    pub backward_passes: usize,
}

impl Derivative {
    /// From one forward-mode pass.
    pub(crate) fn exact(scalars: Tensor<1>, values: Tensor<1>) -> Result<Self, HypergradientError> {
        let (scalars, values) = (read(scalars)?.values, read(values)?.values);
        if values.is_empty() {
            return Err(HypergradientError::NoScalars);
        }
        Ok(Self {
            values,
            scalars,
            step: None,
            estimated_error: None,
            forward_passes: 1,
            backward_passes: 0,
        })
    }
}

/// Central difference with an automatically chosen, verified step.
///
/// ```text
/// D(h) = (l(w + h u) - l(w - h u)) / 2h  =  c + O(h²) + rounding/h
/// ```
///
/// The step is verified by halving: `D(h)` and `D(h/2)` differ by three quarters of the truncation
/// error of `D(h)`, and `(4 D(h/2) - D(h)) / 3` has a truncation error of `O(h⁴)`. Rounding is
/// known from the dtype and the size of the scalars. From both follows whether a plain quotient
/// can reach the tolerance, and at which step; if it can, plain quotients are taken until the next
/// verification, and if it cannot, as where the scalars are strongly curved along `u`, every
/// derivative is an extrapolated one. Steps are kept relative to `|w|/|u|`.
///
/// A plain quotient is still held against what is known: the error that the last verification
/// found, in units of `|u|²`, and the rounding of this very quotient. Where the derivatives cancel
/// to something small, both weigh more, and the quotient is verified before it is used.
///
/// | | forward passes without a tape, whatever `T` is |
/// |---|---|
/// | plain | 2 |
/// | verified, or extrapolated | 4 |
/// | first, or where the last step no longer fits | up to 4 for each step tried |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CentralDifference {
    /// Target of the estimated relative error, above 0.
    pub tolerance: f64,
    /// Plain steps are verified at every so many derivatives; at least 1.
    pub verify_every: usize,
    /// Bound on the steps tried at one derivative; at least 1.
    pub max_trials: usize,
    /// What the last verification found.
    #[serde(skip)]
    found: Option<Found>,
}

impl Default for CentralDifference {
    fn default() -> Self {
        Self {
            tolerance: 2e-4,
            verify_every: 12,
            max_trials: 4,
            found: None,
        }
    }
}

/// The step to take next.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Found {
    /// Relative to `|w|/|u|`.
    relative_step: f64,
    /// Whether a plain quotient is good enough.
    plain: bool,
    /// Truncation error of a plain quotient at this step, in units of `|u|²`.
    truncation: f64,
    /// Derivatives since the step was verified.
    age: usize,
}

/// First step tried in `f32`, relative to `|w|/|u|`; in other dtypes it goes with the cube root
/// of their rounding.
const INITIAL_RELATIVE_STEP: f64 = 1e-4;

/// Truncation error of `D(h)` at which the extrapolation is taken: its own is about the square.
const EXTRAPOLATED_TRUNCATION: f64 = 5e-3;

/// Rounding of a scalar in units of its dtype's: losses are sums of many rounded terms.
const ROUNDING_UNITS: f64 = 2.0;

/// `D(h)` and `D(h/2)` compared.
struct Halving {
    relative_step: f64,
    step: f64,
    /// `(4 D(h/2) - D(h)) / 3`.
    values: Vec<f64>,
    /// The scalars, extrapolated likewise.
    scalars: Vec<f64>,
    /// Norm of `values` in units of `|u|²`.
    size: f64,
    /// Relative truncation error of `D(h)`.
    truncation: f64,
    /// Relative rounding error of `D(h)`.
    rounding: f64,
}

impl Halving {
    /// Estimated relative error of the extrapolation.
    fn error(&self) -> f64 {
        self.truncation * self.truncation + 3.0 * self.rounding
    }

    /// Factor on the step that brings the truncation error to where the extrapolation wants it.
    fn factor(&self) -> f64 {
        if self.truncation < 4.0 * self.rounding {
            // The gap is rounding, and says nothing of the truncation.
            return 4.0;
        }
        (EXTRAPOLATED_TRUNCATION / self.truncation.max(f64::MIN_POSITIVE))
            .sqrt()
            .clamp(1.0 / 16.0, 4.0)
    }

    /// What to do next.
    fn found(&self, tolerance: f64) -> Found {
        // Truncation grows like h², rounding like 1/h: their sum is least where the one is half
        // of the other.
        let balance = (self.rounding / (2.0 * self.truncation.max(f64::MIN_POSITIVE)))
            .cbrt()
            .clamp(1e-3, 4.0);
        let truncation = self.truncation * balance * balance;
        let plain = truncation + self.rounding / balance <= tolerance;
        let factor = if plain { balance } else { self.factor() };
        Found {
            relative_step: self.relative_step * factor,
            plain,
            truncation: truncation * self.size,
            age: 0,
        }
    }
}

impl CentralDifference {
    /// What the last verification found, as numbers; empty before the first.
    pub(crate) fn memory(&self) -> Vec<f64> {
        self.found.map_or_else(Vec::new, |found| {
            let plain = f64::from(u8::from(found.plain));
            vec![
                found.relative_step,
                plain,
                found.truncation,
                found.age as f64,
            ]
        })
    }

    /// Takes up such numbers.
    pub(crate) fn remember(&mut self, memory: &[f64]) {
        self.found = match *memory {
            [relative_step, plain, truncation, age] => Some(Found {
                relative_step,
                plain: plain != 0.0,
                truncation,
                age: age as usize,
            }),
            _ => None,
        };
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
            let scalars = read(scalars(&module.valid()))?.values;
            return Ok(Derivative {
                values: vec![0.0; scalars.len()],
                scalars,
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
            let combine = |f: fn(f64, f64) -> f64| -> Vec<f64> {
                plus.values
                    .iter()
                    .zip(&minus.values)
                    .map(|(a, b)| f(*a, *b))
                    .collect()
            };
            let rounding = ROUNDING_UNITS * plus.epsilon * norm(&plus.values) / step.abs();
            let values = combine(|a, b| 0.5 * (a - b))
                .into_iter()
                .map(|d| d / step)
                .collect();
            Ok(Quotient {
                values,
                scalars: combine(|a, b| 0.5 * (a + b)),
                rounding,
            })
        };

        let coarser = rounding_unit(direction.dtype()) / rounding_unit(None);
        let mut relative_step = INITIAL_RELATIVE_STEP * coarser.cbrt();
        let mut forward_passes = 0;
        let mut known = None;
        if let Some(found) = &mut self.found {
            relative_step = found.relative_step;
            if found.plain && found.age + 1 < self.verify_every {
                found.age += 1;
                let step = relative_step * unit;
                let taken = quotient(step)?;
                forward_passes = 2;
                let size = norm(&taken.values).max(f64::MIN_POSITIVE);
                let truncation = found.truncation * direction_norm * direction_norm;
                let error = (truncation + taken.rounding) / size;
                if error <= self.tolerance {
                    return Ok(Derivative {
                        values: taken.values,
                        scalars: taken.scalars,
                        step: Some(step),
                        estimated_error: Some(error),
                        forward_passes,
                        backward_passes: 0,
                    });
                }
                known = Some(taken);
            }
        }

        let mut best: Option<Halving> = None;
        for _ in 0..self.max_trials.max(1) {
            let step = relative_step * unit;
            let coarse = match known.take() {
                Some(taken) => taken,
                None => {
                    forward_passes += 2;
                    quotient(step)?
                }
            };
            let fine = quotient(0.5 * step)?;
            forward_passes += 2;
            let extrapolated = |fine: &[f64], coarse: &[f64]| -> Vec<f64> {
                fine.iter()
                    .zip(coarse)
                    .map(|(fine, coarse)| (4.0 * fine - coarse) / 3.0)
                    .collect()
            };
            let scale = norm(&fine.values).max(f64::MIN_POSITIVE);
            let halving = Halving {
                relative_step,
                step,
                values: extrapolated(&fine.values, &coarse.values),
                scalars: extrapolated(&fine.scalars, &coarse.scalars),
                size: scale / (direction_norm * direction_norm),
                truncation: distance(&coarse.values, &fine.values) / scale * 4.0 / 3.0,
                rounding: coarse.rounding / scale,
            };
            let (error, factor) = (halving.error(), halving.factor());
            if best.as_ref().is_none_or(|known| error < known.error()) {
                best = Some(halving);
            }
            if error <= self.tolerance || (0.8..1.25).contains(&factor) {
                break;
            }
            relative_step *= factor;
        }
        let Some(best) = best else {
            return Err(HypergradientError::NoScalars);
        };
        self.found = Some(best.found(self.tolerance));
        Ok(Derivative {
            estimated_error: Some(best.error()),
            step: Some(best.step),
            values: best.values,
            scalars: best.scalars,
            forward_passes,
            backward_passes: 0,
        })
    }
}

/// One difference quotient.
struct Quotient {
    values: Vec<f64>,
    /// Mean of both sides.
    scalars: Vec<f64>,
    /// Size of the rounding error of `values`, from the dtype and the size of the scalars.
    rounding: f64,
}

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
    let at = read(first.clone().inner())?.values;
    let mut values = Vec::with_capacity(n_scalars);
    let mut pending = Some(first);
    for index in 0..n_scalars {
        let l = pending
            .take()
            .unwrap_or_else(|| scalars(module))
            .narrow(0, index, 1);
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
        scalars: at,
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
    let epsilon = rounding_unit(Some(data.dtype()));
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
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b) * (a - b))
        .sum::<f64>()
        .sqrt()
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
            let x = if weight.is_autodiff() {
                x.clone().autodiff()
            } else {
                x.clone()
            };
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
