//! Seeded initial values, drawn on the host so that they are the same on every device.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::state_dict::Path;

/// Where a parameter sits in its module.
#[derive(Debug, Clone, Copy)]
pub struct ParameterSite<'a> {
    /// Dotted path of field names, such as `encoder.linear1.weight`.
    pub path: &'a str,
    /// Name of the struct that declares the parameter, such as `Linear`.
    pub module: &'a str,
    /// Shape as stored: `[d_input, d_output]` for the weight of a linear map.
    pub shape: &'a [usize],
}

/// How to fill a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Leaves the parameter as it is.
    Keep,
    /// All entries the same.
    Constant(f64),
    /// Normal with mean 0 and the given standard deviation.
    Normal(f64),
    /// Uniform in `[-bound, bound)`.
    Uniform(f64),
}

/// Fills every parameter of a module by `rule`.
///
/// Each parameter has a random stream of its own, made from `seed` and its path, so adding or
/// removing one module leaves the values of the others unchanged.
#[must_use]
pub fn initialize<M: Module>(module: M, seed: u64, rule: impl Fn(ParameterSite<'_>) -> Fill) -> M {
    module.map(&mut Filler {
        seed,
        rule,
        path: Path::default(),
    })
}

struct Filler<F> {
    seed: u64,
    rule: F,
    path: Path,
}

impl<F: Fn(ParameterSite<'_>) -> Fill> ModuleMapper for Filler<F> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape().to_vec();
        let path = self.path.dotted();
        let fill = (self.rule)(ParameterSite {
            path: &path,
            module: self.path.module(),
            shape: &shape,
        });
        let count: usize = shape.iter().product();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ fnv1a(&path));
        let values: Vec<f32> = match fill {
            Fill::Keep => return param,
            Fill::Constant(value) => vec![value as f32; count],
            Fill::Normal(std) => (0..count)
                .map(|_| {
                    let z: f64 = StandardNormal.sample(&mut rng);
                    (z * std) as f32
                })
                .collect(),
            Fill::Uniform(bound) => (0..count)
                .map(|_| (rng.random_range(-1.0..1.0) * bound) as f32)
                .collect(),
        };
        let (id, old, mapper) = param.consume();
        let requires_grad = old.is_require_grad();
        let tensor = Tensor::from_data(TensorData::new(values, shape), &old.device());
        Param::from_mapped_value(id, tensor.set_require_grad(requires_grad), mapper)
    }
}

/// FNV-1a hash of a path: stable across platforms and versions.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    fn weights(layer: &Linear) -> Vec<f32> {
        layer.weight.val().into_data().try_to_vec().unwrap()
    }

    #[test]
    fn the_same_seed_gives_the_same_values_and_another_seed_others() {
        let layer = LinearConfig::new(3, 4).init(&Device::default());
        let fill = |seed| initialize(layer.clone(), seed, |_| Fill::Normal(1.0));
        assert_eq!(weights(&fill(1)), weights(&fill(1)));
        assert_ne!(weights(&fill(1)), weights(&fill(2)));
    }

    #[test]
    fn the_rule_sees_path_struct_and_shape() {
        let layer = LinearConfig::new(3, 4).init(&Device::default());
        let filled = initialize(layer, 0, |site| {
            match (site.path, site.module, site.shape) {
                ("weight", "Linear", [3, 4]) => Fill::Constant(2.0),
                ("bias", "Linear", [4]) => Fill::Constant(-1.0),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(weights(&filled), vec![2.0; 12]);
    }
}
