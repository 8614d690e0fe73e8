//! One table of combiners, crossed with what each of them promises.

use burn::tensor::{Device, Tensor};
use meltr_core::{
    AutoLambdaConfig, AuxiliaryLinearConfig, AuxiliaryNetworkConfig, Combiner, Dual, LossCombiner,
    LossTransformerConfig, Pass, PlainSum, PrimaryOnly, combine, directional_derivative,
    sensitivities,
};

const N_TASKS: usize = 4;
const LOSSES: [f32; N_TASKS] = [0.3, 2.5, 7.1, 1.2];
const DIRECTION: [f32; N_TASKS] = [0.5, -1.0, 0.25, 2.0];

fn combiners() -> Vec<(&'static str, Combiner)> {
    let device = Device::default();
    let transformer = LossTransformerConfig::new(N_TASKS, 16, 32, 32)
        .init(3, &device)
        .unwrap();
    vec![
        (
            "primary",
            Combiner::Primary(PrimaryOnly::new(2, N_TASKS).unwrap()),
        ),
        ("sum", Combiner::Sum(PlainSum::new(N_TASKS))),
        ("transformer", Combiner::Transformer(transformer)),
        (
            "auxiliary_linear",
            Combiner::AuxiliaryLinear(
                AuxiliaryLinearConfig::new(N_TASKS, 2)
                    .with_initial_weight(0.4)
                    .init(&device)
                    .unwrap(),
            ),
        ),
        (
            "auxiliary_network",
            Combiner::AuxiliaryNetwork(
                AuxiliaryNetworkConfig::new(N_TASKS, 2)
                    .init(3, &device)
                    .unwrap(),
            ),
        ),
        (
            "auto_lambda",
            Combiner::AutoLambda(AutoLambdaConfig::new(N_TASKS).init(&device).unwrap()),
        ),
    ]
}

fn losses() -> Tensor<1> {
    Tensor::from_floats(LOSSES, &Device::default())
}

#[test]
fn each_row_gives_one_number_of_its_own() {
    for (name, combiner) in combiners() {
        let rows = Tensor::stack::<2>(vec![losses(), losses() * 0.5, losses()], 0);
        let combined = combiner
            .forward(Dual::constant(rows), Pass::Evaluation)
            .value;
        assert_eq!(combined.dims(), [3], "{name}");
        let values: Vec<f32> = combined.into_data().iter::<f32>().collect();
        assert!(
            (values[0] - values[2]).abs() < 1e-6,
            "{name}: equal rows, {values:?}"
        );
        let alone: f32 = combine(&combiner, losses() * 0.5).into_scalar();
        assert!((values[1] - alone).abs() < 1e-5, "{name}: rows do not mix");
    }
}

#[test]
fn sensitivities_are_finite_and_one_per_task() {
    for (name, combiner) in combiners() {
        assert_eq!(combiner.n_tasks(), N_TASKS, "{name}");
        let slopes = sensitivities(&combiner, losses());
        assert_eq!(slopes.len(), N_TASKS, "{name}");
        assert!(
            slopes.iter().all(|slope| slope.is_finite()),
            "{name}: {slopes:?}"
        );
    }
}

#[test]
fn the_tangent_is_linear_in_the_direction() {
    let direction = Tensor::<1>::from_floats(DIRECTION, &Device::default());
    for (name, combiner) in combiners() {
        let slopes = sensitivities(&combiner, losses());
        let expected: f64 = slopes
            .iter()
            .zip(DIRECTION)
            .map(|(slope, c)| slope * f64::from(c))
            .sum();
        let along: f64 =
            directional_derivative(&combiner, losses(), direction.clone()).into_scalar();
        assert!(
            (along - expected).abs() < 1e-4 * expected.abs().max(1.0),
            "{name}"
        );
    }
}

#[test]
fn the_tangent_agrees_with_a_difference_quotient() {
    let direction = Tensor::<1>::from_floats(DIRECTION, &Device::default());
    let step = 2e-3;
    for (name, combiner) in combiners() {
        let at = |factor: f64| -> f64 {
            combine(&combiner, losses() + direction.clone() * factor).into_scalar()
        };
        let quotient = (at(step) - at(-step)) / (2.0 * step);
        let along: f64 =
            directional_derivative(&combiner, losses(), direction.clone()).into_scalar();
        assert!(
            (along - quotient).abs() < 2e-3 * quotient.abs().max(1.0),
            "{name}: {along} against {quotient}"
        );
    }
}
