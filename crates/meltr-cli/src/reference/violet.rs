//! Parity of VIOLET: tokens, logits, losses and gradients.
//!
//! The golden numbers come from the masked frames for every loss, the primary one too, and from
//! the biases that the released code gives to shrunken windows. Multiple choice is the corrected
//! one, in which a video meets the texts of the right options.

use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_aid::ParamVector;
use meltr_core::Pass;
use meltr_models::{
    PrimaryFrames, SwinConfig, Violet, VioletBatch, VioletConfig, VioletTask, WindowBias,
};

use super::{Computed, Reference, Tolerance};
use crate::error::CliError;

pub(super) fn tolerance(name: &str) -> Tolerance {
    if name.starts_with("grad") || name == "loss_gradient_gram" {
        Tolerance::new(1e-4, 2e-4)
    } else {
        Tolerance::new(2e-5, 2e-5)
    }
}

pub(super) fn compute(reference: &Reference, device: &Device) -> Result<Computed, CliError> {
    let model = load(reference, device)?;
    let batch = batch(reference, device)?;
    let mut computed = Computed::default();
    for (name, shape, tensor) in model.trace(&batch).tensors {
        let values: Vec<f64> = tensor.into_data().iter::<f64>().collect();
        if name == "losses" && model.task() == VioletTask::MultipleChoice {
            computed.scalar("official_mc_loss", values[0]);
        }
        computed.insert(name, &shape, values);
    }
    gradients(&model, &batch, &mut computed);
    clean(&model, &batch, &mut computed);
    Ok(computed)
}

/// The model with the reference's sizes and weights, off the tape.
fn load(reference: &Reference, device: &Device) -> Result<Violet, CliError> {
    let task = match reference.text("variant")? {
        "retrieval" => VioletTask::Retrieval,
        "qa_mc" => VioletTask::MultipleChoice,
        "qa_oe" => VioletTask::OpenEnded {
            n_answers: reference.size("answer_vocab_size")?,
        },
        _ => return Err(reference.wrong("variant", "one of retrieval, qa_mc, qa_oe")),
    };
    let grid = reference.size("pos_grid")?;
    let config = VioletConfig {
        task,
        swin: SwinConfig {
            embed_dim: reference.size("swin_embed_dim")?,
            depths: sizes(reference, "swin_depths")?,
            n_heads: sizes(reference, "swin_num_heads")?,
            window: sizes(reference, "swin_window_size")?,
            drop_path: 0.0,
            window_bias: WindowBias::Published,
        },
        vocab_size: reference.size("vocab_size")?,
        n_heads: reference.size("num_attention_heads")?,
        d_ff: reference.size("intermediate_size")?,
        n_layers: reference.size("num_hidden_layers")?,
        max_text_positions: reference.size("max_position_embeddings")?,
        max_frames: reference.size("max_emb_len")?,
        max_patches: grid * grid,
        n_visual_tokens: reference.size("mvm_vocab_size")?,
        dropout: 0.0,
        answer_dropout: 0.0,
        temperature: reference.number("temperature")?,
        primary_frames: PrimaryFrames::Masked,
    };
    let model = config.init(0, device)?;
    let (model, report) = model.load_state_dict(&reference.state_dict("")?);
    reference.require_complete(&report)?;
    Ok(model)
}

/// A list of `N` sizes.
fn sizes<const N: usize>(reference: &Reference, key: &str) -> Result<[usize; N], CliError> {
    let wrong = || reference.wrong(key, &format!("a list of {N} sizes"));
    let sizes = reference
        .integers_of(key)?
        .into_iter()
        .map(|size| usize::try_from(size).map_err(|_| wrong()))
        .collect::<Result<Vec<usize>, CliError>>()?;
    sizes.try_into().map_err(|_| wrong())
}

