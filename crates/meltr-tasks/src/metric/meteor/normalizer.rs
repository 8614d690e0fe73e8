//! Captions in lower case, their words and punctuation apart, as METEOR separates them.

use std::collections::HashMap;
use std::mem;

/// Stands for a dot of an ellipsis while single dots are looked at. No tabulator is left by then.
const ELLIPSIS_DOT: char = '\t';

/// Marks prefixes that keep their dot only before a number.
const NUMERIC_ONLY: &str = "#NUMERIC_ONLY#";

/// A set of characters.
type Class = fn(char) -> bool;

/// Separates words as METEOR's option `-norm` does.
///
/// Punctuation becomes tokens of its own, except dashes at the edge of a word. `don't` becomes
/// `don 't`, `well-known` becomes `well known`, `U.S.` becomes `us`, `1,000` and `3.5` stay whole,
/// `Mr.` and `No. 5` keep their dots, and a dot before a word in lower case is not split off. Each
/// character of a script that is neither Latin nor Cyrillic is a token.
///
/// # References
///
/// The behavior of `meteor-1.5.jar`, observed on all characters of the basic plane and on random
/// texts of the characters that have rules.
#[derive(Debug, Clone)]
pub(crate) struct Normalizer {
    prefixes: HashMap<String, Prefix>,
}

/// When a word before a dot keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    Always,
    BeforeNumber,
}

impl Normalizer {
    /// With the list of prefixes, one a line; lines that begin with `#` are comments.
    pub(crate) fn new(prefixes: &str) -> Self {
        let lines = prefixes
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let prefixes = lines
            .map(|line| match line.split_once(NUMERIC_ONLY) {
                Some((prefix, _)) => (prefix.trim_end().to_owned(), Prefix::BeforeNumber),
                None => (line.trim_end().to_owned(), Prefix::Always),
            })
            .collect();
        Self { prefixes }
    }

    /// The words of a text, joined by single blanks.
    pub(crate) fn normalize(&self, text: &str) -> String {
        let mut chars = Chars::separated(text);
        if chars.has(',') {
            chars.replace(',', [no_digit, no_digit], &[' ', ',', ' ']);
            chars.replace(',', [is_digit, no_digit], &[' ', ',', ' ']);
            chars.replace(',', [no_digit, is_digit], &[' ', ',', ' ']);
        }
        if chars.has('-') {
            chars.halve_dashes();
            chars.replace('-', [is_letter_digit_dot, is_letter_digit], &[' ']);
        }
        if chars.has('\'') {
            chars.replace('\'', [no_letter, no_letter], &[' ', '\'', ' ']);
            chars.replace('\'', [no_letter_digit, is_letter], &[' ', '\'', ' ']);
            chars.replace('\'', [is_letter, no_letter], &[' ', '\'', ' ']);
            chars.replace('\'', [is_letter, is_letter], &[' ', '\'']);
            chars.replace('\'', [is_digit, is_s], &[' ', '\'']);
        }
        let text: String = chars.text.iter().collect();
        let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        let mut line = String::with_capacity(text.len() + 8);
        for (place, word) in words.iter().enumerate() {
            line.push(' ');
            self.push_word(&mut line, word, words.get(place + 1).copied());
        }
        let line: String = line
            .chars()
            .map(|c| match c {
                ELLIPSIS_DOT => '.',
                c if is_wide_blank(c) => ' ',
                c => c,
            })
            .collect();
        let line = line.to_lowercase();
        let words: Vec<&str> = line
            .trim_matches(|c: char| c <= ' ')
            .split(' ')
            .filter(|word| !word.is_empty())
            .collect();
        words.join(" ")
    }

