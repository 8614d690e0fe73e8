//! Target tasks on the backbones: batches, losses, decoding and metrics.
//!
//! In reading order: [`UniVlRetrieval`] (text-to-video retrieval on UniVL),
//! [`RetrievalMetrics`] (recall and ranks under a named [`TiePolicy`]), [`beam_search`] (captions),
//! [`ridge`] and [`linear_retrieval`] (the closed-form reference that a network has to beat),
//! [`matching_start`] (a start of the network from that closed form).

mod beam_search;
mod clip_vectors;
mod error;
mod linear_reference;
mod matching_start;
mod retrieval;
mod retrieval_metrics;
mod univl_input;

pub use beam_search::{BeamOutput, BeamSearch, Hypothesis, beam_search};
pub use clip_vectors::{mean_frames, mean_word_vectors};
pub use error::TaskError;
pub use linear_reference::{LinearRetrieval, linear_retrieval, ridge};
pub use matching_start::{MatchingStart, matching_start};
pub use retrieval::{RetrievalConfig, UniVlItems, UniVlRetrieval};
pub use retrieval_metrics::{MetricError, RetrievalMetrics, TiePolicy};
pub use univl_input::univl_batch;
