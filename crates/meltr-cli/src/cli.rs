//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use meltr_train::CombinerName;

use crate::data::arguments::{DataArguments, DecoderName};
use crate::infer::arguments::{
    AnswerArguments, CaptionArguments, RetrieveArguments, SentimentArguments,
};
use crate::plan::arguments::PlanArguments;
use crate::repro::share::Share;
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
                            --combiner sum --out runs/sum\n  \
                            meltr fine-tune --resume runs/sum\n\n\
                            Built with the feature mpi, several processes share a run; they share \
                            the train.accumulate batches of each step:\n  \
                            mpirun -np 2 meltr fine-tune EXPERIMENT.toml --set train.accumulate=2"
    )]
    FineTune(FineTuneArguments),
    /// What a run will need: parameters, passes, memory, time; from a few steps that are tried.
    #[command(
        after_help = "Steps are tried in processes of their own, on small batches first; the exit \
                      status is 1 if the run will not fit into memory.\n\n\
                      Example:\n  meltr plan xtask/experiments/univl/emoji-clips-retrieval.toml \
                      --set task.batch_size=64"
    )]
    Plan(PlanArguments),
    /// Metrics of a run's weights.
    #[command(after_help = "Example:\n  meltr evaluate runs/sum --split valid")]
    Evaluate(EvaluateArguments),
    /// Clips of one's own, ranked for a text by a run of retrieval.
    #[command(
        after_help = "Example:\n  meltr retrieve --run runs/sum --query \"a wave breaks\" \
                      --features my.safetensors\n  \
                      meltr retrieve --run runs/violet --query \"a wave breaks\" my-clips"
    )]
    Retrieve(RetrieveArguments),
    /// Captions of one's own clips by a run of captioning.
    #[command(
        after_help = "Example:\n  meltr caption --run runs/captions --features my.safetensors"
    )]
    Caption(CaptionArguments),
    /// Answers to questions about one's own clips by a run on raw frames.
    #[command(
        after_help = "Example:\n  meltr answer --run runs/qa --question \"what is it ?\" a.mp4 \
                      b.mp4\n  meltr answer --run runs/qa my-clips/manifest.jsonl"
    )]
    Answer(AnswerArguments),
    /// Sentiment of one's own utterances by a run of sentiment.
    #[command(
        after_help = "Example:\n  meltr sentiment --run runs/sentiment utterances.jsonl \
                      --features my.safetensors"
    )]
    Sentiment(SentimentArguments),
    /// Combiners with several seeds each; prints the comparison and writes a report.
    #[command(
        after_help = "The runs of a command are a sweep, a numbered folder below --out. The same \
                      command goes on with the newest one until all of its runs have finished: \
                      those that have are left alone, those that were begun are resumed. The next \
                      one starts another sweep. A sweep with other settings that has not finished \
                      is refused with the difference.\n\n\
                      Example:\n  meltr repro xtask/experiments/univl/emoji-clips-retrieval.toml \
                      --seeds 3\n  meltr repro xtask/experiments/univl/emoji-clips-retrieval.toml \
                      --combiners sum,meltr --shard 0/4"
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
    /// How the losses are combined, such as `sum`, `pc_grad`, `meltr` (the recommended form) or
    /// `meltr_published`; overrides the experiment's `combiner.name`.
    #[arg(long, value_name = "NAME")]
    pub combiner: Option<CombinerName>,
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
    /// End as on an interrupt once standard input is at its end, as runs of `meltr repro` do.
    #[arg(long, hide = true)]
    pub end_with_input: bool,
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
    /// Experiments, TOML files; one after the other.
    #[arg(required = true, value_name = "EXPERIMENT")]
    pub experiments: Vec<PathBuf>,
    /// Combiners that are compared, separated by commas, or `all`. Default: `primary`, `sum` and
    /// that of the experiment.
    #[arg(long, value_name = "NAMES")]
    pub combiners: Option<String>,
    /// Seeds per combiner.
    #[arg(long, default_value_t = 3)]
    pub seeds: u64,
    /// Runs at a time, each on one thread. Default: the number of cores.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Directory below which the sweeps go.
    #[arg(long, default_value = "runs")]
    pub out: PathBuf,
    /// Start another sweep, even if the newest one has not finished.
    #[arg(long, conflicts_with_all = ["shard", "collect"])]
    pub new: bool,
    /// Make only the runs of share I of N, I from 0; other processes make the others, in the same
    /// --out and with the same settings. No comparison is made.
    #[arg(long, value_name = "I/N", conflicts_with = "collect")]
    pub shard: Option<Share>,
    /// Make only the comparison of the newest sweep, whose runs have finished.
    #[arg(long)]
    pub collect: bool,
    /// Inner steps, instead of the experiment's.
    #[arg(long)]
    pub iterations: Option<usize>,
    /// Overrides a key of the experiment; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Weights of the auxiliary losses that `fixed` is tried with, separated by commas; the one
    /// whose runs are best by `train.best_metric`, in the mean over the seeds, is compared.
    #[arg(long, value_name = "WEIGHTS", value_delimiter = ',')]
    pub auxiliary_weights: Vec<f64>,
    /// Compare a second time with equal training time: each combiner takes as many steps as fit
    /// into the time that the plain sum took, by the median time of its own steps.
    #[arg(long)]
    pub equal_time: bool,
    /// Compare with equal training time alone, in half the time: a step of each combiner is timed
    /// in a run of 40 steps with the first seed, beside as many others as the runs that count.
    #[arg(long, conflicts_with = "auxiliary_weights")]
    pub equal_time_only: bool,
    /// The file that a line about each comparison is appended to. Default: ledger.jsonl in --out.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print the comparison as one JSON document and nothing else (a list, if several experiments
    /// are given).
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `meltr report`.
#[derive(Debug, Args)]
pub struct ReportArguments {
    /// Directories of runs, or folders that hold them; those of different folders are compared
    /// apart.
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
    #[command(
        after_help = "Example:\n  meltr weights inspect runs/sum/checkpoints/last/inner.safetensors"
    )]
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
    #[command(after_help = "Example:\n  meltr bench aid --problem quadratic")]
    Aid(AidOptions),
    /// Auxiliary losses of which it is known whether they help: who finds out.
    #[command(
        after_help = "Example:\n  meltr bench auxiliary --method sum --method meltr --seeds 3"
    )]
    Auxiliary(AuxiliaryOptions),
    /// Caption metrics, beside pycocoevalcap.
    #[command(after_help = "Example:\n  meltr bench captions --python python3 --items 100")]
    Captions(CaptionsBenchOptions),
    /// Beam search with and without keys and values kept.
    #[command(after_help = "Example:\n  meltr bench captions-search --beam 3")]
    CaptionsSearch(CaptionsSearchOptions),
    /// Frames of videos and features of pickles, beside Python.
    #[command(after_help = "Example:\n  meltr bench data --python python3 a.mp4 b.mp4")]
    Data(DataBenchOptions),
    /// Plain multi-task step against the steps of `meltr_published`, for T = 2, 4 and 8 losses;
    /// with a Python that has PyTorch, one outer step against the released algorithm there.
    #[command(after_help = "Example:\n  meltr bench meta-step\n  \
                      meltr bench meta-step --python python3 --mini --losses 2")]
    MetaStep(MetaStepOptions),
    /// One training step of each backbone at its published size: seconds and memory.
    #[command(after_help = "Example:\n  meltr bench published-size --backbone univl")]
    PublishedSize(PublishedSizeOptions),
    /// Texts ranked against videos by the cross encoder: throughput and memory, beside PyTorch if a
    /// Python with it is given.
    #[command(after_help = "Example:\n  meltr bench rank --items 250")]
    Rank(RankOptions),
    /// A training step of each backbone, against PyTorch if a Python with it is given.
    #[command(after_help = "Example:\n  meltr bench train-step --backbone univl --python python3")]
    TrainStep(TrainStepOptions),
}

