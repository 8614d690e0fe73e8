//! `meltr bench train-step`: a training step of each backbone, beside the same step in PyTorch.
//!
//! Blocks of steps of both sides alternate, so that a drift of the machine reaches both. Several
//! backbones run in processes of their own, one after the other: the peak of the resident memory
//! never falls within a process.

use std::collections::BTreeMap;

use burn::tensor::Device;
use clap::ValueEnum;
use meltr_core::{Combiner, Pass, PlainSum, vec_f64};
use meltr_data::seed_for;
use meltr_models::{
    AllInOne, AllInOneConfig, AllInOneTask, SwinConfig, UniVl, UniVlConfig, Violet, VioletConfig,
    VioletTask,
};
use meltr_train::{BertAdamConfig, Precision, peak_memory_bytes};
use serde::{Deserialize, Serialize};

use super::child::{THREADS_VARIABLES, json_of, set_threads, this_program};
use super::pytorch_peer::{Economy, PeerOutput, PyTorchPeer, torch_device};
use super::random_batch::{BatchSize, random_allinone_batch, random_batch, random_violet_batch};
use super::statistics::median;
use super::text_table::TextTable;
use super::trainee::{Backbone, Trainee};
use super::{BURN_VERSION, mebibytes, require_nonzero, threads, timed};
use crate::cli::{BackboneName, TrainStepOptions};
use crate::device;
use crate::error::CliError;
use crate::output;

/// Alternations of the sides.
const BLOCKS: usize = 2;

/// Tokens of a text.
pub(super) const WORDS: usize = 24;

/// Frames of a video of UniVL, which are features.
pub(super) const UNIVL_FRAMES: usize = 16;

/// Raw frames of a video of VIOLET, and their height and width in pixels.
const VIOLET_FRAMES: usize = 4;
const VIOLET_SIDE: usize = 96;

/// The same with `--published`, as the released code's defaults have them.
pub(super) const UNIVL_WORDS: usize = 48;
pub(super) const UNIVL_PUBLISHED_FRAMES: usize = 48;
const VIOLET_WORDS: usize = 25;
const VIOLET_PUBLISHED_FRAMES: usize = 5;
const VIOLET_PUBLISHED_SIDE: usize = 224;

/// Height and width in pixels of All-in-one's raw frames.
const ALLINONE_SIDE: usize = 112;

/// A step is to take at most so many times PyTorch's time.
const TARGET: f64 = 1.3;

/// Seed of everything random.
const SEED: u64 = 1;

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    meltr: &'static str,
    burn: &'static str,
    device: String,
    threads: usize,
    /// Of the products of linear layers, on both sides.
    precision: Precision,
    blocks: usize,
    target_ratio_at_most: f64,
    backbones: Vec<Measured>,
}

/// What is read of the report of a process that measured one backbone.
#[derive(Debug, Deserialize)]
struct Part {
    backbones: Vec<Measured>,
}

/// What was measured of one backbone.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    backbone: String,
    /// Its sizes, and those of the batch, in words.
    about: String,
    model: serde_json::Value,
    n_parameters: usize,
    batch_size: usize,
    words: usize,
    frames: usize,
    ours: Side,
    /// Empty without `--python`.
    peers: Vec<Peer>,
}

/// PyTorch, with what it costs this side relative to it.
#[derive(Debug, Serialize, Deserialize)]
struct Peer {
    economy: Economy,
    torch: String,
    threads: usize,
    #[serde(flatten)]
    side: Side,
    /// Seconds of our step by those of the peer's.
    step_ratio: f64,
    /// The same of forward passes.
    forward_ratio: f64,
}

/// Times of one side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Side {
    /// Median.
    step_seconds: f64,
    /// Median, of forward passes without a tape.
    forward_seconds: f64,
    peak_memory_bytes: Option<u64>,
    /// Of tensors on a GPU, where the side tells.
    #[serde(default)]
    peak_device_memory_bytes: Option<u64>,
    /// Each loss in the first step, before any update.
    losses_first_step: BTreeMap<String, f64>,
    step_samples: Vec<f64>,
    forward_samples: Vec<f64>,
}

impl Side {
    /// Adds what a block has measured.
    fn extend(&mut self, steps: &[f64], forwards: &[f64], peak: Option<u64>) {
        self.step_samples.extend_from_slice(steps);
        self.forward_samples.extend_from_slice(forwards);
        self.step_seconds = median(&self.step_samples);
        self.forward_seconds = median(&self.forward_samples);
        self.peak_memory_bytes = self.peak_memory_bytes.max(peak);
    }
}

