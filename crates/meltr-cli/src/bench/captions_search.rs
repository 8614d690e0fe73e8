//! `meltr bench captions-search`: beam search that keeps keys and values, beside one that decodes
//! the whole prefix at every step.
//!
//! Both search the same captions of the same network in turn, so that a drift of the machine
//! reaches both.

use burn::module::Module;
use burn::tensor::Device;
use meltr_core::Pass;
use meltr_data::seed_for;
use meltr_models::{CrossOutput, UniVl, UniVlConfig};
use meltr_tasks::{BeamOutput, BeamSearch, beam_search, beam_search_cached};
use serde::Serialize;

use super::random_batch::{BatchSize, random_batch};
use super::statistics::median;
use super::text_table::TextTable;
use super::{BURN_VERSION, require_nonzero, threads, timed};
use crate::cli::CaptionsSearchOptions;
use crate::device;
use crate::error::CliError;
use crate::output;

/// Tokens of a text.
const WORDS: usize = 24;

/// Frames of a video.
const FRAMES: usize = 16;

/// The search that keeps keys and values is to be at least so many times as fast.
const TARGET: f64 = 3.0;

/// Seed of everything random.
const SEED: u64 = 1;

/// Start token of the random texts.
const START: i64 = 1;

/// No token: every caption takes all steps.
const NEVER: i64 = -1;

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
    items: usize,
    words: usize,
    frames: usize,
    beam_size: usize,
    steps: usize,
    target_ratio_at_least: f64,
    #[serde(flatten)]
    measured: Measured,
}

/// Times of both searches, and whether they say the same.
#[derive(Debug, Serialize)]
struct Measured {
    whole_prefixes: Side,
    kept: Side,
    /// Seconds with whole prefixes by those with keys and values kept.
    ratio: f64,
    hypotheses: usize,
    /// Hypotheses with the same tokens; the best ones of all items are among them.
    equal_hypotheses: usize,
}

/// Times of one search.
#[derive(Debug, Serialize)]
struct Side {
    /// Median.
    seconds: f64,
    samples: Vec<f64>,
}

impl Side {
    fn new(samples: Vec<f64>) -> Self {
        Self {
            seconds: median(&samples),
            samples,
        }
    }
}

pub(super) fn run(options: &CaptionsSearchOptions) -> Result<(), CliError> {
    let config = config();
    for (flag, value) in [
        ("--repeats", options.repeats),
        ("--batch", options.batch),
        ("--beam", options.beam),
        ("--steps", options.steps),
    ] {
        require_nonzero(flag, value)?;
    }
    if options.steps > config.max_text_positions {
        return Err(CliError::Input(format!(
            "--steps is {}; the network has {} positions",
            options.steps, config.max_text_positions
        )));
    }
    let device = device::parse(&options.device)?;
    if !options.json {
        output::note(&format!(
            "each search once to warm up, then {} times",
            options.repeats
        ));
    }
    let model = config.init(seed_for(SEED, &[0]), &device)?;
    let encoded = encoded(&model, &config, options.batch, &device);
    let settings = settings(options.beam, options.steps);
    let report = Report {
        benchmark: "captions-search",
        meltr: env!("CARGO_PKG_VERSION"),
        burn: BURN_VERSION,
        device: options.device.clone(),
        threads: threads(),
        n_parameters: model.num_params(),
        model: config,
        items: options.batch,
        words: WORDS,
        frames: FRAMES,
        beam_size: options.beam,
        steps: options.steps,
        target_ratio_at_least: TARGET,
        measured: measure(&model, &encoded, &settings, options.repeats)?,
    };
    if options.json {
        return output::json(&report);
    }
    print(&report);
    Ok(())
}

/// The published network with one layer in each encoder: only the decoder is timed.
fn config() -> UniVlConfig {
    UniVlConfig {
        text_layers: 1,
        visual_layers: 1,
        cross_layers: 1,
        ..UniVlConfig::base()
    }
}

fn settings(beam_size: usize, max_steps: usize) -> BeamSearch {
    BeamSearch {
        beam_size,
        max_steps,
        start: START,
        end: NEVER,
        pad: NEVER,
    }
}

/// What the decoder attends to, of random pairs.
fn encoded(model: &UniVl, config: &UniVlConfig, pairs: usize, device: &Device) -> CrossOutput {
    let size = BatchSize {
        pairs,
        words: WORDS,
        frames: FRAMES,
    };
    let batch = random_batch(config, size, seed_for(SEED, &[1]), device);
    let text = model.encode_text(batch.text_ids, batch.text_pad, Pass::Evaluation);
    let video = model.encode_video(batch.video, batch.video_pad, Pass::Evaluation);
    model.encode_for_captions(&text, &video)
}

