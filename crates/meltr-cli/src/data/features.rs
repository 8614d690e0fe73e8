//! `meltr data features`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use meltr_core::StateDict;
use meltr_data::{
    DecodeJob, DecodeMany, DecodeOptions, DecodeParallelism, Decoder, FrameSource, ImageTransform,
    Manifest, ManifestItem, MediaFrames, Normalization, TensorFile, TensorFileWriter, decode_many,
    sha256_of_bytes, sha256_of_file,
};
use meltr_models::{ImageArchitecture, ImageEncoder};
use ndarray::{Array4, Axis};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::arguments::{EncoderName, FeaturesArguments};
use super::frames::{Cut, FrameRule};
use super::{Tally, must_not_exist};
use crate::device;
use crate::error::CliError;
use crate::output;

/// Name of the tensor in the file of one clip.
const ROWS: &str = "features";

/// Frames that go through the encoder at a time.
const BATCH: usize = 8;

/// Bytes of a frame as the encoder reads it: three channels of 224 x 224 numbers.
const FRAME_BYTES: usize = 4 * 3 * 224 * 224;

/// Bytes of decoded clips that may wait for the encoder, about.
const MAX_WAITING: usize = 1 << 30;

/// How the names of PyTorch's counters of batches end.
const COUNTER: &str = ".num_batches_tracked";

/// Frames that are assumed of a clip whose number of frames is not fixed.
const LONG_CLIP: usize = 512;

/// Key of the id in the file of one clip.
const ID: &str = "id";

/// What the features depend on; kept beside the parts, so that no run goes on with another's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Settings {
    encoder: String,
    weights_sha256: String,
    rule: String,
    /// Decoders round the conversion to RGB differently.
    decoder: String,
}

pub(super) fn run(arguments: &FeaturesArguments) -> Result<(), CliError> {
    must_not_exist(&arguments.out)?;
    let rule = FrameRule::new(&arguments.rule)?;
    let decoder = arguments.decoder.decoder()?;
    let device = device::parse(&arguments.device)?;
    let manifest = Manifest::open(&arguments.source)?;
    let settings = Settings {
        encoder: name_of(arguments.encoder).to_owned(),
        weights_sha256: sha256_of_file(&arguments.weights)?,
        rule: rule.to_string(),
        decoder: arguments.decoder.name().to_owned(),
    };
    let parts = Parts::open(&arguments.out, &settings)?;
    let encoder = Encoder::load(arguments.encoder, &arguments.weights, &device)?;
    let items = manifest.items();
    let mut pending: Vec<&ManifestItem> = Vec::new();
    for item in items {
        if parts.rows(item)?.is_none() {
            pending.push(item);
        }
    }
    let n_kept = items.len() - pending.len();
    let mut failed: Vec<(&ManifestItem, String)> = Vec::new();
    if !pending.is_empty() {
        let mut tally = Tally::of_things("clips");
        // Clips are decoded on other threads while this one encodes those before them.
        let clips = decode(&pending, rule, decoder, &encoder.transform)?;
        for (position, (&item, clip)) in pending.iter().zip(clips).enumerate() {
            let pixels = clip.result.map_err(|error| error.to_string()).flatten();
            match pixels {
                Ok(pixels) => parts.write(item, &encoder.encode(&pixels))?,
                // Several clips may be damaged: all of them are named at the end.
                Err(reason) => failed.push((item, reason)),
            }
            let done = n_kept + position + 1;
            tally.set(done as u64, Some(items.len() as u64));
        }
        tally.finish();
    }
    if failed.len() == items.len() || (!failed.is_empty() && !arguments.leave_out) {
        for (item, reason) in &failed {
            output::note(&format!("`{}`: {reason}", item.id));
        }
        return Err(CliError::Check(format!(
            "{} of {} clips cannot be decoded, so that `{}` was not written; correct them and run \
             the same command again (what is done is kept), or pass --leave-out",
            failed.len(),
            items.len(),
            arguments.out.display()
        )));
    }
    let n_written = merge(&parts, items, &failed, &settings, &arguments.out)?;
    parts.remove();
    let left_out: Vec<_> = failed
        .iter()
        .map(|(item, reason)| json!({"id": item.id, "reason": reason}))
        .collect();
    let out = arguments.out.display().to_string();
    if arguments.json {
        return output::json(&json!({
            "out": out,
            "clips": n_written,
            "from_before": n_kept,
            "left_out": left_out,
            "encoder": settings.encoder,
            "weights_sha256": settings.weights_sha256,
            "rule": settings.rule,
            "decoder": settings.decoder,
        }));
    }
    for (item, reason) in &failed {
        output::line(&format!("left out `{}`: {reason}", item.id));
    }
    output::line(&format!(
        "{out}: features of {n_written} clips ({n_kept} from before), {}",
        settings.rule
    ));
    Ok(())
}

