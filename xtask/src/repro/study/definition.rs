//! What is studied: tasks, and variants that each of them is run with.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::flags::UsageError;
use crate::ledger::entry::STUDY;

/// Where it is written.
pub(super) const FILE: &str = "xtask/study.toml";

/// Tasks and variants.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Study {
    tasks: Vec<Task>,
    variants: Vec<Variant>,
}

/// An experiment, and what is looked at.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Task {
    /// The name of its row.
    pub(super) experiment: String,
    /// The split that is evaluated and compared on.
    split: String,
}

/// Settings that differ from those of the experiments.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Variant {
    name: String,
    /// What runs with them, separated by commas.
    pub(super) combiners: String,
    /// What is to be seen from them, for people.
    pub(super) why: String,
    /// The settings as `key=value`.
    #[serde(default)]
    set: Vec<String>,
    /// Experiments of the tasks that have it; all if there is no such key.
    tasks: Option<Vec<String>>,
}

/// A task with a variant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sweep<'a> {
    pub(super) task: &'a Task,
    pub(super) variant: &'a Variant,
}

impl Study {
    /// Reads the study of a checkout.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(root.join(FILE))
            .with_context(|| format!("failed to read `{FILE}`"))?;
        Self::parse(&text).with_context(|| format!("`{FILE}`"))
    }

    fn parse(text: &str) -> Result<Self> {
        let study: Self = toml::from_str(text)?;
        if let Some(name) = repeated(study.tasks.iter().map(Task::name)) {
            bail!("two tasks are called `{name}`, the last part of `experiment`; leave one out");
        }
        if let Some(name) = repeated(study.variants.iter().map(Variant::name)) {
            bail!("two variants have the `name` `{name}`; give each its own");
        }
        for variant in &study.variants {
            study.check(variant)?;
        }
        Ok(study)
    }

    /// Refuses settings that are none and tasks that are not there.
    fn check(&self, variant: &Variant) -> Result<()> {
        let name = &variant.name;
        if let Some(setting) = variant.set.iter().find(|setting| !setting.contains('=')) {
            bail!("`set` of the variant `{name}` has `{setting}`; write `key=value`");
        }
        for experiment in variant.tasks.iter().flatten() {
            if self.tasks.iter().all(|task| task.experiment != *experiment) {
                bail!(
                    "`tasks` of the variant `{name}` has `{experiment}`, which is no task; add \
                     it to `tasks` at the top, or leave it out"
                );
            }
        }
        Ok(())
    }

    /// All sweeps, task by task.
    fn sweeps(&self) -> Vec<Sweep<'_>> {
        self.tasks
            .iter()
            .flat_map(|task| {
                let variants = self.variants.iter();
                variants
                    .filter(move |variant| variant.is_of(task))
                    .map(move |variant| Sweep { task, variant })
            })
            .collect()
    }

    /// The sweeps of a name: `study`, `study/TASK` or `study/TASK/VARIANT`.
    pub(super) fn sweeps_of(&self, name: &str) -> Result<Vec<Sweep<'_>>> {
        let mut parts = name.splitn(3, '/').skip(1);
        let (task, variant) = (parts.next(), parts.next());
        let mut sweeps = self.sweeps();
        if let Some(task) = task {
            let known = self.tasks.iter().map(Task::name);
            if known.clone().all(|other| other != task) {
                return Err(UsageError::unknown("task of the study", task, known).into());
            }
            sweeps.retain(|sweep| sweep.task.name() == task);
        }
        if let Some(variant) = variant {
            let known: Vec<&str> = sweeps.iter().map(|sweep| sweep.variant.name()).collect();
            sweeps.retain(|sweep| sweep.variant.name() == variant);
            if sweeps.is_empty() {
                return Err(UsageError::unknown("variant of the study", variant, known).into());
            }
        }
        Ok(sweeps)
    }

    /// A line about it.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} sweeps: {} tasks with {} variants (`{FILE}`)",
            self.sweeps().len(),
            self.tasks.len(),
            self.variants.len()
        )
    }
}

impl Task {
    /// The last part of the experiment's name.
    fn name(&self) -> &str {
        let experiment = self.experiment.as_str();
        experiment.rsplit('/').next().unwrap_or(experiment)
    }
}

impl Variant {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_of(&self, task: &Task) -> bool {
        let experiments = self.tasks.as_ref();
        experiments.is_none_or(|experiments| experiments.contains(&task.experiment))
    }
}

