//! Parity of every estimator on a small backbone with four losses, and of the loop around it.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{AdamConfig, decay::WeightDecayConfig};
use burn::tensor::activation::{log_sigmoid, log_softmax, tanh};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use meltr_aid::{
    BilevelProblem, ConjugateGradient, Dense, GradientDifference, Hypergradient,
    HypergradientEstimator, Implicit, LinearSolver, Neumann, ParamVector, ScalarMediated, Settings,
    second_derivatives,
};
use meltr_core::{
    LossTransformer, LossTransformerConfig, StateDict, combine, directional_derivative,
    load_state_dict, parameter_names, sensitivities, state_dict,
};
use meltr_train::{BertAdam, BertAdamConfig, Schedule};

use super::{Computed, Reference, Tolerance, loss_transformer};
use crate::error::CliError;

/// What the fixture calls the solvers, all but the identity.
const SOLVERS: [&str; 4] = ["implicit", "cg", "neumann", "neumann_damped"];

/// The tolerances in the precision of the device.
pub(super) fn tolerance(device: &Device) -> fn(&str) -> Tolerance {
    match precision(device) {
        DType::F64 => in_f64,
        _ => in_f32,
    }
}

/// What is computed in f64 from products by differences; parameters after normalized steps as the
/// fixture says.
fn in_f64(name: &str) -> Tolerance {
    if is_after_a_step(name) {
        Tolerance::new(5e-5, 0.0)
    } else {
        Tolerance::new(1e-6, 1e-5)
    }
}

/// As the fixture says of f32, but for what comes from products with the Hessian: these are
/// differences of gradients, of which rounding and the kinks of the combiner leave three digits,
/// and the solvers divide by curvatures smaller than half of the damping.
fn in_f32(name: &str) -> Tolerance {
    if is_after_a_step(name) {
        Tolerance::new(5e-5, 0.0)
    } else if needs_hessian(name) {
        Tolerance::new(1e-5, 2e-2)
    } else {
        Tolerance::new(1e-6, 1e-4)
    }
}

fn is_after_a_step(name: &str) -> bool {
    name.contains(".phi.") || name.contains(".w.")
}

/// Whether a tensor comes from products with the Hessian.
fn needs_hessian(name: &str) -> bool {
    let kind = name.split('.').next().unwrap_or(name);
    ["hvp_a", "hessian_min_max_eig"].contains(&kind)
        || SOLVERS.iter().any(|solver| {
            kind.strip_suffix(solver)
                .is_some_and(|kind| kind.ends_with('_'))
        })
}

/// f64, as the fixture was computed, or f32 on a device without it.
fn precision(device: &Device) -> DType {
    if device.supports_dtype(DType::F64) {
        DType::F64
    } else {
        DType::F32
    }
}

