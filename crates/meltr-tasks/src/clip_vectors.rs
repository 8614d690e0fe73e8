//! One vector per item, for regressions between videos and texts.

use meltr_data::{DataError, Draw, VideoTextSet};
use ndarray::Array2;

/// Guard of the frame normalization, as in UniVL.
const NORM_EPSILON: f64 = 1e-12;

/// Mean over the words of each item's caption, or of its text if it has none, `[n, D]`.
///
/// # Shapes
///
/// - vectors: `[V, D]`, a row per token of the set's vocabulary; indices: `n` items
///
/// # Errors
///
/// [`DataError`] if an item cannot be read.
///
/// # Panics
///
/// Panics if `vectors` has fewer rows than the vocabulary.
pub fn mean_word_vectors(
    set: &dyn VideoTextSet,
    vectors: &Array2<f64>,
    indices: &[usize],
) -> Result<Array2<f64>, DataError> {
    let mut means = Array2::zeros((indices.len(), vectors.ncols()));
    for (mut row, &index) in means.rows_mut().into_iter().zip(indices) {
        let sample = set.sample(index, Draw::Evaluation)?;
        let text = sample.caption.unwrap_or(sample.text);
        let ids = set.word_piece().encode(&text);
        for id in &ids {
            row += &vectors.row(*id as usize);
        }
        row /= ids.len().max(1) as f64;
    }
    Ok(means)
}

/// Mean over the frames of each item of their first `video_dim` features, each frame shifted to
/// mean 0 and scaled to variance 1: `[n, video_dim]`.
///
/// # Errors
///
/// [`DataError`] if an item cannot be read.
///
/// # Panics
///
/// Panics if `video_dim` is beyond the features of the set.
pub fn mean_frames(
    set: &dyn VideoTextSet,
    video_dim: usize,
    indices: &[usize],
) -> Result<Array2<f64>, DataError> {
    let mut means = Array2::zeros((indices.len(), video_dim));
    for (mut row, &index) in means.rows_mut().into_iter().zip(indices) {
        let frames = set.sample(index, Draw::Evaluation)?.frames;
        for frame in frames.rows() {
            let frame = frame.slice(ndarray::s![..video_dim]).mapv(f64::from);
            let mean = frame.sum() / video_dim as f64;
            let centered = frame - mean;
            let variance = centered.dot(&centered) / video_dim as f64;
            row += &(centered / (variance + NORM_EPSILON).sqrt());
        }
        row /= frames.nrows().max(1) as f64;
    }
    Ok(means)
}

#[cfg(test)]
mod tests {
    use meltr_data::{ClipText, EmojiClips, EmojiPairs, KeywordUse};
    use ndarray::Axis;

    use super::*;

    #[test]
    fn normalized_frames_have_mean_zero() {
        let text = ClipText {
            keywords: KeywordUse::None,
        };
        let set = EmojiPairs::new(EmojiClips::embedded().unwrap(), text);
        let means = mean_frames(&set, 64, &[0, 5]).unwrap();
        assert_eq!(means.dim(), (2, 64));
        assert!(means.sum_axis(Axis(1)).iter().all(|sum| sum.abs() < 1e-9));
    }
}
