//! `meltr reference`: parity with golden numbers.
//!
//! A reference directory holds `config.json` (with `"module"`), `weights.safetensors`,
//! `inputs.safetensors` and `expected.safetensors`. Every tensor that is expected has to be
//! computed and to lie within the tolerance of its kind.

mod allinone;
mod bert_adam;
mod hypergradient_mlp;
mod loss_transformer;
mod univl;
mod univl_hypergradient;
mod violet;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use meltr_core::StateDict;
use meltr_data::TensorFile;
use meltr_train::state_dict_from_file;
use serde::Serialize;
use serde_json::Value;

use crate::cli::ReferenceArguments;
use crate::device;
use crate::error::CliError;
use crate::output;

/// The modules that can be checked.
const MODULES: [&str; 7] = [
    "loss_transformer",
    "bert_adam",
    "univl",
    "univl_hypergradient",
    "hypergradient_mlp",
    "violet",
    "allinone",
];

pub(crate) fn run(arguments: &ReferenceArguments) -> Result<(), CliError> {
    let device = device::parse(&arguments.device)?;
    let mut outcomes = Vec::new();
    for path in &arguments.directories {
        let outcome = check(path, &device)?;
        if !arguments.json {
            print(path, &outcome);
        }
        outcomes.push(outcome);
    }
    if arguments.json {
        match outcomes.as_slice() {
            [only] => output::json(only)?,
            all => output::json(&all)?,
        }
    }
    let failed: Vec<String> = arguments
        .directories
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| !outcome.ok)
        .map(|(path, _)| path.display().to_string())
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(CliError::Check(format!(
            "parity does not hold: {}",
            failed.join(", ")
        )))
    }
}

/// What came of one directory.
#[derive(Debug, Serialize)]
pub(crate) struct ReferenceOutcome {
    module: String,
    tensors: Vec<TensorCheck>,
    ok: bool,
}

/// What came of one expected tensor.
#[derive(Debug, Serialize)]
struct TensorCheck {
    name: String,
    /// Largest absolute error; `null` if the tensor was not computed or is not finite.
    max_abs: Option<f64>,
    /// The same relative to the largest expected magnitude.
    max_rel: Option<f64>,
    ok: bool,
    /// Why there is no number.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// `|error| <= absolute + relative * max|expected|`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    pub(crate) absolute: f64,
    pub(crate) relative: f64,
}

impl Tolerance {
    /// No deviation, as for ids and counts.
    pub(crate) const EXACT: Self = Self {
        absolute: 0.0,
        relative: 0.0,
    };

    pub(crate) fn new(absolute: f64, relative: f64) -> Self {
        Self { absolute, relative }
    }
}

