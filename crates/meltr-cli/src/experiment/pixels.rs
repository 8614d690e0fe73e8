//! The tasks on raw frames: sets, batches, network and task put together.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::{Device, TensorData};
use meltr_core::{FineTuneTask, StateDict};
use meltr_data::{
    AllInOneFiles, AllInOnePaths, CheckDepth, ClipCheck, ClipText, EmojiFrames, EmojiFramesConfig,
    FaultyItems, FrameChoice, FrameDecoding, KeywordUse, ManifestFrames, ManifestFramesConfig,
    PixelCollator, PixelSet, PixelTask, VioletFiles, VioletPaths, WordPiece, check_clips, seed_for,
};
use meltr_models::{AllInOneConfig, VioletConfig, VioletLoss};
use meltr_tasks::{
    AllInOneFineTune, AllInOneTaskConfig, BlindReference, VioletFineTune, VioletTaskConfig,
    all_in_one_start, all_in_one_task, violet_start, violet_task,
};
use meltr_train::report::ReferenceRow;
use ndarray::{Array2, s};
use serde::{Deserialize, Serialize};

use super::data::SetConfig;
use super::model::{ModelStart, Preset};
use super::prepared::Prepared;
use super::{Experiment, section};
use crate::error::CliError;
use crate::output;

const MODEL_STREAM: u64 = 111;
const ORDER_STREAM: u64 = 112;
const START_STREAM: u64 = 113;

/// Name of VIOLET's word table in its state dicts.
const VIOLET_WORD_TABLE: &str = "enc_txt.emb_txt.word_embeddings.weight";

/// The same of All-in-one's.
const ALL_IN_ONE_WORD_TABLE: &str = "text_embeddings.word_embeddings.weight";

/// Root mean square of a word table made of known vectors. The tables of places, which are added
/// to it, start at 0.02: words count more than where they stand.
const WORD_SCALE: f64 = 0.1;

const MIB: u64 = 1 << 20;

/// The embedded clips, or a set of their format, as raw frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmojiClipsFrames {
    /// A folder with the set's files; without it, the embedded copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    folder: Option<PathBuf>,
    /// Another vocabulary, such as that of published weights, with one token a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vocab: Option<PathBuf>,
    /// What is asked about a clip.
    task: PixelTask,
    /// Which of its frames a sample has.
    #[serde(default = "uniform_frames")]
    choice: FrameChoice,
    /// How a clip is put into words, for retrieval.
    #[serde(default = "names_alone")]
    text: ClipText,
    /// Seed of the wrong options of evaluation, for multiple choice.
    #[serde(default)]
    option_seed: u64,
}

/// VIOLET's files of one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VioletFilesSet {
    /// A vocabulary with one token a line.
    vocab: PathBuf,
    /// The files.
    paths: VioletPaths,
}

/// All-in-one's files of one data set, its videos decoded on demand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AllInOneFilesSet {
    /// A vocabulary with one token a line.
    vocab: PathBuf,
    /// The files.
    paths: AllInOnePaths,
    /// Which frames of a video a sample has.
    #[serde(default = "all_in_one_frames")]
    choice: FrameChoice,
    /// Decoded frames that are kept for later samples at most, in MiB.
    #[serde(default)]
    cache_mib: u64,
}

/// One's own videos: a manifest, whose videos are decoded on demand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ManifestFramesSet {
    /// A vocabulary with one token a line.
    vocab: PathBuf,
    /// One JSON object a line.
    file: PathBuf,
    /// The task; items that have not what it needs are left out.
    task: PixelTask,
    /// What happens if a file is absent, cut off or there twice.
    #[serde(default)]
    faulty_items: FaultyItems,
    /// Which frames of a video a sample has.
    #[serde(default = "uniform_frames")]
    choice: FrameChoice,
    /// Decoded frames that are kept for later samples at most, in MiB.
    #[serde(default)]
    cache_mib: u64,
}

fn uniform_frames() -> FrameChoice {
    FrameChoice::Uniform
}

fn all_in_one_frames() -> FrameChoice {
    FrameChoice::AllInOne
}

