//! Items with a sentiment: words with features, and the utterances of CMU-MOSI as such items.

use std::path::{Path, PathBuf};

use ndarray::{Array2, Array3, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};

use crate::emoji_clips::Split;
use crate::error::DataError;
use crate::inspect::number_text;
use crate::mosi::{Modality, MosiSequences, MosiSplits, MosiUtterances, NonFinite, SequencePart};
use crate::sets::selection::{HeldOutVideos, TrainPart, filled, no_such_item, unknown_split};
use crate::text_file::excerpt;
use crate::word_piece::WordPiece;

/// Every source of features, in the order of the arrays below.
const MODALITIES: [Modality; 3] = [Modality::Text, Modality::Audio, Modality::Video];

/// Largest sentiment; the smallest is its negative.
pub(super) const MAX_LABEL: f32 = 3.0;

/// What stands between the video and the number of the utterance in an id of MMSA.
const ID_MARK: &str = "$_$";

const SPLITS: &str = "train, valid, test, train_fit, train_held_out";

const SPLITS_OF_PORIA: &str = "train, test, train_fit, train_held_out";

const SPLITS_OF_CLIPS: &str = "train, valid, test";

const SPLIT_OF_OWN: &str = "test";

/// Which features are used besides the words; none by default.
///
/// In a configuration, a list such as `["audio", "video"]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Modality>", into = "Vec<Modality>")]
pub struct Modalities {
    used: [bool; 3],
}

impl Modalities {
    /// The given ones.
    #[must_use]
    pub fn new(modalities: &[Modality]) -> Self {
        Self {
            used: MODALITIES.map(|modality| modalities.contains(&modality)),
        }
    }

    /// Whether the features of a source are used.
    #[must_use]
    pub fn contains(self, modality: Modality) -> bool {
        self.used[place_of(modality)]
    }
}

impl From<Vec<Modality>> for Modalities {
    fn from(modalities: Vec<Modality>) -> Self {
        Self::new(&modalities)
    }
}

impl From<Modalities> for Vec<Modality> {
    fn from(modalities: Modalities) -> Self {
        let is_used = |modality: &Modality| modalities.contains(*modality);
        MODALITIES.into_iter().filter(is_used).collect()
    }
}

/// How the utterance files of CMU-MOSI are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MosiSettings {
    /// Which division into splits.
    pub splits: MosiSplits,
    /// Which features besides the words.
    #[serde(default)]
    pub features: Modalities,
}

/// One item, before padding: an utterance, or a clip with its text.
///
/// Features that are not used have the shape `[0, 0]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SentimentSample {
    /// Number of the item in its set.
    pub id: usize,
    /// What is said, or the text of a clip; may be empty.
    pub words: String,
    /// Features of the words, `[steps, Dt]`; one step from the utterance files.
    pub text_features: Array2<f32>,
    /// Acoustic features, `[steps, Da]`.
    pub audio: Array2<f32>,
    /// Features of the face, or of the frames of a clip, `[steps, Dv]`.
    pub video: Array2<f32>,
    /// Sentiment in [-3, 3].
    pub label: f32,
}

/// The utterances of CMU-MOSI with their words, features and sentiment.
///
/// [`of_clips`](Self::of_clips) makes such a set of the animated clips instead, without any file,
/// and [`of_own`](Self::of_own) one of utterances that a trained model is asked about.
///
/// # Splits
///
/// Those of CMU-MOSI; the clips have `train`, `valid` and `test`.
///
/// | name | sdk | poria | sequences |
/// |---|---|---|---|
/// | `train` | 1284 | 1447 | as the file says |
/// | `valid` | 229 | none | as the file says |
/// | `test` | 686 | 752 | as the file says |
/// | `train_held_out` | 132 | 181 | those of a tenth of the training videos |
/// | `train_fit` | 1152 | 1266 | those of the other training videos |
///
/// Held out are the tenth of the training videos, rounded up, whose ids have the smallest SHA-256.
/// In the division poria, settings are chosen on them.
///
/// # Leak
///
/// The features of text and video in the utterance files leak labels into the test part of the
/// division sdk; [`warnings`](Self::warnings) says so, and whoever opens such a set has to show it.
#[derive(Clone, Debug)]
pub struct SentimentSet {
    pub(super) label: PathBuf,
    pub(super) source: Source,
    /// Which division of CMU-MOSI into splits, if there is a choice.
    pub(super) division: Option<MosiSplits>,
    pub(super) entries: Vec<Entry>,
    /// Features of a step of text, audio and video; 0 if they are not used.
    pub(super) widths: [usize; 3],
    pub(super) held_out: HeldOutVideos,
    pub(super) warnings: Vec<String>,
    pub(super) word_piece: WordPiece,
}

