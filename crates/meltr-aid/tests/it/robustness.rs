//! What happens where something is unusual.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use meltr_aid::{
    Action, BilevelProblem, ConjugateGradient, Dense, Finding, Hypergradient, HypergradientError,
    HypergradientEstimator, Identity, Implicit, Neumann, Policy, Recorded, Recording, Settings,
    Solver, Verdict,
};

fn tape(values: &[f64], dtype: DType) -> Tensor<1> {
    let device = Device::default().autodiff();
    let data = TensorData::new(values.to_vec(), [values.len()]).convert_dtype(dtype);
    Tensor::from_data(data, (&device, dtype))
}

/// Two vectors, so that one can be frozen or left out.
#[derive(Module, Debug)]
struct Pair {
    a: Param<Tensor<1>>,
    b: Param<Tensor<1>>,
}

fn pair(a: &[f64], b: &[f64]) -> Pair {
    Pair {
        a: Param::from_tensor(tape(a, DType::F64)),
        b: Param::from_tensor(tape(b, DType::F64)),
    }
}

/// An inner and an outer objective as closures.
struct Given<F, G>(F, G);

impl<F, G> BilevelProblem for Given<F, G>
where
    F: Fn(&Pair, &Pair) -> Tensor<1>,
    G: Fn(&Pair, &Pair) -> Tensor<1>,
{
    type Inner = Pair;
    type Outer = Pair;

    fn inner_objective(&self, inner: &Pair, outer: &Pair) -> Tensor<1> {
        (self.0)(inner, outer)
    }

    fn outer_objective(&self, inner: &Pair, outer: &Pair) -> Tensor<1> {
        (self.1)(inner, outer)
    }
}

fn solvers() -> Vec<Solver> {
    vec![
        Solver::Identity(Identity {}),
        Solver::Neumann(Neumann::new(0.3, 200)),
        Solver::ConjugateGradient(ConjugateGradient::new(20)),
        Solver::Dense(Dense::default()),
    ]
}

fn close(ours: &[f64], expected: &[f64]) {
    assert_eq!(ours.len(), expected.len(), "{ours:?} {expected:?}");
    for (ours, expected) in ours.iter().zip(expected) {
        assert!((ours - expected).abs() < 1e-6, "{ours} {expected}");
    }
}

#[test]
fn scalar_parameters_get_their_gradient() {
    // f = a²/2 · 2 - a phi, w* = phi / 2, F = a: dF/dphi = 1/2. Some libraries give 0 here.
    let problem = Given(
        |w: &Pair, phi: &Pair| w.a.val().square() - w.a.val() * phi.a.val(),
        |w: &Pair, _: &Pair| w.a.val(),
    );
    let (inner, outer) = (pair(&[0.4], &[0.0]), pair(&[0.8], &[0.0]));
    for solver in solvers().into_iter().skip(1).take(2) {
        let found = Implicit::new(solver)
            .estimate(&problem, &inner, &outer)
            .unwrap();
        close(&found.gradient.to_vec(), &[0.5]);
    }
}

#[test]
fn parameters_that_no_loss_reaches_stay_out_of_it() {
    // `b` appears nowhere; of the outer parameters neither.
    let problem = Given(
        |w: &Pair, phi: &Pair| (w.a.val().square() - w.a.val() * phi.a.val()).sum(),
        |w: &Pair, _: &Pair| w.a.val().sum(),
    );
    let (inner, outer) = (pair(&[0.4, 0.1], &[7.0]), pair(&[0.8, 0.2], &[7.0]));
    for solver in solvers().into_iter().skip(1).take(2) {
        let found = Implicit::new(solver)
            .estimate(&problem, &inner, &outer)
            .unwrap();
        close(&found.gradient.to_vec(), &[0.5, 0.5]);
        assert!(found.gradient.get::<1>(outer.b.id, [1]).is_none());
    }
    // Written out, the Hessian has a row of zeros: that is said, not hidden.
    let error = Implicit::new(Dense::default())
        .estimate(&problem, &inner, &outer)
        .unwrap_err();
    assert!(matches!(error, HypergradientError::Singular { .. }));
}

#[test]
fn an_outer_objective_that_reaches_a_part_only_is_solved_over_all() {
    // f couples a and b; F sees a alone. H = [[2, 1], [1, 2]], H⁻¹ (1, 0) = (2, -1) / 3.
    let problem = Given(
        |w: &Pair, phi: &Pair| {
            let (a, b) = (w.a.val(), w.b.val());
            a.clone().square() + b.clone().square() + a * b.clone() - b * phi.a.val()
        },
        |w: &Pair, _: &Pair| w.a.val(),
    );
    let (inner, outer) = (pair(&[0.3], &[0.1]), pair(&[1.0], &[0.0]));
    for solver in solvers().into_iter().skip(1) {
        let found = Implicit::new(solver)
            .estimate(&problem, &inner, &outer)
            .unwrap();
        close(&found.gradient.to_vec(), &[-1.0 / 3.0]);
    }
}

