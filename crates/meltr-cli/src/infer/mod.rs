//! `meltr retrieve`, `caption`, `answer` and `sentiment`: the weights of a run on one's own clips.

pub(crate) mod answer;
pub(crate) mod arguments;
pub(crate) mod caption;
mod clips;
pub(crate) mod retrieve;
pub(crate) mod sentiment;

use meltr_train::Run;

use self::arguments::AskedRun;
use crate::device;
use crate::error::CliError;
use crate::experiment::{Experiment, Prepared};

/// The experiment of a run, with task and model prepared; the model has not its weights yet.
fn opened(asked: &AskedRun) -> Result<(Experiment, Prepared), CliError> {
    let device = device::parse(&asked.device)?;
    let config = Run::read_config(&asked.run)?;
    let label = asked.run.join("config.toml").display().to_string();
    let mut experiment = Experiment::parse(&config, &label, &[])?;
    experiment.model.forget_start();
    let prepared = experiment.prepare(&device)?;
    Ok((experiment, prepared))
}

/// The refusal of a run that was trained for something else.
fn wrong_run(asked: &AskedRun, experiment: &Experiment, wanted: &str) -> CliError {
    CliError::Input(format!(
        "`{}` is a run of `{}` (`task.kind = \"{}\"`), and this command needs {wanted}",
        asked.run.display(),
        experiment.name,
        experiment.task.kind()
    ))
}

/// Positions of the `count` largest scores, the largest first; of equal ones the first is first.
fn best(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_ties_keep_their_order() {
        assert_eq!(best(&[0.5, 2.0, 0.5, 3.0], 3), [3, 1, 0]);
        assert_eq!(best(&[1.0], 5), [0]);
        assert!(best(&[], 5).is_empty());
    }
}
