//! The records of a run: what each line of `metrics.jsonl` and the file `summary.json` hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// One line of `metrics.jsonl`.
///
/// JSON has no numbers that are not finite: they are written as `null`. Where a loss, a metric or
/// a derivative is `null`, it is read as NaN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Record {
    /// An inner step: the backbone was updated once.
    Train(TrainRecord),
    /// An outer step: the combiner was updated once.
    Meta(MetaRecord),
    /// An evaluation of the task's metrics.
    Eval(EvalRecord),
    /// The response of the combined loss to each task loss, others held at their current value.
    Response(ResponseRecord),
    /// The weights that a rule gave to the task losses in an inner step.
    Weights(WeightsRecord),
}

/// An inner step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainRecord {
    /// Inner steps taken before this one.
    pub iteration: usize,
    /// Passes over the training items finished before this step.
    pub epoch: usize,
    /// Task losses `[T]`, in token order.
    #[serde(deserialize_with = "numbers")]
    pub task_losses: Vec<f64>,
    /// The combined loss that was minimized.
    pub combined_loss: f64,
    /// Multiplier of the learning rate at this step.
    pub learning_rate: f64,
    /// Euclidean norm of the inner gradient before clipping.
    pub gradient_norm: f64,
    /// Seconds since the run started.
    pub seconds: f64,
}

/// An outer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetaRecord {
    /// Inner steps taken before this outer step.
    pub iteration: usize,
    /// Value of the outer objective (primary loss, regularizer included).
    pub outer_objective: f64,
    /// Task losses `[T]` of the batch that the inner objective was taken on.
    #[serde(deserialize_with = "numbers")]
    pub task_losses: Vec<f64>,
    /// Sensitivities `dg/dl_t`, `[T]`, of the combined loss at `task_losses`.
    #[serde(deserialize_with = "numbers")]
    pub sensitivities: Vec<f64>,
    /// `c_t = <grad l_t, v>`, `[T]`: derivative of each task loss along the outer gradient.
    pub directional: Vec<f64>,
    /// Euclidean norm of the hypergradient before clipping.
    pub hypergradient_norm: f64,
    /// What is wrong with the combined loss at this point, in words: a saturated output, negative
    /// sensitivities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anomalies: Vec<String>,
    /// How the hypergradient was obtained and how good it is.
    pub certificate: Box<CertificateRecord>,
}

/// The weights of an inner step whose losses are weighted by a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightsRecord {
    /// Inner steps taken before this one.
    pub iteration: usize,
    /// Weights `[T]`, in token order.
    pub weights: Vec<f64>,
}

/// The certificate of a hypergradient, as logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Name of the estimator, such as `identity`.
    pub estimator: String,
    /// How the directional derivatives were obtained: `forward_mode`, `central_difference` or
    /// `reverse_passes`.
    pub product: String,
    /// Difference step `h` in `w + h v`, where one was used.
    pub difference_step: Option<f64>,
    /// Estimated relative error of the directional derivatives.
    pub estimated_error: Option<f64>,
    /// Relative error of the hypergradient against the exact one, where it was audited.
    pub audited_error: Option<f64>,
    /// Relative residual of the linear solve, where it was measured.
    #[serde(default)]
    pub relative_residual: Option<f64>,
    /// Smallest curvature of the inner objective that the solver met.
    #[serde(default)]
    pub smallest_curvature: Option<f64>,
    /// What was found wanting, in words.
    #[serde(default)]
    pub findings: Vec<String>,
    /// Forward passes of the backbone without a tape.
    pub forward_passes: usize,
    /// Forward-and-backward passes of the backbone.
    pub backward_passes: usize,
}

/// An evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Inner steps taken before the evaluation.
    pub iteration: usize,
    /// Name of the split.
    pub split: String,
    /// Number of items in the split.
    pub n_items: usize,
    /// Metric name to value, such as `text_to_video.r1` in `[0, 1]`.
    #[serde(deserialize_with = "named_numbers")]
    pub metrics: BTreeMap<String, f64>,
}

/// Response curves of the combined loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponseRecord {
    /// Inner steps taken before the curves were sampled.
    pub iteration: usize,
    /// Task losses `[T]` around which the curves were sampled.
    pub at: Vec<f64>,
    /// One curve per task, in token order.
    pub curves: Vec<ResponseCurve>,
    /// Attention `[heads][T][T]` of the loss transformer at `at`, rows are queries; empty for
    /// combiners without attention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attention: Vec<Vec<Vec<f64>>>,
}

/// The combined loss as a function of one task loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponseCurve {
    /// Values of the task loss.
    pub task_loss: Vec<f64>,
    /// Combined loss at each of them.
    #[serde(deserialize_with = "numbers")]
    pub combined_loss: Vec<f64>,
}

/// `summary.json`, written when a run ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of this layout.
    pub format_version: u32,
    /// Name of the run.
    pub name: String,
    /// Name of the combiner, such as `primary`, `sum`, `meltr`.
    pub combiner: String,
    /// Seed of the run.
    pub seed: u64,
    /// Device the run was on, such as `flex`.
    pub device: String,
    /// Names of the tasks, in token order.
    pub tasks: Vec<String>,
    /// Name of the primary task.
    pub primary: String,
    /// Inner steps taken.
    pub iterations: usize,
    /// Metrics of the last evaluation on each split: split name, then metric name.
    pub metrics: BTreeMap<String, BTreeMap<String, f64>>,
    /// Seconds of training, evaluation not included.
    pub train_seconds: f64,
    /// Seconds of the whole run.
    pub total_seconds: f64,
    /// Largest resident set size in bytes, where the system tells it.
    pub peak_memory_bytes: Option<u64>,
    /// Largest audited relative error of a hypergradient in this run.
    pub worst_hypergradient_error: Option<f64>,
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let numbers = Vec::<Option<f64>>::deserialize(deserializer)?;
    Ok(numbers.into_iter().map(or_nan).collect())
}

fn named_numbers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, f64>, D::Error> {
    let numbers = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    Ok(numbers
        .into_iter()
        .map(|(name, number)| (name, or_nan(number)))
        .collect())
}

fn or_nan(number: Option<f64>) -> f64 {
    number.unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_read_back_as_nan() {
        let record = Record::Eval(EvalRecord {
            iteration: 3,
            split: "test".to_owned(),
            n_items: 2,
            metrics: BTreeMap::from([("lost".to_owned(), f64::INFINITY), ("mae".to_owned(), 0.5)]),
        });
        let line = serde_json::to_string(&record).unwrap();
        let Record::Eval(read) = serde_json::from_str(&line).unwrap() else {
            panic!("{line}");
        };
        assert!(read.metrics["lost"].is_nan());
        assert_eq!(read.metrics["mae"], 0.5);

        let line = r#"{"kind":"train","iteration":0,"epoch":0,"task_losses":[1.5,null],
            "combined_loss":1.5,"learning_rate":1.0,"gradient_norm":0.1,"seconds":0.2}"#;
        let Record::Train(read) = serde_json::from_str(line).unwrap() else {
            panic!("{line}");
        };
        assert_eq!(read.task_losses[0], 1.5);
        assert!(read.task_losses[1].is_nan());
        // A number that is missing altogether is a damaged line.
        let line = line.replace("\"task_losses\":[1.5,null],", "");
        assert!(serde_json::from_str::<Record>(&line).is_err());
    }
}
