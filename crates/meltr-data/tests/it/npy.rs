//! `.npy` and `.npz` files as numpy writes them, and hostile ones.

use std::fs;
use std::path::{Path, PathBuf};

use meltr_data::{HostArray, NpyContent, StorageOrder, Value, read_npy, read_npz};
use proptest::prelude::*;
use serde_json::Value as Json;

use crate::support::{compare_array, shared};

fn formats() -> Option<PathBuf> {
    shared("fixtures/formats")
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn array(content: NpyContent, at: &str) -> HostArray {
    match content {
        NpyContent::Array(array) => array,
        NpyContent::Pickled(_) => panic!("{at} is pickled"),
    }
}

fn compare(content: NpyContent, expected: &Json, at: &str) {
    let array = array(content, at);
    compare_array(&array, expected, at);
    if let Some(fortran) = expected["fortran_order"].as_bool() {
        assert_eq!(array.order() == StorageOrder::Fortran, fortran, "{at}");
    }
}

#[test]
fn every_array_file_equals_what_numpy_reads() {
    let Some(formats) = formats() else { return };
    let expected = json(&formats.join("expected.json"));
    let mut files = 0;
    for (name, entry) in expected.as_object().unwrap() {
        if !name.starts_with("arrays/") {
            continue;
        }
        files += 1;
        let path = formats.join(name);
        let content = &entry["content"];
        if name.ends_with(".npy") {
            compare(read_npy(&path).unwrap(), content, name);
            continue;
        }
        let members = read_npz(&path).unwrap();
        assert_eq!(members.len(), content.as_object().unwrap().len(), "{name}");
        for (member, found) in members {
            compare(found, &content[&member], &format!("{name}:{member}"));
        }
    }
    assert!(files > 20, "{files} files");
}

#[test]
fn a_dict_in_an_array_of_objects_goes_through_the_pickle_reader() {
    let Some(formats) = formats() else { return };
    let name = "univl/youcookii_videos_features.as_npy_object.npy";
    let expected = &json(&formats.join("expected.json"))[name]["content"];
    let NpyContent::Pickled(pickle) = read_npy(&formats.join(name)).unwrap() else {
        panic!("not pickled");
    };
    let Value::Objects { shape, items } = pickle.root().value() else {
        panic!("the root is a {}", pickle.root().kind());
    };
    assert!(shape.is_empty());
    let dict = items.into_iter().next().unwrap();
    for (id, expected) in expected.as_object().unwrap() {
        let Some(Value::Array(array)) = dict.get(id).map(|item| item.value()) else {
            panic!("{id} is no array");
        };
        compare_array(array, expected, id);
    }
}

#[test]
fn hostile_files_are_refused_with_the_reason() {
    let Some(formats) = formats() else { return };
    let cases: [(&str, &[&str]); 11] = [
        (
            "npy/huge_shape.npy",
            &["shape [1000000000, 1024]", "4096000000000 bytes expected"],
        ),
        (
            "npy/overflow_shape.npy",
            &["shape", "larger than any memory"],
        ),
        ("npy/truncated.npy", &["64 bytes expected, 50 present"]),
        ("npy/bad_magic.npy", &["magic"]),
        ("npy/header_past_end.npy", &["header length"]),
        ("npy/bad_header.npy", &["header", "True or False"]),
        (
            "npy/negative_shape.npy",
            &["`shape` has the negative length -3"],
        ),
        ("npy/version_9.npy", &["version 9"]),
        ("npy/trailing_bytes.npy", &["12 bytes follow the array"]),
        ("exec/object_array.npy", &["object dtype", "system"]),
        (
            "exec/header_expression.npy",
            &["header", "quoted text expected, `__import__"],
        ),
    ];
    for (name, reasons) in cases {
        let message = read_npy(&formats.join("hostile").join(name))
            .unwrap_err()
            .to_string();
        assert!(message.contains(name), "{message}");
        for reason in reasons {
            assert!(message.contains(reason), "{message}");
        }
    }
    let message = read_npz(&formats.join("hostile/npy/truncated.npz"))
        .unwrap_err()
        .to_string();
    assert!(message.contains("zip central directory"), "{message}");
    let expected = json(&formats.join("hostile/expected.json"));
    let marker = expected["marker_that_must_not_exist"].as_str().unwrap();
    assert!(!Path::new(marker).exists(), "{marker} was made");
}

#[test]
fn a_small_archive_that_inflates_within_the_limit_is_read() {
    let Some(formats) = formats() else { return };
    let members = read_npz(&formats.join("hostile/bomb/deflate_64MiB.npz")).unwrap();
    assert_eq!(members.len(), 1);
    let (name, content) = members.into_iter().next().unwrap();
    assert_eq!(name, "a");
    assert_eq!(array(content, "a").num_bytes(), 64 << 20);
}

#[test]
fn an_absent_file_and_a_folder_are_errors_that_name_the_path() {
    let folder = tempfile::tempdir().unwrap();
    for path in [
        folder.path().join("absent.npy"),
        folder.path().to_path_buf(),
    ] {
        for error in [read_npy(&path).unwrap_err(), read_npz(&path).unwrap_err()] {
            assert!(
                error.to_string().starts_with(&path.display().to_string()),
                "{error}"
            );
        }
    }
}

/// A valid file of 2 x 3 numbers.
fn small() -> Vec<u8> {
    let header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend(header);
    for value in 0..6_u8 {
        bytes.extend(f32::from(value).to_le_bytes());
    }
    bytes
}

#[test]
fn the_small_file_of_the_mutations_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.npy");
    fs::write(&path, small()).unwrap();
    let array = array(read_npy(&path).unwrap(), "small.npy");
    assert_eq!(array.shape(), [2, 3]);
    assert_eq!(array.to_f64_vec().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn mutated_files_are_read_or_refused_with_their_path(
        changes in prop::collection::vec((0_usize..200, any::<u8>()), 1..5),
        len in 0_usize..200,
        cut in any::<bool>(),
    ) {
        let mut bytes = small();
        for (place, value) in changes {
            let place = place % bytes.len();
            bytes[place] = value;
        }
        if cut {
            bytes.truncate(len);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mutated.npy");
        fs::write(&path, &bytes).unwrap();
        match read_npy(&path) {
            Ok(NpyContent::Array(array)) => {
                prop_assert!(array.num_bytes() <= bytes.len());
                let _ = (array.to_f64_vec(), array.sha256());
            }
            Ok(NpyContent::Pickled(_)) => {}
            Err(error) => prop_assert!(error.to_string().contains("mutated.npy"), "{error}"),
        }
    }
}
