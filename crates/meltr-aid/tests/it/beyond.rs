//! Estimators that know more than the Hessian: the optimizer's update, the scalars.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use meltr_aid::{
    Action, BilevelProblem, ConjugateGradient, EstimatorConfig, GaussNewton, HypergradientError,
    HypergradientEstimator, Identity, Implicit, OptimizerAware, OptimizerState, ParamVector,
    Policy, Products, ScalarMediated, Settings, Solver, UpdateRule, Verdict, audit, shifted,
};

#[derive(Module, Debug)]
struct Vector {
    values: Param<Tensor<1>>,
}

fn tape(values: &[f64]) -> Tensor<1> {
    let device = Device::default().autodiff();
    let data = TensorData::new(values.to_vec(), [values.len()]);
    Tensor::from_data(data, (&device, DType::F64))
}

fn vector(values: &[f64]) -> Vector {
    Vector {
        values: Param::from_tensor(tape(values)),
    }
}

/// Scalars that are linear in `w`, combined as `g = sum_t phi_t l_t² / 2`, with a ridge on `w`
/// that no phi reaches: `H = lambda I + Jᵀ diag(phi) J`.
struct Linear {
    ridge: f64,
}

const ROWS: [[f64; 4]; 2] = [[1.0, 0.5, -0.3, 0.0], [0.2, -1.0, 0.4, 2.0]];

impl ScalarMediated for Linear {
    type Inner = Vector;
    type Outer = Vector;

    fn scalars(&self, inner: &Vector) -> Tensor<1> {
        let w = inner.values.val();
        let device = w.device();
        let scalars = ROWS.map(|row| {
            let data = TensorData::new(row.to_vec(), [4]);
            let row = Tensor::<1>::from_data(data, (&device, DType::F64));
            (w.clone() * row).sum()
        });
        Tensor::cat(scalars.to_vec(), 0)
    }

    fn scalars_along(&self, inner: &Vector, direction: &Vector) -> Option<(Tensor<1>, Tensor<1>)> {
        Some((self.scalars(inner), self.scalars(direction)))
    }

    fn combined(&self, outer: &Vector, scalars: Tensor<1>) -> Tensor<1> {
        (outer.values.val() * scalars.square()).sum() * 0.5
    }

    fn mixed_scalar_product(&self, outer: &Vector, l: Tensor<1>, c: Tensor<1>) -> ParamVector {
        // ∂g/∂l_t = phi_t l_t, so d/dphi_t of sum_t c_t phi_t l_t is c_t l_t.
        let mut mixed = ParamVector::zero();
        mixed.insert(outer.values.id, l.inner() * c.inner());
        mixed
    }
}

impl BilevelProblem for Linear {
    type Inner = Vector;
    type Outer = Vector;

    fn inner_objective(&self, inner: &Vector, outer: &Vector) -> Tensor<1> {
        let ridge = inner.values.val().square().sum() * (0.5 * self.ridge);
        self.combined(outer, self.scalars(inner)) + ridge
    }

    fn outer_objective(&self, inner: &Vector, _: &Vector) -> Tensor<1> {
        (inner.values.val() - 0.7).square().sum()
    }

    fn mediation(&self) -> Option<&dyn ScalarMediated<Inner = Vector, Outer = Vector>> {
        Some(self)
    }
}

