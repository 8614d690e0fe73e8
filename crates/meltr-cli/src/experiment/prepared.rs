//! A task with its model, whatever the task, and what is done with it.

use meltr_core::FineTuneTask;
use meltr_models::{AllInOne, UniVl, UniVlSentiment, Violet};
use meltr_tasks::{
    AllInOneFineTune, UniVlCaptioning, UniVlRetrieval, UniVlSentimentTask, VioletFineTune,
};
use ndarray::Array2;

use crate::error::CliError;

/// A task with its model, ready to train or evaluate.
pub(crate) enum Prepared {
    /// Text-to-video retrieval on UniVL.
    UniVlRetrieval(Box<OnPairs<UniVlRetrieval>>),
    /// Captioning on UniVL.
    UniVlCaptioning(Box<OnPairs<UniVlCaptioning>>),
    /// Sentiment on UniVL.
    UniVlSentiment(Box<UniVlSentimentTask>, Box<UniVlSentiment>),
    /// Any task of raw frames on VIOLET.
    Violet(Box<VioletFineTune>, Box<Violet>),
    /// Any task of raw frames on All-in-one.
    AllInOne(Box<AllInOneFineTune>, Box<AllInOne>),
}

/// A task on videos with texts.
pub(crate) struct OnPairs<T> {
    pub(crate) task: T,
    pub(crate) model: UniVl,
    /// Vectors of the words of the set, if there are any, by falling variance.
    pub(crate) vectors: Option<Array2<f32>>,
}

/// What is done with a task, the same for all of them.
pub(crate) trait Visit {
    /// What comes out.
    type Output;

    /// Does it.
    fn visit<T: FineTuneTask>(self, task: &T, model: T::Model) -> Result<Self::Output, CliError>
    where
        CliError: From<T::Error>;
}

impl Prepared {
    /// Hands task and model to `visitor`.
    pub(crate) fn visit<V: Visit>(self, visitor: V) -> Result<V::Output, CliError> {
        match self {
            Self::UniVlRetrieval(prepared) => visitor.visit(&prepared.task, prepared.model),
            Self::UniVlCaptioning(prepared) => visitor.visit(&prepared.task, prepared.model),
            Self::UniVlSentiment(task, model) => visitor.visit(&*task, *model),
            Self::Violet(task, model) => visitor.visit(&*task, *model),
            Self::AllInOne(task, model) => visitor.visit(&*task, *model),
        }
    }
}
