//! A regression with five auxiliary losses of which it is known whether they help.

use std::marker::PhantomData;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use meltr_aid::{BilevelProblem, ParamVector, ScalarMediated};
use meltr_core::{
    Dual, Fill, LossCombiner, Pass, Weights, combine, directional_derivative, initialize,
};
use meltr_data::{RandomStream, seed_for};

/// Number of losses.
pub(super) const N_TASKS: usize = 6;

/// Positions of the losses by what they do to the primary one.
pub(super) const PRIMARY: usize = 0;
pub(super) const HELPFUL: [usize; 2] = [1, 2];
pub(super) const CONFLICTING: [usize; 2] = [3, 4];
pub(super) const RANDOM: [usize; 1] = [5];

/// Widths of input, hidden layer and output.
const D_INPUT: usize = 32;
const D_HIDDEN: usize = 64;
const D_OUTPUT: usize = 64;

/// Items to train on, held out for the outer objective, and to test on.
const N_TRAIN: usize = 64;
const N_HELD_OUT: usize = 128;
const N_TEST: usize = 1024;

/// Standard deviation of the noise on a target; that of the target itself is 1.
const NOISE: f64 = 1.0;

/// What the seeds of the random streams are derived from, beside the seed of the run.
mod stream {
    pub(super) const DATA: u64 = 1;
    pub(super) const MODEL: u64 = 2;
}

/// One hidden layer of rectified units.
#[derive(Module, Debug)]
pub(super) struct Mlp {
    hidden: Linear,
    output: Linear,
}

impl Mlp {
    /// Weights `U(-1/√fan_in, 1/√fan_in)`, biases 0; without a tape.
    pub(super) fn new(seed: u64, device: &Device) -> Self {
        let model = Self {
            hidden: LinearConfig::new(D_INPUT, D_HIDDEN).init(device),
            output: LinearConfig::new(D_HIDDEN, D_OUTPUT).init(device),
        };
        initialize(model, seed_for(seed, &[stream::MODEL]), |site| {
            match site.shape {
                [d_input, _] => Fill::Uniform(1.0 / (*d_input as f64).sqrt()),
                _ => Fill::Constant(0.0),
            }
        })
    }

    /// `[B, D_INPUT]` to `[B, D_OUTPUT]`.
    fn forward(weights: Weights<'_, Self>, x: &Tensor<2>) -> Dual<2> {
        let hidden = weights
            .of(|model| &model.hidden)
            .apply(Dual::constant(x.clone()))
            .relu();
        weights.of(|model| &model.output).apply(hidden)
    }
}

/// Inputs, and a target and perhaps a rotation for each loss.
#[derive(Debug, Clone)]
struct Batch {
    /// `[B, D_INPUT]`.
    x: Tensor<2>,
    /// `[B, D_OUTPUT]` each.
    targets: Vec<Tensor<2>>,
    /// `[D_OUTPUT, D_OUTPUT]`, applied to the prediction; `None` is the identity.
    rotations: Vec<Option<Tensor<2>>>,
}

impl Batch {
    /// Mean squared errors, one a target, `[T]`.
    fn losses(&self, weights: Weights<'_, Mlp>) -> Dual<1> {
        let predicted = Mlp::forward(weights, &self.x);
        let losses = self
            .targets
            .iter()
            .zip(&self.rotations)
            .map(|(target, rotation)| {
                let turned = match rotation {
                    Some(rotation) => predicted.clone().matmul(Dual::constant(rotation.clone())),
                    None => predicted.clone(),
                };
                turned
                    .add_constant(target.clone().neg())
                    .map_elementwise(|x| x.square(), |x, _| x * 2.0)
                    .map_linear(Tensor::mean)
            })
            .collect();
        Dual::cat(losses, 0)
    }

    /// The same data for automatic differentiation.
    fn on_tape(&self) -> Self {
        let on_tape = |x: &Tensor<2>| Tensor::from_inner(x.clone());
        Self {
            x: on_tape(&self.x),
            targets: self.targets.iter().map(on_tape).collect(),
            rotations: self
                .rotations
                .iter()
                .map(|rotation| rotation.as_ref().map(on_tape))
                .collect(),
        }
    }
}

