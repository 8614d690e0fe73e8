//! The `[data]` section: which set, and how it becomes batches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meltr_data::{
    CaptionTargets, ClipText, EmojiClips, EmojiPairs, EmojiSentimentSettings, ManifestPairs,
    ManifestSettings, MosiSettings, MsrvttFiles, MsrvttPairs, MsrvttSettings, RestrictedVocabulary,
    SentimentSet, TensorFile, TextRole, VideoTextSet, WordPiece, YouCook2, YouCook2Files,
    YouCook2Settings, YouCook2Small, YouCook2SmallSettings,
};
use meltr_tasks::principal_axes;
use ndarray::{Array2, Axis, Ix2};
use serde::{Deserialize, Serialize};

use super::pixels::{AllInOneFilesSet, EmojiClipsFrames, ManifestFramesSet, VioletFilesSet};
use crate::error::CliError;

/// Names under which the word vectors of a BERT are published.
const WORD_VECTORS: [&str; 3] = [
    "embeddings.word_embeddings.weight",
    "bert.embeddings.word_embeddings.weight",
    "text_encoder.embeddings.word_embeddings.weight",
];

/// Which set, and how it becomes batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataConfig {
    /// How items become batches; the task says what can be set.
    pub(crate) batches: toml::Table,
    /// The set.
    pub(crate) set: SetConfig,
}

/// A set with the files that it lies in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum SetConfig {
    /// 699 animated clips with names and keywords.
    EmojiClips {
        /// A folder with the set's files; without it, the embedded copy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        folder: Option<PathBuf>,
        /// How a clip is put into words.
        text: ClipText,
    },
    /// YouCook2 in UniVL's files.
    Youcook2 {
        /// A vocabulary with one token a line.
        vocab: PathBuf,
        /// Whether only the tokens that occur are kept.
        #[serde(default)]
        vocab_use: VocabUse,
        /// The files.
        files: YouCook2Files,
        /// How they are used.
        #[serde(default)]
        settings: YouCook2Settings,
    },
    /// 600 videos of YouCook2, one frame a step.
    #[serde(rename = "youcook2-600")]
    Youcook2Small {
        /// The folder of the set.
        folder: PathBuf,
        /// A vocabulary with one token a line.
        vocab: PathBuf,
        /// Whether only the tokens that occur are kept.
        #[serde(default)]
        vocab_use: VocabUse,
        /// What an item is, and whose features it has.
        #[serde(default)]
        settings: YouCook2SmallSettings,
    },
    /// MSR-VTT in UniVL's files.
    Msrvtt {
        /// A vocabulary with one token a line.
        vocab: PathBuf,
        /// Whether only the tokens that occur are kept.
        #[serde(default)]
        vocab_use: VocabUse,
        /// The files.
        files: MsrvttFiles,
        /// Which split, and how sentences are used.
        settings: MsrvttSettings,
    },
    /// One's own videos: a manifest and frame features made of them.
    Manifest {
        /// A vocabulary with one token a line.
        vocab: PathBuf,
        /// Whether only the tokens that occur are kept.
        #[serde(default)]
        vocab_use: VocabUse,
        /// One JSON object a line.
        file: PathBuf,
        /// What `meltr data features` wrote.
        features: PathBuf,
        /// What happens to items that cannot be used.
        #[serde(default)]
        settings: ManifestSettings,
    },
    /// CMU-MOSI.
    CmuMosi {
        /// The folder of the set.
        folder: PathBuf,
        /// A vocabulary with one token a line.
        vocab: PathBuf,
        /// Whether only the tokens that occur are kept.
        #[serde(default)]
        vocab_use: VocabUse,
        /// Which split, which features.
        settings: MosiSettings,
    },
    /// The animated clips with counts of how people use their emoji.
    EmojiClipsSentiment {
        /// A folder with the set's files; without it, the embedded copy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        folder: Option<PathBuf>,
        /// Which words, how many features of a frame.
        settings: EmojiSentimentSettings,
    },
    /// The animated clips as raw frames.
    EmojiClipsFrames(EmojiClipsFrames),
    /// Frames, questions and captions in VIOLET's files.
    VioletFiles(VioletFilesSet),
    /// Videos, questions and captions in All-in-one's files.
    AllInOneFiles(AllInOneFilesSet),
    /// One's own videos, decoded as they are needed.
    ManifestFrames(ManifestFramesSet),
}

