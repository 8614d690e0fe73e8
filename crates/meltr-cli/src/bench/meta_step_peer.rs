//! `meltr bench meta-step --python`: one outer step beside the released algorithm in PyTorch.
//!
//! Both sides take the hypergradient of the same losses with the same weights on the same batches;
//! PyTorch reads them from a file, this side makes them again from their seeds. Every block of
//! steps is a process of its own, ours this program again, told by an environment variable what to
//! do. Blocks of both sides alternate, so that a drift of the machine reaches both, and each has a
//! peak of the resident memory of its own. Errors are relative to the released algorithm in f64.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use meltr_aid::{HypergradientEstimator, Implicit, Products, Settings};
use meltr_core::{Combiner, LossTransformer, Pass, Regularizer};
use meltr_data::{EmojiClips, TensorFileWriter, seed_for};
use meltr_models::{UniVl, UniVlBatch, UniVlConfig, UniVlLoss};
use meltr_train::{CombinerConfig, MeltrProblem, peak_memory_bytes};
use serde::{Deserialize, Serialize};

use super::agreement::{Agreement, Answer, read_answer};
use super::child::{json_of, set_threads, this_program};
use super::meta_subject::{self, losses, model_config};
use super::peer_file::{insert, insert_batch, insert_weights, spread_out};
use super::pytorch_peer::{Economy, PyTorchPeer, torch_device};
use super::random_batch::{BatchSize, random_batch};
use super::statistics::median;
use super::text_table::TextTable;
use super::train_step::{
    EconomyFlags, UNIVL_ECONOMIES, UNIVL_FRAMES, UNIVL_PUBLISHED_FRAMES, UNIVL_WORDS, WORDS,
    univl_config,
};
use super::{BURN_VERSION, mebibytes, require_nonzero, threads, timed};
use crate::cli::MetaStepOptions;
use crate::device;
use crate::error::CliError;
use crate::given_batches::GivenBatches;
use crate::output;

/// Holds an [`Order`] for a process that is to carry out that alone.
const ORDER: &str = "MELTR_BENCH_META_STEP_ORDER";

/// The PyTorch side.
const SCRIPT: &str = "univl_meta_step.py";

/// Numbers of losses, unless options name others; the first ones in published order.
const N_LOSSES: [usize; 3] = [2, 5, 8];

/// The loss of the outer objective, the second one in published order.
const PRIMARY: UniVlLoss = UniVlLoss::Align;

/// Alternations of the sides.
const BLOCKS: usize = 2;

/// Counted steps of each side, unless options say otherwise.
const REPEATS: usize = 4;

/// Pairs in a batch, unless options say otherwise.
const BATCH: usize = 8;
const MINI_BATCH: usize = 32;

/// An outer step is to take at most so many times PyTorch's time and peak memory.
const TIME_TARGET: f64 = 0.45;
const MEMORY_TARGET: f64 = 0.5;

/// Largest relative error of a hypergradient.
const ERROR_TARGET: f64 = 1e-3;

/// Seed of everything random.
const SEED: u64 = 1;

/// Purposes of random numbers.
mod stream {
    pub(super) const MODEL: u64 = 0;
    pub(super) const OUTER: u64 = 1;
    pub(super) const INNER: u64 = 2;
    pub(super) const PHI: u64 = 3;
}

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
    primary: UniVlLoss,
    blocks: usize,
    targets: Targets,
    by_losses: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Targets {
    time_ratio_at_most: f64,
    memory_ratio_at_most: f64,
    error_at_most: f64,
}

/// What was measured for one number of losses.
#[derive(Debug, Serialize)]
struct Measured {
    n_losses: usize,
    losses: Vec<UniVlLoss>,
    ours: Side,
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
    time_ratio: f64,
    /// The same of the peaks of the resident memory.
    memory_ratio: Option<f64>,
    /// Whether both ratios and our error are within their targets.
    meets_targets: bool,
}

