//! VIOLET's files of one data set: extracted frames, visual tokens, captions or questions.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use ndarray::Axis;
use serde::{Deserialize, Serialize};

use super::clip_decoder::check_n_frames;
use super::set::{AnswerClasses, PixelSample, PixelSet, PixelTask, PixelText, beyond, positions};
use crate::caption_set::CaptionSet;
use crate::emoji_clips::Split;
use crate::error::DataError;
use crate::frame_cache::FrameCache;
use crate::video::{FrameRule, RgbFrame};
use crate::video_qa::{QuestionKind, VideoQa};
use crate::video_text_set::Draw;
use crate::visual_tokens::VisualTokens;
use crate::word_piece::WordPiece;

/// Where VIOLET's files of one data set are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VioletPaths {
    /// `img_{dataset}.pkl` or `img_{dataset}.tsv`.
    pub frames: PathBuf,
    /// `{dataset}_vq.pkl`; without it there are no visual tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visual_tokens: Option<PathBuf>,
    /// The texts.
    pub texts: VioletTexts,
}

/// VIOLET's files of texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum VioletTexts {
    /// Retrieval.
    Captions {
        /// `train_7k.json` or `train_9k.json`.
        train: PathBuf,
        /// The captions of the split `valid`; VIOLET takes `test.json` for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        valid: Option<PathBuf>,
        /// `test.json`.
        test: PathBuf,
    },
    /// Open-ended or multiple-choice questions: `txt_{dataset}.json`, which has all splits.
    Questions(PathBuf),
}

/// A data set in VIOLET's files.
///
/// | file | task | training items | evaluation items |
/// |---|---|---|---|
/// | `train_7k.json`, `train_9k.json`, `test.json` | retrieval | every caption | one a video |
/// | `txt_msvd-qa.json`, `txt_tgif-frame.json` | open-ended | every question | every question |
/// | `txt_tgif-action.json`, `txt_tgif-transition.json` | multiple choice | every question | every question |
///
/// For evaluation of retrieval the caption of a video is its last one, as in the released code,
/// which has one caption a video in its test. Training and evaluation draw the same frames: all
/// that the file has of a video, or the middles of equal parts if it has more than are asked for;
/// visual tokens are those of the same frames.
///
/// The compressed frames are kept in memory and decoded when a sample asks for them.
///
/// # References
///
/// - Reference code: `mlvlab/MELTR@669ad60` `violet/`.
#[derive(Clone, Debug)]
pub struct VioletFiles {
    label: PathBuf,
    frames: FrameCache,
    tokens: Option<VisualTokens>,
    n_frames: usize,
    word_piece: WordPiece,
    task: PixelTask,
    answers: AnswerClasses,
    items: Vec<Item>,
}

#[derive(Clone, Debug)]
struct Item {
    split: Split,
    video: String,
    text: PixelText,
}

impl VioletFiles {
    /// Reads the files; samples will have `n_frames` frames.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is absent, damaged or of another format, if a video of a caption
    /// or question has no frames, fewer than `n_frames`, or no visual tokens where there is a file
    /// of them, and if the numbers of frames and of their tokens differ.
    pub fn open(
        paths: &VioletPaths,
        word_piece: WordPiece,
        n_frames: usize,
    ) -> Result<Self, DataError> {
        let frames = FrameCache::open(&paths.frames)?;
        let tokens = paths
            .visual_tokens
            .as_deref()
            .map(VisualTokens::open)
            .transpose()?;
        if let Some(tokens) = &tokens {
            tokens.check_frames(&frames)?;
        }
        let texts = Texts::open(&paths.texts)?;
        check_n_frames(&texts.label, n_frames)?;
        let set = Self {
            label: texts.label,
            frames,
            tokens,
            n_frames,
            word_piece,
            task: texts.task,
            answers: texts.answers,
            items: texts.items,
        };
        set.check_videos()?;
        Ok(set)
    }

    /// The number of frames that the file has of a video.
    ///
    /// # Errors
    ///
    /// Returns an error if it has none.
    pub fn frames_of(&self, video: &str) -> Result<usize, DataError> {
        self.frames.n_frames(video)
    }

