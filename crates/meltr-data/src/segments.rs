//! Annotated segments of videos: when they start and end, and what is said or shown.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::inspect::{number_text, short_repr};
use crate::pickle::{Item, Pickle, Value};

/// One annotated segment of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Start in seconds, not negative.
    pub start: f64,
    /// End in seconds, not before the start.
    pub end: f64,
    /// The annotation.
    pub text: String,
    /// What is said, where the file tells; `NONE` stands for silence in the published files.
    pub transcript: Option<String>,
}

/// The segments of every video of one file, as UniVL's `youcookii_data*.pickle` holds them.
///
/// The file is a dict of video id to a dict of `start`, `end`, `text` and, in some files,
/// `transcript`, which are sequences of equal length.
#[derive(Clone, Debug)]
pub struct Segments {
    path: PathBuf,
    ids: Vec<String>,
    places: HashMap<String, usize>,
    videos: Vec<Vec<Segment>>,
}

impl Segments {
    /// Reads a pickle.
    ///
    /// Times may be floats, ints or numpy scalars. The sequences may be lists, tuples and arrays
    /// of objects, numbers or strings.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is absent or damaged, if a key is absent, if the sequences of
    /// a video differ in length, or if a time or a text is not admissible; it names the video and
    /// the segment, counted from 0.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let pickle = Pickle::open(path)?;
        let root = pickle.root();
        let Value::Dict(entries) = root.value() else {
            let reason = format!("is a {}, expected a dict of id to segments", root.kind());
            return Err(DataError::item(path, "top level", reason));
        };
        let mut segments = Self {
            path: path.to_path_buf(),
            ids: Vec::new(),
            places: HashMap::new(),
            videos: Vec::new(),
        };
        for (key, item) in entries {
            let Some(id) = key.text() else {
                let reason = format!("is a {}, expected a text id", key.kind());
                return Err(DataError::item(
                    path,
                    format!("key {}", short_repr(key)),
                    reason,
                ));
            };
            let video = read_video(path, id, item)?;
            if segments
                .places
                .insert(id.to_owned(), segments.videos.len())
                .is_some()
            {
                return Err(DataError::item(path, id, "occurs twice"));
            }
            segments.ids.push(id.to_owned());
            segments.videos.push(video);
        }
        if segments.ids.is_empty() {
            return Err(DataError::item(path, "top level", "has no entries"));
        }
        Ok(segments)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ids of the videos in the order of the file.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Whether there is a video of this id.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.places.contains_key(id)
    }

    /// The segments of one video in the order of the file.
    ///
    /// # Errors
    ///
    /// Returns an error if the id is unknown.
    pub fn of(&self, id: &str) -> Result<&[Segment], DataError> {
        let place = self.places.get(id).copied();
        match place.and_then(|place| self.videos.get(place)) {
            Some(video) => Ok(video),
            None => {
                let reason = format!("is not among the {} videos with segments", self.ids.len());
                Err(DataError::item(&self.path, id, reason))
            }
        }
    }

    /// The feature rows of one segment, given how many rows the video has and how many make up a
    /// second.
    ///
    /// These are the rows `int(start × rate)` to `int(end × rate)`, the last one included, as in
    /// UniVL's `dataloader_youcook_*.py`. Rows beyond the last one are left out, which the
    /// published files need, because annotations may end a second after the features.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such segment, if the rate is not a positive number, or if
    /// the segment begins beyond the last row: the reference would use no row at all then.
    pub fn rows(
        &self,
        id: &str,
        segment: usize,
        n_rows: usize,
        rate: f64,
    ) -> Result<Range<usize>, DataError> {
        let refuse = |reason: String| Err(DataError::item(&self.path, id, reason));
        let video = self.of(id)?;
        let Some(found) = video.get(segment) else {
            return refuse(format!(
                "has no segment {segment}, only {}, counted from 0",
                video.len()
            ));
        };
        if !(rate.is_finite() && rate > 0.0) {
            return refuse(format!(
                "a rate of {} rows a second is not a positive number",
                number_text(rate)
            ));
        }
        // Conversions to integers saturate, and all these numbers are not negative.
        let start = (found.start * rate) as usize;
        if start >= n_rows {
            return refuse(format!(
                "segment {segment} starts at {} s, which is row {start}, but the features have \
                 {n_rows} rows",
                number_text(found.start)
            ));
        }
        let end = ((found.end * rate) as usize).saturating_add(1);
        Ok(start..end.min(n_rows))
    }
}