/// What was measured of one side.
#[derive(Debug, Clone, Default, Serialize)]
struct Side {
    /// Median.
    seconds: f64,
    /// The largest of all processes.
    peak_memory_bytes: Option<u64>,
    /// Relative error of the hypergradient, the largest of all processes; infinite if one is not
    /// finite.
    error: f64,
    /// On the inner batch.
    losses: BTreeMap<String, f64>,
    samples: Vec<f64>,
}

impl Side {
    /// Adds what a process has measured.
    fn extend(&mut self, document: Document, error: Option<f64>) {
        self.samples.extend(document.seconds);
        self.seconds = median(&self.samples);
        self.peak_memory_bytes = self.peak_memory_bytes.max(document.peak_rss_bytes);
        self.error = self.error.max(error.unwrap_or(f64::INFINITY));
        self.losses = document.losses;
    }
}

/// What a process of either side writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Document {
    /// Version of PyTorch, on its side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    torch: Option<String>,
    threads: usize,
    /// Of each counted step.
    seconds: Vec<f64>,
    peak_rss_bytes: Option<u64>,
    /// On the inner batch.
    losses: BTreeMap<String, f64>,
}

/// What a process of this side is to do.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    n_losses: usize,
    /// Steps that count, after one that does not.
    steps: usize,
    /// Where the hypergradient goes.
    output: PathBuf,
}

/// Compares with the PyTorch of the interpreter `python`.
pub(super) fn run(options: &MetaStepOptions, python: &Path) -> Result<(), CliError> {
    if let Ok(order) = std::env::var(ORDER) {
        return carry_out(&order, options);
    }
    let n_losses = n_losses(options)?;
    let repeats = options.repeats.unwrap_or(REPEATS);
    require_nonzero("--repeats", repeats)?;
    let threads = options.threads.unwrap_or_else(threads);
    require_nonzero("--threads", threads)?;
    device::parse(&options.device)?;
    let subject = Subject::new(options)?;
    let folder = tempfile::tempdir().map_err(CliError::failed)?;
    let comparison = Comparison {
        options,
        peer: PyTorchPeer::new(
            python,
            options.scripts.join(SCRIPT),
            &subject.config,
            vec![("--threads", threads)],
            torch_device(&options.device),
        )?,
        data: folder.path().join("subject.safetensors"),
        folder: folder.path(),
        steps: repeats.div_ceil(BLOCKS),
        threads,
    };
    let n_parameters = subject.write(&comparison.data, &n_losses)?;
    let by_losses = n_losses
        .into_iter()
        .map(|n_losses| comparison.measure(n_losses))
        .collect::<Result<Vec<Measured>, CliError>>()?;
    let report = Report {
        benchmark: "meta-step-peer",
        meltr: env!("CARGO_PKG_VERSION"),
        burn: BURN_VERSION,
        device: options.device.clone(),
        threads,
        n_parameters,
        batch_size: subject.size.pairs,
        words: subject.size.words,
        frames: subject.size.frames,
        model: subject.config,
        primary: PRIMARY,
        blocks: BLOCKS,
        targets: Targets {
            time_ratio_at_most: TIME_TARGET,
            memory_ratio_at_most: MEMORY_TARGET,
            error_at_most: ERROR_TARGET,
        },
        by_losses,
    };
    if options.json {
        return output::json(&report);
    }
    print(&report);
    Ok(())
}

/// The numbers of losses that are asked for, in increasing order.
fn n_losses(options: &MetaStepOptions) -> Result<Vec<usize>, CliError> {
    if options.losses.is_empty() {
        return Ok(N_LOSSES.to_vec());
    }
    let known = 2..=UniVlLoss::ALL.len();
    if let Some(wrong) = options.losses.iter().find(|count| !known.contains(*count)) {
        return Err(CliError::Input(format!(
            "--losses is {wrong}; give it from {} to {}",
            known.start(),
            known.end()
        )));
    }
    let mut wanted = options.losses.clone();
    wanted.sort_unstable();
    wanted.dedup();
    Ok(wanted)
}

/// The network and the batches, the same in all processes.
struct Subject {
    config: UniVlConfig,
    size: BatchSize,
}

