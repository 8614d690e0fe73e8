//! The fine-tuning engine: one loop over both levels, generic over the task.
//!
//! In reading order: [`TrainConfig`] (all settings), [`fine_tune`] (the loop), [`MeltrProblem`]
//! (the bilevel problem of one outer step), [`BertAdam`] (the inner optimizer), [`History`] (past
//! batches), [`Run`] (the directory that a run leaves), [`record`] (its records) and [`report`].

mod bert_adam;
mod checkpoint;
mod config;
mod error;
mod fine_tune;
mod history;
mod memory;
mod meta_step;
pub mod record;
pub mod report;
mod run;
mod schedule;

pub use bert_adam::{BertAdam, BertAdamConfig, BertAdamState, bert_adam_update};
pub use checkpoint::{read_checkpoint, read_state_dict, state_dict_from_file, write_state_dict};
pub use config::{
    CombinerConfig, CombinerName, OuterConfig, OuterOptimizer, StartOfPhi, TrainConfig,
};
pub use error::TrainError;
pub use fine_tune::{Outcome, Progress, Settings, fine_tune};
pub use history::{Eviction, History};
pub use memory::peak_memory_bytes;
pub use meta_step::MeltrProblem;
pub use run::Run;
pub use schedule::Schedule;
