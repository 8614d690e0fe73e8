//! An objective recorded once, for many products with its second derivatives.
//!
//! burn's backward pass consumes its graph, so that each product with a Hessian takes the forward
//! pass of the objective again. A [`Recording`] keeps the operations with their values and the
//! gradient at each of them; a product is then one sweep forward, of tangents, and one back. In
//! multiplications a product costs two forward-and-backward passes where a dual pass on burn's tape
//! costs two and two thirds, and between multiplications it makes far fewer passes over memory.
//!
//! All that is recorded is a matrix. This is for inner objectives that take many products and are
//! soon written down a second time: regressions, perceptrons, networks that weigh samples. It is
//! not for a backbone.
//!
//! # References
//!
//! - Pearlmutter, [Fast exact multiplication by the Hessian](https://doi.org/10.1162/neco.1994.6.1.147),
//!   Neural Computation 1994.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Neg, Sub};
use std::rc::Rc;

use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::activation::{log_sigmoid, log_softmax, relu, sigmoid};
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor};

use crate::params::ParamVector;

/// Operations in the order in which they were made. Clones share it.
#[derive(Clone, Default)]
pub struct Recording {
    tape: Rc<RefCell<Tape>>,
}

#[derive(Default)]
struct Tape {
    nodes: Vec<Node>,
    /// Where the parameters are; one that is used twice is one node.
    parameters: BTreeMap<ParamId, Leaf>,
}

#[derive(Clone, Copy)]
struct Leaf {
    index: usize,
    is_tracked: bool,
}

/// A matrix of a [`Recording`].
///
/// Operators take rows, columns and single numbers, `[1, n]`, `[n, 1]` and `[1, 1]`, for matrices of
/// as many equal rows or columns as the other side has. Shapes that do not fit panic, as tensors do,
/// and so do matrices of two recordings.
#[derive(Clone)]
pub struct Recorded {
    recording: Recording,
    index: usize,
}

/// An elementwise function at the entries of a matrix, each `[rows, columns]`; the second derivative
/// may be one number, `[1, 1]`, where it is the same everywhere.
#[derive(Debug, Clone)]
pub struct Curve {
    /// The function.
    pub value: Tensor<2>,
    /// Its derivative.
    pub slope: Tensor<2>,
    /// Its second derivative; `None` is zero.
    pub bend: Option<Tensor<2>>,
}

struct Node {
    value: Tensor<2>,
    operation: Operation,
}

#[expect(
    clippy::large_enum_variant,
    reason = "the numbers of a tensor are elsewhere, and there is one operation a result"
)]
enum Operation {
    /// What depends on no parameter.
    Constant,
    Parameter(ParamId),
    Matmul(usize, usize),
    Add(usize, usize),
    Multiply(usize, usize),
    Scale(usize, f64),
    Transpose(usize),
    Elementwise {
        of: usize,
        slope: Tensor<2>,
        bend: Option<Tensor<2>>,
    },
    LogSoftmax {
        of: usize,
        softmax: Tensor<2>,
    },
    Pick {
        of: usize,
        columns: Tensor<2, Int>,
    },
    /// To one number.
    Sum(usize),
    /// Over an axis, which stays with size 1.
    SumDim(usize, usize),
}

impl Recording {
    /// A parameter, a row `[1, n]` if it is a vector. Products have no entries for one that is not
    /// tracked.
    ///
    /// # Panics
    ///
    /// Panics if it has more than two axes.
    #[must_use]
    pub fn parameter<const D: usize>(&self, parameter: &Param<Tensor<D>>) -> Recorded {
        assert!(D <= 2, "a recorded parameter has one or two axes, not {D}");
        let value = parameter.val();
        let is_tracked = value.is_require_grad();
        let dims = value.dims();
        let shape = [if D == 1 { 1 } else { dims[0] }, dims[D - 1]];
        let known = self.tape.borrow().parameters.get(&parameter.id).copied();
        if let Some(leaf) = known {
            return self.at(leaf.index);
        }
        let value = value.inner().reshape(shape);
        let recorded = self.push(value, Operation::Parameter(parameter.id));
        let leaf = Leaf {
            index: recorded.index,
            is_tracked,
        };
        self.tape.borrow_mut().parameters.insert(parameter.id, leaf);
        recorded
    }

    /// Numbers that depend on no parameter, off any tape.
    #[must_use]
    pub fn constant(&self, value: Tensor<2>) -> Recorded {
        self.push(value.inner(), Operation::Constant)
    }