impl Subject {
    fn new(options: &MetaStepOptions) -> Result<Self, CliError> {
        let (config, pairs, words, frames) = if options.mini {
            let vocab_size = EmojiClips::embedded()?.word_piece().vocab_size();
            (
                model_config(vocab_size),
                MINI_BATCH,
                meta_subject::WORDS,
                meta_subject::FRAMES,
            )
        } else if options.published {
            (
                UniVlConfig::base(),
                BATCH,
                UNIVL_WORDS,
                UNIVL_PUBLISHED_FRAMES,
            )
        } else {
            (univl_config(), BATCH, WORDS, UNIVL_FRAMES)
        };
        let pairs = options.batch.unwrap_or(pairs);
        require_nonzero("--batch", pairs)?;
        let size = BatchSize {
            pairs,
            words,
            frames,
        };
        Ok(Self { config, size })
    }

    fn model(&self, device: &Device) -> Result<UniVl, CliError> {
        spread_out(&self.config, seed_for(SEED, &[stream::MODEL]), device)
    }

    fn batch(&self, stream: u64, device: &Device) -> UniVlBatch {
        random_batch(&self.config, self.size, seed_for(SEED, &[stream]), device)
    }

    /// Writes what the PyTorch side reads. Returns the number of parameters.
    fn write(&self, path: &Path, n_losses: &[usize]) -> Result<usize, CliError> {
        let device = Device::default();
        let mut writer = TensorFileWriter::new();
        let model = self.model(&device)?;
        insert_weights(&mut writer, &model);
        for count in n_losses {
            for (name, data) in phi(*count, &device)?.state_dict() {
                insert(&mut writer, format!("phi.{count}.{name}"), &data);
            }
        }
        for (role, stream) in [("outer", stream::OUTER), ("inner", stream::INNER)] {
            insert_batch(&mut writer, role, &self.batch(stream, &device));
        }
        writer.write(path)?;
        Ok(model.num_params())
    }
}

/// The loss transformer, off the tape.
fn phi(n_losses: usize, device: &Device) -> Result<LossTransformer, CliError> {
    let config = CombinerConfig::default().loss_transformer(n_losses);
    Ok(config.init(seed_for(SEED, &[stream::PHI]), device)?)
}

/// What all measurements have in common.
struct Comparison<'a> {
    options: &'a MetaStepOptions,
    peer: PyTorchPeer,
    /// What the peer reads.
    data: PathBuf,
    /// Where hypergradients go.
    folder: &'a Path,
    /// Counted steps of a block.
    steps: usize,
    threads: usize,
}

