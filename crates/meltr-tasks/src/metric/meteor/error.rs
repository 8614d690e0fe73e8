//! What can go wrong before METEOR is computed.

use std::path::PathBuf;

use meltr_data::DataError;

use super::score::MeteorModule;

/// Why METEOR cannot be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeteorError {
    /// A file cannot be read or is not what it should be.
    #[error(transparent)]
    File(#[from] DataError),
    /// METEOR's data are not where they were looked for.
    #[error(
        "{} holds neither `meteor-1.5.jar` nor `function/english.words`; give the folder `meteor` \
         of the Python package pycocoevalcap 1.2, or the path of the jar",
        .path.display()
    )]
    NoData {
        /// Where they were looked for.
        path: PathBuf,
    },
    /// A module was asked for whose data are absent.
    #[error(
        "the module `{module}` needs `{file}`, which was not found; put it there or leave the \
         module out"
    )]
    MissingModule {
        /// The module asked for.
        module: MeteorModule,
        /// What it needs.
        file: &'static str,
    },
    /// The modules do not include the one that METEOR always has.
    #[error("METEOR always matches equal words; add the module `exact`")]
    NoExactModule,
    /// There is not one list of references per hypothesis.
    #[error(
        "{hypotheses} hypotheses but references of {references} items; give both of every item"
    )]
    ItemCounts {
        /// Number of hypotheses.
        hypotheses: usize,
        /// Number of lists of references.
        references: usize,
    },
    /// An item has no reference.
    #[error("item {item}, counted from 0, has no reference; give it one or leave it out")]
    NoReferences {
        /// Its place.
        item: usize,
    },
}