/// Computed tensors by expected name.
#[derive(Debug, Default)]
pub(crate) struct Computed(BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Computed {
    pub(crate) fn insert(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f64>) {
        self.0.insert(name.into(), (shape.to_vec(), values));
    }

    pub(crate) fn scalar(&mut self, name: impl Into<String>, value: f64) {
        self.insert(name, &[1], vec![value]);
    }

    pub(crate) fn tensor<const D: usize>(&mut self, name: impl Into<String>, tensor: Tensor<D>) {
        let shape = tensor.dims();
        self.insert(name, &shape, tensor.into_data().iter::<f64>().collect());
    }

    pub(crate) fn dict(&mut self, prefix: &str, dict: &StateDict) {
        for (name, data) in dict {
            let shape = data.shape().to_vec();
            self.insert(
                format!("{prefix}{name}"),
                &shape,
                data.iter::<f64>().collect(),
            );
        }
    }
}

/// A reference directory, opened.
pub(crate) struct Reference {
    pub(crate) path: PathBuf,
    pub(crate) config: Value,
    pub(crate) weights: TensorFile,
    pub(crate) inputs: TensorFile,
    pub(crate) expected: TensorFile,
}

impl Reference {
    fn open(path: &Path) -> Result<Self, CliError> {
        let config_path = path.join("config.json");
        let text = std::fs::read_to_string(&config_path).map_err(|error| {
            CliError::Input(format!(
                "cannot read `{}`: {error}; a reference directory has config.json, \
                 weights.safetensors, inputs.safetensors and expected.safetensors",
                config_path.display()
            ))
        })?;
        let config = serde_json::from_str(&text)
            .map_err(|error| CliError::Input(format!("`{}`: {error}", config_path.display())))?;
        Ok(Self {
            config,
            weights: TensorFile::open(&path.join("weights.safetensors"))?,
            inputs: TensorFile::open(&path.join("inputs.safetensors"))?,
            expected: TensorFile::open(&path.join("expected.safetensors"))?,
            path: path.to_owned(),
        })
    }

    /// A number of the configuration; `key` may lead into a section with a dot.
    pub(crate) fn number(&self, key: &str) -> Result<f64, CliError> {
        self.value(key)?
            .as_f64()
            .ok_or_else(|| self.wrong(key, "a number"))
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize, CliError> {
        self.value(key)?
            .as_u64()
            .map(|value| value as usize)
            .ok_or_else(|| self.wrong(key, "a whole number"))
    }

    pub(crate) fn text(&self, key: &str) -> Result<&str, CliError> {
        self.value(key)?
            .as_str()
            .ok_or_else(|| self.wrong(key, "a text"))
    }

    pub(crate) fn list(&self, key: &str) -> Result<Vec<String>, CliError> {
        let list = self
            .value(key)?
            .as_array()
            .ok_or_else(|| self.wrong(key, "a list"))?;
        Ok(list
            .iter()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect())
    }

    /// A list of whole numbers.
    pub(crate) fn integers_of(&self, key: &str) -> Result<Vec<i64>, CliError> {
        let list = self
            .value(key)?
            .as_array()
            .ok_or_else(|| self.wrong(key, "a list"))?;
        list.iter()
            .map(|item| {
                item.as_i64()
                    .ok_or_else(|| self.wrong(key, "a list of whole numbers"))
            })
            .collect()
    }

    fn value(&self, key: &str) -> Result<&Value, CliError> {
        key.split('.')
            .try_fold(&self.config, |value, part| value.get(part))
            .ok_or_else(|| self.wrong(key, "present"))
    }

    fn wrong(&self, key: &str, expected: &str) -> CliError {
        CliError::Input(format!(
            "`{}`: key `{key}` is not {expected}",
            self.path.join("config.json").display()
        ))
    }

    /// Weights whose names start with `prefix`, without it.
    pub(crate) fn state_dict(&self, prefix: &str) -> Result<StateDict, CliError> {
        Ok(state_dict_from_file(&self.weights, prefix)?)
    }

    /// An input as a float tensor.
    pub(crate) fn input<const D: usize>(
        &self,
        name: &str,
        device: &Device,
    ) -> Result<Tensor<D>, CliError> {
        let array = self.inputs.f32(name)?;
        self.require_rank::<D>(name, array.ndim())?;
        let shape = array.shape().to_vec();
        let data = TensorData::new(array.into_iter().collect::<Vec<f32>>(), shape);
        Ok(Tensor::from_data(data, device))
    }

    /// An input of integers with its shape.
    pub(crate) fn integers(&self, name: &str) -> Result<(Vec<i64>, [usize; 2]), CliError> {
        let array = self.inputs.i64(name)?;
        self.require_rank::<2>(name, array.ndim())?;
        let shape = [array.shape()[0], array.shape()[1]];
        Ok((array.into_iter().collect(), shape))
    }

    fn require_rank<const D: usize>(&self, name: &str, rank: usize) -> Result<(), CliError> {
        if rank == D {
            return Ok(());
        }
        Err(CliError::Input(format!(
            "`{}`: `{name}` has {rank} axes instead of {D}",
            self.path.join("inputs.safetensors").display()
        )))
    }

    /// An error if weights were left over or missing.
    pub(crate) fn require_complete(&self, report: &meltr_core::LoadReport) -> Result<(), CliError> {
        if report.is_complete() {
            return Ok(());
        }
        Err(CliError::Input(format!(
            "`{}` does not fit the module: {report}",
            self.path.join("weights.safetensors").display()
        )))
    }
}

/// Checks one directory.
pub(crate) fn check(path: &Path, device: &Device) -> Result<ReferenceOutcome, CliError> {
    let reference = Reference::open(path)?;
    let module = reference.text("module")?.to_owned();
    let (computed, tolerance): (Computed, fn(&str) -> Tolerance) = match module.as_str() {
        "loss_transformer" => (
            loss_transformer::compute(&reference, device)?,
            loss_transformer::tolerance,
        ),
        "bert_adam" => (
            bert_adam::compute(&reference, device)?,
            bert_adam::tolerance,
        ),
        "hypergradient_mlp" => (
            hypergradient_mlp::compute(&reference, device)?,
            hypergradient_mlp::tolerance(device),
        ),
        "univl" => (univl::compute(&reference, device)?, univl::tolerance),
        "univl_hypergradient" => (
            univl_hypergradient::compute(&reference, device)?,
            univl_hypergradient::tolerance,
        ),
        "violet" => (violet::compute(&reference, device)?, violet::tolerance),
        "allinone" => (allinone::compute(&reference, device)?, allinone::tolerance),
        other => {
            return Err(CliError::Input(format!(
                "`{}`: module `{other}` is not known here; known: {}",
                path.join("config.json").display(),
                MODULES.join(", ")
            )));
        }
    };
    let mut tensors = Vec::new();
    for name in reference.expected.names() {
        let shape = reference.expected.shape(name)?.to_vec();
        let is_integer = reference.expected.dtype_name(name)?.starts_with('I');
        let values: Vec<f64> = if is_integer {
            reference
                .expected
                .i64(name)?
                .into_iter()
                .map(|value| value as f64)
                .collect()
        } else {
            reference.expected.f64(name)?.into_iter().collect()
        };
        tensors.push(compare(name, &shape, &values, &computed, tolerance(name)));
    }
    let ok = !tensors.is_empty() && tensors.iter().all(|tensor| tensor.ok);
    Ok(ReferenceOutcome {
        module,
        tensors,
        ok,
    })
}

fn compare(
    name: &str,
    shape: &[usize],
    expected: &[f64],
    computed: &Computed,
    tolerance: Tolerance,
) -> TensorCheck {
    let failed = |problem: String| TensorCheck {
        name: name.to_owned(),
        max_abs: None,
        max_rel: None,
        ok: false,
        problem: Some(problem),
    };
    let Some((found, values)) = computed.0.get(name) else {
        return failed("not computed".to_owned());
    };
    if found != shape {
        return failed(format!("shape {found:?} instead of {shape:?}"));
    }
    let largest = expected
        .iter()
        .fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let max_abs = expected
        .iter()
        .zip(values)
        .fold(0.0, |worst: f64, (expected, value)| {
            let error = (expected - value).abs();
            // A NaN has to survive the maximum.
            if error.is_nan() || error > worst {
                error
            } else {
                worst
            }
        });
    if !max_abs.is_finite() {
        return failed("not finite".to_owned());
    }
    TensorCheck {
        name: name.to_owned(),
        max_abs: Some(max_abs),
        max_rel: Some(if largest > 0.0 {
            max_abs / largest
        } else {
            max_abs
        }),
        ok: max_abs <= tolerance.absolute + tolerance.relative * largest,
        problem: None,
    }
}

fn print(path: &Path, outcome: &ReferenceOutcome) {
    for tensor in &outcome.tensors {
        let verdict = if tensor.ok { "ok  " } else { "FAIL" };
        let numbers = match (tensor.max_abs, tensor.max_rel) {
            (Some(absolute), Some(relative)) => format!("abs {absolute:.1e}  rel {relative:.1e}"),
            _ => tensor.problem.clone().unwrap_or_default(),
        };
        output::line(&format!("{verdict}  {numbers:<26}  {}", tensor.name));
    }
    let held = outcome.tensors.iter().filter(|tensor| tensor.ok).count();
    output::line(&format!(
        "{}: {} ({held} of {} tensors within tolerance)",
        path.display(),
        outcome.module,
        outcome.tensors.len()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_that_was_not_computed_is_a_failure() {
        let check = compare(
            "x",
            &[1],
            &[1.0],
            &Computed::default(),
            Tolerance::new(1.0, 1.0),
        );
        assert!(!check.ok);
        assert_eq!(check.problem.as_deref(), Some("not computed"));
    }

    #[test]
    fn a_nan_is_a_failure_whatever_stands_beside_it() {
        let mut computed = Computed::default();
        computed.insert("x", &[2], vec![f64::NAN, 1.0]);
        let check = compare("x", &[2], &[1.0, 1.0], &computed, Tolerance::new(1.0, 1.0));
        assert!(!check.ok);
    }

    #[test]
    fn the_tolerance_is_relative_to_the_largest_entry() {
        let mut computed = Computed::default();
        computed.insert("x", &[2], vec![100.05, 0.05]);
        let within = compare(
            "x",
            &[2],
            &[100.0, 0.0],
            &computed,
            Tolerance::new(0.0, 1e-3),
        );
        assert!(within.ok);
        let outside = compare(
            "x",
            &[2],
            &[100.0, 0.0],
            &computed,
            Tolerance::new(0.0, 1e-4),
        );
        assert!(!outside.ok);
    }
}
