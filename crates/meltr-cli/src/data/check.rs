//! `meltr data check`.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use meltr_data::{
    CheckDepth, ClipCheck, Decoder, EmojiClips, FileState, HealthReport, Manifest, RegistryEntry,
    check_clips, check_features, check_files,
};
use serde_json::{Value, json};

use super::arguments::CheckArguments;
use super::{Tally, find_entry, folder_of, open_registry};
use crate::error::CliError;
use crate::output;

pub(super) fn run(arguments: &CheckArguments) -> Result<(), CliError> {
    let decoder = arguments.decoder.decoder()?;
    let target = &arguments.target;
    if arguments.dir.is_none() && target.exists() {
        return check_path(target, decoder, arguments);
    }
    let registry = open_registry(arguments.registry.as_deref())?;
    let Some(id) = target.to_str() else {
        return Err(CliError::Input(format!(
            "there is no `{}`",
            target.display()
        )));
    };
    // What looks like a path was hardly meant to be an id.
    if arguments.dir.is_none() && registry.entry(id).is_none() && id.contains(['/', '\\', '.']) {
        return Err(CliError::Input(format!(
            "`{id}`: no such file or folder; check the path"
        )));
    }
    let entry = find_entry(&registry, id)?;
    if entry.embedded {
        return check_embedded(entry, arguments);
    }
    let folder = folder_of(entry, arguments.dir.as_deref());
    if entry.files.is_empty() {
        if !folder.is_dir() {
            return Err(CliError::Input(format!(
                "no checksums of `{id}` are known, and `{}` is no folder of clips; name one with \
                 --dir",
                folder.display()
            )));
        }
        return check_path(&folder, decoder, arguments);
    }
    check_entry(entry, &folder, arguments)
}

/// Clips, or features.
fn check_path(path: &Path, decoder: Decoder, arguments: &CheckArguments) -> Result<(), CliError> {
    let mut expected = match &arguments.expect {
        Some(file) => read_ids(file)?,
        None => Vec::new(),
    };
    let is_manifest = path.is_dir()
        || path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
    let mut reports: Vec<HealthReport> = Vec::new();
    if is_manifest {
        let tally = Mutex::new(Tally::of_things("clips"));
        let progress = |done: usize, total: usize| {
            if let Ok(mut tally) = tally.lock() {
                tally.set(done as u64, Some(total as u64));
            }
        };
        let check = ClipCheck {
            depth: if arguments.quick {
                CheckDepth::Container
            } else {
                CheckDepth::Decode
            },
            decoder,
            expected: &expected,
            progress: &progress,
        };
        let report = check_clips(path, check);
        if let Ok(tally) = tally.lock() {
            tally.finish();
        }
        reports.push(report?);
        if !arguments.features.is_empty() {
            let (manifest, _) = Manifest::survey(path)?;
            expected.extend(manifest.items().iter().map(|item| item.id.clone()));
        }
    } else {
        reports.push(check_features(path, arguments.width, &expected)?);
    }
    for file in &arguments.features {
        reports.push(check_features(file, arguments.width, &expected)?);
    }
    show(&reports, arguments)
}

fn show(reports: &[HealthReport], arguments: &CheckArguments) -> Result<(), CliError> {
    let sound = reports.iter().all(HealthReport::is_sound);
    if arguments.json {
        let documents: Vec<Value> = reports.iter().map(document).collect();
        output::json(&json!({ "ok": sound, "reports": documents }))?;
    } else {
        for report in reports {
            for finding in &report.findings {
                output::line(&format!(
                    "{:<12} {}\t{}\t{}",
                    finding.kind,
                    finding.id,
                    finding.file.display(),
                    finding.detail
                ));
            }
            let counts: Vec<String> = report
                .counts()
                .iter()
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect();
            let counts = if counts.is_empty() {
                "nothing found".to_owned()
            } else {
                counts.join(", ")
            };
            output::line(&format!(
                "{}: {} items, training sees {}; {counts}",
                report.source.display(),
                report.total,
                report.usable
            ));
        }
    }
    if sound {
        return Ok(());
    }
    let n_findings: usize = reports.iter().map(|report| report.findings.len()).sum();
    Err(CliError::Check(format!(
        "{n_findings} items cannot be used; correct or remove them"
    )))
}

fn document(report: &HealthReport) -> Value {
    let mut counts = serde_json::Map::new();
    for (kind, count) in report.counts() {
        counts.insert(kind.name().to_owned(), json!(count));
    }
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            json!({
                "kind": finding.kind.name(),
                "id": finding.id,
                "file": finding.file.display().to_string(),
                "detail": finding.detail,
            })
        })
        .collect();
    json!({
        "source": report.source.display().to_string(),
        "total": report.total,
        "usable": report.usable,
        "counts": counts,
        "findings": findings,
    })
}

fn check_embedded(entry: &RegistryEntry, arguments: &CheckArguments) -> Result<(), CliError> {
    let set = match &arguments.dir {
        Some(folder) => EmojiClips::open(folder)?,
        None => EmojiClips::embedded()?,
    };
    let (n_clips, _, _) = set.frames().dim();
    if arguments.json {
        return output::json(&json!({
            "ok": true, "id": entry.id, "embedded": arguments.dir.is_none(), "clips": n_clips,
        }));
    }
    output::line(&format!(
        "{}: {n_clips} clips, all checksums as they should be",
        entry.id
    ));
    Ok(())
}

/// The files of an entry of the registry.
fn check_entry(
    entry: &RegistryEntry,
    folder: &Path,
    arguments: &CheckArguments,
) -> Result<(), CliError> {
    let checks = check_files(entry, folder)?;
    let bad = checks
        .iter()
        .filter(|check| matches!(check.state, FileState::Missing | FileState::Different))
        .count();
    if arguments.json {
        let files: Vec<Value> = checks
            .iter()
            .map(|check| {
                json!({
                    "file": check.file.display().to_string(),
                    "state": check.state.name(),
                    "detail": check.detail,
                })
            })
            .collect();
        output::json(&json!({ "ok": bad == 0, "id": entry.id, "files": files }))?;
    } else {
        for check in &checks {
            output::line(&format!(
                "{:<10} {}: {}",
                check.state.name(),
                check.file.display(),
                check.detail
            ));
        }
    }
    if bad == 0 {
        return Ok(());
    }
    Err(CliError::Check(format!(
        "{bad} of {} files of `{}` are missing or different; `meltr data get {}` says how to get \
         them",
        checks.len(),
        entry.id,
        entry.id
    )))
}

/// Ids, one a line; blank lines do not count.
fn read_ids(path: &Path) -> Result<Vec<String>, CliError> {
    let text = fs::read_to_string(path).map_err(|error| {
        CliError::Input(format!(
            "cannot read the list of ids `{}`: {error}",
            path.display()
        ))
    })?;
    let ids: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if ids.is_empty() {
        return Err(CliError::Input(format!(
            "the list of ids `{}` is empty",
            path.display()
        )));
    }
    Ok(ids)
}
