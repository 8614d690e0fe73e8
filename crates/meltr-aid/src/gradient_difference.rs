//! Derivatives of first-order gradients along a direction, by a verified central difference.

use burn::module::Module;
use burn::tensor::DType;
use serde::{Deserialize, Serialize};

use crate::error::HypergradientError;
use crate::params::{ParamVector, shifted};
use crate::tape::train_like;

/// Central difference of gradients, with a step that is chosen and verified.
///
/// ```text
/// D(h) = (∇f(w + h u) - ∇f(w - h u)) / 2h  =  (∂/∂w ∇f) u + T h² + N/h
/// ```
///
/// The rounding `N` of a gradient cannot be told from its size: at a minimum the gradient is zero
/// and its rounding is not. So both constants are found by trial. `D(h)` and `D(h/2)` differ by
/// `3/4 T h²` or by about `2.2 N/h`, whichever is larger; steps a factor of 8 apart are tried
/// until this gap no longer shrinks, and `T` and `N` are bounded by what was seen. From them
/// follow the best plain step, its error, and the error of the extrapolation
/// `(4 D(h/2) - D(h)) / 3`. A quadratic has no `T`; there the step grows until rounding is all
/// that is left.
///
/// Steps are relative to `|w| / |u|`, so what was found for one direction serves for others: a
/// product costs two forward-and-backward passes until the next verification, which costs four.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GradientDifference {
    /// The step is verified at every so many products, at least 1.
    pub verify_every: usize,
    /// Bound on the steps tried at one product, at least 1.
    pub max_trials: usize,
    #[serde(skip)]
    found: Option<Found>,
}

impl Default for GradientDifference {
    fn default() -> Self {
        Self {
            verify_every: 50,
            max_trials: 10,
            found: None,
        }
    }
}

/// What the last verification found.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Found {
    /// Relative to `|w| / |u|`.
    relative_step: f64,
    /// Absolute error of a plain difference at this step, in units of `|u|`.
    error_per_unit: f64,
    /// Relative gap at the last verification.
    gap: f64,
    age: usize,
}

/// The gradients of an objective by both sets of parameters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gradients {
    pub(crate) inner: ParamVector,
    pub(crate) outer: ParamVector,
}

impl Gradients {
    fn combined(self, a: f64, b: f64, other: &Self) -> Self {
        Self {
            inner: self.inner.scale(a).add_scaled(b, &other.inner),
            outer: self.outer.scale(a).add_scaled(b, &other.outer),
        }
    }
}

/// Which of the derivatives the step is chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Focus {
    /// The product with the Hessian.
    Inner,
    /// The mixed product.
    Outer,
}

impl Focus {
    fn of(self, gradients: &Gradients) -> &ParamVector {
        match self {
            Self::Inner => &gradients.inner,
            Self::Outer => &gradients.outer,
        }
    }
}

/// A derivative of both gradients.
#[derive(Debug, Clone)]
pub(crate) struct GradientDerivative {
    /// `(∂²f/∂w²) u` and `(∂²f/∂phi∂w)ᵀ u`.
    pub(crate) values: Gradients,
    /// The step `h`.
    pub(crate) step: f64,
    /// Estimated error of the part in focus, absolute.
    pub(crate) error: f64,
    /// Forward-and-backward passes.
    pub(crate) passes: usize,
}

/// Factor between the steps tried.
const RUNG: f64 = 8.0;

/// Largest step: where the perturbation swamps the point, its own rounding grows with it.
const MAX_RELATIVE_STEP: f64 = 16.0;

/// Growth of the gap at which a known step is looked for anew.
const STALE: f64 = 4.0;

/// `D(h)` and `D(h/2)` compared.
struct Trial {
    relative_step: f64,
    coarse: Gradients,
    fine: Gradients,
    /// `|D(h) - D(h/2)|`.
    distance: f64,
    /// The same relative to the larger of both.
    gap: f64,
}

impl GradientDifference {
    /// What the last verification found, as numbers; empty before the first.
    pub(crate) fn memory(&self) -> Vec<f64> {
        self.found.map_or_else(Vec::new, |found| {
            vec![
                found.relative_step,
                found.error_per_unit,
                found.gap,
                found.age as f64,
            ]
        })
    }

    /// Takes up such numbers.
    pub(crate) fn remember(&mut self, memory: &[f64]) {
        self.found = match *memory {
            [relative_step, error_per_unit, gap, age] => Some(Found {
                relative_step,
                error_per_unit,
                gap,
                age: age as usize,
            }),
            _ => None,
        };
    }

