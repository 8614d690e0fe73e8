//! METEOR 1.5 for English: words aligned exactly, by stem, by synonym and by paraphrase.

mod aligner;
mod data;
mod error;
mod keys;
mod matcher;
mod normalizer;
mod paraphrases;
mod score;
mod scorer;
mod synonyms;
mod words;

pub use data::MeteorData;
pub use error::MeteorError;
pub use score::{MeteorModule, MeteorSegment};
pub use scorer::Meteor;
