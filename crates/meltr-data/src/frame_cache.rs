//! Frames of videos that were extracted beforehand: base64 text of JPEG images.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegDecoder;
use image::{DynamicImage, ImageDecoder, Limits};
use ndarray::Array3;

use crate::error::{DataError, DataErrorKind};
use crate::inspect::{FileFormat, short_repr};
use crate::pickle::{Pickle, Value};

/// Pixels of an image at most; the published frames have 0.02 to 0.3 million.
const MAX_PIXELS: u64 = 64_000_000;

/// Pixels that one byte of a JPEG file can stand for at most: every block of 8 x 8 pixels takes one
/// bit at least.
const MAX_PIXELS_A_BYTE: u64 = 8 * 64;

/// The frames of every video of one file, as VIOLET's `img_*.pkl` and `img_*.tsv` hold them.
///
/// The pickle is a dict of video id to a list of base64 texts; a line of the table has the id and
/// then one base64 text a column. The compressed images are kept in memory and decoded when they
/// are asked for, which takes about a millisecond each: the caller may do so in parallel.
#[derive(Clone, Debug)]
pub struct FrameCache {
    path: PathBuf,
    ids: Vec<String>,
    places: HashMap<String, usize>,
    /// JPEG files, for each video in the order of `ids`.
    videos: Vec<Vec<Vec<u8>>>,
}

