//! The settings of the loop and of the outer level.

use meltr_aid::{EstimatorConfig, Policy, Products};
use meltr_core::{ConfigError, Regularizer};
use serde::{Deserialize, Serialize};

use crate::history::Eviction;
use crate::precision::Precision;
use crate::through::Through;

/// Optimizer of the outer parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OuterOptimizer {
    /// Adam with decay coupled into the gradient, as with UniVL and All-in-one.
    #[default]
    Adam,
    /// Adam with decoupled decay, as with VIOLET.
    AdamW,
    /// Descent along the running mean of the gradients, whose decay is `beta_1`; the decay of
    /// weights is decoupled. Unlike with Adam a step is the longer the larger the gradients are,
    /// which says something where they have no unit.
    Sgd,
}

/// Which batches the outer objective is taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OuterBatches {
    /// Past training batches, as published.
    #[default]
    History,
    /// Those that the task holds out for outer steps (`task.outer_splits`).
    HeldOut,
    /// Those, if the task holds out any; else past training batches.
    HeldOutIfAny,
}

/// The outer level. In the place of some of these, `meltr` has its own
/// ([`MeltrSettings`](crate::MeltrSettings)).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OuterConfig {
    /// An outer step after every so many inner steps (`K`), at least 1.
    pub every: usize,
    /// Draws that one outer step averages the hypergradients of, at least 1.
    ///
    /// Each draw takes two batches and dropout masks of its own; through the inner step, what is
    /// its own is the batch of the outer objective. With more than one, draws share nothing else:
    /// what an estimator carries from one step to the next is not carried, and a warm start is
    /// refused. Several processes share the draws; a single one is taken by all of them alike. The
    /// log tells of the first draw, but for the norm of the mean and the passes of all.
    pub accumulate: usize,
    /// Optimizer of the outer parameters.
    pub optimizer: OuterOptimizer,
    /// Its learning rate, above 0. `meltr` and the combiners of Auto-Lambda and
    /// AuxiLearn have their own.
    pub learning_rate: f64,
    /// Its weight decay, at least 0.
    pub weight_decay: f64,
    /// Decay of its first moment.
    pub beta_1: f64,
    /// Decay of its second moment, of Adam and AdamW alone.
    pub beta_2: f64,
    /// Largest norm of a hypergradient, above 0.
    pub max_grad_norm: f64,
    /// Past batches kept, at least 1.
    pub history: usize,
    /// Which batch leaves a full buffer.
    pub eviction: Eviction,
    /// Whether the buffer is emptied at the start of an epoch.
    pub clear_history_each_epoch: bool,
    /// Weight and derivative of the regularizer.
    pub regularizer: Regularizer,
    /// Which batches the outer objective is taken on.
    pub batches: OuterBatches,
    /// What the hypergradient is taken through.
    pub through: Through,
    /// Whether what a longer step alone would bring is taken out of a hypergradient through a step:
    /// the combined loss then chooses directions, and the schedule the length.
    pub per_unit_step: bool,
    /// How the inverse Hessian is approximated; the published choice is the identity.
    pub estimator: EstimatorConfig,
    /// What happens if the certificate of a hypergradient is found wanting.
    pub policy: Policy,
    /// How directional derivatives are obtained.
    pub products: Products,
    /// A difference whose estimated relative error is above this is replaced by reverse passes;
    /// 0 takes every difference as it is.
    pub reverse_above: f64,
    /// The hypergradient is compared with the exact one at the first and then at every so many
    /// outer steps; 0 switches the audit off.
    pub audit_every: usize,
}

impl Default for OuterConfig {
    fn default() -> Self {
        Self {
            every: 3,
            accumulate: 1,
            optimizer: OuterOptimizer::Adam,
            learning_rate: 1e-3,
            weight_decay: 3e-5,
            beta_1: 0.9,
            beta_2: 0.999,
            max_grad_norm: 50.0,
            history: 10,
            eviction: Eviction::Oldest,
            clear_history_each_epoch: true,
            regularizer: Regularizer::off(),
            batches: OuterBatches::History,
            through: Through::Minimum,
            per_unit_step: false,
            estimator: EstimatorConfig::Identity,
            policy: Policy::default(),
            products: Products::ForwardMode,
            reverse_above: 4e-4,
            audit_every: 10,
        }
    }
}

/// Which way a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// The larger, the better.
    #[default]
    Higher,
    /// The smaller, the better.
    Lower,
}

/// The metric that decides which checkpoint is the best.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestMetric {
    /// Its name in evaluations, such as `text_to_video.r1`.
    pub name: String,
    /// The split that it is measured on, one of `eval_splits`.
    pub split: String,
    /// Which way it improves.
    #[serde(default)]
    pub better: Better,
}

