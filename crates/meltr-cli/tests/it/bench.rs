//! Benchmarks: what they refuse, and one that is small.

use crate::support::meltr;

#[test]
fn rankings_of_two_sizes_are_measured_in_processes_of_their_own() {
    let ended = meltr([
        "bench",
        "rank",
        "--items",
        "5",
        "--items",
        "3",
        "--chunk",
        "2",
        "--threads",
        "1",
        "--json",
    ]);
    ended.assert_status(0);
    let report = ended.json();
    let rows = report["by_items"].as_array().unwrap();
    let pairs: Vec<u64> = rows
        .iter()
        .map(|row| row["pairs"].as_u64().unwrap())
        .collect();
    assert_eq!(pairs, [9, 25]);
    assert!(
        rows.iter()
            .all(|row| row["pairs_per_second"].as_f64().unwrap() > 0.0)
    );
    assert!(report["comparison"].is_null());
}

#[test]
fn numbers_that_measure_nothing_are_refused() {
    meltr(["bench", "rank", "--items", "0"]).assert_refused(&["--items is 0"]);
    meltr(["bench", "rank", "--chunk", "0"]).assert_refused(&["--chunk is 0"]);
    let peer = ["bench", "meta-step", "--python", "python3", "--losses"];
    for wrong in ["1", "9"] {
        let message = format!("--losses is {wrong}; give it from 2 to 8");
        meltr(peer.into_iter().chain([wrong])).assert_refused(&[message.as_str()]);
    }
    for size in ["--mini", "--published"] {
        meltr(["bench", "meta-step", size]).assert_refused(&["--python"]);
    }
    meltr(peer[..4].iter().chain(&["--mini", "--published"]))
        .assert_refused(&["--mini", "--published"]);
}

#[test]
fn a_folder_without_the_scripts_is_refused_before_anything_is_measured() {
    for name in ["meta-step", "rank"] {
        let arguments = ["bench", name, "--python", "python3", "--scripts", "nowhere"];
        meltr(arguments).assert_refused(&["nowhere", "--scripts"]);
    }
}
