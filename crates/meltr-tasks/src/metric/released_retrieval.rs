//! Retrieval metrics as the released scripts compute them, ties and all.
//!
//! For comparison with published numbers; new numbers are better made by a named
//! [`TiePolicy`](super::TiePolicy).

use ndarray::ArrayView2;

use super::error::MetricError;
use super::retrieval::{RankedQueries, TiePolicy, check, median};

/// What the released UniVL returns for texts as queries.
///
/// Its list of ranks has an entry for every video that scores exactly like the right one, the
/// right one included, so that with ties it is longer than the number of texts; all shares are of
/// its length.
///
/// # References
///
/// - Reference code: `microsoft/UniVL` `metrics.py`, which MELTR ships.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleasedUniVlRetrieval {
    /// 0-based ranks, in the order of the texts.
    pub ranks: Vec<usize>,
}

impl ReleasedUniVlRetrieval {
    /// Compares each row with its diagonal entry.
    ///
    /// - similarity: `[n, n]`
    ///
    /// # Errors
    ///
    /// [`MetricError`] if an entry is NaN, the matrix is empty or not square, or every entry of
    /// the diagonal is infinite.
    pub fn new(similarity: ArrayView2<'_, f64>) -> Result<Self, MetricError> {
        let (rows, columns) = similarity.dim();
        if rows != columns {
            return Err(MetricError::NotSquare { rows, columns });
        }
        let diagonal: Vec<usize> = (0..rows).collect();
        check(similarity, &diagonal)?;
        let mut ranks = Vec::with_capacity(rows);
        for (index, row) in similarity.rows().into_iter().enumerate() {
            let right = row[index];
            let above = row.iter().filter(|score| **score > right).count();
            // The difference of two infinities is not 0 but NaN.
            let equal = row.iter().filter(|score| **score - right == 0.0).count();
            ranks.extend(above..above + equal);
        }
        if ranks.is_empty() {
            return Err(MetricError::NoFiniteRank);
        }
        Ok(Self { ranks })
    }

    /// Share of the list that is below `k`, in `[0, 1]`.
    #[must_use]
    pub fn recall_at(&self, k: usize) -> f64 {
        let hits = self.ranks.iter().filter(|rank| **rank < k).count();
        hits as f64 / self.ranks.len() as f64
    }

    /// Median of the list, from 1.
    #[must_use]
    pub fn median_rank(&self) -> f64 {
        let ranks: Vec<f64> = self.ranks.iter().map(|rank| *rank as f64).collect();
        median(&ranks) + 1.0
    }
}

/// What the released All-in-one returns for one direction. Shares are in per cent.
///
/// # References
///
/// - Reference code: `m-bain/frozen-in-time` `model/metric.py`, which All-in-one carries on.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleasedAllInOneRetrieval {
    /// 0-based ranks of the queries; fractional if the queries are videos.
    pub ranks: Vec<f64>,
}

impl ReleasedAllInOneRetrieval {
    /// Texts as queries: ties count for the right video.
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
        let queries = RankedQueries::text_to_video(similarity, video_of_text)?;
        Ok(Self {
            ranks: queries.metrics(TiePolicy::Optimistic).ranks,
        })
    }

    /// Videos as queries: a text has the mean place of all texts that score the same, other right
    /// ones included, and the best of a video's texts counts.
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
        let ranks = similarity
            .columns()
            .into_iter()
            .enumerate()
            .filter_map(|(video, column)| {
                // The best right text has the best mean place.
                let best = column
                    .iter()
                    .zip(video_of_text)
                    .filter(|(_, of)| **of == video)
                    .map(|(score, _)| *score)
                    .reduce(f64::max)?;
                let above = column.iter().filter(|score| **score > best).count();
                let equal = column.iter().filter(|score| **score == best).count();
                Some(above as f64 + 0.5 * (equal as f64 - 1.0))
            })
            .collect();
        Ok(Self { ranks })
    }

    /// Recall at `k` in per cent. At 1 a fractional rank below 1 does not count, since the code
    /// asks for rank 0.
    #[must_use]
    pub fn recall_at(&self, k: usize) -> f64 {
        let is_hit = |rank: f64| if k == 1 { rank == 0.0 } else { rank < k as f64 };
        let hits = self.ranks.iter().filter(|rank| is_hit(**rank)).count();
        100.0 * hits as f64 / self.ranks.len() as f64
    }

    /// Median of the ranks, from 1.
    #[must_use]
    pub fn median_rank(&self) -> f64 {
        median(&self.ranks) + 1.0
    }

    /// Mean of the ranks, from 1.
    #[must_use]
    pub fn mean_rank(&self) -> f64 {
        self.ranks.iter().sum::<f64>() / self.ranks.len() as f64 + 1.0
    }

    /// Geometric mean of the recalls at 1, 5 and 10 in per cent; 0 if one of them is.
    #[must_use]
    pub fn geometric_mean(&self) -> f64 {
        let product: f64 = [1, 5, 10].into_iter().map(|k| self.recall_at(k)).product();
        product.cbrt()
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn ties_make_the_list_of_univl_longer() {
        let similarity = array![[0.5, 0.5, 0.1], [0.0, 0.9, 0.0], [0.7, 0.6, 0.2]];
        let released = ReleasedUniVlRetrieval::new(similarity.view()).unwrap();
        assert_eq!(released.ranks, [0, 1, 0, 2]);
        assert_eq!(released.recall_at(1), 0.5);
        assert_eq!(released.median_rank(), 1.5);
    }

    #[test]
    fn the_list_of_univl_needs_a_square_matrix_with_a_finite_diagonal() {
        let wide = array![[1.0, 0.0]];
        assert_eq!(
            ReleasedUniVlRetrieval::new(wide.view()),
            Err(MetricError::NotSquare {
                rows: 1,
                columns: 2
            })
        );
        let infinite = array![[f64::INFINITY]];
        assert_eq!(
            ReleasedUniVlRetrieval::new(infinite.view()),
            Err(MetricError::NoFiniteRank)
        );
    }

    #[test]
    fn right_texts_are_rivals_to_all_in_one() {
        // Both texts belong to video 0 and score the same.
        let similarity = array![[0.5, 0.1], [0.5, 0.2], [0.4, 0.3]];
        let released =
            ReleasedAllInOneRetrieval::video_to_text(similarity.view(), &[0, 0, 1]).unwrap();
        assert_eq!(released.ranks, [0.5, 0.0]);
        assert_eq!(released.recall_at(1), 50.0);
        assert_eq!(released.recall_at(5), 100.0);
        let geometric = (50.0_f64 * 100.0 * 100.0).cbrt();
        assert!((released.geometric_mean() - geometric).abs() < 1e-12);
        let texts =
            ReleasedAllInOneRetrieval::text_to_video(similarity.view(), &[0, 0, 1]).unwrap();
        assert_eq!(texts.mean_rank(), (0.0 + 0.0 + 1.0) / 3.0 + 1.0);
    }
}
