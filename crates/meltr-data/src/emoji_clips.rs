//! The embedded set of 699 animated clips with names, keywords and human sentiment.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ndarray::{Array, Array2, Array3, ArrayD, Axis, Dimension, Ix2, Ix3};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::batch::VideoTextSample;
use crate::error::{DataError, DataErrorKind};
use crate::seed::RandomStream;
use crate::tensor_file::TensorFile;
use crate::word_piece::{WordPiece, utf8};

const CLIPS: &str = "clips.tsv";
const VOCAB: &str = "vocab.txt";
const TOKENS: &str = "tokens.safetensors";
const FEATURES: &str = "features.safetensors";
const SUMS: &str = "SHA256SUMS";

/// What an error says in place of the folder of the embedded files.
const EMBEDDED: &str = "emoji-clips (embedded)";

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// For fitting parameters.
    Train,
    /// For choosing settings.
    Valid,
    /// For the final figures only.
    Test,
}

impl Split {
    /// Every split, in the order train, valid, test.
    pub const ALL: [Self; 3] = [Self::Train, Self::Valid, Self::Test];

    /// The name in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Split {
    type Err = DataErrorKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|split| split.name() == text)
            .ok_or_else(|| DataErrorKind::UnknownSplit {
                split: text.to_owned(),
                known: "train, valid, test",
            })
    }
}

/// How often people used a clip's emoji in messages of each sentiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentimentCounts {
    /// Number of negative messages.
    pub negative: u32,
    /// Number of neutral messages.
    pub neutral: u32,
    /// Number of positive messages.
    pub positive: u32,
}

/// What is known about one clip besides its frames.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// Hexadecimal code points, e.g. `1f30a`.
    pub code: String,
    /// The emoji as text.
    pub emoji: String,
    /// English name, e.g. `water wave`.
    pub name: String,
    /// English keywords in the order of the file; may be empty.
    pub keywords: Vec<String>,
    /// Group, e.g. `travel & places`.
    pub group: String,
    /// Subgroup, e.g. `weather`.
    pub subgroup: String,
    /// Mean sentiment `(positive − negative) / (n + 3)` in `[-1, 1]` of `n` messages, if rated.
    pub sentiment: Option<f32>,
    /// The messages behind [`sentiment`](Self::sentiment), if rated.
    pub sentiment_counts: Option<SentimentCounts>,
    /// The split, the same for variants of a name by gender or person.
    pub split: Split,
}

/// Which keywords go into a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeywordUse {
    /// The name only.
    None,
    /// Every keyword, in the order of the file.
    All,
    /// A random number of keywords (uniform from none to all), randomly chosen and ordered.
    Sampled,
}

/// How a clip is put into words.
///
/// ```
/// use meltr_data::{ClipText, EmojiClips, KeywordUse};
///
/// # fn main() -> Result<(), meltr_data::DataError> {
/// let set = EmojiClips::embedded()?;
/// let text = ClipText { keywords: KeywordUse::All }.text(&set.clips()[1], 0);
/// assert_eq!(text, "closed umbrella closed clothing rain umbrella");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipText {
    /// Which keywords follow the name.
    pub keywords: KeywordUse,
}

impl ClipText {
    /// The name of the clip, then its keywords, separated by blanks.
    ///
    /// The seed matters for [`KeywordUse::Sampled`] only.
    #[must_use]
    pub fn text(&self, clip: &Clip, seed: u64) -> String {
        let mut words = vec![clip.name.as_str()];
        let keywords = clip.keywords.iter().map(String::as_str);
        match self.keywords {
            KeywordUse::None => {}
            KeywordUse::All => words.extend(keywords),
            KeywordUse::Sampled => {
                let mut stream = RandomStream::new(seed);
                let mut keywords: Vec<&str> = keywords.collect();
                let count = stream.below(keywords.len() + 1);
                stream.shuffle(&mut keywords);
                words.extend(&keywords[..count]);
            }
        }
        words.join(" ")
    }
}

