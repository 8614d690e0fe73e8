//! The image encoders against reference outputs and against features of the same clips made by
//! other code.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use half::f16;
use image::imageops::{self, FilterType};
use image::{ImageFormat, RgbImage};
use meltr_core::StateDict;
use meltr_models::{ImageArchitecture, ImageEncoder, ImageWeightsError};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

const SIZE: usize = 224;
const N_FRAMES: usize = 8;
const N_FEATURES: usize = 1280;

/// A path in the folder `shared` (`MELTR_SHARED`, or beside the workspace), if it is there.
fn shared(path: &str) -> Option<PathBuf> {
    let folder = match env::var_os("MELTR_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let path = folder.join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is absent; set MELTR_SHARED", path.display());
    None
}

fn state_dict(path: &Path) -> StateDict {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut dict = StateDict::new();
    for (name, view) in file.tensors() {
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let values: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        dict.insert(name, TensorData::new(values, view.shape().to_vec()));
    }
    dict
}

fn weights(architecture: ImageArchitecture) -> Option<StateDict> {
    let path = shared(&format!("data/models/{architecture}.safetensors"))?;
    Some(state_dict(&path))
}

fn load(
    architecture: ImageArchitecture,
    dict: &StateDict,
) -> Result<ImageEncoder, ImageWeightsError> {
    ImageEncoder::load(architecture, dict, &Device::default())
}

fn host(x: Tensor<2>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn numbers(list: &Value) -> Vec<f64> {
    let list = list.as_array().unwrap();
    list.iter().map(|value| value.as_f64().unwrap()).collect()
}

/// Relative to the largest of the expected values, which spares those that are nearly zero.
fn assert_close(found: &[f64], expected: &[f64], what: &str) {
    let largest = expected.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= 1e-4 * largest,
            "{what}: {found}, expected {expected}"
        );
    }
}

#[test]
fn outputs_are_those_of_the_reference() {
    let Some(golden) = shared("data/models/golden.json") else {
        return;
    };
    let golden: Value = serde_json::from_slice(&fs::read(golden).unwrap()).unwrap();
    let pixels: Vec<f32> = (0..3 * SIZE * SIZE)
        .map(|k| (0.01 * k as f64).sin() as f32)
        .collect();
    let images = TensorData::new(pixels, [1usize, 3, SIZE, SIZE]);
    for architecture in ImageArchitecture::ALL {
        let Some(dict) = weights(architecture) else {
            return;
        };
        let encoder = load(architecture, &dict).unwrap();
        let images = Tensor::<4>::from_data(images.clone(), &Device::default());
        let features = encoder.features(images);
        let logits = host(encoder.logits(features.clone()));
        let features = host(features);
        assert_eq!((features.len(), logits.len()), (N_FEATURES, 1000));

        let expected = &golden[architecture.name()];
        let first = numbers(&expected["features_first8"]);
        assert_close(&features[..8], &first, architecture.name());
        let sum: f64 = features.iter().sum();
        let expected_sum = expected["features_sum"].as_f64().unwrap();
        assert_close(&[sum], &[expected_sum], architecture.name());
        let first = numbers(&expected["logits_first8"]);
        assert_close(&logits[..8], &first, architecture.name());
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        assert_eq!(best.map(|at| at as u64), expected["argmax"].as_u64());
    }
}

#[test]
fn an_image_has_the_same_features_alone_and_in_a_batch() {
    for architecture in ImageArchitecture::ALL {
        let Some(dict) = weights(architecture) else {
            return;
        };
        let encoder = load(architecture, &dict).unwrap();
        let pixels: Vec<f32> = (0..2 * 3 * 64 * 96)
            .map(|k| (0.01 * k as f64).sin() as f32)
            .collect();
        let images = TensorData::new(pixels, [2usize, 3, 64, 96]);
        let images = Tensor::<4>::from_data(images, &Device::default());
        let together = host(encoder.features(images.clone()));
        let alone = host(encoder.features(images.narrow(0, 1, 1)));
        assert_close(&alone, &together[N_FEATURES..], architecture.name());
    }
}

#[test]
fn every_entry_of_a_published_file_is_needed_and_none_may_be_added() {
    for architecture in ImageArchitecture::ALL {
        let Some(dict) = weights(architecture) else {
            return;
        };
        let names: Vec<&String> = dict.keys().collect();
        for name in [names[0], names[names.len() / 2], names[names.len() - 1]] {
            let mut renamed = dict.clone();
            let data = renamed.remove(name).unwrap();
            renamed.insert(format!("{name}.old"), data);
            let message = load(architecture, &renamed).unwrap_err().to_string();
            let missing = format!("first missing: `{name}`");
            let unexpected = format!("first unexpected: `{name}.old`");
            assert!(message.contains(&missing), "{message}");
            assert!(message.contains(&unexpected), "{message}");
        }
    }
}

