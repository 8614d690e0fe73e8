//! Scores of all texts with all videos, taken chunk by chunk.

use burn::tensor::Tensor;
use meltr_core::{is_on_host, vec_f64};
use meltr_models::Encoded;
use ndarray::Array2;
use rayon::prelude::*;

/// Scores of a chunk of texts with a chunk of videos, `[texts, videos]`; `similarity` gives those of
/// some of the texts with all of the videos.
///
/// In the memory of this process each thread takes a share of the texts: what lies between two
/// matrix products is a pass over memory on one thread there, and the threads do not wait for each
/// other. Another device gets the chunk in one piece.
pub(crate) fn similarity_by_shares(
    texts: &Encoded,
    similarity: impl Fn(&Encoded) -> Tensor<2> + Sync,
) -> Tensor<2> {
    let [n_texts, _] = texts.pad.dims();
    let n_shares = rayon::current_num_threads().min(n_texts);
    if n_shares < 2 || !is_on_host(&texts.pad.device()) {
        return similarity(texts);
    }
    let scores = (0..n_shares)
        .into_par_iter()
        .map(|share| {
            let start = n_texts * share / n_shares;
            let end = n_texts * (share + 1) / n_shares;
            similarity(&texts.narrow(start, end - start))
        })
        .collect();
    Tensor::cat(scores, 0)
}

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
    use meltr_core::Dual;

    use super::*;

    #[test]
    fn shares_of_texts_come_back_in_order() {
        let device = Device::default();
        for n_texts in [1, 2, 5, 64] {
            let numbers: Vec<f32> = (0..n_texts).map(|at| at as f32).collect();
            let hidden = TensorData::new(numbers.clone(), [n_texts, 1, 1]);
            let pad = TensorData::new(vec![false; n_texts], [n_texts, 1]);
            let texts = Encoded {
                hidden: Dual::constant(Tensor::from_data(hidden, &device)),
                pad: Tensor::from_data(pad, &device),
            };
            let scores = similarity_by_shares(&texts, |share| {
                let [n_own, _] = share.pad.dims();
                share.hidden.value.clone().reshape([n_own, 1])
            });
            let scores: Vec<f32> = scores.into_data().iter().collect();
            assert_eq!(scores, numbers);
        }
    }

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
