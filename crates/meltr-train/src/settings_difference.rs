//! The settings in which two configurations of a run differ.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// Settings that no number of a run depends on.
const FREE: [&str; 3] = ["title", "train.checkpoint_every", "train.keep_last"];

/// Differences that are listed at most.
const MAX_LISTED: usize = 8;

/// The settings that `after` changes against `before`, both TOML, each with its two values.
///
/// Titles and the settings that only decide when and how many checkpoints are kept do not count.
/// Comments, the order of keys and the way a value is written do not matter.
#[must_use]
pub fn differing_settings(before: &str, after: &str) -> Vec<String> {
    if before == after {
        return Vec::new();
    }
    let (Ok(before), Ok(after)) = (before.parse::<Table>(), after.parse::<Table>()) else {
        return vec!["the file as a whole, which is not valid TOML".to_owned()];
    };
    let (before, after) = (flattened(before), flattened(after));
    let mut differences: Vec<String> = before
        .keys()
        .chain(after.keys().filter(|key| !before.contains_key(*key)))
        .filter(|key| !FREE.contains(&key.as_str()) && before.get(*key) != after.get(*key))
        .map(|key| {
            let shown = |value: Option<&Value>| {
                value.map_or_else(|| "not set".to_owned(), ToString::to_string)
            };
            format!(
                "`{key}` ({} before, {} now)",
                shown(before.get(key)),
                shown(after.get(key))
            )
        })
        .collect();
    if differences.len() > MAX_LISTED {
        let more = differences.len() - MAX_LISTED;
        differences.truncate(MAX_LISTED);
        differences.push(format!("and {more} more"));
    }
    differences
}

/// Values by dotted key.
fn flattened(table: Table) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    let mut open: Vec<(String, Table)> = vec![(String::new(), table)];
    while let Some((prefix, table)) = open.pop() {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            match value {
                Value::Table(inner) => open.push((format!("{key}."), inner)),
                value => {
                    flat.insert(key, value);
                }
            }
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_an_added_and_a_removed_setting_are_named_with_their_values() {
        let before = "seed = 1\n[inner]\nlearning_rate = 1e-4\n[outer]\nevery = 3\n";
        let after = "seed = 1\n[inner]\nlearning_rate = 0.001\n[train]\npatience = 2\n";
        assert_eq!(
            differing_settings(before, after),
            [
                "`inner.learning_rate` (0.0001 before, 0.001 now)",
                "`outer.every` (3 before, not set now)",
                "`train.patience` (not set before, 2 now)",
            ]
        );
    }

    #[test]
    fn another_spelling_of_the_same_settings_is_no_difference() {
        let before = "b = 2\na = 1e-4\n[c]\nd = [1, 2]\n";
        let after = "# the same\nc.d = [1, 2]\na = 0.0001\nb = 2\n";
        assert_eq!(differing_settings(before, after), Vec::<String>::new());
    }

    #[test]
    fn how_checkpoints_are_kept_may_change() {
        let before = "title = \"a\"\n[train]\ncheckpoint_every = 5\n";
        let after = "title = \"b\"\n[train]\ncheckpoint_every = 1\nkeep_last = 9\n";
        assert_eq!(differing_settings(before, after), Vec::<String>::new());
    }

    #[test]
    fn many_differences_are_counted() {
        let text =
            |value: usize| (0..12).fold(String::new(), |t, i| t + &format!("k{i} = {value}\n"));
        let differences = differing_settings(&text(1), &text(2));
        assert_eq!(differences.len(), 9);
        assert_eq!(differences[8], "and 4 more");
    }

    #[test]
    fn a_text_that_is_no_toml_differs() {
        assert_eq!(differing_settings("a = 1", "a =").len(), 1);
    }
}
