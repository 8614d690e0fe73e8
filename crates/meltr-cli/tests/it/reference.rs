//! Parity with the golden directories, where they are at hand.

use std::path::PathBuf;

use crate::support::meltr;

const DIRECTORIES: [&str; 12] = [
    "loss_transformer_t2",
    "loss_transformer_t3",
    "loss_transformer_t8",
    "bert_adam",
    "univl",
    "univl_caption",
    "univl_hypergradient",
    "hypergradient_mlp",
    "violet_retrieval",
    "violet_qa_oe",
    "violet_qa_mc",
    "allinone",
];

fn fixtures() -> Option<PathBuf> {
    let shared = std::env::var_os("MELTR_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let fixtures = shared.join("fixtures");
    if fixtures.is_dir() {
        return Some(fixtures);
    }
    eprintln!("skipped: no golden directories; point MELTR_SHARED at a folder that has `fixtures`");
    None
}

#[test]
fn every_golden_directory_holds() {
    let Some(fixtures) = fixtures() else { return };
    for name in DIRECTORIES {
        let path = fixtures.join(name);
        let ended = meltr(["reference", path.to_str().unwrap(), "--json"]);
        ended.assert_status(0);
        let outcome = ended.json();
        assert_eq!(outcome["ok"], true, "{name}");
        assert!(outcome["tensors"].as_array().unwrap().len() > 10, "{name}");
    }
}

#[test]
fn a_wrong_number_and_a_missing_one_fail_the_check() {
    let Some(fixtures) = fixtures() else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = fixtures.join("loss_transformer_t2");
    for file in ["config.json", "weights.safetensors", "inputs.safetensors"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    // Numbers of another network: same names, other shapes and values.
    std::fs::copy(
        fixtures.join("loss_transformer_t3/expected.safetensors"),
        folder.path().join("expected.safetensors"),
    )
    .unwrap();
    let ended = meltr(["reference", folder.path().to_str().unwrap(), "--json"]);
    ended.assert_status(1);
    assert_eq!(ended.json()["ok"], false);
}

#[test]
fn a_folder_without_a_configuration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ended = meltr(["reference", folder.path().to_str().unwrap()]);
    ended.assert_status(2);
}
