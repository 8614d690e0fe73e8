//! `meltr score captions`.

use std::collections::HashMap;
use std::path::Path;

use meltr_tasks::metric::{
    CaptionCorpus, CaptionItem, CaptionMetrics, CaptionScores, Meteor, MeteorData, Scored,
    Tokenization,
};
use serde_json::{Map, Value, json};

use super::arguments::{CaptionScoreArguments, TokenizeName};
use super::records::{Record, read};
use super::{Metric, object, print};
use crate::error::CliError;
use crate::output;

/// COCO's key before the others: its annotations have an `id` too, which is not the image's.
const ID_KEYS: [&str; 3] = ["image_id", "video_id", "id"];

const HYPOTHESIS_KEYS: [&str; 3] = ["hyp", "hypothesis", "prediction"];

const REFERENCE_KEYS: [&str; 2] = ["refs", "references"];

/// Keys of a text that the file makes a hypothesis or a reference.
const TEXT_KEYS: [&str; 4] = ["caption", "captions", "sentence", "text"];

pub(super) fn run(arguments: &CaptionScoreArguments) -> Result<(), CliError> {
    let items = items(&arguments.hypotheses, arguments.references.as_deref())?;
    let (tokenization, tokenize) = match arguments.tokenize {
        TokenizeName::Whitespace => (Tokenization::Whitespace, "whitespace"),
        TokenizeName::Ptb => (Tokenization::Ptb, "ptb"),
    };
    let corpus = CaptionCorpus::new(&items, tokenization).map_err(|error| {
        let path = arguments
            .references
            .as_ref()
            .unwrap_or(&arguments.hypotheses);
        CliError::Input(format!("`{}`: {error}", path.display()))
    })?;
    let mut scores = corpus.scores();
    let mut meteor_name = "METEOR";
    match &arguments.meteor {
        Some(folder) => (scores, meteor_name) = with_meteor(&corpus, scores, folder)?,
        None => output::note("METEOR is left out; name the folder of its data by --meteor"),
    }
    let metrics = |of: &CaptionMetrics| -> Vec<Metric> {
        of.coco_named(meteor_name)
            .into_iter()
            .map(|(name, value)| (name, Some(value)))
            .collect()
    };
    if arguments.json {
        let mut document = json!({
            "tokenize": tokenize,
            "n_items": items.len(),
            "n_references": items.iter().map(|item| item.references.len()).sum::<usize>(),
            "corpus": object(&metrics(&scores.corpus)),
        });
        if arguments.per_item {
            let samples: Map<String, Value> = items
                .iter()
                .zip(&scores.items)
                .map(|(item, of)| (item.id.clone(), object(&metrics(of))))
                .collect();
            document["samples"] = Value::Object(samples);
        }
        return output::json(&document);
    }
    if arguments.per_item {
        let names: Vec<&str> = metrics(&scores.corpus)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        output::line(&format!("id\t{}", names.join("\t")));
        for (item, of) in items.iter().zip(&scores.items) {
            let values: Vec<String> = of
                .coco_named(meteor_name)
                .into_iter()
                .map(|(_, value)| format!("{value:.4}"))
                .collect();
            output::line(&format!("{}\t{}", item.id, values.join("\t")));
        }
        output::line("");
    }
    print(&metrics(&scores.corpus));
    Ok(())
}

/// The scores with METEOR, and the name that it has without some of its modules.
fn with_meteor(
    corpus: &CaptionCorpus,
    scores: CaptionScores,
    folder: &Path,
) -> Result<(CaptionScores, &'static str), CliError> {
    let data = MeteorData::read(folder).map_err(CliError::input)?;
    let meteor = Meteor::new(data);
    let segments = corpus.segments(|hypothesis, references| meteor.score(hypothesis, references));
    let scored = Scored {
        corpus: Meteor::corpus(&segments),
        items: segments.iter().map(|segment| segment.score).collect(),
    };
    Ok((scores.with_meteor(&scored), meteor.name()))
}

