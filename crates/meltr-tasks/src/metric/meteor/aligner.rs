//! Which matches the alignment of two texts consists of.

use std::cmp::Reverse;
use std::mem;

use super::matcher::Match;
use super::score::MeteorModule;

/// Paths that the search keeps after each word of the reference.
const BEAM: usize = 40;

/// Bits of a block of used words.
const BITS: usize = u64::BITS as usize;

/// Chooses matches that share no word, in the order of the reference.
///
/// A match whose words are in no other match is chosen at once. Among the others, a beam search
/// over the words of the reference prefers many matched words, then few chunks, then a small
/// distance, and among equals what it found first. A chunk is a run of matches that is adjacent in
/// both texts.
///
/// What differs from METEOR's description is so in the original:
///
/// - Words that match exactly count 1 on each side, and other matches half of their words on each
///   side, rounded down: a single word that matches by stem counts nothing, so that the search
///   leaves it out where it would cost a chunk.
/// - A chunk counts when it ends, and when all words were visited.
/// - The distance of a match, from its place in the hypothesis to that in the reference, is
///   charged to the paths that pass it over for later matches of the same word or for none.
///
/// # References
///
/// - Denkowski and Lavie, Meteor 1.3: Automatic Metric for Reliable Optimization and Evaluation of
///   Machine Translation Systems, WMT 2011.
/// - The behavior of `meteor-1.5.jar`, observed on random texts for beams of 1, 2, 3, 40 and 1000.
pub(crate) fn align(
    n_hypothesis: usize,
    n_reference: usize,
    mut matches: Vec<Match>,
) -> Vec<Match> {
    matches.sort_by_key(|found| found.reference.start);
    let alone = alone(n_hypothesis, n_reference, &matches);
    let n_blocks = n_hypothesis.div_ceil(BITS);
    let mut links: Vec<Link> = Vec::new();
    let mut front = Front::new(n_blocks);
    let mut next = Front::default();
    let mut first = 0;
    for place in 0..n_reference {
        let here = matches[first..]
            .iter()
            .take_while(|found| found.reference.start == place)
            .count();
        let here = first..first + here;
        next.clear();
        for path in &front.paths {
            let used = &front.used[path.offset..path.offset + n_blocks];
            if here.len() == 1 && alone[first] {
                next.push_match(*path, used, &mut links, (first, &matches[first]));
                continue;
            }
            if place < path.reference_end {
                next.push(*path, used);
                continue;
            }
            let mut passing = *path;
            for index in here.clone() {
                let found = &matches[index];
                if is_free(used, found) {
                    next.push_match(passing, used, &mut links, (index, found));
                    passing.distance += found.hypothesis.start.abs_diff(place);
                }
            }
            next.push(passing.with_chunk_ended(), used);
        }
        next.keep_best();
        mem::swap(&mut front, &mut next);
        first = here.end;
    }
    let best = front
        .paths
        .iter()
        .min_by_key(|path| path.with_chunk_ended().rank());
    let mut chosen = Vec::new();
    let mut last = best.and_then(|path| path.last);
    while let Some(link) = last {
        chosen.push(matches[links[link].index]);
        last = links[link].before;
    }
    chosen.reverse();
    chosen
}

/// Whether no other match has a word of a match, for each match.
fn alone(n_hypothesis: usize, n_reference: usize, matches: &[Match]) -> Vec<bool> {
    let mut in_hypothesis = vec![0_usize; n_hypothesis];
    let mut in_reference = vec![0_usize; n_reference];
    for found in matches {
        for count in &mut in_hypothesis[found.hypothesis.start..found.hypothesis.end] {
            *count += 1;
        }
        for count in &mut in_reference[found.reference.start..found.reference.end] {
            *count += 1;
        }
    }
    let is_alone = |found: &Match| {
        let hypothesis = &in_hypothesis[found.hypothesis.start..found.hypothesis.end];
        let reference = &in_reference[found.reference.start..found.reference.end];
        hypothesis.iter().chain(reference).all(|count| *count == 1)
    };
    matches.iter().map(is_alone).collect()
}

/// A match on the way of a path.
#[derive(Debug)]
struct Link {
    /// Of the match.
    index: usize,
    /// The link before it.
    before: Option<usize>,
}