impl Comparison<'_> {
    /// Blocks of both sides in turn.
    fn measure(&self, n_losses: usize) -> Result<Measured, CliError> {
        self.note(&format!("T = {n_losses}: PyTorch in f64, one step"));
        let losses = losses(n_losses);
        let [(_, economical), _] = UNIVL_ECONOMIES;
        let exact = ["--dtype", "f64", "--steps", "1", "--warmup", "0"];
        let switches = [economical, exact.as_slice()].concat();
        let (_, answer) = self.theirs(&losses, &switches)?;

        let mut ours = Side::default();
        let mut outputs: Vec<(Economy, Document, Option<f64>)> = Vec::new();
        for block in 1..=BLOCKS {
            let steps = self.steps;
            self.note(&format!(
                "T = {n_losses}, block {block} of {BLOCKS}: meltr, {steps} steps"
            ));
            let (document, found) = self.ours(n_losses)?;
            ours.extend(document, error(&found, &answer)?);
            for (economy, switches) in self.economies() {
                self.note(&format!(
                    "T = {n_losses}, block {block} of {BLOCKS}: PyTorch, {}, {steps} steps",
                    economy.label()
                ));
                let steps = steps.to_string();
                let counted = ["--steps", steps.as_str(), "--warmup", "1"];
                let switches = [*switches, counted.as_slice()].concat();
                let (document, found) = self.theirs(&losses, &switches)?;
                outputs.push((*economy, document, error(&found, &answer)?));
            }
        }
        Ok(Measured {
            n_losses,
            losses,
            peers: peers(&ours, outputs),
            ours,
        })
    }

    fn note(&self, text: &str) {
        if !self.options.json {
            output::note(text);
        }
    }

    fn economies(&self) -> &'static [EconomyFlags] {
        let all: &[EconomyFlags] = &UNIVL_ECONOMIES;
        if self.options.as_released {
            all
        } else {
            &all[..1]
        }
    }

    /// One process of this side.
    fn ours(&self, n_losses: usize) -> Result<(Document, Answer), CliError> {
        let options = self.options;
        let output = self.folder.join("ours.safetensors");
        let order = Order {
            n_losses,
            steps: self.steps,
            output: output.clone(),
        };
        let order = serde_json::to_string(&order).map_err(CliError::failed)?;
        let mut command = this_program("meta-step")?;
        command.arg("--device").arg(&options.device);
        if let Some(python) = &options.python {
            command.arg("--python").arg(python);
        }
        if options.mini {
            command.arg("--mini");
        }
        if options.published {
            command.arg("--published");
        }
        if let Some(pairs) = options.batch {
            command.arg("--batch").arg(pairs.to_string());
        }
        set_threads(&mut command, self.threads);
        let document = json_of(command.env(ORDER, order), "an outer step")?;
        Ok((document, read_answer(&output, |_| true)?))
    }

    /// One process of the PyTorch side.
    fn theirs(
        &self,
        losses: &[UniVlLoss],
        switches: &[&str],
    ) -> Result<(Document, Answer), CliError> {
        let output = self.folder.join("theirs.safetensors");
        let names: Vec<&str> = losses.iter().map(|loss| loss.name()).collect();
        let mut arguments: Vec<OsString> = vec![
            "--data".into(),
            self.data.clone().into(),
            "--losses".into(),
            names.join(",").into(),
            "--primary".into(),
            PRIMARY.name().into(),
            "--output".into(),
            output.clone().into(),
        ];
        arguments.extend(switches.iter().map(OsString::from));
        let document = self.peer.document(&arguments)?;
        Ok((document, read_answer(&output, |_| true)?))
    }
}

/// Relative error of a hypergradient; nothing if it is not finite.
fn error(found: &Answer, answer: &Answer) -> Result<Option<f64>, CliError> {
    Ok(Agreement::of(found, answer)?.relative_error)
}

/// The processes of each economy together, beside our side.
fn peers(ours: &Side, outputs: Vec<(Economy, Document, Option<f64>)>) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    for (economy, document, error) in outputs {
        let known = peers.iter().position(|peer| peer.economy == economy);
        let position = known.unwrap_or(peers.len());
        if known.is_none() {
            peers.push(Peer {
                economy,
                torch: document.torch.clone().unwrap_or_default(),
                threads: document.threads,
                side: Side::default(),
                time_ratio: f64::NAN,
                memory_ratio: None,
                meets_targets: false,
            });
        }
        peers[position].side.extend(document, error);
    }
    for peer in &mut peers {
        peer.time_ratio = ours.seconds / peer.side.seconds;
        peer.memory_ratio = ours
            .peak_memory_bytes
            .zip(peer.side.peak_memory_bytes)
            .map(|(ours, theirs)| ours as f64 / theirs as f64);
        peer.meets_targets = peer.time_ratio <= TIME_TARGET
            && peer
                .memory_ratio
                .is_some_and(|ratio| ratio <= MEMORY_TARGET)
            && ours.error <= ERROR_TARGET;
    }
    peers
}

