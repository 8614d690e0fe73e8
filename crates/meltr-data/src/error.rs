//! What can go wrong when a file is read, a batch is built or a setting is checked.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a data file could not be used: which file, which line, what is wrong and what to do.
///
/// Displayed as `path:line: what is wrong; what to do`; the text includes the cause, so that
/// [`std::error::Error::source`] has nothing to add and is `None`.
#[derive(Debug)]
pub struct DataError {
    /// The offending file, or the name of an embedded or unnamed one.
    pub path: PathBuf,
    /// The offending line, counted from 1, of a text file.
    pub line: Option<usize>,
    /// What is wrong.
    pub kind: DataErrorKind,
}

impl DataError {
    /// An error about a whole file.
    pub fn new(path: impl Into<PathBuf>, kind: DataErrorKind) -> Self {
        Self {
            path: path.into(),
            line: None,
            kind,
        }
    }

    /// An error about one line, counted from 1, of a text file.
    pub fn at_line(path: impl Into<PathBuf>, line: usize, kind: DataErrorKind) -> Self {
        Self {
            path: path.into(),
            line: Some(line),
            kind,
        }
    }

    /// An error about the format of a file, at a byte of it if that is known.
    pub(crate) fn format(
        path: &Path,
        format: &'static str,
        offset: impl Into<Option<u64>>,
        reason: impl Into<String>,
    ) -> Self {
        Self::new(
            path,
            DataErrorKind::Format {
                format,
                offset: offset.into(),
                reason: reason.into(),
            },
        )
    }

    /// An error about one item of a valid file.
    pub(crate) fn item(path: &Path, item: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(
            path,
            DataErrorKind::Item {
                item: item.into(),
                reason: reason.into(),
            },
        )
    }

    /// An error of the operating system while reading; an absent file is told apart.
    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::new(path, DataErrorKind::MissingFile),
            _ => Self::new(
                path,
                DataErrorKind::Io {
                    action: "read",
                    source,
                },
            ),
        }
    }

    /// An error of the operating system while writing.
    pub(crate) fn writing(path: &Path, source: io::Error) -> Self {
        Self::new(
            path,
            DataErrorKind::Io {
                action: "written",
                source,
            },
        )
    }
}

impl fmt::Display for DataError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(formatter, ":{line}")?;
        }
        write!(formatter, ": {}", self.kind)
    }
}

impl std::error::Error for DataError {}

