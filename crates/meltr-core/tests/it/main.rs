//! Laws that hold for every combiner, and loss weightings against golden values.

#[cfg(test)]
mod laws;
#[cfg(test)]
mod weighting;
