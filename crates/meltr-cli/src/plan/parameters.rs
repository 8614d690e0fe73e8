//! How many numbers a network learns, by its parts.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

/// What parameters without a name are counted under.
const UNNAMED: &str = "(unnamed)";

/// Numbers of learned values by the part of the network: what stands before the first dot of the
/// published names. A parameter with several names is counted under the first.
pub(super) fn by_part<M: Module>(
    module: &M,
    names: Vec<(ParamId, String)>,
) -> BTreeMap<String, usize> {
    let mut sizes = Sizes::default();
    module.visit(&mut sizes);
    let mut part_of: BTreeMap<ParamId, String> = BTreeMap::new();
    for (id, name) in names {
        let part = name.split('.').next().unwrap_or(UNNAMED).to_owned();
        part_of.entry(id).or_insert(part);
    }
    let mut parts = BTreeMap::new();
    for (id, size) in sizes.0 {
        let part = part_of.get(&id).map_or(UNNAMED, String::as_str);
        *parts.entry(part.to_owned()).or_insert(0) += size;
    }
    parts
}

/// Number of values of every parameter.
#[derive(Default)]
struct Sizes(BTreeMap<ParamId, usize>);

impl ModuleVisitor for Sizes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let size = param.val().dims().iter().product();
        self.0.insert(param.id, size);
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::LinearConfig;
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn every_value_is_counted_once_under_its_part() {
        let layer = LinearConfig::new(2, 3).init(&Device::default());
        let weight = layer.weight.id;
        let names = vec![
            (weight, "head.map.weight".to_owned()),
            (weight, "tied.weight".to_owned()),
        ];
        let parts = by_part(&layer, names);
        assert_eq!(
            parts,
            BTreeMap::from([("head".to_owned(), 6), (UNNAMED.to_owned(), 3)])
        );
        assert_eq!(parts.values().sum::<usize>(), layer.num_params());
    }
}
