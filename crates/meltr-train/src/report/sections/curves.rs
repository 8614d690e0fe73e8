//! Losses and metrics over the course of training, combiner beside combiner.

use crate::record::Record;
use crate::report::assemble::{Assembly, Band, Measure, RunData, text, train_series};
use crate::report::error::ReportError;
use crate::report::groups::configured;
use crate::report::metric::{leading_metric, metric_heading, metric_scale};
use crate::report::page::Block;
use crate::report::series::{Series, series_of};

/// The primary loss, and the leading metric on every split.
pub(super) fn learning_curves(assembly: &Assembly<'_>) -> Result<Vec<Block>, ReportError> {
    let mut measures = vec![Measure {
        title: match common_primary(assembly) {
            Some(primary) => format!("Primary loss {primary} of the training batches"),
            None => "Primary loss of the training batches".to_owned(),
        },
        y_label: "primary loss".to_owned(),
        band: Band::Present,
        value: Box::new(|run| match primary(run) {
            Some(primary) => loss_series(assembly, run, &primary),
            None => Series::new(),
        }),
    }];
    if let Some(metric) = evaluated_metric(assembly) {
        for split in assembly.evaluated_splits() {
            measures.push(Measure {
                title: format!("{} on the split {split}", metric_heading(metric)),
                y_label: metric_heading(metric),
                band: Band::Present,
                value: Box::new(move |run| metric_series(run, split, metric)),
            });
        }
    }
    let groups = assembly.compared("Learning curves", &measures)?;
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let mut blocks = vec![text(
        "Line: mean over the runs of a combiner that reached the iteration, as many as the legend \
         says; band: smallest to largest value of these runs. Long runs are thinned, and \
         neighboring iterations are then averaged like runs. Parts have the same axes.",
    )];
    blocks.extend(groups.into_iter().map(Block::Figures));
    Ok(blocks)
}

/// The task losses beside the primary one, and the combined loss.
pub(super) fn other_losses(assembly: &Assembly<'_>) -> Result<Vec<Block>, ReportError> {
    let primary = common_primary(assembly);
    let others = assembly
        .tasks
        .iter()
        .filter(|task| Some(*task) != primary.as_ref());
    let mut measures: Vec<Measure<'_>> = others
        .map(|task| Measure {
            title: format!("Loss {task}"),
            y_label: "task loss".to_owned(),
            band: Band::Absent,
            value: Box::new(move |run| loss_series(assembly, run, task)),
        })
        .collect();
    measures.push(Measure {
        title: "Combined loss".to_owned(),
        y_label: "combined loss".to_owned(),
        band: Band::Absent,
        value: Box::new(|run| train_series(run, |train| Some(train.combined_loss))),
    });
    let mut groups = assembly.compared("Task losses and combined loss", &measures)?;
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    for group in &mut groups {
        group.open = false;
    }
    let mut blocks = vec![text(
        "Losses of the training batches, means over the runs of a combiner. Each combiner has its \
         own combined loss: its curve shows whether it was minimized, and its height is not \
         comparable with that of another combiner.",
    )];
    blocks.extend(groups.into_iter().map(Block::Figures));
    Ok(blocks)
}

/// The primary task of a run; of its settings if it has not ended.
fn primary(run: &RunData) -> Option<String> {
    match &run.summary {
        Some(summary) => Some(summary.primary.clone()),
        None => configured(run, "task.primary"),
    }
}

/// The primary task, if all runs have the same.
fn common_primary(assembly: &Assembly<'_>) -> Option<String> {
    let mut all = assembly.runs.iter().map(primary);
    let first = all.next()??;
    all.all(|other| other.as_ref() == Some(&first))
        .then_some(first)
}

/// The metric that is drawn over the course of training.
fn evaluated_metric(assembly: &Assembly<'_>) -> Option<&'static str> {
    let records = assembly.runs.iter().flat_map(|run| &run.records);
    leading_metric(
        records
            .filter_map(|record| match record {
                Record::Eval(eval) => Some(eval.metrics.keys()),
                _ => None,
            })
            .flatten()
            .map(String::as_str),
    )
}

fn loss_series(assembly: &Assembly<'_>, run: &RunData, task: &str) -> Series {
    match assembly.task_index(run, task) {
        Some(index) => train_series(run, |train| train.task_losses.get(index).copied()),
        None => Series::new(),
    }
}

fn metric_series(run: &RunData, split: &str, metric: &str) -> Series {
    series_of(&run.records, |record| match record {
        Record::Eval(eval) if eval.split == split => {
            let value = eval.metrics.get(metric)?;
            Some((eval.iteration, metric_scale(metric) * value))
        }
        _ => None,
    })
}
