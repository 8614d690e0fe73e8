//! The leading metric of all combiners as a chart, and all metrics as tables, split by split.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::assemble::Assembly;
use crate::report::dots::{DotChart, DotRow};
use crate::report::error::ReportError;
use crate::report::metric::{leading_metric, metric_heading, metric_scale, metric_text};
use crate::report::page::{Block, Figure, FigureGroup, Table};
use crate::report::plot::{Size, Stroke};
use crate::report::table::{Comparison, ReferenceRow};

pub(super) fn blocks(assembly: &Assembly<'_>) -> Result<Vec<Block>, ReportError> {
    let splits: BTreeSet<&str> = assembly
        .summaries
        .iter()
        .flat_map(|summary| summary.metrics.keys())
        .map(String::as_str)
        .collect();
    let compared = assembly.compared_split.as_str();
    // The split of the comparison comes first.
    let others = splits.iter().copied().filter(|split| *split != compared);
    let first = splits.get(compared).copied();
    let mut blocks = Vec::new();
    for split in first.into_iter().chain(others) {
        let comparison = Comparison::from_summaries(&assembly.summaries, split);
        // References were measured on the split of the comparison.
        let references: &[ReferenceRow] = if split == compared {
            assembly.references
        } else {
            &[]
        };
        blocks.extend(chart(&comparison, references).map(Block::Figures));
        blocks.push(Block::Table(table(&comparison)));
    }
    Ok(blocks)
}

/// The leading metric of all combiners, references beside them.
fn chart(comparison: &Comparison, references: &[ReferenceRow]) -> Option<FigureGroup> {
    let split = &comparison.split;
    let names: BTreeSet<&str> = comparison
        .rows
        .iter()
        .flat_map(|row| row.metrics.keys())
        .map(String::as_str)
        .collect();
    let name = leading_metric(names.into_iter())?;
    let heading = metric_heading(name);
    let scale = metric_scale(name);
    let rows: Vec<DotRow> = comparison
        .rows
        .iter()
        .map(|row| {
            let values = row.values.get(name).map(Vec::as_slice).unwrap_or_default();
            let mut text = row.metric_cell(name);
            // Otherwise the cell itself says how many.
            if values.len() == row.n_runs {
                text.push_str(&format!(" (n = {})", row.count_cell()));
            }
            DotRow {
                label: row.combiner.clone(),
                values: values.iter().map(|value| scale * value).collect(),
                text,
            }
        })
        .collect();
    let mut legend = Vec::new();
    let mut marks = Vec::new();
    for (index, reference) in references.iter().enumerate() {
        if let Some(value) = reference.metrics.get(name) {
            // The first color is that of the dots.
            let stroke = Stroke::of_index(index + 1).dashed();
            let label = format!("{}: {}", reference.name, metric_text(name, *value));
            legend.push((label, stroke));
            marks.push((scale * value, stroke));
        }
    }
    let title = format!("{heading} on the split {split}");
    let chart = DotChart {
        title: title.clone(),
        label: heading,
        rows,
        marks,
    };
    let figure = Figure {
        caption: title.clone(),
        svg: chart.to_svg()?,
        size: Size::Wide,
    };
    Some(FigureGroup {
        title,
        open: true,
        legend,
        figures: vec![figure],
        notes: vec![
            "Blue dot: mean over the runs of a combiner; bar: its 95 % interval (Student's t); \
             gray dots: the runs, each with its own seed. Dashed lines: references. Last \
             evaluation of each run."
                .to_owned(),
        ],
    })
}

/// All metrics of a split.
fn table(comparison: &Comparison) -> Table {
    let names: BTreeMap<&str, String> = comparison
        .rows
        .iter()
        .flat_map(|row| row.metrics.keys())
        .map(|name| (name.as_str(), metric_heading(name)))
        .collect();
    let mut headers = vec!["combiner".to_owned(), "n".to_owned()];
    headers.extend(names.values().cloned());
    let names: Vec<&str> = names.into_keys().collect();
    let rows = comparison
        .rows
        .iter()
        .zip(comparison.metric_cells(&names))
        .map(|(row, metrics)| {
            let mut cells = vec![row.combiner.clone(), row.count_cell()];
            cells.extend(metrics);
            cells
        })
        .collect();
    Table {
        caption: format!(
            "All metrics of the last evaluation on the split {}: mean over n runs ± half of its \
             95 % interval",
            comparison.split
        ),
        folded: true,
        headers,
        rows,
    }
}
