//! The command line of `meltr plan`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Arguments of `meltr plan`.
#[derive(Debug, Args)]
pub struct PlanArguments {
    /// The experiment, a TOML file.
    pub experiment: PathBuf,
    /// Overrides a key of the experiment, such as `task.batch_size=8`; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Largest batch that is tried; what lies beyond is extrapolated. Default: the experiment's,
    /// if smaller ones show that it is safe to try.
    #[arg(long, value_name = "ITEMS")]
    pub up_to: Option<usize>,
    /// Seconds that the trials may take together.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub limit: u64,
    /// Try no evaluation; its memory and its time are left out.
    #[arg(long)]
    pub skip_evaluation: bool,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print the plan as one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
    /// Be a trial that another process of this program has started.
    #[arg(long, value_enum, hide = true, requires_all = ["trial_batch", "trial_folder"])]
    pub trial: Option<TrialKind>,
    /// Items of a batch of the trial.
    #[arg(long, hide = true, requires = "trial")]
    pub trial_batch: Option<usize>,
    /// An empty folder that the trial may write to.
    #[arg(long, hide = true, requires = "trial")]
    pub trial_folder: Option<PathBuf>,
}

/// What a trial tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TrialKind {
    /// A few steps of both levels, then a checkpoint.
    Steps,
    /// One evaluation.
    Evaluation,
}
