//! All settings of the engine.

use meltr_aid::{EstimatorConfig, Policy, Products};
use meltr_core::{ConfigError, LossTransformerConfig, Regularizer, WarmStartConfig};
use serde::{Deserialize, Serialize};

use crate::history::Eviction;

/// Which combination of losses is minimized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CombinerName {
    /// The primary loss alone.
    Primary,
    /// The plain sum of all losses.
    Sum,
    /// The loss transformer, learned.
    #[default]
    Meltr,
}

impl CombinerName {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Primary, Self::Sum, Self::Meltr];

    /// Name as in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Sum => "sum",
            Self::Meltr => "meltr",
        }
    }
}

/// Where the loss transformer starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartOfPhi {
    /// Random values, as published. Sensitivities may be negative.
    Random,
    /// Fitted to equal, positive sensitivities first.
    #[default]
    Warm,
}

/// The combiner with its sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CombinerConfig {
    /// Which combiner.
    pub name: CombinerName,
    /// Hidden width of the scale embedding of the loss transformer.
    pub d_scale: usize,
    /// Token width of the loss transformer; a multiple of `n_heads`.
    pub d_model: usize,
    /// Hidden width of its feed-forward block.
    pub d_ff: usize,
    /// Its attention heads.
    pub n_heads: usize,
    /// Where it starts.
    pub start: StartOfPhi,
    /// How the warm start is fitted.
    pub warm_start: WarmStartConfig,
}

impl Default for CombinerConfig {
    fn default() -> Self {
        let univl = LossTransformerConfig::univl();
        Self {
            name: CombinerName::Meltr,
            d_scale: univl.d_scale,
            d_model: univl.d_model,
            d_ff: univl.d_ff,
            n_heads: univl.n_heads,
            start: StartOfPhi::Warm,
            warm_start: WarmStartConfig::default(),
        }
    }
}

impl CombinerConfig {
    /// Sizes of the loss transformer for `n_tasks` losses.
    #[must_use]
    pub fn loss_transformer(&self, n_tasks: usize) -> LossTransformerConfig {
        LossTransformerConfig::new(n_tasks, self.d_scale, self.d_model, self.d_ff)
            .with_n_heads(self.n_heads)
    }
}

/// Optimizer of the outer parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OuterOptimizer {
    /// Adam with decay coupled into the gradient, as with UniVL and All-in-one.
    #[default]
    Adam,
    /// Adam with decoupled decay, as with VIOLET.
    AdamW,
}

/// The outer level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OuterConfig {
    /// An outer step after every so many inner steps (`K`), at least 1.
    pub every: usize,
    /// Optimizer of the outer parameters.
    pub optimizer: OuterOptimizer,
    /// Its learning rate, above 0.
    pub learning_rate: f64,
    /// Its weight decay, at least 0.
    pub weight_decay: f64,
    /// Decay of its first moment.
    pub beta_1: f64,
    /// Decay of its second moment.
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
            estimator: EstimatorConfig::Identity,
            policy: Policy::default(),
            products: Products::ForwardMode,
            reverse_above: 4e-4,
            audit_every: 10,
        }
    }
}

/// Everything the loop needs to know beside task and model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Inner steps, at least 1.
    pub iterations: usize,
    /// Evaluate after every so many inner steps; 0 only at the end.
    pub eval_every: usize,
    /// Splits that are evaluated.
    pub eval_splits: Vec<String>,
    /// Save weights after every so many inner steps; 0 only at the end.
    pub checkpoint_every: usize,
    /// How often the response curves of the combiner are sampled in a run, ends included.
    pub response_samples: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            iterations: 300,
            eval_every: 0,
            eval_splits: vec!["test".to_owned()],
            checkpoint_every: 0,
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
        ConfigError::require_nonzero("iterations", self.iterations)
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
        let untold = match &self.estimator {
            EstimatorConfig::OptimizerAware(_) => Some("optimizer_aware"),
            EstimatorConfig::Unrolled { .. } => Some("unrolled"),
            _ => None,
        };
        if let Some(estimator) = untold {
            return Err(ConfigError::Unsupported {
                key: "estimator",
                value: estimator,
                reason: "it has to be told of the inner steps, which this loop does not do; take \
                         `identity`, `conjugate_gradient` or `neumann`",
            });
        }
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
