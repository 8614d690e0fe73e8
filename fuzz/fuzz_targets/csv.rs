//! Any bytes as a table with named columns.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use meltr_data::{CsvTable, Delimiter};

fuzz_target!(|bytes: &[u8]| {
    for (delimiter, required) in [
        (Delimiter::Comma, &["video_id"][..]),
        (Delimiter::Tab, &[][..]),
    ] {
        let table = CsvTable::from_bytes(Path::new("fuzz"), bytes.to_vec(), delimiter, required);
        if let Ok(table) = table {
            assert_eq!(table.rows().count(), table.n_rows());
            for row in table.rows() {
                let _ = row.line();
            }
            for column in required {
                let _ = table.unique(column);
            }
        }
    }
});
