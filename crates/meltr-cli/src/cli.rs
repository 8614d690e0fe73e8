//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::data::arguments::{DataArguments, DecoderName};
use crate::score::arguments::ScoreArguments;
use crate::weights::WeightsConvertArguments;

/// Fine-tune video-language models with a learned combination of losses.
#[derive(Debug, Parser)]
#[command(name = "meltr", version, about, long_about = None)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One fine-tuning run.
    #[command(
        after_help = "Example:\n  meltr fine-tune xtask/experiments/univl/emoji-clips-retrieval.toml \
                            --set combiner.name=sum --out runs/sum\n  \
                            meltr fine-tune --resume runs/sum"
    )]
    FineTune(FineTuneArguments),
    /// Metrics of a run's weights.
    #[command(after_help = "Example:\n  meltr evaluate runs/sum --split valid")]
    Evaluate(EvaluateArguments),
    /// All combiners, several seeds each; prints the comparison and writes a report.
    #[command(
        after_help = "Example:\n  meltr repro xtask/experiments/univl/emoji-clips-retrieval.toml --seeds 3"
    )]
    Repro(ReproArguments),
    /// Metrics of files made elsewhere: captions, similarities, answers, sentiments.
    #[command(
        after_help = "Example:\n  meltr score captions results.json annotations.json --tokenize ptb"
    )]
    Score(ScoreArguments),
    /// One self-contained HTML file about one or several runs.
    #[command(after_help = "Example:\n  meltr report runs/sum runs/meltr --out report.html")]
    Report(ReportArguments),
    /// Names, shapes and dtypes of a weights file.
    #[command(
        after_help = "Example:\n  meltr weights inspect runs/sum/checkpoints/last/inner.safetensors"
    )]
    Weights(WeightsArguments),
    /// Compares the implementation with reference directories.
    #[command(after_help = "Example:\n  meltr reference fixtures/loss_transformer_t8 --json")]
    Reference(ReferenceArguments),
    /// Data sets: registry, downloads, health checks, inspection, frames, features, conversion.
    #[command(after_help = "Example:\n  meltr data check my-clips")]
    Data(DataArguments),
    /// What this binary can run on.
    #[command(after_help = "Example:\n  meltr devices")]
    Devices(DevicesArguments),
    /// Cost of steps, side by side in one run.
    #[command(after_help = "Example:\n  meltr bench meta-step")]
    Bench(BenchArguments),
}

