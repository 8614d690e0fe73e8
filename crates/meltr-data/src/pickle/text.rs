//! Texts and byte strings as the older protocols write them.

/// Undoes Python 2's `repr` of a byte string, in place.
pub(super) fn unescape(mut line: Vec<u8>) -> Result<Vec<u8>, String> {
    let quote = line.first().copied().unwrap_or(0);
    if line.len() < 2 || !matches!(quote, b'\'' | b'"') || line.last() != Some(&quote) {
        return Err("needs a text in quotes".to_owned());
    }
    let end = line.len() - 1;
    let mut read = 1;
    // At most as many bytes are written as are read.
    let mut write = 0;
    while read < end {
        let byte = line[read];
        read += 1;
        let mut decoded = byte;
        if byte == b'\\' {
            if read >= end {
                return Err("has a text that ends in a backslash".to_owned());
            }
            let letter = line[read];
            read += 1;
            decoded = match letter {
                b'\\' | b'\'' | b'"' => letter,
                b'a' => 0x07,
                b'b' => 0x08,
                b't' => b'\t',
                b'n' => b'\n',
                b'v' => 0x0b,
                b'f' => 0x0c,
                b'r' => b'\r',
                b'x' => {
                    let digits = line.get(read..(read + 2).min(end)).unwrap_or_default();
                    let Some(value) = hexadecimal(digits).filter(|_| digits.len() == 2) else {
                        return Err("has an escape \\x without two digits".to_owned());
                    };
                    read += 2;
                    (value & 0xff) as u8
                }
                b'0'..=b'7' => {
                    let mut value = u32::from(letter - b'0');
                    let limit = (read + 2).min(end);
                    while read < limit && matches!(line[read], b'0'..=b'7') {
                        value = value * 8 + u32::from(line[read] - b'0');
                        read += 1;
                    }
                    (value & 0xff) as u8
                }
                _ => {
                    // Python keeps the backslash of an escape that it does not know.
                    line[write] = b'\\';
                    write += 1;
                    letter
                }
            };
        }
        line[write] = decoded;
        write += 1;
    }
    line.truncate(write);
    line.shrink_to_fit();
    Ok(line)
}

/// Decodes Python's `raw-unicode-escape`: latin-1 with `\uXXXX` and `\UXXXXXXXX`.
pub(super) fn raw_unicode(line: &[u8]) -> Result<String, String> {
    let mut text = String::with_capacity(line.len());
    let mut read = 0;
    while read < line.len() {
        let byte = line[read];
        let next = line.get(read + 1).copied();
        let (point, len) = match (byte, next) {
            (b'\\', Some(b'u' | b'U')) => escaped_point(line, read)?,
            (b'\\', Some(b'\\')) => {
                // A pair of backslashes escapes nothing.
                text.push('\\');
                (u32::from(b'\\'), 2)
            }
            _ => (u32::from(byte), 1),
        };
        let Some(letter) = char::from_u32(point) else {
            return Err(format!("has the code point {point:#x}, which is no letter"));
        };
        text.push(letter);
        read += len;
    }
    Ok(text)
}

/// The code point of an escape, and its bytes; two halves of a surrogate pair are joined.
fn escaped_point(line: &[u8], at: usize) -> Result<(u32, usize), String> {
    let (first, len) = one_escape(line, at)?;
    if (0xd800..0xdc00).contains(&first) {
        let after = at + len;
        if line.get(after) == Some(&b'\\') && line.get(after + 1) == Some(&b'u') {
            let (second, more) = one_escape(line, after)?;
            if (0xdc00..0xe000).contains(&second) {
                let joined = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok((joined, len + more));
            }
        }
    }
    Ok((first, len))
}

fn one_escape(line: &[u8], at: usize) -> Result<(u32, usize), String> {
    let digits = if line.get(at + 1) == Some(&b'U') {
        8
    } else {
        4
    };
    let found = line.get(at + 2..at + 2 + digits).unwrap_or_default();
    match hexadecimal(found).filter(|_| found.len() == digits) {
        Some(point) => Ok((point, 2 + digits)),
        None => Err(format!("has an escape \\u without {digits} digits")),
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    let mut value: u32 = 0;
    for &digit in digits {
        value = value.checked_mul(16)?;
        value = value.checked_add(char::from(digit).to_digit(16)?)?;
    }
    Some(value)
}

/// Turns the UTF-8 of a text into latin-1, in place; `None` if a letter is beyond U+00FF.
///
/// The bytes of arrays are so in protocol 2, where half of them take two bytes in no order: hence
/// no branch depends on the data.
pub(super) fn into_latin1(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let len = bytes.len();
    let mut read = 0;
    let mut write = 0;
    let mut is_bad = false;
    while read < len {
        let first = bytes[read];
        let second = if read + 1 < len { bytes[read + 1] } else { 0 };
        let is_wide = first >= 0x80;
        // Lead bytes C2 and C3 are those of U+0080 to U+00FF.
        is_bad |= is_wide & (((first & 0xfe) != 0xc2) | ((second & 0xc0) != 0x80));
        let joined = (first << 6) | (second & 0x3f);
        bytes[write] = if is_wide { joined } else { first };
        write += 1;
        read += 1 + usize::from(is_wide);
    }
    if is_bad {
        return None;
    }
    bytes.truncate(write);
    bytes.shrink_to_fit();
    Some(bytes)
}

/// The text of latin-1 bytes.
pub(super) fn from_latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_strings_are_unescaped_as_python_does() {
        let cases: [(&[u8], &[u8]); 7] = [
            (b"''", b""),
            (b"'a\\'b'", b"a'b"),
            (b"\"a'b\"", b"a'b"),
            (b"'\\x00\\xff\\n\\t\\\\'", b"\0\xff\n\t\\"),
            (b"'\\0\\101\\q'", b"\0A\\q"),
            (b"'\\xad\xad'", b"\xad\xad"),
            (b"'\\1234'", b"S4"),
        ];
        for (line, bytes) in cases {
            assert_eq!(unescape(line.to_vec()).unwrap(), bytes, "{line:?}");
        }
        let wrong: [&[u8]; 6] = [b"", b"'", b"'a", b"abc", b"'\\'", b"'\\x1'"];
        for line in wrong {
            assert!(unescape(line.to_vec()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn raw_unicode_knows_two_escapes() {
        let cases: [(&[u8], &str); 5] = [
            (b"a\xe9", "aé"),
            (b"\\u00e9\\U0001f600", "é😀"),
            (b"\\ud83d\\ude00", "😀"),
            (b"\\n \\u005c", "\\n \\"),
            (b"\\\\u0041", "\\\\u0041"),
        ];
        for (line, text) in cases {
            assert_eq!(raw_unicode(line).unwrap(), text, "{line:?}");
        }
        let wrong: [&[u8]; 4] = [b"\\u12", b"\\ud83d", b"\\Uffffffff", b"\\u00zz"];
        for line in wrong {
            assert!(raw_unicode(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn latin1_goes_both_ways_in_place() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = from_latin1(&bytes);
        assert_eq!(into_latin1(text.into_bytes()).unwrap(), bytes);
        assert_eq!(into_latin1("Ā".as_bytes().to_vec()), None);
        assert_eq!(into_latin1("😀".as_bytes().to_vec()), None);
        assert_eq!(into_latin1(vec![0xc3]), None);
        assert_eq!(into_latin1(vec![0xc3, 0x41]), None);
        assert_eq!(into_latin1(vec![]).unwrap(), Vec::<u8>::new());
    }
}
