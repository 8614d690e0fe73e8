//! Estimators of `dF/dphi`.

mod gauss_newton;
mod implicit;
mod optimizer_aware;
mod settings;
mod unrolled;

pub use gauss_newton::GaussNewton;
pub use implicit::Implicit;
pub use optimizer_aware::{OptimizerAware, OptimizerState, UpdateRule};
pub use settings::Settings;
pub use unrolled::Unrolled;

use serde::{Deserialize, Serialize};

use crate::Products;
use crate::certificate::Certificate;
use crate::error::HypergradientError;
use crate::params::ParamVector;
use crate::problem::BilevelProblem;
use crate::products::{scalar_derivative, through_scalars};
use crate::solver::{ConjugateGradient, Dense, Identity, Neumann, Nystrom, Solver};

/// A hypergradient and everything met on the way to it.
#[derive(Debug, Clone)]
pub struct Hypergradient {
    /// `dF/dphi`, as estimated.
    pub gradient: ParamVector,
    /// Value of the outer objective.
    pub outer_objective: f64,
    /// `v = ∂F/∂w`.
    pub outer_gradient: ParamVector,
    /// The vector `u` that the mixed product was taken with; empty for the unrolled estimator,
    /// which takes one per step.
    pub adjoint: ParamVector,
    /// The scalars `l(w)`, `[T]`; empty in problems without.
    pub scalars: Vec<f64>,
    /// `c_t = <∂l_t/∂w, u>`, `[T]`; empty in problems without scalars.
    pub directional: Vec<f64>,
    /// How it was obtained and how good it is.
    pub certificate: Certificate,
}

/// A way to `dF/dphi` at `(inner, outer)`.
pub trait HypergradientEstimator<P: BilevelProblem> {
    /// Name in certificates and configurations.
    fn name(&self) -> &'static str;

    /// The hypergradient; both modules are on an autodiff device and stay as they are.
    ///
    /// An outer gradient of zero gives the direct part, or zeros, without a solve.
    ///
    /// # Errors
    ///
    /// [`HypergradientError`] if something is not finite, if the outer objective reaches no inner
    /// parameter, if a setting is out of range or if the policy refuses the result.
    fn estimate(
        &mut self,
        problem: &P,
        inner: &P::Inner,
        outer: &P::Outer,
    ) -> Result<Hypergradient, HypergradientError>;
}

/// Which estimator, as in a configuration.
///
/// The unrolled and the optimizer-aware estimators want to see the inner steps
/// ([`Estimator::record`], [`Estimator::observe`]).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EstimatorConfig {
    /// [`Implicit`] with [`Identity`].
    #[default]
    Identity,
    /// [`Implicit`] with [`Neumann`].
    Neumann(Neumann),
    /// [`Implicit`] with [`ConjugateGradient`].
    ConjugateGradient(ConjugateGradient),
    /// [`Implicit`] with [`Nystrom`].
    Nystrom(Nystrom),
    /// [`Implicit`] with [`Dense`].
    Dense(Dense),
    /// [`GaussNewton`].
    GaussNewton {
        /// The `lambda` that stands for all curvature but that of the combiner, above 0.
        damping: f64,
    },
    /// [`OptimizerAware`].
    OptimizerAware(UpdateRule),
    /// [`Unrolled`].
    Unrolled {
        /// Inner steps that are remembered, at least 1.
        steps: usize,
        /// Momentum of the inner descent, in `[0, 1)`.
        #[serde(default)]
        momentum: f64,
    },
}

impl EstimatorConfig {
    /// The estimator.
    #[must_use]
    pub fn build(self, settings: Settings) -> Estimator {
        let implicit = |solver| Implicit {
            solver,
            settings: settings.clone(),
        };
        match self {
            Self::Identity => Estimator::Implicit(implicit(Solver::Identity(Identity {}))),
            Self::Neumann(solver) => Estimator::Implicit(implicit(Solver::Neumann(solver))),
            Self::ConjugateGradient(solver) => {
                Estimator::Implicit(implicit(Solver::ConjugateGradient(solver)))
            }
            Self::Nystrom(solver) => Estimator::Implicit(implicit(Solver::Nystrom(solver))),
            Self::Dense(solver) => Estimator::Implicit(implicit(Solver::Dense(solver))),
            Self::GaussNewton { damping } => {
                Estimator::GaussNewton(GaussNewton { damping, settings })
            }
            Self::OptimizerAware(rule) => {
                Estimator::OptimizerAware(OptimizerAware::new(rule, settings))
            }
            Self::Unrolled { steps, momentum } => {
                Estimator::Unrolled(Unrolled::new(steps, settings).with_momentum(momentum))
            }
        }
    }
}

/// One of the estimators of this crate.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Estimator {
    /// See [`Implicit`].
    Implicit(Implicit<Solver>),
    /// See [`GaussNewton`].
    GaussNewton(GaussNewton),
    /// See [`OptimizerAware`].
    OptimizerAware(OptimizerAware),
    /// See [`Unrolled`].
    Unrolled(Unrolled),
}

