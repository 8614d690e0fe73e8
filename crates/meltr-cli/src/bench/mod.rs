//! `meltr bench`: what steps cost, side by side in one run.

mod agreement;
mod aid;
mod auxiliary;
mod captions;
mod captions_search;
mod child;
mod data;
mod meta_step;
mod meta_step_peer;
mod meta_subject;
mod peer_file;
mod published_size;
mod pytorch_peer;
mod random_batch;
mod rank;
mod statistics;
mod text_table;
mod train_step;
mod trainee;

use std::time::Instant;

use burn::tensor::Device;

use crate::cli::{BenchArguments, BenchCommand};
use crate::error::CliError;
use crate::output;

/// What fixes the number of rayon's threads, on which CPU devices compute.
const THREADS_VARIABLE: &str = "RAYON_NUM_THREADS";

/// As the workspace pins it.
const BURN_VERSION: &str = "0.22.1";

pub(crate) fn run(arguments: &BenchArguments) -> Result<(), CliError> {
    if cfg!(debug_assertions) {
        output::note("this binary is not optimized: no number below means anything");
    }
    match &arguments.command {
        BenchCommand::Aid(options) => aid::run(options),
        BenchCommand::Auxiliary(options) => auxiliary::run(options),
        BenchCommand::Captions(options) => captions::run(options),
        BenchCommand::CaptionsSearch(options) => captions_search::run(options),
        BenchCommand::Data(options) => data::run(options),
        BenchCommand::MetaStep(options) => meta_step::run(options),
        BenchCommand::PublishedSize(options) => published_size::run(options),
        BenchCommand::Rank(options) => rank::run(options),
        BenchCommand::TrainStep(options) => train_step::run(options),
    }
}

/// What `action` returns, and its seconds with all work that it queues on `device`.
fn timed<V>(
    device: &Device,
    action: impl FnOnce() -> Result<V, CliError>,
) -> Result<(V, f64), CliError> {
    device.sync().map_err(CliError::failed)?;
    let clock = Instant::now();
    let value = action()?;
    device.sync().map_err(CliError::failed)?;
    Ok((value, clock.elapsed().as_secs_f64()))
}

/// Number of rayon's threads in this process, by rayon's own rule.
fn threads() -> usize {
    std::env::var(THREADS_VARIABLE)
        .ok()
        .and_then(|value| value.parse::<usize>().ok())
        .filter(|count| *count > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |count| count.get()))
}

/// Refuses a number of 0.
fn require_nonzero(flag: &str, value: usize) -> Result<(), CliError> {
    if value == 0 {
        return Err(CliError::Input(format!("{flag} is 0; give it at least 1")));
    }
    Ok(())
}

/// Bytes in MiB, or a dash where the system does not tell.
fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(
        || "-".to_owned(),
        |bytes| format!("{:.0}", bytes as f64 / 1_048_576.0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_burn_is_the_pinned_one() {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
        let manifest: toml::Table =
            toml::from_str(&std::fs::read_to_string(manifest).unwrap()).unwrap();
        let pinned = manifest["workspace"]["dependencies"]["burn"]["version"]
            .as_str()
            .unwrap();
        assert_eq!(pinned, format!("={BURN_VERSION}"));
    }

    #[test]
    fn memory_is_written_in_mebibytes() {
        assert_eq!(mebibytes(Some(3 * 1_048_576)), "3");
        assert_eq!(mebibytes(None), "-");
    }

    #[test]
    fn an_action_that_fails_has_no_time() {
        let device = Device::default();
        let failed = timed::<()>(&device, || Err(CliError::Failed("no".to_owned())));
        assert!(failed.is_err());
        let (value, seconds) = timed(&device, || Ok(5)).unwrap();
        assert!(value == 5 && seconds >= 0.0);
    }
}
