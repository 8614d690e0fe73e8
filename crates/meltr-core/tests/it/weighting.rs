//! Weighting rules: agreement with TorchJD, and the laws that all of them keep.
//!
//! The reference values come from `xtask/peers/weighting_golden.py`, which says how each of them
//! was obtained.

use meltr_core::weighting::{
    CaGrad, CaGradConfig, DynamicWeightAverage, EqualWeights, Famo, FamoConfig, FixedWeights,
    GradNorm, GradNormConfig, Gramian, LossWeighting, Mgda, NashMtl, NashMtlConfig, Needs, PcGrad,
    ProjectionOrder, RandomWeighting, SmoothTchebycheff, TchebycheffConfig, UncertaintyConfig,
    UncertaintyWeighting, UpGrad, UpGradConfig, WeightingError, WeightingMethod,
};
use serde_json::Value;

/// Relative to the largest weight.
const TOLERANCE: f64 = 1e-5;

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/weighting.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_f64().unwrap())
        .collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

/// A matrix of the reference document.
struct Case {
    name: String,
    gramian: Gramian,
    record: Value,
}

impl Case {
    fn all() -> Vec<Self> {
        golden()["matrices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|record| Self {
                name: record["name"].as_str().unwrap().to_owned(),
                gramian: Gramian::from_gradients(&rows(&record["rows"])).unwrap(),
                record: record.clone(),
            })
            .collect()
    }

    fn weights(&self, rule: &mut dyn LossWeighting) -> Vec<f64> {
        let losses = vec![1.0; self.gramian.n_tasks()];
        rule.weights(&losses, Some(&self.gramian)).unwrap()
    }

    fn expected(&self, key: &str) -> Vec<f64> {
        numbers(&self.record[key])
    }
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0, |m, x| f64::max(m, x.abs()));
    for (f, e) in found.iter().zip(expected) {
        assert!(
            (f - e).abs() <= tolerance * scale.max(f64::MIN_POSITIVE),
            "{what}: {found:?}, not {expected:?}"
        );
    }
}

/// TorchJD's default for a trace that counts as zero.
const PEER_ZERO_TRACE: f64 = 1e-4;

#[test]
fn up_grad_agrees_with_torchjd() {
    for case in Case::all() {
        for (key, regularization) in [("up_grad", 1e-4), ("up_grad_fine", 1e-9)] {
            let mut rule = UpGrad::new(UpGradConfig {
                regularization,
                zero_trace: PEER_ZERO_TRACE,
                ..UpGradConfig::default()
            })
            .unwrap();
            let what = format!("{key} of {}", case.name);
            assert_close(
                &case.weights(&mut rule),
                &case.expected(key),
                TOLERANCE,
                &what,
            );
        }
    }
}

#[test]
fn ca_grad_agrees_with_torchjd() {
    for case in Case::all() {
        let mut rule = CaGrad::new(CaGradConfig {
            radius: 0.5,
            zero_trace: PEER_ZERO_TRACE,
            ..CaGradConfig::default()
        })
        .unwrap();
        let weights = case.weights(&mut rule);
        let expected = case.expected("ca_grad");
        if case.name.starts_with("equal_rows") {
            // The two equal rows may share their weight in any way: compare the directions.
            let difference: Vec<f64> = weights.iter().zip(&expected).map(|(w, e)| w - e).collect();
            let distance = case.gramian.combined_norm(&difference);
            assert!(
                distance < TOLERANCE * case.gramian.combined_norm(&expected),
                "{}: {weights:?}, not {expected:?}",
                case.name
            );
        } else {
            assert_close(&weights, &expected, TOLERANCE, &case.name);
            // As TorchJD calls its solver, which stops early.
            let loose = case.expected("ca_grad_torchjd");
            assert_close(&weights, &loose, 1e-4, &case.name);
        }
    }
}

#[test]
fn pc_grad_agrees_with_torchjd_in_a_fixed_order() {
    for case in Case::all() {
        let mut rule = PcGrad::new(ProjectionOrder::Ascending);
        let weights = case.weights(&mut rule);
        assert_close(&weights, &case.expected("pc_grad"), TOLERANCE, &case.name);
    }
}

