//! The settings of all combinations of losses.

use std::collections::BTreeMap;

use meltr_core::weighting::{
    CaGrad, CaGradConfig, DynamicWeightAverage, Famo, FamoConfig, FixedWeights, GradNorm,
    GradNormConfig, Mgda, NashMtl, NashMtlConfig, PcGrad, ProjectionOrder, RandomWeighting,
    SmoothTchebycheff, TchebycheffConfig, UncertaintyConfig, UncertaintyWeighting, UpGrad,
    UpGradConfig, WeightingMethod,
};
use meltr_core::{
    AutoLambdaConfig, AuxiliaryLinearConfig, AuxiliaryNetworkConfig, ConfigError, LossInput,
    LossTransformerConfig, WarmStartConfig, WeightTransformerConfig,
};
use serde::{Deserialize, Serialize};

use crate::combiner_name::CombinerName;
use crate::config::{OuterBatches, OuterConfig, OuterOptimizer};
use crate::through::Through;

/// Learning rate of the outer steps of Auto-Lambda and AuxiLearn: the best of 0.01, 0.03 and 0.1
/// in `meltr bench auxiliary`. The released codes take 1e-4 with Adam and 1e-3 with momentum, over
/// many more outer steps than a fine-tuning run here has.
const WEIGHTS_LEARNING_RATE: f64 = 0.1;

/// Where the loss transformer of `meltr_published` starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartOfPhi {
    /// Random values, as published. Sensitivities may be negative.
    Random,
    /// Fitted to equal, positive sensitivities first.
    #[default]
    Warm,
}

/// Settings of `dynamic_weight_average`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DynamicWeightAverageConfig {
    /// Temperature, above 0; the larger, the more equal the weights. The paper takes 2.
    pub temperature: f64,
}

impl Default for DynamicWeightAverageConfig {
    fn default() -> Self {
        Self { temperature: 2.0 }
    }
}

/// Settings of `auto_lambda`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutoLambdaSettings {
    /// Weight of every loss at the start, above 0.
    pub initial_weight: f64,
    /// Learning rate of its outer steps, above 0, in the place of `outer.learning_rate`.
    pub learning_rate: f64,
}

impl Default for AutoLambdaSettings {
    fn default() -> Self {
        Self {
            initial_weight: 0.1,
            learning_rate: WEIGHTS_LEARNING_RATE,
        }
    }
}

/// Settings of `auxiliary_linear`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuxiliaryLinearSettings {
    /// Weight of every auxiliary loss at the start, above 0.
    pub initial_weight: f64,
    /// Learning rate of its outer steps, above 0, in the place of `outer.learning_rate`.
    pub learning_rate: f64,
}

impl Default for AuxiliaryLinearSettings {
    fn default() -> Self {
        Self {
            initial_weight: 1.0,
            learning_rate: WEIGHTS_LEARNING_RATE,
        }
    }
}

/// Settings of `auxiliary_network`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuxiliaryNetworkSettings {
    /// Hidden units, at least 1.
    pub d_hidden: usize,
    /// Learning rate of its outer steps, above 0, in the place of `outer.learning_rate`.
    pub learning_rate: f64,
}

impl Default for AuxiliaryNetworkSettings {
    fn default() -> Self {
        Self {
            d_hidden: 8,
            learning_rate: WEIGHTS_LEARNING_RATE,
        }
    }
}

/// Settings of `meltr`, the recommended form; those of its outer steps take the place of what
/// `outer` says. The reasons for each default are in `docs/when-it-helps.md`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeltrSettings {
    /// What the transformer reads of a loss.
    pub input: LossInput,
    /// Weight of an auxiliary loss at the start relative to that of the primary one, above 0; 1 is
    /// the plain sum.
    pub auxiliary_weight: f64,
    /// Least weight of a loss, in `[0, 1)`.
    pub floor: f64,
    /// Optimizer of its outer steps.
    pub optimizer: OuterOptimizer,
    /// Learning rate of its outer steps, above 0. With `sgd` a step has a length of at
    /// most `learning_rate max_grad_norm`, and moves a logit by about as much.
    pub learning_rate: f64,
    /// Weight decay in its outer steps, at least 0; it pulls towards the start.
    pub weight_decay: f64,
    /// Largest norm of a hypergradient, above 0.
    pub max_grad_norm: f64,
    /// What hypergradients are taken through.
    pub through: Through,
    /// Whether what a longer step alone would bring is taken out of them.
    pub per_unit_step: bool,
    /// Which batches the outer objective is taken on.
    pub batches: OuterBatches,
}