pub(super) fn compute(reference: &Reference, device: &Device) -> Result<Computed, CliError> {
    let device = device.clone().autodiff();
    let inner = backbone(reference, &device)?;
    let outer = transformer(reference, &device)?;
    let [b1, b2] = ["b1.", "b2."].map(|prefix| Batch::read(reference, prefix, &device));
    let (b1, b2) = (b1?, b2?);
    let mut computed = Computed::default();

    computed.tensor("losses_b1", inner.losses(&b1).inner());
    let losses = inner.losses(&b2);
    computed.tensor("losses_b2", losses.clone().inner());
    let slopes = sensitivities(&outer.valid(), losses.clone().inner());
    computed.insert("df_dlosses_b2", &[slopes.len()], slopes);
    let combined = combine(&outer, losses);
    computed.tensor("f_b2", combined.clone().inner());
    let gradient = ParamVector::from_gradients(&mut combined.backward(), &inner);
    computed.dict("grad_f_b2.", &inner.named(&gradient));
    for index in 0..4 {
        let loss = inner.losses(&b2).narrow(0, index, 1);
        let gradient = ParamVector::from_gradients(&mut loss.backward(), &inner);
        computed.dict(&format!("grad_loss{index}_b2."), &inner.named(&gradient));
    }

    let problem = Problem {
        primary: reference.size("primary_index")?,
        outer_batch: &b1,
        inner_batch: &b2,
        gamma: 0.0,
    };
    let estimate = |solver: &mut dyn LinearSolver, problem: &Problem<'_>, without_direct: bool| {
        let settings = Settings {
            products: meltr_aid::Products::Reverse,
            without_direct,
            ..Settings::default()
        };
        Implicit {
            solver: Borrowed(solver),
            settings,
        }
        .estimate(problem, &inner, &outer)
        .map_err(CliError::failed)
    };
    let mut identity = meltr_aid::Identity {};
    let found = estimate(&mut identity, &problem, true)?;
    let a = found.outer_gradient.clone();
    computed.dict("a.", &inner.named(&a));
    enter(&mut computed, "", &outer, &found);

    let second = second_derivatives(
        &mut GradientDifference::default(),
        &problem,
        &inner,
        &outer,
        &a,
    )
    .map_err(CliError::failed)?;
    computed.dict("hvp_a.", &inner.named(&second.hessian_product));

    let damping = reference.number("damping")?;
    let alpha = reference.number("neumann_alpha")?;
    let terms = reference.size("neumann_terms")?;
    let mut dense = Dense {
        damping,
        ..Dense::default()
    };
    let mut cg = ConjugateGradient::new(reference.size("cg_iterations")?)
        .with_damping(damping)
        .with_tolerance(0.0);
    let mut neumann = Neumann::new(alpha, terms);
    let mut damped = Neumann::new(alpha, terms).with_damping(damping);
    let solvers: [&mut dyn LinearSolver; 4] = [&mut dense, &mut cg, &mut neumann, &mut damped];
    for (name, solver) in SOLVERS.into_iter().zip(solvers) {
        let found = estimate(solver, &problem, true)?;
        computed.dict(&format!("v_{name}."), &inner.named(&found.adjoint));
        enter(&mut computed, &format!("_{name}"), &outer, &found);
        if name == "implicit" {
            let certificate = &found.certificate;
            let ends = [
                certificate.smallest_curvature,
                certificate.largest_curvature,
            ];
            let ends = ends.map(|end| end.unwrap_or(f64::NAN)).to_vec();
            computed.insert("hessian_min_max_eig", &[2], ends);
        }
    }

    let regularized = Problem {
        gamma: reference.number("gamma")?,
        ..problem
    };
    let found = estimate(&mut identity, &regularized, true)?;
    computed.scalar("L_val_reg", found.outer_objective);
    computed.dict("a_reg.", &inner.named(&found.outer_gradient));
    enter(&mut computed, "_reg", &outer, &found);
    let total = estimate(&mut identity, &regularized, false)?;
    computed.dict(
        "hypergrad_reg_total.",
        &loss_transformer::named(&outer, &total.gradient),
    );

    for name in ["loop", "loop_reg"] {
        training_loop(reference, &device, name, &mut computed)?;
    }
    Ok(computed)
}

fn enter(computed: &mut Computed, suffix: &str, outer: &LossTransformer, found: &Hypergradient) {
    let t = found.directional.len();
    computed.insert(format!("c{suffix}"), &[t], found.directional.clone());
    computed.dict(
        &format!("hypergrad{suffix}."),
        &loss_transformer::named(outer, &found.gradient),
    );
}

