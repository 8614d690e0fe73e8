//! Tables of encoded frames with an index of byte offsets, as VIOLET holds them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{DataError, DataErrorKind};
use crate::text_file::{TextFile, excerpt, item_at_line};

/// Longest id of a video in bytes.
const MAX_ID_BYTES: usize = 1024;

/// `img_{dataset}.tsv` with `img_{dataset}.lineidx`: the frames of every video in one row.
///
/// A row is the id of the video and one JPEG file in base64 for every frame, separated by tabs; the
/// number of frames may differ from row to row. The index has the byte offset of every row, one a
/// line. Opening reads the index and the ids; a row is read by seeking, so that the table may be
/// larger than the memory.
#[derive(Clone, Debug)]
pub struct FrameTable {
    path: PathBuf,
    offsets: Vec<u64>,
    len: u64,
    ids: Vec<String>,
    rows: HashMap<String, usize>,
}

/// One row of a [`FrameTable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameRow {
    text: String,
}

impl FrameRow {
    /// The id of the video.
    #[must_use]
    pub fn id(&self) -> &str {
        self.text.split('\t').next().unwrap_or("")
    }

    /// The frames in base64, in the order of the video, at least one.
    pub fn frames(&self) -> impl Iterator<Item = &str> {
        self.text.split('\t').skip(1)
    }
}

impl FrameTable {
    /// Opens a table and its index, and checks that every offset is the start of a row.
    ///
    /// # Errors
    ///
    /// Returns an error, with the line or the byte where there is one, if a file is absent or
    /// unreadable, if the index is empty, holds a line that is no number, does not start at 0, does
    /// not increase or goes beyond the table, if no line of the table starts at an offset, and if
    /// an id is empty, longer than 1024 bytes, not UTF-8 or occurs twice.
    pub fn open(table: &Path, index: &Path) -> Result<Self, DataError> {
        let mut file = File::open(table).map_err(|source| DataError::reading(table, source))?;
        let len = file
            .metadata()
            .map_err(|source| DataError::reading(table, source))?
            .len();
        if len == 0 {
            return Err(bad_table(table, None::<u64>, "empty file"));
        }
        let offsets = read_offsets(&TextFile::open(index, "line index")?, len)?;
        let mut ids: Vec<String> = Vec::with_capacity(offsets.len());
        let mut rows: HashMap<String, usize> = HashMap::new();
        for (row, &offset) in offsets.iter().enumerate() {
            let id = read_id(table, &mut file, row, offset)?;
            if let Some(first) = rows.insert(id.clone(), row) {
                let reason = format!("already is in row {first}, counted from 0");
                return Err(item_at_line(table, row + 1, excerpt(&id), reason));
            }
            ids.push(id);
        }
        Ok(Self {
            path: table.to_owned(),
            offsets,
            len,
            ids,
            rows,
        })
    }

    /// The ids of the videos by row, at least one.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Byte offsets of the rows.
    #[must_use]
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// The row of a video, if it is in the table.
    #[must_use]
    pub fn position(&self, video_id: &str) -> Option<usize> {
        self.rows.get(video_id).copied()
    }

