//! What METEOR knows of English, read from the files of its distribution.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use meltr_data::{DataError, DataErrorKind};
use rustc_hash::FxHashSet;
use zip::ZipArchive;
use zip::result::ZipError;

use super::error::MeteorError;
use super::keys::word_number;
use super::normalizer::Normalizer;
use super::paraphrases::{Chunks, Paraphrases, send_chunks};
use super::synonyms::Synonyms;

/// Name of the archive that holds the word lists.
const JAR: &str = "meteor-1.5.jar";

/// The word lists, by their paths in the archive.
const FUNCTION_WORDS: &str = "function/english.words";
const PREFIXES: &str = "nonbreaking/english.prefixes";
pub(crate) const SYNSETS: &str = "synonym/english.synsets";
const EXCEPTIONS: &str = "synonym/english.exceptions";

/// Name of the table of paraphrases as it is distributed.
pub(crate) const TABLE: &str = "paraphrase-en.gz";

/// Where a table may be, from the folder of the archive.
const TABLES: [&str; 4] = [
    TABLE,
    "data/paraphrase-en.gz",
    "paraphrase-en",
    "data/paraphrase-en",
];

/// Bytes that a word list of the archive may have; the largest has 3.7 million.
const MAX_LIST_BYTES: u64 = 1 << 26;

/// Chunks of the table that are decompressed while the word lists are read.
const CHUNKS_AHEAD: usize = 256;

/// Function words, rules of normalization, synonyms and paraphrases of English.
///
/// They are not part of this library: they come with METEOR 1.5, for instance in the Python
/// package pycocoevalcap 1.2, whose folder `meteor` has the archive `meteor-1.5.jar` and the table
/// `data/paraphrase-en.gz`.
#[derive(Debug, Clone)]
pub struct MeteorData {
    pub(crate) normalizer: Normalizer,
    /// Numbers of the function words.
    pub(crate) function_words: FxHashSet<u32>,
    pub(crate) synonyms: Option<Synonyms>,
    pub(crate) paraphrases: Option<Paraphrases>,
}

impl MeteorData {
    /// Reads what there is at a path: a folder with the archive or with its unpacked files, a
    /// folder with a subfolder `meteor` of that kind, or the archive itself.
    ///
    /// The lists of synonyms and the table of paraphrases may be absent; then METEOR goes without
    /// the module and has another [name](super::Meteor::name). The table is looked for beside the
    /// archive and in the folder `data` beside it, with or without compression.
    ///
    /// Costs the decompression of the table to 272 MB of text, by a second thread, of which some
    /// 60 MB are kept.
    ///
    /// # Errors
    ///
    /// [`MeteorError::NoData`] if nothing is there, and [`MeteorError::File`] if a file is
    /// damaged, is not what it should be, or is absent without being optional.
    pub fn read(path: &Path) -> Result<Self, MeteorError> {
        let mut lists = Lists::find(path)?;
        let folder = lists.folder().to_path_buf();
        let table = TABLES
            .iter()
            .map(|name| folder.join(name))
            .find(|table| table.is_file());
        thread::scope(|scope| {
            let chunks: Option<(&Path, Chunks)> = table.as_deref().map(|table| {
                let (sender, chunks) = sync_channel(CHUNKS_AHEAD);
                scope.spawn(move || send_chunks(table, &sender));
                (table, chunks)
            });
            let mut data = Self::of_lists(&mut lists)?;
            if let Some((table, chunks)) = chunks {
                data.paraphrases = Some(Paraphrases::collect(table, chunks)?);
            }
            Ok(data)
        })
    }

    /// Everything but paraphrases.
    fn of_lists(lists: &mut Lists) -> Result<Self, DataError> {
        let function_words = lists.required(FUNCTION_WORDS)?;
        let prefixes = lists.required(PREFIXES)?;
        let synonyms = match lists.text(SYNSETS)? {
            Some(synsets) => Some(Synonyms::parse(&synsets, &lists.required(EXCEPTIONS)?)?),
            None => None,
        };
        Ok(Self {
            normalizer: Normalizer::new(&prefixes.text),
            function_words: function_words
                .text
                .split_whitespace()
                .map(word_number)
                .collect(),
            synonyms,
            paraphrases: None,
        })
    }
}