/// A clip as the encoder reads it, `[frames, 3, 224, 224]`, or why its frames cannot be chosen.
type Pixels = Result<Array4<f32>, String>;

/// Decodes clips ahead of the encoder, in their order.
fn decode(
    items: &[&ManifestItem],
    rule: FrameRule,
    decoder: Decoder,
    transform: &ImageTransform,
) -> Result<DecodeMany<Pixels>, CliError> {
    let options = DecodeOptions {
        // A single clip gets all processors.
        threads: usize::from(items.len() > 1),
        ..DecodeOptions::default()
    };
    let defaults = DecodeParallelism::default();
    let clip_bytes = FRAME_BYTES.saturating_mul(rule.count().unwrap_or(LONG_CLIP));
    let parallelism = DecodeParallelism {
        prefetch: defaults.prefetch.min(MAX_WAITING / clip_bytes.max(1)),
        ..defaults
    };
    let mut cuts: HashMap<String, Cut> = HashMap::new();
    let mut jobs: Vec<DecodeJob> = Vec::new();
    for item in items {
        let (start, end) = (item.start, item.end);
        let cut = Cut { rule, start, end };
        jobs.push(DecodeJob {
            id: item.id.clone(),
            path: item.file.clone(),
            rule: cut.decoder_rule(),
        });
        cuts.insert(item.id.clone(), cut);
    }
    let transform = transform.clone();
    let clips = decode_many(jobs, decoder, options, parallelism, move |job, decoded| {
        let Some(cut) = cuts.get(&job.id) else {
            return Ok(Err(format!("`{}` was not asked for", job.id)));
        };
        let taken = cut.take(&job.path, decoded, || {
            let mut source = MediaFrames::open(decoder, options)?;
            Ok(source.probe(&job.path)?.frame_rate)
        });
        // No step of the transform is random.
        Ok(taken.and_then(|taken| {
            transform
                .clip(&taken.frames, 0)
                .map_err(|error| format!("`{}`: {error}", job.path.display()))
        }))
    })?;
    Ok(clips)
}

/// One file of all clips, from their parts.
fn merge(
    parts: &Parts,
    items: &[ManifestItem],
    failed: &[(&ManifestItem, String)],
    settings: &Settings,
    out: &Path,
) -> Result<usize, CliError> {
    let mut writer = TensorFileWriter::new();
    let mut n_written = 0_usize;
    for item in items {
        if failed.iter().any(|(bad, _)| bad.id == item.id) {
            continue;
        }
        let Some(rows) = parts.rows(item)? else {
            return Err(CliError::Failed(format!(
                "the features of `{}` have vanished from `{}`; run the same command again",
                item.id,
                parts.folder.display()
            )));
        };
        writer.insert_f32(item.id.as_str(), &[rows.n_rows, rows.width], rows.values);
        n_written += 1;
    }
    writer.insert_metadata("encoder", settings.encoder.as_str());
    writer.insert_metadata("weights_sha256", settings.weights_sha256.as_str());
    writer.insert_metadata("frames", settings.rule.as_str());
    writer.insert_metadata("decoder", settings.decoder.as_str());
    writer.write(out)?;
    Ok(n_written)
}

/// The features of one clip, row by row.
struct Rows {
    n_rows: usize,
    width: usize,
    values: Vec<f32>,
}

/// What is done so far: a folder beside the output, with one file a clip.
struct Parts {
    folder: PathBuf,
}

