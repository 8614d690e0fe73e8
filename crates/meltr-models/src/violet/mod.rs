//! VIOLET: a video Swin transformer, a BERT cross encoder over video and text, heads and losses.

mod batch;
mod config;
mod dall_e;
mod frame_encoder;
mod heads;
mod losses;
mod model;
mod swin;

pub use batch::VioletBatch;
pub use config::{PrimaryFrames, SwinConfig, VioletConfig, VioletTask};
pub use dall_e::{DallEEncoder, DallEWeightsError};
pub use losses::{VioletLoss, VioletTrace};
pub use model::Violet;
pub use swin::WindowBias;