    /// Every video of the texts has its frames and tokens, so that no sample fails on the way.
    fn check_videos(&self) -> Result<(), DataError> {
        let mut seen: HashSet<&str> = HashSet::new();
        for item in &self.items {
            let video = item.video.as_str();
            if !seen.insert(video) {
                continue;
            }
            let found = self.frames.n_frames(video)?;
            if found < self.n_frames {
                let reason = format!("has {found} frames, `n_frames` is {}", self.n_frames);
                return Err(DataError::item(self.frames.path(), video, reason));
            }
            if let Some(tokens) = &self.tokens {
                tokens.n_frames(video)?;
            }
        }
        Ok(())
    }
}

impl PixelSet for VioletFiles {
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
        match self.items.get(index) {
            Some(item) => item.video.clone(),
            None => format!("item {index}"),
        }
    }

    fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        let splits = self.items.iter().map(|item| item.split);
        positions(&self.label, name, splits)
    }

    fn sample(&self, index: usize, _draw: Draw) -> Result<PixelSample, DataError> {
        let Some(item) = self.items.get(index) else {
            return Err(beyond(&self.label, index, self.items.len()));
        };
        let rule = FrameRule::Uniform {
            frames: self.n_frames,
        };
        let chosen = rule
            .indices(self.frames.n_frames(&item.video)?)
            .map_err(|kind| DataError::new(self.frames.path(), kind))?;
        let frames = chosen
            .iter()
            .map(|&frame| {
                let picture = self.frames.frame(&item.video, frame)?;
                let (height, width, _) = picture.dim();
                let samples = picture.into_iter().collect();
                RgbFrame::new(width as u32, height as u32, samples).ok_or_else(|| {
                    let item = format!("{}, frame {frame}", item.video);
                    DataError::item(self.frames.path(), item, "has no pixels")
                })
            })
            .collect::<Result<Vec<RgbFrame>, DataError>>()?;
        let visual_tokens = match &self.tokens {
            Some(tokens) => Some(tokens.tokens(&item.video)?.select(Axis(0), &chosen)),
            None => None,
        };
        Ok(PixelSample {
            id: index,
            frames,
            text: item.text.clone(),
            visual_tokens,
        })
    }
}

/// The texts of a data set.
struct Texts {
    label: PathBuf,
    task: PixelTask,
    answers: AnswerClasses,
    items: Vec<Item>,
}

impl Texts {
    fn open(texts: &VioletTexts) -> Result<Self, DataError> {
        match texts {
            VioletTexts::Captions { train, valid, test } => {
                let mut items = captions(Split::Train, train)?;
                if let Some(valid) = valid {
                    items.extend(last_captions(captions(Split::Valid, valid)?));
                }
                items.extend(last_captions(captions(Split::Test, test)?));
                Ok(Self {
                    label: train.clone(),
                    task: PixelTask::Retrieval,
                    answers: AnswerClasses::default(),
                    items,
                })
            }
            VioletTexts::Questions(path) => Ok(Self::questions(path, &VideoQa::open(path)?)),
        }
    }

    fn questions(path: &Path, qa: &VideoQa) -> Self {
        let mut items = Vec::new();
        for split in Split::ALL {
            for question in qa.questions(split) {
                let text = match qa.kind() {
                    QuestionKind::OpenEnded => PixelText::OpenQuestion {
                        question: question.question.to_owned(),
                        answer: Some(question.answer),
                    },
                    QuestionKind::MultipleChoice => PixelText::MultipleChoice {
                        question: question.question.to_owned(),
                        options: question
                            .options
                            .iter()
                            .map(|&option| option.to_owned())
                            .collect(),
                        answer: question.answer,
                    },
                };
                items.push(Item {
                    split,
                    video: question.video.to_owned(),
                    text,
                });
            }
        }
        let words = qa.vocabulary().into_iter().map(str::to_owned).collect();
        Self {
            label: path.to_path_buf(),
            task: match qa.kind() {
                QuestionKind::OpenEnded => PixelTask::OpenEnded,
                QuestionKind::MultipleChoice => PixelTask::MultipleChoice,
            },
            answers: AnswerClasses::listed(words),
            items,
        }
    }
}

