//! The main job, in miniature.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Ended, TINY, experiment, meltr, text};

/// The arguments of a tiny `meltr repro`, to be extended.
fn arguments(out: &Path) -> Vec<String> {
    let mut arguments = vec![
        "repro".to_owned(),
        text(&experiment()).to_owned(),
        format!("--out={}", text(out)),
        "--seeds=1".to_owned(),
        "--jobs=3".to_owned(),
    ];
    arguments.extend(TINY.iter().map(|entry| format!("--set={entry}")));
    arguments
}

/// A tiny `meltr repro` of two runs, with more arguments.
fn two_sums(out: &Path, extra: &[&str]) -> Ended {
    let mut arguments = arguments(out);
    arguments.extend(["--combiners=sum", "--seeds=2"].map(str::to_owned));
    arguments.retain(|argument| argument != "--seeds=1");
    arguments.extend(extra.iter().map(ToString::to_string));
    meltr(arguments)
}

/// The folder of the first sweep.
fn first_sweep(out: &Path) -> PathBuf {
    out.join("univl-emoji-clips-retrieval").join("001")
}

/// The lines of the ledger.
fn ledger(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("ledger.jsonl")).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_repro_compares_three_combiners_with_the_linear_reference() {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = arguments(folder.path());
    arguments.push("--json".to_owned());
    let ended = meltr(arguments);
    ended.assert_status(0);
    let result = ended.json();

    let rows = result["rows"].as_array().unwrap();
    let combiners: Vec<_> = rows
        .iter()
        .map(|row| row["combiner"].as_str().unwrap())
        .collect();
    assert_eq!(combiners, ["primary", "sum", "meltr"]);
    for row in rows {
        let r1 = &row["metrics"]["text_to_video.r1"];
        assert!(r1["mean"].is_number() && r1["std"].is_number(), "{row}");
    }
    assert_eq!(result["summaries"].as_array().unwrap().len(), 3);
    assert_eq!(
        (result["n_test"].as_u64(), result["ties"].as_str()),
        (Some(127), Some("average"))
    );
    let reference = &result["references"][0];
    assert_eq!(reference["name"], "linear reference");
    assert!(reference["metrics"]["text_to_video.r1"].as_f64().unwrap() > 0.1);

    let report = Path::new(result["report"].as_str().unwrap());
    let html = fs::read_to_string(report).unwrap();
    assert!(html.contains("linear reference"));
    let runs = Path::new(result["folder"].as_str().unwrap());
    assert!(
        runs.starts_with(folder.path()) && runs.ends_with("001"),
        "{}",
        runs.display()
    );
    for name in ["primary-1", "sum-1", "meltr-1"] {
        assert!(runs.join(name).join("summary.json").is_file());
        assert!(runs.join(format!("{name}.log")).is_file());
    }
    let lines = ledger(folder.path());
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["row"], "univl/emoji-clips-retrieval");
    assert_eq!(lines[0]["seeds"], serde_json::json!([1]));
    assert_eq!(lines[0]["combiners"].as_array().unwrap().len(), 3);
    assert_eq!(lines[0]["files"][0]["path"], "emoji-clips (embedded)");
    for line in [
        "[1/3] ",
        "[2/3] ",
        "[3/3] ",
        "sum, seed 1: text_to_video.r1 ",
    ] {
        assert!(
            ended.stderr.contains(line),
            "no `{line}` in {}",
            ended.stderr
        );
    }
}

#[test]
fn a_repro_prints_a_table_with_its_split_and_ties() {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = arguments(folder.path());
    arguments.push("--iterations=1".to_owned());
    let ended = meltr(arguments);
    ended.assert_status(0);
    for part in [
        "linear reference",
        "meltr",
        "on the 127 items",
        "ties: average",
        "report: ",
    ] {
        assert!(
            ended.stdout.contains(part),
            "no `{part}` in {}",
            ended.stdout
        );
    }
}