impl Sweep<'_> {
    /// `study/TASK/VARIANT`.
    pub(super) fn name(&self) -> String {
        format!("{STUDY}/{}/{}", self.task.name(), self.variant.name)
    }

    /// The folder that `meltr repro` numbers its sweeps in.
    pub(super) fn folder_name(&self) -> String {
        self.name().replace('/', "-")
    }

    /// What is set in its experiment, which has a title, as `key=value`.
    pub(super) fn settings(&self, title: &str) -> Vec<String> {
        let Variant { name, why, set, .. } = self.variant;
        let split = &self.task.split;
        let mut settings = vec![
            format!("name={}", self.name()),
            format!("title={title} ({name}: {why})"),
            format!("compared_split={split}"),
            // No other split is looked at.
            format!("train.eval_splits=[\"{split}\"]"),
        ];
        settings.extend(set.iter().cloned());
        settings
    }
}

/// The first name that is there twice.
fn repeated<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    names.find(|name| !seen.insert(*name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::TempTree;

    const TEXT: &str = r#"
tasks = [
  { experiment = "univl/a-qa", split = "valid" },
  { experiment = "univl/b-qa", split = "train_held_out" },
]

[[variants]]
name = "references"
combiners = "primary,sum"
why = "to measure against"

[[variants]]
name = "history"
combiners = "meltr"
set = ["combiner.meltr.batches=history", "outer.every=6"]
why = "outer batches from training"

[[variants]]
name = "random-backbone"
combiners = "meltr"
set = ["model.start=random"]
tasks = ["univl/b-qa"]
why = "from nothing"
"#;

    fn names(study: &Study, name: &str) -> Vec<String> {
        let sweeps = study.sweeps_of(name).unwrap();
        sweeps.iter().map(Sweep::name).collect()
    }

    /// The message about a study whose text has something else in one place.
    fn refusal(before: &str, after: &str) -> String {
        let tree = TempTree::new();
        let text = TEXT.replacen(before, after, 1);
        assert_ne!(text, TEXT);
        tree.write(FILE, text);
        format!("{:#}", Study::read(tree.root()).unwrap_err())
    }

    #[test]
    fn sweeps_are_the_tasks_with_their_variants() {
        let study = Study::parse(TEXT).unwrap();
        let all = [
            "study/a-qa/references",
            "study/a-qa/history",
            "study/b-qa/references",
            "study/b-qa/history",
            "study/b-qa/random-backbone",
        ];
        assert_eq!(names(&study, "study"), all);
        assert_eq!(names(&study, "study/b-qa"), all[2..]);
        assert_eq!(names(&study, "study/a-qa/history"), all[1..2]);
        assert_eq!(
            study.summary(),
            "5 sweeps: 2 tasks with 3 variants (`xtask/study.toml`)"
        );
    }

    #[test]
    fn a_sweep_sets_its_name_its_split_and_what_differs() {
        let study = Study::parse(TEXT).unwrap();
        let sweep = study.sweeps_of("study/b-qa/history").unwrap()[0];
        assert_eq!(sweep.folder_name(), "study-b-qa-history");
        assert_eq!(
            sweep.settings("B"),
            [
                "name=study/b-qa/history",
                "title=B (history: outer batches from training)",
                "compared_split=train_held_out",
                "train.eval_splits=[\"train_held_out\"]",
                "combiner.meltr.batches=history",
                "outer.every=6",
            ]
        );
    }

    #[test]
    fn a_name_that_does_not_exist_is_answered_with_those_that_do() {
        let study = Study::parse(TEXT).unwrap();
        let message = |name: &str| study.sweeps_of(name).unwrap_err().to_string();
        assert_eq!(
            message("study/clips"),
            "unknown task of the study `clips`; known: a-qa, b-qa"
        );
        assert_eq!(
            message("study/a-qa/through-time"),
            "unknown variant of the study `through-time`; known: references, history"
        );
        assert_eq!(
            message("study/a-qa/histori"),
            "unknown variant of the study `histori`; did you mean `history`?"
        );
    }

    #[test]
    fn a_key_that_does_not_exist_is_refused_with_its_place() {
        let message = refusal("why = \"to measure", "reason = \"to measure");
        for part in [FILE, "line 10", "unknown field `reason`", "`why`"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn what_does_not_hold_together_is_refused() {
        for (before, after, part) in [
            ("univl/b-qa", "violet/a-qa", "two tasks are called `a-qa`"),
            ("\"history\"", "\"references\"", "`name` `references`"),
            ("outer.every=6", "outer.every", "has `outer.every`"),
            ("[\"univl/b-qa\"]", "[\"b-qa\"]", "has `b-qa`, which is no"),
        ] {
            let message = refusal(before, after);
            assert!(message.contains(FILE), "{message}");
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_checkout_without_a_study_is_told() {
        let error = Study::read(TempTree::new().root()).unwrap_err();
        assert_eq!(error.to_string(), "failed to read `xtask/study.toml`");
    }
}