/// The released loop: a step of the backbone, and after every few of them one of the combiner.
fn training_loop(
    reference: &Reference,
    device: &Device,
    name: &str,
    computed: &mut Computed,
) -> Result<(), CliError> {
    let key = |key: &str| format!("loops.{name}.{key}");
    let is_regularized = reference.size(&key("reg"))? == 1;
    let gamma = if is_regularized {
        reference.number("gamma")?
    } else {
        0.0
    };
    let clip_norm = reference.number(&key("meta_max_grad_norm"))?;
    let draws = |which: &str| reference.integers_of(&key(which));
    let (draw_outer, draw_inner) = (draws("draw_val")?, draws("draw_train")?);

    let mut inner = backbone(reference, device)?;
    let mut outer = transformer(reference, device)?;
    let config = BertAdamConfig {
        learning_rate: reference.number("bert_adam.lr")?,
        schedule: Schedule::WarmupLinearDown,
        t_warmup: reference.size("bert_adam.t_warmup")?,
        warmup_share: reference.number("bert_adam.warmup_proportion")?,
        beta_1: reference.number("bert_adam.b1")?,
        beta_2: reference.number("bert_adam.b2")?,
        epsilon: reference.number("bert_adam.eps")?,
        weight_decay: reference.number("bert_adam.weight_decay")?,
        max_grad_norm: reference.number("backbone_clip_norm")?,
        ..BertAdamConfig::default()
    };
    let names = parameter_names(&inner, str::to_owned);
    let mut inner_optimizer = BertAdam::new(config, names)?;
    let adam = |key: &str| reference.number(&format!("meta_adam.{key}"));
    let rate = adam("lr")?;
    let mut outer_optimizer = AdamConfig::new()
        .with_beta_1(adam("b1")? as f32)
        .with_beta_2(adam("b2")? as f32)
        .with_epsilon(adam("eps")? as f32)
        .with_weight_decay(Some(WeightDecayConfig::new(adam("weight_decay")? as f32)))
        .init();

    let every = reference.size("meta_every")?;
    let mut buffer = Vec::new();
    for step in 0..reference.size("loop_steps")? {
        let prefix = format!("{name}.step{step}.");
        let batch = Batch::read(reference, &format!("loop.batch{step}."), device)?;
        let losses = inner.losses(&batch);
        computed.tensor(format!("{prefix}losses"), losses.clone().inner());
        let combined = combine(&outer.clone().no_grad(), losses);
        computed.tensor(format!("{prefix}f"), combined.clone().inner());
        let gradient = ParamVector::from_gradients(&mut combined.backward(), &inner);
        let norm = gradient.norm();
        computed.scalar(format!("{prefix}backbone_grad_norm"), norm);
        inner = inner_optimizer.step(inner, gradient, norm);
        computed.dict(&format!("{prefix}w."), &inner.state_dict());

        if step % every == 0 {
            let drawn = |draws: &[i64]| match usize::try_from(draws[step]) {
                Ok(index) => &buffer[index],
                Err(_) => &batch,
            };
            let problem = Problem {
                primary: reference.size("primary_index")?,
                outer_batch: drawn(&draw_outer),
                inner_batch: drawn(&draw_inner),
                gamma,
            };
            let found = Implicit::identity(Settings {
                products: meltr_aid::Products::Reverse,
                without_direct: true,
                ..Settings::default()
            })
            .estimate(&problem, &inner, &outer)
            .map_err(CliError::failed)?;
            computed.dict(
                &format!("{prefix}hypergrad."),
                &loss_transformer::named(&outer, &found.gradient),
            );
            let norm = found.gradient.norm();
            computed.scalar(format!("{prefix}hypergrad_norm"), norm);
            let clip = (clip_norm / (norm + 1e-6)).min(1.0);
            let gradients = found.gradient.scale(clip).to_gradients_params(&outer);
            outer = outer_optimizer.step(rate, outer, gradients);
            let state = outer.valid().state_dict();
            computed.dict(&format!("{prefix}phi."), &state);
        }
        buffer.push(batch);
    }
    Ok(())
}

/// Lets one estimator borrow any solver.
struct Borrowed<'a>(&'a mut dyn LinearSolver);

impl LinearSolver for Borrowed<'_> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn damping(&self) -> f64 {
        self.0.damping()
    }

    fn solve(
        &mut self,
        operator: &mut dyn meltr_aid::SymmetricOperator,
        v: &ParamVector,
    ) -> Result<meltr_aid::Solution, meltr_aid::HypergradientError> {
        self.0.solve(operator, v)
    }
}

