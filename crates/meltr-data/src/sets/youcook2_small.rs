//! A small set of YouCook2: videos with one frame of each of some steps.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use ndarray::{Array2, Axis, Ix2};
use serde::{Deserialize, Serialize};

use crate::batch::VideoTextSample;
use crate::csv_table::{CsvTable, Delimiter, Row};
use crate::error::{DataError, DataErrorKind};
use crate::sets::selection::{HeldOutVideos, TrainPart, filled, no_such_item, unknown_split};
use crate::tensor_file::TensorFile;
use crate::text_file::{excerpt, item_at_line};
use crate::video_text_set::{Draw, VideoTextSet};
use crate::word_piece::WordPiece;

const SPLITS: &str = "train, valid, train_fit, train_held_out";

/// Which encoder's features of the frames are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrameEncoder {
    /// MobileNetV2.
    #[default]
    #[serde(rename = "mobilenet_v2")]
    MobileNetV2,
    /// EfficientNet-Lite0.
    #[serde(rename = "efficientnet_lite0")]
    EfficientNetLite0,
}

impl FrameEncoder {
    /// The name in files, that of the tensor too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MobileNetV2 => "mobilenet_v2",
            Self::EfficientNetLite0 => "efficientnet_lite0",
        }
    }
}

/// What an item of [`YouCook2Small`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemUnit {
    /// A step: its caption and its one frame. The steps of a video are items of their own.
    #[default]
    Step,
    /// A video: the captions of its steps joined by `". "`, and the frames of its steps, both in
    /// temporal order.
    Video,
}

/// How the small set is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct YouCook2SmallSettings {
    /// Whose features are used.
    pub encoder: FrameEncoder,
    /// What an item is.
    pub unit: ItemUnit,
}

/// Videos of YouCook2 with features of one frame of each of some steps.
///
/// The folder holds `clips.tsv` (a step a row, with the columns `video_id`, `step`, `split`,
/// `start_s` and `caption`) and `features.safetensors` (a tensor `[rows, K]` for each encoder). The
/// known set has 600 videos of three steps and `K` = 1280.
///
/// # Splits
///
/// | name | items | of 600 videos, by step |
/// |---|---|---|
/// | `train` | marked `train` in the table | 1350 |
/// | `valid` | marked `valid` in the table | 450 |
/// | `train_held_out` | those of a tenth of the training videos | 135 |
/// | `train_fit` | those of the other training videos | 1215 |
///
/// Held out are the tenth of the training videos, rounded up, whose ids have the smallest SHA-256.
/// There is no test part: settings are chosen on `train_held_out`, so that figures on `valid` are
/// honest.
#[derive(Clone, Debug)]
pub struct YouCook2Small {
    folder: PathBuf,
    items: Vec<SmallItem>,
    /// Features of the frames, a row for each of the table, `[rows, K]`.
    frames: Array2<f32>,
    held_out: HeldOutVideos,
    word_piece: WordPiece,
}

/// A step or a video.
#[derive(Clone, Debug)]
struct SmallItem {
    name: String,
    video_id: String,
    is_train: bool,
    text: String,
    /// Rows of the table, in temporal order.
    rows: Vec<usize>,
}

/// One row of the table.
struct StepRow<'a> {
    video_id: &'a str,
    step: &'a str,
    is_train: bool,
    start: f64,
    caption: &'a str,
}

impl YouCook2Small {
    /// Reads a folder.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is absent or damaged, if a cell is not admissible, if a step
    /// occurs twice or a video is in both splits, if the tensor is absent or has another number of
    /// rows than the table, and if a feature is not finite; it names the line or the item.
    pub fn open(
        folder: &Path,
        settings: YouCook2SmallSettings,
        word_piece: WordPiece,
    ) -> Result<Self, DataError> {
        const COLUMNS: [&str; 5] = ["video_id", "step", "split", "start_s", "caption"];
        let path = folder.join("clips.tsv");
        let table = CsvTable::open(&path, Delimiter::Tab, &COLUMNS)?;
        let rows = step_rows(&table)?;
        let features = TensorFile::open(&folder.join("features.safetensors"))?;
        let frames = frame_rows(&features, settings.encoder.name(), &rows)?;
        let items = match settings.unit {
            ItemUnit::Step => rows
                .iter()
                .enumerate()
                .map(|(place, row)| SmallItem {
                    name: row.name(),
                    video_id: row.video_id.to_owned(),
                    is_train: row.is_train,
                    text: row.caption.to_owned(),
                    rows: vec![place],
                })
                .collect(),
            ItemUnit::Video => whole_videos(&rows),
        };
        let train = rows.iter().filter(|row| row.is_train);
        Ok(Self {
            folder: folder.to_path_buf(),
            held_out: HeldOutVideos::of(train.map(|row| row.video_id)),
            items,
            frames,
            word_piece,
        })
    }
}

impl VideoTextSet for YouCook2Small {
    fn label(&self) -> &Path {
        &self.folder
    }

    fn word_piece(&self) -> &WordPiece {
        &self.word_piece
    }

    fn feature_width(&self) -> usize {
        self.frames.ncols()
    }

