//! Beam search as UniVL publishes it.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Bool, Int, Tensor, TensorData};
use meltr_models::{CrossOutput, DecoderCache, UniVl};
use serde::{Deserialize, Serialize};

/// Settings of the search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Sum of log probabilities; infinite if one of them was not a number.
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
/// over the whole prefix at every step, as in the reference code;
/// [`beam_search_cached`] does not.
///
/// # References
///
/// - Reference code: `mlvlab/MELTR@669ad60`, `univl/modules/beam.py`.
#[must_use]
pub fn beam_search(model: &UniVl, encoded: &CrossOutput, settings: &BeamSearch) -> Vec<BeamOutput> {
    let n_items = encoded.hidden.dims()[0];
    let mut decoder = WholePrefixes {
        model,
        encoded,
        start: settings.start,
    };
    search(&mut decoder, n_items, settings)
}

/// The same search, with the keys and values of earlier tokens kept from step to step.
///
/// The log probabilities are those of [`beam_search`] up to rounding, so the captions are the same
/// unless two hypotheses are as good as equal. A step costs the decoder one token a hypothesis,
/// whatever the length so far.
///
/// # Panics
///
/// Panics if a caption outgrows [`max_text_positions`](UniVl::max_text_positions), as does
/// [`beam_search`].
#[must_use]
pub fn beam_search_cached(
    model: &UniVl,
    encoded: &CrossOutput,
    settings: &BeamSearch,
) -> Vec<BeamOutput> {
    let n_items = encoded.hidden.dims()[0];
    let mut decoder = LastTokens {
        model,
        cache: model.start_decoding(encoded),
        start: settings.start,
    };
    search(&mut decoder, n_items, settings)
}

/// The hypotheses that a step extends, item by item.
struct Rows<'a> {
    /// Item of each row.
    items: Vec<usize>,
    /// Row of the step before that each row continues; at the first step, its item.
    parents: Vec<usize>,
    /// Ids of each row so far, without the start token; of the same length for all.
    prefixes: Vec<&'a [i64]>,
    /// Rows of each item, the same number for all.
    per_item: usize,
}

/// What the search asks of a decoder.
trait NextToken {
    /// Log probabilities of the next token of every row, `[N, V]` row by row.
    fn log_probs(&mut self, rows: &Rows<'_>) -> Vec<f32>;
}

/// Decodes everything again at every step.
struct WholePrefixes<'a> {
    model: &'a UniVl,
    encoded: &'a CrossOutput,
    start: i64,
}

impl NextToken for WholePrefixes<'_> {
    fn log_probs(&mut self, rows: &Rows<'_>) -> Vec<f32> {
        let device = self.model.device();
        let n_rows = rows.prefixes.len();
        let length = 1 + rows.prefixes.first().map_or(0, |prefix| prefix.len());
        let mut ids = Vec::with_capacity(n_rows * length);
        for prefix in &rows.prefixes {
            ids.push(self.start);
            ids.extend_from_slice(prefix);
        }
        let shape = [n_rows, length];
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &device);
        let pad = TensorData::new(vec![false; n_rows * length], shape);
        let pad = Tensor::<2, Bool>::from_data(pad, &device);
        let items: Vec<i64> = rows.items.iter().map(|item| *item as i64).collect();
        let items = Tensor::<1, Int>::from_data(TensorData::new(items, [n_rows]), &device);
        let logits = self.model.decode(&self.encoded.select(items), ids, pad);
        let vocab_size = logits.dims()[2];
        let last = logits.narrow(1, length - 1, 1);
        on_host(last.reshape([n_rows, vocab_size]))
    }
}

/// Decodes the last token of each hypothesis.
struct LastTokens<'a> {
    model: &'a UniVl,
    cache: DecoderCache,
    start: i64,
}

impl NextToken for LastTokens<'_> {
    fn log_probs(&mut self, rows: &Rows<'_>) -> Vec<f32> {
        self.cache.select(&rows.parents, rows.per_item);
        let ids: Vec<i64> = rows
            .prefixes
            .iter()
            .map(|prefix| prefix.last().copied().unwrap_or(self.start))
            .collect();
        let ids = TensorData::new(ids, [rows.prefixes.len(), 1]);
        let ids = Tensor::<2, Int>::from_data(ids, &self.model.device());
        on_host(self.model.decode_next(&mut self.cache, ids))
    }
}