pub(super) fn run(options: &TrainStepOptions) -> Result<(), CliError> {
    require_nonzero("--repeats", options.repeats)?;
    if let Some(pairs) = options.batch {
        require_nonzero("--batch", pairs)?;
    }
    if let Some(wanted) = options.threads {
        require_nonzero("--threads", wanted)?;
    }
    let report = Report {
        benchmark: "train-step",
        meltr: env!("CARGO_PKG_VERSION"),
        burn: BURN_VERSION,
        device: options.device.clone(),
        threads: options.threads.unwrap_or_else(threads),
        precision: precision(options),
        blocks: BLOCKS,
        target_ratio_at_most: TARGET,
        backbones: measured(options)?,
    };
    if options.json {
        return output::json(&report);
    }
    print(&report);
    Ok(())
}

/// The backbones that are asked for, in the order of their kinds; all of them if none is.
pub(super) fn wanted_backbones(asked_for: &[BackboneName]) -> Vec<BackboneName> {
    BackboneName::value_variants()
        .iter()
        .copied()
        .filter(|backbone| asked_for.is_empty() || asked_for.contains(backbone))
        .collect()
}

/// The name of a backbone on the command line.
pub(super) fn flag_value(backbone: BackboneName) -> &'static str {
    match backbone {
        BackboneName::UniVl => "univl",
        BackboneName::Violet => "violet",
        BackboneName::AllInOne => "allinone",
    }
}

/// The name of a backbone in texts.
pub(super) fn label(backbone: BackboneName) -> &'static str {
    match backbone {
        BackboneName::UniVl => "UniVL",
        BackboneName::Violet => "VIOLET",
        BackboneName::AllInOne => "All-in-one",
    }
}

/// All that is asked for: here, if that is one backbone and this process has the right number of
/// threads, otherwise each in a process of its own.
fn measured(options: &TrainStepOptions) -> Result<Vec<Measured>, CliError> {
    let wanted = wanted_backbones(&options.backbones);
    if let [only] = wanted[..]
        && options.threads.is_none_or(threads_are)
    {
        return Ok(vec![measure_here(only, options)?]);
    }
    let mut measured = Vec::with_capacity(wanted.len());
    for backbone in wanted {
        note(options, &format!("{}:", label(backbone)));
        measured.extend(measure_alone(backbone, options)?);
    }
    Ok(measured)
}

fn note(options: &TrainStepOptions, text: &str) {
    if !options.json {
        output::note(text);
    }
}

/// Whether this process was started with so many threads.
fn threads_are(wanted: usize) -> bool {
    THREADS_VARIABLES
        .into_iter()
        .all(|variable| std::env::var(variable).is_ok_and(|value| value == wanted.to_string()))
}

/// Measures one backbone in a new process, with the right number of threads: the pool of this one
/// may exist.
fn measure_alone(
    backbone: BackboneName,
    options: &TrainStepOptions,
) -> Result<Vec<Measured>, CliError> {
    let mut command = this_program("train-step")?;
    command
        .args(["--backbone", flag_value(backbone)])
        .arg("--repeats")
        .arg(options.repeats.to_string())
        .arg("--device")
        .arg(&options.device)
        .arg("--scripts")
        .arg(&options.scripts);
    if let Some(pairs) = options.batch {
        command.arg("--batch").arg(pairs.to_string());
    }
    if options.published {
        command.arg("--published");
    }
    if options.bf16 {
        command.arg("--bf16");
    }
    if let Some(python) = &options.python {
        command.arg("--python").arg(python);
    }
    if let Some(wanted) = options.threads {
        command.arg("--threads").arg(wanted.to_string());
        set_threads(&mut command, wanted);
    }
    let part: Part = json_of(&mut command, label(backbone))?;
    Ok(part.backbones)
}

fn measure_here(backbone: BackboneName, options: &TrainStepOptions) -> Result<Measured, CliError> {
    let device = device::parse(&options.device)?;
    match backbone {
        BackboneName::UniVl => measure(univl(options, &device)?, options, &device),
        BackboneName::Violet => measure(violet(options, &device)?, options, &device),
        BackboneName::AllInOne => measure(allinone(options, &device)?, options, &device),
    }
}

