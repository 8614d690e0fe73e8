//! PCGrad: each gradient without the parts that conflict with the others.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::checks::{finite, require_gramian};
use super::error::WeightingError;
use super::gramian::{Gramian, dot};
use super::loss_weighting::{LossWeighting, Needs};

/// In which order a gradient is projected by the others. It matters from three tasks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ProjectionOrder {
    /// By the number of the task.
    Ascending,
    /// Anew for every gradient and step, as in the paper.
    Random {
        /// Fixes the orders of a run.
        seed: u64,
    },
}

/// The sum of the gradients, each projected to conflict less with the others.
///
/// For each task `i`, starting from `g = g_i` and for every other task `j` in turn: if
/// `<g, g_j> < 0`, then `g` becomes `g - <g, g_j> / |g_j|² g_j`. Every `g` is a combination
/// `sum_t c_t g_t`, so that only its coefficients are kept: `<g, g_j> = (K c)_j`. The weights are
/// the sum of the coefficients over all `i`. Without conflicts they are 1; a zero gradient
/// conflicts with none, so that for zero gradients they are 1 as well.
///
/// Costs `T` backward passes instead of one.
///
/// # References
///
/// - Yu, Kumar, Gupta, Levine, Hausman and Finn, "Gradient Surgery for Multi-Task Learning",
///   NeurIPS 2020, arXiv 2001.06782, Algorithm 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcGrad {
    order: ProjectionOrder,
    /// Steps taken.
    step: u64,
}

impl PcGrad {
    /// The rule with its order of projections.
    #[must_use]
    pub fn new(order: ProjectionOrder) -> Self {
        Self { order, step: 0 }
    }
}

impl LossWeighting for PcGrad {
    fn name(&self) -> &'static str {
        "pc_grad"
    }

    fn needs(&self) -> Needs {
        Needs::Gramian
    }

    fn weights(
        &mut self,
        losses: &[f64],
        gramian: Option<&Gramian>,
    ) -> Result<Vec<f64>, WeightingError> {
        let gramian = require_gramian(self.name(), losses, gramian)?;
        let n_tasks = losses.len();
        // A step has a random stream of its own, so that a resumed run draws the same orders.
        let mut stream = match self.order {
            ProjectionOrder::Ascending => None,
            ProjectionOrder::Random { seed } => {
                let mut stream = ChaCha8Rng::seed_from_u64(seed);
                stream.set_stream(self.step);
                Some(stream)
            }
        };
        let mut weights = vec![0.0; n_tasks];
        for task in 0..n_tasks {
            let mut others: Vec<usize> = (0..n_tasks).filter(|&other| other != task).collect();
            if let Some(stream) = &mut stream {
                shuffle(&mut others, stream);
            }
            let coefficients = project(gramian, task, &others);
            for (weight, coefficient) in weights.iter_mut().zip(&coefficients) {
                *weight += coefficient;
            }
        }
        self.step += 1;
        finite(self.name(), weights)
    }
}

/// The coefficients of gradient `task` after it was projected by the others, in their order.
fn project(gramian: &Gramian, task: usize, others: &[usize]) -> Vec<f64> {
    let n_tasks = gramian.n_tasks();
    let mut coefficients = vec![0.0; n_tasks];
    coefficients[task] = 1.0;
    for &other in others {
        let row: Vec<f64> = (0..n_tasks).map(|t| gramian.product(other, t)).collect();
        let inner = dot(&row, &coefficients);
        let squared_norm = gramian.product(other, other);
        if inner < 0.0 && squared_norm > 0.0 {
            coefficients[other] -= inner / squared_norm;
        }
    }
    coefficients
}

/// A uniformly random order (Fisher and Yates).
fn shuffle(values: &mut [usize], stream: &mut ChaCha8Rng) {
    for last in (1..values.len()).rev() {
        let other = stream.random_range(0..=last);
        values.swap(last, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_conflicting_gradients_are_projected_by_each_other() {
        // g_0 = (1, 0), g_1 = (-1, 1): <g_0, g_1> = -1, |g_0|² = 1, |g_1|² = 2.
        // g_0 becomes g_0 + g_1 / 2, g_1 becomes g_1 + g_0; the sum is 2 g_0 + 1.5 g_1.
        let gramian = Gramian::from_gradients(&[[1.0, 0.0], [-1.0, 1.0]]).unwrap();
        for order in [
            ProjectionOrder::Ascending,
            ProjectionOrder::Random { seed: 1 },
        ] {
            let weights = PcGrad::new(order)
                .weights(&[1.0, 1.0], Some(&gramian))
                .unwrap();
            assert_eq!(weights, vec![2.0, 1.5]);
        }
    }

    #[test]
    fn without_conflict_the_gradients_are_added() {
        let gramian = Gramian::from_gradients(&[[1.0, 0.5], [0.0, 3.0], [0.0, 0.0]]).unwrap();
        let mut rule = PcGrad::new(ProjectionOrder::Random { seed: 0 });
        let weights = rule.weights(&[1.0; 3], Some(&gramian)).unwrap();
        assert_eq!(weights, vec![1.0; 3]);
    }

    #[test]
    fn a_seed_and_a_step_fix_the_orders() {
        let rows = [[1.0, 0.2, 0.0], [-1.0, 1.0, 0.3], [-0.5, -2.0, 1.0]];
        let gramian = Gramian::from_gradients(&rows).unwrap();
        let mut one = PcGrad::new(ProjectionOrder::Random { seed: 5 });
        let mut steps: Vec<Vec<f64>> = Vec::new();
        for _ in 0..20 {
            steps.push(one.weights(&[1.0; 3], Some(&gramian)).unwrap());
        }
        assert!(
            steps.iter().any(|weights| *weights != steps[0]),
            "the orders differ from step to step"
        );
        let mut other = PcGrad::new(ProjectionOrder::Random { seed: 5 });
        for weights in &steps {
            let mut resumed = other.clone();
            assert_eq!(
                &resumed.weights(&[1.0; 3], Some(&gramian)).unwrap(),
                weights
            );
            other = resumed;
        }
    }

    #[test]
    fn the_gramian_has_to_be_of_the_same_tasks() {
        let gramian = Gramian::from_gradients(&[[1.0], [2.0]]).unwrap();
        let mut rule = PcGrad::new(ProjectionOrder::Ascending);
        let error = rule.weights(&[1.0; 3], Some(&gramian)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "gradients: 2 given, 3 expected, one a task"
        );
    }
}
