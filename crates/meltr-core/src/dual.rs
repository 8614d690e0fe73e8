//! Dual numbers over tensors: a value together with its derivative along one direction.

use std::ops::{Add, Div, Sub};

use burn::module::Param;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::Tensor;
use burn::tensor::activation::{log_softmax, relu, softmax};
use burn::tensor::module::{layer_norm, linear};

use crate::activation::{
    gaussian_unit, gaussian_unit_along, hyperbolic_tangent, hyperbolic_tangent_along,
};
use crate::fused::{self, Affine, is_plain};
use crate::pass::{Pass, dropout_mask};

/// A tensor and, optionally, its tangent: the derivative along a direction chosen at the input.
///
/// The forward pass of a network written on duals computes `f(x)` and `<df/dx, c>` together. The
/// tangent is an ordinary tensor on the tape, so one ordinary backward pass through it gives
/// `d/dphi <df/dx, c>`, the mixed second derivative that a hypergradient needs, without any
/// second-order autodiff.
///
/// Where parameters carry tangents too ([`Weights`]), the same pass yields the derivative of a
/// network's outputs along a direction in parameter space, at about three times the cost of a
/// plain pass, whatever the number of outputs. Without a tangent the operations cost what they
/// cost on plain tensors.
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
        Self {
            value,
            tangent: None,
        }
    }

    /// A value with a tangent of the same shape.
    ///
    /// # Panics
    ///
    /// Panics if the shapes differ.
    #[must_use]
    pub fn new(value: Tensor<D>, tangent: Tensor<D>) -> Self {
        assert_eq!(
            value.dims(),
            tangent.dims(),
            "value and tangent differ in shape"
        );
        Self {
            value,
            tangent: Some(tangent),
        }
    }

    /// Sizes of the axes.
    #[must_use]
    pub fn dims(&self) -> [usize; D] {
        self.value.dims()
    }

    /// The tangent, zeros if there is none.
    #[must_use]
    pub fn tangent_or_zeros(&self) -> Tensor<D> {
        self.tangent
            .clone()
            .unwrap_or_else(|| self.value.zeros_like())
    }

    /// Applies a linear map (no constant term) to value and tangent.
    #[must_use]
    pub fn map_linear<const E: usize>(self, map: impl Fn(Tensor<D>) -> Tensor<E>) -> Dual<E> {
        Dual {
            value: map(self.value),
            tangent: self.tangent.map(map),
        }
    }

    /// Applies an elementwise function; `slope` gives its derivative from input and output.
    ///
    /// The slope is computed only where there is a tangent.
    #[must_use]
    pub fn map_elementwise(
        self,
        function: impl Fn(Tensor<D>) -> Tensor<D>,
        slope: impl Fn(Tensor<D>, Tensor<D>) -> Tensor<D>,
    ) -> Self {
        match self.tangent {
            None => Self::constant(function(self.value)),
            Some(tangent) => {
                let value = function(self.value.clone());
                let tangent = tangent * slope(self.value, value.clone());
                Self {
                    value,
                    tangent: Some(tangent),
                }
            }
        }
    }

    /// Whether value and tangent are off the tape, in the memory of this process, and of one
    /// shape.
    fn is_plain(&self) -> bool {
        let fits =
            |tangent: &Tensor<D>| is_plain::<f32, D>(tangent) && tangent.dims() == self.dims();
        is_plain::<f32, D>(&self.value) && self.tangent.as_ref().is_none_or(fits)
    }

    /// `self + constant`, broadcast by the caller.
    #[must_use]
    pub fn add_constant(self, constant: Tensor<D>) -> Self {
        Self {
            value: self.value + constant,
            tangent: self.tangent,
        }
    }

    /// `self * factor` with a constant factor.
    #[must_use]
    pub fn scale(self, factor: f64) -> Self {
        self.map_linear(|x| x * factor)
    }

    /// Matrix product over the last two axes: `(AB)' = A'B + AB'`.
    ///
    /// Of factors of two precisions the product is taken in the lower one and returned in the
    /// higher one.
    #[must_use]
    pub fn matmul(self, other: Self) -> Self {
        let left = self
            .tangent
            .map(|tangent| matrix_product(tangent, other.value.clone()));
        let right = other
            .tangent
            .map(|tangent| matrix_product(self.value.clone(), tangent));
        let tangent = match (left, right) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        Self {
            value: matrix_product(self.value, other.value),
            tangent,
        }
    }

    /// Concatenation along an axis.
    #[must_use]
    pub fn cat(parts: Vec<Self>, dim: usize) -> Self {
        let tangent = parts
            .iter()
            .any(|part| part.tangent.is_some())
            .then(|| Tensor::cat(parts.iter().map(Self::tangent_or_zeros).collect(), dim));
        Self {
            value: Tensor::cat(parts.into_iter().map(|part| part.value).collect(), dim),
            tangent,
        }
    }

    /// `max(x, 0)`; the derivative at 0 is 0.
    #[must_use]
    pub fn relu(self) -> Self {
        let tangent = self
            .tangent
            .map(|tangent| tangent.mask_fill(self.value.clone().lower_equal_elem(0.0), 0.0));
        Self {
            value: relu(self.value),
            tangent,
        }
    }

    /// `x²`, elementwise: `2 x x'`.
    #[must_use]
    pub fn square(self) -> Self {
        let tangent = self
            .tangent
            .map(|tangent| self.value.clone() * (tangent * 2.0));
        Self {
            value: self.value.square(),
            tangent,
        }
    }

    /// `tanh x`.
    #[must_use]
    pub fn tanh(self) -> Self {
        match self.tangent {
            None => Self::constant(hyperbolic_tangent(self.value)),
            Some(tangent) => {
                let (value, tangent) = hyperbolic_tangent_along(self.value, tangent);
                Self::new(value, tangent)
            }
        }
    }

    /// Gaussian error linear unit, exact: `x Φ(x)`.
    #[must_use]
    pub fn gelu(self) -> Self {
        match self.tangent {
            None => Self::constant(gaussian_unit(self.value)),
            Some(tangent) => {
                let (value, tangent) = gaussian_unit_along(self.value, tangent);
                Self::new(value, tangent)
            }
        }
    }

    /// Softmax over the last axis: `y' = y (x' - <y, x'>)`.
    #[must_use]
    pub fn softmax(self) -> Self {
        if self.is_plain() {
            return match self.tangent {
                None => Self::constant(fused::softmax(self.value)),
                Some(tangent) => {
                    let (value, tangent) = fused::softmax_along(self.value, tangent);
                    Self::new(value, tangent)
                }
            };
        }
        let value = softmax(self.value, D - 1);
        let tangent = self.tangent.map(|tangent| {
            let mean = (value.clone() * tangent.clone()).sum_dim(D - 1);
            value.clone() * (tangent - mean)
        });
        Self { value, tangent }
    }

    /// Logarithm of the softmax over the last axis: `y' = x' - <softmax(x), x'>`.
    #[must_use]
    pub fn log_softmax(self) -> Self {
        let value = log_softmax(self.value, D - 1);
        let tangent = self.tangent.map(|tangent| {
            let mean = (value.clone().exp() * tangent.clone()).sum_dim(D - 1);
            tangent - mean
        });
        Self { value, tangent }
    }

    /// Layer normalization over the last axis, population variance.
    ///
    /// With `x̂ = (x - mean) / std`: `x̂' = (x' - mean(x') - x̂ mean(x̂ x')) / std`.
    #[must_use]
    pub fn layer_norm(self, gamma: Dual<1>, beta: Dual<1>, epsilon: f64) -> Self {
        let is_constant =
            self.tangent.is_none() && gamma.tangent.is_none() && beta.tangent.is_none();
        if self.is_plain() && gamma.is_plain() && beta.is_plain() {
            if is_constant {
                let value = fused::layer_norm(self.value, gamma.value, beta.value, epsilon);
                return Self::constant(value);
            }
            let tangent = self.tangent_or_zeros();
            let affine = Affine {
                gamma: gamma.value,
                beta: beta.value,
                gamma_tangent: gamma.tangent,
                beta_tangent: beta.tangent,
            };
            let (value, tangent) = fused::layer_norm_along(self.value, tangent, affine, epsilon);
            return Self::new(value, tangent);
        }
        let value = layer_norm(
            self.value.clone(),
            gamma.value.clone(),
            Some(beta.value.clone()),
            epsilon,
        );
        if is_constant {
            return Self::constant(value);
        }
        let centered = self.value.clone() - self.value.mean_dim(D - 1);
        let std = (centered.clone().square().mean_dim(D - 1) + epsilon).sqrt();
        let normalized = centered / std.clone();
        let from_input = self.tangent.map(|tangent| {
            let centered = tangent.clone() - tangent.clone().mean_dim(D - 1);
            let along = (normalized.clone() * tangent).mean_dim(D - 1);
            (centered - normalized.clone() * along) / std * gamma.value.unsqueeze()
        });
        let from_gamma = gamma
            .tangent
            .map(|tangent| normalized.clone() * tangent.unsqueeze());
        let tangent = match (from_input, from_gamma) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        let tangent = match (tangent, beta.tangent) {
            (Some(a), Some(b)) => Some(a + b.unsqueeze()),
            (Some(a), None) => Some(a),
            (None, Some(b)) => Some(normalized.zeros_like() + b.unsqueeze()),
            (None, None) => None,
        };
        Self { value, tangent }
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

/// Sum of two duals; axes of size 1 are broadcast.
impl<const D: usize> Add for Dual<D> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let tangent = match (self.tangent, other.tangent) {
            (Some(a), Some(b)) => Some(a + b),
            // A lone tangent may have to be broadcast.
            (Some(a), None) => Some(a + other.value.zeros_like()),
            (None, Some(b)) => Some(b + self.value.zeros_like()),
            (None, None) => None,
        };
        Self {
            value: self.value + other.value,
            tangent,
        }
    }
}

