//! `meltr bench published-size`: one training step of each backbone at its published size.
//!
//! Time and memory of what a user with published weights does, on the smallest batch whose
//! contrastive losses are not constant. Several backbones run in processes of their own, one after
//! the other: the peak of the resident memory never falls within a process.

use std::collections::BTreeMap;

use burn::tensor::Device;
use meltr_core::{Combiner, Pass, PlainSum};
use meltr_data::seed_for;
use meltr_models::{AllInOneConfig, AllInOneTask, UniVlConfig, VioletConfig, VioletTask};
use meltr_train::{BertAdamConfig, peak_memory_bytes};
use serde::{Deserialize, Serialize};

use super::child::{json_of, this_program};
use super::random_batch::{BatchSize, random_allinone_batch, random_batch, random_violet_batch};
use super::text_table::TextTable;
use super::train_step::{flag_value, label, wanted_backbones};
use super::trainee::{Backbone, Trainee};
use super::{BURN_VERSION, mebibytes, require_nonzero, threads, timed};
use crate::cli::{BackboneName, PublishedSizeOptions};
use crate::device;
use crate::error::CliError;
use crate::output;

/// A step is to fit into so much memory.
const LIMIT_GIB: u64 = 24;

/// Tokens of a text and frames of a video as the released code's defaults have them; frames of
/// UniVL are features.
const UNIVL_WORDS: usize = 48;
const UNIVL_FRAMES: usize = 48;
const VIOLET_WORDS: usize = 25;
const VIOLET_FRAMES: usize = 5;

/// Height and width of VIOLET's frames in pixels.
const VIOLET_SIDE: usize = 224;

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
    activations: Activations,
    limit_bytes: u64,
    backbones: Vec<Measured>,
}

/// What the backward pass finds of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Activations {
    /// The results of products; those of elementwise operations are computed again.
    Recomputed,
    /// The results of all operations.
    Kept,
}

impl Activations {
    fn of(options: &PublishedSizeOptions) -> Self {
        if options.keep_activations {
            Self::Kept
        } else {
            Self::Recomputed
        }
    }

    /// `device` with a tape.
    fn tape_on(self, device: Device) -> Device {
        match self {
            Self::Recomputed => device.autodiff().gradient_checkpointing(),
            Self::Kept => device.autodiff(),
        }
    }
}

/// What is read of the report of a process that measured one backbone.
#[derive(Debug, Deserialize)]
struct Part {
    backbones: Vec<Measured>,
}

/// What was measured of one backbone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Measured {
    backbone: String,
    n_parameters: usize,
    batch_size: usize,
    words: usize,
    frames: usize,
    /// Height and width of raw frames in pixels.
    side: Option<usize>,
    /// Losses, backward pass and BertAdam.
    step_seconds: f64,
    losses: BTreeMap<String, f64>,
    /// Before the step: network and batch.
    loaded_memory_bytes: Option<u64>,
    /// After the step.
    peak_memory_bytes: Option<u64>,
}

pub(super) fn run(options: &PublishedSizeOptions) -> Result<(), CliError> {
    require_nonzero("--batch", options.batch)?;
    let activations = Activations::of(options);
    let wanted = wanted_backbones(&options.backbones);
    let backbones = match wanted[..] {
        [only] => vec![measure_here(only, options)?],
        _ => measure_alone(&wanted, options)?,
    };
    let report = Report {
        benchmark: "published-size",
        meltr: env!("CARGO_PKG_VERSION"),
        burn: BURN_VERSION,
        device: options.device.clone(),
        threads: threads(),
        activations,
        limit_bytes: LIMIT_GIB << 30,
        backbones,
    };
    if options.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    require_within_limit(&report)
}

/// Measures each backbone in a process of its own.
fn measure_alone(
    wanted: &[BackboneName],
    options: &PublishedSizeOptions,
) -> Result<Vec<Measured>, CliError> {
    let mut measured = Vec::with_capacity(wanted.len());
    for backbone in wanted {
        let name = label(*backbone);
        if !options.json {
            output::note(&format!("{name}: one step"));
        }
        let mut command = this_program("published-size")?;
        command
            .args(["--backbone", flag_value(*backbone)])
            .arg("--batch")
            .arg(options.batch.to_string())
            .arg("--device")
            .arg(&options.device);
        if options.keep_activations {
            command.arg("--keep-activations");
        }
        let part: Part = json_of(&mut command, name)?;
        measured.extend(part.backbones);
    }
    Ok(measured)
}

