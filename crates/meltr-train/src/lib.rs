//! The fine-tuning engine: one loop over both levels, generic over the task.
//!
//! In reading order: [`TrainConfig`], [`CombinerConfig`] and [`OuterConfig`] (all settings),
//! [`fine_tune`] (the loop), [`MeltrProblem`] (the bilevel problem of one outer step), [`Through`]
//! (what its hypergradient is taken through), [`BertAdam`] (the inner optimizer), [`History`] (past
//! batches), [`Run`] (the directory that a run leaves and goes on from), [`record`] (its records)
//! and [`report`].
//!
//! MELTR is in [`CombinerName`] twice: as recommended ([`CombinerName::Meltr`], whose outer steps
//! [`MeltrSettings`] has) and as published ([`CombinerName::MeltrPublished`]).

mod anomalies;
mod bert_adam;
mod checkpoint;
mod checkpoint_folder;
mod combination;
mod combiner_config;
mod combiner_name;
mod config;
mod error;
mod fine_tune;
mod history;
mod memory;
mod meta_step;
mod named_parameters;
mod outer_optimizer;
mod precision;
mod pull;
pub mod record;
pub mod report;
mod run;
mod saved_tensors;
mod schedule;
mod settings_difference;
mod shared;
mod snapshot;
mod tensor_board;
mod through;

pub use bert_adam::{BertAdam, BertAdamConfig, BertAdamState, bert_adam_update};
pub use checkpoint::{read_checkpoint, read_state_dict, state_dict_from_file, write_state_dict};
pub use combiner_config::{
    AutoLambdaSettings, AuxiliaryLinearSettings, AuxiliaryNetworkSettings, CombinerConfig,
    DynamicWeightAverageConfig, MeltrSettings, StartOfPhi,
};
pub use combiner_name::CombinerName;
pub use config::{BestMetric, Better, OuterBatches, OuterConfig, OuterOptimizer, TrainConfig};
pub use error::TrainError;
pub use fine_tune::{Outcome, Progress, Settings, fine_tune};
pub use history::{Eviction, History};
pub use memory::peak_memory_bytes;
pub use meta_step::MeltrProblem;
pub use outer_optimizer::OuterSteps;
pub use precision::Precision;
pub use run::Run;
pub use schedule::Schedule;
pub use settings_difference::differing_settings;
pub use shared::require_equal_shares;
pub use through::Through;
