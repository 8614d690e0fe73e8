//! Vectors over the parameters of a module, without copying them into one array.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, GradientCheckpointingStrategy, Gradients, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::tape::strategy_of;

/// A vector with one entry per float parameter entry of a module: a gradient or a direction.
///
/// Kept as one flattened tensor per parameter, on the parameter's device without a tape. A
/// parameter that is absent counts as zeros, so gradients of losses that reach only a part of the
/// module combine without special cases. A parameter that a module holds twice under one id is
/// one parameter.
///
/// Entries stay in the order in which the module was visited, not in that of its ids: ids are
/// random, and sums have to come out the same in every run.
#[derive(Debug, Clone, Default)]
pub struct ParamVector {
    entries: Vec<(ParamId, Tensor<1>)>,
    places: BTreeMap<ParamId, usize>,
}

impl ParamVector {
    /// The zero vector.
    #[must_use]
    pub fn zero() -> Self {
        Self::default()
    }

    /// Takes the gradients of `module`'s parameters out of `gradients`.
    #[must_use]
    pub fn from_gradients<M: Module>(gradients: &mut Gradients, module: &M) -> Self {
        let mut collector = GradientCollector {
            gradients,
            vector: Self::zero(),
        };
        module.visit(&mut collector);
        collector.vector
    }

    /// The parameters themselves.
    #[must_use]
    pub fn from_parameters<M: Module>(module: &M) -> Self {
        let mut collector = ValueCollector {
            vector: Self::zero(),
        };
        module.visit(&mut collector);
        collector.vector
    }

    /// Zeros for every parameter that the tape of `module` tracks, so not for frozen ones.
    #[must_use]
    pub fn zeros_like<M: Module>(module: &M) -> Self {
        let mut collector = ZeroCollector {
            vector: Self::zero(),
        };
        module.visit(&mut collector);
        collector.vector
    }

    /// A vector of the same layout with the values of `values`, parameter after parameter as in
    /// [`to_vec`](Self::to_vec).
    ///
    /// # Panics
    ///
    /// Panics if `values` has not [`len`](Self::len) entries.
    #[must_use]
    pub fn with_values(&self, values: &[f64]) -> Self {
        assert_eq!(values.len(), self.len(), "one value per entry");
        let mut start = 0;
        self.map(|entry| {
            let count = entry.dims()[0];
            let part = values[start..start + count].to_vec();
            start += count;
            let data = TensorData::new(part, [count]).convert_dtype(entry.dtype());
            Tensor::from_data(data, (&entry.device(), entry.dtype()))
        })
    }

    /// A vector of the same layout with independent standard normal entries that depend on the
    /// seed alone.
    #[must_use]
    pub fn random_normal(&self, seed: u64) -> Self {
        let mut stream = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f64> = (0..self.len()).map(|_| normal(&mut stream)).collect();
        self.with_values(&values)
    }