/// Where the features are.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// One step an utterance.
    Utterances(Box<MosiUtterances>),
    /// Several steps an utterance.
    Sequences(Box<MosiSequences>),
    /// Several frames a clip and nothing else, `[n, F, Dv]`.
    Clips(Array3<f32>),
    /// Steps of text, audio and video of each item.
    Own(Vec<[Array2<f32>; 3]>),
}

/// One item.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) video_id: String,
    pub(super) words: String,
    pub(super) label: f32,
    pub(super) split: Split,
    /// Row of the arrays: of all of them or, of sequences, of those of the split.
    pub(super) row: usize,
    /// Steps of text, audio and video that are no padding.
    pub(super) steps: [usize; 3],
}

impl SentimentSet {
    /// Reads `mosi.safetensors` and `mosi.tsv` of a folder: one vector of features an utterance.
    ///
    /// # Errors
    ///
    /// As [`MosiUtterances::open`]; also if features that are used have no column.
    pub fn open(
        folder: &Path,
        settings: MosiSettings,
        word_piece: WordPiece,
    ) -> Result<Self, DataError> {
        let features = folder.join("mosi.safetensors");
        let mosi = MosiUtterances::open(&features, &folder.join("mosi.tsv"))?;
        let used = settings.features;
        let mut widths = [0; 3];
        for (width, modality) in widths.iter_mut().zip(MODALITIES) {
            if used.contains(modality) {
                *width = mosi.features(modality).ncols();
                if *width == 0 {
                    let reason = "has no column, but is to be used";
                    return Err(DataError::item(&features, name_of(modality), reason));
                }
            }
        }
        let rows = mosi.rows().iter().enumerate();
        let entries: Vec<Entry> = rows
            .map(|(row, utterance)| Entry {
                name: format!("{}/{}", utterance.video_id, utterance.segment),
                video_id: utterance.video_id.clone(),
                words: utterance.transcript.clone(),
                label: utterance.label,
                split: match settings.splits {
                    MosiSplits::Sdk => utterance.sdk,
                    MosiSplits::Poria => utterance.poria,
                },
                row,
                steps: [1; 3],
            })
            .collect();
        let used: Vec<Modality> = used.into();
        let leak = MosiUtterances::leak_warning(settings.splits, &used);
        Ok(Self {
            label: folder.to_path_buf(),
            source: Source::Utterances(Box::new(mosi)),
            division: Some(settings.splits),
            held_out: held_out(&entries),
            entries,
            widths,
            warnings: leak.into_iter().map(str::to_owned).collect(),
            word_piece,
        })
    }