fn names_alone() -> ClipText {
    ClipText {
        keywords: KeywordUse::None,
    }
}

/// A set of raw frames that has been read.
pub(super) struct Pixels {
    pub(super) set: Arc<dyn PixelSet>,
    /// Vectors of the words of the set, by falling variance, if it has any.
    pub(super) vectors: Option<Array2<f32>>,
}

impl Pixels {
    fn without_vectors(set: impl PixelSet + 'static) -> Self {
        Self {
            set: Arc::new(set),
            vectors: None,
        }
    }
}

impl EmojiClipsFrames {
    fn open(&self, n_frames: usize) -> Result<Pixels, CliError> {
        let config = EmojiFramesConfig {
            task: self.task,
            n_frames,
            choice: self.choice,
            text: self.text,
            option_seed: self.option_seed,
        };
        let set = match &self.folder {
            Some(folder) => EmojiFrames::open(folder, config)?,
            None => EmojiFrames::embedded(config)?,
        };
        if let Some(vocab) = &self.vocab {
            // The vectors are those of the set's own vocabulary.
            let words = WordPiece::from_vocab_file(vocab)?;
            return Ok(Pixels::without_vectors(set.with_word_piece(words)));
        }
        let vectors = set.clips().token_embeddings().clone();
        Ok(Pixels {
            set: Arc::new(set),
            vectors: Some(vectors),
        })
    }
}

impl VioletFilesSet {
    fn open(&self, n_frames: usize) -> Result<Pixels, CliError> {
        let words = WordPiece::from_vocab_file(&self.vocab)?;
        let set = VioletFiles::open(&self.paths, words, n_frames)?;
        Ok(Pixels::without_vectors(set))
    }
}

impl AllInOneFilesSet {
    fn open(&self, n_frames: usize) -> Result<Pixels, CliError> {
        let words = WordPiece::from_vocab_file(&self.vocab)?;
        let decoding = decoding(n_frames, self.choice, self.cache_mib);
        let set = AllInOneFiles::open(&self.paths, words, decoding)?;
        Ok(Pixels::without_vectors(set))
    }
}

impl ManifestFramesSet {
    /// Files are checked as far as their containers tell; what is damaged inside is an error of
    /// the sample that needs it.
    fn open(&self, n_frames: usize) -> Result<Pixels, CliError> {
        let words = WordPiece::from_vocab_file(&self.vocab)?;
        let check = ClipCheck {
            depth: CheckDepth::Container,
            ..ClipCheck::default()
        };
        let report = check_clips(&self.file, check)?;
        let config = ManifestFramesConfig {
            task: self.task,
            faulty: self.faulty_items,
            decoding: decoding(n_frames, self.choice, self.cache_mib),
        };
        let set = ManifestFrames::open(&self.file, &report, words, config)?;
        if set.n_other() > 0 {
            output::note(&format!(
                "{} usable items of `{}` are left out: they have not what {} needs",
                set.n_other(),
                self.file.display(),
                self.task
            ));
        }
        Ok(Pixels::without_vectors(set))
    }
}

fn decoding(n_frames: usize, choice: FrameChoice, cache_mib: u64) -> FrameDecoding {
    FrameDecoding {
        cache_bytes: cache_mib.saturating_mul(MIB),
        ..FrameDecoding::new(n_frames, choice)
    }
}

impl SetConfig {
    /// Reads a set of raw frames; samples will have `n_frames` frames.
    pub(super) fn open_pixels(&self, n_frames: usize) -> Result<Pixels, CliError> {
        match self {
            Self::EmojiClipsFrames(set) => set.open(n_frames),
            Self::VioletFiles(set) => set.open(n_frames),
            Self::AllInOneFiles(set) => set.open(n_frames),
            Self::ManifestFrames(set) => set.open(n_frames),
            _ => Err(CliError::Input(format!(
                "`data.set.name = \"{}\"` has features of frames, and this backbone reads raw \
                 frames; take emoji-clips-frames, violet-files, all-in-one-files or \
                 manifest-frames",
                self.name()
            ))),
        }
    }
}

