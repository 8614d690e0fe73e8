//! What decides about the weights of the losses: a rule, or a combiner that is learned.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use meltr_aid::{
    Certificate, Estimator, HypergradientEstimator, OptimizerAware, ParamVector, ScalarMediated,
    shifted,
};
use meltr_core::weighting::{Gramian, LossWeighting, Needs, WeightingMethod};
use meltr_core::{AutoLambda, LossCombiner, combine, sensitivities, vec_f64};
use meltr_train::{OuterConfig, OuterSteps};
use serde::Serialize;

use super::problem::{Mlp, N_TASKS, OuterStep, Problem};
use super::{INNER_LEARNING_RATE, OUTER_EVERY};
use crate::error::CliError;

/// Passes of the backbone.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Passes {
    /// Forward passes without a tape; one that carries tangents counts as three.
    pub(super) forward: usize,
    /// Forward and backward passes.
    pub(super) backward: usize,
}

impl Passes {
    pub(super) fn add(&mut self, other: Self) {
        self.forward += other.forward;
        self.backward += other.backward;
    }
}

/// What an inner step descends along.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) gradient: ParamVector,
    /// Weights or sensitivities, `[T]`.
    pub(super) weights: Vec<f64>,
    pub(super) passes: Passes,
}

/// Gives the gradient of each inner step, and learns from it afterwards.
pub(super) trait Rule {
    /// The gradient at `model`, which is on the tape.
    fn update(&mut self, problem: &Problem, model: &Mlp) -> Result<Update, CliError>;

    /// Called with the model that inner step number `step` has led to.
    fn after(&mut self, problem: &Problem, model: &Mlp, step: usize) -> Result<Passes, CliError>;
}

impl Rule for WeightingMethod {
    fn update(&mut self, problem: &Problem, model: &Mlp) -> Result<Update, CliError> {
        let losses = problem.losses(model);
        let values = vec_f64(losses.clone().inner().into_data());
        if self.needs() != Needs::Gramian {
            let weights = self.weights(&values, None).map_err(CliError::failed)?;
            let data = TensorData::new(weights.clone(), [N_TASKS]).convert_dtype(losses.dtype());
            let factors = Tensor::<1>::from_data(data, (&losses.device(), losses.dtype()));
            let mut gradients = (losses * factors).sum().backward();
            return Ok(Update {
                gradient: ParamVector::from_gradients(&mut gradients, model),
                weights,
                passes: Passes {
                    forward: 0,
                    backward: 1,
                },
            });
        }
        let gradients: Vec<ParamVector> = (0..N_TASKS)
            .map(|task| {
                // A backward pass consumes the tape.
                let loss = problem.losses(model).narrow(0, task, 1);
                ParamVector::from_gradients(&mut loss.backward(), model)
            })
            .collect();
        let mut products = vec![0.0; N_TASKS * N_TASKS];
        for row in 0..N_TASKS {
            for column in 0..=row {
                let product = gradients[row].dot(&gradients[column]);
                products[row * N_TASKS + column] = product;
                products[column * N_TASKS + row] = product;
            }
        }
        let gramian = Gramian::from_products(N_TASKS, &products).map_err(CliError::failed)?;
        let weights = self
            .weights(&values, Some(&gramian))
            .map_err(CliError::failed)?;
        let gradient = gradients
            .iter()
            .zip(&weights)
            .fold(ParamVector::zero(), |sum, (gradient, weight)| {
                sum.add_scaled(*weight, gradient)
            });
        Ok(Update {
            gradient,
            weights,
            passes: Passes {
                forward: 0,
                backward: N_TASKS,
            },
        })
    }

    fn after(&mut self, problem: &Problem, model: &Mlp, _step: usize) -> Result<Passes, CliError> {
        let mut passes = Passes::default();
        if self.needs() == Needs::LossesBeforeAndAfter {
            let losses = vec_f64(problem.plain_losses(&model.valid()).into_data());
            self.observe(&losses).map_err(CliError::failed)?;
            passes.forward = 1;
        }
        // All items are in every batch: a step is an epoch.
        self.end_epoch().map_err(CliError::failed)?;
        Ok(passes)
    }
}

/// Where the hypergradient of a learned combiner comes from.
pub(super) enum Hypergradients {
    /// At the model itself.
    Estimated(Box<Estimator>),
    /// As in Auto-Lambda, from the outer gradient after a virtual step of plain descent.
    OneStepAhead,
    /// Through the inner step that was just taken, as in `meltr`.
    ThroughStep(Box<OptimizerAware>),
}

/// What a hypergradient took.
fn passes_of(certificate: &Certificate) -> Passes {
    Passes {
        forward: certificate.forward_passes,
        backward: certificate.backward_passes,
    }
}

