//! Text to token ids and back with a WordPiece vocabulary.

mod categories;
mod words;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::Path;

use tokenizers::models::wordpiece::WordPiece as WordPieceModel;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{AddedToken, Tokenizer};

use crate::error::{DataError, DataErrorKind};
use crate::text_file::line_of;

use self::words::{Form, lowered, words};

/// A word of more characters than this becomes `[UNK]`.
const MAX_CHARS_PER_WORD: usize = 100;

const PAD: &str = "[PAD]";
const UNKNOWN: &str = "[UNK]";
const CLS: &str = "[CLS]";
const SEP: &str = "[SEP]";
const MASK: &str = "[MASK]";

const SPECIAL: [&str; 5] = [PAD, UNKNOWN, CLS, SEP, MASK];

/// What UniVL's tokenizer recognizes; `[PAD]` is not among it.
const UNIVL_SPECIAL: [&str; 4] = [UNKNOWN, SEP, MASK, CLS];

/// What [`TextStyle::Tidy`] replaces, in this order.
const TIDY: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// Which implementation of BERT's tokenizer is followed; they differ on rare texts.
///
/// | | [`Fast`](Self::Fast) | [`Slow`](Self::Slow) | [`UniVl`](Self::UniVl) |
/// |---|---|---|---|
/// | special tokens | anywhere | anywhere | whole words; `[PAD]` never |
/// | sigma at the end of a word | `σ` | `σ` | `ς` |
/// | unassigned characters | kept | deleted | deleted |
/// | accents under [`Casing::Keep`] | as written | composed | as written |
///
/// Unassigned is what Unicode 14 had not assigned, the version of Python 3.11.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TokenizerRules {
    /// Hugging Face's `BertTokenizerFast`, which VIOLET uses.
    #[default]
    Fast,
    /// Hugging Face's `BertTokenizer`, which All-in-one uses.
    Slow,
    /// UniVL's own.
    UniVl,
}

/// What happens to upper case and accents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Casing {
    /// Lower case, no accents: for uncased vocabularies.
    #[default]
    Lower,
    /// Both are kept.
    Keep,
}

/// How ids are written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextStyle {
    /// Every token, special ones included, with continuations glued to their word.
    Tokens,
    /// As UniVL writes captions: up to the first `[SEP]` or `[PAD]`, without `#` at both ends.
    Caption,
    /// Without special tokens: Hugging Face's `decode` with `skip_special_tokens` and without
    /// `clean_up_tokenization_spaces`.
    Plain,
    /// As [`Plain`](Self::Plain), without blanks before punctuation and contractions: with
    /// `clean_up_tokenization_spaces`.
    Tidy,
}

/// A text as `[CLS]`, its tokens and `[SEP]`, cut or padded to a given length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaddedTokens {
    /// Ids, `[PAD]` after the text.
    pub ids: Vec<i64>,
    /// Number of ids before the padding, `[CLS]` and `[SEP]` included.
    pub n_tokens: usize,
}

impl PaddedTokens {
    /// True where there is no text.
    ///
    /// VIOLET takes the ids that are not `[PAD]` for text instead: the same, unless a text has a
    /// literal `[PAD]` in it.
    #[must_use]
    pub fn padding(&self) -> Vec<bool> {
        (0..self.ids.len()).map(|at| at >= self.n_tokens).collect()
    }

    /// True at `[CLS]`, `[SEP]` and padding; special tokens in the text itself do not count.
    #[must_use]
    pub fn special(&self) -> Vec<bool> {
        (0..self.ids.len())
            .map(|at| at == 0 || at + 1 >= self.n_tokens)
            .collect()
    }
}

/// Ids of the five tokens that stand for no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `[PAD]`: fills a row up to its length.
    pub pad: i64,
    /// `[UNK]`: a word that the vocabulary cannot spell.
    pub unknown: i64,
    /// `[CLS]`: first token of a text.
    pub cls: i64,
    /// `[SEP]`: last token of a text.
    pub sep: i64,
    /// `[MASK]`: a hidden token.
    pub mask: i64,
}

