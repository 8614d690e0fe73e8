//! `meltr bench captions`: caption metrics beside pycocoevalcap, each side in a process of its own,
//! on one corpus whose scores have to agree.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use meltr_data::{RandomStream, seed_for};
use meltr_tasks::metric::{
    CaptionCorpus, CaptionItem, CaptionScores, Meteor, MeteorData, Scored, Tokenization,
};
use meltr_train::peak_memory_bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::statistics::median;
use super::text_table::TextTable;
use super::{mebibytes, require_nonzero, threads};
use crate::cli::CaptionsBenchOptions;
use crate::error::CliError;
use crate::output;
use crate::score::captions::items;

/// What a process that carries out our side alone is to do: the corpus, the repeats and the folder
/// of METEOR's data (or an empty line), separated by newlines.
const ORDER: &str = "MELTR_BENCH_CAPTIONS_ORDER";

/// Largest difference of a score.
const TOLERANCE: f64 = 1e-6;

/// The same for METEOR, whose alignments may differ.
const METEOR_TOLERANCE: f64 = 1e-4;

const METEOR: &str = "METEOR";

/// Parts that are timed; METEOR only where its data are named.
const PARTS: [&str; 6] = ["tokenizer", "BLEU", "ROUGE_L", "CIDEr", METEOR, "all"];

/// Seed of the corpus.
const SEED: u64 = 1;

/// Words that a corpus may have.
const N_WORDS: usize = 6000;

/// The most frequent words, the commonest first.
const COMMON: [&str; 96] = [
    "a",
    "is",
    "the",
    "man",
    "in",
    "of",
    "and",
    "on",
    "woman",
    "with",
    "are",
    "to",
    "playing",
    "two",
    "an",
    "his",
    "person",
    "people",
    "girl",
    "dog",
    "boy",
    "some",
    "one",
    "into",
    "her",
    "water",
    "guitar",
    "cat",
    "someone",
    "down",
    "up",
    "talking",
    "cutting",
    "riding",
    "running",
    "while",
    "men",
    "singing",
    "dancing",
    "child",
    "baby",
    "food",
    "car",
    "piece",
    "pouring",
    "walking",
    "out",
    "around",
    "by",
    "from",
    "large",
    "small",
    "young",
    "group",
    "horse",
    "cooking",
    "putting",
    "slicing",
    "eating",
    "street",
    "ball",
    "field",
    "front",
    "onion",
    "potato",
    "knife",
    "bowl",
    "pan",
    "kitchen",
    "room",
    "floor",
    "table",
    "white",
    "black",
    "red",
    "green",
    "three",
    "women",
    "children",
    "players",
    "soccer",
    "game",
    "video",
    "music",
    "stage",
    "road",
    "bike",
    "motorcycle",
    "tree",
    "grass",
    "river",
    "beach",
    "jumping",
    "swimming",
    "driving",
    "showing",
];

/// Parts of rare words.
const SYLLABLES: [&str; 20] = [
    "ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "wo", "zu",
    "ran", "sten", "mil", "tor", "bel",
];

/// What a side writes.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    /// Of each part, each repeat.
    seconds: BTreeMap<String, Vec<f64>>,
    /// Of the corpus, by pycocoevalcap's names.
    corpus: BTreeMap<String, f64>,
    /// Of each item, in the order of the corpus.
    items: BTreeMap<String, Vec<f64>>,
    peak_rss_bytes: Option<u64>,
}

/// Both sides of one part.
#[derive(Debug, Serialize)]
struct Row {
    part: &'static str,
    /// Medians.
    meltr_seconds: f64,
    python_seconds: f64,
    /// The time of Python over ours.
    speed: f64,
}

