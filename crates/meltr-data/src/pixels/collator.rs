//! Samples of raw frames and text to one batch, with what the pretext losses hide.

use std::path::Path;

use ndarray::{Array2, Array3, Array4, Array5, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::set::{
    CROP_STREAM, PAIR_STREAM, PATCH_STREAM, PixelSample, PixelSet, PixelTask, PixelText,
    WORD_STREAM,
};
use crate::batch::CollateMode;
use crate::error::{ConfigError, DataError, DataErrorKind};
use crate::masking::{MaskedWords, mask_words};
use crate::seed::{RandomStream, seed_for};
use crate::video::{IMAGENET_MEAN, IMAGENET_STD, ImageTransform, Normalization, Resize};
use crate::video_qa::option_text;
use crate::video_text_set::Draw;
use crate::visual_tokens::TOKEN_COUNT;
use crate::word_piece::WordPiece;

/// What stands for the class of an answer that has none: losses and metrics leave it out.
pub const NO_ANSWER: i64 = -100;

/// Tokens that a row needs at least: `[CLS]`, one word, `[SEP]`.
const MIN_WORDS: usize = 3;

/// Frames of a sample at most; a larger number is a mistake, not a wish.
const MAX_FRAMES: usize = 1024;

/// Side of a frame in pixels at most, for the same reason.
const MAX_SIDE: usize = 4096;

/// Side in pixels to which All-in-one's reader brings every frame.
const ALL_IN_ONE_SIDE: u32 = 512;

/// Levels of a channel in [`VisualTargets::MeanColor`].
const COLOR_LEVELS: i64 = 8;

/// How a frame of any size becomes a square of [`image_size`](PixelCollator::image_size).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameResize {
    /// VIOLET's: black bars on both sides of the shorter direction, then resized.
    Letterbox,
    /// All-in-one's: 512 x 512 whatever that does to the aspect ratio, then to 6/5 of the size,
    /// then a square, at random for training and in the middle otherwise.
    AllInOne,
}

/// How samples of a frame become numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameScale {
    /// `[0, 1]`: for VIOLET, which hides patches by zeros before it normalizes by itself.
    Unit,
    /// By mean and standard deviation of ImageNet: for All-in-one.
    ImageNet,
}

/// What takes the place of a word that is to be predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WordMasking {
    /// `[MASK]`, always: VIOLET's.
    MaskToken,
    /// `[MASK]` in 80 %, a random token in 10 %, the word itself in 10 %: All-in-one's.
    Bert,
}

/// Which patches of the frames of a training batch are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchMasking {
    /// None.
    None,
    /// The union of `T` cuboids at random places: VIOLET's.
    ///
    /// Each is uniform in `{1..T - 1}` frames long (1 if `T` is 1) and in `{1..⌊2n/3⌋ - 1}`
    /// patches high and wide for a grid of `n` patches (1 if that is empty, where the released
    /// code fails). For `T` = 5 and 7 x 7 patches that hides 18.4 % in the mean.
    Cuboids,
}

/// What is to be predicted of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisualTargets {
    /// Nothing.
    None,
    /// The visual tokens that come with the set: one of 8192, of a discrete autoencoder.
    FromSet,
    /// The mean color of the patch with 3 bits a channel: one of 512. It needs no other network,
    /// so that it works for every set.
    ///
    /// # References
    ///
    /// - Dosovitskiy et al., [An Image is Worth 16x16 Words](https://arxiv.org/abs/2010.11929),
    ///   ICLR 2021: masked patch prediction.
    MeanColor,
}

impl VisualTargets {
    /// Number of different tokens.
    #[must_use]
    pub fn n_tokens(self) -> usize {
        match self {
            Self::None => 0,
            Self::FromSet => TOKEN_COUNT as usize,
            Self::MeanColor => COLOR_LEVELS.pow(3) as usize,
        }
    }
}

/// How a question and one of its options are put into one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionPrompt {
    /// The question, all options and the option, as [`option_text`] writes them: what MELTR's
    /// VIOLET reads. It is long, and what is cut off first is the option.
    AllOptions,
    /// The question, a blank and the option: what VIOLET's own fine-tuning reads.
    QuestionAndOption,
}

/// A batch of raw frames and texts on the host.
///
/// Letters: `B` items, `O` options of a multiple-choice question (1 for other tasks), `L` text
/// tokens ([`max_words`](PixelCollator::max_words)), `T` frames
/// ([`n_frames`](PixelCollator::n_frames)), `S` pixels of a side
/// ([`image_size`](PixelCollator::image_size)), `h` = `w` = `S` divided by
/// [`patch_size`](PixelCollator::patch_size). The rows of the texts of item `b` are `b·O` to
/// `b·O + O − 1`. Padding masks are true where there is nothing; prediction masks are true where
/// something is to be predicted.
#[derive(Clone, Debug, PartialEq)]
pub struct PixelBatch {
    /// The task.
    pub task: PixelTask,
    /// Frames with nothing hidden, `[B, T, 3, S, S]`. A model hides
    /// [`hidden_patches`](Self::hidden_patches) itself where a loss wants that.
    pub frames: Array5<f32>,
    /// True where a patch is to be hidden and predicted, `[B, T, h, w]`.
    pub hidden_patches: Array4<bool>,
    /// The token of every patch, hidden or not, `[B, T, h, w]`; values in
    /// `0..`[`n_tokens`](VisualTargets::n_tokens).
    pub visual_tokens: Option<Array4<i64>>,
    /// Number of options `O`.
    pub n_options: usize,
    /// `[CLS]` tokens `[SEP]`, then padding, `[B·O, L]`.
    pub text_ids: Array2<i64>,
    /// True at padding of the text, `[B·O, L]`.
    pub text_pad: Array2<bool>,
    /// [`text_ids`](Self::text_ids) with some tokens hidden, each row for itself, `[B·O, L]`.
    pub masked_text_ids: Array2<i64>,
    /// True where the original token is to be predicted, `[B·O, L]`.
    pub predict_words: Array2<bool>,
    /// Class of the answer or number of the right option, [`NO_ANSWER`] where the answer is not
    /// known or no class, `[B]`; empty for retrieval.
    pub answers: Vec<i64>,
    /// Number of [`NO_ANSWER`] in [`answers`](Self::answers).
    pub unknown_answers: usize,
    /// For every item another one whose text does not belong to its video, every item once,
    /// `[B]`. The only item of a batch of one has itself.
    pub unrelated: Vec<usize>,
    /// Number of rows whose text was longer than `L` and lost its end.
    pub cut_texts: usize,
    /// Number of each item in its set, `[B]`.
    pub item_ids: Vec<usize>,
}

