//! Frames that lie in a folder as pictures, one file each.

use std::fs;
use std::path::{Path, PathBuf};

use image::{ImageReader, Limits};

use super::frame_rule::FrameRule;
use super::source::{
    DecodeOptions, DecodedFrames, FrameSource, MAX_PIXELS, RgbFrame, VideoInfo, distinct,
    rule_error,
};
use crate::error::DataError;

/// The name of the format in messages.
const FORMAT: &str = "image folder";

/// Extensions of the files that are frames.
const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// A folder of pictures as a [`FrameSource`].
///
/// Frames are the files `*.jpg`, `*.jpeg`, `*.png` and `*.webp` in the order of their names, where
/// numbers count as numbers: `frame9.jpg` comes before `frame10.jpg`. Other files are ignored, and
/// only the chosen pictures are opened.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    options: DecodeOptions,
}

impl ImageFolder {
    /// A source with these settings; only the limit in bytes is used. A picture that cannot be
    /// decoded is always an error.
    #[must_use]
    pub fn new(options: DecodeOptions) -> Self {
        Self { options }
    }
}

impl FrameSource for ImageFolder {
    fn probe(&mut self, path: &Path) -> Result<VideoInfo, DataError> {
        let pictures = pictures(path)?;
        let Some(first) = pictures.first() else {
            return Err(no_picture(path));
        };
        let (width, height) = ImageReader::open(first)
            .and_then(ImageReader::with_guessed_format)
            .map_err(|error| DataError::reading(first, error))?
            .into_dimensions()
            .map_err(|error| picture_error(first, &error))?;
        Ok(VideoInfo {
            container: FORMAT.to_owned(),
            codec: extension(first),
            width,
            height,
            frames_announced: None,
            frames_expected: pictures.len(),
            frame_rate: None,
            duration: None,
        })
    }

    fn frames(&mut self, path: &Path, rule: FrameRule) -> Result<DecodedFrames, DataError> {
        let pictures = pictures(path)?;
        if pictures.is_empty() {
            return Err(no_picture(path));
        }
        let indices = rule
            .indices(pictures.len())
            .map_err(|kind| rule_error(path, kind))?;
        let kept = distinct(&indices);
        let mut frames: Vec<RgbFrame> = Vec::new();
        let mut kept_bytes: u64 = 0;
        for &index in &kept {
            let frame = read_picture(&pictures[index])?;
            kept_bytes += frame.data().len() as u64;
            if kept_bytes > self.options.max_bytes {
                return Err(DataError::format(
                    path,
                    FORMAT,
                    None::<u64>,
                    format!(
                        "the chosen frames need more than {} bytes; choose fewer, or raise \
                         `DecodeOptions::max_bytes`",
                        self.options.max_bytes
                    ),
                ));
            }
            frames.push(frame);
        }
        DecodedFrames::pick(pictures.len(), indices, &kept, frames).ok_or_else(|| no_picture(path))
    }
}

fn no_picture(path: &Path) -> DataError {
    DataError::format(
        path,
        FORMAT,
        None::<u64>,
        "no picture (*.jpg, *.jpeg, *.png, *.webp) in it",
    )
}

fn picture_error(path: &Path, error: &image::ImageError) -> DataError {
    DataError::format(path, "image", None::<u64>, error.to_string())
}

/// The pictures of a folder in the order of presentation.
fn pictures(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let entries = fs::read_dir(folder).map_err(|error| DataError::reading(folder, error))?;
    let mut named: Vec<(Vec<Piece>, PathBuf)> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| DataError::reading(folder, error))?;
        let path = entry.path();
        if EXTENSIONS.contains(&extension(&path).as_str()) {
            named.push((pieces(&entry.file_name().to_string_lossy()), path));
        }
    }
    named.sort();
    Ok(named.into_iter().map(|(_, path)| path).collect())
}

/// The extension in lower case; empty if there is none.
fn extension(path: &Path) -> String {
    path.extension()
        .map(|extension| extension.to_string_lossy().to_lowercase())
        .unwrap_or_default()
}

/// A part of a name: digits only or no digits.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    /// Number of digits without leading zeros, and these digits: their order is that of numbers of
    /// any length.
    Number(usize, String),
    Text(String),
}

fn pieces(name: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let digits = first.is_ascii_digit();
        let end = rest
            .find(|c: char| c.is_ascii_digit() != digits)
            .unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        pieces.push(if digits {
            let significant = piece.trim_start_matches('0');
            Piece::Number(significant.len(), significant.to_owned())
        } else {
            Piece::Text(piece.to_owned())
        });
        rest = after;
    }
    pieces
}

fn read_picture(path: &Path) -> Result<RgbFrame, DataError> {
    let mut reader = ImageReader::open(path)
        .and_then(ImageReader::with_guessed_format)
        .map_err(|error| DataError::reading(path, error))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(8 * MAX_PIXELS);
    reader.limits(limits);
    let picture = reader
        .decode()
        .map_err(|error| picture_error(path, &error))?
        .into_rgb8();
    let (width, height) = picture.dimensions();
    RgbFrame::new(width, height, picture.into_raw())
        .ok_or_else(|| DataError::format(path, "image", None::<u64>, "it has no pixel"))
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    #[test]
    fn pictures_come_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in [("f10.png", 10), ("f9.png", 9), ("f011.PNG", 11)] {
            let picture = RgbImage::from_pixel(2, 1, Rgb([value; 3]));
            let format = image::ImageFormat::Png;
            picture
                .save_with_format(folder.path().join(name), format)
                .unwrap();
        }
        fs::write(folder.path().join("notes.txt"), "no frame").unwrap();
        let mut source = ImageFolder::new(DecodeOptions::default());
        let decoded = source.frames(folder.path(), FrameRule::All).unwrap();
        let values: Vec<u8> = decoded.frames.iter().map(|frame| frame.data()[0]).collect();
        assert_eq!(values, [9, 10, 11]);
        let info = source.probe(folder.path()).unwrap();
        assert_eq!((info.width, info.height, info.frames_expected), (2, 1, 3));
    }

    #[test]
    fn an_empty_folder_and_a_bad_picture_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut source = ImageFolder::new(DecodeOptions::default());
        let error = source.frames(folder.path(), FrameRule::All).unwrap_err();
        assert!(error.to_string().contains("no picture"), "{error}");
        fs::write(folder.path().join("a.jpg"), "no picture").unwrap();
        let error = source.frames(folder.path(), FrameRule::All).unwrap_err();
        assert!(error.to_string().contains("a.jpg"), "{error}");
    }
}
