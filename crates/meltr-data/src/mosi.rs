//! CMU-MOSI: spoken opinions with a sentiment in [-3, 3], as word sequences or as utterances.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, Array3, Dimension, Ix1, Ix2};
use serde::{Deserialize, Serialize};

use crate::emoji_clips::Split;
use crate::error::{DataError, DataErrorKind};
use crate::host_array::HostArray;
use crate::inspect::{number_text, shape_text};
use crate::pickle::{Item, Pickle, Value};
use crate::tensor_file::TensorFile;
use crate::word_piece::utf8;

/// Largest sentiment; the smallest is its negative.
const MAX_LABEL: f32 = 3.0;

/// Difference at most between a label in the table, which is rounded, and in the tensor file.
const LABEL_TOLERANCE: f32 = 1e-4;

/// What happens to features that are NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// They are an error.
    Refuse,
    /// They become 0, as in the published loader of MMSA, and are counted.
    Zero,
}

/// Values of one array that [`NonFinite::Zero`] has replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The split.
    pub split: Split,
    /// Name of the array: `text`, `audio` or `vision`.
    pub array: &'static str,
    /// Number of replaced values, not 0.
    pub count: usize,
}

/// The three splits of a pickle of word sequences.
///
/// Two layouts are read, told by their keys. MMSA (`aligned_50.pkl`, `unaligned_50.pkl`) has
/// `raw_text`, `audio`, `vision`, `id`, `text`, `text_bert`, `regression_labels` and, if the
/// sequences are not aligned to the words, `audio_lengths` and `vision_lengths`. MulT and MISA
/// (`mosi_data.pkl`) have `text`, `audio`, `vision`, `labels` and sometimes `id`.
#[derive(Clone, Debug)]
pub struct MosiSequences {
    path: PathBuf,
    train: SequencePart,
    valid: SequencePart,
    test: SequencePart,
    replaced: Vec<Replaced>,
}

/// One split of word sequences: `n` utterances.
#[derive(Clone, Debug)]
pub struct SequencePart {
    /// Features of the words, `[n, steps, width]`.
    pub text: Array3<f32>,
    /// Acoustic features, `[n, steps, width]`.
    pub audio: Array3<f32>,
    /// Features of the face, `[n, steps, width]`.
    pub vision: Array3<f32>,
    /// Sentiment, `[n]`.
    pub labels: Array1<f32>,
    /// Ids of the utterances, e.g. `03bSnISJMiM$_$11`, if the file has them.
    pub ids: Option<Vec<String>>,
    /// Transcripts, if the file has them.
    pub raw_text: Option<Vec<String>>,
    /// Token ids, mask and segment ids for BERT, `[n, 3, steps]`, if the file has them.
    pub text_bert: Option<Array3<i64>>,
    /// Number of steps of `audio` that are no padding, `[n]`, if the file has them.
    pub audio_lengths: Option<Vec<usize>>,
    /// Number of steps of `vision` that are no padding, `[n]`, if the file has them.
    pub vision_lengths: Option<Vec<usize>>,
}

