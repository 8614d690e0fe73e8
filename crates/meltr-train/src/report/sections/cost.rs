//! What training took.

use crate::record::Record;
use crate::report::assemble::{Assembly, RunData, counted_runs};
use crate::report::error::ReportError;
use crate::report::page::{Bar, Block, Table};
use crate::report::table::{
    ABSENT, Comparison, ComparisonRow, error_cell, mebibytes, number_cell, seconds_per_step,
};

/// Runs up to which the table of single runs is unfolded.
const MAX_UNFOLDED: usize = 12;

pub(super) fn blocks(assembly: &Assembly<'_>) -> Result<Vec<Block>, ReportError> {
    if assembly.runs.is_empty() {
        return Ok(Vec::new());
    }
    let comparison = Comparison::from_summaries(&assembly.summaries, &assembly.compared_split);
    let of_rows = |value: fn(&ComparisonRow) -> Option<f64>| {
        comparison.rows.iter().filter_map(move |row| {
            let label = format!("{} ({})", row.combiner, counted_runs(row.n_runs));
            Some((label, value(row)?))
        })
    };
    let mut blocks = Vec::new();
    blocks.extend(bars(
        "Training time without evaluation, mean over runs",
        "s",
        of_rows(|row| Some(row.train_seconds.0)),
    ));
    blocks.extend(bars(
        "Training time per inner step, outer steps included, mean over runs",
        "ms",
        of_rows(|row| row.step_seconds.map(|(mean, _)| 1000.0 * mean)),
    ));
    blocks.extend(bars(
        "Peak resident memory, mean over runs",
        "MiB",
        of_rows(|row| row.peak_memory_mib.map(|(mean, _)| mean)),
    ));
    let headers = [
        "run",
        "combiner",
        "seed",
        "device",
        "state",
        "iterations",
        "train (s)",
        "per iteration (ms)",
        "total (s)",
        "peak (MiB)",
        "worst hypergrad. error",
    ];
    blocks.push(Block::Table(Table {
        caption: "Each run; training time is without evaluation".to_owned(),
        folded: assembly.runs.len() > MAX_UNFOLDED,
        headers: headers.map(str::to_owned).to_vec(),
        rows: assembly.runs.iter().map(cells).collect(),
    }));
    Ok(blocks)
}

fn cells(run: &RunData) -> Vec<String> {
    let absent = || ABSENT.to_owned();
    let Some(summary) = &run.summary else {
        let reached = run.records.iter().filter_map(|record| match record {
            Record::Train(train) => Some(train),
            _ => None,
        });
        let (iterations, seconds) = match reached.max_by_key(|train| train.iteration) {
            Some(last) => (
                (last.iteration + 1).to_string(),
                number_cell(last.seconds, 1),
            ),
            None => ("0".to_owned(), absent()),
        };
        return vec![
            run.name.clone(),
            absent(),
            absent(),
            absent(),
            "unfinished".to_owned(),
            iterations,
            absent(),
            absent(),
            seconds,
            absent(),
            absent(),
        ];
    };
    vec![
        run.name.clone(),
        summary.combiner.clone(),
        summary.seed.to_string(),
        summary.device.clone(),
        "finished".to_owned(),
        summary.iterations.to_string(),
        number_cell(summary.train_seconds, 1),
        seconds_per_step(summary).map_or_else(absent, |seconds| number_cell(1000.0 * seconds, 1)),
        number_cell(summary.total_seconds, 1),
        summary
            .peak_memory_bytes
            .map_or_else(absent, |bytes| number_cell(mebibytes(bytes), 0)),
        error_cell(summary.worst_hypergradient_error),
    ]
}

/// Bars for the values that have a length, or nothing if none has.
fn bars(caption: &str, unit: &str, values: impl Iterator<Item = (String, f64)>) -> Option<Block> {
    let values: Vec<(String, f64)> = values
        .filter(|(_, value)| value.is_finite() && *value >= 0.0)
        .collect();
    let longest = values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let bars = values
        .into_iter()
        .map(|(label, value)| Bar {
            label,
            value: format!("{value:.1} {unit}"),
            percent: 100.0 * value / longest,
        })
        .collect();
    Some(Block::Bars {
        caption: format!("{caption} ({unit})"),
        bars,
    })
}
