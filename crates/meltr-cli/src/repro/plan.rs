//! The runs of a sweep: which there are, where they lie, how each is started or gone on with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use meltr_train::{CombinerName, Run, differing_settings};

use crate::error::CliError;
use crate::experiment::Experiment;
use crate::job::SIZES;

/// What runs with every seed: a combiner, with the settings that only its runs have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Variant {
    pub(super) combiner: CombinerName,
    /// Weight of the auxiliary losses, where several are tried.
    pub(super) auxiliary_weight: Option<f64>,
    /// Inner steps, where they are not the experiment's.
    pub(super) iterations: Option<usize>,
}

impl Variant {
    /// The name of its runs, before the seed.
    pub(super) fn label(&self) -> String {
        let name = self.combiner.name();
        match self.auxiliary_weight {
            Some(weight) => format!("{name}-weight-{weight}"),
            None => name.to_owned(),
        }
    }

    /// Its own settings as `key=value`.
    fn overrides(&self) -> Vec<String> {
        let mut entries = vec![format!("combiner.name={}", self.combiner.name())];
        if let Some(weight) = self.auxiliary_weight {
            // With a point, so that it is a float in TOML too.
            entries.push(format!("combiner.auxiliary_weight={weight:?}"));
        }
        if let Some(iterations) = self.iterations {
            entries.push(format!("train.iterations={iterations}"));
        }
        entries
    }
}

/// All combiners with the experiment's own steps; `fixed` once for each of `auxiliary_weights`, if
/// there are any.
pub(super) fn with_equal_steps(
    combiners: &[CombinerName],
    auxiliary_weights: &[f64],
) -> Vec<Variant> {
    let variant = |combiner, auxiliary_weight| Variant {
        combiner,
        auxiliary_weight,
        iterations: None,
    };
    let mut variants = Vec::new();
    for &combiner in combiners {
        if combiner == CombinerName::Fixed && !auxiliary_weights.is_empty() {
            let weights = auxiliary_weights.iter().copied();
            variants.extend(weights.map(|weight| variant(combiner, Some(weight))));
        } else {
            variants.push(variant(combiner, None));
        }
    }
    variants
}

/// One run.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) variant: Variant,
    pub(super) seed: u64,
    /// The run's own directory.
    pub(super) directory: PathBuf,
    /// What it prints.
    pub(super) log: PathBuf,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is nothing of it.
    Open,
    /// It was started and can be gone on with.
    Begun,
    /// It has ended.
    Finished,
}

/// All runs of some variants in `folder`, roughly those first that take longest, so that no core
/// waits long at the end: combiners stand in the order of rising cost.
pub(super) fn jobs(folder: &Path, variants: &[Variant], n_seeds: u64) -> Vec<Job> {
    variants
        .iter()
        .rev()
        .flat_map(|variant| (1..=n_seeds).map(|seed| Job::new(folder, variant, seed)))
        .collect()
}

impl Job {
    fn new(folder: &Path, variant: &Variant, seed: u64) -> Self {
        let name = format!("{}-{seed}", variant.label());
        Self {
            variant: variant.clone(),
            seed,
            log: folder.join(format!("{name}.log")),
            directory: folder.join(name),
        }
    }

    /// The name of its directory.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.variant.label(), self.seed)
    }

    /// How far it has come.
    ///
    /// What lies in its directory has to be a run with the settings that `start` gives it.
    pub(super) fn progress(&self, start: &Start<'_>) -> Result<Progress, CliError> {
        if !self.directory.exists() {
            return Ok(Progress::Open);
        }
        let found = Run::read_config(&self.directory)?;
        let mut overrides = start.all_overrides(&self.variant);
        overrides.push(format!("seed={}", self.seed));
        let expected = Experiment::read(start.experiment, &overrides)?.to_toml()?;
        let differences = differing_settings(&found, &expected);
        if !differences.is_empty() {
            return Err(CliError::Input(format!(
                "`{}` is a run with other settings: {}; start another sweep with --new, or name \
                 another --out",
                self.directory.display(),
                differences.join(", ")
            )));
        }
        Ok(match Run::read_summary(&self.directory)? {
            Some(_) => Progress::Finished,
            None => Progress::Begun,
        })
    }
}

/// What all runs are started with.
#[derive(Debug)]
pub(super) struct Start<'a> {
    /// This program.
    pub(super) program: &'a Path,
    pub(super) experiment: &'a Path,
    /// Settings of all runs as `key=value`.
    pub(super) overrides: &'a [String],
    pub(super) device: &'a str,
    pub(super) threads: Threads,
}

/// How many threads a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// One, beside other runs.
    One,
    /// As many as it likes.
    Any,
}