impl SetConfig {
    /// Which frames of a video a sample of a set of raw frames has; `None` for other sets.
    pub(crate) fn frame_choice(&self) -> Option<FrameChoice> {
        match self {
            Self::EmojiClipsFrames(set) => Some(set.choice),
            Self::AllInOneFiles(set) => Some(set.choice),
            Self::ManifestFrames(set) => Some(set.choice),
            // That of the script that makes these files.
            Self::VioletFiles(_) => Some(FrameChoice::Violet),
            _ => None,
        }
    }
}

impl Experiment {
    /// Settings of batches of raw frames: those of `preset` with the keys of `[data.batches]` in
    /// place of its own.
    pub(super) fn pixel_collator(&self, preset: PixelCollator) -> Result<PixelCollator, CliError> {
        let mut table = toml::Table::try_from(preset).map_err(CliError::failed)?;
        table.extend(self.data.batches.clone());
        let collator: PixelCollator = section("data.batches", &table)?;
        collator.validate().map_err(CliError::input)?;
        Ok(collator)
    }

    pub(super) fn prepare_violet(
        &self,
        config: &VioletTaskConfig,
        device: &Device,
    ) -> Result<Prepared, CliError> {
        let collator = self.pixel_collator(PixelCollator::violet())?;
        let pixels = self.data.set.open_pixels(collator.n_frames)?;
        let kind = violet_task(&*pixels.set);
        let preset = match self.model.preset {
            Preset::Base => VioletConfig::base(kind),
            Preset::Mini => VioletConfig::mini(
                kind,
                pixels.set.word_piece().vocab_size(),
                // The head is there even if nothing is to be predicted with it.
                collator.visual_targets.n_tokens().max(1),
            ),
        };
        let sizes: VioletConfig = self.model.overridden(preset)?;
        let order_seed = seed_for(self.seed, &[ORDER_STREAM]);
        // Before the model, which takes longer and may be in vain.
        let task = VioletFineTune::new(
            Arc::clone(&pixels.set),
            collator,
            &sizes,
            config.clone(),
            order_seed,
            device,
        )?;
        let model = sizes.init(seed_for(self.seed, &[MODEL_STREAM]), device)?;
        let model = match self.model.start {
            ModelStart::Random => model,
            ModelStart::WordVectors => {
                let table = (VIOLET_WORD_TABLE, sizes.d_model());
                self.with_word_table(&task, table, model, self.word_vectors(&pixels)?)?
            }
            ModelStart::Matching => {
                let seed = seed_for(self.seed, &[START_STREAM]);
                let vectors = self.word_vectors(&pixels)?.view();
                violet_start(&task, &sizes, model, vectors, seed)?
            }
            ModelStart::Linear => return Err(other_start("VIOLET", ModelStart::Matching)),
        };
        let model = self.checked(&task, model)?;
        Ok(Prepared::Violet(Box::new(task), Box::new(model)))
    }

    pub(super) fn prepare_allinone(
        &self,
        config: &AllInOneTaskConfig,
        device: &Device,
    ) -> Result<Prepared, CliError> {
        let collator = self.pixel_collator(PixelCollator::all_in_one())?;
        let pixels = self.data.set.open_pixels(collator.n_frames)?;
        let kind = all_in_one_task(&*pixels.set);
        let preset = match self.model.preset {
            Preset::Base => AllInOneConfig::base(kind),
            Preset::Mini => AllInOneConfig::mini(kind, pixels.set.word_piece().vocab_size()),
        };
        let sizes: AllInOneConfig = self.model.overridden(preset)?;
        let order_seed = seed_for(self.seed, &[ORDER_STREAM]);
        let task = AllInOneFineTune::new(
            Arc::clone(&pixels.set),
            collator,
            &sizes,
            config.clone(),
            order_seed,
            device,
        )?;
        let model = sizes.init(seed_for(self.seed, &[MODEL_STREAM]), device)?;
        let table = (ALL_IN_ONE_WORD_TABLE, sizes.d_model);
        let model = match self.model.start {
            ModelStart::Random => model,
            ModelStart::WordVectors => {
                self.with_word_table(&task, table, model, self.word_vectors(&pixels)?)?
            }
            ModelStart::Linear => {
                let vectors = self.word_vectors(&pixels)?;
                let model = self.with_word_table(&task, table, model, vectors)?;
                all_in_one_start(&task, model, vectors.view())?
            }
            ModelStart::Matching => return Err(other_start("All-in-one", ModelStart::Linear)),
        };
        let model = self.checked(&task, model)?;
        Ok(Prepared::AllInOne(Box::new(task), Box::new(model)))
    }

