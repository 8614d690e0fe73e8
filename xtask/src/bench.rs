//! `cargo xtask bench`: criterion benchmarks, and the side-by-side runs of the `meltr` binary.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::files::targets;
use crate::flags::{DEVICE, FEATURES, Flag, JSON, Parsed, Positional, Spec, UsageError};
use crate::process::{Status, cargo, hand_over, meltr, user_path, wait, workspace_root};

const PYTHON: &str = "--python";
const JAX_PYTHON: &str = "--jax-python";
const CRITERION: &str = "criterion";
const AID: &str = "aid";
const AUXILIARY: &str = "auxiliary";
const DATA: &str = "data";
const META_STEP: &str = "meta-step";
const RANK: &str = "rank";
const TRAIN_STEP: &str = "train-step";
const CAPTIONS: &str = "captions";
const CAPTIONS_SEARCH: &str = "captions-search";
const PUBLISHED_SIZE: &str = "published-size";

/// What the command accepts.
pub(crate) const SPEC: Spec = Spec {
    command: "bench",
    summary: "benchmarks, ratios to peers included",
    about: "NAME is `criterion` (the benchmarks of the crates), `aid` (hypergradients, against \
            Python libraries where interpreters are named), `auxiliary` (losses of which it is \
            known whether they help), `captions` (caption metrics, against pycocoevalcap), \
            `captions-search` (beam search with and without keys and values kept), `data` (videos \
            and pickles, against Python), `meta-step` (plain steps, inner and outer steps of \
            `meltr_published`; where --python names an interpreter with PyTorch, instead one outer \
            step against the second-order graph of the released algorithm there), `rank` (texts \
            ranked against videos by the cross encoder, against PyTorch with --python), \
            `train-step` (one training step of each backbone, against PyTorch with --python) or \
            `published-size` (one step at the published sizes, up to 8 GiB). Without NAME, all of \
            them in this order but the last, `meta-step` both without and with --python; \
            `captions` and `data` only where --python names an interpreter.",
    positional: Positional::Optional("NAME"),
    flags: &[
        Flag::value(
            PYTHON,
            "PATH",
            "a Python interpreter with PyTorch, for the other side of what NAME measures",
        ),
        Flag::value(
            JAX_PYTHON,
            "PATH",
            "a Python interpreter with JAX, for `aid`",
        ),
        JSON,
        DEVICE,
        FEATURES,
    ],
    rest: Some("criterion, or to `meltr bench NAME`"),
    example: "cargo xtask bench train-step --python python3",
};

/// Runs the command.
pub(crate) fn run(parsed: &Parsed) -> Result<Status> {
    match parsed.positional.first().map(String::as_str) {
        None => all(parsed),
        Some(CRITERION) => match criterion(&workspace_root(), &parsed.rest)? {
            Some(command) => wait(command),
            None => {
                eprintln!("no crate has a file under `benches`");
                Ok(Status::Done)
            }
        },
        Some(
            name @ (AID | AUXILIARY | CAPTIONS | CAPTIONS_SEARCH | DATA | META_STEP | RANK
            | TRAIN_STEP | PUBLISHED_SIZE),
        ) => {
            let mut command = side_by_side(name, parsed)?;
            command.args(&parsed.rest);
            hand_over(command)
        }
        Some(name) => Err(UsageError::unknown(
            "benchmark",
            name,
            [
                CRITERION,
                AID,
                AUXILIARY,
                CAPTIONS,
                CAPTIONS_SEARCH,
                DATA,
                META_STEP,
                RANK,
                TRAIN_STEP,
                PUBLISHED_SIZE,
            ],
        )
        .into()),
    }
}

