//! A task of three small losses, and runs of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, GradientCheckpointingStrategy, Tensor, TensorData};
use meltr_core::{
    Alone, Dual, FineTuneTask, LoadReport, Pass, StateDict, WarmStartConfig, Workers,
    load_state_dict, on_tape_of, parameter_names, state_dict, vec_f64,
};
use meltr_data::{RandomStream, seed_for};
use meltr_train::{
    BertAdamConfig, CombinerConfig, CombinerName, Outcome, OuterConfig, Progress, Run, Settings,
    TrainConfig, TrainError, fine_tune,
};

const ROWS: usize = 6;
const WIDTH: usize = 3;
const TASKS: usize = 3;

/// Number of the first held-out batch.
pub(crate) const HELD_OUT: usize = 2000;

/// Configuration of every run here, as its directory has it.
pub(crate) const CONFIG: &str = "seed = 3\n";

/// `tanh(x W + b)`, and an offset of the second output.
#[derive(Module, Debug)]
pub(crate) struct ToyModel {
    /// Out of reach of the primary loss, and before what is within: a vector over the parameters
    /// may have another order than the module.
    offset: Param<Tensor<1>>,
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

impl ToyModel {
    pub(crate) fn new() -> Self {
        let mut stream = RandomStream::new(11);
        let mut data = |shape: &[usize]| {
            let count = shape.iter().product::<usize>();
            let values: Vec<f32> = (0..count).map(|_| 0.3 * stream.normal() as f32).collect();
            TensorData::new(values, shape.to_vec())
        };
        let device = Device::default();
        Self {
            offset: Param::from_tensor(Tensor::from_data(data(&[1]), &device)),
            weight: Param::from_tensor(Tensor::from_data(data(&[WIDTH, TASKS]), &device)),
            bias: Param::from_tensor(Tensor::from_data(data(&[TASKS]), &device)),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ToyBatch {
    number: usize,
    x: Tensor<2>,
    y: Tensor<2>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ToyError {
    #[error("no split `{0}`")]
    Split(String),
    #[error("batch {0} cannot be read")]
    Batch(usize),
}

/// Losses are mean squares of one output each, the first one primary.
#[derive(Debug, Default)]
pub(crate) struct ToyTask {
    /// Whether a stochastic pass leaves entries out.
    pub(crate) dropout: bool,
    /// Whether the third loss is about the first output, and wants it to be the opposite.
    pub(crate) conflict: bool,
    /// Whether the primary loss is 0 wherever the model is.
    pub(crate) flat: bool,
    /// Whether there are held-out batches for outer steps, the first of them numbered [`HELD_OUT`].
    pub(crate) held_out: bool,
    /// A batch that cannot be read.
    pub(crate) fails_at: Option<usize>,
    /// What the tape of the model keeps, for every pass that was taken on one.
    pub(crate) tapes: RefCell<Vec<GradientCheckpointingStrategy>>,
}

fn matrix(values: Vec<f32>, width: usize) -> Tensor<2> {
    let rows = values.len() / width;
    Tensor::from_data(TensorData::new(values, [rows, width]), &Device::default())
}

fn rows(number: usize) -> ToyBatch {
    let mut stream = RandomStream::new(seed_for(5, &[number as u64]));
    let x: Vec<f32> = (0..ROWS * WIDTH).map(|_| stream.normal() as f32).collect();
    let y = x
        .chunks(WIDTH)
        .flat_map(|row| [row[0] - 0.5 * row[1], row[1] * row[2], row[2].sin()])
        .collect();
    ToyBatch {
        number,
        x: matrix(x, WIDTH),
        y: matrix(y, TASKS),
    }
}

impl ToyTask {
    fn mask(&self, pass: Pass) -> Tensor<2> {
        let values: Vec<f32> = match pass {
            Pass::Stochastic { seed } if self.dropout => {
                let mut stream = RandomStream::new(seed);
                (0..ROWS * TASKS)
                    .map(|_| if stream.unit() < 0.2 { 0.0 } else { 1.25 })
                    .collect()
            }
            _ => vec![1.0; ROWS * TASKS],
        };
        matrix(values, TASKS)
    }

    fn residual(&self, model: &ToyModel, batch: &ToyBatch, pass: Pass) -> Tensor<2> {
        let (weight, bias) = (model.weight.val(), model.bias.val());
        let tape = weight.gradient_checkpointing_strategy();
        self.tapes.borrow_mut().extend(tape);
        let device = weight.device();
        let placed = |tensor: Tensor<2>| on_tape_of(tensor, &device);
        let mut output = (placed(batch.x.clone()).matmul(weight) + bias.unsqueeze::<2>()).tanh();
        let mut target = batch.y.clone();
        if self.conflict {
            let opposite = target.clone().narrow(1, 0, 1).neg();
            target = Tensor::cat(vec![target.narrow(1, 0, 2), opposite], 1);
            let first = output.clone().narrow(1, 0, 1);
            output = Tensor::cat(vec![output.narrow(1, 0, 2), first], 1);
        }
        (output - placed(target)) * placed(self.mask(pass))
    }
}

impl FineTuneTask for ToyTask {
    type Model = ToyModel;
    type Batch = ToyBatch;
    type Error = ToyError;

    fn names(&self) -> Vec<String> {
        ["first", "second", "third"].map(str::to_owned).to_vec()
    }

    fn primary(&self) -> usize {
        0
    }

    fn batches_per_epoch(&self) -> usize {
        5
    }

    fn batch(&self, iteration: usize, _seed: u64) -> Result<ToyBatch, ToyError> {
        if self.fails_at == Some(iteration) {
            return Err(ToyError::Batch(iteration));
        }
        Ok(rows(iteration))
    }

    fn outer_batch(&self, number: usize, _seed: u64) -> Result<Option<ToyBatch>, ToyError> {
        self.held_out
            .then(|| self.batch(HELD_OUT + number, 0))
            .transpose()
    }

    fn batch_items(&self, batch: &ToyBatch) -> Vec<String> {
        vec![format!("batch {}", batch.number)]
    }

    fn losses(&self, model: &ToyModel, batch: &ToyBatch, pass: Pass) -> Tensor<1> {
        let offset = model.offset.val();
        let zero = offset.zeros_like();
        let offsets = Tensor::cat(vec![zero.clone(), offset, zero], 0).unsqueeze::<2>();
        (self.residual(model, batch, pass) + offsets)
            .square()
            .mean_dim(0)
            .reshape([TASKS])
    }

    fn losses_along(
        &self,
        _model: &ToyModel,
        _direction: &ToyModel,
        _batch: &ToyBatch,
        _pass: Pass,
    ) -> Option<Dual<1>> {
        None
    }

    fn primary_loss(&self, model: &ToyModel, batch: &ToyBatch, pass: Pass) -> Tensor<1> {
        let primary = self
            .residual(model, batch, pass)
            .narrow(1, 0, 1)
            .square()
            .mean();
        if self.flat { primary * 0.0 } else { primary }
    }

    fn parameter_names(&self, model: &ToyModel) -> Vec<(ParamId, String)> {
        parameter_names(model, str::to_owned)
    }

    fn state_dict(&self, model: &ToyModel) -> StateDict {
        state_dict(model, str::to_owned)
    }

    fn load_state_dict(&self, model: ToyModel, dict: &StateDict) -> (ToyModel, LoadReport) {
        load_state_dict(model, dict, str::to_owned)
    }

    fn evaluate_shared(
        &self,
        model: &ToyModel,
        split: &str,
        workers: &dyn Workers,
        _progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BTreeMap<String, f64>, ToyError> {
        let n_items = self.n_items(split)?;
        let residual = self.residual(model, &rows(1000), Pass::Evaluation);
        let errors = vec_f64(residual.narrow(1, 0, 1).square().into_data());
        let errors = workers.gather(&errors[workers.share(n_items)]);
        Ok(BTreeMap::from([
            (
                "error".to_owned(),
                errors.iter().sum::<f64>() / n_items as f64,
            ),
            ("constant".to_owned(), 1.0),
        ]))
    }

    fn n_items(&self, split: &str) -> Result<usize, ToyError> {
        match split {
            "test" => Ok(ROWS),
            _ => Err(ToyError::Split(split.to_owned())),
        }
    }
}

/// Settings of a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) train: TrainConfig,
    pub(crate) inner: BertAdamConfig,
    pub(crate) outer: OuterConfig,
    pub(crate) combiner: CombinerConfig,
    pub(crate) device_name: &'static str,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            train: TrainConfig {
                iterations: 14,
                eval_every: 4,
                checkpoint_every: 3,
                response_samples: 3,
                ..TrainConfig::default()
            },
            inner: BertAdamConfig {
                learning_rate: 0.02,
                ..BertAdamConfig::default()
            },
            outer: OuterConfig {
                every: 2,
                history: 3,
                audit_every: 3,
                products: meltr_aid::Products::Reverse,
                ..OuterConfig::default()
            },
            combiner: CombinerConfig {
                name: CombinerName::MeltrPublished,
                d_scale: 8,
                d_model: 16,
                d_ff: 16,
                n_heads: 2,
                warm_start: WarmStartConfig {
                    steps: 5,
                    ..WarmStartConfig::default()
                },
                ..CombinerConfig::default()
            },
            device_name: "flex",
        }
    }
}

/// Sets the flag once so many steps have been taken.
struct StopAfter<'a> {
    steps: usize,
    flag: &'a AtomicBool,
    messages: Vec<String>,
}

impl Progress for StopAfter<'_> {
    fn step(&mut self, iteration: usize, _n_iterations: usize, _combined_loss: f64) {
        if iteration >= self.steps {
            self.flag.store(true, Ordering::Relaxed);
        }
    }

