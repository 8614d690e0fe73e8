//! Video-language backbones with all of their pretext losses, under published parameter names.
//!
//! In reading order: [`UniVlConfig`] (sizes), [`UniVl`] (the network), [`UniVlBatch`] (what it
//! reads), [`UniVlLoss`] (its eight losses). Every linear map runs on a flattened 2-D input.
//! [`ImageEncoder`] turns frames into features.

mod attention;
mod bert;
mod conv_block;
mod cross;
mod decoder;
mod efficientnet_lite0;
mod heads;
mod layers;
mod mobilenet_v2;
mod univl;
mod univl_batch;
mod univl_config;
mod univl_losses;

pub use conv_block::{ImageArchitecture, ImageEncoder, ImageWeightsError};
pub use cross::{CrossEncoder, CrossOutput};
pub use univl::{Encoded, SimilarityKind, UniVl};
pub use univl_batch::UniVlBatch;
pub use univl_config::UniVlConfig;
pub use univl_losses::{UniVlLoss, UniVlTrace};
