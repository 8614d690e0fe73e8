//! What a network computes of the training items, beside the words that belong to their clips.

use std::array::from_fn;
use std::collections::BTreeMap;

use burn::tensor::Tensor;
use meltr_core::{ConfigError, vec_f64};
use meltr_data::{
    CollateMode, DataError, Draw, PixelBatch, PixelCollator, PixelSample, PixelSet, PixelText,
};
use ndarray::{Array1, Array2};
use rayon::prelude::*;

use crate::error::TaskError;
use crate::pixel_input::without_targets;

/// The items that a closed-form start is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StartItems<'a> {
    /// Name of the start in configurations.
    pub(crate) start: &'static str,
    /// The set.
    pub(crate) set: &'a dyn PixelSet,
    /// How samples become batches.
    pub(crate) collator: &'a PixelCollator,
    /// Items that are trained on.
    pub(crate) train: &'a [usize],
    /// Items that are read at a time.
    pub(crate) chunk: usize,
    /// Vectors of the tokens of the set's vocabulary, `[V, K]`.
    pub(crate) vectors: &'a Array2<f64>,
}

/// Training items whose words are known: the caption, the right option or the answer.
#[derive(Debug)]
pub(crate) struct StartExamples<const N: usize> {
    /// What the network computes of each item, `[n, d]` each.
    pub(crate) features: [Array2<f64>; N],
    /// Mean vector of the words, `[n, K]`.
    pub(crate) words: Array2<f64>,
    /// Number of the right answer or option, `[n]`; empty for retrieval.
    pub(crate) classes: Vec<usize>,
    /// Tokens that more than half of the texts have that are read with the clips, `[CLS]` and
    /// `[SEP]` among them: what they say does not tell one item from another.
    pub(crate) common_tokens: Vec<i64>,
}

impl<const N: usize> StartExamples<N> {
    /// Reads all items as an evaluation does; `features` `[B, d]` are those of a batch.
    pub(crate) fn new(
        items: &StartItems<'_>,
        features: impl Fn(&PixelBatch) -> Result<[Tensor<2>; N], TaskError>,
    ) -> Result<Self, TaskError> {
        let collator = without_targets(items.collator);
        let mut rows: [Vec<Vec<f64>>; N] = from_fn(|_| Vec::new());
        let mut words = Vec::new();
        let mut classes = Vec::new();
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        for part in items.train.chunks(items.chunk) {
            let samples = part
                .par_iter()
                .map(|&index| items.set.sample(index, Draw::Evaluation))
                .collect::<Result<Vec<PixelSample>, DataError>>()?;
            let (label, word_piece) = (items.set.label(), items.set.word_piece());
            let mode = CollateMode::Clean;
            let batch = collator.collate_samples(label, word_piece, &samples, mode)?;
            count_tokens(&batch, &mut counts);
            let known: Vec<Option<Array1<f64>>> = samples
                .iter()
                .map(|sample| items.mean_vector(&sample.text))
                .collect();
            for (rows, features) in rows.iter_mut().zip(features(&batch)?) {
                let [_, width] = features.dims();
                let values = vec_f64(features.into_data());
                let of_known = values.chunks(width).zip(&known);
                let of_known = of_known.filter(|(_, words)| words.is_some());
                rows.extend(of_known.map(|(row, _)| row.to_vec()));
            }
            let answers = batch.answers.iter().zip(&known);
            classes.extend(answers.filter_map(|(answer, words)| {
                let class = usize::try_from(*answer).ok();
                class.filter(|_| words.is_some())
            }));
            words.extend(known.into_iter().flatten().map(|mean| mean.to_vec()));
        }
        if words.is_empty() {
            return Err(TaskError::Config(ConfigError::Unsupported {
                key: "model.start",
                value: items.start,
                reason: "no training item has a caption or an answer that the vocabulary spells; \
                         take `random`",
            }));
        }
        let common_tokens = counts
            .into_iter()
            .filter(|(_, count)| 2 * count > items.train.len())
            .map(|(token, _)| token)
            .collect();
        Ok(Self {
            features: rows.map(|rows| matrix(&rows)),
            words: matrix(&words),
            classes,
            common_tokens,
        })
    }
}

impl StartItems<'_> {
    /// Mean vector of the words that say what a clip shows; `None` if they are not known.
    fn mean_vector(&self, text: &PixelText) -> Option<Array1<f64>> {
        let words = match text {
            PixelText::Caption(caption) => caption,
            PixelText::OpenQuestion { answer, .. } => self.set.answers().get((*answer)?)?,
            PixelText::MultipleChoice {
                options, answer, ..
            } => options.get(*answer)?,
        };
        let ids = self.set.word_piece().encode(words);
        let mut mean = Array1::<f64>::zeros(self.vectors.ncols());
        for id in &ids {
            mean += &self.vectors.row(*id as usize);
        }
        (!ids.is_empty()).then(|| mean / ids.len() as f64)
    }
}

