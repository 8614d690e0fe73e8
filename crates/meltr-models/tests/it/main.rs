//! Properties of the backbones that only the public interface is needed for.

#[cfg(test)]
mod allinone;
#[cfg(test)]
mod bert;
#[cfg(test)]
mod caption_cache;
#[cfg(test)]
mod forward_mode;
#[cfg(test)]
mod image_encoders;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod losses;
#[cfg(test)]
mod sentiment;
#[cfg(test)]
mod support;
#[cfg(test)]
mod violet;