    fn push(&self, value: Tensor<2>, operation: Operation) -> Recorded {
        let nodes = &mut self.tape.borrow_mut().nodes;
        let is_leaf = matches!(operation, Operation::Constant | Operation::Parameter(_));
        let is_constant = operation
            .parents()
            .all(|parent| matches!(nodes[parent].operation, Operation::Constant));
        let operation = if !is_leaf && is_constant {
            Operation::Constant
        } else {
            operation
        };
        nodes.push(Node { value, operation });
        self.at(nodes.len() - 1)
    }

    fn at(&self, index: usize) -> Recorded {
        Recorded {
            recording: self.clone(),
            index,
        }
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("operations", &self.tape.borrow().nodes.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, columns] = self.dims();
        write!(f, "Recorded([{rows}, {columns}])")
    }
}

impl Recorded {
    /// Rows and columns.
    #[must_use]
    pub fn dims(&self) -> [usize; 2] {
        self.recording.tape.borrow().nodes[self.index].value.dims()
    }

    /// The numbers.
    #[must_use]
    pub fn value(&self) -> Tensor<2> {
        self.recording.tape.borrow().nodes[self.index].value.clone()
    }

    fn then(self, value: Tensor<2>, operation: Operation) -> Self {
        self.recording.push(value, operation)
    }

    fn index_in(&self, recording: &Recording) -> usize {
        assert!(
            Rc::ptr_eq(&self.recording.tape, &recording.tape),
            "two matrices are of two recordings"
        );
        self.index
    }

    /// Matrix product.
    #[must_use]
    pub fn matmul(self, other: Self) -> Self {
        let right = other.index_in(&self.recording);
        let value = self.value().matmul(other.value());
        let operation = Operation::Matmul(self.index, right);
        self.then(value, operation)
    }

    /// `x W + b`.
    ///
    /// # Shapes
    ///
    /// - self: `[rows, d_input]`; output: `[rows, d_output]`
    #[must_use]
    pub fn linear(self, layer: &Linear) -> Self {
        let recording = self.recording.clone();
        let product = self.matmul(recording.parameter(&layer.weight));
        match &layer.bias {
            Some(bias) => product + recording.parameter(bias),
            None => product,
        }
    }

    /// `factor x`.
    #[must_use]
    pub fn scale(self, factor: f64) -> Self {
        let (value, operation) = (self.value() * factor, Operation::Scale(self.index, factor));
        self.then(value, operation)
    }

    /// `x + constant`.
    #[must_use]
    pub fn add_scalar(self, constant: f64) -> Self {
        let value = self.value();
        let constant = self.recording.constant(value.ones_like() * constant);
        self + constant
    }

    /// The transpose.
    #[must_use]
    pub fn transpose(self) -> Self {
        let (value, operation) = (self.value().transpose(), Operation::Transpose(self.index));
        self.then(value, operation)
    }

    /// An elementwise function with its first two derivatives.
    ///
    /// # Panics
    ///
    /// Panics if value and slope have not the shape of the argument.
    #[must_use]
    pub fn map(self, function: impl FnOnce(Tensor<2>) -> Curve) -> Self {
        let Curve { value, slope, bend } = function(self.value());
        let dims = self.dims();
        assert!(
            value.dims() == dims && slope.dims() == dims,
            "an elementwise function of a matrix {dims:?} has a value {:?} and a slope {:?}",
            value.dims(),
            slope.dims()
        );
        let of = self.index;
        self.then(value, Operation::Elementwise { of, slope, bend })
    }

    /// `x²`, elementwise.
    #[must_use]
    pub fn square(self) -> Self {
        self.map(|x| Curve {
            slope: x.clone() * 2.0,
            bend: Some(Tensor::ones([1, 1], (&x.device(), x.dtype())) * 2.0),
            value: x.square(),
        })
    }

    /// `exp x`, elementwise.
    #[must_use]
    pub fn exp(self) -> Self {
        self.map(|x| {
            let value = x.exp();
            Curve {
                slope: value.clone(),
                bend: Some(value.clone()),
                value,
            }
        })
    }

    /// The natural logarithm, elementwise.
    #[must_use]
    pub fn log(self) -> Self {
        self.map(|x| {
            let slope = x.clone().recip();
            Curve {
                bend: Some(slope.clone().square().neg()),
                slope,
                value: x.log(),
            }
        })
    }

