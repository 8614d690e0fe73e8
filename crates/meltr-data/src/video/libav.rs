//! Frames by FFmpeg's libraries in this process.

use std::path::Path;
use std::sync::Once;

use ffmpeg_the_third as ffmpeg;

use ffmpeg::color;
use ffmpeg::format::Pixel;
use ffmpeg::media::Type;
use ffmpeg::software::scaling;
use ffmpeg::threading;

use super::container::{self, PLACEHOLDER};
use super::frame_rule::FrameRule;
use super::program::Deadline;
use super::source::{
    DEMUXERS, DecodeOptions, DecodedFrames, FrameSource, MAX_PIXELS, RgbFrame, VIDEO, VideoInfo,
    distinct, file_url, judge, no_frame, rule_error,
};
use crate::error::DataError;

/// FFmpeg's libraries as a [`FrameSource`].
///
/// The index of an MP4 or AVI file tells how many frames to expect; everything is decoded once, and
/// the frames wanted are converted. For other containers, and where the decoder comes to another
/// number or reports damage, packets are counted, which costs little. If the number of frames turns
/// out to be another than the one that the frames were chosen for, everything is decoded again.
#[derive(Clone, Debug)]
pub struct LibavFrames {
    options: DecodeOptions,
}

/// The libraries are prepared once in a process.
static PREPARED: Once = Once::new();

impl LibavFrames {
    /// A source with these settings.
    #[must_use]
    pub fn new(options: DecodeOptions) -> Self {
        PREPARED.call_once(|| {
            // Registering names of errors is all that it does, and it cannot fail.
            let _ = ffmpeg::init();
            // Damage is reported by this crate; the libraries would write to standard error.
            ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
        });
        Self { options }
    }

    /// What the headers and the packets say.
    fn probe_file(&self, path: &Path, deadline: Deadline) -> Result<VideoInfo, DataError> {
        let mut input = open(path)?;
        let mut found: Option<VideoInfo> = None;
        let mut index = 0;
        for stream in input.streams() {
            let parameters = stream.parameters();
            if parameters.medium() != Type::Video {
                continue;
            }
            index = stream.index();
            let seconds = stream.duration() as f64 * f64::from(stream.time_base());
            let rate = f64::from(stream.avg_frame_rate());
            found = Some(VideoInfo {
                container: input.format().name().to_owned(),
                codec: parameters.id().name().to_owned(),
                width: parameters.width(),
                height: parameters.height(),
                frames_announced: usize::try_from(stream.frames()).ok().filter(|&n| n > 0),
                frames_expected: 0,
                frame_rate: (rate.is_finite() && rate > 0.0).then_some(rate),
                duration: (seconds.is_finite() && seconds > 0.0).then_some(seconds),
            });
            break;
        }
        let Some(mut info) = found else {
            return Err(DataError::format(
                path,
                VIDEO,
                None::<u64>,
                "no video stream in it",
            ));
        };
        let smallest = if info.codec == "mpeg4" {
            PLACEHOLDER
        } else {
            0
        };
        loop {
            let mut packet = ffmpeg::Packet::empty();
            if packet.read(&mut input).is_err() {
                break;
            }
            if packet.stream() == index && packet.size() as u64 > smallest {
                info.frames_expected += 1;
            }
            if deadline.left().is_zero() {
                return Err(deadline.error(path));
            }
        }
        Ok(info)
    }

    /// The frames of a rule, out of those of a pass, or else by a second pass.
    fn chosen(
        &self,
        path: &Path,
        rule: FrameRule,
        (keep, pass): (Keep, Pass),
        deadline: Deadline,
    ) -> Result<DecodedFrames, DataError> {
        let decodable = pass.decodable;
        let indices = rule
            .indices(decodable)
            .map_err(|kind| rule_error(path, kind))?;
        let kept = distinct(&indices);
        let frames = match keep {
            Keep::These(chosen) if chosen != kept => {
                let again = self.pass(path, &Keep::These(kept.clone()), deadline)?;
                again.frames
            }
            Keep::All | Keep::These(_) => pass.frames,
        };
        DecodedFrames::pick(decodable, indices, &kept, frames).ok_or_else(|| {
            DataError::format(
                path,
                VIDEO,
                None::<u64>,
                "decoding it twice gave two results",
            )
        })
    }

