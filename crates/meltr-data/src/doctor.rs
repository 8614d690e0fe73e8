//! The data doctor: which items of a set cannot be used, and why.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::ArrayD;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::checksum::sha256_of_file;
use crate::error::{DataError, DataErrorKind};
use crate::host_array::HostArray;
use crate::inspect::FileFormat;
use crate::manifest::{Manifest, ManifestItem};
use crate::npy::{NpyContent, read_npz};
use crate::pickle::{Pickle, Value};
use crate::registry::RegistryEntry;
use crate::tensor_file::TensorFile;
use crate::video::{DamagePolicy, DecodeOptions, Decoder, FrameRule, FrameSource, MediaFrames};

/// Findings that an error message lists at most.
const MAX_LISTED: usize = 5;

/// Bytes that tell text from video.
const TEXT_PROBE: u64 = 512;

/// Warnings of a decoder that a finding quotes at most.
const MAX_WARNINGS: usize = 3;

/// What is wrong with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// There is no such file, or no such item in a file of features.
    Missing,
    /// The file has no byte, or the features no row.
    Empty,
    /// The file ends early.
    Truncated,
    /// The file is no video, or its frames cannot be decoded.
    Undecodable,
    /// The id or the content is that of another item.
    Duplicate,
    /// The features hold NaN or an infinite value.
    NonFinite,
    /// The features have another width than they should.
    WrongWidth,
}

impl FindingKind {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Empty => "empty",
            Self::Truncated => "truncated",
            Self::Undecodable => "undecodable",
            Self::Duplicate => "duplicate",
            Self::NonFinite => "non_finite",
            Self::WrongWidth => "wrong_width",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// One item that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// The item.
    pub id: String,
    /// Its file, or the file that should hold it.
    pub file: PathBuf,
    /// The place and the measured values.
    pub detail: String,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    /// What was checked.
    pub source: PathBuf,
    /// Number of items that the set should have, repeated ones included.
    pub total: usize,
    /// Number of items that training will really see.
    pub usable: usize,
    /// What is wrong, in the order of the items.
    pub findings: Vec<Finding>,
    #[serde(skip)]
    usable_ids: Vec<String>,
}

/// What training does with a set that has findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultyItems {
    /// Refuses the set.
    #[default]
    Refuse,
    /// Goes on with the items that can be used.
    LeaveOut,
}

impl HealthReport {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Number of findings of each kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<FindingKind, usize> {
        let mut counts = BTreeMap::new();
        for finding in &self.findings {
            *counts.entry(finding.kind).or_insert(0) += 1;
        }
        counts
    }

    /// The ids that training may use, in the order of the set.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first findings if there are any and they are not to be left
    /// out, or if no item is left.
    pub fn admit(&self, faulty: FaultyItems) -> Result<&[String], DataError> {
        if faulty == FaultyItems::Refuse && !self.is_sound() {
            let listed: Vec<String> = self
                .findings
                .iter()
                .take(MAX_LISTED)
                .map(|finding| format!("`{}` {}", finding.id, finding.kind))
                .collect();
            let more = if self.findings.len() > MAX_LISTED {
                ", ..."
            } else {
                ""
            };
            let reason = format!(
                "{} of {} items cannot be used ({}{more}); `meltr data check` lists them all",
                self.total.saturating_sub(self.usable),
                self.total,
                listed.join(", ")
            );
            return Err(DataError::item(&self.source, "set", reason));
        }
        if self.usable_ids.is_empty() {
            let reason = format!("none of its {} items can be used", self.total);
            return Err(DataError::item(&self.source, "set", reason));
        }
        Ok(&self.usable_ids)
    }

    /// `ids` are the distinct ids of the set, `faulty` those among them with a finding, and
    /// `extra` the number of items that are in no way usable: repeated or expected in vain.
    fn new(
        source: &Path,
        ids: Vec<String>,
        faulty: &BTreeSet<String>,
        extra: usize,
        findings: Vec<Finding>,
    ) -> Self {
        let total = ids.len().saturating_add(extra);
        let usable_ids: Vec<String> = ids.into_iter().filter(|id| !faulty.contains(id)).collect();
        Self {
            source: source.to_path_buf(),
            total,
            usable: usable_ids.len(),
            findings,
            usable_ids,
        }
    }
}

