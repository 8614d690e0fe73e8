//! What a sweep tells in the end: tables, differences, the report, lines of the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use meltr_train::record::Summary;
use meltr_train::report::{
    Comparison, ComparisonRow, ReferenceRow, RunData, RunSet, leading_metric, mean_and_half_width,
    metric_text, report_of_sets,
};
use meltr_train::{Better, CombinerName, Run};
use serde_json::{Map, Value, json};

use super::check::Counts;
use super::checksums;
use super::folder::{SweepFolder, cannot};
use super::group::Group;
use super::ledger::{Budget, Choice, CombinerEntry, Difference, Entry, FORMAT_VERSION, append};
use super::plan::jobs;
use super::provenance::{Provenance, command, today};
use super::statistics::{Side, Spread};
use crate::cli::ReproArguments;
use crate::error::CliError;
use crate::experiment::Experiment;
use crate::output;

/// The ledger of sweeps that name no other, below their `--out`.
const LEDGER: &str = "ledger.jsonl";

/// What the others are compared with, seed by seed.
const AGAINST: [CombinerName; 2] = [CombinerName::Sum, CombinerName::Primary];

/// Runs that are compared with each other.
pub(super) struct Compared {
    pub(super) budget: Budget,
    /// Where they lie.
    pub(super) folder: PathBuf,
    /// In the order of the table.
    pub(super) groups: Vec<Group>,
}

/// Everything that the command tells in the end.
pub(super) struct Results<'a> {
    pub(super) arguments: &'a ReproArguments,
    /// The experiment's file.
    pub(super) path: &'a Path,
    pub(super) experiment: &'a Experiment,
    pub(super) combiners: &'a [CombinerName],
    pub(super) counts: Counts,
    pub(super) folder: &'a SweepFolder,
    pub(super) provenance: Provenance,
    /// The commit that the sweep was begun at, if it is another one.
    pub(super) begun_at: Option<String>,
    /// Runs at a time.
    pub(super) jobs: usize,
    pub(super) references: &'a [ReferenceRow],
    pub(super) choice: Option<Choice>,
    /// At least one.
    pub(super) compared: Vec<Compared>,
}

