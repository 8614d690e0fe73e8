//! `cargo xtask repro`: the main job, the rows of the reproduction table, the comparison of all
//! combiners, the study.

mod needed_files;
mod rows;
mod study;

use std::path::{Path, PathBuf};

use anyhow::Result;

use self::needed_files::FileState;
use self::rows::{BASELINES, Row, WHEN_IT_HELPS, find, rows};
use self::study::Study;
use crate::flags::{DEVICE, FEATURES, Flag, JSON, Parsed, Positional, Spec, UsageError};
use crate::ledger::entry::STUDY;
use crate::ledger::{self, LEDGER};
use crate::process::{Status, hand_over, meltr, user_path, workspace_root};
use crate::setup;

const DEFAULT_ROW: &str = "univl/emoji-clips-retrieval";
const DEFAULT_SEEDS: usize = 3;

/// Folders whose rows are made together.
const FOLDERS: [&str; 2] = [BASELINES, WHEN_IT_HELPS];

/// Seeds of a comparison of many combiners.
const BASELINE_SEEDS: usize = 5;

/// Auxiliary weights that `fixed` is tried with in a comparison of all combiners.
const AUXILIARY_WEIGHTS: &str = "0.1,0.3,1,3";

/// What is compared on when a learned loss helps: the references, the three strongest baselines on
/// validation items, MELTR in both forms.
const COMPARED: &str = "primary,sum,fixed,nash_mtl,auto_lambda,meltr_published,meltr";

/// What `--combiners` calls all of them.
const ALL: &str = "all";

/// The combiner that has weights to try.
const FIXED: &str = "fixed";

const LIST: &str = "--list";
const COMBINERS: &str = "--combiners";
const SEEDS: &str = "--seeds";
const JOBS: &str = "--jobs";
const OUT: &str = "--out";
const NEW: &str = "--new";
const SHARD: &str = "--shard";
const COLLECT: &str = "--collect";
const ITERATIONS: &str = "--iterations";
const RECORD: &str = "--record";

/// What the command accepts.
pub(crate) const SPEC: Spec = Spec {
    command: "repro",
    summary: "the main job: fine-tunes with each loss combination and compares them",
    about: "Builds the `meltr` binary and runs `meltr repro` on one experiment of \
            xtask/experiments, several seeds each. Without ROW: univl/emoji-clips-retrieval, on the \
            embedded set. A row whose files are not there is refused with a list of what to fetch. \
            The same command goes on with runs that were interrupted.\n\n\
            `baselines` compares all combiners on retrieval of the embedded clips and on sentiment \
            of CMU-MOSI, five seeds each: with equal steps, then with equal wall time. The \
            auxiliary weight of `fixed` is chosen among 0.1, 0.3, 1 and 3 on validation items. That \
            takes 60 to 90 minutes on two cores; --seeds and --combiners shrink it, and \
            `baselines/ROW` is one half of it.\n\n\
            `when-it-helps` compares the primary loss, the plain sum, the three strongest baselines \
            and MELTR in both forms on five tasks, five seeds each, with equal steps and with equal \
            wall time: about two hours on two cores (docs/when-it-helps.md).\n\n\
            `study` makes the sweeps of xtask/study.toml, one after the other: each task with each \
            variant, one choice of MELTR changed at a time, on validation items, four seeds each. \
            `study/TASK` is one task, `study/TASK/VARIANT` one sweep. Sweeps go to DIR/study; one \
            that has finished with as many seeds is passed over. --shard and --collect hold for \
            each sweep.",
    positional: Positional::Optional("ROW"),
    flags: &[
        Flag::switch(
            LIST,
            "list the rows: published numbers, data, entries of the ledger, whether they can run",
        ),
        Flag::value(
            COMBINERS,
            "NAMES",
            "what is compared, separated by commas, or `all` (default: primary, sum, that of ROW)",
        ),
        Flag::value(
            SEEDS,
            "N",
            "seeds of each combiner (default: 3, of baselines and when-it-helps 5, of study 4)",
        ),
        Flag::value(JOBS, "N", "runs at a time (default: the number of cores)"),
        Flag::value(OUT, "DIR", "where runs and report go (default: runs)"),
        Flag::switch(
            NEW,
            "start another sweep, even if the newest one has not finished",
        ),
        Flag::value(
            SHARD,
            "I/N",
            "make share I of N of the runs alone, I from 0; other processes make the others",
        ),
        Flag::switch(
            COLLECT,
            "make the comparison alone, when all runs have finished",
        ),
        Flag::value(
            ITERATIONS,
            "N",
            "inner steps of each run (default: the experiment's)",
        ),
        Flag::switch(
            RECORD,
            "append to docs/ledger.jsonl (default: ledger.jsonl in DIR)",
        ),
        JSON,
        DEVICE,
        FEATURES,
    ],
    rest: Some("the `meltr` binary"),
    example: "cargo xtask repro univl/emoji-clips-retrieval --seeds 2",
};

