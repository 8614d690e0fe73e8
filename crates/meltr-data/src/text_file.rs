//! Text files read whole: UTF-8, without byte order mark, without NUL bytes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{DataError, DataErrorKind};

/// Longest file in bytes; places in a text are kept in 32 bits.
const MAX_BYTES: u64 = u32::MAX as u64;

/// Characters of a foreign text that a message quotes at most.
const MAX_EXCERPT: usize = 60;

/// The text of a file that is UTF-8, not empty and free of NUL bytes.
pub(crate) struct TextFile {
    path: PathBuf,
    format: &'static str,
    text: String,
    start: usize,
}

impl TextFile {
    /// Reads a file; `format` names what it should be in errors, e.g. `CSV`.
    pub(crate) fn open(path: &Path, format: &'static str) -> Result<Self, DataError> {
        let metadata = fs::metadata(path).map_err(|source| DataError::reading(path, source))?;
        if metadata.len() > MAX_BYTES {
            let reason = format!("{} bytes, expected less than 4 GiB", metadata.len());
            return Err(DataError::format(path, format, None::<u64>, reason));
        }
        let bytes = fs::read(path).map_err(|source| DataError::reading(path, source))?;
        Self::from_bytes(path, format, bytes)
    }

    /// The same from bytes; `label` stands for the path in errors.
    pub(crate) fn from_bytes(
        label: &Path,
        format: &'static str,
        bytes: Vec<u8>,
    ) -> Result<Self, DataError> {
        if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
            let kind = DataErrorKind::Format {
                format,
                offset: Some(0),
                reason: "UTF-16 text, expected UTF-8".to_owned(),
            };
            return Err(DataError::at_line(label, 1, kind));
        }
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let offset = error.utf8_error().valid_up_to();
                let line = line_of(error.as_bytes(), offset);
                let kind = DataErrorKind::InvalidUtf8 {
                    offset: offset as u64,
                };
                return Err(DataError::at_line(label, line, kind));
            }
        };
        let start = text.len() - text.trim_start_matches('\u{feff}').len();
        let file = Self {
            path: label.to_owned(),
            format,
            text,
            start,
        };
        if file.text().is_empty() {
            return Err(DataError::format(label, format, None::<u64>, "empty file"));
        }
        if let Some(place) = file.text().find('\0') {
            let line = line_of(file.text().as_bytes(), place);
            return Err(file.fault(line, place, "NUL byte in a text"));
        }
        Ok(file)
    }

    /// The text without byte order mark.
    pub(crate) fn text(&self) -> &str {
        self.text.get(self.start..).unwrap_or("")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An error about the whole file.
    pub(crate) fn refuse(&self, reason: impl Into<String>) -> DataError {
        DataError::format(&self.path, self.format, None::<u64>, reason)
    }

    /// An error about the format at a byte of [`text`](Self::text) and its line.
    pub(crate) fn fault(&self, line: usize, place: usize, reason: impl Into<String>) -> DataError {
        let kind = DataErrorKind::Format {
            format: self.format,
            offset: Some((self.start + place) as u64),
            reason: reason.into(),
        };
        DataError::at_line(&self.path, line, kind)
    }

    /// An error about the format in a line.
    pub(crate) fn fault_in_line(&self, line: usize, reason: impl Into<String>) -> DataError {
        let kind = DataErrorKind::Format {
            format: self.format,
            offset: None,
            reason: reason.into(),
        };
        DataError::at_line(&self.path, line, kind)
    }
}

/// An error about one item of a valid file, with its line.
pub(crate) fn item_at_line(
    path: &Path,
    line: usize,
    item: impl Into<String>,
    reason: impl Into<String>,
) -> DataError {
    let kind = DataErrorKind::Item {
        item: item.into(),
        reason: reason.into(),
    };
    DataError::at_line(path, line, kind)
}

/// The line of a byte, counted from 1; `\n`, `\r\n` and a lone `\r` end a line.
pub(crate) fn line_of(bytes: &[u8], offset: usize) -> usize {
    let before = bytes.get(..offset).unwrap_or(bytes);
    let mut line = 1;
    for (place, &byte) in before.iter().enumerate() {
        if byte == b'\n' || (byte == b'\r' && bytes.get(place + 1) != Some(&b'\n')) {
            line += 1;
        }
    }
    line
}

/// The start of a foreign text, harmless in a message: short and without control characters.
pub(crate) fn excerpt(text: &str) -> String {
    let mut characters = text.chars();
    let mut start = String::new();
    for character in characters.by_ref().take(MAX_EXCERPT) {
        start.push(if character.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            character
        });
    }
    if characters.next().is_some() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        match TextFile::from_bytes(Path::new("a.txt"), "list", bytes.to_vec()) {
            Ok(file) => panic!("{:?} was accepted", file.text()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_byte_order_mark_is_dropped() {
        let bytes = "\u{feff}a\n".as_bytes().to_vec();
        let file = TextFile::from_bytes(Path::new("a.txt"), "list", bytes).unwrap();
        assert_eq!(file.text(), "a\n");
        assert!(
            file.fault(1, 0, "bad")
                .to_string()
                .contains("at byte 3: bad")
        );
    }

    #[test]
    fn what_is_no_text_is_an_error_with_its_place() {
        assert!(refusal(b"").contains("a.txt: not a valid list file: empty file"));
        assert!(refusal("\u{feff}".as_bytes()).contains("empty file"));
        assert!(refusal(b"a\r\nb\nc\xff").starts_with("a.txt:3: byte 6 is not UTF-8"));
        assert!(refusal(b"a\nb\0").contains("a.txt:2: not a valid list file at byte 3: NUL byte"));
        assert!(refusal(b"\xff\xfea\0").contains("a.txt:1:"));
        assert!(refusal(b"\xfe\xff\0a").contains("UTF-16 text, expected UTF-8"));
    }

    #[test]
    fn every_line_end_counts_once() {
        let text = b"a\r\nb\rc\nd";
        let lines: Vec<usize> = [0, 3, 5, 7].iter().map(|&at| line_of(text, at)).collect();
        assert_eq!(lines, [1, 2, 3, 4]);
    }

    #[test]
    fn an_excerpt_is_short_and_has_no_control_characters() {
        assert_eq!(excerpt("a\u{1b}[31m"), "a\u{fffd}[31m");
        assert_eq!(excerpt(&"é".repeat(100)).chars().count(), 61);
        assert_eq!(excerpt(&"é".repeat(60)).chars().count(), 60);
    }
}