pub(super) fn run(options: &CaptionsBenchOptions) -> Result<(), CliError> {
    if let Ok(order) = std::env::var(ORDER) {
        return carry_out(&order);
    }
    for (flag, value) in [
        ("--repeats", options.repeats),
        ("--items", options.items),
        ("--references", options.references),
    ] {
        require_nonzero(flag, value)?;
    }
    let folder = tempfile::tempdir().map_err(CliError::failed)?;
    let corpus = folder.path().join("corpus.json");
    let text = serde_json::to_string(&generated(options.items, options.references))
        .map_err(CliError::failed)?;
    std::fs::write(&corpus, text).map_err(CliError::failed)?;
    let ours = ours(options, &corpus)?;
    let theirs = theirs(options, &corpus)?;
    let differences = differences(&ours, &theirs)?;
    let rows: Vec<Row> = PARTS
        .into_iter()
        .filter_map(|part| {
            let meltr_seconds = median(ours.seconds.get(part)?);
            let python_seconds = median(theirs.seconds.get(part)?);
            Some(Row {
                part,
                meltr_seconds,
                python_seconds,
                speed: python_seconds / meltr_seconds,
            })
        })
        .collect();
    if options.json {
        output::json(&json!({
            "benchmark": "captions",
            "threads": threads(),
            "items": options.items,
            "references": options.references,
            "parts": rows,
            "corpus": ours.corpus,
            "largest_differences": differences,
            "meltr_peak_rss_bytes": ours.peak_rss_bytes,
            "python_peak_rss_bytes": theirs.peak_rss_bytes,
        }))?;
    } else {
        print(options, &rows, (&ours, &theirs), &differences);
    }
    let apart: Vec<String> = differences
        .iter()
        .filter(|(name, difference)| difference.is_nan() || **difference > tolerance(name))
        .map(|(name, difference)| format!("{name} by {difference:.1e}"))
        .collect();
    if apart.is_empty() {
        Ok(())
    } else {
        Err(CliError::Check(format!(
            "scores differ from pycocoevalcap's: {}",
            apart.join(", ")
        )))
    }
}

fn print(
    options: &CaptionsBenchOptions,
    rows: &[Row],
    (ours, theirs): (&Document, &Document),
    differences: &BTreeMap<String, f64>,
) {
    output::line(&format!(
        "{} captions, {} references each, {} threads; peak MiB: meltr {}, Python {} without Java",
        options.items,
        options.references,
        threads(),
        mebibytes(ours.peak_rss_bytes),
        mebibytes(theirs.peak_rss_bytes)
    ));
    let mut table = TextTable::new(["part", "meltr s", "Python s", "speed"]);
    for row in rows {
        table.push([
            row.part.to_owned(),
            format!("{:.4}", row.meltr_seconds),
            format!("{:.4}", row.python_seconds),
            format!("{:.1}", row.speed),
        ]);
    }
    for line in table.lines() {
        output::line(&line);
    }
    for (name, difference) in differences {
        output::line(&format!(
            "{name}: {:.6}, largest difference {difference:.1e}",
            ours.corpus.get(name).copied().unwrap_or(f64::NAN)
        ));
    }
}

fn tolerance(name: &str) -> f64 {
    if name == METEOR {
        METEOR_TOLERANCE
    } else {
        TOLERANCE
    }
}

/// The largest difference of each score, over the corpus and, but for METEOR, its items.
fn differences(ours: &Document, theirs: &Document) -> Result<BTreeMap<String, f64>, CliError> {
    let mut largest = BTreeMap::new();
    for (name, score) in &ours.corpus {
        let Some(other) = theirs.corpus.get(name) else {
            return Err(CliError::Failed(format!("the Python side has no {name}")));
        };
        let mut difference = (score - other).abs();
        if name != METEOR {
            let (Some(items), Some(others)) = (ours.items.get(name), theirs.items.get(name)) else {
                return Err(CliError::Failed(format!(
                    "a side has no {name} of its items"
                )));
            };
            if items.len() != others.len() {
                return Err(CliError::Failed(format!(
                    "{name}: {} items here, {} in Python",
                    items.len(),
                    others.len()
                )));
            }
            for (item, other) in items.iter().zip(others) {
                difference = difference.max((item - other).abs());
            }
        }
        largest.insert(name.clone(), difference);
    }
    Ok(largest)
}

fn ours(options: &CaptionsBenchOptions, corpus: &Path) -> Result<Document, CliError> {
    let mut command = Command::new(std::env::current_exe().map_err(CliError::failed)?);
    let meteor = options
        .meteor
        .as_ref()
        .map(|folder| folder.display().to_string())
        .unwrap_or_default();
    let order = format!("{}\n{}\n{meteor}", corpus.display(), options.repeats);
    command.args(["bench", "captions"]).env(ORDER, order);
    finished(command)
}

