//! MobileNetV2: its stages and torchvision's names for them.
//!
//! # References
//!
//! - Sandler, Howard, Zhu, Zhmoginov, Chen,
//!   [MobileNetV2: Inverted Residuals and Linear Bottlenecks](https://arxiv.org/abs/1801.04381),
//!   CVPR 2018.
//! - Names, epsilon and pixel statistics: `torchvision.models.mobilenet_v2`.

use crate::conv_block::{BlockNames, Blueprint, ConvNames, Padding, Stage};

const STAGES: [Stage; 7] = [
    stage(1, 16, 1, 1),
    stage(6, 24, 2, 2),
    stage(6, 32, 3, 2),
    stage(6, 64, 4, 2),
    stage(6, 96, 3, 1),
    stage(6, 160, 3, 2),
    stage(6, 320, 1, 1),
];

const fn stage(expansion: usize, channels: usize, n_blocks: usize, stride: usize) -> Stage {
    Stage {
        expansion,
        channels,
        n_blocks,
        stride,
        kernel: 3,
    }
}

pub(crate) fn blueprint() -> Blueprint {
    Blueprint {
        stages: &STAGES,
        stem: ConvNames::new("features.0.0", "features.0.1"),
        block_names,
        head: ConvNames::new("features.18.0", "features.18.1"),
        classifier: "classifier.1",
        epsilon: 1e-5,
        padding: Padding::Symmetric,
        pixel_mean: [0.485 * 255.0, 0.456 * 255.0, 0.406 * 255.0],
        pixel_deviation: [0.229 * 255.0, 0.224 * 255.0, 0.225 * 255.0],
    }
}

/// The parts of a block are numbered, and those after an absent expansion move up.
fn block_names(position: usize, stage: &Stage) -> BlockNames {
    let block = format!("features.{}.conv", position + 1);
    let depthwise = if stage.expansion == 1 { 0 } else { 1 };
    let activated =
        |part: usize| ConvNames::new(format!("{block}.{part}.0"), format!("{block}.{part}.1"));
    BlockNames {
        expand: activated(0),
        depthwise: activated(depthwise),
        project: ConvNames::new(
            format!("{block}.{}", depthwise + 1),
            format!("{block}.{}", depthwise + 2),
        ),
    }
}
