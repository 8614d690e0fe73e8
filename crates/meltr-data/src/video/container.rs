//! What a file is by its first bytes, whether the outer structure of MP4 and AVI files holds, and
//! how many frames their index lists.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::source::VIDEO;
use crate::error::DataError;

/// Most boxes that are looked at; a sound file has a few dozen on the levels examined.
const MAX_BOXES: usize = 4096;

/// Most bytes of an index that is read; that of a film of two hours has a few million.
const MAX_INDEX: u64 = 1 << 26;

/// Most bytes of the headers of an AVI file.
const MAX_HEADERS: u64 = 1 << 20;

/// Size in bytes up to which a packet of MPEG-4 part 2 is a placeholder that yields no frame.
pub(super) const PLACEHOLDER: u64 = 7;

/// Codes of MPEG-4 part 2 in AVI files, in capitals.
const MPEG4_CODES: [&[u8; 4]; 5] = [b"XVID", b"DIVX", b"DX50", b"FMP4", b"MP4V"];

/// Names of boxes with which MP4 and QuickTime files begin.
const FIRST_BOXES: [&[u8; 4]; 7] = [
    b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot",
];

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    /// An animated picture.
    Gif,
    /// MP4, QuickTime and their relatives.
    Mp4,
    /// Audio Video Interleave.
    Avi,
    /// Anything else, which the decoder has to judge.
    Other,
}

/// The kind of a file that can be read and is not empty.
pub(super) fn kind(path: &Path) -> Result<Container, DataError> {
    let mut file = File::open(path).map_err(|error| DataError::reading(path, error))?;
    Ok(classify(&head(path, &mut file)?))
}

/// What is wrong with the outer structure of a file, in words; nothing for a sound one.
///
/// A cut MP4 or AVI file announces more bytes than it has. An MP4 file without the box `moov` is an
/// error at once: nothing in it can be found.
pub(super) fn faults(path: &Path) -> Result<Vec<String>, DataError> {
    let mut file = File::open(path).map_err(|error| DataError::reading(path, error))?;
    let head = head(path, &mut file)?;
    let len = file
        .metadata()
        .map_err(|error| DataError::reading(path, error))?
        .len();
    match classify(&head) {
        Container::Mp4 => mp4_faults(path, &mut file, len),
        Container::Avi => Ok(avi_faults(&head, len)),
        Container::Gif | Container::Other => Ok(Vec::new()),
    }
}

/// The number of frames that the index of an MP4 or AVI file lists for the first video stream,
/// without the placeholders that follow packed B-frames.
///
/// It is what decoding has to confirm, not a promise. `None` where a glance at the index does not
/// tell: other containers, fragments, an edit list that cuts or repeats, headers that contradict
/// each other, anything that cannot be read.
pub(super) fn indexed_frames(path: &Path) -> Option<usize> {
    let mut file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    let frames = match classify(&bytes_at(&mut file, 0, 16)?) {
        Container::Mp4 => mp4_frames(path, &mut file, len)?,
        Container::Avi => avi_frames(&mut file, len)?,
        Container::Gif | Container::Other => return None,
    };
    (frames > 0).then_some(frames)
}

/// The first bytes in a form for messages.
pub(super) fn first_bytes(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // Only for a message that says that the file is no video.
        drop(file.take(12).read_to_end(&mut bytes));
    }
    bytes.escape_ascii().to_string()
}

fn head(path: &Path, file: &mut File) -> Result<Vec<u8>, DataError> {
    let mut head = Vec::new();
    file.take(16)
        .read_to_end(&mut head)
        .map_err(|error| DataError::reading(path, error))?;
    if head.is_empty() {
        return Err(DataError::format(
            path,
            VIDEO,
            None::<u64>,
            "empty file of 0 bytes",
        ));
    }
    Ok(head)
}

fn classify(head: &[u8]) -> Container {
    if head.starts_with(b"GIF8") {
        Container::Gif
    } else if head.starts_with(b"RIFF") && head.get(8..11) == Some(b"AVI") {
        Container::Avi
    } else if let Some(name) = head.get(4..8)
        && FIRST_BOXES.iter().any(|first| first.as_slice() == name)
    {
        Container::Mp4
    } else {
        Container::Other
    }
}

