//! The fine-tuning loop over both levels.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::optim::{AdamConfig, AdamWConfig, ModuleOptimizer, decay::WeightDecayConfig};
use burn::tensor::{Device, Tensor, TensorData};
use meltr_aid::{
    Estimator, Hypergradient, HypergradientEstimator, ParamVector, Settings as EstimatorSettings,
    audit,
};
use meltr_core::{
    Combiner, Dual, FineTuneTask, LossCombiner, Pass, PlainSum, PrimaryOnly, RegularizedGradient,
    combine, fit_to_sum, sensitivities, vec_f64,
};
use meltr_data::{RandomStream, seed_for};

use crate::bert_adam::{BertAdam, BertAdamConfig};
use crate::checkpoint::write_state_dict;
use crate::config::{
    CombinerConfig, CombinerName, OuterConfig, OuterOptimizer, StartOfPhi, TrainConfig,
};
use crate::error::TrainError;
use crate::history::History;
use crate::memory::peak_memory_bytes;
use crate::meta_step::MeltrProblem;
use crate::record::{
    CertificateRecord, EvalRecord, MetaRecord, Record, ResponseCurve, ResponseRecord, Summary,
    TrainRecord,
};
use crate::run::Run;

/// Independent random streams, all derived from the one seed of the run.
mod stream {
    pub(super) const BATCH: u64 = 1;
    pub(super) const DROPOUT: u64 = 2;
    pub(super) const DRAW: u64 = 3;
    pub(super) const PHI: u64 = 4;
    pub(super) const WARM_START: u64 = 5;
}

/// A run that minimizes the primary loss alone logs the other losses at every so many steps,
/// since they take a pass of their own.
const LOG_OTHERS_EVERY: usize = 10;

/// Points of a response curve.
const RESPONSE_POINTS: usize = 25;

/// What the loop tells while it runs.
pub trait Progress {
    /// An inner step was taken.
    fn step(&mut self, iteration: usize, n_iterations: usize, combined_loss: f64);

    /// Something worth a line.
    fn message(&mut self, text: &str);
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome<M> {
    /// The backbone.
    pub model: M,
    /// The combiner.
    pub combiner: Combiner,
    /// What `summary.json` holds.
    pub summary: Summary,
    /// Whether it was interrupted before the last step.
    pub interrupted: bool,
}

/// All settings of a run.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// Name of the run.
    pub name: &'a str,
    /// Seed of every random choice.
    pub seed: u64,
    /// Name of the device, for the summary.
    pub device_name: &'a str,
    /// The loop.
    pub train: &'a TrainConfig,
    /// The backbone's optimizer.
    pub inner: &'a BertAdamConfig,
    /// The outer level.
    pub outer: &'a OuterConfig,
    /// The combiner.
    pub combiner: &'a CombinerConfig,
}

/// Fine-tunes `model`, which is on a device without a tape, and writes the run as it goes.
///
/// One inner step: all task losses of the batch, combined, one backward pass, BertAdam. After
/// every `outer.every`-th inner step, with the backbone already updated and if the combiner is
/// learned, one outer step: two batches drawn from the history, the hypergradient of the primary
/// loss on the one through the combined loss on the other, clipped, Adam. Then the batch enters
/// the history.
///
/// Numbers depend on `settings.seed` alone: running twice gives the same.
///
/// `interrupt` is looked at after every step; if it is set, weights are saved and the loop ends.
///
/// # Errors
///
/// [`TrainError`] if a setting is out of range, a loss is not finite, data cannot be read or the
/// run cannot be written.
///
/// # References
///
/// - Order of operations: `mlvlab/MELTR@669ad60`, `univl/main.py`.
pub fn fine_tune<T: FineTuneTask>(
    task: &T,
    model: T::Model,
    settings: Settings<'_>,
    run: &mut Run,
    progress: &mut dyn Progress,
    interrupt: &AtomicBool,
) -> Result<Outcome<T::Model>, TrainError> {
    let started = Instant::now();
    let mut looper = Loop::new(task, model, settings, run, progress, started)?;
    let mut interrupted = false;
    let n_iterations = settings.train.iterations;
    for iteration in 0..n_iterations {
        looper.iteration(iteration)?;
        if interrupt.load(Ordering::Relaxed) {
            interrupted = true;
            break;
        }
    }
    looper.finish(interrupted, started)
}

