//! Which runs repeat each other, and where they are compared.

use std::collections::{BTreeMap, BTreeSet};

use super::assemble::RunData;
use crate::record::Summary;
use crate::settings_difference::varying_settings;

/// The split of a comparison, unless the settings name another.
const PREFERRED_SPLIT: &str = "test";

/// Characters of a name that settings may take.
const MAX_NAME_CHARS: usize = 32;

/// The summaries of the finished runs, in order; the combiner of each names its group.
///
/// Runs repeat each other if they differ in nothing but the seed. Where the runs of a combiner
/// differ in more, the settings in question follow its name, or a number if they are too long.
pub(super) fn grouped_summaries(runs: &[RunData]) -> Vec<Summary> {
    let finished = runs.iter().filter(|run| run.summary.is_some());
    let configs: Vec<&str> = finished.map(|run| run.config_toml.as_str()).collect();
    let mut summaries: Vec<Summary> = runs.iter().filter_map(|run| run.summary.clone()).collect();
    let mut by_combiner: BTreeMap<String, Vec<(&mut Summary, &str)>> = BTreeMap::new();
    for (summary, config) in summaries.iter_mut().zip(configs) {
        let members = by_combiner.entry(summary.combiner.clone()).or_default();
        members.push((summary, config));
    }
    for (combiner, members) in by_combiner {
        let configs: Vec<&str> = members.iter().map(|(_, config)| *config).collect();
        for ((summary, _), name) in members.into_iter().zip(variants(&configs)) {
            if !name.is_empty() {
                summary.combiner = format!("{combiner}, {name}");
            }
        }
    }
    summaries
}

/// A name for each of some configurations, the same for those that differ in the seed alone;
/// empty if that holds for all.
fn variants(configs: &[&str]) -> Vec<String> {
    let names: Vec<String> = varying_settings(configs)
        .iter()
        .map(|settings| {
            let settings: Vec<String> = settings
                .iter()
                .map(|(key, value)| format!("{} = {value}", last_part(key)))
                .collect();
            settings.join(", ")
        })
        .collect();
    if names
        .iter()
        .all(|name| name.chars().count() <= MAX_NAME_CHARS)
    {
        return names;
    }
    let mut known: Vec<&String> = Vec::new();
    names
        .iter()
        .map(|name| {
            let place = known.iter().position(|other| *other == name);
            let place = place.unwrap_or_else(|| {
                known.push(name);
                known.len() - 1
            });
            format!("settings {}", place + 1)
        })
        .collect()
}

fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// The split that runs are compared on: that of their settings, else `test`, else the last by
/// name of those that a finished run was evaluated on.
pub(super) fn compared_split(runs: &[RunData]) -> String {
    let splits: BTreeSet<&str> = runs
        .iter()
        .filter_map(|run| run.summary.as_ref())
        .flat_map(|summary| summary.metrics.keys())
        .map(String::as_str)
        .collect();
    let asked = runs
        .first()
        .and_then(|run| configured(run, "compared_split"));
    [asked.as_deref(), Some(PREFERRED_SPLIT)]
        .into_iter()
        .flatten()
        .find(|split| splits.contains(split))
        .or(splits.last().copied())
        .unwrap_or(PREFERRED_SPLIT)
        .to_owned()
}

/// A text among the settings of a run, by its dotted key.
pub(super) fn configured(run: &RunData, key: &str) -> Option<String> {
    let settings: toml::Table = run.config_toml.parse().ok()?;
    let settings = toml::Value::Table(settings);
    let mut found = &settings;
    for part in key.split('.') {
        found = found.get(part)?;
    }
    found.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::tests::summary;
    use super::*;

    fn run(combiner: &str, seed: u64, settings: &str) -> RunData {
        RunData {
            name: format!("{combiner}-{seed}"),
            summary: Some(summary("run", combiner, seed)),
            records: Vec::new(),
            config_toml: format!("seed = {seed}\n{settings}"),
        }
    }

    fn names(runs: &[RunData]) -> Vec<String> {
        let summaries = grouped_summaries(runs).into_iter();
        summaries.map(|summary| summary.combiner).collect()
    }

    #[test]
    fn runs_that_differ_in_the_seed_repeat_each_other() {
        let runs = [
            run("sum", 0, "a = 1"),
            run("meltr", 0, "a = 2"),
            run("sum", 1, "a = 1"),
        ];
        assert_eq!(names(&runs), ["sum", "meltr", "sum"]);
    }

    #[test]
    fn runs_that_differ_in_more_do_not() {
        let runs = [
            run("fixed", 0, "[combiner]\nauxiliary_weight = 0.1"),
            run("sum", 0, ""),
            run("fixed", 0, "[combiner]\nauxiliary_weight = 0.3"),
            run("fixed", 1, "[combiner]\nauxiliary_weight = 0.1"),
        ];
        assert_eq!(
            names(&runs),
            [
                "fixed, auxiliary_weight = 0.1",
                "sum",
                "fixed, auxiliary_weight = 0.3",
                "fixed, auxiliary_weight = 0.1",
            ]
        );
    }

    #[test]
    fn long_settings_are_numbered() {
        let long = |value: u32| format!("a = \"{}{value}\"", "x".repeat(40));
        let runs = [
            run("sum", 0, &long(1)),
            run("sum", 0, &long(2)),
            run("sum", 1, &long(1)),
        ];
        assert_eq!(
            names(&runs),
            ["sum, settings 1", "sum, settings 2", "sum, settings 1"]
        );
    }

    #[test]
    fn unfinished_runs_have_no_summary_to_name() {
        let mut unfinished = run("sum", 0, "a = 1");
        unfinished.summary = None;
        assert_eq!(names(&[unfinished, run("sum", 1, "a = 2")]), ["sum"]);
    }

    #[test]
    fn the_compared_split_is_the_one_asked_for_or_test_or_the_last() {
        let asked = |settings: &str| compared_split(&[run("sum", 0, settings)]);
        assert_eq!(asked("compared_split = \"validation\""), "validation");
        assert_eq!(asked("compared_split = \"train\""), "test");
        assert_eq!(asked(""), "test");
        let mut run = run("sum", 0, "");
        if let Some(summary) = &mut run.summary {
            summary.metrics.remove("test");
        }
        assert_eq!(compared_split(&[run]), "validation");
        assert_eq!(compared_split(&[]), "test");
    }

    #[test]
    fn a_setting_is_found_by_its_dotted_key() {
        let run = run("sum", 0, "[combiner]\nname = \"sum\"\nsize = 3");
        assert_eq!(configured(&run, "combiner.name").as_deref(), Some("sum"));
        assert_eq!(configured(&run, "combiner.size"), None);
        assert_eq!(configured(&run, "task.primary"), None);
    }
}
