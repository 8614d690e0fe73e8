//! Which words are synonyms: the synsets of a word and of its base form.

use std::ops::Range;

use meltr_data::DataError;
use rustc_hash::FxHashMap;

use super::data::DataText;
use super::keys::{Key, key_of};

/// Endings and what stands for them in the base form, in the order in which they are tried.
const ENDINGS: [(&str, &str); 12] = [
    ("s", ""),
    ("ies", "y"),
    ("es", ""),
    ("ed", "e"),
    ("ed", ""),
    ("ing", "e"),
    ("ing", ""),
    ("er", ""),
    ("er", "e"),
    ("est", ""),
    ("est", "e"),
    ("men", "man"),
];

/// Words of this length or less have no regular base form.
const MAX_BARE_LEN: usize = 2;

/// WordNet's synsets by word, and its irregular forms.
#[derive(Debug, Clone)]
pub(crate) struct Synonyms {
    /// Where the synsets of a word are, by its key.
    places: FxHashMap<u64, Range<usize>>,
    synsets: Vec<u32>,
    /// Keys of the base forms of an irregular form, by its key.
    irregular: FxHashMap<u64, Vec<u64>>,
}

impl Synonyms {
    /// From METEOR's two lists, which have two lines an entry: a word and the numbers of its
    /// synsets; a base form and its irregular forms.
    ///
    /// # Errors
    ///
    /// Returns an error that names the line if an entry is incomplete or a number is none.
    pub(crate) fn parse(synsets: &DataText, exceptions: &DataText) -> Result<Self, DataError> {
        let mut parsed = Self {
            places: FxHashMap::default(),
            synsets: Vec::new(),
            irregular: FxHashMap::default(),
        };
        for_each_entry(synsets, |line, word, numbers| {
            let start = parsed.synsets.len();
            for number in numbers.split_ascii_whitespace() {
                let number = number.parse::<u32>().map_err(|_| {
                    synsets.fault(line + 1, format!("`{number}` is no number of a synset"))
                })?;
                parsed.synsets.push(number);
            }
            let place = start..parsed.synsets.len();
            parsed.places.insert(key_of(word.as_bytes()), place);
            Ok(())
        })?;
        for_each_entry(exceptions, |_, base, forms| {
            for form in forms.split_ascii_whitespace() {
                let bases = parsed.irregular.entry(key_of(form.as_bytes()));
                bases.or_default().push(key_of(base.as_bytes()));
            }
            Ok(())
        })?;
        Ok(parsed)
    }

    /// The synsets of a word and of its base form, ascending.
    ///
    /// The base forms of an irregular form are those that the list of exceptions gives it; of any
    /// other word it is the first one that [`ENDINGS`] leads to and that has synsets.
    pub(crate) fn of(&self, word: &str) -> Vec<u32> {
        let key = key_of(word.as_bytes());
        let mut synsets = self.own(key).unwrap_or_default().to_vec();
        match self.irregular.get(&key) {
            Some(bases) => {
                for base in bases {
                    synsets.extend_from_slice(self.own(*base).unwrap_or_default());
                }
            }
            None => {
                let base = regular_bases(word).find_map(|base| self.own(base));
                synsets.extend_from_slice(base.unwrap_or_default());
            }
        }
        synsets.sort_unstable();
        synsets.dedup();
        synsets
    }

    /// The synsets that the list gives to a word.
    fn own(&self, key: u64) -> Option<&[u32]> {
        let place = self.places.get(&key)?;
        self.synsets.get(place.clone())
    }
}

/// The keys of what may be the base form of a regular form.
fn regular_bases(word: &str) -> impl Iterator<Item = u64> {
    let is_inflected = word.chars().nth(MAX_BARE_LEN).is_some() && !word.ends_with("ss");
    ENDINGS
        .iter()
        .filter(move |_| is_inflected)
        .filter_map(move |(ending, base)| {
            let stem = word.strip_suffix(*ending)?;
            let key = Key::EMPTY.with(stem.as_bytes()).with(base.as_bytes());
            Some(key.get())
        })
}

/// Visits entries of two lines, with the number of the first, counted from 1.
fn for_each_entry<'t>(
    file: &'t DataText,
    mut visit: impl FnMut(usize, &'t str, &'t str) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut lines = file.text.lines().zip(1..);
    while let Some((first, number)) = lines.next() {
        let Some((second, _)) = lines.next() else {
            let reason = format!("the entry of `{first}` has no second line");
            return Err(file.fault(number, reason));
        };
        visit(number, first, second)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synonyms(synsets: &str, exceptions: &str) -> Synonyms {
        Synonyms::parse(
            &DataText::new("synsets", synsets),
            &DataText::new("exceptions", exceptions),
        )
        .unwrap()
    }

    #[test]
    fn a_word_has_its_own_synsets_and_those_of_its_first_base_form() {
        let found = synonyms(
            "slice\n00000003 00000001\nslic\n00000002\nslices\n00000004\nparty\n00000005\n\
             parti\n00000006\na\n00000007\nglas\n00000008\nfireman\n00000009\n",
            "",
        );
        assert_eq!(found.of("slice"), [1, 3]);
        assert_eq!(found.of("slices"), [1, 3, 4]);
        assert_eq!(found.of("slicing"), [1, 3]);
        assert_eq!(found.of("sliced"), [1, 3]);
        assert_eq!(found.of("slicer"), [2]);
        assert_eq!(found.of("parties"), [5]);
        assert_eq!(found.of("firemen"), [9]);
        assert!(found.of("as").is_empty(), "too short");
        assert!(found.of("glass").is_empty(), "double s");
        assert!(found.of("").is_empty());
    }

    #[test]
    fn an_irregular_form_has_all_its_bases_and_no_regular_one() {
        let found = synonyms(
            "axis\n1\nax\n2\naxe\n3\n",
            "axis\naxes\nax\naxes axed\nlost\naxing\n",
        );
        assert_eq!(found.of("axes"), [1, 2]);
        assert_eq!(found.of("axed"), [2]);
        assert!(found.of("axing").is_empty());
    }

    #[test]
    fn a_damaged_list_is_an_error_that_names_the_line() {
        let parse = |synsets: &str, exceptions: &str| {
            Synonyms::parse(
                &DataText::new("synsets", synsets),
                &DataText::new("exceptions", exceptions),
            )
            .unwrap_err()
            .to_string()
        };
        let message = parse("car\n1\ncat\n2 x\n", "");
        assert!(message.starts_with("synsets:4: "), "{message}");
        assert!(message.contains("`x` is no number of a synset"));
        let message = parse("", "go\nwent\nbe\n");
        assert!(message.starts_with("exceptions:3: "), "{message}");
        assert!(message.contains("the entry of `be` has no second line"));
    }
}