#[test]
fn frozen_parameters_are_constants() {
    let problem = Given(
        |w: &Pair, phi: &Pair| {
            let (a, b) = (w.a.val(), w.b.val());
            a.clone().square() * b.clone() - a * phi.a.val() + b.square()
        },
        |w: &Pair, _: &Pair| w.a.val() + w.b.val(),
    );
    let mut inner = pair(&[0.3], &[2.0]);
    inner.b = inner.b.set_require_grad(false);
    let outer = pair(&[1.0], &[0.0]);
    for solver in solvers().into_iter().skip(1) {
        let found = Implicit::new(solver)
            .estimate(&problem, &inner, &outer)
            .unwrap();
        // f_aa = 2 b = 4, f_a,phi = -1.
        close(&found.gradient.to_vec(), &[0.25]);
        assert!(found.adjoint.get::<1>(inner.b.id, [1]).is_none());
    }
}

#[test]
fn operations_without_a_second_derivative_are_differenced_like_any_other() {
    // relu(a)² has a first derivative everywhere and second derivatives 2 and 0.
    let problem = Given(
        |w: &Pair, phi: &Pair| {
            let a = w.a.val();
            let bent = burn::tensor::activation::relu(a.clone()).square();
            (bent + a.clone().square() * 0.5 - a * phi.a.val()).sum()
        },
        |w: &Pair, _: &Pair| w.a.val().sum(),
    );
    let (inner, outer) = (pair(&[0.4, -0.5], &[]), pair(&[1.0, 1.0], &[]));
    for solver in [
        Solver::Neumann(Neumann::new(0.3, 200)),
        Solver::ConjugateGradient(ConjugateGradient::new(20)),
    ] {
        let found = Implicit::new(solver)
            .estimate(&problem, &inner, &outer)
            .unwrap();
        close(&found.gradient.to_vec(), &[1.0 / 3.0, 1.0]);
    }
}

#[test]
fn a_loss_that_is_not_finite_is_named() {
    let bad_outer = Given(
        |w: &Pair, _: &Pair| w.a.val().square(),
        |w: &Pair, _: &Pair| w.a.val().log(),
    );
    let bad_inner = Given(
        |w: &Pair, phi: &Pair| w.a.val().log() * phi.a.val(),
        |w: &Pair, _: &Pair| w.a.val(),
    );
    let (inner, outer) = (pair(&[-0.4], &[0.0]), pair(&[0.8], &[0.0]));
    let named = |error: HypergradientError, expected: &str| match error {
        HypergradientError::NonFinite { what, .. } => assert_eq!(what, expected),
        other => panic!("{other}"),
    };
    for solver in solvers() {
        let mut estimator = Implicit::new(solver);
        let error = estimator.estimate(&bad_outer, &inner, &outer).unwrap_err();
        named(error, "the outer objective");
        let error = estimator.estimate(&bad_inner, &inner, &outer).unwrap_err();
        named(error, "the inner objective");
    }
}

#[test]
fn a_zero_outer_gradient_gives_the_direct_part_without_a_solve() {
    let problem = Given(
        |w: &Pair, phi: &Pair| w.a.val().square() - w.a.val() * phi.a.val(),
        |w: &Pair, phi: &Pair| w.a.val() * 0.0 + phi.a.val() * 3.0,
    );
    let (inner, outer) = (pair(&[0.4], &[0.0]), pair(&[0.8], &[0.0]));
    for solver in solvers() {
        let found = Implicit::new(solver)
            .estimate(&problem, &inner, &outer)
            .unwrap();
        close(&found.gradient.to_vec(), &[3.0]);
        assert_eq!(found.certificate.hessian_products, 0);
        assert_eq!(found.certificate.relative_residual, Some(0.0));
    }
}

/// `H = diag(2, 2 curvature)` on `a`.
fn curved(curvature: f64) -> impl BilevelProblem<Inner = Pair, Outer = Pair> {
    Given(
        move |w: &Pair, phi: &Pair| {
            let a = w.a.val();
            let weights = tape(&[1.0, curvature], DType::F64);
            (a.clone().square() * weights - a * phi.a.val()).sum()
        },
        |w: &Pair, _: &Pair| (w.a.val() * tape(&[1.0, 2.0], DType::F64)).sum(),
    )
}

fn with_policy(
    problem: &impl BilevelProblem<Inner = Pair, Outer = Pair>,
    policy: Policy,
) -> Result<Hypergradient, HypergradientError> {
    let mut estimator = Implicit {
        solver: ConjugateGradient::new(10),
        settings: Settings {
            policy,
            ..Settings::default()
        },
    };
    estimator.estimate(problem, &pair(&[0.2, 0.1], &[]), &pair(&[0.4, 0.3], &[]))
}