fn read_video(path: &Path, id: &str, item: Item<'_>) -> Result<Vec<Segment>, DataError> {
    let Value::Dict(_) = item.value() else {
        let reason = format!(
            "is a {}, expected a dict with 'start', 'end' and 'text'",
            item.kind()
        );
        return Err(DataError::item(path, id, reason));
    };
    let required = |key: &str| {
        let column = optional_column(path, id, item, key)?;
        column.ok_or_else(|| DataError::item(path, id, format!("has no key '{key}'")))
    };
    let (starts, ends, texts) = (required("start")?, required("end")?, required("text")?);
    let transcripts = optional_column(path, id, item, "transcript")?;
    let n = starts.len();
    let lengths = [
        ("end", ends.len()),
        ("text", texts.len()),
        ("transcript", transcripts.as_ref().map_or(n, Vec::len)),
    ];
    for (key, len) in lengths {
        if len != n {
            let reason = format!("'{key}' has {len} entries, but 'start' has {n}");
            return Err(DataError::item(path, id, reason));
        }
    }
    let mut transcripts = transcripts.map(Vec::into_iter);
    let mut segments = Vec::with_capacity(n);
    for (index, ((start, end), text)) in starts.into_iter().zip(ends).zip(texts).enumerate() {
        let wrong =
            |reason: String| DataError::item(path, id, format!("segment {index}: {reason}"));
        let (start, end) = (
            start.seconds("start").map_err(wrong)?,
            end.seconds("end").map_err(wrong)?,
        );
        if end < start {
            return Err(wrong(format!(
                "'end' is {} but 'start' is {}",
                number_text(end),
                number_text(start)
            )));
        }
        let transcript = match transcripts.as_mut().and_then(Iterator::next) {
            Some(cell) => Some(cell.words("transcript").map_err(wrong)?),
            None => None,
        };
        segments.push(Segment {
            start,
            end,
            text: text.words("text").map_err(wrong)?,
            transcript,
        });
    }
    Ok(segments)
}

/// One entry of a sequence, whatever kind of sequence it is.
enum Cell<'a> {
    Item(Item<'a>),
    Number(f64),
    Text(String),
}

impl Cell<'_> {
    fn seconds(self, key: &str) -> Result<f64, String> {
        let value = match self {
            Self::Number(value) => Some(value),
            Self::Item(item) => item.float(),
            Self::Text(_) => None,
        };
        match value {
            Some(value) if value.is_finite() && value >= 0.0 => Ok(value),
            Some(value) => Err(format!(
                "'{key}' is {}, expected a number of seconds that is finite and not negative",
                number_text(value)
            )),
            None => Err(format!("'{key}' is a {}, expected a number", self.kind())),
        }
    }

    fn words(self, key: &str) -> Result<String, String> {
        let text = match &self {
            Self::Text(text) => Some(text.clone()),
            Self::Item(item) => match item.text() {
                Some(text) => Some(text.to_owned()),
                None => scalar_text(*item),
            },
            Self::Number(_) => None,
        };
        text.ok_or_else(|| format!("'{key}' is a {}, expected a text", self.kind()))
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Item(item) => item.kind(),
            Self::Number(_) => "number",
            Self::Text(_) => "text",
        }
    }
}

/// The text of a numpy string scalar.
fn scalar_text(item: Item<'_>) -> Option<String> {
    match item.value() {
        Value::Scalar(array) => array.to_texts()?.pop(),
        _ => None,
    }
}

fn optional_column<'a>(
    path: &Path,
    id: &str,
    video: Item<'a>,
    key: &str,
) -> Result<Option<Vec<Cell<'a>>>, DataError> {
    let Some(item) = video.get(key) else {
        return Ok(None);
    };
    let wrong = |found: String| {
        let reason = format!("'{key}' is {found}, expected a sequence with one entry a segment");
        Err(DataError::item(path, id, reason))
    };
    match item.value() {
        Value::List(items) | Value::Tuple(items) => Ok(Some(items.map(Cell::Item).collect())),
        Value::Objects { shape, items } if shape.len() == 1 => {
            Ok(Some(items.map(Cell::Item).collect()))
        }
        Value::Array(array) if array.shape().len() == 1 => {
            if let Some(values) = array.to_f64_vec() {
                Ok(Some(values.into_iter().map(Cell::Number).collect()))
            } else if let Some(texts) = array.to_texts() {
                Ok(Some(texts.into_iter().map(Cell::Text).collect()))
            } else {
                wrong(format!("an array of {}", array.element()))
            }
        }
        _ => wrong(format!("a {} ({})", item.kind(), short_repr(item))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(start: f64, end: f64) -> Segments {
        let segment = Segment {
            start,
            end,
            text: "stir".into(),
            transcript: None,
        };
        Segments {
            path: "data.pickle".into(),
            ids: vec!["a".into()],
            places: HashMap::from([("a".into(), 0)]),
            videos: vec![vec![segment]],
        }
    }

    #[test]
    fn the_last_row_is_included_and_rows_beyond_the_features_are_left_out() {
        assert_eq!(segments(13.0, 15.9).rows("a", 0, 100, 1.0).unwrap(), 13..16);
        assert_eq!(segments(2.0, 2.0).rows("a", 0, 100, 1.5).unwrap(), 3..4);
        assert_eq!(segments(1.0, 4.0).rows("a", 0, 3, 1.0).unwrap(), 1..3);
        assert_eq!(segments(0.0, 1e300).rows("a", 0, 3, 1.0).unwrap(), 0..3);
    }

    #[test]
    fn a_segment_that_begins_beyond_the_features_is_an_error() {
        let error = segments(3.0, 4.0)
            .rows("a", 0, 3, 1.0)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("segment 0 starts at 3 s, which is row 3"),
            "{error}"
        );
        assert!(error.contains("have 3 rows"), "{error}");
    }

    #[test]
    fn unknown_segments_and_impossible_rates_are_errors() {
        let segments = segments(0.0, 1.0);
        for (result, message) in [
            (segments.rows("b", 0, 3, 1.0), "item `b`"),
            (segments.rows("a", 1, 3, 1.0), "has no segment 1, only 1"),
            (segments.rows("a", 0, 3, 0.0), "a rate of 0 rows a second"),
            (segments.rows("a", 0, 3, f64::NAN), "a rate of nan"),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
