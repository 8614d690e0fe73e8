//! The names of VIOLET's losses, and what is recorded on the way to them.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Tensor;
use meltr_core::ConfigError;
use serde::{Deserialize, Serialize};

/// A loss of VIOLET; [`VioletTask::losses`](crate::VioletTask::losses) has those of a task.
///
/// With `B` items and `O` texts an item (1 but for multiple choice):
///
/// | loss | frames | texts | cross encoder |
/// |---|---|---|---|
/// | `mc` | primary | clean | `B O` pairs, first token |
/// | `oe` | primary | clean | `B` pairs, first token |
/// | `vtm` | primary for retrieval, otherwise masked | clean | `B²` pairs, first token |
/// | `mtm` | masked | masked | `B O` pairs, all tokens |
/// | `mvm` | masked | masked | `B` pairs, all tokens |
///
/// "Primary" is [`PrimaryFrames`](crate::PrimaryFrames). One call encodes clean and masked frames
/// at most once each, runs a pair that two losses need once, and runs the pairs of `mtm` for `mvm`
/// too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VioletLoss {
    /// Choice among the options of a question.
    Mc,
    /// Classification of the answer to an open-ended question.
    Oe,
    /// Video-text matching: each video has to find its text among all texts of the batch.
    Vtm,
    /// Masked text modelling.
    Mtm,
    /// Masked visual-token modelling: the dVAE ids of hidden patches.
    Mvm,
}

impl VioletLoss {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Mc, Self::Oe, Self::Vtm, Self::Mtm, Self::Mvm];

    /// The published name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mc => "mc",
            Self::Oe => "oe",
            Self::Vtm => "vtm",
            Self::Mtm => "mtm",
            Self::Mvm => "mvm",
        }
    }
}

impl fmt::Display for VioletLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for VioletLoss {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|loss| loss.name() == name)
            .ok_or_else(|| ConfigError::UnknownName {
                key: "losses",
                value: name.to_owned(),
                known: Self::ALL.map(Self::name).join(", "),
            })
    }
}

/// Everything that [`Violet`](crate::Violet) computes for its losses, for parity checks.
#[derive(Debug, Clone)]
pub struct VioletTrace {
    /// Named tensors, flattened, each with its shape.
    pub tensors: Vec<(String, Vec<usize>, Tensor<1>)>,
}

impl VioletTrace {
    pub(crate) fn push<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) {
        let shape = tensor.dims().to_vec();
        let count: usize = shape.iter().product();
        self.tensors
            .push((name.to_owned(), shape, tensor.reshape([count])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_losses_are_one_to_one() {
        for loss in VioletLoss::ALL {
            assert_eq!(loss.name().parse::<VioletLoss>().unwrap(), loss);
        }
        let error = "vtn".parse::<VioletLoss>().unwrap_err().to_string();
        assert!(error.contains("`vtn`") && error.contains("vtm"), "{error}");
    }
}
