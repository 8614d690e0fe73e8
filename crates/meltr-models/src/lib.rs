//! Video-language backbones with all of their pretext losses, under published parameter names.
//!
//! In reading order: [`UniVlConfig`] (sizes), [`UniVl`] (the network), [`UniVlBatch`] (what it
//! reads), [`UniVlLoss`] (its eight losses). Every linear map runs on a flattened 2-D input.
//! [`ImageEncoder`] turns frames into features; [`BertModel`] is BERT alone.
//! [`AllInOne`] reads words and raw frames with one transformer. [`Violet`] reads raw frames; [`DallEEncoder`] makes its visual targets.

mod allinone;
mod attention;
mod bert;
mod bert_model;
mod conv_block;
mod cross;
mod decoder;
mod efficientnet_lite0;
mod heads;
mod layers;
mod mobilenet_v2;
mod sentiment_batch;
mod univl;
mod univl_batch;
mod univl_config;
mod univl_losses;
mod univl_sentiment;
mod violet;
mod weighted_sum;

pub use allinone::{
    AllInOne, AllInOneBatch, AllInOneConfig, AllInOneLoss, AllInOneTask, AllInOneTrace,
    JointFeatures, OptionTexts,
};
pub use bert_model::{BertConfig, BertModel};
pub use conv_block::{ImageArchitecture, ImageEncoder, ImageWeightsError};
pub use cross::{CrossEncoder, CrossOutput};
pub use decoder::DecoderCache;
pub use sentiment_batch::{FeatureSequence, UniVlSentimentBatch};
pub use univl::{Encoded, SimilarityKind, UniVl};
pub use univl_batch::UniVlBatch;
pub use univl_config::{PaddedTargets, UniVlConfig};
pub use univl_losses::{UniVlLoss, UniVlTrace};
pub use univl_sentiment::{
    FeatureWidths, SentimentLoss, Shortcut, UniVlSentiment, UniVlSentimentConfig,
};
pub use violet::{
    DallEEncoder, DallEWeightsError, PrimaryFrames, SwinConfig, Violet, VioletBatch, VioletConfig,
    VioletLoss, VioletTask, VioletTrace, WindowBias,
};
