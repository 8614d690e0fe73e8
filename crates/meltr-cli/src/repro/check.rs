//! What a sweep cannot be made of, found before any run starts.

use std::collections::{BTreeMap, BTreeSet};

use meltr_core::FineTuneTask;
use meltr_train::{CombinerConfig, CombinerName};

use super::sweep::Sweep;
use crate::error::CliError;
use crate::experiment::{Experiment, Visit};
use crate::output;

/// What `--combiners` calls all of them.
const ALL: &str = "all";

/// The combiners that a list names, in the order of tables; without a list the primary loss alone,
/// the plain sum and `own`, that of the experiment.
pub(super) fn chosen_combiners(
    list: Option<&str>,
    own: CombinerName,
) -> Result<Vec<CombinerName>, CliError> {
    match list {
        None => {
            let compared = [CombinerName::Primary, CombinerName::Sum, own];
            Ok(BTreeSet::from(compared).into_iter().collect())
        }
        Some(ALL) => Ok(CombinerName::ALL.to_vec()),
        Some(list) => {
            let chosen = list
                .split(',')
                .map(|name| name.trim().parse())
                .collect::<Result<BTreeSet<CombinerName>, _>>()
                .map_err(|error| {
                    CliError::Input(format!(
                        "--combiners `{list}`: {error}; `{ALL}` names all of them"
                    ))
                })?;
            Ok(chosen.into_iter().collect())
        }
    }
}

/// Refuses what no comparison could use, and combiners that cannot be built; what else no run could
/// use is found by preparing one.
pub(super) fn check(sweep: &Sweep<'_>) -> Result<(), CliError> {
    let arguments = sweep.arguments;
    for (flag, is_zero) in [
        ("--seeds", arguments.seeds == 0),
        ("--jobs", arguments.jobs == Some(0)),
    ] {
        if is_zero {
            return Err(CliError::Input(format!("{flag} is 0; give at least 1")));
        }
    }
    let splits = &sweep.experiment.train.eval_splits;
    let compared = &sweep.experiment.compared_split;
    if !splits.contains(compared) {
        return Err(CliError::Input(format!(
            "`train.eval_splits` does not hold `{compared}`, which the comparison is made on; \
             add it"
        )));
    }
    if sweep.experiment.task.outer_splits().contains(compared) {
        output::note(&format!(
            "`task.outer_splits` holds `{compared}`, which the comparison is made on: a combiner \
             whose outer steps take these batches has seen it, and the others have not"
        ));
    }
    let has_equal_time = arguments.equal_time || arguments.equal_time_only;
    if has_equal_time && !sweep.combiners.contains(&CombinerName::Sum) {
        return Err(CliError::Input(no_sum()));
    }
    let losses = sweep.experiment.task.loss_names();
    for &name in &sweep.combiners {
        // The experiment itself may name another one.
        let config = CombinerConfig {
            name,
            ..sweep.experiment.combiner.clone()
        };
        config.validate(&losses)?;
    }
    check_auxiliary_weights(sweep)
}

/// What is wrong with equal time without the combiner that sets it.
pub(super) fn no_sum() -> String {
    "equal time is that of `sum`, which is not among the combiners; add it to --combiners"
        .to_owned()
}

/// Refuses weights that cannot be tried, or of which none could be chosen.
fn check_auxiliary_weights(sweep: &Sweep<'_>) -> Result<(), CliError> {
    let weights = &sweep.arguments.auxiliary_weights;
    if weights.is_empty() {
        return Ok(());
    }
    let refused = |reason: String| Err(CliError::Input(format!("--auxiliary-weights {reason}")));
    if !sweep.combiners.contains(&CombinerName::Fixed) {
        return refused("are weights of `fixed`; add it to --combiners".to_owned());
    }
    for (index, weight) in weights.iter().enumerate() {
        if !(weight.is_finite() && *weight >= 0.0) {
            return refused(format!("has {weight}; it must be in [0, inf)"));
        }
        if weights.iter().take(index).any(|before| before == weight) {
            return refused(format!("has {weight} twice; give each once"));
        }
    }
    let compared = &sweep.experiment.compared_split;
    match &sweep.experiment.train.best_metric {
        None => refused(
            "are chosen by `train.best_metric`, which the experiment does not set; set its \
             `name` and a `split` that is not compared on"
                .to_owned(),
        ),
        Some(metric) if metric.split == *compared => refused(format!(
            "are chosen by `train.best_metric`, which is measured on the compared split \
             `{compared}`; set `train.best_metric.split` to another"
        )),
        Some(_) => Ok(()),
    }
}

/// How many items a comparison is made from.
pub(super) struct Counts {
    pub(super) train: usize,
    /// By split, of those that are evaluated.
    pub(super) evaluated: BTreeMap<String, usize>,
}

/// Counts the items of the splits.
pub(super) struct Count<'a>(pub(super) &'a Experiment);

