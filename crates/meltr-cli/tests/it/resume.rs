//! Runs that are stopped at any moment and go on, and what they cannot go on from.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use meltr_data::RandomStream;
use serde_json::Value;

use crate::support::{Ended, TINY, experiment, meltr, text};

/// Times that the process is killed; `MELTR_KILLS` sets another number.
const KILLS: usize = 20;

/// Between two looks at a process or a folder.
const LOOK: Duration = Duration::from_millis(2);

/// Arguments of a tiny run in `out` with the settings `extra`.
fn started(out: &Path, extra: &[&str]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![
        "fine-tune".into(),
        experiment().into(),
        "--out".into(),
        out.into(),
        "--json".into(),
    ];
    let settings = TINY.iter().chain(extra);
    arguments.extend(settings.map(|entry| OsString::from(format!("--set={entry}"))));
    arguments
}

/// Arguments that go on with a run.
fn gone_on(run: &Path) -> Vec<OsString> {
    vec![
        "fine-tune".into(),
        "--resume".into(),
        run.into(),
        "--json".into(),
    ]
}

fn spawned(arguments: &[OsString], stderr: Stdio) -> Child {
    Command::new(env!("CARGO_BIN_EXE_meltr"))
        .args(arguments)
        .env("RAYON_NUM_THREADS", "2")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap()
}

/// How a process ended, if it did within `time`.
fn ended_within(child: &mut Child, time: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() >= time {
            return None;
        }
        // The moment is what the test is about, so there is nothing to wait for but time.
        thread::sleep(LOOK);
    }
}

/// A record without what differs from one machine and hour to the next.
fn timeless(line: &str) -> Value {
    let mut record: Value = serde_json::from_str(line).unwrap();
    if let Some(fields) = record.as_object_mut() {
        fields.remove("seconds");
    }
    record
}

/// Weights, log and metrics of two runs that have ended are the same.
fn assert_same(ours: &Path, theirs: &Path) {
    for name in ["last", "best"] {
        for level in ["inner", "outer"] {
            let file = format!("checkpoints/{name}/{level}.safetensors");
            let bytes = |run: &Path| fs::read(run.join(&file)).ok();
            assert!(bytes(ours) == bytes(theirs), "{file} differs");
        }
    }
    assert!(ours.join("checkpoints/last/outer.safetensors").is_file());
    let log = |run: &Path| -> Vec<Value> {
        let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        text.lines().map(timeless).collect()
    };
    assert_eq!(log(ours), log(theirs));
    let summary = |run: &Path| -> Value {
        serde_json::from_slice(&fs::read(run.join("summary.json")).unwrap()).unwrap()
    };
    let (ours, theirs) = (summary(ours), summary(theirs));
    for key in ["metrics", "iterations", "worst_hypergradient_error"] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
}

