//! Parity of the loss transformer: value, gradients and mixed products.

use burn::module::Module;
use burn::tensor::Device;
use meltr_aid::ParamVector;
use meltr_core::{
    Dual, LossTransformer, LossTransformerConfig, Pass, combine, directional_derivative,
};

use super::{Computed, Reference, Tolerance};
use crate::error::CliError;

pub(super) fn tolerance(name: &str) -> Tolerance {
    if name.starts_with("mixed.") {
        Tolerance::new(2e-6, 2e-4)
    } else {
        Tolerance::new(1e-6, 5e-5)
    }
}

pub(super) fn compute(reference: &Reference, device: &Device) -> Result<Computed, CliError> {
    let training = device.clone().autodiff();
    let config = LossTransformerConfig::new(
        reference.size("num_losses")?,
        reference.size("h1_dim")?,
        reference.size("h2_dim")?,
        reference.size("ffn_dim")?,
    )
    .with_n_heads(reference.size("num_heads")?);
    let (model, report) = config
        .init(0, &training)?
        .load_state_dict(&reference.state_dict("")?);
    reference.require_complete(&report)?;
    let losses = reference.input::<1>("losses", &training)?;
    let direction = reference.input::<1>("c", &training)?;
    let upstream = reference
        .input::<1>("upstream", &training)?
        .into_scalar::<f64>();

    let mut computed = Computed::default();
    let n_tasks = config.n_tasks;
    let flat = [n_tasks, config.d_model];
    let row = losses.clone().reshape([1, n_tasks]);
    let output = model.forward_detailed(Dual::constant(row), Pass::Evaluation);
    computed.tensor(
        "scale_embedding",
        output.scale_embedding.value.reshape(flat),
    );
    computed.tensor("encoder_output", output.encoded.value.reshape(flat));

    let leaf = losses.clone().require_grad();
    let combined = combine(&model, leaf.clone());
    computed.tensor("f", combined.clone());
    let mut gradients = combined.backward();
    if let Some(gradient) = leaf.grad(&gradients) {
        computed.tensor("df_dlosses", gradient.clone());
        computed.tensor("vjp_losses", gradient * upstream);
    }
    computed.dict(
        "grad.",
        &named(&model, &ParamVector::from_gradients(&mut gradients, &model)),
    );

    let along = directional_derivative(&model, losses, direction);
    computed.tensor("directional", along.clone());
    let mixed = ParamVector::from_gradients(&mut along.backward(), &model);
    computed.dict("mixed.", &named(&model, &mixed));
    Ok(computed)
}

/// A vector over the parameters under published names.
pub(super) fn named(model: &LossTransformer, vector: &ParamVector) -> meltr_core::StateDict {
    vector.as_module(&model.valid()).state_dict()
}
