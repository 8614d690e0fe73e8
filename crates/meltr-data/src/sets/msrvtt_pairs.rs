//! MSR-VTT as pairs of a text and clip features, in UniVL's three splits.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::batch::VideoTextSample;
use crate::caption_set::CaptionSet;
use crate::error::DataError;
use crate::id_list::IdList;
use crate::msrvtt::{JsfusionTest, Msrvtt};
use crate::seed::RandomStream;
use crate::sets::selection::{
    HeldOutVideos, TrainPart, bad_setting, filled, listed, no_such_item, unknown_split,
};
use crate::sets::youcook2::{TextRole, UNIVL_WIDTH};
use crate::text_file::excerpt;
use crate::video_features::VideoFeatures;
use crate::video_text_set::{Draw, VideoTextSet};
use crate::word_piece::WordPiece;

const SPLITS: &str = "train, test, train_fit, train_held_out";

/// Videos that the splits 7k and full are trained on, the first ones of the file.
const N_TRAIN_VIDEOS: usize = 7010;

/// Which videos are trained on and which are tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MsrvttSplit {
    /// Trained on the first 7010 videos, tested on the 1000 pairs of JSFUSION.
    #[serde(rename = "7k")]
    SevenK,
    /// Trained on the 9000 videos of a table, tested on the 1000 pairs of JSFUSION.
    #[serde(rename = "9k")]
    NineK,
    /// Trained on the first 7010 videos, tested on the others, 2990.
    #[serde(rename = "full")]
    Full,
}

impl MsrvttSplit {
    /// The name in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SevenK => "7k",
            Self::NineK => "9k",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for MsrvttSplit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// How the captions of a training video are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SentenceUse {
    /// Every caption is an item, as with `--expand_msrvtt_sentences` of UniVL.
    #[default]
    All,
    /// Every video is an item, whose caption is drawn from all of its captions each time.
    OneRandom,
}

/// Where UniVL's files of MSR-VTT are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsrvttFiles {
    /// `MSRVTT_data.json` or `MSRVTT_transcript_data_v2.json`.
    pub data: PathBuf,
    /// `msrvtt_videos_features.pickle`, or the same features in another format of
    /// [`VideoFeatures`], of which `.safetensors` opens fastest.
    pub features: PathBuf,
    /// `MSRVTT_train.9k.csv`; needed for [`MsrvttSplit::NineK`].
    #[serde(default)]
    pub train: Option<PathBuf>,
    /// `MSRVTT_JSFUSION_test.csv`; needed for [`MsrvttSplit::SevenK`] and [`MsrvttSplit::NineK`].
    #[serde(default)]
    pub test: Option<PathBuf>,
}

/// How UniVL's files of MSR-VTT are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsrvttSettings {
    /// Which videos are trained on and which are tested.
    pub split: MsrvttSplit,
    /// How the captions of a training video are used.
    #[serde(default)]
    pub sentences: SentenceUse,
    /// Which text the encoder reads. A video without transcript has an empty one, as in UniVL.
    #[serde(default)]
    pub text: TextRole,
    /// Features of a row, 1024 in the published file.
    #[serde(default = "published_width")]
    pub feature_width: usize,
}

fn published_width() -> usize {
    UNIVL_WIDTH
}

impl MsrvttSettings {
    /// All captions of the training videos, for retrieval, with features of the published width.
    #[must_use]
    pub fn new(split: MsrvttSplit) -> Self {
        Self {
            split,
            sentences: SentenceUse::All,
            text: TextRole::Caption,
            feature_width: UNIVL_WIDTH,
        }
    }
}

/// MSR-VTT as UniVL uses it; the frames of an item are all rows of its video.
///
/// # Splits
///
/// Sizes are those of the published files with all captions.
///
/// | name | 7k | 9k | full |
/// |---|---|---|---|
/// | `train` | 140,200 | 180,000 | 140,200 |
/// | `test` | 1000 | 1000 | 2990 |
/// | `train_held_out` | of 701 videos | of 900 videos | of 701 videos |
/// | `train_fit` | of 6309 videos | of 8100 videos | of 6309 videos |
///
/// An item of the test part has the sentence of JSFUSION or, in the split full, the first caption
/// of its video; all captions of the video are its references. Held out are the tenth of the
/// training videos, rounded up, whose ids have the smallest SHA-256: settings are chosen on them,
/// because there is no validation part.
#[derive(Clone, Debug)]
pub struct MsrvttPairs {
    msrvtt: Msrvtt,
    features: VideoFeatures,
    role: TextRole,
    /// Those of the training part, then those of the test part.
    items: Vec<PairItem>,
    n_train: usize,
    held_out: HeldOutVideos,
    word_piece: WordPiece,
}

