//! Recall and ranks of a similarity matrix under a named tie policy.

use std::collections::BTreeMap;

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How wrong items that score exactly like the right one are counted.
///
/// With `G` wrong items strictly above the right one and `T` exactly equal to it, the 0-based
/// rank is:
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TiePolicy {
    /// `G`: ties count for the right item.
    Optimiztic,
    /// `G + T/2`: the expected rank under random order.
    #[default]
    Average,
    /// `G + T`: ties count against the right item.
    Pessimistic,
}

impl TiePolicy {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Optimiztic, Self::Average, Self::Pessimistic];

    /// Name as in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Optimiztic => "optimiztic",
            Self::Average => "average",
            Self::Pessimistic => "pessimistic",
        }
    }

    fn rank(self, above: usize, tied: usize) -> f64 {
        let (above, tied) = (above as f64, tied as f64);
        match self {
            Self::Optimiztic => above,
            Self::Average => above + 0.5 * tied,
            Self::Pessimistic => above + tied,
        }
    }
}

/// Why a metric is not defined.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MetricError {
    /// A similarity is not a number.
    #[error(
        "similarity at row {row}, column {column} is NaN; the model diverged or was not loaded"
    )]
    NotANumber {
        /// Row (text), from 0.
        row: usize,
        /// Column (video), from 0.
        column: usize,
    },
    /// There is no query or nothing to rank.
    #[error(
        "similarity matrix of shape [{rows}, {columns}]; at least one row and column are needed"
    )]
    Empty {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
    /// The assignment of texts to videos does not fit the matrix.
    #[error(
        "text {row} belongs to video {video}, but the matrix has {columns} columns and {rows} rows"
    )]
    NoSuchVideo {
        /// Row, from 0.
        row: usize,
        /// The video named.
        video: usize,
        /// Columns of the matrix.
        columns: usize,
        /// Rows of the matrix.
        rows: usize,
    },
}

/// Recall and ranks of one direction of retrieval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalMetrics {
    /// 0-based rank of each query's best right item; fractional with average ties.
    pub ranks: Vec<f64>,
}

impl RetrievalMetrics {
    /// Texts as queries: one right video each.
    ///
    /// - similarity: `[texts, videos]`; video_of_text: `[texts]`, columns
    ///
    /// # Errors
    ///
    /// [`MetricError`] if an entry is NaN, the matrix is empty or an index does not fit.
    pub fn text_to_video(
        similarity: ArrayView2<'_, f64>,
        video_of_text: &[usize],
        policy: TiePolicy,
    ) -> Result<Self, MetricError> {
        check(similarity, video_of_text)?;
        let ranks = similarity
            .rows()
            .into_iter()
            .zip(video_of_text)
            .map(|(row, &right)| {
                let score = row[right];
                rank(
                    policy,
                    score,
                    row.iter().enumerate().filter(|(j, _)| *j != right),
                )
            })
            .collect();
        Ok(Self { ranks })
    }

    /// Videos as queries: all texts of a video are right, the best of them counts, and none of
    /// them is a rival. Videos without a text are no queries.
    ///
    /// - similarity: `[texts, videos]`; video_of_text: `[texts]`, columns
    ///
    /// # Errors
    ///
    /// [`MetricError`] if an entry is NaN, the matrix is empty or an index does not fit.
    pub fn video_to_text(
        similarity: ArrayView2<'_, f64>,
        video_of_text: &[usize],
        policy: TiePolicy,
    ) -> Result<Self, MetricError> {
        check(similarity, video_of_text)?;
        let ranks = similarity
            .columns()
            .into_iter()
            .enumerate()
            .filter_map(|(video, column)| {
                let best = column
                    .iter()
                    .zip(video_of_text)
                    .filter(|(_, of)| **of == video)
                    .map(|(score, _)| *score)
                    .reduce(f64::max)?;
                let wrong = column
                    .iter()
                    .enumerate()
                    .filter(|(text, _)| video_of_text[*text] != video);
                Some(rank(policy, best, wrong))
            })
            .collect();
        Ok(Self { ranks })
    }

    /// Fraction of queries whose rank is below `k`, in `[0, 1]`.
    #[must_use]
    pub fn recall_at(&self, k: usize) -> f64 {
        let hits = self.ranks.iter().filter(|rank| **rank < k as f64).count();
        hits as f64 / self.ranks.len() as f64
    }

