//! Questions about videos with their answers, as VIOLET holds them.

use std::path::{Path, PathBuf};

use crate::emoji_clips::Split;
use crate::error::DataError;
use crate::json_lists::{List, Need, Record, read_lists};
use crate::text_file::TextFile;
use crate::text_pool::TextPool;

const OPTIONS: [&str; 5] = ["option_0", "option_1", "option_2", "option_3", "option_4"];

const FIELDS: &[&str] = &[
    "video", "question", "answer", "option_0", "option_1", "option_2", "option_3", "option_4",
];

/// The parts in the order of [`Split::ALL`], then the words.
const LISTS: &[List] = &[
    List {
        name: "train",
        need: Need::Required,
        fields: FIELDS,
    },
    List {
        name: "val",
        need: Need::Optional,
        fields: FIELDS,
    },
    List {
        name: "test",
        need: Need::Required,
        fields: FIELDS,
    },
    List {
        name: "vocab",
        need: Need::Optional,
        fields: &[],
    },
];

/// How a question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuestionKind {
    /// With a word of the vocabulary.
    OpenEnded,
    /// With one of five options.
    MultipleChoice,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// The video that it is about.
    pub video: &'a str,
    /// The question.
    pub question: &'a str,
    /// The five options, none if the question is open-ended.
    pub options: Vec<&'a str>,
    /// Number of the right option, or of the right word of the vocabulary.
    pub answer: usize,
}

impl Question<'_> {
    /// The text that a model reads for one option, `None` if there is no such option.
    ///
    /// See [`option_text`].
    #[must_use]
    pub fn option_text(&self, option: usize) -> Option<String> {
        option_text(self.question, &self.options, option)
    }
}

/// The text that stands for one option of a multiple-choice question in VIOLET; `None` if there is
/// no such option.
///
/// The question, `Options: `, all options joined by blanks, `Answer: ` and the option; there is no
/// blank before `Options` and none before `Answer`. VIOLET cuts the text to 40 tokens, which often
/// loses the answer.
///
/// ```
/// let text = meltr_data::option_text("What runs?", &["a dog", "a cat"], 1);
/// assert_eq!(text.unwrap(), "What runs?Options: a dog a catAnswer: a cat");
/// ```
#[must_use]
pub fn option_text(question: &str, options: &[&str], option: usize) -> Option<String> {
    let chosen = options.get(option)?;
    Some(format!(
        "{question}Options: {}Answer: {chosen}",
        options.join(" ")
    ))
}

/// A file of questions in three parts, open-ended or multiple-choice.
///
/// `{"train": [..], "val": [..], "test": [..], "vocab": [..]}`. A file whose questions have the
/// keys `option_0` to `option_4` is multiple-choice. `val` may be absent, because VIOLET uses only
/// `train` and `test`; for it the test is the validation too.
///
/// | file | kind | answers |
/// |---|---|---|
/// | `txt_msvd-qa.json` | open-ended | 1000 words |
/// | `txt_tgif-frame.json` | open-ended | 1540 words |
/// | `txt_tgif-action.json`, `txt_tgif-transition.json` | multiple-choice | 5 options |
///
/// Further keys are skipped. A key that is read and occurs twice in one object is an error.
#[derive(Clone, Debug)]
pub struct VideoQa {
    path: PathBuf,
    kind: QuestionKind,
    parts: [Part; 3],
    vocabulary: TextPool,
}

/// The questions of one part; every one takes the same number of texts.
#[derive(Clone, Debug, Default)]
struct Part {
    texts: TextPool,
    answers: Vec<u32>,
}

