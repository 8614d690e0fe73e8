//! Reweighted samples: a small network gives each training sample a weight from its loss, and is
//! learned so that a perceptron trained on the weighted losses does well on clean samples.
//!
//! # References
//!
//! - Shu et al., [Meta-Weight-Net](https://arxiv.org/abs/1902.07379), NeurIPS 2019.

use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::sigmoid;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use meltr_aid::{
    BilevelProblem, ConjugateGradient, Dense, EstimatorConfig, HypergradientEstimator, ParamVector,
    Recorded, Recording, Settings,
};
use meltr_core::{Dual, Weights};
use meltr_data::{RandomStream, TensorFile, TensorFileWriter};

use super::subject::{AtPoint, Named, Order, Subject};
use super::{Scenario, Target, Task};
use crate::bench::agreement::Answer;
use crate::error::CliError;

/// Widths of the perceptron, with the dense answer affordable for the small one.
const SIZES: [(&str, [usize; 4], bool); 2] = [
    ("small", [64, 32, 16, 10], true),
    ("large", [784, 256, 256, 10], false),
];

/// Width of the network that weighs.
const WEIGHING: usize = 100;

/// Training and validation samples.
const SAMPLES: usize = 512;

/// Share of training samples with a wrong label.
const NOISE: f64 = 0.3;

/// Weight of `|w|² / 2` in the inner objective.
const RIDGE: f64 = 0.02;

/// What every side adds to the diagonal of the Hessian: short of the minimum it has negative
/// eigenvalues.
const DAMPING: f64 = 0.1;
const PEER_ARGUMENTS: [&str; 4] = ["--problem", "mlp", "--damping", "0.1"];

/// Plain gradient steps before the hypergradient is taken, and their size.
const STEPS: (usize, f64) = (100, 0.5);

const SEED: u64 = 11;

#[derive(Module, Debug)]
struct Perceptron {
    fc1: Linear,
    fc2: Linear,
    fc3: Linear,
}

#[derive(Module, Debug)]
struct Weighing {
    fc1: Linear,
    fc2: Linear,
}

/// The batches, `x` `[N, d]`, `y` `[N, 1]`.
#[derive(Debug)]
struct Reweighting {
    x_train: Tensor<2>,
    y_train: Tensor<2, Int>,
    x_val: Tensor<2>,
    y_val: Tensor<2, Int>,
    ridge: f64,
    products: Products,
}

/// How the problem lets its second derivatives be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Products {
    /// From a record of the inner objective.
    Recorded,
    /// From the forward mode of the perceptron.
    ForwardMode,
    /// From gradients alone.
    Differences,
}

pub(super) fn scenarios(folder: &Path) -> Result<Vec<Scenario>, CliError> {
    SIZES
        .into_iter()
        .map(|(size, widths, is_dense)| {
            let data = folder.join(format!("reweighting_{size}.safetensors"));
            write(&data, widths)?;
            let answer = answer(&data, is_dense)?;
            let parameters: usize = widths.windows(2).map(|pair| (pair[0] + 1) * pair[1]).sum();
            Ok(Scenario {
                task: Task::Reweighting,
                label: format!("reweighting, {size}"),
                about: format!(
                    "a perceptron of {parameters} parameters, {SAMPLES} samples, f64; errors \
                     against {}",
                    if is_dense {
                        "the dense Hessian"
                    } else {
                        "conjugate gradients to the end"
                    }
                ),
                data,
                products: vec![0, 5, 20],
                ours: &["identity", "cg", "cg_forward", "cg_differences"],
                torch: &[
                    "torch_identity",
                    "betty_darts",
                    "betty_cg",
                    "betty_cg_fixed",
                    "torchopt_cg",
                    "hypergrad_cg",
                ],
                jax: &[],
                peer_arguments: &PEER_ARGUMENTS,
                answer: Some(answer),
                target: Target::Equal { ratio: 1.01 },
            })
        })
        .collect()
}

