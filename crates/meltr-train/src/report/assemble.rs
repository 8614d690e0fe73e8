//! What the report of a set of runs shows, section by section.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{MetaRecord, Record, ResponseRecord, Summary, TrainRecord};

use super::error::ReportError;
use super::metric::{leading_metric, metric_heading, metric_scale};
use super::page::{Bar, Block, Figure, FigureGroup, Section, render};
use super::plot::{Line, Markers, Plot, Scale, Size, Stroke, ZeroLine};
use super::series::{
    MAX_POINTS, Series, Skipped, interpolate, log_points, merge, points, series_of,
    thin_to_extremes, thin_to_means,
};
use super::table::{
    ABSENT, Comparison, ReferenceRow, error_cell, mean_and_deviation, mebibytes, number_cell,
    reference_notes,
};

/// The split of the comparison table, if a run was evaluated on it.
const PREFERRED_SPLIT: &str = "test";

/// Label of the axis that every curve over training has in common.
const ITERATIONS: &str = "iteration (inner steps)";

/// Runs that a section draws one by one, at most.
const MAX_DRAWN_RUNS: usize = 12;

/// Points in time that response curves are drawn for, at most.
const MAX_RESPONSES: usize = 6;

/// Points on the whole page, roughly; ten bytes each keep the page below 3 MB.
const POINT_BUDGET: usize = 160_000;

/// Fewest points that a long line is thinned to.
const MIN_POINTS: usize = 32;

/// Characters of a configuration that are shown.
const MAX_CONFIG_CHARS: usize = 16_384;

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
        let assembly = Assembly::new(self.runs, self.references);
        let sections = [
            section("comparison", "Comparison", assembly.comparison()),
            section("metrics", "Metrics by split", assembly.metrics()?),
            section("task-losses", "Task losses", assembly.task_losses()?),
            section("combined-loss", "Combined loss", assembly.combined_loss()?),
            section("sensitivities", "Sensitivities", assembly.sensitivities()?),
            section(
                "response",
                "Response of the learned loss",
                assembly.responses()?,
            ),
            section(
                "certificate",
                "Hypergradient certificate",
                assembly.certificates()?,
            ),
            section("cost", "Time and memory", assembly.cost()),
            section("configuration", "Configuration", assembly.configurations()),
        ];
        render(self.title, &sections)
    }
}

/// Runs of one combiner, or one unfinished run.
struct Group<'a> {
    label: String,
    runs: Vec<&'a RunData>,
}

/// The runs with what several sections need of them.
struct Assembly<'a> {
    runs: &'a [RunData],
    references: &'a [ReferenceRow],
    summaries: Vec<Summary>,
    groups: Vec<Group<'a>>,
    /// Names of all tasks, in order of first appearance.
    tasks: Vec<String>,
    /// Points that a line is thinned to.
    max_points: usize,
}