    /// Reads a pickle of MMSA (`aligned_50.pkl`, `unaligned_50.pkl`): a sequence of features an
    /// utterance.
    ///
    /// What is no padding is told by the lengths in the file; without them, by the mask of its
    /// tokens, to which the steps are aligned; without these, by the last step that is not all
    /// zero. An utterance without any such step keeps one, of zeros: no face was found there.
    ///
    /// # Errors
    ///
    /// As [`MosiSequences::open`]; also if the file has no ids or no transcripts, as those of MulT,
    /// if a label is not in [-3, 3], and if features that are used have no step or, in the three
    /// splits, different widths.
    pub fn open_sequences(
        path: &Path,
        non_finite: NonFinite,
        used: Modalities,
        word_piece: WordPiece,
    ) -> Result<Self, DataError> {
        let mosi = MosiSequences::open(path, non_finite)?;
        let mut widths = [0; 3];
        for (width, modality) in widths.iter_mut().zip(MODALITIES) {
            if used.contains(modality) {
                *width = sequence_width(&mosi, modality)?;
            }
        }
        let mut entries = Vec::new();
        for split in Split::ALL {
            let part = mosi.part(split);
            let texts = |texts: &Option<Vec<String>>, key: &str| {
                texts.clone().ok_or_else(|| {
                    let reason = "is absent; use a file in the layout of MMSA";
                    DataError::item(path, format!("{split}/{key}"), reason)
                })
            };
            let (ids, words) = (texts(&part.ids, "id")?, texts(&part.raw_text, "raw_text")?);
            for (row, (name, words)) in ids.into_iter().zip(words).enumerate() {
                entries.push(sequence_entry(
                    path,
                    part,
                    (split, row),
                    (name, words),
                    used,
                )?);
            }
        }
        let warnings = mosi.replaced().iter().map(|replaced| {
            format!(
                "values of {} in split {} that are not finite and became 0: {}",
                replaced.array, replaced.split, replaced.count
            )
        });
        Ok(Self {
            label: path.to_path_buf(),
            warnings: warnings.collect(),
            source: Source::Sequences(Box::new(mosi)),
            division: None,
            held_out: held_out(&entries),
            entries,
            widths,
            word_piece,
        })
    }

    /// The same items with only the tokens that their words need, so that a small model has a small
    /// table.
    ///
    /// The words of every split are cut into the same tokens as before: nothing else changes than
    /// which number a token has. Whatever knows the numbers of the full vocabulary, such as a
    /// pretrained encoder, needs that vocabulary still.
    ///
    /// # Errors
    ///
    /// As [`WordPiece::restricted_to`].
    pub fn with_occurring_vocabulary(mut self) -> Result<Self, DataError> {
        let words = self.entries.iter().map(|entry| entry.words.as_str());
        let (word_piece, _) = self.word_piece.restricted_to(words)?;
        self.word_piece = word_piece;
        Ok(self)
    }

    /// What has to be shown to whoever uses the figures of this set; often nothing.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    /// The file or folder that errors name.
    #[must_use]
    pub fn label(&self) -> &Path {
        &self.label
    }

    /// The tokenizer of the words.
    #[must_use]
    pub fn word_piece(&self) -> &WordPiece {
        &self.word_piece
    }

    /// Number of items, those of all splits together.
    #[must_use]
    pub fn n_items(&self) -> usize {
        self.entries.len()
    }

    /// Features of a step of the words, `Dt`; 0 if they are not used.
    #[must_use]
    pub fn text_width(&self) -> usize {
        self.width(Modality::Text)
    }

    /// Features of a step of the sound, `Da`; 0 if they are not used.
    #[must_use]
    pub fn audio_width(&self) -> usize {
        self.width(Modality::Audio)
    }

    /// Features of a step of the face, or of a frame of a clip, `Dv`; 0 if they are not used.
    #[must_use]
    pub fn video_width(&self) -> usize {
        self.width(Modality::Video)
    }

    pub(crate) fn width(&self, modality: Modality) -> usize {
        self.widths[place_of(modality)]
    }

    /// Steps of the longest item; 0 if the features of this source are not used.
    #[must_use]
    pub fn max_steps(&self, modality: Modality) -> usize {
        if self.width(modality) == 0 {
            return 0;
        }
        let place = place_of(modality);
        let steps = self.entries.iter().map(|entry| entry.steps[place]);
        steps.max().unwrap_or(0)
    }

    /// The name of an item in messages, such as `03bSnISJMiM/11` or `1f30a water wave`.
    #[must_use]
    pub fn item_name(&self, index: usize) -> String {
        match self.entries.get(index) {
            Some(entry) => entry.name.clone(),
            None => format!("item {index}"),
        }
    }

