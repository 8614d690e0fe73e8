//! The videos and texts of a manifest of one's own, decoded on demand.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::clip_decoder::{ClipDecoder, FrameDecoding, Span};
use super::set::{
    AnswerClasses, FRAME_STREAM, PixelSample, PixelSet, PixelTask, PixelText, TEXT_STREAM, beyond,
    choose_caption, item_draw, positions,
};
use crate::doctor::{FaultyItems, HealthReport};
use crate::emoji_clips::Split;
use crate::error::{DataError, DataErrorKind};
use crate::manifest::{Answer, Manifest, ManifestItem};
use crate::text_file::excerpt;
use crate::video_text_set::Draw;
use crate::word_piece::WordPiece;

/// What is made of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestFramesConfig {
    /// The task; items that have not what it needs belong to other tasks.
    pub task: PixelTask,
    /// What happens if the health report has findings.
    pub faulty: FaultyItems,
    /// How frames are obtained.
    pub decoding: FrameDecoding,
}

/// The items of a [`Manifest`] that serve one task.
///
/// | task | needs | text | answer |
/// |---|---|---|---|
/// | retrieval | `captions` | training: one of them at random; otherwise the first | |
/// | open-ended | `question`, no `options` | the question | the class of `answer`, if it has one |
/// | multiple choice | `question`, `options`, `answer` | the question with its options | the option |
///
/// The classes of open-ended answers are the distinct answers of the training split, without blanks
/// around them, by falling frequency. All multiple-choice questions have the same number of options.
/// With `start` or `end` the whole video is decoded for each sample, because where the part lies
/// among its frames shows only then; cut such videos if that is too slow.
#[derive(Debug)]
pub struct ManifestFrames {
    path: PathBuf,
    word_piece: WordPiece,
    task: PixelTask,
    answers: AnswerClasses,
    items: Vec<Item>,
    n_other: usize,
    decoder: ClipDecoder,
}

#[derive(Clone, Debug)]
struct Item {
    id: String,
    split: Split,
    video: PathBuf,
    span: Span,
    text: ItemText,
}

#[derive(Clone, Debug)]
enum ItemText {
    Captions(Vec<String>),
    Question {
        question: String,
        answer: Option<String>,
    },
    Choice {
        question: String,
        options: Vec<String>,
        answer: usize,
    },
}

impl ManifestFrames {
    /// Reads a manifest that has been checked by [`check_clips`](crate::check_clips).
    ///
    /// # Errors
    ///
    /// Returns an error if the manifest cannot be read, if the report is about another one, if it
    /// has findings that are not to be left out, if a multiple-choice question has no answer,
    /// fewer than two options or another number of them than the first, if no item serves the
    /// task, if a setting is not admissible, and if the decoder cannot be used.
    pub fn open(
        path: &Path,
        report: &HealthReport,
        word_piece: WordPiece,
        config: ManifestFramesConfig,
    ) -> Result<Self, DataError> {
        // Repeated ids are findings of the report.
        let (manifest, _) = Manifest::survey(path)?;
        if report.source != manifest.path() {
            let reason = format!("the health report is about {}", report.source.display());
            return Err(DataError::item(manifest.path(), "report", reason));
        }
        let usable: HashSet<&str> = report
            .admit(config.faulty)?
            .iter()
            .map(String::as_str)
            .collect();
        let mut items: Vec<Item> = Vec::new();
        let mut n_other = 0;
        for item in manifest.items() {
            if !usable.contains(item.id.as_str()) {
                continue;
            }
            match (item.split, item_text(manifest.path(), item, config.task)?) {
                (Some(split), Some(text)) => items.push(Item {
                    id: item.id.clone(),
                    split,
                    video: item.file.clone(),
                    span: Span::new(item.start, item.end),
                    text,
                }),
                _ => n_other += 1,
            }
        }
        if items.is_empty() {
            let reason = format!(
                "none of its {n_other} usable items serves the task {}, which needs {}",
                config.task,
                needs(config.task)
            );
            return Err(DataError::item(manifest.path(), "set", reason));
        }
        check_options(manifest.path(), &items)?;
        Ok(Self {
            path: manifest.path().to_path_buf(),
            word_piece,
            task: config.task,
            answers: answer_classes(&items),
            items,
            n_other,
            decoder: ClipDecoder::open(manifest.path(), config.decoding)?,
        })
    }

