//! Wrong input: exit status 2, and a message that says what, where and what to do.

use std::fs;
use std::path::Path;

use crate::support::{assets, experiment, fine_tune, meltr, text, tiny_run};

/// A run that must be refused before it starts.
fn refused(extra: &[&str], parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    fine_tune(&experiment(), &folder.path().join("run"), extra).assert_refused(parts);
}

#[test]
fn an_absent_experiment_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nowhere.toml");
    fine_tune(&file, &folder.path().join("run"), &[]).assert_refused(&[text(&file)]);
    meltr(["repro", text(&file)]).assert_refused(&[text(&file)]);
}

#[test]
fn a_misspelt_key_is_answered_with_its_line_and_the_right_key() {
    let original = fs::read_to_string(experiment()).unwrap();
    let mut lines: Vec<&str> = original.lines().collect();
    let header = lines
        .iter()
        .position(|line| line.starts_with("[inner]"))
        .unwrap();
    lines.insert(header + 1, "learning_rat = 1e-4");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("typo.toml");
    fs::write(&file, lines.join("\n")).unwrap();
    // The line, counted from 1, is known as long as no --set has rebuilt the table.
    let out = folder.path().join("run");
    let line = format!("line {}", header + 2);
    meltr(["fine-tune", text(&file), "--out", text(&out)]).assert_refused(&[
        text(&file),
        &line,
        "`learning_rat`",
        "did you mean `learning_rate`?",
    ]);
}

#[test]
fn a_misspelt_override_is_answered_with_the_right_key() {
    refused(
        &["--set=outer.evry=2"],
        &["outer.evry=2", "`evry`", "did you mean `every`?"],
    );
}

#[test]
fn an_override_without_a_value_is_refused() {
    refused(&["--set=outer.every"], &["`outer.every`", "has no `=`"]);
}

#[test]
fn an_experiment_that_is_no_toml_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.toml");
    fs::write(&file, "title = \"a\"\nname = = 1\n").unwrap();
    let out = folder.path().join("run");
    meltr(["fine-tune", text(&file), "--out", text(&out)]).assert_refused(&[text(&file), "line 2"]);
}

#[test]
fn heads_that_do_not_divide_are_named_with_the_width() {
    refused(
        &["--set=combiner.d_model=100"],
        &["`d_model` is 100", "`n_heads` = 8"],
    );
    refused(
        &["--set=model.d_model=33"],
        &["`d_model` is 33", "`n_heads` = 2"],
    );
}

#[test]
fn an_absent_folder_of_data_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    refused(
        &[&format!("--set=data.set.folder={}", text(&nowhere))],
        &[text(&nowhere)],
    );
}

#[test]
fn an_altered_file_of_data_is_named_with_both_checksums() {
    let folder = tempfile::tempdir().unwrap();
    copy_set(folder.path());
    let features = folder.path().join("features.safetensors");
    let mut bytes = fs::read(&features).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&features, bytes).unwrap();
    refused(
        &[&format!("--set=data.set.folder={}", text(folder.path()))],
        &[text(&features), "SHA-256", "should be"],
    );
}

fn copy_set(to: &Path) {
    for file in [
        "SHA256SUMS",
        "clips.tsv",
        "vocab.txt",
        "tokens.safetensors",
        "features.safetensors",
    ] {
        fs::copy(assets().join(file), to.join(file)).unwrap();
    }
}

#[test]
#[cfg(not(feature = "vulkan"))]
fn a_device_that_is_not_compiled_in_names_its_feature() {
    refused(&["--device=vulkan"], &["`vulkan`", "--features vulkan"]);
    let experiment = experiment();
    meltr(["repro", text(&experiment), "--device=vulkan:0"])
        .assert_refused(&["`vulkan:0`", "--features vulkan"]);
}

#[test]
fn an_existing_directory_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept.txt");
    fs::write(&kept, "mine").unwrap();
    fine_tune(&experiment(), folder.path(), &[]).assert_refused(&[
        text(folder.path()),
        "never overwritten",
        "--out",
    ]);
    assert_eq!(fs::read_to_string(&kept).unwrap(), "mine");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn no_split_to_train_on_is_refused() {
    refused(&["--set=task.train_splits=[]"], &["no item is in split []"]);
}

#[test]
fn a_split_that_is_not_known_is_refused() {
    refused(
        &["--set=task.train_splits=[\"dev\"]"],
        &["unknown split `dev`", "valid"],
    );
    refused(
        &["--set=train.eval_splits=[\"dev\"]"],
        &["unknown split `dev`", "valid"],
    );
}

#[test]
fn a_batch_larger_than_the_set_is_refused() {
    refused(&["--set=task.batch_size=5000"], &["batch_size", "5000"]);
}

#[test]
fn a_run_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    meltr(["evaluate", text(folder.path())]).assert_refused(&[text(folder.path()), "not a run"]);
    let nowhere = folder.path().join("nowhere");
    let page = folder.path().join("report.html");
    meltr(["report", text(&nowhere), "--out", text(&page)])
        .assert_refused(&[text(&nowhere), "no such directory"]);
    assert!(!page.exists());
}

#[test]
fn a_split_of_an_evaluation_that_is_not_known_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    meltr(["evaluate", text(&run), "--split=dev"])
        .assert_refused(&["unknown split `dev`", "train, valid, test"]);
}

#[test]
fn truncated_weights_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let weights = run.join("checkpoints/last/inner.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    meltr(["evaluate", text(&run)]).assert_refused(&[text(&weights)]);
    meltr(["weights", "inspect", text(&weights)]).assert_refused(&[text(&weights)]);
    fs::remove_file(&weights).unwrap();
    meltr(["evaluate", text(&run)]).assert_refused(&[text(&weights), "no such file"]);
}

#[test]
fn a_repro_without_seeds_or_jobs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = experiment();
    for flag in ["--seeds=0", "--jobs=0"] {
        let out = text(folder.path());
        let name = &flag[..flag.len() - 2];
        meltr(["repro", text(&experiment), "--out", out, flag]).assert_refused(&[name]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
#[cfg(not(feature = "mpi"))]
fn several_processes_are_refused_where_they_cannot_share_a_run() {
    use std::process::Command;

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let output = Command::new(env!("CARGO_BIN_EXE_meltr"))
        .args(["fine-tune", text(&experiment()), "--out", text(&out)])
        .env("OMPI_COMM_WORLD_SIZE", "2")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for part in ["2 processes", "`--features mpi`", "OMPI_COMM_WORLD_SIZE"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert!(!out.exists());
}
