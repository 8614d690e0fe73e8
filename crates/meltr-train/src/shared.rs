//! Sums over the parts of a step, and agreement, among the processes that share a run.
//!
//! A step has parts: the batches that an inner step averages over, the draws that an outer step
//! averages over. Of `N` processes the one numbered `r` takes the parts `r`, `r + N`, `r + 2N`, ...,
//! one after the other, and after each of them all processes add up what they have. So the sums are
//! those that one process forms, part after part and rounded in the same places, and how many
//! processes there are changes no number.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::iter::StepBy;
use std::ops::Range;

use burn::module::{Module, ParamId};
use burn::tensor::TensorData;
use meltr_aid::ParamVector;
use meltr_core::{StateDict, Workers};

use crate::config::{OuterConfig, TrainConfig};
use crate::error::TrainError;
use crate::named_parameters::{NamedParameter, NamedParameters};
use crate::pull::added;

/// Entries of a vector that are exchanged at a time, but for larger parameters.
const BUCKET: usize = 1 << 22;

/// `Err` unless `n_workers` processes can share the parts of every step equally.
///
/// # Errors
///
/// [`TrainError::NotShared`] naming the first setting that is no multiple of their number.
pub fn require_equal_shares(
    train: &TrainConfig,
    outer: &OuterConfig,
    n_workers: usize,
) -> Result<(), TrainError> {
    let mut parts = vec![("train.accumulate", train.accumulate)];
    // A single draw is taken by all of them.
    if outer.accumulate > 1 {
        parts.push(("outer.accumulate", outer.accumulate));
    }
    for (key, value) in parts {
        if !value.is_multiple_of(n_workers) {
            return Err(TrainError::NotShared {
                key,
                value,
                n_workers,
            });
        }
    }
    Ok(())
}

/// The parts of a step that this process takes.
pub(crate) fn own_parts(workers: &dyn Workers, n_parts: usize) -> StepBy<Range<usize>> {
    (workers.rank()..n_parts).step_by(workers.n_workers())
}

/// Adds what all processes give for their next part to `total`.
pub(crate) fn sum_numbers(workers: &dyn Workers, total: Option<Vec<f64>>, own: &[f64]) -> Vec<f64> {
    let all = workers.gather(own);
    let mut sum = total;
    for part in all.chunks(own.len().max(1)) {
        sum = Some(match sum {
            None => part.to_vec(),
            Some(sum) => added(&sum, part),
        });
    }
    sum.unwrap_or_default()
}

/// The same for vectors over `parameters`, in `f32`.
pub(crate) fn sum_vectors(
    workers: &dyn Workers,
    parameters: &NamedParameters,
    total: Option<ParamVector>,
    own: ParamVector,
) -> ParamVector {
    if workers.is_alone() {
        return match total {
            None => own,
            Some(total) => total.add_scaled(1.0, &own),
        };
    }
    let total = total.unwrap_or_default();
    let present = present(workers, parameters, &total, &own);
    let mut sum = ParamVector::zero();
    let mut rest = present.as_slice();
    while !rest.is_empty() {
        let (bucket, later) = rest.split_at(bucket_length(rest));
        rest = later;
        let mut together = flat(&total, bucket);
        workers.add_all(&mut together, &flat(&own, bucket));
        let mut entries = together.as_slice();
        for parameter in bucket {
            let (part, behind) = entries.split_at(parameter.count);
            entries = behind;
            let data = TensorData::new(part.to_vec(), [parameter.count]);
            if let Some(part) = parameter.vector(data) {
                sum.insert(parameter.id, part);
            }
        }
    }
    sum
}

/// The parameters that `total` or the vector of any process has, in the order that they have in the
/// sum that one process forms: later sums over parameters depend on it.
fn present<'p>(
    workers: &dyn Workers,
    parameters: &'p NamedParameters,
    total: &ParamVector,
    own: &ParamVector,
) -> Vec<&'p NamedParameter> {
    let mut found: Vec<&NamedParameter> = total
        .entries()
        .filter_map(|(id, _)| parameters.by_id(id))
        .collect();
    let mut known: BTreeSet<ParamId> = found.iter().map(|parameter| parameter.id).collect();
    let places: BTreeMap<ParamId, usize> = own
        .entries()
        .zip(1..)
        .map(|((id, _), place)| (id, place))
        .collect();
    // Places count from 1; 0 is an absent one.
    let places: Vec<f64> = parameters
        .iter()
        .map(|parameter| places.get(&parameter.id).map_or(0.0, |place| *place as f64))
        .collect();
    let all = workers.gather(&places);
    for places in all.chunks(places.len().max(1)) {
        let mut part: Vec<(f64, &NamedParameter)> = places
            .iter()
            .copied()
            .zip(parameters.iter())
            .filter(|(place, _)| *place > 0.0)
            .collect();
        part.sort_by(|(ours, _), (theirs, _)| ours.total_cmp(theirs));
        for (_, parameter) in part {
            if known.insert(parameter.id) {
                found.push(parameter);
            }
        }
    }
    found
}

