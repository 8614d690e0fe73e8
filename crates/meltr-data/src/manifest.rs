//! The manifest of a set of one's own: which clips it has, and what is known about each.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::emoji_clips::Split;
use crate::error::{DataError, DataErrorKind};

/// The file that a folder is described by, if it has one.
const FILE_NAME: &str = "manifest.jsonl";

/// Lines longer than this many bytes are refused.
const MAX_LINE: u64 = 1 << 20;

/// Folders within folders that are searched for clips.
const MAX_DEPTH: usize = 32;

/// Endings of file names that stand for a video, in lower case.
const VIDEO_EXTENSIONS: [&str; 14] = [
    "3gp", "avi", "flv", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "webm",
    "wmv",
];

/// The clips of a set of one's own.
///
/// As a file, it has one JSON object a line; a line without anything but blanks is skipped:
///
/// ```text
/// {"id": "a", "video": "clips/a.mp4", "captions": ["a wave"], "split": "train"}
/// ```
///
/// `id`, `video` (relative to the folder of the manifest, with `/`) and `split` (`train`, `valid`
/// or `test`) are required. `captions`, `question`, `answer` (a text, or the number of an option
/// counted from 0), `options`, `sentiment`, `start` and `end` (seconds) are optional.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    path: PathBuf,
    items: Vec<ManifestItem>,
}

/// One clip.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestItem {
    /// The line of the manifest, counted from 1; `None` for a file found in a folder.
    pub line: Option<usize>,
    /// Name of the item, unique in the set.
    pub id: String,
    /// The video file, with the folder of the manifest in front.
    pub file: PathBuf,
    /// Part of the set; `None` for a file found in a folder.
    pub split: Option<Split>,
    /// Sentences about the clip.
    pub captions: Vec<String>,
    /// A question about the clip.
    pub question: Option<String>,
    /// The answer to the question.
    pub answer: Option<Answer>,
    /// Options to choose the answer from; none for an open-ended question.
    pub options: Vec<String>,
    /// Sentiment, negative to positive.
    pub sentiment: Option<f64>,
    /// Where the clip starts in the video, in seconds.
    pub start: Option<f64>,
    /// Where the clip ends in the video, in seconds.
    pub end: Option<f64>,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The number of an option, counted from 0.
    Choice(usize),
    /// A text.
    Text(String),
}

/// An item that repeats the id of an earlier one.
#[derive(Clone, Debug, PartialEq)]
pub struct RepeatedId {
    /// The later item.
    pub item: ManifestItem,
    /// The line, counted from 1, or the file of the first item with this id.
    pub first: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    video: String,
    split: Split,
    #[serde(default)]
    captions: Vec<String>,
    #[serde(default)]
    question: Option<String>,
    #[serde(default)]
    answer: Option<Answer>,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default)]
    sentiment: Option<f64>,
    #[serde(default)]
    start: Option<f64>,
    #[serde(default)]
    end: Option<f64>,
}

impl Manifest {
    /// Reads a manifest, or lists the clips of a folder.
    ///
    /// A folder is described by its `manifest.jsonl`, or by its only `.jsonl` file; without one,
    /// every file below it with the ending of a video is an item, and the name of the file without
    /// its ending is the id. Names that begin with a dot are left out.
    ///
    /// # Errors
    ///
    /// Returns an error with the line if a line cannot be used, an error if an id occurs twice,
    /// and one if there is no item at all.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let (manifest, repeated) = Self::survey(path)?;
        match repeated.first() {
            None => Ok(manifest),
            Some(RepeatedId { item, first }) => {
                let kind = DataErrorKind::Item {
                    item: item.id.clone(),
                    reason: format!("the id already occurs at {first}"),
                };
                Err(match item.line {
                    Some(line) => DataError::at_line(&manifest.path, line, kind),
                    None => DataError::new(&item.file, kind),
                })
            }
        }
    }

    /// As [`open`](Self::open), but items that repeat an id are returned beside the manifest.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), repeated ids aside.
    pub fn survey(path: &Path) -> Result<(Self, Vec<RepeatedId>), DataError> {
        let information = fs::metadata(path).map_err(|source| DataError::reading(path, source))?;
        let (source, all) = if information.is_dir() {
            match manifest_of(path)? {
                Some(file) => {
                    let items = read(&file)?;
                    (file, items)
                }
                None => (path.to_path_buf(), files_below(path)?),
            }
        } else {
            (path.to_path_buf(), read(path)?)
        };
        if all.is_empty() {
            return Err(if information.is_dir() && source == path {
                let reason = "neither a manifest nor a file with the ending of a video is there";
                DataError::item(path, "folder", reason)
            } else {
                DataError::new(source, DataErrorKind::EmptyTable)
            });
        }
        let mut places: HashMap<String, String> = HashMap::new();
        let mut items = Vec::new();
        let mut repeated = Vec::new();
        for item in all {
            match places.get(&item.id) {
                Some(first) => {
                    let first = first.clone();
                    repeated.push(RepeatedId { item, first });
                }
                None => {
                    let place = match item.line {
                        Some(line) => format!("line {line}"),
                        None => item.file.display().to_string(),
                    };
                    places.insert(item.id.clone(), place);
                    items.push(item);
                }
            }
        }
        Ok((
            Self {
                path: source,
                items,
            },
            repeated,
        ))
    }

    /// The manifest, or the folder that was listed instead of one.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The items, in the order of the manifest or of their paths.
    #[must_use]
    pub fn items(&self) -> &[ManifestItem] {
        &self.items
    }
}

