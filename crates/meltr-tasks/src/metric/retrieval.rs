//! Recall and ranks of a similarity matrix under a named tie policy.

use std::collections::BTreeMap;

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use super::error::MetricError;

/// How wrong items that score exactly like the right one are counted.
///
/// With `G` wrong items strictly above the right one and `T` exactly equal to it, the 0-based
/// rank is:
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TiePolicy {
    /// `G`: ties count for the right item.
    Optimistic,
    /// `G + T/2`: the expected rank under random order.
    #[default]
    Average,
    /// `G + T`: ties count against the right item.
    Pessimistic,
}

impl TiePolicy {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Optimistic, Self::Average, Self::Pessimistic];

    /// Name as in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Optimistic => "optimistic",
            Self::Average => "average",
            Self::Pessimistic => "pessimistic",
        }
    }

    fn rank(self, counts: RankCounts) -> f64 {
        let (above, tied) = (counts.above as f64, counts.tied as f64);
        match self {
            Self::Optimistic => above,
            Self::Average => above + 0.5 * tied,
            Self::Pessimistic => above + tied,
        }
    }
}

/// Where the best right item of one query stands among the wrong ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankCounts {
    /// Wrong items that score strictly higher.
    pub above: usize,
    /// Wrong items that score exactly the same.
    pub tied: usize,
}

/// The place of the best right item of every query, before any choice about ties.
///
/// Scores are compared as they are: infinite ones are allowed, and equal infinities tie.
///
/// ```
/// use meltr_tasks::metric::{RankedQueries, TiePolicy};
/// use ndarray::array;
///
/// # fn main() -> Result<(), meltr_tasks::metric::MetricError> {
/// // The second text likes both videos equally.
/// let similarity = array![[0.9, 0.1], [0.5, 0.5]];
/// let queries = RankedQueries::text_to_video(similarity.view(), &[0, 1])?;
/// assert_eq!(queries.metrics(TiePolicy::Optimistic).recall_at(1), 1.0);
/// assert_eq!(queries.metrics(TiePolicy::Pessimistic).recall_at(1), 0.5);
/// assert_eq!(queries.expected_recall_at(1), 0.75);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankedQueries {
    /// One per query, at least one.
    pub counts: Vec<RankCounts>,
}

impl RankedQueries {
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
    ) -> Result<Self, MetricError> {
        check(similarity, video_of_text)?;
        let counts = similarity
            .rows()
            .into_iter()
            .zip(video_of_text)
            .map(|(row, &right)| {
                let wrong = row.iter().enumerate().filter(|(video, _)| *video != right);
                place(row[right], wrong.map(|(_, score)| *score))
            })
            .collect();
        Ok(Self { counts })
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
    ) -> Result<Self, MetricError> {
        check(similarity, video_of_text)?;
        let counts = similarity
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
                    .zip(video_of_text)
                    .filter(|(_, of)| **of != video)
                    .map(|(score, _)| *score);
                Some(place(best, wrong))
            })
            .collect();
        Ok(Self { counts })
    }

    /// Ranks under a tie policy.
    #[must_use]
    pub fn metrics(&self, policy: TiePolicy) -> RetrievalMetrics {
        RetrievalMetrics {
            ranks: self
                .counts
                .iter()
                .map(|counts| policy.rank(*counts))
                .collect(),
        }
    }

    /// Recall at `k`, in `[0, 1]`, expected if ties are broken at random.
    ///
    /// The average policy has another recall, since it breaks all ties of a query in the middle;
    /// its mean rank is the expected one.
    #[must_use]
    pub fn expected_recall_at(&self, k: usize) -> f64 {
        self.mean(|counts| {
            let hits = k.saturating_sub(counts.above).min(counts.tied + 1);
            hits as f64 / (counts.tied + 1) as f64
        })
    }

    /// Mean reciprocal rank, in `(0, 1]`, expected if ties are broken at random.
    #[must_use]
    pub fn expected_reciprocal_rank(&self) -> f64 {
        self.mean(|counts| {
            let sum: f64 = (counts.above..=counts.above + counts.tied)
                .map(|rank| 1.0 / (rank + 1) as f64)
                .sum();
            sum / (counts.tied + 1) as f64
        })
    }

    fn mean(&self, value: impl Fn(&RankCounts) -> f64) -> f64 {
        self.counts.iter().map(value).sum::<f64>() / self.counts.len() as f64
    }
}

