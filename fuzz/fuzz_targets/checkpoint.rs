//! Any bytes as a checkpoint of PyTorch, every tensor read.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use meltr_data::Checkpoint;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("a temporary file");
    if let Ok(checkpoint) = Checkpoint::open(file.path()) {
        let _ = checkpoint.aliases();
        for (name, tensor) in checkpoint.tensors() {
            if let Ok(array) = checkpoint.read(name) {
                assert_eq!(array.shape(), tensor.shape());
            }
        }
    }
});