#[test]
fn the_weights_of_one_network_are_not_those_of_the_other() {
    let Some(dict) = weights(ImageArchitecture::EfficientNetLite0) else {
        return;
    };
    let error = load(ImageArchitecture::MobileNetV2, &dict).unwrap_err();
    let ImageWeightsError::Names { report, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((report.missing.len(), report.unexpected.len()), (262, 247));
}

/// The strips of some clips, by code.
fn strips(path: &Path, codes: &[&str]) -> HashMap<String, RgbImage> {
    let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
    let mut strips = HashMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let Some(code) = name.strip_suffix(".webp") else {
            continue;
        };
        if codes.contains(&code) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let strip = image::load_from_memory_with_format(&bytes, ImageFormat::WebP).unwrap();
            strips.insert(code.to_owned(), strip.to_rgb8());
        }
    }
    strips
}

/// `[8, 3, 224, 224]` pixels in `[0, 255]` from 8 frames of 64 x 64 side by side.
fn frames(strip: &RgbImage) -> Tensor<4> {
    assert_eq!(strip.dimensions(), (512, 64));
    let mut pixels = vec![0f32; N_FRAMES * 3 * SIZE * SIZE];
    for (frame, pixels) in pixels.chunks_exact_mut(3 * SIZE * SIZE).enumerate() {
        let part = imageops::crop_imm(strip, 64 * frame as u32, 0, 64, 64).to_image();
        let part = imageops::resize(&part, SIZE as u32, SIZE as u32, FilterType::CatmullRom);
        for (at, pixel) in part.pixels().enumerate() {
            for (channel, value) in pixel.0.into_iter().enumerate() {
                pixels[channel * SIZE * SIZE + at] = f32::from(value);
            }
        }
    }
    let data = TensorData::new(pixels, [N_FRAMES, 3, SIZE, SIZE]);
    Tensor::from_data(data, &Device::default())
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn mean_frame(clip: &[f64]) -> Vec<f64> {
    (0..N_FEATURES)
        .map(|at| {
            let column = clip.iter().skip(at).step_by(N_FEATURES);
            column.sum::<f64>() / N_FRAMES as f64
        })
        .collect()
}

/// The features in the shared folder were made from the original 256 x 256 animations, not from
/// the strips as the embedded ones are:
///
/// 1. the package's `assets/<code>.webp` of `n` frames, fully rendered;
/// 2. frames `⌊(i + 1/2) n / 8⌋` for `i` in `0..8`;
/// 3. put on white;
/// 4. the whole frame resized to 224 x 224 by bicubic interpolation as Pillow does it (the filter
///    widened when shrinking, `a = -1/2`, results rounded to 8 bits);
/// 5. normalized, through the network up to the pooled vector, rounded to half precision.
///
/// That was checked outside of this test on three animations: relative difference 2e-4, which is
/// the rounding of step 5. The strips are the same frames at a quarter of the side, compressed
/// with losses, so that only the content agrees: the cosine of a frame is 0.73 to 0.9 over 31
/// clips. Those below are 0.82 or more, and nearer to themselves than to any other clip by 0.1.
#[test]
fn features_of_the_small_strips_resemble_the_stored_ones() {
    let codes = ["1f300", "1f302", "1f409", "1f9e0"];
    let Some(folder) = shared("data/emoji-clips") else {
        return;
    };
    let Some(dict) = weights(ImageArchitecture::MobileNetV2) else {
        return;
    };
    let encoder = load(ImageArchitecture::MobileNetV2, &dict).unwrap();
    let table = fs::read_to_string(folder.join("emoji.tsv")).unwrap();
    let rows: Vec<&str> = table
        .lines()
        .skip(1)
        .filter_map(|line| line.split('\t').next())
        .collect();
    let bytes = fs::read(folder.join("features.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = file.tensor("mobilenet_v2").unwrap();
    assert_eq!(stored.dtype(), Dtype::F16);
    assert_eq!(stored.shape(), [rows.len(), N_FRAMES, N_FEATURES]);
    let stored: Vec<f64> = stored
        .data()
        .chunks_exact(2)
        .map(|bytes| f16::from_le_bytes([bytes[0], bytes[1]]).to_f64())
        .collect();
    let clips: Vec<&[f64]> = stored.chunks_exact(N_FRAMES * N_FEATURES).collect();
    let means: Vec<Vec<f64>> = clips.iter().map(|clip| mean_frame(clip)).collect();
    let strips = strips(&folder.join("strips64.tar"), &codes);

    for code in codes {
        let row = rows.iter().position(|&other| other == code).unwrap();
        let images = encoder.normalize(frames(&strips[code]));
        let features = host(encoder.features(images));
        let own = features.chunks_exact(N_FEATURES);
        for (own, stored) in own.zip(clips[row].chunks_exact(N_FEATURES)) {
            let similarity = cosine(own, stored);
            assert!(similarity > 0.78, "{code}: {similarity}");
        }
        let mean = mean_frame(&features);
        let nearest = (0..rows.len())
            .max_by(|&a, &b| cosine(&mean, &means[a]).total_cmp(&cosine(&mean, &means[b])));
        assert_eq!(nearest, Some(row), "{code}");
    }
}
