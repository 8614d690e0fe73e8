//! Features, segments, frames and visual tokens as Python writes them, good and hostile.

use std::path::{Path, PathBuf};

use meltr_data::{FrameCache, Segments, VideoFeatures, VisualTokens, inspect};
use serde_json::Value;

use crate::support::shared;

fn expected(formats: &Path) -> Value {
    let text = std::fs::read_to_string(formats.join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The files of the list whose names start and end so.
fn listed(expected: &Value, start: &str, end: &str) -> Vec<String> {
    let files: Vec<String> = expected
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| name.starts_with(start) && name.ends_with(end))
        .cloned()
        .collect();
    assert!(!files.is_empty(), "no file {start}*{end}");
    files
}

/// Checks that a file is refused with a message that names all that the list asks for.
fn assert_refused<T>(result: Result<T, meltr_data::DataError>, file: &Path, parts: &[&str]) {
    let Err(error) = result else {
        panic!("{} was accepted", file.display());
    };
    let message = error.to_string();
    let name = file.file_name().unwrap().to_string_lossy();
    assert!(message.contains(name.as_ref()), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn check_features(formats: &Path, file: &str, expected: &Value) -> VideoFeatures {
    let path = formats.join(file);
    let features = VideoFeatures::open(&path, 1024).unwrap();
    let content = expected[file]["content"].as_object().unwrap();
    assert_eq!(features.len(), content.len(), "{file}");
    for (id, array) in content {
        let found = features.array(id).unwrap();
        assert_eq!(
            found.sha256(),
            array["sha256_le_c"].as_str().unwrap(),
            "{file} {id}"
        );
        let rows = array["shape"][0].as_u64().unwrap() as usize;
        assert_eq!(features.n_rows(id).unwrap(), rows, "{file} {id}");
        let values = features.slice(id, 0..rows).unwrap();
        assert_eq!(values.dim(), (rows, 1024));
        let first = array["first"][0].as_f64().unwrap();
        assert!(
            (f64::from(values[[0, 0]]) - first).abs() < 1e-6,
            "{file} {id}"
        );
        let last = array["last"][1].as_f64().unwrap();
        assert!(
            (f64::from(values[[rows - 1, 1023]]) - last).abs() < 1e-6,
            "{file} {id}"
        );
    }
    features
}

#[test]
fn features_of_every_writer_are_read_bit_by_bit() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let expected = expected(&formats);
    let mut files = listed(&expected, "univl/youcookii_videos_features", "");
    files.push("univl/msrvtt_videos_features.pickle".to_owned());
    for file in files {
        check_features(&formats, &file, &expected);
    }
}

#[test]
fn converted_features_keep_their_bits_and_name_their_source() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let expected = expected(&formats);
    let file = "univl/youcookii_videos_features.f64.np1.p5.pickle";
    let features = check_features(&formats, file, &expected);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.safetensors");
    features.write_safetensors(&path).unwrap();
    let converted = VideoFeatures::open(&path, 1024).unwrap();
    assert_eq!(converted.len(), features.len());
    for id in features.ids() {
        assert_eq!(converted.array(id).unwrap(), features.array(id).unwrap());
    }
    let metadata = meltr_data::TensorFile::open(&path)
        .unwrap()
        .metadata()
        .clone();
    assert_eq!(
        metadata["source_sha256"],
        expected[file]["sha256_file"].as_str().unwrap()
    );
    assert_eq!(
        metadata["source"],
        "youcookii_videos_features.f64.np1.p5.pickle"
    );
}

#[test]
fn hostile_features_are_refused_by_id_and_place() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let second = "GLd3aX16zBg";
    let first = "xHr8X2Wpmno";
    let cases: [(&str, &[&str]); 14] = [
        ("nan", &[second, "row 1", "column 7"]),
        ("inf", &[first, "row 2", "column 1023"]),
        ("int64", &[second, "dtype int64"]),
        ("str", &[second, "dtype U"]),
        ("object", &[second, "dtype object"]),
        ("complex", &[second, "dtype complex64"]),
        ("one_dim", &[second, "1 dimension"]),
        ("dim512", &[second, "512, expected 1024"]),
        ("three_dim", &[second, "3 dimensions"]),
        ("zero_rows", &[second, "0 rows"]),
        ("list_not_array", &[first, "list"]),
        ("array_not_dict", &["expected a dict"]),
        ("int_keys", &["key 7"]),
        ("empty_dict", &["no entries"]),
    ];
    for (name, parts) in cases {
        let file = formats.join(format!("hostile/features/{name}.pickle"));
        assert_refused(VideoFeatures::open(&file, 1024), &file, parts);
    }
}

