//! Image encoder of convolution blocks, built from published weights with normalization folded in.

use std::collections::BTreeMap;
use std::fmt;

use burn::module::Module;
use burn::tensor::module::{conv2d, linear};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};
use meltr_core::{LoadReport, ShapeMismatch, StateDict, vec_f64};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{efficientnet_lite0, mobilenet_v2};

/// Channels after the first convolution.
const STEM_CHANNELS: usize = 32;

/// Width of the pooled features.
const N_FEATURES: usize = 1280;

/// Classes of ImageNet.
const N_CLASSES: usize = 1000;

/// Height and width have to be multiples of this, the product of all strides.
const SIZE_STEP: usize = 32;

/// Which published network an [`ImageEncoder`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ImageArchitecture {
    /// MobileNetV2 under torchvision's names, 3.5 million parameters.
    #[serde(rename = "mobilenet_v2")]
    MobileNetV2,
    /// EfficientNet-Lite0, 4.7 million parameters.
    #[serde(rename = "efficientnet_lite0")]
    EfficientNetLite0,
}

impl ImageArchitecture {
    /// Every architecture.
    pub const ALL: [Self; 2] = [Self::MobileNetV2, Self::EfficientNetLite0];

    /// The name in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MobileNetV2 => "mobilenet_v2",
            Self::EfficientNetLite0 => "efficientnet_lite0",
        }
    }

    fn blueprint(self) -> Blueprint {
        match self {
            Self::MobileNetV2 => mobilenet_v2::blueprint(),
            Self::EfficientNetLite0 => efficientnet_lite0::blueprint(),
        }
    }
}

impl fmt::Display for ImageArchitecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// Why weights are not those of an image encoder.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum ImageWeightsError {
    /// Names are missing or left over, or a shape differs.
    #[error(
        "not the weights of {architecture}: {report}; \
         take the published file, or rename its entries back"
    )]
    Names {
        /// The network that was to be loaded.
        architecture: ImageArchitecture,
        /// Every name with what became of it.
        report: LoadReport,
    },
    /// An entry of the right name and shape cannot be used.
    #[error("`{name}` of {architecture} {reason}; fetch the file again")]
    Value {
        /// The network that was to be loaded.
        architecture: ImageArchitecture,
        /// Name of the entry.
        name: String,
        /// What is wrong with it, as the end of a sentence.
        reason: String,
    },
}

/// A frozen convolutional network that turns images into feature vectors.
///
/// Inference only. The running statistics of every batch normalization are folded into the
/// convolution before it, in `f64`, so that the network is a chain of convolutions with biases.
/// The weights are constants of the module: no optimizer sees them.
///
/// ```
/// use burn::tensor::Device;
/// use meltr_core::StateDict;
/// use meltr_models::{ImageArchitecture, ImageEncoder};
///
/// let nothing = StateDict::new();
/// let architecture = ImageArchitecture::MobileNetV2;
/// let error = ImageEncoder::load(architecture, &nothing, &Device::default()).unwrap_err();
/// assert!(error.to_string().contains("262 missing"));
/// ```
#[derive(Module, Debug)]
pub struct ImageEncoder {
    stem: ConvBlock,
    blocks: Vec<InvertedResidual>,
    head: ConvBlock,
    /// `[1280, 1000]`.
    classifier_weight: Tensor<2>,
    classifier_bias: Tensor<1>,
    /// `[1, 3, 1, 1]`, for pixels in `[0, 255]`.
    pixel_mean: Tensor<4>,
    pixel_deviation: Tensor<4>,
}

