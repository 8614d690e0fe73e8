//! The names of All-in-one's losses, its cosine, and what is recorded on the way to the losses.

use std::fmt;
use std::ops::{Add, Div};
use std::str::FromStr;

use burn::tensor::{Device, Tensor};
use meltr_core::{ConfigError, Dual};
use serde::{Deserialize, Serialize};

use crate::univl_losses::diagonal_cross_entropy;

/// The square of 1e-8, the shortest length that a vector is divided by.
const SHORTEST_SQUARED: f64 = 1e-16;

/// A loss of All-in-one; [`AllInOneTask::losses`](crate::AllInOneTask::losses) has those of a task.
///
/// With `B` items, `T` frames a video, `L` words a text, `P` patches a frame and `O` options a
/// question, all passes through all blocks:
///
/// | loss | pass | sequences | tokens each | of the last block |
/// |---|---|---|---|---|
/// | `mlm` | masked words and frames | `B T` | `L + 1 + P` | the words |
/// | `ind_itc` | words alone | `B` | `L` | the first |
/// | | frames alone | `B T` | `1 + P` | the first |
/// | `openend_vqa` | words and frames | `B T` | `L + 1 + P` | the first |
/// | `mc_vqa` | words and frames | `B O T` | `L + 1 + P` | the first |
///
/// No two of these passes are the same, so that what the losses of one call share is the embedding
/// of the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllInOneLoss {
    /// Masked language modelling beside the frames.
    Mlm,
    /// Contrastive loss between texts and videos that were encoded apart, both directions added.
    IndItc,
    /// Classification of the answer to an open-ended question.
    OpenendVqa,
    /// Choice among the options of a question.
    McVqa,
}

impl AllInOneLoss {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Mlm, Self::IndItc, Self::OpenendVqa, Self::McVqa];

    /// The published name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mlm => "mlm",
            Self::IndItc => "ind_itc",
            Self::OpenendVqa => "openend_vqa",
            Self::McVqa => "mc_vqa",
        }
    }
}

impl fmt::Display for AllInOneLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AllInOneLoss {
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

/// Everything that [`AllInOne`](crate::AllInOne) computes for its losses, for parity checks.
#[derive(Debug, Clone)]
pub struct AllInOneTrace {
    /// Named tensors, flattened, each with its shape.
    pub tensors: Vec<(String, Vec<usize>, Tensor<1>)>,
}

impl AllInOneTrace {
    pub(crate) fn push<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) {
        let shape = tensor.dims().to_vec();
        let count: usize = shape.iter().product();
        self.tensors
            .push((name.to_owned(), shape, tensor.reshape([count])));
    }
}

/// Cosines of all pairs of rows, `[N, D]` and `[M, D]` to `[N, M]`.
pub(crate) fn cosine(a: Dual<2>, b: Dual<2>) -> Dual<2> {
    unit_rows(a).matmul(unit_rows(b).map_linear(|x| x.transpose()))
}

/// Cross entropy at the diagonal of `[B, B]` logits by rows plus that by columns: the sum of both
/// directions, not their mean.
pub(crate) fn both_directions(logits: Dual<2>) -> Dual<1> {
    let by_column = logits.clone().map_linear(|x| x.transpose());
    diagonal_cross_entropy(logits).add(diagonal_cross_entropy(by_column))
}

/// The loss of a batch that has nothing for it.
pub(crate) fn zero(device: &Device) -> Dual<1> {
    Dual::constant(Tensor::zeros([1], device))
}

/// Rows divided by their lengths; a row of zeros stays one.
fn unit_rows(x: Dual<2>) -> Dual<2> {
    let lengths = x
        .clone()
        .map_elementwise(|x| x.square(), |x, _| x * 2.0)
        .map_linear(|x| x.sum_dim(1))
        .map_elementwise(
            |x| x.clamp_min(SHORTEST_SQUARED).sqrt(),
            |x, y| (y.recip() * 0.5).mask_fill(x.lower_elem(SHORTEST_SQUARED), 0.0),
        );
    x.div(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dual<const N: usize>(rows: [[f32; 2]; N]) -> Dual<2> {
        Dual::constant(Tensor::from_floats(rows, &Device::default()))
    }

    fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().iter::<f32>().collect()
    }

    #[test]
    fn names_and_losses_are_one_to_one() {
        for loss in AllInOneLoss::ALL {
            assert_eq!(loss.name().parse::<AllInOneLoss>().unwrap(), loss);
        }
        let error = "itc".parse::<AllInOneLoss>().unwrap_err().to_string();
        assert!(
            error.contains("`itc`") && error.contains("ind_itc"),
            "{error}"
        );
    }

    #[test]
    fn cosines_ignore_lengths_and_survive_zeros() {
        let texts = dual([[3.0, 0.0], [0.0, 0.0]]);
        let videos = dual([[0.1, 0.0], [0.0, -7.0], [1.0, 1.0]]);
        let found = host(cosine(texts, videos).value);
        let half = std::f32::consts::FRAC_1_SQRT_2;
        for (found, expected) in found.into_iter().zip([1.0, 0.0, half, 0.0, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn the_derivative_of_cosines_is_a_difference_quotient() {
        let x = Tensor::<2>::from_floats([[0.3, -1.2], [0.8, 2.0]], &Device::default());
        let c = Tensor::<2>::from_floats([[1.0, -0.5], [0.2, 0.7]], &Device::default());
        let y = dual([[1.5, 0.2]]);
        let step = 1e-2;
        let at = |x: Tensor<2>| cosine(Dual::constant(x), y.clone()).value;
        let quotient =
            (at(x.clone() + c.clone() * step) - at(x.clone() - c.clone() * step)) / (2.0 * step);
        let tangent = cosine(Dual::new(x, c), y.clone()).tangent.unwrap();
        for (tangent, quotient) in host(tangent).into_iter().zip(host(quotient)) {
            assert!((tangent - quotient).abs() < 1e-3, "{tangent} {quotient}");
        }
    }

    #[test]
    fn equal_logits_cost_the_logarithm_of_their_number_in_each_direction() {
        let logits = Dual::constant(Tensor::<2>::zeros([3, 3], &Device::default()));
        let loss = host(both_directions(logits).value)[0];
        assert!((loss - 2.0 * 3f32.ln()).abs() < 1e-6);
    }
}
