//! Members of a zip archive, each declared size checked against what is there.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::error::DataError;

/// Bytes at the start of a damaged archive that are searched for names of members.
const MAX_SEARCHED: u64 = 1 << 20;

/// Names that an error message lists at most.
const MAX_LISTED_NAMES: usize = 8;

/// Deflate packs at most 1032 bytes into one, and a few bytes into an empty stream.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// Bytes that a deflated pickle may always have.
const PICKLE_ALLOWANCE: u64 = 2 << 20;

/// How much a pickle may be larger than its deflated form: text packs 3 to 5 times, and one byte
/// of a pickle may cost dozens of bytes of memory.
const MAX_PICKLE_RATIO: u64 = 8;

/// The members of one archive, readable one at a time.
///
/// Names, sizes and compression are checked when the archive is opened; CRC-32 and the real size
/// when a member is read.
#[derive(Debug)]
pub(crate) struct ZipMembers {
    path: PathBuf,
    format: &'static str,
    archive: ZipArchive<BufReader<File>>,
    members: Vec<Member>,
    by_name: HashMap<String, usize>,
    max_inflated: u64,
}

#[derive(Debug)]
struct Member {
    name: String,
    size: u64,
    /// Bytes in the archive.
    packed: u64,
    deflated: bool,
}

impl ZipMembers {
    /// Reads the directory of an archive; `format` is what errors call the file.
    ///
    /// A deflated member may inflate to `inflation_allowance` bytes more than the whole file has.
    ///
    /// # Errors
    ///
    /// Returns an error if the directory is unreadable, or if a member has a name that occurs
    /// twice or leaves the archive, is encrypted, is neither stored nor deflated, or declares more
    /// bytes than can be there.
    pub(crate) fn open(
        path: &Path,
        format: &'static str,
        inflation_allowance: u64,
    ) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|source| DataError::reading(path, source))?;
        let metadata = file
            .metadata()
            .map_err(|source| DataError::reading(path, source))?;
        let len = metadata.len();
        if metadata.is_dir() {
            let source = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(DataError::reading(path, source));
        }
        if len == 0 {
            return Err(DataError::format(path, format, None, "empty file"));
        }
        let archive = ZipArchive::new(BufReader::new(file))
            .map_err(|error| directory_fault(path, format, error))?;
        if archive.has_duplicate_names() {
            let reason = "the zip central directory names a member twice";
            return Err(DataError::format(path, format, None, reason));
        }
        let mut members = Vec::with_capacity(archive.len());
        let mut by_name = HashMap::with_capacity(archive.len());
        for index in 0..archive.len() {
            let member = checked_member(&archive, index, len)
                .map_err(|reason| DataError::format(path, format, None, reason))?;
            by_name.insert(member.name.clone(), index);
            members.push(member);
        }
        Ok(Self {
            path: path.to_path_buf(),
            format,
            archive,
            members,
            by_name,
            max_inflated: inflation_allowance.saturating_add(len),
        })
    }

    /// Number of members.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// The names in the order of the archive.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.name.as_str())
    }

    /// The position of a member.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The name of the member at a position.
    pub(crate) fn name(&self, index: usize) -> &str {
        &self.members[index].name
    }

    /// The bytes that the member at a position declares.
    pub(crate) fn size(&self, index: usize) -> u64 {
        self.members[index].size
    }

    /// The bytes that a pickle in the member at a position may have.
    pub(crate) fn max_pickle(&self, index: usize) -> u64 {
        let member = &self.members[index];
        if member.deflated {
            let grown = member.packed.saturating_mul(MAX_PICKLE_RATIO);
            grown.saturating_add(PICKLE_ALLOWANCE)
        } else {
            u64::MAX
        }
    }

    /// An error about the member at a position.
    pub(crate) fn fault(&self, index: usize, reason: &str) -> DataError {
        member_fault(&self.path, self.format, &self.members[index].name, reason)
    }

    /// Refuses the member at a position if it inflates too far.
    ///
    /// # Errors
    ///
    /// Returns an error that names the member and the limit.
    pub(crate) fn check_inflation(&self, index: usize) -> Result<(), DataError> {
        let member = &self.members[index];
        if member.deflated && member.size > self.max_inflated {
            return Err(self.fault(
                index,
                &format!(
                    "inflates from {} to {} bytes, above the limit of {}; store it uncompressed",
                    member.packed, member.size, self.max_inflated
                ),
            ));
        }
        Ok(())
    }

    /// Refuses the archive if its deflated members together inflate too far.
    ///
    /// # Errors
    ///
    /// Returns an error that names the member at which the limit is passed.
    pub(crate) fn check_total_inflation(&self) -> Result<(), DataError> {
        let mut total: u64 = 0;
        for (index, member) in self.members.iter().enumerate() {
            if member.deflated {
                total = total.saturating_add(member.size);
            }
            if total > self.max_inflated {
                return Err(self.fault(
                    index,
                    &format!(
                        "with it the archive inflates to more than the limit of {} bytes; \
                         store the arrays uncompressed",
                        self.max_inflated
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Gives the content of the member at a position to `read`, then checks size and CRC-32.
    ///
    /// # Errors
    ///
    /// Returns the error of `read`, or one that names the member if its content is damaged.
    pub(crate) fn read_with<T>(
        &mut self,
        index: usize,
        read: impl FnOnce(&mut MemberReader<'_>) -> Result<T, DataError>,
    ) -> Result<T, DataError> {
        self.check_inflation(index)?;
        let name = &self.members[index].name;
        let size = self.members[index].size;
        let mut file = match self.archive.by_index(index) {
            Ok(file) => file,
            Err(error) => {
                return Err(member_fault(
                    &self.path,
                    self.format,
                    name,
                    &error.to_string(),
                ));
            }
        };
        let mut reader = MemberReader {
            inner: &mut file,
            size,
            taken: 0,
            failure: None,
        };
        let outcome = read(&mut reader);
        if outcome.is_ok() {
            // Runs to the end, where CRC-32 is compared; a failure is kept in the reader.
            let _ = io::copy(&mut reader, &mut io::sink());
        }
        match reader.failure.take() {
            Some(reason) => Err(member_fault(&self.path, self.format, name, &reason)),
            None => outcome,
        }
    }

    /// Bytes `start..start + len` of the member at a position.
    ///
    /// # Errors
    ///
    /// Returns an error if the member has fewer bytes or is damaged.
    pub(crate) fn read_span(
        &mut self,
        index: usize,
        start: u64,
        len: usize,
    ) -> Result<Vec<u8>, DataError> {
        let end = start.saturating_add(len as u64);
        if end > self.size(index) {
            let reason = format!("has {} bytes, {end} are needed", self.size(index));
            return Err(self.fault(index, &reason));
        }
        let path = self.path.clone();
        self.read_with(index, |reader: &mut MemberReader<'_>| {
            io::copy(&mut reader.by_ref().take(start), &mut io::sink())
                .map_err(|source| DataError::reading(&path, source))?;
            let mut bytes = Vec::with_capacity(len);
            reader
                .by_ref()
                .take(len as u64)
                .read_to_end(&mut bytes)
                .map_err(|source| DataError::reading(&path, source))?;
            Ok(bytes)
        })
    }
}

/// The content of one member.
///
/// Fails if it ends before the declared size, goes beyond it, or has another CRC-32.
pub(crate) struct MemberReader<'a> {
    inner: &'a mut dyn Read,
    size: u64,
    taken: u64,
    failure: Option<String>,
}

impl MemberReader<'_> {
    fn fail(&mut self, reason: String) -> io::Error {
        self.failure = Some(reason.clone());
        io::Error::new(io::ErrorKind::InvalidData, reason)
    }
}

impl Read for MemberReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match self.inner.read(buffer) {
            Ok(0) if self.taken < self.size => {
                let reason = format!("ends after {} of {} bytes", self.taken, self.size);
                Err(self.fail(reason))
            }
            Ok(count) => {
                self.taken = self.taken.saturating_add(count as u64);
                if self.taken > self.size {
                    let reason = format!("holds more than the {} bytes it declares", self.size);
                    return Err(self.fail(reason));
                }
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let text = error.to_string();
                let reason = if text.contains("larger than its declared") {
                    format!("holds more than the {} bytes it declares", self.size)
                } else if text.contains("checksum") && self.taken < self.size {
                    format!("ends after {} of {} bytes", self.taken, self.size)
                } else if text.contains("checksum") {
                    "its CRC-32 is not the one in the archive, so its content is damaged".to_owned()
                } else {
                    text
                };
                Err(self.fail(reason))
            }
        }
    }
}

fn member_fault(path: &Path, format: &'static str, name: &str, reason: &str) -> DataError {
    DataError::format(path, format, None, format!("member {name}: {reason}"))
}

/// Why the directory cannot be used, with the members that the start of the file still shows.
fn directory_fault(path: &Path, format: &'static str, error: ZipError) -> DataError {
    let reason = match error {
        ZipError::Io(source)
            if !matches!(
                source.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::InvalidInput
            ) =>
        {
            return DataError::reading(path, source);
        }
        other => other.to_string(),
    };
    let names = names_at_start(path);
    let hint = if names.is_empty() {
        String::new()
    } else {
        format!("; it starts with the members {}", names.join(", "))
    };
    DataError::format(
        path,
        format,
        None,
        format!(
            "the zip central directory cannot be read ({reason}), so the file is cut off, damaged \
             or no zip archive{hint}"
        ),
    )
}

/// Names in the headers before the first members, as far as they are readable.
fn names_at_start(path: &Path) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_SEARCHED).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    let mut names = Vec::new();
    for (at, signature) in bytes.windows(4).enumerate() {
        if signature != b"PK\x03\x04" {
            continue;
        }
        let Some(&[low, high]) = bytes.get(at + 26..at + 28) else {
            continue;
        };
        let len = usize::from(u16::from_le_bytes([low, high]));
        let name = bytes.get(at + 30..at + 30 + len).unwrap_or_default();
        if let Ok(name) = std::str::from_utf8(name)
            && !name.is_empty()
            && name.len() <= 200
            && !name.chars().any(char::is_control)
        {
            names.push(name.to_owned());
        }
        if names.len() == MAX_LISTED_NAMES {
            break;
        }
    }
    names
}