impl Default for MeltrSettings {
    fn default() -> Self {
        Self {
            input: LossInput::Relative,
            auxiliary_weight: 0.1,
            floor: 0.0,
            optimizer: OuterOptimizer::Sgd,
            learning_rate: 2.0,
            weight_decay: 0.0,
            max_grad_norm: 0.1,
            through: Through::Step,
            per_unit_step: true,
            batches: OuterBatches::HeldOutIfAny,
        }
    }
}

/// The combiner with its settings, and those of the others.
///
/// A section such as `[combiner.famo]` holds what its combiner alone needs, so that `name` can be
/// changed without anything else. Lists in it have one entry a loss, in the order of the losses.
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
    /// Where it starts in `meltr_published`; `meltr` starts with `meltr.auxiliary_weight`.
    pub start: StartOfPhi,
    /// Weight of the auxiliary losses in `fixed`, at least 0; that of the primary one is 1. With
    /// 1, the default, it is the plain sum.
    pub auxiliary_weight: f64,
    /// Weights in `fixed` by name of the loss, each at least 0; those that are not named here have
    /// the weights that `auxiliary_weight` says.
    pub weights: BTreeMap<String, f64>,
    /// How the warm start of `meltr_published` is fitted.
    pub warm_start: WarmStartConfig,
    /// Settings of `uncertainty`.
    pub uncertainty: UncertaintyConfig,
    /// Settings of `dynamic_weight_average`.
    pub dynamic_weight_average: DynamicWeightAverageConfig,
    /// Settings of `famo`.
    pub famo: FamoConfig,
    /// Settings of `smooth_tchebycheff`.
    pub smooth_tchebycheff: TchebycheffConfig,
    /// Settings of `grad_norm`.
    pub grad_norm: GradNormConfig,
    /// Settings of `ca_grad`.
    pub ca_grad: CaGradConfig,
    /// Settings of `up_grad`.
    pub up_grad: UpGradConfig,
    /// Settings of `nash_mtl`.
    pub nash_mtl: NashMtlConfig,
    /// Settings of `auto_lambda`.
    pub auto_lambda: AutoLambdaSettings,
    /// Settings of `auxiliary_linear`.
    pub auxiliary_linear: AuxiliaryLinearSettings,
    /// Settings of `auxiliary_network`.
    pub auxiliary_network: AuxiliaryNetworkSettings,
    /// Settings of `meltr`.
    pub meltr: MeltrSettings,
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
            auxiliary_weight: 1.0,
            weights: BTreeMap::new(),
            warm_start: WarmStartConfig::default(),
            uncertainty: UncertaintyConfig::default(),
            dynamic_weight_average: DynamicWeightAverageConfig::default(),
            famo: FamoConfig::default(),
            smooth_tchebycheff: TchebycheffConfig::default(),
            grad_norm: GradNormConfig::default(),
            ca_grad: CaGradConfig::default(),
            up_grad: UpGradConfig::default(),
            nash_mtl: NashMtlConfig::default(),
            auto_lambda: AutoLambdaSettings::default(),
            auxiliary_linear: AuxiliaryLinearSettings::default(),
            auxiliary_network: AuxiliaryNetworkSettings::default(),
            meltr: MeltrSettings::default(),
        }
    }
}

impl CombinerConfig {
    /// Checks what the combiner called `name` needs, for losses called `tasks`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming section and key of the first setting that is out of range.
    pub fn validate(&self, tasks: &[String]) -> Result<(), ConfigError> {
        let n_tasks = tasks.len();
        // Whether a setting is in range depends neither on the primary loss nor on a seed.
        let primary = 0;
        let learned = match self.name {
            CombinerName::MeltrPublished => return self.loss_transformer(n_tasks).validate(),
            CombinerName::Meltr => {
                self.loss_transformer(n_tasks).validate()?;
                self.weight_transformer(n_tasks, primary)
                    .validate()
                    .and_then(|()| self.outer(&OuterConfig::default()).validate())
            }
            CombinerName::AutoLambda => self
                .auto_lambda_config(n_tasks)
                .validate()
                .and_then(|()| require_positive("learning_rate", self.auto_lambda.learning_rate)),
            CombinerName::AuxiliaryLinear => self
                .auxiliary_linear_config(n_tasks, primary)
                .validate()
                .and_then(|()| {
                    require_positive("learning_rate", self.auxiliary_linear.learning_rate)
                }),
            CombinerName::AuxiliaryNetwork => self
                .auxiliary_network_config(n_tasks, primary)
                .validate()
                .and_then(|()| {
                    require_positive("learning_rate", self.auxiliary_network.learning_rate)
                }),
            _ => return self.rule(tasks, primary, 0).map(|_| ()),
        };
        learned.map_err(|error| error.within(self.section()))
    }

