//! How much each task loss counted over the course of training.

use crate::record::Record;
use crate::report::assemble::{
    Assembly, Group, RunData, figure, meta_series, over_iterations, text,
};
use crate::report::error::ReportError;
use crate::report::page::{Block, Figure, FigureGroup};
use crate::report::plot::{Line, Stroke, ZeroLine};
use crate::report::series::{Series, Skipped, series_of};

pub(super) fn blocks(assembly: &Assembly<'_>) -> Result<Vec<Block>, ReportError> {
    let learned = assembly.groups_with(
        |record| matches!(record, Record::Meta(meta) if !meta.sensitivities.is_empty()),
    );
    let ruled = assembly.groups_with(|record| matches!(record, Record::Weights(_)));
    let mut blocks = Vec::new();
    if !learned.is_empty() {
        let sensitivity = |run: &RunData, index: usize| {
            meta_series(run, |meta| meta.sensitivities.get(index).copied())
        };
        let mut part = Part::new(assembly, "sensitivity dg/dl", &sensitivity);
        for group in learned {
            part.add(group)?;
            part.notes.push(negative(assembly, group));
        }
        blocks.push(text(
            "Sensitivity: derivative of a learned combined loss by each task loss, at the losses \
             of an outer step. A negative value means that the learned loss rewarded an increase \
             of that task loss.",
        ));
        blocks.push(part.finish("Sensitivities of learned losses"));
    }
    if !ruled.is_empty() {
        let mut part = Part::new(assembly, "weight", &weight_series);
        for group in ruled {
            part.add(group)?;
        }
        blocks.push(text(
            "Weight: what a rule multiplied each task loss by in an inner step. Rules differ in \
             what their weights sum to.",
        ));
        blocks.push(part.finish("Weights given by rules"));
    }
    Ok(blocks)
}

/// Figures of some combiners, each with one line per task.
struct Part<'s, 'a> {
    assembly: &'s Assembly<'a>,
    y_label: &'static str,
    value: &'s dyn Fn(&RunData, usize) -> Series,
    figures: Vec<Figure>,
    notes: Vec<String>,
    skipped: Skipped,
}

impl<'s, 'a> Part<'s, 'a> {
    fn new(
        assembly: &'s Assembly<'a>,
        y_label: &'static str,
        value: &'s dyn Fn(&RunData, usize) -> Series,
    ) -> Self {
        Self {
            assembly,
            y_label,
            value,
            figures: Vec::new(),
            notes: Vec::new(),
            skipped: Skipped::default(),
        }
    }

    fn add(&mut self, group: &Group<'_>) -> Result<(), ReportError> {
        let mut lines = Vec::new();
        for (index, task) in self.assembly.tasks.iter().enumerate() {
            let of_run = |run: &RunData| match self.assembly.task_index(run, task) {
                Some(place) => (self.value)(run, place),
                None => Series::new(),
            };
            let skipped = &mut self.skipped;
            let banded = group.banded(self.assembly.max_points, of_run, |value| {
                skipped.keep(value)
            });
            lines.push(Line::banded(task, banded, Stroke::of_index(index)));
        }
        let mut plot = over_iterations(&group.title(), self.y_label, lines);
        plot.zero_line = ZeroLine::Present;
        self.figures.extend(figure(&plot)?);
        Ok(())
    }

    fn finish(self, title: &str) -> Block {
        let mut notes = vec![
            "One figure per combiner, its number of runs in parentheses. Line: mean over the runs; \
             band: smallest to largest value."
                .to_owned(),
        ];
        notes.extend(self.notes);
        notes.extend(self.skipped.notes());
        let tasks = self.assembly.tasks.iter().enumerate();
        Block::Figures(FigureGroup {
            title: title.to_owned(),
            open: true,
            legend: tasks
                .map(|(index, task)| (task.clone(), Stroke::of_index(index)))
                .collect(),
            figures: self.figures,
            notes,
        })
    }
}

fn weight_series(run: &RunData, index: usize) -> Series {
    series_of(&run.records, |record| match record {
        Record::Weights(weights) => {
            let weight = weights.weights.get(index)?;
            Some((weights.iteration, *weight))
        }
        _ => None,
    })
}

/// How often the sensitivity to each task was negative, in a sentence.
fn negative(assembly: &Assembly<'_>, group: &Group<'_>) -> String {
    let mut tasks = Vec::new();
    let mut n_steps = 0;
    for task in &assembly.tasks {
        let mut n_negative = 0;
        let mut n_values = 0;
        for run in &group.runs {
            let Some(index) = assembly.task_index(run, task) else {
                continue;
            };
            let series = meta_series(run, |meta| meta.sensitivities.get(index).copied());
            n_negative += series.values().filter(|value| **value < 0.0).count();
            n_values += series.len();
        }
        if n_negative > 0 {
            let share = 100.0 * n_negative as f64 / n_values as f64;
            tasks.push(format!("{task} ({share:.1} % of {n_values} outer steps)"));
        }
        n_steps = n_steps.max(n_values);
    }
    if tasks.is_empty() {
        format!(
            "{}: no task had a negative sensitivity at any of the {n_steps} outer steps.",
            group.label
        )
    } else {
        format!(
            "{}: negative sensitivity at some time: {}.",
            group.label,
            tasks.join(", ")
        )
    }
}