/// The uncased tokenizer of BERT: cleaning, lower case, no accents, split at punctuation, then the
/// longest pieces of the vocabulary.
///
/// That is what [`TokenizerRules::Fast`] does with [`Casing::Lower`], the rules that a vocabulary
/// is read with; [`with_rules`](Self::with_rules) changes them. The five special tokens are
/// recognized anywhere in a text then, so that a literal `[MASK]` is one token.
///
/// ```
/// use std::path::Path;
/// use meltr_data::WordPiece;
///
/// # fn main() -> Result<(), meltr_data::DataError> {
/// let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwater\nwave\n##s\n";
/// let word_piece = WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab)?;
/// assert_eq!(word_piece.encode("Water  waves?"), [5, 6, 7, 1]);
/// assert_eq!(word_piece.decode(&[5, 6, 7]), "water waves");
/// # Ok(())
/// # }
/// ```
///
/// # References
///
/// - Reference code of [`TokenizerRules::UniVl`]: `mlvlab/MELTR`
///   `univl/modules/tokenization.py`.
/// - Reference code of [`TokenizerRules::Slow`]: `transformers` 4.46.3 `BertTokenizer`.
#[derive(Clone)]
pub struct WordPiece {
    tokenizer: Tokenizer,
    tokens: Vec<String>,
    ids: HashMap<String, i64>,
    special: SpecialTokens,
    rules: TokenizerRules,
    casing: Casing,
}

impl WordPiece {
    /// Reads a vocabulary with one token a line; the id of a token is its line, counted from 0.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is absent, unreadable or not UTF-8, and as
    /// [`from_vocab_text`](Self::from_vocab_text).
    pub fn from_vocab_file(path: &Path) -> Result<Self, DataError> {
        let bytes = fs::read(path).map_err(|source| DataError::reading(path, source))?;
        Self::from_vocab_text(path, utf8(path, &bytes)?)
    }

