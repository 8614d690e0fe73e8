//! Processes that share a run over MPI, against one that takes it alone.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use meltr_train::{Run, read_state_dict};

use crate::support::{TINY, experiment, meltr, text};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(300);

/// Largest difference of a weight that is allowed; there is none where the same kernels compute.
const TOLERANCE: f64 = 1e-6;

/// Two batches and two draws a step.
const SETTINGS: [&str; 6] = [
    "train.iterations=6",
    "train.accumulate=2",
    "outer.accumulate=2",
    "train.checkpoint_every=1",
    "train.eval_every=3",
    "seed=7",
];

/// Arguments of a tiny run in `out`.
fn started(out: &Path, extra: &[&str]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![
        "fine-tune".into(),
        experiment().into(),
        "--out".into(),
        out.into(),
        "--json".into(),
    ];
    let settings = TINY.iter().chain(&SETTINGS).chain(extra);
    arguments.extend(settings.map(|entry| OsString::from(format!("--set={entry}"))));
    arguments
}

/// `meltr` on two processes.
fn on_two(arguments: &[OsString]) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(["-np", "2", env!("CARGO_BIN_EXE_meltr")])
        .args(arguments)
        .env("RAYON_NUM_THREADS", "2")
        // What Open MPI would refuse in a small container.
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_MCA_hwloc_base_binding_policy", "none")
        .env("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
        .env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
        .stdin(Stdio::null());
    command
}

/// Whether MPI can be tried here.
fn is_there() -> bool {
    let asked = Command::new("mpirun").arg("--version").output();
    let is_there = asked.is_ok_and(|asked| asked.status.success());
    if !is_there {
        eprintln!("skipped: mpirun is not installed");
    }
    is_there
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

/// Weights of both levels and metrics of two runs that have ended are the same.
fn assert_same(ours: &Path, theirs: &Path) {
    for level in ["inner", "outer"] {
        let file = format!("checkpoints/last/{level}.safetensors");
        let ours = read_state_dict(&ours.join(&file)).unwrap();
        let theirs = read_state_dict(&theirs.join(&file)).unwrap();
        assert!(ours.keys().eq(theirs.keys()), "{file}");
        for (name, data) in &ours {
            for (our, their) in data.iter::<f64>().zip(theirs[name].iter::<f64>()) {
                assert!((our - their).abs() <= TOLERANCE, "{name}: {our} {their}");
            }
        }
    }
    let metrics = |run: &Path| Run::read_summary(run).unwrap().unwrap().metrics;
    let (ours, theirs) = (metrics(ours), metrics(theirs));
    assert!(ours.contains_key("test"), "{ours:?}");
    for (split, ours) in &ours {
        for (name, our) in ours {
            let their = theirs[split][name];
            assert!((our - their).abs() <= TOLERANCE, "{name}: {our} {their}");
        }
    }
}

#[test]
fn two_processes_end_like_one_alone() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (alone, shared) = (folder.path().join("alone"), folder.path().join("shared"));
    meltr(started(&alone, &[])).assert_status(0);
    let output = on_two(&started(&shared, &[])).output().unwrap();
    assert_success(&output);
    assert_same(&shared, &alone);
    // One of them tells the results.
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["iterations"], 6);
}

/// The process numbered 1 of the job that writes `run`.
fn second_process(run: &Path) -> Option<u32> {
    let has = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    fs::read_dir("/proc").unwrap().find_map(|entry| {
        let entry = entry.ok()?;
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let variables = fs::read(entry.path().join("environ")).ok()?;
        let is_second = ["OMPI_COMM_WORLD_RANK=1\0", "PMI_RANK=1\0"]
            .iter()
            .any(|variable| has(&variables, variable.as_bytes()));
        (is_second && has(&command, text(run).as_bytes())).then_some(process)
    })
}

#[test]
fn a_job_of_which_a_process_was_killed_says_so_and_goes_on() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (alone, killed) = (folder.path().join("alone"), folder.path().join("killed"));
    meltr(started(&alone, &[])).assert_status(0);

    let mut job = on_two(&started(&killed, &[]))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !killed.join("checkpoints/last").exists() {
        assert!(start.elapsed() < LONG, "no checkpoint was written");
        assert!(job.try_wait().unwrap().is_none(), "the job has ended");
        // The moment is what the test is about, so there is nothing to wait for but time.
        thread::sleep(Duration::from_millis(2));
    }
    let second = second_process(&killed).unwrap();
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -KILL {second}")])
        .status();
    assert!(sent.unwrap().success());
    let output = job.wait_with_output().unwrap();
    let said = stderr(&output);
    assert!(!output.status.success(), "{said}");
    for part in ["another process of it has ended", "--resume", text(&killed)] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!killed.join("summary.json").exists());
    assert!(Run::resume(&killed).unwrap().goes_on_after() >= Some(1));

    let arguments: [OsString; 3] = ["fine-tune".into(), "--resume".into(), killed.clone().into()];
    assert_success(&on_two(&arguments).output().unwrap());
    assert_same(&killed, &alone);
}

#[test]
fn what_one_process_refuses_is_said_once_and_nothing_is_left() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = on_two(&started(&run, &["train.accumulate=3"]))
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.matches("`train.accumulate` is 3").count(), 1, "{said}");
    assert!(!run.exists());
}
