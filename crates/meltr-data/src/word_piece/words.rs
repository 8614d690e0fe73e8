//! Texts to words by the rules of BERT's tokenizers in Python.

use tokenizers::NormalizedString;

use super::Casing;
use super::categories::Category;

/// Blocks of ideographs, each of which is a word of its own.
const IDEOGRAPHS: [(u32, u32); 8] = [
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
];

/// Whether characters are composed (`NFC`) before words are looked at.
#[derive(Clone, Copy)]
pub(super) enum Form {
    AsWritten,
    Composed,
}

/// The words and punctuation marks of a text.
///
/// A word between blanks that equals one of `never_split` stays as it is. The normal forms are
/// those of the `tokenizers` library, which knows Unicode 9: of later characters, it leaves
/// U+11938 in one piece and does not reorder marks.
pub(super) fn words(text: &str, never_split: &[&str], casing: Casing, form: Form) -> Vec<String> {
    let mut text = cleaned(text);
    if matches!(form, Form::Composed) && !text.is_ascii() {
        text = NormalizedString::from(text).nfc().get().to_owned();
    }
    let mut words = Vec::new();
    for word in text.split_whitespace() {
        if never_split.contains(&word) {
            words.push(word.to_owned());
            continue;
        }
        match casing {
            Casing::Lower => {
                // Of the word as a whole: a sigma at its end becomes a final one.
                let word = without_accents(word.to_lowercase());
                split_at_punctuation(&word, &mut words);
            }
            Casing::Keep => split_at_punctuation(word, &mut words),
        }
    }
    words
}

/// Lower case one character at a time, which knows no final sigma.
pub(super) fn lowered(text: &str) -> String {
    let mut lowered = String::with_capacity(text.len());
    for c in text.chars() {
        // What Unicode 14 had not assigned had no lower case either.
        if Category::of(c) == Category::Control {
            lowered.push(c);
        } else {
            lowered.extend(c.to_lowercase());
        }
    }
    lowered
}

/// Without control characters, with simple blanks, and with blanks around ideographs.
fn cleaned(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\t' | '\n' | '\r') {
            cleaned.push(' ');
        } else if c == '\u{fffd}' || Category::of(c) == Category::Control {
            continue;
        } else if c.is_whitespace() {
            cleaned.push(' ');
        } else if is_ideograph(c) {
            cleaned.push(' ');
            cleaned.push(c);
            cleaned.push(' ');
        } else {
            cleaned.push(c);
        }
    }
    cleaned
}

fn is_ideograph(c: char) -> bool {
    let code = u32::from(c);
    IDEOGRAPHS
        .iter()
        .any(|&(first, last)| (first..=last).contains(&code))
}

fn without_accents(word: String) -> String {
    if word.is_ascii() {
        return word;
    }
    let mut decomposed = NormalizedString::from(word);
    decomposed
        .nfd()
        .get()
        .chars()
        .filter(|&c| Category::of(c) != Category::Nonspacing)
        .collect()
}

/// Appends the parts of a word, every punctuation mark a part of its own.
fn split_at_punctuation(word: &str, parts: &mut Vec<String>) {
    let mut start = 0;
    for (at, c) in word.char_indices() {
        if is_punctuation(c) {
            if start < at {
                parts.push(word[start..at].to_owned());
            }
            parts.push(c.to_string());
            start = at + c.len_utf8();
        }
    }
    if start < word.len() {
        parts.push(word[start..].to_owned());
    }
}

/// All of ASCII that is neither letter nor digit counts, `$` and `^` too.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || (!c.is_ascii() && Category::of(c) == Category::Punctuation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower(text: &str) -> Vec<String> {
        words(text, &["[MASK]"], Casing::Lower, Form::AsWritten)
    }

    #[test]
    fn control_characters_go_and_every_kind_of_blank_separates() {
        assert_eq!(lower("a\u{200b}b\u{378}c\0\u{fffd}d"), ["abcd"]);
        assert_eq!(lower("a\tb\nc\u{a0}d\u{2028}e\u{3000}f").len(), 6);
        // The next line character is a control character to Python.
        assert_eq!(lower("a\u{85}b"), ["ab"]);
    }

    #[test]
    fn ideographs_and_punctuation_marks_are_words() {
        assert_eq!(lower("ab日本c"), ["ab", "日", "本", "c"]);
        assert_eq!(lower("a$b«c»"), ["a", "$", "b", "«", "c", "»"]);
    }

    #[test]
    fn accents_go_with_the_upper_case() {
        assert_eq!(lower("CRÈME İ"), ["creme", "i"]);
        assert_eq!(
            words("CRÈME", &[], Casing::Keep, Form::AsWritten),
            ["CRÈME"]
        );
        assert!(lower("\u{301}").is_empty());
    }

    #[test]
    fn a_final_sigma_is_seen_in_a_word_only() {
        assert_eq!(lower("ΣΣ"), ["σς"]);
        assert_eq!(lowered("ΣΣ"), "σσ");
    }

    #[test]
    fn composing_joins_a_letter_and_its_accent() {
        let text = "e\u{301}";
        assert_eq!(words(text, &[], Casing::Keep, Form::AsWritten), [text]);
        assert_eq!(words(text, &[], Casing::Keep, Form::Composed), ["\u{e9}"]);
    }

    #[test]
    fn a_word_that_is_never_split_needs_blanks_around_it() {
        assert_eq!(lower("A [MASK] b"), ["a", "[MASK]", "b"]);
        assert_eq!(lower("[MASK]b"), ["[", "mask", "]", "b"]);
    }
}
