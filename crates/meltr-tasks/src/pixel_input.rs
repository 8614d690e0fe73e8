//! Host batches of raw frames as VIOLET's input, and what the tasks on raw frames share.

use burn::tensor::{Device, Tensor, TensorData};
use meltr_core::vec_f64;
use meltr_data::{
    DataError, DataErrorKind, PixelBatch, PixelCollator, PixelSet, PixelTask, VisualTargets,
};
use meltr_models::VioletBatch;
use ndarray::{Array, Dimension};

use crate::error::TaskError;
use crate::univl_input::{bools, ints};

/// Moves a host batch to `device`, without a tape.
///
/// Every word that the batch marks is to be predicted, in the rows of all options. Every hidden
/// patch is, too; a batch without visual tokens hides its patches, but has nothing to predict of
/// them.
#[must_use]
pub fn violet_batch(batch: &PixelBatch, device: &Device) -> VioletBatch {
    let device = device.clone().without_autodiff();
    let (predict_words, word_targets) = targets(&batch.predict_words, &batch.text_ids);
    let (predict_patches, patch_targets) = match &batch.visual_tokens {
        Some(tokens) => targets(&batch.hidden_patches, tokens),
        None => (Vec::new(), Vec::new()),
    };
    let hidden: Vec<bool> = batch.hidden_patches.iter().copied().collect();
    let hidden = TensorData::new(hidden, batch.hidden_patches.shape().to_vec());
    VioletBatch {
        frames: frames(batch, &device),
        hidden_patches: Tensor::from_data(hidden, &device),
        n_options: batch.n_options,
        text_ids: ints(&batch.text_ids, &device),
        text_pad: bools(&batch.text_pad, &device),
        masked_text_ids: ints(&batch.masked_text_ids, &device),
        predict_words,
        word_targets,
        predict_patches,
        patch_targets,
        answers: batch.answers.clone(),
    }
}

/// The frames of a host batch, `[B, T, 3, S, S]`.
pub(crate) fn frames(batch: &PixelBatch, device: &Device) -> Tensor<5> {
    let values: Vec<f32> = batch.frames.iter().copied().collect();
    let data = TensorData::new(values, batch.frames.shape().to_vec());
    Tensor::from_data(data, device)
}

/// Items of all splits named, in this order.
pub(crate) fn items_of(set: &dyn PixelSet, splits: &[String]) -> Result<Vec<usize>, DataError> {
    let mut items = Vec::new();
    for split in splits {
        items.extend(set.split(split)?);
    }
    if items.is_empty() {
        let split = "[]".to_owned();
        return Err(DataError::new(
            set.label(),
            DataErrorKind::EmptySplit { split },
        ));
    }
    Ok(items)
}

/// The same batches without what only pretext losses predict, which clips of one's own have not.
pub(crate) fn without_targets(collator: &PixelCollator) -> PixelCollator {
    PixelCollator {
        visual_targets: VisualTargets::None,
        ..collator.clone()
    }
}

/// Items that are answered at a time: questions may have different numbers of options, and those
/// of a batch may not.
pub(crate) fn items_at_a_time(set: &dyn PixelSet, chunk: usize) -> usize {
    match set.task() {
        PixelTask::MultipleChoice => 1,
        PixelTask::Retrieval | PixelTask::OpenEnded => chunk,
    }
}

/// Logits of answers, `[B, n]`, row by row.
pub(crate) fn score_rows(
    set: &dyn PixelSet,
    host: &PixelBatch,
    logits: Tensor<2>,
) -> Result<Vec<Vec<f64>>, TaskError> {
    let [_, n_answers] = logits.dims();
    let scores = vec_f64(logits.into_data());
    scores
        .chunks(n_answers)
        .zip(&host.item_ids)
        .map(|(scores, &index)| {
            if scores.iter().all(|score| score.is_finite()) {
                Ok(scores.to_vec())
            } else {
                let item = set.item_name(index);
                Err(TaskError::AnswerNotFinite { item })
            }
        })
        .collect()
}

/// Position of the largest score, of the first of equal ones.
pub(crate) fn first_best(scores: &[f64]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (index, score) in scores.iter().enumerate() {
        if best.is_none_or(|(_, largest)| *score > largest) {
            best = Some((index, *score));
        }
    }
    best.map(|(index, _)| index)
}

