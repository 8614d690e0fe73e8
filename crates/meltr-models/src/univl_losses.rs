//! The eight losses of UniVL.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, IndexingUpdateOp, Int, Tensor};
use meltr_core::{ConfigError, Dual};
use serde::{Deserialize, Serialize};

use crate::weighted_sum::is_kept;

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
    if logits.tangent.is_none() && is_kept(&logits.value) {
        return Dual::constant(kept_cross_entropy(logits.value, targets));
    }
    logits
        .log_softmax()
        .map_linear(|x| x.gather(1, targets.clone()).mean().neg())
}

/// [`cross_entropy`] of `logits` `[rows, n]` on a tape that keeps what it computed.
///
/// Value and gradient come from one softmax off the tape. The tape sees their inner product with
/// `x - x°`, which is 0, where `x°` are the logits off the tape; backwards that is one pass over the
/// logits, where the logarithm of the softmax takes about ten:
///
/// ```text
/// P = softmax(x°),   G = (P - one-hot(targets)) / rows
/// loss = mean(max x° - ln max P - x° at targets) + <x - x°, G>
/// ```
///
/// as `ln Σ exp x = max x - ln max P`.
fn kept_cross_entropy(logits: Tensor<2>, targets: Tensor<2, Int>) -> Tensor<1> {
    let [rows, n_classes] = logits.dims();
    let count = rows * n_classes;
    let constant = logits.clone().inner();
    let targets = targets.inner();
    let shares = softmax(constant.clone(), 1);
    let at_target = constant.clone().gather(1, targets.clone()); // [rows, 1]
    let minus_one = at_target.ones_like().neg();
    let log_sum = constant.clone().max_dim(1) - shares.clone().max_dim(1).log();
    let loss = (log_sum - at_target).mean();
    let slope = shares.scatter(1, targets, minus_one, IndexingUpdateOp::Add) / rows as f64;
    let nothing = (logits - constant)
        .reshape([1, count])
        .matmul(slope.reshape([count, 1]));
    nothing.reshape([1]) + loss
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
    use burn::tensor::activation::log_softmax;
    use burn::tensor::{Device, TensorData};

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
    fn on_a_tape_value_and_gradient_are_those_of_the_log_softmax() {
        let device = Device::default().autodiff();
        let values: Vec<f32> = (0..60).map(|at| 5.0 * (at as f32 * 0.7).sin()).collect();
        let logits = Tensor::<2>::from_data(TensorData::new(values, [5, 12]), &device);
        let logits = logits.require_grad();
        let targets = Tensor::<1, Int>::from_data([3, 11, 0, 7, 7], &device);
        let run = |loss: Tensor<1>| {
            let gradients = loss.backward();
            let gradient = logits.grad(&gradients).unwrap();
            (loss.inner().into_scalar::<f32>(), gradient)
        };
        let (loss, gradient) =
            run(cross_entropy(Dual::constant(logits.clone()), targets.clone()).value);
        let log_shares = log_softmax(logits.clone(), 1);
        let (expected_loss, expected) =
            run(log_shares.gather(1, targets.reshape([5, 1])).mean().neg());
        assert!(
            (loss - expected_loss).abs() < 2e-6,
            "{loss} {expected_loss}"
        );
        let apart: f32 = (gradient - expected).abs().max().into_scalar();
        assert!(apart < 1e-7, "{apart}");
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
