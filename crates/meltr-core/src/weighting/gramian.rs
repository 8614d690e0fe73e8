//! The inner products of the task gradients.

use super::error::WeightingError;

/// Relative room for rounding in numbers that were computed elsewhere, perhaps in half precision.
const SLACK: f64 = 1e-3;

/// `K = J J'`, where row `t` of `J` is the gradient of loss `t` by the shared parameters:
/// `K_st = <g_s, g_t>`.
///
/// Symmetric and positive semidefinite, `[T, T]`. It costs `T` backward passes of the shared part,
/// and `T (T + 1) / 2` inner products of gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct Gramian {
    n_tasks: usize,
    /// Row after row.
    products: Vec<f64>,
}

impl Gramian {
    /// From the gradients themselves.
    ///
    /// # Shapes
    ///
    /// - gradients: `T` rows of one length
    ///
    /// # Errors
    ///
    /// [`WeightingError`] if there are none, if their lengths differ, or if an entry is not finite
    /// or so large that its square is not.
    pub fn from_gradients<R: AsRef<[f64]>>(gradients: &[R]) -> Result<Self, WeightingError> {
        let n_tasks = gradients.len();
        let Some(first) = gradients.first() else {
            return Err(WeightingError::NoTasks);
        };
        let expected = first.as_ref().len();
        for (task, gradient) in gradients.iter().enumerate() {
            let found = gradient.as_ref().len();
            if found != expected {
                return Err(WeightingError::GradientLength {
                    task,
                    expected,
                    found,
                });
            }
        }
        let mut products = vec![0.0; n_tasks * n_tasks];
        for row in 0..n_tasks {
            for column in 0..=row {
                let product = dot(gradients[row].as_ref(), gradients[column].as_ref());
                if !product.is_finite() {
                    return Err(WeightingError::NonFiniteProduct {
                        row,
                        column,
                        product,
                    });
                }
                products[row * n_tasks + column] = product;
                products[column * n_tasks + row] = product;
            }
        }
        Ok(Self { n_tasks, products })
    }

    /// From the inner products, row after row.
    ///
    /// The mean of `K_st` and `K_ts` is kept; they may differ by rounding.
    ///
    /// # Shapes
    ///
    /// - products: `[T * T]`
    ///
    /// # Errors
    ///
    /// [`WeightingError`] if there are not `T * T` of them, at least one, or if one is not finite,
    /// breaks the symmetry, is negative on the diagonal, or is larger than the product of the two
    /// norms.
    pub fn from_products(n_tasks: usize, products: &[f64]) -> Result<Self, WeightingError> {
        if n_tasks == 0 {
            return Err(WeightingError::NoTasks);
        }
        if n_tasks.checked_mul(n_tasks) != Some(products.len()) {
            return Err(WeightingError::ProductCount {
                n_tasks,
                found: products.len(),
            });
        }
        for row in 0..n_tasks {
            for column in 0..n_tasks {
                let product = products[row * n_tasks + column];
                if !product.is_finite() {
                    return Err(WeightingError::NonFiniteProduct {
                        row,
                        column,
                        product,
                    });
                }
            }
        }
        let mut symmetric = vec![0.0; n_tasks * n_tasks];
        for row in 0..n_tasks {
            for column in 0..n_tasks {
                let product = products[row * n_tasks + column];
                let mirrored = products[column * n_tasks + row];
                let bound = products[row * n_tasks + row].sqrt()
                    * products[column * n_tasks + column].sqrt();
                let wrong = |reason: &'static str| WeightingError::NotAGramian {
                    row,
                    column,
                    product,
                    reason,
                };
                if row == column && product < 0.0 {
                    return Err(wrong("a squared norm is not negative"));
                }
                // The root of a negative diagonal entry further on is not a number, and passes
                // here; its own turn comes.
                if (product - mirrored).abs() > SLACK * bound {
                    return Err(wrong("the matrix is not symmetric"));
                }
                if product.abs() > (1.0 + SLACK) * bound {
                    return Err(wrong("it is larger than the product of the two norms"));
                }
                symmetric[row * n_tasks + column] = 0.5 * product + 0.5 * mirrored;
            }
        }
        Ok(Self {
            n_tasks,
            products: symmetric,
        })
    }

    /// Number of tasks `T`.
    #[must_use]
    pub fn n_tasks(&self) -> usize {
        self.n_tasks
    }

    /// `<g_row, g_column>`.
    ///
    /// # Panics
    ///
    /// Panics if there are not that many tasks.
    #[must_use]
    pub fn product(&self, row: usize, column: usize) -> f64 {
        assert!(
            row < self.n_tasks && column < self.n_tasks,
            "({row}, {column}) is outside of {0} by {0}",
            self.n_tasks
        );
        self.products[row * self.n_tasks + column]
    }

    /// The squared norms of all gradients together, `sum_t |g_t|²`.
    #[must_use]
    pub fn trace(&self) -> f64 {
        (0..self.n_tasks).map(|t| self.product(t, t)).sum()
    }

    /// `K w`: the inner products of every gradient with `sum_t w_t g_t`.
    ///
    /// # Shapes
    ///
    /// - weights, output: `[T]`
    ///
    /// # Panics
    ///
    /// Panics if there is not one weight a task.
    #[must_use]
    pub fn times(&self, weights: &[f64]) -> Vec<f64> {
        assert_eq!(weights.len(), self.n_tasks, "one weight a task");
        self.products
            .chunks(self.n_tasks)
            .map(|row| dot(row, weights))
            .collect()
    }

    /// `|sum_t w_t g_t|`: the length of the weighted sum of gradients.
    ///
    /// # Shapes
    ///
    /// - weights: `[T]`
    ///
    /// # Panics
    ///
    /// Panics if there is not one weight a task.
    #[must_use]
    pub fn combined_norm(&self, weights: &[f64]) -> f64 {
        // Rounding may leave a sum that cancels a little below 0.
        dot(weights, &self.times(weights)).max(0.0).sqrt()
    }

    /// Every entry times a factor.
    pub(super) fn scaled(&self, factor: f64) -> Self {
        Self {
            n_tasks: self.n_tasks,
            products: self.products.iter().map(|entry| entry * factor).collect(),
        }
    }

    /// `K + shift I`.
    pub(super) fn shifted(&self, shift: f64) -> Self {
        let mut shifted = self.clone();
        for task in 0..self.n_tasks {
            shifted.products[task * self.n_tasks + task] += shift;
        }
        shifted
    }
}

