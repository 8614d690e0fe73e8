//! The raw frames of the embedded clips, with captions and questions made of their names.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use image::{ImageFormat, imageops};
use serde::{Deserialize, Serialize};

use super::clip_decoder::check_n_frames;
use super::set::{
    AnswerClasses, FRAME_STREAM, FrameChoice, OPTION_STREAM, PixelSample, PixelSet, PixelTask,
    PixelText, TEXT_STREAM, beyond, item_draw, positions,
};
use crate::emoji_clips::{Clip, ClipText, EmojiClips, KeywordUse, Split, parse_sums, verify};
use crate::error::DataError;
use crate::seed::{RandomStream, seed_for};
use crate::video::RgbFrame;
use crate::video_text_set::Draw;
use crate::word_piece::{WordPiece, utf8};

const STRIPS: &str = "strips64.tar";
const SUMS: &str = "SHA256SUMS";

/// The question about the group of a clip.
const GROUP_QUESTION: &str = "what class is this";

/// The question about the subgroup of a clip.
const SUBGROUP_QUESTION: &str = "what sort is this";

/// The question whose options are names.
const NAME_QUESTION: &str = "what is this";

/// Options of a multiple-choice question.
const N_OPTIONS: usize = 5;

/// Wrong options of the group of the right one.
const N_NEAR: usize = 2;

/// What is made of the embedded clips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmojiFramesConfig {
    /// The task.
    pub task: PixelTask,
    /// Frames of a sample `T`, of the 8 that a clip has.
    pub n_frames: usize,
    /// Which ones.
    pub choice: FrameChoice,
    /// How a clip is put into words, for retrieval.
    pub text: ClipText,
    /// Seed of the wrong options of evaluation, for multiple choice.
    #[serde(default)]
    pub option_seed: u64,
}

/// The clips of [`EmojiClips`] as frames of 64 x 64 pixels.
///
/// A clip is a strip: 8 evenly spaced frames side by side in one picture, on white. It is
/// decompressed when a sample asks for it, in about a millisecond.
///
/// | task | items | text | answer |
/// |---|---|---|---|
/// | retrieval | one a clip | the name, with keywords as configured | |
/// | open-ended | two a clip | `what class is this` | the group, such as `travel & places` |
/// | | | `what sort is this` | the subgroup, such as `weather` |
/// | multiple choice | one a clip | `what is this` | its name among four others |
///
/// The words of the questions are such that the embedded vocabulary spells them. The classes of
/// open-ended answers are the groups and subgroups of the training split, by falling number of
/// clips; a clip of another split whose subgroup is none of them has no class. Of the four wrong
/// names two are of the same group and another subgroup, if there are two, the others of other
/// groups, all of the same split; they and the order of all five are drawn from a seed, which for
/// evaluation is [`option_seed`](EmojiFramesConfig::option_seed).
///
/// Splits are those of [`EmojiClips`].
#[derive(Clone, Debug)]
pub struct EmojiFrames {
    path: PathBuf,
    clips: EmojiClips,
    /// WebP files, one for each clip.
    strips: Vec<Vec<u8>>,
    word_piece: WordPiece,
    config: EmojiFramesConfig,
    answers: AnswerClasses,
}

impl EmojiFrames {
    /// The set that is compiled into this crate; its checksums are verified.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is not admissible, or if the crate was built from damaged
    /// files.
    pub fn embedded(config: EmojiFramesConfig) -> Result<Self, DataError> {
        let clips = EmojiClips::embedded()?;
        let folder = clips.path().to_path_buf();
        let sums = include_bytes!("../../assets/emoji-clips/SHA256SUMS");
        let archive = include_bytes!("../../assets/emoji-clips/strips64.tar");
        Self::from_files(&folder, clips, sums, archive, config)
    }

