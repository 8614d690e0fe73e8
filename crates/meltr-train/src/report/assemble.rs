//! The report of sets of runs, and what several of its sections need.

use std::collections::BTreeSet;

use crate::record::{CertificateRecord, MetaRecord, Record, Summary, TrainRecord};

use super::error::ReportError;
use super::groups::{compared_split, configured, grouped_summaries};
use super::page::{Block, Figure, FigureGroup, Section, render};
use super::plot::{Line, Plot, Scale, Size, Stroke, ZeroLine};
use super::sections;
use super::series::{Banded, MAX_POINTS, Series, Skipped, merge, series_of, thin_to_means};
use super::table::ReferenceRow;

/// Label of the axis that every curve over training has in common.
const ITERATIONS: &str = "iteration (inner steps)";

/// Combiners in one plot, at most.
const MAX_PER_PLOT: usize = 6;

/// Points of all curves over training, roughly; eight bytes each leave most of 3 MB to the rest.
const POINT_BUDGET: usize = 120_000;

/// Fewest points that a long line is thinned to.
const MIN_POINTS: usize = 32;

/// Numbers of a certificate that are drawn: two errors, residual, curvature, difference step.
const N_CERTIFIED: usize = 5;

/// Everything the report shows of one run.
#[derive(Debug, Clone)]
pub struct RunData {
    /// Name of the run.
    pub name: String,
    /// What the run wrote at its end; absent if it has not ended.
    pub summary: Option<Summary>,
    /// The lines of `metrics.jsonl`, in order.
    pub records: Vec<Record>,
    /// Configuration of the run, as text.
    pub config_toml: String,
}

/// A report to be rendered as one HTML file.
///
/// The file needs nothing outside itself: style and plots are inline, and there is no script.
/// Curves of several runs of one combiner are drawn as their mean with a band from the smallest to
/// the largest value. Values that are not finite are left out of the plots and counted below them.
/// A section whose records no run has is left out.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// Title of the page.
    pub title: &'a str,
    /// The runs, finished or not.
    pub runs: &'a [RunData],
    /// Lines of the comparison that were not runs.
    pub references: &'a [ReferenceRow],
}

impl Report<'_> {
    /// The report as the text of an HTML file.
    ///
    /// # Errors
    ///
    /// Returns [`ReportError::Plot`] if a plot cannot be drawn and [`ReportError::Template`] if the
    /// page cannot be filled; neither depends on the values of the records.
    pub fn to_html(&self) -> Result<String, ReportError> {
        let set = RunSet {
            label: "",
            runs: self.runs,
            references: self.references,
        };
        report_of_sets(self.title, &[set])
    }
}

/// Runs that are compared with each other, such as those with an equal number of steps.
#[derive(Debug, Clone, Copy)]
pub struct RunSet<'a> {
    /// What the runs have in common; not shown where there is one set only.
    pub label: &'a str,
    /// The runs, finished or not.
    pub runs: &'a [RunData],
    /// Lines of the comparison that were not runs.
    pub references: &'a [ReferenceRow],
}

/// A [`Report`] on several sets of runs: every section shows one set after the other, and nothing
/// is averaged over two of them.
///
/// # Errors
///
/// As of [`Report::to_html`].
pub fn report_of_sets(title: &str, sets: &[RunSet<'_>]) -> Result<String, ReportError> {
    let mut assemblies: Vec<Assembly<'_>> = sets.iter().map(Assembly::new).collect();
    let n_lines: usize = assemblies.iter().map(Assembly::n_lines).sum();
    let max_points = (POINT_BUDGET / n_lines.max(1)).clamp(MIN_POINTS, MAX_POINTS);
    for assembly in &mut assemblies {
        assembly.max_points = max_points;
    }
    let mut shown = Vec::new();
    for kind in sections::ALL {
        let mut blocks = Vec::new();
        for (set, assembly) in sets.iter().zip(&assemblies) {
            let of_set = (kind.blocks)(assembly)?;
            if sets.len() > 1 && !of_set.is_empty() {
                blocks.push(Block::Heading(set.label.to_owned()));
            }
            blocks.extend(of_set);
        }
        if !blocks.is_empty() {
            shown.push(Section {
                id: kind.id,
                heading: kind.heading,
                blocks,
            });
        }
    }
    render(title, &shown)
}

/// Runs of one combiner.
pub(super) struct Group<'a> {
    /// Name of the combiner, and what else the runs have in common.
    pub(super) label: String,
    /// The runs.
    pub(super) runs: Vec<&'a RunData>,
}