/// A video with a caption.
#[derive(Clone, Debug)]
struct PairItem {
    /// Number of the video.
    video: usize,
    wording: Wording,
}

#[derive(Clone, Debug)]
enum Wording {
    /// One of the captions of the video, drawn anew each time.
    Drawn,
    /// The caption of this number, counted from 0 within the video.
    Caption(usize),
    /// A sentence of its own.
    Sentence(String),
}

impl MsrvttPairs {
    /// Reads the files that the split needs.
    ///
    /// Costs the memory of the features once.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is absent or damaged or its path not given, if the file of the
    /// captions has fewer videos than the split needs, if a video has no caption or is both in the
    /// training and in the test part, and if videos have no features: it names the first ones.
    pub fn open(
        files: &MsrvttFiles,
        settings: MsrvttSettings,
        word_piece: WordPiece,
    ) -> Result<Self, DataError> {
        Self::read(files, settings, word_piece, N_TRAIN_VIDEOS)
    }

    fn read(
        files: &MsrvttFiles,
        settings: MsrvttSettings,
        word_piece: WordPiece,
        n_train_videos: usize,
    ) -> Result<Self, DataError> {
        let msrvtt = Msrvtt::open(&files.data)?;
        let needed = |path: &Option<PathBuf>, field: &'static str, name: &str| {
            let expected = format!("that is the path of {name}, for split {}", settings.split);
            let absent = || bad_setting(&files.data, field, "absent", &expected);
            path.clone().ok_or_else(absent)
        };
        let list = match settings.split {
            MsrvttSplit::NineK => {
                let path = needed(&files.train, "train", "MSRVTT_train.9k.csv")?;
                Some(IdList::open_csv(&path)?)
            }
            MsrvttSplit::SevenK | MsrvttSplit::Full => None,
        };
        let mut items = train_items(&msrvtt, list.as_ref(), settings.sentences, n_train_videos)?;
        let n_train = items.len();
        items.extend(match settings.split {
            MsrvttSplit::SevenK | MsrvttSplit::NineK => {
                let path = needed(&files.test, "test", "MSRVTT_JSFUSION_test.csv")?;
                jsfusion_items(&msrvtt, &path)?
            }
            MsrvttSplit::Full => full_test_items(&msrvtt, n_train_videos)?,
        });
        check_disjoint(msrvtt.captions(), items.split_at(n_train), settings.split)?;
        let features = VideoFeatures::open(&files.features, settings.feature_width)?;
        check_features(msrvtt.captions(), &items, &features)?;
        let ids = msrvtt.captions().video_ids();
        let train_ids = items
            .iter()
            .take(n_train)
            .map(|item| ids[item.video].as_str());
        Ok(Self {
            held_out: HeldOutVideos::of(train_ids),
            msrvtt,
            features,
            role: settings.text,
            items,
            n_train,
            word_piece,
        })
    }

    fn video_id(&self, item: &PairItem) -> &str {
        &self.msrvtt.captions().video_ids()[item.video]
    }

    fn caption(&self, item: &PairItem, draw: Draw) -> Result<String, DataError> {
        let captions = self.msrvtt.captions().captions_of_row(item.video);
        let number = match (&item.wording, draw) {
            (Wording::Sentence(sentence), _) => return Ok(sentence.clone()),
            (Wording::Caption(number), _) => *number,
            (Wording::Drawn, Draw::Training { seed }) => {
                RandomStream::new(seed).below(captions.len())
            }
            (Wording::Drawn, Draw::Evaluation) => 0,
        };
        let caption = captions.get(number).map(|caption| (*caption).to_owned());
        caption.ok_or_else(|| DataError::item(self.label(), self.video_id(item), "has no caption"))
    }
}

impl VideoTextSet for MsrvttPairs {
    fn label(&self) -> &Path {
        self.msrvtt.captions().path()
    }

    fn word_piece(&self) -> &WordPiece {
        &self.word_piece
    }

    fn feature_width(&self) -> usize {
        self.features.dim()
    }

    fn n_items(&self) -> usize {
        self.items.len()
    }

    fn item_name(&self, index: usize) -> String {
        match self.items.get(index) {
            Some(item) => self.video_id(item).to_owned(),
            None => format!("item {index}"),
        }
    }

    fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        let positions: Vec<usize> = match (TrainPart::named(name), name) {
            (Some(part), _) => (0..self.n_train)
                .filter(|&position| {
                    let id = self.video_id(&self.items[position]);
                    self.held_out.admits(part, id)
                })
                .collect(),
            (None, "test") => (self.n_train..self.items.len()).collect(),
            (None, _) => return Err(unknown_split(self.label(), name, SPLITS)),
        };
        filled(self.label(), name, positions)
    }

    fn sample(&self, index: usize, draw: Draw) -> Result<VideoTextSample, DataError> {
        let item = self
            .items
            .get(index)
            .ok_or_else(|| no_such_item(self.label(), index, self.items.len()))?;
        let id = self.video_id(item);
        let caption = self.caption(item, draw)?;
        let (text, caption) = match self.role {
            TextRole::Caption => (caption, None),
            TextRole::Transcript => {
                let transcript = self.msrvtt.transcript(id).unwrap_or_default();
                (transcript.to_owned(), Some(caption))
            }
        };
        // Every value of the file was found finite when it was opened.
        let n_rows = self.features.n_rows(id)?;
        Ok(VideoTextSample {
            id: index,
            text,
            caption,
            frames: self.features.slice(id, 0..n_rows)?,
        })
    }

    fn references(&self, index: usize) -> Vec<String> {
        let Some(item) = self.items.get(index) else {
            return Vec::new();
        };
        let mut captions = self.msrvtt.captions().captions_of_row(item.video);
        // The item's own comes first, and no more often than people wrote it.
        let own = match &item.wording {
            Wording::Drawn => 0,
            Wording::Caption(number) => *number,
            Wording::Sentence(sentence) => {
                let sentence = sentence.as_str();
                match captions.iter().position(|caption| *caption == sentence) {
                    Some(number) => number,
                    None => {
                        captions.insert(0, sentence);
                        0
                    }
                }
            }
        };
        if own < captions.len() {
            captions[..=own].rotate_right(1);
        }
        captions.into_iter().map(str::to_owned).collect()
    }
}

/// The number of a video that a file names.
fn row_of(captions: &CaptionSet, path: &Path, video_id: &str) -> Result<usize, DataError> {
    captions.row(video_id).ok_or_else(|| {
        let reason = format!("is not among the videos of {}", captions.path().display());
        DataError::item(path, excerpt(video_id), reason)
    })
}

/// The training part: of the videos of a list, or of the first ones.
fn train_items(
    msrvtt: &Msrvtt,
    list: Option<&IdList>,
    sentences: SentenceUse,
    n_videos: usize,
) -> Result<Vec<PairItem>, DataError> {
    let captions = msrvtt.captions();
    let pairs = match list {
        Some(list) => msrvtt.train_9k(list)?,
        None => {
            let pairs = msrvtt.pairs_of_first(n_videos)?;
            let ids = captions.video_ids().iter().take(n_videos).enumerate();
            for (row, id) in ids {
                if captions.captions_of_row(row).is_empty() {
                    let reason = "has no caption, the training part needs one";
                    return Err(DataError::item(captions.path(), excerpt(id), reason));
                }
            }
            pairs
        }
    };
    let mut n_seen = vec![0_usize; captions.video_ids().len()];
    let mut items = Vec::new();
    for pair in pairs {
        let video = row_of(captions, captions.path(), pair.video_id)?;
        // All captions of a video are among the pairs, in the order that numbers them.
        let number = n_seen[video];
        n_seen[video] += 1;
        match sentences {
            SentenceUse::All => items.push(PairItem {
                video,
                wording: Wording::Caption(number),
            }),
            SentenceUse::OneRandom if number == 0 => items.push(PairItem {
                video,
                wording: Wording::Drawn,
            }),
            SentenceUse::OneRandom => {}
        }
    }
    Ok(items)
}

fn jsfusion_items(msrvtt: &Msrvtt, path: &Path) -> Result<Vec<PairItem>, DataError> {
    let test = JsfusionTest::open(path)?;
    let mut items = Vec::with_capacity(test.pairs().len());
    for pair in test.pairs() {
        items.push(PairItem {
            video: row_of(msrvtt.captions(), path, &pair.video_id)?,
            wording: Wording::Sentence(pair.sentence.clone()),
        });
    }
    Ok(items)
}

fn full_test_items(msrvtt: &Msrvtt, first: usize) -> Result<Vec<PairItem>, DataError> {
    let n_videos = msrvtt.test_from(first)?.len();
    let items = (first..first + n_videos).map(|video| PairItem {
        video,
        wording: Wording::Caption(0),
    });
    Ok(items.collect())
}

