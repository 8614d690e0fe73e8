//! How a learned loss bends each task loss.

use std::collections::BTreeMap;

use crate::record::{Record, ResponseCurve, ResponseRecord};
use crate::report::assemble::{Assembly, Group, RunData, counted_runs, figure, text};
use crate::report::error::ReportError;
use crate::report::page::{Block, FigureGroup};
use crate::report::plot::{Line, Plot, Scale, Size, Stroke, ZeroLine};
use crate::report::series::{Skipped, interpolate, spread_out, thin_to_extremes};

/// Points in time that response curves are drawn for, at most.
const MAX_TIMES: usize = 6;

/// Points of a curve, at most.
const MAX_POINTS: usize = 64;

pub(super) fn blocks(assembly: &Assembly<'_>) -> Result<Vec<Block>, ReportError> {
    let learned = assembly.groups_with(|record| matches!(record, Record::Response(_)));
    if learned.is_empty() {
        return Ok(Vec::new());
    }
    let mut blocks = vec![text(
        "Combined loss as a function of one task loss, the other task losses held at their value \
         of that moment. Dark curves are early, light ones late; a disk marks the task loss of \
         that moment. One run of each combiner, since runs come to different losses.",
    )];
    for (index, group) in learned.into_iter().enumerate() {
        if let Some(mut figures) = figures_of(assembly, group)? {
            figures.open = index == 0;
            blocks.push(Block::Figures(figures));
        }
    }
    Ok(blocks)
}

/// The curves of the first run of a combiner that has any.
fn figures_of(
    assembly: &Assembly<'_>,
    group: &Group<'_>,
) -> Result<Option<FigureGroup>, ReportError> {
    let sampled = |run: &&&RunData| {
        let mut records = run.records.iter();
        records.any(|record| matches!(record, Record::Response(_)))
    };
    let Some(run) = group.runs.iter().find(sampled) else {
        return Ok(None);
    };
    let chosen = spread_out(responses(run), MAX_TIMES);
    let last = chosen.len().saturating_sub(1).max(1) as f64;
    let strokes: Vec<(&ResponseRecord, Stroke)> = chosen
        .into_iter()
        .enumerate()
        .map(|(index, response)| (response, Stroke::of_position(index as f64 / last)))
        .collect();
    let mut skipped = Skipped::default();
    let mut figures = Vec::new();
    for (index, task) in assembly.task_names(run).into_iter().enumerate() {
        let mut lines = Vec::new();
        for (response, stroke) in &strokes {
            if let Some(curve) = response.curves.get(index) {
                let label = format!("iteration {}", response.iteration);
                let at = response.at.get(index).copied();
                lines.extend(lines_of(&label, curve, at, *stroke, &mut skipped));
            }
        }
        let plot = Plot {
            title: task,
            x_label: "task loss".to_owned(),
            y_label: "combined loss".to_owned(),
            lines,
            scale: Scale::Linear,
            zero_line: ZeroLine::Absent,
            size: Size::Small,
            reaches: Vec::new(),
        };
        figures.extend(figure(&plot)?);
    }
    Ok(Some(FigureGroup {
        title: format!(
            "{}: run {}, one of {}",
            group.label,
            run.name,
            counted_runs(group.runs.len())
        ),
        open: false,
        legend: strokes
            .iter()
            .map(|(response, stroke)| (format!("iteration {}", response.iteration), *stroke))
            .collect(),
        figures,
        notes: skipped.notes(),
    }))
}

/// The responses of a run by iteration; the last one where a resume sampled one twice.
fn responses(run: &RunData) -> Vec<&ResponseRecord> {
    let by_iteration: BTreeMap<usize, &ResponseRecord> = run
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Response(response) => Some((response.iteration, response)),
            _ => None,
        })
        .collect();
    by_iteration.into_values().collect()
}

/// A curve, and a disk on it at the task loss of that moment.
fn lines_of(
    label: &str,
    curve: &ResponseCurve,
    at: Option<f64>,
    stroke: Stroke,
    skipped: &mut Skipped,
) -> [Line; 2] {
    let mut drawn = Vec::new();
    for (task_loss, combined_loss) in curve.task_loss.iter().zip(&curve.combined_loss) {
        let task_loss = skipped.keep(*task_loss);
        let combined_loss = skipped.keep(*combined_loss);
        drawn.extend(task_loss.zip(combined_loss));
    }
    let here = at.and_then(|at| Some((at, interpolate(&drawn, at)?)));
    let thinned = thin_to_extremes(&drawn, MAX_POINTS);
    [
        Line::plain(label, thinned, stroke),
        Line::plain("", here.into_iter().collect(), stroke).marked(),
    ]
}