/// Counts each token once for every item whose own text has it.
fn count_tokens(batch: &PixelBatch, counts: &mut BTreeMap<i64, usize>) {
    for row in batch.own_texts() {
        let flags = batch.text_pad.row(row);
        let mut ids: Vec<i64> = batch
            .text_ids
            .row(row)
            .iter()
            .zip(&flags)
            .filter(|(_, is_pad)| !**is_pad)
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            *counts.entry(id).or_insert(0) += 1;
        }
    }
}

/// Rows of one length as a matrix.
fn matrix(rows: &[Vec<f64>]) -> Array2<f64> {
    let width = rows.first().map_or(0, Vec::len);
    Array2::from_shape_fn((rows.len(), width), |(row, column)| rows[row][column])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use meltr_data::{
        ClipText, EmojiFrames, EmojiFramesConfig, FrameChoice, KeywordUse, PixelTask,
    };

    use super::*;

    fn clips(task: PixelTask) -> EmojiFrames {
        EmojiFrames::embedded(EmojiFramesConfig {
            task,
            n_frames: 1,
            choice: FrameChoice::Uniform,
            text: ClipText {
                keywords: KeywordUse::None,
            },
            option_seed: 0,
        })
        .unwrap()
    }

    fn examples(set: &EmojiFrames, train: &[usize]) -> Result<StartExamples<1>, TaskError> {
        let vectors = set.clips().token_embeddings().mapv(f64::from);
        let collator = PixelCollator {
            n_frames: 1,
            image_size: 32,
            ..PixelCollator::violet()
        };
        let items = StartItems {
            start: "matching",
            set,
            collator: &collator,
            train,
            chunk: 3,
            vectors: &vectors,
        };
        StartExamples::new(&items, |batch| {
            let ids: Vec<f32> = batch.item_ids.iter().map(|id| *id as f32).collect();
            let ids = Tensor::<1>::from_floats(ids.as_slice(), &Device::default());
            Ok([ids.reshape([batch.batch_size(), 1])])
        })
    }

    #[test]
    fn an_item_stands_beside_the_mean_vector_of_its_words() {
        let set = clips(PixelTask::Retrieval);
        let found = examples(&set, &[7, 2, 9, 4]).unwrap();
        assert_eq!(found.features[0].column(0).to_vec(), [7.0, 2.0, 9.0, 4.0]);
        assert_eq!(found.words.dim(), (4, 384));
        assert!(found.classes.is_empty());
        let ids = set.word_piece().encode(&set.clips().clips()[9].name);
        let vectors = set.clips().token_embeddings();
        let sum: f32 = ids.iter().map(|id| vectors[[*id as usize, 0]]).sum();
        let expected = f64::from(sum) / ids.len() as f64;
        assert!((found.words[[2, 0]] - expected).abs() < 1e-6);
    }

    #[test]
    fn what_all_questions_say_is_common_and_what_half_of_them_say_is_not() {
        let set = clips(PixelTask::OpenEnded);
        let all: Vec<usize> = (0..8).collect();
        let found = examples(&set, &all).unwrap();
        let words = set.word_piece();
        for id in words.encode("what this") {
            assert!(found.common_tokens.contains(&id));
        }
        for id in words.encode("class sort") {
            assert!(!found.common_tokens.contains(&id));
        }
        assert!(found.common_tokens.contains(&words.special().cls));
        assert!(!found.common_tokens.contains(&words.special().pad));
        assert_eq!(found.classes.len(), found.words.nrows());
    }

    #[test]
    fn the_words_of_a_question_are_those_of_its_right_option() {
        let set = clips(PixelTask::MultipleChoice);
        let names = examples(&clips(PixelTask::Retrieval), &[3, 5]).unwrap();
        let found = examples(&set, &[3, 5]).unwrap();
        let apart = &found.words - &names.words;
        assert!(apart.iter().all(|apart| apart.abs() < 1e-12));
        assert_eq!(found.classes.len(), 2);
    }

    #[test]
    fn without_words_there_is_nothing_to_fit() {
        let error = examples(&clips(PixelTask::Retrieval), &[]).unwrap_err();
        let message = error.to_string();
        assert!(
            message.starts_with("`model.start` = `matching` does not work here"),
            "{message}"
        );
    }
}