impl VideoQa {
    /// Reads such a file.
    ///
    /// # Errors
    ///
    /// Returns an error that names the line and the question, if the file is absent, unreadable,
    /// not UTF-8 or not JSON, if `train` or `test` is missing or empty, if a key of a question is
    /// missing or of another type, if the kinds are mixed, if an open-ended file has no `vocab`,
    /// and if an answer is not the number of an option or of a word.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::read(&TextFile::open(path, "JSON")?)
    }

    fn read(file: &TextFile) -> Result<Self, DataError> {
        let mut parts = [Part::default(), Part::default(), Part::default()];
        let mut vocabulary = TextPool::default();
        let mut first_kind: Option<QuestionKind> = None;
        read_lists(file, LISTS, |list, _, record| {
            let Some(part) = parts.get_mut(list) else {
                vocabulary.push(record.own_text()?);
                return Ok(());
            };
            let kind = kind_of(&record);
            if *first_kind.get_or_insert(kind) != kind {
                return Err(match kind {
                    QuestionKind::OpenEnded => "has no options, but others have".to_owned(),
                    QuestionKind::MultipleChoice => "has options, but others have none".to_owned(),
                });
            }
            part.push(&record, kind)
        })?;
        let Some(kind) = first_kind else {
            return Err(file.refuse("no questions"));
        };
        let qa = Self {
            path: file.path().to_owned(),
            kind,
            parts,
            vocabulary,
        };
        qa.check(file)?;
        Ok(qa)
    }

    fn check(&self, file: &TextFile) -> Result<(), DataError> {
        let n_words = self.vocabulary.len();
        if self.kind == QuestionKind::OpenEnded {
            if n_words == 0 {
                return Err(file.refuse("'vocab' missing or empty, open-ended questions need it"));
            }
            for (part, list) in self.parts.iter().zip(LISTS) {
                for (index, &answer) in part.answers.iter().enumerate() {
                    if answer as usize >= n_words {
                        let item = format!("{}[{index}]", list.name);
                        let reason = format!(
                            "answer {answer} is not in [0, {n_words}), 'vocab' has {n_words} words"
                        );
                        return Err(DataError::item(&self.path, item, reason));
                    }
                }
            }
        }
        for (part, list) in self.parts.iter().zip(LISTS) {
            if part.answers.is_empty() && list.need == Need::Required {
                return Err(file.refuse(format!("no questions in '{}'", list.name)));
            }
        }
        Ok(())
    }

    /// How the questions are answered.
    #[must_use]
    pub fn kind(&self) -> QuestionKind {
        self.kind
    }

    /// Number of questions of a part; [`Split::Valid`] is `val` and may have none.
    #[must_use]
    pub fn n_questions(&self, split: Split) -> usize {
        self.part(split).answers.len()
    }

    /// A question of a part, counted from 0, or `None` behind the last.
    #[must_use]
    pub fn question(&self, split: Split, index: usize) -> Option<Question<'_>> {
        let part = self.part(split);
        let answer = *part.answers.get(index)? as usize;
        let n_options = match self.kind {
            QuestionKind::OpenEnded => 0,
            QuestionKind::MultipleChoice => OPTIONS.len(),
        };
        let first = index * (2 + n_options);
        let options: Option<Vec<&str>> = (0..n_options)
            .map(|option| part.texts.get(first + 2 + option))
            .collect();
        Some(Question {
            video: part.texts.get(first)?,
            question: part.texts.get(first + 1)?,
            options: options?,
            answer,
        })
    }

    /// The questions of a part, in the order of the file.
    pub fn questions(&self, split: Split) -> impl Iterator<Item = Question<'_>> {
        (0..self.n_questions(split)).filter_map(move |index| self.question(split, index))
    }

    /// The words that answer open-ended questions, by number; none for multiple choice.
    #[must_use]
    pub fn vocabulary(&self) -> Vec<&str> {
        match self.kind {
            QuestionKind::OpenEnded => self.vocabulary.iter().collect(),
            QuestionKind::MultipleChoice => Vec::new(),
        }
    }

    fn part(&self, split: Split) -> &Part {
        match split {
            Split::Train => &self.parts[0],
            Split::Valid => &self.parts[1],
            Split::Test => &self.parts[2],
        }
    }
}

impl Part {
    fn push(&mut self, record: &Record<'_>, kind: QuestionKind) -> Result<(), String> {
        let video = record.id("video")?;
        let question = record.text("question")?;
        let answer = record.integer("answer")?;
        let Ok(answer) = u32::try_from(answer) else {
            return Err(format!("answer {answer} is not in [0, 2³²)"));
        };
        self.texts.push(video);
        self.texts.push(question);
        if kind == QuestionKind::MultipleChoice {
            for option in OPTIONS {
                self.texts.push(record.text(option)?);
            }
            if answer as usize >= OPTIONS.len() {
                return Err(format!("answer {answer} is not in [0, {})", OPTIONS.len()));
            }
        }
        self.answers.push(answer);
        Ok(())
    }
}

