//! Retrieval metrics against the shared fixture from numpy and the released scripts.

use std::collections::BTreeMap;

use meltr_data::TensorFile;
use meltr_tasks::metric::{
    MetricError, RankedQueries, ReleasedAllInOneRetrieval, ReleasedUniVlRetrieval,
    RetrievalMetrics, TiePolicy,
};
use ndarray::{Array2, Ix2};
use serde_json::Value;

use crate::support::{assert_near, json, shared};

const TOLERANCE: f64 = 1e-12;

const KS: [usize; 4] = [1, 5, 10, 50];

fn matrix(file: &TensorFile, name: &str) -> Array2<f64> {
    // Widening keeps what is equal equal and what is above above.
    file.f64(name)
        .unwrap()
        .into_dimensionality::<Ix2>()
        .unwrap()
}

fn near(found: f64, expected: &Value, at: &str) {
    let expected = expected
        .as_f64()
        .unwrap_or_else(|| panic!("{at}: {expected}"));
    assert_near(found, expected, TOLERANCE, at);
}

fn integers(list: &Value) -> Vec<usize> {
    let list = list.as_array().unwrap();
    list.iter()
        .map(|value| usize::try_from(value.as_u64().unwrap()).unwrap())
        .collect()
}

fn compare(queries: &RankedQueries, expected: &Value, at: &str) {
    let above: Vec<usize> = queries.counts.iter().map(|counts| counts.above).collect();
    let tied: Vec<usize> = queries.counts.iter().map(|counts| counts.tied).collect();
    assert_eq!(above, integers(&expected["ranks0_optimistic"]), "{at}");
    assert_eq!(tied, integers(&expected["ties"]), "{at}");
    for policy in TiePolicy::ALL {
        let metrics = queries.metrics(policy);
        let (expected, at) = (&expected[policy.name()], format!("{at} {}", policy.name()));
        compare_policy(&metrics, expected, &at);
    }
    let (expected, at) = (
        &expected["expected_random_tiebreak"],
        format!("{at} random"),
    );
    for k in KS {
        near(
            queries.expected_recall_at(k),
            &expected[format!("R@{k}")],
            &at,
        );
    }
    near(queries.expected_reciprocal_rank(), &expected["MRR"], &at);
    let mean = queries.metrics(TiePolicy::Average).mean_rank();
    near(mean, &expected["MeanR"], &at);
}

fn compare_policy(metrics: &RetrievalMetrics, expected: &Value, at: &str) {
    for k in KS {
        near(metrics.recall_at(k), &expected[format!("R@{k}")], at);
    }
    near(metrics.median_rank(), &expected["MedR"], at);
    near(metrics.mean_rank(), &expected["MeanR"], at);
    near(metrics.mean_reciprocal_rank(), &expected["MRR"], at);
}

fn compare_all_in_one(metrics: &ReleasedAllInOneRetrieval, expected: &Value, at: &str) {
    for k in KS {
        near(metrics.recall_at(k), &expected[format!("R{k}")], at);
    }
    near(metrics.median_rank(), &expected["MedR"], at);
    near(metrics.mean_rank(), &expected["MeanR"], at);
    near(
        metrics.geometric_mean(),
        &expected["geometric_mean_R1-R5-R10"],
        at,
    );
}

#[test]
fn every_matrix_has_the_expected_ranks_and_metrics() {
    let Some(folder) = shared("fixtures/retrieval_metrics") else {
        return;
    };
    let file = TensorFile::open(&folder.join("matrices.safetensors")).unwrap();
    let expected: BTreeMap<String, Value> = json(&folder.join("expected.json"));
    assert!(!expected.is_empty());
    for (case, expected) in &expected {
        let similarity = matrix(&file, &format!("{case}.sim"));
        let videos: Vec<usize> = file
            .i64(&format!("{case}.cap2vid"))
            .unwrap()
            .iter()
            .map(|video| usize::try_from(*video).unwrap())
            .collect();
        let texts = RankedQueries::text_to_video(similarity.view(), &videos).unwrap();
        compare(&texts, &expected["t2v"], &format!("{case} t2v"));
        let of_videos = RankedQueries::video_to_text(similarity.view(), &videos).unwrap();
        compare(&of_videos, &expected["v2t"], &format!("{case} v2t"));

        let released = &expected["official"];
        if let Some(expected) = released.get("univl_compute_metrics_t2v") {
            let metrics = ReleasedUniVlRetrieval::new(similarity.view()).unwrap();
            let at = format!("{case} UniVL");
            for k in [1, 5, 10] {
                near(metrics.recall_at(k), &expected[format!("R{k}")], &at);
            }
            near(metrics.median_rank(), &expected["MR"], &at);
            near(
                metrics.ranks.len() as f64,
                &released["univl_list_length"],
                &at,
            );
        }
        if let Some(expected) = released.get("allinone_t2v_metrics") {
            let metrics =
                ReleasedAllInOneRetrieval::text_to_video(similarity.view(), &videos).unwrap();
            compare_all_in_one(&metrics, expected, &format!("{case} All-in-one t2v"));
        }
        if let Some(expected) = released.get("allinone_v2t_metrics") {
            let metrics =
                ReleasedAllInOneRetrieval::video_to_text(similarity.view(), &videos).unwrap();
            compare_all_in_one(&metrics, expected, &format!("{case} All-in-one v2t"));
        }
    }
}

#[test]
fn bad_matrices_are_errors_that_name_the_place() {
    let Some(path) = shared("fixtures/retrieval_metrics/bad.safetensors") else {
        return;
    };
    let file = TensorFile::open(&path).unwrap();
    assert!(file.names().count() > 0);
    for name in file.names() {
        let similarity = matrix(&file, name);
        let (rows, columns) = similarity.dim();
        let videos: Vec<usize> = (0..rows).collect();
        let expected = match similarity.indexed_iter().find(|(_, score)| score.is_nan()) {
            Some(((row, column), _)) => MetricError::NotANumber { row, column },
            None => MetricError::Empty { rows, columns },
        };
        for found in [
            RankedQueries::text_to_video(similarity.view(), &videos),
            RankedQueries::video_to_text(similarity.view(), &videos),
        ] {
            assert_eq!(found, Err(expected.clone()), "{name}");
        }
    }
}
