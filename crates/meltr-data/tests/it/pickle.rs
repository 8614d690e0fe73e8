//! Pickles as Python and numpy write them, and pickles that are damaged or made to harm.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meltr_data::{Item, Pickle, StorageOrder, Value};
use proptest::prelude::*;
use serde_json::Value as Json;

use crate::support::{compare, shared};

/// What an error about a hostile file has to say. The name of the file comes by itself.
static REFUSED: [(&str, &[&str]); 45] = [
    (
        "pickle/truncated.p2.pickle",
        &["ends at byte 19825", "length 18549"],
    ),
    ("pickle/truncated.p4.pickle", &["at byte 12068"]),
    ("pickle/truncated.p5.pickle", &["at byte 9145"]),
    (
        "pickle/truncated_no_stop.pickle",
        &["STOP", "missing", "24797"],
    ),
    ("pickle/zero_bytes.pickle", &["empty file"]),
    ("pickle/text.pickle", &["at byte 0", "opcode"]),
    ("pickle/html_login_page.pickle", &["HTML"]),
    ("pickle/git_lfs_pointer.pickle", &["Git LFS pointer"]),
    ("pickle/gzipped.pickle.gz.pickle", &["gzip"]),
    ("pickle/protocol_6.pickle", &["protocol 6"]),
    (
        "pickle/unknown_opcode.pickle",
        &["opcode 0xff", "at byte 2"],
    ),
    ("pickle/stack_underflow.pickle", &["at byte 2"]),
    ("pickle/memo_missing.pickle", &["memo 7"]),
    ("pickle/mark_missing.pickle", &["mark"]),
    ("exec/os.system.p0.pickle", &["os.system"]),
    ("exec/os.system.p2.pickle", &["os.system"]),
    ("exec/os.system.p4.pickle", &["os.system"]),
    ("exec/posix.system.p4.pickle", &["posix.system"]),
    ("exec/builtins.eval.p4.pickle", &["builtins.eval"]),
    ("exec/__builtin__.eval.p4.pickle", &["__builtin__.eval"]),
    ("exec/builtins.exec.p4.pickle", &["builtins.exec"]),
    (
        "exec/subprocess.getoutput.p4.pickle",
        &["subprocess.getoutput"],
    ),
    ("exec/nt.system.p4.pickle", &["nt.system"]),
    ("exec/runpy.run_path.p4.pickle", &["runpy.run_path"]),
    ("exec/nested_in_good_features.pickle", &["system"]),
    ("exec/inst_opcode.p0.pickle", &["os.system"]),
    ("exec/obj_opcode.p1.pickle", &["os.system"]),
    ("exec/newobj.pickle", &["subprocess.Popen"]),
    ("exec/dotted_stack_global.pickle", &["numpy.lib.os.system"]),
    (
        "exec/numpy_but_not_allowed.pickle",
        &["numpy.testing._private.utils.runstring"],
    ),
    ("exec/persistent_id.pickle", &["persistent id"]),
    ("exec/ext_registry.pickle", &["extension registry"]),
    (
        "bomb/huge_declared_shape.pickle",
        &[
            "item `v`",
            "shape [1000000000, 1024] of float32 needs 4096000000000 bytes, 16 are present",
        ],
    ),
    (
        "bomb/overflowing_shape.pickle",
        &["shape [1099511627776, 1099511627776]"],
    ),
    ("bomb/negative_shape.pickle", &["shape [-1, 4]"]),
    (
        "bomb/shape_data_mismatch.pickle",
        &["shape [3, 4]", "48 bytes", "44 are present"],
    ),
    (
        "bomb/huge_binbytes8.pickle",
        &["length 4611686018427387904"],
    ),
    ("bomb/huge_binunicode.pickle", &["length 2147483647"]),
    ("bomb/huge_bytearray8.pickle", &["length 1099511627776"]),
    ("bomb/huge_frame.pickle", &["frame length"]),
    ("bomb/huge_long.pickle", &["length 2147483647"]),
    ("bomb/deep_nesting.pickle", &["nesting depth"]),
    ("bomb/tuple_nesting.pickle", &["nesting depth"]),
    ("bomb/self_reference.pickle", &["cycle"]),
    ("bomb/billion_laughs.pickle", &["so often"]),
];