/// Captions and references from two files, or from one that has both.
pub(crate) fn items(
    hypotheses: &Path,
    references: Option<&Path>,
) -> Result<Vec<CaptionItem>, CliError> {
    let first = read(hypotheses, &ID_KEYS)?;
    let (said, given, files) = match references {
        Some(path) => (
            said(hypotheses, &first)?,
            given(path, &read(path, &ID_KEYS)?)?,
            format!("`{}` and `{}`", hypotheses.display(), path.display()),
        ),
        None => {
            for record in &first {
                let texts = Texts::of(hypotheses, record)?;
                if texts.hypothesis.is_none() || texts.references.is_none() {
                    return Err(CliError::Input(format!(
                        "{} has no `hyp` or no `refs`; add it, or name a second file with the \
                         references",
                        record.shown(hypotheses)
                    )));
                }
            }
            (
                said(hypotheses, &first)?,
                given(hypotheses, &first)?,
                format!("`{}`", hypotheses.display()),
            )
        }
    };
    CaptionItem::pair(said, given).map_err(|error| CliError::Input(format!("{files}: {error}")))
}

/// The hypothesis of every record.
fn said(path: &Path, records: &[Record]) -> Result<Vec<(String, String)>, CliError> {
    records
        .iter()
        .map(|record| {
            let texts = Texts::of(path, record)?;
            match texts.hypothesis.or(texts.either) {
                Some(mut captions) if captions.len() == 1 => {
                    Ok((record.id.clone(), captions.remove(0)))
                }
                Some(captions) => Err(CliError::Input(format!(
                    "{} has {} captions to be scored; give exactly one",
                    record.shown(path),
                    captions.len()
                ))),
                None => Err(CliError::Input(format!(
                    "{} has no caption to be scored; give it one of the keys `{}`",
                    record.shown(path),
                    HYPOTHESIS_KEYS.join("`, `")
                ))),
            }
        })
        .collect()
}

