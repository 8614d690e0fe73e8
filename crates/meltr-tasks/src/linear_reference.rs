//! Ridge regression from videos to texts: the closed-form reference of a retrieval set.

use ndarray::{Array1, Array2, ArrayView2, Axis};

use crate::metric::{MetricError, RetrievalMetrics, TiePolicy};

/// `argmin_W |X W - Y|² + lambda |W|²`, by Cholesky factorization of `XᵀX + lambda I`.
///
/// Costs `d³/3 + n d²` multiplications for `X` of shape `[n, d]`.
///
/// # Shapes
///
/// - x: `[n, d]`; y: `[n, k]`
/// - output: `[d, k]`
///
/// # Panics
///
/// Panics if the numbers of rows differ or `lambda` is not positive.
#[must_use]
pub fn ridge(x: ArrayView2<'_, f64>, y: ArrayView2<'_, f64>, lambda: f64) -> Array2<f64> {
    assert_eq!(x.nrows(), y.nrows(), "one target per row");
    assert!(
        lambda > 0.0,
        "a positive ridge keeps the matrix positive definite"
    );
    let mut gram = x.t().dot(&x);
    gram.diag_mut().mapv_inplace(|value| value + lambda);
    let factor = cholesky(gram);
    let mut solution = x.t().dot(&y);
    let d = solution.nrows();
    // Forward substitution, then backward, all right-hand sides at a time.
    for row in 0..d {
        for before in 0..row {
            let scaled = &solution.row(before) * factor[[row, before]];
            let mut target = solution.row_mut(row);
            target -= &scaled;
        }
        let pivot = factor[[row, row]];
        solution.row_mut(row).mapv_inplace(|value| value / pivot);
    }
    for row in (0..d).rev() {
        for after in row + 1..d {
            let scaled = &solution.row(after) * factor[[after, row]];
            let mut target = solution.row_mut(row);
            target -= &scaled;
        }
        let pivot = factor[[row, row]];
        solution.row_mut(row).mapv_inplace(|value| value / pivot);
    }
    solution
}

/// Lower triangular factor of a positive definite matrix.
fn cholesky(mut matrix: Array2<f64>) -> Array2<f64> {
    let n = matrix.nrows();
    for column in 0..n {
        let row = matrix.row(column).to_owned();
        let before = row.slice(ndarray::s![..column]);
        let pivot = (row[column] - before.dot(&before))
            .max(f64::MIN_POSITIVE)
            .sqrt();
        matrix[[column, column]] = pivot;
        for below in column + 1..n {
            let product = matrix.slice(ndarray::s![below, ..column]).dot(&before);
            matrix[[below, column]] = (matrix[[below, column]] - product) / pivot;
        }
    }
    matrix
}

/// Text-to-video retrieval by ridge regression.
#[derive(Debug, Clone)]
pub struct LinearRetrieval {
    /// Text-to-video metrics on the test items.
    pub text_to_video: RetrievalMetrics,
    /// Video-to-text metrics on the test items.
    pub video_to_text: RetrievalMetrics,
}

/// One vector for each video and one for each text, and which rows are which.
#[derive(Debug, Clone)]
pub struct LinearPairs {
    /// `[N, d]`
    pub videos: Array2<f64>,
    /// `[N, k]`
    pub texts: Array2<f64>,
    /// Rows that the regression is fitted on.
    pub train: Vec<usize>,
    /// Rows that it is asked about.
    pub test: Vec<usize>,
}

/// Unit vectors of texts: what the regression expects from the test videos, and the text means.
struct Fitted {
    /// `[n_test, k]`, rows of length 1.
    predicted: Array2<f64>,
    /// Mean of the training texts, `[k]`.
    text_mean: Array1<f64>,
}

impl LinearPairs {
    /// Fits text vectors by video vectors, both centred by their training means.
    fn fit(&self, lambda: f64) -> Fitted {
        let mean = |matrix: &Array2<f64>| {
            matrix
                .mean_axis(Axis(0))
                .unwrap_or_else(|| Array1::zeros(matrix.ncols()))
        };
        let train_videos = self.videos.select(Axis(0), &self.train);
        let train_texts = self.texts.select(Axis(0), &self.train);
        let (video_mean, text_mean) = (mean(&train_videos), mean(&train_texts));
        let weights = ridge(
            (&train_videos - &video_mean).view(),
            (&train_texts - &text_mean).view(),
            lambda,
        );
        let test_videos = self.videos.select(Axis(0), &self.test);
        Fitted {
            predicted: unit_rows((&test_videos - &video_mean).dot(&weights)),
            text_mean,
        }
    }

