//! What `meltr bench meta-step` measures: UniVL on the embedded clips, and the steps on it.

use std::sync::Arc;

use burn::module::Module;
use burn::optim::{AdamConfig, ModuleOptimizer, decay::WeightDecayConfig};
use burn::tensor::Device;
use meltr_aid::{
    CentralDifference, HypergradientEstimator, Identity, Implicit, Products, Settings, audit,
};
use meltr_core::{Combiner, FineTuneTask, Pass, PlainSum, Regularizer, fit_to_sum, vec_f64};
use meltr_data::{
    ClipText, EmojiClips, EmojiPairs, FrameSampling, KeywordUse, VideoTextCollator, VideoTextSet,
    seed_for,
};
use meltr_models::{SimilarityKind, UniVl, UniVlConfig, UniVlLoss};
use meltr_tasks::{
    MatchingItems, MatchingStart, RetrievalConfig, TiePolicy, UniVlItems, UniVlRetrieval,
    matching_start,
};
use meltr_train::{
    BertAdamConfig, CombinerConfig, MeltrProblem, OuterConfig, Schedule, StartOfPhi,
};
use serde::{Deserialize, Serialize};

use super::timed;
use super::trainee::Trainee;
use crate::error::CliError;

/// An outer step follows so many inner steps (`K`).
pub(super) const OUTER_EVERY: usize = 3;

/// Texts and videos that are scored against each other at a time.
const CHUNK: usize = 64;

/// Batches that the steps take in turn.
const N_BATCHES: usize = 8;

/// Seed of everything random.
const SEED: u64 = 1;

/// Purposes of random numbers.
mod stream {
    pub(super) const MODEL: u64 = 0;
    pub(super) const ORDER: u64 = 1;
    pub(super) const BATCH: u64 = 2;
    pub(super) const PHI: u64 = 3;
    pub(super) const WARM_START: u64 = 4;
    pub(super) const DROPOUT: u64 = 5;
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Variant {
    /// All losses without a tape: the unit.
    Forward,
    /// An inner step on the sum of the losses.
    PlainInner,
    /// An inner step on the combination by the loss transformer.
    MeltrInner,
    /// An outer step by one forward pass that carries tangents: the default.
    OuterForwardMode,
    /// An outer step by a central difference: a plain quotient where its step is known and good,
    /// otherwise as many as it needs.
    OuterDifference,
    /// An outer step by a reverse pass for each loss.
    OuterReverse,
    /// [`OUTER_EVERY`] inner steps and one outer step; measured for its memory only.
    MeltrTraining,
}

impl Variant {
    /// Those that are timed, in the order of their numbers.
    pub(super) const TIMED: [Self; 6] = [
        Self::Forward,
        Self::PlainInner,
        Self::MeltrInner,
        Self::OuterForwardMode,
        Self::OuterDifference,
        Self::OuterReverse,
    ];

    /// All.
    pub(super) const ALL: [Self; 7] = [
        Self::Forward,
        Self::PlainInner,
        Self::MeltrInner,
        Self::OuterForwardMode,
        Self::OuterDifference,
        Self::OuterReverse,
        Self::MeltrTraining,
    ];

    /// Name in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::PlainInner => "plain_inner",
            Self::MeltrInner => "meltr_inner",
            Self::OuterForwardMode => "outer_forward_mode",
            Self::OuterDifference => "outer_difference",
            Self::OuterReverse => "outer_reverse",
            Self::MeltrTraining => "meltr_training",
        }
    }

    /// Name in tables.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Forward => "forward of all losses, no tape",
            Self::PlainInner => "inner step, plain sum",
            Self::MeltrInner => "inner step, MELTR",
            Self::OuterForwardMode => "outer step, forward mode",
            Self::OuterDifference => "outer step, central difference",
            Self::OuterReverse => "outer step, T reverse passes",
            Self::MeltrTraining => "MELTR training, inner and outer steps",
        }
    }
}