impl ImageEncoder {
    /// Builds a network from its published weights.
    ///
    /// Every entry has to be there under its published name and with its published shape, and
    /// none may be left over. Only the counters of batches that PyTorch keeps beside running
    /// statistics (`num_batches_tracked`) may be there or not, and are not used.
    ///
    /// # Errors
    ///
    /// [`ImageWeightsError`], naming the entry.
    pub fn load(
        architecture: ImageArchitecture,
        weights: &StateDict,
        device: &Device,
    ) -> Result<Self, ImageWeightsError> {
        let blueprint = architecture.blueprint();
        let mut reader = WeightReader::new(weights, blueprint.epsilon, blueprint.padding, device);
        let stem = reader.conv(&blueprint.stem, ConvSize::dense(3, STEM_CHANNELS, 3, 2));
        let mut blocks = Vec::new();
        let mut channels = STEM_CHANNELS;
        for stage in blueprint.stages {
            for index in 0..stage.n_blocks {
                let names = (blueprint.block_names)(blocks.len(), stage);
                let stride = if index == 0 { stage.stride } else { 1 };
                blocks.push(InvertedResidual::load(
                    &mut reader,
                    &names,
                    stage,
                    channels,
                    stride,
                ));
                channels = stage.channels;
            }
        }
        let head = reader.conv(&blueprint.head, ConvSize::dense(channels, N_FEATURES, 1, 1));
        let (classifier_weight, classifier_bias) =
            reader.linear(blueprint.classifier, N_FEATURES, N_CLASSES);
        reader.finish(architecture)?;
        Ok(Self {
            stem,
            blocks,
            head,
            classifier_weight,
            classifier_bias,
            pixel_mean: per_channel(blueprint.pixel_mean, device),
            pixel_deviation: per_channel(blueprint.pixel_deviation, device),
        })
    }

    /// Pixels in `[0, 255]`, RGB, to the scale that the network was trained on.
    ///
    /// # Shapes
    ///
    /// - pixels: `[B, 3, H, W]`
    /// - output: the same
    #[must_use]
    pub fn normalize(&self, pixels: Tensor<4>) -> Tensor<4> {
        (pixels - self.pixel_mean.clone()) / self.pixel_deviation.clone()
    }

    /// The mean over all positions of the last feature map.
    ///
    /// At 224 x 224 the largest map takes 4.8 MB in single precision for each image of the batch,
    /// and two or three maps exist at a time; the caller chooses the size of the batch.
    ///
    /// # Shapes
    ///
    /// - images: `[B, 3, H, W]`, normalized; published at 224 x 224
    /// - output: `[B, 1280]`
    ///
    /// # Panics
    ///
    /// Panics if the images do not have three channels, or if height or width is 0 or not a
    /// multiple of 32.
    #[must_use]
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let dims = images.dims();
        let [batch_size, channels, height, width] = dims;
        assert!(
            channels == 3
                && height > 0
                && width > 0
                && height.is_multiple_of(SIZE_STEP)
                && width.is_multiple_of(SIZE_STEP),
            "images have to be [B, 3, H, W] with H and W multiples of {SIZE_STEP}, not {dims:?}"
        );
        let mut x = self.stem.forward(images);
        for block in &self.blocks {
            x = block.forward(x);
        }
        let x = self.head.forward(x);
        let [_, n_features, height, width] = x.dims();
        x.reshape([batch_size, n_features, height * width])
            .mean_dim(2)
            .reshape([batch_size, n_features])
    }

    /// Scores of the 1000 classes of ImageNet.
    ///
    /// # Shapes
    ///
    /// - features: `[B, 1280]`, as [`features`](Self::features) returns them
    /// - output: `[B, 1000]`
    #[must_use]
    pub fn logits(&self, features: Tensor<2>) -> Tensor<2> {
        linear(
            features,
            self.classifier_weight.clone(),
            Some(self.classifier_bias.clone()),
        )
    }
}

/// What tells one architecture from the other.
pub(crate) struct Blueprint {
    pub(crate) stages: &'static [Stage],
    pub(crate) stem: ConvNames,
    /// Names of a block by its position in the network.
    pub(crate) block_names: fn(usize, &Stage) -> BlockNames,
    pub(crate) head: ConvNames,
    pub(crate) classifier: &'static str,
    /// Added to the variance of every batch normalization.
    pub(crate) epsilon: f64,
    pub(crate) padding: Padding,
    /// Mean and standard deviation of pixels in `[0, 255]`.
    pub(crate) pixel_mean: [f64; 3],
    pub(crate) pixel_deviation: [f64; 3],
}

/// Blocks of the same output size in a row.
pub(crate) struct Stage {
    /// Hidden channels for each input channel; a block of expansion 1 does not expand.
    pub(crate) expansion: usize,
    /// Output channels.
    pub(crate) channels: usize,
    pub(crate) n_blocks: usize,
    /// Stride of the first block; the others have 1.
    pub(crate) stride: usize,
    /// Height and width of the depthwise kernels.
    pub(crate) kernel: usize,
}

