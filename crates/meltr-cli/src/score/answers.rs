//! `meltr score answers`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use meltr_tasks::metric::{AnswerAccuracy, UnknownAnswers};
use serde_json::{Value, json};

use super::arguments::{AnswerScoreArguments, UnknownName};
use super::records::read;
use crate::error::CliError;
use crate::output;

/// The question's key before those of what it is about.
const ID_KEYS: [&str; 4] = ["question_id", "qid", "id", "image_id"];

const ANSWER_KEYS: [&str; 3] = ["answer", "prediction", "label"];

pub(super) fn run(arguments: &AnswerScoreArguments) -> Result<(), CliError> {
    let predictions = answers(&arguments.predictions)?;
    let truth = answers(&arguments.truth)?;
    let vocabulary = match &arguments.vocabulary {
        Some(path) => Some(vocabulary(path)?),
        None => None,
    };
    let (predictions, truth) = paired(
        (arguments.predictions.as_path(), predictions),
        (arguments.truth.as_path(), truth),
    )?;
    let truth: Vec<Option<String>> = truth
        .into_iter()
        .map(|answer| match &vocabulary {
            Some(known) if !known.contains(&answer) => None,
            _ => Some(answer),
        })
        .collect();
    let (unknown, unknown_name) = match arguments.unknown {
        UnknownName::Wrong => (UnknownAnswers::Wrong, "wrong"),
        UnknownName::LeftOut => (UnknownAnswers::LeftOut, "left-out"),
    };
    let counted = AnswerAccuracy::new(&predictions, &truth, unknown)
        .map_err(|error| CliError::Input(format!("`{}`: {error}", arguments.truth.display())))?;
    if arguments.json {
        return output::json(&json!({
            "accuracy": counted.accuracy(),
            "n_right": counted.n_right,
            "n_counted": counted.n_counted,
            "n_items": truth.len(),
            "n_unknown": counted.n_unknown,
            "unknown": unknown_name,
        }));
    }
    output::line(&format!("accuracy: {:.4}", counted.accuracy()));
    output::line(&format!(
        "{} of {} right",
        counted.n_right, counted.n_counted
    ));
    if vocabulary.is_some() {
        output::line(&format!(
            "{} answers are not in the vocabulary and count as {unknown_name}",
            counted.n_unknown
        ));
    }
    Ok(())
}

/// The answers of a file by id, in its order.
fn answers(path: &Path) -> Result<Vec<(String, String)>, CliError> {
    let mut seen = HashSet::new();
    read(path, &ID_KEYS)?
        .into_iter()
        .map(|record| {
            let shown = record.shown(path);
            if !seen.insert(record.id.clone()) {
                return Err(CliError::Input(format!(
                    "{shown} is there twice; keep one of the two"
                )));
            }
            let answer = match &record.value {
                Value::Object(members) => ANSWER_KEYS.iter().find_map(|key| members.get(*key)),
                value => Some(value),
            };
            match answer {
                Some(Value::String(answer)) => Ok((record.id, answer.clone())),
                Some(Value::Number(answer)) => Ok((record.id, answer.to_string())),
                _ => Err(CliError::Input(format!(
                    "{shown} has no answer that is a text or a number; give it the key `answer`"
                ))),
            }
        })
        .collect()
}

/// A file and its answers by id.
type Answers<'a> = (&'a Path, Vec<(String, String)>);

/// Predictions and right answers of the same questions, in the order of the latter.
fn paired(
    (predicted_in, predictions): Answers<'_>,
    (right_in, truth): Answers<'_>,
) -> Result<(Vec<String>, Vec<String>), CliError> {
    let mut by_id: HashMap<String, String> = predictions.into_iter().collect();
    let (mut predicted, mut right) = (Vec::new(), Vec::new());
    for (id, answer) in truth {
        let Some(prediction) = by_id.remove(&id) else {
            return Err(CliError::Input(format!(
                "`{}` has no answer to item `{id}` of `{}`",
                predicted_in.display(),
                right_in.display()
            )));
        };
        predicted.push(prediction);
        right.push(answer);
    }
    match by_id.keys().min() {
        Some(id) => Err(CliError::Input(format!(
            "`{}` answers {} items that `{}` does not have, `{id}` among them; check that both are \
             of the same split",
            predicted_in.display(),
            by_id.len(),
            right_in.display()
        ))),
        None => Ok((predicted, right)),
    }
}

fn vocabulary(path: &Path) -> Result<HashSet<String>, CliError> {
    let text = fs::read_to_string(path).map_err(|error| {
        CliError::Input(format!(
            "--vocabulary `{}` cannot be read: {error}; give a text file with one answer a line",
            path.display()
        ))
    })?;
    Ok(text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(id, answer)| ((*id).to_owned(), (*answer).to_owned()))
            .collect()
    }

    #[test]
    fn answers_are_paired_by_id() {
        let (predicted, right) = paired(
            (Path::new("p"), list(&[("2", "b"), ("1", "a")])),
            (Path::new("t"), list(&[("1", "x"), ("2", "y")])),
        )
        .unwrap();
        assert_eq!(
            (predicted, right),
            (
                vec!["a".to_owned(), "b".to_owned()],
                vec!["x".to_owned(), "y".to_owned()],
            )
        );
    }

    #[test]
    fn ids_of_one_side_alone_are_refused() {
        let error = |predictions: &[(&str, &str)], truth: &[(&str, &str)]| {
            paired(
                (Path::new("p"), list(predictions)),
                (Path::new("t"), list(truth)),
            )
            .unwrap_err()
            .to_string()
        };
        assert!(error(&[], &[("1", "a")]).contains("`p` has no answer to item `1` of `t`"));
        assert!(error(&[("9", "a"), ("1", "a")], &[("1", "a")]).contains("`9` among them"));
    }

    #[test]
    fn texts_and_numbers_are_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        fs::write(
            &path,
            "{\"id\": 1, \"video_id\": 4, \"answer\": \"dog\"}\n{\"id\": 2, \"answer\": 3}\n",
        )
        .unwrap();
        assert_eq!(answers(&path).unwrap(), list(&[("1", "dog"), ("2", "3")]));
        fs::write(&path, "{\"1\": \"dog\", \"1\": \"cat\"}").unwrap();
        let error = answers(&path).unwrap_err().to_string();
        assert!(error.contains("item `1` is there twice"), "{error}");
        fs::write(&path, "{\"1\": null}").unwrap();
        assert!(answers(&path).is_err());
    }
}
