//! Agreement with the reference tokenizer on the texts of the project's shared fixture.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use meltr_data::WordPiece;
use serde_json::Value;

/// The folder `shared`: `MELTR_SHARED`, or beside the workspace.
fn shared() -> PathBuf {
    match env::var_os("MELTR_SHARED") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    }
}

#[test]
fn token_ids_equal_those_of_the_reference() {
    let fixture = shared().join("fixtures/tokenizer/expected.json");
    let vocab = shared().join("data/models/bert-base-uncased-vocab.txt");
    if !fixture.is_file() || !vocab.is_file() {
        eprintln!(
            "skipped: set MELTR_SHARED to the folder with fixtures/tokenizer and data/models"
        );
        return;
    }
    let word_piece = WordPiece::from_vocab_file(&vocab).unwrap();
    assert_eq!(word_piece.vocab_size(), 30_522);
    let expected: Value = serde_json::from_slice(&fs::read(&fixture).unwrap()).unwrap();
    let items = expected["items"].as_array().unwrap();
    assert!(!items.is_empty());
    for item in items {
        let text = item["text"].as_str().unwrap();
        // The fast tokenizer of the fixture is the library used here.
        let ids = item.get("fast_ids").unwrap_or(&item["ids"]);
        let ids: Vec<i64> = ids
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_i64().unwrap())
            .collect();
        assert_eq!(word_piece.encode(text), ids, "{text:?}");
    }
}
