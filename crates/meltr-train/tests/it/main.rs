//! The loop as a whole, on a task that takes milliseconds.

#[cfg(test)]
mod checkpointing;
#[cfg(test)]
mod combiners;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod through;
#[cfg(test)]
mod toy;
#[cfg(test)]
mod workers;
