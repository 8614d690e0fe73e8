//! `meltr bench published-size`: one training step of each backbone at its published size.
//!
//! Time and memory of what a user with published weights does, on the smallest batch whose
//! contrastive losses are not constant. Several backbones run in processes of their own, one after
//! the other: the peak of the resident memory never falls within a process.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Device;
use meltr_core::{Combiner, Pass, PlainSum};
use meltr_data::seed_for;
use meltr_models::{AllInOneConfig, AllInOneTask, UniVlConfig, VioletConfig, VioletTask};
use meltr_train::{BertAdamConfig, peak_memory_bytes};
use serde::{Deserialize, Serialize};

use super::random_batch::{BatchSize, random_allinone_batch, random_batch, random_violet_batch};
use super::text_table::TextTable;
use super::train_step::{flag_value, json_of, label, this_program, wanted_backbones};
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
        // Whoever reads the document compares with its limit.
        return output::json(&report);
    }
    print(&report);
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
    let step = match backbone {
        BackboneName::UniVl => {
            let config = UniVlConfig::base();
            let size = BatchSize {
                pairs,
                words: UNIVL_WORDS,
                frames: UNIVL_FRAMES,
            };
            let batch = random_batch(&config, size, of_batch, &device);
            Step::take(config.init(of_model, &device)?, &batch, &plain)?.on(size, None)
        }
        BackboneName::Violet => {
            let config = VioletConfig::base(VioletTask::Retrieval);
            let size = BatchSize {
                pairs,
                words: VIOLET_WORDS,
                frames: VIOLET_FRAMES,
            };
            let batch = random_violet_batch(&config, size, VIOLET_SIDE, of_batch, &device);
            let model = config.init(of_model, &device)?;
            Step::take(model, &batch, &plain)?.on(size, Some(VIOLET_SIDE))
        }
        BackboneName::AllInOne => {
            let config = AllInOneConfig::base(AllInOneTask::Retrieval);
            let size = BatchSize {
                pairs,
                words: config.max_text_positions,
                frames: config.n_frames,
            };
            let batch = random_allinone_batch(&config, size, of_batch, &device);
            let model = config.init(of_model, &device)?;
            Step::take(model, &batch, &plain)?.on(size, Some(config.image_size))
        }
    };
    Ok(step.of(backbone))
}