struct Problem<'a> {
    primary: usize,
    outer_batch: &'a Batch,
    inner_batch: &'a Batch,
    gamma: f64,
}

impl ScalarMediated for Problem<'_> {
    type Inner = Mlp;
    type Outer = LossTransformer;

    fn scalars(&self, inner: &Mlp) -> Tensor<1> {
        inner.losses(self.inner_batch)
    }

    fn scalars_along(&self, _: &Mlp, _: &Mlp) -> Option<(Tensor<1>, Tensor<1>)> {
        None
    }

    fn combined(&self, outer: &LossTransformer, scalars: Tensor<1>) -> Tensor<1> {
        combine(outer, scalars)
    }

    fn mixed_scalar_product(
        &self,
        outer: &LossTransformer,
        scalars: Tensor<1>,
        direction: Tensor<1>,
    ) -> ParamVector {
        let along = directional_derivative(outer, scalars, direction);
        ParamVector::from_gradients(&mut along.backward(), outer)
    }
}

impl BilevelProblem for Problem<'_> {
    type Inner = Mlp;
    type Outer = LossTransformer;

    fn inner_objective(&self, inner: &Mlp, outer: &LossTransformer) -> Tensor<1> {
        combine(&outer.clone().no_grad(), self.scalars(inner))
    }

    fn outer_objective(&self, inner: &Mlp, outer: &LossTransformer) -> Tensor<1> {
        let primary = inner.losses(self.outer_batch).narrow(0, self.primary, 1);
        if self.gamma == 0.0 {
            return primary;
        }
        let losses = self.scalars(inner);
        let apart = losses.clone().sum() - combine(outer, losses);
        primary + apart.abs() * self.gamma
    }

    fn mediation(&self) -> Option<&dyn ScalarMediated<Inner = Mlp, Outer = LossTransformer>> {
        Some(self)
    }
}

#[derive(Debug)]
struct Batch {
    x: Tensor<2>,
    target: Tensor<2>,
    tags: Tensor<2>,
    label: Tensor<2, Int>,
}

impl Batch {
    fn read(reference: &Reference, prefix: &str, device: &Device) -> Result<Self, CliError> {
        let dtype = precision(device);
        let float = |name: &str| -> Result<Tensor<2>, CliError> {
            let array = reference.inputs.f64(&format!("{prefix}{name}"))?;
            let shape = array.shape().to_vec();
            let data = TensorData::new(array.into_iter().collect::<Vec<f64>>(), shape);
            Ok(Tensor::from_data(
                data.convert_dtype(dtype),
                (device, dtype),
            ))
        };
        let label = reference.inputs.i64(&format!("{prefix}label"))?;
        let rows = label.len();
        let label = TensorData::new(label.into_iter().collect::<Vec<i64>>(), [rows, 1]);
        Ok(Self {
            x: float("x")?,
            target: float("target")?,
            tags: float("tags")?,
            label: Tensor::from_data(label, device),
        })
    }
}

/// A linear map with PyTorch's layout, `[out, in]`.
#[derive(Module, Debug)]
struct Layer {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

impl Layer {
    fn new(n_in: usize, n_out: usize, device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::zeros([n_out, n_in], device)),
            bias: Param::from_tensor(Tensor::zeros([n_out], device)),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.val().transpose()) + self.bias.val().unsqueeze()
    }
}

/// A shared trunk with a head for each of four losses.
#[derive(Module, Debug)]
struct Mlp {
    trunk1: Layer,
    trunk2: Layer,
    head_cls: Layer,
    head_reg: Layer,
    head_tag: Layer,
    head_rec: Layer,
}

