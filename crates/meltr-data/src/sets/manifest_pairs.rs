//! One's own videos as pairs of a caption and frame features.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use ndarray::Ix2;
use serde::{Deserialize, Serialize};

use crate::batch::VideoTextSample;
use crate::doctor::{FaultyItems, FindingKind, HealthReport, check_features};
use crate::emoji_clips::Split;
use crate::error::{DataError, DataErrorKind};
use crate::manifest::{Manifest, ManifestItem};
use crate::seed::RandomStream;
use crate::sets::selection::{filled, listed, no_such_item};
use crate::tensor_file::TensorFile;
use crate::text_file::{excerpt, item_at_line};
use crate::video_text_set::{Draw, VideoTextSet};
use crate::word_piece::WordPiece;

/// How one's own videos are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManifestSettings {
    /// What happens to items without caption, and to those without sound features.
    pub faulty_items: FaultyItems,
}

/// The items of a [`Manifest`] with the frame features that `meltr data features` made of them.
///
/// The features are a `.safetensors` file with a tensor `[rows, K]` for each id. An item may have
/// several captions: training draws one of them each time, evaluation uses the first, and all are
/// its references. The splits are `train`, `valid` and `test`, as the manifest says.
#[derive(Clone, Debug)]
pub struct ManifestPairs {
    label: PathBuf,
    items: Vec<OwnItem>,
    features: TensorFile,
    width: usize,
    left_out: Vec<String>,
    word_piece: WordPiece,
}

#[derive(Clone, Debug)]
struct OwnItem {
    id: String,
    split: Split,
    captions: Vec<String>,
}

impl ManifestPairs {
    /// Reads a manifest and checks the features of all its items.
    ///
    /// Reads the file of features twice, once to check it. Costs the memory of that file.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is absent or damaged or the manifest is a folder without one,
    /// and, unless they are to be left out, if there are items without caption or without features
    /// (it names the first ones) or if [`check_features`] finds anything else, also in features
    /// that no item has; and if no item is left.
    pub fn open(
        manifest: &Path,
        features: &Path,
        settings: ManifestSettings,
        word_piece: WordPiece,
    ) -> Result<Self, DataError> {
        let manifest = Manifest::open(manifest)?;
        let ids: Vec<String> = manifest
            .items()
            .iter()
            .map(|item| item.id.clone())
            .collect();
        let report = check_features(features, None, &ids)?;
        let faulty = settings.faulty_items;
        if faulty == FaultyItems::Refuse {
            check_present(&manifest, &report)?;
            check_captions(&manifest)?;
        }
        let usable: HashSet<&str> = report.admit(faulty)?.iter().map(String::as_str).collect();
        let mut items = Vec::new();
        let mut left_out = Vec::new();
        for item in manifest.items() {
            if item.captions.is_empty() || !usable.contains(item.id.as_str()) {
                left_out.push(item.id.clone());
                continue;
            }
            items.push(OwnItem {
                id: item.id.clone(),
                split: split_of(&manifest, item)?,
                captions: item.captions.clone(),
            });
        }
        let features = TensorFile::open(features)?;
        let Some(first) = items.first() else {
            let reason = format!("none of its {} items can be used", ids.len());
            return Err(DataError::item(manifest.path(), "set", reason));
        };
        let width = features.shape(&first.id)?.last().copied().unwrap_or(0);
        Ok(Self {
            label: manifest.path().to_path_buf(),
            items,
            features,
            width,
            left_out,
            word_piece,
        })
    }

    /// The ids of the items that cannot be used; none with [`FaultyItems::Refuse`].
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }
}

impl VideoTextSet for ManifestPairs {
    fn label(&self) -> &Path {
        &self.label
    }

    fn word_piece(&self) -> &WordPiece {
        &self.word_piece
    }

    fn feature_width(&self) -> usize {
        self.width
    }

    fn n_items(&self) -> usize {
        self.items.len()
    }

    fn item_name(&self, index: usize) -> String {
        match self.items.get(index) {
            Some(item) => item.id.clone(),
            None => format!("item {index}"),
        }
    }

    fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        let split: Split = name
            .parse()
            .map_err(|kind| DataError::new(&self.label, kind))?;
        let items = self.items.iter().enumerate();
        let positions = items
            .filter(|(_, item)| item.split == split)
            .map(|(position, _)| position)
            .collect();
        filled(&self.label, name, positions)
    }

    fn sample(&self, index: usize, draw: Draw) -> Result<VideoTextSample, DataError> {
        let item = self
            .items
            .get(index)
            .ok_or_else(|| no_such_item(&self.label, index, self.items.len()))?;
        let number = match draw {
            Draw::Training { seed } => RandomStream::new(seed).below(item.captions.len()),
            Draw::Evaluation => 0,
        };
        let array = self.features.f32(&item.id)?;
        let actual = array.shape().to_vec();
        let frames = array.into_dimensionality::<Ix2>().map_err(|_| {
            let kind = DataErrorKind::WrongShape {
                name: item.id.clone(),
                expected: format!("[rows, {}]", self.width),
                actual,
            };
            DataError::new(self.features.path(), kind)
        })?;
        // The file may have been replaced after it was checked.
        if !frames.iter().all(|value| value.is_finite()) {
            let reason = "its features hold NaN or an infinite value";
            return Err(DataError::item(
                self.features.path(),
                excerpt(&item.id),
                reason,
            ));
        }
        Ok(VideoTextSample {
            id: index,
            // No item is without caption.
            text: item.captions[number].clone(),
            caption: None,
            frames,
        })
    }

    fn references(&self, index: usize) -> Vec<String> {
        let item = self.items.get(index);
        item.map(|item| item.captions.clone()).unwrap_or_default()
    }
}

/// Every item has to have features; says more of those without than the report does.
fn check_present(manifest: &Manifest, report: &HealthReport) -> Result<(), DataError> {
    let missing: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| finding.kind == FindingKind::Missing)
        .map(|finding| finding.id.as_str())
        .collect();
    let Some(first) = missing.first() else {
        return Ok(());
    };
    let reason = format!(
        "{} of {} items of {} have no features: {}; make them with `meltr data features`, or set \
         `faulty_items` = \"leave_out\"",
        missing.len(),
        manifest.items().len(),
        manifest.path().display(),
        listed(&missing)
    );
    Err(DataError::item(&report.source, excerpt(first), reason))
}

fn check_captions(manifest: &Manifest) -> Result<(), DataError> {
    let silent = manifest.items().iter();
    let silent: Vec<&ManifestItem> = silent.filter(|item| item.captions.is_empty()).collect();
    let Some(first) = silent.first() else {
        return Ok(());
    };
    let ids: Vec<&str> = silent.iter().map(|item| item.id.as_str()).collect();
    let reason = format!(
        "{} of {} items have no caption: {}; `faulty_items` = \"leave_out\" leaves them out",
        silent.len(),
        manifest.items().len(),
        listed(&ids)
    );
    Err(about(manifest, first, reason))
}

fn split_of(manifest: &Manifest, item: &ManifestItem) -> Result<Split, DataError> {
    item.split.ok_or_else(|| {
        let reason = "has no split; write a manifest.jsonl with the split and the captions of each";
        about(manifest, item, reason.to_owned())
    })
}