/// A choice among the matches of the words of the reference that were visited.
#[derive(Debug, Clone, Copy, Default)]
struct Path {
    /// Matched words, by the count of the search.
    weight: usize,
    /// Chunks that have ended.
    n_chunks: usize,
    distance: usize,
    /// The word of the hypothesis that would continue the chunk, if one has not ended.
    open: Option<usize>,
    /// The first word of the reference after all matches.
    reference_end: usize,
    /// The last link.
    last: Option<usize>,
    /// Where the front has the words of the hypothesis that are used.
    offset: usize,
}

impl Path {
    /// What is smaller for a better path.
    fn rank(&self) -> (Reverse<usize>, usize, usize) {
        (Reverse(self.weight), self.n_chunks, self.distance)
    }

    fn with_chunk_ended(mut self) -> Self {
        if self.open.take().is_some() {
            self.n_chunks += 1;
        }
        self
    }
}

/// The paths after a word of the reference, the best one first.
#[derive(Debug, Default)]
struct Front {
    paths: Vec<Path>,
    /// One bit a word of the hypothesis, in blocks, path after path.
    used: Vec<u64>,
}

impl Front {
    /// A path without matches.
    fn new(n_blocks: usize) -> Self {
        Self {
            paths: vec![Path::default()],
            used: vec![0; n_blocks],
        }
    }

    fn clear(&mut self) {
        self.paths.clear();
        self.used.clear();
    }

    fn push(&mut self, mut path: Path, used: &[u64]) {
        path.offset = self.used.len();
        self.paths.push(path);
        self.used.extend_from_slice(used);
    }

    /// Adds a path that goes on with a match, which comes with its index.
    fn push_match(
        &mut self,
        mut path: Path,
        used: &[u64],
        links: &mut Vec<Link>,
        (index, found): (usize, &Match),
    ) {
        if path.open.is_some_and(|end| end != found.hypothesis.start) {
            path.n_chunks += 1;
        }
        path.weight += weight(found);
        path.open = Some(found.hypothesis.end);
        path.reference_end = found.reference.end;
        links.push(Link {
            index,
            before: path.last,
        });
        path.last = Some(links.len() - 1);
        let offset = self.used.len();
        self.push(path, used);
        for word in found.hypothesis.start..found.hypothesis.end {
            self.used[offset + word / BITS] |= 1 << (word % BITS);
        }
    }

    /// Drops all paths but the best ones; of equals, those that came first are better.
    fn keep_best(&mut self) {
        self.paths.sort_by_key(Path::rank);
        self.paths.truncate(BEAM);
    }
}

/// What a match counts in the search.
fn weight(found: &Match) -> usize {
    let (hypothesis, reference) = (found.hypothesis.len(), found.reference.len());
    match found.module {
        MeteorModule::Exact => hypothesis + reference,
        _ => hypothesis / 2 + reference / 2,
    }
}