/// Published names of a convolution and of its normalization, without `.weight` and so on.
pub(crate) struct ConvNames {
    pub(crate) conv: String,
    pub(crate) norm: String,
}

impl ConvNames {
    pub(crate) fn new(conv: impl Into<String>, norm: impl Into<String>) -> Self {
        Self {
            conv: conv.into(),
            norm: norm.into(),
        }
    }
}

/// Published names of an inverted residual block.
pub(crate) struct BlockNames {
    /// Not read at expansion 1.
    pub(crate) expand: ConvNames,
    pub(crate) depthwise: ConvNames,
    pub(crate) project: ConvNames,
}

/// What lies around an image. Kernels have an odd size.
#[derive(Clone, Copy)]
pub(crate) enum Padding {
    /// PyTorch's: half of the kernel's size on every side.
    Symmetric,
    /// TensorFlow's `SAME`: as little as possible, the odd row and column at the end.
    Same,
}

/// Sizes of one convolution.
#[derive(Clone, Copy)]
struct ConvSize {
    channels_in: usize,
    channels_out: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
}

impl ConvSize {
    fn dense(channels_in: usize, channels_out: usize, kernel: usize, stride: usize) -> Self {
        Self {
            channels_in,
            channels_out,
            kernel,
            stride,
            groups: 1,
        }
    }

    fn depthwise(channels: usize, kernel: usize, stride: usize) -> Self {
        Self {
            channels_in: channels,
            channels_out: channels,
            kernel,
            stride,
            groups: channels,
        }
    }
}

/// A convolution with bias.
///
/// The backend `flex` has kernels of its own for depthwise ones, and multiplies matrices without
/// a copy for those of size 1 x 1, so that nothing would be won by doing it here.
#[derive(Module, Debug)]
struct ConvBlock {
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
    padding: usize,
    groups: usize,
}

impl ConvBlock {
    /// Without an activation.
    fn convolve(&self, x: Tensor<4>) -> Tensor<4> {
        let options = ConvOptions::new(
            [self.stride, self.stride],
            [self.padding, self.padding],
            [1, 1],
            self.groups,
        );
        conv2d(x, self.weight.clone(), Some(self.bias.clone()), options)
    }

    /// With `min(max(x, 0), 6)`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.convolve(x).clamp(0.0, 6.0)
    }
}

/// Expansion to many channels, a depthwise convolution there, and projection back.
#[derive(Module, Debug)]
struct InvertedResidual {
    expand: Option<ConvBlock>,
    depthwise: ConvBlock,
    project: ConvBlock,
    has_residual: bool,
}

impl InvertedResidual {
    fn load(
        reader: &mut WeightReader<'_>,
        names: &BlockNames,
        stage: &Stage,
        channels: usize,
        stride: usize,
    ) -> Self {
        let hidden = channels * stage.expansion;
        let expand = if stage.expansion == 1 {
            None
        } else {
            Some(reader.conv(&names.expand, ConvSize::dense(channels, hidden, 1, 1)))
        };
        Self {
            expand,
            depthwise: reader.conv(
                &names.depthwise,
                ConvSize::depthwise(hidden, stage.kernel, stride),
            ),
            project: reader.conv(
                &names.project,
                ConvSize::dense(hidden, stage.channels, 1, 1),
            ),
            has_residual: stride == 1 && channels == stage.channels,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let hidden = match &self.expand {
            Some(expand) => expand.forward(x.clone()),
            None => x.clone(),
        };
        let y = self.project.convolve(self.depthwise.forward(hidden));
        // The fresh tensor stands first, since an addition may reuse the memory of that one.
        if self.has_residual { y + x } else { y }
    }
}

/// Takes entries out of a state dict and keeps account of them.
///
/// A missing entry reads as zeros; [`finish`](Self::finish) refuses the network then, with all
/// that is wrong at once.
struct WeightReader<'a> {
    left: BTreeMap<&'a str, &'a TensorData>,
    report: LoadReport,
    /// Name and reason of the first entry that cannot be used.
    unusable: Option<(String, String)>,
    epsilon: f64,
    padding: Padding,
    device: &'a Device,
}

