//! The state of a run between two steps, and the files that hold it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::ParseFloatError;
use std::path::{Path, PathBuf};

use meltr_core::StateDict;
use meltr_core::weighting::WeightingMethod;
use meltr_data::{DataError, DataErrorKind, sha256_of_bytes, sha256_of_file};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::{Number, Value};

use crate::anomalies::FirstReaction;
use crate::checkpoint::write_state_dict;
use crate::error::TrainError;
use crate::run::write_atomically;
use crate::saved_tensors::SavedTensors;

/// Version of the layout.
const FORMAT_VERSION: u32 = 1;

/// The files of a checkpoint. The last one lists the others with their checksums.
const INNER: &str = "inner.safetensors";
const OUTER: &str = "outer.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const SUMS: &str = "SHA256SUMS";

/// Files that a checkpoint may list.
const LISTED: [&str; 4] = [INNER, OUTER, OPTIMIZER, STATE];

/// Files that hold weights alone.
pub(crate) const WEIGHT_FILES: [&str; 2] = [INNER, OUTER];

/// A number that JSON keeps to the bit, not finite ones included: as text, since readers of JSON
/// may round numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Exact(pub(crate) f64);

impl From<Exact> for String {
    fn from(number: Exact) -> Self {
        format!("{:?}", number.0)
    }
}

impl TryFrom<String> for Exact {
    type Error = ParseFloatError;

    fn try_from(text: String) -> Result<Self, ParseFloatError> {
        text.parse().map(Self)
    }
}

/// A weighting rule with its state, whose numbers JSON keeps to the bit: as text, like [`Exact`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExactRule(pub(crate) WeightingMethod);

impl Serialize for ExactRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = serde_json::to_value(&self.0).map_err(<S::Error as ser::Error>::custom)?;
        map_leaves(value, number_to_text).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ExactRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = map_leaves(Value::deserialize(deserializer)?, text_to_number);
        serde_json::from_value(value)
            .map(Self)
            .map_err(<D::Error as de::Error>::custom)
    }
}

/// Applies `f` to everything in a JSON value but lists and objects.
fn map_leaves(value: Value, f: fn(Value) -> Value) -> Value {
    match value {
        Value::Array(entries) => entries
            .into_iter()
            .map(|entry| map_leaves(entry, f))
            .collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, field)| (name, map_leaves(field, f)))
            .collect(),
        leaf => f(leaf),
    }
}

/// A number with a fraction as text; whole ones are exact anyway.
fn number_to_text(leaf: Value) -> Value {
    match leaf.as_f64() {
        Some(number) if leaf.is_f64() => Value::String(Exact(number).into()),
        _ => leaf,
    }
}

/// The number that [`number_to_text`] has written; other texts are names, which start with a
/// letter.
fn text_to_number(leaf: Value) -> Value {
    let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    let number = match leaf.as_str() {
        Some(text) if is_number(text) => text.parse().ok().and_then(Number::from_f64),
        _ => None,
    };
    number.map_or(leaf, Value::Number)
}

/// The best evaluation so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    /// Inner steps taken before it.
    pub(crate) step: usize,
    /// Value of the metric that decides.
    pub(crate) value: Exact,
}

