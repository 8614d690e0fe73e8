//! The command line of `meltr data`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use meltr_data::Decoder;

use crate::error::CliError;

/// Arguments of `meltr data`.
#[derive(Debug, Args)]
pub struct DataArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: DataCommand,
}

/// What can be done with data.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Data sets and weights: what they are, who may have them, what is known of their files.
    #[command(after_help = "Example:\n  meltr data list\n  meltr data list msrvtt-9k univl")]
    List(ListArguments),
    /// Fetches the files of a set, or says what a person has to do.
    #[command(
        after_help = "A download that was cut goes on where it ended. Nothing is overwritten.\n\n\
                      Example:\n  meltr data get univl --dir weights/univl"
    )]
    Get(GetArguments),
    /// Finds missing, truncated, undecodable and duplicate clips and NaN features.
    #[command(
        after_help = "A manifest is a file of JSON objects, one a line, with `id`, `video` \
                      (relative to the manifest), `split` (train, valid, test), and optionally \
                      `captions`, `question`, `answer`, `options`, `sentiment`, `start`, `end`. In \
                      a folder without a manifest every video file is an item.\n\n\
                      Example:\n  meltr data check my-clips\n  \
                      meltr data check my-clips/manifest.jsonl --features features.safetensors\n  \
                      meltr data check univl --dir weights/univl"
    )]
    Check(CheckArguments),
    /// Keys, shapes, element types and checksums of a data file.
    #[command(after_help = "Example:\n  meltr data inspect features.pickle")]
    Inspect(InspectArguments),
    /// Writes frames of videos as images.
    #[command(after_help = "Example:\n  meltr data frames clip.mp4 --out frames --count 8")]
    Frames(FramesArguments),
    /// Frame features of clips from a pretrained image encoder; goes on after an interruption.
    #[command(
        after_help = "Example:\n  meltr data features my-clips --weights mobilenet_v2.safetensors \
                      --out features.safetensors"
    )]
    Features(FeaturesArguments),
    /// Token ids of texts.
    #[command(after_help = "Example:\n  meltr data tokens \"a wave breaks\" --special")]
    Tokens(TokensArguments),
    /// Features in a pickle or an npz file to safetensors.
    #[command(
        after_help = "Example:\n  meltr data convert features.pickle --width 1024 \
                      --out features.safetensors"
    )]
    Convert(ConvertArguments),
}

/// Arguments of `meltr data list`.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Entries to show in full. Default: all, one a line.
    pub ids: Vec<String>,
    /// A registry of one's own, in the format of `datasets.toml`.
    #[arg(long, value_name = "FILE")]
    pub registry: Option<PathBuf>,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `meltr data get`.