impl<'a> WeightReader<'a> {
    fn new(weights: &'a StateDict, epsilon: f64, padding: Padding, device: &'a Device) -> Self {
        Self {
            left: weights
                .iter()
                .map(|(name, data)| (name.as_str(), data))
                .collect(),
            report: LoadReport::default(),
            unusable: None,
            epsilon,
            padding,
            device,
        }
    }

    /// A convolution with its batch normalization:
    ///
    /// ```text
    /// γ (W * x − μ) / √(σ² + ε) + β  =  (s W) * x + (β − s μ),   s = γ / √(σ² + ε)
    /// ```
    fn conv(&mut self, names: &ConvNames, size: ConvSize) -> ConvBlock {
        let ConvSize {
            channels_in,
            channels_out,
            kernel,
            stride,
            groups,
        } = size;
        let n_inputs = channels_in / groups;
        let published = [channels_out, n_inputs, kernel, kernel];
        let mut weight = self.take(format!("{}.weight", names.conv), &published);
        let gamma = self.take(format!("{}.weight", names.norm), &[channels_out]);
        let beta = self.take(format!("{}.bias", names.norm), &[channels_out]);
        let mean = self.take(format!("{}.running_mean", names.norm), &[channels_out]);
        let variance_name = format!("{}.running_var", names.norm);
        let variance = self.take(variance_name.clone(), &[channels_out]);
        // A counter of PyTorch's that plays no role once the statistics are fixed.
        let counter = format!("{}.num_batches_tracked", names.norm);
        self.left.remove(counter.as_str());
        if let Some(negative) = variance.iter().find(|&&value| value < 0.0) {
            self.refuse(&variance_name, format!("holds the variance {negative}"));
        }

        let n_weights = n_inputs * kernel * kernel;
        let mut bias = Vec::with_capacity(channels_out);
        for (channel, kernels) in weight.chunks_exact_mut(n_weights).enumerate() {
            let scale = gamma[channel] / (variance[channel] + self.epsilon).sqrt();
            for value in kernels {
                *value *= scale;
            }
            bias.push(beta[channel] - scale * mean[channel]);
        }

        // At stride 2 and an even size, SAME pads one less at the beginning than at the end. A
        // row and a column of zeros before the kernel shift it by one, so that the symmetric
        // padding of the larger kernel does the same, and no padded copy of the input is needed.
        let is_shifted = matches!(self.padding, Padding::Same) && stride == 2 && kernel > 1;
        let (weight, side) = if is_shifted {
            (with_leading_zeros(&weight, kernel), kernel + 1)
        } else {
            (weight, kernel)
        };
        let shape = [channels_out, n_inputs, side, side];
        ConvBlock {
            weight: Tensor::from_data(TensorData::new(weight, shape), self.device),
            bias: Tensor::from_data(TensorData::new(bias, [channels_out]), self.device),
            stride,
            padding: kernel / 2,
            groups,
        }
    }

    /// Weight `[d_input, d_output]` and bias of a linear layer.
    fn linear(&mut self, name: &str, d_input: usize, d_output: usize) -> (Tensor<2>, Tensor<1>) {
        let published = self.take(format!("{name}.weight"), &[d_output, d_input]);
        let bias = self.take(format!("{name}.bias"), &[d_output]);
        // PyTorch stores it transposed; a copy here spares every later product the stride.
        let mut weight = Vec::with_capacity(published.len());
        for input in 0..d_input {
            for output in 0..d_output {
                weight.push(published[output * d_input + input]);
            }
        }
        (
            Tensor::from_data(TensorData::new(weight, [d_input, d_output]), self.device),
            Tensor::from_data(TensorData::new(bias, [d_output]), self.device),
        )
    }

