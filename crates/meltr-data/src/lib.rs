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
//! 7. [`VideoTextSet`]: what every set of videos with texts offers; one implementation a set;
//! 8. [`VideoTextCollator`], [`VideoTextBatch`]: samples to one padded batch;
//! 9. [`PixelSet`], [`PixelCollator`], [`PixelBatch`]: raw frames with texts, for VIOLET and
//!    All-in-one;
//! 10. [`BatchOrder`]: which items are in which batch.
//!
//! # Example
//!
//! One training batch of the embedded set:
//!
//! ```
//! use meltr_data::{
//!     BatchOrder, ClipText, EmojiClips, EmojiPairs, FrameSampling, KeywordUse, VideoTextCollator,
//!     VideoTextSet,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = ClipText { keywords: KeywordUse::Sampled };
//! let set = EmojiPairs::new(EmojiClips::embedded()?, text);
//! let train = set.split("train")?;
//! let collator = VideoTextCollator {
//!     max_words: 24,
//!     max_frames: 8,
//!     video_dim: 64,
//!     mask_probability: 0.15,
//!     frame_sampling: FrameSampling::All,
//!     feature_noise: 0.0,
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
mod caption_set;
mod checkpoint;
mod checksum;
mod csd;
mod csv_table;
mod doctor;
#[cfg(feature = "download")]
mod download;
mod emoji_clips;
mod error;
mod frame_cache;
mod frame_table;
mod host_array;
mod id_list;
mod inspect;
mod json_lists;
mod manifest;
mod masking;
mod mosi;
mod msrvtt;
mod msvd;
mod npy;
mod pickle;
mod pixels;
mod registry;
mod seed;
mod segments;
mod sets;
mod tensor_file;
mod text_file;
mod text_pool;
mod tgif;
mod video;
mod video_features;
mod video_qa;
mod video_text_set;
mod visual_tokens;
mod word_piece;
mod youcook_videos;
mod zip_members;

pub use batch::{CollateMode, FrameSampling, VideoTextBatch, VideoTextCollator, VideoTextSample};
pub use batch_order::BatchOrder;
pub use caption_set::{CaptionPair, CaptionSet};
pub use checkpoint::{Checkpoint, CheckpointItem, CheckpointTensor, CheckpointValue, univl_key};
pub use checksum::{sha256_of_bytes, sha256_of_file};
#[cfg(feature = "hdf5")]
pub use csd::{Csd, CsdVideo};
pub use csv_table::{CsvTable, Delimiter, Row};
pub use doctor::{
    CheckDepth, ClipCheck, FaultyItems, FileCheck, FileState, Finding, FindingKind, HealthReport,
    check_clips, check_features, check_files,
};
#[cfg(feature = "download")]
pub use download::{DownloadError, DownloadRequest, Downloaded, download};
pub use emoji_clips::{Clip, ClipText, EmojiClips, KeywordUse, SentimentCounts, Split};
pub use error::{ConfigError, DataError, DataErrorKind};
pub use frame_cache::FrameCache;
pub use frame_table::{FrameRow, FrameTable};
pub use host_array::{ArrayError, ElementType, HostArray, StorageOrder};
pub use id_list::IdList;
pub use inspect::{
    ArraySummary, Content, Element, FileFormat, Inspected, Inspection, ValueSummary, inspect,
};
pub use manifest::{Answer, Manifest, ManifestItem, RepeatedId};
pub use masking::{MaskedWords, mask_frames, mask_words};
pub use mosi::{
    Modality, MosiSequences, MosiSplits, MosiUtterances, NonFinite, Replaced, SequencePart,
    Utterance,
};
pub use msrvtt::{JsfusionPair, JsfusionTest, Msrvtt, MsrvttTestVideo};
pub use msvd::{AnswerSet, MsvdNames, MsvdQuestion, MsvdQuestions};
pub use npy::{NpyContent, read_npy, read_npz};
pub use pickle::{Entries, Item, ItemId, Items, Pickle, Value};
pub use pixels::{
    AllInOneFiles, AllInOnePaths, AllInOneTexts, EmojiFrames, EmojiFramesConfig, FrameChoice,
    FrameDecoding, FrameResize, FrameScale, ManifestFrames, ManifestFramesConfig, NO_ANSWER,
    OptionPrompt, OwnClip, OwnClips, PatchMasking, PixelBatch, PixelCollator, PixelSample,
    PixelSet, PixelTask, PixelText, VioletFiles, VioletPaths, VioletTexts, VisualTargets,
    WordMasking,
};
pub use registry::{Access, EntryKind, Registry, RegistryEntry, RegistryFile, SplitCounts};
pub use seed::{RandomStream, seed_for};
pub use segments::{Segment, Segments};
pub use sets::{
    CaptionTargets, EmojiPairs, EmojiSentimentSettings, FrameEncoder, ItemUnit, ManifestPairs,
    ManifestSettings, Modalities, MosiSettings, MsrvttFiles, MsrvttPairs, MsrvttSettings,
    MsrvttSplit, OwnUtterance, RestrictedVocabulary, SentenceUse, SentimentBatch,
    SentimentCollator, SentimentSample, SentimentSet, TextRole, YouCook2, YouCook2Files,
    YouCook2Settings, YouCook2Small, YouCook2SmallSettings,
};
pub use tensor_file::{TensorFile, TensorFileWriter};
pub use tgif::{TgifAnswer, TgifQuestion, TgifQuestions};
#[cfg(feature = "libav")]
pub use video::LibavFrames;
pub use video::{
    DamagePolicy, DecodeJob, DecodeMany, DecodeOptions, DecodeParallelism, DecodeProgress,
    DecodeResult, DecodedFrames, Decoder, FfmpegFrames, FrameRule, FrameSource, GifFrames,
    IMAGENET_MEAN, IMAGENET_STD, ImageFolder, ImageTransform, MediaFrames, Normalization, Resize,
    RgbFrame, VideoInfo, decode_many,
};
pub use video_features::VideoFeatures;
pub use video_qa::{Question, QuestionKind, VideoQa, option_text};
pub use video_text_set::{Draw, VideoTextSet};
pub use visual_tokens::{TOKEN_COUNT, TOKEN_GRID, VisualTokens};
pub use word_piece::{Casing, PaddedTokens, SpecialTokens, TextStyle, TokenizerRules, WordPiece};
pub use youcook_videos::{YoucookVideo, YoucookVideos};