    /// Decodes the whole file once.
    fn pass(&self, path: &Path, keep: &Keep, deadline: Deadline) -> Result<Pass, DataError> {
        let failed = |error: ffmpeg::Error| {
            DataError::format(
                path,
                VIDEO,
                None::<u64>,
                format!("FFmpeg refuses it: {error}"),
            )
        };
        let mut input = open(path)?;
        let mut opened: Option<(usize, ffmpeg::codec::context::Context)> = None;
        for stream in input.streams() {
            if stream.parameters().medium() == Type::Video {
                let context = ffmpeg::codec::context::Context::from_parameters(stream.parameters())
                    .map_err(failed)?;
                opened = Some((stream.index(), context));
                break;
            }
        }
        let Some((index, mut context)) = opened else {
            return Err(DataError::format(
                path,
                VIDEO,
                None::<u64>,
                "no video stream in it",
            ));
        };
        context.set_threading(threading::Config {
            kind: threading::Type::Frame,
            ..threading::Config::count(self.options.threads)
        });
        let mut decoder = context.decoder().video().map_err(failed)?;
        let mut pass = Pass::default();
        let mut frame = ffmpeg::frame::Video::empty();
        let mut converter = Converter::default();
        let mut ended = false;
        while !ended {
            if deadline.left().is_zero() {
                return Err(deadline.error(path));
            }
            let mut packet = ffmpeg::Packet::empty();
            match packet.read(&mut input) {
                Ok(()) => {
                    if packet.stream() != index {
                        continue;
                    }
                    pass.damaged_packets += usize::from(packet.is_corrupt());
                    if decoder.send_packet(&packet).is_err() {
                        pass.refused_packets += 1;
                    }
                }
                Err(error) => {
                    if error != ffmpeg::Error::Eof {
                        pass.read_error = Some(error.to_string());
                    }
                    ended = true;
                    if decoder.send_eof().is_err() {
                        pass.refused_packets += 1;
                    }
                }
            }
            loop {
                match decoder.receive_frame(&mut frame) {
                    Ok(()) => {}
                    // It wants the next packet, or has nothing more.
                    Err(ffmpeg::Error::Other { .. } | ffmpeg::Error::Eof) => break,
                    Err(_) => {
                        pass.refused_packets += 1;
                        break;
                    }
                }
                pass.damaged_frames += usize::from(frame.is_corrupt());
                let wanted = keep.has(pass.decodable);
                pass.decodable += 1;
                if !wanted {
                    continue;
                }
                let picture = converter
                    .rgb(&frame)
                    .map_err(|reason| DataError::format(path, VIDEO, None::<u64>, reason))?;
                pass.kept_bytes += picture.data().len() as u64;
                if pass.kept_bytes > self.options.max_bytes {
                    return Err(DataError::format(
                        path,
                        VIDEO,
                        None::<u64>,
                        format!(
                            "the chosen frames need more than {} bytes; choose fewer, or raise \
                             `DecodeOptions::max_bytes`",
                            self.options.max_bytes
                        ),
                    ));
                }
                pass.frames.push(picture);
            }
        }
        Ok(pass)
    }
}

impl FrameSource for LibavFrames {
    fn probe(&mut self, path: &Path) -> Result<VideoInfo, DataError> {
        container::faults(path)?;
        self.probe_file(path, Deadline::after(self.options.timeout))
    }

