//! `meltr bench rank`: texts ranked against videos by the cross encoder, beside PyTorch.
//!
//! Every text and every video is encoded once, then all pairs are scored in chunks, without a tape.
//! Each number of items is a process of its own, this program again, told by an environment
//! variable what to do: the peak of the resident memory never falls within a process. In the
//! comparison processes of both sides alternate, so that a drift of the machine reaches both, and
//! their scores have to agree.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use meltr_data::{EmojiClips, TensorFile, TensorFileWriter, VideoTextSet, seed_for};
use meltr_models::{UniVl, UniVlConfig};
use meltr_tasks::UniVlRetrieval;
use meltr_train::peak_memory_bytes;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::child::{json_of, set_threads, this_program};
use super::meta_subject::{FRAMES, WORDS, collator, model_config, pairs, retrieval};
use super::peer_file::{insert_weights, spread_out};
use super::pytorch_peer::{PyTorchPeer, torch_device};
use super::statistics::median;
use super::text_table::TextTable;
use super::{BURN_VERSION, mebibytes, require_nonzero, threads, timed};
use crate::cli::RankOptions;
use crate::device;
use crate::error::CliError;
use crate::output;

/// Holds an [`Order`] for a process that is to carry out that alone.
const ORDER: &str = "MELTR_BENCH_RANK_ORDER";

/// The PyTorch side.
const SCRIPT: &str = "univl_rank.py";

/// Numbers of texts, and of videos, unless options name others.
const ITEMS: [usize; 3] = [250, 500, 1000];

/// Pairs a second by PyTorch's are to be at least so many.
const THROUGHPUT_TARGET: f64 = 0.9;

/// From the fewest to the most items the peak memory, the scores aside, is to grow by this factor
/// at most, while the pairs grow by the square of the items.
const GROWTH_TARGET: f64 = 1.25;

/// Scores of both sides may differ by this share of what lies between the lowest and the highest.
const TOLERANCE: f64 = 1e-3;

/// What the retrieval task needs to be set up; nothing is trained.
const N_LOSSES: usize = 2;
const BATCH: usize = 2;

/// Name of the scores in the files of both sides.
const SCORES: &str = "scores";

/// Seed of the weights.
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
    words: usize,
    frames: usize,
    chunk: usize,
    /// Floating-point operations of what is computed once per pair.
    flops_per_pair: f64,
    targets: Targets,
    by_items: Vec<Measured>,
    /// Peak memory, the scores aside, of the most items by that of the fewest.
    memory_growth: Option<f64>,
    /// Without `--python` there is none.
    comparison: Option<Comparison>,
}

#[derive(Debug, Serialize)]
struct Targets {
    throughput_ratio_at_least: f64,
    memory_growth_at_most: f64,
}

/// What was measured for one number of items.
#[derive(Debug, Serialize)]
struct Measured {
    items: usize,
    pairs: usize,
    seconds: f64,
    pairs_per_second: f64,
    peak_memory_bytes: Option<u64>,
    /// Scores in f32.
    scores_bytes: u64,
    /// Encodings of all items, which are kept.
    encodings_bytes: u64,
}

impl Measured {
    fn new(items: usize, config: &UniVlConfig, document: &Document) -> Self {
        let pairs = items * items;
        let encoding = (WORDS + FRAMES) * config.d_model;
        Self {
            items,
            pairs,
            seconds: document.seconds,
            pairs_per_second: pairs as f64 / document.seconds,
            peak_memory_bytes: document.peak_rss_bytes,
            scores_bytes: bytes_of_floats(pairs),
            encodings_bytes: bytes_of_floats(items * encoding),
        }
    }

    fn peak_without_scores(&self) -> Option<u64> {
        let peak = self.peak_memory_bytes?;
        Some(peak.saturating_sub(self.scores_bytes))
    }
}

fn bytes_of_floats(count: usize) -> u64 {
    (count * size_of::<f32>()) as u64
}