/// Difference of two duals; axes of size 1 are broadcast.
impl<const D: usize> Sub for Dual<D> {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.add(other.map_linear(Tensor::neg))
    }
}

/// Elementwise quotient; axes of size 1 are broadcast: `(a/b)' = (a' - (a/b) b') / b`.
impl<const D: usize> Div for Dual<D> {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        let value = self.value / other.value.clone();
        let tangent = match (self.tangent, other.tangent) {
            (None, None) => None,
            (Some(a), None) => Some(a / other.value),
            (a, Some(b)) => {
                let numerator = match a {
                    Some(a) => a - value.clone() * b,
                    None => (value.clone() * b).neg(),
                };
                Some(numerator / other.value)
            }
        };
        Self { value, tangent }
    }
}

impl Dual<2> {
    /// A linear layer whose parameters carry no tangent.
    #[must_use]
    pub fn apply(self, layer: &Linear) -> Self {
        Weights::constant(layer).apply(self)
    }

    /// `x W + b`: `y' = x' W + x W' + b'`.
    ///
    /// # Shapes
    ///
    /// - self: `[rows, d_input]`; weight: `[d_input, d_output]`; bias: `[d_output]`
    /// - output: `[rows, d_output]`
    #[must_use]
    pub fn affine(self, weight: Dual<2>, bias: Option<Dual<1>>) -> Self {
        let is_plain =
            self.is_plain() && weight.is_plain() && bias.as_ref().is_none_or(Dual::<1>::is_plain);
        let (bias, bias_tangent) = match bias {
            Some(Dual { value, tangent }) => (Some(value), tangent),
            None => (None, None),
        };
        // Products whose sum is wanted, and the constant term.
        let sum = |first: (Tensor<2>, Tensor<2>), second: Option<(Tensor<2>, Tensor<2>)>, bias| {
            if is_plain {
                let second = second.map(|(x, weight)| product(x, weight, None));
                return fused::sum_of_parts(product(first.0, first.1, None), second, bias);
            }
            // The constant term rides along with one of the products.
            let first = product(first.0, first.1, bias);
            match second {
                Some((x, weight)) => first + product(x, weight, None),
                None => first,
            }
        };
        let (x, w) = (self.value, weight.value);
        let tangent = match (self.tangent, weight.tangent) {
            (Some(dx), Some(dw)) => Some(sum((dx, w.clone()), Some((x.clone(), dw)), bias_tangent)),
            (Some(dx), None) => Some(sum((dx, w.clone()), None, bias_tangent)),
            (None, Some(dw)) => Some(sum((x.clone(), dw), None, bias_tangent)),
            (None, None) => None,
        };
        Self {
            value: sum((x, w), None, bias),
            tangent,
        }
    }
}