    /// Number of entries over all parameters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.iter().map(|(_, entry)| entry.dims()[0]).sum()
    }

    /// The part of `self` that belongs to the parameters that `other` has.
    #[must_use]
    pub fn restricted_to(&self, other: &Self) -> Self {
        let mut vector = Self::zero();
        for (id, entry) in &self.entries {
            if other.entry(*id).is_some() {
                vector.insert(*id, entry.clone());
            }
        }
        vector
    }

    /// Whether every parameter of `other` is one of `self`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.places.keys().all(|id| self.places.contains_key(id))
    }

    /// Dtype of the entries; that of the first, if they differ.
    #[must_use]
    pub fn dtype(&self) -> Option<DType> {
        self.entries.first().map(|(_, entry)| entry.dtype())
    }

    /// Applies `f` to the entries of every parameter, flattened.
    #[must_use]
    pub fn map(&self, mut f: impl FnMut(&Tensor<1>) -> Tensor<1>) -> Self {
        let entries = self
            .entries
            .iter()
            .map(|(id, entry)| (*id, f(entry)))
            .collect();
        Self {
            entries,
            places: self.places.clone(),
        }
    }

    /// Combines the entries of every parameter of `self` with those of `others`, zeros where one
    /// lacks the parameter.
    #[must_use]
    pub fn map_with<const N: usize>(
        &self,
        others: [&Self; N],
        f: impl Fn(&Tensor<1>, [Tensor<1>; N]) -> Tensor<1>,
    ) -> Self {
        let entries = self
            .entries
            .iter()
            .map(|(id, entry)| {
                let parts = others.map(|other| match other.entry(*id) {
                    Some(part) => part.clone(),
                    None => entry.zeros_like(),
                });
                (*id, f(entry, parts))
            })
            .collect();
        Self {
            entries,
            places: self.places.clone(),
        }
    }

    /// The part that belongs to one parameter, in the parameter's shape.
    #[must_use]
    pub fn get<const D: usize>(&self, id: ParamId, shape: [usize; D]) -> Option<Tensor<D>> {
        self.entry(id).map(|entry| entry.clone().reshape(shape))
    }

    fn entry(&self, id: ParamId) -> Option<&Tensor<1>> {
        self.places.get(&id).map(|place| &self.entries[*place].1)
    }

    /// Sets the part that belongs to one parameter.
    pub fn insert<const D: usize>(&mut self, id: ParamId, value: Tensor<D>) {
        let count = value.shape().num_elements();
        let value = value.inner().reshape([count]);
        match self.places.get(&id) {
            Some(place) => self.entries[*place].1 = value,
            None => {
                self.places.insert(id, self.entries.len());
                self.entries.push((id, value));
            }
        }
    }

    /// The parameters that are present, each with its part, flattened, in the order in which sums
    /// are taken.
    pub fn entries(&self) -> impl Iterator<Item = (ParamId, &Tensor<1>)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// The parameters that are present, each with its part, flattened, in the order in which sums
    /// are taken. Nothing else holds on to the parts then.
    pub fn into_entries(self) -> impl Iterator<Item = (ParamId, Tensor<1>)> {
        self.entries.into_iter()
    }

    /// Whether no parameter is present.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Inner product: within a parameter in its dtype, but at least `f32`; over parameters in
    /// `f64`.
    ///
    /// Long entries in `f64` go through a product of matrices, one pass over both.
    #[must_use]
    pub fn dot(&self, other: &Self) -> f64 {
        let products: Vec<Tensor<1>> = self
            .entries
            .iter()
            .filter_map(|(id, a)| {
                other.entry(*id).map(|b| match (a.dtype(), b.dtype()) {
                    (DType::F64, DType::F64) if a.dims()[0] >= LONG => {
                        let [row, column] =
                            [a.clone().unsqueeze_dim(0), b.clone().unsqueeze_dim(1)];
                        Tensor::<2>::matmul(row, column).reshape([1])
                    }
                    _ => (at_least_f32(a) * at_least_f32(b)).sum(),
                })
            })
            .collect();
        sum_on_host(products)
    }

    /// Euclidean norm.
    #[must_use]
    pub fn norm(&self) -> f64 {
        self.dot(self).sqrt()
    }

    /// `factor * self`.
    #[must_use]
    pub fn scale(self, factor: f64) -> Self {
        let entries = self
            .entries
            .into_iter()
            .map(|(id, entry)| (id, entry * factor))
            .collect();
        Self {
            entries,
            places: self.places,
        }
    }

    /// The part of every parameter times a factor of its own.
    #[must_use]
    pub fn scale_each(self, factor: impl Fn(ParamId) -> f64) -> Self {
        let entries = self
            .entries
            .into_iter()
            .map(|(id, entry)| match factor(id) {
                1.0 => (id, entry),
                factor => (id, entry * factor),
            })
            .collect();
        Self {
            entries,
            places: self.places,
        }
    }

    /// `self + factor * other`.
    #[must_use]
    pub fn add_scaled(self, factor: f64, other: &Self) -> Self {
        let mut sum = Self {
            entries: Vec::with_capacity(self.entries.len().max(other.entries.len())),
            places: self.places,
        };
        for (id, a) in self.entries {
            let entry = match other.entry(id) {
                Some(b) if factor == 1.0 => a + b.clone(),
                Some(b) if factor == -1.0 => a - b.clone(),
                Some(b) => a + b.clone() * factor,
                None => a,
            };
            sum.entries.push((id, entry));
        }
        for (id, b) in &other.entries {
            if sum.entry(*id).is_none() {
                sum.insert(*id, b.clone() * factor);
            }
        }
        sum
    }

    /// A copy of `module` without a tape whose parameters are the entries of this vector, zeros
    /// where it has none: what reads a module's parameters by name can then read the vector.
    #[must_use]
    pub fn as_module<M: Module>(&self, module: &M) -> M {
        module.valid().map(&mut Replace { vector: self })
    }

    /// As [`as_module`](Self::as_module), on the device of automatic differentiation that `module`
    /// is on, with parameters that are not tracked.
    pub(crate) fn as_untracked_module<M: Module>(&self, module: &M) -> M {
        self.as_module(module).map(&mut Untracked {
            strategy: strategy_of(module),
        })
    }

    /// The vector as gradients of `module`'s parameters, for an optimizer of burn.
    #[must_use]
    pub fn to_gradients_params<M: Module>(&self, module: &M) -> GradientsParams {
        let mut register = Register {
            vector: self,
            gradients: GradientsParams::new(),
        };
        module.visit(&mut register);
        register.gradients
    }

    /// All entries on the host, parameter after parameter in the order of the module's fields.
    #[must_use]
    pub fn to_vec(&self) -> Vec<f64> {
        self.entries
            .iter()
            .flat_map(|(_, entry)| entry.to_data().iter::<f64>().collect::<Vec<_>>())
            .collect()
    }
}