/// A dict of an array, a scalar text and a list, in the opcodes that numpy and Python use.
const SMALL: &[u8] = b"\x80\x04}\x94(\x8c\x01a\x94cnumpy.core.multiarray\n_reconstruct\n\
    \x94cnumpy\nndarray\n\x94K\x00\x85C\x01b\x87R\x94(K\x01K\x01K\x02\x86cnumpy\ndtype\n\x94\
    \x8c\x02f4\x94K\x00K\x01\x87R\x94(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\
    \x89B\x08\0\0\0\0\0\x80?\0\0\0@\x94tb\x8c\x01b\x94](h\x01M\x01\x02G\x3f\xf8\0\0\0\0\0\0e\
    \x8c\x01cc_codecs\nencode\n\x8c\x02\xc3\xa9\x8c\x06latin1\x86R\x8c\x01d\x8f(K\x01\x90u.";

fn formats() -> Option<PathBuf> {
    shared("fixtures/formats")
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn names_of_pickles(expected: &Json) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (name, entry) in expected.as_object().unwrap() {
        let is_pickle = entry["format"]
            .as_str()
            .is_some_and(|format| format == "pickle");
        if is_pickle {
            names.push(name.clone());
        }
    }
    names
}

/// Opens bytes as a file.
fn open_bytes(bytes: &[u8]) -> Result<usize, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.pickle");
    fs::write(&path, bytes).unwrap();
    match Pickle::open(&path) {
        Ok(pickle) => Ok(count(pickle.root())),
        Err(error) => Err(error.to_string()),
    }
}

/// Number of values that a walk over a tree meets.
fn count(item: Item<'_>) -> usize {
    let below: usize = match item.value() {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => items.map(count).sum(),
        Value::Objects { items, .. } => items.map(count).sum(),
        Value::Dict(entries) => entries.map(|(key, value)| count(key) + count(value)).sum(),
        Value::Array(array) => array.c_bytes().len(),
        _ => 0,
    };
    1 + below
}

#[test]
fn every_pickle_equals_what_python_reads() {
    let Some(formats) = formats() else { return };
    let expected = json(&formats.join("expected.json"));
    let mut compared = 0;
    for name in names_of_pickles(&expected) {
        let pickle = Pickle::open(&formats.join(&name)).unwrap();
        assert_eq!(pickle.trailing_bytes(), 0, "{name}");
        let content = &expected[&name]["content"];
        if !content.is_null() {
            compare(pickle.root(), content, &name);
            compared += 1;
        }
    }
    assert!(compared > 30, "{compared} pickles");
}

#[test]
fn lists_of_base64_texts_have_their_lengths() {
    let Some(formats) = formats() else { return };
    let name = "violet/_data/msrvtt/img_msrvtt.pkl";
    let expected = json(&formats.join("expected.json"));
    let pickle = Pickle::open(&formats.join(name)).unwrap();
    for (id, frames) in expected[name]["frames"].as_object().unwrap() {
        let Value::List(items) = pickle.root().get(id).unwrap().value() else {
            panic!("{id} is no list");
        };
        let found: Vec<usize> = items.map(|item| item.text().unwrap().len()).collect();
        let frames = frames.as_array().unwrap();
        let lens: Vec<u64> = frames
            .iter()
            .map(|f| f["base64_len"].as_u64().unwrap())
            .collect();
        let lens: Vec<usize> = lens
            .iter()
            .map(|&len| usize::try_from(len).unwrap())
            .collect();
        assert_eq!(found, lens, "{id}");
    }
}

#[test]
fn an_array_under_two_keys_is_one_item() {
    let Some(formats) = formats() else { return };
    for protocol in 2..=5 {
        let name = format!("univl/odd_arrays.np1.p{protocol}.pickle");
        let mut pickle = Pickle::open(&formats.join(&name)).unwrap();
        let first = pickle.root().get("shared_a").unwrap().id();
        let second = pickle.root().get("shared_b").unwrap().id();
        assert_eq!(first, second, "{name}");
        assert_eq!(pickle.take_array(first).unwrap().shape(), [5], "{name}");
        assert!(pickle.take_array(second).is_none(), "{name}");
    }
}