    /// Sizes of the loss transformer for `n_tasks` losses.
    #[must_use]
    pub fn loss_transformer(&self, n_tasks: usize) -> LossTransformerConfig {
        LossTransformerConfig::new(n_tasks, self.d_scale, self.d_model, self.d_ff)
            .with_n_heads(self.n_heads)
    }

    pub(crate) fn weight_transformer(
        &self,
        n_tasks: usize,
        primary: usize,
    ) -> WeightTransformerConfig {
        WeightTransformerConfig::new(self.loss_transformer(n_tasks), primary)
            .with_auxiliary_weight(self.meltr.auxiliary_weight)
            .with_input(self.meltr.input)
            .with_floor(self.meltr.floor)
    }

    pub(crate) fn auto_lambda_config(&self, n_tasks: usize) -> AutoLambdaConfig {
        AutoLambdaConfig::new(n_tasks).with_initial_weight(self.auto_lambda.initial_weight)
    }

    pub(crate) fn auxiliary_linear_config(
        &self,
        n_tasks: usize,
        primary: usize,
    ) -> AuxiliaryLinearConfig {
        AuxiliaryLinearConfig::new(n_tasks, primary)
            .with_initial_weight(self.auxiliary_linear.initial_weight)
    }

    pub(crate) fn auxiliary_network_config(
        &self,
        n_tasks: usize,
        primary: usize,
    ) -> AuxiliaryNetworkConfig {
        AuxiliaryNetworkConfig::new(n_tasks, primary).with_d_hidden(self.auxiliary_network.d_hidden)
    }

    /// The outer level of the combiner called `name`: `outer` with what the combiner has of its
    /// own.
    #[must_use]
    pub fn outer(&self, outer: &OuterConfig) -> OuterConfig {
        let outer = OuterConfig {
            learning_rate: self.outer_learning_rate(outer),
            ..outer.clone()
        };
        if self.name != CombinerName::Meltr {
            return outer;
        }
        let MeltrSettings {
            optimizer,
            weight_decay,
            max_grad_norm,
            through,
            per_unit_step,
            batches,
            ..
        } = self.meltr;
        OuterConfig {
            optimizer,
            weight_decay,
            max_grad_norm,
            through,
            per_unit_step,
            batches,
            ..outer
        }
    }

    /// Learning rate of the outer steps of the combiner called `name`.
    fn outer_learning_rate(&self, outer: &OuterConfig) -> f64 {
        match self.name {
            CombinerName::AutoLambda => self.auto_lambda.learning_rate,
            CombinerName::AuxiliaryLinear => self.auxiliary_linear.learning_rate,
            CombinerName::AuxiliaryNetwork => self.auxiliary_network.learning_rate,
            CombinerName::Meltr => self.meltr.learning_rate,
            _ => outer.learning_rate,
        }
    }