/// A text file in memory.
#[derive(Debug)]
pub(crate) struct DataText {
    path: PathBuf,
    pub(crate) text: String,
}

impl DataText {
    /// A text and the path that errors name.
    #[cfg(test)]
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.into(),
            text: text.to_owned(),
        }
    }

    /// A text of bytes that should be UTF-8.
    fn from_bytes(path: PathBuf, bytes: Vec<u8>) -> Result<Self, DataError> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { path, text }),
            Err(error) => {
                let offset = error.utf8_error().valid_up_to() as u64;
                Err(DataError::new(path, DataErrorKind::InvalidUtf8 { offset }))
            }
        }
    }

    /// An error about a line, counted from 1.
    pub(crate) fn fault(&self, line: usize, reason: String) -> DataError {
        DataError::at_line(&self.path, line, format_fault("METEOR word list", reason))
    }
}

/// Where the word lists are.
#[derive(Debug)]
enum Lists {
    /// Files in a folder.
    Folder(PathBuf),
    /// Members of an archive.
    Archive {
        path: PathBuf,
        archive: ZipArchive<BufReader<File>>,
    },
}

impl Lists {
    fn find(path: &Path) -> Result<Self, MeteorError> {
        if path.is_file() {
            return Ok(Self::open(path)?);
        }
        for folder in [path.to_path_buf(), path.join("meteor")] {
            let jar = folder.join(JAR);
            if folder.join(FUNCTION_WORDS).is_file() {
                return Ok(Self::Folder(folder));
            }
            if jar.is_file() {
                return Ok(Self::open(&jar)?);
            }
        }
        Err(MeteorError::NoData {
            path: path.to_path_buf(),
        })
    }

    fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|source| reading(path, source))?;
        match ZipArchive::new(BufReader::new(file)) {
            Ok(archive) => Ok(Self::Archive {
                path: path.to_path_buf(),
                archive,
            }),
            Err(error) => Err(DataError::new(path, format_fault("jar", error.to_string()))),
        }
    }

    /// The folder of the files or of the archive.
    fn folder(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder,
            // A bare file name has the empty path as its folder, which joins to the current one.
            Self::Archive { path, .. } => path.parent().unwrap_or(Path::new("")),
        }
    }

    /// A list, if it is there.
    fn text(&mut self, name: &str) -> Result<Option<DataText>, DataError> {
        let (path, bytes) = match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                match fs::read(&path) {
                    Ok(bytes) => (path, bytes),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(reading(&path, error)),
                }
            }
            Self::Archive { path, archive } => {
                let member = match archive.by_name(name) {
                    Ok(member) => member,
                    Err(ZipError::FileNotFound) => return Ok(None),
                    Err(error) => {
                        let reason = format!("member {name}: {error}");
                        return Err(DataError::new(path.as_path(), format_fault("jar", reason)));
                    }
                };
                let mut bytes = Vec::new();
                let read = member.take(MAX_LIST_BYTES + 1).read_to_end(&mut bytes);
                let fault = match read {
                    Err(error) => Some(error.to_string()),
                    Ok(len) if len as u64 > MAX_LIST_BYTES => {
                        Some(format!("has more than {MAX_LIST_BYTES} bytes"))
                    }
                    Ok(_) => None,
                };
                if let Some(fault) = fault {
                    let reason = format!("member {name}: {fault}");
                    return Err(DataError::new(path.as_path(), format_fault("jar", reason)));
                }
                (path.join(name), bytes)
            }
        };
        DataText::from_bytes(path, bytes).map(Some)
    }

    /// A list that has to be there.
    fn required(&mut self, name: &str) -> Result<DataText, DataError> {
        match self.text(name)? {
            Some(text) => Ok(text),
            None => {
                let path = match self {
                    Self::Folder(folder) => folder.join(name),
                    Self::Archive { path, .. } => path.join(name),
                };
                Err(DataError::new(path, DataErrorKind::MissingFile))
            }
        }
    }
}

fn format_fault(format: &'static str, reason: String) -> DataErrorKind {
    DataErrorKind::Format {
        format,
        offset: None,
        reason,
    }
}