/// Runs the command.
pub(crate) fn run(parsed: &Parsed) -> Result<Status> {
    let root = workspace_root();
    let mut rows = rows(&root)?;
    if parsed.has(LIST) {
        let entries = ledger::entries(&root)?;
        rows.iter_mut().for_each(|row| row.mark(&entries));
        return list(&rows, &Study::read(&root)?, parsed.has(JSON.name));
    }
    if study::is_named_by(asked_for(parsed)) {
        return study::run(&root, &rows, parsed);
    }
    let chosen = chosen(&rows, parsed)?;
    let arguments = arguments(&chosen, parsed)?;
    provide_files(&root, &chosen, &parsed.rest)?;
    let mut command = meltr(parsed.value(FEATURES.name))?;
    command.args(arguments);
    hand_over(command)
}

/// The name of what is asked for.
fn asked_for(parsed: &Parsed) -> &str {
    let name = parsed.positional.first();
    name.map_or(DEFAULT_ROW, String::as_str)
}

/// Refuses rows whose files are missing, and fetches what can be fetched.
fn provide_files(root: &Path, rows: &[&Row], rest: &[String]) -> Result<()> {
    for row in rows {
        if let Some(refusal) = row.refusal(rest) {
            return Err(refusal.into());
        }
    }
    if rows.iter().any(|row| row.has_file(FileState::Fetched)) {
        setup::fetch_weights(root)?;
    }
    Ok(())
}

/// The rows that are asked for.
fn chosen<'a>(rows: &'a [Row], parsed: &Parsed) -> Result<Vec<&'a Row>> {
    let name = asked_for(parsed);
    if let Some(folder) = FOLDERS.into_iter().find(|folder| *folder == name) {
        return Ok(rows.iter().filter(|row| row.is_in(folder)).collect());
    }
    match find(rows, name) {
        Some(row) => Ok(vec![row]),
        None => {
            let rows = rows.iter().map(|row| row.name.as_str());
            let known = rows.chain(FOLDERS).chain([STUDY]);
            Err(UsageError::unknown("row", name, known).into())
        }
    }
}

/// The arguments of the `meltr` binary.
fn arguments(rows: &[&Row], parsed: &Parsed) -> Result<Vec<String>> {
    let is_baseline = rows.iter().any(|row| row.is_baseline());
    let is_when_it_helps = rows.iter().any(|row| row.is_in(WHEN_IT_HELPS));
    let compares_many = is_baseline || is_when_it_helps;
    let combiners = parsed.value(COMBINERS);
    let combiners = combiners.or(is_baseline.then_some(ALL));
    let combiners = combiners.or(is_when_it_helps.then_some(COMPARED));
    let default_seeds = if compares_many {
        BASELINE_SEEDS
    } else {
        DEFAULT_SEEDS
    };

    let mut arguments = vec!["repro".to_owned()];
    arguments.extend(rows.iter().map(|row| row.file()));
    if let Some(combiners) = combiners {
        arguments.extend([COMBINERS, combiners].map(str::to_owned));
    }
    arguments.extend(shared_arguments(
        parsed,
        seeds(parsed, default_seeds)?,
        &out(parsed),
    )?);
    if is_baseline && combiners.is_some_and(has_fixed) {
        arguments.extend(["--auxiliary-weights", AUXILIARY_WEIGHTS].map(str::to_owned));
    }
    if compares_many {
        arguments.push("--equal-time".to_owned());
    }
    arguments.extend(parsed.rest.iter().cloned());
    Ok(arguments)
}

/// The arguments that sweeps of rows and of the study have alike.
fn shared_arguments(parsed: &Parsed, seeds: usize, out: &Path) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    let mut add = |flag: &str, value: &str| arguments.extend([flag, value].map(str::to_owned));
    add(SEEDS, &seeds.to_string());
    if let Some(jobs) = parsed.count(JOBS)? {
        add(JOBS, &jobs.to_string());
    }
    add(OUT, &out.to_string_lossy());
    if let Some(iterations) = parsed.count(ITERATIONS)? {
        add(ITERATIONS, &iterations.to_string());
    }
    if let Some(shard) = parsed.value(SHARD) {
        add(SHARD, shard);
    }
    if parsed.has(RECORD) {
        if parsed.value(ITERATIONS).is_some() {
            return Err(UsageError::new(format!(
                "`{RECORD}` keeps rows as they stand; leave `{ITERATIONS}` out, or `{RECORD}`"
            ))
            .into());
        }
        add("--ledger", LEDGER);
    }
    if let Some(device) = parsed.value(DEVICE.name) {
        add(DEVICE.name, device);
    }
    for switch in [NEW, COLLECT, JSON.name] {
        if parsed.has(switch) {
            arguments.push(switch.to_owned());
        }
    }
    Ok(arguments)
}

