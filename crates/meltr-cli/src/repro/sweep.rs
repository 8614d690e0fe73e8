//! A sweep from its settings to its results.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::thread;

use meltr_train::CombinerName;
use serde::Serialize;
use serde_json::{Value, json};
use toml::Table;

use super::check::{Count, check, chosen_combiners};
use super::folder::{Intent, SweepFolder, cannot};
use super::group::{Group, best_weight, seconds_of_sum, with_equal_time};
use super::jobs::{Batch, Interrupt, Pending};
use super::ledger::{Budget, Choice};
use super::plan::{self, Job, Progress, Start, Threads, Variant};
use super::provenance::{Provenance, other_commit};
use super::results::{Compared, Results};
use crate::cli::ReproArguments;
use crate::device;
use crate::error::CliError;
use crate::experiment::Experiment;
use crate::output;

/// The folder of the runs with equal time, within that of the sweep.
const EQUAL_TIME: &str = "equal-time";

/// The folder of the runs whose steps are timed, within that of the sweep.
const TIMING: &str = "timing";

/// Inner steps of such a run.
const TIMED_STEPS: usize = 40;

/// Runs that are named in a message, at most.
const MAX_NAMED: usize = 8;

/// All runs of one experiment.
pub(super) struct Sweep<'a> {
    pub(super) arguments: &'a ReproArguments,
    path: &'a Path,
    /// Settings of all runs as `key=value`.
    overrides: Vec<String>,
    pub(super) experiment: Experiment,
    /// In the order of tables, each once.
    pub(super) combiners: Vec<CombinerName>,
}

/// What makes a sweep, beside its experiment.
#[derive(Serialize)]
struct SweepSettings<'a> {
    device: &'a str,
    seeds: u64,
    combiners: &'a [CombinerName],
    auxiliary_weights: &'a [f64],
    equal_time: bool,
    equal_time_only: bool,
}

/// What a sweep compares.
struct Comparisons {
    /// In the order in which they are told, at least one.
    compared: Vec<Compared>,
    /// How the weight of `fixed` was chosen, where several were tried.
    choice: Option<Choice>,
}

/// Whether all runs of all shares have finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Completeness {
    Complete,
    /// This process has done its share, and others have not.
    Partial,
}

impl<'a> Sweep<'a> {
    /// Reads the experiment and refuses what could not be compared.
    pub(super) fn new(arguments: &'a ReproArguments, path: &'a Path) -> Result<Self, CliError> {
        let mut overrides = arguments.set.clone();
        if let Some(iterations) = arguments.iterations {
            overrides.push(format!("train.iterations={iterations}"));
        }
        let experiment = Experiment::read(path, &overrides)?;
        let own = experiment.combiner.name;
        let sweep = Self {
            arguments,
            path,
            experiment,
            overrides,
            combiners: chosen_combiners(arguments.combiners.as_deref(), own)?,
        };
        check(&sweep)?;
        Ok(sweep)
    }

    /// Makes the runs that are missing and, unless they are shared, the comparison; gives what the
    /// command prints as JSON.
    pub(super) fn run(&self, interrupt: &Interrupt) -> Result<Value, CliError> {
        let arguments = self.arguments;
        let device = device::parse(&arguments.device)?;
        let prepared = self.experiment.prepare(&device)?;
        // Before the runs, so that what cannot be computed is known before them.
        let references = match arguments.shard {
            None => self.experiment.references(&prepared)?,
            Some(_) => Vec::new(),
        };
        let counts = prepared.visit(Count(&self.experiment))?;

        let provenance = Provenance::of_this_program();
        let base = arguments.out.join(self.experiment.name.replace('/', "-"));
        let folder = SweepFolder::find(
            &base,
            &self.settings()?,
            &provenance.to_toml(),
            self.intent(),
        )?;
        let begun_at = other_commit(&folder.begun_by, &provenance);
        self.tell_of(&folder, begun_at.as_deref());

        let Some(made) = self.comparisons(&folder.path, interrupt)? else {
            return Ok(self.share_document(&folder));
        };
        if arguments.shard.is_some() {
            return Ok(self.share_document(&folder));
        }
        Results {
            arguments,
            path: self.path,
            experiment: &self.experiment,
            combiners: &self.combiners,
            counts,
            folder: &folder,
            provenance,
            begun_at,
            jobs: self.n_workers(),
            references: &references,
            choice: made.choice,
            compared: made.compared,
        }
        .publish()
    }

