//! Tests of the public interface: agreement with the shared fixtures, and tasks end to end.

#[cfg(test)]
mod caption_metrics;
#[cfg(test)]
mod meteor;
#[cfg(test)]
mod retrieval_metrics;
#[cfg(test)]
mod sentiment_metrics;
#[cfg(test)]
mod support;
#[cfg(test)]
mod violet;
