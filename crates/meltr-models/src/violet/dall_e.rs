//! The encoder of DALL-E's discrete VAE: frames to visual tokens.

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::module::{conv2d, max_pool2d};
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Int, Tensor};
use meltr_core::{LoadReport, StateDict, load_state_dict};
use thiserror::Error;

/// Channels after the first convolution.
const WIDTH: usize = 256;

/// Entries of the visual vocabulary.
const N_TOKENS: usize = 8192;

/// Side of the square of pixels that becomes one token: three poolings by 2.
const TOKEN_PIXELS: usize = 8;

/// Factor of every residual branch: one over the square of the number of blocks.
const BRANCH_GAIN: f64 = 1.0 / 64.0;

/// Pixels are moved into `[MARGIN, 1 - MARGIN]`.
const MARGIN: f64 = 0.1;

/// Why weights are not those of the encoder.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum DallEWeightsError {
    /// Names are missing or left over, or a shape differs.
    #[error(
        "not the weights of DALL-E's encoder: {report}; take the published `encoder.pkl`, \
         not the decoder"
    )]
    Names {
        /// Every name with what became of it.
        report: LoadReport,
    },
    /// An entry is not a finite number.
    #[error("`{name}` of DALL-E's encoder holds a value that is not finite; fetch the file again")]
    NotFinite {
        /// Name of the entry.
        name: String,
    },
}

/// A frozen network that turns each 8 x 8 pixels of a frame into one of 8192 visual tokens.
///
/// Inference only, in the precision of the weights: the released code rounds to half precision on
/// a GPU, which can change a token where two logits are close.
///
/// # References
///
/// - Ramesh et al., [Zero-Shot Text-to-Image Generation](https://arxiv.org/abs/2102.12092), ICML
///   2021.
/// - Reference code: `openai/DALL-E` `dall_e/encoder.py`, `dall_e/utils.py`.
#[derive(Module, Debug)]
pub struct DallEEncoder {
    blocks: Blocks,
}

impl DallEEncoder {
    /// Builds the network from its published weights; every entry has to be there, and none may
    /// be left over. `device` is one without a tape.
    ///
    /// # Errors
    ///
    /// [`DallEWeightsError`], naming the entry.
    pub fn load(weights: &StateDict, device: &Device) -> Result<Self, DallEWeightsError> {
        Self::zeroed(WIDTH, N_TOKENS, device).loaded(weights)
    }

    fn loaded(self, weights: &StateDict) -> Result<Self, DallEWeightsError> {
        let (encoder, report) = load_state_dict(self, weights, str::to_owned);
        if !report.is_complete() {
            return Err(DallEWeightsError::Names { report });
        }
        for (name, data) in weights {
            if !data.iter::<f64>().all(f64::is_finite) {
                return Err(DallEWeightsError::NotFinite { name: name.clone() });
            }
        }
        Ok(encoder)
    }

    fn zeroed(width: usize, n_tokens: usize, device: &Device) -> Self {
        Self {
            blocks: Blocks {
                input: Conv::zeroed(3, width, 7, device),
                group_1: Group::zeroed(width, width, device),
                group_2: Group::zeroed(width, 2 * width, device),
                group_3: Group::zeroed(2 * width, 4 * width, device),
                group_4: Group::zeroed(4 * width, 8 * width, device),
                output: Output {
                    conv: Conv::zeroed(8 * width, n_tokens, 1, device),
                },
            },
        }
    }

    /// Scores of all visual tokens.
    ///
    /// # Shapes
    ///
    /// - frames: `[N, 3, H, W]` in `[0, 1]`, `H` and `W` multiples of 8; VIOLET takes 56 x 56
    /// - output: `[N, 8192, H/8, W/8]`
    ///
    /// # Panics
    ///
    /// Panics if the frames do not have three channels, or if height or width is 0 or not a
    /// multiple of 8.
    #[must_use]
    pub fn logits(&self, frames: Tensor<4>) -> Tensor<4> {
        let dims = frames.dims();
        let [_, channels, height, width] = dims;
        assert!(
            channels == 3
                && height > 0
                && width > 0
                && height.is_multiple_of(TOKEN_PIXELS)
                && width.is_multiple_of(TOKEN_PIXELS),
            "frames have to be [N, 3, H, W] with H and W multiples of {TOKEN_PIXELS}, not {dims:?}"
        );
        let pixels = frames * (1.0 - 2.0 * MARGIN) + MARGIN;
        let blocks = &self.blocks;
        let x = blocks.input.forward(pixels);
        let x = halve(blocks.group_1.forward(x));
        let x = halve(blocks.group_2.forward(x));
        let x = halve(blocks.group_3.forward(x));
        let x = blocks.group_4.forward(x);
        blocks.output.conv.forward(relu(x))
    }

