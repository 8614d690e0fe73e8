//! Frames of real clips against those of another decoder, and hostile files that claim to be videos.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meltr_data::{
    DamagePolicy, DataError, DecodeJob, DecodeOptions, DecodeParallelism, DecodedFrames, Decoder,
    FrameRule, FrameSource, MediaFrames, RgbFrame, decode_many,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::shared;

/// Largest difference of the mean of a channel: conversions to RGB round differently, by 1.7 at
/// most in the other decoders that were compared.
const MEAN_TOLERANCE: f64 = 2.0;

/// Largest difference of a cell of the thumbnail, for the same reason.
const CELL_TOLERANCE: f64 = 4.0;

/// The decoders that are there, and a line for one that is not.
fn decoders(options: DecodeOptions) -> Vec<(Decoder, MediaFrames)> {
    let mut open: Vec<(Decoder, MediaFrames)> = Vec::new();
    match MediaFrames::open(Decoder::Ffmpeg, options) {
        Ok(source) => open.push((Decoder::Ffmpeg, source)),
        Err(error) => eprintln!("skipped: {error}"),
    }
    if cfg!(feature = "libav") {
        let source = MediaFrames::open(Decoder::Libav, options).unwrap();
        open.push((Decoder::Libav, source));
    }
    open
}

fn options(damage: DamagePolicy) -> DecodeOptions {
    DecodeOptions {
        damage,
        timeout: Duration::from_secs(120),
        ..DecodeOptions::default()
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    let items = value.as_array().unwrap();
    items.iter().map(|item| item.as_f64().unwrap()).collect()
}

/// The mean of each channel over a part of a picture; a pixel that the part cuts counts by its
/// area in it.
fn means(frame: &RgbFrame, x: (f64, f64), y: (f64, f64)) -> [f64; 3] {
    let width = frame.width() as usize;
    let mut sums = [0.0; 3];
    let mut area = 0.0;
    for row in (y.0 as usize)..(y.1.ceil() as usize).min(frame.height() as usize) {
        let high = (y.1.min(row as f64 + 1.0) - y.0.max(row as f64)).max(0.0);
        for column in (x.0 as usize)..(x.1.ceil() as usize).min(width) {
            let wide = (x.1.min(column as f64 + 1.0) - x.0.max(column as f64)).max(0.0);
            let start = 3 * (row * width + column);
            for (sum, &sample) in sums.iter_mut().zip(&frame.data()[start..start + 3]) {
                *sum += high * wide * f64::from(sample);
            }
            area += high * wide;
        }
    }
    sums.map(|sum| sum / area)
}

/// The area average of each cell of a grid of 16 by 16, row by row.
fn thumbnail(frame: &RgbFrame) -> Vec<f64> {
    let (wide, high) = (
        f64::from(frame.width()) / 16.0,
        f64::from(frame.height()) / 16.0,
    );
    let mut cells: Vec<f64> = Vec::new();
    for row in 0..16 {
        for column in 0..16 {
            let (x, y) = (f64::from(column) * wide, f64::from(row) * high);
            cells.extend(means(frame, (x, x + wide), (y, y + high)));
        }
    }
    cells
}

fn check_frame(clip: &str, frame: &RgbFrame, expected: &Value) {
    let place = format!("{clip}, frame {}", expected["index"]);
    let whole = means(
        frame,
        (0.0, f64::from(frame.width())),
        (0.0, f64::from(frame.height())),
    );
    for (ours, theirs) in whole.iter().zip(numbers(&expected["mean_rgb"])) {
        assert!(
            (ours - theirs).abs() <= MEAN_TOLERANCE,
            "{place}: mean {ours} for {theirs}"
        );
    }
    let cells = numbers(&expected["thumb16_u8"]);
    let ours = thumbnail(frame);
    assert_eq!(ours.len(), cells.len(), "{place}");
    for (cell, (ours, theirs)) in ours.iter().zip(cells).enumerate() {
        assert!(
            (ours - theirs).abs() <= CELL_TOLERANCE,
            "{place}: cell {cell} is {ours} for {theirs}"
        );
    }
}

/// Whether the samples of every frame are those of the other decoder.
fn same_samples(decoded: &DecodedFrames, expected: &[Value]) -> bool {
    decoded
        .frames
        .iter()
        .zip(expected)
        .all(|(frame, expected)| {
            let digest = Sha256::digest(frame.data());
            let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            expected["sha256_rgb24"].as_str() == Some(digits.as_str())
        })
}

#[test]
fn the_frames_of_real_clips_are_those_of_another_decoder() {
    let (Some(frames), Some(data)) = (shared("fixtures/frames"), shared("data")) else {
        return;
    };
    let expected = json(&frames.join("expected_t8.json"));
    let clips = expected.as_object().unwrap();
    assert!(!clips.is_empty());
    for (decoder, mut source) in decoders(options(DamagePolicy::Refuse)) {
        let mut identical = 0;
        for (name, clip) in clips {
            let rule = FrameRule::Uniform { frames: 8 };
            let decoded = source.frames(&data.join(name), rule).unwrap();
            assert_eq!(
                decoded.decodable_frames as u64,
                clip["decodable_frames"].as_u64().unwrap(),
                "{name}"
            );
            let indices: Vec<f64> = decoded.indices.iter().map(|&index| index as f64).collect();
            assert_eq!(indices, numbers(&clip["indices"]), "{name}");
            assert!(
                decoded.warnings.is_empty(),
                "{name}: {:?}",
                decoded.warnings
            );
            let frames = clip["frames"].as_array().unwrap();
            assert_eq!(decoded.frames.len(), frames.len(), "{name}");
            for (frame, expected) in decoded.frames.iter().zip(frames) {
                assert_eq!(u64::from(frame.width()), clip["width"].as_u64().unwrap());
                assert_eq!(u64::from(frame.height()), clip["height"].as_u64().unwrap());
                check_frame(name, frame, expected);
            }
            identical += usize::from(same_samples(&decoded, frames));
        }
        // Decoding H.264 is exact by its standard, converting to RGB is not: how many clips are
        // the same to the last bit depends on the version of FFmpeg and on the processor.
        eprintln!(
            "{decoder:?}: {identical} of {} clips to the last bit",
            clips.len()
        );
    }
}

#[test]
fn the_headers_of_real_clips_are_read_without_decoding() {
    let (Some(frames), Some(data)) = (shared("fixtures/frames"), shared("data")) else {
        return;
    };
    let expected = json(&frames.join("expected_t8.json"));
    for (decoder, mut source) in decoders(options(DamagePolicy::Refuse)) {
        for (name, clip) in expected.as_object().unwrap() {
            let info = source.probe(&data.join(name)).unwrap();
            assert_eq!(info.codec, clip["codec"].as_str().unwrap(), "{name}");
            assert_eq!(u64::from(info.width), clip["width"].as_u64().unwrap());
            let announced = info.frames_announced.map(|count| count as u64);
            assert_eq!(announced, clip["container_frames_field"].as_u64(), "{name}");
            let rate = info.frame_rate.unwrap();
            assert!(
                (rate - clip["avg_fps"].as_f64().unwrap()).abs() < 1e-6,
                "{name}"
            );
            if decoder == Decoder::Ffmpeg {
                let decodable = clip["decodable_frames"].as_u64().unwrap();
                assert_eq!(info.frames_expected as u64, decodable, "{name}");
            }
        }
    }
}

#[test]
fn hostile_videos_are_refused_or_reported() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let hostile = formats.join("hostile");
    let expected = json(&hostile.join("expected.json"));
    let files: Vec<(&String, &Value)> = expected["files"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| name.starts_with("video/"))
        .collect();
    assert!(!files.is_empty());
    for policy in [DamagePolicy::Refuse, DamagePolicy::Report] {
        for (decoder, mut source) in decoders(options(policy)) {
            for (name, about) in &files {
                let start = Instant::now();
                let rule = FrameRule::Uniform { frames: 4 };
                let result = source.frames(&hostile.join(name), rule);
                // 2 s is the limit; other tests run at the same time.
                assert!(
                    start.elapsed() < Duration::from_secs(10),
                    "{name} takes long"
                );
                let place = format!("{name} by {decoder:?} with {policy:?}");
                check_hostile(&place, name, policy, result, about);
            }
        }
    }
}