impl<'a> Assembly<'a> {
    fn new(runs: &'a [RunData], references: &'a [ReferenceRow]) -> Self {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for run in runs {
            let label = group_label(run);
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
            references,
            summaries: runs.iter().filter_map(|run| run.summary.clone()).collect(),
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
        // A banded line costs three: the mean and the two sides of the band.
        let n_banded = 3 * assembly.groups.len() * (assembly.tasks.len() + 2);
        let n_of_runs =
            MAX_DRAWN_RUNS.min(runs.len()) * (assembly.tasks.len() * (1 + MAX_RESPONSES) + 3);
        let n_lines = (n_banded + n_of_runs).max(1);
        assembly.max_points = (POINT_BUDGET / n_lines).clamp(MIN_POINTS, MAX_POINTS);
        assembly
    }

    /// Names of the tasks of a run, in token order.
    ///
    /// A run without a summary borrows the names of a run with the same number of tasks.
    fn task_names(&self, run: &RunData) -> Vec<String> {
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

    fn comparison(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let split = self.compared_split();
        let comparison = Comparison::from_summaries(&self.summaries, split);
        if comparison.rows.is_empty() && self.references.is_empty() {
            blocks.push(text("There is no finished run to compare."));
        } else {
            blocks.push(Block::Table {
                caption: format!(
                    "Metrics on the split {split}: mean ± sample standard deviation over the runs \
                     of a combiner; a single run has no deviation. Training time is without \
                     evaluation."
                ),
                headers: comparison.headers(self.references),
                rows: comparison.cells(self.references),
            });
            blocks.extend(
                reference_notes(self.references)
                    .into_iter()
                    .map(Block::Text),
            );
        }
        let unfinished: Vec<&str> = self
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
        blocks
    }

    /// The split of the comparison: `test` if any run has it, else the last by name.
    fn compared_split(&self) -> &str {
        let splits: BTreeSet<&str> = self
            .summaries
            .iter()
            .flat_map(|summary| summary.metrics.keys())
            .map(String::as_str)
            .collect();
        if splits.contains(PREFERRED_SPLIT) {
            return PREFERRED_SPLIT;
        }
        splits.last().copied().unwrap_or(PREFERRED_SPLIT)
    }

    /// The metric that is drawn over the course of training.
    fn drawn_metric(&self) -> Option<&'static str> {
        let names = self.runs.iter().flat_map(|run| &run.records);
        leading_metric(
            names
                .filter_map(|record| match record {
                    Record::Eval(eval) => Some(eval.metrics.keys()),
                    _ => None,
                })
                .flatten()
                .map(String::as_str),
        )
    }

    fn metrics(&self) -> Result<Vec<Block>, ReportError> {
        let splits: BTreeSet<&str> = self
            .summaries
            .iter()
            .flat_map(|summary| summary.metrics.keys())
            .map(String::as_str)
            .collect();
        let mut blocks: Vec<Block> = splits
            .into_iter()
            .map(|split| self.metric_table(split))
            .collect();
        if blocks.is_empty() {
            blocks.push(text("No finished run has metrics."));
        }

        let evaluated: BTreeSet<&str> = self
            .runs
            .iter()
            .flat_map(|run| &run.records)
            .filter_map(|record| match record {
                Record::Eval(eval) => Some(eval.split.as_str()),
                _ => None,
            })
            .collect();
        let mut skipped = Skipped::default();
        let mut figures = Vec::new();
        let drawn = self.drawn_metric().unwrap_or("text_to_video.r1");
        for split in evaluated {
            let y_label = metric_heading(drawn);
            let figure = self.banded_figure(split, Size::Small, &y_label, &mut skipped, |run| {
                series_of(&run.records, |record| match record {
                    Record::Eval(eval) if eval.split == split => {
                        let value = eval.metrics.get(drawn)?;
                        Some((eval.iteration, metric_scale(drawn) * value))
                    }
                    _ => None,
                })
            })?;
            figures.extend(figure);
        }
        if !figures.is_empty() {
            blocks.push(self.by_group("Evaluations during training", figures, &skipped));
        }
        Ok(blocks)
    }

    fn metric_table(&self, split: &str) -> Block {
        let comparison = Comparison::from_summaries(&self.summaries, split);
        let names: BTreeSet<&String> = comparison
            .rows
            .iter()
            .flat_map(|row| row.metrics.keys())
            .collect();
        let mut headers = vec!["combiner".to_owned(), "runs".to_owned()];
        headers.extend(names.iter().map(|name| metric_heading(name)));
        let rows = comparison
            .rows
            .iter()
            .map(|row| {
                let mut cells = vec![row.combiner.clone(), row.n_runs.to_string()];
                cells.extend(names.iter().map(|name| row.metric_cell(name)));
                cells
            })
            .collect();
        Block::Table {
            caption: format!("Last evaluation on the split {split}, mean ± standard deviation"),
            headers,
            rows,
        }
    }

    fn task_losses(&self) -> Result<Vec<Block>, ReportError> {
        let mut skipped = Skipped::default();
        let mut figures = Vec::new();
        for task in &self.tasks {
            let figure = self.banded_figure(
                task,
                Size::Small,
                "task loss",
                &mut skipped,
                |run| match self.task_names(run).iter().position(|name| name == task) {
                    Some(index) => train_series(run, |train| train.task_losses.get(index).copied()),
                    None => Series::new(),
                },
            )?;
            figures.extend(figure);
        }
        if figures.is_empty() {
            return Ok(vec![text("No training step was recorded.")]);
        }
        Ok(vec![
            text(
                "Losses of the training batches. Line: mean over the runs of a combiner that \
                 reached the iteration; band: smallest to largest value. Long runs are thinned, \
                 and neighboring iterations are then averaged like runs.",
            ),
            self.by_group("Loss of each task", figures, &skipped),
        ])
    }

    fn combined_loss(&self) -> Result<Vec<Block>, ReportError> {
        let mut skipped = Skipped::default();
        let figure = self.banded_figure(
            "Combined loss of the training batches",
            Size::Wide,
            "combined loss",
            &mut skipped,
            |run| train_series(run, |train| Some(train.combined_loss)),
        )?;
        let Some(figure) = figure else {
            return Ok(vec![text("No training step was recorded.")]);
        };
        Ok(vec![
            text(
                "Each combiner has its own combined loss: the curves show whether it was \
                 minimized, and their heights are not comparable between combiners.",
            ),
            self.by_group("Combined loss", vec![figure], &skipped),
        ])
    }

    fn sensitivities(&self) -> Result<Vec<Block>, ReportError> {
        let runs = self.runs_with(
            |record| matches!(record, Record::Meta(meta) if !meta.sensitivities.is_empty()),
        );
        if runs.is_empty() {
            return Ok(vec![text(
                "No run recorded sensitivities of a learned loss.",
            )]);
        }
        let mut blocks = vec![text(
            "Derivative of the combined loss by each task loss at the losses of an outer step. A \
             negative value means that the learned loss rewarded an increase of that task loss.",
        )];
        blocks.extend(one_by_one(&runs, |run| self.sensitivities_of(run))?);
        Ok(blocks)
    }

    fn sensitivities_of(&self, run: &RunData) -> Result<FigureGroup, ReportError> {
        let mut skipped = Skipped::default();
        let mut legend = Vec::new();
        let mut lines = Vec::new();
        let mut negative = Vec::new();
        let mut n_steps = 0;
        for (index, task) in self.task_names(run).into_iter().enumerate() {
            let series = meta_series(run, |meta| meta.sensitivities.get(index).copied());
            let drawn = points(&series, &mut skipped);
            let n_negative = drawn
                .iter()
                .filter(|(_, sensitivity)| *sensitivity < 0.0)
                .count();
            if n_negative > 0 {
                let share = 100.0 * n_negative as f64 / drawn.len() as f64;
                negative.push(format!(
                    "{task} ({share:.1} % of {} outer steps)",
                    drawn.len()
                ));
            }
            n_steps = n_steps.max(drawn.len());
            let stroke = Stroke::of_index(index);
            let thinned = thin_to_extremes(&drawn, self.max_points);
            lines.push(Line::plain(thinned, stroke, Markers::Absent));
            legend.push((task, stroke));
        }
        let plot = Plot {
            x_label: ITERATIONS.to_owned(),
            y_label: "sensitivity dg/dl".to_owned(),
            lines,
            scale: Scale::Linear,
            zero_line: ZeroLine::Present,
            size: Size::Wide,
        };
        let mut notes = vec![if negative.is_empty() {
            format!("No task had a negative sensitivity at any of the {n_steps} outer steps.")
        } else {
            format!(
                "Negative sensitivity at some time: {}.",
                negative.join(", ")
            )
        }];
        notes.extend(skipped.notes());
        let figures = figure("Sensitivity of each task", &plot)?
            .into_iter()
            .collect();
        Ok(FigureGroup {
            title: run.name.clone(),
            open: false,
            legend,
            figures,
            notes,
        })
    }

    fn responses(&self) -> Result<Vec<Block>, ReportError> {
        let runs = self.runs_with(|record| matches!(record, Record::Response(_)));
        if runs.is_empty() {
            return Ok(vec![text("No run recorded responses of a learned loss.")]);
        }
        let mut blocks = vec![text(
            "Combined loss as a function of one task loss, the other task losses held at their \
             value of that moment. Dark curves are early, light ones late; a disk marks the task \
             loss of that moment.",
        )];
        blocks.extend(one_by_one(&runs, |run| self.responses_of(run))?);
        Ok(blocks)
    }

    fn responses_of(&self, run: &RunData) -> Result<FigureGroup, ReportError> {
        let by_iteration: BTreeMap<usize, &ResponseRecord> = run
            .records
            .iter()
            .filter_map(|record| match record {
                Record::Response(response) => Some((response.iteration, response)),
                _ => None,
            })
            .collect();
        let chosen = spread_out(by_iteration.into_values().collect(), MAX_RESPONSES);
        let last = chosen.len().saturating_sub(1).max(1) as f64;
        let strokes: Vec<(&ResponseRecord, Stroke)> = chosen
            .into_iter()
            .enumerate()
            .map(|(index, response)| (response, Stroke::of_position(index as f64 / last)))
            .collect();

        let mut skipped = Skipped::default();
        let mut figures = Vec::new();
        for (index, task) in self.task_names(run).into_iter().enumerate() {
            let mut lines = Vec::new();
            for (response, stroke) in &strokes {
                let Some(curve) = response.curves.get(index) else {
                    continue;
                };
                let mut drawn = Vec::new();
                for (task_loss, combined_loss) in curve.task_loss.iter().zip(&curve.combined_loss) {
                    let task_loss = skipped.keep(*task_loss);
                    let combined_loss = skipped.keep(*combined_loss);
                    drawn.extend(task_loss.zip(combined_loss));
                }
                let at = response.at.get(index).copied();
                let here = at.and_then(|at| Some((at, interpolate(&drawn, at)?)));
                let thinned = thin_to_extremes(&drawn, self.max_points);
                lines.push(Line::plain(thinned, *stroke, Markers::Absent));
                lines.push(Line::plain(
                    here.into_iter().collect(),
                    *stroke,
                    Markers::Present,
                ));
            }
            let plot = Plot {
                x_label: "task loss".to_owned(),
                y_label: "combined loss".to_owned(),
                lines,
                scale: Scale::Linear,
                zero_line: ZeroLine::Absent,
                size: Size::Small,
            };
            figures.extend(figure(&task, &plot)?);
        }
        Ok(FigureGroup {
            title: run.name.clone(),
            open: false,
            legend: strokes
                .iter()
                .map(|(response, stroke)| (format!("iteration {}", response.iteration), *stroke))
                .collect(),
            figures,
            notes: skipped.notes(),
        })
    }

    fn certificates(&self) -> Result<Vec<Block>, ReportError> {
        let runs = self.runs_with(|record| matches!(record, Record::Meta(_)));
        if runs.is_empty() {
            return Ok(vec![text(
                "No run recorded an outer step, so there is no certificate.",
            )]);
        }
        let mut blocks = vec![text(
            "How well the hypergradient was known: the error that each outer step estimated of its \
             directional derivatives, and the error against the exact hypergradient at the steps \
             that were audited.",
        )];
        blocks.extend(one_by_one(&runs, |run| self.certificate_of(run))?);
        Ok(blocks)
    }

    fn certificate_of(&self, run: &RunData) -> Result<FigureGroup, ReportError> {
        let mut skipped = Skipped::default();
        let estimated_stroke = Stroke::of_index(0);
        let audited_stroke = Stroke::of_index(3);
        let step_stroke = Stroke::of_index(2);
        let estimated = meta_series(run, |meta| meta.certificate.estimated_error);
        let audited = meta_series(run, |meta| meta.certificate.audited_error);
        let step = meta_series(run, |meta| meta.certificate.difference_step);

        let mut line = |series: &Series, stroke: Stroke, markers: Markers| {
            let drawn = log_points(series, &mut skipped);
            Line::plain(thin_to_extremes(&drawn, self.max_points), stroke, markers)
        };
        let error_lines = vec![
            line(&estimated, estimated_stroke, Markers::Absent),
            line(&audited, audited_stroke, Markers::Present),
        ];
        let step_lines = vec![line(&step, step_stroke, Markers::Absent)];

        let log_plot = |y_label: &str, lines: Vec<Line>| Plot {
            x_label: ITERATIONS.to_owned(),
            y_label: y_label.to_owned(),
            lines,
            scale: Scale::Log,
            zero_line: ZeroLine::Absent,
            size: Size::Small,
        };
        let errors = log_plot("relative error", error_lines);
        let steps = log_plot("difference step h", step_lines);
        let mut figures = Vec::new();
        figures.extend(figure("Error of the hypergradient", &errors)?);
        figures.extend(figure("Width of the difference quotient", &steps)?);

        let mut notes = vec![certificate_sentence(run, &audited)];
        if figures.is_empty() {
            notes.push("No error and no difference step was recorded.".to_owned());
        }
        notes.extend(skipped.notes());
        let legend = vec![
            ("estimated error".to_owned(), estimated_stroke),
            ("audited error".to_owned(), audited_stroke),
            ("difference step".to_owned(), step_stroke),
        ];
        Ok(FigureGroup {
            title: run.name.clone(),
            open: false,
            legend,
            figures,
            notes,
        })
    }

    fn cost(&self) -> Vec<Block> {
        if self.runs.is_empty() {
            return vec![text("There is no run.")];
        }
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
        let mut blocks = vec![Block::Table {
            caption: "Each run; training time is without evaluation".to_owned(),
            headers: headers.into_iter().map(str::to_owned).collect(),
            rows: self.runs.iter().map(cost_cells).collect(),
        }];
        let comparison = Comparison::from_summaries(&self.summaries, self.compared_split());
        let seconds = comparison
            .rows
            .iter()
            .map(|row| (row.combiner.as_str(), row.train_seconds.0));
        let memory = comparison
            .rows
            .iter()
            .filter_map(|row| Some((row.combiner.as_str(), row.peak_memory_mib?.0)));
        blocks.extend(bars("Training time, mean over runs", "s", seconds));
        blocks.extend(bars("Peak resident memory, mean over runs", "MiB", memory));
        blocks
    }

    fn configurations(&self) -> Vec<Block> {
        if self.runs.is_empty() {
            return vec![text("There is no run.")];
        }
        self.runs
            .iter()
            .map(|run| {
                let mut shown: String = run.config_toml.chars().take(MAX_CONFIG_CHARS).collect();
                if shown.len() < run.config_toml.len() {
                    shown.push_str("\n[the rest is left out]");
                }
                if shown.trim().is_empty() {
                    shown = "[no configuration was recorded]".to_owned();
                }
                Block::Source {
                    title: run.name.clone(),
                    text: shown,
                }
            })
            .collect()
    }

    /// A figure with a banded line for each group.
    fn banded_figure(
        &self,
        caption: &str,
        size: Size,
        y_label: &str,
        skipped: &mut Skipped,
        values: impl Fn(&RunData) -> Series,
    ) -> Result<Option<Figure>, ReportError> {
        let mut lines = Vec::new();
        for (index, group) in self.groups.iter().enumerate() {
            let all: Vec<Series> = group.runs.iter().map(|&run| values(run)).collect();
            let banded = thin_to_means(&merge(all, skipped), self.max_points);
            lines.push(Line::banded(banded, Stroke::of_index(index)));
        }
        let plot = Plot {
            x_label: ITERATIONS.to_owned(),
            y_label: y_label.to_owned(),
            lines,
            scale: Scale::Linear,
            zero_line: ZeroLine::Absent,
            size,
        };
        figure(caption, &plot)
    }

    /// Figures whose lines are the groups.
    fn by_group(&self, title: &str, figures: Vec<Figure>, skipped: &Skipped) -> Block {
        let legend = self
            .groups
            .iter()
            .enumerate()
            .map(|(index, group)| {
                let label = match group.runs.len() {
                    1 => group.label.clone(),
                    n_runs => format!("{} ({n_runs} runs)", group.label),
                };
                (label, Stroke::of_index(index))
            })
            .collect();
        let notes = skipped.notes();
        Block::Figures(FigureGroup {
            title: title.to_owned(),
            open: true,
            legend,
            figures,
            notes,
        })
    }

    /// The runs that have a record of some kind.
    fn runs_with(&self, wanted: impl Fn(&Record) -> bool) -> Vec<&'a RunData> {
        self.runs
            .iter()
            .filter(|run| run.records.iter().any(&wanted))
            .collect()
    }
}