/// Which tokens of a vocabulary a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VocabUse {
    /// All.
    #[default]
    All,
    /// Those that occur in a text of the set, and single letters; texts are cut alike.
    Occurring,
}

/// A set that has been read.
pub(crate) enum OpenedSet {
    /// Videos with texts.
    Pairs(Pairs),
    /// Utterances with a sentiment.
    Sentiment(Box<Utterances>),
}

/// Items with a sentiment.
pub(crate) struct Utterances {
    pub(crate) set: SentimentSet,
    /// The whole vocabulary that was named, for a pretrained text encoder; `None` if the set has
    /// one of its own.
    pub(crate) vocab: Option<WordPiece>,
}

/// Videos with texts, and what is known about their words.
pub(crate) struct Pairs {
    pub(crate) set: Arc<dyn VideoTextSet>,
    /// The set's own word vectors, by falling variance.
    pub(crate) vectors: Option<Array2<f32>>,
    /// For each token the id in the vocabulary file; `None` if the ids are the file's.
    pub(crate) full_ids: Option<Vec<i64>>,
}

/// What the encoder reads of a set without transcripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextUse {
    /// The text of an item.
    Read,
    /// Nothing: the text is the caption, which the decoder has to say.
    Said,
}

impl SetConfig {
    /// The name in configurations.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::EmojiClips { .. } => "emoji-clips",
            Self::Youcook2 { .. } => "youcook2",
            Self::Youcook2Small { .. } => "youcook2-600",
            Self::Msrvtt { .. } => "msrvtt",
            Self::Manifest { .. } => "manifest",
            Self::CmuMosi { .. } => "cmu-mosi",
            Self::EmojiClipsSentiment { .. } => "emoji-clips-sentiment",
            Self::EmojiClipsFrames(_) => "emoji-clips-frames",
            Self::VioletFiles(_) => "violet-files",
            Self::AllInOneFiles(_) => "all-in-one-files",
            Self::ManifestFrames(_) => "manifest-frames",
        }
    }

    /// The file of frame features, where the set has one of the format of `meltr data features`.
    pub(crate) fn features_file(&self) -> Option<&Path> {
        match self {
            Self::Manifest { features, .. } => Some(features),
            _ => None,
        }
    }

    /// The whole vocabulary of a set of utterances, where it is one of a pretrained text encoder.
    pub(crate) fn utterance_vocabulary(&self) -> Option<&Path> {
        match self {
            Self::CmuMosi { vocab, .. } => Some(vocab),
            _ => None,
        }
    }

    /// Reads the set.
    pub(crate) fn open(&self, texts: TextUse) -> Result<OpenedSet, CliError> {
        let (set, vocab_use): (Arc<dyn VideoTextSet>, VocabUse) = match self {
            Self::EmojiClips { folder, text } => {
                let clips = match folder {
                    Some(folder) => EmojiClips::open(folder)?,
                    None => EmojiClips::embedded()?,
                };
                let vectors = Some(clips.token_embeddings().clone());
                let set = said_or_read(Arc::new(EmojiPairs::new(clips, *text)), texts);
                return Ok(OpenedSet::Pairs(Pairs {
                    set,
                    vectors,
                    full_ids: None,
                }));
            }
            Self::Youcook2 {
                vocab,
                vocab_use,
                files,
                settings,
            } => {
                let words = WordPiece::from_vocab_file(vocab)?;
                let set = YouCook2::open(files, *settings, words)?;
                (Arc::new(set), *vocab_use)
            }
            Self::Youcook2Small {
                folder,
                vocab,
                vocab_use,
                settings,
            } => {
                let words = WordPiece::from_vocab_file(vocab)?;
                let set = YouCook2Small::open(folder, *settings, words)?;
                (Arc::new(set), *vocab_use)
            }
            Self::Msrvtt {
                vocab,
                vocab_use,
                files,
                settings,
            } => {
                let words = WordPiece::from_vocab_file(vocab)?;
                let set = MsrvttPairs::open(files, *settings, words)?;
                (Arc::new(set), *vocab_use)
            }
            Self::Manifest {
                vocab,
                vocab_use,
                file,
                features,
                settings,
            } => {
                let words = WordPiece::from_vocab_file(vocab)?;
                let set = ManifestPairs::open(file, features, *settings, words)?;
                (Arc::new(set), *vocab_use)
            }
            Self::CmuMosi {
                folder,
                vocab,
                vocab_use,
                settings,
            } => {
                let words = WordPiece::from_vocab_file(vocab)?;
                let set = SentimentSet::open(folder, *settings, words.clone())?;
                let set = match vocab_use {
                    VocabUse::All => set,
                    VocabUse::Occurring => set.with_occurring_vocabulary()?,
                };
                let vocab = Some(words);
                return Ok(OpenedSet::Sentiment(Box::new(Utterances { set, vocab })));
            }
            Self::EmojiClipsSentiment { folder, settings } => {
                let clips = match folder {
                    Some(folder) => EmojiClips::open(folder)?,
                    None => EmojiClips::embedded()?,
                };
                let set = SentimentSet::of_clips(&clips, *settings)?;
                let vocab = None;
                return Ok(OpenedSet::Sentiment(Box::new(Utterances { set, vocab })));
            }
            Self::EmojiClipsFrames(_)
            | Self::VioletFiles(_)
            | Self::AllInOneFiles(_)
            | Self::ManifestFrames(_) => {
                return Err(CliError::Input(format!(
                    "`data.set.name = \"{}\"` has raw frames, and UniVL reads features of frames; \
                     take a set of features, or `task.kind` and `model.backbone` of a network on \
                     raw frames",
                    self.name()
                )));
            }
        };
        let set = if self.has_transcripts() {
            set
        } else {
            said_or_read(set, texts)
        };
        Ok(OpenedSet::Pairs(match vocab_use {
            VocabUse::All => Pairs {
                set,
                vectors: None,
                full_ids: None,
            },
            VocabUse::Occurring => {
                let restricted = RestrictedVocabulary::new(set)?;
                Pairs {
                    full_ids: Some(restricted.full_ids().to_vec()),
                    set: Arc::new(restricted),
                    vectors: None,
                }
            }
        }))
    }

    /// Whether items say themselves what the encoder reads and what the decoder has to say.
    fn has_transcripts(&self) -> bool {
        match self {
            Self::Youcook2 { settings, .. } => settings.text == TextRole::Transcript,
            Self::Msrvtt { settings, .. } => settings.text == TextRole::Transcript,
            _ => false,
        }
    }
}

