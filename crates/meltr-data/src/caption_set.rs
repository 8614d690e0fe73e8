//! Captions grouped by video, as the JSON files of the reference implementations hold them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::id_list::IdList;
use crate::json_lists::{List, Need, read_lists};
use crate::seed::{RandomStream, seed_for};
use crate::text_file::{TextFile, excerpt};
use crate::text_pool::TextPool;

/// Files of VIOLET.
const SENTENCES: &[List] = &[List {
    name: "sentences",
    need: Need::Required,
    fields: &["video_id", "caption"],
}];

/// Files of All-in-one.
const ANNOTATIONS: &[List] = &[List {
    name: "annotations",
    need: Need::Required,
    fields: &["image_id", "caption"],
}];

/// One caption with its video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptionPair<'a> {
    /// The video.
    pub video_id: &'a str,
    /// What somebody wrote about it.
    pub caption: &'a str,
}

/// Videos, each with its captions in the order of the file.
///
/// Readers exist for three layouts:
///
/// - UniVL's `MSRVTT_data.json`: see [`Msrvtt`](crate::Msrvtt);
/// - VIOLET's `train_7k.json`, `train_9k.json` and `test.json`:
///   `{"sentences": [{"video_id": "video0", "caption": ".."}, ..]}`, one element a caption;
/// - All-in-one's `MSR_VTT.json`:
///   `{"annotations": [{"image_id": "video0", "caption": ".."}, ..]}`, the layout of COCO.
///
/// Further keys are skipped. A key that is read and occurs twice in one object is an error.
#[derive(Clone, Debug)]
pub struct CaptionSet {
    path: PathBuf,
    ids: Vec<String>,
    rows: HashMap<String, usize>,
    captions: TextPool,
    /// The video of every caption.
    owners: Vec<u32>,
    /// Numbers of the captions, those of one video together.
    grouped: Vec<u32>,
    /// Where the captions of every video start in `grouped`, and the end of the last.
    starts: Vec<u32>,
}

impl CaptionSet {
    /// Reads VIOLET's `train_7k.json`, `train_9k.json` or `test.json`; the videos are in the order
    /// of their first caption.
    ///
    /// # Errors
    ///
    /// Returns an error that names the line and the element, if the file is absent, unreadable,
    /// not UTF-8 or not JSON, if a key is missing or no string, if an id is blank, and if there is
    /// no caption.
    pub fn open_violet(path: &Path) -> Result<Self, DataError> {
        Self::read(&TextFile::open(path, "JSON")?, SENTENCES)
    }

    /// Reads All-in-one's `MSR_VTT.json`; the videos are in the order of their first caption.
    ///
    /// # Errors
    ///
    /// As [`open_violet`](Self::open_violet).
    pub fn open_all_in_one(path: &Path) -> Result<Self, DataError> {
        Self::read(&TextFile::open(path, "JSON")?, ANNOTATIONS)
    }

    fn read(file: &TextFile, lists: &'static [List]) -> Result<Self, DataError> {
        let mut captions = CaptionSetBuilder::default();
        let id_field = lists[0].fields[0];
        read_lists(file, lists, |_, _, record| {
            captions.add(record.id(id_field)?, record.text("caption")?);
            Ok(())
        })?;
        captions.finish(file, lists[0].name)
    }

    /// The file, or the label that stands for it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ids of the videos.
    #[must_use]
    pub fn video_ids(&self) -> &[String] {
        &self.ids
    }

    /// The number of a video, if it is in the set.
    #[must_use]
    pub fn row(&self, video_id: &str) -> Option<usize> {
        self.rows.get(video_id).copied()
    }

    /// Number of captions of all videos together, at least 1.
    #[must_use]
    pub fn n_captions(&self) -> usize {
        self.captions.len()
    }

    /// The captions of a video in the order of the file; none if it has none or is absent.
    #[must_use]
    pub fn captions_of(&self, video_id: &str) -> Vec<&str> {
        match self.row(video_id) {
            Some(row) => self.captions_of_row(row),
            None => Vec::new(),
        }
    }

