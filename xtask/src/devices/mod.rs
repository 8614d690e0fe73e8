//! `cargo xtask test --device`: parity and tests on a device other than the CPU backend that CI
//! uses, and the record of what came out.

mod environment;
mod parity;
mod record;
mod torch;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use self::environment::{Environment, Machine};
use self::parity::{Parity, table};
use self::record::{Origin, PAGE};
use crate::flags::{DEVICE, Flag, JSON, Parsed, UsageError};
use crate::process::{
    Status, cargo, release_dir, shown, user_path, was_interrupted, workspace_root,
};
use crate::steps::Output;
use crate::test::shared_folder;

/// The flag that names a Python interpreter with PyTorch.
pub(crate) const PYTHON: Flag = Flag::value(
    "--python",
    "PATH",
    "a Python interpreter with PyTorch, for `--device tch`",
);

/// The flag that records what came out.
pub(crate) const RECORD: Flag = Flag::switch(
    "--record",
    "write the results on the device to docs/devices.md",
);

/// The backend that the suite runs on without a device.
const DEFAULT: &str = "flex";

const TCH: &str = "tch";
const VULKAN: &str = "vulkan";
const WGPU: &str = "wgpu";
const CUDA: &str = "cuda";

const KINDS: [&str; 5] = [DEFAULT, TCH, VULKAN, WGPU, CUDA];

/// The environment variable by which burn chooses the default device of a process, which is the
/// one that tests compute on.
const DEFAULT_DEVICE: &str = "BURN_DEVICE";

/// The modules of integration tests that compute on the default device, in `f32` where it has no
/// `f64`: estimators with known hypergradients, combiners, UniVL.
const TESTS: [&str; 5] = [
    "conformance",
    "laws",
    "forward_mode",
    "losses",
    "caption_cache",
];

/// Where a session of Vulkan may keep its files, below the folder of builds.
const RUNTIME_FOLDER: &str = "target/vulkan";

/// A device, by its name on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// As it was typed.
    name: String,
    /// The name without a number, which is also the feature of `meltr-cli`.
    kind: &'static str,
    index: Option<usize>,
}

impl Target {
    /// Reads a name such as `tch`, `tch:0` or `vulkan`.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let (kind, number) = match name.split_once(':') {
            Some((kind, number)) => (kind, Some(number)),
            None => (name, None),
        };
        let Some(kind) = KINDS.into_iter().find(|known| *known == kind) else {
            return Err(UsageError::unknown("device", kind, KINDS).into());
        };
        let index = match number {
            None => None,
            Some(number) => Some(number.parse::<usize>().map_err(|_| {
                UsageError::new(format!(
                    "`{}` is `{name}`, and `{number}` is not a device number; write `{kind}:0`",
                    DEVICE.name
                ))
            })?),
        };
        if kind == DEFAULT && index.is_some() {
            let message = format!("`{}` is `{name}`, but `{kind}` has no numbers", DEVICE.name);
            return Err(UsageError::new(message).into());
        }
        Ok(Self {
            name: name.to_owned(),
            kind,
            index,
        })
    }

    /// Whether this is where the suite runs without a device.
    pub(crate) fn is_default(&self) -> bool {
        self.kind == DEFAULT
    }

    /// What stands for it on `machine`: Vulkan in software does not run all of the shaders that
    /// burn compiles for Vulkan itself, and runs those of WGSL.
    fn on(&self, machine: &Machine) -> Self {
        if self.kind != VULKAN || !machine.has_software_alone() {
            return self.clone();
        }
        eprintln!(
            "no GPU here: SwiftShader computes products of matrices wrongly by the SPIR-V of \
             `{VULKAN}`; taking the WGSL of `{WGPU}`, on Vulkan as well"
        );
        Self {
            name: WGPU.to_owned(),
            kind: WGPU,
            index: None,
        }
    }

    /// The feature of the workspace that compiles it in.
    fn feature(&self) -> String {
        format!("meltr-cli/{}", self.kind)
    }
}