    /// The rule called `name` at the start of a run on losses called `tasks`, of which number
    /// `primary` is the primary one; `None` if `name` is no rule. `seed` is that of its draws.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming section and key of the first setting that is out of range.
    pub fn rule(
        &self,
        tasks: &[String],
        primary: usize,
        seed: u64,
    ) -> Result<Option<WeightingMethod>, ConfigError> {
        let n_tasks = tasks.len();
        let rule = match self.name {
            CombinerName::Primary
            | CombinerName::Sum
            | CombinerName::AutoLambda
            | CombinerName::AuxiliaryLinear
            | CombinerName::AuxiliaryNetwork
            | CombinerName::MeltrPublished
            | CombinerName::Meltr => return Ok(None),
            CombinerName::Fixed => self
                .fixed_weights(tasks, primary)
                .and_then(FixedWeights::new)
                .map(WeightingMethod::Fixed),
            CombinerName::Uncertainty => {
                UncertaintyWeighting::new(n_tasks, self.uncertainty.clone())
                    .map(WeightingMethod::Uncertainty)
            }
            CombinerName::DynamicWeightAverage => {
                DynamicWeightAverage::new(n_tasks, self.dynamic_weight_average.temperature)
                    .map(WeightingMethod::DynamicWeightAverage)
            }
            CombinerName::Random => Ok(WeightingMethod::Random(RandomWeighting::new(seed))),
            CombinerName::Famo => Famo::new(n_tasks, self.famo.clone()).map(WeightingMethod::Famo),
            CombinerName::SmoothTchebycheff => {
                let config = self.smooth_tchebycheff.clone();
                require_one_a_loss("preferences", &config.preferences, n_tasks)
                    .and_then(|()| require_one_a_loss("ideal_point", &config.ideal_point, n_tasks))
                    .and_then(|()| SmoothTchebycheff::new(config))
                    .map(WeightingMethod::SmoothTchebycheff)
            }
            CombinerName::GradNorm => {
                GradNorm::new(n_tasks, self.grad_norm.clone()).map(WeightingMethod::GradNorm)
            }
            CombinerName::PcGrad => {
                let order = ProjectionOrder::Random { seed };
                Ok(WeightingMethod::PcGrad(PcGrad::new(order)))
            }
            CombinerName::CaGrad => CaGrad::new(self.ca_grad).map(WeightingMethod::CaGrad),
            CombinerName::Mgda => Ok(WeightingMethod::Mgda(Mgda::new())),
            CombinerName::UpGrad => {
                let config = self.up_grad.clone();
                require_one_a_loss("preferences", &config.preferences, n_tasks)
                    .and_then(|()| UpGrad::new(config))
                    .map(WeightingMethod::UpGrad)
            }
            CombinerName::NashMtl => NashMtl::new(self.nash_mtl).map(WeightingMethod::NashMtl),
        };
        rule.map(Some).map_err(|error| error.within(self.section()))
    }

    /// Weights of `fixed`, in the order of the losses.
    fn fixed_weights(&self, tasks: &[String], primary: usize) -> Result<Vec<f64>, ConfigError> {
        if let Some(unknown) = self.weights.keys().find(|name| !tasks.contains(name)) {
            return Err(ConfigError::UnknownName {
                key: "weights",
                value: unknown.clone(),
                known: tasks.join(", "),
            });
        }
        if !(self.auxiliary_weight.is_finite() && self.auxiliary_weight >= 0.0) {
            return Err(ConfigError::OutOfRange {
                key: "auxiliary_weight",
                value: self.auxiliary_weight,
                range: "[0, inf)",
            });
        }
        let weight = |(number, name): (usize, &String)| {
            let unnamed = if number == primary {
                1.0
            } else {
                self.auxiliary_weight
            };
            self.weights.get(name).copied().unwrap_or(unnamed)
        };
        Ok(tasks.iter().enumerate().map(weight).collect())
    }

    /// The section of the configuration that holds what the combiner alone needs.
    fn section(&self) -> String {
        match self.name {
            CombinerName::Fixed => "combiner".to_owned(),
            name => format!("combiner.{}", name.name()),
        }
    }
}

