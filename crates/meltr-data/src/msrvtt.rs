//! MSR-VTT as UniVL holds it: videos, captions, transcripts, and the three splits.

use std::collections::HashMap;
use std::path::Path;

use crate::caption_set::{CaptionPair, CaptionSet, CaptionSetBuilder};
use crate::csv_table::{CsvTable, Delimiter};
use crate::error::DataError;
use crate::id_list::IdList;
use crate::json_lists::{List, Need, read_lists};
use crate::text_file::{TextFile, excerpt};

/// Videos of the training sets 7k and full: 6513 for training and 497 for validation.
const N_TRAIN_VIDEOS: usize = 7010;

const LISTS: &[List] = &[
    List {
        name: "videos",
        need: Need::Required,
        fields: &["video_id", "url", "transcript"],
    },
    List {
        name: "sentences",
        need: Need::Required,
        fields: &["video_id", "caption"],
    },
];

/// The content of `MSRVTT_data.json` or `MSRVTT_transcript_data_v2.json`.
///
/// `{"videos": [{"video_id", "url", "transcript"?}, ..], "sentences": [{"video_id", "caption"},
/// ..]}`; the published file has 10,000 videos with 20 captions each. Further keys are skipped. The
/// file with transcripts was never published; by the comments of the reference code 55,580 of the
/// 140,200 training pairs have one.
///
/// # Splits
///
/// | split | training pairs | test |
/// |---|---|---|
/// | 7k | [`train_7k`](Self::train_7k): 140,200 | [`JsfusionTest`]: 1000 pairs |
/// | 9k | [`train_9k`](Self::train_9k): 180,000 | [`JsfusionTest`]: 1000 pairs |
/// | full | as 7k | [`test_full`](Self::test_full): 2990 videos |
///
/// # References
///
/// - Reference code: `mlvlab/MELTR` `univl/dataloaders`. It scores a caption of the full test set
///   against the first caption only; here all captions of the video are references, as the
///   published numbers need, and the first is given apart as the label.
#[derive(Clone, Debug)]
pub struct Msrvtt {
    captions: CaptionSet,
    urls: Vec<Option<String>>,
    transcripts: Vec<Option<String>>,
}

/// One video of a test of captioning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsrvttTestVideo<'a> {
    /// The video.
    pub video_id: &'a str,
    /// Its first caption.
    pub label: &'a str,
    /// All its captions, the label included.
    pub references: Vec<&'a str>,
    /// What is said in it, if that is known.
    pub transcript: Option<&'a str>,
}