#[test]
fn mgda_finds_the_shortest_combination() {
    for case in Case::all() {
        let weights = case.weights(&mut Mgda::new());
        let length = case.gramian.combined_norm(&weights);
        let peer = case.gramian.combined_norm(&case.expected("mgda_torchjd"));
        assert!(
            length <= peer * (1.0 + 1e-9),
            "{}: {length} is longer than {peer}",
            case.name
        );
        // The two equal rows may share their weight in any way.
        if !case.name.starts_with("equal_rows") {
            assert_close(&weights, &case.expected("mgda"), TOLERANCE, &case.name);
        }
    }
}

#[test]
fn nash_mtl_solves_its_equations() {
    // Where TorchJD's own iteration has converged; on the others it is up to 85 % off.
    let converged = [
        "random_2",
        "random_3",
        "random_5",
        "conflicting_3",
        "conflicting_5",
        "equal_rows_3",
    ];
    for case in Case::all() {
        let weights = case.weights(&mut NashMtl::new(NashMtlConfig::default()).unwrap());
        if !case.record["nash"].is_null() {
            assert_close(&weights, &case.expected("nash"), TOLERANCE, &case.name);
        }
        if converged.contains(&case.name.as_str()) {
            let peer = case.expected("nash_torchjd");
            assert_close(&weights, &peer, TOLERANCE, &case.name);
        }
        // Cut to length 1, `w_t (K w)_t = 1 / n` for all of the `n` tasks with a gradient.
        let inner = case.gramian.times(&weights);
        let gains: Vec<f64> = weights.iter().zip(&inner).map(|(w, k)| w * k).collect();
        let bargaining = weights.iter().filter(|weight| **weight > 0.0).count();
        for (weight, gain) in weights.iter().zip(&gains) {
            if *weight > 0.0 {
                let expected = 1.0 / bargaining as f64;
                assert!((gain - expected).abs() < 1e-9, "{}: {gains:?}", case.name);
            }
        }
    }
}

#[test]
fn uncertainty_weighting_follows_torchjd_with_adam() {
    let document = golden();
    let sequences = &document["sequences"];
    let config = UncertaintyConfig {
        learning_rate: 0.05,
        ..UncertaintyConfig::default()
    };
    let mut rule = UncertaintyWeighting::new(3, config).unwrap();
    let expected = rows(&sequences["uncertainty"]["weights"]);
    for (losses, expected) in rows(&sequences["before"]).iter().zip(&expected) {
        let weights = rule.weights(losses, None).unwrap();
        assert_close(&weights, expected, TOLERANCE, "weights");
    }
    let log_variances = numbers(&sequences["uncertainty"]["log_variances"]);
    assert_close(
        &rule.log_variances(),
        &log_variances,
        TOLERANCE,
        "log variances",
    );
}

#[test]
fn famo_follows_torchjd() {
    let document = golden();
    let sequences = &document["sequences"];
    let mut rule = Famo::new(3, FamoConfig::default()).unwrap();
    let before = rows(&sequences["before"]);
    let after = rows(&sequences["after"]);
    let expected = rows(&sequences["famo"]["weights"]);
    for ((losses, new_losses), expected) in before.iter().zip(&after).zip(&expected) {
        let weights = rule.weights(losses, None).unwrap();
        assert_close(&weights, expected, TOLERANCE, "weights");
        rule.observe(new_losses).unwrap();
    }
    let logits = numbers(&sequences["famo"]["logits"]);
    assert_close(&rule.logits(), &logits, TOLERANCE, "logits");
}

#[test]
fn dynamic_weight_average_follows_torchjd() {
    let document = golden();
    let sequences = &document["sequences"];
    let mut rule = DynamicWeightAverage::new(3, 2.0).unwrap();
    let expected = rows(&sequences["dwa"]["weights"]);
    let steps_of_an_epoch = sequences["dwa"]["batches"].as_u64().unwrap() as usize;
    let before = rows(&sequences["before"]);
    for (step, (losses, expected)) in before.iter().zip(&expected).enumerate() {
        let weights = rule.weights(losses, None).unwrap();
        assert_close(&weights, expected, TOLERANCE, "weights");
        if (step + 1).is_multiple_of(steps_of_an_epoch) {
            rule.end_epoch().unwrap();
        }
    }
}

