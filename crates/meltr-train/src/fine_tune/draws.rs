//! The draws of an outer step, and the mean of their hypergradients.

use meltr_aid::{
    Estimator, EstimatorMemory, Hypergradient, HypergradientError, HypergradientEstimator,
};
use meltr_core::{Combiner, ConfigError, FineTuneTask, Pass};
use meltr_data::{RandomStream, seed_for};

use super::{Loop, stream};
use crate::config::OuterBatches;
use crate::error::TrainError;
use crate::meta_step::MeltrProblem;
use crate::shared::{own_parts, sum_numbers, sum_vectors, vector_of_first};
use crate::through::StepTaken;

/// Where the hypergradients of all draws of an outer step are taken.
pub(super) struct OuterPoint<M> {
    /// The backbone after the inner step.
    model: M,
    pub(super) combiner: Combiner,
    /// The inner step, if hypergradients go through it.
    taken: Option<StepTaken<M>>,
}

impl<M> OuterPoint<M> {
    /// The backbone where the losses and their derivatives are taken.
    pub(super) fn inner(&self) -> &M {
        self.taken
            .as_ref()
            .map_or(&self.model, |taken| &taken.before)
    }
}

/// One draw of an outer step.
pub(super) struct Drawn<B> {
    outer_batch: B,
    pub(super) inner_batch: B,
    outer_pass: Pass,
    inner_pass: Pass,
}

impl<'a, T: FineTuneTask> Loop<'a, T> {
    /// Where an outer step takes its hypergradients, after the inner step `taken` if they go
    /// through it.
    pub(super) fn outer_point(&self, taken: Option<StepTaken<T::Model>>) -> OuterPoint<T::Model> {
        OuterPoint {
            model: self.on_tape(self.model.clone()),
            combiner: self.on_tape(self.combiner.clone()),
            taken: taken.map(|taken| StepTaken {
                before: self.on_tape(taken.before),
                ..taken
            }),
        }
    }

    /// Number of the draw that this process takes first. A single one is taken by all of them.
    pub(super) fn first_draw(&self) -> usize {
        match self.settings.outer.accumulate {
            1 => 0,
            _ => self.settings.workers.rank(),
        }
    }

    /// The batches of a draw, with their dropout.
    ///
    /// That of the outer objective is a held-out one if the settings say so; that of the inner one is
    /// `current`, as the inner step saw it, if the hypergradient goes through that step. All others
    /// are from the history.
    pub(super) fn drawn(
        &self,
        iteration: usize,
        draw: usize,
        current: &(usize, T::Batch),
        point: &OuterPoint<T::Model>,
    ) -> Result<Drawn<T::Batch>, TrainError> {
        // Role 1 is what leaves the history.
        let role = if draw == 0 { 0 } else { draw as u64 + 1 };
        let place = [stream::DRAW, iteration as u64, role];
        let mut draws = RandomStream::new(seed_for(self.settings.seed, &place));
        let [outer, inner] = [(); 2].map(|()| self.history.draw(current, &mut draws).1);
        let (inner_batch, inner_pass) = if point.taken.is_some() {
            let last = self.settings.train.accumulate - 1;
            (current.1.clone(), self.inner_pass(iteration, last))
        } else {
            (inner, self.draw_pass(iteration, 2, draw))
        };
        Ok(Drawn {
            outer_batch: match self.settings.outer.batches {
                OuterBatches::History => outer,
                OuterBatches::HeldOut | OuterBatches::HeldOutIfAny => {
                    self.held_out_batch(draw)?.unwrap_or(outer)
                }
            },
            inner_batch,
            outer_pass: self.draw_pass(iteration, 1, draw),
            inner_pass,
        })
    }

    /// Whether outer steps have the batches that the settings ask for; says which those are where
    /// it depends on the task.
    pub(super) fn require_outer_batches(&mut self) -> Result<(), TrainError> {
        let batches = self.settings.outer.batches;
        if !self.combiner.is_learned() || batches == OuterBatches::History {
            return Ok(());
        }
        let is_held_out = self.held_out_batch(0)?.is_some();
        if is_held_out {
            return Ok(());
        }
        if batches == OuterBatches::HeldOut {
            return Err(TrainError::Config(ConfigError::Unsupported {
                key: "batches",
                value: "held_out",
                reason: "no item is held out for outer steps; name splits that are not trained on \
                         in `task.outer_splits`, or set it to `history`",
            }));
        }
        self.progress.message(
            "no `task.outer_splits`: outer steps take past training batches, on which the primary \
             loss outweighs the others",
        );
        Ok(())
    }