impl Mlp {
    /// Cross-entropy, squared error, binary cross-entropy, pseudo-Huber reconstruction; `[4]`.
    fn losses(&self, batch: &Batch) -> Tensor<1> {
        let h = tanh(self.trunk1.forward(batch.x.clone()));
        let h = tanh(self.trunk2.forward(h));
        let classes = log_softmax(self.head_cls.forward(h.clone()), 1);
        let cross_entropy = classes.gather(1, batch.label.clone()).mean().neg();
        let squared = (self.head_reg.forward(h.clone()) - batch.target.clone())
            .square()
            .mean();
        let logits = self.head_tag.forward(h.clone());
        let tagged = batch.tags.clone() * log_sigmoid(logits.clone())
            + (batch.tags.clone().neg() + 1.0) * log_sigmoid(logits.neg());
        let distance = self.head_rec.forward(h) - batch.x.clone();
        let huber = (distance.square() + 1.0).sqrt().mean() - 1.0;
        Tensor::cat(vec![cross_entropy, squared, tagged.mean().neg(), huber], 0)
    }

    fn state_dict(&self) -> StateDict {
        state_dict(&self.valid(), str::to_owned)
    }

    fn named(&self, vector: &ParamVector) -> StateDict {
        state_dict(&vector.as_module(self), str::to_owned)
    }
}

fn backbone(reference: &Reference, device: &Device) -> Result<Mlp, CliError> {
    let size = |key: &str| reference.size(&format!("backbone.{key}"));
    let (x, h1, h2) = (size("input_dim")?, size("hidden1")?, size("hidden2")?);
    let mlp = Mlp {
        trunk1: Layer::new(x, h1, device),
        trunk2: Layer::new(h1, h2, device),
        head_cls: Layer::new(h2, size("num_classes")?, device),
        head_reg: Layer::new(h2, size("num_targets")?, device),
        head_tag: Layer::new(h2, size("num_tags")?, device),
        head_rec: Layer::new(h2, x, device),
    };
    let dict = reference.state_dict("backbone.")?;
    let (mlp, report) = load_state_dict(mlp, &dict, str::to_owned);
    reference.require_complete(&report)?;
    Ok(mlp.map(&mut In(precision(device))).train())
}

fn transformer(reference: &Reference, device: &Device) -> Result<LossTransformer, CliError> {
    let (transformer, report) = LossTransformerConfig::new(
        reference.size("meltr.num_losses")?,
        reference.size("meltr.h1_dim")?,
        reference.size("meltr.h2_dim")?,
        reference.size("meltr.ffn_dim")?,
    )
    .with_n_heads(reference.size("meltr.num_heads")?)
    .init(0, device)?
    .load_state_dict(&reference.state_dict("meltr.")?);
    reference.require_complete(&report)?;
    Ok(transformer.map(&mut In(precision(device))).train())
}

/// The parameters in this type.
struct In(DType);

impl ModuleMapper for In {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let value = value.inner().cast(self.0);
        Param::from_mapped_value(id, value, mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_the_hessian_has_a_wider_tolerance_in_f32() {
        for name in [
            "hvp_a.trunk1.weight",
            "hessian_min_max_eig",
            "v_implicit.trunk1.bias",
            "c_cg",
            "v_neumann.head_cls.bias",
            "hypergrad_neumann_damped.fc1.weight",
        ] {
            assert!(needs_hessian(name), "{name}");
            assert_eq!(in_f32(name).relative, 2e-2, "{name}");
            assert_eq!(in_f64(name).relative, 1e-5, "{name}");
        }
        for name in [
            "a.trunk1.weight",
            "a_reg.trunk1.weight",
            "c",
            "c_reg",
            "hypergrad.fc1.weight",
            "hypergrad_reg_total.fc1.weight",
            "loop.step0.hypergrad.fc1.weight",
            "grad_f_b2.trunk1.weight",
        ] {
            assert!(!needs_hessian(name), "{name}");
            assert_eq!(in_f32(name).relative, 1e-4, "{name}");
        }
        assert_eq!(in_f32("loop.step0.w.trunk1.bias").absolute, 5e-5);
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_fixture_is_computed_in_f64_where_there_is_one() {
        assert_eq!(precision(&Device::flex()), DType::F64);
        assert_eq!(precision(&Device::flex().autodiff()), DType::F64);
    }
}
