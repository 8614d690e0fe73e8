//! YouCook2 as UniVL uses it: the annotated segments with their features.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::batch::VideoTextSample;
use crate::doctor::FaultyItems;
use crate::error::{DataError, DataErrorKind};
use crate::segments::{Segment, Segments};
use crate::sets::selection::{
    HeldOutVideos, TrainPart, bad_setting, filled, listed, no_such_item, unknown_split,
};
use crate::text_file::{excerpt, item_at_line};
use crate::video_features::VideoFeatures;
use crate::video_text_set::{Draw, VideoTextSet};
use crate::word_piece::WordPiece;
use crate::youcook_videos::{YoucookVideo, YoucookVideos};

/// Width of the features that UniVL publishes (S3D).
pub(crate) const UNIVL_WIDTH: usize = 1024;

const SPLITS: &str = "train, val, test (another name of val), train_fit, train_held_out";

/// Which text of an item the encoder reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextRole {
    /// The caption, for retrieval; the decoder has to say it too.
    #[default]
    Caption,
    /// What is said in the video, for captioning: only the decoder has to say the caption.
    Transcript,
}

/// Where UniVL's files of YouCook2 are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct YouCook2Files {
    /// `youcookii_train.csv`.
    pub train: PathBuf,
    /// `youcookii_val.csv`.
    pub val: PathBuf,
    /// `youcookii_data*.pickle`, which holds the segments.
    pub segments: PathBuf,
    /// `youcookii_videos_features.pickle`, or the same features in another format of
    /// [`VideoFeatures`], of which `.safetensors` opens fastest.
    pub features: PathBuf,
}

/// How UniVL's files of YouCook2 are used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct YouCook2Settings {
    /// Which text the encoder reads.
    pub text: TextRole,
    /// Rows of features that make up a second, above 0; 1 in the published files.
    pub feature_framerate: f64,
    /// Features of a row, 1024 in the published files.
    pub feature_width: usize,
    /// What happens to segments that begin behind the last row of their video, and to those
    /// without transcript if it is needed.
    pub faulty_items: FaultyItems,
}

impl Default for YouCook2Settings {
    fn default() -> Self {
        Self {
            text: TextRole::Caption,
            feature_framerate: 1.0,
            feature_width: UNIVL_WIDTH,
            faulty_items: FaultyItems::Refuse,
        }
    }
}

/// YouCook2 as UniVL uses it: every annotated segment of a video is an item.
///
/// The frames of an item are the rows `int(start × rate)` to `int(end × rate)`, the last one
/// included, as [`Segments::rows`] says.
///
/// # Splits
///
/// | name | items |
/// |---|---|
/// | `train` | the segments of the training table, 9,776 in the published files |
/// | `val`, `test` | the segments of the validation table, 3,369: what UniVL is tested on |
/// | `train_held_out` | those of a tenth of the training videos |
/// | `train_fit` | those of the other training videos |
///
/// Held out are the tenth of the training videos, rounded up, whose ids have the smallest SHA-256.
/// Settings are chosen on them, because `val` is the test part.
///
/// # References
///
/// - Reference code: `mlvlab/MELTR` `univl/dataloaders/dataloader_youcook_*.py`. Where a segment
///   has no row of features, it goes on with zeros; here that is an error, or the segment is left
///   out on demand.
#[derive(Clone, Debug)]
pub struct YouCook2 {
    label: PathBuf,
    /// Those of the training table, then those of the validation table.
    videos: Vec<YoucookVideo>,
    /// Those of the training videos, then those of the validation videos.
    steps: Vec<Step>,
    n_train: usize,
    features: VideoFeatures,
    held_out: HeldOutVideos,
    left_out: Vec<String>,
    word_piece: WordPiece,
}

/// One segment.
#[derive(Clone, Debug)]
struct Step {
    video: usize,
    number: usize,
    rows: Range<usize>,
    text: String,
    caption: Option<String>,
}

