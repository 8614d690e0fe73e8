//! `meltr answer`: answers to questions about clips.

use meltr_data::{ManifestItem, OwnClips, PixelCollator, PixelSet, PixelTask, PixelText};
use serde_json::{Value, json};

use super::arguments::AnswerArguments;
use super::{best, clips, opened, wrong_run};
use crate::error::CliError;
use crate::evaluate::own_weights;
use crate::experiment::{Experiment, Prepared};
use crate::output;

/// A question with the answers that the model chooses from, and how likely it finds each.
struct Answered {
    id: String,
    question: String,
    answers: Vec<String>,
    shares: Vec<f64>,
}

pub(crate) fn run(arguments: &AnswerArguments) -> Result<(), CliError> {
    let asked = &arguments.asked;
    if arguments.top == 0 {
        return Err(CliError::Input("--top is 0; give at least 1".to_owned()));
    }
    let items = clips::items(&arguments.clips)?;
    let (experiment, prepared) = opened(asked)?;
    let indices: Vec<usize> = (0..items.len()).collect();
    let (own, scores) = match prepared {
        Prepared::Violet(task, model) if task.set().task() != PixelTask::Retrieval => {
            let own = asked_clips(arguments, &items, task.set(), task.collator(), &experiment)?;
            let (model, _) = own_weights(&*task, *model, &asked.run)?;
            let scores = task.answer_scores(&model, &own, &indices)?;
            (own, scores)
        }
        Prepared::AllInOne(task, model) if task.set().task() != PixelTask::Retrieval => {
            let own = asked_clips(arguments, &items, task.set(), task.collator(), &experiment)?;
            let (model, _) = own_weights(&*task, *model, &asked.run)?;
            let scores = task.answer_scores(&model, &own, &indices)?;
            (own, scores)
        }
        _ => {
            return Err(wrong_run(
                asked,
                &experiment,
                "one of open-ended questions or multiple choice",
            ));
        }
    };
    let answered: Vec<Answered> = own
        .clips()
        .iter()
        .zip(&scores)
        .map(|(clip, scores)| {
            let (question, answers) = match &clip.text {
                PixelText::MultipleChoice {
                    question, options, ..
                } => (question.clone(), options.clone()),
                PixelText::OpenQuestion { question, .. } => {
                    (question.clone(), own.answers().to_vec())
                }
                PixelText::Caption(caption) => (caption.clone(), Vec::new()),
            };
            Answered {
                id: clip.id.clone(),
                question,
                answers,
                shares: shares(scores),
            }
        })
        .collect();
    tell(arguments, &answered)
}

/// The clips with their questions, as the task of the run has them.
fn asked_clips(
    arguments: &AnswerArguments,
    items: &[ManifestItem],
    set: &dyn PixelSet,
    collator: &PixelCollator,
    experiment: &Experiment,
) -> Result<OwnClips, CliError> {
    let is_choice = set.task() == PixelTask::MultipleChoice;
    if !is_choice && !arguments.options.is_empty() {
        return Err(CliError::Input(
            "this run chooses among the answers of its training, not among options; leave --option \
             out"
            .to_owned(),
        ));
    }
    let texts = items
        .iter()
        .map(|item| question_about(arguments, item, is_choice))
        .collect::<Result<Vec<PixelText>, CliError>>()?;
    clips::frames(items, texts, set, collator, experiment)
}

fn question_about(
    arguments: &AnswerArguments,
    item: &ManifestItem,
    is_choice: bool,
) -> Result<PixelText, CliError> {
    let (question, options) = match &arguments.question {
        Some(question) => (Some(question), &arguments.options),
        None => (item.question.as_ref(), &item.options),
    };
    let Some(question) = question.cloned() else {
        return Err(CliError::Input(format!(
            "nothing is asked about `{}`; pass --question TEXT, or a manifest in which it has a \
             `question`",
            item.id
        )));
    };
    if !is_choice {
        return Ok(PixelText::OpenQuestion {
            question,
            answer: None,
        });
    }
    if options.len() < 2 {
        return Err(CliError::Input(format!(
            "the question about `{}` has {} options, and this run chooses among two or more; pass \
             --option TEXT for each, or a manifest in which it has `options`",
            item.id,
            options.len()
        )));
    }
    Ok(PixelText::MultipleChoice {
        question,
        options: options.clone(),
        // Which one is right is what is asked; no score depends on it.
        answer: 0,
    })
}

/// Scores as shares that sum to 1.
fn shares(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

fn tell(arguments: &AnswerArguments, answered: &[Answered]) -> Result<(), CliError> {
    let ranked = |answered: &Answered| -> Vec<(String, f64)> {
        best(&answered.shares, arguments.top)
            .into_iter()
            .filter_map(|place| {
                let answer = answered.answers.get(place)?.clone();
                Some((answer, answered.shares[place]))
            })
            .collect()
    };
    if arguments.asked.json {
        let items: Vec<Value> = answered
            .iter()
            .map(|item| {
                let answers: Vec<Value> = ranked(item)
                    .iter()
                    .map(|(answer, share)| json!({"answer": answer, "share": share}))
                    .collect();
                json!({"id": item.id, "question": item.question, "answers": answers})
            })
            .collect();
        return output::json(&json!({
            "run": arguments.asked.run.display().to_string(),
            "items": items,
        }));
    }
    for item in answered {
        output::line(&format!("{}: {}", item.id, item.question));
        for (answer, share) in ranked(item) {
            output::line(&format!("  {:>5.1} %  {answer}", 100.0 * share));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_one_and_keep_the_order() {
        let found = shares(&[1000.0, 1001.0, 990.0]);
        assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(found[1] > found[0] && found[0] > found[2]);
        assert!((found[1] / found[0] - 1f64.exp()).abs() < 1e-9);
    }
}