    /// Positions of the items of a split, in the order of the file.
    ///
    /// # Errors
    ///
    /// Returns an error that lists the known splits if there is none of that name, or if it is
    /// empty.
    pub fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        let known = self.known_splits();
        if known.split(", ").all(|other| other != name) {
            return Err(unknown_split(&self.label, name, known));
        }
        let (split, part) = match (TrainPart::named(name), name) {
            (Some(part), _) => (Split::Train, part),
            (None, "valid") => (Split::Valid, TrainPart::All),
            (None, _) => (Split::Test, TrainPart::All),
        };
        let entries = self.entries.iter().enumerate();
        let positions = entries
            .filter(|(_, entry)| {
                entry.split == split && self.held_out.admits(part, &entry.video_id)
            })
            .map(|(position, _)| position)
            .collect();
        filled(&self.label, name, positions)
    }

    fn known_splits(&self) -> &'static str {
        match (&self.source, self.division) {
            (Source::Clips(_), _) => SPLITS_OF_CLIPS,
            (Source::Own(_), _) => SPLIT_OF_OWN,
            (_, Some(MosiSplits::Poria)) => SPLITS_OF_PORIA,
            (_, _) => SPLITS,
        }
    }

    /// The item at a position.
    ///
    /// # Errors
    ///
    /// Returns an error if there is none.
    pub fn sample(&self, index: usize) -> Result<SentimentSample, DataError> {
        let entry = self
            .entries
            .get(index)
            .ok_or_else(|| no_such_item(&self.label, index, self.entries.len()))?;
        Ok(SentimentSample {
            id: index,
            words: entry.words.clone(),
            text_features: self.steps(entry, Modality::Text),
            audio: self.steps(entry, Modality::Audio),
            video: self.steps(entry, Modality::Video),
            label: entry.label,
        })
    }

    /// The steps that are no padding; every value was found finite when the file was opened.
    fn steps(&self, entry: &Entry, modality: Modality) -> Array2<f32> {
        if self.width(modality) == 0 {
            return Array2::zeros((0, 0));
        }
        let row = entry.row;
        match &self.source {
            Source::Utterances(mosi) => {
                let features = mosi.features(modality);
                features.slice(s![row..row + 1, ..]).to_owned()
            }
            Source::Sequences(mosi) => {
                let features = sequence(mosi.part(entry.split), modality);
                let n_steps = entry.steps[place_of(modality)];
                features.slice(s![row, ..n_steps, ..]).to_owned()
            }
            Source::Clips(frames) => frames.index_axis(Axis(0), row).to_owned(),
            Source::Own(items) => items[row][place_of(modality)].clone(),
        }
    }
}

fn place_of(modality: Modality) -> usize {
    match modality {
        Modality::Text => 0,
        Modality::Audio => 1,
        Modality::Video => 2,
    }
}

fn held_out(entries: &[Entry]) -> HeldOutVideos {
    let train = entries.iter().filter(|entry| entry.split == Split::Train);
    HeldOutVideos::of(train.map(|entry| entry.video_id.as_str()))
}

/// The name of the array in the files.
fn name_of(modality: Modality) -> &'static str {
    match modality {
        Modality::Text => "text",
        Modality::Audio => "audio",
        Modality::Video => "video",
    }
}

fn sequence(part: &SequencePart, modality: Modality) -> &Array3<f32> {
    match modality {
        Modality::Text => &part.text,
        Modality::Audio => &part.audio,
        Modality::Video => &part.vision,
    }
}

/// The width that all splits have, each with one step at least.
fn sequence_width(mosi: &MosiSequences, modality: Modality) -> Result<usize, DataError> {
    let (_, _, width) = sequence(mosi.part(Split::Train), modality).dim();
    for split in Split::ALL {
        let (_, n_steps, found) = sequence(mosi.part(split), modality).dim();
        if n_steps == 0 || found == 0 || found != width {
            let reason = format!(
                "has {n_steps} steps of {found} features, expected one at least of both and \
                 {width} features, as in split train"
            );
            let item = format!("{split}/{}", name_of(modality));
            return Err(DataError::item(mosi.path(), item, reason));
        }
    }
    Ok(width)
}