/// What is tested on must not have been trained on.
fn check_disjoint(
    captions: &CaptionSet,
    (train, test): (&[PairItem], &[PairItem]),
    split: MsrvttSplit,
) -> Result<(), DataError> {
    let trained: HashSet<usize> = train.iter().map(|item| item.video).collect();
    match test.iter().find(|item| trained.contains(&item.video)) {
        Some(item) => {
            let id = excerpt(&captions.video_ids()[item.video]);
            let reason = format!("is both in the training and in the test part of split {split}");
            Err(DataError::item(captions.path(), id, reason))
        }
        None => Ok(()),
    }
}

fn check_features(
    captions: &CaptionSet,
    items: &[PairItem],
    features: &VideoFeatures,
) -> Result<(), DataError> {
    let videos: BTreeSet<usize> = items.iter().map(|item| item.video).collect();
    let missing: Vec<&str> = videos
        .iter()
        .map(|&video| captions.video_ids()[video].as_str())
        .filter(|id| !features.contains(id))
        .collect();
    let Some(first) = missing.first() else {
        return Ok(());
    };
    let reason = format!(
        "{} of {} videos of {} have no features: {}",
        missing.len(),
        videos.len(),
        captions.path().display(),
        listed(&missing)
    );
    Err(DataError::item(features.path(), excerpt(first), reason))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tensor_file::TensorFileWriter;

    /// Four videos `v0` to `v3` with two captions each; `v1` has a transcript.
    const DATA: &str = r#"{"videos": [{"video_id": "v0"}, {"video_id": "v1", "transcript": "hello"},
        {"video_id": "v2"}, {"video_id": "v3"}], "sentences": [
        {"video_id": "v1", "caption": "1a"}, {"video_id": "v0", "caption": "0a"},
        {"video_id": "v0", "caption": "0b"}, {"video_id": "v2", "caption": "2a"},
        {"video_id": "v1", "caption": "1b"}, {"video_id": "v2", "caption": "2b"},
        {"video_id": "v3", "caption": "3a"}, {"video_id": "v3", "caption": "3b"}]}"#;

    fn word_piece() -> WordPiece {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n";
        WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap()
    }

    fn files(folder: &Path, videos: &[&str]) -> MsrvttFiles {
        let put = |name: &str, content: &str| {
            let path = folder.join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let mut writer = TensorFileWriter::new();
        for (place, id) in videos.iter().enumerate() {
            writer.insert_f32(*id, &[2, 1], vec![place as f32, 0.5]);
        }
        let features = folder.join("features.safetensors");
        writer.write(&features).unwrap();
        MsrvttFiles {
            data: put("data.json", DATA),
            features,
            train: Some(put("train.csv", "video_id\nv2\nv0\n")),
            test: Some(put(
                "test.csv",
                "key,video_id,sentence\nr,v3,3b\ns,v1,another\n",
            )),
        }
    }

    const ALL: [&str; 4] = ["v0", "v1", "v2", "v3"];

    fn settings(split: MsrvttSplit) -> MsrvttSettings {
        MsrvttSettings {
            feature_width: 1,
            ..MsrvttSettings::new(split)
        }
    }

    fn open(with: MsrvttSettings, n_train_videos: usize) -> Result<MsrvttPairs, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), &ALL);
        MsrvttPairs::read(&files, with, word_piece(), n_train_videos)
    }

    fn texts(set: &MsrvttPairs, split: &str) -> Vec<String> {
        let positions = set.split(split).unwrap();
        let text = |&index: &usize| set.sample(index, Draw::Evaluation).unwrap().text;
        positions.iter().map(text).collect()
    }

    #[test]
    fn the_split_9k_trains_on_a_list_and_tests_on_sentences() {
        let set = open(settings(MsrvttSplit::NineK), 7010).unwrap();
        assert_eq!(texts(&set, "train"), ["0a", "0b", "2a", "2b"]);
        assert_eq!(texts(&set, "test"), ["3b", "another"]);
        assert_eq!(texts(&set, "train_held_out"), ["0a", "0b"]);
        assert_eq!(texts(&set, "train_fit"), ["2a", "2b"]);
        assert_eq!((set.item_name(4).as_str(), set.n_items()), ("v3", 6));
        assert_eq!(set.references(4), ["3b", "3a"]);
        assert_eq!(set.references(5), ["another", "1a", "1b"]);
        assert_eq!(set.references(1), ["0b", "0a"]);
        let sample = set.sample(4, Draw::Evaluation).unwrap();
        assert_eq!((sample.id, sample.frames.dim()), (4, (2, 1)));
        assert_eq!(sample.frames[[0, 0]], 3.0);
        assert!(set.sample(6, Draw::Evaluation).is_err() && set.references(6).is_empty());
        let error = set.split("valid").unwrap_err().to_string();
        assert!(
            error.contains("use one of train, test, train_fit"),
            "{error}"
        );
    }

    #[test]
    fn the_split_full_tests_on_the_videos_behind_the_first_with_all_references() {
        let set = open(settings(MsrvttSplit::Full), 3).unwrap();
        assert_eq!(texts(&set, "train"), ["1a", "0a", "0b", "2a", "1b", "2b"]);
        assert_eq!(texts(&set, "test"), ["3a"]);
        assert_eq!(set.references(6), ["3a", "3b"]);
        let error = open(settings(MsrvttSplit::Full), 7010)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("has 4 videos, the split needs the first 7010"),
            "{error}"
        );
    }

    #[test]
    fn one_caption_of_each_video_is_drawn_for_training() {
        let with = MsrvttSettings {
            sentences: SentenceUse::OneRandom,
            ..settings(MsrvttSplit::NineK)
        };
        let set = open(with, 7010).unwrap();
        assert_eq!(texts(&set, "train"), ["0a", "2a"]);
        let draws: HashSet<String> = (0..50)
            .map(|seed| set.sample(0, Draw::Training { seed }).unwrap().text)
            .collect();
        assert_eq!(draws, HashSet::from(["0a".to_owned(), "0b".to_owned()]));
        let draw = || set.sample(0, Draw::Training { seed: 3 }).unwrap();
        assert_eq!(draw(), draw());
        assert_eq!(set.references(0), ["0a", "0b"]);
    }

    #[test]
    fn an_absent_transcript_is_an_empty_text() {
        let with = MsrvttSettings {
            text: TextRole::Transcript,
            ..settings(MsrvttSplit::NineK)
        };
        let set = open(with, 7010).unwrap();
        let sample = set.sample(5, Draw::Evaluation).unwrap();
        assert_eq!(sample.text, "hello");
        assert_eq!(sample.caption.as_deref(), Some("another"));
        assert_eq!(set.sample(0, Draw::Evaluation).unwrap().text, "");
    }

    #[test]
    fn leaks_absent_files_and_absent_features_are_refused() {
        let error = open(settings(MsrvttSplit::SevenK), 2)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("item `v1`: is both in the training and in the test"),
            "{error}"
        );
        let folder = tempfile::tempdir().unwrap();
        let complete = files(folder.path(), &["v0", "v1"]);
        let read = |files: &MsrvttFiles| {
            let set = MsrvttPairs::open(files, settings(MsrvttSplit::NineK), word_piece());
            set.unwrap_err().to_string()
        };
        let error = read(&complete);
        assert!(
            error.contains("item `v2`: 2 of 4 videos of ") && error.contains(": `v2`, `v3`"),
            "{error}"
        );
        let error = read(&MsrvttFiles {
            test: None,
            ..complete.clone()
        });
        assert!(
            error.contains("`test` is absent; choose a value that is the path"),
            "{error}"
        );
        let error = read(&MsrvttFiles {
            train: None,
            ..complete.clone()
        });
        assert!(
            error.contains("`train` is absent") && error.contains("split 9k"),
            "{error}"
        );
        fs::write(folder.path().join("test.csv"), "video_id,sentence\nv9,x\n").unwrap();
        let error = read(&complete);
        assert!(
            error.contains("test.csv: item `v9`: is not among"),
            "{error}"
        );
    }

    #[test]
    fn settings_are_read_by_their_names() {
        let with: MsrvttSettings = serde_json::from_str(r#"{"split": "9k"}"#).unwrap();
        assert_eq!(with, MsrvttSettings::new(MsrvttSplit::NineK));
        let text = r#"{"split": "full", "sentences": "one_random", "text": "transcript"}"#;
        let with: MsrvttSettings = serde_json::from_str(text).unwrap();
        assert_eq!(with.sentences, SentenceUse::OneRandom);
        for split in [MsrvttSplit::SevenK, MsrvttSplit::NineK, MsrvttSplit::Full] {
            let text = serde_json::to_string(&split).unwrap();
            assert_eq!(text, format!("\"{split}\""));
        }
    }
}