/// The manifest inside a folder, if there is one.
fn manifest_of(folder: &Path) -> Result<Option<PathBuf>, DataError> {
    let named = folder.join(FILE_NAME);
    if named.is_file() {
        return Ok(Some(named));
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| DataError::reading(folder, source))? {
        let file = entry
            .map_err(|source| DataError::reading(folder, source))?
            .path();
        if !is_hidden(&file) && extension(&file).as_deref() == Some("jsonl") {
            found.push(file);
        }
    }
    if found.len() > 1 {
        found.sort();
        let reason = format!(
            "the folder has {} files that may be its manifest ({} and {}); name the one to use",
            found.len(),
            found[0].display(),
            found[1].display()
        );
        return Err(DataError::item(folder, FILE_NAME, reason));
    }
    Ok(found.pop())
}

fn read(path: &Path) -> Result<Vec<ManifestItem>, DataError> {
    let file = File::open(path).map_err(|source| DataError::reading(path, source))?;
    let mut reader = BufReader::new(file);
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut items = Vec::new();
    let mut number = 0;
    loop {
        number += 1;
        let mut bytes = Vec::new();
        let len = reader
            .by_ref()
            .take(MAX_LINE + 1)
            .read_until(b'\n', &mut bytes)
            .map_err(|source| DataError::reading(path, source))?;
        if len == 0 {
            return Ok(items);
        }
        let at_line = |item: &str, reason: String| {
            let kind = DataErrorKind::Item {
                item: item.to_owned(),
                reason,
            };
            DataError::at_line(path, number, kind)
        };
        if len as u64 > MAX_LINE {
            let reason = format!("the line has more than {MAX_LINE} bytes");
            return Err(at_line("line", reason));
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let reason = format!("byte {} of the line is not UTF-8", error.valid_up_to());
            at_line("line", reason)
        })?;
        // An editor's byte order mark is no part of the first object.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(text).map_err(|error| {
            let message = error.to_string();
            let reason = message
                .rsplit_once(" at line ")
                .map_or(&*message, |(m, _)| m);
            at_line(
                &format!("column {}", error.column()),
                with_suggestion(reason),
            )
        })?;
        if let Err(reason) = line.check() {
            return Err(at_line(&line.id, reason));
        }
        items.push(line.into_item(number, folder));
    }
}