#[test]
fn nothing_in_good_features_is_executed() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    for name in [
        "nested_in_good_features.pickle",
        "object_array.npy",
        "zip_checkpoint.pt",
    ] {
        let file = formats.join("hostile/exec").join(name);
        assert!(VideoFeatures::open(&file, 1024).is_err(), "{name}");
        assert!(name.ends_with(".pt") || inspect(&file).is_err(), "{name}");
    }
    let marker = std::env::temp_dir().join("meltr_hostile_executed_visible");
    assert!(!marker.exists());
}

#[test]
fn segments_of_every_writer_are_read() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let expected = expected(&formats);
    for file in listed(&expected, "univl/youcookii_data", ".pickle") {
        let segments = Segments::open(&formats.join(&file)).unwrap();
        let content = expected[&file]["content"].as_object().unwrap();
        assert_eq!(segments.ids().len(), content.len(), "{file}");
        for (id, video) in content {
            let found = segments.of(id).unwrap();
            let items = |key: &str| video[key]["items"].as_array().unwrap();
            // Numpy scalars are listed as objects with their value.
            let number =
                |value: &Value| value.as_f64().or_else(|| value["value"].as_f64()).unwrap();
            assert_eq!(found.len(), items("start").len(), "{file} {id}");
            for (index, segment) in found.iter().enumerate() {
                assert_eq!(segment.start, number(&items("start")[index]));
                assert_eq!(segment.end, number(&items("end")[index]));
                assert_eq!(segment.text, items("text")[index].as_str().unwrap());
                let transcript = segment.transcript.as_deref().unwrap();
                assert_eq!(transcript, items("transcript")[index].as_str().unwrap());
            }
        }
    }
}

#[test]
fn hostile_segments_are_refused_by_video_and_number() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let id = "xHr8X2Wpmno";
    let cases: [(&str, &[&str]); 6] = [
        ("unequal_lengths", &[id, "'text' has 1 entries", "has 2"]),
        ("end_before_start", &[id, "segment 1"]),
        ("negative_start", &[id, "segment 0", "-2"]),
        ("nan_start", &[id, "segment 0", "nan"]),
        ("text_is_number", &[id, "segment 1", "'text'"]),
        ("missing_key", &[id, "'end'"]),
    ];
    for (name, parts) in cases {
        let file = formats.join(format!("hostile/features/data_{name}.pickle"));
        assert_refused(Segments::open(&file), &file, parts);
    }
    let file = formats.join("hostile/features/data_segment_after_features.pickle");
    let segments = Segments::open(&file).unwrap();
    assert_eq!(segments.rows(id, 0, 3, 1.0).unwrap(), 1..3);
    assert_refused(
        segments.rows(id, 1, 3, 1.0),
        &file,
        &[id, "segment 1", "900", "3 rows"],
    );
}

fn msrvtt(formats: &Path, name: &str) -> PathBuf {
    formats.join("violet/_data/msrvtt").join(name)
}

#[test]
fn frames_are_decoded_like_pil_does() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let expected = expected(&formats);
    let cache = FrameCache::open(&msrvtt(&formats, "img_msrvtt.pkl")).unwrap();
    let videos = expected["violet/_data/msrvtt/img_msrvtt.pkl"]["frames"]
        .as_object()
        .unwrap();
    assert_eq!(cache.ids().len(), videos.len());
    for (id, frames) in videos {
        let frames = frames.as_array().unwrap();
        let decoded = cache.frames(id).unwrap();
        assert_eq!(decoded.len(), frames.len());
        for (image, frame) in decoded.iter().zip(frames) {
            let (height, width, _) = image.dim();
            assert_eq!(width as u64, frame["width"].as_u64().unwrap());
            assert_eq!(height as u64, frame["height"].as_u64().unwrap());
            for channel in 0..3 {
                let values = image.index_axis(ndarray::Axis(2), channel);
                let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
                let mean = sum / values.len() as f64;
                let reference = frame["mean_rgb"][channel].as_f64().unwrap();
                // Decoders differ in how they enlarge the color planes.
                assert!((mean - reference).abs() < 1.0, "{id}: {mean} {reference}");
                let corner = f64::from(image[[0, 0, channel]]);
                let reference = frame["corner_rgb"][channel].as_f64().unwrap();
                assert!(
                    (corner - reference).abs() <= 6.0,
                    "{id}: {corner} {reference}"
                );
            }
        }
    }
}

#[test]
fn the_table_of_frames_holds_the_same_images_as_the_pickle() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let pickle = FrameCache::open(&msrvtt(&formats, "img_msrvtt.pkl")).unwrap();
    let table = FrameCache::open(&msrvtt(&formats, "img_msrvtt.tsv")).unwrap();
    assert!(!table.ids().is_empty());
    for id in table.ids() {
        assert_eq!(table.jpegs(id).unwrap(), pickle.jpegs(id).unwrap(), "{id}");
    }
}