    /// The vectors that the start of the experiment is made from.
    fn word_vectors<'a>(&self, pixels: &'a Pixels) -> Result<&'a Array2<f32>, CliError> {
        pixels.vectors.as_ref().ok_or_else(|| {
            CliError::Input(format!(
                "`model.start = \"{}\"` needs vectors of the words, and `data.set.name = \"{}\"` \
                 with this vocabulary has none; take `random`, or load `model.weights`",
                self.model.start.name(),
                self.data.set.name()
            ))
        })
    }

    /// Gives the model known word vectors; `table` is the name of its word table and the width of
    /// that.
    fn with_word_table<T: FineTuneTask>(
        &self,
        task: &T,
        table: (&str, usize),
        model: T::Model,
        vectors: &Array2<f32>,
    ) -> Result<T::Model, CliError> {
        let start = self.model.start.name();
        let (name, width) = table;
        let dict = StateDict::from([(name.to_owned(), word_table(vectors, width, start)?)]);
        let (model, report) = task.load_state_dict(model, &dict);
        if report.applied.is_empty() {
            return Err(CliError::Input(format!(
                "`model.start = \"{start}\"`: the model has another table of words than the set \
                 ({report}); leave `model.vocab_size` out"
            )));
        }
        Ok(model)
    }
}

fn other_start(backbone: &str, own: ModelStart) -> CliError {
    CliError::Input(format!(
        "{backbone} starts from `model.start = \"random\"`, `\"word_vectors\"` or `\"{}\"`",
        own.name()
    ))
}

/// The first `width` components of word vectors, all scaled alike to [`WORD_SCALE`].
fn word_table(vectors: &Array2<f32>, width: usize, start: &str) -> Result<TensorData, CliError> {
    if vectors.ncols() < width {
        return Err(CliError::Input(format!(
            "`model.start = \"{start}\"`: the vectors have {} components, but the model is {width} \
             wide; take a smaller `model.swin.embed_dim` or `model.d_model`",
            vectors.ncols()
        )));
    }
    let kept = vectors.slice(s![.., ..width]);
    let squares: f64 = kept.iter().map(|value| f64::from(*value).powi(2)).sum();
    let root_mean_square = (squares / kept.len() as f64).sqrt();
    if root_mean_square > 0.0 && root_mean_square.is_finite() {
        let factor = (WORD_SCALE / root_mean_square) as f32;
        let values: Vec<f32> = kept.iter().map(|value| value * factor).collect();
        return Ok(TensorData::new(values, [kept.nrows(), width]));
    }
    Err(CliError::Input(format!(
        "`model.start = \"{start}\"`: the root mean square of the vectors is {root_mean_square}; \
         take `random`"
    )))
}

/// Whether something is ranked, so that ties matter.
pub(super) fn is_ranking(config: &VioletTaskConfig) -> bool {
    !config
        .losses
        .iter()
        .any(|loss| matches!(loss, VioletLoss::Mc | VioletLoss::Oe))
}

/// A mark as a row of a comparison.
pub(super) fn blind_row(reference: BlindReference) -> ReferenceRow {
    ReferenceRow {
        name: reference.name.to_owned(),
        metrics: reference.metrics,
        note: format!("{}; no video is looked at", reference.note),
    }
}

#[cfg(test)]
mod tests {
    use meltr_models::VioletTask;
    use ndarray::arr2;

    use super::*;
    use crate::device;