/// `place` is the split and the row in it, `texts` are the id and what is said.
fn sequence_entry(
    path: &Path,
    part: &SequencePart,
    place: (Split, usize),
    texts: (String, String),
    used: Modalities,
) -> Result<Entry, DataError> {
    let (split, row) = place;
    let (name, words) = texts;
    let label = part.labels[row];
    if label.abs() > MAX_LABEL {
        let label = number_text(f64::from(label));
        let reason = format!("its label is {label}, expected a number in [-3, 3]");
        return Err(DataError::item(path, excerpt(&name), reason));
    }
    let mut steps = [0; 3];
    for (n_steps, modality) in steps.iter_mut().zip(MODALITIES) {
        if used.contains(modality) {
            *n_steps = n_steps_of(part, row, modality);
            if *n_steps == 0 {
                let reason = format!(
                    "has 0 steps of {}, expected one at least",
                    name_of(modality)
                );
                return Err(DataError::item(path, excerpt(&name), reason));
            }
        }
    }
    let video_id = name.split(ID_MARK).next().unwrap_or_default().to_owned();
    Ok(Entry {
        name,
        video_id,
        words,
        label,
        split,
        row,
        steps,
    })
}

fn n_steps_of(part: &SequencePart, row: usize, modality: Modality) -> usize {
    let lengths = match modality {
        Modality::Text => None,
        Modality::Audio => part.audio_lengths.as_ref(),
        Modality::Video => part.vision_lengths.as_ref(),
    };
    if let Some(lengths) = lengths {
        return lengths[row];
    }
    let array = sequence(part, modality);
    let (_, n_steps, _) = array.dim();
    if let Some(tokens) = &part.text_bert
        && tokens.dim().2 == n_steps
    {
        // Ids, mask and segment ids follow each other.
        let mask = tokens.slice(s![row, 1, ..]);
        return mask.iter().filter(|&&is_token| is_token != 0).count();
    }
    last_step(array.index_axis(Axis(0), row))
}