struct Loop<'a, T: FineTuneTask> {
    task: &'a T,
    settings: Settings<'a>,
    run: &'a mut Run,
    progress: &'a mut dyn Progress,
    model: T::Model,
    combiner: Combiner,
    inner_optimizer: BertAdam,
    outer_optimizer: ModuleOptimizer,
    estimator: Estimator,
    history: History<T::Batch>,
    outer_steps: usize,
    taken: usize,
    train_seconds: f64,
    worst_error: Option<f64>,
    /// Whether a finding of a certificate was told.
    has_warned: bool,
    negative: Vec<usize>,
    metrics: std::collections::BTreeMap<String, std::collections::BTreeMap<String, f64>>,
    started: Instant,
}

impl<'a, T: FineTuneTask> Loop<'a, T> {
    fn new(
        task: &'a T,
        model: T::Model,
        settings: Settings<'a>,
        run: &'a mut Run,
        progress: &'a mut dyn Progress,
        started: Instant,
    ) -> Result<Self, TrainError> {
        settings.train.validate()?;
        settings.outer.validate()?;
        let mut inner = settings.inner.clone();
        if inner.t_warmup == 0 {
            inner.t_warmup = settings.train.iterations;
        }
        let inner_optimizer = BertAdam::new(inner, task.parameter_names(&model))?;
        let combiner = start_combiner(task, &model, &settings, progress)?;
        let outer = settings.outer;
        Ok(Self {
            task,
            settings,
            run,
            progress,
            model: model.train(),
            combiner: combiner.train(),
            inner_optimizer,
            outer_optimizer: outer_optimizer(outer),
            estimator: outer.estimator.clone().build(EstimatorSettings {
                products: outer.products.clone(),
                without_direct: outer.regularizer.gradient != RegularizedGradient::Total,
                reverse_above: (outer.reverse_above > 0.0).then_some(outer.reverse_above),
                policy: outer.policy.clone(),
                ..EstimatorSettings::default()
            }),
            history: History::new(outer.history, outer.eviction)?,
            outer_steps: 0,
            taken: 0,
            train_seconds: 0.0,
            worst_error: None,
            has_warned: false,
            negative: vec![0; task.names().len()],
            metrics: std::collections::BTreeMap::new(),
            started,
        })
    }

    fn iteration(&mut self, iteration: usize) -> Result<(), TrainError> {
        let train = self.settings.train;
        let per_epoch = self.task.batches_per_epoch().max(1);
        if self.settings.outer.clear_history_each_epoch && iteration.is_multiple_of(per_epoch) {
            self.history.clear();
        }
        let batch = self
            .task
            .batch(iteration, seed_for(self.settings.seed, &[stream::BATCH]))
            .map_err(|error| TrainError::Task(Box::new(error)))?;
        self.inner_step(iteration, iteration / per_epoch, &batch)?;
        if self.combiner.is_learned() {
            if iteration.is_multiple_of(self.settings.outer.every) {
                self.outer_step(iteration, &batch)?;
            }
            let seed = seed_for(self.settings.seed, &[stream::DRAW, iteration as u64, 1]);
            self.history.push(batch, &mut RandomStream::new(seed));
        }
        self.taken = iteration + 1;
        let due = |every: usize| every > 0 && self.taken.is_multiple_of(every);
        let last = self.taken == train.iterations;
        if due(train.checkpoint_every) && !last {
            self.save()?;
        }
        if due(train.eval_every) && !last {
            self.evaluate()?;
        }
        Ok(())
    }