/// Figures of single runs, the first unfolded.
fn one_by_one(
    runs: &[&RunData],
    build: impl Fn(&RunData) -> Result<FigureGroup, ReportError>,
) -> Result<Vec<Block>, ReportError> {
    let mut blocks = Vec::new();
    for (index, &run) in runs.iter().take(MAX_DRAWN_RUNS).enumerate() {
        let mut group = build(run)?;
        group.open = index == 0;
        blocks.push(Block::Figures(group));
    }
    if runs.len() > MAX_DRAWN_RUNS {
        blocks.push(Block::Text(format!(
            "{} more runs are not drawn.",
            runs.len() - MAX_DRAWN_RUNS
        )));
    }
    Ok(blocks)
}

fn section(id: &'static str, heading: &'static str, blocks: Vec<Block>) -> Section {
    Section {
        id,
        heading,
        blocks,
    }
}

fn text(text: &str) -> Block {
    Block::Text(text.to_owned())
}

fn figure(caption: &str, plot: &Plot) -> Result<Option<Figure>, ReportError> {
    let svg = plot.to_svg()?;
    Ok(svg.map(|svg| Figure {
        caption: caption.to_owned(),
        svg,
        size: plot.size,
    }))
}

fn group_label(run: &RunData) -> String {
    match &run.summary {
        Some(summary) => summary.combiner.clone(),
        None => format!("{} (unfinished)", run.name),
    }
}

