//! Lists of ids, one a line or in a column of a table.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::csv_table::{CsvTable, Delimiter};
use crate::error::DataError;
use crate::text_file::{TextFile, excerpt, item_at_line};

/// Distinct ids in the order of a file.
///
/// # References
///
/// - All-in-one's splits of MSR-VTT: `train_list_7k.txt`, `train_list_9k.txt` and
///   `val_list_jsfusion.txt` (1000 ids), one id a line without header.
/// - UniVL's `MSRVTT_train.9k.csv` (9000 ids), a table with a column `video_id`.
#[derive(Clone, Debug)]
pub struct IdList {
    path: PathBuf,
    ids: Vec<String>,
    lines: Vec<usize>,
}

impl IdList {
    /// Reads a file with one id a line; blank lines are skipped, blanks around an id dropped.
    ///
    /// # Errors
    ///
    /// Returns an error, with the line where there is one, if the file is absent, unreadable, not
    /// UTF-8, without any id, if a line holds more than one word, and if an id occurs twice.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::read(&TextFile::open(path, "id list")?)
    }

    fn read(file: &TextFile) -> Result<Self, DataError> {
        let mut first_lines: HashMap<&str, usize> = HashMap::new();
        let mut list = Self {
            path: file.path().to_owned(),
            ids: Vec::new(),
            lines: Vec::new(),
        };
        for (index, text) in file.text().lines().enumerate() {
            let line = index + 1;
            let id = text.trim();
            if id.is_empty() {
                continue;
            }
            if id.contains(char::is_whitespace) {
                let reason = "is more than one word, expected one id a line";
                return Err(item_at_line(file.path(), line, excerpt(id), reason));
            }
            if let Some(first) = first_lines.insert(id, line) {
                let reason = format!("already is in line {first}");
                return Err(item_at_line(file.path(), line, excerpt(id), reason));
            }
            list.ids.push(id.to_owned());
            list.lines.push(line);
        }
        if list.ids.is_empty() {
            return Err(file.refuse("no ids"));
        }
        Ok(list)
    }

    /// Reads the column `video_id` of a table separated by commas.
    ///
    /// # Errors
    ///
    /// As [`CsvTable::open`] and [`CsvTable::unique`].
    pub fn open_csv(path: &Path) -> Result<Self, DataError> {
        const COLUMN: &str = "video_id";
        let table = CsvTable::open(path, Delimiter::Comma, &[COLUMN])?;
        table.unique(COLUMN)?;
        let mut list = Self {
            path: path.to_owned(),
            ids: Vec::new(),
            lines: Vec::new(),
        };
        for row in table.rows() {
            list.ids.push(row.text(COLUMN)?.to_owned());
            list.lines.push(row.line());
        }
        Ok(list)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ids, at least one.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// An error about an id that another file does not have, with its line here.
    pub(crate) fn unknown(&self, index: usize, reason: &str) -> DataError {
        let id = self.ids.get(index).map_or("", String::as_str);
        let line = self.lines.get(index).copied().unwrap_or(0);
        item_at_line(&self.path, line, excerpt(id), reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<IdList, DataError> {
        let bytes = text.as_bytes().to_vec();
        IdList::read(&TextFile::from_bytes(
            Path::new("ids.txt"),
            "id list",
            bytes,
        )?)
    }

    #[test]
    fn blank_lines_and_blanks_around_ids_are_dropped() {
        let read = list("\u{feff}video1 \r\n\r\n video2").unwrap();
        assert_eq!(read.ids(), ["video1", "video2"]);
        let error = read.unknown(1, "not in the captions").to_string();
        assert!(error.starts_with("ids.txt:3: item `video2`: not in the captions"));
    }

    #[test]
    fn bad_lists_are_errors_with_their_line() {
        let cases = [
            ("", "empty file"),
            (" \n\n", "ids.txt: not a valid id list file: no ids"),
            (
                "a\nb vid1\n",
                "ids.txt:2: item `b vid1`: is more than one word",
            ),
            ("a\nb\na\n", "ids.txt:3: item `a`: already is in line 1"),
        ];
        for (text, message) in cases {
            let error = list(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }
}
