//! All-in-one's files of MSR-VTT, MSVD-QA and TGIF-QA, with videos decoded on demand.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::clip_decoder::{ClipDecoder, FrameDecoding, Span};
use super::set::{
    AnswerClasses, FRAME_STREAM, PixelSample, PixelSet, PixelTask, PixelText, TEXT_STREAM, beyond,
    choose_caption, item_draw, positions,
};
use crate::caption_set::CaptionSet;
use crate::emoji_clips::Split;
use crate::error::DataError;
use crate::id_list::IdList;
use crate::inspect::short_repr;
use crate::msvd::{AnswerSet, MsvdNames, MsvdQuestions};
use crate::pickle::{Pickle, Value};
use crate::tgif::{TgifAnswer, TgifQuestions};
use crate::video_text_set::Draw;
use crate::word_piece::WordPiece;

/// Where All-in-one's files of one data set are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllInOnePaths {
    /// The folder of the videos.
    pub videos: PathBuf,
    /// The texts.
    pub texts: AllInOneTexts,
}

/// All-in-one's files of texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AllInOneTexts {
    /// Retrieval on MSR-VTT; videos are `{id}.mp4`.
    Msrvtt {
        /// `MSR_VTT.json`.
        annotations: PathBuf,
        /// `train_list_7k.txt` or `train_list_9k.txt`.
        train: PathBuf,
        /// The list of the split `valid`, evaluated on the first caption; All-in-one takes the
        /// test for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        valid: Option<PathBuf>,
        /// `val_list_jsfusion.txt`.
        test: PathBuf,
        /// `jsfusion_val_caption_idx.pkl`: which caption of a test video counts.
        test_captions: PathBuf,
    },
    /// Open-ended questions on MSVD; videos are `{name}.avi`.
    Msvd {
        /// `train.jsonl`.
        train: PathBuf,
        /// `val.jsonl`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        valid: Option<PathBuf>,
        /// `test.jsonl`.
        test: PathBuf,
        /// `msvd_answer_set.txt`.
        answers: PathBuf,
        /// `msvd_youtube_mapping.txt`.
        names: PathBuf,
    },
    /// Questions on TGIF, open-ended or multiple-choice; videos are `{gif_name}.gif`.
    Tgif {
        /// The questions for training, a `.jsonl` file.
        train: PathBuf,
        /// Those of the split `valid`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        valid: Option<PathBuf>,
        /// Those of the test.
        test: PathBuf,
        /// The answers that are classes, one a line; without it, those of the training questions
        /// by falling frequency.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answers: Option<PathBuf>,
    },
}

/// A data set in All-in-one's files.
///
/// | set | task | items | text |
/// |---|---|---|---|
/// | MSR-VTT | retrieval | videos | training: one of its captions at random; test: a given one |
/// | MSVD-QA, TGIF-QA `frame` | open-ended | questions | the question |
/// | TGIF-QA `action`, `transition` | multiple choice | questions | the question with 5 options |
///
/// A test video of MSR-VTT has its given caption however it is drawn, so that several draws with
/// seeds give the views of its frames that All-in-one averages. An answer that is no class is kept
/// as a question without known answer. Where All-in-one takes another sample in place of a video
/// that cannot be read or is too short, this is an error.
///
/// # References
///
/// - Reference code: `mlvlab/MELTR@669ad60` `allinone/`.
#[derive(Debug)]
pub struct AllInOneFiles {
    label: PathBuf,
    word_piece: WordPiece,
    task: PixelTask,
    answers: AnswerClasses,
    items: Vec<Item>,
    decoder: ClipDecoder,
}

#[derive(Clone, Debug)]
struct Item {
    split: Split,
    video: PathBuf,
    text: ItemText,
}

#[derive(Clone, Debug)]
enum ItemText {
    /// One of these is drawn.
    Captions(Vec<String>),
    Fixed(PixelText),
}

