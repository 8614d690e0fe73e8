//! Vectors turned to their principal axes, so that the first components are the best few.

use nalgebra::{DMatrix, SymmetricEigen};
use ndarray::{Array1, Array2, ArrayView2, Axis};

/// Rows of `vectors`, centred and turned so that the variance of the components falls.
///
/// A rotation: distances between rows do not change. Costs `n d² + 10 d³` or so.
///
/// # Shapes
///
/// - vectors: `[n, d]`, finite
/// - output: `[n, d]`
#[must_use]
pub fn principal_axes(vectors: ArrayView2<'_, f32>) -> Array2<f32> {
    let vectors = vectors.mapv(f64::from);
    let width = vectors.ncols();
    let mean = vectors
        .mean_axis(Axis(0))
        .unwrap_or_else(|| Array1::zeros(width));
    let centered = vectors - &mean;
    let axes = directions(&centered, width);
    centered.dot(&axes).mapv(|value| value as f32)
}

/// The `count` directions of largest variance of centred rows `[n, d]`, as columns of length 1,
/// `[d, count]`; columns beyond the `d` that there are hold zeros.
pub(crate) fn directions(centered: &Array2<f64>, count: usize) -> Array2<f64> {
    let width = centered.ncols();
    let covariance = centered.t().dot(centered);
    let symmetric = DMatrix::from_fn(width, width, |row, column| covariance[[row, column]]);
    let eigen = SymmetricEigen::new(symmetric);
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    Array2::from_shape_fn((width, count), |(component, axis)| {
        order
            .get(axis)
            .map_or(0.0, |&axis| eigen.eigenvectors[(component, axis)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_orthonormal_and_absent_ones_are_zero() {
        let rows = Array2::from_shape_fn((9, 3), |(row, column)| {
            f64::from(((row * 7 + column * 5 + row * row) % 11) as u8) - 5.0
        });
        let centered = &rows - &rows.mean_axis(Axis(0)).unwrap();
        let axes = directions(&centered, 5);
        assert_eq!(axes.dim(), (3, 5));
        let products = axes.t().dot(&axes);
        for ((row, column), product) in products.indexed_iter() {
            let expected = f64::from(u8::from(row == column && row < 3));
            assert!((product - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn variance_falls_and_distances_stay() {
        let vectors = Array2::from_shape_fn((40, 5), |(row, column)| {
            let scale = [1.0, 5.0, 0.2, 3.0, 0.5][column];
            scale * (((row * 31 + column * 17 + row * row * (column + 2)) % 23) as f32 - 11.0)
        });
        let turned = principal_axes(vectors.view());
        let variances = turned.var_axis(Axis(0), 0.0);
        assert!(
            variances
                .windows(2)
                .into_iter()
                .all(|pair| pair[0] >= pair[1]),
            "{variances}"
        );
        let distance = |matrix: &Array2<f32>| {
            let difference = &matrix.row(3) - &matrix.row(17);
            difference.dot(&difference).sqrt()
        };
        assert!((distance(&vectors) - distance(&turned)).abs() < 1e-3);
    }
}