    /// Every caption with its video, in the order of the file.
    #[must_use]
    pub fn pairs(&self) -> Vec<CaptionPair<'_>> {
        self.pairs_where(|_| true)
    }

    /// Every caption whose video is in `ids`, in the order of the file.
    ///
    /// This is the training set of the split 9k of MSR-VTT with all captions
    /// (`--expand_msrvtt_sentences` of UniVL, 180,000 pairs).
    ///
    /// # Errors
    ///
    /// Returns an error with the line of the first id that has no caption here.
    pub fn pairs_of(&self, ids: &IdList) -> Result<Vec<CaptionPair<'_>>, DataError> {
        let mut chosen = vec![false; self.ids.len()];
        for row in self.rows_of(ids)? {
            if let Some(choice) = chosen.get_mut(row) {
                *choice = true;
            }
        }
        Ok(self.pairs_where(|row| chosen.get(row).copied().unwrap_or(false)))
    }

    /// One caption of every video of `ids`, in the order of `ids`, chosen at random by `seed`.
    ///
    /// UniVL without `--expand_msrvtt_sentences` and All-in-one draw such a caption whenever they
    /// use a video; pass another seed for every epoch. The choice for a video does not depend on
    /// the other videos.
    ///
    /// # Errors
    ///
    /// As [`pairs_of`](Self::pairs_of).
    pub fn one_pair_each(
        &self,
        ids: &IdList,
        seed: u64,
    ) -> Result<Vec<CaptionPair<'_>>, DataError> {
        let mut pairs = Vec::with_capacity(ids.ids().len());
        for row in self.rows_of(ids)? {
            let captions = self.captions_of_row(row);
            let choice = RandomStream::new(seed_for(seed, &[row as u64])).below(captions.len());
            if let (Some(video_id), Some(caption)) =
                (self.ids.get(row), captions.get(choice).copied())
            {
                pairs.push(CaptionPair { video_id, caption });
            }
        }
        Ok(pairs)
    }

    /// The numbers of some videos, each with at least one caption.
    fn rows_of(&self, ids: &IdList) -> Result<Vec<usize>, DataError> {
        let mut rows = Vec::with_capacity(ids.ids().len());
        for (index, id) in ids.ids().iter().enumerate() {
            match self.row(id) {
                Some(row) if !self.numbers_of(row).is_empty() => rows.push(row),
                _ => {
                    let reason = format!("has no caption in {}", self.path.display());
                    return Err(ids.unknown(index, &reason));
                }
            }
        }
        Ok(rows)
    }

    /// Every caption whose video's number is admitted, in the order of the file.
    pub(crate) fn pairs_where(&self, admitted: impl Fn(usize) -> bool) -> Vec<CaptionPair<'_>> {
        let mut pairs = Vec::new();
        for (number, &owner) in self.owners.iter().enumerate() {
            let row = owner as usize;
            if !admitted(row) {
                continue;
            }
            if let (Some(video_id), Some(caption)) = (self.ids.get(row), self.captions.get(number))
            {
                pairs.push(CaptionPair { video_id, caption });
            }
        }
        pairs
    }

    pub(crate) fn captions_of_row(&self, row: usize) -> Vec<&str> {
        self.numbers_of(row)
            .iter()
            .filter_map(|&number| self.captions.get(number as usize))
            .collect()
    }

    /// The numbers of the captions of a video.
    fn numbers_of(&self, row: usize) -> &[u32] {
        match (self.starts.get(row), self.starts.get(row + 1)) {
            (Some(&start), Some(&end)) => self
                .grouped
                .get(start as usize..end as usize)
                .unwrap_or(&[]),
            _ => &[],
        }
    }
}

/// Captions in the order of a file, before all videos are known.
#[derive(Default)]
pub(crate) struct CaptionSetBuilder {
    ids: Vec<String>,
    rows: HashMap<String, usize>,
    captions: TextPool,
    owners: Vec<u32>,
}

impl CaptionSetBuilder {
    pub(crate) fn add(&mut self, video_id: &str, caption: &str) {
        let row = match self.rows.get(video_id) {
            Some(&row) => row,
            None => {
                let row = self.ids.len();
                self.ids.push(video_id.to_owned());
                self.rows.insert(video_id.to_owned(), row);
                row
            }
        };
        // A file has less than 2³² captions, because it has less than 2³² bytes.
        self.owners.push(row as u32);
        self.captions.push(caption);
    }

