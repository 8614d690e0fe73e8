//! Counts of an alignment, and METEOR as a function of them.

use std::fmt;

use super::matcher::Match;
use super::words::Text;

/// Weight of recall against precision, as fitted to human rankings of English translations.
const ALPHA: f64 = 0.85;
/// Exponent of the fragmentation.
const BETA: f64 = 0.2;
/// Share of the score that fragmentation may cost.
const GAMMA: f64 = 0.6;
/// Weight of content words against function words.
const DELTA: f64 = 0.75;

/// Numbers that describe an alignment.
const N_STATS: usize = 23;

/// Places of these numbers. Where there is one per side, the hypothesis comes first.
const LENGTHS: usize = 0;
const FUNCTION_LENGTHS: usize = 2;
const MODULES: usize = 4;
const CHUNKS: usize = 20;
const MATCHED: usize = 21;

/// Numbers per module: content words of both sides, then function words of both.
const PER_MODULE: usize = 4;
const FUNCTION: usize = 2;

/// A way in which METEOR matches phrases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MeteorModule {
    /// Equal words; weight 1.
    Exact,
    /// Words of equal stem; weight 0.6.
    Stem,
    /// Words that share a synset of WordNet; weight 0.8.
    Synonym,
    /// Phrases of the table of paraphrases; weight 0.6.
    Paraphrase,
}

impl MeteorModule {
    /// All modules in their order.
    pub const ALL: [Self; 4] = [Self::Exact, Self::Stem, Self::Synonym, Self::Paraphrase];

    fn weight(self) -> f64 {
        match self {
            Self::Exact => 1.0,
            Self::Synonym => 0.8,
            Self::Stem | Self::Paraphrase => 0.6,
        }
    }

    /// Where the numbers of the module begin.
    fn place(self) -> usize {
        MODULES + PER_MODULE * self as usize
    }
}

impl fmt::Display for MeteorModule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Exact => "exact",
            Self::Stem => "stem",
            Self::Synonym => "synonym",
            Self::Paraphrase => "paraphrase",
        })
    }
}

/// METEOR of a hypothesis against its best reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeteorSegment {
    /// In `[0, 1]`.
    pub score: f64,
    /// Counts of words, in the order of METEOR's own output: the lengths of hypothesis and
    /// reference, and how many of these are function words; for each of
    /// [`MeteorModule::ALL`] the matched content words of hypothesis and reference and the matched
    /// function words of both; the chunks, and all matched words of hypothesis and reference.
    pub stats: [u64; 23],
    /// Index of the first reference with this score; 0 without references.
    pub reference: usize,
}

/// The counts of an alignment in the order of the reference.
pub(crate) fn stats_of(
    hypothesis: &Text<'_>,
    reference: &Text<'_>,
    alignment: &[Match],
) -> [u64; N_STATS] {
    let mut stats = [0; N_STATS];
    for (side, text) in [hypothesis, reference].into_iter().enumerate() {
        stats[LENGTHS + side] = text.len() as u64;
        let functions = text.words.iter().filter(|word| word.is_function).count();
        stats[FUNCTION_LENGTHS + side] = functions as u64;
    }
    let mut chunk_end = None;
    for found in alignment {
        let sides = [(hypothesis, found.hypothesis), (reference, found.reference)];
        for (side, (text, span)) in sides.into_iter().enumerate() {
            for word in &text.words[span.start..span.end] {
                let kind = if word.is_function { FUNCTION } else { 0 };
                stats[found.module.place() + kind + side] += 1;
                stats[MATCHED + side] += 1;
            }
        }
        if chunk_end != Some((found.hypothesis.start, found.reference.start)) {
            stats[CHUNKS] += 1;
        }
        chunk_end = Some((found.hypothesis.end, found.reference.end));
    }
    stats
}

/// The score by the counts of a segment; 0 where nothing matches.
pub(crate) fn score_of(stats: &[u64; N_STATS]) -> f64 {
    score_of_sums(&without_whole_chunk(*stats))
}

/// The score of segments together, by their summed counts.
pub(crate) fn corpus_score_of<'s>(segments: impl Iterator<Item = &'s [u64; N_STATS]>) -> f64 {
    let mut sums = [0; N_STATS];
    for stats in segments {
        for (sum, count) in sums.iter_mut().zip(without_whole_chunk(*stats)) {
            *sum += count;
        }
    }
    score_of_sums(&sums)
}

