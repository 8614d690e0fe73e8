//! Tests of the `meltr` binary: its exit statuses, its messages, its files.

#[cfg(test)]
mod auxiliary;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod data;
#[cfg(test)]
mod help;
#[cfg(test)]
mod infer;
#[cfg(all(test, feature = "mpi", target_os = "linux"))]
mod mpi;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod published_weights;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod repro;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod score;
#[cfg(test)]
mod support;
#[cfg(test)]
mod weights;
