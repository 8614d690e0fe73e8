//! The table of paraphrases.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::mem;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender};

use flate2::bufread::MultiGzDecoder;
use meltr_data::{DataError, DataErrorKind};
use rustc_hash::FxHashMap;

use super::keys::key_of;

/// Bytes of the table that are decompressed at a time.
const CHUNK_BYTES: usize = 1 << 18;

/// First bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Lines of an entry: the probability, which METEOR does not use, a phrase and its paraphrase.
const ENTRY_LINES: usize = 3;

/// The paraphrases of phrases, all by their keys.
///
/// The table of METEOR 1.5, 5.3 million entries for 0.43 million phrases, takes some 60 MB.
#[derive(Debug, Clone, Default)]
pub(crate) struct Paraphrases {
    places: FxHashMap<u64, Range<usize>>,
    paraphrases: Vec<u64>,
}

impl Paraphrases {
    /// Reads the chunks of a table in their order.
    ///
    /// # Errors
    ///
    /// Returns the error of a chunk, or one that names the line if the table is not one.
    pub(crate) fn collect(
        path: &Path,
        chunks: impl IntoIterator<Item = Result<Vec<u8>, DataError>>,
    ) -> Result<Self, DataError> {
        let mut reader = TableReader::new(path);
        for chunk in chunks {
            reader.feed(&chunk?)?;
        }
        reader.finish()
    }

    /// The keys of the paraphrases of a phrase, in the order of the table.
    pub(crate) fn of(&self, phrase: u64) -> &[u64] {
        let place = self.places.get(&phrase).cloned().unwrap_or_default();
        self.paraphrases.get(place).unwrap_or_default()
    }
}

/// Sends the content of a file, decompressed if it is a gzip file, until its end, an error, or
/// until nobody receives.
pub(crate) fn send_chunks(path: &Path, chunks: &SyncSender<Result<Vec<u8>, DataError>>) {
    let sent = read_chunks(path, |chunk| chunks.send(Ok(chunk)).is_ok());
    if let Err(source) = sent {
        // If nobody receives, nobody asks for the error.
        let _ = chunks.send(Err(fault_of(path, source)));
    }
}

/// The chunks that [`send_chunks`] sends.
pub(crate) type Chunks = Receiver<Result<Vec<u8>, DataError>>;

/// Gives a file to `take` by chunks, as long as it wants more.
fn read_chunks(path: &Path, mut take: impl FnMut(Vec<u8>) -> bool) -> io::Result<()> {
    let mut file = BufReader::with_capacity(CHUNK_BYTES, File::open(path)?);
    let is_gzip = file.fill_buf()?.starts_with(&GZIP);
    let mut content: Box<dyn Read> = if is_gzip {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let len = fill(&mut content, &mut chunk)?;
        chunk.truncate(len);
        if len == 0 || !take(chunk) {
            return Ok(());
        }
    }
}

/// Reads until the buffer is full or nothing is left; returns the number of bytes.
fn fill(content: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match content.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

fn fault_of(path: &Path, source: io::Error) -> DataError {
    let kind = match source.kind() {
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof => {
            DataErrorKind::Format {
                format: "gzip",
                offset: None,
                reason: source.to_string(),
            }
        }
        _ => DataErrorKind::Io {
            action: "read",
            source,
        },
    };
    DataError::new(path, kind)
}

/// Takes a table apart, which comes in chunks that end anywhere.
#[derive(Debug)]
struct TableReader<'p> {
    path: &'p Path,
    /// Complete lines so far.
    n_lines: usize,
    /// The beginning of an incomplete line.
    carry: Vec<u8>,
    /// The phrase of the entries that are being read.
    phrase: Vec<u8>,
    /// Where its paraphrases begin.
    start: usize,
    table: Paraphrases,
}

impl<'p> TableReader<'p> {
    fn new(path: &'p Path) -> Self {
        Self {
            path,
            n_lines: 0,
            carry: Vec::new(),
            phrase: Vec::new(),
            start: 0,
            table: Paraphrases::default(),
        }
    }