    /// `tanh x`, elementwise.
    #[must_use]
    pub fn tanh(self) -> Self {
        self.map(|x| {
            let value = x.tanh();
            let slope = value.clone().square().neg() + 1.0;
            Curve {
                bend: Some(value.clone() * slope.clone() * -2.0),
                slope,
                value,
            }
        })
    }

    /// `1 / (1 + exp(-x))`, elementwise.
    #[must_use]
    pub fn sigmoid(self) -> Self {
        self.map(|x| {
            let value = sigmoid(x);
            let slope = value.clone() * (value.clone().neg() + 1.0);
            Curve {
                bend: Some(slope.clone() * (value.clone() * -2.0 + 1.0)),
                slope,
                value,
            }
        })
    }

    /// `log(1 / (1 + exp(-x)))`, elementwise.
    #[must_use]
    pub fn log_sigmoid(self) -> Self {
        self.map(|x| {
            let slope = sigmoid(x.clone().neg());
            Curve {
                bend: Some(slope.clone() * (slope.clone() - 1.0)),
                slope,
                value: log_sigmoid(x),
            }
        })
    }

    /// `max(x, 0)`, elementwise; all derivatives at 0 are 0.
    #[must_use]
    pub fn relu(self) -> Self {
        self.map(|x| Curve {
            slope: x
                .ones_like()
                .mask_fill(x.clone().lower_equal_elem(0.0), 0.0),
            bend: None,
            value: relu(x),
        })
    }

    /// Logarithm of the softmax of each row.
    #[must_use]
    pub fn log_softmax(self) -> Self {
        let value = log_softmax(self.value(), 1);
        let softmax = value.clone().exp();
        let of = self.index;
        self.then(value, Operation::LogSoftmax { of, softmax })
    }

    /// Of each row the entries in the columns that are named.
    ///
    /// # Shapes
    ///
    /// - columns: `[rows, n]`; output: `[rows, n]`
    #[must_use]
    pub fn pick(self, columns: Tensor<2, Int>) -> Self {
        let columns = columns.inner();
        let value = self.value().gather(1, columns.clone());
        let of = self.index;
        self.then(value, Operation::Pick { of, columns })
    }

    /// The sum of all entries, `[1, 1]`.
    #[must_use]
    pub fn sum(self) -> Self {
        let value = self.value().sum().reshape([1, 1]);
        let operation = Operation::Sum(self.index);
        self.then(value, operation)
    }

    /// The mean of all entries, `[1, 1]`.
    #[must_use]
    pub fn mean(self) -> Self {
        let [rows, columns] = self.dims();
        self.sum().scale(1.0 / (rows * columns) as f64)
    }

    /// The sums over an axis, which stays with size 1.
    ///
    /// # Panics
    ///
    /// Panics if `axis` is neither 0 nor 1.
    #[must_use]
    pub fn sum_dim(self, axis: usize) -> Self {
        let value = sum_over(self.value(), axis);
        let operation = Operation::SumDim(self.index, axis);
        self.then(value, operation)
    }
}

impl Add for Recorded {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let right = other.index_in(&self.recording);
        let value = self.value() + other.value();
        let operation = Operation::Add(self.index, right);
        self.then(value, operation)
    }
}

impl Sub for Recorded {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.add(other.neg())
    }
}

impl Neg for Recorded {
    type Output = Self;

    fn neg(self) -> Self {
        self.scale(-1.0)
    }
}

/// Entry by entry.
impl Mul for Recorded {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let right = other.index_in(&self.recording);
        let value = self.value() * other.value();
        let operation = Operation::Multiply(self.index, right);
        self.then(value, operation)
    }
}

/// A recorded objective `f`, with its gradient at every operation.
pub(crate) struct SecondOrder {
    tape: Tape,
    objective: usize,
    /// `∂f/∂y` where a product needs it of a result `y`.
    adjoints: Vec<Option<Tensor<2>>>,
    /// Of which results the tangent is needed.
    needs_tangent: Vec<bool>,
}