/// The references by id; single captions of the same id are put together.
fn given(path: &Path, records: &[Record]) -> Result<Vec<(String, Vec<String>)>, CliError> {
    let mut given: Vec<(String, Vec<String>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for record in records {
        let texts = Texts::of(path, record)?;
        let is_list = texts.references.is_some();
        let Some(references) = texts.references.or(texts.either) else {
            return Err(CliError::Input(format!(
                "{} has no references; give it one of the keys `{}`",
                record.shown(path),
                REFERENCE_KEYS.join("`, `")
            )));
        };
        let known = places.get(record.id.as_str()).copied();
        match known {
            Some(place) if record.may_repeat() && !is_list => given[place].1.extend(references),
            // A repetition that is refused when the files are paired.
            _ => {
                places.insert(&record.id, given.len());
                given.push((record.id.clone(), references));
            }
        }
    }
    Ok(given)
}

/// What a record says.
#[derive(Debug, Default)]
struct Texts {
    hypothesis: Option<Vec<String>>,
    references: Option<Vec<String>>,
    /// A hypothesis or references, as its file is.
    either: Option<Vec<String>>,
}

impl Texts {
    fn of(path: &Path, record: &Record) -> Result<Self, CliError> {
        let refused = |what: &str| {
            CliError::Input(format!(
                "{}: {what} is neither a text nor a list of texts",
                record.shown(path)
            ))
        };
        let Value::Object(members) = &record.value else {
            return Ok(Self {
                either: Some(texts(&record.value).ok_or_else(|| refused("the value"))?),
                ..Self::default()
            });
        };
        let member = |keys: &[&str]| -> Result<Option<Vec<String>>, CliError> {
            let found = keys
                .iter()
                .find_map(|key| members.get(*key).map(|value| (*key, value)));
            match found {
                Some((key, value)) => match texts(value) {
                    Some(texts) => Ok(Some(texts)),
                    None => Err(refused(&format!("`{key}`"))),
                },
                None => Ok(None),
            }
        };
        Ok(Self {
            hypothesis: member(&HYPOTHESIS_KEYS)?,
            references: member(&REFERENCE_KEYS)?,
            either: member(&TEXT_KEYS)?,
        })
    }
}

/// A text, or a list of texts or of objects with a `caption`.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(values) => values
            .iter()
            .map(|value| {
                let text = value.get("caption").unwrap_or(value);
                text.as_str().map(str::to_owned)
            })
            .collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn every_form_gives_the_same_items() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| written(folder.path(), name, text);
        let expected = [
            CaptionItem {
                id: "1".to_owned(),
                hypothesis: "a dog".to_owned(),
                references: vec!["one dog".to_owned(), "dogs".to_owned()],
            },
            CaptionItem {
                id: "2".to_owned(),
                hypothesis: "a cat".to_owned(),
                references: vec!["cats".to_owned()],
            },
        ];
        let both = write(
            "both.json",
            r#"{"1": {"refs": ["one dog", "dogs"], "hyp": "a dog"},
                "2": {"refs": ["cats"], "hyp": "a cat"}}"#,
        );
        assert_eq!(items(&both, None).unwrap(), expected);
        let by_id = write("by_id.json", r#"{"2": "a cat", "1": ["a dog"]}"#);
        let lists = write("lists.json", r#"{"1": ["one dog", "dogs"], "2": "cats"}"#);
        assert_eq!(items(&by_id, Some(&lists)).unwrap(), expected);
        let results = write(
            "results.json",
            r#"[{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "a cat"}]"#,
        );
        let annotations = write(
            "annotations.json",
            r#"{"images": [], "annotations": [
                {"id": 9, "image_id": 1, "caption": "one dog"},
                {"id": 8, "image_id": 2, "caption": "cats"},
                {"id": 7, "image_id": 1, "caption": "dogs"}]}"#,
        );
        assert_eq!(items(&results, Some(&annotations)).unwrap(), expected);
        let lines = write(
            "lines.jsonl",
            "{\"id\": \"1\", \"caption\": \"a dog\"}\n{\"id\": \"2\", \"caption\": \"a cat\"}\n",
        );
        let references = write(
            "references.jsonl",
            "{\"id\": \"1\", \"references\": [\"one dog\", \"dogs\"]}\n\
             {\"id\": \"2\", \"references\": [\"cats\"]}\n",
        );
        assert_eq!(items(&lines, Some(&references)).unwrap(), expected);
        let coco = write(
            "coco.json",
            r#"{"1": [{"caption": "one dog"}, {"caption": "dogs"}], "2": [{"caption": "cats"}]}"#,
        );
        assert_eq!(items(&results, Some(&coco)).unwrap(), expected);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_file_and_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |hypotheses: &str, references: Option<&str>, parts: &[&str]| {
            let first = written(folder.path(), "first.json", hypotheses);
            let second = references.map(|text| written(folder.path(), "second.json", text));
            let error = items(&first, second.as_deref()).unwrap_err();
            assert!(matches!(error, CliError::Input(_)), "{error}");
            for part in parts {
                assert!(error.to_string().contains(part), "no `{part}` in {error}");
            }
        };
        let references = r#"{"a": ["x"], "b": ["y"]}"#;
        refused(
            r#"{"a": "x"}"#,
            Some(references),
            &["second.json", "`b` has references but no hypothesis"],
        );
        refused(
            r#"{"a": "x", "b": "y", "c": "z"}"#,
            Some(references),
            &["`c` has a hypothesis but no references"],
        );
        refused(
            r#"{"a": "x", "b": "y", "a": "z"}"#,
            Some(references),
            &["`a` is there twice"],
        );
        refused(
            r#"{"a": "x"}"#,
            Some(r#"{"a": ["x"], "a": ["y"]}"#),
            &["`a` is there twice"],
        );
        refused(r#"{"a": {"hyp": "x"}}"#, None, &["item `a`", "`refs`"]);
        refused(
            r#"{"a": ["x", "y"]}"#,
            Some(references),
            &["first.json", "2 captions to be scored"],
        );
        refused(
            r#"{"a": 7}"#,
            Some(references),
            &["item `a`", "neither a text"],
        );
        refused(
            r#"{"a": {"hyp": 7, "refs": []}}"#,
            None,
            &["item `a`", "`hyp`"],
        );
        refused(
            "{\"id\": \"a\", \"caption\": \"x\"}\n{\"id\": \"b\"}",
            Some(references),
            &["line 2", "item `b`", "no caption"],
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = items(Path::new("nowhere.json"), None).unwrap_err();
        assert!(error.to_string().contains("nowhere.json"));
    }
}