    /// All runs, in the order in which they are told; `None` if other shares of them are missing.
    fn comparisons(
        &self,
        folder: &Path,
        interrupt: &Interrupt,
    ) -> Result<Option<Comparisons>, CliError> {
        let arguments = self.arguments;
        let mut variants = plan::with_equal_steps(&self.combiners, &arguments.auxiliary_weights);
        if arguments.equal_time_only {
            for variant in &mut variants {
                variant.iterations = Some(TIMED_STEPS);
            }
            let timing = folder.join(TIMING);
            let Some(groups) = self.groups(&timing, &variants, 1, interrupt)? else {
                return Ok(None);
            };
            let steps = self.experiment.train.iterations as f64;
            let budget = seconds_of_sum(&groups)? * steps / TIMED_STEPS as f64;
            let equal_time = self.with_equal_time(folder, &groups, budget, interrupt)?;
            return Ok(equal_time.map(|equal_time| Comparisons {
                compared: vec![equal_time],
                choice: None,
            }));
        }
        let seeds = arguments.seeds;
        let Some(mut groups) = self.groups(folder, &variants, seeds, interrupt)? else {
            return Ok(None);
        };
        let choice = self.keep_best_weight(&mut groups)?;
        let equal_steps = Compared {
            budget: Budget::EqualSteps,
            folder: folder.to_owned(),
            groups,
        };
        if !arguments.equal_time {
            return Ok(Some(Comparisons {
                compared: vec![equal_steps],
                choice,
            }));
        }
        let groups = &equal_steps.groups;
        let budget = seconds_of_sum(groups)?;
        let equal_time = self.with_equal_time(folder, groups, budget, interrupt)?;
        Ok(equal_time.map(|equal_time| Comparisons {
            compared: vec![equal_steps, equal_time],
            choice,
        }))
    }

    /// Runs that take `budget` seconds, by the time of a step in those of `timed`; `None` if other
    /// shares of them are missing.
    fn with_equal_time(
        &self,
        folder: &Path,
        timed: &[Group],
        budget: f64,
        interrupt: &Interrupt,
    ) -> Result<Option<Compared>, CliError> {
        let folder = folder.join(EQUAL_TIME);
        let variants = with_equal_time(timed, budget)?;
        let groups = self.groups(&folder, &variants, self.arguments.seeds, interrupt)?;
        Ok(groups.map(|groups| Compared {
            budget: Budget::EqualTime,
            folder,
            groups,
        }))
    }

    /// The whole configuration of the sweep.
    fn settings(&self) -> Result<Table, CliError> {
        let mut table = Table::try_from(&self.experiment).map_err(CliError::failed)?;
        let own = Table::try_from(SweepSettings {
            device: &self.arguments.device,
            seeds: self.arguments.seeds,
            combiners: &self.combiners,
            auxiliary_weights: &self.arguments.auxiliary_weights,
            equal_time: self.arguments.equal_time,
            equal_time_only: self.arguments.equal_time_only,
        })
        .map_err(CliError::failed)?;
        table.insert("sweep".to_owned(), toml::Value::Table(own));
        Ok(table)
    }

    fn intent(&self) -> Intent {
        if self.arguments.collect {
            Intent::Look
        } else if self.arguments.new {
            Intent::StartAnother
        } else if self.arguments.shard.is_some() {
            Intent::GoOnWithShare
        } else {
            Intent::GoOn
        }
    }

    fn tell_of(&self, folder: &SweepFolder, begun_at: Option<&str>) {
        let place = folder.path.display();
        if folder.is_finished {
            output::note(&format!("the sweep in `{place}` has finished"));
        } else if folder.is_old {
            let begun = begun_at.map_or_else(String::new, |commit| {
                format!(", which was begun by the program of commit {commit}")
            });
            output::note(&format!("going on with `{place}`{begun}"));
        }
    }

    fn n_workers(&self) -> usize {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        self.arguments.jobs.unwrap_or(cores)
    }

    /// The runs of each variant with the first `seeds` seeds, all taken to their end; `None` if
    /// other shares of them are missing.
    fn groups(
        &self,
        folder: &Path,
        variants: &[Variant],
        seeds: u64,
        interrupt: &Interrupt,
    ) -> Result<Option<Vec<Group>>, CliError> {
        fs::create_dir_all(folder).map_err(cannot("create", folder))?;
        let jobs = plan::jobs(folder, variants, seeds);
        if self.complete(folder, &jobs, interrupt)? == Completeness::Partial {
            return Ok(None);
        }
        variants
            .iter()
            .map(|variant| Group::read(folder, variant, seeds))
            .collect::<Result<_, CliError>>()
            .map(Some)
    }