/// Seeds of each combiner.
fn seeds(parsed: &Parsed, default: usize) -> Result<usize> {
    Ok(parsed.count(SEEDS)?.unwrap_or(default))
}

/// Where runs and report go.
fn out(parsed: &Parsed) -> PathBuf {
    parsed.value(OUT).map_or_else(|| "runs".into(), user_path)
}

/// Whether a list of combiners has the one with weights to try.
fn has_fixed(combiners: &str) -> bool {
    combiners == ALL || combiners.split(',').any(|name| name.trim() == FIXED)
}

fn list(rows: &[Row], study: &Study, json: bool) -> Result<Status> {
    if json {
        println!("{}", serde_json::to_string_pretty(rows)?);
        return Ok(Status::Done);
    }
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in rows {
        println!(
            "{:<width$}  {}",
            row.name,
            row.title.as_deref().unwrap_or("(no title)")
        );
        for line in row.details() {
            println!("    {line}");
        }
    }
    println!("{STUDY:<width$}  {}", study.summary());
    Ok(Status::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;

    fn parsed(args: &[&str]) -> Parsed {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        flags::parse(&SPEC, &args).unwrap()
    }

    /// The arguments of the binary for rows of this checkout.
    fn handed_over(args: &[&str]) -> Result<Vec<String>> {
        let parsed = parsed(args);
        let rows = rows(&workspace_root()).unwrap();
        arguments(&chosen(&rows, &parsed)?, &parsed)
    }

    #[test]
    fn an_unknown_row_is_wrong_input() {
        let error = run(&parsed(&["no/such-row-anywhere"])).unwrap_err();
        assert!(error.is::<UsageError>(), "{error}");
    }

    #[test]
    fn the_main_job_is_the_row_on_the_embedded_clips() {
        assert_eq!(
            handed_over(&[]).unwrap(),
            [
                "repro",
                "xtask/experiments/univl/emoji-clips-retrieval.toml",
                "--seeds",
                "3",
                "--out",
                "runs"
            ]
        );
    }

    #[test]
    fn flags_are_handed_over() {
        let args = [
            "univl/emoji-clips-sentiment",
            "--combiners=sum,meltr",
            "--jobs=4",
            "--iterations=9",
            "--shard=1/4",
            "--device=tch:0",
            "--json",
            "--",
            "--set",
            "seed=2",
        ];
        let found = handed_over(&args).unwrap().join(" ");
        assert_eq!(
            found,
            "repro xtask/experiments/univl/emoji-clips-sentiment.toml --combiners sum,meltr \
             --seeds 3 --jobs 4 --out runs --iterations 9 --shard 1/4 --device tch:0 --json --set \
             seed=2"
        );
        for switch in [NEW, COLLECT] {
            let found = handed_over(&[switch]).unwrap();
            assert_eq!(found.last().map(String::as_str), Some(switch));
        }
    }

    #[test]
    fn baselines_are_all_combiners_on_all_rows_of_the_folder() {
        let found = handed_over(&["baselines", "--record"]).unwrap().join(" ");
        assert_eq!(
            found,
            "repro xtask/experiments/baselines/cmu-mosi-sentiment.toml \
             xtask/experiments/baselines/emoji-clips-retrieval.toml --combiners all --seeds 5 \
             --out runs --ledger docs/ledger.jsonl --auxiliary-weights 0.1,0.3,1,3 --equal-time"
        );
        let one = ["baselines/emoji-clips-retrieval", "--combiners=sum,meltr"];
        let found = handed_over(&one).unwrap().join(" ");
        assert!(!found.contains("cmu-mosi") && !found.contains("--auxiliary"));
        assert!(found.contains("--combiners sum,meltr"), "{found}");
    }

    #[test]
    fn when_it_helps_compares_references_baselines_and_both_forms_on_five_tasks() {
        let found = handed_over(&["when-it-helps"]).unwrap();
        let rows = found.iter().filter(|part| part.ends_with(".toml"));
        assert_eq!(rows.count(), 5);
        let found = found.join(" ");
        assert!(
            found.contains(&format!("--combiners {COMPARED} --seeds 5")),
            "{found}"
        );
        assert!(found.ends_with("--equal-time"), "{found}");
        assert!(!found.contains("--auxiliary-weights"), "{found}");
        let one = handed_over(&["when-it-helps/clips-qa", "--combiners=sum,meltr"]);
        let found = one.unwrap().join(" ");
        assert!(found.contains("--combiners sum,meltr"), "{found}");
    }

    #[test]
    fn only_a_row_as_it_stands_is_recorded() {
        let error = handed_over(&["--record", "--iterations=2"]).unwrap_err();
        assert!(error.is::<UsageError>(), "{error}");
    }
}
