//! The settings in which two configurations of a run differ.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

/// Settings that no number of a run depends on.
const FREE: [&str; 3] = ["title", "train.checkpoint_every", "train.keep_last"];

/// The setting in which runs that repeat each other differ.
const SEED: &str = "seed";

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

/// For each of some configurations, all TOML, the settings in which it is not like all others, with
/// their values.
///
/// The seed does not count, nor do settings that no number depends on. If one of the texts is no
/// TOML, nothing is said of any.
pub(crate) fn varying_settings(configs: &[&str]) -> Vec<Vec<(String, String)>> {
    let tables: Option<Vec<BTreeMap<String, Value>>> = configs
        .iter()
        .map(|config| config.parse::<Table>().ok().map(flattened))
        .collect();
    let Some(tables) = tables else {
        return vec![Vec::new(); configs.len()];
    };
    let varies = |key: &str| {
        let mut values = tables.iter().map(|table| table.get(key));
        let first = values.next();
        values.any(|value| Some(value) != first)
    };
    let keys: BTreeSet<&String> = tables
        .iter()
        .flat_map(BTreeMap::keys)
        .filter(|key| *key != SEED && !FREE.contains(&key.as_str()) && varies(key))
        .collect();
    tables
        .iter()
        .map(|table| {
            keys.iter()
                .map(|key| {
                    let value = table.get(*key);
                    let shown = value.map_or_else(|| "not set".to_owned(), ToString::to_string);
                    ((*key).clone(), shown)
                })
                .collect()
        })
        .collect()
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
    fn gradient_checkpointing_may_not_change_since_it_rounds_in_another_way() {
        let after = "[train]\ngradient_checkpointing = true\n";
        assert_eq!(
            differing_settings("", after),
            ["`train.gradient_checkpointing` (not set before, true now)"]
        );
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
    fn settings_that_vary_are_told_of_every_configuration() {
        let configs = [
            "seed = 1\ntitle = \"a\"\n[combiner]\nauxiliary_weight = 0.1\n",
            "seed = 2\n[combiner]\nauxiliary_weight = 0.3\n",
            "seed = 1\n[combiner]\n",
        ];
        let key = || "combiner.auxiliary_weight".to_owned();
        assert_eq!(
            varying_settings(&configs),
            [
                vec![(key(), "0.1".to_owned())],
                vec![(key(), "0.3".to_owned())],
                vec![(key(), "not set".to_owned())],
            ]
        );
        let nothing: Vec<(String, String)> = Vec::new();
        assert_eq!(
            varying_settings(&configs[..1]),
            std::slice::from_ref(&nothing)
        );
        let one_is_no_toml = varying_settings(&["a = 1", "a ="]);
        assert_eq!(one_is_no_toml, [nothing.clone(), nothing]);
    }

    #[test]
    fn a_text_that_is_no_toml_differs() {
        assert_eq!(differing_settings("a = 1", "a =").len(), 1);
    }
}