/// Arguments of `meltr fine-tune`.
#[derive(Debug, Args)]
pub struct FineTuneArguments {
    /// The experiment, a TOML file. With --resume it is the run's own, and need not be given.
    #[arg(required_unless_present = "resume")]
    pub experiment: Option<PathBuf>,
    /// Overrides a key of the experiment, such as `inner.learning_rate=1e-4`; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Directory of the run; must not exist. Default: the next free number below `runs/NAME`.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Go on with this run from its newest checkpoint, with its own settings.
    #[arg(long, value_name = "RUN", conflicts_with = "out")]
    pub resume: Option<PathBuf>,
    /// Seed of every random choice; overrides the experiment's.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print the summary as one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `meltr evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArguments {
    /// Directory of the run.
    pub run: PathBuf,
    /// Split to evaluate. Default: the one that the experiment is compared on.
    #[arg(long)]
    pub split: Option<String>,
    /// Other weights than the run's own: a PyTorch checkpoint or safetensors. Refused if they
    /// hold less of the model than `model.weights_share` asks for.
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print the metrics as one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `meltr repro`.
#[derive(Debug, Args)]
pub struct ReproArguments {
    /// The experiment, a TOML file.
    pub experiment: PathBuf,
    /// Seeds per combiner.
    #[arg(long, default_value_t = 3)]
    pub seeds: u64,
    /// Runs at a time, each on one thread. Default: the number of cores.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Directory below which the runs go.
    #[arg(long, default_value = "runs")]
    pub out: PathBuf,
    /// Inner steps, instead of the experiment's.
    #[arg(long)]
    pub iterations: Option<usize>,
    /// Overrides a key of the experiment; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print the comparison as one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `meltr report`.
#[derive(Debug, Args)]
pub struct ReportArguments {
    /// Directories of runs.
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// The file to write; replaced if it exists.
    #[arg(long, default_value = "report.html")]
    pub out: PathBuf,
    /// Print the comparison as one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `meltr weights`.
#[derive(Debug, Args)]
pub struct WeightsArguments {
    /// What to do with the file.
    #[command(subcommand)]
    pub command: WeightsCommand,
}

/// What can be done with weights.
#[derive(Debug, Subcommand)]
pub enum WeightsCommand {
    /// Lists names, shapes and dtypes.
    Inspect {
        /// A safetensors file, or a checkpoint of PyTorch.
        file: PathBuf,
        /// Print one JSON document and nothing else.
        #[arg(long)]
        json: bool,
    },
    /// Writes the tensors of a checkpoint into a safetensors file.
    #[command(
        after_help = "Example:\n  meltr weights convert univl.pretrained.bin --out univl.safetensors"
    )]
    Convert(WeightsConvertArguments),
}

/// Arguments of `meltr reference`.
#[derive(Debug, Args)]
pub struct ReferenceArguments {
    /// Reference directories: config.json, weights, inputs, expected.
    #[arg(required = true)]
    pub directories: Vec<PathBuf>,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print one JSON document and nothing else (a list, if several directories are given).
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `meltr devices`.
#[derive(Debug, Args)]
pub struct DevicesArguments {
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `meltr bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Hypergradients, beside Python libraries where interpreters are given.
    Aid(AidOptions),
    /// Auxiliary losses of which it is known whether they help: who finds out.
    Auxiliary(AuxiliaryOptions),
    /// Caption metrics, beside pycocoevalcap.
    Captions(CaptionsBenchOptions),
    /// Beam search with and without keys and values kept.
    CaptionsSearch(CaptionsSearchOptions),
    /// Frames of videos and features of pickles, beside Python.
    Data(DataBenchOptions),
    /// Plain multi-task step against meta steps, for T = 2, 4 and 8 losses.
    MetaStep(BenchOptions),
    /// One training step of each backbone at its published size: seconds and memory.
    PublishedSize(PublishedSizeOptions),
    /// A training step of each backbone, against PyTorch if a Python with it is given.
    TrainStep(TrainStepOptions),
}

/// Options of all benchmarks.
#[derive(Debug, Args)]
pub struct BenchOptions {
    /// Counted repetitions; medians are quoted.
    #[arg(long, default_value_t = 15)]
    pub repeats: usize,
    /// Pairs in a batch.
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Options of `meltr bench aid`.
#[derive(Debug, Args)]
pub struct AidOptions {
    /// A Python interpreter with PyTorch, betty-ml, torchopt and hypergrad.
    #[arg(long)]
    pub python: Option<PathBuf>,
    /// A Python interpreter with jaxopt and optimistix.
    #[arg(long)]
    pub jax_python: Option<PathBuf>,
    /// The folder of the scripts of the Python side.
    #[arg(long, default_value = "xtask/peers")]
    pub scripts: PathBuf,
    /// `quadratic`, `reweighting` or `transformer`; repeatable. Default: all of them.
    #[arg(long = "problem", value_name = "PROBLEM")]
    pub problems: Vec<String>,
    /// Counted hypergradients of each side.
    #[arg(long, default_value_t = 21)]
    pub repeats: usize,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Options of `meltr bench auxiliary`.
#[derive(Debug, Args)]
pub struct AuxiliaryOptions {
    /// Seeds of each method.
    #[arg(long, default_value_t = 10)]
    pub seeds: u64,
    /// A method, such as `meltr`; repeatable. Default: all of them.
    #[arg(long = "method", value_name = "METHOD")]
    pub methods: Vec<String>,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Options of `meltr bench captions`.
#[derive(Debug, Args)]
pub struct CaptionsBenchOptions {
    /// A Python interpreter with pycocoevalcap and numpy, and Java on the search path.
    #[arg(long, default_value = "python3")]
    pub python: PathBuf,
    /// The script of the Python side.
    #[arg(long, default_value = "xtask/peers/caption_peer.py")]
    pub script: PathBuf,
    /// The folder of METEOR's data; without it, METEOR is left out on both sides.
    #[arg(long, value_name = "FOLDER")]
    pub meteor: Option<PathBuf>,
    /// Captions.
    #[arg(long, default_value_t = 1000)]
    pub items: usize,
    /// References of each caption.
    #[arg(long, default_value_t = 20)]
    pub references: usize,
    /// Repeats of each side.
    #[arg(long, default_value_t = 3)]
    pub repeats: usize,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Options of `meltr bench captions-search`.
#[derive(Debug, Args)]
pub struct CaptionsSearchOptions {
    /// Counted searches of each side; medians are quoted.
    #[arg(long, default_value_t = 3)]
    pub repeats: usize,
    /// Items that are captioned at a time.
    #[arg(long, default_value_t = 4)]
    pub batch: usize,
    /// Hypotheses of each item; 1 is greedy search.
    #[arg(long, default_value_t = 5)]
    pub beam: usize,
    /// Tokens of a caption.
    #[arg(long, default_value_t = 20)]
    pub steps: usize,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Options of `meltr bench data`.
#[derive(Debug, Args)]
pub struct DataBenchOptions {
    /// A Python interpreter with numpy, PyTorch and PyAV.
    #[arg(long, default_value = "python3")]
    pub python: PathBuf,
    /// The script of the Python side.
    #[arg(long, default_value = "xtask/peers/data_peer.py")]
    pub script: PathBuf,
    /// A decoder of our side; repeatable. Default: all that this binary has.
    #[arg(long = "decoder", value_enum, value_name = "DECODER")]
    pub decoders: Vec<DecoderName>,
    /// Videos to decode; without any, only pickles are read.
    #[arg(value_name = "CLIP")]
    pub clips: Vec<PathBuf>,
    /// Repeats of each side.
    #[arg(long, default_value_t = 5)]
    pub repeats: usize,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// A backbone, as options name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackboneName {
    /// UniVL, on frame features.
    #[value(name = "univl")]
    UniVl,
    /// VIOLET, on raw frames.
    Violet,
    /// All-in-one, on raw frames.
    #[value(name = "allinone")]
    AllInOne,
}

/// Options of `meltr bench train-step`.
#[derive(Debug, Args)]
pub struct TrainStepOptions {
    /// A backbone; repeatable. Default: all of them.
    #[arg(long = "backbone", value_enum, value_name = "BACKBONE")]
    pub backbones: Vec<BackboneName>,
    /// A Python interpreter with PyTorch, torchvision and timm, to run the same step there.
    #[arg(long)]
    pub python: Option<PathBuf>,
    /// The folder of the scripts of the PyTorch side.
    #[arg(long, default_value = "xtask/peers")]
    pub scripts: PathBuf,
    /// Counted steps of each side.
    #[arg(long, default_value_t = 5)]
    pub repeats: usize,
    /// Pairs in a batch. Default: 4 for VIOLET, 8 for the others.
    #[arg(long)]
    pub batch: Option<usize>,
    /// Threads of each side. Default: the number of cores.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Options of `meltr bench published-size`.
#[derive(Debug, Args)]
pub struct PublishedSizeOptions {
    /// A backbone; repeatable. Default: all of them.
    #[arg(long = "backbone", value_enum, value_name = "BACKBONE")]
    pub backbones: Vec<BackboneName>,
    /// Pairs in a batch; contrastive losses of a single one are constant.
    #[arg(long, default_value_t = 2)]
    pub batch: usize,
    /// Keep the results of all operations instead of computing cheap ones again.
    #[arg(long)]
    pub keep_activations: bool,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}
