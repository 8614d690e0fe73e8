//! A layer that is fitted in closed form.

use burn::tensor::{Tensor, TensorData};
use meltr_core::{StateDict, vec_f64};
use ndarray::{Array, Array1, Array2, Axis, Dimension};

use crate::linear_reference::ridge;

/// Penalty for each item, in units of the features' mean variance.
///
/// Chosen by cross-validation on the training and validation clips of the embedded set; from 0.1
/// to 0.3 little changes.
const RIDGE: f64 = 0.2;

/// Largest difference of two logits of a fitted head, if it were certain of its answer.
///
/// One-hot targets of size 1 would make all answers about equally likely. Chosen as [`RIDGE`] was,
/// by the cross entropy; from 8 to 12 little changes.
const LOGIT_RANGE: f64 = 10.0;

/// `x W + b`, fitted by ridge regression.
#[derive(Debug, Clone)]
pub(crate) struct LinearFit {
    /// `[d, k]`
    pub(crate) weights: Array2<f64>,
    /// `[k]`
    pub(crate) bias: Array1<f64>,
}

impl LinearFit {
    /// Fits `targets` `[n, k]` by `features` `[n, d]`; the penalty spares the bias.
    ///
    /// Features are not standardized one by one: that would give those that hardly vary the largest
    /// weights, and the first steps of training would change their contribution the most.
    pub(crate) fn new(features: &Array2<f64>, targets: &Array2<f64>) -> Self {
        let (feature_mean, target_mean) = (mean(features), mean(targets));
        let centered = features - &feature_mean;
        let squares: f64 = centered.iter().map(|value| value * value).sum();
        let penalty = RIDGE * squares / centered.ncols().max(1) as f64;
        let weights = ridge(
            centered.view(),
            (targets - &target_mean).view(),
            penalty.max(f64::MIN_POSITIVE),
        );
        let bias = target_mean - feature_mean.dot(&weights);
        Self { weights, bias }
    }

    /// The last layer of a classifier, fitted to the right one of `n_classes` for each item.
    pub(crate) fn of_classes(features: &Array2<f64>, classes: &[usize], n_classes: usize) -> Self {
        let targets = Array2::from_shape_fn((classes.len(), n_classes), |(item, class)| {
            if classes.get(item) == Some(&class) {
                LOGIT_RANGE
            } else {
                0.0
            }
        });
        Self::new(features, &targets)
    }

    /// `[n, d]` to `[n, k]`.
    pub(crate) fn apply(&self, features: &Array2<f64>) -> Array2<f64> {
        features.dot(&self.weights) + &self.bias
    }

    /// The same map followed by `axes` `[k, m]`.
    pub(crate) fn onto(&self, axes: &Array2<f64>) -> Self {
        Self {
            weights: self.weights.dot(axes),
            bias: self.bias.dot(axes),
        }
    }

    /// The same map with an output `factor` times as long.
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        Self {
            weights: &self.weights * factor,
            bias: &self.bias * factor,
        }
    }

    /// Makes it a layer of a network.
    pub(crate) fn put(&self, dict: &mut StateDict, layer: &str) {
        let weight = self.weights.t().to_owned();
        dict.insert(format!("{layer}.weight"), tensor(&weight));
        dict.insert(format!("{layer}.bias"), tensor(&self.bias));
    }
}

/// An array as a tensor of the same shape.
pub(crate) fn tensor<D: Dimension>(array: &Array<f64, D>) -> TensorData {
    let values: Vec<f32> = array.iter().map(|value| *value as f32).collect();
    TensorData::new(values, array.shape().to_vec())
}

/// A matrix of a network on the host.
pub(crate) fn array(tensor: Tensor<2>) -> Array2<f64> {
    let [n_rows, n_columns] = tensor.dims();
    let values = vec_f64(tensor.into_data());
    Array2::from_shape_fn((n_rows, n_columns), |(row, column)| {
        values[row * n_columns + column]
    })
}

/// Mean of the rows.
pub(crate) fn mean(rows: &Array2<f64>) -> Array1<f64> {
    rows.mean_axis(Axis(0))
        .unwrap_or_else(|| Array1::zeros(rows.ncols()))
}

/// Mean length of the rows, above 0.
pub(crate) fn mean_norm(rows: &Array2<f64>) -> f64 {
    let total: f64 = rows
        .rows()
        .into_iter()
        .map(|row| row.dot(&row).sqrt())
        .sum();
    (total / rows.nrows().max(1) as f64).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_map_is_followed_up_to_the_penalty_and_its_offset_exactly() {
        let features = array![[1.0, 2.0], [0.5, -1.0], [3.0, 0.0], [1.0, 1.0], [-2.0, 3.0]];
        let map = array![[1.0, -2.0], [0.5, 1.0]];
        let targets = features.dot(&map) + &array![3.0, -4.0];
        let fit = LinearFit::new(&features, &targets);
        let found = fit.apply(&features);
        assert!(
            (&mean(&found) - &mean(&targets))
                .iter()
                .all(|apart| apart.abs() < 1e-12)
        );
        let (left, all) = (&targets - &found, &targets - &mean(&targets));
        assert!(mean_norm(&left) < 0.4 * mean_norm(&all));
    }

    #[test]
    fn the_unit_of_the_features_does_not_matter() {
        let features = array![[1.0, 2.0], [0.5, -1.0], [3.0, 0.0], [1.0, 1.0]];
        let targets = array![[1.0], [0.0], [2.0], [-1.0]];
        let found = LinearFit::new(&features, &targets).apply(&features);
        let large = &features * 1e3;
        let same = LinearFit::new(&large, &targets).apply(&large);
        assert!((found - same).iter().all(|apart| apart.abs() < 1e-9));
    }

    #[test]
    fn features_that_say_nothing_give_the_mean() {
        let features = Array2::ones((3, 2));
        let fit = LinearFit::of_classes(&features, &[0, 1, 1], 3);
        let logits = fit.apply(&features);
        for row in logits.rows() {
            for (found, share) in row.iter().zip([1.0 / 3.0, 2.0 / 3.0, 0.0]) {
                assert!((found - LOGIT_RANGE * share).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn a_layer_is_put_as_pytorch_has_it() {
        let fit = LinearFit {
            weights: array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
            bias: array![7.0, 8.0, 9.0],
        };
        let mut dict = StateDict::new();
        fit.scaled(2.0).put(&mut dict, "head");
        let weight = &dict["head.weight"];
        assert_eq!(weight.shape().to_vec(), [3, 2]);
        let values: Vec<f32> = weight.iter::<f32>().collect();
        assert_eq!(values, [2.0, 8.0, 4.0, 10.0, 6.0, 12.0]);
        assert_eq!(dict["head.bias"].shape().to_vec(), [3]);
    }
}