fn reading(path: &Path, source: io::Error) -> DataError {
    DataError::new(
        path,
        DataErrorKind::Io {
            action: "read",
            source,
        },
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::super::keys::key_of;
    use super::*;

    /// Lists and a table that are small enough to calculate with.
    const FILES: [(&str, &str); 5] = [
        (FUNCTION_WORDS, "the\na\nis\nto\n,\n.\n"),
        (PREFIXES, "Mr\nNo #NUMERIC_ONLY#\n"),
        (
            SYNSETS,
            "car\n00000001\nautomobile\n00000001\nchild\n00000002\nkid\n00000002\n",
        ),
        (EXCEPTIONS, "child\nchildren\n"),
        (
            "data/paraphrase-en",
            "0.5\nin order to\nto\n0.1\nlots of\nmany\n",
        ),
    ];

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn write_jar(path: &Path, files: &[(&str, &str)]) {
        let mut jar = ZipWriter::new(File::create(path).unwrap());
        for (name, text) in files {
            jar.start_file(*name, SimpleFileOptions::default()).unwrap();
            jar.write_all(text.as_bytes()).unwrap();
        }
        jar.finish().unwrap();
    }

    fn assert_is_complete(data: &MeteorData) {
        assert_eq!(data.normalizer.normalize("Mr. A"), "mr. a");
        assert!(data.function_words.contains(&word_number("the")));
        assert_eq!(data.function_words.len(), 6);
        assert_eq!(data.synonyms.as_ref().unwrap().of("children"), [2]);
        let paraphrases = data.paraphrases.as_ref().unwrap();
        assert_eq!(paraphrases.of(key_of(b"in order to")), [key_of(b"to")]);
    }

    /// Data for other tests of this module.
    pub(crate) fn small_data() -> MeteorData {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &FILES);
        MeteorData::read(folder.path()).unwrap()
    }

    #[test]
    fn a_folder_a_jar_and_the_folder_above_a_jar_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let unpacked = folder.path().join("unpacked");
        write(&unpacked, &FILES);
        assert_is_complete(&MeteorData::read(&unpacked).unwrap());

        let package = folder.path().join("package");
        write(&package.join("meteor"), &FILES[4..]);
        let jar = package.join("meteor").join(JAR);
        write_jar(&jar, &FILES[..4]);
        for path in [package.join("meteor"), package, jar] {
            assert_is_complete(&MeteorData::read(&path).unwrap());
        }
    }

    #[test]
    fn synonyms_and_paraphrases_may_be_absent() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &FILES[..2]);
        let data = MeteorData::read(folder.path()).unwrap();
        assert!(data.synonyms.is_none());
        assert!(data.paraphrases.is_none());
    }

    #[test]
    fn other_lists_may_not() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &FILES[..1]);
        let message = MeteorData::read(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains("english.prefixes: no such file"),
            "{message}"
        );

        write(folder.path(), &FILES[1..3]);
        let message = MeteorData::read(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains("english.exceptions: no such file"),
            "{message}"
        );

        let error = MeteorData::read(&folder.path().join("data")).unwrap_err();
        assert!(matches!(error, MeteorError::NoData { .. }));
        assert!(
            error
                .to_string()
                .contains("holds neither `meteor-1.5.jar` nor")
        );
    }

    #[test]
    fn damaged_files_are_errors_that_name_them() {
        let folder = tempfile::tempdir().unwrap();
        let jar = folder.path().join(JAR);
        fs::write(&jar, "PK is not enough").unwrap();
        let message = MeteorData::read(&jar).unwrap_err().to_string();
        assert!(
            message.contains("meteor-1.5.jar: not a valid jar file"),
            "{message}"
        );

        let unpacked = folder.path().join("unpacked");
        write(&unpacked, &FILES);
        fs::write(unpacked.join(FUNCTION_WORDS), b"the\n\xff\n").unwrap();
        let message = MeteorData::read(&unpacked).unwrap_err().to_string();
        assert!(
            message.contains("english.words: byte 4 is not UTF-8"),
            "{message}"
        );
    }
}
