//! The rule that docs/architecture.md and the sources agree, in both directions.

use anyhow::Result;

use super::Violation;
use super::tree::Tree;

const FILE: &str = "docs/architecture.md";
const RULE: &str = "map";

/// Checks that the map has a section for every crate, that the section names every top-level
/// module, that its table names no module that is not there, and that every path exists.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Violation>> {
    let text = tree.text_or_empty(FILE)?;
    if text.is_empty() {
        return Ok(vec![violation(
            1,
            "is missing or empty; it maps the crates".to_owned(),
        )]);
    }
    let lines: Vec<&str> = text.lines().collect();
    let mut violations = Vec::new();
    let crates = tree
        .crates()
        .into_iter()
        .map(|name| (name, format!("crates/{name}")));
    for (name, folder) in crates.chain([("xtask", "xtask".to_owned())]) {
        let modules = modules(tree, &folder);
        if folder == "xtask" && modules.is_empty() {
            continue;
        }
        let Some(section) = section(&lines, name) else {
            let message = format!("has no section for `{name}`; add a heading with its name");
            violations.push(violation(1, message));
            continue;
        };
        violations.extend(compare(name, &modules, &section));
    }
    violations.extend(dead_paths(tree, &lines));
    Ok(violations)
}

fn violation(line: usize, message: String) -> Violation {
    Violation {
        file: FILE.to_owned(),
        line,
        rule: RULE,
        message,
    }
}

/// The names of the files and folders at the top of a package's `src`.
fn modules<'a>(tree: &'a Tree, folder: &str) -> Vec<&'a str> {
    let prefix = format!("{folder}/src/");
    let mut names: Vec<&str> = tree
        .files()
        .filter_map(|file| file.strip_prefix(&prefix))
        .filter_map(|file| match file.split_once('/') {
            Some((module, "mod.rs")) => Some(module),
            Some(_) => None,
            None => file.strip_suffix(".rs"),
        })
        .filter(|name| !matches!(*name, "lib" | "main" | "mod"))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The lines under the heading that has the crate's name, with their line numbers.
fn section<'a>(lines: &[&'a str], name: &str) -> Option<Vec<(usize, &'a str)>> {
    let level = |line: &str| line.bytes().take_while(|&byte| byte == b'#').count();
    let wanted = format!("`{name}`");
    let heading = lines
        .iter()
        .position(|line| level(line) > 0 && line.contains(&wanted))?;
    let own_level = level(lines[heading]);
    let body = lines
        .iter()
        .enumerate()
        .skip(heading)
        .enumerate()
        .take_while(|&(offset, (_, line))| {
            offset == 0 || level(line) == 0 || level(line) > own_level
        })
        .map(|(_, (index, line))| (index + 1, *line))
        .collect();
    Some(body)
}

fn compare(name: &str, modules: &[&str], section: &[(usize, &str)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let heading = section.first().map_or(1, |&(line, _)| line);
    for module in modules {
        let wanted = format!("`{module}`");
        if !section.iter().any(|(_, line)| line.contains(&wanted)) {
            let message = format!("the section on `{name}` does not name its module `{module}`");
            violations.push(violation(heading, message));
        }
    }
    for &(line, text) in section {
        for module in table_names(text) {
            if !modules.contains(&module) {
                let message = format!("`{name}` has no module `{module}`; remove it or rename it");
                violations.push(violation(line, message));
            }
        }
    }
    violations
}

/// The names in back-ticks in the first cell of a table row; none for other lines.
fn table_names(line: &str) -> Vec<&str> {
    let Some(cell) = line.strip_prefix('|').and_then(|row| row.split('|').next()) else {
        return Vec::new();
    };
    cell.split('`').skip(1).step_by(2).collect()
}

/// Paths into `crates` or `xtask` that do not exist.
fn dead_paths(tree: &Tree, lines: &[&str]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        for path in paths(line) {
            if !tree.exists(path) {
                let message = format!("names `{path}`, which does not exist");
                violations.push(violation(index + 1, message));
            }
        }
    }
    violations
}

/// What looks like a path into `crates` or `xtask`, patterns such as `crates/*/src` left out.
fn paths(line: &str) -> Vec<&str> {
    let is_path_char = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    line.split(|c: char| !is_path_char(c) && !"*<>{}".contains(c))
        .filter(|word| word.chars().all(is_path_char))
        .map(|word| word.trim_end_matches(['.', '/']))
        .filter(|word| word.starts_with("crates/") || word.starts_with("xtask/"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::TempTree;

    fn found(map: &str) -> Vec<(usize, String)> {
        let tree = TempTree::new();
        tree.write("crates/meltr-core/Cargo.toml", "");
        tree.write("crates/meltr-core/src/lib.rs", "");
        tree.write("crates/meltr-core/src/error.rs", "");
        tree.write("crates/meltr-core/src/combine/mod.rs", "");
        tree.write("crates/meltr-core/src/combine/sum.rs", "");
        tree.write(FILE, map);
        let violations = check(&tree.open()).unwrap();
        violations
            .into_iter()
            .map(|violation| (violation.line, violation.message))
            .collect()
    }

    const GOOD: &str = "# Map\n\n## `meltr-core`\n\nEntry: crates/meltr-core/src/lib.rs.\n\n\
                        | module | holds |\n|---|---|\n| `error` | errors |\n\
                        | `combine` | sums |\n\n## Other\n\n| `name` | anything |\n";

    #[test]
    fn a_map_that_agrees_is_accepted() {
        assert_eq!(found(GOOD), []);
    }

    #[test]
    fn an_empty_map_is_said() {
        assert_eq!(found("").len(), 1);
    }

    #[test]
    fn a_crate_without_a_section_is_named() {
        let map = GOOD.replace("meltr-core`", "meltr-aid`");
        let (line, message) = found(&map).remove(0);
        assert_eq!(line, 1);
        assert!(message.contains("no section for `meltr-core`"));
    }

    #[test]
    fn a_module_that_the_map_does_not_name_is_found() {
        let map = GOOD.replace("| `combine` | sums |\n", "");
        let message = "the section on `meltr-core` does not name its module `combine`";
        assert_eq!(found(&map), [(3, message.to_owned())]);
    }

    #[test]
    fn a_module_that_is_not_there_is_found() {
        let map = GOOD.replace("| `error` |", "| `error`, `dual` |");
        let message = "`meltr-core` has no module `dual`; remove it or rename it";
        assert_eq!(found(&map), [(9, message.to_owned())]);
    }

    #[test]
    fn a_path_that_is_not_there_is_found() {
        let map = GOOD.replace("src/lib.rs.", "src/dual.rs, or `crates/*/src`.");
        let message = "names `crates/meltr-core/src/dual.rs`, which does not exist";
        assert_eq!(found(&map), [(5, message.to_owned())]);
    }
}
