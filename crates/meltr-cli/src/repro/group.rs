//! The finished runs of one variant, and what is made of them: means, a choice, steps that take as
//! long as others.

use std::path::Path;

use meltr_train::record::Summary;
use meltr_train::{BestMetric, CombinerName, Run};

use super::check::no_sum;
use super::ledger::{Choice, Tried};
use super::plan::{Variant, jobs};
use super::statistics::{Spread, median};
use crate::error::CliError;

/// The key of the weight of the auxiliary losses.
const AUXILIARY_WEIGHT: &str = "combiner.auxiliary_weight";

/// The runs of one variant, in the order of their seeds.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) variant: Variant,
    pub(super) summaries: Vec<Summary>,
}

impl Group {
    /// Reads the runs of a variant, all of which have finished.
    pub(super) fn read(folder: &Path, variant: &Variant, n_seeds: u64) -> Result<Self, CliError> {
        let runs = jobs(folder, std::slice::from_ref(variant), n_seeds);
        let summaries = runs
            .iter()
            .map(|job| {
                Run::read_summary(&job.directory)?.ok_or_else(|| {
                    CliError::Failed(format!("`{}` has not finished", job.directory.display()))
                })
            })
            .collect::<Result<_, CliError>>()?;
        Ok(Self {
            variant: variant.clone(),
            summaries,
        })
    }

    /// A metric over the seeds.
    pub(super) fn metric(&self, split: &str, name: &str) -> Spread {
        let values = self.summaries.iter().map(|summary| {
            let metrics = summary.metrics.get(split)?;
            metrics.get(name).copied()
        });
        Spread::of(values)
    }

    /// Seconds of training over the seeds.
    pub(super) fn train_seconds(&self) -> Spread {
        Spread::of(
            self.summaries
                .iter()
                .map(|summary| Some(summary.train_seconds)),
        )
    }

    /// Seconds of training for each inner step, the median over the seeds.
    pub(super) fn seconds_per_step(&self) -> Option<f64> {
        let seconds: Vec<f64> = self
            .summaries
            .iter()
            .filter(|summary| summary.iterations > 0)
            .map(|summary| summary.train_seconds / summary.iterations as f64)
            .collect();
        median(&seconds).filter(|seconds| seconds.is_finite() && *seconds > 0.0)
    }
}

/// The auxiliary weight whose runs are the best, of equals the first, and how it was found.
///
/// `groups` are the variants of `fixed`, `metric` is that of `train.best_metric`.
pub(super) fn best_weight(groups: &[&Group], metric: &BestMetric) -> Result<Choice, CliError> {
    let mut tried = Vec::new();
    let mut best: Option<(f64, f64)> = None;
    for group in groups {
        let Some(value) = group.variant.auxiliary_weight else {
            continue;
        };
        let mean = group.metric(&metric.split, &metric.name).mean;
        tried.push(Tried { value, mean });
        if let Some(mean) = mean
            && metric.improves(mean, best.map(|(_, mean)| mean))
        {
            best = Some((value, mean));
        }
    }
    let Some((chosen, _)) = best else {
        return Err(CliError::Input(format!(
            "no run of `fixed` has measured `{}` on split `{}`, by which `train.best_metric` \
             chooses its weights",
            metric.name, metric.split
        )));
    };
    Ok(Choice {
        key: AUXILIARY_WEIGHT.to_owned(),
        metric: metric.name.clone(),
        split: metric.split.clone(),
        better: metric.better,
        tried,
        chosen,
    })
}

/// Seconds of training that a run of the plain sum took, the mean over its seeds.
pub(super) fn seconds_of_sum(groups: &[Group]) -> Result<f64, CliError> {
    groups
        .iter()
        .find(|group| group.variant.combiner == CombinerName::Sum)
        .and_then(|sum| sum.train_seconds().mean)
        .ok_or_else(|| CliError::Input(no_sum()))
}

