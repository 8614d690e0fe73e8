//! The parameters of a module under names: what the states of optimizers are stored by.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// One float parameter.
#[derive(Debug, Clone)]
pub(crate) struct NamedParameter {
    /// Its id, which is another one in every process.
    pub(crate) id: ParamId,
    /// Its name, which no other parameter of the module has.
    pub(crate) name: String,
    /// Number of its entries.
    pub(crate) count: usize,
    device: Device,
    dtype: DType,
}

impl NamedParameter {
    /// `data` as a vector like this parameter, on its device without a tape; `None` if it has
    /// another length.
    pub(crate) fn vector(&self, data: TensorData) -> Option<Tensor<1>> {
        (data.shape().to_vec() == [self.count])
            .then(|| Tensor::from_data(data, (&self.device, self.dtype)))
    }
}

/// The float parameters of a module, each once, in the order of the module's fields.
#[derive(Debug, Clone)]
pub(crate) struct NamedParameters(Vec<NamedParameter>);

impl NamedParameters {
    /// The parameters of `module` with `names` by id.
    ///
    /// A parameter with several names goes by the first. One without a name, or with that of
    /// another, gets one from its place, so that none is lost.
    pub(crate) fn of<M: Module>(
        module: &M,
        names: impl IntoIterator<Item = (ParamId, String)>,
    ) -> Self {
        let mut by_id = BTreeMap::new();
        for (id, name) in names {
            by_id.entry(id).or_insert(name);
        }
        let mut collector = Collector {
            names: by_id,
            taken: BTreeSet::new(),
            parameters: Vec::new(),
        };
        module.visit(&mut collector);
        Self(collector.parameters)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &NamedParameter> {
        self.0.iter()
    }

    pub(crate) fn by_id(&self, id: ParamId) -> Option<&NamedParameter> {
        self.0.iter().find(|parameter| parameter.id == id)
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&NamedParameter> {
        self.0.iter().find(|parameter| parameter.name == name)
    }
}

struct Collector {
    names: BTreeMap<ParamId, String>,
    taken: BTreeSet<String>,
    parameters: Vec<NamedParameter>,
}

impl ModuleVisitor for Collector {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let id = param.id;
        if self.parameters.iter().any(|known| known.id == id) {
            return;
        }
        let place = self.parameters.len();
        let name = match self.names.get(&id) {
            Some(name) if !self.taken.contains(name) => name.clone(),
            Some(name) => format!("{name}#{place}"),
            None => format!("#{place}"),
        };
        self.taken.insert(name.clone());
        let value = param.val();
        self.parameters.push(NamedParameter {
            id,
            name,
            count: value.dims().iter().product(),
            device: value.device().without_autodiff(),
            dtype: value.dtype(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::LinearConfig;

    #[test]
    fn every_parameter_has_a_name_of_its_own() {
        let layer = LinearConfig::new(2, 3).init(&Device::default().autodiff());
        let bias = layer.bias.as_ref().unwrap().id;
        let both = vec![
            (layer.weight.id, "x".to_owned()),
            (layer.weight.id, "y".to_owned()),
            (bias, "x".to_owned()),
        ];
        let parameters = NamedParameters::of(&layer, both);
        let found: Vec<(&str, usize)> = parameters
            .iter()
            .map(|parameter| (parameter.name.as_str(), parameter.count))
            .collect();
        assert_eq!(found, [("x", 6), ("x#1", 3)]);
        let unnamed = NamedParameters::of(&layer, Vec::new());
        assert_eq!(unnamed.by_id(bias).unwrap().name, "#1");
        assert!(unnamed.by_name("#2").is_none());
    }

    #[test]
    fn a_vector_of_another_length_does_not_fit() {
        let layer = LinearConfig::new(2, 3).init(&Device::default().autodiff());
        let parameters = NamedParameters::of(&layer, Vec::new());
        let weight = parameters.by_id(layer.weight.id).unwrap();
        let data = |count: usize| TensorData::new(vec![0.5_f32; count], [count]);
        let vector = weight.vector(data(6)).unwrap();
        assert!(!vector.is_autodiff());
        assert!(weight.vector(data(5)).is_none());
    }
}
