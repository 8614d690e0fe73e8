//! Rules about manifests: which crate may depend on which, and that libraries choose no backend.

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::Violation;
use super::tree::Tree;

/// What each package may depend on among ours. A new edge is a decision: change it here and in
/// docs/architecture.md.
const LAYERS: [(&str, &[&str]); 8] = [
    ("meltr-core", &[]),
    ("meltr-aid", &[]),
    ("meltr-data", &[]),
    ("meltr-models", &["meltr-core"]),
    ("meltr-tasks", &["meltr-core", "meltr-models", "meltr-data"]),
    ("meltr-train", &["meltr-core", "meltr-aid", "meltr-data"]),
    (
        BINARY,
        &[
            "meltr-core",
            "meltr-aid",
            "meltr-data",
            "meltr-models",
            "meltr-tasks",
            "meltr-train",
        ],
    ),
    ("xtask", &[]),
];

/// The only crate that chooses backends.
const BINARY: &str = "meltr-cli";

/// Features of burn that bring a backend.
const BACKENDS: [&str; 10] = [
    "flex", "tch", "wgpu", "vulkan", "metal", "webgpu", "cuda", "rocm", "ndarray", "cpu",
];

const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Checks the manifest of the workspace and of each package.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    let packages = tree
        .crates()
        .into_iter()
        .map(|name| (name, format!("crates/{name}/Cargo.toml")));
    for (name, file) in packages.chain([("xtask", "xtask/Cargo.toml".to_owned())]) {
        if let Some(manifest) = Manifest::read(tree, &file)? {
            violations.extend(manifest.layers(name));
            if name != BINARY {
                violations.extend(manifest.backends());
            }
        }
    }
    if let Some(manifest) = Manifest::read(tree, "Cargo.toml")? {
        violations.extend(manifest.workspace_backends());
    }
    Ok(violations)
}

/// A manifest with the text it was read from.
struct Manifest {
    file: String,
    text: String,
    table: Table,
}

impl Manifest {
    /// Reads a manifest; `None` when there is no such file.
    fn read(tree: &Tree, file: &str) -> Result<Option<Self>> {
        if !tree.exists(file) {
            return Ok(None);
        }
        let text = tree
            .text(file)?
            .with_context(|| format!("`{file}` is not text"))?;
        let table: Table =
            toml::from_str(&text).with_context(|| format!("failed to parse `{file}`"))?;
        Ok(Some(Self {
            file: file.to_owned(),
            text,
            table,
        }))
    }

    /// The sections of one kind: the plain one and those of single targets.
    fn sections(&self, kind: &str) -> Vec<&Table> {
        let targets = self.table.get("target").and_then(Value::as_table);
        let of_targets = targets.into_iter().flat_map(|targets| targets.values());
        self.table
            .get(kind)
            .into_iter()
            .chain(of_targets.filter_map(|target| target.get(kind)))
            .filter_map(Value::as_table)
            .collect()
    }

    /// Edges between our packages that the table does not have.
    fn layers(&self, package: &str) -> Vec<Violation> {
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == package) else {
            let message = format!(
                "the package `{package}` has no layer; add it to LAYERS in \
                 xtask/src/tidy/manifests.rs and to docs/architecture.md"
            );
            return vec![self.violation("layers", "name", message)];
        };
        let mut violations = Vec::new();
        for kind in SECTIONS {
            for (key, value) in self.sections(kind).into_iter().flatten() {
                let dependency = value.get("package").and_then(Value::as_str).unwrap_or(key);
                let ours = LAYERS.iter().any(|(name, _)| *name == dependency);
                if ours && !allowed.contains(&dependency) {
                    let message = format!(
                        "`{package}` depends on `{dependency}`; it may depend on {}",
                        if allowed.is_empty() {
                            "none of our crates".to_owned()
                        } else {
                            allowed.join(", ")
                        }
                    );
                    violations.push(self.violation("layers", key, message));
                }
            }
        }
        violations
    }

    /// Backends that a library would force on its users. Tests may enable one.
    fn backends(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        for kind in ["dependencies", "build-dependencies"] {
            for (key, value) in self.sections(kind).into_iter().flatten() {
                violations.extend(self.backends_of(key, value));
            }
        }
        let features = self.table.get("features").and_then(Value::as_table);
        for (feature, value) in features.into_iter().flatten() {
            for enabled in strings(Some(value)) {
                let Some((dependency, burn_feature)) = enabled.split_once('/') else {
                    continue;
                };
                let of_burn = dependency.trim_end_matches('?') == "burn";
                if of_burn && BACKENDS.contains(&burn_feature) {
                    let message = format!(
                        "the feature `{feature}` enables the backend `{burn_feature}` of burn; \
                         only {BINARY} forwards backends"
                    );
                    violations.push(self.violation("no-backend", feature, message));
                }
            }
        }
        violations
    }

    /// Backends that the shared entry for burn would force on every crate.
    fn workspace_backends(&self) -> Vec<Violation> {
        self.table
            .get("workspace")
            .and_then(|workspace| workspace.get("dependencies"))
            .and_then(|dependencies| dependencies.get("burn"))
            .map(|burn| self.backends_of("burn", burn))
            .unwrap_or_default()
    }

    fn backends_of(&self, key: &str, value: &Value) -> Vec<Violation> {
        let dependency = value.get("package").and_then(Value::as_str).unwrap_or(key);
        let advice = format!("only {BINARY} and tests choose a backend");
        if let Some(backend) = dependency.strip_prefix("burn-")
            && BACKENDS.contains(&backend)
        {
            let message = format!("depends on the backend `{dependency}`; {advice}");
            return vec![self.violation("no-backend", key, message)];
        }
        if dependency != "burn" {
            return Vec::new();
        }
        strings(value.get("features"))
            .into_iter()
            .filter(|feature| BACKENDS.contains(feature))
            .map(|feature| {
                let message = format!("enables the backend `{feature}` of burn; {advice}");
                self.violation("no-backend", key, message)
            })
            .collect()
    }

    /// A violation at the first line that begins with `key`.
    fn violation(&self, rule: &'static str, key: &str, message: String) -> Violation {
        let is_key = |line: &str| {
            let line = line.trim_start().trim_start_matches('"');
            let after = line
                .strip_prefix(key)
                .map(|after| after.trim_start_matches('"'));
            after.is_some_and(|after| after.trim_start().starts_with(['=', '.']))
        };
        let line = self
            .text
            .lines()
            .position(is_key)
            .map_or(1, |index| index + 1);
        Violation {
            file: self.file.clone(),
            line,
            rule,
            message,
        }
    }
}