    fn inner_step(
        &mut self,
        iteration: usize,
        epoch: usize,
        batch: &T::Batch,
    ) -> Result<(), TrainError> {
        let clock = Instant::now();
        let pass = self.pass(iteration, 0);
        let primary_only = matches!(self.combiner, Combiner::Primary(_));
        let (losses, combined) = if primary_only {
            let primary = self.task.primary_loss(&self.model, batch, pass);
            (None, primary)
        } else {
            let losses = self.task.losses(&self.model, batch, pass);
            let frozen = self.combiner.clone().no_grad();
            (
                Some(vec_f64(losses.clone().inner().into_data())),
                combine(&frozen, losses),
            )
        };
        if let Some(losses) = &losses {
            self.require_finite_losses(iteration, batch, losses)?;
        }
        let combined_loss = combined.clone().into_scalar::<f64>();
        self.require_finite(iteration, batch, "the combined loss", combined_loss)?;
        let mut gradients = combined.backward();
        let gradient = ParamVector::from_gradients(&mut gradients, &self.model);
        let norm = gradient.norm();
        self.require_finite(iteration, batch, "the norm of the gradient", norm)?;
        let multiplier = self.inner_optimizer.next_multiplier();
        self.model = self
            .inner_optimizer
            .step(self.model.clone(), gradient, norm);
        self.train_seconds += clock.elapsed().as_secs_f64();

        let task_losses = match losses {
            Some(losses) => Some(losses),
            None if iteration.is_multiple_of(LOG_OTHERS_EVERY) => {
                let losses = self
                    .task
                    .losses(&self.model.valid(), batch, Pass::Evaluation);
                Some(vec_f64(losses.into_data()))
            }
            None => None,
        };
        if let Some(task_losses) = task_losses {
            self.run.append(&Record::Train(TrainRecord {
                iteration,
                epoch,
                task_losses: task_losses.clone(),
                combined_loss,
                learning_rate: multiplier,
                gradient_norm: norm,
                seconds: self.started.elapsed().as_secs_f64(),
            }))?;
            self.sample_response(iteration, &task_losses)?;
        }
        self.progress
            .step(iteration + 1, self.settings.train.iterations, combined_loss);
        Ok(())
    }

    fn outer_step(&mut self, iteration: usize, current: &T::Batch) -> Result<(), TrainError> {
        let clock = Instant::now();
        let seed = seed_for(self.settings.seed, &[stream::DRAW, iteration as u64, 0]);
        let mut draws = RandomStream::new(seed);
        let outer_batch = self.history.draw(current, &mut draws);
        let inner_batch = self.history.draw(current, &mut draws);
        let problem = MeltrProblem {
            task: self.task,
            outer_batch: &outer_batch,
            inner_batch: &inner_batch,
            outer_pass: self.pass(iteration, 1),
            inner_pass: self.pass(iteration, 2),
            regularizer: self.settings.outer.regularizer,
        };
        let failed = |source| TrainError::Hypergradient {
            iteration,
            source,
            items: [&outer_batch, &inner_batch]
                .map(|batch| self.task.batch_items(batch).join(", "))
                .join("; "),
        };
        let hypergradient = self
            .estimator
            .estimate(&problem, &self.model, &self.combiner)
            .map_err(failed)?;
        let before = self.combiner.clone();
        let norm = hypergradient.gradient.norm();
        self.require_finite(
            iteration,
            &inner_batch,
            "the norm of the hypergradient",
            norm,
        )?;
        let clip = self.settings.outer.max_grad_norm / (norm + 1e-6);
        let clipped = if clip < 1.0 {
            hypergradient.gradient.clone().scale(clip)
        } else {
            hypergradient.gradient.clone()
        };
        let gradients = clipped.to_gradients_params(&self.combiner);
        self.combiner = self.outer_optimizer.step(
            self.settings.outer.learning_rate,
            self.combiner.clone(),
            gradients,
        );
        self.train_seconds += clock.elapsed().as_secs_f64();

        let audit_every = self.settings.outer.audit_every;
        let audited = if audit_every > 0 && self.outer_steps.is_multiple_of(audit_every) {
            let error = audit(&problem, &self.model, &before, &hypergradient).map_err(failed)?;
            if let Some(error) = error {
                self.worst_error = Some(self.worst_error.map_or(error, |worst| worst.max(error)));
            }
            error
        } else {
            None
        };
        self.outer_steps += 1;
        self.log_outer_step(iteration, &before, &hypergradient, norm, audited)
    }

    fn log_outer_step(
        &mut self,
        iteration: usize,
        before: &Combiner,
        hypergradient: &Hypergradient,
        norm: f64,
        audited_error: Option<f64>,
    ) -> Result<(), TrainError> {
        let sensitivities = sensitivities(&before.valid(), self.host(&hypergradient.scalars));
        for (count, sensitivity) in self.negative.iter_mut().zip(&sensitivities) {
            *count += usize::from(*sensitivity < 0.0);
        }
        let certificate = &hypergradient.certificate;
        let findings: Vec<String> = certificate
            .findings
            .iter()
            .map(ToString::to_string)
            .collect();
        if let (Some(finding), false) = (findings.first(), self.has_warned) {
            self.progress.message(&format!(
                "iteration {iteration}: {finding} (said once; all of them are in the log)"
            ));
            self.has_warned = true;
        }
        self.run.append(&Record::Meta(MetaRecord {
            iteration,
            outer_objective: hypergradient.outer_objective,
            task_losses: hypergradient.scalars.clone(),
            sensitivities,
            directional: hypergradient.directional.clone(),
            hypergradient_norm: norm,
            certificate: CertificateRecord {
                estimator: certificate.estimator.clone(),
                product: certificate.product.clone(),
                difference_step: certificate.difference_step,
                estimated_error: certificate.estimated_error,
                audited_error,
                relative_residual: certificate.relative_residual,
                smallest_curvature: certificate.smallest_curvature,
                findings,
                forward_passes: certificate.forward_passes,
                backward_passes: certificate.backward_passes,
            },
        }))
    }