impl SecondOrder {
    /// Takes the gradient: a backward pass.
    ///
    /// # Panics
    ///
    /// Panics if `objective` is not one number.
    pub(crate) fn new(objective: Recorded) -> Self {
        let (dims, index) = (objective.dims(), objective.index);
        assert_eq!(dims, [1, 1], "a recorded objective is one number");
        let mut tape = objective.recording.tape.take();
        let nodes = &mut tape.nodes;
        let mut sums = Sums::for_each(nodes, |_| true);
        // The gradient by the parameters themselves is not wanted.
        for leaf in tape.parameters.values() {
            sums.is_wanted[leaf.index] = false;
        }
        sums.add(index, || nodes[index].value.ones_like());
        let mut adjoints = vec![None; nodes.len()];
        for at in (0..=index).rev() {
            let adjoint = sums.take(at);
            if let Some(adjoint) = &adjoint {
                nodes[at].pull_back(nodes, adjoint.clone(), &mut sums);
            }
            match (&mut nodes[at].operation, adjoint) {
                // What a product needs of the gradient here is its product with the bend.
                (Operation::Elementwise { bend, .. }, adjoint) => {
                    *bend = bend
                        .take()
                        .zip(adjoint)
                        .map(|(bend, adjoint)| bend * adjoint);
                }
                (Operation::LogSoftmax { .. }, Some(adjoint)) => {
                    adjoints[at] = Some(sum_over(adjoint, 1));
                }
                (Operation::Matmul(..) | Operation::Multiply(..), adjoint) => {
                    adjoints[at] = adjoint;
                }
                _ => {}
            }
        }
        let needs_tangent = needs_tangent(nodes, index);
        Self {
            tape,
            objective: index,
            adjoints,
            needs_tangent,
        }
    }

    /// The objective, and the precision it was computed in.
    pub(crate) fn value(&self) -> (f64, DType) {
        let value = &self.tape.nodes[self.objective].value;
        let dtype = value.dtype();
        (value.clone().into_data().iter::<f64>().sum(), dtype)
    }

    /// `∂/∂q <∂f/∂w, u>` for the tracked parameters `q` of `module`, where `u` has entries for the
    /// parameters `w`: with the module of these a product with the Hessian, with another one a mixed
    /// product.
    ///
    /// Costs two forward passes for the tangents and four for the way back, less what depends on no
    /// parameter of either kind.
    pub(crate) fn product<M: Module>(&self, u: &ParamVector, module: &M) -> ParamVector {
        let nodes = &self.tape.nodes[..=self.objective];
        let wanted: Vec<(ParamId, usize)> = ParamVector::from_parameters(module)
            .entries()
            .filter_map(|(id, _)| {
                let leaf = self.tape.parameters.get(&id)?;
                leaf.is_tracked.then_some((id, leaf.index))
            })
            .collect();
        let mut tangents: Vec<Option<Tensor<2>>> = Vec::with_capacity(nodes.len());
        for (node, is_needed) in nodes.iter().zip(&self.needs_tangent) {
            let tangent = is_needed.then(|| node.tangent(u, &tangents, nodes));
            tangents.push(tangent.flatten());
        }
        let mut sums = Sums::for_each(nodes, |leaf| wanted.iter().any(|(_, at)| *at == leaf));
        for (at, node) in nodes.iter().enumerate().rev() {
            if node.is_leaf() {
                continue;
            }
            if let Some(change) = sums.take(at) {
                node.pull_back(nodes, change, &mut sums);
            }
            node.pull_back_along(nodes, self.adjoints[at].as_ref(), &tangents, at, &mut sums);
        }
        let mut product = ParamVector::zero();
        for (id, at) in wanted {
            if let Some(entry) = sums.take(at) {
                product.insert(id, entry);
            }
        }
        product
    }
}

/// Sums over the ways that lead back to a result, of those results that are wanted.
struct Sums {
    is_wanted: Vec<bool>,
    entries: Vec<Option<Tensor<2>>>,
}

impl Sums {
    /// For the parameters that are wanted and what was computed from them.
    fn for_each(nodes: &[Node], is_wanted_leaf: impl Fn(usize) -> bool) -> Self {
        let mut is_wanted: Vec<bool> = Vec::with_capacity(nodes.len());
        for (at, node) in nodes.iter().enumerate() {
            is_wanted.push(match node.operation {
                Operation::Constant => false,
                Operation::Parameter(_) => is_wanted_leaf(at),
                _ => node.operation.parents().any(|parent| is_wanted[parent]),
            });
        }
        Self {
            is_wanted,
            entries: vec![None; nodes.len()],
        }
    }

    fn add(&mut self, at: usize, part: impl FnOnce() -> Tensor<2>) {
        if self.is_wanted[at] {
            let part = part();
            self.entries[at] = Some(match self.entries[at].take() {
                Some(sum) => sum + part,
                None => part,
            });
        }
    }

    fn take(&mut self, at: usize) -> Option<Tensor<2>> {
        self.entries[at].take()
    }
}