fn kind_of(record: &Record<'_>) -> QuestionKind {
    if OPTIONS.iter().any(|option| record.has(option)) {
        QuestionKind::MultipleChoice
    } else {
        QuestionKind::OpenEnded
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn qa(text: &str) -> Result<VideoQa, DataError> {
        let bytes = text.as_bytes().to_vec();
        VideoQa::read(&TextFile::from_bytes(Path::new("a.json"), "JSON", bytes)?)
    }

    const OPEN: &str = r#"{"vocab": ["dog", "cat"], "test": [
        {"video": "v", "question": "q?", "answer": 1}], "train": [
        {"video": "w", "question": "r?", "answer": 0},
        {"video": "w", "question": "s?", "answer": 1}]}"#;

    const CHOICE: &str = r#"{"video": "v", "question": "q?", "answer": 4, "option_0": "a",
        "option_1": "b", "option_2": "c", "option_3": "d", "option_4": "e f"}"#;

    #[test]
    fn open_ended_questions_are_read_in_any_order_of_the_parts() {
        let qa = qa(OPEN).unwrap();
        assert_eq!(qa.kind(), QuestionKind::OpenEnded);
        assert_eq!(Split::ALL.map(|split| qa.n_questions(split)), [2, 0, 1]);
        assert_eq!(qa.vocabulary(), ["dog", "cat"]);
        let questions: Vec<Question<'_>> = qa.questions(Split::Train).collect();
        let expected = Question {
            video: "w",
            question: "s?",
            options: Vec::new(),
            answer: 1,
        };
        assert_eq!(questions[1], expected);
        assert_eq!(qa.question(Split::Test, 1), None);
        assert_eq!(expected.option_text(0), None);
    }

    #[test]
    fn multiple_choice_questions_need_no_vocabulary() {
        let qa = qa(&format!(
            r#"{{"train": [{CHOICE}], "test": [{CHOICE}, {CHOICE}]}}"#
        ))
        .unwrap();
        assert_eq!(qa.kind(), QuestionKind::MultipleChoice);
        let question = qa.question(Split::Test, 1).unwrap();
        assert_eq!(question.options, ["a", "b", "c", "d", "e f"]);
        assert_eq!(
            question.option_text(4).unwrap(),
            "q?Options: a b c d e fAnswer: e f"
        );
        assert!(qa.vocabulary().is_empty());
    }

    #[test]
    fn bad_questions_are_errors_with_their_place() {
        let both = format!(r#"{{"train": [{CHOICE}], "test": [{{"video": "v"}}]}}"#);
        let high = CHOICE.replace("4, ", "5, ");
        let high = format!(r#"{{"train": [{CHOICE}, {high}], "test": []}}"#);
        let cases = [
            (
                OPEN.replace("\"dog\", ", ""),
                "item `train[1]`: answer 1 is not in [0, 1)",
            ),
            (OPEN.replace("\"vocab\"", "\"words\""), "'vocab' missing"),
            (OPEN.replace("\"test\"", "\"tests\""), "'test' missing"),
            (
                OPEN.replace(": 0", ": -1"),
                "item `train[0]`: answer -1 is not in",
            ),
            (
                OPEN.replace(": 0", ": \"dog\""),
                "'answer' is a string, expected an integer",
            ),
            (
                OPEN.replace("\"cat\"", "1"),
                "item `vocab[1]`: is a number, expected a string",
            ),
            (both, "item `test[0]`: has no options, but others have"),
            (high, "item `train[1]`: answer 5 is not in [0, 5)"),
            (
                format!(r#"{{"train": [{CHOICE}], "test": []}}"#),
                "no questions in 'test'",
            ),
            (r#"{"train": [], "test": []}"#.to_owned(), "no questions"),
        ];
        for (text, message) in cases {
            let error = qa(&text).unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_answer_makes_the_reader_panic(answer in any::<i64>(), is_open in any::<bool>()) {
            let text = match is_open {
                true => OPEN.replace(": 0", &format!(": {answer}")),
                false => {
                    let question = CHOICE.replace("4, ", &format!("{answer}, "));
                    format!(r#"{{"train": [{question}], "test": [{question}]}}"#)
                }
            };
            let admissible = if is_open { 0..2 } else { 0..5 };
            prop_assert_eq!(qa(&text).is_ok(), admissible.contains(&answer));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(file) = TextFile::from_bytes(Path::new("a"), "JSON", bytes) {
                let _ = VideoQa::read(&file);
            }
        }
    }
}