    fn frames(&mut self, path: &Path, rule: FrameRule) -> Result<DecodedFrames, DataError> {
        let deadline = Deadline::after(self.options.timeout);
        let mut damage = container::faults(path)?;
        let indexed = if damage.is_empty() {
            container::indexed_frames(path)
        } else {
            None
        };
        let mut first: Option<(Keep, Pass)> = None;
        if let Some(expected) = indexed {
            let keep = Keep::of(rule, expected);
            let pass = self.pass(path, &keep, deadline)?;
            if pass.decodable == expected && pass.messages().is_empty() {
                return self.chosen(path, rule, (keep, pass), deadline);
            }
            first = Some((keep, pass));
        }
        let info = self.probe_file(path, deadline)?;
        let (keep, pass) = match first {
            Some(first) => first,
            None => {
                let keep = Keep::of(rule, info.frames_expected);
                let pass = self.pass(path, &keep, deadline)?;
                (keep, pass)
            }
        };
        damage.extend(pass.messages());
        let decodable = pass.decodable;
        let announced = info.frames_announced.unwrap_or(0);
        // The header of an AVI file counts the placeholder after packed B-frames. Other containers
        // announce more than there is to see where an edit list cuts it.
        if info.container == "avi" && announced > decodable.saturating_add(1) {
            damage.push(format!("the header announces {announced} frames"));
        }
        // Packets that an edit list discards cannot be told from others here, so that fewer frames
        // than packets are no damage by themselves.
        let expected = if damage.is_empty() {
            decodable
        } else {
            info.frames_expected.max(announced)
        };
        if decodable == 0 {
            return Err(no_frame(path, info.frames_expected, &damage));
        }
        let warnings = judge(path, self.options.damage, decodable, expected, damage)?;
        let mut decoded = self.chosen(path, rule, (keep, pass), deadline)?;
        decoded.warnings = warnings;
        Ok(decoded)
    }
}

/// Which frames are kept.
enum Keep {
    All,
    /// Strictly increasing indices; none where a rule cannot be satisfied, which is told after
    /// damage that may be the reason.
    These(Vec<usize>),
}

impl Keep {
    /// What has to be kept of a video with so many frames.
    fn of(rule: FrameRule, frames: usize) -> Self {
        match rule {
            FrameRule::All => Self::All,
            _ => Self::These(distinct(&rule.indices(frames).unwrap_or_default())),
        }
    }

    fn has(&self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::These(indices) => indices.binary_search(&index).is_ok(),
        }
    }
}

/// What decoding a whole file gave.
#[derive(Default)]
struct Pass {
    decodable: usize,
    frames: Vec<RgbFrame>,
    kept_bytes: u64,
    damaged_packets: usize,
    refused_packets: usize,
    damaged_frames: usize,
    read_error: Option<String>,
}

impl Pass {
    fn messages(&self) -> Vec<String> {
        let mut messages: Vec<String> = Vec::new();
        for (count, what) in [
            (self.damaged_packets, "packets are cut or damaged"),
            (self.refused_packets, "packets cannot be decoded"),
            (self.damaged_frames, "frames are damaged"),
        ] {
            if count > 0 {
                messages.push(format!("{count} {what}"));
            }
        }
        if let Some(error) = &self.read_error {
            messages.push(format!("reading stopped: {error}"));
        }
        messages
    }
}

fn open(path: &Path) -> Result<ffmpeg::format::context::Input, DataError> {
    let mut options = ffmpeg::Dictionary::new();
    options.set("protocol_whitelist", "file");
    options.set("format_whitelist", DEMUXERS);
    ffmpeg::format::input_with_dictionary(file_url(path), options).map_err(|error| {
        DataError::format(
            path,
            VIDEO,
            None::<u64>,
            format!(
                "not a video that FFmpeg can open: it begins with `{}`; {error}",
                container::first_bytes(path)
            ),
        )
    })
}

/// Converts decoded pictures to RGB, with the matrix and the range that each is tagged with.
#[derive(Default)]
struct Converter {
    scaler: Option<(Pixel, Pixel, u32, u32, scaling::Context)>,
}

impl Converter {
    fn rgb(&mut self, frame: &ffmpeg::frame::Video) -> Result<RgbFrame, String> {
        let (width, height) = (frame.width(), frame.height());
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 || pixels > MAX_PIXELS {
            return Err(format!("a frame has the size {width} x {height}"));
        }
        let format = frame.format();
        let full_format = matches!(format, Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P);
        let full = full_format || frame.color_range() == color::Range::JPEG;
        let plain = matches!(
            format,
            Pixel::YUV420P
                | Pixel::YUV422P
                | Pixel::YUV444P
                | Pixel::YUV420P10LE
                | Pixel::YUV422P10LE
                | Pixel::YUV444P10LE
                | Pixel::NV12
        );
        let luma = luma_weights(frame.color_space());
        let data = match luma {
            // The library's conversion takes BT.601, and the range that the format implies.
            None if !full || !plain => {
                let rgb = self.convert(frame, Pixel::RGB24)?;
                packed(&rgb, width, height)
            }
            _ if plain || full_format => {
                let target = if full_format {
                    Pixel::YUVJ444P
                } else {
                    Pixel::YUV444P
                };
                let planes = self.convert(frame, target)?;
                let weights = luma.unwrap_or((0.299, 0.114));
                from_planes(&planes, width, height, weights, full)
            }
            _ => {
                let rgb = self.convert(frame, Pixel::RGB24)?;
                packed(&rgb, width, height)
            }
        };
        data.and_then(|data| RgbFrame::new(width, height, data))
            .ok_or_else(|| format!("a frame of {width} x {height} cannot be converted"))
    }

