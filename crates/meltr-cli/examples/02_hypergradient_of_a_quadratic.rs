//! The hypergradient of a problem whose answer is known, by all three kinds of products.
//!
//! Scalars `l_t = |w - a_t|² / 2`, inner objective `sum_t phi_t l_t`, outer objective
//! `F = |w - b|² / 2`. With the identity for the inverse Hessian the hypergradient is
//! `-<w - a_t, w - b>` for each `t`. Prints the worked answer and the three estimates.
#![expect(clippy::print_stdout, reason = "an example prints what it computes")]

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use meltr_aid::{
    BilevelProblem, CentralDifference, ConjugateGradient, HypergradientError,
    HypergradientEstimator, Implicit, ParamVector, Products, ScalarMediated, Settings,
};

#[derive(Module, Debug)]
struct Vector {
    values: Param<Tensor<1>>,
}

const ANCHORS: [[f32; 3]; 2] = [[1.0, 0.0, 2.0], [-1.0, 0.5, 0.0]];
const GOAL: [f32; 3] = [0.0, 2.0, 1.0];
const START: [f32; 3] = [0.5, 0.5, 0.5];

struct Quadratic;

impl Quadratic {
    /// Half the squared distance of `w` to a constant.
    fn half_distance(w: &Tensor<1>, constant: [f32; 3]) -> Tensor<1> {
        (w.clone() - Tensor::from_floats(constant, &w.device()))
            .square()
            .sum()
            * 0.5
    }
}

impl ScalarMediated for Quadratic {
    type Inner = Vector;
    type Outer = Vector;

    fn scalars(&self, inner: &Vector) -> Tensor<1> {
        let w = inner.values.val();
        Tensor::cat(
            ANCHORS
                .map(|anchor| Self::half_distance(&w, anchor))
                .to_vec(),
            0,
        )
    }

    fn scalars_along(&self, inner: &Vector, direction: &Vector) -> Option<(Tensor<1>, Tensor<1>)> {
        let (w, u) = (inner.values.val(), direction.values.val());
        let along = ANCHORS.map(|anchor| {
            ((w.clone() - Tensor::from_floats(anchor, &w.device())) * u.clone()).sum()
        });
        Some((self.scalars(inner), Tensor::cat(along.to_vec(), 0)))
    }

    fn combined(&self, outer: &Vector, scalars: Tensor<1>) -> Tensor<1> {
        (outer.values.val() * scalars).sum()
    }

    fn mixed_scalar_product(&self, outer: &Vector, _l: Tensor<1>, c: Tensor<1>) -> ParamVector {
        let value = (outer.values.val() * c).sum();
        ParamVector::from_gradients(&mut value.backward(), outer)
    }
}

impl BilevelProblem for Quadratic {
    type Inner = Vector;
    type Outer = Vector;

    fn inner_objective(&self, inner: &Vector, outer: &Vector) -> Tensor<1> {
        self.combined(outer, self.scalars(inner))
    }

    fn outer_objective(&self, inner: &Vector, _outer: &Vector) -> Tensor<1> {
        Self::half_distance(&inner.values.val(), GOAL)
    }

    fn mediation(&self) -> Option<&dyn ScalarMediated<Inner = Vector, Outer = Vector>> {
        Some(self)
    }
}

fn main() -> Result<(), HypergradientError> {
    let device = Device::default().autodiff();
    let inner = Vector {
        values: Param::from_tensor(Tensor::from_floats(START, &device)),
    };
    let outer = Vector {
        values: Param::from_tensor(Tensor::from_floats([1.0, 1.0], &device)),
    };

    let worked: Vec<f32> = ANCHORS
        .iter()
        .map(|anchor| {
            -(0..3)
                .map(|i| (START[i] - anchor[i]) * (START[i] - GOAL[i]))
                .sum::<f32>()
        })
        .collect();
    println!("{:<20} {worked:?}", "worked by hand");
    let difference = Products::CentralDifference(CentralDifference::default());
    for products in [Products::ForwardMode, difference, Products::Reverse] {
        let mut estimator = Implicit::identity(Settings {
            products,
            ..Settings::default()
        });
        let estimate = estimator.estimate(&Quadratic, &inner, &outer)?;
        println!(
            "{:<20} {:?}",
            estimate.certificate.product,
            estimate.gradient.to_vec()
        );
    }
    // The inner Hessian is `(phi_0 + phi_1) I`, so the exact answer is that divided by 2.
    let mut exact = Implicit::new(ConjugateGradient::new(3));
    let estimate = exact.estimate(&Quadratic, &inner, &outer)?;
    println!(
        "{:<20} {:?}",
        "conjugate gradients",
        estimate.gradient.to_vec()
    );
    Ok(())
}