/// Refuses flags that do not belong to the device, or to each other.
pub(crate) fn check_flags(target: Option<&Target>, parsed: &Parsed) -> Result<()> {
    let kind = target.map_or(DEFAULT, |target| target.kind);
    let message = if parsed.value(PYTHON.name).is_some() && kind != TCH {
        format!("`{}` belongs to `{} {TCH}`", PYTHON.name, DEVICE.name)
    } else if parsed.has(RECORD.name) && kind == DEFAULT {
        format!(
            "`{}` needs `{}` with another device than `{DEFAULT}`, which CI runs on",
            RECORD.name, DEVICE.name
        )
    } else if parsed.has(RECORD.name) && !parsed.rest.is_empty() {
        format!(
            "`{}` records all results; leave out the arguments after `--`",
            RECORD.name
        )
    } else if target.is_some_and(|target| target.index.is_some()) && !parsed.rest.is_empty() {
        format!(
            "tests run on the first device alone; write `{} {kind}`",
            DEVICE.name
        )
    } else {
        return Ok(());
    };
    Err(UsageError::new(message).into())
}

/// What came out on a device.
#[derive(Debug, Serialize)]
struct Report<'a> {
    device: &'a str,
    /// What it is.
    about: &'a str,
    directories: Vec<Parity>,
    /// `None` where no test can be pointed at the device.
    tests: Option<Tests>,
    ok: bool,
}

/// What came of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Tests {
    ok: bool,
    seconds: f64,
}

/// Builds for the device, checks parity with every reference directory and runs the tests that
/// compute on it; with arguments after `--`, only the tests that they select.
pub(crate) fn run(target: &Target, parsed: &Parsed) -> Result<Status> {
    let root = workspace_root();
    let output = Output::from_flag(parsed.has(JSON.name));
    let directories = if parsed.rest.is_empty() {
        reference_directories()?
    } else {
        Vec::new()
    };
    if directories.is_empty() && parsed.has(RECORD.name) {
        bail!("`{}` needs the reference directories", RECORD.name);
    }
    let target = &target.on(&Machine::here());
    let (environment, about) = set_up(target, parsed.value(PYTHON.name), &root)?;
    let feature = target.feature();
    let mut build = cargo(&["build", "--release", "--workspace", "--features", &feature]);
    environment.apply(&mut build);
    let status = wait(build, output)?;
    if was_interrupted(status) {
        return Ok(Status::Interrupted);
    }
    if !status.success() {
        bail!("the program could not be built with `--features {feature}`");
    }

    let binary = release_dir().join(format!("meltr{}", env::consts::EXE_SUFFIX));
    let mut rows = Vec::with_capacity(directories.len());
    for directory in &directories {
        let mut command = Command::new(&binary);
        command.arg("reference").arg(directory);
        command.args([JSON.name, DEVICE.name, target.name.as_str()]);
        environment.apply(&mut command);
        let Some(row) = parity::check(command, directory)? else {
            return Ok(Status::Interrupted);
        };
        rows.push(row);
    }

    let tests = if target.index.is_some() {
        eprintln!("skipped: the tests, which take no device number");
        None
    } else {
        let mut command = test_command(target, &parsed.rest);
        environment.apply(&mut command);
        let start = Instant::now();
        let status = wait(command, output)?;
        if was_interrupted(status) {
            return Ok(Status::Interrupted);
        }
        Some(Tests {
            ok: status.success(),
            seconds: start.elapsed().as_secs_f64(),
        })
    };

    let report = Report {
        device: &target.name,
        about: &about,
        ok: rows.iter().all(|row| row.problem.is_none()) && tests.is_none_or(|tests| tests.ok),
        directories: rows,
        tests,
    };
    show(&report, output)?;
    if parsed.has(RECORD.name) {
        write_record(&root, target, parsed, &report)?;
    }
    Ok(if report.ok {
        Status::Done
    } else {
        Status::CheckFailed
    })
}

/// The reference directories that tests use, if they are at hand.
fn reference_directories() -> Result<Vec<PathBuf>> {
    let fixtures = shared_folder().map(|folder| folder.join("fixtures"));
    if let Some(fixtures) = fixtures.filter(|fixtures| fixtures.is_dir()) {
        return parity::directories(&fixtures);
    }
    eprintln!(
        "skipped: no reference directories; point MELTR_SHARED at a folder that has `fixtures` \
         (default: ../shared)"
    );
    Ok(Vec::new())
}

