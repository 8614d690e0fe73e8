//! Derivatives along a direction: forward mode against reverse mode.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use meltr_core::Pass;
use meltr_models::{UniVl, UniVlLoss};

use crate::support::{batch, host, model};

/// A direction: smooth, nowhere zero, of the size of the parameters.
struct Wave(usize);

impl ModuleMapper for Wave {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let phase = self.0 as f64;
        param.map(|value| (value * 9.0 + phase).sin() * 0.03)
    }
}

/// Sum over parameters of `<gradient, direction>`.
struct Inner<'a> {
    gradients: &'a Gradients,
    directions: std::vec::IntoIter<Vec<f64>>,
    sum: f64,
}

struct Collect(Vec<Vec<f64>>);

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().into_data().iter::<f64>().collect());
    }
}

impl ModuleVisitor for Inner<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let direction = self.directions.next().unwrap();
        if let Some(gradient) = param.val().grad(self.gradients) {
            let gradient = gradient.into_data();
            self.sum += gradient
                .iter::<f64>()
                .zip(direction)
                .map(|(g, d)| g * d)
                .sum::<f64>();
        }
    }
}

fn reverse(model: &UniVl, direction: &UniVl, loss: UniVlLoss, pass: Pass) -> f64 {
    let training = model.clone().train();
    let gradients = training.losses(&batch(4), &[loss], pass).backward();
    let mut collect = Collect(Vec::new());
    direction.visit(&mut collect);
    let mut inner = Inner {
        gradients: &gradients,
        directions: collect.0.into_iter(),
        sum: 0.0,
    };
    training.visit(&mut inner);
    inner.sum
}

#[test]
fn every_loss_agrees_with_its_reverse_pass_with_and_without_dropout() {
    for (cross_layers, pass) in [
        (1, Pass::Evaluation),
        (2, Pass::Evaluation),
        (1, Pass::Stochastic { seed: 3 }),
    ] {
        let model = model(cross_layers);
        let direction = model.clone().map(&mut Wave(0));
        for loss in UniVlLoss::ALL {
            let dual = model.losses_along(&direction, &batch(4), &[loss], pass);
            let forward = host(dual.tangent.unwrap())[0];
            let reverse = reverse(&model, &direction, loss, pass);
            assert!(
                (forward - reverse).abs() < 2e-4 * reverse.abs().max(0.05),
                "{loss} with {cross_layers} cross layers: {forward} forward, {reverse} reverse"
            );
        }
    }
}

#[test]
fn the_values_are_those_of_a_plain_pass() {
    let model = model(1);
    let direction = model.clone().map(&mut Wave(0));
    let dual = model.losses_along(&direction, &batch(3), &UniVlLoss::ALL, Pass::Evaluation);
    let plain = model.losses(&batch(3), &UniVlLoss::ALL, Pass::Evaluation);
    dual.value.into_data().assert_eq(&plain.into_data(), true);
}
