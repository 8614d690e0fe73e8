//! The names of the combinations of losses.

use std::str::FromStr;

use meltr_core::ConfigError;
use serde::{Deserialize, Serialize};

/// Which combination of losses is minimized.
///
/// The order is that of tables: what is fixed, what follows a rule, what is learned in outer
/// steps. How each method works is said where it is implemented.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum CombinerName {
    /// The primary loss alone.
    Primary,
    /// The plain sum of all losses.
    Sum,
    /// Weights of a person's choice.
    Fixed,
    /// Uncertainty weighting.
    Uncertainty,
    /// Dynamic weight average (DWA).
    DynamicWeightAverage,
    /// Random loss weighting (RLW).
    Random,
    /// FAMO.
    Famo,
    /// Smooth Tchebycheff scalarization.
    SmoothTchebycheff,
    /// GradNorm.
    GradNorm,
    /// PCGrad.
    PcGrad,
    /// CAGrad.
    CaGrad,
    /// MGDA.
    Mgda,
    /// UPGrad.
    UpGrad,
    /// Nash-MTL.
    NashMtl,
    /// Auto-Lambda, learned.
    AutoLambda,
    /// The linear combination of AuxiLearn, learned.
    AuxiliaryLinear,
    /// The network of AuxiLearn, learned.
    AuxiliaryNetwork,
    /// The loss transformer as published, learned.
    MeltrPublished,
    /// Positive weights of a fixed sum from the loss transformer, learned: the recommended form.
    #[default]
    Meltr,
}

impl CombinerName {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 19] = [
        Self::Primary,
        Self::Sum,
        Self::Fixed,
        Self::Uncertainty,
        Self::DynamicWeightAverage,
        Self::Random,
        Self::Famo,
        Self::SmoothTchebycheff,
        Self::GradNorm,
        Self::PcGrad,
        Self::CaGrad,
        Self::Mgda,
        Self::UpGrad,
        Self::NashMtl,
        Self::AutoLambda,
        Self::AuxiliaryLinear,
        Self::AuxiliaryNetwork,
        Self::MeltrPublished,
        Self::Meltr,
    ];

    /// Those that MELTR's paper compares, with the recommended form for its own.
    pub const COMPARED: [Self; 3] = [Self::Primary, Self::Sum, Self::Meltr];

    /// Name as in configurations; that of the rule, where it is one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Sum => "sum",
            Self::Fixed => "fixed",
            Self::Uncertainty => "uncertainty",
            Self::DynamicWeightAverage => "dynamic_weight_average",
            Self::Random => "random",
            Self::Famo => "famo",
            Self::SmoothTchebycheff => "smooth_tchebycheff",
            Self::GradNorm => "grad_norm",
            Self::PcGrad => "pc_grad",
            Self::CaGrad => "ca_grad",
            Self::Mgda => "mgda",
            Self::UpGrad => "up_grad",
            Self::NashMtl => "nash_mtl",
            Self::AutoLambda => "auto_lambda",
            Self::AuxiliaryLinear => "auxiliary_linear",
            Self::AuxiliaryNetwork => "auxiliary_network",
            Self::MeltrPublished => "meltr_published",
            Self::Meltr => "meltr",
        }
    }
}

impl FromStr for CombinerName {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|combiner| combiner.name() == name)
            .ok_or_else(|| ConfigError::UnknownName {
                key: "combiner.name",
                value: name.to_owned(),
                known: Self::ALL.map(Self::name).join(", "),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combiner_has_one_name_and_its_place() {
        for (place, combiner) in CombinerName::ALL.into_iter().enumerate() {
            assert_eq!(combiner as usize, place);
            assert_eq!(combiner.name().parse::<CombinerName>(), Ok(combiner));
            let written = serde_json::to_value(combiner).unwrap();
            assert_eq!(written, combiner.name());
        }
        assert!(CombinerName::ALL.is_sorted());
        assert!(CombinerName::COMPARED.is_sorted());
    }

    #[test]
    fn an_unknown_name_is_answered_with_all_that_are_known() {
        let error = "dwa".parse::<CombinerName>().unwrap_err().to_string();
        for part in ["`combiner.name`", "`dwa`", "dynamic_weight_average, random"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
