//! The parameters of a module under published names, in PyTorch's layout.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Tensor, TensorData};

/// Parameters by published name, each in PyTorch's layout: linear weights `[d_output, d_input]`,
/// normalization parameters called `weight` and `bias`.
pub type StateDict = BTreeMap<String, TensorData>;

/// A tensor whose shape in a state dict is not the module's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// Published name.
    pub name: String,
    /// Shape that the module has, in PyTorch's layout.
    pub expected: Vec<usize>,
    /// Shape in the state dict.
    pub found: Vec<usize>,
}

/// What became of each name when a state dict was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Names that were loaded.
    pub applied: Vec<String>,
    /// Names that the module has and the state dict lacks; these kept their values.
    pub missing: Vec<String>,
    /// Names that the state dict has and the module lacks.
    pub unexpected: Vec<String>,
    /// Names in both whose shapes differ; these kept their values.
    pub mismatched: Vec<ShapeMismatch>,
}

impl LoadReport {
    /// Whether every parameter was loaded and nothing was left over.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} applied, {} missing, {} unexpected, {} of another shape",
            self.applied.len(),
            self.missing.len(),
            self.unexpected.len(),
            self.mismatched.len()
        )?;
        if let Some(name) = self.missing.first() {
            write!(f, "; first missing: `{name}`")?;
        }
        if let Some(name) = self.unexpected.first() {
            write!(f, "; first unexpected: `{name}`")?;
        }
        if let Some(ShapeMismatch {
            name,
            expected,
            found,
        }) = self.mismatched.first()
        {
            write!(f, "; `{name}` has shape {found:?}, expected {expected:?}")?;
        }
        Ok(())
    }
}

/// The parameters of `module` under the names that `rename` gives to field paths.
///
/// Copies every parameter to the host.
#[must_use]
pub fn state_dict<M: Module>(module: &M, rename: impl Fn(&str) -> String) -> StateDict {
    let mut collector = Collector {
        rename,
        path: Path::default(),
        dict: StateDict::new(),
    };
    module.visit(&mut collector);
    collector.dict
}

/// Id and name of every float parameter, in the order of the module's fields.
#[must_use]
pub fn parameter_names<M: Module>(
    module: &M,
    rename: impl Fn(&str) -> String,
) -> Vec<(ParamId, String)> {
    let mut names = Names {
        rename,
        path: Path::default(),
        names: Vec::new(),
    };
    module.visit(&mut names);
    names.names
}

/// Loads the parameters of `module` from `dict`; what is not there keeps its value.
///
/// The report says what happened to each name. Whether a partial load is acceptable is for the
/// caller to decide.
#[must_use]
pub fn load_state_dict<M: Module>(
    module: M,
    dict: &StateDict,
    rename: impl Fn(&str) -> String,
) -> (M, LoadReport) {
    let mut loader = Loader {
        rename,
        path: Path::default(),
        dict,
        report: LoadReport::default(),
    };
    let module = module.map(&mut loader);
    let mut report = loader.report;
    report.unexpected = dict
        .keys()
        .filter(|name| {
            !report.applied.contains(name)
                && !report
                    .mismatched
                    .iter()
                    .any(|mismatch| &mismatch.name == *name)
        })
        .cloned()
        .collect();
    (module, report)
}

/// The entries of a float tensor's data as `f64`, row-major.
///
/// # Panics
///
/// Panics if the data is not of a float type.
#[must_use]
pub fn vec_f64(data: TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}

/// The path of a parameter while a module is visited.
#[derive(Debug, Default)]
pub(crate) struct Path {
    names: Vec<String>,
    containers: Vec<String>,
}

impl Path {
    pub(crate) fn enter(&mut self, name: &str, container_type: &str) {
        self.names.push(name.to_owned());
        self.containers.push(container_type.to_owned());
    }

    pub(crate) fn exit(&mut self) {
        self.names.pop();
        self.containers.pop();
    }

    /// Field names joined by dots.
    pub(crate) fn dotted(&self) -> String {
        self.names.join(".")
    }

