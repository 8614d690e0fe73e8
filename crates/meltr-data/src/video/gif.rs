//! Frames of GIF files, decoded in Rust.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::codecs::gif::GifDecoder;
use image::{AnimationDecoder, ImageDecoder, Limits};

use super::frame_rule::FrameRule;
use super::program::Deadline;
use super::source::{
    DecodeOptions, DecodedFrames, FrameSource, RgbFrame, VideoInfo, distinct, judge, no_frame,
    rule_error,
};
use crate::error::DataError;

/// The name of the format in messages.
const GIF: &str = "GIF";

/// Most pixels of the canvas. GIF files of a few bytes may claim four billion.
const MAX_CANVAS: u64 = 1 << 23;

/// GIF files as a [`FrameSource`].
///
/// Each frame is the whole canvas as it is shown; what no frame has covered is black.
#[derive(Clone, Debug)]
pub struct GifFrames {
    options: DecodeOptions,
}

impl GifFrames {
    /// A source with these settings; the number of threads is not used.
    #[must_use]
    pub fn new(options: DecodeOptions) -> Self {
        Self { options }
    }
}

impl FrameSource for GifFrames {
    fn probe(&mut self, path: &Path) -> Result<VideoInfo, DataError> {
        let bytes = fs::read(path).map_err(|error| DataError::reading(path, error))?;
        let layout = Layout::read(path, &bytes)?;
        let seconds = layout.hundredths as f64 / 100.0;
        let timed = seconds > 0.0;
        Ok(VideoInfo {
            container: "gif".to_owned(),
            codec: "gif".to_owned(),
            width: layout.width,
            height: layout.height,
            frames_announced: None,
            frames_expected: layout.frames,
            frame_rate: timed.then(|| layout.frames as f64 / seconds),
            duration: timed.then_some(seconds),
        })
    }

    fn frames(&mut self, path: &Path, rule: FrameRule) -> Result<DecodedFrames, DataError> {
        let deadline = Deadline::after(self.options.timeout);
        let bytes = fs::read(path).map_err(|error| DataError::reading(path, error))?;
        let layout = Layout::read(path, &bytes)?;
        let expected = layout.frames;
        // A rule that cannot be satisfied is told after damage that may be the reason.
        let chosen = distinct(&rule.indices(expected).unwrap_or_default());
        let pass = self.pass(path, &bytes, &chosen, deadline)?;
        let decodable = pass.decodable;
        let mut damage: Vec<String> = Vec::new();
        damage.extend(layout.fault);
        // What follows the last frame, an absent end mark for instance, takes nothing away.
        if decodable < expected {
            damage.extend(pass.fault);
        }
        if decodable == 0 {
            return Err(no_frame(path, expected, &damage));
        }
        let warnings = judge(path, self.options.damage, decodable, expected, damage)?;
        let indices = rule
            .indices(decodable)
            .map_err(|kind| rule_error(path, kind))?;
        let kept = distinct(&indices);
        let frames = if kept == chosen {
            pass.frames
        } else {
            let again = self.pass(path, &bytes, &kept, deadline)?;
            again.frames
        };
        let mut decoded =
            DecodedFrames::pick(decodable, indices, &kept, frames).ok_or_else(|| {
                DataError::format(path, GIF, None::<u64>, "decoding it twice gave two results")
            })?;
        decoded.warnings = warnings;
        Ok(decoded)
    }
}

/// What decoding a whole file gave.
struct Pass {
    decodable: usize,
    frames: Vec<RgbFrame>,
    fault: Option<String>,
}