fn avi_faults(head: &[u8], len: u64) -> Vec<String> {
    let Some(&[a, b, c, d]) = head.get(4..8) else {
        return Vec::new();
    };
    let claimed = u64::from(u32::from_le_bytes([a, b, c, d])) + 8;
    if claimed > len {
        vec![format!(
            "the RIFF chunk has {claimed} bytes, the file {len}"
        )]
    } else {
        Vec::new()
    }
}

/// A box of an MP4 file.
struct Mp4Box {
    name: [u8; 4],
    start: u64,
    content: u64,
    end: u64,
}

impl Mp4Box {
    fn title(&self) -> String {
        format!("box `{}` at byte {}", self.name.escape_ascii(), self.start)
    }
}

fn mp4_faults(path: &Path, file: &mut File, len: u64) -> Result<Vec<String>, DataError> {
    let outer = Level {
        start: 0,
        end: len,
        zero_is_rest: true,
    };
    let (boxes, mut faults) = outer.boxes(path, file)?;
    let Some(moov) = boxes.iter().find(|item| &item.name == b"moov") else {
        let mut reason = "no box `moov`, which says where the frames are".to_owned();
        for fault in &faults {
            reason.push_str("; ");
            reason.push_str(fault);
        }
        return Err(DataError::format(path, VIDEO, None::<u64>, reason));
    };
    if moov.end > len {
        let reason = format!(
            "{} has {} bytes, the file has {} there",
            moov.title(),
            moov.end - moov.start,
            len.saturating_sub(moov.start)
        );
        return Err(DataError::format(path, VIDEO, moov.start, reason));
    }
    let inner = Level {
        start: moov.content,
        end: moov.end,
        zero_is_rest: false,
    };
    let (_, inner_faults) = inner.boxes(path, file)?;
    faults.extend(inner_faults);
    Ok(faults)
}

/// A range of the file that boxes fill.
struct Level {
    start: u64,
    end: u64,
    /// A size of 0 means the rest of the file, which the format allows on the outermost level only.
    zero_is_rest: bool,
}

impl Level {
    /// The boxes of the level, and what is wrong with them. The last box may reach beyond the end.
    fn boxes(&self, path: &Path, file: &mut File) -> Result<(Vec<Mp4Box>, Vec<String>), DataError> {
        let mut boxes: Vec<Mp4Box> = Vec::new();
        let mut faults: Vec<String> = Vec::new();
        let mut at = self.start;
        while self.end.saturating_sub(at) >= 8 && boxes.len() < MAX_BOXES {
            let room = self.end - at;
            file.seek(SeekFrom::Start(at))
                .map_err(|error| DataError::reading(path, error))?;
            let mut bytes: Vec<u8> = Vec::new();
            file.by_ref()
                .take(room.min(16))
                .read_to_end(&mut bytes)
                .map_err(|error| DataError::reading(path, error))?;
            let Some(&[s0, s1, s2, s3, n0, n1, n2, n3]) = bytes.get(..8) else {
                break;
            };
            let name = [n0, n1, n2, n3];
            let mut size = u64::from(u32::from_be_bytes([s0, s1, s2, s3]));
            let mut header = 8;
            if size == 1 {
                let Some(&[l0, l1, l2, l3, l4, l5, l6, l7]) = bytes.get(8..16) else {
                    break;
                };
                size = u64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
                header = 16;
            }
            if size == 0 && self.zero_is_rest {
                size = room;
            }
            let item = Mp4Box {
                name,
                start: at,
                content: at + header,
                end: at.saturating_add(size),
            };
            if size < header {
                faults.push(format!("{} has the impossible size {size}", item.title()));
                break;
            }
            let end = item.end;
            if end > self.end {
                faults.push(format!(
                    "{} has {size} bytes, {room} are there",
                    item.title()
                ));
            }
            boxes.push(item);
            if end > self.end {
                break;
            }
            at = end;
        }
        Ok((boxes, faults))
    }
}

