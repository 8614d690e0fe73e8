//! The outer step of MELTR on a small transformer: the hypergradient of the released code, by a
//! second-order graph through the backbone, and what takes its place here.

use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor, TensorData};
use meltr_aid::{
    BilevelProblem, CentralDifference, EstimatorConfig, HypergradientEstimator, ParamVector,
    Products, ScalarMediated, Settings,
};
use meltr_core::{
    Dual, LossTransformer, LossTransformerConfig, StateDict, Weights, combine,
    directional_derivative,
};
use meltr_data::{RandomStream, TensorFile, TensorFileWriter};

use super::side::Side;
use super::subject::{AtPoint, Named, Order, Subject};
use super::{Scenario, Target, Task};
use crate::bench::agreement::Answer;
use crate::cli::AidOptions;
use crate::error::CliError;

/// Numbers of losses.
const TASKS: [usize; 3] = [2, 5, 8];

/// Width, width of the feed-forward block, layers: 3.2 million parameters.
const D_MODEL: usize = 256;
const D_FF: usize = 1024;
const N_LAYERS: usize = 4;

/// Heads, also for the script.
const N_HEADS: usize = 4;
const PEER_ARGUMENTS: [&str; 2] = ["--heads", "4"];

/// Items of a batch, tokens of an item, width of a target.
const BATCH: [usize; 2] = [16, 64];
const D_TARGET: usize = 64;

const LAYER_NORM_EPSILON: f64 = 1e-12;

const SEED: u64 = 23;

/// One post-norm layer, as in BERT.
#[derive(Module, Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    ffn_in: Linear,
    ffn_out: Linear,
    ffn_norm: LayerNorm,
}

/// The backbone and a linear head for each loss.
#[derive(Module, Debug)]
struct Backbone {
    layers: Vec<Layer>,
    heads: Vec<Linear>,
}

/// Batches: `x` `[B, S, D]`, targets `[B, E]`, one for each loss.
#[derive(Debug)]
struct OuterStep {
    x_train: Tensor<3>,
    x_val: Tensor<3>,
    target_train: Vec<Tensor<2>>,
    target_val: Vec<Tensor<2>>,
}

pub(super) fn scenarios(options: &AidOptions, folder: &Path) -> Result<Vec<Scenario>, CliError> {
    TASKS
        .into_iter()
        .map(|n_tasks| {
            let data = folder.join(format!("transformer_{n_tasks}.safetensors"));
            write(&data, n_tasks)?;
            let mut scenario = Scenario {
                task: Task::Transformer,
                label: format!("outer step, T = {n_tasks}"),
                about: format!(
                    "{N_LAYERS} layers of width {D_MODEL}, {} sequences of {} tokens, f32; errors \
                     against the same in f64",
                    BATCH[0], BATCH[1]
                ),
                data,
                products: vec![0],
                ours: &["forward_mode", "central_difference", "reverse"],
                torch: &[
                    "official",
                    "loss_space_exact",
                    "loss_space_difference",
                    "betty_darts",
                ],
                jax: &[],
                peer_arguments: &PEER_ARGUMENTS,
                answer: None,
                target: Target::Solved { error: 1e-3 },
            };
            scenario.answer = Some(answer(options, &scenario)?);
            Ok(scenario)
        })
        .collect()
}

/// In f64: by double backward in PyTorch if there is one, and by reverse passes here.
fn answer(options: &AidOptions, scenario: &Scenario) -> Result<Answer, CliError> {
    if let Some(python) = &options.python {
        let output = scenario.data.with_extension("answer.safetensors");
        let mut command = scenario.peer(python, options, "official", 0, 1, &output);
        command.args(["--dtype", "f64", "--warmup", "0"]);
        return Side::answer(command, &output);
    }
    let (problem, inner, outer) = read(&scenario.data, &Device::default(), DType::F64)?;
    let found = EstimatorConfig::Identity
        .build(settings(Products::Reverse))
        .estimate(&problem, &inner, &outer)
        .map_err(CliError::failed)?;
    Ok(named(&outer, &found.gradient).into_iter().collect())
}

