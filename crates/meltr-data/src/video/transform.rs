//! Frames to the tensors of the backbones: padding, resizing, cropping and normalizing.

use std::borrow::Cow;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use ndarray::{Array3, Array4, Axis};

use super::source::{MAX_PIXELS, RgbFrame};
use crate::error::ConfigError;
use crate::seed::RandomStream;

/// Mean of the pictures of ImageNet for red, green and blue, with samples in `[0, 1]`.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// Standard deviation of the pictures of ImageNet for red, green and blue.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// A change of the size of a picture.
///
/// Resizing is bilinear interpolation that averages when it shrinks (antialiasing), as Pillow's
/// `BILINEAR` is; samples differ from Pillow's by 1 of 255 at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Adds black on both sides of the shorter direction, half of the difference rounded down on
    /// each. The result lacks one row or column to a square if the difference is odd.
    PadToSquare,
    /// Resizes to this size, whatever that does to the aspect ratio.
    Exactly {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Resizes so that the shorter side has this length; the other is rounded down.
    ShorterSide {
        /// Length in pixels.
        side: u32,
    },
    /// Cuts a square out of the middle; a half pixel is rounded to the even neighbor, as in Python.
    CenterCrop {
        /// Length in pixels.
        side: u32,
    },
    /// Cuts out a square at random; every place is equally likely, and all frames of a clip get
    /// the same.
    RandomCrop {
        /// Length in pixels.
        side: u32,
    },
}

/// How a sample `x` in `0..=255` becomes a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalization {
    /// `x / 255`.
    Unit,
    /// `(x / 255 - mean) / std` with [`IMAGENET_MEAN`] and [`IMAGENET_STD`].
    ImageNet,
    /// `(x - 127) / 128`.
    Centered,
    /// `0.8 x / 255 + 0.1`, for the encoder of DALL-E.
    DallE,
}

impl Normalization {
    /// The number for a sample of a channel, 0 for red to 2 for blue.
    #[must_use]
    pub fn value(self, sample: u8, channel: usize) -> f32 {
        let sample = f32::from(sample);
        match self {
            Self::Unit => sample / 255.0,
            Self::ImageNet => {
                let channel = channel.min(2);
                (sample / 255.0 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
            }
            Self::Centered => (sample - 127.0) / 128.0,
            Self::DallE => 0.8 * (sample / 255.0) + 0.1,
        }
    }

    /// The numbers for all samples of all channels.
    fn table(self) -> [[f32; 256]; 3] {
        let mut table = [[0.0; 256]; 3];
        for (channel, row) in table.iter_mut().enumerate() {
            for (sample, value) in (0..=u8::MAX).zip(row.iter_mut()) {
                *value = self.value(sample, channel);
            }
        }
        table
    }
}

/// What a backbone wants done to a frame: changes of its size in turn, then normalization.
///
/// ```
/// use meltr_data::{ImageTransform, RgbFrame};
///
/// let frame = RgbFrame::new(320, 240, vec![128; 320 * 240 * 3]).ok_or("empty")?;
/// let clip = ImageTransform::violet().clip(&[frame], 0)?;
/// assert_eq!(clip.dim(), (1, 3, 224, 224));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTransform {
    /// Changes of the size, in this order.
    pub steps: Vec<Resize>,
    /// What happens to the samples.
    pub normalization: Normalization,
}

impl ImageTransform {
    /// VIOLET's frames: padded to a square, 224 x 224, in `[0, 1]`. The model normalizes itself.
    #[must_use]
    pub fn violet() -> Self {
        Self {
            steps: vec![
                Resize::PadToSquare,
                Resize::Exactly {
                    width: 224,
                    height: 224,
                },
            ],
            normalization: Normalization::Unit,
        }
    }

    /// Input of the encoder of VIOLET's visual tokens: padded to a square, 56 x 56, in
    /// `[0.1, 0.9]`.
    #[must_use]
    pub fn violet_tokens() -> Self {
        Self {
            steps: vec![
                Resize::PadToSquare,
                Resize::Exactly {
                    width: 56,
                    height: 56,
                },
            ],
            normalization: Normalization::DallE,
        }
    }

    /// All-in-one's training frames: 512 x 512 (as its reader delivers them), shorter side 268, a
    /// random square of 224, normalized for ImageNet.
    #[must_use]
    pub fn all_in_one_train() -> Self {
        Self::all_in_one(Resize::RandomCrop { side: 224 })
    }