/// How thoroughly videos are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckDepth {
    /// Only what the container says about its length: fast, finds no damage inside.
    Container,
    /// Every frame is decoded.
    #[default]
    Decode,
}

/// How clips are checked.
#[derive(Clone, Copy)]
pub struct ClipCheck<'a> {
    /// How thoroughly.
    pub depth: CheckDepth,
    /// Who decodes videos.
    pub decoder: Decoder,
    /// Ids that the set has to have; may be empty.
    pub expected: &'a [String],
    /// Is told how many clips are done, and of how many.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl fmt::Debug for ClipCheck<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClipCheck")
            .field("depth", &self.depth)
            .field("expected", &self.expected.len())
            .finish_non_exhaustive()
    }
}

impl Default for ClipCheck<'_> {
    fn default() -> Self {
        Self {
            depth: CheckDepth::Decode,
            decoder: Decoder::Ffmpeg,
            expected: &[],
            progress: &no_progress,
        }
    }
}

fn no_progress(_done: usize, _total: usize) {}

/// Checks the clips of a manifest or of a folder, several at a time.
///
/// An item is missing, empty, truncated, undecodable, or a duplicate: its id, or the bytes of its
/// file, are those of an earlier item. Items of one file (other questions, other segments) are no
/// duplicates of each other. Each item has at most one finding.
///
/// # Errors
///
/// Returns an error if the manifest or the folder cannot be read, or if there is no decoder; a
/// clip that is damaged is a finding.
pub fn check_clips(path: &Path, check: ClipCheck<'_>) -> Result<HealthReport, DataError> {
    let (manifest, repeated) = Manifest::survey(path)?;
    let items = manifest.items();
    let source = manifest.path().to_path_buf();
    // Each file once, however many items share it.
    let files: Vec<&Path> = {
        let mut seen: BTreeSet<&Path> = BTreeSet::new();
        items
            .iter()
            .map(|item| item.file.as_path())
            .filter(|file| seen.insert(file))
            .collect()
    };
    let done = AtomicUsize::new(0);
    let checked: Result<Vec<Option<Fault>>, DataError> = files
        .par_iter()
        .map(|file| -> Result<Option<Fault>, DataError> {
            let fault = file_fault(file, &check)?;
            let finished = done.fetch_add(1, Ordering::Relaxed) + 1;
            (check.progress)(finished, files.len());
            Ok(fault)
        })
        .collect();
    let mut faults: HashMap<&Path, Fault> = HashMap::new();
    let mut sound: Vec<&Path> = Vec::new();
    for (file, fault) in files.iter().zip(checked?) {
        match fault {
            Some(fault) => {
                faults.insert(file, fault);
            }
            None => sound.push(file),
        }
    }
    let copies = copies(&sound)?;
    let owner = first_owners(items);
    let mut findings = Vec::new();
    let mut faulty = BTreeSet::new();
    for item in items {
        let fault = match faults.get(item.file.as_path()) {
            Some(fault) => Some((fault.kind, fault.detail.clone())),
            None => copies.get(item.file.as_path()).map(|original| {
                let twin = owner.get(original).copied();
                (FindingKind::Duplicate, same_bytes(item, twin, original))
            }),
        };
        if let Some((kind, detail)) = fault {
            faulty.insert(item.id.clone());
            findings.push(Finding {
                kind,
                id: item.id.clone(),
                file: item.file.clone(),
                detail,
            });
        }
    }
    for repeat in &repeated {
        let place = match repeat.item.line {
            Some(line) => format!("line {line} repeats the id of {}", repeat.first),
            None => format!("the name repeats the id of {}", repeat.first),
        };
        findings.push(Finding {
            kind: FindingKind::Duplicate,
            id: repeat.item.id.clone(),
            file: repeat.item.file.clone(),
            detail: place,
        });
    }
    let ids: Vec<String> = items.iter().map(|item| item.id.clone()).collect();
    let absent = absent(&ids, check.expected);
    for id in &absent {
        findings.push(Finding {
            kind: FindingKind::Missing,
            id: id.clone(),
            file: source.clone(),
            detail: "expected, but no item has this id".to_owned(),
        });
    }
    let extra = repeated.len() + absent.len();
    Ok(HealthReport::new(&source, ids, &faulty, extra, findings))
}