/// What the build, the program and the tests need, and what the device is.
fn set_up(target: &Target, python: Option<&str>, root: &Path) -> Result<(Environment, String)> {
    match target.kind {
        TCH => {
            let python = python.map(|python| {
                // A bare name is looked up on the search path, as a shell does.
                if python.contains(std::path::is_separator) {
                    user_path(python)
                } else {
                    python.into()
                }
            });
            let torch = torch::find(python.as_deref(), target.index, root)?;
            let environment = Environment::of_torch(&torch)?;
            Ok((
                environment,
                format!("PyTorch {} on {}", torch.version, torch.device),
            ))
        }
        VULKAN | WGPU => {
            let folder = root.join(RUNTIME_FOLDER);
            let machine = Machine::here();
            let (environment, about) = Environment::of_vulkan(&machine, &folder)?;
            if environment.is_empty() {
                return Ok((environment, about));
            }
            fs::create_dir_all(&folder)
                .with_context(|| format!("failed to make the folder `{RUNTIME_FOLDER}`"))?;
            Ok((environment, about))
        }
        kind => Ok((Environment::default(), format!("the driver for `{kind}`"))),
    }
}

/// Runs a child whose output is for people.
fn wait(mut command: Command, output: Output) -> Result<ExitStatus> {
    let name = shown(&command);
    eprintln!("> {name}");
    if output == Output::Json {
        command.stdout(Stdio::from(std::io::stderr()));
    }
    command
        .status()
        .with_context(|| format!("failed to start `{name}`"))
}

/// The tests of [`TESTS`], or those that `selection` names, with the device as the default one.
///
/// In one process after the other and not a process for each test: a device compiles its kernels
/// once in a process.
fn test_command(target: &Target, selection: &[String]) -> Command {
    let feature = target.feature();
    let mut command = cargo(&["test", "--release", "--workspace", "--features", &feature]);
    command.env(DEFAULT_DEVICE, target.kind);
    if selection.is_empty() {
        command.args(["--test", "it"]);
    } else {
        command.args(["--lib", "--bins", "--tests"]);
    }
    command.args(selection);
    if !selection.iter().any(|argument| argument == "--") {
        command.arg("--");
    }
    command.arg("--test-threads=1");
    if selection.is_empty() {
        command.args(TESTS.map(|module| format!("{module}::")));
    }
    command
}

/// Prints the table of directories and what came of the tests.
fn show(report: &Report<'_>, output: Output) -> Result<()> {
    let mut text = format!("{}: {}\n", report.device, report.about);
    if !report.directories.is_empty() {
        text += &format!("\n{}\n", table(&report.directories));
    }
    text += &tests_line(report.tests);
    match output {
        Output::Plain => println!("{text}"),
        Output::Json => {
            println!("{}", serde_json::to_string_pretty(report)?);
            eprintln!("{text}");
        }
    }
    Ok(())
}

/// One line about the tests.
fn tests_line(tests: Option<Tests>) -> String {
    match tests {
        Some(Tests { ok, seconds }) => {
            let result = if ok { "ok" } else { "FAILED" };
            format!("Tests on the device: {result}, {seconds:.1} s with their build.")
        }
        None => "Tests on the device: not run.".to_owned(),
    }
}

