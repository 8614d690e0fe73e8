//! Damaged, altered and mismatched files: each is an error that names the file, never a panic.

use std::fs;
use std::path::{Path, PathBuf};

use meltr_data::{DataErrorKind, EmojiClips, Split, TensorFile, TensorFileWriter, WordPiece};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const FILES: [&str; 4] = [
    "clips.tsv",
    "vocab.txt",
    "tokens.safetensors",
    "features.safetensors",
];

const TABLE: &str = "\
code\temoji\tname\tkeywords\tgroup\tsubgroup\tneg\tneu\tpos\tsentiment\tframes_src\tdur_ms\tsplit
1f300\t🌀\tcyclone\twind|sea\tg\ts\t1\t2\t3\t0.2\t72\t0\ttrain
1f30a\t🌊\tsea\t\tg\ts\t\t\t\t\t72\t0\ttest
";

const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncyclone\nwind\nsea\n";

/// A valid set of two clips in a folder of its own.
fn tiny() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("clips.tsv"), TABLE).unwrap();
    fs::write(folder.path().join("vocab.txt"), VOCAB).unwrap();
    write_tensor(
        folder.path(),
        "tokens.safetensors",
        "embeddings",
        &[8, 3],
        0.5,
    );
    write_tensor(
        folder.path(),
        "features.safetensors",
        "frames",
        &[2, 4, 5],
        0.5,
    );
    write_sums(folder.path());
    folder
}

fn write_tensor(folder: &Path, file: &str, name: &str, shape: &[usize], value: f32) {
    let mut writer = TensorFileWriter::new();
    writer.insert_f32(name, shape, vec![value; shape.iter().product()]);
    writer.write(&folder.join(file)).unwrap();
}

fn write_sums(folder: &Path) {
    let mut sums = String::new();
    for file in FILES {
        let digest = Sha256::digest(fs::read(folder.join(file)).unwrap());
        let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        sums.push_str(&format!("{digits}  {file}\n"));
    }
    fs::write(folder.join("SHA256SUMS"), sums).unwrap();
}

/// Opens a set that must be refused, and returns the message.
fn refusal(folder: &Path, file: &str) -> String {
    let message = EmojiClips::open(folder).unwrap_err().to_string();
    let path = folder.join(file).display().to_string();
    assert!(
        message.starts_with(&path),
        "{message} does not start with {path}"
    );
    message
}

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("assets")
        .join("emoji-clips")
}

#[test]
fn a_small_set_of_the_same_format_opens() {
    let folder = tiny();
    let set = EmojiClips::open(folder.path()).unwrap();
    assert_eq!(set.frames().dim(), (2, 4, 5));
    assert_eq!(set.clips()[0].keywords, ["wind", "sea"]);
    assert_eq!(set.indices(&[Split::Test]).unwrap(), [1]);
    let error = set.indices(&[Split::Valid]).unwrap_err();
    assert!(
        error.to_string().contains("no item is in split [valid]"),
        "{error}"
    );
}

#[test]
fn an_altered_byte_of_any_file_of_the_set_is_found() {
    let folder = tempfile::tempdir().unwrap();
    for file in FILES.iter().chain(&["SHA256SUMS"]) {
        fs::copy(assets().join(file), folder.path().join(file)).unwrap();
    }
    EmojiClips::open(folder.path()).unwrap();
    for file in FILES {
        let path = folder.path().join(file);
        let original = fs::read(&path).unwrap();
        let mut altered = original.clone();
        let last = altered.len() - 1;
        altered[last] ^= 1;
        fs::write(&path, altered).unwrap();
        assert!(refusal(folder.path(), file).contains("SHA-256"));
        fs::write(&path, &original[..original.len() / 2]).unwrap();
        assert!(refusal(folder.path(), file).contains("SHA-256"));
        fs::write(&path, original).unwrap();
    }
}

#[test]
fn every_absent_file_is_named() {
    for file in FILES.iter().chain(&["SHA256SUMS"]) {
        let folder = tiny();
        fs::remove_file(folder.path().join(file)).unwrap();
        assert!(refusal(folder.path(), file).contains("no such file"));
    }
}

#[test]
fn a_file_without_checksum_is_named() {
    let folder = tiny();
    fs::write(folder.path().join("SHA256SUMS"), "").unwrap();
    assert!(refusal(folder.path(), "SHA256SUMS").contains("no checksum for `clips.tsv`"));
}