impl SequencePart {
    /// Number of utterances.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no utterance; never true for an opened file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

impl MosiSequences {
    /// Reads a pickle of either layout.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is absent or damaged, if a split or an array is absent or has
    /// another shape, if a label is not finite, or if a feature is not finite and `non_finite` is
    /// [`NonFinite::Refuse`]; it names the split, the array and the place.
    pub fn open(path: &Path, non_finite: NonFinite) -> Result<Self, DataError> {
        let pickle = Pickle::open(path)?;
        let root = pickle.root();
        let mut replaced = Vec::new();
        let mut part = |split: Split| -> Result<SequencePart, DataError> {
            let Some(item) = root.get(split.name()) else {
                let reason = format!(
                    "has no split '{split}', expected a dict with 'train', 'valid' and 'test'"
                );
                return Err(DataError::item(path, "top level", reason));
            };
            let reader = PartReader {
                path,
                split,
                item,
                non_finite,
            };
            reader.read(&mut replaced)
        };
        let (train, valid, test) = (part(Split::Train)?, part(Split::Valid)?, part(Split::Test)?);
        Ok(Self {
            path: path.to_path_buf(),
            train,
            valid,
            test,
            replaced,
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One split.
    #[must_use]
    pub fn part(&self, split: Split) -> &SequencePart {
        match split {
            Split::Train => &self.train,
            Split::Valid => &self.valid,
            Split::Test => &self.test,
        }
    }

    /// What was replaced because it was not finite; empty with [`NonFinite::Refuse`].
    #[must_use]
    pub fn replaced(&self) -> &[Replaced] {
        &self.replaced
    }
}

/// Reads the arrays of one split.
struct PartReader<'a> {
    path: &'a Path,
    split: Split,
    item: Item<'a>,
    non_finite: NonFinite,
}

impl PartReader<'_> {
    fn read(&self, replaced: &mut Vec<Replaced>) -> Result<SequencePart, DataError> {
        let Value::Dict(_) = self.item.value() else {
            let reason = format!("is a {}, expected a dict of arrays", self.item.kind());
            return Err(DataError::item(self.path, self.split.name(), reason));
        };
        let labels = self.labels()?;
        let n = labels.len();
        let text = self.features("text", n, replaced)?;
        let audio = self.features("audio", n, replaced)?;
        let vision = self.features("vision", n, replaced)?;
        Ok(SequencePart {
            audio_lengths: self.lengths("audio_lengths", n, audio.dim().1)?,
            vision_lengths: self.lengths("vision_lengths", n, vision.dim().1)?,
            text_bert: self.text_bert(n)?,
            ids: self.texts("id", n)?,
            raw_text: self.texts("raw_text", n)?,
            text,
            audio,
            vision,
            labels,
        })
    }

    fn wrong(&self, key: &str, reason: String) -> DataError {
        DataError::item(self.path, format!("{}/{key}", self.split), reason)
    }

    fn array(&self, key: &str) -> Result<&HostArray, DataError> {
        match self.item.get(key) {
            Some(item) => self.as_array(key, item),
            None => Err(self.wrong(key, "is absent".to_owned())),
        }
    }

    fn as_array<'b>(&self, key: &str, item: Item<'b>) -> Result<&'b HostArray, DataError> {
        match item.value() {
            Value::Array(array) => Ok(array),
            _ => Err(self.wrong(key, format!("is a {}, expected an array", item.kind()))),
        }
    }

    /// The sentiments, of shape `[n]` in MMSA and `[n, 1, 1]` in MulT.
    fn labels(&self) -> Result<Array1<f32>, DataError> {
        let key = if self.item.get("regression_labels").is_some() {
            "regression_labels"
        } else {
            "labels"
        };
        let array = self.array(key)?;
        let n = array.shape().first().copied().unwrap_or(0);
        if n == 0 || array.shape().iter().skip(1).any(|&len| len != 1) {
            let shape = shape_text(array.shape());
            return Err(self.wrong(key, format!("has shape {shape}, expected one label a row")));
        }
        let values: Vec<f32> = self.floats(key, array)?;
        if let Some(row) = values.iter().position(|value| !value.is_finite()) {
            let value = number_text(f64::from(values[row]));
            return Err(self.wrong(
                key,
                format!("row {row} is {value}, expected a finite label"),
            ));
        }
        Ok(Array1::from_vec(values))
    }

    fn floats(&self, key: &str, array: &HostArray) -> Result<Vec<f32>, DataError> {
        match array.to_f32() {
            Some(values) => Ok(values.into_iter().collect()),
            None => {
                let reason = format!("has dtype {}, expected numbers", array.element());
                Err(self.wrong(key, reason))
            }
        }
    }

