//! `meltr data get`.

use std::fs;
use std::path::Path;

use meltr_data::{
    Access, DownloadError, DownloadRequest, Downloaded, FileState, RegistryEntry, RegistryFile,
    check_files, download,
};
use serde::Serialize;
use serde_json::json;

use super::arguments::GetArguments;
use super::{Tally, find_entry, folder_of, open_registry};
use crate::error::CliError;
use crate::output;

/// How often a cut connection is taken up again.
const ATTEMPTS: u32 = 5;

/// What became of one file.
#[derive(Debug, Serialize)]
struct Outcome {
    path: String,
    url: Option<String>,
    state: &'static str,
    detail: String,
}

pub(super) fn run(arguments: &GetArguments) -> Result<(), CliError> {
    let registry = open_registry(arguments.registry.as_deref())?;
    let entry = find_entry(&registry, &arguments.id)?;
    let folder = folder_of(entry, arguments.dir.as_deref());
    if entry.embedded {
        if arguments.json {
            return output::json(&json!({
                "id": entry.id, "embedded": true, "files": [], "steps": [], "complete": true,
            }));
        }
        output::line(&format!(
            "{}: part of this program, there is nothing to fetch",
            entry.id
        ));
        return Ok(());
    }
    let to_fetch: Vec<(&RegistryFile, String)> = entry
        .files
        .iter()
        .filter_map(|file| entry.url(file).map(|url| (file, url)))
        .collect();
    let terms = terms(entry);
    output::note(&terms);
    if entry.access == Access::Restricted && !arguments.accept_terms && !to_fetch.is_empty() {
        return Err(CliError::Input(format!(
            "`{}` is not open to everybody: {terms}; read the terms at the source ({}), and pass \
             --accept-terms if they are met",
            entry.id, entry.source
        )));
    }
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (file, url) in to_fetch {
        outcomes.push(fetch(file, url, &folder)?);
    }
    // Files that only a person can fetch may be there already.
    let mut by_hand = entry.clone();
    by_hand.files.retain(|file| entry.url(file).is_none());
    let mut missing = 0_usize;
    for (file, check) in by_hand.files.iter().zip(check_files(&by_hand, &folder)?) {
        if matches!(check.state, FileState::Missing | FileState::Different) {
            missing += 1;
        }
        outcomes.push(Outcome {
            path: file.path.clone(),
            url: None,
            state: check.state.name(),
            detail: check.detail,
        });
    }
    // Without a list of files, nothing tells whether the steps have been taken.
    let complete = missing == 0 && !entry.files.is_empty();
    let next = format!("meltr data check {} --dir {}", entry.id, folder.display());
    if arguments.json {
        output::json(&json!({
            "id": entry.id,
            "folder": folder.display().to_string(),
            "files": outcomes,
            "steps": entry.steps,
            "complete": complete,
            "next": next,
        }))?;
    } else {
        for outcome in &outcomes {
            let Outcome {
                path,
                state,
                detail,
                ..
            } = outcome;
            output::line(&format!("{state:<10} {path}: {detail}"));
        }
        if !entry.steps.is_empty() {
            output::line(&format!("what is to be done in {}:", folder.display()));
            for (number, step) in entry.steps.iter().enumerate() {
                output::line(&format!("  {}. {step}", number + 1));
            }
            output::line(&format!("then: {next}"));
        }
    }
    if complete {
        return Ok(());
    }
    Err(CliError::Check(if entry.files.is_empty() {
        format!(
            "`{}` has to be fetched by a person; see the steps",
            entry.id
        )
    } else {
        format!(
            "{missing} of {} files of `{}` have to be fetched by a person; see the steps",
            entry.files.len(),
            entry.id
        )
    }))
}

fn terms(entry: &RegistryEntry) -> String {
    format!(
        "license {}, for {}",
        entry.license.as_deref().unwrap_or("not known"),
        entry.who.as_deref().unwrap_or("whom is not known")
    )
}

fn fetch(file: &RegistryFile, url: String, folder: &Path) -> Result<Outcome, CliError> {
    let to = folder.join(&file.path);
    let parent = to.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(|error| {
        CliError::Failed(format!(
            "cannot make the folder `{}`: {error}; check the permissions",
            parent.display()
        ))
    })?;
    let request = DownloadRequest {
        url: &url,
        to: &to,
        size: file.size,
        sha256: file.sha256.as_deref(),
        attempts: ATTEMPTS,
    };
    let mut tally = Tally::of_bytes(&file.path);
    let result = download(&request, &mut |done, total| tally.set(done, total));
    tally.finish();
    let note = match &file.sha256 {
        Some(_) => "as the registry says",
        None => "the registry knows none to compare with",
    };
    let (state, detail) = match result.map_err(in_words)? {
        Downloaded::Present { sha256 } => ("present", format!("SHA-256 {sha256}, {note}")),
        Downloaded::Fetched {
            bytes,
            resumed_from,
            sha256,
        } => {
            let resumed = if resumed_from > 0 {
                format!(" ({resumed_from} of them from before)")
            } else {
                String::new()
            };
            (
                "fetched",
                format!("{bytes} bytes{resumed}, SHA-256 {sha256}, {note}"),
            )
        }
    };
    Ok(Outcome {
        path: file.path.clone(),
        url: Some(url),
        state,
        detail,
    })
}

fn in_words(error: DownloadError) -> CliError {
    match error {
        DownloadError::Occupied { .. } | DownloadError::Address { .. } => CliError::input(error),
        DownloadError::Checksum { .. } | DownloadError::Size { .. } => {
            CliError::Check(error.to_string())
        }
        _ => CliError::failed(error),
    }
}