/// Everything beside tensors that the next step depends on or adds to.
///
/// Random streams and the position in the data are not among it: both follow from the seed and
/// the number of steps taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoopState {
    /// Inner steps taken.
    pub(crate) taken: usize,
    /// Outer steps taken.
    pub(crate) outer_steps: usize,
    /// Inner steps that had been taken at the last evaluation; 0 before the first.
    pub(crate) evaluated: usize,
    /// Evaluations since the best one.
    pub(crate) without_improvement: usize,
    /// The best evaluation.
    pub(crate) best: Option<Best>,
    /// Metrics of the last evaluation on each split.
    pub(crate) metrics: BTreeMap<String, BTreeMap<String, Exact>>,
    /// The rule that weighs the losses, if there is one.
    #[serde(default)]
    pub(crate) rule: Option<ExactRule>,
    /// Outer steps in which the sensitivity of each task was negative, `[T]`.
    pub(crate) negative: Vec<usize>,
    /// How the combined loss reacted to the losses at the first outer step.
    #[serde(default)]
    pub(crate) first_reaction: Option<FirstReaction>,
    /// Outer steps in which the combined loss was saturated.
    #[serde(default)]
    pub(crate) saturated: usize,
    /// Whether a finding of a certificate was told.
    pub(crate) has_warned: bool,
    /// Largest audited error of a hypergradient.
    pub(crate) worst_error: Option<Exact>,
    /// Numbers of the batches in the history, from old to new.
    pub(crate) history: Vec<usize>,
    /// What the estimator found out about the steps of its differences.
    pub(crate) difference_steps: [Vec<Exact>; 3],
    /// Seconds of training, over all processes that took part.
    pub(crate) train_seconds: Exact,
    /// Seconds altogether, likewise.
    pub(crate) seconds: Exact,
    /// Largest resident set of any of these processes, in bytes.
    pub(crate) peak_memory_bytes: Option<u64>,
}

/// What `state.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    format_version: u32,
    /// The configuration of the run, as TOML.
    pub(crate) config: String,
    /// Name of the device that the run is on.
    pub(crate) device: String,
    /// Length of the log in bytes.
    pub(crate) metrics_bytes: u64,
    /// The state of the loop.
    pub(crate) state: LoopState,
}

impl Header {
    pub(crate) fn new(config: &str, device: &str, metrics_bytes: u64, state: LoopState) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            config: config.to_owned(),
            device: device.to_owned(),
            metrics_bytes,
            state,
        }
    }
}

/// The tensors of a checkpoint, on the host.
#[derive(Debug)]
pub(crate) struct SnapshotTensors {
    /// Parameters of the backbone.
    pub(crate) inner: StateDict,
    /// Parameters of the combiner, if it has any.
    pub(crate) outer: Option<StateDict>,
    /// Moments and step counts of both optimizers and the warm start of the solver; `None` where
    /// no step is left to take.
    pub(crate) optimizer: Option<StateDict>,
}

impl SnapshotTensors {
    /// Writes all files into `folder`, which is there and empty, and forces them to the disk.
    pub(crate) fn write(&self, folder: &Path, header: &Header) -> Result<(), TrainError> {
        let mut sums = String::new();
        let files = [
            (INNER, Some(&self.inner)),
            (OUTER, self.outer.as_ref()),
            (OPTIMIZER, self.optimizer.as_ref()),
        ];
        for (name, dict) in files {
            let Some(dict) = dict else {
                continue;
            };
            let path = folder.join(name);
            write_state_dict(&path, dict).map_err(writing)?;
            list(&mut sums, name, &sha256_of_file(&path)?);
        }
        let path = folder.join(STATE);
        let text =
            serde_json::to_string_pretty(header).map_err(|source| TrainError::BadRecord {
                path: path.clone(),
                line: 0,
                reason: source.to_string(),
            })?;
        write_atomically(&path, text.as_bytes())?;
        list(&mut sums, STATE, &sha256_of_bytes(text.as_bytes()));
        write_atomically(&folder.join(SUMS), sums.as_bytes())
    }
}

/// Adds a line in the format of `sha256sum`.
fn list(sums: &mut String, name: &str, sum: &str) {
    sums.push_str(sum);
    sums.push_str("  ");
    sums.push_str(name);
    sums.push('\n');
}

/// A file that could not be written is no fault of the data.
fn writing(error: DataError) -> TrainError {
    match error.kind {
        DataErrorKind::Io { source, .. } => TrainError::Io {
            action: "write",
            path: error.path,
            source,
        },
        _ => TrainError::Data(error),
    }
}