/// The same pairs on both sides.
#[derive(Debug, Serialize)]
struct Comparison {
    items: usize,
    torch: String,
    torch_threads: usize,
    ours: Side,
    theirs: Side,
    /// Pairs a second of ours by theirs.
    throughput_ratio: f64,
    /// Between scores of both sides.
    largest_difference: f64,
    /// From the lowest to the highest score of the PyTorch side.
    score_range: f64,
}

/// What was measured of one side.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Side {
    /// Median.
    seconds: f64,
    /// From the median.
    pairs_per_second: f64,
    /// The largest of all processes.
    peak_memory_bytes: Option<u64>,
    samples: Vec<f64>,
}

impl Side {
    fn of(items: usize, documents: &[Document]) -> Self {
        let samples: Vec<f64> = documents.iter().map(|document| document.seconds).collect();
        let seconds = median(&samples);
        Self {
            seconds,
            pairs_per_second: (items * items) as f64 / seconds,
            peak_memory_bytes: documents
                .iter()
                .filter_map(|document| document.peak_rss_bytes)
                .max(),
            samples,
        }
    }
}

/// What a process of either side writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Document {
    /// Version of PyTorch, on its side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    torch: Option<String>,
    threads: usize,
    /// From texts and features to all scores.
    seconds: f64,
    peak_rss_bytes: Option<u64>,
}

/// What a process of this side is to do.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    items: usize,
    /// Where the scores go, if they are wanted.
    output: Option<PathBuf>,
}

pub(super) fn run(options: &RankOptions) -> Result<(), CliError> {
    for (flag, value) in [
        ("--compared", options.compared),
        ("--chunk", options.chunk),
        ("--repeats", options.repeats),
        ("--threads", options.threads.unwrap_or(1)),
        ("--items", options.items.iter().copied().min().unwrap_or(1)),
    ] {
        require_nonzero(flag, value)?;
    }
    let device = device::parse(&options.device)?;
    if let Ok(order) = std::env::var(ORDER) {
        return carry_out(&order, options, &device);
    }
    let mut wanted = options.items.clone();
    if wanted.is_empty() {
        wanted = ITEMS.to_vec();
    }
    wanted.sort_unstable();
    wanted.dedup();
    let subject = Subject::new(options.chunk, &Device::default())?;
    let compared = match wanted.last() {
        Some(most) if options.full => *most,
        _ => options.compared,
    };
    let peer = Peer::new(compared, &subject, options)?;
    let flops_per_pair = flops_per_pair(&subject.config);
    let mut by_items = Vec::with_capacity(wanted.len());
    for items in wanted {
        note(options, &about(items, flops_per_pair, "meltr"));
        let document = ours(items, None, options)?;
        by_items.push(Measured::new(items, &subject.config, &document));
    }
    let report = Report {
        benchmark: "rank",
        meltr: env!("CARGO_PKG_VERSION"),
        burn: BURN_VERSION,
        device: options.device.clone(),
        threads: options.threads.unwrap_or_else(threads),
        n_parameters: subject.model.num_params(),
        model: subject.config,
        words: WORDS,
        frames: FRAMES,
        chunk: options.chunk,
        flops_per_pair,
        targets: Targets {
            throughput_ratio_at_least: THROUGHPUT_TARGET,
            memory_growth_at_most: GROWTH_TARGET,
        },
        memory_growth: memory_growth(&by_items),
        by_items,
        comparison: peer
            .map(|peer| peer.compare(options, flops_per_pair))
            .transpose()?,
    };
    if options.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    match &report.comparison {
        Some(comparison) => require_agreement(comparison),
        None => Ok(()),
    }
}

fn note(options: &RankOptions, text: &str) {
    if !options.json {
        output::note(text);
    }
}

