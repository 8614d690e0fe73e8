//! Tables with a header: values separated by commas or tabs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::text_file::{TextFile, excerpt, item_at_line};
use crate::text_pool::TextPool;

/// More columns than this are refused.
const MAX_COLUMNS: usize = 4096;

/// Longest row in bytes.
const MAX_ROW_BYTES: usize = 16 << 20;

/// Columns that a message lists at most.
const MAX_LISTED: usize = 20;

/// What separates the fields of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delimiter {
    /// `,`
    Comma,
    /// A tabulator.
    Tab,
}

impl Delimiter {
    fn byte(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Tab => b'\t',
        }
    }

    fn format(self) -> &'static str {
        match self {
            Self::Comma => "CSV",
            Self::Tab => "TSV",
        }
    }
}

/// A table in UTF-8 whose first row names the columns.
///
/// As pandas reads it: lines end with `\n`, `\r\n` or `\r`, empty lines are skipped, a field may be
/// quoted with `"` (then it may hold delimiters, line ends and doubled quotes), blanks belong to
/// the field, and a byte order mark is dropped. Unlike pandas every row must have as many fields
/// as the header, a quote must be closed, and a name of a column occurs once. Every cell is text.
///
/// At most 4096 columns, 16 MiB a row and 4 GiB a file.
///
/// ```
/// use std::path::Path;
/// use meltr_data::{CsvTable, Delimiter};
///
/// # fn main() -> Result<(), meltr_data::DataError> {
/// let bytes = b"id,title\n1,\"sea, sand\"\n".to_vec();
/// let table = CsvTable::from_bytes(Path::new("a.csv"), bytes, Delimiter::Comma, &["id"])?;
/// let titles: Result<Vec<&str>, _> = table.rows().map(|row| row.text("title")).collect();
/// assert_eq!(titles?, ["sea, sand"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CsvTable {
    path: PathBuf,
    columns: Vec<String>,
    cells: TextPool,
    lines: Vec<u32>,
}

impl CsvTable {
    /// Reads a table that has at least the columns `required` and one row.
    ///
    /// # Errors
    ///
    /// Returns an error, with the line where there is one, if the file is absent, unreadable, not
    /// UTF-8, empty or holds a NUL byte, if there is no header or no row, if a required column is
    /// absent or a name occurs twice, if a row has another number of fields than the header, if a
    /// quote is not closed, and beyond the limits named above.
    pub fn open(path: &Path, delimiter: Delimiter, required: &[&str]) -> Result<Self, DataError> {
        Self::read(
            &TextFile::open(path, delimiter.format())?,
            delimiter,
            required,
        )
    }

