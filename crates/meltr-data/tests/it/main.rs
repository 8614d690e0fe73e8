//! Tests of the public interface: damaged files, and agreement with the reference tokenizer.

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tokenizer;