    fn features(
        &self,
        key: &'static str,
        n: usize,
        replaced: &mut Vec<Replaced>,
    ) -> Result<Array3<f32>, DataError> {
        let array = self.array(key)?;
        let &[rows, steps, width] = array.shape() else {
            let shape = shape_text(array.shape());
            let reason = format!("has shape {shape}, expected [utterances, steps, width]");
            return Err(self.wrong(key, reason));
        };
        if rows != n {
            let reason = format!("has {rows} utterances, but there are {n} labels");
            return Err(self.wrong(key, reason));
        }
        let mut values = self.floats(key, array)?;
        let mut count = 0;
        for (place, value) in values.iter_mut().enumerate() {
            if value.is_finite() {
                continue;
            }
            if self.non_finite == NonFinite::Refuse {
                // Neither length is 0 where there is a value.
                let (row, rest) = (place / (steps * width), place % (steps * width));
                let reason = format!(
                    "utterance {row}, step {}, column {} is {}, expected a finite number; the \
                     published loader sets such values to 0, which is `NonFinite::Zero` here",
                    rest / width,
                    rest % width,
                    number_text(f64::from(*value))
                );
                return Err(self.wrong(key, reason));
            }
            *value = 0.0;
            count += 1;
        }
        if count > 0 {
            replaced.push(Replaced {
                split: self.split,
                array: key,
                count,
            });
        }
        Array3::from_shape_vec((rows, steps, width), values)
            .map_err(|error| self.wrong(key, error.to_string()))
    }

    /// Token ids, which MMSA stores as floats.
    fn text_bert(&self, n: usize) -> Result<Option<Array3<i64>>, DataError> {
        let key = "text_bert";
        let Some(item) = self.item.get(key) else {
            return Ok(None);
        };
        let array = self.as_array(key, item)?;
        let &[rows, 3, steps] = array.shape() else {
            let shape = shape_text(array.shape());
            let reason = format!("has shape {shape}, expected ({n}, 3, steps)");
            return Err(self.wrong(key, reason));
        };
        let Some(values) = array.to_f64_vec().filter(|_| rows == n) else {
            let reason = format!(
                "has {rows} utterances of dtype {}, expected {n} of numbers",
                array.element()
            );
            return Err(self.wrong(key, reason));
        };
        let mut ids = Vec::with_capacity(values.len());
        for (place, &value) in values.iter().enumerate() {
            if value.fract() != 0.0 || !(0.0..=f64::from(i32::MAX)).contains(&value) {
                let reason = format!(
                    "element {place} is {}, expected a token id",
                    number_text(value)
                );
                return Err(self.wrong(key, reason));
            }
            ids.push(value as i64);
        }
        let array = Array3::from_shape_vec((rows, 3, steps), ids);
        array
            .map(Some)
            .map_err(|error| self.wrong(key, error.to_string()))
    }

    fn lengths(&self, key: &str, n: usize, steps: usize) -> Result<Option<Vec<usize>>, DataError> {
        let Some(item) = self.item.get(key) else {
            return Ok(None);
        };
        let values: Option<Vec<i64>> = match item.value() {
            Value::List(items) | Value::Tuple(items) => items.map(Item::int).collect(),
            Value::Objects { items, .. } => items.map(Item::int).collect(),
            Value::Array(array) => array.to_i64_vec(),
            _ => None,
        };
        let Some(values) = values else {
            let reason = format!("is a {}, expected integers", item.kind());
            return Err(self.wrong(key, reason));
        };
        if values.len() != n {
            let reason = format!("has {} entries, but there are {n} labels", values.len());
            return Err(self.wrong(key, reason));
        }
        let mut lengths = Vec::with_capacity(n);
        for (row, &value) in values.iter().enumerate() {
            match usize::try_from(value) {
                Ok(len) if len <= steps => lengths.push(len),
                _ => {
                    let reason =
                        format!("utterance {row} has length {value}, expected 0 to {steps}");
                    return Err(self.wrong(key, reason));
                }
            }
        }
        Ok(Some(lengths))
    }

