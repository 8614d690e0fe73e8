//! The fine-tuning engine: one loop over both levels, generic over the task.
//!
//! In reading order: [`TrainConfig`] (all settings), [`fine_tune`] (the loop), [`MeltrProblem`]
//! (the bilevel problem of one outer step), [`BertAdam`] (the inner optimizer), [`History`] (past
//! batches), [`Run`] (the directory that a run leaves and goes on from), [`record`] (its records)
//! and [`report`].

mod bert_adam;
mod checkpoint;
mod checkpoint_folder;
mod config;
mod error;
mod fine_tune;
mod history;
mod memory;
mod meta_step;
mod named_parameters;
mod outer_optimizer;
pub mod record;
pub mod report;
mod run;
mod saved_tensors;
mod schedule;
mod settings_difference;
mod snapshot;

pub use bert_adam::{BertAdam, BertAdamConfig, BertAdamState, bert_adam_update};
pub use checkpoint::{read_checkpoint, read_state_dict, state_dict_from_file, write_state_dict};
pub use config::{
    BestMetric, Better, CombinerConfig, CombinerName, OuterConfig, OuterOptimizer, StartOfPhi,
    TrainConfig,
};
pub use error::TrainError;
pub use fine_tune::{Outcome, Progress, Settings, fine_tune};
pub use history::{Eviction, History};
pub use memory::peak_memory_bytes;
pub use meta_step::MeltrProblem;
pub use run::Run;
pub use schedule::Schedule;
pub use settings_difference::differing_settings;