impl Start<'_> {
    pub(super) fn all_overrides(&self, variant: &Variant) -> Vec<String> {
        let mut all = self.overrides.to_vec();
        all.extend(variant.overrides());
        all
    }

    /// The process that takes a run from where it is to its end, or to a checkpoint once its input
    /// is closed.
    pub(super) fn command(&self, job: &Job, progress: Progress) -> Command {
        let mut command = Command::new(self.program);
        command.arg("fine-tune");
        if progress == Progress::Begun {
            command.arg("--resume").arg(&job.directory);
        } else {
            command.arg(self.experiment);
            for entry in self.all_overrides(&job.variant) {
                command.arg(format!("--set={entry}"));
            }
            command
                .arg(format!("--seed={}", job.seed))
                .arg("--out")
                .arg(&job.directory);
        }
        command
            .arg(format!("--device={}", self.device))
            .arg("--json")
            .arg("--end-with-input")
            .stdin(Stdio::piped());
        // A run is one process, whatever started this one.
        for name in SIZES {
            command.env_remove(name);
        }
        if self.threads == Threads::One {
            // The second one is what LibTorch reads.
            command
                .env("RAYON_NUM_THREADS", "1")
                .env("OMP_NUM_THREADS", "1");
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::testing;

    fn arguments(command: &Command) -> Vec<String> {
        let arguments = command.get_args();
        arguments
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn every_combiner_runs_with_every_seed() {
        let variants = with_equal_steps(&CombinerName::COMPARED, &[]);
        let jobs = jobs(Path::new("folder"), &variants, 2);
        let names: Vec<String> = jobs.iter().map(Job::name).collect();
        assert_eq!(
            names,
            [
                "meltr-1",
                "meltr-2",
                "sum-1",
                "sum-2",
                "primary-1",
                "primary-2"
            ]
        );
        assert_eq!(jobs[2].directory, Path::new("folder").join("sum-1"));
        assert_eq!(jobs[2].log, Path::new("folder").join("sum-1.log"));
    }

    #[test]
    fn fixed_weights_run_once_for_each_weight() {
        let combiners = [CombinerName::Sum, CombinerName::Fixed];
        let variants = with_equal_steps(&combiners, &[0.1, 1.0]);
        let labels: Vec<String> = variants.iter().map(Variant::label).collect();
        assert_eq!(labels, ["sum", "fixed-weight-0.1", "fixed-weight-1"]);
        assert_eq!(
            variants[2].overrides(),
            ["combiner.name=fixed", "combiner.auxiliary_weight=1.0"]
        );
        let variants = with_equal_steps(&combiners, &[]);
        assert_eq!(variants[1].overrides(), ["combiner.name=fixed"]);
    }

    #[test]
    fn steps_of_its_own_come_after_those_of_the_experiment() {
        let overrides = ["train.iterations=5".to_owned()];
        let start = testing::start(&overrides, Threads::Any);
        let variant = Variant {
            iterations: Some(9),
            ..with_equal_steps(&[CombinerName::Sum], &[]).remove(0)
        };
        assert_eq!(
            start.all_overrides(&variant),
            [
                "train.iterations=5",
                "combiner.name=sum",
                "train.iterations=9"
            ]
        );
    }

    #[test]
    fn a_run_beside_others_takes_one_thread() {
        let variants = with_equal_steps(&[CombinerName::Sum], &[]);
        let jobs = jobs(Path::new("folder"), &variants, 1);
        let overrides = ["train.iterations=5".to_owned()];
        let start = testing::start(&overrides, Threads::One);
        let command = start.command(&jobs[0], Progress::Open);
        let given = arguments(&command);
        for expected in [
            "--set=train.iterations=5",
            "--set=combiner.name=sum",
            "--seed=1",
        ] {
            assert!(given.iter().any(|found| found == expected), "{given:?}");
        }
        assert!(
            command
                .get_envs()
                .any(|(key, _)| key == "RAYON_NUM_THREADS")
        );
        let alone = testing::start(&overrides, Threads::Any).command(&jobs[0], Progress::Open);
        assert!(alone.get_envs().all(|(_, value)| value.is_none()));
        for name in SIZES {
            assert!(alone.get_envs().any(|(key, _)| key == name), "{name}");
        }
    }

    #[test]
    fn a_run_that_was_begun_is_resumed() {
        let variants = with_equal_steps(&[CombinerName::Sum], &[]);
        let jobs = jobs(Path::new("folder"), &variants, 1);
        let overrides = ["train.iterations=5".to_owned()];
        let start = testing::start(&overrides, Threads::Any);
        let directory = jobs[0].directory.to_string_lossy().into_owned();
        assert_eq!(
            arguments(&start.command(&jobs[0], Progress::Begun)),
            [
                "fine-tune",
                "--resume",
                directory.as_str(),
                "--device=flex",
                "--json",
                "--end-with-input"
            ]
        );
    }

    #[test]
    fn how_far_a_run_has_come_is_read_from_its_directory() {
        let folder = tempfile::tempdir().unwrap();
        let variants = with_equal_steps(&[CombinerName::Sum], &[]);
        let job = jobs(folder.path(), &variants, 1).remove(0);
        let start = testing::start(&[], Threads::Any);
        assert_eq!(job.progress(&start).unwrap(), Progress::Open);
        testing::begin(&job, &start);
        assert_eq!(job.progress(&start).unwrap(), Progress::Begun);
        testing::finish(&job, 0.25);
        assert_eq!(job.progress(&start).unwrap(), Progress::Finished);
    }

    #[test]
    fn a_run_with_other_settings_is_refused_with_the_difference() {
        let folder = tempfile::tempdir().unwrap();
        let variants = with_equal_steps(&[CombinerName::Sum], &[]);
        let job = jobs(folder.path(), &variants, 1).remove(0);
        let overrides = ["train.iterations=5".to_owned()];
        testing::begin(&job, &testing::start(&overrides, Threads::Any));
        let overrides = ["train.iterations=7".to_owned()];
        let other = testing::start(&overrides, Threads::Any);
        let error = job.progress(&other).unwrap_err();
        assert!(matches!(error, CliError::Input(_)));
        let message = error.to_string();
        for part in ["sum-1", "`train.iterations` (5 before, 7 now)", "--new"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
