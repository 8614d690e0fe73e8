//! Which losses the loss transformer looked at.

use std::collections::BTreeMap;

use crate::record::Record;
use crate::report::assemble::{Assembly, Group, RunData, counted_runs, text};
use crate::report::error::ReportError;
use crate::report::page::{Block, Heat, HeatGroup};
use crate::report::series::spread_out;

/// Points in time that attention is shown at: start, middle and end.
const N_TIMES: usize = 3;

/// Heads that are shown one by one, at most.
const MAX_HEADS: usize = 8;

/// Attention of one head, `[T][T]`.
type Head = Vec<Vec<f64>>;

pub(super) fn blocks(assembly: &Assembly<'_>) -> Result<Vec<Block>, ReportError> {
    let attending = assembly.groups_with(
        |record| matches!(record, Record::Response(response) if !response.attention.is_empty()),
    );
    if attending.is_empty() {
        return Ok(Vec::new());
    }
    let mut blocks = vec![text(
        "Share of its attention that the token of one loss (row) gives to the token of another \
         (column, by number), at the losses of that moment. Each row sums to 1; the darker, the \
         larger.",
    )];
    for group in attending {
        blocks.extend(means(assembly, group));
        blocks.extend(single_heads(assembly, group));
    }
    Ok(blocks)
}

/// Attention of one run at its start, middle and end, by iteration.
fn times(run: &RunData) -> Vec<(usize, &[Head])> {
    let by_iteration: BTreeMap<usize, &[Head]> = run
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Response(response) if is_square(&response.attention) => {
                Some((response.iteration, response.attention.as_slice()))
            }
            _ => None,
        })
        .collect();
    spread_out(by_iteration.into_iter().collect(), N_TIMES)
}

/// Whether there is a head, and each has as many columns as rows.
fn is_square(heads: &[Head]) -> bool {
    let is_square = |head: &Head| head.iter().all(|row| row.len() == head.len());
    !heads.is_empty() && heads.iter().all(is_square)
}

/// The mean over heads and runs: heads have no order that two runs share.
fn means(assembly: &Assembly<'_>, group: &Group<'_>) -> Option<Block> {
    let first = group.runs.iter().find(|run| !times(run).is_empty())?;
    let labels = assembly.task_names(first);
    // Runs that were sampled at the same points in time, of the same tasks.
    let when: Vec<usize> = times(first).iter().map(|(time, _)| *time).collect();
    let alike: Vec<Vec<(usize, &[Head])>> = group
        .runs
        .iter()
        .filter(|run| assembly.task_names(run) == labels)
        .map(|run| times(run))
        .filter(|times| times.iter().map(|(time, _)| *time).eq(when.iter().copied()))
        .collect();
    let heats = when.iter().enumerate().map(|(index, time)| {
        let heads: Vec<&Head> = alike
            .iter()
            .filter_map(|times| times.get(index))
            .flat_map(|(_, heads)| heads.iter())
            .collect();
        heat(format!("iteration {time}"), &heads, labels.len())
    });
    Some(Block::Heats(HeatGroup {
        title: format!(
            "{}: mean over heads and {}",
            group.label,
            counted_runs(alike.len())
        ),
        open: true,
        heats: heats.collect(),
        labels,
    }))
}

/// Every head of the first run.
fn single_heads(assembly: &Assembly<'_>, group: &Group<'_>) -> Option<Block> {
    let run = group.runs.iter().find(|run| !times(run).is_empty())?;
    let labels = assembly.task_names(run);
    let times = times(run);
    let n_heads = times.iter().map(|(_, heads)| heads.len()).max()?;
    if n_heads == 1 && group.runs.len() == 1 {
        // It is the mean.
        return None;
    }
    let mut heats = Vec::new();
    for head in 0..n_heads.min(MAX_HEADS) {
        for (time, heads) in &times {
            let caption = format!("head {}, iteration {time}", head + 1);
            let one: Vec<&Head> = heads.get(head).into_iter().collect();
            heats.push(heat(caption, &one, labels.len()));
        }
    }
    let rest = match n_heads.saturating_sub(MAX_HEADS) {
        0 => String::new(),
        n_more => format!("; {n_more} more heads are not shown"),
    };
    Some(Block::Heats(HeatGroup {
        title: format!("{}: single heads of run {}{rest}", group.label, run.name),
        open: false,
        labels,
        heats,
    }))
}

/// The mean of some heads; a value that is not finite in one of them is none in the mean.
fn heat(caption: String, heads: &[&Head], n_tasks: usize) -> Heat {
    let value = |row: usize, column: usize| {
        let values: Vec<f64> = heads
            .iter()
            .filter_map(|head| head.get(row)?.get(column).copied())
            .collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        mean.is_finite().then_some(mean)
    };
    Heat {
        caption,
        rows: (0..n_tasks)
            .map(|row| (0..n_tasks).map(|column| value(row, column)).collect())
            .collect(),
    }
}