    /// Takes runs to their end, those of this process's share.
    fn complete(
        &self,
        folder: &Path,
        all: &[Job],
        interrupt: &Interrupt,
    ) -> Result<Completeness, CliError> {
        let arguments = self.arguments;
        let program = std::env::current_exe().map_err(|error| {
            CliError::Failed(format!("cannot find this program's file: {error}"))
        })?;
        let n_workers = self.n_workers();
        let start = Start {
            program: &program,
            experiment: self.path,
            overrides: &self.overrides,
            device: &arguments.device,
            threads: if n_workers > 1 && all.len() > 1 {
                Threads::One
            } else {
                Threads::Any
            },
        };
        let mut finished = Vec::new();
        let mut pending = Vec::new();
        let mut of_others = Vec::new();
        for (place, job) in all.iter().enumerate() {
            let progress = job.progress(&start)?;
            let is_ours = arguments.shard.is_none_or(|share| share.holds(place));
            match (is_ours, progress) {
                (true, Progress::Finished) => finished.push(job.name()),
                (true, _) => pending.push(Pending { job, progress }),
                (false, Progress::Finished) => {}
                (false, _) => of_others.push(job),
            }
        }
        if arguments.collect && !pending.is_empty() {
            let missing: Vec<String> = pending.iter().map(|pending| pending.job.name()).collect();
            return Err(CliError::Input(format!(
                "{} of {} runs in `{}` have not finished: {}; the same command without --collect \
                 makes them",
                missing.len(),
                all.len(),
                folder.display(),
                shortened(&missing)
            )));
        }
        let batch = Batch {
            folder,
            split: &self.experiment.compared_split,
            iterations: self.experiment.train.iterations,
            start,
            n_workers,
            finished,
            pending,
        };
        batch.run(interrupt)?;
        let is_finished = |job: &&Job| matches!(job.progress(&batch.start), Ok(Progress::Finished));
        Ok(if of_others.iter().all(is_finished) {
            Completeness::Complete
        } else {
            Completeness::Partial
        })
    }

    /// Of the runs of `fixed` with several weights, keeps those of the best one.
    fn keep_best_weight(&self, groups: &mut Vec<Group>) -> Result<Option<Choice>, CliError> {
        let tried: Vec<&Group> = groups
            .iter()
            .filter(|group| group.variant.auxiliary_weight.is_some())
            .collect();
        let (Some(metric), false) = (&self.experiment.train.best_metric, tried.is_empty()) else {
            return Ok(None);
        };
        let choice = best_weight(&tried, metric)?;
        groups.retain(|group| {
            let weight = group.variant.auxiliary_weight;
            weight.is_none_or(|weight| weight == choice.chosen)
        });
        Ok(Some(choice))
    }

    /// What a process tells that has done its share.
    fn share_document(&self, folder: &SweepFolder) -> Value {
        let share = self.arguments.shard.map(|share| share.to_string());
        let equal_time = if self.arguments.equal_time || self.arguments.equal_time_only {
            "; runs with equal time start once all runs before them have finished: give the same \
             command again for them"
        } else {
            ""
        };
        let shown = share.as_deref().unwrap_or("");
        let text = format!(
            "share {shown} of `{}` is done{equal_time}; --collect in place of --shard makes the \
             comparison when all shares are",
            folder.path.display()
        );
        if !self.arguments.json {
            output::line(&text);
        }
        json!({ "folder": folder.path.display().to_string(), "shard": share })
    }
}

/// The first names of a list and how many there are.
fn shortened(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(MAX_NAMED).map(String::as_str).collect();
    match names.len().checked_sub(MAX_NAMED) {
        Some(more) if more > 0 => format!("{} and {more} more", first.join(", ")),
        _ => first.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_shortened() {
        let names: Vec<String> = (1..=10).map(|seed| format!("sum-{seed}")).collect();
        assert_eq!(shortened(&names[..2]), "sum-1, sum-2");
        assert!(shortened(&names).ends_with("sum-8 and 2 more"));
        assert!(shortened(&names[..8]).ends_with("sum-8"));
    }
}