/// The product in the lower precision of the two, the result in the higher.
fn matrix_product<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    let (a_type, b_type) = (a.dtype(), b.dtype());
    if a_type == b_type {
        return a.matmul(b);
    }
    let (lower, higher) = if a_type.size() < b_type.size() {
        (a_type, b_type)
    } else {
        (b_type, a_type)
    };
    a.cast(lower).matmul(b.cast(lower)).cast(higher)
}

/// `x W + b`: the product in the precision of the weight, the result in that of `x`.
fn product(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let (outer, inner) = (x.dtype(), weight.dtype());
    if outer == inner {
        return linear(x, weight, bias);
    }
    let product = linear(x.cast(inner), weight, None).cast(outer);
    match bias {
        Some(bias) => product + bias.unsqueeze(),
        None => product,
    }
}

/// A module together with a direction in its parameter space, a module of the same shape.
///
/// `Weights` walk down a module side by side ([`of`](Self::of)) until a parameter is reached,
/// which is then a [`Dual`]. Without a direction everything is an ordinary forward pass.
#[derive(Debug)]
pub struct Weights<'a, M> {
    /// Holds the parameters.
    pub value: &'a M,
    /// Holds the direction; `None` is zero.
    pub tangent: Option<&'a M>,
}

impl<M> Clone for Weights<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Weights<'_, M> {}