/// The strings of an array; none when it is absent or something else.
fn strings(value: Option<&Value>) -> Vec<&str> {
    let array = value.and_then(Value::as_array);
    array
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::TempTree;

    fn found(files: &[(&str, &str)]) -> Vec<Violation> {
        let tree = TempTree::new();
        for (file, text) in files {
            tree.write(file, text);
        }
        check(&tree.open()).unwrap()
    }

    #[test]
    fn edges_of_the_table_are_accepted() {
        let models = "[package]\nname = \"meltr-models\"\n\n[dependencies]\n\
                      meltr-core.workspace = true\nburn.workspace = true\n\n\
                      [dev-dependencies]\nburn = { workspace = true, features = [\"flex\"] }\n";
        assert_eq!(found(&[("crates/meltr-models/Cargo.toml", models)]), []);
    }

    #[test]
    fn an_edge_upward_is_named_with_its_line() {
        let core = "[package]\nname = \"meltr-core\"\n\n[dev-dependencies]\n\
                    meltr-train.workspace = true\n";
        let violations = found(&[("crates/meltr-core/Cargo.toml", core)]);
        assert_eq!(violations.len(), 1);
        assert_eq!(
            violations[0].to_string(),
            "crates/meltr-core/Cargo.toml:5: `meltr-core` depends on `meltr-train`; it may depend \
             on none of our crates [layers]"
        );
    }

    #[test]
    fn a_renamed_edge_and_one_of_a_single_target_are_found() {
        let aid = "[package]\nname = \"meltr-aid\"\n\n[target.'cfg(unix)'.dependencies]\n\
                   losses = { package = \"meltr-core\", path = \"../meltr-core\" }\n";
        let violations = found(&[("crates/meltr-aid/Cargo.toml", aid)]);
        assert_eq!(violations.len(), 1);
        assert_eq!((violations[0].line, violations[0].rule), (5, "layers"));
    }

    #[test]
    fn a_crate_without_a_layer_is_named() {
        let other = "[package]\nname = \"meltr-other\"\n";
        let violations = found(&[("crates/meltr-other/Cargo.toml", other)]);
        assert_eq!(violations.len(), 1);
        assert_eq!((violations[0].line, violations[0].rule), (2, "layers"));
    }

    #[test]
    fn a_library_with_a_backend_is_named() {
        let by_feature = "[dependencies]\nburn = { workspace = true, features = [\"flex\"] }\n";
        let by_crate = "[dependencies]\nburn-flex.workspace = true\n";
        let by_forwarding = "[features]\ngpu = [\"burn/cuda\"]\n";
        for (text, line) in [(by_feature, 2), (by_crate, 2), (by_forwarding, 2)] {
            let violations = found(&[("crates/meltr-core/Cargo.toml", text)]);
            assert_eq!(violations.len(), 1, "{text}");
            assert_eq!(
                (violations[0].line, violations[0].rule),
                (line, "no-backend"),
                "{text}"
            );
            assert_eq!(
                found(&[("crates/meltr-cli/Cargo.toml", text)]),
                [],
                "{text}"
            );
        }
    }

    #[test]
    fn the_shared_entry_for_burn_has_no_backend() {
        let root = "[workspace.dependencies]\nburn = { version = \"1\", features = [\"std\"] }\n";
        assert_eq!(found(&[("Cargo.toml", root)]), []);
        let root = root.replace("std", "tch");
        let violations = found(&[("Cargo.toml", root.as_str())]);
        assert_eq!(violations.len(), 1);
        assert_eq!((violations[0].line, violations[0].rule), (2, "no-backend"));
    }

    #[test]
    fn a_manifest_that_does_not_parse_is_named() {
        let tree = TempTree::new();
        tree.write("crates/meltr-core/Cargo.toml", "[package\n");
        let error = check(&tree.open()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to parse `crates/meltr-core/Cargo.toml`"
        );
    }
}
