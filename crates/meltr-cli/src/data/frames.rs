//! `meltr data frames`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use meltr_data::RgbFrame;
use serde_json::{Value, json};

use super::arguments::{FramesArguments, PictureFormat};
use super::{FrameRule, decode_frames, must_not_exist};
use crate::error::CliError;
use crate::output;

/// Quality of JPEG files, of 100.
const JPEG_QUALITY: u8 = 95;

pub(super) fn run(arguments: &FramesArguments) -> Result<(), CliError> {
    let rule = FrameRule::new(&arguments.rule)?;
    let stems = stems(&arguments.videos)?;
    fs::create_dir_all(&arguments.out).map_err(|error| {
        CliError::Failed(format!(
            "cannot make the folder `{}`: {error}; check the permissions",
            arguments.out.display()
        ))
    })?;
    let ending = match arguments.format {
        PictureFormat::Png => "png",
        PictureFormat::Jpeg => "jpg",
    };
    let mut written: Vec<Value> = Vec::new();
    for (video, stem) in arguments.videos.iter().zip(&stems) {
        // A short clip may give the same frame twice; it is written once.
        let mut done: BTreeSet<usize> = BTreeSet::new();
        for frame in decode_frames(video, rule, None, None)? {
            if !done.insert(frame.index) {
                continue;
            }
            let name = format!("{stem}-{:06}.{ending}", frame.index);
            let file = arguments.out.join(name);
            write_picture(&file, &frame.frame, arguments.format)?;
            let shown = file.display().to_string();
            if arguments.json {
                written.push(json!({
                    "video": video.display().to_string(),
                    "frame": frame.index,
                    "width": frame.frame.width(),
                    "height": frame.frame.height(),
                    "file": shown,
                }));
            } else {
                output::line(&shown);
            }
        }
    }
    if arguments.json {
        return output::json(&json!({ "rule": rule.to_string(), "frames": written }));
    }
    Ok(())
}

/// What the names of the images begin with; has to differ between the videos.
fn stems(videos: &[PathBuf]) -> Result<Vec<String>, CliError> {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut stems = Vec::new();
    for video in videos {
        let stem = video.file_stem().and_then(|stem| stem.to_str());
        let Some(stem) = stem else {
            return Err(CliError::Input(format!(
                "`{}` has no name that an image could be called by",
                video.display()
            )));
        };
        if !seen.insert(stem.to_owned()) {
            return Err(CliError::Input(format!(
                "two videos are called `{stem}`; write them into different folders"
            )));
        }
        stems.push(stem.to_owned());
    }
    Ok(stems)
}

/// Writes an image at once: its name appears when it is whole.
fn write_picture(file: &Path, frame: &RgbFrame, format: PictureFormat) -> Result<(), CliError> {
    must_not_exist(file)?;
    let failed = |error: &dyn std::fmt::Display| {
        CliError::Failed(format!(
            "cannot write `{}`: {error}; check the permissions and the free space",
            file.display()
        ))
    };
    let mut bytes: Vec<u8> = Vec::new();
    let color = ExtendedColorType::Rgb8;
    let (pixels, width, height) = (frame.data(), frame.width(), frame.height());
    let encoded = match format {
        PictureFormat::Png => PngEncoder::new(&mut bytes).write_image(pixels, width, height, color),
        PictureFormat::Jpeg => JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
            .write_image(pixels, width, height, color),
    };
    encoded.map_err(|error| failed(&error))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(|error| failed(&error))?;
    temporary
        .write_all(&bytes)
        .map_err(|error| failed(&error))?;
    temporary
        .persist_noclobber(file)
        .map_err(|error| failed(&error.error))?;
    Ok(())
}
