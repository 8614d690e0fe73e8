//! Dual numbers over tensors: a value together with its derivative along one direction.

use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::activation::{relu, softmax};
use burn::tensor::module::linear;

use crate::pass::{Pass, dropout_mask};

/// A tensor and, optionally, its tangent: the derivative along a direction chosen at the input.
///
/// The forward pass of a network written on duals computes `f(x)` and `<df/dx, c>` together. The
/// tangent is an ordinary tensor on the tape, so one ordinary backward pass through it gives
/// `d/dphi <df/dx, c>`, the mixed second derivative that a hypergradient needs, without any
/// second-order autodiff.
///
/// Without a tangent the operations cost what they cost on plain tensors.
#[derive(Debug, Clone)]
pub struct Dual<const D: usize> {
    /// The value.
    pub value: Tensor<D>,
    /// The derivative of `value` along the input's tangent, of the same shape; `None` is zero.
    pub tangent: Option<Tensor<D>>,
}

impl<const D: usize> Dual<D> {
    /// A value whose derivative is not wanted, or is zero.
    #[must_use]
    pub fn constant(value: Tensor<D>) -> Self {
        Self { value, tangent: None }
    }

    /// A value with a tangent of the same shape.
    ///
    /// # Panics
    ///
    /// Panics if the shapes differ.
    #[must_use]
    pub fn new(value: Tensor<D>, tangent: Tensor<D>) -> Self {
        assert_eq!(value.dims(), tangent.dims(), "value and tangent differ in shape");
        Self { value, tangent: Some(tangent) }
    }

    /// Applies a linear map (no constant term) to value and tangent.
    #[must_use]
    pub fn map_linear<const E: usize>(self, map: impl Fn(Tensor<D>) -> Tensor<E>) -> Dual<E> {
        Dual { value: map(self.value), tangent: self.tangent.map(map) }
    }

    /// `self + constant`, broadcast by the caller.
    #[must_use]
    pub fn add_constant(self, constant: Tensor<D>) -> Self {
        Self { value: self.value + constant, tangent: self.tangent }
    }

    /// Sum of two duals.
    #[must_use]
    pub fn add(self, other: Self) -> Self {
        let tangent = match (self.tangent, other.tangent) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        Self { value: self.value + other.value, tangent }
    }

    /// Matrix product over the last two axes: `(AB)' = A'B + AB'`.
    #[must_use]
    pub fn matmul(self, other: Self) -> Self {
        let left = self.tangent.map(|tangent| tangent.matmul(other.value.clone()));
        let right = other.tangent.map(|tangent| self.value.clone().matmul(tangent));
        let tangent = match (left, right) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        Self { value: self.value.matmul(other.value), tangent }
    }

    /// `max(x, 0)`; the derivative at 0 is 0.
    #[must_use]
    pub fn relu(self) -> Self {
        let tangent = self
            .tangent
            .map(|tangent| tangent.mask_fill(self.value.clone().lower_equal_elem(0.0), 0.0));
        Self { value: relu(self.value), tangent }
    }

    /// Softmax over the last axis: `y' = y (x' - <y, x'>)`.
    #[must_use]
    pub fn softmax(self) -> Self {
        let value = softmax(self.value, D - 1);
        let tangent = self.tangent.map(|tangent| {
            let mean = (value.clone() * tangent.clone()).sum_dim(D - 1);
            value.clone() * (tangent - mean)
        });
        Self { value, tangent }
    }

    /// Layer normalisation over the last axis, population variance.
    ///
    /// With `x̂ = (x - mean) / std`: `x̂' = (x' - mean(x') - x̂ mean(x̂ x')) / std`.
    #[must_use]
    pub fn layer_norm(self, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Self {
        let centered = self.value.clone() - self.value.mean_dim(D - 1);
        let std = (centered.clone().square().mean_dim(D - 1) + epsilon).sqrt();
        let normalized = centered / std.clone();
        let tangent = self.tangent.map(|tangent| {
            let centered = tangent.clone() - tangent.clone().mean_dim(D - 1);
            let along = (normalized.clone() * tangent).mean_dim(D - 1);
            (centered - normalized.clone() * along) / std * gamma.clone().unsqueeze()
        });
        Self { value: normalized * gamma.unsqueeze() + beta.unsqueeze(), tangent }
    }

    /// Inverted dropout with one mask for value and tangent.
    #[must_use]
    pub fn dropout(self, prob: f64, pass: Pass) -> Self {
        match dropout_mask(&self.value, prob, pass) {
            Some(mask) => self.map_linear(|x| x * mask.clone()),
            None => self,
        }
    }
}

impl Dual<2> {
    /// `x W + b`; the tangent loses the constant term.
    ///
    /// # Shapes
    ///
    /// - self: `[rows, d_input]`
    /// - output: `[rows, d_output]`
    #[must_use]
    pub fn linear(self, layer: &Linear) -> Self {
        self.affine(layer.weight.val(), layer.bias.as_ref().map(|bias| bias.val()))
    }

    /// As [`linear`](Self::linear), from a weight `[d_input, d_output]` and a bias `[d_output]`.
    #[must_use]
    pub fn affine(self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self {
            value: linear(self.value, weight.clone(), bias),
            tangent: self.tangent.map(|tangent| linear(tangent, weight, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    /// Largest difference between the tangent and a central difference of the value.
    fn tangent_error(f: impl Fn(Dual<2>) -> Dual<2>) -> f32 {
        let device = Device::default();
        let x = Tensor::<2>::from_floats([[0.3, -1.2, 0.8, 2.0], [1.5, 0.2, -0.4, 0.9]], &device);
        let c = Tensor::<2>::from_floats([[1.0, -0.5, 0.2, 0.7], [-0.3, 0.9, 0.4, -1.0]], &device);
        let step = 1e-2;
        let tangent = f(Dual::new(x.clone(), c.clone())).tangent.unwrap();
        let plus = f(Dual::constant(x.clone() + c.clone() * step)).value;
        let minus = f(Dual::constant(x - c * step)).value;
        ((plus - minus) / (2.0 * step) - tangent).abs().max().into_scalar()
    }

    #[test]
    fn softmax_matches_its_difference_quotient() {
        assert!(tangent_error(Dual::softmax) < 1e-4);
    }

    #[test]
    fn layer_norm_matches_its_difference_quotient() {
        let device = Device::default();
        let gamma = Tensor::<1>::from_floats([1.0, 0.5, -0.3, 2.0], &device);
        let beta = Tensor::<1>::from_floats([0.1, 0.0, 3.0, -1.0], &device);
        let error = tangent_error(|x| x.layer_norm(gamma.clone(), beta.clone(), 1e-5));
        assert!(error < 1e-3, "{error}");
    }

    #[test]
    fn matmul_with_itself_matches_its_difference_quotient() {
        let error = tangent_error(|x| {
            let transposed = x.clone().map_linear(Tensor::transpose);
            x.matmul(transposed)
        });
        assert!(error < 1e-3, "{error}");
    }

    #[test]
    fn relu_has_derivative_zero_at_zero() {
        let device = Device::default();
        let x = Tensor::<2>::from_floats([[0.0, -1.0, 2.0]], &device);
        let out = Dual::new(x.clone(), x.ones_like()).relu().tangent.unwrap();
        assert_eq!(out.into_data().try_to_vec::<f32>().unwrap(), vec![0.0, 0.0, 1.0]);
    }
}