#[test]
fn hostile_frames_are_refused_by_video_and_number() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let cases: [(&str, &[&str]); 5] = [
        ("bad_base64", &["video1", "frame 1", "base64"]),
        ("truncated_jpeg", &["video1", "frame 0", "JPEG"]),
        ("not_an_image", &["video1", "frame 0"]),
        ("no_frames", &["video1"]),
        ("jpeg_65535x65535", &["video1", "frame 0", "65535"]),
    ];
    for (name, parts) in cases {
        let file = formats.join(format!("hostile/violet/{name}.pkl"));
        let frames = FrameCache::open(&file).and_then(|cache| cache.frames("video1"));
        assert_refused(frames, &file, parts);
    }
    // Byte strings instead of texts are what Python 2 writes.
    let file = formats.join("hostile/violet/frame_is_bytes.pkl");
    assert_eq!(
        FrameCache::open(&file)
            .unwrap()
            .frames("video1")
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn visual_tokens_are_read_and_belong_to_their_images() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let expected = expected(&formats);
    let file = "violet/_data/msrvtt/msrvtt_vq.pkl";
    let tokens = VisualTokens::open(&formats.join(file)).unwrap();
    for (id, array) in expected[file]["content"].as_object().unwrap() {
        let values = tokens.tokens(id).unwrap();
        assert_eq!(
            values.sum() as f64,
            array["sum_f64"].as_f64().unwrap(),
            "{id}"
        );
        assert_eq!(
            values[[0, 0, 0]] as f64,
            array["first"][0].as_f64().unwrap()
        );
        assert_eq!(values.dim().0 as u64, array["shape"][0].as_u64().unwrap());
    }
    let images = FrameCache::open(&msrvtt(&formats, "img_msrvtt.pkl")).unwrap();
    tokens.check_frames(&images).unwrap();
}

#[test]
fn hostile_visual_tokens_are_refused() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    for (name, part) in [
        ("vq_out_of_range", "8192"),
        ("vq_negative", "-1"),
        ("vq_float", "dtype float32"),
        ("vq_wrong_grid", "(2, 8, 7)"),
    ] {
        let file = formats.join(format!("hostile/violet/{name}.pkl"));
        assert_refused(VisualTokens::open(&file), &file, &["video7010", part]);
    }
    let file = formats.join("hostile/violet/vq_other_frame_count.pkl");
    let tokens = VisualTokens::open(&file).unwrap();
    let images = FrameCache::open(&msrvtt(&formats, "img_msrvtt.pkl")).unwrap();
    let parts = ["video7010", "3 frames, images have 5"];
    assert_refused(tokens.check_frames(&images), &file, &parts);
}

/// The content of a listed file below a key, flattened to what `inspect` lists.
fn assert_listed(found: &Value, expected: &Value, key: &mut Vec<String>, file: &str) {
    if let Some(sha256) = expected.get("sha256_le_c") {
        let entries = found["entries"].as_array().unwrap();
        let entry = entries
            .iter()
            .find(|entry| entry["key"] == serde_json::json!(key))
            .unwrap_or_else(|| panic!("{file}: {key:?} is not listed"));
        assert_eq!(&entry["sha256"], sha256, "{file} {key:?}");
        assert_eq!(entry["shape"], expected["shape"], "{file} {key:?}");
        // Complex numbers have no sum here.
        if let Some(sum) = entry["sum"].as_f64() {
            let reference = expected["sum_f64"].as_f64().unwrap();
            let scale = reference.abs().max(1.0);
            assert!(
                (sum - reference).abs() <= 1e-9 * scale,
                "{file} {key:?}: {sum} {reference}"
            );
        } else if let Some(sum) = entry["sum"].as_str() {
            assert_eq!(expected["sum_f64"], sum, "{file} {key:?}");
        }
        return;
    }
    let Some(members) = expected.as_object() else {
        return;
    };
    for (name, member) in members {
        key.push(name.clone());
        assert_listed(found, member, key, file);
        key.pop();
    }
}

#[test]
fn inspect_lists_every_array_of_every_visible_file() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let expected = expected(&formats);
    for (file, entry) in expected.as_object().unwrap() {
        let is_hdf5 = file.ends_with(".csd");
        if file.starts_with('_') || (is_hdf5 && !cfg!(feature = "hdf5")) {
            continue;
        }
        let inspection = match inspect(&formats.join(file)) {
            Ok(inspection) => inspection,
            // Written by a newer version of the library than the one that is installed may be.
            Err(error) if file == "mosi/latest_libver.csd" => {
                assert!(error.to_string().contains("version number"), "{error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(inspection.complete, "{file}");
        assert_eq!(
            inspection.bytes,
            entry["bytes"].as_u64().unwrap_or(inspection.bytes)
        );
        let is_nested_elsewhere = is_hdf5 || file.starts_with("checkpoints/");
        if !is_nested_elsewhere {
            let found = serde_json::to_value(&inspection).unwrap();
            assert_listed(&found, &entry["content"], &mut Vec::new(), file);
        }
    }
}
