//! Rules about Rust files: each says what it is, and only the binary names a device.

use anyhow::Result;

use super::Violation;
use super::tree::Tree;

/// The crate whose sources may name a device.
const BINARY: &str = "meltr-cli";

/// What names a backend's device in burn.
const DEVICES: [&str; 9] = [
    "Device::flex(",
    "Device::cuda(",
    "Device::libtorch",
    "Device::vulkan(",
    "Device::wgpu(",
    "Device::metal(",
    "Device::rocm(",
    "Device::ndarray(",
    "Device::cpu(",
];

/// Checks every Rust file.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for file in tree.files().filter(|file| file.ends_with(".rs")) {
        let text = tree.text(file)?.unwrap_or_default();
        if !text.starts_with("//!") {
            violations.push(Violation {
                file: file.to_owned(),
                line: 1,
                rule: "module-doc",
                message: "does not open with a `//!` line; say in one sentence what the file \
                          holds"
                    .to_owned(),
            });
        }
        if is_library_source(file) {
            violations.extend(devices(file, &text));
        }
    }
    Ok(violations)
}

/// Whether a file is under the `src` of a library crate. Tests, benches and examples lie beside it.
fn is_library_source(file: &str) -> bool {
    let mut parts = file.split('/');
    parts.next() == Some("crates")
        && parts.next().is_some_and(|name| name != BINARY)
        && parts.next() == Some("src")
}

fn devices(file: &str, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (line, code) in shipped_lines(text) {
        if let Some(device) = DEVICES.into_iter().find(|&device| code.contains(device)) {
            violations.push(Violation {
                file: file.to_owned(),
                line,
                rule: "device",
                message: format!(
                    "names `{}`; a library takes the device from its caller",
                    device.trim_end_matches('(')
                ),
            });
        }
    }
    violations
}

/// The lines of code outside `#[cfg(test)]` items, counted from 1. Relies on the layout that
/// rustfmt gives: an item closes at the indentation at which it opens.
fn shipped_lines(text: &str) -> Vec<(usize, &str)> {
    enum State {
        Shipped,
        AfterAttribute,
        Inside { close: String },
    }
    let mut state = State::Shipped;
    let mut shipped = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let code = line.trim();
        state = match state {
            State::Inside { close } if line.trim_end_matches(';') == close => State::Shipped,
            State::Inside { close } => State::Inside { close },
            State::AfterAttribute if code.is_empty() || code.starts_with('#') => {
                State::AfterAttribute
            }
            State::AfterAttribute if code.ends_with([';', ',', '}']) => State::Shipped,
            State::AfterAttribute => {
                let indent = &line[..line.len() - line.trim_start().len()];
                State::Inside {
                    close: format!("{indent}}}"),
                }
            }
            State::Shipped if code.starts_with("#[cfg(test)]") => State::AfterAttribute,
            State::Shipped => {
                if !code.starts_with("//") {
                    shipped.push((index + 1, line));
                }
                State::Shipped
            }
        };
    }
    shipped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::TempTree;

    fn found(file: &str, text: &str) -> Vec<(usize, &'static str)> {
        let tree = TempTree::new();
        tree.write(file, text);
        let violations = check(&tree.open()).unwrap();
        assert!(violations.iter().all(|violation| violation.file == file));
        violations
            .iter()
            .map(|violation| (violation.line, violation.rule))
            .collect()
    }

    #[test]
    fn a_file_without_a_first_sentence_is_named() {
        assert_eq!(
            found("crates/a/src/lib.rs", "use std::fs;\n"),
            [(1, "module-doc")]
        );
        assert_eq!(found("xtask/src/empty.rs", ""), [(1, "module-doc")]);
        assert_eq!(found("crates/a/src/lib.rs", "//! A library.\n"), []);
    }

    #[test]
    fn a_library_names_no_device() {
        let text = "//! A library.\n\nfn device() -> Device {\n    Device::flex()\n}\n";
        assert_eq!(found("crates/meltr-core/src/lib.rs", text), [(4, "device")]);
        for file in [
            "crates/meltr-cli/src/main.rs",
            "crates/meltr-core/tests/it/main.rs",
            "crates/meltr-core/benches/forward.rs",
            "crates/meltr-core/examples/first.rs",
        ] {
            assert_eq!(found(file, text), [], "{file}");
        }
    }

    #[test]
    fn tests_and_comments_may_name_a_device() {
        let text = "//! A library.\n\n/// As in `Device::flex()`.\nfn f() {}\n\n\
                    #[cfg(test)]\nmod tests {\n    fn device() -> Device {\n        \
                    Device::flex()\n    }\n}\n";
        assert_eq!(found("crates/a/src/lib.rs", text), []);
    }

    #[test]
    fn code_after_a_test_item_is_checked_again() {
        let text = "//! A library.\n#[cfg(test)]\nmod support;\n#[cfg(test)]\nuse a::{\n    b,\n};\n\
                    #[cfg(test)]\nmod tests {\n}\nlet device = Device::cuda(0);\n";
        assert_eq!(found("crates/a/src/lib.rs", text), [(11, "device")]);
    }
}
