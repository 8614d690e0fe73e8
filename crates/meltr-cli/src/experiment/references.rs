//! What a comparison is read beside: the untrained network and a linear model.

use meltr_core::FineTuneTask;
use meltr_data::{DataError, Draw, VideoTextSet};
use meltr_tasks::metric::{CaptionItem, Tokenization, score_captions};
use meltr_tasks::{LinearPairs, linear_retrieval, mean_frames, mean_word_vectors, nearest_texts};
use meltr_train::report::ReferenceRow;
use ndarray::Array2;

use super::prepared::OnPairs;
use super::{Experiment, Prepared};
use crate::error::CliError;

/// Weight of the penalty of the linear reference where the experiment does not start from it.
const REFERENCE_RIDGE: f64 = 3000.0;

impl Experiment {
    /// Rows of a comparison that are no runs.
    pub(crate) fn references(&self, prepared: &Prepared) -> Result<Vec<ReferenceRow>, CliError> {
        let split = self.compared_split.as_str();
        let mut rows = Vec::new();
        match prepared {
            Prepared::UniVlRetrieval(prepared) => {
                let OnPairs {
                    task,
                    model,
                    vectors,
                } = &**prepared;
                let items = (task.set(), task.train_indices());
                rows.extend(self.linear_retrieval(items, vectors.as_ref())?);
                rows.push(untrained(task, model, split)?);
            }
            Prepared::UniVlCaptioning(prepared) => {
                let OnPairs {
                    task,
                    model,
                    vectors,
                } = &**prepared;
                let items = (task.set(), task.train_indices());
                rows.extend(self.nearest_captions(items, vectors.as_ref())?);
                rows.push(untrained(task, model, split)?);
            }
            Prepared::UniVlSentiment(task, model) => {
                let fit = task.fit_linear(&self.model.linear)?;
                rows.push(ReferenceRow {
                    name: "linear reference".to_owned(),
                    metrics: task.evaluate_linear(&fit, split)?,
                    note: format!(
                        "ridge regression on the standardized mean features of an item, with \
                         its neighbors if the task has a context, its penalty chosen by leaving \
                         out videos or clips of {}; closed \
                         form, so there are no seeds",
                        self.task.train_splits().join(" + ")
                    ),
                });
                rows.push(untrained(&**task, &**model, split)?);
            }
            Prepared::Violet(task, model) => {
                let blind = task.blind_references(split)?;
                rows.extend(blind.into_iter().map(super::pixels::blind_row));
                rows.push(untrained(&**task, &**model, split)?);
            }
            Prepared::AllInOne(task, model) => {
                let blind = task.blind_references(split)?;
                rows.extend(blind.into_iter().map(super::pixels::blind_row));
                rows.push(untrained(&**task, &**model, split)?);
            }
        }
        if let Some(published) = &self.published
            && !published.metrics.is_empty()
        {
            rows.push(ReferenceRow {
                name: "published".to_owned(),
                metrics: published.metrics.clone(),
                note: published.source.clone(),
            });
        }
        Ok(rows)
    }

    /// Vectors of videos and texts of all items that a linear reference needs; `None` if the
    /// experiment names no word vectors.
    fn linear_pairs(
        &self,
        (set, train): (&dyn VideoTextSet, &[usize]),
        vectors: Option<&Array2<f32>>,
    ) -> Result<Option<LinearPairs>, CliError> {
        let Some(vectors) = vectors else {
            return Ok(None);
        };
        let vectors = vectors.mapv(f64::from);
        let test = set.split(&self.compared_split)?;
        let items: Vec<usize> = train.iter().chain(&test).copied().collect();
        let width = self
            .data
            .batches
            .get("video_dim")
            .and_then(toml::Value::as_integer)
            .and_then(|width| usize::try_from(width).ok())
            .unwrap_or_else(|| set.feature_width());
        Ok(Some(LinearPairs {
            videos: mean_frames(set, width, &items)?,
            texts: mean_word_vectors(set, &vectors, &items)?,
            train: (0..train.len()).collect(),
            test: (train.len()..items.len()).collect(),
        }))
    }

    /// Retrieval by ridge regression from a video's mean frame to the mean vector of its words.
    ///
    /// The frames are normalized as the backbone does it first of all. Nothing is random, and the
    /// regression sees the items that the runs are trained on.
    fn linear_retrieval(
        &self,
        (set, train): (&dyn VideoTextSet, &[usize]),
        vectors: Option<&Array2<f32>>,
    ) -> Result<Option<ReferenceRow>, CliError> {
        let Some(pairs) = self.linear_pairs((set, train), vectors)? else {
            return Ok(None);
        };
        let ridge = self.reference_ridge();
        let result = linear_retrieval(&pairs, ridge).map_err(CliError::failed)?;
        let mut metrics = result.text_to_video.named("text_to_video");
        metrics.extend(result.video_to_text.named("video_to_text"));
        Ok(Some(ReferenceRow {
            name: "linear reference".to_owned(),
            metrics,
            note: format!(
                "ridge regression (penalty {ridge}) from the mean normalized frame of a video to \
                 the mean vector of the words of its text, fitted on {}; closed form, so there are \
                 no seeds",
                self.task.train_splits().join(" + ")
            ),
        }))
    }

    /// The caption of the training item whose text is nearest to what the regression expects.
    fn nearest_captions(
        &self,
        (set, train): (&dyn VideoTextSet, &[usize]),
        vectors: Option<&Array2<f32>>,
    ) -> Result<Option<ReferenceRow>, CliError> {
        let Some(pairs) = self.linear_pairs((set, train), vectors)? else {
            return Ok(None);
        };
        let ridge = self.reference_ridge();
        let nearest = nearest_texts(&pairs, ridge);
        let test = set.split(&self.compared_split)?;
        let items = test
            .iter()
            .zip(nearest)
            .map(|(&item, nearest)| {
                let caption = caption_of(set, train[nearest])?;
                Ok(CaptionItem {
                    id: set.item_name(item),
                    hypothesis: caption,
                    references: set.references(item),
                })
            })
            .collect::<Result<Vec<_>, DataError>>()?;
        Ok(Some(ReferenceRow {
            name: "linear reference".to_owned(),
            metrics: score_captions(&items, Tokenization::Whitespace)
                .map_err(CliError::failed)?
                .corpus
                .named(),
            note: format!(
                "the caption of the item of {} whose mean word vector is nearest to what ridge \
                 regression (penalty {ridge}) expects from the video; closed form, so there are no \
                 seeds",
                self.task.train_splits().join(" + ")
            ),
        }))
    }

    fn reference_ridge(&self) -> f64 {
        if self.model.start == super::model::ModelStart::Matching {
            self.model.matching.ridge
        } else {
            REFERENCE_RIDGE
        }
    }
}

fn caption_of(set: &dyn VideoTextSet, item: usize) -> Result<String, DataError> {
    let sample = set.sample(item, Draw::Evaluation)?;
    Ok(sample.caption.unwrap_or(sample.text))
}

/// The network as it starts, before the first step.
fn untrained<T: FineTuneTask>(
    task: &T,
    model: &T::Model,
    split: &str,
) -> Result<ReferenceRow, CliError>
where
    CliError: From<T::Error>,
{
    Ok(ReferenceRow {
        name: "untrained".to_owned(),
        metrics: task.evaluate(model, split)?,
        note: "the network of the experiment's own seed before the first step".to_owned(),
    })
}
