//! MSVD-QA as All-in-one holds it: questions a line, the answers, the names of the videos.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::json_lists::read_lines;
use crate::text_file::{TextFile, excerpt, item_at_line};

/// One question of a `.jsonl` file of MSVD-QA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsvdQuestion {
    /// Number of the video, see [`MsvdNames`].
    pub video: u64,
    /// The question.
    pub question: String,
    /// The answer, one word.
    pub answer: String,
}

/// The questions of `train.jsonl`, `val.jsonl` or `test.jsonl` of MSVD-QA.
///
/// One object a line: `{"video_id": 1, "question": "..", "answer": "..", ..}`; blank lines and
/// further keys are skipped.
#[derive(Clone, Debug)]
pub struct MsvdQuestions {
    questions: Vec<MsvdQuestion>,
}

impl MsvdQuestions {
    /// Reads such a file.
    ///
    /// # Errors
    ///
    /// Returns an error with the line, if the file is absent, unreadable, not UTF-8, if a line is
    /// no JSON object, if a key is missing, occurs twice or is of another type, and if there is no
    /// question.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::read(&TextFile::open(path, "JSON lines")?)
    }

    fn read(file: &TextFile) -> Result<Self, DataError> {
        let mut questions = Vec::new();
        read_lines(file, &["video_id", "question", "answer"], |_, record| {
            let video = record.integer("video_id")?;
            let Ok(video) = u64::try_from(video) else {
                return Err(format!("'video_id' is {video}, expected 0 or more"));
            };
            questions.push(MsvdQuestion {
                video,
                question: record.text("question")?.to_owned(),
                answer: record.id("answer")?.to_owned(),
            });
            Ok(())
        })?;
        if questions.is_empty() {
            return Err(file.refuse("no questions"));
        }
        Ok(Self { questions })
    }

    /// The questions in the order of the file, at least one.
    #[must_use]
    pub fn questions(&self) -> &[MsvdQuestion] {
        &self.questions
    }
}

/// The answers that are classes, one a line: `msvd_answer_set.txt`.
///
/// The class of an answer is its line, counted from 0.
#[derive(Clone, Debug)]
pub struct AnswerSet {
    answers: Vec<String>,
    labels: HashMap<String, usize>,
}

impl AnswerSet {
    /// Reads such a file.
    ///
    /// # Errors
    ///
    /// Returns an error, with the line where there is one, if the file is absent, unreadable, not
    /// UTF-8 or empty, if a line is blank, which would shift the classes behind it, and if an
    /// answer occurs twice.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::read(&TextFile::open(path, "list of answers")?)
    }

    fn read(file: &TextFile) -> Result<Self, DataError> {
        let mut set = Self {
            answers: Vec::new(),
            labels: HashMap::new(),
        };
        for (label, text) in file.text().lines().enumerate() {
            let answer = text.trim();
            if answer.is_empty() {
                return Err(file.fault_in_line(label + 1, "blank line among the answers"));
            }
            if let Some(first) = set.labels.insert(answer.to_owned(), label) {
                let reason = format!("already is in line {}", first + 1);
                return Err(item_at_line(
                    file.path(),
                    label + 1,
                    excerpt(answer),
                    reason,
                ));
            }
            set.answers.push(answer.to_owned());
        }
        Ok(set)
    }

    /// The answers by class.
    #[must_use]
    pub fn answers(&self) -> &[String] {
        &self.answers
    }

    /// The class of an answer; `None` if it is not in the set.
    ///
    /// All-in-one gives such a question the class -100, which its loss and its accuracy leave out.
    #[must_use]
    pub fn label(&self, answer: &str) -> Option<usize> {
        self.labels.get(answer).copied()
    }
}

/// The names of the videos by number: `msvd_youtube_mapping.txt`.
///
/// One video a line, `<name> vid<number>`; blank lines are skipped. The published file has 1970.
#[derive(Clone, Debug)]
pub struct MsvdNames {
    path: PathBuf,
    names: HashMap<u64, String>,
}

