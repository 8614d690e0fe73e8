//! Any bytes as a pickle: a value that can be walked, or an error.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use meltr_data::{Item, Pickle, Value};

/// Items that are visited at most, so that a long but lawful file takes no time.
const MAX_ITEMS: usize = 10_000;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("a temporary file");
    if let Ok(pickle) = Pickle::open(file.path()) {
        let mut left = MAX_ITEMS;
        walk(pickle.root(), &mut left);
    }
});

fn walk(item: Item<'_>, left: &mut usize) {
    if *left == 0 {
        return;
    }
    *left -= 1;
    let _ = (item.kind(), item.text(), item.int(), item.float());
    match item.value() {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
            items.for_each(|item| walk(item, left));
        }
        Value::Dict(entries) => entries.for_each(|(key, value)| {
            walk(key, left);
            walk(value, left);
        }),
        Value::Objects { shape, items } => {
            assert_eq!(shape.iter().product::<usize>(), items.len());
            items.for_each(|item| walk(item, left));
        }
        Value::Array(array) | Value::Scalar(array) => {
            let _ = (array.to_f32(), array.to_i64_vec(), array.to_texts());
        }
        _ => {}
    }
}
