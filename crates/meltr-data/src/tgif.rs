//! TGIF-QA as All-in-one holds it: one question a line.

use std::path::Path;

use crate::error::DataError;
use crate::json_lists::{Record, read_lines};
use crate::text_file::TextFile;

/// Options of a multiple-choice question.
const N_OPTIONS: usize = 5;

/// One question of a `.jsonl` file of TGIF-QA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TgifQuestion {
    /// Name of the animation, without `.gif`.
    pub gif: String,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: TgifAnswer,
}

/// The answer to a question of TGIF-QA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TgifAnswer {
    /// A word: task `frame`.
    Word(String),
    /// One of five options: tasks `action` and `transition`.
    Option {
        /// The five options.
        options: Vec<String>,
        /// Number of the right one, counted from 0.
        answer: usize,
    },
}

/// The questions of one file of TGIF-QA.
///
/// One object a line: `{"gif_name", "question", "answer": ".."}` or `{"gif_name", "question",
/// "options": [five texts], "answer": 0..4}`; blank lines and further keys are skipped. A file is
/// of one kind.
#[derive(Clone, Debug)]
pub struct TgifQuestions {
    questions: Vec<TgifQuestion>,
}

impl TgifQuestions {
    /// Reads such a file.
    ///
    /// # Errors
    ///
    /// Returns an error with the line, if the file is absent, unreadable, not UTF-8, if a line is
    /// no JSON object, if a key is missing, occurs twice or is of another type, if there are not
    /// five options or the answer is none of them, if the kinds are mixed, and if there is no
    /// question.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::read(&TextFile::open(path, "JSON lines")?)
    }

    fn read(file: &TextFile) -> Result<Self, DataError> {
        let mut questions: Vec<TgifQuestion> = Vec::new();
        let fields = &["gif_name", "question", "options", "answer"];
        read_lines(file, fields, |_, record| {
            let question = question(&record)?;
            if let Some(first) = questions.first() {
                let has_options =
                    |other: &TgifQuestion| matches!(other.answer, TgifAnswer::Option { .. });
                if has_options(first) != has_options(&question) {
                    return Err("has options where others have none, or the reverse".to_owned());
                }
            }
            questions.push(question);
            Ok(())
        })?;
        if questions.is_empty() {
            return Err(file.refuse("no questions"));
        }
        Ok(Self { questions })
    }

    /// The questions in the order of the file, at least one.
    #[must_use]
    pub fn questions(&self) -> &[TgifQuestion] {
        &self.questions
    }
}

fn question(record: &Record<'_>) -> Result<TgifQuestion, String> {
    let answer = if record.has("options") {
        let options = record.texts("options")?;
        if options.len() != N_OPTIONS {
            return Err(format!(
                "'options' has {} texts, expected {N_OPTIONS}",
                options.len()
            ));
        }
        let answer = record.integer("answer")?;
        match usize::try_from(answer) {
            Ok(answer) if answer < N_OPTIONS => TgifAnswer::Option {
                options: options.to_vec(),
                answer,
            },
            _ => return Err(format!("answer {answer} is not in [0, {N_OPTIONS})")),
        }
    } else {
        TgifAnswer::Word(record.id("answer")?.to_owned())
    };
    Ok(TgifQuestion {
        gif: record.id("gif_name")?.to_owned(),
        question: record.text("question")?.to_owned(),
        answer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORD: &str = r#"{"gif_name": "g", "question": "q?", "answer": "two", "id": 3}"#;
    const CHOICE: &str = r#"{"gif_name": "g", "question": "q?", "answer": 4,
        "options": ["a", "b", "c", "d", "e"]}"#;

    fn read(text: &str) -> Result<TgifQuestions, DataError> {
        let bytes = text.as_bytes().to_vec();
        TgifQuestions::read(&TextFile::from_bytes(
            Path::new("a.jsonl"),
            "JSON lines",
            bytes,
        )?)
    }

    #[test]
    fn both_kinds_are_read() {
        let words = read(WORD).unwrap();
        assert_eq!(words.questions()[0].answer, TgifAnswer::Word("two".into()));
        let choices = read(&CHOICE.replace('\n', "")).unwrap();
        let TgifAnswer::Option { options, answer } = &choices.questions()[0].answer else {
            panic!("not a choice");
        };
        assert_eq!((options.len(), *answer), (5, 4));
    }

    #[test]
    fn bad_questions_are_errors_with_their_line() {
        let choice = CHOICE.replace('\n', "");
        let cases = [
            (
                format!("{WORD}\n{choice}"),
                "a.jsonl:2: item `line 2`: has options",
            ),
            (choice.replace("4", "5"), "answer 5 is not in [0, 5)"),
            (choice.replace("4", "-1"), "answer -1 is not in [0, 5)"),
            (
                choice.replace("\"a\", ", ""),
                "'options' has 4 texts, expected 5",
            ),
            (
                choice.replace("\"a\"", "1"),
                "'options' is a list, expected a list of",
            ),
            (
                WORD.replace("\"two\"", "2"),
                "'answer' is a number, expected a string",
            ),
            ("\n".to_owned(), "no questions"),
        ];
        for (text, message) in cases {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }
}