/// Whether no word of a match in the hypothesis is used.
fn is_free(used: &[u64], found: &Match) -> bool {
    (found.hypothesis.start..found.hypothesis.end)
        .all(|word| used[word / BITS] & (1 << (word % BITS)) == 0)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::words::Span;
    use super::*;

    /// A match from words of the hypothesis to words of the reference.
    fn found(hypothesis: [usize; 2], reference: [usize; 2], module: MeteorModule) -> Match {
        let span = |[start, end]: [usize; 2]| Span { start, end };
        Match {
            hypothesis: span(hypothesis),
            reference: span(reference),
            module,
        }
    }

    /// All pairs of equal words.
    fn exact(hypothesis: &[&str], reference: &[&str]) -> Vec<Match> {
        let mut matches = Vec::new();
        for (j, right) in reference.iter().enumerate() {
            for (i, left) in hypothesis.iter().enumerate() {
                if left == right {
                    matches.push(found([i, i + 1], [j, j + 1], MeteorModule::Exact));
                }
            }
        }
        matches
    }

    /// Pairs of places in the reference and in the hypothesis, by equal words.
    fn aligned(hypothesis: &str, reference: &str) -> Vec<(usize, usize)> {
        let hypothesis: Vec<&str> = hypothesis.split(' ').collect();
        let reference: Vec<&str> = reference.split(' ').collect();
        let matches = exact(&hypothesis, &reference);
        align(hypothesis.len(), reference.len(), matches)
            .iter()
            .map(|found| (found.reference.start, found.hypothesis.start))
            .collect()
    }

    #[test]
    fn more_matches_win_and_then_fewer_chunks() {
        assert_eq!(aligned("a b c", "c x a b"), [(0, 2), (2, 0), (3, 1)]);
        assert_eq!(aligned("the car", "the boys the car"), [(2, 0), (3, 1)]);
        assert_eq!(
            aligned("the a b the c d", "d the c"),
            [(0, 5), (1, 3), (2, 4)]
        );
        assert!(aligned("a", "b").is_empty());
    }

    #[test]
    fn the_first_match_wins_unless_passing_it_over_costs_nothing() {
        assert_eq!(aligned("b b", "x b y"), [(1, 0)]);
        assert_eq!(aligned("x b", "b b b"), [(0, 1)]);
        // The first pair is at the same place in both texts, so that its distance is 0.
        assert_eq!(aligned("b", "b b b"), [(1, 0)]);
        assert_eq!(aligned("x b", "z b b"), [(2, 1)]);
    }

    #[test]
    fn distances_decide_between_early_and_late_breaks() {
        let early = [(0, 3), (1, 1), (2, 2)];
        let late = [(0, 3), (1, 4), (2, 0)];
        assert_eq!(aligned("c z c b z b", "b z c"), late);
        let shifted = |(place, in_hypothesis): (usize, usize)| (place, in_hypothesis + 2);
        assert_eq!(
            aligned("h h c z c b z b", "b z c"),
            early.map(shifted),
            "two words further right, the matches that the late break passes over are further off"
        );
    }

    #[test]
    fn a_single_inexact_word_is_left_out_where_it_would_cost_a_chunk() {
        let inexact = |i: usize, j: usize| found([i, i + 1], [j, j + 1], MeteorModule::Stem);
        // Two candidates for one word of the reference, neither beside the exact match.
        let exact = found([4, 5], [4, 5], MeteorModule::Exact);
        let chosen = align(6, 5, vec![inexact(0, 2), inexact(2, 2), exact]);
        assert_eq!(chosen, [exact]);
        // Without a rival, it is in.
        let chosen = align(6, 5, vec![inexact(0, 2), exact]);
        assert_eq!(chosen, [inexact(0, 2), exact]);
    }

    #[test]
    fn a_phrase_counts_half_of_its_words_and_excludes_what_it_covers() {
        let phrase = found([0, 2], [0, 2], MeteorModule::Paraphrase);
        let first = found([0, 1], [0, 1], MeteorModule::Exact);
        let second = found([1, 2], [1, 2], MeteorModule::Stem);
        // 1 + 1 words by the phrase, 1 + 1 by the first word alone: one chunk each.
        let chosen = align(2, 2, vec![first, second, phrase]);
        assert_eq!(chosen, [first, second]);
        let chosen = align(2, 2, vec![second, phrase]);
        assert_eq!(chosen, [phrase]);
    }

    #[test]
    fn texts_without_words_have_no_alignment() {
        assert!(align(0, 0, Vec::new()).is_empty());
        assert!(align(0, 2, Vec::new()).is_empty());
        assert!(align(2, 0, Vec::new()).is_empty());
    }

    proptest! {
        #[test]
        fn no_word_is_used_twice_and_a_text_is_aligned_with_itself(
            left in vec("[a-d]", 1..100),
            right in vec("[a-d]", 1..20),
        ) {
            let left: Vec<&str> = left.iter().map(String::as_str).collect();
            let right: Vec<&str> = right.iter().map(String::as_str).collect();
            let chosen = align(left.len(), right.len(), exact(&left, &right));
            let mut used = vec![false; left.len()];
            let mut end = 0;
            for found in &chosen {
                prop_assert!(found.reference.start >= end);
                end = found.reference.end;
                prop_assert!(!mem::replace(&mut used[found.hypothesis.start], true));
            }
            let chosen = align(right.len(), right.len(), exact(&right, &right));
            prop_assert!(chosen.iter().all(|found| found.hypothesis == found.reference));
            prop_assert_eq!(chosen.len(), right.len());
        }
    }
}