    /// Reads a set of the same format from a folder: the files of [`EmojiClips::open`] and
    /// `strips64.tar`, one `CODE.webp` for each clip, as many frames side by side as the picture
    /// is wider than high.
    ///
    /// # Errors
    ///
    /// As [`embedded`](Self::embedded), and as [`EmojiClips::open`]; also if a clip has no strip
    /// or two.
    pub fn open(folder: &Path, config: EmojiFramesConfig) -> Result<Self, DataError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|source| DataError::reading(&path, source))
        };
        let clips = EmojiClips::open(folder)?;
        Self::from_files(folder, clips, &read(SUMS)?, &read(STRIPS)?, config)
    }

    fn from_files(
        folder: &Path,
        clips: EmojiClips,
        sums: &[u8],
        archive: &[u8],
        config: EmojiFramesConfig,
    ) -> Result<Self, DataError> {
        let sums_path = folder.join(SUMS);
        let sums = parse_sums(&sums_path, utf8(&sums_path, sums)?)?;
        verify(folder, &sums, STRIPS, archive)?;
        let path = folder.join(STRIPS);
        let strips = read_strips(&path, archive, clips.clips())?;
        Self::from_strips(path, clips, strips, config)
    }

    fn from_strips(
        path: PathBuf,
        clips: EmojiClips,
        strips: Vec<Vec<u8>>,
        config: EmojiFramesConfig,
    ) -> Result<Self, DataError> {
        check_n_frames(&path, config.n_frames)?;
        let answers = match config.task {
            PixelTask::OpenEnded => {
                let training = clips
                    .clips()
                    .iter()
                    .filter(|clip| clip.split == Split::Train);
                AnswerClasses::counted(
                    training.flat_map(|clip| [clip.group.as_str(), clip.subgroup.as_str()]),
                )
            }
            PixelTask::Retrieval | PixelTask::MultipleChoice => AnswerClasses::default(),
        };
        Ok(Self {
            path,
            word_piece: clips.word_piece().clone(),
            clips,
            strips,
            config,
            answers,
        })
    }

    /// The same set with another tokenizer, such as that of published weights.
    #[must_use]
    pub fn with_word_piece(self, word_piece: WordPiece) -> Self {
        Self { word_piece, ..self }
    }

    /// The clips.
    #[must_use]
    pub fn clips(&self) -> &EmojiClips {
        &self.clips
    }

    /// All frames of a clip, by its position in [`EmojiClips::clips`].
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such clip, or if its strip is damaged.
    pub fn frames(&self, clip: usize) -> Result<Vec<RgbFrame>, DataError> {
        match (self.clips.clips().get(clip), self.strips.get(clip)) {
            (Some(clip), Some(strip)) => strip_frames(strip)
                .map_err(|reason| DataError::item(&self.path, clip.code.as_str(), reason)),
            _ => Err(beyond(&self.path, clip, self.strips.len())),
        }
    }

    /// Items that one clip makes.
    fn items_a_clip(&self) -> usize {
        match self.config.task {
            PixelTask::OpenEnded => 2,
            PixelTask::Retrieval | PixelTask::MultipleChoice => 1,
        }
    }

    fn text(&self, index: usize, clip: &Clip, draw: Draw) -> Result<PixelText, DataError> {
        match self.config.task {
            PixelTask::Retrieval => {
                let draw = item_draw(draw, index, TEXT_STREAM);
                Ok(PixelText::Caption(caption(self.config.text, clip, draw)))
            }
            PixelTask::OpenEnded => {
                let (question, answer) = if is_about_group(index) {
                    (GROUP_QUESTION, &clip.group)
                } else {
                    (SUBGROUP_QUESTION, &clip.subgroup)
                };
                Ok(PixelText::OpenQuestion {
                    question: question.to_owned(),
                    answer: self.answers.class(answer),
                })
            }
            PixelTask::MultipleChoice => {
                let seed = match item_draw(draw, index, OPTION_STREAM) {
                    Draw::Training { seed } => seed,
                    Draw::Evaluation => {
                        seed_for(self.config.option_seed, &[index as u64, OPTION_STREAM])
                    }
                };
                let (options, answer) = choose_options(self.clips.clips(), clip, seed)
                    .map_err(|reason| DataError::item(&self.path, clip.code.as_str(), reason))?;
                Ok(PixelText::MultipleChoice {
                    question: NAME_QUESTION.to_owned(),
                    options,
                    answer,
                })
            }
        }
    }
}