/// The hypergradient with the inverse Hessian, to rounding.
fn answer(data: &Path, is_dense: bool) -> Result<Answer, CliError> {
    let (problem, inner, outer) = read(data, &Device::default())?;
    let config = if is_dense {
        EstimatorConfig::Dense(Dense {
            damping: DAMPING,
            ..Dense::default()
        })
    } else {
        EstimatorConfig::ConjugateGradient(
            ConjugateGradient::new(500)
                .with_damping(DAMPING)
                .with_tolerance(1e-12),
        )
    };
    let found = config
        .build(Settings::default())
        .estimate(&problem, &inner, &outer)
        .map_err(CliError::failed)?;
    let certificate = &found.certificate;
    if certificate
        .relative_residual
        .is_some_and(|residual| residual > 1e-9)
    {
        return Err(CliError::Failed(format!(
            "the answer for `{}` was not reached: residual {:?}, smallest curvature {:?}",
            data.display(),
            certificate.relative_residual,
            certificate.smallest_curvature
        )));
    }
    Ok(named(&outer, &found.gradient).into_iter().collect())
}

/// Samples around one random prototype a class, some training labels wrong, and both networks.
fn write(path: &Path, widths: [usize; 4]) -> Result<(), CliError> {
    let mut stream = RandomStream::new(SEED);
    let [d_input, first, second, n_classes] = widths;
    let prototypes: Vec<f64> = (0..n_classes * d_input).map(|_| stream.normal()).collect();
    // Samples of norm 4 or so, whatever the number of inputs.
    let scale = (8.0 / d_input as f64).sqrt();
    let mut writer = TensorFileWriter::new();
    for (split, noise) in [("train", NOISE), ("val", 0.0)] {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for _ in 0..SAMPLES {
            let class = stream.below(n_classes);
            let prototype = &prototypes[class * d_input..(class + 1) * d_input];
            x.extend(
                prototype
                    .iter()
                    .map(|&mean| scale * (mean + stream.normal())),
            );
            let is_wrong = stream.unit() < noise;
            let label = if is_wrong {
                stream.below(n_classes)
            } else {
                class
            };
            y.push(label as i64);
        }
        writer.insert_f64(format!("x_{split}"), &[SAMPLES, d_input], x);
        writer.insert_i64(format!("y_{split}"), &[SAMPLES], y);
    }
    let layers = [
        ("inner.fc1", d_input, first),
        ("inner.fc2", first, second),
        ("inner.fc3", second, n_classes),
        ("outer.fc1", 1, WEIGHING),
        ("outer.fc2", WEIGHING, 1),
    ];
    for (name, d_input, d_output) in layers {
        let bound = 1.0 / (d_input as f64).sqrt();
        let mut uniform = |count: usize| -> Vec<f64> {
            (0..count)
                .map(|_| bound * (2.0 * stream.unit() - 1.0))
                .collect()
        };
        let weight = uniform(d_output * d_input);
        writer.insert_f64(format!("{name}.weight"), &[d_output, d_input], weight);
        writer.insert_f64(format!("{name}.bias"), &[d_output], uniform(d_output));
    }
    writer.insert_f64("l2", &[1], vec![RIDGE]);
    writer.write(path)?;
    descend(path)
}

/// Moves the stored perceptron some way down its objective, where the Hessian is that of training
/// and not of chance.
fn descend(path: &Path) -> Result<(), CliError> {
    let (problem, mut inner, outer) = read(path, &Device::default())?;
    let outer = outer.no_grad();
    let (steps, step_size) = STEPS;
    for _ in 0..steps {
        let gradients = &mut problem.inner_objective(&inner, &outer).backward();
        let gradient = ParamVector::from_gradients(gradients, &inner);
        let moved = ParamVector::from_parameters(&inner).add_scaled(-step_size, &gradient);
        inner = moved.as_module(&inner).train();
    }
    let file = TensorFile::open(path)?;
    let mut writer = TensorFileWriter::new();
    for name in file.names().filter(|name| !name.starts_with("inner.")) {
        let shape = file.shape(name)?.to_vec();
        if name.starts_with("y_") {
            writer.insert_i64(name, &shape, file.i64(name)?.iter().copied().collect());
        } else {
            writer.insert_f64(name, &shape, file.f64(name)?.iter().copied().collect());
        }
    }
    for (name, layer) in [
        ("inner.fc1", &inner.fc1),
        ("inner.fc2", &inner.fc2),
        ("inner.fc3", &inner.fc3),
    ] {
        let [d_input, d_output] = layer.weight.dims();
        let [weight, bias] = published(layer);
        writer.insert_f64(format!("{name}.weight"), &[d_output, d_input], weight);
        writer.insert_f64(format!("{name}.bias"), &[d_output], bias);
    }
    writer.write(path)?;
    Ok(())
}

