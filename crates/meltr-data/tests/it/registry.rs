//! The registry of the repository: complete, and the same in the crate and at the top.

use std::fs;
use std::path::Path;

use meltr_data::{EntryKind, Registry};

#[test]
fn the_copy_in_the_crate_is_the_file_at_the_top_of_the_repository() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets.toml");
    // A packaged crate has no repository around it.
    let Ok(text) = fs::read_to_string(&top) else {
        return;
    };
    assert!(
        text == Registry::built_in_text(),
        "copy datasets.toml to crates/meltr-data/assets/datasets.toml"
    );
}

#[test]
fn every_set_and_checkpoint_of_the_paper_has_an_entry() {
    let registry = Registry::built_in().unwrap();
    for id in [
        "msrvtt-7k",
        "msrvtt-9k",
        "msrvtt-full",
        "youcook2",
        "msvd-qa",
        "tgif-action",
        "tgif-transition",
        "tgif-frame",
        "cmu-mosi",
    ] {
        let entry = registry.entry(id).unwrap_or_else(|| panic!("no `{id}`"));
        assert_eq!(entry.kind, EntryKind::Set, "{id}");
        assert!(!entry.splits.is_empty(), "{id} has no splits");
        assert!(!entry.steps.is_empty(), "{id} has no steps");
    }
    for id in [
        "univl",
        "violet",
        "video-swin",
        "dvae",
        "all-in-one",
        "bert-vocabulary",
        "mobilenet-v2",
        "efficientnet-lite0",
    ] {
        let entry = registry.entry(id).unwrap_or_else(|| panic!("no `{id}`"));
        assert_eq!(entry.kind, EntryKind::Weights, "{id}");
    }
}

#[test]
fn the_counts_of_the_paper_are_those_of_the_released_code() {
    let registry = Registry::built_in().unwrap();
    let split = |id: &str, split: &str| registry.entry(id).unwrap().splits[split];
    assert_eq!(split("msrvtt-7k", "train").videos, Some(7010));
    assert_eq!(split("msrvtt-9k", "train").texts, Some(180_000));
    assert_eq!(split("msrvtt-full", "test").videos, Some(2990));
    assert_eq!(split("youcook2", "train").clips, Some(9776));
    assert_eq!(split("tgif-action", "train").questions, Some(20_471));
    let mosi: u64 = registry
        .entry("cmu-mosi")
        .unwrap()
        .splits
        .values()
        .filter_map(|counts| counts.clips)
        .sum();
    assert_eq!(mosi, 2199);
}

#[test]
fn the_published_univl_comes_from_its_release() {
    let registry = Registry::built_in().unwrap();
    let entry = registry.entry("univl").unwrap();
    let url = entry.url(&entry.files[0]).unwrap();
    assert!(url.ends_with("/microsoft/UniVL/releases/download/v0/univl.pretrained.bin"));
}