    /// The set with its videos in the order of their first caption.
    pub(crate) fn finish(self, file: &TextFile, list: &str) -> Result<CaptionSet, DataError> {
        if self.owners.is_empty() {
            return Err(file.refuse(format!("no {list}")));
        }
        let mut starts = vec![0_u32; self.ids.len() + 1];
        for &owner in &self.owners {
            starts[owner as usize + 1] += 1;
        }
        for row in 1..starts.len() {
            starts[row] += starts[row - 1];
        }
        let mut next = starts.clone();
        let mut grouped = vec![0_u32; self.owners.len()];
        for (number, &owner) in self.owners.iter().enumerate() {
            let place = &mut next[owner as usize];
            grouped[*place as usize] = number as u32;
            *place += 1;
        }
        Ok(CaptionSet {
            path: file.path().to_owned(),
            ids: self.ids,
            rows: self.rows,
            captions: self.captions,
            owners: self.owners,
            grouped,
            starts,
        })
    }

    /// The set with the videos `ids` in this order, some perhaps without caption.
    pub(crate) fn finish_with(
        mut self,
        file: &TextFile,
        list: &str,
        ids: Vec<String>,
        rows: HashMap<String, usize>,
    ) -> Result<CaptionSet, DataError> {
        let mut new_rows: Vec<u32> = Vec::with_capacity(self.ids.len());
        for (old, id) in self.ids.iter().enumerate() {
            match rows.get(id) {
                Some(&row) => new_rows.push(row as u32),
                None => {
                    let number = self.owners.iter().position(|&owner| owner as usize == old);
                    let item = format!("{list}[{}]", number.unwrap_or(0));
                    let reason = format!("video `{}` is not in 'videos'", excerpt(id));
                    return Err(DataError::item(file.path(), item, reason));
                }
            }
        }
        for owner in &mut self.owners {
            *owner = new_rows[*owner as usize];
        }
        self.ids = ids;
        self.rows = rows;
        self.finish(file, list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Result<CaptionSet, DataError> {
        let file = TextFile::from_bytes(Path::new("a.json"), "JSON", text.as_bytes().to_vec())?;
        CaptionSet::read(&file, SENTENCES)
    }

    const TEXT: &str = r#"{"sentences": [
        {"video_id": "b", "caption": "b1"}, {"video_id": "a", "caption": "a1"},
        {"caption": "b2", "video_id": "b"}, {"video_id": "a", "caption": ""},
        {"video_id": "b", "caption": "b3"}]}"#;

    #[test]
    fn captions_are_grouped_in_the_order_of_the_file() {
        let set = set(TEXT).unwrap();
        assert_eq!(set.video_ids(), ["b", "a"]);
        assert_eq!(set.captions_of("b"), ["b1", "b2", "b3"]);
        assert_eq!(set.captions_of("a"), ["a1", ""]);
        assert!(set.captions_of("c").is_empty());
        let captions: Vec<&str> = set.pairs().iter().map(|pair| pair.caption).collect();
        assert_eq!(captions, ["b1", "a1", "b2", "", "b3"]);
        assert_eq!(set.n_captions(), 5);
    }

    #[test]
    fn lists_of_ids_choose_all_captions_or_one_of_each_video() {
        let set = set(TEXT).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let list = |text: &str| {
            let path = folder.path().join("ids.txt");
            std::fs::write(&path, text).unwrap();
            IdList::open(&path).unwrap()
        };
        let ids = list("a\n");
        let pairs = set.pairs_of(&ids).unwrap();
        assert_eq!(pairs.len(), 2);
        assert!(pairs.iter().all(|pair| pair.video_id == "a"));
        let ids = list("a\nb\n");
        let mut found = std::collections::HashSet::new();
        for seed in 0..100 {
            let pairs = set.one_pair_each(&ids, seed).unwrap();
            assert_eq!(pairs.len(), 2);
            assert_eq!([pairs[0].video_id, pairs[1].video_id], ["a", "b"]);
            assert_eq!(pairs, set.one_pair_each(&ids, seed).unwrap());
            found.insert((pairs[0].caption, pairs[1].caption));
        }
        assert_eq!(found.len(), 6);
        let ids = list("a\nc\n");
        for error in [
            set.pairs_of(&ids).unwrap_err(),
            set.one_pair_each(&ids, 0).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(
                text.contains("ids.txt:2: item `c`: has no caption in a.json"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_set_without_captions_is_an_error() {
        let error = set(r#"{"sentences": []}"#).unwrap_err().to_string();
        assert!(error.contains("no sentences"), "{error}");
    }
}