#[test]
fn an_indefinite_hessian_is_reported_or_refused_or_replaced_as_the_policy_says() {
    let problem = curved(-3.0);
    let act = |on_indefinite| {
        with_policy(
            &problem,
            Policy {
                on_indefinite,
                ..Policy::default()
            },
        )
    };
    let warned = act(Action::Warn).unwrap().certificate;
    assert_eq!(warned.verdict, Verdict::Warned);
    assert!(matches!(warned.findings[..], [Finding::Indefinite { .. }]));
    assert!(warned.smallest_curvature.unwrap() < 0.0);
    let accepted = act(Action::Accept).unwrap().certificate;
    assert_eq!(accepted.verdict, Verdict::Accepted);
    let error = act(Action::Stop).unwrap_err();
    assert!(
        error.to_string().contains("not positive definite"),
        "{error}"
    );
    // The identity: mixed is -1, so the hypergradient is v.
    let replaced = act(Action::FallBack).unwrap();
    assert_eq!(replaced.certificate.verdict, Verdict::FellBack);
    close(&replaced.gradient.to_vec(), &[1.0, 2.0]);
}

#[test]
fn a_singular_hessian_needs_damping_and_says_so() {
    let problem = curved(0.0);
    let found = with_policy(&problem, Policy::default()).unwrap();
    assert!(found.gradient.norm().is_finite());
    assert!(matches!(
        found.certificate.findings[..],
        [Finding::Indefinite { .. }]
    ));
    let (inner, outer) = (pair(&[0.2, 0.1], &[]), pair(&[0.4, 0.3], &[]));
    let damped = Implicit::new(ConjugateGradient::new(10).with_damping(0.5))
        .estimate(&problem, &inner, &outer)
        .unwrap();
    close(&damped.gradient.to_vec(), &[1.0 / 2.5, 2.0 / 0.5]);
    assert!(damped.certificate.findings.is_empty());
}

#[test]
fn a_residual_beyond_the_limit_is_found() {
    let problem = curved(50.0);
    let mut estimator = Implicit {
        solver: ConjugateGradient::new(1),
        settings: Settings {
            policy: Policy {
                max_residual: Some(1e-3),
                on_residual: Action::Stop,
                ..Policy::default()
            },
            ..Settings::default()
        },
    };
    let (inner, outer) = (pair(&[0.2, 0.1], &[]), pair(&[0.4, 0.3], &[]));
    let error = estimator.estimate(&problem, &inner, &outer).unwrap_err();
    assert!(matches!(error, HypergradientError::Refused { .. }));
    estimator.solver.max_steps = 2;
    let found = estimator.estimate(&problem, &inner, &outer).unwrap();
    assert!(found.certificate.relative_residual.unwrap() < 1e-8);
}

#[test]
fn settings_out_of_range_are_errors() {
    let problem = curved(1.0);
    let (inner, outer) = (pair(&[0.2, 0.1], &[]), pair(&[0.4, 0.3], &[]));
    let bad = [
        Solver::Neumann(Neumann::new(0.0, 3)),
        Solver::ConjugateGradient(ConjugateGradient::new(0)),
        Solver::ConjugateGradient(ConjugateGradient::new(1).with_damping(-1.0)),
    ];
    for solver in bad {
        let error = Implicit::new(solver)
            .estimate(&problem, &inner, &outer)
            .unwrap_err();
        assert!(
            matches!(error, HypergradientError::Setting { .. }),
            "{error}"
        );
    }
}

#[test]
fn the_error_of_a_difference_is_estimated_in_every_dtype() {
    // f = sum exp(a) - a phi: the Hessian is diag(exp a), the mixed derivative -1.
    let at = [0.3, -0.4, 1.2];
    for (dtype, limit) in [(DType::F64, 1e-8), (DType::F32, 2e-3), (DType::BF16, 0.3)] {
        let module = |values: &[f64]| Pair {
            a: Param::from_tensor(tape(values, dtype)),
            b: Param::from_tensor(tape(&[0.0], dtype)),
        };
        let problem = Given(
            |w: &Pair, phi: &Pair| (w.a.val().exp() - w.a.val() * phi.a.val()).sum(),
            |w: &Pair, _: &Pair| w.a.val().sum(),
        );
        let found = Implicit::new(ConjugateGradient::new(3))
            .estimate(&problem, &module(&at), &module(&[1.0, 1.0, 1.0]))
            .unwrap();
        let expected = at.map(|a: f64| (-a).exp());
        let size: f64 = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
        let ours = found.gradient.to_vec();
        let error: f64 = ours
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).powi(2))
            .sum();
        let error = error.sqrt() / size;
        let estimated = found.certificate.hessian_error.unwrap();
        println!("{dtype:?}: error {error:.1e}, estimated for one product {estimated:.1e}");
        assert!(error < limit, "{dtype:?}: {error}");
        assert!(
            estimated > 0.0 && estimated < limit,
            "{dtype:?}: {estimated}"
        );
    }
}