impl<'a, M> Weights<'a, M> {
    /// A module without a direction.
    #[must_use]
    pub fn constant(value: &'a M) -> Self {
        Self {
            value,
            tangent: None,
        }
    }

    /// A module and a direction in its parameter space.
    #[must_use]
    pub fn new(value: &'a M, tangent: &'a M) -> Self {
        Self {
            value,
            tangent: Some(tangent),
        }
    }

    /// A part of the module.
    #[must_use]
    pub fn of<N>(self, part: impl Fn(&'a M) -> &'a N) -> Weights<'a, N> {
        Weights {
            value: part(self.value),
            tangent: self.tangent.map(part),
        }
    }
}

impl<'a, M> Weights<'a, Vec<M>> {
    /// The elements in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Weights<'a, M>> + ExactSizeIterator {
        (0..self.value.len()).map(move |index| self.of(|list| &list[index]))
    }
}

impl<const D: usize> Weights<'_, Param<Tensor<D>>> {
    /// The parameter with its tangent.
    #[must_use]
    pub fn dual(self) -> Dual<D> {
        Dual {
            value: self.value.val(),
            tangent: self.tangent.map(|tangent| tangent.val()),
        }
    }
}

impl Weights<'_, Linear> {
    /// `x W + b`.
    ///
    /// # Shapes
    ///
    /// - x: `[rows, d_input]`
    /// - output: `[rows, d_output]`
    #[must_use]
    pub fn apply(self, x: Dual<2>) -> Dual<2> {
        let bias = self.value.bias.as_ref().map(|bias| Dual {
            value: bias.val(),
            tangent: self
                .tangent
                .and_then(|tangent| tangent.bias.as_ref())
                .map(|tangent| tangent.val()),
        });
        x.affine(self.of(|layer| &layer.weight).dual(), bias)
    }
}