    fn feed(&mut self, chunk: &[u8]) -> Result<(), DataError> {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', chunk) {
            let line = &chunk[start..end];
            if self.carry.is_empty() {
                self.line(line)?;
            } else {
                let mut whole = mem::take(&mut self.carry);
                whole.extend_from_slice(line);
                self.line(&whole)?;
            }
            start = end + 1;
        }
        self.carry.extend_from_slice(&chunk[start..]);
        Ok(())
    }

    fn finish(mut self) -> Result<Paraphrases, DataError> {
        if !self.carry.is_empty() {
            let line = mem::take(&mut self.carry);
            self.line(&line)?;
        }
        if self.n_lines == 0 {
            return Err(self.fault("the table is empty"));
        }
        if !self.n_lines.is_multiple_of(ENTRY_LINES) {
            return Err(self.fault("the table ends inside an entry of three lines"));
        }
        self.close()?;
        self.table.paraphrases.shrink_to_fit();
        Ok(self.table)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), DataError> {
        let part = self.n_lines % ENTRY_LINES;
        self.n_lines += 1;
        match part {
            0 => {
                if !line.first().is_some_and(u8::is_ascii_digit) {
                    return Err(self.fault("an entry begins with something else than a number"));
                }
            }
            1 => {
                if self.phrase != line {
                    self.close()?;
                    self.phrase.clear();
                    self.phrase.extend_from_slice(line);
                }
            }
            _ => self.table.paraphrases.push(key_of(line)),
        }
        Ok(())
    }

    /// Files the paraphrases of the phrase that has ended.
    fn close(&mut self) -> Result<(), DataError> {
        let place = self.start..self.table.paraphrases.len();
        self.start = place.end;
        if place.is_empty() {
            return Ok(());
        }
        let before = self.table.places.insert(key_of(&self.phrase), place);
        match before {
            Some(_) => {
                let phrase = String::from_utf8_lossy(&self.phrase);
                Err(self.fault(&format!("the entries of `{phrase}` are not together")))
            }
            None => Ok(()),
        }
    }

    /// An error about the line that was read last.
    fn fault(&self, reason: &str) -> DataError {
        DataError {
            path: self.path.to_path_buf(),
            line: (self.n_lines > 0).then_some(self.n_lines),
            kind: DataErrorKind::Format {
                format: "METEOR paraphrase",
                offset: None,
                reason: reason.to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::sync::mpsc::sync_channel;
    use std::thread;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const TABLE: &str = "0.5\na\nthe\n0.1\nin order to\nto\n1.2E-4\nin order to\nso as to\n";

    fn collect(chunks: &[&str]) -> Result<Paraphrases, DataError> {
        let chunks = chunks.iter().map(|chunk| Ok(chunk.as_bytes().to_vec()));
        Paraphrases::collect(Path::new("table"), chunks)
    }

    fn read(path: &Path) -> Result<Paraphrases, DataError> {
        thread::scope(|scope| {
            let (sender, chunks) = sync_channel(1);
            scope.spawn(move || send_chunks(path, &sender));
            Paraphrases::collect(path, chunks)
        })
    }

    fn assert_is_table(found: &Paraphrases) {
        assert_eq!(found.of(key_of(b"a")), [key_of(b"the")]);
        let expected = [key_of(b"to"), key_of(b"so as to")];
        assert_eq!(found.of(key_of(b"in order to")), expected);
        assert!(found.of(key_of(b"to")).is_empty());
    }

    #[test]
    fn chunks_may_end_anywhere() {
        assert_is_table(&collect(&[TABLE]).unwrap());
        assert_is_table(&collect(&[TABLE.trim_end()]).unwrap());
        for cut in 0..TABLE.len() {
            let (left, right) = TABLE.split_at(cut);
            assert_is_table(&collect(&[left, right]).unwrap());
        }
        let bytes: Vec<String> = TABLE.chars().map(String::from).collect();
        let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_is_table(&collect(&bytes).unwrap());
    }

    #[test]
    fn a_table_is_read_with_and_without_compression() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table");
        fs::write(&path, TABLE).unwrap();
        assert_is_table(&read(&path).unwrap());
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(TABLE.as_bytes()).unwrap();
        let packed = encoder.finish().unwrap();
        fs::write(&path, &packed).unwrap();
        assert_is_table(&read(&path).unwrap());
        fs::write(&path, &packed[..packed.len() - 9]).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("not a valid gzip file"), "{message}");
    }

    #[test]
    fn what_is_no_table_is_an_error_that_names_the_line() {
        for (text, place, reason) in [
            ("", "table: ", "the table is empty"),
            ("0.5\na\nb\n0.5\na\n", "table:5: ", "ends inside an entry"),
            ("0.5\na\nb\nx\na\nc\n", "table:4: ", "else than a number"),
            (
                "0.5\na\nb\n0.5\nc\nd\n0.5\na\nc\n",
                "table:9: ",
                "the entries of `a` are not together",
            ),
        ] {
            let message = collect(&[text]).unwrap_err().to_string();
            assert!(message.starts_with(place), "{message}");
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn an_absent_table_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent");
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("cannot be read"), "{message}");
    }
}
