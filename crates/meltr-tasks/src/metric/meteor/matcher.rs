//! All pairs of equal, kindred or synonymous phrases of two texts.

use std::cmp::Ordering;

use super::score::MeteorModule;
use super::words::{Span, Text, Word};

/// A phrase of the hypothesis that says the same as one of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match {
    pub(crate) hypothesis: Span,
    pub(crate) reference: Span,
    pub(crate) module: MeteorModule,
}

/// The matches of some modules, in the order in which the original finds them.
///
/// The order decides between alignments that are equally good: by module, then from left to right;
/// paraphrases of phrases of the reference come before those of phrases of the hypothesis. Between
/// texts of the same words, only equal words match.
pub(crate) fn matches(
    hypothesis: &Text<'_>,
    reference: &Text<'_>,
    modules: &[MeteorModule],
) -> Vec<Match> {
    let mut found = Vec::new();
    let numbers =
        |text: &Text<'_>| -> Vec<u32> { text.words.iter().map(|word| word.number).collect() };
    let are_same = numbers(hypothesis) == numbers(reference);
    for module in modules {
        match module {
            MeteorModule::Exact => push_words(&mut found, hypothesis, reference, *module, is_equal),
            _ if are_same => {}
            MeteorModule::Stem => {
                push_words(&mut found, hypothesis, reference, *module, is_kindred)
            }
            MeteorModule::Synonym => {
                push_words(&mut found, hypothesis, reference, *module, is_synonym);
            }
            MeteorModule::Paraphrase => push_paraphrases(&mut found, hypothesis, reference),
        }
    }
    found
}

fn push_words(
    found: &mut Vec<Match>,
    hypothesis: &Text<'_>,
    reference: &Text<'_>,
    module: MeteorModule,
    is_match: fn(&Word, &Word) -> bool,
) {
    for (in_reference, right) in reference.words.iter().enumerate() {
        for (in_hypothesis, left) in hypothesis.words.iter().enumerate() {
            if is_match(left, right) {
                found.push(Match {
                    hypothesis: Span::word(in_hypothesis),
                    reference: Span::word(in_reference),
                    module,
                });
            }
        }
    }
}

fn is_equal(left: &Word, right: &Word) -> bool {
    left.number == right.number
}

fn is_kindred(left: &Word, right: &Word) -> bool {
    !is_equal(left, right) && left.stem == right.stem
}

fn is_synonym(left: &Word, right: &Word) -> bool {
    !is_equal(left, right) && have_common(&left.synsets, &right.synsets)
}

/// Whether two ascending lists share a number.
fn have_common(mut left: &[u32], mut right: &[u32]) -> bool {
    while let ([first, left_rest @ ..], [second, right_rest @ ..]) = (left, right) {
        match first.cmp(second) {
            Ordering::Equal => return true,
            Ordering::Less => left = left_rest,
            Ordering::Greater => right = right_rest,
        }
    }
    false
}

fn push_paraphrases(found: &mut Vec<Match>, hypothesis: &Text<'_>, reference: &Text<'_>) {
    for (phrase, paraphrases) in &reference.explained {
        for key in *paraphrases {
            found.extend(hypothesis.places(*key).map(|paraphrase| Match {
                hypothesis: paraphrase,
                reference: *phrase,
                module: MeteorModule::Paraphrase,
            }));
        }
    }
    for (phrase, paraphrases) in &hypothesis.explained {
        for key in *paraphrases {
            found.extend(reference.places(*key).map(|paraphrase| Match {
                hypothesis: *phrase,
                reference: paraphrase,
                module: MeteorModule::Paraphrase,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::small_data;
    use super::super::words::WordCache;
    use super::*;

    fn found(hypothesis: &str, reference: &str) -> Vec<(usize, usize, MeteorModule)> {
        let data = small_data();
        let mut cache = WordCache::default();
        let paraphrases = data.paraphrases.as_ref();
        let hypothesis = cache.text(hypothesis, &data, paraphrases);
        let reference = cache.text(reference, &data, paraphrases);
        matches(&hypothesis, &reference, &MeteorModule::ALL)
            .iter()
            .map(|found| (found.hypothesis.start, found.reference.start, found.module))
            .collect()
    }

    #[test]
    fn each_module_matches_what_it_is_for() {
        use MeteorModule::{Exact, Paraphrase, Stem, Synonym};
        assert_eq!(
            found("a b", "b a a"),
            [(1, 0, Exact), (0, 1, Exact), (0, 2, Exact)]
        );
        assert_eq!(
            found("walking cars", "walk walks"),
            [(0, 0, Stem), (0, 1, Stem)]
        );
        assert_eq!(
            found("kids automobile", "car children"),
            [(1, 0, Synonym), (0, 1, Synonym)]
        );
        assert_eq!(found("many", "lots of"), [(0, 0, Paraphrase)]);
        assert_eq!(found("x lots of", "many"), [(1, 0, Paraphrase)]);
        // A word and its plural share the stem and the synsets.
        assert_eq!(found("car", "x cars"), [(0, 1, Stem), (0, 1, Synonym)]);
    }

    #[test]
    fn texts_of_the_same_words_match_by_equal_words_only() {
        use MeteorModule::{Exact, Stem, Synonym};
        assert_eq!(
            found("car cars", "Car cars"),
            [(0, 0, Exact), (1, 1, Exact)]
        );
        assert_eq!(
            found("cars car", "car cars"),
            [
                (1, 0, Exact),
                (0, 1, Exact),
                (0, 0, Stem),
                (1, 1, Stem),
                (0, 0, Synonym),
                (1, 1, Synonym)
            ]
        );
    }

    #[test]
    fn paraphrases_of_the_reference_come_first() {
        let found = found("in order to to", "to in order to");
        let paraphrases: Vec<(usize, usize)> = found
            .iter()
            .filter(|(_, _, module)| *module == MeteorModule::Paraphrase)
            .map(|(hypothesis, reference, _)| (*hypothesis, *reference))
            .collect();
        assert_eq!(paraphrases, [(2, 1), (3, 1), (0, 0), (0, 3)]);
    }

    #[test]
    fn ascending_lists_share_a_number_or_not() {
        assert!(have_common(&[1, 4, 9], &[2, 9]));
        assert!(!have_common(&[1, 4, 9], &[2, 8, 10]));
        assert!(!have_common(&[], &[1]));
    }
}
