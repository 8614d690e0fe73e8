//! BLEU, ROUGE-L, CIDEr and the tokenizer against the shared fixture from pycocoevalcap.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use meltr_tasks::metric::{
    CaptionItem, CaptionMetrics, PtbTokenizer, Tokenization, score_captions,
};
use serde::Deserialize;
use serde_json::Value;

use crate::support::{Ordered, assert_near, json, shared};

const TOLERANCE: f64 = 1e-9;

const MODES: [(&str, Tokenization); 2] = [
    ("raw", Tokenization::Whitespace),
    ("ptb", Tokenization::Ptb),
];

#[derive(Debug, Deserialize)]
struct Texts {
    refs: Vec<String>,
    hyp: String,
}

/// Scores of one mode by pycocoevalcap's names; other names and texts are not compared.
#[derive(Debug, Deserialize)]
struct Expected {
    corpus: BTreeMap<String, Value>,
    samples: BTreeMap<String, BTreeMap<String, Value>>,
}

fn items(path: &Path) -> Vec<CaptionItem> {
    let Ordered(pairs) = json::<Ordered<Texts>>(path);
    pairs
        .into_iter()
        .map(|(id, texts)| CaptionItem {
            id,
            hypothesis: texts.hyp,
            references: texts.refs,
        })
        .collect()
}

/// The names of the sets of the fixture that have a file with this ending.
fn sets(folder: &Path, ending: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|file| file.strip_suffix(ending).map(str::to_owned))
        .filter(|name| folder.join(format!("{name}.json")).exists())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no set has a file `{ending}`");
    names
}

fn compare(found: &CaptionMetrics, expected: &BTreeMap<String, Value>, at: &str) {
    for (name, value) in found.coco_named("METEOR") {
        let expected = expected[name].as_f64().unwrap();
        assert_near(value, expected, TOLERANCE, &format!("{at} {name}"));
    }
}

#[test]
fn scores_of_every_corpus_and_every_item_are_those_of_pycocoevalcap() {
    let Some(folder) = shared("fixtures/caption_metrics") else {
        return;
    };
    for set in sets(&folder, ".expected.json") {
        let items = items(&folder.join(format!("{set}.json")));
        let expected: BTreeMap<String, Expected> =
            json(&folder.join(format!("{set}.expected.json")));
        for (mode, tokenization) in MODES {
            let expected = &expected[mode];
            assert_eq!(expected.samples.len(), items.len());
            let scores = score_captions(&items, tokenization).unwrap();
            compare(&scores.corpus, &expected.corpus, &format!("{set} {mode}"));
            for (item, metrics) in items.iter().zip(&scores.items) {
                let at = format!("{set} {mode} {}", item.id);
                compare(metrics, &expected.samples[&item.id], &at);
            }
        }
    }
}

#[test]
fn an_item_alone_is_a_corpus_of_its_own() {
    let Some(folder) = shared("fixtures/caption_metrics") else {
        return;
    };
    for set in sets(&folder, ".alone.expected.json") {
        let expected: BTreeMap<String, BTreeMap<String, Value>> =
            json(&folder.join(format!("{set}.alone.expected.json")));
        for item in items(&folder.join(format!("{set}.json"))) {
            let id = item.id.clone();
            let scores = score_captions(&[item], Tokenization::Whitespace).unwrap();
            compare(&scores.corpus, &expected[&id], &format!("{set} {id}"));
        }
    }
}

#[test]
fn every_string_is_tokenized_as_by_pycocoevalcap() {
    let Some(folder) = shared("fixtures/caption_metrics") else {
        return;
    };
    let tokenizer = PtbTokenizer::new();
    for set in sets(&folder, ".ptb_tokens.json") {
        let texts = items(&folder.join(format!("{set}.json")));
        let tokens = items(&folder.join(format!("{set}.ptb_tokens.json")));
        assert_eq!(texts.len(), tokens.len());
        let hypotheses = |items: &[CaptionItem]| -> Vec<String> {
            items.iter().map(|item| item.hypothesis.clone()).collect()
        };
        let references = |items: &[CaptionItem]| -> Vec<String> {
            items
                .iter()
                .flat_map(|item| item.references.clone())
                .collect()
        };
        for (lines, expected) in [
            (hypotheses(&texts), hypotheses(&tokens)),
            (references(&texts), references(&tokens)),
        ] {
            let borrowed: Vec<&str> = lines.iter().map(String::as_str).collect();
            let found = tokenizer.tokenize_lines(&borrowed);
            assert_eq!(found.len(), expected.len());
            for ((line, found), expected) in lines.iter().zip(&found).zip(&expected) {
                assert_eq!(found, expected, "{set} {line:?}");
            }
        }
    }
}