/// Sizes of the backbone, those of the experiment on the embedded clips.
pub(super) fn model_config(vocab_size: usize) -> UniVlConfig {
    UniVlConfig {
        d_model: 192,
        n_heads: 1,
        d_ff: 768,
        dropout: 0.1,
        ..UniVlConfig::mini(vocab_size, VIDEO_DIM)
    }
}

const VIDEO_DIM: usize = 512;

/// Tokens of a text and frames of a video of the embedded clips.
pub(super) const WORDS: usize = 20;
pub(super) const FRAMES: usize = 8;

/// The embedded clips as pairs.
pub(super) fn pairs(clips: EmojiClips) -> Arc<dyn VideoTextSet> {
    let text = ClipText {
        keywords: KeywordUse::Sampled,
    };
    Arc::new(EmojiPairs::new(clips, text))
}

/// How they become batches.
pub(super) fn collator() -> VideoTextCollator {
    VideoTextCollator {
        max_words: WORDS,
        max_frames: FRAMES,
        video_dim: VIDEO_DIM,
        mask_probability: 0.15,
        frame_sampling: FrameSampling::All,
        feature_noise: 0.0,
    }
}

/// Retrieval of them by the cross encoder, trained on the first `n_losses` losses, with `chunk`
/// texts and videos scored against each other at a time.
pub(super) fn retrieval(
    set: &Arc<dyn VideoTextSet>,
    n_losses: usize,
    batch_size: usize,
    chunk: usize,
    device: &Device,
) -> Result<UniVlRetrieval, CliError> {
    let config = RetrievalConfig {
        losses: losses(n_losses),
        primary: UniVlLoss::Align,
        similarity: SimilarityKind::Align,
        ties: TiePolicy::Average,
        chunk,
        batch_size,
        train_splits: vec!["train".to_owned(), "valid".to_owned()],
        outer_splits: Vec::new(),
    };
    let order_seed = seed_for(SEED, &[stream::ORDER]);
    let set = Arc::clone(set);
    Ok(UniVlRetrieval::new(
        set,
        collator(),
        config,
        order_seed,
        device,
    )?)
}

/// The first `n_losses` losses in published order.
pub(super) fn losses(n_losses: usize) -> Vec<UniVlLoss> {
    UniVlLoss::ALL.into_iter().take(n_losses).collect()
}

/// A combiner that is learned, with all that an outer step needs.
struct OuterLevel {
    combiner: Combiner,
    estimator: Implicit<Identity>,
    optimizer: ModuleOptimizer,
    settings: OuterConfig,
}

/// What one step took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) seconds: f64,
    /// Of outer steps.
    pub(super) passes: Option<Passes>,
}

/// Passes of the backbone in an outer step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passes {
    /// Forward passes without a tape.
    pub(super) forward: usize,
    /// Forward-and-backward passes.
    pub(super) backward: usize,
}

impl OuterLevel {
    fn new(combiner: Combiner, products: Products) -> Self {
        let settings = OuterConfig::default();
        let optimizer = AdamConfig::new()
            .with_beta_1(settings.beta_1 as f32)
            .with_beta_2(settings.beta_2 as f32)
            .with_epsilon(1e-8)
            .with_weight_decay(Some(WeightDecayConfig::new(settings.weight_decay as f32)))
            .init();
        Self {
            combiner: combiner.train(),
            estimator: Implicit::identity(Settings {
                products,
                without_direct: true,
                ..Settings::default()
            }),
            optimizer,
            settings,
        }
    }

    /// One outer step, as the fine-tuning loop takes it.
    fn step(
        &mut self,
        problem: &MeltrProblem<'_, UniVlRetrieval>,
        model: &UniVl,
    ) -> Result<Passes, CliError> {
        let hypergradient = self
            .estimator
            .estimate(problem, model, &self.combiner)
            .map_err(CliError::failed)?;
        let passes = Passes {
            forward: hypergradient.certificate.forward_passes,
            backward: hypergradient.certificate.backward_passes,
        };
        let hypergradient = hypergradient.gradient;
        let norm = hypergradient.norm();
        if !norm.is_finite() {
            return Err(CliError::Failed(format!(
                "the norm of the hypergradient is {norm}; it has to be finite"
            )));
        }
        let clip = self.settings.max_grad_norm / (norm + 1e-6);
        let clipped = if clip < 1.0 {
            hypergradient.scale(clip)
        } else {
            hypergradient
        };
        let gradients = clipped.to_gradients_params(&self.combiner);
        self.combiner = self.optimizer.step(
            self.settings.learning_rate,
            self.combiner.clone(),
            gradients,
        );
        Ok(passes)
    }