impl Results<'_> {
    /// Prints the comparison, unless as JSON, and writes report and ledger; the comparison is not
    /// lost if that fails.
    pub(super) fn publish(&self) -> Result<Value, CliError> {
        let page = self.folder.path.join("report.html");
        let written = self.write_report(&page);
        let ledger = self.ledger_path();
        let entries = self.entries()?;
        let mut documents = self
            .compared
            .iter()
            .zip(&entries)
            .map(|(compared, entry)| self.document(compared, entry));
        let mut document = documents.next().unwrap_or_default();
        if let Value::Object(fields) = &mut document {
            fields.insert("report".to_owned(), page.display().to_string().into());
            fields.insert("ledger".to_owned(), ledger.display().to_string().into());
            if let Some(equal_time) = documents.next() {
                fields.insert("equal_time".to_owned(), equal_time);
            }
        }
        if !self.arguments.json {
            for (compared, entry) in self.compared.iter().zip(&entries) {
                self.print(compared, entry);
            }
        }
        written?;
        // A sweep that is looked at again has its lines already.
        let is_new = !self.folder.is_finished;
        if is_new {
            append(&ledger, &entries)?;
            self.folder.finish(&document)?;
        }
        if !self.arguments.json {
            output::line(&format!("report: {}", page.display()));
            if is_new {
                output::line(&format!("ledger: {}", ledger.display()));
            }
        }
        Ok(document)
    }

    fn ledger_path(&self) -> PathBuf {
        match &self.arguments.ledger {
            Some(path) => path.clone(),
            None => self.arguments.out.join(LEDGER),
        }
    }

    fn write_report(&self, page: &Path) -> Result<(), CliError> {
        let runs = self
            .compared
            .iter()
            .map(|compared| self.read_runs(compared))
            .collect::<Result<Vec<_>, CliError>>()?;
        let sets: Vec<RunSet<'_>> = self
            .compared
            .iter()
            .zip(&runs)
            .map(|(compared, runs)| RunSet {
                label: heading(compared.budget),
                runs,
                references: self.references,
            })
            .collect();
        let html = report_of_sets(&self.experiment.title, &sets).map_err(CliError::failed)?;
        fs::write(page, html).map_err(cannot("write", page))
    }

    /// The runs with their logs, in the order of the table.
    fn read_runs(&self, compared: &Compared) -> Result<Vec<RunData>, CliError> {
        let seeds = self.arguments.seeds;
        let mut runs = Vec::new();
        for group in &compared.groups {
            for job in jobs(
                &compared.folder,
                std::slice::from_ref(&group.variant),
                seeds,
            ) {
                runs.push(Run::read(&job.directory)?);
            }
        }
        Ok(runs)
    }

    fn comparison(&self, compared: &Compared) -> Comparison {
        Comparison::from_summaries(&summaries(compared), &self.experiment.compared_split)
    }

    /// What is printed as JSON about one comparison.
    fn document(&self, compared: &Compared, entry: &Entry) -> Value {
        let split = &self.experiment.compared_split;
        let comparison = self.comparison(compared);
        let rows: Vec<Value> = comparison.rows.iter().map(row_json).collect();
        json!({
            "folder": compared.folder.display().to_string(),
            "split": split,
            "n_train": self.counts.train,
            "n_test": self.counts.evaluated.get(split),
            "ties": self.ties(),
            "rows": rows,
            "differences": entry.differences,
            "choice": self.choice,
            "summaries": summaries(compared),
            "references": self.references,
        })
    }

    fn ties(&self) -> Option<String> {
        let ties = self.experiment.task.ties()?;
        Some(ties.name().to_owned())
    }

    fn print(&self, compared: &Compared, entry: &Entry) {
        if self.compared.len() > 1 || compared.budget == Budget::EqualTime {
            output::line(&format!("{}\n", heading(compared.budget)));
        }
        output::line(&self.comparison(compared).to_text(self.references));
        let split = &self.experiment.compared_split;
        let ties = self
            .ties()
            .map_or_else(String::new, |ties| format!("; ties: {ties}"));
        let n_test = self.counts.evaluated.get(split).copied().unwrap_or(0);
        output::line(&format!(
            "trained on {} items ({}), compared on the {n_test} items of split `{split}`{ties}",
            self.counts.train,
            self.experiment.task.train_splits().join(" + ")
        ));
        if compared.budget == Budget::EqualTime {
            output::line(&steps_line(&entry.combiners));
        }
        if let Some(choice) = &self.choice {
            output::line(&choice_line(choice));
        }
        for line in self.difference_lines(&entry.differences) {
            output::line(&line);
        }
    }

    /// The differences in words: which intervals lie above 0, which below.
    fn difference_lines(&self, differences: &[Difference]) -> Vec<String> {
        let mut lines = Vec::new();
        for against in AGAINST.map(CombinerName::name) {
            let ours: Vec<&Difference> = differences
                .iter()
                .filter(|difference| difference.against == against)
                .collect();
            let Some(first) = ours.first() else {
                continue;
            };
            lines.push(format!(
                "`{}`{} against {against}, seed by seed: mean difference ± half of its 95 % \
                 interval",
                first.metric,
                self.direction(&first.metric)
            ));
            for (side, label) in [
                (Some(Side::Above), "above"),
                (Some(Side::Below), "below"),
                (Some(Side::Around), "not told apart"),
                (None, "no interval"),
            ] {
                let shown: Vec<String> = ours
                    .iter()
                    .filter(|difference| difference.difference.side() == side)
                    .map(|difference| shown_difference(difference))
                    .collect();
                if !shown.is_empty() {
                    lines.push(format!("  {label}: {}", shown.join(", ")));
                }
            }
        }
        if !lines.is_empty() {
            lines.push("  (not corrected for the number of comparisons)".to_owned());
        }
        lines
    }

    /// Which way a metric improves, if the experiment says so.
    fn direction(&self, name: &str) -> &'static str {
        let metric = self.experiment.train.best_metric.as_ref();
        match metric.filter(|metric| metric.name == name) {
            Some(metric) if metric.better == Better::Lower => " (lower is better)",
            Some(_) => " (higher is better)",
            None => "",
        }
    }

    /// The lines of the ledger, one for each comparison.
    fn entries(&self) -> Result<Vec<Entry>, CliError> {
        let table = toml::Table::try_from(self.experiment).map_err(CliError::failed)?;
        let files = checksums::of_experiment(&table)?;
        let names: Vec<&str> = self.combiners.iter().map(|name| name.name()).collect();
        let command = command(self.arguments, self.path, &names);
        Ok(self
            .compared
            .iter()
            .map(|compared| Entry {
                format_version: FORMAT_VERSION,
                date: today(),
                row: self.experiment.name.clone(),
                title: self.experiment.title.clone(),
                budget: compared.budget,
                command: command.clone(),
                provenance: self.provenance.clone(),
                begun_at: self.begun_at.clone(),
                device: self.arguments.device.clone(),
                cores: thread::available_parallelism().map_or(1, NonZero::get),
                jobs: self.jobs,
                files: files.clone(),
                train_splits: self.experiment.task.train_splits().to_vec(),
                n_train: self.counts.train,
                split: self.experiment.compared_split.clone(),
                n_items: self.counts.evaluated.clone(),
                ties: self.ties(),
                seeds: (1..=self.arguments.seeds).collect(),
                combiners: compared
                    .groups
                    .iter()
                    .map(|group| self.combiner_entry(group))
                    .collect(),
                differences: self.differences(&compared.groups),
                choice: self.choice.clone(),
                references: self.references.to_vec(),
                published: self.experiment.published.clone(),
            })
            .collect())
    }

    fn combiner_entry(&self, group: &Group) -> CombinerEntry {
        let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for summary in &group.summaries {
            for (split, metrics) in &summary.metrics {
                let known = names.entry(split).or_default();
                known.extend(metrics.keys().map(String::as_str));
            }
        }
        let metrics: BTreeMap<String, BTreeMap<String, Spread>> = names
            .into_iter()
            .map(|(split, names)| {
                let spreads = names
                    .into_iter()
                    .map(|name| (name.to_owned(), group.metric(split, name)))
                    .collect();
                (split.to_owned(), spreads)
            })
            .collect();
        let summaries = &group.summaries;
        CombinerEntry {
            combiner: group.variant.combiner.name().to_owned(),
            auxiliary_weight: group.variant.auxiliary_weight,
            iterations: group
                .variant
                .iterations
                .unwrap_or(self.experiment.train.iterations),
            difference_to_published: self.differences_to_published(&metrics),
            metrics,
            train_seconds: group.train_seconds(),
            seconds_per_step: group.seconds_per_step(),
            peak_memory_bytes: summaries
                .iter()
                .map(|summary| summary.peak_memory_bytes)
                .collect(),
            worst_hypergradient_error: summaries
                .iter()
                .filter_map(|summary| summary.worst_hypergradient_error)
                .max_by(f64::total_cmp),
        }
    }

    fn differences_to_published(
        &self,
        metrics: &BTreeMap<String, BTreeMap<String, Spread>>,
    ) -> BTreeMap<String, f64> {
        let measured = metrics.get(&self.experiment.compared_split);
        let (Some(measured), Some(published)) = (measured, &self.experiment.published) else {
            return BTreeMap::new();
        };
        published
            .metrics
            .iter()
            .filter_map(|(name, value)| {
                let mean = measured.get(name)?.mean?;
                Some((name.clone(), mean - value))
            })
            .collect()
    }

    /// Each combiner against the plain sum and against the primary loss alone, in the metric that
    /// the experiment chooses by, or else the one that stands for a run.
    fn differences(&self, groups: &[Group]) -> Vec<Difference> {
        let split = &self.experiment.compared_split;
        let Some(metric) = self.compared_metric(groups) else {
            return Vec::new();
        };
        let mut differences = Vec::new();
        for against in AGAINST {
            let Some(base) = groups
                .iter()
                .find(|group| group.variant.combiner == against)
            else {
                continue;
            };
            let theirs = base.metric(split, &metric);
            for group in groups {
                if group.variant.combiner == against {
                    continue;
                }
                let ours = group.metric(split, &metric);
                differences.push(Difference {
                    combiner: group.variant.combiner.name().to_owned(),
                    against: against.name().to_owned(),
                    metric: metric.clone(),
                    difference: Spread::of_differences(&ours, &theirs),
                });
            }
        }
        differences
    }

    fn compared_metric(&self, groups: &[Group]) -> Option<String> {
        let measured = groups
            .iter()
            .flat_map(|group| &group.summaries)
            .filter_map(|summary| summary.metrics.get(&self.experiment.compared_split))
            .flat_map(|metrics| metrics.keys().map(String::as_str));
        match &self.experiment.train.best_metric {
            Some(metric) => Some(metric.name.clone()),
            None => leading_metric(measured).map(str::to_owned),
        }
    }
}

