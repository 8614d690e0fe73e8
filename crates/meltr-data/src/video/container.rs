//! What a file is by its first bytes, and whether the outer structure of MP4 and AVI files holds.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::source::VIDEO;
use crate::error::DataError;

/// Most boxes that are looked at; a sound file has a few dozen on the levels examined.
const MAX_BOXES: usize = 4096;

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

    #[test]
    fn a_text_is_of_no_known_kind() {
        let (_folder, path) = written(b"no video at all\n");
        assert_eq!(kind(&path).unwrap(), Container::Other);
        assert_eq!(first_bytes(&path), "no video at ");
    }
}
