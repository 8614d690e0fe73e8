//! Checks that several rules share.

use crate::error::ConfigError;

use super::error::WeightingError;
use super::gramian::Gramian;

/// `Err` if there is no loss or one of them is not finite.
pub(super) fn require_losses(losses: &[f64]) -> Result<(), WeightingError> {
    if losses.is_empty() {
        return Err(WeightingError::NoTasks);
    }
    for (task, &loss) in losses.iter().enumerate() {
        if !loss.is_finite() {
            return Err(WeightingError::NonFiniteLoss { task, loss });
        }
    }
    Ok(())
}

/// `Err` if there are not as many as there are tasks.
pub(super) fn require_count(
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), WeightingError> {
    if expected == found {
        Ok(())
    } else {
        Err(WeightingError::TaskCount {
            what,
            expected,
            found,
        })
    }
}

/// The Gramian of a step, of as many tasks as there are losses.
pub(super) fn require_gramian<'a>(
    method: &'static str,
    losses: &[f64],
    gramian: Option<&'a Gramian>,
) -> Result<&'a Gramian, WeightingError> {
    require_losses(losses)?;
    let gramian: &'a Gramian = gramian.ok_or(WeightingError::MissingGramian { method })?;
    require_count("gradients", losses.len(), gramian.n_tasks())?;
    Ok(gramian)
}

/// The weights themselves, or `Err` if one of them is not finite.
pub(super) fn finite(method: &'static str, weights: Vec<f64>) -> Result<Vec<f64>, WeightingError> {
    for (task, &weight) in weights.iter().enumerate() {
        if !weight.is_finite() {
            return Err(WeightingError::NonFiniteWeight {
                method,
                task,
                weight,
            });
        }
    }
    Ok(weights)
}

/// `Err` if a setting is not a positive, finite number.
pub(super) fn require_positive(key: &'static str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(ConfigError::OutOfRange {
            key,
            value,
            range: "(0, inf)",
        })
    }
}

/// `Err` if a setting is negative or not finite.
pub(super) fn require_not_negative(key: &'static str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(ConfigError::OutOfRange {
            key,
            value,
            range: "[0, inf)",
        })
    }
}

/// `Err` if a setting is not finite.
pub(super) fn require_finite(key: &'static str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() {
        Ok(())
    } else {
        Err(ConfigError::OutOfRange {
            key,
            value,
            range: "(-inf, inf)",
        })
    }
}

/// `Err` if a list of settings has entries, but not one a task.
pub(super) fn require_one_a_task(
    key: &'static str,
    n_tasks: usize,
    found: usize,
) -> Result<(), ConfigError> {
    if found == 0 || found == n_tasks {
        Ok(())
    } else {
        Err(ConfigError::Unsupported {
            key,
            value: "a list of another length",
            reason: "give one entry a task, or none",
        })
    }
}