/// Options of `meltr bench meta-step`.
#[derive(Debug, Args)]
pub struct MetaStepOptions {
    /// A Python interpreter with PyTorch and safetensors: one outer step beside the released
    /// algorithm there, and nothing else.
    #[arg(long)]
    pub python: Option<PathBuf>,
    /// The folder of the scripts of the PyTorch side.
    #[arg(long, default_value = "xtask/peers")]
    pub scripts: PathBuf,
    /// With --python: UniVL mini instead of width 768 with few layers.
    #[arg(long, requires = "python")]
    pub mini: bool,
    /// With --python: the published network and inputs instead of few layers and shorter inputs.
    #[arg(long, requires = "python", conflicts_with = "mini")]
    pub published: bool,
    /// With --python: once more with PyTorch computing all that the released network does, not only
    /// what is read.
    #[arg(long, requires = "python")]
    pub as_released: bool,
    /// With --python: a number of losses, from 2 to 8; repeatable. Default: 2, 5 and 8.
    #[arg(long = "losses", value_name = "T", requires = "python")]
    pub losses: Vec<usize>,
    /// With --python: threads of each side. Default: the number of cores.
    #[arg(long, requires = "python")]
    pub threads: Option<usize>,
    /// Counted repetitions; medians are quoted. Default: 15; with --python, 4 of each side.
    #[arg(long)]
    pub repeats: Option<usize>,
    /// Pairs in a batch. Default: 32; 8 at width 768.
    #[arg(long)]
    pub batch: Option<usize>,
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
    /// A method, under its name in `combiner.name`, such as `meltr`; repeatable. Default: all of
    /// them.
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
    /// The published networks and inputs instead of fewer layers and smaller inputs.
    #[arg(long)]
    pub published: bool,
    /// Products of linear layers in bfloat16, on both sides.
    #[arg(long)]
    pub bf16: bool,
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

/// Options of `meltr bench rank`.
#[derive(Debug, Args)]
pub struct RankOptions {
    /// Texts and as many videos; repeatable, each in a process of its own. Default: 250, 500 and
    /// 1000.
    #[arg(long = "items", value_name = "N")]
    pub items: Vec<usize>,
    /// A Python interpreter with PyTorch and safetensors, to score the same pairs there.
    #[arg(long)]
    pub python: Option<PathBuf>,
    /// The folder of the scripts of the PyTorch side.
    #[arg(long, default_value = "xtask/peers")]
    pub scripts: PathBuf,
    /// Texts and videos of the comparison with PyTorch.
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub compared: usize,
    /// Compare with PyTorch on the largest number of --items.
    #[arg(long, conflicts_with = "compared")]
    pub full: bool,
    /// Texts, and videos, that are scored against each other at a time, on both sides.
    #[arg(long, default_value_t = 64)]
    pub chunk: usize,
    /// Processes of each side in the comparison, in turn; medians are quoted.
    #[arg(long, default_value_t = 2)]
    pub repeats: usize,
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