    /// One text an utterance; MulT spreads an id over columns, which `_` joins.
    fn texts(&self, key: &str, n: usize) -> Result<Option<Vec<String>>, DataError> {
        let Some(item) = self.item.get(key) else {
            return Ok(None);
        };
        let texts: Option<Vec<String>> = match item.value() {
            Value::List(items) | Value::Tuple(items) => items.map(text_of).collect(),
            Value::Objects { items, .. } => items.map(text_of).collect(),
            Value::Array(array) => array.to_texts(),
            _ => None,
        };
        let Some(texts) = texts else {
            let reason = format!("is a {}, expected one text an utterance", item.kind());
            return Err(self.wrong(key, reason));
        };
        if texts.len() == n {
            return Ok(Some(texts));
        }
        let columns = texts.len().checked_div(n).unwrap_or(0);
        if columns == 0 || columns * n != texts.len() {
            let reason = format!("has {} texts, but there are {n} labels", texts.len());
            return Err(self.wrong(key, reason));
        }
        Ok(Some(
            texts.chunks(columns).map(|row| row.join("_")).collect(),
        ))
    }
}

/// A text, which may be a numpy string scalar.
fn text_of(item: Item<'_>) -> Option<String> {
    match item.value() {
        Value::Scalar(array) => array.to_texts()?.pop(),
        _ => item.text().map(str::to_owned),
    }
}

/// Which division into splits is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MosiSplits {
    /// 52, 10 and 31 videos: the standard folds of CMU-MultimodalSDK.
    Sdk,
    /// 62 and 31 videos, no validation part: the original division.
    Poria,
}

impl MosiSplits {
    /// The name in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sdk => "sdk",
            Self::Poria => "poria",
        }
    }
}

impl fmt::Display for MosiSplits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A source of features of an utterance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// What is said.
    Text,
    /// How it is said.
    Audio,
    /// The face.
    Video,
}

/// One utterance of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Utterance {
    /// Id of the video.
    pub video_id: String,
    /// Number within the video.
    pub segment: u32,
    /// Start in seconds.
    pub start: f64,
    /// End in seconds; not always behind the start.
    pub end: f64,
    /// Sentiment in [-3, 3].
    pub label: f32,
    /// Split in the division [`MosiSplits::Sdk`].
    pub sdk: Split,
    /// Split in the division [`MosiSplits::Poria`]; never [`Split::Valid`].
    pub poria: Split,
    /// What is said, in capital letters; may be empty.
    pub transcript: String,
}

/// All utterances of CMU-MOSI with one feature vector each.
///
/// The two files are `mosi.safetensors` (`text`, `audio`, `video` of shape `[n, width]`, `label`,
/// `split_sdk`, `split_poria` of shape `[n]`) and `mosi.tsv` with the same rows.
#[derive(Clone, Debug)]
pub struct MosiUtterances {
    rows: Vec<Utterance>,
    text: Array2<f32>,
    audio: Array2<f32>,
    video: Array2<f32>,
    table: PathBuf,
}

