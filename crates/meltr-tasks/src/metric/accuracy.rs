//! Accuracy of answers to questions.

use std::collections::BTreeMap;

use super::error::MetricError;

/// What becomes of questions whose right answer no model can give, since it is not in the
/// vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownAnswers {
    /// They count as wrong: the accuracy is that of all questions.
    #[default]
    Wrong,
    /// They are left out, as in the released All-in-one.
    LeftOut,
}

/// How many questions were answered rightly.
///
/// Counted over all questions, never averaged over batches.
///
/// ```
/// use meltr_tasks::metric::{AnswerAccuracy, UnknownAnswers};
///
/// # fn main() -> Result<(), meltr_tasks::metric::MetricError> {
/// let predictions = ["dog", "red", "two"];
/// let answers = [Some("dog"), Some("blue"), None];
/// let all = AnswerAccuracy::new(&predictions, &answers, UnknownAnswers::Wrong)?;
/// assert_eq!(all.accuracy(), 1.0 / 3.0);
/// let known = AnswerAccuracy::new(&predictions, &answers, UnknownAnswers::LeftOut)?;
/// assert_eq!(known.accuracy(), 0.5);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerAccuracy {
    /// Questions answered rightly.
    pub n_right: usize,
    /// Questions that count.
    pub n_counted: usize,
    /// Questions whose answer is not in the vocabulary.
    pub n_unknown: usize,
}

impl AnswerAccuracy {
    /// Compares predictions with answers; `None` is an answer outside the vocabulary.
    ///
    /// # Errors
    ///
    /// [`MetricError::NoPredictions`], [`MetricError::Lengths`] if there are not as many answers,
    /// and [`MetricError::NoKnownAnswer`] if every question is left out.
    pub fn new<A: PartialEq>(
        predictions: &[A],
        answers: &[Option<A>],
        unknown: UnknownAnswers,
    ) -> Result<Self, MetricError> {
        if predictions.is_empty() && answers.is_empty() {
            return Err(MetricError::NoPredictions);
        }
        if predictions.len() != answers.len() {
            return Err(MetricError::Lengths {
                predictions: predictions.len(),
                labels: answers.len(),
            });
        }
        let n_right = predictions
            .iter()
            .zip(answers)
            .filter(|&(prediction, answer)| answer.as_ref() == Some(prediction))
            .count();
        let n_unknown = answers.iter().filter(|answer| answer.is_none()).count();
        let n_counted = match unknown {
            UnknownAnswers::Wrong => answers.len(),
            UnknownAnswers::LeftOut => answers.len() - n_unknown,
        };
        if n_counted == 0 {
            return Err(MetricError::NoKnownAnswer {
                n_items: answers.len(),
            });
        }
        Ok(Self {
            n_right,
            n_counted,
            n_unknown,
        })
    }

    /// Share of the questions that count, in `[0, 1]`.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.n_right as f64 / self.n_counted as f64
    }

    /// By the name that runs use: `accuracy`.
    #[must_use]
    pub fn named(&self) -> BTreeMap<String, f64> {
        BTreeMap::from([("accuracy".to_owned(), self.accuracy())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_answers_follow_the_policy() {
        let predictions = [1, 2, 3, 0];
        let answers = [Some(1), None, Some(4), None];
        let of = |policy| AnswerAccuracy::new(&predictions, &answers, policy).unwrap();
        assert_eq!(of(UnknownAnswers::Wrong).accuracy(), 0.25);
        assert_eq!(of(UnknownAnswers::LeftOut).accuracy(), 0.5);
        assert_eq!(of(UnknownAnswers::Wrong).n_unknown, 2);
        assert_eq!(of(UnknownAnswers::Wrong).named()["accuracy"], 0.25);
    }

    #[test]
    fn nothing_to_count_is_an_error() {
        let new = |predictions: &[u8], answers: &[Option<u8>]| {
            AnswerAccuracy::new(predictions, answers, UnknownAnswers::LeftOut)
        };
        assert_eq!(new(&[], &[]), Err(MetricError::NoPredictions));
        assert_eq!(
            new(&[1], &[None]),
            Err(MetricError::NoKnownAnswer { n_items: 1 })
        );
        assert_eq!(
            new(&[1], &[None, None]),
            Err(MetricError::Lengths {
                predictions: 1,
                labels: 2
            })
        );
    }
}