impl Parts {
    /// Goes on with an earlier run of the same settings, or starts.
    fn open(out: &Path, settings: &Settings) -> Result<Self, CliError> {
        let mut name = out.as_os_str().to_owned();
        name.push(".parts");
        let folder = PathBuf::from(name);
        let path = folder.join("settings.json");
        if path.exists() {
            let text = fs::read_to_string(&path).map_err(|error| cannot("read", &path, &error))?;
            let found: Option<Settings> = serde_json::from_str(&text).ok();
            if found.as_ref() != Some(settings) {
                return Err(CliError::Input(format!(
                    "`{}` holds the beginning of a run with other settings; remove it, or choose \
                     another --out",
                    folder.display()
                )));
            }
            return Ok(Self { folder });
        }
        fs::create_dir_all(&folder).map_err(|error| cannot("make", &folder, &error))?;
        let text = serde_json::to_string_pretty(settings).map_err(CliError::failed)?;
        fs::write(&path, text).map_err(|error| cannot("write", &path, &error))?;
        Ok(Self { folder })
    }

    /// The file of a clip. Ids may hold any character and differ in case only, file names may not.
    fn file(&self, item: &ManifestItem) -> PathBuf {
        let name = sha256_of_bytes(item.id.as_bytes());
        self.folder.join(format!("{name}.safetensors"))
    }

    /// The features of a clip, if they are done.
    fn rows(&self, item: &ManifestItem) -> Result<Option<Rows>, CliError> {
        let path = self.file(item);
        if !path.exists() {
            return Ok(None);
        }
        let file = TensorFile::open(&path)?;
        let array = file.f32(ROWS)?;
        match *array.shape() {
            [n_rows, width] if file.metadata().get(ID) == Some(&item.id) => Ok(Some(Rows {
                n_rows,
                width,
                values: array.iter().copied().collect(),
            })),
            _ => Err(CliError::Input(format!(
                "`{}` does not hold the features of `{}`; remove it and run the same command again",
                path.display(),
                item.id
            ))),
        }
    }

    fn write(&self, item: &ManifestItem, rows: &Rows) -> Result<(), CliError> {
        if rows.values.iter().any(|value| !value.is_finite()) {
            return Err(CliError::Failed(format!(
                "the features of `{}` are not finite; check the weights",
                item.id
            )));
        }
        let mut writer = TensorFileWriter::new();
        writer.insert_f32(ROWS, &[rows.n_rows, rows.width], rows.values.clone());
        writer.insert_metadata(ID, item.id.as_str());
        writer.write(&self.file(item))?;
        Ok(())
    }

    /// Removes the folder once the output is whole; if that fails, it only takes space.
    fn remove(self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            output::note(&format!(
                "cannot remove `{}`: {error}",
                self.folder.display()
            ));
        }
    }
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> CliError {
    CliError::Failed(format!(
        "cannot {action} `{}`: {error}; check the permissions and the free space",
        path.display()
    ))
}

fn name_of(encoder: EncoderName) -> &'static str {
    match encoder {
        EncoderName::MobilenetV2 => "mobilenet-v2",
        EncoderName::EfficientnetLite0 => "efficientnet-lite0",
    }
}

/// A pretrained image encoder on a device.
struct Encoder {
    network: ImageEncoder,
    transform: ImageTransform,
    device: Device,
}

impl Encoder {
    fn load(name: EncoderName, weights: &Path, device: &Device) -> Result<Self, CliError> {
        let (architecture, normalization) = match name {
            EncoderName::MobilenetV2 => (ImageArchitecture::MobileNetV2, Normalization::ImageNet),
            EncoderName::EfficientnetLite0 => (
                ImageArchitecture::EfficientNetLite0,
                Normalization::Centered,
            ),
        };
        let file = TensorFile::open(weights)?;
        let mut dict = StateDict::new();
        // Batches that the normalizations saw in training: integers, which nothing here reads.
        for name in file.names().filter(|name| !name.ends_with(COUNTER)) {
            let values = file.f32(name)?;
            let shape = values.shape().to_vec();
            let values: Vec<f32> = values.iter().copied().collect();
            dict.insert(name.to_owned(), TensorData::new(values, shape));
        }
        let network = ImageEncoder::load(architecture, &dict, device)
            .map_err(|error| CliError::Input(format!("`{}`: {error}", weights.display())))?;
        Ok(Self {
            network,
            transform: ImageTransform {
                normalization,
                ..ImageTransform::imagenet()
            },
            device: device.clone(),
        })
    }