impl YouCook2 {
    /// Reads the four files.
    ///
    /// Costs the memory of the features once.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is absent or damaged, if a video of a table has no segments or no
    /// features or is in both tables, and, unless they are to be left out, if there are items that
    /// cannot be used: it names the first ones.
    pub fn open(
        files: &YouCook2Files,
        settings: YouCook2Settings,
        word_piece: WordPiece,
    ) -> Result<Self, DataError> {
        let rate = settings.feature_framerate;
        if !(rate.is_finite() && rate > 0.0) {
            let field = "feature_framerate";
            return Err(bad_setting(&files.segments, field, rate, "above 0"));
        }
        let segments = Segments::open(&files.segments)?;
        let train = YoucookVideos::open(&files.train)?;
        let val = YoucookVideos::open(&files.val)?;
        check_disjoint(files, &train, &val)?;
        let features = VideoFeatures::open(&files.features, settings.feature_width)?;
        let known: HashSet<String> = features.ids().iter().cloned().collect();
        train.check_features(&known)?;
        val.check_features(&known)?;
        let videos: Vec<YoucookVideo> = [train.videos(), val.videos()].concat();
        let mut steps = Vec::new();
        let mut faults: Vec<(String, String)> = Vec::new();
        let mut n_train = 0;
        for (place, video) in videos.iter().enumerate() {
            let n_rows = features.n_rows(&video.feature_file)?;
            for (number, segment) in segments.of(&video.video_id)?.iter().enumerate() {
                let step = segments
                    .rows(&video.video_id, number, n_rows, rate)
                    .map_err(reason_of)
                    .and_then(|rows| new_step((place, number), segment, rows, settings.text));
                match step {
                    Ok(step) => steps.push(step),
                    Err(reason) => faults.push((step_name(video, number), reason)),
                }
            }
            if place < train.videos().len() {
                n_train = steps.len();
            }
        }
        let left_out: Vec<String> = faults.iter().map(|(name, _)| name.clone()).collect();
        if let (FaultyItems::Refuse, Some((name, reason))) = (settings.faulty_items, faults.first())
        {
            let reason = format!(
                "{reason}; {} of {} items cannot be used ({}), which `faulty_items` = \
                 \"leave_out\" leaves out",
                faults.len(),
                faults.len() + steps.len(),
                listed(&left_out)
            );
            return Err(DataError::item(&files.segments, name.as_str(), reason));
        }
        let train_ids = train.videos().iter().map(|video| video.video_id.as_str());
        Ok(Self {
            label: files.segments.clone(),
            held_out: HeldOutVideos::of(train_ids),
            videos,
            steps,
            n_train,
            features,
            left_out,
            word_piece,
        })
    }

    /// The names of the items that cannot be used; none with [`FaultyItems::Refuse`].
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }
}

impl VideoTextSet for YouCook2 {
    fn label(&self) -> &Path {
        &self.label
    }

    fn word_piece(&self) -> &WordPiece {
        &self.word_piece
    }

    fn feature_width(&self) -> usize {
        self.features.dim()
    }

    fn n_items(&self) -> usize {
        self.steps.len()
    }

    fn item_name(&self, index: usize) -> String {
        match self.steps.get(index) {
            Some(step) => step_name(&self.videos[step.video], step.number),
            None => format!("item {index}"),
        }
    }

    fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        let positions: Vec<usize> = match (TrainPart::named(name), name) {
            (Some(part), _) => (0..self.n_train)
                .filter(|&position| {
                    let video = &self.videos[self.steps[position].video];
                    self.held_out.admits(part, &video.video_id)
                })
                .collect(),
            (None, "val" | "test") => (self.n_train..self.steps.len()).collect(),
            (None, _) => return Err(unknown_split(&self.label, name, SPLITS)),
        };
        filled(&self.label, name, positions)
    }

    fn sample(&self, index: usize, _draw: Draw) -> Result<VideoTextSample, DataError> {
        let step = self
            .steps
            .get(index)
            .ok_or_else(|| no_such_item(&self.label, index, self.steps.len()))?;
        let key = &self.videos[step.video].feature_file;
        Ok(VideoTextSample {
            id: index,
            text: step.text.clone(),
            caption: step.caption.clone(),
            // Every value of the file was found finite when it was opened.
            frames: self.features.slice(key, step.rows.clone())?,
        })
    }

    fn references(&self, index: usize) -> Vec<String> {
        let step = self.steps.get(index);
        step.map(|step| step.caption.as_ref().unwrap_or(&step.text).clone())
            .into_iter()
            .collect()
    }
}

