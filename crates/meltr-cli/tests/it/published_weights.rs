//! Published weights: what is applied is told, and what does not fit is refused.

use std::fs;
use std::path::{Path, PathBuf};

use meltr_data::{TensorFile, TensorFileWriter};

use crate::support::{Ended, experiment, fine_tune, meltr, text, tiny_run};

/// The weights of a run under other names.
fn renamed(run: &Path, name: &str, rename: impl Fn(&str) -> String) -> PathBuf {
    let source = run.join("checkpoints/last/inner.safetensors");
    let file = TensorFile::open(&source).unwrap();
    let mut writer = TensorFileWriter::new();
    for name in file.names() {
        let values = file.f32(name).unwrap();
        let shape = values.shape().to_vec();
        writer.insert_f32(rename(name), &shape, values.into_iter().collect());
    }
    let path = run.join(name);
    writer.write(&path).unwrap();
    path
}

fn evaluate(run: &Path, weights: &Path) -> Ended {
    meltr(["evaluate", text(run), "--weights", text(weights)])
}

#[test]
fn a_file_with_one_renamed_key_is_used_and_the_key_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let weights = renamed(&run, "renamed.safetensors", |name| {
        name.replace("cross.pooler.dense.bias", "cross.pooler.dense.offset")
    });
    let ended = evaluate(&run, &weights);
    ended.assert_status(0);
    for part in [
        "1 missing, 1 unexpected",
        "cross.pooler.dense.bias",
        "cross.pooler.dense.offset",
    ] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    assert!(
        ended.stdout.contains("text_to_video.r1"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_file_that_holds_too_little_of_the_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let weights = renamed(&run, "other.safetensors", |name| {
        name.replace("word_embeddings", "token_table")
    });
    evaluate(&run, &weights).assert_refused(&[
        text(&weights),
        "does not fit the model",
        "missing",
        "model.weights_share",
    ]);
}

#[test]
fn weights_of_a_model_of_another_size_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let wide = folder.path().join("wide");
    let ended = fine_tune(&experiment(), &wide, &["--set=model.d_model=48"]);
    ended.assert_status(0);
    let weights = wide.join("checkpoints/last/inner.safetensors");
    evaluate(&run, &weights).assert_refused(&[text(&weights), "of another shape"]);
}

#[test]
fn a_truncated_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let bytes = fs::read(run.join("checkpoints/last/inner.safetensors")).unwrap();
    for name in ["half.safetensors", "half.bin"] {
        let path = folder.path().join(name);
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        evaluate(&run, &path).assert_refused(&[text(&path)]);
    }
}

#[test]
fn a_run_may_start_from_weights() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let weights = run.join("checkpoints/last/inner.safetensors");
    let entry = format!("--set=model.weights={}", text(&weights));
    let ended = fine_tune(&experiment(), &folder.path().join("next"), &[&entry]);
    ended.assert_status(0);
    assert!(
        ended.stderr.contains("100.00 % of the model's values"),
        "{}",
        ended.stderr
    );
    let missing = format!(
        "--set=model.weights={}",
        text(&folder.path().join("no.bin"))
    );
    fine_tune(&experiment(), &folder.path().join("third"), &[&missing]).assert_refused(&["no.bin"]);
}