    macro_rules! experiments {
        ($backbone:literal: $($name:literal),*) => {
            [$((
                concat!($backbone, "/", $name),
                include_str!(concat!(
                    "../../../../xtask/experiments/",
                    $backbone,
                    "/",
                    $name,
                    ".toml"
                )),
            )),*]
        };
    }

    const CLIPS: [(&str, &str); 3] =
        experiments!["violet": "clips-qa", "clips-mc", "clips-retrieval"];

    const ALL_IN_ONE_CLIPS: [(&str, &str); 2] =
        experiments!["allinone": "clips-qa", "clips-retrieval"];

    const PUBLISHED: [(&str, &str); 6] = experiments![
        "violet":
        "msrvtt-7k-retrieval",
        "msrvtt-9k-retrieval",
        "msvd-qa",
        "tgif-frame",
        "tgif-action",
        "tgif-transition"
    ];

    fn parsed((name, text): (&str, &str), overrides: &[&str]) -> Experiment {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        Experiment::parse(text, name, &overrides).unwrap()
    }

    fn prepared(row: (&str, &str), overrides: &[&str]) -> Result<Prepared, CliError> {
        parsed(row, overrides).prepare(&device::parse("flex").unwrap())
    }

    fn refusal(row: (&str, &str), overrides: &[&str]) -> String {
        match prepared(row, overrides) {
            Ok(_) => panic!("not refused: {overrides:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_row_has_the_name_of_its_file_and_survives_being_written() {
        for row in CLIPS.into_iter().chain(PUBLISHED) {
            let experiment = parsed(row, &[]);
            assert_eq!(experiment.name, row.0);
            let again = experiment.to_toml().unwrap();
            assert_eq!(parsed((row.0, again.as_str()), &[]), experiment);
        }
    }

    #[test]
    fn published_rows_are_of_the_published_size() {
        for row in PUBLISHED {
            let experiment = parsed(row, &[]);
            let collator = experiment.pixel_collator(PixelCollator::violet()).unwrap();
            let base = VioletConfig::base(VioletTask::Retrieval);
            let sizes: VioletConfig = experiment.model.overridden(base.clone()).unwrap();
            assert_eq!(sizes.swin, base.swin);
            assert_eq!((sizes.d_model(), sizes.n_layers), (768, 12));
            let size = collator.image_size;
            sizes.require_clip(collator.n_frames, size, size).unwrap();
            assert!(collator.visual_targets.n_tokens() <= sizes.n_visual_tokens);
            let is_choice = row.0.ends_with("action") || row.0.ends_with("transition");
            assert_eq!(collator.max_words, if is_choice { 40 } else { 25 });
        }
    }

    #[test]
    fn the_rows_on_the_embedded_clips_can_be_prepared() {
        for row in CLIPS {
            let Ok(Prepared::Violet(task, model)) = prepared(row, &[]) else {
                panic!("{} cannot be prepared", row.0);
            };
            assert_eq!(task.names()[task.primary()], model.task().primary().name());
            assert_eq!(task.names().len(), model.task().losses().len());
            // 497 clips to train on and 75 to validate on, with two questions each.
            let per_clip = if row.0.ends_with("qa") { 2 } else { 1 };
            assert_eq!(task.train_indices().len(), 572 * per_clip);
            let references = task.blind_references("test").unwrap();
            let row = blind_row(references[0].clone());
            assert!(row.note.ends_with("no video is looked at"), "{}", row.note);
            assert!(!row.metrics.is_empty());
        }
    }

    #[test]
    fn the_rows_of_all_in_one_on_the_embedded_clips_can_be_prepared() {
        for row in ALL_IN_ONE_CLIPS {
            let Ok(Prepared::AllInOne(task, model)) = prepared(row, &[]) else {
                panic!("{} cannot be prepared", row.0);
            };
            assert_eq!(task.names()[task.primary()], model.task().primary().name());
            let table = &task.state_dict(&model)[ALL_IN_ONE_WORD_TABLE];
            let squares: f64 = table.iter::<f64>().map(|value| value * value).sum();
            let count = table.iter::<f64>().count() as f64;
            assert!(((squares / count).sqrt() - WORD_SCALE).abs() < 1e-4);
        }
    }

    #[test]
    fn starts_of_word_vectors_are_refused_without_any() {
        let vocab = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../meltr-data/assets/emoji-clips/vocab.txt"
        );
        let vocab = format!("data.set.vocab={vocab}");
        for row in [CLIPS[2], ALL_IN_ONE_CLIPS[1]] {
            let message = refusal(row, &[&vocab]);
            assert!(message.contains("needs vectors of the words"), "{message}");
        }
    }

    #[test]
    fn known_word_vectors_are_the_start_of_the_word_table() {
        let table = |start: &str| {
            let start = format!("model.start={start}");
            let Ok(Prepared::Violet(task, model)) = prepared(CLIPS[2], &[start.as_str()]) else {
                panic!("cannot be prepared");
            };
            let table = task.state_dict(&model)[VIOLET_WORD_TABLE].clone();
            let values: Vec<f64> = table.iter::<f64>().collect();
            let squares: f64 = values.iter().map(|value| value * value).sum();
            (squares / values.len() as f64).sqrt()
        };
        assert!((table("word_vectors") - WORD_SCALE).abs() < 1e-4);
        assert!((table("random") - 0.02).abs() < 1e-3);
    }

    #[test]
    fn word_vectors_are_cut_and_scaled_alike() {
        let vectors = arr2(&[[3.0, 0.0, 9.0], [0.0, 4.0, 9.0]]);
        let table = word_table(&vectors, 2, "word_vectors").unwrap();
        let values: Vec<f64> = table.iter::<f64>().collect();
        // Root mean square 2.5 before.
        for (value, expected) in values.into_iter().zip([0.12, 0.0, 0.0, 0.16]) {
            assert!((value - expected).abs() < 1e-6);
        }
        let narrow = word_table(&vectors, 4, "linear").unwrap_err().to_string();
        assert!(
            narrow.contains("\"linear\"")
                && narrow.contains("3 components")
                && narrow.contains("4 wide"),
            "{narrow}"
        );
        let zeros = word_table(&Array2::zeros((2, 2)), 2, "word_vectors").unwrap_err();
        assert!(zeros.to_string().contains("is 0"), "{zeros}");
    }

    #[test]
    fn what_does_not_serve_violet_is_refused_with_its_reason() {
        let features = "data.set={ name = \"emoji-clips\", text = { keywords = \"none\" } }";
        let message = refusal(CLIPS[0], &[features]);
        assert!(message.contains("reads raw frames"), "{message}");
        let message = refusal(CLIPS[0], &["model.start=linear"]);
        assert!(message.contains("or `\"matching\"`"), "{message}");
        let message = refusal(ALL_IN_ONE_CLIPS[0], &["model.start=matching"]);
        assert!(message.contains("or `\"linear\"`"), "{message}");
        let message = refusal(CLIPS[0], &["model.vocab_size=3000"]);
        assert!(
            message.contains("`model.vocab_size` is 3000") && message.contains("2151"),
            "{message}"
        );
        let words = ["model.vocab_size=3000", "model.start=word_vectors"];
        let message = refusal(CLIPS[0], &words);
        assert!(message.contains("another table of words"), "{message}");
        let message = refusal(CLIPS[0], &["task.losses=[\"oe\", \"mc\"]"]);
        assert!(message.contains("`mc`"), "{message}");
        let message = refusal(CLIPS[0], &["data.batches.patch_masking=none"]);
        assert!(message.contains("hidden patches"), "{message}");
        let message = refusal(CLIPS[0], &["data.batches.image_sise=64"]);
        assert!(message.contains("did you mean `image_size`"), "{message}");
    }

    #[test]
    fn ties_matter_where_something_is_ranked() {
        for (row, expected) in CLIPS.into_iter().zip([false, false, true]) {
            let experiment = parsed(row, &[]);
            assert_eq!(experiment.task.ties().is_some(), expected, "{}", row.0);
        }
    }
}