/// Checks a file of features: NaN and infinite values, clips without rows, wrong widths, missing
/// ids.
///
/// `width` is the number of features of a row that is needed, if it is known; `expected` are the
/// ids that have to be there, and may be empty.
///
/// # Errors
///
/// Returns an error if the file cannot be read at all.
pub fn check_features(
    path: &Path,
    width: Option<usize>,
    expected: &[String],
) -> Result<HealthReport, DataError> {
    let mut findings = Vec::new();
    let mut faulty = BTreeSet::new();
    let mut ids = Vec::new();
    let mut first_width = width;
    each_clip(path, &mut |clip: &ClipRows<'_>| {
        let is_empty = clip.n_rows == 0 || clip.width == 0;
        if first_width.is_none() && !is_empty {
            first_width = Some(clip.width);
        }
        let needed = first_width.unwrap_or(clip.width);
        let bad_rows: Vec<usize> = (0..clip.n_rows)
            .filter(|row| {
                let start = row * clip.width;
                let end = start + clip.width;
                !clip.values[start..end]
                    .iter()
                    .all(|value| value.is_finite())
            })
            .collect();
        let fault = if is_empty {
            let detail = format!("shape [{}, {}]", clip.n_rows, clip.width);
            Some((FindingKind::Empty, detail))
        } else if clip.width != needed {
            let detail = format!("{} features a row instead of {needed}", clip.width);
            Some((FindingKind::WrongWidth, detail))
        } else {
            bad_rows.first().map(|first| {
                let detail = format!(
                    "{} of {} rows hold NaN or an infinite value, the first is row {first}, \
                     counted from 0",
                    bad_rows.len(),
                    clip.n_rows
                );
                (FindingKind::NonFinite, detail)
            })
        };
        if let Some((kind, detail)) = fault {
            faulty.insert(clip.id.to_owned());
            findings.push(Finding {
                kind,
                id: clip.id.to_owned(),
                file: path.to_path_buf(),
                detail,
            });
        }
        ids.push(clip.id.to_owned());
    })?;
    let absent = absent(&ids, expected);
    for id in &absent {
        findings.push(Finding {
            kind: FindingKind::Missing,
            id: id.clone(),
            file: path.to_path_buf(),
            detail: "expected, but the file has no features of this id".to_owned(),
        });
    }
    Ok(HealthReport::new(
        path,
        ids,
        &faulty,
        absent.len(),
        findings,
    ))
}

/// What is known about one file of a registry entry on this disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileCheck {
    /// Where it is, or should be.
    pub file: PathBuf,
    /// Whether it is what the registry says.
    pub state: FileState,
    /// The measured values.
    pub detail: String,
}

/// Whether a file is what the registry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// The content is the known one.
    Good,
    /// The file is there, but there is no checksum to compare it with.
    Unverified,
    /// There is no such file.
    Missing,
    /// The length or the content is another one.
    Different,
}

impl FileState {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unverified => "unverified",
            Self::Missing => "missing",
            Self::Different => "different",
        }
    }
}

/// Compares the files of a registry entry in `folder` with their lengths and checksums.
///
/// # Errors
///
/// Returns an error if a file is there but cannot be read.
pub fn check_files(entry: &RegistryEntry, folder: &Path) -> Result<Vec<FileCheck>, DataError> {
    entry
        .files
        .iter()
        .map(|known| -> Result<FileCheck, DataError> {
            let file = folder.join(&known.path);
            if !file.is_file() {
                return Ok(FileCheck {
                    file,
                    state: FileState::Missing,
                    detail: "no such file".to_owned(),
                });
            }
            let len = fs::metadata(&file)
                .map_err(|source| DataError::reading(&file, source))?
                .len();
            let differs = match &known.derived {
                // Of another converter the bytes say nothing.
                Some(_) => FileState::Unverified,
                None => FileState::Different,
            };
            let note = known
                .derived
                .as_ref()
                .map(|how| format!("; the known file was {how}, another way may give other bytes"))
                .unwrap_or_default();
            if let Some(size) = known.size
                && size != len
            {
                return Ok(FileCheck {
                    file,
                    state: differs,
                    detail: format!("{len} bytes instead of {size}{note}"),
                });
            }
            let actual = sha256_of_file(&file)?;
            let (state, detail) = match &known.sha256 {
                None => (
                    FileState::Unverified,
                    format!("{len} bytes, SHA-256 {actual}; none is known to compare with"),
                ),
                Some(expected) if *expected == actual => {
                    (FileState::Good, format!("{len} bytes, SHA-256 {actual}"))
                }
                Some(expected) => (
                    differs,
                    format!("SHA-256 {actual} instead of {expected}{note}"),
                ),
            };
            Ok(FileCheck {
                file,
                state,
                detail,
            })
        })
        .collect()
}

