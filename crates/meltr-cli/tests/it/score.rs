//! `meltr score`: what is scored, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{meltr, text};

fn write(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn captions_of_one_file_are_scored() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(
        folder.path(),
        "both.json",
        r#"{"a": {"refs": ["a man cuts an onion"], "hyp": "a man cuts an onion"},
            "b": {"refs": ["a dog runs", "the dog is running"], "hyp": "a cat sleeps"}}"#,
    );
    let ended = meltr(["score", "captions", text(&file), "--json"]);
    ended.assert_status(0);
    let corpus = &ended.json()["corpus"];
    let bleu = corpus["Bleu_1"].as_f64().unwrap();
    assert!((bleu - 0.75).abs() < 1e-6, "{corpus}");
    assert!(corpus.get("METEOR").is_none());
}

#[test]
fn a_missing_caption_and_a_missing_reference_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let said = write(
        folder.path(),
        "said.json",
        r#"{"a": "a cat", "c": "a cow"}"#,
    );
    let given = write(
        folder.path(),
        "given.json",
        r#"{"a": ["a cat"], "b": ["a dog"], "c": ["a cow"]}"#,
    );
    let few = write(folder.path(), "few.json", r#"{"a": ["a cat"]}"#);
    meltr(["score", "captions", text(&said), text(&given)]).assert_refused(&[
        "item `b`",
        "no hypothesis",
        text(&given),
    ]);
    meltr(["score", "captions", text(&said), text(&few)])
        .assert_refused(&["item `c`", "no references"]);
}

#[test]
fn a_truncated_file_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "cut.json", r#"{"a": {"refs": ["a ca"#);
    meltr(["score", "captions", text(&file)]).assert_refused(&[text(&file), "line 1"]);
}

#[test]
fn a_folder_without_data_of_meteor_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(
        folder.path(),
        "both.json",
        r#"{"a": {"refs": ["a cat"], "hyp": "a cat"}}"#,
    );
    meltr([
        "score",
        "captions",
        text(&file),
        "--meteor",
        text(folder.path()),
    ])
    .assert_refused(&[text(folder.path()), "meteor-1.5.jar"]);
}