/// A copy of `module` without a tape, with parameters `w + factor * direction`.
///
/// `module` itself is not touched, so nothing has to be undone afterwards.
#[must_use]
pub fn shifted<M: Module>(module: &M, factor: f64, direction: &ParamVector) -> M {
    module.valid().map(&mut Shift { factor, direction })
}

/// A standard normal number, by Box and Muller's transform of two uniform ones.
pub(crate) fn normal(stream: &mut ChaCha8Rng) -> f64 {
    let mut uniform = || (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let (a, b) = (1.0 - uniform(), uniform());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// Entries of a parameter from which on a pass over memory counts more than an operation.
const LONG: usize = 1 << 12;

fn at_least_f32(entry: &Tensor<1>) -> Tensor<1> {
    match entry.dtype() {
        DType::F16 | DType::BF16 => entry.clone().cast(DType::F32),
        _ => entry.clone(),
    }
}

fn sum_on_host(scalars: Vec<Tensor<1>>) -> f64 {
    // One transfer for all of them.
    let together = match scalars.len() {
        0 | 1 => scalars.into_iter().next(),
        _ => Some(Tensor::cat(scalars, 0)),
    };
    together.map_or(0.0, |scalars| scalars.into_data().iter::<f64>().sum())
}

struct GradientCollector<'a> {
    gradients: &'a mut Gradients,
    vector: ParamVector,
}

impl ModuleVisitor for GradientCollector<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad_remove(self.gradients) {
            self.vector.insert(param.id, gradient);
        }
    }
}

struct Register<'a> {
    vector: &'a ParamVector,
    gradients: GradientsParams,
}

impl ModuleVisitor for Register<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.vector.get(param.id, param.val().dims()) {
            self.gradients.register(param.id, gradient);
        }
    }
}

struct ValueCollector {
    vector: ParamVector,
}

impl ModuleVisitor for ValueCollector {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.vector.insert(param.id, param.val());
    }
}

struct ZeroCollector {
    vector: ParamVector,
}

impl ModuleVisitor for ZeroCollector {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.val().is_require_grad() {
            self.vector
                .insert(param.id, param.val().inner().zeros_like());
        }
    }
}

struct Replace<'a> {
    vector: &'a ParamVector,
}

impl ModuleMapper for Replace<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let entry = self
            .vector
            .get(id, value.dims())
            .unwrap_or_else(|| value.zeros_like());
        Param::from_mapped_value(id, entry, mapper)
    }
}

struct Untracked {
    strategy: GradientCheckpointingStrategy,
}

impl ModuleMapper for Untracked {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let value = Tensor::from_inner(value)
            .with_gradient_checkpointing_strategy(self.strategy)
            .set_require_grad(false);
        Param::from_mapped_value(id, value, mapper)
    }
}

struct Shift<'a> {
    factor: f64,
    direction: &'a ParamVector,
}

impl ModuleMapper for Shift<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let shifted = match self.direction.get(id, value.dims()) {
            Some(direction) => value + direction * self.factor,
            None => value,
        };
        Param::from_mapped_value(id, shifted, mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    fn layer() -> Linear {
        LinearConfig::new(3, 2).init(&Device::default().autodiff())
    }

    #[test]
    fn shifting_forth_and_back_is_not_needed_since_the_original_stays() {
        let layer = layer();
        let before = layer.weight.val().into_data();
        let w = ParamVector::from_parameters(&layer);
        let doubled = shifted(&layer, 1.0, &w);
        layer.weight.val().into_data().assert_eq(&before, true);
        let norm = ParamVector::from_parameters(&doubled).norm();
        assert!((norm - 2.0 * w.norm()).abs() < 1e-5);
        assert!(!doubled.weight.val().is_autodiff());
    }

    #[test]
    fn absent_parameters_count_as_zeros() {
        let layer = layer();
        let x = Tensor::<2>::ones([1, 3], &Device::default().autodiff());
        // Only the weight is reached.
        let loss = x.matmul(layer.weight.val()).sum();
        let gradient = ParamVector::from_gradients(&mut loss.backward(), &layer);
        assert!((gradient.norm() - 6f64.sqrt()).abs() < 1e-6);
        let sum = ParamVector::zero().add_scaled(2.0, &gradient);
        assert!((sum.dot(&gradient) - 12.0).abs() < 1e-5);
    }
}
