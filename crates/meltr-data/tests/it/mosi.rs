//! CMU-MOSI as MMSA, MulT and CMU-MultimodalSDK write it, and its two utterance files.

use std::path::Path;

use meltr_data::{Modality, MosiSequences, MosiSplits, MosiUtterances, NonFinite, Split};
use serde_json::Value;

use crate::support::shared;

fn expected(formats: &Path) -> Value {
    let text = std::fs::read_to_string(formats.join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn shape(array: &Value) -> Vec<usize> {
    let shape = array["shape"].as_array().unwrap();
    shape
        .iter()
        .map(|len| len.as_u64().unwrap() as usize)
        .collect()
}

fn assert_sum(values: impl Iterator<Item = f32>, expected: &Value, name: &str) {
    let sum: f64 = values.map(f64::from).sum();
    // Double precision becomes single precision.
    let Some(reference) = expected["sum_f64"].as_f64() else {
        panic!("{name} has no sum");
    };
    assert!((sum - reference).abs() < 1e-4, "{name}: {sum} {reference}");
}

#[test]
fn sequences_of_mmsa_are_read_and_minus_infinity_is_replaced_only_on_demand() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let expected = expected(&formats);
    for name in ["mosi/aligned_50.pkl", "mosi/unaligned_50.pkl"] {
        let path = formats.join(name);
        let error = MosiSequences::open(&path, NonFinite::Refuse)
            .unwrap_err()
            .to_string();
        for part in [
            "train/audio",
            "utterance 0, step 0, column 0 is -inf",
            "NonFinite::Zero",
        ] {
            assert!(error.contains(part), "{error}");
        }
        let mosi = MosiSequences::open(&path, NonFinite::Zero).unwrap();
        assert_eq!(mosi.replaced().len(), 3, "{name}");
        assert!(
            mosi.replaced()
                .iter()
                .all(|one| one.array == "audio" && one.count == 1)
        );
        for split in Split::ALL {
            let content = &expected[name]["content"][split.name()];
            let part = mosi.part(split);
            assert_eq!(part.text.shape(), shape(&content["text"]));
            assert_eq!(part.audio.shape(), shape(&content["audio"]));
            assert_eq!(part.vision.shape(), shape(&content["vision"]));
            assert_sum(part.text.iter().copied(), &content["text"], "text");
            assert_sum(part.vision.iter().copied(), &content["vision"], "vision");
            let labels = &content["regression_labels"];
            assert_sum(part.labels.iter().copied(), labels, "labels");
            assert_eq!(part.audio[[0, 0, 0]], 0.0);
            let tokens = part.text_bert.as_ref().unwrap();
            let sum = content["text_bert"]["sum_f64"].as_f64().unwrap();
            assert_eq!(tokens.sum() as f64, sum);
            assert_eq!(part.ids.as_ref().unwrap().len(), part.len());
            assert_eq!(part.raw_text.as_ref().unwrap().len(), part.len());
            let is_aligned = name.contains("/aligned");
            assert_eq!(part.audio_lengths.is_none(), is_aligned);
            if let Some(lengths) = &part.vision_lengths {
                let listed = content["vision_lengths"].as_array().unwrap();
                let listed: Vec<usize> = listed
                    .iter()
                    .map(|len| len.as_u64().unwrap() as usize)
                    .collect();
                assert_eq!(lengths, &listed);
            }
        }
    }
}

#[test]
fn sequences_of_mult_are_read_from_both_protocols_of_python_2() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let expected = expected(&formats);
    for name in ["mosi/mosi_data.py27.p2.pkl", "mosi/mosi_data.py27.p0.pkl"] {
        let mosi = MosiSequences::open(&formats.join(name), NonFinite::Refuse).unwrap();
        assert!(mosi.replaced().is_empty());
        for split in Split::ALL {
            let content = &expected[name]["content"][split.name()];
            let part = mosi.part(split);
            assert_eq!(part.vision.shape(), shape(&content["vision"]));
            assert_sum(part.text.iter().copied(), &content["text"], "text");
            assert_sum(part.audio.iter().copied(), &content["audio"], "audio");
            assert_sum(part.vision.iter().copied(), &content["vision"], "vision");
            assert_sum(part.labels.iter().copied(), &content["labels"], "labels");
            assert!(part.raw_text.is_none() && part.text_bert.is_none());
        }
    }
}

#[test]
fn a_pickle_of_something_else_is_refused() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let path = formats.join("univl/msrvtt_videos_features.pickle");
    let error = MosiSequences::open(&path, NonFinite::Zero)
        .unwrap_err()
        .to_string();
    assert!(error.contains("has no split 'train'"), "{error}");
}