    /// Relative error of a hypergradient against the one by a reverse pass for each loss.
    fn audit(
        &self,
        problem: &MeltrProblem<'_, UniVlRetrieval>,
        model: &UniVl,
    ) -> Result<f64, CliError> {
        let mut estimator = self.estimator.clone();
        let hypergradient = estimator
            .estimate(problem, model, &self.combiner)
            .map_err(CliError::failed)?;
        let error =
            audit(problem, model, &self.combiner, &hypergradient).map_err(CliError::failed)?;
        error.ok_or_else(|| CliError::Failed("the problem has no scalars".to_owned()))
    }
}

/// Relative errors of the hypergradients of one round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Audit {
    pub(super) forward_mode: f64,
    pub(super) difference: f64,
}

/// Data, models and optimizers for one number of losses.
pub(super) struct Subject {
    device: Device,
    task: UniVlRetrieval,
    batches: Vec<UniVlItems>,
    plain: Trainee,
    meltr: Trainee,
    forward_mode: OuterLevel,
    difference: OuterLevel,
    reverse: OuterLevel,
}

impl Subject {
    /// Loads the embedded clips and builds everything on `device`, which has no tape.
    pub(super) fn new(
        n_losses: usize,
        batch_size: usize,
        start: StartOfPhi,
        device: &Device,
    ) -> Result<Self, CliError> {
        let clips = EmojiClips::embedded()?;
        let vectors = clips.token_embeddings().clone();
        let set = pairs(clips);
        let model = model_config(set.word_piece().vocab_size())
            .init(seed_for(SEED, &[stream::MODEL]), device)?;
        let task = retrieval(&set, n_losses, batch_size, CHUNK, device)?;
        let model = matching_start(
            &MatchingItems {
                set: &*set,
                train: task.train_indices(),
                word_vectors: vectors.view(),
            },
            model,
            &MatchingStart::default(),
            seed_for(SEED, &[stream::MODEL]),
        )?;
        let batch_seed = seed_for(SEED, &[stream::BATCH]);
        let batches = (0..N_BATCHES)
            .map(|index| task.batch(index, batch_seed))
            .collect::<Result<Vec<_>, _>>()?;

        let combiner = loss_transformer(&task, &model, &batches[0], start, device)?;
        let inner = BertAdamConfig {
            schedule: Schedule::None,
            learning_rate: 3e-5,
            ..BertAdamConfig::default()
        };
        let plain_sum = Combiner::Sum(PlainSum::new(n_losses));
        let difference = Products::CentralDifference(CentralDifference::default());
        Ok(Self {
            device: device.clone(),
            plain: Trainee::new(model.clone(), plain_sum, inner.clone())?,
            meltr: Trainee::new(model, combiner.clone(), inner)?,
            forward_mode: OuterLevel::new(combiner.clone(), Products::ForwardMode),
            difference: OuterLevel::new(combiner.clone(), difference),
            reverse: OuterLevel::new(combiner, Products::Reverse),
            task,
            batches,
        })
    }

