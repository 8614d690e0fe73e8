//! `meltr sentiment`: the sentiment of utterances.

use std::path::Path;

use meltr_data::{Manifest, ManifestItem, OwnUtterance, SentimentSet, WordPiece};
use ndarray::Array2;
use serde_json::{Value, json};

use super::arguments::SentimentArguments;
use super::{clips, opened, wrong_run};
use crate::device;
use crate::error::CliError;
use crate::evaluate::own_weights;
use crate::experiment::{Prepared, bert};
use crate::output;

pub(crate) fn run(arguments: &SentimentArguments) -> Result<(), CliError> {
    let asked = &arguments.asked;
    let manifest = Manifest::open(&arguments.manifest)?;
    let (experiment, prepared) = opened(asked)?;
    let Prepared::UniVlSentiment(task, model) = prepared else {
        return Err(wrong_run(asked, &experiment, "one of sentiment"));
    };
    let utterances = utterances(arguments, manifest.items(), task.set())?;
    let set = SentimentSet::of_own(manifest.path(), utterances, task.set())?;
    let own = match (
        &experiment.model.text_weights,
        experiment.data.set.utterance_vocabulary(),
    ) {
        (Some(weights), Some(vocab)) => {
            let encoder = bert(weights, &device::parse(&asked.device)?)?;
            let tokenizer = WordPiece::from_vocab_file(vocab)?;
            task.on(set, Some((&encoder, &tokenizer)))?
        }
        _ => task.on(set, None)?,
    };
    let (model, _) = own_weights(&*task, *model, &asked.run)?;
    let all: Vec<usize> = (0..manifest.items().len()).collect();
    let predictions = own.predictions(&model, &all)?;
    let rows = || manifest.items().iter().zip(&predictions);
    if let Some((item, value)) = rows().find(|(_, value)| !value.is_finite()) {
        return Err(CliError::Failed(format!(
            "the sentiment of `{}` is {value}; the weights of the run are not finite",
            item.id
        )));
    }
    if asked.json {
        let items: Vec<Value> = rows()
            .map(|(item, sentiment)| json!({"id": item.id, "sentiment": sentiment}))
            .collect();
        return output::json(&json!({
            "run": asked.run.display().to_string(),
            "items": items,
        }));
    }
    for (item, sentiment) in rows() {
        output::line(&format!("{sentiment:>6.2}  {}", item.id));
    }
    Ok(())
}

/// The items with what the run reads of each.
fn utterances(
    arguments: &SentimentArguments,
    items: &[ManifestItem],
    trained: &SentimentSet,
) -> Result<Vec<OwnUtterance>, CliError> {
    let file = arguments.text_features.as_deref();
    let mut text = stream(file, "--text-features", trained.text_width(), items)?;
    let file = arguments.audio_features.as_deref();
    let mut audio = stream(file, "--audio-features", trained.audio_width(), items)?;
    let file = arguments.features.as_deref();
    let mut video = stream(file, "--features", trained.video_width(), items)?;
    items
        .iter()
        .map(|item| {
            let Some(words) = item.captions.first() else {
                return Err(CliError::Input(format!(
                    "item `{}` of `{}` has no `captions`; the first of them is what is said in it",
                    item.id,
                    arguments.manifest.display()
                )));
            };
            Ok(OwnUtterance {
                name: item.id.clone(),
                words: words.clone(),
                text: text.next().unwrap_or_default(),
                audio: audio.next().unwrap_or_default(),
                video: video.next().unwrap_or_default(),
            })
        })
        .collect()
}

/// The features of one source, item by item; nothing if the run does not read it.
fn stream(
    file: Option<&Path>,
    flag: &str,
    width: usize,
    items: &[ManifestItem],
) -> Result<std::vec::IntoIter<Array2<f32>>, CliError> {
    let rows = match (file, width) {
        (None, 0) => Vec::new(),
        (Some(file), 1..) => rows_of(file, width, items)?,
        (None, _) => {
            return Err(CliError::Input(format!(
                "the run reads {width} features of this source; pass {flag} FILE"
            )));
        }
        (Some(_), 0) => {
            return Err(CliError::Input(format!(
                "the run does not read these features; leave {flag} out"
            )));
        }
    };
    Ok(rows.into_iter())
}

fn rows_of(
    file: &Path,
    width: usize,
    items: &[ManifestItem],
) -> Result<Vec<Array2<f32>>, CliError> {
    let features = clips::opened(file, width)?;
    items
        .iter()
        .map(|item| clips::rows(&features, &item.id))
        .collect()
}