/// What an estimator carries from one call to the next, beside its settings.
///
/// An estimator that is built again with the same settings and takes this up goes on to the bit as
/// the first one would have. The inner steps that the unrolled and the optimizer-aware estimators
/// were told of are not among it.
#[derive(Debug, Clone, Default)]
pub struct EstimatorMemory {
    /// Where the next solve starts, over the inner parameters; `None` without a warm start.
    pub last_solution: Option<ParamVector>,
    /// What was found out about the steps of differences: of those of scalars, of those for
    /// products with the Hessian and of those for mixed products; empty where nothing was yet.
    pub difference_steps: [Vec<f64>; 3],
}

impl Estimator {
    /// What it would take up in another process.
    #[must_use]
    pub fn memory(&self) -> EstimatorMemory {
        let settings = self.settings();
        let scalars = match &settings.products {
            Products::CentralDifference(difference) => difference.memory(),
            Products::ForwardMode | Products::Reverse => Vec::new(),
        };
        EstimatorMemory {
            last_solution: match self {
                Self::Implicit(implicit) => implicit.solver.last_solution().cloned(),
                _ => None,
            },
            difference_steps: [
                scalars,
                settings.hessian_difference.memory(),
                settings.mixed_difference.memory(),
            ],
        }
    }

    /// Takes up what an estimator with the same settings gave as its [`memory`](Self::memory).
    pub fn remember(&mut self, memory: EstimatorMemory) {
        let [scalars, hessian, mixed] = memory.difference_steps;
        if let Self::Implicit(implicit) = self {
            implicit.solver.set_last_solution(memory.last_solution);
        }
        let settings = self.settings_mut();
        if let Products::CentralDifference(difference) = &mut settings.products {
            difference.remember(&scalars);
        }
        settings.hessian_difference.remember(&hessian);
        settings.mixed_difference.remember(&mixed);
    }

    fn settings(&self) -> &Settings {
        match self {
            Self::Implicit(estimator) => &estimator.settings,
            Self::GaussNewton(estimator) => &estimator.settings,
            Self::OptimizerAware(estimator) => &estimator.settings,
            Self::Unrolled(estimator) => &estimator.settings,
        }
    }

    fn settings_mut(&mut self) -> &mut Settings {
        match self {
            Self::Implicit(estimator) => &mut estimator.settings,
            Self::GaussNewton(estimator) => &mut estimator.settings,
            Self::OptimizerAware(estimator) => &mut estimator.settings,
            Self::Unrolled(estimator) => &mut estimator.settings,
        }
    }

    /// Tells the estimator of an inner step that is about to be taken from `inner` with this
    /// learning rate. Only the unrolled one remembers it.
    pub fn record<M: burn::module::Module>(&mut self, inner: &M, learning_rate: f64) {
        if let Self::Unrolled(unrolled) = self {
            unrolled.record(inner, learning_rate);
        }
    }

    /// Tells the estimator of the gradient that an inner step took. Only the optimizer-aware one
    /// follows it.
    pub fn observe(&mut self, gradient: &ParamVector) {
        if let Self::OptimizerAware(aware) = self {
            aware.observe(gradient);
        }
    }
}

impl<P: BilevelProblem> HypergradientEstimator<P> for Estimator {
    fn name(&self) -> &'static str {
        match self {
            Self::Implicit(estimator) => HypergradientEstimator::<P>::name(estimator),
            Self::GaussNewton(estimator) => HypergradientEstimator::<P>::name(estimator),
            Self::OptimizerAware(estimator) => HypergradientEstimator::<P>::name(estimator),
            Self::Unrolled(estimator) => HypergradientEstimator::<P>::name(estimator),
        }
    }

    fn estimate(
        &mut self,
        problem: &P,
        inner: &P::Inner,
        outer: &P::Outer,
    ) -> Result<Hypergradient, HypergradientError> {
        match self {
            Self::Implicit(estimator) => estimator.estimate(problem, inner, outer),
            Self::GaussNewton(estimator) => estimator.estimate(problem, inner, outer),
            Self::OptimizerAware(estimator) => estimator.estimate(problem, inner, outer),
            Self::Unrolled(estimator) => estimator.estimate(problem, inner, outer),
        }
    }
}

/// Relative error of the mixed product of `hypergradient` against that from `T` reverse passes
/// with the same adjoint, at the modules that it was estimated at; `None` in problems without
/// scalars.
///
/// Costs `T` forward-and-backward passes.
///
/// # Errors
///
/// [`HypergradientError::NonFinite`] if a scalar or a derivative is not finite.
pub fn audit<P: BilevelProblem>(
    problem: &P,
    inner: &P::Inner,
    outer: &P::Outer,
    hypergradient: &Hypergradient,
) -> Result<Option<f64>, HypergradientError> {
    let Some(mediated) = problem.mediation() else {
        return Ok(None);
    };
    let mut products = Products::Reverse;
    let (exact, _) =
        scalar_derivative(mediated, inner, &mut products, None, &hypergradient.adjoint)?;
    let exact = through_scalars(mediated, outer, &exact.scalars, &exact.values);
    let ours = through_scalars(
        mediated,
        outer,
        &hypergradient.scalars,
        &hypergradient.directional,
    );
    let distance = ours.add_scaled(-1.0, &exact).norm();
    Ok(Some(distance / exact.norm().max(f64::MIN_POSITIVE)))
}