impl PixelBatch {
    /// Number of items.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.item_ids.len()
    }

    /// For every item the row of the text that belongs to its video, `[B]`: its only one, or that
    /// of the right option.
    ///
    /// Pairs of video and text are made with these rows, not with the first `B`.
    #[must_use]
    pub fn own_texts(&self) -> Vec<usize> {
        (0..self.batch_size())
            .map(|item| match self.task {
                PixelTask::Retrieval | PixelTask::OpenEnded => item,
                PixelTask::MultipleChoice => {
                    let option = self.answers.get(item).copied().unwrap_or(0);
                    item * self.n_options + usize::try_from(option).unwrap_or(0)
                }
            })
            .collect()
    }
}

/// Turns samples of raw frames into batches.
///
/// What the released code does and this does not: hide words of a multiple-choice question in all
/// rows at once and fill them with `[MASK]`, pair videos with the first rows of the expanded
/// options, and hide patches in the frames of the primary loss. Here every row is masked for
/// itself, [`own_texts`](PixelBatch::own_texts) has the rows to pair, and frames are whole.
///
/// ```
/// use meltr_data::{
///     ClipText, CollateMode, EmojiFrames, EmojiFramesConfig, FrameChoice, KeywordUse,
///     PixelCollator, PixelSet, PixelTask, VisualTargets,
/// };
///
/// # fn main() -> Result<(), meltr_data::DataError> {
/// let set = EmojiFrames::embedded(EmojiFramesConfig {
///     task: PixelTask::Retrieval,
///     n_frames: 4,
///     choice: FrameChoice::Uniform,
///     text: ClipText { keywords: KeywordUse::None },
///     option_seed: 0,
/// })?;
/// let collator = PixelCollator {
///     n_frames: 4,
///     image_size: 64,
///     visual_targets: VisualTargets::MeanColor,
///     ..PixelCollator::violet()
/// };
/// let test = set.split("test")?;
/// let batch = collator.collate(&set, &test[..2], CollateMode::Clean)?;
/// assert_eq!(batch.frames.dim(), (2, 4, 3, 64, 64));
/// # Ok(())
/// # }
/// ```
///
/// # References
///
/// - Fu et al., [VIOLET](https://arxiv.org/abs/2111.12681), arXiv 2021.
/// - Wang et al., [All in One](https://arxiv.org/abs/2203.07303), CVPR 2023.
/// - Reference code: `mlvlab/MELTR@669ad60` `violet/`, `allinone/`. The number of hidden words is
///   never 0 in a text that has a word; All-in-one's code allows that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PixelCollator {
    /// Tokens of a row `L`, `[CLS]` and `[SEP]` included; at least 3.
    pub max_words: usize,
    /// Frames of a sample `T`, exactly; in `[1, 1024]`.
    pub n_frames: usize,
    /// Side of a frame in pixels `S`; a multiple of `patch_size`, in `[1, 4096]`.
    pub image_size: usize,
    /// Side in pixels of the patches that are hidden and predicted; at least 1.
    pub patch_size: usize,
    /// How frames get their size.
    pub resize: FrameResize,
    /// How samples become numbers.
    pub scale: FrameScale,
    /// Probability that a word is to be predicted; in `[0, 1]`, 0 for none.
    pub mask_probability: f64,
    /// What takes the place of such a word.
    pub word_masking: WordMasking,
    /// Which patches are hidden.
    pub patch_masking: PatchMasking,
    /// What is to be predicted of them.
    pub visual_targets: VisualTargets,
    /// How options are put into words.
    pub option_prompt: OptionPrompt,
}

impl PixelCollator {
    /// VIOLET's settings for retrieval and open-ended questions; `max_words` is 40 for multiple
    /// choice.
    #[must_use]
    pub fn violet() -> Self {
        Self {
            max_words: 25,
            n_frames: 5,
            image_size: 224,
            patch_size: 32,
            resize: FrameResize::Letterbox,
            scale: FrameScale::Unit,
            mask_probability: 0.15,
            word_masking: WordMasking::MaskToken,
            patch_masking: PatchMasking::Cuboids,
            visual_targets: VisualTargets::FromSet,
            option_prompt: OptionPrompt::AllOptions,
        }
    }

