//! `cargo xtask repro study`: one choice of MELTR changed at a time, sweep after sweep.

mod definition;
mod finished;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub(super) use self::definition::Study;
use self::definition::{FILE, Sweep};
use self::finished::finished_sweep;
use super::rows::Row;
use super::{COMBINERS, NEW, asked_for, out, provide_files, seeds, shared_arguments};
use crate::flags::{FEATURES, JSON, Parsed, UsageError};
use crate::ledger::entry::STUDY;
use crate::process::{Status, build_meltr, in_root, wait};

/// Seeds of each combiner.
const DEFAULT_SEEDS: usize = 4;

/// A sweep that is asked for.
struct Planned<'a> {
    sweep: Sweep<'a>,
    /// The row of its task.
    row: &'a Row,
    /// Those of the `meltr` binary.
    arguments: Vec<String>,
}

/// Whether a name is that of the study or of a part of it.
pub(super) fn is_named_by(name: &str) -> bool {
    name.split('/').next() == Some(STUDY)
}

/// Makes the sweeps that are asked for, up to the first that does not succeed.
pub(super) fn run(root: &Path, rows: &[Row], parsed: &Parsed) -> Result<Status> {
    let study = Study::read(root)?;
    let plan = plan(&study, rows, parsed)?;
    let rows: Vec<&Row> = plan.iter().map(|planned| planned.row).collect();
    provide_files(root, &rows, &parsed.rest)?;
    let binary = build_meltr(parsed.value(FEATURES.name))?;
    for (index, planned) in plan.iter().enumerate() {
        let sweep = planned.sweep;
        let place = format!("== {} ({} of {})", sweep.name(), index + 1, plan.len());
        if let Some(folder) = finished(root, sweep, parsed)? {
            let folder = folder.strip_prefix(root).unwrap_or(&folder).display();
            println!("{place}: passed over, finished in `{folder}`; {NEW} makes it again");
            continue;
        }
        println!("{place}: {}", sweep.variant.why);
        let mut command = in_root(&binary);
        command.args(&planned.arguments);
        let status = wait(command)?;
        if status != Status::Done {
            return Ok(status);
        }
    }
    Ok(Status::Done)
}

/// The sweeps that are asked for, in their order.
fn plan<'a>(study: &'a Study, rows: &'a [Row], parsed: &Parsed) -> Result<Vec<Planned<'a>>> {
    refuse_flags(parsed)?;
    study
        .sweeps_of(asked_for(parsed))?
        .into_iter()
        .map(|sweep| {
            let row = row_of(rows, sweep)?;
            Ok(Planned {
                sweep,
                row,
                arguments: arguments(sweep, row, parsed)?,
            })
        })
        .collect()
}

/// Refuses flags that the study has no use for.
fn refuse_flags(parsed: &Parsed) -> Result<()> {
    let combiners = format!("each variant of `{FILE}` names its own");
    let json = "the numbers of each sweep are in `results.json` in its folder".to_owned();
    for (is_given, flag, reason) in [
        (parsed.value(COMBINERS).is_some(), COMBINERS, combiners),
        (parsed.has(JSON.name), JSON.name, json),
    ] {
        if is_given {
            let message = format!("`{STUDY}` takes no `{flag}`: {reason}");
            return Err(UsageError::new(message).into());
        }
    }
    Ok(())
}

/// The row of the experiment that a sweep is made of.
fn row_of<'a>(rows: &'a [Row], sweep: Sweep<'_>) -> Result<&'a Row> {
    let name = sweep.task.experiment.as_str();
    match rows.iter().find(|row| row.name == name) {
        Some(row) => Ok(row),
        None => {
            let known = rows.iter().map(|row| row.name.as_str());
            let error = UsageError::unknown("experiment", name, known);
            Err(error).context(format!("`{FILE}`"))
        }
    }
}

/// The arguments of the `meltr` binary.
fn arguments(sweep: Sweep<'_>, row: &Row, parsed: &Parsed) -> Result<Vec<String>> {
    let mut arguments = vec!["repro".to_owned(), row.file()];
    arguments.extend([COMBINERS, sweep.variant.combiners.as_str()].map(str::to_owned));
    arguments.extend(shared_arguments(
        parsed,
        seeds(parsed, DEFAULT_SEEDS)?,
        &folder(parsed),
    )?);
    let title = row.title.as_deref().unwrap_or(&row.name);
    for setting in sweep.settings(title) {
        arguments.extend(["--set".to_owned(), setting]);
    }
    arguments.extend(parsed.rest.iter().cloned());
    Ok(arguments)
}

/// Where sweeps and their ledger go.
fn folder(parsed: &Parsed) -> PathBuf {
    out(parsed).join(STUDY)
}