/// Log probabilities of logits `[N, V]`, row by row.
fn on_host(logits: Tensor<2>) -> Vec<f32> {
    let data = log_softmax(logits, 1).into_data();
    match data.as_slice::<f32>() {
        Ok(values) => values.to_vec(),
        // The device computes in another precision.
        Err(_) => data.iter::<f32>().collect(),
    }
}

/// A hypothesis, and the row that it continues.
struct Beam {
    hypothesis: Hypothesis,
    parent: usize,
}

impl Beam {
    /// Nothing said yet.
    fn start(item: usize) -> Self {
        Self {
            hypothesis: Hypothesis {
                ids: Vec::new(),
                score: 0.0,
            },
            parent: item,
        }
    }

    /// This hypothesis, which was row `row`, with one more token.
    fn extended(&self, row: usize, candidate: &Candidate) -> Self {
        let mut ids = self.hypothesis.ids.clone();
        ids.push(candidate.token as i64);
        Self {
            hypothesis: Hypothesis {
                ids,
                score: candidate.score,
            },
            parent: row,
        }
    }
}

/// A hypothesis with one more token.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f64,
    beam: usize,
    token: usize,
}

fn search(decoder: &mut impl NextToken, n_items: usize, settings: &BeamSearch) -> Vec<BeamOutput> {
    let beam_size = settings.beam_size.max(1);
    let mut items: Vec<Vec<Beam>> = (0..n_items).map(|item| vec![Beam::start(item)]).collect();
    let mut active: Vec<usize> = (0..n_items).collect();
    for _ in 0..settings.max_steps {
        if active.is_empty() {
            break;
        }
        let rows = rows_of(&items, &active);
        let n_rows = rows.parents.len();
        let log_probs = decoder.log_probs(&rows);
        let vocab_size = log_probs.len() / n_rows;
        let mut first_row = 0;
        for &item in &active {
            let beams = std::mem::take(&mut items[item]);
            let mut candidates = Vec::with_capacity(beam_size + 1);
            for (beam, Beam { hypothesis, .. }) in beams.iter().enumerate() {
                let row = first_row + beam;
                let scores = &log_probs[row * vocab_size..(row + 1) * vocab_size];
                for (token, log_prob) in scores.iter().enumerate() {
                    let candidate = Candidate {
                        score: hypothesis.score + f64::from(*log_prob),
                        beam,
                        token,
                    };
                    keep_best(&mut candidates, candidate, beam_size);
                }
            }
            items[item] = candidates
                .iter()
                .map(|candidate| {
                    let row = first_row + candidate.beam;
                    beams[candidate.beam].extended(row, candidate)
                })
                .collect();
            first_row += beams.len();
        }
        active.retain(|&item| {
            items[item]
                .first()
                .is_some_and(|best| best.hypothesis.ids.last() != Some(&settings.end))
        });
    }
    items
        .into_iter()
        .map(|beams| BeamOutput {
            hypotheses: beams.into_iter().map(|beam| beam.hypothesis).collect(),
        })
        .collect()
}

/// The hypotheses of the unfinished items, all of which have as many of them.
fn rows_of<'a>(items: &'a [Vec<Beam>], active: &[usize]) -> Rows<'a> {
    let mut rows = Rows {
        items: Vec::new(),
        parents: Vec::new(),
        prefixes: Vec::new(),
        per_item: active.first().map_or(0, |&item| items[item].len()),
    };
    for &item in active {
        for beam in &items[item] {
            rows.items.push(item);
            rows.parents.push(beam.parent);
            rows.prefixes.push(&beam.hypothesis.ids);
        }
    }
    rows
}