#[test]
fn smooth_tchebycheff_agrees_with_torchjd() {
    let document = golden();
    let sequences = &document["sequences"];
    let reference = &sequences["tchebycheff"];
    let plain = TchebycheffConfig {
        smoothing: 0.5,
        ..TchebycheffConfig::default()
    };
    let given = TchebycheffConfig {
        smoothing: 0.1,
        preferences: numbers(&reference["preference"]),
        ideal_point: numbers(&reference["reference"]),
    };
    for (key, config) in [("plain", plain), ("given", given)] {
        let mut rule = SmoothTchebycheff::new(config).unwrap();
        let expected = rows(&reference[key]);
        for (losses, expected) in rows(&sequences["before"]).iter().zip(&expected) {
            let weights = rule.weights(losses, None).unwrap();
            assert_close(&weights, expected, TOLERANCE, key);
        }
    }
}

#[test]
fn grad_norm_follows_autograd() {
    let document = golden();
    let sequences = &document["sequences"];
    let case = Case::all()
        .into_iter()
        .find(|case| case.name == "conflicting_3")
        .unwrap();
    let config = GradNormConfig {
        alpha: sequences["grad_norm"]["alpha"].as_f64().unwrap(),
        learning_rate: sequences["grad_norm"]["learning_rate"].as_f64().unwrap(),
    };
    let mut rule = GradNorm::new(3, config).unwrap();
    let expected = rows(&sequences["grad_norm"]["weights"]);
    for (losses, expected) in rows(&sequences["before"]).iter().zip(&expected) {
        let weights = rule.weights(losses, Some(&case.gramian)).unwrap();
        assert_close(&weights, expected, TOLERANCE, "weights");
    }
}

/// Every rule, for three tasks.
fn every_rule() -> Vec<WeightingMethod> {
    let uncertainty = UncertaintyWeighting::new(3, UncertaintyConfig::default()).unwrap();
    let tchebycheff = SmoothTchebycheff::new(TchebycheffConfig::default()).unwrap();
    vec![
        WeightingMethod::Equal(EqualWeights::Mean),
        WeightingMethod::Fixed(FixedWeights::new(vec![1.0, 0.5, 2.0]).unwrap()),
        WeightingMethod::Uncertainty(uncertainty),
        WeightingMethod::DynamicWeightAverage(DynamicWeightAverage::new(3, 2.0).unwrap()),
        WeightingMethod::Random(RandomWeighting::new(11)),
        WeightingMethod::Famo(Famo::new(3, FamoConfig::default()).unwrap()),
        WeightingMethod::SmoothTchebycheff(tchebycheff),
        WeightingMethod::GradNorm(GradNorm::new(3, GradNormConfig::default()).unwrap()),
        WeightingMethod::PcGrad(PcGrad::new(ProjectionOrder::Random { seed: 11 })),
        WeightingMethod::CaGrad(CaGrad::new(CaGradConfig::default()).unwrap()),
        WeightingMethod::Mgda(Mgda::new()),
        WeightingMethod::UpGrad(UpGrad::new(UpGradConfig::default()).unwrap()),
        WeightingMethod::NashMtl(NashMtl::new(NashMtlConfig::default()).unwrap()),
    ]
}

const LOSSES: [f64; 3] = [0.7, 2.1, 0.3];

fn conflicting() -> Gramian {
    let rows = [
        [1.0, 0.2, 0.0, 0.5],
        [-1.0, 1.0, 0.3, 0.1],
        [-0.5, -1.0, 1.0, 0.0],
    ];
    Gramian::from_gradients(&rows).unwrap()
}