/// A box or a chunk in memory: its name and its content.
type Named<'a> = ([u8; 4], &'a [u8]);

/// The content of the first box of a name.
fn find<'a>(boxes: &[Named<'a>], name: &[u8; 4]) -> Option<&'a [u8]> {
    boxes
        .iter()
        .find(|(found, _)| found == name)
        .map(|(_, content)| *content)
}

/// Up to `count` bytes of a file; fewer at its end.
fn bytes_at(file: &mut File, start: u64, count: u64) -> Option<Vec<u8>> {
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Exactly the bytes from `start` to `end`, if they are there and no more than `most`.
fn range_of(file: &mut File, start: u64, end: u64, most: u64) -> Option<Vec<u8>> {
    let count = end.checked_sub(start).filter(|count| *count <= most)?;
    bytes_at(file, start, count).filter(|bytes| bytes.len() as u64 == count)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The big-endian number of four bytes at a place.
fn be32(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u32::from_be_bytes(array_at(bytes, at)?)))
}

/// The little-endian number of four bytes at a place.
fn le32(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u32::from_le_bytes(array_at(bytes, at)?)))
}

fn mp4_frames(path: &Path, file: &mut File, len: u64) -> Option<usize> {
    let outer = Level {
        start: 0,
        end: len,
        zero_is_rest: true,
    };
    let (boxes, faults) = outer.boxes(path, file).ok()?;
    // Fragments hold frames of their own.
    if !faults.is_empty()
        || boxes.len() == MAX_BOXES
        || boxes.iter().any(|item| &item.name == b"moof")
    {
        return None;
    }
    let moov = boxes.iter().find(|item| &item.name == b"moov")?;
    listed_frames(&range_of(file, moov.content, moov.end, MAX_INDEX)?)
}

/// The boxes that fill the content of a box.
fn children(bytes: &[u8]) -> Option<Vec<Named<'_>>> {
    let mut boxes: Vec<Named<'_>> = Vec::new();
    let mut rest = bytes;
    // QuickTime ends some lists with four bytes of zeros.
    while rest.len() >= 8 {
        let size = usize::try_from(be32(rest, 0)?).ok()?;
        let content = rest.get(8..size)?;
        if boxes.len() == MAX_BOXES {
            return None;
        }
        boxes.push((array_at(rest, 4)?, content));
        rest = &rest[size..];
    }
    Some(boxes)
}

/// The frames of the first video track of a box `moov`.
fn listed_frames(moov: &[u8]) -> Option<usize> {
    let moov = children(moov)?;
    if find(&moov, b"mvex").is_some() {
        return None;
    }
    let movie = Clock::of(find(&moov, b"mvhd")?)?;
    for (name, content) in &moov {
        if name != b"trak" {
            continue;
        }
        let track = children(content)?;
        let media = children(find(&track, b"mdia")?)?;
        if find(&media, b"hdlr")?.get(8..12)? != b"vide" {
            continue;
        }
        let information = children(find(&media, b"minf")?)?;
        let tables = children(find(&information, b"stbl")?)?;
        if let Some(edits) = find(&track, b"edts") {
            let edits = children(edits)?;
            let first = match find(&tables, b"ctts") {
                Some(offsets) if be32(offsets, 4)? > 0 => {
                    i64::from(i32::from_be_bytes(array_at(offsets, 12)?))
                }
                _ => 0,
            };
            let clock = Clock::of(find(&media, b"mdhd")?)?;
            if let Some(list) = find(&edits, b"elst")
                && !shows_all(list, first, &movie, &clock)?
            {
                return None;
            }
        }
        return samples(find(&tables, b"stsd")?, find(&tables, b"stsz")?);
    }
    None
}

/// Ticks a second and length in ticks, which `mvhd` and `mdhd` give in the same way.
struct Clock {
    rate: u64,
    ticks: u64,
}

