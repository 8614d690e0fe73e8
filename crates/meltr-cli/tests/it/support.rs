//! Starts the binary, and settings that make a run tiny.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Overrides under which a run takes a second: two steps of a narrow model.
pub(crate) const TINY: [&str; 16] = [
    "train.iterations=2",
    "train.eval_splits=[\"test\"]",
    "train.response_samples=2",
    "task.batch_size=4",
    "task.similarity=joint",
    "model.start=random",
    "model.d_model=32",
    "model.n_heads=2",
    "model.d_ff=32",
    "combiner.d_scale=8",
    "combiner.d_model=32",
    "combiner.d_ff=32",
    "combiner.n_heads=8",
    "combiner.warm_start.steps=20",
    "outer.every=1",
    "outer.audit_every=1",
];

/// How the binary ended and what it said.
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The standard output as one JSON document.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in {}", self.stdout))
    }

    /// Asserts the exit status, and shows the messages if it is another.
    pub(crate) fn assert_status(&self, status: i32) {
        assert_eq!(self.status, Some(status), "{}", self.stderr);
    }

    /// Asserts that the input was refused with a message that has all of `parts`.
    pub(crate) fn assert_refused(&self, parts: &[&str]) {
        self.assert_status(2);
        assert_eq!(self.stdout, "");
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "no `{part}` in: {}",
                self.stderr
            );
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Runs `meltr` to its end.
pub(crate) fn meltr<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_meltr"))
        .args(arguments)
        // Tests run side by side; more than one thread each, so that the order of sums is tested.
        .env("RAYON_NUM_THREADS", "2")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ended {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// `meltr fine-tune EXPERIMENT --out OUT --json` with the settings of [`TINY`], then `extra`.
pub(crate) fn fine_tune(experiment: &Path, out: &Path, extra: &[&str]) -> Ended {
    let mut arguments: Vec<OsString> = vec![
        "fine-tune".into(),
        experiment.into(),
        "--out".into(),
        out.into(),
        "--json".into(),
    ];
    arguments.extend(
        TINY.iter()
            .map(|entry| OsString::from(format!("--set={entry}"))),
    );
    arguments.extend(extra.iter().map(OsString::from));
    meltr(arguments)
}

/// A finished tiny run of MELTR in `folder`.
pub(crate) fn tiny_run(folder: &Path) -> PathBuf {
    let out = folder.join("run");
    fine_tune(&experiment(), &out, &["--seed=7"]).assert_status(0);
    out
}

/// The experiment of the main job.
pub(crate) fn experiment() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../xtask/experiments/univl/emoji-clips-retrieval.toml")
}

/// The files of the embedded set.
pub(crate) fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../meltr-data/assets/emoji-clips")
}

/// A path as an argument or as a part of a message.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
