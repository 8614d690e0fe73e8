//! The fine-tuning loop over both levels.

mod draws;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, GradientCheckpointingStrategy, Tensor, TensorData};
use meltr_aid::{
    Estimator, EstimatorConfig, EstimatorMemory, Hypergradient, ParamVector, ScalarMediated,
    Settings as EstimatorSettings, audit, with_checkpointing_strategy,
};
use meltr_core::weighting::{Gramian, LossWeighting, Needs, WeightingError};
use meltr_core::{
    Combiner, Dual, FineTuneTask, LossCombiner, Pass, RegularizedGradient, StateDict, Workers,
    combine, parameter_names, sensitivities, vec_f64,
};
use meltr_data::{RandomStream, seed_for};

use self::draws::no_hypergradient;
use crate::anomalies::{FirstReaction, negative};
use crate::bert_adam::{BertAdam, BertAdamConfig};
use crate::combination::{
    combiner_dict, random_combiner, require_rule, restored_combiner, start_combiner, start_rule,
};
use crate::combiner_config::CombinerConfig;
use crate::config::{OuterConfig, TrainConfig};
use crate::error::TrainError;
use crate::history::History;
use crate::memory::peak_memory_bytes;
use crate::named_parameters::NamedParameters;
use crate::outer_optimizer::OuterSteps;
use crate::pull::{Pull, TaskGradients, added, scaled, weighted_loss, weighted_sum};
use crate::record::{
    CertificateRecord, EvalRecord, MetaRecord, Record, ResponseCurve, ResponseRecord, Summary,
    TrainRecord, WeightsRecord,
};
use crate::run::Run;
use crate::saved_tensors::SavedTensors;
use crate::shared::{
    digest, in_order, metrics_of_first, module_of_first, number_of_first, own_parts, require_alike,
    require_equal_shares, sum_vectors,
};
use crate::snapshot::{Best, Exact, LoopState, Restored, SnapshotTensors};
use crate::through::StepTaken;

/// Independent random streams, all derived from the one seed of the run.
pub(crate) mod stream {
    pub(crate) const BATCH: u64 = 1;
    pub(crate) const DROPOUT: u64 = 2;
    pub(crate) const DRAW: u64 = 3;
    pub(crate) const PHI: u64 = 4;
    pub(crate) const WARM_START: u64 = 5;
    pub(crate) const RULE: u64 = 6;
    pub(crate) const OUTER_BATCH: u64 = 7;
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
    /// The processes that share the run; [`Alone`](meltr_core::Alone) is one.
    pub workers: &'a dyn Workers,
}

/// Fine-tunes `model`, which is on a device without a tape, and writes the run as it goes.
///
/// One inner step: all task losses of the batch, combined, one backward pass, BertAdam; with
/// `train.accumulate`, the mean of the gradients of several batches. After every `outer.every`-th
/// inner step, with the backbone already updated and if the combiner is learned, one outer step:
/// two batches drawn from the history, the hypergradient of the primary loss on the one through
/// the combined loss on the other, clipped, Adam. [`OuterConfig::batches`] can take the first of
/// them from held-out items, and [`OuterConfig::through`] that of the inner step for the second,
/// with the hypergradient through that step; `meltr` has both by default. Then the batch enters the
/// history, the last one of several.
///
/// Where a rule of [`meltr_core::weighting`] weighs the losses, an inner step descends along
/// `sum_t w_t g_t`, and there is no outer step:
///
/// | the rule needs | passes of the backbone in an inner step |
/// |---|---|
/// | losses | one forward, one backward |
/// | losses before and after (FAMO) | and one forward without a tape, after the update |
/// | the Gramian of the gradients | `T` forward, `T` backward |
///
/// A backward pass consumes its tape, so each of the `T` has a forward pass of all losses before
/// it; their weighted sum is the update. All parameters of the backbone count as shared, those
/// that a single loss reaches included, and `T` gradients are held at a time. All passes of a step
/// see the same dropout masks. [`TrainConfig::accumulate`] says what several batches change, and
/// [`TrainConfig::gradient_checkpointing`] what the backward passes of both levels then keep.
///
/// Auto-Lambda's look-ahead is the outer step above with the identity for the inverse Hessian: the
/// backbone has taken its step when the primary gradient is taken. Different from the published
/// method, that step is the optimizer's own, and the gradients of the task losses are taken after
/// it as well, unless [`OuterConfig::through`] says otherwise.
///
/// Numbers depend on `settings.seed` alone: running twice gives the same. So does a run that was
/// stopped and goes on ([`Run::resume`]): every random choice follows from the seed and the
/// number of the step, and everything else that a step depends on is in the checkpoint. `model`
/// then gives the sizes, and its values are replaced.
///
/// `interrupt` is looked at between two steps; if it is set, in whichever process, a checkpoint is
/// saved and the loop ends.
///
/// Several processes share a run if each of them calls this with the same settings but its own
/// [`Settings::workers`]. They share the batches of an inner step, the draws of an outer step and
/// the items of an evaluation; all of them have the same parameters of both levels, which is
/// verified at every checkpoint. Gradients are exchanged after every batch that a process takes,
/// and added up in the order of the batches: how many processes there are changes no number of the
/// run. Every one of them holds the history, and so reads the last batch of every step. The first
/// one writes the run; the others have a [`Run::elsewhere`] or [`Run::resume_elsewhere`].
///
/// # Errors
///
/// [`TrainError`] if a setting is out of range, a loss is not finite, data cannot be read, the
/// run cannot be written, or its checkpoint does not fit.
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
    settings.outer.validate()?;
    let outer = settings.combiner.outer(settings.outer);
    let settings = Settings {
        outer: &outer,
        ..settings
    };
    let mut looper = Loop::new(task, model, settings, run, progress, started)?;
    let interrupted = loop {
        // All processes have to stop after the same step.
        let asked = f64::from(interrupt.load(Ordering::Relaxed));
        if settings.workers.gather(&[asked]).contains(&1.0) {
            break true;
        }
        looper.between_steps()?;
        if looper.is_over() {
            break false;
        }
        looper.iteration()?;
    };
    looper.finish(interrupted)
}