    /// Samples the response curves at evenly spread steps, ends included.
    fn sample_response(&mut self, iteration: usize, at: &[f64]) -> Result<(), TrainError> {
        let samples = self.settings.train.response_samples;
        if samples == 0 || !self.combiner.is_learned() {
            return Ok(());
        }
        let last = self.settings.train.iterations - 1;
        let is_due = (0..samples).any(|index| {
            let share = if samples == 1 {
                1.0
            } else {
                index as f64 / (samples - 1) as f64
            };
            (share * last as f64).round() as usize == iteration
        });
        if !is_due {
            return Ok(());
        }
        let n_tasks = at.len();
        let mut rows = Vec::with_capacity(n_tasks * RESPONSE_POINTS * n_tasks);
        let mut curves = Vec::with_capacity(n_tasks);
        for task in 0..n_tasks {
            let reach = 1.5 * at[task].max(0.1);
            let grid: Vec<f64> = (0..RESPONSE_POINTS)
                .map(|point| reach * point as f64 / (RESPONSE_POINTS - 1) as f64)
                .collect();
            for value in &grid {
                rows.extend((0..n_tasks).map(|t| if t == task { *value } else { at[t] } as f32));
            }
            curves.push(ResponseCurve {
                task_loss: grid,
                combined_loss: Vec::new(),
            });
        }
        let shape = [n_tasks * RESPONSE_POINTS, n_tasks];
        let device = self.device().without_autodiff();
        let rows = Tensor::<2>::from_data(TensorData::new(rows, shape), &device);
        let combined = self
            .combiner
            .valid()
            .forward(Dual::constant(rows), Pass::Evaluation);
        let combined = vec_f64(combined.value.into_data());
        for (curve, values) in curves.iter_mut().zip(combined.chunks(RESPONSE_POINTS)) {
            curve.combined_loss = values.to_vec();
        }
        self.run.append(&Record::Response(ResponseRecord {
            iteration,
            at: at.to_vec(),
            curves,
        }))
    }

    fn evaluate(&mut self) -> Result<(), TrainError> {
        let model = self.model.valid();
        for split in &self.settings.train.eval_splits {
            let wrap = |error| TrainError::Task(Box::new(error));
            let metrics = self.task.evaluate(&model, split).map_err(wrap)?;
            self.run.append(&Record::Eval(EvalRecord {
                iteration: self.taken,
                split: split.clone(),
                n_items: self.task.n_items(split).map_err(wrap)?,
                metrics: metrics.clone(),
            }))?;
            self.metrics.insert(split.clone(), metrics);
        }
        Ok(())
    }

    fn save(&self) -> Result<(), TrainError> {
        let dict = self.task.state_dict(&self.model.valid());
        write_state_dict(&self.run.checkpoint_path("inner")?, &dict)?;
        if let Combiner::Transformer(transformer) = &self.combiner {
            let dict = transformer.valid().state_dict();
            write_state_dict(&self.run.checkpoint_path("outer")?, &dict)?;
        }
        Ok(())
    }

    fn finish(
        mut self,
        interrupted: bool,
        started: Instant,
    ) -> Result<Outcome<T::Model>, TrainError> {
        self.save()?;
        if !interrupted {
            self.evaluate()?;
        }
        let names = self.task.names();
        for (name, count) in names.iter().zip(&self.negative) {
            if *count > 0 {
                self.progress.message(&format!(
                    "the sensitivity of `{name}` was negative in {count} of {} outer steps",
                    self.outer_steps
                ));
            }
        }
        let summary = Summary {
            format_version: 1,
            name: self.settings.name.to_owned(),
            combiner: self.settings.combiner.name.name().to_owned(),
            seed: self.settings.seed,
            device: self.settings.device_name.to_owned(),
            primary: names[self.task.primary()].clone(),
            tasks: names,
            iterations: self.taken,
            metrics: std::mem::take(&mut self.metrics),
            train_seconds: self.train_seconds,
            total_seconds: started.elapsed().as_secs_f64(),
            peak_memory_bytes: peak_memory_bytes(),
            worst_hypergradient_error: self.worst_error,
        };
        if !interrupted {
            self.run.finish(&summary)?;
        }
        Ok(Outcome {
            model: self.model.valid(),
            combiner: self.combiner.valid(),
            summary,
            interrupted,
        })
    }

