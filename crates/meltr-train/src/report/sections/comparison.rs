//! The summary of all combiners in one table.

use crate::report::assemble::{Assembly, text};
use crate::report::error::ReportError;
use crate::report::page::{Block, Table};
use crate::report::table::{BEST_MEANS, Comparison, reference_notes};

pub(super) fn blocks(assembly: &Assembly<'_>) -> Result<Vec<Block>, ReportError> {
    let mut blocks = Vec::new();
    let split = &assembly.compared_split;
    let comparison = Comparison::from_summaries(&assembly.summaries, split);
    if comparison.rows.is_empty() && assembly.references.is_empty() {
        blocks.push(text("There is no finished run to compare."));
    } else {
        let about_references = if assembly.references.is_empty() {
            ""
        } else {
            " Rows without n are references, which are no runs."
        };
        blocks.push(Block::Table(Table {
            caption: format!(
                "Metrics on the split {split}: mean over n runs ± half of its 95 % interval \
                 (Student's t); a single run has no interval. *: {BEST_MEANS}. Training time is \
                 without evaluation; time and memory are means, the error is the largest that an \
                 audit found in any run.{about_references}"
            ),
            folded: false,
            headers: comparison.headers(assembly.references),
            rows: comparison.cells(assembly.references),
        }));
        let notes = reference_notes(assembly.references);
        blocks.extend(notes.into_iter().map(Block::Text));
    }
    let unfinished: Vec<&str> = assembly
        .runs
        .iter()
        .filter(|run| run.summary.is_none())
        .map(|run| run.name.as_str())
        .collect();
    if !unfinished.is_empty() {
        blocks.push(Block::Text(format!(
            "Unfinished, without a summary and not in the table: {}.",
            unfinished.join(", ")
        )));
    }
    Ok(blocks)
}