#[test]
fn every_hostile_pickle_is_refused_in_time_with_its_reason() {
    let Some(hostile) = shared("fixtures/formats/hostile") else {
        return;
    };
    let marker = json(&hostile.join("expected.json"))["marker_that_must_not_exist"].clone();
    let marker = PathBuf::from(marker.as_str().unwrap());
    for (name, parts) in &REFUSED {
        let path = hostile.join(name);
        let start = Instant::now();
        let message = Pickle::open(&path).unwrap_err().to_string();
        assert!(start.elapsed() < Duration::from_secs(2), "{name}");
        assert!(
            message.starts_with(&path.display().to_string()),
            "{message}"
        );
        for part in *parts {
            assert!(message.contains(part), "{message} says nothing of `{part}`");
        }
    }
    assert!(!marker.exists(), "a pickle ran code");
}

#[test]
fn no_hostile_pickle_is_forgotten() {
    let Some(hostile) = shared("fixtures/formats/hostile") else {
        return;
    };
    let expected = json(&hostile.join("expected.json"));
    for (name, entry) in expected["files"].as_object().unwrap() {
        let folder = name.split('/').next().unwrap();
        if !matches!(folder, "pickle" | "exec" | "bomb") || !name.ends_with(".pickle") {
            continue;
        }
        let is_listed = REFUSED.iter().any(|(file, _)| file == name);
        assert_eq!(is_listed, entry["must"] == "error", "{name}");
    }
}

#[test]
fn bytes_after_the_end_are_counted_and_left_alone() {
    let Some(hostile) = shared("fixtures/formats/hostile") else {
        return;
    };
    let pickle = Pickle::open(&hostile.join("pickle/trailing_garbage.pickle")).unwrap();
    assert_eq!(pickle.trailing_bytes(), 21);
    assert_eq!(pickle.root().kind(), "dict");
}

#[test]
fn a_huge_memo_number_takes_no_memory() {
    let Some(hostile) = shared("fixtures/formats/hostile") else {
        return;
    };
    let pickle = Pickle::open(&hostile.join("bomb/huge_memo_index.pickle")).unwrap();
    assert!(matches!(pickle.root().value(), Value::None));
}

#[test]
fn a_small_pickle_is_read_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.pickle");
    fs::write(&path, SMALL).unwrap();
    let mut pickle = Pickle::open(&path).unwrap();
    assert_eq!(pickle.path(), path);
    let root = pickle.root();
    let Value::List(mut items) = root.get("b").unwrap().value() else {
        panic!("{root:?}");
    };
    assert_eq!(items.next().unwrap().text(), Some("a"));
    assert_eq!(items.next().unwrap().int(), Some(513));
    assert_eq!(items.next().unwrap().float(), Some(1.5));
    assert!(matches!(
        root.get("c").unwrap().value(),
        Value::Bytes(b"\xe9")
    ));
    assert!(matches!(root.get("d").unwrap().value(), Value::Set(items) if items.len() == 1));
    let id = root.get("a").unwrap().id();
    let array = pickle.take_array(id).unwrap();
    assert_eq!(array.shape(), [1, 2]);
    assert_eq!(array.order(), StorageOrder::C);
    assert_eq!(array.to_f64_vec().unwrap(), [1.0, 2.0]);
}

#[test]
fn every_beginning_of_a_pickle_is_refused_at_its_end() {
    for len in 0..SMALL.len() {
        let message = open_bytes(&SMALL[..len]).unwrap_err();
        let is_told = message.contains(&format!("ends at byte {len}"))
            || message.contains("empty file")
            || message.contains("HTML");
        assert!(is_told, "{len}: {message}");
    }
}

#[test]
fn an_absent_pickle_is_named() {
    let message = Pickle::open(Path::new("absent.pickle"))
        .unwrap_err()
        .to_string();
    assert!(message.contains("absent.pickle"), "{message}");
    assert!(message.contains("no such file"), "{message}");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = open_bytes(&bytes);
    }

    #[test]
    fn random_opcodes_never_panic(
        places in proptest::collection::vec(0..SMALL.len(), 0..200),
    ) {
        // Bytes of a valid file in any order hit more opcodes than random bytes do.
        let bytes: Vec<u8> = places.iter().map(|&place| SMALL[place]).collect();
        let _ = open_bytes(&bytes);
    }

    #[test]
    fn a_changed_pickle_never_panics(
        changes in proptest::collection::vec((0..SMALL.len(), any::<u8>()), 1..6),
        len in 0..=SMALL.len(),
    ) {
        let mut bytes = SMALL.to_vec();
        for (place, byte) in changes {
            bytes[place] = byte;
        }
        bytes.truncate(len);
        let _ = open_bytes(&bytes);
    }
}
