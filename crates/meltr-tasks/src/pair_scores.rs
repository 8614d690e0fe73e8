//! Scores of all texts with all videos, taken chunk by chunk.

use burn::tensor::Tensor;
use meltr_core::vec_f64;
use ndarray::Array2;

/// A matrix of scores, rows are texts, that is filled in chunks of texts and of videos.
///
/// Nothing of a chunk is kept but its scores, so that the matrix is all that grows with the number
/// of pairs.
pub(crate) struct PairScores<'a> {
    matrix: Array2<f64>,
    chunk: usize,
    n_scored: usize,
    /// Told how many pairs of how many have a score.
    progress: &'a mut dyn FnMut(usize, usize),
}

impl<'a> PairScores<'a> {
    /// A matrix `[n_texts, n_videos]` without scores; chunks have `chunk` texts or videos, but for
    /// the last ones.
    pub(crate) fn new(
        n_texts: usize,
        n_videos: usize,
        chunk: usize,
        progress: &'a mut dyn FnMut(usize, usize),
    ) -> Self {
        progress(0, n_texts * n_videos);
        Self {
            matrix: Array2::zeros((n_texts, n_videos)),
            chunk,
            n_scored: 0,
            progress,
        }
    }

    /// Puts the scores of the chunk `row` of texts with the chunk `column` of videos, both from 0,
    /// into their places.
    ///
    /// # Shapes
    ///
    /// - scores: `[texts of the chunk, videos of the chunk]`
    pub(crate) fn insert(&mut self, row: usize, column: usize, scores: Tensor<2>) {
        let [n_texts, n_videos] = scores.dims();
        let (top, left) = (row * self.chunk, column * self.chunk);
        for (at, value) in vec_f64(scores.into_data()).into_iter().enumerate() {
            self.matrix[[top + at / n_videos, left + at % n_videos]] = value;
        }
        self.n_scored += n_texts * n_videos;
        (self.progress)(self.n_scored, self.matrix.len());
    }

    /// The matrix, all chunks being in it.
    pub(crate) fn into_matrix(self) -> Array2<f64> {
        debug_assert_eq!(self.n_scored, self.matrix.len());
        self.matrix
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn chunks_come_to_their_places_and_are_told() {
        let mut told = Vec::new();
        let mut progress = |done: usize, all: usize| told.push((done, all));
        let mut scores = PairScores::new(3, 5, 2, &mut progress);
        for (row, texts) in [0..2, 2..3].into_iter().enumerate() {
            for (column, videos) in [0..2, 2..4, 4..5].into_iter().enumerate() {
                let shape = [texts.len(), videos.len()];
                let values: Vec<f32> = texts
                    .clone()
                    .flat_map(|text| videos.clone().map(move |video| (10 * text + video) as f32))
                    .collect();
                let chunk = Tensor::from_data(TensorData::new(values, shape), &Device::default());
                scores.insert(row, column, chunk);
            }
        }
        let expected = Array2::from_shape_fn((3, 5), |(text, video)| (10 * text + video) as f64);
        assert_eq!(scores.into_matrix(), expected);
        let done = [0, 4, 8, 10, 12, 14, 15];
        assert_eq!(told, done.map(|done| (done, 15)));
    }
}