    /// The values of an entry, row-major; as many zeros if it cannot be used.
    fn take(&mut self, name: String, expected: &[usize]) -> Vec<f64> {
        let n_values = expected.iter().product();
        let Some(data) = self.left.remove(name.as_str()) else {
            self.report.missing.push(name);
            return vec![0.0; n_values];
        };
        let found = data.shape().to_vec();
        if found != expected {
            self.report.mismatched.push(ShapeMismatch {
                name,
                expected: expected.to_vec(),
                found,
            });
            return vec![0.0; n_values];
        }
        if !data.dtype().is_float() {
            self.refuse(&name, format!("is of type {:?}", data.dtype()));
            return vec![0.0; n_values];
        }
        let values = vec_f64(data.clone());
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let value = values[at];
            self.refuse(&name, format!("holds {value} as its value {at}"));
        }
        self.report.applied.push(name);
        values
    }

    fn refuse(&mut self, name: &str, reason: String) {
        if self.unusable.is_none() {
            self.unusable = Some((name.to_owned(), reason));
        }
    }

    /// `Err` unless every entry was taken and could be used.
    fn finish(mut self, architecture: ImageArchitecture) -> Result<(), ImageWeightsError> {
        self.report.unexpected = self.left.keys().map(|&name| name.to_owned()).collect();
        if !self.report.is_complete() {
            return Err(ImageWeightsError::Names {
                architecture,
                report: self.report,
            });
        }
        match self.unusable {
            None => Ok(()),
            Some((name, reason)) => Err(ImageWeightsError::Value {
                architecture,
                name,
                reason,
            }),
        }
    }
}

/// Square kernels of size `kernel` with a row and a column of zeros before each.
fn with_leading_zeros(weight: &[f64], kernel: usize) -> Vec<f64> {
    let side = kernel + 1;
    let n_kernels = weight.len() / (kernel * kernel);
    let mut padded = Vec::with_capacity(n_kernels * side * side);
    for plane in weight.chunks_exact(kernel * kernel) {
        padded.resize(padded.len() + side, 0.0);
        for row in plane.chunks_exact(kernel) {
            padded.push(0.0);
            padded.extend_from_slice(row);
        }
    }
    padded
}