impl Group<'_> {
    /// The label with the number of runs.
    pub(super) fn title(&self) -> String {
        format!("{} ({})", self.label, counted_runs(self.runs.len()))
    }

    /// Whether any run has a record of some kind.
    pub(super) fn has(&self, wanted: impl Fn(&Record) -> bool) -> bool {
        self.runs.iter().any(|run| run.records.iter().any(&wanted))
    }

    /// The series of all runs as their mean with its range, with at most `max_points` points.
    pub(super) fn banded(
        &self,
        max_points: usize,
        value: impl Fn(&RunData) -> Series,
        keep: impl FnMut(f64) -> Option<f64>,
    ) -> Banded {
        let all = self.runs.iter().map(|&run| value(run));
        thin_to_means(&merge(all, keep), max_points)
    }
}

/// A number that all combiners are compared by over the course of training.
pub(super) struct Measure<'m> {
    /// What the figure shows.
    pub(super) title: String,
    /// Label of the vertical axis, with its unit.
    pub(super) y_label: String,
    /// Whether the range over runs is drawn.
    pub(super) band: Band,
    /// The number in one run.
    pub(super) value: Box<dyn Fn(&RunData) -> Series + 'm>,
}

/// Whether the range of values behind a mean is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Band {
    /// The mean alone.
    Absent,
    /// A band from the smallest to the largest value.
    Present,
}

/// A set of runs with what several sections need of it.
pub(super) struct Assembly<'a> {
    pub(super) runs: &'a [RunData],
    pub(super) references: &'a [ReferenceRow],
    /// The split that the runs are compared on.
    pub(super) compared_split: String,
    /// Of the finished runs; the combiner of each is the label of its group.
    pub(super) summaries: Vec<Summary>,
    pub(super) groups: Vec<Group<'a>>,
    /// Names of all tasks, in order of first appearance.
    pub(super) tasks: Vec<String>,
    /// Points that a line is thinned to.
    pub(super) max_points: usize,
}

impl<'a> Assembly<'a> {
    fn new(set: &RunSet<'a>) -> Self {
        let runs = set.runs;
        let summaries = grouped_summaries(runs);
        let mut finished = summaries.iter();
        let mut groups: Vec<Group<'a>> = Vec::new();
        for run in runs {
            let summary = run.summary.as_ref().and_then(|_| finished.next());
            let label = match summary {
                Some(summary) => summary.combiner.clone(),
                None => {
                    let combiner = configured(run, "combiner.name");
                    format!("{} (unfinished)", combiner.as_ref().unwrap_or(&run.name))
                }
            };
            match groups.iter_mut().find(|group| group.label == label) {
                Some(group) => group.runs.push(run),
                None => groups.push(Group {
                    label,
                    runs: vec![run],
                }),
            }
        }
        let mut assembly = Self {
            runs,
            references: set.references,
            compared_split: compared_split(runs),
            summaries,
            groups,
            tasks: Vec::new(),
            max_points: MAX_POINTS,
        };
        for run in runs {
            for task in assembly.task_names(run) {
                if !assembly.tasks.contains(&task) {
                    assembly.tasks.push(task);
                }
            }
        }
        assembly
    }

    /// Lines over the course of training, a band counted as two more.
    fn n_lines(&self) -> usize {
        let n_tasks = self.tasks.len();
        let compared = self.groups.len() * (3 * (2 + self.evaluated_splits().len()) + n_tasks);
        let weighted =
            self.groups_with(|record| matches!(record, Record::Meta(_) | Record::Weights(_)));
        let certified = self.groups_with(|record| matches!(record, Record::Meta(_)));
        compared + weighted.len() * 3 * n_tasks + certified.len() * 3 * N_CERTIFIED
    }

    /// The splits that any run was evaluated on, at its end or before.
    pub(super) fn evaluated_splits(&self) -> BTreeSet<&str> {
        let at_the_end = self
            .summaries
            .iter()
            .flat_map(|summary| summary.metrics.keys().map(String::as_str));
        let before = self.runs.iter().flat_map(|run| &run.records);
        at_the_end
            .chain(before.filter_map(|record| match record {
                Record::Eval(eval) => Some(eval.split.as_str()),
                _ => None,
            }))
            .collect()
    }

    /// Names of the tasks of a run, in token order.
    ///
    /// A run without a summary borrows the names of a run with the same number of tasks.
    pub(super) fn task_names(&self, run: &RunData) -> Vec<String> {
        if let Some(summary) = &run.summary {
            return summary.tasks.clone();
        }
        let n_tasks = run
            .records
            .iter()
            .map(|record| match record {
                Record::Train(train) => train.task_losses.len(),
                Record::Meta(meta) => meta.sensitivities.len(),
                Record::Response(response) => response.curves.len(),
                Record::Weights(weights) => weights.weights.len(),
                Record::Eval(_) => 0,
            })
            .max()
            .unwrap_or(0);
        match self
            .summaries
            .iter()
            .find(|summary| summary.tasks.len() == n_tasks)
        {
            Some(summary) => summary.tasks.clone(),
            None => (1..=n_tasks)
                .map(|number| format!("task {number}"))
                .collect(),
        }
    }

