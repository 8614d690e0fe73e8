//! Data sets as samples: each gives the items of its splits to the collators.

mod caption_targets;
mod emoji_pairs;
mod emoji_sentiment;
mod manifest_pairs;
mod mosi_set;
mod msrvtt_pairs;
mod own_utterances;
mod restricted;
mod selection;
mod sentiment_batch;
mod youcook2;
mod youcook2_small;

pub use caption_targets::CaptionTargets;
pub use emoji_pairs::EmojiPairs;
pub use emoji_sentiment::EmojiSentimentSettings;
pub use manifest_pairs::{ManifestPairs, ManifestSettings};
pub use mosi_set::{Modalities, MosiSettings, SentimentSample, SentimentSet};
pub use msrvtt_pairs::{MsrvttFiles, MsrvttPairs, MsrvttSettings, MsrvttSplit, SentenceUse};
pub use own_utterances::OwnUtterance;
pub use restricted::RestrictedVocabulary;
pub use sentiment_batch::{SentimentBatch, SentimentCollator};
pub use youcook2::{TextRole, YouCook2, YouCook2Files, YouCook2Settings};
pub use youcook2_small::{FrameEncoder, ItemUnit, YouCook2Small, YouCook2SmallSettings};