#[test]
fn a_repro_of_no_data_is_refused_before_it_starts() {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = arguments(folder.path());
    let nowhere = folder.path().join("nowhere");
    arguments.push(format!("--set=data.set.folder={}", text(&nowhere)));
    meltr(arguments).assert_refused(&[text(&nowhere)]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_same_command_goes_on_where_it_was_and_then_starts_another_sweep() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    two_sums(out, &[]).assert_status(0);
    // As if it had been stopped while the second run was made.
    let sweep = first_sweep(out);
    fs::remove_file(sweep.join("results.json")).unwrap();
    fs::remove_file(sweep.join("sum-2/summary.json")).unwrap();
    let finished = fs::metadata(sweep.join("sum-1/summary.json")).unwrap();

    let ended = two_sums(out, &[]);
    ended.assert_status(0);
    for part in ["going on with", "1 had finished and 1 are gone on with"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
    let after = fs::metadata(sweep.join("sum-1/summary.json")).unwrap();
    assert_eq!(after.modified().unwrap(), finished.modified().unwrap());
    assert!(sweep.join("sum-2/summary.json").is_file());
    assert!(sweep.join("results.json").is_file());
    assert_eq!(ledger(out).len(), 2);

    two_sums(out, &["--shard=0/2"]).assert_status(0);
    assert!(!sweep.with_file_name("002").exists());
    two_sums(out, &["--iterations=1"]).assert_status(0);
    assert!(sweep.with_file_name("002").join("results.json").is_file());
}

#[test]
fn shares_make_their_runs_and_collect_the_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let ended = two_sums(out, &["--shard=0/2"]);
    ended.assert_status(0);
    assert!(ended.stdout.contains("share 0/2"), "{}", ended.stdout);
    let sweep = first_sweep(out);
    assert!(sweep.join("sum-1/summary.json").is_file());
    assert!(!sweep.join("sum-2").exists());
    two_sums(out, &["--collect"]).assert_refused(&["1 of 2 runs", "sum-2", "--collect"]);
    two_sums(out, &["--iterations=1"]).assert_refused(&[
        text(&sweep),
        "`train.iterations` (2 before, 1 now)",
        "--new",
    ]);

    two_sums(out, &["--shard=1/2"]).assert_status(0);
    assert!(ledger(out).is_empty());
    let ended = two_sums(out, &["--collect", "--json"]);
    ended.assert_status(0);
    assert_eq!(ended.json()["summaries"].as_array().unwrap().len(), 2);
    assert_eq!(ledger(out).len(), 1);
    // Looking once more adds nothing to the ledger.
    two_sums(out, &["--collect"]).assert_status(0);
    assert_eq!(ledger(out).len(), 1);
}

#[test]
#[cfg(unix)]
fn a_request_to_terminate_reaches_the_runs_and_they_save_themselves() {
    use std::process::{Command, Stdio};
    use std::thread;
    use std::time::{Duration, Instant};

    use meltr_train::Run;

    /// Longer than a first step takes.
    const LONG: Duration = Duration::from_secs(300);

    let folder = tempfile::tempdir().unwrap();
    let mut arguments = arguments(folder.path());
    let extra = ["--combiners=sum", "--set=train.iterations=500"];
    arguments.extend(extra.map(str::to_owned));
    let mut repro = Command::new(env!("CARGO_BIN_EXE_meltr"))
        .args(&arguments)
        .env("RAYON_NUM_THREADS", "2")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let run = first_sweep(folder.path()).join("sum-1");
    // A record shows that steps are being taken.
    let start = Instant::now();
    while fs::metadata(run.join("metrics.jsonl")).map_or(0, |log| log.len()) == 0 {
        assert!(start.elapsed() < LONG, "no step was taken");
        assert!(repro.try_wait().unwrap().is_none(), "the sweep has ended");
        thread::sleep(Duration::from_millis(2));
    }
    // To this process alone, not to its group.
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -TERM {}", repro.id())])
        .status();
    assert!(sent.unwrap().success());
    let output = repro.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    for part in ["0 of 1 runs have finished", "give the same command again"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert!(!run.join("summary.json").exists());
    assert!(Run::resume(&run).unwrap().goes_on_after() >= Some(1));
}

#[test]
fn a_share_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    two_sums(folder.path(), &["--shard=2/2"]).assert_refused(&["2/2", "below 2"]);
    two_sums(folder.path(), &["--shard=0/2", "--collect"]).assert_refused(&["--collect"]);
}

#[test]
fn fixed_weights_are_chosen_on_other_items_and_time_is_made_equal() {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = arguments(folder.path());
    arguments.extend(
        [
            "--combiners=primary,sum,fixed",
            "--auxiliary-weights=0.5,1",
            "--equal-time",
            "--set=train.eval_splits=[\"valid\", \"test\"]",
            "--set=train.best_metric.name=text_to_video.r10",
            "--set=train.best_metric.split=valid",
            "--json",
        ]
        .map(str::to_owned),
    );
    let ended = meltr(arguments);
    ended.assert_status(0);
    let result = ended.json();
    let weight = result["choice"]["chosen"].as_f64().unwrap();
    assert!([0.5, 1.0].contains(&weight));
    assert_eq!(result["choice"]["tried"].as_array().unwrap().len(), 2);
    for part in [&result, &result["equal_time"]] {
        let rows = part["rows"].as_array().unwrap();
        let combiners: Vec<_> = rows.iter().map(|row| row["combiner"].clone()).collect();
        assert_eq!(combiners, ["primary", "sum", "fixed"]);
    }
    let sweep = first_sweep(folder.path());
    for name in ["fixed-weight-0.5-1", "fixed-weight-1-1", "equal-time/sum-1"] {
        assert!(sweep.join(name).join("summary.json").is_file(), "{name}");
    }
    let lines = ledger(folder.path());
    let budgets: Vec<_> = lines.iter().map(|line| line["budget"].clone()).collect();
    assert_eq!(budgets, ["equal_steps", "equal_time"]);
    let fixed = &lines[1]["combiners"][2];
    assert_eq!(fixed["auxiliary_weight"], weight);
    assert!(fixed["iterations"].as_u64().unwrap() >= 1);
}

#[test]
fn time_is_made_equal_without_a_comparison_with_equal_steps() {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = arguments(folder.path());
    let own = ["--combiners=primary,sum", "--equal-time-only", "--json"];
    arguments.extend(own.map(str::to_owned));
    let ended = meltr(arguments);
    ended.assert_status(0);
    let result = ended.json();
    let rows = result["rows"].as_array().unwrap();
    let combiners: Vec<_> = rows.iter().map(|row| row["combiner"].clone()).collect();
    assert_eq!(combiners, ["primary", "sum"]);
    let sweep = first_sweep(folder.path());
    for name in ["timing/sum-1", "equal-time/primary-1", "equal-time/sum-1"] {
        assert!(sweep.join(name).join("summary.json").is_file(), "{name}");
    }
    assert!(!sweep.join("sum-1").exists());
    let lines = ledger(folder.path());
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["budget"], "equal_time");
    // The sum has the time of the experiment's own steps.
    assert!(TINY.contains(&"train.iterations=2"));
    assert_eq!(lines[0]["combiners"][1]["iterations"], 2);
}