/// Why a file is of no use.
struct Fault {
    kind: FindingKind,
    detail: String,
}

fn file_fault(file: &Path, check: &ClipCheck<'_>) -> Result<Option<Fault>, DataError> {
    let fault = |kind, detail: String| Ok(Some(Fault { kind, detail }));
    let information = match fs::metadata(file) {
        Ok(information) => information,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return fault(FindingKind::Missing, "no such file".to_owned());
        }
        Err(source) => return Err(DataError::reading(file, source)),
    };
    if !information.is_file() {
        return fault(FindingKind::Undecodable, "not a regular file".to_owned());
    }
    if information.len() == 0 {
        return fault(FindingKind::Empty, "0 bytes".to_owned());
    }
    let is_text = is_text(file).map_err(|source| DataError::reading(file, source))?;
    if is_text {
        let detail = "the content is text, not video".to_owned();
        return fault(FindingKind::Undecodable, detail);
    }
    let cut = container_end(file, information.len())
        .map_err(|source| DataError::reading(file, source))?;
    if let Some(detail) = cut {
        return fault(FindingKind::Truncated, detail);
    }
    if check.depth == CheckDepth::Container {
        return Ok(None);
    }
    match decode_check(file, check.decoder)? {
        DecodeOutcome::Refused { reason } => fault(FindingKind::Undecodable, reason),
        DecodeOutcome::Decoded {
            frames,
            expected,
            warnings,
        } if !warnings.is_empty() || frames == 0 => {
            let said = warnings
                .iter()
                .take(MAX_WARNINGS)
                .cloned()
                .collect::<Vec<_>>()
                .join("; ");
            if frames < expected {
                let detail = format!("{frames} of {expected} frames can be decoded ({said})");
                fault(FindingKind::Truncated, detail)
            } else {
                fault(FindingKind::Undecodable, format!("damaged frames ({said})"))
            }
        }
        DecodeOutcome::Decoded { .. } => Ok(None),
    }
}

/// What a decoder made of a whole file.
enum DecodeOutcome {
    /// Frames came out.
    Decoded {
        /// Number of frames that came out.
        frames: usize,
        /// Number of frames to be expected from the packets of the file.
        expected: usize,
        /// What the decoder complained about.
        warnings: Vec<String>,
    },
    /// The file is no video that the decoder knows.
    Refused {
        /// The decoder's reason.
        reason: String,
    },
}

/// Decodes a whole file; an error means that there is no decoder, not that the file is bad.
fn decode_check(path: &Path, decoder: Decoder) -> Result<DecodeOutcome, DataError> {
    let options = DecodeOptions {
        damage: DamagePolicy::Report,
        ..DecodeOptions::default()
    };
    let mut source = MediaFrames::open(decoder, options)?;
    let decoded = source.frames(path, FrameRule::Uniform { frames: 1 });
    let decoded = decoded.and_then(|decoded| {
        // Only what is damaged is worth a look at the headers.
        let expected = if decoded.warnings.is_empty() {
            decoded.decodable_frames
        } else {
            source.probe(path)?.frames_expected
        };
        Ok((expected, decoded))
    });
    match decoded {
        Ok((expected, decoded)) => Ok(DecodeOutcome::Decoded {
            frames: decoded.decodable_frames,
            expected,
            warnings: decoded.warnings,
        }),
        Err(error) => match error.kind {
            DataErrorKind::Program { .. } | DataErrorKind::Io { .. } => Err(error),
            kind => Ok(DecodeOutcome::Refused {
                reason: kind.to_string(),
            }),
        },
    }
}

