//! Which items a named split has, and the errors about items that a set does not have.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use crate::checksum::sha256_of_bytes;
use crate::error::{ConfigError, DataError, DataErrorKind};
use crate::text_file::excerpt;

/// One of so many training videos is held out.
const HELD_OUT_EVERY: usize = 10;

/// Ids that a message lists at most.
const MAX_LISTED: usize = 10;

/// Which of the training items are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrainPart {
    /// All of them.
    All,
    /// Those whose video is not held out.
    Fit,
    /// Those whose video is held out.
    HeldOut,
}

impl TrainPart {
    /// The part that a split's name stands for, if it is one of the training items.
    pub(crate) fn named(split: &str) -> Option<Self> {
        match split {
            "train" => Some(Self::All),
            "train_fit" => Some(Self::Fit),
            "train_held_out" => Some(Self::HeldOut),
            _ => None,
        }
    }
}

/// The training videos that are held out: a tenth of them, rounded up, those whose ids have the
/// smallest SHA-256.
///
/// Whole videos are held out, because items of one video are alike. The choice depends on the ids
/// alone: not on a seed, nor on the order or the number of the items.
#[derive(Clone, Debug)]
pub(crate) struct HeldOutVideos(HashSet<String>);

impl HeldOutVideos {
    /// The choice among these ids, which may repeat.
    pub(crate) fn of<'a>(video_ids: impl IntoIterator<Item = &'a str>) -> Self {
        let distinct: BTreeSet<&str> = video_ids.into_iter().collect();
        let ranked: BTreeSet<(String, &str)> = distinct
            .into_iter()
            .map(|id| (sha256_of_bytes(id.as_bytes()), id))
            .collect();
        let count = ranked.len().div_ceil(HELD_OUT_EVERY);
        let first = ranked.into_iter().take(count);
        Self(first.map(|(_, id)| id.to_owned()).collect())
    }

    /// Whether the items of a training video belong to a part.
    pub(crate) fn admits(&self, part: TrainPart, video_id: &str) -> bool {
        match part {
            TrainPart::All => true,
            TrainPart::Fit => !self.0.contains(video_id),
            TrainPart::HeldOut => self.0.contains(video_id),
        }
    }
}

/// The positions of a split, of which there has to be one.
pub(crate) fn filled(
    label: &Path,
    split: &str,
    positions: Vec<usize>,
) -> Result<Vec<usize>, DataError> {
    if positions.is_empty() {
        let split = split.to_owned();
        return Err(DataError::new(label, DataErrorKind::EmptySplit { split }));
    }
    Ok(positions)
}

/// There is no split of this name.
pub(crate) fn unknown_split(label: &Path, split: &str, known: &'static str) -> DataError {
    let split = excerpt(split);
    DataError::new(label, DataErrorKind::UnknownSplit { split, known })
}

/// There is no item at this position.
pub(crate) fn no_such_item(label: &Path, index: usize, len: usize) -> DataError {
    DataError::new(label, DataErrorKind::IndexOutOfRange { index, len })
}

/// A setting is not admissible.
pub(crate) fn bad_setting(
    label: &Path,
    field: &'static str,
    value: impl ToString,
    expected: &str,
) -> DataError {
    let source = ConfigError::OutOfRange {
        field,
        value: value.to_string(),
        expected: expected.to_owned(),
    };
    DataError::new(label, DataErrorKind::Config { source })
}

/// The first ids of a list, for a message that gives their number apart.
pub(crate) fn listed<T: AsRef<str>>(ids: &[T]) -> String {
    let shown: Vec<String> = ids
        .iter()
        .take(MAX_LISTED)
        .map(|id| format!("`{}`", excerpt(id.as_ref())))
        .collect();
    let more = if ids.len() > MAX_LISTED { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held_out(ids: &[&str]) -> Vec<String> {
        let mut chosen: Vec<String> = HeldOutVideos::of(ids.iter().copied())
            .0
            .into_iter()
            .collect();
        chosen.sort();
        chosen
    }

    #[test]
    fn a_tenth_of_the_videos_is_held_out_by_their_checksums() {
        let ids: Vec<String> = (0..20).map(|number| format!("v{number}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        // Ranked by hashlib.sha256 of Python.
        assert_eq!(held_out(&ids), ["v0", "v16"]);
        assert_eq!(held_out(&["a", "b"]), ["b"]);
        assert_eq!(held_out(&["x"]), ["x"]);
        assert!(held_out(&[]).is_empty());
    }

    #[test]
    fn the_names_of_the_parts_are_known() {
        assert_eq!(TrainPart::named("train"), Some(TrainPart::All));
        assert_eq!(TrainPart::named("train_fit"), Some(TrainPart::Fit));
        assert_eq!(TrainPart::named("train_held_out"), Some(TrainPart::HeldOut));
        assert_eq!(TrainPart::named("test"), None);
    }

    #[test]
    fn a_list_of_ids_ends_after_ten() {
        let ids: Vec<String> = (0..11).map(|number| number.to_string()).collect();
        assert_eq!(listed(&ids[..2]), "`0`, `1`");
        assert!(listed(&ids[..10]).ends_with("`9`"));
        assert!(listed(&ids).ends_with("`9`, ..."));
    }

    #[test]
    fn errors_say_what_is_admissible() {
        let label = Path::new("set");
        let cases = [
            (
                filled(label, "test", Vec::new()).unwrap_err(),
                "set: no item is in split test; choose another split",
            ),
            (
                unknown_split(label, "dev", "train, test"),
                "set: unknown split `dev`; use one of train, test",
            ),
            (
                no_such_item(label, 3, 2),
                "set: item 3 does not exist; the set has 2 items, counted from 0",
            ),
            (
                bad_setting(label, "rate", 0, "above 0"),
                "set: `rate` is 0; choose a value above 0",
            ),
        ];
        for (error, message) in cases {
            assert_eq!(error.to_string(), message);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_choice_depends_on_the_distinct_ids_alone(
            ids in prop::collection::hash_set("[a-z]{1,4}", 1..40),
        ) {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let twice: Vec<&str> = ids.iter().rev().chain(&ids).copied().collect();
            let chosen = held_out(&ids);
            prop_assert_eq!(&chosen, &held_out(&twice));
            prop_assert_eq!(chosen.len(), ids.len().div_ceil(10));
            let videos = HeldOutVideos::of(ids.iter().copied());
            for id in ids {
                let is_fit = videos.admits(TrainPart::Fit, id);
                prop_assert!(is_fit != videos.admits(TrainPart::HeldOut, id));
                prop_assert!(videos.admits(TrainPart::All, id));
            }
        }
    }
}
