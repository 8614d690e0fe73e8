//! Laws that hold for every combiner.

#[cfg(test)]
mod laws;