impl PixelSet for EmojiFrames {
    fn label(&self) -> &Path {
        &self.path
    }

    fn word_piece(&self) -> &WordPiece {
        &self.word_piece
    }

    fn task(&self) -> PixelTask {
        self.config.task
    }

    fn answers(&self) -> &[String] {
        self.answers.names()
    }

    fn item_name(&self, index: usize) -> String {
        let Some(clip) = self.clips.clips().get(index / self.items_a_clip()) else {
            return format!("item {index}");
        };
        match self.config.task {
            PixelTask::OpenEnded if is_about_group(index) => format!("{}/group", clip.code),
            PixelTask::OpenEnded => format!("{}/subgroup", clip.code),
            PixelTask::Retrieval | PixelTask::MultipleChoice => clip.code.clone(),
        }
    }

    fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        let n_items = self.items_a_clip();
        let splits = self
            .clips
            .clips()
            .iter()
            .flat_map(|clip| std::iter::repeat_n(clip.split, n_items));
        positions(&self.path, name, splits)
    }

    fn sample(&self, index: usize, draw: Draw) -> Result<PixelSample, DataError> {
        let n_items = self.items_a_clip();
        let number = index / n_items;
        let Some(clip) = self.clips.clips().get(number) else {
            return Err(beyond(&self.path, index, self.strips.len() * n_items));
        };
        let all = self.frames(number)?;
        let rule = self
            .config
            .choice
            .rule(self.config.n_frames, item_draw(draw, index, FRAME_STREAM));
        let chosen = rule
            .indices(all.len())
            .map_err(|kind| DataError::item(&self.path, clip.code.as_str(), kind.to_string()))?;
        let frames = chosen
            .iter()
            .filter_map(|&frame| all.get(frame).cloned())
            .collect();
        Ok(PixelSample {
            id: index,
            frames,
            text: self.text(index, clip, draw)?,
            visual_tokens: None,
        })
    }
}

/// Of the two questions about a clip, the first is about its group.
fn is_about_group(index: usize) -> bool {
    index.is_multiple_of(2)
}

/// The text of a clip; for evaluation keywords that would be sampled are all there.
fn caption(text: ClipText, clip: &Clip, draw: Draw) -> String {
    match (draw, text.keywords) {
        (Draw::Training { seed }, _) => text.text(clip, seed),
        (Draw::Evaluation, KeywordUse::Sampled) => {
            let keywords = KeywordUse::All;
            ClipText { keywords }.text(clip, 0)
        }
        (Draw::Evaluation, KeywordUse::None | KeywordUse::All) => text.text(clip, 0),
    }
}

/// The names of a clip and of four others in random order, and the place of the right one.
fn choose_options(clips: &[Clip], right: &Clip, seed: u64) -> Result<(Vec<String>, usize), String> {
    let n_wrong = N_OPTIONS - 1;
    let mut stream = RandomStream::new(seed);
    let near = names(clips, right, |clip| {
        clip.group == right.group && clip.subgroup != right.subgroup
    });
    let mut wrong: Vec<&str> = pick(&near, N_NEAR, &mut stream);
    let far: Vec<&str> = names(clips, right, |clip| clip.group != right.group)
        .into_iter()
        .filter(|name| !wrong.contains(name))
        .collect();
    wrong.extend(pick(&far, n_wrong - wrong.len(), &mut stream));
    if wrong.len() < n_wrong {
        return Err(format!(
            "the split has {} names of other subgroups where {n_wrong} wrong options are needed",
            wrong.len()
        ));
    }
    stream.shuffle(&mut wrong);
    let answer = stream.below(N_OPTIONS);
    let mut options: Vec<String> = wrong.into_iter().map(str::to_owned).collect();
    options.insert(answer, right.name.clone());
    Ok((options, answer))
}