#[test]
fn bad_tables_are_refused_with_their_line() {
    let cases = [
        (
            TABLE.replace("\ttest", "\tdev"),
            "clips.tsv:3: unknown split `dev`",
        ),
        (
            TABLE.replace("\t0.2\t", "\tgood\t"),
            "clips.tsv:2: column `sentiment` is `good`",
        ),
        (
            TABLE.replace("cyclone\t", "cyclone\t\t"),
            "clips.tsv:2: row has 14 cells",
        ),
        (
            TABLE.replace("1f30a", "1f300"),
            "clips.tsv:3: column `code`",
        ),
        (
            TABLE.replace("sentiment", "mood"),
            "clips.tsv:1: column `sentiment` is `absent`",
        ),
        (
            TABLE.lines().next().unwrap_or_default().to_owned(),
            "clips.tsv: has no row",
        ),
        (String::new(), "clips.tsv: has no row"),
    ];
    for (table, message) in cases {
        let folder = tiny();
        fs::write(folder.path().join("clips.tsv"), table).unwrap();
        write_sums(folder.path());
        let refused = refusal(folder.path(), "clips.tsv");
        assert!(refused.contains(message), "{refused}");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    for file in ["clips.tsv", "vocab.txt"] {
        let folder = tiny();
        fs::write(folder.path().join(file), b"ab\xff").unwrap();
        write_sums(folder.path());
        assert!(refusal(folder.path(), file).contains("byte 2 is not UTF-8"));
    }
}

#[test]
fn arrays_that_do_not_fit_the_table_or_the_vocabulary_are_refused() {
    let folder = tiny();
    write_tensor(
        folder.path(),
        "features.safetensors",
        "frames",
        &[3, 4, 5],
        0.5,
    );
    write_sums(folder.path());
    let message = refusal(folder.path(), "features.safetensors");
    assert!(
        message.contains("`frames` has shape [3, 4, 5] but should have [2, F, K]"),
        "{message}"
    );

    let folder = tiny();
    write_tensor(
        folder.path(),
        "features.safetensors",
        "frames",
        &[2, 4],
        0.5,
    );
    write_sums(folder.path());
    assert!(refusal(folder.path(), "features.safetensors").contains("has shape [2, 4]"));

    let folder = tiny();
    write_tensor(
        folder.path(),
        "tokens.safetensors",
        "embeddings",
        &[7, 3],
        0.5,
    );
    write_sums(folder.path());
    assert!(refusal(folder.path(), "tokens.safetensors").contains("should have [8, D]"));

    let folder = tiny();
    write_tensor(folder.path(), "tokens.safetensors", "weights", &[8, 3], 0.5);
    write_sums(folder.path());
    assert!(refusal(folder.path(), "tokens.safetensors").contains("has no tensor `embeddings`"));

    let folder = tiny();
    write_tensor(
        folder.path(),
        "features.safetensors",
        "frames",
        &[2, 4, 5],
        f32::NAN,
    );
    write_sums(folder.path());
    assert!(refusal(folder.path(), "features.safetensors").contains("not finite"));
}

#[test]
fn a_truncated_tensor_file_says_where_it_ends() {
    let folder = tiny();
    let path = folder.path().join("features.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    write_sums(folder.path());
    let message = refusal(folder.path(), "features.safetensors");
    let expected = format!(
        "ends at byte {} where {} bytes",
        bytes.len() - 1,
        bytes.len()
    );
    assert!(message.contains(&expected), "{message}");
}

#[test]
fn files_that_are_no_tensor_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let contents: [&[u8]; 5] = [
        b"",
        b"PK\x03\x04 this is a zip archive, not a tensor file",
        b"\x02\0\0\0\0\0\0\0{]",
        b"\x14\0\0\0\0\0\0\0{\"x\":{\"dtype\":\"Z9\"}}",
        b"\xff\xff\xff\xff\xff\xff\xff\xff{}",
    ];
    for content in contents {
        fs::write(&path, content).unwrap();
        let message = TensorFile::open(&path).unwrap_err().to_string();
        assert!(
            message.starts_with(&path.display().to_string()),
            "{message}"
        );
    }
    let error = TensorFile::open(folder.path()).unwrap_err();
    assert!(matches!(error.kind, DataErrorKind::Io { .. }), "{error}");
}

#[test]
fn a_duplicate_vocabulary_line_names_both_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocab.txt");
    fs::write(&path, format!("{VOCAB}wind\n")).unwrap();
    let message = WordPiece::from_vocab_file(&path).unwrap_err().to_string();
    assert!(
        message.contains("vocab.txt:9: token `wind` already occurs at line 7"),
        "{message}"
    );
}