/// One entry of the directory, or why it is refused.
fn checked_member(
    archive: &ZipArchive<BufReader<File>>,
    index: usize,
    len: u64,
) -> Result<Member, String> {
    let entry = archive
        .by_index_data(index)
        .map_err(|error| format!("the zip central directory is damaged ({error})"))?;
    let name = match entry.name() {
        Ok(name) => name.into_owned(),
        Err(error) => return Err(format!("member {index} has no readable name ({error})")),
    };
    if leaves_archive(&name) {
        return Err(format!(
            "member {name:?} has `../`, an absolute path or a backslash in its name"
        ));
    }
    if entry.encrypted() {
        return Err(format!("member {name} is encrypted"));
    }
    let size = entry.size();
    let packed = entry.compressed_size();
    let deflated = match entry.compression() {
        CompressionMethod::Stored => false,
        CompressionMethod::Deflated => true,
        other => {
            return Err(format!(
                "member {name} is compressed by {other:?}; only stored and deflated ones are read"
            ));
        }
    };
    if packed > len {
        return Err(format!(
            "member {name} declares {packed} bytes in a file of {len} bytes"
        ));
    }
    let most = if deflated {
        packed
            .saturating_mul(MAX_DEFLATE_RATIO)
            .saturating_add(MAX_DEFLATE_RATIO)
    } else {
        packed
    };
    if size > most || (!deflated && size != packed) {
        return Err(format!(
            "member {name} declares {size} bytes, but {packed} in the archive cannot be these"
        ));
    }
    Ok(Member {
        name,
        size,
        packed,
        deflated,
    })
}