/// Puts the results in the place of the last ones for this device.
fn write_record(root: &Path, target: &Target, parsed: &Parsed, report: &Report<'_>) -> Result<()> {
    let mut command = format!("cargo xtask test {} {}", DEVICE.name, target.name);
    if parsed.value(PYTHON.name).is_some() {
        command += &format!(" {} PATH", PYTHON.name);
    }
    command += &format!(" {}", RECORD.name);
    let results = format!(
        "{}\n{}",
        table(&report.directories),
        tests_line(report.tests)
    );
    let block = record::block(
        &target.name,
        &command,
        report.about,
        &Origin::here(root)?,
        &results,
    );
    let path = root.join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("failed to read `{PAGE}`"))?;
    let page = record::with_block(&page, &target.name, &block)?;
    fs::write(path, page).with_context(|| format!("failed to write `{PAGE}`"))?;
    eprintln!("{PAGE}: the results on `{}`", target.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::flags;
    use crate::test::SPEC;

    /// The arguments of a command line without quotes, and the device among them.
    fn parsed(line: &str) -> (Option<Target>, Parsed) {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let parsed = flags::parse(&SPEC, &args).unwrap();
        let target = parsed.value(DEVICE.name);
        let target = target.map(|name| Target::parse(name).unwrap());
        (target, parsed)
    }

    #[test]
    fn without_a_gpu_vulkan_takes_other_shaders() {
        let (vulkan, wgpu) = (Target::parse("vulkan"), Target::parse("wgpu").unwrap());
        let vulkan = vulkan.unwrap();
        let software = Machine::default();
        let gpu = Machine {
            has_gpu: true,
            ..Machine::default()
        };
        let chosen = Machine {
            drivers: Some("some_icd.json".into()),
            ..Machine::default()
        };
        assert_eq!(vulkan.on(&software), wgpu);
        for machine in [gpu, chosen] {
            assert_eq!(vulkan.on(&machine), vulkan);
        }
        let tch = Target::parse("tch:1").unwrap();
        assert_eq!(tch.on(&software), tch);
    }

    #[test]
    fn a_device_is_a_kind_with_or_without_a_number() {
        let target = Target::parse("vulkan").unwrap();
        assert_eq!((target.kind, target.index), ("vulkan", None));
        assert!(!target.is_default());
        assert_eq!(target.feature(), "meltr-cli/vulkan");
        let target = Target::parse("tch:1").unwrap();
        assert_eq!((target.kind, target.index), ("tch", Some(1)));
        assert_eq!(target.name, "tch:1");
        assert!(Target::parse("flex").unwrap().is_default());
    }

    #[test]
    fn a_device_that_is_not_one_is_wrong_input() {
        for (name, part) in [
            ("vulcan:0", "did you mean `vulkan`?"),
            ("tch:first", "write `tch:0`"),
            ("tch:", "write `tch:0`"),
            ("flex:0", "`flex` has no numbers"),
        ] {
            let error = Target::parse(name).unwrap_err();
            assert!(error.is::<UsageError>(), "{name}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn flags_that_do_not_belong_together_are_refused() {
        for (line, part) in [
            ("--python python3", "belongs to `--device tch`"),
            (
                "--device vulkan --python python3",
                "belongs to `--device tch`",
            ),
            ("--record", "another device than `flex`"),
            ("--device flex --record", "another device than `flex`"),
            ("--device tch --record -- laws", "leave out the arguments"),
            ("--device tch:0 -- laws", "write `--device tch`"),
        ] {
            let (target, parsed) = parsed(line);
            let error = check_flags(target.as_ref(), &parsed).unwrap_err();
            assert!(error.is::<UsageError>(), "{line}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn flags_that_belong_together_are_accepted() {
        for line in [
            "",
            "-- laws",
            "--device flex -- laws",
            "--device vulkan --record",
            "--device tch:0 --python python3 --record",
            "--device tch -- laws",
        ] {
            let (target, parsed) = parsed(line);
            assert!(check_flags(target.as_ref(), &parsed).is_ok(), "{line}");
        }
    }

    #[test]
    fn tests_run_one_at_a_time_on_the_device_as_the_default_one() {
        let target = Target::parse("vulkan").unwrap();
        let command = test_command(&target, &[]);
        let line = shown(&command);
        let expected = "test --release --workspace --features meltr-cli/vulkan --test it -- \
                        --test-threads=1 conformance:: laws:: forward_mode:: losses:: \
                        caption_cache::";
        assert!(line.ends_with(expected), "{line}");
        let variables: Vec<_> = command.get_envs().collect();
        let expected = (OsStr::new(DEFAULT_DEVICE), Some(OsStr::new("vulkan")));
        assert!(variables.contains(&expected), "{variables:?}");
    }

    #[test]
    fn a_selection_replaces_the_tests_of_the_device() {
        let target = Target::parse("tch").unwrap();
        let line = |selection: &[&str]| {
            let selection: Vec<String> = selection.iter().map(|&arg| arg.to_owned()).collect();
            shown(&test_command(&target, &selection))
        };
        let plain = line(&["retrieval"]);
        let expected = "--lib --bins --tests retrieval -- --test-threads=1";
        assert!(plain.ends_with(expected), "{plain}");
        let dashed = line(&["retrieval", "--", "--nocapture"]);
        let expected = "--tests retrieval -- --nocapture --test-threads=1";
        assert!(dashed.ends_with(expected), "{dashed}");
    }

    #[test]
    fn every_module_of_the_device_tests_exists() {
        let folders = ["meltr-core", "meltr-aid", "meltr-models"];
        for module in TESTS {
            let exists = folders.iter().any(|name| {
                let file = format!("crates/{name}/tests/it/{module}.rs");
                workspace_root().join(file).is_file()
            });
            assert!(exists, "{module}");
        }
    }
}