impl AllInOneFiles {
    /// Reads the files; videos are decoded when a sample asks for them.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is absent, damaged or of another format, if a video of the texts
    /// is not there, if a setting of `decoding` is not admissible, and if its decoder cannot be
    /// used.
    pub fn open(
        paths: &AllInOnePaths,
        word_piece: WordPiece,
        decoding: FrameDecoding,
    ) -> Result<Self, DataError> {
        let texts = match &paths.texts {
            AllInOneTexts::Msrvtt {
                annotations,
                train,
                valid,
                test,
                test_captions,
            } => {
                let captions = CaptionSet::open_all_in_one(annotations)?;
                let mut texts = Texts::new(annotations, PixelTask::Retrieval);
                texts.add_lists(&paths.videos, &captions, train, valid.as_deref())?;
                texts.add_test(&paths.videos, &captions, test, test_captions)?;
                texts
            }
            AllInOneTexts::Msvd {
                train,
                valid,
                test,
                answers,
                names,
            } => {
                let classes = AnswerSet::open(answers)?.answers().to_vec();
                let mut texts = Texts::new(train, PixelTask::OpenEnded);
                texts.answers = AnswerClasses::listed(classes);
                let names = MsvdNames::open(names)?;
                for (split, file) in splits(train, valid.as_deref(), test) {
                    texts.add_msvd(&paths.videos, &names, split, file)?;
                }
                texts
            }
            AllInOneTexts::Tgif {
                train,
                valid,
                test,
                answers,
            } => Texts::tgif(
                &paths.videos,
                splits(train, valid.as_deref(), test),
                answers.as_deref(),
            )?,
        };
        texts.check_videos(&paths.videos)?;
        Ok(Self {
            decoder: ClipDecoder::open(&texts.label, decoding)?,
            label: texts.label,
            word_piece,
            task: texts.task,
            answers: texts.answers,
            items: texts.items,
        })
    }

    /// The file of the video of an item, `None` behind the last.
    #[must_use]
    pub fn video(&self, index: usize) -> Option<&Path> {
        self.items.get(index).map(|item| item.video.as_path())
    }
}

impl PixelSet for AllInOneFiles {
    fn label(&self) -> &Path {
        &self.label
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
        let stem = self.video(index).and_then(Path::file_stem);
        match stem {
            Some(stem) => stem.to_string_lossy().into_owned(),
            None => format!("item {index}"),
        }
    }

    fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        let splits = self.items.iter().map(|item| item.split);
        positions(&self.label, name, splits)
    }

    fn sample(&self, index: usize, draw: Draw) -> Result<PixelSample, DataError> {
        let Some(item) = self.items.get(index) else {
            return Err(beyond(&self.label, index, self.items.len()));
        };
        let text = match &item.text {
            ItemText::Fixed(text) => text.clone(),
            ItemText::Captions(captions) => {
                let draw = item_draw(draw, index, TEXT_STREAM);
                let caption = choose_caption(captions, draw).ok_or_else(|| {
                    DataError::item(&self.label, self.item_name(index), "has no caption")
                })?;
                PixelText::Caption(caption.clone())
            }
        };
        let draw = item_draw(draw, index, FRAME_STREAM);
        Ok(PixelSample {
            id: index,
            frames: self.decoder.frames(&item.video, Span::WHOLE, draw)?,
            text,
            visual_tokens: None,
        })
    }
}

/// The texts of a data set, with the files of their videos.
struct Texts {
    label: PathBuf,
    task: PixelTask,
    answers: AnswerClasses,
    items: Vec<Item>,
}

impl Texts {
    fn new(label: &Path, task: PixelTask) -> Self {
        Self {
            label: label.to_path_buf(),
            task,
            answers: AnswerClasses::default(),
            items: Vec::new(),
        }
    }

    /// The videos of the lists for training and validation, each with all its captions.
    fn add_lists(
        &mut self,
        videos: &Path,
        captions: &CaptionSet,
        train: &Path,
        valid: Option<&Path>,
    ) -> Result<(), DataError> {
        let lists = [(Split::Train, Some(train)), (Split::Valid, valid)];
        for (split, list) in lists {
            let Some(list) = list else {
                continue;
            };
            let list = IdList::open(list)?;
            for (number, id) in list.ids().iter().enumerate() {
                let texts = captions.captions_of(id);
                if texts.is_empty() {
                    let reason = format!("has no caption in {}", captions.path().display());
                    return Err(list.unknown(number, &reason));
                }
                self.items.push(Item {
                    split,
                    video: video_file(videos, id, "mp4"),
                    text: ItemText::Captions(texts.into_iter().map(str::to_owned).collect()),
                });
            }
        }
        Ok(())
    }

