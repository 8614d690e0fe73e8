//! Metrics of sentiment against the shared fixture from numpy, scikit-learn and MMSA.

use std::collections::BTreeMap;

use meltr_data::TensorFile;
use meltr_tasks::metric::{MetricError, SentimentClassMetrics, SentimentMetrics};
use ndarray::Ix2;
use serde::Deserialize;
use serde_json::Value;

use crate::support::{assert_near, json, shared};

/// The values that MMSA rounds to four places.
const ROUNDED: f64 = 5e-5 + 1e-12;

#[derive(Debug, Deserialize)]
struct Expected {
    regression: BTreeMap<String, BTreeMap<String, Value>>,
    classification: BTreeMap<String, f64>,
}

fn values(file: &TensorFile, name: &str) -> Vec<f64> {
    file.f64(name).unwrap().iter().copied().collect()
}

/// The metrics by the fixture's names; what is not defined is `None`.
fn named(metrics: &SentimentMetrics) -> Vec<(&'static str, Option<f64>)> {
    let non0 = metrics.non0;
    vec![
        ("MAE", Some(metrics.mae)),
        ("MSE", Some(metrics.mse)),
        ("Corr", metrics.correlation),
        ("Acc_7", Some(metrics.accuracy_7)),
        ("Acc_5", Some(metrics.accuracy_5)),
        ("Acc_3", Some(metrics.accuracy_3)),
        ("Has0_Acc_2", Some(metrics.has0.accuracy)),
        ("Has0_F1", Some(metrics.has0.f1)),
        ("Has0_F1_swapped", Some(metrics.has0.f1_swapped)),
        ("Non0_count", Some(metrics.n_non0 as f64)),
        ("Non0_Acc_2", non0.map(|classes| classes.accuracy)),
        ("Non0_F1", non0.map(|classes| classes.f1)),
        ("Non0_F1_swapped", non0.map(|classes| classes.f1_swapped)),
    ]
}

#[test]
fn every_case_has_the_metrics_of_the_references() {
    let Some(folder) = shared("fixtures/sentiment_metrics") else {
        return;
    };
    let file = TensorFile::open(&folder.join("pairs.safetensors")).unwrap();
    let expected: Expected = json(&folder.join("expected.json"));
    assert!(!expected.regression.is_empty());
    for (case, expected) in &expected.regression {
        let predictions = values(&file, &format!("{case}.pred"));
        let labels = values(&file, &format!("{case}.label"));
        for (key, narrow) in [("f64", false), ("f32_cast", true)] {
            let cast = |values: &[f64]| -> Vec<f64> {
                values
                    .iter()
                    .map(|value| {
                        if narrow {
                            f64::from(*value as f32)
                        } else {
                            *value
                        }
                    })
                    .collect()
            };
            let metrics = SentimentMetrics::new(&cast(&predictions), &cast(&labels)).unwrap();
            for (name, found) in named(&metrics) {
                let at = format!("{case} {key} {name}");
                let wanted = expected[key][name].as_f64();
                assert_eq!(
                    found.is_some(),
                    wanted.is_some(),
                    "{at}: {found:?}, {wanted:?}"
                );
                let (Some(found), Some(wanted)) = (found, wanted) else {
                    continue;
                };
                let tolerance = match (name, case.as_str(), narrow) {
                    // Sums of values whose last digits are lost.
                    ("Corr", "tiny_variance" | "large_offset", _) => 1e-6,
                    // Their means are those of f32 arithmetic.
                    ("Corr" | "MAE" | "MSE", _, true) => 1e-5 * wanted.abs().max(1.0),
                    ("Corr", _, false) => 1e-9,
                    _ => 1e-12 * wanted.abs().max(1.0),
                };
                assert_near(found, wanted, tolerance, &at);
            }
        }
    }
}

#[test]
fn three_classes_have_the_rounded_metrics_of_mmsa() {
    let Some(folder) = shared("fixtures/sentiment_metrics") else {
        return;
    };
    let file = TensorFile::open(&folder.join("classification.safetensors")).unwrap();
    let expected: Expected = json(&folder.join("expected.json"));
    let logits = file
        .f64("logits")
        .unwrap()
        .into_dimensionality::<Ix2>()
        .unwrap();
    let labels: Vec<usize> = file
        .i64("label")
        .unwrap()
        .iter()
        .map(|label| usize::try_from(*label).unwrap())
        .collect();
    let metrics = SentimentClassMetrics::new(logits.view(), &labels).unwrap();
    let released = metrics.non0_as_released.unwrap();
    for (name, found) in [
        ("Acc_3", metrics.three.accuracy),
        ("F1_score_3", metrics.three.f1),
        ("Has0_acc_2", metrics.has0.accuracy),
        ("Has0_F1_score", metrics.has0.f1),
        ("Non0_acc_2", released.accuracy),
        ("Non0_F1_score", released.f1),
    ] {
        assert_near(found, expected.classification[name], ROUNDED, name);
    }
    assert!(metrics.non0.unwrap().accuracy > released.accuracy);
}

#[test]
fn bad_inputs_are_errors_that_name_the_place() {
    let Some(path) = shared("fixtures/sentiment_metrics/bad.safetensors") else {
        return;
    };
    let file = TensorFile::open(&path).unwrap();
    let error = |case: &str| {
        let predictions = values(&file, &format!("{case}.pred"));
        let labels = values(&file, &format!("{case}.label"));
        SentimentMetrics::new(&predictions, &labels).unwrap_err()
    };
    assert_eq!(error("empty"), MetricError::NoPredictions);
    assert_eq!(
        error("length"),
        MetricError::Lengths {
            predictions: 3,
            labels: 4
        }
    );
    for (case, value) in [("nan", "NaN"), ("inf", "inf")] {
        assert_eq!(
            error(case),
            MetricError::NotFinite {
                what: "prediction",
                index: 1,
                value: value.to_owned()
            }
        );
    }
}