    /// Name of the innermost struct.
    pub(crate) fn module(&self) -> &str {
        self.containers
            .iter()
            .rev()
            .find_map(|container| container.strip_prefix("Struct:"))
            .unwrap_or_default()
    }

    /// PyTorch's name for the innermost field, before the caller's renaming.
    fn torch_name(&self) -> String {
        let dotted = self.dotted();
        if self.module() != "LayerNorm" {
            return dotted;
        }
        match (dotted.strip_suffix("gamma"), dotted.strip_suffix("beta")) {
            (Some(parent), _) => format!("{parent}weight"),
            (_, Some(parent)) => format!("{parent}bias"),
            _ => dotted,
        }
    }

    /// Whether PyTorch stores this parameter transposed.
    fn is_transposed(&self, rank: usize) -> bool {
        rank == 2 && self.module() == "Linear"
    }
}

struct Collector<F> {
    rename: F,
    path: Path,
    dict: StateDict,
}

impl<F: Fn(&str) -> String> ModuleVisitor for Collector<F> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let tensor = if self.path.is_transposed(D) {
            tensor.swap_dims(0, 1)
        } else {
            tensor
        };
        self.dict
            .insert((self.rename)(&self.path.torch_name()), tensor.into_data());
    }
}

struct Names<F> {
    rename: F,
    path: Path,
    names: Vec<(ParamId, String)>,
}

impl<F: Fn(&str) -> String> ModuleVisitor for Names<F> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.names
            .push((param.id, (self.rename)(&self.path.torch_name())));
    }
}

struct Loader<'a, F> {
    rename: F,
    path: Path,
    dict: &'a StateDict,
    report: LoadReport,
}

impl<F: Fn(&str) -> String> ModuleMapper for Loader<'_, F> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = (self.rename)(&self.path.torch_name());
        let transposed = self.path.is_transposed(D);
        let mut expected = param.lazy_shape().to_vec();
        if transposed {
            expected.swap(0, 1);
        }
        let Some(data) = self.dict.get(&name) else {
            self.report.missing.push(name);
            return param;
        };
        let found = data.shape().to_vec();
        if found != expected {
            self.report.mismatched.push(ShapeMismatch {
                name,
                expected,
                found,
            });
            return param;
        }
        let (id, old, mapper) = param.consume();
        let requires_grad = old.is_require_grad();
        let options = (&old.device(), old.dtype());
        let tensor = Tensor::<D>::from_data(data.clone(), options);
        let tensor = if transposed {
            // A row-major copy: a view would make every later product pay for the stride.
            let data = tensor.swap_dims(0, 1).into_data();
            Tensor::from_data(data, options)
        } else {
            tensor
        };
        self.report.applied.push(name);
        Param::from_mapped_value(id, tensor.set_require_grad(requires_grad), mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    fn layer(d_input: usize, d_output: usize) -> Linear {
        LinearConfig::new(d_input, d_output).init(&Device::default())
    }

    #[test]
    fn saving_and_loading_is_the_identity_and_transposes() {
        let source = layer(3, 2);
        let dict = state_dict(&source, str::to_owned);
        assert_eq!(dict["weight"].shape().to_vec(), vec![2, 3]);
        let (loaded, report) = load_state_dict(layer(3, 2), &dict, str::to_owned);
        assert!(report.is_complete(), "{report}");
        loaded
            .weight
            .val()
            .into_data()
            .assert_eq(&source.weight.val().into_data(), true);
    }

    #[test]
    fn every_discrepancy_is_reported() {
        let mut dict = state_dict(&layer(3, 2), str::to_owned);
        let bias = dict.remove("bias").unwrap();
        dict.insert("offset".to_owned(), bias);
        let (_, report) = load_state_dict(layer(4, 2), &dict, str::to_owned);
        assert_eq!(report.missing, vec!["bias"]);
        assert_eq!(report.unexpected, vec!["offset"]);
        assert_eq!(report.mismatched[0].expected, vec![2, 4]);
        assert_eq!(report.mismatched[0].found, vec![2, 3]);
        assert!(report.to_string().contains("first missing: `bias`"));
    }
}