/// What is about to be done, with its cost.
fn about(items: usize, flops_per_pair: f64, side: &str) -> String {
    let pairs = items * items;
    format!(
        "N = {items}: {side}, {pairs} pairs, about {:.0} GFLOP",
        pairs as f64 * flops_per_pair / 1e9
    )
}

/// Floating-point operations of what is computed once per pair with one cross layer: the attention
/// of the first token, the linear maps after it and the pooler. What is computed once per item, or
/// once per item and chunk, is left out.
fn flops_per_pair(config: &UniVlConfig) -> f64 {
    let [d_model, d_ff, length] = [config.d_model, config.d_ff, WORDS + FRAMES];
    let attention = 2 * length * d_model;
    let maps = 2 * d_model * d_model + 2 * d_model * d_ff;
    (2 * (attention + maps)) as f64
}

/// UniVL mini on the embedded clips.
struct Subject {
    set: Arc<dyn VideoTextSet>,
    task: UniVlRetrieval,
    config: UniVlConfig,
    model: UniVl,
}

impl Subject {
    fn new(chunk: usize, device: &Device) -> Result<Self, CliError> {
        let set = pairs(EmojiClips::embedded()?);
        let config = model_config(set.word_piece().vocab_size());
        Ok(Self {
            task: retrieval(&set, N_LOSSES, BATCH, chunk, device)?,
            model: spread_out(&config, seed_for(SEED, &[0]), device)?,
            config,
            set,
        })
    }

    /// So many items: the clips in turn, again from the first one when they are through.
    fn items(&self, count: usize) -> Vec<usize> {
        (0..self.set.n_items()).cycle().take(count).collect()
    }

    /// Writes what the PyTorch side reads.
    fn write(&self, path: &Path, count: usize) -> Result<(), CliError> {
        let mut writer = TensorFileWriter::new();
        insert_weights(&mut writer, &self.model);
        let batch = collator().collate_clean(&*self.set, &self.items(count))?;
        writer.insert_i64_array("input_ids", &batch.text_ids);
        writer.insert_f32_array("video", &batch.video);
        for (name, pad) in [
            ("attention_mask", &batch.text_pad),
            ("video_mask", &batch.video_pad),
        ] {
            writer.insert_i64_array(name, &pad.mapv(|pad| i64::from(!pad)));
        }
        Ok(writer.write(path)?)
    }
}

/// One process of this side.
fn ours(
    items: usize,
    output: Option<PathBuf>,
    options: &RankOptions,
) -> Result<Document, CliError> {
    let order = serde_json::to_string(&Order { items, output }).map_err(CliError::failed)?;
    let mut command = this_program("rank")?;
    command
        .arg("--chunk")
        .arg(options.chunk.to_string())
        .arg("--device")
        .arg(&options.device)
        .env(ORDER, order);
    if let Some(count) = options.threads {
        set_threads(&mut command, count);
    }
    json_of(&mut command, "a ranking")
}

/// The other side of [`ours`].
fn carry_out(order: &str, options: &RankOptions, device: &Device) -> Result<(), CliError> {
    let Order { items, output } = serde_json::from_str::<Order>(order)
        .map_err(|error| CliError::Input(format!("{ORDER} is no order: {error}; unset it")))?;
    let subject = Subject::new(options.chunk, device)?;
    let rank = |indices: &[usize]| {
        let scores = subject.task.similarity_matrix(&subject.model, indices);
        scores.map_err(CliError::from)
    };
    let indices = subject.items(items);
    // A chunk that does not count.
    rank(&indices[..options.chunk.min(items)])?;
    let (scores, seconds) = timed(device, || rank(&indices))?;
    let peak_rss_bytes = peak_memory_bytes();
    if let Some(output) = output {
        let mut writer = TensorFileWriter::new();
        let values = scores.iter().map(|score| *score as f32).collect();
        writer.insert_f32(SCORES, &[items, items], values);
        writer.write(&output)?;
    }
    output::json(&Document {
        torch: None,
        threads: threads(),
        seconds,
        peak_rss_bytes,
    })
}