impl Msrvtt {
    /// Reads such a file.
    ///
    /// # Errors
    ///
    /// Returns an error that names the line and the element, if the file is absent, unreadable,
    /// not UTF-8 or not JSON, if a key is missing, occurs twice or is no string, if an id is
    /// blank, if a video occurs twice or a caption's video never, and if there is no video or no
    /// caption.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::read(&TextFile::open(path, "JSON")?)
    }

    fn read(file: &TextFile) -> Result<Self, DataError> {
        let mut ids: Vec<String> = Vec::new();
        let mut rows: HashMap<String, usize> = HashMap::new();
        let mut urls: Vec<Option<String>> = Vec::new();
        let mut transcripts: Vec<Option<String>> = Vec::new();
        let mut captions = CaptionSetBuilder::default();
        read_lists(file, LISTS, |list, index, record| {
            let id = record.id("video_id")?;
            if list == 1 {
                captions.add(id, record.text("caption")?);
                return Ok(());
            }
            if let Some(first) = rows.insert(id.to_owned(), index) {
                return Err(format!(
                    "video `{}` already is videos[{first}]",
                    excerpt(id)
                ));
            }
            ids.push(id.to_owned());
            urls.push(record.optional_text("url")?.map(str::to_owned));
            transcripts.push(record.optional_text("transcript")?.map(str::to_owned));
            Ok(())
        })?;
        let captions = captions.finish_with(file, "sentences", ids, rows)?;
        Ok(Self {
            captions,
            urls,
            transcripts,
        })
    }

    /// The captions; its videos are in the order of `videos`.
    #[must_use]
    pub fn captions(&self) -> &CaptionSet {
        &self.captions
    }

    /// Where the video of a clip was found; two clips may share it.
    #[must_use]
    pub fn url(&self, video_id: &str) -> Option<&str> {
        let row = self.captions.row(video_id)?;
        self.urls.get(row)?.as_deref()
    }

    /// What is said in a video, if the file knows.
    #[must_use]
    pub fn transcript(&self, video_id: &str) -> Option<&str> {
        let row = self.captions.row(video_id)?;
        self.transcripts.get(row)?.as_deref()
    }

    /// All captions of the first 7010 videos: the training set of the splits 7k and full.
    ///
    /// # Errors
    ///
    /// Returns an error if the file has fewer videos.
    pub fn train_7k(&self) -> Result<Vec<CaptionPair<'_>>, DataError> {
        self.pairs_of_first(N_TRAIN_VIDEOS)
    }

    /// All captions of the first `n_videos` videos, in the order of the sentences.
    ///
    /// # Errors
    ///
    /// Returns an error if the file has fewer videos.
    pub fn pairs_of_first(&self, n_videos: usize) -> Result<Vec<CaptionPair<'_>>, DataError> {
        let n_found = self.captions.video_ids().len();
        if n_found < n_videos {
            let reason = format!("has {n_found} videos, the split needs the first {n_videos}");
            return Err(DataError::item(self.captions.path(), "videos", reason));
        }
        Ok(self.captions.pairs_where(|row| row < n_videos))
    }

    /// All captions of the videos of `MSRVTT_train.9k.csv`: the training set of the split 9k.
    ///
    /// For one random caption of every video see [`CaptionSet::one_pair_each`].
    ///
    /// # Errors
    ///
    /// Returns an error with the line of the first id that has no caption here.
    pub fn train_9k(&self, train: &IdList) -> Result<Vec<CaptionPair<'_>>, DataError> {
        self.captions.pairs_of(train)
    }

    /// The videos behind the first 7010: the test set of the split full.
    ///
    /// # Errors
    ///
    /// Returns an error if there is none, or if one of them has no caption.
    pub fn test_full(&self) -> Result<Vec<MsrvttTestVideo<'_>>, DataError> {
        self.test_from(N_TRAIN_VIDEOS)
    }

    /// The videos from number `first` on, counted from 0, each with all its captions.
    ///
    /// # Errors
    ///
    /// Returns an error if there is none, or if one of them has no caption.
    pub fn test_from(&self, first: usize) -> Result<Vec<MsrvttTestVideo<'_>>, DataError> {
        let ids = self.captions.video_ids();
        let path = self.captions.path();
        if ids.len() <= first {
            let reason = format!(
                "has {} videos, the test set starts behind the first {first}",
                ids.len()
            );
            return Err(DataError::item(path, "videos", reason));
        }
        let mut videos = Vec::with_capacity(ids.len() - first);
        for (row, video_id) in ids.iter().enumerate().skip(first) {
            let references = self.captions.captions_of_row(row);
            let Some(&label) = references.first() else {
                let reason = "has no caption, the test set needs one";
                return Err(DataError::item(path, excerpt(video_id), reason));
            };
            videos.push(MsrvttTestVideo {
                video_id,
                label,
                references,
                transcript: self.transcripts.get(row).and_then(Option::as_deref),
            });
        }
        Ok(videos)
    }
}

/// One pair of the retrieval test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsfusionPair {
    /// The video.
    pub video_id: String,
    /// Its sentence.
    pub sentence: String,
}

/// The retrieval test set of the splits 7k and 9k: `MSRVTT_JSFUSION_test.csv`.
///
/// A table separated by commas with 1000 rows; of its columns `video_id` and `sentence` are read.
#[derive(Clone, Debug)]
pub struct JsfusionTest {
    pairs: Vec<JsfusionPair>,
}

