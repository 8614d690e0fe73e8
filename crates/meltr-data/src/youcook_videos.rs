//! The videos of a split of YouCook2, as UniVL lists them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::csv_table::{CsvTable, Delimiter};
use crate::error::DataError;
use crate::text_file::{excerpt, item_at_line};

/// One video and the key of its features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YoucookVideo {
    /// Key of the segments in `youcookii_data*.pickle`.
    pub video_id: String,
    /// Key of the features in `youcookii_videos_features.pickle`; the same text in practice.
    pub feature_file: String,
    /// Line of the file, counted from 1.
    pub line: usize,
}

/// The videos of `youcookii_train.csv` or `youcookii_val.csv`.
///
/// Tables separated by commas with the columns `video_id` and `feature_file`. By the comments of
/// the reference code the training table has 1,261 videos with 9,776 segments, and the validation
/// table's videos have 3,369 segments.
#[derive(Clone, Debug)]
pub struct YoucookVideos {
    path: PathBuf,
    videos: Vec<YoucookVideo>,
}

impl YoucookVideos {
    /// Reads such a table.
    ///
    /// # Errors
    ///
    /// As [`CsvTable::open`]; also if an id or a key is blank or a video occurs twice.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let table = CsvTable::open(path, Delimiter::Comma, &["video_id", "feature_file"])?;
        table.unique("video_id")?;
        let mut videos = Vec::with_capacity(table.n_rows());
        for row in table.rows() {
            videos.push(YoucookVideo {
                video_id: row.filled("video_id")?.to_owned(),
                feature_file: row.filled("feature_file")?.to_owned(),
                line: row.line(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            videos,
        })
    }

    /// The videos in the order of the file, at least one.
    #[must_use]
    pub fn videos(&self) -> &[YoucookVideo] {
        &self.videos
    }

    /// Checks that every video has features; `known` holds the keys of the features.
    ///
    /// # Errors
    ///
    /// Returns an error with the line of the first video that has none.
    pub fn check_features(&self, known: &HashSet<String>) -> Result<(), DataError> {
        for video in &self.videos {
            if !known.contains(&video.feature_file) {
                let reason = format!("not in the features, which have {} keys", known.len());
                let item = excerpt(&video.feature_file);
                return Err(item_at_line(&self.path, video.line, item, reason));
            }
        }
        Ok(())
    }
}