struct Loop<'a, T: FineTuneTask> {
    task: &'a T,
    settings: Settings<'a>,
    run: &'a mut Run,
    progress: &'a mut dyn Progress,
    model: T::Model,
    combiner: Combiner,
    inner_parameters: NamedParameters,
    outer_parameters: NamedParameters,
    inner_optimizer: BertAdam,
    outer_optimizer: OuterSteps,
    estimator: Estimator,
    /// Past batches with their numbers.
    history: History<(usize, T::Batch)>,
    state: LoopState,
    /// Steps taken at the checkpoint that was read or written last.
    saved: Option<usize>,
    /// Seconds that earlier processes have spent on the run.
    seconds_before: f64,
    started: Instant,
}

/// What an inner step descends along, and the batches that say so.
struct Descent<B> {
    pull: Pull,
    /// Weights of the losses, `[T]`, if a rule gave them.
    weights: Option<Vec<f64>>,
    /// The batches that this process took, where their losses are asked for once more, with their
    /// places in the step.
    own: Vec<(usize, B)>,
    /// The last batch of the step.
    batch: B,
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
        require_equal_shares(settings.train, settings.outer, settings.workers.n_workers())?;
        settings.combiner.validate(&task.names())?;
        let rule = start_rule(task, &settings)?;
        let mut inner = settings.inner.clone();
        if inner.t_warmup == 0 {
            inner.t_warmup = settings.train.iterations;
        }
        for note in run.take_notes() {
            progress.message(&note);
        }
        let restored = run.take_restored();
        let (model, combiner) = match &restored {
            None => {
                let combiner = start_combiner(task, &model, &settings, progress)?;
                (model, combiner)
            }
            Some(restored) => {
                require_device(restored, settings.device_name)?;
                require_rule(rule.as_ref(), restored)?;
                let model = restored_model(task, model, &restored.inner)?;
                let combiner = random_combiner(task, &model, &settings)?;
                (model, restored_combiner(combiner, restored)?)
            }
        };
        let model = module_of_first(settings.workers, model);
        let combiner = module_of_first(settings.workers, combiner);
        let outer = settings.outer;
        let inner_names = task.parameter_names(&model);
        let inner_optimizer = BertAdam::new(inner, inner_names.clone())?;
        let estimator = match outer.through.rule(inner_optimizer.rule()) {
            Some(rule) => EstimatorConfig::OptimizerAware(rule),
            None => outer.estimator.clone(),
        };
        let mut estimator = estimator.build(EstimatorSettings {
            products: outer.products.clone(),
            without_direct: outer.regularizer.gradient != RegularizedGradient::Total,
            reverse_above: (outer.reverse_above > 0.0).then_some(outer.reverse_above),
            policy: outer.policy.clone(),
            ..EstimatorSettings::default()
        });
        if let Estimator::OptimizerAware(aware) = &mut estimator {
            aware.per_unit_step = outer.per_unit_step;
        }
        let mut looper = Self {
            inner_parameters: NamedParameters::of(&model, inner_names),
            outer_parameters: NamedParameters::of(
                &combiner,
                parameter_names(&combiner, str::to_owned),
            ),
            task,
            settings,
            run,
            progress,
            model: model.train(),
            combiner: combiner.train(),
            inner_optimizer,
            outer_optimizer: OuterSteps::new(outer),
            estimator,
            history: History::new(outer.history, outer.eviction)?,
            state: LoopState {
                negative: vec![0; task.names().len()],
                rule,
                ..LoopState::default()
            },
            saved: None,
            seconds_before: 0.0,
            started,
        };
        match restored {
            None => looper.run.rewind(None)?,
            Some(restored) => looper.take_up(restored)?,
        }
        let taken = looper.state.taken;
        require_alike(settings.workers, "the checkpoints", taken, &[taken as f64])?;
        looper.require_outer_batches()?;
        looper.run.start_events(&looper.task.names())?;
        Ok(looper)
    }

    /// Takes up everything but the parameters of both levels.
    fn take_up(&mut self, restored: Restored) -> Result<(), TrainError> {
        let Restored {
            folder,
            header,
            optimizer,
            ..
        } = restored;
        self.state = header.state.clone();
        self.seconds_before = self.state.seconds.0;
        self.saved = Some(self.state.taken);
        match optimizer {
            Some(saved) => self.take_up_optimizers(saved)?,
            // After the last step nothing but an evaluation follows.
            None if self.is_over() => {}
            None => {
                return Err(TrainError::BadCheckpoint {
                    path: folder,
                    reason: format!(
                        "it has no state of the optimizers, and {} of {} steps are left to take",
                        self.settings.train.iterations - self.state.taken,
                        self.settings.train.iterations
                    ),
                });
            }
        }
        self.run.rewind(Some(&header))?;
        self.progress.message(&format!(
            "going on after {} of {} steps",
            self.state.taken, self.settings.train.iterations
        ));
        Ok(())
    }

    fn take_up_optimizers(&mut self, mut saved: SavedTensors) -> Result<(), TrainError> {
        self.inner_optimizer
            .load_state_dict(&self.inner_parameters, &mut saved)?;
        self.outer_optimizer
            .load_state_dict(&self.outer_parameters, &mut saved)?;
        let last_solution = take_solution(&mut saved, &self.inner_parameters)?;
        saved.require_used_up()?;
        let difference_steps = self
            .state
            .difference_steps
            .clone()
            .map(|numbers| numbers.into_iter().map(|number| number.0).collect());
        self.estimator.remember(EstimatorMemory {
            last_solution,
            difference_steps,
        });
        let numbers = self.state.history.clone();
        let batches = numbers
            .into_iter()
            .map(|number| Ok((number, self.batch(number)?)))
            .collect::<Result<Vec<_>, TrainError>>()?;
        self.history.refill(batches);
        Ok(())
    }

    /// Whether all steps were taken, or more of them are not worth it.
    fn is_over(&self) -> bool {
        let train = self.settings.train;
        self.state.taken >= train.iterations
            || (train.patience > 0 && self.state.without_improvement >= train.patience)
    }

    /// What is due after the steps taken so far, but for what comes at the end of the run.
    fn between_steps(&mut self) -> Result<(), TrainError> {
        let train = self.settings.train;
        let taken = self.state.taken;
        let due = |every: usize| every > 0 && taken.is_multiple_of(every);
        if taken == 0 || taken >= train.iterations {
            return Ok(());
        }
        // An evaluation that an interrupt left out is made up for.
        if due(train.eval_every) && self.state.evaluated != taken {
            self.evaluate()?;
        }
        if due(train.checkpoint_every) {
            self.save()?;
        }
        Ok(())
    }

    fn iteration(&mut self) -> Result<(), TrainError> {
        let iteration = self.state.taken;
        let epoch = self.epoch(iteration);
        let starts_epoch = iteration == 0 || self.epoch(iteration - 1) != epoch;
        if self.settings.outer.clear_history_each_epoch && starts_epoch {
            self.history.clear();
        }
        let (current, taken) = self.inner_step(iteration, epoch)?;
        if self.combiner.is_learned() {
            if self.has_outer_step(iteration) {
                self.outer_step(iteration, &current, taken)?;
            }
            let seed = seed_for(self.settings.seed, &[stream::DRAW, iteration as u64, 1]);
            self.history.push(current, &mut RandomStream::new(seed));
        } else if self.epoch(iteration + 1) != epoch
            && let Some(rule) = &mut self.state.rule
        {
            let (_, batch) = &current;
            rule.0
                .end_epoch()
                .map_err(|source| self.weighting_error(iteration, batch, source))?;
        }
        self.state.taken = iteration + 1;
        Ok(())
    }

    /// Whether an outer step follows this inner step.
    fn has_outer_step(&self, iteration: usize) -> bool {
        self.combiner.is_learned() && iteration.is_multiple_of(self.settings.outer.every)
    }

    /// Passes over the training items finished before a step.
    fn epoch(&self, iteration: usize) -> usize {
        iteration * self.settings.train.accumulate / self.task.batches_per_epoch().max(1)
    }

    /// The batch of this number, the first being 0.
    fn batch(&self, number: usize) -> Result<T::Batch, TrainError> {
        self.task
            .batch(number, seed_for(self.settings.seed, &[stream::BATCH]))
            .map_err(|error| TrainError::Task(Box::new(error)))
    }

    /// The batch numbered `part` of an inner step.
    fn part(&self, iteration: usize, part: usize) -> Result<T::Batch, TrainError> {
        self.batch(iteration * self.settings.train.accumulate + part)
    }

    /// Takes an inner step; gives the batch of it, the last one of several, with its number, and
    /// the step itself, if a hypergradient goes through it.
    #[expect(clippy::type_complexity, reason = "taken apart at once")]
    fn inner_step(
        &mut self,
        iteration: usize,
        epoch: usize,
    ) -> Result<((usize, T::Batch), Option<StepTaken<T::Model>>), TrainError> {
        let needs = self.state.rule.as_ref().map(|rule| rule.0.needs());
        let Descent {
            pull,
            weights,
            own,
            batch,
        } = match needs {
            None => self.combined_descent(iteration)?,
            Some(Needs::Gramian) => self.gramian_descent(iteration)?,
            Some(Needs::Losses | Needs::LossesBeforeAndAfter) => {
                self.weighted_descent(iteration)?
            }
        };
        let Pull {
            losses,
            combined_loss,
            gradient,
        } = pull;
        let clock = Instant::now();
        let norm = number_of_first(self.settings.workers, gradient.norm());
        self.require_finite(iteration, &batch, "the norm of the gradient", norm)?;
        let multiplier = self.inner_optimizer.next_multiplier();
        let goes_through = matches!(self.estimator, Estimator::OptimizerAware(_));
        let taken = (goes_through && self.has_outer_step(iteration))
            .then(|| self.step_to_take(&gradient, norm));
        self.model = self
            .inner_optimizer
            .step(self.model.clone(), gradient, norm);
        if needs == Some(Needs::LossesBeforeAndAfter) {
            self.observe(iteration, &own, &batch)?;
        }
        self.state.train_seconds.0 += clock.elapsed().as_secs_f64();

        let task_losses = match losses {
            Some(losses) => Some(losses),
            None if iteration.is_multiple_of(LOG_OTHERS_EVERY) => {
                let losses = self
                    .task
                    .losses(&self.model.valid(), &batch, Pass::Evaluation);
                Some(vec_f64(losses.into_data()))
            }
            None => None,
        };
        if let Some(task_losses) = task_losses {
            let seconds = self.seconds();
            self.run.append(&Record::Train(TrainRecord {
                iteration,
                epoch,
                task_losses: task_losses.clone(),
                combined_loss,
                learning_rate: multiplier,
                gradient_norm: norm,
                seconds,
            }))?;
            self.sample_response(iteration, &task_losses)?;
        }
        if let Some(weights) = weights {
            self.run
                .append(&Record::Weights(WeightsRecord { iteration, weights }))?;
        }
        self.progress
            .step(iteration + 1, self.settings.train.iterations, combined_loss);
        let number = (iteration + 1) * self.settings.train.accumulate - 1;
        Ok(((number, batch), taken))
    }

    /// The step along `gradient` that is about to be taken.
    fn step_to_take(&self, gradient: &ParamVector, norm: f64) -> StepTaken<T::Model> {
        StepTaken {
            before: self.model.clone(),
            gradient: gradient.clone().scale(self.inner_optimizer.clip(norm)),
            state: self.inner_optimizer.moments(gradient),
            rate_factors: self.inner_optimizer.rate_factors(),
        }
    }

    /// Along the gradient of the combined loss, averaged over the batches.
    fn combined_descent(&mut self, iteration: usize) -> Result<Descent<T::Batch>, TrainError> {
        let n_batches = self.settings.train.accumulate;
        let mut parts = own_parts(self.settings.workers, n_batches);
        let mut part = parts.next().unwrap_or_default();
        let mut batch = self.part(iteration, part)?;
        let own = self.pull(iteration, part, &batch)?;
        let mut pull = self.joined(None, own);
        for later in parts {
            part = later;
            batch = self.part(iteration, part)?;
            let own = self.pull(iteration, part, &batch)?;
            pull = self.joined(Some(pull), own);
        }
        Ok(Descent {
            pull: pull.divided_by(n_batches),
            weights: None,
            own: Vec::new(),
            batch: self.last_batch(iteration, part, batch)?,
        })
    }

    /// `total` and what all processes have found on their next batch.
    fn joined(&mut self, total: Option<Pull>, own: Pull) -> Pull {
        let clock = Instant::now();
        let pull = Pull::joined(total, own, self.settings.workers, &self.inner_parameters);
        self.state.train_seconds.0 += clock.elapsed().as_secs_f64();
        pull
    }

    /// The last batch of an inner step, which is `batch` if that is numbered so.
    fn last_batch(
        &self,
        iteration: usize,
        part: usize,
        batch: T::Batch,
    ) -> Result<T::Batch, TrainError> {
        let last = self.settings.train.accumulate - 1;
        if part == last {
            Ok(batch)
        } else {
            self.part(iteration, last)
        }
    }

    /// Along `sum_t w_t g_t` with weights from the losses, by one backward pass a batch.
    fn weighted_descent(&mut self, iteration: usize) -> Result<Descent<T::Batch>, TrainError> {
        let n_batches = self.settings.train.accumulate;
        let workers = self.settings.workers;
        let own = own_parts(workers, n_batches)
            .map(|part| Ok((part, self.part(iteration, part)?)))
            .collect::<Result<Vec<(usize, T::Batch)>, TrainError>>()?;
        let batch = match own.last() {
            Some((part, batch)) => self.last_batch(iteration, *part, batch.clone())?,
            None => self.part(iteration, n_batches - 1)?,
        };
        let clock = Instant::now();
        let computing = self.computing();
        // The losses of a single batch are taken once, on the tape.
        let mut taped = (n_batches == 1).then(|| {
            let pass = self.inner_pass(iteration, 0);
            self.task.losses(&computing, &batch, pass)
        });
        let losses = match &taped {
            Some(losses) => vec_f64(losses.clone().inner().into_data()),
            None => self.mean_losses(iteration, &own),
        };
        let weights = self.weights(iteration, &batch, &losses, None)?;
        let mut gradient = None;
        for (part, batch) in &own {
            let losses = taped.take().unwrap_or_else(|| {
                let pass = self.inner_pass(iteration, *part);
                self.task.losses(&computing, batch, pass)
            });
            let mut gradients = weighted_sum(losses, &weights).backward();
            let found = ParamVector::from_gradients(&mut gradients, &computing);
            let found = self.settings.train.precision.gradient(found);
            let parameters = &self.inner_parameters;
            gradient = Some(sum_vectors(workers, parameters, gradient.take(), found));
        }
        let gradient = gradient.unwrap_or_default();
        let gradient = if n_batches == 1 {
            gradient
        } else {
            gradient.scale(1.0 / n_batches as f64)
        };
        self.state.train_seconds.0 += clock.elapsed().as_secs_f64();
        Ok(Descent {
            pull: Pull {
                combined_loss: weighted_loss(&losses, &weights),
                losses: Some(losses),
                gradient,
            },
            weights: Some(weights),
            own,
            batch,
        })
    }

    /// Along `sum_t w_t g_t` with weights from the inner products of the gradients `g_t`, each
    /// averaged over the batches.
    fn gramian_descent(&mut self, iteration: usize) -> Result<Descent<T::Batch>, TrainError> {
        let n_batches = self.settings.train.accumulate;
        let mut parts = own_parts(self.settings.workers, n_batches);
        let mut part = parts.next().unwrap_or_default();
        let mut batch = self.part(iteration, part)?;
        let own = self.task_gradients(iteration, part, &batch)?;
        let mut sum = self.joined_gradients(None, own);
        for later in parts {
            part = later;
            batch = self.part(iteration, part)?;
            let own = self.task_gradients(iteration, part, &batch)?;
            sum = self.joined_gradients(Some(sum), own);
        }
        let batch = self.last_batch(iteration, part, batch)?;
        let clock = Instant::now();
        let found = sum.divided_by(n_batches);
        let gramian = found
            .gramian(&self.inner_parameters)
            .map_err(|source| self.weighting_error(iteration, &batch, source))?;
        let weights = self.weights(iteration, &batch, &found.losses, Some(&gramian))?;
        let gradient = found.weighted(&weights);
        self.state.train_seconds.0 += clock.elapsed().as_secs_f64();
        Ok(Descent {
            pull: Pull {
                combined_loss: weighted_loss(&found.losses, &weights),
                losses: Some(found.losses),
                gradient,
            },
            weights: Some(weights),
            own: Vec::new(),
            batch,
        })
    }

    /// `total` and what all processes have found on their next batch.
    fn joined_gradients(
        &mut self,
        total: Option<TaskGradients>,
        own: TaskGradients,
    ) -> TaskGradients {
        let clock = Instant::now();
        let (workers, parameters) = (self.settings.workers, &self.inner_parameters);
        let sum = TaskGradients::joined(total, own, workers, parameters);
        self.state.train_seconds.0 += clock.elapsed().as_secs_f64();
        sum
    }

    /// Every loss of one batch with a gradient of its own.
    fn task_gradients(
        &mut self,
        iteration: usize,
        part: usize,
        batch: &T::Batch,
    ) -> Result<TaskGradients, TrainError> {
        let clock = Instant::now();
        let pass = self.inner_pass(iteration, part);
        let found = TaskGradients::of(self.task, &self.computing(), batch, pass)
            .of_precision(self.settings.train.precision);
        self.require_finite_losses(iteration, batch, &found.losses)?;
        self.state.train_seconds.0 += clock.elapsed().as_secs_f64();
        Ok(found)
    }

    /// The weights that the rule gives for these losses; without a rule, all of them are 1.
    fn weights(
        &mut self,
        iteration: usize,
        batch: &T::Batch,
        losses: &[f64],
        gramian: Option<&Gramian>,
    ) -> Result<Vec<f64>, TrainError> {
        self.require_finite_losses(iteration, batch, losses)?;
        let Some(rule) = &mut self.state.rule else {
            return Ok(vec![1.0; losses.len()]);
        };
        rule.0
            .weights(losses, gramian)
            .map_err(|source| self.weighting_error(iteration, batch, source))
    }

    /// Hands the losses of the step's batches after the update to the rule.
    fn observe(
        &mut self,
        iteration: usize,
        own: &[(usize, T::Batch)],
        batch: &T::Batch,
    ) -> Result<(), TrainError> {
        let losses = self.mean_losses(iteration, own);
        self.require_finite_losses(iteration, batch, &losses)?;
        if let Some(rule) = &mut self.state.rule {
            rule.0
                .observe(&losses)
                .map_err(|source| self.weighting_error(iteration, batch, source))?;
        }
        Ok(())
    }

    /// Task losses without a tape, averaged over the batches of an inner step, of which `own` are
    /// those that this process took.
    fn mean_losses(&self, iteration: usize, own: &[(usize, T::Batch)]) -> Vec<f64> {
        let model = self.model.valid();
        let own = own.iter().map(|(part, batch)| {
            let pass = self.inner_pass(iteration, *part);
            vec_f64(self.task.losses(&model, batch, pass).into_data())
        });
        let mut losses = in_order(self.settings.workers, own.collect());
        let share = 1.0 / losses.len() as f64;
        let last = losses.pop().unwrap_or_default();
        let sum = losses.iter().fold(last, |sum, losses| added(&sum, losses));
        scaled(&sum, share)
    }

    /// The error of a rule, with step, losses and items.
    fn weighting_error(
        &self,
        iteration: usize,
        batch: &T::Batch,
        source: WeightingError,
    ) -> TrainError {
        TrainError::Weighting {
            iteration,
            source,
            tasks: self.task.names().join(", "),
            items: self.task.batch_items(batch).join(", "),
        }
    }

    /// The backbone as inner steps compute it.
    fn computing(&self) -> T::Model {
        let precision = self.settings.train.precision;
        let computing = precision
            .computing(&self.model)
            .unwrap_or_else(|| self.model.clone());
        self.on_tape(computing)
    }

    /// `module`, which is on a tape, on the one that backward passes start from.
    ///
    /// Optimizers give parameters on a tape that keeps everything, so this is asked for anew in
    /// every step.
    fn on_tape<M: Module>(&self, module: M) -> M {
        if self.settings.train.gradient_checkpointing {
            with_checkpointing_strategy(module, GradientCheckpointingStrategy::Balanced)
        } else {
            module
        }
    }

    /// Values and gradient of the combined loss on one batch, the one numbered `part` of its step.
    fn pull(
        &mut self,
        iteration: usize,
        part: usize,
        batch: &T::Batch,
    ) -> Result<Pull, TrainError> {
        let clock = Instant::now();
        let pass = self.inner_pass(iteration, part);
        let primary_only = matches!(self.combiner, Combiner::Primary(_));
        let computing = self.computing();
        let (losses, combined) = if primary_only {
            let primary = self.task.primary_loss(&computing, batch, pass);
            (None, primary)
        } else {
            let losses = self.task.losses(&computing, batch, pass);
            let frozen = self.on_tape(self.combiner.clone()).no_grad();
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
        let gradient = ParamVector::from_gradients(&mut gradients, &computing);
        let gradient = self.settings.train.precision.gradient(gradient);
        self.state.train_seconds.0 += clock.elapsed().as_secs_f64();
        Ok(Pull {
            losses,
            combined_loss,
            gradient,
        })
    }

    fn outer_step(
        &mut self,
        iteration: usize,
        current: &(usize, T::Batch),
        taken: Option<StepTaken<T::Model>>,
    ) -> Result<(), TrainError> {
        let clock = Instant::now();
        let point = self.outer_point(taken);
        let drawn = self.drawn(iteration, self.first_draw(), current, &point)?;
        let mut hypergradient = self.estimate_draw(iteration, &drawn, &point)?;
        self.average_draws(iteration, current, &point, &mut hypergradient)?;
        let norm = number_of_first(self.settings.workers, hypergradient.gradient.norm());
        self.require_finite(
            iteration,
            &drawn.inner_batch,
            "the norm of the hypergradient",
            norm,
        )?;
        let clip = self.settings.outer.max_grad_norm / (norm + 1e-6);
        let clipped = if clip < 1.0 {
            hypergradient.gradient.clone().scale(clip)
        } else {
            hypergradient.gradient.clone()
        };
        self.combiner = self
            .outer_optimizer
            .step(self.combiner.clone(), &clipped)
            .projected();
        self.state.train_seconds.0 += clock.elapsed().as_secs_f64();

        let problem = self.problem(&drawn);
        // Where the outer gradient is zero nothing was asked of the losses.
        let is_zero = hypergradient.scalars.is_empty();
        let losses = if is_zero {
            vec_f64(problem.scalars(&point.inner().valid()).into_data())
        } else {
            hypergradient.scalars.clone()
        };
        let audit_every = self.settings.outer.audit_every;
        let is_due = audit_every > 0 && self.state.outer_steps.is_multiple_of(audit_every);
        let audited = if is_due && !is_zero {
            let error = audit(&problem, point.inner(), &point.combiner, &hypergradient)
                .map_err(|source| no_hypergradient(self.task, iteration, &drawn, source))?;
            if let Some(error) = error {
                let worst = self.state.worst_error;
                let worst = worst.map_or(error, |worst| worst.0.max(error));
                self.state.worst_error = Some(Exact(worst));
            }
            error
        } else {
            None
        };
        self.state.outer_steps += 1;
        let sensitivities = sensitivities(&point.combiner.valid(), self.host(&losses));
        let anomalies = self.anomalies(iteration, &losses, &sensitivities);
        let certificate = self.certificate_record(iteration, &hypergradient, audited);
        self.run.append(&Record::Meta(MetaRecord {
            iteration,
            outer_objective: hypergradient.outer_objective,
            task_losses: losses,
            sensitivities,
            directional: hypergradient.directional,
            hypergradient_norm: norm,
            anomalies,
            certificate: Box::new(certificate),
        }))
    }

    /// Counts what is wrong with the combined loss, and says the first of each kind.
    fn anomalies(
        &mut self,
        iteration: usize,
        losses: &[f64],
        sensitivities: &[f64],
    ) -> Vec<String> {
        let mut anomalies = Vec::new();
        let said_once = |anomaly: &str| {
            format!("iteration {iteration}: {anomaly} (said once; all of them are in the log)")
        };
        let mut is_first = self.state.negative.iter().all(|count| *count == 0);
        let names = self.task.names();
        for ((count, name), sensitivity) in self
            .state
            .negative
            .iter_mut()
            .zip(&names)
            .zip(sensitivities)
        {
            if *sensitivity < 0.0 {
                *count += 1;
                let anomaly = negative(name, *sensitivity);
                if is_first {
                    self.progress.message(&said_once(&anomaly));
                    is_first = false;
                }
                anomalies.push(anomaly);
            }
        }
        let first = self
            .state
            .first_reaction
            .get_or_insert_with(|| FirstReaction::new(losses, sensitivities));
        if let Some(anomaly) = first.saturation(sensitivities) {
            if self.state.saturated == 0 {
                self.progress.message(&said_once(&anomaly));
            }
            self.state.saturated += 1;
            anomalies.push(anomaly);
        }
        anomalies
    }

    /// The certificate as logged; its first finding in a run is said.
    fn certificate_record(
        &mut self,
        iteration: usize,
        hypergradient: &Hypergradient,
        audited_error: Option<f64>,
    ) -> CertificateRecord {
        let certificate = &hypergradient.certificate;
        let findings: Vec<String> = certificate
            .findings
            .iter()
            .map(ToString::to_string)
            .collect();
        if let (Some(finding), false) = (findings.first(), self.state.has_warned) {
            self.progress.message(&format!(
                "iteration {iteration}: {finding} (said once; all of them are in the log)"
            ));
            self.state.has_warned = true;
        }
        CertificateRecord {
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
        }
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
        let attention = self.attention(at);
        self.run.append(&Record::Response(ResponseRecord {
            iteration,
            at: at.to_vec(),
            curves,
            attention,
        }))
    }

    /// Attention `[heads][T][T]` of the combiner at these losses; empty if it has none.
    fn attention(&self, losses: &[f64]) -> Vec<Vec<Vec<f64>>> {
        let attention = match self.combiner.valid() {
            Combiner::Transformer(transformer) => transformer.attention(self.host(losses)),
            Combiner::Weights(weights) => weights.attention(self.host(losses)),
            _ => return Vec::new(),
        };
        let [_, n_tasks, _] = attention.dims();
        let rows: Vec<Vec<f64>> = vec_f64(attention.into_data())
            .chunks(n_tasks)
            .map(<[f64]>::to_vec)
            .collect();
        rows.chunks(n_tasks).map(<[Vec<f64>]>::to_vec).collect()
    }

    fn evaluate(&mut self) -> Result<(), TrainError> {
        let model = self.model.valid();
        let taken = self.state.taken;
        for split in &self.settings.train.eval_splits {
            let wrap = |error| TrainError::Task(Box::new(error));
            let workers = self.settings.workers;
            let metrics = self
                .task
                .evaluate_shared(&model, split, workers, &mut |_, _| {})
                .map_err(wrap)?;
            let metrics = metrics_of_first(workers, metrics);
            self.run.append(&Record::Eval(EvalRecord {
                iteration: taken,
                split: split.clone(),
                n_items: self.task.n_items(split).map_err(wrap)?,
                metrics: metrics.clone(),
            }))?;
            let metrics = metrics
                .into_iter()
                .map(|(name, value)| (name, Exact(value)))
                .collect();
            self.state.metrics.insert(split.clone(), metrics);
        }
        self.state.evaluated = taken;
        self.compare_with_best()
    }

    /// Follows the metric that decides which checkpoint is the best, and saves this one if it is.
    fn compare_with_best(&mut self) -> Result<(), TrainError> {
        let train = self.settings.train;
        let Some(metric) = &train.best_metric else {
            return Ok(());
        };
        let measured = self.state.metrics.get(&metric.split);
        let Some(value) = measured
            .and_then(|metrics| metrics.get(&metric.name))
            .copied()
        else {
            let known: Vec<&str> = measured
                .into_iter()
                .flat_map(|metrics| metrics.keys().map(String::as_str))
                .collect();
            return Err(TrainError::NoSuchMetric {
                name: metric.name.clone(),
                split: metric.split.clone(),
                known: known.join(", "),
            });
        };
        let step = self.state.taken;
        let best = self.state.best;
        if metric.improves(value.0, best.map(|best| best.value.0)) {
            self.state.best = Some(Best { step, value });
            self.state.without_improvement = 0;
            return self.save();
        }
        self.state.without_improvement += 1;
        if let (true, Some(best)) = (self.is_over() && step < train.iterations, best) {
            self.progress.message(&format!(
                "ending after {step} of {} steps: {} on {} was best after {}, and {} evaluations \
                 since then have not improved it",
                train.iterations, metric.name, metric.split, best.step, train.patience
            ));
        }
        Ok(())
    }

    /// Saves a checkpoint, unless there is one of this step, and removes those that are not kept.
    fn save(&mut self) -> Result<(), TrainError> {
        let taken = self.state.taken;
        if self.saved != Some(taken) {
            let (state, tensors) = self.snapshot();
            let workers = self.settings.workers;
            if !workers.is_alone() {
                let weights = digest([&tensors.inner].into_iter().chain(&tensors.outer));
                require_alike(workers, "the weights", taken, &weights)?;
            }
            self.run.save(state, self.settings.device_name, &tensors)?;
            self.saved = Some(taken);
        }
        let best = self.state.best.map(|best| best.step);
        if best == Some(taken) {
            self.run.mark_best(taken)?;
        }
        self.run.prune(self.settings.train.keep_last, best)
    }

    /// Everything that the next step depends on, on the host.
    fn snapshot(&self) -> (LoopState, SnapshotTensors) {
        let memory = self.estimator.memory();
        let numbers = self.history.batches().iter().map(|(number, _)| *number);
        let state = LoopState {
            history: numbers.collect(),
            difference_steps: memory
                .difference_steps
                .map(|numbers| numbers.into_iter().map(Exact).collect()),
            seconds: Exact(self.seconds()),
            peak_memory_bytes: self.peak_memory(),
            ..self.state.clone()
        };
        let optimizer = (!self.is_over()).then(|| {
            let mut dict = self.inner_optimizer.state_dict(&self.inner_parameters);
            dict.extend(self.outer_optimizer.state_dict(&self.outer_parameters));
            if let Some(solution) = &memory.last_solution {
                dict.extend(solution_dict(solution, &self.inner_parameters));
            }
            dict
        });
        let tensors = SnapshotTensors {
            inner: self.task.state_dict(&self.model.valid()),
            outer: combiner_dict(&self.combiner),
            optimizer,
        };
        (state, tensors)
    }

    fn finish(mut self, interrupted: bool) -> Result<Outcome<T::Model>, TrainError> {
        self.save()?;
        if !interrupted && self.state.evaluated != self.state.taken {
            self.evaluate()?;
        }
        let names = self.task.names();
        for (name, count) in names.iter().zip(&self.state.negative) {
            if *count > 0 {
                self.progress.message(&format!(
                    "the sensitivity of `{name}` was negative in {count} of {} outer steps",
                    self.state.outer_steps
                ));
            }
        }
        if self.state.saturated > 0 {
            self.progress.message(&format!(
                "the combined loss was saturated in {} of {} outer steps",
                self.state.saturated, self.state.outer_steps
            ));
        }
        let summary = Summary {
            format_version: 1,
            name: self.settings.name.to_owned(),
            combiner: self.settings.combiner.name.name().to_owned(),
            seed: self.settings.seed,
            device: self.settings.device_name.to_owned(),
            primary: names[self.task.primary()].clone(),
            tasks: names,
            iterations: self.state.taken,
            metrics: self
                .state
                .metrics
                .iter()
                .map(|(split, metrics)| (split.clone(), plain_numbers(metrics)))
                .collect(),
            train_seconds: self.state.train_seconds.0,
            total_seconds: self.seconds(),
            peak_memory_bytes: self.peak_memory(),
            worst_hypergradient_error: self.state.worst_error.map(|error| error.0),
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

    /// Seconds since the run started, over all processes that took part.
    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// Largest resident set of any process that took part.
    fn peak_memory(&self) -> Option<u64> {
        self.state.peak_memory_bytes.max(peak_memory_bytes())
    }

    /// Dropout of the batch numbered `part` of an inner step.
    fn inner_pass(&self, iteration: usize, part: usize) -> Pass {
        // Roles 1 and 2 are those of the outer step.
        let role = if part == 0 { 0 } else { part as u64 + 2 };
        self.pass(iteration, role)
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

fn plain_numbers(metrics: &BTreeMap<String, Exact>) -> BTreeMap<String, f64> {
    metrics
        .iter()
        .map(|(name, value)| (name.clone(), value.0))
        .collect()
}

/// Another device rounds in another way.
fn require_device(restored: &Restored, device_name: &str) -> Result<(), TrainError> {
    let before = &restored.header.device;
    if before == device_name {
        return Ok(());
    }
    Err(TrainError::BadCheckpoint {
        path: restored.folder.clone(),
        reason: format!(
            "it was written on device `{before}`, and numbers differ on `{device_name}`; go on \
             with --device {before}"
        ),
    })
}

fn restored_model<T: FineTuneTask>(
    task: &T,
    model: T::Model,
    saved: &SavedTensors,
) -> Result<T::Model, TrainError> {
    let (model, report) = task.load_state_dict(model, saved.tensors());
    if report.is_complete() {
        Ok(model)
    } else {
        Err(TrainError::WeightsDoNotFit {
            path: saved.path().to_owned(),
            report: report.to_string(),
        })
    }
}

/// What the names of the solver's warm start begin with; its place among the entries follows,
/// since sums depend on their order, and then the name of the parameter.
const SOLUTION: &str = "solution.";

fn solution_dict(solution: &ParamVector, parameters: &NamedParameters) -> StateDict {
    let mut dict = StateDict::new();
    for (place, (id, entry)) in solution.entries().enumerate() {
        if let Some(parameter) = parameters.by_id(id) {
            let name = format!("{SOLUTION}{place:08}.{}", parameter.name);
            dict.insert(name, entry.to_data());
        }
    }
    dict
}

fn take_solution(
    saved: &mut SavedTensors,
    parameters: &NamedParameters,
) -> Result<Option<ParamVector>, TrainError> {
    let names = saved.names_below(SOLUTION);
    if names.is_empty() {
        return Ok(None);
    }
    let mut solution = ParamVector::zero();
    for name in names {
        let parameter = name
            .strip_prefix(SOLUTION)
            .and_then(|rest| rest.split_once('.'))
            .and_then(|(_, name)| parameters.by_name(name));
        // What belongs to no parameter is left, and found to be.
        if let Some(parameter) = parameter {
            solution.insert(parameter.id, saved.take_vector(&name, parameter)?);
        }
    }
    Ok(Some(solution))
}
