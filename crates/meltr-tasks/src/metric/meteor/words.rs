//! The words and phrases of a text, with what METEOR compares of them.

use std::sync::Arc;

use rust_stemmers::{Algorithm, Stemmer};
use rustc_hash::FxHashMap;

use super::data::MeteorData;
use super::keys::{Key, word_number};
use super::paraphrases::Paraphrases;

/// Words of the longest phrase in the table of METEOR 1.5; longer phrases are not looked up.
const MAX_PHRASE_WORDS: usize = 7;

/// What METEOR compares of a word.
#[derive(Debug)]
pub(crate) struct Word {
    /// Equal for equal words.
    pub(crate) number: u32,
    /// Equal for words of equal stem.
    pub(crate) stem: u32,
    pub(crate) is_function: bool,
    /// Ascending; empty without a list of synonyms.
    pub(crate) synsets: Vec<u32>,
}

impl Word {
    fn new(word: &str, data: &MeteorData) -> Self {
        let number = word_number(word);
        let stemmer = Stemmer::create(Algorithm::English);
        let synonyms = data.synonyms.as_ref();
        Self {
            number,
            stem: word_number(&stemmer.stem(word)),
            is_function: data.function_words.contains(&number),
            synsets: synonyms
                .map(|synonyms| synonyms.of(word))
                .unwrap_or_default(),
        }
    }
}

/// Consecutive words of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first word, counted from 0.
    pub(crate) start: usize,
    /// The word after the last one.
    pub(crate) end: usize,
}

impl Span {
    /// A single word.
    pub(crate) fn word(place: usize) -> Self {
        Self {
            start: place,
            end: place + 1,
        }
    }

    /// Number of words.
    pub(crate) fn len(self) -> usize {
        self.end - self.start
    }
}

/// A normalized text.
#[derive(Debug)]
pub(crate) struct Text<'d> {
    pub(crate) words: Vec<Arc<Word>>,
    /// Phrases that have paraphrases, with their keys, by start and length.
    pub(crate) explained: Vec<(Span, &'d [u64])>,
    /// All phrases by key and start; empty without paraphrases.
    phrases: Vec<(u64, Span)>,
}

impl Text<'_> {
    /// Number of words.
    pub(crate) fn len(&self) -> usize {
        self.words.len()
    }

    /// Where a phrase is, from left to right.
    pub(crate) fn places(&self, key: u64) -> impl Iterator<Item = Span> {
        let first = self.phrases.partition_point(|(other, _)| *other < key);
        self.phrases[first..]
            .iter()
            .take_while(move |(other, _)| *other == key)
            .map(|(_, span)| *span)
    }
}

/// The words that were met so far, whose stems and synsets cost more than finding them here.
#[derive(Debug, Default)]
pub(crate) struct WordCache {
    known: FxHashMap<String, Arc<Word>>,
}

impl WordCache {
    /// Takes a text apart; phrases are looked up in the paraphrases, if there are any.
    pub(crate) fn text<'d>(
        &mut self,
        text: &str,
        data: &'d MeteorData,
        paraphrases: Option<&'d Paraphrases>,
    ) -> Text<'d> {
        let line = data.normalizer.normalize(text);
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let mut explained = Vec::new();
        let mut phrases = Vec::new();
        if let Some(paraphrases) = paraphrases {
            for_each_phrase(&words, |key, span| {
                phrases.push((key, span));
                let found = paraphrases.of(key);
                if !found.is_empty() {
                    explained.push((span, found));
                }
            });
            phrases.sort_unstable_by_key(|(key, span)| (*key, span.start));
        }
        Text {
            words: words.iter().map(|word| self.word(word, data)).collect(),
            explained,
            phrases,
        }
    }

    fn word(&mut self, word: &str, data: &MeteorData) -> Arc<Word> {
        if let Some(known) = self.known.get(word) {
            return Arc::clone(known);
        }
        let new = Arc::new(Word::new(word, data));
        self.known.insert(word.to_owned(), Arc::clone(&new));
        new
    }
}

/// Visits all phrases of at most [`MAX_PHRASE_WORDS`] words by start and length.
fn for_each_phrase(words: &[&str], mut visit: impl FnMut(u64, Span)) {
    for start in 0..words.len() {
        let mut key = Key::EMPTY;
        for (place, word) in words.iter().enumerate().skip(start).take(MAX_PHRASE_WORDS) {
            if place > start {
                key = key.with(b" ");
            }
            key = key.with(word.as_bytes());
            let end = place + 1;
            visit(key.get(), Span { start, end });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::small_data;
    use super::super::keys::key_of;
    use super::*;

    #[test]
    fn a_word_has_its_number_stem_and_synsets() {
        let data = small_data();
        let mut cache = WordCache::default();
        let text = cache.text("The cars' children, CARS", &data, None);
        let words = &text.words;
        assert_eq!(text.len(), 6, "the cars ' children , cars");
        assert_eq!(words[0].number, word_number("the"));
        assert_eq!(words[1].number, words[5].number);
        assert_eq!(words[1].stem, word_number("car"));
        assert_eq!(words[1].synsets, [1]);
        assert_eq!(words[3].synsets, [2]);
        let functions: Vec<bool> = words.iter().map(|word| word.is_function).collect();
        assert_eq!(functions, [true, false, false, false, true, false]);
        assert!(text.explained.is_empty());
        assert!(cache.text("", &data, None).words.is_empty());
    }

    #[test]
    fn phrases_are_found_wherever_they_are() {
        let data = small_data();
        let paraphrases = data.paraphrases.as_ref();
        let text = WordCache::default().text("lots of a in order to a b", &data, paraphrases);
        let span = |start, end| Span { start, end };
        let explained: Vec<Span> = text.explained.iter().map(|(span, _)| *span).collect();
        assert_eq!(explained, [span(0, 2), span(3, 6)]);
        assert_eq!(text.explained[1].1, [key_of(b"to")]);
        let places =
            |phrase: &str| -> Vec<Span> { text.places(key_of(phrase.as_bytes())).collect() };
        assert_eq!(places("a"), [Span::word(2), Span::word(6)]);
        assert_eq!(places("order to a"), [span(4, 7)]);
        assert!(places("to b").is_empty());
        // Seven words at most.
        assert_eq!(places("lots of a in order to a"), [span(0, 7)]);
        assert!(places("lots of a in order to a b").is_empty());
    }
}