    /// Reads a vocabulary from its text; `label` stands for the path in errors.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::BadVocabulary`] if the text is empty or a line is,
    /// [`DataErrorKind::DuplicateToken`] if a token occurs twice, and
    /// [`DataErrorKind::MissingToken`] if one of the five special tokens is absent.
    pub fn from_vocab_text(label: &Path, text: &str) -> Result<Self, DataError> {
        let bad = |reason: &str| DataErrorKind::BadVocabulary {
            reason: reason.to_owned(),
        };
        let mut tokens = Vec::new();
        let mut ids = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let token = line.trim_end();
            if token.is_empty() {
                return Err(DataError::at_line(
                    label,
                    index + 1,
                    bad("the line is empty"),
                ));
            }
            if let Some(first) = ids.insert(token.to_owned(), index as i64) {
                let first_line = first as usize + 1;
                let kind = DataErrorKind::DuplicateToken {
                    token: token.to_owned(),
                    first_line,
                };
                return Err(DataError::at_line(label, index + 1, kind));
            }
            tokens.push(token.to_owned());
        }
        if tokens.is_empty() {
            return Err(DataError::new(label, bad("the file is empty")));
        }
        let id = |token: &'static str| {
            let missing = || DataError::new(label, DataErrorKind::MissingToken { token });
            ids.get(token).copied().ok_or_else(missing)
        };
        let special = SpecialTokens {
            pad: id(PAD)?,
            unknown: id(UNKNOWN)?,
            cls: id(CLS)?,
            sep: id(SEP)?,
            mask: id(MASK)?,
        };
        let tokenizer =
            tokenizer(text).map_err(|error| DataError::new(label, bad(&error.to_string())))?;
        Ok(Self {
            tokenizer,
            tokens,
            ids,
            special,
            rules: TokenizerRules::Fast,
            casing: Casing::Lower,
        })
    }

    /// The same vocabulary under other rules.
    ///
    /// ```
    /// use std::path::Path;
    /// use meltr_data::{Casing, TokenizerRules, WordPiece};
    ///
    /// # fn main() -> Result<(), meltr_data::DataError> {
    /// let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n[\n]\npad\n";
    /// let fast = WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab)?;
    /// assert_eq!(fast.encode("[PAD]"), [0]);
    /// let univl = fast.with_rules(TokenizerRules::UniVl, Casing::Lower)?;
    /// assert_eq!(univl.encode("[PAD]"), [5, 7, 6]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::BadVocabulary`] if the library for [`TokenizerRules::Fast`] does
    /// not take the new normalization, which no vocabulary is known to lead to.
    pub fn with_rules(mut self, rules: TokenizerRules, casing: Casing) -> Result<Self, DataError> {
        let normalizer = match casing {
            Casing::Lower => BertNormalizer::new(true, true, Some(true), true),
            Casing::Keep => BertNormalizer::new(true, true, Some(false), false),
        };
        self.tokenizer
            .with_normalizer(Some(normalizer))
            .map_err(|error| {
                let reason = error.to_string();
                DataError::new("vocabulary", DataErrorKind::BadVocabulary { reason })
            })?;
        self.rules = rules;
        self.casing = casing;
        Ok(self)
    }

    /// A smaller vocabulary that cuts the given texts into the same tokens, and for each of its
    /// ids the id in this one.
    ///
    /// It holds the special tokens, every token of one letter, so that any word still has tokens,
    /// and every token that occurs in a text, in the order of this vocabulary. Greedy matching
    /// never takes a token that is not in the result of the full vocabulary, so the cut of these
    /// texts does not change; other texts may be cut into smaller pieces.
    ///
    /// # Errors
    ///
    /// As [`with_rules`](Self::with_rules).
    pub fn restricted_to<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<(Self, Vec<i64>), DataError> {
        let mut kept = vec![false; self.tokens.len()];
        for id in texts.into_iter().flat_map(|text| self.encode(text)) {
            kept[id as usize] = true;
        }
        let special = [PAD, UNKNOWN, CLS, SEP, MASK];
        let mut ids = Vec::new();
        let mut text = String::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let bare = token.strip_prefix("##").unwrap_or(token);
            let single = bare.chars().count() == 1;
            if kept[id] || single || special.contains(&token.as_str()) {
                ids.push(id as i64);
                text.push_str(token);
                text.push('\n');
            }
        }
        let smaller = Self::from_vocab_text(Path::new("restricted vocabulary"), &text)?
            .with_rules(self.rules, self.casing)?;
        Ok((smaller, ids))
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> TokenizerRules {
        self.rules
    }

    /// What happens to upper case and accents.
    #[must_use]
    pub fn casing(&self) -> Casing {
        self.casing
    }

    /// The ids of a text, without `[CLS]` and `[SEP]`; none for an empty text.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<i64> {
        match self.rules {
            TokenizerRules::Fast => self.encode_fast(text),
            TokenizerRules::Slow => self.encode_slow(text),
            TokenizerRules::UniVl => {
                let words = words(text, &UNIVL_SPECIAL, self.casing, Form::AsWritten);
                self.pieces(&words)
            }
        }
    }

    /// The ids of a text, each with the characters of the text that it stands for, counted from
    /// 0 in code points; `None` under other rules than [`TokenizerRules::Fast`], the only ones
    /// that keep account of them.
    #[must_use]
    pub fn encode_with_offsets(&self, text: &str) -> Option<Vec<(i64, Range<usize>)>> {
        if self.rules != TokenizerRules::Fast {
            return None;
        }
        let encoding = self.tokenizer.encode_char_offsets(text, false).ok()?;
        let ids = encoding.get_ids().iter();
        let offsets = encoding.get_offsets().iter();
        Some(
            ids.zip(offsets)
                .map(|(&id, &(start, end))| (i64::from(id), start..end))
                .collect(),
        )
    }

    /// `[CLS]`, the tokens of a text and `[SEP]` in exactly `length` ids.
    ///
    /// A longer text loses its last tokens and keeps `[SEP]`. A length of 1 has room for `[CLS]`
    /// only.
    #[must_use]
    pub fn encode_padded(&self, text: &str, length: usize) -> PaddedTokens {
        let mut ids = vec![self.special.cls];
        ids.extend(self.encode(text));
        ids.truncate(length.saturating_sub(1).max(1));
        ids.push(self.special.sep);
        ids.truncate(length);
        let n_tokens = ids.len();
        ids.resize(length, self.special.pad);
        PaddedTokens { ids, n_tokens }
    }

    /// The text of some ids: tokens joined by blanks, continuations glued to their word.
    ///
    /// Special tokens are written out; an id outside the vocabulary reads `[UNK]`.
    #[must_use]
    pub fn decode(&self, ids: &[i64]) -> String {
        self.decode_as(ids, TextStyle::Tokens)
    }

    /// The text of some ids in a given style; an id outside the vocabulary reads `[UNK]`.
    #[must_use]
    pub fn decode_as(&self, ids: &[i64], style: TextStyle) -> String {
        let tokens = ids.iter().map(|&id| self.token(id).unwrap_or(UNKNOWN));
        let tokens: Vec<&str> = match style {
            TextStyle::Tokens => tokens.collect(),
            TextStyle::Caption => tokens
                .take_while(|&token| token != SEP && token != PAD)
                .collect(),
            TextStyle::Plain | TextStyle::Tidy => {
                tokens.filter(|token| !SPECIAL.contains(token)).collect()
            }
        };
        let text = tokens.join(" ").replace(" ##", "");
        match style {
            TextStyle::Tokens => text,
            TextStyle::Caption => text.trim_matches('#').trim().to_owned(),
            TextStyle::Plain => text.trim().to_owned(),
            TextStyle::Tidy => TIDY
                .iter()
                .fold(text.trim().to_owned(), |text, &(from, to)| {
                    text.replace(from, to)
                }),
        }
    }

    /// Number of tokens, special ones included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// The token of an id, or `None` outside the vocabulary.
    #[must_use]
    pub fn token(&self, id: i64) -> Option<&str> {
        self.tokens
            .get(usize::try_from(id).ok()?)
            .map(String::as_str)
    }

    /// The id of a token, or `None` if it is not in the vocabulary.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<i64> {
        self.ids.get(token).copied()
    }

    /// The ids of the special tokens.
    #[must_use]
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    fn encode_fast(&self, text: &str) -> Vec<i64> {
        match self.tokenizer.encode_fast(text, false) {
            Ok(encoding) => encoding.get_ids().iter().map(|&id| i64::from(id)).collect(),
            // The library fails only without `[UNK]`, which was looked up on construction.
            Err(_) => vec![self.special.unknown],
        }
    }

    /// Special tokens anywhere, and what is between them word by word.
    fn encode_slow(&self, text: &str) -> Vec<i64> {
        let mut ids = Vec::new();
        let mut start = 0;
        for (at, _) in text.match_indices('[') {
            let rest = &text[at..];
            let token = SPECIAL.into_iter().find(|token| rest.starts_with(*token));
            let Some(token) = token else {
                continue;
            };
            ids.extend(self.encode_between(&text[start..at]));
            ids.extend(self.id(token));
            start = at + token.len();
        }
        ids.extend(self.encode_between(&text[start..]));
        ids
    }

    fn encode_between(&self, text: &str) -> Vec<i64> {
        let words = match self.casing {
            // Once more word by word later on, when no capital sigma is left.
            Casing::Lower => words(&lowered(text), &SPECIAL, self.casing, Form::Composed),
            Casing::Keep => words(text, &SPECIAL, self.casing, Form::Composed),
        };
        self.pieces(&words)
    }

    fn pieces(&self, words: &[String]) -> Vec<i64> {
        let mut ids = Vec::new();
        for word in words {
            match self.pieces_of(word) {
                Some(pieces) => ids.extend(pieces),
                None => ids.push(self.special.unknown),
            }
        }
        ids
    }

    /// The longest piece of the vocabulary that a word starts with, then that of the rest and so
    /// on; `None` if that does not end at the end of the word, or if the word is too long.
    fn pieces_of(&self, word: &str) -> Option<Vec<i64>> {
        if word.chars().count() > MAX_CHARS_PER_WORD {
            return None;
        }
        let mut pieces = Vec::new();
        let mut rest = word;
        while !rest.is_empty() {
            let prefix = if pieces.is_empty() { "" } else { "##" };
            let mut ends = rest.char_indices().rev().map(|(at, c)| at + c.len_utf8());
            let (end, id) =
                ends.find_map(|end| Some((end, self.id(&format!("{prefix}{}", &rest[..end]))?)))?;
            pieces.push(id);
            rest = &rest[end..];
        }
        Some(pieces)
    }
}