    /// Appends a word, its final dot split off if it ends a sentence.
    fn push_word(&self, line: &mut String, word: &str, next: Option<&str>) {
        let Some(stem) = word.strip_suffix('.').filter(|stem| !stem.is_empty()) else {
            line.push_str(word);
            return;
        };
        if stem.contains('.') && stem.contains(is_letter) {
            line.extend(word.chars().filter(|c| *c != '.'));
            return;
        }
        let prefix = self.prefixes.get(stem).copied();
        let next = next.and_then(|next| next.chars().next());
        let keeps_dot = match prefix {
            Some(Prefix::Always) => true,
            Some(Prefix::BeforeNumber) => {
                next.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            }
            None => next.is_some_and(|c| c.is_ascii_lowercase()),
        };
        line.push_str(stem);
        line.push_str(if keeps_dot { "." } else { " ." });
    }
}

/// A text in single characters, and room for the next version of it.
#[derive(Debug)]
struct Chars {
    text: Vec<char>,
    spare: Vec<char>,
}

impl Chars {
    /// A text between blanks, with blanks around every character that is always a token.
    fn separated(text: &str) -> Self {
        let mut separated = Vec::with_capacity(text.len() + 32);
        separated.push(' ');
        let mut rest = text.chars().map(plain).peekable();
        while let Some(c) = rest.next() {
            match c {
                '\'' if rest.next_if_eq(&'\'').is_some() => {
                    separated.extend([' ', ' ', '"', ' ', ' ']);
                }
                '.' if rest.peek() == Some(&'.') => {
                    separated.extend([' ', ELLIPSIS_DOT]);
                    while rest.next_if_eq(&'.').is_some() {
                        separated.push(ELLIPSIS_DOT);
                    }
                    separated.push(' ');
                }
                '\u{2013}' => separated.extend([' ', '-', ' ']),
                c if is_letter_digit(c) || matches!(c, ' ' | '\u{b}' | '.' | '\'' | ',' | '-') => {
                    separated.push(c);
                }
                c => separated.extend([' ', c, ' ']),
            }
        }
        separated.push(' ');
        Self {
            spare: Vec::with_capacity(separated.len()),
            text: separated,
        }
    }

    fn has(&self, c: char) -> bool {
        self.text.contains(&c)
    }

    /// Writes `with` for each `mark` that is between characters of two classes.
    ///
    /// As with a regular expression for all three, the right character is not the left one of
    /// another place, so that of two places that share one the first is replaced alone.
    fn replace(&mut self, mark: char, sides: [Class; 2], with: &[char]) {
        let [is_left, is_right] = sides;
        self.spare.clear();
        let mut rest = self.text.as_slice();
        while let Some((left, tail)) = rest.split_first() {
            self.spare.push(*left);
            rest = match tail {
                [found, right, after @ ..]
                    if *found == mark && is_left(*left) && is_right(*right) =>
                {
                    self.spare.extend_from_slice(with);
                    self.spare.push(*right);
                    after
                }
                _ => tail,
            };
        }
        mem::swap(&mut self.text, &mut self.spare);
    }

    /// Writes one dash for each pair of dashes.
    fn halve_dashes(&mut self) {
        self.spare.clear();
        let mut rest = self.text.as_slice();
        while let Some((c, tail)) = rest.split_first() {
            self.spare.push(*c);
            rest = match tail {
                ['-', after @ ..] if *c == '-' => after,
                _ => tail,
            };
        }
        mem::swap(&mut self.text, &mut self.spare);
    }
}

/// Blanks for line ends and tabulators, and plain quotes for others.
fn plain(c: char) -> char {
    match c {
        '\t' | '\n' | '\r' | '\u{c}' => ' ',
        '\u{2018}' | '\u{2019}' | '`' => '\'',
        '\u{201c}' | '\u{201d}' => '"',
        c => c,
    }
}

