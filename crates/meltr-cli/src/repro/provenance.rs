//! Where numbers come from: the day, the commit, the versions, the command.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use toml::Table;

use crate::cli::ReproArguments;

/// The manifest of the workspace, which pins the version of burn.
const MANIFEST: &str = include_str!("../../../../Cargo.toml");

/// A file by which a checkout of this program is known.
const OWN_FILE: &str = "crates/meltr-cli/Cargo.toml";

/// The commit in the section of a sweep's settings that tells who began it.
const COMMIT: &str = "commit";

const SECONDS_PER_DAY: u64 = 86_400;

/// The program that made numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Provenance {
    /// The commit of the checkout; `None` outside of one.
    pub(super) commit: Option<String>,
    /// Whether files beside the documentation differ from the commit.
    pub(super) uncommitted_changes: Option<bool>,
    /// Name to version.
    pub(super) crates: BTreeMap<String, String>,
}

impl Provenance {
    /// That of this program, started in a checkout of it.
    pub(super) fn of_this_program() -> Self {
        let checkout = checkout();
        let mut crates =
            BTreeMap::from([("meltr".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
        crates.extend(burn_version().map(|version| ("burn".to_owned(), version)));
        Self {
            commit: checkout.then(|| git(&["rev-parse", "HEAD"])).flatten(),
            // Pages of the documentation change no number, and the ledger is among them.
            uncommitted_changes: checkout
                .then(|| git(&["status", "--porcelain", "--", ":/", ":(top,exclude)docs"]))
                .flatten()
                .map(|changes| !changes.is_empty()),
            crates,
        }
    }

    /// As the section of a sweep's settings that tells who began it.
    pub(super) fn to_toml(&self) -> Table {
        let mut table = Table::new();
        for (name, version) in &self.crates {
            table.insert(name.clone(), version.clone().into());
        }
        if let Some(commit) = &self.commit {
            table.insert(COMMIT.to_owned(), commit.clone().into());
        }
        table
    }
}

/// The commit of the program that began a sweep, if it is not that of `now`.
pub(super) fn other_commit(begun_by: &Table, now: &Provenance) -> Option<String> {
    let commit = begun_by.get(COMMIT)?.as_str()?;
    (now.commit.as_deref() != Some(commit)).then(|| commit.to_owned())
}

/// Whether the current folder lies in a checkout of this program.
fn checkout() -> bool {
    git(&["rev-parse", "--show-toplevel"])
        .is_some_and(|folder| Path::new(&folder).join(OWN_FILE).is_file())
}

/// What git prints, if it is there and succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}

/// The version of burn that this program is built with, which is pinned.
fn burn_version() -> Option<String> {
    let manifest: Table = MANIFEST.parse().ok()?;
    let dependencies = manifest.get("workspace")?.get("dependencies")?;
    let version = dependencies.get("burn")?.get("version")?.as_str()?;
    version.strip_prefix('=').map(str::to_owned)
}

/// Today in UTC, such as `2026-01-31`.
pub(super) fn today() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    day(seconds / SECONDS_PER_DAY)
}

/// The date so many days after 1970-01-01.
fn day(days: u64) -> String {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut left) = (1970, days);
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

/// A command that makes the runs of one experiment again: what their numbers depend on, and nothing
/// about folders and processes.
pub(super) fn command(arguments: &ReproArguments, experiment: &Path, combiners: &[&str]) -> String {
    let mut words = vec![
        "meltr repro".to_owned(),
        quoted(&experiment.display().to_string()),
        format!("--combiners {}", combiners.join(",")),
        format!("--seeds {}", arguments.seeds),
    ];
    if let Some(iterations) = arguments.iterations {
        words.push(format!("--iterations {iterations}"));
    }
    for entry in &arguments.set {
        words.push(format!("--set {}", quoted(entry)));
    }
    if !arguments.auxiliary_weights.is_empty() {
        let weights: Vec<String> = arguments
            .auxiliary_weights
            .iter()
            .map(ToString::to_string)
            .collect();
        words.push(format!("--auxiliary-weights {}", weights.join(",")));
    }
    if arguments.equal_time_only {
        words.push("--equal-time-only".to_owned());
    } else if arguments.equal_time {
        words.push("--equal-time".to_owned());
    }
    words.push(format!("--device {}", arguments.device));
    words.join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |symbol: char| symbol.is_alphanumeric() || "_-./=,:".contains(symbol);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::testing;

    #[test]
    fn days_are_counted_with_leap_years() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (789, "1972-02-29"),
            (11_016, "2000-02-29"),
            (20_088, "2024-12-31"),
            (20_089, "2025-01-01"),
            // 2100 is no leap year.
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(day(days), expected);
        }
    }

    #[test]
    fn the_version_of_burn_is_known() {
        let version = burn_version().unwrap();
        assert!(version.starts_with(|symbol: char| symbol.is_ascii_digit()));
    }

    #[test]
    fn a_sweep_remembers_the_commit_that_began_it() {
        let now = testing::provenance("b");
        assert_eq!(other_commit(&now.to_toml(), &now), None);
        let before = testing::provenance("a").to_toml();
        assert_eq!(other_commit(&before, &now).as_deref(), Some("a"));
        assert_eq!(other_commit(&Table::new(), &now), None);
    }

    #[test]
    fn the_command_holds_what_numbers_depend_on() {
        let arguments = ReproArguments {
            set: vec!["train.eval_splits=[\"test\"]".to_owned()],
            auxiliary_weights: vec![0.1, 1.0],
            equal_time: true,
            ..testing::arguments()
        };
        assert_eq!(
            command(&arguments, Path::new("a/b.toml"), &["sum", "fixed"]),
            "meltr repro a/b.toml --combiners sum,fixed --seeds 2 --set \
             'train.eval_splits=[\"test\"]' --auxiliary-weights 0.1,1 --equal-time --device flex"
        );
        let alone = ReproArguments {
            equal_time_only: true,
            ..testing::arguments()
        };
        assert_eq!(
            command(&alone, Path::new("a.toml"), &["sum"]),
            "meltr repro a.toml --combiners sum --seeds 2 --equal-time-only --device flex"
        );
    }
}