fn leaves_archive(name: &str) -> bool {
    name.starts_with('/') || name.contains(['\\', '\0']) || name.split('/').any(|part| part == "..")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    /// An archive of the given members, stored or deflated.
    fn archive(members: &[(&str, &[u8])], method: CompressionMethod) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = ZipWriter::new(file.reopen().unwrap());
        let options = SimpleFileOptions::default().compression_method(method);
        for (name, content) in members {
            writer.start_file(*name, options).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap();
        file
    }

    fn content(members: &mut ZipMembers, name: &str) -> Result<Vec<u8>, DataError> {
        let index = members.position(name).unwrap();
        let len = usize::try_from(members.size(index)).unwrap();
        members.read_span(index, 0, len)
    }

    #[test]
    fn stored_and_deflated_members_are_read_by_name() {
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            let file = archive(&[("a", b"first"), ("b/c", b"second second")], method);
            let mut members = ZipMembers::open(file.path(), "test", 0).unwrap();
            assert_eq!(members.names().collect::<Vec<_>>(), ["a", "b/c"]);
            assert_eq!(content(&mut members, "b/c").unwrap(), b"second second");
            assert_eq!(content(&mut members, "a").unwrap(), b"first");
            assert_eq!(members.read_span(1, 7, 3).unwrap(), b"sec");
            let error = members.read_span(0, 3, 3).unwrap_err().to_string();
            assert!(
                error.contains("member a: has 5 bytes, 6 are needed"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_flipped_bit_is_found_by_the_checksum() {
        let file = archive(&[("a", b"0123456789")], CompressionMethod::Stored);
        let mut bytes = std::fs::read(file.path()).unwrap();
        let at = bytes
            .windows(4)
            .position(|window| window == b"4567")
            .unwrap();
        bytes[at] ^= 1;
        std::fs::write(file.path(), bytes).unwrap();
        let mut members = ZipMembers::open(file.path(), "test", 0).unwrap();
        let error = content(&mut members, "a").unwrap_err().to_string();
        assert!(error.contains("member a: its CRC-32"), "{error}");
    }

    #[test]
    fn a_member_that_inflates_beyond_the_limit_is_not_read() {
        let zeros = vec![0; 100_000];
        let file = archive(&[("a", &zeros)], CompressionMethod::Deflated);
        let mut members = ZipMembers::open(file.path(), "test", 10_000).unwrap();
        let error = content(&mut members, "a").unwrap_err().to_string();
        assert!(error.contains("member a: inflates from"), "{error}");
        assert!(members.check_total_inflation().is_err());
        let mut members = ZipMembers::open(file.path(), "test", 100_000).unwrap();
        assert_eq!(content(&mut members, "a").unwrap(), zeros);
    }

    #[test]
    fn names_that_leave_the_archive_are_refused() {
        for name in ["../x", "a/../../x", "/x", "a\\x"] {
            assert!(leaves_archive(name), "{name}");
        }
        assert!(!leaves_archive("a/..b/x"));
    }

    #[test]
    fn a_cut_archive_names_the_members_at_its_start() {
        let file = archive(&[("folder/a", b"0123456789")], CompressionMethod::Stored);
        let bytes = std::fs::read(file.path()).unwrap();
        std::fs::write(file.path(), &bytes[..45]).unwrap();
        let error = ZipMembers::open(file.path(), "test", 0)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("zip central directory cannot be read"),
            "{error}"
        );
        assert!(
            error.contains("starts with the members folder/a"),
            "{error}"
        );
    }
}
