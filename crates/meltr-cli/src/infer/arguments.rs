//! The command lines of `meltr retrieve`, `caption`, `answer` and `sentiment`.

use std::path::PathBuf;

use clap::Args;

/// What all of these commands take.
#[derive(Debug, Args)]
pub struct AskedRun {
    /// Directory of a run of the task; its data have to be where its configuration says.
    #[arg(long, value_name = "RUN")]
    pub run: PathBuf,
    /// Device, such as `flex` or `tch:0`.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `meltr retrieve`.
#[derive(Debug, Args)]
pub struct RetrieveArguments {
    /// The run.
    #[command(flatten)]
    pub asked: AskedRun,
    /// A text that clips are ranked for; repeatable.
    #[arg(long = "query", value_name = "TEXT", required = true)]
    pub queries: Vec<String>,
    /// Videos, folders of videos or manifests. With --features the items whose features are
    /// compared; all of the file if none is named.
    #[arg(value_name = "CLIP")]
    pub clips: Vec<PathBuf>,
    /// Frame features by id, as `meltr data features` writes them: for UniVL, which reads them.
    #[arg(long, value_name = "FILE")]
    pub features: Option<PathBuf>,
    /// Clips that are shown of each ranking.
    #[arg(long, value_name = "CLIPS", default_value_t = 5)]
    pub top: usize,
}

/// Arguments of `meltr caption`.
#[derive(Debug, Args)]
pub struct CaptionArguments {
    /// The run.
    #[command(flatten)]
    pub asked: AskedRun,
    /// Videos, folders of videos or manifests: the items that are captioned. All of the file of
    /// features if none is named.
    #[arg(value_name = "CLIP")]
    pub clips: Vec<PathBuf>,
    /// Frame features by id, as `meltr data features` writes them.
    #[arg(long, value_name = "FILE")]
    pub features: PathBuf,
}

/// Arguments of `meltr answer`.
#[derive(Debug, Args)]
pub struct AnswerArguments {
    /// The run.
    #[command(flatten)]
    pub asked: AskedRun,
    /// Videos, folders of videos or manifests.
    #[arg(value_name = "CLIP", required = true)]
    pub clips: Vec<PathBuf>,
    /// What is asked about each clip. Default: the `question` of each item of a manifest.
    #[arg(long, value_name = "TEXT")]
    pub question: Option<String>,
    /// An option to choose from, for multiple choice; repeatable. Default: the `options` of each
    /// item of a manifest.
    #[arg(long = "option", value_name = "TEXT", requires = "question")]
    pub options: Vec<String>,
    /// Answers that are shown of each clip.
    #[arg(long, value_name = "ANSWERS", default_value_t = 3)]
    pub top: usize,
}

/// Arguments of `meltr sentiment`.
#[derive(Debug, Args)]
pub struct SentimentArguments {
    /// The run.
    #[command(flatten)]
    pub asked: AskedRun,
    /// A manifest: the first of the `captions` of an item is what is said in it.
    pub manifest: PathBuf,
    /// Features of the frames by id, if the run reads any.
    #[arg(long, value_name = "FILE")]
    pub features: Option<PathBuf>,
    /// Acoustic features by id, if the run reads any.
    #[arg(long, value_name = "FILE")]
    pub audio_features: Option<PathBuf>,
    /// Features of the text by id, if the run reads any beside the words.
    #[arg(long, value_name = "FILE")]
    pub text_features: Option<PathBuf>,
}