/// Weight `[d_output, d_input]` and bias on the host.
fn published(layer: &Linear) -> [Vec<f64>; 2] {
    let host = |data: TensorData| data.iter::<f64>().collect::<Vec<f64>>();
    let bias = layer.bias.as_ref().map(|bias| host(bias.val().into_data()));
    [
        host(layer.weight.val().transpose().into_data()),
        bias.unwrap_or_default(),
    ]
}

pub(super) fn subject(order: &Order<'_>, device: &Device) -> Result<Box<dyn Subject>, CliError> {
    let (mut problem, inner, outer) = read(order.data, device)?;
    problem.products = match order.method {
        "cg_forward" => Products::ForwardMode,
        "cg_differences" => Products::Differences,
        _ => Products::Recorded,
    };
    let config = if order.method == "identity" || order.products == 0 {
        EstimatorConfig::Identity
    } else {
        EstimatorConfig::ConjugateGradient(
            ConjugateGradient::new(order.products)
                .with_damping(DAMPING)
                .with_tolerance(1e-15),
        )
    };
    let estimator = config.build(Settings::default());
    Ok(Box::new(AtPoint {
        problem,
        inner,
        outer,
        estimator,
        name: named,
    }))
}

fn named(outer: &Weighing, hypergradient: &ParamVector) -> Named {
    let as_module = hypergradient.as_module(outer);
    [("fc1", &as_module.fc1), ("fc2", &as_module.fc2)]
        .into_iter()
        .flat_map(|(name, layer)| {
            let [weight, bias] = published(layer);
            [
                (format!("hypergradient.outer.{name}.weight"), weight),
                (format!("hypergradient.outer.{name}.bias"), bias),
            ]
        })
        .collect()
}

/// The problem of a file, its modules on the tape.
fn read(path: &Path, device: &Device) -> Result<(Reweighting, Perceptron, Weighing), CliError> {
    let device = device.clone().autodiff();
    let file = TensorFile::open(path)?;
    let options = (&device, DType::F64);
    let matrix = |name: &str| -> Result<Tensor<2>, CliError> {
        let values = file.f64(name)?;
        let shape = values.shape().to_vec();
        Ok(Tensor::from_data(
            TensorData::new(values.iter().copied().collect::<Vec<f64>>(), shape),
            options,
        ))
    };
    let vector = |name: &str| -> Result<Tensor<1>, CliError> {
        let values: Vec<f64> = file.f64(name)?.iter().copied().collect();
        let shape = [values.len()];
        Ok(Tensor::from_data(TensorData::new(values, shape), options))
    };
    let labels = |name: &str| -> Result<Tensor<2, Int>, CliError> {
        let values: Vec<i64> = file.i64(name)?.iter().copied().collect();
        let shape = [values.len(), 1];
        Ok(Tensor::from_data(TensorData::new(values, shape), &device))
    };
    let layer = |name: &str| -> Result<Linear, CliError> {
        let mut layer = LinearConfig::new(1, 1).init(&device);
        // A view of the file's layout would be read across its rows by every pass over it.
        let weight = matrix(&format!("{name}.weight"))?.transpose().into_data();
        layer.weight = Param::from_tensor(Tensor::from_data(weight, options));
        layer.bias = Some(Param::from_tensor(vector(&format!("{name}.bias"))?));
        Ok(layer)
    };
    let problem = Reweighting {
        x_train: matrix("x_train")?,
        y_train: labels("y_train")?,
        x_val: matrix("x_val")?,
        y_val: labels("y_val")?,
        ridge: file.f64("l2")?.iter().sum(),
        products: Products::Recorded,
    };
    let inner = Perceptron {
        fc1: layer("inner.fc1")?,
        fc2: layer("inner.fc2")?,
        fc3: layer("inner.fc3")?,
    };
    let outer = Weighing {
        fc1: layer("outer.fc1")?,
        fc2: layer("outer.fc2")?,
    };
    Ok((problem, inner, outer))
}

