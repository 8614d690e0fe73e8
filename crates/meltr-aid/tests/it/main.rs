//! Laws of the estimators.

#[cfg(test)]
mod beyond;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod robustness;
