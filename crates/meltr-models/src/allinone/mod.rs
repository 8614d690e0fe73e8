//! All-in-one: one transformer over words and patches, apart or together, heads and losses.

mod batch;
mod config;
mod heads;
mod losses;
mod model;
mod rolling;
mod vit;

pub use batch::{AllInOneBatch, OptionTexts};
pub use config::{AllInOneConfig, AllInOneTask};
pub use losses::{AllInOneLoss, AllInOneTrace};
pub use model::{AllInOne, JointFeatures};