    fn message(&mut self, text: &str) {
        self.messages.push(text.to_owned());
    }
}

/// How a run, or a part of one, ended, and what it said.
pub(crate) struct Ended {
    pub(crate) outcome: Result<Outcome<ToyModel>, TrainError>,
    pub(crate) messages: Vec<String>,
}

impl Ended {
    pub(crate) fn error(self) -> String {
        self.outcome.unwrap_err().to_string()
    }
}

impl Plan {
    /// Starts the run in `directory`, or goes on with it, until `stop_after` steps are taken.
    pub(crate) fn go(&self, task: &ToyTask, directory: &Path, stop_after: usize) -> Ended {
        let mut run = if directory.exists() {
            Run::resume(directory).unwrap()
        } else {
            Run::create(directory, CONFIG).unwrap()
        };
        self.go_with(task, &mut run, stop_after, &Alone)
    }

    /// The same as one of `workers`, with what it has of the run.
    pub(crate) fn go_with(
        &self,
        task: &ToyTask,
        run: &mut Run,
        stop_after: usize,
        workers: &dyn Workers,
    ) -> Ended {
        let flag = AtomicBool::new(false);
        let mut progress = StopAfter {
            steps: stop_after,
            flag: &flag,
            messages: Vec::new(),
        };
        let settings = Settings {
            name: "toy",
            seed: 3,
            device_name: self.device_name,
            train: &self.train,
            inner: &self.inner,
            outer: &self.outer,
            combiner: &self.combiner,
            workers,
        };
        let outcome = fine_tune(task, ToyModel::new(), settings, run, &mut progress, &flag);
        Ended {
            outcome,
            messages: progress.messages,
        }
    }

    /// A run from the first step to the last.
    pub(crate) fn undisturbed(&self, task: &ToyTask, folder: &Path) -> PathBuf {
        let directory = folder.join("undisturbed");
        let ended = self.go(task, &directory, usize::MAX);
        assert!(!ended.outcome.unwrap().interrupted);
        directory
    }
}
