//! How many passes of the backbone a step takes.

use meltr_core::ConfigError;
use meltr_core::weighting::{LossWeighting, Needs};
use meltr_train::record::{CertificateRecord, MetaRecord};
use meltr_train::{CombinerConfig, CombinerName};
use serde::{Deserialize, Serialize};

/// How the log calls directional derivatives that come with the losses.
const FORWARD_MODE: &str = "forward_mode";

/// Passes of the backbone over one batch each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Passes {
    /// Forward passes without a tape.
    pub(super) forward: usize,
    /// Forward passes that carry derivatives along a direction; one costs about three without.
    pub(super) with_tangents: usize,
    /// Forward passes with a backward pass.
    pub(super) with_backward: usize,
}

/// The passes of an outer step, as its certificate counts them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OuterPasses {
    /// Name of the estimator.
    pub(super) estimator: String,
    /// How directional derivatives are obtained.
    pub(super) product: String,
    /// The passes.
    pub(super) passes: Passes,
}

impl OuterPasses {
    /// The passes of a step that was taken.
    pub(super) fn of(record: &MetaRecord) -> Self {
        let CertificateRecord {
            estimator,
            product,
            forward_passes,
            backward_passes,
            ..
        } = (*record.certificate).clone();
        let mut passes = Passes {
            with_backward: backward_passes,
            ..Passes::default()
        };
        if product == FORWARD_MODE {
            passes.with_tangents = forward_passes;
        } else {
            passes.forward = forward_passes;
        }
        Self {
            estimator,
            product,
            passes,
        }
    }
}

/// How the losses are combined, as far as passes depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Combination {
    /// Nothing changes it.
    Constant,
    /// A rule weighs the losses in every inner step.
    Rule(Needs),
    /// An outer step learns it.
    Learned,
}

impl Combination {
    /// What `config` chooses for losses called `losses`, of which number `primary` is the primary
    /// one.
    pub(super) fn of(
        config: &CombinerConfig,
        losses: &[String],
        primary: usize,
    ) -> Result<Self, ConfigError> {
        // No draw of a rule changes what it needs.
        let rule = config.rule(losses, primary, 0)?;
        Ok(match (rule, config.name) {
            (Some(rule), _) => Self::Rule(rule.needs()),
            (None, CombinerName::Primary | CombinerName::Sum) => Self::Constant,
            (None, _) => Self::Learned,
        })
    }

    /// The passes of an inner step over `accumulate` batches with `n_losses` losses.
    pub(super) fn of_inner_step(self, n_losses: usize, accumulate: usize) -> Passes {
        let (forward, with_backward) = match self {
            Self::Constant | Self::Learned | Self::Rule(Needs::Losses) => (0, 1),
            Self::Rule(Needs::LossesBeforeAndAfter) => (1, 1),
            Self::Rule(Needs::Gramian) => (0, n_losses),
        };
        Passes {
            forward: accumulate * forward,
            with_tangents: 0,
            with_backward: accumulate * with_backward,
        }
    }
}

/// The passes of an audit: one for each loss.
pub(super) fn of_audit(n_losses: usize) -> Passes {
    Passes {
        with_backward: n_losses,
        ..Passes::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(product: &str, forward_passes: usize) -> MetaRecord {
        serde_json::from_value(serde_json::json!({
            "iteration": 0,
            "outer_objective": 1.0,
            "task_losses": [1.0],
            "sensitivities": [1.0],
            "directional": [0.5],
            "hypergradient_norm": 0.1,
            "certificate": {
                "estimator": "identity",
                "product": product,
                "difference_step": null,
                "estimated_error": null,
                "audited_error": null,
                "forward_passes": forward_passes,
                "backward_passes": 1,
            },
        }))
        .unwrap()
    }

    #[test]
    fn forward_passes_of_forward_mode_carry_tangents() {
        let outer = OuterPasses::of(&step("forward_mode", 1));
        assert_eq!(
            outer.passes,
            Passes {
                forward: 0,
                with_tangents: 1,
                with_backward: 1,
            }
        );
        let outer = OuterPasses::of(&step("central_difference", 2));
        assert_eq!((outer.passes.forward, outer.passes.with_tangents), (2, 0));
    }

    #[test]
    fn an_inner_step_takes_the_passes_that_its_combination_needs() {
        let losses = ["a", "b", "c"].map(str::to_owned);
        let passes = |name| {
            let config = CombinerConfig {
                name,
                ..CombinerConfig::default()
            };
            let combination = Combination::of(&config, &losses, 0).unwrap();
            let passes = combination.of_inner_step(losses.len(), 2);
            (combination, passes.forward, passes.with_backward)
        };
        let constant = Combination::Constant;
        assert_eq!(passes(CombinerName::Primary), (constant, 0, 2));
        assert_eq!(passes(CombinerName::Sum), (constant, 0, 2));
        let learned = Combination::Learned;
        assert_eq!(passes(CombinerName::MeltrPublished), (learned, 0, 2));
        assert_eq!(passes(CombinerName::AutoLambda), (learned, 0, 2));
        let by = Combination::Rule;
        assert_eq!(passes(CombinerName::Random), (by(Needs::Losses), 0, 2));
        let before_and_after = by(Needs::LossesBeforeAndAfter);
        assert_eq!(passes(CombinerName::Famo), (before_and_after, 2, 2));
        assert_eq!(passes(CombinerName::PcGrad), (by(Needs::Gramian), 0, 6));
        assert_eq!(of_audit(losses.len()).with_backward, 3);
    }
}