impl MosiUtterances {
    /// Reads the features and the table.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is absent or damaged, if a feature is not finite, or if the two
    /// files do not agree in the number of rows, in a label or in a split.
    pub fn open(features: &Path, table: &Path) -> Result<Self, DataError> {
        let bytes = fs::read(table).map_err(|source| DataError::reading(table, source))?;
        let mut rows = parse_table(table, utf8(table, &bytes)?)?;
        let file = TensorFile::open(features)?;
        let n = rows.len();
        let text = matrix(&file, "text", &rows)?;
        let audio = matrix(&file, "audio", &rows)?;
        let video = matrix(&file, "video", &rows)?;
        let labels: Array1<f32> = shaped::<_, Ix1>(&file, "label", n, file.f32("label")?)?;
        let sdk: Array1<i64> = shaped::<_, Ix1>(&file, "split_sdk", n, file.i64("split_sdk")?)?;
        let poria: Array1<i64> =
            shaped::<_, Ix1>(&file, "split_poria", n, file.i64("split_poria")?)?;
        for (index, row) in rows.iter_mut().enumerate() {
            let differs = |column: &str, found: String, expected: String| {
                let kind = DataErrorKind::BadTable {
                    column: column.to_owned(),
                    expected: format!("{expected} as in {}", features.display()),
                    found,
                };
                // The header is line 1.
                DataError::at_line(table, index + 2, kind)
            };
            let label = labels[index];
            if !((label - row.label).abs() <= LABEL_TOLERANCE && label.abs() <= MAX_LABEL) {
                let label = number_text(f64::from(label));
                return Err(differs("label", row.label.to_string(), label));
            }
            // The table is rounded.
            row.label = label;
            if code(MosiSplits::Sdk, row.sdk) != Some(sdk[index]) {
                return Err(differs(
                    "split_sdk",
                    row.sdk.to_string(),
                    sdk[index].to_string(),
                ));
            }
            if code(MosiSplits::Poria, row.poria) != Some(poria[index]) {
                let (found, expected) = (row.poria.to_string(), poria[index].to_string());
                return Err(differs("split_poria", found, expected));
            }
        }
        Ok(Self {
            rows,
            text,
            audio,
            video,
            table: table.to_path_buf(),
        })
    }

    /// The utterances, in the order of the rows of every array.
    #[must_use]
    pub fn rows(&self) -> &[Utterance] {
        &self.rows
    }

    /// The features of one source.
    ///
    /// # Shapes
    ///
    /// - output: `[utterances, width]`, with width 100 for text and video and 73 for audio.
    #[must_use]
    pub fn features(&self, modality: Modality) -> &Array2<f32> {
        match modality {
            Modality::Text => &self.text,
            Modality::Audio => &self.audio,
            Modality::Video => &self.video,
        }
    }

    /// The positions of one split, ascending.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::EmptySplit`] if there is none, as for [`Split::Valid`] of
    /// [`MosiSplits::Poria`].
    pub fn indices(&self, splits: MosiSplits, split: Split) -> Result<Vec<usize>, DataError> {
        let of = |row: &Utterance| match splits {
            MosiSplits::Sdk => row.sdk,
            MosiSplits::Poria => row.poria,
        };
        let rows = self.rows.iter().enumerate();
        let indices: Vec<usize> = rows
            .filter(|(_, row)| of(row) == split)
            .map(|(index, _)| index)
            .collect();
        if indices.is_empty() {
            let split = format!("{split} of division {splits}");
            return Err(DataError::new(
                &self.table,
                DataErrorKind::EmptySplit { split },
            ));
        }
        Ok(indices)
    }

    /// Why results with these features in this division are not honest, if they are not.
    ///
    /// The features of text and video come from networks that were trained with the labels of the
    /// training part of [`MosiSplits::Poria`], to which utterances of the test part of
    /// [`MosiSplits::Sdk`] belong. The accuracies in the text are those of a ridge regression.
    #[must_use]
    pub fn leak_warning(splits: MosiSplits, modalities: &[Modality]) -> Option<&'static str> {
        let leaks = |modality: &Modality| matches!(modality, Modality::Text | Modality::Video);
        (splits == MosiSplits::Sdk && modalities.iter().any(leaks)).then_some(LEAK)
    }
}

const LEAK: &str = "the text and video features leak labels into the test part of division sdk, \
     because the networks that made them were trained on division poria (two-class accuracy of a \
     ridge regression: text 0.941 and video 0.832 in sdk, 0.770 and 0.530 in poria); use division \
     poria, the audio features, or the transcripts";