/// Keeps the `count` best candidates sorted by falling score; the earlier one wins a tie.
///
/// A score that is not a number becomes infinite and so comes first, where it is seen.
fn keep_best(candidates: &mut Vec<Candidate>, mut candidate: Candidate, count: usize) {
    if candidates.len() == count
        && candidates
            .last()
            .is_some_and(|worst| worst.score >= candidate.score)
    {
        return;
    }
    if candidate.score.is_nan() {
        candidate.score = f64::INFINITY;
    }
    let place = candidates.partition_point(|kept| kept.score >= candidate.score);
    candidates.insert(place, candidate);
    candidates.truncate(count);
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use meltr_core::Pass;
    use meltr_models::UniVlConfig;

    use super::*;

    const END: i64 = 2;

    fn settings(beam_size: usize, max_steps: usize) -> BeamSearch {
        BeamSearch {
            beam_size,
            max_steps,
            start: 1,
            end: END,
            pad: 0,
        }
    }

    /// Probabilities of the next token that depend on the item and the last token, and what was
    /// asked for.
    struct Chain {
        /// By item, then by last token; the first token follows the last row.
        probs: Vec<Vec<Vec<f32>>>,
        rows: Vec<Vec<(usize, usize, Vec<i64>)>>,
    }

    impl Chain {
        fn new(probs: Vec<Vec<Vec<f32>>>) -> Self {
            Self {
                probs,
                rows: Vec::new(),
            }
        }
    }

    impl NextToken for Chain {
        fn log_probs(&mut self, rows: &Rows<'_>) -> Vec<f32> {
            assert!(rows.items.len().is_multiple_of(rows.per_item));
            let mut asked = Vec::new();
            let mut log_probs = Vec::new();
            for (row, prefix) in rows.prefixes.iter().enumerate() {
                let (item, parent) = (rows.items[row], rows.parents[row]);
                asked.push((item, parent, prefix.to_vec()));
                let by_last = &self.probs[item];
                let last = prefix
                    .last()
                    .map_or(by_last.len() - 1, |token| *token as usize);
                log_probs.extend(by_last[last].iter().map(|prob| prob.ln()));
            }
            self.rows.push(asked);
            log_probs
        }
    }

    /// Tokens 0 and 1, end token 2. The better first token leads nowhere.
    fn misleading() -> Vec<Vec<f32>> {
        vec![
            vec![0.4, 0.3, 0.3],
            vec![0.05, 0.05, 0.9],
            vec![0.3, 0.3, 0.4],
            vec![0.6, 0.4, 0.0],
        ]
    }

    /// Ends at once.
    fn short() -> Vec<Vec<f32>> {
        vec![vec![0.1, 0.1, 0.8]; 4]
    }

    #[test]
    fn a_beam_finds_what_greedy_search_misses() {
        let greedy = search(&mut Chain::new(vec![misleading()]), 1, &settings(1, 2));
        assert_eq!(greedy[0].hypotheses[0].ids, [0, 0]);
        let beam = search(&mut Chain::new(vec![misleading()]), 1, &settings(2, 2));
        let best = &beam[0].hypotheses[0];
        assert_eq!(best.ids, [1, END]);
        assert!((best.score - 0.36f64.ln()).abs() < 1e-6);
        assert_eq!(beam[0].hypotheses[1].ids, [0, 0]);
    }

    #[test]
    fn rows_name_the_hypotheses_they_continue() {
        let mut chain = Chain::new(vec![misleading(), misleading()]);
        let _ = search(&mut chain, 2, &settings(2, 3));
        assert_eq!(chain.rows[0], [(0, 0, vec![]), (1, 1, vec![])]);
        assert_eq!(
            chain.rows[1],
            [
                (0, 0, vec![0]),
                (0, 0, vec![1]),
                (1, 1, vec![0]),
                (1, 1, vec![1])
            ]
        );
        // Both items have ended after two tokens.
        assert_eq!(chain.rows.len(), 2);
    }

    #[test]
    fn a_finished_item_leaves_the_batch() {
        let mut chain = Chain::new(vec![short(), misleading()]);
        let outputs = search(&mut chain, 2, &settings(1, 3));
        assert_eq!(outputs[0].hypotheses[0].ids, [END]);
        assert_eq!(outputs[1].hypotheses[0].ids, [0, 0, 0]);
        assert_eq!(chain.rows[1], [(1, 1, vec![0])]);
        assert_eq!(chain.rows[2], [(1, 0, vec![0, 0])]);
    }

    #[test]
    fn a_hypothesis_below_the_top_one_grows_after_its_end() {
        let mut probs = misleading();
        probs[3] = vec![0.6, 0.0, 0.4];
        let output = search(&mut Chain::new(vec![probs]), 1, &settings(4, 2));
        let ids: Vec<&[i64]> = output[0]
            .hypotheses
            .iter()
            .map(|hypothesis| hypothesis.ids.as_slice())
            .collect();
        // 0.24, 0.18, 0.18 and 0.16.
        assert_eq!(ids, [&[0, 0][..], &[0, 1], &[0, END], &[END, END]]);
    }

    #[test]
    fn probabilities_that_are_not_numbers_are_seen_in_the_score() {
        let mut probs = misleading();
        probs[1] = vec![f32::NAN; 3];
        for beam_size in [2, 3] {
            let chain = &mut Chain::new(vec![probs.clone()]);
            let output = search(chain, 1, &settings(beam_size, 3));
            assert_eq!(output[0].hypotheses[0].score, f64::INFINITY);
        }
    }

    #[test]
    fn without_steps_nothing_is_said() {
        let output = search(&mut Chain::new(vec![short()]), 1, &settings(3, 0));
        assert!(output[0].caption_ids(&settings(3, 0)).is_empty());
    }

    /// A small network and what it encodes of three pairs.
    fn encoded() -> (UniVl, CrossOutput) {
        let device = Device::default();
        let config = UniVlConfig {
            d_model: 16,
            n_heads: 2,
            d_ff: 24,
            decoder_layers: 2,
            ..UniVlConfig::mini(30, 6)
        };
        let model = config.init(4, &device).unwrap();
        let ids: Vec<i64> = (0..12).map(|at| 5 + at * 7 % 20).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [3, 4]), &device);
        let pad: Vec<bool> = (0..12).map(|at| at == 7).collect();
        let pad = Tensor::<2, Bool>::from_data(TensorData::new(pad, [3, 4]), &device);
        let frames: Vec<f32> = (0..54).map(|at| (at as f32 * 0.7).sin()).collect();
        let frames = Tensor::<3>::from_data(TensorData::new(frames, [3, 3, 6]), &device);
        let all = Tensor::<2, Bool>::from_data(TensorData::new(vec![false; 9], [3, 3]), &device);
        let text = model.encode_text(ids, pad, Pass::Evaluation);
        let video = model.encode_video(frames, all, Pass::Evaluation);
        let encoded = model.encode_for_captions(&text, &video);
        (model, encoded)
    }

    #[test]
    fn kept_keys_and_values_change_no_token() {
        let (model, encoded) = encoded();
        // The end token is one that comes soon for some item, so that items leave the batch.
        let first = beam_search(&model, &encoded, &settings(1, 2));
        let soon = *first[1].hypotheses[0].ids.last().unwrap();
        for (beam_size, end) in [(1, END), (1, soon), (4, END), (4, soon)] {
            let settings = BeamSearch {
                end,
                ..settings(beam_size, 7)
            };
            let again = beam_search(&model, &encoded, &settings);
            let kept = beam_search_cached(&model, &encoded, &settings);
            assert_eq!(again.len(), 3);
            for (again, kept) in again.iter().zip(&kept) {
                assert_eq!(again.hypotheses.len(), beam_size);
                for (again, kept) in again.hypotheses.iter().zip(&kept.hypotheses) {
                    assert_eq!(again.ids, kept.ids);
                    assert!((again.score - kept.score).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn the_best_candidates_are_kept_in_order() {
        let mut kept = Vec::new();
        for (token, score) in [0.1, 0.9, 0.5, 0.9, 0.2].into_iter().enumerate() {
            let candidate = Candidate {
                score,
                beam: 0,
                token,
            };
            keep_best(&mut kept, candidate, 3);
        }
        let order: Vec<usize> = kept.iter().map(|candidate| candidate.token).collect();
        assert_eq!(order, vec![1, 3, 2]);
    }

    #[test]
    fn a_caption_ends_before_the_first_end_token() {
        let output = BeamOutput {
            hypotheses: vec![Hypothesis {
                ids: vec![7, 8, END, 9],
                score: -1.0,
            }],
        };
        assert_eq!(output.caption_ids(&settings(1, 5)), vec![7, 8]);
    }
}