/// 699 animated clips, each with a text, frame features and, for some, a human sentiment score.
///
/// The frame features are those of MobileNetV2 for the frames of
/// [`EmojiFrames`](crate::EmojiFrames), as principal components by falling variance, so that the
/// first columns are the best smaller features; the same holds for the token embeddings. Artwork,
/// texts and counts are from public sources named, with their licences, in the folder of the files.
#[derive(Clone, Debug)]
pub struct EmojiClips {
    path: PathBuf,
    clips: Vec<Clip>,
    frames: Array3<f32>,
    token_embeddings: Array2<f32>,
    word_piece: WordPiece,
}

impl EmojiClips {
    /// The set that is compiled into this crate; its checksums are verified.
    ///
    /// # Errors
    ///
    /// Returns an error if the crate was built from damaged files.
    pub fn embedded() -> Result<Self, DataError> {
        Self::from_files(Files {
            folder: Path::new(EMBEDDED),
            sums: include_bytes!("../assets/emoji-clips/SHA256SUMS").to_vec(),
            clips: include_bytes!("../assets/emoji-clips/clips.tsv").to_vec(),
            vocab: include_bytes!("../assets/emoji-clips/vocab.txt").to_vec(),
            tokens: include_bytes!("../assets/emoji-clips/tokens.safetensors").to_vec(),
            features: include_bytes!("../assets/emoji-clips/features.safetensors").to_vec(),
        })
    }

    /// Reads a set of the same format from a folder.
    ///
    /// The folder holds `clips.tsv` (one row a clip, named columns), `vocab.txt` (one token a line),
    /// `tokens.safetensors` (`embeddings`), `features.safetensors` (`frames`) and `SHA256SUMS` (as
    /// written by `sha256sum`). Numbers of clips, frames, columns and tokens are free.
    ///
    /// # Shapes
    ///
    /// - `embeddings`: `[V, D]`
    /// - `frames`: `[N, F, K]`
    ///
    /// # Errors
    ///
    /// Returns an error that names the file, and where it can the line, if a file is absent,
    /// truncated, altered (checksum), malformed, or does not fit the others.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|source| DataError::reading(&path, source))
        };
        Self::from_files(Files {
            folder,
            sums: read(SUMS)?,
            clips: read(CLIPS)?,
            vocab: read(VOCAB)?,
            tokens: read(TOKENS)?,
            features: read(FEATURES)?,
        })
    }

    fn from_files(files: Files<'_>) -> Result<Self, DataError> {
        let place = |name: &str| files.folder.join(name);
        let sums = parse_sums(&place(SUMS), utf8(&place(SUMS), &files.sums)?)?;
        for (name, bytes) in [
            (CLIPS, &files.clips),
            (VOCAB, &files.vocab),
            (TOKENS, &files.tokens),
            (FEATURES, &files.features),
        ] {
            verify(files.folder, &sums, name, bytes)?;
        }
        let clips = parse_clips(&place(CLIPS), utf8(&place(CLIPS), &files.clips)?)?;
        let vocab = utf8(&place(VOCAB), &files.vocab)?;
        let word_piece = WordPiece::from_vocab_text(&place(VOCAB), vocab)?;
        let frames: Array3<f32> = read_array::<Ix3>(
            &place(FEATURES),
            files.features,
            "frames",
            clips.len(),
            "F, K",
        )?;
        let token_embeddings: Array2<f32> = read_array::<Ix2>(
            &place(TOKENS),
            files.tokens,
            "embeddings",
            word_piece.vocab_size(),
            "D",
        )?;
        Ok(Self {
            path: files.folder.to_path_buf(),
            clips,
            frames,
            token_embeddings,
            word_piece,
        })
    }

    /// The folder, or what stands for it in errors.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The clips in the order of the file.
    #[must_use]
    pub fn clips(&self) -> &[Clip] {
        &self.clips
    }

    /// Features of evenly spaced frames, principal components by falling variance.
    ///
    /// # Shapes
    ///
    /// - output: `[N, F, K]` with `F` = 8 and `K` = 512 in the embedded set
    #[must_use]
    pub fn frames(&self) -> &Array3<f32> {
        &self.frames
    }

    /// Embeddings of the tokens, principal components by falling variance.
    ///
    /// # Shapes
    ///
    /// - output: `[V, D]` with `D` = 384 in the embedded set
    #[must_use]
    pub fn token_embeddings(&self) -> &Array2<f32> {
        &self.token_embeddings
    }

    /// The tokenizer, its vocabulary restricted to what the texts of the set need.
    #[must_use]
    pub fn word_piece(&self) -> &WordPiece {
        &self.word_piece
    }

    /// The positions of the clips that belong to one of the splits, in increasing order.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::EmptySplit`] if there is none.
    pub fn indices(&self, splits: &[Split]) -> Result<Vec<usize>, DataError> {
        let indices: Vec<usize> = self
            .clips
            .iter()
            .enumerate()
            .filter(|(_, clip)| splits.contains(&clip.split))
            .map(|(index, _)| index)
            .collect();
        if indices.is_empty() {
            let names: Vec<&str> = splits.iter().map(|split| split.name()).collect();
            let split = format!("[{}]", names.join(", "));
            return Err(DataError::new(
                &self.path,
                DataErrorKind::EmptySplit { split },
            ));
        }
        Ok(indices)
    }

    /// One clip with its text, to be put into a batch.
    ///
    /// # Errors
    ///
    /// Returns [`DataErrorKind::IndexOutOfRange`] if there is no such clip.
    pub fn sample(
        &self,
        index: usize,
        text: ClipText,
        seed: u64,
    ) -> Result<VideoTextSample, DataError> {
        let clip = self.clips.get(index).ok_or_else(|| {
            let len = self.clips.len();
            DataError::new(&self.path, DataErrorKind::IndexOutOfRange { index, len })
        })?;
        Ok(VideoTextSample {
            id: index,
            text: text.text(clip, seed),
            caption: None,
            frames: self.frames.index_axis(Axis(0), index).to_owned(),
        })
    }
}