/// One step of training, as a loop would take it; the losses fall a little.
fn step(rule: &mut WeightingMethod, losses: &[f64], gramian: &Gramian) -> Vec<f64> {
    let needs = rule.needs();
    let gramian = (needs == Needs::Gramian).then_some(gramian);
    let weights = rule.weights(losses, gramian).unwrap();
    if needs == Needs::LossesBeforeAndAfter {
        let after: Vec<f64> = losses
            .iter()
            .enumerate()
            .map(|(t, loss)| loss * (0.99 - 0.02 * t as f64))
            .collect();
        rule.observe(&after).unwrap();
    }
    weights
}

#[test]
fn every_rule_gives_one_weight_a_task_that_is_not_negative() {
    for mut rule in every_rule() {
        for _ in 0..5 {
            let weights = step(&mut rule, &LOSSES, &conflicting());
            assert_eq!(weights.len(), 3, "{}", rule.name());
            assert!(
                weights.iter().all(|weight| *weight >= 0.0),
                "{}: {weights:?}",
                rule.name()
            );
            rule.end_epoch().unwrap();
        }
    }
}

#[test]
fn every_rule_is_defined_for_zero_gradients() {
    let zero = Gramian::from_products(3, &[0.0; 9]).unwrap();
    for mut rule in every_rule() {
        let weights = step(&mut rule, &LOSSES, &zero);
        assert!(
            weights.iter().all(|weight| weight.is_finite()),
            "{}: {weights:?}",
            rule.name()
        );
    }
}

#[test]
fn every_rule_goes_on_where_a_written_state_left_off() {
    let gramian = conflicting();
    for mut rule in every_rule() {
        for factor in [1.0, 0.9, 0.85, 0.8] {
            let losses = LOSSES.map(|loss| loss * factor);
            step(&mut rule, &losses, &gramian);
            rule.end_epoch().unwrap();
        }
        let written = serde_json::to_string(&rule).unwrap();
        let mut resumed: WeightingMethod = serde_json::from_str(&written).unwrap();
        for factor in [0.78, 0.7] {
            let losses = LOSSES.map(|loss| loss * factor);
            let expected = step(&mut rule, &losses, &gramian);
            let found = step(&mut resumed, &losses, &gramian);
            assert_close(&found, &expected, 1e-12, rule.name());
        }
    }
}

#[test]
fn no_rule_takes_a_loss_that_is_not_finite() {
    for mut rule in every_rule() {
        let before = rule.clone();
        let error = rule
            .weights(&[1.0, f64::NAN, 1.0], Some(&conflicting()))
            .unwrap_err();
        assert!(
            matches!(error, WeightingError::NonFiniteLoss { task: 1, .. }),
            "{}: {error}",
            rule.name()
        );
        assert_eq!(rule, before);
        assert_eq!(
            rule.weights(&[], Some(&conflicting())).unwrap_err(),
            WeightingError::NoTasks
        );
    }
}

#[test]
fn a_rule_that_needs_gradients_says_so() {
    for mut rule in every_rule() {
        let needs = rule.needs();
        let name = rule.name();
        let without = rule.weights(&LOSSES, None);
        if needs == Needs::Gramian {
            assert_eq!(
                without.unwrap_err(),
                WeightingError::MissingGramian { method: name }
            );
        } else {
            assert!(without.is_ok(), "{name}");
        }
    }
}

/// The rules that are functions of the Gramian alone.
fn geometric_rules() -> Vec<WeightingMethod> {
    every_rule()
        .into_iter()
        .filter(|rule| ["ca_grad", "mgda", "up_grad", "nash_mtl"].contains(&rule.name()))
        .collect()
}

#[test]
fn the_order_of_the_tasks_does_not_matter() {
    let gramian = conflicting();
    let order = [2, 0, 1];
    let mut products: Vec<f64> = Vec::new();
    for &row in &order {
        for &column in &order {
            products.push(gramian.product(row, column));
        }
    }
    let permuted = Gramian::from_products(3, &products).unwrap();
    for mut rule in geometric_rules() {
        let weights = rule.clone().weights(&LOSSES, Some(&gramian)).unwrap();
        let expected: Vec<f64> = order.iter().map(|&task| weights[task]).collect();
        let found = rule.weights(&LOSSES, Some(&permuted)).unwrap();
        assert_close(&found, &expected, 1e-9, rule.name());
    }
}

