//! BLEU of captions.

use std::iter::Sum;

use rustc_hash::FxHashMap;

use super::tokens::{MAX_ORDER, NGram, Tokens, ngrams};

/// Keeps a precision of 0 from making a logarithm of 0, as in the reference code.
const TINY: f64 = 1e-15;

/// Keeps a count of 0 from being divided by.
const SMALL: f64 = 1e-9;

/// What BLEU counts: of one item, or summed over a corpus.
///
/// The n-grams of a hypothesis are correct as often as the reference with most of them has them.
/// The length of the references is that of the one nearest in length, and of two equally near
/// ones that of the shorter.
///
/// # References
///
/// - Papineni, Roukos, Ward and Zhu, [BLEU: a Method for Automatic Evaluation of Machine
///   Translation](https://aclanthology.org/P02-1040), ACL 2002.
/// - Reference code: `pycocoevalcap` 1.2 `bleu/bleu_scorer.py`, option `closest`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct BleuCounts {
    hypothesis_len: u64,
    reference_len: u64,
    /// N-grams of the hypothesis, by order.
    guessed: [u64; MAX_ORDER],
    /// Those among them that are in a reference.
    correct: [u64; MAX_ORDER],
}

impl BleuCounts {
    /// The counts of one item, which has at least one reference.
    pub(crate) fn of(item: &Tokens) -> Self {
        // Place and order of each n-gram of the hypothesis.
        let mut places: FxHashMap<NGram, usize> = FxHashMap::default();
        let mut orders: Vec<usize> = Vec::new();
        let mut counts: Vec<u32> = Vec::new();
        let mut guessed = [0; MAX_ORDER];
        for (order, ngram) in ngrams(&item.hypothesis) {
            guessed[order] += 1;
            let place = *places.entry(ngram).or_insert(orders.len());
            if place == orders.len() {
                orders.push(order);
                counts.push(0);
            }
            counts[place] += 1;
        }
        let mut most = vec![0; counts.len()];
        let mut in_reference = vec![0; counts.len()];
        for reference in &item.references {
            in_reference.fill(0);
            for (_, ngram) in ngrams(reference) {
                if let Some(&place) = places.get(&ngram) {
                    in_reference[place] += 1;
                    most[place] = in_reference[place].max(most[place]);
                }
            }
        }
        let mut correct = [0; MAX_ORDER];
        for ((&order, &count), &most) in orders.iter().zip(&counts).zip(&most) {
            correct[order] += u64::from(count.min(most));
        }
        let len = item.hypothesis.len();
        let reference_len = item
            .references
            .iter()
            .map(Vec::len)
            .min_by_key(|&reference| (reference.abs_diff(len), reference))
            .unwrap_or(0);
        Self {
            hypothesis_len: len as u64,
            reference_len: reference_len as u64,
            guessed,
            correct,
        }
    }

    /// BLEU-1 to BLEU-4, in `[0, 1]`.
    ///
    /// ```text
    /// BLEU-n = (Πₖ₌₁ⁿ correctₖ / guessedₖ)^(1/n) · min(1, exp(1 − references / hypothesis))
    /// ```
    pub(crate) fn scores(&self) -> [f64; MAX_ORDER] {
        let mut scores = [0.0; MAX_ORDER];
        let mut product = 1.0;
        for (order, score) in scores.iter_mut().enumerate() {
            let (correct, guessed) = (self.correct[order] as f64, self.guessed[order] as f64);
            product *= (correct + TINY) / (guessed + SMALL);
            *score = f64::powf(product, 1.0 / (order + 1) as f64);
        }
        let ratio = (self.hypothesis_len as f64 + TINY) / (self.reference_len as f64 + SMALL);
        if ratio < 1.0 {
            let penalty = (1.0 - 1.0 / ratio).exp();
            for score in &mut scores {
                *score *= penalty;
            }
        }
        scores
    }
}

impl<'a> Sum<&'a Self> for BleuCounts {
    fn sum<I: Iterator<Item = &'a Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut total, item| {
            total.hypothesis_len += item.hypothesis_len;
            total.reference_len += item.reference_len;
            for order in 0..MAX_ORDER {
                total.guessed[order] += item.guessed[order];
                total.correct[order] += item.correct[order];
            }
            total
        })
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
    fn counts_are_clipped_by_the_reference_with_most() {
        // "the the the cat" against "the cat the" and "a cat".
        let counts = BleuCounts::of(&item(&[0, 0, 0, 1], &[&[0, 1, 0], &[2, 1]]));
        assert_eq!(counts.guessed, [4, 3, 2, 1]);
        assert_eq!(counts.correct, [3, 1, 0, 0]);
        assert_eq!(counts.reference_len, 3);
        let scores = counts.scores();
        assert!((scores[0] - 0.75).abs() < 1e-9);
        assert!((scores[1] - 0.25_f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn of_two_equally_near_references_the_shorter_counts() {
        let counts = BleuCounts::of(&item(&[0; 5], &[&[0; 6], &[0; 4]]));
        assert_eq!(counts.reference_len, 4);
    }

    #[test]
    fn a_short_hypothesis_is_penalized() {
        let scores = BleuCounts::of(&item(&[0], &[&[0, 1]])).scores();
        assert!((scores[0] - (-1.0_f64).exp()).abs() < 1e-8);
    }

    #[test]
    fn an_empty_hypothesis_scores_nothing() {
        assert_eq!(BleuCounts::of(&item(&[], &[&[0, 1]])).scores(), [0.0; 4]);
    }

    #[test]
    fn a_corpus_is_scored_by_its_sums() {
        let items = [
            BleuCounts::of(&item(&[0, 1], &[&[0, 1]])),
            BleuCounts::of(&item(&[2, 3], &[&[4, 5]])),
        ];
        let total: BleuCounts = items.iter().sum();
        assert!((total.scores()[0] - 0.5).abs() < 1e-9);
    }
}