/// An error about an item, with its line if it has one.
fn about(manifest: &Manifest, item: &ManifestItem, reason: String) -> DataError {
    match item.line {
        Some(line) => item_at_line(manifest.path(), line, excerpt(&item.id), reason),
        None => DataError::item(manifest.path(), excerpt(&item.id), reason),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tensor_file::TensorFileWriter;

    fn word_piece() -> WordPiece {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n";
        WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap()
    }

    const LEAVE_OUT: ManifestSettings = ManifestSettings {
        faulty_items: FaultyItems::LeaveOut,
    };

    /// A manifest of ids, captions and splits, and features of one value in two rows.
    fn open(
        items: &[(&str, &str, &str)],
        features: &[(&str, f32)],
        settings: ManifestSettings,
    ) -> Result<ManifestPairs, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("set.jsonl");
        let lines: Vec<String> = items
            .iter()
            .map(|(id, captions, split)| {
                let rest = format!(r#""captions": {captions}, "split": "{split}""#);
                format!(r#"{{"id": "{id}", "video": "{id}.mp4", {rest}}}"#)
            })
            .collect();
        fs::write(&manifest, lines.join("\n")).unwrap();
        let mut writer = TensorFileWriter::new();
        for (id, value) in features {
            writer.insert_f32(*id, &[2, 3], vec![*value; 6]);
        }
        let path = folder.path().join("features.safetensors");
        writer.write(&path).unwrap();
        ManifestPairs::open(&manifest, &path, settings, word_piece())
    }

    const ITEMS: [(&str, &str, &str); 3] = [
        ("x", r#"["x1", "x2", "x3"]"#, "train"),
        ("y", r#"["y1"]"#, "test"),
        ("z", r#"["z1"]"#, "train"),
    ];

    const FEATURES: [(&str, f32); 3] = [("x", 1.0), ("y", 2.0), ("z", 3.0)];

    #[test]
    fn items_have_the_features_of_their_id_and_a_drawn_caption() {
        let set = open(&ITEMS, &FEATURES, ManifestSettings::default()).unwrap();
        assert_eq!(set.split("train").unwrap(), [0, 2]);
        assert_eq!(set.split("test").unwrap(), [1]);
        assert_eq!((set.n_items(), set.feature_width()), (3, 3));
        assert_eq!(set.item_name(2), "z");
        assert_eq!(set.references(0), ["x1", "x2", "x3"]);
        let sample = set.sample(0, Draw::Evaluation).unwrap();
        assert_eq!((sample.text.as_str(), sample.frames.dim()), ("x1", (2, 3)));
        assert_eq!(set.sample(2, Draw::Evaluation).unwrap().frames[[1, 2]], 3.0);
        let draws: HashSet<String> = (0..60)
            .map(|seed| set.sample(0, Draw::Training { seed }).unwrap().text)
            .collect();
        assert_eq!(draws.len(), 3);
        assert!(set.sample(3, Draw::Evaluation).is_err() && set.references(3).is_empty());
        let error = set.split("valid").unwrap_err().to_string();
        assert!(error.contains("no item is in split valid"), "{error}");
        assert!(set.split("val").is_err());
    }

    #[test]
    fn items_without_features_are_listed_or_left_out() {
        let error = open(&ITEMS, &FEATURES[..1], ManifestSettings::default());
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("item `y`: 2 of 3 items of ") && error.contains(": `y`, `z`;"),
            "{error}"
        );
        let set = open(&ITEMS, &FEATURES[..1], LEAVE_OUT).unwrap();
        assert_eq!(set.left_out(), ["y", "z"]);
        assert_eq!(set.n_items(), 1);
        let error = open(&ITEMS[..1], &FEATURES[1..], LEAVE_OUT)
            .unwrap_err()
            .to_string();
        assert!(error.contains("none of its 1 items can be used"), "{error}");
    }

    #[test]
    fn faulty_features_are_refused_or_left_out() {
        let features = [("x", 1.0), ("y", f32::NAN), ("z", 3.0)];
        let error = open(&ITEMS, &features, ManifestSettings::default());
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("1 of 3 items cannot be used (`y` non_finite)"),
            "{error}"
        );
        let set = open(&ITEMS, &features, LEAVE_OUT).unwrap();
        assert_eq!(set.left_out(), ["y"]);
        assert_eq!(set.split("train").unwrap(), [0, 1]);
        assert_eq!(set.item_name(1), "z");
    }

    #[test]
    fn items_without_caption_are_refused_with_their_line_or_left_out() {
        let items = [ITEMS[0], ("y", "[]", "test"), ITEMS[2]];
        let error = open(&items, &FEATURES, ManifestSettings::default());
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("set.jsonl:2: item `y`: 1 of 3 items have no caption: `y`"),
            "{error}"
        );
        assert_eq!(
            open(&items, &FEATURES, LEAVE_OUT).unwrap().left_out(),
            ["y"]
        );
    }

    #[test]
    fn a_folder_without_manifest_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x.mp4"), "video").unwrap();
        let path = folder.path().join("features.safetensors");
        let mut writer = TensorFileWriter::new();
        writer.insert_f32("x", &[1, 1], vec![0.0]);
        writer.write(&path).unwrap();
        for settings in [ManifestSettings::default(), LEAVE_OUT] {
            let error = ManifestPairs::open(folder.path(), &path, settings, word_piece());
            assert!(error.is_err());
        }
    }

    #[test]
    fn settings_are_read_by_their_names() {
        let text = r#"{"faulty_items": "leave_out"}"#;
        let settings: ManifestSettings = serde_json::from_str(text).unwrap();
        assert_eq!(settings, LEAVE_OUT);
        let settings: ManifestSettings = serde_json::from_str("{}").unwrap();
        assert_eq!(settings, ManifestSettings::default());
    }
}