/// What is wrong with a data file or with a request to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataErrorKind {
    /// The operating system refused.
    #[error("cannot be {action} ({source}); check the permissions and the free space of the disk")]
    Io {
        /// `read` or `written`.
        action: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file does not exist.
    #[error("no such file; check the path, or fetch the data again")]
    MissingFile,
    /// The file is shorter than its header says.
    #[error("ends at byte {actual} where {expected} bytes were promised; copy the file again")]
    Truncated {
        /// Length in bytes that the header promises, at least.
        expected: u64,
        /// Length in bytes of the file.
        actual: u64,
    },
    /// The file is not a valid `.safetensors` file.
    #[error("not a valid safetensors file{}: {reason}; write or copy the file again", at_byte(.offset))]
    Malformed {
        /// Byte of the file where the reader stopped, if it is known.
        offset: Option<u64>,
        /// What the reader found there.
        reason: String,
    },
    /// The file is not a valid file of its format.
    #[error("not a valid {format} file{}: {reason}; fetch or convert the file again", at_byte(.offset))]
    Format {
        /// Name of the format, e.g. `pickle`.
        format: &'static str,
        /// Byte of the file where the reader stopped, if it is known.
        offset: Option<u64>,
        /// What the reader found there.
        reason: String,
    },
    /// The file is valid but one of its items cannot be used.
    #[error("item `{item}`: {reason}; correct or remove this item")]
    Item {
        /// The key, id or position of the item, with the part of it if that is known.
        item: String,
        /// What is wrong, the value found and the admissible one included.
        reason: String,
    },
    /// A program that is needed cannot be used.
    #[error("the program `{program}` cannot be used: {reason}")]
    Program {
        /// Name or path of the program.
        program: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The content is not the one that the list of checksums promises.
    #[error("SHA-256 is {actual} but should be {expected}; copy the file again")]
    Checksum {
        /// Hexadecimal SHA-256 in the list.
        expected: String,
        /// Hexadecimal SHA-256 of the content.
        actual: String,
    },
    /// A file is absent from the list of checksums.
    #[error("lists no checksum for `{file}`; add one with sha256sum")]
    MissingChecksum {
        /// Name of the file that is not listed.
        file: String,
    },
    /// A tensor is absent.
    #[error("has no tensor `{name}`, only {known}; check that this is the right file")]
    MissingTensor {
        /// Name of the absent tensor.
        name: String,
        /// Names of some tensors that are present.
        known: String,
    },
    /// A tensor has another shape than its use requires.
    #[error(
        "`{name}` has shape {actual:?} but should have {expected}; check that the files and settings belong together"
    )]
    WrongShape {
        /// Name of the tensor.
        name: String,
        /// The admissible shapes, in words.
        expected: String,
        /// The shape found.
        actual: Vec<usize>,
    },
    /// A tensor has an element type that cannot be converted to the one asked for.
    #[error("`{name}` has element type {actual} but should have {expected}; convert the file")]
    WrongDtype {
        /// Name of the tensor.
        name: String,
        /// The admissible element types.
        expected: &'static str,
        /// The element type found.
        actual: String,
    },
    /// A tensor that has to be finite holds an infinite value or NaN.
    #[error("`{name}` holds a value that is not finite; extract the features again")]
    NonFinite {
        /// Name of the tensor.
        name: String,
    },
    /// A table has no row.
    #[error("has no row; check that the file is complete")]
    EmptyTable,
    /// A row has another number of cells than the header.
    #[error("row has {actual} cells but the header has {expected}; check the tabulators")]
    RowWidth {
        /// Number of cells of the header.
        expected: usize,
        /// Number of cells of this row.
        actual: usize,
    },
    /// A cell of a table, or a whole column, is not what it should be.
    #[error("column `{column}` is `{found}` but should be {expected}; correct this row")]
    BadTable {
        /// Name of the column.
        column: String,
        /// What is admissible.
        expected: String,
        /// The content found.
        found: String,
    },
    /// No item belongs to the splits asked for.
    #[error("no item is in split {split}; choose another split")]
    EmptySplit {
        /// The splits asked for.
        split: String,
    },
    /// The name of a split is not known.
    #[error("unknown split `{split}`; use one of {known}")]
    UnknownSplit {
        /// The name found.
        split: String,
        /// The known names.
        known: &'static str,
    },
    /// A vocabulary cannot be used.
    #[error("not a WordPiece vocabulary: {reason}; use a file with one token a line")]
    BadVocabulary {
        /// What is wrong with it.
        reason: String,
    },
    /// A token occurs twice in a vocabulary.
    #[error("token `{token}` already occurs at line {first_line}; remove one of the two")]
    DuplicateToken {
        /// The token.
        token: String,
        /// Line of its first occurrence, counted from 1.
        first_line: usize,
    },
    /// A special token is absent from a vocabulary.
    #[error("has no special token `{token}`; use a vocabulary of the BERT family")]
    MissingToken {
        /// The token.
        token: &'static str,
    },
    /// A text file is not UTF-8.
    #[error("byte {offset} is not UTF-8; convert the file to UTF-8")]
    InvalidUtf8 {
        /// Offset in bytes of the first invalid byte.
        offset: u64,
    },
    /// An item number is beyond the set.
    #[error("item {index} does not exist; the set has {len} items, counted from 0")]
    IndexOutOfRange {
        /// The item asked for.
        index: usize,
        /// Number of items.
        len: usize,
    },
    /// A batch without items was asked for.
    #[error("a batch needs at least one item; pass one or more indices")]
    EmptyBatch,
    /// A setting is not admissible.
    #[error("{source}")]
    Config {
        /// The setting and its admissible values.
        source: ConfigError,
    },
}

fn at_byte(offset: &Option<u64>) -> String {
    match offset {
        Some(offset) => format!(" at byte {offset}"),
        None => String::new(),
    }
}

/// A setting that is not admissible.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value is outside its range.
    #[error("`{field}` is {value}; choose a value {expected}")]
    OutOfRange {
        /// Name of the setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// The admissible values, e.g. `in [0, 1]`.
        expected: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_file_the_line_the_fault_and_the_remedy() {
        let kind = DataErrorKind::DuplicateToken {
            token: "cat".into(),
            first_line: 3,
        };
        let error = DataError::at_line("vocab.txt", 9, kind);
        assert_eq!(
            error.to_string(),
            "vocab.txt:9: token `cat` already occurs at line 3; remove one of the two"
        );
    }

    #[test]
    fn a_byte_place_is_shown_only_where_it_is_known() {
        let at = |offset| {
            DataErrorKind::Malformed {
                offset,
                reason: "bad".into(),
            }
            .to_string()
        };
        assert!(at(Some(12)).starts_with("not a valid safetensors file at byte 12: bad;"));
        assert!(at(None).starts_with("not a valid safetensors file: bad;"));
    }

    #[test]
    fn an_absent_file_is_told_apart_from_an_unreadable_one() {
        let absent = DataError::reading(Path::new("a"), io::ErrorKind::NotFound.into());
        assert!(matches!(absent.kind, DataErrorKind::MissingFile));
        let refused = DataError::reading(Path::new("a"), io::ErrorKind::PermissionDenied.into());
        assert!(
            refused
                .to_string()
                .starts_with("a: cannot be read (permission denied")
        );
    }

    #[test]
    fn an_error_stays_small_enough_to_return_by_value() {
        assert!(size_of::<DataError>() <= 128);
    }

    #[test]
    fn a_setting_out_of_range_says_which_values_are_admissible() {
        let error = ConfigError::OutOfRange {
            field: "max_words",
            value: "2".into(),
            expected: "of at least 3".into(),
        };
        assert_eq!(
            error.to_string(),
            "`max_words` is 2; choose a value of at least 3"
        );
    }
}