    fn unit_texts(&self, rows: &[usize], mean: &Array1<f64>) -> Array2<f64> {
        unit_rows(&self.texts.select(Axis(0), rows) - mean)
    }
}

/// For each test video the position in `train` of the text that is nearest, by cosine, to what a
/// ridge regression from videos to texts expects.
///
/// # Panics
///
/// Panics if `lambda` is not positive.
#[must_use]
pub fn nearest_texts(pairs: &LinearPairs, lambda: f64) -> Vec<usize> {
    let fitted = pairs.fit(lambda);
    let texts = pairs.unit_texts(&pairs.train, &fitted.text_mean);
    fitted
        .predicted
        .dot(&texts.t())
        .rows()
        .into_iter()
        .map(|row| {
            let best = row
                .iter()
                .enumerate()
                .max_by(|(_, a), (_, b)| a.total_cmp(b));
            best.map_or(0, |(place, _)| place)
        })
        .collect()
}

/// Fits text vectors by video vectors on the training items and ranks the test items by cosine.
///
/// Both sides are centred by their training means.
///
/// # Errors
///
/// [`MetricError`] if there is no test item or a vector is not finite.
///
/// # Panics
///
/// Panics if `lambda` is not positive.
pub fn linear_retrieval(pairs: &LinearPairs, lambda: f64) -> Result<LinearRetrieval, MetricError> {
    let Fitted {
        predicted,
        text_mean,
    } = pairs.fit(lambda);
    let wanted = pairs.unit_texts(&pairs.test, &text_mean);
    let similarity = wanted.dot(&predicted.t());
    let pairs: Vec<usize> = (0..pairs.test.len()).collect();
    Ok(LinearRetrieval {
        text_to_video: RetrievalMetrics::text_to_video(
            similarity.view(),
            &pairs,
            TiePolicy::Average,
        )?,
        video_to_text: RetrievalMetrics::video_to_text(
            similarity.view(),
            &pairs,
            TiePolicy::Average,
        )?,
    })
}

fn unit_rows(mut matrix: Array2<f64>) -> Array2<f64> {
    for mut row in matrix.rows_mut() {
        let norm = row.dot(&row).sqrt().max(f64::MIN_POSITIVE);
        row.mapv_inplace(|value| value / norm);
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn ridge_solves_the_normal_equations() {
        let x = array![[1.0, 2.0], [0.5, -1.0], [3.0, 0.0], [1.0, 1.0]];
        let y = array![[1.0], [0.0], [2.0], [-1.0]];
        let w = ridge(x.view(), y.view(), 0.7);
        let residual = x.t().dot(&(x.dot(&w) - &y)) + &w * 0.7;
        assert!(
            residual.iter().all(|value| value.abs() < 1e-12),
            "{residual}"
        );
    }

    #[test]
    fn the_nearest_text_is_that_of_the_same_video() {
        let videos = array![[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [0.9, 0.1], [0.0, 0.8]];
        let pairs = LinearPairs {
            texts: videos.clone(),
            videos,
            train: vec![0, 1, 2],
            test: vec![3, 4],
        };
        assert_eq!(nearest_texts(&pairs, 1e-6), vec![0, 1]);
    }

    #[test]
    fn a_linear_relation_is_retrieved_perfectly() {
        let videos = Array2::from_shape_fn((12, 4), |(i, j)| ((i * 7 + j * 3) % 11) as f64);
        let map = array![[1.0, 0.5], [0.0, 1.0], [2.0, -1.0], [0.3, 0.7]];
        let texts = videos.dot(&map);
        let pairs = LinearPairs {
            videos,
            texts,
            train: (0..8).collect(),
            test: (8..12).collect(),
        };
        let result = linear_retrieval(&pairs, 1e-9).unwrap();
        assert_eq!(result.text_to_video.recall_at(1), 1.0);
    }
}