#[test]
fn the_unit_of_all_losses_together_does_not_matter() {
    // Gradients 1e-5 times as long: the weights of a direction that is cut to a length grow by
    // 1e5, the others stay.
    let gramian = conflicting();
    let mut products: Vec<f64> = Vec::new();
    for row in 0..3 {
        for column in 0..3 {
            products.push(gramian.product(row, column) * 1e-10);
        }
    }
    let small = Gramian::from_products(3, &products).unwrap();
    for mut rule in geometric_rules() {
        let expected = rule.clone().weights(&LOSSES, Some(&gramian)).unwrap();
        let mut found = rule.weights(&LOSSES, Some(&small)).unwrap();
        if rule.name() == "nash_mtl" {
            for weight in &mut found {
                *weight *= 1e-5;
            }
        }
        assert_close(&found, &expected, 1e-9, rule.name());
    }
}

#[test]
fn directions_of_compromise_increase_no_loss() {
    let gramian = conflicting();
    for mut rule in geometric_rules() {
        let weights = rule.weights(&LOSSES, Some(&gramian)).unwrap();
        let slack = if rule.name() == "up_grad" {
            // What its regularization leaves.
            1e-3
        } else {
            1e-9
        };
        // CAGrad with a radius below 1 promises only the best worst case.
        if rule.name() != "ca_grad" {
            for inner in gramian.times(&weights) {
                assert!(inner > -slack, "{}: {inner}", rule.name());
            }
        }
    }
}

#[test]
fn twenty_tasks_are_solved_to_their_conditions() {
    // Rows of a fixed, badly conditioned matrix with entries in [-1, 1] and lengths over four
    // orders of magnitude.
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for task in 0..20_u32 {
        let length = 10.0_f64.powf(f64::from(task) / 5.0 - 2.0);
        let row: Vec<f64> = (0..30_u32)
            .map(|k| length * f64::from((task + 1) * (k + 3) * (k + 7 * task + 1)).sin())
            .collect();
        rows.push(row);
    }
    let gramian = Gramian::from_gradients(&rows).unwrap();
    let losses = [1.0; 20];
    let shortest = Mgda::new().weights(&losses, Some(&gramian)).unwrap();
    let squared = gramian.combined_norm(&shortest).powi(2);
    // `<g_t, d> >= |d|²` for every task, with equality where the weight is positive.
    for (inner, weight) in gramian.times(&shortest).iter().zip(&shortest) {
        assert!(
            inner - squared > -1e-9 * squared,
            "{inner} against {squared}"
        );
        assert!(
            *weight == 0.0 || (inner - squared).abs() < 1e-9 * squared,
            "{inner} against {squared}"
        );
    }
    let mut up_grad = UpGrad::new(UpGradConfig {
        regularization: 0.0,
        ..UpGradConfig::default()
    })
    .unwrap();
    let weights = up_grad.weights(&losses, Some(&gramian)).unwrap();
    for (t, inner) in gramian.times(&weights).iter().enumerate() {
        let terms: f64 = (0..20)
            .map(|s| (gramian.product(t, s) * weights[s]).abs())
            .sum();
        assert!(*inner > -1e-10 * terms, "task {t}: {inner} of {terms}");
    }
    let mut nash = NashMtl::new(NashMtlConfig {
        max_norm: 0.0,
        ..NashMtlConfig::default()
    })
    .unwrap();
    let weights = nash.weights(&losses, Some(&gramian)).unwrap();
    for (inner, weight) in gramian.times(&weights).iter().zip(&weights) {
        assert!((inner * weight - 1.0).abs() < 1e-8);
    }
    let mut ca_grad = CaGrad::new(CaGradConfig::default()).unwrap();
    let weights = ca_grad.weights(&losses, Some(&gramian)).unwrap();
    let mean = [0.05; 20];
    let offset: Vec<f64> = weights.iter().map(|weight| weight - 0.05).collect();
    let ratio = gramian.combined_norm(&offset) / gramian.combined_norm(&mean);
    // The direction lies on the sphere around the mean, or the weights are 0 altogether.
    assert!((ratio - 0.5).abs() < 1e-9, "{ratio}");
}
