//! How near a hypergradient comes to a known answer.

use std::collections::BTreeMap;
use std::path::Path;

use meltr_data::TensorFile;

use crate::error::CliError;

/// The answer that all sides are compared with, by name.
pub(super) type Answer = BTreeMap<String, Vec<f64>>;

/// The tensors of a file under the names that are wanted.
pub(super) fn read_answer(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Answer, CliError> {
    let file = TensorFile::open(path)?;
    file.names()
        .filter(|name| wanted(name))
        .map(|name| {
            let values = file.f64(name)?.iter().copied().collect();
            Ok((name.to_owned(), values))
        })
        .collect()
}

/// How near a hypergradient comes to the answer; nothing where it is not finite.
pub(super) struct Agreement {
    pub(super) relative_error: Option<f64>,
    pub(super) cosine: Option<f64>,
}

impl Agreement {
    /// An error if a tensor of the answer was not found, or is of another length.
    pub(super) fn of(found: &Answer, answer: &Answer) -> Result<Self, CliError> {
        let (mut apart, mut inner, mut size, mut answer_size) = (0.0, 0.0, 0.0, 0.0);
        for (name, expected) in answer {
            let values = found
                .get(name)
                .filter(|values| values.len() == expected.len())
                .ok_or_else(|| {
                    CliError::Failed(format!("a side gave no `{name}`, or of another length"))
                })?;
            for (a, b) in values.iter().zip(expected) {
                apart += (a - b) * (a - b);
                inner += a * b;
                size += a * a;
                answer_size += b * b;
            }
        }
        let finite = |value: f64| value.is_finite().then_some(value);
        Ok(Self {
            relative_error: finite((apart / answer_size).sqrt()),
            cosine: finite(inner / (size * answer_size).sqrt()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_taken_over_all_tensors() {
        let answer = Answer::from([("a".into(), vec![3.0]), ("b".into(), vec![4.0])]);
        let found = Answer::from([("a".into(), vec![3.0]), ("b".into(), vec![-4.0])]);
        let agreement = Agreement::of(&found, &answer).unwrap();
        assert!((agreement.relative_error.unwrap() - 8.0 / 5.0).abs() < 1e-12);
        assert!((agreement.cosine.unwrap() + 7.0 / 25.0).abs() < 1e-12);
        assert!(Agreement::of(&Answer::new(), &answer).is_err());
    }
}