    /// All-in-one's test frames: as for training, with the square in the middle.
    #[must_use]
    pub fn all_in_one_test() -> Self {
        Self::all_in_one(Resize::CenterCrop { side: 224 })
    }

    fn all_in_one(crop: Resize) -> Self {
        Self {
            steps: vec![
                Resize::Exactly {
                    width: 512,
                    height: 512,
                },
                Resize::ShorterSide { side: 268 },
                crop,
            ],
            normalization: Normalization::ImageNet,
        }
    }

    /// Frames of encoders trained on ImageNet: shorter side 256, a square of 224 in the middle,
    /// normalized.
    #[must_use]
    pub fn imagenet() -> Self {
        Self {
            steps: vec![
                Resize::ShorterSide { side: 256 },
                Resize::CenterCrop { side: 224 },
            ],
            normalization: Normalization::ImageNet,
        }
    }

    /// One frame as a tensor; `seed` matters to a random crop only.
    ///
    /// # Shapes
    ///
    /// - output: `[3, H, W]`.
    ///
    /// # Errors
    ///
    /// Returns an error if a step has no pixel as its result or too many, or crops more than there
    /// is.
    pub fn image(&self, frame: &RgbFrame, seed: u64) -> Result<Array3<f32>, ConfigError> {
        let clip = self.clip(std::slice::from_ref(frame), seed)?;
        Ok(clip.index_axis_move(Axis(0), 0))
    }

    /// The frames of a clip as a tensor; `seed` matters to a random crop only.
    ///
    /// # Shapes
    ///
    /// - output: `[F, 3, H, W]`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no frame, if the results differ in size, or for the reasons of
    /// [`image`](Self::image).
    pub fn clip(&self, frames: &[RgbFrame], seed: u64) -> Result<Array4<f32>, ConfigError> {
        let Some(first) = frames.first() else {
            return Err(ConfigError::OutOfRange {
                field: "frames",
                value: "0".to_owned(),
                expected: "of at least 1".to_owned(),
            });
        };
        let table = self.normalization.table();
        let shaped = self.shaped(first, seed)?;
        let (width, height) = (shaped.width(), shaped.height());
        let mut values: Vec<f32> = Vec::with_capacity(frames.len() * shaped.data().len());
        append(&mut values, &shaped, &table);
        for frame in &frames[1..] {
            let shaped = self.shaped(frame, seed)?;
            if (shaped.width(), shaped.height()) != (width, height) {
                return Err(size_error(
                    shaped.width(),
                    shaped.height(),
                    format!("of {width} x {height}, as for the first frame of the clip"),
                ));
            }
            append(&mut values, &shaped, &table);
        }
        let shape = (frames.len(), 3, height as usize, width as usize);
        Array4::from_shape_vec(shape, values)
            .map_err(|error| size_error(width, height, format!("that fits ({error})")))
    }

    /// The frame after all steps.
    fn shaped<'a>(&self, frame: &'a RgbFrame, seed: u64) -> Result<Cow<'a, RgbFrame>, ConfigError> {
        let mut shaped: Cow<'a, RgbFrame> = Cow::Borrowed(frame);
        let mut stream = RandomStream::new(seed);
        for step in &self.steps {
            let (width, height) = (shaped.width(), shaped.height());
            let next = match *step {
                Resize::PadToSquare => pad_to_square(&shaped)?,
                Resize::Exactly { width, height } => resized(&shaped, width, height)?,
                Resize::ShorterSide { side } => {
                    let (width, height) = shorter_side(width, height, side);
                    resized(&shaped, width, height)?
                }
                Resize::CenterCrop { side } => {
                    let (x, y) = room(width, height, side)?;
                    cropped(&shaped, half_to_even(x), half_to_even(y), side)?
                }
                Resize::RandomCrop { side } => {
                    let (x, y) = room(width, height, side)?;
                    let left = stream.below(x as usize + 1) as u32;
                    let top = stream.below(y as usize + 1) as u32;
                    cropped(&shaped, left, top, side)?
                }
            };
            if let Some(next) = next {
                shaped = Cow::Owned(next);
            }
        }
        Ok(shaped)
    }
}

fn size_error(width: u32, height: u32, expected: String) -> ConfigError {
    ConfigError::OutOfRange {
        field: "frame size",
        value: format!("{width} x {height}"),
        expected,
    }
}