/// The PyTorch side, with what it reads.
struct Peer {
    script: PyTorchPeer,
    items: usize,
    /// Of files that go with the value.
    folder: TempDir,
}

impl Peer {
    /// Nothing without an interpreter.
    fn new(
        items: usize,
        subject: &Subject,
        options: &RankOptions,
    ) -> Result<Option<Self>, CliError> {
        let Some(python) = &options.python else {
            return Ok(None);
        };
        let counts = vec![
            ("--items", items),
            ("--chunk", options.chunk),
            ("--threads", options.threads.unwrap_or_else(threads)),
        ];
        let script = PyTorchPeer::new(
            python,
            options.scripts.join(SCRIPT),
            &subject.config,
            counts,
            torch_device(&options.device),
        )?;
        let folder = tempfile::tempdir().map_err(CliError::failed)?;
        let peer = Self {
            script,
            items,
            folder,
        };
        subject.write(&peer.file("subject"), items)?;
        Ok(Some(peer))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.safetensors"))
    }

    /// Processes of both sides in turn.
    fn compare(&self, options: &RankOptions, flops_per_pair: f64) -> Result<Comparison, CliError> {
        let items = self.items;
        let [data, our_scores, their_scores] =
            ["subject", "ours", "theirs"].map(|name| self.file(name));
        let (mut our_documents, mut their_documents) = (Vec::new(), Vec::new());
        let repeats = options.repeats;
        for round in 1..=repeats {
            let tell = |side: &str| {
                let about = about(items, flops_per_pair, side);
                note(
                    options,
                    &format!("comparison {round} of {repeats}, {about}"),
                );
            };
            tell("meltr");
            our_documents.push(ours(items, Some(our_scores.clone()), options)?);
            tell("PyTorch");
            let arguments = [
                OsStr::new("--data"),
                data.as_os_str(),
                OsStr::new("--output"),
                their_scores.as_os_str(),
            ];
            let document: Document = self.script.document(arguments)?;
            their_documents.push(document);
        }
        let [ours, theirs] =
            [&our_documents, &their_documents].map(|documents| Side::of(items, documents));
        let (largest_difference, score_range) =
            apart(&read_scores(&our_scores)?, &read_scores(&their_scores)?)?;
        let last = their_documents.pop();
        Ok(Comparison {
            items,
            torch_threads: last.as_ref().map_or(0, |document| document.threads),
            torch: last.and_then(|document| document.torch).unwrap_or_default(),
            throughput_ratio: ours.pairs_per_second / theirs.pairs_per_second,
            ours,
            theirs,
            largest_difference,
            score_range,
        })
    }
}

fn read_scores(path: &Path) -> Result<Vec<f64>, CliError> {
    let scores = TensorFile::open(path)?.f64(SCORES)?;
    Ok(scores.iter().copied().collect())
}

/// The largest difference between scores, infinite if one is not finite, and what lies between the
/// lowest and the highest of `theirs`.
fn apart(ours: &[f64], theirs: &[f64]) -> Result<(f64, f64), CliError> {
    if ours.len() != theirs.len() {
        return Err(CliError::Failed(format!(
            "meltr has {} scores and PyTorch {}",
            ours.len(),
            theirs.len()
        )));
    }
    let mut largest = 0.0_f64;
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (our, their) in ours.iter().zip(theirs) {
        let difference = (our - their).abs();
        largest = largest.max(if difference.is_finite() {
            difference
        } else {
            f64::INFINITY
        });
        (low, high) = (low.min(*their), high.max(*their));
    }
    Ok((largest, high - low))
}

fn require_agreement(comparison: &Comparison) -> Result<(), CliError> {
    let Comparison {
        largest_difference,
        score_range,
        ..
    } = comparison;
    if *largest_difference <= TOLERANCE * score_range {
        return Ok(());
    }
    Err(CliError::Check(format!(
        "scores of meltr and PyTorch differ by up to {largest_difference:.1e}; they range over \
         {score_range:.1e}, of which {TOLERANCE:.0e} is allowed"
    )))
}

