//! One of several videos that are decoded in one run of `ffmpeg`: what is asked of the program for
//! it, and what the program has written about it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::container;
use super::ffmpeg::{PICTURES, PIPE, read_pictures, select, strings};
use super::frame_rule::FrameRule;
use super::source::{DecodedFrames, distinct, file_url};

/// Most videos of one run. Beyond it there is little left to save.
pub(super) const MAX_VIDEOS: usize = 16;

/// Largest file in bytes; decoding a larger one takes long enough for a run of its own.
const MAX_FILE: u64 = 1 << 24;

/// Most frames that are chosen of a video.
const MAX_CHOSEN: usize = 64;

/// Bytes at which the program stops writing pictures of one video.
const MAX_PICTURES: &str = "67108864";

/// The corner of each frame that is written to count them: 4 x 4 pixels, which the coarsest
/// subsampling of color still divides, as gray.
const CORNER: &str = "crop=4:4:0:0";

/// Bytes of a corner.
const CORNER_LEN: u64 = 16;

/// A video that may share a run: short, with an index, and with a bounded number of chosen frames.
#[derive(Debug)]
pub(super) struct Member<'a> {
    path: &'a Path,
    /// Frames that its index lists.
    expected: usize,
    indices: Vec<usize>,
    kept: Vec<usize>,
    filter: String,
}

impl<'a> Member<'a> {
    /// `None` for a video that has to be decoded alone.
    pub(super) fn of(path: &'a Path, rule: FrameRule) -> Option<Self> {
        if rule.frames()? > MAX_CHOSEN {
            return None;
        }
        let file = fs::metadata(path).ok()?;
        if !file.is_file() || file.len() > MAX_FILE || !container::faults(path).ok()?.is_empty() {
            return None;
        }
        let expected = container::indexed_frames(path)?;
        let indices = rule.indices(expected).ok()?;
        let kept = distinct(&indices);
        let filter = select(&kept)?;
        Some(Self {
            path,
            expected,
            indices,
            kept,
            filter,
        })
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// The options of both outputs of the input `number`: a corner of every frame, and the
    /// pictures.
    pub(super) fn outputs(
        &self,
        number: usize,
        passthrough: &[&str],
        folder: &Path,
    ) -> Vec<OsString> {
        let stream = format!("{number}:v:0");
        let mut arguments = strings(&["-map", &stream, "-vf", CORNER]);
        arguments.extend(strings(passthrough));
        arguments.extend(strings(&["-threads", "1", "-c:v", "rawvideo"]));
        arguments.extend(strings(&["-pix_fmt", "gray", "-f", "rawvideo"]));
        arguments.push(file_url(&corners(number, folder)));
        arguments.extend(strings(&["-map", &stream, "-vf", &self.filter]));
        arguments.extend(strings(passthrough));
        arguments.extend(strings(&["-fs", MAX_PICTURES]));
        arguments.extend(strings(&PICTURES));
        arguments.push(file_url(&pictures(number, folder)));
        arguments
    }

    /// The chosen frames, if as many were decoded as the index lists.
    pub(super) fn frames(
        &self,
        number: usize,
        folder: &Path,
        max_bytes: u64,
    ) -> Option<DecodedFrames> {
        let written = fs::metadata(corners(number, folder)).ok()?.len();
        if written != CORNER_LEN.checked_mul(self.expected as u64)? {
            return None;
        }
        let file = File::open(pictures(number, folder)).ok()?;
        let mut reader = BufReader::with_capacity(PIPE, file);
        let frames = read_pictures(&mut reader, None, max_bytes).ok()?;
        DecodedFrames::pick(self.expected, self.indices.clone(), &self.kept, frames)
    }
}

fn corners(number: usize, folder: &Path) -> PathBuf {
    folder.join(format!("{number}.gray"))
}

fn pictures(number: usize, folder: &Path) -> PathBuf {
    folder.join(format!("{number}.ppm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member<'static> {
        Member {
            path: Path::new("a.mp4"),
            expected: 3,
            indices: vec![0, 0, 2],
            kept: vec![0, 2],
            filter: "select=eq(n\\,0)+eq(n\\,2)".to_owned(),
        }
    }

    #[test]
    fn each_video_has_an_output_to_count_and_one_of_pictures() {
        let folder = Path::new("folder");
        let arguments: Vec<String> = member()
            .outputs(5, &["-fps_mode", "passthrough"], folder)
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect();
        let count = |wanted: &str| arguments.iter().filter(|word| *word == wanted).count();
        assert_eq!(count("5:v:0"), 2);
        assert_eq!(count("passthrough"), 2);
        assert_eq!(count("select=eq(n\\,0)+eq(n\\,2)"), 1);
        assert!(arguments.last().unwrap().starts_with("file:"));
        assert!(arguments.last().unwrap().ends_with("5.ppm"));
    }

    #[test]
    fn frames_count_only_if_the_program_decoded_as_many_as_the_index_lists() {
        let folder = tempfile::tempdir().unwrap();
        let member = member();
        assert!(member.frames(0, folder.path(), 100).is_none());
        fs::write(
            pictures(0, folder.path()),
            b"P6\n1 1\n255\nabcP6\n1 1\n255\ndef",
        )
        .unwrap();
        fs::write(corners(0, folder.path()), [0_u8; 3 * 16]).unwrap();
        let decoded = member.frames(0, folder.path(), 100).unwrap();
        assert_eq!(decoded.decodable_frames, 3);
        assert_eq!(decoded.frames[1].data(), b"abc");
        assert_eq!(decoded.frames[2].data(), b"def");
        assert!(member.frames(0, folder.path(), 5).is_none());
        fs::write(corners(0, folder.path()), [0_u8; 4 * 16]).unwrap();
        assert!(member.frames(0, folder.path(), 100).is_none());
        fs::write(corners(0, folder.path()), [0_u8; 3 * 16]).unwrap();
        fs::write(pictures(0, folder.path()), b"P6\n1 1\n255\nabc").unwrap();
        assert!(member.frames(0, folder.path(), 100).is_none());
    }

    #[test]
    fn what_has_no_index_is_decoded_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mkv");
        fs::write(&path, b"\x1a\x45\xdf\xa3 and more").unwrap();
        assert!(Member::of(&path, FrameRule::Uniform { frames: 2 }).is_none());
        assert!(Member::of(folder.path(), FrameRule::Uniform { frames: 2 }).is_none());
        assert!(Member::of(&path, FrameRule::All).is_none());
    }
}
