//! Text to token ids and back with a WordPiece vocabulary.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::Path;

use tokenizers::models::wordpiece::WordPiece as WordPieceModel;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{AddedToken, Tokenizer};

use crate::error::{DataError, DataErrorKind};

/// A word of more characters than this becomes `[UNK]`.
const MAX_CHARS_PER_WORD: usize = 100;

const PAD: &str = "[PAD]";
const UNKNOWN: &str = "[UNK]";
const CLS: &str = "[CLS]";
const SEP: &str = "[SEP]";
const MASK: &str = "[MASK]";

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
/// The five special tokens are recognized anywhere in a text, so that a literal `[MASK]` is one
/// token.
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
/// - Reference code: `mlvlab/MELTR` `univl/modules/tokenization.py`. It recognizes a special token
///   only as a whole word between blanks, which differs here.
#[derive(Clone)]
pub struct WordPiece {
    tokenizer: Tokenizer,
    tokens: Vec<String>,
    ids: HashMap<String, i64>,
    special: SpecialTokens,
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
        })
    }

    /// The ids of a text, without `[CLS]` and `[SEP]`; none for an empty text.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<i64> {
        match self.tokenizer.encode_fast(text, false) {
            Ok(encoding) => encoding.get_ids().iter().map(|&id| i64::from(id)).collect(),
            // The library fails only without `[UNK]`, which was looked up on construction.
            Err(_) => vec![self.special.unknown],
        }
    }

    /// The text of some ids: tokens joined by blanks, continuations glued to their word.
    ///
    /// Special tokens are written out; an id outside the vocabulary reads `[UNK]`.
    #[must_use]
    pub fn decode(&self, ids: &[i64]) -> String {
        let tokens: Vec<&str> = ids
            .iter()
            .map(|&id| self.token(id).unwrap_or(UNKNOWN))
            .collect();
        tokens.join(" ").replace(" ##", "")
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
}

impl fmt::Debug for WordPiece {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WordPiece")
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
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
    let special = [PAD, UNKNOWN, CLS, SEP, MASK].map(|token| AddedToken::from(token, true));
    tokenizer.add_special_tokens(special)?;
    Ok(tokenizer)
}

/// The text of a file, or the place of the first byte that is not UTF-8.
pub(crate) fn utf8<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, DataError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to() as u64;
        DataError::new(path, DataErrorKind::InvalidUtf8 { offset })
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
