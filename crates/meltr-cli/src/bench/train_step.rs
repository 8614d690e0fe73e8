//! `meltr bench train-step`: a UniVL training step, beside the same step in PyTorch.
//!
//! Blocks of steps of both sides alternate, so that a drift of the machine reaches both.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use burn::module::Module;
use burn::tensor::Device;
use meltr_core::{Combiner, Pass, PlainSum, vec_f64};
use meltr_data::seed_for;
use meltr_models::{UniVlBatch, UniVlConfig, UniVlLoss};
use meltr_train::{BertAdamConfig, peak_memory_bytes};
use serde::Serialize;

use super::pytorch_peer::{Economy, PeerOutput, PyTorchPeer};
use super::random_batch::{BatchSize, random_batch};
use super::statistics::median;
use super::text_table::TextTable;
use super::trainee::Trainee;
use super::{BURN_VERSION, THREADS_VARIABLE, mebibytes, require_nonzero, threads, timed};
use crate::cli::TrainStepOptions;
use crate::device;
use crate::error::CliError;
use crate::output;

/// Alternations of the sides.
const BLOCKS: usize = 2;

/// Tokens of a text.
const WORDS: usize = 24;

/// Frames of a video.
const FRAMES: usize = 16;

/// A step is to take at most so many times PyTorch's time.
const TARGET: f64 = 1.6;

/// Variables that fix the number of threads: rayon's and, for LibTorch, OpenMP's.
const THREADS_VARIABLES: [&str; 2] = [THREADS_VARIABLE, "OMP_NUM_THREADS"];

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
    model: UniVlConfig,
    n_parameters: usize,
    batch_size: usize,
    words: usize,
    frames: usize,
    blocks: usize,
    target_ratio_at_most: f64,
    ours: Side,
    /// Empty without `--python`.
    peers: Vec<Peer>,
}

/// PyTorch, with what it costs this side relative to it.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Side {
    /// Median.
    step_seconds: f64,
    /// Median, of forward passes without a tape.
    forward_seconds: f64,
    peak_memory_bytes: Option<u64>,
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
    require_nonzero("--batch", options.batch)?;
    if let Some(wanted) = options.threads {
        require_nonzero("--threads", wanted)?;
        if !threads_are(wanted) {
            return run_again(options, wanted);
        }
    }
    let device = device::parse(&options.device)?;
    let config = config();
    let size = BatchSize {
        pairs: options.batch,
        words: WORDS,
        frames: FRAMES,
    };
    let peer = match &options.python {
        Some(python) => Some(PyTorchPeer::new(
            python,
            &options.script,
            &config,
            size,
            threads(),
        )?),
        None => None,
    };
    let mut ours = Ours::new(&config, size, &device)?;
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
        for economy in [Economy::Same, Economy::AsReleased] {
            let label = economy.label();
            note(
                options,
                &format!("block {block} of {BLOCKS}: PyTorch, {label}, {steps} steps"),
            );
            outputs.push((economy, peer.run(economy, steps)?));
        }
    }
    let n_parameters = ours.trainee.model.num_params();
    let ours = ours.side;
    let report = Report {
        benchmark: "train-step",
        meltr: env!("CARGO_PKG_VERSION"),
        burn: BURN_VERSION,
        device: options.device.clone(),
        threads: threads(),
        model: config,
        n_parameters,
        batch_size: options.batch,
        words: WORDS,
        frames: FRAMES,
        blocks: BLOCKS,
        target_ratio_at_most: TARGET,
        peers: peers(&ours, &outputs),
        ours,
    };
    if options.json {
        return output::json(&report);
    }
    print(&report);
    Ok(())
}