fn theirs(options: &CaptionsBenchOptions, corpus: &Path) -> Result<Document, CliError> {
    let mut command = Command::new(&options.python);
    command
        .arg(&options.script)
        .arg(corpus)
        .args(["--repeats", &options.repeats.to_string()]);
    if options.meteor.is_some() {
        command.arg("--meteor");
    }
    finished(command)
}

/// What a process wrote that ended well.
fn finished(mut command: Command) -> Result<Document, CliError> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let ended = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| CliError::Input(format!("`{shown}` cannot be run: {error}")))?;
    if !ended.status.success() {
        let message = String::from_utf8_lossy(&ended.stderr);
        let last = message.lines().last().unwrap_or("");
        return Err(CliError::Failed(format!(
            "`{shown}` ended with {}: {last}",
            ended.status
        )));
    }
    serde_json::from_slice(&ended.stdout).map_err(|error| {
        CliError::Failed(format!(
            "`{shown}` did not write the expected JSON document: {error}"
        ))
    })
}

fn carry_out(order: &str) -> Result<(), CliError> {
    let mut lines = order.lines();
    let (Some(corpus), Some(repeats)) = (lines.next(), lines.next()) else {
        return Err(CliError::Input(
            "an order names a corpus and repeats".into(),
        ));
    };
    let meteor = lines
        .next()
        .filter(|folder| !folder.is_empty())
        .map(Path::new);
    let repeats: usize = repeats.parse().map_err(CliError::failed)?;
    let items = items(Path::new(corpus), None)?;
    let mut seconds: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut scores = None;
    for _ in 0..repeats {
        let mut clock = Clock::new();
        scores = Some(scored(&items, meteor, &mut clock)?);
        for (part, of_part) in clock.ended() {
            seconds.entry(part.to_owned()).or_default().push(of_part);
        }
    }
    let Some(scores) = scores else {
        return Err(CliError::Input("an order has at least one repeat".into()));
    };
    let mut by_item: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for item in &scores.items {
        for (name, score) in item.coco_named(METEOR) {
            by_item.entry(name.to_owned()).or_default().push(score);
        }
    }
    output::json(&Document {
        seconds,
        corpus: scores
            .corpus
            .coco_named(METEOR)
            .into_iter()
            .map(|(name, score)| (name.to_owned(), score))
            .collect(),
        items: by_item,
        peak_rss_bytes: peak_memory_bytes(),
    })
}

/// All scores from nothing: the tokenizer is compiled and METEOR's data are read, as Java starts
/// on the other side.
fn scored(
    items: &[CaptionItem],
    meteor: Option<&Path>,
    clock: &mut Clock,
) -> Result<CaptionScores, CliError> {
    let corpus = clock
        .part("tokenizer", || CaptionCorpus::new(items, Tokenization::Ptb))
        .map_err(CliError::input)?;
    // Each metric is timed apart; the scores below compute them again, which nobody times.
    black_box(clock.part("BLEU", || corpus.bleu()));
    black_box(clock.part("ROUGE_L", || corpus.rouge_l()));
    black_box(clock.part("CIDEr", || corpus.cider()));
    let Some(folder) = meteor else {
        return Ok(corpus.scores());
    };
    let meteor = clock.part(METEOR, || -> Result<Scored<f64>, CliError> {
        let data = MeteorData::read(folder).map_err(CliError::input)?;
        let meteor = Meteor::new(data);
        let segments =
            corpus.segments(|hypothesis, references| meteor.score(hypothesis, references));
        Ok(Scored {
            corpus: Meteor::corpus(&segments),
            items: segments.iter().map(|segment| segment.score).collect(),
        })
    })?;
    Ok(corpus.scores().with_meteor(&meteor))
}

/// Seconds of parts that follow each other.
struct Clock {
    parts: Vec<(&'static str, f64)>,
}

impl Clock {
    fn new() -> Self {
        Self { parts: Vec::new() }
    }

    fn part<T>(&mut self, name: &'static str, action: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = action();
        self.parts.push((name, start.elapsed().as_secs_f64()));
        value
    }