    /// The videos of the test, each with the caption that counts.
    fn add_test(
        &mut self,
        videos: &Path,
        captions: &CaptionSet,
        list: &Path,
        choices: &Path,
    ) -> Result<(), DataError> {
        let numbers = caption_numbers(choices)?;
        let list = IdList::open(list)?;
        for (place, id) in list.ids().iter().enumerate() {
            let Some(&number) = numbers.get(id) else {
                let reason = format!("is not in {}", choices.display());
                return Err(list.unknown(place, &reason));
            };
            let texts = captions.captions_of(id);
            let Some(&caption) = texts.get(number) else {
                let reason = format!(
                    "is to have caption {number}, counted from 0, but {} has {} of it",
                    captions.path().display(),
                    texts.len()
                );
                return Err(DataError::item(choices, id.as_str(), reason));
            };
            self.items.push(Item {
                split: Split::Test,
                video: video_file(videos, id, "mp4"),
                text: ItemText::Fixed(PixelText::Caption(caption.to_owned())),
            });
        }
        Ok(())
    }

    fn add_msvd(
        &mut self,
        videos: &Path,
        names: &MsvdNames,
        split: Split,
        file: &Path,
    ) -> Result<(), DataError> {
        for question in MsvdQuestions::open(file)?.questions() {
            let name = names.name(question.video)?;
            self.items.push(Item {
                split,
                video: video_file(videos, name, "avi"),
                text: ItemText::Fixed(PixelText::OpenQuestion {
                    question: question.question.clone(),
                    answer: self.answers.class(&question.answer),
                }),
            });
        }
        Ok(())
    }

    fn tgif(
        videos: &Path,
        files: Vec<(Split, &Path)>,
        answers: Option<&Path>,
    ) -> Result<Self, DataError> {
        let mut parts: Vec<(Split, &Path, TgifQuestions)> = Vec::with_capacity(files.len());
        for (split, file) in files {
            parts.push((split, file, TgifQuestions::open(file)?));
        }
        // `splits` puts training first.
        let (label, is_choice) = match parts.first() {
            Some((_, file, questions)) => (*file, has_options(questions)),
            None => (videos, false),
        };
        let task = if is_choice {
            PixelTask::MultipleChoice
        } else {
            PixelTask::OpenEnded
        };
        let mut texts = Self::new(label, task);
        for (_, file, questions) in &parts {
            if has_options(questions) != is_choice {
                let reason = format!("its questions are not {task} as those of the training");
                return Err(DataError::item(file, "questions", reason));
            }
        }
        texts.answers = match answers {
            _ if is_choice => AnswerClasses::default(),
            Some(file) => AnswerClasses::listed(AnswerSet::open(file)?.answers().to_vec()),
            None => {
                let training = parts.iter().filter(|part| part.0 == Split::Train);
                let questions = training.flat_map(|part| part.2.questions());
                AnswerClasses::counted(questions.filter_map(|question| match &question.answer {
                    TgifAnswer::Word(word) => Some(word.as_str()),
                    TgifAnswer::Option { .. } => None,
                }))
            }
        };
        for (split, _, questions) in &parts {
            for question in questions.questions() {
                let text = match &question.answer {
                    TgifAnswer::Word(word) => PixelText::OpenQuestion {
                        question: question.question.clone(),
                        answer: texts.answers.class(word),
                    },
                    TgifAnswer::Option { options, answer } => PixelText::MultipleChoice {
                        question: question.question.clone(),
                        options: options.clone(),
                        answer: *answer,
                    },
                };
                texts.items.push(Item {
                    split: *split,
                    video: video_file(videos, &question.gif, "gif"),
                    text: ItemText::Fixed(text),
                });
            }
        }
        Ok(texts)
    }

    /// Every video is there, so that no sample fails on the way for the lack of one.
    fn check_videos(&self, folder: &Path) -> Result<(), DataError> {
        let mut seen: HashSet<&Path> = HashSet::new();
        let mut absent: Vec<&Path> = Vec::new();
        for item in &self.items {
            if seen.insert(&item.video) && !item.video.exists() {
                absent.push(&item.video);
            }
        }
        let Some(first) = absent.first() else {
            return Ok(());
        };
        let reason = format!(
            "no such file, as {} of the {} videos of {}",
            absent.len(),
            seen.len(),
            self.label.display()
        );
        let name = first.strip_prefix(folder).unwrap_or(first);
        Err(DataError::item(folder, name.display().to_string(), reason))
    }
}

/// The files of all splits, training first.
fn splits<'a>(train: &'a Path, valid: Option<&'a Path>, test: &'a Path) -> Vec<(Split, &'a Path)> {
    let mut files = vec![(Split::Train, train)];
    files.extend(valid.map(|valid| (Split::Valid, valid)));
    files.push((Split::Test, test));
    files
}