impl Weights<'_, LayerNorm> {
    /// Layer normalization over the last axis.
    #[must_use]
    pub fn apply<const D: usize>(self, x: Dual<D>, epsilon: f64) -> Dual<D> {
        let gamma = self.of(|layer| &layer.gamma).dual();
        let beta = match &self.value.beta {
            Some(beta) => Dual {
                value: beta.val(),
                tangent: self
                    .tangent
                    .and_then(|tangent| tangent.beta.as_ref())
                    .map(|tangent| tangent.val()),
            },
            None => Dual::constant(gamma.value.zeros_like()),
        };
        x.layer_norm(gamma, beta, epsilon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};

    /// Largest difference between the tangent and a central difference of the value.
    fn tangent_error(f: impl Fn(Dual<2>) -> Dual<2>) -> f32 {
        let device = Device::default();
        let x = Tensor::<2>::from_floats([[0.3, -1.2, 0.8, 2.0], [1.5, 0.2, -0.4, 0.9]], &device);
        let c = Tensor::<2>::from_floats([[1.0, -0.5, 0.2, 0.7], [-0.3, 0.9, 0.4, -1.0]], &device);
        let step = 1e-2;
        let tangent = f(Dual::new(x.clone(), c.clone())).tangent.unwrap();
        let plus = f(Dual::constant(x.clone() + c.clone() * step)).value;
        let minus = f(Dual::constant(x - c * step)).value;
        ((plus - minus) / (2.0 * step) - tangent)
            .abs()
            .max()
            .into_scalar()
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
        let error = tangent_error(|x| {
            let (gamma, beta) = (gamma.clone(), beta.clone());
            x.layer_norm(Dual::constant(gamma), Dual::constant(beta), 1e-5)
        });
        assert!(error < 1e-3, "{error}");
    }

    #[test]
    fn elementwise_functions_match_their_difference_quotients() {
        assert!(tangent_error(Dual::gelu) < 1e-3);
        assert!(tangent_error(Dual::tanh) < 1e-3);
        assert!(tangent_error(Dual::log_softmax) < 1e-3);
        let quotient = |x: Dual<2>| {
            let denominator = x.clone().map_elementwise(Tensor::exp, |_, y| y);
            x.div(denominator)
        };
        assert!(tangent_error(quotient) < 1e-3);
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
    fn a_product_of_two_precisions_is_rounded_and_comes_back() {
        let device = Device::default();
        let x = Tensor::<2>::from_floats([[1.0, 1.0 / 512.0], [-0.5, 3.0]], &device);
        let rounded = Dual::constant(x.clone().cast(DType::BF16));
        let product = Dual::new(x.clone(), x.ones_like()).matmul(rounded);
        let exact = x.clone().matmul(x);
        assert_eq!(product.value.dtype(), DType::F32);
        assert_eq!(product.tangent.unwrap().dtype(), DType::F32);
        let error: f32 = (product.value - exact).abs().max().into_scalar();
        // 8 bits of mantissa at a product of 9.
        assert!(error < 0.05, "{error}");
    }

    #[test]
    fn relu_has_derivative_zero_at_zero() {
        let device = Device::default();
        let x = Tensor::<2>::from_floats([[0.0, -1.0, 2.0]], &device);
        let out = Dual::new(x.clone(), x.ones_like()).relu().tangent.unwrap();
        assert_eq!(
            out.into_data().try_to_vec::<f32>().unwrap(),
            vec![0.0, 0.0, 1.0]
        );
    }
}