#[test]
fn a_run_killed_at_random_moments_ends_like_one_that_was_left_alone() {
    let settings = [
        "train.iterations=8",
        "train.checkpoint_every=1",
        "train.eval_every=3",
        "train.eval_splits=[\"valid\"]",
        "train.best_metric.name=text_to_video.r10",
        "train.best_metric.split=valid",
        "outer.audit_every=4",
        "outer.history=2",
        "seed=7",
    ];
    let n_kills = std::env::var("MELTR_KILLS").map_or(KILLS, |number| number.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("alone");
    let start = Instant::now();
    meltr(started(&alone, &settings)).assert_status(0);
    let whole = start.elapsed();
    assert!(alone.join("checkpoints/best/inner.safetensors").is_file());

    let mut moments = RandomStream::new(20);
    let (mut kills, mut ends, mut from_a_checkpoint) = (0, 0, 0);
    let mut run = folder.path().join("killed-0");
    let next = |run: &Path| {
        if run.exists() {
            gone_on(run)
        } else {
            started(run, &settings)
        }
    };
    while kills < n_kills {
        from_a_checkpoint += usize::from(run.join("checkpoints/last").exists());
        let mut child = spawned(&next(&run), Stdio::null());
        match ended_within(&mut child, whole.mul_f64(moments.unit())) {
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
            Some(status) => {
                assert!(status.success(), "{status} after {kills} kills");
                assert_same(&run, &alone);
                ends += 1;
                run = folder.path().join(format!("killed-{ends}"));
            }
        }
    }
    meltr(next(&run)).assert_status(0);
    assert_same(&run, &alone);
    assert!(from_a_checkpoint > 0, "no kill came after a checkpoint");
}

#[test]
#[cfg(unix)]
fn an_interrupt_and_a_request_to_terminate_save_and_end_with_130() {
    use meltr_train::Run;

    /// Longer than a first step takes.
    const LONG: Duration = Duration::from_secs(300);

    let folder = tempfile::tempdir().unwrap();
    for signal in ["INT", "TERM"] {
        let run = folder.path().join(signal);
        let settings = ["train.iterations=500", "outer.audit_every=0"];
        let mut child = spawned(&started(&run, &settings), Stdio::piped());
        // A record shows that steps are being taken, and so that the signal is listened to.
        let start = Instant::now();
        while fs::metadata(run.join("metrics.jsonl")).map_or(0, |log| log.len()) == 0 {
            assert!(start.elapsed() < LONG, "no step was taken");
            assert!(child.try_wait().unwrap().is_none(), "the run has ended");
            thread::sleep(LOOK);
        }
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {}", child.id())])
            .status();
        assert!(sent.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        for part in ["interrupted", "--resume", text(&run)] {
            assert!(stderr.contains(part), "{part}: {stderr}");
        }
        assert!(!run.join("summary.json").exists());
        for name in ["state.json", "optimizer.safetensors"] {
            assert!(run.join("checkpoints/last").join(name).is_file(), "{name}");
        }
        assert!(Run::resume(&run).unwrap().goes_on_after() >= Some(1));
    }
}

/// Settings of a run of four steps with a checkpoint in its middle.
const FOUR_STEPS: [&str; 4] = [
    "train.iterations=4",
    "train.checkpoint_every=2",
    "train.keep_last=9",
    "seed=7",
];

/// A run of four steps in `folder`.
fn four_steps(folder: &Path) -> PathBuf {
    let run = folder.join("whole");
    meltr(started(&run, &FOUR_STEPS)).assert_status(0);
    run
}

/// The run as it would be had it been killed, with these checkpoints.
fn stopped(whole: &Path, name: &str, steps: &[usize]) -> PathBuf {
    let run = whole.with_file_name(name);
    fs::create_dir_all(run.join("checkpoints")).unwrap();
    for file in ["config.toml", "metrics.jsonl"] {
        fs::copy(whole.join(file), run.join(file)).unwrap();
    }
    for step in steps {
        copy_checkpoint(whole, &run, *step);
    }
    run
}

fn copy_checkpoint(from: &Path, to: &Path, step: usize) {
    let (from, to) = (checkpoint(from, step), checkpoint(to, step));
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn checkpoint(run: &Path, step: usize) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}"))
}

fn cut_in_half(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn log(run: &Path) -> Vec<u8> {
    fs::read(run.join("metrics.jsonl")).unwrap()
}

fn assert_has(ended: &Ended, status: i32, parts: &[&str]) {
    ended.assert_status(status);
    for part in parts {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[test]
#[cfg(unix)]
fn a_full_disk_and_a_read_only_folder_lose_nothing() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let whole = four_steps(folder.path());

    // A limit on the size of files that the log is below and weights are not.
    let run = stopped(&whole, "full", &[2]);
    let limited = Command::new("sh")
        .args(["-c", "trap '' 25; ulimit -f 200; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_meltr"))
        .args(gone_on(&run))
        .env("RAYON_NUM_THREADS", "2")
        .output()
        .unwrap();
    let stderr = String::from_utf8(limited.stderr).unwrap();
    assert_eq!(limited.status.code(), Some(3), "{stderr}");
    for part in ["cannot write", "inner.safetensors", "is whole", "--resume"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let mut left: Vec<_> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["last", "step-00000002"]);
    meltr(gone_on(&run)).assert_status(0);
    assert_same(&run, &whole);

    let run = stopped(&whole, "read-only", &[2]);
    let checkpoints = run.join("checkpoints");
    let allow = |mode: u32| {
        fs::set_permissions(&checkpoints, fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(0o555);
    if fs::write(checkpoints.join("probe"), "").is_ok() {
        eprintln!("skipped: this user may write where nobody may");
        allow(0o755);
        return;
    }
    let ended = meltr(gone_on(&run));
    allow(0o755);
    assert_has(&ended, 3, &[text(&checkpoints), "ermission denied"]);
    meltr(gone_on(&run)).assert_status(0);
    assert_same(&run, &whole);
}

#[test]
fn a_checkpoint_that_cannot_be_used_is_named_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let whole = four_steps(folder.path());

    // The newest is damaged: the one before it takes its place.
    let run = stopped(&whole, "damaged", &[2, 4]);
    cut_in_half(&checkpoint(&run, 4).join("inner.safetensors"));
    let ended = meltr(gone_on(&run));
    assert_has(
        &ended,
        0,
        &[
            "step-00000004",
            "inner.safetensors",
            "an older one takes its place",
        ],
    );
    assert_same(&run, &whole);

    // No other one is there.
    let run = stopped(&whole, "alone", &[2]);
    cut_in_half(&checkpoint(&run, 2).join("optimizer.safetensors"));
    let before = log(&run);
    meltr(gone_on(&run)).assert_refused(&[
        "step-00000002",
        "optimizer.safetensors",
        "not written to its end",
    ]);
    assert_eq!(log(&run), before);
    copy_checkpoint(&whole, &run, 2);
    meltr(gone_on(&run)).assert_status(0);
    assert_same(&run, &whole);

    // One of another model.
    let wide = folder.path().join("wide");
    let settings: Vec<&str> = FOUR_STEPS.into_iter().chain(["model.d_model=48"]).collect();
    meltr(started(&wide, &settings)).assert_status(0);
    let run = stopped(&whole, "foreign", &[]);
    copy_checkpoint(&wide, &run, 2);
    let before = log(&run);
    meltr(gone_on(&run)).assert_refused(&[
        "step-00000002",
        "`model.d_model` (48 before, 32 now)",
        "config.toml",
    ]);
    assert_eq!(log(&run), before);
}

#[test]
fn settings_that_change_numbers_are_refused_when_a_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let whole = four_steps(folder.path());
    let run = stopped(&whole, "run", &[2]);
    let with = |flag: &str| {
        let mut arguments = gone_on(&run);
        arguments.push(flag.into());
        meltr(arguments)
    };
    with("--set=inner.learning_rate=0.5").assert_refused(&[
        text(&run),
        "`inner.learning_rate`",
        "0.5 now",
        "--out",
    ]);
    with("--set=train.iterations=5").assert_refused(&["`train.iterations` (4 before, 5 now)"]);
    with("--set=train.gradient_checkpointing=true")
        .assert_refused(&["`train.gradient_checkpointing` (not set before, true now)"]);
    with("--seed=8").assert_refused(&["`seed` (7 before, 8 now)"]);
    with("--out=elsewhere").assert_refused(&["--out"]);
    assert_eq!(log(&run), log(&whole));

    // The experiment may be named again; how often it is saved may change.
    let mut arguments = started(&run, &FOUR_STEPS);
    arguments.retain(|argument| argument != "--out" && argument != run.as_os_str());
    arguments.push("--resume".into());
    arguments.push(run.clone().into());
    arguments.push("--set=train.checkpoint_every=1".into());
    meltr(arguments).assert_status(0);
    assert_same(&run, &whole);
    assert!(checkpoint(&run, 3).is_dir());

    // A run that has ended says so, and gives its summary.
    let ended = meltr(gone_on(&run));
    assert_has(&ended, 0, &["nothing left to do"]);
    assert_eq!(ended.json()["iterations"], 4);
}

#[test]
fn what_is_no_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    meltr(gone_on(folder.path())).assert_refused(&[text(folder.path()), "not a run"]);
    meltr(gone_on(&folder.path().join("nowhere"))).assert_refused(&["nowhere", "not a run"]);
    meltr(["fine-tune"]).assert_refused(&["EXPERIMENT"]);
}