/// All runs, in the order of the table.
fn summaries(compared: &Compared) -> Vec<Summary> {
    let of_groups = compared.groups.iter();
    of_groups
        .flat_map(|group| group.summaries.iter().cloned())
        .collect()
}

/// What the combiners have the same amount of, in words.
fn heading(budget: Budget) -> &'static str {
    match budget {
        Budget::EqualSteps => "Equal steps",
        Budget::EqualTime => "Equal wall time: as many steps as fit into the time of the sum",
    }
}

fn steps_line(combiners: &[CombinerEntry]) -> String {
    let shown: Vec<String> = combiners
        .iter()
        .map(|entry| {
            let seconds = entry
                .train_seconds
                .mean
                .map_or_else(|| "?".to_owned(), |mean| format!("{mean:.1}"));
            format!("{} {} in {seconds} s", entry.combiner, entry.iterations)
        })
        .collect();
    format!("steps, and seconds that they took: {}", shown.join(", "))
}

fn choice_line(choice: &Choice) -> String {
    let tried: Vec<String> = choice
        .tried
        .iter()
        .map(|tried| {
            let mean = tried.mean.map_or_else(
                || "not measured".to_owned(),
                |mean| metric_text(&choice.metric, mean),
            );
            format!("{} gave {mean}", tried.value)
        })
        .collect();
    format!(
        "`{}` of fixed is {}, chosen by the mean `{}` on split `{}`: {}",
        choice.key,
        choice.chosen,
        choice.metric,
        choice.split,
        tried.join(", ")
    )
}