    /// The place of a task among the losses of a run.
    pub(super) fn task_index(&self, run: &RunData, task: &str) -> Option<usize> {
        self.task_names(run).iter().position(|name| name == task)
    }

    /// The groups of which any run has a record of some kind.
    pub(super) fn groups_with(&self, wanted: impl Fn(&Record) -> bool) -> Vec<&Group<'a>> {
        self.groups
            .iter()
            .filter(|group| group.has(&wanted))
            .collect()
    }

    /// Figures in which each line is a combiner, a few combiners at a time, all on the same axes.
    pub(super) fn compared(
        &self,
        title: &str,
        measures: &[Measure<'_>],
    ) -> Result<Vec<FigureGroup>, ReportError> {
        let chunks: Vec<&[Group<'a>]> = self.groups.chunks(MAX_PER_PLOT).collect();
        let mut parts: Vec<FigureGroup> = chunks
            .iter()
            .enumerate()
            .map(|(index, chunk)| FigureGroup {
                title: if chunks.len() == 1 {
                    title.to_owned()
                } else {
                    format!("{title}, part {} of {}", index + 1, chunks.len())
                },
                open: true,
                legend: chunk
                    .iter()
                    .enumerate()
                    .map(|(index, group)| (group.title(), Stroke::of_index(index)))
                    .collect(),
                figures: Vec::new(),
                notes: Vec::new(),
            })
            .collect();
        let mut skipped: Vec<Skipped> = chunks.iter().map(|_| Skipped::default()).collect();
        for measure in measures {
            let mut plots: Vec<Plot> = chunks
                .iter()
                .zip(&mut skipped)
                .map(|(chunk, skipped)| self.compared_plot(chunk, measure, skipped))
                .collect();
            let corners: Vec<(f64, f64)> = plots.iter().flat_map(Plot::corners).collect();
            for (plot, part) in plots.iter_mut().zip(&mut parts) {
                plot.reaches.clone_from(&corners);
                part.figures.extend(figure(plot)?);
            }
        }
        for (part, skipped) in parts.iter_mut().zip(&skipped) {
            part.notes = skipped.notes();
        }
        parts.retain(|part| !part.figures.is_empty());
        Ok(parts)
    }

    fn compared_plot(
        &self,
        groups: &[Group<'a>],
        measure: &Measure<'_>,
        skipped: &mut Skipped,
    ) -> Plot {
        let lines = groups
            .iter()
            .enumerate()
            .map(|(index, group)| {
                let keep = |value: f64| skipped.keep(value);
                let banded = group.banded(self.max_points, &measure.value, keep);
                let banded = match measure.band {
                    Band::Absent => banded.without_ranges(),
                    Band::Present => banded,
                };
                Line::banded(&group.label, banded, Stroke::of_index(index))
            })
            .collect();
        over_iterations(&measure.title, &measure.y_label, lines)
    }
}

/// A small plot over the course of training, on a linear scale.
pub(super) fn over_iterations(title: &str, y_label: &str, lines: Vec<Line>) -> Plot {
    Plot {
        title: title.to_owned(),
        x_label: ITERATIONS.to_owned(),
        y_label: y_label.to_owned(),
        lines,
        scale: Scale::Linear,
        zero_line: ZeroLine::Absent,
        size: Size::Small,
        reaches: Vec::new(),
    }
}

/// A plot with its caption, or nothing if it has no point.
pub(super) fn figure(plot: &Plot) -> Result<Option<Figure>, ReportError> {
    let svg = plot.to_svg()?;
    Ok(svg.map(|svg| Figure {
        caption: plot.title.clone(),
        svg,
        size: plot.size,
    }))
}

/// A paragraph.
pub(super) fn text(text: &str) -> Block {
    Block::Text(text.to_owned())
}

/// A number of runs in words.
pub(super) fn counted_runs(n_runs: usize) -> String {
    match n_runs {
        1 => "1 run".to_owned(),
        n_runs => format!("{n_runs} runs"),
    }
}

/// A number of every inner step.
pub(super) fn train_series(run: &RunData, value: impl Fn(&TrainRecord) -> Option<f64>) -> Series {
    series_of(&run.records, |record| match record {
        Record::Train(train) => Some((train.iteration, value(train)?)),
        _ => None,
    })
}

/// A number of every outer step.
pub(super) fn meta_series(run: &RunData, value: impl Fn(&MetaRecord) -> Option<f64>) -> Series {
    series_of(&run.records, |record| match record {
        Record::Meta(meta) => Some((meta.iteration, value(meta)?)),
        _ => None,
    })
}

/// The certificates of a run.
pub(super) fn certificates(run: &RunData) -> impl Iterator<Item = &CertificateRecord> {
    run.records.iter().filter_map(|record| match record {
        Record::Meta(meta) => Some(meta.certificate.as_ref()),
        _ => None,
    })
}