/// How many of `parameters` are exchanged together, at least one.
fn bucket_length(parameters: &[&NamedParameter]) -> usize {
    let mut count = 0;
    let within = parameters.iter().take_while(|parameter| {
        count += parameter.count;
        count <= BUCKET
    });
    within.count().max(1)
}

/// The entries of `vector` that belong to `parameters`. Where it has none, the zero that changes no
/// number that it is added to, another zero included.
fn flat(vector: &ParamVector, parameters: &[&NamedParameter]) -> Vec<f32> {
    let mut entries = Vec::new();
    for parameter in parameters {
        match vector.get(parameter.id, [parameter.count]) {
            Some(part) => entries.extend(part.into_data().iter::<f32>()),
            None => entries.resize(entries.len() + parameter.count, -0.0),
        }
    }
    entries
}

/// The numbers of all parts of a step, in the order of the parts, from those of this process.
pub(crate) fn in_order(workers: &dyn Workers, own: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    if workers.is_alone() {
        return own;
    }
    let width = own.first().map_or(0, Vec::len);
    let all = workers.gather(&own.concat());
    let n_workers = workers.n_workers();
    (0..own.len() * n_workers)
        .map(|part| {
            let (turn, rank) = (part / n_workers, part % n_workers);
            let start = (rank * own.len() + turn) * width;
            all[start..start + width].to_vec()
        })
        .collect()
}

/// The number of the first process. Where all compute the same, their devices may still round in
/// different ways, and then they would drift apart.
pub(crate) fn number_of_first(workers: &dyn Workers, own: f64) -> f64 {
    workers.gather(&[own]).first().copied().unwrap_or(own)
}

/// The metrics of the first process, likewise.
pub(crate) fn metrics_of_first(
    workers: &dyn Workers,
    own: BTreeMap<String, f64>,
) -> BTreeMap<String, f64> {
    let values: Vec<f64> = own.values().copied().collect();
    own.into_keys().zip(workers.gather(&values)).collect()
}

/// The vector of the first process, likewise.
pub(crate) fn vector_of_first(
    workers: &dyn Workers,
    parameters: &NamedParameters,
    own: ParamVector,
) -> ParamVector {
    let own = match workers.rank() {
        0 => own,
        _ => ParamVector::zero(),
    };
    sum_vectors(workers, parameters, None, own)
}

/// `module`, which is on a device without a tape, with the parameters of the first process.
pub(crate) fn module_of_first<M: Module>(workers: &dyn Workers, module: M) -> M {
    if workers.is_alone() {
        return module;
    }
    let parameters = NamedParameters::of(&module, Vec::new());
    let own = ParamVector::from_parameters(&module);
    vector_of_first(workers, &parameters, own).as_module(&module)
}

/// `Err` unless all processes give the same numbers, after `iteration` inner steps.
pub(crate) fn require_alike(
    workers: &dyn Workers,
    what: &'static str,
    iteration: usize,
    own: &[f64],
) -> Result<(), TrainError> {
    let all = workers.gather(own);
    let mut parts = all.chunks(own.len().max(1));
    let first = parts.next().unwrap_or_default();
    let differs = |other: &[f64]| {
        let mut pairs = other.iter().zip(first);
        pairs.any(|(other, first)| other.to_bits() != first.to_bits())
    };
    match parts.position(differs) {
        None => Ok(()),
        Some(place) => Err(TrainError::WorkersDiffer {
            what,
            rank: place + 1,
            iteration,
        }),
    }
}