/// The data of one seed: `y = x A`, of which six losses see noisy versions.
///
/// The primary loss sees `y`, two helpful ones each a known rotation of the output against the
/// same rotation of `y`, two conflicting ones `-y`, and one sees noise alone, as large as the
/// other targets. All noise is independent, so that the helpful losses average that of the primary
/// one away.
#[derive(Debug)]
pub(super) struct Problem {
    /// The training batch, without a tape and on it.
    train: Batch,
    train_on_tape: Batch,
    /// Held out, the primary target alone, on the tape.
    held_out: Batch,
    /// The primary target without noise, without a tape.
    test: Batch,
}

impl Problem {
    /// Draws the data of a seed; `device` has no tape.
    pub(super) fn draw(seed: u64, device: &Device) -> Self {
        let mut source = Source {
            stream: RandomStream::new(seed_for(seed, &[stream::DATA])),
            device: device.clone(),
        };
        let map = source.normal([D_INPUT, D_OUTPUT], 1.0 / (D_INPUT as f64).sqrt());
        let rotations: Vec<Option<Tensor<2>>> = (0..N_TASKS)
            .map(|task| HELPFUL.contains(&task).then(|| source.rotation(D_OUTPUT)))
            .collect();

        let x = source.normal([N_TRAIN, D_INPUT], 1.0);
        let y = x.clone().matmul(map.clone());
        let shape = [N_TRAIN, D_OUTPUT];
        let targets = rotations
            .iter()
            .enumerate()
            .map(|(task, rotation)| match rotation {
                _ if RANDOM.contains(&task) => source.normal(shape, (1.0 + NOISE * NOISE).sqrt()),
                _ if CONFLICTING.contains(&task) => y.clone().neg() + source.normal(shape, NOISE),
                Some(rotation) => y.clone().matmul(rotation.clone()) + source.normal(shape, NOISE),
                None => y.clone() + source.normal(shape, NOISE),
            })
            .collect();
        let train = Batch {
            x,
            targets,
            rotations,
        };

        let mut primary = |n_items: usize, noise: f64| {
            let x = source.normal([n_items, D_INPUT], 1.0);
            let y = x.clone().matmul(map.clone());
            Batch {
                x,
                targets: vec![y + source.normal([n_items, D_OUTPUT], noise)],
                rotations: vec![None],
            }
        };
        let held_out = primary(N_HELD_OUT, NOISE).on_tape();
        let test = primary(N_TEST, 0.0);
        Self {
            train_on_tape: train.on_tape(),
            train,
            held_out,
            test,
        }
    }

    /// The losses on the training batch, `[T]`, on the tape of `model`.
    pub(super) fn losses(&self, model: &Mlp) -> Tensor<1> {
        self.train_on_tape.losses(Weights::constant(model)).value
    }

    /// The same for a model without a tape.
    pub(super) fn plain_losses(&self, model: &Mlp) -> Tensor<1> {
        self.train.losses(Weights::constant(model)).value
    }

    /// The losses and their derivatives along a direction, `[T]` each; both models are without a
    /// tape.
    pub(super) fn losses_along(&self, model: &Mlp, direction: &Mlp) -> (Tensor<1>, Tensor<1>) {
        let losses = self.train.losses(Weights::new(model, direction));
        (losses.value.clone(), losses.tangent_or_zeros())
    }

    /// The primary loss on the held-out items, `[1]`, on the tape of `model`.
    pub(super) fn held_out_loss(&self, model: &Mlp) -> Tensor<1> {
        self.held_out.losses(Weights::constant(model)).value
    }

    /// The mean squared error against targets without noise; `model` is without a tape.
    pub(super) fn test_loss(&self, model: &Mlp) -> f64 {
        self.test
            .losses(Weights::constant(model))
            .value
            .into_scalar::<f64>()
    }
}

/// Random tensors without a tape.
struct Source {
    stream: RandomStream,
    device: Device,
}