impl fmt::Debug for WordPiece {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WordPiece")
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
            .field("rules", &self.rules)
            .field("casing", &self.casing)
            .finish_non_exhaustive()
    }
}

fn tokenizer(vocab: &str) -> tokenizers::Result<Tokenizer> {
    let model = WordPieceModel::builder()
        .vocab(WordPieceModel::read_bytes(vocab.as_bytes())?)
        .unk_token(UNKNOWN.to_owned())
        .max_input_chars_per_word(MAX_CHARS_PER_WORD)
        .build()?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(BertNormalizer::new(true, true, Some(true), true)))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let special = SPECIAL.map(|token| AddedToken::from(token, true));
    tokenizer.add_special_tokens(special)?;
    Ok(tokenizer)
}

/// The text of a file, or the line and the byte of what is not UTF-8.
pub(crate) fn utf8<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, DataError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let place = error.valid_up_to();
        let kind = DataErrorKind::InvalidUtf8 {
            offset: place as u64,
        };
        DataError::at_line(path, line_of(bytes, place), kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB: &str =
        "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwater\nwave\n##s\ncafe\n!\nb\n##b\n日\n";

    fn word_piece(vocab: &str) -> Result<WordPiece, DataError> {
        WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab)
    }

    #[test]
    fn a_restricted_vocabulary_cuts_its_texts_alike() {
        let vocab =
            "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n##c\nab\nabc\ncut\n##ting\nother\n";
        let full = WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap();
        let texts = ["abc cutting", "ab acb"];
        let (small, ids) = full.restricted_to(texts).unwrap();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(small.id("other"), None);
        for text in texts {
            let back: Vec<i64> = small
                .encode(text)
                .iter()
                .map(|id| ids[*id as usize])
                .collect();
            assert_eq!(back, full.encode(text));
        }
    }

    #[test]
    fn text_is_cleaned_lower_cased_and_split_into_the_longest_pieces() {
        let words = word_piece(VOCAB).unwrap();
        assert_eq!(words.encode("WATER\twaves!!"), [5, 6, 7, 9, 9]);
        assert_eq!(words.encode("Café"), [8]);
        assert_eq!(words.encode("water日water"), [5, 12, 5]);
        assert_eq!(words.encode("fire water"), [1, 5]);
        assert!(words.encode("").is_empty());
        assert!(words.encode(" \u{200b}\n").is_empty());
    }

    #[test]
    fn a_word_of_more_than_a_hundred_characters_is_unknown() {
        let words = word_piece(VOCAB).unwrap();
        assert_eq!(words.encode(&"b".repeat(100)).len(), 100);
        assert_eq!(words.encode(&"b".repeat(101)), [1]);
    }

    #[test]
    fn a_literal_special_token_is_one_token() {
        let words = word_piece(VOCAB).unwrap();
        assert_eq!(words.encode("water [MASK]wave"), [5, 4, 6]);
    }

    #[test]
    fn special_tokens_are_found_as_each_set_of_rules_finds_them() {
        let fast = word_piece(VOCAB).unwrap();
        let text = "water [MASK]wave [PAD]";
        let slow = fast.clone().with_rules(TokenizerRules::Slow, Casing::Lower);
        assert_eq!(slow.unwrap().encode(text), fast.encode(text));
        let univl = fast
            .with_rules(TokenizerRules::UniVl, Casing::Lower)
            .unwrap();
        // Brackets and `mask` are not in this vocabulary.
        assert_eq!(univl.encode(text), [5, 1, 1, 1, 6, 1, 1, 1]);
        assert_eq!(univl.encode("[MASK] wave [SEP]"), [4, 6, 3]);
    }

    #[test]
    fn unassigned_characters_go_under_the_rules_of_python_only() {
        let fast = word_piece(VOCAB).unwrap();
        assert_eq!(fast.encode("\u{378}water"), [1]);
        for rules in [TokenizerRules::Slow, TokenizerRules::UniVl] {
            let words = fast.clone().with_rules(rules, Casing::Lower).unwrap();
            assert_eq!(words.encode("\u{378}water"), [5], "{rules:?}");
        }
    }

    #[test]
    fn upper_case_and_accents_may_be_kept() {
        for rules in [
            TokenizerRules::Fast,
            TokenizerRules::Slow,
            TokenizerRules::UniVl,
        ] {
            let words = word_piece(VOCAB).unwrap().with_rules(rules, Casing::Keep);
            assert_eq!(
                words.unwrap().encode("Water water café"),
                [1, 5, 1],
                "{rules:?}"
            );
        }
    }

    #[test]
    fn every_set_of_rules_knows_the_longest_word() {
        for rules in [
            TokenizerRules::Fast,
            TokenizerRules::Slow,
            TokenizerRules::UniVl,
        ] {
            let words = word_piece(VOCAB).unwrap().with_rules(rules, Casing::Lower);
            let words = words.unwrap();
            assert_eq!(words.encode(&"b".repeat(100)).len(), 100, "{rules:?}");
            assert_eq!(words.encode(&"b".repeat(101)), [1], "{rules:?}");
        }
    }

    #[test]
    fn offsets_count_characters() {
        let words = word_piece(VOCAB).unwrap();
        let offsets = words.encode_with_offsets("日 café waves").unwrap();
        let expected = [(12, 0..1), (8, 2..6), (6, 7..11), (7, 11..12)];
        assert_eq!(offsets, expected);
        let slow = words.with_rules(TokenizerRules::Slow, Casing::Lower);
        assert_eq!(slow.unwrap().encode_with_offsets("water"), None);
    }

    #[test]
    fn a_text_is_cut_or_padded_to_its_length() {
        let words = word_piece(VOCAB).unwrap();
        let padded = words.encode_padded("water wave", 6);
        assert_eq!(padded.ids, [2, 5, 6, 3, 0, 0]);
        assert_eq!(padded.padding(), [false, false, false, false, true, true]);
        assert_eq!(padded.special(), [true, false, false, true, true, true]);
        assert_eq!(words.encode_padded("water wave", 3).ids, [2, 5, 3]);
        assert_eq!(words.encode_padded("water", 2).ids, [2, 3]);
        assert_eq!(words.encode_padded("water", 1).ids, [2]);
        assert_eq!(words.encode_padded("water", 0).n_tokens, 0);
    }

    #[test]
    fn styles_of_text_differ_in_special_tokens_blanks_and_hashes() {
        let text = format!("{VOCAB}#\n'\nt\n");
        let words = word_piece(&text).unwrap();
        let ids = [13, 5, 6, 7, 9, 1, 13, 3, 5, 0];
        let styles = [
            (
                TextStyle::Tokens,
                "# water waves ! [UNK] # [SEP] water [PAD]",
            ),
            (TextStyle::Caption, "water waves ! [UNK]"),
            (TextStyle::Plain, "# water waves ! # water"),
            (TextStyle::Tidy, "# water waves! # water"),
        ];
        for (style, expected) in styles {
            assert_eq!(words.decode_as(&ids, style), expected, "{style:?}");
        }
        assert_eq!(words.decode_as(&[5, 14, 15], TextStyle::Tidy), "water't");
    }

    #[test]
    fn decoding_joins_words_and_glues_continuations() {
        let words = word_piece(VOCAB).unwrap();
        assert_eq!(words.decode(&[2, 5, 6, 7, 3]), "[CLS] water waves [SEP]");
        assert_eq!(words.decode(&[5, -1, 999]), "water [UNK] [UNK]");
        assert_eq!(words.decode(&[]), "");
    }

    #[test]
    fn ids_and_tokens_are_inverse() {
        let words = word_piece(VOCAB).unwrap();
        assert_eq!(words.vocab_size(), 13);
        for id in 0..13 {
            assert_eq!(words.id(words.token(id).unwrap()), Some(id));
        }
        let special = SpecialTokens {
            pad: 0,
            unknown: 1,
            cls: 2,
            sep: 3,
            mask: 4,
        };
        assert_eq!(*words.special(), special);
    }

    #[test]
    fn windows_line_ends_and_an_absent_last_one_are_accepted() {
        let text = VOCAB.trim_end().replace('\n', "\r\n");
        assert_eq!(word_piece(&text).unwrap().encode("water wave"), [5, 6]);
    }

    #[test]
    fn a_duplicate_token_names_both_lines() {
        let error = word_piece("[PAD]\n[UNK]\n[PAD]\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "vocab.txt:3: token `[PAD]` already occurs at line 1; remove one of the two"
        );
    }

    #[test]
    fn an_absent_special_token_is_named() {
        let error = word_piece(&VOCAB.replace("[SEP]", "sep")).unwrap_err();
        assert!(matches!(
            error.kind,
            DataErrorKind::MissingToken { token: "[SEP]" }
        ));
    }

    #[test]
    fn empty_files_and_empty_lines_are_errors() {
        assert!(
            word_piece("")
                .unwrap_err()
                .to_string()
                .contains("the file is empty")
        );
        let error = word_piece("[PAD]\n\n[UNK]\n").unwrap_err();
        assert_eq!(error.line, Some(2));
    }
}