/// Cross-entropy of each sample, `[N, 1]`.
fn sample_losses(weights: Weights<'_, Perceptron>, x: &Tensor<2>, y: &Tensor<2, Int>) -> Dual<2> {
    let hidden = weights
        .of(|own| &own.fc1)
        .apply(Dual::constant(x.clone()))
        .tanh();
    let hidden = weights.of(|own| &own.fc2).apply(hidden).tanh();
    weights
        .of(|own| &own.fc3)
        .apply(hidden)
        .log_softmax()
        .map_linear(|x| x.gather(1, y.clone()).neg())
}

impl Reweighting {
    /// The inner objective, with its derivative if the weights carry a direction.
    fn weighted(&self, weights: Weights<'_, Perceptron>, outer: &Weighing) -> Dual<1> {
        let losses = sample_losses(weights, &self.x_train, &self.y_train);
        let hidden = losses.clone().apply(&outer.fc1).tanh();
        let factors = hidden
            .apply(&outer.fc2)
            .map_elementwise(sigmoid, |_, y| y.clone() * (y.neg() + 1.0));
        let weighted = multiply(factors, losses).map_linear(|x| x.mean());
        let squares = [
            weights.of(|own| &own.fc1),
            weights.of(|own| &own.fc2),
            weights.of(|own| &own.fc3),
        ]
        .into_iter()
        .flat_map(|layer| {
            let weight = layer.of(|layer| &layer.weight).dual();
            let bias = layer.value.bias.as_ref().map(|bias| Dual {
                value: bias.val(),
                tangent: layer
                    .tangent
                    .and_then(|layer| layer.bias.as_ref())
                    .map(|bias| bias.val()),
            });
            [Some(square_norm(weight)), bias.map(square_norm)]
        })
        .flatten();
        squares.fold(weighted, |sum, square| sum + square.scale(0.5 * self.ridge))
    }
}

/// Product entry by entry: `(ab)' = a'b + ab'`.
fn multiply<const D: usize>(a: Dual<D>, b: Dual<D>) -> Dual<D> {
    let left = a.tangent.map(|tangent| tangent * b.value.clone());
    let right = b.tangent.map(|tangent| a.value.clone() * tangent);
    Dual {
        value: a.value * b.value,
        tangent: match (left, right) {
            (Some(left), Some(right)) => Some(left + right),
            (left, right) => left.or(right),
        },
    }
}

/// The sum of squares, `[1]`.
fn square_norm<const D: usize>(x: Dual<D>) -> Dual<1> {
    x.square().map_linear(|x| x.sum())
}

impl BilevelProblem for Reweighting {
    type Inner = Perceptron;
    type Outer = Weighing;

    fn inner_objective(&self, inner: &Perceptron, outer: &Weighing) -> Tensor<1> {
        self.weighted(Weights::constant(inner), outer).value
    }

    fn outer_objective(&self, inner: &Perceptron, _: &Weighing) -> Tensor<1> {
        sample_losses(Weights::constant(inner), &self.x_val, &self.y_val)
            .value
            .mean()
    }

    fn inner_objective_along(
        &self,
        inner: &Perceptron,
        direction: &Perceptron,
        outer: &Weighing,
    ) -> Option<Tensor<1>> {
        if self.products != Products::ForwardMode {
            return None;
        }
        self.weighted(Weights::new(inner, direction), outer).tangent
    }

    fn recorded_inner_objective(
        &self,
        recording: &Recording,
        inner: &Perceptron,
        outer: &Weighing,
    ) -> Option<Recorded> {
        if self.products != Products::Recorded {
            return None;
        }
        let x = recording.constant(self.x_train.clone());
        let hidden = x.linear(&inner.fc1).tanh().linear(&inner.fc2).tanh();
        let logits = hidden.linear(&inner.fc3);
        let losses = -logits.log_softmax().pick(self.y_train.clone());
        let factors = losses.clone().linear(&outer.fc1).tanh();
        let factors = factors.linear(&outer.fc2).sigmoid();
        let weighted = (factors * losses).mean();
        let squares = [&inner.fc1, &inner.fc2, &inner.fc3]
            .into_iter()
            .flat_map(|layer| {
                let bias = layer.bias.as_ref().map(|bias| recording.parameter(bias));
                [Some(recording.parameter(&layer.weight)), bias]
            })
            .flatten()
            .map(|parameter| parameter.square().sum());
        let ridge = squares.reduce(|sum, square| sum + square)?;
        Some(weighted + ridge.scale(0.5 * self.ridge))
    }
}