fn train_series(run: &RunData, value: impl Fn(&TrainRecord) -> Option<f64>) -> Series {
    series_of(&run.records, |record| match record {
        Record::Train(train) => Some((train.iteration, value(train)?)),
        _ => None,
    })
}

fn meta_series(run: &RunData, value: impl Fn(&MetaRecord) -> Option<f64>) -> Series {
    series_of(&run.records, |record| match record {
        Record::Meta(meta) => Some((meta.iteration, value(meta)?)),
        _ => None,
    })
}

/// At most `n_wanted` of the items, evenly spread, the first and the last among them.
fn spread_out<T>(items: Vec<T>, n_wanted: usize) -> Vec<T> {
    let n_items = items.len();
    if n_items <= n_wanted || n_wanted < 2 {
        return items.into_iter().take(n_wanted).collect();
    }
    let wanted: BTreeSet<usize> = (0..n_wanted)
        .map(|number| number * (n_items - 1) / (n_wanted - 1))
        .collect();
    let indexed = items.into_iter().enumerate();
    indexed
        .filter(|(index, _)| wanted.contains(index))
        .map(|(_, item)| item)
        .collect()
}

/// How the hypergradients of a run were obtained, at which cost, and the worst audit.
fn certificate_sentence(run: &RunData, audited: &Series) -> String {
    let certificates: Vec<_> = run
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Meta(meta) => Some(&meta.certificate),
            _ => None,
        })
        .collect();
    let methods: BTreeSet<String> = certificates
        .iter()
        .map(|certificate| format!("{} with {}", certificate.estimator, certificate.product))
        .collect();
    let methods: Vec<String> = methods.into_iter().collect();
    let forward: Vec<f64> = certificates
        .iter()
        .map(|certificate| certificate.forward_passes as f64)
        .collect();
    let backward: Vec<f64> = certificates
        .iter()
        .map(|certificate| certificate.backward_passes as f64)
        .collect();
    let audits = match audited.values().copied().max_by(f64::total_cmp) {
        Some(worst) => {
            format!(
                "{} audits, the largest error {}",
                audited.len(),
                error_cell(Some(worst))
            )
        }
        None => "no audit".to_owned(),
    };
    format!(
        "{} outer steps; {}; on average {:.1} forward passes and {:.1} forward-and-backward passes \
         of the backbone per step; {audits}.",
        certificates.len(),
        methods.join(", "),
        mean_and_deviation(&forward).0,
        mean_and_deviation(&backward).0,
    )
}