/// Recall and ranks of one direction of retrieval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalMetrics {
    /// 0-based rank of each query's best right item; fractional with average ties.
    pub ranks: Vec<f64>,
}

impl RetrievalMetrics {
    /// Texts as queries; see [`RankedQueries::text_to_video`].
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
        Ok(RankedQueries::text_to_video(similarity, video_of_text)?.metrics(policy))
    }

    /// Videos as queries; see [`RankedQueries::video_to_text`].
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
        Ok(RankedQueries::video_to_text(similarity, video_of_text)?.metrics(policy))
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
        median(&self.ranks) + 1.0
    }

    /// Mean of the 1-based ranks.
    #[must_use]
    pub fn mean_rank(&self) -> f64 {
        self.ranks.iter().sum::<f64>() / self.ranks.len() as f64 + 1.0
    }

    /// Mean of the reciprocals of the 1-based ranks, in `(0, 1]`.
    #[must_use]
    pub fn mean_reciprocal_rank(&self) -> f64 {
        let sum: f64 = self.ranks.iter().map(|rank| 1.0 / (rank + 1.0)).sum();
        sum / self.ranks.len() as f64
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

/// The median of at least one value.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n % 2 == 1 {
        sorted[n / 2]
    } else {
        0.5 * (sorted[n / 2 - 1] + sorted[n / 2])
    }
}

fn place(right: f64, wrong: impl Iterator<Item = f64>) -> RankCounts {
    let mut counts = RankCounts { above: 0, tied: 0 };
    for other in wrong {
        if other > right {
            counts.above += 1;
        } else if other == right {
            counts.tied += 1;
        }
    }
    counts
}

/// Checks a matrix and which column is right for each row.
pub(crate) fn check(
    similarity: ArrayView2<'_, f64>,
    video_of_text: &[usize],
) -> Result<(), MetricError> {
    let (rows, columns) = similarity.dim();
    if rows == 0 || columns == 0 {
        return Err(MetricError::Empty { rows, columns });
    }
    if let Some(((row, column), _)) = similarity.indexed_iter().find(|(_, score)| score.is_nan()) {
        return Err(MetricError::NotANumber { row, column });
    }
    if video_of_text.len() != rows {
        return Err(MetricError::TextCount {
            given: video_of_text.len(),
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
    use ndarray::array;

    use super::*;

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
            assert_eq!(metrics.mean_reciprocal_rank(), 1.0);
        }
    }

    #[test]
    fn a_constant_matrix_shows_the_policies_apart() {
        let similarity = ndarray::Array2::<f64>::ones((4, 4));
        let all: Vec<usize> = (0..4).collect();
        let queries = RankedQueries::text_to_video(similarity.view(), &all).unwrap();
        let mean = |policy| queries.metrics(policy).mean_rank();
        assert_eq!(mean(TiePolicy::Optimistic), 1.0);
        assert_eq!(mean(TiePolicy::Average), 2.5);
        assert_eq!(mean(TiePolicy::Pessimistic), 4.0);
        assert_eq!(queries.expected_recall_at(1), 0.25);
        assert_eq!(queries.expected_recall_at(3), 0.75);
        assert_eq!(queries.expected_recall_at(9), 1.0);
        let expected = (1.0 + 0.5 + 1.0 / 3.0 + 0.25) / 4.0;
        assert!((queries.expected_reciprocal_rank() - expected).abs() < 1e-15);
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

    #[test]
    fn an_assignment_that_does_not_fit_is_an_error() {
        let similarity = array![[1.0, 0.0], [0.0, 1.0]];
        let error =
            |videos: &[usize]| RankedQueries::text_to_video(similarity.view(), videos).unwrap_err();
        assert_eq!(error(&[0]), MetricError::TextCount { given: 1, rows: 2 });
        assert_eq!(
            error(&[0, 2]),
            MetricError::NoSuchVideo {
                row: 1,
                video: 2,
                columns: 2,
                rows: 2
            }
        );
        let empty = ndarray::Array2::<f64>::zeros((3, 0));
        assert_eq!(
            RankedQueries::video_to_text(empty.view(), &[0; 3]),
            Err(MetricError::Empty {
                rows: 3,
                columns: 0
            })
        );
    }
}
