//! The eight losses of UniVL.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use burn::tensor::{Bool, Int, Tensor};
use meltr_core::{ConfigError, Dual};
use serde::{Deserialize, Serialize};

/// A loss of UniVL; the order of the variants is the published token order.
///
/// | loss | passes of the encoders | cross encoder |
/// |---|---|---|
/// | `joint` | clean | – |
/// | `align` | clean | all `B x B` pairs, first token |
/// | `mlm`, `mfm` | masked | masked, matched pairs |
/// | `m_joint` | masked | – |
/// | `m_align` | masked | all `B x B` pairs, first token |
/// | `decoder` | clean | matched pairs, then the decoder |
/// | `m_decoder` | masked | masked, matched pairs, then the decoder |
///
/// Passes are shared between the losses of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UniVlLoss {
    /// Max-margin ranking of cosine similarities of mean-pooled encodings.
    Joint,
    /// Contrastive loss on cross-encoder similarities, text to video.
    Align,
    /// Masked language modelling.
    Mlm,
    /// Masked frame modelling: noise-contrastive, over all frames of the batch.
    Mfm,
    /// As `Joint`, on masked inputs.
    MJoint,
    /// As `Align`, on masked inputs.
    MAlign,
    /// Caption by teacher forcing.
    Decoder,
    /// As `Decoder`, from masked inputs.
    MDecoder,
}

impl UniVlLoss {
    /// All eight, in published order.
    pub const ALL: [Self; 8] = [
        Self::Joint,
        Self::Align,
        Self::Mlm,
        Self::Mfm,
        Self::MJoint,
        Self::MAlign,
        Self::Decoder,
        Self::MDecoder,
    ];

    /// The published name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Joint => "joint",
            Self::Align => "align",
            Self::Mlm => "mlm",
            Self::Mfm => "mfm",
            Self::MJoint => "m_joint",
            Self::MAlign => "m_align",
            Self::Decoder => "decoder",
            Self::MDecoder => "m_decoder",
        }
    }
}

impl fmt::Display for UniVlLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for UniVlLoss {
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

/// Everything that [`UniVl`](crate::UniVl) computes for all eight losses, for parity checks.
#[derive(Debug, Clone)]
pub struct UniVlTrace {
    /// Named tensors, flattened, each with its shape.
    pub tensors: Vec<(String, Vec<usize>, Tensor<1>)>,
}

impl UniVlTrace {
    pub(crate) fn push<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) {
        let shape = tensor.dims().to_vec();
        let count: usize = shape.iter().product();
        self.tensors
            .push((name.to_owned(), shape, tensor.reshape([count])));
    }
}

/// Max-margin ranking over both directions; the diagonal is part of the mean, which is a constant
/// `2 margin / B`.
pub(crate) fn max_margin(similarity: Dual<2>, margin: f64) -> Dual<1> {
    let [batch_size, _] = similarity.dims();
    let identity = Tensor::<2>::eye(batch_size, &similarity.value.device());
    let diagonal = similarity
        .clone()
        .map_linear(|x| (x * identity.clone()).sum_dim(1)); // [B, 1]
    let shifted = similarity.map_elementwise(|x| x + margin, |x, _| x.ones_like());
    let by_text = shifted.clone().sub(diagonal.clone()).relu();
    let by_video = shifted
        .sub(diagonal.map_linear(|x| x.swap_dims(0, 1)))
        .relu();
    by_text.add(by_video).map_linear(Tensor::mean)
}

/// Mean over rows of `-log softmax` at the diagonal.
pub(crate) fn diagonal_cross_entropy(logits: Dual<2>) -> Dual<1> {
    let [batch_size, _] = logits.dims();
    let identity = Tensor::<2>::eye(batch_size, &logits.value.device());
    logits
        .log_softmax()
        .map_linear(|x| (x * identity.clone()).sum() / -(batch_size as f64))
}

/// Mean over rows of `-log softmax` at `targets`, `[rows]`; every row counts.
pub(crate) fn cross_entropy(logits: Dual<2>, targets: Tensor<1, Int>) -> Dual<1> {
    let rows = logits.dims()[0];
    let targets = targets.reshape([rows, 1]);
    logits
        .log_softmax()
        .map_linear(|x| x.gather(1, targets.clone()).mean().neg())
}

/// Noise-contrastive loss of masked frames.
///
/// - scores: predicted features of the masked frames, `[M, Dv]`
/// - frames: normalized clean features of all frames, `[B * F, Dv]`
/// - pad: padding of all frames, `[B * F]`
/// - targets: position of each masked frame among all frames, `[M]`
pub(crate) fn masked_frame_loss(
    scores: Dual<2>,
    frames: Dual<2>,
    pad: Tensor<1, Bool>,
    targets: Tensor<1, Int>,
) -> Dual<1> {
    let rows = scores.dims()[0];
    let columns = frames.dims()[0];
    let logits = scores.matmul(frames.map_linear(|x| x.transpose()));
    let pad = pad.reshape([1, columns]).expand([rows, columns]);
    let logits = Dual {
        value: logits.value.mask_fill(pad.clone(), -1e8),
        tangent: logits.tangent.map(|tangent| tangent.mask_fill(pad, 0.0)),
    };
    cross_entropy(logits, targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_perfect_similarity_leaves_the_constant_floor() {
        let similarity = Tensor::<2>::eye(4, &Device::default());
        let loss: f32 = max_margin(Dual::constant(similarity), 0.1)
            .value
            .into_scalar();
        assert!((loss - 2.0 * 0.1 / 4.0).abs() < 1e-6);
    }

    #[test]
    fn equal_logits_cost_the_logarithm_of_their_number() {
        let logits = Tensor::<2>::zeros([3, 3], &Device::default());
        let loss: f32 = diagonal_cross_entropy(Dual::constant(logits))
            .value
            .into_scalar();
        assert!((loss - 3f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn an_unknown_loss_lists_the_known_ones() {
        let error = "allign".parse::<UniVlLoss>().unwrap_err().to_string();
        assert!(
            error.contains("`allign`") && error.contains("m_align"),
            "{error}"
        );
    }
}
