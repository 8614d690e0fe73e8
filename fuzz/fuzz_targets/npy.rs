//! Any bytes as a numpy array or an archive of arrays.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use meltr_data::{NpyContent, read_npy, read_npz};

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("a temporary file");
    if bytes.starts_with(b"PK") {
        let _ = read_npz(file.path());
    } else if let Ok(NpyContent::Array(array)) = read_npy(file.path()) {
        assert!(array.num_bytes() <= bytes.len());
        let _ = (array.c_bytes().len(), array.to_f64_vec(), array.to_texts());
    }
});
