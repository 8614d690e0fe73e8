//! Captions as token numbers, and their n-grams.

use rustc_hash::FxHashMap;

/// Tokens of the longest n-gram by which captions are compared.
pub(crate) const MAX_ORDER: usize = 4;

/// Stands for no token, in n-grams of less than four.
const NO_TOKEN: u32 = u32::MAX;

/// Token numbers of an n-gram, filled up with [`NO_TOKEN`].
pub(crate) type NGram = [u32; MAX_ORDER];

/// One item in tokens; equal tokens of a corpus have the same number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tokens {
    pub(crate) hypothesis: Vec<u32>,
    pub(crate) references: Vec<Vec<u32>>,
}

/// Numbers of the tokens of a corpus.
#[derive(Debug, Default)]
pub(crate) struct TokenNumbers<'t>(FxHashMap<&'t str, u32>);

impl<'t> TokenNumbers<'t> {
    /// The numbers of some tokens; new ones are numbered in the order in which they come.
    pub(crate) fn of(&mut self, tokens: impl Iterator<Item = &'t str>) -> Vec<u32> {
        tokens
            .map(|token| {
                let next = self.0.len() as u32;
                *self.0.entry(token).or_insert(next)
            })
            .collect()
    }
}

/// All n-grams of one to four tokens with their order less 1: `(0, unigram)` to `(3, 4-gram)`.
pub(crate) fn ngrams(tokens: &[u32]) -> impl Iterator<Item = (usize, NGram)> + '_ {
    (1..=MAX_ORDER).flat_map(move |order| {
        tokens.windows(order).map(move |window| {
            let mut ngram = [NO_TOKEN; MAX_ORDER];
            ngram[..order].copy_from_slice(window);
            (order - 1, ngram)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_tokens_have_the_same_number() {
        let mut numbers = TokenNumbers::default();
        assert_eq!(numbers.of("a b a".split(' ')), [0, 1, 0]);
        assert_eq!(numbers.of("c b".split(' ')), [2, 1]);
        assert!(numbers.of(std::iter::empty()).is_empty());
    }

    #[test]
    fn three_tokens_have_six_ngrams() {
        let all: Vec<(usize, NGram)> = ngrams(&[7, 8, 9]).collect();
        assert_eq!(all.len(), 6);
        assert_eq!(all[0], (0, [7, NO_TOKEN, NO_TOKEN, NO_TOKEN]));
        assert_eq!(all[4], (1, [8, 9, NO_TOKEN, NO_TOKEN]));
        assert_eq!(all[5], (2, [7, 8, 9, NO_TOKEN]));
        assert_eq!(ngrams(&[]).count(), 0);
    }
}