impl JsfusionTest {
    /// Reads such a table.
    ///
    /// # Errors
    ///
    /// As [`CsvTable::open`]; also if an id or a sentence is blank or a video occurs twice.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let table = CsvTable::open(path, Delimiter::Comma, &["video_id", "sentence"])?;
        table.unique("video_id")?;
        let mut pairs = Vec::with_capacity(table.n_rows());
        for row in table.rows() {
            pairs.push(JsfusionPair {
                video_id: row.filled("video_id")?.to_owned(),
                sentence: row.filled("sentence")?.to_owned(),
            });
        }
        Ok(Self { pairs })
    }

    /// The pairs in the order of the file, at least one.
    #[must_use]
    pub fn pairs(&self) -> &[JsfusionPair] {
        &self.pairs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn msrvtt(text: &str) -> Result<Msrvtt, DataError> {
        let bytes = text.as_bytes().to_vec();
        Msrvtt::read(&TextFile::from_bytes(Path::new("a.json"), "JSON", bytes)?)
    }

    /// `n` videos with two captions each, the captions first.
    fn many(n: usize) -> Msrvtt {
        let mut sentences = Vec::new();
        let mut videos = Vec::new();
        for video in 0..n {
            // Captions in another order than the videos.
            let other = n - 1 - video;
            sentences.push(format!(
                r#"{{"video_id": "v{other}", "caption": "{other} first"}}"#
            ));
            videos.push(format!(r#"{{"video_id": "v{video}", "url": "u"}}"#));
        }
        for video in 0..n {
            sentences.push(format!(
                r#"{{"video_id": "v{video}", "caption": "{video} second"}}"#
            ));
        }
        let text = format!(
            r#"{{"sentences": [{}], "videos": [{}]}}"#,
            sentences.join(","),
            videos.join(",")
        );
        msrvtt(&text).unwrap()
    }

    #[test]
    fn the_splits_7k_and_full_are_cut_at_the_order_of_the_videos() {
        let set = many(7012);
        let train = set.train_7k().unwrap();
        assert_eq!(train.len(), 14_020);
        assert_eq!(train[0].caption, "7009 first");
        assert_eq!(train[14_019].video_id, "v7009");
        let test = set.test_full().unwrap();
        assert_eq!(test.len(), 2);
        let expected = MsrvttTestVideo {
            video_id: "v7010",
            label: "7010 first",
            references: vec!["7010 first", "7010 second"],
            transcript: None,
        };
        assert_eq!(test[0], expected);
        assert_eq!(set.url("v3"), Some("u"));
    }

    #[test]
    fn a_split_that_the_file_is_too_small_for_is_an_error() {
        let set = many(3);
        let error = set.train_7k().unwrap_err().to_string();
        assert!(
            error.contains("has 3 videos, the split needs the first 7010"),
            "{error}"
        );
        assert!(set.test_full().is_err() && set.test_from(3).is_err());
        assert_eq!(set.test_from(2).unwrap().len(), 1);
        assert_eq!(set.pairs_of_first(3).unwrap().len(), 6);
    }

    #[test]
    fn videos_have_to_be_distinct_and_known() {
        let cases = [
            (
                r#"{"videos": [{"video_id": "a"}, {"video_id": "a"}], "sentences": []}"#,
                "item `videos[1]`: video `a` already is videos[0]",
            ),
            (
                r#"{"videos": [{"video_id": "a"}], "sentences": [
                    {"video_id": "a", "caption": ""}, {"video_id": "b", "caption": ""}]}"#,
                "item `sentences[1]`: video `b` is not in 'videos'",
            ),
            (r#"{"videos": [], "sentences": []}"#, "no sentences"),
            (
                r#"{"videos": [{"video_id": "a", "transcript": 1}], "sentences": []}"#,
                "item `videos[0]`: 'transcript' is a number, expected a string",
            ),
        ];
        for (text, message) in cases {
            let error = msrvtt(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
        let text = r#"{"videos": [{"video_id": "a"}, {"video_id": "b"}],
            "sentences": [{"video_id": "a", "caption": "x"}]}"#;
        let error = msrvtt(text).unwrap().test_from(0).unwrap_err().to_string();
        assert!(error.contains("item `b`: has no caption"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(file) = TextFile::from_bytes(Path::new("a"), "JSON", bytes) {
                let _ = Msrvtt::read(&file);
            }
        }

        #[test]
        fn a_file_cut_anywhere_is_an_error(cut in 0_usize..96) {
            let text = r#"{"videos": [{"video_id": "a"}, {"video_id": "b"}],"sentences": [{"video_id": "a", "caption": "x"}]}"#;
            prop_assert!(msrvtt(&text[..cut]).is_err());
        }
    }
}
