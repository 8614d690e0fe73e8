//! Target tasks on the backbones: batches, losses, decoding and metrics.
//!
//! In reading order: [`UniVlRetrieval`] (text-to-video retrieval on UniVL),
//! [`RetrievalMetrics`] (recall and ranks under a named [`TiePolicy`]), [`UniVlCaptioning`]
//! (captions on UniVL by [`beam_search_cached`]; [`beam_search`] is the published form),
//! [`ridge`] and [`linear_retrieval`] (the closed-form reference that a network has to beat),
//! [`matching_start`] (a start of the network from that closed form), [`violet_start`] and
//! [`all_in_one_start`] (the same for networks on raw frames).

mod all_in_one_start;
mod allinone;
mod beam_search;
mod captioning;
mod clip_vectors;
mod error;
mod linear_fit;
mod linear_reference;
mod linear_sentiment;
mod matching_start;
pub mod metric;
mod pair_scores;
mod pixel_input;
mod principal_axes;
mod retrieval;
mod sentiment;
mod shares;
mod shuffled_items;
mod start_examples;
mod univl_input;
mod violet;
mod violet_start;

pub use all_in_one_start::all_in_one_start;
pub use allinone::{
    AllInOneFineTune, AllInOneItems, AllInOneTaskConfig, PatchOrder, all_in_one_batch,
    all_in_one_task,
};
pub use beam_search::{BeamOutput, BeamSearch, Hypothesis, beam_search, beam_search_cached};
pub use captioning::{CaptionBeam, CaptionConfig, ReferenceText, UniVlCaptioning};
pub use clip_vectors::{mean_frames, mean_word_vectors};
pub use error::TaskError;
pub use linear_reference::{LinearPairs, LinearRetrieval, linear_retrieval, nearest_texts, ridge};
pub use linear_sentiment::{
    LinearSentiment, LinearSentimentConfig, LinearSentimentError, UtterancePlace, context_means,
    linear_sentiment,
};
pub use matching_start::{MatchingItems, MatchingStart, matching_start};
pub use metric::{MetricError, RetrievalMetrics, TiePolicy};
pub use pixel_input::violet_batch;
pub use principal_axes::principal_axes;
pub use retrieval::{RetrievalConfig, UniVlItems, UniVlRetrieval};
pub use sentiment::{
    SentimentConfig, UniVlSentimentTask, UniVlUtterances, linear_start, univl_sentiment_batch,
};
pub use univl_input::{OwnVideo, univl_batch};
pub use violet::{
    BlindReference, GivenAnswer, VioletFineTune, VioletItems, VioletTaskConfig, blind_references,
    violet_task,
};
pub use violet_start::violet_start;