/// A problem of closures with a recorded form of its inner objective.
struct Written<F, R>(F, R);

impl<F, R> BilevelProblem for Written<F, R>
where
    F: Fn(&Pair, &Pair) -> Tensor<1>,
    R: Fn(&Recording, &Pair, &Pair) -> Recorded,
{
    type Inner = Pair;
    type Outer = Pair;

    fn inner_objective(&self, inner: &Pair, outer: &Pair) -> Tensor<1> {
        (self.0)(inner, outer)
    }

    fn outer_objective(&self, inner: &Pair, _: &Pair) -> Tensor<1> {
        (inner.a.val() - 1.0).square().sum()
    }

    fn recorded_inner_objective(
        &self,
        recording: &Recording,
        inner: &Pair,
        outer: &Pair,
    ) -> Option<Recorded> {
        Some((self.1)(recording, inner, outer))
    }
}

fn bent(inner: &Pair, outer: &Pair) -> Tensor<1> {
    let (w, phi) = (inner.a.val(), outer.a.val());
    w.clone().exp().sum() + (w.square() * phi.exp()).sum()
}

fn recorded_bent(recording: &Recording, inner: &Pair, outer: &Pair) -> Recorded {
    let w = recording.parameter(&inner.a);
    let phi = recording.parameter(&outer.a);
    w.clone().exp().sum() + (w.square() * phi.exp()).sum()
}

#[test]
fn a_record_gives_what_differences_give_whatever_the_solver() {
    let (inner, outer) = (pair(&[0.3, -0.8], &[0.0]), pair(&[0.1, 0.4], &[0.0]));
    // To a dense matrix the parameter that no loss reaches is a singularity.
    for solver in solvers().into_iter().take(3) {
        let with = Implicit::new(solver.clone())
            .estimate(&Written(bent, recorded_bent), &inner, &outer)
            .unwrap();
        let without = Given(bent, |w: &Pair, _: &Pair| (w.a.val() - 1.0).square().sum());
        let without = Implicit::new(solver)
            .estimate(&without, &inner, &outer)
            .unwrap();
        close(&with.gradient.to_vec(), &without.gradient.to_vec());
        assert_eq!(with.certificate.product, "recorded");
        if with.certificate.hessian_products > 0 {
            let name = with.certificate.hessian_product.as_deref();
            assert_eq!(name, Some("recorded"));
        }
    }
}

#[test]
fn a_record_of_another_objective_is_refused() {
    let (inner, outer) = (pair(&[0.3], &[0.0]), pair(&[0.1], &[0.0]));
    let problem = Written(bent, |recording: &Recording, inner: &Pair, outer: &Pair| {
        recorded_bent(recording, inner, outer).scale(1.001)
    });
    let error = Implicit::new(ConjugateGradient::new(3))
        .estimate(&problem, &inner, &outer)
        .unwrap_err();
    assert!(
        matches!(error, HypergradientError::AnotherObjective { .. }),
        "{error}"
    );
    // One that is not finite is that, and not another one.
    let inner = pair(&[f64::NAN], &[0.0]);
    let problem = Written(bent, recorded_bent);
    let error = Implicit::new(ConjugateGradient::new(3))
        .estimate(&problem, &inner, &outer)
        .unwrap_err();
    assert!(
        matches!(error, HypergradientError::NonFinite { .. }),
        "{error}"
    );
}

#[test]
fn a_record_without_parameters_bends_nothing() {
    // The outer parameters do not reach the inner objective, and part of the inner ones does not.
    let (inner, outer) = (pair(&[0.3], &[2.0]), pair(&[0.1], &[0.0]));
    let problem = Written(
        |w: &Pair, _: &Pair| w.a.val().square().sum(),
        |recording: &Recording, w: &Pair, _: &Pair| recording.parameter(&w.a).square().sum(),
    );
    let found = Implicit::new(ConjugateGradient::new(3))
        .estimate(&problem, &inner, &outer)
        .unwrap();
    assert_eq!(found.gradient.norm(), 0.0);
    // H = 2, v = 2 (w - 1).
    close(&found.adjoint.to_vec(), &[-0.7]);
}

#[test]
fn a_record_of_modules_that_share_parameters_is_refused() {
    let inner = pair(&[0.3], &[0.0]);
    let error = Implicit::new(ConjugateGradient::new(3))
        .estimate(&Written(bent, recorded_bent), &inner, &inner.clone())
        .unwrap_err();
    assert_eq!(error, HypergradientError::SharedParameters);
}