    /// Derivatives along `direction` of what `gradients` returns, which is called with copies of
    /// `module` on the tape.
    pub(crate) fn derivative<M: Module>(
        &mut self,
        module: &M,
        direction: &ParamVector,
        focus: Focus,
        gradients: impl Fn(&M) -> Result<Gradients, HypergradientError>,
    ) -> Result<GradientDerivative, HypergradientError> {
        let direction_norm =
            HypergradientError::require_finite("the norm of a direction", direction.norm())?;
        if direction_norm == 0.0 {
            return Ok(GradientDerivative {
                values: Gradients::default(),
                step: 0.0,
                error: 0.0,
                passes: 0,
            });
        }
        let size = ParamVector::from_parameters(module)
            .restricted_to(direction)
            .norm();
        let unit = if size > 0.0 { size } else { 1.0 } / direction_norm;
        let epsilon = rounding_unit(direction.dtype());
        let mut passes = 0;
        let mut quotient = |relative_step: f64| -> Result<Gradients, HypergradientError> {
            let step = relative_step * unit;
            let at = |step: f64| train_like(shifted(module, step, direction), module);
            let plus = gradients(&at(step))?;
            let minus = gradients(&at(-step))?;
            passes += 2;
            let factor = 0.5 / step;
            let quotient = plus.combined(factor, -factor, &minus);
            HypergradientError::require_finite(
                "the norm of a product with second derivatives",
                focus.of(&quotient).norm(),
            )?;
            Ok(quotient)
        };

        if let Some(found) = &mut self.found
            && found.age + 1 < self.verify_every
        {
            found.age += 1;
            let found = *found;
            let values = quotient(found.relative_step)?;
            return Ok(GradientDerivative {
                values,
                step: found.relative_step * unit,
                error: found.error_per_unit * direction_norm,
                passes,
            });
        }

        let mut trial = |relative_step: f64| -> Result<Trial, HypergradientError> {
            let coarse = quotient(relative_step)?;
            let fine = quotient(0.5 * relative_step)?;
            let (a, b) = (focus.of(&coarse), focus.of(&fine));
            let distance = a.clone().add_scaled(-1.0, b).norm();
            let scale = a.norm().max(b.norm());
            let gap = if scale > 0.0 {
                distance / scale
            } else {
                // Either the derivative is zero or the step was lost in rounding.
                f64::INFINITY
            };
            Ok(Trial {
                relative_step,
                coarse,
                fine,
                distance,
                gap,
            })
        };
        let start = self
            .found
            .map_or(0.1 * epsilon.cbrt(), |found| found.relative_step);
        let mut best = trial(start)?;
        let mut seen = vec![(best.relative_step, best.distance, best.gap)];
        if let Some(found) = &mut self.found
            && best.gap <= STALE * found.gap.max(epsilon)
        {
            // As good as when the step was looked for: it stays as it is.
            found.age = 0;
            found.error_per_unit = best.distance / direction_norm;
            return Ok(GradientDerivative {
                values: best.coarse,
                step: best.relative_step * unit,
                error: best.distance,
                passes,
            });
        }
        // Upwards first: a lost step shows no gap at all further down.
        for factor in [RUNG, 1.0 / RUNG] {
            let mut rung = start * factor;
            while seen.len() < self.max_trials.max(1)
                && best.gap > epsilon
                && rung <= MAX_RELATIVE_STEP
            {
                let next = trial(rung)?;
                seen.push((next.relative_step, next.distance, next.gap));
                let improves = next.gap < best.gap;
                if !improves && next.gap.is_finite() {
                    break;
                }
                if improves {
                    best = next;
                }
                rung *= factor;
            }
            if best.relative_step != start {
                break;
            }
        }
        if best.gap.is_infinite() {
            // No step showed any change: the derivative is zero.
            self.found = None;
            return Ok(GradientDerivative {
                values: best.coarse,
                step: best.relative_step * unit,
                error: 0.0,
                passes,
            });
        }
        // Bounds on T and N, in terms of relative steps.
        let finite = || seen.iter().filter(|(_, _, gap)| gap.is_finite());
        let truncation = finite()
            .map(|(h, distance, _)| distance * (4.0 / 3.0) / (h * h))
            .fold(f64::INFINITY, f64::min);
        let scale = focus.of(&best.fine).norm();
        let rounding = finite()
            .map(|(h, distance, _)| distance * h / 2.2)
            .fold(f64::INFINITY, f64::min)
            .max(0.25 * epsilon * scale * best.relative_step);
        let error = |h: f64| truncation * h * h + rounding / h;
        let optimum = (rounding / (2.0 * truncation.max(f64::MIN_POSITIVE)))
            .cbrt()
            .clamp(best.relative_step / RUNG, best.relative_step * RUNG)
            .min(MAX_RELATIVE_STEP);
        let h = best.relative_step;
        let candidates = [error(h), error(0.5 * h), 3.0 * rounding / h];
        let [of_coarse, of_fine, of_extrapolation] = candidates;
        let (values, value_error) = if of_extrapolation <= of_coarse.min(of_fine) {
            let extrapolated = best.fine.combined(4.0 / 3.0, -1.0 / 3.0, &best.coarse);
            (extrapolated, of_extrapolation)
        } else if of_fine < of_coarse {
            (best.fine, of_fine)
        } else {
            (best.coarse, of_coarse)
        };
        self.found = Some(Found {
            relative_step: optimum,
            error_per_unit: error(optimum) / direction_norm,
            gap: best.gap,
            age: 0,
        });
        Ok(GradientDerivative {
            values,
            step: h * unit,
            error: value_error,
            passes,
        })
    }
}

/// Half the distance from 1 to the next larger number.
pub(crate) fn rounding_unit(dtype: Option<DType>) -> f64 {
    match dtype {
        Some(DType::F64) => 1.1e-16,
        Some(DType::F16) => 4.9e-4,
        Some(DType::BF16) => 3.9e-3,
        _ => 6.0e-8,
    }
}