/// The number of a split in the tensor file; poria has no validation part.
fn code(splits: MosiSplits, split: Split) -> Option<i64> {
    match (splits, split) {
        (_, Split::Train) => Some(0),
        (MosiSplits::Sdk, Split::Valid) | (MosiSplits::Poria, Split::Test) => Some(1),
        (MosiSplits::Sdk, Split::Test) => Some(2),
        (MosiSplits::Poria, Split::Valid) => None,
    }
}

fn matrix(file: &TensorFile, name: &str, rows: &[Utterance]) -> Result<Array2<f32>, DataError> {
    let array: Array2<f32> = shaped::<_, Ix2>(file, name, rows.len(), file.f32(name)?)?;
    for (features, row) in array.outer_iter().zip(rows) {
        if !features.iter().all(|value| value.is_finite()) {
            let item = format!("{}/{}", row.video_id, row.segment);
            let reason = format!("`{name}` holds NaN or an infinite value in its row");
            return Err(DataError::item(file.path(), item, reason));
        }
    }
    Ok(array)
}

fn shaped<T, D: Dimension>(
    file: &TensorFile,
    name: &str,
    n: usize,
    array: ndarray::ArrayD<T>,
) -> Result<ndarray::Array<T, D>, DataError> {
    let actual = array.shape().to_vec();
    let fits = actual.first() == Some(&n);
    let array = array.into_dimensionality::<D>().ok().filter(|_| fits);
    array.ok_or_else(|| {
        let expected = match D::NDIM {
            Some(1) => format!("[{n}] like the table"),
            _ => format!("[{n}, width] like the table"),
        };
        let kind = DataErrorKind::WrongShape {
            name: name.to_owned(),
            expected,
            actual,
        };
        DataError::new(file.path(), kind)
    })
}

const COLUMNS: [&str; 8] = [
    "video_id",
    "segment",
    "start_s",
    "end_s",
    "label",
    "split_sdk",
    "split_poria",
    "transcript",
];

fn parse_table(path: &Path, text: &str) -> Result<Vec<Utterance>, DataError> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    if header != COLUMNS {
        let kind = bad_cell("header", &COLUMNS.join(", "), &header.join(", "));
        return Err(DataError::at_line(path, 1, kind));
    }
    let mut rows = Vec::new();
    for (index, line) in lines.enumerate() {
        let row = parse_row(line).map_err(|kind| DataError::at_line(path, index + 2, kind))?;
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(DataError::new(path, DataErrorKind::EmptyTable));
    }
    Ok(rows)
}

fn parse_row(line: &str) -> Result<Utterance, DataErrorKind> {
    let cells: Vec<&str> = line.split('\t').collect();
    let &[video_id, segment, start, end, label, sdk, poria, transcript] = cells.as_slice() else {
        return Err(DataErrorKind::RowWidth {
            expected: COLUMNS.len(),
            actual: cells.len(),
        });
    };
    if video_id.is_empty() {
        return Err(bad_cell("video_id", "an id", video_id));
    }
    let poria_split: Split = poria.parse()?;
    if poria_split == Split::Valid {
        return Err(bad_cell("split_poria", "train or test", poria));
    }
    Ok(Utterance {
        video_id: video_id.to_owned(),
        segment: segment
            .parse()
            .map_err(|_| bad_cell("segment", "a count", segment))?,
        start: seconds("start_s", start)?,
        end: seconds("end_s", end)?,
        label: match label.parse::<f32>() {
            Ok(value) if value.abs() <= MAX_LABEL => value,
            _ => return Err(bad_cell("label", "a number in [-3, 3]", label)),
        },
        sdk: sdk.parse()?,
        poria: poria_split,
        transcript: transcript.to_owned(),
    })
}

fn seconds(column: &str, cell: &str) -> Result<f64, DataErrorKind> {
    match cell.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err(bad_cell(
            column,
            "a number of seconds that is not negative",
            cell,
        )),
    }
}

