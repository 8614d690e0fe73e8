//! Parity of UniVL: hidden states, similarities, losses, gradients and beam search.

use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use meltr_aid::ParamVector;
use meltr_core::{Pass, StateDict};
use meltr_models::{PaddedTargets, SimilarityKind, UniVl, UniVlBatch, UniVlConfig, UniVlLoss};
use meltr_tasks::{BeamOutput, BeamSearch, beam_search, beam_search_cached};

use super::{Computed, Reference, Tolerance};
use crate::error::CliError;

pub(super) fn tolerance(name: &str) -> Tolerance {
    if name.ends_with("_ids") {
        Tolerance::EXACT
    } else if name.starts_with("grad") || name == "loss_gradient_gram" {
        Tolerance::new(1e-4, 1e-4)
    } else {
        Tolerance::new(2e-5, 2e-5)
    }
}

pub(super) fn compute(reference: &Reference, device: &Device) -> Result<Computed, CliError> {
    let model = load(reference, "", device)?;
    let batch = batch(reference, "", device)?;
    let mut computed = Computed::default();
    for (name, shape, tensor) in model.trace(&batch).tensors {
        computed.insert(name, &shape, tensor.into_data().iter::<f64>().collect());
    }
    gradients(&model, &batch, &mut computed);
    retrieval_and_captions(reference, &model, device, &mut computed)?;
    Ok(computed)
}

/// The model with the reference's sizes and weights, off the tape.
pub(super) fn load(
    reference: &Reference,
    prefix: &str,
    device: &Device,
) -> Result<UniVl, CliError> {
    let config = UniVlConfig {
        vocab_size: reference.size("vocab_size")?,
        d_model: reference.size("hidden_size")?,
        n_heads: reference.size("num_attention_heads")?,
        d_ff: reference.size("intermediate_size")?,
        text_layers: reference.size("text_num_hidden_layers")?,
        visual_layers: reference.size("visual_num_hidden_layers")?,
        cross_layers: reference.size("cross_num_hidden_layers")?,
        decoder_layers: reference.size("decoder_num_hidden_layers")?,
        video_dim: reference.size("video_dim")?,
        max_text_positions: reference.size("text_max_position_embeddings")?,
        max_video_positions: reference.size("visual_max_position_embeddings")?,
        max_cross_positions: reference.size("cross_max_position_embeddings")?,
        dropout: 0.0,
        margin: reference.number("margin")?,
        padded_targets: PaddedTargets::Counted,
    };
    let model = config.init(0, device)?;
    let (model, report) = model.load_state_dict(&reference.state_dict(prefix)?);
    reference.require_complete(&report)?;
    Ok(model)
}

/// A batch of the reference's inputs.
pub(super) fn batch(
    reference: &Reference,
    prefix: &str,
    device: &Device,
) -> Result<UniVlBatch, CliError> {
    let name = |name: &str| format!("{prefix}{name}");
    let ids = |key: &str| -> Result<Tensor<2, Int>, CliError> {
        let (values, shape) = reference.integers(&name(key))?;
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    };
    // Foreign masks have 1 = keep.
    let pad = |key: &str| -> Result<Tensor<2, Bool>, CliError> {
        let (values, shape) = reference.integers(&name(key))?;
        let pad: Vec<bool> = values.into_iter().map(|keep| keep == 0).collect();
        Ok(Tensor::from_data(TensorData::new(pad, shape), device))
    };
    let labelled = |key: &str| -> Result<(Vec<i64>, Vec<i64>), CliError> {
        let (values, _) = reference.integers(&name(key))?;
        Ok(values
            .into_iter()
            .enumerate()
            .filter(|(_, label)| *label != -1)
            .map(|(position, label)| (position as i64, label))
            .unzip())
    };
    let (predict_words, word_targets) = labelled("mlm_labels")?;
    let (predict_frames, _) = labelled("mfm_labels")?;
    let (kept, _) = reference.integers(&name("decoder_mask"))?;
    let caption_positions = kept
        .into_iter()
        .enumerate()
        .filter_map(|(position, keep)| (keep != 0).then_some(position as i64))
        .collect();
    Ok(UniVlBatch {
        text_ids: ids("input_ids")?,
        text_pad: pad("attention_mask")?,
        masked_text_ids: ids("masked_input_ids")?,
        video: reference.input(&name("video"), device)?,
        masked_video: reference.input(&name("masked_video"), device)?,
        video_pad: pad("video_mask")?,
        predict_words,
        word_targets,
        predict_frames,
        decoder_input_ids: ids("decoder_input_ids")?,
        decoder_target_ids: ids("decoder_output_ids")?,
        decoder_pad: pad("decoder_mask")?,
        caption_positions,
    })
}

/// A vector over the parameters under published names.
pub(super) fn named(model: &UniVl, vector: &ParamVector) -> StateDict {
    vector.as_module(model).state_dict()
}

