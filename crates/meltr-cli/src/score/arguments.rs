//! The command line of `meltr score`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Arguments of `meltr score`.
#[derive(Debug, Args)]
pub struct ScoreArguments {
    /// What to score.
    #[command(subcommand)]
    pub command: ScoreCommand,
}

/// What can be scored.
#[derive(Debug, Subcommand)]
pub enum ScoreCommand {
    /// BLEU, ROUGE-L, CIDEr and METEOR of captions.
    #[command(
        after_help = "Captions and references are JSON: an object of texts (or lists of texts) by \
                      id, COCO's results and annotations, or one object a line with `id` and \
                      `caption` (or `references`). One file alone holds both: an object of \
                      {\"hyp\": ..., \"refs\": [...]} by id.\n\n\
                      Example:\n  meltr score captions results.json annotations.json \
                      --tokenize ptb\n  meltr score captions both.json --json"
    )]
    Captions(CaptionScoreArguments),
    /// Recall and ranks of a similarity matrix.
    #[command(
        after_help = "Rows are texts and columns are videos. Shares are in [0, 1].\n\n\
                      Example:\n  meltr score retrieval similarity.npy\n  \
                      meltr score retrieval matrices.safetensors --tensor similarity \
                      --pairs video_of_text --ties pessimistic"
    )]
    Retrieval(RetrievalScoreArguments),
    /// Accuracy of answers to questions.
    #[command(
        visible_alias = "qa",
        after_help = "Both files are JSON: an object of answers by id, or one object a line with \
                      `id` and `answer`.\n\n\
                      Example:\n  meltr score answers predictions.jsonl truth.jsonl"
    )]
    Answers(AnswerScoreArguments),
    /// Error, correlation, accuracies and F1 of predicted sentiment.
    #[command(
        after_help = "Has0 compares non-negative with negative over all items; Non0 compares \
                      positive with negative over items whose label is not 0. F1_swapped is \
                      weighted by the predictions, as in some older papers.\n\n\
                      Example:\n  meltr score sentiment predictions.csv\n  \
                      meltr score sentiment run.safetensors --predictions pred --labels label"
    )]
    Sentiment(SentimentScoreArguments),
}

/// Arguments of `meltr score captions`.
#[derive(Debug, Args)]
pub struct CaptionScoreArguments {
    /// The captions, or captions and references in one file.
    pub hypotheses: PathBuf,
    /// The references.
    pub references: Option<PathBuf>,
    /// How captions become tokens.
    #[arg(long, value_enum, default_value_t = TokenizeName::Whitespace)]
    pub tokenize: TokenizeName,
    /// The folder of METEOR's data; without it, METEOR is left out.
    #[arg(long, value_name = "FOLDER")]
    pub meteor: Option<PathBuf>,
    /// Also the scores of every item.
    #[arg(long)]
    pub per_item: bool,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// How captions become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenizeName {
    /// At white space, as UniVL and MELTR do.
    Whitespace,
    /// By the Penn Treebank's rules and without punctuation, as COCO's evaluation does.
    Ptb,
}

/// Arguments of `meltr score retrieval`.
#[derive(Debug, Args)]
pub struct RetrievalScoreArguments {
    /// The similarity matrix [texts, videos]: an npy or a safetensors file.
    pub matrix: PathBuf,
    /// The matrix in a safetensors file. Default: the only one.
    #[arg(long, value_name = "NAME")]
    pub tensor: Option<String>,
    /// The right column of each row, from 0: a tensor of the same file, an npy file, or a text
    /// file with one number a line. Default: the diagonal of a square matrix.
    #[arg(long, value_name = "NAME|FILE")]
    pub pairs: Option<String>,
    /// How wrong items that score exactly like the right one count.
    #[arg(long, value_enum, default_value_t = TieName::Average)]
    pub ties: TieName,
    /// Also what the released scripts of UniVL and All-in-one return.
    #[arg(long)]
    pub released: bool,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// How ties count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TieName {
    /// For the right item.
    Optimistic,
    /// Half.
    Average,
    /// Against the right item.
    Pessimistic,
    /// In random order, in expectation.
    Random,
}

/// Arguments of `meltr score answers`.
#[derive(Debug, Args)]
pub struct AnswerScoreArguments {
    /// The predicted answers.
    pub predictions: PathBuf,
    /// The right answers.
    pub truth: PathBuf,
    /// The answers that the model can give, one a line. Default: every right answer is one.
    #[arg(long, value_name = "FILE")]
    pub vocabulary: Option<PathBuf>,
    /// What becomes of questions whose right answer is not in the vocabulary.
    #[arg(long, value_enum, default_value_t = UnknownName::Wrong)]
    pub unknown: UnknownName,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// What becomes of questions that no model can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnknownName {
    /// They count as wrong.
    Wrong,
    /// They are left out.
    LeftOut,
}

/// Arguments of `meltr score sentiment`.
#[derive(Debug, Args)]
pub struct SentimentScoreArguments {
    /// A table (csv, tsv) or a safetensors file. Logits [items, 3] of negative, neutral and
    /// positive are scored as classes.
    pub file: PathBuf,
    /// The column or tensor of the predictions.
    #[arg(long, value_name = "NAME", default_value = "prediction")]
    pub predictions: String,
    /// The column or tensor of the labels.
    #[arg(long, value_name = "NAME", default_value = "label")]
    pub labels: String,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
}
