//! The records of a run: what each line of `metrics.jsonl` and the file `summary.json` hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line of `metrics.jsonl`.
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
}

/// An inner step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainRecord {
    /// Inner steps taken before this one.
    pub iteration: usize,
    /// Passes over the training items finished before this step.
    pub epoch: usize,
    /// Task losses `[T]`, in token order.
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
    pub task_losses: Vec<f64>,
    /// Sensitivities `dg/dl_t`, `[T]`, of the combined loss at `task_losses`.
    pub sensitivities: Vec<f64>,
    /// `c_t = <grad l_t, v>`, `[T]`: derivative of each task loss along the outer gradient.
    pub directional: Vec<f64>,
    /// Euclidean norm of the hypergradient before clipping.
    pub hypergradient_norm: f64,
    /// How the hypergradient was obtained and how good it is.
    pub certificate: CertificateRecord,
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
}

/// The combined loss as a function of one task loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponseCurve {
    /// Values of the task loss.
    pub task_loss: Vec<f64>,
    /// Combined loss at each of them.
    pub combined_loss: Vec<f64>,
}

/// `summary.json`, written when a run ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of this layout.
    pub format_version: u32,
    /// Name of the run.
    pub name: String,
    /// Name of the combiner: `primary`, `sum`, `meltr`.
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
