//! Checkpoints as PyTorch writes them, zip and legacy, and hostile ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use meltr_data::{Checkpoint, CheckpointItem, CheckpointValue, HostArray};
use serde_json::Value as Json;

use crate::support::shared;

fn formats() -> Option<PathBuf> {
    shared("fixtures/formats")
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The checkpoints of `torch.save` with their expected content.
fn checkpoints(formats: &Path) -> Vec<(String, Json)> {
    let expected = json(&formats.join("expected.json"));
    let entries = expected.as_object().unwrap().iter();
    entries
        .filter(|(name, _)| name.starts_with("checkpoints/") && !name.ends_with(".safetensors"))
        .map(|(name, entry)| (name.clone(), entry["content"].clone()))
        .collect()
}

/// The tensors of an expected content by their dotted path.
fn collect_tensors(content: &Json, path: &str, tensors: &mut BTreeMap<String, Json>) {
    let below = |part: &str| {
        if path.is_empty() {
            part.to_owned()
        } else {
            format!("{path}.{part}")
        }
    };
    match content {
        Json::Object(object) if object.contains_key("torch_dtype") => {
            tensors.insert(path.to_owned(), content.clone());
        }
        Json::Object(object) => {
            for (key, value) in object {
                collect_tensors(value, &below(key), tensors);
            }
        }
        Json::Array(values) => {
            for (position, value) in values.iter().enumerate() {
                collect_tensors(value, &below(&position.to_string()), tensors);
            }
        }
        _ => {}
    }
}

/// Whether a number is the expected one up to the rounding of the JSON reader.
fn near(value: f64, expected: &Json) -> bool {
    let expected = expected.as_f64().unwrap();
    (value - expected).abs() <= 1e-14 * expected.abs()
}

fn compare_tensor(array: &HostArray, expected: &Json, at: &str) {
    assert_eq!(
        array.element().to_string(),
        expected["torch_dtype"].as_str().unwrap(),
        "{at}"
    );
    let shape: Vec<u64> = array.shape().iter().map(|&len| len as u64).collect();
    assert_eq!(serde_json::json!(shape), expected["shape"], "{at}");
    assert_eq!(
        array.sha256(),
        expected["sha256_le_c"].as_str().unwrap(),
        "{at}"
    );
    let values = array.to_f64_vec().unwrap();
    let sum: f64 = values.iter().sum();
    let expected_sum = expected["sum_f64"].as_f64().unwrap();
    assert!(
        (sum - expected_sum).abs() <= 1e-9 * expected_sum.abs().max(1.0),
        "{at}: {sum}"
    );
    for (position, first) in expected["first"].as_array().unwrap().iter().enumerate() {
        assert!(near(values[position], first), "{at}");
    }
}

#[test]
fn every_tensor_of_every_checkpoint_equals_the_one_of_torch() {
    let Some(formats) = formats() else { return };
    let files = checkpoints(&formats);
    assert!(files.len() >= 10);
    for (name, content) in files {
        let checkpoint = Checkpoint::open(&formats.join(&name)).unwrap();
        let mut expected = BTreeMap::new();
        collect_tensors(&content, "", &mut expected);
        let found: BTreeSet<&str> = checkpoint
            .tensors()
            .iter()
            .map(|(tensor, _)| tensor.as_str())
            .collect();
        let named: BTreeSet<&str> = expected.keys().map(String::as_str).collect();
        assert_eq!(found, named, "{name}");
        for (tensor, expected) in &expected {
            let array = checkpoint.read(tensor).unwrap();
            compare_tensor(&array, expected, &format!("{name}:{tensor}"));
            assert_eq!(checkpoint.tensor(tensor).unwrap().shape(), array.shape());
        }
    }
}

/// Compares a value with an expected one, which may leave out keys of dicts.
fn compare_value(item: CheckpointItem<'_>, expected: &Json, at: &str) {
    match (item.value(), expected) {
        (CheckpointValue::Tensor(_), Json::Object(object)) => {
            assert!(object.contains_key("torch_dtype"), "{at}");
        }
        (CheckpointValue::None, Json::Null) => {}
        (CheckpointValue::Bool(value), Json::Bool(expected)) => assert_eq!(value, *expected),
        (CheckpointValue::Int(value), Json::Number(expected)) => {
            assert_eq!(Some(value), expected.as_i64(), "{at}");
        }
        (CheckpointValue::Float(value), Json::Number(expected)) => {
            assert!(
                near(value, &Json::Number(expected.clone())),
                "{at}: {value}"
            );
        }
        (CheckpointValue::Text(value), Json::String(expected)) => assert_eq!(value, expected),
        (CheckpointValue::List(items) | CheckpointValue::Tuple(items), Json::Array(expected)) => {
            assert_eq!(items.len(), expected.len(), "{at}");
            for (position, (item, expected)) in items.into_iter().zip(expected).enumerate() {
                compare_value(item, expected, &format!("{at}.{position}"));
            }
        }
        (CheckpointValue::Dict(entries), Json::Object(expected)) => {
            for (key, expected) in expected {
                let mut values = entries.iter().filter(|(entry, _)| {
                    entry.text() == Some(key.as_str())
                        || entry.int().map(|int| int.to_string()) == Some(key.clone())
                });
                let value = values
                    .next()
                    .unwrap_or_else(|| panic!("{at} has no {key}"))
                    .1;
                compare_value(value, expected, &format!("{at}.{key}"));
            }
        }
        (CheckpointValue::Set(items), Json::String(expected)) => {
            let texts: BTreeSet<&str> = items.into_iter().filter_map(|item| item.text()).collect();
            let texts: Vec<&str> = texts.into_iter().collect();
            assert_eq!(&format!("set {{{}}}", texts.join(",")), expected, "{at}");
        }
        (_, expected) => panic!("{at} is a {}, expected {expected}", item.kind()),
    }
}

#[test]
fn the_other_values_equal_those_of_torch() {
    let Some(formats) = formats() else { return };
    for (name, content) in checkpoints(&formats) {
        let checkpoint = Checkpoint::open(&formats.join(&name)).unwrap();
        compare_value(checkpoint.root(), &content, &name);
    }
}

#[test]
fn tied_weights_are_reported_as_aliases() {
    let Some(formats) = formats() else { return };
    let shared_storage = &json(&formats.join("expected.json"))["_shared_storage"];
    for (name, groups) in shared_storage.as_object().unwrap() {
        let checkpoint = Checkpoint::open(&formats.join(name)).unwrap();
        assert_eq!(&serde_json::json!(checkpoint.aliases()), groups, "{name}");
    }
}

#[test]
fn a_top_level_key_shortens_the_names() {
    let Some(formats) = formats() else { return };
    let path = formats.join("checkpoints/zip_lightning.ckpt");
    let whole = Checkpoint::open(&path).unwrap();
    let name = "transformer.bert.embeddings.LayerNorm.gamma";
    let long = whole.read(&format!("state_dict.{name}")).unwrap();
    let error = Checkpoint::open(&path)
        .unwrap()
        .with_top_level_key("model")
        .unwrap_err();
    assert!(
        error.to_string().contains("has `epoch`, `global_step`"),
        "{error}"
    );
    let part = whole.with_top_level_key("state_dict").unwrap();
    assert_eq!(part.tensors().len(), 4);
    assert_eq!(part.read(name).unwrap(), long);
    assert!(
        part.root()
            .get(name)
            .is_some_and(|item| item.kind() == "Tensor")
    );
    let error = part.read("transformer.absent").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has no tensor `transformer.absent`"),
        "{error}"
    );

    let path = formats.join("checkpoints/legacy_nested_model.bin");
    let part = Checkpoint::open(&path)
        .unwrap()
        .with_top_level_key("model")
        .unwrap();
    assert_eq!(part.read("steps").unwrap().to_i64_vec().unwrap(), [5]);
}