/// Takes a step of one backbone in this process.
fn measure_here(
    backbone: BackboneName,
    options: &PublishedSizeOptions,
) -> Result<Measured, CliError> {
    let plain = device::parse(&options.device)?;
    let device = Activations::of(options).tape_on(plain.clone());
    let [of_model, of_batch] = [seed_for(SEED, &[0]), seed_for(SEED, &[1])];
    let pairs = options.batch;
    match backbone {
        BackboneName::UniVl => {
            let config = UniVlConfig::base();
            let size = BatchSize {
                pairs,
                words: UNIVL_WORDS,
                frames: UNIVL_FRAMES,
            };
            let input = Input {
                backbone,
                size,
                side: None,
            };
            let batch = random_batch(&config, size, of_batch, &device);
            take_step(input, config.init(of_model, &device)?, &batch, &plain)
        }
        BackboneName::Violet => {
            let config = VioletConfig::base(VioletTask::Retrieval);
            let size = BatchSize {
                pairs,
                words: VIOLET_WORDS,
                frames: VIOLET_FRAMES,
            };
            let input = Input {
                backbone,
                size,
                side: Some(VIOLET_SIDE),
            };
            let batch = random_violet_batch(&config, size, VIOLET_SIDE, of_batch, &device);
            take_step(input, config.init(of_model, &device)?, &batch, &plain)
        }
        BackboneName::AllInOne => {
            let config = AllInOneConfig::base(AllInOneTask::Retrieval);
            let size = BatchSize {
                pairs,
                words: config.max_text_positions,
                frames: config.n_frames,
            };
            let input = Input {
                backbone,
                size,
                side: Some(config.image_size),
            };
            let batch = random_allinone_batch(&config, size, of_batch, &device);
            take_step(input, config.init(of_model, &device)?, &batch, &plain)
        }
    }
}

/// What a step is taken on.
struct Input {
    backbone: BackboneName,
    size: BatchSize,
    side: Option<usize>,
}

/// Takes a step of `model`, which is on the tape of `device`, as `batch` is.
///
/// One step and no more: BertAdam leaves its parameters on a tape that keeps everything.
fn take_step<M: Backbone>(
    input: Input,
    model: M,
    batch: &M::Batch,
    device: &Device,
) -> Result<Measured, CliError> {
    let names = model.loss_names();
    let n_parameters = model.num_params();
    let sum = Combiner::Sum(PlainSum::new(names.len()));
    let inner = BertAdamConfig {
        t_warmup: 1000,
        ..BertAdamConfig::default()
    };
    let mut trainee = Trainee::new(model, sum, inner)?;
    let loaded_memory_bytes = peak_memory_bytes();
    let pass = Pass::Stochastic {
        seed: seed_for(SEED, &[2]),
    };
    let (losses, step_seconds) = timed(device, || {
        trainee.step(|model| model.all_losses(batch, pass))
    })?;
    let Input {
        backbone,
        size,
        side,
    } = input;
    Ok(Measured {
        backbone: label(backbone).to_owned(),
        n_parameters,
        batch_size: size.pairs,
        words: size.words,
        frames: size.frames,
        side,
        step_seconds,
        losses: names.into_iter().map(str::to_owned).zip(losses).collect(),
        loaded_memory_bytes,
        peak_memory_bytes: peak_memory_bytes(),
    })
}

fn require_within_limit(report: &Report) -> Result<(), CliError> {
    let above: Vec<String> = report
        .backbones
        .iter()
        .filter(|measured| {
            measured
                .peak_memory_bytes
                .is_some_and(|peak| peak > report.limit_bytes)
        })
        .map(|measured| {
            let peak = mebibytes(measured.peak_memory_bytes);
            format!("{} took {peak} MiB", measured.backbone)
        })
        .collect();
    if above.is_empty() {
        return Ok(());
    }
    Err(CliError::Check(format!(
        "{}; the limit is {LIMIT_GIB} GiB",
        above.join(", ")
    )))
}

fn print(report: &Report) {
    output::line(&format!(
        "meltr {}, burn {}, device {}, {} threads",
        report.meltr, report.burn, report.device, report.threads
    ));
    output::line(match report.activations {
        Activations::Recomputed => {
            "the backward pass computes elementwise operations again (gradient checkpointing)"
        }
        Activations::Kept => "the results of all operations are kept for the backward pass",
    });
    output::line(&format!(
        "one training step each: all losses of retrieval, backward, BertAdam; at most \
         {LIMIT_GIB} GiB"
    ));
    output::line("");
    for line in table(report).lines() {
        output::line(&line);
    }
    if report.device != "flex" && report.device != "tch" {
        output::line("");
        output::line("the memory is that of the process, not that of the device");
    }
}