fn bad_cell(column: &str, expected: &str, found: &str) -> DataErrorKind {
    DataErrorKind::BadTable {
        column: column.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_file::TensorFileWriter;

    const ROWS: &str = "v\t1\t0.5\t2\t1.333333\ttrain\ttest\tA FILM\n\
                        v\t2\t2\t3\t-3\tvalid\ttrain\t\n";

    fn open(rows: &str, labels: Vec<f32>) -> Result<MosiUtterances, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let (features, table) = (
            folder.path().join("a.safetensors"),
            folder.path().join("a.tsv"),
        );
        let n = labels.len();
        let mut writer = TensorFileWriter::new();
        for name in ["text", "audio", "video"] {
            writer.insert_f32(name, &[n, 2], vec![0.5; 2 * n]);
        }
        writer.insert_f32("label", &[n], labels);
        writer.insert_i64("split_sdk", &[n], (0..n as i64).collect());
        writer.insert_i64(
            "split_poria",
            &[n],
            (0..n as i64).map(|i| (i + 1) % 2).collect(),
        );
        writer.write(&features).unwrap();
        fs::write(&table, format!("{}\n{rows}", COLUMNS.join("\t"))).unwrap();
        MosiUtterances::open(&features, &table)
    }

    #[test]
    fn the_two_files_are_joined() {
        let mosi = open(ROWS, vec![1.333_333_4, -3.0]).unwrap();
        assert_eq!(mosi.rows()[0].label, 1.333_333_4);
        assert_eq!(mosi.features(Modality::Video).dim(), (2, 2));
        assert_eq!(mosi.indices(MosiSplits::Sdk, Split::Valid).unwrap(), [1]);
        assert_eq!(mosi.indices(MosiSplits::Poria, Split::Test).unwrap(), [0]);
        let error = mosi.indices(MosiSplits::Poria, Split::Valid).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no item is in split valid of division poria")
        );
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let error = open(ROWS, vec![1.34, -3.0]).unwrap_err().to_string();
        assert!(
            error.contains(".tsv:2: column `label` is `1.333333`"),
            "{error}"
        );
        let error = open(ROWS, vec![1.333_333, -3.0, 0.0])
            .unwrap_err()
            .to_string();
        assert!(error.contains("`text` has shape [3, 2]"), "{error}");
        let rows = ROWS.replace("valid", "test");
        let error = open(&rows, vec![1.333_333, -3.0]).unwrap_err().to_string();
        assert!(
            error.contains(".tsv:3: column `split_sdk` is `test`"),
            "{error}"
        );
    }

    #[test]
    fn bad_rows_are_named_by_line_and_column() {
        for (row, message) in [
            ("v\t1\t0\t1\t3.5\ttrain\ttest\tA", "column `label` is `3.5`"),
            ("v\t1\t0\t1\tnan\ttrain\ttest\tA", "column `label` is `nan`"),
            ("v\t1\t-1\t1\t3\ttrain\ttest\tA", "column `start_s` is `-1`"),
            (
                "v\t1\t0\t1\t3\ttrain\tvalid\tA",
                "column `split_poria` is `valid`",
            ),
            ("v\t1\t0\t1\t3\ttrain\ttest", "row has 7 cells"),
        ] {
            let error = open(row, vec![0.0]).unwrap_err().to_string();
            assert!(
                error.contains(".tsv:2: ") && error.contains(message),
                "{error}"
            );
        }
    }

    #[test]
    fn leaks_are_told() {
        use Modality::{Audio, Text, Video};
        let leaks = |splits, modalities: &[Modality]| {
            MosiUtterances::leak_warning(splits, modalities).is_some()
        };
        assert!(leaks(MosiSplits::Sdk, &[Audio, Text]) && leaks(MosiSplits::Sdk, &[Video]));
        assert!(!leaks(MosiSplits::Sdk, &[Audio]) && !leaks(MosiSplits::Poria, &[Text, Video]));
    }
}