/// Times both searches in turn; one more round at first does not count.
fn measure(
    model: &UniVl,
    encoded: &CrossOutput,
    settings: &BeamSearch,
    repeats: usize,
) -> Result<Measured, CliError> {
    let device = model.device();
    let (mut whole_seconds, mut kept_seconds) = (Vec::new(), Vec::new());
    let (mut hypotheses, mut equal_hypotheses) = (0, 0);
    for round in 0..=repeats {
        let (whole, seconds_of_whole) =
            timed(&device, || Ok(beam_search(model, encoded, settings)))?;
        let (kept, seconds_of_kept) =
            timed(&device, || Ok(beam_search_cached(model, encoded, settings)))?;
        equal_hypotheses = agreeing(&whole, &kept)?;
        hypotheses = whole.iter().map(|output| output.hypotheses.len()).sum();
        if round > 0 {
            whole_seconds.push(seconds_of_whole);
            kept_seconds.push(seconds_of_kept);
        }
    }
    let whole_prefixes = Side::new(whole_seconds);
    let kept = Side::new(kept_seconds);
    Ok(Measured {
        ratio: whole_prefixes.seconds / kept.seconds,
        whole_prefixes,
        kept,
        hypotheses,
        equal_hypotheses,
    })
}

/// Number of hypotheses with the same tokens.
///
/// Captions, which are the best ones, have to be equal. Others of a random network may be as good
/// as each other up to rounding, and then change places.
fn agreeing(whole: &[BeamOutput], kept: &[BeamOutput]) -> Result<usize, CliError> {
    let mut equal = 0;
    for (item, (whole, kept)) in whole.iter().zip(kept).enumerate() {
        let pairs = whole.hypotheses.iter().zip(&kept.hypotheses);
        for (rank, (whole, kept)) in pairs.enumerate() {
            if whole.ids == kept.ids {
                equal += 1;
            } else if rank == 0 {
                return Err(CliError::Check(format!(
                    "the caption of item {item} is {:?} with whole prefixes, but {:?} with keys \
                     and values kept",
                    whole.ids, kept.ids
                )));
            }
        }
    }
    Ok(equal)
}

fn print(report: &Report) {
    output::line(&format!(
        "meltr {}, burn {}, device {}, {} threads",
        report.meltr, report.burn, report.device, report.threads
    ));
    let model = &report.model;
    output::line(&format!(
        "UniVL, width {}, {} decoder layers, {} tokens in the vocabulary",
        model.d_model, model.decoder_layers, model.vocab_size
    ));
    let measured = &report.measured;
    output::line(&format!(
        "captions of {} pairs of {} words and {} frames, beam {}, {} tokens; medians of {} rounds",
        report.items,
        report.words,
        report.frames,
        report.beam_size,
        report.steps,
        measured.kept.samples.len()
    ));
    output::line("");
    for line in table(report).lines() {
        output::line(&line);
    }
    output::line("");
    output::line(&format!(
        "the same captions; {} of {} hypotheses have the same tokens",
        measured.equal_hypotheses, measured.hypotheses
    ));
}

/// Both searches with their ratio.
fn table(report: &Report) -> TextTable {
    let mut table = TextTable::new(["", "search s", "step ms", "ratio", "target"]);
    let measured = &report.measured;
    let row = |name: &str, side: &Side, ratio: String, target: String| {
        [
            name.to_owned(),
            format!("{:.3}", side.seconds),
            format!("{:.1}", 1e3 * side.seconds / report.steps as f64),
            ratio,
            target,
        ]
    };
    let dash = || "-".to_owned();
    table.push(row(
        "whole prefixes",
        &measured.whole_prefixes,
        dash(),
        dash(),
    ));
    table.push(row(
        "keys and values kept",
        &measured.kept,
        format!("{:.2}", measured.ratio),
        format!("at least {TARGET}"),
    ));
    table
}

#[cfg(test)]
mod tests {
    use meltr_tasks::Hypothesis;

    use super::*;

    fn output(captions: &[&[i64]]) -> BeamOutput {
        BeamOutput {
            hypotheses: captions
                .iter()
                .map(|ids| Hypothesis {
                    ids: ids.to_vec(),
                    score: -1.0,
                })
                .collect(),
        }
    }

    #[test]
    fn the_network_can_be_built() {
        config().validate().unwrap();
        assert!(config().max_cross_positions >= WORDS + FRAMES);
    }

    #[test]
    fn both_searches_of_a_small_network_say_the_same() {
        let device = Device::default();
        let config = UniVlConfig::mini(50, 6);
        let model = config.init(2, &device).unwrap();
        let encoded = encoded(&model, &config, 2, &device);
        let measured = measure(&model, &encoded, &settings(3, 4), 1).unwrap();
        assert_eq!(measured.hypotheses, 6);
        assert_eq!(measured.equal_hypotheses, 6);
        assert_eq!(measured.kept.samples.len(), 1);
    }

    #[test]
    fn another_caption_fails_the_check_and_another_hypothesis_is_counted() {
        let whole = [output(&[&[4, 5], &[4, 6]])];
        assert_eq!(agreeing(&whole, &whole).unwrap(), 2);
        assert_eq!(agreeing(&whole, &[output(&[&[4, 5], &[4, 7]])]).unwrap(), 1);
        let error = agreeing(&whole, &[output(&[&[4, 6], &[4, 5]])]).unwrap_err();
        assert!(matches!(error, CliError::Check(_)));
    }
}
