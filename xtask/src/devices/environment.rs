//! The environment variables that a device needs.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::torch::Torch;

/// The variable that lists the folders of programs.
const PROGRAM_PATH: &str = "PATH";

/// The variable that lists the folders of shared libraries.
const LIBRARY_PATH: &str = if cfg!(target_os = "macos") {
    "DYLD_LIBRARY_PATH"
} else {
    "LD_LIBRARY_PATH"
};

/// The variable that lists the drivers which Vulkan's loader takes instead of those it finds.
const DRIVERS: &str = "VK_DRIVER_FILES";

/// Its name in older loaders.
const OLD_DRIVERS: &str = "VK_ICD_FILENAMES";

const RUNTIME_FOLDER: &str = "XDG_RUNTIME_DIR";

/// Vulkan in software, where Debian's package `chromium` puts it. The library is named relative
/// to this file, and so does the loader look for it.
const SWIFTSHADER: &str = "/usr/lib/chromium/vk_swiftshader_icd.json";

/// Vulkan's loader.
const LOADER: &str = "libvulkan.so.1";

/// Variables that are set and removed before a child starts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Environment {
    set: Vec<(&'static str, OsString)>,
    removed: Vec<&'static str>,
}

impl Environment {
    /// Hands the variables to a child.
    pub(super) fn apply(&self, command: &mut Command) {
        for (name, value) in &self.set {
            command.env(name, value);
        }
        for name in &self.removed {
            command.env_remove(name);
        }
    }

    /// Whether nothing is changed.
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }

    /// What the bindings of LibTorch read when they are built, and where its libraries lie.
    pub(super) fn of_torch(torch: &Torch) -> Result<Self> {
        let [programs, libraries] = [PROGRAM_PATH, LIBRARY_PATH].map(env::var_os);
        Self::of_torch_before(torch, programs.as_deref(), libraries.as_deref())
    }

    /// The same before other folders of programs and libraries.
    fn of_torch_before(
        torch: &Torch,
        programs: Option<&OsStr>,
        libraries: Option<&OsStr>,
    ) -> Result<Self> {
        let programs = with_first(&torch.programs, programs)?;
        let libraries = with_first(&torch.libraries, libraries)?;
        Ok(Self {
            set: vec![
                ("LIBTORCH_USE_PYTORCH", "1".into()),
                // The bindings expect another version, and compile against this one too.
                ("LIBTORCH_BYPASS_VERSION_CHECK", "1".into()),
                (PROGRAM_PATH, programs),
                (LIBRARY_PATH, libraries),
            ],
            // With it the bindings ask `python`, which not every interpreter has beside it, and
            // not `python3`.
            removed: vec!["VIRTUAL_ENV"],
        })
    }

    /// The driver of Vulkan, and what it is: the one that is chosen already, those of a GPU, or
    /// SwiftShader. `runtime_folder` is taken where the session has none.
    pub(super) fn of_vulkan(machine: &Machine, runtime_folder: &Path) -> Result<(Self, String)> {
        if let Some(drivers) = &machine.drivers {
            let names: Vec<String> = env::split_paths(drivers)
                .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
                .collect();
            let about = format!("the Vulkan driver of `{}`", names.join("`, `"));
            return Ok((Self::default(), about));
        }
        if machine.has_gpu {
            let about = "the Vulkan driver of this machine's GPU".to_owned();
            return Ok((Self::default(), about));
        }
        let missing: Vec<&str> = [
            (machine.swiftshader.is_some(), "chromium"),
            (machine.has_loader, "libvulkan1"),
        ]
        .into_iter()
        .filter_map(|(is_there, package)| (!is_there).then_some(package))
        .collect();
        let (Some(swiftshader), []) = (&machine.swiftshader, missing.as_slice()) else {
            bail!(
                "there is no GPU, and Vulkan in software (SwiftShader) is not complete; on Debian \
                 `apt-get install {}` brings what is missing, elsewhere set {DRIVERS} to the \
                 `vk_swiftshader_icd.json` of a browser that is built on Chromium",
                missing.join(" ")
            );
        };
        let mut set = vec![(DRIVERS, swiftshader.clone().into_os_string())];
        if machine.runtime_folder.is_none() {
            set.push((RUNTIME_FOLDER, runtime_folder.as_os_str().to_owned()));
        }
        let version = machine
            .version
            .as_ref()
            .map_or_else(String::new, |version| format!(" {version}"));
        let about = format!("SwiftShader of Debian's chromium{version}, on the CPU");
        let removed = Vec::new();
        Ok((Self { set, removed }, about))
    }
}

/// A list of folders that starts with `folder`.
fn with_first(folder: &Path, others: Option<&OsStr>) -> Result<OsString> {
    let others = others.into_iter().flat_map(env::split_paths);
    env::join_paths(iter::once(folder.to_path_buf()).chain(others))
        .with_context(|| format!("`{}` cannot be in a list of folders", folder.display()))
}

/// What of Vulkan a machine has.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    /// Drivers that the user has chosen.
    pub(super) drivers: Option<OsString>,
    pub(super) has_gpu: bool,
    /// SwiftShader's driver file.
    pub(super) swiftshader: Option<PathBuf>,
    /// The version of the package that holds it.
    pub(super) version: Option<String>,
    pub(super) has_loader: bool,
    /// The folder that the session gives its programs for sockets and the like.
    pub(super) runtime_folder: Option<OsString>,
}

impl Machine {
    /// Whether Vulkan is software here, unless the user has chosen something else.
    pub(super) fn has_software_alone(&self) -> bool {
        self.drivers.is_none() && !self.has_gpu
    }