    /// The same from the bytes of a file; `label` stands for the path in errors.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes(
        label: &Path,
        bytes: Vec<u8>,
        delimiter: Delimiter,
        required: &[&str],
    ) -> Result<Self, DataError> {
        let file = TextFile::from_bytes(label, delimiter.format(), bytes)?;
        Self::read(&file, delimiter, required)
    }

    fn read(file: &TextFile, delimiter: Delimiter, required: &[&str]) -> Result<Self, DataError> {
        let mut lines = row_lines(file, delimiter.byte())?;
        if lines.is_empty() {
            return Err(file.refuse("no header, only empty lines"));
        }
        let header_line = lines.remove(0) as usize;
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter.byte())
            .from_reader(file.text().as_bytes());
        let mut record = csv::StringRecord::new();
        let mut columns: Vec<String> = Vec::new();
        let mut cells = TextPool::default();
        // Counts the header too.
        let mut n_records: usize = 0;
        loop {
            let more = reader
                .read_record(&mut record)
                .map_err(|error| file.refuse(error.to_string()))?;
            if !more {
                break;
            }
            if n_records == 0 {
                columns = record.iter().map(str::to_owned).collect();
                check_columns(file, header_line, &columns, required)?;
            } else {
                if record.len() != columns.len() {
                    let line = lines.get(n_records - 1).copied().unwrap_or(0) as usize;
                    let fields = if record.len() == 1 { "field" } else { "fields" };
                    let reason = format!("{} {fields}, expected {}", record.len(), columns.len());
                    return Err(file.fault_in_line(line, reason));
                }
                for cell in record.iter() {
                    cells.push(cell);
                }
            }
            n_records += 1;
        }
        // The two passes follow the same grammar; line numbers depend on it.
        if n_records != lines.len() + 1 {
            return Err(file.refuse("rows cannot be told apart"));
        }
        if lines.is_empty() {
            return Err(file.refuse(format!("no rows after the header of line {header_line}")));
        }
        Ok(Self {
            path: file.path().to_owned(),
            columns,
            cells,
            lines,
        })
    }

    /// The file, or the label that stands for it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the columns, in the order of the file.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Number of rows without the header, at least 1.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.lines.len()
    }

    /// The rows without the header, in the order of the file.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.n_rows()).map(move |index| Row { table: self, index })
    }

    /// The number of the row of every value of a column whose values have to be ids.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such column, if a value is empty or blank (with its line),
    /// and if a value occurs twice (with both lines).
    pub fn unique(&self, column: &str) -> Result<HashMap<&str, usize>, DataError> {
        let mut rows: HashMap<&str, usize> = HashMap::new();
        for row in self.rows() {
            let value = row.filled(column)?;
            match rows.entry(value) {
                Entry::Vacant(place) => {
                    place.insert(row.index);
                }
                Entry::Occupied(first) => {
                    let first_line = self.line(*first.get());
                    let reason = format!("'{column}' already has this value in line {first_line}");
                    return Err(item_at_line(&self.path, row.line(), excerpt(value), reason));
                }
            }
        }
        Ok(rows)
    }

    fn line(&self, index: usize) -> usize {
        self.lines.get(index).copied().unwrap_or(0) as usize
    }
}

/// One row of a [`CsvTable`].
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    table: &'a CsvTable,
    index: usize,
}

impl<'a> Row<'a> {
    /// The line where the row starts, counted from 1.
    #[must_use]
    pub fn line(self) -> usize {
        self.table.line(self.index)
    }

    /// The cell of a column; may be empty.
    ///
    /// # Errors
    ///
    /// Returns an error that lists the columns if there is no such one.
    pub fn text(self, column: &str) -> Result<&'a str, DataError> {
        let n_columns = self.table.columns.len();
        let place = self.table.columns.iter().position(|name| name == column);
        let cell = place.and_then(|place| self.table.cells.get(self.index * n_columns + place));
        cell.ok_or_else(|| {
            let reason = missing_column(column, &self.table.columns);
            DataError::item(&self.table.path, "header", reason)
        })
    }

    /// The cell of a column, which must not be empty or blank.
    ///
    /// # Errors
    ///
    /// Returns an error with the line if it is, and as [`text`](Self::text).
    pub fn filled(self, column: &str) -> Result<&'a str, DataError> {
        let text = self.text(column)?;
        if text.trim().is_empty() {
            return Err(item_at_line(
                &self.table.path,
                self.line(),
                column,
                "is blank",
            ));
        }
        Ok(text)
    }
}

/// Where the second pass is within a row.
#[derive(Clone, Copy)]
enum Place {
    RowStart,
    FieldStart,
    Field,
    Quoted,
    /// After a quote within a quoted field: it ends the field or is doubled.
    Quote,
}