    /// All-in-one's settings; it hides no patches.
    #[must_use]
    pub fn all_in_one() -> Self {
        Self {
            max_words: 40,
            n_frames: 3,
            image_size: 224,
            patch_size: 16,
            resize: FrameResize::AllInOne,
            scale: FrameScale::ImageNet,
            mask_probability: 0.15,
            word_masking: WordMasking::Bert,
            patch_masking: PatchMasking::None,
            visual_targets: VisualTargets::None,
            option_prompt: OptionPrompt::QuestionAndOption,
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::OutOfRange`] for the first setting that is not admissible.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.max_words < MIN_WORDS {
            return Err(out_of_range("max_words", self.max_words, "of at least 3"));
        }
        if !(1..=MAX_FRAMES).contains(&self.n_frames) {
            return Err(out_of_range("n_frames", self.n_frames, "in [1, 1024]"));
        }
        if self.patch_size < 1 {
            return Err(out_of_range("patch_size", self.patch_size, "of at least 1"));
        }
        if !(1..=MAX_SIDE).contains(&self.image_size)
            || !self.image_size.is_multiple_of(self.patch_size)
        {
            return Err(out_of_range(
                "image_size",
                self.image_size,
                "in [1, 4096] that is a multiple of `patch_size`",
            ));
        }
        if !(0.0..=1.0).contains(&self.mask_probability) {
            return Err(out_of_range(
                "mask_probability",
                self.mask_probability,
                "in [0, 1]",
            ));
        }
        Ok(())
    }

    /// A batch of some items of a set, several videos decoded at a time.
    ///
    /// A pure function: what happens to an item depends on the settings, the seed of `mode` and
    /// its index, not on its place in the batch; only the unrelated pairs depend on the batch.
    /// Needs the decoded frames of the batch beside the result.
    ///
    /// # Errors
    ///
    /// Returns an error for the reasons of [`collate_samples`](Self::collate_samples) and of
    /// [`PixelSet::sample`], and if the class of an answer is none of
    /// [`PixelSet::answers`].
    pub fn collate(
        &self,
        set: &dyn PixelSet,
        indices: &[usize],
        mode: CollateMode,
    ) -> Result<PixelBatch, DataError> {
        // Before anything is decoded.
        self.check(set.label())?;
        let draw = match mode {
            CollateMode::Training { seed } => Draw::Training { seed },
            CollateMode::Clean => Draw::Evaluation,
        };
        let samples = indices
            .par_iter()
            .map(|&index| set.sample(index, draw))
            .collect::<Result<Vec<PixelSample>, DataError>>()?;
        let n_classes = set.answers().len();
        for sample in &samples {
            if let PixelText::OpenQuestion {
                answer: Some(class),
                ..
            } = &sample.text
                && *class >= n_classes
            {
                let reason = format!("has class {class} of {n_classes} classes, counted from 0");
                let item = set.item_name(sample.id);
                return Err(DataError::item(set.label(), item, reason));
            }
        }
        self.collate_samples(set.label(), set.word_piece(), &samples, mode)
    }

    /// A batch of samples; `label` is the path of the set in errors.
    ///
    /// A text of more than `L` tokens keeps the first `L − 2` of them.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::EmptyBatch`] without samples, [`DataErrorKind::Config`] if a
    /// setting is not admissible, and [`DataErrorKind::Item`] if a sample has another number of
    /// frames than `n_frames`, a frame that cannot get its size, visual tokens of another shape
    /// than asked for or none, another task or number of options than the first, less than two
    /// options, or an answer that is none of them.
    pub fn collate_samples(
        &self,
        label: &Path,
        word_piece: &WordPiece,
        samples: &[PixelSample],
        mode: CollateMode,
    ) -> Result<PixelBatch, DataError> {
        self.check(label)?;
        let Some(first) = samples.first() else {
            return Err(DataError::new(label, DataErrorKind::EmptyBatch));
        };
        let task = first.text.task();
        let n_options = n_rows(&first.text);
        for sample in samples {
            self.check_sample(sample, task, n_options)
                .map_err(|reason| DataError::item(label, sample.id.to_string(), reason))?;
        }
        let clips = samples
            .par_iter()
            .map(|sample| {
                let clip = self.clip(sample, mode);
                clip.map_err(|error| {
                    DataError::item(label, sample.id.to_string(), error.to_string())
                })
            })
            .collect::<Result<Vec<Clip>, DataError>>()?;
        let mut batch = self.blank(samples.len(), task, n_options, word_piece.special().pad);
        for (item, (sample, clip)) in samples.iter().zip(&clips).enumerate() {
            batch.item_ids.push(sample.id);
            batch
                .frames
                .slice_mut(s![item, .., .., .., ..])
                .assign(&clip.frames);
            if let (Some(tokens), Some(found)) = (&mut batch.visual_tokens, &clip.visual_tokens) {
                tokens.slice_mut(s![item, .., .., ..]).assign(found);
            }
            self.put_patches(&mut batch, item, sample.id, mode);
            put_answer(&mut batch, &sample.text);
            for (option, text) in self.texts(&sample.text).iter().enumerate() {
                let ids = self.token_ids(&mut batch, word_piece, text);
                let row = item * n_options + option;
                put_row(&mut batch.text_ids, row, &ids);
                put_row(&mut batch.text_pad, row, &vec![false; ids.len()]);
                let masked = match mode {
                    CollateMode::Training { seed } => {
                        let place = [sample.id as u64, WORD_STREAM, option as u64];
                        self.masked(&ids, word_piece, seed_for(seed, &place))
                    }
                    CollateMode::Clean => MaskedWords {
                        predict: vec![false; ids.len()],
                        ids,
                    },
                };
                put_row(&mut batch.masked_text_ids, row, &masked.ids);
                put_row(&mut batch.predict_words, row, &masked.predict);
            }
        }
        batch.unrelated = match mode {
            CollateMode::Training { seed } => {
                unrelated(samples.len(), seed_for(seed, &[PAIR_STREAM]))
            }
            CollateMode::Clean => (1..samples.len()).chain([0]).collect(),
        };
        Ok(batch)
    }

    fn check(&self, label: &Path) -> Result<(), DataError> {
        self.validate()
            .map_err(|source| DataError::new(label, DataErrorKind::Config { source }))
    }

    fn check_sample(
        &self,
        sample: &PixelSample,
        task: PixelTask,
        n_options: usize,
    ) -> Result<(), String> {
        if sample.frames.len() != self.n_frames {
            return Err(format!(
                "has {} frames, `n_frames` is {}",
                sample.frames.len(),
                self.n_frames
            ));
        }
        if sample.text.task() != task {
            return Err(format!(
                "is for {}, the first item of the batch for {task}",
                sample.text.task()
            ));
        }
        if let PixelText::MultipleChoice {
            options, answer, ..
        } = &sample.text
        {
            if options.len() < 2 || options.len() != n_options {
                return Err(format!(
                    "has {} options, expected two or more and as many as the first item of the \
                     batch, {n_options}",
                    options.len()
                ));
            }
            if *answer >= options.len() {
                return Err(format!("answer {answer} is not in [0, {})", options.len()));
            }
        }
        if self.visual_targets != VisualTargets::FromSet {
            return Ok(());
        }
        let side = self.grid();
        let expected = (self.n_frames, side, side);
        match &sample.visual_tokens {
            Some(tokens) if tokens.dim() == expected => {
                match tokens
                    .iter()
                    .find(|token| !(0..TOKEN_COUNT).contains(*token))
                {
                    Some(token) => Err(format!("visual token {token} is not in 0..{TOKEN_COUNT}")),
                    None => Ok(()),
                }
            }
            Some(tokens) => Err(format!(
                "has visual tokens of shape {:?}, expected {expected:?}: frames, and `image_size` \
                 divided by `patch_size` twice",
                tokens.dim()
            )),
            None => Err(
                "has no visual tokens; give the set their file, or set `visual_targets` to \
                 `mean_color` or `none`"
                    .to_owned(),
            ),
        }
    }

    /// Patches of a side.
    fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    fn blank(&self, n_items: usize, task: PixelTask, n_options: usize, pad: i64) -> PixelBatch {
        let side = self.grid();
        let words = (n_items * n_options, self.max_words);
        let patches = (n_items, self.n_frames, side, side);
        let pixels = (n_items, self.n_frames, 3, self.image_size, self.image_size);
        PixelBatch {
            task,
            frames: Array5::zeros(pixels),
            hidden_patches: Array4::from_elem(patches, false),
            visual_tokens: match self.visual_targets {
                VisualTargets::None => None,
                VisualTargets::FromSet | VisualTargets::MeanColor => Some(Array4::zeros(patches)),
            },
            n_options,
            text_ids: Array2::from_elem(words, pad),
            text_pad: Array2::from_elem(words, true),
            masked_text_ids: Array2::from_elem(words, pad),
            predict_words: Array2::from_elem(words, false),
            answers: Vec::new(),
            unknown_answers: 0,
            unrelated: Vec::new(),
            cut_texts: 0,
            item_ids: Vec::with_capacity(n_items),
        }
    }

    /// The frames of one item in their final form, and what is to be predicted of them.
    fn clip(&self, sample: &PixelSample, mode: CollateMode) -> Result<Clip, ConfigError> {
        let seed = match mode {
            CollateMode::Training { seed } => seed_for(seed, &[sample.id as u64, CROP_STREAM]),
            CollateMode::Clean => 0,
        };
        // `[T, 3, S, S]`, because both ways of resizing end in the asked size.
        let mut frames = self.transform(mode).clip(&sample.frames, seed)?;
        let visual_tokens = match self.visual_targets {
            VisualTargets::None => None,
            VisualTargets::FromSet => sample.visual_tokens.clone(),
            VisualTargets::MeanColor => Some(mean_colors(&frames, self.patch_size)),
        };
        if self.scale == FrameScale::ImageNet {
            let moments = IMAGENET_MEAN.into_iter().zip(IMAGENET_STD);
            for (channel, (mean, deviation)) in moments.enumerate() {
                frames
                    .slice_mut(s![.., channel, .., ..])
                    .mapv_inplace(|value| (value - mean) / deviation);
            }
        }
        Ok(Clip {
            frames,
            visual_tokens,
        })
    }

    /// The changes of the size; samples stay in `[0, 1]`.
    fn transform(&self, mode: CollateMode) -> ImageTransform {
        // `validate` bounds the side by 4096.
        let side = self.image_size as u32;
        let exactly = |side: u32| Resize::Exactly {
            width: side,
            height: side,
        };
        let steps = match (self.resize, mode) {
            (FrameResize::Letterbox, _) => vec![Resize::PadToSquare, exactly(side)],
            (FrameResize::AllInOne, mode) => vec![
                exactly(ALL_IN_ONE_SIDE),
                Resize::ShorterSide { side: side * 6 / 5 },
                match mode {
                    CollateMode::Training { .. } => Resize::RandomCrop { side },
                    CollateMode::Clean => Resize::CenterCrop { side },
                },
            ],
        };
        ImageTransform {
            steps,
            normalization: Normalization::Unit,
        }
    }

    fn put_patches(&self, batch: &mut PixelBatch, item: usize, id: usize, mode: CollateMode) {
        let CollateMode::Training { seed } = mode else {
            return;
        };
        if self.patch_masking == PatchMasking::Cuboids {
            let seed = seed_for(seed, &[id as u64, PATCH_STREAM]);
            let hidden = cuboids(self.n_frames, self.grid(), seed);
            batch
                .hidden_patches
                .slice_mut(s![item, .., .., ..])
                .assign(&hidden);
        }
    }

    /// The texts of an item, one a row.
    fn texts(&self, text: &PixelText) -> Vec<String> {
        match text {
            PixelText::Caption(caption) => vec![caption.clone()],
            PixelText::OpenQuestion { question, .. } => vec![question.clone()],
            PixelText::MultipleChoice {
                question, options, ..
            } => {
                let options: Vec<&str> = options.iter().map(String::as_str).collect();
                match self.option_prompt {
                    OptionPrompt::AllOptions => (0..options.len())
                        .filter_map(|option| option_text(question, &options, option))
                        .collect(),
                    OptionPrompt::QuestionAndOption => options
                        .iter()
                        .map(|option| format!("{question} {option}"))
                        .collect(),
                }
            }
        }
    }

    /// `[CLS]`, the tokens that have room, `[SEP]`.
    fn token_ids(&self, batch: &mut PixelBatch, word_piece: &WordPiece, text: &str) -> Vec<i64> {
        let special = word_piece.special();
        let tokens = word_piece.encode(text);
        let room = self.max_words - 2;
        batch.cut_texts += usize::from(tokens.len() > room);
        let kept = &tokens[..tokens.len().min(room)];
        [&[special.cls][..], kept, &[special.sep][..]].concat()
    }

    fn masked(&self, ids: &[i64], word_piece: &WordPiece, seed: u64) -> MaskedWords {
        let special = word_piece.special();
        let mut masked = mask_words(
            ids,
            ids.len(),
            special,
            word_piece.vocab_size(),
            self.mask_probability,
            seed,
        );
        if self.word_masking == WordMasking::MaskToken {
            for (id, &predict) in masked.ids.iter_mut().zip(&masked.predict) {
                if predict {
                    *id = special.mask;
                }
            }
        }
        masked
    }
}

fn put_answer(batch: &mut PixelBatch, text: &PixelText) {
    let answer = match text {
        PixelText::Caption(_) => return,
        PixelText::OpenQuestion { answer, .. } => *answer,
        PixelText::MultipleChoice { answer, .. } => Some(*answer),
    };
    let answer = answer.map_or(NO_ANSWER, |answer| answer as i64);
    batch.unknown_answers += usize::from(answer == NO_ANSWER);
    batch.answers.push(answer);
}

/// The frames of one item after all transformations.
struct Clip {
    /// `[T, 3, S, S]`.
    frames: Array4<f32>,
    /// `[T, h, w]`.
    visual_tokens: Option<Array3<i64>>,
}

/// Rows that a text takes.
fn n_rows(text: &PixelText) -> usize {
    match text {
        PixelText::Caption(_) | PixelText::OpenQuestion { .. } => 1,
        PixelText::MultipleChoice { options, .. } => options.len(),
    }
}

/// The mean color of every patch of frames in `[0, 1]`, `[T, 3, S, S]` to `[T, h, w]`.
fn mean_colors(frames: &Array4<f32>, patch_size: usize) -> Array3<i64> {
    let (n_frames, n_channels, height, width) = frames.dim();
    let grid = (n_frames, height / patch_size, width / patch_size);
    let n_pixels = (patch_size * patch_size) as f64;
    Array3::from_shape_fn(grid, |(frame, row, column)| {
        let (top, left) = (row * patch_size, column * patch_size);
        (0..n_channels).fold(0, |token, channel| {
            let patch = frames.slice(s![
                frame,
                channel,
                top..top + patch_size,
                left..left + patch_size
            ]);
            let mean = patch.iter().map(|&value| f64::from(value)).sum::<f64>() / n_pixels;
            let level = ((mean * COLOR_LEVELS as f64) as i64).clamp(0, COLOR_LEVELS - 1);
            token * COLOR_LEVELS + level
        })
    })
}

/// The union of as many cuboids as there are frames, see [`PatchMasking::Cuboids`].
fn cuboids(n_frames: usize, grid: usize, seed: u64) -> Array3<bool> {
    let mut stream = RandomStream::new(seed);
    let mut hidden = Array3::from_elem((n_frames, grid, grid), false);
    let longest = n_frames.saturating_sub(1).max(1);
    let widest = (2 * grid / 3).saturating_sub(1).max(1);
    for _ in 0..n_frames {
        let length = 1 + stream.below(longest);
        let height = 1 + stream.below(widest);
        let width = 1 + stream.below(widest);
        let start = stream.below(n_frames - length + 1);
        let top = stream.below(grid - height + 1);
        let left = stream.below(grid - width + 1);
        hidden
            .slice_mut(s![
                start..start + length,
                top..top + height,
                left..left + width
            ])
            .fill(true);
    }
    hidden
}

/// A random cyclic order of `n` items (Sattolo): nobody is its own successor unless alone.
fn unrelated(n: usize, seed: u64) -> Vec<usize> {
    let mut stream = RandomStream::new(seed);
    let mut others: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        let other = stream.below(last);
        others.swap(last, other);
    }
    others
}