impl Visit for Count<'_> {
    type Output = Counts;

    fn visit<T: FineTuneTask>(self, task: &T, _model: T::Model) -> Result<Counts, CliError>
    where
        CliError: From<T::Error>,
    {
        let mut train = 0;
        for split in self.0.task.train_splits() {
            train += task.n_items(split)?;
        }
        let mut evaluated = BTreeMap::new();
        for split in &self.0.train.eval_splits {
            evaluated.insert(split.clone(), task.n_items(split)?);
        }
        Ok(Counts { train, evaluated })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ReproArguments;
    use crate::device;
    use crate::experiment::Prepared;
    use crate::repro::testing;

    /// The experiment of the main job with other arguments, prepared.
    fn prepared(arguments: &ReproArguments) -> Result<(Experiment, Prepared), CliError> {
        let path = testing::experiment();
        let sweep = Sweep::new(arguments, &path)?;
        let prepared = sweep.experiment.prepare(&device::parse("flex")?)?;
        Ok((sweep.experiment, prepared))
    }

    #[test]
    fn the_linear_reference_finds_about_every_fourth_clip() {
        let (experiment, prepared) = prepared(&testing::arguments()).unwrap();
        let rows = experiment.references(&prepared).unwrap();
        assert_eq!(rows[1].name, "untrained");
        let row = &rows[0];
        let r1 = row.metrics["text_to_video.r1"];
        // docs/decisions: 23 to 30 of 100 queries, depending on the penalty.
        assert!((0.2..0.4).contains(&r1), "{r1}");
        assert!(row.metrics.contains_key("video_to_text.median_rank"));
        assert!(
            row.note.contains("3000") && row.note.contains("train"),
            "{}",
            row.note
        );
    }

    #[test]
    fn combiners_are_compared_in_the_order_of_tables() {
        use CombinerName::{Meltr, Primary, Sum};
        let chosen = |list: &str| chosen_combiners(Some(list), Meltr);
        assert_eq!(
            chosen_combiners(None, Meltr).unwrap(),
            [Primary, Sum, Meltr]
        );
        assert_eq!(chosen_combiners(None, Sum).unwrap(), [Primary, Sum]);
        assert_eq!(chosen("all").unwrap(), CombinerName::ALL);
        assert_eq!(chosen("meltr, primary,meltr").unwrap(), [Primary, Meltr]);
        for list in ["", "sum,", "sum,meltrr", "all,sum"] {
            let error = chosen(list).unwrap_err();
            assert!(matches!(error, CliError::Input(_)));
            let message = error.to_string();
            assert!(
                message.contains("--combiners") && message.contains("primary"),
                "{message}"
            );
        }
    }

    #[test]
    fn what_no_run_could_use_is_refused_before_the_first_starts() {
        let refused = |arguments: ReproArguments| match prepared(&arguments) {
            Ok(_) => panic!("not refused: {arguments:?}"),
            Err(error) => error.to_string(),
        };
        let with = |overrides: &[&str]| ReproArguments {
            set: overrides.iter().map(ToString::to_string).collect(),
            ..testing::arguments()
        };
        let no_seeds = ReproArguments {
            seeds: 0,
            ..testing::arguments()
        };
        assert!(refused(no_seeds).contains("--seeds"));
        let no_jobs = ReproArguments {
            jobs: Some(0),
            ..testing::arguments()
        };
        assert!(refused(no_jobs).contains("--jobs"));
        let splits = refused(with(&["train.eval_splits=[\"valid\"]"]));
        assert!(splits.contains("`test`"), "{splits}");
        let unknown = refused(with(&["train.eval_splits=[\"test\", \"dev\"]"]));
        assert!(unknown.contains("unknown split `dev`"), "{unknown}");
        assert!(refused(with(&["combiner.d_model=100"])).contains("n_heads"));
        let wide = refused(with(&["data.batches.video_dim=513"]));
        assert!(wide.contains("512 features"), "{wide}");
        for equal_time_only in [false, true] {
            let alone = ReproArguments {
                combiners: Some("primary,meltr".to_owned()),
                equal_time: !equal_time_only,
                equal_time_only,
                ..testing::arguments()
            };
            let message = refused(alone);
            assert!(
                message.contains("equal time") && message.contains("`sum`"),
                "{message}"
            );
        }
    }

    #[test]
    fn weights_that_could_not_be_chosen_are_refused() {
        const METRIC: &str = "train.best_metric.name=text_to_video.r1";
        let refused = |combiners: &str, weights: &[f64], overrides: &[&str]| {
            let arguments = ReproArguments {
                combiners: Some(combiners.to_owned()),
                auxiliary_weights: weights.to_vec(),
                set: overrides.iter().map(ToString::to_string).collect(),
                ..testing::arguments()
            };
            match Sweep::new(&arguments, &testing::experiment()) {
                Ok(_) => panic!("not refused: {arguments:?}"),
                Err(error) => error.to_string(),
            }
        };
        let message = refused("sum", &[0.1], &[]);
        assert!(message.contains("add it to --combiners"), "{message}");
        let message = refused("fixed", &[0.1, -1.0], &[]);
        assert!(
            message.contains("-1") && message.contains("[0, inf)"),
            "{message}"
        );
        let message = refused("fixed", &[0.1, 0.1], &[]);
        assert!(message.contains("twice"), "{message}");
        let message = refused("fixed", &[0.1], &[]);
        assert!(message.contains("does not set"), "{message}");
        let message = refused("fixed", &[0.1], &[METRIC, "train.best_metric.split=test"]);
        assert!(message.contains("the compared split `test`"), "{message}");
    }

    #[test]
    fn a_combiner_that_cannot_be_built_is_refused_though_the_experiment_names_another() {
        let path = testing::experiment();
        let arguments = ReproArguments {
            combiners: Some("sum,meltr".to_owned()),
            set: vec![
                "combiner.name=sum".to_owned(),
                "combiner.d_model=100".to_owned(),
            ],
            ..testing::arguments()
        };
        let error = Sweep::new(&arguments, &path).err().unwrap();
        assert!(error.to_string().contains("n_heads"), "{error}");
    }
}