impl FrameCache {
    /// Reads a pickle or a table; the content decides which.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is absent or damaged, if a video has no frame, or if a frame
    /// is not base64; it names the video and the frame, counted from 0. Whether a frame is an
    /// image shows when it is decoded.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let mut cache = Self {
            path: path.to_path_buf(),
            ids: Vec::new(),
            places: HashMap::new(),
            videos: Vec::new(),
        };
        if FileFormat::detect(path)? == FileFormat::Tsv {
            cache.read_table()?;
        } else {
            // The pickle reader tells best what another file is instead.
            cache.read_pickle(&Pickle::open(path)?)?;
        }
        if cache.ids.is_empty() {
            return Err(DataError::item(path, "top level", "has no entries"));
        }
        Ok(cache)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ids of the videos in the order of the file.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Whether there is a video of this id.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.places.contains_key(id)
    }

    /// Number of frames of one video.
    ///
    /// # Errors
    ///
    /// Returns an error if the id is unknown.
    pub fn n_frames(&self, id: &str) -> Result<usize, DataError> {
        Ok(self.jpegs(id)?.len())
    }

    /// The frames of one video as JPEG files.
    ///
    /// # Errors
    ///
    /// Returns an error if the id is unknown.
    pub fn jpegs(&self, id: &str) -> Result<&[Vec<u8>], DataError> {
        let place = self.places.get(id).copied();
        match place.and_then(|place| self.videos.get(place)) {
            Some(frames) => Ok(frames),
            None => {
                let reason = format!("is not among the {} videos with frames", self.ids.len());
                Err(DataError::item(&self.path, id, reason))
            }
        }
    }

    /// One decoded frame.
    ///
    /// # Shapes
    ///
    /// - output: `[height, width, 3]`, red, green and blue in `0..=255`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such frame, or if it is no complete JPEG image of 64
    /// million pixels or less.
    pub fn frame(&self, id: &str, frame: usize) -> Result<Array3<u8>, DataError> {
        let frames = self.jpegs(id)?;
        let Some(jpeg) = frames.get(frame) else {
            let reason = format!(
                "has no frame {frame}, only {}, counted from 0",
                frames.len()
            );
            return Err(DataError::item(&self.path, id, reason));
        };
        decode(jpeg).map_err(|reason| frame_error(&self.path, id, frame, reason))
    }

    /// Every frame of one video, decoded.
    ///
    /// # Shapes
    ///
    /// - output: each `[height, width, 3]`, red, green and blue in `0..=255`.
    ///
    /// # Errors
    ///
    /// Returns an error if the id is unknown or a frame cannot be decoded.
    pub fn frames(&self, id: &str) -> Result<Vec<Array3<u8>>, DataError> {
        (0..self.n_frames(id)?)
            .map(|frame| self.frame(id, frame))
            .collect()
    }

    fn read_pickle(&mut self, pickle: &Pickle) -> Result<(), DataError> {
        let root = pickle.root();
        let Value::Dict(entries) = root.value() else {
            let reason = format!("is a {}, expected a dict of id to frames", root.kind());
            return Err(DataError::item(&self.path, "top level", reason));
        };
        for (key, item) in entries {
            let Some(id) = key.text() else {
                let reason = format!("is a {}, expected a text id", key.kind());
                let key = format!("key {}", short_repr(key));
                return Err(DataError::item(&self.path, key, reason));
            };
            let (Value::List(items) | Value::Tuple(items)) = item.value() else {
                let reason = format!("is a {}, expected a list of base64 texts", item.kind());
                return Err(DataError::item(&self.path, id, reason));
            };
            let mut frames = Vec::with_capacity(items.len());
            for (frame, member) in items.enumerate() {
                let jpeg = match member.value() {
                    Value::Text(text) => from_base64(text.as_bytes()),
                    Value::Bytes(bytes) => from_base64(bytes),
                    _ => Err(format!("is a {}, expected a base64 text", member.kind())),
                };
                let jpeg = jpeg.map_err(|reason| frame_error(&self.path, id, frame, reason))?;
                frames.push(jpeg);
            }
            self.add(id.to_owned(), frames)?;
        }
        Ok(())
    }

    fn read_table(&mut self) -> Result<(), DataError> {
        let reading = |path: &Path, source| DataError::reading(path, source);
        let file = File::open(&self.path).map_err(|source| reading(&self.path, source))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        let mut number = 0_usize;
        loop {
            line.clear();
            let n = reader
                .read_until(b'\n', &mut line)
                .map_err(|source| reading(&self.path, source))?;
            if n == 0 {
                return Ok(());
            }
            number += 1;
            let row = line.trim_ascii_end();
            if row.is_empty() {
                continue;
            }
            let mut cells = row.split(|&byte| byte == b'\t');
            let id = cells.next().unwrap_or_default();
            let Some(id) = std::str::from_utf8(id)
                .ok()
                .filter(|id| !id.trim().is_empty())
            else {
                let kind = DataErrorKind::BadTable {
                    column: "id".to_owned(),
                    expected: "the id of a video in UTF-8".to_owned(),
                    found: String::from_utf8_lossy(id).into_owned(),
                };
                return Err(DataError::at_line(&self.path, number, kind));
            };
            let mut frames = Vec::new();
            for (frame, cell) in cells.enumerate() {
                let jpeg = from_base64(cell)
                    .map_err(|reason| frame_error(&self.path, id, frame, reason))?;
                frames.push(jpeg);
            }
            self.add(id.to_owned(), frames)?;
        }
    }

    fn add(&mut self, id: String, frames: Vec<Vec<u8>>) -> Result<(), DataError> {
        if frames.is_empty() {
            return Err(DataError::item(
                &self.path,
                id,
                "has no frames, expected one at least",
            ));
        }
        if self.places.insert(id.clone(), self.videos.len()).is_some() {
            return Err(DataError::item(&self.path, id, "occurs twice"));
        }
        self.ids.push(id);
        self.videos.push(frames);
        Ok(())
    }
}

fn frame_error(path: &Path, id: &str, frame: usize, reason: String) -> DataError {
    DataError::item(path, format!("{id}, frame {frame}"), reason)
}

fn from_base64(text: &[u8]) -> Result<Vec<u8>, String> {
    STANDARD
        .decode(text)
        .map_err(|error| format!("is not base64 ({error})"))
}