#[test]
fn the_utterance_files_agree_and_their_leak_is_told() {
    let Some(folder) = shared("data/cmu-mosi") else {
        return;
    };
    let (features, table) = (folder.join("mosi.safetensors"), folder.join("mosi.tsv"));
    let mosi = MosiUtterances::open(&features, &table).unwrap();
    assert_eq!(mosi.rows().len(), 2199);
    assert_eq!(mosi.features(Modality::Text).dim(), (2199, 100));
    assert_eq!(mosi.features(Modality::Audio).dim(), (2199, 73));
    assert_eq!(mosi.features(Modality::Video).dim(), (2199, 100));
    let sizes = Split::ALL.map(|split| mosi.indices(MosiSplits::Sdk, split).unwrap().len());
    assert_eq!(sizes, [1284, 229, 686]);
    let len = |split| mosi.indices(MosiSplits::Poria, split).unwrap().len();
    assert_eq!((len(Split::Train), len(Split::Test)), (1447, 752));
    let warning = MosiUtterances::leak_warning(MosiSplits::Sdk, &[Modality::Text]).unwrap();
    assert!(warning.contains("leak") && warning.contains("poria"));
}

#[cfg(feature = "hdf5")]
mod csd {
    use meltr_data::{Csd, DataError};

    use super::*;

    #[test]
    fn sequences_of_the_sdk_are_read_bit_by_bit() {
        let Some(formats) = shared("fixtures/formats") else {
            return;
        };
        let expected = expected(&formats);
        for name in [
            "CMU_MOSI_Opinion_Labels",
            "CMU_MOSI_toy_COVAREP",
            "latest_libver",
        ] {
            let file = format!("mosi/{name}.csd");
            let csd = match Csd::open(&formats.join(&file), NonFinite::Refuse) {
                Ok(csd) => csd,
                // Written by a newer version of the library than the one that is installed may be.
                Err(error) if name == "latest_libver" => {
                    assert!(error.to_string().contains("version number"), "{error}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            assert_eq!(csd.root(), expected[&file]["root"].as_str().unwrap());
            let content = expected[&file]["content"].as_object().unwrap();
            assert_eq!(csd.videos().len(), content.len());
            for (id, video) in content {
                let found = csd.video(id).unwrap();
                assert_eq!(found.features.sha256(), video["features"]["sha256_le_c"]);
                assert_eq!(found.intervals.sha256(), video["intervals"]["sha256_le_c"]);
            }
        }
        let labels = formats.join("mosi/CMU_MOSI_Opinion_Labels.csd");
        let labels = Csd::open(&labels, NonFinite::Refuse).unwrap();
        assert_eq!(labels.metadata()["dataset name"], "\"CMU-MOSI\"");
    }

    #[test]
    fn words_are_read() {
        let Some(formats) = shared("fixtures/formats") else {
            return;
        };
        let file = "mosi/CMU_MOSI_TimestampedWords.csd";
        let csd = Csd::open(&formats.join(file), NonFinite::Refuse).unwrap();
        for (id, words) in expected(&formats)[file]["words"].as_object().unwrap() {
            let found = csd.video(id).unwrap().words().unwrap();
            assert_eq!(serde_json::json!(found), *words);
        }
    }

    #[test]
    fn hostile_sequences_are_refused() {
        let Some(formats) = shared("fixtures/formats") else {
            return;
        };
        let cases: [(&str, &[&str]); 8] = [
            ("truncated", &["ends at byte 21160"]),
            ("text", &["HDF5 signature"]),
            ("zero_bytes", &["empty file"]),
            ("no_intervals", &["v1", "intervals"]),
            ("length_mismatch", &["v1", "3", "2"]),
            ("no_data_group", &["data"]),
            ("nan_label", &["v1", "row 1"]),
            ("two_roots", &["root", "a, b"]),
        ];
        for (name, parts) in cases {
            let file = formats.join(format!("hostile/csd/{name}.csd"));
            let error: DataError = Csd::open(&file, NonFinite::Refuse).unwrap_err();
            let message = error.to_string();
            for part in parts.iter().chain(&[name]) {
                assert!(message.contains(part), "`{part}` is not in: {message}");
            }
        }
        let file = formats.join("hostile/csd/nan_label.csd");
        assert_eq!(Csd::open(&file, NonFinite::Zero).unwrap().replaced(), 1);
    }
}