    fn pass(&self, iteration: usize, role: u64) -> Pass {
        Pass::Stochastic {
            seed: seed_for(
                self.settings.seed,
                &[stream::DROPOUT, iteration as u64, role],
            ),
        }
    }

    fn device(&self) -> Device {
        self.model.devices().into_iter().next().unwrap_or_default()
    }

    /// Host numbers as a tensor without a tape.
    fn host(&self, values: &[f64]) -> Tensor<1> {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        Tensor::from_data(data, &self.device().without_autodiff())
    }

    fn require_finite_losses(
        &self,
        iteration: usize,
        batch: &T::Batch,
        losses: &[f64],
    ) -> Result<(), TrainError> {
        for (name, loss) in self.task.names().iter().zip(losses) {
            self.require_finite(iteration, batch, &format!("loss `{name}`"), *loss)?;
        }
        Ok(())
    }

    fn require_finite(
        &self,
        iteration: usize,
        batch: &T::Batch,
        what: &str,
        value: f64,
    ) -> Result<(), TrainError> {
        if value.is_finite() {
            return Ok(());
        }
        Err(TrainError::NonFinite {
            iteration,
            what: what.to_owned(),
            value,
            items: self.task.batch_items(batch).join(", "),
        })
    }
}

/// The combiner that the run starts with.
fn start_combiner<T: FineTuneTask>(
    task: &T,
    model: &T::Model,
    settings: &Settings<'_>,
    progress: &mut dyn Progress,
) -> Result<Combiner, TrainError> {
    let n_tasks = task.names().len();
    let config = settings.combiner;
    match config.name {
        CombinerName::Primary => {
            return Ok(Combiner::Primary(PrimaryOnly::new(
                task.primary(),
                n_tasks,
            )?));
        }
        CombinerName::Sum => return Ok(Combiner::Sum(PlainSum::new(n_tasks))),
        CombinerName::Meltr => {}
    }
    let device = model
        .devices()
        .into_iter()
        .next()
        .unwrap_or_default()
        .without_autodiff();
    let seed = seed_for(settings.seed, &[stream::PHI]);
    let transformer = config.loss_transformer(n_tasks).init(seed, &device)?;
    if config.start == StartOfPhi::Random {
        return Ok(Combiner::Transformer(transformer));
    }
    let seed = seed_for(settings.seed, &[stream::BATCH]);
    let batch = task
        .batch(0, seed)
        .map_err(|error| TrainError::Task(Box::new(error)))?;
    let reference = task.losses(&model.valid(), &batch, Pass::Evaluation);
    let reference = vec_f64(reference.into_data());
    let seed = seed_for(settings.seed, &[stream::WARM_START]);
    let (transformer, report) =
        fit_to_sum(transformer, &reference, &config.warm_start, seed, &device)?;
    let (low, high) = report
        .sensitivities
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), s| {
            (low.min(*s), high.max(*s))
        });
    progress.message(&format!(
        "warm start of the loss transformer: sensitivities {low:.2} to {high:.2}, slope error {:.3}",
        report.slope_error
    ));
    Ok(Combiner::Transformer(transformer))
}

fn outer_optimizer(config: &OuterConfig) -> ModuleOptimizer {
    let (beta_1, beta_2) = (config.beta_1 as f32, config.beta_2 as f32);
    match config.optimizer {
        OuterOptimizer::Adam => AdamConfig::new()
            .with_beta_1(beta_1)
            .with_beta_2(beta_2)
            .with_epsilon(1e-8)
            .with_weight_decay(
                (config.weight_decay > 0.0)
                    .then(|| WeightDecayConfig::new(config.weight_decay as f32)),
            )
            .init(),
        OuterOptimizer::AdamW => AdamWConfig::new()
            .with_beta_1(beta_1)
            .with_beta_2(beta_2)
            .with_epsilon(1e-8)
            .with_weight_decay(config.weight_decay as f32)
            .init(),
    }
}