impl Line {
    fn check(&self) -> Result<(), String> {
        if self.id.trim().is_empty() || self.id.chars().any(char::is_control) {
            return Err("`id` is empty or has a control character".to_owned());
        }
        if self.video.is_empty() || self.video.contains('\0') {
            return Err("`video` is empty or has a zero byte".to_owned());
        }
        if Path::new(&self.video).has_root() {
            return Err(format!(
                "`video` is `{}` but has to be relative to the folder of the manifest",
                self.video
            ));
        }
        if self.captions.iter().any(|text| text.trim().is_empty()) {
            return Err("a caption is empty".to_owned());
        }
        if self.sentiment.is_some_and(|value| !value.is_finite()) {
            return Err("`sentiment` is not finite".to_owned());
        }
        for (key, value) in [("start", self.start), ("end", self.end)] {
            if let Some(value) = value
                && !(value.is_finite() && value >= 0.0)
            {
                return Err(format!(
                    "`{key}` is {value} but has to be in [0, inf) seconds"
                ));
            }
        }
        if let Some(end) = self.end
            && end <= self.start.unwrap_or(0.0)
        {
            let start = self.start.unwrap_or(0.0);
            return Err(format!(
                "`end` is {end} but has to be after `start`, {start} s"
            ));
        }
        if self.question.is_none() && (self.answer.is_some() || !self.options.is_empty()) {
            return Err("`answer` and `options` need a `question`".to_owned());
        }
        match &self.answer {
            Some(Answer::Choice(choice)) if *choice >= self.options.len() => Err(format!(
                "`answer` is option {choice}, counted from 0, but there are {} options",
                self.options.len()
            )),
            Some(Answer::Text(text))
                if !self.options.is_empty() && !self.options.contains(text) =>
            {
                Err(format!("`answer` is `{text}`, which is none of `options`"))
            }
            _ => Ok(()),
        }
    }

    fn into_item(self, number: usize, folder: &Path) -> ManifestItem {
        ManifestItem {
            line: Some(number),
            id: self.id,
            file: folder.join(&self.video),
            split: Some(self.split),
            captions: self.captions,
            question: self.question,
            answer: self.answer,
            options: self.options,
            sentiment: self.sentiment,
            start: self.start,
            end: self.end,
        }
    }
}

/// Every video file below a folder, sorted by path; links to folders are not followed.
fn files_below(folder: &Path) -> Result<Vec<ManifestItem>, DataError> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut waiting: Vec<(PathBuf, usize)> = vec![(folder.to_path_buf(), 0)];
    while let Some((current, depth)) = waiting.pop() {
        let reading = |source| DataError::reading(&current, source);
        for entry in fs::read_dir(&current).map_err(reading)? {
            let entry = entry.map_err(reading)?;
            let path = entry.path();
            if is_hidden(&path) {
                continue;
            }
            let kind = entry.file_type().map_err(reading)?;
            if kind.is_dir() {
                if depth == MAX_DEPTH {
                    let reason = format!("folders are nested more than {MAX_DEPTH} deep");
                    return Err(DataError::item(folder, path.display().to_string(), reason));
                }
                waiting.push((path, depth + 1));
            } else if is_video(&path) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let stem = file.file_stem().and_then(|stem| stem.to_str());
            let Some(id) = stem.map(str::to_owned) else {
                let reason = "the name is not UTF-8, so that it cannot be an id";
                let shown = file.display().to_string();
                return Err(DataError::item(folder, shown, reason));
            };
            Ok(ManifestItem {
                line: None,
                id,
                file,
                split: None,
                captions: Vec::new(),
                question: None,
                answer: None,
                options: Vec::new(),
                sentiment: None,
                start: None,
                end: None,
            })
        })
        .collect()
}

fn is_video(path: &Path) -> bool {
    extension(path).is_some_and(|extension| VIDEO_EXTENSIONS.contains(&extension.as_str()))
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with('.'))
}

/// Appends the nearest known word to serde's message about an unknown field or variant.
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let is_unknown = message.contains("unknown field") || message.contains("unknown variant");
    let nearest = match (is_unknown, quoted.next()) {
        (true, Some(word)) => quoted
            .map(|known| (distance(word, known), known))
            .min()
            .filter(|(edits, known)| *edits <= known.len().max(word.len()).div_ceil(2)),
        _ => None,
    };
    match nearest {
        Some((_, known)) => format!("{message}; did you mean `{known}`?"),
        None => message.to_owned(),
    }
}