fn batch(reference: &Reference, device: &Device) -> Result<VioletBatch, CliError> {
    let frames: Tensor<5> = reference.input("image", device)?;
    let n_items = frames.dims()[0];
    let (hidden, shape) = integers(reference, "patch_mask")?;
    let shape: [usize; 4] = shape
        .try_into()
        .map_err(|_| input_error(reference, "patch_mask", "[B, T, h, w]"))?;
    let hidden: Vec<bool> = hidden.into_iter().map(|flag| flag == 1).collect();
    let hidden_patches = Tensor::<4, Bool>::from_data(TensorData::new(hidden, shape), device);

    let (keep, text_shape) = integers(reference, "attention_mask")?;
    let length = text_shape.last().copied().unwrap_or_default();
    let n_texts = keep.len().checked_div(length).unwrap_or_default();
    let ids = |key: &str| -> Result<Tensor<2, Int>, CliError> {
        let (ids, _) = integers(reference, key)?;
        if ids.len() != n_texts * length {
            return Err(input_error(reference, key, "the shape of attention_mask"));
        }
        Ok(Tensor::from_data(
            TensorData::new(ids, [n_texts, length]),
            device,
        ))
    };
    // Foreign masks have 1 = keep.
    let pad: Vec<bool> = keep.into_iter().map(|keep| keep == 0).collect();
    let (predict_words, word_targets) = labelled(&integers(reference, "mtm_labels")?.0);
    let (tokens, patch_targets) = labelled(&integers(reference, "mvm_labels")?.0);
    Ok(VioletBatch {
        frames,
        n_options: n_texts.checked_div(n_items).unwrap_or_default(),
        text_ids: ids("input_ids")?,
        text_pad: Tensor::from_data(TensorData::new(pad, [n_texts, length]), device),
        masked_text_ids: ids("masked_input_ids")?,
        predict_words,
        word_targets,
        predict_patches: patches_of_tokens(&tokens, (shape[2] * shape[3]) as i64),
        patch_targets,
        hidden_patches,
        answers: if reference.inputs.contains("answer") {
            integers(reference, "answer")?.0
        } else {
            Vec::new()
        },
    })
}

/// Positions among patches from positions among tokens, where a `[CLS]` stands before the patches
/// of each frame.
fn patches_of_tokens(tokens: &[i64], per_frame: i64) -> Vec<i64> {
    tokens
        .iter()
        .map(|token| token / (1 + per_frame) * per_frame + token % (1 + per_frame) - 1)
        .collect()
}

/// Positions and values of labels other than -1.
fn labelled(labels: &[i64]) -> (Vec<i64>, Vec<i64>) {
    labels
        .iter()
        .enumerate()
        .filter(|(_, label)| **label != -1)
        .map(|(position, label)| (position as i64, *label))
        .unzip()
}

/// An input of integers of any rank with its shape.
fn integers(reference: &Reference, name: &str) -> Result<(Vec<i64>, Vec<usize>), CliError> {
    let array = reference.inputs.i64(name)?;
    let shape = array.shape().to_vec();
    Ok((array.into_iter().collect(), shape))
}

fn input_error(reference: &Reference, name: &str, expected: &str) -> CliError {
    CliError::Input(format!(
        "`{}`: `{name}` has not the shape {expected}",
        reference.path.join("inputs.safetensors").display()
    ))
}

fn gradients(model: &Violet, batch: &VioletBatch, computed: &mut Computed) {
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

/// What a test sees: whole frames and whole texts.
fn clean(model: &Violet, batch: &VioletBatch, computed: &mut Computed) {
    let (ids, pad) = (batch.text_ids.clone(), batch.text_pad.clone());
    let frames = batch.frames.clone();
    if let Some(logits) =
        model.answer_logits(frames.clone(), ids.clone(), pad.clone(), Pass::Evaluation)
    {
        computed.tensor("out_answer_clean", logits);
        return;
    }
    let text = model.encode_text(ids, pad, Pass::Evaluation);
    let video = model.encode_video(frames, Pass::Evaluation);
    let logits = model.similarity(&text, &video, Pass::Evaluation);
    computed.tensor("eval_logits_clean", logits.transpose());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_counted_without_the_cls_of_each_frame() {
        // Two patches a frame: tokens 0 and 3 are `[CLS]`.
        assert_eq!(patches_of_tokens(&[1, 2, 4, 5], 2), [0, 1, 2, 3]);
    }
}