/// The distinct names of the clips of a split that `admits` takes, without that of `right`.
fn names<'a>(clips: &'a [Clip], right: &Clip, admits: impl Fn(&Clip) -> bool) -> Vec<&'a str> {
    let mut names: Vec<&str> = clips
        .iter()
        .filter(|clip| clip.split == right.split && clip.name != right.name && admits(clip))
        .map(|clip| clip.name.as_str())
        .collect();
    // Two clips may share a name, two options may not.
    names.sort_unstable();
    names.dedup();
    names
}

/// Up to `count` of some names.
fn pick<'a>(names: &[&'a str], count: usize, stream: &mut RandomStream) -> Vec<&'a str> {
    stream
        .subset(names.len(), count)
        .into_iter()
        .filter_map(|place| names.get(place).copied())
        .collect()
}

/// The strips of an archive, in the order of the clips.
fn read_strips(path: &Path, archive: &[u8], clips: &[Clip]) -> Result<Vec<Vec<u8>>, DataError> {
    let broken = |error: io::Error| DataError::format(path, "tar", None::<u64>, error.to_string());
    let mut strips: HashMap<String, Vec<u8>> = HashMap::new();
    let mut reader = tar::Archive::new(archive);
    for entry in reader.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some(code) = name
            .rsplit('/')
            .next()
            .and_then(|name| name.strip_suffix(".webp"))
        else {
            continue;
        };
        // A sparse entry may claim more than the archive holds.
        if entry.size() > archive.len() as u64 {
            let reason = format!("claims {} bytes, more than the archive", entry.size());
            return Err(DataError::item(path, code, reason));
        }
        let mut strip = Vec::new();
        entry.read_to_end(&mut strip).map_err(broken)?;
        if strips.insert(code.to_owned(), strip).is_some() {
            return Err(DataError::item(path, code, "occurs twice"));
        }
    }
    clips
        .iter()
        .map(|clip| {
            let strip = strips.remove(&clip.code);
            strip.ok_or_else(|| {
                DataError::item(path, clip.code.as_str(), "has no strip in the archive")
            })
        })
        .collect()
}