impl GifFrames {
    /// Decodes the whole file and keeps the frames of strictly increasing indices.
    fn pass(
        &self,
        path: &Path,
        bytes: &[u8],
        keep: &[usize],
        deadline: Deadline,
    ) -> Result<Pass, DataError> {
        let refused =
            |error: image::ImageError| DataError::format(path, GIF, None::<u64>, error.to_string());
        let mut limits = Limits::default();
        // The canvas, the frame under it, and the part that is being decoded.
        limits.max_alloc = Some(4 * 4 * MAX_CANVAS);
        let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(refused)?;
        decoder.set_limits(limits).map_err(refused)?;
        let mut pass = Pass {
            decodable: 0,
            frames: Vec::new(),
            fault: None,
        };
        let mut kept_bytes: u64 = 0;
        for frame in decoder.into_frames() {
            if deadline.left().is_zero() {
                return Err(deadline.error(path));
            }
            let canvas = match frame {
                Ok(frame) => frame.into_buffer(),
                Err(error) => {
                    pass.fault = Some(error.to_string());
                    break;
                }
            };
            if keep.binary_search(&pass.decodable).is_ok() {
                let (width, height) = canvas.dimensions();
                kept_bytes += 3 * u64::from(width) * u64::from(height);
                if kept_bytes > self.options.max_bytes {
                    return Err(DataError::format(
                        path,
                        GIF,
                        None::<u64>,
                        format!(
                            "the chosen frames need more than {} bytes; choose fewer, or raise \
                             `DecodeOptions::max_bytes`",
                            self.options.max_bytes
                        ),
                    ));
                }
                let mut data: Vec<u8> = Vec::with_capacity(canvas.as_raw().len() / 4 * 3);
                for pixel in canvas.as_raw().chunks_exact(4) {
                    if pixel[3] == 0 {
                        data.extend_from_slice(&[0, 0, 0]);
                    } else {
                        data.extend_from_slice(&pixel[..3]);
                    }
                }
                let Some(frame) = RgbFrame::new(width, height, data) else {
                    return Err(DataError::format(path, GIF, None::<u64>, "an empty frame"));
                };
                pass.frames.push(frame);
            }
            pass.decodable += 1;
        }
        Ok(pass)
    }
}

/// The blocks of a GIF file, counted without decoding a picture.
#[derive(Debug)]
struct Layout {
    width: u32,
    height: u32,
    /// Pictures that begin in the file.
    frames: usize,
    /// Sum of the delays in hundredths of a second.
    hundredths: u64,
    /// Where the blocks end too early or turn into something else.
    fault: Option<String>,
}

impl Layout {
    /// Walks over the blocks.
    fn read(path: &Path, bytes: &[u8]) -> Result<Self, DataError> {
        let mut blocks = Blocks { bytes, at: 0 };
        let Some(&[_, _, _, _, _, _, w0, w1, h0, h1, flags, _, _]) = blocks.take(13) else {
            return Err(DataError::format(
                path,
                GIF,
                bytes.len() as u64,
                "it ends inside the header",
            ));
        };
        let mut layout = Self {
            width: u32::from(u16::from_le_bytes([w0, w1])),
            height: u32::from(u16::from_le_bytes([h0, h1])),
            frames: 0,
            hundredths: 0,
            fault: None,
        };
        let pixels = u64::from(layout.width) * u64::from(layout.height);
        if pixels == 0 || pixels > MAX_CANVAS {
            return Err(DataError::format(
                path,
                GIF,
                6_u64,
                format!(
                    "the canvas has {} x {} pixels; from 1 to {MAX_CANVAS} are admissible",
                    layout.width, layout.height
                ),
            ));
        }
        if blocks.skip_colors(flags).is_none() || layout.walk(&mut blocks).is_none() {
            layout.fault = Some(format!(
                "the file ends at byte {} inside frame {} or its palette",
                bytes.len(),
                layout.frames
            ));
        }
        Ok(layout)
    }

    /// Counts pictures up to the end mark; `None` if the file ends inside a block.
    fn walk(&mut self, blocks: &mut Blocks<'_>) -> Option<()> {
        loop {
            let place = blocks.at;
            // A file without an end mark has lost nothing.
            let Some(&[introducer]) = blocks.take(1) else {
                return Some(());
            };
            match introducer {
                0x2C => {
                    self.frames += 1;
                    let &[_, _, _, _, _, _, _, _, flags] = blocks.take(9)? else {
                        return None;
                    };
                    blocks.skip_colors(flags)?;
                    // The width of the codes.
                    blocks.take(1)?;
                    blocks.skip_data()?;
                }
                0x21 => {
                    let &[label] = blocks.take(1)? else {
                        return None;
                    };
                    if label == 0xF9
                        && let Some(&[4, _, low, high]) = blocks.peek(4)
                    {
                        self.hundredths += u64::from(u16::from_le_bytes([low, high]));
                    }
                    blocks.skip_data()?;
                }
                0x3B => return Some(()),
                other => {
                    self.fault = Some(format!("byte {place} is {other}, which begins no block"));
                    return Some(());
                }
            }
        }
    }
}

