//! The one place that names backends.

use burn::tensor::Device;

use crate::error::CliError;
use crate::nearest::nearest;

/// A kind of device.
pub(crate) struct Kind {
    /// Name on the command line, and the feature that compiles it in.
    pub(crate) name: &'static str,
    /// Whether this binary has it.
    pub(crate) available: bool,
    /// One line about it.
    pub(crate) about: &'static str,
}

/// All kinds, in this binary or not.
pub(crate) const KINDS: [Kind; 7] = [
    Kind {
        name: "flex",
        available: cfg!(feature = "flex"),
        about: "CPU, pure Rust",
    },
    Kind {
        name: "tch",
        available: cfg!(feature = "tch"),
        about: "LibTorch: CPU without an index, NVIDIA GPU i with one",
    },
    Kind {
        name: "vulkan",
        available: cfg!(feature = "vulkan"),
        about: "GPUs through Vulkan",
    },
    Kind {
        name: "wgpu",
        available: cfg!(feature = "wgpu"),
        about: "GPUs through what the system offers",
    },
    Kind {
        name: "metal",
        available: cfg!(feature = "metal"),
        about: "Apple GPUs",
    },
    Kind {
        name: "cuda",
        available: cfg!(feature = "cuda"),
        about: "NVIDIA GPUs, burn's kernels",
    },
    Kind {
        name: "rocm",
        available: cfg!(feature = "rocm"),
        about: "AMD GPUs",
    },
];

/// The device that a name such as `flex`, `tch:0` or `vulkan` stands for, without a tape.
pub(crate) fn parse(name: &str) -> Result<Device, CliError> {
    let (kind, index) = match name.split_once(':') {
        None => (name, None),
        Some((kind, index)) => {
            let index: usize = index.parse().map_err(|_| {
                CliError::Input(format!(
                    "--device `{name}`: `{index}` is not a device number; write `{kind}:0`"
                ))
            })?;
            (kind, Some(index))
        }
    };
    let Some(known) = KINDS.iter().find(|known| known.name == kind) else {
        let names = KINDS.map(|kind| kind.name);
        let suggestion = nearest(kind, names)
            .map(|name| format!("; did you mean `{name}`?"))
            .unwrap_or_default();
        return Err(CliError::Input(format!(
            "--device `{name}` is not known{suggestion} (one of {})",
            names.join(", ")
        )));
    };
    if !known.available {
        return Err(CliError::Input(format!(
            "--device `{name}` is not compiled in; build with `--features {kind}` \
             (see docs/devices.md)"
        )));
    }
    create(kind, index).ok_or_else(|| {
        CliError::Input(format!(
            "--device `{name}`: `{kind}` has no numbered devices"
        ))
    })
}

#[cfg_attr(
    feature = "tch",
    expect(
        deprecated,
        reason = "burn 0.22 is the last line with LibTorch; see docs/decisions"
    )
)]
fn create(kind: &str, index: Option<usize>) -> Option<Device> {
    match (kind, index) {
        #[cfg(feature = "flex")]
        ("flex", None) => Some(Device::flex()),
        #[cfg(feature = "tch")]
        ("tch", None) => Some(Device::libtorch()),
        #[cfg(feature = "tch")]
        ("tch", Some(index)) => Some(Device::libtorch_cuda(index)),
        #[cfg(feature = "cuda")]
        ("cuda", index) => Some(Device::cuda(index.unwrap_or(0))),
        #[cfg(feature = "rocm")]
        ("rocm", index) => Some(Device::rocm(index.unwrap_or(0))),
        #[cfg(feature = "vulkan")]
        ("vulkan", index) => Some(Device::vulkan(adapter(index))),
        #[cfg(feature = "wgpu")]
        ("wgpu", index) => Some(Device::wgpu(adapter(index))),
        #[cfg(feature = "metal")]
        ("metal", index) => Some(Device::metal(adapter(index))),
        _ => None,
    }
}

#[cfg(any(feature = "vulkan", feature = "wgpu", feature = "metal"))]
fn adapter(index: Option<usize>) -> burn::tensor::DeviceKind {
    match index {
        None => burn::tensor::DeviceKind::DefaultDevice,
        Some(index) => burn::tensor::DeviceKind::DiscreteGpu(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_compiled_in_names_its_feature() {
        let missing = KINDS.iter().find(|kind| !kind.available).unwrap();
        let error = parse(missing.name).unwrap_err().to_string();
        assert!(
            error.contains(&format!("--features {}", missing.name)),
            "{error}"
        );
    }

    #[test]
    fn a_typo_is_answered_with_the_nearest_name() {
        let error = parse("vulcan:0").unwrap_err().to_string();
        assert!(error.contains("did you mean `vulkan`?"), "{error}");
        assert!(
            parse("tch:first")
                .unwrap_err()
                .to_string()
                .contains("device number")
        );
    }
}