/// Whether the head of a file is text, which no video starts with for that long: a page of an
/// error, for example, that was saved under the name of a clip.
fn is_text(path: &Path) -> io::Result<bool> {
    let head = bytes_at(&mut File::open(path)?, 0, TEXT_PROBE)?;
    let valid = match std::str::from_utf8(&head) {
        Ok(text) => text,
        // The probe may end inside a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or("")
        }
        Err(_) => return Ok(false),
    };
    let is_printable = |symbol: char| !symbol.is_control() || matches!(symbol, '\t' | '\n' | '\r');
    Ok(!valid.is_empty() && valid.chars().all(is_printable))
}

/// How a container contradicts the length of its file, if it does: MP4 and MOV by their boxes, AVI
/// by its RIFF header. Other containers are left to the decoder.
fn container_end(path: &Path, len: u64) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let head = bytes_at(&mut file, 0, 12)?;
    if head.len() == 12 && head.starts_with(b"RIFF") && head[8..] == *b"AVI " {
        let promised = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]])) + 8;
        let cut = (promised > len)
            .then(|| format!("ends at byte {len} where the header promises {promised} bytes"));
        return Ok(cut);
    }
    if head.len() >= 8 && head[4..8] == *b"ftyp" {
        return box_end(&mut file, len);
    }
    Ok(None)
}

/// Walks the outermost boxes of an MP4 file.
fn box_end(file: &mut File, len: u64) -> io::Result<Option<String>> {
    let mut start: u64 = 0;
    let mut has_index = false;
    while start < len {
        let head = bytes_at(file, start, 16)?;
        if head.len() < 8 {
            break;
        }
        let name = &head[4..8];
        if !name.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            break;
        }
        let size = match u32::from_be_bytes([head[0], head[1], head[2], head[3]]) {
            // To the end of the file.
            0 => len - start,
            1 if head.len() == 16 => u64::from_be_bytes([
                head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15],
            ]),
            size => u64::from(size),
        };
        let name = String::from_utf8_lossy(name).into_owned();
        let Some(end) = start.checked_add(size).filter(|_| size >= 8) else {
            break;
        };
        if end > len {
            return Ok(Some(format!(
                "ends at byte {len} inside the box `{name}`, which should reach to byte {end}"
            )));
        }
        has_index |= name == "moov";
        start = end;
    }
    let cut = (!has_index)
        .then(|| format!("ends at byte {len} without the box `moov`, the index of the frames"));
    Ok(cut)
}

/// Up to `count` bytes from an offset; fewer at the end of the file.
fn bytes_at(file: &mut File, offset: u64, count: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// For each file with the content of an earlier one, that earlier file.
fn copies<'a>(files: &[&'a Path]) -> Result<HashMap<&'a Path, &'a Path>, DataError> {
    let mut by_size: BTreeMap<u64, Vec<&'a Path>> = BTreeMap::new();
    for &file in files {
        let len = fs::metadata(file)
            .map_err(|source| DataError::reading(file, source))?
            .len();
        by_size.entry(len).or_default().push(file);
    }
    let same_size: Vec<&'a Path> = by_size
        .into_values()
        .filter(|group| group.len() > 1)
        .flatten()
        .collect();
    let sums: Result<Vec<String>, DataError> = same_size
        .par_iter()
        .map(|file| sha256_of_file(file))
        .collect();
    let mut firsts: HashMap<String, &'a Path> = HashMap::new();
    let mut copies = HashMap::new();
    for (file, sum) in same_size.into_iter().zip(sums?) {
        match firsts.get(&sum) {
            Some(&first) => {
                copies.insert(file, first);
            }
            None => {
                firsts.insert(sum, file);
            }
        }
    }
    Ok(copies)
}

/// The first item of each file.
fn first_owners(items: &[ManifestItem]) -> HashMap<&Path, &ManifestItem> {
    let mut owners = HashMap::new();
    for item in items {
        owners.entry(item.file.as_path()).or_insert(item);
    }
    owners
}

