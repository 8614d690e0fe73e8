//! Which clips a command is about, and what a model reads of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use meltr_data::{
    FrameDecoding, Manifest, ManifestItem, OwnClip, OwnClips, PixelCollator, PixelSet, PixelText,
    TensorFile, VideoFeatures,
};
use meltr_tasks::OwnVideo;
use ndarray::Array2;

use crate::error::CliError;
use crate::experiment::Experiment;

/// What `meltr data features` notes about the encoder.
const ENCODER_KEYS: [&str; 2] = ["encoder", "weights_sha256"];

/// The items of videos, folders and manifests, in this order.
///
/// A video is called by its name without the ending, as in a folder without a manifest.
pub(super) fn items(paths: &[PathBuf]) -> Result<Vec<ManifestItem>, CliError> {
    let mut items: Vec<ManifestItem> = Vec::new();
    for path in paths {
        let is_manifest = path.extension().is_some_and(|ending| ending == "jsonl");
        if is_manifest || path.is_dir() {
            items.extend_from_slice(Manifest::open(path)?.items());
        } else {
            items.push(single(path)?);
        }
    }
    let mut seen: BTreeMap<&str, &Path> = BTreeMap::new();
    for item in &items {
        if let Some(first) = seen.insert(&item.id, &item.file) {
            return Err(CliError::Input(format!(
                "`{}` and `{}` are both called `{}`; give them ids of their own in a manifest",
                first.display(),
                item.file.display(),
                item.id
            )));
        }
    }
    Ok(items)
}

fn single(path: &Path) -> Result<ManifestItem, CliError> {
    let name = path.file_stem().filter(|_| path.is_file());
    let Some(name) = name else {
        return Err(CliError::Input(format!(
            "`{}` does not exist; name a video, a folder of videos or a manifest (.jsonl)",
            path.display()
        )));
    };
    Ok(ManifestItem {
        line: None,
        id: name.to_string_lossy().into_owned(),
        file: path.to_owned(),
        split: None,
        captions: Vec::new(),
        question: None,
        answer: None,
        options: Vec::new(),
        sentiment: None,
        start: None,
        end: None,
    })
}

/// The frame features of `items`, or of all ids of the file if there are none, for a run that
/// reads `width` of them.
pub(super) fn videos(
    file: &Path,
    width: usize,
    items: &[ManifestItem],
    experiment: &Experiment,
) -> Result<Vec<OwnVideo>, CliError> {
    require_same_encoder(file, experiment)?;
    let features = opened(file, width)?;
    let ids: Vec<&str> = if items.is_empty() {
        features.ids().iter().map(String::as_str).collect()
    } else {
        items.iter().map(|item| item.id.as_str()).collect()
    };
    ids.into_iter()
        .map(|id| {
            Ok(OwnVideo {
                name: id.to_owned(),
                frames: rows(&features, id)?,
            })
        })
        .collect()
}

/// A file of features of this width, each `[rows, width]`.
pub(super) fn opened(file: &Path, width: usize) -> Result<VideoFeatures, CliError> {
    VideoFeatures::open(file, width).map_err(|error| {
        CliError::Input(format!(
            "{error} (the run reads {width} features a row, those of its own set)"
        ))
    })
}

/// All rows of one id.
pub(super) fn rows(features: &VideoFeatures, id: &str) -> Result<Array2<f32>, CliError> {
    Ok(features.slice(id, 0..features.n_rows(id)?)?)
}

/// The frames of `items` with what is asked about each, for a run that reads raw frames: decoded
/// and chosen as those of its own set are for an evaluation.
pub(super) fn frames(
    items: &[ManifestItem],
    texts: Vec<PixelText>,
    set: &dyn PixelSet,
    collator: &PixelCollator,
    experiment: &Experiment,
) -> Result<OwnClips, CliError> {
    let Some(first) = items.first() else {
        return Err(CliError::Input(
            "this run reads raw frames; name videos, a folder of videos or a manifest".to_owned(),
        ));
    };
    let Some(choice) = experiment.data.set.frame_choice() else {
        return Err(CliError::Failed(format!(
            "`data.set.name = \"{}\"` has no raw frames",
            experiment.data.set.name()
        )));
    };
    let clips = items
        .iter()
        .zip(texts)
        .map(|(item, text)| OwnClip {
            id: item.id.clone(),
            video: item.file.clone(),
            start: item.start,
            end: item.end,
            text,
        })
        .collect();
    Ok(OwnClips::open(
        &first.file,
        clips,
        set.answers().to_vec(),
        set.word_piece().clone(),
        FrameDecoding::new(collator.n_frames, choice),
    )?)
}

/// Refuses features of another encoder than the run was trained with, where both files tell.
fn require_same_encoder(file: &Path, experiment: &Experiment) -> Result<(), CliError> {
    let Some(trained) = experiment.data.set.features_file() else {
        return Ok(());
    };
    let is_plain = |path: &Path| {
        path.extension()
            .is_some_and(|ending| ending == "safetensors")
    };
    if !is_plain(trained) || !is_plain(file) {
        return Ok(());
    }
    let (theirs, ours) = (TensorFile::open(trained)?, TensorFile::open(file)?);
    for key in ENCODER_KEYS {
        if let (Some(theirs), Some(ours)) = (theirs.metadata().get(key), ours.metadata().get(key))
            && theirs != ours
        {
            return Err(CliError::Input(format!(
                "`{}` has `{key}` {ours}, and the run was trained on features with {theirs}; make \
                 the features with the same encoder",
                file.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn clips_are_files_folders_and_manifests() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("more")).unwrap();
        for name in ["a.mp4", "more/b.gif", "more/c.mp4"] {
            fs::write(at(name), "no video").unwrap();
        }
        let manifest = "{\"id\": \"d\", \"video\": \"a.mp4\", \"split\": \"test\"}\n";
        fs::write(at("list.jsonl"), manifest).unwrap();
        let found = items(&[at("a.mp4"), at("more"), at("list.jsonl")]).unwrap();
        let ids: Vec<&str> = found.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "c", "d"]);
        let twice = items(&[at("a.mp4"), at("a.mp4")]).unwrap_err().to_string();
        assert!(twice.contains("both called `a`"), "{twice}");
        let absent = items(&[at("e.mp4")]).unwrap_err().to_string();
        assert!(absent.contains("does not exist"), "{absent}");
    }
}
