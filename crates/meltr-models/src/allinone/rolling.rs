//! Temporal token rolling: before a block, some patches change places with those of other frames.

use burn::tensor::Tensor;

use crate::univl_batch::index_tensor;

/// One token in this many moves forward in time, and as many move backward.
const FOLD_DIVISOR: usize = 8;

/// Which tokens of a sequence move in time.
///
/// Frames are sequences of their own; attention does not cross them. What a frame learns of the
/// others is what is rolled into it: of its `N` tokens from `first_token` on, number 0 (`[CLS]`)
/// stays, numbers `1..=⌊N/8⌋` come from the frame before, the last `⌊N/8⌋` from the frame after,
/// the others stay. Time is circular: the frame before the first one is the last.
///
/// # References
///
/// - Wang et al., [All in One](https://arxiv.org/abs/2203.07303), CVPR 2023.
/// - Reference code: `mlvlab/MELTR@669ad60`, `allinone/AllInOne/modules/temporal_roll.py`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rolling {
    /// Position of the frame's `[CLS]` in the sequence; what stands before it does not move.
    pub(crate) first_token: usize,
    /// Frames of a video; a video is that many sequences in a row.
    pub(crate) n_frames: usize,
}

impl Rolling {
    /// Rolls the tokens of `B` videos once, `[B * T, length, D]` to the same shape. Linear, and
    /// the identity where there is one frame or a frame has less than 8 tokens.
    ///
    /// One gather, and one scatter backwards: slicing and joining the moving tokens would make the
    /// backward pass build a gradient of full size for every slice.
    pub(crate) fn apply(self, x: Tensor<3>) -> Tensor<3> {
        let [n_rows, length, d_model] = x.dims();
        let fold = (length - self.first_token) / FOLD_DIVISOR;
        if self.n_frames < 2 || fold == 0 {
            return x;
        }
        let first_rolled = self.first_token + 1;
        let sources: Vec<i64> = (0..n_rows * length)
            .map(|at| {
                let (row, token) = (at / length, at % length);
                let n_later = if (first_rolled..first_rolled + fold).contains(&token) {
                    self.n_frames - 1 // the frame before, in circular time
                } else if token >= length - fold {
                    1
                } else {
                    0
                };
                let (video, frame) = (row / self.n_frames, row % self.n_frames);
                let row = video * self.n_frames + (frame + n_later) % self.n_frames;
                (row * length + token) as i64
            })
            .collect();
        let sources = index_tensor(&sources, &x.device());
        let x: Tensor<2> = x.reshape([n_rows * length, d_model]);
        x.select(0, sources).reshape([n_rows, length, d_model])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    /// Every entry another number.
    fn numbered(rows: usize, length: usize) -> Tensor<3> {
        let values: Vec<f32> = (0..rows * length * 2).map(|at| at as f32).collect();
        let data = TensorData::new(values, [rows, length, 2]);
        Tensor::from_data(data, &Device::default())
    }

    /// The numbers of `[rows, length, 2]`, token by token.
    fn tokens(x: Tensor<3>) -> Vec<[f32; 2]> {
        let values: Vec<f32> = x.into_data().iter::<f32>().collect();
        values.chunks(2).map(|pair| [pair[0], pair[1]]).collect()
    }

    #[test]
    fn two_of_sixteen_patches_come_from_each_side() {
        // One token of text, then [CLS] and 16 patches.
        let rolling = Rolling {
            first_token: 1,
            n_frames: 3,
        };
        let x = numbered(3, 18);
        let (before, after) = (tokens(x.clone()), tokens(rolling.apply(x)));
        let at = |frame: usize, token: usize| frame * 18 + token;
        for (token, source) in [
            (0, 1), // text
            (1, 1), // [CLS]
            (2, 0), // the first two patches
            (3, 0),
            (4, 1),
            (15, 1),
            (16, 2), // the last two
            (17, 2),
        ] {
            assert_eq!(after[at(1, token)], before[at(source, token)], "{token}");
        }
        // Time is circular.
        assert_eq!(after[at(0, 2)], before[at(2, 2)]);
        assert_eq!(after[at(2, 17)], before[at(0, 17)]);
    }

    #[test]
    fn rolled_tokens_are_a_neighbors_and_all_others_stay() {
        for n_frames in 1..=5 {
            for first_token in 0..=3 {
                for n_tokens in 1..=26 {
                    let rolling = Rolling {
                        first_token,
                        n_frames,
                    };
                    let length = first_token + n_tokens;
                    let x = numbered(2 * n_frames, length);
                    let (before, after) = (tokens(x.clone()), tokens(rolling.apply(x)));
                    let fold = n_tokens / 8;
                    for row in 0..2 * n_frames {
                        let (video, frame) = (row / n_frames, row % n_frames);
                        for token in 0..length {
                            let source = if (first_token + 1..=first_token + fold).contains(&token)
                            {
                                (frame + n_frames - 1) % n_frames
                            } else if token >= length - fold {
                                (frame + 1) % n_frames
                            } else {
                                frame
                            };
                            let source = (video * n_frames + source) * length + token;
                            assert_eq!(
                                after[row * length + token],
                                before[source],
                                "{rolling:?}, {n_tokens} tokens, row {row}, token {token}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn one_frame_is_left_as_it_is() {
        let rolling = Rolling {
            first_token: 2,
            n_frames: 1,
        };
        let x = numbered(3, 30);
        rolling
            .apply(x.clone())
            .into_data()
            .assert_eq(&x.into_data(), true);
    }

    #[test]
    fn as_many_rolls_as_frames_bring_everything_back() {
        let rolling = Rolling {
            first_token: 1,
            n_frames: 4,
        };
        let x = numbered(8, 20);
        let back = (0..4).fold(x.clone(), |x, _| rolling.apply(x));
        back.into_data().assert_eq(&x.into_data(), true);
    }
}
