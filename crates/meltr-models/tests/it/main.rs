//! Properties of the backbones that only the public interface is needed for.

#[cfg(test)]
mod forward_mode;
#[cfg(test)]
mod image_encoders;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod losses;
#[cfg(test)]
mod support;