/// The other side of [`Comparison::ours`].
fn carry_out(order: &str, options: &MetaStepOptions) -> Result<(), CliError> {
    let order = serde_json::from_str::<Order>(order)
        .map_err(|error| CliError::Input(format!("{ORDER} is no order: {error}; unset it")))?;
    let device = device::parse(&options.device)?;
    let subject = Subject::new(options)?;
    let model = subject.model(&device)?.train();
    let phi = phi(order.n_losses, &device)?;
    let combiner = Combiner::Transformer(phi.clone()).train();
    let task = GivenBatches {
        losses: losses(order.n_losses),
        primary: PRIMARY,
    };
    let problem = MeltrProblem {
        task: &task,
        outer_batch: &subject.batch(stream::OUTER, &device),
        inner_batch: &subject.batch(stream::INNER, &device),
        outer_pass: Pass::Evaluation,
        inner_pass: Pass::Evaluation,
        regularizer: Regularizer::off(),
    };
    let mut estimator = Implicit::identity(Settings {
        products: Products::ForwardMode,
        without_direct: true,
        ..Settings::default()
    });
    let mut step = || {
        timed(&device, || {
            let found = estimator
                .estimate(&problem, &model, &combiner)
                .map_err(CliError::failed)?;
            // Nothing of the size of the network is kept until the next step.
            Ok((found.gradient, found.scalars))
        })
    };
    // The first one does not count.
    let ((mut gradient, mut scalars), _) = step()?;
    let mut seconds = Vec::with_capacity(order.steps);
    for _ in 0..order.steps {
        let (found, taken) = step()?;
        (gradient, scalars) = found;
        seconds.push(taken);
    }
    let peak_rss_bytes = peak_memory_bytes();
    let mut writer = TensorFileWriter::new();
    for (name, data) in gradient.as_module(&phi).state_dict() {
        let values: Vec<f64> = data.iter::<f64>().collect();
        writer.insert_f64(format!("phi.{name}"), &[values.len()], values);
    }
    writer.write(&order.output)?;
    let names = task.losses.iter().map(ToString::to_string);
    output::json(&Document {
        torch: None,
        threads: threads(),
        seconds,
        peak_rss_bytes,
        losses: names.zip(scalars).collect(),
    })
}

fn print(report: &Report) {
    output::line(&format!(
        "meltr {}, burn {}, device {}, {} threads",
        report.meltr, report.burn, report.device, report.threads
    ));
    let model = &report.model;
    output::line(&format!(
        "UniVL, width {}, layers {} text, {} visual, {} cross, {} decoder, {:.1} M parameters; two \
         batches of {} pairs of {} words and {} frames, no dropout",
        model.d_model,
        model.text_layers,
        model.visual_layers,
        model.cross_layers,
        model.decoder_layers,
        report.n_parameters as f64 / 1e6,
        report.batch_size,
        report.words,
        report.frames
    ));
    output::line(&format!(
        "an outer step is v of `{}` on one batch and the hypergradient on the other, identity for \
         the inverse Hessian, no optimizer; medians of {} steps, {} processes of each side in turn",
        report.primary,
        report
            .by_losses
            .first()
            .map_or(0, |measured| measured.ours.samples.len()),
        report.blocks
    ));
    for measured in &report.by_losses {
        let names: Vec<&str> = measured.losses.iter().map(|loss| loss.name()).collect();
        output::line(&format!("T = {}: {}", measured.n_losses, names.join(", ")));
    }
    output::line("");
    for line in table(&report.by_losses).lines() {
        output::line(&line);
    }
    output::line("");
    output::line(&format!(
        "ratio: meltr by PyTorch; targets: time at most {TIME_TARGET}, peak memory at most \
         {MEMORY_TARGET}, meltr's error at most {ERROR_TARGET:.0e}. Error: relative to the \
         released algorithm in f64"
    ));
    for measured in &report.by_losses {
        for peer in &measured.peers {
            if peer.threads != report.threads {
                output::line(&format!(
                    "PyTorch (T = {}, {}) used {} threads, not {}: its ratios do not count",
                    measured.n_losses,
                    peer.economy.label(),
                    peer.threads,
                    report.threads
                ));
            }
        }
    }
    if report.device != "flex" && report.device != "tch" {
        output::line("the memory is that of the processes, not that of the devices");
    }
}