/// The variants with so many inner steps each as fit into `budget` seconds, at least one.
///
/// A step of a variant takes the median over its runs.
pub(super) fn with_equal_time(groups: &[Group], budget: f64) -> Result<Vec<Variant>, CliError> {
    groups
        .iter()
        .map(|group| {
            let Some(seconds) = group.seconds_per_step() else {
                return Err(CliError::Failed(format!(
                    "the runs of `{}` tell no time of a step",
                    group.variant.label()
                )));
            };
            // The plain sum itself must not lose a step to the last digit of a quotient.
            let steps = (budget / seconds + 1e-9).floor().max(1.0);
            Ok(Variant {
                // A ratio of times of runs on one machine, far below 2^53.
                iterations: Some(steps as usize),
                ..group.variant.clone()
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use meltr_train::Better;

    use super::*;
    use crate::repro::plan::with_equal_steps;
    use crate::repro::testing;

    /// Runs of a combiner with the metric and the seconds of each.
    fn group(combiner: CombinerName, weight: Option<f64>, runs: &[(f64, f64)]) -> Group {
        let weights: Vec<f64> = weight.into_iter().collect();
        Group {
            variant: with_equal_steps(&[combiner], &weights).remove(0),
            summaries: runs
                .iter()
                .map(|(r1, seconds)| Summary {
                    train_seconds: *seconds,
                    ..testing::summary(combiner, 1, *r1)
                })
                .collect(),
        }
    }

    fn best_metric(better: Better) -> BestMetric {
        BestMetric {
            name: "text_to_video.r1".to_owned(),
            split: "valid".to_owned(),
            better,
        }
    }

    fn fixed(weight: f64, runs: &[f64]) -> Group {
        let runs: Vec<(f64, f64)> = runs.iter().map(|r1| (*r1, 1.0)).collect();
        group(CombinerName::Fixed, Some(weight), &runs)
    }

    #[test]
    fn the_weight_with_the_best_mean_is_chosen() {
        let groups = [
            fixed(0.1, &[0.1, 0.3]),
            fixed(0.3, &[0.5, 0.3]),
            // No better than the one before.
            fixed(1.0, &[0.4, 0.4]),
        ];
        let groups: Vec<&Group> = groups.iter().collect();
        let choice = best_weight(&groups, &best_metric(Better::Higher)).unwrap();
        assert_eq!(choice.chosen, 0.3);
        assert_eq!(choice.key, "combiner.auxiliary_weight");
        assert_eq!(choice.tried.len(), 3);
        let lower = best_weight(&groups, &best_metric(Better::Lower)).unwrap();
        assert_eq!(lower.chosen, 0.1);
    }

    #[test]
    fn a_weight_that_was_not_measured_is_not_chosen() {
        let groups = [fixed(0.1, &[f64::NAN]), fixed(0.3, &[0.2])];
        let groups: Vec<&Group> = groups.iter().collect();
        let choice = best_weight(&groups, &best_metric(Better::Higher)).unwrap();
        assert_eq!((choice.chosen, choice.tried[0].mean), (0.3, None));
        let other = BestMetric {
            name: "mae".to_owned(),
            ..best_metric(Better::Lower)
        };
        let error = best_weight(&groups, &other).unwrap_err().to_string();
        assert!(
            error.contains("`mae`") && error.contains("valid"),
            "{error}"
        );
    }

    #[test]
    fn equal_time_is_what_the_sum_took() {
        // Ten steps a run.
        let groups = [
            group(CombinerName::Primary, None, &[(0.1, 2.0), (0.1, 2.0)]),
            group(CombinerName::Sum, None, &[(0.1, 9.0), (0.1, 11.0)]),
            group(
                CombinerName::MeltrPublished,
                None,
                &[(0.1, 30.0), (0.1, 30.0)],
            ),
        ];
        let budget = seconds_of_sum(&groups).unwrap();
        let variants = with_equal_time(&groups, budget).unwrap();
        let steps: Vec<_> = variants.iter().map(|variant| variant.iterations).collect();
        assert_eq!(steps, [Some(50), Some(10), Some(3)]);
    }

    #[test]
    fn one_step_is_the_least() {
        let groups = [
            group(CombinerName::Sum, None, &[(0.1, 1.0)]),
            group(CombinerName::MeltrPublished, None, &[(0.1, 500.0)]),
        ];
        let variants = with_equal_time(&groups, 1.0).unwrap();
        assert_eq!(variants[1].iterations, Some(1));
    }

    #[test]
    fn equal_time_without_the_sum_is_refused() {
        let groups = [group(CombinerName::MeltrPublished, None, &[(0.1, 5.0)])];
        let error = seconds_of_sum(&groups).unwrap_err();
        assert!(error.to_string().contains("--combiners"), "{error}");
    }
}
