//! The settings of the runs.

use std::collections::BTreeSet;

use crate::report::assemble::{Assembly, Group, counted_runs};
use crate::report::error::ReportError;
use crate::report::page::Block;
use crate::settings_difference::differing_settings;

/// Characters of a configuration that are shown.
const MAX_CHARS: usize = 12_288;

pub(super) fn blocks(assembly: &Assembly<'_>) -> Result<Vec<Block>, ReportError> {
    Ok(assembly.groups.iter().filter_map(source).collect())
}

/// The configuration of the first run of a combiner, and the settings that its other runs change.
fn source(group: &Group<'_>) -> Option<Block> {
    let (first, others) = group.runs.split_first()?;
    let mut shown: String = first.config_toml.chars().take(MAX_CHARS).collect();
    if shown.len() < first.config_toml.len() {
        shown.push_str("\n[the rest is left out]");
    }
    if shown.trim().is_empty() {
        shown = "[no configuration was recorded]".to_owned();
    }
    let differences: BTreeSet<String> = others
        .iter()
        .flat_map(|other| differing_settings(&first.config_toml, &other.config_toml))
        .map(|difference| setting(&difference))
        .collect();
    let differences: Vec<String> = differences.into_iter().collect();
    let others = match (others.len(), differences.is_empty()) {
        (0, _) => String::new(),
        (n_others, true) => format!("; {} more with the same settings", counted_runs(n_others)),
        (n_others, false) => format!(
            "; {} more, with other values of {}",
            counted_runs(n_others),
            differences.join(", ")
        ),
    };
    Some(Block::Source {
        title: format!("{}: run {}{others}", group.label, first.name),
        text: shown,
    })
}

/// What differs, without its values.
fn setting(difference: &str) -> String {
    let quoted = difference.split('`').nth(1);
    quoted.unwrap_or(difference).to_owned()
}