impl BestMetric {
    /// Whether `value` is better than `best`, the best so far; of equals the first stays the
    /// best, and a value that is not a number never is.
    #[must_use]
    pub fn improves(&self, value: f64, best: Option<f64>) -> bool {
        match (best, self.better) {
            (None, _) => !value.is_nan(),
            (Some(best), Better::Higher) => value > best,
            (Some(best), Better::Lower) => value < best,
        }
    }
}

/// Everything the loop needs to know beside task and model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Inner steps, at least 1.
    pub iterations: usize,
    /// Batches that one inner step averages the gradients of, at least 1.
    ///
    /// Each batch has a tape of its own, so memory does not grow with their number. Losses that
    /// compare the items of a batch with each other compare within each batch alone, and a
    /// combiner that is not linear is averaged over, not applied to averages.
    ///
    /// A weighting rule gives its weights once a step, from the mean losses of its batches and the
    /// inner products of the mean gradients. Weights that are found without gradients have to be
    /// known before the first backward pass: with more than one batch, all of them are held, and
    /// each takes one more forward pass without a tape.
    ///
    /// Several processes ([`Workers`](meltr_core::Workers)) share the batches of a step, so it has
    /// to be a multiple of their number. How many there are changes no number: a batch has its
    /// number, its masks and its place in the sums whoever takes it.
    pub accumulate: usize,
    /// Evaluate after every so many inner steps; 0 only at the end.
    pub eval_every: usize,
    /// Splits that are evaluated.
    pub eval_splits: Vec<String>,
    /// Save a checkpoint after every so many inner steps; 0 only at the end and on an interrupt.
    pub checkpoint_every: usize,
    /// Checkpoints kept beside the best one, the newest; at least 1.
    pub keep_last: usize,
    /// The metric that decides which checkpoint is kept as the best; none is if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_metric: Option<BestMetric>,
    /// The run ends once `best_metric` has not improved in so many evaluations; 0 takes all steps.
    pub patience: usize,
    /// Precision of the products of linear layers in inner steps.
    pub precision: Precision,
    /// Whether the backward passes of both levels compute the results of elementwise operations
    /// again instead of keeping them (gradient checkpointing): less memory, more time.
    ///
    /// What burn computes again has the same bits. Attention, cross entropy and the Gaussian error
    /// linear unit have shorter backward passes of their own, which keep results; burn's take their
    /// place here. So losses and gradients of the backbones and of the loss transformer are those
    /// without the setting up to rounding; a test holds the norms of the gradients to 1e-5 in f32.
    /// A run cannot go on with another choice than it was started with.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
    /// How often the response curves of the combiner are sampled in a run, ends included.
    pub response_samples: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            iterations: 300,
            accumulate: 1,
            eval_every: 0,
            eval_splits: vec!["test".to_owned()],
            checkpoint_every: 0,
            keep_last: 2,
            best_metric: None,
            patience: 0,
            precision: Precision::F32,
            gradient_checkpointing: false,
            response_samples: 4,
        }
    }
}

impl TrainConfig {
    /// Checks every number.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::require_nonzero("iterations", self.iterations)?;
        ConfigError::require_nonzero("accumulate", self.accumulate)?;
        ConfigError::require_nonzero("keep_last", self.keep_last)?;
        if let Some(metric) = &self.best_metric
            && !self.eval_splits.contains(&metric.split)
        {
            return Err(ConfigError::UnknownName {
                key: "best_metric.split",
                value: metric.split.clone(),
                known: self.eval_splits.join(", "),
            });
        }
        if self.patience > 0 && (self.best_metric.is_none() || self.eval_every == 0) {
            return Err(ConfigError::Unsupported {
                key: "patience",
                value: "above 0",
                reason: "it counts evaluations in which a metric does not improve; set \
                         `best_metric` and `eval_every` as well, or `patience` to 0",
            });
        }
        Ok(())
    }
}

