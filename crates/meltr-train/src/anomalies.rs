//! What is wrong with a learned combination of losses, by its sensitivities.

use serde::{Deserialize, Serialize};

use crate::snapshot::Exact;

/// The combined loss counts as saturated where it reacts less than this share as strongly as at
/// the first outer step.
const SATURATED_BELOW: f64 = 0.01;

/// How the combined loss reacted to the losses at the first outer step of a run.
///
/// The reaction is `sum_t |s_t| L_t`, with sensitivities `s_t = dg/dl_t` and the losses `L_t` of
/// that step: how far the combined loss would move, to first order, if the losses moved as far as
/// they are from 0. Saturation is a fall of it to less than a hundredth, as where the last
/// normalization of the loss transformer has left `g` nearly constant. The share depends neither
/// on the unit of `g` nor on those of the losses, and losses that fall, which is what training is
/// for, do not change it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FirstReaction {
    losses: Vec<Exact>,
    /// The reaction at that step.
    reaction: Exact,
}

impl FirstReaction {
    /// The reaction at the first outer step.
    pub(crate) fn new(losses: &[f64], sensitivities: &[f64]) -> Self {
        let losses = losses.iter().copied().map(Exact).collect();
        let first = Self {
            losses,
            reaction: Exact(0.0),
        };
        let reaction = Exact(first.reaction(sensitivities));
        Self { reaction, ..first }
    }

    fn reaction(&self, sensitivities: &[f64]) -> f64 {
        sensitivities
            .iter()
            .zip(&self.losses)
            .map(|(sensitivity, loss)| (sensitivity * loss.0).abs())
            .sum()
    }

    /// What there is to say of a saturated combined loss; `None` if it is not.
    pub(crate) fn saturation(&self, sensitivities: &[f64]) -> Option<String> {
        let reaction = self.reaction(sensitivities);
        // Also where there never was a reaction.
        if reaction > SATURATED_BELOW * self.reaction.0 {
            return None;
        }
        let percent = if self.reaction.0 > 0.0 {
            100.0 * reaction / self.reaction.0
        } else {
            0.0
        };
        Some(format!(
            "saturated: the combined loss reacts {percent:.2} % as strongly to the losses as at \
             the first outer step"
        ))
    }
}

/// What there is to say of a negative sensitivity.
pub(crate) fn negative(task: &str, sensitivity: f64) -> String {
    format!("negative: the sensitivity of `{task}` is {sensitivity:.3e}, which drives its loss up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reaction_below_a_hundredth_is_saturated_whatever_the_units() {
        for (unit_of_g, unit_of_losses) in [(1.0, 1.0), (1e-6, 1e4), (1e3, 1e-5)] {
            let losses = [2.0, 0.5].map(|loss| loss * unit_of_losses);
            let in_units =
                |sensitivities: [f64; 2]| sensitivities.map(|s| s * unit_of_g / unit_of_losses);
            // 2 · 1 + 0.5 · 2 = 3.
            let first = FirstReaction::new(&losses, &in_units([1.0, -2.0]));
            assert_eq!(first.saturation(&in_units([1.0, -2.0])), None);
            assert_eq!(first.saturation(&in_units([0.0, 0.07])), None);
            let message = first.saturation(&in_units([0.004, -0.008])).unwrap();
            assert!(message.contains("0.40 %"), "{message}");
        }
    }

    #[test]
    fn what_never_reacted_is_saturated() {
        let first = FirstReaction::new(&[1.0, 2.0], &[0.0, 0.0]);
        assert!(first.saturation(&[0.0, 0.0]).is_some());
        assert!(first.saturation(&[0.1, 0.0]).is_none());
    }

    #[test]
    fn a_negative_sensitivity_is_told_with_task_and_value() {
        let message = negative("mlm", -0.125);
        assert!(message.contains("`mlm`") && message.contains("-1.250e-1"));
    }
}