/// Appends a picture channel by channel.
fn append(values: &mut Vec<f32>, frame: &RgbFrame, table: &[[f32; 256]; 3]) {
    for (channel, row) in table.iter().enumerate() {
        let samples = frame.data().iter().skip(channel).step_by(3);
        values.extend(samples.map(|&sample| row[usize::from(sample)]));
    }
}

/// Length of both sides when the shorter one gets the length `side`.
fn shorter_side(width: u32, height: u32, side: u32) -> (u32, u32) {
    let scaled = |long: u32, short: u32| -> u32 {
        let length = u64::from(side) * u64::from(long) / u64::from(short.max(1));
        u32::try_from(length).unwrap_or(u32::MAX)
    };
    if width < height {
        (side, scaled(height, width))
    } else {
        (scaled(width, height), side)
    }
}

/// What a square leaves over in both directions.
fn room(width: u32, height: u32, side: u32) -> Result<(u32, u32), ConfigError> {
    match (width.checked_sub(side), height.checked_sub(side)) {
        (Some(x), Some(y)) if side > 0 => Ok((x, y)),
        _ => Err(ConfigError::OutOfRange {
            field: "crop",
            value: side.to_string(),
            expected: format!("in [1, {}], a side of the frame", width.min(height)),
        }),
    }
}

/// Half of a number, rounded to the even neighbor.
fn half_to_even(value: u32) -> u32 {
    let half = value / 2;
    if value % 2 == 1 && half % 2 == 1 {
        half + 1
    } else {
        half
    }
}

