//! In which precision the products of linear layers are computed.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor};
use meltr_aid::ParamVector;
use serde::{Deserialize, Serialize};

/// What a module calls a linear layer when it is walked through.
const LINEAR: &str = "Struct:Linear";

/// Precision of the products of linear layers in inner steps.
///
/// Parameters, losses, everything between two linear layers, both optimizers and the
/// hypergradient stay in f32; so do evaluations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As all else: 24 bits of mantissa.
    #[default]
    F32,
    /// Inputs, weights and their gradients are rounded to 8 bits of mantissa for the products;
    /// the range is that of f32, so that no loss needs scaling.
    Bf16,
}

impl Precision {
    /// The module that computes in place of `module`, its parameters leaves of the tape under the
    /// same ids; `None` if `module` does so itself.
    #[must_use]
    pub fn computing<M: Module>(self, module: &M) -> Option<M> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some(module.clone().map(&mut LinearWeights {
                containers: Vec::new(),
                dtype: DType::BF16,
            })),
        }
    }

    /// A gradient by the parameters of a computing module as one by those of the module itself.
    #[must_use]
    pub fn gradient(self, gradient: ParamVector) -> ParamVector {
        match self {
            Self::F32 => gradient,
            Self::Bf16 => gradient.map(|entry| entry.clone().cast(DType::F32)),
        }
    }
}

/// Casts the weights of linear layers, and nothing else.
struct LinearWeights {
    /// What the parts are that have been entered.
    containers: Vec<String>,
    dtype: DType,
}

impl ModuleMapper for LinearWeights {
    fn enter_module(&mut self, _name: &str, container_type: &str) {
        self.containers.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.containers.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let is_weight = D == 2 && self.containers.last().is_some_and(|last| last == LINEAR);
        if !is_weight {
            return param;
        }
        let (id, value, mapper) = param.consume();
        let requires_grad = value.is_require_grad();
        let on_tape = value.is_autodiff();
        let value = value.inner().cast(self.dtype);
        let value = if on_tape { value.autodiff() } else { value };
        Param::from_mapped_value(id, value.set_require_grad(requires_grad), mapper)
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
    use burn::tensor::{Device, Int};
    use meltr_core::{Dual, Weights};

    use super::*;

    #[derive(Module, Debug)]
    struct Small {
        table: Embedding,
        layer: Linear,
    }

    fn small() -> Small {
        let device = Device::default().autodiff();
        Small {
            table: EmbeddingConfig::new(5, 16).init(&device),
            layer: LinearConfig::new(16, 3).init(&device),
        }
    }

    fn loss(model: &Small) -> Tensor<1> {
        let ids = Tensor::<2, Int>::from_data([[0, 1, 4]], &model.table.weight.val().device());
        let x = Dual::constant(model.table.forward(ids).reshape([3, 16]));
        let y = Weights::constant(&model.layer).apply(x).value;
        y.powf_scalar(2.0).sum()
    }

    fn gradient(precision: Precision, model: &Small) -> (f64, ParamVector) {
        let own = precision.computing(model);
        let computing = own.as_ref().unwrap_or(model);
        let loss = loss(computing);
        let value = loss.clone().into_scalar::<f64>();
        let gradient = ParamVector::from_gradients(&mut loss.backward(), computing);
        (value, precision.gradient(gradient))
    }

    #[test]
    fn weights_of_linear_layers_alone_are_rounded() {
        let model = small();
        let computing = Precision::Bf16.computing(&model).unwrap();
        assert_eq!(computing.layer.weight.val().dtype(), DType::BF16);
        assert_eq!(computing.table.weight.val().dtype(), DType::F32);
        let bias = computing.layer.bias.as_ref().unwrap().val();
        assert_eq!(bias.dtype(), DType::F32);
        assert_eq!(model.layer.weight.val().dtype(), DType::F32);
        assert_eq!(computing.layer.weight.id, model.layer.weight.id);
    }

    #[test]
    fn gradients_reach_every_parameter_and_are_near_those_of_f32() {
        let model = small();
        let (exact_loss, exact) = gradient(Precision::F32, &model);
        let (loss, rounded) = gradient(Precision::Bf16, &model);
        assert!(rounded.covers(&exact) && exact.covers(&rounded));
        assert_eq!(rounded.dtype(), Some(DType::F32));
        let error = rounded.add_scaled(-1.0, &exact).norm() / exact.norm();
        // 8 bits of mantissa: 2^-9 a rounding, a few of them.
        assert!(error > 0.0 && error < 0.02, "{error}");
        assert!((loss / exact_loss - 1.0).abs() < 0.02);
    }
}