    /// The held-out batch of a draw of the next outer step; `None` if nothing is held out.
    fn held_out_batch(&self, draw: usize) -> Result<Option<T::Batch>, TrainError> {
        let number = self.state.outer_steps * self.settings.outer.accumulate + draw;
        let seed = seed_for(self.settings.seed, &[stream::OUTER_BATCH]);
        self.task
            .outer_batch(number, seed)
            .map_err(|error| TrainError::Task(Box::new(error)))
    }

    /// Dropout of a draw.
    fn draw_pass(&self, iteration: usize, role: u64, draw: usize) -> Pass {
        match self.pass(iteration, role) {
            Pass::Stochastic { seed } if draw > 0 => Pass::Stochastic {
                seed: seed_for(seed, &[draw as u64]),
            },
            pass => pass,
        }
    }

    /// The bilevel problem of a draw.
    pub(super) fn problem<'b>(&self, drawn: &'b Drawn<T::Batch>) -> MeltrProblem<'b, T>
    where
        'a: 'b,
    {
        MeltrProblem {
            task: self.task,
            outer_batch: &drawn.outer_batch,
            inner_batch: &drawn.inner_batch,
            outer_pass: drawn.outer_pass,
            inner_pass: drawn.inner_pass,
            regularizer: self.settings.outer.regularizer,
        }
    }

    /// The hypergradient of a draw.
    pub(super) fn estimate_draw(
        &mut self,
        iteration: usize,
        drawn: &Drawn<T::Batch>,
        point: &OuterPoint<T::Model>,
    ) -> Result<Hypergradient, TrainError> {
        let problem = self.problem(drawn);
        let OuterPoint {
            model,
            combiner,
            taken,
        } = point;
        let found = match (&mut self.estimator, taken) {
            (Estimator::OptimizerAware(aware), Some(taken)) => {
                aware.state = taken.state.clone();
                aware.rate_factors = taken.rate_factors.iter().copied().collect();
                aware.through_step(&problem, (&taken.before, model), &taken.gradient, combiner)
            }
            (estimator, _) => estimator.estimate(&problem, model, combiner),
        };
        // Several draws share nothing, since other processes may take some of them.
        if self.settings.outer.accumulate > 1 {
            self.estimator.remember(EstimatorMemory::default());
        }
        found.map_err(|source| no_hypergradient(self.task, iteration, drawn, source))
    }

    /// Puts the mean hypergradient of all draws of an outer step in the place of that of the first
    /// draw of this process, and the passes of all in the place of its passes.
    pub(super) fn average_draws(
        &mut self,
        iteration: usize,
        current: &(usize, T::Batch),
        point: &OuterPoint<T::Model>,
        first: &mut Hypergradient,
    ) -> Result<(), TrainError> {
        let workers = self.settings.workers;
        let n_draws = self.settings.outer.accumulate;
        let own = std::mem::take(&mut first.gradient);
        if n_draws == 1 {
            first.gradient = vector_of_first(workers, &self.outer_parameters, own);
            return Ok(());
        }
        let mut passes = passes_of(first);
        let mut sum = sum_vectors(workers, &self.outer_parameters, None, own);
        for draw in own_parts(workers, n_draws).skip(1) {
            let drawn = self.drawn(iteration, draw, current, point)?;
            let found = self.estimate_draw(iteration, &drawn, point)?;
            for (sum, more) in passes.iter_mut().zip(passes_of(&found)) {
                *sum += more;
            }
            sum = sum_vectors(workers, &self.outer_parameters, Some(sum), found.gradient);
        }
        first.gradient = sum.scale(1.0 / n_draws as f64);
        if let [forward, backward] = sum_numbers(workers, None, &passes)[..] {
            first.certificate.forward_passes = forward as usize;
            first.certificate.backward_passes = backward as usize;
        }
        Ok(())
    }
}

/// Forward and backward passes.
fn passes_of(hypergradient: &Hypergradient) -> [f64; 2] {
    let certificate = &hypergradient.certificate;
    [certificate.forward_passes, certificate.backward_passes].map(|passes| passes as f64)
}

/// The error of a draw that gave no hypergradient, with the items of its batches.
pub(super) fn no_hypergradient<T: FineTuneTask>(
    task: &T,
    iteration: usize,
    drawn: &Drawn<T::Batch>,
    source: HypergradientError,
) -> TrainError {
    TrainError::Hypergradient {
        iteration,
        source,
        items: [&drawn.outer_batch, &drawn.inner_batch]
            .map(|batch| task.batch_items(batch).join(", "))
            .join("; "),
    }
}