impl Clock {
    fn of(header: &[u8]) -> Option<Self> {
        let (rate, ticks) = match header.first()? {
            0 => (be32(header, 12)?, be32(header, 16)?),
            1 => (be32(header, 20)?, u64::from_be_bytes(array_at(header, 24)?)),
            _ => return None,
        };
        Some(Self { rate, ticks })
    }
}

/// Whether an edit list shows every frame and each once, to within a tick of the film.
///
/// `first` is the time of the first frame in ticks of the track.
fn shows_all(list: &[u8], first: i64, movie: &Clock, track: &Clock) -> Option<bool> {
    let wide = match list.first()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let count = usize::try_from(be32(list, 4)?).ok()?;
    let len = if wide { 20 } else { 12 };
    let entries = list.get(8..count.checked_mul(len)?.checked_add(8)?)?;
    let mut shown: usize = 0;
    for entry in entries.chunks_exact(len) {
        let (duration, start) = if wide {
            let start = i64::from_be_bytes(array_at(entry, 8)?);
            (u64::from_be_bytes(array_at(entry, 0)?), start)
        } else {
            let start = i32::from_be_bytes(array_at(entry, 4)?);
            (be32(entry, 0)?, i64::from(start))
        };
        // Nothing is shown for a while.
        if start == -1 {
            continue;
        }
        shown += 1;
        let at_least = (u128::from(duration) + 1) * u128::from(track.rate);
        let covers = duration == 0 || at_least >= u128::from(track.ticks) * u128::from(movie.rate);
        let rate = be32(entry, len - 4)?;
        if shown > 1 || start < 0 || start > first || !covers || rate != 1 << 16 {
            return Some(false);
        }
    }
    Some(shown == 1 || count == 0)
}

/// The samples of a track but for placeholders, from the boxes `stsd` and `stsz`.
fn samples(descriptions: &[u8], sizes: &[u8]) -> Option<usize> {
    if be32(descriptions, 4)? != 1 {
        return None;
    }
    let fixed = be32(sizes, 4)?;
    let count = usize::try_from(be32(sizes, 8)?).ok()?;
    if fixed > 0 {
        return Some(count);
    }
    let table = sizes.get(12..count.checked_mul(4)?.checked_add(12)?)?;
    if descriptions.get(12..16)? != b"mp4v" {
        return Some(count);
    }
    let (sizes, _) = table.as_chunks::<4>();
    let placeholders = sizes
        .iter()
        .filter(|size| u64::from(u32::from_be_bytes(**size)) <= PLACEHOLDER)
        .count();
    Some(count - placeholders)
}

fn avi_frames(file: &mut File, len: u64) -> Option<usize> {
    let end = le32(&bytes_at(file, 0, 12)?, 4)?.checked_add(8)?;
    // Long films go on in a second RIFF chunk.
    if end > len || bytes_at(file, end.next_multiple_of(2), 4)? == b"RIFF" {
        return None;
    }
    let mut headers: Option<Vec<u8>> = None;
    let mut at = 12;
    for _ in 0..MAX_BOXES {
        let chunk = bytes_at(file, at, 12)?;
        let (content, size) = (at + 8, le32(&chunk, 4)?);
        let after = content + size;
        if after > end {
            return None;
        }
        if chunk.starts_with(b"LIST") && chunk.get(8..) == Some(b"hdrl") {
            headers = Some(range_of(file, content + 4, after, MAX_HEADERS)?);
        }
        if chunk.starts_with(b"idx1") {
            let index = range_of(file, content, after, MAX_INDEX)?;
            return entries(&Stream::first_video(&headers?)?, &index);
        }
        at = after.next_multiple_of(2);
    }
    None
}

/// The chunks that fill a list of an AVI file.
fn chunks(bytes: &[u8]) -> Option<Vec<Named<'_>>> {
    let mut chunks: Vec<Named<'_>> = Vec::new();
    let mut rest = bytes;
    while rest.len() >= 8 {
        let end = usize::try_from(le32(rest, 4)?).ok()?.checked_add(8)?;
        let content = rest.get(8..end)?;
        if chunks.len() == MAX_BOXES {
            return None;
        }
        chunks.push((array_at(rest, 0)?, content));
        rest = rest.get(end.next_multiple_of(2)..).unwrap_or_default();
    }
    Some(chunks)
}