/// The picture in the size given; `None` if it has that size already.
fn resized(frame: &RgbFrame, width: u32, height: u32) -> Result<Option<RgbFrame>, ConfigError> {
    if (width, height) == (frame.width(), frame.height()) {
        return Ok(None);
    }
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > MAX_PIXELS {
        return Err(size_error(
            width,
            height,
            format!("of 1 to {MAX_PIXELS} pixels after resizing"),
        ));
    }
    let failed = |reason: String| size_error(width, height, format!("that can be made ({reason})"));
    let source = ImageRef::new(frame.width(), frame.height(), frame.data(), PixelType::U8x3)
        .map_err(|error| failed(error.to_string()))?;
    let mut target = Image::new(width, height, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new()
        .resize(&source, &mut target, &options)
        .map_err(|error| failed(error.to_string()))?;
    RgbFrame::new(width, height, target.into_vec())
        .map(Some)
        .ok_or_else(|| failed("another size came out".to_owned()))
}

fn pad_to_square(frame: &RgbFrame) -> Result<Option<RgbFrame>, ConfigError> {
    let (width, height) = (frame.width(), frame.height());
    let left = height.saturating_sub(width) / 2;
    let top = width.saturating_sub(height) / 2;
    if (left, top) == (0, 0) {
        return Ok(None);
    }
    let (padded_width, padded_height) = (width + 2 * left, height + 2 * top);
    let pixels = u64::from(padded_width) * u64::from(padded_height);
    if pixels > MAX_PIXELS {
        return Err(size_error(
            padded_width,
            padded_height,
            format!("of at most {MAX_PIXELS} pixels after padding"),
        ));
    }
    let row_len = 3 * padded_width as usize;
    let mut data = vec![0_u8; 3 * pixels as usize];
    let rows = data.chunks_exact_mut(row_len).skip(top as usize);
    let start = 3 * left as usize;
    for (target, source) in rows.zip(frame.data().chunks_exact(3 * width as usize)) {
        target[start..start + source.len()].copy_from_slice(source);
    }
    RgbFrame::new(padded_width, padded_height, data)
        .map(Some)
        .ok_or_else(|| size_error(width, height, "of at least 1 pixel".to_owned()))
}

/// The square of the given side whose left upper corner lies inside by `left` and `top`.
fn cropped(
    frame: &RgbFrame,
    left: u32,
    top: u32,
    side: u32,
) -> Result<Option<RgbFrame>, ConfigError> {
    let (width, height) = (frame.width(), frame.height());
    if (width, height) == (side, side) {
        return Ok(None);
    }
    let start = 3 * left as usize;
    let end = start + 3 * side as usize;
    let mut data: Vec<u8> = Vec::with_capacity(side as usize * (end - start));
    let rows = frame.data().chunks_exact(3 * width as usize);
    for row in rows.skip(top as usize).take(side as usize) {
        if let Some(part) = row.get(start..end) {
            data.extend_from_slice(part);
        }
    }
    RgbFrame::new(side, side, data)
        .map(Some)
        .ok_or_else(|| size_error(width, height, format!("of at least {side} x {side}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The picture of the Pillow results below, made there with
    /// `im = Image.new('RGB', (7, 5))` and `im.putdata([((x*37+y*11)%256, (x*x*9+y*50)%256,
    /// (255-x*20-y*13)%256) for y in range(5) for x in range(7)])` (Pillow 13.0.0).
    fn picture() -> RgbFrame {
        let mut data: Vec<u8> = Vec::new();
        for y in 0..5_i32 {
            for x in 0..7_i32 {
                data.push(((x * 37 + y * 11) % 256) as u8);
                data.push(((x * x * 9 + y * 50) % 256) as u8);
                data.push((255 - x * 20 - y * 13).rem_euclid(256) as u8);
            }
        }
        RgbFrame::new(7, 5, data).unwrap()
    }

    fn steps(steps: Vec<Resize>) -> RgbFrame {
        let transform = ImageTransform {
            steps,
            normalization: Normalization::Unit,
        };
        transform.shaped(&picture(), 3).unwrap().into_owned()
    }

    /// 1 is the difference that rounding makes between Pillow and this library.
    fn assert_near(frame: &RgbFrame, expected: &[i32]) {
        assert_eq!(frame.data().len(), expected.len());
        for (&ours, &theirs) in frame.data().iter().zip(expected) {
            let difference = (i32::from(ours) - theirs).abs();
            assert!(difference <= 1, "{:?}", frame.data());
        }
    }

    #[test]
    fn resizing_agrees_with_pillow() {
        // list(im.resize((3, 2), Image.BILINEAR).tobytes())
        let small = steps(vec![Resize::Exactly {
            width: 3,
            height: 2,
        }]);
        assert_near(
            &small,
            &[
                43, 62, 225, 122, 126, 182, 201, 124, 139, 65, 162, 199, 144, 147, 156, 194, 123,
                113,
            ],
        );
        // The first row of im.resize((9, 4), Image.BILINEAR).
        let large = steps(vec![Resize::Exactly {
            width: 9,
            height: 4,
        }]);
        let first_row = RgbFrame::new(9, 1, large.data()[..27].to_vec()).unwrap();
        assert_near(
            &first_row,
            &[
                3, 13, 252, 28, 19, 239, 56, 34, 223, 85, 59, 208, 114, 94, 192, 143, 143, 176,
                172, 166, 161, 200, 143, 145, 225, 81, 132,
            ],
        );
    }

    #[test]
    fn the_letterbox_agrees_with_pillow() {
        // p = Image.new('RGB', (7, 7)); p.paste(im, (0, 1)); p.resize((4, 4), Image.BILINEAR)
        let boxed = steps(vec![
            Resize::PadToSquare,
            Resize::Exactly {
                width: 4,
                height: 4,
            },
        ]);
        assert_near(
            &boxed,
            &[
                10, 5, 116, 37, 23, 101, 70, 68, 84, 97, 63, 68, 31, 60, 231, 89, 97, 199, 157,
                155, 163, 215, 105, 131, 51, 152, 207, 109, 175, 175, 177, 127, 139, 208, 140, 107,
                29, 96, 93, 57, 83, 77, 89, 42, 60, 60, 44, 45,
            ],
        );
    }

    #[test]
    fn the_crop_in_the_middle_agrees_with_pillow() {
        // im.resize((4, 3), Image.BILINEAR).crop((1, 0, 3, 2))
        let cut = steps(vec![
            Resize::ShorterSide { side: 3 },
            Resize::CenterCrop { side: 2 },
        ]);
        assert_near(
            &cut,
            &[82, 64, 207, 150, 142, 171, 99, 143, 187, 167, 161, 151],
        );
    }

    #[test]
    fn padding_of_an_odd_difference_lacks_one_row() {
        let frame = RgbFrame::new(4, 1, vec![9; 12]).unwrap();
        let padded = pad_to_square(&frame).unwrap().unwrap();
        assert_eq!((padded.width(), padded.height()), (4, 3));
        assert_eq!(padded.data()[..12], [0; 12]);
        assert_eq!(padded.data()[12..24], [9; 12]);
        let tall = RgbFrame::new(1, 3, vec![9; 9]).unwrap();
        let padded = pad_to_square(&tall).unwrap().unwrap();
        assert_eq!((padded.width(), padded.height()), (3, 3));
        assert_eq!(padded.data()[..9], [0, 0, 0, 9, 9, 9, 0, 0, 0]);
    }

    #[test]
    fn halves_are_rounded_as_in_python() {
        // [round(v / 2) for v in range(8)]
        let halves: Vec<u32> = (0..8).map(half_to_even).collect();
        assert_eq!(halves, [0, 0, 1, 2, 2, 2, 3, 4]);
    }

    #[test]
    fn the_longer_side_is_rounded_down() {
        assert_eq!(shorter_side(320, 240, 268), (357, 268));
        assert_eq!(shorter_side(240, 320, 268), (268, 357));
        assert_eq!(shorter_side(512, 512, 268), (268, 268));
    }

    #[test]
    fn samples_are_normalized_as_the_formulas_say() {
        assert_eq!(Normalization::Unit.value(255, 0), 1.0);
        assert_eq!(Normalization::Centered.value(127, 2), 0.0);
        assert_eq!(Normalization::Centered.value(255, 2), 1.0);
        assert_eq!(Normalization::DallE.value(0, 1), 0.1);
        let value = Normalization::ImageNet.value(0, 1);
        // -0.456 / 0.224
        assert!((value + 2.035_714).abs() < 1e-6, "{value}");
    }

    #[test]
    fn a_clip_has_frames_channels_rows_and_columns() {
        let frame = RgbFrame::new(2, 1, vec![0, 51, 102, 153, 204, 255]).unwrap();
        let transform = ImageTransform {
            steps: vec![],
            normalization: Normalization::Unit,
        };
        let clip = transform.clip(&[frame.clone(), frame.clone()], 0).unwrap();
        assert_eq!(clip.dim(), (2, 3, 1, 2));
        assert_eq!(clip[[1, 0, 0, 1]], 0.6);
        assert_eq!(clip[[1, 2, 0, 0]], 0.4);
        assert_eq!(transform.image(&frame, 0).unwrap().dim(), (3, 1, 2));
    }

    #[test]
    fn the_frames_of_a_clip_are_cropped_at_one_random_place() {
        let transform = ImageTransform {
            steps: vec![Resize::RandomCrop { side: 2 }],
            normalization: Normalization::Unit,
        };
        let frames = [picture(), picture()];
        let mut places = std::collections::HashSet::new();
        for seed in 0..60 {
            let clip = transform.clip(&frames, seed).unwrap();
            assert_eq!(clip.index_axis(Axis(0), 0), clip.index_axis(Axis(0), 1));
            assert_eq!(clip, transform.clip(&frames, seed).unwrap());
            places.insert(format!("{:?}", clip.iter().next()));
        }
        assert!(places.len() > 10);
    }

    #[test]
    fn impossible_steps_are_refused() {
        let frame = picture();
        for step in [
            Resize::CenterCrop { side: 6 },
            Resize::CenterCrop { side: 0 },
            Resize::RandomCrop { side: 8 },
            Resize::Exactly {
                width: 0,
                height: 5,
            },
            Resize::Exactly {
                width: u32::MAX,
                height: u32::MAX,
            },
            Resize::ShorterSide { side: 0 },
            Resize::ShorterSide { side: u32::MAX },
        ] {
            let transform = ImageTransform {
                steps: vec![step],
                normalization: Normalization::Unit,
            };
            assert!(
                transform.clip(std::slice::from_ref(&frame), 0).is_err(),
                "{step:?}"
            );
        }
        assert!(ImageTransform::imagenet().clip(&[], 0).is_err());
    }

    #[test]
    fn every_backbone_gets_its_size() {
        let frame = RgbFrame::new(40, 30, vec![7; 3600]).unwrap();
        for (transform, side) in [
            (ImageTransform::violet(), 224),
            (ImageTransform::violet_tokens(), 56),
            (ImageTransform::all_in_one_train(), 224),
            (ImageTransform::all_in_one_test(), 224),
            (ImageTransform::imagenet(), 224),
        ] {
            assert_eq!(transform.image(&frame, 1).unwrap().dim(), (3, side, side));
        }
    }
}