/// One value a color channel, as `[1, 3, 1, 1]`.
fn per_channel(values: [f64; 3], device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values.to_vec(), [1usize, 3, 1, 1]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [(&str, &[usize]); 5] = [
        ("c.weight", &[2, 1, 3, 3]),
        ("n.weight", &[2]),
        ("n.bias", &[2]),
        ("n.running_mean", &[2]),
        ("n.running_var", &[2]),
    ];

    /// A depthwise convolution of two channels with normalization; all values are positive.
    fn entries() -> StateDict {
        let mut dict = StateDict::new();
        for (place, (name, shape)) in NAMES.into_iter().enumerate() {
            let n_values: usize = shape.iter().product();
            let values: Vec<f32> = (0..n_values)
                .map(|at| 0.25 + 0.125 * ((at * 5 + place) % 7) as f32)
                .collect();
            dict.insert(name.to_owned(), TensorData::new(values, shape.to_vec()));
        }
        dict
    }

    fn load(dict: &StateDict, padding: Padding) -> Result<ConvBlock, ImageWeightsError> {
        let device = Device::default();
        let mut reader = WeightReader::new(dict, 1e-3, padding, &device);
        let names = ConvNames::new("c", "n");
        let block = reader.conv(&names, ConvSize::depthwise(2, 3, 2));
        reader.finish(ImageArchitecture::MobileNetV2)?;
        Ok(block)
    }

    fn message(dict: &StateDict) -> String {
        load(dict, Padding::Symmetric).unwrap_err().to_string()
    }

    fn host<const D: usize>(x: Tensor<D>) -> Vec<f64> {
        vec_f64(x.into_data())
    }

    fn image() -> Tensor<4> {
        let pixels: Vec<f32> = (0..2 * 6 * 6).map(|at| ((at * 11) % 17) as f32).collect();
        Tensor::from_data(
            TensorData::new(pixels, [1usize, 2, 6, 6]),
            &Device::default(),
        )
    }

    /// Convolution with explicit padding at begin and end, then normalization.
    fn unfolded(dict: &StateDict, begin: usize, end: usize) -> Vec<f64> {
        let device = Device::default();
        let weight = Tensor::<4>::from_data(dict["c.weight"].clone(), &device);
        let options =
            ConvOptions::new_with_padding([2, 2], [(begin, end), (begin, end)], [1, 1], 2);
        let y = conv2d(image(), weight, None, options);
        let [_, channels, height, width] = y.dims();
        let part = |name: &str| vec_f64(dict[name].clone());
        let (gamma, beta) = (part("n.weight"), part("n.bias"));
        let (mean, variance) = (part("n.running_mean"), part("n.running_var"));
        let mut y = host(y);
        for channel in 0..channels {
            for value in &mut y[channel * height * width..(channel + 1) * height * width] {
                let standard = (*value - mean[channel]) / (variance[channel] + 1e-3).sqrt();
                *value = gamma[channel] * standard + beta[channel];
            }
        }
        y
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            // Sums of nine products in single precision.
            assert!(
                (found - expected).abs() < 1e-5 * expected.abs().max(1.0),
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn a_folded_normalization_is_the_normalization_after_the_convolution() {
        let dict = entries();
        let block = load(&dict, Padding::Symmetric).unwrap();
        assert_close(&host(block.convolve(image())), &unfolded(&dict, 1, 1));
    }

    #[test]
    fn a_shifted_kernel_is_padding_at_the_end_only() {
        let dict = entries();
        let block = load(&dict, Padding::Same).unwrap();
        assert_eq!(block.weight.dims(), [2, 1, 4, 4]);
        assert_close(&host(block.convolve(image())), &unfolded(&dict, 0, 1));
    }

    #[test]
    fn kernels_get_their_zeros_before_them() {
        let padded = with_leading_zeros(&[1.0, 2.0], 1);
        assert_eq!(padded, [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0]);
    }

    #[test]
    fn an_activation_stays_within_zero_and_six() {
        let block = load(&entries(), Padding::Symmetric).unwrap();
        let y = host(block.forward(image() - 8.0));
        assert!(y.iter().all(|value| (0.0..=6.0).contains(value)));
        assert!(y.contains(&0.0) && y.contains(&6.0));
    }

    #[test]
    fn a_renamed_entry_is_named_under_both_names() {
        let mut dict = entries();
        let data = dict.remove("n.running_mean").unwrap();
        dict.insert("n.mean".to_owned(), data);
        let message = message(&dict);
        assert!(
            message.contains("first missing: `n.running_mean`"),
            "{message}"
        );
        assert!(message.contains("first unexpected: `n.mean`"), "{message}");
    }

    #[test]
    fn an_entry_of_another_shape_is_named_with_both_shapes() {
        let mut dict = entries();
        dict.insert(
            "n.bias".to_owned(),
            TensorData::new(vec![0f32; 3], [3usize]),
        );
        let message = message(&dict);
        assert!(
            message.contains("`n.bias` has shape [3], expected [2]"),
            "{message}"
        );
    }

    #[test]
    fn a_value_that_is_not_finite_or_a_negative_variance_is_refused() {
        let mut dict = entries();
        let values = vec![1f32, f32::NAN];
        dict.insert("n.bias".to_owned(), TensorData::new(values, [2usize]));
        assert!(message(&dict).starts_with("`n.bias` of mobilenet_v2 holds NaN as its value 1"));
        let mut dict = entries();
        let values = vec![1f32, -0.5];
        dict.insert(
            "n.running_var".to_owned(),
            TensorData::new(values, [2usize]),
        );
        assert!(message(&dict).contains("`n.running_var` of mobilenet_v2 holds the variance -0.5"));
    }

    #[test]
    fn a_counter_of_batches_is_not_used() {
        let mut dict = entries();
        dict.insert(
            "n.num_batches_tracked".to_owned(),
            TensorData::new(vec![7i64], Vec::<usize>::new()),
        );
        assert!(load(&dict, Padding::Symmetric).is_ok());
    }

    #[test]
    #[should_panic(expected = "multiples of 32")]
    fn a_size_that_the_strides_do_not_divide_is_refused() {
        let device = Device::default();
        let block = load(&entries(), Padding::Symmetric).unwrap();
        let encoder = ImageEncoder {
            stem: block.clone(),
            blocks: Vec::new(),
            head: block,
            classifier_weight: Tensor::zeros([2, 2], &device),
            classifier_bias: Tensor::zeros([2], &device),
            pixel_mean: per_channel([0.0; 3], &device),
            pixel_deviation: per_channel([1.0; 3], &device),
        };
        let _ = encoder.features(Tensor::zeros([1, 3, 48, 64], &device));
    }
}