/// The first video stream of an AVI file.
struct Stream {
    /// What the names of its chunks begin with.
    number: [u8; 2],
    /// Chunks that the header announces.
    length: usize,
    is_mpeg4: bool,
}

impl Stream {
    fn first_video(headers: &[u8]) -> Option<Self> {
        let mut number: u8 = 0;
        for (name, content) in chunks(headers)? {
            let Some(list) = content.strip_prefix(b"strl").filter(|_| &name == b"LIST") else {
                continue;
            };
            let list = chunks(list)?;
            let header = find(&list, b"strh")?;
            if header.starts_with(b"vids") {
                let code = find(&list, b"strf")?.get(16..20)?.to_ascii_uppercase();
                // An index of its own, as long films have.
                if find(&list, b"indx").is_some() || number > 9 {
                    return None;
                }
                return Some(Self {
                    number: [b'0', b'0' + number],
                    length: usize::try_from(le32(header, 32)?).ok()?,
                    is_mpeg4: MPEG4_CODES.iter().any(|known| code == known.as_slice()),
                });
            }
            number = number.checked_add(1)?;
        }
        None
    }
}

/// The chunks of a stream in the index, but for placeholders.
fn entries(stream: &Stream, index: &[u8]) -> Option<usize> {
    let (entries, _) = index.as_chunks::<16>();
    let mut all: usize = 0;
    let mut placeholders: usize = 0;
    for entry in entries {
        if !entry.starts_with(&stream.number) {
            continue;
        }
        // `c` stands for compressed, `b` for a bitmap; palettes, for example, are no frames.
        if !matches!(entry[2..4], [b'd', b'c' | b'b']) {
            return None;
        }
        all += 1;
        placeholders += usize::from(le32(entry, 12)? <= PLACEHOLDER);
    }
    // Of other codecs so small a chunk may be anything.
    if all != stream.length || (placeholders > 0 && !stream.is_mpeg4) {
        return None;
    }
    Some(all - placeholders)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    fn mp4_box(name: &[u8; 4], size: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = size.to_be_bytes().to_vec();
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(content);
        bytes
    }

    fn written(bytes: &[u8]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mp4");
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    #[test]
    fn a_sound_structure_has_no_faults() {
        let trak = mp4_box(b"trak", 12, &[0; 4]);
        let mut bytes = mp4_box(b"ftyp", 16, b"isomiso2");
        bytes.extend(mp4_box(b"moov", 20, &trak));
        bytes.extend(mp4_box(b"mdat", 0, &[7; 40]));
        let (_folder, path) = written(&bytes);
        assert_eq!(kind(&path).unwrap(), Container::Mp4);
        assert_eq!(faults(&path).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_cut_box_is_named_with_its_place() {
        let mut bytes = mp4_box(b"moov", 8, &[]);
        bytes.extend(mp4_box(b"mdat", 100, &[7; 40]));
        let (_folder, path) = written(&bytes);
        assert_eq!(
            faults(&path).unwrap(),
            ["box `mdat` at byte 8 has 100 bytes, 48 are there"]
        );
    }

    #[test]
    fn a_size_of_zero_inside_and_a_huge_size_are_faults() {
        let mut bytes = mp4_box(b"moov", 20, &mp4_box(b"trak", 0, &[0; 4]));
        let (_folder, path) = written(&bytes);
        assert_eq!(
            faults(&path).unwrap(),
            ["box `trak` at byte 8 has the impossible size 0"]
        );
        bytes = mp4_box(b"moov", 1, &u64::MAX.to_be_bytes());
        let (_folder, path) = written(&bytes);
        let message = faults(&path).unwrap_err().to_string();
        assert!(message.contains("box `moov` at byte 0"), "{message}");
    }

    #[test]
    fn an_absent_index_an_empty_file_and_a_cut_avi_are_told() {
        let (_folder, path) = written(&mp4_box(b"ftyp", 16, b"isomiso2"));
        assert!(
            faults(&path)
                .unwrap_err()
                .to_string()
                .contains("no box `moov`")
        );
        let (_folder, path) = written(b"");
        assert!(kind(&path).unwrap_err().to_string().contains("empty file"));
        let mut avi = b"RIFF".to_vec();
        avi.extend(100_u32.to_le_bytes());
        avi.extend(b"AVI LIST");
        let (_folder, path) = written(&avi);
        assert_eq!(
            faults(&path).unwrap(),
            ["the RIFF chunk has 108 bytes, the file 16"]
        );
        assert_eq!(kind(&path).unwrap(), Container::Avi);
    }

    fn whole(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
        mp4_box(name, content.len() as u32 + 8, content)
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// A track of 2 s with 15,360 ticks a second whose first frame is shown at tick 1,024.
    fn track(kind: &[u8; 4], code: &[u8; 4], sizes: &[u32], edits: &[u32]) -> Vec<u8> {
        let mut table = vec![0, 0, sizes.len() as u32];
        table.extend_from_slice(sizes);
        let tables = [
            whole(b"stsd", &[&words(&[0, 1, 16])[..], &code[..]].concat()),
            whole(b"stsz", &words(&table)),
            whole(b"ctts", &words(&[0, 1, 9, 1024])),
        ]
        .concat();
        let media = [
            whole(b"mdhd", &words(&[0, 0, 0, 15_360, 30_720])),
            whole(b"hdlr", &[&words(&[0, 0])[..], &kind[..]].concat()),
            whole(b"minf", &whole(b"stbl", &tables)),
        ]
        .concat();
        let mut content = Vec::new();
        if !edits.is_empty() {
            content.extend(whole(b"edts", &whole(b"elst", &words(edits))));
        }
        content.extend(whole(b"mdia", &media));
        whole(b"trak", &content)
    }

    /// The frames that an MP4 file of these tracks lists.
    fn listed(tracks: &[Vec<u8>], rest: &[u8]) -> Option<usize> {
        let clock = whole(b"mvhd", &words(&[0, 0, 0, 1000, 2000]));
        let mut bytes = whole(b"ftyp", b"isomiso2");
        bytes.extend(whole(b"moov", &[clock, tracks.concat()].concat()));
        bytes.extend_from_slice(rest);
        let (_folder, path) = written(&bytes);
        indexed_frames(&path)
    }

    #[test]
    fn the_frames_of_the_first_video_track_are_counted() {
        let sound = track(b"soun", b"mp4a", &[4; 9], &[]);
        let video = track(b"vide", b"avc1", &[900, 5, 5], &[]);
        let second = track(b"vide", b"avc1", &[7; 8], &[]);
        assert_eq!(listed(&[sound.clone(), video, second], &[]), Some(3));
        assert_eq!(listed(&[sound], &[]), None);
        // Packed B-frames of MPEG-4 part 2 are followed by a placeholder.
        let packed = track(b"vide", b"mp4v", &[900, 7, 8], &[]);
        assert_eq!(listed(&[packed], &[]), Some(2));
    }

    #[test]
    fn an_edit_list_that_cuts_or_repeats_is_left_to_the_decoder() {
        let edited = |edits: &[u32]| listed(&[track(b"vide", b"avc1", &[9; 5], edits)], &[]);
        let one = 1 << 16;
        assert_eq!(edited(&[0, 1, 2000, 1024, one]), Some(5));
        assert_eq!(edited(&[0, 1, 1999, 0, one]), Some(5));
        assert_eq!(edited(&[0, 2, 40, u32::MAX, one, 2000, 0, one]), Some(5));
        assert_eq!(edited(&[0, 1, 2000, 1025, one]), None);
        assert_eq!(edited(&[0, 1, 1998, 1024, one]), None);
        assert_eq!(edited(&[0, 1, 2000, 1024, 2 * one]), None);
        assert_eq!(edited(&[0, 2, 2000, 0, one, 2000, 0, one]), None);
        assert_eq!(edited(&[0, 2, 2000, 0, one]), None);
        assert_eq!(edited(&[0, u32::MAX, 2000, 0, one]), None);
    }

    #[test]
    fn fragments_and_damaged_tables_are_left_to_the_decoder() {
        let video = track(b"vide", b"avc1", &[9; 5], &[]);
        let extends = whole(b"mvex", &[]);
        assert_eq!(listed(&[video.clone(), extends], &[]), None);
        assert_eq!(
            listed(std::slice::from_ref(&video), &whole(b"moof", &[])),
            None
        );
        assert_eq!(
            listed(std::slice::from_ref(&video), &whole(b"mdat", &[3; 9])),
            Some(5)
        );
        // A table that announces more sizes than there are, and every cut of a sound one.
        let at = video.windows(4).position(|name| name == b"stsz").unwrap() + 12;
        let mut greedy = video.clone();
        greedy[at] = 0x7f;
        assert_eq!(listed(&[greedy], &[]), None);
        for len in 0..video.len() {
            let clock = whole(b"mvhd", &words(&[0, 0, 0, 1000, 2000]));
            assert_eq!(listed_frames(&[&clock[..], &video[..len]].concat()), None);
        }
    }

    fn little(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let mut bytes = name.to_vec();
        bytes.extend((content.len() as u32).to_le_bytes());
        bytes.extend_from_slice(content);
        if content.len() % 2 == 1 {
            bytes.push(0);
        }
        bytes
    }

    /// An AVI file with a stream of sound and one of video whose header announces `length` chunks.
    fn avi(code: &[u8; 4], length: u32, entries: &[(&[u8; 4], u32)]) -> Vec<u8> {
        let stream = |kind: &[u8; 4]| {
            let mut header = kind.to_vec();
            header.resize(32, 0);
            header.extend(length.to_le_bytes());
            let mut format = vec![0; 16];
            format.extend_from_slice(code);
            let list = [little(b"strh", &header), little(b"strf", &format)].concat();
            little(b"LIST", &[&b"strl"[..], &list[..]].concat())
        };
        let mut index = Vec::new();
        for (name, size) in entries {
            index.extend_from_slice(name.as_slice());
            index.extend([0; 8]);
            index.extend(size.to_le_bytes());
        }
        let headers = [stream(b"auds"), stream(b"vids")].concat();
        let content = [
            b"AVI ".to_vec(),
            little(b"LIST", &[&b"hdrl"[..], &headers[..]].concat()),
            little(b"LIST", b"movi123"),
            little(b"idx1", &index),
        ]
        .concat();
        little(b"RIFF", &content)
    }

    fn indexed(bytes: &[u8]) -> Option<usize> {
        let (_folder, path) = written(bytes);
        indexed_frames(&path)
    }

    #[test]
    fn the_entries_of_an_avi_index_are_counted_if_the_header_agrees() {
        let entries: [(&[u8; 4], u32); 4] =
            [(b"01db", 90), (b"00wb", 1), (b"01dc", 7), (b"01dc", 8)];
        let sound = avi(b"DX50", 3, &entries);
        assert_eq!(indexed(&sound), Some(2));
        // A small chunk of another codec may be a frame.
        assert_eq!(indexed(&avi(b"H264", 3, &entries)), None);
        assert_eq!(indexed(&avi(b"DX50", 4, &entries)), None);
        assert_eq!(indexed(&avi(b"H264", 1, &[(b"01dc", 50)])), Some(1));
        assert_eq!(indexed(&avi(b"H264", 1, &[(b"01pc", 50)])), None);
        for len in 0..sound.len() {
            assert_eq!(indexed(&sound[..len]), None);
        }
        let mut long = sound;
        long.extend(little(b"RIFF", b"AVIX"));
        assert_eq!(indexed(&long), None);
    }

    #[test]
    fn a_text_is_of_no_known_kind() {
        let (_folder, path) = written(b"no video at all\n");
        assert_eq!(kind(&path).unwrap(), Container::Other);
        assert_eq!(first_bytes(&path), "no video at ");
    }
}