/// The results whose tangent a product uses: those that an operation takes nonlinearly, and what
/// they are computed from.
fn needs_tangent(nodes: &[Node], objective: usize) -> Vec<bool> {
    let is_constant = |at: usize| matches!(nodes[at].operation, Operation::Constant);
    let mut needs = vec![false; nodes.len()];
    for at in (0..=objective).rev() {
        let is_needed = needs[at];
        match &nodes[at].operation {
            // The factor of what can change is a slope.
            Operation::Matmul(a, b) | Operation::Multiply(a, b) => {
                needs[*a] |= is_needed || !is_constant(*b);
                needs[*b] |= is_needed || !is_constant(*a);
            }
            Operation::Elementwise { of, bend, .. } => needs[*of] |= is_needed || bend.is_some(),
            Operation::LogSoftmax { of, .. } => {
                needs[at] = true;
                needs[*of] = true;
            }
            operation => operation
                .parents()
                .for_each(|parent| needs[parent] |= is_needed),
        }
    }
    needs
}

impl Operation {
    fn parents(&self) -> impl Iterator<Item = usize> {
        let (first, second) = match self {
            Self::Constant | Self::Parameter(_) => (None, None),
            Self::Matmul(a, b) | Self::Add(a, b) | Self::Multiply(a, b) => (Some(*a), Some(*b)),
            Self::Scale(of, _)
            | Self::Transpose(of)
            | Self::Elementwise { of, .. }
            | Self::LogSoftmax { of, .. }
            | Self::Pick { of, .. }
            | Self::Sum(of)
            | Self::SumDim(of, _) => (Some(*of), None),
        };
        first.into_iter().chain(second)
    }
}

impl Node {
    fn is_leaf(&self) -> bool {
        matches!(
            self.operation,
            Operation::Constant | Operation::Parameter(_)
        )
    }

    /// The derivative along `u`, where parents have `tangents`.
    fn tangent(
        &self,
        u: &ParamVector,
        tangents: &[Option<Tensor<2>>],
        nodes: &[Node],
    ) -> Option<Tensor<2>> {
        let of = |at: &usize| tangents[*at].clone();
        let value = |at: &usize| nodes[*at].value.clone();
        let dims = self.value.dims();
        match &self.operation {
            Operation::Constant => None,
            Operation::Parameter(id) => u.get(*id, dims),
            Operation::Matmul(a, b) => sum(
                of(a).map(|tangent| tangent.matmul(value(b))),
                of(b).map(|tangent| value(a).matmul(tangent)),
            ),
            Operation::Add(a, b) => {
                // A lone tangent may have to be broadcast.
                sum(of(a), of(b)).map(|tangent| tangent.expand(dims))
            }
            Operation::Multiply(a, b) => sum(
                of(a).map(|tangent| tangent * value(b)),
                of(b).map(|tangent| tangent * value(a)),
            ),
            Operation::Scale(a, factor) => of(a).map(|tangent| tangent * *factor),
            Operation::Transpose(a) => of(a).map(Tensor::transpose),
            Operation::Elementwise { of: a, slope, .. } => {
                of(a).map(|tangent| tangent * slope.clone())
            }
            Operation::LogSoftmax { of: a, softmax } => of(a).map(|tangent| {
                let mean = sum_over(softmax.clone() * tangent.clone(), 1);
                tangent - mean
            }),
            Operation::Pick { of: a, columns } => {
                of(a).map(|tangent| tangent.gather(1, columns.clone()))
            }
            Operation::Sum(a) => of(a).map(|tangent| tangent.sum().reshape([1, 1])),
            Operation::SumDim(a, axis) => of(a).map(|tangent| sum_over(tangent, *axis)),
        }
    }