fn check_hostile(
    place: &str,
    name: &str,
    policy: DamagePolicy,
    result: Result<DecodedFrames, DataError>,
    about: &Value,
) {
    match result {
        Err(error) => {
            let message = error.to_string();
            let file = name.trim_start_matches("video/");
            assert!(message.contains(file), "{place}: {message}");
            for part in about["error_should_name"].as_array().unwrap() {
                let part = part.as_str().unwrap();
                assert!(
                    part == "file name" || message.contains(part),
                    "{place}: `{part}` is not in: {message}"
                );
            }
        }
        Ok(decoded) => {
            let must = about["must"].as_str().unwrap();
            assert_ne!(must, "error", "{place} was accepted");
            assert_eq!(decoded.frames.len(), 4, "{place}");
            if must == "error_or_partial" {
                assert_eq!(policy, DamagePolicy::Report, "{place} was accepted");
                let first = decoded.warnings.first().unwrap();
                assert!(first.contains("frames can be decoded"), "{place}: {first}");
            }
        }
    }
}

/// A clip of the shared data, if it is there.
fn clip() -> Option<PathBuf> {
    shared("data").map(|data| data.join("msrvtt-10/video7010.mp4"))
}

#[test]
fn no_name_of_a_file_misleads_the_decoder() {
    let Some(clip) = clip() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (_, mut source) in decoders(options(DamagePolicy::Refuse)) {
        for name in [
            "-i.mp4",
            "%03d.mp4",
            "http:a.mp4",
            "a b'[0]*?.mp4",
            "é|x.avi",
        ] {
            let path = folder.path().join(name);
            fs::copy(&clip, &path).unwrap();
            let rule = FrameRule::Violet { frames: 2 };
            assert_eq!(
                source.frames(&path, rule).unwrap().indices,
                [90, 180],
                "{name}"
            );
        }
    }
}