fn step_name(video: &YoucookVideo, number: usize) -> String {
    format!("{}/{number}", video.video_id)
}

/// What is tested on must not have been trained on.
fn check_disjoint(
    files: &YouCook2Files,
    train: &YoucookVideos,
    val: &YoucookVideos,
) -> Result<(), DataError> {
    let trained: HashSet<&str> = train
        .videos()
        .iter()
        .map(|video| video.video_id.as_str())
        .collect();
    let mut both = val.videos().iter();
    match both.find(|video| trained.contains(video.video_id.as_str())) {
        Some(video) => {
            let reason = format!("is also in {}", files.train.display());
            let id = excerpt(&video.video_id);
            Err(item_at_line(&files.val, video.line, id, reason))
        }
        None => Ok(()),
    }
}

/// `place` is the position of the video and the number of the segment in it.
fn new_step(
    place: (usize, usize),
    segment: &Segment,
    rows: Range<usize>,
    role: TextRole,
) -> Result<Step, String> {
    let (text, caption) = match (role, &segment.transcript) {
        (TextRole::Caption, _) => (segment.text.clone(), None),
        (TextRole::Transcript, Some(transcript)) => {
            (transcript.clone(), Some(segment.text.clone()))
        }
        (TextRole::Transcript, None) => {
            let reason = "has no transcript, which `text` = \"transcript\" needs";
            return Err(reason.to_owned());
        }
    };
    let (video, number) = place;
    Ok(Step {
        video,
        number,
        rows,
        text,
        caption,
    })
}

