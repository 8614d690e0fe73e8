//! Learning-rate schedules of BertAdam.

use serde::{Deserialize, Serialize};

/// Multiplier of the learning rate as a function of a parameter's step count.
///
/// With period `c = t_warmup + 1` and `x = (count mod c) / c`. After `c` steps every schedule
/// starts over.
///
/// # References
///
/// - Reference code: `mlvlab/MELTR@669ad60`, `univl/modules/optimization.py`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// `1 - x`: falls from the first step on, in spite of its name. Used by all published
    /// commands.
    #[default]
    WarmupLinearDown,
    /// `x / w` below the warm-up share `w`, then linearly down to 0.
    WarmupLinear,
    /// `x / w` below the warm-up share `w`, then half a cosine.
    WarmupCosine,
    /// `x / w` below the warm-up share `w`, then 1.
    WarmupConstant,
    /// Always 1.
    None,
}

impl Schedule {
    /// The multiplier at step `count`, counted from 1.
    #[must_use]
    pub fn multiplier(self, count: usize, t_warmup: usize, warmup_share: f64) -> f64 {
        let period = t_warmup + 1;
        let x = (count % period) as f64 / period as f64;
        let warming = x < warmup_share;
        match self {
            Self::WarmupLinearDown => (1.0 - x).abs(),
            Self::None => 1.0,
            _ if warming => x / warmup_share,
            Self::WarmupLinear => ((x - 1.0) / (warmup_share - 1.0)).max(0.0),
            Self::WarmupCosine => 0.5 * (1.0 + (std::f64::consts::PI * x).cos()),
            Self::WarmupConstant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_schedule_is_a_sawtooth() {
        let at = |count| Schedule::WarmupLinearDown.multiplier(count, 9, 0.1);
        assert!((at(1) - 0.9).abs() < 1e-12);
        assert!((at(9) - 0.1).abs() < 1e-12);
        assert_eq!(at(10), 1.0);
    }

    #[test]
    fn the_warm_up_rises_linearly() {
        let at = |count| Schedule::WarmupLinear.multiplier(count, 99, 0.1);
        assert!((at(5) - 0.5).abs() < 1e-12);
        assert!((at(55) - 0.5).abs() < 1e-12);
    }
}
