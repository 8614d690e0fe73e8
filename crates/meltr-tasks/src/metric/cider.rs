//! CIDEr of captions.

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use super::tokens::{MAX_ORDER, NGram, Tokens, ngrams};

/// Width in bigrams of the penalty on a difference of lengths.
const SIGMA: f64 = 6.0;

/// CIDEr of each item of a corpus, in `[0, 10]`; that of the corpus is their mean.
///
/// ```text
/// g(c) = count(c) · (ln N − ln max(1, df(c)))
/// CIDEr = 10/4 Σₙ meanᵣ exp(−Δ²/2σ²) · Σ_c min(g_h(c), g_r(c)) g_r(c) / (|g_h| |g_r|)
/// ```
///
/// `N` is the number of items, `df` the number of items with the n-gram in any reference, `Δ` the
/// difference of the numbers of bigrams, and `c` runs through the n-grams of the hypothesis. This
/// is the variant with clipping and penalty, called CIDEr-D in the paper, which COCO's evaluation
/// calls CIDEr. A corpus of one item has the score 0, since `ln N` is; the best score of an item
/// whose references have less than four tokens is below 10.
///
/// Takes time proportional to the n-grams of the references; items are shared among the threads
/// of rayon's pool.
///
/// # References
///
/// - Vedantam, Zitnick and Parikh, [CIDEr: Consensus-based Image Description
///   Evaluation](https://arxiv.org/abs/1411.5726), CVPR 2015.
/// - Reference code: `pycocoevalcap` 1.2 `cider/cider_scorer.py`.
pub(crate) fn cider(captions: &[Tokens]) -> Vec<f64> {
    let items: Vec<Counted> = captions.par_iter().map(Counted::new).collect();
    let mut frequencies: FxHashMap<NGram, u32> = FxHashMap::default();
    for item in &items {
        for ngram in &item.ngrams[..item.n_in_references] {
            *frequencies.entry(*ngram).or_default() += 1;
        }
    }
    let log_n = (captions.len() as f64).ln();
    items
        .par_iter()
        .map(|item| item.score(&frequencies, log_n))
        .collect()
}

/// How often each n-gram is in the texts of one item.
struct Counted {
    /// The n-grams of the item, those of the references first.
    ngrams: Vec<NGram>,
    /// Order of each, less 1.
    orders: Vec<usize>,
    n_in_references: usize,
    hypothesis: Counts,
    references: Vec<Counts>,
}

/// How often n-grams, by their places among those of the item, are in one text.
struct Counts {
    counts: Vec<(usize, u32)>,
    n_bigrams: usize,
}

impl Counted {
    fn new(item: &Tokens) -> Self {
        let mut places: FxHashMap<NGram, usize> = FxHashMap::default();
        let (mut all, mut orders) = (Vec::new(), Vec::new());
        let mut count = |tokens: &[u32]| {
            let mut found: Vec<usize> = ngrams(tokens)
                .map(|(order, ngram)| {
                    let place = *places.entry(ngram).or_insert(all.len());
                    if place == all.len() {
                        all.push(ngram);
                        orders.push(order);
                    }
                    place
                })
                .collect();
            found.sort_unstable();
            Counts {
                counts: found
                    .chunk_by(|a, b| a == b)
                    .map(|run| (run[0], run.len() as u32))
                    .collect(),
                n_bigrams: tokens.len().saturating_sub(1),
            }
        };
        let references: Vec<Counts> = item
            .references
            .iter()
            .map(|reference| count(reference))
            .collect();
        // An n-gram is new to the references if its place is beyond those of all of them.
        let n_in_references = references
            .iter()
            .flat_map(|reference| reference.counts.last())
            .map(|(place, _)| place + 1)
            .max()
            .unwrap_or(0);
        let hypothesis = count(&item.hypothesis);
        Self {
            ngrams: all,
            orders,
            n_in_references,
            hypothesis,
            references,
        }
    }