    /// One row of features a frame.
    fn encode(&self, pixels: &Array4<f32>) -> Rows {
        let mut values: Vec<f32> = Vec::new();
        let mut width = 0;
        for batch in pixels.axis_chunks_iter(Axis(0), BATCH) {
            let shape = batch.shape().to_vec();
            let batch: Vec<f32> = batch.iter().copied().collect();
            let images = Tensor::<4>::from_data(TensorData::new(batch, shape), &self.device);
            let features = self.network.features(images);
            width = features.dims()[1];
            values.extend(features.into_data().iter::<f32>());
        }
        Rows {
            n_rows: pixels.len_of(Axis(0)),
            width,
            values,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::env;

    use meltr_data::{
        ClipText, EmojiFrames, EmojiFramesConfig, FrameChoice, KeywordUse, PixelTask, Split,
    };
    use ndarray::{Array2, Ix1, Ix2};

    use super::*;

    /// Half of the distance of two numbers in half precision, relative to them.
    const HALF_ROUNDING: f64 = 1.0 / 2048.0;

    /// What another order of sums in single precision may do to a projected feature. PyTorch's
    /// order changes those of 70 clips by 3e-5 at most; they are of the order of 1.
    const SUMMATION: f64 = 2e-4;

    /// The published weights in the folder that `MELTR_SHARED` names, or beside the workspace.
    fn weights() -> Option<PathBuf> {
        let shared = match env::var_os("MELTR_SHARED") {
            Some(folder) => PathBuf::from(folder),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        };
        let path = shared.join("data/models/mobilenet_v2.safetensors");
        if path.exists() {
            return Some(path);
        }
        eprintln!("skipped: {} is absent; set MELTR_SHARED", path.display());
        None
    }

    #[test]
    fn the_features_of_the_embedded_set_are_those_of_its_strips() {
        let Some(weights) = weights() else {
            return;
        };
        let device = device::parse("flex").unwrap();
        let encoder = Encoder::load(EncoderName::MobilenetV2, &weights, &device).unwrap();
        let projection = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../meltr-data/assets/emoji-clips/projection.safetensors");
        let projection = TensorFile::open(&projection).unwrap();
        let mean = projection.f64("mean").unwrap();
        let mean = mean.into_dimensionality::<Ix1>().unwrap();
        let axes = projection.f64("axes").unwrap();
        let axes = axes.into_dimensionality::<Ix2>().unwrap();
        let set = EmojiFrames::embedded(EmojiFramesConfig {
            task: PixelTask::Retrieval,
            n_frames: 8,
            choice: FrameChoice::Uniform,
            text: ClipText {
                keywords: KeywordUse::None,
            },
            option_seed: 0,
        })
        .unwrap();
        for split in Split::ALL {
            // The first and the last clip of every split.
            let clips = set.clips().indices(&[split]).unwrap();
            for clip in [clips[0], clips[clips.len() - 1]] {
                let frames = set.frames(clip).unwrap();
                let pixels = encoder.transform.clip(&frames, 0).unwrap();
                let rows = encoder.encode(&pixels);
                let raw = Array2::from_shape_vec((rows.n_rows, rows.width), rows.values).unwrap();
                let found = (raw.mapv(f64::from) - &mean).dot(&axes);
                let stored = set.clips().frames().index_axis(Axis(0), clip);
                assert_eq!(found.dim(), stored.dim());
                for (found, &stored) in found.iter().zip(stored) {
                    let difference = (found - f64::from(stored)).abs();
                    let allowed = HALF_ROUNDING * found.abs() + SUMMATION;
                    assert!(
                        difference <= allowed,
                        "clip {clip}: {found}, stored as {stored}"
                    );
                }
            }
        }
    }
}