    /// This machine.
    pub(super) fn here() -> Self {
        let swiftshader = Path::new(SWIFTSHADER);
        Self {
            drivers: env::var_os(DRIVERS).or_else(|| env::var_os(OLD_DRIVERS)),
            has_gpu: has_gpu(),
            swiftshader: swiftshader.is_file().then(|| swiftshader.to_path_buf()),
            version: package_version("chromium"),
            has_loader: has_loader(),
            runtime_folder: env::var_os(RUNTIME_FOLDER),
        }
    }
}

/// Whether the system offers a device that renders. Systems other than Linux are taken to.
fn has_gpu() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let renders = fs::read_dir("/dev/dri").is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("renderD"))
        })
    });
    renders || Path::new("/dev/nvidia0").exists()
}

/// Whether Vulkan's loader is where the system looks for libraries.
fn has_loader() -> bool {
    let listed = env::var_os(LIBRARY_PATH);
    let listed = listed.iter().flat_map(env::split_paths);
    ["/usr/lib", "/usr/lib64", "/usr/local/lib"]
        .into_iter()
        .map(PathBuf::from)
        .chain([format!("/usr/lib/{}-linux-gnu", env::consts::ARCH).into()])
        .chain(listed)
        .any(|folder| folder.join(LOADER).exists())
}

/// The version of an installed package, where Debian's tools are there to tell.
fn package_version(package: &str) -> Option<String> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Version}", package])
        .output()
        .ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !version.is_empty()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn torch() -> Torch {
        Torch {
            version: "2.11.0+cpu".to_owned(),
            libraries: Path::new("venv").join("torch").join("lib"),
            programs: Path::new("venv").join("bin"),
            device: "the CPU".to_owned(),
        }
    }

    fn value<'a>(environment: &'a Environment, name: &str) -> Option<&'a OsStr> {
        let mut set = environment.set.iter();
        set.find(|(known, _)| *known == name)
            .map(|(_, value)| value.as_os_str())
    }

    /// A machine with all of SwiftShader and no GPU.
    fn software() -> Machine {
        Machine {
            swiftshader: Some(PathBuf::from("chromium/vk_swiftshader_icd.json")),
            version: Some("156.0".to_owned()),
            has_loader: true,
            ..Machine::default()
        }
    }

    #[test]
    fn the_interpreter_and_its_libraries_come_first() {
        let torch = torch();
        let others = OsStr::new("programs");
        let environment = Environment::of_torch_before(&torch, Some(others), None).unwrap();
        let path = env::join_paths([torch.programs.as_os_str(), others]).unwrap();
        assert_eq!(value(&environment, PROGRAM_PATH), Some(path.as_os_str()));
        assert_eq!(
            value(&environment, LIBRARY_PATH),
            Some(torch.libraries.as_os_str())
        );
        for name in ["LIBTORCH_USE_PYTORCH", "LIBTORCH_BYPASS_VERSION_CHECK"] {
            assert_eq!(value(&environment, name), Some(OsStr::new("1")));
        }
        assert_eq!(environment.removed, ["VIRTUAL_ENV"]);
    }

    #[test]
    fn a_child_gets_what_is_set_and_loses_what_is_removed() {
        let environment = Environment {
            set: vec![("MELTR_A", "1".into())],
            removed: vec!["MELTR_B"],
        };
        let mut command = Command::new("true");
        environment.apply(&mut command);
        let variables: Vec<_> = command.get_envs().collect();
        assert_eq!(
            variables,
            [
                (OsStr::new("MELTR_A"), Some(OsStr::new("1"))),
                (OsStr::new("MELTR_B"), None)
            ]
        );
    }

    #[test]
    fn without_a_gpu_vulkan_is_swiftshader() {
        let folder = Path::new("runtime");
        let (environment, about) = Environment::of_vulkan(&software(), folder).unwrap();
        let driver = "chromium/vk_swiftshader_icd.json";
        assert_eq!(value(&environment, DRIVERS), Some(OsStr::new(driver)));
        assert_eq!(
            value(&environment, RUNTIME_FOLDER),
            Some(folder.as_os_str())
        );
        assert_eq!(about, "SwiftShader of Debian's chromium 156.0, on the CPU");

        let in_a_session = Machine {
            runtime_folder: Some("session".into()),
            ..software()
        };
        let (environment, _) = Environment::of_vulkan(&in_a_session, folder).unwrap();
        assert_eq!(value(&environment, RUNTIME_FOLDER), None);
    }

    #[test]
    fn a_chosen_driver_and_a_gpu_are_left_alone() {
        let chosen = Machine {
            drivers: Some("drivers/some_icd.json".into()),
            ..software()
        };
        let gpu = Machine {
            has_gpu: true,
            ..software()
        };
        for (machine, part) in [(chosen, "some_icd.json"), (gpu, "GPU")] {
            let (environment, about) =
                Environment::of_vulkan(&machine, Path::new("runtime")).unwrap();
            assert!(environment.is_empty());
            assert!(about.contains(part), "{about}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        for (machine, packages) in [
            (Machine::default(), "`apt-get install chromium libvulkan1`"),
            (
                Machine {
                    has_loader: false,
                    ..software()
                },
                "`apt-get install libvulkan1`",
            ),
            (
                Machine {
                    swiftshader: None,
                    ..software()
                },
                "`apt-get install chromium`",
            ),
        ] {
            let error = Environment::of_vulkan(&machine, Path::new("runtime")).unwrap_err();
            assert!(error.to_string().contains(packages), "{error}");
        }
    }
}