/// The published network with fewer layers.
fn config() -> UniVlConfig {
    UniVlConfig {
        text_layers: 2,
        visual_layers: 1,
        cross_layers: 2,
        decoder_layers: 1,
        ..UniVlConfig::base()
    }
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

/// Runs the same command in a new process with so many threads: the pool of this one may exist.
fn run_again(options: &TrainStepOptions, wanted: usize) -> Result<(), CliError> {
    let program = std::env::current_exe().map_err(CliError::failed)?;
    let mut command = Command::new(&program);
    command.args(["bench", "train-step"]);
    for (flag, value) in [
        ("--repeats", options.repeats),
        ("--batch", options.batch),
        ("--threads", wanted),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    command
        .arg("--device")
        .arg(&options.device)
        .arg("--script")
        .arg(&options.script);
    if let Some(python) = &options.python {
        command.arg("--python").arg(python);
    }
    if options.json {
        command.arg("--json");
    }
    for variable in THREADS_VARIABLES {
        command.env(variable, wanted.to_string());
    }
    let status = command.stdin(Stdio::null()).status().map_err(|error| {
        CliError::Failed(format!("cannot run `{}` again: {error}", program.display()))
    })?;
    if status.success() {
        return Ok(());
    }
    // That process has written its own message.
    let message = format!("the run with {wanted} threads ended with {status}");
    Err(if status.code() == Some(i32::from(BAD_INPUT)) {
        CliError::Input(message)
    } else {
        CliError::Failed(message)
    })
}

/// How a process ends whose input is wrong.
const BAD_INPUT: u8 = 2;

/// This side: the network, its optimizer and a batch.
struct Ours {
    device: Device,
    trainee: Trainee,
    batch: UniVlBatch,
    side: Side,
    /// Passes so far; fixes the dropout masks of the next.
    n_passes: u64,
}

impl Ours {
    fn new(config: &UniVlConfig, size: BatchSize, device: &Device) -> Result<Self, CliError> {
        let model = config.init(seed_for(SEED, &[0]), device)?;
        // As in the script.
        let inner = BertAdamConfig {
            t_warmup: 1000,
            ..BertAdamConfig::default()
        };
        let sum = Combiner::Sum(PlainSum::new(UniVlLoss::ALL.len()));
        Ok(Self {
            device: device.clone(),
            trainee: Trainee::new(model, sum, inner)?,
            batch: random_batch(config, size, seed_for(SEED, &[1]), device),
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
                trainee.step(|model| model.losses(batch, &UniVlLoss::ALL, pass))
            })?;
            step_seconds.push(seconds);
            if self.side.losses_first_step.is_empty() {
                let names = UniVlLoss::ALL.map(|loss| loss.name().to_owned());
                self.side.losses_first_step = names.into_iter().zip(losses).collect();
            }
        }
        let peak = peak_memory_bytes();
        let model = self.trainee.model.valid();
        let mut forward_seconds = Vec::with_capacity(steps + 1);
        for _ in 0..=steps {
            let pass = self.pass();
            let (_, seconds) = timed(&self.device, || {
                Ok(vec_f64(
                    model.losses(&self.batch, &UniVlLoss::ALL, pass).into_data(),
                ))
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
    let model = &report.model;
    output::line(&format!(
        "UniVL, width {}, layers {} text, {} visual, {} cross, {} decoder; {:.1} M parameters",
        model.d_model,
        model.text_layers,
        model.visual_layers,
        model.cross_layers,
        model.decoder_layers,
        report.n_parameters as f64 / 1e6
    ));
    output::line(&format!(
        "eight losses, forward, backward and BertAdam on {} pairs of {} words and {} frames; \
         medians of {} steps in {} blocks",
        report.batch_size,
        report.words,
        report.frames,
        report.ours.step_samples.len(),
        report.blocks
    ));
    output::line("");
    for line in table(report).lines() {
        output::line(&line);
    }
    output::line("");
    if report.peers.is_empty() {
        output::line(
            "for a comparison with PyTorch: meltr bench train-step --python PYTHON, an \
             interpreter that has it (see xtask/peers/README.md)",
        );
        return;
    }
    output::line(&format!(
        "ratio: meltr's seconds by PyTorch's; target: at most {TARGET} of a step. Same economy: \
         with --sparse-pairs --sparse-heads, which compute what is read and nothing else, as \
         meltr does"
    ));
    for peer in &report.peers {
        if peer.threads != report.threads {
            output::line(&format!(
                "PyTorch ({}) used {} threads, not {}: its ratio does not count",
                peer.economy.label(),
                peer.threads,
                report.threads
            ));
        }
    }
    if report.device != "flex" && report.device != "tch" {
        output::line(&format!(
            "PyTorch ran on the CPU, meltr on `{}`: the ratios compare devices",
            report.device
        ));
    }
}

/// Both sides with the ratios.
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
    let ours = &report.ours;
    table.push([
        "meltr".to_owned(),
        seconds(ours.step_seconds),
        seconds(ours.forward_seconds),
        mebibytes(ours.peak_memory_bytes),
        dash(),
        dash(),
        dash(),
    ]);
    for peer in &report.peers {
        table.push([
            format!("PyTorch {}, {}", peer.torch, peer.economy.label()),
            seconds(peer.side.step_seconds),
            seconds(peer.side.forward_seconds),
            mebibytes(peer.side.peak_memory_bytes),
            format!("{:.2}", peer.step_ratio),
            format!("at most {TARGET}"),
            format!("{:.2}", peer.forward_ratio),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use super::*;
    use crate::error::ExitStatus;

    fn output(steps: &[f64], peak: u64) -> PeerOutput {
        PeerOutput {
            torch: "2.9.0".to_owned(),
            threads: 2,
            step_seconds: steps.to_vec(),
            forward_seconds: vec![0.5],
            losses_first_step: BTreeMap::from([("joint".to_owned(), 0.1)]),
            peak_rss_bytes: peak,
        }
    }

    #[test]
    fn runs_of_one_economy_are_taken_together() {
        let ours = Side {
            step_seconds: 3.0,
            forward_seconds: 1.0,
            ..Side::default()
        };
        let outputs = [
            (Economy::Same, output(&[1.0, 2.0], 10)),
            (Economy::AsReleased, output(&[6.0], 30)),
            (Economy::Same, output(&[9.0], 20)),
        ];
        let peers = peers(&ours, &outputs);
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
    fn the_network_can_be_built() {
        config().validate().unwrap();
        assert!(config().max_cross_positions >= WORDS + FRAMES);
    }

    #[test]
    fn the_exit_status_of_bad_input_is_the_known_one() {
        let ours = ExitCode::from(ExitStatus::BadInput);
        assert_eq!(
            format!("{ours:?}"),
            format!("{:?}", ExitCode::from(BAD_INPUT))
        );
    }
}