/// Growth of the peak memory from the fewest to the most items, the scores aside.
fn memory_growth(by_items: &[Measured]) -> Option<f64> {
    let [first, .., last] = by_items else {
        return None;
    };
    Some(last.peak_without_scores()? as f64 / first.peak_without_scores()? as f64)
}

fn print(report: &Report) {
    output::line(&format!(
        "meltr {}, burn {}, device {}, {} threads",
        report.meltr, report.burn, report.device, report.threads
    ));
    output::line(&format!(
        "UniVL mini (width {}, {} cross layer, {:.1} M parameters), the embedded clips in turn: N \
         texts of {} words, N videos of {} frames, {} of each against each other at a time, {:.2} \
         MFLOP a pair",
        report.model.d_model,
        report.model.cross_layers,
        report.n_parameters as f64 / 1e6,
        report.words,
        report.frames,
        report.chunk,
        report.flops_per_pair / 1e6
    ));
    output::line("");
    for line in items_table(&report.by_items).lines() {
        output::line(&line);
    }
    if let ([first, .., last], Some(growth)) = (report.by_items.as_slice(), report.memory_growth) {
        output::line("");
        output::line(&format!(
            "from N = {} to N = {} the pairs grow by a factor of {:.0}, the peak memory without \
             the scores by {growth:.2} (target: at most {GROWTH_TARGET}); the encodings, each made \
             once and kept, are part of it",
            first.items,
            last.items,
            last.pairs as f64 / first.pairs as f64
        ));
    }
    output::line("");
    let Some(comparison) = &report.comparison else {
        output::line(
            "for a comparison with PyTorch: meltr bench rank --python PYTHON, an interpreter that \
             has it (see xtask/peers/README.md)",
        );
        return;
    };
    for line in comparison_table(comparison).lines() {
        output::line(&line);
    }
    output::line("");
    output::line(&format!(
        "scores of both sides differ by {:.1e} at most and range over {:.1e}",
        comparison.largest_difference, comparison.score_range
    ));
    if comparison.torch_threads != report.threads {
        output::line(&format!(
            "PyTorch used {} threads, not {}: the ratio does not count",
            comparison.torch_threads, report.threads
        ));
    }
    if torch_device(&report.device) == "cpu" && report.device != "flex" && report.device != "tch" {
        output::line(&format!(
            "PyTorch ran on the CPU, meltr on `{}`: the ratio compares devices",
            report.device
        ));
    }
}

/// Time and memory for every number of items.
fn items_table(by_items: &[Measured]) -> TextTable {
    let mut table = TextTable::new([
        "N",
        "pairs",
        "seconds",
        "pairs/s",
        "peak MiB",
        "without scores",
        "encodings MiB",
    ]);
    for measured in by_items {
        table.push([
            measured.items.to_string(),
            measured.pairs.to_string(),
            format!("{:.2}", measured.seconds),
            format!("{:.0}", measured.pairs_per_second),
            mebibytes(measured.peak_memory_bytes),
            mebibytes(measured.peak_without_scores()),
            mebibytes(Some(measured.encodings_bytes)),
        ]);
    }
    table
}