fn cost_cells(run: &RunData) -> Vec<String> {
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
    let per_iteration = if summary.iterations == 0 {
        absent()
    } else {
        number_cell(
            1000.0 * summary.train_seconds / summary.iterations as f64,
            1,
        )
    };
    vec![
        run.name.clone(),
        summary.combiner.clone(),
        summary.seed.to_string(),
        summary.device.clone(),
        "finished".to_owned(),
        summary.iterations.to_string(),
        number_cell(summary.train_seconds, 1),
        per_iteration,
        number_cell(summary.total_seconds, 1),
        summary
            .peak_memory_bytes
            .map_or_else(absent, |bytes| number_cell(mebibytes(bytes), 0)),
        error_cell(summary.worst_hypergradient_error),
    ]
}

/// Bars for the values that have a length, or nothing if none has.
fn bars<'a>(
    caption: &str,
    unit: &str,
    values: impl Iterator<Item = (&'a str, f64)>,
) -> Option<Block> {
    let values: Vec<(&str, f64)> = values
        .filter(|(_, value)| value.is_finite() && *value >= 0.0)
        .collect();
    let longest = values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let bars = values
        .into_iter()
        .map(|(label, value)| Bar {
            label: label.to_owned(),
            value: format!("{value:.1} {unit}"),
            percent: 100.0 * value / longest,
        })
        .collect();
    Some(Block::Bars {
        caption: format!("{caption} ({unit})"),
        bars,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{CertificateRecord, EvalRecord, ResponseCurve};

    const HEADINGS: [&str; 9] = [
        "Comparison",
        "Metrics by split",
        "Task losses",
        "Combined loss",
        "Sensitivities",
        "Response of the learned loss",
        "Hypergradient certificate",
        "Time and memory",
        "Configuration",
    ];

    fn summary(name: &str, combiner: &str, seed: u64) -> Summary {
        let metrics = BTreeMap::from([
            ("text_to_video.r1".to_owned(), 0.25),
            ("text_to_video.r5".to_owned(), 0.5),
            ("text_to_video.r10".to_owned(), 0.75),
            ("text_to_video.median_rank".to_owned(), 5.0),
        ]);
        Summary {
            format_version: 1,
            name: name.to_owned(),
            combiner: combiner.to_owned(),
            seed,
            device: "flex".to_owned(),
            tasks: vec!["contrastive".to_owned(), "masked<language>".to_owned()],
            primary: "contrastive".to_owned(),
            iterations: 20,
            metrics: BTreeMap::from([
                ("test".to_owned(), metrics.clone()),
                ("validation".to_owned(), metrics),
            ]),
            train_seconds: 2.0,
            total_seconds: 3.0,
            peak_memory_bytes: Some(1 << 30),
            worst_hypergradient_error: Some(1e-4),
        }
    }

    fn train(iteration: usize, loss: f64) -> Record {
        Record::Train(TrainRecord {
            iteration,
            epoch: 0,
            task_losses: vec![loss, 2.0 * loss],
            combined_loss: 3.0 * loss,
            learning_rate: 1.0,
            gradient_norm: 0.5,
            seconds: iteration as f64,
        })
    }

    fn meta(iteration: usize, sensitivity: f64) -> Record {
        Record::Meta(MetaRecord {
            iteration,
            outer_objective: 1.0,
            task_losses: vec![1.0, 2.0],
            sensitivities: vec![1.0, sensitivity],
            directional: vec![0.1, 0.2],
            hypergradient_norm: 0.3,
            certificate: CertificateRecord {
                estimator: "identity".to_owned(),
                product: "central_difference".to_owned(),
                difference_step: Some(1e-3),
                estimated_error: Some(1e-5),
                audited_error: (iteration == 0).then_some(2e-4),
                forward_passes: 2,
                relative_residual: None,
                smallest_curvature: None,
                findings: Vec::new(),
                backward_passes: 1,
            },
        })
    }

    fn response(iteration: usize) -> Record {
        let curve = ResponseCurve {
            task_loss: vec![0.0, 1.0, 2.0],
            combined_loss: vec![0.0, 0.5, f64::NAN],
        };
        Record::Response(ResponseRecord {
            iteration,
            at: vec![0.5, 0.5],
            curves: vec![curve.clone(), curve],
        })
    }

    fn eval(iteration: usize) -> Record {
        Record::Eval(EvalRecord {
            iteration,
            split: "validation".to_owned(),
            n_items: 8,
            metrics: BTreeMap::from([("text_to_video.r1".to_owned(), 0.125)]),
        })
    }

    fn sum_run() -> RunData {
        let mut records: Vec<Record> = (0..20)
            .map(|iteration| train(iteration, 1.0 / (1.0 + iteration as f64)))
            .collect();
        records.push(train(20, f64::NAN));
        records.push(train(21, f64::INFINITY));
        RunData {
            name: "<b>".to_owned(),
            summary: Some(summary("<b>", "sum", 0)),
            records,
            config_toml: "combiner = \"sum\"\n".to_owned(),
        }
    }

    fn meltr_run() -> RunData {
        let mut records: Vec<Record> = (0..1000).map(|iteration| train(iteration, 1.0)).collect();
        records.extend((0..10).map(|step| meta(100 * step, if step < 3 { -0.5 } else { 0.5 })));
        records.extend([response(0), response(500), eval(0), eval(500)]);
        RunData {
            name: "meltr-0".to_owned(),
            summary: Some(summary("meltr-0", "meltr", 0)),
            records,
            config_toml: "combiner = \"meltr\"\n".to_owned(),
        }
    }

    fn html(runs: &[RunData]) -> String {
        Report {
            title: "A report",
            runs,
            references: &[],
        }
        .to_html()
        .unwrap()
    }

    fn assert_self_contained(html: &str) {
        let without_namespace = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!without_namespace.contains("http://"));
        assert!(!without_namespace.contains("https://"));
        assert!(!html.contains("<script") && !html.contains("<link") && !html.contains("@import"));
        assert!(html.len() < 3_000_000, "{} bytes", html.len());
    }

    #[test]
    fn the_page_has_every_section_and_needs_nothing_else() {
        let html = html(&[sum_run(), meltr_run()]);
        for heading in HEADINGS {
            assert!(
                html.contains(&format!("<h2>{heading}</h2>")),
                "no section `{heading}`"
            );
        }
        assert_self_contained(&html);
        // Metrics 1, task losses 2, combined loss 1, sensitivities 1, responses 2, certificate 2.
        assert_eq!(html.matches("<svg").count(), 9);
        assert!(html.contains("prefers-color-scheme"));
    }

    #[test]
    fn names_are_escaped() {
        let html = html(&[sum_run(), meltr_run()]);
        assert!(!html.contains("<b>") && html.contains("&lt;b&gt;"));
        assert!(!html.contains("masked<language>") && html.contains("masked&lt;language&gt;"));
    }

    #[test]
    fn values_that_are_not_finite_are_counted_and_not_drawn() {
        let html = html(&[sum_run()]);
        assert!(
            html.contains("Not drawn: 4 values that are not finite."),
            "two in two tasks"
        );
        assert!(
            html.contains("Not drawn: 2 values that are not finite."),
            "the combined loss"
        );
        assert!(!html.contains("NaN"));
    }

    #[test]
    fn negative_sensitivities_are_named_with_their_share() {
        let html = html(&[meltr_run()]);
        assert!(html.contains("masked&lt;language&gt; (30.0 % of 10 outer steps)"));
        assert!(!html.contains("contrastive ("));
    }

    #[test]
    fn audits_are_summarized() {
        let html = html(&[meltr_run()]);
        assert!(html.contains("10 outer steps; identity with central_difference;"));
        assert!(html.contains("1 audits, the largest error 2.0e-4"));
    }

    #[test]
    fn an_unfinished_run_is_shown_as_such() {
        let mut run = meltr_run();
        run.name = "stopped".to_owned();
        run.summary = None;
        let html = html(&[sum_run(), run]);
        assert!(html.contains("not in the table: stopped."));
        assert!(html.contains("stopped (unfinished)"));
        assert!(html.contains("<td>unfinished</td>"));
    }

    #[test]
    fn nothing_at_all_still_makes_a_page() {
        let html = html(&[]);
        for heading in HEADINGS {
            assert!(
                html.contains(&format!("<h2>{heading}</h2>")),
                "no section `{heading}`"
            );
        }
        assert!(html.contains("There is no finished run to compare."));
        assert!(html.contains("No training step was recorded."));
        assert_self_contained(&html);
    }

    #[test]
    fn references_are_rows_of_the_comparison() {
        let references = [ReferenceRow {
            name: "linear".to_owned(),
            metrics: BTreeMap::from([("text_to_video.r1".to_owned(), 0.1)]),
            note: "closed form".to_owned(),
        }];
        let runs = [sum_run()];
        let report = Report {
            title: "A report",
            runs: &runs,
            references: &references,
        };
        let html = report.to_html().unwrap();
        assert!(html.contains("<td>linear</td><td>-</td><td>10.0</td>"));
        assert!(html.contains("linear: closed form"));
    }

    #[test]
    fn many_long_runs_stay_below_three_megabytes() {
        let runs: Vec<RunData> = (0..16)
            .map(|seed| {
                let mut run = meltr_run();
                run.name = format!("run-{seed}");
                let records = (0..2000).map(|step| train(step, ((step * 7919) % 101) as f64));
                let outer = (0..2000).map(|step| meta(step, (step % 17) as f64 - 8.0));
                run.records = records.chain(outer).collect();
                run.summary = Some(summary(&run.name, &format!("combiner-{}", seed % 8), seed));
                run
            })
            .collect();
        let html = html(&runs);
        assert_self_contained(&html);
        assert!(html.contains("4 more runs are not drawn."));
    }

    #[test]
    fn items_are_spread_from_first_to_last() {
        assert_eq!(spread_out((0..11).collect(), 3), [0, 5, 10]);
        assert_eq!(spread_out(vec![1, 2], 6), [1, 2]);
    }
}