/// All benchmarks; stops at the first that does not succeed.
fn all(parsed: &Parsed) -> Result<Status> {
    if parsed.has(JSON.name) || !parsed.rest.is_empty() {
        let message = "`--json` and arguments after `--` need the NAME of one benchmark";
        return Err(UsageError::new(message).into());
    }
    if let Some(command) = criterion(&workspace_root(), &[])? {
        let status = wait(command)?;
        if status != Status::Done {
            return Ok(status);
        }
    }
    for name in [
        AID,
        AUXILIARY,
        CAPTIONS,
        CAPTIONS_SEARCH,
        DATA,
        META_STEP,
        RANK,
        TRAIN_STEP,
    ] {
        let has_python = parsed.value(PYTHON).is_some();
        if [DATA, CAPTIONS].contains(&name) && !has_python {
            continue;
        }
        if name == META_STEP && has_python {
            let status = wait(subcommand(name, parsed)?)?;
            if status != Status::Done {
                return Ok(status);
            }
        }
        let status = wait(side_by_side(name, parsed)?)?;
        if status != Status::Done {
            return Ok(status);
        }
    }
    Ok(Status::Done)
}

/// The hidden subcommand of the binary with the interpreters of its other side.
fn side_by_side(name: &str, parsed: &Parsed) -> Result<Command> {
    let mut command = subcommand(name, parsed)?;
    let interpreters: &[&str] = match name {
        AID => &[PYTHON, JAX_PYTHON],
        CAPTIONS | DATA | META_STEP | RANK | TRAIN_STEP => &[PYTHON],
        _ => &[],
    };
    for flag in interpreters {
        let Some(python) = parsed.value(flag) else {
            continue;
        };
        command.arg(flag);
        // A bare name is looked up on the search path, as a shell does.
        if python.contains(std::path::is_separator) {
            command.arg(user_path(python));
        } else {
            command.arg(python);
        }
    }
    Ok(command)
}

/// The hidden subcommand of the binary without the other side.
fn subcommand(name: &str, parsed: &Parsed) -> Result<Command> {
    let mut command = meltr(parsed.value(FEATURES.name))?;
    command.args(["bench", name]);
    if parsed.has(JSON.name) {
        command.arg(JSON.name);
    }
    if let Some(device) = parsed
        .value(DEVICE.name)
        .filter(|_| ![CAPTIONS, DATA].contains(&name))
    {
        command.args([DEVICE.name, device]);
    }
    Ok(command)
}

/// One `cargo bench` over all files `crates/*/benches/NAME.rs`, or `None` when there is none.
fn criterion(root: &Path, rest: &[String]) -> Result<Option<Command>> {
    let mut names = targets(root, "benches")?;
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Ok(None);
    }
    let mut command = cargo(&["bench", "--workspace"]);
    for name in &names {
        command.args(["--bench", name]);
    }
    if !rest.is_empty() {
        command.arg("--").args(rest);
    }
    Ok(Some(command))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;
    use crate::process::shown;
    use crate::tidy::tree::TempTree;

    #[test]
    fn the_benchmarks_of_all_crates_are_one_cargo_call() {
        let tree = TempTree::new();
        tree.write("crates/a/benches/forward.rs", "");
        tree.write("crates/b/benches/forward.rs", "");
        tree.write("crates/b/benches/backward.rs", "");
        let command = criterion(tree.root(), &["--quick".to_owned()])
            .unwrap()
            .unwrap();
        let line = shown(&command);
        let expected = "bench --workspace --bench backward --bench forward -- --quick";
        assert!(line.ends_with(expected), "{line}");
    }

    #[test]
    fn crates_without_benchmarks_need_no_cargo_call() {
        let tree = TempTree::new();
        tree.write("crates/a/src/lib.rs", "");
        assert!(criterion(tree.root(), &[]).unwrap().is_none());
    }

    #[test]
    fn an_unknown_benchmark_suggests_the_nearest() {
        let parsed = flags::parse(&SPEC, &["meta-stp".to_owned()]).unwrap();
        let error = run(&parsed).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown benchmark `meta-stp`; did you mean `meta-step`?"
        );
    }
}
