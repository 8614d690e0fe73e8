//! What a plan says of a run, beside what the run takes.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{experiment, meltr, text};

fn row(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../xtask/experiments")
        .join(format!("{name}.toml"))
}

/// A few steps, from random values, which are there sooner.
const SHORT: [&str; 2] = ["--set=train.iterations=6", "--set=model.start=random"];

/// The plan of an experiment as JSON.
fn plan(experiment: &Path, extra: &[&str]) -> Value {
    let command = ["plan", text(experiment), "--json"];
    let ended = meltr(command.iter().chain(&SHORT).chain(extra));
    ended.assert_status(0);
    ended.json()
}

/// The peak of the memory of a run; `None` where the system does not tell it.
fn peak_of_run(experiment: &Path, extra: &[&str]) -> Option<f64> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let command = ["fine-tune", text(experiment), "--json", "--out", text(&out)];
    let ended = meltr(command.iter().chain(&SHORT).chain(extra));
    ended.assert_status(0);
    ended.json()["peak_memory_bytes"].as_f64()
}

/// Asserts that a prediction is within a fifth of what was measured.
fn assert_near(predicted: &Value, measured: f64, plan: &Value) {
    let predicted = predicted.as_f64().unwrap();
    let error = predicted / measured - 1.0;
    assert!(
        error.abs() < 0.2,
        "predicted {predicted}, measured {measured}: {plan:#}"
    );
}

#[test]
fn the_memory_of_retrieval_with_the_sum_is_predicted() {
    let sum = ["--set=combiner.name=sum"];
    let Some(measured) = peak_of_run(&experiment(), &sum) else {
        eprintln!("skipped: this system does not tell the memory of a process");
        return;
    };
    let tried = plan(&experiment(), &sum);
    assert_eq!(tried["memory"]["steps"]["measured"], true, "{tried:#}");
    assert_near(&tried["memory"]["peak_bytes"], measured, &tried);
    assert!(tried["steps"]["outer"].is_null() && tried["passes"]["outer"].is_null());

    // The same from batches of half the size and less, without an evaluation.
    let smaller = [sum[0], "--up-to=16", "--skip-evaluation"];
    let extrapolated = plan(&experiment(), &smaller);
    let memory = &extrapolated["memory"];
    assert_eq!(memory["steps"]["measured"], false, "{extrapolated:#}");
    assert_near(
        &memory["steps"]["bytes"],
        tried["memory"]["steps"]["bytes"].as_f64().unwrap(),
        &extrapolated,
    );
}

#[test]
fn the_memory_of_retrieval_with_the_loss_transformer_is_predicted() {
    let Some(measured) = peak_of_run(&experiment(), &[]) else {
        eprintln!("skipped: this system does not tell the memory of a process");
        return;
    };
    let plan = plan(&experiment(), &[]);
    assert_near(&plan["memory"]["peak_bytes"], measured, &plan);
    assert_eq!(plan["steps"]["outer"]["steps"], 3);
    let passes = &plan["passes"];
    assert_eq!(passes["inner"]["with_backward"], 1, "{passes}");
    assert_eq!(passes["outer"]["product"], "forward_mode", "{passes}");
    assert_eq!(passes["outer"]["passes"]["with_tangents"], 1, "{passes}");
    assert_eq!(passes["audit"]["passes"]["with_backward"], 8, "{passes}");
    let parameters = &plan["parameters"];
    assert!(parameters["combiner"].as_u64().unwrap() > 0, "{parameters}");
    let parts: u64 = parameters["parts"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(parameters["backbone"], parts, "{parameters}");
    let checkpoint = &plan["checkpoint"];
    let bytes = |name: &str| checkpoint[name].as_u64().unwrap();
    assert!(bytes("weight_bytes") >= 4 * parts, "{checkpoint}");
    // Two moments of every value beside it.
    assert!(
        bytes("whole_bytes") >= bytes("weight_bytes") + 8 * parts,
        "{checkpoint}"
    );
}

#[test]
fn the_memory_of_questions_on_raw_frames_is_predicted() {
    let questions = row("violet/clips-qa");
    let Some(measured) = peak_of_run(&questions, &[]) else {
        eprintln!("skipped: this system does not tell the memory of a process");
        return;
    };
    let plan = plan(&questions, &[]);
    assert_near(&plan["memory"]["peak_bytes"], measured, &plan);
    assert_eq!(plan["steps"]["batch_size"], 16);
}

#[test]
fn a_plan_tries_the_run_with_gradient_checkpointing_where_the_experiment_has_it() {
    let narrow = [
        "--set=train.gradient_checkpointing=true",
        "--set=task.batch_size=4",
        "--set=model.d_model=32",
        "--skip-evaluation",
    ];
    let plan = plan(&experiment(), &narrow);
    assert_eq!(plan["memory"]["gradient_checkpointing"], true, "{plan:#}");
    assert!(plan["seconds"]["inner_step"].is_number(), "{plan:#}");
    // The outer step was taken as well, its audit included.
    assert_eq!(plan["passes"]["outer"]["product"], "forward_mode");
}

#[test]
fn people_get_the_plan_as_text() {
    let experiment = experiment();
    let arguments = [
        "plan",
        text(&experiment),
        "--set=task.batch_size=4",
        "--set=model.d_model=32",
        "--set=combiner.name=primary",
        "--skip-evaluation",
    ];
    let ended = meltr(arguments.iter().chain(&SHORT));
    ended.assert_status(0);
    for part in [
        "univl/emoji-clips-retrieval",
        "combiner primary, 8 losses",
        "6 inner steps, each over a batch of 4",
        "inner step",
        "measured with batches of 4",
        "note: the evaluation is not included",
    ] {
        assert!(
            ended.stdout.contains(part),
            "no `{part}` in {}",
            ended.stdout
        );
    }
}

#[test]
fn what_no_run_could_use_is_refused_by_a_plan_with_the_same_words() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere.toml");
    meltr(["plan", text(&nowhere)]).assert_refused(&[text(&nowhere)]);
    let refused = |set: &str, parts: &[&str]| {
        meltr(["plan", text(&experiment()), set]).assert_refused(parts);
    };
    refused("--set=outer.evry=2", &["did you mean `every`?"]);
    refused("--set=model.n_heads=5", &["d_model", "n_heads"]);
    refused("--set=task.batch_size=0", &["task.batch_size"]);
    refused("--up-to=0", &["--up-to"]);
}

#[test]
fn a_batch_of_more_items_than_there_are_is_refused() {
    let experiment = experiment();
    let arguments = [
        "plan",
        text(&experiment),
        "--set=task.batch_size=5000",
        "--up-to=4",
        "--set=model.d_model=32",
        "--skip-evaluation",
    ];
    meltr(arguments.iter().chain(&SHORT)).assert_refused(&["5000", "497 items"]);
}