/// Blanks of Unicode that separate words only after dots were looked at.
fn is_wide_blank(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

/// Letters of the blocks that METEOR takes for alphabets.
fn is_letter(c: char) -> bool {
    matches!(
        c,
        'A'..='Z'
            | 'a'..='z'
            | '\u{c0}'..='\u{d6}'
            | '\u{d8}'..='\u{f6}'
            | '\u{f8}'..='\u{17e}'
            | '\u{400}'..='\u{527}'
            | '\u{1d00}'..='\u{1d7f}'
            | '\u{a640}'..='\u{a66e}'
            | '\u{a67e}'..='\u{a697}'
    )
}

fn no_letter(c: char) -> bool {
    !is_letter(c)
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

fn no_digit(c: char) -> bool {
    !is_digit(c)
}

fn is_letter_digit(c: char) -> bool {
    is_letter(c) || is_digit(c)
}

fn no_letter_digit(c: char) -> bool {
    !is_letter_digit(c)
}

fn is_letter_digit_dot(c: char) -> bool {
    is_letter_digit(c) || c == '.'
}

fn is_s(c: char) -> bool {
    c == 's'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normalized(text: &str) -> String {
        let prefixes = "# Titles.\n\nMr\nvs\ni.e\nNo #NUMERIC_ONLY# \n";
        Normalizer::new(prefixes).normalize(text)
    }

    #[test]
    fn quotes_leave_their_words_and_contractions_split_before_them() {
        for (text, expected) in [
            ("Don't it's THE cats'", "don 't it 's the cats '"),
            ("'quoted' 'tis rock'n'roll", "' quoted ' ' tis rock 'n'roll"),
            ("2's a'b 1'2 1'a 5'10\"", "2 's a 'b 1 ' 2 1'a 5 ' 10 \""),
            ("don''t ``tick'' it\u{2019}s", "don \" t \" tick \" it 's"),
            (
                "\u{201c}smart\u{201d} \u{2018}a\u{2019}",
                "\" smart \" ' a '",
            ),
        ] {
            assert_eq!(normalized(text), expected, "{text}");
        }
    }

    #[test]
    fn dashes_between_words_go_and_others_stay() {
        for (text, expected) in [
            ("well-known 1-2 a-b-c", "well known 1 2 a b-c"),
            ("a - b a-- b --c a--b -a a-", "a - b a- b -c a b -a a-"),
            ("----- 5\u{2013}6 a\u{2014}b", "--- 5 - 6 a \u{2014} b"),
            ("(.-b (-.b a.-b", "( . b ( -.b a. b"),
        ] {
            assert_eq!(normalized(text), expected, "{text}");
        }
    }

    #[test]
    fn commas_stay_inside_numbers_only() {
        assert_eq!(
            normalized("1,000 a,b 1,a a,1 ,a a,"),
            "1,000 a , b 1 , a a , 1 , a a ,"
        );
    }

    #[test]
    fn a_dot_ends_a_sentence_unless_it_belongs_to_the_word() {
        for (text, expected) in [
            ("Mr. Smith went. U.S.A. is", "mr. smith went . usa is"),
            ("i.e. this vs. That", "ie this vs. that"),
            ("No. 5 No. five No. Five", "no. 5 no. five no . five"),
            ("end. Next. next", "end . next. next"),
            ("3.14 .5 5. x. A.B.C", "3.14 .5 5. x . a.b.c"),
            ("... a... b .. c....d .", "... a ... b .. c .... d ."),
            ("a.\u{a0}b", "a . b"),
        ] {
            assert_eq!(normalized(text), expected, "{text}");
        }
    }

    #[test]
    fn other_characters_are_tokens_and_blanks_of_any_kind_are_none() {
        for (text, expected) in [
            ("a/b a&b $5.50 50% a_b", "a / b a & b $ 5.50 50 % a _ b"),
            (
                "caf\u{e9} \u{4e00}\u{53ea} \u{1F600}!",
                "caf\u{e9} \u{4e00} \u{53ea} \u{1F600} !",
            ),
            ("tab\there  double\u{3000} ", "tab here double"),
            ("\u{a0}", ""),
            ("", ""),
        ] {
            assert_eq!(normalized(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn words_are_lower_case_and_apart_by_single_blanks(text in any::<String>()) {
            let line = normalized(&text);
            prop_assert!(line.is_empty() || line.split(' ').all(|word| !word.is_empty()));
            prop_assert_eq!(line.to_lowercase(), line);
        }
    }
}