/// A checkpoint that was read and found whole.
#[derive(Debug)]
pub(crate) struct Restored {
    /// Where it lies.
    pub(crate) folder: PathBuf,
    /// What `state.json` holds.
    pub(crate) header: Header,
    /// Parameters of the backbone.
    pub(crate) inner: SavedTensors,
    /// Parameters of the combiner.
    pub(crate) outer: Option<SavedTensors>,
    /// States of the optimizers and of the solver.
    pub(crate) optimizer: Option<SavedTensors>,
}

impl Restored {
    /// Reads the checkpoint in `folder`, after its files have been held against their checksums.
    pub(crate) fn read(folder: &Path) -> Result<Self, TrainError> {
        let bad = |reason: String| TrainError::BadCheckpoint {
            path: folder.to_owned(),
            reason,
        };
        let sums = fs::read_to_string(folder.join(SUMS))
            .map_err(|source| bad(format!("`{SUMS}` cannot be read ({source})")))?;
        let mut listed = BTreeSet::new();
        for line in sums.lines() {
            let (sum, name) = line
                .split_once("  ")
                .filter(|(_, name)| LISTED.contains(name))
                .ok_or_else(|| bad(format!("`{SUMS}` has the line `{line}`")))?;
            let found =
                sha256_of_file(&folder.join(name)).map_err(|error| bad(error.to_string()))?;
            if found != sum {
                return Err(bad(format!(
                    "the SHA-256 of `{name}` is {found}, not {sum}; the file is damaged or was \
                     not written to its end"
                )));
            }
            listed.insert(name);
        }
        for name in [INNER, STATE] {
            if !listed.contains(name) {
                return Err(bad(format!("`{SUMS}` does not list `{name}`")));
            }
        }
        let text = fs::read_to_string(folder.join(STATE))
            .map_err(|source| bad(format!("`{STATE}` cannot be read ({source})")))?;
        let header: Header = serde_json::from_str(&text)
            .map_err(|error| bad(format!("`{STATE}` is no state of a run: {error}")))?;
        if header.format_version != FORMAT_VERSION {
            return Err(bad(format!(
                "its layout has version {}, and this program reads version {FORMAT_VERSION}",
                header.format_version
            )));
        }
        let optional = |name: &str| -> Result<Option<SavedTensors>, TrainError> {
            if !listed.contains(name) {
                return Ok(None);
            }
            let saved = SavedTensors::read(&folder.join(name))?;
            Ok(Some(saved))
        };
        Ok(Self {
            folder: folder.to_owned(),
            inner: SavedTensors::read(&folder.join(INNER))?,
            outer: optional(OUTER)?,
            optimizer: optional(OPTIMIZER)?,
            header,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use burn::tensor::TensorData;
    use meltr_core::weighting::{
        LossWeighting, NashMtl, NashMtlConfig, PcGrad, ProjectionOrder, UncertaintyConfig,
        UncertaintyWeighting,
    };

    use super::*;

    /// A checkpoint after `taken` steps of a run with the configuration `config`.
    pub(crate) fn small(config: &str, taken: usize) -> (Header, SnapshotTensors) {
        let state = LoopState {
            taken,
            ..LoopState::default()
        };
        let weights = TensorData::new(vec![0.25_f32, taken as f32], [2]);
        let tensors = SnapshotTensors {
            inner: StateDict::from([("weight".to_owned(), weights)]),
            outer: None,
            optimizer: Some(StateDict::new()),
        };
        (Header::new(config, "flex", 0, state), tensors)
    }

    #[test]
    fn numbers_survive_json_to_the_bit() {
        // Numbers that readers of JSON are known to round, and those that JSON lacks.
        for number in [
            0.1 + 0.2,
            -0.0,
            5e-324,
            1.797_693_134_862_315_7e308,
            f64::INFINITY,
            f64::NAN,
        ] {
            let text = serde_json::to_string(&Exact(number)).unwrap();
            let read: Exact = serde_json::from_str(&text).unwrap();
            assert!(
                read.0.to_bits() == number.to_bits() || (read.0.is_nan() && number.is_nan()),
                "{text}"
            );
        }
        assert!(serde_json::from_str::<Exact>("\"one\"").is_err());
    }

    #[test]
    fn a_rule_survives_json_to_the_bit() {
        let config = UncertaintyConfig {
            learning_rate: 0.1 + 0.2,
            ..UncertaintyConfig::default()
        };
        let mut uncertainty = UncertaintyWeighting::new(3, config).unwrap();
        for step in 1..40 {
            let step = f64::from(step);
            let losses = [1.0 / step, step.sin().abs(), 1e-7 * step];
            uncertainty.weights(&losses, None).unwrap();
        }
        let order = ProjectionOrder::Random { seed: u64::MAX };
        let nash = NashMtl::new(NashMtlConfig::default()).unwrap();
        for rule in [
            WeightingMethod::Uncertainty(uncertainty),
            WeightingMethod::PcGrad(PcGrad::new(order)),
            WeightingMethod::NashMtl(nash),
        ] {
            let rule = ExactRule(rule);
            let text = serde_json::to_string(&rule).unwrap();
            let read: ExactRule = serde_json::from_str(&text).unwrap();
            // Every number is compared, and none of them is 0 with a sign.
            assert_eq!(read, rule, "{text}");
        }
    }

    #[test]
    fn a_state_from_before_there_were_rules_is_read() {
        let mut state = serde_json::to_value(LoopState::default()).unwrap();
        let fields = state.as_object_mut().unwrap();
        for later in ["rule", "first_reaction", "saturated"] {
            fields.remove(later).unwrap();
        }
        let read: LoopState = serde_json::from_value(state).unwrap();
        assert_eq!(read, LoopState::default());
    }

    #[test]
    fn a_checkpoint_is_read_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (mut header, tensors) = small("seed = 1\n", 7);
        header.state.best = Some(Best {
            step: 4,
            value: Exact(0.1),
        });
        header.state.history = vec![3, 5, 6];
        header.state.difference_steps[1] = vec![Exact(f64::INFINITY)];
        tensors.write(folder.path(), &header).unwrap();
        let restored = Restored::read(folder.path()).unwrap();
        assert_eq!(restored.header, header);
        let (ours, theirs) = (
            &tensors.inner["weight"],
            &restored.inner.tensors()["weight"],
        );
        assert_eq!(ours.as_bytes(), theirs.as_bytes());
        assert!(restored.outer.is_none());
        restored.optimizer.unwrap().require_used_up().unwrap();
    }

    #[test]
    fn a_cut_an_altered_and_an_absent_file_are_named() {
        let whole = |file: &str, spoil: &dyn Fn(&Path)| {
            let folder = tempfile::tempdir().unwrap();
            let (header, tensors) = small("", 1);
            tensors.write(folder.path(), &header).unwrap();
            spoil(&folder.path().join(file));
            Restored::read(folder.path()).unwrap_err().to_string()
        };
        let cut = |path: &Path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        };
        let alter = |path: &Path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        };
        let remove = |path: &Path| fs::remove_file(path).unwrap();
        for file in [INNER, OPTIMIZER, STATE] {
            for error in [whole(file, &cut), whole(file, &alter)] {
                assert!(error.contains(file) && error.contains("SHA-256"), "{error}");
            }
            let error = whole(file, &remove);
            assert!(
                error.contains(file) && error.contains("no such file"),
                "{error}"
            );
        }
        for error in [whole(SUMS, &cut), whole(SUMS, &remove)] {
            assert!(error.contains(SUMS), "{error}");
        }
    }

    #[test]
    fn a_list_that_names_a_file_elsewhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (header, tensors) = small("", 1);
        tensors.write(folder.path(), &header).unwrap();
        fs::write(folder.path().join(SUMS), "00  ../secret\n").unwrap();
        let error = Restored::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("../secret"), "{error}");
    }

    #[test]
    fn a_later_layout_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (mut header, tensors) = small("", 1);
        header.format_version = 2;
        tensors.write(folder.path(), &header).unwrap();
        let error = Restored::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("version 2"), "{error}");
    }
}