    /// Reads one row, counted from 0.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such row, if the table cannot be read or has changed since
    /// it was opened, if the next offset of the index is not behind the end of this row, if the row
    /// is not UTF-8, and if it has no frame or an empty one.
    pub fn row(&self, index: usize) -> Result<FrameRow, DataError> {
        let Some(&offset) = self.offsets.get(index) else {
            let kind = DataErrorKind::IndexOutOfRange {
                index,
                len: self.offsets.len(),
            };
            return Err(DataError::new(&self.path, kind));
        };
        let end = self.offsets.get(index + 1).copied().unwrap_or(self.len);
        let mut file =
            File::open(&self.path).map_err(|source| DataError::reading(&self.path, source))?;
        let mut bytes = read_at(&mut file, offset, end - offset)
            .map_err(|source| DataError::reading(&self.path, source))?;
        let actual = offset + bytes.len() as u64;
        if actual < end {
            let expected = end;
            let kind = DataErrorKind::Truncated { expected, actual };
            return Err(DataError::new(&self.path, kind));
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        } else if end < self.len {
            let reason = format!("row {index} is longer than the index says");
            return Err(bad_table(&self.path, end, reason));
        }
        if let Some(place) = bytes.iter().position(|&byte| byte == b'\n') {
            let reason = format!("row {index} ends here, but the index says at byte {end}");
            return Err(bad_table(&self.path, offset + place as u64, reason));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let place = error.utf8_error().valid_up_to() as u64;
            let kind = DataErrorKind::InvalidUtf8 {
                offset: offset + place,
            };
            DataError::at_line(&self.path, index + 1, kind)
        })?;
        let row = FrameRow { text };
        let n_frames = row.frames().count();
        let empty: Option<usize> = row.frames().position(str::is_empty);
        let reason = match empty {
            Some(frame) => format!("frame {frame}, counted from 0, is empty"),
            None if n_frames == 0 => "has no frame".to_owned(),
            None => return Ok(row),
        };
        Err(item_at_line(
            &self.path,
            index + 1,
            excerpt(row.id()),
            reason,
        ))
    }
}

fn bad_table(path: &Path, offset: impl Into<Option<u64>>, reason: impl Into<String>) -> DataError {
    DataError::format(path, "frame table", offset, reason)
}

/// The offsets of an index for a table of `len` bytes.
fn read_offsets(file: &TextFile, len: u64) -> Result<Vec<u64>, DataError> {
    let mut offsets: Vec<u64> = Vec::new();
    for (index, text) in file.text().lines().enumerate() {
        let line = index + 1;
        let digits = text.trim();
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let offset: u64 = match digits.parse() {
            Ok(offset) if is_number => offset,
            _ => {
                let reason = format!("`{}` is not a byte offset", excerpt(digits));
                return Err(file.fault_in_line(line, reason));
            }
        };
        let reason = match offsets.last().copied() {
            None if offset != 0 => "the first offset is not 0".to_owned(),
            Some(previous) if offset <= previous => {
                format!("offset {offset} is not above the one before, {previous}")
            }
            _ if offset >= len => format!("offset {offset}, but the table has only {len} bytes"),
            _ => {
                offsets.push(offset);
                continue;
            }
        };
        return Err(file.fault_in_line(line, reason));
    }
    Ok(offsets)
}

/// The id of the row at an offset, which has to be the start of a line.
fn read_id(path: &Path, file: &mut File, row: usize, offset: u64) -> Result<String, DataError> {
    // The byte before the row is read too.
    let start = offset.saturating_sub(1);
    let bytes = read_at(file, start, MAX_ID_BYTES as u64 + 2)
        .map_err(|source| DataError::reading(path, source))?;
    let bytes = if offset == 0 {
        bytes.as_slice()
    } else if bytes.first() == Some(&b'\n') {
        bytes.get(1..).unwrap_or(&[])
    } else {
        let reason = format!("the index has row {row} here, but no line starts here");
        return Err(bad_table(path, offset, reason));
    };
    let end = bytes
        .iter()
        .position(|&byte| byte == b'\t' || byte == b'\n');
    let id = match end {
        Some(end) if bytes.get(end) == Some(&b'\t') => bytes.get(..end).unwrap_or(&[]),
        _ => {
            let reason = format!("row {row} has no tab within {MAX_ID_BYTES} bytes");
            return Err(bad_table(path, offset, reason));
        }
    };
    match std::str::from_utf8(id) {
        Ok(id) if !id.trim().is_empty() => Ok(id.to_owned()),
        Ok(_) => Err(bad_table(path, offset, format!("row {row} has a blank id"))),
        Err(error) => {
            let kind = DataErrorKind::InvalidUtf8 {
                offset: offset + error.valid_up_to() as u64,
            };
            Err(DataError::at_line(path, row + 1, kind))
        }
    }
}