/// A position in the bytes of a file.
struct Blocks<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Blocks<'a> {
    fn peek(&self, count: usize) -> Option<&'a [u8]> {
        self.bytes.get(self.at..self.at.checked_add(count)?)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.peek(count)?;
        self.at += count;
        Some(taken)
    }

    /// Skips the table of colors that the flags announce.
    fn skip_colors(&mut self, flags: u8) -> Option<()> {
        if flags & 0x80 != 0 {
            self.take(3 << ((flags & 7) + 1))?;
        }
        Some(())
    }

    /// Skips blocks of data, each after its length, up to an empty one.
    fn skip_data(&mut self) -> Option<()> {
        loop {
            let &[len] = self.take(1)? else {
                return None;
            };
            if len == 0 {
                return Some(());
            }
            self.take(usize::from(len))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use image::codecs::gif::GifEncoder;
    use image::{Frame, Rgba, RgbaImage};
    use tempfile::TempDir;

    use super::super::source::DamagePolicy;
    use super::*;

    /// Four frames of 3 x 2 pixels, each of one color.
    fn animation() -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        {
            let mut encoder = GifEncoder::new(&mut bytes);
            for color in [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]] {
                let [r, g, b] = color;
                let picture = RgbaImage::from_pixel(3, 2, Rgba([r, g, b, 255]));
                encoder.encode_frame(Frame::new(picture)).unwrap();
            }
        }
        bytes
    }

    fn written(bytes: &[u8]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn source(damage: DamagePolicy) -> GifFrames {
        GifFrames::new(DecodeOptions {
            damage,
            ..DecodeOptions::default()
        })
    }

    #[test]
    fn the_frames_of_an_animation_are_chosen_by_index() {
        let (_folder, path) = written(&animation());
        let mut gif = source(DamagePolicy::Refuse);
        assert_eq!(gif.probe(&path).unwrap().frames_expected, 4);
        let decoded = gif.frames(&path, FrameRule::Uniform { frames: 2 }).unwrap();
        assert_eq!(decoded.decodable_frames, 4);
        assert_eq!(decoded.indices, [1, 3]);
        assert_eq!(decoded.frames[0].data(), [0_u8, 255, 0].repeat(6));
        assert_eq!(decoded.frames[1].data(), [9_u8, 9, 9].repeat(6));
        assert!(decoded.warnings.is_empty());
        let all = gif.frames(&path, FrameRule::All).unwrap();
        assert_eq!(all.frames.len(), 4);
    }

    #[test]
    fn a_cut_animation_says_how_much_is_left() {
        let bytes = animation();
        let (_folder, path) = written(&bytes[..bytes.len() - 6]);
        let rule = FrameRule::Uniform { frames: 1 };
        let message = source(DamagePolicy::Refuse)
            .frames(&path, rule)
            .unwrap_err()
            .to_string();
        assert!(message.contains("of 4 frames"), "{message}");
        let decoded = source(DamagePolicy::Report).frames(&path, rule).unwrap();
        assert!(decoded.decodable_frames >= 3);
        assert!(decoded.warnings[0].contains("of 4 frames"));
    }

    #[test]
    fn a_huge_canvas_and_a_cut_header_are_refused() {
        let mut bytes = animation();
        bytes[6..10].copy_from_slice(&[255; 4]);
        let (_folder, path) = written(&bytes);
        let mut gif = source(DamagePolicy::Report);
        let message = gif.frames(&path, FrameRule::All).unwrap_err().to_string();
        assert!(message.contains("65535 x 65535"), "{message}");
        let (_folder, path) = written(&bytes[..9]);
        let message = gif.frames(&path, FrameRule::All).unwrap_err().to_string();
        assert!(message.contains("inside the header"), "{message}");
    }

    #[test]
    fn no_cut_of_a_file_makes_the_reader_panic() {
        let bytes = animation();
        for len in 0..bytes.len() {
            let (_folder, path) = written(&bytes[..len]);
            // Most are errors; near the end only the end mark is absent.
            drop(source(DamagePolicy::Report).frames(&path, FrameRule::All));
        }
    }
}