fn out_of_range(field: &'static str, value: impl ToString, expected: &str) -> ConfigError {
    ConfigError::OutOfRange {
        field,
        value: value.to_string(),
        expected: expected.to_owned(),
    }
}

/// Copies values to the beginning of a row and leaves the rest of it as it is.
fn put_row<T: Clone>(array: &mut Array2<T>, row: usize, values: &[T]) {
    for (cell, value) in array.row_mut(row).iter_mut().zip(values) {
        cell.clone_from(value);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ndarray::arr2;
    use proptest::prelude::*;

    use super::*;
    use crate::video::RgbFrame;

    const PAD: i64 = 0;
    const CLS: i64 = 2;
    const SEP: i64 = 3;
    const MASK: i64 = 4;

    fn word_piece() -> WordPiece {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\n";
        WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap()
    }

    fn collator() -> PixelCollator {
        PixelCollator {
            max_words: 5,
            n_frames: 2,
            image_size: 4,
            patch_size: 2,
            visual_targets: VisualTargets::MeanColor,
            option_prompt: OptionPrompt::QuestionAndOption,
            ..PixelCollator::violet()
        }
    }

    /// Two frames of 4 x 2 pixels, white and black.
    fn sample(id: usize, text: PixelText) -> PixelSample {
        PixelSample {
            id,
            frames: [255, 0]
                .map(|level| RgbFrame::new(4, 2, vec![level; 24]).unwrap())
                .to_vec(),
            text,
            visual_tokens: None,
        }
    }

    fn caption(text: &str) -> PixelText {
        PixelText::Caption(text.to_owned())
    }

    fn open(answer: Option<usize>) -> PixelText {
        PixelText::OpenQuestion {
            question: "a b".to_owned(),
            answer,
        }
    }

    fn choice(options: &[&str], answer: usize) -> PixelText {
        PixelText::MultipleChoice {
            question: "a".to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            answer,
        }
    }

    fn collate(
        collator: &PixelCollator,
        samples: &[PixelSample],
        mode: CollateMode,
    ) -> Result<PixelBatch, DataError> {
        collator.collate_samples(Path::new("set"), &word_piece(), samples, mode)
    }

    fn training(seed: u64) -> CollateMode {
        CollateMode::Training { seed }
    }

    fn refusal(collator: &PixelCollator, samples: &[PixelSample]) -> String {
        collate(collator, samples, CollateMode::Clean)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_clean_batch_is_as_worked_by_hand() {
        let samples = [sample(7, caption("a b")), sample(9, caption("a b c d"))];
        let batch = collate(&collator(), &samples, CollateMode::Clean).unwrap();
        assert_eq!(
            (batch.item_ids.as_slice(), batch.batch_size()),
            (&[7, 9][..], 2)
        );
        assert_eq!(batch.task, PixelTask::Retrieval);
        assert_eq!(batch.n_options, 1);
        assert_eq!(
            batch.text_ids,
            arr2(&[[CLS, 5, 6, SEP, PAD], [CLS, 5, 6, 7, SEP]])
        );
        assert_eq!(
            batch.text_pad,
            arr2(&[[false, false, false, false, true], [false; 5]])
        );
        assert_eq!(batch.cut_texts, 1);
        assert_eq!(batch.masked_text_ids, batch.text_ids);
        assert!(!batch.predict_words.iter().any(|&predict| predict));
        assert!(!batch.hidden_patches.iter().any(|&hidden| hidden));
        assert_eq!((batch.answers.len(), batch.unknown_answers), (0, 0));
        assert_eq!(batch.unrelated, [1, 0]);
        assert_eq!(batch.own_texts(), [0, 1]);
        // A black bar, two white rows, a black bar; then a black frame.
        assert_eq!(batch.frames.dim(), (2, 2, 3, 4, 4));
        for row in 0..4 {
            let level = if row == 1 || row == 2 { 1.0 } else { 0.0 };
            assert!(
                batch
                    .frames
                    .slice(s![.., 0, .., row, ..])
                    .iter()
                    .all(|&value| value == level)
            );
        }
        assert!(
            batch
                .frames
                .slice(s![.., 1, .., .., ..])
                .iter()
                .all(|&value| value == 0.0)
        );
        // The mean of every patch of the first frame is 1/2: level 4 of each channel.
        let tokens = batch.visual_tokens.unwrap();
        assert_eq!(tokens.dim(), (2, 2, 2, 2));
        assert!(
            tokens
                .slice(s![.., 0, .., ..])
                .iter()
                .all(|&token| token == 292)
        );
        assert!(
            tokens
                .slice(s![.., 1, .., ..])
                .iter()
                .all(|&token| token == 0)
        );
    }

    #[test]
    fn a_training_batch_hides_words_and_patches_but_leaves_the_frames_whole() {
        let samples = [sample(7, caption("a b c")), sample(9, caption("d"))];
        let clean = collate(&collator(), &samples, CollateMode::Clean).unwrap();
        let batch = collate(&collator(), &samples, training(3)).unwrap();
        assert_eq!(batch, collate(&collator(), &samples, training(3)).unwrap());
        assert_ne!(batch, collate(&collator(), &samples, training(4)).unwrap());
        assert_eq!(batch.frames, clean.frames);
        assert_eq!(batch.text_ids, clean.text_ids);
        assert_eq!(batch.visual_tokens, clean.visual_tokens);
        for item in 0..2 {
            assert!(batch.predict_words.row(item).iter().any(|&predict| predict));
            let hidden = batch.hidden_patches.slice(s![item, .., .., ..]);
            assert!(hidden.iter().any(|&hidden| hidden));
        }
        for (place, &predict) in batch.predict_words.indexed_iter() {
            let expected = if predict { MASK } else { batch.text_ids[place] };
            assert_eq!(batch.masked_text_ids[place], expected);
        }
        let none = PixelCollator {
            mask_probability: 0.0,
            patch_masking: PatchMasking::None,
            ..collator()
        };
        let batch = collate(&none, &samples, training(3)).unwrap();
        assert_eq!(batch.masked_text_ids, batch.text_ids);
        assert!(!batch.hidden_patches.iter().any(|&hidden| hidden));
    }

    #[test]
    fn words_may_be_replaced_as_in_bert() {
        let bert = PixelCollator {
            word_masking: WordMasking::Bert,
            mask_probability: 1.0,
            ..collator()
        };
        let samples = [sample(0, caption("a b c"))];
        let mut found = HashSet::new();
        for seed in 0..300 {
            let batch = collate(&bert, &samples, training(seed)).unwrap();
            found.extend(batch.masked_text_ids.iter().copied());
        }
        // Words that stay, and random ones that the text does not have.
        assert!(
            found.contains(&MASK) && found.contains(&5) && found.contains(&8),
            "{found:?}"
        );
    }

    #[test]
    fn frames_are_normalized_for_all_in_one() {
        let all_in_one = PixelCollator {
            resize: FrameResize::AllInOne,
            scale: FrameScale::ImageNet,
            ..collator()
        };
        let samples = [sample(0, caption("a"))];
        let batch = collate(&all_in_one, &samples, CollateMode::Clean).unwrap();
        for channel in 0..3 {
            for (frame, level) in [(0, 255), (1, 0)] {
                let expected = Normalization::ImageNet.value(level, channel);
                // Resizing may change a sample by 1 of 255.
                assert!(
                    batch
                        .frames
                        .slice(s![0, frame, channel, .., ..])
                        .iter()
                        .all(|&value| (value - expected).abs() < 0.02)
                );
            }
        }
        // No bars: every patch of the first frame is white.
        let tokens = batch.visual_tokens.unwrap();
        assert!(
            tokens
                .slice(s![0, 0, .., ..])
                .iter()
                .all(|&token| token == 511)
        );
    }

    #[test]
    fn a_random_square_is_cut_out_for_training_only() {
        let frames: Vec<RgbFrame> = (0..2)
            .map(|_| {
                let data = (0..8 * 8).flat_map(|pixel| [pixel as u8 * 4; 3]).collect();
                RgbFrame::new(8, 8, data).unwrap()
            })
            .collect();
        let sample = PixelSample {
            frames,
            ..sample(0, caption("a"))
        };
        let all_in_one = PixelCollator {
            image_size: 64,
            resize: FrameResize::AllInOne,
            ..collator()
        };
        let samples = [sample];
        let corner = |mode| {
            let batch = collate(&all_in_one, &samples, mode).unwrap();
            batch.frames[[0, 0, 0, 0, 0]].to_bits()
        };
        let corners: HashSet<u32> = (0..30).map(|seed| corner(training(seed))).collect();
        assert!(corners.len() > 5);
        assert_eq!(corner(CollateMode::Clean), corner(CollateMode::Clean));
    }

    #[test]
    fn every_option_is_a_row_of_its_own() {
        let samples = [
            sample(0, choice(&["b", "c d"], 1)),
            sample(1, choice(&["d", "d"], 0)),
        ];
        let batch = collate(&collator(), &samples, CollateMode::Clean).unwrap();
        assert_eq!(batch.n_options, 2);
        assert_eq!(
            batch.text_ids,
            arr2(&[
                [CLS, 5, 6, SEP, PAD],
                [CLS, 5, 7, 8, SEP],
                [CLS, 5, 8, SEP, PAD],
                [CLS, 5, 8, SEP, PAD],
            ])
        );
        assert_eq!(batch.answers, [1, 0]);
        assert_eq!(batch.own_texts(), [1, 2]);
        // Equal rows are masked in different ways.
        let differ = (0..20).any(|seed| {
            let batch = collate(&collator(), &samples, training(seed)).unwrap();
            batch.predict_words.row(2) != batch.predict_words.row(3)
        });
        assert!(differ);
        for seed in 0..20 {
            let batch = collate(&collator(), &samples, training(seed)).unwrap();
            for row in batch.predict_words.rows() {
                assert!(row.iter().any(|&predict| predict));
            }
        }
    }

    #[test]
    fn all_options_may_be_in_every_row() {
        let all_options = PixelCollator {
            max_words: 40,
            option_prompt: OptionPrompt::AllOptions,
            ..collator()
        };
        let samples = [sample(0, choice(&["b", "c"], 0))];
        let batch = collate(&all_options, &samples, CollateMode::Clean).unwrap();
        for (option, text) in ["aOptions: b cAnswer: b", "aOptions: b cAnswer: c"]
            .into_iter()
            .enumerate()
        {
            let expected = word_piece().encode_padded(text, 40);
            assert_eq!(batch.text_ids.row(option).to_vec(), expected.ids);
            assert_eq!(batch.text_pad.row(option).to_vec(), expected.padding());
        }
        let batch = collate(
            &PixelCollator {
                max_words: 3,
                ..all_options
            },
            &samples,
            CollateMode::Clean,
        )
        .unwrap();
        assert_eq!(batch.cut_texts, 2);
    }

    #[test]
    fn answers_without_a_class_are_counted() {
        let samples = [sample(0, open(Some(3))), sample(1, open(None))];
        let batch = collate(&collator(), &samples, CollateMode::Clean).unwrap();
        assert_eq!(batch.answers, [3, NO_ANSWER]);
        assert_eq!(batch.unknown_answers, 1);
        assert_eq!(batch.own_texts(), [0, 1]);
    }

    #[test]
    fn tokens_of_the_set_are_taken_as_they_are() {
        let from_set = PixelCollator {
            visual_targets: VisualTargets::FromSet,
            ..collator()
        };
        let tokens = Array3::from_shape_fn((2, 2, 2), |(t, y, x)| (100 * t + 10 * y + x) as i64);
        let with = |tokens: Option<Array3<i64>>| PixelSample {
            visual_tokens: tokens,
            ..sample(4, caption("a"))
        };
        let batch = collate(&from_set, &[with(Some(tokens.clone()))], CollateMode::Clean).unwrap();
        let found = batch.visual_tokens.unwrap();
        assert_eq!(found.slice(s![0, .., .., ..]), tokens);
        let message = refusal(&from_set, &[with(None)]);
        assert!(
            message.contains("item `4`: has no visual tokens"),
            "{message}"
        );
        let message = refusal(&from_set, &[with(Some(Array3::zeros((2, 7, 7))))]);
        assert!(
            message.contains("shape (2, 7, 7), expected (2, 2, 2)"),
            "{message}"
        );
        let message = refusal(&from_set, &[with(Some(Array3::from_elem((2, 2, 2), 8192)))]);
        assert!(
            message.contains("visual token 8192 is not in 0..8192"),
            "{message}"
        );
        assert_eq!(VisualTargets::FromSet.n_tokens(), 8192);
        assert_eq!(VisualTargets::MeanColor.n_tokens(), 512);
    }

    #[test]
    fn batches_that_do_not_fit_together_are_refused_with_the_item() {
        let collator = collator();
        let short = PixelSample {
            frames: vec![RgbFrame::new(1, 1, vec![0; 3]).unwrap()],
            ..sample(4, caption("a"))
        };
        let cases = [
            (vec![], "a batch needs at least one item"),
            (vec![short], "item `4`: has 1 frames, `n_frames` is 2"),
            (
                vec![sample(1, caption("a")), sample(2, open(None))],
                "item `2`: is for open_ended, the first item of the batch for retrieval",
            ),
            (
                vec![
                    sample(1, choice(&["a", "b"], 0)),
                    sample(2, choice(&["a", "b", "c"], 0)),
                ],
                "item `2`: has 3 options",
            ),
            (
                vec![sample(1, choice(&["a"], 0))],
                "item `1`: has 1 options",
            ),
            (
                vec![sample(1, choice(&["a", "b"], 2))],
                "item `1`: answer 2 is not in [0, 2)",
            ),
        ];
        for (samples, message) in cases {
            let error = refusal(&collator, &samples);
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let cases = [
            (
                PixelCollator {
                    max_words: 2,
                    ..collator()
                },
                "`max_words` is 2",
            ),
            (
                PixelCollator {
                    n_frames: 0,
                    ..collator()
                },
                "`n_frames` is 0",
            ),
            (
                PixelCollator {
                    patch_size: 0,
                    ..collator()
                },
                "`patch_size` is 0",
            ),
            (
                PixelCollator {
                    image_size: 5,
                    ..collator()
                },
                "`image_size` is 5; choose a value in [1, 4096] that is a multiple",
            ),
            (
                PixelCollator {
                    mask_probability: f64::NAN,
                    ..collator()
                },
                "`mask_probability` is NaN",
            ),
        ];
        for (collator, message) in cases {
            let error = refusal(&collator, &[sample(0, caption("a"))]);
            assert!(error.contains(message), "{error} lacks {message}");
        }
        for preset in [PixelCollator::violet(), PixelCollator::all_in_one()] {
            preset.validate().unwrap();
        }
    }

    #[test]
    fn settings_go_through_json_and_unknown_ones_are_refused() {
        let collator = PixelCollator::violet();
        let text = serde_json::to_string(&collator).unwrap();
        assert_eq!(
            serde_json::from_str::<PixelCollator>(&text).unwrap(),
            collator
        );
        let other = text.replace("max_words", "max_word");
        let error = serde_json::from_str::<PixelCollator>(&other).unwrap_err();
        assert!(error.to_string().contains("unknown field `max_word`"));
    }

    #[test]
    fn cuboids_hide_the_published_share_of_patches() {
        let n_seeds = 2000_u64;
        let share: f64 = (0..n_seeds)
            .map(|seed| {
                let hidden = cuboids(5, 7, seed);
                assert_eq!(hidden.dim(), (5, 7, 7));
                hidden.iter().filter(|&&hidden| hidden).count() as f64 / 245.0
            })
            .sum::<f64>()
            / n_seeds as f64;
        // The mean of 1 - (1 - p q r)^5 over all patches, where p, q and r are the probabilities
        // that a cuboid covers the place of the patch on each axis. Five standard errors:
        // 5 * 0.061 / sqrt(2000) = 0.007.
        assert!((share - 0.1843).abs() < 0.007, "{share}");
    }

    /// A set of three items of which the second has another class than there are.
    #[derive(Debug)]
    struct Three {
        word_piece: WordPiece,
        answers: Vec<String>,
    }

    impl PixelSet for Three {
        fn label(&self) -> &Path {
            Path::new("three")
        }

        fn word_piece(&self) -> &WordPiece {
            &self.word_piece
        }

        fn task(&self) -> PixelTask {
            PixelTask::OpenEnded
        }

        fn answers(&self) -> &[String] {
            &self.answers
        }

        fn item_name(&self, index: usize) -> String {
            format!("clip{index}")
        }

        fn split(&self, _name: &str) -> Result<Vec<usize>, DataError> {
            Ok(vec![0, 1, 2])
        }

        fn sample(&self, index: usize, _draw: Draw) -> Result<PixelSample, DataError> {
            Ok(sample(index, open(Some(index))))
        }
    }

    #[test]
    fn what_happens_to_an_item_does_not_depend_on_its_place() {
        let set = Three {
            word_piece: word_piece(),
            answers: ["x", "y", "z"].map(str::to_owned).to_vec(),
        };
        let one = collator().collate(&set, &[0, 1, 2], training(5)).unwrap();
        let other = collator().collate(&set, &[2, 0], training(5)).unwrap();
        assert_eq!(other.item_ids, [2, 0]);
        assert_eq!(other.answers, [2, 0]);
        assert_eq!(one.masked_text_ids.row(0), other.masked_text_ids.row(1));
        assert_eq!(
            one.hidden_patches.slice(s![2, .., .., ..]),
            other.hidden_patches.slice(s![0, .., .., ..])
        );
    }

    #[test]
    fn a_class_beyond_the_answers_is_named_by_its_item() {
        let set = Three {
            word_piece: word_piece(),
            answers: vec!["x".to_owned(), "y".to_owned()],
        };
        let error = collator()
            .collate(&set, &[1, 2], CollateMode::Clean)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("three: item `clip2`: has class 2 of 2 classes"),
            "{error}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn nobody_is_unrelated_to_itself(n in 2_usize..20, seed in any::<u64>()) {
            let others = unrelated(n, seed);
            prop_assert!(others.iter().enumerate().all(|(item, &other)| item != other));
            prop_assert_eq!(others.iter().collect::<HashSet<_>>().len(), n);
            prop_assert!(others.iter().all(|&other| other < n));
            prop_assert_eq!(unrelated(1, seed), [0]);
        }

        #[test]
        fn some_patch_of_any_grid_is_hidden(
            n_frames in 1_usize..7, grid in 1_usize..9, seed in any::<u64>(),
        ) {
            let hidden = cuboids(n_frames, grid, seed);
            prop_assert_eq!(hidden.dim(), (n_frames, grid, grid));
            prop_assert!(hidden.iter().any(|&hidden| hidden));
        }
    }
}