    fn n_items(&self) -> usize {
        self.items.len()
    }

    fn item_name(&self, index: usize) -> String {
        match self.items.get(index) {
            Some(item) => item.name.clone(),
            None => format!("item {index}"),
        }
    }

    fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        let part = TrainPart::named(name);
        if part.is_none() && name != "valid" {
            return Err(unknown_split(&self.folder, name, SPLITS));
        }
        let is_in = |item: &SmallItem| match part {
            Some(part) => item.is_train && self.held_out.admits(part, &item.video_id),
            None => !item.is_train,
        };
        let items = self.items.iter().enumerate();
        let positions = items
            .filter(|&(_, item)| is_in(item))
            .map(|(position, _)| position)
            .collect();
        filled(&self.folder, name, positions)
    }

    fn sample(&self, index: usize, _draw: Draw) -> Result<VideoTextSample, DataError> {
        let item = self
            .items
            .get(index)
            .ok_or_else(|| no_such_item(&self.folder, index, self.items.len()))?;
        Ok(VideoTextSample {
            id: index,
            text: item.text.clone(),
            caption: None,
            frames: self.frames.select(Axis(0), &item.rows),
        })
    }

    fn references(&self, index: usize) -> Vec<String> {
        let item = self.items.get(index);
        item.map(|item| item.text.clone()).into_iter().collect()
    }
}

impl StepRow<'_> {
    fn name(&self) -> String {
        format!("{}/{}", self.video_id, self.step)
    }
}

fn step_rows(table: &CsvTable) -> Result<Vec<StepRow<'_>>, DataError> {
    let mut rows: Vec<StepRow<'_>> = Vec::with_capacity(table.n_rows());
    let mut steps: HashSet<(&str, &str)> = HashSet::new();
    let mut parts: HashMap<&str, bool> = HashMap::new();
    for row in table.rows() {
        let found = StepRow {
            video_id: row.filled("video_id")?,
            step: row.filled("step")?,
            is_train: is_train(table, row)?,
            start: seconds_of(table, row)?,
            caption: row.filled("caption")?,
        };
        let refuse = |reason: &str| {
            let name = excerpt(&found.name());
            Err(item_at_line(table.path(), row.line(), name, reason))
        };
        if !steps.insert((found.video_id, found.step)) {
            return refuse("occurs twice");
        }
        if *parts.entry(found.video_id).or_insert(found.is_train) != found.is_train {
            return refuse("has another split than an earlier step of its video");
        }
        rows.push(found);
    }
    Ok(rows)
}

fn is_train(table: &CsvTable, row: Row<'_>) -> Result<bool, DataError> {
    match row.filled("split")? {
        "train" => Ok(true),
        "valid" => Ok(false),
        other => Err(bad_cell(table, row, "split", "train or valid", other)),
    }
}

fn seconds_of(table: &CsvTable, row: Row<'_>) -> Result<f64, DataError> {
    let cell = row.filled("start_s")?;
    match cell.trim().parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => {
            let expected = "a number of seconds that is not negative";
            Err(bad_cell(table, row, "start_s", expected, cell))
        }
    }
}

fn bad_cell(
    table: &CsvTable,
    row: Row<'_>,
    column: &str,
    expected: &str,
    found: &str,
) -> DataError {
    let kind = DataErrorKind::BadTable {
        column: column.to_owned(),
        expected: expected.to_owned(),
        found: excerpt(found),
    };
    DataError::at_line(table.path(), row.line(), kind)
}