struct Files<'a> {
    folder: &'a Path,
    sums: Vec<u8>,
    clips: Vec<u8>,
    vocab: Vec<u8>,
    tokens: Vec<u8>,
    features: Vec<u8>,
}

/// Checksums by file name, from lines as `sha256sum` writes them.
pub(crate) fn parse_sums(path: &Path, text: &str) -> Result<HashMap<String, String>, DataError> {
    let mut sums = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let Some((sum, name)) = line.split_once(char::is_whitespace) else {
            let kind = bad_cell("checksum", "a SHA-256, two blanks and a file name", line);
            return Err(DataError::at_line(path, index + 1, kind));
        };
        let name = name
            .trim_start()
            .trim_start_matches('*')
            .trim_start_matches("./");
        sums.insert(name.to_owned(), sum.to_ascii_lowercase());
    }
    Ok(sums)
}

pub(crate) fn verify(
    folder: &Path,
    sums: &HashMap<String, String>,
    name: &str,
    bytes: &[u8],
) -> Result<(), DataError> {
    let Some(expected) = sums.get(name) else {
        let kind = DataErrorKind::MissingChecksum {
            file: name.to_owned(),
        };
        return Err(DataError::new(folder.join(SUMS), kind));
    };
    let digits = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>();
    let actual = digits.concat();
    if *expected != actual {
        let kind = DataErrorKind::Checksum {
            expected: expected.clone(),
            actual,
        };
        return Err(DataError::new(folder.join(name), kind));
    }
    Ok(())
}

/// A finite array with a given number of rows.
fn read_array<D: Dimension>(
    path: &Path,
    bytes: Vec<u8>,
    name: &str,
    n_rows: usize,
    other_axes: &str,
) -> Result<Array<f32, D>, DataError> {
    let array: ArrayD<f32> = TensorFile::from_bytes(path, bytes)?.f32(name)?;
    let actual = array.shape().to_vec();
    let wrong_shape = || {
        let name = name.to_owned();
        let expected = format!("[{n_rows}, {other_axes}] without an empty axis");
        DataError::new(
            path,
            DataErrorKind::WrongShape {
                name,
                expected,
                actual: actual.clone(),
            },
        )
    };
    if actual.first() != Some(&n_rows) || actual.contains(&0) {
        return Err(wrong_shape());
    }
    if !array.iter().all(|value| value.is_finite()) {
        return Err(DataError::new(
            path,
            DataErrorKind::NonFinite {
                name: name.to_owned(),
            },
        ));
    }
    array.into_dimensionality::<D>().map_err(|_| wrong_shape())
}