#[test]
fn an_unknown_class_is_kept_by_its_name() {
    let Some(formats) = formats() else { return };
    let path = formats.join("checkpoints/zip_with_argparse_namespace.pt");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let arguments = checkpoint.root().get("args").unwrap();
    let CheckpointValue::Opaque { class, state, .. } = arguments.value() else {
        panic!("args is a {}", arguments.kind());
    };
    assert_eq!(class, "argparse.Namespace");
    assert_eq!(state.unwrap().get("lr").unwrap().float(), Some(0.1));
}

/// Opens a file and reads all of its tensors.
fn read_all(path: &Path) -> Result<Vec<HostArray>, String> {
    let checkpoint = Checkpoint::open(path).map_err(|error| error.to_string())?;
    let names = checkpoint.tensors().iter().map(|(name, _)| name);
    names
        .map(|name| checkpoint.read(name).map_err(|error| error.to_string()))
        .collect()
}

#[test]
fn hostile_files_are_refused_with_the_reason() {
    let Some(formats) = formats() else { return };
    let cases: [(&str, &[&str]); 19] = [
        ("torch/zero_bytes.pt", &["empty file"]),
        ("torch/text.pt", &["neither a zip archive", "`hello\\n`"]),
        ("torch/truncated_zip.pt", &["zip central directory"]),
        (
            "torch/truncated_legacy.bin",
            &["storage", "ends at byte 946"],
        ),
        (
            "torch/missing_storage.pt",
            &["tensor `w`", "data/0, which is missing"],
        ),
        ("torch/missing_data_pkl.pt", &["no member data.pkl"]),
        (
            "torch/storage_too_short.pt",
            &["tensor `w`", "24 bytes", "data/0 has 20"],
        ),
        (
            "torch/view_outside_storage.pt",
            &["tensor `w`", "stride [5, 1] reach beyond the 6"],
        ),
        (
            "torch/offset_outside_storage.pt",
            &["tensor `w`", "offset 2", "reach beyond the 6"],
        ),
        (
            "torch/negative_stride.pt",
            &["tensor `w`", "-1 in its stride"],
        ),
        (
            "torch/zero_stride_huge_view.pt",
            &["tensor `w`", "size [1048576, 1048576] expands 1"],
        ),
        (
            "torch/huge_numel.pt",
            &["`w`", "4000000000000 bytes", "data/0 has 4"],
        ),
        ("torch/path_traversal.pt", &["../../../evil"]),
        (
            "torch/unknown_storage.pt",
            &["tensor `w`", "ComplexDoubleStorage"],
        ),
        ("torch/bad_crc.pt", &["data/0", "CRC-32"]),
        ("exec/zip_checkpoint.pt", &["data.pkl", "posix.system"]),
        ("exec/legacy_checkpoint.bin", &["posix.system"]),
        (
            "bomb/deflate_checkpoint.pt",
            &["member archive/data/0", "inflates"],
        ),
        (
            "bomb/deflate_lies_about_size.pt",
            &["zip central directory", "data/0"],
        ),
    ];
    for (name, reasons) in cases {
        let message = read_all(&formats.join("hostile").join(name)).unwrap_err();
        assert!(message.contains(name), "{message}");
        for reason in reasons {
            assert!(message.contains(reason), "{message}");
        }
    }
    let expected = json(&formats.join("hostile/expected.json"));
    let marker = expected["marker_that_must_not_exist"].as_str().unwrap();
    assert!(!Path::new(marker).exists(), "{marker} was made");
}