/// Decodes a JPEG file into `[height, width, 3]`.
fn decode(jpeg: &[u8]) -> Result<Array3<u8>, String> {
    if !jpeg.starts_with(&[0xff, 0xd8, 0xff]) {
        let start = &jpeg[..jpeg.len().min(8)];
        return Err(format!(
            "is no JPEG image but starts with `{}`",
            start.escape_ascii()
        ));
    }
    let broken = |error: image::ImageError| format!("is a damaged JPEG image ({error})");
    let mut decoder = JpegDecoder::new(Cursor::new(jpeg)).map_err(broken)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_PIXELS {
        return Err(format!(
            "is a JPEG image of {width} x {height} pixels, more than the {MAX_PIXELS} allowed"
        ));
    }
    // The decoder would fill up an incomplete image with gray, and the space for it is reserved
    // before anything is decoded.
    if pixels > MAX_PIXELS_A_BYTE.saturating_mul(jpeg.len() as u64) || !is_complete(jpeg) {
        return Err(format!(
            "is a truncated JPEG image: {} bytes end before the {width} x {height} pixels do",
            jpeg.len()
        ));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(width);
    limits.max_image_height = Some(height);
    limits.max_alloc = Some(MAX_PIXELS * 4);
    decoder.set_limits(limits).map_err(broken)?;
    let image = DynamicImage::from_decoder(decoder)
        .map_err(broken)?
        .into_rgb8();
    let shape = (image.height() as usize, image.width() as usize, 3);
    Array3::from_shape_vec(shape, image.into_raw())
        .map_err(|error| format!("is a damaged JPEG image ({error})"))
}

/// Whether a JPEG file goes on to its end-of-image marker.
fn is_complete(jpeg: &[u8]) -> bool {
    let mut at = 2;
    // Segments with a length, until the compressed data of a scan begins.
    loop {
        let Some(&[0xff, marker]) = jpeg.get(at..at + 2) else {
            return false;
        };
        match marker {
            // Fill bytes before a marker.
            0xff => at += 1,
            // End of the image.
            0xd9 => return true,
            // Markers without content: restart, temporary.
            0x01 | 0xd0..=0xd7 => at += 2,
            _ => {
                let Some(&[high, low]) = jpeg.get(at + 2..at + 4) else {
                    return false;
                };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
                // Start of scan: a marker follows where 0xff is not stuffed with a zero.
                if marker == 0xda {
                    let data = jpeg.get(at..).unwrap_or_default();
                    let next = data
                        .windows(2)
                        .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xd0..=0xd7));
                    let Some(next) = next else {
                        return false;
                    };
                    at += next;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of six equal pixels, made with the encoder of the same library.
    fn image_file() -> Vec<u8> {
        let image = image::RgbImage::from_pixel(3, 2, image::Rgb([200, 100, 50]));
        let mut bytes = Cursor::new(Vec::new());
        image
            .write_to(&mut bytes, image::ImageFormat::Jpeg)
            .unwrap();
        bytes.into_inner()
    }

    fn table(content: &str) -> Result<FrameCache, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("img.tsv");
        std::fs::write(&path, content).unwrap();
        FrameCache::open(&path)
    }

    #[test]
    fn a_table_of_frames_is_read_and_decoded() {
        let text = STANDARD.encode(image_file());
        let cache = table(&format!("a\t{text}\t{text}\nb\t{text}\n")).unwrap();
        assert_eq!(cache.ids(), ["a", "b"]);
        assert_eq!(
            (cache.n_frames("a").unwrap(), cache.n_frames("b").unwrap()),
            (2, 1)
        );
        let frame = cache.frame("a", 1).unwrap();
        assert_eq!(frame.dim(), (2, 3, 3));
        for (found, expected) in frame.iter().zip([200u8, 100, 50].iter().cycle()) {
            assert!(found.abs_diff(*expected) <= 4, "{frame:?}");
        }
        let error = cache.frame("b", 1).unwrap_err().to_string();
        assert!(error.contains("has no frame 1, only 1"), "{error}");
    }

    #[test]
    fn a_file_without_its_end_is_truncated_and_trailing_bytes_are_not() {
        let mut bytes = image_file();
        assert!(is_complete(&bytes));
        for len in 2..bytes.len() {
            assert!(!is_complete(&bytes[..len]), "{len}");
        }
        let reason = decode(&bytes[..bytes.len() - 2]).unwrap_err();
        assert!(reason.contains("truncated JPEG"), "{reason}");
        bytes.extend_from_slice(b"comment");
        assert!(decode(&bytes).is_ok());
    }

    #[test]
    fn what_is_no_image_or_no_base64_is_named_by_video_and_frame() {
        let text = STANDARD.encode("hello world");
        let cache = table(&format!("v\t{text}\n")).unwrap();
        let error = cache.frames("v").unwrap_err().to_string();
        assert!(
            error.contains("item `v, frame 0`") && error.contains("no JPEG"),
            "{error}"
        );
        let error = table(&format!("v\t{text}\t???\n")).unwrap_err().to_string();
        assert!(
            error.contains("item `v, frame 1`: is not base64"),
            "{error}"
        );
        assert!(table("v\t\n").is_err());
    }
}