fn parse_clips(path: &Path, text: &str) -> Result<Vec<Clip>, DataError> {
    let mut lines = text.lines().enumerate();
    let Some((_, header)) = lines.next() else {
        return Err(DataError::new(path, DataErrorKind::EmptyTable));
    };
    let columns = Columns::find(header).map_err(|kind| DataError::at_line(path, 1, kind))?;
    let mut clips = Vec::new();
    let mut codes = HashMap::new();
    for (index, line) in lines {
        let at_line = |kind| DataError::at_line(path, index + 1, kind);
        let clip = columns.clip(line).map_err(at_line)?;
        if let Some(first) = codes.insert(clip.code.clone(), index + 1) {
            let expected = format!("another code than that of line {first}");
            return Err(at_line(bad_cell("code", &expected, &clip.code)));
        }
        clips.push(clip);
    }
    if clips.is_empty() {
        return Err(DataError::new(path, DataErrorKind::EmptyTable));
    }
    Ok(clips)
}

/// Where the columns of the table are.
struct Columns {
    len: usize,
    code: usize,
    emoji: usize,
    name: usize,
    keywords: usize,
    group: usize,
    subgroup: usize,
    negative: usize,
    neutral: usize,
    positive: usize,
    sentiment: usize,
    split: usize,
}

impl Columns {
    fn find(header: &str) -> Result<Self, DataErrorKind> {
        let names: Vec<&str> = header.split('\t').collect();
        let find = |name: &str| {
            let place = names.iter().position(|&other| other == name);
            place.ok_or_else(|| bad_cell(name, "present in the header", "absent"))
        };
        Ok(Self {
            len: names.len(),
            code: find("code")?,
            emoji: find("emoji")?,
            name: find("name")?,
            keywords: find("keywords")?,
            group: find("group")?,
            subgroup: find("subgroup")?,
            negative: find("neg")?,
            neutral: find("neu")?,
            positive: find("pos")?,
            sentiment: find("sentiment")?,
            split: find("split")?,
        })
    }

    fn clip(&self, line: &str) -> Result<Clip, DataErrorKind> {
        let cells: Vec<&str> = line.split('\t').collect();
        if cells.len() != self.len {
            return Err(DataErrorKind::RowWidth {
                expected: self.len,
                actual: cells.len(),
            });
        }
        let text = |column: usize, name: &str| match cells[column].trim() {
            "" => Err(bad_cell(name, "a text", "")),
            text => Ok(text.to_owned()),
        };
        let keywords = cells[self.keywords].split('|').map(str::trim);
        let counts = [
            count(cells[self.negative], "neg")?,
            count(cells[self.neutral], "neu")?,
            count(cells[self.positive], "pos")?,
        ];
        let sentiment_counts = match counts {
            [Some(negative), Some(neutral), Some(positive)] => Some(SentimentCounts {
                negative,
                neutral,
                positive,
            }),
            [None, None, None] => None,
            _ => {
                return Err(bad_cell(
                    "neg, neu, pos",
                    "three counts or three empty cells",
                    "some",
                ));
            }
        };
        Ok(Clip {
            code: text(self.code, "code")?,
            emoji: text(self.emoji, "emoji")?,
            name: text(self.name, "name")?,
            keywords: keywords
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect(),
            group: text(self.group, "group")?,
            subgroup: text(self.subgroup, "subgroup")?,
            sentiment: sentiment(cells[self.sentiment])?,
            sentiment_counts,
            split: cells[self.split].trim().parse()?,
        })
    }
}

fn count(cell: &str, column: &str) -> Result<Option<u32>, DataErrorKind> {
    match cell.trim() {
        "" => Ok(None),
        digits => match digits.parse() {
            Ok(count) => Ok(Some(count)),
            Err(_) => Err(bad_cell(column, "a count or empty", cell)),
        },
    }
}

