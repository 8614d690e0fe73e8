//! The weighted sum of attention, `softmax(S) V`, with a short backward pass.

use burn::tensor::activation::softmax;
use burn::tensor::{GradientCheckpointingStrategy, Tensor};
use meltr_core::{Dual, Pass};

/// `dropout(softmax(scores))` times `values`, the softmax over the last axis.
///
/// On a tape that keeps what it computed the gradient has a path of its own, since burn takes
/// softmax apart there: its backward pass goes over the scores about twelve times and takes the
/// exponential again. With `M` the scaled mask of dropout, `1` a column of ones and `x°` the value
/// of `x` off the tape:
///
/// ```text
/// P = softmax(S°)
/// W = (S - S°) ∘ P + P              value P,           dW = P ∘ dS
/// t = W 1                           value 1,           dt = <P, dS> in each row
/// O = (M ∘ W) V                     value softmax(S)V, dO = (M ∘ P ∘ dS) V + (M ∘ P) dV
/// O + (t° - t) ∘ O°                 value O,           d  = dO - <P, dS> ∘ O
/// ```
///
/// which is the derivative, as `dsoftmax = P ∘ (dS - <P, dS>)`. Backwards that is three passes over
/// the scores: the products with `P` and `1`, and the sum of what comes through `t` and through
/// `O`.
///
/// # Shapes
///
/// - scores: `[.., Lq, Lk]`; values: `[.., Lk, d]`; output: `[.., Lq, d]`
pub(crate) fn weighted_sum<const D: usize>(
    scores: Dual<D>,
    values: Dual<D>,
    dropout: f64,
    pass: Pass,
) -> Dual<D> {
    let has_tangent = scores.tangent.is_some() || values.tangent.is_some();
    if has_tangent || !is_kept(&scores.value) {
        return scores.softmax().dropout(dropout, pass).matmul(values);
    }
    let scores = scores.value;
    let constant = scores.clone().inner();
    let shares = softmax(constant.clone(), D - 1);
    let mut column = [1; D];
    column[D - 2] = shares.dims()[D - 1];
    let ones = Tensor::<D>::ones(column, (&shares.device(), shares.dtype()));

    let weights = (scores - constant) * shares.clone() + shares;
    let total = weights.clone().matmul(ones); // [.., Lq, 1]
    let weights = Dual::constant(weights).dropout(dropout, pass);
    let sum = weights.matmul(values).value;
    let rest = total.clone().inner() - total;
    Dual::constant(sum.clone() + rest * sum.inner())
}

/// Whether `x` is on a tape that keeps results for the backward pass.
///
/// With gradient checkpointing burn computes elementwise results again; a path of our own would
/// keep them.
pub(crate) fn is_kept<const D: usize>(x: &Tensor<D>) -> bool {
    let keeps = Some(GradientCheckpointingStrategy::Disabled);
    x.is_tracked() && x.gradient_checkpointing_strategy() == keeps
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    /// Values between -scale and scale.
    fn arbitrary(shape: [usize; 4], scale: f64, phase: f64, device: &Device) -> Tensor<4> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|at| (scale * (at as f64 * 0.7 + phase).sin()) as f32)
            .collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn host(x: Tensor<4>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    /// Output, and gradients by scores and values, of 2 x 3 attentions of 5 queries to 7 keys.
    fn run(
        device: &Device,
        pass: Pass,
        attend: impl Fn(Dual<4>, Dual<4>) -> Dual<4>,
    ) -> [Vec<f64>; 3] {
        let scores = arbitrary([2, 3, 5, 7], 4.0, 0.1, device).require_grad();
        let values = arbitrary([2, 3, 7, 4], 1.0, 0.5, device).require_grad();
        pass.begin(device);
        let out = attend(
            Dual::constant(scores.clone()),
            Dual::constant(values.clone()),
        )
        .value;
        let slope = arbitrary([2, 3, 5, 4], 1.0, 1.3, device);
        let gradients = (out.clone() * slope).sum().backward();
        [
            host(out.inner()),
            host(scores.grad(&gradients).unwrap()),
            host(values.grad(&gradients).unwrap()),
        ]
    }

    fn assert_close(found: &[Vec<f64>; 3], expected: &[Vec<f64>; 3]) {
        for (found, expected) in found.iter().zip(expected) {
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 5e-6, "{found} {expected}");
            }
        }
    }

    #[test]
    fn value_and_gradients_are_those_of_the_softmax() {
        let device = Device::default().autodiff();
        for (prob, pass) in [(0.0, Pass::Evaluation), (0.3, Pass::Stochastic { seed: 7 })] {
            let found = run(&device, pass, |scores, values| {
                weighted_sum(scores, values, prob, pass)
            });
            let expected = run(&device, pass, |scores, values| {
                scores.softmax().dropout(prob, pass).matmul(values)
            });
            assert_close(&found, &expected);
        }
    }

    #[test]
    fn scores_far_apart_lose_no_digits() {
        let device = Device::default().autodiff();
        let shift = |scores: Dual<4>| {
            let far = arbitrary([1, 1, 1, 7], 1e4, 2.0, &device);
            scores.add_constant(far)
        };
        let found = run(&device, Pass::Evaluation, |scores, values| {
            weighted_sum(shift(scores), values, 0.0, Pass::Evaluation)
        });
        let expected = run(&device, Pass::Evaluation, |scores, values| {
            shift(scores).softmax().matmul(values)
        });
        assert_close(&found, &expected);
    }

    #[test]
    fn recomputed_activations_give_the_same_gradients() {
        let plain = Device::default().autodiff();
        let recomputing = plain.clone().gradient_checkpointing();
        let attend =
            |scores: Dual<4>, values: Dual<4>| weighted_sum(scores, values, 0.0, Pass::Evaluation);
        let found = run(&recomputing, Pass::Evaluation, attend);
        let expected = run(&plain, Pass::Evaluation, attend);
        assert_close(&found, &expected);
    }
}
