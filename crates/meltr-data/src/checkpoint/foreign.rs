//! What a file is that is not of the format asked for.

/// The kind of content that starts with `head`, with what to do about it; `None` if unknown.
///
/// `head` are the first bytes of the file, 300 or all of them, and `len` is its length.
pub(crate) fn foreign_kind(head: &[u8], len: u64) -> Option<&'static str> {
    let text = head.trim_ascii_start().to_ascii_lowercase();
    if head.is_empty() {
        Some("an empty file")
    } else if head.starts_with(b"version https://git-lfs") {
        Some("a Git LFS pointer and not the content; run `git lfs pull`")
    } else if text.starts_with(b"<!doctype") || text.starts_with(b"<html") {
        Some("an HTML page, often of a login or an error; download the file itself")
    } else if head.starts_with(b"\x1f\x8b") {
        Some("gzip-compressed; decompress it first")
    } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        Some("a zip archive, as .npz files and PyTorch checkpoints are")
    } else if head.starts_with(b"\x93NUMPY") {
        Some("a .npy array; read it with `read_npy`")
    } else if is_safetensors(head, len) {
        Some("a safetensors file; open it with `TensorFile`")
    } else if head.starts_with(b"\x89HDF\r\n\x1a\n") {
        Some("an HDF5 file")
    } else if head.get(257..262) == Some(b"ustar") {
        Some("a tar archive, as PyTorch wrote before 0.1.10; save it with a newer PyTorch")
    } else if matches!(head, [0x80, 0..=5, ..]) {
        Some("a plain pickle; open it with `Pickle`")
    } else {
        None
    }
}

/// A header length that fits, followed by a JSON object.
fn is_safetensors(head: &[u8], len: u64) -> bool {
    match head.first_chunk::<8>() {
        Some(prefix) => {
            let end = u64::from_le_bytes(*prefix).saturating_add(8);
            head.get(8) == Some(&b'{') && end <= len
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_mistakes_are_recognized() {
        let cases: [(&[u8], &str); 7] = [
            (b"", "empty file"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b"\n<!DOCTYPE html><html>", "HTML"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\x02\0\0\0\0\0\0\0{}", "safetensors"),
            (b"\x93NUMPY\x01\0", "read_npy"),
            (b"\x80\x04K\x01.", "pickle"),
        ];
        for (head, kind) in cases {
            let found = foreign_kind(head, head.len() as u64).unwrap();
            assert!(found.contains(kind), "{found}");
        }
        assert_eq!(foreign_kind(b"hello\n", 6), None);
        assert_eq!(foreign_kind(b"\xff\0\0\0\0\0\0\0{}", 10), None);
    }
}
