//! `meltr data list`.

use meltr_data::{Access, RegistryEntry};
use serde_json::json;

use super::arguments::ListArguments;
use super::{find_entry, open_registry};
use crate::error::CliError;
use crate::output;

const UNKNOWN: &str = "not known";

pub(super) fn run(arguments: &ListArguments) -> Result<(), CliError> {
    let registry = open_registry(arguments.registry.as_deref())?;
    let mut entries: Vec<&RegistryEntry> = Vec::new();
    for id in &arguments.ids {
        entries.push(find_entry(&registry, id)?);
    }
    let in_full = !entries.is_empty();
    if !in_full {
        entries.extend(registry.entries());
    }
    if arguments.json {
        return output::json(&json!({ "entries": entries }));
    }
    if in_full {
        for (position, entry) in entries.iter().enumerate() {
            if position > 0 {
                output::line("");
            }
            show(entry);
        }
        return Ok(());
    }
    for entry in entries {
        output::line(&format!(
            "{:<20} {:<8} {:<11} {:<10} {}",
            entry.id,
            entry.kind.name(),
            access(entry),
            way(entry),
            entry.name
        ));
    }
    output::note("`meltr data list ID` shows an entry in full, `meltr data get ID` fetches it");
    Ok(())
}

fn show(entry: &RegistryEntry) {
    let row = |key: &str, value: &str| output::line(&format!("{key:<11} {value}"));
    row("id", &entry.id);
    row("name", &entry.name);
    row("what", &entry.what);
    row("access", access(entry));
    row("license", entry.license.as_deref().unwrap_or(UNKNOWN));
    row("who", entry.who.as_deref().unwrap_or(UNKNOWN));
    row("source", &entry.source);
    if let Some(repository) = &entry.repository {
        let commit = entry
            .commit
            .as_ref()
            .map(|commit| format!(" at {commit}"))
            .unwrap_or_default();
        row("repository", &format!("{repository}{commit}"));
    }
    if !entry.used_by.is_empty() {
        row("used by", &entry.used_by.join("; "));
    }
    for (split, counts) in &entry.splits {
        let counts: Vec<String> = counts
            .known()
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        row("split", &format!("{split}: {}", counts.join(", ")));
    }
    if let Some(counted) = &entry.counted {
        row("counted", counted);
    }
    if let Some(checksums) = &entry.checksums {
        row("checksums", checksums);
    }
    for file in &entry.files {
        let size = match file.size {
            Some(size) => format!("{size} bytes"),
            None => format!("size {UNKNOWN}"),
        };
        row("file", &format!("{}, {size}", file.path));
        row(
            "",
            &format!("SHA-256 {}", file.sha256.as_deref().unwrap_or(UNKNOWN)),
        );
        match entry.url(file) {
            Some(url) => row("", &url),
            None => row("", "fetched by hand, see the steps"),
        }
        if let Some(derived) = &file.derived {
            row("", derived);
        }
    }
    for (number, step) in entry.steps.iter().enumerate() {
        row("step", &format!("{}. {step}", number + 1));
    }
}

fn access(entry: &RegistryEntry) -> &'static str {
    match entry.access {
        Access::Open => "open",
        Access::Restricted => "restricted",
    }
}

/// How the files are got.
fn way(entry: &RegistryEntry) -> &'static str {
    let with_address = entry
        .files
        .iter()
        .filter(|file| entry.url(file).is_some())
        .count();
    if entry.embedded {
        "embedded"
    } else if entry.files.is_empty() || with_address == 0 {
        "by hand"
    } else if with_address == entry.files.len() {
        "download"
    } else {
        "both"
    }
}