/// At most `len` bytes from `offset` on.
fn read_at(file: &mut File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.by_ref().take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const TABLE: &str = "a\tAA==\tBB==\nvideo1\tCC==\n";

    fn write(table: &[u8], index: &str) -> (TempDir, Result<FrameTable, DataError>) {
        let folder = tempfile::tempdir().unwrap();
        let paths = (
            folder.path().join("img.tsv"),
            folder.path().join("img.lineidx"),
        );
        fs::write(&paths.0, table).unwrap();
        fs::write(&paths.1, index).unwrap();
        let opened = FrameTable::open(&paths.0, &paths.1);
        (folder, opened)
    }

    #[test]
    fn rows_are_read_in_any_order() {
        for table in [TABLE, TABLE.trim_end()] {
            let (_folder, opened) = write(table.as_bytes(), "0\n12\n");
            let opened = opened.unwrap();
            assert_eq!(opened.ids(), ["a", "video1"]);
            let row = opened.row(opened.position("video1").unwrap()).unwrap();
            assert_eq!(row.id(), "video1");
            assert_eq!(row.frames().collect::<Vec<_>>(), ["CC=="]);
            let row = opened.row(0).unwrap();
            assert_eq!(row.frames().collect::<Vec<_>>(), ["AA==", "BB=="]);
            assert!(opened.row(2).is_err());
        }
    }

    #[test]
    fn windows_line_ends_belong_to_no_frame() {
        let (_folder, opened) = write(TABLE.replace('\n', "\r\n").as_bytes(), "0\r\n13\r\n");
        let row = opened.unwrap().row(0).unwrap();
        assert_eq!(row.frames().last(), Some("BB=="));
    }

    #[test]
    fn an_index_that_does_not_fit_is_an_error_with_its_place() {
        let cases = [
            ("", "img.lineidx: not a valid line index file: empty file"),
            (
                "0\n\n12\n",
                "img.lineidx:2: not a valid line index file: `` is not",
            ),
            ("0\n+12\n", "img.lineidx:2:"),
            ("0\n99999999999999999999\n", "img.lineidx:2:"),
            (
                "1\n",
                "img.lineidx:1: not a valid line index file: the first offset is not 0",
            ),
            ("0\n12\n12\n", "img.lineidx:3:"),
            (
                "0\n24\n",
                "img.lineidx:2: not a valid line index file: offset 24, but",
            ),
            (
                "0\n11\n",
                "img.tsv: not a valid frame table file at byte 11: the index has row 1",
            ),
        ];
        for (index, message) in cases {
            let error = write(TABLE.as_bytes(), index).1.unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }

    #[test]
    fn a_row_that_the_index_leaves_out_is_found_when_its_neighbor_is_read() {
        let (_folder, opened) = write(TABLE.as_bytes(), "0\n");
        let error = opened.unwrap().row(0).unwrap_err().to_string();
        assert!(error.contains("at byte 11: row 0 ends here"), "{error}");
    }

    #[test]
    fn bad_rows_are_errors() {
        let cases: [(&[u8], &str); 5] = [
            (b"", "empty file"),
            (b"abc\n", "row 0 has no tab"),
            (b"\tAA==\n", "row 0 has a blank id"),
            (b"a\xff\tAA==\n", "byte 1 is not UTF-8"),
            (&[b'a'; 2000], "row 0 has no tab within 1024 bytes"),
        ];
        for (table, message) in cases {
            let error = write(table, "0\n").1.unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
        let (_folder, opened) = write(b"a\tAA==\t\tBB==\n", "0\n");
        let error = opened.unwrap().row(0).unwrap_err().to_string();
        assert!(
            error.contains("frame 1, counted from 0, is empty"),
            "{error}"
        );
        let error = write(b"a\tA\na\tB\n", "0\n4\n").1.unwrap_err().to_string();
        assert!(error.contains("item `a`: already is in row 0"), "{error}");
    }

    #[test]
    fn a_table_that_has_shrunk_is_an_error() {
        let (folder, opened) = write(TABLE.as_bytes(), "0\n12\n");
        fs::write(folder.path().join("img.tsv"), &TABLE[..15]).unwrap();
        let error = opened.unwrap().row(1).unwrap_err().to_string();
        assert!(error.contains("ends at byte 15 where 24 bytes"), "{error}");
    }
}