/// As released: without the direct part, which is zero.
fn settings(products: Products) -> Settings {
    Settings {
        products,
        without_direct: true,
        ..Settings::default()
    }
}

pub(super) fn subject(order: &Order<'_>, device: &Device) -> Result<Box<dyn Subject>, CliError> {
    let (problem, inner, outer) = read(order.data, device, DType::F32)?;
    let products = match order.method {
        "reverse" => Products::Reverse,
        "central_difference" => Products::CentralDifference(CentralDifference::default()),
        _ => Products::ForwardMode,
    };
    Ok(Box::new(AtPoint {
        problem,
        inner,
        outer,
        estimator: EstimatorConfig::Identity.build(settings(products)),
        name: named,
    }))
}

fn named(outer: &LossTransformer, hypergradient: &ParamVector) -> Named {
    hypergradient
        .as_module(outer)
        .state_dict()
        .into_iter()
        .map(|(name, data)| (format!("phi.{name}"), data.iter::<f64>().collect()))
        .collect()
}

/// Random batches and parameters under the names that the script reads.
fn write(path: &Path, n_tasks: usize) -> Result<(), CliError> {
    let mut stream = RandomStream::new(SEED);
    let mut writer = TensorFileWriter::new();
    let [batch_size, length] = BATCH;
    let mut normal = |shape: &[usize]| -> Vec<f32> {
        (0..shape.iter().product())
            .map(|_| stream.normal() as f32)
            .collect()
    };
    for split in ["train", "val"] {
        let shape = [batch_size, length, D_MODEL];
        writer.insert_f32(format!("x_{split}"), &shape, normal(&shape));
        for task in 0..n_tasks {
            let shape = [batch_size, D_TARGET];
            writer.insert_f32(format!("target_{split}.{task}"), &shape, normal(&shape));
        }
    }
    let mut layer = |name: String, d_input: usize, d_output: usize| {
        let shape = [d_output, d_input];
        let scale = 1.0 / (d_input as f32).sqrt();
        let weight = normal(&shape)
            .into_iter()
            .map(|value| scale * value)
            .collect();
        writer.insert_f32(format!("{name}.weight"), &shape, weight);
        writer.insert_f32(format!("{name}.bias"), &[d_output], vec![0.0; d_output]);
    };
    for index in 0..N_LAYERS {
        for part in ["query", "key", "value", "output"] {
            layer(format!("layer.{index}.attention.{part}"), D_MODEL, D_MODEL);
        }
        layer(format!("layer.{index}.ffn.in"), D_MODEL, D_FF);
        layer(format!("layer.{index}.ffn.out"), D_FF, D_MODEL);
    }
    for task in 0..n_tasks {
        layer(format!("head.{task}"), D_MODEL, D_TARGET);
    }
    for index in 0..N_LAYERS {
        for part in ["attention.norm", "ffn.norm"] {
            let name = format!("layer.{index}.{part}");
            writer.insert_f32(format!("{name}.weight"), &[D_MODEL], vec![1.0; D_MODEL]);
            writer.insert_f32(format!("{name}.bias"), &[D_MODEL], vec![0.0; D_MODEL]);
        }
    }
    let phi = phi_config(n_tasks).init(SEED, &Device::default())?;
    for (name, data) in phi.state_dict() {
        let shape: Vec<usize> = data.shape().to_vec();
        writer.insert_f32(format!("phi.{name}"), &shape, data.iter::<f32>().collect());
    }
    writer.write(path)?;
    Ok(())
}

fn phi_config(n_tasks: usize) -> LossTransformerConfig {
    LossTransformerConfig::new(n_tasks, 128, 256, 256)
}

