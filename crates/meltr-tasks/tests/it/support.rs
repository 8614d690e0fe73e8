//! The shared fixtures, and JSON objects in the order of their file.

use std::fmt;
use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

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

/// What a JSON file holds.
pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> T {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A JSON object as pairs, in the order of the file.
#[derive(Debug)]
pub(crate) struct Ordered<V>(pub(crate) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Ordered<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Pairs(PhantomData))
    }
}

struct Pairs<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Pairs<V> {
    type Value = Ordered<V>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Ordered<V>, M::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Ordered(pairs))
    }
}

/// Panics unless two numbers differ by at most `tolerance`.
pub(crate) fn assert_near(found: f64, expected: f64, tolerance: f64, at: &str) {
    assert!(
        (found - expected).abs() <= tolerance,
        "{at}: {found}, not {expected}"
    );
}
