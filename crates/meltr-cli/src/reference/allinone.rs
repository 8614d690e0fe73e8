//! Parity of All-in-one: tokens in two orders of patches, features, logits, losses and gradients.

use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_aid::ParamVector;
use meltr_core::Pass;
use meltr_models::{AllInOne, AllInOneBatch, AllInOneConfig, AllInOneTask};

use super::{Computed, Reference, Tolerance};
use crate::error::CliError;

/// The label of a word that is not to be predicted.
const IGNORED: i64 = -100;

pub(super) fn tolerance(name: &str) -> Tolerance {
    if name.starts_with("grad") || name == "loss_gradient_gram" {
        Tolerance::new(1e-4, 1e-4)
    } else {
        Tolerance::new(2e-5, 2e-5)
    }
}

pub(super) fn compute(reference: &Reference, device: &Device) -> Result<Computed, CliError> {
    let model = load(reference, device)?;
    let batch = batch(reference, device)?;
    let mut computed = Computed::default();
    for (name, shape, tensor) in model.trace(&batch).tensors {
        computed.insert(name, &shape, tensor.into_data().iter::<f64>().collect());
    }
    let (order, _) = reference.integers("patch_order")?;
    permuted(&model, &batch, order, &mut computed);
    gradients(&model, &batch, &mut computed);
    Ok(computed)
}

/// The model with the reference's sizes and weights, off the tape.
fn load(reference: &Reference, device: &Device) -> Result<AllInOne, CliError> {
    let d_model = reference.size("hidden_size")?;
    let config = AllInOneConfig {
        task: AllInOneTask::Retrieval,
        vocab_size: reference.size("vocab_size")?,
        d_model,
        n_heads: reference.size("num_heads")?,
        d_ff: d_model * reference.size("mlp_ratio")?,
        n_layers: reference.size("num_layers")?,
        d_shared: reference.size("shared_embedding_dim")?,
        image_size: reference.size("image_size")?,
        patch_size: reference.size("patch_size")?,
        n_frames: reference.size("num_frames")?,
        max_text_positions: reference.size("max_text_len")?,
        dropout: 0.0,
        answer_dropout: 0.0,
        drop_path: 0.0,
        temperature: reference.number("temperature")?,
    };
    let model = config.init(0, device)?;
    let (model, report) = model.load_state_dict(&reference.state_dict("")?);
    reference.require_complete(&report)?;
    Ok(model)
}

fn batch(reference: &Reference, device: &Device) -> Result<AllInOneBatch, CliError> {
    let ids = |key: &str| -> Result<Tensor<2, Int>, CliError> {
        let (values, shape) = reference.integers(key)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    };
    // Foreign masks have 1 = keep.
    let (keep, shape) = reference.integers("text_masks")?;
    let pad: Vec<bool> = keep.into_iter().map(|keep| keep == 0).collect();
    let text_pad = Tensor::<2, Bool>::from_data(TensorData::new(pad, shape), device);
    let (labels, _) = reference.integers("text_labels_mlm")?;
    let (predict_words, word_targets): (Vec<i64>, Vec<i64>) = (0_i64..)
        .zip(labels)
        .filter(|(_, label)| *label != IGNORED)
        .unzip();
    Ok(AllInOneBatch {
        frames: reference.input("image", device)?,
        patch_order: None,
        text_ids: ids("text_ids")?,
        text_pad,
        masked_text_ids: ids("text_ids_mlm")?,
        predict_words,
        word_targets,
        options: None,
        answers: Vec::new(),
    })
}

/// The same with the patches of every frame in another order.
fn permuted(model: &AllInOne, batch: &AllInOneBatch, order: Vec<i64>, computed: &mut Computed) {
    let batch = AllInOneBatch {
        patch_order: Some(order),
        ..batch.clone()
    };
    for (name, shape, tensor) in model.trace(&batch).tensors {
        let values: Vec<f64> = tensor.into_data().iter::<f64>().collect();
        match (name.as_str(), shape.as_slice()) {
            ("joint_text_feats" | "joint_image_feats", _) => {
                computed.insert(format!("permuted_{name}"), &shape, values);
            }
            ("image_only_feats", [n_videos, n_tokens, width]) => {
                // The first token of every video.
                let cls = values
                    .chunks(n_tokens * width)
                    .flat_map(|video| &video[..*width])
                    .copied()
                    .collect();
                computed.insert("permuted_image_only_cls", &[*n_videos, *width], cls);
            }
            _ => {}
        }
    }
}

fn gradients(model: &AllInOne, batch: &AllInOneBatch, computed: &mut Computed) {
    let training = model.clone().train();
    let by_loss: Vec<ParamVector> = model
        .task()
        .losses()
        .iter()
        .map(|loss| {
            let value = training.losses(batch, &[*loss], Pass::Evaluation);
            ParamVector::from_gradients(&mut value.backward(), &training)
        })
        .collect();
    let n = by_loss.len();
    let gram = (0..n * n)
        .map(|at| by_loss[at / n].dot(&by_loss[at % n]))
        .collect();
    computed.insert("loss_gradient_gram", &[n, n], gram);
    let sum = by_loss.iter().fold(ParamVector::zero(), |sum, gradient| {
        sum.add_scaled(1.0, gradient)
    });
    let sum = sum.as_module(model).state_dict();
    for (name, data) in &sum {
        let norm = data
            .iter::<f64>()
            .map(|value| value * value)
            .sum::<f64>()
            .sqrt();
        computed.scalar(format!("grad_norm.{name}"), norm);
    }
    computed.dict("grad_sum.", &sum);
}