fn gradients(model: &UniVl, batch: &UniVlBatch, computed: &mut Computed) {
    let training = model.clone().train();
    let by_loss: Vec<ParamVector> = UniVlLoss::ALL
        .into_iter()
        .map(|loss| {
            let value = training.losses(batch, &[loss], Pass::Evaluation);
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
    let sum = named(model, &sum);
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

fn retrieval_and_captions(
    reference: &Reference,
    model: &UniVl,
    device: &Device,
    computed: &mut Computed,
) -> Result<(), CliError> {
    let ids = |key: &str| -> Result<(Vec<i64>, [usize; 2]), CliError> { reference.integers(key) };
    let pad = |key: &str| -> Result<Tensor<2, Bool>, CliError> {
        let (values, shape) = ids(key)?;
        let pad: Vec<bool> = values.into_iter().map(|keep| keep == 0).collect();
        Ok(Tensor::from_data(TensorData::new(pad, shape), device))
    };
    let (values, shape) = ids("eval_input_ids")?;
    let text = Tensor::<2, Int>::from_data(TensorData::new(values, shape), device);
    let text = model.encode_text(text, pad("eval_attention_mask")?, Pass::Evaluation);
    let video = reference.input("eval_video", device)?;
    let video = model.encode_video(video, pad("eval_video_mask")?, Pass::Evaluation);
    for (name, kind) in [
        ("eval_align_logits", SimilarityKind::Align),
        ("eval_joint_logits", SimilarityKind::Joint),
    ] {
        computed.tensor(
            name,
            model.similarity(kind, &text, &video, Pass::Evaluation),
        );
    }

    let encoded = model.encode_for_captions(&text, &video);
    let steps = reference.size("max_decode_steps")?;
    let n_items = shape[0];
    for beam_size in [1, reference.size("beam_size")?] {
        let settings = BeamSearch {
            beam_size,
            max_steps: steps,
            start: reference.size("cls_token_id")? as i64,
            end: reference.size("sep_token_id")? as i64,
            pad: reference.size("pad_token_id")? as i64,
        };
        // What is compared with the reference comes from the search that people use; the other
        // one has to agree with it.
        let outputs = beam_search_cached(model, &encoded, &settings);
        require_agreement(&outputs, &beam_search(model, &encoded, &settings))?;
        let (mut ids, mut scores, mut captions) = (Vec::new(), Vec::new(), Vec::new());
        for output in &outputs {
            for hypothesis in &output.hypotheses {
                extend_padded(&mut ids, &hypothesis.ids, steps);
                scores.push(hypothesis.score);
            }
            extend_padded(&mut captions, &output.caption_ids(&settings), steps);
        }
        computed.insert(
            format!("beam{beam_size}_ids"),
            &[n_items, beam_size, steps],
            ids,
        );
        computed.insert(
            format!("beam{beam_size}_scores"),
            &[n_items, beam_size],
            scores,
        );
        computed.insert(
            format!("beam{beam_size}_caption_ids"),
            &[n_items, steps],
            captions,
        );
    }
    Ok(())
}

/// An error if the search with kept keys and values differs from the one without.
fn require_agreement(kept: &[BeamOutput], again: &[BeamOutput]) -> Result<(), CliError> {
    let counts = |outputs: &[BeamOutput]| -> Vec<usize> {
        outputs
            .iter()
            .map(|output| output.hypotheses.len())
            .collect()
    };
    if counts(kept) != counts(again) {
        return Err(CliError::Check(format!(
            "beam search: {:?} hypotheses where keys and values are kept, {:?} where they are not",
            counts(kept),
            counts(again)
        )));
    }
    for (item, (kept, again)) in kept.iter().zip(again).enumerate() {
        let pairs = kept.hypotheses.iter().zip(&again.hypotheses).enumerate();
        for (rank, (kept, again)) in pairs {
            let close = (kept.score - again.score).abs() <= 2e-5 * again.score.abs().max(1.0);
            if kept.ids != again.ids || !close {
                return Err(CliError::Check(format!(
                    "beam search, item {item}, hypothesis {rank}, both from 0: {:?} with score \
                     {} where keys and values are kept, {:?} with score {} where they are not",
                    kept.ids, kept.score, again.ids, again.score
                )));
            }
        }
    }
    Ok(())
}

/// Appends `ids`, filled up to `length` with -1.
fn extend_padded(target: &mut Vec<f64>, ids: &[i64], length: usize) {
    let padded = ids
        .iter()
        .copied()
        .chain(std::iter::repeat(-1))
        .take(length);
    target.extend(padded.map(|id| id as f64));
}

#[cfg(test)]
mod tests {
    use meltr_tasks::Hypothesis;

    use super::*;

    fn output(hypotheses: &[(&[i64], f64)]) -> BeamOutput {
        BeamOutput {
            hypotheses: hypotheses
                .iter()
                .map(|(ids, score)| Hypothesis {
                    ids: ids.to_vec(),
                    score: *score,
                })
                .collect(),
        }
    }

    #[test]
    fn searches_agree_in_tokens_scores_and_numbers() {
        let one = output(&[(&[4, 5], -1.0), (&[4, 6], -2.0)]);
        let close = output(&[(&[4, 5], -1.000_01), (&[4, 6], -2.0)]);
        let agree = |kept: &BeamOutput, again: &BeamOutput| {
            require_agreement(std::slice::from_ref(kept), std::slice::from_ref(again))
        };
        assert!(agree(&one, &close).is_ok());
        for other in [
            output(&[(&[4, 5], -1.0), (&[4, 7], -2.0)]),
            output(&[(&[4, 5], -1.0), (&[4, 6], -2.1)]),
            output(&[(&[4, 5], -1.0), (&[4, 6], f64::NAN)]),
            output(&[(&[4, 5], -1.0)]),
        ] {
            assert!(matches!(agree(&one, &other), Err(CliError::Check(_))));
        }
        assert!(require_agreement(&[one], &[]).is_err());
    }
}