/// The line of every row, the header included, by the grammar of the `csv` crate.
///
/// That crate accepts a quote that is never closed and counts only `\n` as line end.
fn row_lines(file: &TextFile, delimiter: u8) -> Result<Vec<u32>, DataError> {
    let mut lines: Vec<u32> = Vec::new();
    let mut place = Place::RowStart;
    let mut line: u32 = 1;
    let mut row_start: usize = 0;
    let mut n_fields: usize = 0;
    let mut quote_line: u32 = 0;
    let mut quote_start: usize = 0;
    let mut after_return = false;
    for (offset, &byte) in file.text().as_bytes().iter().enumerate() {
        let is_end = byte == b'\n' || byte == b'\r';
        if matches!(place, Place::RowStart) && !is_end {
            lines.push(line);
            row_start = offset;
            n_fields = 1;
            place = Place::FieldStart;
        }
        place = match place {
            Place::RowStart => Place::RowStart,
            Place::Quoted if byte == b'"' => Place::Quote,
            Place::Quoted => Place::Quoted,
            Place::Quote if byte == b'"' => Place::Quoted,
            Place::FieldStart if byte == b'"' => {
                quote_line = line;
                quote_start = offset;
                Place::Quoted
            }
            Place::FieldStart | Place::Field | Place::Quote => {
                if byte == delimiter {
                    n_fields += 1;
                    Place::FieldStart
                } else if is_end {
                    Place::RowStart
                } else {
                    Place::Field
                }
            }
        };
        if n_fields > MAX_COLUMNS {
            let reason = format!("a row of more than {MAX_COLUMNS} fields");
            return Err(file.fault(line as usize, offset, reason));
        }
        if !matches!(place, Place::RowStart) && offset - row_start > MAX_ROW_BYTES {
            let reason = "a row of more than 16 MiB; perhaps a quote is not closed";
            let row_line = lines.last().copied().unwrap_or(1) as usize;
            return Err(file.fault(row_line, row_start, reason));
        }
        if is_end && !(byte == b'\n' && after_return) {
            line = line.saturating_add(1);
        }
        after_return = byte == b'\r';
    }
    if matches!(place, Place::Quoted) {
        let reason = "a quote that is never closed";
        return Err(file.fault(quote_line as usize, quote_start, reason));
    }
    Ok(lines)
}

fn check_columns(
    file: &TextFile,
    line: usize,
    columns: &[String],
    required: &[&str],
) -> Result<(), DataError> {
    // A table without a header lacks columns, whatever its first row repeats.
    for name in required {
        if !columns.iter().any(|column| column == name) {
            return Err(file.fault_in_line(line, missing_column(name, columns)));
        }
    }
    for (place, name) in columns.iter().enumerate() {
        if columns[..place].contains(name) {
            let reason = format!("duplicate column {}", excerpt(name));
            return Err(file.fault_in_line(line, reason));
        }
    }
    Ok(())
}