    /// Number of usable items of the manifest that have not what the task needs.
    #[must_use]
    pub fn n_other(&self) -> usize {
        self.n_other
    }
}

impl PixelSet for ManifestFrames {
    fn label(&self) -> &Path {
        &self.path
    }

    fn word_piece(&self) -> &WordPiece {
        &self.word_piece
    }

    fn task(&self) -> PixelTask {
        self.task
    }

    fn answers(&self) -> &[String] {
        self.answers.names()
    }

    fn item_name(&self, index: usize) -> String {
        match self.items.get(index) {
            Some(item) => item.id.clone(),
            None => format!("item {index}"),
        }
    }

    fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        let splits = self.items.iter().map(|item| item.split);
        positions(&self.path, name, splits)
    }

    fn sample(&self, index: usize, draw: Draw) -> Result<PixelSample, DataError> {
        let Some(item) = self.items.get(index) else {
            return Err(beyond(&self.path, index, self.items.len()));
        };
        let text = match &item.text {
            ItemText::Captions(captions) => {
                let draw = item_draw(draw, index, TEXT_STREAM);
                let caption = choose_caption(captions, draw).ok_or_else(|| {
                    DataError::item(&self.path, item.id.as_str(), "has no caption")
                })?;
                PixelText::Caption(caption.clone())
            }
            ItemText::Question { question, answer } => PixelText::OpenQuestion {
                question: question.clone(),
                answer: answer
                    .as_deref()
                    .and_then(|answer| self.answers.class(answer)),
            },
            ItemText::Choice {
                question,
                options,
                answer,
            } => PixelText::MultipleChoice {
                question: question.clone(),
                options: options.clone(),
                answer: *answer,
            },
        };
        let draw = item_draw(draw, index, FRAME_STREAM);
        Ok(PixelSample {
            id: index,
            frames: self.decoder.frames(&item.video, item.span, draw)?,
            text,
            visual_tokens: None,
        })
    }
}

/// What a task needs of an item.
fn needs(task: PixelTask) -> &'static str {
    match task {
        PixelTask::Retrieval => "`captions`",
        PixelTask::OpenEnded => "`question` without `options`",
        PixelTask::MultipleChoice => "`question`, `options` and `answer`",
    }
}

/// The text of an item for a task; `None` if the item has not what the task needs.
fn item_text(
    path: &Path,
    item: &ManifestItem,
    task: PixelTask,
) -> Result<Option<ItemText>, DataError> {
    if task == PixelTask::Retrieval {
        let has_captions = !item.captions.is_empty();
        return Ok(has_captions.then(|| ItemText::Captions(item.captions.clone())));
    }
    let Some(question) = &item.question else {
        return Ok(None);
    };
    let question = question.clone();
    if item.options.is_empty() != (task == PixelTask::OpenEnded) {
        return Ok(None);
    }
    if task == PixelTask::OpenEnded {
        let answer = match &item.answer {
            Some(Answer::Text(text)) => Some(text.trim().to_owned()),
            // The manifest admits the number of an option only where there are options.
            Some(Answer::Choice(_)) | None => None,
        };
        return Ok(Some(ItemText::Question { question, answer }));
    }
    let answer = match &item.answer {
        Some(Answer::Choice(choice)) => Some(*choice),
        Some(Answer::Text(text)) => item.options.iter().position(|option| option == text),
        None => None,
    };
    match answer {
        Some(answer) => Ok(Some(ItemText::Choice {
            question,
            options: item.options.clone(),
            answer,
        })),
        None => Err(fault(path, item, "has `options` but no `answer`")),
    }
}