/// Inner product of two slices of one length.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_give_their_inner_products() {
        let gramian = Gramian::from_gradients(&[[1.0, 2.0], [-3.0, 0.5]]).unwrap();
        // 1 + 4 = 5, -3 + 1 = -2, 9 + 0.25 = 9.25
        assert_eq!(
            gramian,
            Gramian::from_products(2, &[5.0, -2.0, -2.0, 9.25]).unwrap()
        );
        assert_eq!(gramian.trace(), 14.25);
        assert_eq!(gramian.times(&[1.0, 2.0]), vec![1.0, 16.5]);
        // g_0 + 2 g_1 = (-5, 3)
        assert!((gramian.combined_norm(&[1.0, 2.0]) - 34.0_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn gradients_of_different_lengths_are_refused() {
        let error = Gramian::from_gradients(&[vec![1.0, 2.0], vec![1.0]]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the gradient of task 1 has 1 entries, that of task 0 has 2"
        );
    }

    #[test]
    fn a_gradient_that_is_not_a_number_is_named() {
        let error = Gramian::from_gradients(&[[1.0], [f64::NAN]]).unwrap_err();
        assert!(matches!(
            error,
            WeightingError::NonFiniteProduct {
                row: 1,
                column: 0,
                ..
            }
        ));
        let error = Gramian::from_gradients(&[[1e200]]).unwrap_err();
        assert!(matches!(error, WeightingError::NonFiniteProduct { .. }));
    }

    #[test]
    fn numbers_that_are_no_inner_products_are_refused() {
        for products in [
            [1.0, 0.5, 0.2, 1.0],
            [1.0, 2.0, 2.0, 1.0],
            [1.0, 0.0, 0.0, -1.0],
            [0.0, 1.0, 1.0, 4.0],
        ] {
            let error = Gramian::from_products(2, &products).unwrap_err();
            assert!(
                matches!(error, WeightingError::NotAGramian { .. }),
                "{products:?}: {error}"
            );
        }
        assert_eq!(
            Gramian::from_products(2, &[1.0]).unwrap_err(),
            WeightingError::ProductCount {
                n_tasks: 2,
                found: 1
            }
        );
        assert_eq!(
            Gramian::from_products(0, &[]).unwrap_err(),
            WeightingError::NoTasks
        );
    }
}