fn missing_column(name: &str, columns: &[String]) -> String {
    let found: Vec<String> = columns
        .iter()
        .take(MAX_LISTED)
        .map(|column| excerpt(column))
        .collect();
    let more = if columns.len() > MAX_LISTED {
        ", …"
    } else {
        ""
    };
    let blanks = if columns.iter().any(|column| column.trim() == name) {
        " (blanks belong to a name)"
    } else {
        ""
    };
    format!(
        "column '{name}' missing; columns found: {}{more}{blanks}",
        found.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(text: &str) -> Result<CsvTable, DataError> {
        let bytes = text.as_bytes().to_vec();
        CsvTable::from_bytes(Path::new("a.csv"), bytes, Delimiter::Comma, &["id"])
    }

    fn rows(table: &CsvTable) -> Vec<(usize, Vec<String>)> {
        let cells = |row: Row<'_>| {
            let cell = |name: &String| row.text(name).unwrap().to_owned();
            (row.line(), table.columns().iter().map(cell).collect())
        };
        table.rows().map(cells).collect()
    }

    #[test]
    fn rows_know_their_line_behind_quotes_and_empty_lines() {
        let read = table("\u{feff}id,text\r\n\r\n1,\"a\r\nb \"\"c\"\"\"\r\n2,d,\r\n");
        assert!(
            read.unwrap_err()
                .to_string()
                .contains("a.csv:5: not a valid CSV file: 3 fields, expected 2")
        );
        let read = table("\u{feff}id,text\r\n\r\n1,\"a\r\nb \"\"c\"\"\"\r\n\n2, d").unwrap();
        assert_eq!(
            rows(&read),
            [
                (3, vec!["1".to_owned(), "a\r\nb \"c\"".to_owned()]),
                (6, vec!["2".to_owned(), " d".to_owned()]),
            ]
        );
        assert_eq!(read.n_rows(), 2);
    }

    #[test]
    fn a_lone_carriage_return_ends_a_line_and_tabs_separate() {
        let bytes = b"id\ttext\r1\ta,b\r".to_vec();
        let read =
            CsvTable::from_bytes(Path::new("a.tsv"), bytes, Delimiter::Tab, &["text"]).unwrap();
        assert_eq!(rows(&read), [(2, vec!["1".to_owned(), "a,b".to_owned()])]);
    }

    #[test]
    fn bad_tables_are_errors_with_their_line() {
        let cases = [
            ("\n\r\n", "a.csv: not a valid CSV file: no header"),
            ("id,b\n", "no rows after the header of line 1"),
            (
                "\nx,y\n1,2\n",
                "a.csv:2: not a valid CSV file: column 'id' missing; columns found: x, y;",
            ),
            (" id,y\n1,2\n", "(blanks belong to a name)"),
            (
                "id,id\n1,2\n",
                "a.csv:1: not a valid CSV file: duplicate column id",
            ),
            (
                "id,b\n1\n",
                "a.csv:2: not a valid CSV file: 1 field, expected 2",
            ),
            (
                "id,b\n1,2\n3,\"x\ny\n",
                "a.csv:3: not a valid CSV file at byte 11: a quote that is never closed",
            ),
        ];
        for (text, message) in cases {
            let error = table(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }

    #[test]
    fn a_row_of_countless_fields_is_refused() {
        let error = table(&",".repeat(1 << 16)).unwrap_err().to_string();
        assert!(error.contains("more than 4096 fields"), "{error}");
    }

    #[test]
    fn ids_have_to_be_filled_and_unique() {
        let read = table("id,b\n1,\n2,x\n").unwrap();
        assert_eq!(read.unique("id").unwrap()["2"], 1);
        let error = read.unique("b").unwrap_err().to_string();
        assert!(error.contains("a.csv:2: item `b`: is blank"), "{error}");
        let error = table("id,b\n7,x\n8,x\n7,x\n").unwrap();
        let error = error.unique("id").unwrap_err().to_string();
        assert!(
            error.contains("a.csv:4: item `7`: 'id' already has this value in line 2"),
            "{error}"
        );
        let error = read.unique("c").unwrap_err().to_string();
        assert!(
            error.contains("column 'c' missing; columns found: id, b"),
            "{error}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = CsvTable::from_bytes(Path::new("a"), bytes, Delimiter::Comma, &["a"]);
        }

        #[test]
        fn both_passes_agree_on_rows(text in "[a\",\r\n\u{feff} ]{0,60}") {
            let whole = format!("id,x,y\n{text}");
            if let Err(error) = table(&whole) {
                prop_assert!(!error.to_string().contains("told apart"), "{}", error);
            }
            let _ = table(&text);
        }

        #[test]
        fn what_is_written_with_quotes_is_read_back(
            cells in prop::collection::vec("[a-c\", \r\n]{1,6}", 1..20),
        ) {
            let mut text = String::from("id,k\n");
            for (index, cell) in cells.iter().enumerate() {
                text.push_str(&format!("\"{}\",{index}\n", cell.replace('"', "\"\"")));
            }
            let read = table(&text).unwrap();
            let found: Vec<String> = rows(&read).into_iter().map(|row| row.1[0].clone()).collect();
            prop_assert_eq!(found, cells);
        }
    }
}