/// An economy of a script with its flags.
pub(super) type EconomyFlags = (Economy, &'static [&'static str]);

/// Of UniVL's scripts.
pub(super) const UNIVL_ECONOMIES: [EconomyFlags; 2] = [
    (Economy::Same, &["--sparse-pairs", "--sparse-heads"]),
    (Economy::AsReleased, &[]),
];

/// Of scripts that know no other economy than ours.
const SAME_ECONOMY: [EconomyFlags; 1] = [(Economy::Same, &[])];

/// A backbone of reduced depth, what it reads, and its peer.
struct Subject<M: Backbone> {
    backbone: BackboneName,
    about: String,
    config: serde_json::Value,
    size: BatchSize,
    model: M,
    batch: M::Batch,
    /// File name of the script of the PyTorch side.
    script: &'static str,
    /// Flags of the script with the numbers that neither the config nor `size` has.
    counts: Vec<(&'static str, usize)>,
    economies: &'static [EconomyFlags],
}

fn univl(options: &TrainStepOptions, device: &Device) -> Result<Subject<UniVl>, CliError> {
    let published = options.published;
    let config = if published {
        UniVlConfig::base()
    } else {
        univl_config()
    };
    let size = BatchSize {
        pairs: options.batch.unwrap_or(8),
        words: if published { UNIVL_WORDS } else { WORDS },
        frames: if published {
            UNIVL_PUBLISHED_FRAMES
        } else {
            UNIVL_FRAMES
        },
    };
    Ok(Subject {
        backbone: BackboneName::UniVl,
        about: format!(
            "width {}, layers {} text, {} visual, {} cross, {} decoder; eight losses on {} pairs \
             of {} words and {} frames",
            config.d_model,
            config.text_layers,
            config.visual_layers,
            config.cross_layers,
            config.decoder_layers,
            size.pairs,
            size.words,
            size.frames
        ),
        config: serde_json::to_value(&config).map_err(CliError::failed)?,
        size,
        model: config.init(seed_for(SEED, &[0]), device)?,
        batch: random_batch(&config, size, seed_for(SEED, &[1]), device),
        script: "univl_train_step.py",
        counts: Vec::new(),
        economies: &UNIVL_ECONOMIES,
    })
}

fn violet(options: &TrainStepOptions, device: &Device) -> Result<Subject<Violet>, CliError> {
    let published = options.published;
    let config = if published {
        VioletConfig::base(VioletTask::Retrieval)
    } else {
        violet_config()
    };
    let size = BatchSize {
        pairs: options.batch.unwrap_or(4),
        words: if published { VIOLET_WORDS } else { WORDS },
        frames: if published {
            VIOLET_PUBLISHED_FRAMES
        } else {
            VIOLET_FRAMES
        },
    };
    let side = if published {
        VIOLET_PUBLISHED_SIDE
    } else {
        VIOLET_SIDE
    };
    let depths = config.swin.depths;
    let seed = seed_for(SEED, &[1]);
    Ok(Subject {
        backbone: BackboneName::Violet,
        about: format!(
            "width {}, {depths:?} blocks in four Swin stages, {} cross layers; three losses on {} \
             pairs of {} words and {} frames of {side} pixels",
            config.d_model(),
            config.n_layers,
            size.pairs,
            size.words,
            size.frames
        ),
        config: serde_json::to_value(&config).map_err(CliError::failed)?,
        size,
        model: config.init(seed_for(SEED, &[0]), device)?,
        batch: random_violet_batch(&config, size, side, seed, device),
        script: "violet_train_step.py",
        counts: vec![("--side", side)],
        economies: &SAME_ECONOMY,
    })
}

fn allinone(options: &TrainStepOptions, device: &Device) -> Result<Subject<AllInOne>, CliError> {
    let config = if options.published {
        AllInOneConfig::base(AllInOneTask::Retrieval)
    } else {
        allinone_config()
    };
    let size = BatchSize {
        pairs: options.batch.unwrap_or(8),
        words: WORDS,
        frames: config.n_frames,
    };
    Ok(Subject {
        backbone: BackboneName::AllInOne,
        about: format!(
            "width {}, {} blocks; two losses on {} pairs of {} words and {} frames of {} pixels",
            config.d_model, config.n_layers, size.pairs, size.words, size.frames, config.image_size
        ),
        config: serde_json::to_value(&config).map_err(CliError::failed)?,
        size,
        model: config.init(seed_for(SEED, &[0]), device)?,
        batch: random_allinone_batch(&config, size, seed_for(SEED, &[1]), device),
        script: "allinone_train_step.py",
        counts: Vec::new(),
        economies: &SAME_ECONOMY,
    })
}

/// The published network with fewer layers.
pub(super) fn univl_config() -> UniVlConfig {
    UniVlConfig {
        text_layers: 2,
        visual_layers: 1,
        cross_layers: 2,
        decoder_layers: 1,
        ..UniVlConfig::base()
    }
}

/// The published network with fewer layers. Two blocks a stage, so that windows shift.
fn violet_config() -> VioletConfig {
    let base = VioletConfig::base(VioletTask::Retrieval);
    VioletConfig {
        swin: SwinConfig {
            depths: [2; 4],
            ..base.swin
        },
        n_layers: 2,
        ..base
    }
}

/// The published network with fewer layers and smaller frames.
fn allinone_config() -> AllInOneConfig {
    AllInOneConfig {
        n_layers: 2,
        image_size: ALLINONE_SIDE,
        ..AllInOneConfig::base(AllInOneTask::Retrieval)
    }
}

fn precision(options: &TrainStepOptions) -> Precision {
    if options.bf16 {
        Precision::Bf16
    } else {
        Precision::F32
    }
}

/// Blocks of both sides in turn.
fn measure<M: Backbone>(
    subject: Subject<M>,
    options: &TrainStepOptions,
    device: &Device,
) -> Result<Measured, CliError> {
    let Subject {
        backbone,
        about,
        config,
        size,
        model,
        batch,
        script,
        mut counts,
        economies,
    } = subject;
    counts.extend([
        ("--batch", size.pairs),
        ("--words", size.words),
        ("--frames", size.frames),
        ("--threads", threads()),
    ]);
    let peer = match &options.python {
        Some(python) => {
            let script = options.scripts.join(script);
            let device = torch_device(&options.device);
            Some(PyTorchPeer::new(python, script, &config, counts, device)?)
        }
        None => None,
    };
    let n_parameters = model.num_params();
    let mut ours = Ours::new(model, batch, options, device)?;
    let steps = options.repeats.div_ceil(BLOCKS);
    let mut outputs: Vec<(Economy, PeerOutput)> = Vec::new();
    for block in 1..=BLOCKS {
        note(
            options,
            &format!("block {block} of {BLOCKS}: meltr, {steps} steps"),
        );
        ours.block(steps)?;
        let Some(peer) = &peer else {
            continue;
        };
        for (economy, switches) in economies {
            let label = economy.label();
            note(
                options,
                &format!("block {block} of {BLOCKS}: PyTorch, {label}, {steps} steps"),
            );
            let precision: &[&str] = if options.bf16 { &["--bf16"] } else { &[] };
            let switches = [*switches, precision].concat();
            outputs.push((*economy, peer.run(&switches, steps)?));
        }
    }
    let ours = ours.side;
    Ok(Measured {
        backbone: label(backbone).to_owned(),
        about,
        model: config,
        n_parameters,
        batch_size: size.pairs,
        words: size.words,
        frames: size.frames,
        peers: peers(&ours, &outputs),
        ours,
    })
}

/// This side: the network, its optimizer and a batch.
struct Ours<M: Backbone> {
    device: Device,
    trainee: Trainee<M>,
    batch: M::Batch,
    side: Side,
    /// Passes so far; fixes the dropout masks of the next.
    n_passes: u64,
}

impl<M: Backbone> Ours<M> {
    fn new(
        model: M,
        batch: M::Batch,
        options: &TrainStepOptions,
        device: &Device,
    ) -> Result<Self, CliError> {
        // As in the scripts.
        let inner = BertAdamConfig {
            t_warmup: 1000,
            ..BertAdamConfig::default()
        };
        let sum = Combiner::Sum(PlainSum::new(model.loss_names().len()));
        Ok(Self {
            device: device.clone(),
            trainee: Trainee::new(model, sum, inner)?.with_precision(precision(options)),
            batch,
            side: Side::default(),
            n_passes: 0,
        })
    }

