//! METEOR against the shared fixture from pycocoevalcap, whose METEOR is `meteor-1.5.jar`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use meltr_tasks::metric::{
    CaptionCorpus, CaptionItem, Meteor, MeteorData, MeteorModule, MeteorSegment, Tokenization,
};
use serde::Deserialize;
use serde_json::Value;

use crate::support::{Ordered, assert_near, json, shared};

const TOLERANCE: f64 = 1e-9;

const SETS: [&str; 3] = ["msvd", "yc2", "edge"];

const MODES: [(&str, Tokenization); 2] = [
    ("raw", Tokenization::Whitespace),
    ("ptb", Tokenization::Ptb),
];

/// The fixture's names of the scores with the first, the first two, ... modules.
const NAMES: [&str; 4] = [
    "METEOR_exact",
    "METEOR_exact_stem",
    "METEOR_exact_stem_synonym",
    "METEOR",
];

#[derive(Debug, Deserialize)]
struct Texts {
    refs: Vec<String>,
    hyp: String,
}

#[derive(Debug, Deserialize)]
struct Expected {
    corpus: BTreeMap<String, Value>,
    samples: BTreeMap<String, BTreeMap<String, Value>>,
}

/// METEOR's data, from where the environment variable `MELTR_METEOR` points to, or from where
/// `cargo xtask setup meteor` puts them.
fn data() -> Option<MeteorData> {
    let path = std::env::var_os("MELTR_METEOR").map_or_else(
        || {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../target/assets/meteor/pycocoevalcap/meteor")
        },
        PathBuf::from,
    );
    if !path.exists() {
        println!(
            "skipped: METEOR's data are absent; `cargo xtask setup meteor` fetches them, or point \
             MELTR_METEOR at the folder `meteor` of pycocoevalcap 1.2"
        );
        return None;
    }
    Some(MeteorData::read(&path).unwrap_or_else(|error| panic!("{error}")))
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

fn assert_same_counts(found: &MeteorSegment, expected: &str, at: &str) {
    let expected: Vec<f64> = expected
        .split(' ')
        .map(|count| count.parse().unwrap())
        .collect();
    let found: Vec<f64> = found.stats.iter().map(|count| *count as f64).collect();
    assert_eq!(found, expected, "{at}");
}

#[test]
fn every_score_and_every_count_is_that_of_the_original() {
    let (Some(folder), Some(data)) = (shared("fixtures/caption_metrics"), data()) else {
        return;
    };
    let all = Meteor::new(data.clone());
    let available = MeteorModule::ALL
        .iter()
        .zip(all.modules())
        .take_while(|(module, found)| module == found)
        .count();
    for (n_modules, name) in (1..=available).zip(NAMES) {
        let modules = &MeteorModule::ALL[..n_modules];
        let meteor = Meteor::with_modules(data.clone(), modules).unwrap();
        for set in SETS {
            let items = items(&folder.join(format!("{set}.json")));
            let expected: BTreeMap<String, Expected> =
                json(&folder.join(format!("{set}.expected.json")));
            for (mode, tokenization) in MODES {
                let expected = &expected[mode];
                let corpus = CaptionCorpus::new(&items, tokenization).unwrap();
                let segments =
                    corpus.segments(|hypothesis, references| meteor.score(hypothesis, references));
                for (item, segment) in items.iter().zip(&segments) {
                    let at = format!("{set} {mode} {} {name}", item.id);
                    let expected = &expected.samples[&item.id];
                    let score = expected[name].as_f64().unwrap();
                    assert_near(segment.score, score, TOLERANCE, &at);
                    if name == "METEOR" {
                        let counts = expected["METEOR_stats"].as_str().unwrap();
                        assert_same_counts(segment, counts, &at);
                    }
                }
                let scored = Meteor::corpus(&segments);
                let score = expected.corpus[name].as_f64().unwrap();
                assert_near(scored, score, TOLERANCE, &format!("{set} {mode} {name}"));
            }
        }
    }
}
