//! Beam search as UniVL publishes it.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Bool, Int, Tensor, TensorData};
use meltr_core::vec_f64;
use meltr_models::{CrossOutput, UniVl};

/// Settings of the search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeamSearch {
    /// Hypotheses kept per item, at least 1; 1 is greedy search.
    pub beam_size: usize,
    /// Tokens generated at most.
    pub max_steps: usize,
    /// Id of the token that starts a caption, `[CLS]`.
    pub start: i64,
    /// Id of the token that ends a caption, `[SEP]`.
    pub end: i64,
    /// Id of padding.
    pub pad: i64,
}

/// One hypothesis of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// Generated ids without the start token, the end token included.
    pub ids: Vec<i64>,
    /// Sum of log probabilities.
    pub score: f64,
}

/// The hypotheses of one item, best first.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamOutput {
    /// `beam_size` hypotheses by falling score.
    pub hypotheses: Vec<Hypothesis>,
}

impl BeamOutput {
    /// The best hypothesis, cut before the first end token and then before the first padding.
    #[must_use]
    pub fn caption_ids(&self, settings: &BeamSearch) -> Vec<i64> {
        self.hypotheses.first().map_or_else(Vec::new, |best| {
            best.ids
                .iter()
                .copied()
                .take_while(|id| *id != settings.end && *id != settings.pad)
                .collect()
        })
    }
}

/// Searches captions for every item of `encoded`.
///
/// Each step extends all hypotheses by all tokens and keeps the `beam_size` best sums of log
/// probabilities; scores are not normalized by length, and a hypothesis below the top one goes on
/// growing after an end token. An item is finished when its top hypothesis ends. The decoder runs
/// over the whole prefix at every step.
///
/// # References
///
/// - Reference code: `mlvlab/MELTR@669ad60`, `univl/modules/beam.py`.
#[must_use]
pub fn beam_search(model: &UniVl, encoded: &CrossOutput, settings: &BeamSearch) -> Vec<BeamOutput> {
    let n_items = encoded.hidden.dims()[0];
    let beam_size = settings.beam_size.max(1);
    let device = model.device();
    let mut items: Vec<Vec<Hypothesis>> = vec![
        vec![Hypothesis {
            ids: Vec::new(),
            score: 0.0
        }];
        n_items
    ];
    let mut active: Vec<usize> = (0..n_items).collect();
    for step in 0..settings.max_steps {
        if active.is_empty() {
            break;
        }
        // One row per hypothesis of every unfinished item.
        let rows: Vec<usize> = active
            .iter()
            .flat_map(|&item| std::iter::repeat_n(item, items[item].len()))
            .collect();
        let length = step + 1;
        let mut ids = Vec::with_capacity(rows.len() * length);
        for &item in &active {
            for hypothesis in &items[item] {
                ids.push(settings.start);
                ids.extend_from_slice(&hypothesis.ids);
            }
        }
        let shape = [rows.len(), length];
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &device);
        let pad = Tensor::<2, Bool>::from_data(
            TensorData::new(vec![false; rows.len() * length], shape),
            &device,
        );
        let picked: Vec<i64> = rows.iter().map(|item| *item as i64).collect();
        let picked = Tensor::<1, Int>::from_data(TensorData::new(picked, [rows.len()]), &device);
        let logits = model.decode(&encoded.select(picked), ids, pad);
        let vocab_size = logits.dims()[2];
        let last = logits.narrow(1, step, 1).reshape([rows.len(), vocab_size]);
        let log_probs = vec_f64(log_softmax(last, 1).into_data());

        let mut row = 0;
        for &item in &active {
            let beams = std::mem::take(&mut items[item]);
            let mut candidates: Vec<(f64, usize, usize)> = Vec::with_capacity(beam_size + 1);
            for (beam, hypothesis) in beams.iter().enumerate() {
                let scores = &log_probs[(row + beam) * vocab_size..(row + beam + 1) * vocab_size];
                for (token, log_prob) in scores.iter().enumerate() {
                    keep_best(
                        &mut candidates,
                        (hypothesis.score + log_prob, beam, token),
                        beam_size,
                    );
                }
            }
            row += beams.len();
            items[item] = candidates
                .into_iter()
                .map(|(score, beam, token)| {
                    let mut ids = beams[beam].ids.clone();
                    ids.push(token as i64);
                    Hypothesis { ids, score }
                })
                .collect();
        }
        active.retain(|&item| {
            items[item]
                .first()
                .is_some_and(|best| best.ids.last() != Some(&settings.end))
        });
    }
    items
        .into_iter()
        .map(|hypotheses| BeamOutput { hypotheses })
        .collect()
}

/// Keeps the `count` best candidates sorted by falling score; the earlier one wins a tie.
fn keep_best(
    candidates: &mut Vec<(f64, usize, usize)>,
    candidate: (f64, usize, usize),
    count: usize,
) {
    if candidates.len() == count
        && candidates
            .last()
            .is_some_and(|worst| worst.0 >= candidate.0)
    {
        return;
    }
    let place = candidates.partition_point(|kept| kept.0 >= candidate.0);
    candidates.insert(place, candidate);
    candidates.truncate(count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_candidates_are_kept_in_order() {
        let mut kept = Vec::new();
        for (index, score) in [0.1, 0.9, 0.5, 0.9, 0.2].into_iter().enumerate() {
            keep_best(&mut kept, (score, 0, index), 3);
        }
        let order: Vec<usize> = kept.iter().map(|candidate| candidate.2).collect();
        assert_eq!(order, vec![1, 3, 2]);
    }

    #[test]
    fn a_caption_ends_before_the_first_end_token() {
        let settings = BeamSearch {
            beam_size: 1,
            max_steps: 5,
            start: 1,
            end: 2,
            pad: 0,
        };
        let output = BeamOutput {
            hypotheses: vec![Hypothesis {
                ids: vec![7, 8, 2, 9],
                score: -1.0,
            }],
        };
        assert_eq!(output.caption_ids(&settings), vec![7, 8]);
    }
}
