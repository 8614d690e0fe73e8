//! Numbers that stand for words and phrases.

/// Offset and prime of FNV-1a with 64 bits.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The number by which the original tells words apart: the hash of a Java string.
///
/// Two words of the same number are equal to METEOR. Of long words, one pair in 2³² collides, as in
/// the original.
pub(crate) fn word_number(word: &str) -> u32 {
    word.encode_utf16().fold(0, |number: u32, unit| {
        number.wrapping_mul(31).wrapping_add(u32::from(unit))
    })
}

/// A phrase, its words joined by blanks, as the 64 bits of FNV-1a.
///
/// Among the million phrases of the table, a collision has a probability below 1e-6.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key(u64);

impl Key {
    /// The key of nothing.
    pub(crate) const EMPTY: Self = Self(OFFSET);

    /// The key with bytes appended.
    pub(crate) fn with(self, bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(self.0, |key, byte| {
            (key ^ u64::from(*byte)).wrapping_mul(PRIME)
        }))
    }

    /// The number.
    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

/// The key of a whole word or phrase.
pub(crate) fn key_of(bytes: &[u8]) -> u64 {
    Key::EMPTY.with(bytes).get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_the_numbers_of_java() {
        assert_eq!(word_number(""), 0);
        // 97 * 31 + 98.
        assert_eq!(word_number("ab"), 3105);
        assert_eq!(word_number("hello"), 99_162_322);
        // Beyond the basic plane, Java counts two units.
        assert_eq!(word_number("\u{1F600}"), 0xD83D * 31 + 0xDE00);
    }

    #[test]
    fn a_key_may_be_built_in_parts() {
        assert_eq!(key_of(b""), OFFSET);
        assert_eq!(key_of(b"a"), 0xaf63_dc4c_8601_ec8c);
        let parts = Key::EMPTY.with(b"in").with(b" ").with(b"order");
        assert_eq!(parts.get(), key_of(b"in order"));
    }
}