impl MsvdNames {
    /// Reads such a file.
    ///
    /// # Errors
    ///
    /// Returns an error, with the line where there is one, if the file is absent, unreadable, not
    /// UTF-8 or without any video, if a line is not of this form, and if a number or a name occurs
    /// twice.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::read(&TextFile::open(path, "list of names")?)
    }

    fn read(file: &TextFile) -> Result<Self, DataError> {
        let mut names: HashMap<u64, String> = HashMap::new();
        let mut number_lines: HashMap<u64, usize> = HashMap::new();
        let mut name_lines: HashMap<&str, usize> = HashMap::new();
        for (index, text) in file.text().lines().enumerate() {
            let line = index + 1;
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let Some((name, number)) = name_and_number(text) else {
                let reason = "expected a name, a blank and `vid` with a number";
                return Err(item_at_line(file.path(), line, excerpt(text), reason));
            };
            let first_number = number_lines.insert(number, line);
            let first_name = name_lines.insert(name, line);
            if let Some(first) = first_number.or(first_name) {
                let reason = format!("its name or number already is in line {first}");
                return Err(item_at_line(file.path(), line, excerpt(text), reason));
            }
            names.insert(number, name.to_owned());
        }
        if names.is_empty() {
            return Err(file.refuse("no videos"));
        }
        Ok(Self {
            path: file.path().to_owned(),
            names,
        })
    }

    /// Number of videos, at least 1.
    #[must_use]
    pub fn n_videos(&self) -> usize {
        self.names.len()
    }

    /// The name of the video of a question.
    ///
    /// # Errors
    ///
    /// Returns an error if the file has no such number.
    pub fn name(&self, video: u64) -> Result<&str, DataError> {
        match self.names.get(&video) {
            Some(name) => Ok(name),
            None => {
                let reason = format!("not among the {} videos", self.names.len());
                Err(DataError::item(&self.path, format!("vid{video}"), reason))
            }
        }
    }
}

fn name_and_number(text: &str) -> Option<(&str, u64)> {
    let (name, code) = text.rsplit_once(char::is_whitespace)?;
    let digits = code.strip_prefix("vid")?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((name.trim_end(), digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> TextFile {
        TextFile::from_bytes(Path::new("a.txt"), "list", text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn answers_have_the_class_of_their_line() {
        let set = AnswerSet::read(&file("bowl\r\nice cream\n")).unwrap();
        assert_eq!(set.answers(), ["bowl", "ice cream"]);
        assert_eq!(set.label("ice cream"), Some(1));
        assert_eq!(set.label("ice"), None);
    }

    #[test]
    fn blank_lines_and_duplicates_among_answers_are_errors() {
        for (text, message) in [
            ("a\n\nb\n", "a.txt:2: not a valid list file: blank line"),
            ("a\nb\na\n", "a.txt:3: item `a`: already is in line 1"),
        ] {
            let error = AnswerSet::read(&file(text)).unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }

    #[test]
    fn videos_have_names() {
        let names = MsvdNames::read(&file("abc_1_2 vid1\n\nx  vid10\n")).unwrap();
        assert_eq!(names.name(1).unwrap(), "abc_1_2");
        assert_eq!(names.name(10).unwrap(), "x");
        assert_eq!(names.n_videos(), 2);
        let error = names.name(2).unwrap_err().to_string();
        assert!(
            error.contains("item `vid2`: not among the 2 videos"),
            "{error}"
        );
    }

    #[test]
    fn bad_lists_of_names_are_errors_with_their_line() {
        let cases = [
            ("a vid1\nb\n", "a.txt:2: item `b`: expected a name"),
            ("a vid\n", "a.txt:1: item `a vid`"),
            ("a vid-1\n", "a.txt:1:"),
            ("a vid99999999999999999999\n", "a.txt:1:"),
            (
                "a vid1\nb vid1\n",
                "a.txt:2: item `b vid1`: its name or number already is in line 1",
            ),
            ("a vid1\na vid2\n", "a.txt:2:"),
            ("\n", "no videos"),
        ];
        for (text, message) in cases {
            let error = MsvdNames::read(&file(text)).unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }

    #[test]
    fn questions_are_read_by_line() {
        let text = "{\"answer\": \"cat\", \"question\": \"what?\", \"video_id\": 7, \"id\": 0}\n";
        let questions = MsvdQuestions::read(&file(text)).unwrap();
        let expected = MsvdQuestion {
            video: 7,
            question: "what?".into(),
            answer: "cat".into(),
        };
        assert_eq!(questions.questions(), [expected]);
        for (text, message) in [
            (
                text.replace('7', "-7"),
                "a.txt:1: item `line 1`: 'video_id' is -7",
            ),
            (text.replace("cat", " "), "'answer' is blank"),
            (text.replace("\"question\"", "\"q\""), "'question' missing"),
            ("\n".to_owned(), "no questions"),
        ] {
            let error = MsvdQuestions::read(&file(&text)).unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }
}
