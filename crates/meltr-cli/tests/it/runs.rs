//! What a run leaves, and what the other commands make of it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{experiment, fine_tune, meltr, text, tiny_run};

fn summary(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("summary.json")).unwrap()).unwrap()
}

fn records(run: &Path) -> Vec<Value> {
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A record without what differs from one machine and hour to the next.
fn timeless(mut record: Value) -> Value {
    if let Some(fields) = record.as_object_mut() {
        fields.remove("seconds");
    }
    record
}

#[test]
fn a_run_leaves_its_configuration_its_log_its_summary_and_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("deeper/run");
    let ended = fine_tune(&experiment(), &out, &["--seed=3"]);
    ended.assert_status(0);
    assert_eq!(ended.json(), summary(&out));

    let config: toml::Table =
        toml::from_str(&fs::read_to_string(out.join("config.toml")).unwrap()).unwrap();
    assert_eq!(config["seed"].as_integer(), Some(3));
    assert_eq!(config["train"]["iterations"].as_integer(), Some(2));
    assert_eq!(config["model"]["d_model"].as_integer(), Some(32));

    let records = records(&out);
    let count = |kind: &str| {
        records
            .iter()
            .filter(|record| record["kind"] == kind)
            .count()
    };
    assert_eq!((count("train"), count("meta"), count("eval")), (2, 2, 1));
    let meta = records
        .iter()
        .find(|record| record["kind"] == "meta")
        .unwrap();
    assert!(meta["certificate"]["audited_error"].is_number(), "{meta}");

    let summary = summary(&out);
    assert_eq!(summary["combiner"], "meltr");
    assert_eq!(
        (summary["seed"].as_u64(), summary["iterations"].as_u64()),
        (Some(3), Some(2))
    );
    let r1 = summary["metrics"]["test"]["text_to_video.r1"]
        .as_f64()
        .unwrap();
    assert!((0.0..=1.0).contains(&r1));
    for level in ["inner", "outer"] {
        assert!(
            out.join(format!("checkpoints/last/{level}.safetensors"))
                .is_file()
        );
    }
}

#[test]
fn a_finished_run_says_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let config = run.join("config.toml");
    // The configuration that a run leaves is an experiment.
    let again = folder.path().join("again");
    let ended = meltr(["fine-tune", text(&config), "--out", text(&again)]);
    ended.assert_status(0);
    assert!(
        ended.stdout.contains(&format!("run: {}", text(&again))),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.contains("test text_to_video.r1: "),
        "{}",
        ended.stdout
    );
    assert_eq!(summary(&run)["metrics"], summary(&again)["metrics"]);
}

#[test]
fn the_same_seed_gives_the_same_numbers_and_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let runs = ["a", "b", "c"].map(|name| folder.path().join(name));
    for (run, seed) in runs.iter().zip(["--seed=7", "--seed=7", "--seed=8"]) {
        fine_tune(&experiment(), run, &[seed]).assert_status(0);
    }
    let [a, b, c] = &runs;
    assert_eq!(summary(a)["metrics"], summary(b)["metrics"]);
    let log = |run: &Path| -> Vec<Value> { records(run).into_iter().map(timeless).collect() };
    assert_eq!(log(a), log(b));
    for level in ["inner", "outer"] {
        let file = format!("checkpoints/last/{level}.safetensors");
        let bytes = |run: &Path| fs::read(run.join(&file)).unwrap();
        assert!(
            bytes(a) == bytes(b),
            "{level} weights differ with the same seed"
        );
        assert!(
            bytes(a) != bytes(c),
            "{level} weights do not depend on the seed"
        );
    }
}

#[test]
fn plain_combiners_have_no_outer_weights() {
    let folder = tempfile::tempdir().unwrap();
    for combiner in ["primary", "sum"] {
        let out = folder.path().join(combiner);
        let set = format!("--set=combiner.name={combiner}");
        fine_tune(&experiment(), &out, &[&set]).assert_status(0);
        assert_eq!(summary(&out)["combiner"], combiner);
        assert!(records(&out).iter().all(|record| record["kind"] != "meta"));
        assert!(out.join("checkpoints/last/inner.safetensors").is_file());
        assert!(!out.join("checkpoints/last/outer.safetensors").exists());
    }
}

#[test]
fn an_evaluation_gives_the_metrics_of_the_summary() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let ended = meltr(["evaluate", text(&run), "--json"]);
    ended.assert_status(0);
    let evaluation = ended.json();
    assert_eq!(evaluation["metrics"], summary(&run)["metrics"]["test"]);
    assert_eq!(evaluation["n_items"], 127);
    assert_eq!(evaluation["ties"], "average");
}

#[test]
fn another_split_can_be_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let ended = meltr(["evaluate", text(&run), "--split=valid"]);
    ended.assert_status(0);
    assert!(
        ended.stdout.contains("75 items of split `valid`"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_report_is_one_page_about_all_runs() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let page = folder.path().join("report.html");
    let ended = meltr(["report", text(&run), "--out", text(&page)]);
    ended.assert_status(0);
    assert!(ended.stdout.contains("R@1"), "{}", ended.stdout);
    assert!(ended.stdout.contains(text(&page)), "{}", ended.stdout);
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("</html>") && html.contains("<svg") && !html.contains("<script"));
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_a_failure_that_names_the_file() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        eprintln!("skipped: this system has no device that is always full");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let ended = meltr(["report", text(&run), "--out", text(full)]);
    ended.assert_status(3);
    assert!(ended.stderr.contains(text(full)), "{}", ended.stderr);
}

#[test]
fn the_tensors_of_a_weights_file_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let weights = run.join("checkpoints/last/inner.safetensors");
    let ended = meltr(["weights", "inspect", text(&weights), "--json"]);
    ended.assert_status(0);
    let listing = ended.json();
    let name = "visual.embeddings.word_embeddings.weight";
    let tensors = listing["tensors"].as_array().unwrap();
    assert!(
        tensors.iter().any(|tensor| tensor["name"] == name),
        "{listing}"
    );
    assert!(listing["n_values"].as_u64().unwrap() > 0);
}

#[test]
fn inner_steps_in_bfloat16_are_near_those_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    let first_losses = |precision: &str| {
        let out = folder.path().join(precision);
        let setting = format!("--set=train.precision={precision}");
        fine_tune(&experiment(), &out, &["--combiner=pc_grad", &setting]).assert_status(0);
        let first = records(&out)
            .into_iter()
            .find(|record| record["kind"] == "train")
            .unwrap();
        first["task_losses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|loss| loss.as_f64().unwrap())
            .collect::<Vec<_>>()
    };
    let (exact, rounded) = (first_losses("f32"), first_losses("bf16"));
    assert_ne!(exact, rounded);
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert!(
            (exact - rounded).abs() < 0.02 * exact.abs().max(0.1),
            "{exact} {rounded}"
        );
    }
}
