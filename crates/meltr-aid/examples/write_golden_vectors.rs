//! Writes the golden vectors of the conformance suite, by default into `tests/golden`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")),
        PathBuf::from,
    );
    for path in meltr_aid::conformance::write_golden_vectors(&folder)? {
        let size = std::fs::metadata(&path)?.len();
        std::io::Write::write_fmt(
            &mut std::io::stdout(),
            format_args!("{} ({size} bytes)\n", path.display()),
        )?;
    }
    Ok(())
}