    /// The best visual token of each 8 x 8 pixels, the lowest id of equally good ones.
    ///
    /// At 56 x 56 pixels the largest map takes 3.2 MB in single precision for each frame, and the
    /// logits 1.6 MB; the caller chooses how many frames go together.
    ///
    /// # Shapes
    ///
    /// - frames: `[N, 3, H, W]` in `[0, 1]`, `H` and `W` multiples of 8; VIOLET takes 56 x 56
    /// - output: `[N, H/8, W/8]`, ids in `[0, 8192)`
    ///
    /// # Panics
    ///
    /// As [`logits`](Self::logits).
    #[must_use]
    pub fn tokens(&self, frames: Tensor<4>) -> Tensor<3, Int> {
        let logits = self.logits(frames);
        let [n_frames, _, rows, columns] = logits.dims();
        logits.argmax(1).reshape([n_frames, rows, columns])
    }
}

/// The whole network under its published names.
#[derive(Module, Debug)]
struct Blocks {
    input: Conv,
    group_1: Group,
    group_2: Group,
    group_3: Group,
    group_4: Group,
    output: Output,
}

#[derive(Module, Debug)]
struct Output {
    conv: Conv,
}

/// Two blocks of one size.
#[derive(Module, Debug)]
struct Group {
    block_1: Block,
    block_2: Block,
}