/// The problem of a file, its modules on the tape.
fn read(
    path: &Path,
    device: &Device,
    dtype: DType,
) -> Result<(OuterStep, Backbone, LossTransformer), CliError> {
    let device = device.clone().autodiff();
    let file = TensorFile::open(path)?;
    let data = |name: &str| -> Result<TensorData, CliError> {
        let values = file.f64(name)?;
        let shape = values.shape().to_vec();
        let values: Vec<f64> = values.iter().copied().collect();
        Ok(TensorData::new(values, shape).convert_dtype(dtype))
    };
    let options = (&device, dtype);
    let vector = |name: String| -> Result<Tensor<1>, CliError> {
        Ok(Tensor::from_data(data(&name)?, options))
    };
    let matrix = |name: String| -> Result<Tensor<2>, CliError> {
        Ok(Tensor::from_data(data(&name)?, options))
    };
    let linear = |name: String| -> Result<Linear, CliError> {
        let mut layer = LinearConfig::new(1, 1).init(&device);
        // A view of the file's layout would be read across its rows by every pass over it.
        let weight = matrix(format!("{name}.weight"))?.transpose().into_data();
        layer.weight = Param::from_tensor(Tensor::from_data(weight, options));
        layer.bias = Some(Param::from_tensor(vector(format!("{name}.bias"))?));
        Ok(layer)
    };
    let norm = |name: String| -> Result<LayerNorm, CliError> {
        let mut layer = LayerNormConfig::new(D_MODEL)
            .with_epsilon(LAYER_NORM_EPSILON)
            .init(&device);
        layer.gamma = Param::from_tensor(vector(format!("{name}.weight"))?);
        layer.beta = Some(Param::from_tensor(vector(format!("{name}.bias"))?));
        Ok(layer)
    };
    let layers = (0..N_LAYERS)
        .map(|index| {
            let own = format!("layer.{index}");
            Ok(Layer {
                query: linear(format!("{own}.attention.query"))?,
                key: linear(format!("{own}.attention.key"))?,
                value: linear(format!("{own}.attention.value"))?,
                output: linear(format!("{own}.attention.output"))?,
                attention_norm: norm(format!("{own}.attention.norm"))?,
                ffn_in: linear(format!("{own}.ffn.in"))?,
                ffn_out: linear(format!("{own}.ffn.out"))?,
                ffn_norm: norm(format!("{own}.ffn.norm"))?,
            })
        })
        .collect::<Result<Vec<Layer>, CliError>>()?;
    let n_tasks = file
        .names()
        .filter(|name| name.starts_with("target_val."))
        .count();
    let heads = (0..n_tasks)
        .map(|task| linear(format!("head.{task}")))
        .collect::<Result<Vec<Linear>, CliError>>()?;
    let targets = |split: &str| {
        (0..n_tasks)
            .map(|task| matrix(format!("target_{split}.{task}")))
            .collect::<Result<Vec<Tensor<2>>, CliError>>()
    };
    let sequences = |split: &str| -> Result<Tensor<3>, CliError> {
        Ok(Tensor::from_data(data(&format!("x_{split}"))?, options))
    };
    let problem = OuterStep {
        x_train: sequences("train")?,
        x_val: sequences("val")?,
        target_train: targets("train")?,
        target_val: targets("val")?,
    };
    let mut dict = StateDict::new();
    for name in file.names() {
        if let Some(published) = name.strip_prefix("phi.") {
            dict.insert(published.to_owned(), data(name)?);
        }
    }
    let (outer, report) = phi_config(n_tasks)
        .init(SEED, &device)?
        .load_state_dict(&dict);
    if !report.is_complete() {
        return Err(CliError::Input(format!("`{}`: {report}", path.display())));
    }
    Ok((problem, Backbone { layers, heads }, outer))
}

/// `x W + b` on `[B, S, D]`, flattened.
fn linear3(layer: Weights<'_, Linear>, x: Dual<3>) -> Dual<3> {
    let [batch_size, length, d_input] = x.dims();
    let y = layer.apply(x.map_linear(|x| x.reshape([batch_size * length, d_input])));
    let d_output = y.dims()[1];
    y.map_linear(|y| y.reshape([batch_size, length, d_output]))
}

/// `[B, S, D]` to `[B, H, S, D/H]`.
fn heads(x: Dual<3>) -> Dual<4> {
    let [batch_size, length, d_model] = x.dims();
    x.map_linear(|x| {
        x.reshape([batch_size, length, N_HEADS, d_model / N_HEADS])
            .swap_dims(1, 2)
    })
}