    /// The parts, and their sum as `all`.
    fn ended(mut self) -> Vec<(&'static str, f64)> {
        let all = self.parts.iter().map(|(_, seconds)| seconds).sum();
        self.parts.push(("all", all));
        self.parts
    }
}

/// Captions by id, each with references that say the same in other words.
fn generated(n_items: usize, n_references: usize) -> Value {
    let words = Words::new();
    let items: Map<String, Value> = (0..n_items)
        .map(|item| {
            let mut stream = RandomStream::new(seed_for(SEED, &[item as u64]));
            let n_words = 6 + stream.below(9);
            let said: Vec<usize> = (0..n_words).map(|_| words.draw(&mut stream)).collect();
            let references: Vec<String> = (0..n_references)
                .map(|_| words.varied(&said, &mut stream))
                .collect();
            let hypothesis = words.varied(&said, &mut stream);
            let texts = json!({"refs": references, "hyp": hypothesis});
            (format!("item{item:05}"), texts)
        })
        .collect();
    Value::Object(items)
}

/// Words with the frequencies of Zipf's law.
struct Words {
    words: Vec<String>,
    /// Sums of the weights up to each word.
    cumulative: Vec<f64>,
}

impl Words {
    fn new() -> Self {
        let mut stream = RandomStream::new(seed_for(SEED, &[]));
        let mut words: Vec<String> = COMMON.iter().map(|word| (*word).to_owned()).collect();
        while words.len() < N_WORDS {
            let n_syllables = 2 + stream.below(3);
            let word: String = (0..n_syllables)
                .map(|_| SYLLABLES[stream.below(SYLLABLES.len())])
                .collect();
            words.push(word);
        }
        let mut sum = 0.0;
        let cumulative = (0..words.len())
            .map(|rank| {
                sum += 1.0 / (rank as f64 + 2.7);
                sum
            })
            .collect();
        Self { words, cumulative }
    }

    fn draw(&self, stream: &mut RandomStream) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(0.0);
        let at = stream.unit() * total;
        self.cumulative
            .partition_point(|sum| *sum <= at)
            .min(self.words.len() - 1)
    }

    /// A text with some other words, and with what a tokenizer has to take off.
    fn varied(&self, said: &[usize], stream: &mut RandomStream) -> String {
        let mut text = String::new();
        for &word in said {
            let chance = stream.unit();
            if chance < 0.1 {
                continue;
            }
            let word = if chance < 0.45 {
                self.draw(stream)
            } else {
                word
            };
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&self.words[word]);
            let ending = stream.below(100);
            text.push_str(match ending {
                0..=2 => "'s",
                3..=5 => ",",
                6 => " doesn't",
                7 => " 2",
                _ => "",
            });
        }
        if stream.below(2) == 0 {
            text.push('.');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(bleu: f64, item: f64) -> Document {
        Document {
            seconds: BTreeMap::new(),
            corpus: BTreeMap::from([("Bleu_1".to_owned(), bleu), (METEOR.to_owned(), bleu)]),
            items: BTreeMap::from([("Bleu_1".to_owned(), vec![0.5, item])]),
            peak_rss_bytes: None,
        }
    }

    #[test]
    fn the_corpus_is_the_same_every_time_and_its_words_follow_their_ranks() {
        let corpus = generated(40, 3);
        assert_eq!(corpus, generated(40, 3));
        assert_eq!(corpus["item00039"]["refs"].as_array().unwrap().len(), 3);
        let text = corpus.to_string();
        assert!(text.matches(" a ").count() > text.matches(" river ").count());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corpus.json");
        std::fs::write(&path, text).unwrap();
        assert_eq!(items(&path, None).unwrap().len(), 40);
    }

    #[test]
    fn differences_are_the_largest_of_corpus_and_items() {
        let found = differences(&document(0.5, 0.25), &document(0.5, 0.75)).unwrap();
        assert_eq!(found["Bleu_1"], 0.5);
        assert_eq!(found[METEOR], 0.0);
        let mut other = document(0.5, 0.25);
        other.corpus.clear();
        assert!(differences(&document(0.5, 0.25), &other).is_err());
    }

    #[test]
    fn the_parts_sum_to_all() {
        let mut clock = Clock::new();
        assert_eq!(clock.part("BLEU", || 3), 3);
        clock.part("CIDEr", || ());
        let parts = clock.ended();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[2].0, "all");
        assert!((parts[2].1 - parts[0].1 - parts[1].1).abs() < 1e-12);
    }
}
