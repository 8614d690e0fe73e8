//! What the sentiment model reads.

use burn::tensor::{Bool, Device, Tensor};
use meltr_core::on_tape_of;

use crate::univl_batch::UniVlBatch;

/// Feature vectors over time with their padding.
#[derive(Debug, Clone)]
pub struct FeatureSequence {
    /// Features, `[B, S, K]`, zero where padded.
    pub values: Tensor<3>,
    /// Padding, `[B, S]`, true = padding.
    pub pad: Tensor<2, Bool>,
}

impl FeatureSequence {
    /// The same features on the tape of `device` if it has one, off it otherwise. Copies no data.
    #[must_use]
    pub fn with_autodiff_of(self, device: &Device) -> Self {
        Self {
            values: on_tape_of(self.values, device),
            pad: on_tape_of(self.pad, device),
        }
    }
}

/// Utterances of a batch: words, video, audio and sentiment at equal positions.
///
/// Padding flags are true where there is padding.
#[derive(Debug, Clone)]
pub struct UniVlSentimentBatch {
    /// Words and video, clean and masked; the caption is the text itself. A set without features
    /// of the video has one padded frame.
    pub univl: UniVlBatch,
    /// Features of the text beside its words, `[B, n, Dt]`, if the set has them; one vector an
    /// utterance is `n = 1`.
    pub text_features: Option<FeatureSequence>,
    /// Acoustic features, `[B, A, Da]`, if the set has them.
    pub audio: Option<FeatureSequence>,
    /// Sentiment in `[-3, 3]`, `B` numbers.
    pub labels: Vec<f32>,
}

impl UniVlSentimentBatch {
    /// Number of utterances `B`.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.labels.len()
    }

    /// The same batch on the tape of `device` if it has one, off it otherwise. Copies no data.
    #[must_use]
    pub fn with_autodiff_of(self, device: &Device) -> Self {
        let moved = |features: FeatureSequence| features.with_autodiff_of(device);
        Self {
            univl: self.univl.with_autodiff_of(device),
            text_features: self.text_features.map(moved),
            audio: self.audio.map(moved),
            labels: self.labels,
        }
    }
}