fn video_file(folder: &Path, name: &str, extension: &str) -> PathBuf {
    folder.join(format!("{name}.{extension}"))
}

/// A file is of one kind, so that the first question tells.
fn has_options(questions: &TgifQuestions) -> bool {
    let first = questions.questions().first();
    first.is_some_and(|question| matches!(question.answer, TgifAnswer::Option { .. }))
}

/// The number of a caption for every video, as `jsfusion_val_caption_idx.pkl` has it.
fn caption_numbers(path: &Path) -> Result<HashMap<String, usize>, DataError> {
    let pickle = Pickle::open(path)?;
    let root = pickle.root();
    let Value::Dict(entries) = root.value() else {
        let reason = format!("is a {}, expected a dict of id to number", root.kind());
        return Err(DataError::item(path, "top level", reason));
    };
    let mut numbers: HashMap<String, usize> = HashMap::new();
    for (key, item) in entries {
        let Some(id) = key.text() else {
            let reason = format!("is a {}, expected a text id", key.kind());
            return Err(DataError::item(
                path,
                format!("key {}", short_repr(key)),
                reason,
            ));
        };
        let number = item.int().and_then(|number| usize::try_from(number).ok());
        let Some(number) = number else {
            let reason = format!("is {}, expected a number of at least 0", short_repr(item));
            return Err(DataError::item(path, id, reason));
        };
        if numbers.insert(id.to_owned(), number).is_some() {
            return Err(DataError::item(path, id, "occurs twice"));
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::pixels::set::FrameChoice;

    fn word_piece() -> WordPiece {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n";
        WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap()
    }

    fn written(folder: &TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn tgif(folder: &TempDir, train: &str, test: &str) -> Result<Texts, DataError> {
        let train = written(folder, "train.jsonl", train);
        let test = written(folder, "test.jsonl", test);
        Texts::tgif(folder.path(), splits(&train, None, &test), None)
    }

    fn word(gif: &str, answer: &str) -> String {
        format!("{{\"gif_name\": \"{gif}\", \"question\": \"a\", \"answer\": \"{answer}\"}}\n")
    }

    fn choice(gif: &str) -> String {
        format!(
            "{{\"gif_name\": \"{gif}\", \"question\": \"a\", \"answer\": 2, \
             \"options\": [\"p\", \"q\", \"r\", \"s\", \"t\"]}}\n"
        )
    }

    /// Captions of three videos, of which `c` has none that a list may ask for.
    fn msrvtt(folder: &TempDir, train: &str, test: &str) -> Result<Texts, DataError> {
        let annotations = r#"{"annotations": [{"image_id": "a", "caption": "a1"},
            {"image_id": "b", "caption": "b1"}, {"image_id": "a", "caption": "a2"}]}"#;
        let annotations = written(folder, "captions.json", annotations);
        let captions = CaptionSet::open_all_in_one(&annotations)?;
        // {"b": 0, "a": 2} by `pickle.dumps(.., 0)`.
        let choices = written(folder, "choice.pkl", "(dVb\nI0\nsVa\nI2\ns.");
        let train = written(folder, "train.txt", train);
        let test = written(folder, "test.txt", test);
        let mut texts = Texts::new(&annotations, PixelTask::Retrieval);
        texts.add_lists(folder.path(), &captions, &train, None)?;
        texts.add_test(folder.path(), &captions, &test, &choices)?;
        Ok(texts)
    }

    #[test]
    fn videos_of_msr_vtt_have_all_captions_for_training_and_one_for_the_test() {
        let folder = tempfile::tempdir().unwrap();
        let texts = msrvtt(&folder, "a\n", "b\n").unwrap();
        let [train, test] = texts.items.as_slice() else {
            panic!("not two items");
        };
        assert_eq!(train.video, folder.path().join("a.mp4"));
        assert!(matches!(&train.text, ItemText::Captions(all) if all == &["a1", "a2"]));
        assert_eq!((train.split, test.split), (Split::Train, Split::Test));
        let expected = PixelText::Caption("b1".to_owned());
        assert!(matches!(&test.text, ItemText::Fixed(text) if *text == expected));
    }

    #[test]
    fn lists_and_captions_that_do_not_fit_together_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            (("c\n", "b\n"), "train.txt:1: item `c`: has no caption in"),
            (("a\n", "b\nc\n"), "test.txt:2: item `c`: is not in"),
            (("b\n", "a\n"), "item `a`: is to have caption 2"),
        ];
        for ((train, test), message) in cases {
            let error = msrvtt(&folder, train, test).map(|_| ()).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
        let negative = written(&folder, "negative.pkl", "(dVa\nI-1\ns.");
        let error = caption_numbers(&negative).unwrap_err().to_string();
        assert!(error.contains("item `a`: is -1"), "{error}");
        let list = written(&folder, "list.pkl", "(lI1\na.");
        let error = caption_numbers(&list).unwrap_err().to_string();
        assert!(error.contains("is a list, expected a dict"), "{error}");
    }

    #[test]
    fn words_of_the_training_are_the_classes_of_tgif() {
        let folder = tempfile::tempdir().unwrap();
        let train = [word("g", "one"), word("h", "two"), word("g", "two")].concat();
        let texts = tgif(&folder, &train, &word("i", "three")).unwrap();
        assert_eq!(texts.task, PixelTask::OpenEnded);
        assert_eq!(texts.answers.names(), ["two", "one"]);
        let answers: Vec<Option<usize>> = texts
            .items
            .iter()
            .map(|item| match &item.text {
                ItemText::Fixed(PixelText::OpenQuestion { answer, .. }) => *answer,
                _ => panic!("another kind of text"),
            })
            .collect();
        assert_eq!(answers, [Some(1), Some(0), Some(0), None]);
        assert_eq!(texts.items[3].split, Split::Test);
        let error = texts.check_videos(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("item `g.gif`: no such file, as 3 of the 3 videos"),
            "{error}"
        );
    }

    #[test]
    fn options_of_tgif_are_multiple_choice_and_kinds_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let texts = tgif(&folder, &choice("g"), &choice("h")).unwrap();
        assert_eq!(texts.task, PixelTask::MultipleChoice);
        assert!(texts.answers.names().is_empty());
        let ItemText::Fixed(PixelText::MultipleChoice {
            options, answer, ..
        }) = &texts.items[0].text
        else {
            panic!("another kind of text");
        };
        assert_eq!((options.len(), *answer), (5, 2));
        let error = tgif(&folder, &choice("g"), &word("h", "one")).map(|_| ());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("not multiple_choice"), "{error}");
    }

    #[test]
    fn answers_of_msvd_outside_the_set_have_no_class() {
        let folder = tempfile::tempdir().unwrap();
        let names = MsvdNames::open(&written(&folder, "names.txt", "abc_1_2 vid7\n")).unwrap();
        let questions = "{\"video_id\": 7, \"question\": \"a\", \"answer\": \"cat\"}\n\
                         {\"video_id\": 7, \"question\": \"b\", \"answer\": \"cow\"}\n";
        let file = written(&folder, "train.jsonl", questions);
        let mut texts = Texts::new(&file, PixelTask::OpenEnded);
        texts.answers = AnswerClasses::listed(vec!["dog".to_owned(), "cat".to_owned()]);
        texts
            .add_msvd(folder.path(), &names, Split::Train, &file)
            .unwrap();
        let expected = [Some(1), None];
        for (item, expected) in texts.items.iter().zip(expected) {
            assert_eq!(item.video, folder.path().join("abc_1_2.avi"));
            let ItemText::Fixed(PixelText::OpenQuestion { answer, .. }) = &item.text else {
                panic!("another kind of text");
            };
            assert_eq!(*answer, expected);
        }
    }

    #[test]
    fn a_set_without_its_videos_is_refused_before_a_decoder_is_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let paths = AllInOnePaths {
            videos: folder.path().to_path_buf(),
            texts: AllInOneTexts::Tgif {
                train: written(&folder, "train.jsonl", &choice("g")),
                valid: None,
                test: written(&folder, "test.jsonl", &choice("g")),
                answers: None,
            },
        };
        let decoding = FrameDecoding::new(3, FrameChoice::AllInOne);
        let error = AllInOneFiles::open(&paths, word_piece(), decoding).unwrap_err();
        assert!(
            error.to_string().contains("as 1 of the 1 videos"),
            "{error}"
        );
    }

    #[test]
    fn paths_are_read_from_json() {
        let text = r#"{"videos": "v", "texts": {"tgif": {"train": "a", "test": "b"}}}"#;
        let paths: AllInOnePaths = serde_json::from_str(text).unwrap();
        assert!(matches!(
            paths.texts,
            AllInOneTexts::Tgif {
                valid: None,
                answers: None,
                ..
            }
        ));
        assert!(serde_json::from_str::<AllInOnePaths>(&text.replace("tgif", "gif")).is_err());
    }
}