#[derive(Debug, Args)]
pub struct GetArguments {
    /// The entry, as `meltr data list` names it.
    pub id: String,
    /// The folder for the files; made if it does not exist. Default: `data/ID`.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The terms of the entry have been read and are met.
    #[arg(long)]
    pub accept_terms: bool,
    /// A registry of one's own, in the format of `datasets.toml`.
    #[arg(long, value_name = "FILE")]
    pub registry: Option<PathBuf>,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `meltr data check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// A folder of clips, a manifest, a file of features, or an entry of the registry.
    pub target: PathBuf,
    /// The folder of the files of an entry; TARGET is its id then. Default: `data/ID`.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Files of features that have to have rows for every item of TARGET; repeatable.
    #[arg(long, value_name = "FILE")]
    pub features: Vec<PathBuf>,
    /// Features of a row. Default: those of the first item.
    #[arg(long)]
    pub width: Option<usize>,
    /// A list of ids, one a line, that have to be there.
    #[arg(long, value_name = "FILE")]
    pub expect: Option<PathBuf>,
    /// Who decodes videos.
    #[arg(long, value_enum, default_value_t = DecoderName::Ffmpeg)]
    pub decoder: DecoderName,
    /// Only compare lengths with what the files announce; decode nothing.
    #[arg(long)]
    pub quick: bool,
    /// A registry of one's own, in the format of `datasets.toml`.
    #[arg(long, value_name = "FILE")]
    pub registry: Option<PathBuf>,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `meltr data inspect`.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// The file; its content decides what it is, not its name.
    pub file: PathBuf,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Which frames of a clip are taken.
#[derive(Debug, Clone, Args)]
pub struct RuleArguments {
    /// Frames of a clip.
    #[arg(long, default_value_t = 8, conflicts_with = "fps")]
    pub count: usize,
    /// Where the frames of --count lie.
    #[arg(long, value_enum, default_value_t = Placement::Middle)]
    pub placement: Placement,
    /// Frames of a second, instead of --count.
    #[arg(long)]
    pub fps: Option<f64>,
}

/// Where a number of frames lie in a clip of N frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Placement {
    /// In the middles of T equal parts: floor((i + 0.5) N / T).
    Middle,
    /// As VIOLET places them: floor(N / (T + 1) (i + 1)).
    Violet,
}

/// Who decodes videos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DecoderName {
    /// The programs `ffmpeg` and `ffprobe`.
    Ffmpeg,
    /// FFmpeg's libraries in this process; needs the feature `libav`.
    Libav,
}

impl DecoderName {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Ffmpeg, Self::Libav];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ffmpeg => "ffmpeg",
            Self::Libav => "libav",
        }
    }

    /// Whether this binary has it.
    pub(crate) fn is_built_in(self) -> bool {
        match self {
            Self::Ffmpeg => true,
            Self::Libav => cfg!(feature = "libav"),
        }
    }

    /// The decoder, or advice on how to get it.
    pub(crate) fn decoder(self) -> Result<Decoder, CliError> {
        if !self.is_built_in() {
            return Err(CliError::Input(format!(
                "--decoder {0}: this binary was built without the feature `{0}`; rebuild with \
                 --features {0}",
                self.name()
            )));
        }
        Ok(match self {
            Self::Ffmpeg => Decoder::Ffmpeg,
            Self::Libav => Decoder::Libav,
        })
    }
}

/// Arguments of `meltr data frames`.
#[derive(Debug, Args)]
pub struct FramesArguments {
    /// The videos.
    #[arg(required = true)]
    pub videos: Vec<PathBuf>,
    /// The folder for the images; made if it does not exist.
    #[arg(long)]
    pub out: PathBuf,
    /// Which frames.
    #[command(flatten)]
    pub rule: RuleArguments,
    /// Who decodes videos.
    #[arg(long, value_enum, default_value_t = DecoderName::Ffmpeg)]
    pub decoder: DecoderName,
    /// Format of the images; PNG loses nothing.
    #[arg(long, value_enum, default_value_t = PictureFormat::Png)]
    pub format: PictureFormat,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Formats of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PictureFormat {
    /// Lossless.
    Png,
    /// Quality 95.
    Jpeg,
}

/// Arguments of `meltr data features`.
#[derive(Debug, Args)]
pub struct FeaturesArguments {
    /// A folder of clips, or a manifest (see `meltr data check --help`).
    pub source: PathBuf,
    /// The encoder.
    #[arg(long, value_enum, default_value_t = EncoderName::MobilenetV2)]
    pub encoder: EncoderName,
    /// Its weights, a safetensors file; `meltr data list mobilenet-v2` says where to get them.
    #[arg(long)]
    pub weights: PathBuf,
    /// The safetensors file to write: one tensor [frames, features] a clip, under its id.
    #[arg(long)]
    pub out: PathBuf,
    /// Which frames.
    #[command(flatten)]
    pub rule: RuleArguments,
    /// Who decodes videos.
    #[arg(long, value_enum, default_value_t = DecoderName::Ffmpeg)]
    pub decoder: DecoderName,
    /// Write the file without the clips that cannot be decoded.
    #[arg(long)]
    pub leave_out: bool,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Pretrained image encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EncoderName {
    /// 1,280 features a frame.
    MobilenetV2,
    /// 1,280 features a frame.
    EfficientnetLite0,
}

/// Arguments of `meltr data tokens`.
#[derive(Debug, Args)]
pub struct TokensArguments {
    /// The texts. Default: the lines of standard input.
    pub texts: Vec<String>,
    /// A WordPiece vocabulary, one piece a line. Default: that of the embedded set.
    #[arg(long, value_name = "FILE")]
    pub vocabulary: Option<PathBuf>,
    /// Put [CLS] before and [SEP] after every text.
    #[arg(long)]
    pub special: bool,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `meltr data convert`.
#[derive(Debug, Args)]
pub struct ConvertArguments {
    /// Features by id: a pickle, an npy, npz or safetensors file.
    pub file: PathBuf,
    /// Features of a row, such as 1024 for S3D.
    #[arg(long)]
    pub width: usize,
    /// The safetensors file to write; must not exist.
    #[arg(long)]
    pub out: PathBuf,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_that_is_not_built_in_names_its_feature() {
        assert!(DecoderName::Ffmpeg.decoder().is_ok());
        match DecoderName::Libav.decoder() {
            Ok(decoder) => assert_eq!(decoder, Decoder::Libav),
            Err(error) => {
                let message = error.to_string();
                assert!(
                    message.contains("built without the feature `libav`"),
                    "{message}"
                );
                assert!(message.contains("--features libav"), "{message}");
            }
        }
    }
}
