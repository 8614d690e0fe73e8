//! Tests of the public interface: damaged files, and agreement with the shared fixtures.

#[cfg(test)]
mod checkpoint;
#[cfg(test)]
mod features;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod mosi;
#[cfg(test)]
mod npy;
#[cfg(test)]
mod pickle;
#[cfg(test)]
mod pixels;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod sets;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod tokenizer;
#[cfg(test)]
mod video;