/// The number of steps up to the last one that is not all zero, and 1 if all are.
fn last_step(steps: ArrayView2<'_, f32>) -> usize {
    let last = steps
        .outer_iter()
        .rposition(|step| step.iter().any(|&value| value != 0.0));
    last.map_or(1, |last| last + 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use ndarray::arr2;

    use super::*;
    use crate::tensor_file::TensorFileWriter;

    fn word_piece() -> WordPiece {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nfilm\n";
        WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap()
    }

    /// Videos `a` and `b` for training in poria and `c` for its test.
    const TABLE: &str = "video_id\tsegment\tstart_s\tend_s\tlabel\t\
                         split_sdk\tsplit_poria\ttranscript\n\
                         a\t1\t0\t1\t1.5\ttrain\ttrain\tA FILM\n\
                         b\t4\t0\t1\t-3\tvalid\ttrain\tA\n\
                         c\t2\t0\t1\t0\ttest\ttest\t\n";

    pub(crate) fn open(splits: MosiSplits, features: &[Modality]) -> SentimentSet {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mosi.tsv"), TABLE).unwrap();
        let mut writer = TensorFileWriter::new();
        writer.insert_f32("text", &[3, 1], vec![1.0, 2.0, 3.0]);
        writer.insert_f32("audio", &[3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        writer.insert_f32("video", &[3, 1], vec![7.0, 8.0, 9.0]);
        writer.insert_f32("label", &[3], vec![1.5, -3.0, 0.0]);
        writer.insert_i64("split_sdk", &[3], vec![0, 1, 2]);
        writer.insert_i64("split_poria", &[3], vec![0, 0, 1]);
        writer
            .write(&folder.path().join("mosi.safetensors"))
            .unwrap();
        let settings = MosiSettings {
            splits,
            features: Modalities::new(features),
        };
        SentimentSet::open(folder.path(), settings, word_piece()).unwrap()
    }

    #[test]
    fn the_divisions_have_their_splits() {
        let poria = open(MosiSplits::Poria, &[Modality::Audio]);
        assert_eq!(poria.split("train").unwrap(), [0, 1]);
        assert_eq!(poria.split("test").unwrap(), [2]);
        assert_eq!(poria.split("train_fit").unwrap(), [0]);
        assert_eq!(poria.split("train_held_out").unwrap(), [1]);
        let error = poria.split("valid").unwrap_err().to_string();
        assert!(
            error.contains("use one of train, test, train_fit"),
            "{error}"
        );
        let sdk = open(MosiSplits::Sdk, &[]);
        assert_eq!(sdk.split("valid").unwrap(), [1]);
        assert!(sdk.split("train_fit").is_err() && sdk.split("dev").is_err());
        assert_eq!((sdk.n_items(), sdk.item_name(1)), (3, "b/4".to_owned()));
    }

    #[test]
    fn a_sample_has_the_features_that_are_used() {
        let set = open(MosiSplits::Poria, &[Modality::Audio]);
        let sample = set.sample(1).unwrap();
        assert_eq!((sample.words.as_str(), sample.label), ("A", -3.0));
        assert_eq!(sample.audio, arr2(&[[3.0, 4.0]]));
        assert_eq!(sample.video.dim(), (0, 0));
        assert_eq!(
            (set.text_width(), set.audio_width(), set.video_width()),
            (0, 2, 0)
        );
        assert_eq!(MODALITIES.map(|source| set.max_steps(source)), [0, 1, 0]);
        assert!(set.sample(3).is_err());
    }

    #[test]
    fn an_occurring_vocabulary_keeps_the_cut_of_the_words() {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nother\na\nfilm\n";
        let word_piece = WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap();
        let full = SentimentSet {
            word_piece,
            ..open(MosiSplits::Poria, &[Modality::Audio])
        };
        assert_eq!(full.word_piece().encode("A FILM"), [6, 7]);
        let small = full.clone().with_occurring_vocabulary().unwrap();
        assert_eq!(small.word_piece().vocab_size(), 7);
        assert_eq!(small.word_piece().encode("A FILM"), [5, 6]);
        assert_eq!(small.sample(0).unwrap(), full.sample(0).unwrap());
    }

    #[test]
    fn features_that_leak_are_warned_of() {
        use Modality::{Audio, Text, Video};
        let cases: [(MosiSplits, &[Modality], bool); 5] = [
            (MosiSplits::Sdk, &[Text], true),
            (MosiSplits::Sdk, &[Audio, Video], true),
            (MosiSplits::Sdk, &[Audio], false),
            (MosiSplits::Sdk, &[], false),
            (MosiSplits::Poria, &[Text, Audio, Video], false),
        ];
        for (splits, features, leaks) in cases {
            let warnings = open(splits, features).warnings();
            assert_eq!(!warnings.is_empty(), leaks, "{splits} {features:?}");
            assert!(warnings.iter().all(|warning| warning.contains("leak")));
        }
    }

    #[test]
    fn padding_ends_behind_the_last_step_that_is_not_zero() {
        let steps = arr2(&[[0.0, 0.0], [0.0, 2.0], [0.0, 0.0], [0.0, 0.0]]);
        assert_eq!(last_step(steps.view()), 2);
        assert_eq!(last_step(Array2::zeros((4, 2)).view()), 1);
    }

    #[test]
    fn settings_are_read_by_their_names() {
        let text = r#"{"splits": "poria", "features": ["video", "text"]}"#;
        let settings: MosiSettings = serde_json::from_str(text).unwrap();
        assert!(settings.features.contains(Modality::Text));
        assert!(!settings.features.contains(Modality::Audio));
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(text, r#"{"splits":"poria","features":["text","video"]}"#);
        let settings: MosiSettings = serde_json::from_str(r#"{"splits": "sdk"}"#).unwrap();
        assert_eq!(settings.features, Modalities::default());
    }
}