fn shown_difference(difference: &Difference) -> String {
    let Difference {
        combiner,
        metric,
        difference,
        ..
    } = difference;
    let Some(mean) = difference.mean else {
        return format!("{combiner} (not measured in every run)");
    };
    let sign = if mean < 0.0 { "" } else { "+" };
    let mean = metric_text(metric, mean);
    match difference.half_width {
        Some(half) => format!("{combiner} {sign}{mean} ± {}", metric_text(metric, half)),
        None => format!("{combiner} {sign}{mean}"),
    }
}

fn row_json(row: &ComparisonRow) -> Value {
    let metrics: Map<String, Value> = row
        .metrics
        .iter()
        .map(|(name, (mean, std))| {
            let values = row.values.get(name);
            let half_width = values.and_then(|values| mean_and_half_width(values).1);
            let spread = json!({ "mean": mean, "std": std, "half_width": half_width });
            (name.clone(), spread)
        })
        .collect();
    json!({
        "combiner": row.combiner,
        "n_runs": row.n_runs,
        "n_seeds": row.n_seeds,
        "metrics": metrics,
        "train_seconds": spread_json(row.train_seconds),
        "peak_memory_mib": row.peak_memory_mib.map(spread_json),
        "worst_hypergradient_error": row.worst_hypergradient_error,
    })
}

/// A mean with its sample standard deviation.
fn spread_json((mean, std): (f64, f64)) -> Value {
    json!({ "mean": mean, "std": std })
}