fn said_or_read(set: Arc<dyn VideoTextSet>, texts: TextUse) -> Arc<dyn VideoTextSet> {
    match texts {
        TextUse::Read => set,
        TextUse::Said => Arc::new(CaptionTargets::new(set)),
    }
}

impl Pairs {
    /// The set's own word vectors, or those of the BERT at `weights`; `None` without either.
    pub(crate) fn word_vectors(
        &self,
        weights: Option<&Path>,
    ) -> Result<Option<Array2<f32>>, CliError> {
        if self.vectors.is_some() {
            return Ok(self.vectors.clone());
        }
        let Some(path) = weights else {
            return Ok(None);
        };
        if !path.is_file() {
            return Err(CliError::Input(format!(
                "`model.text_weights` names `{}`, which does not exist; `cargo xtask setup \
                 minilm` fetches the weights that the experiments use",
                path.display()
            )));
        }
        let file = TensorFile::open(path)?;
        let Some(name) = WORD_VECTORS.iter().find(|name| file.contains(name)) else {
            return Err(CliError::Input(format!(
                "`{}` holds no word vectors of a BERT; they are called {}",
                path.display(),
                WORD_VECTORS.join(" or ")
            )));
        };
        let table = file
            .f32(name)?
            .into_dimensionality::<Ix2>()
            .map_err(|_| CliError::Input(format!("`{}`: `{name}` is no matrix", path.display())))?;
        let n_tokens = self.set.word_piece().vocab_size();
        let rows: Vec<usize> = match &self.full_ids {
            Some(ids) => ids.iter().map(|id| *id as usize).collect(),
            None => (0..n_tokens).collect(),
        };
        if let Some(beyond) = rows.iter().find(|row| **row >= table.nrows()) {
            return Err(CliError::Input(format!(
                "`{}` has {} word vectors, but the vocabulary has a token {beyond}; the two do not \
                 belong together",
                path.display(),
                table.nrows()
            )));
        }
        Ok(Some(principal_axes(table.select(Axis(0), &rows).view())))
    }
}