/// Every caption of a file.
fn captions(split: Split, path: &Path) -> Result<Vec<Item>, DataError> {
    let set = CaptionSet::open_violet(path)?;
    Ok(set
        .pairs()
        .iter()
        .map(|pair| Item {
            split,
            video: pair.video_id.to_owned(),
            text: PixelText::Caption(pair.caption.to_owned()),
        })
        .collect())
}

/// The last caption of every video, the videos in the order of their first.
fn last_captions(captions: Vec<Item>) -> Vec<Item> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut last: Vec<Item> = Vec::new();
    for item in captions {
        match places.get(&item.video) {
            Some(&place) => last[place] = item,
            None => {
                places.insert(item.video.clone(), last.len());
                last.push(item);
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Cursor;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use tempfile::TempDir;

    use super::*;

    fn word_piece() -> WordPiece {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n";
        WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap()
    }

    /// A picture of 3 x 2 pixels of one gray level, as base64 JPEG.
    fn picture(level: u8) -> String {
        let image = image::RgbImage::from_pixel(3, 2, image::Rgb([level; 3]));
        let mut bytes = Cursor::new(Vec::new());
        image
            .write_to(&mut bytes, image::ImageFormat::Jpeg)
            .unwrap();
        STANDARD.encode(bytes.into_inner())
    }

    /// Video `v` has two frames, `w` four.
    fn folder() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let frames = [10, 90, 170, 250].map(picture);
        let table = format!("v\t{}\nw\t{}\n", frames[..2].join("\t"), frames.join("\t"));
        fs::write(folder.path().join("img.tsv"), table).unwrap();
        folder
    }

    fn open(
        folder: &TempDir,
        texts: VioletTexts,
        n_frames: usize,
    ) -> Result<VioletFiles, DataError> {
        let paths = VioletPaths {
            frames: folder.path().join("img.tsv"),
            visual_tokens: None,
            texts,
        };
        VioletFiles::open(&paths, word_piece(), n_frames)
    }

    fn written(folder: &TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn retrieval(folder: &TempDir) -> VioletTexts {
        let train = r#"{"sentences": [{"video_id": "v", "caption": "a"},
            {"video_id": "w", "caption": "b"}, {"video_id": "v", "caption": "a b"}]}"#;
        let test = r#"{"sentences": [{"video_id": "w", "caption": "a"},
            {"video_id": "v", "caption": "b"}, {"video_id": "w", "caption": "b a"}]}"#;
        VioletTexts::Captions {
            train: written(folder, "train.json", train),
            valid: None,
            test: written(folder, "test.json", test),
        }
    }

    fn levels(sample: &PixelSample) -> Vec<u8> {
        sample.frames.iter().map(|frame| frame.data()[0]).collect()
    }

    #[test]
    fn captions_are_items_for_training_and_the_last_of_each_video_for_evaluation() {
        let folder = folder();
        let set = open(&folder, retrieval(&folder), 2).unwrap();
        assert_eq!(set.task(), PixelTask::Retrieval);
        assert_eq!(set.split("train").unwrap(), [0, 1, 2]);
        assert_eq!(set.split("test").unwrap(), [3, 4]);
        assert!(set.split("valid").is_err() && set.answers().is_empty());
        let texts: Vec<(String, PixelText)> = (0..5)
            .map(|index| {
                let sample = set.sample(index, Draw::Training { seed: 1 }).unwrap();
                assert_eq!(sample, set.sample(index, Draw::Evaluation).unwrap());
                assert!(sample.visual_tokens.is_none());
                (set.item_name(index), sample.text)
            })
            .collect();
        let expected = [
            ("v", "a"),
            ("w", "b"),
            ("v", "a b"),
            ("w", "b a"),
            ("v", "b"),
        ];
        let expected = expected
            .map(|(video, caption)| (video.to_owned(), PixelText::Caption(caption.to_owned())));
        assert_eq!(texts, expected);
        let error = set.sample(5, Draw::Evaluation).unwrap_err().to_string();
        assert!(error.contains("the set has 5 items"), "{error}");
    }

    #[test]
    fn a_video_with_more_frames_than_asked_for_is_thinned() {
        let folder = folder();
        let set = open(&folder, retrieval(&folder), 2).unwrap();
        let all = set.sample(0, Draw::Evaluation).unwrap();
        assert_eq!((all.frames[0].width(), all.frames[0].height()), (3, 2));
        // Both of two frames; the middles 1 and 3 of the halves of four.
        let near = |found: Vec<u8>, expected: [u8; 2]| {
            let near = found.iter().zip(expected).all(|(&a, b)| a.abs_diff(b) <= 4);
            assert!(found.len() == 2 && near, "{found:?}");
        };
        near(levels(&all), [10, 90]);
        near(levels(&set.sample(1, Draw::Evaluation).unwrap()), [90, 250]);
        assert_eq!(set.frames_of("w").unwrap(), 4);
    }

    #[test]
    fn a_video_with_fewer_frames_or_none_is_refused_when_the_set_is_opened() {
        let folder = folder();
        let error = open(&folder, retrieval(&folder), 3)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("img.tsv: item `v`: has 2 frames, `n_frames` is 3"),
            "{error}"
        );
        let error = open(&folder, retrieval(&folder), 0)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`n_frames` is 0"), "{error}");
        let test = r#"{"sentences": [{"video_id": "x", "caption": "a"}]}"#;
        let texts = VioletTexts::Captions {
            train: written(&folder, "other.json", test),
            valid: None,
            test: written(&folder, "other.json", test),
        };
        let error = open(&folder, texts, 2).unwrap_err().to_string();
        assert!(
            error.contains("item `x`: is not among the 2 videos"),
            "{error}"
        );
    }

    #[test]
    fn questions_of_both_kinds_are_items() {
        let folder = folder();
        let text = r#"{"train": [{"video": "v", "question": "a", "answer": 1}],
            "test": [{"video": "w", "question": "b", "answer": 0}], "vocab": ["x", "y"]}"#;
        let texts = VioletTexts::Questions(written(&folder, "open.json", text));
        let set = open(&folder, texts, 2).unwrap();
        assert_eq!(set.task(), PixelTask::OpenEnded);
        assert_eq!(set.answers(), ["x", "y"]);
        assert_eq!(set.split("test").unwrap(), [1]);
        let expected = PixelText::OpenQuestion {
            question: "a".to_owned(),
            answer: Some(1),
        };
        assert_eq!(set.sample(0, Draw::Evaluation).unwrap().text, expected);

        let question = r#"{"video": "w", "question": "a", "answer": 4, "option_0": "p",
            "option_1": "q", "option_2": "r", "option_3": "s", "option_4": "t"}"#;
        let text = format!(r#"{{"train": [{question}], "test": [{question}]}}"#);
        let texts = VioletTexts::Questions(written(&folder, "choice.json", &text));
        let set = open(&folder, texts, 2).unwrap();
        assert_eq!(set.task(), PixelTask::MultipleChoice);
        assert!(set.answers().is_empty());
        let expected = PixelText::MultipleChoice {
            question: "a".to_owned(),
            options: ["p", "q", "r", "s", "t"].map(str::to_owned).to_vec(),
            answer: 4,
        };
        assert_eq!(set.sample(1, Draw::Evaluation).unwrap().text, expected);
    }

    #[test]
    fn paths_are_read_from_json() {
        let text = r#"{"frames": "img.pkl", "texts": {"captions": {"train": "a", "test": "b"}}}"#;
        let paths: VioletPaths = serde_json::from_str(text).unwrap();
        assert_eq!(paths.visual_tokens, None);
        assert!(matches!(
            paths.texts,
            VioletTexts::Captions { valid: None, .. }
        ));
        let other = text.replace("test", "tests");
        assert!(serde_json::from_str::<VioletPaths>(&other).is_err());
        let questions = r#"{"frames": "img.pkl", "texts": {"questions": "q.json"}}"#;
        let paths: VioletPaths = serde_json::from_str(questions).unwrap();
        assert_eq!(paths.texts, VioletTexts::Questions(PathBuf::from("q.json")));
    }
}