/// The tensor of one encoder, finite and with a row for each of the table.
fn frame_rows(
    file: &TensorFile,
    name: &str,
    rows: &[StepRow<'_>],
) -> Result<Array2<f32>, DataError> {
    let array = file.f32(name)?;
    let actual = array.shape().to_vec();
    let fits = |array: &Array2<f32>| array.nrows() == rows.len() && array.ncols() > 0;
    let Some(array) = array.into_dimensionality::<Ix2>().ok().filter(fits) else {
        let kind = DataErrorKind::WrongShape {
            name: name.to_owned(),
            expected: format!("[{}, features] like clips.tsv", rows.len()),
            actual,
        };
        return Err(DataError::new(file.path(), kind));
    };
    for (features, row) in array.outer_iter().zip(rows) {
        if !features.iter().all(|value| value.is_finite()) {
            let reason = format!("`{name}` holds NaN or an infinite value in the row of this item");
            return Err(DataError::item(file.path(), excerpt(&row.name()), reason));
        }
    }
    Ok(array)
}

/// An item for each video, in the order of their first rows.
fn whole_videos(rows: &[StepRow<'_>]) -> Vec<SmallItem> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut videos: Vec<Vec<usize>> = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        let video = *places.entry(row.video_id).or_insert(videos.len());
        if video == videos.len() {
            videos.push(Vec::new());
        }
        videos[video].push(place);
    }
    videos
        .into_iter()
        .map(|mut steps| {
            steps.sort_by(|&a, &b| rows[a].start.total_cmp(&rows[b].start));
            let captions: Vec<&str> = steps.iter().map(|&step| rows[step].caption).collect();
            // No list of steps is empty.
            let first = &rows[steps[0]];
            SmallItem {
                name: first.video_id.to_owned(),
                video_id: first.video_id.to_owned(),
                is_train: first.is_train,
                text: captions.join(". "),
                rows: steps,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ndarray::{arr2, s};

    use super::*;
    use crate::tensor_file::TensorFileWriter;

    fn word_piece() -> WordPiece {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nstir\nfry\n";
        WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap()
    }

    const HEADER: &str = "video_id\tstep\tsplit\tstart_s\tcaption\n";

    const ROWS: &str = "a\t1\ttrain\t9\tfry it\n\
                        c\t0\tvalid\t0\tserve\n\
                        a\t0\ttrain\t2.5\tstir it\n\
                        b\t7\ttrain\t1\tpeel it\n";

    fn small(rows: &str, with: YouCook2SmallSettings) -> Result<YouCook2Small, DataError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("clips.tsv"), format!("{HEADER}{rows}")).unwrap();
        let mut writer = TensorFileWriter::new();
        writer.insert_f32("mobilenet_v2", &[4, 1], vec![0.0, 1.0, 2.0, 3.0]);
        writer.insert_f32("efficientnet_lite0", &[4, 1], vec![0.0, 1.0, f32::NAN, 3.0]);
        writer
            .write(&folder.path().join("features.safetensors"))
            .unwrap();
        YouCook2Small::open(folder.path(), with, word_piece())
    }

    #[test]
    fn every_step_is_an_item_with_one_frame() {
        let set = small(ROWS, YouCook2SmallSettings::default()).unwrap();
        assert_eq!(set.split("train").unwrap(), [0, 2, 3]);
        assert_eq!(set.split("valid").unwrap(), [1]);
        assert_eq!(set.split("train_held_out").unwrap(), [3]);
        assert_eq!(set.split("train_fit").unwrap(), [0, 2]);
        assert_eq!(set.item_name(3), "b/7");
        assert_eq!((set.n_items(), set.feature_width()), (4, 1));
        let sample = set.sample(2, Draw::Evaluation).unwrap();
        assert_eq!((sample.text.as_str(), sample.caption), ("stir it", None));
        assert_eq!(sample.frames, arr2(&[[2.0]]));
        assert_eq!(set.references(1), ["serve"]);
        let error = set.split("test").unwrap_err().to_string();
        assert!(
            error.contains("use one of train, valid, train_fit"),
            "{error}"
        );
    }

    #[test]
    fn a_video_has_its_steps_in_temporal_order() {
        let with = YouCook2SmallSettings {
            unit: ItemUnit::Video,
            ..YouCook2SmallSettings::default()
        };
        let set = small(ROWS, with).unwrap();
        assert_eq!(set.split("train").unwrap(), [0, 2]);
        let sample = set.sample(0, Draw::Evaluation).unwrap();
        assert_eq!(sample.text, "stir it. fry it");
        assert_eq!(sample.frames.slice(s![.., 0]).to_vec(), [2.0, 0.0]);
        assert_eq!(set.references(0), ["stir it. fry it"]);
        assert_eq!(set.item_name(1), "c");
        assert_eq!(set.item_name(2), "b");
    }

    #[test]
    fn bad_rows_and_bad_features_are_named() {
        let nan = YouCook2SmallSettings {
            encoder: FrameEncoder::EfficientNetLite0,
            ..YouCook2SmallSettings::default()
        };
        let error = small(ROWS, nan).unwrap_err().to_string();
        let message = "features.safetensors: item `a/0`: `efficientnet_lite0` holds NaN";
        assert!(error.contains(message), "{error}");
        for (from, to, message) in [
            ("b\t7", "a\t0", "clips.tsv:5: item `a/0`: occurs twice"),
            ("b\t7", "c\t7", "clips.tsv:5: item `c/7`: has another split"),
            ("valid", "test", "clips.tsv:3: column `split` is `test`"),
            ("2.5", "-1", "clips.tsv:4: column `start_s` is `-1`"),
            ("serve", "", "clips.tsv:3: item `caption`: is blank"),
            (
                "b\t7\ttrain\t1\tpeel it\n",
                "",
                "`mobilenet_v2` has shape [4, 1]",
            ),
        ] {
            let rows = ROWS.replace(from, to);
            let error = small(&rows, YouCook2SmallSettings::default());
            let error = error.unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }

    #[test]
    fn settings_are_read_by_their_names() {
        let text = r#"{"encoder": "efficientnet_lite0", "unit": "video"}"#;
        let with: YouCook2SmallSettings = serde_json::from_str(text).unwrap();
        assert_eq!(with.unit, ItemUnit::Video);
        for encoder in [FrameEncoder::MobileNetV2, FrameEncoder::EfficientNetLite0] {
            let text = serde_json::to_string(&encoder).unwrap();
            assert_eq!(text, format!("\"{}\"", encoder.name()));
        }
        assert!(serde_json::from_str::<YouCook2SmallSettings>(r#"{"frames": 1}"#).is_err());
    }
}