fn point() -> (Vector, Vector) {
    (vector(&[0.3, -0.2, 0.9, 0.4]), vector(&[0.8, 1.5]))
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let apart: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (apart / b.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
}

#[test]
fn gauss_newton_is_exact_where_the_scalars_are_linear() {
    let problem = Linear { ridge: 0.6 };
    let (inner, outer) = point();
    let exact = Implicit::new(ConjugateGradient::new(10))
        .estimate(&problem, &inner, &outer)
        .unwrap();
    let mut estimator = GaussNewton {
        damping: 0.6,
        settings: Settings::default(),
    };
    let ours = estimator.estimate(&problem, &inner, &outer).unwrap();
    let error = distance(&ours.gradient.to_vec(), &exact.gradient.to_vec());
    assert!(error < 1e-8, "{error}");
    let error = distance(&ours.adjoint.to_vec(), &exact.adjoint.to_vec());
    assert!(error < 1e-8, "{error}");
    assert_eq!(ours.certificate.hessian_products, 0);
}

#[test]
fn all_products_and_the_audit_agree() {
    let problem = Linear { ridge: 0.6 };
    let (inner, outer) = point();
    for products in [
        Products::ForwardMode,
        Products::CentralDifference(meltr_aid::CentralDifference::default()),
        Products::Reverse,
    ] {
        let mut estimator = Implicit {
            solver: ConjugateGradient::new(3),
            settings: Settings {
                products,
                measure_residual: true,
                ..Settings::default()
            },
        };
        let found = estimator.estimate(&problem, &inner, &outer).unwrap();
        let error = audit(&problem, &inner, &outer, &found).unwrap().unwrap();
        assert!(error < 1e-6, "{error}");
        // Three different eigenvalues: three steps solve it.
        assert!(found.certificate.relative_residual.unwrap() < 1e-7);
    }
}

#[test]
fn an_estimator_that_needs_scalars_says_so() {
    struct Plain;
    impl BilevelProblem for Plain {
        type Inner = Vector;
        type Outer = Vector;
        fn inner_objective(&self, inner: &Vector, outer: &Vector) -> Tensor<1> {
            (inner.values.val().square() * outer.values.val()).sum()
        }
        fn outer_objective(&self, inner: &Vector, _: &Vector) -> Tensor<1> {
            inner.values.val().sum()
        }
    }
    let mut estimator = EstimatorConfig::GaussNewton { damping: 1.0 }.build(Settings::default());
    let error = estimator
        .estimate(&Plain, &vector(&[1.0]), &vector(&[1.0]))
        .unwrap_err();
    assert!(matches!(error, HypergradientError::NotMediated { .. }));
}

#[test]
fn solve_and_product_fall_back_each_for_its_own_reason() {
    let (inner, outer) = point();
    let conjugate = || Solver::ConjugateGradient(ConjugateGradient::new(10));
    let cases = [
        // No estimate of an error is below a limit of 0.
        (Solver::Identity(Identity {}), Some(0.0), "reverse_passes"),
        (conjugate(), None, "central_difference"),
        (conjugate(), Some(0.0), "reverse_passes"),
    ];
    for (solver, max_error, product) in cases {
        let mut estimator = Implicit {
            solver,
            settings: Settings {
                products: Products::CentralDifference(meltr_aid::CentralDifference::default()),
                policy: Policy {
                    max_error,
                    on_error: Action::FallBack,
                    on_indefinite: Action::FallBack,
                    ..Policy::default()
                },
                ..Settings::default()
            },
        };
        // A ridge that makes the Hessian indefinite.
        let problem = Linear { ridge: -5.0 };
        let found = estimator.estimate(&problem, &inner, &outer).unwrap();
        assert_eq!(found.certificate.verdict, Verdict::FellBack);
        assert_eq!(found.certificate.product, product);
        let adjoint = found.adjoint.to_vec();
        assert_eq!(adjoint, found.outer_gradient.to_vec());
    }
}

const RULES: [UpdateRule; 3] = [
    UpdateRule::Sgd { learning_rate: 0.1 },
    UpdateRule::Adam {
        learning_rate: 0.1,
        beta_1: 0.9,
        beta_2: 0.99,
        epsilon: 1e-3,
    },
    UpdateRule::BertAdam {
        learning_rate: 0.1,
        beta_1: 0.9,
        beta_2: 0.99,
        epsilon: 1e-3,
        max_grad_norm: 1.0,
    },
];

#[test]
fn the_derivative_of_an_update_is_its_difference_quotient() {
    let module = vector(&[0.0; 3]);
    let of = |values: &[f64]| ParamVector::from_parameters(&module).with_values(values);
    for rule in RULES {
        // One gradient below the norm at which BertAdam clips, one above.
        for size in [0.3, 3.0] {
            let state = OptimizerState::default()
                .after(rule, &of(&[0.5, -0.2, 0.1]))
                .after(rule, &of(&[0.4, 0.3, -0.6]));
            let g = [0.7 * size, -0.4 * size, 0.2 * size];
            let v = [1.0, -0.5, 2.0];
            let ours = state.scaled(rule, &of(&g), &of(&v)).to_vec();
            for index in 0..3 {
                let at = |offset: f64| {
                    let mut g = g;
                    g[index] += offset;
                    let direction = state.direction(rule, &of(&g)).to_vec();
                    direction.iter().zip(v).map(|(d, v)| d * v).sum::<f64>()
                };
                let h = 1e-6;
                let expected = 0.1 * (at(h) - at(-h)) / (2.0 * h);
                assert!(
                    (ours[index] - expected).abs() < 1e-7 * (1.0 + expected.abs()),
                    "{rule:?} {size} {index}: {} {expected}",
                    ours[index]
                );
            }
        }
    }
}

#[test]
fn plain_descent_gives_the_identity_times_the_learning_rate() {
    let problem = Linear { ridge: 0.6 };
    let (inner, outer) = point();
    let identity = Implicit::new(Identity {})
        .estimate(&problem, &inner, &outer)
        .unwrap();
    let aware = OptimizerAware::new(RULES[0], Settings::default())
        .estimate(&problem, &inner, &outer)
        .unwrap();
    let scaled = identity.gradient.scale(0.1).to_vec();
    assert!(distance(&aware.gradient.to_vec(), &scaled) < 1e-14);
}

#[test]
fn the_derivative_through_one_step_of_adam_is_that_of_the_step_itself() {
    // dF(w - rate d(∇f(w, phi)))/dphi with F's gradient held at w, by differences over phi.
    let problem = Linear { ridge: 0.6 };
    let (inner, outer) = point();
    for rule in RULES {
        let mut estimator = OptimizerAware::new(rule, Settings::default());
        let seen = ParamVector::from_parameters(&inner).with_values(&[0.2, 0.1, -0.3, 0.5]);
        estimator.observe(&seen);
        let ours = estimator.estimate(&problem, &inner, &outer).unwrap();
        let v = ours.outer_gradient.to_vec();
        for index in 0..2 {
            let at = |offset: f64| {
                let mut phi = [0.8, 1.5];
                phi[index] += offset;
                let objective = problem.inner_objective(&inner, &vector(&phi));
                let gradient = ParamVector::from_gradients(&mut objective.backward(), &inner);
                let step = estimator.state.direction(rule, &gradient).to_vec();
                step.iter().zip(&v).map(|(d, v)| -0.1 * d * v).sum::<f64>()
            };
            let h = 1e-6;
            let expected = (at(h) - at(-h)) / (2.0 * h);
            let found = ours.gradient.to_vec()[index];
            assert!(
                (found - expected).abs() < 1e-7,
                "{rule:?}: {found} {expected}"
            );
        }
    }
}

/// Gradient of the inner objective of `problem` at `inner`, the outer parameters being `phi`.
fn descent(problem: &Linear, inner: &Vector, phi: &[f64]) -> ParamVector {
    let objective = problem.inner_objective(inner, &vector(phi));
    ParamVector::from_gradients(&mut objective.backward(), inner)
}

#[test]
fn through_a_step_is_the_derivative_of_the_outer_objective_after_it() {
    let problem = Linear { ridge: 0.6 };
    let (inner, _) = point();
    let phi = [0.8, 1.5];
    for rule in RULES {
        let mut estimator = OptimizerAware::new(rule, Settings::default());
        let id = inner.values.id;
        estimator.rate_factors.insert(id, 0.7);
        let seen = ParamVector::from_parameters(&inner).with_values(&[0.2, 0.1, -0.3, 0.5]);
        estimator.observe(&seen);
        let state = estimator.state.clone();
        let after = |phi: &[f64]| {
            let step = state.direction(rule, &descent(&problem, &inner, phi));
            shifted(&inner, -0.1 * 0.7, &step).train()
        };
        let gradient = descent(&problem, &inner, &phi);
        let ours = estimator
            .through_step(&problem, (&inner, &after(&phi)), &gradient, &vector(&phi))
            .unwrap();
        for index in 0..2 {
            let at = |offset: f64| {
                let mut phi = phi;
                phi[index] += offset;
                let objective = problem.outer_objective(&after(&phi), &vector(&phi));
                objective.into_scalar::<f64>()
            };
            let h = 1e-5;
            let expected = (at(h) - at(-h)) / (2.0 * h);
            let found = ours.gradient.to_vec()[index];
            assert!(
                (found - expected).abs() < 1e-8,
                "{rule:?}: {found} {expected}"
            );
        }
    }
}

#[test]
fn per_unit_step_is_the_derivative_of_minus_the_cosine() {
    let problem = Linear { ridge: 0.6 };
    let (inner, outer) = point();
    let phi = [0.8, 1.5];
    let mut estimator = OptimizerAware {
        per_unit_step: true,
        ..OptimizerAware::new(RULES[0], Settings::default())
    };
    let ours = estimator.estimate(&problem, &inner, &outer).unwrap();
    let v = ours.outer_gradient.clone();
    for index in 0..2 {
        let at = |offset: f64| {
            let mut phi = phi;
            phi[index] += offset;
            let gradient = descent(&problem, &inner, &phi);
            gradient.dot(&v) / (gradient.norm() * v.norm())
        };
        let h = 1e-6;
        let expected = -(at(h) - at(-h)) / (2.0 * h);
        let found = ours.gradient.to_vec()[index];
        assert!((found - expected).abs() < 1e-8, "{found} {expected}");
    }
}

#[derive(Module, Debug)]
struct Headed {
    shared: Vector,
    /// Parameters that the outer objective does not reach.
    head: Vector,
}

/// Two losses with weights phi, the second of which has a head of its own.
struct OwnHead;

impl BilevelProblem for OwnHead {
    type Inner = Headed;
    type Outer = Vector;

    fn inner_objective(&self, inner: &Headed, outer: &Vector) -> Tensor<1> {
        let (shared, head) = (inner.shared.values.val(), inner.head.values.val());
        let first = (shared.clone() - 1.0).square().sum();
        let second = (shared * head - 0.3).square().sum();
        (outer.values.val() * Tensor::cat(vec![first, second], 0)).sum()
    }

    fn outer_objective(&self, inner: &Headed, _: &Vector) -> Tensor<1> {
        (inner.shared.values.val() - 0.7).powi_scalar(4).sum()
    }
}

#[test]
fn per_unit_step_parameters_that_the_outer_objective_does_not_reach_are_no_length() {
    let inner = Headed {
        shared: vector(&[0.3, -0.2, 0.9]),
        head: vector(&[2.0, -1.5, 0.4]),
    };
    let phi = [0.8, 1.5];
    let mut estimator = OptimizerAware {
        per_unit_step: true,
        ..OptimizerAware::new(RULES[0], Settings::default())
    };
    let ours = estimator.estimate(&OwnHead, &inner, &vector(&phi)).unwrap();
    let v = ours.outer_gradient.clone();
    for index in 0..2 {
        let at = |offset: f64| {
            let mut phi = phi;
            phi[index] += offset;
            let objective = OwnHead.inner_objective(&inner, &vector(&phi));
            let gradient = ParamVector::from_gradients(&mut objective.backward(), &inner.shared);
            gradient.dot(&v) / (gradient.norm() * v.norm())
        };
        let h = 1e-6;
        let expected = -(at(h) - at(-h)) / (2.0 * h);
        let found = ours.gradient.to_vec()[index];
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn per_unit_step_nothing_is_to_be_had_from_a_longer_one() {
    let problem = Linear { ridge: 0.0 };
    let (inner, outer) = point();
    for rule in RULES {
        let mut estimator = OptimizerAware {
            per_unit_step: true,
            ..OptimizerAware::new(rule, Settings::default())
        };
        let ours = estimator.estimate(&problem, &inner, &outer).unwrap();
        // Along phi itself all of the inner objective is scaled.
        let found = ours.gradient.to_vec();
        let along = 0.8 * found[0] + 1.5 * found[1];
        let size = found.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!(size > 1e-6, "{rule:?}");
        assert!(along.abs() < 1e-9 * size, "{rule:?}: {along} of {size}");
    }
}

#[test]
fn a_configuration_reads_as_it_is_written() {
    let configs = [
        r#""identity""#,
        r#"{"conjugate_gradient":{"max_steps":7,"tolerance":0.0,"damping":0.1,"warm_start":true}}"#,
        r#"{"neumann":{"step_size":0.2,"products":3,"damping":0.0,"warm_start":false}}"#,
        r#"{"unrolled":{"steps":4,"momentum":0.5}}"#,
        r#"{"gauss_newton":{"damping":0.3}}"#,
    ];
    for text in configs {
        let config: EstimatorConfig = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
    }
    let error = serde_json::from_str::<EstimatorConfig>(r#"{"conjugate_gradient":{"max_step":7}}"#);
    assert!(error.unwrap_err().to_string().contains("max_steps"));
}
