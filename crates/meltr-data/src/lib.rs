//! Files, tokenizer, masking and host batches: the only crate of MELTR that opens data files.
//!
//! Nothing here knows a tensor library: batches are [`ndarray`] arrays on the host. In reading
//! order:
//!
//! 1. [`DataError`], [`ConfigError`]: what can go wrong, with the file and the line;
//! 2. [`TensorFile`], [`TensorFileWriter`]: `.safetensors` files;
//! 3. [`WordPiece`]: text to token ids;
//! 4. [`seed_for`], [`RandomStream`]: every random choice takes a seed, there is no global state;
//! 5. [`mask_words`], [`mask_frames`]: what the pretext losses have to predict;
//! 6. [`EmojiClips`]: 699 animated clips with names, keywords and human sentiment, embedded;
//! 7. [`VideoTextCollator`], [`VideoTextBatch`]: samples to one padded batch;
//! 8. [`BatchOrder`]: which items are in which batch.
//!
//! # Example
//!
//! One training batch of the embedded set:
//!
//! ```
//! use meltr_data::{
//!     BatchOrder, ClipText, EmojiClips, FrameSampling, KeywordUse, Split, VideoTextCollator,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let set = EmojiClips::embedded()?;
//! let train = set.indices(&[Split::Train])?;
//! let collator = VideoTextCollator {
//!     max_words: 24,
//!     max_frames: 8,
//!     video_dim: 64,
//!     mask_probability: 0.15,
//!     frame_sampling: FrameSampling::All,
//!     feature_noise: 0.0,
//!     text: ClipText { keywords: KeywordUse::Sampled },
//! };
//! let order = BatchOrder::new(train.len(), 16, 7)?;
//! let (epoch, positions) = order.batch(0);
//! let indices: Vec<usize> = positions.iter().map(|&position| train[position]).collect();
//! let batch = collator.collate(&set, &indices, 7)?;
//! assert_eq!(epoch, 0);
//! assert_eq!(batch.video.dim(), (16, 8, 64));
//! assert_eq!(batch.text_ids.dim(), (16, 24));
//! # Ok(())
//! # }
//! ```
//!
//! # Masks
//!
//! In a [`VideoTextBatch`] a padding mask is true where there is *nothing*, and a prediction mask
//! is true where something has to be *predicted*. Foreign polarities are converted in this crate.

mod batch;
mod batch_order;
mod emoji_clips;
mod error;
mod masking;
mod seed;
mod tensor_file;
mod word_piece;

pub use batch::{CollateMode, FrameSampling, VideoTextBatch, VideoTextCollator, VideoTextSample};
pub use batch_order::BatchOrder;
pub use emoji_clips::{Clip, ClipText, EmojiClips, KeywordUse, SentimentCounts, Split};
pub use error::{ConfigError, DataError, DataErrorKind};
pub use masking::{MaskedWords, mask_frames, mask_words};
pub use seed::{RandomStream, seed_for};
pub use tensor_file::{TensorFile, TensorFileWriter};
pub use word_piece::{SpecialTokens, WordPiece};