#[test]
fn both_byte_orders_give_the_same_values() {
    let Some(formats) = formats() else { return };
    for name in ["handmade_ok.pt", "big_endian.pt"] {
        let checkpoint = Checkpoint::open(&formats.join("hostile/torch").join(name)).unwrap();
        let array = checkpoint.read("w").unwrap();
        assert_eq!(array.shape(), [2, 3], "{name}");
        assert_eq!(
            array.to_f64_vec().unwrap(),
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            "{name}"
        );
    }
}

#[test]
fn damaged_copies_are_read_or_refused_with_their_path() {
    let Some(formats) = formats() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.pt");
    for name in [
        "hostile/torch/handmade_ok.pt",
        "checkpoints/legacy_module_state.bin",
    ] {
        let original = fs::read(formats.join(name)).unwrap();
        for place in 0..original.len() {
            for value in [0x00, 0x7f, 0xff, original[place] ^ 1] {
                let mut bytes = original.clone();
                bytes[place] = value;
                fs::write(&path, &bytes).unwrap();
                if let Err(message) = read_all(&path) {
                    assert!(message.contains("damaged.pt"), "{message}");
                }
            }
            fs::write(&path, &original[..place]).unwrap();
            let message = read_all(&path).unwrap_err();
            assert!(message.contains("damaged.pt"), "{message}");
        }
    }
}

#[test]
fn other_files_are_named() {
    let Some(formats) = formats() else { return };
    let message = read_all(&formats.join("checkpoints/all.safetensors")).unwrap_err();
    assert!(
        message.contains("a safetensors file; open it with `TensorFile`"),
        "{message}"
    );
    let message = read_all(&formats.join("arrays/v1_1d.npy")).unwrap_err();
    assert!(message.contains("read_npy"), "{message}");
    let message = read_all(&formats.join("arrays/plain.npz")).unwrap_err();
    assert!(
        message.contains("no member data.pkl, only features.npy"),
        "{message}"
    );
}