/// Both sides with the ratio.
fn comparison_table(comparison: &Comparison) -> TextTable {
    let mut table = TextTable::new(["", "seconds", "pairs/s", "peak MiB", "throughput", "target"]);
    let items = comparison.items;
    for (label, side, ratio, target) in [
        (
            format!("N = {items}, meltr"),
            &comparison.ours,
            format!("{:.2}", comparison.throughput_ratio),
            format!("at least {THROUGHPUT_TARGET}"),
        ),
        (
            format!("N = {items}, PyTorch {}", comparison.torch),
            &comparison.theirs,
            "1".to_owned(),
            "-".to_owned(),
        ),
    ] {
        table.push([
            label,
            format!("{:.2}", side.seconds),
            format!("{:.0}", side.pairs_per_second),
            mebibytes(side.peak_memory_bytes),
            ratio,
            target,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(seconds: f64, peak: u64) -> Document {
        Document {
            torch: None,
            threads: 2,
            seconds,
            peak_rss_bytes: Some(peak),
        }
    }

    fn measured(items: usize, peak: u64) -> Measured {
        Measured::new(items, &model_config(100), &document(2.0, peak))
    }

    #[test]
    fn memory_grows_from_the_fewest_to_the_most_items_without_the_scores() {
        let growing = [
            measured(10, 1_000_400),
            measured(20, 5_000_000),
            measured(30, 1_103_600),
        ];
        assert!((memory_growth(&growing).unwrap() - 1.1).abs() < 1e-12);
        assert_eq!(memory_growth(&growing[..1]), None);
        assert_eq!(growing[2].pairs_per_second, 450.0);
        assert_eq!(growing[0].encodings_bytes, 10 * 28 * 192 * 4);
    }

    #[test]
    fn the_cost_of_a_pair_is_the_one_worked_by_hand() {
        let config = UniVlConfig {
            d_model: 2,
            d_ff: 3,
            ..UniVlConfig::mini(10, 4)
        };
        // Scores and sums over 28 tokens; output and pooler 2 x 2, feed-forward 2 x 3 and back.
        assert_eq!(flops_per_pair(&config), 2.0 * (2.0 * 56.0 + 8.0 + 12.0));
        let text = about(100, 5e5, "meltr");
        assert_eq!(text, "N = 100: meltr, 10000 pairs, about 5 GFLOP");
    }

    #[test]
    fn items_are_the_clips_in_turn() {
        let subject = Subject::new(64, &Device::default()).unwrap();
        let n_clips = subject.set.n_items();
        let items = subject.items(n_clips + 2);
        assert_eq!(items[..2], [0, 1]);
        assert_eq!(items[n_clips..], [0, 1]);
        let indices = subject.items(3);
        let scores = subject.task.similarity_matrix(&subject.model, &indices);
        let scores = scores.unwrap();
        assert_eq!(scores.dim(), (3, 3));
        // Scores lie apart, so that a wrong pair is seen.
        assert!((scores[[0, 1]] - scores[[0, 2]]).abs() > 1e-4);
    }

    #[test]
    fn a_side_is_its_median_and_its_largest_peak() {
        let side = Side::of(10, &[document(1.0, 7), document(3.0, 9), document(2.0, 8)]);
        assert_eq!((side.seconds, side.pairs_per_second), (2.0, 50.0));
        assert_eq!(side.peak_memory_bytes, Some(9));
    }

    fn comparison(ours: &[f64], theirs: &[f64]) -> Comparison {
        let (largest_difference, score_range) = apart(ours, theirs).unwrap();
        Comparison {
            items: 1,
            torch: String::new(),
            torch_threads: 2,
            ours: Side::default(),
            theirs: Side::default(),
            throughput_ratio: 1.0,
            largest_difference,
            score_range,
        }
    }

    #[test]
    fn scores_that_differ_fail_the_check() {
        let theirs = [-1.0, 0.0, 1.0];
        assert!(require_agreement(&comparison(&[-1.0, 0.001, 1.0], &theirs)).is_ok());
        for wrong in [[0.0, -1.0, 1.0], [-1.0, f64::NAN, 1.0]] {
            let error = require_agreement(&comparison(&wrong, &theirs)).unwrap_err();
            assert!(matches!(error, CliError::Check(_)));
        }
        // Of equal scores nothing can be told.
        assert!(require_agreement(&comparison(&[0.5; 3], &[0.5 + 1e-9; 3])).is_err());
        assert!(apart(&[0.0], &theirs).is_err());
    }
}