fn fault(path: &Path, item: &ManifestItem, reason: &str) -> DataError {
    let kind = DataErrorKind::Item {
        item: excerpt(&item.id),
        reason: reason.to_owned(),
    };
    match item.line {
        Some(line) => DataError::at_line(path, line, kind),
        None => DataError::new(path, kind),
    }
}

/// A batch has room for one number of options.
fn check_options(path: &Path, items: &[Item]) -> Result<(), DataError> {
    let mut first: Option<usize> = None;
    for item in items {
        let ItemText::Choice { options, .. } = &item.text else {
            continue;
        };
        let expected = *first.get_or_insert(options.len());
        if options.len() < 2 || options.len() != expected {
            let reason = format!(
                "has {} options, expected two or more and as many as the first question, {expected}",
                options.len()
            );
            return Err(DataError::item(path, item.id.as_str(), reason));
        }
    }
    Ok(())
}

/// The answers of the training split.
fn answer_classes(items: &[Item]) -> AnswerClasses {
    let training = items.iter().filter(|item| item.split == Split::Train);
    AnswerClasses::counted(training.filter_map(|item| match &item.text {
        ItemText::Question { answer, .. } => answer.as_deref(),
        ItemText::Captions(_) | ItemText::Choice { .. } => None,
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::doctor::{CheckDepth, ClipCheck, check_clips};
    use crate::pixels::set::FrameChoice;

    /// An MP4 without a frame, sound as far as its container tells.
    fn container(content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in [
            (b"ftyp", &b"isom"[..]),
            (b"mdat", content),
            (b"moov", &b"index"[..]),
        ] {
            bytes.extend((content.len() as u32 + 8).to_be_bytes());
            bytes.extend(name);
            bytes.extend(content);
        }
        bytes
    }

    /// A manifest whose videos are `a.mp4` and `b.mp4`, with `rest` as the further keys.
    fn manifest(lines: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            let bytes = container(format!("frames of {name}").as_bytes());
            fs::write(folder.path().join(format!("{name}.mp4")), bytes).unwrap();
        }
        let text: String = lines
            .iter()
            .enumerate()
            .map(|(number, (video, rest))| {
                format!("{{\"id\": \"i{number}\", \"video\": \"{video}.mp4\", {rest}}}\n")
            })
            .collect();
        fs::write(folder.path().join("manifest.jsonl"), text).unwrap();
        folder
    }

    fn report(folder: &TempDir) -> HealthReport {
        let check = ClipCheck {
            depth: CheckDepth::Container,
            ..ClipCheck::default()
        };
        check_clips(folder.path(), check).unwrap()
    }

    fn config(task: PixelTask, faulty: FaultyItems) -> ManifestFramesConfig {
        ManifestFramesConfig {
            task,
            faulty,
            // Refused last, so that every other error comes first on a machine without decoder.
            decoding: FrameDecoding::new(0, FrameChoice::Uniform),
        }
    }

    fn open(folder: &TempDir, task: PixelTask, faulty: FaultyItems) -> String {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n";
        let word_piece = WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap();
        ManifestFrames::open(
            folder.path(),
            &report(folder),
            word_piece,
            config(task, faulty),
        )
        .unwrap_err()
        .to_string()
    }

    #[test]
    fn a_set_with_findings_is_refused_unless_they_are_to_be_left_out() {
        let captions = r#""captions": ["c"], "split": "train""#;
        let folder = manifest(&[("a", captions), ("gone", captions)]);
        let error = open(&folder, PixelTask::Retrieval, FaultyItems::Refuse);
        assert!(
            error.contains("1 of 2 items cannot be used (`i1` missing)"),
            "{error}"
        );
        let error = open(&folder, PixelTask::Retrieval, FaultyItems::LeaveOut);
        assert!(error.contains("`n_frames` is 0"), "{error}");
    }

    #[test]
    fn a_report_about_another_manifest_is_refused() {
        let captions = r#""captions": ["c"], "split": "train""#;
        let (one, other) = (manifest(&[("a", captions)]), manifest(&[("a", captions)]));
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n";
        let word_piece = WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap();
        let config = config(PixelTask::Retrieval, FaultyItems::Refuse);
        let error = ManifestFrames::open(one.path(), &report(&other), word_piece, config);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("the health report is about"), "{error}");
    }

    #[test]
    fn items_without_the_fields_of_a_task_do_not_serve_it() {
        let folder = manifest(&[
            ("a", r#""captions": ["c"], "split": "train""#),
            ("b", r#""split": "train""#),
        ]);
        let error = open(&folder, PixelTask::OpenEnded, FaultyItems::Refuse);
        assert!(
            error.contains(
                "none of its 2 usable items serves the task open_ended, which needs `question`"
            ),
            "{error}"
        );
        let error = open(&folder, PixelTask::Retrieval, FaultyItems::Refuse);
        assert!(error.contains("`n_frames` is 0"), "{error}");
    }

    #[test]
    fn questions_with_bad_options_are_named() {
        let two = r#""question": "q", "options": ["x", "y"], "answer": "y", "split": "train""#;
        let none = r#""question": "q", "options": ["x", "y"], "split": "train""#;
        let folder = manifest(&[("a", two), ("b", none)]);
        let error = open(&folder, PixelTask::MultipleChoice, FaultyItems::Refuse);
        assert!(
            error.contains("manifest.jsonl:2: item `i1`: has `options` but no `answer`"),
            "{error}"
        );
        let three = r#""question": "q", "options": ["x", "y", "z"], "answer": 0, "split": "test""#;
        let folder = manifest(&[("a", two), ("b", three)]);
        let error = open(&folder, PixelTask::MultipleChoice, FaultyItems::Refuse);
        assert!(error.contains("item `i1`: has 3 options"), "{error}");
    }

    fn item(
        split: Split,
        question: &str,
        answer: Option<Answer>,
        options: &[&str],
    ) -> ManifestItem {
        ManifestItem {
            line: Some(1),
            id: "i".to_owned(),
            file: PathBuf::from("a.mp4"),
            split: Some(split),
            captions: vec!["c".to_owned()],
            question: Some(question.to_owned()),
            answer,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            sentiment: None,
            start: None,
            end: None,
        }
    }

    #[test]
    fn an_item_gives_what_the_task_asks_for() {
        let path = Path::new("m.jsonl");
        let text = |item: &ManifestItem, task| item_text(path, item, task).unwrap();
        let open = item(Split::Train, "q", Some(Answer::Text(" x ".to_owned())), &[]);
        assert!(matches!(
            text(&open, PixelTask::OpenEnded),
            Some(ItemText::Question { answer: Some(answer), .. }) if answer == "x"
        ));
        assert!(text(&open, PixelTask::MultipleChoice).is_none());
        assert!(matches!(
            text(&open, PixelTask::Retrieval),
            Some(ItemText::Captions(captions)) if captions == ["c"]
        ));
        let unanswered = item(Split::Test, "q", None, &[]);
        assert!(matches!(
            text(&unanswered, PixelTask::OpenEnded),
            Some(ItemText::Question { answer: None, .. })
        ));
        for answer in [Answer::Choice(1), Answer::Text("y".to_owned())] {
            let choice = item(Split::Train, "q", Some(answer), &["x", "y"]);
            assert!(text(&choice, PixelTask::OpenEnded).is_none());
            assert!(matches!(
                text(&choice, PixelTask::MultipleChoice),
                Some(ItemText::Choice { answer: 1, .. })
            ));
        }
    }

    #[test]
    fn classes_are_the_answers_of_the_training_split() {
        let question = |split, answer: &str| Item {
            id: "i".to_owned(),
            split,
            video: PathBuf::from("a.mp4"),
            span: Span::WHOLE,
            text: ItemText::Question {
                question: "q".to_owned(),
                answer: Some(answer.to_owned()),
            },
        };
        let classes = answer_classes(&[
            question(Split::Train, "x"),
            question(Split::Test, "z"),
            question(Split::Train, "y"),
            question(Split::Train, "y"),
        ]);
        assert_eq!(classes.names(), ["y", "x"]);
    }
}