impl Layer {
    fn forward(weights: Weights<'_, Self>, x: Dual<3>) -> Dual<3> {
        let [batch_size, length, d_model] = x.dims();
        let scale = 1.0 / ((d_model / N_HEADS) as f64).sqrt();
        let query = heads(linear3(weights.of(|own| &own.query), x.clone()).scale(scale));
        let key = heads(linear3(weights.of(|own| &own.key), x.clone()));
        let value = heads(linear3(weights.of(|own| &own.value), x.clone()));
        let attended = query
            .matmul(key.map_linear(|key| key.swap_dims(2, 3)))
            .softmax()
            .matmul(value)
            .map_linear(|x| x.swap_dims(1, 2).reshape([batch_size, length, d_model]));
        let attended = linear3(weights.of(|own| &own.output), attended);
        let x = weights
            .of(|own| &own.attention_norm)
            .apply(x + attended, LAYER_NORM_EPSILON);
        let hidden = linear3(weights.of(|own| &own.ffn_in), x.clone()).gelu();
        let fed = linear3(weights.of(|own| &own.ffn_out), hidden);
        weights
            .of(|own| &own.ffn_norm)
            .apply(x + fed, LAYER_NORM_EPSILON)
    }
}

impl Backbone {
    /// The losses of the first heads, as many as there are targets, `[T]`.
    fn losses(weights: Weights<'_, Self>, x: &Tensor<3>, targets: &[Tensor<2>]) -> Dual<1> {
        let [batch_size, _, d_model] = x.dims();
        let pooled = weights
            .of(|own| &own.layers)
            .iter()
            .fold(Dual::constant(x.clone()), |x, layer| {
                Layer::forward(layer, x)
            })
            .map_linear(|x| x.mean_dim(1).reshape([batch_size, d_model]));
        let losses = weights
            .of(|own| &own.heads)
            .iter()
            .zip(targets)
            .map(|(head, target)| {
                let apart = head
                    .apply(pooled.clone())
                    .add_constant(target.clone().neg());
                apart
                    .map_elementwise(|x| x.square(), |x, _| x * 2.0)
                    .map_linear(Tensor::mean)
            })
            .collect();
        Dual::cat(losses, 0)
    }
}

impl ScalarMediated for OuterStep {
    type Inner = Backbone;
    type Outer = LossTransformer;

    fn scalars(&self, inner: &Backbone) -> Tensor<1> {
        Backbone::losses(Weights::constant(inner), &self.x_train, &self.target_train).value
    }

    fn scalars_along(
        &self,
        inner: &Backbone,
        direction: &Backbone,
    ) -> Option<(Tensor<1>, Tensor<1>)> {
        let weights = Weights::new(inner, direction);
        let x = self.x_train.clone().inner();
        let targets: Vec<Tensor<2>> = self
            .target_train
            .iter()
            .map(|t| t.clone().inner())
            .collect();
        let losses = Backbone::losses(weights, &x, &targets);
        Some((losses.value.clone(), losses.tangent_or_zeros()))
    }

    fn combined(&self, outer: &LossTransformer, scalars: Tensor<1>) -> Tensor<1> {
        combine(outer, scalars)
    }

    fn mixed_scalar_product(
        &self,
        outer: &LossTransformer,
        scalars: Tensor<1>,
        direction: Tensor<1>,
    ) -> ParamVector {
        let along = directional_derivative(outer, scalars, direction);
        ParamVector::from_gradients(&mut along.backward(), outer)
    }
}

impl BilevelProblem for OuterStep {
    type Inner = Backbone;
    type Outer = LossTransformer;

    fn inner_objective(&self, inner: &Backbone, outer: &LossTransformer) -> Tensor<1> {
        combine(outer, self.scalars(inner))
    }

    fn outer_objective(&self, inner: &Backbone, _: &LossTransformer) -> Tensor<1> {
        Backbone::losses(Weights::constant(inner), &self.x_val, &self.target_val[..1]).value
    }

    fn mediation(&self) -> Option<&dyn ScalarMediated<Inner = Backbone, Outer = LossTransformer>> {
        Some(self)
    }
}