    /// Takes one step; `round` fixes batches and dropout masks.
    pub(super) fn time(&mut self, variant: Variant, round: usize) -> Result<Taken, CliError> {
        let Self {
            device,
            task,
            batches,
            plain,
            meltr,
            forward_mode,
            difference,
            reverse,
        } = self;
        let (device, task, batches) = (&*device, &*task, batches.as_slice());
        let batch = &batches[round % N_BATCHES];
        let inner_pass = pass(round, 0);
        let problem = problem(task, batches, round);
        let (passes, seconds): (Option<Passes>, f64) = match variant {
            Variant::Forward => {
                let model = meltr.model.valid();
                timed(device, || {
                    drop(vec_f64(task.losses(&model, batch, inner_pass).into_data()));
                    Ok(None)
                })?
            }
            Variant::PlainInner => timed(device, || {
                plain
                    .step(|model| task.losses(model, batch, inner_pass))
                    .map(|_| None)
            })?,
            Variant::MeltrInner => timed(device, || {
                meltr
                    .step(|model| task.losses(model, batch, inner_pass))
                    .map(|_| None)
            })?,
            Variant::OuterForwardMode => timed(device, || {
                forward_mode.step(&problem, &meltr.model).map(Some)
            })?,
            Variant::OuterDifference => {
                timed(device, || difference.step(&problem, &meltr.model).map(Some))?
            }
            Variant::OuterReverse => {
                timed(device, || reverse.step(&problem, &meltr.model).map(Some))?
            }
            Variant::MeltrTraining => timed(device, || {
                for _ in 0..OUTER_EVERY {
                    meltr.step(|model| task.losses(model, batch, inner_pass))?;
                }
                forward_mode.step(&problem, &meltr.model).map(Some)
            })?,
        };
        Ok(Taken { seconds, passes })
    }

    /// Compares hypergradients with exact ones; changes nothing.
    pub(super) fn audit(&self, round: usize) -> Result<Audit, CliError> {
        let problem = problem(&self.task, &self.batches, round);
        let model = &self.meltr.model;
        Ok(Audit {
            forward_mode: self.forward_mode.audit(&problem, model)?,
            difference: self.difference.audit(&problem, model)?,
        })
    }
}

/// The loss transformer, off the tape.
fn loss_transformer(
    task: &UniVlRetrieval,
    model: &UniVl,
    batch: &UniVlItems,
    start: StartOfPhi,
    device: &Device,
) -> Result<Combiner, CliError> {
    let config = CombinerConfig::default();
    let transformer = config
        .loss_transformer(task.names().len())
        .init(seed_for(SEED, &[stream::PHI]), device)?;
    let transformer = match start {
        StartOfPhi::Random => transformer,
        StartOfPhi::Warm => {
            let reference = vec_f64(task.losses(model, batch, Pass::Evaluation).into_data());
            let seed = seed_for(SEED, &[stream::WARM_START]);
            fit_to_sum(transformer, &reference, &config.warm_start, seed, device)?.0
        }
    };
    Ok(Combiner::Transformer(transformer.valid()))
}

/// The bilevel problem of a round; its batches differ from each other and from the inner step's.
fn problem<'a>(
    task: &'a UniVlRetrieval,
    batches: &'a [UniVlItems],
    round: usize,
) -> MeltrProblem<'a, UniVlRetrieval> {
    MeltrProblem {
        task,
        outer_batch: &batches[(round + 1) % N_BATCHES],
        inner_batch: &batches[(round + 2) % N_BATCHES],
        outer_pass: pass(round, 1),
        inner_pass: pass(round, 2),
        regularizer: Regularizer::off(),
    }
}

fn pass(round: usize, role: u64) -> Pass {
    Pass::Stochastic {
        seed: seed_for(SEED, &[stream::DROPOUT, round as u64, role]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primary_loss_is_in_every_subset() {
        for n_losses in [2, 4, 8] {
            let losses = losses(n_losses);
            assert_eq!(losses.len(), n_losses);
            assert!(losses.contains(&UniVlLoss::Align));
        }
    }

    #[test]
    fn timed_variants_are_numbered_from_zero() {
        for (index, variant) in Variant::TIMED.into_iter().enumerate() {
            assert_eq!(variant as usize, index);
        }
    }

    #[test]
    fn names_are_those_of_json() {
        for variant in Variant::ALL {
            assert_eq!(serde_json::to_value(variant).unwrap(), variant.name());
        }
    }
}