/// Insertions, deletions and substitutions between two words, of which at most 64 letters count.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"id": "a", "video": "a.mp4", "captions": ["x"], "split": "train"}"#;

    fn open(text: &str) -> Result<Manifest, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.jsonl");
        fs::write(&path, text).unwrap();
        Manifest::open(&path)
    }

    fn refused(line: &str, part: &str) {
        let error = open(&format!("{GOOD}\n\n{line}\n")).unwrap_err();
        assert_eq!(error.line, Some(3), "{error}");
        assert!(error.to_string().contains(part), "no `{part}` in {error}");
    }

    #[test]
    fn an_item_has_all_that_its_line_says() {
        let line = r#"{"id": "b", "video": "v/b.mp4", "split": "test", "question": "q?",
            "answer": 1, "options": ["n", "y"], "sentiment": -1.5, "start": 0.5, "end": 2}"#
            .replace('\n', " ");
        let manifest = open(&format!("{GOOD}\n{line}")).unwrap();
        let [a, b] = manifest.items() else {
            panic!("not two items");
        };
        assert_eq!(
            (a.id.as_str(), a.line, a.split),
            ("a", Some(1), Some(Split::Train))
        );
        assert_eq!(b.file, manifest.path().parent().unwrap().join("v/b.mp4"));
        assert_eq!(b.answer, Some(Answer::Choice(1)));
        assert_eq!(
            (b.start, b.end, b.sentiment),
            (Some(0.5), Some(2.0), Some(-1.5))
        );
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest_one() {
        refused(
            r#"{"id": "b", "video": "b.mp4", "split": "train", "caption": []}"#,
            "did you mean `captions`?",
        );
    }

    #[test]
    fn an_unknown_split_is_answered_with_the_nearest_one() {
        refused(
            r#"{"id": "b", "video": "b.mp4", "split": "tests"}"#,
            "did you mean `test`?",
        );
    }

    #[test]
    fn a_line_that_is_no_json_has_its_column() {
        refused(r#"{"id": "b", "video" "b.mp4"}"#, "column 21");
    }

    #[test]
    fn an_id_that_occurs_twice_is_named_with_both_lines() {
        let error = open(&format!("{GOOD}\n{GOOD}\n")).unwrap_err();
        assert_eq!(error.line, Some(2));
        assert!(error.to_string().contains("line 1"), "{error}");
    }

    #[test]
    fn a_survey_keeps_the_first_of_two_items_with_one_id() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("manifest.jsonl"),
            format!("{GOOD}\n{GOOD}\n"),
        )
        .unwrap();
        let (manifest, repeated) = Manifest::survey(folder.path()).unwrap();
        assert_eq!(manifest.items().len(), 1);
        assert_eq!(repeated.len(), 1);
        assert_eq!(repeated[0].item.line, Some(2));
        assert_eq!(repeated[0].first, "line 1");
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let with = |tail: &str| format!(r#"{{"id": "b", "video": "b", "split": "train", {tail}}}"#);
        refused(&with(r#""start": 2, "end": 1"#), "after `start`");
        refused(&with(r#""start": -1"#), "`start` is -1");
        refused(&with(r#""answer": "y""#), "need a `question`");
        refused(
            &with(r#""question": "q", "options": ["y"], "answer": 1"#),
            "option 1",
        );
        refused(
            &with(r#""question": "q", "options": ["y"], "answer": "n""#),
            "none of `options`",
        );
        refused(&with(r#""captions": [" "]"#), "caption is empty");
        refused(
            r#"{"id": "b", "video": "/b.mp4", "split": "train"}"#,
            "relative",
        );
        refused(
            r#"{"id": "", "video": "b.mp4", "split": "train"}"#,
            "`id` is empty",
        );
    }

    #[test]
    fn an_endless_line_is_refused() {
        let error = open(&"x".repeat(MAX_LINE as usize + 2)).unwrap_err();
        assert!(error.to_string().contains("more than 1048576 bytes"));
    }

    #[test]
    fn a_folder_lists_its_videos_by_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        for name in ["b.MP4", "a.webm", "sub/c.avi", "notes.txt", ".hidden.mp4"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let manifest = Manifest::open(folder.path()).unwrap();
        let ids: Vec<&str> = manifest
            .items()
            .iter()
            .map(|item| item.id.as_str())
            .collect();
        assert_eq!(ids, ["a", "b", "c"]);
    }

    #[test]
    fn a_folder_without_a_video_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let error = Manifest::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("neither a manifest"), "{error}");
        let error = open("\n \n").unwrap_err();
        assert!(matches!(error.kind, DataErrorKind::EmptyTable));
    }

    #[test]
    fn two_candidates_for_the_manifest_are_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["one.jsonl", "two.jsonl"] {
            fs::write(folder.path().join(name), GOOD).unwrap();
        }
        let error = Manifest::open(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("one.jsonl") && error.contains("two.jsonl"),
            "{error}"
        );
    }
}