fn table(report: &Report) -> TextTable {
    let mut table = TextTable::new([
        "",
        "M parameters",
        "batch",
        "step s",
        "loaded MiB",
        "peak MiB",
    ]);
    for measured in &report.backbones {
        let pixels = match measured.side {
            Some(side) => format!(" of {side} pixels"),
            None => String::new(),
        };
        table.push([
            measured.backbone.clone(),
            format!("{:.1}", measured.n_parameters as f64 / 1e6),
            format!(
                "{} x ({} words, {} frames{pixels})",
                measured.batch_size, measured.words, measured.frames
            ),
            format!("{:.1}", measured.step_seconds),
            mebibytes(measured.loaded_memory_bytes),
            mebibytes(measured.peak_memory_bytes),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use meltr_aid::ParamVector;

    use super::*;

    fn report(peaks: [Option<u64>; 2]) -> Report {
        let measured = |peak_memory_bytes| Measured {
            backbone: "UniVL".to_owned(),
            n_parameters: 199_535_989,
            batch_size: 2,
            words: 48,
            frames: 48,
            side: None,
            step_seconds: 12.5,
            losses: BTreeMap::from([("joint".to_owned(), 0.1)]),
            loaded_memory_bytes: Some(1 << 30),
            peak_memory_bytes,
        };
        Report {
            benchmark: "published-size",
            meltr: "0",
            burn: BURN_VERSION,
            device: "flex".to_owned(),
            threads: 2,
            activations: Activations::Recomputed,
            limit_bytes: LIMIT_GIB << 30,
            backbones: peaks.map(measured).to_vec(),
        }
    }

    #[test]
    fn a_step_that_needs_too_much_memory_is_named_with_the_limit() {
        require_within_limit(&report([None, Some(24 << 30)])).unwrap();
        let error = require_within_limit(&report([None, Some(25 << 30)])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "UniVL took 25600 MiB; the limit is 24 GiB"
        );
    }

    #[test]
    fn what_a_process_measured_survives_json() {
        let report = report([None, Some(5)]);
        let text = serde_json::to_string(&report).unwrap();
        let part: Part = serde_json::from_str(&text).unwrap();
        assert_eq!(part.backbones, report.backbones);
    }

    #[test]
    fn the_batches_are_such_as_the_published_networks_read() {
        let univl = UniVlConfig::base();
        assert!(univl.max_text_positions >= UNIVL_WORDS);
        assert!(univl.max_video_positions >= UNIVL_FRAMES);
        assert!(univl.max_cross_positions >= UNIVL_WORDS + UNIVL_FRAMES);
        let violet = VioletConfig::base(VioletTask::Retrieval);
        assert!(violet.max_text_positions >= VIOLET_WORDS);
        violet
            .require_clip(VIOLET_FRAMES, VIOLET_SIDE, VIOLET_SIDE)
            .unwrap();
    }

    fn gradient_norm<M: Backbone>(model: &M, batch: &M::Batch) -> f64 {
        let mut gradients = model.all_losses(batch, Pass::Evaluation).sum().backward();
        ParamVector::from_gradients(&mut gradients, model).norm()
    }

    #[test]
    fn recomputed_activations_give_the_gradients_of_kept_ones() {
        let size = BatchSize {
            pairs: 2,
            words: 8,
            frames: 2,
        };
        let univl = UniVlConfig::mini(50, 6);
        let violet = VioletConfig::mini(VioletTask::Retrieval, 50, 12);
        let allinone = AllInOneConfig::mini(AllInOneTask::Retrieval, 50);
        let norms = [Activations::Recomputed, Activations::Kept].map(|activations| {
            let plain = Device::default();
            let device = activations.tape_on(plain.clone());
            // Batches come without a tape, as those of a training loop do.
            let (of_univl, of_violet, of_allinone) = (
                random_batch(&univl, size, 3, &plain),
                random_violet_batch(&violet, size, 64, 3, &plain),
                random_allinone_batch(&allinone, size, 3, &plain),
            );
            [
                gradient_norm(&univl.init(1, &device).unwrap(), &of_univl),
                gradient_norm(&violet.init(1, &device).unwrap(), &of_violet),
                gradient_norm(&allinone.init(1, &device).unwrap(), &of_allinone),
            ]
        });
        for (recomputed, kept) in norms[0].into_iter().zip(norms[1]) {
            assert!(
                kept > 0.0 && (recomputed - kept).abs() < 1e-5 * kept,
                "{recomputed} {kept}"
            );
        }
    }
}