#[test]
fn a_list_of_other_files_is_no_video() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret.txt");
    fs::write(&secret, "secret").unwrap();
    let list = folder.path().join("list.mp4");
    let playlist = folder.path().join("playlist.mp4");
    fs::write(&list, "ffconcat version 1.0\nfile secret.txt\n").unwrap();
    fs::write(
        &playlist,
        "#EXTM3U\n#EXTINF:1,\nsecret.txt\n#EXT-X-ENDLIST\n",
    )
    .unwrap();
    for (_, mut source) in decoders(options(DamagePolicy::Report)) {
        for path in [&list, &playlist] {
            let error = source.frames(path, FrameRule::All).unwrap_err();
            assert!(error.to_string().contains("not a video"), "{error}");
        }
    }
}

#[test]
fn a_rule_that_asks_too_much_and_a_limit_that_is_too_small_are_errors() {
    let Some(clip) = clip() else {
        return;
    };
    let small = DecodeOptions {
        max_bytes: 500_000,
        ..options(DamagePolicy::Refuse)
    };
    for (_, mut source) in decoders(small) {
        let rule = FrameRule::RandomInSegment {
            frames: 200,
            seed: 1,
        };
        let message = source.frames(&clip, rule).unwrap_err().to_string();
        assert!(
            message.contains("need 400 frames, the video has 270"),
            "{message}"
        );
        let message = source
            .frames(&clip, FrameRule::All)
            .unwrap_err()
            .to_string();
        assert!(message.contains("more than 500000 bytes"), "{message}");
        let rule = FrameRule::MiddleOfSegment { frames: 2 };
        assert_eq!(source.frames(&clip, rule).unwrap().indices, [67, 202]);
    }
}

#[test]
fn many_clips_come_in_order_with_their_errors() {
    let (Some(clip), Some(data)) = (clip(), shared("data")) else {
        return;
    };
    let rule = FrameRule::Uniform { frames: 2 };
    let job = |id: &str, path: PathBuf| DecodeJob {
        id: id.to_owned(),
        path,
        rule,
    };
    let jobs = vec![
        job("first", clip.clone()),
        job("absent", data.join("no-such-clip.mp4")),
        job("third", data.join("msrvtt-10/video7012.mp4")),
    ];
    let parallelism = DecodeParallelism {
        workers: 2,
        prefetch: 2,
    };
    let many = decode_many(
        jobs,
        Decoder::Ffmpeg,
        options(DamagePolicy::Refuse),
        parallelism,
        |_job, decoded| Ok(decoded.decodable_frames),
    );
    let many = match many {
        Ok(many) => many,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    let results: Vec<(String, Result<usize, DataError>)> =
        many.map(|item| (item.id, item.result)).collect();
    let ids: Vec<&str> = results.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["first", "absent", "third"]);
    assert_eq!(*results[0].1.as_ref().unwrap(), 270);
    let message = results[1].1.as_ref().unwrap_err().to_string();
    assert!(message.contains("no such file"), "{message}");
    assert_eq!(*results[2].1.as_ref().unwrap(), 336);
}

#[test]
fn clips_that_share_a_run_have_the_frames_that_they_have_alone() {
    let Some(data) = shared("data") else {
        return;
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in ["msrvtt-10", "msvd", "clips-misc"] {
        for entry in fs::read_dir(data.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|end| end == "mp4" || end == "avi")
            {
                files.push(path);
            }
        }
    }
    files.sort();
    let rule = FrameRule::Uniform { frames: 8 };
    let options = options(DamagePolicy::Refuse);
    for (decoder, mut source) in decoders(options) {
        let jobs: Vec<DecodeJob> = files
            .iter()
            .map(|path| DecodeJob {
                id: path.display().to_string(),
                path: path.clone(),
                rule,
            })
            .collect();
        let parallelism = DecodeParallelism {
            workers: 2,
            prefetch: 64,
        };
        let many = decode_many(jobs, decoder, options, parallelism, |_, decoded| {
            Ok(decoded)
        })
        .unwrap();
        for (item, file) in many.zip(&files) {
            let alone = source.frames(file, rule).unwrap();
            assert!(
                item.result.unwrap() == alone,
                "{decoder:?}: {}",
                file.display()
            );
        }
    }
}
