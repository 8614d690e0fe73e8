//! `meltr caption`: a sentence for each clip.

use serde_json::{Value, json};

use super::arguments::CaptionArguments;
use super::{clips, opened, wrong_run};
use crate::error::CliError;
use crate::evaluate::own_weights;
use crate::experiment::Prepared;
use crate::output;

pub(crate) fn run(arguments: &CaptionArguments) -> Result<(), CliError> {
    let asked = &arguments.asked;
    let items = clips::items(&arguments.clips)?;
    let (experiment, prepared) = opened(asked)?;
    let Prepared::UniVlCaptioning(prepared) = prepared else {
        return Err(wrong_run(asked, &experiment, "one of captioning"));
    };
    let (task, model) = (prepared.task, prepared.model);
    let width = task.set().feature_width();
    let videos = clips::videos(&arguments.features, width, &items, &experiment)?;
    let (model, _) = own_weights(&task, model, &asked.run)?;
    let captions = task.captions_of(&model, &videos)?;
    if asked.json {
        let captions: Vec<Value> = videos
            .iter()
            .zip(&captions)
            .map(|(video, caption)| json!({"id": video.name, "caption": caption}))
            .collect();
        return output::json(&json!({
            "run": asked.run.display().to_string(),
            "captions": captions,
        }));
    }
    for (video, caption) in videos.iter().zip(&captions) {
        output::line(&format!("{}: {caption}", video.name));
    }
    Ok(())
}
