//! The main job, in miniature.

use std::fs;
use std::path::Path;

use crate::support::{TINY, experiment, meltr, text};

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

#[test]
fn a_repro_compares_all_combiners_with_the_linear_reference() {
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