impl OuterConfig {
    /// Checks every number.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first key that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::require_nonzero("every", self.every)?;
        ConfigError::require_nonzero("outer.accumulate", self.accumulate)?;
        let is_warm_started = match &self.estimator {
            EstimatorConfig::ConjugateGradient(solver) => solver.warm_start,
            EstimatorConfig::Neumann(solver) => solver.warm_start,
            _ => false,
        };
        if self.accumulate > 1 && is_warm_started {
            return Err(ConfigError::Unsupported {
                key: "estimator.warm_start",
                value: "true",
                reason: "a solve cannot start where that of another draw ended; set it to false, \
                         or `outer.accumulate` to 1",
            });
        }
        let untold = match &self.estimator {
            EstimatorConfig::OptimizerAware(_) => Some("optimizer_aware"),
            EstimatorConfig::Unrolled { .. } => Some("unrolled"),
            _ => None,
        };
        if let Some(estimator) = untold {
            return Err(ConfigError::Unsupported {
                key: "estimator",
                value: estimator,
                reason: "it has to be told of the inner steps, which this loop does not do; for a \
                         hypergradient through the optimizer's step set `outer.through` to \
                         `step`, or take `identity`, `conjugate_gradient` or `neumann`",
            });
        }
        self.through.validate(self.per_unit_step, &self.estimator)?;
        ConfigError::require_nonzero("history", self.history)?;
        ConfigError::require_probability("beta_1", self.beta_1)?;
        ConfigError::require_probability("beta_2", self.beta_2)?;
        for (key, value) in [
            ("learning_rate", self.learning_rate),
            ("max_grad_norm", self.max_grad_norm),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(ConfigError::OutOfRange {
                    key,
                    value,
                    range: "(0, inf)",
                });
            }
        }
        for (key, value) in [
            ("weight_decay", self.weight_decay),
            ("regularizer.gamma", self.regularizer.gamma),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(ConfigError::OutOfRange {
                    key,
                    value,
                    range: "[0, inf)",
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use meltr_aid::Neumann;

    use super::*;

    fn error_on_test(better: Better) -> BestMetric {
        BestMetric {
            name: "error".to_owned(),
            split: "test".to_owned(),
            better,
        }
    }

    #[test]
    fn a_metric_improves_in_its_own_direction_and_strictly() {
        let lower = error_on_test(Better::Lower);
        assert!(lower.improves(3.0, None));
        assert!(lower.improves(2.0, Some(3.0)));
        assert!(!lower.improves(3.0, Some(3.0)));
        let higher = error_on_test(Better::Higher);
        assert!(higher.improves(3.0, Some(2.0)));
        assert!(!higher.improves(1.0, Some(2.0)));
        for metric in [lower, higher] {
            assert!(!metric.improves(f64::NAN, None));
            assert!(!metric.improves(f64::NAN, Some(1.0)));
        }
    }

    #[test]
    fn a_metric_of_a_split_that_is_not_evaluated_is_refused() {
        let config = TrainConfig {
            eval_splits: vec!["valid".to_owned()],
            best_metric: Some(error_on_test(Better::Lower)),
            ..TrainConfig::default()
        };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("best_metric.split"), "{error}");
        assert!(error.contains("valid"), "{error}");
    }

    #[test]
    fn patience_without_a_metric_or_without_evaluations_is_refused() {
        let config = TrainConfig {
            patience: 2,
            eval_every: 5,
            ..TrainConfig::default()
        };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("`best_metric` and `eval_every`"), "{error}");
        let config = TrainConfig {
            eval_every: 0,
            best_metric: Some(error_on_test(Better::Lower)),
            ..config
        };
        assert!(config.validate().is_err());
    }

    #[test]
    fn gradient_checkpointing_is_written_where_it_is_on() {
        // Runs from before there was the setting are such without it.
        let written = toml::to_string(&TrainConfig::default()).unwrap();
        assert!(!written.contains("gradient_checkpointing"), "{written}");
        let config = TrainConfig {
            gradient_checkpointing: true,
            ..TrainConfig::default()
        };
        let written = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<TrainConfig>(&written).unwrap(), config);
    }

    #[test]
    fn a_warm_start_is_refused_where_several_draws_are_averaged() {
        let with = |accumulate, solver: Neumann| {
            let outer = OuterConfig {
                accumulate,
                estimator: EstimatorConfig::Neumann(solver),
                ..OuterConfig::default()
            };
            outer.validate()
        };
        let cold = Neumann::new(0.1, 2);
        let warm = cold.clone().with_warm_start();
        assert_eq!(with(2, cold.clone()), Ok(()));
        assert_eq!(with(1, warm.clone()), Ok(()));
        let error = with(2, warm).unwrap_err().to_string();
        assert!(error.contains("`outer.accumulate` to 1"), "{error}");
        let error = with(0, cold).unwrap_err().to_string();
        assert!(error.contains("`outer.accumulate` is 0"), "{error}");
    }

    #[test]
    fn a_run_that_keeps_no_checkpoint_is_refused() {
        let config = TrainConfig {
            keep_last: 0,
            ..TrainConfig::default()
        };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("keep_last"), "{error}");
    }
}