/// Both sides for every number of losses, with the ratios.
fn table(by_losses: &[Measured]) -> TextTable {
    let mut table = TextTable::new([
        "",
        "step s",
        "peak MiB",
        "error",
        "time ratio",
        "memory ratio",
        "targets met",
    ]);
    let dash = || "-".to_owned();
    for measured in by_losses {
        let n_losses = measured.n_losses;
        let cells = |label: String, side: &Side| {
            [
                label,
                format!("{:.3}", side.seconds),
                mebibytes(side.peak_memory_bytes),
                format!("{:.1e}", side.error),
            ]
        };
        let [label, seconds, peak, error] = cells(format!("T = {n_losses}, meltr"), &measured.ours);
        table.push([label, seconds, peak, error, dash(), dash(), dash()]);
        for peer in &measured.peers {
            let label = format!(
                "T = {n_losses}, PyTorch {}, {}",
                peer.torch,
                peer.economy.label()
            );
            let [label, seconds, peak, error] = cells(label, &peer.side);
            table.push([
                label,
                seconds,
                peak,
                error,
                format!("{:.2}", peer.time_ratio),
                peer.memory_ratio
                    .map_or_else(dash, |ratio| format!("{ratio:.2}")),
                if peer.meets_targets { "yes" } else { "no" }.to_owned(),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(seconds: &[f64], peak: u64) -> Document {
        Document {
            torch: Some("2.11.0".to_owned()),
            threads: 2,
            seconds: seconds.to_vec(),
            peak_rss_bytes: Some(peak),
            losses: BTreeMap::from([("align".to_owned(), 2.0)]),
        }
    }

    fn ours(error: f64) -> Side {
        Side {
            seconds: 1.0,
            peak_memory_bytes: Some(40),
            error,
            ..Side::default()
        }
    }

    fn outputs() -> Vec<(Economy, Document, Option<f64>)> {
        vec![
            (Economy::Same, document(&[4.0, 4.0], 100), Some(1e-6)),
            (Economy::AsReleased, document(&[2.0], 50), Some(2e-6)),
            (Economy::Same, document(&[5.0], 90), Some(3e-6)),
        ]
    }

    #[test]
    fn processes_of_one_economy_are_taken_together() {
        let peers = peers(&ours(1e-5), outputs());
        assert_eq!(peers.len(), 2);
        assert_eq!(peers[0].side.samples, [4.0, 4.0, 5.0]);
        assert_eq!(peers[0].side.peak_memory_bytes, Some(100));
        assert_eq!(peers[0].side.error, 3e-6);
        assert_eq!(
            (peers[0].time_ratio, peers[0].memory_ratio),
            (0.25, Some(0.4))
        );
        assert!(peers[0].meets_targets);
        // Twice as fast is not enough.
        assert_eq!(peers[1].time_ratio, 0.5);
        assert!(!peers[1].meets_targets);
    }

    #[test]
    fn a_wrong_hypergradient_meets_no_target() {
        for error in [2e-3, f64::INFINITY] {
            assert!(!peers(&ours(error), outputs())[0].meets_targets);
        }
        let mut side = Side::default();
        side.extend(document(&[1.0], 1), None);
        side.extend(document(&[1.0], 1), Some(1e-6));
        assert_eq!(side.error, f64::INFINITY);
    }

    #[test]
    fn the_table_tells_who_meets_the_targets() {
        let ours = ours(1e-5);
        let measured = Measured {
            n_losses: 2,
            losses: losses(2),
            peers: peers(&ours, outputs()),
            ours,
        };
        let lines = table(&[measured]).lines();
        assert_eq!(lines.len(), 4);
        assert!(
            lines[2].ends_with("0.25          0.40          yes"),
            "{}",
            lines[2]
        );
        assert!(lines[3].ends_with("no"), "{}", lines[3]);
    }

    #[test]
    fn every_subset_has_the_primary_loss() {
        for count in N_LOSSES {
            assert!(losses(count).contains(&PRIMARY));
        }
    }

    #[test]
    fn an_order_survives_its_way() {
        let order = Order {
            n_losses: 5,
            steps: 2,
            output: PathBuf::from("a/b.safetensors"),
        };
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
    }
}
