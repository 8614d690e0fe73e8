//! `meltr weights`: listing and conversion.

use std::fs;
use std::path::{Path, PathBuf};

use meltr_data::{Checkpoint, TensorFile, TensorFileWriter, sha256_of_file};

use crate::support::{meltr, text};

/// A safetensors file of two tensors, as a wrapped module has them.
fn wrapped(folder: &Path) -> PathBuf {
    let path = folder.join("wrapped.safetensors");
    let mut writer = TensorFileWriter::new();
    writer.insert_f32("module.weight", &[2, 1], vec![0.5, -1.0]);
    writer.insert_i64("module.steps", &[], vec![7]);
    writer.insert_metadata("made_by", "hand");
    writer.write(&path).unwrap();
    path
}

#[test]
fn a_conversion_renames_and_says_where_the_weights_are_from() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (
        wrapped(folder.path()),
        folder.path().join("out.safetensors"),
    );
    let ended = meltr([
        "weights",
        "convert",
        text(&file),
        "--out",
        text(&out),
        "--strip-prefix=module.",
        "--json",
    ]);
    ended.assert_status(0);
    let document = ended.json();
    assert_eq!(document["tensors"], 2);
    assert_eq!(document["n_values"], 3);
    assert_eq!(document["sha256"], sha256_of_file(&out).unwrap());
    let source = sha256_of_file(&file).unwrap();
    assert_eq!(document["source_sha256"], source);
    let written = TensorFile::open(&out).unwrap();
    assert_eq!(written.f32("weight").unwrap()[[1, 0]], -1.0);
    assert_eq!(written.i64("steps").unwrap().len(), 1);
    assert_eq!(written.metadata()["source_sha256"], source);
    assert_eq!(written.metadata()["made_by"], "hand");
}

#[test]
fn an_existing_file_is_replaced_only_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (
        wrapped(folder.path()),
        folder.path().join("out.safetensors"),
    );
    fs::write(&out, "mine").unwrap();
    let arguments = ["weights", "convert", text(&file), "--out", text(&out)];
    meltr(arguments).assert_refused(&["out.safetensors", "--force"]);
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    let mut forced = arguments.to_vec();
    forced.push("--force");
    meltr(forced).assert_status(0);
    assert!(TensorFile::open(&out).is_ok());
}

#[test]
fn what_cannot_be_converted_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.pt");
    fs::write(&file, "<!DOCTYPE html>").unwrap();
    let out = folder.path().join("out.safetensors");
    meltr(["weights", "convert", text(&file), "--out", text(&out)])
        .assert_refused(&["page.pt", "an HTML page"]);
    let wrapped = wrapped(folder.path());
    for (flag, part) in [
        ("--key=model", "has no keys above its tensors"),
        ("--strip-prefix=x.", "no name begins with `x.`"),
    ] {
        meltr([
            "weights",
            "convert",
            text(&wrapped),
            "--out",
            text(&out),
            flag,
        ])
        .assert_refused(&["wrapped.safetensors", part]);
    }
    assert!(!out.exists());
}

#[test]
fn checkpoints_of_pytorch_keep_their_values() {
    let root = match std::env::var_os("MELTR_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let checkpoints = root.join("fixtures/formats/checkpoints");
    if !checkpoints.exists() {
        println!("skipped: the shared fixtures of checkpoints are absent");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, key) in [
        ("zip_ordereddict.pt", None),
        ("legacy_ordereddict.bin", None),
        ("zip_module_state.pt", None),
        ("legacy_nested_model.bin", Some("model")),
        ("zip_lightning.ckpt", Some("state_dict")),
    ] {
        let (file, out) = (checkpoints.join(name), folder.path().join(name));
        let mut arguments = vec!["weights", "convert", text(&file), "--out", text(&out)];
        let mut checkpoint = Checkpoint::open(&file).unwrap();
        if let Some(key) = key {
            arguments.extend(["--key", key]);
            checkpoint = checkpoint.with_top_level_key(key).unwrap();
        }
        meltr(arguments).assert_status(0);
        let written = TensorFile::open(&out).unwrap();
        assert_eq!(
            written.names().count(),
            checkpoint.tensors().len(),
            "{name}"
        );
        for (tensor, _) in checkpoint.tensors() {
            assert_eq!(
                written.host_array(tensor).unwrap().sha256(),
                checkpoint.read(tensor).unwrap().sha256(),
                "{name}: {tensor}"
            );
        }
        let listed = meltr(["weights", "inspect", text(&file), "--json"]);
        listed.assert_status(0);
    }
}
