//! What the PyTorch side reads: weights and batches of UniVL in a safetensors file.

use std::collections::BTreeSet;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_core::{Fill, initialize};
use meltr_data::TensorFileWriter;
use meltr_models::{UniVl, UniVlBatch, UniVlConfig};

use crate::error::CliError;

/// Standard deviation of the weights.
const STD: f64 = 0.04;

/// What says that nothing is to be predicted at a position.
const NO_LABEL: i64 = -1;

/// The network with weights `N(0, 0.04)`, twice as far apart as its initial values.
///
/// With those, all pairs have nearly the same score: the gradient of the primary loss all but
/// cancels, and rounding to f32 alone moves a hypergradient by 3e-4 of its size in PyTorch.
pub(super) fn spread_out(
    config: &UniVlConfig,
    seed: u64,
    device: &Device,
) -> Result<UniVl, CliError> {
    let model = config.init(seed, device)?;
    Ok(initialize(model, seed, |site| {
        match (site.module, site.shape.len()) {
            ("LayerNorm", _) | (_, 1) => Fill::Keep,
            _ => Fill::Normal(STD),
        }
    }))
}

/// Adds the weights as `model.NAME` under published names, tied ones once.
pub(super) fn insert_weights(writer: &mut TensorFileWriter, model: &UniVl) {
    let own: BTreeSet<String> = model
        .parameter_names()
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    for (name, data) in model.state_dict() {
        if own.contains(&name) {
            insert(writer, format!("model.{name}"), &data);
        }
    }
}

/// Adds one tensor of floats.
pub(super) fn insert(writer: &mut TensorFileWriter, name: String, data: &TensorData) {
    let shape: Vec<usize> = data.shape().to_vec();
    writer.insert_f32(name, &shape, data.iter::<f32>().collect());
}

/// Adds a batch as `ROLE.NAME` under the names of `random_batch` in
/// `xtask/peers/univl_train_step.py`; masks are 1 where there is something.
pub(super) fn insert_batch(writer: &mut TensorFileWriter, role: &str, batch: &UniVlBatch) {
    let [pairs, words] = batch.text_ids.dims();
    let [_, frames, width] = batch.video.dims();
    let texts = [
        ("input_ids", numbers(&batch.text_ids)),
        ("attention_mask", kept(&batch.text_pad)),
        ("masked_input_ids", numbers(&batch.masked_text_ids)),
        (
            "mlm_labels",
            labels(
                pairs * words,
                batch.predict_words.iter().zip(&batch.word_targets),
            ),
        ),
        ("decoder_input_ids", numbers(&batch.decoder_input_ids)),
        ("decoder_mask", kept(&batch.decoder_pad)),
        ("decoder_output_ids", numbers(&batch.decoder_target_ids)),
    ];
    for (name, values) in texts {
        writer.insert_i64(format!("{role}.{name}"), &[pairs, words], values);
    }
    // Which frame is masked is all that is read.
    let hidden = batch.predict_frames.iter().zip(&batch.predict_frames);
    for (name, values) in [
        ("video_mask", kept(&batch.video_pad)),
        ("mfm_labels", labels(pairs * frames, hidden)),
    ] {
        writer.insert_i64(format!("{role}.{name}"), &[pairs, frames], values);
    }
    for (name, video) in [
        ("video", &batch.video),
        ("masked_video", &batch.masked_video),
    ] {
        let values = video.to_data().iter::<f32>().collect();
        writer.insert_f32(format!("{role}.{name}"), &[pairs, frames, width], values);
    }
}

fn numbers(tensor: &Tensor<2, Int>) -> Vec<i64> {
    tensor.to_data().iter::<i64>().collect()
}

fn kept(pad: &Tensor<2, Bool>) -> Vec<i64> {
    numbers(&pad.clone().bool_not().int())
}

/// Labels at their positions among `length`.
fn labels<'a>(length: usize, at: impl Iterator<Item = (&'a i64, &'a i64)>) -> Vec<i64> {
    let mut labels = vec![NO_LABEL; length];
    for (position, label) in at {
        labels[*position as usize] = *label;
    }
    labels
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use meltr_data::TensorFile;

    use super::super::random_batch::{BatchSize, random_batch};
    use super::*;

    #[test]
    fn a_batch_is_written_as_the_script_reads_it() {
        let config = UniVlConfig::mini(50, 6);
        let size = BatchSize {
            pairs: 2,
            words: 8,
            frames: 5,
        };
        let batch = random_batch(&config, size, 3, &Device::default());
        let mut writer = TensorFileWriter::new();
        insert_batch(&mut writer, "inner", &batch);
        let file = TensorFile::from_bytes(Path::new("batch"), writer.to_bytes().unwrap()).unwrap();
        assert_eq!(file.names().count(), 11);
        let integers = |name: &str| -> Vec<i64> {
            let array = file.i64(&format!("inner.{name}")).unwrap();
            array.iter().copied().collect()
        };
        // The second text ends three quarters in.
        assert_eq!(integers("attention_mask")[8..], [1, 1, 1, 1, 1, 1, 0, 0]);
        let (ids, masked) = (integers("input_ids"), integers("masked_input_ids"));
        for (at, label) in integers("mlm_labels").into_iter().enumerate() {
            let is_masked = ids[at] != masked[at];
            assert_eq!(label, if is_masked { ids[at] } else { NO_LABEL });
        }
        let n_hidden = integers("mfm_labels")
            .into_iter()
            .filter(|label| *label != NO_LABEL)
            .count();
        assert_eq!(n_hidden, batch.predict_frames.len());
        assert_eq!(file.shape("inner.masked_video").unwrap(), [2, 5, 6]);
    }

    #[test]
    fn tied_weights_are_written_once_and_spread_out() {
        let config = UniVlConfig {
            d_model: 16,
            n_heads: 2,
            d_ff: 16,
            ..UniVlConfig::mini(50, 6)
        };
        let model = spread_out(&config, 1, &Device::default()).unwrap();
        let mut writer = TensorFileWriter::new();
        insert_weights(&mut writer, &model);
        let file = TensorFile::from_bytes(Path::new("model"), writer.to_bytes().unwrap()).unwrap();
        assert_eq!(file.names().count(), model.parameter_names().len());
        assert!(!file.contains("model.cls.predictions.decoder.weight"));
        let words = file
            .f64("model.bert.embeddings.word_embeddings.weight")
            .unwrap();
        let variance = words.iter().map(|value| value * value).sum::<f64>() / words.len() as f64;
        assert!((variance.sqrt() / STD - 1.0).abs() < 0.1);
    }
}