    /// Adds to the parents what `adjoint` of this result gives them: `Jᵀ adjoint`.
    fn pull_back(&self, nodes: &[Node], adjoint: Tensor<2>, sums: &mut Sums) {
        let value = |at: &usize| nodes[*at].value.clone();
        let dims = |at: &usize| nodes[*at].value.dims();
        match &self.operation {
            Operation::Constant | Operation::Parameter(_) => {}
            Operation::Matmul(a, b) => {
                sums.add(*a, || adjoint.clone().matmul(value(b).transpose()));
                sums.add(*b, || value(a).transpose().matmul(adjoint));
            }
            Operation::Add(a, b) => {
                sums.add(*a, || sum_to(adjoint.clone(), dims(a)));
                sums.add(*b, || sum_to(adjoint, dims(b)));
            }
            Operation::Multiply(a, b) => {
                sums.add(*a, || sum_to(adjoint.clone() * value(b), dims(a)));
                sums.add(*b, || sum_to(adjoint * value(a), dims(b)));
            }
            Operation::Scale(a, factor) => sums.add(*a, || adjoint * *factor),
            Operation::Transpose(a) => sums.add(*a, || adjoint.transpose()),
            Operation::Elementwise { of: a, slope, .. } => {
                sums.add(*a, || adjoint * slope.clone());
            }
            Operation::LogSoftmax { of: a, softmax } => {
                sums.add(*a, || {
                    let total = sum_over(adjoint.clone(), 1);
                    adjoint - softmax.clone() * total
                });
            }
            Operation::Pick { of: a, columns } => sums.add(*a, || {
                let zeros = value(a).zeros_like();
                zeros.scatter(1, columns.clone(), adjoint, IndexingUpdateOp::Add)
            }),
            Operation::Sum(a) | Operation::SumDim(a, _) => {
                sums.add(*a, || adjoint.expand(dims(a)));
            }
        }
    }

    /// Adds to the parents how `Jᵀ adjoint` changes along `tangents`, with `adjoint` as it is.
    fn pull_back_along(
        &self,
        nodes: &[Node],
        adjoint: Option<&Tensor<2>>,
        tangents: &[Option<Tensor<2>>],
        at: usize,
        sums: &mut Sums,
    ) {
        let dims = |at: &usize| nodes[*at].value.dims();
        match (&self.operation, adjoint) {
            (Operation::Matmul(a, b), Some(adjoint)) => {
                if let Some(tangent) = &tangents[*b] {
                    sums.add(*a, || adjoint.clone().matmul(tangent.clone().transpose()));
                }
                if let Some(tangent) = &tangents[*a] {
                    sums.add(*b, || tangent.clone().transpose().matmul(adjoint.clone()));
                }
            }
            (Operation::Multiply(a, b), Some(adjoint)) => {
                if let Some(tangent) = &tangents[*b] {
                    sums.add(*a, || sum_to(tangent.clone() * adjoint.clone(), dims(a)));
                }
                if let Some(tangent) = &tangents[*a] {
                    sums.add(*b, || sum_to(tangent.clone() * adjoint.clone(), dims(b)));
                }
            }
            (Operation::Elementwise { of, bend, .. }, _) => {
                if let (Some(bend), Some(tangent)) = (bend, &tangents[*of]) {
                    sums.add(*of, || tangent.clone() * bend.clone());
                }
            }
            (Operation::LogSoftmax { of, softmax }, Some(total)) => {
                if let Some(tangent) = &tangents[at] {
                    sums.add(*of, || {
                        softmax.clone() * tangent.clone() * total.clone().neg()
                    });
                }
            }
            _ => {}
        }
    }
}

fn sum(a: Option<Tensor<2>>, b: Option<Tensor<2>>) -> Option<Tensor<2>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

/// Sums over the axes along which a tensor of the shape `dims` was broadcast.
fn sum_to(x: Tensor<2>, dims: [usize; 2]) -> Tensor<2> {
    (0..2).fold(x, |x, axis| {
        if dims[axis] == 1 && x.dims()[axis] > 1 {
            sum_over(x, axis)
        } else {
            x
        }
    })
}