/// A chunk that is all of both texts is no fragment.
fn without_whole_chunk(mut stats: [u64; N_STATS]) -> [u64; N_STATS] {
    if stats[CHUNKS] == 1 && stats[MATCHED..MATCHED + 2] == stats[LENGTHS..LENGTHS + 2] {
        stats[CHUNKS] = 0;
    }
    stats
}

fn score_of_sums(stats: &[u64; N_STATS]) -> f64 {
    let at = |place: usize| stats[place] as f64;
    let fraction = |side: usize| {
        let matched: f64 = MeteorModule::ALL
            .into_iter()
            .map(|module| {
                let place = module.place() + side;
                module.weight() * (DELTA * at(place) + (1.0 - DELTA) * at(place + FUNCTION))
            })
            .sum();
        let functions = at(FUNCTION_LENGTHS + side);
        let length = DELTA * (at(LENGTHS + side) - functions) + (1.0 - DELTA) * functions;
        matched / length
    };
    let (precision, recall) = (fraction(0), fraction(1));
    let mean = 1.0 / ((1.0 - ALPHA) / precision + ALPHA / recall);
    let fragmentation = 2.0 * at(CHUNKS) / (at(MATCHED) + at(MATCHED + 1));
    let score = mean * (1.0 - GAMMA * fragmentation.powf(BETA));
    // Without matches or without words there is a quotient of zeros.
    if score.is_nan() { 0.0 } else { score }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths, function words, exact matches of content and function words, chunks; the same on
    /// both sides but for the lengths.
    fn stats(lengths: [u64; 2], functions: u64, matched: [u64; 2], chunks: u64) -> [u64; N_STATS] {
        let mut stats = [0; N_STATS];
        stats[..2].copy_from_slice(&lengths);
        stats[2..4].fill(functions);
        stats[4..6].fill(matched[0]);
        stats[6..8].fill(matched[1]);
        stats[CHUNKS] = chunks;
        stats[MATCHED..].fill(matched[0] + matched[1]);
        stats
    }

    #[test]
    fn equal_texts_score_one_and_different_ones_nothing() {
        assert_eq!(score_of(&stats([3, 3], 1, [2, 1], 1)), 1.0);
        assert_eq!(score_of(&stats([3, 2], 1, [0, 0], 0)), 0.0);
        assert_eq!(score_of(&stats([0, 2], 0, [0, 0], 0)), 0.0);
        assert_eq!(score_of(&[0; N_STATS]), 0.0);
    }

    #[test]
    fn a_score_is_that_of_the_formula() {
        // Two content words in two chunks; four in the hypothesis, two of them matched.
        let precision: f64 = 2.0 / 4.0;
        let recall: f64 = 2.0 / 3.0;
        let mean = precision * recall / (0.85 * precision + 0.15 * recall);
        let expected = mean * (1.0 - 0.6);
        let found = score_of(&stats([4, 3], 0, [2, 0], 2));
        assert!((found - expected).abs() < 1e-12, "{found}");
        // Function words weigh a third of content words.
        let precision = (0.75 + 0.25) / (2.0 * 0.75 + 0.25);
        let fragmentation: f64 = 1.0 / 2.0;
        let expected = precision * (1.0 - 0.6 * fragmentation.powf(0.2));
        let found = score_of(&stats([3, 3], 1, [1, 1], 1));
        assert!((found - expected).abs() < 1e-12, "{found}");
    }

    #[test]
    fn a_corpus_is_scored_by_its_sums() {
        let (whole, part) = (stats([3, 3], 1, [2, 1], 1), stats([3, 3], 1, [1, 0], 1));
        assert_eq!(corpus_score_of([&whole, &whole].into_iter()), 1.0);
        let found = corpus_score_of([&whole, &part].into_iter());
        let fraction = (3.0 * 0.75 + 0.25) / (4.0 * 0.75 + 2.0 * 0.25);
        let fragmentation: f64 = 2.0 / 8.0;
        let expected = fraction * (1.0 - 0.6 * fragmentation.powf(0.2));
        assert!((found - expected).abs() < 1e-12, "{found}");
        assert_eq!(corpus_score_of(std::iter::empty()), 0.0);
    }

    #[test]
    fn modules_follow_each_other_in_the_counts() {
        let places: Vec<usize> = MeteorModule::ALL
            .into_iter()
            .map(MeteorModule::place)
            .collect();
        assert_eq!(places, [4, 8, 12, 16]);
        assert_eq!(MeteorModule::Synonym.to_string(), "synonym");
    }
}