fn same_bytes(item: &ManifestItem, twin: Option<&ManifestItem>, original: &Path) -> String {
    let Some(twin) = twin else {
        return format!("same bytes as {}", original.display());
    };
    let leak = match (item.split, twin.split) {
        (Some(here), Some(there)) if here != there => {
            format!(", across the splits {here} and {there}")
        }
        _ => String::new(),
    };
    format!(
        "same bytes as item `{}`, {}{leak}",
        twin.id,
        original.display()
    )
}

/// The expected ids that are not there, each once.
fn absent(ids: &[String], expected: &[String]) -> Vec<String> {
    let mut there: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let mut absent = Vec::new();
    for id in expected {
        if there.insert(id.as_str()) {
            absent.push(id.clone());
        }
    }
    absent
}

/// The features of one clip, row by row.
struct ClipRows<'a> {
    id: &'a str,
    n_rows: usize,
    width: usize,
    values: &'a [f32],
}

/// Visits the features of every clip of a file, however bad their values are.
///
/// `VideoFeatures` refuses a file at its first bad value; here all of them are wanted.
fn each_clip(path: &Path, visit: &mut dyn FnMut(&ClipRows<'_>)) -> Result<(), DataError> {
    match FileFormat::detect(path)? {
        FileFormat::Safetensors => {
            let file = TensorFile::open(path)?;
            for name in file.names() {
                visit_array(path, name, &file.f32(name)?, visit)?;
            }
        }
        FileFormat::Npz => {
            for (name, content) in read_npz(path)? {
                let NpyContent::Array(array) = content else {
                    return Err(DataError::item(path, name, "is no array of numbers"));
                };
                visit_array(path, &name, &floats(path, &name, &array)?, visit)?;
            }
        }
        _ => {
            let pickle = Pickle::open(path)?;
            let Value::Dict(entries) = pickle.root().value() else {
                let reason = format!("is a {}, not a dict of id to array", pickle.root().kind());
                return Err(DataError::item(path, "top level", reason));
            };
            for (key, item) in entries {
                let Some(id) = key.text() else {
                    let reason = format!("a key is a {}, not a text", key.kind());
                    return Err(DataError::item(path, "top level", reason));
                };
                let Value::Array(array) = item.value() else {
                    let reason = format!("is a {}, not an array", item.kind());
                    return Err(DataError::item(path, id, reason));
                };
                visit_array(path, id, &floats(path, id, array)?, visit)?;
            }
        }
    }
    Ok(())
}

fn floats(path: &Path, id: &str, array: &HostArray) -> Result<ArrayD<f32>, DataError> {
    array.to_f32().ok_or_else(|| {
        let reason = format!("has elements of type {}, not numbers", array.element());
        DataError::item(path, id, reason)
    })
}

fn visit_array(
    path: &Path,
    id: &str,
    array: &ArrayD<f32>,
    visit: &mut dyn FnMut(&ClipRows<'_>),
) -> Result<(), DataError> {
    let (n_rows, width) = match *array.shape() {
        [n_rows, width] => (n_rows, width),
        _ => {
            let reason = format!(
                "has shape {:?}, but the features of a clip are [rows, features]",
                array.shape()
            );
            return Err(DataError::item(path, id, reason));
        }
    };
    let values: Vec<f32> = array.iter().copied().collect();
    visit(&ClipRows {
        id,
        n_rows,
        width,
        values: &values,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_file::TensorFileWriter;

    /// An MP4 without a frame: enough for the walk over its boxes.
    fn boxes(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in [
            (b"ftyp", &b"isom"[..]),
            (b"mdat", payload),
            (b"moov", &b"index"[..]),
        ] {
            bytes.extend((content.len() as u32 + 8).to_be_bytes());
            bytes.extend(name);
            bytes.extend(content);
        }
        bytes
    }

    fn container() -> ClipCheck<'static> {
        ClipCheck {
            depth: CheckDepth::Container,
            ..ClipCheck::default()
        }
    }

    fn kinds(report: &HealthReport) -> Vec<(FindingKind, &str)> {
        report
            .findings
            .iter()
            .map(|finding| (finding.kind, finding.id.as_str()))
            .collect()
    }

    #[test]
    fn exactly_the_damaged_items_of_a_manifest_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        let whole = boxes(b"frames of a clip");
        put("good.mp4", &whole);
        put("copy.mp4", &whole);
        put("other.mp4", &boxes(b"other frames...."));
        put("cut.mp4", &whole[..whole.len() - 20]);
        put("empty.mp4", b"");
        put("text.mp4", b"<html>404</html>\n");
        let mut manifest = String::new();
        for id in ["good", "copy", "other", "cut", "empty", "text", "gone"] {
            manifest +=
                &format!("{{\"id\": \"{id}\", \"video\": \"{id}.mp4\", \"split\": \"train\"}}\n");
        }
        manifest += "{\"id\": \"good\", \"video\": \"good.mp4\", \"split\": \"test\"}\n";
        put("manifest.jsonl", manifest.as_bytes());
        let report = check_clips(folder.path(), container()).unwrap();
        assert_eq!(
            kinds(&report),
            [
                (FindingKind::Duplicate, "copy"),
                (FindingKind::Truncated, "cut"),
                (FindingKind::Empty, "empty"),
                (FindingKind::Undecodable, "text"),
                (FindingKind::Missing, "gone"),
                (FindingKind::Duplicate, "good"),
            ]
        );
        assert_eq!((report.total, report.usable), (8, 2));
        assert_eq!(
            report.admit(FaultyItems::LeaveOut).unwrap(),
            ["good", "other"]
        );
        let error = report.admit(FaultyItems::Refuse).unwrap_err().to_string();
        assert!(error.contains("6 of 8 items cannot be used"), "{error}");
    }

    #[test]
    fn items_of_one_file_are_no_duplicates() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.mp4"), boxes(b"frames")).unwrap();
        let text = "{\"id\": \"1\", \"video\": \"a.mp4\", \"split\": \"train\", \"end\": 1}\n\
                    {\"id\": \"2\", \"video\": \"a.mp4\", \"split\": \"train\", \"start\": 1}\n";
        fs::write(folder.path().join("set.jsonl"), text).unwrap();
        let report = check_clips(folder.path(), container()).unwrap();
        assert!(report.is_sound(), "{:?}", report.findings);
        assert_eq!(report.usable, 2);
    }

    #[test]
    fn every_truncation_of_a_container_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mp4");
        let whole = boxes(b"frames");
        for len in 8..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            let cut = container_end(&path, len as u64).unwrap();
            assert!(cut.is_some(), "{len} of {} bytes", whole.len());
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(container_end(&path, whole.len() as u64).unwrap(), None);
        fs::write(&path, b"RIFF\x10\0\0\0AVI ").unwrap();
        let cut = container_end(&path, 12).unwrap().unwrap();
        assert!(cut.contains("promises 24 bytes"), "{cut}");
    }

    #[test]
    fn an_expected_id_that_is_nowhere_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.mp4"), boxes(b"frames")).unwrap();
        let expected = ["a".to_owned(), "b".to_owned(), "b".to_owned()];
        let check = ClipCheck {
            expected: &expected,
            ..container()
        };
        let report = check_clips(folder.path(), check).unwrap();
        assert_eq!(kinds(&report), [(FindingKind::Missing, "b")]);
        assert_eq!((report.total, report.usable), (2, 1));
    }

    #[test]
    fn features_that_are_not_finite_are_found_with_their_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.safetensors");
        let mut writer = TensorFileWriter::new();
        writer.insert_f32("a", &[2, 2], vec![0.0, 1.0, 2.0, 3.0]);
        writer.insert_f32("b", &[2, 2], vec![0.0, 1.0, f32::NAN, 3.0]);
        writer.insert_f32("c", &[0, 2], vec![]);
        writer.insert_f32("d", &[1, 3], vec![0.0; 3]);
        writer.write(&path).unwrap();
        let expected = ["a".to_owned(), "e".to_owned()];
        let report = check_features(&path, None, &expected).unwrap();
        assert_eq!(
            kinds(&report),
            [
                (FindingKind::NonFinite, "b"),
                (FindingKind::Empty, "c"),
                (FindingKind::WrongWidth, "d"),
                (FindingKind::Missing, "e"),
            ]
        );
        assert!(report.findings[0].detail.contains("row 1"));
        assert_eq!((report.total, report.usable), (5, 1));
        assert_eq!(report.counts()[&FindingKind::Missing], 1);
    }
}