/// Sums over an axis, which stays with size 1: a product with ones, which burn's CPU backend takes
/// an order of magnitude faster than its sums over an axis.
fn sum_over(x: Tensor<2>, axis: usize) -> Tensor<2> {
    assert!(axis < 2, "a matrix has no axis {axis}");
    let options = (&x.device(), x.dtype());
    let [rows, columns] = x.dims();
    if axis == 0 {
        Tensor::ones([1, rows], options).matmul(x)
    } else {
        x.matmul(Tensor::ones([columns, 1], options))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData};

    use super::*;
    use crate::params::shifted;

    /// A matrix, a row and a frozen row.
    #[derive(Module, Debug)]
    struct Parameters {
        matrix: Param<Tensor<2>>,
        row: Param<Tensor<1>>,
        frozen: Param<Tensor<1>>,
    }

    fn parameters(seed: u64) -> Parameters {
        let device = Device::flex().autodiff();
        device.seed(seed);
        let options = (&device, DType::F64);
        let normal = Distribution::Normal(0.0, 0.7);
        let param = |values: Tensor<1>| Param::from_tensor(values);
        let matrix = Tensor::random([4, 3], normal, options);
        Parameters {
            matrix: Param::from_tensor(matrix),
            row: param(Tensor::random([3], normal, options)),
            frozen: param(Tensor::random([3], normal, options)).set_require_grad(false),
        }
    }

    type Objective = fn(&Recording, &Parameters, &Parameters) -> Recorded;

    fn evaluate(objective: Objective, inner: &Parameters, outer: &Parameters) -> f64 {
        let value = objective(&Recording::default(), inner, outer).value();
        value.into_data().iter::<f64>().sum()
    }

    /// `<v, ∂²f u>`, differenced four times.
    fn second_difference(
        objective: Objective,
        [inner, outer]: [&Parameters; 2],
        u: &ParamVector,
        v: &ParamVector,
        is_mixed: bool,
    ) -> f64 {
        let step = 1e-4;
        let at = |along_u: f64, along_v: f64| {
            let inner = shifted(inner, along_u * step, u);
            if is_mixed {
                let outer = shifted(outer, along_v * step, v);
                evaluate(objective, &inner, &outer)
            } else {
                evaluate(objective, &shifted(&inner, along_v * step, v), outer)
            }
        };
        let sum = at(1.0, 1.0) - at(1.0, -1.0) - at(-1.0, 1.0) + at(-1.0, -1.0);
        sum / (4.0 * step * step)
    }

    /// Each operation, bent enough that it has a second derivative of its own in the sum.
    const OBJECTIVES: [(&str, Objective); 13] = [
        ("products of matrices", |tape, inner, outer| {
            let (w, q) = (tape.parameter(&inner.matrix), tape.parameter(&outer.matrix));
            let gram = w.clone().matmul(q.transpose());
            gram.clone().matmul(gram).matmul(w).sum()
        }),
        ("a product with itself", |tape, inner, outer| {
            let w = tape.parameter(&inner.matrix);
            let square = w.clone().matmul(w.clone().transpose()) * w.clone().sum_dim(1);
            (square * tape.parameter(&outer.row).sum()).sum()
        }),
        ("rows and columns", |tape, inner, outer| {
            let (w, row) = (tape.parameter(&inner.matrix), tape.parameter(&inner.row));
            let column = w.clone().sum_dim(1);
            let shifted = row.clone() * w.clone() - column.clone() + row;
            (shifted.square() * column * tape.parameter(&outer.row)).mean()
        }),
        ("sums over axes", |tape, inner, outer| {
            let w = tape.parameter(&inner.matrix);
            let (rows, columns) = (w.clone().sum_dim(0), w.sum_dim(1));
            (columns.square().matmul(rows.exp()) * tape.parameter(&outer.matrix).sum()).sum()
        }),
        ("tanh", |tape, inner, outer| {
            let x = tape.parameter(&inner.matrix) * tape.parameter(&outer.row);
            x.tanh().square().sum()
        }),
        ("sigmoid", |tape, inner, outer| {
            let x = tape.parameter(&inner.matrix) * tape.parameter(&outer.row);
            x.sigmoid().scale(3.0).square().sum()
        }),
        ("logarithm of the sigmoid", |tape, inner, outer| {
            let x = tape.parameter(&inner.matrix) * tape.parameter(&outer.row);
            x.log_sigmoid().sum()
        }),
        ("exponential and logarithm", |tape, inner, outer| {
            let x = tape.parameter(&inner.matrix) + tape.parameter(&outer.row);
            x.exp().add_scalar(1.0).log().sum()
        }),
        ("rectified", |tape, inner, outer| {
            let x = tape.parameter(&inner.matrix).relu() * tape.parameter(&outer.row);
            (x.clone() * x).sum()
        }),
        ("softmax", |tape, inner, outer| {
            let x = tape.parameter(&inner.matrix) * tape.parameter(&outer.row);
            let columns = Tensor::from_data([[0], [2], [2], [1]], &Device::flex());
            let x = x.log_softmax();
            x.clone().pick(columns).square().sum() + x.exp().square().sum()
        }),
        ("what does not count", |tape, inner, outer| {
            let w = tape.parameter(&inner.matrix);
            let _unused = w.clone().tanh().matmul(w.clone().transpose()).exp();
            let constant = tape.constant(Tensor::ones([1, 3], (&Device::flex(), DType::F64)));
            let constant = (constant.tanh() + tape.parameter(&inner.frozen)).exp();
            (w.square() * constant * tape.parameter(&outer.row)).sum()
        }),
        ("an operation of one's own", |tape, inner, outer| {
            let x = tape.parameter(&inner.row) + tape.parameter(&outer.row);
            let sine = x.map(|x| Curve {
                value: x.clone().sin(),
                slope: x.clone().cos(),
                bend: Some(x.sin().neg()),
            });
            sine.sum()
        }),
        ("linear alone", |tape, inner, outer| {
            let w = tape.parameter(&inner.matrix).scale(2.0);
            (w.add_scalar(1.0) - tape.parameter(&outer.row)).sum()
        }),
    ];

    #[test]
    fn products_are_second_differences() {
        let (inner, outer) = (parameters(1), parameters(2));
        for (name, objective) in OBJECTIVES {
            let tape = Recording::default();
            let record = SecondOrder::new(objective(&tape, &inner, &outer));
            assert!((record.value().0 - evaluate(objective, &inner, &outer)).abs() < 1e-14);
            let [zeros, outer_zeros] = [&inner, &outer].map(ParamVector::zeros_like);
            let u = zeros.random_normal(3);
            for (is_mixed, v) in [
                (false, zeros.random_normal(4)),
                (true, outer_zeros.random_normal(5)),
            ] {
                let product = record.product(&u, if is_mixed { &outer } else { &inner });
                let expected = second_difference(objective, [&inner, &outer], &u, &v, is_mixed);
                let found = product.dot(&v);
                let apart = (found - expected).abs() / (1.0 + expected.abs());
                assert!(apart < 3e-6, "{name}, mixed {is_mixed}: {found} {expected}");
                // A frozen parameter has no entry.
                let frozen = [inner.frozen.id, outer.frozen.id];
                assert!(product.entries().all(|(id, _)| !frozen.contains(&id)));
            }
        }
    }

    #[test]
    fn a_record_gives_the_same_product_again() {
        let (inner, outer) = (parameters(1), parameters(2));
        let (_, objective) = OBJECTIVES[0];
        let record = SecondOrder::new(objective(&Recording::default(), &inner, &outer));
        let u = ParamVector::zeros_like(&inner).random_normal(3);
        let first = record.product(&u, &inner).to_vec();
        let other = record.product(&u.clone().scale(-3.0), &inner);
        assert_eq!(record.product(&u, &inner).to_vec(), first);
        let sum = other.add_scaled(3.0, &record.product(&u, &inner));
        assert!(sum.norm() < 1e-12);
    }

    #[test]
    fn a_module_off_the_tape_has_tangents_and_no_products() {
        let (inner, outer) = (parameters(1), parameters(2));
        let u = ParamVector::zeros_like(&inner).random_normal(3);
        for (name, objective) in OBJECTIVES {
            let mixed = |inner: &Parameters| {
                let record = SecondOrder::new(objective(&Recording::default(), inner, &outer));
                let by_inner = record.product(&u, inner);
                (record.product(&u, &outer).to_vec(), by_inner)
            };
            let (expected, _) = mixed(&inner);
            let (found, by_inner) = mixed(&inner.clone().no_grad());
            assert_eq!(found, expected, "{name}");
            assert!(by_inner.is_empty());
        }
    }

    #[test]
    fn a_layer_is_that_of_burn() {
        let device = Device::flex().autodiff();
        let layer = burn::nn::LinearConfig::new(2, 3).init(&device);
        let x = Tensor::<2>::from_data(TensorData::from([[0.5, -1.0], [2.0, 0.3]]), &device);
        let tape = Recording::default();
        let recorded = tape.constant(x.clone()).linear(&layer);
        let apart = recorded.value() - layer.forward(x).inner();
        assert!(apart.abs().max().into_scalar::<f32>() < 1e-6);
    }

    #[test]
    #[should_panic(expected = "a slope [1, 1]")]
    fn a_slope_has_the_shape_of_its_argument() {
        let x = Recording::default().constant(Tensor::ones([2, 3], &Device::flex()));
        let _mapped = x.map(|x| Curve {
            slope: Tensor::ones([1, 1], &x.device()),
            bend: None,
            value: x,
        });
    }

    #[test]
    #[should_panic(expected = "two recordings")]
    fn matrices_of_two_recordings_do_not_meet() {
        let ones = || Tensor::ones([1, 1], &Device::flex());
        let (one, other) = (Recording::default(), Recording::default());
        let _sum = one.constant(ones()) + other.constant(ones());
    }
}