/// The square frames of a strip, from left to right.
fn strip_frames(strip: &[u8]) -> Result<Vec<RgbFrame>, String> {
    let picture = image::load_from_memory_with_format(strip, ImageFormat::WebP)
        .map_err(|error| format!("is a damaged WebP image ({error})"))?
        .into_rgb8();
    let (width, side) = picture.dimensions();
    if side == 0 || width == 0 || !width.is_multiple_of(side) {
        return Err(format!(
            "is {width} x {side} pixels, expected square frames side by side"
        ));
    }
    (0..width / side)
        .map(|frame| {
            let part = imageops::crop_imm(&picture, frame * side, 0, side, side).to_image();
            RgbFrame::new(side, side, part.into_raw())
                .ok_or_else(|| format!("frame {frame} is not {side} x {side} pixels"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::Cursor;

    use super::*;

    fn config(task: PixelTask) -> EmojiFramesConfig {
        EmojiFramesConfig {
            task,
            n_frames: 4,
            choice: FrameChoice::AllInOne,
            text: ClipText {
                keywords: KeywordUse::Sampled,
            },
            option_seed: 0,
        }
    }

    fn set(task: PixelTask) -> EmojiFrames {
        EmojiFrames::embedded(config(task)).unwrap()
    }

    #[test]
    fn every_clip_has_eight_frames_of_64_pixels() {
        let set = set(PixelTask::Retrieval);
        assert_eq!(set.strips.len(), 699);
        for clip in (0..699).step_by(50) {
            let frames = set.frames(clip).unwrap();
            assert_eq!(frames.len(), 8, "{clip}");
            assert!(
                frames
                    .iter()
                    .all(|frame| (frame.width(), frame.height()) == (64, 64))
            );
        }
        // The background is white.
        let first = set.frames(0).unwrap();
        assert!(first[0].data()[..3].iter().all(|&level| level > 240));
        let error = set.frames(699).unwrap_err().to_string();
        assert!(error.contains("item 699 does not exist"), "{error}");
    }

    #[test]
    fn frames_are_random_within_segments_for_training_and_the_middles_otherwise() {
        let set = set(PixelTask::Retrieval);
        let all = set.frames(3).unwrap();
        let middles = set.sample(3, Draw::Evaluation).unwrap();
        // Segments of two frames; the middle is rounded down, the random one is never the last.
        assert_eq!(middles.frames, [0, 2, 4, 6].map(|frame| all[frame].clone()));
        assert_eq!(middles.id, 3);
        assert!(middles.visual_tokens.is_none());
        let narrow = EmojiFrames {
            config: EmojiFramesConfig {
                n_frames: 2,
                ..set.config
            },
            ..set
        };
        let mut seen = HashSet::new();
        for seed in 0..40 {
            let sample = narrow.sample(3, Draw::Training { seed }).unwrap();
            assert_eq!(sample, narrow.sample(3, Draw::Training { seed }).unwrap());
            let place = all.iter().position(|frame| *frame == sample.frames[0]);
            seen.insert(place.unwrap());
        }
        assert!(
            seen.iter().all(|&place| place < 3) && seen.len() > 1,
            "{seen:?}"
        );
    }

    #[test]
    fn more_frames_than_a_clip_has_are_refused_with_its_code() {
        let mut config = config(PixelTask::Retrieval);
        config.n_frames = 9;
        let set = EmojiFrames::embedded(config).unwrap();
        let error = set.sample(0, Draw::Evaluation).unwrap_err().to_string();
        assert!(
            error.contains("item `1f300`") && error.contains("need 9 frames"),
            "{error}"
        );
        config.n_frames = 0;
        let error = EmojiFrames::embedded(config).unwrap_err().to_string();
        assert!(error.contains("`n_frames` is 0"), "{error}");
    }

    #[test]
    fn captions_have_all_keywords_for_evaluation() {
        let set = set(PixelTask::Retrieval);
        let text = |draw| set.sample(1, draw).unwrap().text;
        assert_eq!(
            text(Draw::Evaluation),
            PixelText::Caption("closed umbrella closed clothing rain umbrella".to_owned())
        );
        let drawn: HashSet<String> = (0..30)
            .map(|seed| format!("{:?}", text(Draw::Training { seed })))
            .collect();
        assert!(drawn.len() > 5);
        assert_eq!(set.split("train").unwrap().len(), 497);
        assert_eq!(set.item_name(0), "1f300");
    }

    #[test]
    fn open_questions_are_answered_by_groups_and_subgroups_of_the_training_split() {
        let set = set(PixelTask::OpenEnded);
        assert_eq!(set.split("test").unwrap().len(), 2 * 127);
        assert_eq!(set.answers()[0], "people & body");
        let answer = |index: usize| {
            let sample = set.sample(index, Draw::Evaluation).unwrap();
            let PixelText::OpenQuestion { question, answer } = sample.text else {
                panic!("another kind of text");
            };
            (question, answer.map(|class| set.answers()[class].clone()))
        };
        let group = answer(0);
        assert_eq!(group.0, GROUP_QUESTION);
        assert_eq!(group.1.as_deref(), Some("travel & places"));
        let subgroup = answer(1);
        assert_eq!(subgroup.0, SUBGROUP_QUESTION);
        assert_eq!(subgroup.1.as_deref(), Some("weather"));
        assert_eq!(set.item_name(1), "1f300/subgroup");
        // No clip of the training split wears a hat.
        let place = set
            .clips()
            .clips()
            .iter()
            .position(|clip| clip.subgroup == "with hats");
        assert_eq!(answer(2 * place.unwrap() + 1).1, None);
        assert!(!set.answers().contains(&"with hats".to_owned()));
        let error = set
            .sample(2 * 699, Draw::Evaluation)
            .unwrap_err()
            .to_string();
        assert!(error.contains("the set has 1398 items"), "{error}");
    }

    #[test]
    fn the_embedded_vocabulary_spells_the_questions() {
        let set = set(PixelTask::MultipleChoice);
        let unknown = set.word_piece().special().unknown;
        for question in [GROUP_QUESTION, SUBGROUP_QUESTION, NAME_QUESTION] {
            let tokens = set.word_piece().encode(question);
            assert!(
                !tokens.contains(&unknown) && tokens.len() <= 6,
                "{question}"
            );
        }
        let other = WordPiece::from_vocab_text(
            Path::new("vocab.txt"),
            "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwhat\n",
        );
        let set = set.with_word_piece(other.unwrap());
        assert_eq!(set.word_piece().encode(NAME_QUESTION), [5, 1, 1]);
    }

    #[test]
    fn options_are_five_names_of_the_split_with_other_subgroups() {
        let set = set(PixelTask::MultipleChoice);
        let mut answers = HashSet::new();
        for name in ["valid", "test"] {
            for index in set.split(name).unwrap() {
                let right = &set.clips().clips()[index];
                let text = set.text(index, right, Draw::Evaluation).unwrap();
                let PixelText::MultipleChoice {
                    question,
                    options,
                    answer,
                } = &text
                else {
                    panic!("another kind of text");
                };
                assert_eq!(question, NAME_QUESTION);
                assert_eq!(options[*answer], right.name);
                assert_eq!(options.iter().collect::<HashSet<_>>().len(), N_OPTIONS);
                let mut n_near = 0;
                for option in options.iter().filter(|option| **option != right.name) {
                    let wrong = set.clips().clips().iter().find(|clip| clip.name == *option);
                    let wrong = wrong.unwrap();
                    assert_eq!(wrong.split, right.split);
                    let is_same =
                        (&wrong.group, &wrong.subgroup) == (&right.group, &right.subgroup);
                    assert!(!is_same, "{option} for {}", right.name);
                    n_near += usize::from(wrong.group == right.group);
                }
                assert!(n_near <= N_NEAR);
                answers.insert(*answer);
                assert_eq!(text, set.text(index, right, Draw::Evaluation).unwrap());
            }
        }
        assert_eq!(answers.len(), N_OPTIONS);
        let right = &set.clips().clips()[0];
        let drawn: HashSet<String> = (0..10)
            .map(|seed| {
                let draw = Draw::Training { seed };
                format!("{:?}", set.text(0, right, draw).unwrap())
            })
            .collect();
        assert!(drawn.len() > 5);
    }

    #[test]
    fn a_split_that_is_too_small_for_wrong_options_is_an_error() {
        let set = set(PixelTask::MultipleChoice);
        let clips = &set.clips().clips()[..3];
        let reason = choose_options(clips, &clips[0], 1).unwrap_err();
        assert!(reason.contains("4 wrong options are needed"), "{reason}");
    }

    #[test]
    fn archives_without_a_strip_or_with_two_are_refused() {
        let set = set(PixelTask::Retrieval);
        let clips = &set.clips().clips()[..1];
        let archive = |names: &[&str]| {
            let mut builder = tar::Builder::new(Vec::new());
            for name in names {
                let mut header = tar::Header::new_gnu();
                header.set_size(3);
                builder
                    .append_data(&mut header, name, Cursor::new(b"abc"))
                    .unwrap();
            }
            builder.into_inner().unwrap()
        };
        let read = |names: &[&str]| read_strips(Path::new("a.tar"), &archive(names), clips);
        assert_eq!(read(&["readme", "1f300.webp"]).unwrap(), [b"abc"]);
        let error = read(&["2.webp"]).unwrap_err().to_string();
        assert!(error.contains("item `1f300`: has no strip"), "{error}");
        let error = read(&["1f300.webp", "1f300.webp"]).unwrap_err().to_string();
        assert!(error.contains("occurs twice"), "{error}");
        assert!(read_strips(Path::new("a.tar"), &[1; 700], clips).is_err());
        assert!(strip_frames(b"abc").unwrap_err().contains("damaged WebP"));
    }
}