fn sentiment(cell: &str) -> Result<Option<f32>, DataErrorKind> {
    match cell.trim() {
        "" => Ok(None),
        digits => match digits.parse::<f32>() {
            Ok(score) if (-1.0..=1.0).contains(&score) => Ok(Some(score)),
            _ => Err(bad_cell("sentiment", "a number in [-1, 1] or empty", cell)),
        },
    }
}

fn bad_cell(column: &str, expected: &str, found: &str) -> DataErrorKind {
    DataErrorKind::BadTable {
        column: column.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const HEADER: &str =
        "code\temoji\tname\tkeywords\tgroup\tsubgroup\tneg\tneu\tpos\tsentiment\tsplit";

    fn parse(row: &str) -> Result<Vec<Clip>, DataError> {
        parse_clips(Path::new("clips.tsv"), &format!("{HEADER}\n{row}\n"))
    }

    fn clip(keywords: &str) -> Clip {
        parse(&format!(
            "1f30a\t🌊\twater wave\t{keywords}\tg\ts\t\t\t\t\ttrain"
        ))
        .unwrap()
        .remove(0)
    }

    #[test]
    fn the_embedded_set_has_the_published_size_and_splits() {
        let set = EmojiClips::embedded().unwrap();
        assert_eq!(set.clips().len(), 699);
        assert_eq!(set.frames().dim(), (699, 8, 512));
        assert_eq!(
            set.token_embeddings().dim(),
            (set.word_piece().vocab_size(), 384)
        );
        let sizes = Split::ALL.map(|split| set.indices(&[split]).unwrap().len());
        assert_eq!(sizes, [497, 75, 127]);
        assert_eq!(
            set.indices(&[Split::Valid, Split::Train]).unwrap().len(),
            572
        );
        let rated: Vec<&Clip> = set
            .clips()
            .iter()
            .filter(|c| c.sentiment.is_some())
            .collect();
        assert_eq!(rated.len(), 306);
        for clip in rated {
            let counts = clip.sentiment_counts.unwrap();
            let n = counts.negative + counts.neutral + counts.positive;
            let score =
                (f64::from(counts.positive) - f64::from(counts.negative)) / (f64::from(n) + 3.0);
            // The table has four decimals.
            assert!(
                (f64::from(clip.sentiment.unwrap()) - score).abs() < 1e-4,
                "{}",
                clip.name
            );
        }
    }

    #[test]
    fn the_embedded_vocabulary_spells_every_text() {
        let set = EmojiClips::embedded().unwrap();
        let unknown = set.word_piece().special().unknown;
        let text = ClipText {
            keywords: KeywordUse::All,
        };
        for clip in set.clips() {
            assert!(
                !set.word_piece()
                    .encode(&text.text(clip, 0))
                    .contains(&unknown),
                "{clip:?}"
            );
        }
    }

    #[test]
    fn components_are_ordered_by_variance() {
        let set = EmojiClips::embedded().unwrap();
        let energy = |column: usize| {
            set.frames()
                .index_axis(Axis(2), column)
                .iter()
                .map(|&x| f64::from(x).powi(2))
                .sum()
        };
        let (first, middle, last): (f64, f64, f64) = (energy(0), energy(100), energy(511));
        assert!(first > middle && middle > last, "{first} {middle} {last}");
    }

    #[test]
    fn a_row_is_read() {
        let row = "1f30a\t🌊\twater wave\tsea|surf\tplaces\tweather\t8\t30\t57\t0.5\ttest";
        let clips = parse(row).unwrap();
        assert_eq!(
            clips,
            [Clip {
                code: "1f30a".into(),
                emoji: "🌊".into(),
                name: "water wave".into(),
                keywords: vec!["sea".into(), "surf".into()],
                group: "places".into(),
                subgroup: "weather".into(),
                sentiment: Some(0.5),
                sentiment_counts: Some(SentimentCounts {
                    negative: 8,
                    neutral: 30,
                    positive: 57
                }),
                split: Split::Test,
            }]
        );
    }

    #[test]
    fn empty_keywords_and_an_absent_score_are_allowed() {
        let clip = clip("");
        assert!(clip.keywords.is_empty() && clip.sentiment.is_none());
        assert!(clip.sentiment_counts.is_none());
    }

    #[test]
    fn bad_rows_are_errors_with_their_line() {
        let cases = [
            ("1f\t🌊\tw", "row has 3 cells but the header has 11"),
            ("1f\t🌊\tw\t\tg\ts\t1\t2\tx\t\ttrain", "column `pos` is `x`"),
            ("1f\t🌊\tw\t\tg\ts\t1\t\t2\t\ttrain", "three counts"),
            (
                "1f\t🌊\tw\t\tg\ts\t\t\t\t1.5\ttrain",
                "column `sentiment` is `1.5`",
            ),
            (
                "1f\t🌊\tw\t\tg\ts\t\t\t\tNaN\ttrain",
                "column `sentiment` is `NaN`",
            ),
            ("1f\t🌊\t\t\tg\ts\t\t\t\t\ttrain", "column `name` is ``"),
            (
                "1f\t🌊\tw\t\tg\ts\t\t\t\t\tdev",
                "unknown split `dev`; use one of train, valid",
            ),
        ];
        for (row, message) in cases {
            let text = parse(row).unwrap_err().to_string();
            assert!(text.starts_with("clips.tsv:2: "), "{text}");
            assert!(text.contains(message), "{text}");
        }
    }

    #[test]
    fn a_code_that_occurs_twice_and_an_absent_column_are_errors() {
        let row = "1f\t🌊\tw\t\tg\ts\t\t\t\t\ttrain";
        let error = parse(&format!("{row}\n{row}")).unwrap_err();
        assert_eq!(error.line, Some(3));
        let error = parse_clips(Path::new("clips.tsv"), "code\tname\n").unwrap_err();
        assert!(error.to_string().contains("column `emoji` is `absent`"));
        assert!(parse_clips(Path::new("clips.tsv"), "").is_err());
        assert!(parse_clips(Path::new("clips.tsv"), HEADER).is_err());
    }

    #[test]
    fn a_split_is_read_from_its_name() {
        for split in Split::ALL {
            assert_eq!(split.to_string().parse::<Split>().unwrap(), split);
        }
        let error = "val".parse::<Split>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown split `val`; use one of train, valid, test"
        );
    }

    #[test]
    fn an_empty_choice_of_splits_is_an_error() {
        let error = EmojiClips::embedded().unwrap().indices(&[]).unwrap_err();
        assert!(matches!(error.kind, DataErrorKind::EmptySplit { .. }));
    }

    #[test]
    fn texts_hold_the_keywords_that_are_asked_for() {
        let clip = clip("a|b|c");
        let text = |keywords, seed| ClipText { keywords }.text(&clip, seed);
        assert_eq!(text(KeywordUse::None, 1), "water wave");
        assert_eq!(text(KeywordUse::All, 1), "water wave a b c");
        let sampled: HashSet<String> = (0..1000)
            .map(|seed| text(KeywordUse::Sampled, seed))
            .collect();
        // 1 + 3 + 6 + 6 ordered choices of none to three of three keywords.
        assert_eq!(sampled.len(), 16);
        assert_eq!(text(KeywordUse::Sampled, 5), text(KeywordUse::Sampled, 5));
    }

    #[test]
    fn a_sample_beyond_the_set_is_an_error() {
        let set = EmojiClips::embedded().unwrap();
        let error = set
            .sample(
                699,
                ClipText {
                    keywords: KeywordUse::None,
                },
                0,
            )
            .unwrap_err();
        assert!(matches!(
            error.kind,
            DataErrorKind::IndexOutOfRange {
                index: 699,
                len: 699
            }
        ));
    }

    #[test]
    fn checksum_lists_may_mark_binary_files() {
        let sums = parse_sums(Path::new("SUMS"), "AB  a.txt\ncd *./b.bin\n").unwrap();
        assert_eq!(
            (sums["a.txt"].as_str(), sums["b.bin"].as_str()),
            ("ab", "cd")
        );
        assert_eq!(
            parse_sums(Path::new("SUMS"), "abc\n").unwrap_err().line,
            Some(1)
        );
    }
}