/// `Err` if a setting is not a positive, finite number.
fn require_positive(key: &'static str, value: f64) -> Result<(), ConfigError> {
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

/// `Err` if a list has entries, but not one a loss.
fn require_one_a_loss(
    key: &'static str,
    entries: &[f64],
    n_tasks: usize,
) -> Result<(), ConfigError> {
    if entries.is_empty() || entries.len() == n_tasks {
        Ok(())
    } else {
        Err(ConfigError::Unsupported {
            key,
            value: "a list of another length",
            reason: "give one entry a loss, in the order of the losses, or none",
        })
    }
}

#[cfg(test)]
mod tests {
    use meltr_core::weighting::LossWeighting;

    use super::*;

    fn tasks() -> Vec<String> {
        ["match", "words", "frames"].map(str::to_owned).to_vec()
    }

    fn read(text: &str) -> CombinerConfig {
        toml::from_str(text).unwrap()
    }

    fn refused(text: &str) -> String {
        let config = read(text);
        config.validate(&tasks()).unwrap_err().to_string()
    }

    #[test]
    fn every_combiner_can_be_built_from_the_defaults_under_its_own_name() {
        for name in CombinerName::ALL {
            let config = CombinerConfig {
                name,
                ..CombinerConfig::default()
            };
            config.validate(&tasks()).unwrap();
            let rule = config.rule(&tasks(), 0, 1).unwrap();
            if let Some(rule) = rule {
                assert_eq!(rule.name(), name.name());
            }
            let written = toml::to_string(&config).unwrap();
            assert_eq!(read(&written), config);
        }
    }

    #[test]
    fn fixed_weights_are_named_or_those_of_all_auxiliary_losses() {
        let weights = |text: &str, primary: usize| {
            let mut rule = read(text).rule(&tasks(), primary, 0).unwrap().unwrap();
            rule.weights(&[1.0; 3], None).unwrap()
        };
        assert_eq!(weights("name = \"fixed\"", 0), [1.0, 1.0, 1.0]);
        let grid = "name = \"fixed\"\nauxiliary_weight = 0.3";
        assert_eq!(weights(grid, 1), [0.3, 1.0, 0.3]);
        let named = "name = \"fixed\"\nauxiliary_weight = 0\nweights = { frames = 2.5 }";
        assert_eq!(weights(named, 0), [1.0, 0.0, 2.5]);
    }

    #[test]
    fn a_setting_out_of_range_is_named_with_its_section() {
        for (text, parts) in [
            (
                "name = \"fixed\"\nauxiliary_weight = -1",
                ["[combiner] `auxiliary_weight`", "[0, inf)"],
            ),
            (
                "name = \"fixed\"\nweights = { word = 1.0 }",
                ["[combiner] `weights` is `word`", "match, words, frames"],
            ),
            (
                "name = \"fixed\"\nweights = { words = -0.5 }",
                ["[combiner] `weights` is -0.5", "[0, inf)"],
            ),
            (
                "name = \"famo\"\nfamo = { learning_rate = 0 }",
                ["[combiner.famo] `learning_rate`", "(0, inf)"],
            ),
            (
                "name = \"dynamic_weight_average\"\ndynamic_weight_average.temperature = -2",
                [
                    "[combiner.dynamic_weight_average] `temperature`",
                    "(0, inf)",
                ],
            ),
            (
                "name = \"up_grad\"\nup_grad.preferences = [1.0, 2.0]",
                ["[combiner.up_grad] `preferences`", "one entry a loss"],
            ),
            (
                "name = \"smooth_tchebycheff\"\nsmooth_tchebycheff.ideal_point = [1.0]",
                ["[combiner.smooth_tchebycheff] `ideal_point`", "or none"],
            ),
            (
                "name = \"nash_mtl\"\nnash_mtl.update_every = 0",
                ["[combiner.nash_mtl] `update_every`", "at least 1"],
            ),
            (
                "name = \"meltr\"\nmeltr.floor = 1",
                ["[combiner.meltr] `floor`", "[0, 1)"],
            ),
            (
                "name = \"meltr\"\nmeltr.auxiliary_weight = 0",
                ["[combiner.meltr] `auxiliary_weight`", "(0, inf)"],
            ),
            (
                "name = \"meltr\"\nmeltr.max_grad_norm = 0",
                ["[combiner.meltr] `max_grad_norm`", "(0, inf)"],
            ),
            (
                "name = \"meltr\"\nmeltr.through = \"minimum\"",
                ["[combiner.meltr] `per_unit_step`", "`through`"],
            ),
            (
                "name = \"auto_lambda\"\nauto_lambda.initial_weight = 0",
                ["[combiner.auto_lambda] `initial_weight`", "(0, inf)"],
            ),
            (
                "name = \"auxiliary_linear\"\nauxiliary_linear.learning_rate = 0",
                ["[combiner.auxiliary_linear] `learning_rate`", "(0, inf)"],
            ),
            (
                "name = \"auxiliary_network\"\nauxiliary_network.d_hidden = 0",
                ["[combiner.auxiliary_network] `d_hidden`", "at least 1"],
            ),
        ] {
            let error = refused(text);
            for part in parts {
                assert!(error.contains(part), "{text}: {error}");
            }
        }
    }

    #[test]
    fn a_setting_that_does_not_exist_is_refused() {
        for text in ["lambda = 0.3", "famo = { rate = 0.1 }", "name = \"rlw\""] {
            assert!(toml::from_str::<CombinerConfig>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_weights_of_auxilearn_have_a_learning_rate_of_their_own() {
        let outer = OuterConfig::default();
        let learned = read("name = \"auto_lambda\"\nauto_lambda.learning_rate = 0.02");
        assert_eq!(learned.outer_learning_rate(&outer), 0.02);
        assert_eq!(
            read("name = \"meltr_published\"").outer_learning_rate(&outer),
            outer.learning_rate
        );
    }
}