/// What is wrong with an item, without the file, which is named once for all items.
fn reason_of(error: DataError) -> String {
    match error.kind {
        DataErrorKind::Item { reason, .. } => reason,
        kind => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ndarray::arr2;

    use super::*;
    use crate::tensor_file::TensorFileWriter;

    fn word_piece() -> WordPiece {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nstir\nfry\n";
        WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap()
    }

    const SPOKEN: &str = "Vtranscript\n(VNONE\nVnow we fry\nl";

    /// Videos `a` and `b` for training and `c` for validation, each with a segment of the seconds
    /// 0 to 1 and one of 2 to 9; `n_rows` seconds of `a` have features, and 4 of the others.
    fn files(folder: &Path, transcripts: &str, n_rows: usize) -> YouCook2Files {
        let put = |name: &str, content: &str| {
            let path = folder.join(name);
            fs::write(&path, content).unwrap();
            path
        };
        // Pickles of protocol 0.
        let video = |id: &str| {
            let times = "Vstart\n(F0.0\nF2.0\nlVend\n(F1.0\nF9.0\nl";
            format!("V{id}\n({times}Vtext\n(Vstir\nVfry\nl{transcripts}d")
        };
        let mut writer = TensorFileWriter::new();
        for (id, n_rows) in [("a", n_rows), ("b", 4), ("c", 4)] {
            let values = (0..2 * n_rows).map(|value| value as f32).collect();
            writer.insert_f32(id, &[n_rows, 2], values);
        }
        let features = folder.join("features.safetensors");
        writer.write(&features).unwrap();
        YouCook2Files {
            train: put("train.csv", "video_id,feature_file\na,a\nb,b\n"),
            val: put("val.csv", "video_id,feature_file\nc,c\n"),
            segments: put(
                "data.pickle",
                &format!("({}{}{}d.", video("a"), video("b"), video("c")),
            ),
            features,
        }
    }

    fn settings() -> YouCook2Settings {
        YouCook2Settings {
            feature_width: 2,
            ..YouCook2Settings::default()
        }
    }

    fn open(
        transcripts: &str,
        n_rows: usize,
        with: YouCook2Settings,
    ) -> Result<YouCook2, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), transcripts, n_rows);
        YouCook2::open(&files, with, word_piece())
    }

    #[test]
    fn every_segment_is_an_item_with_its_rows() {
        let set = open("", 4, settings()).unwrap();
        assert_eq!(set.split("train").unwrap(), [0, 1, 2, 3]);
        assert_eq!(set.split("val").unwrap(), [4, 5]);
        assert_eq!(set.split("test").unwrap(), [4, 5]);
        assert_eq!(set.split("train_fit").unwrap(), [0, 1]);
        assert_eq!(set.split("train_held_out").unwrap(), [2, 3]);
        assert_eq!(set.item_name(1), "a/1");
        assert_eq!(set.item_name(6), "item 6");
        let sample = set.sample(1, Draw::Evaluation).unwrap();
        assert_eq!((sample.text.as_str(), sample.caption), ("fry", None));
        assert_eq!(sample.frames, arr2(&[[4.0, 5.0], [6.0, 7.0]]));
        assert_eq!(sample.id, 1);
        assert_eq!(set.references(0), ["stir"]);
        assert!(set.references(6).is_empty() && set.left_out().is_empty());
        assert!(set.sample(6, Draw::Evaluation).is_err());
        assert_eq!((set.n_items(), set.feature_width()), (6, 2));
    }

    #[test]
    fn the_transcript_is_read_and_the_caption_said() {
        let with = YouCook2Settings {
            text: TextRole::Transcript,
            ..settings()
        };
        let set = open(SPOKEN, 4, with).unwrap();
        let sample = set.sample(5, Draw::Training { seed: 1 }).unwrap();
        assert_eq!(sample.text, "now we fry");
        assert_eq!(sample.caption.as_deref(), Some("fry"));
        assert_eq!(set.references(5), ["fry"]);
        let error = open("", 4, with).unwrap_err().to_string();
        assert!(error.contains("item `a/0`: has no transcript"), "{error}");
        assert!(error.contains("6 of 6 items cannot be used"), "{error}");
    }

    #[test]
    fn a_segment_behind_the_features_is_refused_or_left_out() {
        let error = open("", 2, settings()).unwrap_err().to_string();
        assert!(
            error.contains("data.pickle: item `a/1`: segment 1 starts at 2 s"),
            "{error}"
        );
        assert!(
            error.contains("1 of 6 items cannot be used (`a/1`)"),
            "{error}"
        );
        let with = YouCook2Settings {
            faulty_items: FaultyItems::LeaveOut,
            ..settings()
        };
        let set = open("", 2, with).unwrap();
        assert_eq!(set.left_out(), ["a/1"]);
        assert_eq!(set.split("train").unwrap(), [0, 1, 2]);
        assert_eq!(set.split("val").unwrap(), [3, 4]);
        assert_eq!(set.item_name(1), "b/0");
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), "", 4);
        let open = |with| YouCook2::open(&files, with, word_piece());
        let rate = YouCook2Settings {
            feature_framerate: f64::NAN,
            ..settings()
        };
        let error = open(rate).unwrap_err().to_string();
        assert!(error.contains("`feature_framerate` is NaN"), "{error}");
        let set = open(settings()).unwrap();
        let error = set.split("valid").unwrap_err().to_string();
        assert!(error.contains("use one of train, val, test"), "{error}");
        for (row, message) in [
            ("a,a", "val.csv:2: item `a`: is also in"),
            ("c,d", "val.csv:2: item `d`: not in the features"),
            ("d,c", "data.pickle: item `d`: is not among the 3 videos"),
        ] {
            fs::write(&files.val, format!("video_id,feature_file\n{row}\n")).unwrap();
            let error = open(settings()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn settings_are_read_by_their_names() {
        let text = r#"{"text": "transcript", "faulty_items": "leave_out"}"#;
        let with: YouCook2Settings = serde_json::from_str(text).unwrap();
        assert_eq!(with.text, TextRole::Transcript);
        assert_eq!((with.feature_framerate, with.feature_width), (1.0, 1024));
        assert_eq!(with.faulty_items, FaultyItems::LeaveOut);
        assert!(serde_json::from_str::<YouCook2Settings>(r#"{"fps": 2}"#).is_err());
    }
}
