//! `meltr repro`: combiners with several seeds each, beside a linear reference.
//!
//! Each run is a process of its own, since dropout masks come from a generator that belongs to the
//! whole process on some backends. The runs of one command are a sweep, in a folder that is gone on
//! with until all of them have finished, by one process or by several that share them.
//!
//! In reading order: [`sweep`] (what happens when), [`check`] (what is refused), [`folder`] (which
//! sweep a command is about), [`plan`] (the runs), [`jobs`] (their processes), [`group`] (what
//! follows from them), [`results`] (what is told), [`ledger`] (what is kept).

mod check;
mod checksums;
mod folder;
mod group;
mod jobs;
mod ledger;
mod plan;
mod provenance;
mod results;
pub(crate) mod share;
mod statistics;
mod sweep;
#[cfg(test)]
mod testing;

use self::jobs::Interrupt;
use self::sweep::Sweep;
use crate::cli::ReproArguments;
use crate::error::CliError;
use crate::output;

pub(crate) fn run(arguments: &ReproArguments) -> Result<(), CliError> {
    let sweeps = arguments
        .experiments
        .iter()
        .map(|path| Sweep::new(arguments, path))
        .collect::<Result<Vec<_>, CliError>>()?;
    let interrupt = Interrupt::follow()?;
    let mut documents = Vec::with_capacity(sweeps.len());
    for sweep in &sweeps {
        documents.push(sweep.run(&interrupt)?);
    }
    if !arguments.json {
        return Ok(());
    }
    match documents.as_slice() {
        [document] => output::json(document),
        documents => output::json(&documents),
    }
}