    fn score(&self, frequencies: &FxHashMap<NGram, u32>, log_n: f64) -> f64 {
        let rarities: Vec<f64> = self
            .ngrams
            .iter()
            .map(|ngram| {
                let frequency = frequencies.get(ngram).copied().unwrap_or(0).max(1);
                log_n - f64::from(frequency).ln()
            })
            .collect();
        let (hypothesis, norms) = self.weights(&self.hypothesis, &rarities);
        let mut of_reference = vec![0.0; self.ngrams.len()];
        let mut total = 0.0;
        for counts in &self.references {
            let (reference, reference_norms) = self.weights(counts, &rarities);
            for &(place, weight) in &reference {
                of_reference[place] = weight;
            }
            let mut common = [0.0; MAX_ORDER];
            for &(place, weight) in &hypothesis {
                let other: f64 = of_reference[place];
                common[self.orders[place]] += weight.min(other) * other;
            }
            for &(place, _) in &reference {
                of_reference[place] = 0.0;
            }
            let delta = self.hypothesis.n_bigrams as f64 - counts.n_bigrams as f64;
            let penalty = (-delta * delta / (2.0 * SIGMA * SIGMA)).exp();
            for ((norm, reference_norm), common) in norms.iter().zip(&reference_norms).zip(&common)
            {
                let norm = norm * reference_norm;
                if norm != 0.0 {
                    total += penalty * common / norm;
                }
            }
        }
        10.0 * total / (MAX_ORDER * self.references.len()) as f64
    }

    /// Weight of each n-gram of a text, and their norms by order.
    fn weights(&self, text: &Counts, rarities: &[f64]) -> (Vec<(usize, f64)>, [f64; MAX_ORDER]) {
        let mut squares = [0.0; MAX_ORDER];
        let weights = text
            .counts
            .iter()
            .map(|&(place, count)| {
                let weight = f64::from(count) * rarities[place];
                squares[self.orders[place]] += weight * weight;
                (place, weight)
            })
            .collect();
        (weights, squares.map(f64::sqrt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(hypothesis: &[u32], references: &[&[u32]]) -> Tokens {
        Tokens {
            hypothesis: hypothesis.to_vec(),
            references: references
                .iter()
                .map(|reference| reference.to_vec())
                .collect(),
        }
    }

    #[test]
    fn a_perfect_hypothesis_of_four_tokens_scores_ten() {
        let scores = cider(&[
            item(&[1, 2, 3, 4], &[&[1, 2, 3, 4]]),
            item(&[5, 6], &[&[5, 6]]),
            item(&[9], &[&[7, 8]]),
        ]);
        assert!((scores[0] - 10.0).abs() < 1e-12);
        // Two tokens have no 3-grams and no 4-grams.
        assert!((scores[1] - 5.0).abs() < 1e-12);
        assert_eq!(scores[2], 0.0);
    }

    #[test]
    fn a_corpus_of_one_item_scores_nothing() {
        assert_eq!(cider(&[item(&[1, 2], &[&[1, 2]])]), [0.0]);
        assert!(cider(&[]).is_empty());
    }

    #[test]
    fn a_unigram_is_weighed_by_its_rarity_and_a_longer_hypothesis_is_penalized() {
        // Token 1 is in the references of one of two items, token 2 in both.
        let scores = cider(&[item(&[1, 1, 2], &[&[1, 2]]), item(&[2], &[&[2]])]);
        // Weights ln 2 of token 1 (twice in the hypothesis) and 0 of token 2; of the bigrams
        // (1 1), which no reference has, and (1 2) both ln 2; one bigram more.
        let unigrams = 1.0 / 2.0;
        let bigrams = 1.0 / 2.0_f64.sqrt();
        let penalty = (-1.0_f64 / 72.0).exp();
        let expected = 10.0 / 4.0 * penalty * (unigrams + bigrams);
        assert!((scores[0] - expected).abs() < 1e-12, "{}", scores[0]);
        assert_eq!(scores[1], 0.0);
    }

    #[test]
    fn references_are_averaged() {
        let one = cider(&[item(&[1, 2, 3, 4], &[&[1, 2, 3, 4]]), item(&[5], &[&[5]])]);
        let two = cider(&[
            item(&[1, 2, 3, 4], &[&[1, 2, 3, 4], &[6, 7, 8, 9]]),
            item(&[5], &[&[5]]),
        ]);
        assert!((two[0] - one[0] / 2.0).abs() < 1e-12);
    }
}