impl Group {
    fn zeroed(n_in: usize, n_out: usize, device: &Device) -> Self {
        Self {
            block_1: Block::zeroed(n_in, n_out, device),
            block_2: Block::zeroed(n_out, n_out, device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.block_2.forward(self.block_1.forward(x))
    }
}

/// A residual block.
#[derive(Module, Debug)]
struct Block {
    /// Absent where input and output have the same number of channels.
    id_path: Option<Conv>,
    res_path: Branch,
}

#[derive(Module, Debug)]
struct Branch {
    conv_1: Conv,
    conv_2: Conv,
    conv_3: Conv,
    conv_4: Conv,
}

impl Block {
    fn zeroed(n_in: usize, n_out: usize, device: &Device) -> Self {
        let n_hidden = n_out / 4;
        Self {
            id_path: (n_in != n_out).then(|| Conv::zeroed(n_in, n_out, 1, device)),
            res_path: Branch {
                conv_1: Conv::zeroed(n_in, n_hidden, 3, device),
                conv_2: Conv::zeroed(n_hidden, n_hidden, 3, device),
                conv_3: Conv::zeroed(n_hidden, n_hidden, 3, device),
                conv_4: Conv::zeroed(n_hidden, n_out, 1, device),
            },
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let Branch {
            conv_1,
            conv_2,
            conv_3,
            conv_4,
        } = &self.res_path;
        let branch = [conv_1, conv_2, conv_3, conv_4]
            .into_iter()
            .fold(x.clone(), |x, conv| conv.forward(relu(x)));
        let identity = match &self.id_path {
            Some(conv) => conv.forward(x),
            None => x,
        };
        branch * BRANCH_GAIN + identity
    }
}

/// A convolution that keeps height and width.
#[derive(Module, Debug)]
struct Conv {
    /// `[n_out, n_in, kernel, kernel]`
    w: Param<Tensor<4>>,
    b: Param<Tensor<1>>,
}

impl Conv {
    fn zeroed(n_in: usize, n_out: usize, kernel: usize, device: &Device) -> Self {
        Self {
            w: Param::from_tensor(Tensor::zeros([n_out, n_in, kernel, kernel], device)),
            b: Param::from_tensor(Tensor::zeros([n_out], device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let weight = self.w.val();
        let padding = weight.dims()[2] / 2;
        let options = ConvOptions::new([1, 1], [padding, padding], [1, 1], 1);
        conv2d(x, weight, Some(self.b.val()), options)
    }
}

/// The largest of each 2 x 2 values.
fn halve(x: Tensor<4>) -> Tensor<4> {
    max_pool2d(x, MaxPoolOptions::new([2, 2]))
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use meltr_core::state_dict;

    use super::*;

    const SMALL: usize = 4;

    /// Weights of a small encoder: all zero but for the entries given by name and position.
    fn weights(entries: &[(&str, usize, f32)]) -> StateDict {
        let device = Device::default();
        let mut dict = state_dict(&DallEEncoder::zeroed(SMALL, 3, &device), str::to_owned);
        for (name, at, value) in entries {
            let old = &dict[*name];
            let shape = old.shape().to_vec();
            let mut values: Vec<f32> = old.iter::<f32>().collect();
            values[*at] = *value;
            dict.insert((*name).to_owned(), TensorData::new(values, shape));
        }
        dict
    }

    fn small(entries: &[(&str, usize, f32)]) -> DallEEncoder {
        DallEEncoder::zeroed(SMALL, 3, &Device::default())
            .loaded(&weights(entries))
            .unwrap()
    }

    /// Red passes through to the first channel of the last map.
    const RED: [(&str, usize, f32); 4] = [
        ("blocks.input.w", 24, 1.0),
        ("blocks.group_2.block_1.id_path.w", 0, 1.0),
        ("blocks.group_3.block_1.id_path.w", 0, 1.0),
        ("blocks.group_4.block_1.id_path.w", 0, 1.0),
    ];

    #[test]
    fn the_entries_have_their_published_names() {
        let dict = weights(&[]);
        assert_eq!(dict.len(), 74);
        for (name, shape) in [
            ("blocks.input.w", vec![4, 3, 7, 7]),
            ("blocks.input.b", vec![4]),
            ("blocks.group_1.block_1.res_path.conv_1.w", vec![1, 4, 3, 3]),
            ("blocks.group_2.block_1.id_path.w", vec![8, 4, 1, 1]),
            (
                "blocks.group_4.block_2.res_path.conv_4.w",
                vec![32, 8, 1, 1],
            ),
            ("blocks.output.conv.w", vec![3, 32, 1, 1]),
        ] {
            assert_eq!(dict[name].shape().to_vec(), shape, "{name}");
        }
        assert!(!dict.contains_key("blocks.group_1.block_1.id_path.w"));
        assert!(!dict.contains_key("blocks.group_2.block_2.id_path.w"));
    }

    #[test]
    fn a_token_depends_on_the_largest_pixel_of_its_square() {
        // Token 1 scores the red value, in [0.1, 0.9]; token 0 scores 0.5; token 2 less.
        let output = [
            ("blocks.output.conv.w", 32, 1.0),
            ("blocks.output.conv.b", 0, 0.5),
            ("blocks.output.conv.b", 2, -1.0),
        ];
        let encoder = small(&[&RED[..], &output[..]].concat());
        let mut pixels = vec![0.0f32; 3 * 16 * 24];
        // One red pixel in the lower middle square, one green pixel in the upper left one.
        pixels[12 * 24 + 9] = 1.0;
        pixels[16 * 24] = 1.0;
        let frame = TensorData::new(pixels, [1, 3, 16, 24]);
        let tokens = encoder.tokens(Tensor::from_data(frame, &Device::default()));
        assert_eq!(tokens.dims(), [1, 2, 3]);
        let tokens: Vec<i64> = tokens.into_data().iter::<i64>().collect();
        assert_eq!(tokens, [0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn a_branch_is_added_with_its_gain() {
        // One residual branch that multiplies by 2 three times and by 4 once.
        let branch = [
            ("blocks.group_1.block_1.res_path.conv_1.w", 4, 2.0),
            ("blocks.group_1.block_1.res_path.conv_2.w", 4, 2.0),
            ("blocks.group_1.block_1.res_path.conv_3.w", 4, 2.0),
            ("blocks.group_1.block_1.res_path.conv_4.w", 0, 4.0),
        ];
        let output = [("blocks.output.conv.w", 0, 1.0)];
        let encoder = small(&[&RED[..], &branch[..], &output[..]].concat());
        let frames = Tensor::<4>::ones([1, 3, 8, 8], &Device::default());
        let logits: Vec<f32> = encoder.logits(frames).into_data().iter::<f32>().collect();
        assert!(
            (logits[0] - 0.9 * (1.0 + 32.0 / 64.0)).abs() < 1e-6,
            "{logits:?}"
        );
    }

    #[test]
    fn weights_of_something_else_and_damaged_ones_are_refused() {
        let device = Device::default();
        let encoder = || DallEEncoder::zeroed(SMALL, 3, &device);
        let mut dict = weights(&[]);
        dict.remove("blocks.input.b");
        let error = encoder().loaded(&dict).unwrap_err().to_string();
        assert!(error.contains("first missing: `blocks.input.b`"), "{error}");
        let dict = weights(&[("blocks.input.b", 1, f32::NAN)]);
        let error = encoder().loaded(&dict).unwrap_err();
        let name = "blocks.input.b".to_owned();
        assert_eq!(error, DallEWeightsError::NotFinite { name });
    }
}