/// The folder in which a sweep has been made already, unless it is to be made again.
fn finished(root: &Path, sweep: Sweep<'_>, parsed: &Parsed) -> Result<Option<PathBuf>> {
    if parsed.has(NEW) {
        return Ok(None);
    }
    let base = root.join(folder(parsed)).join(sweep.folder_name());
    Ok(finished_sweep(&base, seeds(parsed, DEFAULT_SEEDS)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;
    use crate::process::workspace_root;
    use crate::repro::SPEC;
    use crate::repro::rows::rows;
    use crate::tidy::tree::TempTree;

    fn parsed(args: &[&str]) -> Parsed {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        flags::parse(&SPEC, &args).unwrap()
    }

    /// The arguments of the binary for sweeps of this checkout.
    fn handed_over(args: &[&str]) -> Result<Vec<String>> {
        let root = workspace_root();
        let (study, rows) = (Study::read(&root).unwrap(), rows(&root).unwrap());
        let plan = plan(&study, &rows, &parsed(args))?;
        let joined = plan.iter().map(|planned| planned.arguments.join(" "));
        Ok(joined.collect())
    }

    fn refusal(args: &[&str]) -> String {
        let error = handed_over(args).unwrap_err();
        assert!(error.is::<UsageError>(), "{error}");
        format!("{error:#}")
    }

    #[test]
    fn the_study_and_its_parts_are_told_from_rows() {
        for name in ["study", "study/clips-qa", "study/clips-qa/history"] {
            assert!(is_named_by(name), "{name}");
        }
        for name in ["studies", "univl/study", "clips-qa"] {
            assert!(!is_named_by(name), "{name}");
        }
    }

    #[test]
    fn a_sweep_is_a_task_with_the_settings_of_a_variant() {
        assert_eq!(
            handed_over(&["study/clips-qa/history"]).unwrap(),
            [
                "repro xtask/experiments/when-it-helps/clips-qa.toml --combiners meltr --seeds 4 \
                 --out runs/study --set name=study/clips-qa/history --set title=When it helps, \
                 All-in-one (mini) on the embedded clips: open-ended questions (history: outer \
                 batches from training) --set compared_split=valid --set \
                 train.eval_splits=[\"valid\"] --set combiner.meltr.batches=history"
            ]
        );
    }

    #[test]
    fn flags_are_handed_over() {
        let args = [
            "study/youcook2-600-captioning/recommended",
            "--seeds=2",
            "--jobs=3",
            "--new",
            "--record",
            "--device=tch:0",
            "--",
            "--set",
            "data.set.folder=elsewhere",
        ];
        let found = handed_over(&args).unwrap().join("\n");
        for part in [
            "--combiners meltr --seeds 2 --jobs 3 --out runs/study --ledger docs/ledger.jsonl \
             --device tch:0 --new --set name=study/youcook2-600-captioning/recommended",
            "--set compared_split=train_held_out --set train.eval_splits=[\"train_held_out\"]",
        ] {
            assert!(found.contains(part), "{found}");
        }
        assert!(
            found.ends_with(" --set data.set.folder=elsewhere"),
            "{found}"
        );
        for args in [["--shard", "1/4"], ["--iterations", "9"]] {
            let found = handed_over(&["study/clips-qa/floor", args[0], args[1]]).unwrap();
            assert!(found[0].contains(&args.join(" ")), "{found:?}");
        }
    }

    #[test]
    fn every_task_of_this_checkout_is_a_row() {
        let all = handed_over(&["study"]).unwrap();
        let of_one = handed_over(&["study/clips-qa"]).unwrap();
        assert!(of_one.len() > 10 && all.len() > 2 * of_one.len());
        assert!(of_one.iter().all(|found| all.contains(found)));
    }

    #[test]
    fn what_the_study_has_no_use_for_is_refused() {
        for (args, parts) in [
            (["study", "--combiners=sum"], ["--combiners", FILE]),
            (["study/clips-qa", "--json"], ["--json", "results.json"]),
        ] {
            let message = refusal(&args);
            for part in parts {
                assert!(message.contains(part), "{message}");
            }
        }
        let message = refusal(&["study", "--record", "--iterations=2"]);
        assert!(message.contains("--iterations"), "{message}");
    }

    #[test]
    fn an_experiment_that_does_not_exist_is_named_with_the_file() {
        let tree = TempTree::new();
        tree.write(
            FILE,
            "tasks = [{ experiment = \"univl/a-qa\", split = \"valid\" }]\n[[variants]]\n\
             name = \"sum\"\ncombiners = \"sum\"\nwhy = \"plain\"\n",
        );
        let study = Study::read(tree.root()).unwrap();
        let error = plan(&study, &[], &parsed(&["study"])).err().unwrap();
        assert!(error.is::<UsageError>());
        let message = format!("{error:#}");
        for part in [FILE, "unknown experiment `univl/a-qa`"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_sweep_that_has_finished_is_passed_over_unless_another_is_asked_for() {
        let study = Study::read(&workspace_root()).unwrap();
        let sweep = study.sweeps_of("study/clips-qa/history").unwrap()[0];
        let tree = TempTree::new();
        let folder = |args: &[&str]| finished(tree.root(), sweep, &parsed(args)).unwrap();
        assert_eq!(folder(&[]), None);
        let sweep_folder = "runs/study/study-clips-qa-history/001";
        tree.write(
            &format!("{sweep_folder}/sweep.toml"),
            "[sweep]\nseeds = 4\n",
        );
        assert_eq!(folder(&[]), None);
        tree.write(&format!("{sweep_folder}/results.json"), "{}");
        assert_eq!(folder(&[]), Some(tree.root().join(sweep_folder)));
        for args in [["--new"], ["--seeds=2"]] {
            assert_eq!(folder(&args), None, "{args:?}");
        }
    }
}