/// Numbers that differ, for every practical purpose, where any of the tensors does.
pub(crate) fn digest<'d>(dicts: impl IntoIterator<Item = &'d StateDict>) -> [f64; 2] {
    let mut hasher = DefaultHasher::new();
    for (name, data) in dicts.into_iter().flatten() {
        hasher.write(name.as_bytes());
        hasher.write(data.as_bytes());
    }
    let digest = hasher.finish();
    [(digest >> 32) as u32, digest as u32].map(f64::from)
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Tensor};
    use meltr_core::{parameter_names, state_dict};

    use super::*;

    /// The first of two processes, of which the other gives `factor` times what this one does.
    #[derive(Debug)]
    struct Pair {
        factor: f64,
    }

    impl Workers for Pair {
        fn rank(&self) -> usize {
            0
        }

        fn n_workers(&self) -> usize {
            2
        }

        fn gather(&self, own: &[f64]) -> Vec<f64> {
            let other = own.iter().map(|number| self.factor * number);
            own.iter().copied().chain(other).collect()
        }

        fn add_all(&self, total: &mut [f32], own: &[f32]) {
            for (total, own) in total.iter_mut().zip(own) {
                *total = (*total + own) + self.factor as f32 * own;
            }
        }
    }

    const ALIKE: Pair = Pair { factor: 1.0 };

    fn layer() -> Linear {
        LinearConfig::new(2, 3).init(&Device::default())
    }

    #[test]
    fn numbers_of_parts_are_added_in_their_order() {
        let workers = Pair { factor: 10.0 };
        assert_eq!(sum_numbers(&workers, None, &[1.0, 2.0]), [11.0, 22.0]);
        let total = Some(vec![0.5, 0.0]);
        assert_eq!(sum_numbers(&workers, total, &[1.0, 2.0]), [11.5, 22.0]);
        // Parts 0 and 2 are this process's.
        let own = vec![vec![1.0], vec![2.0]];
        assert_eq!(
            in_order(&workers, own),
            [[1.0], [10.0], [2.0], [20.0]].map(|part| part.to_vec())
        );
        assert_eq!(own_parts(&workers, 6).collect::<Vec<_>>(), [0, 2, 4]);
    }

    #[test]
    fn an_absent_parameter_stays_absent_and_a_zero_keeps_its_sign() {
        let layer = layer();
        let parameters = NamedParameters::of(&layer, parameter_names(&layer, str::to_owned));
        let bias = layer.bias.as_ref().unwrap().id;
        let mut own = ParamVector::zero();
        own.insert(
            bias,
            Tensor::<1>::from_floats([-0.0, 1.5, 2.0], &Device::default()),
        );
        let sum = sum_vectors(&ALIKE, &parameters, None, own.clone());
        assert_eq!(sum.entries().count(), 1);
        let entries = sum.to_vec();
        assert_eq!(entries, [0.0, 3.0, 4.0]);
        assert!(entries[0].is_sign_negative());

        // What came first stays first.
        own.insert(layer.weight.id, layer.weight.val().ones_like());
        let sum = sum_vectors(&ALIKE, &parameters, None, own.clone());
        let order = |vector: &ParamVector| vector.entries().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(order(&sum), [bias, layer.weight.id]);
        let sum = sum_vectors(&ALIKE, &parameters, Some(sum), own);
        assert_eq!(sum.to_vec()[1..4], [6.0, 8.0, 4.0]);
    }

    #[test]
    fn a_module_taken_from_the_first_process_keeps_ids_and_values() {
        // The other process gives nothing to a vector of the first.
        let workers = Pair { factor: 0.0 };
        let layer = layer();
        let taken = module_of_first(&workers, layer.clone());
        assert_eq!(taken.weight.id, layer.weight.id);
        let values = |layer: &Linear| ParamVector::from_parameters(layer).to_vec();
        assert_eq!(values(&taken), values(&layer));
    }

    #[test]
    fn processes_that_differ_are_named() {
        require_alike(&ALIKE, "weights", 3, &[1.0, f64::NAN]).unwrap();
        let workers = Pair { factor: 2.0 };
        let error = require_alike(&workers, "weights", 3, &[1.0]).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("process 1") && error.contains("after 3 steps"),
            "{error}"
        );
    }

    #[test]
    fn a_digest_tells_weights_apart() {
        let layer = layer();
        let dict = state_dict(&layer, str::to_owned);
        let mut other = dict.clone();
        let bias = TensorData::new(vec![0.0_f32, 0.0, 1e-30], [3]);
        other.insert("bias".to_owned(), bias);
        assert_eq!(digest([&dict]), digest([&dict]));
        assert_ne!(digest([&dict]), digest([&other]));
    }

    #[test]
    fn parts_that_cannot_be_shared_are_refused() {
        let with = |inner: usize, outer: usize, n_workers: usize| {
            let train = TrainConfig {
                accumulate: inner,
                ..TrainConfig::default()
            };
            let outer = OuterConfig {
                accumulate: outer,
                ..OuterConfig::default()
            };
            require_equal_shares(&train, &outer, n_workers)
        };
        assert!(with(4, 1, 2).is_ok());
        assert!(with(4, 2, 2).is_ok());
        assert!(with(3, 5, 1).is_ok());
        let error = with(3, 1, 2).unwrap_err().to_string();
        assert!(error.contains("`train.accumulate` is 3"), "{error}");
        assert!(error.contains("multiple of 2"), "{error}");
        let error = with(4, 3, 2).unwrap_err().to_string();
        assert!(error.contains("`outer.accumulate` is 3"), "{error}");
    }
}
