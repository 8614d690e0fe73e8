//! Metrics: pure functions of what was predicted and what is right.
//!
//! Retrieval ([`RetrievalMetrics`] under a named [`TiePolicy`], [`RankedQueries`]), captions
//! ([`CaptionCorpus`], [`PtbTokenizer`]), sentiment ([`SentimentMetrics`]) and answers
//! ([`AnswerAccuracy`]). What a metric is not defined on is a [`MetricError`] that names the place;
//! nothing is dropped.

mod accuracy;
mod bleu;
mod captions;
mod cider;
mod error;
mod meteor;
mod ptb_tokenizer;
mod released_retrieval;
mod retrieval;
mod rouge;
mod sentiment;
mod tokens;

pub use accuracy::{AnswerAccuracy, UnknownAnswers};
pub use captions::{
    CaptionCorpus, CaptionItem, CaptionMetrics, CaptionScores, Scored, Tokenization, score_captions,
};
pub use error::MetricError;
pub use meteor::{Meteor, MeteorData, MeteorError, MeteorModule, MeteorSegment};
pub use ptb_tokenizer::PtbTokenizer;
pub use released_retrieval::{ReleasedAllInOneRetrieval, ReleasedUniVlRetrieval};
pub use retrieval::{RankCounts, RankedQueries, RetrievalMetrics, TiePolicy};
pub use sentiment::{ClassMetrics, SentimentClassMetrics, SentimentMetrics};