    /// Median of the 1-based ranks; of an even number, the mean of the middle two.
    #[must_use]
    pub fn median_rank(&self) -> f64 {
        let mut sorted = self.ranks.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let middle = if n % 2 == 1 {
            sorted[n / 2]
        } else {
            0.5 * (sorted[n / 2 - 1] + sorted[n / 2])
        };
        middle + 1.0
    }

    /// Mean of the 1-based ranks.
    #[must_use]
    pub fn mean_rank(&self) -> f64 {
        self.ranks.iter().sum::<f64>() / self.ranks.len() as f64 + 1.0
    }

    /// `<prefix>.r1`, `.r5`, `.r10` (fractions), `.median_rank`, `.mean_rank` (from 1).
    #[must_use]
    pub fn named(&self, prefix: &str) -> BTreeMap<String, f64> {
        let mut metrics: BTreeMap<String, f64> = [1, 5, 10]
            .into_iter()
            .map(|k| (format!("{prefix}.r{k}"), self.recall_at(k)))
            .collect();
        metrics.insert(format!("{prefix}.median_rank"), self.median_rank());
        metrics.insert(format!("{prefix}.mean_rank"), self.mean_rank());
        metrics
    }
}

fn rank<'a>(policy: TiePolicy, score: f64, wrong: impl Iterator<Item = (usize, &'a f64)>) -> f64 {
    let (mut above, mut tied) = (0, 0);
    for (_, other) in wrong {
        if *other > score {
            above += 1;
        } else if *other == score {
            tied += 1;
        }
    }
    policy.rank(above, tied)
}

fn check(similarity: ArrayView2<'_, f64>, video_of_text: &[usize]) -> Result<(), MetricError> {
    let (rows, columns) = similarity.dim();
    if rows == 0 || columns == 0 {
        return Err(MetricError::Empty { rows, columns });
    }
    if let Some(((row, column), _)) = similarity.indexed_iter().find(|(_, score)| score.is_nan()) {
        return Err(MetricError::NotANumber { row, column });
    }
    if video_of_text.len() != rows {
        let row = video_of_text.len().min(rows);
        return Err(MetricError::NoSuchVideo {
            row,
            video: 0,
            columns,
            rows,
        });
    }
    match video_of_text
        .iter()
        .enumerate()
        .find(|(_, video)| **video >= columns)
    {
        Some((row, &video)) => Err(MetricError::NoSuchVideo {
            row,
            video,
            columns,
            rows,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn a_perfect_matrix_has_full_recall() {
        let similarity = ndarray::Array2::<f64>::eye(5);
        let all: Vec<usize> = (0..5).collect();
        for metrics in [
            RetrievalMetrics::text_to_video(similarity.view(), &all, TiePolicy::Average).unwrap(),
            RetrievalMetrics::video_to_text(similarity.view(), &all, TiePolicy::Average).unwrap(),
        ] {
            assert_eq!(metrics.recall_at(1), 1.0);
            assert_eq!(metrics.median_rank(), 1.0);
        }
    }

    #[test]
    fn a_constant_matrix_shows_the_policies_apart() {
        let similarity = ndarray::Array2::<f64>::ones((4, 4));
        let all: Vec<usize> = (0..4).collect();
        let mean = |policy| {
            RetrievalMetrics::text_to_video(similarity.view(), &all, policy)
                .unwrap()
                .mean_rank()
        };
        assert_eq!(mean(TiePolicy::Optimiztic), 1.0);
        assert_eq!(mean(TiePolicy::Average), 2.5);
        assert_eq!(mean(TiePolicy::Pessimistic), 4.0);
    }

    #[test]
    fn further_texts_of_a_video_are_no_rivals() {
        // Texts 0 and 1 belong to video 0, text 2 to video 1.
        let similarity = array![[0.9, 0.0], [0.2, 0.1], [0.5, 0.3]];
        let metrics =
            RetrievalMetrics::video_to_text(similarity.view(), &[0, 0, 1], TiePolicy::Pessimistic)
                .unwrap();
        assert_eq!(metrics.ranks, vec![0.0, 0.0]);
    }

    #[test]
    fn a_nan_is_an_error_that_names_its_place() {
        let similarity = array![[1.0, 0.0], [f64::NAN, 1.0]];
        let error = RetrievalMetrics::text_to_video(similarity.view(), &[0, 1], TiePolicy::Average)
            .unwrap_err();
        assert_eq!(error, MetricError::NotANumber { row: 1, column: 0 });
    }
}