impl Source {
    fn normal(&mut self, shape: [usize; 2], deviation: f64) -> Tensor<2> {
        let values: Vec<f32> = (0..shape[0] * shape[1])
            .map(|_| (deviation * self.stream.normal()) as f32)
            .collect();
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// A random orthogonal matrix, `[n, n]`, by Gram and Schmidt.
    fn rotation(&mut self, n: usize) -> Tensor<2> {
        let mut rows: Vec<Vec<f64>> = Vec::with_capacity(n);
        for _ in 0..n {
            let mut row: Vec<f64> = (0..n).map(|_| self.stream.normal()).collect();
            for earlier in &rows {
                let along: f64 = row.iter().zip(earlier).map(|(a, b)| a * b).sum();
                for (entry, other) in row.iter_mut().zip(earlier) {
                    *entry -= along * other;
                }
            }
            let length = row.iter().map(|entry| entry * entry).sum::<f64>().sqrt();
            rows.push(row.into_iter().map(|entry| entry / length).collect());
        }
        let values: Vec<f32> = rows
            .into_iter()
            .flatten()
            .map(|entry| entry as f32)
            .collect();
        Tensor::from_data(TensorData::new(values, [n, n]), &self.device)
    }
}

/// The outer step: inner objective `g(l(w))` on the training batch, outer objective the primary
/// loss on the held-out items.
#[derive(Debug)]
pub(super) struct OuterStep<'a, C> {
    problem: &'a Problem,
    combiner: PhantomData<C>,
}

impl<'a, C> OuterStep<'a, C> {
    pub(super) fn new(problem: &'a Problem) -> Self {
        Self {
            problem,
            combiner: PhantomData,
        }
    }
}

impl<C: LossCombiner + Module> ScalarMediated for OuterStep<'_, C> {
    type Inner = Mlp;
    type Outer = C;

    fn scalars(&self, inner: &Mlp) -> Tensor<1> {
        // A difference quotient asks with a model that has no tape.
        if inner.hidden.weight.val().is_autodiff() {
            self.problem.losses(inner)
        } else {
            self.problem.plain_losses(inner)
        }
    }

    fn scalars_along(&self, inner: &Mlp, direction: &Mlp) -> Option<(Tensor<1>, Tensor<1>)> {
        Some(self.problem.losses_along(inner, direction))
    }

    fn combined(&self, outer: &C, scalars: Tensor<1>) -> Tensor<1> {
        combine(outer, scalars)
    }

    fn mixed_scalar_product(
        &self,
        outer: &C,
        scalars: Tensor<1>,
        direction: Tensor<1>,
    ) -> ParamVector {
        let along = directional_derivative(outer, scalars, direction);
        ParamVector::from_gradients(&mut along.backward(), outer)
    }
}

impl<C: LossCombiner + Module> BilevelProblem for OuterStep<'_, C> {
    type Inner = Mlp;
    type Outer = C;

    fn inner_objective(&self, inner: &Mlp, outer: &C) -> Tensor<1> {
        combine(outer, self.scalars(inner))
    }

    fn outer_objective(&self, inner: &Mlp, _: &C) -> Tensor<1> {
        self.problem.held_out_loss(inner)
    }

    fn inner_objective_along(&self, inner: &Mlp, direction: &Mlp, outer: &C) -> Option<Tensor<1>> {
        let weights = Weights::new(inner, direction);
        let losses = self.problem.train_on_tape.losses(weights);
        outer
            .forward(losses.map_linear(|x| x.unsqueeze::<2>()), Pass::Evaluation)
            .tangent
    }

    fn mediation(&self) -> Option<&dyn ScalarMediated<Inner = Mlp, Outer = C>> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_leaves_lengths_as_they_are() {
        let device = Device::default();
        let mut source = Source {
            stream: RandomStream::new(3),
            device: device.clone(),
        };
        let rotation = source.rotation(16);
        let product = rotation.clone().matmul(rotation.transpose());
        let identity = Tensor::<2>::eye(16, &device);
        let error: f32 = (product - identity).abs().max().into_scalar();
        assert!(error < 1e-5, "{error}");
    }

    #[test]
    fn an_untrained_network_has_losses_of_target_and_noise_together() {
        let device = Device::default();
        let problem = Problem::draw(0, &device);
        let model = Mlp::new(0, &device);
        let losses: Vec<f32> = problem
            .plain_losses(&model)
            .into_data()
            .try_to_vec()
            .unwrap();
        // An untrained network predicts next to nothing: variance of the target plus noise.
        for loss in losses {
            assert!((1.6..2.8).contains(&loss), "{loss}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_data() {
        let device = Device::default();
        let model = Mlp::new(1, &device);
        let at = |seed: u64| Problem::draw(seed, &device).test_loss(&model);
        assert_eq!(at(5), at(5));
        assert!((at(5) - at(6)).abs() > 0.0);
    }
}
