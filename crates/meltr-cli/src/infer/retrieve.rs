//! `meltr retrieve`: clips ranked for texts.

use meltr_data::{ManifestItem, OwnClips, PixelCollator, PixelSet, PixelTask, PixelText};
use ndarray::Array2;
use serde_json::{Value, json};

use super::arguments::RetrieveArguments;
use super::{best, clips, opened, wrong_run};
use crate::error::CliError;
use crate::evaluate::own_weights;
use crate::experiment::{Experiment, Prepared};
use crate::output;

pub(crate) fn run(arguments: &RetrieveArguments) -> Result<(), CliError> {
    let asked = &arguments.asked;
    if arguments.top == 0 {
        return Err(CliError::Input("--top is 0; give at least 1".to_owned()));
    }
    let items = clips::items(&arguments.clips)?;
    let (experiment, prepared) = opened(asked)?;
    let queries = &arguments.queries;
    let mut names: Vec<String> = items.iter().map(|item| item.id.clone()).collect();
    let indices: Vec<usize> = (0..items.len()).collect();
    let similarities = match prepared {
        Prepared::UniVlRetrieval(prepared) => {
            let Some(file) = &arguments.features else {
                return Err(CliError::Input(
                    "this run reads frame features; make them with `meltr data features` and pass \
                     --features FILE"
                        .to_owned(),
                ));
            };
            let (task, model) = (prepared.task, prepared.model);
            let width = task.set().feature_width();
            let videos = clips::videos(file, width, &items, &experiment)?;
            names = videos.iter().map(|video| video.name.clone()).collect();
            let (model, _) = own_weights(&task, model, &asked.run)?;
            task.similarities(&model, queries, &videos)?
        }
        Prepared::Violet(task, model) if task.set().task() == PixelTask::Retrieval => {
            let own = frames(arguments, &items, task.set(), task.collator(), &experiment)?;
            let (model, _) = own_weights(&*task, *model, &asked.run)?;
            task.similarities(&model, queries, &own, &indices)?
        }
        Prepared::AllInOne(task, model) if task.set().task() == PixelTask::Retrieval => {
            let own = frames(arguments, &items, task.set(), task.collator(), &experiment)?;
            let (model, _) = own_weights(&*task, *model, &asked.run)?;
            task.similarities(&model, queries, &own, &indices)?
        }
        _ => return Err(wrong_run(asked, &experiment, "one of retrieval")),
    };
    tell(arguments, &names, &similarities)
}

/// The frames of clips without a text of their own.
fn frames(
    arguments: &RetrieveArguments,
    items: &[ManifestItem],
    set: &dyn PixelSet,
    collator: &PixelCollator,
    experiment: &Experiment,
) -> Result<OwnClips, CliError> {
    if arguments.features.is_some() {
        return Err(CliError::Input(
            "this run reads raw frames, not features; name the videos and leave --features out"
                .to_owned(),
        ));
    }
    let texts = items
        .iter()
        .map(|_| PixelText::Caption(String::new()))
        .collect();
    clips::frames(items, texts, set, collator, experiment)
}

/// The rankings, `similarities` being `[queries, clips]`.
fn tell(
    arguments: &RetrieveArguments,
    names: &[String],
    similarities: &Array2<f64>,
) -> Result<(), CliError> {
    if let Some(((query, clip), value)) = similarities
        .indexed_iter()
        .find(|(_, similarity)| !similarity.is_finite())
    {
        return Err(CliError::Failed(format!(
            "the similarity of `{}` with `{}` is {value}; the weights of the run are not finite",
            arguments.queries[query], names[clip]
        )));
    }
    let rankings: Vec<(&String, Vec<(&String, f64)>)> = arguments
        .queries
        .iter()
        .zip(similarities.outer_iter())
        .map(|(query, row)| {
            let scores = row.to_vec();
            let ranked = best(&scores, arguments.top)
                .into_iter()
                .map(|clip| (&names[clip], scores[clip]))
                .collect();
            (query, ranked)
        })
        .collect();
    if arguments.asked.json {
        let queries: Vec<Value> = rankings
            .iter()
            .map(|(query, ranked)| {
                let clips: Vec<Value> = ranked
                    .iter()
                    .map(|(id, similarity)| json!({"id": id, "similarity": similarity}))
                    .collect();
                json!({"query": query, "clips": clips})
            })
            .collect();
        return output::json(&json!({
            "run": arguments.asked.run.display().to_string(),
            "n_clips": names.len(),
            "queries": queries,
        }));
    }
    for (query, ranked) in &rankings {
        output::line(&format!("{query} ({} clips)", names.len()));
        for (place, (id, similarity)) in ranked.iter().enumerate() {
            output::line(&format!("{:>4}  {similarity:>9.4}  {id}", place + 1));
        }
    }
    Ok(())
}