    /// Times training steps, then forward passes; one more of each at first does not count.
    fn block(&mut self, steps: usize) -> Result<(), CliError> {
        let mut step_seconds = Vec::with_capacity(steps + 1);
        for _ in 0..=steps {
            let pass = self.pass();
            let Self {
                device,
                trainee,
                batch,
                ..
            } = self;
            let (losses, seconds) = timed(device, || {
                trainee.step(|model| model.all_losses(batch, pass))
            })?;
            step_seconds.push(seconds);
            if self.side.losses_first_step.is_empty() {
                let names = self.trainee.model.loss_names().into_iter();
                self.side.losses_first_step = names.map(str::to_owned).zip(losses).collect();
            }
        }
        let peak = peak_memory_bytes();
        let model = self.trainee.computing().valid();
        let mut forward_seconds = Vec::with_capacity(steps + 1);
        for _ in 0..=steps {
            let pass = self.pass();
            let (_, seconds) = timed(&self.device, || {
                Ok(vec_f64(model.all_losses(&self.batch, pass).into_data()))
            })?;
            forward_seconds.push(seconds);
        }
        self.side
            .extend(&step_seconds[1..], &forward_seconds[1..], peak);
        Ok(())
    }

    fn pass(&mut self) -> Pass {
        self.n_passes += 1;
        Pass::Stochastic {
            seed: seed_for(SEED, &[2, self.n_passes]),
        }
    }
}

/// The runs of each economy together, beside our times.
fn peers(ours: &Side, outputs: &[(Economy, PeerOutput)]) -> Vec<Peer> {
    let mut peers = Vec::new();
    for economy in [Economy::Same, Economy::AsReleased] {
        let mut side = Side::default();
        let mut last = None;
        for (_, output) in outputs.iter().filter(|(of, _)| *of == economy) {
            side.extend(
                &output.step_seconds,
                &output.forward_seconds,
                Some(output.peak_rss_bytes),
            );
            side.peak_device_memory_bytes =
                side.peak_device_memory_bytes.max(output.peak_device_bytes);
            last = Some(output);
        }
        if let Some(output) = last {
            side.losses_first_step.clone_from(&output.losses_first_step);
            peers.push(Peer {
                economy,
                torch: output.torch.clone(),
                threads: output.threads,
                step_ratio: ours.step_seconds / side.step_seconds,
                forward_ratio: ours.forward_seconds / side.forward_seconds,
                side,
            });
        }
    }
    peers
}

fn print(report: &Report) {
    output::line(&format!(
        "meltr {}, burn {}, device {}, {} threads",
        report.meltr, report.burn, report.device, report.threads
    ));
    for measured in &report.backbones {
        output::line(&format!(
            "{}, {:.1} M parameters: {}; medians of {} steps",
            measured.backbone,
            measured.n_parameters as f64 / 1e6,
            measured.about,
            measured.ours.step_samples.len(),
        ));
    }
    output::line(&format!(
        "a step is forward, backward and BertAdam; {} blocks of each side in turn",
        report.blocks
    ));
    output::line("");
    for line in table(report).lines() {
        output::line(&line);
    }
    output::line("");
    let peers: Vec<(&Measured, &Peer)> = report
        .backbones
        .iter()
        .flat_map(|measured| measured.peers.iter().map(move |peer| (measured, peer)))
        .collect();
    if peers.is_empty() {
        output::line(
            "for a comparison with PyTorch: meltr bench train-step --python PYTHON, an \
             interpreter that has it (see xtask/peers/README.md)",
        );
        return;
    }
    output::line(&format!(
        "ratio: meltr's seconds by PyTorch's; target: at most {TARGET} of a step. Same economy: \
         what is read is computed and nothing else, as meltr does"
    ));
    for (measured, peer) in peers {
        if peer.threads != report.threads {
            output::line(&format!(
                "PyTorch ({}, {}) used {} threads, not {}: its ratio does not count",
                measured.backbone,
                peer.economy.label(),
                peer.threads,
                report.threads
            ));
        }
    }
    if torch_device(&report.device) == "cpu" && report.device != "flex" && report.device != "tch" {
        output::line(&format!(
            "PyTorch ran on the CPU, meltr on `{}`: the ratios compare devices",
            report.device
        ));
    }
}

/// Both sides of every backbone with the ratios.
fn table(report: &Report) -> TextTable {
    let mut table = TextTable::new([
        "",
        "step s",
        "forward s",
        "peak MiB",
        "step ratio",
        "target",
        "forward ratio",
    ]);
    let seconds = |seconds: f64| format!("{seconds:.3}");
    let dash = || "-".to_owned();
    for measured in &report.backbones {
        let backbone = &measured.backbone;
        let ours = &measured.ours;
        table.push([
            format!("{backbone}, meltr"),
            seconds(ours.step_seconds),
            seconds(ours.forward_seconds),
            mebibytes(ours.peak_memory_bytes),
            dash(),
            dash(),
            dash(),
        ]);
        for peer in &measured.peers {
            table.push([
                format!(
                    "{backbone}, PyTorch {}, {}",
                    peer.torch,
                    peer.economy.label()
                ),
                seconds(peer.side.step_seconds),
                seconds(peer.side.forward_seconds),
                mebibytes(peer.side.peak_memory_bytes),
                format!("{:.2}", peer.step_ratio),
                format!("at most {TARGET}"),
                format!("{:.2}", peer.forward_ratio),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(steps: &[f64], peak: u64) -> PeerOutput {
        PeerOutput {
            torch: "2.9.0".to_owned(),
            threads: 2,
            step_seconds: steps.to_vec(),
            forward_seconds: vec![0.5],
            losses_first_step: BTreeMap::from([("joint".to_owned(), 0.1)]),
            peak_rss_bytes: peak,
            peak_device_bytes: None,
        }
    }

    fn ours() -> Side {
        Side {
            step_seconds: 3.0,
            forward_seconds: 1.0,
            ..Side::default()
        }
    }

    #[test]
    fn runs_of_one_economy_are_taken_together() {
        let outputs = [
            (Economy::Same, output(&[1.0, 2.0], 10)),
            (Economy::AsReleased, output(&[6.0], 30)),
            (Economy::Same, output(&[9.0], 20)),
        ];
        let peers = peers(&ours(), &outputs);
        assert_eq!(peers.len(), 2);
        assert_eq!(peers[0].side.step_samples, [1.0, 2.0, 9.0]);
        assert_eq!(peers[0].side.peak_memory_bytes, Some(20));
        assert_eq!((peers[0].step_ratio, peers[0].forward_ratio), (1.5, 2.0));
        assert_eq!(peers[1].step_ratio, 0.5);
    }

    #[test]
    fn without_runs_there_is_no_peer() {
        assert!(peers(&Side::default(), &[]).is_empty());
    }

    #[test]
    fn what_a_process_measured_survives_json() {
        let measured = Measured {
            backbone: "VIOLET".to_owned(),
            about: "small".to_owned(),
            model: serde_json::json!({"n_layers": 2}),
            n_parameters: 7,
            batch_size: 4,
            words: 24,
            frames: 4,
            peers: peers(&ours(), &[(Economy::Same, output(&[2.0], 10))]),
            ours: ours(),
        };
        let text = serde_json::json!({"benchmark": "train-step", "backbones": [measured]});
        let part: Part = serde_json::from_str(&text.to_string()).unwrap();
        let read = &part.backbones[0];
        assert_eq!(read.ours, ours());
        assert_eq!(read.peers[0].economy, Economy::Same);
        assert_eq!(read.peers[0].side.step_samples, [2.0]);
        assert_eq!(read.peers[0].side.peak_memory_bytes, Some(10));
        assert_eq!(read.peers[0].step_ratio, 1.5);
    }

    #[test]
    fn all_backbones_are_measured_unless_some_are_named() {
        use BackboneName::{AllInOne, UniVl, Violet};
        assert_eq!(wanted_backbones(&[]), [UniVl, Violet, AllInOne]);
        assert_eq!(wanted_backbones(&[AllInOne, UniVl]), [UniVl, AllInOne]);
    }

    #[test]
    fn a_backbone_is_named_as_on_the_command_line() {
        for backbone in BackboneName::value_variants() {
            let value = backbone.to_possible_value().unwrap();
            assert_eq!(value.get_name(), flag_value(*backbone));
        }
    }

    #[test]
    fn the_networks_are_768_wide_and_can_read_the_batches() {
        let univl = univl_config();
        univl.validate().unwrap();
        assert!(univl.max_cross_positions >= WORDS + UNIVL_FRAMES);
        let violet = violet_config();
        violet.validate().unwrap();
        violet
            .require_clip(VIOLET_FRAMES, VIOLET_SIDE, VIOLET_SIDE)
            .unwrap();
        let allinone = allinone_config();
        allinone.validate().unwrap();
        assert!(allinone.max_text_positions >= WORDS);
        let widths = [univl.d_model, violet.d_model(), allinone.d_model];
        assert_eq!(widths, [768; 3]);
    }
}
