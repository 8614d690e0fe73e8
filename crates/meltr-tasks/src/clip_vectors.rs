//! One vector per clip, for regressions between videos and texts.

use meltr_data::{ClipText, EmojiClips, KeywordUse};
use ndarray::{Array2, Axis};

/// Guard of the frame normalization, as in UniVL.
const NORM_EPSILON: f64 = 1e-12;

/// Mean over the words of name and all keywords of each clip, `[n, D]`.
///
/// # Shapes
///
/// - vectors: `[V, D]`, a row per token of the set's vocabulary; indices: `n` clips
///
/// # Panics
///
/// Panics if an index is beyond the set or `vectors` has fewer rows than the vocabulary.
#[must_use]
pub fn mean_word_vectors(
    set: &EmojiClips,
    vectors: &Array2<f64>,
    indices: &[usize],
) -> Array2<f64> {
    let text = ClipText {
        keywords: KeywordUse::All,
    };
    let mut means = Array2::zeros((indices.len(), vectors.ncols()));
    for (mut row, &index) in means.rows_mut().into_iter().zip(indices) {
        let ids = set.word_piece().encode(&text.text(&set.clips()[index], 0));
        for id in &ids {
            row += &vectors.row(*id as usize);
        }
        row /= ids.len().max(1) as f64;
    }
    means
}

/// Mean over the frames of each clip of their first `video_dim` features, each frame shifted to
/// mean 0 and scaled to variance 1: `[n, video_dim]`.
///
/// # Panics
///
/// Panics if an index is beyond the set or `video_dim` beyond its features.
#[must_use]
pub fn mean_frames(set: &EmojiClips, video_dim: usize, indices: &[usize]) -> Array2<f64> {
    let mut means = Array2::zeros((indices.len(), video_dim));
    for (mut row, &index) in means.rows_mut().into_iter().zip(indices) {
        let clip = set.frames().index_axis(Axis(0), index);
        for frame in clip.rows() {
            let frame = frame.slice(ndarray::s![..video_dim]).mapv(f64::from);
            let mean = frame.sum() / video_dim as f64;
            let centered = frame - mean;
            let variance = centered.dot(&centered) / video_dim as f64;
            row += &(centered / (variance + NORM_EPSILON).sqrt());
        }
        row /= clip.nrows().max(1) as f64;
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalized_frames_have_mean_zero() {
        let set = EmojiClips::embedded().unwrap();
        let means = mean_frames(&set, 64, &[0, 5]);
        assert_eq!(means.dim(), (2, 64));
        assert!(means.sum_axis(Axis(1)).iter().all(|sum| sum.abs() < 1e-9));
    }
}
