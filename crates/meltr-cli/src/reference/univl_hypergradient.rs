//! Parity of the hypergradient through UniVL with the released second-order one.

use burn::module::Module;
use burn::tensor::Device;
use meltr_aid::{HypergradientEstimator, Implicit, ParamVector, Products, Settings};
use meltr_core::{
    Combiner, FineTuneTask, LossTransformer, LossTransformerConfig, Pass, Regularizer, StateDict,
    combine, sensitivities,
};
use meltr_models::UniVlLoss;
use meltr_train::MeltrProblem;

use super::{Computed, Reference, Tolerance, loss_transformer, univl};
use crate::error::CliError;
use crate::given_batches::GivenBatches;

pub(super) fn tolerance(name: &str) -> Tolerance {
    if name.starts_with("hypergrad") || name.starts_with('c') || name.contains("norm") {
        Tolerance::new(1e-4, 3e-4)
    } else {
        Tolerance::new(2e-5, 5e-5)
    }
}

pub(super) fn compute(reference: &Reference, device: &Device) -> Result<Computed, CliError> {
    let inner = univl::load(reference, "backbone.", device)?.train();
    let transformer = LossTransformerConfig::new(
        reference.size("meltr.num_losses")?,
        reference.size("meltr.h1_dim")?,
        reference.size("meltr.h2_dim")?,
        reference.size("meltr.ffn_dim")?,
    )
    .with_n_heads(reference.size("meltr.num_heads")?)
    .init(0, device)?;
    let (transformer, report) = transformer.load_state_dict(&reference.state_dict("meltr.")?);
    reference.require_complete(&report)?;
    let transformer = transformer.train();
    let outer = Combiner::Transformer(transformer.clone());
    let primary = reference.size("primary_index")?;
    let task = GivenBatches {
        losses: UniVlLoss::ALL.to_vec(),
        primary: *UniVlLoss::ALL.get(primary).ok_or_else(|| {
            CliError::Input(format!(
                "`primary_index` is {primary}; there are {} losses, from 0",
                UniVlLoss::ALL.len()
            ))
        })?,
    };
    let outer_batch = univl::batch(reference, "b1.", device)?;
    let inner_batch = univl::batch(reference, "b2.", device)?;
    let mut computed = Computed::default();

    let losses = task.losses(&inner, &inner_batch, Pass::Evaluation);
    let plain = losses.clone().inner();
    let combined = combine(&outer.clone().no_grad(), losses);
    computed.tensor("losses_b2", plain.clone());
    computed.tensor("f_b2", combined.clone());
    let slopes = sensitivities(&transformer.valid(), plain);
    computed.insert("df_dlosses_b2", &[slopes.len()], slopes);
    let gradient = ParamVector::from_gradients(&mut combined.backward(), &inner);
    computed.scalar("grad_f_b2_total_norm", gradient.norm());

    let gamma = reference.number("gamma")?;
    for (suffix, gamma) in [("", 0.0), ("_reg", gamma)] {
        let problem = MeltrProblem {
            task: &task,
            outer_batch: &outer_batch,
            inner_batch: &inner_batch,
            outer_pass: Pass::Evaluation,
            inner_pass: Pass::Evaluation,
            regularizer: Regularizer {
                gamma,
                ..Regularizer::off()
            },
        };
        // Forward mode, as in training; reverse passes have to agree with it.
        let [exact, hypergradient] = [Products::Reverse, Products::ForwardMode].map(|products| {
            Implicit::identity(Settings {
                products,
                without_direct: true,
                ..Settings::default()
            })
            .estimate(&problem, &inner, &outer)
            .map_err(CliError::failed)
        });
        let (exact, hypergradient) = (exact?, hypergradient?);
        let apart = hypergradient
            .gradient
            .clone()
            .add_scaled(-1.0, &exact.gradient)
            .norm()
            / exact.gradient.norm();
        if apart > 1e-4 {
            return Err(CliError::Check(format!(
                "forward mode and reverse passes differ by {apart:.1e} relative"
            )));
        }
        computed.scalar(format!("L_val{suffix}"), hypergradient.outer_objective);
        let n_tasks = hypergradient.directional.len();
        computed.insert(
            format!("c{suffix}"),
            &[n_tasks],
            hypergradient.directional.clone(),
        );
        let norm = if suffix.is_empty() {
            "a_norm"
        } else {
            "a_reg_norm"
        };
        computed.scalar(norm, hypergradient.outer_gradient.norm());
        computed.dict(
            &format!("hypergrad{suffix}."),
            &named(&transformer, &hypergradient.gradient),
        );
    }
    Ok(computed)
}

fn named(transformer: &LossTransformer, vector: &ParamVector) -> StateDict {
    loss_transformer::named(transformer, vector)
}