    /// The frame in another format, of the same size.
    fn convert(
        &mut self,
        frame: &ffmpeg::frame::Video,
        target: Pixel,
    ) -> Result<ffmpeg::frame::Video, String> {
        let (format, width, height) = (frame.format(), frame.width(), frame.height());
        let failed = |error: ffmpeg::Error| format!("a frame cannot be converted: {error}");
        let reusable = self.scaler.as_ref().is_some_and(|known| {
            (known.0, known.1, known.2, known.3) == (format, target, width, height)
        });
        if !reusable {
            let context = scaling::Context::get(
                format,
                width,
                height,
                target,
                width,
                height,
                scaling::Flags::BICUBIC,
            )
            .map_err(failed)?;
            self.scaler = Some((format, target, width, height, context));
        }
        let mut converted = ffmpeg::frame::Video::empty();
        if let Some((_, _, _, _, context)) = &mut self.scaler {
            context.run(frame, &mut converted).map_err(failed)?;
        }
        Ok(converted)
    }
}

/// The weights of red and blue in luma, where they are others than those of BT.601.
fn luma_weights(space: color::Space) -> Option<(f32, f32)> {
    match space {
        color::Space::BT709 => Some((0.2126, 0.0722)),
        color::Space::BT2020NCL | color::Space::BT2020CL => Some((0.2627, 0.0593)),
        color::Space::SMPTE240M => Some((0.212, 0.087)),
        color::Space::FCC => Some((0.30, 0.11)),
        _ => None,
    }
}

/// The samples of an RGB24 picture without the gaps between its rows.
fn packed(frame: &ffmpeg::frame::Video, width: u32, height: u32) -> Option<Vec<u8>> {
    if frame.planes() == 0 {
        return None;
    }
    let row_len = 3 * width as usize;
    let (data, stride) = (frame.data(0), frame.stride(0));
    let mut samples: Vec<u8> = Vec::with_capacity(row_len * height as usize);
    for y in 0..height as usize {
        samples.extend_from_slice(data.get(y * stride..y * stride + row_len)?);
    }
    Some(samples)
}

/// The samples of a picture with full planes of luma and both differences.
fn from_planes(
    frame: &ffmpeg::frame::Video,
    width: u32,
    height: u32,
    (red, blue): (f32, f32),
    full: bool,
) -> Option<Vec<u8>> {
    if frame.planes() < 3 {
        return None;
    }
    let (offset, luma_scale, chroma_scale) = if full {
        (0.0, 1.0, 1.0)
    } else {
        (16.0, 255.0 / 219.0, 255.0 / 224.0)
    };
    let green = 1.0 - red - blue;
    let len = width as usize;
    let mut samples: Vec<u8> = Vec::with_capacity(3 * len * height as usize);
    for row in 0..height as usize {
        let mut rows: [&[u8]; 3] = [&[]; 3];
        for (plane, slot) in rows.iter_mut().enumerate() {
            let start = row * frame.stride(plane);
            *slot = frame.data(plane).get(start..start + len)?;
        }
        let [luma, blues, reds] = rows;
        for ((&y, &cb), &cr) in luma.iter().zip(blues).zip(reds) {
            let y = (f32::from(y) - offset) * luma_scale;
            let b = y + 2.0 * (1.0 - blue) * (f32::from(cb) - 128.0) * chroma_scale;
            let r = y + 2.0 * (1.0 - red) * (f32::from(cr) - 128.0) * chroma_scale;
            let g = (y - red * r - blue * b) / green;
            for value in [r, g, b] {
                // A conversion to u8 keeps the value within 0 and 255.
                samples.push(value.round() as u8);
            }
        }
    }
    Some(samples)
}
