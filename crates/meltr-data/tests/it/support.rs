//! The shared fixtures, and comparers of what is read with what Python read.

use std::path::{Path, PathBuf};

use meltr_data::{ElementType, HostArray, Item, StorageOrder, Value};
use serde_json::Value as Json;

/// A file or folder of the shared fixtures; without them, says so and returns `None`.
///
/// They are in the folder that the environment variable `MELTR_SHARED` names, or else beside the
/// repository.
pub(crate) fn shared(relative: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("MELTR_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let path = root.join(relative);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: the shared fixtures `{relative}` are absent");
    None
}

/// Panics unless a value is the one that the fixtures describe.
///
/// Arrays are objects with `dtype` and `shape`, numpy scalars are objects with `numpy_scalar` and
/// `value`, and numbers that are not finite are the texts `nan`, `inf` and `-inf`.
pub(crate) fn compare(value: Item<'_>, expected: &Json, at: &str) {
    match expected {
        Json::Null => assert!(matches!(value.value(), Value::None), "{at} is {value:?}"),
        Json::Bool(truth) => {
            assert!(
                matches!(value.value(), Value::Bool(found) if found == *truth),
                "{at}"
            );
        }
        Json::Number(number) => compare_number(value, number, at),
        Json::String(text) => match value.value() {
            Value::Float(found) => assert_same(found, number_of(expected), at),
            _ => assert_eq!(value.text(), Some(text.as_str()), "{at} is {value:?}"),
        },
        Json::Array(members) => {
            let (Value::List(items) | Value::Tuple(items) | Value::Set(items)) = value.value()
            else {
                panic!("{at} is a {} instead of a list", value.kind());
            };
            compare_all(items, members, at);
        }
        Json::Object(members) if members.contains_key("numpy_scalar") => {
            compare_scalar(value, expected, at);
        }
        Json::Object(members) if members.contains_key("dtype") => match value.value() {
            Value::Array(array) => {
                assert_eq!(value.kind(), "ndarray", "{at}");
                compare_array(array, expected, at);
            }
            Value::Objects { shape, items } => {
                assert_eq!(expected["dtype"], "|O", "{at}");
                assert_eq!(shape, shape_of(expected), "{at}");
                let mut kinds: Vec<&str> = items.clone().map(Item::kind).collect();
                kinds.sort_unstable();
                kinds.dedup();
                let types = expected["item_types"].as_array().unwrap();
                let mut types: Vec<&str> =
                    types.iter().map(|name| name.as_str().unwrap()).collect();
                types.sort_unstable();
                assert_eq!(kinds, types, "{at}");
                compare_all(items, expected["items"].as_array().unwrap(), at);
            }
            _ => panic!("{at} is a {} instead of an array", value.kind()),
        },
        Json::Object(members) => {
            let Value::Dict(entries) = value.value() else {
                panic!("{at} is a {} instead of a dict", value.kind());
            };
            assert_eq!(entries.len(), members.len(), "{at}");
            for (key, member) in members {
                let found = value.get(key);
                let found = found.unwrap_or_else(|| panic!("{at} has no key {key}"));
                compare(found, member, &format!("{at}/{key}"));
            }
        }
    }
}

/// Panics unless an array is the one that the fixtures describe.
pub(crate) fn compare_array(array: &HostArray, expected: &Json, at: &str) {
    if let Some(name) = expected["torch_dtype"].as_str() {
        assert_eq!(array.element().to_string(), name, "{at}");
    } else {
        // Big-endian arrays have been swapped.
        let dtype = expected["dtype"].as_str().unwrap();
        let element = ElementType::from_numpy(dtype).map(|(element, _)| element);
        assert_eq!(Some(array.element()), element, "{at}");
    }
    assert_eq!(array.shape(), shape_of(expected), "{at}");
    if let Some(items) = expected["items"].as_array() {
        let texts = array.to_texts().unwrap();
        let items: Vec<&str> = items.iter().map(|item| item.as_str().unwrap()).collect();
        assert_eq!(texts, items, "{at}");
        return;
    }
    assert_eq!(
        array.sha256(),
        expected["sha256_le_c"].as_str().unwrap(),
        "{at}"
    );
    if let Some(is_fortran) = expected["fortran_order"].as_bool() {
        assert_eq!(array.order() == StorageOrder::Fortran, is_fortran, "{at}");
    }
    let Some(values) = array.to_f64_vec() else {
        return;
    };
    let sum: f64 = values.iter().sum();
    let expected_sum = number_of(&expected["sum_f64"]);
    if expected_sum.is_finite() {
        let tolerance = 1e-9 * expected_sum.abs().max(1.0);
        assert!(
            (sum - expected_sum).abs() <= tolerance,
            "{at}: sum {sum}, not {expected_sum}"
        );
    } else {
        assert_same(sum, expected_sum, at);
    }
    let first = expected["first"].as_array().unwrap();
    let last = expected["last"].as_array().unwrap();
    for (found, expected) in values.iter().zip(first) {
        assert_same(*found, number_of(expected), at);
    }
    for (found, expected) in values.iter().rev().zip(last.iter().rev()) {
        assert_same(*found, number_of(expected), at);
    }
}

fn compare_all<'a>(items: impl ExactSizeIterator<Item = Item<'a>>, expected: &[Json], at: &str) {
    assert_eq!(items.len(), expected.len(), "{at}");
    for (place, (item, expected)) in items.zip(expected).enumerate() {
        compare(item, expected, &format!("{at}[{place}]"));
    }
}

fn compare_number(value: Item<'_>, expected: &serde_json::Number, at: &str) {
    if expected.is_f64() {
        assert!(
            matches!(value.value(), Value::Float(_)),
            "{at} is {value:?}"
        );
        assert_same(value.float().unwrap(), expected.as_f64().unwrap(), at);
    } else {
        assert!(matches!(value.value(), Value::Int(_)), "{at} is {value:?}");
        assert_eq!(value.int(), expected.as_i64(), "{at}");
    }
}

fn compare_scalar(value: Item<'_>, expected: &Json, at: &str) {
    let Value::Scalar(array) = value.value() else {
        panic!("{at} is a {} instead of a numpy scalar", value.kind());
    };
    let name = expected["numpy_scalar"].as_str().unwrap();
    let element = array.element();
    assert!(
        element.to_string() == name || element.numpy() == name,
        "{at}: {element}, not {name}"
    );
    assert_eq!(array.shape(), [0_usize; 0], "{at}");
    match array.to_texts() {
        Some(texts) => assert_eq!(texts, [expected["value"].as_str().unwrap()], "{at}"),
        None => assert_same(value.float().unwrap(), number_of(&expected["value"]), at),
    }
}

fn shape_of(expected: &Json) -> Vec<usize> {
    let lens = expected["shape"].as_array().unwrap();
    lens.iter()
        .map(|len| usize::try_from(len.as_u64().unwrap()).unwrap())
        .collect()
}

fn number_of(expected: &Json) -> f64 {
    match expected {
        Json::String(text) => text.parse().unwrap(),
        other => other.as_f64().unwrap(),
    }
}

/// Equal but for the last digit of a number that was read from JSON, where every NaN is the same;
/// that the values are right to the bit is what their checksum says.
fn assert_same(found: f64, expected: f64, at: &str) {
    let near = (found - expected).abs() <= 4.0 * f64::EPSILON * expected.abs();
    assert!(
        near || found == expected || (found.is_nan() && expected.is_nan()),
        "{at}: {found}, not {expected}"
    );
}