/// Flat positions of the true entries, and the ids that stand there.
fn targets<D: Dimension>(predict: &Array<bool, D>, ids: &Array<i64, D>) -> (Vec<i64>, Vec<i64>) {
    let mut positions = Vec::new();
    let mut values = Vec::new();
    for (position, (predict, id)) in predict.iter().zip(ids.iter()).enumerate() {
        if *predict {
            positions.push(position as i64);
            values.push(*id);
        }
    }
    (positions, values)
}

#[cfg(test)]
mod tests {
    use meltr_data::{NO_ANSWER, PixelTask};
    use ndarray::{Array4, Array5, arr2};

    use super::*;

    /// Two items with two frames of 2 x 2 patches of one pixel; patches 1 and 6 of the first item
    /// and patch 0 of the second are hidden.
    fn host() -> PixelBatch {
        let mut hidden = Array4::from_elem((2, 2, 2, 2), false);
        for place in [[0, 0, 0, 1], [0, 1, 1, 0], [1, 0, 0, 0]] {
            hidden[place] = true;
        }
        PixelBatch {
            task: PixelTask::OpenEnded,
            frames: Array5::from_shape_fn((2, 2, 3, 2, 2), |(b, t, c, y, x)| {
                (b * 16 + t * 8 + c * 4 + y * 2 + x) as f32
            }),
            hidden_patches: hidden,
            visual_tokens: Some(Array4::from_shape_fn((2, 2, 2, 2), |(b, t, y, x)| {
                (1000 * b + 100 * t + 10 * y + x) as i64
            })),
            n_options: 1,
            text_ids: arr2(&[[2, 7, 8, 3], [2, 9, 3, 0]]),
            text_pad: arr2(&[[false; 4], [false, false, false, true]]),
            masked_text_ids: arr2(&[[2, 7, 4, 3], [2, 4, 3, 0]]),
            predict_words: arr2(&[[false, false, true, false], [false, true, false, false]]),
            answers: vec![5, NO_ANSWER],
            unknown_answers: 1,
            unrelated: vec![1, 0],
            cut_texts: 0,
            item_ids: vec![3, 4],
        }
    }

    #[test]
    fn targets_are_the_ids_and_tokens_at_their_flat_positions() {
        let batch = violet_batch(&host(), &Device::default());
        assert_eq!(batch.predict_words, [2, 5]);
        assert_eq!(batch.word_targets, [8, 9]);
        assert_eq!(batch.predict_patches, [1, 6, 8]);
        assert_eq!(batch.patch_targets, [1, 110, 1000]);
        assert_eq!(batch.answers, [5, NO_ANSWER]);
    }

    #[test]
    fn arrays_keep_their_shape_and_order() {
        let host = host();
        let batch = violet_batch(&host, &Device::default());
        assert_eq!(batch.frames.dims(), [2, 2, 3, 2, 2]);
        assert_eq!(batch.hidden_patches.dims(), [2, 2, 2, 2]);
        let frames: Vec<f32> = batch.frames.into_data().iter::<f32>().collect();
        assert!(frames.iter().eq(host.frames.iter()));
        let masked: Vec<i64> = batch.masked_text_ids.into_data().iter::<i64>().collect();
        assert_eq!(masked, [2, 7, 4, 3, 2, 4, 3, 0]);
        let pad: Vec<bool> = batch.text_pad.into_data().iter::<bool>().collect();
        assert_eq!(pad.iter().filter(|pad| **pad).count(), 1);
        assert!(pad[7]);
    }

    #[test]
    fn without_visual_tokens_patches_are_hidden_and_not_predicted() {
        let host = PixelBatch {
            visual_tokens: None,
            ..host()
        };
        let batch = violet_batch(&host, &Device::default());
        assert!(batch.predict_patches.is_empty() && batch.patch_targets.is_empty());
        let hidden: Vec<bool> = batch.hidden_patches.into_data().iter::<bool>().collect();
        assert_eq!(hidden.iter().filter(|hidden| **hidden).count(), 3);
    }

    #[test]
    fn of_equal_scores_the_first_is_best() {
        assert_eq!(first_best(&[0.1, 0.5, 0.5]), Some(1));
        assert_eq!(first_best(&[]), None);
    }
}