/// A combiner that is learned by outer steps.
pub(super) struct Learned<C> {
    combiner: C,
    optimizer: OuterSteps,
    /// Largest norm of a hypergradient; a longer one is cut.
    max_norm: f64,
    hypergradients: Hypergradients,
    /// The model before the inner step under way, and the gradient that it is taken along.
    step: Option<(Mlp, ParamVector)>,
    /// Applied to the combiner after each outer step.
    project: fn(C) -> C,
}

impl<C: LossCombiner + Module> Learned<C> {
    /// `combiner` has no tape yet.
    pub(super) fn new(combiner: C, outer: &OuterConfig, hypergradients: Hypergradients) -> Self {
        Self {
            combiner: combiner.train(),
            optimizer: OuterSteps::new(outer),
            max_norm: outer.max_grad_norm,
            hypergradients,
            step: None,
            project: |combiner| combiner,
        }
    }

    fn hypergradient(
        &mut self,
        problem: &Problem,
        model: &Mlp,
    ) -> Result<(ParamVector, Passes), CliError> {
        let step = OuterStep::<C>::new(problem);
        match &mut self.hypergradients {
            Hypergradients::Estimated(estimator) => {
                let found = estimator
                    .estimate(&step, model, &self.combiner)
                    .map_err(CliError::failed)?;
                Ok((found.gradient, passes_of(&found.certificate)))
            }
            Hypergradients::OneStepAhead => {
                let frozen = self.combiner.clone().no_grad();
                let mut gradients = combine(&frozen, problem.losses(model)).backward();
                let descent = ParamVector::from_gradients(&mut gradients, model);
                let ahead = shifted(model, -INNER_LEARNING_RATE, &descent).train();
                let mut gradients = problem.held_out_loss(&ahead).backward();
                let outer = ParamVector::from_gradients(&mut gradients, &ahead);
                let plain = model.valid();
                let (losses, along) = problem.losses_along(&plain, &outer.as_module(&plain));
                let mixed = step.mixed_scalar_product(
                    &self.combiner,
                    Tensor::from_inner(losses),
                    Tensor::from_inner(along),
                );
                let passes = Passes {
                    forward: 3,
                    backward: 2,
                };
                Ok((mixed.scale(-INNER_LEARNING_RATE), passes))
            }
            Hypergradients::ThroughStep(aware) => {
                let Some((before, gradient)) = &self.step else {
                    return Err(CliError::Failed("no inner step has been taken".to_owned()));
                };
                let found = aware
                    .through_step(&step, (before, model), gradient, &self.combiner)
                    .map_err(CliError::failed)?;
                Ok((found.gradient, passes_of(&found.certificate)))
            }
        }
    }
}

impl Learned<AutoLambda> {
    /// Auto-Lambda: one step ahead, weights cut at 0.
    pub(super) fn auto_lambda(combiner: AutoLambda, outer: &OuterConfig) -> Self {
        Self {
            project: AutoLambda::clamped,
            ..Self::new(combiner, outer, Hypergradients::OneStepAhead)
        }
    }
}

impl<C: LossCombiner + Module> Rule for Learned<C> {
    fn update(&mut self, problem: &Problem, model: &Mlp) -> Result<Update, CliError> {
        let losses = problem.losses(model);
        let weights = sensitivities(&self.combiner.valid(), losses.clone().inner());
        let frozen = self.combiner.clone().no_grad();
        let mut gradients = combine(&frozen, losses).backward();
        let gradient = ParamVector::from_gradients(&mut gradients, model);
        self.step = Some((model.clone(), gradient.clone()));
        Ok(Update {
            gradient,
            weights,
            passes: Passes {
                forward: 0,
                backward: 1,
            },
        })
    }

    fn after(&mut self, problem: &Problem, model: &Mlp, step: usize) -> Result<Passes, CliError> {
        let passes = if step.is_multiple_of(OUTER_EVERY) {
            self.outer_step(problem, model, step)?
        } else {
            Passes::default()
        };
        if let (Hypergradients::ThroughStep(aware), Some((_, gradient))) =
            (&mut self.hypergradients, &self.step)
        {
            aware.observe(gradient);
        }
        Ok(passes)
    }
}

impl<C: LossCombiner + Module> Learned<C> {
    fn outer_step(
        &mut self,
        problem: &Problem,
        model: &Mlp,
        step: usize,
    ) -> Result<Passes, CliError> {
        let (hypergradient, passes) = self.hypergradient(problem, model)?;
        let norm = hypergradient.norm();
        if !norm.is_finite() {
            return Err(CliError::Failed(format!(
                "step {step}: the norm of the hypergradient is {norm}; it has to be finite"
            )));
        }
        let clip = (self.max_norm / (norm + 1e-6)).min(1.0);
        let stepped = self
            .optimizer
            .step(self.combiner.clone(), &hypergradient.scale(clip));
        self.combiner = (self.project)(stepped);
        Ok(passes)
    }
}
