//! The last results on a device, on the page about devices.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use toml::Table;

/// The page, of which the parts between two markers are written here.
pub(super) const PAGE: &str = "docs/devices.md";

/// Digits of a commit that are shown.
const SHOWN_DIGITS: usize = 10;

const SECONDS_PER_DAY: u64 = 86_400;

/// Where results come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    date: String,
    /// The commit, and whether files beside the documentation differ from it; `None` outside of
    /// git.
    commit: Option<String>,
    /// The version of burn.
    burn: String,
    cores: usize,
}

impl Origin {
    /// This checkout on this machine, today.
    pub(super) fn here(root: &Path) -> Result<Self> {
        let manifest =
            fs::read_to_string(root.join("Cargo.toml")).context("failed to read `Cargo.toml`")?;
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        Ok(Self {
            date: day(seconds / SECONDS_PER_DAY),
            commit: commit(root),
            burn: burn_version(&manifest)
                .context("`Cargo.toml` has no version of burn among `workspace.dependencies`")?,
            cores: available_parallelism().map_or(1, NonZero::get),
        })
    }
}

/// The part of the page about one device, with its markers.
pub(super) fn block(
    device: &str,
    command: &str,
    about: &str,
    origin: &Origin,
    results: &str,
) -> String {
    let commit = origin.commit.as_ref();
    let commit = commit.map_or_else(String::new, |commit| format!("{commit}, "));
    let cores = match origin.cores {
        1 => "one core".to_owned(),
        cores => format!("{cores} cores"),
    };
    format!(
        "{}written by `{command}` -->\n\
         ### `{device}`\n\n\
         {}, {commit}burn {}, {about}, {cores}.\n\n\
         {}\n\
         {}\n",
        start_of(device),
        origin.date,
        origin.burn,
        results.trim_end(),
        end_of(device)
    )
}

/// The page with this block in the place of the last one of the device, or at the end.
pub(super) fn with_block(page: &str, device: &str, block: &str) -> Result<String> {
    let Some((before, rest)) = page.split_once(&start_of(device)) else {
        return Ok(format!("{}\n\n{block}", page.trim_end()));
    };
    let end = end_of(device);
    let Some((_, after)) = rest.split_once(&end) else {
        bail!("`{PAGE}` has the start of the results on `{device}`, but no line `{end}`");
    };
    let after = after.strip_prefix('\n').unwrap_or(after);
    Ok(format!("{before}{block}{after}"))
}

fn start_of(device: &str) -> String {
    format!("<!-- results on {device}, ")
}

fn end_of(device: &str) -> String {
    format!("<!-- end of the results on {device} -->")
}

/// The commit of a checkout, in words.
fn commit(root: &Path) -> Option<String> {
    let commit = git(root, &["rev-parse", "HEAD"])?;
    let commit = commit.get(..SHOWN_DIGITS).unwrap_or(&commit);
    // Pages of the documentation change no result, and this one is among them.
    let changes = git(
        root,
        &["status", "--porcelain", "--", ":/", ":(top,exclude)docs"],
    )?;
    let changes = if changes.is_empty() {
        ""
    } else {
        " with uncommitted changes"
    };
    Some(format!("commit `{commit}`{changes}"))
}

/// What git prints, if it is there and succeeds.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .current_dir(root)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}

/// The version of burn that a manifest of the workspace pins.
fn burn_version(manifest: &str) -> Option<String> {
    let manifest: Table = manifest.parse().ok()?;
    let dependencies = manifest.get("workspace")?.get("dependencies")?;
    let version = dependencies.get("burn")?.get("version")?.as_str()?;
    Some(version.trim_start_matches('=').to_owned())
}

/// The date so many days after 1970-01-01.
fn day(days: u64) -> String {
    let (mut year, mut left) = (1970, days);
    while left >= 365 + leap_day(year) {
        left -= 365 + leap_day(year);
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + leap_day(year), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

/// 1 in a leap year.
fn leap_day(year: u64) -> u64 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    u64::from(is_leap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::workspace_root;

    fn origin() -> Origin {
        Origin {
            date: "2026-01-31".to_owned(),
            commit: Some("commit `0123456789`".to_owned()),
            burn: "0.22.1".to_owned(),
            cores: 2,
        }
    }

    fn results_on(device: &str, results: &str) -> String {
        block(device, "a command", "a driver", &origin(), results)
    }

    #[test]
    fn a_block_says_what_ran_where() {
        assert_eq!(
            results_on("tch", "| table |\n"),
            "<!-- results on tch, written by `a command` -->\n\
             ### `tch`\n\n\
             2026-01-31, commit `0123456789`, burn 0.22.1, a driver, 2 cores.\n\n\
             | table |\n\
             <!-- end of the results on tch -->\n"
        );
        let no_git = Origin {
            commit: None,
            cores: 1,
            ..origin()
        };
        let block = block("tch", "a command", "a driver", &no_git, "");
        assert!(block.contains("\n2026-01-31, burn 0.22.1, a driver, one core.\n"));
    }

    #[test]
    fn the_first_results_go_to_the_end_and_later_ones_take_their_place() {
        let (first, other) = (results_on("tch", "first"), results_on("tch:0", "other"));
        let page = with_block("# Devices\n\n", "tch", &first).unwrap();
        assert_eq!(page, format!("# Devices\n\n{first}"));
        let page = with_block(&page, "tch:0", &other).unwrap();
        assert_eq!(page, format!("# Devices\n\n{first}\n{other}"));
        let second = results_on("tch", "second");
        let page = with_block(&page, "tch", &second).unwrap();
        assert_eq!(page, format!("# Devices\n\n{second}\n{other}"));
    }

    #[test]
    fn a_block_without_an_end_is_an_error() {
        let block = results_on("tch", "results");
        let damaged = block.replace("end of", "no end of");
        let error = with_block(&damaged, "tch", &block).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no line `<!-- end of the results on tch -->`")
        );
    }

    #[test]
    fn days_become_dates() {
        for (days, date) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (789, "1972-02-29"),
            (11_016, "2000-02-29"),
            (20_484, "2026-01-31"),
            (20_819, "2027-01-01"),
        ] {
            assert_eq!(day(days), date);
        }
    }

    #[test]
    fn this_checkout_has_a_version_of_burn() {
        let origin = Origin::here(&workspace_root()).unwrap();
        assert!(
            origin
                .burn
                .starts_with(|first: char| first.is_ascii_digit())
        );
        assert!(origin.cores > 0);
        assert_eq!(burn_version("[workspace]\n"), None);
    }
}
